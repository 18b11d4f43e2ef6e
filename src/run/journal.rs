//! The record of runs on disk: evidence for people, never input of the next run.
//!
//! A run writes nothing until it changes something.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::SCHEMA_VERSION;
use crate::activity::millis;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::Owner;
use crate::prepare::Prepared;
use crate::run::report::{Report, Span};
use crate::run::trigger::Trigger;

/// The journal: one event on each line, mode 0600.
pub const JOURNAL: &str = "/var/lib/titus-bootstrap/journal.jsonl";
/// The journal of `keep`, which may be active at the same time as a run.
pub const KEEP_JOURNAL: &str = "/var/lib/titus-bootstrap/keep.jsonl";
/// The printed output of the last run that changed something.
pub const LAST_LOG: &str = "/var/log/titus-bootstrap/last.log";
/// The same output as JSON.
pub const LAST_JSON: &str = "/var/log/titus-bootstrap/last.json";

/// How many runs the journal keeps.
const KEPT_RUNS: usize = 50;

/// One event of a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// The version of the layout.
    pub schema_version: u32,
    /// When it happened, RFC 3339.
    pub time: String,
    /// The run.
    pub run: String,
    /// The boot.
    pub boot_id: String,
    /// The instance, if there is one.
    pub instance_id: String,
    /// The role.
    pub role: String,
    /// SHA-256 of the role file.
    pub role_digest: String,
    /// `started`, `finished`, `failed`, `interrupted`, `ended`.
    pub event: String,
    /// Who started the run; absent for `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// The step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What the step will do, or why it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// When it happened, in milliseconds since the run began. Like the times below, it is from a clock that nobody can set.
    #[serde(default)]
    pub at_ms: u64,
    /// How long the step took, if it finished or failed; or the run, if it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// For a run that ended: its parts, with their times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<Span>,
}

/// The journal of this run.
#[derive(Debug)]
pub struct Journal {
    path: &'static str,
    template: Event,
    /// When the run began.
    pub began: Instant,
    /// When the current step began.
    step_began: Option<Instant>,
    opened: bool,
    /// Whether a write failed. The journal then stops writing.
    broken: bool,
}

impl Journal {
    /// Returns the journal of a run of this role, at `path`.
    pub fn for_role(prepared: &Prepared, path: &'static str, trigger: Option<Trigger>) -> Journal {
        let digest = crate::host::hex(&Sha256::digest(prepared.text()));
        let boot_id = prepared.facts.instance.as_ref().map(|instance| instance.boot_id.clone()).unwrap_or_default();
        let mut journal = Journal::new(path, &prepared.names(), digest, &boot_id, &prepared.instance_id());
        journal.template.trigger = trigger;
        journal
    }

    /// A journal at `path`, to which this run has written nothing yet.
    pub fn new(path: &'static str, role: &str, role_digest: String, boot_id: &str, instance_id: &str) -> Journal {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Journal {
            path,
            template: Event {
                schema_version: SCHEMA_VERSION,
                time: String::new(),
                run: format!("{:x}-{:x}", now.as_millis(), std::process::id()),
                boot_id: boot_id.into(),
                instance_id: instance_id.into(),
                role: role.into(),
                role_digest,
                event: String::new(),
                trigger: None,
                step: None,
                lines: Vec::new(),
                at_ms: 0,
                duration_ms: None,
                spans: Vec::new(),
            },
            began: Instant::now(),
            step_began: None,
            opened: false,
            broken: false,
        }
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.template.run
    }

    /// Whether there was anything to write.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// Writes an event and syncs it. If it cannot be written, the journal warns once; that never ends a run.
    pub fn event(&mut self, host: &Host, event: &str, step: Option<&str>, lines: &[String]) {
        match event {
            "started" => self.step_began = Some(Instant::now()),
            _ => self.template.duration_ms = self.step_began.take().map(|began| millis(began.elapsed())),
        }
        self.write_once(host, event, step, lines);
        self.template.duration_ms = None;
    }

    /// Records how the run ended, and how long its parts took.
    pub fn end(&mut self, host: &Host, report: &Report) {
        (self.template.duration_ms, self.template.spans) = (Some(report.duration_ms), report.spans.clone());
        self.write_once(host, "ended", None, &[report.result.name().to_owned()]);
    }

    fn write_once(&mut self, host: &Host, event: &str, step: Option<&str>, lines: &[String]) {
        if self.broken {
            return;
        }
        if let Err(error) = self.write(host, event, step, lines) {
            self.broken = true;
            warn(&error);
        }
    }

    fn write(&mut self, host: &Host, event: &str, step: Option<&str>, lines: &[String]) -> Result<()> {
        if !self.opened {
            // Everything from here on is a change, whether or not it can be recorded.
            self.opened = true;
            open(host, self.path)?;
        }
        let event = Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            at_ms: millis(self.began.elapsed()),
            event: event.into(),
            step: step.map(str::to_owned),
            lines: lines.iter().map(|line| crate::secrets::masked(line)).collect(),
            ..self.template.clone()
        };
        let line =
            serde_json::to_string(&event).map_err(|e| Error::failed("the journal cannot be written").cause(e))?;
        host.append(self.path, &line)
    }
}

/// Opens the journal, and drops the oldest runs.
fn open(host: &Host, path: &str) -> Result<()> {
    let events = events(host, path)?;
    let mut runs = BTreeSet::new();
    let recent: Vec<&Event> = events
        .iter()
        .rev()
        .take_while(|event| runs.contains(&event.run) || (runs.len() < KEPT_RUNS - 1 && runs.insert(event.run.clone())))
        .collect();
    if recent.len() == events.len() {
        return Ok(());
    }
    let mut text = String::new();
    for event in recent.into_iter().rev() {
        text.push_str(
            &serde_json::to_string(event).map_err(|e| Error::failed("the journal cannot be written").cause(e))?,
        );
        text.push('\n');
    }
    host.write(path, text.as_bytes(), 0o600, Owner::ROOT)
}

/// Returns all events that can be read. A torn line is skipped.
///
/// # Errors
/// Fails when the file exists but cannot be read.
pub fn events(host: &Host, path: &str) -> Result<Vec<Event>> {
    let text = host.read_text(path)?.unwrap_or_default();
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Saves what a run that changed something printed. If that fails, it warns.
pub fn keep_last(host: &Host, log: &str, json: &str) {
    for (path, text) in [(LAST_LOG, log), (LAST_JSON, json)] {
        if let Err(error) = host.write(path, text.as_bytes(), 0o640, Owner::ROOT) {
            warn(&error);
        }
    }
}

/// Warns that a record of runs could not be written or read. Records are evidence, so this does not affect the run.
pub fn warn(error: &Error) {
    let mut error = error.clone();
    error.fix.get_or_insert_with(|| "see what is in its place, and move it away: the next run makes a new one".into());
    tracing::warn!("a run record is unavailable: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_survives_a_torn_line_and_keeps_fifty_runs() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        for n in 0..60 {
            let mut journal = Journal::new(JOURNAL, "agent", "d".into(), "b", "i");
            journal.template.run = format!("run-{n}");
            journal.event(&host, "started", Some("step"), &["x".into()]);
            journal.event(&host, "finished", Some("step"), &[]);
        }
        let path = directory.path().join(JOURNAL.trim_start_matches('/'));
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"torn");
        std::fs::write(&path, text).unwrap();
        let mut journal = Journal::new(JOURNAL, "agent", "d".into(), "b", "i");
        journal.event(&host, "started", None, &[]);
        let events = events(&host, JOURNAL).unwrap();
        let runs: BTreeSet<&str> = events.iter().map(|event| event.run.as_str()).collect();
        assert_eq!(runs.len(), KEPT_RUNS);
        assert!(runs.contains("run-59") && !runs.contains("run-5") && runs.contains(journal.run()));
        assert_eq!(host.entry(JOURNAL).unwrap().unwrap().mode, 0o600);
    }
}
