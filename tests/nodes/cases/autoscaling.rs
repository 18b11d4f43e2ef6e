//! An instance of an Auto Scaling group: in a warm pool, held by a lifecycle hook, and after a failure.

use std::net::TcpListener;

use crate::harness::agent::{self, SETTINGS};
use crate::harness::autoscaling::{Answer, AutoScaling, ENDPOINT, with_profile};
use crate::harness::first_boot::{self, UNIT};
use crate::harness::node::Node;
use crate::harness::prereqs;
use crate::harness::services::{self, items, listen};
use crate::harness::wait_for;
use crate::support::metadata::Metadata;
use crate::support::outcome::Outcome;

const RETRY: &str = "titus-bootstrap-retry.timer";
const READY: &str = "/run/titus-bootstrap/ready";
const STATE: &str = "meta-data/autoscaling/target-lifecycle-state";

const HEARTBEAT: &str = "RecordLifecycleActionHeartbeat titusagent launch";
const CONTINUE: &str = "CompleteLifecycleAction titusagent launch CONTINUE";
const ABANDON: &str = "CompleteLifecycleAction titusagent launch ABANDON";
const UNHEALTHY: &str = "SetInstanceHealth Unhealthy";

/// Where the small role's only check asks, until a test listens there.
const DOOR: &str = "30.0.100.194:7";

/// A role that succeeds at once, and then has something to wait for.
const ROLE: &str = "description = \"A small role\"\n\
    [[step]]\nid = \"small\"\nphase = \"boot\"\nfile = { path = \"/etc/small-role\", content = \"\" }\n\
    [[verify]]\nid = \"door\"\nwait = { tcp = \"30.0.100.194:7\" }\n";

/// A step that fails.
const FAILS: &str =
    "[[step]]\nid = \"fails\"\nphase = \"boot\"\nfile = { path = \"/proc/small-role\", content = \"\" }\n";

const HOOK: &str = "lifecycle.hook = \"launch\"\n";
const MARK: &str = "on_failure.mark_unhealthy = true\n";

/// A node with the boot unit, and what Auto Scaling and the metadata service say to it.
fn node_with(settings: &str) -> (Node, Metadata, AutoScaling) {
    let node = Node::fresh();
    first_boot::install(&node);
    node.write("/etc/titus-bootstrap/roles/agent.toml", ROLE);
    node.write(SETTINGS, settings);
    let api = AutoScaling::serve(&node);
    let metadata = services::metadata(&node, with_profile(items()));
    (node, metadata, api)
}

/// A run of the program by a person, or from the user data in this file.
fn run(node: &Node, arguments: &[&str]) -> Outcome {
    let variable = format!("AWS_ENDPOINT_URL_AUTO_SCALING={ENDPOINT}");
    node.run(&[&["env", &variable, "titus-bootstrap"], arguments].concat())
}

/// What the boot unit's program ends with.
fn boot(node: &Node) -> i32 {
    // A person does not start it five times in ten seconds.
    node.run(&["systemctl", "reset-failed", UNIT]);
    node.run(&["systemctl", "start", UNIT]);
    node.property(UNIT, "ExecMainStatus").parse().unwrap()
}

/// Waits until the timer runs that starts the boot unit again: the unit only queues its start.
#[track_caller]
fn await_timer(node: &Node) {
    wait_for("the timer", || (node.property(RETRY, "ActiveState") == "active").then_some(()));
}

/// Asserts which calls have come since the last question. On a slow machine a run sends more heartbeats before the rest.
#[track_caller]
fn assert_calls(api: &AutoScaling, wanted: &[&str], why: &str) {
    let mut calls = api.calls();
    if wanted.first() == Some(&HEARTBEAT) {
        let heartbeats = calls.iter().take_while(|call| *call == HEARTBEAT).count();
        let surplus = calls.len().saturating_sub(wanted.len());
        calls.drain(..surplus.min(heartbeats.saturating_sub(1)));
    }
    assert_eq!(calls, wanted, "{why}");
}

fn journal(node: &Node) -> String {
    node.shell("journalctl --unit titus-bootstrap --output cat --no-pager")
}

#[test]
fn a_hook_goes_on_when_the_role_s_checks_are_satisfied_and_not_before() {
    let (node, metadata, api) = node_with(HOOK);
    // A run by hand sends the group nothing.
    run(&node, &[]).ends_with(0);
    assert_eq!(api.calls(), Vec::<String>::new());

    node.shell(&format!("systemctl start --no-block {UNIT}"));
    wait_for("the run to ask for the hook", || {
        node.property(UNIT, "StatusText").contains("lifecycle hook launch").then_some(())
    });
    wait_for("a heartbeat before the checks", || (api.count(HEARTBEAT) > 0).then_some(()));
    // They go on while the checks are not satisfied, each a whole timeout more.
    wait_for("a heartbeat meanwhile", || (api.count(HEARTBEAT) > 1).then_some(()));
    assert_eq!(node.property(UNIT, "ActiveState"), "activating");
    let door: TcpListener = listen(&node, DOOR);
    wait_for("the unit's end", || (node.property(UNIT, "ActiveState") == "inactive").then_some(()));
    assert_eq!(node.property(UNIT, "Result"), "success", "{}", journal(&node));
    let calls = api.calls();
    assert_eq!(calls.last().map(String::as_str), Some(CONTINUE), "{calls:?}");
    assert!(journal(&node).contains("notified the Auto Scaling group titusagent: CONTINUE"), "{}", journal(&node));
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"lifecycle_action\":\"CONTINUE\""));

    // At each later boot no hook holds it, and the run does no check.
    drop(door);
    assert_eq!(boot(&node), 0);
    assert_calls(&api, &[HEARTBEAT], "a later boot");

    // Into a warm pool the hook lets it as it is.
    metadata.set(STATE, Some("Warmed:Stopped".into()));
    api.answer(Answer::Held);
    assert_eq!(boot(&node), 0);
    assert_calls(&api, &[HEARTBEAT, CONTINUE], "into a warm pool");

    // A run from user data is as good.
    api.answer(Answer::Held);
    // A person who tries the script notifies nothing either; cloud-init runs it from its own directory.
    for (path, calls) in
        [("/root/user-data", &[][..]), ("/var/lib/cloud/instance/scripts/part-001", &[HEARTBEAT, CONTINUE])]
    {
        node.write(path, "#!/usr/bin/titus-bootstrap\n");
        run(&node, &[path]).ends_with(0);
        assert_calls(&api, calls, path);
    }
}

#[test]
fn a_failure_of_this_node_s_lets_go_of_it_or_has_it_replaced() {
    let (node, metadata, api) = node_with(&format!("{HOOK}{MARK}"));
    let failing = format!("{ROLE}{FAILS}");
    node.write("/etc/titus-bootstrap/roles/agent.toml", &failing);
    let called = |code: i32, calls: &[&str]| {
        assert_eq!(boot(&node), code, "{}", journal(&node));
        assert_calls(&api, calls, &journal(&node));
    };

    run(&node, &[]).ends_with(1);
    assert_eq!(api.calls(), Vec::<String>::new(), "by hand");
    called(1, &[HEARTBEAT, ABANDON]);
    assert!(journal(&node).contains("ABANDON this instance"), "{}", journal(&node));
    // No hook holds it any more, and it fails again.
    called(1, &[HEARTBEAT, UNHEALTHY]);
    // No policy: the run names the missing action.
    api.answer(Answer::Denied);
    called(1, &[HEARTBEAT, "CompleteLifecycleAction titusagent launch ABANDON", UNHEALTHY]);
    assert!(journal(&node).contains("\"autoscaling:SetInstanceHealth\""), "{}", journal(&node));

    // What was refused before the role was known, too.
    api.answer(Answer::Held);
    node.write("/etc/titus-bootstrap/roles/agent.toml", &format!("required = [\"debs.master\"]\n{ROLE}"));
    called(78, &[HEARTBEAT, ABANDON]);

    // Checks that stay unsatisfied.
    api.answer(Answer::Held);
    node.write("/etc/titus-bootstrap/roles/agent.toml", ROLE);
    node.write(SETTINGS, &format!("{HOOK}timeouts.wait = \"3s\"\ntimeouts.facts = \"1s\"\n"));
    called(1, &[HEARTBEAT, HEARTBEAT, ABANDON]);
    assert!(journal(&node).contains("still failing: door"), "{}", journal(&node));

    // Stopped meanwhile: the person who stops it knows why.
    api.answer(Answer::Held);
    node.shell(&format!("sed -i 's/3s/5m/' {SETTINGS}; systemctl reset-failed; systemctl start --no-block {UNIT}"));
    wait_for("a heartbeat", || (api.count(HEARTBEAT) > 0).then_some(()));
    node.shell(&format!("systemctl stop {UNIT}"));
    assert_calls(&api, &[HEARTBEAT], "stopped");
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"interrupted\""));

    // A good run whose policy forbids the call: the policy is wrong, not the node.
    let _door: TcpListener = listen(&node, DOOR);
    api.answer(Answer::Denied);
    called(1, &[HEARTBEAT, CONTINUE]);
    assert!(journal(&node).contains("\"autoscaling:CompleteLifecycleAction\""), "{}", journal(&node));

    // The timer tries that one again.
    api.answer(Answer::Held);
    drop(metadata);
    called(75, &[]);
    await_timer(&node);
}

#[test]
fn a_log_bucket_that_is_not_there_is_a_warning() {
    let (node, metadata, _api) = node_with("");
    let role = "description = \"\"\n[[verify]]\nid = \"log-bucket\"\nlog_bucket = true\n";
    node.write("/etc/titus-bootstrap/roles/agent.toml", role);
    let verify = |bucket: &str, endpoint: &str, code: i32| {
        let (endpoint, bucket) = (format!("AWS_ENDPOINT_URL_S3={endpoint}"), format!("agent.log_bucket={bucket}"));
        node.run(&["env", &endpoint, "titus-bootstrap", "verify", "--set", &bucket]).ends_with(code).out
    };
    for (bucket, words) in [
        ("there", "good     log-bucket     the bucket there is there"),
        ("another-s", "good     log-bucket     the bucket another-s is there, or"),
        ("missing", "warning  log-bucket     there is no bucket missing"),
    ] {
        let output = verify(bucket, ENDPOINT, 0);
        assert!(output.starts_with(words), "{output}");
    }
    let output = verify("there", "http://30.0.100.194:1", 75);
    assert!(output.starts_with("not asked ") && output.contains("within 10s"), "{output}");
    metadata.set("meta-data/iam/security-credentials/titus-node", None);
    let output = verify("missing", ENDPOINT, 0);
    assert!(output.starts_with("warning ") && output.contains("no credentials"), "{output}");
}

#[test]
fn an_agent_in_a_warm_pool_is_whole_on_disk_and_joins_when_it_leaves() {
    const STARTS: &str = "/var/lib/agent-starts";
    let node = Node::fresh();
    first_boot::install(&node);
    let touch = format!("[Service]\nExecStartPre=/bin/touch {STARTS}\n");
    node.write("/etc/systemd/system/mesos-agent.service.d/touch.conf", &touch);
    node.shell("systemctl daemon-reload");
    let services = agent::services(&node);
    agent::settings_with(&node, "titus-log-bucket-terraform-example", "reboot = \"never\"\n");
    services.metadata.set(STATE, Some("Warmed:Running".into()));

    assert_eq!(boot(&node), 0, "{}", journal(&node));
    let banner = "role agent: waits in a warm pool (Warmed:Running) after ";
    assert!(journal(&node).contains(banner), "{}", journal(&node));
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"state\":\"warm_pool\""));
    for (path, _) in agent::files() {
        assert!(node.exists(&path), "{path}");
    }
    let enabled = node.run(&["systemctl", "is-enabled", "mesos-agent.service", "docker-tcp-proxy.socket"]).out;
    assert_eq!(enabled, "enabled\nenabled\n");
    assert!(!node.exists(READY));
    // Nor can anybody start it in passing.
    node.run(&["systemctl", "start", "mesos-agent.service"]);
    assert_eq!(node.property("mesos-agent.service", "ActiveState"), "inactive");
    assert!(!node.exists(STARTS), "the agent ran");
    // What is deferred is not good.
    let verified = node.bootstrap(&["verify"]).ends_with(75);
    assert!(verified.out.lines().any(|line| line.starts_with("not asked mesos-agent ")), "{}", verified.transcript());
    assert!(verified.out.contains("in a warm pool (Warmed:Running)"), "{}", verified.transcript());
    node.bootstrap(&["status"]).ends_with(0);

    // It may leave without a boot, so the unit checks each minute; the journal says so once.
    await_timer(&node);
    assert_eq!(boot(&node), 0, "{}", journal(&node));
    assert_eq!(journal(&node).matches(banner).count(), 1, "{}", journal(&node));
    await_timer(&node);

    services.metadata.set(STATE, Some("InService".into()));
    assert_eq!(boot(&node), 0, "{}", journal(&node));
    assert!(journal(&node).contains("role agent: converged in "), "{}", journal(&node));
    assert!(node.exists(STARTS));
    agent::check(&node);
}

#[test]
fn a_prereqs_node_in_a_warm_pool_has_its_images_and_no_container() {
    let node = Node::with_engine();
    first_boot::install(&node);
    prereqs::settings(&node, "");
    let services = prereqs::services(&node);
    services.metadata.set(STATE, Some("Warmed:Stopped".into()));
    node.bootstrap(&[]).ends_with(0);
    assert_eq!(node.property("docker.service", "ActiveState"), "active");
    assert_eq!(prereqs::containers(&node), Vec::<String>::new());
    for image in prereqs::IMAGES {
        node.run(&["docker", "image", "inspect", image]).ends_with(0);
    }

    // It has no way to a registry when it joins, and needs none.
    let prereqs::Services { metadata, registry } = services;
    drop(registry);
    metadata.set(STATE, Some("InService".into()));
    node.bootstrap(&[]).ends_with(0);
    prereqs::check(&node);
}

#[test]
fn a_first_boot_to_which_aws_brings_everything_late_notifies_the_group_once() {
    const TAGS: &str = "meta-data/tags/instance";
    const GROUP: &str = "meta-data/tags/instance/aws:autoscaling:groupName";
    let (node, metadata, api) = node_with(HOOK);
    let _door: TcpListener = listen(&node, DOOR);
    let up = |seconds: u32| node.write("/run/uptime", &format!("{seconds}.00 1.00\n"));
    up(4);
    node.shell("mount --bind /run/uptime /proc/uptime");
    let whole = with_profile(items());
    let set = |there: bool, is: &dyn Fn(&str) -> bool| {
        for (path, value) in whole.iter().filter(|(path, _)| is(path)) {
            metadata.set(path, there.then(|| value.clone()));
        }
    };
    let profile = |path: &str| path.starts_with("meta-data/iam/");
    let group = |path: &str| path == GROUP || path == STATE;
    metadata.set(&format!("{TAGS}/Name"), Some("x".into()));
    let own = || node.shell("journalctl --unit titus-bootstrap --identifier titus-bootstrap --output cat --no-pager");
    let waits = |what: &str| {
        // Nor does the timer elapse so often; here it is the test that tries again.
        node.run(&["systemctl", "reset-failed", RETRY]);
        assert_eq!(boot(&node), 75, "{}", journal(&node));
        await_timer(&node);
        node.shell(&format!("systemctl stop {RETRY}"));
        let output = node.bootstrap(&["status"]);
        let second = output.out.lines().nth(1).unwrap_or_default();
        assert!(second.starts_with(&format!("  waiting for {what} since ")), "{}", output.transcript());
    };

    for (second, third) in [(profile as fn(&str) -> bool, group as fn(&str) -> bool), (group, profile)] {
        let before = own().len();
        node.shell("rm -rf /run/titus-bootstrap/status.json /etc/small-role");
        set(false, &|path: &str| profile(path) || group(path) || path.starts_with(TAGS));
        metadata.set(&format!("{TAGS}/Name"), Some("x".into()));
        up(4);
        waits("the role");
        waits("the role");
        // Meanwhile the run does what needs no group.
        set(true, &|path: &str| path.ends_with("titus:role"));
        up(5);
        waits("the Auto Scaling group");
        assert!(node.exists("/etc/small-role"));
        up(90);
        set(true, &second);
        waits(if second(STATE) { "the instance profile's credentials" } else { "the Auto Scaling group" });
        assert_eq!(api.calls(), Vec::<String>::new(), "{}", journal(&node));
        up(480);
        set(true, &third);
        api.answer(Answer::Held);
        assert_eq!(boot(&node), 0, "{}", journal(&node));
        let calls = api.calls();
        assert_eq!(calls.iter().filter(|call| !call.starts_with(HEARTBEAT)).collect::<Vec<_>>(), [CONTINUE]);
        assert_eq!(boot(&node), 0, "{}", journal(&node));
        assert_calls(&api, &[HEARTBEAT], "notified twice");
        let output = own()[before..].to_owned();
        let lines = |words: &str| output.lines().filter(|line| line.contains(words)).count();
        assert_eq!(lines("waiting for the role since"), 1, "{output}");
        assert_eq!(lines("notice: waiting for"), if second(STATE) { 3 } else { 2 }, "{output}");
        assert!(output.lines().count() < 20, "{output}");
    }

    // cloud-init runs user data once. The boot unit comes again; where it is not enabled, the run itself waits.
    const SCRIPT: &str = "/var/lib/cloud/instance/scripts/part-001";
    node.write(SCRIPT, "#!/usr/bin/titus-bootstrap\n");
    let role = |path: &str| path.ends_with("titus:role");
    set(false, &role);
    up(4);
    run(&node, &[SCRIPT]).ends_with(75).reports(&["waiting for the role since"]);
    node.shell(&format!("systemctl disable {UNIT}; rm /run/titus-bootstrap/status.json"));
    let variable = format!("AWS_ENDPOINT_URL_AUTO_SCALING={ENDPOINT}");
    let mut waiting = node.spawn(&["env", &variable, "titus-bootstrap", SCRIPT]);
    wait_for("the run to wait", || node.exists("/run/titus-bootstrap/status.json").then_some(()));
    assert!(!waiting.ended());
    api.answer(Answer::Held);
    up(90);
    set(true, &role);
    waiting.end().ends_with(0);
    assert_calls(&api, &[HEARTBEAT, CONTINUE], "a run from user data that waited");
}
