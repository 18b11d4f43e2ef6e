//! Steps: one file for each kind, one enum variant for each kind, and one `match` that selects the kind's work.

pub mod apt_source;
pub mod command;
pub mod container;
pub mod deb;
pub mod deb_record;
pub mod directory;
pub mod ensemble;
pub mod file;
mod forms;
pub mod group_member;
mod grub;
pub mod health;
pub mod image;
pub mod instance_group;
pub mod kernel_argument;
pub mod package;
pub mod properties;
pub mod sysctl;
pub mod unit;
pub mod wait;
pub mod warm_pool;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub(crate) use crate::host::hex;
use crate::host::{Fetch, Host, apt};
use crate::template::Renderer;

pub use deb::check as check_settings;
pub use package::{needs_apt, refuse_without_candidate};
pub use unit::{note_overridden, refuse_overridden};
pub use wait::name_units;

/// When a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// While an image is built: it is the same on every node.
    Bake,
    /// On a node: it depends on this instance.
    Boot,
    /// Continuously, on a timer.
    Keep,
}

/// A state that must hold on the node.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name, in the role file and in every message.
    pub id: String,
    /// When it runs.
    pub phase: Phase,
    /// The state that must hold.
    pub kind: StepKind,
    /// The files and lines that define it, if a drop-in defines a part of it.
    pub drop_ins: Option<String>,
    /// Why a step that makes the node join a cluster is deferred; see [`warm_pool`].
    deferral: Option<String>,
}

/// A thing that a step decides, and the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The thing, e.g. `/etc/x`, `package mesos`.
    pub thing: String,
    /// The decision in words. Equal decisions have equal words.
    pub wish: String,
    /// Whether it is, or may be, a directory, so that other paths can be below it.
    pub is_directory: bool,
}

impl Claim {
    fn new(thing: impl Into<String>, wish: impl Into<String>) -> Claim {
        Claim { thing: thing.into(), wish: wish.into(), is_directory: false }
    }

    fn of_directory(path: &str, wish: impl Into<String>) -> Claim {
        Claim { is_directory: true, ..Claim::new(path, wish) }
    }
}

/// What `observe` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In sync, perhaps with a remark.
    InSync(Option<String>),
    /// Not in sync; what `converge` will do.
    Changes(Vec<Change>),
    /// There is nothing to change, but something has yet to respond. What, and its last response.
    Waits(String),
    /// An earlier step has to come first; which one, in words.
    Blocked(String),
    /// Everything on disk is correct, but the running kernel is not yet.
    AfterReboot(String),
    /// Deferred in a tree or in a warm pool, and why. Counts as in sync.
    Deferred(String),
}

/// Files that earlier steps of a plan will have written by then: path and contents. Empty in a run, because a run observes
/// the files themselves.
pub type Planned = BTreeMap<String, Vec<u8>>;

/// A difference between the current state and the intended one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Change {
    /// What the step will do, in one line.
    pub line: String,
    /// The difference of contents, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
    /// The contents of a file that does not exist yet, if they may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
}

impl Change {
    /// A change that one line describes.
    pub fn new(line: impl Into<String>) -> Change {
        Change { line: line.into(), diff: None, contents: None }
    }
}

impl State {
    /// `Changes`, or `InSync` if the list is empty.
    pub fn from_changes(changes: Vec<Change>) -> State {
        if changes.is_empty() { State::InSync(None) } else { State::Changes(changes) }
    }
}

/// What a step writes to its file under names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Lines of any format, in which the names must still be found.
    Text(String),
    /// Names and values.
    Pairs(Vec<(String, String)>),
}

/// Where in a role a step's contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueOrigin<'a> {
    /// A template file.
    File(&'a str),
    /// The contents in the role file.
    Text(&'a str),
    /// One value in the role file.
    Value(&'a str),
    /// A text that produces a table of further names, and one value.
    Table(&'a str, &'a str),
}

/// The work of a kind of step. Only `observe`, `converge` and `explain` are required.
pub trait Work: std::fmt::Debug {
    /// Looks at the step's state, and changes nothing.
    ///
    /// # Errors
    /// Fails when the state cannot be inspected.
    fn observe(&self, host: &Host, planned: &Planned) -> Result<State>;

    /// Brings the step into sync.
    ///
    /// # Errors
    /// Fails when a change fails. Earlier changes stay.
    fn converge(&self, host: &Host) -> Result<()>;

    /// Describes in sentences what the step maintains, and what a change of it causes. Contains no contents, and no value
    /// that could be a secret.
    fn explain(&self) -> Vec<String>;

    /// Refuses what is known to be wrong before anything is changed.
    ///
    /// # Errors
    /// Fails when something is known to be wrong.
    fn refuse(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Refuses what only the network shows to be wrong. For a run that is about to change the machine.
    ///
    /// # Errors
    /// Fails when something is wrong.
    fn refuse_online(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Sources of packages, as they will be in /etc/apt.
    ///
    /// # Errors
    /// Fails when a key is not available, or is not the pinned one.
    fn sources(&self, _host: &Host) -> Result<Vec<apt::Source>> {
        Ok(Vec::new())
    }

    /// What the step will have apt install. `given_up`: optional packages that these sources did not have before.
    ///
    /// # Errors
    /// Fails when dpkg does not respond.
    fn needs(&self, _host: &Host, _given_up: &[String]) -> Result<Vec<Need<'_>>> {
        Ok(Vec::new())
    }

    /// What can be downloaded in the background before the run reaches the step.
    ///
    /// # Errors
    /// Fails when the state cannot be inspected.
    fn fetches(&self, _host: &Host) -> Result<Vec<Fetch>> {
        Ok(Vec::new())
    }

    /// Whether the step changes nothing, and only waits for something to respond.
    fn only_waits(&self) -> bool {
        false
    }

    /// Notes what the step needs to know from systemd or dpkg, so that one query serves all steps.
    ///
    /// # Errors
    /// Fails when records cannot be listed.
    fn ask(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// What the step will have written, for the plan of later steps. `planned` has the files of earlier steps.
    ///
    /// # Errors
    /// Fails when a file that the step edits cannot be read.
    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(None)
    }

    /// The step's file and what it writes there, if its contents have names.
    fn written(&self) -> Option<(&str, Contents)> {
        None
    }

    /// Whether only the owner may read that file. None of its values is shown then.
    fn is_private(&self) -> bool {
        false
    }

    /// The file whose contents `restart_on` compares, if the kind has one; see [`RawKind::can_restart`].
    fn file(&self) -> Option<&str> {
        None
    }

    /// What the step decides, for an image with several roles. Steps that decide a thing differently cannot share an image.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// Absorbs a step of another role, for kinds of which two steps would undo each other. Returns whether it did.
    fn join(&mut self, _other: &StepKind) -> bool {
        false
    }

    /// Checks at the end of a run that what the step started stays up.
    ///
    /// # Errors
    /// Fails when it does not stay up.
    fn stays(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Paths that the step writes, so that the run can remove what a killed run left beside them.
    fn paths(&self) -> Vec<String> {
        Vec::new()
    }

    /// Directories of the host that a container of this step may write to. The program follows no links in them.
    fn shared(&self) -> Vec<String> {
        Vec::new()
    }

    /// Removes what makes the node join a cluster. Returns whether there was anything to remove.
    fn defer(&mut self) -> bool {
        false
    }

    /// Whether a deferred step still has something to do, e.g. to enable a unit.
    fn is_partly_done(&self) -> bool {
        false
    }

    /// Records what is running, before the first change of a run and at its end. A file that is changed and restored before
    /// the next run then restarts nothing.
    ///
    /// # Errors
    /// Fails when the state cannot be inspected, or the record cannot be written.
    fn record_running(&self, _host: &Host) -> Result<()> {
        Ok(())
    }
}

/// What a step will have apt install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// This package, `name` or `name=version`.
    Package {
        /// The package, as the settings name it.
        name: &'a str,
        /// Only people use it, so a missing candidate is only a notice.
        optional: bool,
        /// The setting that names it, for messages.
        setting: Option<&'a str>,
    },
    /// The dependencies of a deb, which are still unknown.
    Dependencies,
}

/// The form of a kind in a role file.
trait RawKind {
    /// The template file that it renders.
    fn template(&self) -> Option<&str> {
        None
    }

    /// Where in the role the contents under a name come from. A value that is not text is empty.
    fn origin(&self, _name: &str) -> Option<ValueOrigin<'_>> {
        None
    }

    /// Ids of earlier steps with contents that the step uses until it restarts.
    fn restart_on(&self) -> &[String] {
        &[]
    }

    /// Ids of earlier steps with contents that the step reads again on reload.
    fn reload_on(&self) -> &[String] {
        &[]
    }

    /// Refuses what no template can fix, when the role is loaded.
    ///
    /// # Errors
    /// Fails when a key is missing, or keys do not go together.
    fn refuse(&self) -> Result<()> {
        Ok(())
    }

    /// Whether it writes something that a later step can name in `restart_on`. [`Work::file`] then returns it.
    fn can_restart(&self) -> bool {
        false
    }
}

/// What a kind needs to be resolved.
struct ResolveContext<'a> {
    renderer: &'a Renderer,
    id: &'a str,
    /// The files of earlier steps, and the marks of their debs.
    files: &'a BTreeMap<String, String>,
}

/// The table of kinds: its name in role files, the checked struct, and the conversion.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $kind:ident($raw:ident => $type:ty) = $resolve:expr;)*) => {
        /// The kinds of steps.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "a role has some forty")]
        pub enum StepKind { $($(#[$doc])* $kind($type),)* }

        impl StepKind {
            /// Its name in role files.
            pub fn name(&self) -> &'static str {
                match self { $(StepKind::$kind(_) => stringify!($name),)* }
            }

            fn work(&self) -> &dyn Work {
                match self { $(StepKind::$kind(work) => work,)* }
            }

            fn work_mut(&mut self) -> &mut dyn Work {
                match self { $(StepKind::$kind(work) => work,)* }
            }
        }

        /// The form of a step in a role file: one optional table for each kind, exactly one of which is present.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RawStep {
            /// Its name.
            pub id: String,
            /// When it runs; health checks have no phase.
            pub phase: Option<Phase>,
            /// An expression; if false, the step is left out.
            pub when: Option<String>,
            /// An expression for a list. The step is repeated for each item, which its templates call `item`.
            pub each: Option<String>,
            /// In a drop-in: the step that this one comes before.
            pub before: Option<String>,
            /// In a drop-in: the step that this one comes after.
            pub after: Option<String>,
            $($name: Option<$name::$raw>,)*
        }

        impl RawStep {
            /// The kinds that are present; `check` requires exactly one.
            fn kinds(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name.is_some())),*].into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
            }

            fn raw(&self) -> Option<&dyn RawKind> {
                $(if let Some(raw) = &self.$name {
                    return Some(raw);
                })*
                None
            }

            fn kind(&self, place: &ResolveContext<'_>) -> Result<StepKind> {
                $(if let Some(raw) = &self.$name {
                    let resolve: fn(&$name::$raw, &ResolveContext<'_>) -> Result<$type> = $resolve;
                    return resolve(raw, place).map(StepKind::$kind);
                })*
                Err(Error::config("has no kind"))
            }
        }
    };
}

kinds! {
    /// A file with this content, mode and owner; or no such file.
    file: File(RawFile => file::File) = |raw, at| raw.resolve(at.renderer);
    /// A directory with this mode and owner.
    directory: Directory(RawDirectory => directory::Directory) = |raw, at| raw.resolve(at.renderer);
    /// These keys in a Java properties file.
    properties: Properties(RawProperties => properties::Properties) = |raw, at| raw.resolve(at.renderer);
    /// A deb822 source with its pinned key.
    apt_source: AptSource(RawAptSource => apt_source::AptSources) = |raw, at| raw.resolve(at.renderer);
    /// These packages are installed.
    package: Package(RawPackage => package::Packages) = |raw, at| raw.resolve(at.renderer);
    /// A deb is installed.
    deb: Deb(RawDeb => deb::DebStep) = |raw, at| raw.resolve(at.renderer, at.id);
    /// An image is in the engine.
    image: Image(RawImage => image::Image) = |raw, at| raw.resolve(at.renderer);
    /// A container runs from this image with this specification.
    container: Container(RawContainer => container::Container) = |raw, at| raw.resolve(at.renderer, at.files);
    /// A unit is enabled or masked, active, and runs with its files' contents.
    unit: Unit(RawUnit => unit::Unit) = |raw, at| raw.resolve(at.renderer, at.files);
    /// This user is in this group.
    group_member: GroupMember(RawGroupMember => group_member::GroupMember) = |raw, at| raw.resolve(at.renderer);
    /// These arguments are on the kernel's command line.
    kernel_argument: KernelArgument(RawKernelArgument => kernel_argument::KernelArguments) = |raw, at| raw.resolve(at.renderer);
    /// Kernel parameters are in a drop-in, and in the running kernel.
    sysctl: Sysctl(RawSysctl => sysctl::Sysctl) = |raw, at| raw.resolve(at.renderer);
    /// An operator's command has done its work.
    command: Command(RawCommand => command::Command) = |raw, at| raw.resolve(at.renderer);
    /// A service responds.
    wait: Wait(RawWait => wait::Awaited) = |raw, at| raw.resolve(at.renderer).map(wait::Awaited::from);
    /// Titus instance groups are Active.
    instance_group: InstanceGroup(RawInstanceGroup => instance_group::InstanceGroups) = |raw, at| raw.resolve(at.renderer);
}

impl RawStep {
    /// The template file that the step renders.
    pub fn template(&self) -> Option<&str> {
        self.raw()?.template()
    }

    /// Where in the role the contents under a name come from. A value that is not text is empty.
    pub fn origin(&self, name: &str) -> Option<ValueOrigin<'_>> {
        self.raw()?.origin(name)
    }

    /// Ids of earlier steps with contents that the step uses until it restarts.
    pub fn restart_on(&self) -> &[String] {
        self.raw().map_or(&[], RawKind::restart_on)
    }

    /// Ids of earlier steps with contents that the step reads again on reload.
    pub fn reload_on(&self) -> &[String] {
        self.raw().map_or(&[], RawKind::reload_on)
    }

    /// Whether a later step can name it in `restart_on`.
    pub fn can_restart(&self) -> bool {
        self.raw().is_some_and(RawKind::can_restart)
    }

    /// Checks that it has exactly one kind, with keys that go together.
    ///
    /// # Errors
    /// Fails when it has no kind or several, or a key is missing.
    pub fn check(&self) -> Result<()> {
        match self.kinds().len() {
            1 => {
                let refused = self.raw().map_or(Ok(()), RawKind::refuse);
                refused.map_err(|error| error.at(format!("step {}", self.id)))
            }
            0 => Err(Error::config(format!("step {}: has no kind", self.id))
                .fix("give it one table: file, unit, package, …")),
            _ => Err(Error::config(format!("step {}: has more than one kind", self.id)).fix("make it several steps")),
        }
    }

    /// Renders every template of the step. `files` has the files of earlier steps, and the marks of their debs.
    ///
    /// # Errors
    /// Fails when a template has no value, or a value has the wrong form.
    pub fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Step> {
        let kind = self.kind(&ResolveContext { renderer, id: &self.id, files })?;
        Ok(Step { id: self.id.clone(), phase: self.phase.unwrap_or(Phase::Boot), kind, drop_ins: None, deferral: None })
    }
}

impl Step {
    /// The work of its kind.
    pub fn work(&self) -> &dyn Work {
        self.kind.work()
    }

    /// Absorbs a step of another role, for kinds of which two steps would undo each other. Returns whether it did.
    pub fn join(&mut self, other: &Step) -> bool {
        self.kind.work_mut().join(&other.kind)
    }

    /// Looks at the step's state, and changes nothing. For a deferred step, looks at the rest of its work.
    ///
    /// # Errors
    /// Fails when the state cannot be inspected.
    pub fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        match &self.deferral {
            Some(why) => self.observe_deferred(why, host, planned),
            None => self.kind.work().observe(host, planned),
        }
    }
}

/// Loads a kind as a role does, including its refusals.
#[cfg(test)]
fn loaded<T: RawKind + serde::de::DeserializeOwned>(toml: &str) -> Result<T> {
    let raw: T = toml::from_str(toml).map_err(|error| Error::config(error.message()))?;
    raw.refuse().map(|()| raw)
}

/// A short part of the digest of contents, for people to distinguish versions.
fn fingerprint(contents: impl AsRef<[u8]>) -> String {
    use sha2::Digest;
    let mut digest = hex(&sha2::Sha256::digest(contents));
    digest.truncate(12);
    digest
}
