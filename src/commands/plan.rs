//! `plan`: what `apply` would change.

use crate::error::Result;
use crate::host::Host;
use crate::prepare::{FactSource, Request};
use crate::run;
use crate::run::report::{Report, Reporter, RunState};

/// The exit code for changes, if the command line asks for it.
pub const CHANGES: u8 = 2;

/// Observes every step. Returns [`CHANGES`] if there are changes and the command line asks for that exit code. With facts of
/// another machine and without --root, this is the plan of a node with nothing on it, and ignores this machine.
///
/// # Errors
/// Fails with whatever `apply` would refuse.
pub fn run(request: &Request, reporter: Reporter, detailed_exitcode: bool) -> Result<u8> {
    let mut report = Report::new("plan");
    let result = match (&request.root, &request.facts) {
        (None, FactSource::Sample | FactSource::File(_) | FactSource::Given(_)) => {
            on_nothing(request, &mut report, &reporter)
        }
        _ => request.host().and_then(|mut host| run::observe(request, &mut host, true, &mut report, &reporter)),
    };
    report.end(result.as_ref().err(), false);
    if reporter.json || result.is_ok() {
        reporter.end(&report);
    }
    result?;
    Ok(code(&report, detailed_exitcode))
}

/// The exit code of a plan without an error.
pub fn code(report: &Report, detailed_exitcode: bool) -> u8 {
    if detailed_exitcode && report.result == RunState::Changes { CHANGES } else { 0 }
}

/// Fills in the report of a node with nothing on it.
///
/// # Errors
/// Fails with whatever `apply` would refuse.
pub fn on_nothing(request: &Request, report: &mut Report, reporter: &Reporter) -> Result<()> {
    let (_directory, mut host) = Host::empty_tree(request.host()?.deadlines)?;
    report.notices.push("without --root this is the plan of a node with nothing on it; it ignores this machine".into());
    run::observe(request, &mut host, false, report, reporter)
}
