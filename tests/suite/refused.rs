//! What must be refused before anything is changed: the tree is compared.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use support::door::Closed;
use support::gzip;
use support::metadata::{Fault, Metadata, sample};
use support::root::{Outcome, Root, ask, assert_same, run};

const GROUP: &str = "meta-data/tags/instance/aws:autoscaling:groupName";
const AGENT: [&str; 3] = ["--role", "agent", "--sample"];

/// A tree in which a run would have much to do.
fn drifted() -> Root {
    let root = Root::empty();
    root.write("/etc/titus-shared.env", "SHORT_CIRCUIT_QUITELITE=false\n");
    root.write("/etc/mesos-agent.config", "MESOS_PORT=1\nMESOS_PORT=1\n");
    root.write("/etc/udev/rules.d/70-persistent-net.rules", "");
    root
}

/// The outcome of what changes nothing below the root.
#[track_caller]
fn unchanged(root: &Root, run: impl FnOnce(&Root) -> Outcome) -> Outcome {
    let before = (root.look(), root.stamps());
    let outcome = run(root);
    assert_same(&before.0, &root.look(), "a refused run changed something");
    assert_same(&before.1, &root.stamps(), "a refused run wrote something");
    outcome
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let root = drifted();
    unchanged(&root, |root| root.run(arguments)).ends_with(code).reports(words);
    check_refuses(&root, arguments, code, words);
}

/// `check` refuses all that a run refuses without looking at a machine, with the same code and words.
#[track_caller]
fn check_refuses(root: &Root, arguments: &[&str], code: i32, words: &[&str]) {
    // The command line is the run's own.
    if code != 64 {
        unchanged(root, |root| root.run(&[&["check"], arguments].concat())).ends_with(code).reports(words);
    }
}

/// The sample's facts with a change, through `facts --json` and `--facts`.
#[track_caller]
fn refused_for_facts(change: impl FnOnce(&mut Value), arguments: &[&str], code: i32, words: &[&str]) {
    let root = drifted();
    let mut facts = run(&["facts", "--sample", "--json"]).ends_with(0).json();
    change(&mut facts);
    root.write("/srv/facts.json", facts.to_string());
    root.write("/srv/settings.toml", titus_bootstrap::facts::sample::SETTINGS);
    let (facts, settings) = (root.at("/srv/facts.json"), root.at("/srv/settings.toml"));
    let given = ["--facts", facts.to_str().unwrap(), "--config", settings.to_str().unwrap()];
    unchanged(&root, |root| root.run(&[&given, arguments].concat())).ends_with(code).reports(words);
    check_refuses(&root, &[&given, arguments].concat(), code, words);
}

/// What a run needs beside facts.
const SETTINGS: [&str; 4] = ["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"];

/// The sample's metadata service with a change, and nothing but the bucket and the role set. `check` refuses the same.
#[track_caller]
fn refused_for_metadata(change: impl FnOnce(&Metadata), code: i32, words: &[&str]) {
    let metadata = Metadata::start(sample());
    change(&metadata);
    let root = drifted();
    unchanged(&root, |root| root.ask(&metadata, &SETTINGS)).ends_with(code).reports(words);
    check_refuses_what_it_says(&root, &metadata, &SETTINGS, code, words);
}

/// A metadata service with a change after which nobody can read facts: neither a run nor `facts`.
#[track_caller]
fn refused_without_facts(change: impl FnOnce(&Metadata), code: i32, words: &[&str]) {
    let metadata = Metadata::start(sample());
    change(&metadata);
    let root = drifted();
    // What is temporary lasts until the limit, and the words may be those of an answer within it.
    let limit: &[&str] = if code == 75 { &["--set", "timeouts.facts=3s"] } else { &[] };
    let settings = [&SETTINGS, limit].concat();
    unchanged(&root, |root| root.ask(&metadata, &settings)).ends_with(code).reports(words);
    Root::empty().ask(&metadata, &[&["facts", "--json"], limit].concat()).ends_with(code).reports(words);
}

/// The same of what a metadata service says, as two files.
#[track_caller]
fn check_refuses_what_it_says(root: &Root, metadata: &Metadata, settings: &[&str], code: i32, words: &[&str]) {
    let facts = Root::empty().ask(metadata, &["facts", "--json"]).ends_with(0);
    root.write("/srv/facts.json", facts.out);
    let (facts, user_data) = (root.at("/srv/facts.json"), root.at("/srv/user-data"));
    let mut given = [settings, &["--facts", facts.to_str().unwrap()]].concat();
    if let Some(bytes) = metadata.get("user-data") {
        root.write("/srv/user-data", bytes);
        given.push(user_data.to_str().unwrap());
    }
    check_refuses(root, &given, code, words);
}

#[test]
fn an_instance_family_that_the_vpc_driver_does_not_know() {
    refused_for_facts(
        |facts| facts["instance"]["type"] = json!("t2.large"),
        &["--role", "agent"],
        69,
        &["t2.large", "family t2", "m4, m5, r4, p2, c5", "agent.supported_families"],
    );
}

#[test]
fn an_instance_type_that_nobody_knows() {
    let unknown = |facts: &mut Value| facts["instance"]["type"] = json!("m4.gigantic");
    let later = ["--role", "agent", "--set", "agent.vpc_driver=any"];
    refused_for_facts(unknown, &later, 78, &["[instance_types.\"m4.gigantic\"]", "max_enis"]);
}

#[test]
fn an_instance_type_of_a_known_family_that_the_vpc_driver_does_not_know() {
    for name in ["m5.8xlarge", "c5.24xlarge", "m5.metal", "r4.metal"] {
        let change = |facts: &mut Value| facts["instance"]["type"] = json!(name);
        let family = name.split('.').next().unwrap();
        let works = format!("{family}.large, {family}.xlarge, {family}.2xlarge");
        refused_for_facts(change, &["--role", "agent"], 69, &[name, "May 2018", &works, "agent.vpc_driver"]);
    }
}

#[test]
fn an_architecture_that_the_packages_are_not_for() {
    let arm = |facts: &mut Value| facts["image"]["architecture"] = json!("aarch64");
    refused_for_facts(arm, &["--role", "agent"], 69, &["aarch64", "x86_64"]);
}

#[test]
fn a_machine_that_leaves_nothing_for_tasks() {
    let small = |facts: &mut Value| facts["instance"]["memory_mib"] = json!(1200);
    refused_for_facts(small, &["--role", "agent"], 69, &["1200 MiB", "agent.reserve.mem"]);
}

#[test]
fn no_auto_scaling_group() {
    let alone = |facts: &mut Value| facts["instance"]["autoscaling_group"] = Value::Null;
    let words = ["Auto Scaling group", "agent.asg", "InstanceMetadataTags"];
    refused_for_facts(alone, &["--role", "agent"], 78, &words);
    let tag = |value: &'static str| move |metadata: &Metadata| metadata.set(GROUP, Some(value.into()));
    let role = "meta-data/tags/instance/titus:role";
    for value in ["a;b:c", "a:b", "a b", "a'b", "$(reboot)"] {
        let changed = |metadata: &Metadata| {
            metadata.set(role, Some(b"agent".to_vec()));
            tag(value)(metadata);
        };
        refused_for_metadata(changed, 78, &[]);
    }
    refused_without_facts(tag("a\nb"), 78, &["aws:autoscaling:groupName cannot be used", "control character"]);
}

/// The image has no role: for the boot unit that is not a failure, but a wrong role is one.
#[test]
fn no_role_at_boot() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let output = root.ask(&metadata, &["apply", "--at-boot"]).ends_with(0);
    assert!(output.err.contains("notice: nothing says which role this node has"), "{}", output.err);
    assert_same(&Root::empty().look(), &root.look(), "without a role something was written");
    let output = root.ask(&metadata, &["apply", "--at-boot", "--role", "nobody"]).ends_with(78);
    assert!(output.err.contains("role unknown: refused after "), "{}", output.err);
}

#[test]
fn no_role_anywhere() {
    refused(&["--sample"], 78, &["--role: not given", "settings: no role", "titus:role: no such tag", "tags enabled"]);
    let off = |metadata: &Metadata| {
        metadata.set(GROUP, None);
        metadata.set("meta-data/tags/instance/Name", None);
    };
    refused_for_metadata(off, 78, &["tags in instance metadata are disabled", "--instance-metadata-tags enabled"]);
}

#[test]
fn an_unknown_role_or_one_that_is_not_accepted() {
    refused(&["--sample", "--role", "agnet"], 78, &["agnet", "did you mean `agent`?"]);
    let accepted = [&AGENT[..], &["--set", "allowed_roles=[\"master\"]"]].concat();
    refused(&accepted, 78, &["role agent", "allowed_roles is master"]);
    refused_for_metadata(
        |metadata| metadata.set("meta-data/tags/instance/titus:role", Some(b"agnet".to_vec())),
        78,
        &["did you mean `agent`?"],
    );
}

#[test]
fn settings_that_are_wrong() {
    for (text, words) in [
        (
            "[agent]\nlog_bucket = 'logs'\n  reigstry = 'x'\n",
            &["line 3, column 3", "reigstry", "did you mean `registry`?"][..],
        ),
        ("stakc = 'x'\n", &["config.toml, line 1, column 1", "did you mean `stack`?"]),
        ("stack = \n", &["config.toml, line 1"]),
        ("agent.port = 'high'\n", &["line 1, column 14", "a port, from 1 to 65535"]),
        ("agent.log_bucket = \"it's\"\n", &["agent.log_bucket = \"it's\"", "config.toml", "lower-case"]),
        ("agent.log_bucket = 'a\"b'\n", &["agent.log_bucket", "config.toml"]),
        ("stack = \"a\\nb\"\n", &["stack = \"a\\nb\""]),
        ("agent.attributes = { cluster = 'a;asg:b' }\n", &["agent.attributes.cluster", "forge"]),
        ("agent.attributes = { zone = 'a' }\n", &["zone is given twice"]),
        ("agent.resource_set = 'all'\n", &["\"all\"", "schedulable"]),
        ("timeouts.wait = 'soon'\n", &["soon", "90s"]),
        ("agent.supported_families = 'all'\n", &["\"any\""]),
    ] {
        let root = drifted();
        root.write("/etc/titus-bootstrap/config.toml", text);
        // Below every other layer but the sample: what is wrong there is wrong wherever it is overridden.
        unchanged(&root, |root| root.sample(&[])).ends_with(78).reports(words);
        check_refuses(&root, &AGENT, 78, words);
    }
    refused(&[&AGENT[..], &["--set", "agent.reigstry=x"]].concat(), 78, &["did you mean `registry`?"]);
    refused(&[&AGENT[..], &["--config", "/nowhere/at/all.toml"]].concat(), 78, &["/nowhere/at/all.toml"]);
    refused_for_facts(|_| {}, &["--role", "agent", "--set", "prereqs=a b"], 78, &["prereqs"]);
}

#[test]
fn a_role_without_what_it_needs() {
    let root = drifted();
    let facts = run(&["facts", "--sample", "--json"]).ends_with(0).out;
    root.write("/srv/facts.json", facts);
    let facts = root.at("/srv/facts.json");
    let given = ["--role", "agent", "--facts", facts.to_str().unwrap()];
    let words = ["agent.log_bucket and zookeeper.servers", "titus:agent.log_bucket", "--set prereqs=VALUE"];
    unchanged(&root, |root| root.run(&given)).ends_with(78).reports(&words);
    check_refuses(&root, &given, 78, &words);
}

#[test]
fn tags_that_are_wrong() {
    for (key, value) in [
        ("titus:stack", "a;b"),
        ("titus:stack", "a\nb"),
        ("titus:agent.log_bucket", "a\"b"),
        ("titus:zookeeper.servers", "10.0.0.1"),
        ("titus:prereqs", "10.0.0.1; reboot"),
    ] {
        let tagged = |metadata: &Metadata| {
            metadata.set("meta-data/tags/instance/titus:role", Some(b"agent".to_vec()));
            metadata.set(&format!("meta-data/tags/instance/{key}"), Some(value.into()));
        };
        let metadata = Metadata::start(sample());
        tagged(&metadata);
        let root = drifted();
        root.write(
            "/etc/titus-bootstrap/config.toml",
            format!("allowed_tags = [{:?}, 'role']\n", &key["titus:".len()..]),
        );
        let words = [key, "cannot be used"];
        unchanged(&root, |root| root.ask(&metadata, &[])).ends_with(78).reports(&words);
        // With a control character, a tag is not even a fact.
        if value.contains('\n') {
            Root::empty().ask(&metadata, &["facts", "--json"]).ends_with(78).reports(&words);
        } else {
            check_refuses_what_it_says(&root, &metadata, &[], 78, &words);
        }
    }
}

#[test]
fn invalid_facts() {
    let broken = ["", "{", "[]", "{\"schema_version\": 1}", "null"];
    for text in broken {
        let root = drifted();
        root.write("/srv/facts.json", text);
        let facts = root.at("/srv/facts.json");
        let (given, words) =
            (["--role", "agent", "--facts", facts.to_str().unwrap()], ["has no usable facts", "facts --json"]);
        unchanged(&root, |root| root.run(&given)).ends_with(78).reports(&words);
        check_refuses(&root, &given, 78, &words);
    }
    refused_for_facts(|facts| facts["schema_version"] = json!(2), &["--role", "agent"], 78, &["schema_version is 2"]);
    refused_for_facts(|facts| facts["instance"]["tpye"] = json!("x"), &["--role", "agent"], 78, &["tpye"]);
    refused(&["--role", "agent", "--facts", "/nowhere.json"], 78, &["/nowhere.json"]);
    refused(&[&AGENT[..], &["--facts", "/nowhere.json"]].concat(), 64, &["--sample"]);
}

#[test]
fn broken_user_data_for_titus_bootstrap() {
    let mut bomb = b"#titus-bootstrap\n".to_vec();
    bomb.resize(8 << 20, b'\n');
    let two = "Content-Type: multipart/mixed; boundary=x\n\n--x\n\n#titus-bootstrap\n--x\n\n#titus-bootstrap\n--x--\n";
    for (data, words) in [
        (
            b"#titus-bootstrap\n[agent]\nlog_buckett = 'x'\n".to_vec(),
            &["user data, line 3, column 1", "log_bucket"][..],
        ),
        (b"#!/usr/bin/titus-bootstrap\nexec reboot\n".to_vec(), &["user data, line 2"]),
        (b"#!/usr/bin/titus-bootstrap --rloe agent\n".to_vec(), &["user data", "--rloe"]),
        (b"#titus-bootstrap\nstack = '\xff'\n".to_vec(), &["user data", "line 2", "UTF-8"]),
        (two.into(), &["user data", "two"]),
        (gzip(&bomb), &["user data", "1048576"]),
        (vec![b'#'; 16385], &["user data", "16384"]),
        (gzip(b"#titus-bootstrap\nstack = 'x'\n")[..30].to_vec(), &["user data", "damaged"]),
    ] {
        let with_data = |metadata: &Metadata| {
            metadata.set("meta-data/tags/instance/titus:role", Some(b"agent".to_vec()));
            metadata.set("user-data", Some(data));
        };
        refused_for_metadata(with_data, 78, words);
    }
}

#[test]
fn a_metadata_service_that_is_absent_hangs_or_refuses() {
    // No process listens there, and the system gives this port to no other test.
    let nobody = "127.0.0.1:9";
    let root = drifted();
    let mut command = root.program(&["--role", "agent", "--set", "timeouts.facts=2s"]);
    ask(&mut command, &format!("http://{nobody}"));
    let started = std::time::Instant::now();
    unchanged(&root, |_| support::root::outcome(&mut command)).ends_with(75).reports(&[
        "within 2s",
        "Connection refused",
        nobody,
    ]);
    let took = started.elapsed().as_secs_f32();
    assert!(took > 1.9, "{took} s");
    refused_without_facts(|metadata| metadata.fault(Fault::Hang), 75, &["within 3s"]);
    refused_without_facts(|metadata| metadata.fault(Fault::Refuse), 75, &["403 Forbidden", "http-endpoint enabled"]);
    refused_without_facts(|metadata| metadata.fault(Fault::V1Only), 75, &["IMDSv2"]);
}

#[test]
fn a_run_waits_for_a_late_metadata_service() {
    let late = Closed::new();
    let address = late.address();
    let root = drifted();
    let mut command = root.program(&AGENT[..2]);
    command.args([
        "--set",
        "agent.log_bucket=logs",
        "--set",
        "prereqs=10.0.0.1",
        "--set",
        "agent.resources={mem=1,disk=1}",
    ]);
    ask(&mut command, &format!("http://{address}")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut late, mut metadata) = (Some(late), None);
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        // What it says after three seconds.
        if line.unwrap().contains("waiting for the instance metadata service")
            && let Some(late) = late.take()
        {
            metadata = Some(Metadata::serve(late.listen(), sample()));
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(metadata.is_some() && root.read("/etc/mesos-agent.config").contains("i-0123456789abcdef0"));
}

const V1: &str = "net.ifnames=0 systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1";

/// Facts of a node that boots with cgroup v2, of this systemd.
fn with_v2(systemd: u32) -> impl Fn(&mut Value) {
    move |facts| {
        facts["image"]["cgroup"] = json!("v2");
        facts["image"]["systemd"] = json!(systemd);
    }
}

#[test]
fn a_node_that_cannot_have_cgroup_v1() {
    let words =
        ["need cgroup v1", "systemd 258 supports only cgroup v2", "Debian 11 to 13", "unified_cgroup_hierarchy=1"];
    refused_for_facts(with_v2(258), &["--role", "agent"], 69, &words);
    let in_vain = |facts: &mut Value| {
        with_v2(252)(facts);
        facts["instance"]["kernel_command_line"] = json!(format!("quiet {V1}"));
    };
    refused_for_facts(in_vain, &["--role", "agent"], 69, &["in force anyway", "/proc/cmdline"]);
    let unknown = |facts: &mut Value| {
        with_v2(0)(facts);
        facts["image"]["systemd"] = Value::Null;
    };
    refused_for_facts(unknown, &["--role", "agent"], 69, &["of unknown version", "agent.kernel_arguments"]);
}

/// What the agent's plan is for these facts, and what is in the GRUB drop-in that it makes.
fn plan_with(change: impl Fn(&mut Value), arguments: &[&str]) -> (Outcome, String) {
    let root = Root::empty();
    let mut facts = run(&["facts", "--sample", "--json"]).ends_with(0).json();
    change(&mut facts);
    root.write("/srv/facts.json", facts.to_string());
    root.write("/srv/settings.toml", titus_bootstrap::facts::sample::SETTINGS);
    let (facts, settings) = (root.at("/srv/facts.json"), root.at("/srv/settings.toml"));
    let given = ["--role", "agent", "--facts", facts.to_str().unwrap(), "--config", settings.to_str().unwrap()];
    let outcome = root.run(&[&given, arguments].concat()).ends_with(0);
    let drop_in = root.read("/etc/default/grub.d/90-titus-bootstrap.cfg");
    (outcome, drop_in.lines().last().unwrap().to_owned())
}

#[test]
fn a_node_that_boots_with_cgroup_v2_gets_v1_and_joins_after_that() {
    let (outcome, drop_in) = plan_with(with_v2(252), &[]);
    assert!(drop_in.ends_with(&format!(" {V1}\"")), "{drop_in}");
    assert!(outcome.out.contains("this node joins after the reboot that brings v1"), "{}", outcome.out);
    // As prints were before, and as nodes with v1 are.
    let old = |facts: &mut Value| {
        let image = facts["image"].as_object_mut().unwrap();
        image.remove("cgroup");
        image.remove("systemd");
    };
    let (outcome, drop_in) = plan_with(old, &[]);
    assert!(drop_in.ends_with(" net.ifnames=0\"") && !outcome.out.contains("cgroup"), "{drop_in}\n{}", outcome.out);
    let own = "agent.kernel_arguments=[\"systemd.unified_cgroup_hierarchy=1\"]";
    let (outcome, drop_in) = plan_with(with_v2(258), &["--set", own]);
    assert!(drop_in.ends_with(" systemd.unified_cgroup_hierarchy=1\""), "{drop_in}");
    assert!(outcome.out.contains("do not run with cgroup v2"), "{}", outcome.out);
}
