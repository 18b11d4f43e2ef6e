//! `why KEY`: where a value comes from, and how it was derived.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::commands::explain;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::prepare::{self, Gathered, Request};
use crate::run::report::{Reporter, say, say_document};
use crate::settings;
use crate::titus::Values;
use crate::why::{self, Explanation, KnownValues, WrittenName, find_names};

/// The output of `why --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The name that was given.
    key: String,
    /// Its value; null if the answers differ.
    value: Json,
    /// Everything with this name.
    answers: Vec<Explanation>,
}

/// The key of the role. In files the same name can mean something else.
const ROLE: &str = "role";

/// Prints everything with this name. Changes nothing.
///
/// # Errors
/// Fails with 78 when the name is unknown. If the plan is refused and that is the reason, fails with the refusal.
pub fn run(request: &Request, reporter: Reporter, key: &str) -> Result<u8> {
    let mut host = request.host()?;
    let gathered = prepare::gather(request, &mut host)?;
    // Values that are not derived are known even for a node whose plan is refused.
    let settings = gathered.merged.settings()?;
    let nothing = Values::default();
    let known = KnownValues::new(&gathered.facts, &gathered.merged, &settings, &nothing);
    let role: Vec<Explanation> = (key == ROLE).then(|| why::role(&gathered.detected)).into_iter().collect();
    let plain = if key == ROLE || key.starts_with("titus.") { Vec::new() } else { known.ask(key) };
    let answers: Vec<Explanation> = match derived(request, gathered, &mut host, key) {
        Ok(answers) => role.into_iter().chain(answers).collect(),
        Err(error) if role.is_empty() && plain.is_empty() => return Err(error),
        Err(error) => {
            tracing::warn!("the files of this node's role are unknown: {}", error.what);
            role.into_iter().chain(plain).collect()
        }
    };
    if reporter.json {
        let first = answers.first().map_or(&Json::Null, |answer| &answer.value);
        let value = if answers.iter().all(|answer| answer.value == *first) { first } else { &Json::Null };
        say_document(Document { key: key.to_owned(), value: value.clone(), answers });
        return Ok(0);
    }
    answers.iter().for_each(|answer| say(&answer.to_string()));
    Ok(0)
}

/// Everything with this name, including what the role writes.
fn derived(request: &Request, gathered: Gathered, host: &mut Host, key: &str) -> Result<Vec<Explanation>> {
    let prepared = prepare::from_gathered(request, gathered, host)?;
    let known = KnownValues::new(&prepared.facts, &prepared.merged, &prepared.settings, &prepared.values);
    let steps = prepared.steps(request.phases)?;
    let written = find_names(&steps);
    let mut answers = if key == ROLE { Vec::new() } else { known.ask(key) };
    let asked = written.iter().filter(|written| written.name() == key);
    answers.extend(asked.map(|written| written.why(&prepared.role, &prepared.renderer, &known)));
    if answers.is_empty() && key != ROLE {
        if steps.iter().any(|step| explain::concerns(step, key)) {
            return Err(Error::config(format!("{key:?} is not a value"))
                .fix(format!("titus-bootstrap explain {key} reports what the role keeps of it")));
        }
        let names = known.names();
        return Err(unknown(key, names.iter().map(String::as_str).chain(written.iter().map(WrittenName::name))));
    }
    Ok(answers)
}

fn unknown<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    // The name of a unit or file may be given without its ending or directory, a setting without its table.
    let short_name = |name: &&&str| {
        let rest = name.strip_suffix(key).map(|rest| rest.ends_with(['/', '.']));
        rest.or_else(|| name.strip_prefix(key).map(|rest| rest.starts_with('.'))).unwrap_or(false)
    };
    let fix = match names.iter().find(short_name).copied().or_else(|| settings::nearest(key, names.iter().copied())) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "ask for role, a fact (titus-bootstrap facts), a setting (titus-bootstrap config show), \
                 a Mesos attribute or resource, or a name in a file of the role"
            .to_owned(),
    };
    Error::config(format!("unknown name {key:?}")).fix(fix)
}
