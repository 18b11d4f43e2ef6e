//! A fresh node whose tag says `prereqs` serves ZooKeeper and a Mesos master.

use crate::harness::node::Node;
use crate::harness::prereqs::{self, ZOOKEEPER};
use crate::harness::znodes;

#[test]
fn a_fresh_node_becomes_a_prereqs_node() {
    let node = Node::fresh();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    let run = node.bootstrap(&[]).ends_with(0);
    eprintln!("{}", run.transcript());
    prereqs::check(&node);
    znodes::write(&node, ZOOKEEPER, "/kept", "data");
    assert_eq!(znodes::read(&node, ZOOKEEPER, "/kept").as_deref(), Some("data"));
}

/// Ubuntu's `/var/log` is for the group syslog to write to.
#[test]
#[ignore = "the program refuses directories that a group may write to"]
fn the_log_directory_of_ubuntu_is_good_enough() {
    let node = Node::fresh();
    node.log_directory_of_ubuntu();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&[]).ends_with(0);
    prereqs::check(&node);
}
