//! Secrets: found in whatever is printed, logged or kept, and hidden there.
//!
//! A text is secret by the name that it stands under, by its place in an address, or because it is the value of
//! something with the name of a secret ([`learn`]), wherever that value is written.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

/// What is shown in the place of a secret.
pub const HIDDEN: &str = "***";

/// What the names of secrets contain.
const WORDS: [&str; 8] = ["pass", "pwd", "secret", "token", "credential", "auth", "private", "signature"];

/// The same, whatever separates the words: `key` alone names much that is not a secret.
const KEYS: [&str; 6] = ["apikey", "accesskey", "encryptionkey", "masterkey", "signingkey", "sshkey"];

/// What a message, as opposed to a line of a file, must contain before a colon to be read as a name and its value.
const WORDS_OF_MESSAGES: [&str; 3] = ["password", "token", "secret"];

/// A shorter value is hidden only under its name: as a part of other texts it would hide too much.
const SHORTEST: usize = 6;

/// The values of secrets that this process knows.
static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Whether the value of what has this name must not be shown. In doubt it is a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let joined: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    WORDS.iter().any(|word| name.contains(word)) || KEYS.iter().any(|key| joined.contains(key))
}

/// A value as it may be shown: hidden by the names in it, and its texts by their form.
pub fn hide(name: &str, value: &Json) -> Json {
    match value {
        Json::Object(table) => table.iter().map(|(key, value)| (key.clone(), hide(&join(name, key), value))).collect(),
        Json::Array(list) => list.iter().map(|value| hide(name, value)).collect(),
        Json::Null => Json::Null,
        _ if is_secret(name) => json!(HIDDEN),
        Json::String(text) => json!(masked(text)),
        other => other.clone(),
    }
}

/// A text as it may be shown under a name.
pub fn shown(name: &str, text: &str) -> String {
    if is_secret(name) { HIDDEN.to_owned() } else { masked(text) }
}

/// From now on hides the values of secrets in these facts and settings wherever they are written: in a file under
/// another name, in a command.
pub fn learn(name: &str, value: &Json) {
    match value {
        Json::Object(table) => table.iter().for_each(|(key, value)| learn(&join(name, key), value)),
        Json::Array(list) => list.iter().for_each(|value| learn(name, value)),
        Json::String(text) if is_secret(name) => learn_text(text),
        Json::String(text) => user_infos(text).for_each(|info| {
            learn_text(info);
            info.split(':').skip(1).for_each(learn_text);
        }),
        Json::Number(number) if is_secret(name) => learn_text(&number.to_string()),
        _ => {}
    }
}

/// The same of one text, such as a secret in quotes.
pub fn learn_text(text: &str) {
    known().extend(text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST).map(str::to_owned));
}

/// Whether a text contains the value of a secret.
pub fn is_known(text: &str) -> bool {
    known().iter().any(|value| text.contains(value))
}

fn known() -> MutexGuard<'static, BTreeSet<String>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}

/// Hides what must not be read: values of secrets; in an address its user info and its query, which signs for what it
/// asks for (an address that S3 has signed); and what is assigned to the name of a secret.
pub fn masked(text: &str) -> String {
    without_known(&without_user_infos(text)).split_inclusive('\n').map(without_assigned).collect()
}

/// Hides values of secrets that this process knows, and nothing else.
pub fn without_known(text: &str) -> String {
    let mut text = text.to_owned();
    let mut values: Vec<String> = known().iter().filter(|value| text.contains(*value)).cloned().collect();
    // One value may be a part of another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    for value in values {
        text = text.replace(&value, HIDDEN);
    }
    text
}

/// Whether an address has user info or a query that signs for it.
pub fn has_credentials(address: &str) -> bool {
    without_user_infos(address) != address
}

fn user_infos(text: &str) -> impl Iterator<Item = &str> {
    text.split("://").skip(1).filter_map(|rest| {
        let authority = rest.split(is_end_of_authority).next()?;
        Some(authority.rsplit_once('@')?.0)
    })
}

fn is_end_of_authority(c: char) -> bool {
    c == '/' || is_end_of_word(c)
}

fn is_end_of_word(c: char) -> bool {
    c.is_whitespace() || c == '"' || c == '\''
}

fn without_user_infos(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        made.push_str(before);
        let (authority, tail) = after.split_at(after.find(is_end_of_authority).unwrap_or(after.len()));
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => {
                made.push_str("***@");
                host
            }
            None => authority,
        };
        // Up to the next address, which may follow without a blank.
        let end = tail.find(is_end_of_word).unwrap_or(tail.len());
        let own = tail.get(..tail.find("://").map_or(end, |next| next.min(end))).unwrap_or(tail);
        if let Some((host, _)) = host.split_once('?') {
            made.push_str(&format!("{host}?***"));
            rest = tail.get(end..).unwrap_or_default();
        } else if let Some((path, _)) = own.split_once('?') {
            made.push_str(&format!("{host}{path}?***"));
            rest = tail.get(end..).unwrap_or_default();
        } else {
            made.push_str(host);
            rest = tail;
        }
    }
    made + rest
}

/// Hides in a line what is assigned to the name of a secret: `password = "…"`, `DB_PWD=…`, `"token":"…"`.
fn without_assigned(line: &str) -> String {
    // A line of a file, as a diff has it: all that follows the name is the value, blanks too.
    let of_file = line.starts_with(['+', '-']);
    let (mut made, mut copied, mut from) = (String::new(), 0, 0);
    while let Some(at) = line.get(from..).and_then(|rest| rest.find(['=', ':'])) {
        let (before, after) = line.split_at(from + at);
        let (separator, value) = after.split_at(1);
        let is_first = from == 0;
        from = before.len() + 1;
        let name = Name::before(before.get(copied..).unwrap_or_default());
        let blank = value.starts_with(' ');
        let value = value.trim_start_matches(' ');
        let in_message = separator == ":" && (blank && !name.is_quoted || name.is_of_path);
        let is_assigned = match of_file && is_first {
            true => is_secret(before),
            false if in_message && !of_file => name.is_plain_secret(),
            false => is_secret(name.text),
        };
        if !is_assigned || value.trim().is_empty() || separator == ":" && value.starts_with("//") {
            continue;
        }
        let start = line.len() - value.len();
        let word = match value.chars().next() {
            Some('"' | '\'') => quoted(value, None),
            Some('[' | '{') => value.trim_end().len(),
            _ if of_file && is_first => value.trim_end().len(),
            _ => value.find(is_end_of_word).unwrap_or(value.len()),
        };
        // An apostrophe of a message opens nothing.
        let length = open_quote(before).map_or(word, |quote| word.max(quoted(value, Some(quote))));
        let quote = value.get(..1).filter(|quote| ["\"", "'"].contains(quote) && length > 1).unwrap_or_default();
        made.push_str(line.get(copied..start).unwrap_or_default());
        made.push_str(&format!("{quote}{HIDDEN}{quote}"));
        copied = start + length;
        from = copied;
    }
    made + line.get(copied..).unwrap_or_default()
}

/// What stands before a `=` or `:`.
struct Name<'a> {
    text: &'a str,
    /// `"token":`.
    is_quoted: bool,
    /// `/etc/passwd:`, which begins a message about a file.
    is_of_path: bool,
}

impl Name<'_> {
    /// In a message, in which much else is followed by a colon.
    fn is_plain_secret(&self) -> bool {
        let name = self.text.to_ascii_lowercase();
        !self.is_of_path && WORDS_OF_MESSAGES.iter().any(|word| name.contains(word))
    }

    fn before(text: &str) -> Name<'_> {
        let text = text.trim_end_matches([' ', ']']);
        if let Some((quote, inner)) = ['"', '\''].iter().find_map(|quote| Some((*quote, text.strip_suffix(*quote)?))) {
            let text = inner.rsplit(quote).next().unwrap_or(inner);
            return Name { text, is_quoted: true, is_of_path: false };
        }
        let is_part = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        let start = text.trim_end_matches(is_part);
        Name { text: text.get(start.len()..).unwrap_or_default(), is_quoted: false, is_of_path: start.ends_with('/') }
    }
}

/// The quote that is open at the end of a text: that of `--env='DB_PWD=`.
fn open_quote(text: &str) -> Option<char> {
    text.chars().filter(|c| ['"', '\''].contains(c)).fold(None, |open, quote| match open {
        None => Some(quote),
        Some(open) if open == quote => None,
        open => open,
    })
}

/// The length of a word in quotes: up to the quote that closes it, or beyond, where the shell would read on. `opened_by`:
/// the quote that was opened before it.
fn quoted(text: &str, opened_by: Option<char>) -> usize {
    let (mut open, mut escaped) = (opened_by, false);
    for (at, c) in text.char_indices() {
        match (open, c) {
            _ if escaped => escaped = false,
            (Some('"') | None, '\\') => escaped = true,
            (Some(quote), c) if c == quote && opened_by.is_some() => return at,
            (Some(quote), c) if c == quote => open = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => open = Some(c),
            (None, c) if c.is_alphanumeric() => {}
            (None, _) => return at,
        }
    }
    text.trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets() {
        for name in [
            "DB.PASSWORD",
            "db.secret",
            "titus:db-password",
            "passphrase",
            "db_pwd",
            "Api Key",
            "API_KEY",
            "api.key",
            "apiKey",
            "AWS_ACCESS_KEY_ID",
            "ssh-key",
            "private.key",
            "Authorization",
            "docker.auth",
            "X-Amz-Signature",
            "aws_credentials",
            "SessionToken",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "",
            "key",
            "tag",
            "keyring",
            "apt.sources",
            "Key",
            "agent.asg",
            "titus.attributes",
            "master.address",
            "keys",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn values_are_hidden_by_the_names_in_them() {
        let value = json!({
            "a": { "DB.PASSWORD": "x", "b": "http://u:p@h", "auth": { "user": 1, "none": null } }, "keys": ["1"], "pwd": ["2"]
        });
        let expected = json!({
            "a": { "DB.PASSWORD": "***", "b": "http://***@h", "auth": { "user": "***", "none": null } },
            "keys": ["1"], "pwd": ["***"]
        });
        assert_eq!(hide("", &value), expected);
        assert_eq!((shown("token", "x"), shown("x", "token=y")), ("***".into(), "token=***".into()));
    }

    #[test]
    fn secrets_are_hidden() {
        for (text, shown) in [
            ("deb https://user:pw@host/x and http://a@b", "deb https://***@host/x and http://***@b"),
            ("https://host/a@b", "https://host/a@b"),
            ("https://u:p@ss@host/", "https://***@host/"),
            ("https://h/a.deb?X-Amz-Signature=ab&u=http://c/ next", "https://h/a.deb?*** next"),
            ("url = \"https://u:p@h?a=b\" what?", "url = \"https://***@h?***\" what?"),
            ("a,https://u:p@h/x,https://v:q@i/y", "a,https://***@h/x,https://***@i/y"),
            ("password = \"hunter2\" next", "password = \"***\" next"),
            ("{\"token\":\"abc\"}", "{\"token\":\"***\"}"),
            ("a token was asked for", "a token was asked for"),
            ("aws.secret: abc", "aws.secret: ***"),
            ("DB_PWD=abc next", "DB_PWD=*** next"),
            ("docker run --env='DB_PASSWORD=two words' x", "docker run --env='DB_PASSWORD=***' x"),
            ("sudo x --set 'a.\"DB.PASSWORD\"=two words' y", "sudo x --set 'a.\"DB.PASSWORD\"=***' y"),
            ("the node's token='two words' y", "the node's token='***' y"),
            ("export API_KEY='it'\\''s two' next", "export API_KEY='***' next"),
            ("{ \"api key\" = \"two \\\" words\", x = 1 }", "{ \"api key\" = \"***\", x = 1 }"),
            ("a = { tokens = [\"a b\", \"c\"], x = 1 }", "a = { tokens = ***"),
            ("api_token:abc;x:y", "api_token:***"),
            ("/etc/passwd: cannot be read", "/etc/passwd: cannot be read"),
            ("unauthorized: authentication required", "unauthorized: authentication required"),
            ("auth://host", "auth://host"),
            ("password =", "password ="),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    fn lines_of_files_are_hidden_to_their_end() {
        for (line, shown) in [
            ("+export DB_PASSWORD=two words", "+export DB_PASSWORD=***"),
            ("-auth: Basic dXNlcg==\n x", "-auth: ***\n x"),
            ("+  \"db.secret.x\": \"two words\",\n", "+  \"db.secret.x\": \"***\",\n"),
            ("+Environment=\"DB_PWD=two words\"", "+Environment=\"DB_PWD=***\""),
            ("+API KEY = x y", "+API KEY = ***"),
            ("+plain=x y", "+plain=x y"),
        ] {
            assert_eq!(masked(line), shown);
        }
    }

    #[test]
    fn a_value_that_is_known_is_hidden_wherever_it_stands() {
        learn("", &json!({ "db.password": "Zm9vYmFy", "auth": ["long\nmultiline", "no"], "pwd": 47_114_711 }));
        learn("proxy", &json!("http://someone:geheimes@h:1/x"));
        let text = "DB=xZm9vYmFy at multiline of no 47114711 for someone:geheimes and geheimes";
        assert_eq!(masked(text), "DB=x*** at *** of no *** for *** and ***");
        assert!(
            is_known("xZm9vYmFy") && !is_known("no") && has_credentials("http://u@h") && !has_credentials("Zm9vYmFy")
        );
    }

    #[test]
    fn a_line_of_a_log_is_still_json() {
        assert_eq!(
            masked("{\"message\":\"token=two words\",\"x\":\"é\"}\n"),
            "{\"message\":\"token=***\",\"x\":\"é\"}\n"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "([a-z\"'=: \\[{\\\\/@?+-]|\\PC){0,100}") {
            masked(&text);
            masked(&format!("password={text}://{text}@{text}"));
            masked(&format!("+{text}token: {text}"));
        }
    }
}
