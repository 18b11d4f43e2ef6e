//! A unit is enabled or masked, active, and runs with the contents that its files have.
//!
//! Whether it must be restarted is observed, never notified: a start that we have seen
//! is recorded with the digest of the files that it read, in /run, which dies with the
//! processes of which it speaks.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::warm_pool::ENGINE;
use super::{Change, Claim, Planned, State, Work, hex};
use crate::error::{Error, Result};
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::host::{Host, systemd};
use crate::template::{Renderer, Templated};

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    name: Templated<String>,
    enabled: Option<Templated<bool>>,
    #[serde(default)]
    masked: bool,
    #[serde(default)]
    active: bool,
    /// Ids of file and deb steps: the unit is restarted when one of their contents is not that of its last start.
    #[serde(default)]
    restart_on: Vec<String>,
    /// What a restart costs, for plans.
    restart_costs: Option<String>,
}

/// A unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// With its suffix.
    pub name: String,
    enabled: Option<bool>,
    masked: bool,
    pub(super) active: bool,
    pub(super) files: Vec<String>,
    restart_costs: Option<String>,
}

/// A start that we have seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    invocation: String,
    digest: String,
    /// Inode and ctime of each file: while they are the same, nobody has touched it.
    stamps: BTreeMap<String, (u64, i128)>,
}

impl super::RawKind for Raw {
    fn restart_on(&self) -> &[String] {
        &self.restart_on
    }
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Unit> {
        let name = self.name.get(renderer)?;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-@\\:".contains(c));
        if !plain || !name.contains('.') || name.starts_with(['.', '-']) {
            return Err(Error::config(format!("{name:?} is no unit's name"))
                .fix("give it with its suffix, as \"docker.service\""));
        }
        if self.masked && (self.enabled.is_some() || self.active) {
            return Err(Error::config(format!("{name}: a masked unit is neither enabled nor active")));
        }
        Ok(Unit {
            name,
            enabled: self.enabled.as_ref().map(|enabled| enabled.get(renderer)).transpose()?,
            masked: self.masked,
            active: self.active,
            // A step that its `when` left out has no file to read.
            files: self.restart_on.iter().filter_map(|id| files.get(id).cloned()).collect(),
            restart_costs: self.restart_costs.clone(),
        })
    }
}

impl Unit {
    fn record_path(&self) -> String {
        format!("/run/titus-bootstrap/units/{}", self.name)
    }

    /// Whether systemd has to be asked about it.
    pub fn is_asked_for(&self) -> bool {
        self.active || !self.files.is_empty()
    }

    fn mask_path(&self) -> String {
        format!("/etc/systemd/system/{}", self.name)
    }

    fn observe_masked(&self, host: &Host) -> Result<State> {
        let path = self.mask_path();
        let mut changes = Vec::new();
        match host.entry(&path)?.map(|entry| entry.kind) {
            Some(EntryKind::Link(target)) if target.as_os_str() == "/dev/null" => {}
            Some(EntryKind::File) => {
                changes.push(Change::new(format!("mask {} (its file {path} is moved aside)", self.name)))
            }
            Some(EntryKind::Directory | EntryKind::Other) => {
                return Err(Error::failed(format!("{path}: a directory or device is in the mask's place")));
            }
            Some(EntryKind::Link(_)) | None => changes.push(Change::new(format!("mask {}", self.name))),
        }
        for link in host.links_that_enable(&self.name)? {
            changes.push(Change::new(format!("remove {link}")));
        }
        if host.is_live() && host.has_processes(&self.name)? {
            changes.push(Change::new(format!("stop {}", self.name)));
        }
        Ok(State::from_changes(changes))
    }

    fn observe_running(&self, host: &Host, planned: &Planned) -> Result<Option<Change>> {
        if !self.is_asked_for() {
            return Ok(None);
        }
        let name = &self.name;
        let unit = host.unit(name)?;
        if !unit.is_active() {
            return Ok(self.active.then(|| Change::new(format!("start {name} (it is {})", unit.active))));
        }
        let why = if self.files.iter().any(|path| planned.contains_key(path)) {
            "its files will have changed"
        } else if !self.reads_what_is_there(host, &unit)? {
            "its files are not those of its last start"
        } else {
            return Ok(None);
        };
        let costs = self.restart_costs.as_ref().map_or(String::new(), |costs| format!("; {costs}"));
        Ok(Some(Change::new(format!("restart {name} ({why}{costs})"))))
    }

    /// Whether the running unit was started with the contents that its files have now.
    fn reads_what_is_there(&self, host: &Host, unit: &systemd::Unit) -> Result<bool> {
        if self.files.is_empty() {
            return Ok(true);
        }
        let now = self.snapshot(host, unit)?;
        if let Some(record) = self.record(host)? {
            if record == now {
                return Ok(true);
            }
            if record.invocation == now.invocation {
                return Ok(record.digest == now.digest);
            }
            // Started by someone else since. Untouched files are what it read, whatever clocks say.
            if record.digest == now.digest && record.stamps == now.stamps {
                return Ok(true);
            }
        }
        // Started since its files changed, but with what systemd had read before they did.
        if unit.needs_reload {
            return Ok(false);
        }
        let Some(started) = unit.started.and_then(|at| at.duration_since(UNIX_EPOCH).ok()) else { return Ok(false) };
        let started_ns = i128::try_from(started.as_nanos()).unwrap_or(i128::MAX);
        Ok(now.stamps.values().all(|(_, changed_ns)| changed_ns + 1_000_000_000 <= started_ns))
    }

    fn record(&self, host: &Host) -> Result<Option<Record>> {
        // One that cannot be read proves nothing, and is as good as none.
        Ok(host.read(&self.record_path())?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    fn snapshot(&self, host: &Host, unit: &systemd::Unit) -> Result<Record> {
        let mut digest = Sha256::new();
        let mut stamps = BTreeMap::new();
        for path in &self.files {
            let contents = host.read(path)?;
            digest.update(path);
            digest.update([0, u8::from(contents.is_some())]);
            digest.update(Sha256::digest(contents.unwrap_or_default()));
            if let Some(entry) = host.entry(path)? {
                stamps.insert(path.clone(), (entry.inode, entry.changed_ns));
            }
        }
        let invocation =
            if unit.invocation.is_empty() { format!("{:?}", unit.started) } else { unit.invocation.clone() };
        Ok(Record { invocation, digest: hex(&digest.finalize()), stamps })
    }

    /// Before a run changes anything: the start that is known to be in sync is recorded, so that
    /// a file that changes from here on shows, even if the clock is set back and we are killed.
    ///
    /// # Errors
    /// When systemd cannot be asked, or the record not written.
    pub fn witness(&self, host: &Host) -> Result<()> {
        if self.files.is_empty() || self.masked || host.unit_file(&self.name)?.is_none() {
            return Ok(());
        }
        let unit = host.unit(&self.name)?;
        if unit.is_active() && self.reads_what_is_there(host, &unit)? {
            let now = self.snapshot(host, &unit)?;
            if self.record(host)?.as_ref() != Some(&now) {
                self.write_record(host, &now)?;
            }
        }
        Ok(())
    }

    fn write_record(&self, host: &Host, record: &Record) -> Result<()> {
        let text = serde_json::to_vec(record).map_err(|e| Error::failed("a record cannot be written").cause(e))?;
        host.write(&self.record_path(), &text, 0o644, Owner::ROOT)
    }

    /// Links of [Install] that are not there, whatever they point to.
    fn lacking_links(&self, host: &Host, also: bool, planned: &Planned) -> Result<Vec<(String, String)>> {
        let mut lacking = Vec::new();
        for (path, target) in host.enablement_links(&self.name, also, planned)? {
            if host.entry(&path)?.is_none() {
                lacking.push((path, target));
            }
        }
        Ok(lacking)
    }

    fn mask(&self, host: &Host) -> Result<()> {
        let path = self.mask_path();
        if host.is_live() && host.has_processes(&self.name)? {
            host.change_unit("stop", &self.name)?;
        }
        for link in host.links_that_enable(&self.name)? {
            host.remove(&link)?;
        }
        match host.entry(&path)?.map(|entry| entry.kind) {
            Some(EntryKind::Link(target)) if target.as_os_str() == "/dev/null" => return Ok(()),
            Some(EntryKind::File) => {
                let aside = host.move_aside(&path)?;
                tracing::warn!("{path} was in the way of a mask and is now {aside}");
            }
            _ => {}
        }
        host.note_unit_file(&path)?;
        host.link(&path, "/dev/null")
    }
}

impl Work for Unit {
    fn claims(&self) -> Vec<Claim> {
        let name = &self.name;
        if self.masked {
            return vec![Claim::new(self.mask_path(), "a mask"), Claim::new(format!("unit {name}"), "masked")];
        }
        let mut claims = vec![Claim::new(format!("unit {name}"), "not masked")];
        if let Some(enabled) = self.enabled {
            let wish = if enabled { "enabled" } else { "disabled" };
            claims.push(Claim::new(format!("the enablement of {name}"), wish));
        }
        claims
    }

    fn paths(&self) -> Vec<String> {
        vec![self.mask_path(), self.record_path()]
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        if self.masked {
            return self.observe_masked(host);
        }
        let name = &self.name;
        let mask = host.mask_of(name)?;
        let there = host.unit_file(name)?.is_some() || planned.keys().any(|path| path.ends_with(&format!("/{name}")));
        if !there && mask.is_none() {
            return Ok(match (host.is_live(), self.enabled) {
                (_, Some(false)) if !self.active => State::InSync(None),
                (true, _) => State::Blocked(format!("{name} is not there yet: the package that brings it comes first")),
                (false, _) => {
                    State::Deferred(format!("{name} comes with a package, which is not installed below --root"))
                }
            });
        }
        let mut changes = Vec::new();
        if let Some(path) = mask.filter(|_| self.active || self.enabled == Some(true)) {
            changes.push(Change::new(format!("unmask {name} (remove {path})")));
        }
        match self.enabled {
            Some(true) if !self.lacking_links(host, false, planned)?.is_empty() => {
                changes.push(Change::new(format!("enable {name}")))
            }
            Some(false) if !host.links_that_enable(name)?.is_empty() => {
                changes.push(Change::new(format!("disable {name}")))
            }
            _ => {}
        }
        if host.is_live() {
            changes.extend(self.observe_running(host, planned)?);
        } else if changes.is_empty() && self.active {
            return Ok(State::Deferred(format!("{name} is not started below --root")));
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let (name, nothing) = (&self.name, Planned::new());
        if self.masked {
            return self.mask(host);
        }
        if (self.active || self.enabled == Some(true))
            && let Some(mask) = host.mask_of(name)?
        {
            host.remove(&mask)?;
        }
        match self.enabled {
            Some(true) if !self.lacking_links(host, false, &nothing)?.is_empty() => {
                for (path, target) in self.lacking_links(host, true, &nothing)? {
                    host.link(&path, &target)?;
                }
            }
            Some(false) => {
                for path in host.links_that_enable(name)? {
                    host.remove(&path)?;
                }
            }
            _ => {}
        }
        if !host.is_live() || !self.is_asked_for() {
            return Ok(());
        }
        host.reload_units_for(name)?;
        let mut before = host.unit(name)?;
        // At boot it may be starting, with what its files were before this run: its end tells.
        if self.active && before.active == "activating" && before.sub != "auto-restart" {
            host.change_unit("start", name)?;
            before = host.unit(name)?;
        }
        let verb = match (before.is_active(), self.active) {
            (true, _) if self.reads_what_is_there(host, &before)? => return Ok(()),
            (true, _) => "restart",
            (false, true) => "start",
            (false, false) => return Ok(()),
        };
        // Taken before the start: a file that changes meanwhile must show as changed.
        let read = self.snapshot(host, &before)?;
        tracing::info!("{verb} {name}");
        host.change_unit(verb, name)?;
        let after = host.unit(name)?;
        if self.files.is_empty() || !after.is_active() {
            return Ok(());
        }
        let started = self.snapshot(host, &after)?;
        self.write_record(host, &Record { invocation: started.invocation, ..read })
    }

    fn ask(&self, host: &Host) -> Result<()> {
        if self.is_asked_for() {
            host.watch_units([self.name.as_str()].into_iter());
        }
        Ok(())
    }

    fn put_off(&mut self) -> bool {
        self.name != ENGINE && self.leave_off()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unit(toml: &str, files: &[(&str, &str)]) -> Result<Unit> {
        let files = files.iter().map(|(id, path)| ((*id).to_owned(), (*path).to_owned())).collect();
        toml::from_str::<Raw>(toml).unwrap().resolve(&Renderer::new(serde_json::json!({})), &files)
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

    #[test]
    fn the_table_of_the_design_decides_about_restarts() {
        let (_directory, host) = Host::temporary();
        let step = unit("name = 'x.service'\nactive = true\nrestart_on = ['f']", &[("f", "/etc/f")]).unwrap();
        host.write("/etc/f", b"one", 0o644, Owner::ROOT).unwrap();
        let written = host.entry("/etc/f").unwrap().unwrap().changed_ns;
        let at = |invocation: &str, offset_s: i64| systemd::Unit {
            active: "active".into(),
            invocation: invocation.into(),
            started: UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(written).unwrap())).and_then(|t| {
                if offset_s < 0 {
                    t.checked_sub(Duration::from_secs(offset_s.unsigned_abs()))
                } else {
                    t.checked_add(Duration::from_secs(offset_s.unsigned_abs()))
                }
            }),
            ..systemd::Unit::default()
        };
        let fits = |unit: &systemd::Unit| step.reads_what_is_there(&host, unit).unwrap();
        // Without a record the file must be clearly older than the start.
        assert!(fits(&at("a", 2)) && !fits(&at("a", 0)) && !fits(&at("a", -5)));
        // The same start and digest: in sync, whatever the clock says.
        step.write_record(&host, &step.snapshot(&host, &at("a", -3600)).unwrap()).unwrap();
        assert!(fits(&at("a", -3600)));
        // Started by hand since, the file untouched.
        assert!(fits(&at("b", -3600)));
        // Written and put back by hand: the same start read the same contents.
        host.write("/etc/f", b"two", 0o644, Owner::ROOT).unwrap();
        assert!(!fits(&at("a", 3600)));
        host.write("/etc/f", b"one", 0o644, Owner::ROOT).unwrap();
        assert!(fits(&at("a", -3600)));
        // The same, but another start may have read what stood there in between.
        assert!(!fits(&at("b", -3600)));
    }

    #[test]
    fn names_without_suffix_and_contradictions_are_refused() {
        for toml in ["name = 'docker'", "name = '../x.service'", "name = 'x.service'\nmasked = true\nactive = true"] {
            unit(toml, &[]).unwrap_err();
        }
    }
}
