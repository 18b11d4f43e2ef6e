//! What a command asks for, without the grammar of the command line.

use std::path::PathBuf;

use crate::error::Result;
use crate::host::Host;
use crate::settings::Settings;
use crate::step::Phase;

/// What a command asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Roles of the command line; several only for an image.
    pub roles: Vec<String>,
    /// Which steps.
    pub phases: Phases,
    /// The tree to write below; none: the machine itself.
    pub root: Option<PathBuf>,
    /// A settings file, or user data that cloud-init runs as a script.
    pub user_data: Option<PathBuf>,
    /// A settings file above all others.
    pub config: Option<PathBuf>,
    /// `key=value`, above all files.
    pub set: Vec<String>,
    /// Where facts come from.
    pub facts: FactSource,
    /// Whether progress is drawn on standard error, for a person at a terminal.
    pub draws_progress: bool,
    /// Reads the words that follow the path on the `#!` line of user data.
    pub first_line: fn(&[&str]) -> Result<FirstLine>,
}

/// Where facts come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactSource {
    /// This machine and its metadata service.
    Instance,
    /// A print of `facts --json`.
    File(PathBuf),
    /// Built-in facts and settings.
    Sample,
}

/// Phases that a run can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phases {
    /// What is the same on every node, while an image is built. No instance is asked.
    Bake,
    /// What depends on this instance.
    Boot,
    /// Both.
    All,
    /// What must be kept for ever; for its timer. No instance is asked.
    Keep,
}

/// What the `#!` line of user data asks for.
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
    /// When the tree cannot be made.
    pub fn host(&self) -> Result<Host> {
        let deadlines = Settings::built_in()?.timeouts.deadlines();
        match &self.root {
            None => Ok(Host::live(deadlines)),
            Some(root) => Host::tree(root, deadlines),
        }
    }

    /// The role of the command line, or the first of several.
    pub fn role(&self) -> Option<&str> {
        self.roles.first().map(String::as_str)
    }

    /// Whether the steps depend on the instance, which is asked then.
    pub fn asks_instance(&self) -> bool {
        matches!(self.phases, Phases::Boot | Phases::All)
    }
}
