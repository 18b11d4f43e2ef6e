//! The one error type: a kind that decides the exit code, and text for people.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of failure. Exit codes follow sysexits(3); docs/reference.md has the table, and a test compares the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A step or a health check failed. Something may have been changed.
    #[default]
    Failed,
    /// A signal stopped the run.
    Interrupted,
    /// The command line is wrong.
    Usage,
    /// This role cannot run on this machine.
    Unavailable,
    /// Facts were not available in time, or another run holds the lock.
    TemporaryFailure,
    /// A step waits for something that only another node can provide. The next run continues from there. Something may have
    /// been changed.
    NotYet,
    /// Not root.
    NotPermitted,
    /// Settings, a role file, user data, or a value in the facts that must not be written is wrong.
    Config,
    /// No source names the node's role. Like `Config`, but not a failure at boot.
    NoRole,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Failed | Kind::Interrupted => 1,
            Kind::Usage => 64,
            Kind::Unavailable => 69,
            Kind::TemporaryFailure | Kind::NotYet => 75,
            Kind::NotPermitted => 77,
            Kind::Config | Kind::NoRole => 78,
        }
    }
}

/// Every exit code: its number, its name in sysexits(3), and its meaning.
pub const EXIT_CODES: [(u8, &str, &str); 8] = [
    (0, "", "The node is as its role describes. `plan`: nothing to do, or changes without `--detailed-exitcode`."),
    (1, "", "A step or a health check failed, or a signal stopped the run."),
    (2, "", "`plan --detailed-exitcode`: there are changes. No other command ends with 2."),
    (64, "USAGE", "The command line is wrong."),
    (69, "UNAVAILABLE", "This role cannot run on this machine."),
    (75, "TEMPFAIL", "Something is not available yet: try again later."),
    (77, "NOPERM", "The command needs root."),
    (78, "CONFIG", "Settings, a role file, user data or a value in the facts are wrong."),
];

/// Where in a run a failure happened, for programs that read the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The role; empty: unknown.
    pub role: String,
    /// The step's id; empty: it belongs to no step.
    pub step: String,
    /// The run's name in the journal of runs; empty: the run ended before it had one.
    pub run: String,
    /// The places that come first in its line, the widest first; empty: it has none.
    pub place: String,
}

/// A failure: what and where in one line, then why, then how to fix it.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// One line: what failed, and where.
    pub what: String,
    /// Why, if that is known; may have several lines.
    pub cause: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
    /// What is missing but may still come, e.g. `the role`. AWS provides it late in the first minutes of an instance's life.
    pub awaits: Option<&'static str>,
    /// Where in a run it happened.
    pub origin: Option<Box<Origin>>,
}

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind with its line.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: bounded(what.into()), cause: None, fix: None, awaits: None, origin: None }
    }

    /// A step or check that failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Error::new(Kind::Failed, what)
    }

    /// A step that waits for another node.
    pub fn not_yet(what: impl Into<String>) -> Self {
        Error::new(Kind::NotYet, what)
    }

    /// An error in settings, role files, user data, or values in facts.
    pub fn config(what: impl Into<String>) -> Self {
        Error::new(Kind::Config, what)
    }

    /// An error that means that this role cannot run on this machine.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Error::new(Kind::Unavailable, what)
    }

    /// Makes it an error in a file of settings, roles or facts.
    pub fn as_config(self) -> Self {
        Error { kind: Kind::Config, ..self }
    }

    /// Adds the cause.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds how to fix it.
    pub fn fix(mut self, fix: impl fmt::Display) -> Self {
        self.fix = Some(bounded(fix.to_string()));
        self
    }

    /// Adds what is missing and may still come.
    pub fn awaiting(mut self, what: &'static str) -> Self {
        self.awaits = Some(what);
        self
    }

    /// Adds the step that it belongs to.
    pub fn in_step(mut self, id: &str) -> Self {
        self.origin.get_or_insert_default().step = id.into();
        self
    }

    /// Adds the role and the run that it ended.
    pub fn in_run(mut self, role: &str, run: &str) -> Self {
        let origin = self.origin.get_or_insert_default();
        (origin.role, origin.run) = (role.into(), run.into());
        self
    }

    /// Puts the place at the start of the line.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        let all = &mut self.origin.get_or_insert_default().place;
        *all = if all.is_empty() { place.to_string() } else { format!("{place}: {all}") };
        self
    }

    /// Adds the place for a line that already names it.
    pub fn with_place(mut self, place: impl fmt::Display) -> Self {
        self.origin.get_or_insert_default().place = place.to_string();
        self
    }

    /// Where it happened, if known: a file with line and column, or the role and the step.
    pub fn place(&self) -> Option<String> {
        self.origin.as_ref().map(|origin| origin.place.clone()).filter(|place| !place.is_empty())
    }
}

/// The lines of a text that a person on call needs: the first one says what is wrong, and the last ones are the end of a
/// program's output.
pub fn excerpt(text: &str) -> Vec<&str> {
    const FIRST: usize = 1;
    const LAST: usize = 4;
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.len() > FIRST + LAST {
        lines.drain(FIRST..lines.len() - LAST);
    }
    lines
}

/// Limits the length: a name or a value in the text can be as long as the file that it is from.
fn bounded(text: String) -> String {
    const LONGEST: usize = 3000;
    if text.len() <= LONGEST { text } else { text.chars().take(LONGEST / 2).chain(['…']).collect() }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (label, text) in [("cause", &self.cause), ("fix", &self.fix)] {
            let Some(text) = text else { continue };
            let mut lines = text.trim_end().lines();
            write!(f, "\n  {:<7}{}", format!("{label}:"), lines.next().unwrap_or_default())?;
            for line in lines {
                write!(f, "\n         {line}")?;
            }
        }
        Ok(())
    }
}
