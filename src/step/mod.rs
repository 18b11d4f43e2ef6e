//! Steps: one file a kind, one variant a kind, one `match` a verb.

pub mod apt_source;
pub mod container;
pub mod deb;
pub mod deb_record;
pub mod directory;
pub mod ensemble;
pub mod file;
pub mod group_member;
pub mod image;
pub mod instance_group;
pub mod joining;
pub mod kernel_argument;
pub mod package;
pub mod properties;
pub mod unit;
pub mod wait;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::Host;
pub(crate) use crate::host::hex;
use crate::template::Renderer;

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
    /// Why what makes the node join a cluster is not done now; see [`joining`].
    put_off: Option<String>,
}

/// The kinds of steps.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A file with this content, mode, owner; or no such file.
    File(file::File),
    /// A directory with this mode, owner.
    Directory(directory::Directory),
    /// These keys in a Java properties file.
    Properties(properties::Properties),
    /// A deb822 source with its pinned key.
    AptSource(apt_source::AptSources),
    /// These packages are installed.
    Package(package::Packages),
    /// A deb is installed.
    Deb(deb::Deb),
    /// An image is in the engine.
    Image(image::Image),
    /// A container runs from this image with this specification.
    Container(Box<container::Container>),
    /// A unit is enabled or masked, active, and runs with its files' contents.
    Unit(unit::Unit),
    /// This user is in this group.
    GroupMember(group_member::GroupMember),
    /// These arguments are on the kernel's command line.
    KernelArgument(kernel_argument::KernelArguments),
    /// A service answers.
    Wait(wait::Wait),
    /// Titus instance groups are Active.
    InstanceGroup(instance_group::InstanceGroups),
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
    file: Option<file::Raw>,
    directory: Option<directory::Raw>,
    properties: Option<properties::Raw>,
    apt_source: Option<apt_source::Raw>,
    package: Option<package::Raw>,
    deb: Option<deb::Raw>,
    image: Option<image::Raw>,
    container: Option<container::Raw>,
    unit: Option<unit::Raw>,
    group_member: Option<group_member::Raw>,
    kernel_argument: Option<kernel_argument::Raw>,
    wait: Option<wait::Raw>,
    instance_group: Option<instance_group::Raw>,
}

impl Raw {
    /// Template files that the step renders.
    pub fn templates(&self) -> impl Iterator<Item = &str> {
        self.file.iter().filter_map(|file| file.template.as_deref())
    }

    /// Where the role has what the step writes under a name; a value that is no text is empty.
    pub fn origin(&self, name: &str) -> Option<Origin<'_>> {
        let of_file = || self.file.as_ref().and_then(file::Raw::origin);
        let of_properties = || self.properties.as_ref().map(|properties| properties.origin(name));
        let of_kernel = || self.kernel_argument.as_ref().map(kernel_argument::Raw::origin);
        of_file().or_else(of_properties).or_else(of_kernel)
    }

    /// Ids of steps that the step refers to.
    pub fn references(&self) -> &[String] {
        match (&self.unit, &self.container) {
            (Some(unit), _) => &unit.restart_on,
            (_, Some(container)) => &container.restart_on,
            _ => &[],
        }
    }

    /// Whether it has exactly one kind.
    ///
    /// # Errors
    /// When it has none, or several.
    pub fn check(&self) -> Result<()> {
        let kinds = [
            self.file.is_some(),
            self.directory.is_some(),
            self.properties.is_some(),
            self.apt_source.is_some(),
            self.package.is_some(),
            self.deb.is_some(),
            self.image.is_some(),
            self.container.is_some(),
            self.unit.is_some(),
            self.group_member.is_some(),
            self.kernel_argument.is_some(),
            self.wait.is_some(),
            self.instance_group.is_some(),
        ];
        match kinds.iter().filter(|there| **there).count() {
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
        let kind = if let Some(raw) = &self.file {
            Kind::File(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.directory {
            Kind::Directory(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.properties {
            Kind::Properties(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.apt_source {
            Kind::AptSource(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.package {
            Kind::Package(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.deb {
            Kind::Deb(raw.resolve(renderer, &self.id)?)
        } else if let Some(raw) = &self.image {
            Kind::Image(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.container {
            Kind::Container(Box::new(raw.resolve(renderer, files)?))
        } else if let Some(raw) = &self.unit {
            Kind::Unit(raw.resolve(renderer, files)?)
        } else if let Some(raw) = &self.group_member {
            Kind::GroupMember(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.kernel_argument {
            Kind::KernelArgument(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.wait {
            Kind::Wait(raw.resolve(renderer)?)
        } else if let Some(raw) = &self.instance_group {
            Kind::InstanceGroup(raw.resolve(renderer)?)
        } else {
            return Err(Error::config("has no kind"));
        };
        Ok(Step { id: self.id.clone(), phase: self.phase.unwrap_or(Phase::Boot), kind, put_off: None })
    }
}

impl Step {
    /// The kind's name, as role files have it.
    pub fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::File(_) => "file",
            Kind::Directory(_) => "directory",
            Kind::Properties(_) => "properties",
            Kind::AptSource(_) => "apt_source",
            Kind::Package(_) => "package",
            Kind::Deb(_) => "deb",
            Kind::Image(_) => "image",
            Kind::Container(_) => "container",
            Kind::Unit(_) => "unit",
            Kind::GroupMember(_) => "group_member",
            Kind::KernelArgument(_) => "kernel_argument",
            Kind::Wait(_) => "wait",
            Kind::InstanceGroup(_) => "instance_group",
        }
    }

    /// Refuses what can be known to be wrong before anything is changed.
    ///
    /// # Errors
    /// When it is.
    pub fn refuse(&self, host: &Host) -> Result<()> {
        match &self.kind {
            Kind::File(step) => step.refuse(host),
            Kind::Properties(step) => step.refuse(host),
            Kind::Deb(step) => step.refuse(host),
            Kind::Image(step) if host.is_live() => step.refuse(host),
            Kind::Container(step) if host.is_live() => step.refuse(host),
            _ => Ok(()),
        }
    }

    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        if let Some(why) = &self.put_off {
            return self.observe_put_off(why, host, planned);
        }
        match &self.kind {
            Kind::File(step) => step.observe(host),
            Kind::Directory(step) => step.observe(host),
            Kind::Properties(step) => step.observe(host, planned),
            Kind::AptSource(step) => step.observe(host),
            Kind::Package(step) => step.observe(host),
            Kind::Deb(step) => step.observe(host),
            Kind::Image(step) => step.observe(host),
            Kind::Container(step) => step.observe(host, planned),
            Kind::Unit(step) => step.observe(host, planned),
            Kind::GroupMember(step) => step.observe(host),
            Kind::KernelArgument(step) => step.observe(host, planned),
            Kind::Wait(step) => step.observe(host),
            Kind::InstanceGroup(step) => step.observe(host),
        }
    }

    /// Makes it so.
    ///
    /// # Errors
    /// When that fails; what was done until then stays.
    pub fn converge(&self, host: &Host) -> Result<()> {
        match &self.kind {
            Kind::File(step) => step.converge(host),
            Kind::Directory(step) => step.converge(host),
            Kind::Properties(step) => step.converge(host),
            Kind::AptSource(step) => step.converge(host),
            Kind::Package(step) => step.converge(host),
            Kind::Deb(step) => step.converge(host),
            Kind::Image(step) => step.converge(host),
            Kind::Container(step) => step.converge(host),
            Kind::Unit(step) => step.converge(host),
            Kind::GroupMember(step) => step.converge(host),
            Kind::KernelArgument(step) => step.converge(host),
            Kind::Wait(step) => step.converge(host),
            Kind::InstanceGroup(step) => step.converge(host),
        }
    }

    /// What the step will have written, for the plan of later ones. `planned`: what earlier ones will.
    ///
    /// # Errors
    /// When a file that it edits cannot be read.
    pub fn planned(&self, host: &Host, planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(match &self.kind {
            Kind::File(step) => Some((step.path.clone(), step.contents().to_owned().into_bytes())),
            Kind::Properties(step) => Some((step.path.clone(), step.planned(host, planned)?)),
            Kind::Deb(step) => Some((step.mark.clone(), Vec::new())),
            Kind::KernelArgument(_) => Some((kernel_argument::DROP_IN.to_owned(), Vec::new())),
            _ => None,
        })
    }

    /// The step's file and what it writes there, if that has names.
    pub fn contents(&self) -> Option<(&str, Contents)> {
        match &self.kind {
            Kind::File(step) => Some((&step.path, Contents::Text(step.contents().to_owned()))),
            Kind::Properties(step) => Some((&step.path, Contents::Pairs(step.wanted().to_vec()))),
            Kind::KernelArgument(step) => Some((kernel_argument::DROP_IN, Contents::Text(step.drop_in()?))),
            _ => None,
        }
    }

    /// The file that the step writes, if its contents are what `restart_on` looks at.
    pub fn file(&self) -> Option<&str> {
        match &self.kind {
            Kind::File(step) => Some(&step.path),
            Kind::Properties(step) => Some(&step.path),
            Kind::Deb(step) => Some(&step.mark),
            _ => None,
        }
    }

    /// What the step decides, for an image of several roles: two that decide one thing differently cannot share it.
    pub fn claims(&self) -> Vec<Claim> {
        match &self.kind {
            Kind::File(step) => vec![step.claim()],
            Kind::Directory(step) => vec![step.claim()],
            Kind::Properties(step) => step.claims(),
            Kind::AptSource(step) => step.claims(),
            Kind::Package(step) => step.claims(),
            Kind::Unit(step) => step.claims(),
            Kind::KernelArgument(step) => vec![step.claim()],
            // An image or deb more is in no one's way; the rest is never baked.
            Kind::Deb(_)
            | Kind::Image(_)
            | Kind::Container(_)
            | Kind::GroupMember(_)
            | Kind::Wait(_)
            | Kind::InstanceGroup(_) => Vec::new(),
        }
    }

    /// Paths that the step writes, so that what a killed run left beside them can be swept.
    pub fn paths(&self) -> Vec<String> {
        match &self.kind {
            Kind::File(step) => vec![step.path.clone()],
            Kind::Directory(step) => vec![step.path.clone()],
            Kind::Properties(step) => vec![step.path.clone()],
            Kind::AptSource(step) => step.paths(),
            Kind::Deb(step) => step.paths(),
            Kind::Unit(step) => step.paths(),
            Kind::KernelArgument(_) => vec![kernel_argument::DROP_IN.to_owned()],
            Kind::GroupMember(_) => vec!["/etc/group".to_owned()],
            Kind::Image(_) | Kind::Container(_) | Kind::Package(_) | Kind::Wait(_) | Kind::InstanceGroup(_) => {
                Vec::new()
            }
        }
    }
}

/// Enough of the digest of contents to tell them apart, for people.
fn fingerprint(contents: &str) -> String {
    use sha2::Digest;
    let mut digest = hex(&sha2::Sha256::digest(contents));
    digest.truncate(12);
    digest
}
