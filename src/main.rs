//! titus-bootstrap: exit codes and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    titus_bootstrap::host::fs::accounts::confine_look_ups();
    titus_bootstrap::host::set_umask();
    // Without a provider the first HTTP client panics. A second installation would fail, but nothing else installs one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    ExitCode::from(titus_bootstrap::app::run(std::env::args_os().collect()))
}
