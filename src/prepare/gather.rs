//! Gathers facts, the role and its settings, each of which needs parts of the others first.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::cloud::{self, Cloud};
use super::detect::{self, Detected};
use super::layers::{Layers, deadlines, early_proxy, fact_timeout, may_ask_for_tags, spread};
use super::request::{FactSource, Request};
use crate::SCHEMA_VERSION;
use crate::activity;
use crate::ec2::imds::{self, Session};
use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, GROUP_TAG, machine, sample};
use crate::host::{Deadlines, Host};
use crate::role::Role;
use crate::settings::Merged;
use crate::titus::{agent, vpc_driver};
use crate::userdata;

const TOKENS: &str = "instance.http_tokens";

/// Everything that is known before a run refuses anything.
pub struct Gathered {
    /// Facts.
    pub facts: Facts,
    /// The role.
    pub role: Role,
    /// How it was found.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
    /// Notices about ignored tags.
    pub ignored_tags: Vec<String>,
    /// Why the tags are unknown, if that is worth a warning.
    pub unknown_tags: Option<Error>,
    /// Whether the instance has user data.
    pub has_user_data: bool,
}

/// Gathers facts, role and settings for a request.
///
/// # Errors
/// Fails when one of them is not available.
pub fn gather(request: &Request, host: &mut Host) -> Result<Gathered> {
    gather_for(request, request.role(), host)
}

/// The name of this work for people who watch.
pub const ASKING: &str = "asking the instance and its metadata service";

/// Gathers with this role instead of the request's.
pub(super) fn gather_for(request: &Request, role: Option<&str>, host: &mut Host) -> Result<Gathered> {
    let _activity = activity::begin(ASKING);
    let mut layers = Layers::read(request, host)?;
    let Reported { mut facts, user_data, mut cloud, metadata } = facts(request, &layers.merged(None)?)?;
    if let Some(bytes) = &user_data {
        layers.take_user_data(request, bytes)?;
    }
    // From now on the host knows whether the machine is young, so that waits can consider that AWS may be late.
    let without_tags = layers.merged(None)?;
    host.deadlines = deadlines(&without_tags);
    let unknown_tags = match &mut cloud {
        Some(cloud) => ask_for_tags(cloud, &mut facts, role, &without_tags, host.uptime())?,
        None => None,
    };
    layers.take_tags(&facts)?;
    let has_user_data = user_data.is_some();
    let described =
        facts.instance.as_ref().map(|_| user_data.map_or("none".into(), |bytes| userdata::describe(&bytes)));
    let described = described.filter(|_| request.facts == FactSource::Instance);
    let detected = detect::role(role, &layers.merged(None)?, Some(&facts), described.as_deref())?;
    let role = Role::load(host, &detected.role).map_err(|error| match error.what.starts_with("unknown role") {
        true => add_place(error, &detected),
        false => error,
    })?;
    let mut merged = layers.merged(Some(&role))?;
    if request.asks_instance() {
        let settings = merged.settings()?;
        let is_wanted = role.vpc_driver && vpc_driver::uses_version_1(&settings);
        if let Some(metadata) = metadata.filter(|_| is_wanted) {
            ask_for_tokens(metadata, &mut facts)?;
        }
        let found =
            cloud::peers(cloud.as_mut(), &facts, &merged, &settings, &role, request.limit(deadlines(&merged).wait))?;
        found.iter().for_each(|layer| merged.add(layer));
        if let Some(instance) = facts.instance.as_ref().filter(|_| role.vpc_driver)
            && agent::lacks_numbers(&settings, instance)
        {
            cloud::type_numbers(host, cloud.as_mut(), &mut facts)?;
        }
    }
    let ignored_tags = layers.ignored_tags();
    Ok(Gathered { facts, role, detected, merged, ignored_tags, unknown_tags, has_user_data })
}

fn ask_for_tags(
    cloud: &mut Cloud,
    facts: &mut Facts,
    role: Option<&str>,
    merged: &Merged,
    uptime: Option<Duration>,
) -> Result<Option<Error>> {
    if !may_ask_for_tags(merged) {
        return Ok(None);
    }
    if let Some(instance) = facts.instance.as_ref().filter(|instance| instance.tags.is_none()) {
        cloud.await_turn(instance, spread(merged), uptime)?;
    }
    let has_role = detect::role(role, merged, None, None).is_ok();
    // An instance that has a lifecycle state is in a group, so its tag will come.
    let in_group = facts.instance.as_ref().is_some_and(|instance| instance.lifecycle_state.is_some());
    let enough = |tags: &BTreeMap<String, String>| {
        (has_role || detect::tag_keys(merged).any(|key| tags.contains_key(key)))
            && (!in_group || tags.contains_key(GROUP_TAG))
    };
    cloud.tags(facts, enough, !has_role)
}

/// Extends an error about the role with the place that named it.
fn add_place(error: Error, detected: &Detected) -> Error {
    let Some(place) = detected.evidence.last() else { return error };
    let cause = error.cause.as_deref().map_or_else(String::new, |cause| format!("\n{cause}"));
    let cause = format!("{place}{cause}");
    error.cause(cause)
}

/// Finds out whether the VPC driver will get answers from the metadata service.
fn ask_for_tokens(mut metadata: Session, facts: &mut Facts) -> Result<()> {
    let Some(instance) = &mut facts.instance else { return Ok(()) };
    instance.http_tokens = metadata.http_tokens()?;
    facts.sources.insert(TOKENS.into(), "IMDS instance-id, requested without a token".into());
    Ok(())
}

/// What the instance and the machine report.
pub struct Reported {
    /// Facts.
    pub facts: Facts,
    /// The user data as the instance has it.
    user_data: Option<Vec<u8>>,
    /// Access to more facts; none for made-up facts, and while an image is baked.
    pub cloud: Option<Cloud>,
    /// The connection to the metadata service.
    metadata: Option<Session>,
}

impl From<Facts> for Reported {
    fn from(facts: Facts) -> Reported {
        Reported { facts, user_data: None, cloud: None, metadata: None }
    }
}

/// Returns facts and the user data. While an image is baked, reads only the image.
///
/// # Errors
/// Fails with 69 when this is clearly not an instance, with 75 at the time limit, and with 78 when an answer is wrong.
pub fn facts(request: &Request, merged: &Merged) -> Result<Reported> {
    match &request.facts {
        FactSource::Sample => Ok(sample::role_facts(request.role()).into()),
        FactSource::File(path) => Ok(read_facts(path)?.into()),
        FactSource::Given(facts) => Ok(facts.as_ref().clone().into()),
        FactSource::Instance => ask(request, merged),
    }
}

/// The metadata service of this instance.
///
/// # Errors
/// Fails with 69 when this machine is clearly not an instance, or must not use the service.
pub fn reachable() -> Result<imds::Endpoint> {
    let endpoint = imds::Endpoint::from_env()?;
    endpoint.refuse_disabled()?;
    if !endpoint.is_given() && !machine::is_ec2(&Host::live(Deadlines::default())) {
        return Err(Error::unavailable("this machine is not an EC2 instance, so it has no instance facts")
            .cause("its firmware (DMI) does not say Amazon EC2")
            .fix("give facts with --facts FILE, or try it with built-in facts: --sample --root ./node"));
    }
    Ok(endpoint)
}

fn ask(request: &Request, merged: &Merged) -> Result<Reported> {
    let live = Host::live(Deadlines::default());
    let mut sources = BTreeMap::new();
    let mut image = machine::read_image(&live, &mut sources)?;
    // Reads the tree of --root if there is one, because this machine says nothing about it.
    machine::read_hierarchy(&request.host()?, &mut image, &mut sources)?;
    if !request.asks_instance() {
        return Ok(Facts { schema_version: SCHEMA_VERSION, instance: None, image, sources, hidden: Vec::new() }.into());
    }
    let endpoint = reachable()?;
    if !endpoint.is_default() {
        tracing::info!("the metadata service is {endpoint}");
    }
    let limit = request.limit(fact_timeout(merged));
    let deadline = Instant::now() + limit;
    let mut metadata = Session::open(&endpoint, limit)?;
    // The engine's answer takes as long as all of these.
    let engine = std::thread::spawn(|| Host::live(Deadlines::default()).running_data_root());
    let answers = metadata.read()?;
    let mut instance = answers.instance;
    sources.extend(answers.sources);
    sources.insert(TOKENS.into(), "not asked: only a run of a role with vpc_driver = true needs it".into());
    let data_root = engine.join().unwrap_or(Ok(None))?;
    machine::complete(&live, data_root, &mut instance, &mut sources)?;
    let cloud = Cloud::new(endpoint, &instance.region, early_proxy(merged), deadline);
    let facts = Facts { schema_version: SCHEMA_VERSION, instance: Some(instance), image, sources, hidden: Vec::new() };
    Ok(Reported { facts, user_data: answers.user_data, cloud: Some(cloud), metadata: Some(metadata) })
}

fn read_facts(path: &Path) -> Result<Facts> {
    let bytes = read_file(path)?;
    let mut facts: Facts =
        serde_json::from_slice(&bytes).map_err(|e| unusable_facts(path, "", &crate::host::json::describe_error(&e)))?;
    complete_facts(path, "", &mut facts)?;
    Ok(facts)
}

/// The facts of several nodes in a file: a list, or one document after another, each as `facts --json` prints it.
///
/// # Errors
/// Fails with 78 when the file cannot be read, is empty, or contains something other than facts.
pub fn read_fleet(path: &Path) -> Result<Vec<Facts>> {
    let bytes = read_file(path)?;
    let mut documents: Vec<Json> = Vec::new();
    for document in serde_json::Deserializer::from_slice(&bytes).into_iter::<Json>() {
        match document.map_err(|e| unusable_facts(path, "", &crate::host::json::describe_error(&e)))? {
            Json::Array(list) => documents.extend(list),
            one => documents.push(one),
        }
    }
    if documents.is_empty() {
        return Err(unusable_facts(path, "", &"it is empty"));
    }
    let facts_of = |(n, document): (usize, Json)| -> Result<Facts> {
        let which = format!(", node {}", n + 1);
        let mut facts: Facts = serde_json::from_value(document)
            .map_err(|e| unusable_facts(path, &which, &crate::host::json::describe_error(&e)))?;
        complete_facts(path, &which, &mut facts)?;
        if facts.instance.is_none() {
            return Err(unusable_facts(path, &which, &"it has no instance"));
        }
        Ok(facts)
    };
    documents.into_iter().enumerate().map(facts_of).collect()
}

fn unusable_facts(path: &Path, which: &str, cause: &dyn std::fmt::Display) -> Error {
    Error::config(format!("{}{which}: has no usable facts", path.display()))
        .cause(cause)
        .fix("make a facts file with: titus-bootstrap facts --json")
}

/// A file's contents without the byte order mark that some editors write.
fn read_file(path: &Path) -> Result<Vec<u8>> {
    let bytes = crate::host::fs::read_named(path).map_err(|e| match e.kind {
        Kind::Interrupted => e,
        _ => unusable_facts(path, "", &e.cause.unwrap_or(e.what)),
    })?;
    match bytes.strip_prefix("\u{feff}".as_bytes()) {
        Some(rest) => Ok(rest.to_vec()),
        None => Ok(bytes),
    }
}

fn complete_facts(path: &Path, which: &str, facts: &mut Facts) -> Result<()> {
    let shown = path.display();
    if facts.schema_version != SCHEMA_VERSION {
        return Err(unusable_facts(path, which, &format!("its schema_version is {}", facts.schema_version)));
    }
    facts.sources.values_mut().for_each(|source| source.push_str(&format!(", as {shown} says")));
    for part in ["instance", "image"] {
        facts.sources.entry(part.to_owned()).or_insert_with(|| shown.to_string());
    }
    Ok(())
}
