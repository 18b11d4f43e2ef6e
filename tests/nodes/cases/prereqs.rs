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
