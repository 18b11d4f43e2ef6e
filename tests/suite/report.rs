//! `report`: one archive for a ticket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::support::root::Root;

/// The files of an archive, without the directory that all are in.
pub fn unpacked(path: &Path) -> BTreeMap<String, String> {
    let file = fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().iter().skip(1).collect::<std::path::PathBuf>().display().to_string();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        found.insert(name, text);
    }
    found
}

#[test]
fn without_metadata_and_on_a_node_that_was_never_run() {
    let (root, place) = (Root::empty(), tempfile::tempdir().unwrap());
    let file = place.path().join("ticket.tar.gz");
    let shown = file.display().to_string();
    let made = root.run(&["report", &shown]).ends_with(0);
    made.prints(&[
        &shown,
        "status.txt",
        "config-of-files.json",
        "left out:",
        "facts.json",
        "plan.txt",
        "units/",
        "journal.jsonl",
    ]);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let parts = unpacked(&file);
    assert!(parts["status.txt"].contains("no run since this boot"), "{parts:#?}");
    assert!(parts["versions.txt"].contains(env!("CARGO_PKG_VERSION")), "{parts:#?}");
    assert!(parts["contents.txt"].contains("AWS_EC2_METADATA_DISABLED"), "the reason is missing: {parts:#?}");
    let is_json = |name: &str| serde_json::from_str::<serde_json::Value>(&parts[name]).is_ok();
    assert!(is_json("config-of-files.json"));
    assert!(!root.at("/etc").exists() && !root.at("/var").exists(), "something was written below --root");
}

#[test]
fn a_report_of_a_node_after_a_run_has_everything() {
    let (root, place) = (Root::empty(), tempfile::tempdir().unwrap());
    root.sample(&[]).ends_with(0);
    root.fails_half_way();
    let file = place.path().join("x.tar.gz");
    let made = root.sample(&["report", "--json", &file.display().to_string()]).ends_with(0).json();
    let listed: Vec<&str> =
        made["contents"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    let parts = unpacked(&file);
    let mut names: Vec<&str> = parts.keys().map(String::as_str).collect();
    for name in [
        "config.json",
        "contents.txt",
        "facts.json",
        "journal.jsonl",
        "last.json",
        "last.log",
        "plan.json",
        "plan.txt",
        "runs.txt",
        "status.json",
        "status.txt",
        "timeline.svg",
        "versions.txt",
    ] {
        assert!(names.contains(&name) && listed.contains(&name), "{name}: {made:#}");
        if name.ends_with(".json") {
            serde_json::from_str::<serde_json::Value>(&parts[name]).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    assert!(parts["status.txt"].contains("last run: failed") && parts["runs.txt"].contains("half"), "{parts:#?}");
    assert!(parts["journal.jsonl"].lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), listed.len());
    // What `facts` prints, `--facts` reads.
    root.write("/srv/facts.json", &parts["facts.json"]);
    let facts = root.at("/srv/facts.json").display().to_string();
    root.run(&[
        "plan",
        "--role",
        "agent",
        "--facts",
        &facts,
        "--set",
        "prereqs=10.0.0.1",
        "--set",
        "agent.log_bucket=my-logs",
    ])
    .ends_with(0);
}

#[test]
fn nothing_that_is_there_is_touched() {
    let (root, place) = (Root::empty(), tempfile::tempdir().unwrap());
    let at = |name: &str| place.path().join(name);
    fs::write(at("mine"), "mine").unwrap();
    symlink(at("mine"), at("link")).unwrap();
    symlink(at("nowhere"), at("dangling")).unwrap();
    for name in ["mine", "link", "dangling"] {
        let shown = at(name).display().to_string();
        root.run(&["report", &shown]).ends_with(64).reports(&[&shown, "is already there", "name another file"]);
    }
    assert_eq!(fs::read_to_string(at("mine")).unwrap(), "mine");
    assert!(!at("nowhere").exists());
    root.run(&["report", "/nonexistent/x.tar.gz"]).ends_with(1).reports(&["cannot be made", "that you may write to"]);
}

#[test]
fn without_a_name_it_is_made_in_this_directory() {
    let (root, place) = (Root::empty(), tempfile::tempdir().unwrap());
    let made = crate::support::root::outcome(root.program(&["report"]).current_dir(place.path())).ends_with(0);
    let names: Vec<String> =
        fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    assert!(name.starts_with("titus-bootstrap-report-") && name.ends_with(".tar.gz"), "{name}");
    made.prints(&[name]);
}
