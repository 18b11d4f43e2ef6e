//! Explains a value: where it comes from, or how it derives from facts and
//! settings with their sources.

mod lines;
mod show;
mod written;

use std::fmt;

use schemars::JsonSchema;
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

pub use self::written::{WrittenName, find_names};

/// The origin of a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Provenance {
    /// A description of a file, a tag, or an item of the metadata service.
    Place(String),
    /// Derived from the values in `from`.
    Derived,
    /// A table; `from` has each of its values.
    Table,
    /// No value.
    #[default]
    NotSet,
    /// A place that named the role.
    Answered,
    /// A place that could have named the role, but did not.
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

/// A value with its origin and its inputs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The requested name, or a part of it.
    pub name: String,
    /// The value; secrets are `***`.
    pub value: Json,
    /// The origin, e.g. `role agent`, `IMDS placement/region`, `derived`.
    #[schemars(with = "String")]
    pub source: Provenance,
    /// What contains it: a file with its step, or a list.
    #[serde(rename = "in", skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// The word that connects it with the previous input, e.g. `less`.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub word: &'static str,
    /// The operation on the inputs, e.g. `in steps of 256`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub how: String,
    /// The inputs.
    pub from: Vec<Explanation>,
    /// Whether the value, or a part of it, is a secret.
    #[serde(skip)]
    is_hidden: bool,
}

impl Explanation {
    /// A value without an origin. A secret is hidden.
    fn new(name: &str, value: &Json) -> Explanation {
        let shown = hide(name, value);
        Explanation { name: name.to_owned(), is_hidden: shown != *value, value: shown, ..Explanation::default() }
    }

    /// Whether the value or any of its inputs contains a secret.
    fn hides(&self) -> bool {
        self.is_hidden || self.from.iter().any(Explanation::hides)
    }
}

/// Explains the role: each place consulted, and its answer. The last one counts.
pub fn role(detected: &Detected) -> Explanation {
    let last = detected.evidence.len().saturating_sub(1);
    let place = |(n, evidence): (usize, &Evidence)| {
        let source = if n == last { Provenance::Answered } else { Provenance::DidNotAnswer };
        Explanation { source, ..Explanation::new(&evidence.place, &json!(evidence.answer)) }
    };
    let from: Vec<Explanation> = detected.evidence.iter().enumerate().map(place).collect();
    let source = Provenance::place(from.last().map_or("", |place| &place.name));
    Explanation { source, from, ..Explanation::new("role", &json!(detected.role)) }
}

/// Everything that has a name and an origin.
pub struct KnownValues<'a> {
    facts: &'a Facts,
    merged: &'a Merged,
    values: &'a Values,
    /// Facts, settings and derived values.
    named: Json,
}

impl<'a> KnownValues<'a> {
    /// Collects all names.
    pub fn new(facts: &'a Facts, merged: &'a Merged, settings: &Settings, values: &'a Values) -> KnownValues<'a> {
        KnownValues { facts, merged, values, named: known_names(facts, settings, values) }
    }

    /// The names of facts, settings and derived values, of their tables, and of the parts of derived values.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        tables("", &self.named, &mut names);
        names.extend(self.values.parts.values().flatten().map(|part| part.name.clone()));
        names
    }

    /// Explains everything with this name: a fact, a setting, a derived value, and parts of these, such as the
    /// Mesos attribute `res`.
    pub fn ask(&self, name: &str) -> Vec<Explanation> {
        let parts = self.values.parts.iter().flat_map(|(whole, parts)| {
            let asked = parts.iter().filter(|part| !part.name.is_empty() && part.name == name);
            asked.map(move |part| Explanation { place: format!("titus.{whole}"), ..self.explain_part(part) })
        });
        self.explain(name).into_iter().chain(parts).collect()
    }

    /// A fact, a setting or a derived value; a table with what is in it.
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        let value = lookup(&self.named, name)?;
        let name = &*plain(name);
        let answer = Explanation::new(name, value);
        if let Some(parts) = name.strip_prefix("titus.").and_then(|name| self.values.parts.get(name)) {
            return Some(match parts.as_slice() {
                [only] if only.name.is_empty() => {
                    Explanation { value: answer.value, name: answer.name, ..self.explain_part(only) }
                }
                several => Explanation {
                    source: Provenance::Derived,
                    from: several.iter().map(|part| self.explain_part(part)).collect(),
                    ..answer
                },
            });
        }
        if value.as_object().is_some_and(|table| !table.is_empty()) {
            let mut found = Vec::new();
            leaves(name, value, &mut found);
            let set = found.into_iter().filter(|(_, value)| !value.is_null());
            let from = set.filter_map(|(name, _)| self.explain(&name)).collect();
            return Some(Explanation { source: Provenance::Table, from, ..answer });
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
            return Some(Explanation { source: Provenance::Derived, from, ..answer });
        }
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.is_object();
        let source = source.unwrap_or_else(|| match (is_empty, of_instance) {
            (true, _) => Provenance::NotSet,
            (false, true) => Provenance::place(NOT_KNOWN),
            (false, false) => Provenance::place(Source::BuiltIn),
        });
        Some(Explanation { source, ..answer })
    }

    fn explain_part(&self, part: &Part) -> Explanation {
        Explanation {
            source: Provenance::Derived,
            how: part.operation.clone(),
            from: part.inputs.iter().map(|input| self.input(input)).collect(),
            ..Explanation::new(&part.name, &json!(part.value))
        }
    }

    fn input(&self, input: &Input) -> Explanation {
        let known = self.explain(&input.name).filter(|answer| input.source.is_none() && !answer.value.is_null());
        let given = || {
            let source = input.source.as_ref().map_or_else(|| Provenance::place(Source::BuiltIn), Provenance::place);
            Explanation { source, ..Explanation::new(&input.name, &json!(input.value)) }
        };
        Explanation { word: input.word, ..known.unwrap_or_else(given) }
    }
}

/// Collects the full name of everything in a tree of tables, including the tables.
fn tables(name: &str, value: &Json, into: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        tables(&name, value, into);
        into.push(name);
    }
}

#[cfg(test)]
mod tests;
