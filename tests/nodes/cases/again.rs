//! A second run changes nothing, no file and no unit, and starts no package tool.

use crate::harness::agent::{self, UNITS};
use crate::harness::node::Node;
use crate::support::tree::{assert_same, stamps};

/// Programs of apt and dpkg that a run without work has no need of.
const TOOLS: [&str; 8] = ["apt", "apt-get", "apt-cache", "apt-config", "apt-mark", "dpkg", "dpkg-deb", "dpkg-divert"];

#[test]
fn the_second_run_changes_nothing() {
    let node = Node::converged();
    let _services = agent::services(&node);
    // Bound over the tools, so that the tree is not changed by the test.
    for tool in TOOLS {
        node.write(
            &format!("/tmp/spies/{tool}"),
            &format!("#!/bin/sh\necho {tool} \"$@\" >> /tmp/spies/trace\nexit 1\n"),
        );
        node.shell(&format!("chmod +x /tmp/spies/{tool} && mount --bind /tmp/spies/{tool} /usr/bin/{tool}"));
    }

    // The first after the boot that started the units, then one more.
    for which in ["first", "second"] {
        let units = UNITS.map(|unit| node.property(unit, "InvocationID"));
        let before = stamps(&node.path("/"));
        let run = agent::apply(&node);
        assert_eq!(run.json()["result"], "converged", "{}", run.transcript());
        assert_eq!(run.steps("changed"), Vec::<String>::new(), "{which} run: {}", run.transcript());
        assert_same(&before, &stamps(&node.path("/")), &format!("the {which} run touched"));
        assert_eq!(UNITS.map(|unit| node.property(unit, "InvocationID")), units, "the {which} run restarted a unit");
        assert!(!node.exists("/tmp/spies/trace"), "the {which} run started {}", node.read("/tmp/spies/trace"));
    }
}
