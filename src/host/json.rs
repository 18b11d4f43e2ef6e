//! Reads JSON documents of any size from other programs in bounded memory.

use std::io::{Error, ErrorKind, Read, Result};
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The deepest nesting of lists and objects. Mesos and Titus use about ten levels.
const DEPTH: usize = 64;

/// The longest text or number, bytes.
const TOKEN: usize = 64 << 10;

/// How much of the start of a document is kept for messages, bytes.
pub(super) const START: usize = 2 << 10;

/// A reader that passes a document on, and fails at a text or a nesting that would need unbounded memory. So a parser
/// that keeps little needs little memory, however long the document is.
pub struct Bounded<R> {
    inner: R,
    depth: usize,
    in_text: bool,
    escaped: bool,
    token: usize,
    start: Vec<u8>,
}

/// Describes what is wrong with a document, in the terms of JSON.
pub fn describe_error(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!("line {}, column {}", error.line(), error.column());
    let message = message.split(" at line ").next().unwrap_or_default();
    match error.classify() {
        serde_json::error::Category::Io => message.to_owned(),
        serde_json::error::Category::Eof => format!("the JSON ends in the middle ({place})"),
        serde_json::error::Category::Syntax => format!("it is not JSON ({place})"),
        serde_json::error::Category::Data => format!("{} ({place})", wrong_value(message)),
    }
}

/// Rewrites serde's message about a value in plain words.
pub fn wrong_value(message: &str) -> String {
    if let Some((_, expected)) = message.split_once(", expected ").filter(|_| message.starts_with("invalid ")) {
        return format!("a value is not {}", expected_value(expected).0);
    }
    for (begins, words) in [
        ("unknown field ", "unknown key "),
        ("missing field ", "there is no key "),
        ("duplicate field ", "there are two keys "),
        ("unknown variant ", "unknown word "),
    ] {
        if let Some(rest) = message.strip_prefix(begins) {
            return format!("{words}{}", rest.split(", expected").next().unwrap_or_default());
        }
    }
    message.to_owned()
}

/// Describes the values of a Rust type, by the name that serde gives it, with an example.
pub fn expected_value(expected: &str) -> (&str, &'static str) {
    match expected {
        "u8" => ("a whole number from 0 to 255", "3"),
        "u16" => ("a whole number from 1 to 65535", "5051"),
        "a port, from 1 to 65535" => ("a port, from 1 to 65535", "5051"),
        "u32" | "u64" | "usize" => ("a whole number, not negative and without quotes", "10"),
        "i8" | "i16" | "i32" | "i64" | "isize" => ("a whole number, without quotes", "10"),
        "f32" | "f64" => ("a number, without quotes", "1.5"),
        "a boolean" => ("true or false, without quotes", "true"),
        "a string" | "a borrowed string" | "string" => ("text in quotes", "\"main\""),
        "a sequence" => ("a list in brackets", "[\"a\", \"b\"]"),
        "a map" => ("a table", "{ key = \"value\" }"),
        _ if expected.starts_with("struct ") => ("a table", "{ key = \"value\" }"),
        _ => (expected.trim_start_matches("expected "), ""),
    }
}

impl<R: Read> Bounded<R> {
    /// A reader of the document in `inner`.
    pub fn new(inner: R) -> Bounded<R> {
        Bounded { inner, depth: 0, in_text: false, escaped: false, token: 0, start: Vec::new() }
    }

    /// The first 2 KiB of the document, as far as it has been read.
    pub fn start(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    fn follow(&mut self, byte: u8) -> Result<()> {
        let structural = !self.in_text && b"{}[],:".contains(&byte);
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_text => self.escaped = true,
            b'"' => self.in_text = !self.in_text,
            b'{' | b'[' if structural => self.depth += 1,
            b'}' | b']' if structural => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.token = if structural { 0 } else { self.token + 1 };
        let why = match (self.depth, self.token) {
            (depth, _) if depth > DEPTH => format!("more than {DEPTH} nested lists and objects"),
            (_, token) if token > TOKEN => format!("a text or number of more than {} KiB", TOKEN >> 10),
            _ => return Ok(()),
        };
        Err(Error::new(ErrorKind::InvalidData, why))
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.inner.read(buffer)?;
        let new = buffer.get(..count).unwrap_or_default();
        let kept = new.len().min(START - self.start.len());
        self.start.extend_from_slice(new.get(..kept).unwrap_or_default());
        for byte in new {
            self.follow(*byte)?;
        }
        Ok(count)
    }
}

/// Passes each item of a list to `each`, and keeps none. The list is the document itself, or the value of a key that is
/// `wanted`. Returns whether there was such a list.
///
/// # Errors
/// Fails when the document is not JSON, or an item is not a `T`.
pub fn each_item<T: for<'de> Deserialize<'de>>(
    document: impl Read,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(T),
) -> serde_json::Result<bool> {
    let mut reader = serde_json::Deserializer::from_reader(std::io::BufReader::new(document));
    let mut found = false;
    let lists = Lists { wanted: Some(&wanted), each: &mut each, found: &mut found, item: PhantomData };
    lists.deserialize(&mut reader)?;
    reader.end()?;
    Ok(found)
}

/// A value whose lists are read.
struct Lists<'a, T> {
    /// The keys whose values may be lists; `None` if the value itself must be the list.
    wanted: Option<&'a dyn Fn(&str) -> bool>,
    each: &'a mut dyn FnMut(T),
    found: &'a mut bool,
    item: PhantomData<T>,
}

impl<'de, T: for<'any> Deserialize<'any>> DeserializeSeed<'de> for Lists<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> std::result::Result<(), D::Error> {
        value.deserialize_any(self)
    }
}

impl<'de, T: for<'any> Deserialize<'any>> Visitor<'de> for Lists<'_, T> {
    type Value = ();

    fn expecting(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        *self.found = true;
        while let Some(item) = list.next_element::<T>()? {
            (self.each)(item);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = object.next_key::<String>()? {
            if self.wanted.is_some_and(|wanted| wanted(&key)) {
                let inner = Lists { wanted: None, each: &mut *self.each, found: &mut *self.found, item: PhantomData };
                object.next_value_seed(inner)?;
            } else {
                object.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> std::result::Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Item {
        id: Option<String>,
    }

    fn ids(text: &str, key: Option<&str>) -> std::result::Result<(bool, Vec<String>), String> {
        let mut ids = Vec::new();
        let wanted = |name: &str| key.is_none_or(|key| key == name);
        let found = each_item(Bounded::new(text.as_bytes()), wanted, |item: Item| ids.extend(item.id));
        found.map(|found| (found, ids)).map_err(|e| e.to_string())
    }

    #[test]
    fn the_items_of_lists_are_read_wherever_the_list_is() {
        for (text, key, expected) in [
            (
                r#"{"a": [{"id": "1", "x": [{"id": "no"}]}, {}, {"id": "2"}], "b": 7}"#,
                Some("a"),
                (true, vec!["1", "2"]),
            ),
            (r#"{"b": [{"id": "1"}], "a": []}"#, Some("a"), (true, vec![])),
            (r#"{"b": [{"id": "1"}]}"#, Some("a"), (false, vec![])),
            (r#"{"b": [{"id": "1"}]}"#, None, (true, vec!["1"])),
            (r#"[{"id": "1"}]"#, None, (true, vec!["1"])),
            (
                r#"{"a": "x", "b": null, "c": true, "d": -1, "e": 1.5, "f": {"g": [{"id": "1"}]}}"#,
                None,
                (false, vec![]),
            ),
            ("{}", None, (false, vec![])),
        ] {
            let expected = (expected.0, expected.1.into_iter().map(str::to_owned).collect());
            assert_eq!(ids(text, key), Ok(expected), "{text}");
        }
        for bad in ["", "{", "<html>", r#"{"a": [1]}"#, "[] []", r#"{"a": [{"id": 5}]}"#] {
            assert!(ids(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_needs_unbounded_memory_is_refused() {
        let deep = "[".repeat(DEPTH + 1);
        assert!(ids(&format!("{{\"b\": {deep}"), Some("a")).unwrap_err().contains("nested lists and objects"));
        let text = |length: usize| format!(r#"{{"b": "{}"}}"#, "x".repeat(length));
        assert_eq!(ids(&text(TOKEN - 3), Some("a")), Ok((false, vec![])));
        assert!(ids(&text(TOKEN), Some("a")).unwrap_err().contains("64 KiB"));
        assert!(ids(&format!("[{}", "1".repeat(TOKEN + 1)), None).is_err());
        // Brackets and quotes within a text do not count.
        let inner = format!(r#"[{{"id": "{}\"{}\\"}}]"#, "[".repeat(2 * DEPTH), "{,:".repeat(DEPTH));
        assert!(ids(&inner, None).unwrap().0);
    }

    #[test]
    fn the_start_is_kept() {
        let long = format!("[{}]", "1,".repeat(START));
        let mut document = Bounded::new(long.as_bytes());
        std::io::copy(&mut document, &mut std::io::sink()).unwrap();
        assert_eq!(document.start(), long[..START]);
    }
}
