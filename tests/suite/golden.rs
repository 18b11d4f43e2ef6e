//! Renders every role for fixtures of facts and settings, and compares the result with the files in
//! tests/golden. UPDATE_GOLDEN=1 in the environment rewrites them: read the
//! diff before you commit it.
//!
//! A fixture is a directory there. `facts.json` and `settings.toml` are its input,
//! those of the sample if they are missing. The output is `ROLE/` with the files,
//! `ROLE.tree` with the modes and links, `ROLE.containers` with the containers that a node would
//! run, or `ROLE.refused` with the message of a refusal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use support::root::{Root, on_fixture, run};

/// The output of a role for a fixture: the files of tests/golden by their names.
type Golden = BTreeMap<String, String>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn sample() {
    check("sample");
}

/// Another region's Local Zone, an ensemble of three, proxies, additional attributes.
#[test]
fn local_zone() {
    check("local-zone");
}

/// The second of three prereqs nodes, identified by its host name.
#[test]
fn ensemble() {
    check("ensemble");
}

/// A minimal instance, with every setting.
#[test]
fn bare() {
    check("bare");
}

fn check(name: &str) {
    let directory = fixture(name);
    let roles = run(&["role", "list", "--json"]).ends_with(0).json();
    for role in roles["roles"].as_array().unwrap() {
        let role = role["name"].as_str().unwrap();
        let rendered = render(&directory, role);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            update(&directory, role, &rendered);
        }
        let kept = read(&directory, role);
        for path in rendered.keys().chain(kept.keys()) {
            assert_eq!(
                rendered.get(path).map(|text| text.lines().collect::<Vec<_>>()),
                kept.get(path).map(|text| text.lines().collect::<Vec<_>>()),
                "tests/golden/{name}/{path}: if the new one (left) is right, run with UPDATE_GOLDEN=1"
            );
        }
        assert_eq!(rendered, kept, "the ends of lines");
    }
}

fn render(directory: &Path, role: &str) -> Golden {
    let root = Root::empty();
    let arguments = on_fixture(directory, role);
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = root.run(&arguments);
    if outcome.code != 0 {
        return Golden::from([(format!("{role}.refused"), format!("exit code {}\n{}", outcome.code, outcome.err))]);
    }
    let mut golden = Golden::new();
    arguments.insert(0, "plan");
    arguments.push("--json");
    let plan = root.run(&arguments).json();
    let steps = plan["steps"].as_array().unwrap().iter().filter(|step| step["kind"] == "container");
    let containers: String =
        steps.map(|step| format!("{}: {}\n", step["id"].as_str().unwrap(), step["note"].as_str().unwrap())).collect();
    if !containers.is_empty() {
        golden.insert(format!("{role}.containers"), containers);
    }
    let mut listing = String::new();
    for path in root.made().keys() {
        let data = fs::symlink_metadata(root.at(path)).unwrap();
        let mode = data.permissions().mode() & 0o7777;
        if data.is_symlink() {
            listing += &format!("link {path} -> {}\n", fs::read_link(root.at(path)).unwrap().display());
        } else if data.is_dir() {
            listing += &format!("{mode:04o} {path}/\n");
        } else {
            listing += &format!("{mode:04o} {path}\n");
            golden.insert(format!("{role}{path}"), root.read(path));
        }
    }
    golden.insert(format!("{role}.tree"), listing);
    golden
}

fn read(directory: &Path, role: &str) -> Golden {
    let mut golden = Golden::new();
    for name in ["tree", "containers", "refused"].map(|kind| format!("{role}.{kind}")) {
        if let Ok(text) = fs::read_to_string(directory.join(&name)) {
            golden.insert(name, text);
        }
    }
    let mut left = vec![directory.join(role)];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(below).into_iter().flatten() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                left.push(file);
            } else {
                let name = file.strip_prefix(directory).unwrap().display().to_string();
                golden.insert(name, fs::read_to_string(&file).unwrap());
            }
        }
    }
    golden
}

fn update(directory: &Path, role: &str, golden: &Golden) {
    for name in ["tree", "containers", "refused"].map(|kind| format!("{role}.{kind}")) {
        let _ = fs::remove_file(directory.join(name));
    }
    let _ = fs::remove_dir_all(directory.join(role));
    for (name, text) in golden {
        let file = directory.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
}
