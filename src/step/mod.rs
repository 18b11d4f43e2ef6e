//! Steps: one file a kind, one variant a kind, one `match` a verb.

pub mod apt_source;
pub mod container;
pub mod deb;
pub mod deb_record;
pub mod directory;
pub mod ensemble;
pub mod file;
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

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
pub(crate) use crate::host::hex;
use crate::host::{Fetch, Host, apt};
use crate::template::Renderer;

pub use deb::check as check_settings;
pub use package::{needs_apt, refuse_without_candidate};
pub use unit::{note_overridden, refuse_overridden};
pub use wait::name_units;

/// When a step's work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// While an image is built: the same on every node.
    Bake,
    /// On a node: depends on this instance.
    Boot,
    /// For ever, on a timer.
    Keep,
}

/// One thing that must hold on the node.
#[derive(Debug, Clone)]
pub struct Step {
    /// Names it, in the role file and in every message.
    pub id: String,
    /// When its work is done.
    pub phase: Phase,
    /// What must hold.
    pub kind: Kind,
    /// Why what makes the node join a cluster is not done now; see [`warm_pool`].
    put_off: Option<String>,
}

/// One thing that a step decides, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `/etc/x`, `package mesos`.
    pub thing: String,
    /// How it must be, in words; two that are the same say the same.
    pub wish: String,
}

impl Claim {
    fn new(thing: impl Into<String>, wish: impl Into<String>) -> Claim {
        Claim { thing: thing.into(), wish: wish.into() }
    }
}

/// What `observe` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it should be; with something that is worth saying, or not.
    InSync(Option<String>),
    /// Not so; what `converge` will do.
    Changes(Vec<Change>),
    /// There is nothing to change: something has to answer, and does not yet. What, and its last answer.
    Waits(String),
    /// An earlier step has to come first; which, in words.
    Blocked(String),
    /// All on disk is right, the running kernel is not yet.
    AfterReboot(String),
    /// Not done in a tree, or in a warm pool; why. Counted as in sync.
    Deferred(String),
}

/// Files that earlier steps of a plan will have written by then: path and contents. A run has none,
/// for it observes what is there.
pub type Planned = BTreeMap<String, Vec<u8>>;

/// One difference between what is and what should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What will be done, in a line.
    pub line: String,
    /// The difference of contents, if it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub diff: Option<String>,
}

impl Change {
    /// A change that a line tells.
    pub fn new(line: impl Into<String>) -> Change {
        Change { line: line.into(), diff: None }
    }
}

impl State {
    /// Changes, or in sync if there are none.
    pub fn from_changes(changes: Vec<Change>) -> State {
        if changes.is_empty() { State::InSync(None) } else { State::Changes(changes) }
    }
}

/// What a step writes into its file under names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Lines of any format, in which the names are still to be found.
    Text(String),
    /// Names and values.
    Pairs(Vec<(String, String)>),
}

/// Where a role has what a step writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A template file.
    File(&'a str),
    /// The contents, in the role file.
    Text(&'a str),
    /// One value, in the role file.
    Value(&'a str),
    /// A text that gives a table of further names, and one value.
    Table(&'a str, &'a str),
}

/// What a kind of step does. Only `observe` and `converge` are required.
pub trait Work: std::fmt::Debug {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn observe(&self, host: &Host, planned: &Planned) -> Result<State>;

    /// Makes it so.
    ///
    /// # Errors
    /// When that fails; what was done until then stays.
    fn converge(&self, host: &Host) -> Result<()>;

    /// Refuses what can be known to be wrong before anything is changed.
    ///
    /// # Errors
    /// When it is.
    fn refuse(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Refuses what only the network shows; for a run that is about to change the machine.
    ///
    /// # Errors
    /// When it is wrong.
    fn refuse_online(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Sources of packages, as they will stand in /etc/apt.
    ///
    /// # Errors
    /// When a key cannot be had, or is not the pinned one.
    fn sources(&self, _host: &Host) -> Result<Vec<apt::Source>> {
        Ok(Vec::new())
    }

    /// What the step will have apt install. `given_up`: optional packages that these sources did not have before.
    ///
    /// # Errors
    /// When dpkg cannot be asked.
    fn needs(&self, _host: &Host, _given_up: &[String]) -> Result<Vec<Need<'_>>> {
        Ok(Vec::new())
    }

    /// What can be brought in the background before the step is reached.
    ///
    /// # Errors
    /// When it cannot be looked at.
    fn fetches(&self, _host: &Host) -> Result<Vec<Fetch>> {
        Ok(Vec::new())
    }

    /// Whether it changes nothing, and only waits for something to answer.
    fn only_waits(&self) -> bool {
        false
    }

    /// Names what systemd or dpkg will be asked for, so that one question serves all steps.
    ///
    /// # Errors
    /// When records cannot be listed.
    fn ask(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// What the step will have written, for the plan of later ones. `planned`: what earlier ones will.
    ///
    /// # Errors
    /// When a file that it edits cannot be read.
    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(None)
    }

    /// The step's file and what it writes there, if that has names.
    fn written(&self) -> Option<(&str, Contents)> {
        None
    }

    /// Whether that file is for its owner alone: then none of its values is shown.
    fn is_private(&self) -> bool {
        false
    }

    /// The file whose contents `restart_on` looks at, of a kind that has one: see [`RawKind::can_restart`].
    fn file(&self) -> Option<&str> {
        None
    }

    /// What the step decides, for an image of several roles: two that decide one thing differently cannot share it.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// Takes in a step of another role, where two of its kind would undo each other; whether it did.
    fn join(&mut self, _other: &Kind) -> bool {
        false
    }

    /// Looks, at the end of a run, whether what it started stays up.
    ///
    /// # Errors
    /// When it does not.
    fn stays(&self, _host: &Host) -> Result<()> {
        Ok(())
    }

    /// Paths that the step writes, so that what a killed run left beside them can be swept.
    fn paths(&self) -> Vec<String> {
        Vec::new()
    }

    /// Directories of the host that a container of this step may write: no link in them is followed.
    fn shared(&self) -> Vec<String> {
        Vec::new()
    }

    /// Takes away what makes the node join a cluster; whether there was anything.
    fn put_off(&mut self) -> bool {
        false
    }

    /// Whether a step that is put off still has something to do: of a unit, its enablement.
    fn is_done_in_part(&self) -> bool {
        false
    }

    /// Records what runs now, before the first change of a run and at the end of each: a file that is changed and put
    /// back before the next run then restarts nothing.
    ///
    /// # Errors
    /// When it cannot be looked at, or the record cannot be written.
    fn record_running(&self, _host: &Host) -> Result<()> {
        Ok(())
    }
}

/// What a step will have apt install.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// This package, `name` or `name=version`.
    Package {
        /// As the settings have it.
        name: &'a str,
        /// Only people use it: one that no source has is a notice.
        optional: bool,
        /// The setting that names it, for messages.
        setting: Option<&'a str>,
    },
    /// What a deb depends on, which nobody knows yet.
    Dependencies,
}

/// A kind as a role file has it.
trait RawKind {
    /// The template file that it renders.
    fn template(&self) -> Option<&str> {
        None
    }

    /// Where the role has what it writes under a name; a value that is not text is empty.
    fn origin(&self, _name: &str) -> Option<Origin<'_>> {
        None
    }

    /// Ids of the steps before it whose contents it runs with.
    fn restart_on(&self) -> &[String] {
        &[]
    }

    /// Whether it writes something that a later step can name in `restart_on`: then [`Work::file`] is that.
    fn can_restart(&self) -> bool {
        false
    }
}

/// What a kind is resolved with.
struct Place<'a> {
    renderer: &'a Renderer,
    id: &'a str,
    /// The files of the steps before it, and the marks of their debs.
    files: &'a BTreeMap<String, String>,
}

/// The table of kinds: its name in role files, the checked struct, and how one becomes the other.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $kind:ident($type:ty) = $resolve:expr;)*) => {
        /// The kinds of steps.
        #[derive(Debug, Clone, PartialEq)]
        #[allow(clippy::large_enum_variant, reason = "a role has some forty")]
        pub enum Kind { $($(#[$doc])* $kind($type),)* }

        impl Kind {
            /// Its name, as role files have it.
            pub fn name(&self) -> &'static str {
                match self { $(Kind::$kind(_) => stringify!($name),)* }
            }

            fn work(&self) -> &dyn Work {
                match self { $(Kind::$kind(work) => work,)* }
            }

            fn work_mut(&mut self) -> &mut dyn Work {
                match self { $(Kind::$kind(work) => work,)* }
            }
        }

        /// A step as a role file has it: one optional table a kind, of which exactly one is there.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Raw {
            /// Names the step.
            pub id: String,
            /// When; health checks have none.
            pub phase: Option<Phase>,
            /// An expression; false: the step is left out.
            pub when: Option<String>,
            /// An expression for a list: a step for each of it, which its templates call `item`.
            pub each: Option<String>,
            $($name: Option<$name::Raw>,)*
        }

        impl Raw {
            /// The kinds that it has; checked to be one.
            fn kinds(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name.is_some())),*].into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
            }

            fn raw(&self) -> Option<&dyn RawKind> {
                $(if let Some(raw) = &self.$name {
                    return Some(raw);
                })*
                None
            }

            fn kind(&self, place: &Place<'_>) -> Result<Kind> {
                $(if let Some(raw) = &self.$name {
                    let resolve: fn(&$name::Raw, &Place<'_>) -> Result<$type> = $resolve;
                    return resolve(raw, place).map(Kind::$kind);
                })*
                Err(Error::config("has no kind"))
            }
        }
    };
}

kinds! {
    /// A file with this content, mode, owner; or no such file.
    file: File(file::File) = |raw, at| raw.resolve(at.renderer);
    /// A directory with this mode, owner.
    directory: Directory(directory::Directory) = |raw, at| raw.resolve(at.renderer);
    /// These keys in a Java properties file.
    properties: Properties(properties::Properties) = |raw, at| raw.resolve(at.renderer);
    /// A deb822 source with its pinned key.
    apt_source: AptSource(apt_source::AptSources) = |raw, at| raw.resolve(at.renderer);
    /// These packages are installed.
    package: Package(package::Packages) = |raw, at| raw.resolve(at.renderer);
    /// A deb is installed.
    deb: Deb(deb::Deb) = |raw, at| raw.resolve(at.renderer, at.id);
    /// An image is in the engine.
    image: Image(image::Image) = |raw, at| raw.resolve(at.renderer);
    /// A container runs from this image with this specification.
    container: Container(container::Container) = |raw, at| raw.resolve(at.renderer, at.files);
    /// A unit is enabled or masked, active, and runs with its files' contents.
    unit: Unit(unit::Unit) = |raw, at| raw.resolve(at.renderer, at.files);
    /// This user is in this group.
    group_member: GroupMember(group_member::GroupMember) = |raw, at| raw.resolve(at.renderer);
    /// These arguments are on the kernel's command line.
    kernel_argument: KernelArgument(kernel_argument::KernelArguments) = |raw, at| raw.resolve(at.renderer);
    /// Kernel parameters are in a drop-in, and in the running kernel.
    sysctl: Sysctl(sysctl::Sysctl) = |raw, at| raw.resolve(at.renderer);
    /// A service answers.
    wait: Wait(wait::Awaited) = |raw, at| raw.resolve(at.renderer).map(wait::Awaited::from);
    /// Titus instance groups are Active.
    instance_group: InstanceGroup(instance_group::InstanceGroups) = |raw, at| raw.resolve(at.renderer);
}

impl Raw {
    /// The template file that the step renders.
    pub fn template(&self) -> Option<&str> {
        self.raw()?.template()
    }

    /// Where the role has what the step writes under a name; a value that is not text is empty.
    pub fn origin(&self, name: &str) -> Option<Origin<'_>> {
        self.raw()?.origin(name)
    }

    /// Ids of the steps before it whose contents it runs with.
    pub fn restart_on(&self) -> &[String] {
        self.raw().map_or(&[], RawKind::restart_on)
    }

    /// Whether a later step can name it in `restart_on`.
    pub fn can_restart(&self) -> bool {
        self.raw().is_some_and(RawKind::can_restart)
    }

    /// Whether it has exactly one kind.
    ///
    /// # Errors
    /// When it has none, or several.
    pub fn check(&self) -> Result<()> {
        match self.kinds().len() {
            1 => Ok(()),
            0 => Err(Error::config(format!("step {}: has no kind", self.id))
                .fix("give it one table: file, unit, package, …")),
            _ => Err(Error::config(format!("step {}: has more than one kind", self.id)).fix("make it several steps")),
        }
    }

    /// The step with every template rendered. `files`: the files of the steps before it, and the marks of
    /// their debs.
    ///
    /// # Errors
    /// When a value has no value, or the wrong form.
    pub fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Step> {
        let kind = self.kind(&Place { renderer, id: &self.id, files })?;
        Ok(Step { id: self.id.clone(), phase: self.phase.unwrap_or(Phase::Boot), kind, put_off: None })
    }
}

impl Step {
    /// What its kind does.
    pub fn work(&self) -> &dyn Work {
        self.kind.work()
    }

    /// Takes in a step of another role, where two of their kind would undo each other; whether it did.
    pub fn join(&mut self, other: &Step) -> bool {
        self.kind.work_mut().join(&other.kind)
    }

    /// Looks, and changes nothing; at what is left of a step that is put off.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        match &self.put_off {
            Some(why) => self.observe_put_off(why, host, planned),
            None => self.kind.work().observe(host, planned),
        }
    }
}

/// Enough of the digest of contents to tell them apart, for people.
fn fingerprint(contents: impl AsRef<[u8]>) -> String {
    use sha2::Digest;
    let mut digest = hex(&sha2::Sha256::digest(contents));
    digest.truncate(12);
    digest
}
