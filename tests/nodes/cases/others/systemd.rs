//! systemd as others left it: drop-ins and units that win over ours, masks, start limits, and services that do not stay
//! up.

use crate::harness::agent::{self, SETTINGS};
use crate::harness::node::Node;
use crate::support::outcome::Outcome;

/// Does what the first line of the printed fix says.
fn follow_fix(node: &Node, refused: &Outcome) {
    let fix = refused.err.lines().find_map(|line| line.trim().strip_prefix("fix:"));
    node.shell(fix.unwrap_or_else(|| panic!("no fix: {}", refused.transcript())));
}

#[test]
fn files_that_override_ours_are_refused_before_the_first_change_and_the_fixes_lead_to_a_converged_node() {
    let (node, _services) = agent::fresh();
    let ways = [
        // `systemctl edit docker` makes it this way.
        (
            "/etc/systemd/system/docker.service.d/override.conf",
            "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// -H tcp://0.0.0.0:2375\n",
            "override.conf:3 overrides /etc/systemd/system/docker.service.d/10-docker-config.conf",
        ),
        ("/etc/systemd/system/docker-.service.d/all.conf", "[Service]\nExecStart=/bin/true\n", "all.conf:2 overrides"),
        (
            "/etc/systemd/system/service.d/api.conf",
            "[Service]\nEnvironment=DOCKER_MIN_API_VERSION=1.44\n",
            "api.conf:2 overrides",
        ),
        (
            "/etc/systemd/system/mesos-agent.service",
            "[Service]\nExecStart=/usr/sbin/mesos-agent --work_dir=/tmp/mesos\n",
            "/etc/systemd/system/mesos-agent.service overrides /lib/systemd/system/mesos-agent.service",
        ),
    ];
    for (path, text, _) in ways {
        node.write(path, text);
    }
    let mut left: Vec<_> = ways.iter().map(|(path, _, words)| (*path, *words)).collect();
    while !left.is_empty() {
        let planned = node.bootstrap(&["plan"]).ends_with(69);
        let refused = node.bootstrap(&["apply"]).ends_with(69);
        let named = left.iter().position(|(_, words)| refused.err.contains(words));
        let (path, words) = left.remove(named.unwrap_or_else(|| panic!("{}", refused.transcript())));
        planned.reports(&[words]);
        assert!(!node.exists("/etc/systemd/system/docker.service.d/10-docker-config.conf"));
        follow_fix(&node, &refused);
        assert!(!node.exists(path), "{}", refused.transcript());
    }
    node.bootstrap(&["apply"]).ends_with(0);
    agent::check(&node);

    // What tunes a unit is the operator's.
    node.write(
        "/etc/systemd/system/mesos-agent.service.d/50-mine.conf",
        "[Service]\nRestartSec=7\nLimitNOFILE=70000\n",
    );
    let tuned = node.bootstrap(&["apply"]).ends_with(0);
    tuned.prints(&["50-mine.conf:2 (RestartSec=7 is in force, not 5)"]);
    assert_eq!(node.property("mesos-agent.service", "RestartUSec"), "7s");
    // On a converged node verify sees what a run would be refused for, and a process that still runs so is restarted.
    let theirs = "/run/systemd/system/mesos-agent.service.d/60-env.conf";
    node.write(theirs, "[Service]\nEnvironmentFile=\nEnvironmentFile=/root/mine\n");
    node.shell("sed s/^MESOS_PORT=.*/MESOS_PORT=5052/ /etc/mesos-agent.config > /root/mine; systemctl daemon-reload; systemctl restart mesos-agent");
    for words in [&["verify"][..], &["status"], &["plan"], &["apply"]] {
        let found = node.run(&[&["titus-bootstrap"], words].concat());
        assert!(found.transcript().contains("60-env.conf:2 overrides"), "{}", found.transcript());
    }
    node.shell(&format!("rm {theirs}"));
    node.bootstrap(&["apply"]).ends_with(0).prints(&["restart mesos-agent.service"]);
    agent::check(&node);
}

#[test]
fn masks_start_limits_and_services_that_do_not_stay_up() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);

    // An empty file in a unit's place, which `systemctl edit --full` leaves when the editor writes nothing, and a mask
    // that ends with the boot.
    for (mask, path) in [
        (": > /etc/systemd/system/mesos-agent.service", "/etc/systemd/system/mesos-agent.service"),
        ("systemctl mask --runtime mesos-agent", "/run/systemd/system/mesos-agent.service"),
    ] {
        node.shell(&format!("{mask}; systemctl daemon-reload; systemctl stop mesos-agent"));
        assert_eq!(node.property("mesos-agent.service", "LoadState"), "masked");
        node.bootstrap(&["verify"]).ends_with(1);
        node.bootstrap(&["plan"]).ends_with(0).prints(&[&format!("unmask mesos-agent.service (remove {path})")]);
        node.bootstrap(&["apply"]).ends_with(0);
        agent::check(&node);
    }

    // A drop-in that systemd has not read.
    node.write("/etc/systemd/system/mesos-agent.service.d/50-mine.conf", "[Service]\nNice=1\n");
    node.bootstrap(&["verify"]).ends_with(1).prints(&["mesos-agent.service", "systemctl daemon-reload"]);
    node.bootstrap(&["apply"]).ends_with(0).prints(&["daemon-reload (files of mesos-agent.service"]);
    node.bootstrap(&["verify"]).ends_with(0);

    // Started too often, and refused by systemd since.
    node.shell("for n in 1 2 3 4 5 6 7; do systemctl restart docker-tcp-proxy || true; done");
    assert_eq!(node.property("docker-tcp-proxy.service", "Result"), "start-limit-hit");
    // The limit takes the socket down, and the run that starts the socket ends the service's failure.
    let words = ["start docker-tcp-proxy.socket (it is failed)", "start docker-tcp-proxy.service (it is "];
    node.bootstrap(&["apply"]).ends_with(0).prints(&words);
    assert_eq!(node.property("docker-tcp-proxy.service", "ActiveState"), "active");

    // After a power cut: an agent whose attributes changed fails once, clears its state, and starts.
    let recover = "systemctl stop mesos-agent; mkdir -p /var/lib/mesos/meta/slaves/latest
                   echo other > /var/lib/mesos/meta/slaves/latest/slave.info";
    node.shell(recover);
    node.bootstrap(&["apply"]).ends_with(0);
    assert_eq!(node.property("mesos-agent.service", "NRestarts"), "1");
    agent::check(&node);

    // A service that never stays up; its journal has words of another time.
    node.shell("systemctl stop mesos-agent; systemd-cat --identifier=mesos-agent echo words of last week");
    let broken = "#!/bin/sh\necho no disk is left for me >&2\nexit 7\n";
    node.shell("cp /usr/sbin/mesos-agent /root/mesos-agent");
    node.shell(&format!("printf '{broken}' > /usr/sbin/mesos-agent"));
    let quick = format!("{}\n[timeouts]\nunit = \"13s\"\nwait = \"8s\"\n", node.read(SETTINGS));
    let settings = node.read(SETTINGS);
    node.write(SETTINGS, &quick);
    let failed = node.bootstrap(&["apply"]).ends_with(1);
    let failed = failed.reports(&["mesos-agent.service is ", "exit status 7", " restart", "no disk is left for me"]);
    assert!(!failed.err.contains("last week") && !failed.err.contains("Incompatible"), "{}", failed.transcript());

    // One that runs, and does not listen: the wait names it.
    node.shell("systemctl stop mesos-agent; printf '#!/bin/sh\\necho I listen to nobody\\nexec sleep infinity\\n' > /usr/sbin/mesos-agent");
    let failed = node.bootstrap(&["apply"]).ends_with(1);
    let failed =
        failed.reports(&[":5051", "mesos-agent.service is active (running), 0 restarts", "I listen to nobody"]);
    assert!(!failed.err.contains("no disk is left"), "{}", failed.transcript());

    node.shell("systemctl stop mesos-agent; cp /root/mesos-agent /usr/sbin/mesos-agent");
    node.write(SETTINGS, &settings);
    node.bootstrap(&["apply"]).ends_with(0);
    agent::check(&node);
}
