//! A unit is enabled or masked, active, and runs with the present contents of its files.
//!
//! The step observes whether a restart is necessary; no other step notifies it. The program records each start that it has seen,
//! with the digest of the files that the unit read, in /run, which disappears with the
//! processes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::forms::UnitName;
use super::warm_pool::ENGINE;
use super::{Change, Claim, Contents as Written, Planned, RawKind, State, Step, StepKind, Work, hex};
use crate::error::{self, Error, Result};
use crate::host::Host;
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::host::systemd::in_force::{self, Override, UnitFile, concerns, same_path};
use crate::host::systemd::unit_files::{is_mask, mask_path};
use crate::host::systemd::{self, Active, Job};
use crate::host::wait::Deadline;
use crate::template::{Renderer, Templated};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUnit {
    name: Templated<UnitName>,
    enabled: Option<Templated<bool>>,
    #[serde(default)]
    masked: bool,
    #[serde(default)]
    active: bool,
    /// Whether the unit may be missing, because releases of a package provide different units.
    #[serde(default)]
    if_present: bool,
    /// Ids of file and deb steps: the unit restarts when contents differ from those at its last start.
    #[serde(default)]
    restart_on: Vec<String>,
    /// Ids of steps whose contents a reload makes the unit read, so that it does not restart for them.
    #[serde(default)]
    reload_on: Vec<String>,
    /// The effect of a restart, for plans.
    restart_costs: Option<String>,
}

/// A unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The name with its suffix.
    pub name: String,
    enabled: Option<bool>,
    masked: bool,
    active: bool,
    if_present: bool,
    files: Vec<String>,
    /// The files that a reload reads too.
    reloaded: Vec<String>,
    /// The unit files and drop-ins of the unit that earlier steps write.
    own: Vec<String>,
    restart_costs: Option<String>,
}

/// The interval at which a starting unit is checked.
const LOOK: Duration = Duration::from_millis(100);

/// A start that the program has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    invocation: String,
    digest: String,
    /// Inode and ctime of each file: if they are the same, nobody has touched the file.
    stamps: BTreeMap<String, (u64, i128)>,
    /// The same for everything that systemd reads for the unit, regardless of who wrote it, and for the directories of its drop-ins.
    #[serde(default)]
    unit_files: BTreeMap<String, (u64, i128)>,
}

/// One necessary action for a unit.
#[derive(Debug, Clone, PartialEq)]
enum Due {
    Stop,
    /// Remove this link, which enables a unit that should be masked.
    Unlink(String),
    Mask,
    /// Mask it after moving aside a file in the mask's place.
    MoveAsideAndMask,
    /// Remove this mask.
    Unmask(String),
    Enable,
    Disable,
    /// Make systemd read its files, which changed.
    Reload,
    /// Start it; its present state.
    Start(Active),
    Restart(Contents),
    /// Make it reload its files.
    ReloadUnit(Contents),
    /// Start the service of a timer, which failed last time.
    StartAgain(String),
    /// Restart a socket: its service does not run, and would not get the socket.
    Reopen,
}

/// When a unit reads a group of its files.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Read {
    /// Only when it starts.
    AtStart,
    /// When it starts, and at each reload.
    AtReload,
}

/// How the present contents of a unit's files relate to those at its start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Contents {
    Same,
    Other,
    /// Earlier steps of a plan will write other contents.
    Planned,
}

/// The actions for a unit that should be masked, in order. `place` is the entry at the mask's
/// path; `links` are those that enable the unit.
fn mask_due(place: Option<&EntryKind>, links: Vec<String>, has_processes: bool) -> Vec<Due> {
    let mask = match place {
        Some(place) if is_mask(place) => None,
        Some(EntryKind::File) => Some(Due::MoveAsideAndMask),
        _ => Some(Due::Mask),
    };
    let stop = has_processes.then_some(Due::Stop);
    stop.into_iter().chain(links.into_iter().map(Due::Unlink)).chain(mask).collect()
}

/// The actions for the masks and the enablement of any other unit. `lacks_links` says that a link of its section [Install] is
/// missing; `is_linked` says that some link enables it.
fn enablement_due(unit: &Unit, masks: Vec<String>, lacks_links: bool, is_linked: bool) -> Vec<Due> {
    let is_wanted = unit.active || unit.enabled == Some(true);
    let unmask = masks.into_iter().filter(|_| is_wanted).map(Due::Unmask);
    let enablement = match unit.enabled {
        Some(true) if lacks_links => Some(Due::Enable),
        Some(false) if is_linked => Some(Due::Disable),
        _ => None,
    };
    unmask.chain(enablement).collect()
}

/// The action for a unit's processes.
fn running_due(is_wanted: bool, unit: &systemd::Unit, contents: Contents) -> Option<Due> {
    match (unit.is_active(), contents) {
        (false, _) => is_wanted.then_some(Due::Start(unit.active)),
        (true, Contents::Same) => None,
        (true, contents) => Some(Due::Restart(contents)),
    }
}

/// Whether systemd is still at work on a unit that a run has started.
fn is_on_its_way(is_wanted: bool, unit: &systemd::Unit) -> bool {
    // systemd may start one again that has just ended and cleans up (ExecStopPost=). When it does, it shows the unit as
    // inactive for a moment, with a job.
    let is_between = unit.active == Active::Deactivating || !unit.is_active() && unit.has_job;
    unit.is_restarting() || unit.is_starting() || is_wanted && is_between
}

/// The action for a socket, after [`running_due`], which does not consider its service.
fn socket_due(due: Option<Due>, socket: &systemd::Unit, service: &systemd::Unit) -> Option<Due> {
    match (due, service.active) {
        // systemd refuses to start the socket then; the service has its sockets, or listens without them.
        (Some(Due::Start(_)), Active::Active | Active::Activating | Active::Reloading) => None,
        // The socket was masked while its service ran; it has lost its sockets without noticing. (With a job, the service
        // is about to start because a client has connected.)
        (None, Active::Inactive | Active::Failed)
            if socket.is_active() && socket.sub == "running" && !service.has_job =>
        {
            Some(Due::Reopen)
        }
        (due, _) => due,
    }
}

/// Whether a running unit started with the present contents of its files. `booted` finds the start time of PID 1.
fn reads(
    record: Option<&Record>,
    now: &Record,
    unit: &systemd::Unit,
    booted: impl FnOnce() -> Result<Option<SystemTime>>,
) -> Result<bool> {
    const SECOND: i128 = 1_000_000_000;
    if let Some(record) = record {
        if record.invocation == now.invocation {
            return Ok(record.digest == now.digest);
        }
        // Something else started it since. It has read files that nobody touched, whatever the clocks say.
        if record.digest == now.digest && record.stamps == now.stamps && record.unit_files == now.unit_files {
            return Ok(true);
        }
    }
    // It started after its files changed, but with the version that systemd had read earlier.
    if unit.needs_reload {
        return Ok(false);
    }
    let since_1970 = |at: SystemTime| i128::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok();
    let Some(started) = unit.started.and_then(since_1970) else { return Ok(false) };
    // A file with a stamp of the second before the start may have changed after it: systemd gives the start in whole
    // seconds, and a stamp can lie by some milliseconds. A file with a stamp from before the boot cannot: PID 1 needs
    // longer than that to start its first unit. An image that is started right after it was made has such files.
    // Setting the clock breaks neither rule. Set forward after the start, it puts the boot after the start, and such a
    // boot does not count. Set back, it puts the boot earlier, and fewer files are older.
    let booted = booted()?.and_then(since_1970).filter(|booted| *booted < started + SECOND);
    let is_older = |changed: i128| changed + SECOND <= started || booted.is_some_and(|booted| changed < booted);
    // For a unit that no run has seen yet, drop-ins of others do not count.
    let unit_files = now.unit_files.values().filter(|_| record.is_some());
    Ok(now.stamps.values().chain(unit_files).all(|(_, changed)| is_older(*changed)))
}

/// The service that a timer starts.
pub(super) fn timer_service(name: &str) -> Option<String> {
    Some(format!("{}.service", name.strip_suffix(".timer")?))
}

/// The service that a socket starts (systemd.socket(5), "Service=": the one with its name).
fn socket_service(name: &str) -> Option<String> {
    Some(format!("{}.service", name.strip_suffix(".socket")?))
}

/// The socket that would start a service.
fn service_socket(name: &str) -> Option<String> {
    Some(format!("{}.socket", name.strip_suffix(".service")?))
}

/// Identifies one start of a unit.
fn invocation(unit: &systemd::Unit) -> String {
    if unit.invocation.is_empty() { format!("{:?}", unit.started) } else { unit.invocation.clone() }
}

impl RawUnit {
    pub(super) fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Unit> {
        let UnitName(name) = self.name.get(renderer)?;
        let reloaded: Vec<String> = self.reload_on.iter().filter_map(|id| files.get(id).cloned()).collect();
        if let Some(path) = reloaded.iter().find(|path| concerns(&name, path)) {
            return Err(Error::config(format!(
                "reload_on: {path} determines what {name} runs, and a reload does not change that"
            ))
            .fix("name its step in restart_on"));
        }
        if !reloaded.is_empty() && !name.ends_with(".service") {
            return Err(Error::config(format!("reload_on: {name} cannot be reloaded: it is not a service"))
                .fix("name the steps in restart_on"));
        }
        Ok(Unit {
            own: files.values().filter(|path| concerns(&name, path)).cloned().collect(),
            name,
            enabled: self.enabled.as_ref().map(|enabled| enabled.get(renderer)).transpose()?,
            masked: self.masked,
            active: self.active,
            if_present: self.if_present,
            // A step that its `when` excluded has no file.
            files: self.restart_on.iter().filter_map(|id| files.get(id).cloned()).collect(),
            reloaded,
            restart_costs: self.restart_costs.clone(),
        })
    }
}

impl Unit {
    /// Its name, if it should be active.
    pub(super) fn started(&self) -> Option<&str> {
        self.active.then_some(self.name.as_str())
    }

    fn record_path(&self, read: Read) -> String {
        let suffix = if read == Read::AtReload { ".reload" } else { "" };
        format!("/run/titus-bootstrap/units/{}{suffix}", self.name)
    }

    fn read(&self, read: Read) -> &[String] {
        if read == Read::AtReload { &self.reloaded } else { &self.files }
    }

    /// The service of a timer, if it failed last time (systemd.timer(5), "Unit=": the service with the timer's name).
    fn failed_service(&self, host: &Host) -> Result<Option<Due>> {
        let Some(service) = timer_service(&self.name).filter(|_| self.active) else { return Ok(None) };
        Ok((host.unit(&service)?.active == Active::Failed).then_some(Due::StartAgain(service)))
    }

    /// The action for the unit's processes. `reloaded` is the state of the files that a reload reads.
    fn processes_due(
        &self,
        host: &Host,
        unit: &systemd::Unit,
        contents: Contents,
        reloaded: Contents,
    ) -> Result<Option<Due>> {
        let due = running_due(self.active, unit, contents);
        let due = match socket_service(&self.name).filter(|_| self.active) {
            Some(service) => match socket_due(due.clone(), unit, &host.unit(&service)?) {
                // A client may have connected after systemd reported the service, which now has a job or runs.
                Some(Due::Reopen) => {
                    host.forget_units();
                    socket_due(due, unit, &host.unit(&service)?)
                }
                due => due,
            },
            None => due,
        };
        let is_reload_due = unit.is_active() && reloaded != Contents::Same;
        Ok(due.or(is_reload_due.then_some(Due::ReloadUnit(reloaded))))
    }

    /// Refuses a unit that should be reloaded but whose files do not say how (systemd.service(5)).
    fn refuse_unreloadable(&self, host: &Host, planned: &Planned) -> Result<()> {
        if self.reloaded.is_empty() {
            return Ok(());
        }
        let files = host.unit_files(&self.name, planned)?;
        // A package will bring the unit, or a generator made it: the reload job will show it.
        if !files.iter().any(|file| !file.path.contains(".d/")) {
            return Ok(());
        }
        let mut is_reloadable = false;
        for line in files.iter().flat_map(|file| file.text.lines()).map(str::trim) {
            match line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some(("ExecReload", command)) => is_reloadable = !command.is_empty(),
                Some(("Type", "notify-reload")) => is_reloadable = true,
                _ => {}
            }
        }
        if is_reloadable {
            return Ok(());
        }
        let files: Vec<_> = files.into_iter().map(|file| file.path).collect();
        Err(Error::unavailable(format!("{} cannot be reloaded: it has no ExecReload=", self.name))
            .cause(format!("searched {}", files.join(", ")))
            .fix("move the steps of reload_on to restart_on, or add ExecReload= to the unit in a drop-in"))
    }

    /// Whether a start may have failed because the service's active socket has nothing to pass on; or was active, until
    /// too many starts of the service failed because of it.
    fn has_stale_socket(&self, host: &Host, started: &Result<systemd::Unit>) -> Result<bool> {
        match started {
            Err(error) if error.kind == error::Kind::Interrupted => return Ok(false),
            Ok(unit) if unit.is_active() || !self.active => return Ok(false),
            _ => {}
        }
        let socket = service_socket(&self.name).map(|socket| host.unit(&socket)).transpose()?;
        Ok(socket.is_some_and(|socket| socket.is_active() || socket.active == Active::Failed))
    }

    /// The unit's own files among these.
    fn own_files(&self, planned: &Planned) -> Vec<String> {
        let own = planned.iter().filter(|(path, text)| concerns(&self.name, path) && !text.is_empty());
        own.map(|(path, _)| path.clone()).collect()
    }

    /// Whether the step must ask systemd about the unit.
    fn is_asked_for(&self) -> bool {
        !self.masked && (self.active || !self.files.is_empty() || !self.reloaded.is_empty())
    }

    /// The actions for its files; for a unit that should be masked, also for its processes.
    fn files_due(&self, host: &Host, planned: &Planned) -> Result<Vec<Due>> {
        let name = &self.name;
        if !self.masked {
            let lacks_links = self.enabled == Some(true) && !host.missing_links(name, false, planned)?.is_empty();
            let is_linked = self.enabled == Some(false) && !host.links_that_enable(name)?.is_empty();
            let masks = host.masks_of(name)?.into_iter().filter(|path| !planned.contains_key(path)).collect();
            return Ok(enablement_due(self, masks, lacks_links, is_linked));
        }
        let links = host.links_that_enable(name)?;
        let place = host.entry(&mask_path(name))?.map(|entry| entry.kind);
        if let Some(EntryKind::Directory | EntryKind::Other) = place {
            return Err(Error::failed(format!(
                "{} is a directory or a device, so the mask cannot be created there",
                mask_path(name)
            )));
        }
        Ok(mask_due(place.as_ref(), links, host.is_live() && host.has_processes(name)?))
    }

    fn settle(&self, host: &Host, due: &Due) -> Result<()> {
        let name = &self.name;
        match due {
            Due::Stop => host.change_unit(Job::Stop(name)),
            Due::Unlink(path) | Due::Unmask(path) => host.remove(path),
            Due::Mask => host.mask_unit(name),
            Due::MoveAsideAndMask => {
                let path = mask_path(name);
                let aside = host.move_aside(&path)?;
                tracing::warn!("moved {path}, which was in the place of a mask, to {aside}");
                host.mask_unit(name)
            }
            Due::Enable => host.enable_unit(name),
            Due::Disable => host.links_that_enable(name)?.iter().try_for_each(|path| host.remove(path)),
            // Executed before any start: see `converge`.
            Due::Reload => Ok(()),
            Due::Start(_) => start(host, Job::Start(name)),
            Due::Restart(_) => start(host, Job::Restart(name)),
            Due::ReloadUnit(_) => host.change_unit(Job::ReloadUnit(name)),
            Due::StartAgain(service) => start(host, Job::Start(service)),
            Due::Reopen => start(host, Job::Restart(name)),
        }
    }

    fn change(&self, due: &Due) -> Change {
        let name = &self.name;
        Change::new(match due {
            Due::Stop => format!("stop {name}"),
            Due::Unlink(path) => format!("remove {path}"),
            Due::Mask => format!("mask {name}"),
            Due::MoveAsideAndMask => format!("mask {name} (moves its file {} aside)", mask_path(name)),
            Due::Unmask(path) => format!("unmask {name} (remove {path})"),
            Due::Enable => format!("enable {name}"),
            Due::Disable => format!("disable {name}"),
            Due::Reload => format!("daemon-reload (files of {name} changed since systemd read them)"),
            Due::Start(now) => format!("start {name} (it is {now})"),
            Due::Reopen => format!("restart {name} (its service does not run, and would not get the socket)"),
            Due::StartAgain(service) => format!("start {service}, which {name} starts and which failed last time"),
            Due::ReloadUnit(Contents::Planned) => format!("reload {name} (its files will have changed)"),
            Due::ReloadUnit(_) => format!("reload {name} (its files changed since its last start or reload)"),
            Due::Restart(contents) => {
                let why = match contents {
                    Contents::Planned => "its files will have changed",
                    Contents::Same | Contents::Other => "its files changed since its last start",
                };
                let costs = self.restart_costs.as_ref().map_or(String::new(), |costs| format!("; {costs}"));
                format!("restart {name} ({why}{costs})")
            }
        })
    }

    /// A record of a start with the present files, and how they relate to the start of the running unit. In a plan, takes into
    /// account what earlier steps will write.
    fn compare(&self, host: &Host, unit: &systemd::Unit, planned: &Planned, read: Read) -> Result<(Record, Contents)> {
        let own = self.read(read);
        // A device in its place counts as a missing file: the step that writes the file replaces it, or reports it.
        let on_disk = |path: &String| match host.read(path) {
            Err(error) if error.kind != error::Kind::Interrupted => Ok(None),
            read => read,
        };
        let digest = |planned: &Planned| -> Result<String> {
            let mut digest = Sha256::new();
            for path in own {
                let contents = planned.get(path).cloned().map_or_else(|| on_disk(path), |planned| Ok(Some(planned)))?;
                digest.update(path);
                digest.update([0, u8::from(contents.is_some())]);
                digest.update(Sha256::digest(contents.unwrap_or_default()));
            }
            Ok(hex(&digest.finalize()))
        };
        let mut stamps = BTreeMap::new();
        for path in own {
            if let Some(entry) = host.entry(path)? {
                stamps.insert(path.clone(), (entry.inode, entry.changed_ns));
            }
        }
        let mut unit_files = BTreeMap::new();
        let files = host.unit_files(&self.name, &Planned::new())?.into_iter().map(|file| file.path);
        for path in files.chain(host.drop_in_directories(&self.name, &Planned::new())?) {
            if let Some(entry) = host.entry(&path)? {
                unit_files.insert(path, (entry.inode, entry.changed_ns));
            }
        }
        let record = self.record(host, read)?;
        let now = Record { invocation: invocation(unit), digest: digest(&Planned::new())?, stamps, unit_files };
        let is_same = own.is_empty() || reads(record.as_ref(), &now, unit, || host.boot_time())?;
        if !own.iter().any(|path| planned.contains_key(path)) {
            return Ok((now, if is_same { Contents::Same } else { Contents::Other }));
        }
        // The contents at the unit's start, if known.
        let started_with = if is_same {
            Some(&now.digest)
        } else {
            record.as_ref().filter(|record| record.invocation == now.invocation).map(|record| &record.digest)
        };
        let contents = if started_with == Some(&digest(planned)?) { Contents::Same } else { Contents::Planned };
        Ok((now, contents))
    }

    /// Other files that override the unit files of earlier steps but only tune the unit.
    ///
    /// # Errors
    /// Fails when such a file determines what the unit runs, or when systemd cannot load the unit for another reason. Only the author
    /// of the file can fix it.
    fn find_tuning(&self, host: &Host, own: &[String], planned: &Planned) -> Result<Vec<Override>> {
        let name = &self.name;
        if self.masked || own.is_empty() {
            return Ok(Vec::new());
        }
        let files = host.unit_files(name, planned)?;
        let mut missing = Vec::new();
        for path in own.iter().filter(|own| !files.iter().any(|file| same_path(&file.path, own))) {
            let text = match planned.get(path) {
                Some(contents) => String::from_utf8_lossy(contents).into_owned(),
                None => host.read_text(path)?.unwrap_or_default(),
            };
            if !text.is_empty() {
                missing.push(UnitFile { path: path.clone(), text });
            }
        }
        let read = |path: &str| match planned.get(path) {
            Some(contents) => String::from_utf8_lossy(contents).into_owned(),
            None => host.read_text(path).ok().flatten().unwrap_or_default(),
        };
        let (tuning, deciding): (Vec<_>, Vec<_>) =
            in_force::find_overrides(&files, own, &missing, &read).into_iter().partition(|winner| winner.is_tuning);
        deciding.first().map_or(Ok(tuning), |winner| Err(refusal(name, winner)))
    }

    /// Refuses a unit that systemd cannot load, whatever a run changes.
    fn refuse_unloadable(&self, host: &Host, unit: &systemd::Unit) -> Result<()> {
        let name = &self.name;
        if !["bad-setting", "error"].contains(&unit.load.as_str()) {
            return Ok(());
        }
        let files: Vec<_> = host.unit_files(name, &Planned::new())?.into_iter().map(|file| file.path).collect();
        Err(Error::unavailable(format!("systemd cannot load {name}: {}", unit.load))
            .cause(format!("systemd refuses the contents of one of its files: {}", files.join(", ")))
            .fix(format!(
                "`systemd-analyze verify {name}` reports the line: correct it, then run `systemctl daemon-reload`"
            )))
    }

    /// Waits while systemd starts the unit or is about to restart it.
    fn await_up(&self, host: &Host) -> Result<systemd::Unit> {
        let mut deadline = Deadline::new(format!("{} to stay up", self.name), host.deadlines.unit);
        loop {
            let unit = host.unit(&self.name)?;
            if !is_on_its_way(self.active, &unit) {
                return Ok(unit);
            }
            if !deadline.pause(LOOK)? {
                return Err(self.does_not_stay_up(host, &deadline.timeout_message()));
            }
            host.forget_units();
        }
    }

    fn does_not_stay_up(&self, host: &Host, what: &str) -> Error {
        let name = &self.name;
        Error::failed(format!("{name} does not stay up: {what}"))
            .cause(host.unit_words(name))
            .fix(format!("journalctl --unit={name} shows its log; fix the cause and run titus-bootstrap again"))
    }

    fn record(&self, host: &Host, read: Read) -> Result<Option<Record>> {
        // An unreadable record proves nothing; treat it as missing.
        Ok(host.read(&self.record_path(read))?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn write_record(&self, host: &Host, record: &Record, read: Read) -> Result<()> {
        let text = serde_json::to_vec(record).map_err(|e| Error::failed("cannot format a record").cause(e))?;
        host.write(&self.record_path(read), &text, 0o644, Owner::ROOT)
    }
}

/// Starts or restarts a unit. A unit that exits at once, but that systemd is about to restart, has not failed yet.
fn start(host: &Host, job: Job<'_>) -> Result<()> {
    let (Job::Start(name) | Job::Restart(name)) = job else { return host.change_unit(job) };
    // Too many earlier starts may have failed, with the earlier contents of the files.
    let reset = |unit: &systemd::Unit| unit.active == Active::Failed || unit.is_at_start_limit();
    let is_reset = reset(&host.unit(name)?);
    if is_reset {
        host.change_unit(Job::ResetFailed(name))?;
    }
    // A client may connect to a socket at once, and a service that was started too often takes its socket down with it.
    if let Some(service) = socket_service(name)
        && reset(&host.unit(&service)?)
    {
        host.change_unit(Job::ResetFailed(&service))?;
    }
    let Err(error) = host.change_unit(job) else { return Ok(()) };
    if error.kind == error::Kind::Interrupted {
        return Err(error);
    }
    let unit = host.unit(name)?;
    if unit.is_at_start_limit() && !is_reset {
        host.change_unit(Job::ResetFailed(name))?;
        return host.change_unit(Job::Start(name));
    }
    if unit.is_restarting() || unit.active == Active::Deactivating || unit.has_job { Ok(()) } else { Err(error) }
}

/// The error about another file that determines what a unit runs.
fn refusal(unit: &str, winner: &Override) -> Error {
    let Override { path, line, overridden, words, .. } = winner;
    let directory = ["/usr/lib/", "/lib/"].iter().find(|prefix| path.starts_with(**prefix));
    let fix = match (line, directory) {
        (Some(_), Some(_)) => {
            let file = path.rsplit_once('/').map_or(path.as_str(), |(_, file)| file);
            let mask = format!("/etc/systemd/system/{unit}.d/{file}");
            format!(
                "it belongs to a package; hide it from this unit: mkdir -p /etc/systemd/system/{unit}.d; ln -s /dev/null {mask}"
            )
        }
        (Some(line), None) => format!("rm {path}\nor remove line {line} from it"),
        (None, _) => format!("rm {path}\nif you need it, keep a copy elsewhere"),
    };
    Error::unavailable(format!("{unit}: {} overrides {overridden}", winner.place()))
        .cause(crate::secrets::masked(words))
        .fix(format!("{fix}\nthen run titus-bootstrap again"))
}

/// Refuses other files that override the unit files and drop-ins of these steps, before any of them is written.
///
/// # Errors
/// Fails with 69. The error names the file and its line, and says what to do.
pub fn refuse_overridden(host: &Host, steps: &[Step]) -> Result<()> {
    let planned = collect_unit_files(steps);
    for step in steps {
        let StepKind::Unit(unit) = &step.kind else { continue };
        unit.find_tuning(host, &unit.own_files(&planned), &planned).map_err(|error| error.at(&step.id))?;
    }
    Ok(())
}

/// Records units that started with such a file, so that they restart once it is gone. systemd does not say with which
/// files a unit started.
///
/// # Errors
/// Fails when systemd does not respond, or when a record cannot be written.
pub fn note_overridden(host: &Host, steps: &[Step]) -> Result<()> {
    let planned = collect_unit_files(steps);
    for step in steps {
        let StepKind::Unit(unit) = &step.kind else { continue };
        let own = unit.own_files(&planned);
        if unit.files.is_empty() || unit.find_tuning(host, &own, &planned).is_ok() {
            continue;
        }
        let running = host.unit(&unit.name)?;
        let Some(started) = running.started.filter(|_| running.is_active()) else { continue };
        let mut was_there = false;
        for file in host.unit_files(&unit.name, &Planned::new())? {
            let changed = host.entry(&file.path)?.and_then(|entry| u64::try_from(entry.changed_ns).ok());
            // systemd reports the start in whole seconds.
            let second = started + Duration::from_secs(1);
            let is_older = changed.is_some_and(|changed| UNIX_EPOCH + Duration::from_nanos(changed) < second);
            was_there |= !own.contains(&file.path) && is_older;
        }
        if was_there {
            let (record, _) = unit.compare(host, &running, &Planned::new(), Read::AtStart)?;
            unit.write_record(host, &Record { digest: "what another file said".into(), ..record }, Read::AtStart)?;
        }
    }
    Ok(())
}

/// The files that these steps write, with their text.
fn collect_unit_files(steps: &[Step]) -> Planned {
    let written = steps.iter().filter_map(|step| match step.work().written() {
        Some((path, Written::Text(text))) => Some((path.to_owned(), text.into_bytes())),
        _ => None,
    });
    written.collect()
}

impl RawKind for RawUnit {
    fn refuse(&self) -> Result<()> {
        if self.masked && (self.enabled.is_some() || self.active) {
            return Err(Error::config("a masked unit cannot be enabled or active"));
        }
        match self.reload_on.iter().find(|id| self.restart_on.contains(id)) {
            Some(id) => {
                Err(Error::config(format!("restart_on and reload_on both name {id:?}")).fix("name it in one of them"))
            }
            None => Ok(()),
        }
    }

    fn restart_on(&self) -> &[String] {
        &self.restart_on
    }

    fn reload_on(&self) -> &[String] {
        &self.reload_on
    }
}

impl Work for Unit {
    fn explain(&self) -> Vec<String> {
        let name = &self.name;
        if self.masked {
            return vec![
                format!("Keeps {name} masked: systemd cannot start it, nor can a package's script."),
                "If it runs, the run stops it. A unit file in the place of the mask is moved aside.".into(),
            ];
        }
        let enabled = match self.enabled {
            Some(true) => "enabled, so that each boot starts it",
            Some(false) => "disabled, so that no boot starts it",
            None => "enabled or disabled as it is",
        };
        let active = if self.active { " It keeps it running: the run starts it if it does not run." } else { "" };
        let mut lines = vec![format!("Keeps {name} {enabled}.{active}")];
        if self.if_present {
            lines.push("A node without this unit is in sync.".into());
        }
        let restarts = |file: &&String| !self.reloaded.contains(file);
        let restarting: Vec<&str> = self.files.iter().filter(restarts).map(String::as_str).collect();
        if !restarting.is_empty() {
            lines.push(format!(
                "It restarts when one of these does not have the contents of its last start: {}.",
                restarting.join(", ")
            ));
        }
        if !self.reloaded.is_empty() {
            lines.push(format!("It reloads when one of these changes: {}.", self.reloaded.join(", ")));
        }
        if self.files.is_empty() && self.reloaded.is_empty() {
            lines.push("No change of another step restarts it.".into());
        }
        if let Some(costs) = &self.restart_costs {
            lines.push(format!("When it restarts, {costs}."));
        }
        lines
    }

    fn claims(&self) -> Vec<Claim> {
        let name = &self.name;
        if self.masked {
            return vec![Claim::new(mask_path(name), "a mask"), Claim::new(format!("unit {name}"), "masked")];
        }
        let mut claims = vec![Claim::new(format!("unit {name}"), "not masked")];
        if let Some(enabled) = self.enabled {
            let wish = if enabled { "enabled" } else { "disabled" };
            claims.push(Claim::new(format!("the enablement of {name}"), wish));
        }
        claims
    }

    fn paths(&self) -> Vec<String> {
        vec![mask_path(&self.name), self.record_path(Read::AtStart), self.record_path(Read::AtReload)]
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        let name = &self.name;
        let is_there = || -> Result<bool> {
            let is_planned = planned.keys().any(|path| path.ends_with(&format!("/{name}")));
            Ok(is_planned || host.unit_file(name)?.is_some() || !host.masks_of(name)?.is_empty())
        };
        if !self.masked && !is_there()? {
            if let Some(mask) = host.mask_of_package(name)?.filter(|_| self.active || self.enabled == Some(true)) {
                return Err(Error::unavailable(format!("{mask} masks {name}: it is empty or a link to /dev/null"))
                    .cause("only its package contains the real unit")
                    .fix(format!(
                        "apt-get install --reinstall \"$(dpkg --search {mask} | cut --delimiter=: --fields=1)\""
                    )));
            }
            if self.if_present && host.is_live() {
                // Packages will be installed; which units they contain is not known yet.
                let is_known = !planned.contains_key(super::package::STATUS);
                let why = format!("{name} does not exist");
                return Ok(if is_known { State::InSync(Some(why)) } else { State::Blocked(format!("{why} yet")) });
            }
            return Ok(match (host.is_live(), self.enabled) {
                (_, Some(false)) if !self.active => State::InSync(None),
                (true, _) => {
                    State::Blocked(format!("{name} does not exist yet: the package that provides it comes first"))
                }
                (false, _) => {
                    State::Deferred(format!("{name} is provided by a package; packages are not installed with --root"))
                }
            });
        }
        let mut due = self.files_due(host, planned)?;
        let tuned = self.find_tuning(host, &self.own, planned)?;
        self.refuse_unreloadable(host, planned)?;
        if host.is_live() && self.is_asked_for() {
            let unit = host.unit(name)?;
            let is_planned = planned.keys().any(|path| concerns(name, path));
            // systemd reads the run's own changes before the run ends.
            let is_read = !is_planned && !host.is_reload_noted()?;
            // For a unit that it cannot load, systemd always reports that a reload is needed.
            if is_read && due.is_empty() {
                self.refuse_unloadable(host, &unit)?;
            }
            due.extend((is_read && unit.needs_reload).then_some(Due::Reload));
            // It exited after this run started it, and systemd is restarting it: the end of the run checks whether it stays up.
            if host.started_by_us(name).is_some() && (unit.is_restarting() || unit.is_starting()) {
                return Ok(State::from_changes(due.iter().map(|due| self.change(due)).collect()));
            }
            let (_, contents) = self.compare(host, &unit, planned, Read::AtStart)?;
            let (_, reloaded) = self.compare(host, &unit, planned, Read::AtReload)?;
            due.extend(self.processes_due(host, &unit, contents, reloaded)?);
            due.extend(self.failed_service(host)?);
        } else if due.is_empty() && self.active {
            return Ok(State::Deferred(format!("{name} is not started with --root")));
        }
        if due.is_empty() && !tuned.is_empty() {
            let places: Vec<String> =
                tuned.iter().map(|winner| format!("{} ({})", winner.place(), winner.words)).collect();
            return Ok(State::InSync(Some(format!("tuned by {}", places.join("; ")))));
        }
        Ok(State::from_changes(due.iter().map(|due| self.change(due)).collect()))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let (name, nothing) = (&self.name, Planned::new());
        self.files_due(host, &nothing)?.iter().try_for_each(|due| self.settle(host, due))?;
        if !host.is_live() || !self.is_asked_for() {
            return Ok(());
        }
        host.reload_units_for(name)?;
        let mut unit = host.unit(name)?;
        self.refuse_unloadable(host, &unit)?;
        // At boot it may be starting with its files from before this run: wait for the end of the start.
        if self.active && unit.is_starting() {
            let started = host.change_unit(Job::Start(name)).and_then(|()| host.unit(name));
            unit = if self.has_stale_socket(host, &started)? { host.unit(name)? } else { started? };
        }
        // Use the record from before the start, so that a file that changes in the meantime counts as changed.
        let (record, contents) = self.compare(host, &unit, &nothing, Read::AtStart)?;
        let (reload_record, reloaded) = self.compare(host, &unit, &nothing, Read::AtReload)?;
        if let Some(due) = self.failed_service(host)? {
            tracing::info!("{}", self.change(&due).line);
            self.settle(host, &due)?;
        }
        let Some(due) = self.processes_due(host, &unit, contents, reloaded)? else { return Ok(()) };
        tracing::info!("{}", self.change(&due).line);
        let mut started = self.settle(host, &due).and_then(|()| self.await_up(host));
        // Its socket was masked while it ran: it is active, but no longer listens.
        if self.has_stale_socket(host, &started)? {
            let socket = service_socket(name).unwrap_or_default();
            tracing::warn!("{name} did not start: restarting {socket} and starting it again");
            host.change_unit(Job::ResetFailed(name))?;
            host.change_unit(Job::Restart(&socket))?;
            started = start(host, Job::Start(name)).and_then(|()| self.await_up(host));
        }
        let started = started?;
        if self.active && !started.is_active() {
            let left = running_due(true, &started, Contents::Same).map(|due| self.change(&due).line);
            return Err(self.does_not_stay_up(host, &format!("still to do: {}", left.unwrap_or_default())));
        }
        host.up_for(name, &invocation(&started));
        if !started.is_active() {
            return Ok(());
        }
        for (read, record) in [(Read::AtStart, record), (Read::AtReload, reload_record)] {
            if !self.read(read).is_empty() {
                self.write_record(host, &Record { invocation: invocation(&started), ..record }, read)?;
            }
        }
        Ok(())
    }

    fn ask(&self, host: &Host) -> Result<()> {
        if self.is_asked_for() {
            host.watch_units([self.name.as_str()].into_iter());
            let service = timer_service(&self.name).or(socket_service(&self.name)).filter(|_| self.active);
            host.watch_units(service.iter().map(String::as_str));
        }
        Ok(())
    }

    /// Records a start that is known to be in sync, so that a later change of a file shows even if the
    /// clock is set back and the run is killed.
    fn record_running(&self, host: &Host) -> Result<()> {
        if self.masked || self.files.is_empty() && self.reloaded.is_empty() || host.unit_file(&self.name)?.is_none() {
            return Ok(());
        }
        let unit = host.unit(&self.name)?;
        if !unit.is_active() {
            return Ok(());
        }
        for read in [Read::AtStart, Read::AtReload].into_iter().filter(|read| !self.read(*read).is_empty()) {
            let (now, contents) = self.compare(host, &unit, &Planned::new(), read)?;
            if contents == Contents::Same && self.record(host, read)?.as_ref() != Some(&now) {
                self.write_record(host, &now, read)?;
            }
        }
        Ok(())
    }

    /// Checks that a unit that was active does not exit a moment later, or that systemd restarts it.
    fn stays(&self, host: &Host) -> Result<()> {
        let name = &self.name;
        let is_new = || -> Result<bool> {
            Ok(host.started_by_us(name).is_some() || host.unit(name)?.is_just_restarted(host.deadlines.settle))
        };
        if !self.active || !host.has_systemd()? || !is_new()? {
            return Ok(());
        }
        // Only processes exit by themselves.
        let settle = if name.ends_with(".service") { host.deadlines.settle } else { Duration::ZERO };
        let mut deadline = Deadline::new(format!("{name} to stay up"), host.deadlines.unit.max(settle));
        loop {
            host.forget_units();
            let unit = host.unit(name)?;
            if unit.is_active() && host.up_for(name, &invocation(&unit)) >= settle {
                return Ok(());
            }
            if !unit.is_active() && !unit.is_under_way() {
                return Err(self.does_not_stay_up(host, "it has exited"));
            }
            if !deadline.pause(LOOK)? {
                return Err(self.does_not_stay_up(host, &deadline.timeout_message()));
            }
        }
    }

    fn defer(&mut self) -> bool {
        let is_started = self.name != ENGINE && self.is_asked_for();
        if is_started {
            self.active = false;
            self.files.clear();
            self.reloaded.clear();
        }
        is_started
    }

    fn is_partly_done(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_socket_is_started_before_its_service_and_not_beside_it() {
        let of = |active: Active, sub: &str| systemd::Unit { active, sub: sub.into(), ..Default::default() };
        let dead = || of(Active::Inactive, "dead");
        let start = || Some(Due::Start(Active::Inactive));
        for (due, socket, service, expected) in [
            (start(), dead(), dead(), start()),
            (start(), dead(), of(Active::Active, "running"), None),
            (start(), dead(), of(Active::Activating, "start"), None),
            (None, of(Active::Active, "listening"), dead(), None),
            (None, of(Active::Active, "running"), of(Active::Active, "running"), None),
            (None, of(Active::Active, "running"), of(Active::Activating, "start"), None),
            (None, of(Active::Active, "running"), dead(), Some(Due::Reopen)),
            (None, of(Active::Active, "running"), of(Active::Failed, "failed"), Some(Due::Reopen)),
            // A client has connected, and its service waits for its turn.
            (None, of(Active::Active, "running"), systemd::Unit { has_job: true, ..dead() }, None),
        ] {
            assert_eq!(socket_due(due, &socket, &service), expected, "{socket:?} {service:?}");
        }
    }

    #[test]
    fn a_start_is_awaited_until_systemd_is_done_with_it() {
        for (active, sub, has_job, expected) in [
            (Active::Active, "running", false, false),
            (Active::Active, "running", true, false),
            (Active::Activating, "start", true, true),
            (Active::Activating, "auto-restart", false, true),
            (Active::Deactivating, "stop-post", false, true),
            (Active::Inactive, "dead", true, true),
            (Active::Failed, "failed", true, true),
            (Active::Inactive, "dead", false, false),
            (Active::Failed, "failed", false, false),
        ] {
            let unit = systemd::Unit { active, sub: sub.into(), has_job, ..Default::default() };
            assert_eq!(is_on_its_way(true, &unit), expected, "{unit:?}");
            // One that should not run is not awaited for a job of somebody else.
            assert!(!is_on_its_way(false, &systemd::Unit { active: Active::Inactive, ..unit }));
        }
    }

    fn unit(toml: &str, files: &[(&str, &str)]) -> Result<Unit> {
        let files = files.iter().map(|(id, path)| ((*id).to_owned(), (*path).to_owned())).collect();
        crate::step::loaded::<RawUnit>(toml)?.resolve(&Renderer::new(serde_json::json!({})), &files)
    }

    fn in_tree(host: &Host, step: &Unit) -> State {
        step.observe(host, &Planned::new()).unwrap()
    }

    #[test]
    fn enabling_and_disabling_in_a_tree() {
        let (_directory, host) = Host::temporary();
        let step = unit("name = 'x.service'\nenabled = true\nactive = true", &[]).unwrap();
        assert!(matches!(in_tree(&host, &step), State::Deferred(_)));
        host.write("/lib/systemd/system/x.service", b"[Install]\nWantedBy=multi-user.target\n", 0o644, Owner::ROOT)
            .unwrap();
        assert_eq!(in_tree(&host, &step), State::Changes(vec![Change::new("enable x.service")]));
        step.converge(&host).unwrap();
        assert!(matches!(in_tree(&host, &step), State::Deferred(why) if why.contains("not started")));
        let off = unit("name = 'x.service'\nenabled = false", &[]).unwrap();
        assert!(matches!(in_tree(&host, &off), State::Changes(_)));
        off.converge(&host).unwrap();
        assert_eq!(in_tree(&host, &off), State::InSync(None));
        let absent = unit("name = 'networking.service'\nenabled = false", &[]).unwrap();
        assert_eq!(in_tree(&host, &absent), State::InSync(None));
    }

    #[test]
    fn a_file_in_a_masks_way_is_moved_aside() {
        let (_directory, host) = Host::temporary();
        host.write("/etc/systemd/system/x.service", b"mine", 0o644, Owner::ROOT).unwrap();
        let step = unit("name = 'x.service'\nmasked = true", &[]).unwrap();
        step.converge(&host).unwrap();
        assert_eq!(in_tree(&host, &step), State::InSync(None));
        assert_eq!(host.read("/etc/systemd/system/x.service.saved").unwrap().unwrap(), b"mine");
        let back = unit("name = 'x.service'\nenabled = true", &[]).unwrap();
        assert!(matches!(in_tree(&host, &back), State::Changes(changes) if changes[0].line.starts_with("unmask")));
    }

    const SECOND: u64 = 1000;

    fn at(ms: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(ms)
    }

    /// A record of one file that changed at this millisecond.
    fn record(invocation: &str, digest: &str, changed_ms: u64) -> Record {
        let stamp = (1, i128::from(changed_ms) * 1_000_000);
        let stamps = [("/etc/f".to_owned(), stamp)].into();
        Record { invocation: invocation.into(), digest: digest.into(), stamps, unit_files: BTreeMap::new() }
    }

    fn active(started_ms: u64) -> systemd::Unit {
        systemd::Unit { active: Active::Active, started: Some(at(started_ms)), ..systemd::Unit::default() }
    }

    #[test]
    fn without_a_record_of_its_start_a_unit_read_what_is_older_than_it_or_than_the_boot() {
        const NEVER: Option<u64> = None;
        for (changed, started, booted, is_read, why) in [
            (8_000, 10_000, NEVER, true, "older by two seconds"),
            (9_000, 10_000, NEVER, true, "older by a second"),
            (9_001, 10_000, NEVER, false, "in the second before the start"),
            (10_000, 10_000, NEVER, false, "at the start"),
            (15_000, 10_000, NEVER, false, "after the start"),
            (9_700, 10_000, Some(9_800), true, "an image that is started right after it was made"),
            (9_700, 9_000, Some(9_800), true, "the same; the start was at 9.9 s, and is given in whole seconds"),
            (9_800, 10_000, Some(9_800), false, "as the boot began"),
            (9_900, 10_000, Some(9_800), false, "after the boot, in the second before the start"),
            (15_000, 10_000, Some(9_800), false, "after both"),
            (15_000, 10_000, Some(3_600_000), false, "after the start; then the clock was set forward by an hour"),
            (9_700, 10_000, Some(11_000), false, "a boot after the start proves nothing"),
            (9_000, 10_000, Some(3_600_000), true, "older by a second; then the clock was set forward"),
            (15_000, 10_000, Some(500), false, "after the start; then the clock was set back"),
        ] {
            for before in [None, Some(record("another", "other", changed)), Some(record("another", "same", 1))] {
                let now = record("a", "same", changed);
                assert_eq!(
                    reads(before.as_ref(), &now, &active(started), || Ok(booted.map(at))).unwrap(),
                    is_read,
                    "{why}: {before:?}"
                );
                let unread = systemd::Unit { needs_reload: true, ..active(started) };
                assert!(!reads(before.as_ref(), &now, &unread, || Ok(booted.map(at))).unwrap(), "{why}");
                let unknown = systemd::Unit { started: None, ..active(started) };
                assert!(!reads(before.as_ref(), &now, &unknown, || Ok(booted.map(at))).unwrap(), "{why}");
            }
        }
    }

    #[test]
    fn a_record_counts_whatever_the_clock_says() {
        // The record; the running unit's start and its files; whether it started with them.
        for (recorded, now, is_read, why) in [
            (record("a", "one", 5 * SECOND), record("a", "one", 5 * SECOND), true, "nothing happened"),
            (record("a", "one", 5 * SECOND), record("a", "one", 8 * SECOND), true, "written and put back"),
            (record("a", "one", 5 * SECOND), record("a", "two", 5 * SECOND), false, "other contents"),
            (record("a", "one", 5 * SECOND), record("b", "one", 5 * SECOND), true, "started by hand, untouched"),
            (record("a", "one", 5 * SECOND), record("b", "one", 8 * SECOND), false, "started by hand, touched"),
            (record("a", "one", 5 * SECOND), record("b", "two", 5 * SECOND), false, "started by hand, other contents"),
        ] {
            // Everything happened long after the start, as after a clock was set back.
            assert_eq!(reads(Some(&recorded), &now, &active(SECOND), || Ok(None)).unwrap(), is_read, "{why}");
        }
    }

    #[test]
    fn what_is_due_of_a_units_processes() {
        use Contents::{Other, Planned, Same};
        for (active, is_wanted, contents, due) in [
            (Active::Active, true, Same, None),
            (Active::Active, false, Same, None),
            (Active::Reloading, true, Same, None),
            (Active::Active, true, Other, Some(Due::Restart(Other))),
            (Active::Active, false, Other, Some(Due::Restart(Other))),
            (Active::Active, true, Planned, Some(Due::Restart(Planned))),
            (Active::Inactive, true, Same, Some(Due::Start(Active::Inactive))),
            (Active::Failed, true, Other, Some(Due::Start(Active::Failed))),
            (Active::Activating, true, Same, Some(Due::Start(Active::Activating))),
            (Active::Inactive, false, Other, None),
            (Active::Failed, false, Planned, None),
        ] {
            let unit = systemd::Unit { active, ..systemd::Unit::default() };
            assert_eq!(running_due(is_wanted, &unit, contents), due, "{active} {is_wanted} {contents:?}");
        }
    }

    #[test]
    fn what_is_due_of_a_mask_and_of_enablement() {
        let mask = || EntryKind::Link("/dev/null".into());
        let link = || vec!["/etc/l".to_owned()];
        for (place, links, has_processes, due) in [
            (None, vec![], false, vec![Due::Mask]),
            (Some(mask()), vec![], false, vec![]),
            (Some(mask()), link(), true, vec![Due::Stop, Due::Unlink("/etc/l".into())]),
            (Some(EntryKind::Link("/lib/x".into())), vec![], false, vec![Due::Mask]),
            (Some(EntryKind::File), link(), false, vec![Due::Unlink("/etc/l".into()), Due::MoveAsideAndMask]),
            (None, vec![], true, vec![Due::Stop, Due::Mask]),
        ] {
            assert_eq!(mask_due(place.as_ref(), links, has_processes), due, "{place:?}");
        }
        let unmask = || Due::Unmask("/m".into());
        for (toml, mask, lacks_links, is_linked, due) in [
            ("enabled = true", None, true, false, vec![Due::Enable]),
            ("enabled = true", None, false, true, vec![]),
            ("enabled = true", Some("/m"), true, false, vec![unmask(), Due::Enable]),
            ("active = true", Some("/m"), true, true, vec![unmask()]),
            ("enabled = false", Some("/m"), true, true, vec![Due::Disable]),
            ("enabled = false", None, true, false, vec![]),
            ("", Some("/m"), true, true, vec![]),
        ] {
            let unit = unit(&format!("name = 'x.service'\n{toml}"), &[]).unwrap();
            let masks = mask.iter().map(|mask: &&str| (*mask).to_owned()).collect();
            assert_eq!(enablement_due(&unit, masks, lacks_links, is_linked), due, "{toml} {mask:?}");
        }
    }

    #[test]
    fn names_without_suffix_and_contradictions_are_refused() {
        for toml in ["name = 'docker'", "name = '../x.service'", "name = 'x.service'\nmasked = true\nactive = true"] {
            unit(toml, &[]).unwrap_err();
        }
    }
}
