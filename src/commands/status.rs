//! `status`: how the last run ended, any current drift, and what comes next.

use std::path::Path;
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::{Owner, write_named};
use crate::host::wait::Deadline;
use crate::prepare::Request;
use crate::run::headline::{self, Known, short};
use crate::run::metrics;
use crate::run::refusals::refuse_without_root;
use crate::run::report::{Report, Reporter, RunState, say, say_document};
use crate::run::status::Status;
use crate::run::timeline::Timeline;
use crate::run::{self, BOOT_UNIT, RETRY_TIMER, journal, status};
use crate::secrets::masked;

const PAUSE: Duration = Duration::from_millis(200);

/// How soon after a run that waits for AWS the next run must start: a minute until the timer elapses, and some slack.
const NEXT: Duration = Duration::from_secs(90);

/// The longest time to wait for instance metadata and AWS's APIs. The headline is already printed, and the reader wants the
/// rest soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// The output of `status --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The contents of status.json; null: there was no run since this boot.
    last_run: Option<Status>,
    /// How that run ended, or that it is running; empty: there was no run.
    #[schemars(with = "String")]
    last_state: &'static str,
    /// The current state; null with `--last`.
    #[serde(flatten)]
    current: Option<CurrentState>,
}

/// The current state of the node.
#[derive(Debug, Serialize, JsonSchema)]
struct CurrentState {
    /// The report of a plan.
    now: Report,
    /// Seconds until the boot unit tries again; null: it will not.
    next_try_seconds: Option<u64>,
    /// Failed units; null: unknown.
    failed_units: Option<Vec<String>>,
}

fn last_state(state: Option<RunState>) -> &'static str {
    state.map_or("", RunState::name)
}

/// Whether the last run waits for what AWS has yet to provide, and another run will follow.
fn is_tried_again(host: &Host) -> bool {
    let last = status::read(host).ok().flatten().filter(|last| last.wait.is_some());
    let ended = last.and_then(|last| humantime::parse_rfc3339(&last.time).ok());
    ended.and_then(|ended| SystemTime::now().duration_since(ended).ok()).is_some_and(|age| age < NEXT)
}

/// Prints the parts of the last run that changed something with their times, or writes them to a file as SVG.
///
/// # Errors
/// Fails with 77 on a live machine without root, and when there is no such run or the file cannot be written.
pub fn timeline(request: &Request, reporter: Reporter, svg: Option<&Path>) -> Result<u8> {
    let host = request.host()?;
    refuse_without_root(&host)?;
    let timeline = Timeline::from_last_run(&journal::events(&host, journal::JOURNAL)?).ok_or_else(|| {
        Error::failed("no run has changed anything here: there is no timeline")
            .cause(format!("{} has no run", journal::JOURNAL))
            .fix("see what a run would change: titus-bootstrap plan")
    })?;
    if let Some(path) = svg {
        write_named(path, timeline.svg().as_bytes())?;
    }
    if reporter.json {
        say_document(&timeline);
    } else if svg.is_none() {
        say(&timeline.text());
    }
    Ok(0)
}

/// Reports the last run. Returns 1 if it failed or something drifts. `on_disk`: reads only what is on disk. `metrics`: the
/// file to write for node_exporter.
///
/// # Errors
/// Fails with 77 on a live machine without root, because only root may read the records. Fails also when the node cannot be
/// examined or the file of metrics cannot be written; with `Interrupted` after a signal during a wait.
pub fn run(request: Request, reporter: Reporter, wait: bool, on_disk: bool, metrics: Option<&str>) -> Result<u8> {
    let request = Request { patience: Some(PATIENCE), ..request };
    let mut host = request.host()?;
    refuse_without_root(&host)?;
    // No limit is needed here, because the run has its own.
    let mut deadline = Deadline::new("the run at work", Duration::MAX);
    // The boot unit comes first, because between its start and its lock nothing holds the lock.
    while wait && (host.is_under_way(BOOT_UNIT)? || host.lock_holder()?.is_some() || is_tried_again(&host)) {
        deadline.pause(PAUSE)?;
    }
    let read = status::read(&host);
    let is_unreadable = read.is_err();
    let last = read.inspect_err(journal::warn).ok().flatten();
    let holder = host.lock_holder()?;
    let events = journal::events(&host, journal::JOURNAL).inspect_err(journal::warn).unwrap_or_default();
    let is_masked = last.is_none() && !on_disk && host.unit(BOOT_UNIT).is_ok_and(|unit| unit.load == "masked");
    let known = Known { last: last.as_ref(), is_unreadable, is_masked, holder: holder.as_deref(), events: &events };
    let state = known.state();
    let to_people = !reporter.json && !reporter.quiet;
    let print = |line: &str| {
        if to_people {
            say(&format!("{line}\n"))
        }
    };
    headline::lines(&known, SystemTime::now()).iter().for_each(|line| print(line));

    let reboot = last.as_ref().filter(|last| last.reboot_required).map(|last| last.reboot_reasons.join("; "));
    let print_reboot = || {
        if let Some(reasons) = &reboot {
            print(format!("a reboot is due: {reasons}").trim_end_matches(": "));
        }
    };
    if on_disk {
        print_reboot();
        if reporter.json {
            say_document(Document { last_state: last_state(state), last_run: last, current: None });
        }
        return Ok(u8::from(state.is_some_and(RunState::is_bad)));
    }

    let mut report = Report::new("status");
    let result = run::observe(&request, &mut host, false, &mut report, &reporter);
    report.end(result.as_ref().err(), false);
    match &result {
        Ok(()) if to_people => reporter.end(&report),
        Ok(()) => {}
        Err(error) => print(&format!("current drift is unknown: {}", masked(&error.what))),
    }
    if !report.reboot_required {
        print_reboot();
    }
    if let Some(path) = metrics {
        let found = metrics::Found {
            last: last.as_ref().zip(state),
            now: result.is_ok().then_some(&report),
            is_reboot_due: report.reboot_required || reboot.is_some(),
        };
        host.write(path, metrics::text(&found, SystemTime::now()).as_bytes(), 0o644, Owner::ROOT).map_err(
            |mut error| {
                error.fix.get_or_insert_with(|| {
                    "give --metrics the path of a file, in a directory that only root can write to".into()
                });
                error
            },
        )?;
    }
    let retry = host.next_elapse(RETRY_TIMER);
    if let Some(left) = retry {
        let awaits = last.as_ref().and_then(|last| last.wait.as_ref());
        let awaits = awaits.map_or(String::new(), |wait| format!(", waiting for {}", wait.awaits));
        print(&format!("next try: in {} ({RETRY_TIMER}){awaits}", short(left)));
    }
    let failed = host.failed_units();
    match &failed {
        Ok(failed) if !failed.is_empty() => {
            print(&format!("failed units: {0}; see: systemctl status {1}", failed.join(", "), failed.join(" ")));
        }
        Ok(_) => {}
        Err(error) => print(&format!("whether units failed is unknown: {}", masked(&error.what))),
    }
    if reporter.json {
        let is_bad = report.result != RunState::InSync;
        let current =
            CurrentState { now: report, next_try_seconds: retry.map(|left| left.as_secs()), failed_units: failed.ok() };
        say_document(Document { last_state: last_state(state), last_run: last, current: Some(current) });
        result?;
        return Ok(u8::from(state.is_some_and(RunState::is_bad) || is_bad));
    }
    result?;
    Ok(u8::from(state.is_some_and(RunState::is_bad) || report.result != RunState::InSync))
}
