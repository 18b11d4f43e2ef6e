//! Errors about values that do not have the form of their setting. They name the setting and the value, say what it must
//! be, and propose what to write. They never show a value that may be a secret.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::forms::{FIX, MUST, WHY};
use super::words;
use crate::error::Error;
use crate::secrets::{HIDDEN, is_secret, masked};

/// A setting in a text, or a name in a table whose names the operator chooses.
pub(super) struct SettingRef {
    /// The setting's name.
    pub key: String,
    /// The table, if the error is about a name in it rather than a value.
    table: Option<String>,
    /// The value or the name, if it is a string.
    text: Option<String>,
}

impl SettingRef {
    /// Finds the setting at a position in a text.
    pub fn find(text: &str, span: &Range<usize>) -> Option<SettingRef> {
        let table = DeTable::parse(text).ok()?;
        find_in_table("", table.get_ref(), span)
    }

    /// Whether messages must hide the value: its name suggests a secret, or it may contain credentials. The address of a proxy
    /// may contain a password that nothing recognizes, and a `docker.auth` that is not a path may be the credentials themselves.
    pub fn is_hidden(&self, written: &str) -> bool {
        let may_have_password = self.key == "proxy.no_proxy" && written.contains('@');
        let is_of_proxy = self.key.starts_with("proxy.") && self.key != "proxy.no_proxy";
        is_of_proxy || may_have_password || self.key == "docker.auth" || is_secret(&self.key)
    }
}

fn find_in_table(path: &str, table: &DeTable<'_>, span: &Range<usize>) -> Option<SettingRef> {
    table.iter().find_map(|(key, value)| {
        let part = quote_key(key.get_ref());
        let key_path = if path.is_empty() { part } else { format!("{path}.{part}") };
        if key.span() == *span {
            let text = Some(key.get_ref().to_string());
            return Some(SettingRef { key: key_path, table: Some(path.to_owned()), text });
        }
        find_in_value(&key_path, value, span)
    })
}

/// One part of a dotted name, in quotes if it needs them.
fn quote_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if is_bare { key.to_owned() } else { format!("{key:?}") }
}

/// The name of a list entry that has an id, such as a step of a role: `step docker`.
fn entry_name(path: &str, value: &Spanned<DeValue<'_>>) -> String {
    let id = value.get_ref().as_table().and_then(|table| table.get("id"));
    id.and_then(|id| id.get_ref().as_str()).map_or_else(|| path.to_owned(), |id| format!("{path} {id}"))
}

fn find_in_value(path: &str, value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<SettingRef> {
    let below = match value.get_ref() {
        DeValue::Table(table) => find_in_table(path, table, span),
        DeValue::Array(list) => list.iter().find_map(|value| find_in_value(&entry_name(path, value), value, span)),
        _ => None,
    };
    let here = || SettingRef { key: path.to_owned(), table: None, text: value.get_ref().as_str().map(str::to_owned) };
    below.or_else(|| (value.span() == *span).then(here))
}

/// The error about a value that does not have the form of its setting. `source` names its file, tag or flag; `message` comes
/// from its type. Returns `None` for messages of any other kind.
pub(super) fn wrong_form(source: &str, place: &SettingRef, written: &str, message: &str) -> Option<Error> {
    let (must, fix) = message.split_once(FIX).map_or((message, None), |(must, fix)| (must, Some(fix)));
    let form = must.strip_prefix(MUST)?;
    let is_hidden = place.is_hidden(written);
    // A value that is not a string: up to the end of its line.
    let line = || written.lines().next().unwrap_or_default().to_owned();
    let value = masked(&place.text.as_ref().map_or_else(line, |text| format!("{text:?}")));
    let shown = if is_hidden { HIDDEN } else { value.as_str() };
    let shown =
        if shown.chars().count() > 200 { shown.chars().take(60).chain(['…']).collect() } else { shown.to_owned() };
    let what = match &place.table {
        Some(table) if !is_hidden => format!("{source}: the name {shown} in {table} cannot be used"),
        _ => format!("{source}: {} = {shown} cannot be used", place.key),
    };
    let (form, why) = form.split_once(WHY).map_or((form, None), |(form, why)| (form, Some(why)));
    // A reason or a piece of advice can quote the value, or a part of it that nothing marks as a secret any more; the reason
    // for a proxy never does.
    let raw = place.text.as_deref().unwrap_or(written);
    let has_secret = masked(raw) != raw;
    let is_safe = |words: &&str| !(is_hidden || has_secret && quotes_part(words, raw));
    let is_proxy = ["proxy.http", "proxy.https"].contains(&place.key.as_str());
    let why = why.filter(|why| is_proxy || is_safe(why)).map(masked);
    let fix = fix.filter(is_safe).map(masked);
    let why = why.map_or_else(String::new, |why| format!("; {why}"));
    let example = form.rsplit_once(", e.g. `").and_then(|(_, rest)| rest.split_once('`'));
    let example = example.map_or_else(String::new, |(example, _)| format!(", for example `{example}`"));
    let fix = fix.unwrap_or_else(|| match &place.table {
        Some(table) if example.contains('.') => {
            format!("use such a name{example}, in quotes because of its dots: [{table}.\"NAME\"]")
        }
        Some(_) => format!("use such a name{example}"),
        None => format!("set {} to such a value there{example}", place.key),
    });
    let fix = words::add_suggestion(&place.key, place.text.as_deref().unwrap_or_default(), fix);
    Some(Error::config(what).cause(format!("{MUST}{form}{why}")).fix(fix))
}

/// Whether something that these words put in quotes is a part of the text, and more than punctuation.
fn quotes_part(words: &str, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    words
        .split(['`', '"'])
        .skip(1)
        .step_by(2)
        .any(|quoted| quoted.len() > 2 && text.contains(&quoted.to_ascii_lowercase()))
}

/// The line of an error, with a mark below the part that is wrong. Returns `None` if the line is long, or if that part may
/// come after a secret.
pub(super) fn pointer(text: &str, span: &Range<usize>) -> Option<String> {
    let (before, rest) = text.split_at_checked(span.start)?;
    let line = before.rsplit('\n').next().unwrap_or_default();
    let is_name = |name: &str| !name.contains(['"', '\'', '=', '#', '{', '[']);
    let is_value = line.trim_end().strip_suffix('=').is_some_and(is_name);
    let is_key = line.trim_start_matches(['[', ' ', '\t']).is_empty();
    let about = rest.get(..span.len())?.lines().next().unwrap_or_default();
    // The marked part itself is hidden if it may be a password.
    if about.contains('@') || masked(about) != about {
        return None;
    }
    let (width, mark) = (line.chars().count() + about.chars().count(), "^".repeat(about.chars().count().max(1)));
    if !(is_value || is_key) || width > 100 {
        return None;
    }
    let number = (before.matches('\n').count() + 1).to_string();
    let blanks: String = line.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    Some(format!("{number} | {line}{about}\n{} | {blanks}{mark}", " ".repeat(number.len())))
}

/// Replaces the key and value, or the table, at this position with blanks, so that all other positions stay the same.
/// Returns `None` if there is no such key, or if the text is not TOML.
pub(super) fn blank_out(text: &str, span: &Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let entry = innermost(text, table.get_ref(), span).filter(|entry| !entry.is_empty())?;
    let before = text.get(..entry.start)?;
    // Include the names before it, up to the last dot.
    let is_dotted = before.trim_end().ends_with('.');
    let start = if is_dotted { before.rfind(['\n', '{', ',']).map_or(0, |at| at + 1) } else { entry.start };
    // In an inline table, a comma follows.
    let rest = text.get(entry.end..)?;
    let after = rest.trim_start().strip_prefix(',').unwrap_or(rest);
    let entry = start..text.len() - after.len();
    let blank = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
    let blanks: String = text.get(entry.clone())?.chars().map(blank).collect();
    Some(format!("{}{blanks}{}", text.get(..entry.start)?, text.get(entry.end..)?))
}

fn innermost(text: &str, table: &DeTable<'_>, span: &Range<usize>) -> Option<Range<usize>> {
    table.iter().find_map(|(key, value)| {
        let whole = key.span().start..value.span().end;
        let has = |range: &Range<usize>| range.contains(&span.start);
        let DeValue::Table(below) = value.get_ref() else { return has(&whole).then_some(whole) };
        // A name before a dot, or in `[…]`, covers all that follows.
        let named = has(&key.span()).then(|| {
            let start = text.get(..key.span().start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
            let rest = text.get(start..).unwrap_or_default();
            let mut lines = rest.split_inclusive('\n');
            let is_header = |line: &str| line.trim_start().starts_with('[');
            let first = lines.next().unwrap_or_default();
            let below = lines.take_while(|line| is_header(first) && !is_header(line));
            start..start + first.len() + below.map(str::len).sum::<usize>()
        });
        named.or_else(|| innermost(text, below, span)).or_else(|| has(&whole).then_some(whole))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::words::tests::refused;

    #[test]
    fn a_name_in_a_table_is_quoted_where_it_needs_quotes_and_hidden_where_it_names_a_secret() {
        for (text, what, fix) in [
            (
                "agent.attributes = { 'a/b' = 'x;y' }",
                "agent.attributes.\"a/b\" = \"x;y\" cannot be used",
                "set agent.attributes.\"a/b\" to such a value there, for example `main`",
            ),
            (
                "agent.attributes = { a-b_c = 'x;y' }",
                "agent.attributes.a-b_c = \"x;y\" cannot be used",
                "set agent.attributes.a-b_c to such a value there, for example `main`",
            ),
            (
                "agent.attributes = { 'a b' = 'x' }",
                "the name \"a b\" in agent.attributes cannot be used",
                "use such a name, for example `cluster`",
            ),
            (
                "agent.attributes = { 'pass;word' = 'x' }",
                "agent.attributes.\"pass;word\" = *** cannot be used",
                "use such a name, for example `cluster`",
            ),
            (
                "instance_types.m9.max_enis = 3",
                "the name \"m9\" in instance_types cannot be used",
                "use such a name, for example `m4.large`, in quotes because of its dots: [instance_types.\"NAME\"]",
            ),
        ] {
            let error = refused(text);
            assert!(error.what.ends_with(&format!(": {what}")), "{error}");
            assert_eq!(error.fix.as_deref(), Some(fix));
        }
    }

    #[test]
    fn a_value_of_200_characters_is_shown_whole_and_a_longer_one_is_cut() {
        let shown = |count: usize| {
            let text = format!("{}!", "a".repeat(count - 3));
            (refused(&format!("stack = '{text}'")).what, format!("{text:?}"))
        };
        let (what, value) = shown(200);
        assert!(what.ends_with(&format!(": stack = {value} cannot be used")), "{what}");
        let (what, value) = shown(201);
        let start: String = value.chars().take(60).collect();
        assert!(what.ends_with(&format!(": stack = {start}… cannot be used")), "{what}");
    }

    #[test]
    fn a_line_is_shown_up_to_100_characters_and_if_it_has_nothing_of_a_password() {
        let is_shown = |value: &str| refused(&format!("stack = '{value}'")).cause.unwrap().contains("^^^");
        for (value, is) in [
            ("a!", true),
            (&format!("{}!", "a".repeat(89)), true),
            (&format!("{}!", "a".repeat(90)), false),
            ("root@node", false),
            ("password=hunter2x", false),
        ] {
            assert_eq!(is_shown(value), is, "{value}");
        }
    }

    #[test]
    fn words_give_a_value_away_if_they_quote_more_than_punctuation_of_it() {
        for (words, text, is) in [
            ("it has `..`", "/a/../token=hunter2", false),
            ("`hun` is not allowed", "/a/token=hunter2", true),
            ("\"HUNTER2\" is not allowed", "/a/token=hunter2", true),
            ("hunter2 is not in quotes", "/a/token=hunter2", false),
            ("`other` is not allowed", "/a/token=hunter2", false),
        ] {
            assert_eq!(quotes_part(words, text), is, "{words}");
        }
    }
}
