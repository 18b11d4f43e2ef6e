//! For a name that resembles a known one, the message suggests that one; no message contains a library's own words.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use support::metadata::{Metadata, sample};
use support::root::{Root, run};
use titus_bootstrap::parsers::JARGON;

const AGENT: [&str; 4] = ["plan", "--role", "agent", "--sample"];

#[test]
fn words_of_the_command_line() {
    for (arguments, code, words) in [
        (&["plna"][..], 64, "did you mean `plan`?"),
        (&["confg", "show"], 64, "did you mean `config`?"),
        (&["chekc", "--role", "agent"], 64, "did you mean `check`?"),
        (&["config", "shwo"], 64, "'show'"),
        (&["role", "lst"], 64, "'list'"),
        (&["completions", "bsh"], 64, "'bash'"),
        (&["plan", "--phase", "bkae"], 64, "'bake'"),
        (&["plan", "--log-format", "jsn"], 64, "'json'"),
        (&["plan", "--sampel"], 64, "'--sample'"),
        (&["role", "show", "agnet"], 78, "did you mean `agent`?"),
        (&["config", "template", "--role", "gatway"], 78, "did you mean `gateway`?"),
        (&["instance-type", "m4.lagre"], 78, "did you mean `m4.large`?"),
        (&["instance-type", "M4.Large"], 78, "did you mean `m4.large`?"),
        (&["instance-type", "m4large"], 78, "did you mean `m4.large`?"),
        (&["why", "log_bucket", "--role", "agent", "--sample"], 78, "did you mean `agent.log_bucket`?"),
        (&["why", "instance.tpye", "--role", "agent", "--sample"], 78, "did you mean `instance.type`?"),
    ] {
        run(arguments).ends_with(code).reports(&[words]);
    }
}

#[test]
fn names_and_values_of_settings() {
    for (setting, words) in [
        ("rol=agent", "did you mean `role`?"),
        ("agnt.asg=x", "did you mean `agent`?"),
        ("agent.asgg=x", "did you mean `asg`?"),
        ("agent.log-bucket=x", "did you mean `log_bucket`?"),
        ("log_bucket=x", "log_bucket is a key of [agent]"),
        ("docker.port=1", "port is a key of [agent]"),
        ("docker.log_level=warning", "write `warn`"),
        ("docker.log_level=inof", "did you mean `info`?"),
        ("docker.log_level=Info", "write `info`"),
        ("reboot=if_needed", "did you mean `if-needed`?"),
        ("containers.log.driver=jsonfile", "did you mean `json-file`?"),
        ("containers.log.driver=journal", "did you mean `journald`?"),
        ("allowed_roles=[\"agnet\"]", "did you mean `agent` in allowed_roles, which has agnet?"),
    ] {
        run(&[&AGENT[..], &["--set", setting]].concat()).ends_with(78).reports(&[words]);
    }
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "allowed_tags = ['rol', 'titus:stack']\n");
    root.run(&AGENT).ends_with(78).reports(&["did you mean `role`?"]);
}

#[test]
fn a_role_in_a_tag_and_the_tag_itself() {
    let metadata = Metadata::start(sample());
    metadata.set("meta-data/tags/instance/titus:role", Some(b"agnet".to_vec()));
    Root::empty()
        .ask(&metadata, &["plan"])
        .ends_with(78)
        .reports(&["instance tag titus:role", "did you mean `agent`?"]);
    metadata.set("meta-data/tags/instance/titus:role", Some(b"agent".to_vec()));
    metadata.set("meta-data/tags/instance/titus:stak", Some(b"x".to_vec()));
    let outcome = Root::empty().ask(&metadata, &["plan"]);
    assert!(outcome.transcript().contains("did you mean titus:stack?"), "{}", outcome.transcript());
}

/// The error in a settings file, and words of the advice.
const PITFALLS: [(&str, &[&str]); 31] = [
    (
        "[zookeeper]\nservers = ['a:2181']\nstack = 'x'\n",
        &["line 3, column 1", "stack belongs to no table", "zookeeper.stack"],
    ),
    ("[agent]\nasg = 'x'\n[docker]\nlog_bucket = 'x'\n", &["line 4", "a key of [agent]"]),
    ("agent.asg = 'a'\n[agent]\nport = 1\n", &["line 2", "agent is defined twice (first on line 1)"]),
    ("[agent]\nport = 1\n[docker]\n[agent]\n", &["line 4", "agent is defined twice (first on line 1)"]),
    ("stack = 'a'\nstack = 'b'\n", &["line 2", "stack is defined twice (first on line 1)"]),
    ("stack: main\nagent:\n  port: 5\n", &["looks like YAML"]),
    ("---\nstack: main\n", &["looks like YAML"]),
    ("#cloud-config\nruncmd:\n  - a\n", &["looks like a cloud-config"]),
    ("#!/bin/bash\nset -e\n", &["looks like a script"]),
    ("export A=b\n", &["looks like a shell script"]),
    ("{\"stack\": \"main\"}\n", &["looks like JSON"]),
    ("<a></a>\n", &["looks like XML"]),
    ("stack = main\n", &["line 1, column 9", "put text in quotes"]),
    ("stack = “main”\n", &["use straight ones"]),
    ("stack = null\n", &["there is no null"]),
    ("stack =\n", &["there is no null"]),
    ("stack = \"main\n", &["close the text"]),
    ("apt.take_over = Yes\n", &["true or false, in small letters"]),
    ("stack = \"a\\d\"\n", &["write a backslash as"]),
    ("[agent\nport = 1\n", &["a table begins with a line [name]"]),
    ("agent.port = 'x'\n", &["line 1, column 14", "agent.port = 'x'", "a port, from 1 to 65535"]),
    ("[agent]\nport = 70000\n", &["line 2, column 8", "agent.port = 70000", "a port, from 1 to 65535"]),
    ("agent.port = -1\n", &["a port, from 1 to 65535"]),
    ("agent.port = 1.5\n", &["a port, from 1 to 65535"]),
    ("agent.port = 99999999999999999999999\n", &["a port, from 1 to 65535"]),
    ("stack = 5\n", &["text in quotes"]),
    ("stack = 1979-05-27\n", &["text in quotes"]),
    ("zookeeper.servers = 'a:1'\n", &["a list in brackets"]),
    ("apt.take_over = 'yes'\n", &["true or false, without quotes"]),
    ("agent = 5\n", &["a table"]),
    ("apt.sources = [{ name = 'x' }]\n", &["lacks the key `uris`"]),
];

fn plain(text: &str, shown: &str) {
    let word = JARGON.iter().find(|word| shown.contains(*word));
    assert_eq!(word, None, "{text}\n{shown}");
}

#[test]
fn pitfalls_of_toml_have_their_own_explanation() {
    for (text, words) in PITFALLS {
        let root = Root::empty();
        root.write("/etc/titus-bootstrap/config.toml", text);
        let outcome = root.run(&["check"]).ends_with(78).reports(words).reports(&["config.toml"]);
        plain(text, &outcome.err);
    }
}

#[test]
fn no_refusal_has_words_of_a_library() {
    let step = |rest: &str| format!("description = 'x'\n[[step]]\nid = 'x'\nphase = 'boot'\n{rest}\n");
    for text in [
        step("file = { path = '/x', content = '{{ agent.port | fo }}' }"),
        step("file = { path = '/x', content = '{{ foo(1) }}' }"),
        step("file = { path = '/x', content = '{% for x %}' }"),
        step("file = { path = '/x', content = '{% if %}' }"),
        step("file = { path = '/x', content = '{{ 1 + }}' }"),
        step("file = { path = '/x', content = '{{ \"a }}' }"),
        step("when = 'agent.port =='\nfile = { path = '/x', content = '' }"),
        step("file = 5"),
        step("file = { path = 5, content = '' }"),
        step("file = { path = '/x', content = '', mode = 644 }"),
        step("unit = { name = 'x', enabled = 'yes' }"),
        step("unit = { name = 'x', restart_on = 'y' }"),
        step("sysctl = []"),
        step("each = 5\nfile = { path = '/x', content = '' }"),
        "description = 5\n".to_owned(),
        "step = 5\n".to_owned(),
        "[[step]]\n".to_owned(),
        "description = 'x'\n[[step]]\nid = 'x'\nphase = 'bot'\n".to_owned(),
        "description = 'x'\n[defaults.agent]\nport = 'x'\n".to_owned(),
        "description = 'x'\nverify = [{ unit = 5 }]\n".to_owned(),
    ] {
        let root = Root::empty();
        root.write("/etc/titus-bootstrap/roles/mine.toml", &text);
        plain(&text, &root.run(&["check"]).err);
        plain(&text, &root.run(&["plan", "--role", "mine", "--sample"]).ends_with(78).err);
    }
    for text in
        ["", "{", "<html>", "[]", "5", "{\"schema_version\": \"x\"}", "{\"instance\": 5}", "{\"instanc\": {}}", "\u{0}"]
    {
        let root = Root::empty();
        let facts = root.at("/facts.json");
        std::fs::write(&facts, text).unwrap();
        let outcome = root.run(&["plan", "--role", "agent", "--facts", facts.to_str().unwrap()]).ends_with(78);
        plain(text, &outcome.err);
    }
}
