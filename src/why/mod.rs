//! Why a value is what it is: where it came from, or what it was made of, down to facts and
//! settings with their sources.

mod lines;
mod show;
mod written;

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::facts::{Facts, NOT_KNOWN, leaves};
use crate::prepare::detect::{Detected, Evidence};
use crate::role::known_names;
use crate::secrets::hide;
use crate::settings::name::{lookup, plain};
use crate::settings::{FOLLOWS, Merged, Settings, Source};
use crate::titus::Values;
use crate::titus::part::{Input, Part};

pub use self::written::{Written, written};

/// Where a value came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Provenance {
    /// A place, in words: a file, a tag, an item of the metadata service.
    Place(String),
    /// The values that the answer has in `from`.
    Derived,
    /// A table, of which the answer has each value in `from`.
    Table,
    /// It has no value.
    #[default]
    NotSet,
    /// A place that was asked for the role, and named it.
    Answered,
    /// A place that was asked for the role, and did not name it.
    DidNotAnswer,
}

impl Provenance {
    fn place(words: impl ToString) -> Provenance {
        Provenance::Place(words.to_string())
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Provenance::Place(words) => words,
            Provenance::Derived => "derived",
            Provenance::Table => "a table",
            Provenance::NotSet => "not set",
            Provenance::Answered => "answered",
            Provenance::DidNotAnswer => "did not answer",
        })
    }
}

impl Serialize for Provenance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A value, where it came from, and what it was made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked for, or a part of it.
    pub name: String,
    /// Secrets as `***`.
    pub value: Json,
    /// `role agent`, `IMDS placement/region`, `derived`.
    pub source: Provenance,
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
    /// Whether the value, or a part of it, is a secret.
    #[serde(skip)]
    is_hidden: bool,
}

impl Answer {
    /// A value without its source; a secret is hidden.
    fn new(name: &str, value: &Json) -> Answer {
        let shown = hide(name, value);
        Answer { name: name.to_owned(), is_hidden: shown != *value, value: shown, ..Answer::default() }
    }

    /// Whether it, or anything that it was made of, has a secret.
    fn hides(&self) -> bool {
        self.is_hidden || self.from.iter().any(Answer::hides)
    }
}

/// The role, and what each place said that was asked; the last one's answer counts.
pub fn role(detected: &Detected) -> Answer {
    let last = detected.evidence.len().saturating_sub(1);
    let place = |(n, evidence): (usize, &Evidence)| {
        let source = if n == last { Provenance::Answered } else { Provenance::DidNotAnswer };
        Answer { source, ..Answer::new(&evidence.place, &json!(evidence.answer)) }
    };
    let from: Vec<Answer> = detected.evidence.iter().enumerate().map(place).collect();
    let source = Provenance::place(from.last().map_or("", |place| &place.name));
    Answer { source, from, ..Answer::new("role", &json!(detected.role)) }
}

/// Everything that has a name and a source.
pub struct Known<'a> {
    facts: &'a Facts,
    merged: &'a Merged,
    values: &'a Values,
    /// Facts, settings and what is derived.
    named: Json,
}

impl<'a> Known<'a> {
    /// All of it.
    pub fn new(facts: &'a Facts, merged: &'a Merged, settings: &Settings, values: &'a Values) -> Known<'a> {
        Known { facts, merged, values, named: known_names(facts, settings, values) }
    }

    /// Names of facts, settings and what is derived, of their tables too, and of the parts of what is derived.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        tables("", &self.named, &mut names);
        names.extend(self.values.parts.values().flatten().map(|part| part.name.clone()));
        names
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
        let value = lookup(&self.named, name)?;
        let name = &*plain(name);
        let answer = Answer::new(name, value);
        if let Some(parts) = name.strip_prefix("titus.").and_then(|name| self.values.parts.get(name)) {
            return Some(match parts.as_slice() {
                [only] if only.name.is_empty() => Answer { value: answer.value, name: answer.name, ..self.part(only) },
                several => Answer {
                    source: Provenance::Derived,
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
            return Some(Answer { source: Provenance::Table, from, ..answer });
        }
        let of_instance = name.starts_with("instance.") || name.starts_with("image.");
        let source = if of_instance {
            self.facts.source(name).map(Provenance::place)
        } else {
            self.merged.source(name).map(Provenance::place)
        };
        let follows = FOLLOWS.iter().find(|(known, _)| *known == name).filter(|_| source.is_none());
        if let Some((_, of)) = follows {
            let from = self.explain(of).into_iter().collect();
            return Some(Answer { source: Provenance::Derived, from, ..answer });
        }
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.is_object();
        let source = source.unwrap_or_else(|| match (is_empty, of_instance) {
            (true, _) => Provenance::NotSet,
            (false, true) => Provenance::place(NOT_KNOWN),
            (false, false) => Provenance::place(Source::BuiltIn),
        });
        Some(Answer { source, ..answer })
    }

    fn part(&self, part: &Part) -> Answer {
        Answer {
            source: Provenance::Derived,
            how: part.how.clone(),
            from: part.of.iter().map(|input| self.input(input)).collect(),
            ..Answer::new(&part.name, &json!(part.value))
        }
    }

    fn input(&self, input: &Input) -> Answer {
        let known = self.explain(&input.name).filter(|answer| input.source.is_none() && !answer.value.is_null());
        let given = || {
            let source = input.source.as_ref().map_or_else(|| Provenance::place(Source::BuiltIn), Provenance::place);
            Answer { source, ..Answer::new(&input.name, &json!(input.value)) }
        };
        Answer { word: input.word, ..known.unwrap_or_else(given) }
    }
}

/// The whole name of everything in a tree of tables; of the tables too.
fn tables(name: &str, value: &Json, into: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        tables(&name, value, into);
        into.push(name);
    }
}

#[cfg(test)]
mod tests;
