//! The node's nsswitch.conf names a module that a static binary must never load.

use crate::harness::agent;
use crate::harness::node::Node;

#[test]
fn an_unknown_user_is_a_notice_where_nsswitch_names_systemd() {
    let node = Node::converged();
    let _services = agent::services(&node);
    let switch = node.read("/etc/nsswitch.conf");
    assert!(switch.lines().any(|l| l.starts_with("passwd:") && l.contains("systemd")), "{switch}");
    let run = node.bootstrap(&["apply", "--set", "docker.user=nosuchuser"]).ends_with(0);
    assert!(run.out.contains("nosuchuser") || run.err.contains("nosuchuser"), "{}", run.transcript());
}
