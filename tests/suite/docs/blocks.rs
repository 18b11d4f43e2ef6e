//! The fenced blocks of the documents, and a shell in which a reader would paste them.
//!
//! The words behind the three backquotes say what a block is:
//!
//! | words | meaning |
//! |---|---|
//! | `console` | commands after `$ `, each with what it prints. They run on a tree: without `--root` below `./node`, without `--facts` on built-in facts |
//! | `console exit=N` | the same; the last command ends with N |
//! | `console node` | commands for a live node, run by `tests/nodes/cases/docs.rs` |
//! | `console elsewhere` | commands that need AWS, Packer or a release: only their syntax and their paths are checked |
//! | `toml`, `user-data` | settings, a role, a drop-in or user data, which `check` accepts, with `role=R` for that role. One that begins with a comment that has a path is put there for the commands that follow |
//! | `text`, `json` | anything else |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;

use crate::support::root::write_script;

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The index of its first line in the document.
    pub first: usize,
    pub info: String,
    pub lines: Vec<String>,
}

impl Block {
    pub fn is(&self, word: &str) -> bool {
        self.info.split(' ').any(|info| info == word)
    }

    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The value of a word of the info, e.g. 78 in `exit=78`.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.info.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    /// The path in the comment that begins it.
    pub fn path(&self) -> Option<&str> {
        self.lines.first()?.strip_prefix("# ").filter(|path| path.starts_with('/'))
    }

    /// The commands of a console, each with the lines that follow it.
    pub fn commands(&self) -> Vec<(String, Vec<String>)> {
        let mut commands: Vec<(String, Vec<String>)> = Vec::new();
        let mut goes_on = false;
        for line in &self.lines {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
                (None, Some((command, _))) if goes_on => command.push_str(&format!("\n{line}")),
                (None, Some((_, output))) => output.push(line.clone()),
                (None, None) => panic!("a console begins with a command, not with: {line}"),
            }
            let is_command = goes_on || line.starts_with("$ ");
            goes_on = is_command && line.ends_with(['\\', '|']);
        }
        commands
    }
}

pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                blocks.push(Block { first: index + 1, info: info.to_owned(), lines: Vec::new() });
            }
            None if open => blocks.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// A reader's directory, with the program as `titus-bootstrap`.
pub struct Shell {
    directory: tempfile::TempDir,
}

/// On a laptop what acts on the machine needs a directory; on a node it does not.
const PROGRAM: &str = r#"#!/bin/sh
sample=--sample root="--root $HOME/node"
for word; do
    case $word in
    # It makes up the facts that fit the settings.
    check | --sample | --facts | --facts=*) sample= ;;
    --root | --root=*) root= ;;
    esac
done
exec "$PROGRAM" "$@" $sample $root
"#;

const SUDO: &str = "#!/bin/sh\nexec \"$@\"\n";
/// The program is built already.
const CARGO: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec titus-bootstrap \"$@\"\n";
/// This test is one of them.
const NOTHING: &str = "#!/bin/sh\n";

impl Shell {
    pub fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let shell = Shell { directory };
        for (name, text) in [("titus-bootstrap", PROGRAM), ("sudo", SUDO), ("cargo", CARGO), ("tests/run", NOTHING)] {
            write_script(&shell.path().join(".bin").join(name), text);
        }
        fs::create_dir(shell.path().join("node")).unwrap();
        fs::rename(shell.path().join(".bin/tests"), shell.path().join("tests")).unwrap();
        shell
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts a file of a node there.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path().join("node").join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The exit code of a command, and what it prints on a terminal.
    pub fn run(&self, command: &str) -> (i32, String) {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.path().join(".bin").display());
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.path())
            .env("PROGRAM", env!("CARGO_BIN_EXE_titus-bootstrap"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .current_dir(self.path())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let home = self.path().display().to_string();
        // A reader on a node sees no directory there.
        let text = if command.contains("--root") { text } else { text.replace(&format!(" below {home}/node"), "") };
        (
            output.status.code().unwrap(),
            text.replace(&format!("{home}/node/"), "/home/you/node/").replace(&home, "/home/you"),
        )
    }
}

/// An output without what differs from run to run.
pub fn same_each_time(line: &str) -> String {
    let replacements = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
        (r"\b\d+(\.\d+)? ?(ms|s)\b", "LENGTH"),
        (r"\b\d+\.\d+\.\d+\b", "VERSION"),
        (r"\b[0-9]{8}T[0-9]+Z-[0-9a-z]+\b", "RUN"),
    ];
    let line = replacements.iter().fold(line.to_owned(), |line, (pattern, name)| {
        Regex::new(pattern).unwrap().replace_all(&line, *name).into_owned()
    });
    line.trim_end().to_owned()
}

/// Whether a document shows what a command prints; `…` alone on a line stands for any lines.
pub fn shows(shown: &[String], printed: &[String]) -> bool {
    let same = |left: &[String], right: &[String]| {
        left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same_each_time(a) == same_each_time(b))
    };
    match shown.iter().position(|line| line.trim() == "…") {
        None => same(shown, printed),
        Some(at) => {
            let after = &shown[at + 1..];
            printed.len() >= at + after.len()
                && same(&shown[..at], &printed[..at])
                && same(after, &printed[printed.len() - after.len()..])
        }
    }
}

/// What a document should show: as many lines before and after `…` as it shows today.
pub fn shortened(shown: &[String], printed: &[String]) -> Vec<String> {
    match shown.iter().position(|line| line.trim() == "…") {
        Some(at) if printed.len() > shown.len() => {
            let after = shown.len() - at - 1;
            let last = &printed[printed.len() - after..];
            [&printed[..at], &["…".to_owned()], last].concat()
        }
        _ => printed.to_vec(),
    }
}
