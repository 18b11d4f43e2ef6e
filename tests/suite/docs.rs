//! The documents: each command in them runs, and each setting is told of.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CONTRIBUTING.md",
    "data/README.md",
    "docs/reference.md",
    "docs/roles.md",
    "docs/reliability.md",
    "docs/performance.md",
];

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Indented lines: what a reader would paste.
fn pasted() -> Vec<String> {
    let texts: Vec<String> = DOCUMENTS.iter().map(|name| document(name)).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let pasted = lines.filter_map(|line| line.strip_prefix("    "));
    pasted.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned()).collect()
}

fn run(arguments: &[&str], root: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap"));
    command.args(arguments);
    if !arguments.contains(&"--sample") {
        command.arg("--sample");
    }
    if !arguments.contains(&"--root") {
        command.arg("--root").arg(root);
    }
    command.current_dir(root).output().unwrap()
}

#[test]
fn every_command_of_the_documents_runs() {
    let directory = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for line in pasted() {
        let Some(words) =
            line.strip_prefix("titus-bootstrap ").or_else(|| line.strip_prefix("cargo run --release -- "))
        else {
            continue;
        };
        // A shell splits and unquotes it, as it does for the reader.
        let split = Command::new("sh").args(["-c", &format!("printf '%s\\n' {words}")]).output().unwrap();
        let words = String::from_utf8(split.stdout).unwrap();
        let arguments: Vec<&str> = words.lines().collect();
        let output = run(&arguments, directory.path());
        // These ask a live node, and there is none; the grammar is right all the same.
        let wanted: &[i32] = match arguments[0] {
            "verify" | "activate" => &[64],
            "status" => &[0, 1],
            _ => &[0],
        };
        let code = output.status.code().unwrap();
        assert!(wanted.contains(&code), "`{line}` ended with {code}: {}", String::from_utf8_lossy(&output.stderr));
        seen += 1;
    }
    assert!(seen >= 15, "only {seen} commands were found");
}

#[test]
fn every_script_of_the_documents_is_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for line in pasted() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.starts_with("tests/") || name.starts_with("packaging/") {
            let mode = std::os::unix::fs::PermissionsExt::mode(&root.join(name).metadata().unwrap().permissions());
            assert!(mode & 0o111 != 0, "{name} cannot be run");
        }
    }
}

#[test]
fn every_path_of_the_documents_is_there() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/reference.md",
        "docs/roles.md",
        "docs/reliability.md",
        "docs/security.md",
    ] {
        let text = document(name);
        // Between backquotes; one in capitals stands for any.
        let paths = text.split('`').skip(1).step_by(2).filter(|word| {
            let starts = ["src/", "tests/", "docs/", "packaging/", "roles/", "systemd/"]
                .iter()
                .any(|start| word.starts_with(start));
            starts && !word.contains(|c: char| c.is_ascii_uppercase() || " *{\n".contains(c))
        });
        let missing: Vec<&str> = paths.filter(|path| !project.join(path).exists()).collect();
        assert_eq!(missing, [""; 0], "{name} names what is not there");
    }
}

#[test]
fn every_case_that_security_names_is_there() {
    fn sources(directory: &Path) -> String {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| if path.is_dir() { sources(&path) } else { std::fs::read_to_string(path).unwrap_or_default() })
            .collect()
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = sources(&project.join("tests/hostile")) + &sources(&project.join("src"));
    let text = document("docs/security.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let cases = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        for case in cases.split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {case}()")), "docs/security.md names no test: {case}");
        }
    }
}

#[test]
fn every_setting_is_in_the_reference() {
    let output = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap")).args(["config", "schema"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let reference = document("docs/reference.md");
    let mut keys = Vec::new();
    leaves(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        // A small table is told of as a whole.
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        let there = reference.contains(&format!("`{key}`")) || reference.contains(&format!("`{table}`"));
        assert!(there, "docs/reference.md does not tell of {key}");
    }
}

fn leaves(schema: &serde_json::Value, at: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    let reference = at.get("$ref").or_else(|| at.get("anyOf")?.get(0)?.get("$ref")).and_then(|r| r.as_str());
    let at = reference.and_then(|r| schema.pointer(r.trim_start_matches('#'))).unwrap_or(at);
    match at.get("properties").and_then(|p| p.as_object()) {
        None => keys.push(path.trim_start_matches('.').to_owned()),
        Some(properties) => properties.iter().for_each(|(k, v)| leaves(schema, v, &format!("{path}.{k}"), keys)),
    }
}

#[test]
fn every_exit_code_is_in_the_reference_and_in_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for code in [0, 1, 2, 64, 69, 75, 77, 78] {
        assert!(document("docs/reference.md").contains(&format!("| {code} |")), "{code}");
        assert!(help.contains(&format!("{code} ")), "{code}");
    }
}
