//! `apply`: the lock, every refusal, then the steps.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Prepared, reboot};
use crate::cli::{Apply, Global};
use crate::engine;
use crate::error::{Error, Kind, Result};
use crate::host::fs::Owner;
use crate::host::lock::LOCK;
use crate::host::{Host, signals};
use crate::journal::{self, Journal};
use crate::report::{Report, Reporter};
use crate::settings::Layer;
use crate::step::{self, Step};

/// Runs the role's steps.
///
/// # Errors
/// The first refusal or failure, which the report has told already.
pub fn run(global: &Global, arguments: &Apply) -> Result<u8> {
    if arguments.dry_run {
        return super::plan::run(global, &arguments.steps, false);
    }
    let reporter = global.reporter();
    let mut report = Report::new("apply");
    let started = Instant::now();
    let mut changed = false;
    let result = converge(global, arguments, &mut report, &reporter, started, &mut changed);
    if let Err(error) = &result
        && !changed
    {
        // A refusal, or a failure that no journal tells of.
        report.duration_ms = elapsed_ms(started);
        report.end(Some(error), false);
        if reporter.json {
            reporter.end(&report);
        }
    }
    result.map(|()| 0)
}

fn elapsed_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn converge(
    global: &Global,
    arguments: &Apply,
    report: &mut Report,
    reporter: &Reporter,
    started: Instant,
    reached: &mut bool,
) -> Result<()> {
    refuse_made_up_facts(global)?;
    let mut host = super::host(global)?;
    refuse_without_root(&host)?;
    let from_user_data = is_user_data(arguments.steps.user_data.as_ref());
    let patience =
        arguments.lock_wait.unwrap_or(if from_user_data { Duration::from_secs(15 * 60) } else { Duration::ZERO });
    let _lock = host.lock(LOCK, patience, &mut |line| tracing::info!("{line}"))?;
    let prepared = super::prepare(global, &mut host, &arguments.steps)?;
    prepared.introduce(report, &host);
    let steps = prepared.steps(arguments.steps.phase)?;
    report.step_count = steps.len();
    super::refuse_machine(&host, arguments.steps.phase)?;
    // Until here a signal ends the process, and nothing was changed.
    signals::listen()?;
    engine::ask(&host, &steps)?;
    step::deb::refuse_unpinned(&host, &steps).map_err(|error| error.at(prepared.names()))?;
    engine::refuse(&host, &prepared.names(), &steps)?;
    if let Err(refusal) = refuse_packages(&host, &steps) {
        host.forget_candidates()?;
        return Err(refusal);
    }
    if arguments.save {
        save(global, &host, &prepared)?;
    }

    reporter.heading(report);
    let mut journal = journal_of(&prepared, journal::JOURNAL);
    report.run = journal.run().into();
    status(&host, report, "running")?;
    *reached = true;
    let mut result = engine::begin(&host, &steps)
        .and_then(|()| engine::converge(&host, &steps, &mut journal, report, reporter))
        .and(host.forget_candidates());
    let wished = reboot::is_wished(&host, &prepared.settings, &report.reboot_reasons, from_user_data);
    if result.is_ok() && wished {
        result = reboot::count(&host, &prepared.instance_id(), &report.reboot_reasons);
    }
    report.duration_ms = elapsed_ms(started);
    report.end(result.as_ref().err(), true);
    let kept = keep(&host, &mut journal, report);
    reporter.end(report);
    result.and(kept)?;
    if wished { reboot::reboot(&host, &report.reboot_reasons, from_user_data) } else { Ok(()) }
}

/// A made-up identity never reaches a live node.
pub(super) fn refuse_made_up_facts(global: &Global) -> Result<()> {
    let flag = if global.sample { "--sample" } else { "--facts" };
    if global.root.is_none() && (global.sample || global.facts.is_some()) {
        return Err(Error::new(Kind::Usage, format!("{flag} on the live machine"))
            .cause("facts that are not this instance's must not be written on it")
            .fix(format!("add --root ./node, or ask for a plan: titus-bootstrap plan {flag}")));
    }
    Ok(())
}

pub(super) fn refuse_without_root(host: &Host) -> Result<()> {
    if !host.is_live() || host.may_chown() {
        return Ok(());
    }
    let quoted = |word: std::ffi::OsString| crate::template::shell(&word.to_string_lossy()).unwrap_or_default();
    let words: Vec<String> = std::env::args_os().map(quoted).collect();
    Err(Error::new(Kind::NotPermitted, "only root can do this").fix(format!("sudo {}", words.join(" "))))
}

fn refuse_packages(host: &Host, steps: &[Step]) -> Result<()> {
    let mut sources = Vec::new();
    for step in steps {
        if let step::Kind::AptSource(apt) = &step.kind
            && host.is_live()
        {
            sources.extend(apt.prepare(host)?);
        }
    }
    step::package::refuse_without_candidate(steps, host, &sources)
}

fn save(global: &Global, host: &Host, prepared: &Prepared) -> Result<()> {
    let mut layers = vec![Layer::assignment(&format!("role={}", prepared.role.name))?];
    for assignment in &global.set {
        layers.push(Layer::assignment(assignment)?);
    }
    Layer::save(host, &layers)
}

/// A journal of a run, at `path`.
pub(super) fn journal_of(prepared: &Prepared, path: &'static str) -> Journal {
    let digest = step::hex(&Sha256::digest(prepared.text()));
    let boot_id = prepared.facts.instance.as_ref().map(|instance| instance.boot_id.clone()).unwrap_or_default();
    Journal::new(path, &prepared.names(), digest, &boot_id, &prepared.instance_id())
}

fn keep(host: &Host, journal: &mut Journal, report: &Report) -> Result<()> {
    status(host, report, &report.result)?;
    if !journal.is_open() {
        return Ok(());
    }
    journal.event(host, "ended", None, std::slice::from_ref(&report.result))?;
    journal::keep_last(host, &report.text(), &report.json())
}

fn status(host: &Host, report: &Report, state: &str) -> Result<()> {
    let status = json!({
        "schema_version": report.schema_version,
        "state": state,
        "run": report.run,
        "role": report.role,
        "instance_id": report.instance_id,
        "pid": std::process::id(),
        "time": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        "reboot_required": report.reboot_required,
        "error": report.error,
    });
    host.write(journal::STATUS, format!("{status}\n").as_bytes(), 0o644, Owner::ROOT)
}

/// Whether CONFIG is user data: a script with `#!` and our name, as cloud-init runs it.
fn is_user_data(path: Option<&PathBuf>) -> bool {
    let text = path.and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
    text.starts_with(b"#!") && matches!(crate::userdata::settings(&text), Ok(Some(_)))
}
