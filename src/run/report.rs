//! What people and programs read of a run.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind};
use crate::host::Host;
use crate::prepare::Prepared;
use crate::secrets::masked;
use crate::step::{Change, State, Step};
use crate::terminal::{self, Form, printable};

/// What a run found and did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The layout.
    pub schema_version: u32,
    /// `apply`, `plan`, `status`.
    pub command: String,
    /// This program's version.
    pub version: String,
    /// The role.
    pub role: String,
    /// Where the role was looked for, and what each place said.
    pub role_evidence: Vec<String>,
    /// The instance.
    pub instance_id: String,
    /// Its lifecycle state if it is in a warm pool, `Warmed:Stopped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_pool: Option<String>,
    /// What its lifecycle hook heard since this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle_action: Option<LifecycleAction>,
    /// The root directory.
    pub root: String,
    /// The run's name in the journal.
    pub run: String,
    /// How it ended.
    pub result: RunState,
    /// Every step that was reached.
    pub steps: Vec<StepReport>,
    /// How many steps there are.
    pub step_count: usize,
    /// What should be known and is no step's.
    pub notices: Vec<String>,
    /// Whether a reboot is due.
    pub reboot_required: bool,
    /// Why.
    pub reboot_reasons: Vec<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// How a run, a plan or a look at the node ended, or that it has not yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is at work; or it was killed, if it holds no lock.
    #[default]
    Running,
    /// Every step is in sync.
    Converged,
    /// The same, but for what waits until the instance leaves its warm pool.
    WarmPool,
    /// A step failed.
    Failed,
    /// A signal stopped it.
    Interrupted,
    /// It changed nothing.
    Refused,
    /// Nothing says which role the node has, and it was the boot unit's.
    NoRole,
    /// It was killed.
    Killed,
    /// Of a plan: there is nothing to do.
    InSync,
    /// Of a plan: there is something to do.
    Changes,
    /// Of a plan: there is nothing to change, but something has to answer first.
    Waits,
}

impl RunState {
    /// Its name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Converged => "converged",
            RunState::WarmPool => "warm_pool",
            RunState::Failed => "failed",
            RunState::Interrupted => "interrupted",
            RunState::Refused => "refused",
            RunState::NoRole => "no_role",
            RunState::Killed => "killed",
            RunState::InSync => "in_sync",
            RunState::Changes => "changes",
            RunState::Waits => "waits",
        }
    }

    /// Whether the run did not do what it was started for.
    pub fn is_bad(self) -> bool {
        matches!(self, RunState::Failed | RunState::Interrupted | RunState::Killed | RunState::Refused)
    }
}

/// The end of a lifecycle action, as the group's API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LifecycleAction {
    /// The instance goes into service.
    Continue,
}

/// What a run found of a step, or did about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It is as it should be.
    InSync,
    /// It is not; nothing was done.
    Changes,
    /// It was not, and is now.
    Changed,
    /// Something has to answer, and does not yet.
    Waits,
    /// An earlier step has to come first.
    Blocked,
    /// It will be after a reboot.
    AfterReboot,
    /// It is not looked at in a tree or a warm pool.
    Deferred,
    /// It could not be looked at, or not changed.
    Failed,
}

/// One step of a report.
#[derive(Debug, Clone, Serialize)]
pub struct StepReport {
    /// The step.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// What was found, or done.
    pub state: StepState,
    /// What is to be done, or was.
    pub changes: Vec<Change>,
    /// What else is worth saying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// An error for programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The process's exit code.
    pub exit_code: u8,
    /// One line.
    pub what: String,
    /// Why.
    pub cause: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        let hidden = |text: &Option<String>| text.as_deref().map(masked);
        ErrorReport {
            exit_code: error.kind.exit_code(),
            what: masked(&error.what),
            cause: hidden(&error.cause),
            fix: hidden(&error.fix),
        }
    }
}

impl StepReport {
    /// Whether a run would have something to do.
    pub fn drifts(&self) -> bool {
        matches!(self.state, StepState::Changes | StepState::Blocked | StepState::Waits | StepState::Failed)
    }

    /// Of a state; `changed`: its changes were made.
    pub fn new(step: &Step, state: &State, changed: bool) -> StepReport {
        let (state, changes, note) = match state {
            State::InSync(note) => (StepState::InSync, Vec::new(), note.clone()),
            State::Changes(changes) if changed => (StepState::Changed, changes.clone(), None),
            State::Changes(changes) => (StepState::Changes, changes.clone(), None),
            State::Waits(why) if changed => (StepState::InSync, Vec::new(), Some(format!("had to {why}"))),
            State::Waits(why) => (StepState::Waits, Vec::new(), Some(why.clone())),
            State::Blocked(why) => (StepState::Blocked, Vec::new(), Some(why.clone())),
            State::AfterReboot(why) => (StepState::AfterReboot, Vec::new(), Some(why.clone())),
            State::Deferred(why) => (StepState::Deferred, Vec::new(), Some(why.clone())),
        };
        let hidden = |change: Change| Change { line: masked(&change.line), diff: change.diff.as_deref().map(masked) };
        StepReport {
            id: step.id.clone(),
            kind: step.kind.name(),
            state,
            changes: changes.into_iter().map(hidden).collect(),
            note: note.as_deref().map(masked),
        }
    }

    /// Of a failure.
    pub fn failed(step: &Step, error: &Error) -> StepReport {
        let (id, kind) = (step.id.clone(), step.kind.name());
        StepReport { id, kind, state: StepState::Failed, changes: Vec::new(), note: Some(masked(&error.what)) }
    }
}

impl Report {
    /// An empty report.
    pub fn new(command: &str) -> Report {
        Report {
            schema_version: SCHEMA_VERSION,
            command: command.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Report::default()
        }
    }

    /// Fills in everything that is known before the first step.
    pub fn introduce(&mut self, prepared: &Prepared, host: &Host) {
        self.role = prepared.names();
        self.role_evidence =
            prepared.all().flat_map(|one| one.detected.evidence.iter().map(ToString::to_string)).collect();
        self.instance_id = prepared.instance_id();
        self.warm_pool = prepared.warm_pool().map(str::to_owned);
        self.root = host.root().display().to_string();
        // What is not about one role is said once.
        for notice in prepared.all().flat_map(|one| one.notices(host)) {
            if !self.notices.contains(&notice) {
                self.notices.push(notice);
            }
        }
    }

    /// Fills in how long it took.
    pub fn took(&mut self, elapsed: std::time::Duration) {
        self.duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    }

    /// How many steps are in this state.
    pub fn count(&self, state: StepState) -> usize {
        self.steps.iter().filter(|step| step.state == state).count()
    }

    /// Fills in how it ended.
    pub fn end(&mut self, error: Option<&Error>, changed_anything: bool) {
        self.reboot_required = !self.reboot_reasons.is_empty();
        self.error = error.map(ErrorReport::from);
        self.result = match error.map(|error| error.kind) {
            Some(Kind::Interrupted) => RunState::Interrupted,
            Some(Kind::Failed) => RunState::Failed,
            Some(_) if changed_anything => RunState::Failed,
            Some(_) => RunState::Refused,
            None if self.command == "apply" && self.warm_pool.is_some() => RunState::WarmPool,
            None if self.command == "apply" => RunState::Converged,
            None if self.count(StepState::Changes) + self.count(StepState::Blocked) > 0 => RunState::Changes,
            None if self.count(StepState::Waits) > 0 => RunState::Waits,
            None => RunState::InSync,
        };
    }

    /// As JSON, one document.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// The last lines for people.
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (state, words) in [
            (StepState::Changed, "changed"),
            (StepState::Changes, "to change"),
            (StepState::Waits, "to wait for"),
            (StepState::InSync, "in sync"),
            (StepState::Deferred, "deferred"),
            (StepState::AfterReboot, "after a reboot"),
            (StepState::Blocked, "to follow"),
            (StepState::Failed, "failed"),
        ] {
            if self.count(state) > 0 {
                parts.push(format!("{} {words}", self.count(state)));
            }
        }
        let quiet =
            |step: &StepReport| matches!(step.state, StepState::InSync | StepState::Deferred | StepState::AfterReboot);
        let nothing = self.steps.iter().all(quiet);
        let start = if nothing && self.error.is_none() { "nothing to do. " } else { "" };
        let mut text = format!("{start}{} steps: {} ({} ms)", self.step_count, parts.join(", "), self.duration_ms);
        for notice in &self.notices {
            text.push_str(&format!("\nnotice: {notice}"));
        }
        if self.reboot_required {
            text.push_str(&format!("\na reboot is due: {}", self.reboot_reasons.join("; ")));
        }
        text
    }

    /// How it ended, in one line for a console. `command`: how to look further.
    pub fn banner(&self, command: &str) -> String {
        let role = if self.role.is_empty() { "role unknown".to_owned() } else { format!("role {}", self.role) };
        let (seconds, tenths) = (self.duration_ms / 1000, self.duration_ms % 1000 / 100);
        let Some(error) = &self.error else {
            let due = if self.reboot_required { "; a reboot is due" } else { "" };
            let result = match &self.warm_pool {
                Some(state) => format!("waits in a warm pool ({state}) after"),
                None => format!("{} in", self.result.name()),
            };
            return format!(
                "{role}: {result} {seconds}.{tenths} s, {} of {} steps changed{due}",
                self.count(StepState::Changed),
                self.step_count
            );
        };
        let cause = error.cause.as_deref().and_then(|cause| cause.lines().find(|line| !line.trim().is_empty()));
        let cause = cause.map_or(String::new(), |line| format!("; cause: {}", line.trim()));
        format!(
            "{role}: {} after {seconds}.{tenths} s: {}{cause}; to look further: {command}",
            self.result.name(),
            error.what.replace('\n', " ")
        )
    }

    /// The whole report for people, as it is kept on disk.
    pub fn text(&self) -> String {
        let mut text = self.heading();
        for (n, step) in self.steps.iter().enumerate() {
            let (start, (word, _), rest) = step_text(n + 1, self, step);
            text.extend([start, word, rest]);
        }
        text.push_str(&self.summary());
        if let Some(error) = &self.error {
            text.push_str(&format!("\nfailed: {}", error.what));
        }
        text.push('\n');
        printable(&text, Form::Text).into_owned()
    }

    fn heading(&self) -> String {
        let mut text = format!("{} {} of role {}", self.command, self.version, self.role);
        if !self.instance_id.is_empty() {
            text.push_str(&format!(" on {}", self.instance_id));
        }
        if self.root != "/" {
            text.push_str(&format!(" below {}", self.root));
        }
        text.push_str(&format!("\nrole: {}\n", self.role_evidence.join("; ")));
        text
    }
}

/// Prints as a run goes on; what the command line asked for.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    /// One document at the end, nothing before.
    pub json: bool,
    /// Nothing but errors.
    pub quiet: bool,
    /// Steps that are in sync, too.
    pub verbose: bool,
    /// Colours, if standard output is a terminal.
    pub colour: bool,
}

impl Reporter {
    fn print(&self, text: &str) {
        if !self.json && !self.quiet {
            say(text);
        }
    }

    /// Before the first step.
    pub fn heading(&self, report: &Report) {
        self.print(&report.heading());
    }

    /// After each step.
    pub fn step(&self, report: &Report, step: &StepReport) {
        if step.state != StepState::InSync || step.note.is_some() || self.verbose {
            let colour = self.colour && std::io::stdout().is_terminal();
            let (start, (word, code), rest) = step_text(report.steps.len() + 1, report, step);
            if !colour || self.json || self.quiet {
                return self.print(&[start, word, rest].concat());
            }
            say(&start);
            terminal::write_coloured(code, &word);
            say(&rest);
        }
    }

    /// At the end.
    pub fn end(&self, report: &Report) {
        if self.json {
            say_json(report);
        } else {
            self.print(&format!("{}\n", report.summary()));
        }
    }
}

/// Prints to standard output. A reader that has gone away is no failure of the run.
pub fn say(text: &str) {
    terminal::write_out(text, Form::Text);
}

/// The same of a JSON document.
pub fn say_json(document: &impl Serialize) {
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    terminal::write_out(&format!("{text}\n"), Form::Json);
}

/// The lines of a step: what stands before the word for its state, that word with its colour, and what follows it.
fn step_text(n: usize, report: &Report, step: &StepReport) -> (String, (String, &'static str), String) {
    let (word, code) = match step.state {
        StepState::InSync => ("in sync", "32"),
        StepState::Changed => ("changed", "33"),
        StepState::Changes => ("to change", "33"),
        StepState::Waits => ("waits", "36"),
        StepState::AfterReboot => ("after reboot", "36"),
        StepState::Failed => ("failed", "31"),
        StepState::Blocked => ("to follow", "36"),
        StepState::Deferred => ("deferred", "36"),
    };
    let width = report.step_count.to_string().len();
    let start = format!("[{n:>width$}/{}] {:<28} ", report.step_count, step.id);
    let indent = " ".repeat(start.len());
    let mut lines: Vec<String> = Vec::new();
    for change in &step.changes {
        lines.push(change.line.clone());
        lines.extend(change.diff.iter().flat_map(|diff| diff.lines().map(|line| format!("  {line}"))));
    }
    lines.extend(step.note.clone());
    let first = lines.first().cloned().unwrap_or_default();
    let word = if first.is_empty() { word.to_owned() } else { format!("{word:<12}") };
    let mut rest = format!(" {first}").trim_end().to_owned() + "\n";
    for line in lines.iter().skip(1) {
        rest.push_str(&format!("{indent}             {line}\n"));
    }
    (start, (word, code), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banner_is_one_line_with_what_a_console_must_tell() {
        let mut report = Report::new("apply");
        (report.role, report.duration_ms, report.step_count) = ("agent".into(), 12_345, 23);
        report.end(None, true);
        assert_eq!(report.banner("x"), "role agent: converged in 12.3 s, 0 of 23 steps changed");
        let warm = Report { warm_pool: Some("Warmed:Stopped".into()), ..report.clone() };
        let told = "role agent: waits in a warm pool (Warmed:Stopped) after 12.3 s, 0 of 23 steps changed";
        assert_eq!(warm.banner("x"), told);

        let error = Error::failed("agent: step 7/23 docker: did not start").cause("\n  first line\nsecond");
        report.end(Some(&error), true);
        assert_eq!(
            report.banner("journalctl"),
            "role agent: failed after 12.3 s: agent: step 7/23 docker: did not start; cause: first line; \
             to look further: journalctl"
        );
        report.role.clear();
        report.end(Some(&Error::config("no such\nrole")), false);
        assert_eq!(
            report.banner("journalctl"),
            "role unknown: refused after 12.3 s: no such role; to look further: journalctl"
        );
    }
}
