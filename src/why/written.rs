//! The names in a role's files, each with the line or text of the role that produces its value.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::lines::Line;
use super::{Explanation, KnownValues, Provenance, lines};
use crate::role::{DIRECTORY, Role, built_in_template};
use crate::secrets::HIDDEN;
use crate::step::{Contents, RawStep, Step, ValueOrigin};
use crate::template::Renderer;

/// A name in a file of the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenName {
    line: Line,
    path: String,
    step: String,
    is_private: bool,
}

/// Every name in the files of these steps.
pub fn find_names(steps: &[Step]) -> Vec<WrittenName> {
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
            found.push(WrittenName {
                line: Line { name: name.clone(), value: value.clone(), place },
                path: path.to_owned(),
                step: step.id.clone(),
                is_private: step.work().is_private(),
            });
        }
    }
    found
}

impl WrittenName {
    /// The name, e.g. `MESOS_RESOURCES`.
    pub fn name(&self) -> &str {
        &self.line.name
    }

    /// Explains the file's value.
    pub fn why(&self, role: &Role, renderer: &Renderer, known: &KnownValues<'_>) -> Explanation {
        let origin = role.raw(&self.step).and_then(|raw| RawStep::origin(raw, &self.line.name));
        let in_lines = |text: &str| lines::names(renderer, text, &self.line);
        let in_text = |text: &str| lines::text_names(renderer, text).unwrap_or_default();
        // For a table that has a value of this name, explain that value.
        let own = |tables: &BTreeSet<String>| {
            let mut keys = tables.iter().map(|table| format!("{table}.{}", self.line.name));
            keys.find(|key| known.explain(key).is_some())
        };
        let names: BTreeSet<String> = match origin {
            Some(ValueOrigin::File(file)) => in_lines(&renderer.text(file).unwrap_or_default()),
            Some(ValueOrigin::Text(text)) => in_lines(text),
            Some(ValueOrigin::Value(text)) => in_text(text),
            Some(ValueOrigin::Table(table, text)) => {
                Some(in_text(table)).filter(|of| own(of).is_some()).unwrap_or(in_text(text))
            }
            None => BTreeSet::new(),
        };
        let names = own(&names).map_or(names, |own| BTreeSet::from([own]));
        let mut from: Vec<Explanation> = names.iter().map(|name| explain_name(known, name)).collect();
        if from.is_empty() {
            from.push(self.explain_literal(role, renderer, origin));
        }
        let mut answer = Explanation::new(&self.line.name, &json!(self.line.value));
        // A value made from a secret is a secret under any name, and so is whatever only the file's owner may read.
        if self.is_private || from.iter().any(Explanation::hides) {
            answer.value = json!(HIDDEN);
        }
        let place = format!("{} (step {})", self.path, self.step);
        Explanation { source: Provenance::place(format!("role {}", role.name)), place, from, ..answer }
    }

    /// The template, the drop-in or the role, for a literal value.
    fn explain_literal(&self, role: &Role, renderer: &Renderer, origin: Option<ValueOrigin<'_>>) -> Explanation {
        let (name, source) = match origin {
            Some(ValueOrigin::File(file)) => {
                let is_built_in = renderer.text(file).as_deref() == built_in_template(file);
                let own = format!("{DIRECTORY}/files/{file}");
                (format!("template {file}"), if is_built_in { "built-in".to_owned() } else { own })
            }
            _ => {
                let drop_in = role.find_drop_in_line(&self.step, &self.line.name).map(ToString::to_string);
                (format!("role {}", role.name), drop_in.unwrap_or_else(|| role.source.clone()))
            }
        };
        Explanation { name, source: Provenance::Place(source), ..Explanation::default() }
    }
}

/// An item of a list, for example, has no name of its own although a template can use it.
fn explain_name(known: &KnownValues<'_>, name: &str) -> Explanation {
    let mut at = name;
    loop {
        match (known.explain(at), at.rsplit_once('.')) {
            (Some(answer), _) => return answer,
            (None, Some((table, _))) => at = table,
            (None, None) => {
                return Explanation { name: name.into(), ..Explanation::default() };
            }
        }
    }
}
