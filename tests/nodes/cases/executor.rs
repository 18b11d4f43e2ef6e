//! titus-executor's own units, and its VPC tool. Its package enables the units and starts none.

use crate::harness::agent::{self, SETTINGS};
use crate::harness::first_boot;
use crate::harness::image::fresh;
use crate::harness::node::{ADDRESS, Node, PREREQS};
use crate::harness::services;
use crate::harness::wait_for;
use crate::support::outcome::Outcome;

/// What the package enables.
const UNITS: [&str; 5] = [
    "titus-setup-networking.timer",
    "titus-reaper.service",
    "titus-darion.service",
    "titus-launchguard.service",
    "titus-vpc-gc.timer",
];

/// What the timers start.
const STARTED: [&str; 2] = ["titus-setup-networking.service", "titus-vpc-gc.service"];

const TYPE: &str = "meta-data/instance-type";

/// The types that the driver of 2018 knows (titus-executor 20180516.0, vpc/limits.go).
const TYPES: [&str; 27] = [
    "c5.large",
    "c5.xlarge",
    "c5.2xlarge",
    "c5.4xlarge",
    "c5.9xlarge",
    "c5.18xlarge",
    "m4.large",
    "m4.xlarge",
    "m4.2xlarge",
    "m4.4xlarge",
    "m4.10xlarge",
    "m4.16xlarge",
    "m5.large",
    "m5.xlarge",
    "m5.2xlarge",
    "m5.4xlarge",
    "m5.12xlarge",
    "m5.24xlarge",
    "p2.xlarge",
    "p2.8xlarge",
    "p2.16xlarge",
    "r4.large",
    "r4.xlarge",
    "r4.2xlarge",
    "r4.4xlarge",
    "r4.8xlarge",
    "r4.16xlarge",
];

/// `verify` must end with `code` and print these words.
#[track_caller]
fn verify(node: &Node, arguments: &[&str], code: i32, words: &[&str]) {
    let verified = node.bootstrap(&[&["verify"], arguments].concat()).ends_with(code);
    for word in words {
        assert!(verified.out.contains(word), "{word:?} is not in\n{}", verified.transcript());
    }
}

fn tool(node: &Node) -> Outcome {
    node.run(&["/apps/titus-executor/bin/titus-vpc-tool", "genconf", "--resource-sets-only"])
}

/// The units run, and what their timers start has succeeded.
#[track_caller]
fn assert_at_work(node: &Node) {
    for unit in UNITS {
        assert_eq!(node.property(unit, "ActiveState"), "active", "{unit}");
        assert_eq!(node.property(unit, "UnitFileState"), "enabled", "{unit}");
    }
    for unit in STARTED {
        // Sooner than its timer would.
        node.run(&["systemctl", "start", unit]).ends_with(0);
    }
    assert_eq!(node.failed(), "");
    node.bootstrap(&["verify"]).ends_with(0);
}

/// The image's boot loader passes the kernel argument already: no run knows of a reboot that is due.
#[test]
fn an_agent_baked_without_a_reboot_due_has_the_executors_units_at_work() {
    let mut node = Node::off(&fresh().first_boot);
    node.put(SETTINGS, 0o600, agent::settings_text("titus-log-bucket-terraform-example", ""));
    node.put("/etc/cloud/cloud-init.disabled", 0o644, "");
    node.boot();
    first_boot::enable(&node);
    node.bootstrap(&["apply", "--phase", "bake", "--role", "agent"]).ends_with(0);
    // A bake starts nothing that needs an instance.
    for unit in UNITS {
        assert_eq!(node.property(unit, "ActiveState"), "inactive", "{unit}");
    }
    node.stop();
    for boot in ["the first boot", "a reboot"] {
        node.switch_on();
        node.await_network();
        let services = agent::services(&node);
        node.await_boot();
        assert!(!node.bootstrap(&["status"]).ends_with(0).out.contains("reboot"), "{boot}");
        assert_at_work(&node);
        drop(services);
        node.stop();
    }

    // By hand, each of them.
    node.switch_on();
    node.await_network();
    let _services = agent::services(&node);
    node.await_boot();
    for unit in UNITS {
        node.shell(&format!("systemctl stop {unit}"));
        verify(&node, &[], 1, &[&format!("{unit} is inactive")]);
    }
    node.bootstrap(&["apply"]).ends_with(0);
    assert_at_work(&node);
}

/// `127.0.1.1` is what its host's name resolves to.
#[test]
fn an_agent_registers_with_its_own_address() {
    let node = Node::converged();
    let _services = agent::services(&node);
    let line = node.read("/etc/hosts").lines().find(|line| line.contains(&node.hostname())).map(str::to_owned);
    assert_eq!(line.map(|line| line.split_whitespace().next().unwrap().to_owned()).as_deref(), Some("127.0.1.1"));
    let slaves = services::get(&node, &format!("{PREREQS}:5050"), "/slaves").unwrap();
    assert!(slaves.contains(&format!("\"slave(1)@{ADDRESS}:5051\"")), "{slaves}");
    verify(&node, &[], 0, &[&format!("has the agent {ADDRESS}:5051")]);
}

#[test]
fn each_type_that_the_driver_knows_gives_the_drivers_set_and_others_are_refused() {
    let node = Node::converged();
    let services = agent::services(&node);
    for name in TYPES {
        services.metadata.set(TYPE, Some(name.into()));
        let theirs = tool(&node).ends_with(0).out;
        let ours = node.bootstrap(&["instance-type", name, "--json"]).ends_with(0).json();
        assert_eq!(ours["resource_set"]["schedulable"], theirs.trim(), "{name}");
    }
    for name in ["m5.8xlarge", "c5.24xlarge", "m5.metal"] {
        services.metadata.set(TYPE, Some(name.into()));
        let (_, subtype) = name.split_once('.').unwrap();
        let panicked = tool(&node).ends_with(2);
        let first = format!("panic: Unknown subtype for family: {subtype}");
        assert_eq!(panicked.err.lines().next(), Some(first.as_str()));
        node.bootstrap(&["apply"]).ends_with(69).reports(&[name]);
        // What is wrong is on the tool's first line, above a long trace.
        verify(&node, &["--set", "agent.vpc_driver=any"], 1, &[&first]);
    }
}

/// Neither the tool nor the driver can ask for a token.
#[test]
fn metadata_that_demand_a_token_are_reported_by_verify() {
    let node = Node::converged();
    let services = agent::services(&node);
    node.bootstrap(&["verify"]).ends_with(0);
    services.metadata.require_tokens(true);
    tool(&node).ends_with(1).reports(&["401 - Unauthorized", "EC2 metadata service unavailable"]);
    verify(&node, &[], 1, &["failed   vpc-tool"]);
    services.metadata.require_tokens(false);
    wait_for("verify to be green", || (node.bootstrap(&["verify"]).code == 0).then_some(()));
}
