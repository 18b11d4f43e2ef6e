//! The inputs of a node of role prereqs, and its expected state.

use super::agent::SETTINGS;
use super::image::SOURCE;
use super::node::{ADDRESS, Node};
use super::registry::{self, Registry};
use super::services::{self, answers, items};
use super::{wait_for, znodes};
use crate::support::metadata::Metadata;

/// ZooKeeper, as the node itself reaches it.
pub const ZOOKEEPER: &str = "127.0.0.1:2181";

/// The images' names, as the proof of concept has them.
pub const IMAGES: [&str; 2] = ["jplock/zookeeper:3.4.10", "mesosphere/mesos-master:1.0.1-2.0.93.ubuntu1404"];

/// A node's surroundings, for as long as this lives.
pub struct Services {
    /// The metadata service.
    pub metadata: Metadata,
    /// The registry, if there is one.
    pub registry: Option<Registry>,
}

/// Serves the metadata of a prereqs node.
pub fn metadata(node: &Node) -> Metadata {
    metadata_of(node, "prereqs")
}

/// Serves the metadata of a node with the tag of this role.
pub fn metadata_of(node: &Node, role: &str) -> Metadata {
    let mut items = items();
    items.insert("meta-data/tags/instance/titus:role".into(), role.into());
    items.insert("meta-data/local-ipv4".into(), node.address.clone().into());
    items.insert("meta-data/local-hostname".into(), format!("{}.eu-west-1.compute.internal", node.hostname()).into());
    services::metadata(node, items)
}

/// Serves metadata, and a registry with the images.
pub fn services(node: &Node) -> Services {
    Services { metadata: metadata(node), registry: Some(Registry::serve(node, registry::ADDRESS)) }
}

/// The only things that are particular to the tests: where packages come from, and how Debian
/// calls Docker's. `more` comes before the first table.
pub fn settings(node: &Node, more: &str) {
    let text = format!(
        "{more}\n[packages]\ndocker = [\"docker.io\"]\n\n\
         {SOURCE}"
    );
    node.write(SETTINGS, &text);
}

/// The names of all containers, sorted.
pub fn containers(node: &Node) -> Vec<String> {
    let names = node.shell("docker ps --all --format '{{.Names}}'");
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// A container's id.
pub fn id(node: &Node, name: &str) -> String {
    node.shell(&format!("docker inspect --format '{{{{.Id}}}}' {name}")).trim().to_owned()
}

/// What the engine did since `since`, a moment in seconds since 1970: its events, one a line.
pub fn events(node: &Node, since: &str) -> String {
    node.shell(&format!("docker events --since {since} --until $(date +%s.%N) --format '{{{{.Type}}}} {{{{.Action}}}} {{{{.Actor.Attributes.name}}}}'"))
}

/// Now, as [`events`] wants it.
pub fn now(node: &Node) -> String {
    node.shell("date +%s.%N").trim().to_owned()
}

/// The proof of concept's two containers, as its script starts them.
pub fn as_the_scripts_left(node: &Node) {
    let [zookeeper, master] = IMAGES;
    node.shell(&format!("docker run --detach --name zookeeper --publish 2181:2181 {zookeeper}"));
    node.shell(&format!(
        "docker run --detach --name mesomaster --net=host {master} mesos-master --zk=zk://localhost:2181/titus/mainvpc/mesos \
         --work_dir=/tmp/master --log_dir=/var/log/mesos --logging_level=INFO --quorum=1"
    ));
    await_zookeeper(node);
}

/// Waits until ZooKeeper serves.
pub fn await_zookeeper(node: &Node) {
    wait_for("ZooKeeper", || znodes::mode(node, ZOOKEEPER));
}

/// Everything that makes a node a lone prereqs node.
#[track_caller]
pub fn check(node: &Node) {
    assert_eq!(containers(node), ["mesomaster", "zookeeper"]);
    for name in ["zookeeper", "mesomaster"] {
        let policy = node.shell(&format!("docker inspect --format '{{{{.HostConfig.RestartPolicy.Name}}}}' {name}"));
        assert_eq!(policy.trim(), "unless-stopped", "{name}");
    }
    // After a restart of Docker the master can end once more: it loses its session with ZooKeeper.
    wait_for("ZooKeeper to serve", || (znodes::mode(node, ZOOKEEPER).as_deref() == Some("standalone")).then_some(()));
    wait_for("the Mesos master to answer", || answers(node, &format!("{ADDRESS}:5050"), "/health").then_some(()));
    assert!(node.exists("/var/lib/zookeeper/version-2"), "ZooKeeper's data are not on the host");
    assert!(node.exists("/var/log/mesos/mesos-master.INFO"), "the Mesos master's log is not on the host");
    assert!(node.shell("id -nG ubuntu").split_whitespace().any(|g| g == "docker"), "ubuntu is not in group docker");
    wait_for("the Mesos master to lead", || {
        services::get(node, &format!("{ADDRESS}:5050"), "/metrics/snapshot").filter(|text| text.contains("elected\":1"))
    });
    node.bootstrap(&["verify"]).ends_with(0);
}
