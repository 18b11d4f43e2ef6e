//! `instance-type NAME`: the network numbers of a type, and what an agent makes of them.

use std::collections::BTreeMap;

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::Result;
use crate::prepare::{Layers, Request, cloud};
use crate::role::Role;
use crate::run::report::{Reporter, say};
use crate::settings::schema::Families;
use crate::titus::agent::type_numbers;
use crate::titus::attributes::{ResourceSet, resource_set};
use crate::titus::{instance_types, supported_family};

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
    let set = |kind| resource_set(kind, &numbers).unwrap_or_else(|error| error.what);
    let family = instance_types::family(name);
    let supported = match &settings.agent.supported_families {
        Some(Families::Listed(listed)) => supported_family(family, listed),
        _ => true,
    };
    let (as_instance, schedulable) = (set(ResourceSet::Instance), set(ResourceSet::Schedulable));
    if reporter.json {
        let document = json!({
            "schema_version": SCHEMA_VERSION, "instance_type": name, "max_enis": numbers.max_enis,
            "ipv4_per_eni": numbers.ipv4_per_eni, "network_mbps": numbers.network_mbps, "family": family,
            "supported": supported, "resource_set": { "instance": as_instance, "schedulable": schedulable },
            "sources": sources,
        });
        say(&format!("{document:#}\n"));
        return Ok(0);
    }
    let network = numbers.network_mbps.map_or("unknown".into(), |mbps| format!("{mbps} Mbit/s"));
    let driver = if supported { "knows" } else { "does not know" };
    say(&format!(
        "{name}: {} interfaces, {} IPv4 addresses each, baseline network {network}\n\
         resource set \"instance\":    {as_instance}\nresource set \"schedulable\": {schedulable}\n\
         Titus's VPC driver {driver} the family {family} (setting agent.supported_families)\n",
        numbers.max_enis, numbers.ipv4_per_eni,
    ));
    let mut of_source: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (number, source) in &sources {
        of_source.entry(source).or_default().push(number);
    }
    for (source, numbers) in of_source {
        say(&format!("{} from: {source}\n", numbers.join(", ")));
    }
    Ok(0)
}
