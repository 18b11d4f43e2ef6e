//! Prepares a role for a run: facts, settings, the role, and the values that Titus derives from them.

pub mod check;
pub mod cloud;
pub mod detect;
pub mod gather;
pub mod layers;
pub mod request;
pub mod shared_image;

use std::time::Duration;

pub use self::gather::{Gathered, gather};
pub use self::layers::{Layers, used_names};
pub use self::request::{FactSource, FirstLine, Phases, Request, Selection};

use self::detect::Detected;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::host::apt::Permissions;
use crate::host::docker::auth::CredentialSource;
use crate::role::{Role, drop_in_directory, known_names};
use crate::settings::forms::texts;
use crate::settings::name::lookup;
use crate::settings::tags::{TAGS, is_allowed};
use crate::settings::{DIRECTORY, Layer, Merged, Settings, unread_files};
use crate::step::Step;
use crate::step::health::Check;
use crate::template::{Renderer, setting_advice};
use crate::titus::{self, Values, cgroup};

/// The time limit for resolving a ZooKeeper server's name. Each name is resolved once, before anything changes.
const LOOKUP: Duration = Duration::from_secs(10);

/// Everything that a command knows before it looks at the first step.
pub struct Prepared {
    /// The role.
    pub role: Role,
    /// The evidence for the role.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
    /// The checked settings.
    pub settings: Settings,
    /// Facts.
    pub facts: Facts,
    /// The values that Titus derives from settings and facts.
    pub values: Values,
    /// Notices about ignored tags.
    pub ignored_tags: Vec<String>,
    /// The role's templates with all of these values.
    pub renderer: Renderer,
    /// The other roles of an image that has several.
    pub others: Vec<Prepared>,
}

/// Prepares the role of a request, or several roles while an image is baked.
///
/// # Errors
/// Fails for every reason that is known before the program examines the machine.
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

/// Prepares a role from facts, role and settings.
///
/// # Errors
/// Fails for every reason that is known before the program examines the machine.
pub fn from_gathered(request: &Request, gathered: Gathered, host: &mut Host) -> Result<Prepared> {
    let Gathered { facts, role, detected, merged, ignored_tags, unknown_tags, has_user_data } = gathered;
    let mut settings = merged.settings()?;
    role.refuse(&settings, &facts)?;
    settings.vars = role.own_settings(host, &merged, &settings.vars)?;
    host.deadlines = layers::deadlines(&merged);
    host.proxy = layers::proxy(&settings.proxy);
    host.apt = Permissions { take_over: settings.apt.take_over, may_remove: texts(&settings.apt.may_remove) };
    let from_environment = std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
    if let Some(address) = settings.docker.host.clone().map(String::from).or(from_environment) {
        host.docker = address;
    }
    host.registry_credentials = settings.docker.auth.as_ref().map(|path| {
        let region = facts.instance.as_ref().map(|instance| instance.region.clone()).unwrap_or_default();
        CredentialSource { path: path.to_string(), environment: layers::helper_environment(&settings.proxy, &region) }
    });
    let values = match &facts.instance {
        Some(instance) if role.vpc_driver && request.asks_instance() => Values::derive_agent(&settings, instance)
            .map_err(|error| add_tag_advice(error, &facts, unknown_tags.as_ref()))?,
        Some(instance) if role.zookeeper_server && request.asks_instance() => {
            let is_made_up = request.facts == FactSource::Sample;
            let look_up = |name: &str| host.addresses(name, LOOKUP).ok().and_then(Result::ok).unwrap_or_default();
            let resolve = |name: &str| if is_made_up { Vec::new() } else { look_up(name) };
            Values::derive_prereqs(&settings, instance, &resolve)?
        }
        _ => Values::derive_common(&settings),
    };
    let values = if role.vpc_driver {
        let booted = facts.instance.as_ref().filter(|_| request.asks_instance());
        let running = booted.map(|instance| instance.kernel_command_line.as_str());
        cgroup::refuse(&settings, &facts.image, running)?;
        values.add_kernel_arguments(&settings, &facts.image, running)
    } else {
        values
    };
    if request.asks_instance() {
        let by_tag = |key: &str| TAGS.contains(&key) && is_allowed(&merged, key);
        let may_come = |key: &str| !has_user_data || by_tag(key) || (key == "zookeeper.servers" && by_tag("prereqs"));
        refuse_missing(&role, &settings, may_come)
            .map_err(|error| add_tag_advice(add_ignored(error, &ignored_tags), &facts, unknown_tags.as_ref()))?;
    }
    let renderer = role.renderer(host, known_names(&facts, &settings, &values))?;
    if let Some(why) = unknown_tags {
        tracing::warn!("{why}");
    }
    // Tests check the built-in roles.
    if !role.is_built_in() {
        role.names(&renderer)?;
    }
    Ok(Prepared { role, detected, merged, settings, facts, values, ignored_tags, renderer, others: Vec::new() })
}

/// Extends an error about a value that a tag may have set with the reasons why there are no tags.
fn add_tag_advice(error: Error, facts: &Facts, unknown: Option<&Error>) -> Error {
    let error = cloud::add_tag_advice(error, facts);
    let Some(unknown) = unknown else { return error };
    let cause = error.cause.clone().map_or_else(String::new, |cause| format!("{cause}\n"));
    error.cause(format!("{cause}{unknown}"))
}

/// Extends an error about a value that an ignored tag may have set.
fn add_ignored(error: Error, ignored: &[String]) -> Error {
    if ignored.is_empty() { error } else { error.cause(ignored.join("\n")) }
}

/// Refuses names in a role's `required` that are not settings: nobody could ever set them.
fn refuse_unknown_required(role: &Role, known: &serde_json::Value) -> Result<()> {
    let Some(name) = role.required().iter().find(|name| lookup(known, name).is_none()) else { return Ok(()) };
    let (table, key) = name.rsplit_once('.').unwrap_or(("", name));
    let table = if table.is_empty() { Some(known) } else { lookup(known, table) };
    let keys = table.and_then(|table| table.as_object()).map(|keys| keys.keys().map(String::as_str));
    let error = Error::config(format!("role {} requires {name}, which is not a setting", role.name));
    Err(match keys.and_then(|keys| crate::settings::nearest(key, keys)) {
        Some(like) => error.fix(format!("did you mean `{like}`?")),
        None => error
            .fix("name settings: docs/settings.md lists them; a step that needs a fact fails where it has no value"),
    })
}

/// `may_come` says whether the instance's tags or user data may still set a key.
fn refuse_missing(role: &Role, settings: &Settings, may_come: impl Fn(&str) -> bool) -> Result<()> {
    let known = serde_json::json!(settings);
    refuse_unknown_required(role, &known)?;
    let has = |name: &str| {
        lookup(&known, name)
            .is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()))
    };
    let missing: Vec<&str> = role.required().iter().map(String::as_str).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let how = |name: &&str| if *name == "zookeeper.servers" { setting_advice("prereqs") } else { setting_advice(name) };
    let error = Error::config(format!("role {} needs {}", role.name, missing.join(" and ")))
        .fix(missing.iter().map(how).collect::<Vec<_>>().join("\n"));
    Err(if missing.iter().all(|key| may_come(key)) { error.awaiting("settings in user data or tags") } else { error })
}

impl Prepared {
    /// The steps of these phases.
    ///
    /// # Errors
    /// Fails when a value is missing or wrong, or when two roles disagree.
    pub fn steps(&self, phases: Phases) -> Result<Vec<Step>> {
        let of = |one: &Prepared| -> Result<Vec<Step>> {
            let steps = one.role.steps(&one.renderer, phases.list()).map_err(|e| e.at(&one.role.name))?;
            let Some(why) = one.defer_reason() else { return Ok(steps) };
            Ok(steps.into_iter().map(|step| step.defer(&why)).collect())
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
    /// Fails when a value is missing.
    pub fn checks(&self) -> Result<Vec<Check>> {
        self.role.checks(&self.renderer, &self.settings, &self.facts)
    }

    /// This role and the others.
    pub fn all(&self) -> impl Iterator<Item = &Prepared> {
        std::iter::once(self).chain(&self.others)
    }

    /// The role's name, or the names of several.
    pub fn names(&self) -> String {
        self.all().map(|one| one.role.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The text of the role file, or the texts of several.
    pub fn text(&self) -> String {
        self.all().map(|one| one.role.text()).collect()
    }

    /// The instance's id; empty while an image is baked.
    pub fn instance_id(&self) -> String {
        self.facts.instance.as_ref().map(|instance| instance.id.clone()).unwrap_or_default()
    }

    /// The lifecycle state of an instance in a warm pool, e.g. `Warmed:Stopped`; `None` if the instance is to join.
    pub fn warm_pool(&self) -> Option<&str> {
        self.facts.instance.as_ref().and_then(|instance| instance.warm_pool())
    }

    /// Why the run defers steps that join a cluster, if it does.
    pub fn defer_reason(&self) -> Option<String> {
        let in_pool = self.warm_pool();
        let in_pool = in_pool.map(|state| {
            format!("this instance is in a warm pool ({state}): it joins the cluster when it leaves the pool")
        });
        let is_agent = self.role.vpc_driver && self.facts.instance.is_some();
        in_pool.or_else(|| cgroup::defer(&self.settings, &self.facts.image).filter(|_| is_agent))
    }

    /// Notices that no step gives.
    pub fn notices(&self, host: &Host) -> Vec<String> {
        let mut notices: Vec<String> = self.defer_reason().into_iter().collect();
        let from_tags = self.merged.from_tags();
        if !from_tags.is_empty() {
            notices.push(format!("from instance tags: {}", from_tags.join("; ")));
        }
        notices.extend(self.ignored_tags.iter().cloned());
        // An unreadable file was refused before.
        notices.extend(Layer::readable_secrets(host).unwrap_or_default());
        for directory in [DIRECTORY, &drop_in_directory(&self.role.name)] {
            notices.extend(unread_files(host, directory).unwrap_or_default());
        }
        notices.extend(titus::notices(
            &self.settings,
            self.facts.instance.as_ref(),
            self.role.vpc_driver,
            self.role.zookeeper_server,
        ));
        if !host.is_live() && !host.may_chown() {
            notices.push("file owners stay unchanged, because this process is not root".into());
        }
        notices
    }
}
