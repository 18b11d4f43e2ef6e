//! One pass over the steps of a role: take the lock, check for every refusal, run the engine, report the result.

use std::time::{Duration, Instant, SystemTime};

use super::group::{self, Group};
use super::journal::{self, Journal};
use super::partial;
use super::refusals::{
    refuse_bake_without_boot_unit, refuse_daemon_json, refuse_machine, refuse_made_up_facts, refuse_without_root,
};
use super::report::{LifecycleAction, Report, Reporter, RunState, StepState, Wait};
use super::status;
use super::trigger::Trigger;
use super::{BOOT_UNIT, engine, reboot};
use crate::activity;
use crate::activity::event::{self, Event};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::lock::LOCK;
use crate::host::wait::Deadline;
use crate::prepare::{self, FactSource, Layers, Phases, Prepared, Request, Selection, detect, gather};
use crate::settings::Layer;
use crate::step::Phase;
use crate::step::Step;
use crate::step::warm_pool::READY;

/// How often a run from user data tries again while AWS has yet to provide something.
const PAUSE: Duration = Duration::from_secs(10);

const CHECKING: &str = "before the first change: asking systemd, dpkg and apt";

/// What a run needs to know beside its role.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Who started it.
    pub trigger: Trigger,
    /// How long to wait for another run. Default: the trigger's limit.
    pub lock_wait: Option<Duration>,
    /// Whether to save the role and the settings of the command line for the next boot.
    pub save: bool,
}

/// A run and its report.
struct Run<'a> {
    request: &'a Request,
    options: Options,
    reporter: Reporter,
    report: Report,
    started: Instant,
    /// Whether it has the lock. Until then another run may be active, and that run reports the node's state itself.
    locked: bool,
    /// Whether it has reached its first step. Before that it has changed nothing.
    begun: bool,
    /// The instance's Auto Scaling group, once the instance is known.
    group: Option<Group>,
    /// Whether the boot unit's last run ended in a warm pool too.
    waits_again: bool,
    /// What the last run since this boot was waiting for.
    last_wait: Option<Wait>,
    /// Whether a line about the wait is due.
    is_due: bool,
}

/// Runs the role's steps; returns the exit code.
///
/// # Errors
/// Returns the first refusal or failure. The report already has it.
pub fn apply(request: &Request, options: Options, reporter: Reporter) -> Result<u8> {
    loop {
        let host = refuse_made_up_facts(request).and_then(|()| request.host());
        let is_tried_again = match &host {
            Ok(host) if options.trigger.is_patient() && !options.trigger.is_retried() => {
                !host.links_that_enable(BOOT_UNIT)?.is_empty()
            }
            _ => true,
        };
        let code = apply_on(host, request, options, reporter)?;
        // cloud-init runs user data only once. Without a boot unit that tries again, this run has to.
        if code == 0 || is_tried_again {
            return Ok(code);
        }
        Deadline::silent(PAUSE).pause(PAUSE)?;
    }
}

/// Runs the role's steps on a machine, or reports why there is no machine; returns the exit code.
///
/// # Errors
/// Fails as [`apply`] does.
pub fn apply_on(mut host: Result<Host>, request: &Request, options: Options, reporter: Reporter) -> Result<u8> {
    let report = Report { trigger: Some(options.trigger), ..Report::new("apply") };
    let started = report.began.unwrap_or_else(Instant::now);
    let mut run = Run {
        request,
        options,
        reporter,
        report,
        started,
        locked: false,
        begun: false,
        group: None,
        waits_again: false,
        last_wait: None,
        is_due: false,
    };
    let result = match &mut host {
        Ok(host) => run.under_lock(host),
        Err(error) => Err(error.clone()),
    };
    if let (false, Err(error)) = (run.begun, &result) {
        // A refusal, or a failure that is in no journal.
        run.report.set_duration(run.started.elapsed());
        run.report.end(Some(error), false);
    }
    let Report { role, run: name, result: state, duration_ms, .. } = &run.report;
    let (role, name, state) = (role.clone(), name.clone(), state.name().to_owned());
    event::emit(Event::RunFinished { role, run: name, result: state, duration_ms: *duration_ms });
    let Err(error) = result else { return Ok(0) };
    if !run.begun {
        if run.reporter.json {
            run.reporter.end(&run.report);
        }
        if options.trigger.forgives(&error) {
            let why = error.cause.as_deref().unwrap_or_default().replace('\n', "; ");
            tracing::info!("notice: nothing says which role this node has, so this run does nothing ({why})");
            return Ok(0);
        }
        run.banner();
    }
    if run.report.wait.is_some() {
        // The banner has already said everything.
        return Ok(error.kind.exit_code());
    }
    // Whether cloud-init may still provide what was missing from the boot unit's run.
    let may_follow = || options.trigger.is_retried() && host.as_ref().is_ok_and(reboot::awaits_cloud_init);
    // This comes after all other reports, because the group may end the instance soon after it.
    let informs_group = options.trigger.informs_group() && !request.selection.is_partial();
    if run.locked && informs_group && (run.begun || !may_follow()) && group::is_final(&error) {
        let group = run.group.or_else(|| Group::after_early_failure(request, options.trigger));
        if let Some(mut group) = group {
            group.give_up();
        }
    }
    Err(error.in_run(&run.report.role, &run.report.run))
}

impl Run<'_> {
    /// Prints one line for a console, where nobody reads the report.
    fn banner(&self) {
        if let (Some(wait), Some(error)) = (&self.report.wait, &self.report.error) {
            if self.is_due {
                tracing::info!("notice: {}", crate::secrets::masked(&wait.line(error)));
            }
            return;
        }
        let Some(details_command) = self.options.trigger.details_command() else { return };
        let line = crate::secrets::masked(&self.report.banner(details_command));
        match &self.report.error {
            // Such a run comes each minute, perhaps for days.
            None if self.waits_again && self.report.count(StepState::Changed) == 0 => {}
            None => tracing::info!("{line}"),
            // The journal gets the error itself, as the last message. This line is for the console.
            Some(_) if crate::terminal::is_read_by_journal() => tracing::info!("{line}"),
            Some(_) => tracing::error!("{line}"),
        }
    }

    fn under_lock(&mut self, host: &mut Host) -> Result<()> {
        refuse_without_root(host)?;
        let trigger = self.options.trigger;
        let lock_wait = self.options.lock_wait.unwrap_or_else(|| trigger.lock_wait());
        let _lock = host.lock(LOCK, lock_wait, &mut |line| {
            tracing::info!("{line}");
            host.notify_systemd(line);
        })?;
        self.locked = true;
        host.notify_systemd(gather::ASKING);
        let result = self.converge(host);
        // A signal may have ended a long wait for another process's apt. The status then shows how this run ended.
        if let Err(error) = &result
            && !self.begun
        {
            self.report.set_duration(self.started.elapsed());
            self.report.end(Some(error), false);
            if trigger.is_retried() || error.kind == Kind::Interrupted || self.report.wait.is_some() {
                let state = if trigger.forgives(error) { RunState::NoRole } else { self.report.result };
                status::write(host, &self.report, state);
            } else {
                status::note_refusal(host, &self.report);
            }
        }
        host.notify_systemd(format!("{} {}", self.report.role, self.report.result.name()).trim());
        result
    }

    fn is_patient(&self, host: &Host) -> bool {
        self.options.trigger.is_patient() && host.is_young()
    }

    /// Turns an error that AWS may still resolve on a young machine into exit code 75, so that the run is tried again.
    fn wait_if_young(&mut self, host: &Host, error: Error) -> Error {
        let Some(awaits) = error.awaits.filter(|_| self.is_patient(host)) else { return error };
        let (wait, is_due) = Wait::continued(self.last_wait.as_ref(), awaits, host.deadlines.launch, SystemTime::now());
        (self.report.wait, self.is_due) = (Some(wait), is_due);
        Error { kind: Kind::TemporaryFailure, ..error }
    }

    /// At boot, a machine that is not an instance and has no role either reports the missing role.
    fn prefer_missing_role(&self, host: &Host, error: Error) -> Error {
        let is_possible = self.options.trigger == Trigger::Boot && error.kind == Kind::Unavailable;
        if !is_possible || self.request.facts != FactSource::Instance || gather::reachable().is_ok() {
            return error;
        }
        let role = Layers::read(self.request, host)
            .and_then(|layers| layers.merged(None))
            .and_then(|merged| detect::role(self.request.role(), &merged, None, None));
        role.err().filter(|other| other.kind == Kind::NoRole).unwrap_or(error)
    }

    fn converge(&mut self, host: &mut Host) -> Result<()> {
        let (request, options) = (self.request, self.options);
        let last = status::read(host).inspect_err(journal::warn).ok().flatten();
        self.last_wait = last.as_ref().and_then(|last| last.wait.clone());
        // Once a run has reached its steps, later runs do not repeat its messages.
        self.reporter.quiet |= self.last_wait.is_some() && last.as_ref().is_some_and(|last| !last.run.is_empty());
        let began = Instant::now();
        let prepared = prepare::prepare(request, host).and_then(|prepared| {
            let half_known = group::half_known(&prepared.facts).filter(|_| self.is_patient(host));
            half_known.map_or(Ok(prepared), Err)
        });
        let prepared = prepared.map_err(|error| {
            let error = self.prefer_missing_role(host, error);
            self.wait_if_young(host, error)
        })?;
        self.report.note("facts", gather::ASKING, None, began);
        let (began, activity) = (Instant::now(), activity::begin(CHECKING));
        let warm = prepared.warm_pool().is_some();
        let was_warm = options.trigger.is_retried() && last.as_ref().is_some_and(status::Status::was_in_warm_pool);
        let notified = last.and_then(|last| last.lifecycle_action);
        if request.selection.is_partial() {
            // Only whole runs notify the group. A partial run keeps the record of the last notification.
            self.report.lifecycle_action = notified;
        } else {
            let mut group = Group::new(host, &prepared.facts, &prepared.settings, options.trigger, request.phases);
            group.left_pool = was_warm && !warm;
            group.is_done = notified.is_some();
            self.group = Some(group);
        }
        self.waits_again = was_warm && warm;
        self.reporter.quiet |= self.waits_again;
        let report = &mut self.report;
        report.introduce(&prepared, host);
        let all = prepared.steps(request.phases)?;
        let chosen = partial::choose(&prepared, request.phases, &request.selection, &all)?;
        let steps = chosen_steps(&all, chosen.as_ref(), report);
        refuse_machine(host, request.phases)?;
        refuse_bake_without_boot_unit(host, request.phases, &steps)?;
        refuse_daemon_json(host, &steps)?;
        engine::ask(host, &all)?;
        let mut journal = Journal::for_role(&prepared, journal::JOURNAL, Some(options.trigger));
        journal.began = self.started;
        report.run = journal.run().into();
        let role = prepared.names();
        let refused = engine::refuse_online(host, &role, &steps).and_then(|()| {
            engine::look_before_changes(host, &role, &steps)
                .or_else(|refusal| host.forget_candidates().and(Err(refusal)))
        });
        refused.inspect_err(|refusal| {
            if let Err(error) = engine::note_refused(host, &steps) {
                journal::warn(&error);
            }
            if refusal.kind == Kind::Interrupted {
                journal.event(host, "interrupted", None, std::slice::from_ref(&refusal.what));
            }
        })?;
        report.notices.extend(notice_of_next_boot(request, options, host, &prepared, &steps)?);
        if options.save {
            save_settings(request, host, &prepared)?;
        }
        prepare::cloud::remember(host, &prepared.facts)?;
        if request.asks_instance() && prepared.role.has_phase(Phase::Keep) {
            prepared.merged.hand_down(host, &prepared.role.name)?;
        }

        drop(activity);
        report.note("checks", "before the first change", None, began);
        let (role, run, steps_of_run) = (report.role.clone(), report.run.clone(), steps.len());
        event::emit(Event::RunStarted { role, run, steps: steps_of_run });
        self.reporter.heading(report);
        status::write(host, report, RunState::Running);
        self.begun = true;
        let may_reboot = reboot::is_wanted(host, &prepared.settings, options.trigger);
        let instance = prepared.instance_id();
        let reboots =
            |reasons: &[String]| may_reboot && !reasons.is_empty() && reboot::has_tries_left(host, &instance, reasons);
        let mut result = engine::begin(host, &steps)
            .and_then(|()| engine::converge(host, &steps, &reboots, &mut journal, report, &self.reporter))
            .and(host.forget_candidates());
        if let Some(chosen) = &chosen {
            report.notices.extend(chosen.notices(host, &prepared, &report.steps));
        }
        let will_reboot = may_reboot && !report.reboot_reasons.is_empty();
        if result.is_ok() && will_reboot {
            result = reboot::count(host, &instance, &report.reboot_reasons);
        }
        // If a reboot follows, the run after it notifies the group.
        if let (Ok(()), false, Some(group)) = (&result, will_reboot, &mut self.group) {
            result = group.finish(host, &prepared);
            self.report.lifecycle_action = group.is_done.then_some(LifecycleAction::Continue);
            result = result.map_err(|error| self.wait_if_young(host, error));
        }
        self.report.set_duration(self.started.elapsed());
        self.report.end(result.as_ref().err(), true);
        save_records(host, &mut journal, &self.report);
        self.reporter.end(&self.report);
        self.banner();
        result?;
        if will_reboot {
            return reboot::reboot(host, &self.report.reboot_reasons, options.trigger);
        }
        if warm && host.is_live() && options.trigger.is_retried() { group::try_again(host) } else { Ok(()) }
    }
}

/// Returns a notice for an operator whose node has services that wait for a run at each boot.
fn notice_of_next_boot(
    request: &Request,
    options: Options,
    host: &Host,
    prepared: &Prepared,
    steps: &[Step],
) -> Result<Option<String>> {
    let is_ready = |step: &Step| step.work().file() == Some(READY);
    if !host.is_live() || options.trigger == Trigger::Boot || !steps.iter().any(is_ready) {
        return Ok(None);
    }
    if host.links_that_enable(BOOT_UNIT)?.is_empty() {
        return Ok(Some(format!(
            "{BOOT_UNIT} is not enabled: after a reboot the role's services wait until titus-bootstrap is run again"
        )));
    }
    let is_known = options.save || detect::role(None, &prepared.merged, Some(&prepared.facts), None).is_ok();
    Ok((!is_known && request.role().is_some()).then(|| {
        "the next boot will not know this role, and the role's services will wait for it: keep it with --save"
            .to_owned()
    }))
}

fn save_settings(request: &Request, host: &Host, prepared: &Prepared) -> Result<()> {
    let mut layers = vec![Layer::assignment(&format!("role={}", prepared.role.name))?];
    for assignment in &request.set {
        layers.push(Layer::assignment(assignment)?);
    }
    Layer::save(host, &layers)
}

/// Saves the run's status and records. They are evidence only, so a failure to save them does not fail the run.
fn save_records(host: &Host, journal: &mut Journal, report: &Report) {
    status::write(host, report, report.result);
    if journal.is_open() {
        journal.end(host, report);
        journal::keep_last(host, &report.text(), &report.json());
    }
}

/// Fills in a report of the current and the intended state, and changes nothing. With `asks_apt` it also asks apt, as a run
/// does, whether the packages to install are available.
///
/// # Errors
/// Fails with whatever [`apply`] would refuse.
pub fn observe(
    request: &Request,
    host: &mut Host,
    asks_apt: bool,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    let started = Instant::now();
    let prepared = prepare::prepare(request, host)?;
    let Request { phases, selection, .. } = request;
    let result = observe_prepared(&prepared, (*phases, selection), host, asks_apt, report, reporter);
    report.set_duration(started.elapsed());
    result
}

/// Does the same for a role that is already prepared.
///
/// # Errors
/// Fails as [`observe`] does.
pub fn observe_prepared(
    prepared: &Prepared,
    (phases, selection): (Phases, &Selection),
    host: &Host,
    asks_apt: bool,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    report.introduce(prepared, host);
    let all = prepared.steps(phases)?;
    let chosen = partial::choose(prepared, phases, selection, &all)?;
    let steps = chosen_steps(&all, chosen.as_ref(), report);
    reporter.heading(report);
    refuse_machine(host, phases)?;
    refuse_bake_without_boot_unit(host, phases, &steps)?;
    refuse_daemon_json(host, &steps)?;
    engine::ask(host, &all)?;
    engine::refuse(host, &prepared.names(), &steps)?;
    if asks_apt {
        report.notices.extend(engine::plan_packages(host, &steps)?);
    }
    engine::observe(host, &steps, report, reporter)?;
    if let Some(chosen) = &chosen {
        report.notices.extend(chosen.notices(host, prepared, &report.steps));
    }
    Ok(())
}

/// Returns the steps of a run, and puts their number in its report. Queries to systemd and dpkg still cover all steps of the role,
/// because what a container of a step that was left out can write is just as dangerous.
fn chosen_steps(all: &[Step], chosen: Option<&partial::Chosen>, report: &mut Report) -> Vec<Step> {
    let steps = chosen.map_or(all, |chosen| &chosen.steps).to_vec();
    report.partial = chosen.map(|chosen| chosen.partial.clone());
    report.step_count = steps.len();
    steps
}
