//! `facts`: what is known of the instance and the machine, and from where.

use crate::error::{Error, Result};
use crate::prepare::gather::{self, Asked};
use crate::prepare::layers::may_ask_for_tags;
use crate::prepare::{Layers, Request, cloud};
use crate::run::report::{Reporter, say, say_json};

/// Prints all facts.
///
/// # Errors
/// When they cannot be had.
pub fn run(request: &Request, reporter: Reporter) -> Result<u8> {
    let host = request.host()?;
    let merged = Layers::read(request, &host)?.merged(None)?;
    let Asked { mut facts, cloud, .. } = gather::facts(request, &merged)?;
    if let Some(mut cloud) = cloud {
        cloud::complete(&host, &mut cloud, &mut facts, may_ask_for_tags(&merged))?;
    }
    let mut facts = facts.shown()?;
    let each = facts.each();
    if reporter.json {
        facts.sources.extend(each.into_iter().map(|(name, _, source)| (name, source)));
        let document = serde_json::to_value(&facts).map_err(|e| Error::failed("facts cannot be printed").cause(e))?;
        say_json(&document);
        return Ok(0);
    }
    for (name, value, source) in each {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say(&format!("{name:<32} {text}   ({source})\n"));
    }
    Ok(0)
}
