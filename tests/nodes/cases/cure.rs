//! An agent that is broken in one way: a run fixes that, and touches nothing else.

use crate::harness::agent::{self, UNITS};
use crate::harness::node::Node;

/// What dpkg's records say of a package that it was stopped at; with its own notes of the last moments or without.
macro_rules! half_done {
    ($status:literal, $notes:literal) => {
        concat!(
            "paragraph() { sed -n '/^Package: titus-executor$/,/^$/p' /var/lib/dpkg/status; }
             if [ -n '",
            $notes,
            "' ]; then paragraph | sed 's/^Status: .*/Status: install ",
            $status,
            "/' > /var/lib/dpkg/updates/0001
             else sed -i '/^Package: titus-executor$/,/^$/ s/^Status: .*/Status: install ",
            $status,
            "/' /var/lib/dpkg/status
             fi"
        )
    };
}

/// How the node is broken, the command that breaks it, and the steps that fix it.
const WAYS: [(&str, &str, &[&str]); 16] = [
    ("a file edited", "echo oops >> /etc/titus-executor/config.json", &["executor-config-json"]),
    ("a file deleted", "rm /etc/profile.d/titus_environment.sh", &["titus-environment"]),
    ("a mode changed", "chmod 0600 /etc/mesos-attributes.sh", &["mesos-attributes"]),
    ("a unit disabled", "systemctl disable docker-tcp-proxy.socket", &["docker-tcp-proxy-socket"]),
    ("a unit stopped", "systemctl stop mesos-agent", &["mesos-agent"]),
    ("a unit masked", "systemctl mask docker-tcp-proxy.service", &["docker-tcp-proxy"]),
    ("a drop-in removed", "rm /etc/systemd/system/docker.service.d/10-docker-config.conf", &["docker-config"]),
    ("a package removed", "dpkg --remove titus-executor", &["agent-packages"]),
    ("dpkg stopped while it unpacked", half_done!("reinstreq half-installed", ""), &["agent-packages"]),
    ("the same, seen by apt only", half_done!("ok half-installed", ""), &["agent-packages"]),
    ("dpkg stopped before it configured", half_done!("ok unpacked", ""), &["agent-packages"]),
    ("the power cut while dpkg unpacked", half_done!("reinstreq half-installed", "touch"), &["agent-packages"]),
    ("dpkg stopped after it unpacked", half_done!("reinstreq unpacked", ""), &["agent-packages"]),
    ("the power cut after dpkg unpacked", half_done!("reinstreq unpacked", "touch"), &["agent-packages"]),
    ("the user out of the group", "gpasswd --delete ubuntu docker", &["docker-user"]),
    ("/metatron gone", "rm /metatron", &["metatron"]),
];

#[test]
fn each_way_of_breaking_an_agent_is_fixed() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    for (what, how, steps) in WAYS {
        let units = UNITS.map(|unit| node.property(unit, "InvocationID"));
        node.shell(how);
        node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(2);
        let run = agent::apply(&node);
        assert_eq!(run.steps("changed"), steps, "{what}: {}", run.transcript());
        for (unit, before) in UNITS.iter().zip(units) {
            let restarted = node.property(unit, "InvocationID") != before;
            assert_eq!(restarted, what == "a unit stopped" && *unit == "mesos-agent.service", "{what}: {unit}");
        }
        agent::check(&node);
        let again = agent::apply(&node);
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{what}, once more: {}", again.transcript());
    }

    // One that is pinned, and so on hold, is unpacked in that version and stays on hold.
    let version = node.shell("dpkg-query --show --showformat='${Version}' titus-executor");
    let pinned = format!("packages.executor=[\"titus-executor={version}\"]");
    node.bootstrap(&["apply", "--set", &pinned]).ends_with(0);
    node.shell(
        "sed -i '/^Package: titus-executor$/,/^$/ s/^Status: .*/Status: hold reinstreq half-installed/' /var/lib/dpkg/status",
    );
    node.bootstrap(&["apply", "--set", &pinned]).ends_with(0);
    let state = node.shell("dpkg-query --show --showformat='${db:Status-Abbrev}${Version}' titus-executor");
    assert_eq!(state, format!("hi {version}"));
}
