//! What `plan` shows, plans without a machine, and the words of `explain`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use serde_json::Value;

use crate::support::root::{Root, run};

const SAMPLE: [&str; 4] = ["plan", "--role", "agent", "--sample"];

#[test]
fn a_plan_shows_new_files_and_hides_what_is_in_sync() {
    let root = Root::empty();
    let plan = root.run(&SAMPLE).ends_with(0);
    let plan =
        plan.prints(&["create /etc/titus-shared.env", "+SHORT_CIRCUIT_QUITELITE=true", "deferred:", "to change"]);
    // What is deferred stands together at the end.
    let (_, group) = plan.out.split_once("\ndeferred:\n").unwrap();
    assert!(
        group.lines().next().unwrap().starts_with("    apt-sources  ") && !group.contains("to change  "),
        "{group}"
    );
    assert!(!plan.out.contains("] apt-sources"), "{}", plan.transcript());
    root.run(&[&SAMPLE[..], &["-q"]].concat()).ends_with(0);
    root.sample(&[]).ends_with(0);
    let plan = root.run(&SAMPLE).ends_with(0).prints(&["nothing to do", "in sync"]);
    assert!(!plan.out.contains("titus-shared"), "{}", plan.transcript());
    root.run(&[&SAMPLE[..], &["--all"]].concat()).ends_with(0).prints(&["titus-shared", "in sync"]);
    root.write("/etc/titus-shared.env", "OTHER=1\n");
    root.run(&SAMPLE).ends_with(0).prints(&["-OTHER=1", "+SHORT_CIRCUIT_QUITELITE=true"]);
}

#[test]
fn a_new_file_of_its_owner_alone_is_not_shown_and_a_long_one_is_cut_off() {
    let root = Root::empty();
    root.write(
        "/etc/titus-bootstrap/roles/own.toml",
        format!(
            "description = ''\n\
             [[step]]\nid = 'private'\nphase = 'boot'\nfile = {{ path = '/etc/private', mode = '0600', content = 'hidden' }}\n\
             [[step]]\nid = 'long'\nphase = 'boot'\nfile = {{ path = '/etc/long', content = \"{}\" }}\n",
            "line\\n".repeat(150)
        ),
    );
    let plan = root.run(&["plan", "--role", "own", "--sample"]).ends_with(0).prints(&["50 more lines", "render"]);
    assert!(!plan.out.contains("hidden") && plan.out.matches("+line").count() == 100, "{}", plan.transcript());
    // A run says that it makes a file, and no more.
    let made = root.run(&["apply", "--role", "own", "--sample"]).ends_with(0);
    assert!(!made.out.contains("+line"), "{}", made.transcript());
}

#[test]
fn facts_that_are_not_this_machines_are_planned_without_it() {
    let plan = run(&[&SAMPLE[..], &["--json"]].concat()).ends_with(0).json();
    assert!(plan["root"].as_str().unwrap().contains("titus-bootstrap-empty-"), "{plan:#}");
    assert!(plan["notices"].to_string().contains("a node with nothing on it"), "{plan:#}");
    assert!(!std::path::Path::new(plan["root"].as_str().unwrap()).exists());
    run(&[&SAMPLE[..], &["--detailed-exitcode"]].concat()).ends_with(2);
    run(&["--dry-run", "--role", "agent", "--sample"]).ends_with(0).prints(&["a node with nothing on it"]);
    run(&["--role", "agent", "--sample"]).ends_with(64);
}

fn facts(instance_type: &str) -> Value {
    run(&["facts", "--sample", "--instance-type", instance_type, "--json"]).ends_with(0).json()
}

#[test]
fn there_is_a_sample_of_each_type() {
    for name in ["m4.large", "p2.16xlarge", "a1.medium"] {
        assert_eq!(facts(name)["instance"]["type"], name);
    }
    let known = facts("r4.8xlarge");
    assert!(
        known["sources"]["instance.memory_mib"].as_str().unwrap().contains("the program does not know the memory"),
        "{known:#}"
    );
    run(&["facts", "--sample", "--instance-type", "m4.larg"])
        .ends_with(64)
        .reports(&["unknown instance type", "m4.large"]);
    run(&["facts", "--sample", "--instance-type", ""]).ends_with(64);
    run(&["facts", "--instance-type", "m4.large"]).ends_with(64).reports(&["--sample"]);
}

#[test]
fn several_nodes_are_planned_from_their_facts() {
    let root = Root::empty();
    let node = |n: usize, role: &str, instance_type: &str| {
        let mut facts = facts(instance_type);
        facts["instance"]["id"] = format!("i-{n:017}").into();
        facts["instance"]["tags"]["titus:role"] = role.into();
        facts
    };
    let good = [node(1, "agent", "m4.large"), node(2, "agent", "r4.8xlarge")];
    let settings = ["--set", "prereqs=10.0.0.1", "--set", "agent.log_bucket=my-logs"];
    let file = root.at("/fleet.json").display().to_string();
    let plan = |text: String, more: &[&str]| {
        root.write("/fleet.json", text);
        run(&[&["plan", "--fleet", &file][..], &settings, more].concat())
    };
    let lines = good.iter().map(|facts| format!("{facts}\n")).collect::<String>();
    let pretty = good.iter().map(|facts| format!("{facts:#}\n")).collect::<String>();
    for text in [Value::from(good.to_vec()).to_string(), lines.clone(), pretty] {
        let plan = plan(text, &[]).ends_with(0);
        let plan =
            plan.prints(&["i-00000000000000001", "i-00000000000000002", "agent", "2 nodes: 2 with changes, 0 refused"]);
        assert_eq!(plan.out.lines().count(), 4, "{}", plan.transcript());
    }
    plan(lines.clone(), &["--detailed-exitcode"]).ends_with(2);
    let nodes = plan(lines, &["--json"]).ends_with(0).json();
    assert_eq!(nodes["nodes"][1]["plan"]["result"], "changes", "{nodes:#}");

    // Titus's driver does not know t3: the plan refuses that node, and shows the other one.
    let mixed = Value::from(vec![node(1, "agent", "m4.large"), node(3, "agent", "t3.large")]).to_string();
    let refused = plan(mixed, &[]).ends_with(69).prints(&["1 refused", "refused", "changes"]);
    refused.reports(&["i-00000000000000003"]);
    let unknown = plan(node(1, "agnet", "m4.large").to_string(), &[]).ends_with(78);
    unknown.reports(&["i-00000000000000001", "agnet"]);
    for (text, words) in [
        ("", "it is empty"),
        ("[]", "it is empty"),
        ("[1]", "node 1: has no usable facts"),
        ("{", "has no usable facts"),
    ] {
        plan(text.to_owned(), &[]).ends_with(78).reports(&[words]);
    }
    plan("[]".to_owned(), &["--sample"]).ends_with(64);
    run(&["plan", "--fleet", "/nonexistent"]).ends_with(78).reports(&["/nonexistent"]);
}

#[test]
fn each_step_of_each_role_is_explained() {
    let mut kinds = std::collections::BTreeSet::new();
    for role in ["prereqs", "master", "gateway", "agent"] {
        let root = Root::empty();
        let plan = root.run(&["plan", "--role", role, "--sample", "--json"]).ends_with(0).json();
        for step in plan["steps"].as_array().unwrap() {
            let id = step["id"].as_str().unwrap();
            let words = root.run(&["explain", id, "--role", role, "--sample", "--json"]).ends_with(0).json();
            let explained = words["steps"].as_array().unwrap();
            let one = explained.iter().find(|one| one["id"] == id).unwrap();
            let sentences: Vec<&str> =
                one["sentences"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            assert!(sentences.len() >= 3, "{role} {id}: {sentences:?}");
            for line in &sentences {
                assert!(line.ends_with('.') && line.starts_with(|c: char| c.is_uppercase()), "{role} {id}: {line}");
            }
            assert!(sentences.iter().any(|line| line.starts_with("Phase ")), "{role} {id}: {sentences:?}");
            kinds.insert(step["kind"].as_str().unwrap().to_owned());
        }
    }
    assert!(kinds.len() >= 12, "{kinds:?}");
}

#[test]
fn explain_says_what_restarts_what() {
    let root = Root::empty();
    let explain = |id: &str| root.run(&["explain", id, "--role", "agent", "--sample"]);
    explain("docker").ends_with(0).prints(&[
        "docker, a step of the kind unit of role agent",
        "Keeps docker.service enabled",
        "restarts when one of these",
        "10-docker-config.conf",
        "running tasks end",
        "Phase boot",
        "It is step ",
    ]);
    explain("docker-config").ends_with(0).prints(&["A change of it restarts what these steps keep: docker."]);
    for (name, step) in [
        ("docker.service", "docker, a step of the kind unit"),
        ("/etc/mesos-attributes.sh", "mesos-attributes, a step of the kind file"),
        ("titus-executor", "agent-packages, a step of the kind package"),
    ] {
        explain(name).ends_with(0).prints(&[step]);
    }
    explain("mask-mesos-slave").ends_with(0).prints(&["masked"]);
    // A file that services wait for says so, and no other file does.
    let waits = "Services whose drop-in names this file start only when it is there.";
    assert!(explain("ready").ends_with(0).out.contains(waits));
    assert!(!explain("mesos-attributes").ends_with(0).out.contains(waits));
    explain("dockre").ends_with(64).reports(&["role agent has no step \"dockre\"", "did you mean `docker`?"]);
    root.run(&["explain", "instance-groups", "--role", "gateway", "--sample"]);
}

#[test]
fn a_step_of_an_operator_is_explained_whatever_its_kind() {
    let root = Root::empty();
    root.write(
        "/etc/titus-bootstrap/roles/own.toml",
        "description = 'own'\n\
         [[step]]\nid = 'parameters'\nphase = 'boot'\n\
         sysctl = { file = '60-own.conf', set = { 'net.ipv4.ip_forward' = 1 } }\n\
         [[step]]\nid = 'checked'\nphase = 'boot'\n\
         command = { argv = ['disks', '--format'], check = ['disks', 'check'], timeout = '5m' }\n\
         [[step]]\nid = 'creates'\nphase = 'boot'\ncommand = { argv = ['disks'], creates = '/disks' }\n\
         [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'y.service', active = true }\n\
         [[step]]\nid = 'config'\nphase = 'boot'\nfile = { path = '/etc/own.conf', content = '' }\n\
         [[step]]\nid = 'reloads'\nphase = 'boot'\nunit = { name = 'x.service', active = true, reload_on = ['config'] }\n\
         [[step]]\nid = 'recreated'\nphase = 'boot'\n\
         container = { name = 'x', image = 'x:1', restart_on = ['config'] }\n\
         [[step]]\nid = 'plain'\nphase = 'boot'\ncontainer = { name = 'y', image = 'x:1' }\n\
         [[step]]\nid = 'groups'\nphase = 'boot'\ninstance_group = { names = '{{ [] }}' }\n\
         [[step]]\nid = 'deb'\nphase = 'bake'\ndeb = { source = { path = '/x.deb' } }\n\
         [[step]]\nid = 'summed'\nphase = 'bake'\ndeb = { source = { path = '/y.deb', sha256 = 'SUM' } }\n"
            .replace("SUM", &"a".repeat(64)),
    );
    for (id, sentence) in [
        (
            "parameters",
            "Keeps kernel parameters in /etc/sysctl.d/60-own.conf, and in the running kernel: net.ipv4.ip_forward=1.",
        ),
        (
            "checked",
            "Runs `disks --format` when `disks check` does not end with 0. It may take 5m, then the run fails.",
        ),
        ("creates", "Runs `disks` when /disks is not there. It may take"),
        ("unit", "No change of another step restarts it."),
        ("reloads", "It reloads when one of these changes: /etc/own.conf."),
        ("recreated", "The run also recreates it when one of these changes: /etc/own.conf."),
        ("plain", "Keeps the container y running, from the image x:1 with the specification of the role."),
        ("groups", "Keeps no Titus instance group: the settings name none."),
        ("deb", "Keeps the package of the deb /x.deb installed. Another build of it is replaced."),
        ("summed", "Keeps the package of the deb /y.deb installed; its SHA-256 must be that of the settings."),
    ] {
        let explained = root.run(&["explain", id, "--role", "own", "--sample"]).ends_with(0);
        assert!(explained.out.contains(sentence), "{id}: {}", explained.out);
        assert_eq!(explained.out.contains("No change of another step"), id == "unit", "{}", explained.out);
        assert_eq!(explained.out.contains("also recreates it"), id == "recreated", "{}", explained.out);
    }
}
