//! The loop: observe, converge, observe again. The command only chooses the mode.

use std::borrow::Cow;
use std::time::Duration;

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
/// When a step cannot be looked at; it is named.
pub fn observe(host: &Host, steps: &[Step], report: &mut Report, reporter: &Reporter) -> Result<()> {
    let mut ahead = Ahead::default();
    for (n, step) in steps.iter().enumerate() {
        let state = look_at(host, step, &mut ahead).map_err(|error| at(error, &report.role, n, steps))?;
        record(report, reporter, step, &state, false);
    }
    Ok(())
}

/// What earlier steps will have done by the time a later one is reached.
#[derive(Default)]
struct Ahead {
    files: Planned,
    paths: Vec<String>,
}

/// Of a step, before anything is changed: what stands in its way is then a refusal.
fn look_at(host: &Host, step: &Step, ahead: &mut Ahead) -> Result<State> {
    let look = |ahead: &mut Ahead| {
        let state = step.observe(host, &ahead.files)?;
        if matches!(state, State::Changes(_)) {
            let paths = step.work().paths();
            // A directory that an earlier step puts right is not judged as it is now.
            let is_below = |path: &String, above: &String| path.strip_prefix(above).is_some_and(|r| r.starts_with('/'));
            let as_it_is = paths.iter().filter(|path| !ahead.paths.iter().any(|above| is_below(path, above)));
            as_it_is.into_iter().try_for_each(|path| host.refuse_unwritable(path))?;
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

/// Looks at every step before the first one is changed, as a plan does: what cannot be looked at would end the run later,
/// with half of the role changed. What only waits is not asked.
///
/// # Errors
/// When a step cannot be looked at; it is named.
pub fn look(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    let mut ahead = Ahead::default();
    for (n, step) in steps.iter().enumerate().filter(|(_, step)| !step.work().only_waits()) {
        look_at(host, step, &mut ahead).map_err(|error| at(error, role, n, steps))?;
    }
    Ok(())
}

/// Makes every step so. `reboots`: whether the run will reboot for these reasons; then nothing joins a cluster before.
///
/// # Errors
/// At the first step that fails; what was done until then stays, and the next run goes on from there.
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
        let held_back = reboots(&report.reboot_reasons)
            .then(|| step.clone().put_off("the node reboots first: it joins after that"));
        let step = held_back.map_or(Cow::Borrowed(step), Cow::Owned);
        host.tell_systemd(&format!("{}: step {}/{} {}", report.role, n + 1, steps.len(), step.id));
        if let Err(error) = converge_step(host, steps, &step, journal, report, reporter) {
            let failed = StepReport::failed(&step, &error);
            reporter.step(report, &failed);
            report.steps.push(failed);
            return Err(failure(host, error, journal, report, n, steps));
        }
        done.push(step);
    }
    failpoint();
    host.reload_units_if_noted()?;
    for (n, step) in done.iter().enumerate() {
        step.work().stays(host).map_err(|error| failure(host, error, journal, report, n, steps))?;
    }
    if journal.is_open() {
        look_at_all_again(host, &done, journal, report)?;
    }
    record_running(host, steps)
}

/// Looks at all steps once more, after the last change of a run. What is undone is done again once, as the next run would
/// do it: a package's script may have changed a file back, or a service may have ended with one that it needs. What is
/// undone after that as well, something undoes each time.
fn look_at_all_again(host: &Host, steps: &[Cow<'_, Step>], journal: &mut Journal, report: &mut Report) -> Result<()> {
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
                    tracing::warn!("step {} {}, and is done again ({why})", step.id, undone.what);
                    let mut again = Report { role: report.role.clone(), ..Report::default() };
                    let silent = Reporter { json: false, quiet: true, verbose: false, colour: false };
                    converge_step(host, &bare, step, journal, &mut again, &silent)?;
                    if let (Some(made), Some(reported)) = (again.steps.pop(), report.steps.get_mut(n)) {
                        *reported = made;
                    }
                    Ok(())
                }
                None => Ok(()),
            });
            if let Err(error) = looked {
                if let Some(reported) = report.steps.get_mut(n) {
                    *reported = StepReport::failed(step, &error);
                }
                return Err(failure(host, error, journal, report, n, &bare));
            }
        }
        if !is_undone {
            return Ok(());
        }
    }
    Ok(())
}

/// How a run ends at a step.
fn failure(host: &Host, error: Error, journal: &mut Journal, report: &Report, n: usize, steps: &[Step]) -> Error {
    let event = if error.kind == Kind::Interrupted { "interrupted" } else { "failed" };
    journal.event(host, event, steps.get(n).map(|step| step.id.as_str()), std::slice::from_ref(&error.what));
    let mut error = at(error, &report.role, n, steps);
    // The kind of a refusal says that nothing was changed; here something may have been.
    if !matches!(error.kind, Kind::Interrupted | Kind::NotYet) {
        error.kind = Kind::Failed;
    }
    error.fix.get_or_insert_with(|| "fix the cause, and run titus-bootstrap again: it goes on from here".into());
    error
}

/// What is undone of a step, and by whom. What is waited for is waited for again.
fn look_again(host: &Host, steps: &[Step], n: usize, report: &Report) -> Result<Option<Error>> {
    signals::check()?;
    let Some(step) = steps.get(n) else { return Ok(None) };
    let now = match step.observe(host, &Planned::new())? {
        State::InSync(_) | State::AfterReboot(_) | State::Deferred(_) => return Ok(None),
        State::Waits(_) => return step.work().converge(host).map(|()| None),
        State::Blocked(why) => why,
        State::Changes(changes) => told(&changes),
    };
    let has_changed = |other: &Step| {
        report.steps.iter().any(|reported| reported.id == other.id && reported.state == StepState::Changed)
    };
    let ids = |is_it: &dyn Fn(usize, &Step) -> bool| -> Vec<&str> {
        let them = steps.iter().enumerate().filter(|(at, other)| *at != n && is_it(*at, other));
        them.map(|(_, other)| other.id.as_str()).collect()
    };
    let rivals = ids(&|_, other| disagree(step, other));
    let suspects = ids(&|at, other| at > n && has_changed(other));
    let (who, fix) = if !rivals.is_empty() {
        (
            format!("step {} wants something else of it", rivals.join(", ")),
            "leave it to one of them: see the role file, docs/roles.md",
        )
    } else if !suspects.is_empty() {
        (
            format!("changed after it: {}", suspects.join(", ")),
            "see whether one of them, or what it starts, changes it back; then run titus-bootstrap again",
        )
    } else {
        (
            "no later step changed anything".into(),
            "see what else on this node changes it back; then run titus-bootstrap again",
        )
    };
    let error = Error::failed("was as it should be, and is not at the end of the run");
    Ok(Some(error.cause(format!("still to do: {now}\n{who}")).fix(fix)))
}

/// Whether two steps want different things of one file, unit or package.
fn disagree(one: &Step, other: &Step) -> bool {
    let theirs = other.work().claims();
    one.work().claims().iter().any(|own| theirs.iter().any(|their| their.thing == own.thing && their.wish != own.wish))
}

fn told(changes: &[Change]) -> String {
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
    let nothing = Planned::new();
    let state = step.observe(host, &nothing)?;
    let lines: Vec<String> = match &state {
        State::Changes(changes) => changes.iter().map(|change| change.line.clone()).collect(),
        State::Waits(why) => vec![why.clone()],
        State::Blocked(why) => {
            return Err(Error::failed(why.clone()).fix("if phases were left out, run titus-bootstrap without --phase"));
        }
        _ => {
            record(report, reporter, step, &state, false);
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
            return Err(Error::failed("did not converge").cause(format!("still to do: {}", told(left))).fix(fix));
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
    reporter.step(report, &made);
    report.steps.push(made);
    Ok(())
}

/// Notes what containers write, and asks systemd and dpkg once for everything. The answers are fetched where they are needed.
///
/// # Errors
/// When they cannot be asked.
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

/// Refuses what steps know to be wrong, before the first of them changes anything.
///
/// # Errors
/// The first refusal.
pub fn refuse(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    refuse_each(role, steps, |step| step.work().refuse(host))?;
    step::refuse_overridden(host, steps).map_err(|error| error.at(role))
}

/// The same, and what only the network shows: for a run that is about to change the machine.
///
/// # Errors
/// The first refusal.
pub fn refuse_online(host: &Host, role: &str, steps: &[Step]) -> Result<()> {
    refuse_each(role, steps, |step| step.work().refuse_online(host))?;
    refuse(host, role, steps)?;
    step::refuse_without_candidate(host, steps, true)
}

/// What a plan asks apt, in lists of our own that are removed again; why it was not asked, if it should have been.
///
/// # Errors
/// As a run's: 69 when apt has no candidate for a package that is to be installed, 75 when its lists could not be had.
pub fn plan_packages(host: &Host, steps: &[Step]) -> Result<Option<String>> {
    if !host.is_live() || !step::needs_apt(host, steps)? {
        return Ok(None);
    }
    let not_asked = |why: &str| Ok(Some(format!("apt was not asked whether it has what is to be installed: {why}")));
    if !host.may_chown() {
        return not_asked("only root can ask it");
    }
    // The lists lie where a run has its own.
    let _lock = match host.lock(LOCK, Duration::ZERO, &mut |_| {}) {
        Err(error) if error.kind == Kind::TemporaryFailure => return not_asked("a run is at work"),
        lock => lock?,
    };
    let asked = step::refuse_without_candidate(host, steps, false);
    host.forget_candidates().and(asked).map(|()| None)
}

/// Notes what a refused run saw and a later one cannot see any more.
///
/// # Errors
/// When systemd cannot be asked, or a note cannot be written.
pub fn note_refused(host: &Host, steps: &[Step]) -> Result<()> {
    if host.is_live() { step::note_overridden(host, steps) } else { Ok(()) }
}

fn refuse_each(role: &str, steps: &[Step], refuse: impl Fn(&Step) -> Result<()>) -> Result<()> {
    steps.iter().try_for_each(|step| refuse(step).map_err(|error| error.at(format!("{role}: {}", step.id))))
}

/// Begins a run, under its lock: removes what a killed one left beside files that steps, or we, write. Then
/// begins what is slow and harmless: downloads of debs, and pulls as soon as the Docker Engine answers.
///
/// # Errors
/// When the system refuses.
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

fn at(error: Error, role: &str, n: usize, steps: &[Step]) -> Error {
    let id = steps.get(n).map_or("", |step| step.id.as_str());
    error.at(format!("{role}: step {}/{} {id}", n + 1, steps.len()))
}

fn record(report: &mut Report, reporter: &Reporter, step: &Step, state: &State, changed: bool) {
    if let State::AfterReboot(why) = state {
        report.reboot_reasons.push(why.clone());
    }
    let made = StepReport::new(step, state, changed);
    reporter.step(report, &made);
    report.steps.push(made);
}
