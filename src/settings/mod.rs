//! Settings: layers, each checked where it can still be pointed at, merged with the
//! source of every value kept, then checked as a whole.

mod check;
pub mod name;
pub mod schema;
mod source;
pub mod tags;
pub mod template;
pub mod values;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use toml::{Spanned, Table, Value};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::secrets::{hide, is_secret};
pub use check::FOLLOWS;
pub use schema::Settings;
pub use source::Source;
pub use tags::TAGS;

/// Where the operator's own settings lie.
pub const FILE: &str = "/etc/titus-bootstrap/config.toml";
/// More of them, read in the order of their names.
pub const DIRECTORY: &str = "/etc/titus-bootstrap/config.d";
/// What `--save` writes.
pub const SAVED: &str = "/etc/titus-bootstrap/config.d/60-saved.toml";

/// Where ZooKeeper and the Mesos masters listen, if nothing else is said.
pub const ZOOKEEPER_PORT: u16 = 2181;
/// Likewise.
pub const MESOS_PORT: u16 = 5050;

/// The settings of the last run on this node, for what runs later without its tags, user data and flags.
pub const OF_LAST_RUN: &str = "/var/lib/titus-bootstrap/settings.toml";

/// The version of the settings' names and types, as the setting `schema` has it.
const SCHEMA: i64 = 1;

/// The one setting that is read before all others.
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

/// All layers as one, and where each value came from.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// The values.
    pub table: Table,
    /// Path of a value, `agent.log_bucket`, to its source.
    sources: BTreeMap<String, Source>,
}

impl Layer {
    /// Reads a layer from TOML.
    ///
    /// # Errors
    /// What is wrong, with line and column; a misspelt key with the one that was meant.
    pub fn parse(source: Source, text: &str) -> Result<Layer> {
        Layer::read(source, text).map_err(|misread| misread.error)
    }

    fn read(source: Source, text: &str) -> Result<Layer, Misread> {
        let shown = source.to_string();
        // First: a later version has keys that this one does not know.
        if let Ok(Version { schema: Some(schema) }) = read_toml(&shown, text)
            && *schema.get_ref() != SCHEMA
        {
            let line = text.get(..schema.span().start).unwrap_or_default().matches('\n').count() + 1;
            let what = format!("{shown}, line {line}: schema = {} is not known", schema.get_ref());
            let error = Error::config(what)
                .cause(format!("titus-bootstrap {} knows schema = {SCHEMA}", env!("CARGO_PKG_VERSION")))
                .fix(format!(
                    "use a titus-bootstrap later than {}, or settings of schema {SCHEMA}",
                    env!("CARGO_PKG_VERSION")
                ));
            return Err(Misread { error, is_unknown_key: false });
        }
        let _: Settings = read_toml(&shown, text)?;
        Ok(Layer { source, table: read_toml(&shown, text)? })
    }

    /// What holds where nothing else is said.
    ///
    /// # Errors
    /// None, as a test makes sure.
    pub fn built_in() -> Result<Layer> {
        Layer::parse(Source::BuiltIn, include_str!("defaults.toml"))
    }

    /// A role's own defaults.
    ///
    /// # Errors
    /// When a key is unknown or a value has the wrong type.
    pub fn of_role(name: &str, defaults: &Table) -> Result<Layer> {
        // Through text, so that an error can be pointed at.
        Layer::parse(Source::Role(name.to_owned()), &defaults.to_string())
    }

    /// The files in /etc/titus-bootstrap, in order.
    ///
    /// # Errors
    /// When one cannot be read or is wrong.
    pub fn files(host: &Host) -> Result<Vec<Layer>> {
        let names = host.list(DIRECTORY)?.into_iter().filter(|name| name.ends_with(".toml"));
        let mut layers = Vec::new();
        for path in std::iter::once(FILE.to_owned()).chain(names.map(|name| format!("{DIRECTORY}/{name}"))) {
            host.refuse_untrusted(Path::new(&path))?;
            if let Some(bytes) = host.read(&path).map_err(Error::as_config)? {
                layers.push(Layer::of_file(path, bytes)?);
            }
        }
        Ok(layers)
    }

    /// A file that the command line names; a path of the caller's, not below the root.
    ///
    /// # Errors
    /// When it cannot be read or is wrong.
    pub fn file(path: &Path) -> Result<Layer> {
        let shown = path.display().to_string();
        Layer::of_file(shown, crate::host::fs::read_named(path)?)
    }

    fn of_file(path: String, bytes: Vec<u8>) -> Result<Layer> {
        let text = String::from_utf8(bytes)
            .map_err(|e| Error::config(format!("{path}: is not UTF-8")).cause(e.utf8_error()))?;
        Layer::parse(Source::File(path), &text)
    }

    /// The settings of the last run; none: there was no run.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn of_last_run(host: &Host) -> Result<Option<Layer>> {
        host.read(OF_LAST_RUN)
            .map_err(Error::as_config)?
            .map(|bytes| Layer::of_file(OF_LAST_RUN.to_owned(), bytes))
            .transpose()
    }

    /// One `--set key=value`. The value is TOML; what is not TOML, or has a type that the
    /// setting does not, is taken as text.
    ///
    /// # Errors
    /// When there is no `=`, or the key is unknown.
    pub fn assignment(argument: &str) -> Result<Layer> {
        Layer::assigned(argument, |flag| flag)
    }

    /// The flags on the first line of user data: `--role`, and each `--set`.
    ///
    /// # Errors
    /// As [`Layer::assignment`].
    pub fn first_line(role: Option<&str>, assignments: &[String]) -> Result<Vec<Layer>> {
        let place = |flag| Source::FirstLine(Box::new(flag));
        let role = role
            .map(|role| Layer::parse(place(Source::RoleFlag), &format!("role = {}", Value::String(role.to_owned()))));
        role.into_iter().chain(assignments.iter().map(|argument| Layer::assigned(argument, place))).collect()
    }

    fn assigned(argument: &str, place: impl Fn(Source) -> Source) -> Result<Layer> {
        let source = |key: &str| place(Source::Set(key.trim().to_owned()));
        let Some((key, value)) = argument.split_once('=') else {
            return Err(Error::config(format!("{}: is not key=value", source(argument)))
                .fix("for example --set agent.log_bucket=my-logs"));
        };
        let as_toml = Layer::read(source(key), &format!("{key} = {value}"));
        as_toml.or_else(|as_toml| {
            let text = format!("{key} = {}", Value::String(value.trim().to_owned()));
            Layer::read(source(key), &text).map_err(|as_text| {
                // An unknown key is reported as such; a wrong type by the reading that was meant.
                let is_meant = as_text.is_unknown_key || !value.trim_start().starts_with(['[', '{', '"']);
                if is_meant { as_text.error } else { as_toml.error }
            })
        })
    }

    /// Writes to [`SAVED`] this layer's values over those that are there.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn save(host: &Host, layers: &[Layer]) -> Result<()> {
        let before = host.read(SAVED)?;
        let mut merged = Merged::default();
        if let Some(bytes) = before.clone() {
            merged.add(&Layer::of_file(SAVED.to_owned(), bytes)?);
        }
        for layer in layers {
            merged.add(layer);
        }
        let text = format!("# Written by `titus-bootstrap apply --save`.\n{}", merged.table);
        if before.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        // What may be read by all should be: `check` needs no root.
        let values = json!(merged.table);
        let mode = if hide("", &values) == values { 0o644 } else { 0o600 };
        host.write(SAVED, text.as_bytes(), mode, crate::host::fs::Owner::ROOT)
    }
}

impl Merged {
    /// Puts a layer on top.
    pub fn add(&mut self, layer: &Layer) {
        // `prereqs` is short for two others, which a later layer may set again, and an earlier one may have set.
        if let Some(address) = layer.table.get("prereqs").and_then(Value::as_str) {
            let source = layer.source.of_prereqs();
            for (group, key, port) in [("zookeeper", "servers", ZOOKEEPER_PORT), ("mesos", "masters", MESOS_PORT)] {
                let list = Value::Array(vec![Value::String(format!("{address}:{port}"))]);
                let group_of_one = Value::Table(Table::from_iter([(key.to_owned(), list)]));
                let long = Table::from_iter([(group.to_owned(), group_of_one)]);
                merge(&mut self.table, &long, "", &source, &mut self.sources);
            }
        }
        // A deb is one thing: an earlier layer's path does not go with a later one's address.
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

    /// Writes what this run was given beyond the defaults, whoever gave it, for [`Layer::of_last_run`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn hand_down(&self, host: &Host, role: &str) -> Result<()> {
        let mut given = self.given(&self.table, "");
        given.insert("role".to_owned(), Value::String(role.to_owned()));
        let text = format!("# Written by titus-bootstrap at each run, for titus-bootstrap keep.\n{given}");
        if host.read(OF_LAST_RUN)?.as_deref() == Some(text.as_bytes()) {
            return Ok(());
        }
        host.write(OF_LAST_RUN, text.as_bytes(), 0o600, crate::host::fs::Owner::ROOT)
    }

    /// The values of a table that are not defaults.
    fn given(&self, table: &Table, at: &str) -> Table {
        let mut given = Table::new();
        for (key, value) in table {
            let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            match value {
                Value::Table(below) => {
                    let below = self.given(below, &path);
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

    /// The checked sum of the layers.
    ///
    /// # Errors
    /// When a value must not be written; it is named with its source.
    pub fn settings(&self) -> Result<Settings> {
        let mut settings: Settings =
            self.table.clone().try_into().map_err(|e| Error::config("the settings do not fit together").cause(e))?;
        check::check(&settings, self)?;
        check::derive(&mut settings);
        Ok(settings)
    }

    /// Where a value came from: the value's own source, or that of a part of it.
    pub fn source(&self, key: &str) -> Option<&Source> {
        let (key, part) = (name::plain(key), format!("{}.", name::plain(key)));
        let of_part = || self.sources.iter().find(|(path, _)| path.starts_with(&part)).map(|(_, source)| source);
        self.sources.get(&key).or_else(of_part)
    }
}

impl Settings {
    /// What holds where nothing else is said; the role's own defaults are not among it.
    ///
    /// # Errors
    /// None, as a test makes sure.
    pub fn built_in() -> Result<Settings> {
        let mut merged = Merged::default();
        merged.add(&Layer::built_in()?);
        merged.settings()
    }
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

/// Why a text cannot be read as TOML of its type.
struct Misread {
    error: Error,
    /// Whether the type has no such key.
    is_unknown_key: bool,
}

/// Reads TOML; an error points at line and column and says which key was meant.
///
/// # Errors
/// As said.
pub fn parse_toml<T: DeserializeOwned>(source: &str, text: &str) -> Result<T> {
    read_toml(source, text).map_err(|misread| misread.error)
}

/// The most lists and inline tables within one another.
const DEPTH: usize = 64;

/// The index at which a text opens one list or inline table too many. The library has its own limit, but it loses count
/// in a text with errors (`{ {}{}{} …`), and the process then aborts because its stack overflows.
fn first_too_deep(text: &str) -> Option<usize> {
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

fn read_toml<T: DeserializeOwned>(source: &str, text: &str) -> Result<T, Misread> {
    let place = |before: &str| {
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(", line {}, column {column}", before.matches('\n').count() + 1)
    };
    if let Some(start) = first_too_deep(text) {
        let place = place(text.get(..start).unwrap_or_default());
        let error = Error::config(format!("{source}{place}: more than {DEPTH} lists or tables within one another"))
            .fix("look for a bracket before it that is not closed");
        return Err(Misread { error, is_unknown_key: false });
    }
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.and_then(|before| before.rsplit('\n').next()).unwrap_or_default();
        let place = before.map_or_else(String::new, place);
        // A name or value can be as long as the file.
        let message = error.message().trim().split('`').map(shortened).collect::<Vec<_>>().join("`");
        let (problem, expected) = message.split_at(message.find(", expected").unwrap_or(message.len()));
        // The library tells an unknown key by the words of serde's message alone, and has the known ones only there.
        let is_unknown_key = problem.starts_with("unknown field");
        let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
        let error = match names.split_first().filter(|_| is_unknown_key) {
            Some((unknown, known)) => {
                Error::config(format!("{source}{place}: {problem}")).fix(did_you_mean(unknown, known.iter().copied()))
            }
            // The message has the value.
            None if is_secret(line) => Error::config(format!("{source}{place}: this value cannot be used{expected}")),
            None => Error::config(format!("{source}{place}: {message}")),
        };
        Misread { error, is_unknown_key }
    })
}

/// "did you mean …?", or the names that there are.
pub fn did_you_mean<'a>(unknown: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(unknown, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known are: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// What fits into a message.
fn shortened(text: &str) -> String {
    if text.len() <= 2000 { text.to_owned() } else { text.chars().take(60).chain(['…']).collect() }
}

/// The name that is most like this one, if it is like it at all.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(unknown, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> Source {
        Source::File(path.into())
    }

    fn merged(layers: &[Layer]) -> Merged {
        let mut merged = Merged::default();
        merged.add(&Layer::built_in().unwrap());
        layers.iter().for_each(|layer| merged.add(layer));
        merged
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
        let expected = "user data, line 2, column 65: more than 64 lists or tables within one another";
        assert_eq!(refused(&format!("\n{}", "[".repeat(60_000))), expected);
        // Each `{}` below its limit makes the library forget one that is open.
        let forgetful = format!("x = {}{}", "{a=".repeat(80), "{} {a ".repeat(60_000));
        assert!(refused(&forgetful).contains("more than 64"));
        assert!(refused(&"[x\n".repeat(1000)).contains("line 65"));
        // Brackets in a text and in a comment open nothing, and what is closed is not open.
        let text = format!("[agent]\nasg = \"{0}\" # {0}\n{1}", "{".repeat(100), "# [\n".repeat(100));
        parse(&text).unwrap();
        let many = format!("tags.role = [{}]", "\"a\", ".repeat(1000));
        parse(&many).unwrap();
    }

    #[test]
    fn an_error_is_short_however_long_the_key_is() {
        let error = Layer::parse(Source::UserData, &format!("{} = 1", "9".repeat(60_000))).unwrap_err();
        assert!(error.to_string().len() < 1000 && error.what.contains("unknown field `999"), "{error}");
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
        assert_eq!((gateway.path.as_deref(), gateway.sha256), (Some("/y.deb"), Some(sum)));
        assert_eq!((merged.source("debs.master"), merged.source("debs.master.path")), (Some(&file("b")), None));
    }

    #[test]
    fn a_misspelt_key_is_pointed_at() {
        let told = Layer::parse(file("file"), "stack = 'x'\n[agent]\n  log_buckett = 'y'\n").unwrap_err();
        assert_eq!(told.what, "file, line 3, column 3: unknown field `log_buckett`");
        assert_eq!(told.fix.unwrap(), "did you mean `log_bucket`?");
        let told = Layer::parse(file("file"), "zzzzzzzz = 1").unwrap_err();
        assert!(told.fix.unwrap().starts_with("known are: schema, role,"));
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
            ("agent.labels.TEAM = 1", "expected a string"),
        ] {
            let refused = Layer::parse(file("file"), text).unwrap_err();
            assert!(refused.what.contains(words), "{refused}");
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
        assert_eq!((settings.stack.as_str(), settings.agent.port), ("2018", Some(7101)));
        assert_eq!(settings.mesos.masters, ["10.0.0.1:5050"]);
        for wrong in ["stack", "stakc=x", "agent.port=high", "zookeeper.servers=[1", "=x"] {
            Layer::assignment(wrong).unwrap_err();
        }
        let told = Layer::assignment("stakc=x").unwrap_err();
        assert_eq!(told.fix.unwrap(), "did you mean `stack`?");
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
            let told = merged(&[Layer::parse(Source::Tag("titus:x".into()), line).unwrap()]).settings().unwrap_err();
            assert!(told.what.starts_with(key) && told.what.contains("tag titus:x"), "{line}: {told}");
            assert_eq!(told.kind.exit_code(), 78);
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
    fn what_prereqs_is_short_for_comes_from_where_that_stands() {
        let one = "prereqs = '10.0.0.1'";
        let first_line = |flag: &str| Layer::first_line(None, &[flag.to_owned()]).unwrap().remove(0);
        for (layer, source) in [
            (Layer::parse(file("x"), one).unwrap(), "prereqs in x"),
            (Layer::parse(Source::UserData, one).unwrap(), "prereqs in user data"),
            (Layer::parse(Source::Tag("titus:other".into()), one).unwrap(), "prereqs in tag titus:other"),
            (Layer::parse(Source::Set("other".into()), one).unwrap(), "prereqs in --set other"),
            // Where the name alone leads to it, the source says so already.
            (Layer::parse(Source::Tag("titus:prereqs".into()), one).unwrap(), "tag titus:prereqs"),
            (Layer::assignment("prereqs=10.0.0.1").unwrap(), "--set prereqs"),
            (first_line("prereqs=10.0.0.1"), "first line of user data: --set prereqs"),
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
            Layer::built_in().unwrap(),
            Layer::parse(Source::Role("agent".into()), "agent.port = 7101\nagent.asg = 'of-role'").unwrap(),
            Layer::parse(file("x"), "stack = 'one'\nagent.asg = 'a'").unwrap(),
            Layer::parse(Source::Tag("titus:prereqs".into()), "prereqs = '10.0.0.1'").unwrap(),
        ] {
            given.add(&layer);
        }
        given.hand_down(&host, "agent").unwrap();
        let last = Layer::of_last_run(&host).unwrap().unwrap();
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
        // The same once more is not written; for another role it is.
        given.hand_down(&host, "agent").unwrap();
        assert_eq!(look(), before);
        given.hand_down(&host, "master").unwrap();
        let role = Layer::of_last_run(&host).unwrap().unwrap().table["role"].clone();
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
