//! A command's request, independent of the grammar of the command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
use crate::facts::Facts;
use crate::host::Host;
use crate::settings::Settings;
use crate::step::Phase;

/// A command's request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Roles on the command line; several only for an image.
    pub roles: Vec<String>,
    /// The phases to run.
    pub phases: Phases,
    /// The tree to write to; `None` means the machine itself.
    pub root: Option<PathBuf>,
    /// A settings file, or user data that cloud-init runs as a script.
    pub user_data: Option<PathBuf>,
    /// A settings file that overrides all others.
    pub config: Option<PathBuf>,
    /// `key=value` pairs, which override all files.
    pub set: Vec<String>,
    /// The source of facts.
    pub facts: FactSource,
    /// Parses the words that follow the path on the `#!` line of user data.
    pub first_line: fn(&[&str]) -> Result<FirstLine>,
    /// The maximum time to wait for AWS, if the settings allow more.
    pub patience: Option<Duration>,
    /// The steps to run.
    pub selection: Selection,
}

/// The steps that a run is limited to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Ids; empty: all.
    pub only: Vec<String>,
    /// Ids of steps to leave out.
    pub skip: Vec<String>,
}

impl Selection {
    /// Whether it leaves steps out.
    pub fn is_partial(&self) -> bool {
        !self.only.is_empty() || !self.skip.is_empty()
    }
}

/// The source of facts.
#[derive(Debug, Clone, PartialEq)]
pub enum FactSource {
    /// This machine and its metadata service.
    Instance,
    /// A file with the output of `facts --json`.
    File(PathBuf),
    /// Facts of one node of several, which were read before.
    Given(Box<Facts>),
    /// Built-in facts and settings.
    Sample,
}

/// Phases that a run can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phases {
    /// Steps that are the same on every node, while an image is built. Needs no answer from the instance.
    Bake,
    /// Steps that depend on this instance.
    Boot,
    /// Both.
    All,
    /// Steps that keep a state in place, for a timer. Needs no answer from the instance.
    Keep,
}

/// The flags on the `#!` line of user data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstLine {
    /// `--role`.
    pub roles: Vec<String>,
    /// `--set`.
    pub set: Vec<String>,
}

impl Phases {
    /// The phases of steps.
    pub fn list(self) -> &'static [Phase] {
        match self {
            Phases::Bake => &[Phase::Bake],
            Phases::Boot => &[Phase::Boot],
            Phases::All => &[Phase::Bake, Phase::Boot],
            Phases::Keep => &[Phase::Keep],
        }
    }
}

impl Request {
    /// The machine, or the tree of --root.
    ///
    /// # Errors
    /// Fails when the tree cannot be created.
    pub fn host(&self) -> Result<Host> {
        let deadlines = Settings::built_in()?.timeouts.deadlines();
        match &self.root {
            None => Ok(Host::live(deadlines)),
            Some(root) => Host::tree(root, deadlines),
        }
    }

    /// A time limit of the settings, reduced to this request's patience.
    pub fn limit(&self, configured: Duration) -> Duration {
        self.patience.map_or(configured, |patience| patience.min(configured))
    }

    /// The role on the command line, or the first of several.
    pub fn role(&self) -> Option<&str> {
        self.roles.first().map(String::as_str)
    }

    /// Whether the steps depend on the instance, so that the program must ask it.
    pub fn asks_instance(&self) -> bool {
        matches!(self.phases, Phases::Boot | Phases::All)
    }
}
