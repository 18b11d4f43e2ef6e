//! `status`: the last run, and what drifts now.

use std::time::Duration;

use crate::cli::{Global, Phase, Steps};
use crate::error::Result;
use crate::run::journal;
use crate::run::report::{Report, say};

/// Tells of the last run; 1 if it failed or something drifts.
///
/// # Errors
/// When the node cannot be looked at.
pub fn run(global: &Global, wait: bool) -> Result<u8> {
    let mut host = super::host(global)?;
    // The boot unit first: between its start and its lock nobody holds that.
    while wait && (host.is_under_way(super::BOOT_UNIT)? || host.lock_holder()?.is_some()) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let reporter = global.reporter();
    let status: serde_json::Value =
        host.read(journal::STATUS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let text = |key: &str| status.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    // A run that says that it is at work, and holds no lock, was killed.
    let killed = text("state") == "running" && host.lock_holder()?.is_none();
    let state = if killed { "killed".to_owned() } else { text("state") };
    if !reporter.json && !reporter.quiet {
        match host.lock_holder()? {
            Some(holder) => say(&format!("a run is at work: {holder}\n")),
            None if status.is_null() => say("no run since this boot\n"),
            None => say(&format!("last run: {state} at {}, role {}\n", text("time"), text("role"))),
        }
        if let Some(last) = journal::events(&host, journal::JOURNAL)?.last() {
            say(&format!("last change: {} ({} {})\n", last.time, last.event, last.step.clone().unwrap_or_default()));
        }
    }
    let mut report = Report::new("status");
    let steps = Steps { phase: Phase::All, user_data: None };
    let result = super::plan::observe(global, &mut host, &steps, &mut report, &reporter);
    report.end(result.as_ref().err(), false);
    if reporter.json {
        let document = serde_json::json!({
            "schema_version": report.schema_version, "last_run": status, "last_state": state, "now": report,
        });
        say(&format!("{document:#}\n"));
    } else if result.is_ok() {
        reporter.end(&report);
    }
    result?;
    let ended_badly = ["failed", "interrupted", "killed", "refused"].contains(&state.as_str());
    Ok(u8::from(ended_badly || report.result != "in_sync"))
}
