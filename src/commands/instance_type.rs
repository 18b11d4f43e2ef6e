//! `instance-type NAME`: the network numbers of a type, and what an agent makes of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::prepare::{Layers, Request, cloud};
use crate::role::Role;
use crate::run::report::{Reporter, say, say_document};
use crate::titus::agent::type_numbers;
use crate::titus::attributes::{ResourceSet, resource_set};
use crate::titus::instance_types;
use crate::titus::vpc_driver::{self, Limits, Support};

/// The output of `instance-type --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The type.
    instance_type: String,
    /// How many network interfaces it has.
    max_enis: u32,
    /// How many IPv4 addresses each of them has.
    ipv4_per_eni: u32,
    /// Its baseline bandwidth, Mbit/s; null: unknown.
    network_mbps: Option<u32>,
    /// Its family, e.g. `m4`.
    family: String,
    /// Whether Titus's VPC driver supports it.
    supported: bool,
    /// What that driver attaches; null: the driver has no limits for the type.
    vpc_driver: Option<Driver>,
    /// The resource that an agent offers, for each value of the setting agent.resource_set.
    resource_set: Sets,
    /// The source of each number.
    sources: BTreeMap<String, String>,
}

/// Titus's VPC driver.
#[derive(Debug, Serialize, JsonSchema)]
struct Driver {
    /// Its release.
    release: &'static str,
    /// Network interfaces, the node's own included.
    interfaces: u32,
    /// IPv4 addresses of one interface.
    ipv4: u32,
    /// The bandwidth to which it limits the instance's traffic, Mbit/s.
    network_mbps: u32,
}

/// A Mesos resource for each value of the setting agent.resource_set, or the reason why it is not available.
#[derive(Debug, Serialize, JsonSchema)]
struct Sets {
    /// For `instance`.
    instance: String,
    /// For `schedulable`.
    schedulable: String,
}

/// Prints the numbers of a type.
///
/// # Errors
/// Fails with 78 when neither the table nor the settings have them.
pub fn run(request: &Request, reporter: Reporter, name: &str) -> Result<u8> {
    let host = request.host()?;
    let merged = Layers::read(request, &host)?.merged(Some(&Role::load(&host, "agent")?))?;
    let settings = merged.settings()?;
    let (numbers, places) = type_numbers(&settings, name, cloud::recall(&host)?.get(name).copied())?;
    let sources: BTreeMap<&str, String> = places
        .sources()
        .map(|(number, place)| {
            let setting = merged.source(place).map(|source| format!("setting {place}, {source}"));
            let fact = || if place.starts_with("instance.") { cloud::TYPES } else { place }.to_owned();
            (number, setting.unwrap_or_else(fact))
        })
        .collect();
    let limits = vpc_driver::limits(&settings, name);
    let set = |kind| resource_set(kind, &numbers, limits).unwrap_or_else(|error| error.what);
    let family = instance_types::family(name);
    let (supported, driver) = match vpc_driver::find_support(&settings, name) {
        Support::WithLimits(Limits { interfaces, ipv4, network_mbps }) => (
            true,
            format!(
                "Titus's VPC driver of 2018-05 attaches {interfaces} interfaces with {ipv4} addresses each, and limits traffic to {network_mbps} Mbit/s"
            ),
        ),
        Support::Unlimited => (true, format!("Titus's VPC driver knows {name}, as the settings say")),
        Support::Not { what, knows } => (false, format!("{what}: {knows}")),
    };
    let (as_instance, schedulable) = (set(ResourceSet::Instance), set(ResourceSet::Schedulable));
    if reporter.json {
        let driver = |Limits { interfaces, ipv4, network_mbps }: Limits| Driver {
            release: "2018-05",
            interfaces,
            ipv4,
            network_mbps,
        };
        say_document(Document {
            instance_type: name.to_owned(),
            max_enis: numbers.max_enis,
            ipv4_per_eni: numbers.ipv4_per_eni,
            network_mbps: numbers.network_mbps,
            family: family.to_owned(),
            supported,
            vpc_driver: limits.map(driver),
            resource_set: Sets { instance: as_instance, schedulable },
            sources: sources.into_iter().map(|(number, source)| (number.to_owned(), source)).collect(),
        });
        return Ok(0);
    }
    let network = numbers.network_mbps.map_or("unknown".into(), |mbps| format!("{mbps} Mbit/s"));
    say(&format!(
        "{name}: {} interfaces, {} IPv4 addresses each, baseline network {network}\n\
         resource set \"instance\":    {as_instance}\nresource set \"schedulable\": {schedulable}\n\
         {driver} (setting agent.vpc_driver)\n",
        numbers.max_enis, numbers.ipv4_per_eni,
    ));
    if let Some(notice) = vpc_driver::notice(name, numbers.ipv4_per_eni) {
        say(&format!("notice: {notice}\n"));
    }
    let mut numbers_by_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (number, source) in &sources {
        numbers_by_source.entry(source).or_default().push(number);
    }
    for (source, numbers) in numbers_by_source {
        say(&format!("{} from: {source}\n", numbers.join(", ")));
    }
    Ok(0)
}
