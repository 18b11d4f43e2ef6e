//! A fresh node whose tag says `agent` becomes one.

use crate::harness::agent;
use crate::harness::node::Node;

#[test]
fn a_fresh_node_becomes_an_agent() {
    let (node, services) = agent::fresh();

    let planned = node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(2);
    assert!(planned.out.contains("titus-executor"), "{}", planned.transcript());
    assert!(!node.exists("/etc/mesos-agent.config"), "a plan wrote");

    // No role and no setting on the command line: the tag says it, and the image.
    let run = node.bootstrap(&[]).ends_with(0);
    let output = format!("{}{}", run.out, run.err);
    assert!(output.contains("titus:role"), "the tag is not named\n{}", run.transcript());
    assert!(output.contains("reboot"), "the reboot is not announced\n{}", run.transcript());
    agent::check(&node);
    assert!(services.metadata.requests().iter().any(|request| request.contains("tags/instance")));

    let report = agent::apply(&node).json();
    assert_eq!(report["role"], "agent");
    assert_eq!(report["result"], "converged");
    assert_eq!(report["reboot_required"], true, "net.ifnames=0 is not on the running kernel's command line");
    node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
}

/// With the argument on the kernel's command line no reboot is due. The agent and the executor's units wait for the run.
#[test]
fn a_plan_of_a_rebooted_agent_starts_only_what_waits_for_a_run() {
    let mut node = Node::converged();
    node.reboot();
    let _services = agent::services(&node);
    assert_eq!(node.property("mesos-agent.service", "ActiveState"), "inactive");
    node.shell(
        "{ tr -d '\\n' < /proc/cmdline; echo ' net.ifnames=0'; } > /run/cmdline
         mount --bind /run/cmdline /proc/cmdline",
    );
    let report = agent::apply(&node);
    assert_eq!(report.json()["reboot_required"], false, "{}", report.transcript());
    let executor =
        ["setup-networking.timer", "reaper.service", "darion.service", "launchguard.service", "vpc-gc.timer"];
    let started = executor.map(|unit| format!("executor:titus-{unit}"));
    let wanted = [&["ready".to_owned()], &started[..], &["mesos-agent".to_owned()]].concat();
    assert_eq!(report.steps("changed"), wanted, "{}", report.transcript());
    agent::check(&node);
}
