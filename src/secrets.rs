//! Secrets: found in whatever is printed, logged or kept, and hidden there.

/// What the names of secrets contain.
const WORDS: [&str; 3] = ["password", "token", "secret"];

/// Whether what has this name must not be read.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// Hides what must not be read: in an address its user info and its query, which signs for
/// what it asks for (an address that S3 has signed), and what follows the words password, token
/// or secret.
pub fn masked(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        made.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace() || c == '"' || c == '\'').unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => {
                made.push_str("***@");
                host
            }
            None => authority,
        };
        // Up to the next address, which may follow without a blank.
        let end = tail.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(tail.len());
        let own = tail.get(..tail.find("://").map_or(end, |next| next.min(end))).unwrap_or(tail);
        if host.contains('?') {
            made.push_str(&format!("{}?***", host.split('?').next().unwrap_or_default()));
            rest = tail.get(end..).unwrap_or_default();
        } else if let Some((path, _)) = own.split_once('?') {
            made.push_str(&format!("{host}{path}?***"));
            rest = tail.get(end..).unwrap_or_default();
        } else {
            made.push_str(host);
            rest = tail;
        }
    }
    made.push_str(rest);
    mask_words(&made)
}

fn mask_words(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut made = String::with_capacity(text.len());
    let mut at = 0;
    loop {
        let rest = lower.get(at..).unwrap_or_default();
        let next = WORDS.iter().filter_map(|word| Some(rest.find(word)? + at + word.len())).min();
        let Some(found) = next else { break };
        // Only an assignment: `password = "…"`, `token: …`, `"token":"…"`.
        let after = text.get(found..).unwrap_or_default().trim_start_matches(['"', '\'', ' ']);
        let value = after.strip_prefix(['=', ':']).map(|value| value.trim_start_matches(['"', '\'', ' ']));
        let Some(value) = value else {
            made.push_str(text.get(at..found).unwrap_or_default());
            at = found;
            continue;
        };
        let start = text.len() - value.len();
        made.push_str(text.get(at..start).unwrap_or_default());
        made.push_str("***");
        at = start + value.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(value.len());
    }
    made.push_str(text.get(at..).unwrap_or_default());
    made
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("", ""),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,100}") {
            masked(&text);
            masked(&format!("password={text}://{text}@{text}"));
        }
    }
}
