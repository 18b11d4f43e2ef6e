//! What a node that is a Titus agent is given, and what it must look like: the same
//! checks after a clean run, a killed one and a cured one.

use super::image::SOURCE;
use super::node::{ADDRESS, Node, PREREQS};
use super::services::{self, Services, answers, items, listens};
use super::wait_for;
use crate::support::agent::{ATTRIBUTES, FILES};
use crate::support::outcome::Outcome;

/// Where an operator's settings lie.
pub const SETTINGS: &str = "/etc/titus-bootstrap/config.toml";

/// The units that the role starts, in the order of its checks.
pub const UNITS: [&str; 3] = ["docker.service", "docker-tcp-proxy.socket", "mesos-agent.service"];

/// The files that the role makes, as a node has them, with their modes.
pub fn files() -> Vec<(String, u32)> {
    let test_files =
        ["/etc/apt/sources.list.d/titus-bootstrap-test.sources", "/etc/apt/keyrings/titus-bootstrap-test.gpg"];
    // No part of a path in a node may be an absolute link, and /lib can be one.
    let merged = |path: &str| path.strip_prefix("/lib/").map_or(path.to_owned(), |rest| format!("/usr/lib/{rest}"));
    let role_files = FILES.iter().map(|(path, mode, _)| (merged(path), *mode));
    role_files.chain(test_files.map(|path| (path.to_owned(), 0o644))).collect()
}

/// Serves the sample instance's metadata, and a Mesos master.
pub fn services(node: &Node) -> Services {
    services::serve(node, items())
}

/// A node on which nothing has run, with the settings of an agent and its services.
pub fn fresh() -> (Node, Services) {
    let node = Node::fresh();
    let services = services(&node);
    settings(&node);
    (node, services)
}

/// The only things that are particular to the tests: where packages come from, and how
/// Debian calls Docker's and where it puts the daemon.
pub fn settings(node: &Node) {
    settings_with(node, "titus-log-bucket-terraform-example", "");
}

/// As [`settings`], with this log bucket and these lines before the first table.
pub fn settings_with(node: &Node, bucket: &str, more: &str) {
    node.write(SETTINGS, &settings_text(bucket, more));
}

/// The text of [`settings_with`].
pub fn settings_text(bucket: &str, more: &str) -> String {
    format!(
        "prereqs = \"{PREREQS}\"\n{more}\n\
         [agent]\nlog_bucket = \"{bucket}\"\n\n\
         [docker]\ndaemon = \"/usr/sbin/dockerd\"\n\n\
         [packages]\ndocker = [\"docker.io\"]\n\n\
         {SOURCE}"
    )
}

/// `apply --json` in the node; it must end well.
#[track_caller]
pub fn apply(node: &Node) -> Outcome {
    node.bootstrap(&["apply", "--json"]).ends_with(0)
}

/// Everything that makes a node a Titus agent.
#[track_caller]
pub fn check(node: &Node) {
    for (path, mode) in files() {
        let data = node.path(&path).symlink_metadata().unwrap_or_else(|e| panic!("{path}: {e}"));
        let found = std::os::unix::fs::MetadataExt::mode(&data) & 0o7777;
        assert_eq!(format!("{found:o}"), format!("{mode:o}"), "mode of {path}");
    }
    assert_eq!(node.shell("/etc/mesos-attributes.sh").trim_end(), ATTRIBUTES.trim_end());
    assert!(node.path("/var/lib/titus-container-logs").is_dir());

    for unit in UNITS {
        let state = wait_for(unit, || {
            let state = node.property(unit, "ActiveState");
            (state != "activating").then_some(state)
        });
        assert_eq!(state, "active", "{unit}\n{}", node.run(&["systemctl", "status", unit]).out);
    }
    for unit in [
        "docker.service",
        "docker-tcp-proxy.service",
        "docker-tcp-proxy.socket",
        "mesos-agent.service",
        "systemd-networkd.service",
    ] {
        // What the next boot will find: not what systemd knew when it loaded the unit.
        assert_eq!(node.run(&["systemctl", "is-enabled", unit]).out.trim(), "enabled", "{unit}");
    }
    for unit in ["mesos-slave", "mesos-master"] {
        assert_eq!(node.property(&format!("{unit}.service"), "LoadState"), "masked", "{unit}");
    }
    let commands = node.property("docker.service", "ExecStart");
    assert!(commands.contains("--init-path=/apps/titus-executor/bin/tini-static"), "{commands}");

    assert!(answers(node, "127.0.0.1:4243", "/_ping"), "Docker does not answer on 127.0.0.1:4243");
    assert!(!listens(node, &format!("{ADDRESS}:4243")), "Docker listens on {ADDRESS}:4243");
    assert!(!node.exists("/var/lib/zookeeperd-standin"), "zookeeperd was installed");
    assert!(!node.exists("/var/lib/mesos-standin"), "mesos-slave or mesos-master was started");
    assert!(node.shell("id -nG ubuntu").split_whitespace().any(|g| g == "docker"), "ubuntu is not in group docker");
    for line in node.read("/boot/grub/grub.cfg").lines().filter(|l| l.trim_start().starts_with("linux")) {
        assert!(line.split_whitespace().any(|word| word == "net.ifnames=0"), "{line}");
    }
    node.shell("/apps/titus-executor/bin/run");
    node.bootstrap(&["verify"]).ends_with(0);
}
