//! Why a value is what it is: where it came from, or what it was made of, down to facts and
//! settings with their sources.

mod lines;
mod show;
mod written;

use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::facts::{Facts, NOT_KNOWN, leaves};
use crate::prepare::detect::{Detected, Evidence};
use crate::role::known_names;
use crate::secrets::{is_secret, masked};
use crate::settings::{FOLLOWS, Merged, Settings};
use crate::titus::Values;
use crate::titus::part::{Input, Part};

pub use self::written::{Written, written};

/// The source of what this program makes of other values.
const DERIVED: &str = "derived";
/// What is shown of a secret.
const HIDDEN: &str = "***";
/// The source of what has no value.
const NOT_SET: &str = "not set";
/// The sources of what a place said of the role.
const ANSWERED: &str = "answered";
const DID_NOT_ANSWER: &str = "did not answer";

/// A value, where it came from, and what it was made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked for, or a part of it.
    pub name: String,
    /// Secrets as `***`.
    pub value: Json,
    /// `role agent`, `IMDS placement/region`, `derived`.
    pub source: String,
    /// What it stands in: a file with its step, a list.
    #[serde(rename = "in", skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The word that ties it to what stands before it: `less`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub word: &'static str,
    /// What was done with what it was made of: `in steps of 256`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// What it was made of.
    pub from: Vec<Answer>,
}

impl Answer {
    /// Whether a text in its value, or in those that it was made of, is so.
    fn holds(&self, is: impl Fn(&str) -> bool + Copy) -> bool {
        fn any(value: &Json, is: impl Fn(&str) -> bool + Copy) -> bool {
            match value {
                Json::String(text) => is(text),
                Json::Array(list) => list.iter().any(|value| any(value, is)),
                Json::Object(table) => table.values().any(|value| any(value, is)),
                _ => false,
            }
        }
        any(&self.value, is) || self.from.iter().any(|part| part.holds(is))
    }
}

/// The role, and what each place said that was asked; the last one's answer counts.
pub fn role(detected: &Detected) -> Answer {
    let last = detected.evidence.len().saturating_sub(1);
    let place = |(n, evidence): (usize, &Evidence)| {
        let source = if n == last { ANSWERED } else { DID_NOT_ANSWER };
        Answer {
            name: evidence.place.clone(),
            value: json!(evidence.answer),
            source: source.into(),
            ..Answer::default()
        }
    };
    let from: Vec<Answer> = detected.evidence.iter().enumerate().map(place).collect();
    let source = from.last().map(|place| place.name.clone()).unwrap_or_default();
    Answer { name: "role".into(), value: json!(detected.role), source, from, ..Answer::default() }
}

/// Everything that has a name and a source.
pub struct Known<'a> {
    facts: &'a Facts,
    merged: &'a Merged,
    values: &'a Values,
    /// Of facts, settings and what is derived, each by its whole name; tables too.
    named: Vec<(String, Json)>,
}

impl<'a> Known<'a> {
    /// All of it.
    pub fn new(facts: &'a Facts, merged: &'a Merged, settings: &Settings, values: &'a Values) -> Known<'a> {
        let mut named = Vec::new();
        if let Json::Object(all) = known_names(facts, settings, values) {
            for (name, value) in all {
                tables(name, value, &mut named);
            }
        }
        Known { facts, merged, values, named }
    }

    /// Names of facts, settings and what is derived, and of the parts of that.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parts = self.values.parts.values().flatten().map(|part| part.name.as_str());
        self.named.iter().map(|(name, _)| name.as_str()).chain(parts)
    }

    /// Everything that has this name: a fact, a setting, a derived value, and the parts of these, as the
    /// Mesos attribute `res`.
    pub fn ask(&self, name: &str) -> Vec<Answer> {
        let parts = self.values.parts.iter().flat_map(|(whole, parts)| {
            let asked = parts.iter().filter(|part| !part.name.is_empty() && part.name == name);
            asked.map(move |part| Answer { place: format!("titus.{whole}"), ..self.part(part) })
        });
        self.explain(name).into_iter().chain(parts).collect()
    }

    /// A fact, a setting or a derived value; a table with what is in it.
    pub fn explain(&self, name: &str) -> Option<Answer> {
        let (_, value) = self.named.iter().find(|(known, _)| known == name)?;
        let answer = Answer { name: name.into(), value: hidden(name, value), ..Answer::default() };
        if let Some(parts) = name.strip_prefix("titus.").and_then(|name| self.values.parts.get(name)) {
            return Some(match parts.as_slice() {
                [only] if only.name.is_empty() => Answer { value: answer.value, name: answer.name, ..self.part(only) },
                several => Answer {
                    source: DERIVED.into(),
                    from: several.iter().map(|part| self.part(part)).collect(),
                    ..answer
                },
            });
        }
        if value.as_object().is_some_and(|table| !table.is_empty()) {
            let mut found = Vec::new();
            leaves(name, value, &mut found);
            let set = found.into_iter().filter(|(_, value)| !value.is_null());
            let from = set.filter_map(|(name, _)| self.explain(&name)).collect();
            return Some(Answer { source: "a table".into(), from, ..answer });
        }
        let of_instance = name.starts_with("instance.") || name.starts_with("image.");
        let source = if of_instance { self.facts.source(name) } else { self.merged.source(name) };
        let follows = FOLLOWS.iter().find(|(known, _)| *known == name).filter(|_| source.is_none());
        if let Some((_, of)) = follows {
            let from = self.explain(of).into_iter().collect();
            return Some(Answer { source: DERIVED.into(), from, ..answer });
        }
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.is_object();
        let source = source.unwrap_or(match (is_empty, of_instance) {
            (true, _) => NOT_SET,
            (false, true) => NOT_KNOWN,
            (false, false) => "built-in",
        });
        Some(Answer { source: source.into(), ..answer })
    }

    /// Whether a text has the value of something that has the name of a secret.
    fn has_secret(&self, text: &str) -> bool {
        let is_in = |value: &Json| value.as_str().is_some_and(|value| !value.is_empty() && text.contains(value));
        self.named.iter().any(|(name, value)| is_secret(name) && is_in(value))
    }

    fn part(&self, part: &Part) -> Answer {
        Answer {
            name: part.name.clone(),
            value: hidden(&part.name, &json!(part.value)),
            source: DERIVED.into(),
            how: part.how.clone(),
            from: part.of.iter().map(|input| self.input(input)).collect(),
            ..Answer::default()
        }
    }

    fn input(&self, input: &Input) -> Answer {
        let known = self.explain(&input.name).filter(|answer| input.source.is_none() && !answer.value.is_null());
        let given = || Answer {
            name: input.name.clone(),
            value: hidden(&input.name, &json!(input.value)),
            source: input.source.clone().unwrap_or_else(|| "built-in".into()),
            ..Answer::default()
        };
        Answer { word: input.word, ..known.unwrap_or_else(given) }
    }
}

/// Everything in a tree of tables, by its whole name; the tables too.
fn tables(name: String, value: Json, into: &mut Vec<(String, Json)>) {
    if let Json::Object(table) = &value {
        for (key, value) in table {
            tables(format!("{name}.{key}"), value.clone(), into);
        }
    }
    into.push((name, value));
}

/// Without what must not be read, by the value's name or by its form.
fn hidden(name: &str, value: &Json) -> Json {
    match value {
        Json::Object(table) => {
            table.iter().map(|(key, value)| (key.clone(), hidden(&format!("{name}.{key}"), value))).collect()
        }
        Json::Null => Json::Null,
        _ if is_secret(name) => json!(HIDDEN),
        Json::Array(list) => list.iter().map(|value| hidden(name, value)).collect(),
        Json::String(text) => json!(masked(text)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
