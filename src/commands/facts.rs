//! `facts`: what is known of the instance and the machine, and from where.

use serde_json::Value;

use crate::cli::Global;
use crate::error::{Error, Result};
use crate::report::say;

/// Prints all facts.
///
/// # Errors
/// When they cannot be had.
pub fn run(global: &Global) -> Result<u8> {
    let host = super::host(global)?;
    let early = super::early(global, &host, None)?;
    let super::Asked { mut facts, cloud, .. } = super::facts(global, &early, false)?;
    if let Some(mut cloud) = cloud.filter(|_| super::may_ask_for_tags(&early.merged)) {
        cloud.tags(&mut facts, |_| true, false)?;
    }
    let document = serde_json::to_value(&facts).map_err(|e| Error::failed("facts cannot be printed").cause(e))?;
    if global.json {
        say(&format!("{document:#}\n"));
        return Ok(0);
    }
    for part in ["instance", "image"] {
        for (name, value) in document.get(part).and_then(Value::as_object).into_iter().flatten() {
            let key = format!("{part}.{name}");
            let source = facts.sources.get(&key).map_or(String::new(), |source| format!("   ({source})"));
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            say(&format!("{key:<32} {text}{source}\n"));
        }
    }
    Ok(0)
}
