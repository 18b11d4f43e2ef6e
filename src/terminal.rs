//! The one place that prints text. Whatever its source, the text cannot control a terminal.
//!
//! Process names, file names, keys of user data and the output of services can contain control characters, which move the
//! cursor or set colours, and characters that reorder or hide the text after them ("Trojan Source", CVE-2021-42574). All of
//! these are shown as escapes. Only this file writes to standard output and standard error.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::writer::MakeWriter;

use crate::secrets::{mask_known, masked};

/// The reader of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// People: `\x1b`, `\u{202e}`.
    Text,
    /// Programs: escapes of JSON. Only its strings can contain such characters.
    Json,
}

/// Whether a terminal, or a reader's eye, would not take this for an ordinary character.
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
        // Writing to a String cannot fail.
        let _ = match form {
            _ if !is_active(c) => shown.write_char(c),
            Form::Text if c.is_ascii() => write!(shown, "\\x{:02x}", u32::from(c)),
            Form::Text => write!(shown, "\\u{{{:x}}}", u32::from(c)),
            Form::Json => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}")),
        };
    }
    Cow::Owned(shown)
}

/// Why standard output could not be written to, the first time.
static LOST: OnceLock<String> = OnceLock::new();

/// Writes to standard output. A failure does not end the command: [`lost`] reports it at the end.
pub fn write_out(text: &str, form: Form) {
    let text = if form == Form::Text { mask_known(text) } else { text.to_owned() };
    let mut line = line_for(&text);
    let mut out = io::stdout().lock();
    remember(out.write_all(printable(&text, form).as_bytes()).and_then(|()| out.flush()));
    line.wrote(&text);
}

/// Writes a word in a colour (a code of SGR, ECMA-48) to standard output, like [`write_out`].
pub fn write_coloured(code: &str, word: &str) {
    let mut line = line_for(word);
    remember(write!(io::stdout().lock(), "\x1b[{code}m{}\x1b[0m", printable(word, Form::Text)));
    line.wrote(word);
}

/// Remembers why standard output could not be written to. A reader that has gone away is not an error, because it has seen
/// what it wanted.
pub fn remember(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && !is_terminal_gone(&error)
    {
        let _ = LOST.set(error.to_string());
    }
}

/// Whether a terminal has gone away. A failing disk gives the same error for a file.
fn is_terminal_gone(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    error.raw_os_error() == Some(EIO) && AT_TERMINAL.get().is_some_and(|at_terminal| *at_terminal)
}

/// Whether standard output was a terminal when the program began. A terminal that has gone away no longer counts as one.
static AT_TERMINAL: OnceLock<bool> = OnceLock::new();

/// Looks at standard output before anything is written.
pub fn begin() {
    AT_TERMINAL.get_or_init(|| io::stdout().is_terminal());
}

/// Whether a line can be redrawn on standard error.
pub fn draws() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|name| name != "dumb")
}

/// The width in columns, if standard output is a terminal.
pub fn width() -> Option<usize> {
    terminal_size::terminal_size_of(io::stdout()).map(|(terminal_size::Width(columns), _)| usize::from(columns))
}

/// The priority of a message, with the numbers of syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Something failed.
    Error = 3,
    /// An operator should know.
    Warning = 4,
    /// Normal messages.
    Info = 6,
}

/// Whether the journal of systemd reads standard error.
static TO_JOURNAL: OnceLock<()> = OnceLock::new();

/// From now on each line on standard error starts with its priority, which the journal removes (sd-daemon(3)).
pub fn write_for_journal() {
    TO_JOURNAL.get_or_init(|| ());
}

/// Whether the journal of systemd reads standard error.
pub fn is_read_by_journal() -> bool {
    TO_JOURNAL.get().is_some()
}

/// Puts the priority in front of each line of a text.
fn with_priority(text: &str, priority: Priority) -> String {
    text.split_inclusive('\n').map(|line| format!("<{}>{line}", priority as u8)).collect()
}

/// Why a part of the output was lost, if any was.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Writes to standard error. If that fails, nobody can be informed.
pub fn write_error(text: &str) {
    let _ = Prioritized { form: Form::Text, priority: Priority::Error }.write_all(text.as_bytes());
}

/// The last line of the terminal that standard output and standard error share, if they do.
#[derive(Debug, Default)]
struct LastLine {
    /// Whether it is a progress line, which the next text replaces.
    is_drawn: bool,
    /// Whether it is not complete yet.
    is_open: bool,
    /// When something other than a progress line was last written.
    written: Option<Instant>,
}

static LAST_LINE: Mutex<LastLine> = Mutex::new(LastLine { is_drawn: false, is_open: false, written: None });

impl LastLine {
    fn erase(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let _ = io::stderr().lock().write_all(b"\r\x1b[K");
        }
    }

    fn wrote(&mut self, text: &str) {
        if !text.is_empty() {
            (self.is_open, self.written) = (!text.ends_with('\n'), Some(Instant::now()));
        }
    }
}

/// Locks the last line, and clears it for a text. Until it is dropped, nothing else is written.
fn line_for(text: &str) -> MutexGuard<'static, LastLine> {
    let mut line = LAST_LINE.lock().unwrap_or_else(PoisonError::into_inner);
    if !text.is_empty() {
        line.erase();
    }
    line
}

/// The time since something other than a progress line was written.
pub fn silence() -> Duration {
    line_for("").written.map_or(Duration::MAX, |written| written.elapsed())
}

/// Draws a line of progress on standard error, which is a terminal, over the line before it. A line that is too long is cut
/// off at the edge (DECAWM), so that the next one overwrites it.
pub fn draw(text: &str) {
    let mut line = line_for("");
    if !line.is_open {
        let text = printable(text, Form::Text).replace('\n', " ");
        line.is_drawn = write!(io::stderr().lock(), "\r\x1b[K\x1b[?7l{text}\x1b[?7h").is_ok();
    }
}

/// Removes what [`draw`] has drawn.
pub fn erase() {
    line_for("").erase();
}

/// Writes a line of JSON to standard error.
pub fn write_json_line(text: &str, priority: Priority) {
    let _ = Prioritized { form: Form::Json, priority }.write_all(text.as_bytes());
}

/// Standard error for a logger's messages. Each message is written as a whole, without secrets.
#[derive(Debug, Clone, Copy)]
pub struct Messages(pub Form);

impl<'a> MakeWriter<'a> for Messages {
    type Writer = Prioritized;

    fn make_writer(&'a self) -> Prioritized {
        Prioritized { form: self.0, priority: Priority::Info }
    }

    fn make_writer_for(&'a self, message: &Metadata<'_>) -> Prioritized {
        let priority = match *message.level() {
            Level::ERROR => Priority::Error,
            Level::WARN => Priority::Warning,
            _ => Priority::Info,
        };
        Prioritized { form: self.0, priority }
    }
}

/// Standard error, for one message.
#[derive(Debug)]
pub struct Prioritized {
    form: Form,
    priority: Priority,
}

impl Write for Prioritized {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        // A reader that has gone away is ignored, because the logger would try to print an error about it, and panic. The
        // values in JSON are masked before they become JSON. Masking the JSON text would be wrong, because a secret may end
        // at its quote.
        let shown = if self.form == Form::Json { mask_known(&text) } else { masked(&text) };
        let mut text = printable(&shown, self.form).into_owned();
        if is_read_by_journal() {
            text = with_priority(&text, self.priority);
        }
        let mut line = line_for(&text);
        let _ = io::stderr().lock().write_all(text.as_bytes());
        line.wrote(&text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_that_controls_a_terminal_is_left() {
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
    fn each_line_for_the_journal_has_its_priority() {
        assert_eq!(with_priority("one\n  cause: two\n", Priority::Error), "<3>one\n<3>  cause: two\n");
        assert_eq!(with_priority("one", Priority::Warning), "<4>one");
        assert_eq!(with_priority("", Priority::Info), "");
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
