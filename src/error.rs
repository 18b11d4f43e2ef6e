//! The one error type: a kind that decides the exit code, and words for people.

use std::fmt;

/// What sort of failure this is. Exit codes follow sysexits(3); docs/reference.md
/// has the table, and a test holds the two together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A step or a health check failed. Something may have been changed.
    Failed,
    /// A signal stopped the run.
    Interrupted,
    /// The command line is wrong.
    Usage,
    /// This role cannot run on this machine.
    Unavailable,
    /// Facts could not be had in time, or another run holds the lock.
    TemporaryFailure,
    /// A step waits for what only another node can bring: the next run goes on from there. Something may have been
    /// changed.
    NotYet,
    /// Not root.
    NotPermitted,
    /// Settings, a role file, user data, or a value in the facts that must not be written.
    Config,
    /// Nothing says which role the node has: as `Config`, but at boot no failure.
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

/// A failure: what and where in one line, then why, then how to mend it.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// One line: what failed, and where.
    pub what: String,
    /// Why, as far as it is known; may have several lines.
    pub cause: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
}

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind with its one line.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), cause: None, fix: None }
    }

    /// A step or check that failed.
    pub fn failed(what: impl Into<String>) -> Self {
        Error::new(Kind::Failed, what)
    }

    /// A step that waits for another node.
    pub fn not_yet(what: impl Into<String>) -> Self {
        Error::new(Kind::NotYet, what)
    }

    /// Settings, role files, user data, values in facts.
    pub fn config(what: impl Into<String>) -> Self {
        Error::new(Kind::Config, what)
    }

    /// This role cannot run on this machine.
    pub fn unavailable(what: impl Into<String>) -> Self {
        Error::new(Kind::Unavailable, what)
    }

    /// The same of a file of settings, roles or facts.
    pub fn as_config(self) -> Self {
        Error { kind: Kind::Config, ..self }
    }

    /// Says why.
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Says how to mend it.
    pub fn fix(mut self, fix: impl fmt::Display) -> Self {
        self.fix = Some(fix.to_string());
        self
    }

    /// Puts where it happened in front of the line.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }
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
