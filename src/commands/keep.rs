//! `keep`: the steps of phase `keep`, for their timer.

use std::time::Instant;

use crate::error::Result;
use crate::prepare::Request;
use crate::run::keep::keep;
use crate::run::report::{Report, Reporter, StepState, say, say_json};

/// Looks, and changes what is not as it should be; says nothing when nothing is to be done.
///
/// # Errors
/// 75 when a step could not be looked at now; 1 when one failed.
pub fn run(request: &Request, reporter: Reporter) -> Result<u8> {
    let started = Instant::now();
    let mut report = Report::new("keep");
    let result = keep(request, &mut report, reporter);
    report.took(started.elapsed());
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
