//! One setting changes: what follows from it changes, and nothing else does.

use crate::harness::agent::{self, SETTINGS, UNITS};
use crate::harness::node::{Node, PREREQS};
use crate::support::outcome::Outcome;
use crate::support::tree::{differences, stamps};

#[test]
fn a_bucket_changes_one_line_and_restarts_nothing() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    agent::settings_with(&node, "another-bucket", "");

    let planned = node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(2);
    assert_eq!(
        diff(&planned),
        ["-export TITUS_LOG_BUCKET=titus-log-bucket-terraform-example", "+export TITUS_LOG_BUCKET=another-bucket"],
        "{}",
        planned.transcript()
    );
    let units = invocations(&node);
    let before = stamps(&node.path("/"));
    let run = agent::apply(&node);
    assert_eq!(run.steps("changed").len(), 1, "{}", run.transcript());
    assert_eq!(changed_files(&node, &before), ["/etc/profile.d/titus_environment.sh"]);
    assert_eq!(invocations(&node), units, "a unit was restarted");
    agent::check(&node);
}

#[test]
fn a_zookeeper_address_restarts_the_mesos_agent_alone() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    let more = format!(
        "zookeeper.servers = [\"{PREREQS}:2181\", \"30.0.100.195:2181\"]\nmesos.masters = [\"{PREREQS}:5050\"]"
    );
    agent::settings_with(&node, "titus-log-bucket-terraform-example", &more);
    let settings = node.read(SETTINGS).replace(&format!("prereqs = \"{PREREQS}\"\n"), "");
    node.write(SETTINGS, &settings);

    let planned = node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(2);
    assert_eq!(
        diff(&planned),
        [
            format!("-MESOS_MASTER=zk://{PREREQS}:2181/titus/mainvpc/mesos"),
            format!("+MESOS_MASTER=zk://{PREREQS}:2181,30.0.100.195:2181/titus/mainvpc/mesos"),
        ],
        "{}",
        planned.transcript()
    );
    let said = planned.out.to_lowercase();
    assert!(said.contains("mesos-agent") && said.contains("task"), "running tasks end: {}", planned.transcript());

    let [docker, proxy, agent] = invocations(&node);
    let before = stamps(&node.path("/"));
    agent::apply(&node);
    assert_eq!(changed_files(&node, &before), ["/etc/mesos-agent.config"]);
    let after = invocations(&node);
    assert_eq!([&after[0], &after[1]], [&docker, &proxy], "Docker or its proxy was restarted");
    assert_ne!(after[2], agent, "the Mesos agent was not restarted");
    agent::check(&node);
}

/// The lines of a plan that a change removes or adds.
fn diff(planned: &Outcome) -> Vec<String> {
    let lines = planned.out.lines().map(str::trim_start);
    let changed = lines
        .filter(|l| (l.starts_with('-') && !l.starts_with("---")) || (l.starts_with('+') && !l.starts_with("+++")));
    changed.map(|l| format!("{}{}", &l[..1], l[1..].trim())).collect()
}

fn invocations(node: &Node) -> [String; 3] {
    UNITS.map(|unit| node.property(unit, "InvocationID"))
}

/// Changed files, except the journal of what runs changed.
fn changed_files(node: &Node, before: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    differences(before, &stamps(&node.path("/")))
        .into_iter()
        .filter_map(|difference| Some(difference.split_once(": ")?.0.to_string()))
        .filter(|path| !path.starts_with("/var/lib/titus-bootstrap/"))
        .collect()
}
