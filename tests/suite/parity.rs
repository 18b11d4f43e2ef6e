//! With the proof of concept's settings on an m4.large in eu-west-1a, a node gets what
//! the proof of concept gave it: each file of its agent script, with its mode.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;
use support::agent::{ATTRIBUTES, FILES};
use support::root::{Root, assert_same, outcome, program};

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// What /etc/mesos-attributes.sh prints with an empty environment and, if the machine allows it, without a network.
fn attributes(root: &Root) -> String {
    let script = root.at("/etc/mesos-attributes.sh");
    // A PATH with nothing in it: no program is run, so none asks anybody.
    let output = outcome(Command::new("/bin/bash").env_clear().env("PATH", "/nowhere").arg(script)).ends_with(0);
    assert_eq!(output.err, "");
    output.out
}

#[test]
fn every_file_has_its_lines_and_mode() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    for (path, mode, expected) in FILES {
        let data = fs::symlink_metadata(root.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert!(data.is_file(), "{path}");
        assert_eq!(data.permissions().mode() & 0o7777, mode, "{path}");
        // Another test covers its contents.
        if !path.ends_with(".json") {
            assert_eq!(lines(&root.read(path)), expected, "{path}");
        }
    }
    for path in ["/etc/disable-atlas-titus-agent", "/metatron"] {
        assert_eq!(root.read(path), "", "{path}");
    }
    assert!(root.read("/etc/profile.d/titus_environment.sh").starts_with("#!/bin/bash\nexport METATRON_ENABLED"));
    assert!(root.at("/var/lib/titus-container-logs").is_dir());
    let made = root.made();
    let others: Vec<_> = made
        .iter()
        .filter(|(path, look)| !look.ends_with("directory") && FILES.iter().all(|(known, ..)| known != path))
        .map(|(path, look)| format!("{path} {}", look.split_once(' ').unwrap().1.split_once(' ').unwrap().1))
        .collect();
    assert_eq!(
        others,
        [
            "/etc/systemd/system/mesos-master.service -> /dev/null",
            "/etc/systemd/system/mesos-slave.service -> /dev/null",
            "/etc/systemd/system/multi-user.target.wants/docker-tcp-proxy.service -> /lib/systemd/system/docker-tcp-proxy.service",
            "/etc/systemd/system/multi-user.target.wants/mesos-agent.service -> /lib/systemd/system/mesos-agent.service",
            "/etc/systemd/system/sockets.target.wants/docker-tcp-proxy.socket -> /lib/systemd/system/docker-tcp-proxy.socket",
        ]
    );
}

#[test]
fn config_json() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    let config: serde_json::Value = serde_json::from_str(&root.read("/etc/titus-executor/config.json")).unwrap();
    let expected = json!({
        "stack": "mainvpc",
        "docker": { "host": "tcp://127.0.0.1:4243", "registry": "docker.io" },
        "uploaders": {},
        "env": {
            "copiedFromHost": [
                "NETFLIX_ENVIRONMENT", "NETFLIX_ACCOUNT", "NETFLIX_STACK", "EC2_INSTANCE_ID", "EC2_REGION",
                "EC2_AVAILABILITY_ZONE", "EC2_OWNER_ID", "EC2_VPC_ID", "EC2_RESERVATION_ID",
            ],
            "hardCoded": { "NETFLIX_APPUSER": "appuser", "EC2_DOMAIN": "amazonaws.com" },
        },
        "statusCheckFrequency": "10s",
        "useNewNetworkDriver": true,
        "usePrivilegedTasks": false,
        "useMetatron": false,
        "logsTmpDir": "/var/lib/titus-container-logs",
    });
    assert_eq!(config, expected);
}

#[test]
fn the_attributes_are_printed_without_a_network() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    assert_eq!(attributes(&root), ATTRIBUTES);
    root.sample(&["--set", "agent.resource_set=schedulable"]).ends_with(0);
    assert_eq!(attributes(&root), ATTRIBUTES.replace("ENIs-2-10", "ENIs-1-10"));
    assert!(root.read("/etc/mesos-agent.config").ends_with(&attributes(&root)));
    root.sample(&["--set", "agent.resource_set=7-29"]).ends_with(0);
    assert_eq!(attributes(&root), ATTRIBUTES.replace("ENIs-2-10", "ENIs-7-29"));
}

#[test]
fn resources_can_be_those_of_the_scripts() {
    let root = Root::empty();
    root.sample(&["--set", "agent.resources={ mem = 8000, disk = 8000, network = 9000 }"]).ends_with(0);
    let config = root.read("/etc/mesos-agent.config");
    assert!(lines(&config).contains(&"MESOS_RESOURCES=mem:8000;disk:8000;network:9000"), "{config}");
}

#[test]
fn the_units_of_packages_are_enabled_and_disabled() {
    let root = Root::empty();
    let unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
    for name in ["docker.service", "systemd-networkd.service", "networking.service", "mesos-slave.service"] {
        root.write(&format!("/lib/systemd/system/{name}"), unit);
    }
    let wants = |name: &str| format!("/etc/systemd/system/multi-user.target.wants/{name}");
    root.link(&wants("networking.service"), "/lib/systemd/system/networking.service");
    root.write("/etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM==\"net\"\n");
    root.sample(&[]).ends_with(0);
    for name in ["docker.service", "systemd-networkd.service"] {
        assert!(fs::symlink_metadata(root.at(&wants(name))).unwrap().is_symlink(), "{name}");
    }
    assert!(fs::symlink_metadata(root.at(&wants("networking.service"))).is_err());
    assert!(!root.at("/etc/udev/rules.d/70-persistent-net.rules").exists());
    assert_eq!(root.read("/lib/systemd/system/mesos-slave.service"), unit);
}

#[test]
fn a_real_trust_store_is_left_alone() {
    let root = Root::empty();
    root.write("/metatron/certificates/root.pem", "a certificate\n");
    root.sample(&[]).ends_with(0);
    assert_eq!(root.read("/metatron/certificates/root.pem"), "a certificate\n");
}

#[test]
fn a_second_run_has_nothing_to_do_and_touches_nothing() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0).prints(&["[ 1/", " changed", "steps: "]);
    let (look, stamps) = (root.look(), root.stamps());
    root.sample(&[]).ends_with(0).prints(&["nothing to do. "]);
    let again = root.sample(&["--json"]).ends_with(0).json();
    let states: Vec<_> = again["steps"].as_array().unwrap().iter().map(|step| &step["state"]).collect();
    assert!(states.iter().all(|state| *state == "in_sync" || *state == "deferred"), "{again:#}");
    assert_same(&look, &root.look(), "the second run changed something");
    assert_same(&stamps, &root.stamps(), "the second run wrote something");
    root.sample(&["--dry-run"]).ends_with(0).prints(&["nothing to do. "]);
    assert_eq!(root.half_written(), [""; 0]);
}

#[test]
fn the_umask_of_the_caller_changes_nothing() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    for umask in ["000", "077"] {
        let other = Root::empty();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]);
        command.arg(program().get_program()).args(["--role", "agent", "--sample", "--root"]).arg(other.path());
        outcome(&mut command).ends_with(0);
        assert_same(&root.made(), &other.made(), &format!("umask {umask}"));
    }
}
