//! Values from the EC2 API that metadata, settings and the table lack: the instance's tags, the
//! numbers of its type, and its peers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use toml::{Table, Value};

use crate::ec2::api::{Api, Wanted};
use crate::ec2::{imds, turn};
use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, Instance, NOT_KNOWN, Peer, TagSource, TypeNumbers};
use crate::host::Host;
use crate::host::fs::Owner;
use crate::host::net::Proxy;
use crate::host::wait::Deadline;
use crate::role::Role;
use crate::settings::schema::Discover;
use crate::settings::{Layer, MESOS_PORT, Merged, Settings, Source, ZOOKEEPER_PORT};
use crate::titus::{agent, instance_types, peers};

/// Where the program stores EC2's answers about instance types that the table lacks, so that the next boot need not ask.
pub const TYPES: &str = "/var/lib/titus-bootstrap/instance-types.json";

/// Tags appear some time after the launch ("Eventual consistency in the Amazon EC2 API").
const TAGS_MAY_COME: Duration = Duration::from_secs(6);
const TAGS_PAUSE: Duration = Duration::from_millis(1500);

/// Instances that are launched together start within minutes of each other.
const PEERS_PAUSE: Duration = Duration::from_secs(5);
const LAST_ANSWER: Duration = Duration::from_secs(30);

const TAGS: &str = "instance.tags";
const NUMBERS: &str = "instance.type_numbers";

/// The instance's access to the API. It asks nothing before a value is needed.
pub struct Cloud {
    endpoint: imds::Endpoint,
    region: String,
    proxy: Proxy,
    /// The deadline for all facts.
    deadline: Instant,
    api: Option<Api>,
}

impl Cloud {
    /// Access for the instance whose metadata is at `endpoint`.
    pub fn new(endpoint: imds::Endpoint, region: &str, proxy: Proxy, deadline: Instant) -> Cloud {
        Cloud { endpoint, region: region.to_owned(), proxy, deadline, api: None }
    }

    fn api(&mut self) -> &mut Api {
        self.api.get_or_insert_with(|| {
            // Whole seconds, because messages show them.
            let left = Duration::from_secs(self.deadline.saturating_duration_since(Instant::now()).as_secs() + 1);
            Api::new(&self.endpoint, &self.region, &self.proxy, left)
        })
    }

    /// Waits for this node's turn in a fleet that spreads its calls for tags; `uptime` is the time since the kernel's
    /// start, where it is known. The deadline of the facts begins after it.
    ///
    /// # Errors
    /// Fails with `Interrupted` after a signal.
    pub fn await_turn(&mut self, instance: &Instance, spread: Duration, uptime: Option<Duration>) -> Result<()> {
        let rest = uptime.map_or(Duration::ZERO, |uptime| turn(&instance.id, spread).saturating_sub(uptime));
        self.deadline += rest;
        Deadline::new("this node's turn to ask the EC2 API for its tags (setting tags.spread)", rest)
            .pause(rest)
            .map(drop)
    }

    /// Completes facts whose instance has no tags in its metadata. `enough` checks that all tags are there that the role
    /// needs, because some may appear later. `must` says whether only tags can name the role. Returns why the tags are
    /// missing, if that deserves a warning.
    ///
    /// # Errors
    /// Fails when the API does not answer in time, or when it refuses although the tags are required.
    pub fn tags(
        &mut self,
        facts: &mut Facts,
        enough: impl Fn(&BTreeMap<String, String>) -> bool,
        must: bool,
    ) -> Result<Option<Error>> {
        let Some(instance) = facts.instance.as_mut().filter(|instance| instance.tags.is_none()) else {
            return Ok(None);
        };
        let lacks = facts.sources.get(TAGS).cloned().unwrap_or_default();
        let mut unknown = None;
        let mut deadline = Deadline::silent(TAGS_MAY_COME);
        let answer = loop {
            let answer = self.api().tags(&instance.id);
            if answer.as_ref().map_or(true, &enough) || !deadline.pause(TAGS_PAUSE)? {
                break answer;
            }
        };
        instance.tags_source = match answer {
            Ok(tags) => {
                instance.take_tags(Some(tags), &mut facts.sources);
                TagSource::Api
            }
            Err(failure) if failure.is_without_profile() || (failure.is_denied() && !must) => {
                let why = format!("{lacks}, and {}", failure.error.what);
                if !failure.is_without_profile() {
                    unknown = Some(failure.error.at("the tags of this instance are unknown"));
                }
                TagSource::Denied(why)
            }
            // Tags are disabled in the metadata. Either the role is known without them, or a later step reports what is missing.
            Err(failure) if !must && failure.error.kind == Kind::TemporaryFailure => {
                let why = failure.error.what.clone();
                unknown = Some(disabled_tags_error(failure.error));
                TagSource::Unanswered(why)
            }
            Err(failure) if failure.error.kind == Kind::Interrupted => return Err(failure.error),
            Err(failure) => return Err(disabled_tags_error(failure.error)),
        };
        facts.sources.insert(TAGS.into(), instance.tags_source.to_string());
        Ok(unknown)
    }

    /// Completes facts whose instance has a type that neither the table nor the settings contain.
    ///
    /// # Errors
    /// Fails when the call fails. If EC2 does not know the type either, the code that uses the numbers reports it.
    pub fn type_numbers(&mut self, facts: &mut Facts) -> Result<()> {
        let Some(instance) = &mut facts.instance else { return Ok(()) };
        let name = &instance.instance_type;
        let found = self.api().instance_type(name).map_err(|failure| {
            if failure.error.kind == Kind::Interrupted {
                return failure.error;
            }
            let how = agent::how_to_give_numbers(name);
            let fix = failure.error.fix.clone().map_or(how.clone(), |fix| format!("{fix}\nor {how}"));
            failure.error.at(format!("instance type {name:?} is not in the built-in table")).fix(fix)
        })?;
        instance.type_numbers = found;
        if found.is_some() {
            facts.sources.insert(NUMBERS.into(), "EC2 API DescribeInstanceTypes".into());
        }
        Ok(())
    }

    /// The addresses of the instances that a setting selects, in the order of the servers, as a layer.
    ///
    /// # Errors
    /// Fails with 75 when they do not appear in time, and when a call fails.
    fn discover(
        &mut self,
        which: &PeerSetting<'_>,
        instance: &Instance,
        stack: &str,
        limit: Duration,
    ) -> Result<Layer> {
        // A server that was just launched may be missing at first.
        let is_own = |peer: &Peer| peer.id == instance.id;
        let Discover { tag, value, .. } = which.discover;
        let wanted = Wanted { tag, value, vpc_id: instance.vpc_id.as_deref() };
        let api = self.api();
        // Wait for each answer, including the last one.
        api.set_limit(limit + LAST_ANSWER);
        let mut deadline = Deadline::new("", limit);
        loop {
            let found = peers::filter_stack(api.peers(wanted)?, stack)?;
            if found.len() == which.expected && (!which.is_server || found.iter().any(is_own)) {
                let source = Source::Api(format!("DescribeInstances, tag {tag}={value}"));
                // Only servers have numbers, so a wrong number must not stop their clients.
                let in_order = match peers::sort_servers(found.clone()) {
                    Err(error) if !which.is_server => {
                        tracing::warn!("{error}");
                        found
                    }
                    other => other?,
                };
                return which.layer(source, &in_order);
            }
            let mut message = which.describe(&found, stack);
            if which.is_server && !found.iter().any(is_own) {
                message.push_str("; this one is not among them");
            }
            deadline.set_name(format!("{}.discover: {message}", which.group));
            if !deadline.pause(PEERS_PAUSE)? {
                return Err(Error::new(Kind::TemporaryFailure, format!("{}.discover: {message}", which.group))
                    .cause(format!("waited {} for running instances of this VPC", humantime::format_duration(limit)))
                    .fix(format!(
                        "launch or terminate instances until there are {}, tag them {tag}={value} (and titus:stack={stack}), or set {}",
                        which.expected, which.key
                    )));
            }
        }
    }
}

/// A setting that selects instances by their tag.
struct PeerSetting<'a> {
    group: &'static str,
    /// The setting that they replace.
    key: &'static str,
    port: Option<u16>,
    expected: usize,
    /// Whether this node is one of them.
    is_server: bool,
    discover: &'a Discover,
}

impl PeerSetting<'_> {
    fn layer(&self, source: Source, peers: &[Peer]) -> Result<Layer> {
        let address = |peer: &Peer| match self.port {
            Some(port) => format!("{}:{port}", peer.address),
            None => peer.address.clone(),
        };
        let addresses: Vec<String> = peers.iter().map(address).collect();
        let value = match self.port {
            Some(_) => Value::Array(addresses.into_iter().map(Value::String).collect()),
            None => Value::String(addresses.into_iter().next().unwrap_or_default()),
        };
        let name = self.key.rsplit('.').next().unwrap_or_default();
        let group = Table::from_iter([(name.to_owned(), value)]);
        Layer::parse(source, &Table::from_iter([(self.group.to_owned(), Value::Table(group))]).to_string())
    }

    fn describe(&self, found: &[Peer], stack: &str) -> String {
        let Discover { tag, value, .. } = self.discover;
        let each: Vec<String> = found.iter().map(|peer| format!("{} ({})", peer.id, peer.address)).collect();
        let each = if each.is_empty() { String::new() } else { format!(": {}", each.join(", ")) };
        format!("{} of {} instances have the tag {tag}={value} in stack {stack}{each}", found.len(), self.expected)
    }
}

/// The settings that must be discovered before a role can use them, as layers above the others.
///
/// # Errors
/// Fails when a call fails, or when there is no API to ask.
pub fn peers(
    cloud: Option<&mut Cloud>,
    facts: &Facts,
    merged: &Merged,
    settings: &Settings,
    role: &Role,
    limit: Duration,
) -> Result<Vec<Layer>> {
    let zookeeper = settings.zookeeper.discover.as_ref().filter(|_| settings.zookeeper.servers.is_empty());
    // The masters default to the ZooKeeper hosts, so they need no search of their own.
    let mesos = settings.mesos.discover.as_ref().filter(|_| merged.source("mesos.masters").is_none());
    let master = settings.master.discover.as_ref().filter(|_| settings.master.address.is_none());
    let all = [
        ("zookeeper", "zookeeper.servers", Some(ZOOKEEPER_PORT), 3, zookeeper),
        ("mesos", "mesos.masters", Some(MESOS_PORT), 3, mesos),
        ("master", "master.address", None, 1, master),
    ];
    let wanted: Vec<PeerSetting> = all
        .into_iter()
        .filter_map(|(group, key, port, expected, discover)| {
            let discover = discover.filter(|_| role.needs(key))?;
            let is_server = role.zookeeper_server && group != "master";
            Some(PeerSetting { group, key, port, expected: discover.expected.unwrap_or(expected), is_server, discover })
        })
        .collect();
    let (Some(first), Some(instance)) = (wanted.first(), &facts.instance) else { return Ok(Vec::new()) };
    let Some(cloud) = cloud else {
        return Err(Error::config(format!("{}.discover: there is no instance to ask the EC2 API", first.group))
            .fix(format!("set the addresses instead: --set {}=…", first.key)));
    };
    wanted.iter().map(|which| cloud.discover(which, instance, &settings.stack, limit)).collect()
}

/// Extends an error about a value that a tag may have set. If the API may still return the tags, the failure is temporary.
pub fn add_tag_advice(mut error: Error, facts: &Facts) -> Error {
    let source = facts.instance.as_ref().map(|instance| &instance.tags_source);
    let (Kind::Config, Some(TagSource::Denied(why) | TagSource::Unanswered(why))) = (error.kind, source) else {
        return error;
    };
    if let Some(TagSource::Unanswered(_)) = source {
        error.kind = Kind::TemporaryFailure;
    }
    let cause = error.cause.take().map_or_else(String::new, |cause| format!("{cause}\n"));
    error.cause(format!("{cause}the instance's tags are unknown: {why}"))
}

fn disabled_tags_error(error: Error) -> Error {
    let fix = format!(
        "{}\nor enable tags in instance metadata: aws ec2 modify-instance-metadata-options --instance-id ID --instance-metadata-tags enabled\n\
         or, if no setting comes from a tag, set tags.api = false",
        error.fix.as_deref().unwrap_or("see the cause")
    );
    error.at("the tags of this instance are unknown").fix(fix)
}

/// Completes facts whose instance has a type that the table lacks: from an earlier run's record, else from EC2.
///
/// # Errors
/// Fails for the reasons of [`Cloud::type_numbers`].
pub fn type_numbers(host: &Host, cloud: Option<&mut Cloud>, facts: &mut Facts) -> Result<()> {
    let Some(instance) = facts.instance.as_mut().filter(|instance| instance.type_numbers.is_none()) else {
        return Ok(());
    };
    match (recall(host)?.get(&instance.instance_type), cloud) {
        (Some(known), _) => {
            instance.type_numbers = Some(*known);
            facts.sources.insert(NUMBERS.into(), TYPES.into());
            Ok(())
        }
        (None, Some(cloud)) => cloud.type_numbers(facts),
        (None, None) => Ok(()),
    }
}

/// Completes facts for a command that only shows them. If a value is missing, its source says why.
///
/// # Errors
/// Fails with `Interrupted` after a signal.
pub fn complete(host: &Host, cloud: &mut Cloud, facts: &mut Facts, with_tags: bool) -> Result<()> {
    let tags = if with_tags { cloud.tags(facts, |_| true, false) } else { Ok(None) };
    let tags = tags.map(|unknown| unknown.iter().for_each(|why| tracing::warn!("{why}")));
    let lacks = |instance: &Instance| instance_types::lookup(&instance.instance_type).is_none();
    let lacks = facts.instance.as_ref().is_some_and(lacks);
    let numbers = if lacks { type_numbers(host, Some(cloud), facts) } else { Ok(()) };
    for (fact, result) in [(TAGS, tags), (NUMBERS, numbers)] {
        match result {
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => drop(facts.sources.insert(fact.into(), format!("{NOT_KNOWN}: {}", error.what))),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// EC2's answers to earlier runs, by type. Asks again if the record is unreadable.
///
/// # Errors
/// Fails when the file cannot be opened.
pub fn recall(host: &Host) -> Result<BTreeMap<String, TypeNumbers>> {
    let bytes = host.read(TYPES)?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// Records EC2's answer about the type.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn remember(host: &Host, facts: &Facts) -> Result<()> {
    let Some((instance, numbers)) = facts.instance.as_ref().and_then(|i| Some((i, i.type_numbers?))) else {
        return Ok(());
    };
    let mut types = recall(host)?;
    if types.insert(instance.instance_type.clone(), numbers) == Some(numbers) {
        return Ok(());
    }
    let text = serde_json::to_string(&types).map_err(|e| Error::failed("cannot format the instance types").cause(e))?;
    host.write(TYPES, format!("{text}\n").as_bytes(), 0o644, Owner::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;

    #[test]
    fn only_what_the_api_may_say_later_is_worth_another_run() {
        let denied = || TagSource::Denied("no profile".into());
        let unanswered = || TagSource::Unanswered("no answer".into());
        for (source, kind, expected, why) in [
            (TagSource::Metadata, Kind::Config, Kind::Config, None),
            (TagSource::Api, Kind::Config, Kind::Config, None),
            (denied(), Kind::Config, Kind::Config, Some("no profile")),
            (denied(), Kind::Failed, Kind::Failed, None),
            (unanswered(), Kind::Config, Kind::TemporaryFailure, Some("no answer")),
            (unanswered(), Kind::Unavailable, Kind::Unavailable, None),
        ] {
            let mut facts = sample::facts();
            // The source's name in an earlier facts file does not matter.
            facts.sources.insert(TAGS.into(), "unknown for now: x".into());
            facts.instance.as_mut().unwrap().tags_source = source;
            let error = add_tag_advice(Error::new(kind, "no group").cause("because"), &facts);
            assert_eq!(error.kind, expected);
            let added = why.map_or(String::new(), |why| format!("\nthe instance's tags are unknown: {why}"));
            assert_eq!(error.cause, Some(format!("because{added}")));
        }
    }
}
