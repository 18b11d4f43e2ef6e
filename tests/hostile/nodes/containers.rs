//! Attacks from inside a container.

use crate::harness::node::Node;
use crate::harness::prereqs::{self, IMAGES, Services};
use crate::harness::wait_for;

/// A prereqs node on which nothing ran yet.
fn fresh(more: &str) -> (Node, Services) {
    let node = Node::with_engine();
    let services = prereqs::services(&node);
    prereqs::settings(&node, more);
    (node, services)
}

/// Runs this in a container that has a directory of the host as `/data`, as root there.
fn inside(node: &Node, directory: &str, script: &str) {
    let image = IMAGES[0];
    node.shell(&format!(
        "mkdir -p {directory}; docker run --rm --network none --volume {directory}:/data --entrypoint /bin/busybox {image} sh -c '{script}'"
    ));
}

/// The proof of concept's Mesos master, which runs this instead.
fn foreign_master(node: &Node, script: &str) -> String {
    let image = IMAGES[0];
    node.shell(&format!("docker run --detach --name mesomaster --entrypoint /bin/busybox {image} sh -c '{script}'"));
    prereqs::id(node, "mesomaster")
}

/// What must stay as it is. Not the time of /etc: a run writes files in it, too.
fn precious(node: &Node) -> [String; 3] {
    [
        node.read("/etc/passwd"),
        node.read("/etc/shadow"),
        node.shell("stat -c '%A %U %G %n' /etc /root /boot; ls /root /boot"),
    ]
}

#[test]
fn the_data_of_a_container_are_not_what_a_link_in_it_leads_to() {
    let (node, _services) = fresh("");
    let before = precious(&node);
    let id = foreign_master(&node, "rm -rf /tmp/master; ln -s /etc /tmp/master; exec sleep 100000");
    wait_for("the link", || {
        (node.run(&["docker", "exec", "mesomaster", "/bin/busybox", "readlink", "/tmp/master"]).code == 0).then_some(())
    });
    for command in ["plan", "apply"] {
        let refused = node.bootstrap(&[command, "--set", "containers.adopt=true"]).ends_with(69);
        refused.reports(&["/tmp/master in the container to be replaced is a symbolic link", "it leads to /etc"]);
    }
    assert_eq!((precious(&node), prereqs::id(&node, "mesomaster")), (before, id));
    assert!(!node.exists("/var/lib/mesos-master"), "a refused run made something");
}

#[test]
fn a_link_that_comes_after_the_look_is_not_followed_either() {
    let (node, _services) = fresh("");
    let before = precious(&node);
    foreign_master(
        &node,
        "trap \"exit 0\" TERM; while :; do mkdir -p /tmp/master/x; rm -rf /tmp/master; ln -s /etc /tmp/master; rm /tmp/master; done",
    );
    for _ in 0..3 {
        let run = node.bootstrap(&["apply", "--set", "containers.adopt=true"]);
        assert!([0, 1, 69].contains(&run.code), "{}", run.transcript());
        assert_eq!(precious(&node), before, "{}", run.transcript());
        assert!(!node.exists("/var/lib/mesos-master/shadow"), "{}", run.transcript());
        if run.code == 0 {
            break;
        }
    }
}

#[test]
fn data_are_adopted_without_devices_pipes_and_set_uid_bits() {
    let (node, _services) = fresh("");
    foreign_master(
        &node,
        "mkdir -p /tmp/master/log; cd /tmp/master; echo kept > log/a; mkfifo pipe; mknod device c 1 5; \
         cp /bin/busybox sh; chmod 4755 sh; ln -s /etc/shadow link; ln log/a hard; exec sleep 100000",
    );
    node.bootstrap(&["apply", "--set", "containers.adopt=true"]).ends_with(0);
    let at = |path: &str| format!("/var/lib/mesos-master/{path}");
    assert_eq!(node.read(&at("log/a")), "kept\n");
    assert_eq!(node.read(&at("hard")), "kept\n");
    assert_eq!(node.shell(&format!("readlink {}; stat -c %a {}", at("link"), at("sh"))), "/etc/shadow\n755\n");
    assert!(!node.exists(&at("pipe")) && !node.exists(&at("device")));
}

/// Settings of the first of three servers.
const ENSEMBLE: &str = "zookeeper.servers = [\"30.0.100.190:2181\", \"30.0.100.191:2181\", \"30.0.100.192:2181\"]\n";

#[test]
fn a_run_does_not_follow_report_or_wait_for_what_a_container_puts_in_the_place_of_myid() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, &ENSEMBLE.replace("30.0.100.190", &node.address));
    let canary = node.shell("echo 'root:$6$canary:1:0:99999:7:::' >> /etc/shadow; tail -n 1 /etc/shadow");
    for (attack, message) in [
        ("ln -s /etc/shadow /data/myid", "a symbolic link, which is not followed"),
        ("ln -s ../../../etc/shadow /data/myid", "a symbolic link, which is not followed"),
        ("mkfifo /data/myid", "not a regular file"),
        ("mknod /data/myid c 1 5", "not a regular file"),
        ("mkdir /data/myid", "not a regular file"),
        ("echo canary-of-the-container > /data/myid", "something else"),
    ] {
        inside(&node, "/var/lib/zookeeper", &format!("rm -rf /data/myid; {attack}"));
        for command in ["plan", "apply"] {
            let refused = node.run(&["timeout", "120", "titus-bootstrap", command]).ends_with(78);
            assert!(!refused.transcript().contains("canary"), "{}", refused.transcript());
            refused.reports(&["/var/lib/zookeeper/myid is", message]);
        }
    }
    assert_eq!(node.shell("tail -n 1 /etc/shadow"), canary);
    let stored = node.run(&["grep", "-rl", "canary", "/run/titus-bootstrap", "/var/log/titus-bootstrap"]);
    assert_eq!(stored.out, "", "{}", stored.transcript());
}

#[test]
fn what_a_container_leaves_in_its_directories_does_not_end_a_run_or_run_as_root() {
    let (node, _services) = fresh("");
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
    for directory in ["/var/log/mesos", "/var/lib/zookeeper", "/var/lib/mesos-master"] {
        inside(
            &node,
            directory,
            "cp /bin/busybox /data/sh; chmod 4755 /data/sh; mkdir /data/.titus-bootstrap-x; \
             ln -s /etc/passwd /data/.titus-bootstrap-y; mkfifo /data/.titus-bootstrap-z; ln -s /etc /data/etc",
        );
        // It is set-uid, and nobody may come to it.
        assert_eq!(node.shell(&format!("stat -c '%a %U' {directory}/sh {directory}")), "4755 root\n750 root\n");
        let mut run = node.run(&["runuser", "-u", "nobody", "--", &format!("{directory}/sh"), "id"]);
        assert_ne!(run.code, 0, "{}", run.transcript());
        run = node.run(&["runuser", "-u", "nobody", "--", "ls", directory]);
        assert_ne!(run.code, 0, "{}", run.transcript());
    }
    let before = precious(&node);
    // Something to do, so that a run sweeps.
    node.shell("chmod 0755 /var/log/mesos");
    node.bootstrap(&["apply"]).ends_with(0);
    assert_eq!(precious(&node), before);
    prereqs::check(&node);
}
