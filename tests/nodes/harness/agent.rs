//! What a node that is a Titus agent is given, and what it must look like: the same
//! checks after a clean run, a killed one and a cured one.

use super::node::{ADDRESS, Node, PREREQS};
use super::services::{self, Services, answers, items, listens};
use super::wait_for;
use crate::support::outcome::Outcome;

/// Where an operator's settings lie.
pub const SETTINGS: &str = "/etc/titus-bootstrap/config.toml";

/// The units that the role starts, in the order of its checks.
pub const UNITS: [&str; 3] = ["docker.service", "docker-tcp-proxy.socket", "mesos-agent.service"];

/// The files of the role's table, with their modes.
pub const FILES: [(&str, u32); 19] = [
    ("/etc/titus-shared.env", 0o644),
    ("/etc/disable-atlas-titus-agent", 0o644),
    ("/etc/systemd/system/docker.service.d/10-docker-config.conf", 0o644),
    ("/usr/lib/systemd/system/docker-tcp-proxy.service", 0o644),
    ("/usr/lib/systemd/system/docker-tcp-proxy.socket", 0o644),
    ("/usr/lib/systemd/system/mesos-agent.service", 0o644),
    ("/etc/systemd/system/mesos-agent.service.d/10-titus-bootstrap.conf", 0o644),
    ("/etc/profile.d/titus_environment.sh", 0o755),
    ("/etc/titus-executor/config.sh", 0o644),
    ("/etc/mesos-attributes.sh", 0o755),
    ("/etc/mesos-agent.config", 0o644),
    ("/etc/systemd/network/10-ens3.network", 0o644),
    ("/etc/systemd/network/10-eth0.network", 0o644),
    ("/etc/systemd/network/20-else.network", 0o644),
    ("/etc/systemd/network/05-titus-primary.network", 0o644),
    ("/etc/titus-executor/config.json", 0o644),
    ("/metatron", 0o644),
    ("/etc/apt/sources.list.d/titus-bootstrap-test.sources", 0o644),
    ("/etc/apt/keyrings/titus-bootstrap-test.gpg", 0o644),
];

/// The attributes of the sample instance.
pub const ATTRIBUTES: &str = "MESOS_ATTRIBUTES=\"region:eu-west-1;zone:eu-west-1a;id:i-0123456789abcdef0;\
    asg:titusagent;stack:mainvpc;itype:m4.large;ports:[7150-7200];res:ResourceSet-ENIs-2-10\"";

/// Serves the sample instance's metadata, and a Mesos master.
pub fn services(node: &Node) -> Services {
    services::serve(node, items())
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
         [[apt.sources]]\nname = \"test\"\nuris = [\"file:/srv/repo\"]\nsuites = [\"test\"]\n\
         components = [\"main\"]\nkey = \"/srv/repo/key.asc\"\n"
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
    for (path, mode) in FILES {
        let data = node.path(path).symlink_metadata().unwrap_or_else(|e| panic!("{path}: {e}"));
        let found = std::os::unix::fs::MetadataExt::mode(&data) & 0o7777;
        assert_eq!(format!("{found:o}"), format!("{mode:o}"), "mode of {path}");
    }
    assert_eq!(node.shell("/etc/mesos-attributes.sh").trim_end(), ATTRIBUTES);
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
