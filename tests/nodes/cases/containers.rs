//! A prereqs node that runs: what comes back by itself, what is replaced, what is not.

use std::time::{Duration, Instant};

use crate::harness::node::Node;
use crate::harness::prereqs::{self, Services, ZOOKEEPER};
use crate::harness::{services, wait_for, znodes};
use crate::support::outcome::Outcome;
use crate::support::tree::{assert_same, stamps};

const KEPT: Option<&str> = Some("data");

/// A lone prereqs node with a znode.
fn node() -> (Node, Services) {
    let node = Node::with_engine();
    let services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&["apply"]).ends_with(0);
    znodes::write(&node, ZOOKEEPER, "/kept", "data");
    (node, services)
}

fn kept(node: &Node) -> bool {
    znodes::read(node, ZOOKEEPER, "/kept").as_deref() == KEPT
}

fn master_answers(node: &Node) -> bool {
    services::answers(node, &format!("{}:5050", node.address), "/health")
}

#[track_caller]
fn nothing_changes(node: &Node) {
    let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
}

#[test]
fn a_second_run_asks_the_engine_to_change_nothing() {
    let (node, _services) = node();
    let (since, before) = (prereqs::now(&node), stamps(&node.path("/")));
    nothing_changes(&node);
    assert_eq!(prereqs::events(&node, &since), "");
    let mut after = stamps(&node.path("/"));
    let mut before = before;
    // What ZooKeeper and the Mesos master write while they run.
    for tree in [&mut before, &mut after] {
        tree.retain(|path, _| {
            !["/var/lib/zookeeper", "/var/lib/mesos-master", "/var/log/mesos"].iter().any(|own| path.starts_with(own))
        });
    }
    assert_same(&before, &after, "a second run changed something");
}

#[test]
fn both_come_back_with_docker_and_with_the_node() {
    let (mut node, services) = node();
    node.shell("systemctl restart docker");
    wait_for("both containers after a restart of Docker", || (kept(&node) && master_answers(&node)).then_some(()));
    nothing_changes(&node);
    drop(services);
    node.reboot();
    let _services = prereqs::services(&node);
    wait_for("both containers after a boot", || (kept(&node) && master_answers(&node)).then_some(()));
    // No run since this boot, but still not a builder of an image.
    node.bootstrap(&["seal"]).ends_with(69).reports(&["a node at work", "the container zookeeper is running"]);
    nothing_changes(&node);
    prereqs::check(&node);
}

#[test]
fn what_is_broken_by_hand_is_fixed() {
    let (node, _services) = node();
    // No `docker pause`: a frozen process outlives its node if the test fails here.
    for damage in [
        "docker stop zookeeper",
        "docker rm --force mesomaster",
        "docker rm --force --volumes zookeeper mesomaster",
        "docker rename zookeeper zookeeper-titus-bootstrap-old",
        "docker update --restart=no mesomaster; docker kill mesomaster",
    ] {
        node.shell(damage);
        node.bootstrap(&["apply"]).ends_with(0);
        assert!(kept(&node) && master_answers(&node), "after {damage}");
        assert_eq!(prereqs::containers(&node), ["mesomaster", "zookeeper"], "after {damage}");
        nothing_changes(&node);
    }
    node.bootstrap(&["verify"]).ends_with(0);
}

#[test]
fn only_what_changed_is_replaced() {
    let (node, _services) = node();
    let ids = || [prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")];
    let before = ids();
    let flag = ["--set", "mesos.zk_path=/titus/other/mesos"];
    let plan = node.bootstrap(&[&["plan"], &flag[..]].concat()).ends_with(0);
    for words in
        ["replace the container mesomaster (command changed)", "+    \"--zk=zk://localhost:2181/titus/other/mesos\""]
    {
        assert!(plan.out.contains(words), "no {words:?}\n{}", plan.transcript());
    }
    assert_eq!(ids(), before, "a plan changed something");
    node.bootstrap(&[&["apply"], &flag[..]].concat()).ends_with(0);
    let after = ids();
    assert_eq!(after[0], before[0], "ZooKeeper was replaced for a flag of the Mesos master");
    assert_ne!(after[1], before[1]);

    node.bootstrap(&[&["apply", "--set", "images.zookeeper=jplock/zookeeper:second"], &flag[..]].concat()).ends_with(0);
    assert_ne!(ids()[0], after[0]);
    assert_eq!(ids()[1], after[1]);
    assert!(kept(&node), "the znode is gone with the old container");
    assert_eq!(prereqs::containers(&node), ["mesomaster", "zookeeper"]);

    // A tag that means another image by now.
    prereqs::settings(&node, "mesos.zk_path = '/titus/other/mesos'\nimages.zookeeper = 'jplock/zookeeper:second'");
    nothing_changes(&node);
    node.shell("docker tag mesosphere/mesos-master:1.0.1-2.0.93.ubuntu1404 before; docker pull --quiet mesosphere/mesos-master:second; docker tag mesosphere/mesos-master:second mesosphere/mesos-master:1.0.1-2.0.93.ubuntu1404");
    let replaced = node.bootstrap(&["apply"]).ends_with(0);
    assert!(replaced.out.contains("now refers to another image"), "{}", replaced.transcript());
    nothing_changes(&node);
}

#[test]
fn the_old_container_runs_on_if_the_new_one_does_not() {
    let (node, _services) = node();
    let before = [prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")];
    let attempt = |setting: &str| -> Outcome {
        let started = Instant::now();
        let failed = node.bootstrap(&["apply", "--set", setting, "--set", "timeouts.wait=1h"]).ends_with(1);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(3600), "it waited for what will never be\n{}", failed.transcript());
        let failed = failed.reports(&[" mesos-master", "the previous container runs again"]);
        assert_eq!([prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")], before);
        assert_eq!(prereqs::containers(&node), ["mesomaster", "zookeeper"]);
        wait_for("the Mesos master", || master_answers(&node).then_some(()));
        failed
    };
    // An image without the command.
    attempt("images.mesos_master=mesosphere/mesos-master:broken").reports(&["mesos-master", "not found"]);
    // One whose process ends at once, again and again; with its last log lines.
    let drop_in = "/etc/titus-bootstrap/roles/prereqs.d/10-command.toml";
    node.write(drop_in, "[change.mesos-master]\ncontainer.command = ['mesos-master', '--zk=/titus//mesos']\n");
    attempt("reboot=never").reports(&["its process exits", "its last lines:", "zk"]);
    node.shell(&format!("rm {drop_in}"));
    assert!(kept(&node));
    nothing_changes(&node);
}
