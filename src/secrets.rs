//! Finds secrets in everything that the program prints, logs or stores, and hides them.
//!
//! A text is secret because of the name that it is assigned to, because of its place in an address, or because it is the value
//! of something with a secret's name ([`learn`]), wherever that value occurs.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};

/// The text shown in place of a secret.
pub const HIDDEN: &str = "***";

/// Words in the names of secrets, in any case.
const WORDS: [&str; 9] = ["pass", "pwd", "secret", "token", "credential", "auth", "private", "signature", "key"];

/// Words that contain one of [`WORDS`] but do not name a secret.
const FRIENDS: [&str; 26] = [
    "author",
    "authority",
    "authorities",
    "authors",
    "bypass",
    "compass",
    "passive",
    "passthrough",
    // Settings of systemd.exec(5), which plans show.
    "privatedevices",
    "privateipc",
    "privatemounts",
    "privatenetwork",
    "privatepids",
    "privatetmp",
    "privateusers",
    "secretary",
    "keyboard",
    "keyring",
    "keyrings",
    "keyserver",
    "keyspace",
    "keystore",
    "keyword",
    "keywords",
    "monkey",
    "tokenizer",
];

/// Last words of a name that refers to a key without being one: its location, its name, its checksum.
const OF_KEYS: [&str; 14] = [
    "url",
    "uri",
    "path",
    "file",
    "fingerprint",
    "sha256",
    "ring",
    "server",
    "algorithm",
    "type",
    "size",
    "length",
    "name",
    "prefix",
];

/// Keys that are always secrets, without the separators between their words.
const KEYS: [&str; 6] = ["apikey", "accesskey", "encryptionkey", "masterkey", "signingkey", "sshkey"];

/// The setting that names the public key of an apt source.
const PUBLIC_KEY: &str = "apt.sources.key";

/// The setting with the path of a credentials file.
const PATH_OF_CREDENTIALS: &str = "docker.auth";

/// The fact whether the metadata service demands tokens: `optional` or `required`, which messages have as words.
const TOKENS_OF_METADATA: &str = "instance.http_tokens";

/// A name before a colon in a message, as opposed to a line of a file, is a secret's only if it contains one of these.
const WORDS_OF_MESSAGES: [&str; 3] = ["password", "token", "secret"];

/// The start of a private key in PEM (RFC 7468), in OpenSSH's form and in OpenPGP's, after `BEGIN` and its algorithm.
const PEM: &str = "PRIVATE KEY";

/// Headers with secret values (RFC 9110, RFC 6265). A header with a `-` and a secret's name also counts.
const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// Shorter values are hidden only under their names: elsewhere, hiding them would hide too much.
const SHORTEST: usize = 6;

/// The values of known secrets.
static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Whether the value with this name must be hidden. When in doubt, it is a secret.
pub fn is_secret(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    if [PATH_OF_CREDENTIALS, TOKENS_OF_METADATA].contains(&lower.as_str()) {
        return false;
    }
    let joined: String = lower.chars().filter(char::is_ascii_alphanumeric).collect();
    if KEYS.iter().any(|key| joined.contains(key)) {
        return true;
    }
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut suspects = words.iter().filter(|word| !FRIENDS.contains(word));
    let is_of_key =
        |name: &str| name.contains("key") && !WORDS.iter().any(|word| *word != "key" && name.contains(word));
    // `key` alone often does not mean a secret.
    if is_of_key(&joined) && (matches!(words.as_slice(), ["key" | "keys"]) || is_public_key(&lower, &words)) {
        return false;
    }
    suspects.any(|word| WORDS.iter().any(|secret| word.contains(secret)))
}

/// Whether a name that contains `key` means a public key.
fn is_public_key(name: &str, words: &[&str]) -> bool {
    let said = words.last().is_some_and(|last| {
        OF_KEYS
            .iter()
            .any(|of_key| last == of_key || last.strip_suffix(of_key).is_some_and(|rest| rest.ends_with("key")))
    });
    said || name == PUBLIC_KEY || words.iter().any(|word| word.starts_with("public"))
}

/// Hides the secrets in a value, by its names and by the form of its strings.
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

/// Hides the secrets in a text that has this name.
pub fn shown(name: &str, text: &str) -> String {
    if is_secret(name) { HIDDEN.to_owned() } else { masked(text) }
}

/// Learns the secret values in these facts and settings, to hide them wherever they occur: in a file under
/// another name, in a command.
pub fn learn(name: &str, value: &Json) {
    match value {
        Json::Object(table) => table.iter().for_each(|(key, value)| learn(&join(name, key), value)),
        Json::Array(list) => list.iter().for_each(|value| learn(name, value)),
        Json::String(text) if is_secret(name) || text.contains(PEM) => learn_text(text),
        Json::String(text) => user_infos(text).for_each(|info| {
            learn_text(info);
            info.split(':').skip(1).for_each(learn_text);
        }),
        Json::Number(number) if is_secret(name) => learn_text(&number.to_string()),
        _ => {}
    }
}

/// Learns one text, such as a secret in quotes.
pub fn learn_text(text: &str) {
    known().extend(text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST).map(str::to_owned));
}

/// Whether a text contains a known secret value.
pub fn is_known(text: &str) -> bool {
    known().iter().any(|value| text.contains(value))
}

fn known() -> MutexGuard<'static, BTreeSet<String>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}

/// Hides secrets: known values; in an address, its user info and a query that signs
/// for it (an address signed by S3); and whatever is assigned to a secret's name.
pub fn masked(text: &str) -> String {
    let text = mask_known(&mask_private_keys(&mask_user_infos(text)));
    text.split_inclusive('\n').map(|line| mask_schemes(&mask_assigned(&mask_bare_user_infos(line)))).collect()
}

/// Hides known secret values only.
pub fn mask_known(text: &str) -> String {
    let mut text = text.to_owned();
    let mut values: Vec<String> = known().iter().filter(|value| text.contains(*value)).cloned().collect();
    // One value may contain another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    for value in values {
        text = text.replace(&value, HIDDEN);
    }
    text
}

/// Whether an address has user info, or a query that signs for it.
pub fn has_credentials(address: &str) -> bool {
    mask_user_infos(address) != address
}

fn user_infos(text: &str) -> impl Iterator<Item = &str> {
    text.split("://").skip(1).filter_map(|rest| {
        let (authority, _) = rest.split_at(end_of_authority(rest));
        Some(authority.rsplit_once('@')?.0)
    })
}

fn is_end_of_authority(c: char) -> bool {
    c == '/' || is_end_of_word(c)
}

/// The index where the authority of an address ends. If the text after its colon is not a port, it is a password,
/// which can contain a `/` or a blank although it should not.
fn end_of_authority(text: &str) -> usize {
    let end = text.find(is_end_of_authority).unwrap_or(text.len());
    let authority = text.get(..end).unwrap_or(text);
    let port = authority.rsplit_once(':').filter(|_| !authority.contains(['@', '[']));
    let Some((_, port)) = port.filter(|(_, port)| !port.is_empty() && !port.bytes().all(|byte| byte.is_ascii_digit()))
    else {
        return end;
    };
    // Search up to the next address, whose `@` is its own, or to the end of the line.
    let next = text.find("://").unwrap_or(text.len());
    let line = text.get(..next).and_then(|text| text.find('\n')).unwrap_or(next);
    let at = text.get(..line).and_then(|line| line.rfind('@')).filter(|at| *at >= end);
    at.map_or(end, |at| {
        let host = text.get(at..).unwrap_or_default();
        at + host.find(is_end_of_authority).unwrap_or(host.len())
    })
    .max(end - port.len())
}

fn is_end_of_word(c: char) -> bool {
    c.is_whitespace() || c == '"' || c == '\''
}

fn mask_user_infos(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        made.push_str(before);
        let (authority, tail) = after.split_at(end_of_authority(after));
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => {
                made.push_str("***@");
                host
            }
            None => authority,
        };
        // Search up to the next address, which may follow without a blank.
        let own = tail.get(..tail.find("://").unwrap_or(tail.len())).unwrap_or(tail);
        let own = own.get(..own.find(is_end_of_word).unwrap_or(own.len())).unwrap_or(own);
        let after_word = || tail.get(tail.find(is_end_of_word).unwrap_or(tail.len())..).unwrap_or_default();
        if let Some((host, _)) = host.split_once('?') {
            made.push_str(&format!("{host}?***"));
            rest = after_word();
        } else if let Some((path, _)) = own.split_once('?') {
            made.push_str(&format!("{host}{path}?***"));
            rest = after_word();
        } else {
            made.push_str(host);
            rest = tail;
        }
    }
    made + rest
}

/// Hides private keys in PEM, even if the text ends within one.
fn mask_private_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let (mut made, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(BEGIN) {
        let (before, after) = rest.split_at(at + BEGIN.len());
        let label = after.find("-----").and_then(|end| after.get(..end)).filter(|label| label.len() < 64);
        made.push_str(before);
        rest = after;
        if let Some(label) = label.filter(|label| label.contains(PEM)) {
            made.push_str(&format!("{label}-----{HIDDEN}"));
            rest = after.find(END).and_then(|end| after.get(end..)).unwrap_or_default();
        }
    }
    made + rest
}

/// Hides user and password in `user:password@host`, an address without its scheme.
fn mask_bare_user_infos(line: &str) -> String {
    let is_part = |c: char| !is_end_of_word(c) && !"=,;()<>[]{}".contains(c);
    let (mut made, mut rest) = (String::new(), line);
    while let Some(start) = rest.find(is_part) {
        let (before, after) = rest.split_at(start);
        // A password ends with the word.
        let end = after.find(is_end_of_word).unwrap_or(after.len());
        let (word, tail) = after.split_at(end);
        let is_user = |user: &str| !user.is_empty() && !user.contains('/');
        let found = word.rsplit_once('@').filter(|(info, host)| {
            let user = info.split_once(':').map(|(user, password)| (user.rsplit(|c| !is_part(c)).next(), password));
            // `name:tag@sha256:…` is an image.
            !word.contains("://")
                && host.starts_with(|c: char| c.is_alphanumeric() || c == '[')
                && !host.starts_with("sha256:")
                && user.is_some_and(|(user, password)| user.is_some_and(is_user) && !password.is_empty())
        });
        made.push_str(before);
        match found {
            Some((info, host)) => {
                let user =
                    info.split_once(':').map_or(0, |(user, _)| user.rfind(|c| !is_part(c)).map_or(0, |at| at + 1));
                made.push_str(info.get(..user).unwrap_or_default());
                made.push_str(&format!("{HIDDEN}@{host}"));
            }
            None => made.push_str(word),
        }
        rest = tail;
    }
    made + rest
}

/// Hides the word after the name of an HTTP authentication scheme: `Bearer abc123`.
fn mask_schemes(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let (mut made, mut copied) = (String::new(), 0);
    for (at, scheme) in ["bearer ", "basic "].iter().flat_map(|scheme| lower.match_indices(scheme)) {
        let start = at + scheme.len();
        let word = line.get(start..).unwrap_or_default();
        let word = word
            .get(..word.find(|c: char| is_end_of_word(c) || ",;".contains(c)).unwrap_or(word.len()))
            .unwrap_or(word);
        // Skip words of an ordinary sentence.
        let is_code = word.len() >= 6 && word.chars().skip(1).any(|c| !c.is_ascii_lowercase());
        let is_scheme = !lower.get(..at).is_some_and(|before| before.ends_with(|c: char| c.is_alphanumeric()));
        if start >= copied && is_code && is_scheme {
            made.push_str(line.get(copied..start).unwrap_or_default());
            made.push_str(HIDDEN);
            copied = start + word.len();
        }
    }
    made + line.get(copied..).unwrap_or_default()
}

/// Hides whatever a line assigns to a secret's name: `password = "…"`, `DB_PWD=…`, `"token":"…"`.
fn mask_assigned(line: &str) -> String {
    // In a line of a file, such as a diff shows, everything after the name is the value, including blanks.
    let is_file_line = line.starts_with(['+', '-']);
    let (mut made, mut copied, mut from) = (String::new(), 0, 0);
    // The open quote, and how far the search for quotes has come.
    let (mut open, mut looked) = (None, 0);
    while let Some(at) = line.get(from..).and_then(|rest| rest.find(['=', ':'])) {
        let (before, after) = line.split_at(from + at);
        let (separator, value) = after.split_at(1);
        let is_first = from == 0;
        from = before.len() + 1;
        let name = Name::parse_last(before.get(copied..).unwrap_or_default());
        let blank = value.starts_with(' ');
        let value = value.trim_start_matches(' ');
        let in_message = separator == ":" && (blank && !name.is_quoted || name.is_of_path);
        let is_assigned = match is_file_line && is_first {
            true => is_secret(before) || matches!(name.text.to_ascii_lowercase().as_str(), "key" | "keys"),
            false if in_message && !is_file_line => name.is_plain_secret() || name.is_header(),
            false => is_secret(name.text),
        };
        if !is_assigned || value.trim().is_empty() || separator == ":" && value.starts_with("//") {
            continue;
        }
        let start = line.len() - value.len();
        let word = match value.chars().next() {
            Some('"' | '\'') => quoted_length(value, None),
            Some('[' | '{') => value.trim_end().len(),
            _ if is_file_line && is_first => value.trim_end().len(),
            // The value of a header may contain blanks.
            _ if separator == ":" && name.is_header() => value.find(['"', '\'']).unwrap_or(value.trim_end().len()),
            _ => value.find(is_end_of_word).unwrap_or(value.len()),
        };
        // An apostrophe in a message does not open a quote.
        open = open_quote(open, line.get(looked..before.len()).unwrap_or_default());
        looked = before.len();
        let length = open.map_or(word, |quote| word.max(quoted_length(value, Some(quote))));
        let quote = value.get(..1).filter(|quote| ["\"", "'"].contains(quote) && length > 1).unwrap_or_default();
        made.push_str(line.get(copied..start).unwrap_or_default());
        made.push_str(&format!("{quote}{HIDDEN}{quote}"));
        copied = start + length;
        from = copied;
    }
    made + line.get(copied..).unwrap_or_default()
}

/// The name before a `=` or `:`.
struct Name<'a> {
    text: &'a str,
    /// `"token":`.
    is_quoted: bool,
    /// A path such as `/etc/passwd:` at the start of a message about a file.
    is_of_path: bool,
}

impl Name<'_> {
    /// For messages, in which a colon often follows an ordinary word.
    fn is_plain_secret(&self) -> bool {
        let name = self.text.to_ascii_lowercase();
        !self.is_of_path && WORDS_OF_MESSAGES.iter().any(|word| name.contains(word))
    }

    fn is_header(&self) -> bool {
        let name = self.text.to_ascii_lowercase();
        !self.is_of_path && (HEADERS.contains(&name.as_str()) || name.contains('-') && is_secret(&name))
    }

    fn parse_last(text: &str) -> Name<'_> {
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

/// The quote that is open at the end of a text, e.g. after `--env='DB_PWD=`. `open` is the one open at its start.
fn open_quote(open: Option<char>, text: &str) -> Option<char> {
    text.chars().filter(|c| ['"', '\''].contains(c)).fold(open, |open, quote| match open {
        None => Some(quote),
        Some(open) if open == quote => None,
        open => open,
    })
}

/// The length of a quoted word: up to the closing quote, or further if the shell would read on. `opened_by` is
/// the quote that was opened before it.
fn quoted_length(text: &str, opened_by: Option<char>) -> usize {
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
    fn a_long_text_takes_time_by_its_length_alone() {
        // Comparing each position with everything after or before it took hours here.
        for (part, shown) in
            [("://", "://"), ("token=a ", "token=*** "), ("'token=a ", "'token=***"), ("-----BEGIN ", "-----BEGIN ")]
        {
            let text = masked(&part.repeat(1 << 16));
            assert!(text.starts_with(shown), "{part}: {}", &text[..40]);
        }
        for part in ["x://a?b", "a:b@c ", "bearer A1234567", "\"token\":", "key: [", "=    ", "https://u:", "@", "://@"]
        {
            masked(&part.repeat(1 << 16));
        }
    }

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
            "docker.auths",
            "X-Amz-Signature",
            "aws_credentials",
            "SessionToken",
            "PaSsWoRd",
            "dbPass",
            "master.properties.key",
            "stripe.key",
            "tls-key",
            "TLS_KEY_PEM",
            "kms.key.id",
            "s3Key",
            "authorized_keys",
            "authorization",
            "proxy-authorization",
            "author.password",
            "keyring.passphrase",
            "private_key_path",
            "public.token",
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
            "author",
            "project.authors",
            "certificate_authority",
            "keep",
            "keyring path",
            "apt.key_url",
            "apt.sources.key",
            "apt.sources.key.url",
            "apt.sources.key.fingerprint",
            "apt.sources.key.sha256",
            "ssh_public_key",
            "publicKey",
            "keyspace",
            "key_name",
            "compass.url",
            "proxy.bypass",
            "docker.auth",
            "instance.http_tokens",
            "PrivateTmp",
            "+PrivateNetwork",
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
            ("a token was requested", "a token was requested"),
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
            ("http://user:pa@ss@host:1/x y", "http://***@host:1/x y"),
            ("http://user:pa/ss@host:1/x y", "http://***@host:1/x y"),
            ("http://user:pa ss@host:1/x y", "http://***@host:1/x y"),
            ("see http://h:8080/a@b", "see http://h:8080/a@b"),
            ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
            ("proxy user:pw@host:3128 x", "proxy ***@host:3128 x"),
            ("proxy=user:p:w@ss@host:3128", "proxy=***@host:3128"),
            ("'user:pw@10.0.0.1'", "'***@10.0.0.1'"),
            (
                "jplock/zookeeper:3.4@sha256:ab root@host:path foo@1.service",
                "jplock/zookeeper:3.4@sha256:ab root@host:path foo@1.service",
            ),
            ("zookeeper:3.4@sha256:ab", "zookeeper:3.4@sha256:ab"),
            ("curl -H 'Authorization: Bearer abc def' x", "curl -H 'Authorization: ***' x"),
            ("sent Authorization: Basic dXNlcjpwdw==", "sent Authorization: ***"),
            ("X-Api-Key: abc", "X-Api-Key: ***"),
            ("x-amz-security-token: abc def", "x-amz-security-token: ***"),
            ("Cookie: a=b; c=d", "Cookie: ***"),
            ("with Bearer eyJhbGciOi.x, then", "with Bearer ***, then"),
            ("basic authentication, bearer tokens", "basic authentication, bearer tokens"),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc\n-----END RSA PRIVATE KEY-----\nb",
                "a\n-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----\nb",
            ),
            ("+-----BEGIN OPENSSH PRIVATE KEY-----\n+b3Bl", "+-----BEGIN OPENSSH PRIVATE KEY-----***"),
            (
                "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
                "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
            ),
            ("password=\"a \\\" b c\" d", "password=\"***\" d"),
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
            masked(&format!("http://{text}:{text}@{text} Bearer {text}-----BEGIN {text} PRIVATE KEY-----{text}"));
        }
    }
}
