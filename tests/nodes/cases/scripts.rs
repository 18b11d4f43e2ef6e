//! A node as the proof of concept's scripts left it ends as a fresh one does.

use crate::harness::agent;
use crate::harness::node::Node;
use crate::harness::services::listens;
use crate::support::tree::{Tree, assert_same, contents, stamps};

#[test]
fn a_node_that_the_scripts_left_converges() {
    let fresh = Node::converged();
    let wanted = role_files(&contents(&fresh.path("/")));
    drop(fresh);

    let (node, _services) = agent::fresh();
    node.write("/run/as-left.sh", include_str!("scripts/as-left.sh"));
    node.shell("bash /run/as-left.sh");
    assert!(listens(&node, "30.0.100.140:4243"), "the scripts open Docker to everyone");

    let before = (stamps(&node.path("/")), processes(&node));
    let planned = node.bootstrap(&["plan", "--role", "agent", "--detailed-exitcode"]).ends_with(2);
    assert_same(&before.0, &stamps(&node.path("/")), "a plan changed");
    assert_eq!(before.1, processes(&node), "a plan started or stopped something");
    for word in [
        "-MESOS_ATTRIBUTES=\"region:eu-west-1;zone:eu-west-1a;id:i-0aaaaaaaaaaaaaaaa;",
        "-ListenStream=0.0.0.0:4243",
        "-export EC2_LOCAL_IPV4=$(hostname --ip-address)",
        "-Name=*",
    ] {
        assert!(planned.out.contains(word), "the plan does not say {word:?}\n{}", planned.transcript());
    }
    let run = agent::apply(&node);
    agent::check(&node);
    let found = role_files(&contents(&node.path("/")));
    assert_same(&wanted, &found, &format!("not as a fresh node\n{}", run.transcript()));
    assert_eq!(node.read("/etc/mesos-agent.config").matches("MESOS_ATTRIBUTES=").count(), 1);
    let again = agent::apply(&node);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
}

/// The units' starts, by their names and main processes.
fn processes(node: &Node) -> String {
    node.shell("systemctl show --property=Id,InvocationID,MainPID '*.service' '*.socket'")
}

/// The part of a tree that the role answers for: its files, and what is enabled and
/// masked.
fn role_files(tree: &Tree) -> Tree {
    let files = agent::files();
    let ours = |path: &str| path.starts_with("/etc/systemd/system/") || files.iter().any(|(file, _)| file == path);
    tree.iter().filter(|(path, _)| ours(path)).map(|(path, look)| (path.clone(), look.clone())).collect()
}
