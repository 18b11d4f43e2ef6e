//! Java properties files: read as `java.util.Properties.load` reads them, and edited so that
//! everything else stays byte for byte.

mod lines;

use std::collections::BTreeMap;
use std::fmt::Write;

use self::lines::{Line, Pair, lines};
use crate::error::{Error, Result};

/// A key or value in Java's encoding: UTF-16, with lone surrogates if the file has them.
pub type JavaText = Vec<u16>;

/// The result of an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The whole new file.
    pub contents: Vec<u8>,
    /// How many keys Java read with another value, or not at all.
    pub set: usize,
    /// How many later lines of the same keys are removed.
    pub duplicates: usize,
    /// The lines that differ, in order.
    pub differences: Vec<Difference>,
}

/// A line that an edit removes or adds, in this program's spelling: ASCII without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Whether the edit adds the line.
    pub added: bool,
    /// The text before the `=`.
    pub key: String,
    /// The text after it.
    pub value: String,
}

/// Refuses a key or value that a file cannot hold safely.
///
/// # Errors
/// Fails when the key is empty, or when either has a line end or a NUL. The error does not show the value.
pub fn check(key: &str, value: &str) -> Result<()> {
    if key.is_empty() {
        return Err(Error::config("a property has no name"));
    }
    for (what, text) in [("name", key), ("value", value)] {
        let found = [('\n', "a newline"), ('\r', "a carriage return"), ('\0', "a NUL character")];
        if let Some((_, found)) = found.iter().find(|(c, _)| text.contains(*c)) {
            return Err(Error::config(format!("property {key:?}: its {what} has {found}"))
                .fix("write it in one line, without a line end"));
        }
    }
    Ok(())
}

/// Every key with the value that Java reads: the last one.
///
/// # Errors
/// Fails when Java would refuse the file because four hexadecimal digits do not follow a `\u`.
pub fn read(contents: &[u8]) -> Result<BTreeMap<JavaText, JavaText>> {
    let mut read = BTreeMap::new();
    let lines = lines(contents);
    for (n, line) in lines.iter().enumerate() {
        match &line.pair {
            Some(Pair { key: Some(key), value: Some(value) }) => drop(read.insert(key.clone(), value.clone())),
            Some(_) => return Err(malformed_error(&lines[..n])),
            None => {}
        }
    }
    Ok(read)
}

/// Sets these keys, which must all differ. A key stays in its first line, which
/// does not change if it has the right value; later lines of the key are removed; a new key goes to the end.
///
/// # Errors
/// Fails for the reasons of [`read`], if the result would still have them.
pub fn edit(contents: &[u8], wanted: &[(String, String)]) -> Result<Edit> {
    let mut ours: Vec<Ours> = wanted.iter().map(|(key, value)| Ours::new(key, value)).collect();
    let places: BTreeMap<JavaText, usize> = ours.iter().enumerate().map(|(n, ours)| (ours.key.clone(), n)).collect();
    let lines = lines(contents);
    let mut edit = Edit { contents: Vec::new(), set: 0, duplicates: 0, differences: Vec::new() };
    // New lines go to the end, but before a line that would swallow them.
    let mut open_at = None;
    for (n, line) in lines.iter().enumerate() {
        let key = line.pair.as_ref().and_then(|pair| pair.key.as_ref());
        let ours = key.and_then(|key| ours.get_mut(*places.get(key)?));
        let is = line.pair.as_ref().and_then(|pair| pair.value.as_ref());
        let keep = match &ours {
            Some(ours) => !ours.seen && is == Some(&ours.value),
            None if line.pair.is_some() && (key.is_none() || is.is_none()) => {
                return Err(malformed_error(&lines[..n]));
            }
            None => true,
        };
        if keep {
            open_at = line.open.then_some(edit.contents.len());
            edit.contents.extend(line.bytes);
        }
        let Some(ours) = ours else { continue };
        ours.right = is == Some(&ours.value);
        if !keep {
            edit.differences.push(Difference::removal(&ours.key, is));
            if ours.seen {
                edit.duplicates += 1;
            } else {
                edit.add(ours, line.end);
            }
        }
        ours.seen = true;
    }
    edit.set = ours.iter().filter(|ours| !ours.right).count();
    let swallows = open_at.map_or_else(Vec::new, |at| edit.contents.split_off(at));
    let end = lines.first().map_or(&b"\n"[..], |line| if line.end.is_empty() { b"\n" } else { line.end });
    for ours in ours.iter().filter(|ours| !ours.seen) {
        if edit.contents.last().is_some_and(|byte| !b"\r\n".contains(byte)) {
            edit.contents.extend(end);
        }
        edit.add(ours, end);
    }
    edit.contents.extend(swallows);
    Ok(edit)
}

/// A key to set.
struct Ours {
    key: JavaText,
    value: JavaText,
    /// Whether the file has a line of it.
    seen: bool,
    /// Whether its last line, which Java uses, has the right value.
    right: bool,
}

impl Ours {
    fn new(key: &str, value: &str) -> Ours {
        let utf16 = |text: &str| text.encode_utf16().collect();
        Ours { key: utf16(key), value: utf16(value), seen: false, right: false }
    }
}

impl Edit {
    fn add(&mut self, ours: &Ours, end: &[u8]) {
        let made = Difference { added: true, key: format_key(&ours.key), value: format_value(&ours.value) };
        self.contents.extend(format!("{}={}", made.key, made.value).bytes());
        self.contents.extend(end);
        self.differences.push(made);
    }
}

impl Difference {
    fn removal(key: &JavaText, value: Option<&JavaText>) -> Difference {
        let value = value.map_or_else(|| "(unreadable)".into(), |value| format_value(value));
        Difference { added: false, key: format_key(key), value }
    }
}

fn malformed_error(before: &[Line<'_>]) -> Error {
    let number = 1 + before.iter().map(|line| line.height).sum::<usize>();
    Error::unavailable(format!("line {number}: a \\u without four hexadecimal digits after it"))
        .cause("java.util.Properties refuses such a file as a whole")
        .fix("fix that line; write a backslash itself as \\\\")
}

/// A key in the spelling of a file.
pub fn escape_key(key: &str) -> String {
    format_key(&key.encode_utf16().collect::<JavaText>())
}

fn format_key(key: &[u16]) -> String {
    let mut made = String::new();
    for (n, unit) in key.iter().enumerate() {
        write_unit(&mut made, *unit, if n == 0 { " =:#!" } else { " =:" });
    }
    made
}

fn format_value(value: &[u16]) -> String {
    let mut made = String::new();
    for (n, unit) in value.iter().enumerate() {
        write_unit(&mut made, *unit, if n == 0 { " " } else { "" });
    }
    made
}

/// Writes one character of a key or value. Those in `escape` also get a backslash.
fn write_unit(to: &mut String, unit: u16, escape: &str) {
    match char::from_u32(unit.into()) {
        Some('\t') => to.push_str("\\t"),
        Some('\n') => to.push_str("\\n"),
        Some('\x0c') => to.push_str("\\f"),
        Some('\r') => to.push_str("\\r"),
        Some(c @ ' '..='~') => {
            if c == '\\' || escape.contains(c) {
                to.push('\\');
            }
            to.push(c);
        }
        // Writing to a String cannot fail.
        _ => drop(write!(to, "\\u{unit:04X}")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
        wanted.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn edited(contents: &str, wanted: &[(&str, &str)]) -> String {
        let wanted = pairs(wanted);
        let once = edit(contents.as_bytes(), &wanted).unwrap();
        let again = edit(&once.contents, &wanted).unwrap();
        assert_eq!((&again.contents, again.set, again.duplicates), (&once.contents, 0, 0));
        String::from_utf8(once.contents).unwrap()
    }

    #[test]
    fn everything_else_stays_byte_for_byte() {
        for (before, after) in [
            ("", "a=1\nb=2\n"),
            ("# x\n\nc=3", "# x\n\nc=3\na=1\nb=2\n"),
            ("# x\\", "# x\\\na=1\nb=2\n"),
            ("c : 3\r\n", "c : 3\r\na=1\r\nb=2\r\n"),
            ("c 3\rb=0\r", "c 3\rb=2\ra=1\r"),
            // The key stays in its first line; an equal value keeps its spelling.
            ("b : 2\na=0\n c", "b : 2\na=1\n c"),
            ("b=2\na=\\\n  0\nc\n", "b=2\na=1\nc\n"),
            ("b=2\na=\\\n  1\nc\n", "b=2\na=\\\n  1\nc\n"),
            ("a=1\nb=2", "a=1\nb=2"),
            ("b=\\u0032\n\\u0061=1\n", "b=\\u0032\n\\u0061=1\n"),
            // Java uses the last one.
            ("a=0\nb=2\na=1\n", "a=1\nb=2\n"),
            ("a=1\nb=2\n#\na=0\nc=1\nb=2\nc=2", "a=1\nb=2\n#\nc=1\nc=2"),
            // The last line would swallow the next one.
            ("c=3\\", "a=1\nb=2\nc=3\\"),
            ("#\nc=3\\\n", "#\na=1\nb=2\nc=3\\\n"),
            ("b=2\na=0\\", "b=2\na=1"),
            ("b=2\na=0\\\n", "b=2\na=1\n"),
            ("a=1\\\n", "b=2\na=1\\\n"),
            ("\\", "a=1\nb=2\n\\"),
            // Never write a file that Java could not read.
            ("a=\\u12\nb=2", "a=1\nb=2"),
        ] {
            assert_eq!(edited(before, &[("a", "1"), ("b", "2")]), after, "{before:?}");
        }
    }

    #[test]
    fn only_what_needs_it_is_escaped() {
        for (key, value, line) in [
            ("a.b", "zk://h:1,i:2/p?x=y#z!", "a.b=zk://h:1,i:2/p?x=y#z!\n"),
            ("#a", "#b", "\\#a=#b\n"),
            ("a#!", " b ", "a#!=\\ b \n"),
            ("a b:c=d\te", "\t \\d", "a\\ b\\:c\\=d\\te=\\t \\\\d\n"),
            ("\u{e9}", "\u{1f600}\u{7f}\u{1}", "\\u00E9=\\uD83D\\uDE00\\u007F\\u0001\n"),
            ("a", "", "a=\n"),
        ] {
            assert_eq!(edited("", &[(key, value)]), line);
        }
    }

    #[test]
    fn what_java_reads_is_counted_and_shown() {
        let made =
            edit(b"a=1\n a : 1\nb=\\u12\nc=x\\\n y\nd=4", &pairs(&[("a", "1"), ("b", "2"), ("c", "3")])).unwrap();
        assert_eq!((made.set, made.duplicates), (2, 1));
        let shown: Vec<String> = made
            .differences
            .iter()
            .map(|d| format!("{}{}={}", if d.added { '+' } else { '-' }, d.key, d.value))
            .collect();
        assert_eq!(shown, ["-a=1", "-b=(unreadable)", "+b=2", "-c=xy", "+c=3"]);
        // The first line is right, but Java reads the last.
        assert_eq!(edit(b"a=1\na=0", &pairs(&[("a", "1")])).unwrap().set, 1);
        assert_eq!(edit(b"a=0\na=1", &pairs(&[("a", "1")])).unwrap().set, 0);
    }

    #[test]
    fn what_java_would_refuse_is_an_error_with_its_line() {
        for (contents, line) in [
            ("#\na=\\\n1\\\n2\nb=\\u00g0\n", "line 5:"),
            ("\n\r\n\r\r\\u=1", "line 5:"),
            ("a=1\n#\n#\n\\\n\\u123", "line 4:"),
        ] {
            let message = edit(contents.as_bytes(), &pairs(&[("a", "1")])).unwrap_err();
            assert!(message.what.starts_with(line), "{contents:?}: {message}");
            read(contents.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn values_that_must_not_be_written_are_refused() {
        for (key, value) in [("", "x"), ("a\nb", "x"), ("a\0", ""), ("a", "hunter2\n"), ("a", "b\rc"), ("a", "\0")] {
            let message = check(key, value).unwrap_err();
            assert!(!message.to_string().contains("hunter2"), "{message}");
        }
        check("a b", " \t=:#!\\\u{e9}").unwrap();
    }

    /// Mostly characters that the reader interprets.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            8 => proptest::sample::select(b"\\\\\\\n\n\r\r=:#! \t\x0cabu0041".to_vec()),
            1 => any::<u8>(),
        ];
        proptest::collection::vec(byte, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn an_edit_sets_these_keys_and_no_others(
            contents in hostile(),
            wanted in proptest::collection::btree_map("[ab\\\\=:# ]{1,2}|\\PC{1,3}", "[ab\\\\=:# \t]{0,3}|\\PC{0,3}", 0..4),
        ) {
            let before = read(&contents);
            let wanted: Vec<(String, String)> = wanted.into_iter().collect();
            let Ok(made) = edit(&contents, &wanted) else { prop_assert!(before.is_err()); return Ok(()) };
            let mut after = read(&made.contents).unwrap();
            for (key, value) in &wanted {
                let value: JavaText = value.encode_utf16().collect();
                prop_assert_eq!(after.remove(&key.encode_utf16().collect::<JavaText>()), Some(value));
            }
            if let Ok(mut before) = before {
                before.retain(|key, _| wanted.iter().all(|(ours, _)| ours.encode_utf16().ne(key.iter().copied())));
                prop_assert_eq!(after, before);
            }
            let again = edit(&made.contents, &wanted).unwrap();
            prop_assert_eq!((&again.contents, again.set, again.duplicates), (&made.contents, 0, 0));
            prop_assert!(again.differences.is_empty());
            prop_assert_eq!(made.contents == contents, made.differences.is_empty());
        }

        #[test]
        fn no_bytes_panic(contents in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _ = read(&contents);
            let _ = edit(&contents, &pairs(&[("a", "b")]));
        }
    }
}
