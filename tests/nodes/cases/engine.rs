//! An engine that serves no version of its API below 1.44, as Docker 29. titus-executor asks for `/v1.26/info`.

use crate::harness::agent;
use crate::harness::engine::{DOCKERD_29, ask, install_29, start_29};
use crate::harness::node::Node;

#[test]
fn an_engine_as_docker_29_serves_the_executors_version_only_when_configured() {
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

#[test]
fn an_agent_with_an_engine_as_docker_29_serves_titus_executor() {
    let (node, _services) = agent::fresh();
    install_29(&node);
    node.write("/etc/titus-bootstrap/config.d/50-engine.toml", &format!("docker.daemon = \"{DOCKERD_29}\"\n"));
    agent::apply(&node);
    assert!(ask(&node, "/v1.26/info").starts_with("HTTP/1.1 200 "));
    agent::check(&node);

    // A drop-in of the operator removes it again: verify reports it, and a run refuses it and names the file.
    let drop_in = "/etc/systemd/system/docker.service.d/90-own.conf";
    node.write(drop_in, "[Service]\nEnvironment=DOCKER_MIN_API_VERSION=1.44\n");
    node.shell("systemctl daemon-reload && systemctl restart docker");
    let words = "client version 1.26 is too old. Minimum supported API version is 1.44";
    let fix = "Environment=DOCKER_MIN_API_VERSION=1.24";
    let verified = node.bootstrap(&["verify"]).ends_with(1);
    for text in [words, fix, "28.5.2"] {
        assert!(verified.out.contains(text), "{}", verified.out);
    }
    let refused = node.bootstrap(&["apply", "--set", "timeouts.wait=1h"]).ends_with(69);
    refused.reports(&["90-own.conf:2 overrides", "DOCKER_MIN_API_VERSION", &format!("rm {drop_in}")]);

    node.shell(&format!("rm {drop_in} && systemctl daemon-reload && systemctl restart docker"));
    agent::apply(&node);
    agent::check(&node);
}

#[test]
fn an_engine_without_old_versions_is_an_error_with_its_message() {
    let node = Node::converged();
    let _services = agent::services(&node);
    install_29(&node);
    node.write("/etc/dockerd-29", "1.40");
    node.write("/etc/titus-bootstrap/config.d/50-engine.toml", &format!("docker.daemon = \"{DOCKERD_29}\"\n"));
    node.bootstrap(&[]).ends_with(1).reports(&["docker.service", "the minimum supported API version is 1.40"]);
}
