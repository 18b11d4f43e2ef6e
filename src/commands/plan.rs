//! `plan`: what `apply` would change.

use std::time::Instant;

use crate::cli::{Global, Steps};
use crate::error::Result;
use crate::host::Host;
use crate::run::engine;
use crate::run::report::{Report, Reporter};

/// Observes every step; 2 if something is to be changed and the exit code is to tell so.
///
/// # Errors
/// What `apply` would refuse, but for the packages: apt's lists are not updated for a plan.
pub fn run(global: &Global, steps: &Steps, detailed_exitcode: bool) -> Result<u8> {
    let reporter = global.reporter();
    let mut report = Report::new("plan");
    let result = super::host(global).and_then(|mut host| observe(global, &mut host, steps, &mut report, &reporter));
    report.end(result.as_ref().err(), false);
    if reporter.json || result.is_ok() {
        reporter.end(&report);
    }
    result?;
    Ok(if detailed_exitcode && report.result == "changes" { 2 } else { 0 })
}

/// Fills in a report of what is and what should be.
///
/// # Errors
/// As [`run`].
pub fn observe(
    global: &Global,
    host: &mut Host,
    steps: &Steps,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    let started = Instant::now();
    let prepared = super::prepare(global, host, steps)?;
    prepared.introduce(report, host);
    let found = prepared.steps(steps.phase)?;
    report.step_count = found.len();
    reporter.heading(report);
    super::refuse_machine(host, steps.phase)?;
    engine::ask(host, &found)?;
    engine::refuse(host, &prepared.names(), &found)?;
    let result = engine::observe(host, &found, report, reporter);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    result
}
