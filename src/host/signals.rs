//! SIGTERM, SIGINT and SIGHUP end whatever a run waits for, and the run with it; see `wait`. The second one ends the
//! process.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the first of these signals does not end the process; it is noted. A second one ends it at once, as if
/// nobody listened: the kernel may hold an open or a read that no look at a flag ends.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn listen() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let stop = STOP.get_or_init(Arc::default);
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        // In this order: the first signal finds the flag down.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(stop)))
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
