//! Compares the map in CONTRIBUTING.md with the code: imports go one way, and only `host` reaches the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rooms of src/, from the entrance down. A room may import rooms below its own floor, and files in
/// the room itself.
const FLOORS: [&[&str]; 17] = [
    &["main"],
    &["app", "parsers"],
    &["cli", "commands"],
    &["seal", "why"],
    &["run"],
    &["prepare"],
    &["role"],
    &["step"],
    &["ec2"],
    &["titus"],
    &["template"],
    &["settings"],
    &["facts", "properties", "userdata"],
    &["host"],
    &["activity"],
    &["claims", "terminal"],
    &["error", "secrets"],
];

/// A file of src/ and its text without its unit tests.
struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(directory: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, into) } else { into.push(path) }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let rust = paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.filter(|path| !path.ends_with("tests.rs")).map(|path| read(&root, path)).collect()
}

fn read(root: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    // Unit tests are last in a file, and comments may name anything.
    let code = text.split("\n#[cfg(test)]").next().unwrap();
    let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let path = path.strip_prefix(root).unwrap().display().to_string();
    Source { path, text: code.join("\n") }
}

/// `step/unit.rs` -> `step`; `lib.rs` is the crate itself.
fn room(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap()
}

/// Each path in the crate that a file names, from the crate's root: braces expanded, `super` and `self` resolved.
fn imports(source: &Source) -> Vec<String> {
    let pattern = regex::Regex::new(r"\b(crate|self|super)::((?:\w+::)*)(\{[^}]*\}|\w+)").unwrap();
    // `step/unit.rs` and `step/unit/mod.rs` are both the module step::unit.
    let module = source.path.trim_end_matches(".rs").trim_end_matches("/mod");
    let mut found = Vec::new();
    for capture in pattern.captures_iter(&source.text) {
        let mut at: Vec<&str> = if &capture[1] == "crate" { Vec::new() } else { module.split('/').collect() };
        if &capture[1] == "super" {
            at.pop();
        }
        for part in capture[2].split("::").filter(|part| !part.is_empty()) {
            match part {
                "super" => at.truncate(at.len() - 1),
                _ => at.push(part),
            }
        }
        let last = capture[3].trim_matches(['{', '}']);
        found.extend(last.split(',').map(|item| [at.join("::"), item.trim().to_owned()].join("::")));
    }
    found.iter().map(|path| path.trim_start_matches("::").to_owned()).collect()
}

/// The file that a path leads to: the longest prefix that is one.
fn file_of(import: &str, files: &BTreeSet<&str>) -> Option<String> {
    let parts: Vec<&str> = import.split("::").collect();
    (1..=parts.len()).rev().find_map(|n| {
        let path = parts[..n].join("/");
        [format!("{path}.rs"), format!("{path}/mod.rs")].into_iter().find(|file| files.contains(file.as_str()))
    })
}

#[test]
fn arrows_point_one_way() {
    let sources = sources();
    let floor = |room: &str| FLOORS.iter().position(|rooms| rooms.contains(&room));
    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| source.path != "lib.rs") {
        let from = room(&source.path);
        let Some(own) = floor(from) else {
            wrong.push(format!("{}: the room {from} is not on the map", source.path));
            continue;
        };
        for import in imports(source) {
            let to = room(import.split("::").next().unwrap());
            match floor(to) {
                Some(other) if other > own || to == from => {}
                Some(_) => wrong.push(format!("{}: {from} imports {import}", source.path)),
                // The crate's own constants.
                None => assert!(to.chars().all(|c| c.is_ascii_uppercase() || c == '_'), "{}: {import}", source.path),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_two_files_import_each_other() {
    let sources = sources();
    let files: BTreeSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let mut arrows: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in &sources {
        let to = imports(source).iter().filter_map(|import| file_of(import, &files)).collect();
        arrows.insert(&source.path, to);
    }
    // A folder re-exports items of its files, and the files use its definitions.
    let is_face = |path: &str| path.ends_with("mod.rs");
    let mut wrong = Vec::new();
    for (from, to) in &arrows {
        for other in to.iter().filter(|other| other.as_str() > *from && !is_face(other) && !is_face(from)) {
            if arrows.get(other.as_str()).is_some_and(|back| back.contains(*from)) {
                wrong.push(format!("{from} and {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "import each other: {}", wrong.join("; "));
}

#[test]
fn only_host_reaches_the_machine() {
    let pattern = regex::Regex::new(
        r"std::fs\b|std::process::(Command|Child|Stdio)|\bFile::open|OpenOptions|thread::sleep|\bnix::|std::os::unix::(fs|process)",
    )
    .unwrap();
    let wrong: Vec<String> = sources()
        .iter()
        .filter(|source| room(&source.path) != "host")
        .flat_map(|source| {
            pattern
                .find_iter(&source.text)
                .map(|found| format!("{}: {}", source.path, found.as_str()))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_file_writes_to_the_terminal() {
    // clap writes the help from the grammar's text.
    let pattern = regex::Regex::new(r"\be?print(ln)?!|\b(stdout|stderr)\(\)(\.lock|;|\))").unwrap();
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path != "terminal.rs" && pattern.is_match(&source.text))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_wait_sleeps() {
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| source.path != "host/wait.rs" && source.text.contains("thread::sleep"))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_kind_of_step_is_named_outside_of_step() {
    let pattern = regex::Regex::new(r"\bstep::StepKind\b|\bstep::\{[^}]*\bStepKind\b").unwrap();
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| room(&source.path) != "step" && pattern.is_match(&source.text))
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn clap_is_known_to_the_grammar_and_the_app_alone() {
    let may = ["cli.rs", "app.rs", "commands/print.rs"];
    let wrong: Vec<String> = sources()
        .into_iter()
        .filter(|source| {
            !may.contains(&source.path.as_str())
                && regex::Regex::new(r"\bclap(_\w+)?::").unwrap().is_match(&source.text)
        })
        .map(|source| source.path)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
