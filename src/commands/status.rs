//! `status`: the last run, and any current drift.

use std::time::Duration;

use crate::error::Result;
use crate::host::wait::Deadline;
use crate::prepare::Request;
use crate::run::report::{Report, Reporter, RunState, say, say_json};
use crate::run::{self, BOOT_UNIT, journal, status};

const PAUSE: Duration = Duration::from_millis(200);

/// Reports the last run; 1 if it failed or something drifts.
///
/// # Errors
/// When the node cannot be looked at; `Interrupted` when a signal came while it waited.
pub fn run(request: &Request, reporter: Reporter, wait: bool) -> Result<u8> {
    let mut host = request.host()?;
    // A run has deadlines of its own.
    let mut deadline = Deadline::new("the run at work", Duration::MAX);
    // The boot unit first: between its start and its lock nobody holds that.
    while wait && (host.is_under_way(BOOT_UNIT)? || host.lock_holder()?.is_some()) {
        deadline.pause(PAUSE)?;
    }
    let read = status::read(&host);
    let is_known = read.is_ok();
    let last = read.inspect_err(journal::warn).ok().flatten();
    let holder = host.lock_holder()?;
    // A run that says that it is at work, and holds no lock, was killed.
    let state = last.as_ref().map(|last| match (last.state, &holder) {
        (RunState::Running, None) => RunState::Killed,
        (state, _) => state,
    });
    if !reporter.json && !reporter.quiet {
        match (&holder, &last, state) {
            (Some(holder), _, _) => say(&format!("a run is at work: {holder}\n")),
            (None, Some(last), Some(state)) => {
                say(&format!("last run: {} at {}, role {}\n", state.name(), last.time, last.role));
            }
            _ if !is_known => say("the result of the last run is unknown\n"),
            _ => say("no run since this boot\n"),
        }
        let events = journal::events(&host, journal::JOURNAL).inspect_err(journal::warn).unwrap_or_default();
        if let Some(last) = events.last() {
            say(&format!("last change: {} ({} {})\n", last.time, last.event, last.step.clone().unwrap_or_default()));
        }
    }
    let mut report = Report::new("status");
    let result = run::observe(request, &mut host, false, &mut report, &reporter);
    report.end(result.as_ref().err(), false);
    if reporter.json {
        let document = serde_json::json!({
            "schema_version": report.schema_version, "last_run": last, "last_state": state.map_or("", RunState::name), "now": report,
        });
        say_json(&document);
    } else if result.is_ok() {
        reporter.end(&report);
    }
    result?;
    Ok(u8::from(state.is_some_and(RunState::is_bad) || report.result != RunState::InSync))
}
