//! systemd as PID 1. A run asks it once about all units of a role, and queues few jobs.

mod bus;
#[cfg(test)]
mod fake;
pub mod in_force;
mod message;
pub mod notify;
pub mod pid1;
pub mod unit_files;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::host::command::Patience;
use crate::host::{Host, fs::Owner};

/// A note that systemd must reload its unit files. A run creates it before it changes one, and removes it after the
/// reload. If a run is killed in between, the next one reloads. It is in /run, so that a reboot removes it. systemd's
/// own NeedDaemonReload compares time stamps, which are wrong after a clock was set back.
const RELOAD_NEEDED: &str = "/run/titus-bootstrap/daemon-reload-needed";

/// The directories with unit files, in order of precedence (systemd.unit(5)).
pub const UNIT_DIRECTORIES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// The interface to systemd. A run uses [`pid1::Pid1`], and a test its own implementation.
pub trait Systemd: fmt::Debug {
    /// Starts a question about units, so that the run can do other work; [`Systemd::units`] fetches the answer.
    ///
    /// # Errors
    /// Fails when a signal arrives.
    fn ask(&self, _host: &Host, _names: &BTreeSet<String>) -> Result<()> {
        Ok(())
    }

    /// Discards a question that was started.
    fn forget(&self) {}

    /// The state of each unit, in the order of their names.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
    fn units(&self, host: &Host, names: &BTreeSet<String>) -> Result<Vec<Unit>>;

    /// Runs a job, and waits for its end.
    ///
    /// # Errors
    /// Fails when the job fails, or does not end before the deadline for units.
    fn run_job(&self, host: &Host, job: Job<'_>) -> Result<()>;

    /// Queues a job, and does not wait for it.
    ///
    /// # Errors
    /// Fails when systemd refuses.
    fn queue_job(&self, host: &Host, job: Job<'_>) -> Result<()>;

    /// Whether the machine is shutting down.
    fn is_stopping(&self, host: &Host) -> bool;

    /// The last lines of a unit's journal since then.
    fn journal(&self, host: &Host, name: &str, since: &Since) -> String;

    /// The failed units of the whole machine.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
    fn failed(&self, _host: &Host) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// How long after the machine's start a timer elapses next; `None` if it is not active.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
    fn next_elapse(&self, _host: &Host, _name: &str) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Whether a unit has processes, without a question to systemd, which needs 50 ms to load a masked unit.
    ///
    /// # Errors
    /// Fails when the control groups cannot be examined.
    fn has_processes(&self, host: &Host, name: &str) -> Result<bool>;
}

/// The start of an excerpt of a unit's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// This time, so that the excerpt has every start since then.
    Time(SystemTime),
    /// The start with this invocation id, so that the excerpt has only that start.
    Invocation(String),
}

/// A job for systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job<'a> {
    /// Start this unit.
    Start(&'a str),
    /// Stop this unit.
    Stop(&'a str),
    /// Restart this unit, or start it if it does not run.
    Restart(&'a str),
    /// Make this unit reload its configuration; it must run and support that.
    ReloadUnit(&'a str),
    /// Reset the failed state of this unit and its number of starts, because systemd refuses a start after too many.
    ResetFailed(&'a str),
    /// Reload all unit files: daemon-reload.
    Reload,
    /// Reboot the machine.
    Reboot,
}

/// The property ActiveState of a unit.
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
    /// Its property ActiveState.
    pub active: Active,
    /// `running`, `listening`, `auto-restart`, …
    pub sub: String,
    /// How its last run ended: `success`, `exit-code`, `timeout`, …
    pub result: String,
    /// Whether it has a job that waits or runs.
    pub has_job: bool,
    /// The id of its current start; empty if it has none, and before systemd 232.
    pub invocation: String,
    /// Whether its files have changed since systemd loaded them, according to their time stamps.
    pub needs_reload: bool,
    /// When its main process started, or the unit if it has no process; rounded down to whole seconds.
    pub started: Option<SystemTime>,
    /// How its last main process ended, e.g. `exit status 1`, `signal 9`; empty if it runs or never ran.
    pub ended: String,
    /// How often systemd has restarted it: since this process started it, or in total. Unknown before systemd 235.
    pub restarts: Option<u32>,
}

impl Unit {
    /// Whether it runs, listens, or has ended successfully with `RemainAfterExit=`.
    pub fn is_active(&self) -> bool {
        matches!(self.active, Active::Active | Active::Reloading)
    }

    /// Whether systemd is starting it now; false for a unit that failed and waits for a restart.
    pub fn is_starting(&self) -> bool {
        self.active == Active::Activating && !self.is_restarting()
    }

    /// Whether it ended and systemd will restart it: `auto-restart`, `auto-restart-queued`.
    pub fn is_restarting(&self) -> bool {
        self.active == Active::Activating && self.sub.starts_with("auto-restart")
    }

    /// Whether systemd refuses to start it because it was started too often: `start-limit-hit`,
    /// `service-start-limit-hit`.
    pub fn is_at_start_limit(&self) -> bool {
        self.result.ends_with("start-limit-hit")
    }

    /// Whether systemd has restarted it within this time, so that it may not stay up.
    pub fn is_just_restarted(&self, within: Duration) -> bool {
        let age = self.started.and_then(|started| SystemTime::now().duration_since(started).ok());
        self.restarts.is_some_and(|restarts| restarts > 0) && age.is_some_and(|age| age < within)
    }

    /// Describes its state, e.g. `activating (auto-restart), exit status 1, 3 restarts`.
    pub fn state_words(&self) -> String {
        let sub = Some(format!(" ({})", self.sub)).filter(|_| !self.sub.is_empty()).unwrap_or_default();
        let ended = Some(format!(", {}", self.ended)).filter(|_| !self.ended.is_empty()).unwrap_or_default();
        let restarts = match self.restarts {
            Some(1) => ", 1 restart".to_owned(),
            Some(restarts) => format!(", {restarts} restarts"),
            None => String::new(),
        };
        format!("{}{sub}{ended}{restarts}", self.active)
    }

    /// Whether systemd is starting, stopping or reloading it, or has a job for it.
    pub fn is_under_way(&self) -> bool {
        self.has_job || matches!(self.active, Active::Activating | Active::Deactivating | Active::Reloading)
    }
}

/// The units that a run asks systemd about, and its last answer.
#[derive(Debug, Default)]
pub(crate) struct Units {
    watched: RefCell<BTreeSet<String>>,
    known: RefCell<BTreeMap<String, Unit>>,
    /// The names in each directory of units.
    lists: RefCell<BTreeMap<String, BTreeSet<String>>>,
    /// The units that this process started: the time of the first start, and systemd's count of restarts at that time.
    /// A stop between two tries does not reset that count.
    started: RefCell<BTreeMap<String, (SystemTime, u32)>>,
    /// For each unit that is up, its start and the time since when this process has seen it up.
    up: RefCell<BTreeMap<String, (String, Instant)>>,
}

impl Host {
    /// Names units that the run will ask about, so that one question to systemd covers all.
    pub fn watch_units<'a>(&self, names: impl Iterator<Item = &'a str>) {
        self.units.watched.borrow_mut().extend(names.map(str::to_owned));
    }

    /// Whether systemd runs on this machine. It does not during an image build.
    ///
    /// # Errors
    /// Fails when /run cannot be examined.
    pub fn has_systemd(&self) -> Result<bool> {
        Ok(self.is_live() && self.entry("/run/systemd/system")?.is_some())
    }

    /// The state of a unit. Asks once about all watched units.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
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

    /// Whether systemd is starting or stopping a unit, or has a job for it.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
    pub fn is_under_way(&self, name: &str) -> Result<bool> {
        if !self.has_systemd()? {
            return Ok(false);
        }
        let units = self.systemd.units(self, &BTreeSet::from([name.to_owned()]))?;
        Ok(units.iter().any(Unit::is_under_way))
    }

    /// The failed units of the whole machine; empty if systemd does not run.
    ///
    /// # Errors
    /// Fails when systemd does not answer.
    pub fn failed_units(&self) -> Result<Vec<String>> {
        if self.has_systemd()? { self.systemd.failed(self) } else { Ok(Vec::new()) }
    }

    /// The time until a monotonic timer of systemd elapses; `None` if it is not active or unknown.
    pub fn next_elapse(&self, name: &str) -> Option<Duration> {
        if !self.has_systemd().ok()? {
            return None;
        }
        let at = self.systemd.next_elapse(self, name).ok()??;
        Some(at.saturating_sub(self.uptime()?))
    }

    /// Starts a question about all watched units; [`Host::unit`] fetches the answer.
    ///
    /// # Errors
    /// Fails when a signal arrives.
    pub fn ask_for_units(&self) -> Result<()> {
        let watched = self.units.watched.borrow();
        if watched.is_empty() || !self.has_systemd()? { Ok(()) } else { self.systemd.ask(self, &watched) }
    }

    /// Whether a unit has processes; cheaper than a question about its state.
    ///
    /// # Errors
    /// Fails when the control groups cannot be examined.
    pub fn has_processes(&self, name: &str) -> Result<bool> {
        self.systemd.has_processes(self, name)
    }

    /// Discards systemd's answers after something that may have changed them.
    pub fn forget_units(&self) {
        self.units.known.borrow_mut().clear();
        self.forget_unit_lists();
        self.systemd.forget();
    }

    /// Notes that a unit file is about to change, so that a run reloads systemd later. Links that enable a unit need no
    /// reload, because they matter only at the next boot.
    ///
    /// # Errors
    /// Fails when the note cannot be written.
    pub fn note_unit_file(&self, path: &str) -> Result<()> {
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

    /// Whether this program has changed a unit file since systemd loaded them.
    ///
    /// # Errors
    /// Fails when the note cannot be examined.
    pub fn is_reload_noted(&self) -> Result<bool> {
        Ok(self.entry(RELOAD_NEEDED)?.is_some())
    }

    /// Makes systemd reload its unit files if this program has changed one, or if the time stamps show that the files
    /// of this unit have changed.
    ///
    /// # Errors
    /// Fails when systemd does not answer or the reload fails.
    pub fn reload_units_for(&self, name: &str) -> Result<()> {
        if self.is_reload_noted()? || self.unit(name)?.needs_reload { self.reload_units() } else { Ok(()) }
    }

    /// Makes systemd reload its unit files if this program has changed one.
    ///
    /// # Errors
    /// Fails when the reload fails.
    pub fn reload_units_if_noted(&self) -> Result<()> {
        let is_due = self.has_systemd()? && self.is_reload_noted()?;
        if is_due { self.reload_units() } else { Ok(()) }
    }

    fn reload_units(&self) -> Result<()> {
        self.run_job(Job::Reload)?;
        self.remove(RELOAD_NEEDED)
    }

    /// When this process first started this unit, if it did.
    pub fn started_by_us(&self, name: &str) -> Option<SystemTime> {
        self.units.started.borrow().get(name).map(|(time, _)| *time)
    }

    /// How long this process has seen a unit up since the start with this id. Independent of changes to the clock.
    pub fn up_for(&self, name: &str, start: &str) -> Duration {
        let mut up = self.units.up.borrow_mut();
        let seen = up.entry(name.to_owned()).or_insert_with(|| (start.to_owned(), Instant::now()));
        if seen.0 != start {
            *seen = (start.to_owned(), Instant::now());
        }
        seen.1.elapsed()
    }

    /// Starts, restarts or stops a unit, and waits for the end of the job.
    ///
    /// # Errors
    /// Fails when the job fails or does not end before the deadline; the error has the unit's state and last journal
    /// lines.
    pub fn change_unit(&self, job: Job<'_>) -> Result<()> {
        let (verb, name) = match job {
            Job::Start(name) => ("start", name),
            Job::Stop(name) => ("stop", name),
            Job::Restart(name) => ("restart", name),
            Job::ReloadUnit(name) => ("reload", name),
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
            let (port, words) = self.diagnosis(name);
            let cause = format!("{port}{}\n{words}", error.cause.as_deref().unwrap_or_default());
            Error::failed(format!("{name}: {verb} failed ({})", error.what)).cause(cause.trim()).fix(format!(
                "systemctl status {name}; journalctl --unit={name}; fix the cause and run titus-bootstrap again"
            ))
        })
    }

    fn run_job(&self, job: Job<'_>) -> Result<()> {
        let result = self.systemd.run_job(self, job);
        self.forget_units();
        result
    }

    /// Queues a job, and does not wait for it.
    ///
    /// # Errors
    /// Fails when systemd refuses.
    pub fn queue_job(&self, job: Job<'_>) -> Result<()> {
        self.systemd.queue_job(self, job)
    }

    /// Whether the machine is shutting down.
    pub fn is_stopping(&self) -> bool {
        self.systemd.is_stopping(self)
    }

    /// The last lines of a unit's journal since this process first started it, or else of its last start; empty for a
    /// unit that never started.
    pub fn unit_journal(&self, name: &str) -> String {
        let unit = self.unit(name).ok();
        let is_restarting = unit.as_ref().is_some_and(Unit::is_restarting);
        let last_start = unit.and_then(|unit| match (unit.invocation, unit.started) {
            (id, _) if !id.is_empty() => Some(Since::Invocation(id)),
            (_, started) => started.map(Since::Time),
        });
        let read = |since: Since| self.systemd.journal(self, name, &since);
        match self.started_by_us(name).map(|time| read(Since::Time(time))) {
            // systemd makes a start wait until it restarts the unit itself: its last words are of the start before.
            Some(words) if words.trim().is_empty() && is_restarting => last_start.map_or(words, read),
            Some(words) => words,
            None => last_start.map_or_else(String::new, read),
        }
    }

    /// The last lines of a unit's journal, from any start and any boot.
    ///
    /// # Errors
    /// Fails when the journal cannot be read.
    pub fn last_lines_of_unit(&self, name: &str, lines: usize) -> Result<String> {
        let (unit, lines) = (format!("--unit={name}"), format!("--lines={lines}"));
        let argv = ["journalctl", "--no-pager", "--output=short-iso", "--quiet", &lines, &unit];
        let output = self.run_command(&argv, &[], Patience::Ends, Duration::from_secs(20))?;
        output.succeeded().map(|output| output.stdout)
    }

    /// systemd's version in its own form: `systemd 252 (252.38-1~deb12u1)`.
    ///
    /// # Errors
    /// Fails when systemctl fails.
    pub fn systemd_version(&self) -> Result<String> {
        let output = self.run_command(&["systemctl", "--version"], &[], Patience::Ends, Duration::from_secs(10))?;
        Ok(output.succeeded()?.stdout.lines().next().unwrap_or_default().to_owned())
    }

    /// A unit's state and its last journal lines, for an error.
    pub fn unit_words(&self, name: &str) -> String {
        let (port, words) = self.diagnosis(name);
        format!("{port}{words}")
    }

    /// A line about the process that has the port that the unit needs, or nothing; and the unit's state and last lines.
    fn diagnosis(&self, name: &str) -> (String, String) {
        let state = self.unit(name).map_or_else(|_| "in an unknown state".to_owned(), |unit| unit.state_words());
        let journal = without_usual_lines(&self.unit_journal(name));
        let none = if journal.trim().is_empty() { " none" } else { "" };
        let files = self.unit_files(name, &BTreeMap::new()).unwrap_or_default();
        let files = files.into_iter().map(|file| file.path).collect::<Vec<_>>().join(", ");
        let words = format!(
            "{name} is {state}; its files: {files}; the last lines of its journal since its start:{none}\n{journal}"
        );
        let holder = |port| Some((port, self.listener(port).ok()??));
        let taken = taken_port(&journal).and_then(holder);
        let taken = taken.map_or(String::new(), |(port, who)| format!("port {port} is in use: {who} listens on it\n"));
        (taken, words.trim_end().to_owned())
    }

    /// When this machine's PID 1 started, by the current clock; `None` if /proc does not say.
    ///
    /// # Errors
    /// Fails when /proc cannot be read.
    pub fn boot_time(&self) -> Result<Option<SystemTime>> {
        let stat = self.read_text("/proc/1/stat")?;
        let running = stat.zip(self.uptime()).and_then(|(stat, uptime)| age_of_first_process(&stat, uptime));
        Ok(running.and_then(|running| SystemTime::now().checked_sub(running)))
    }
}

/// How long PID 1 has run, from /proc/1/stat (proc(5)) and the machine's uptime.
fn age_of_first_process(stat: &str, uptime: Duration) -> Option<Duration> {
    /// Ticks of `starttime` per second, which are the same on every architecture that roles name.
    const TICKS: u64 = 100;
    // The name in parentheses can have any characters. The text after it begins with the third field; starttime is the
    // 22nd.
    let (_, fields) = stat.rsplit_once(')')?;
    let started: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    uptime.checked_sub(Duration::from_millis(started.checked_mul(1000 / TICKS)?))
}

/// The lines of a unit's journal without those that systemd writes at every start and end, which would hide the reason.
/// Returns all lines if there are no others.
fn without_usual_lines(journal: &str) -> String {
    // systemd before 248 has "Succeeded", and no "Deactivated successfully".
    const USUAL: [&str; 12] = [
        "Starting ",
        "Started ",
        "Finished ",
        "Stopping ",
        "Stopped ",
        "Failed to start ",
        ": Scheduled restart job",
        ": Main process exited",
        ": Failed with result 'exit-code'",
        ": Consumed ",
        ": Deactivated successfully",
        ": Succeeded",
    ];
    let is_usual = |line: &&str| {
        let message = line.split_once(" systemd[1]: ").map(|(_, message)| message);
        message.is_some_and(|message| {
            USUAL
                .iter()
                .any(|usual| if usual.starts_with(':') { message.contains(usual) } else { message.starts_with(usual) })
        })
    };
    let own: Vec<&str> = journal.lines().filter(|line| !is_usual(line)).collect();
    if own.is_empty() { journal.to_owned() } else { own.join("\n") }
}

/// The port that a program or systemd could not use, from its last message about that.
fn taken_port(journal: &str) -> Option<u16> {
    let is_of_a_port = |line: &&str| {
        let line = line.to_lowercase();
        line.contains("address already in use") || line.contains("listening socket (")
    };
    let line = journal.lines().rev().find(is_of_a_port)?;
    // The time at the start of a line has colons, too.
    let message = line.split_once("]: ").map_or(line, |(_, message)| message);
    message.rsplit(':').find_map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..digits].parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_s_usual_lines_do_not_hide_a_program_s_message() {
        let usual = "11:40:23 node systemd[1]: Started x.service - X.\n\
                     11:40:24 node systemd[1]: x.service: Main process exited, code=exited, status=7/NOTRUNNING\n\
                     11:40:24 node systemd[1]: x.service: Failed with result 'exit-code'.";
        assert_eq!(without_usual_lines(usual), usual);
        let of_247 = "11:40:22 node systemd[1]: x.service: Succeeded.\n11:40:22 node systemd[1]: Finished X.\n";
        assert_eq!(without_usual_lines(&format!("{of_247}11:40:24 node x[7]: no disk")), "11:40:24 node x[7]: no disk");
        let reason = "11:40:23 node x[7]: Started with no disk\n11:40:24 node systemd[1]: x.service: Failed with result 'oom-kill'.";
        assert_eq!(without_usual_lines(&format!("{usual}\n{reason}\n{usual}\n")), reason);
        assert_eq!(without_usual_lines(""), "");
    }

    #[test]
    fn a_taken_port_is_found_in_the_journal() {
        let start = "2026-11-26T11:40:42+0000 ip-30-0-100-140";
        for (words, port) in [
            (
                "systemd[1]: x.socket: Failed to receive listening socket (127.0.0.1:4243): Input/output error",
                Some(4243),
            ),
            ("systemd[1]: x.socket: Failed to create listening socket ([::]:80): Address already in use", Some(80)),
            ("dockerd[7]: listen tcp 0.0.0.0:2375: bind: address already in use", Some(2375)),
            (
                "mesos-agent[7]: Failed to initialize: Failed to bind on 0.0.0.0:5051: Address already in use [98]",
                Some(5051),
            ),
            ("java[7]: java.net.BindException: Address already in use", None),
            ("systemd[1]: x.socket: Failed to create listening socket (/run/x.sock): Address already in use", None),
            ("mesos-agent[7]: listening on 0.0.0.0:5051", None),
        ] {
            assert_eq!(taken_port(&format!("{start} {words}\n{start} systemd[1]: x: Failed.\n")), port, "{words}");
        }
    }

    #[test]
    fn the_age_of_pid_1_is_read_from_proc() {
        let stat = "1 (sys) temd) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1250 170000000 3000";
        let (_directory, host) = Host::temporary();
        host.write("/proc/1/stat", stat.as_bytes(), 0o444, Owner::ROOT).unwrap();
        let age = |uptime: &str| {
            host.write("/proc/uptime", uptime.as_bytes(), 0o444, Owner::ROOT).unwrap();
            host.uptime().and_then(|uptime| age_of_first_process(stat, uptime))
        };
        assert_eq!(age("100.50 90.00\n"), Some(Duration::from_secs(88)));
        for uptime in ["", "-1", "nan", "1.0", "1e300"] {
            assert_eq!(age(uptime), None, "{uptime:?}");
        }
        for stat in ["", "1 (x) S 0"] {
            assert_eq!(age_of_first_process(stat, Duration::from_secs(1)), None, "{stat:?}");
        }
        let booted = Host::live(Default::default()).boot_time().unwrap().unwrap();
        assert!(booted <= SystemTime::now());
    }
}
