//! Places where a test can kill the program as a power cut would.

/// Counts its calls, and kills the process with SIGKILL at the call whose number (from 1) is in the environment
/// variable `TITUS_BOOTSTRAP_CRASH_AT`. It does nothing in release builds.
pub fn failpoint() {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU32, Ordering};
        static PASSED: AtomicU32 = AtomicU32::new(0);
        let passed = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if std::env::var("TITUS_BOOTSTRAP_CRASH_AT").is_ok_and(|at| at == passed.to_string()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        }
    }
}
