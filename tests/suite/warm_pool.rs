//! An instance in a warm pool: the run prepares everything on disk, and nothing joins.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use support::metadata::{Metadata, sample};
use support::root::{Root, assert_same};

const STATE: &str = "meta-data/autoscaling/target-lifecycle-state";
const READY: &str = "/run/titus-bootstrap/ready";
const REASON: &str = "this instance is in a warm pool (Warmed:Stopped): it joins the cluster when it leaves the pool";

/// Settings of every role, one argument each.
const SETTINGS: [&str; 6] = [
    "agent.log_bucket=logs",
    "debs.master={ path = \"/opt/master.deb\" }",
    "debs.gateway={ path = \"/opt/gateway.deb\" }",
    "master.address=10.0.0.1",
    "master.default_iam_role=arn:aws:iam::123456789012:role/x",
    "master.default_security_groups=sg-0123456789abcdef0",
];

fn arguments<'a>(command: &'a str, role: &'a str) -> Vec<&'a str> {
    let prereqs = if role == "prereqs" { vec![] } else { vec!["--set", "prereqs=10.0.0.1"] };
    let settings = SETTINGS.iter().flat_map(|setting| ["--set", setting]);
    [command, "--role", role, "--json"].into_iter().chain(settings).chain(prereqs).collect()
}

fn metadata(state: &str) -> Metadata {
    let metadata = Metadata::start(sample());
    metadata.set(STATE, Some(state.into()));
    metadata
}

#[test]
fn each_role_is_complete_except_for_what_joins() {
    let (warm, in_service) = (metadata("Warmed:Stopped"), metadata("InService"));
    let roles: [(&str, &[&str]); 4] = [
        ("prereqs", &["zookeeper", "zookeeper-serves", "mesos-master", "mesos-master-answers", "mesos-leader"]),
        ("master", &["ready", "zookeeper-serves", "mesos-leader", "titus-master", "titus-master-answers"]),
        ("gateway", &["ready", "titus-master-answers", "titus-gateway", "titus-gateway-answers", "instance-groups"]),
        (
            "agent",
            &["ready", "docker-tcp-proxy-socket", "docker-tcp-proxy", "docker-api", "mesos-agent", "mesos-agent-port"],
        ),
    ];
    for (role, joins) in roles {
        let root = Root::empty();
        let report = root.ask(&warm, &arguments("apply", role)).ends_with(0).json();
        assert_eq!(report["result"], "warm_pool");
        assert_eq!(report["warm_pool"], "Warmed:Stopped");
        assert!(report["notices"].as_array().unwrap().iter().any(|notice| notice == REASON), "{report:#}");
        // The first run has enabled the steps that the second one reports as deferred.
        let again = root.ask(&warm, &arguments("apply", role)).ends_with(0).json();
        let steps = again["steps"].as_array().unwrap();
        assert!(steps.iter().all(|step| step["state"] != "changed"), "{role}: {steps:#?}");
        let deferred = steps.iter().filter(|step| step["state"] == "deferred" && step["note"] == REASON);
        let deferred: Vec<&str> = deferred.map(|step| step["id"].as_str().unwrap()).collect();
        assert_eq!(deferred, joins, "{role}");
        assert!(!root.at(READY).exists());

        // It leaves the pool: nothing but that file is different from a node that was in none.
        root.ask(&in_service, &arguments("apply", role)).ends_with(0);
        let other = Root::empty();
        other.ask(&in_service, &arguments("apply", role)).ends_with(0);
        assert_same(&other.made(), &root.made(), "after the pool");
        assert_eq!(root.at(READY).exists(), role != "prereqs");
    }
}

#[test]
fn a_plan_says_what_waits() {
    let root = Root::empty();
    let plan = root.ask(&metadata("Warmed:Hibernated"), &arguments("plan", "agent")).ends_with(0).json();
    let notices = plan["notices"].to_string();
    assert!(notices.contains("in a warm pool (Warmed:Hibernated)"), "{notices}");
    let states = plan["steps"].as_array().unwrap().iter();
    let ready = states.clone().find(|step| step["id"] == "ready").unwrap();
    assert_eq!(ready["state"], "deferred");
    assert!(states.clone().any(|step| step["id"] == "mesos-attributes" && step["state"] == "changes"));
}
