//! `facts`: what is known of the instance and the machine, and from where.

use crate::cli::Global;
use crate::error::{Error, Result};
use crate::run::report::say;

/// Prints all facts.
///
/// # Errors
/// When they cannot be had.
pub fn run(global: &Global) -> Result<u8> {
    let host = super::host(global)?;
    let early = super::early(global, &host, None)?;
    let super::Asked { mut facts, cloud, .. } = super::facts(global, &early, false)?;
    if let Some(mut cloud) = cloud {
        crate::prepare::cloud::complete(&host, &mut cloud, &mut facts, super::may_ask_for_tags(&early.merged))?;
    }
    let each = facts.each();
    if global.json {
        facts.sources.extend(each.into_iter().map(|(name, _, source)| (name, source)));
        let document = serde_json::to_value(&facts).map_err(|e| Error::failed("facts cannot be printed").cause(e))?;
        say(&format!("{document:#}\n"));
        return Ok(0);
    }
    for (name, value, source) in each {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        say(&format!("{name:<32} {text}   ({source})\n"));
    }
    Ok(0)
}
