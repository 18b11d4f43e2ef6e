//! User data in all its forms, and its place among the layers of settings.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::path::PathBuf;

use base64::Engine;
use support::gzip;
use support::metadata::{Metadata, sample};
use support::root::{Root, ask, isolated, outcome, write_script};

const SETTINGS: &str = "[agent]\nlog_bucket = \"from-user-data\"\n[zookeeper]\nservers = [\"30.0.100.194:2181\"]\n";

fn serving(user_data: impl Into<Vec<u8>>, tags: &[(&str, &str)]) -> Metadata {
    let metadata = Metadata::start(sample());
    metadata.set("user-data", Some(user_data.into()));
    for (key, value) in tags {
        metadata.set(&format!("meta-data/tags/instance/{key}"), Some((*value).into()));
    }
    metadata
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.encode(bytes).into_bytes()
}

fn multipart(kind: &str, text: &str) -> Vec<u8> {
    format!(
        "Content-Type: multipart/mixed; boundary=\"===\"\nMIME-Version: 1.0\n\n--===\n\
         Content-Type: text/cloud-config\n\n#cloud-config\nstack: evil\n\n--===\nContent-Type: {kind}\n\n{text}\n--===--\n"
    )
    .into_bytes()
}

#[test]
fn every_form_is_read() {
    let ours = format!("#titus-bootstrap\n{SETTINGS}");
    let script = format!("#!/usr/bin/titus-bootstrap --role agent\n{SETTINGS}");
    for data in [
        ours.clone().into_bytes(),
        script.clone().into_bytes(),
        format!("#!/usr/bin/titus-bootstrap\n{SETTINGS}").into_bytes(),
        script.replace('\n', "\r\n").into_bytes(),
        gzip(script.as_bytes()),
        base64(script.as_bytes()),
        base64(&gzip(script.as_bytes())),
        multipart("text/x-shellscript", &script),
        multipart("text/plain", &ours),
        multipart("application/vnd.titus-bootstrap+toml", SETTINGS),
        gzip(&multipart("application/vnd.titus-bootstrap+toml", SETTINGS)),
    ] {
        let shown = String::from_utf8_lossy(&data).into_owned();
        let (root, metadata) = (Root::empty(), serving(data, &[("titus:role", "agent")]));
        let outcome = root.ask(&metadata, &[]);
        assert_eq!(outcome.code, 0, "{shown}\n{}", outcome.err);
        assert!(root.read("/etc/profile.d/titus_environment.sh").contains("=from-user-data\n"), "{shown}");
        assert!(root.read("/etc/mesos-agent.config").contains("zk://30.0.100.194:2181/"), "{shown}");
    }
}

#[test]
fn one_line_is_enough_where_tags_say_the_rest() {
    let tags = [
        ("titus:role", "Agent"),
        ("titus:agent.log_bucket", "from-tag"),
        ("titus:zookeeper.servers", "10.0.0.1:2181, 10.0.0.2:2181,10.0.0.3:2181"),
        ("titus:agent.asg", "other-group"),
        ("titus:stack", "blue"),
    ];
    let (root, metadata) = (Root::empty(), serving("#!/usr/bin/titus-bootstrap", &tags));
    root.write(
        "/etc/titus-bootstrap/config.toml",
        "allowed_tags = ['role', 'agent.log_bucket', 'zookeeper.servers', 'agent.asg', 'stack']\n",
    );
    root.ask(&metadata, &[]).ends_with(0).prints(&["role agent", "instance tag titus:role: Agent"]);
    let config = root.read("/etc/mesos-agent.config");
    assert!(config.contains("zk://10.0.0.1:2181,10.0.0.2:2181,10.0.0.3:2181/titus/blue/mesos\n"), "{config}");
    assert!(config.contains(";asg:other-group;stack:blue;"), "{config}");
    assert!(root.read("/etc/profile.d/titus_environment.sh").contains("=from-tag\n"));
}

#[test]
fn a_tag_cannot_name_packages_or_images() {
    let tags = [("titus:role", "agent"), ("titus:packages.docker", "evil"), ("titus:agent.docker_listen", "0.0.0.0:1")];
    let (root, metadata) = (Root::empty(), serving(format!("#titus-bootstrap\n{SETTINGS}"), &tags));
    let shown = root.ask(&metadata, &["config", "show"]).ends_with(0).out;
    assert!(!shown.contains("evil") && !shown.contains("0.0.0.0"), "{shown}");
}

#[test]
fn other_programs_user_data_is_left_alone() {
    for data in [
        &b"#cloud-config\nstack: evil\n"[..],
        b"#!/bin/bash\nstack=\"evil\"\n",
        b"stack = \"evil\"\n",
        b"#!/usr/bin/env python3\nstack = \"evil\"\n",
        b"#include\nhttp://127.0.0.1/\n",
        b"\xff\xfe\x00evil",
        b"",
    ] {
        let (root, metadata) = (Root::empty(), serving(data, &[("titus:role", "agent")]));
        let set = ["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"];
        root.ask(&metadata, &set).ends_with(0);
        assert!(root.read("/etc/mesos-agent.config").contains("/titus/mainvpc/mesos\n"));
    }
}

/// The value and source of `stack` with all these layers.
fn stack(layers: &[&str]) -> (String, String) {
    let has = |layer: &str| layers.contains(&layer);
    let (root, mut tags) = (Root::empty(), vec![("titus:role", "agent")]);
    if has("file") {
        root.write("/etc/titus-bootstrap/config.toml", "stack = \"file\"\n");
    }
    if has("directory") {
        root.write("/etc/titus-bootstrap/config.d/90-last.toml", "stack = \"directory\"\n");
        root.write("/etc/titus-bootstrap/config.d/10-first.toml", "stack = \"earlier\"\n");
        root.write("/etc/titus-bootstrap/config.d/99-not-ours.conf", "stack = \"evil\"\n");
    }
    if has("tag") {
        tags.push(("titus:stack", "tag"));
    }
    let own = if has("user data") { "stack = \"user-data\"\n" } else { "" };
    let metadata = serving(format!("#titus-bootstrap\n{own}{SETTINGS}"), &tags);
    root.write("/srv/given.toml", "stack = \"given\"\n");
    let given = root.at("/srv/given.toml").display().to_string();
    let mut arguments = vec!["config", "show", "--json"];
    if has("--config") {
        arguments.extend(["--config", &given]);
    }
    if has("--set") {
        arguments.extend(["--set", "stack=first", "--set", "stack=set"]);
    }
    let shown = root.ask(&metadata, &arguments).ends_with(0).json();
    let text = |key: &str| shown["settings"]["stack"][key].as_str().unwrap().replace(&given, "GIVEN");
    (text("value"), text("source"))
}

#[test]
fn a_later_layer_overrides_earlier_ones_and_names_its_place() {
    let layers = ["tag", "file", "directory", "user data", "--config", "--set"];
    for (count, value, source) in [
        (0, "mainvpc", "built-in"),
        (1, "tag", "tag titus:stack"),
        (2, "file", "/etc/titus-bootstrap/config.toml"),
        (3, "directory", "/etc/titus-bootstrap/config.d/90-last.toml"),
        (4, "user-data", "user data"),
        (5, "given", "GIVEN"),
        (6, "set", "--set stack"),
    ] {
        assert_eq!(stack(&layers[..count]), (value.to_owned(), source.into()));
        // Each also overrides the first alone.
        if let Some(last) = layers[..count].last() {
            assert_eq!(stack(&["tag", last]).0, value);
        }
    }
}

#[test]
fn a_default_of_the_role_says_so() {
    let metadata = serving(format!("#!/usr/bin/titus-bootstrap --role agent\n{SETTINGS}"), &[]);
    let shown = Root::empty().ask(&metadata, &["config", "show", "--json"]).ends_with(0).json();
    let source = |key: &str| shown["settings"][key]["source"].as_str().unwrap_or_else(|| panic!("{key}")).to_owned();
    assert_eq!(source("agent.registry"), "role agent");
    assert_eq!(source("agent.log_bucket"), "user data");
    assert_eq!(source("timeouts.facts"), "built-in");
}

#[test]
fn the_first_place_that_names_a_role_decides_and_is_reported() {
    let tags = [("titus:role", "gateway"), ("titus-role", "master")];
    let data = |line: &str, role: &str| format!("{line}\n{role}{SETTINGS}");
    for (text, flags, reason) in [
        (data("#titus-bootstrap", "role = \"prereqs\"\n"), &["--role", "agent"][..], "--role: agent"),
        (data("#titus-bootstrap", "role = \"agent\"\n"), &[], "settings (user data): agent"),
        (data("#!/usr/bin/titus-bootstrap --role agent", ""), &[], "user data"),
    ] {
        let metadata = serving(text, &tags);
        let plan = Root::empty().ask(&metadata, &[&["plan", "--json"], flags].concat()).ends_with(0).json();
        assert_eq!(plan["role"], "agent");
        let evidence = plan["role_evidence"].as_array().unwrap();
        assert!(evidence.iter().any(|line| line.as_str().unwrap().contains(reason)), "{evidence:?} lacks {reason}");
    }
}

/// The script that cloud-init makes of user data, in its own directory; `#!` names the program.
fn script(words: &str) -> (tempfile::TempDir, PathBuf) {
    // Not in memory, where some machines allow no execution.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("titus-bootstrap");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_titus-bootstrap"), &program).unwrap();
    let script = directory.path().join("part-001");
    write_script(&script, &format!("#!{}{words}\n{SETTINGS}", program.display()));
    (directory, script)
}

#[test]
fn the_kernel_runs_it_as_a_script() {
    for (words, tags) in
        [("", &[("titus:role", "agent")][..]), (" --role agent", &[]), ("\t--role  agent --set stack=x ", &[])]
    {
        let (_directory, script) = script(words);
        let (root, metadata) = (Root::empty(), serving("", tags));
        let mut command = isolated(&script);
        command.arg("--root").arg(root.path()).args(["--set", "agent.resources={ mem = 1, disk = 1 }"]);
        ask(&mut command, &metadata.endpoint());
        outcome(&mut command).ends_with(0);
        outcome(&mut command).ends_with(0).prints(&["nothing to do"]);
        assert!(root.read("/etc/profile.d/titus_environment.sh").contains("=from-user-data\n"), "{words}");
        let stack = if words.contains("stack") { "x" } else { "mainvpc" };
        assert!(root.read("/etc/mesos-agent.config").contains(&format!("/titus/{stack}/mesos\n")), "{words}");
    }
}

#[test]
fn one_argument_with_blanks_is_split_only_before_a_script() {
    let (_directory, script) = script("");
    let script = script.to_str().unwrap();
    let root = Root::empty();
    root.run(&["--role agent", script, "--sample"]).ends_with(0);
    root.run(&["--role agent", "--sample"]).ends_with(64);
    root.write("/srv/plain.toml", SETTINGS);
    root.run(&["--role agent", root.at("/srv/plain.toml").to_str().unwrap(), "--sample"]).ends_with(64);
}
