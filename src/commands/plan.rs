//! `plan`: what `apply` would change.

use crate::error::Result;
use crate::prepare::Request;
use crate::run;
use crate::run::report::{Report, Reporter, RunState};

/// The exit code for changes, where it is to say so.
pub const CHANGES: u8 = 2;

/// Observes every step; [`CHANGES`] if there are changes and the exit code is to say so.
///
/// # Errors
/// What `apply` would refuse.
pub fn run(request: &Request, reporter: Reporter, detailed_exitcode: bool) -> Result<u8> {
    let mut report = Report::new("plan");
    let result = request.host().and_then(|mut host| run::observe(request, &mut host, true, &mut report, &reporter));
    report.end(result.as_ref().err(), false);
    if reporter.json || result.is_ok() {
        reporter.end(&report);
    }
    result?;
    Ok(if detailed_exitcode && report.result == RunState::Changes { CHANGES } else { 0 })
}
