//! A refusal leaves the node unchanged.

use crate::harness::agent;
use crate::harness::node::Node;
use crate::harness::services::{self, items};
use crate::harness::wait_for;
use crate::support::tree::{assert_same, untouched};

/// A node, settings and metadata on which `arguments` must end with `code`, say
/// `words` and change nothing.
#[track_caller]
fn refuses(node: &Node, argv: &[&str], code: i32, words: &[&str]) {
    let before = untouched(&node.path("/"));
    let run = node.run(argv).ends_with(code);
    run.reports(words);
    assert_same(&before, &untouched(&node.path("/")), &format!("`{}` changed", argv.join(" ")));
}

#[test]
fn a_fresh_node_is_left_alone_when_a_run_is_refused() {
    let (node, services) = agent::fresh();

    let missing = "packages.executor=[\"titus-executor-of-nobody\"]";
    refuses(&node, &["titus-bootstrap", "--set", missing], 69, &["titus-executor-of-nobody", "packages.executor"]);
    refuses(&node, &["runuser", "-u", "ubuntu", "titus-bootstrap"], 77, &["sudo"]);

    services.metadata.set("meta-data/instance-type", Some(b"t2.large".to_vec()));
    refuses(&node, &["titus-bootstrap"], 69, &["t2.large", "m4", "c5", "agent.supported_families"]);
    services.metadata.set("meta-data/instance-type", Some(b"m4.large".to_vec()));

    services.metadata.set("meta-data/tags/instance/titus:role", None);
    refuses(&node, &["titus-bootstrap"], 78, &["--role", "titus:role", "instance-metadata-tags"]);

    node.write("/usr/lib/systemd/libsystemd-shared-258.so", "");
    refuses(
        &node,
        &["titus-bootstrap", "--role", "agent"],
        69,
        &["systemd 258 supports only cgroup v2", "Debian 11 to 13"],
    );
    node.shell("rm /usr/lib/systemd/libsystemd-shared-258.so");

    node.shell("mv /usr/bin/apt-get /usr/bin/apt-get.away");
    refuses(&node, &["titus-bootstrap", "--role", "agent"], 69, &["apt"]);
    node.shell("mv /usr/bin/apt-get.away /usr/bin/apt-get");

    // The refusals did not affect the node.
    services.metadata.set("meta-data/tags/instance/titus:role", Some(b"agent".to_vec()));
    node.bootstrap(&[]).ends_with(0);
    agent::check(&node);
}

#[test]
fn without_metadata_a_run_gives_up_at_its_deadline() {
    let node = Node::fresh();
    agent::settings(&node);
    let argv = [
        "env",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254/",
        "titus-bootstrap",
        "--set",
        "timeouts.facts=2s",
    ];
    refuses(&node, &argv, 75, &["169.254.169.254"]);
}

#[test]
fn metadata_that_comes_late_is_waited_for() {
    let node = Node::converged();
    let run = node.spawn(&["env", "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://169.254.169.254/", "titus-bootstrap"]);
    // It says what it waits for after three seconds; only then does the service start.
    wait_for("the run to say that it waits", || run.stderr().contains("169.254.169.254").then_some(()));
    let _services = services::serve(&node, items());
    run.end().ends_with(0);
}
