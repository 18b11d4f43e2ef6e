//! `keep`: the steps of phase `keep`, for their timer.

use std::time::Instant;

use crate::error::Result;
use crate::prepare::Request;
use crate::run::keep::keep;
use crate::run::report::{Report, Reporter, StepState, say, say_json};

/// Checks the steps and fixes what differs. Prints nothing when there is nothing to do.
///
/// # Errors
/// Fails with 75 when a step cannot be inspected now; with 1 when a step failed.
pub fn run(request: &Request, reporter: Reporter) -> Result<u8> {
    let started = Instant::now();
    let mut report = Report::new("keep");
    let result = keep(request, &mut report, reporter);
    report.set_duration(started.elapsed());
    report.end(result.as_ref().err(), report.count(StepState::Changed) > 0);
    if reporter.json {
        say_json(&report);
    } else if !reporter.quiet {
        for step in report.steps.iter().filter(|step| step.state == StepState::Changed) {
            let lines: Vec<&str> = step.changes.iter().map(|change| change.line.as_str()).collect();
            say(&format!("{}: {}\n", step.id, lines.join("; ")));
        }
    }
    result.map(|()| 0)
}
