//! `why`, `facts` and `instance-type`: every value has an explanation, and it is the right one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::metadata::{Metadata, sample};
use support::root::{Look, Root, assert_same, on_fixture, run};

const ROLES: &str = "/etc/titus-bootstrap/roles";

#[test]
fn a_value_is_reported_with_all_that_it_was_made_of() {
    let root = Root::empty();
    let output = root.sample(&["why", "MESOS_RESOURCES"]).ends_with(0).out;
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(
        lines,
        [
            "MESOS_RESOURCES = mem:6912;disk:20480;network:450",
            "  in /etc/mesos-agent.config (step mesos-agent-config)",
            "  from titus.resources",
            "    mem 6912: instance.memory_mib 7982 (the built-in sample), less agent.reserve.mem 1024 (role agent), in steps of 256",
            "    disk 20480: instance.disk_mib 30720 (the built-in sample), less agent.reserve.disk 10240 (role agent), in steps of 1024",
            "    network 450: network_mbps 450 (built-in table, row m4.large)",
        ]
    );
    root.sample(&["why", "role"]).ends_with(0).prints(&["role = agent\n  from --role: agent\n"]);
    root.sample(&["why", "TITUS_LOG_BUCKET", "--set", "agent.log_bucket=other-logs"])
        .ends_with(0)
        .prints(&["TITUS_LOG_BUCKET = other-logs\n", "  from agent.log_bucket (--set agent.log_bucket)\n"]);
    root.run(&["why", "titus.zookeeper.connectString", "--sample", "--role", "master"]).ends_with(0).prints(&[
        "(step titus-master-properties)",
        "from zookeeper.servers [\"30.0.100.194:2181\"] (prereqs in sample)",
    ]);
    root.sample(&["why", "titus.mesos_master"]).ends_with(0).prints(&[
        "titus.mesos_master = zk://30.0.100.194:2181/titus/mainvpc/mesos\n",
        "from zookeeper.servers [\"30.0.100.194:2181\"] (prereqs in sample)",
        "from mesos.zk_path /titus/mainvpc/mesos",
    ]);
    let grub = ["in /etc/default/grub.d/90-titus-bootstrap.cfg (step kernel-arguments)", "from titus.kernel_arguments"];
    root.sample(&["why", "GRUB_CMDLINE_LINUX"]).ends_with(0).prints(&grub);
    let server =
        ["titus.zookeeper_id = 1\n", "this node is instance.local_ipv4 30.0.100.194", "its place in the list\n"];
    root.run(&["why", "titus.zookeeper_id", "--sample", "--role", "prereqs"]).ends_with(0).prints(&server);
    assert_same(&Look::new(), &root.look(), "to ask wrote something");
}

#[test]
fn a_label_is_explained_from_the_settings_to_the_file() {
    let root = Root::empty();
    let labels = "agent.labels={ TEAM = \"media x\", DB_PASSWORD = \"hunter2\" }";
    let ask = |key: &str| root.sample(&["why", key, "--set", labels]).ends_with(0).out;
    assert_eq!(ask("agent.labels.TEAM"), "agent.labels.TEAM = media x\n  from --set agent.labels\n");
    assert_eq!(
        ask("TEAM"),
        "TEAM = 'media x'\n  in /etc/titus-executor/config.sh (step executor-config)\n  \
         from agent.labels.TEAM media x (--set agent.labels)\n"
    );
    assert_eq!(
        ask("DB_PASSWORD"),
        "DB_PASSWORD = ***\n  in /etc/titus-executor/config.sh (step executor-config)\n  \
         from agent.labels.DB_PASSWORD (--set agent.labels)\n"
    );
}

#[test]
fn json_has_the_same_as_a_tree() {
    let root = Root::empty();
    let mem = root.sample(&["why", "mem", "--json"]).ends_with(0).json();
    assert_eq!((&mem["key"], &mem["value"]), (&"mem".into(), &"6912".into()));
    let answer = &mem["answers"][0];
    assert_eq!((&answer["source"], &answer["in"]), (&"derived".into(), &"titus.resources".into()));
    let from = answer["from"].as_array().unwrap();
    assert_eq!((&from[1]["name"], &from[1]["source"]), (&"agent.reserve.mem".into(), &"role agent".into()));
    // A setting, an attribute, and a key of a file; the file quotes it.
    let stack = root.sample(&["why", "stack", "--json"]).ends_with(0).json();
    assert_eq!((stack["answers"].as_array().unwrap().len(), &stack["value"]), (3, &Value::Null));
}

#[test]
fn the_role_is_reported_with_each_place_that_was_consulted() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "role = 'agent'\nagent.log_bucket = 'logs'\nprereqs = '10.0.0.1'\n");
    let output = root.run(&["why", "role", "--sample"]).ends_with(0).out;
    let place = "settings (/etc/titus-bootstrap/config.toml)";
    assert_eq!(output, format!("role = agent\n  not from --role: not given\n  from {place}: agent\n"));
    Root::empty().run(&["why", "role", "--sample"]).ends_with(78).reports(&["--role: not given", "no such tag"]);
}

#[test]
fn unknown_names_are_refused_with_suggestions() {
    let root = Root::empty();
    for (key, words) in [
        ("", &["unknown name \"\"", "a setting"][..]),
        ("{{ 7*7 }}", &["unknown name \"{{ 7*7 }}\""]),
        ("{% include 'x' %}", &["unknown name"]),
        ("../../etc/passwd", &["unknown name \"../../etc/passwd\""]),
        ("a\nb\u{1b}", &["unknown name \"a\\nb\\u{1b}\""]),
        (&"x".repeat(100_000), &["unknown name"]),
        ("mesos_resources", &["did you mean `MESOS_RESOURCES`?"]),
        ("agent.log_bukcet", &["did you mean `agent.log_bucket`?"]),
        ("instance.regoin", &["did you mean `instance.region`?"]),
        ("titus.resource", &["did you mean `titus.resources`?"]),
        ("docker.service", &["\"docker.service\" is not a value", "titus-bootstrap explain docker.service"]),
        ("docker-tcp-proxy", &["titus-bootstrap explain docker-tcp-proxy"]),
        ("/etc/mesos-attributes.sh", &["titus-bootstrap explain /etc/mesos-attributes.sh"]),
    ] {
        let refused = root.sample(&["why", key]).ends_with(78).reports(words);
        assert_eq!(refused.out, "");
    }
    root.sample(&["why"]).ends_with(64);
    root.sample(&["why", "a", "b"]).ends_with(64);
}

#[test]
fn a_refused_node_still_answers() {
    let refused = ["--set", "agent.supported_families=['r4']"];
    let root = Root::empty();
    let ask = |key: &str| root.sample(&[&["why", key][..], &refused].concat());
    ask("instance.type").ends_with(0).prints(&["m4.large"]).reports(&["does not know the family m4"]);
    ask("agent.supported_families").ends_with(0).prints(&["from --set agent.supported_families"]);
    for key in ["MESOS_RESOURCES", "titus.resources", "mem"] {
        ask(key).ends_with(69).reports(&["does not know the family m4"]);
    }
}

#[test]
fn secrets_stay_hidden() {
    let root = Root::empty();
    root.write(
        &format!("{ROLES}/files/own.env"),
        "DB={{ master.properties['db.password'] }}\nHOST={{ proxy.http | replace('http://', '') }}\nURL=http://u:hunter2@h\n",
    );
    root.write(
        &format!("{ROLES}/own.toml"),
        "description = ''\n[[step]]\nid = 'env'\nphase = 'boot'\nfile = { path = '/etc/own.env', template = 'own.env' }\n\
         [[step]]\nid = 'keys'\nphase = 'boot'\n\
         properties = { path = '/etc/own.properties', set = { 'a.token' = 'hunter2' }, more = '{{ master.properties }}' }\n",
    );
    let properties = "master.properties={ 'db.password' = 'hunter2', 'db.user' = 'me' }";
    let keys = [
        "DB",
        "HOST",
        "URL",
        "a.token",
        "db.password",
        "master.properties",
        "master.properties.db.password",
        "proxy.http",
    ];
    let proxy = "proxy.http=http://u:hunter2@p:1";
    let ask = |key: &str, more: &[&str]| {
        let words = ["why", key, "--role", "own", "--sample", "--set", properties, "--set", proxy];
        root.run(&[&words[..], more].concat()).ends_with(0)
    };
    for key in keys {
        let text = ask(key, &[]).prints(&["***"]).out;
        let json = ask(key, &["--json"]).out;
        assert!(!text.contains("hunter2") && !json.contains("hunter2"), "{key}: {text}{json}");
    }
    let user = ask("db.user", &[]).out;
    assert_eq!(
        user,
        "db.user = me\n  in /etc/own.properties (step keys)\n  from master.properties.db.user (--set master.properties)\n"
    );
}

#[test]
fn an_operators_role_needs_no_table_of_names() {
    let root = Root::empty();
    root.write(
        &format!("{ROLES}/files/own.sh"),
        "{% for zone in [instance.zone] %}\nexport WHERE_{{ loop.index }}={{ zone }}\n{% endfor %}\nexport FIXED=1\n",
    );
    root.write(
        &format!("{ROLES}/own.toml"),
        "description = ''\n[[step]]\nid = 'sh'\nphase = 'boot'\nfile = { path = '/etc/own.sh', template = 'own.sh' }\n\
         [[step]]\nid = 'inline'\nphase = 'boot'\n\
         file = { path = '/etc/{{ stack }}.env', content = \"ID={{ instance.id }}\\nFIXED=2\\n\" }\n\
         [[step]]\nid = 'never'\nphase = 'boot'\nwhen = 'instance.cpus > 100'\nfile = { path = '/x.env', content = 'NEVER=1' }\n",
    );
    let why = |key: &str| root.run(&["why", key, "--role", "own", "--sample"]).ends_with(0).out;
    let sample = "the built-in sample";
    assert_eq!(
        why("ID"),
        format!("ID = i-0123456789abcdef0\n  in /etc/mainvpc.env (step inline)\n  from instance.id ({sample})\n")
    );
    assert_eq!(
        why("WHERE_1"),
        format!("WHERE_1 = eu-west-1a\n  in /etc/own.sh (step sh)\n  from instance.zone ({sample})\n")
    );
    assert_eq!(
        why("FIXED"),
        format!(
            "FIXED = 1\n  in /etc/own.sh (step sh)\n  from template own.sh ({ROLES}/files/own.sh)\n\
             FIXED = 2\n  in /etc/mainvpc.env (step inline)\n  from role own ({ROLES}/own.toml)\n"
        )
    );
    root.run(&["why", "NEVER", "--role", "own", "--sample"]).ends_with(78);
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// `why` explains each `NAME=VALUE` in the files of a fixture's roles, and names its file.
fn every_name_of(fixture_name: &str) {
    let directory = fixture(fixture_name);
    let mut asked = 0;
    for role in ["agent", "gateway", "master", "prereqs"] {
        let mut arguments = on_fixture(&directory, role);
        arguments.push("--json".into());
        let root = Root::empty();
        let mut names: BTreeSet<(String, String, String)> = BTreeSet::new();
        let mut left = vec![directory.join(role)];
        while let Some(below) = left.pop() {
            for entry in fs::read_dir(below).into_iter().flatten() {
                let file = entry.unwrap().path();
                if file.is_dir() {
                    left.push(file);
                    continue;
                }
                let path = format!("/{}", file.strip_prefix(directory.join(role)).unwrap().display());
                for line in fs::read_to_string(&file).unwrap().lines() {
                    let line = line.strip_prefix("export ").unwrap_or(line);
                    let Some((name, value)) = line.split_once('=') else { continue };
                    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) {
                        names.insert((name.to_owned(), path.clone(), value.to_owned()));
                    }
                }
            }
        }
        let mut answers: Option<(String, Value)> = None;
        for (name, path, value) in names {
            if answers.as_ref().is_none_or(|(known, _)| *known != name) {
                let mut words = vec!["why", name.as_str()];
                words.extend(arguments.iter().map(String::as_str));
                answers = Some((name.clone(), root.run(&words).ends_with(0).json()));
                asked += 1;
            }
            let all = answers.as_ref().unwrap().1["answers"].as_array().unwrap();
            let place = format!("{path} (step ");
            // A backslash is doubled in a properties file.
            let same = |known: &str| known.replace('\\', "") == value.replace('\\', "");
            let found = all.iter().find(|answer| {
                answer["in"].as_str().is_some_and(|known| known.starts_with(&place))
                    && answer["value"].as_str().is_some_and(|known| same(known) || known.contains("***"))
            });
            let found = found.unwrap_or_else(|| panic!("{name}={value} in {path}:\n{all:#?}"));
            assert!(!found["from"].as_array().unwrap().is_empty(), "{found:#}");
        }
    }
    assert!(asked > 10, "{asked}");
}

#[test]
fn every_name_of_the_sample() {
    every_name_of("sample");
}

#[test]
fn every_name_of_a_local_zone() {
    every_name_of("local-zone");
}

#[test]
fn every_name_of_an_ensemble() {
    every_name_of("ensemble");
}

#[test]
fn every_name_of_bare_facts() {
    every_name_of("bare");
}

#[test]
fn every_fact_has_its_source() {
    let root = Root::empty();
    let metadata = Metadata::start(sample());
    let asked = root.ask(&metadata, &["facts", "--json"]).ends_with(0);
    root.write("/srv/facts.json", &asked.out);
    let file = root.at("/srv/facts.json").display().to_string();
    for (outcome, words) in [
        (asked, None),
        (run(&["facts", "--sample", "--json"]), Some("the built-in sample")),
        (run(&["facts", "--facts", &file, "--json"]), Some(file.as_str())),
    ] {
        let facts = outcome.ends_with(0).json();
        let sources = facts["sources"].as_object().unwrap();
        let check = |name: String| {
            let source = sources.get(&name).unwrap_or_else(|| panic!("{name} has no source")).as_str().unwrap();
            assert!(source != "not known" && words.is_none_or(|words| source.contains(words)), "{name}: {source}");
        };
        for part in ["instance", "image"] {
            for (name, value) in facts[part].as_object().unwrap() {
                match value.as_object() {
                    Some(table) => table.keys().for_each(|key| check(format!("{part}.{name}.{key}"))),
                    None => check(format!("{part}.{name}")),
                }
            }
        }
    }
    let text = root.ask(&metadata, &["facts"]).ends_with(0).out;
    for line in text.lines() {
        assert!(line.ends_with(')') && line.contains("   ("), "{line}");
    }
    let words = ["(IMDS tags/instance)", "(uname(2))", "(/etc/os-release VERSION_ID)", "(/proc/meminfo MemTotal)"];
    assert!(words.iter().all(|words| text.contains(words)), "{text}");
    let why = root.ask(&metadata, &["why", "instance.region", "--role", "agent"]).ends_with(0).out;
    assert_eq!(why, "instance.region = eu-west-1\n  from IMDS placement/region\n");
}

#[test]
fn an_instance_type_says_where_its_numbers_stand() {
    run(&["instance-type", "m4.large"])
        .ends_with(0)
        .prints(&["ipv4_per_eni, max_enis, network_mbps from: built-in table, row m4.large\n"]);
    let own = ["instance-type", "m4.large", "--set", "instance_types.\"m4.large\".max_enis=9"];
    run(&own).ends_with(0).prints(&[
        "ipv4_per_eni, network_mbps from: built-in table, row m4.large\n",
        "max_enis from: setting instance_types.m4.large.max_enis, --set",
    ]);
    let json = run(&[&own[..], &["--json"]].concat()).ends_with(0).json();
    assert_eq!(json["sources"]["network_mbps"], "built-in table, row m4.large");
}
