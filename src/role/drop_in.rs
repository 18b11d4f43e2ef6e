//! Drop-ins: files that add steps to a role, or change keys of its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use crate::error::{Error, Result};
use crate::host::json::{expected_value, wrong_value};
use crate::secrets::is_secret;
use crate::settings::values::{Variable, VariableName};
use crate::settings::{did_you_mean, parse_toml, shorten};
use crate::step::RawStep;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    file: String,
    line: usize,
}

impl SourceLine {
    /// The line of a byte in a file's text.
    pub(super) fn new(file: &str, text: &str, at: usize) -> SourceLine {
        SourceLine { file: file.to_owned(), line: text.get(..at).unwrap_or_default().matches('\n').count() + 1 }
    }

    /// The line of a dotted key, or of its table.
    pub(super) fn find_key(file: &str, text: &str, key: &str) -> SourceLine {
        let mut at = BTreeMap::new();
        if let Ok(table) = DeTable::parse(text) {
            collect_starts(table.get_ref(), &mut Vec::new(), &mut at);
        }
        let path: Vec<String> = key.split('.').map(str::to_owned).collect();
        SourceLine::find_nearest(file, text, &at, &path)
    }

    /// The line of the last of these keys that the text has. `at` has the position of each.
    fn find_nearest(file: &str, text: &str, at: &BTreeMap<Vec<String>, usize>, path: &[String]) -> SourceLine {
        let start = (0..=path.len()).rev().find_map(|n| at.get(path.get(..n)?));
        SourceLine::new(file, text, start.copied().unwrap_or_default())
    }
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}", self.file, self.line)
    }
}

/// A step in a role's files, with its lines.
#[derive(Debug, Clone)]
pub(super) struct PlacedStep {
    /// The step.
    pub raw: RawStep,
    /// The table from which it was read.
    pub table: Table,
    /// The line where it begins.
    pub place: SourceLine,
    /// Whether a drop-in added the step.
    is_added: bool,
    /// The keys that drop-ins changed, and the line of each key's last change.
    changes: BTreeMap<Vec<String>, SourceLine>,
}

/// Reads a text with steps. An error in a step names the step.
///
/// # Errors
/// Fails when the text is not TOML, or not of this type.
pub(super) fn read<T: DeserializeOwned>(file: &str, text: &str) -> Result<T> {
    parse_toml(file, text).map_err(|error| {
        // Do not parse a text again that is not TOML or that nests too deep.
        if parse_toml::<Table>(file, text).is_err() {
            return error;
        }
        let span = toml::from_str::<T>(text).err().and_then(|error| error.span());
        let id = span.and_then(|span| find_id(text, &span));
        let parts = error.what.strip_prefix(file).and_then(|rest| rest.split_once(": "));
        match (id, parts) {
            (Some(id), Some((place, problem))) => {
                Error { what: format!("{file}{place}: step {}: {problem}", shorten(&id)), ..error }
            }
            _ => error,
        }
    })
}

/// The id of the step at this position of a text.
fn find_id(text: &str, at: &Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let (_, DeValue::Array(steps)) =
        table.get_ref().iter().find(|(key, _)| key.get_ref() == "step").map(|(key, value)| (key, value.get_ref()))?
    else {
        return None;
    };
    let end = |value: &Spanned<DeValue<'_>>| value.get_ref().as_table().map_or(0, table_end);
    let step =
        steps.iter().find(|step| step.span().start <= at.start && at.start < end(step) && at.end <= end(step))?;
    Some(step.get_ref().as_table()?.get("id")?.get_ref().as_str()?.to_owned())
}

/// The end of a table; its header does not give it.
fn table_end(table: &DeTable<'_>) -> usize {
    let ends = table.iter().map(|(_, value)| match value.get_ref() {
        DeValue::Table(below) => table_end(below).max(value.span().end),
        _ => value.span().end,
    });
    ends.max().unwrap_or_default()
}

/// The steps of a text.
///
/// # Errors
/// Fails when the text is not TOML.
pub(super) fn place_steps(file: &str, text: &str, steps: Vec<Spanned<RawStep>>) -> Result<Vec<PlacedStep>> {
    let mut tables: Table = parse_toml(file, text)?;
    let tables = match tables.remove("step") {
        Some(Value::Array(tables)) => tables,
        _ => Vec::new(),
    };
    // Each line is counted once, however many steps there are, because the steps follow the order of the text.
    let (mut counted, mut line) = (0, 1);
    let steps = steps.into_iter().zip(tables).map(|(step, table)| {
        let start = step.span().start;
        line += text.get(counted..start).unwrap_or_default().matches('\n').count();
        counted = start;
        let place = SourceLine { file: file.to_owned(), line };
        refuse_wrong_id(&step.get_ref().id).map_err(|error| error.at(&place))?;
        Ok(PlacedStep {
            place,
            raw: step.into_inner(),
            table: table.as_table().cloned().unwrap_or_default(),
            is_added: false,
            changes: BTreeMap::new(),
        })
    });
    steps.collect()
}

/// Refuses an id that no option could name: --only and --skip take ids with commas between them.
fn refuse_wrong_id(id: &str) -> Result<()> {
    let is_word = id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if is_word && id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.len() <= LONGEST_ID {
        return Ok(());
    }
    Err(Error::config(format!("the id {:?} cannot be used", shorten(id)))
        .fix(format!("write at most {LONGEST_ID} letters, digits, `.`, `_` and `-`, with a letter or a digit first")))
}

/// The longest id of a step, in bytes.
const LONGEST_ID: usize = 100;

impl PlacedStep {
    /// Every file and line that contributes to the step.
    pub fn places(&self) -> String {
        let mut places = vec![self.place.to_string()];
        for change in self.changes.values().map(|change| format!("changed by {change}")) {
            if !places.contains(&change) {
                places.push(change);
            }
        }
        places.join(", ")
    }

    /// Adds the step and its place to an error.
    pub fn at(&self, error: Error) -> Error {
        error.at(format!("step {}", self.raw.id)).at(self.places())
    }

    /// The same list, if a drop-in contributes to the step.
    pub fn drop_ins(&self) -> Option<String> {
        (self.is_added || !self.changes.is_empty()).then(|| self.places())
    }

    /// The line of the value that the step writes under `name`.
    pub fn find_line(&self, name: &str) -> Option<&SourceLine> {
        let is_it = |path: &&Vec<String>| {
            path.last().is_some_and(|key| key == name || ["content", "template", "more"].contains(&key.as_str()))
        };
        let changed = self.changes.iter().find(|(path, _)| is_it(path)).map(|(_, place)| place);
        changed.or(self.is_added.then_some(&self.place))
    }

    /// Sets these keys of the step.
    fn change(&mut self, values: &Table, file: &str, text: &str, at: &BTreeMap<Vec<String>, usize>) -> Result<()> {
        let mut found = Vec::new();
        collect_leaves(values, &mut Vec::new(), &mut found);
        let place = |path: &[String]| SourceLine::find_nearest(file, text, at, path);
        let read = |table: &Table| RawStep::deserialize(Value::Table(table.clone()));
        let mut table = self.table.clone();
        for (path, value) in &found {
            if path.first().is_some_and(|key| ["id", "before", "after"].contains(&key.as_str())) {
                return Err(Error::config(format!(
                    "{}: a drop-in cannot change the id or position of a step",
                    place(path)
                ))
                .fix("disable the step with when = \"false\", and add your own step next to it"));
            }
            set(&mut table, path, value);
        }
        match read(&table) {
            Ok(raw) => self.raw = raw,
            Err(error) => {
                // Report the key in the library's message, or else the first key with which the step is unreadable.
                let is_named =
                    |path: &Vec<String>| path.last().is_some_and(|key| error.message().contains(&format!("`{key}`")));
                let mut so_far = self.table.clone();
                let fails = |(path, value): &&(Vec<String>, Value)| {
                    set(&mut so_far, path, value);
                    read(&so_far).is_err()
                };
                let named = found.iter().find(|(path, _)| is_named(path));
                let culprit = named.or_else(|| found.iter().find(fails));
                let path = culprit.map_or(Vec::new(), |(path, _)| path.clone());
                let is_hidden = path.iter().any(|key| is_secret(key)) && !error.message().starts_with("unknown field");
                let place = place(&path);
                let error = if is_hidden { Error::config("this value cannot be used") } else { explain(&error) };
                return Err(error.at(format!("step {}", self.raw.id)).at(place));
            }
        }
        self.table = table;
        self.changes.extend(found.iter().map(|(path, _)| (path.clone(), place(path))));
        Ok(())
    }
}

/// Why a step is unreadable. For an unknown key, also suggests a known one.
fn explain(error: &toml::de::Error) -> Error {
    let message = error.message().trim();
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let Some((unknown, known)) = names.split_first().filter(|_| message.starts_with("unknown field")) {
        return Error::config(wrong_value(message)).fix(did_you_mean(unknown, known.iter().copied()));
    }
    let of_type = message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "));
    let Some((found, expected)) = of_type else { return Error::config(wrong_value(message)) };
    // The library gives the type, and for a single value the value.
    let found = match found.split_once(' ') {
        Some((_, value)) => value.trim_matches('`'),
        None if found == "map" => "a table",
        None => "a list",
    };
    Error::config(format!("{found} is not {}", expected_value(expected).0))
}

/// Collects each value that is not a table, and each empty table, with the keys that lead to it.
fn collect_leaves(table: &Table, above: &mut Vec<String>, into: &mut Vec<(Vec<String>, Value)>) {
    for (key, value) in table {
        above.push(key.clone());
        match value {
            Value::Table(table) if !table.is_empty() => collect_leaves(table, above, into),
            _ => into.push((above.clone(), value.clone())),
        }
        above.pop();
    }
}

fn set(table: &mut Table, path: &[String], value: &Value) {
    match path {
        [] => {}
        [key] => drop(table.insert(key.clone(), value.clone())),
        [key, rest @ ..] => {
            let below = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !below.is_table() {
                *below = Value::Table(Table::new());
            }
            if let Value::Table(below) = below {
                set(below, rest, value);
            }
        }
    }
}

/// Collects the position of each key below a table.
fn collect_starts(table: &DeTable<'_>, above: &mut Vec<String>, into: &mut BTreeMap<Vec<String>, usize>) {
    for (key, value) in table {
        above.push(key.get_ref().to_string());
        into.insert(above.clone(), key.span().start);
        if let DeValue::Table(below) = value.get_ref() {
            collect_starts(below, above, into);
        }
        above.pop();
    }
}

/// A role's own settings with their values.
pub(super) type Variables = BTreeMap<VariableName, Variable>;

/// The contents of a drop-in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DropInFile {
    /// Changed keys of the role's steps, by step id.
    #[serde(default)]
    change: Table,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
    /// The drop-in's own settings, or other defaults for the role's.
    #[serde(default)]
    vars: Variables,
}

/// Applies a drop-in: inserts its steps into those of a role, and changes existing steps. Earlier drop-ins already apply.
///
/// # Errors
/// Fails when the drop-in is wrong, or names a step that does not exist.
pub(super) fn apply(file: &str, text: &str, steps: &mut Vec<PlacedStep>, vars: &mut Variables) -> Result<()> {
    let DropInFile { change, step, vars: own } = read(file, text)?;
    vars.extend(own);
    let mut at = BTreeMap::new();
    if let Ok(table) = DeTable::parse(text) {
        collect_starts(table.get_ref(), &mut Vec::new(), &mut at);
    }
    for (id, values) in &change {
        let key = vec!["change".to_owned(), id.clone()];
        let place = SourceLine::new(file, text, at.get(&key).copied().unwrap_or_default());
        let Some(values) = values.as_table().filter(|values| !values.is_empty()) else {
            return Err(Error::config(format!("{place}: change.{id} is not a table"))
                .fix("name the step in [change.ID], and write the keys to change below it: unit.enabled = false"));
        };
        let known: Vec<String> = steps.iter().map(|step| step.raw.id.clone()).collect();
        let Some(step) = steps.iter_mut().find(|step| step.raw.id == *id) else {
            return Err(unknown_step(&place, id, &known));
        };
        let below = at.iter().filter_map(|(path, start)| Some((path.strip_prefix(&*key)?.to_vec(), *start)));
        step.change(values, file, text, &below.collect())?;
    }
    for mut added in place_steps(file, text, step)? {
        let place = added.place.clone();
        let at = match (&added.raw.before, &added.raw.after) {
            (Some(anchor), None) => position(steps, anchor, &place)?,
            (None, Some(anchor)) => group_end(steps, position(steps, anchor, &place)?),
            (Some(_), Some(_)) => {
                return Err(Error::config(format!("{place}: step {}: it has both before and after", added.raw.id))
                    .fix("keep one of them"));
            }
            (None, None) => {
                return Err(Error::config(format!("{place}: step {}: it does not say where it goes", added.raw.id))
                    .fix("add either before = \"ID\" or after = \"ID\", where ID is a step of the role"));
            }
        };
        added.is_added = true;
        steps.insert(at, added);
    }
    Ok(())
}

fn position(steps: &[PlacedStep], id: &str, place: &SourceLine) -> Result<usize> {
    let known = || steps.iter().map(|step| step.raw.id.clone()).collect::<Vec<_>>();
    steps.iter().position(|step| step.raw.id == id).ok_or_else(|| unknown_step(place, id, &known()))
}

/// The position after a step and after the steps that drop-ins have put after it, so that steps follow the order of files.
fn group_end(steps: &[PlacedStep], at: usize) -> usize {
    let mut ids: BTreeSet<&str> = steps.get(at).iter().map(|step| step.raw.id.as_str()).collect();
    let behind = steps.iter().skip(at + 1).take_while(|step| {
        let is_behind = step.raw.after.as_deref().is_some_and(|after| ids.contains(after));
        is_behind && ids.insert(&step.raw.id)
    });
    at + 1 + behind.count()
}

fn unknown_step(place: &SourceLine, id: &str, known: &[String]) -> Error {
    Error::config(format!("{place}: {id:?} is not a step of this role, nor of a drop-in before this one"))
        .fix(did_you_mean(id, known.iter().map(String::as_str)))
}
