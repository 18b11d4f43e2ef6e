//! What people and programs read about a run.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SCHEMA_VERSION;
pub use crate::activity::event::ErrorReport;
use crate::activity::{length, millis};
use crate::error::{Error, Kind};
use crate::host::Host;
use crate::host::wait::{Waited, take_waits};
use crate::prepare::Prepared;
use crate::run::trigger::Trigger;
use crate::secrets::{mask_known, masked};
use crate::step::{Change, State, Step};
use crate::terminal::{self, Form, printable};

/// What a run found and did.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct Report {
    /// The version of the layout.
    pub schema_version: u32,
    /// `apply`, `plan`, `status`.
    pub command: String,
    /// This program's version.
    pub version: String,
    /// Who started the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<Trigger>,
    /// The role.
    pub role: String,
    /// The places consulted for the role, and what each of them said.
    pub role_evidence: Vec<String>,
    /// The instance.
    pub instance_id: String,
    /// Its lifecycle state if it is in a warm pool, e.g. `Warmed:Stopped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_pool: Option<String>,
    /// The last action that its lifecycle hook received since this boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifecycle_action: Option<LifecycleAction>,
    /// The root directory.
    pub root: String,
    /// The run's name in the journal.
    pub run: String,
    /// How it ended.
    pub result: RunState,
    /// The limits of a partial run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// What AWS has yet to provide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Every step that the run reached.
    pub steps: Vec<StepReport>,
    /// How many steps there are.
    pub step_count: usize,
    /// What an operator should know, and belongs to no step.
    pub notices: Vec<String>,
    /// Whether a reboot is due.
    pub reboot_required: bool,
    /// Why.
    pub reboot_reasons: Vec<String>,
    /// How long it took.
    pub duration_ms: u64,
    /// What took how long: the work before the first step, each step, and waits that took time.
    pub spans: Vec<Span>,
    /// When it began.
    #[serde(skip)]
    pub began: Option<Instant>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// A part of a run. Its times are from a clock that nobody can set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Span {
    /// `facts`, `checks`, `wait`, or the kind of a step.
    pub kind: String,
    /// The step, or what it waited for; otherwise the work.
    pub name: String,
    /// When it began, since the run began.
    pub at_ms: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// The state of the step after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StepState>,
}

/// The result of a run, a plan or a look at the node, or its state until then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It is running; or it was killed, if it does not hold the lock.
    #[default]
    Running,
    /// Every step is in sync.
    Converged,
    /// Every step is in sync, except those deferred until the instance leaves its warm pool.
    WarmPool,
    /// The steps that the run was limited to are in sync.
    Partial,
    /// A step failed.
    Failed,
    /// A signal stopped it.
    Interrupted,
    /// It changed nothing.
    Refused,
    /// The boot unit's run found no role for the node.
    NoRole,
    /// It was killed.
    Killed,
    /// For a plan: there is nothing to do.
    InSync,
    /// For a plan: there is something to do.
    Changes,
    /// For a plan: there is nothing to change, but something has yet to respond. For a run: AWS has yet to provide
    /// something, and the run is tried again.
    Waits,
}

impl RunState {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            RunState::Running => "running",
            RunState::Converged => "converged",
            RunState::WarmPool => "warm_pool",
            RunState::Partial => "partial",
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

    /// Whether the run did not do its work.
    pub fn is_bad(self) -> bool {
        matches!(self, RunState::Failed | RunState::Interrupted | RunState::Killed | RunState::Refused)
    }
}

/// A wait for what AWS has yet to provide to a young machine. It continues from one run to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Wait {
    /// What it waits for, e.g. `the role`.
    pub awaits: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// When the last line about it was written.
    pub said: String,
    /// The uptime at which the wait ends, e.g. `10m`.
    pub limit: String,
}

impl Wait {
    /// The time between two lines. It is below a minute because the timer that tries again may elapse a little early.
    const LINE: Duration = Duration::from_secs(55);

    /// Returns the wait of a run at this time, and whether a line is due. `last` is the wait of the run before.
    pub fn continued(last: Option<&Wait>, awaits: &str, limit: Duration, now: SystemTime) -> (Wait, bool) {
        let time = humantime::format_rfc3339_seconds(now).to_string();
        let last = last.filter(|last| last.awaits == awaits);
        let since = last.map_or_else(|| time.clone(), |last| last.since.clone());
        // If the clock was set back since then, the age is unknown.
        let age = |last: &Wait| now.duration_since(humantime::parse_rfc3339(&last.said).ok()?).ok();
        let said = last.filter(|last| age(last).is_some_and(|age| age < Wait::LINE)).map(|last| last.said.clone());
        let due = said.is_none();
        let limit = humantime::format_duration(limit).to_string();
        (Wait { awaits: awaits.to_owned(), since, said: said.unwrap_or(time), limit }, due)
    }

    /// Its line for people. `error` is the one that ended the run.
    pub fn line(&self, error: &ErrorReport) -> String {
        let Wait { awaits, since, limit, .. } = self;
        let join_lines = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("; ");
        let cause = error.cause.as_deref().map(|cause| format!(" ({})", join_lines(cause.trim())));
        let what = error.what.replace('\n', " ");
        format!(
            "waiting for {awaits} since {since}: {what}{}; it is tried again until this machine has run for {limit}",
            cause.unwrap_or_default()
        )
    }
}

/// The result of a lifecycle action, as the group's API names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum LifecycleAction {
    /// The instance goes into service.
    Continue,
}

/// What a run found about a step, or did with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// It is in sync.
    InSync,
    /// It is not in sync, and was not changed.
    Changes,
    /// It was not in sync, and is now.
    Changed,
    /// Something has yet to respond.
    Waits,
    /// An earlier step has to come first.
    Blocked,
    /// It will be in sync after a reboot.
    AfterReboot,
    /// The run does not look at it in a tree or a warm pool.
    Deferred,
    /// The run could not look at it or change it.
    Failed,
}

impl StepState {
    /// Its name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StepState::InSync => "in_sync",
            StepState::Changes => "changes",
            StepState::Changed => "changed",
            StepState::Waits => "waits",
            StepState::Blocked => "blocked",
            StepState::AfterReboot => "after_reboot",
            StepState::Deferred => "deferred",
            StepState::Failed => "failed",
        }
    }
}

/// One step of a report.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct StepReport {
    /// The step.
    pub id: String,
    /// Its kind.
    pub kind: &'static str,
    /// What was found, or done.
    pub state: StepState,
    /// The changes to make, or those made.
    pub changes: Vec<Change>,
    /// A remark about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The files and lines that define it, if a drop-in defines a part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_ins: Option<String>,
    /// How long it took to look at it and to change it.
    pub duration_ms: u64,
}

/// The limits of a partial run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Partial {
    /// The steps that it was limited to; empty: all except those of `skip`.
    pub only: Vec<String>,
    /// The steps that it left out.
    pub skip: Vec<String>,
    /// How many steps of the role it left out.
    pub left_out: usize,
}

impl Partial {
    /// One line for people.
    pub fn line(&self) -> String {
        let named = |word: &str, ids: &[String]| (!ids.is_empty()).then(|| format!("{word} {}", ids.join(", ")));
        let words: Vec<String> =
            [named("only", &self.only), named("without", &self.skip)].into_iter().flatten().collect();
        let steps = if self.left_out == 1 { "step was" } else { "steps were" };
        format!("partial: {}; {} {steps} left out", words.join(", "), self.left_out)
    }
}

impl StepReport {
    /// Whether a run would have something to do.
    pub fn drifts(&self) -> bool {
        matches!(self.state, StepState::Changes | StepState::Blocked | StepState::Waits | StepState::Failed)
    }

    /// Adds what the run did with the step once more. What it changed before stays a change, even if the step came back
    /// in sync by itself.
    pub fn repeat(&mut self, again: StepReport) {
        let mut changes = std::mem::take(&mut self.changes);
        changes.extend(again.changes);
        let state = if again.state == StepState::InSync { self.state } else { again.state };
        let duration_ms = self.duration_ms.saturating_add(again.duration_ms);
        *self = StepReport { state, changes, duration_ms, ..again };
    }

    /// Reports a state. `changed`: the run made its changes.
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
        let hidden = |change: Change| Change {
            line: masked(&change.line),
            diff: change.diff.as_deref().map(masked),
            contents: change.contents.as_deref().map(masked),
        };
        StepReport {
            id: step.id.clone(),
            kind: step.kind.name(),
            state,
            changes: changes.into_iter().map(hidden).collect(),
            note: note.as_deref().map(masked),
            drop_ins: step.drop_ins.clone(),
            duration_ms: 0,
        }
    }

    /// Reports a failure.
    pub fn failed(step: &Step, error: &Error) -> StepReport {
        let note = Some(masked(&error.what));
        StepReport { state: StepState::Failed, note, ..StepReport::new(step, &State::InSync(None), false) }
    }
}

impl Report {
    /// An empty report.
    pub fn new(command: &str) -> Report {
        Report {
            schema_version: SCHEMA_VERSION,
            command: command.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            began: Some(Instant::now()),
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
        // A notice that is not about one role appears only once.
        for notice in prepared.all().flat_map(|one| one.notices(host)) {
            if !self.notices.contains(&notice) {
                self.notices.push(notice);
            }
        }
    }

    /// Fills in how long the run took: at least a millisecond, because 0 means that it has not ended.
    pub fn set_duration(&mut self, elapsed: std::time::Duration) {
        self.duration_ms = millis(elapsed).max(1);
    }

    /// Adds a part of the run that began at `began` and has just ended, together with the waits within it.
    pub fn note(&mut self, kind: &str, name: &str, state: Option<StepState>, began: Instant) {
        let start = self.began.unwrap_or(began);
        let mut add = |kind: &str, name: &str, state, began: Instant, ended: Instant| {
            self.spans.push(Span {
                kind: kind.into(),
                name: masked(name),
                at_ms: millis(began.saturating_duration_since(start)),
                duration_ms: millis(ended.saturating_duration_since(began)),
                state,
            });
        };
        add(kind, name, state, began, Instant::now());
        for Waited { what, began, ended } in take_waits() {
            add("wait", &what, None, began, ended);
        }
    }

    /// How many steps are in this state.
    pub fn count(&self, state: StepState) -> usize {
        self.steps.iter().filter(|step| step.state == state).count()
    }

    /// Fills in the result.
    pub fn end(&mut self, error: Option<&Error>, changed_anything: bool) {
        self.reboot_required = !self.reboot_reasons.is_empty();
        self.error = error.map(ErrorReport::from);
        self.result = match error.map(|error| error.kind) {
            Some(_) if self.wait.is_some() => RunState::Waits,
            Some(Kind::Interrupted) => RunState::Interrupted,
            Some(Kind::Failed) => RunState::Failed,
            Some(_) if changed_anything => RunState::Failed,
            Some(_) => RunState::Refused,
            None if self.command == "apply" && self.partial.is_some() => RunState::Partial,
            None if self.command == "apply" && self.warm_pool.is_some() => RunState::WarmPool,
            None if self.command == "apply" => RunState::Converged,
            None if self.count(StepState::Changes) + self.count(StepState::Blocked) > 0 => RunState::Changes,
            None if self.count(StepState::Waits) > 0 => RunState::Waits,
            None => RunState::InSync,
        };
    }

    /// The report as one JSON document.
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
        let start = match &self.partial {
            Some(_) if nothing && self.error.is_none() => "nothing to do in these steps. ",
            None if nothing && self.error.is_none() => "nothing to do. ",
            _ => "",
        };
        let steps = if self.step_count == 1 { "step" } else { "steps" };
        let mut text =
            format!("{start}{} {steps}: {} ({})", self.step_count, parts.join(", "), length(self.duration()));
        if let Some(partial) = &self.partial {
            text.push_str(&format!("\n{}", partial.line()));
        }
        for notice in &self.notices {
            text.push_str(&format!("\nnotice: {notice}"));
        }
        if self.reboot_required {
            text.push_str(&format!("\na reboot is due: {}", self.reboot_reasons.join("; ")));
        }
        text
    }

    /// The result in one line for a console. `command` shows more about the run.
    pub fn banner(&self, command: &str) -> String {
        let role = if self.role.is_empty() { "role unknown".to_owned() } else { format!("role {}", self.role) };
        let took = length(self.duration());
        let Some(error) = &self.error else {
            let due = if self.reboot_required { "; a reboot is due" } else { "" };
            let result = match &self.warm_pool {
                Some(state) if self.partial.is_none() => format!("waits in a warm pool ({state}) after"),
                _ => format!("{} in", self.result.name()),
            };
            return format!(
                "{role}: {result} {took}, {} of {} steps changed{due}",
                self.count(StepState::Changed),
                self.step_count
            );
        };
        let cause = error.cause.as_deref().and_then(|cause| cause.lines().find(|line| !line.trim().is_empty()));
        let cause = cause.map_or(String::new(), |line| format!("; cause: {}", line.trim()));
        format!(
            "{role}: {} after {took}: {}{cause}; for details: {command}",
            self.result.name(),
            error.what.replace('\n', " ")
        )
    }

    fn duration(&self) -> Duration {
        Duration::from_millis(self.duration_ms)
    }

    /// The whole report for people, as the run saves it.
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
        if let Some(partial) = &self.partial {
            text.push_str(&format!("{}\n", partial.line()));
        }
        text
    }
}

/// Prints the report during a run, as the command line asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    /// Prints one document at the end, and nothing before.
    pub json: bool,
    /// Prints nothing but errors.
    pub quiet: bool,
    /// Prints steps that are in sync, too.
    pub verbose: bool,
    /// Prints colours, if standard output is a terminal.
    pub colour: bool,
}

impl Reporter {
    fn print(&self, text: &str) {
        if !self.json && !self.quiet {
            say(text);
        }
    }

    /// Prints what comes before the first step.
    pub fn heading(&self, report: &Report) {
        self.print(&report.heading());
    }

    /// Prints a step after it is done.
    pub fn step(&self, report: &Report, step: &StepReport) {
        if self.groups(report, step) {
            return;
        }
        if step.state != StepState::InSync || step.note.is_some() || self.verbose {
            let colour = self.colour && std::io::stdout().is_terminal();
            let (start, (word, code), rest) = step_text(report.steps.len() + 1, report, step);
            if !colour || self.json || self.quiet {
                return self.print(&[start, word, rest].concat());
            }
            say(&start);
            terminal::write_coloured(code, &word);
            for (code, piece) in wrap_for_terminal(&rest, start.len() + 13, terminal::width()) {
                if code.is_empty() { say(&piece) } else { terminal::write_coloured(code, &mask_known(&piece)) }
            }
        }
    }

    /// Whether a step does not get its own line, but is grouped with all that are deferred for the same reason.
    fn groups(&self, report: &Report, step: &StepReport) -> bool {
        report.command != "apply" && step.state == StepState::Deferred && !self.verbose
    }

    /// Prints what comes at the end.
    pub fn end(&self, report: &Report) {
        if self.json {
            say_json(report);
        } else {
            let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
            for step in report.steps.iter().filter(|step| self.groups(report, step)) {
                let why = step.note.as_deref().unwrap_or_default();
                match groups.iter_mut().find(|(other, _)| *other == why) {
                    Some((_, ids)) => ids.push(&step.id),
                    None => groups.push((why, vec![&step.id])),
                }
            }
            for (n, (why, ids)) in groups.iter().enumerate() {
                let start = if n == 0 { "deferred:\n" } else { "" };
                self.print(&format!("{start}    {:<28} {why}\n", ids.join(", ")));
            }
            self.print(&format!("{}\n", report.summary()));
        }
    }
}

/// Formats rows as columns, each as wide as its widest cell. The last column is not padded.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |n: usize| rows.iter().map(|row| row.get(n).map_or(0, |cell| cell.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Prints to standard output. A reader that has gone away does not fail the run.
pub fn say(text: &str) {
    terminal::write_out(text, Form::Text);
}

/// Whether the command has printed its JSON document.
static HAS_DOCUMENT: AtomicBool = AtomicBool::new(false);

/// Whether the command has printed its JSON document. Each command prints at most one.
pub fn has_document() -> bool {
    HAS_DOCUMENT.load(Ordering::Relaxed)
}

/// A JSON document: the version of its layout, and the command's output.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Document<T> {
    /// The version of the layout.
    pub schema_version: u32,
    /// The command's output.
    #[serde(flatten)]
    pub content: T,
}

/// Prints a JSON document of the current layout.
pub fn say_document(content: impl Serialize) {
    say_json(&Document { schema_version: SCHEMA_VERSION, content });
}

/// Prints a JSON document as it is.
pub fn say_json(document: &impl Serialize) {
    HAS_DOCUMENT.store(true, Ordering::Relaxed);
    let text = serde_json::to_string_pretty(document).unwrap_or_default();
    terminal::write_out(&format!("{text}\n"), Form::Json);
}

/// The prefix of each line of a diff.
const DIFF: &str = "  ";

/// How many lines of a new file a plan shows; `render` shows all.
const NEW_LINES: usize = 100;

fn new_lines(contents: &str) -> Vec<String> {
    let mut lines: Vec<String> = contents.lines().take(NEW_LINES).map(|line| format!("{DIFF}+{line}")).collect();
    let left = contents.lines().count().saturating_sub(NEW_LINES);
    if left > 0 {
        lines.push(format!("{DIFF}… {left} more lines: titus-bootstrap render shows the whole file"));
    }
    lines
}

/// Splits the text after a step's state for a terminal: each line in pieces that fit the width, and diffs in their colours.
/// Each piece has a code of SGR; an empty code means no colour.
fn wrap_for_terminal(rest: &str, indent: usize, width: Option<usize>) -> Vec<(&'static str, String)> {
    let mut pieces = Vec::new();
    // A narrow terminal has no room for a diff beside a step's name.
    let indent_of_pieces = |line: &str| match width {
        Some(width) if width < indent + 40 && line.len() > width => 4,
        _ => indent,
    };
    for (n, line) in rest.lines().enumerate() {
        let text = line.trim_start_matches(' ');
        let before = if n == 0 { String::new() } else { " ".repeat(indent_of_pieces(line)) };
        let is_diff = n > 0 && line.len() - text.len() >= indent + DIFF.len();
        let code = match text.chars().next() {
            Some('+') if is_diff => "32",
            Some('-') if is_diff => "31",
            _ => "",
        };
        let text = if n == 0 { line } else { line.get(indent.min(line.len() - text.len())..).unwrap_or(text) };
        let taken = if n == 0 { indent } else { before.len() };
        let room = width.map_or(usize::MAX, |width| width.saturating_sub(taken).max(20));
        let characters: Vec<char> = text.chars().collect();
        let mut rows = characters.chunks(room.min(characters.len().max(1))).peekable();
        let mut first = true;
        if rows.peek().is_none() {
            pieces.push(("", "\n".to_owned()));
        }
        for row in rows {
            let start = if first { before.clone() } else { " ".repeat(taken) };
            first = false;
            pieces.push(("", start));
            pieces.push((code, row.iter().collect()));
            pieces.push(("", "\n".to_owned()));
        }
    }
    pieces
}

/// The lines of a step: the text before the word for its state, that word with its colour, and the text after it.
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
        lines.extend(change.diff.iter().flat_map(|diff| diff.lines().map(|line| format!("{DIFF}{line}"))));
        if report.command == "plan" {
            lines.extend(change.contents.iter().flat_map(|contents| new_lines(contents)));
        }
    }
    lines.extend(step.note.iter().flat_map(|note| note.lines().map(str::to_owned)));
    lines.extend(step.drop_ins.as_ref().map(|places| format!("from {places}")));
    let mut first = lines.first().cloned().unwrap_or_default();
    if report.command == "apply" {
        // A plan changes nothing, so its output must not depend on how long it takes.
        let took = length(Duration::from_millis(step.duration_ms));
        first = if first.is_empty() { took } else { format!("{first}, {took}") };
    }
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
    fn a_step_that_is_done_again_keeps_its_changes() {
        let report = |state, lines: &[&str]| StepReport {
            id: "x".into(),
            kind: "container",
            state,
            changes: lines.iter().map(|line| Change::new(*line)).collect(),
            note: None,
            drop_ins: None,
            duration_ms: 2,
        };
        let (none, start): (&[&str], &[&str]) = (&[], &["start x"]);
        for (first, again, expected) in [
            ((StepState::Changed, start), (StepState::InSync, none), (StepState::Changed, start)),
            (
                (StepState::Changed, start),
                (StepState::Changed, start),
                (StepState::Changed, &["start x", "start x"][..]),
            ),
            ((StepState::InSync, none), (StepState::Changed, start), (StepState::Changed, start)),
            ((StepState::InSync, none), (StepState::InSync, none), (StepState::InSync, none)),
            ((StepState::Changed, start), (StepState::Failed, none), (StepState::Failed, start)),
        ] {
            let mut step = report(first.0, first.1);
            step.repeat(report(again.0, again.1));
            let lines: Vec<&str> = step.changes.iter().map(|change| change.line.as_str()).collect();
            assert_eq!((step.state, lines.as_slice(), step.duration_ms), (expected.0, expected.1, 4));
        }
    }

    #[test]
    fn a_wait_has_one_line_a_minute_for_each_thing() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
        let limit = Duration::from_secs(600);
        let (mut last, mut lines) = (None, Vec::new());
        for (seconds, awaits) in [
            (0, "the role"),
            (10, "the role"),
            (59, "the role"),
            (70, "the role"),
            (119, "the role"),
            (120, "the group"),
            (125, "the group"),
            (130, "the role"),
            // The clock was set back.
            (5, "the role"),
        ] {
            let (wait, due) = Wait::continued(last.as_ref(), awaits, limit, at(seconds));
            if due {
                lines.push((seconds, wait.since.clone()));
            }
            last = Some(wait);
        }
        let since = |seconds| humantime::format_rfc3339_seconds(at(seconds)).to_string();
        let expected = [(0, 0), (59, 0), (119, 0), (120, 120), (130, 130), (5, 130)];
        assert_eq!(lines, expected.map(|(line, began)| (line, since(began))));
        assert_eq!(last.unwrap().limit, "10m");
    }

    #[test]
    fn a_diff_fits_the_terminal_and_has_its_colours() {
        let indent = 6;
        let rest = " change /etc/x\n        +new\n        -a long old line\n      -- a note\n";
        let shown = |width| -> Vec<(&str, String)> {
            let pieces = wrap_for_terminal(rest, indent, width).into_iter();
            pieces
                .filter(|(_, piece)| !piece.trim().is_empty())
                .map(|(code, text)| (code, text.trim().into()))
                .collect()
        };
        let whole = [("", "change /etc/x"), ("32", "+new"), ("31", "-a long old line"), ("", "-- a note")];
        assert_eq!(shown(None), whole.map(|(code, text)| (code, text.to_owned())));
        assert_eq!(shown(Some(200)), shown(None));
        let text: String = wrap_for_terminal(rest, indent, None).into_iter().map(|(_, piece)| piece).collect();
        assert_eq!(text, rest);
        for width in [1, 20, 26, 30, 50] {
            let pieces = wrap_for_terminal(&rest.replace("long", &"long ".repeat(20)), indent, Some(width));
            let text: String = pieces.iter().map(|(_, piece)| piece.as_str()).collect();
            // A terminal that is too narrow for any text gets overlong lines.
            let most = width.max(26);
            assert!(text.lines().skip(1).all(|line| line.chars().count() <= most), "{width}:\n{text}");
            assert_eq!(text.split_whitespace().collect::<String>().matches("long").count(), 20, "{width}:\n{text}");
        }
    }

    #[test]
    fn a_banner_is_one_line_for_a_console() {
        let mut report = Report::new("apply");
        (report.role, report.duration_ms, report.step_count) = ("agent".into(), 12_345, 23);
        report.end(None, true);
        assert_eq!(report.banner("x"), "role agent: converged in 12.3 s, 0 of 23 steps changed");
        let warm = Report { warm_pool: Some("Warmed:Stopped".into()), ..report.clone() };
        let expected = "role agent: waits in a warm pool (Warmed:Stopped) after 12.3 s, 0 of 23 steps changed";
        assert_eq!(warm.banner("x"), expected);

        let error = Error::failed("agent: step 7/23 docker: did not start").cause("\n  first line\nsecond");
        report.end(Some(&error), true);
        assert_eq!(
            report.banner("journalctl"),
            "role agent: failed after 12.3 s: agent: step 7/23 docker: did not start; cause: first line; \
             for details: journalctl"
        );
        report.role.clear();
        report.end(Some(&Error::config("no such\nrole")), false);
        assert_eq!(
            report.banner("journalctl"),
            "role unknown: refused after 12.3 s: no such role; for details: journalctl"
        );
    }
}
