//! Facts, the role and its settings: each needs a part of the others first.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::cloud::{self, Cloud};
use super::detect::{self, Detected};
use super::layers::{Layers, deadlines, early_proxy, fact_timeout, may_ask_for_tags};
use super::request::{FactSource, Request};
use crate::SCHEMA_VERSION;
use crate::ec2::imds::{self, Session};
use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, GROUP_TAG, machine, sample};
use crate::host::{Deadlines, Host};
use crate::role::Role;
use crate::settings::Merged;
use crate::titus::{agent, vpc_driver};
use crate::userdata;

const TOKENS: &str = "instance.http_tokens";

/// What is known before anything is refused.
pub struct Gathered {
    /// Facts.
    pub facts: Facts,
    /// The role.
    pub role: Role,
    /// How it was found.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
    /// What is said of tags that are ignored.
    pub ignored_tags: Vec<String>,
}

/// From a request to facts, role and settings.
///
/// # Errors
/// When one of them cannot be had.
pub fn gather(request: &Request, host: &Host) -> Result<Gathered> {
    gather_for(request, request.role(), host)
}

/// The same, with this role instead of that of the request.
pub(super) fn gather_for(request: &Request, role: Option<&str>, host: &Host) -> Result<Gathered> {
    let mut layers = Layers::read(request, host)?;
    let Asked { mut facts, user_data, mut cloud, metadata } = facts(request, &layers.merged(None)?)?;
    if let Some(bytes) = &user_data {
        layers.take_user_data(request, bytes)?;
    }
    if let Some(cloud) = &mut cloud {
        ask_for_tags(cloud, &mut facts, role, &layers.merged(None)?)?;
    }
    layers.take_tags(&facts)?;
    let looks = facts.instance.as_ref().map(|_| user_data.map_or("none".into(), |bytes| userdata::looks_like(&bytes)));
    let looks = looks.filter(|_| request.facts == FactSource::Instance);
    let detected = detect::role(role, &layers.merged(None)?, Some(&facts), looks.as_deref())?;
    let role = Role::load(host, &detected.role)?;
    let mut merged = layers.merged(Some(&role))?;
    if request.asks_instance() {
        let settings = merged.settings()?;
        let is_wanted = role.vpc_driver && vpc_driver::asks_version_1(&settings);
        if let Some(metadata) = metadata.filter(|_| is_wanted) {
            ask_for_tokens(metadata, &mut facts)?;
        }
        let found = cloud::peers(cloud.as_mut(), &facts, &merged, &settings, &role, deadlines(&merged).wait)?;
        found.iter().for_each(|layer| merged.add(layer));
        if let Some(instance) = facts.instance.as_ref().filter(|_| role.vpc_driver)
            && agent::lacks_numbers(&settings, instance)
        {
            cloud::type_numbers(host, cloud.as_mut(), &mut facts)?;
        }
    }
    Ok(Gathered { facts, role, detected, merged, ignored_tags: layers.ignored_tags() })
}

fn ask_for_tags(cloud: &mut Cloud, facts: &mut Facts, role: Option<&str>, merged: &Merged) -> Result<()> {
    if !may_ask_for_tags(merged) {
        return Ok(());
    }
    let has_role = detect::role(role, merged, None, None).is_ok();
    // An instance that has a lifecycle state is in a group, and will have its tag.
    let in_group = facts.instance.as_ref().is_some_and(|instance| instance.lifecycle_state.is_some());
    let enough = |tags: &BTreeMap<String, String>| {
        (has_role || detect::tag_keys(merged).any(|key| tags.contains_key(key)))
            && (!in_group || tags.contains_key(GROUP_TAG))
    };
    cloud.tags(facts, enough, !has_role)
}

/// Asks whether the VPC driver will have answers from the metadata service.
fn ask_for_tokens(mut metadata: Session, facts: &mut Facts) -> Result<()> {
    let Some(instance) = &mut facts.instance else { return Ok(()) };
    instance.http_tokens = metadata.http_tokens()?;
    facts.sources.insert(TOKENS.into(), "IMDS instance-id, asked for without a token".into());
    Ok(())
}

/// What the instance and the machine say.
pub struct Asked {
    /// Facts.
    pub facts: Facts,
    /// The user data as the instance has it.
    user_data: Option<Vec<u8>>,
    /// Who can be asked for more; nobody where facts are made up, or an image is baked.
    pub cloud: Option<Cloud>,
    /// The connection to the metadata service.
    metadata: Option<Session>,
}

impl From<Facts> for Asked {
    fn from(facts: Facts) -> Asked {
        Asked { facts, user_data: None, cloud: None, metadata: None }
    }
}

/// Facts, and the user data. While an image is baked, the image alone is asked.
///
/// # Errors
/// 69 where there is plainly no instance, 75 at the deadline, 78 when an answer is wrong.
pub fn facts(request: &Request, merged: &Merged) -> Result<Asked> {
    match &request.facts {
        FactSource::Sample => Ok(sample::facts_of(request.role()).into()),
        FactSource::File(path) => Ok(read_print(path)?.into()),
        FactSource::Instance => ask(request, merged),
    }
}

fn ask(request: &Request, merged: &Merged) -> Result<Asked> {
    let live = Host::live(Deadlines::default());
    let mut sources = BTreeMap::new();
    let mut image = machine::image(&live, &mut sources)?;
    // Of what is below --root where that is given: this machine's own says nothing of it.
    machine::hierarchy(&request.host()?, &mut image, &mut sources)?;
    if !request.asks_instance() {
        return Ok(Facts { schema_version: SCHEMA_VERSION, instance: None, image, sources, hidden: Vec::new() }.into());
    }
    let endpoint = imds::Endpoint::from_env()?;
    if !endpoint.is_given() && !machine::is_ec2(&live) {
        return Err(Error::unavailable("this machine is no EC2 instance: it has no facts of one")
            .cause("its firmware (DMI) does not say Amazon EC2")
            .fix("give facts with --facts FILE, or try it on built-in ones: --sample --root ./node"));
    }
    if !endpoint.is_default() {
        tracing::info!("the metadata service is {endpoint}");
    }
    let limit = fact_timeout(merged);
    let deadline = Instant::now() + limit;
    let mut metadata = Session::open(&endpoint, limit)?;
    let answers = metadata.read()?;
    let mut instance = answers.instance;
    sources.extend(answers.sources);
    sources.insert(TOKENS.into(), "not asked: only a run of a role with vpc_driver = true needs it".into());
    machine::complete(&live, &mut instance, &mut sources)?;
    let cloud = Cloud::new(endpoint, &instance.region, early_proxy(merged), deadline);
    let facts = Facts { schema_version: SCHEMA_VERSION, instance: Some(instance), image, sources, hidden: Vec::new() };
    Ok(Asked { facts, user_data: answers.user_data, cloud: Some(cloud), metadata: Some(metadata) })
}

fn read_print(path: &Path) -> Result<Facts> {
    let shown = path.display();
    let wrong = |cause: &dyn std::fmt::Display| {
        Error::config(format!("{shown}: is no print of facts"))
            .cause(cause)
            .fix("make one with: titus-bootstrap facts --json")
    };
    let text = crate::host::fs::read_named(path).map_err(|e| match e.kind {
        Kind::Interrupted => e,
        _ => wrong(&e.cause.unwrap_or(e.what)),
    })?;
    let mut facts: Facts = serde_json::from_slice(&text).map_err(|e| wrong(&e))?;
    if facts.schema_version != SCHEMA_VERSION {
        return Err(wrong(&format!("its schema_version is {}", facts.schema_version)));
    }
    facts.sources.values_mut().for_each(|source| source.push_str(&format!(", as {shown} says")));
    for part in ["instance", "image"] {
        facts.sources.entry(part.to_owned()).or_insert_with(|| shown.to_string());
    }
    Ok(facts)
}
