//! Killed at every point of a container's replacement: the next run ends it.

use crate::harness::node::Node;
use crate::harness::prereqs::{self, ZOOKEEPER};
use crate::harness::znodes;

/// With failpoints, which release builds do not have.
const WITH_FAILPOINTS: &str = "/usr/local/bin/titus-bootstrap-debug";

/// More than any run passes: should the variable no longer be read, the test ends.
const MOST: u32 = 200;

#[test]
fn a_replacement_that_was_killed_is_finished() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    std::fs::copy(env!("CARGO_BIN_EXE_titus-bootstrap"), node.path(WITH_FAILPOINTS)).unwrap();
    node.bootstrap(&["apply"]).ends_with(0);
    znodes::write(&node, ZOOKEEPER, "/kept", "data");

    let images = ["jplock/zookeeper:second", "jplock/zookeeper:3.4.10"];
    let (mut replaced, mut midway) = (0, 0);
    for n in 1..=MOST {
        // Only ZooKeeper's container differs from one replacement to the next.
        let setting = format!("images.zookeeper={}", images[replaced % 2]);
        let before = prereqs::id(&node, "zookeeper");
        let crash = format!("TITUS_BOOTSTRAP_CRASH_AT={n}");
        let killed = node.run(&["env", &crash, WITH_FAILPOINTS, "apply", "--set", &setting]);
        if killed.code == 0 {
            assert!(midway >= 6, "of {n} kills only {midway} came between rename and removal");
            return;
        }
        assert_eq!(killed.code, -9, "{}", killed.transcript());
        let left = prereqs::containers(&node);
        midway += u32::from(left.len() > 2);
        if left == ["mesomaster", "zookeeper"] && prereqs::id(&node, "zookeeper") == before {
            continue;
        }
        node.bootstrap(&["apply", "--set", &setting]).ends_with(0);
        assert_eq!(prereqs::containers(&node), ["mesomaster", "zookeeper"], "after a kill at {n}");
        assert_eq!(znodes::read(&node, ZOOKEEPER, "/kept").as_deref(), Some("data"), "after a kill at {n}");
        replaced += 1;
    }
    panic!("no run came to its end");
}
