//! `instance-type NAME`: the network numbers of a type, and what an agent makes of them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::Result;
use crate::prepare::{Layers, Request, cloud};
use crate::role::Role;
use crate::run::report::{Reporter, say, say_json};
use crate::titus::agent::type_numbers;
use crate::titus::attributes::{ResourceSet, resource_set};
use crate::titus::instance_types;
use crate::titus::vpc_driver::{self, Known, Limits};

/// Prints the numbers of a type.
///
/// # Errors
/// 78 when neither table nor settings have them.
pub fn run(request: &Request, reporter: Reporter, name: &str) -> Result<u8> {
    let host = request.host()?;
    let merged = Layers::read(request, &host)?.merged(Some(&Role::load(&host, "agent")?))?;
    let settings = merged.settings()?;
    let (numbers, places) = type_numbers(&settings, name, cloud::recalled(&host)?.get(name).copied())?;
    let sources: BTreeMap<&str, String> = places
        .told()
        .map(|(number, place)| {
            let setting = merged.source(place).map(|source| format!("setting {place}, {source}"));
            let fact = || if place.starts_with("instance.") { cloud::TYPES } else { place }.to_owned();
            (number, setting.unwrap_or_else(fact))
        })
        .collect();
    let limits = vpc_driver::limits(&settings, name);
    let set = |kind| resource_set(kind, &numbers, limits).unwrap_or_else(|error| error.what);
    let family = instance_types::family(name);
    let (supported, driver) = match vpc_driver::known(&settings, name) {
        Known::WithLimits(Limits { interfaces, ipv4, network_mbps }) => (
            true,
            format!(
                "Titus's VPC driver of 2018-05 attaches {interfaces} interfaces with {ipv4} addresses each, and shapes to {network_mbps} Mbit/s"
            ),
        ),
        Known::Unlimited => (true, format!("Titus's VPC driver knows {name}, as the settings say")),
        Known::Not { what, knows } => (false, format!("{what}: {knows}")),
    };
    let (as_instance, schedulable) = (set(ResourceSet::Instance), set(ResourceSet::Schedulable));
    if reporter.json {
        let document = json!({
            "schema_version": SCHEMA_VERSION, "instance_type": name, "max_enis": numbers.max_enis,
            "ipv4_per_eni": numbers.ipv4_per_eni, "network_mbps": numbers.network_mbps, "family": family,
            "supported": supported, "vpc_driver": limits.map(|limits| json!({ "release": "2018-05", "interfaces": limits.interfaces, "ipv4": limits.ipv4, "network_mbps": limits.network_mbps })),
            "resource_set": { "instance": as_instance, "schedulable": schedulable },
            "sources": sources,
        });
        say_json(&document);
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
    let mut of_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (number, source) in &sources {
        of_source.entry(source).or_default().push(number);
    }
    for (source, numbers) in of_source {
        say(&format!("{} from: {source}\n", numbers.join(", ")));
    }
    Ok(0)
}
