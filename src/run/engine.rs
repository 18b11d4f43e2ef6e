//! The loop: observe, converge, observe again. The command only chooses the mode.

use crate::error::{Error, Kind, Result};
use crate::host::failpoint::failpoint;
use crate::host::{Host, signals};
use crate::run::journal::{self, Journal};
use crate::run::report::{Report, Reporter, StepReport};
use crate::settings::SAVED;
use crate::step::{self, Planned, State, Step};

/// Looks at every step and changes nothing.
///
/// # Errors
/// When a step cannot be looked at; it is named.
pub fn observe(host: &Host, steps: &[Step], report: &mut Report, reporter: &Reporter) -> Result<()> {
    // What earlier steps will have written by the time a later one is reached.
    let mut planned = Planned::new();
    for (n, step) in steps.iter().enumerate() {
        let state = step.observe(host, &planned).map_err(|error| at(error, report, n, steps))?;
        if matches!(state, State::Changes(_)) {
            planned.extend(step.work().planned(host, &planned).map_err(|error| at(error, report, n, steps))?);
        }
        record(report, reporter, step, &state, false);
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
    for (n, step) in steps.iter().enumerate() {
        failpoint();
        let held_back = reboots(&report.reboot_reasons)
            .then(|| step.clone().put_off("the node reboots first: it joins after that"));
        let step = held_back.as_ref().unwrap_or(step);
        host.tell_systemd(&format!("{}: step {}/{} {}", report.role, n + 1, steps.len(), step.id));
        converge_step(host, steps, step, journal, report, reporter).map_err(|error| {
            let event = if error.kind == Kind::Interrupted { "interrupted" } else { "failed" };
            journal.event(host, event, Some(&step.id), std::slice::from_ref(&error.what));
            record_failure(report, reporter, step, &error);
            let mut error = at(error, report, n, steps);
            // The kind of a refusal says that nothing was changed; here something may have been.
            if !matches!(error.kind, Kind::Interrupted | Kind::NotYet) {
                error.kind = Kind::Failed;
            }
            error
                .fix
                .get_or_insert_with(|| "mend the cause, and run titus-bootstrap again: it goes on from here".into());
            error
        })?;
    }
    failpoint();
    host.reload_units_if_noted()?;
    for (n, step) in steps.iter().enumerate() {
        step.work().stays(host).map_err(|error| {
            let event = if error.kind == Kind::Interrupted { "interrupted" } else { "failed" };
            journal.event(host, event, Some(&step.id), std::slice::from_ref(&error.what));
            at(error, report, n, steps)
        })?;
    }
    record_running(host, steps)
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
    let changes = match &state {
        State::Changes(changes) => changes,
        State::Blocked(why) => {
            return Err(Error::failed(why.clone()).fix("if phases were left out, run titus-bootstrap without --phase"));
        }
        _ => {
            record(report, reporter, step, &state, false);
            return Ok(());
        }
    };
    let lines: Vec<String> = changes.iter().map(|change| change.line.clone()).collect();
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
            let left: Vec<&str> = left.iter().map(|change| change.line.as_str()).collect();
            let changed = host.changed_since_written(&step.work().paths())?;
            let fix = if changed.is_empty() {
                "`titus-bootstrap plan` shows what is left; fix its cause and run titus-bootstrap again".to_owned()
            } else {
                let changed = changed.join(", ");
                format!(
                    "something else changed {changed} after this run wrote it: stop that, and run titus-bootstrap again"
                )
            };
            return Err(Error::failed("did not converge").cause(format!("still to do: {}", left.join("; "))).fix(fix));
        }
        State::Blocked(why) => return Err(Error::failed("did not converge").cause(why)),
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
    step::refuse_without_candidate(host, steps)
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

fn at(error: Error, report: &Report, n: usize, steps: &[Step]) -> Error {
    let id = steps.get(n).map_or("", |step| step.id.as_str());
    error.at(format!("{}: step {}/{} {id}", report.role, n + 1, steps.len()))
}

fn record(report: &mut Report, reporter: &Reporter, step: &Step, state: &State, changed: bool) {
    if let State::AfterReboot(why) = state {
        report.reboot_reasons.push(why.clone());
    }
    let made = StepReport::new(step, state, changed);
    reporter.step(report, &made);
    report.steps.push(made);
}

fn record_failure(report: &mut Report, reporter: &Reporter, step: &Step, error: &Error) {
    let made = StepReport::failed(step, error);
    reporter.step(report, &made);
    report.steps.push(made);
}
