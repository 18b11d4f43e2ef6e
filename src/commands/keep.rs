//! `keep`: the steps of phase `keep`, for their timer.
//!
//! It asks neither the instance nor its tags, and says nothing when there is nothing to do.

use std::time::{Duration, Instant};

use super::apply::{journal_of, refuse_made_up_facts, refuse_without_root};
use crate::cli::{Global, Phase as PhaseArgument, Steps};
use crate::error::{Kind, Result};
use crate::host::lock::KEEP_LOCK;
use crate::host::signals;
use crate::run::engine;
use crate::run::journal::KEEP_JOURNAL;
use crate::run::report::{Report, Reporter, say};
use crate::step::Phase;

/// Looks, and makes so what is not.
///
/// # Errors
/// 75 when a step could not be looked at now; 1 when one failed.
pub fn run(global: &Global) -> Result<u8> {
    let started = Instant::now();
    let mut report = Report::new("keep");
    let result = converge(global, &mut report);
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report.end(result.as_ref().err(), report.count("changed") > 0);
    if global.json {
        say(&format!("{}\n", report.json()));
    } else if !global.quiet {
        for step in report.steps.iter().filter(|step| step.state == "changed") {
            let lines: Vec<&str> = step.changes.iter().map(|change| change.line.as_str()).collect();
            say(&format!("{}: {}\n", step.id, lines.join("; ")));
        }
    }
    result.map(|()| 0)
}

fn converge(global: &Global, report: &mut Report) -> Result<()> {
    refuse_made_up_facts(global)?;
    let mut host = super::host(global)?;
    refuse_without_root(&host)?;
    let _lock = match host.lock(KEEP_LOCK, Duration::ZERO, &mut |_| {}) {
        // Another one does the same.
        Err(error) if error.kind == Kind::TemporaryFailure => return Ok(()),
        lock => lock?,
    };
    // As for an image: no instance is asked.
    let prepared = super::prepare(global, &mut host, &Steps { phase: PhaseArgument::Bake, user_data: None })?;
    prepared.introduce(report, &host);
    let steps = prepared.role.steps(&prepared.renderer, &[Phase::Keep])?;
    report.step_count = steps.len();
    signals::listen()?;
    let silent = Reporter { quiet: true, ..global.reporter() };
    engine::observe(&host, &steps, report, &silent)?;
    if report.count("changes") == 0 {
        return Ok(());
    }
    report.steps.clear();
    let mut journal = journal_of(&prepared, KEEP_JOURNAL);
    report.run = journal.run().into();
    engine::converge(&host, &steps, &mut journal, report, &silent)?;
    journal.event(&host, "ended", None, &[])
}
