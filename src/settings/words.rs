//! TOML errors in the terms of the person who writes the file. The library's own messages name Rust types.

use std::ops::Range;

use crate::error::Error;
use crate::host::json::expected_value;
use crate::secrets::{HIDDEN, is_secret, masked};

/// The position of an error, and the text there.
pub(super) struct Excerpt<'a> {
    /// The whole text.
    pub text: &'a str,
    /// The position.
    pub span: Range<usize>,
    /// The keys that lead to the position.
    pub keys: String,
    /// The source, line and column, for messages.
    pub shown: String,
    /// Whether messages must hide the text there.
    pub is_hidden: bool,
}

/// The error about a wrong value, or about a table that lacks a key. Returns `None` for messages of any other kind.
pub(super) fn value_error(place: &Excerpt<'_>, message: &str) -> Option<Error> {
    let written = place.text.get(place.span.clone()).unwrap_or_default();
    let is_hidden = place.is_hidden || is_secret(&place.keys);
    let value = if is_hidden { HIDDEN.to_owned() } else { first_line(written) };
    let what = match place.keys.as_str() {
        "" => format!("{}: {value} cannot be used", place.shown),
        keys => format!("{}: {keys} = {value} cannot be used", place.shown),
    };
    let kinds = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some(rest) = kinds.iter().find_map(|kind| message.strip_prefix(kind)) {
        let (must, example) = expected_value(rest.rsplit_once(", expected ")?.1);
        let example = if example.is_empty() { String::new() } else { format!(", e.g. {example}") };
        let error = Error::config(what).cause(format!("it must be {must}{example}"));
        // To the library, a date is a map.
        if rest.starts_with("map") && written.parse::<toml::value::Datetime>().is_err() {
            return Some(error.fix("if the name has dots, put all of it in quotes: \"a.b.c\" = \"value\""));
        }
        return Some(error);
    }
    // What the library says of a choice that is not text.
    if message == "wanted string or table" {
        let known = find_choices(&place.keys);
        let must = if known.is_empty() { "text in quotes".to_owned() } else { list_choices(&known) };
        return Some(Error::config(what).cause(format!("it must be {must}")));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let names: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let (unknown, known) = names.split_first()?;
        let fix = super::did_you_mean(unknown, known.iter().copied());
        return Some(Error::config(what).cause(format!("it must be {}", list_choices(known))).fix(fix));
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        let of = if place.keys.is_empty() { String::new() } else { format!("{} lacks ", place.keys) };
        let what = format!("{}: {of}the key {rest}{}", place.shown, if of.is_empty() { " is missing" } else { "" });
        return Some(Error::config(what).fix(format!("add {} = … there", rest.trim_matches('`'))));
    }
    None
}

/// The choices in words: `"a" or "b"`.
fn list_choices(names: &[impl std::fmt::Debug]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or ")
}

/// The choices for a setting: those that the library lists for one that does not exist.
fn find_choices(key: &str) -> Vec<String> {
    let probe = toml::from_str::<super::Settings>(&format!("{key} = '?'"));
    let message = probe.map_or_else(|error| error.message().to_owned(), |_| String::new());
    let names = message.strip_prefix("unknown variant `?`").unwrap_or_default();
    names.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first_line(text: &str) -> String {
    let line = masked(text.lines().next().unwrap_or_default());
    if line.chars().count() > 60 || text.contains('\n') { line.chars().take(60).chain(['…']).collect() } else { line }
}

/// Advice about a text that is not TOML, for mistakes that people often make.
pub(super) fn syntax_advice(text: &str, span: &Range<usize>, message: &str) -> Option<String> {
    if message == "duplicate key" {
        return Some(duplicate_key(text, text.get(span.clone())?.trim_matches(['"', '\'']), span.start));
    }
    if let Some(is) = foreign_format(text) {
        return Some(format!(
            "this looks like {is}; settings and roles are TOML, `key = value` below `[table]`: \
             `titus-bootstrap config template --role agent` prints a file to begin with"
        ));
    }
    let start = text.get(..span.start)?.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(start..)?.lines().next()?;
    let value = line.split_once('=').map_or("", |(_, value)| value.split('#').next().unwrap_or_default().trim());
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    let at_error = text.get(span.start..)?.trim_start();
    let advice = if line.contains(['“', '”', '„', '‘', '’']) {
        "these quotes are typographic; use straight ones, \" or '"
    } else if let Some(blank) = line.chars().find(|c| is_foreign_blank(*c)) {
        let column = line.chars().take_while(|c| *c != blank).count() + 1;
        return Some(format!(
            "in column {column} is U+{:04X}, which looks like a blank or like nothing: delete it, or write an ordinary blank",
            u32::from(blank)
        ));
    } else if [line.trim_start(), at_error]
        .iter()
        .any(|rest| ["//", "/*", "--", ";"].iter().any(|sign| rest.starts_with(sign)))
    {
        "a comment begins with #, and nothing else follows a value"
    } else if at_error.starts_with(',') {
        "write each key on its own line, without a comma at its end"
    } else if is(&["true", "false", "yes", "no", "on", "off"]) {
        "write true or false, in small letters"
    } else if is(&["null", "none", "nil", "~"]) || (value.is_empty() && line.trim_end().ends_with('=')) {
        "leave a key without a value out: there is no null in TOML"
    } else if message.contains("leading zero") {
        "write a file's mode as text, mode = \"0644\", and a number without a zero before it"
    } else if is_bare_text(message) {
        "put text in quotes: key = \"value\""
    } else if message.starts_with("invalid unquoted key") {
        "put a key in quotes if it has other characters than letters, digits, `-` and `_`: \"a/b\""
    } else if line.contains('\\') {
        "write a backslash as \\\\ in double quotes, or use single quotes, which keep it as it is: 'a\\b'"
    } else if value.matches('"').count() % 2 == 1 || value.matches('\'').count() % 2 == 1 {
        "close the text with the quote that it begins with"
    } else if !line.contains('=') && line.contains(':') {
        "write key = value, with `=` and not with `:`"
    } else if line.trim_start().starts_with('[') {
        "a table begins with a line [name], a step of a role with [[step]]"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// Whether the library's message is about a value that may be text without quotes: from its first letter, the library expects
/// text, `true`, `false`, `inf` or `nan`.
fn is_bare_text(message: &str) -> bool {
    ["string values must be quoted", "invalid boolean", "invalid float"].iter().any(|start| message.starts_with(start))
}

/// The message about a key or table that occurs twice.
fn duplicate_key(text: &str, key: &str, again: usize) -> String {
    let lines = text.get(..again).unwrap_or_default().lines();
    let is_it = |line: &str| {
        let rest = line.trim_start().trim_start_matches('[').trim_start_matches(['"', '\'']).strip_prefix(key);
        rest.is_some_and(|rest| rest.trim_start_matches(['"', '\'']).trim_start().starts_with(['.', '=', ']']))
    };
    let first = lines.enumerate().filter(|(_, line)| is_it(line)).map(|(n, _)| n + 1).next();
    let first = first.map_or_else(String::new, |line| format!(" (first on line {line})"));
    format!(
        "{key} is defined twice{first}, and TOML allows each key and table only once; put all keys of a table below one line [table]; \
         `a.b = …` and `[a]` name the same table"
    )
}

/// Whether a character looks like a blank or like nothing to people, and is not a blank in TOML.
fn is_foreign_blank(c: char) -> bool {
    (c.is_whitespace() && !c.is_ascii()) || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
}

/// The format of a text that is evidently meant for another program. Call it only for a text that is not TOML.
fn foreign_format(text: &str) -> Option<&'static str> {
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("#!") && !first.contains("titus-bootstrap") {
        return Some("a script");
    }
    if first.starts_with("#cloud-config") {
        return Some("a cloud-config, which is YAML");
    }
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next()?;
    let is_name = |name: &str| super::values::is_word(name, "._-");
    let is_yaml = |line: &str| {
        line.split_once(':').is_some_and(|(name, rest)| {
            is_name(name.trim_start_matches("- ").trim())
                && (rest.is_empty() || rest.starts_with(' '))
                && !rest.contains(" = ")
        })
    };
    match first {
        _ if first.starts_with('{') => Some("JSON"),
        _ if first.starts_with('<') => Some("XML or HTML"),
        _ if first.starts_with("-----BEGIN") => Some("a key or a certificate"),
        _ if first == "---" || first.starts_with("%YAML") || is_yaml(first) => Some("YAML"),
        _ if first.starts_with("export ") || first.starts_with("set -") => Some("a shell script"),
        _ => None,
    }
}

/// Where a key that is unknown in its table belongs: keys below a line `[table]` belong to that table.
pub(super) fn misplacement(path: &str, settings: &serde_json::Value) -> Option<String> {
    let (table, key) = path.rsplit_once('.').unwrap_or(("", path));
    let mut found = Vec::new();
    find_tables("", key, settings, &mut found);
    if found.iter().any(String::is_empty) && !table.is_empty() {
        return Some(format!(
            "{key} belongs to no table: move it above the first line `[…]`; here, TOML reads it as {table}.{key}"
        ));
    }
    let tables: Vec<String> =
        found.iter().filter(|table| !table.is_empty()).map(|table| format!("[{table}]")).collect();
    (!tables.is_empty()).then(|| format!("{key} is a key of {}: move it there", tables.join(" or of ")))
}

/// The library's message about a text that is not TOML, without the library's own terms.
pub(super) fn syntax(message: &str) -> &str {
    // After it, the message lists the expected tokens in the library's terms.
    let problem = message.split(", expected ").next().unwrap_or(message);
    match message {
        _ if is_bare_text(message) => {
            "this is not a value of TOML: text, a number, true or false, a date, a list, or a table"
        }
        _ if problem.starts_with("invalid ") && problem.ends_with(" string") => {
            "this text does not end: its closing quote is missing"
        }
        _ if problem == "invalid value" => "`\\u` with 4 and `\\U` with 8 hex digits must be the number of a character",
        _ if problem.starts_with("keys cannot be multi-line ") => "a key cannot have more than one line",
        _ if message.starts_with("key with no value") => "this is not `key = value`: there is no `=`",
        _ if message.starts_with("invalid key-value pair") => "this is not `key = value`, and not a line `[table]`",
        _ if problem == "unexpected key or value" => "something other than a comment follows the value",
        _ if problem == "invalid unquoted key" => "this key has a character that a key without quotes cannot have",
        _ => problem,
    }
}

/// Collects the tables that have a key of this name.
fn find_tables(at: &str, key: &str, value: &serde_json::Value, found: &mut Vec<String>) {
    let Some(table) = value.as_object() else { return };
    for (name, below) in table {
        if name == key {
            found.push(at.to_owned());
        }
        find_tables(&if at.is_empty() { name.clone() } else { format!("{at}.{name}") }, key, below, found);
    }
}

/// The log drivers of the Docker Engine ("Configure logging drivers"). Any other name belongs to a plugin.
const LOG_DRIVERS: [&str; 11] =
    ["json-file", "local", "journald", "syslog", "gelf", "fluentd", "awslogs", "splunk", "gcplogs", "etwlogs", "none"];

/// Advice about a setting that has a fixed set of values, with the value that resembles this one most.
pub(super) fn add_suggestion(key: &str, value: &str, advice: String) -> String {
    let known: &[&str] = match key {
        "docker.log_level" => &["debug", "info", "warn", "error", "fatal"],
        "allowed_tags" => &super::TAGS,
        "containers.log.driver" => &LOG_DRIVERS,
        _ => &[],
    };
    match super::nearest(value.trim_start_matches("titus:"), known.iter().copied()) {
        Some(like) if !advice.starts_with("write ") => format!("did you mean `{like}`?\n{advice}"),
        _ => advice,
    }
}

/// The error about a value of the wrong type, built from serde's message.
pub fn wrong_type(what: &str, message: &str) -> Error {
    let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
    let (must, example) = expected_value(expected.split(" at line ").next().unwrap_or_default());
    let example = if example.is_empty() { String::new() } else { format!(", e.g. {example}") };
    Error::config(format!("{what} has the wrong type")).cause(format!("it must be {must}{example}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::settings::{Layer, Source};

    /// The first error about a text of settings.
    pub fn refused(text: &str) -> Error {
        Layer::parse(Source::UserData, text).unwrap_err()
    }

    #[test]
    fn the_format_of_another_program_is_recognized() {
        for (text, format) in [
            ("", None),
            ("# of the cluster\n", None),
            ("#!/bin/sh\nstack: main", Some("a script")),
            ("#!/usr/bin/titus-bootstrap\nstack: main", Some("YAML")),
            ("#cloud-config\nstack: main", Some("a cloud-config, which is YAML")),
            ("---\nx", Some("YAML")),
            ("%YAML 1.2\n", Some("YAML")),
            ("\u{feff}\n  stack: main", Some("YAML")),
            ("# of the cluster\n\nstack: main", Some("YAML")),
            ("agent:\n  port: 1", Some("YAML")),
            ("- name: x", Some("YAML")),
            ("the stack: main", None),
            ("stack: x = 1", None),
            ("http://10.0.0.1", None),
            ("stack = main", None),
            ("{\"stack\": \"main\"}", Some("JSON")),
            ("<a></a>", Some("XML or HTML")),
            ("-----BEGIN CERTIFICATE-----", Some("a key or a certificate")),
            ("export A=b", Some("a shell script")),
            ("set -e", Some("a shell script")),
            ("exports A", None),
            ("set e", None),
        ] {
            assert_eq!(foreign_format(text), format, "{text:?}");
        }
    }

    #[test]
    fn the_advice_about_text_that_is_not_toml_suits_its_mistake() {
        const CLOSE: Option<&str> = Some("close the text with the quote that it begins with");
        const QUOTE: Option<&str> = Some("put text in quotes: key = \"value\"");
        const KEY: Option<&str> =
            Some("put a key in quotes if it has other characters than letters, digits, `-` and `_`: \"a/b\"");
        for (text, fix) in [
            ("stack = \"main", CLOSE),
            ("stack = 'main", CLOSE),
            ("stack = main\"", CLOSE),
            ("stack = main'", CLOSE),
            ("stack = \"a\" b", None),
            ("stack = 'a' b", None),
            ("stack = main", QUOTE),
            ("stack = test", QUOTE),
            ("stack = information", QUOTE),
            ("stack = 12ab", QUOTE),
            ("stack = yes", Some("write true or false, in small letters")),
            ("agent.attributes.a/b = 'x'", KEY),
            ("[agent/labels]", KEY),
            ("the stack: main", Some("write key = value, with `=` and not with `:`")),
            ("stack: x = 1", None),
            ("the stack", None),
        ] {
            assert_eq!(refused(text).fix.as_deref(), fix, "{text}");
        }
    }

    #[test]
    fn what_is_not_toml_is_described_in_its_terms() {
        const VALUE: &str = "this is not a value of TOML: text, a number, true or false, a date, a list, or a table";
        for (text, what) in [
            ("stack = main", VALUE),
            ("stack = test", VALUE),
            ("stack = information", VALUE),
            ("stäck = 1", "this key has a character that a key without quotes cannot have"),
            ("stack = 'main", "this text does not end: its closing quote is missing"),
            ("stack", "this is not `key = value`: there is no `=`"),
            ("}", "this is not `key = value`, and not a line `[table]`"),
        ] {
            let error = refused(text);
            assert!(error.what.ends_with(&format!(": {what}")), "{text}: {error}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_shown_up_to_60_characters_of_its_first_line() {
        let what = |value: &str| refused(&format!("agent.port = {value}")).what;
        let text = |count: usize| format!("'{}'", "x".repeat(count - 2));
        let start: String = text(61).chars().take(60).collect();
        for (value, shown) in [(text(60), text(60)), (text(61), format!("{start}…")), ("[1,\n2]".into(), "[1,…".into())]
        {
            assert!(what(&value).ends_with(&format!(": agent.port = {shown} cannot be used")), "{}", what(&value));
        }
    }

    #[test]
    fn only_for_a_table_is_it_proposed_to_put_its_name_in_quotes() {
        let quotes = "if the name has dots, put all of it in quotes: \"a.b.c\" = \"value\"";
        for (text, fix) in [
            ("master.properties.titus.port = 7001", Some(quotes)),
            ("stack = { x = 1 }", Some(quotes)),
            ("stack = 1979-05-27", None),
            ("agent.port = 1.5", None),
            ("tags.role = [1979-05-27T07:32:00Z]", None),
        ] {
            let error = refused(text);
            assert_eq!(error.fix.as_deref(), fix, "{error}");
        }
    }

    #[test]
    fn the_choices_of_a_setting_are_listed() {
        let choices = "it must be \"if-needed\" or \"never\"";
        for text in ["reboot = 5", "reboot = false", "reboot = 'later'"] {
            let cause = refused(text).cause.unwrap();
            assert_eq!(cause.lines().next(), Some(choices), "{text}");
        }
    }
}
