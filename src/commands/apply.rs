//! `apply`: the lock, every refusal, then the steps.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{BOOT_UNIT, Prepared};
use crate::cli::{Apply, Global};
use crate::error::{Error, Kind, Result};
use crate::host::fs::Owner;
use crate::host::lock::LOCK;
use crate::host::{Host, signals};
use crate::prepare::detect;
use crate::run::engine;
use crate::run::group::{self, Group};
use crate::run::journal::{self, Journal};
use crate::run::reboot;
use crate::run::report::{Report, Reporter};
use crate::settings::Layer;
use crate::step::Step;
use crate::step::warm_pool::READY;

/// How long a run that nobody attends waits for another one.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The end of a lifecycle action, as the group's API has it.
const CONTINUE: &str = "CONTINUE";

/// Who started a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A person, or a program in its place.
    Hand,
    /// cloud-init, which runs user data as a script.
    UserData,
    /// The boot unit.
    Boot,
}

impl Origin {
    fn of(arguments: &Apply) -> Origin {
        match (arguments.at_boot, is_user_data(arguments.steps.user_data.as_ref())) {
            (true, _) => Origin::Boot,
            (false, true) => Origin::UserData,
            (false, false) => Origin::Hand,
        }
    }

    /// The command that tells more of a run than its banner.
    fn look_further(self) -> &'static str {
        match self {
            Origin::Hand => "titus-bootstrap status",
            Origin::UserData => "less /var/log/cloud-init-output.log",
            Origin::Boot => "journalctl --boot --unit titus-bootstrap",
        }
    }
}

/// A run, and what is told of it.
struct Run<'a> {
    global: &'a Global,
    arguments: &'a Apply,
    origin: Origin,
    reporter: Reporter,
    report: Report,
    started: Instant,
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
/// The first refusal or failure, which the report has told already.
pub fn run(global: &Global, arguments: &Apply) -> Result<u8> {
    if arguments.dry_run {
        return super::plan::run(global, &arguments.steps, false);
    }
    let mut run = Run {
        global,
        arguments,
        origin: Origin::of(arguments),
        reporter: global.reporter(),
        report: Report::new("apply"),
        started: Instant::now(),
        begun: false,
        group: None,
        waits_again: false,
    };
    let result = run.under_lock();
    if let Err(error) = &result
        && !run.begun
    {
        // A refusal, or a failure that no journal tells of.
        run.report.duration_ms = run.elapsed_ms();
        run.report.end(Some(error), false);
        if run.reporter.json {
            run.reporter.end(&run.report);
        }
        if run.origin == Origin::Boot && error.kind == Kind::NoRole {
            let why = error.cause.as_deref().unwrap_or_default().replace('\n', "; ");
            tracing::info!("notice: nothing says which role this node has, and nothing is done ({why})");
            return Ok(0);
        }
        run.banner();
    }
    // When all is said: the instance may have little time left then.
    if let Err(error) = &result
        && run.teller() != Origin::Hand
        && !run.may_be_mended()
        && group::is_final(error)
    {
        let teller = run.teller();
        let group = run.group.or_else(|| Group::of_early_failure(global, &arguments.steps, teller));
        if let Some(mut group) = group {
            group.give_up();
        }
    }
    result.map(|()| 0)
}

impl Run<'_> {
    /// Who tells the Auto Scaling group of this run: not a person who runs a script that could be user data.
    fn teller(&self) -> Origin {
        let script = self.arguments.steps.user_data.as_ref();
        match self.origin {
            Origin::UserData if !script.is_some_and(|path| path.starts_with("/var/lib/cloud/")) => Origin::Hand,
            origin => origin,
        }
    }

    /// Whether the boot unit's run was refused while cloud-init may still bring what it lacked.
    fn may_be_mended(&self) -> bool {
        let under_way = || super::host(self.global).is_ok_and(|host| reboot::awaits_cloud_init(&host));
        self.origin == Origin::Boot && !self.begun && under_way()
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The line that a console shows, where nobody reads the report.
    fn banner(&self) {
        let line = crate::secrets::masked(&self.report.banner(self.origin.look_further()));
        match (self.origin, &self.report.error) {
            (Origin::Hand, _) => {}
            // Each minute, perhaps for days.
            (_, None) if self.waits_again && self.report.count("changed") == 0 => {}
            (_, None) => tracing::info!("{line}"),
            (_, Some(_)) => tracing::error!("{line}"),
        }
    }

    fn under_lock(&mut self) -> Result<()> {
        refuse_made_up_facts(self.global)?;
        let mut host = super::host(self.global)?;
        refuse_without_root(&host)?;
        let patience = match (self.arguments.lock_wait, self.origin) {
            (Some(given), _) => given,
            (None, Origin::Hand) => Duration::ZERO,
            (None, Origin::UserData | Origin::Boot) => PATIENCE,
        };
        let _lock = host.lock(LOCK, patience, &mut |line| {
            tracing::info!("{line}");
            host.tell_systemd(line);
        })?;
        host.tell_systemd("asking the instance and its metadata service");
        let result = self.converge(&mut host).map_err(|error| self.or_no_role(&host, error));
        if let Err(error) = &result
            && !self.begun
            && self.origin == Origin::Boot
        {
            self.report.end(Some(error), false);
            let state = if error.kind == Kind::NoRole { "no_role" } else { &self.report.result };
            // The run ends for its own reason; that programs cannot be told adds nothing.
            let _ = status(&host, &self.report, state);
        }
        host.tell_systemd(format!("{} {}", self.report.role, self.report.result).trim());
        result
    }

    /// At boot, on a machine that is no instance and was not told its role either, that is what is said.
    fn or_no_role(&self, host: &Host, error: Error) -> Error {
        if self.origin != Origin::Boot || error.kind != Kind::Unavailable {
            return error;
        }
        let role = super::early(self.global, host, self.arguments.steps.user_data.as_deref())
            .and_then(|early| detect::role(self.global.role(), &early.merged, None));
        role.err().filter(|other| other.kind == Kind::NoRole).unwrap_or(error)
    }

    fn converge(&mut self, host: &mut Host) -> Result<()> {
        let (arguments, origin) = (self.arguments, self.origin);
        let prepared = super::prepare(self.global, host, &arguments.steps)?;
        let mut group = Group::of(host, &prepared.facts, &prepared.settings, self.teller(), arguments.steps.phase);
        let warm = prepared.warm_pool().is_some();
        let last = last_status(host)?;
        let was_warm = origin == Origin::Boot && last["state"] == "warm_pool";
        group.left_pool = was_warm && !warm;
        group.is_done = last["lifecycle_action"] == CONTINUE;
        self.group = Some(group);
        self.waits_again = was_warm && warm;
        self.reporter.quiet |= self.waits_again;
        let report = &mut self.report;
        prepared.introduce(report, host);
        let steps = prepared.steps(arguments.steps.phase)?;
        report.step_count = steps.len();
        super::refuse_machine(host, arguments.steps.phase)?;
        // Until here a signal ends the process, and nothing was changed.
        signals::listen()?;
        engine::ask(host, &steps)?;
        engine::refuse_online(host, &prepared.names(), &steps)?;
        report.notices.extend(notice_of_next_boot(self.global, arguments, host, &prepared, &steps)?);
        if arguments.save {
            save(self.global, host, &prepared)?;
        }
        crate::prepare::cloud::remember(host, &prepared.facts)?;

        self.reporter.heading(report);
        let mut journal = journal_of(&prepared, journal::JOURNAL);
        report.run = journal.run().into();
        status(host, report, "running")?;
        self.begun = true;
        let mut result = engine::begin(host, &steps)
            .and_then(|()| engine::converge(host, &steps, &mut journal, report, &self.reporter))
            .and(host.forget_candidates());
        let wished = reboot::is_wished(host, &prepared.settings, &report.reboot_reasons, origin);
        if result.is_ok() && wished {
            result = reboot::count(host, &prepared.instance_id(), &report.reboot_reasons);
        }
        // The run after a reboot will tell the group of this instance.
        if let (Ok(()), false, Some(group)) = (&result, wished, &mut self.group) {
            result = group.finish(host, &prepared);
            self.report.lifecycle_action = group.is_done.then(|| CONTINUE.to_owned());
        }
        self.report.duration_ms = self.elapsed_ms();
        self.report.end(result.as_ref().err(), true);
        let kept = keep(host, &mut journal, &self.report);
        self.reporter.end(&self.report);
        let result = result.and(kept);
        self.report.end(result.as_ref().err(), true);
        self.banner();
        result?;
        match (wished, origin) {
            (true, _) => reboot::reboot(host, &self.report.reboot_reasons, origin),
            (false, Origin::Boot) if warm && host.is_live() => group::try_again(host),
            _ => Ok(()),
        }
    }
}

/// What a person should know who made a node whose services wait, at each boot, for a run.
fn notice_of_next_boot(
    global: &Global,
    arguments: &Apply,
    host: &Host,
    prepared: &Prepared,
    steps: &[Step],
) -> Result<Option<String>> {
    let is_ready = |step: &Step| step.work().file() == Some(READY);
    if !host.is_live() || arguments.at_boot || !steps.iter().any(is_ready) {
        return Ok(None);
    }
    if host.links_that_enable(BOOT_UNIT)?.is_empty() {
        return Ok(Some(format!(
            "{BOOT_UNIT} is not enabled: after a reboot the role's services wait until titus-bootstrap is run again"
        )));
    }
    let told = arguments.save || detect::role(None, &prepared.merged, Some(&prepared.facts)).is_ok();
    Ok((!told && global.role().is_some()).then(|| {
        "the next boot will not know this role, and the role's services will wait for it: keep it with --save"
            .to_owned()
    }))
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

fn save(global: &Global, host: &Host, prepared: &Prepared) -> Result<()> {
    let mut layers = vec![Layer::assignment(&format!("role={}", prepared.role.name))?];
    for assignment in &global.set {
        layers.push(Layer::assignment(assignment)?);
    }
    Layer::save(host, &layers)
}

/// A journal of a run, at `path`.
pub(super) fn journal_of(prepared: &Prepared, path: &'static str) -> Journal {
    let digest = crate::host::hex(&Sha256::digest(prepared.text()));
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

/// What the last run since this boot left for programs.
fn last_status(host: &Host) -> Result<serde_json::Value> {
    Ok(host.read(journal::STATUS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
}

fn status(host: &Host, report: &Report, state: &str) -> Result<()> {
    let status = json!({
        "schema_version": report.schema_version,
        "state": state,
        "run": report.run,
        "role": report.role,
        "instance_id": report.instance_id,
        "warm_pool": report.warm_pool,
        "lifecycle_action": report.lifecycle_action,
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
