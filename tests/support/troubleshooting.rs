//! docs/troubleshooting.md: what a person sees of a failure, recorded by the tests that cause it. With UPDATE_GOLDEN=1 in
//! the environment they write the blocks again: read the difference in git before you commit it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use regex::Regex;

/// What a person sees before the first page is full.
const FIRST_LINES: usize = 10;

/// The lock of the process that writes the document.
static WRITER: Mutex<()> = Mutex::new(());

/// The document.
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md")
}

/// Checks what each command printed of a failure: `words` are in the first lines of each, and the section of this heading
/// shows those lines.
///
/// # Panics
/// When a block differs.
#[track_caller]
pub fn shows(heading: &str, words: &[&str], printed: &[(&str, &str)]) {
    let mut missing = String::new();
    let mut block = String::from("```text\n");
    for (command, text) in printed {
        let lines: Vec<&str> = text.lines().take(FIRST_LINES).collect();
        for word in words.iter().filter(|word| !lines.iter().any(|line| line.contains(**word))) {
            missing += &format!("{heading}: `{command}` does not begin with `{word}`:\n{text}\n");
        }
        let shown = steady(text);
        block += &format!("$ {command}\n");
        shown.lines().take(FIRST_LINES).for_each(|line| block += &format!("{line}\n"));
    }
    block += "```\n";
    assert!(missing.is_empty(), "{missing}");

    let _writer = WRITER.lock();
    let document = std::fs::read_to_string(path()).unwrap();
    let start = document.find(&format!("\n### {heading}\n"));
    let start = start.unwrap_or_else(|| panic!("docs/troubleshooting.md has no section `{heading}`"));
    let begin = start + document[start..].find("```text\n").unwrap();
    let end = begin + document[begin..].find("\n```\n").unwrap() + "\n```\n".len();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path(), format!("{}{block}{}", &document[..begin], &document[end..])).unwrap();
    } else {
        // How often, how long and how many depends on the machine, in words that nobody listed above, too.
        let number = Regex::new(r"\d+").unwrap();
        let words =
            |text: &str| text.lines().map(|line| number.replace_all(line, "#").into_owned()).collect::<Vec<_>>();
        assert_eq!(
            words(&block),
            words(&document[begin..end]),
            "docs/troubleshooting.md, {heading}: if the new one (left) is right, run with UPDATE_GOLDEN=1"
        );
    }
}

/// The text without what another run has otherwise: times, durations, numbers of processes, and how often a unit was
/// started again meanwhile.
fn steady(text: &str) -> String {
    let mut lines = Vec::new();
    // Where the message of a journal's line begins: the lines after it are indented so far.
    let mut column = 0;
    let message = Regex::new(r"^[A-Z][a-z]{2} \d\d [\d:]{8} \S+ \S+\[\d+\]: ").unwrap();
    for line in text.lines() {
        if let Some(start) = message.find(line) {
            column = start.end();
        }
        let is_further =
            column > 0 && line.len() > column && line.as_bytes()[..column].iter().all(|byte| *byte == b' ');
        lines.push(if is_further { format!("        {}", &line[column..]) } else { line.to_owned() });
    }
    let mut text = lines.join("\n");
    for (pattern, constant) in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d{4})", "2026-11-26T03:00:00$2"),
        (r"(?m)^[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d ", "Nov 26 03:00:00 "),
        (r"\(\d+ (s|min) ago\)", "(2 min ago)"),
        (r"after (\d+ min )?\d+(\.\d)? m?s", "after 4.2 s"),
        (r"running for (\d+ min )?[\d.]+ m?s", "running for 2 s"),
        (r"next try: in \d+ s", "next try: in 42 s"),
        (r"invalid for another [^)]*", "invalid for another 3h 10min 51s"),
        (r"[0-9a-f]{64}", "30b3c467…"),
        // Each machine that runs the tests makes a key for its repository.
        (r"NO_PUBKEY [0-9A-F]{16}", "NO_PUBKEY 8515DBB55FD21F33"),
        // The kernel is that of the machine that runs the tests.
        (r"(?m)^.*(running-kernel|a reboot is due|\d steps: ).*$\n?", ""),
        (r"\[\d+\]: ", "[1234]: "),
        (r"(process|pid|PID) \d+", "$1 1234"),
        (r"is (de)?activating \([a-z-]+\)", "is activating (auto-restart)"),
        (r"\d+ restarts?", "1 restart"),
    ] {
        text = Regex::new(pattern).unwrap().replace_all(&text, constant).into_owned();
    }
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.dedup();
    lines.join("\n")
}
