//! An image is baked with the containers' images in it; its boot needs no registry.

use crate::harness::node::Node;
use crate::harness::prereqs::{self, IMAGES};

#[test]
fn a_boot_of_a_baked_prereqs_node_needs_no_registry() {
    let node = Node::fresh();
    let mut services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&["apply", "--phase", "bake", "--role", "prereqs"]).expect(0);
    // A bake asks the instance nothing, and starts nothing.
    assert_eq!(services.metadata.requests(), Vec::<String>::new());
    assert_eq!(prereqs::containers(&node), Vec::<String>::new());
    let images = node.shell("docker images --format '{{.Repository}}:{{.Tag}}'");
    for image in IMAGES {
        assert!(images.lines().any(|line| line == image), "{image} is not in\n{images}");
    }

    services.registry = None;
    node.bootstrap(&["apply", "--phase", "boot"]).expect(0);
    prereqs::check(&node);
    let again = node.bootstrap(&["apply", "--json"]).expect(0);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.told());
}
