//! Settings come in layers. Each layer is checked while an error can still point at its line; the merged layers keep the
//! source of every value and are checked as a whole.

mod check;
mod either;
pub mod forms;
mod misread;
pub mod name;
pub mod schema;
mod source;
pub mod tags;
pub mod template;
pub mod values;
mod words;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use toml::de::DeTable;
use toml::{Spanned, Table, Value};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::secrets::{hide, is_secret};
pub use check::FOLLOWS;
pub use schema::Settings;
pub use source::Source;
pub use tags::TAGS;
pub use words::wrong_type;

/// The operator's settings.
pub const FILE: &str = "/etc/titus-bootstrap/config.toml";
/// A directory of further settings, read in the order of their names.
pub const DIRECTORY: &str = "/etc/titus-bootstrap/config.d";
/// The file that `--save` writes.
pub const SAVED: &str = "/etc/titus-bootstrap/config.d/60-saved.toml";

/// Default client port of ZooKeeper.
pub const ZOOKEEPER_PORT: u16 = 2181;
/// Default port of the Mesos masters.
pub const MESOS_PORT: u16 = 5050;

/// The settings of the last run on this node, for commands that run later without its tags, user data and flags.
pub const OF_LAST_RUN: &str = "/var/lib/titus-bootstrap/settings.toml";

/// The maximum number of errors reported for one text.
const MANY: usize = 50;

/// The version of the settings' names and types, as the setting `schema` has it.
const SCHEMA: i64 = 1;

/// The one setting that is read before all others: only it says whether the rest can be understood.
#[derive(Deserialize)]
struct Version {
    schema: Option<Spanned<i64>>,
}

/// Settings from one source.
#[derive(Debug, Clone)]
pub struct Layer {
    source: Source,
    table: Table,
}

/// The merged layers, with the source of each value.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// The values.
    pub table: Table,
    /// The path of each value, e.g. `agent.log_bucket`, and its source.
    sources: BTreeMap<String, Source>,
}

impl Layer {
    /// Reads a layer from TOML.
    ///
    /// # Errors
    /// Fails when the text is not TOML, or when a key or value is wrong. The error gives line and column, and the name that a
    /// misspelt key resembles.
    pub fn parse(source: Source, text: &str) -> Result<Layer> {
        Layer::read(source, text).map_err(|misread| misread.error)
    }

    fn read(source: Source, text: &str) -> Result<Layer, Box<Misread>> {
        let shown = source.to_string();
        // What is good is read once.
        if let Ok(table) = read_toml(&shown, text, false) {
            // The program's own have none: see the test.
            let list = if source == Source::BuiltIn { None } else { find_list_for_table(text, &table) };
            if let Some(list) = list {
                return Err(Box::new(list.refuse(&shown, text, source.is_one_value())));
            }
            if is_good(&table) {
                return Ok(Layer { source, table });
            }
        }
        // Check the version first: a later version has keys that this program does not know.
        if let Ok(Version { schema: Some(schema) }) = read_toml(&shown, text, false)
            && *schema.get_ref() != SCHEMA
        {
            let line = text.get(..schema.span().start).unwrap_or_default().matches('\n').count() + 1;
            let what = format!("{shown}, line {line}: schema = {} is not known", schema.get_ref());
            let error = Error::config(what)
                .with_place(format!("{shown}, line {line}"))
                .cause(format!("titus-bootstrap {} knows schema = {SCHEMA}", env!("CARGO_PKG_VERSION")))
                .fix(format!(
                    "use a titus-bootstrap later than {}, or settings of schema {SCHEMA}",
                    env!("CARGO_PKG_VERSION")
                ));
            return Err(Box::new(Misread { error, at: None, unknown_key: None, is_wrong_form: false }));
        }
        let _: Settings = read_toml(&shown, text, source.is_one_value()).map_err(Misread::add_misplacement)?;
        Ok(Layer { source, table: read_toml(&shown, text, false)? })
    }

    /// Like [`Layer::parse`], but reports every error.
    ///
    /// # Errors
    /// Returns one error for each key or value for which [`Layer::parse`] fails.
    pub fn parse_all(source: &Source, text: &str) -> Result<Layer, Vec<Error>> {
        let (mut rest, mut wrong) = (text.to_owned(), Vec::new());
        loop {
            let misread = match Layer::read(source.clone(), &rest) {
                Ok(layer) if wrong.is_empty() => return Ok(layer),
                Ok(_) => return Err(wrong),
                Err(misread) => misread,
            };
            wrong.push(misread.error);
            // That part has been reported. The rest keeps its positions.
            let without = misread.at.and_then(|at| misread::blank_out(&rest, &at));
            match without.filter(|_| wrong.len() < MANY) {
                Some(without) => rest = without,
                None => return Err(wrong),
            }
        }
    }

    /// The defaults of the program.
    ///
    /// # Errors
    /// Fails when they are not valid; a test makes sure that they are.
    pub fn built_in() -> Result<&'static Layer> {
        static LAYER: LazyLock<Result<Layer>> =
            LazyLock::new(|| Layer::parse(Source::BuiltIn, include_str!("defaults.toml")));
        LAYER.as_ref().map_err(Clone::clone)
    }

    /// The defaults of a role.
    ///
    /// # Errors
    /// Fails when a key is unknown or a value has the wrong type.
    pub fn role_defaults(name: &str, defaults: &Table) -> Result<Layer> {
        let source = Source::Role(name.to_owned());
        if is_good(defaults) {
            return Ok(Layer { source, table: defaults.clone() });
        }
        // Through text, so that an error can be pointed at.
        Layer::parse(source, &defaults.to_string())
    }

    /// Reads the files in /etc/titus-bootstrap, in order. For a file that is unreadable or wrong, returns all of its errors.
    pub fn files(host: &Host) -> Vec<Result<Layer, Vec<Error>>> {
        let names = match host.list(DIRECTORY) {
            Ok(names) => names,
            Err(error) => return vec![Err(vec![error])],
        };
        let names = names.into_iter().filter(|name| is_drop_in(name));
        let paths = std::iter::once(FILE.to_owned()).chain(names.map(|name| format!("{DIRECTORY}/{name}")));
        let read = |path: &str| {
            host.refuse_untrusted(Path::new(path))?;
            host.read(path).map_err(Error::as_config)
        };
        let layer = |path: String| match read(&path) {
            Ok(bytes) => bytes.map(|bytes| Layer::parse_file_all(path, bytes)),
            Err(error) => Some(Err(vec![error])),
        };
        paths.filter_map(layer).collect()
    }

    /// Returns a notice for each file in /etc/titus-bootstrap that contains a secret and that every user can read.
    ///
    /// # Errors
    /// Fails when a file cannot be inspected.
    pub fn readable_secrets(host: &Host) -> Result<Vec<String>> {
        let mut notices = Vec::new();
        for Layer { source, table } in Layer::files(host).into_iter().flatten() {
            let (Source::File(path), values) = (source, json!(table)) else { continue };
            let is_open =
                host.entry(&path)?.is_some_and(|found| found.kind == EntryKind::File && found.mode & 0o004 != 0);
            if is_open && hide("", &values) != values {
                notices.push(format!("{path} has a secret, and every user may read it: chmod 0600 {path}"));
            }
        }
        Ok(notices)
    }

    /// Reads a file named on the command line. The path is relative to the caller's root, not to `--root`.
    ///
    /// # Errors
    /// Fails when the file cannot be read or its contents are wrong.
    pub fn file(path: &Path) -> Result<Layer> {
        let shown = path.display().to_string();
        Layer::parse_file(shown, crate::host::fs::read_named(path)?)
    }

    fn parse_file(path: String, bytes: Vec<u8>) -> Result<Layer> {
        let text = decode_utf8(&path, bytes)?;
        Layer::parse(Source::File(path), &text)
    }

    /// Parses the contents of a file.
    ///
    /// # Errors
    /// Returns every error: the contents are not UTF-8, or a key or value is wrong.
    pub fn parse_file_all(path: String, bytes: Vec<u8>) -> Result<Layer, Vec<Error>> {
        let text = decode_utf8(&path, bytes).map_err(|error| vec![error])?;
        Layer::parse_all(&Source::File(path), &text)
    }

    /// The settings of the last run, or `None` if there was no run.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn read_last_run(host: &Host) -> Result<Option<Layer>> {
        host.read(OF_LAST_RUN)
            .map_err(Error::as_config)?
            .map(|bytes| Layer::parse_file(OF_LAST_RUN.to_owned(), bytes))
            .transpose()
    }

    /// Parses one `--set key=value`. The value is TOML; a value that is not TOML, or whose type does not suit the setting, is
    /// taken as a string.
    ///
    /// # Errors
    /// Fails when there is no `=`, or when the key is unknown.
    pub fn assignment(argument: &str) -> Result<Layer> {
        Layer::parse_assignment(argument, |flag| flag)
    }

    /// Parses the flags on the first line of user data: `--role`, and each `--set`.
    ///
    /// # Errors
    /// Fails for the reasons of [`Layer::assignment`].
    pub fn first_line(role: Option<&str>, assignments: &[String]) -> Result<Vec<Layer>> {
        let place = |flag| Source::FirstLine(Box::new(flag));
        let role = role
            .map(|role| Layer::parse(place(Source::RoleFlag), &format!("role = {}", Value::String(role.to_owned()))));
        role.into_iter().chain(assignments.iter().map(|argument| Layer::parse_assignment(argument, place))).collect()
    }

    fn parse_assignment(argument: &str, place: impl Fn(Source) -> Source) -> Result<Layer> {
        let source = |key: &str| place(Source::Set(key.trim().to_owned()));
        let Some((key, value)) = argument.split_once('=') else {
            return Err(Error::config(format!("{}: expected key=value", source(argument)))
                .fix("for example --set agent.log_bucket=my-logs"));
        };
        let as_toml = Layer::read(source(key), &format!("{key} = {value}"));
        as_toml.or_else(|as_toml| {
            let text = format!("{key} = {}", Value::String(value.trim().to_owned()));
            Layer::read(source(key), &text).map_err(|as_text| {
                // Report an unknown key as such, and a wrong type by the reading that the operator evidently intended.
                if as_toml.is_wrong_form {
                    return as_toml.error;
                }
                let is_toml = toml::from_str::<Table>(&format!("{key} = {value}")).is_ok();
                let is_text = !is_toml && !value.trim_start().starts_with(['[', '{', '"']);
                if as_text.unknown_key.is_some() || is_text { as_text.error } else { as_toml.error }
            })
        })
    }

    /// Merges the values of these layers into [`SAVED`].
    ///
    /// # Errors
    /// Fails when the file cannot be read or written.
    pub fn save(host: &Host, layers: &[Layer]) -> Result<()> {
        let before = host.read(SAVED)?;
        let mut merged = Merged::default();
        if let Some(bytes) = before.clone() {
            merged.add(&Layer::parse_file(SAVED.to_owned(), bytes)?);
        }
        for layer in layers {
            merged.add(layer);
        }
        let text = format!("# Written by `titus-bootstrap apply --save`.\n{}", merged.table);
        if before.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        // Keep the file readable for all users where possible: `check` does not need root.
        let values = json!(merged.table);
        let mode = if hide("", &values) == values { 0o644 } else { 0o600 };
        host.write(SAVED, text.as_bytes(), mode, crate::host::fs::Owner::ROOT)
    }
}

impl Merged {
    /// Adds a layer on top.
    pub fn add(&mut self, layer: &Layer) {
        // `prereqs` is short for two settings; a later layer may override them, and an earlier one may have set them.
        if let Some(address) = layer.table.get("prereqs").and_then(Value::as_str) {
            let source = layer.source.prereqs_source();
            for (group, key, port) in [("zookeeper", "servers", ZOOKEEPER_PORT), ("mesos", "masters", MESOS_PORT)] {
                let list = Value::Array(vec![Value::String(format!("{address}:{port}"))]);
                let group_of_one = Value::Table(Table::from_iter([(key.to_owned(), list)]));
                let long = Table::from_iter([(group.to_owned(), group_of_one)]);
                merge(&mut self.table, &long, "", &source, &mut self.sources);
            }
        }
        // A deb is replaced as a whole: the path of one layer does not combine with the address of another.
        for (name, deb) in layer.table.get("debs").and_then(Value::as_table).into_iter().flatten() {
            if ["path", "url"].iter().any(|key| deb.get(key).is_some()) {
                let earlier = self.table.get_mut("debs").and_then(Value::as_table_mut);
                earlier.map(|debs| debs.remove(name));
                let part = format!("debs.{name}.");
                self.sources.retain(|known, _| !known.starts_with(&part));
            }
        }
        merge(&mut self.table, &layer.table, "", &layer.source, &mut self.sources);
    }

    /// Whether a layer sets this name, a setting or a table. A table that nobody set has no values, and exists all the same.
    pub fn has(&self, key: &str) -> bool {
        let mut parts = key.split('.');
        let first = parts.next().and_then(|part| self.table.get(part));
        parts.fold(first, |value, part| value?.get(part)).is_some()
    }

    /// Writes all values of this run except the defaults, whatever their source, for [`Layer::read_last_run`].
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn hand_down(&self, host: &Host, role: &str) -> Result<()> {
        let mut given = self.non_defaults(&self.table, "");
        given.insert("role".to_owned(), Value::String(role.to_owned()));
        let text = format!("# Written by titus-bootstrap at each run, for titus-bootstrap keep.\n{given}");
        if host.read(OF_LAST_RUN)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        host.write(OF_LAST_RUN, text.as_bytes(), 0o600, crate::host::fs::Owner::ROOT)
    }

    /// The values of a table that are not defaults.
    fn non_defaults(&self, table: &Table, at: &str) -> Table {
        let mut given = Table::new();
        for (key, value) in table {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            match value {
                Value::Table(below) => {
                    let below = self.non_defaults(below, &path);
                    if !below.is_empty() {
                        given.insert(key.clone(), Value::Table(below));
                    }
                }
                _ if matches!(self.sources.get(&path), Some(Source::BuiltIn | Source::Role(_))) => {}
                _ => drop(given.insert(key.clone(), value.clone())),
            }
        }
        given
    }

    /// Returns the merged settings, checked.
    ///
    /// # Errors
    /// Fails when a value is not allowed. The error names the value and its source.
    pub fn settings(&self) -> Result<Settings> {
        let mut settings: Settings =
            self.table.clone().try_into().map_err(|e| Error::config("the settings do not fit together").cause(e))?;
        check::check(&settings, self)?;
        check::derive(&mut settings)?;
        Ok(settings)
    }

    /// The source of a value, or the source of a part of it.
    pub fn source(&self, key: &str) -> Option<&Source> {
        let (key, part) = (name::plain(key), format!("{}.", name::plain(key)));
        let of_part = || self.sources.iter().find(|(path, _)| path.starts_with(&part)).map(|(_, source)| source);
        self.sources.get(&key).or_else(of_part)
    }
}

impl Settings {
    /// The built-in settings, without the role's own defaults.
    ///
    /// # Errors
    /// Fails when they are not valid; a test makes sure that they are.
    pub fn built_in() -> Result<Settings> {
        let mut merged = Merged::default();
        merged.add(Layer::built_in()?);
        merged.settings()
    }
}

/// Whether these are settings of this version.
fn is_good(table: &Table) -> bool {
    let is_known = table.get("schema").is_none_or(|schema| schema.as_integer() == Some(SCHEMA));
    is_known && !table.values().any(has_date) && table.clone().try_into::<Settings>().is_ok()
}

/// A list in the place of a table.
struct ListForTable {
    /// The table, e.g. `agent.reserve`.
    table: String,
    /// The bytes of the list.
    span: Range<usize>,
}

impl ListForTable {
    fn refuse(&self, source: &str, text: &str, is_one_value: bool) -> Misread {
        let place = if is_one_value { String::new() } else { place(text.get(..self.span.start).unwrap_or_default()) };
        let table = &self.table;
        let error = Error::config(format!("{source}{place}: {table} is a list"))
            .cause("it must be a table: each value needs the name of its setting")
            .fix(format!("write [{table}], and below it a line `name = value` for each value"))
            .with_place(format!("{source}{place}"));
        Misread { error, at: Some(self.span.clone()), unknown_key: None, is_wrong_form: true }
    }
}

/// Finds a list in the place of a table: from one, the library fills the table's settings by their order.
fn find_list_for_table(text: &str, table: &Table) -> Option<ListForTable> {
    /// The keys of the lists that an empty table could replace.
    fn search(table: &Table, keys: &mut Vec<String>) -> bool {
        table.iter().any(|(key, value)| {
            keys.push(key.clone());
            let found = match value {
                Value::Table(table) => search(table, keys),
                Value::Array(_) => {
                    let nested = |value: Value, key: &String| Value::Table(Table::from_iter([(key.clone(), value)]));
                    let empty = keys.iter().rev().fold(Value::Table(Table::new()), nested);
                    empty.try_into::<Settings>().is_ok()
                }
                _ => false,
            };
            if !found {
                keys.pop();
            }
            found
        })
    }
    let mut keys = Vec::new();
    if !search(table, &mut keys) {
        return None;
    }
    let document = DeTable::parse(text).ok()?;
    let (last, tables) = keys.split_last()?;
    let at = tables.iter().try_fold(document.get_ref(), |table, key| table.get(key.as_str())?.get_ref().as_table())?;
    let span = at.get(last.as_str())?.span();
    Some(ListForTable { table: keys.join("."), span })
}

/// Whether a value has a date in it. No setting is one, and from a table, unlike from a text, the library takes it for text.
pub(crate) fn has_date(value: &Value) -> bool {
    match value {
        Value::Datetime(_) => true,
        Value::Array(list) => list.iter().any(has_date),
        Value::Table(table) => table.values().any(has_date),
        _ => false,
    }
}

/// The line and column at the end of this text, for a message.
fn place(before: &str) -> String {
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {}, column {column}", before.matches('\n').count() + 1)
}

/// The text of a file.
///
/// # Errors
/// Fails when it is not UTF-8.
pub(crate) fn decode_utf8(path: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let good = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::config(format!("{path}, line {line}: is not UTF-8")).fix("save the file as UTF-8")
    })
}

fn merge(into: &mut Table, from: &Table, at: &str, source: &Source, sources: &mut BTreeMap<String, Source>) {
    for (key, value) in from {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        if let Value::Table(table) = value {
            let below = into.entry(key).or_insert_with(|| Value::Table(Table::new()));
            if !below.is_table() {
                *below = Value::Table(Table::new());
                sources.remove(&path);
            }
            if let Value::Table(below) = below {
                merge(below, table, &path, source, sources);
            }
            continue;
        }
        let part = format!("{path}.");
        sources.retain(|known, _| !known.starts_with(&part));
        sources.insert(path, source.clone());
        into.insert(key.clone(), value.clone());
    }
}

/// The reason why a text cannot be read as TOML of its type.
struct Misread {
    error: Error,
    /// Line and column, if known.
    at: Option<Range<usize>>,
    /// A key that the type does not have, with the keys that lead to it.
    unknown_key: Option<String>,
    /// Whether a value has the right type but not the form of its setting.
    is_wrong_form: bool,
}

impl Misread {
    /// Suggests the table of an unknown key that exists in another table.
    fn add_misplacement(mut self: Box<Self>) -> Box<Misread> {
        let place = self.unknown_key.as_deref().and_then(|path| words::misplacement(path, &json!(Settings::default())));
        if let Some(fix) = place {
            self.error.fix = Some(fix);
        }
        self
    }
}

/// Parses TOML.
///
/// # Errors
/// Fails when the text is not TOML, or when a key or value is wrong. The error gives line and column, and suggests a
/// known key.
pub fn parse_toml<T: DeserializeOwned>(source: &str, text: &str) -> Result<T> {
    read_toml(source, text, false).map_err(|misread| misread.error)
}

/// The maximum nesting of lists and inline tables.
const DEPTH: usize = 64;

/// The position at which a text opens more lists and inline tables than allowed. The library has its own limit, but it loses count
/// in a text with errors (`{ {}{}{} …`), and the process then aborts because its stack overflows.
fn find_excess_depth(text: &str) -> Option<usize> {
    use toml_parser::lexer::TokenKind::{LeftCurlyBracket, LeftSquareBracket, RightCurlyBracket, RightSquareBracket};
    let mut open = Vec::new();
    for token in toml_parser::Source::new(text).lex() {
        match token.kind() {
            LeftCurlyBracket | LeftSquareBracket if open.len() == DEPTH => return Some(token.span().start()),
            LeftCurlyBracket => open.push(RightCurlyBracket),
            LeftSquareBracket => open.push(RightSquareBracket),
            other => drop(open.pop_if(|closing| *closing == other)),
        }
    }
    None
}

/// `is_one_value`: the text comes from a tag or a flag, so it has no lines to point at.
fn read_toml<T: DeserializeOwned>(source: &str, text: &str, is_one_value: bool) -> Result<T, Box<Misread>> {
    if let Some(start) = find_excess_depth(text) {
        let place = place(text.get(..start).unwrap_or_default());
        let place = format!("{source}{place}");
        let error = Error::config(format!("{place}: lists or tables are nested more than {DEPTH} deep"))
            .fix("look for a bracket before it that is not closed")
            .with_place(place);
        return Err(Box::new(Misread { error, at: None, unknown_key: None, is_wrong_form: false }));
    }
    toml::from_str(text).map_err(|mut error| {
        let at = error.span();
        let span = at.clone().unwrap_or_default();
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
        let place = before.map_or_else(String::new, place);
        let here = error.span().and_then(|span| misread::SettingRef::find(text, &span));
        let written = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let is_hidden = is_secret(line) || here.as_ref().is_some_and(|here| here.is_hidden(written));
        let pointed = |error: Error| {
            let pointer = at.as_ref().filter(|_| !is_one_value && !is_hidden).and_then(|at| misread::pointer(text, at));
            pointer.map_or(error.clone(), |pointer| {
                let cause = error.cause.clone().map_or_else(String::new, |cause| format!("{cause}\n"));
                error.cause(format!("{cause}{pointer}"))
            })
        };
        let of_form = here.as_ref().and_then(|here| {
            let place = if is_one_value { "" } else { place.as_str() };
            misread::wrong_form(&format!("{source}{place}"), here, written, error.message())
        });
        if let Some(error) = of_form {
            let error = pointed(error).with_place(format!("{source}{place}"));
            return Box::new(Misread { error, at: Some(span), unknown_key: None, is_wrong_form: true });
        }
        // Without the text, the library names the keys that lead to the error.
        error.set_input(None);
        let whole = error.to_string();
        let keys = whole.trim_end().rsplit_once("\nin `").map_or("", |(_, keys)| keys.trim_end_matches('`'));
        // A name or value can be as long as the file.
        let message = error.message().trim().split('`').map(shorten).collect::<Vec<_>>().join("`");
        let problem = message.split(", expected").next().unwrap_or_default();
        let shown = format!("{source}{place}");
        // Only the words of serde's message identify an unknown key, and only they list the known ones.
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        if let Some((unknown, known)) = names.split_first().filter(|_| problem.starts_with("unknown field")) {
            let error = Error::config(format!("unknown key `{unknown}`")).at(&shown);
            let path = if keys.is_empty() { (*unknown).to_owned() } else { format!("{keys}.{unknown}") };
            return Box::new(Misread {
                error: pointed(error.fix(did_you_mean(unknown, known.iter().copied()))),
                at: Some(span),
                unknown_key: Some(path),
                is_wrong_form: false,
            });
        }
        let place = words::Excerpt { text, span: span.clone(), keys: shorten(keys), shown: shown.clone(), is_hidden };
        let error = words::value_error(&place, &message).unwrap_or_else(|| {
            // The library's message quotes the value.
            let words = if is_hidden { "this value cannot be used" } else { words::syntax(&message) };
            let error = Error::config(format!("{}: {words}", place.shown));
            match words::syntax_advice(text, &span, &message) {
                Some(advice) => error.fix(advice),
                None => error,
            }
        });
        let error = pointed(error).with_place(&shown);
        Box::new(Misread { error, at, unknown_key: None, is_wrong_form: false })
    })
}

/// More known names than this are not read in an error.
const MOST_NAMES: usize = 20;

/// Whether a file in a directory of drop-ins is read. An editor's own files begin with a dot.
pub fn is_drop_in(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.')
}

/// Returns a notice for each file in a directory of drop-ins that may be meant as one but is not read.
///
/// # Errors
/// Fails when the directory cannot be listed.
pub fn unread_files(host: &Host, directory: &str) -> Result<Vec<String>> {
    let names = host.list(directory)?.into_iter().filter(|name| is_nearly_drop_in(name));
    Ok(names.map(|name| format!("{directory}/{name} is not read, because its name does not end in .toml")).collect())
}

/// Whether a file in a directory of drop-ins may be meant as one, but has another name: not a copy that an editor or a
/// package manager made.
fn is_nearly_drop_in(name: &str) -> bool {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    let is_copy = ["bak", "orig", "old", "swp", "tmp", "disabled", "off", "md", "txt"].contains(&ending.as_str())
        || ["dpkg-", "rpm", "ucf-"].iter().any(|start| ending.starts_with(start));
    !is_drop_in(name) && !is_copy && !name.starts_with('.') && !name.ends_with('~') && !name.starts_with("README")
}

/// Returns "did you mean …?", or the list of known names.
pub fn did_you_mean<'a>(unknown: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(unknown, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            let shown = known.clone().take(MOST_NAMES).collect::<Vec<_>>().join(", ");
            let more = known.count().saturating_sub(MOST_NAMES);
            let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("known are: {shown}{rest}")
        }
    }
}

/// A text, cut to the length that a message can show.
pub(crate) fn shorten(text: &str) -> String {
    if text.len() <= 2000 { text.to_owned() } else { text.chars().take(60).chain(['…']).collect() }
}

/// The known name that resembles this one most, if any does. Names that differ only in case, `-`, `_` and blanks always do.
/// Long names are skipped: nobody types them, and the comparison is slow.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if unknown.is_empty() || unknown.len() > 100 {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let unknown = plain(unknown);
    let names: Vec<(String, &str)> = known.map(|name| (plain(name), name)).collect();
    let distances = names.iter().map(|(plain, name)| (strsim::damerau_levenshtein(&unknown, plain), *name));
    let like = distances.min().filter(|(distance, name)| *distance <= 1 + name.len() / 4).map(|(_, name)| name);
    // One name begins with the other, e.g. `warning` and `warn`.
    let is_begun =
        |name: &str| name.len().min(unknown.len()) >= 4 && (unknown.starts_with(name) || name.starts_with(&unknown));
    like.or_else(|| names.iter().find(|(plain, _)| is_begun(plain)).map(|(_, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Source {
        Source::File(path.into())
    }

    fn merged(layers: &[Layer]) -> Merged {
        let mut merged = Merged::default();
        merged.add(Layer::built_in().unwrap());
        layers.iter().for_each(|layer| merged.add(layer));
        merged
    }

    #[test]
    fn the_defaults_have_no_list_for_a_table() {
        let text = include_str!("defaults.toml");
        assert!(find_list_for_table(text, &text.parse().unwrap()).is_none());
    }

    #[test]
    fn a_later_schema_is_refused_before_its_keys_are() {
        for text in ["stack = 'x'\nnew_key = 1\nschema = 2\n", "schema = 0", "schema = -1"] {
            let error = Layer::parse(file("a.toml"), text).unwrap_err().to_string();
            assert!(error.contains("a.toml, line") && error.contains("knows schema = 1"), "{error}");
            assert!(error.contains("later than"), "{error}");
        }
        assert!(
            Layer::parse(file("a.toml"), "stack = 'x'\n\nschema = 2").unwrap_err().what.contains("line 3: schema = 2")
        );
        Layer::parse(file("a.toml"), "schema = 1\nstack = 'x'").unwrap();
        Layer::assignment("schema=1").unwrap();
        Layer::assignment("schema=2").unwrap_err();
        assert!(Layer::parse(file("a.toml"), "schema = 'x'").is_err());
    }

    #[test]
    fn a_text_that_nests_without_end_is_refused_where_it_does() {
        let parse = |text: &str| Layer::parse(Source::UserData, text);
        let refused = |text: &str| parse(text).unwrap_err().what;
        let expected = "user data, line 2, column 65: lists or tables are nested more than 64 deep";
        assert_eq!(refused(&format!("\n{}", "[".repeat(60_000))), expected);
        // Each `{}` below its limit makes the library forget one that is open.
        let forgetful = format!("x = {}{}", "{a=".repeat(80), "{} {a ".repeat(60_000));
        assert!(refused(&forgetful).contains("more than 64"));
        assert!(refused(&"[x\n".repeat(1000)).contains("line 65"));
        // Brackets in strings and comments do not count, nor do closed ones.
        let text = format!("[agent.labels]\nA = \"{0}\" # {0}\n{1}", "{".repeat(100), "# [\n".repeat(100));
        parse(&text).unwrap();
        let many = format!("tags.role = [{}]", "\"a\", ".repeat(1000));
        parse(&many).unwrap();
    }

    #[test]
    fn an_error_is_short_however_long_the_key_is() {
        let error = Layer::parse(Source::UserData, &format!("{} = 1", "9".repeat(60_000))).unwrap_err();
        assert!(error.to_string().len() < 1000 && error.what.contains("unknown key `999"), "{error}");
        assert!(error.fix.unwrap().contains("agent"));
    }

    #[test]
    fn a_later_layer_wins_and_each_value_keeps_its_source() {
        let merged = merged(&[
            Layer::parse(file("a"), "stack = 'one'\nagent.resources = { mem = 1, disk = 2 }").unwrap(),
            Layer::parse(file("b"), "agent.resources.mem = 3").unwrap(),
        ]);
        assert_eq!(merged.source("stack"), Some(&file("a")));
        assert_eq!(merged.source("agent.resources.mem"), Some(&file("b")));
        assert_eq!(merged.source("agent.resources.disk"), Some(&file("a")));
        assert_eq!(merged.source("systemd.unit_dir"), Some(&Source::BuiltIn));
        assert_eq!(merged.settings().unwrap().agent.resources["mem"], 3);
    }

    #[test]
    fn where_a_deb_is_replaces_all_that_an_earlier_layer_said_of_it() {
        let sum = "ab".repeat(32);
        let merged = merged(&[
            Layer::parse(file("a"), &format!("debs.master = {{ path = '/x.deb', sha256 = '{sum}' }}")).unwrap(),
            Layer::parse(file("b"), "debs.master.url = 'https://h/x.deb'\ndebs.gateway.path = '/y.deb'").unwrap(),
            Layer::parse(file("c"), &format!("debs.gateway.sha256 = '{sum}'")).unwrap(),
        ]);
        let debs = merged.settings().unwrap().debs;
        let (master, gateway) = (debs.master.unwrap(), debs.gateway.unwrap());
        assert_eq!((master.path, master.url.as_deref(), master.sha256), (None, Some("https://h/x.deb"), None));
        assert_eq!((gateway.path.as_deref(), gateway.sha256), (Some("/y.deb"), Some(sum.parse().unwrap())));
        assert_eq!((merged.source("debs.master"), merged.source("debs.master.path")), (Some(&file("b")), None));
    }

    #[test]
    fn a_misspelt_key_is_pointed_at() {
        let message = Layer::parse(file("file"), "stack = 'x'\n[agent]\n  log_buckett = 'y'\n").unwrap_err();
        assert_eq!(message.what, "file, line 3, column 3: unknown key `log_buckett`");
        assert_eq!(message.fix.unwrap(), "did you mean `log_bucket`?");
        let message = Layer::parse(file("file"), "zzzzzzzz = 1").unwrap_err();
        assert!(message.fix.unwrap().starts_with("known are: schema, role,"));
    }

    #[test]
    fn the_name_of_a_label_is_pointed_at_if_bash_would_not_take_it() {
        for (text, words) in [
            ("agent.labels = { TEAM = 'a' }\n[agent.labels]\n", "duplicate key"),
            ("[agent.labels]\nTEAM = 'a'\n\"A B\" = 'b'\n", "file, line 3, column 1: \"A B\" cannot be the name"),
            ("agent.labels = { 1A = 'a' }", "file, line 1, column 18: \"1A\" cannot be the name"),
            ("agent.labels.\"\" = 'a'", "file, line 1, column 14: \"\" cannot be the name"),
            ("agent.labels.A-B = 'a'", "\"A-B\" cannot be the name"),
            ("agent.labels.LD_PRELOAD = 'a'", "LD_PRELOAD must not be set"),
            ("agent.labels.EC2_INSTANCE_ID = 'a'", "EC2_INSTANCE_ID must not be set"),
            ("agent.labels.TEAM = \"a\\nb\"", "file, line 1, column 21: a value has a line end"),
            ("agent.labels.TEAM = 1", "agent.labels.TEAM = 1 cannot be used\n  cause: it must be text in quotes"),
        ] {
            let refused = Layer::parse(file("file"), text).unwrap_err();
            assert!(refused.to_string().contains(words), "{refused}");
            assert_eq!(refused.kind.exit_code(), 78);
        }
        let refused = Layer::assignment("agent.labels.\"A B\"=x").unwrap_err();
        assert!(refused.what.starts_with("--set agent.labels.\"A B\", line 1, column 14"), "{refused}");
    }

    #[test]
    fn assignments_are_toml_or_text() {
        let settings = merged(&[
            Layer::assignment("agent.log_bucket=my-bucket").unwrap(),
            Layer::assignment("stack=2018").unwrap(),
            Layer::assignment("agent.port=7101").unwrap(),
            Layer::assignment("agent.resources={ mem = 8000 }").unwrap(),
            Layer::assignment("zookeeper.servers=[\"10.0.0.1:2181\"]").unwrap(),
        ])
        .settings()
        .unwrap();
        assert_eq!(settings.agent.log_bucket.as_deref(), Some("my-bucket"));
        assert_eq!(
            (settings.stack.as_str(), settings.agent.port.map(|port| port.to_string())),
            ("2018", Some("7101".into()))
        );
        assert_eq!(settings.mesos.masters, ["10.0.0.1:5050"]);
        for wrong in ["stack", "stakc=x", "agent.port=high", "zookeeper.servers=[1", "=x"] {
            Layer::assignment(wrong).unwrap_err();
        }
        let message = Layer::assignment("stakc=x").unwrap_err();
        assert_eq!(message.fix.unwrap(), "did you mean `stack`?");
        // An error is about the value as it was meant.
        for (argument, words) in [
            ("agent.port=1.5", "agent.port = 1.5 cannot be used"),
            ("apt.take_over=5", "apt.take_over = 5 cannot be used"),
            ("apt.take_over=maybe", "apt.take_over = \"maybe\" cannot be used"),
            ("zookeeper.servers=[1", "unclosed array"),
        ] {
            let message = Layer::assignment(argument).unwrap_err();
            assert!(message.what.ends_with(&format!(": {words}")), "{message}");
        }
    }

    #[test]
    fn a_value_that_must_not_be_written_is_named_with_its_source() {
        for (line, key) in [
            ("stack = \"a\\nb\"", "stack"),
            ("agent.log_bucket = \"it's\"", "agent.log_bucket"),
            ("agent.asg = \"a;b:c\"", "agent.asg"),
            ("zookeeper.servers = ['10.0.0.1']", "zookeeper.servers"),
            ("packages.mesos = ['-o', 'x']", "packages.mesos"),
            ("agent.attributes = { cluster = \"a;b\" }", "agent.attributes.cluster"),
            ("agent.kernel_arguments = ['a b']", "agent.kernel_arguments"),
            ("systemd.unit_dir = '../x'", "systemd.unit_dir"),
            ("docker.user = '-a'", "docker.user"),
        ] {
            let message = Layer::parse(Source::Tag("titus:x".into()), line).unwrap_err();
            assert!(
                message.what.contains(&format!(": {key}")) && message.what.starts_with("tag titus:x"),
                "{line}: {message}"
            );
            assert!(message.what.ends_with("cannot be used") && message.cause.unwrap().contains(", e.g. `"), "{line}");
            assert_eq!(message.kind.exit_code(), 78);
        }
    }

    #[test]
    fn a_value_of_the_wrong_form_says_where_it_stands_and_what_to_write() {
        const VALUE: &str = "prereqs = \"30.0.100.194:2181\" cannot be used";
        const FIX: &str = "write `30.0.100.194`; the port is always 2181; to use another port, set zookeeper.servers";
        let text = "prereqs = '30.0.100.194:2181'";
        let first_line = |flag: &str| Layer::first_line(None, &[flag.to_owned()]).map(drop);
        for (read, place) in [
            (Layer::parse(file("x.toml"), text).map(drop), "x.toml, line 1, column 11"),
            (Layer::parse(file("x.toml"), &format!("\n# x\n  {text}")).map(drop), "x.toml, line 3, column 13"),
            (Layer::parse(Source::UserData, &format!("#!\n{text}\n")).map(drop), "user data, line 2, column 11"),
            (Layer::parse(Source::Tag("titus:prereqs".into()), text).map(drop), "tag titus:prereqs"),
            (Layer::assignment("prereqs=30.0.100.194:2181").map(drop), "--set prereqs"),
            (Layer::assignment("prereqs=\"30.0.100.194:2181\"").map(drop), "--set prereqs"),
            (first_line("prereqs=30.0.100.194:2181"), "first line of user data: --set prereqs"),
        ] {
            let error = read.unwrap_err();
            assert_eq!((error.what, error.fix.as_deref()), (format!("{place}: {VALUE}"), Some(FIX)));
            let cause = error.cause.unwrap();
            assert!(
                cause.starts_with("it must be a host name or an address, without a port, e.g. `10.0.0.1`"),
                "{cause}"
            );
        }
        let error = Layer::assignment("agent.attributes={ cluster = \"a;b\" }").unwrap_err();
        assert!(error.what.starts_with("--set agent.attributes: agent.attributes.cluster = \"a;b\""), "{error}");
        let error = Layer::assignment("agent.port=0").unwrap_err();
        assert_eq!(error.what, "--set agent.port: agent.port = 0 cannot be used");
    }

    #[test]
    fn a_value_of_the_wrong_form_that_may_be_a_secret_is_not_shown() {
        for text in [
            "proxy.http = 'http://u:hunter2@h'",
            "proxy.https = 'hunter2'",
            "proxy.http = 'http://u:hun@ter2hunter2@h:1'",
            "proxy.no_proxy = 'http://u:hunter2 @h'",
            "docker.auth = '{\"auths\":\"hunter2\"}'",
            "agent.attributes = { api_token = 'hunter2;' }",
            "agent.attributes = { 'x;y' = 'hunter2', password = 'hunter2' }",
            "debs.master.url = 'https://u:hunter2@h/a b'",
            "zookeeper.servers = ['u:hunter2@h:1']",
            "images.zookeeper = 'https://u:hunter2@h/x:1'",
            "docker.host = 'http://u:hunter2@h:1'",
            "agent.registry = 'u:hunter2@registry'",
            "[[apt.sources]]\nname = 'x'\nuris = ['https://u:hunter2@h/a b']\nsuites = ['x']\nkey = '/x'",
            "[[apt.sources]]\nname = 'x'\nuris = []\nsuites = []\nkey = { url = 'https://u:hunter2@h/a b', sha256 = 'x' }",
            "[agent]\nattributes = { token = \"\"\"hunter2;\n\"\"\" }",
        ] {
            for source in [file("x"), Source::UserData, Source::Tag("titus:x".into()), Source::Set("x".into())] {
                let error = Layer::parse(source, text).unwrap_err().to_string();
                assert!(!error.contains("hunter2") && error.contains("cannot be used"), "{text}: {error}");
            }
        }
    }

    #[test]
    fn what_is_at_the_edge_of_its_range_is_taken_and_what_is_beyond_is_refused() {
        let discover = |group: &str, expected: u32| {
            format!("{group}.discover = {{ tag = 'a', value = 'b', expected = {expected} }}")
        };
        for (line, words) in [
            ("timeouts.wait = '7d'".to_owned(), None),
            ("timeouts.wait = '167h 59m 59s'".into(), None),
            ("timeouts.wait = '7d 1s'".into(), Some("\"7d 1s\" is longer than a week")),
            ("timeouts.wait = '8d'".into(), Some("longer than a week")),
            ("timeouts.wait = '0s'".into(), None),
            ("timeouts.wait = '-1s'".into(), Some("is not a length of time")),
            ("timeouts.wait = '90'".into(), Some("is not a length of time")),
            (discover("zookeeper", 1), None),
            (discover("zookeeper", 255), None),
            (discover("zookeeper", 256), Some("a number from 1 to 255")),
            (discover("zookeeper", 0), Some("a number from 1 to 255")),
            (discover("mesos", 3), None),
            (discover("mesos", 256), Some("a number from 1 to 255")),
            (discover("master", 1), None),
            (discover("master", 3), Some("there is one address")),
        ] {
            let read = Layer::parse(file("x"), &line).and_then(|layer| merged(&[layer]).settings());
            let refused = read.err().map(|error| error.to_string());
            let as_expected = match (&refused, words) {
                (None, None) => true,
                (Some(error), Some(words)) => error.contains(words),
                _ => false,
            };
            assert!(as_expected, "{line}: {refused:?}");
        }
    }

    #[test]
    fn a_length_of_time_without_a_unit_is_proposed_in_seconds() {
        let fix = |value: &str| {
            Layer::parse(file("x"), &format!("timeouts.wait = '{value}'")).unwrap_err().fix.unwrap_or_default()
        };
        assert_eq!(fix("90"), "write `90s`");
        for other in ["", "soon", "9 0", "90 x"] {
            assert_eq!(fix(other), "set timeouts.wait to such a value there, for example `90s`");
        }
    }

    #[test]
    fn at_most_fifty_errors_of_a_text_are_reported() {
        let errors = |count: usize| {
            let text: String = (0..count).map(|n| format!("key{n} = 1\n")).collect();
            Layer::parse_all(&file("x"), &text).unwrap_err().len()
        };
        assert_eq!((errors(49), errors(50), errors(51), errors(60)), (49, 50, 50, 50));
    }

    #[test]
    fn each_error_is_reported_with_its_place_and_nothing_else_is() {
        for (text, wrong) in [
            (
                "agent = { asg = 'a;', port = 'high' }\nstakc = 1",
                &["agent.asg", "agent.port", "line 2, column 1: unknown key `stakc`"][..],
            ),
            ("agnet.x = 1\nstakc = 1", &["`agnet`", "line 2, column 1: unknown key `stakc`"]),
            ("agent = { port = 7101, asg = 'a;' }\nstakc = 1", &["agent.asg", "`stakc`"]),
            ("agent = { asg = 'a;' , port = 7101 }\nstakc = 1", &["agent.asg", "`stakc`"]),
            ("agent = { attributes.zone = 'a;' }\nstakc = 1", &["agent.attributes.zone", "`stakc`"]),
            ("agent = { asg = 'a', attributes.zone = 'a;', port = 0 }", &["agent.attributes.zone", "agent.port"]),
        ] {
            let errors = Layer::parse_all(&file("x"), text).unwrap_err();
            let what: Vec<&str> = errors.iter().map(|error| error.what.as_str()).collect();
            assert_eq!(what.len(), wrong.len(), "{text}: {what:?}");
            assert!(what.iter().zip(wrong).all(|(what, wrong)| what.contains(wrong)), "{text}: {what:?}");
        }
    }

    #[test]
    fn a_name_that_resembles_a_known_one_is_proposed() {
        let known = ["asg", "agent", "warn", "prerequisites"];
        for (unknown, like) in [
            ("", None),
            ("asgg", Some("asg")),
            ("asgxx", None),
            ("A-G_E N-T", Some("agent")),
            ("ajemt", Some("agent")),
            ("ajemd", None),
            ("warning", Some("warn")),
            ("prer", Some("prerequisites")),
            ("pre", None),
            ("asgard", None),
            (&format!("warn{}", "x".repeat(96)), Some("warn")),
            (&format!("warn{}", "x".repeat(97)), None),
        ] {
            assert_eq!(nearest(unknown, known.into_iter()), like, "{unknown}");
        }
        assert_eq!(nearest("", ["a"].into_iter()), None);
        let names: Vec<String> = (10..32).map(|n| format!("name{n}")).collect();
        let message = |count: usize| did_you_mean("zzz", names.iter().take(count).map(String::as_str));
        assert_eq!(message(2), "known are: name10, name11");
        assert!(message(20).ends_with(", name29") && message(22).ends_with(", name29 and 2 more"));
    }

    #[test]
    fn what_prereqs_is_short_for_comes_from_where_that_stands() {
        let one = "prereqs = '10.0.0.1'";
        let first_line = |flag: &str| Layer::first_line(None, &[flag.to_owned()]).unwrap().remove(0);
        for (layer, source) in [
            (Layer::parse(file("x"), one).unwrap(), "prereqs in x"),
            (Layer::parse(Source::UserData, one).unwrap(), "prereqs in user data"),
            (Layer::parse(Source::Tag("titus:other".into()), one).unwrap(), "prereqs in tag titus:other"),
            (Layer::parse(Source::Set("other".into()), one).unwrap(), "prereqs in --set other"),
            // If the name alone implies it, the source is not repeated.
            (Layer::parse(Source::Tag("titus:prereqs".into()), one).unwrap(), "tag titus:prereqs"),
            (Layer::assignment("prereqs=10.0.0.1").unwrap(), "--set prereqs"),
            (first_line("prereqs=10.0.0.1"), "first line of user data: --set prereqs"),
            (first_line("'prereqs'=10.0.0.1"), "prereqs in first line of user data: --set 'prereqs'"),
        ] {
            let merged = merged(&[layer]);
            for key in ["zookeeper.servers", "mesos.masters"] {
                assert_eq!(merged.source(key).unwrap().to_string(), source, "{key}");
            }
        }
    }

    #[test]
    fn what_a_run_was_given_is_handed_down_without_the_defaults() {
        use std::os::unix::fs::MetadataExt;
        let (directory, host) = Host::temporary();
        let mut given = Merged::default();
        for layer in [
            Layer::built_in().unwrap().clone(),
            Layer::parse(Source::Role("agent".into()), "agent.port = 7101\nagent.asg = 'of-role'").unwrap(),
            Layer::parse(file("x"), "stack = 'one'\nagent.asg = 'a'").unwrap(),
            Layer::parse(Source::Tag("titus:prereqs".into()), "prereqs = '10.0.0.1'").unwrap(),
        ] {
            given.add(&layer);
        }
        given.hand_down(&host, "agent").unwrap();
        let last = Layer::read_last_run(&host).unwrap().unwrap();
        let expected: Table = toml::from_str(
            "role = 'agent'\nstack = 'one'\nprereqs = '10.0.0.1'\nagent.asg = 'a'\n\
             zookeeper.servers = ['10.0.0.1:2181']\nmesos.masters = ['10.0.0.1:5050']",
        )
        .unwrap();
        assert_eq!(last.table, expected);
        let path = directory.path().join(OF_LAST_RUN.trim_start_matches('/'));
        let look = || {
            let data = std::fs::metadata(&path).unwrap();
            (data.ino(), data.mode() & 0o777)
        };
        let before = look();
        assert_eq!(before.1, 0o600);
        // Identical contents are not written again; those of another role are.
        given.hand_down(&host, "agent").unwrap();
        assert_eq!(look(), before);
        given.hand_down(&host, "master").unwrap();
        let role = Layer::read_last_run(&host).unwrap().unwrap().table["role"].clone();
        assert_eq!(role.as_str(), Some("master"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Layer::parse(Source::UserData, &text);
            let _ = Layer::assignment(&text);
        }
    }
}
