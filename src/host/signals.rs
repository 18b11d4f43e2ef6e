//! SIGTERM, SIGINT and SIGHUP end whatever a run waits for, and the run with it; see `wait`.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on these signals no longer end the process; they are noted.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = STOP.get_or_init(Arc::default);
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(stop))
            .map_err(|e| Error::failed("signal handlers cannot be installed").cause(e))?;
    }
    Ok(())
}

/// Whether one of them came.
pub fn interrupted() -> bool {
    STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed))
}

/// Fails when one of them came.
///
/// # Errors
/// `Interrupted`.
pub fn check() -> Result<()> {
    if interrupted() { Err(interruption()) } else { Ok(()) }
}

/// The error that ends an interrupted run.
pub fn interruption() -> Error {
    Error::new(Kind::Interrupted, "stopped by a signal").fix("run titus-bootstrap again: it goes on where it stopped")
}
