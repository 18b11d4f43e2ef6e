//! The first minutes of an instance, in which AWS is late with tags, credentials and the Auto Scaling group.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::time::SystemTime;

use serde_json::Value;
use support::aws::account::{Account, sample};
use support::aws::{Aws, Keys};
use support::metadata::{self, Metadata};
use support::root::{Outcome, Root, ask, assert_same, outcome};

const ID: &str = "i-0123456789abcdef0";
const GROUP: &str = "aws:autoscaling:groupName";
const STATE: &str = "meta-data/autoscaling/target-lifecycle-state";
const PROFILE: &str = "meta-data/iam/security-credentials/titus-node";
const STATUS: &str = "/run/titus-bootstrap/status.json";

/// What an agent needs and no tag says.
const SETTINGS: &str = "prereqs = '10.0.0.1'\n[agent]\nlog_bucket = 'logs'\n\
    [agent.resources]\nmem = 8000\ndisk = 8000\n";

/// An instance that has just booted: nothing says who it is.
struct Node {
    root: Root,
    metadata: Metadata,
    aws: Aws,
}

impl Node {
    fn new() -> Node {
        let mut items = metadata::sample();
        items.retain(|path, _| !path.starts_with("meta-data/tags/") && path != STATE);
        let aws = Aws::start(Account::default(), &Keys::new(1));
        let node = Node { root: Root::empty(), metadata: Metadata::start(items), aws };
        node.root.write("/etc/titus-bootstrap/config.toml", SETTINGS);
        node
    }

    /// Has the machine run so long.
    fn up(&self, seconds: u32) {
        self.root.write("/proc/uptime", format!("{seconds}.25 1.00\n"));
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.root.program(arguments);
        outcome(ask(&mut command, &self.metadata.endpoint()).env("AWS_ENDPOINT_URL_EC2", self.aws.endpoint()))
    }

    fn boot(&self) -> Outcome {
        self.run(&["apply", "--at-boot"])
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.root.read(STATUS)).unwrap()
    }

    /// Has a minute pass, as far as lines are concerned.
    fn minute(&self) {
        self.said("2026-01-01T00:00:00Z");
    }

    /// Has no time pass since the last line, however long the run took.
    fn just_now(&self) {
        self.said(&humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
    }

    fn said(&self, time: &str) {
        let mut status = self.status();
        status["wait"]["said"] = time.into();
        self.root.write(STATUS, status.to_string());
    }
}

/// The lines of a run without that which names the tests' metadata service.
fn lines(outcome: &Outcome) -> Vec<&str> {
    outcome.err.lines().filter(|line| !line.contains("the metadata service is")).collect()
}

#[track_caller]
fn waits(outcome: Outcome, words: &[&str]) {
    let outcome = outcome.ends_with(75).reports(words);
    assert_eq!((lines(&outcome).len(), outcome.out.as_str()), (1, ""), "{}", outcome.transcript());
}

#[test]
fn a_node_becomes_what_it_should_however_late_tags_profile_and_group_are() {
    let node = Node::new();
    node.up(90);
    let before = node.root.look();
    // No profile, so that the program cannot ask the API.
    node.up(3);
    waits(
        node.boot(),
        &["notice: waiting for the role since 2", "this machine has run for 10m", "no instance profile"],
    );
    let since = node.status()["wait"]["since"].as_str().unwrap().to_owned();
    node.up(30);
    node.just_now();
    let again = node.boot().ends_with(75);
    assert_eq!(lines(&again), [""; 0], "a line each try");
    let output = node.run(&["status"]).ends_with(78);
    assert!(output.out.contains(&format!("waiting for the role since {since}: no role")), "{}", output.transcript());
    assert_eq!(
        (node.status()["state"].as_str(), node.status()["error"]["exit_code"].as_u64()),
        (Some("waits"), Some(75))
    );
    node.minute();
    node.up(60);
    waits(node.boot(), &[&format!("waiting for the role since {since}")]);

    // The profile is there, and so are the tags, except the group's.
    for (path, value) in Keys::new(1).items() {
        node.metadata.set(&path, Some(value));
    }
    let mut tags = sample().tags[ID].clone();
    tags.insert("titus:role".into(), "agent".into());
    let group = tags.remove(GROUP).unwrap();
    node.aws.account(|account| account.tags.insert(ID.into(), tags));
    node.up(90);
    waits(node.boot(), &["waiting for the Auto Scaling group since ", "the Auto Scaling group is unknown"]);
    node.metadata.set(STATE, Some("InService".into()));
    node.minute();
    waits(node.boot(), &["waiting for the Auto Scaling group since "]);
    assert_same(&before, &node.root.look(), "a run that waits wrote something");

    node.up(480);
    node.aws.account(|account| account.tags.get_mut(ID).unwrap().insert(GROUP.into(), group));
    let done = node.boot().ends_with(0);
    assert_eq!(lines(&done).len(), 1, "{}", done.transcript());
    assert!(node.root.read("/etc/mesos-attributes.sh").contains("asg:titusagent"));
    assert_eq!((node.status()["state"].as_str(), &node.status()["wait"]), (Some("converged"), &Value::Null));
}

#[test]
fn facts_that_never_come_are_missing_and_reported_once() {
    let node = Node::new();
    node.up(599);
    waits(node.boot(), &["waiting for the role"]);
    node.up(600);
    let last = node.boot().ends_with(0).reports(&["notice: nothing says which role this node has"]);
    assert_eq!(lines(&last).len(), 1, "{}", last.transcript());
    assert_eq!(node.status()["state"], "no_role");

    // With a role: as ever.
    let agent = |seconds: u32, more: &[&str]| {
        node.up(seconds);
        node.run(&[&["apply", "--at-boot", "--role", "agent"], more].concat())
    };
    waits(agent(599, &[]), &["waiting for the Auto Scaling group"]);
    agent(600, &[]).ends_with(78).reports(&[
        "role unknown: refused after",
        "the Auto Scaling group is unknown",
        "fix: ",
    ]);
    // How long is the operator's.
    agent(599, &["--set", "timeouts.launch=9m"]).ends_with(78);
    waits(agent(700, &["--set", "timeouts.launch=1h"]), &["until this machine has run for 1h"]);
    agent(5, &["--set", "timeouts.launch=0s"]).ends_with(78);
}

#[test]
fn a_run_by_hand_answers_at_once() {
    let node = Node::new();
    node.up(5);
    node.run(&[]).ends_with(78).reports(&["no role: nothing says which role this node has", "--role: not given"]);
    node.run(&["--role", "agent"]).ends_with(78).reports(&["the Auto Scaling group is unknown"]);
    // Nor is a node held up by what it does without.
    node.run(&["--role", "agent", "--set", "agent.asg=x"]).ends_with(0);
    node.metadata.set(&format!("meta-data/tags/instance/{GROUP}"), Some("titusagent".into()));
    node.run(&["--role", "agent"]).ends_with(0);
}

#[test]
fn an_instance_of_a_group_has_tag_and_state_or_gets_the_missing_one_later() {
    let node = Node::new();
    node.up(5);
    let boot = || node.run(&["apply", "--at-boot", "--role", "agent", "--set", "agent.asg=own"]);
    let tag = format!("meta-data/tags/instance/{GROUP}");
    node.metadata.set(&tag, Some("titusagent".into()));
    waits(boot(), &["waiting for the lifecycle state since ", "has no target-lifecycle-state yet"]);
    node.metadata.set(&tag, None);
    node.metadata.set("meta-data/tags/instance/Name", Some("x".into()));
    node.metadata.set(STATE, Some("InService".into()));
    waits(boot(), &["waiting for the instance's tags since ", "there is no tag aws:autoscaling:groupName yet"]);
    node.metadata.set(&tag, Some("titusagent".into()));
    boot().ends_with(0);
}

#[test]
fn credentials_that_are_not_there_yet_are_waited_for_and_then_refused() {
    let node = Node::new();
    let keys = Keys::new(2);
    for (document, words) in [
        (
            Some(r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role."}"#.into()),
            "no credentials",
        ),
        (keys.items().remove(PROFILE), "does not accept this instance's signature"),
    ] {
        node.metadata.set(PROFILE, document);
        node.up(400);
        waits(node.boot(), &["waiting for the instance profile's credentials since ", words]);
        node.up(601);
        node.boot().ends_with(78).reports(&[words]);
    }
    // A list without a name counts as missing.
    node.metadata.set(PROFILE, None);
    node.metadata.set("meta-data/iam/security-credentials", Some(Vec::new()));
    node.boot().ends_with(0).reports(&["no instance profile"]);
}
