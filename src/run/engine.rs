//! The loop: observe, converge, observe again. The command only chooses the mode.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::activity::event::{self, Event};
use crate::activity::{self, millis};
use crate::error::{Error, Kind, Result};
use crate::host::failpoint::failpoint;
use crate::host::lock::LOCK;
use crate::host::{Host, signals};
use crate::run::journal::{self, Journal};
use crate::run::report::{Report, Reporter, StepReport, StepState};
use crate::settings::SAVED;
use crate::step::{self, Change, Planned, State, Step};

/// Looks at every step and changes nothing.
///
/// # Errors
/// Fails when a step cannot be inspected. The error names the step.
pub fn observe(host: &Host, steps: &[Step], report: &mut Report, reporter: &Reporter) -> Result<()> {
    let mut ahead = Ahead::default();
    for (n, step) in steps.iter().enumerate() {
        let began = Instant::now();
        let _activity = activity::begin(&progress("looking at ", n, steps));
        let state = look_at(host, step, &mut ahead).map_err(|error| locate(error, &report.role, n, steps))?;
        record(report, reporter, step, &state, began);
    }
    Ok(())
}

/// A step's place and name for progress messages: "step 7/23 docker".
fn progress(before: &str, n: usize, steps: &[Step]) -> String {
    format!("{before}step {}/{} {}", n + 1, steps.len(), steps.get(n).map_or("", |step| &step.id))
}

/// What earlier steps will have done by the time the run reaches a later one.
#[derive(Default)]
struct Ahead {
    files: Planned,
    paths: Vec<String>,
}

/// Looks at a step before anything is changed. A failure at this point is a refusal.
fn look_at(host: &Host, step: &Step, ahead: &mut Ahead) -> Result<State> {
    let look = |ahead: &mut Ahead| {
        let state = step.observe(host, &ahead.files)?;
        if matches!(state, State::Changes(_)) {
            let paths = step.work().paths();
            // If an earlier step changes a directory above a path, the path's current state does not matter.
            let is_below = |path: &String, above: &String| path.strip_prefix(above).is_some_and(|r| r.starts_with('/'));
            let unplanned = paths.iter().filter(|path| !ahead.paths.iter().any(|above| is_below(path, above)));
            unplanned.into_iter().try_for_each(|path| host.refuse_unwritable(path))?;
            ahead.paths.extend(paths);
            ahead.files.extend(step.work().planned(host, &ahead.files)?);
        }
        Ok(state)
    };
    look(ahead).map_err(|error: Error| match error.kind {
        Kind::Failed => Error { kind: Kind::Unavailable, ..error },
        _ => error,
    })
}

/// Looks at every step before the run changes the first one, as a plan does. A step that cannot be inspected would otherwise
/// end the run later, with half of the role changed. Steps that only wait are skipped.
///
/// # Errors
/// Fails when a step cannot be inspected. The error names the step.
pub fn look_before_changes(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    let mut ahead = Ahead::default();
    for (n, step) in steps.iter().enumerate().filter(|(_, step)| !step.work().only_waits()) {
        let _activity = activity::begin(&progress("before the first change: looking at ", n, steps));
        look_at(host, step, &mut ahead).map_err(|error| locate(error, role, n, steps))?;
    }
    Ok(())
}

/// Converges every step. `reboots` returns whether the run will reboot for these reasons. If so, nothing joins a cluster
/// before the reboot.
///
/// # Errors
/// Fails at the first step that fails. Earlier changes stay, and the next run continues from there.
pub fn converge(
    host: &Host,
    steps: &[Step],
    reboots: &dyn Fn(&[String]) -> bool,
    journal: &mut Journal,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    let mut done: Vec<Cow<'_, Step>> = Vec::with_capacity(steps.len());
    for (n, step) in steps.iter().enumerate() {
        failpoint();
        let held_back =
            reboots(&report.reboot_reasons).then(|| step.clone().defer("the node reboots first: it joins after that"));
        let step = held_back.map_or(Cow::Borrowed(step), Cow::Owned);
        let words = progress("", n, steps);
        host.notify_systemd(&format!("{}: {words}", report.role));
        let began = Instant::now();
        let _activity = activity::begin(&words);
        let (number, all) = (n + 1, steps.len());
        event::emit(Event::StepStarted { step: step.id.clone(), number, steps: all });
        let converged = converge_step(host, steps, &step, journal, report, reporter);
        if let Err(error) = &converged {
            add(report, reporter, StepReport::failed(&step, error), began);
        }
        if let Some(StepReport { state, duration_ms, .. }) = report.steps.last() {
            let (state, duration_ms) = (state.name().to_owned(), *duration_ms);
            event::emit(Event::StepFinished { step: step.id.clone(), number, steps: all, state, duration_ms });
        }
        converged.map_err(|error| failure(host, error, journal, report, n, steps))?;
        done.push(step);
    }
    failpoint();
    host.reload_units_if_noted()?;
    check_that_units_stay(host, steps, &done, journal, report)?;
    if journal.is_open() {
        let began = Instant::now();
        let activity = activity::begin("looking at all steps again");
        let has_repeated = look_at_all_again(host, &done, journal, report)?;
        drop(activity);
        report.note("checks", "all steps again", None, began);
        // What was repeated may have started services.
        if has_repeated {
            check_that_units_stay(host, steps, &done, journal, report)?;
        }
    }
    record_running(host, steps)
}

/// Checks that the services that this run started do not exit a moment later.
fn check_that_units_stay(
    host: &Host,
    steps: &[Step],
    done: &[Cow<'_, Step>],
    journal: &mut Journal,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    let _activity = activity::begin("checking that started services stay up");
    for (n, step) in done.iter().enumerate() {
        step.work().stays(host).map_err(|error| failure_at_last(host, error, journal, report, n, steps))?;
    }
    report.note("checks", "started services stay up", None, began);
    Ok(())
}

/// Looks at all steps once more after the last change of a run, and converges once those that were undone, as the next run
/// would: a package's script may have changed a file back, or a service may have ended together with one that it needs. A
/// step that is undone a second time is an error, because something undoes it each time. Returns whether it converged any.
fn look_at_all_again(host: &Host, steps: &[Cow<'_, Step>], journal: &mut Journal, report: &mut Report) -> Result<bool> {
    let bare: Vec<Step> = steps.iter().map(|step| step.as_ref().clone()).collect();
    for is_last in [false, true] {
        let mut is_undone = false;
        host.forget_units();
        host.ask_for_units()?;
        for (n, step) in bare.iter().enumerate() {
            let looked = look_again(host, &bare, n, report).and_then(|undone| match undone {
                Some(undone) if is_last => Err(undone),
                Some(undone) => {
                    is_undone = true;
                    let why = undone.cause.as_deref().unwrap_or_default().replace('\n', "; ");
                    tracing::warn!("step {} {}: the run does it again ({why})", step.id, undone.what);
                    let mut again = Report::default();
                    let silent = Reporter { json: false, quiet: true, verbose: false, colour: false };
                    converge_step(host, &bare, step, journal, &mut again, &silent)?;
                    if let (Some(made), Some(reported)) = (again.steps.pop(), report.steps.get_mut(n)) {
                        reported.repeat(made);
                    }
                    Ok(())
                }
                None => Ok(()),
            });
            looked.map_err(|error| failure_at_last(host, error, journal, report, n, &bare))?;
        }
        if !is_undone {
            return Ok(is_last);
        }
    }
    Ok(true)
}

/// Like [`failure`], after the last step: the report has a state of each step.
fn failure_at_last(
    host: &Host,
    error: Error,
    journal: &mut Journal,
    report: &mut Report,
    n: usize,
    steps: &[Step],
) -> Error {
    if let (Some(step), Some(reported)) = (steps.get(n), report.steps.get_mut(n)) {
        *reported = StepReport { duration_ms: reported.duration_ms, ..StepReport::failed(step, &error) };
    }
    failure(host, error, journal, report, n, steps)
}

/// Records how the run ended at a step, and returns the error with its place and fix.
fn failure(host: &Host, error: Error, journal: &mut Journal, report: &Report, n: usize, steps: &[Step]) -> Error {
    let event = if error.kind == Kind::Interrupted { "interrupted" } else { "failed" };
    journal.event(host, event, steps.get(n).map(|step| step.id.as_str()), std::slice::from_ref(&error.what));
    let mut error = locate(error, &report.role, n, steps);
    // The kind of a refusal says that nothing was changed, but here something may have been.
    if !matches!(error.kind, Kind::Interrupted | Kind::NotYet) {
        error.kind = Kind::Failed;
    }
    error.fix.get_or_insert_with(|| "fix the cause, and run titus-bootstrap again: it continues from here".into());
    error
}

/// Returns what was undone of a step, and what may have undone it. A step that waits waits again.
fn look_again(host: &Host, steps: &[Step], n: usize, report: &Report) -> Result<Option<Error>> {
    signals::check()?;
    let Some(step) = steps.get(n) else { return Ok(None) };
    let now = match step.observe(host, &Planned::new())? {
        State::InSync(_) | State::AfterReboot(_) | State::Deferred(_) => return Ok(None),
        State::Waits(_) => return step.work().converge(host).map(|()| None),
        State::Blocked(why) => why,
        State::Changes(changes) => join_lines(&changes),
    };
    let changed_later = report.steps.iter().skip(n + 1).filter(|later| later.state == StepState::Changed);
    let changed_later: Vec<&str> = changed_later.map(|later| later.id.as_str()).collect();
    let (who, fix) = if changed_later.is_empty() {
        (
            "no later step changed anything".into(),
            "see whether it ends by itself (its log says why), or what else on this node changes it back; then run titus-bootstrap again",
        )
    } else {
        (
            format!("changed after it: {}", changed_later.join(", ")),
            "see whether one of them, or what it starts, changes it back; then run titus-bootstrap again",
        )
    };
    let error = Error::failed("was in sync, but no longer is at the end of the run");
    Ok(Some(error.cause(format!("still to do: {now}\n{who}")).fix(fix)))
}

fn join_lines(changes: &[Change]) -> String {
    changes.iter().map(|change| change.line.as_str()).collect::<Vec<_>>().join("; ")
}

fn record_running(host: &Host, steps: &[Step]) -> Result<()> {
    if host.is_live() { steps.iter().try_for_each(|step| step.work().record_running(host)) } else { Ok(()) }
}

fn converge_step(
    host: &Host,
    steps: &[Step],
    step: &Step,
    journal: &mut Journal,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    signals::check()?;
    let began = Instant::now();
    let nothing = Planned::new();
    let state = step.observe(host, &nothing)?;
    let lines: Vec<String> = match &state {
        State::Changes(changes) => changes.iter().map(|change| change.line.clone()).collect(),
        State::Waits(why) => vec![why.clone()],
        State::Blocked(why) => {
            return Err(Error::failed(why.clone())
                .fix("if phases or steps were left out, run titus-bootstrap without --phase, --only and --skip"));
        }
        _ => {
            record(report, reporter, step, &state, began);
            return Ok(());
        }
    };
    if !journal.is_open() {
        record_running(host, steps)?;
    }
    journal.event(host, "started", Some(&step.id), &lines);
    failpoint();
    tracing::debug!(step = %step.id, "converging");
    step.work().converge(host)?;
    failpoint();
    let after = step.observe(host, &nothing)?;
    match &after {
        State::Changes(left) => {
            let changed = host.changed_since_written(&step.work().paths())?;
            let fix = if changed.is_empty() {
                "`titus-bootstrap plan` shows what is left; fix its cause and run titus-bootstrap again".to_owned()
            } else {
                let changed = changed.join(", ");
                format!(
                    "something else changed {changed} after this run wrote it: stop that, and run titus-bootstrap again"
                )
            };
            return Err(Error::failed("did not converge").cause(format!("still to do: {}", join_lines(left))).fix(fix));
        }
        State::Blocked(why) | State::Waits(why) => return Err(Error::failed("did not converge").cause(why)),
        State::InSync(_) | State::AfterReboot(_) | State::Deferred(_) => {}
    }
    journal.event(host, "finished", Some(&step.id), &[]);
    let mut made = StepReport::new(step, &state, true);
    made.note = StepReport::new(step, &after, false).note;
    if let State::AfterReboot(why) = after {
        report.reboot_reasons.push(why);
    }
    add(report, reporter, made, began);
    Ok(())
}

/// Notes what containers write, and asks systemd and dpkg once about everything that the steps need. Answers are cached.
///
/// # Errors
/// Fails when systemd or dpkg does not respond.
pub fn ask(host: &Host, steps: &[Step]) -> Result<()> {
    host.share(steps.iter().flat_map(|step| step.work().shared()));
    for step in steps {
        step.work().ask(host)?;
    }
    if host.is_live() {
        host.ask_for_units()?;
        host.ask_for_packages()?;
    }
    Ok(())
}

/// Refuses what the steps know to be wrong, before the first step changes anything.
///
/// # Errors
/// Returns the first refusal.
pub fn refuse(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    refuse_each(role, steps, |step| step.work().refuse(host))?;
    step::refuse_overridden(host, steps).map_err(|error| error.at(role))
}

/// Does the same and also checks what only the network shows. For a run that is about to change the machine.
///
/// # Errors
/// Returns the first refusal.
pub fn refuse_online(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    refuse_each(role, steps, |step| step.work().refuse_online(host))?;
    refuse(host, role, steps)?;
    step::refuse_without_candidate(host, steps, true)
}

/// Asks apt what a plan needs to know, using temporary package lists. Returns the reason if it could not ask.
///
/// # Errors
/// Fails as a run does: 69 when apt has no candidate for a package to install, 75 when its lists are not available.
pub fn plan_packages(host: &Host, steps: &[Step]) -> Result<Option<String>> {
    if !host.is_live() || !step::needs_apt(host, steps)? {
        return Ok(None);
    }
    let not_asked =
        |why: &str| Ok(Some(format!("the plan did not ask apt whether it has the packages to install: {why}")));
    if !host.may_chown() {
        return not_asked("only root can ask it");
    }
    // The temporary lists are at the same place as those of a run.
    let _lock = match host.lock(LOCK, Duration::ZERO, &mut |_| {}) {
        Err(error) if error.kind == Kind::TemporaryFailure => return not_asked("a run is at work"),
        lock => lock?,
    };
    let asked = step::refuse_without_candidate(host, steps, false);
    host.forget_candidates().and(asked).map(|()| None)
}

/// Records what a refused run saw and a later run can no longer see.
///
/// # Errors
/// Fails when systemd does not respond, or a note cannot be written.
pub fn note_refused(host: &Host, steps: &[Step]) -> Result<()> {
    if host.is_live() { step::note_overridden(host, steps) } else { Ok(()) }
}

fn refuse_each(role: &str, steps: &[Step], refuse: impl Fn(&Step) -> Result<()>) -> Result<()> {
    steps.iter().try_for_each(|step| {
        refuse(step).map_err(|error| error.at(format!("{role}: {}", named(step))).in_step(&step.id))
    })
}

/// A step's name for messages: its id, and its drop-ins if it has any.
fn named(step: &Step) -> String {
    let Step { id, drop_ins, .. } = step;
    drop_ins.as_ref().map_or_else(|| id.clone(), |places| format!("{id} ({places})"))
}

/// Begins a run that has the lock: removes temporary files that a killed run left. Then starts what is slow and harmless:
/// downloads of debs, and pulls as soon as the Docker Engine responds.
///
/// # Errors
/// Fails when the system refuses.
pub fn begin(host: &Host, steps: &[Step]) -> Result<()> {
    let own = ["/run/titus-bootstrap/x", journal::JOURNAL, journal::LAST_LOG, SAVED].map(str::to_owned);
    let paths: Vec<String> = steps.iter().flat_map(|step| step.work().paths()).collect();
    host.sweep(paths.iter().map(String::as_str))?;
    if let Err(error) = host.sweep(own.iter().map(String::as_str)) {
        journal::warn(&error);
    }
    if !host.is_live() {
        return Ok(());
    }
    let mut fetches = Vec::new();
    for step in steps {
        fetches.extend(step.work().fetches(host)?);
    }
    host.begin_fetches(&fetches)
}

fn locate(error: Error, role: &str, n: usize, steps: &[Step]) -> Error {
    let error = steps.get(n).map_or(error.clone(), |step| error.in_step(&step.id));
    let step = steps.get(n).map_or_else(String::new, named);
    error.at(format!("{role}: step {}/{} {step}", n + 1, steps.len()))
}

fn record(report: &mut Report, reporter: &Reporter, step: &Step, state: &State, began: Instant) {
    if let State::AfterReboot(why) = state {
        report.reboot_reasons.push(why.clone());
    }
    add(report, reporter, StepReport::new(step, state, false), began);
}

/// Adds a completed step to the report, with its time, and prints it.
fn add(report: &mut Report, reporter: &Reporter, step: StepReport, began: Instant) {
    let step = StepReport { duration_ms: millis(began.elapsed()), ..step };
    reporter.step(report, &step);
    report.note(step.kind, &step.id, Some(step.state), began);
    report.steps.push(step);
}
