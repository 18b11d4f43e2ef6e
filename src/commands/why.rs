//! `why KEY`: where a value came from, and what it was made of.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use crate::SCHEMA_VERSION;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::prepare::{self, Gathered, Request};
use crate::run::report::{Reporter, say, say_json};
use crate::settings;
use crate::titus::Values;
use crate::why::{self, Answer, Known, Written, written};

/// The key that asks for the role; in files the name may be another's too.
const ROLE: &str = "role";

/// Prints everything that has this name. Nothing is changed.
///
/// # Errors
/// 78 when nothing has the name, and what a plan is refused for when that is why.
pub fn run(request: &Request, reporter: Reporter, key: &str) -> Result<u8> {
    let mut host = request.host()?;
    let gathered = prepare::gather(request, &host)?;
    // What is not derived can be told of a node that a plan refuses, too.
    let settings = gathered.merged.settings()?;
    let nothing = Values::default();
    let known = Known::new(&gathered.facts, &gathered.merged, &settings, &nothing);
    let role: Vec<Answer> = (key == ROLE).then(|| why::role(&gathered.detected)).into_iter().collect();
    let plain = if key == ROLE || key.starts_with("titus.") { Vec::new() } else { known.ask(key) };
    let answers: Vec<Answer> = match derived(request, gathered, &mut host, key) {
        Ok(answers) => role.into_iter().chain(answers).collect(),
        Err(error) if role.is_empty() && plain.is_empty() => return Err(error),
        Err(error) => {
            tracing::warn!("what this node would be given cannot be told: {}", error.what);
            role.into_iter().chain(plain).collect()
        }
    };
    if reporter.json {
        let first = answers.first().map_or(&Json::Null, |answer| &answer.value);
        let value = if answers.iter().all(|answer| answer.value == *first) { first } else { &Json::Null };
        let document = json!({ "schema_version": SCHEMA_VERSION, "key": key, "value": value, "answers": answers });
        say_json(&document);
        return Ok(0);
    }
    answers.iter().for_each(|answer| say(&answer.to_string()));
    Ok(0)
}

/// Everything of this name, over a role that can be rendered.
fn derived(request: &Request, gathered: Gathered, host: &mut Host, key: &str) -> Result<Vec<Answer>> {
    let prepared = prepare::from_gathered(request, gathered, host)?;
    let known = Known::new(&prepared.facts, &prepared.merged, &prepared.settings, &prepared.values);
    let written = written(&prepared.steps(request.phases)?);
    let mut answers = if key == ROLE { Vec::new() } else { known.ask(key) };
    let asked = written.iter().filter(|written| written.name() == key);
    answers.extend(asked.map(|written| written.why(&prepared.role, &prepared.renderer, &known)));
    if answers.is_empty() && key != ROLE {
        let names = known.names();
        return Err(unknown(key, names.iter().map(String::as_str).chain(written.iter().map(Written::name))));
    }
    Ok(answers)
}

fn unknown<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let same = names.iter().find(|name| name.eq_ignore_ascii_case(key)).copied();
    // Nobody types a longer one, and to compare it takes long.
    let like = || settings::nearest(key, names.iter().copied().filter(|_| key.len() < 100));
    let fix = match same.or_else(like) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "ask for role, a fact (titus-bootstrap facts), a setting (titus-bootstrap config show), \
                 a Mesos attribute or resource, or a name in a file of the role"
            .to_owned(),
    };
    Error::config(format!("nothing is called {key:?}")).fix(fix)
}
