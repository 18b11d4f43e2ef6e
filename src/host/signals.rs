//! SIGTERM, SIGINT and SIGHUP end the current wait of a run, and the run with it; see `wait`. A second signal ends the
//! process. A SIGHUP is ignored if the terminal is gone: a broken connection must not leave a node half configured.

use std::fs::File;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Kind, Result};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static HANGUP: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static HAD_TERMINAL: OnceLock<bool> = OnceLock::new();

/// Installs handlers: the first of these signals sets a flag and does not end the process. A second one ends it at
/// once, because the kernel may block the process in an open or a read where it cannot check the flag.
///
/// # Errors
/// Fails when the handlers cannot be installed.
pub fn listen() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let (stop, hangup) = (STOP.get_or_init(Arc::default), HANGUP.get_or_init(Arc::default));
    HAD_TERMINAL.get_or_init(has_terminal);
    for (signal, flag) in [(SIGTERM, stop), (SIGINT, stop), (SIGHUP, hangup)] {
        // The order matters: at the first signal, the conditional default must find the flag unset.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
            .map_err(|e| Error::failed("signal handlers cannot be installed").cause(e))?;
    }
    Ok(())
}

/// Whether the process has a controlling terminal that still works (tty(4)).
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// Whether one of the signals arrived.
pub fn interrupted() -> bool {
    let Some(stop) = STOP.get() else { return false };
    let is_set = |flag: &Arc<AtomicBool>| flag.load(Ordering::Relaxed);
    if !is_set(stop) && HANGUP.get().is_some_and(is_set) {
        let is_gone = HAD_TERMINAL.get().is_some_and(|had| *had) && !has_terminal();
        if !is_gone {
            stop.store(true, Ordering::Relaxed);
        }
    }
    is_set(stop)
}

/// Fails when one of the signals arrived.
///
/// # Errors
/// Returns `Interrupted` when a signal arrived.
pub fn check() -> Result<()> {
    if interrupted() { Err(interruption()) } else { Ok(()) }
}

/// The error that ends an interrupted run.
pub fn interruption() -> Error {
    Error::new(Kind::Interrupted, "stopped by a signal").fix("run titus-bootstrap again: it continues where it stopped")
}
