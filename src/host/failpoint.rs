//! Places where a test can kill the program as a power cut would.

/// Counts the places passed, and dies by SIGKILL at the one that the environment
/// variable `TITUS_BOOTSTRAP_CRASH_AT` numbers (from 1). Release builds have none.
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
