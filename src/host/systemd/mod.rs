//! systemd as PID 1: asked once for all units of a role, told in few commands.

pub mod notify;
pub mod unit_files;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Kind, Result};
use crate::host::command::{self, Patience};
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

/// What systemd says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// `loaded`, `not-found`, `masked`, `bad-setting`, `error`.
    pub load: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active: String,
    /// `running`, `listening`, `auto-restart`, …
    pub sub: String,
    /// Names one start of the unit; empty when it has none, or before systemd 232.
    pub invocation: String,
    /// Its files changed since systemd read them, by their time stamps.
    pub needs_reload: bool,
    /// When its main process, or for want of one the unit, was started.
    pub started: Option<SystemTime>,
}

impl Unit {
    /// Running, listening, or done with success while it remains.
    pub fn is_active(&self) -> bool {
        matches!(self.active.as_str(), "active" | "reloading")
    }
}

/// What was asked for, and what is known.
#[derive(Debug, Default)]
pub(crate) struct Units {
    watched: RefCell<BTreeSet<String>>,
    asked: RefCell<Option<command::Started>>,
    known: RefCell<BTreeMap<String, Unit>>,
}

impl Host {
    /// Names units that will be asked for, so that one question serves all.
    pub fn watch_units<'a>(&self, names: impl Iterator<Item = &'a str>) {
        self.units.watched.borrow_mut().extend(names.map(str::to_owned));
    }

    /// What systemd says of a unit now. Asks once for all watched units.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn unit(&self, name: &str) -> Result<Unit> {
        if let Some(unit) = self.units.known.borrow().get(name) {
            return Ok(unit.clone());
        }
        let new = self.units.watched.borrow_mut().insert(name.to_owned());
        let asked = self.units.asked.take().filter(|_| !new);
        let output = asked.map_or_else(|| self.start_asking_systemd(), Ok)?.end()?.succeeded()?;
        let names = self.units.watched.borrow().clone();
        let units: Vec<Unit> = output.stdout.split("\n\n").map(parse).collect();
        if units.len() != names.len() {
            return Err(Error::failed(format!("`{}` told of {} units", output.command, units.len())));
        }
        *self.units.known.borrow_mut() = names.into_iter().zip(units).collect();
        Ok(self.units.known.borrow().get(name).cloned().unwrap_or_default())
    }

    /// Whether a unit is being started or stopped now, or waits for its turn.
    ///
    /// # Errors
    /// When systemd cannot be asked.
    pub fn is_under_way(&self, name: &str) -> Result<bool> {
        if !self.is_live() || self.entry("/run/systemd/system")?.is_none() {
            return Ok(false);
        }
        let argv = ["systemctl", "show", "--property=ActiveState,Job", "--", name];
        let output = command::run(&argv, &[], Patience::Ends, self.deadlines.unit)?.succeeded()?;
        Ok(says_under_way(&output.stdout))
    }

    /// Asks systemd about all watched units; [`Host::unit`] fetches the answer.
    ///
    /// # Errors
    /// When systemctl cannot be started.
    pub fn ask_for_units(&self) -> Result<()> {
        if !self.units.watched.borrow().is_empty() && self.entry("/run/systemd/system")?.is_some() {
            *self.units.asked.borrow_mut() = Some(self.start_asking_systemd()?);
        }
        Ok(())
    }

    fn start_asking_systemd(&self) -> Result<command::Started> {
        let watched = self.units.watched.borrow();
        let mut argv = vec![
            "systemctl",
            "show",
            "--property=LoadState,ActiveState,SubState,InvocationID,NeedDaemonReload,ExecMainStartTimestamp,ActiveEnterTimestamp",
            "--",
        ];
        argv.extend(watched.iter().map(String::as_str));
        command::start(&argv, &[], self.deadlines.unit)
    }

    /// Whether a unit runs, without making systemd load one that it does not know:
    /// asking about a masked unit that is not loaded takes it 50 ms.
    ///
    /// # Errors
    /// When /sys/fs/cgroup cannot be looked at.
    pub fn has_processes(&self, name: &str) -> Result<bool> {
        // `1:name=systemd:/init.scope`, or `0::/init.scope`; in a container with its prefix.
        let own = self.read_text("/proc/1/cgroup")?.unwrap_or_default();
        for line in own.lines().filter(|line| line.starts_with("0::") || line.contains(":name=systemd:")) {
            let prefix = line.rsplit(':').next().unwrap_or_default().trim_end_matches("/init.scope");
            for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
                if self.entry(&format!("{hierarchy}{prefix}/system.slice/{name}"))?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Forgets what systemd said, after something that may have changed it.
    pub fn forget_units(&self) {
        self.units.known.borrow_mut().clear();
        *self.units.asked.borrow_mut() = None;
    }

    /// Notes that a unit file is about to change, so that systemd will read it anew. Links that
    /// enable a unit need none: they matter at the next boot, when everything is read anew.
    ///
    /// # Errors
    /// When the note cannot be written.
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

    /// Has systemd read its unit files anew if one changed since it did, or if its time
    /// stamps say so of this unit.
    ///
    /// # Errors
    /// When it fails.
    pub fn reload_units_for(&self, name: &str) -> Result<()> {
        if self.entry(RELOAD_NEEDED)?.is_some() || self.unit(name)?.needs_reload { self.reload_units() } else { Ok(()) }
    }

    /// Has systemd read its unit files anew if a run of ours changed one since it did.
    ///
    /// # Errors
    /// When it fails.
    pub fn reload_units_if_noted(&self) -> Result<()> {
        // An image is built without a running systemd.
        let running = self.is_live() && self.entry("/run/systemd/system")?.is_some();
        if running && self.entry(RELOAD_NEEDED)?.is_some() { self.reload_units() } else { Ok(()) }
    }

    fn reload_units(&self) -> Result<()> {
        self.systemctl(&["daemon-reload"], Duration::from_secs(90))?;
        self.remove(RELOAD_NEEDED)
    }

    /// `systemctl start`, `restart` or `stop`, and waits for the job's end.
    ///
    /// # Errors
    /// When the job fails or the deadline for units runs out; with the unit's last journal lines.
    pub fn change_unit(&self, verb: &str, name: &str) -> Result<()> {
        self.systemctl(&[verb, "--", name], self.deadlines.unit).map_err(|error| {
            if error.kind == Kind::Interrupted {
                return error;
            }
            let journal = self.unit_journal(name);
            let cause =
                format!("{}\nlast lines of its journal:\n{journal}", error.cause.as_deref().unwrap_or_default());
            Error::failed(format!("{name}: {verb} failed ({})", error.what)).cause(cause.trim()).fix(format!(
                "systemctl status {name}; journalctl --unit={name}; mend it and run titus-bootstrap again"
            ))
        })
    }

    /// The last lines of a unit's journal.
    pub fn unit_journal(&self, name: &str) -> String {
        let unit = format!("--unit={name}");
        let argv = ["journalctl", &unit, "--lines=20", "--no-pager", "--output=short-iso", "--quiet"];
        command::run(&argv, &[], Patience::Ends, Duration::from_secs(10)).map(|output| output.both).unwrap_or_default()
    }

    fn systemctl(&self, arguments: &[&str], deadline: Duration) -> Result<()> {
        let argv = [&["systemctl"], arguments].concat();
        let result = command::run(&argv, &[], Patience::Ends, deadline).and_then(command::Output::succeeded);
        self.forget_units();
        result.map(drop)
    }
}

/// A unit without a job has `Job=`, `Job=0` or no such line, depending on systemd's version.
fn says_under_way(properties: &str) -> bool {
    properties.lines().filter_map(|line| line.split_once('=')).any(|(key, value)| match key {
        "ActiveState" => matches!(value, "activating" | "deactivating" | "reloading"),
        "Job" => !matches!(value, "" | "0"),
        _ => false,
    })
}

fn parse(block: &str) -> Unit {
    let mut unit = Unit::default();
    let mut active_since = None;
    for line in block.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "LoadState" => unit.load = value.into(),
            "ActiveState" => unit.active = value.into(),
            "SubState" => unit.sub = value.into(),
            "InvocationID" => unit.invocation = value.into(),
            "NeedDaemonReload" => unit.needs_reload = value == "yes",
            "ExecMainStartTimestamp" => unit.started = time(value),
            "ActiveEnterTimestamp" => active_since = time(value),
            _ => {}
        }
    }
    unit.started = unit.started.or(active_since);
    unit
}

/// `Mon 2026-11-23 00:53:56 UTC`, as systemctl prints with TZ=UTC.
fn time(text: &str) -> Option<SystemTime> {
    let mut words = text.split(' ').skip(1);
    let (date, clock) = (words.next()?, words.next()?);
    humantime::parse_rfc3339(&format!("{date}T{clock}Z")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_under_way_while_it_has_a_job() {
        assert!(says_under_way("ActiveState=inactive\nJob=71\n"));
        assert!(says_under_way("ActiveState=activating\n"));
        for properties in ["ActiveState=inactive\n", "ActiveState=failed\nJob=\n", "ActiveState=active\nJob=0\n"] {
            assert!(!says_under_way(properties), "{properties}");
        }
    }

    #[test]
    fn systemctl_show_is_understood() {
        let unit = parse(
            "ExecMainStartTimestamp=Mon 2026-11-23 00:53:56 UTC\nLoadState=loaded\nActiveState=active\n\
             SubState=running\nInvocationID=0af1\nNeedDaemonReload=no\nActiveEnterTimestamp=",
        );
        assert!(unit.is_active() && !unit.needs_reload);
        assert_eq!(unit.invocation, "0af1");
        assert_eq!(unit.started, Some(humantime::parse_rfc3339("2026-11-23T00:53:56Z").unwrap()));
        assert_eq!(parse("LoadState=not-found\nActiveState=inactive").started, None);
    }
}
