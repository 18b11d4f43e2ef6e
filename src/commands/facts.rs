//! `facts`: the facts about the instance and the machine, each with its source.

use serde_json::Value as Json;

use crate::error::{Error, Kind, Result};
use crate::facts::Facts;
use crate::prepare::gather::{self, Reported};
use crate::prepare::layers::may_ask_for_tags;
use crate::prepare::{Layers, Request, cloud};
use crate::run::report::{Reporter, say, say_json};
use crate::titus::instance_types;

/// Facts for programs, each with its source and without secrets.
///
/// # Errors
/// Fails when the facts cannot be converted to JSON.
pub fn document(facts: Facts) -> Result<Json> {
    let mut facts = facts.redact()?;
    facts.sources.extend(facts.each().into_iter().map(|(name, _, source)| (name, source)));
    serde_json::to_value(&facts).map_err(|e| Error::failed("facts cannot be printed").cause(e))
}

/// Makes the sample an instance of this type. The table has only a type's network numbers, so memory and processors stay
/// those of the sample.
fn sample_of_type(facts: &mut Facts, name: &str) -> Result<()> {
    if instance_types::lookup(name).is_none() {
        let advice = "see data/instance-types.csv for the types that this version knows".to_owned();
        return Err(Error::new(Kind::Usage, format!("unknown instance type {name:?}"))
            .fix(instance_types::add_suggestion(name, advice)));
    }
    if let Some(instance) = &mut facts.instance {
        instance.instance_type = name.to_owned();
        let sample_source =
            "the built-in sample, an m4.large: the program does not know the memory and processors of types";
        for (fact, source) in [
            ("type", "--instance-type"),
            ("memory_mib", sample_source),
            ("disk_mib", sample_source),
            ("cpus", sample_source),
        ] {
            facts.sources.insert(format!("instance.{fact}"), source.to_owned());
        }
    }
    Ok(())
}

/// Prints all facts. With `instance_type`: those of a sample of this type.
///
/// # Errors
/// Fails when facts are not available, and with 64 when the type is unknown.
pub fn run(request: &Request, reporter: Reporter, instance_type: Option<&str>) -> Result<u8> {
    let host = request.host()?;
    let merged = Layers::read(request, &host)?.merged(None)?;
    let Reported { mut facts, cloud, .. } = gather::facts(request, &merged)?;
    if let Some(mut cloud) = cloud {
        cloud::complete(&host, &mut cloud, &mut facts, may_ask_for_tags(&merged))?;
    }
    if let Some(name) = instance_type {
        sample_of_type(&mut facts, name)?;
    }
    if reporter.json {
        say_json(&document(facts)?);
        return Ok(0);
    }
    for (name, value, source) in facts.redact()?.each() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say(&format!("{name:<32} {text}   ({source})\n"));
    }
    Ok(0)
}
