//! The one exit for text: whatever its source, no terminal obeys it.
//!
//! Process names, file names, keys of user data and the words of services can carry control characters, which move
//! the cursor or set colours, and characters that reorder or hide what follows ("Trojan Source", CVE-2021-42574). All
//! of them are shown as escapes. Only this file writes to standard output and standard error.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::OnceLock;

use crate::secrets::{masked, without_known};

/// What reads a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// People: `\x1b`, `\u{202e}`.
    Text,
    /// Programs: escapes of JSON. Its strings alone can contain such characters.
    Json,
}

/// Whether a terminal, or a reader's eye, would take this for something other than a character.
fn is_active(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Line and paragraph separators, marks of direction and of width zero, and the tag characters.
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' => true,
        '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        c => c.is_control(),
    }
}

/// A text in which every active character is an escape.
pub fn printable(text: &str, form: Form) -> Cow<'_, str> {
    if !text.contains(is_active) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        // To a String nothing fails to be written.
        let _ = match form {
            _ if !is_active(c) => shown.write_char(c),
            Form::Text if c.is_ascii() => write!(shown, "\\x{:02x}", u32::from(c)),
            Form::Text => write!(shown, "\\u{{{:x}}}", u32::from(c)),
            Form::Json => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}")),
        };
    }
    Cow::Owned(shown)
}

/// Why something could not be written to standard output, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes to standard output. A failure ends nothing: [`lost`] reports it when all is done.
pub fn write_out(text: &str, form: Form) {
    let text = if form == Form::Text { without_known(text) } else { text.to_owned() };
    let mut out = io::stdout().lock();
    remember(out.write_all(printable(&text, form).as_bytes()).and_then(|()| out.flush()));
}

/// Writes a word in a colour (a code of SGR, ECMA-48) to standard output, as [`write_out`].
pub fn write_coloured(code: &str, word: &str) {
    remember(write!(io::stdout().lock(), "\x1b[{code}m{}\x1b[0m", printable(word, Form::Text)));
}

/// Keeps why standard output was not written to. A reader that has gone away has seen what it wanted.
pub fn remember(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = LOST.set(error.to_string());
    }
}

/// Why a part of the results is lost, if one is.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Writes to standard error. Nobody can be informed when that fails.
pub fn write_error(text: &str) {
    let _ = Messages(Form::Text).write_all(text.as_bytes());
}

/// Draws a line of progress over the one before it.
pub fn draw(line: &str) {
    let _ = write!(io::stderr().lock(), "\r\x1b[K{}", printable(line, Form::Text));
}

/// Standard error, for messages without secrets; each is written as a whole, as loggers do.
#[derive(Debug)]
pub struct Messages(pub Form);

impl Write for Messages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        io::stderr().lock().write_all(printable(&masked(&text), self.0).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, shown) in [
            ("plain é 日本 \u{1f600}\n\tnext", "plain é 日本 \u{1f600}\n\tnext"),
            ("\x1b[2J\x07\r\x7f\0", "\\x1b[2J\\x07\\x0d\\x7f\\x00"),
            ("\u{9b}31m \u{85}", "\\u{9b}31m \\u{85}"),
            ("a\u{202e}b\u{2066}c\u{200b}d\u{feff}\u{ad}", "a\\u{202e}b\\u{2066}c\\u{200b}d\\u{feff}\\u{ad}"),
            ("\u{2028}\u{61c}\u{e0041}", "\\u{2028}\\u{61c}\\u{e0041}"),
        ] {
            assert_eq!(printable(text, Form::Text), shown);
        }
    }

    #[test]
    fn a_json_document_has_the_same_values_and_no_active_characters() {
        let value = serde_json::json!({ "a\u{202e}": ["\x1b[2J", "\u{7f}\u{9b}\u{e0041}\n", "plain"] });
        let text = format!("{value:#}\n");
        let shown = printable(&text, Form::Json);
        assert!(!shown.contains(is_active), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_printable(text in "\\PC{0,50}|.{0,50}", form in proptest::bool::ANY) {
            let form = if form { Form::Json } else { Form::Text };
            proptest::prop_assert!(!printable(&text, form).contains(is_active));
        }
    }
}
