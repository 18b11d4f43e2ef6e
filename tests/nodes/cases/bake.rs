//! An image is baked with the containers' images in it; its boot needs no registry.

use crate::harness::agent::SETTINGS;
use crate::harness::node::{ADDRESS, Node};
use crate::harness::prereqs::{self, IMAGES};
use crate::harness::{cluster, first_boot};

#[test]
fn a_boot_of_a_baked_prereqs_node_needs_no_registry() {
    let node = Node::fresh();
    let mut services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&["apply", "--phase", "bake", "--role", "prereqs"]).ends_with(0);
    // A bake asks the instance nothing, and starts nothing.
    assert_eq!(services.metadata.requests(), Vec::<String>::new());
    assert_eq!(prereqs::containers(&node), Vec::<String>::new());
    let images = node.shell("docker images --format '{{.Repository}}:{{.Tag}}'");
    for image in IMAGES {
        assert!(images.lines().any(|line| line == image), "{image} is not in\n{images}");
    }

    services.registry = None;
    node.bootstrap(&["apply", "--phase", "boot"]).ends_with(0);
    prereqs::check(&node);
    let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
}

const DROP_IN: &str = "/etc/systemd/system/docker.service.d/10-docker-config.conf";

#[test]
fn one_image_for_all_roles_boots_as_each_without_packages_debs_or_registry() {
    let node = Node::fresh();
    let roles = ["--role=agent", "--role=master", "--role=gateway", "--role=prereqs"];
    let bake = [&["apply", "--phase", "bake", "--json"], &roles[..]].concat();
    // Without the boot unit its services would wait forever.
    node.write(SETTINGS, &cluster::settings());
    node.bootstrap(&bake).ends_with(69).reports(&["titus-bootstrap.service is not enabled"]);
    first_boot::enable(&node);
    let mut services = prereqs::services(&node);
    let settings =
        cluster::settings().replace("30.0.100.11\"", &format!("{ADDRESS}\"")).replace("30.0.100.12", ADDRESS);
    node.write(SETTINGS, &settings);
    let made = node.bootstrap(&bake).ends_with(0);
    assert_eq!(made.json()["role"], "agent, master, gateway, prereqs");
    assert_eq!(node.bootstrap(&bake).ends_with(0).steps("changed"), Vec::<String>::new());
    assert!(node.exists(DROP_IN));

    services.registry = None;
    node.shell("umount /srv/repo && test ! -e /srv/repo/debs");
    // Docker ran with the agent's options until now.
    let changed = node.bootstrap(&["apply", "--phase", "boot", "--json"]).ends_with(0).steps("changed");
    assert!(changed.contains(&"docker-agent-config".into()) && changed.contains(&"docker".into()), "{changed:?}");
    assert!(!node.exists(DROP_IN));
    assert!(!node.shell("tr '\\0' ' ' < /proc/$(pidof dockerd)/cmdline").contains("--iptables=false"));
    prereqs::check(&node);
    node.bootstrap(&["apply", "--phase", "boot", "--role", "master"]).ends_with(0);
    let again = node.bootstrap(&["apply", "--role", "master", "--json"]).ends_with(0);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
    // The gateway listens where the master does, so not on this node; what it would have to fetch is there.
    node.bootstrap(&["plan", "--phase", "bake", "--role", "gateway", "--detailed-exitcode"]).ends_with(0);
    // A node at work is not a builder.
    let refused = node.bootstrap(&["seal"]).ends_with(69);
    refused.reports(&["a node at work", "seal --check"]);
    prereqs::check(&node);
}
