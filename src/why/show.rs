//! Formats an explanation for people: the value, then its origins, line by line.

use std::fmt;

use serde_json::Value as Json;

use super::{Explanation, Provenance};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} = {}", plain(&self.name), text(&self.value))?;
        if !self.place.is_empty() {
            writeln!(f, "  in {}", plain(&self.place))?;
        }
        if self.from.is_empty() && self.source != Provenance::NotSet {
            return writeln!(f, "  from {}", plain(&self.source.to_string()));
        }
        if self.is_flat() {
            return writeln!(f, "  from {}", self.summary());
        }
        self.parts(f, "from ", 2)
    }
}

impl Explanation {
    /// Whether all of its inputs are plain facts and settings, so that one line is enough.
    fn is_flat(&self) -> bool {
        self.source == Provenance::Derived && !self.from.is_empty() && self.from.iter().all(|part| part.from.is_empty())
    }

    fn summary(&self) -> String {
        let how = Some(plain(&self.how)).filter(|how| !how.is_empty());
        self.from.iter().map(|part| part.head(None)).chain(how).collect::<Vec<_>>().join(", ")
    }

    fn parts(&self, f: &mut fmt::Formatter<'_>, word: &str, indent: usize) -> fmt::Result {
        for part in &self.from {
            let head = match part.source {
                Provenance::Answered | Provenance::DidNotAnswer => {
                    format!("{}: {}", plain(&part.name), text(&part.value))
                }
                _ => part.head(Some(&self.value)),
            };
            let not = if part.source == Provenance::DidNotAnswer { "not " } else { "" };
            write!(f, "{:indent$}{not}{word}{head}", "")?;
            if part.is_flat() {
                writeln!(f, ": {}", part.summary())?;
            } else {
                writeln!(f)?;
                part.parts(f, "", indent + 2)?;
            }
        }
        if !self.how.is_empty() {
            writeln!(f, "{:indent$}{}", "", plain(&self.how))?;
        }
        Ok(())
    }

    /// Name, value and origin. A value equal to the whole is not repeated.
    fn head(&self, whole: Option<&Json>) -> String {
        let mut words = vec![self.word.to_owned(), plain(&self.name)];
        if self.source == Provenance::NotSet {
            words.push(self.source.to_string());
        } else if !self.value.is_null() && whole.is_none_or(|whole| text(whole) != text(&self.value)) {
            words.push(text(&self.value));
        }
        if !matches!(self.source, Provenance::NotSet | Provenance::Derived) {
            words.push(format!("({})", plain(&self.source.to_string())));
        }
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

fn text(value: &Json) -> String {
    match value {
        Json::Null => Provenance::NotSet.to_string(),
        Json::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// Escapes the text so that it stays on one line.
fn plain(text: &str) -> String {
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text.to_owned() }
}
