//! An engine that serves no version of its API below 1.44, as Docker 29. titus-executor asks for `/v1.26/info`.

use crate::harness::engine::{ask, start_29};
use crate::harness::node::Node;

#[test]
fn an_engine_as_docker_29_serves_the_executors_version_only_when_told() {
    let node = Node::with_engine();
    start_29(&node, "");
    let refused = ask(&node, "/v1.26/info");
    let words = "client version 1.26 is too old. Minimum supported API version is 1.44";
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains(words), "{refused}");
    for path in ["/_ping", "/v1.44/info", "/v1.52/containers/json"] {
        assert!(ask(&node, path).starts_with("HTTP/1.1 200 "), "{path}");
    }
    let version = ask(&node, "/version");
    assert!(version.contains("\"ApiVersion\":\"1.52\",\"MinAPIVersion\":\"1.44\""), "{version}");

    start_29(&node, "DOCKER_MIN_API_VERSION=1.24");
    assert!(ask(&node, "/v1.26/info").starts_with("HTTP/1.1 200 "));
    // A later one that has given that up.
    node.write("/etc/dockerd-29", "1.44");
    node.shell("! systemctl restart docker");
    assert_eq!(node.property("docker.service", "Result"), "exit-code");
}
