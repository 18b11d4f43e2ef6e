//! The names that a role's files have, each with the line or text of the role that gives its value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::lines::Line;
use super::{Answer, Known, Provenance, lines};
use crate::role::{DIRECTORY, Role, built_in_template};
use crate::secrets::HIDDEN;
use crate::step::{Contents, Origin, Raw, Step};
use crate::template::Renderer;

/// A name in a file of the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    line: Line,
    path: String,
    step: String,
    is_private: bool,
}

/// Every name in the files of these steps.
pub fn written(steps: &[Step]) -> Vec<Written> {
    let mut found = Vec::new();
    for step in steps {
        let Some((path, contents)) = step.work().written() else { continue };
        let pairs: Vec<(String, String)> = match contents {
            Contents::Pairs(pairs) => pairs,
            Contents::Text(text) => {
                let pairs = lines::assignments(&text).into_iter();
                pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
            }
        };
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        pairs.iter().for_each(|(name, _)| *count.entry(name).or_default() += 1);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, value) in &pairs {
            let nth = seen.entry(name).or_default();
            let place = (*nth, count.get(name.as_str()).copied().unwrap_or(1));
            *nth += 1;
            found.push(Written {
                line: Line { name: name.clone(), value: value.clone(), place },
                path: path.to_owned(),
                step: step.id.clone(),
                is_private: step.work().is_private(),
            });
        }
    }
    found
}

impl Written {
    /// `MESOS_RESOURCES`.
    pub fn name(&self) -> &str {
        &self.line.name
    }

    /// Why the file has this value.
    pub fn why(&self, role: &Role, renderer: &Renderer, known: &Known<'_>) -> Answer {
        let origin = role.raw(&self.step).and_then(|raw| Raw::origin(raw, &self.line.name));
        let in_lines = |text: &str| lines::names(renderer, text, &self.line);
        let in_text = |text: &str| lines::of_text(renderer, text).unwrap_or_default();
        // Of a table that has a value of this name, that value.
        let own = |tables: &BTreeSet<String>| {
            let mut keys = tables.iter().map(|table| format!("{table}.{}", self.line.name));
            keys.find(|key| known.explain(key).is_some())
        };
        let names: BTreeSet<String> = match origin {
            Some(Origin::File(file)) => in_lines(&renderer.text(file).unwrap_or_default()),
            Some(Origin::Text(text)) => in_lines(text),
            Some(Origin::Value(text)) => in_text(text),
            Some(Origin::Table(table, text)) => {
                Some(in_text(table)).filter(|of| own(of).is_some()).unwrap_or(in_text(text))
            }
            None => BTreeSet::new(),
        };
        let names = own(&names).map_or(names, |own| BTreeSet::from([own]));
        let mut from: Vec<Answer> = names.iter().map(|name| named(known, name)).collect();
        if from.is_empty() {
            from.push(as_it_stands(role, renderer, origin));
        }
        let mut answer = Answer::new(&self.line.name, &json!(self.line.value));
        // What was made of a secret is one, whatever its own name; and so is what only the file's owner may read.
        if self.is_private || from.iter().any(Answer::hides) {
            answer.value = json!(HIDDEN);
        }
        let place = format!("{} (step {})", self.path, self.step);
        Answer { source: Provenance::place(format!("role {}", role.name)), place, from, ..answer }
    }
}

/// What a template names can be a part of a list, which has no name of its own.
fn named(known: &Known<'_>, name: &str) -> Answer {
    let mut at = name;
    loop {
        match (known.explain(at), at.rsplit_once('.')) {
            (Some(answer), _) => return answer,
            (None, Some((table, _))) => at = table,
            (None, None) => {
                return Answer { name: name.into(), ..Answer::default() };
            }
        }
    }
}

/// The template or the role, where a value is written out.
fn as_it_stands(role: &Role, renderer: &Renderer, origin: Option<Origin<'_>>) -> Answer {
    let (name, source) = match origin {
        Some(Origin::File(file)) => {
            let is_built_in = renderer.text(file).as_deref() == built_in_template(file);
            let own = format!("{DIRECTORY}/files/{file}");
            (format!("template {file}"), if is_built_in { "built-in".to_owned() } else { own })
        }
        _ => (format!("role {}", role.name), role.source.clone()),
    };
    Answer { name, source: Provenance::Place(source), ..Answer::default() }
}
