//! One pass over the steps of a role: the lock, every refusal, then the engine, and how it ended.

use std::time::{Duration, Instant};

use super::group::{self, Group};
use super::journal::{self, Journal};
use super::refusals::{refuse_daemon_json, refuse_machine, refuse_made_up_facts, refuse_without_root};
use super::report::{LifecycleAction, Report, Reporter, RunState, StepState};
use super::status;
use super::trigger::Trigger;
use super::{BOOT_UNIT, engine, reboot};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::lock::LOCK;
use crate::prepare::{self, Layers, Phases, Prepared, Request, detect};
use crate::settings::Layer;
use crate::step::Phase;
use crate::step::Step;
use crate::step::warm_pool::READY;

/// What a run is asked for beside its role.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Who started it.
    pub trigger: Trigger,
    /// How long to wait for another run; none: as its trigger does.
    pub lock_wait: Option<Duration>,
    /// Whether the role and the settings of the command line are kept for the next boot.
    pub save: bool,
}

/// A run, and what is reported of it.
struct Run<'a> {
    request: &'a Request,
    options: Options,
    reporter: Reporter,
    report: Report,
    started: Instant,
    /// Whether it has the lock. Another run is at work before that, and says itself what becomes of the node.
    locked: bool,
    /// Whether it came to its first step. Before that nothing is changed.
    begun: bool,
    /// The instance's Auto Scaling group, once the instance is known.
    group: Option<Group>,
    /// Whether the boot unit's last run ended in a warm pool too.
    waits_again: bool,
}

/// Runs the role's steps.
///
/// # Errors
/// The first refusal or failure, which the report has already.
pub fn apply(request: &Request, options: Options, reporter: Reporter) -> Result<()> {
    let host = refuse_made_up_facts(request).and_then(|()| request.host());
    apply_on(host, request, options, reporter)
}

/// Runs the role's steps on a machine, or reports why there is none.
///
/// # Errors
/// As [`apply`].
pub fn apply_on(mut host: Result<Host>, request: &Request, options: Options, reporter: Reporter) -> Result<()> {
    let report = Report::new("apply");
    let started = Instant::now();
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
    };
    let result = match &mut host {
        Ok(host) => run.under_lock(host),
        Err(error) => Err(error.clone()),
    };
    let Err(error) = &result else { return Ok(()) };
    if !run.begun {
        // A refusal, or a failure that no journal has.
        run.report.took(run.started.elapsed());
        run.report.end(Some(error), false);
        if run.reporter.json {
            run.reporter.end(&run.report);
        }
        if options.trigger.forgives(error) {
            let why = error.cause.as_deref().unwrap_or_default().replace('\n', "; ");
            tracing::info!("notice: nothing says which role this node has, and nothing is done ({why})");
            return Ok(());
        }
        run.banner();
    }
    // Whether cloud-init may still bring what the boot unit's run lacked.
    let may_follow = || options.trigger.is_retried() && host.as_ref().is_ok_and(reboot::awaits_cloud_init);
    // When all is said: the instance may have little time left then.
    if run.locked && options.trigger.informs_group() && (run.begun || !may_follow()) && group::is_final(error) {
        let group = run.group.or_else(|| Group::of_early_failure(request, options.trigger));
        if let Some(mut group) = group {
            group.give_up();
        }
    }
    result
}

impl Run<'_> {
    /// The line that a console shows, where nobody reads the report.
    fn banner(&self) {
        let Some(look_further) = self.options.trigger.look_further() else { return };
        let line = crate::secrets::masked(&self.report.banner(look_further));
        match &self.report.error {
            // Each minute, perhaps for days.
            None if self.waits_again && self.report.count(StepState::Changed) == 0 => {}
            None => tracing::info!("{line}"),
            Some(_) => tracing::error!("{line}"),
        }
    }

    fn under_lock(&mut self, host: &mut Host) -> Result<()> {
        refuse_without_root(host)?;
        let trigger = self.options.trigger;
        let lock_wait = self.options.lock_wait.unwrap_or_else(|| trigger.lock_wait());
        let _lock = host.lock(LOCK, lock_wait, &mut |line| {
            tracing::info!("{line}");
            host.tell_systemd(line);
        })?;
        self.locked = true;
        host.tell_systemd("asking the instance and its metadata service");
        let result = self.converge(host);
        // A signal may have ended a long wait for another one's apt: who asks what became of the run finds this.
        if let Err(error) = &result
            && !self.begun
            && (trigger.is_retried() || error.kind == Kind::Interrupted)
        {
            self.report.end(Some(error), false);
            let state = if trigger.forgives(error) { RunState::NoRole } else { self.report.result };
            status::write(host, &self.report, state);
        }
        host.tell_systemd(format!("{} {}", self.report.role, self.report.result.name()).trim());
        result
    }

    /// At boot, on a machine that is no instance and has no role either, the role is what is reported.
    fn or_no_role(&self, host: &Host, error: Error) -> Error {
        if self.options.trigger != Trigger::Boot || error.kind != Kind::Unavailable {
            return error;
        }
        let role = Layers::read(self.request, host)
            .and_then(|layers| layers.merged(None))
            .and_then(|merged| detect::role(self.request.role(), &merged, None, None));
        role.err().filter(|other| other.kind == Kind::NoRole).unwrap_or(error)
    }

    fn converge(&mut self, host: &mut Host) -> Result<()> {
        let (request, options) = (self.request, self.options);
        let prepared = prepare::prepare(request, host).map_err(|error| self.or_no_role(host, error))?;
        let warm = prepared.warm_pool().is_some();
        let last = status::read(host).inspect_err(journal::warn).ok().flatten();
        let was_warm =
            options.trigger.is_retried() && last.as_ref().is_some_and(|last| last.state == RunState::WarmPool);
        let mut group = Group::new(host, &prepared.facts, &prepared.settings, options.trigger, request.phases);
        group.left_pool = was_warm && !warm;
        group.is_done = last.is_some_and(|last| last.lifecycle_action.is_some());
        self.group = Some(group);
        self.waits_again = was_warm && warm;
        self.reporter.quiet |= self.waits_again;
        let report = &mut self.report;
        report.introduce(&prepared, host);
        let steps = prepared.steps(request.phases)?;
        report.step_count = steps.len();
        refuse_machine(host, request.phases)?;
        refuse_daemon_json(host, &steps)?;
        engine::ask(host, &steps)?;
        let mut journal = Journal::for_role(&prepared, journal::JOURNAL);
        report.run = journal.run().into();
        let role = prepared.names();
        let refused = engine::refuse_online(host, &role, &steps).and_then(|()| {
            engine::look(host, &role, &steps).or_else(|refusal| host.forget_candidates().and(Err(refusal)))
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
            save(request, host, &prepared)?;
        }
        prepare::cloud::remember(host, &prepared.facts)?;
        if request.asks_instance() && prepared.role.has_phase(Phase::Keep) {
            prepared.merged.hand_down(host, &prepared.role.name)?;
        }

        self.reporter.heading(report);
        status::write(host, report, RunState::Running);
        self.begun = true;
        let may_reboot = reboot::is_wished(host, &prepared.settings, options.trigger);
        let instance = prepared.instance_id();
        let reboots =
            |reasons: &[String]| may_reboot && !reasons.is_empty() && reboot::has_tries_left(host, &instance, reasons);
        let mut result = engine::begin(host, &steps)
            .and_then(|()| engine::converge(host, &steps, &reboots, &mut journal, report, &self.reporter))
            .and(host.forget_candidates());
        let wished = may_reboot && !report.reboot_reasons.is_empty();
        if result.is_ok() && wished {
            result = reboot::count(host, &instance, &report.reboot_reasons);
        }
        // The run after a reboot will tell the group of this instance.
        if let (Ok(()), false, Some(group)) = (&result, wished, &mut self.group) {
            result = group.finish(host, &prepared);
            self.report.lifecycle_action = group.is_done.then_some(LifecycleAction::Continue);
        }
        self.report.took(self.started.elapsed());
        self.report.end(result.as_ref().err(), true);
        keep(host, &mut journal, &self.report);
        self.reporter.end(&self.report);
        self.banner();
        result?;
        if wished {
            return reboot::reboot(host, &self.report.reboot_reasons, options.trigger);
        }
        if warm && host.is_live() && options.trigger.is_retried() { group::try_again(host) } else { Ok(()) }
    }
}

/// What a person should know who made a node whose services wait, at each boot, for a run.
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

fn save(request: &Request, host: &Host, prepared: &Prepared) -> Result<()> {
    let mut layers = vec![Layer::assignment(&format!("role={}", prepared.role.name))?];
    for assignment in &request.set {
        layers.push(Layer::assignment(assignment)?);
    }
    Layer::save(host, &layers)
}

/// Keeps what is known of the run: evidence, so that whether it can be kept decides nothing.
fn keep(host: &Host, journal: &mut Journal, report: &Report) {
    status::write(host, report, report.result);
    if journal.is_open() {
        journal.event(host, "ended", None, &[report.result.name().to_owned()]);
        journal::keep_last(host, &report.text(), &report.json());
    }
}

/// Fills in a report of what is and what should be. Nothing is changed. `asks_apt`: apt is asked, as a run asks it,
/// whether it has what is to be installed.
///
/// # Errors
/// What [`apply`] would refuse.
pub fn observe(
    request: &Request,
    host: &mut Host,
    asks_apt: bool,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    let started = Instant::now();
    let prepared = prepare::prepare(request, host)?;
    let result = observe_prepared(&prepared, request.phases, host, asks_apt, report, reporter);
    report.took(started.elapsed());
    result
}

/// The same of a role that is prepared.
///
/// # Errors
/// As [`observe`].
pub fn observe_prepared(
    prepared: &Prepared,
    phases: Phases,
    host: &Host,
    asks_apt: bool,
    report: &mut Report,
    reporter: &Reporter,
) -> Result<()> {
    report.introduce(prepared, host);
    let steps = prepared.steps(phases)?;
    report.step_count = steps.len();
    reporter.heading(report);
    refuse_machine(host, phases)?;
    refuse_daemon_json(host, &steps)?;
    engine::ask(host, &steps)?;
    engine::refuse(host, &prepared.names(), &steps)?;
    if asks_apt {
        report.notices.extend(engine::plan_packages(host, &steps)?);
    }
    engine::observe(host, &steps, report, reporter)
}
