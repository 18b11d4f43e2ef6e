//! systemd as PID 1: asked once for all units of a role, and given few jobs.

pub mod in_force;
pub mod notify;
pub mod systemctl;
pub mod unit_files;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::host::{Host, fs::Owner};

/// Made before a unit file is touched, removed after systemd has read them anew. It
/// lies in /run, so that it lives as long as the systemd of which it speaks, and a
/// run that was killed in between is made up for by the next. (systemd's own
/// NeedDaemonReload compares time stamps, which lie when a clock was set back.)
const RELOAD_NEEDED: &str = "/run/titus-bootstrap/daemon-reload-needed";

/// Where unit files lie, the first that has one wins (systemd.unit(5)).
pub const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// The conversation with systemd. A run has [`systemctl::Systemctl`], a test one of its own; nothing else depends on
/// how systemd is asked.
pub trait Systemd: fmt::Debug {
    /// Begins to ask about units, so that other work goes on meanwhile; [`Systemd::units`] fetches the answer.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    fn ask(&self, _host: &Host, _names: &BTreeSet<String>) -> Result<()> {
        Ok(())
    }

    /// Drops the answer to a question that was begun.
    fn forget(&self) {}

    /// The state of each unit, in the order of their names.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    fn units(&self, host: &Host, names: &BTreeSet<String>) -> Result<Vec<Unit>>;

    /// What systemd made of a unit's files.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    fn definition(&self, host: &Host, name: &str) -> Result<Definition>;

    /// Does a job, and follows it to its end.
    ///
    /// # Errors
    /// When the job fails, or the deadline for units is over.
    fn run_job(&self, host: &Host, job: Job<'_>) -> Result<()>;

    /// Has systemd do a job at its own time.
    ///
    /// # Errors
    /// When systemd refuses.
    fn queue_job(&self, host: &Host, job: Job<'_>) -> Result<()>;

    /// Whether the machine is shutting down.
    fn is_stopping(&self, host: &Host) -> bool;

    /// The last lines of a unit's journal, of those that it has since then.
    fn journal(&self, host: &Host, name: &str, since: &Since) -> String;

    /// Whether a unit runs, without making systemd load one that it does not know: asking about a masked unit that is
    /// not loaded takes it 50 ms.
    ///
    /// # Errors
    /// When that cannot be looked at.
    fn has_processes(&self, host: &Host, name: &str) -> Result<bool>;
}

/// Where an excerpt of a unit's journal begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// At this time: every attempt since then counts.
    Time(SystemTime),
    /// With the start that this invocation id names, of which nothing else counts.
    Invocation(String),
}

/// What systemd is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job<'a> {
    /// Start this unit.
    Start(&'a str),
    /// Stop this unit.
    Stop(&'a str),
    /// Restart this unit, or start it.
    Restart(&'a str),
    /// Forget that this unit failed, and how often it was started: systemd refuses a start after too many.
    ResetFailed(&'a str),
    /// Read all unit files anew: daemon-reload.
    Reload,
    /// Reboot the machine.
    Reboot,
}

/// Whether a unit is active: the property ActiveState.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "systemd's own words")]
pub enum Active {
    Active,
    Reloading,
    #[default]
    Inactive,
    Failed,
    Activating,
    Deactivating,
}

impl fmt::Display for Active {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Active::Active => "active",
            Active::Reloading => "reloading",
            Active::Inactive => "inactive",
            Active::Failed => "failed",
            Active::Activating => "activating",
            Active::Deactivating => "deactivating",
        })
    }
}

/// The state of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// Whether it is active.
    pub active: Active,
    /// `running`, `listening`, `auto-restart`, …
    pub sub: String,
    /// How its last run ended: `success`, `exit-code`, `timeout`, …
    pub result: String,
    /// Whether a job of it waits or is under way.
    pub has_job: bool,
    /// Names one start of the unit; empty when it has none, or before systemd 232.
    pub invocation: String,
    /// Its files changed since systemd read them, by their time stamps.
    pub needs_reload: bool,
    /// When its main process, or for want of one the unit, was started; in whole seconds, the rest cut off.
    pub started: Option<SystemTime>,
    /// How its last main process ended: `exit status 1`, `signal 9`; empty if it runs, or never ran.
    pub ended: String,
    /// How often systemd has started it again by itself; of a unit that this process started, since then. Before systemd
    /// 235 unknown.
    pub restarts: Option<u32>,
}

impl Unit {
    /// Running, listening, or done with success while it remains.
    pub fn is_active(&self) -> bool {
        matches!(self.active, Active::Active | Active::Reloading)
    }

    /// Whether it is being started now. One that failed and waits for its next try is not.
    pub fn is_starting(&self) -> bool {
        self.active == Active::Activating && !self.is_restarting()
    }

    /// Whether it ended, and systemd is about to start it again: `auto-restart`, `auto-restart-queued`.
    pub fn is_restarting(&self) -> bool {
        self.active == Active::Activating && self.sub.starts_with("auto-restart")
    }

    /// Whether systemd refuses to start it, because it was started too often: `start-limit-hit`,
    /// `service-start-limit-hit`.
    pub fn is_at_start_limit(&self) -> bool {
        self.result.ends_with("start-limit-hit")
    }

    /// Whether systemd has started it again by itself within this time, so that it may not stay up.
    pub fn is_just_restarted(&self, within: Duration) -> bool {
        let age = self.started.and_then(|started| SystemTime::now().duration_since(started).ok());
        self.restarts.is_some_and(|restarts| restarts > 0) && age.is_some_and(|age| age < within)
    }

    /// How it fares, in words: `activating (auto-restart), exit status 1, 3 restarts`.
    pub fn fate(&self) -> String {
        let sub = Some(format!(" ({})", self.sub)).filter(|_| !self.sub.is_empty()).unwrap_or_default();
        let ended = Some(format!(", {}", self.ended)).filter(|_| !self.ended.is_empty()).unwrap_or_default();
        let restarts = match self.restarts {
            Some(1) => ", 1 restart".to_owned(),
            Some(restarts) => format!(", {restarts} restarts"),
            None => String::new(),
        };
        format!("{}{sub}{ended}{restarts}", self.active)
    }

    /// Whether it is being started or stopped now, or waits for its turn.
    pub fn is_under_way(&self) -> bool {
        self.has_job || matches!(self.active, Active::Activating | Active::Deactivating | Active::Reloading)
    }
}

/// What systemd made of a unit's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// `enabled`, `disabled`, `static`, `masked`, …; empty when it has no file.
    pub enabled: String,
    /// The file that defines it; empty when there is none.
    pub fragment: String,
    /// The drop-ins that change it, in the order in which they are read.
    pub drop_ins: Vec<String>,
    /// Each command that starts it, as systemd prints it.
    pub exec_start: Vec<String>,
}

/// The units that systemd is asked about, and its last answer.
#[derive(Debug, Default)]
pub(crate) struct Units {
    watched: RefCell<BTreeSet<String>>,
    known: RefCell<BTreeMap<String, Unit>>,
    /// The directories with drop-ins, of all units.
    drop_ins: RefCell<Option<BTreeSet<String>>>,
    /// The units that this process had systemd start: when for the first time, and how many restarts systemd had counted
    /// by then. (A stop between two tries does not set that count to zero.)
    started: RefCell<BTreeMap<String, (SystemTime, u32)>>,
    /// The start of each unit that was last seen up, and since when.
    up: RefCell<BTreeMap<String, (String, Instant)>>,
}

impl Units {
    /// The directories with drop-ins; `look` lists them the first time.
    fn drop_in_directories(&self, look: impl FnOnce() -> Result<BTreeSet<String>>) -> Result<BTreeSet<String>> {
        let mut known = self.drop_ins.borrow_mut();
        if known.is_none() {
            *known = Some(look()?);
        }
        Ok(known.clone().unwrap_or_default())
    }
}

impl Host {
    /// Names units that will be asked for, so that one question serves all.
    pub fn watch_units<'a>(&self, names: impl Iterator<Item = &'a str>) {
        self.units.watched.borrow_mut().extend(names.map(str::to_owned));
    }

    /// Whether a systemd runs this machine. An image is built without.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub fn has_systemd(&self) -> Result<bool> {
        Ok(self.is_live() && self.entry("/run/systemd/system")?.is_some())
    }

    /// The state of a unit. Asks once for all watched units.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn unit(&self, name: &str) -> Result<Unit> {
        if !self.units.known.borrow().contains_key(name) {
            self.units.watched.borrow_mut().insert(name.to_owned());
            let names = self.units.watched.borrow().clone();
            let units = self.systemd.units(self, &names)?;
            *self.units.known.borrow_mut() = names.into_iter().zip(units).collect();
        }
        let mut unit = self.units.known.borrow().get(name).cloned().unwrap_or_default();
        if let Some((_, before)) = self.units.started.borrow().get(name) {
            unit.restarts = unit.restarts.map(|restarts| restarts.saturating_sub(*before));
        }
        Ok(unit)
    }

    /// What systemd made of a unit's files.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn unit_definition(&self, name: &str) -> Result<Definition> {
        self.systemd.definition(self, name)
    }

    /// Whether a unit is being started or stopped now, or waits for its turn.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn is_under_way(&self, name: &str) -> Result<bool> {
        if !self.has_systemd()? {
            return Ok(false);
        }
        let units = self.systemd.units(self, &BTreeSet::from([name.to_owned()]))?;
        Ok(units.iter().any(Unit::is_under_way))
    }

    /// Asks systemd about all watched units; [`Host::unit`] fetches the answer.
    ///
    /// # Errors
    /// When systemctl cannot be started.
    pub fn ask_for_units(&self) -> Result<()> {
        let watched = self.units.watched.borrow();
        if watched.is_empty() || !self.has_systemd()? { Ok(()) } else { self.systemd.ask(self, &watched) }
    }

    /// Whether a unit has processes; cheaper than to ask for its state.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub fn has_processes(&self, name: &str) -> Result<bool> {
        self.systemd.has_processes(self, name)
    }

    /// Forgets what systemd said, after something that may have changed it.
    pub fn forget_units(&self) {
        self.units.known.borrow_mut().clear();
        self.systemd.forget();
    }

    /// Notes that a unit file is about to change, so that systemd will read it anew. Links that
    /// enable a unit need none: they matter at the next boot, when everything is read anew.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_unit_file(&self, path: &str) -> Result<()> {
        *self.units.drop_ins.borrow_mut() = None;
        let below = |rest: &str| {
            rest.starts_with('/') && ![".wants/", ".requires/", ".upholds/"].iter().any(|dir| rest.contains(dir))
        };
        let concerns = UNIT_DIRECTORIES.iter().any(|d| path.strip_prefix(d).is_some_and(below));
        if !self.is_live() || !concerns || self.entry(RELOAD_NEEDED)?.is_some() {
            return Ok(());
        }
        self.forget_units();
        self.write(RELOAD_NEEDED, b"", 0o644, Owner::ROOT)
    }

    /// Whether a run of ours changed a unit file since systemd read them.
    ///
    /// # Errors
    /// When that cannot be looked at.
    pub fn is_reload_noted(&self) -> Result<bool> {
        Ok(self.entry(RELOAD_NEEDED)?.is_some())
    }

    /// Has systemd read its unit files anew if one changed since it did, or if its time
    /// stamps say so of this unit.
    ///
    /// # Errors
    /// When it fails.
    pub fn reload_units_for(&self, name: &str) -> Result<()> {
        if self.is_reload_noted()? || self.unit(name)?.needs_reload { self.reload_units() } else { Ok(()) }
    }

    /// Has systemd read its unit files anew if a run of ours changed one since it did.
    ///
    /// # Errors
    /// When it fails.
    pub fn reload_units_if_noted(&self) -> Result<()> {
        let is_due = self.has_systemd()? && self.is_reload_noted()?;
        if is_due { self.reload_units() } else { Ok(()) }
    }

    fn reload_units(&self) -> Result<()> {
        self.run_job(Job::Reload)?;
        self.remove(RELOAD_NEEDED)
    }

    /// When this process first had systemd start this unit, if it did.
    pub fn started_by_us(&self, name: &str) -> Option<SystemTime> {
        self.units.started.borrow().get(name).map(|(time, _)| *time)
    }

    /// How long this process has seen a unit up, since the start that this names. (The clock may be set meanwhile.)
    pub fn up_for(&self, name: &str, start: &str) -> Duration {
        let mut up = self.units.up.borrow_mut();
        let seen = up.entry(name.to_owned()).or_insert_with(|| (start.to_owned(), Instant::now()));
        if seen.0 != start {
            *seen = (start.to_owned(), Instant::now());
        }
        seen.1.elapsed()
    }

    /// Starts, restarts or stops a unit, and waits for the job's end.
    ///
    /// # Errors
    /// When the job fails or the deadline for units is over; with the unit's state and its last journal lines.
    pub fn change_unit(&self, job: Job<'_>) -> Result<()> {
        let (verb, name) = match job {
            Job::Start(name) => ("start", name),
            Job::Stop(name) => ("stop", name),
            Job::Restart(name) => ("restart", name),
            Job::ResetFailed(name) => ("reset-failed", name),
            Job::Reload | Job::Reboot => return self.run_job(job),
        };
        let is_first = matches!(job, Job::Start(_) | Job::Restart(_)) && self.started_by_us(name).is_none();
        if is_first {
            self.units.started.borrow_mut().insert(name.to_owned(), (SystemTime::now(), 0));
        }
        let result = self.run_job(job);
        if is_first
            && let Some(restarts) = self.unit(name)?.restarts
            && let Some((_, before)) = self.units.started.borrow_mut().get_mut(name)
        {
            *before = restarts;
        }
        result.map_err(|error| {
            if error.kind == Kind::Interrupted {
                return error;
            }
            let words = self.unit_words(name);
            let cause = format!("{}\n{words}", error.cause.as_deref().unwrap_or_default());
            Error::failed(format!("{name}: {verb} failed ({})", error.what)).cause(cause.trim()).fix(format!(
                "systemctl status {name}; journalctl --unit={name}; mend it and run titus-bootstrap again"
            ))
        })
    }

    fn run_job(&self, job: Job<'_>) -> Result<()> {
        let result = self.systemd.run_job(self, job);
        self.forget_units();
        result
    }

    /// Has systemd do a job at its own time.
    ///
    /// # Errors
    /// When systemd refuses.
    pub fn queue_job(&self, job: Job<'_>) -> Result<()> {
        self.systemd.queue_job(self, job)
    }

    /// Whether the machine is shutting down.
    pub fn is_stopping(&self) -> bool {
        self.systemd.is_stopping(self)
    }

    /// The last lines of a unit's journal: since this process first started it, else of its last start; none of a unit
    /// that was never started.
    pub fn unit_journal(&self, name: &str) -> String {
        let of_last_start = |unit: Unit| match (unit.invocation, unit.started) {
            (id, _) if !id.is_empty() => Some(Since::Invocation(id)),
            (_, started) => started.map(Since::Time),
        };
        let started = self.started_by_us(name).map(Since::Time);
        let since = started.or_else(|| self.unit(name).ok().and_then(of_last_start));
        since.map_or_else(String::new, |since| self.systemd.journal(self, name, &since))
    }

    /// How a unit fares and what it said last, for an error.
    pub fn unit_words(&self, name: &str) -> String {
        let fate = self.unit(name).map_or_else(|_| "in an unknown state".to_owned(), |unit| unit.fate());
        let journal = self.unit_journal(name);
        let none = if journal.trim().is_empty() { " none" } else { "" };
        format!("{name} is {fate}; the last lines of its journal since its start:{none}\n{journal}")
            .trim_end()
            .to_owned()
    }

    /// When this machine's PID 1 was started, by the clock of now; unknown where /proc does not say.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn boot_time(&self) -> Result<Option<SystemTime>> {
        let (stat, uptime) = (self.read_text("/proc/1/stat")?, self.read_text("/proc/uptime")?);
        let running = stat.zip(uptime).and_then(|(stat, uptime)| age_of_first_process(&stat, &uptime));
        Ok(running.and_then(|running| SystemTime::now().checked_sub(running)))
    }
}

/// How long PID 1 has run, of its /proc/1/stat and /proc/uptime (proc(5)).
fn age_of_first_process(stat: &str, uptime: &str) -> Option<Duration> {
    /// Ticks of `starttime` in a second, the same on every architecture that roles name.
    const TICKS: u64 = 100;
    // The name in parentheses may have any characters. What follows it begins with the third field; starttime is 22nd.
    let (_, fields) = stat.rsplit_once(')')?;
    let started: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let uptime = Duration::try_from_secs_f64(uptime).ok()?;
    uptime.checked_sub(Duration::from_millis(started.checked_mul(1000 / TICKS)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_says_how_long_pid_1_has_run() {
        let stat = "1 (sys) temd) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1250 170000000 3000";
        assert_eq!(age_of_first_process(stat, "100.50 90.00\n"), Some(Duration::from_secs(88)));
        for (stat, uptime) in
            [("", "1.0"), ("1 (x) S 0", "1.0"), (stat, ""), (stat, "-1"), (stat, "nan"), (stat, "1.0")]
        {
            assert_eq!(age_of_first_process(stat, uptime), None, "{stat:?} {uptime:?}");
        }
        let booted = Host::live(Default::default()).boot_time().unwrap().unwrap();
        assert!(booted <= SystemTime::now());
    }
}
