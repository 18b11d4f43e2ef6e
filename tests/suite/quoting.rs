//! Hostile values and the reader of each format: the reader gets an accepted value back unchanged,
//! and nothing else with it; any other value is refused before a change.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::process::Command;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::environment_file;
use support::root::{Outcome, Root, assert_same, outcome, run};

const HOSTILE: [&str; 18] = [
    "a b",
    "a'b",
    "a\"b",
    "a\\b",
    "a\\",
    "$HOME",
    "$(touch /tmp/x)",
    "`id`",
    "a;b",
    "a:b",
    "a\nB=c",
    "a\rb",
    "a\tb",
    "*",
    "%n%i",
    "#a",
    "-x",
    "é\u{202e}ü",
];

/// Sources these files like titus-executor's start script, and prints a variable.
fn sourced(root: &Root, paths: &[&str], name: &str) -> String {
    let mut script = "set -eu\n".to_owned();
    for path in paths {
        script += &format!(". {}\n", root.at(path).display());
    }
    script += &format!("printf %s \"${name}\"");
    let output =
        outcome(Command::new("/bin/bash").env_clear().env("PATH", "/nowhere").args(["-c", &script])).ends_with(0);
    assert_eq!(output.err, "");
    output.out
}

/// Whether a run with hostile input succeeded; if not, it was refused and changed nothing.
#[track_caller]
fn accepted(root: &Root, run: Outcome, what: &str) -> bool {
    assert!([0, 69, 78].contains(&run.code), "{what}: {}\n{}", run.code, run.err);
    if run.code != 0 {
        let made = root.made();
        assert!(made.keys().all(|path| path.starts_with("/srv")), "{what}: refused, and there is {made:?}");
    }
    run.code == 0
}

/// What the agent's files say, each asked with its reader, whatever the values are.
#[track_caller]
fn nothing_is_forged(root: &Root, what: &str) {
    let environment = environment_file::read(&root.read("/etc/mesos-agent.config"));
    let names: Vec<_> = environment.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["MASTER", "PORT", "IP", "HOSTNAME", "RECOVER", "WORK_DIR", "STRICT", "RESOURCES", "ATTRIBUTES"]
        .map(|name| format!("MESOS_{name}"));
    assert_eq!(names, expected, "{what}");
    let attributes = &environment.last().unwrap().1;
    let keys: Vec<_> = attributes.split(';').map(|attribute| attribute.split_once(':').unwrap().0).collect();
    assert_eq!(keys[..8], ["region", "zone", "id", "asg", "stack", "itype", "ports", "res"], "{what}");
    assert!(attributes.split(';').all(|attribute| attribute.matches(':').count() == 1), "{what}: {attributes}");
    let script = root.at("/etc/mesos-attributes.sh");
    let printed = outcome(Command::new("/bin/bash").env_clear().env("PATH", "/nowhere").arg(script)).ends_with(0);
    assert_eq!(environment_file::read(&printed.out)[0].1, *attributes, "{what}");

    serde_json::from_str::<Value>(&root.read("/etc/titus-executor/config.json")).unwrap();
    let network = root.read("/etc/systemd/network/05-titus-primary.network");
    assert_eq!(network.lines().filter(|line| line.contains('=') || line.starts_with('[')).count(), 8, "{what}");
    let proxy = root.read("/etc/systemd/system/docker.service.d/10-docker-config.conf");
    assert_eq!(proxy.lines().filter(|line| line.contains('=')).count(), 6, "{what}");
}

#[test]
fn facts_of_another_kind() {
    let printed = run(&["facts", "--sample", "--json"]).ends_with(0).json();
    let files = ["/etc/profile.d/titus_environment.sh", "/etc/titus-executor/config.sh"];
    let (mut good, mut bad) = (0, 0);
    for (fact, variable) in [
        ("id", "EC2_INSTANCE_ID"),
        ("region", "EC2_REGION"),
        ("zone", "EC2_AVAILABILITY_ZONE"),
        ("local_ipv4", "EC2_LOCAL_IPV4"),
        ("account_id", "EC2_OWNER_ID"),
        ("vpc_id", "EC2_VPC_ID"),
        ("reservation_id", "EC2_RESERVATION_ID"),
        ("mac", ""),
        ("type", ""),
        ("autoscaling_group", ""),
    ] {
        for value in HOSTILE {
            let what = format!("{fact} = {value:?}");
            let root = Root::empty();
            let mut facts = printed.clone();
            facts["instance"][fact] = json!(value);
            root.write("/srv/facts.json", facts.to_string());
            root.write("/srv/settings.toml", titus_bootstrap::facts::sample::SETTINGS);
            let at = |path| root.at(path).display().to_string();
            let (facts, settings) = (at("/srv/facts.json"), at("/srv/settings.toml"));
            let outcome = root.run(&["--role", "agent", "--facts", &facts, "--config", &settings]);
            if !accepted(&root, outcome, &what) {
                bad += 1;
                continue;
            }
            good += 1;
            nothing_is_forged(&root, &what);
            if !variable.is_empty() {
                assert_eq!(sourced(&root, &files, variable), value, "{what}");
            }
        }
    }
    assert!(good > 10 && bad > 10, "{good} {bad}");
}

#[test]
fn settings_of_another_kind() {
    let files = ["/etc/profile.d/titus_environment.sh", "/etc/titus-executor/config.sh"];
    for (key, variable) in [
        ("agent.log_bucket", "TITUS_LOG_BUCKET"),
        ("agent.registry", "TITUS_REGISTRY"),
        ("agent.account", "NETFLIX_ACCOUNT"),
        ("agent.environment", "NETFLIX_ENVIRONMENT"),
        ("stack", "NETFLIX_STACK"),
        ("agent.labels.TEAM", "TEAM"),
        ("agent.asg", ""),
        ("agent.attributes.x", ""),
        ("agent.docker_listen", ""),
        ("agent.ports", ""),
        ("docker.daemon", ""),
        ("docker.log_level", ""),
        ("mesos.zk_path", ""),
        ("prereqs", ""),
    ] {
        // Characters of ordinary values are accepted, and arrive unchanged.
        for value in HOSTILE.into_iter().chain(["a.b-c", "/a.b-c"]) {
            let what = format!("{key} = {value:?}");
            let root = Root::empty();
            root.write("/srv/settings.toml", format!("{key} = {}\n", toml::Value::from(value)));
            let settings = root.at("/srv/settings.toml").display().to_string();
            let outcome = root.sample(&["--config", &settings]);
            if !accepted(&root, outcome, &what) {
                assert!(value != "a.b-c" || variable.is_empty(), "{what} is refused");
                continue;
            }
            nothing_is_forged(&root, &what);
            if !variable.is_empty() {
                assert_eq!(sourced(&root, &files, variable), value, "{what}");
            }
        }
    }
}

/// An operator's role with one template in each format, filled with this value.
fn formats(value: &str) -> (Root, Outcome) {
    let root = Root::empty();
    let mut role = "description = \"All formats\"\n".to_owned();
    for (file, template) in [
        ("x.sh", "export BEFORE=1\nexport VALUE={{ agent.labels.VALUE }}\nexport AFTER=2\n"),
        ("x.env", "BEFORE=1\nVALUE={{ agent.labels.VALUE }}\nAFTER=2\n"),
        (
            "x.json",
            "{ \"before\": 1, {{ agent.labels.VALUE }}: {{ agent.labels.VALUE }}, \"after\": [{{ agent.labels.VALUE }}] }\n",
        ),
    ] {
        root.write(&format!("/etc/titus-bootstrap/roles/files/{file}"), template);
        let id = file.replace('.', "-");
        role += &format!(
            "[[step]]\nid = \"{id}\"\nphase = \"boot\"\nfile = {{ path = \"/srv/{file}\", template = \"{file}\" }}\n"
        );
    }
    root.write("/etc/titus-bootstrap/roles/formats.toml", role);
    root.write("/etc/titus-bootstrap/config.toml", format!("agent.labels.VALUE = {}\n", toml::Value::from(value)));
    let outcome = root.run(&["--role", "formats", "--sample"]);
    (root, outcome)
}

#[track_caller]
fn read_back(value: &str) {
    let (root, outcome) = formats(value);
    outcome.ends_with(0);
    assert_eq!(sourced(&root, &["/srv/x.sh"], "VALUE"), value);
    assert_eq!(sourced(&root, &["/srv/x.sh"], "AFTER"), "2", "{value:?}");
    let environment = environment_file::read(&root.read("/srv/x.env"));
    let expected = [("BEFORE", "1"), ("VALUE", value), ("AFTER", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(environment, expected);
    let document: Value = serde_json::from_str(&root.read("/srv/x.json")).unwrap();
    assert_eq!(document, json!({ "before": 1, value: value, "after": [value] }));
}

#[test]
fn each_format_returns_what_was_put_in() {
    for value in HOSTILE {
        if !value.chars().any(char::is_control) {
            read_back(value);
            continue;
        }
        let (root, outcome) = formats(value);
        outcome.ends_with(78).reports(&["config.toml, line 1, column 22", "a line end or another control character"]);
        assert!(!root.at("/srv").exists(), "{value:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn each_format_returns_any_text(value in "[ -~]{1,12}|[^\\p{C}]{1,30}") {
        read_back(&value);
    }
}

#[test]
fn a_unit_takes_only_what_every_directive_reads_alike() {
    let role = "description = ''\n[[step]]\nid = 'x'\nphase = 'boot'\n\
                file = { path = '/etc/x.conf', content = \"[Service]\\nEnvironment=HTTP_PROXY={{ proxy.http }}\\n\" }\n";
    let mut count = 0;
    for value in HOSTILE.into_iter().chain(["http://u:p%40%6Eq@h:1"]) {
        let root = Root::empty();
        root.write("/srv/settings.toml", format!("proxy.http = {}\n", toml::Value::from(value)));
        root.write("/srv/x.toml", role);
        std::fs::create_dir_all(root.at("/etc/titus-bootstrap/roles")).unwrap();
        std::fs::rename(root.at("/srv/x.toml"), root.at("/etc/titus-bootstrap/roles/x.toml")).unwrap();
        let settings = root.at("/srv/settings.toml").display().to_string();
        let outcome = root.run(&["--role", "x", "--sample", "--config", &settings]);
        assert!([0, 78].contains(&outcome.code), "{}", outcome.transcript());
        if outcome.code == 0 {
            count += 1;
            let text = root.read("/etc/x.conf");
            let line = text.lines().find_map(|line| line.strip_prefix("Environment=HTTP_PROXY=")).unwrap();
            assert_eq!(line.replace("%%", "%"), value);
            assert!(!value.contains(['"', '\'', '\\', '$', ' ', ';', '#']), "{value:?}");
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }
    assert!(count > 0, "every value was refused");
}

#[test]
fn the_same_value_gives_the_same_bytes() {
    let looks = [formats("a $b 'c'").0, formats("a $b 'c'").0].map(|root| root.made());
    assert_same(&looks[0], &looks[1], "two runs on the same value");
}
