//! Lines of a properties file, with the key and the value that Java reads in each.
//!
//! The rules are those of the documentation of `java.util.Properties.load`, and where it is silent,
//! those of the `LineReader` of OpenJDK 11 and later. OpenJDK 8 differs after lines of only
//! backslashes, which nobody writes.

use super::JavaText;

const BLANKS: &[u8] = b" \t\x0c";

/// A line as Java counts them, including the lines that continue it.
pub(super) struct Line<'a> {
    /// The whole line with its line end.
    pub(super) bytes: &'a [u8],
    /// LF, CR or CR LF; empty at the end of the file.
    pub(super) end: &'a [u8],
    /// How many lines of the file it spans.
    pub(super) height: usize,
    /// Key and value; `None` for a comment or a blank line.
    pub(super) pair: Option<Pair>,
    /// Whether the file ends where the line would continue, so that appended text would become part of it.
    pub(super) open: bool,
}

/// A key and its value; `None` where four hexadecimal digits do not follow a `\u`.
pub(super) struct Pair {
    pub(super) key: Option<JavaText>,
    pub(super) value: Option<JavaText>,
}

pub(super) fn lines(contents: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = contents;
    while !rest.is_empty() {
        let line = first_line(rest);
        rest = rest.get(line.bytes.len()..).unwrap_or_default();
        lines.push(line);
    }
    lines
}

fn first_line(contents: &[u8]) -> Line<'_> {
    // Drop line ends, the backslashes before them, and the blanks after them.
    let mut text = Vec::new();
    let mut rest = contents;
    let mut height = 0;
    let (end, comment, open) = loop {
        height += 1;
        let (natural, end) = natural_line(rest);
        rest = rest.get(natural.len() + end.len()..).unwrap_or_default();
        let natural = skip_blanks(natural);
        if text.is_empty() && natural.first().is_some_and(|byte| b"#!".contains(byte)) {
            break (end, true, false);
        }
        let backslashes = natural.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            text.extend(natural);
            break (end, false, false);
        }
        text.extend(natural.split_last().map_or(natural, |(_, before)| before));
        if rest.is_empty() {
            break (end, false, true);
        }
    };
    let bytes = contents.get(..contents.len() - rest.len()).unwrap_or_default();
    // A backslash alone at the end of the file is an empty key, unless CR LF follows.
    let is_pair = !comment && (!text.is_empty() || open && end != b"\r\n");
    Line { bytes, end, height, pair: is_pair.then(|| pair(&text)), open }
}

/// The first physical line, and its line end.
fn natural_line(contents: &[u8]) -> (&[u8], &[u8]) {
    let length = contents.iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(contents.len());
    let (text, rest) = contents.split_at(length);
    let end = if rest.starts_with(b"\r\n") { 2 } else { rest.len().min(1) };
    (text, rest.get(..end).unwrap_or_default())
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| BLANKS.contains(byte)).count();
    text.get(blanks..).unwrap_or_default()
}

/// The key and value of a line, separated by one `=` or `:`, or only by blanks.
fn pair(text: &[u8]) -> Pair {
    let mut escaped = false;
    let separator = text.iter().position(|byte| {
        let separates = !escaped && (b"=:".contains(byte) || BLANKS.contains(byte));
        escaped = *byte == b'\\' && !escaped;
        separates
    });
    let (key, rest) = text.split_at(separator.unwrap_or(text.len()));
    let value = match skip_blanks(rest) {
        [b'=' | b':', value @ ..] => skip_blanks(value),
        value => value,
    };
    Pair { key: unescape(key), value: unescape(value) }
}

fn unescape(text: &[u8]) -> Option<JavaText> {
    let mut made = JavaText::new();
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        // ISO-8859-1: each byte is the character with that number.
        made.push(match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (_, Some(b't')) => 0x09,
            (_, Some(b'n')) => 0x0a,
            (_, Some(b'f')) => 0x0c,
            (_, Some(b'r')) => 0x0d,
            (_, Some(b'u')) => {
                let mut number = 0;
                for _ in 0..4 {
                    number = number * 16 + char::from(bytes.next()?).to_digit(16)?;
                }
                u16::try_from(number).ok()?
            }
            (_, Some(other)) => other.into(),
            (byte, None) => byte.into(),
        });
    }
    Some(made)
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (contents, wanted) in [
            ("a=b", vec![("a", "b")]),
            (" \t\x0ca \t: \tb ", vec![("a", "b ")]),
            ("a b = c", vec![("a", "b = c")]),
            ("a = = b", vec![("a", "= b")]),
            ("a", vec![("a", "")]),
            ("=b", vec![("", "b")]),
            ("#a=b\n ! c=d\n\n \t\ne=f", vec![("e", "f")]),
            ("a=#b", vec![("a", "#b")]),
            ("a\\=\\:\\ b=c", vec![("a=: b", "c")]),
            ("a=\\t\\n\\r\\f\\\\\\q\\u0041\\u00e9", vec![("a", "\t\n\r\x0c\\qA\u{e9}")]),
            ("a=\\ud83d\\uDE00", vec![("a", "\u{1f600}")]),
            ("a=b\\\n  c\\\r\n\td\\\re", vec![("a", "bcde")]),
            ("a\\\n  =\\\n b", vec![("a", "b")]),
            ("a=b\\\n#c", vec![("a", "b#c")]),
            ("a=b\\\\\nc=d", vec![("a", "b\\"), ("c", "d")]),
            ("#a\\\nc=d", vec![("c", "d")]),
            ("a=b\\\n\nc=d", vec![("a", "b"), ("c", "d")]),
            ("a=b\rc=d\r\ne=f\n", vec![("a", "b"), ("c", "d"), ("e", "f")]),
            ("a=1\na=2", vec![("a", "2")]),
            ("a=b\\", vec![("a", "b")]),
            ("\\\na=b", vec![("a", "b")]),
            ("\\", vec![("", "")]),
            ("\\\n", vec![("", "")]),
            ("\\\r\n", vec![]),
            ("\\\n \n", vec![]),
        ] {
            let utf16 = |text: &str| text.encode_utf16().collect::<JavaText>();
            let wanted = wanted.into_iter().map(|(key, value)| (utf16(key), utf16(value))).collect();
            assert_eq!(read(contents.as_bytes()).unwrap(), wanted, "{contents:?}");
        }
        assert_eq!(read(b"a=\xe9").unwrap().into_values().next().unwrap(), [0xe9]);
    }
}
