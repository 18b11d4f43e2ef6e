//! What others left on a node: the proof of concept's containers, and anybody's.

use crate::harness::node::Node;
use crate::harness::prereqs::{self, IMAGES, ZOOKEEPER};
use crate::harness::znodes;

#[test]
fn the_scripts_containers_are_adopted_with_their_data() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    prereqs::as_the_scripts_left(&node);
    znodes::write(&node, ZOOKEEPER, "/kept", "from the scripts' container");
    let before = [prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")];

    // Not without consent: the run changes nothing and names the setting.
    for command in ["apply", "plan"] {
        let refused = node.bootstrap(&[command]).ends_with(69);
        refused.reports(&[
            "the container zookeeper exists, but titus-bootstrap did not create it",
            "--set containers.adopt=true",
        ]);
    }
    assert_eq!([prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")], before);
    assert!(!node.exists("/var/lib/zookeeper"), "a refused run made something");

    // Data of something else must not be mixed with it.
    node.write("/var/lib/zookeeper/version-2/log.1", "somebody's");
    let refused = node.bootstrap(&["apply", "--set", "containers.adopt=true"]).ends_with(69);
    refused.reports(&["/var/lib/zookeeper already contains data"]);
    assert_eq!(znodes::read(&node, ZOOKEEPER, "/kept").as_deref(), Some("from the scripts' container"));
    node.shell("rm -r /var/lib/zookeeper");

    let plan = node.bootstrap(&["plan", "--set", "containers.adopt=true"]).ends_with(0);
    assert!(
        plan.out.contains("replace the container zookeeper, which titus-bootstrap did not create"),
        "{}",
        plan.transcript()
    );
    node.bootstrap(&["apply", "--set", "containers.adopt=true"]).ends_with(0);
    assert_eq!(znodes::read(&node, ZOOKEEPER, "/kept").as_deref(), Some("from the scripts' container"));
    prereqs::check(&node);
    // Its data stay in its volumes too, in case someone wants them back.
    assert!(node.shell("docker volume ls --quiet | wc -l").trim().parse::<u32>().unwrap() >= 2);
    for arguments in [&["apply", "--json"][..], &["apply", "--json", "--set", "containers.adopt=true"]] {
        let again = node.bootstrap(arguments).ends_with(0);
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
    }
}

#[test]
fn another_program_s_container_is_never_removed() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.shell(&format!("docker run --detach --name zookeeper --entrypoint /bin/busybox {} sleep 3600", IMAGES[0]));
    let before = prereqs::id(&node, "zookeeper");
    node.bootstrap(&["apply"]).ends_with(69).reports(&["the container zookeeper exists", "jplock/zookeeper:3.4.10"]);
    assert_eq!(prereqs::id(&node, "zookeeper"), before);
    assert_eq!(prereqs::containers(&node), ["zookeeper"]);
}
