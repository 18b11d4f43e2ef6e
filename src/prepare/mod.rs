//! From a request to a role that can be run: settings, facts, the role, and what Titus derives of them.

pub mod cloud;
pub mod detect;
pub mod gather;
pub mod layers;
pub mod request;
pub mod shared_image;

use std::io::IsTerminal;
use std::time::Duration;

pub use self::gather::{Gathered, gather};
pub use self::layers::{Layers, names_of};
pub use self::request::{FactSource, FirstLine, Phases, Request};

use self::detect::Detected;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::host::apt::Permissions;
use crate::host::docker::auth::Source;
use crate::role::{Role, known_names};
use crate::settings::name::lookup;
use crate::settings::{Merged, Settings};
use crate::step::Step;
use crate::step::health::Check;
use crate::template::{Renderer, how_to_set};
use crate::titus::{self, Values, cgroup};

/// How long the look-up of a ZooKeeper server's name may take; each is looked up once, before anything is changed.
const LOOKUP: Duration = Duration::from_secs(10);

/// Everything that a command knows before it looks at the first step.
pub struct Prepared {
    /// The role.
    pub role: Role,
    /// How it was found.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
    /// The same, checked.
    pub settings: Settings,
    /// Facts.
    pub facts: Facts,
    /// What Titus derives of settings and facts.
    pub values: Values,
    /// What is said of tags that are ignored.
    pub ignored_tags: Vec<String>,
    /// The role's templates over all of this.
    pub renderer: Renderer,
    /// The same of further roles, for an image of several.
    pub others: Vec<Prepared>,
}

/// From a request to a role that can be rendered; while an image is baked, to several.
///
/// # Errors
/// Everything that can be refused before the machine is looked at.
pub fn prepare(request: &Request, host: &mut Host) -> Result<Prepared> {
    let mut prepared = from_gathered(request, gather(request, host)?, host)?;
    let mut names = vec![prepared.role.name.clone()];
    for role in request.roles.iter().skip(1) {
        let other = from_gathered(request, gather::gather_for(request, Some(role), host)?, host)?;
        if !names.contains(&other.role.name) {
            names.push(other.role.name.clone());
            prepared.others.push(other);
        }
    }
    Ok(prepared)
}

/// From facts, role and settings to a role that can be rendered.
///
/// # Errors
/// Everything that can be refused before the machine is looked at.
pub fn from_gathered(request: &Request, gathered: Gathered, host: &mut Host) -> Result<Prepared> {
    let Gathered { facts, role, detected, merged, ignored_tags } = gathered;
    let settings = merged.settings()?;
    role.refuse(&settings, &facts)?;
    host.deadlines = layers::deadlines(&merged);
    host.proxy = layers::proxy(&settings.proxy);
    host.apt = Permissions { take_over: settings.apt.take_over, may_remove: settings.apt.may_remove.clone() };
    let from_environment = std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
    if let Some(address) = settings.docker.host.clone().or(from_environment) {
        host.docker = address;
    }
    host.registry_credentials = settings.docker.auth.as_ref().map(|path| {
        let region = facts.instance.as_ref().map(|instance| instance.region.clone()).unwrap_or_default();
        Source { path: path.clone(), environment: layers::helper_environment(&settings.proxy, &region) }
    });
    host.bar = request.draws_progress && std::io::stderr().is_terminal();
    let values = match &facts.instance {
        Some(instance) if role.vpc_driver && request.asks_instance() => {
            Values::of_agent(&settings, instance).map_err(|error| cloud::with_tags(error, &facts))?
        }
        Some(instance) if role.zookeeper_server && request.asks_instance() => {
            let resolve = |name: &str| host.addresses(name, LOOKUP).ok().and_then(Result::ok).unwrap_or_default();
            Values::of_prereqs(&settings, instance, &resolve)?
        }
        _ => Values::of_settings(&settings),
    };
    let values = if role.vpc_driver {
        let booted = facts.instance.as_ref().filter(|_| request.asks_instance());
        let running = booted.map(|instance| instance.kernel_command_line.as_str());
        cgroup::refuse(&settings, &facts.image, running)?;
        values.with_kernel(&settings, &facts.image, running)
    } else {
        values
    };
    if request.asks_instance() {
        refuse_without_required(&role, &settings)
            .map_err(|error| cloud::with_tags(with_ignored(error, &ignored_tags), &facts))?;
    }
    let renderer = role.renderer(host, known_names(&facts, &settings, &values))?;
    // Those of the binary are checked by its tests.
    if !role.is_built_in() {
        role.names(&renderer)?;
    }
    Ok(Prepared { role, detected, merged, settings, facts, values, ignored_tags, renderer, others: Vec::new() })
}

/// An error about a value that a tag may have had.
fn with_ignored(error: Error, ignored: &[String]) -> Error {
    if ignored.is_empty() { error } else { error.cause(ignored.join("\n")) }
}

fn refuse_without_required(role: &Role, settings: &Settings) -> Result<()> {
    let known = serde_json::json!(settings);
    let has = |name: &str| {
        lookup(&known, name)
            .is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()))
    };
    let missing: Vec<&str> = role.required().iter().map(String::as_str).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let how = |name: &&str| if *name == "zookeeper.servers" { how_to_set("prereqs") } else { how_to_set(name) };
    Err(Error::config(format!("role {} needs {}", role.name, missing.join(" and ")))
        .fix(missing.iter().map(how).collect::<Vec<_>>().join("\n")))
}

impl Prepared {
    /// The steps of these phases.
    ///
    /// # Errors
    /// When a value is missing or wrong, or two roles disagree.
    pub fn steps(&self, phases: Phases) -> Result<Vec<Step>> {
        let of = |one: &Prepared| -> Result<Vec<Step>> {
            let steps = one.role.steps(&one.renderer, phases.list()).map_err(|e| e.at(&one.role.name))?;
            let Some(why) = one.put_off() else { return Ok(steps) };
            Ok(steps.into_iter().map(|step| step.put_off(&why)).collect())
        };
        if self.others.is_empty() {
            return of(self);
        }
        let roles: Result<Vec<_>> = self.all().map(|one| Ok((one.role.name.as_str(), of(one)?))).collect();
        shared_image::merge(&roles?)
    }

    /// The role's health checks.
    ///
    /// # Errors
    /// When a value is missing.
    pub fn checks(&self) -> Result<Vec<Check>> {
        self.role.checks(&self.renderer, &self.settings, &self.facts)
    }

    /// This one and the others.
    pub fn all(&self) -> impl Iterator<Item = &Prepared> {
        std::iter::once(self).chain(&self.others)
    }

    /// The role's name; of several, all.
    pub fn names(&self) -> String {
        self.all().map(|one| one.role.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The text of the role file; of several, of all.
    pub fn text(&self) -> String {
        self.all().map(|one| one.role.text()).collect()
    }

    /// The instance's id; empty while an image is baked.
    pub fn instance_id(&self) -> String {
        self.facts.instance.as_ref().map(|instance| instance.id.clone()).unwrap_or_default()
    }

    /// The state of an instance in a warm pool, as `Warmed:Stopped`; none: the instance is to join.
    pub fn warm_pool(&self) -> Option<&str> {
        self.facts.instance.as_ref().and_then(|instance| instance.warm_pool())
    }

    /// Why what joins a cluster is put off, if it is.
    pub fn put_off(&self) -> Option<String> {
        let in_pool = self.warm_pool();
        let in_pool =
            in_pool.map(|state| format!("this instance is in a warm pool ({state}): it joins when it leaves it"));
        let is_agent = self.role.vpc_driver && self.facts.instance.is_some();
        in_pool.or_else(|| cgroup::put_off(&self.settings, &self.facts.image).filter(|_| is_agent))
    }

    /// What an operator should know and no step tells.
    pub fn notices(&self, host: &Host) -> Vec<String> {
        let mut notices: Vec<String> = self.put_off().into_iter().collect();
        let from_tags = self.merged.from_tags();
        if !from_tags.is_empty() {
            notices.push(format!("from instance tags: {}", from_tags.join("; ")));
        }
        notices.extend(self.ignored_tags.iter().cloned());
        notices.extend(titus::notices(
            &self.settings,
            self.facts.instance.as_ref(),
            self.role.vpc_driver,
            self.role.zookeeper_server,
        ));
        if !host.is_live() && !host.may_chown() {
            notices.push("owners are not set: this process is not root".into());
        }
        notices
    }
}
