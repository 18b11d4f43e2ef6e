//! A unit is restarted when what it read at its start is not what is there now, and
//! never otherwise.

use crate::harness::agent::{self, SETTINGS, UNITS};
use crate::harness::node::Node;

const AGENT: &str = "mesos-agent.service";

/// Stands in for systemctl and kills the program, its parent, instead of restarting
/// or starting the agent.
const DEADLY: &str = r#"#!/bin/bash
case " $* " in
*" restart "*mesos-agent*|*" start "*mesos-agent*|*" stop "*mesos-agent*|*" reload-or-restart "*mesos-agent*)
    kill -KILL "$PPID"
    exit 1 ;;
esac
exec /tmp/systemctl "$@"
"#;

/// Stands in for systemctl on a machine whose clock was set back by an hour after its
/// files were written: every unit was started an hour ago. (A container cannot set the
/// clock without setting the host's.)
const EARLIER: &str = r#"#!/bin/bash
/tmp/systemctl "$@" | while IFS= read -r line; do
    case $line in
    *Timestamp=?*) TZ=UTC date -d "${line#*=} 1 hour ago" "+${line%%=*}=%a %Y-%m-%d %H:%M:%S UTC" ;;
    *) echo "$line" ;;
    esac
done
exit "${PIPESTATUS[0]}"
"#;

/// Binds `script` over systemctl; the real one is then /tmp/systemctl.
fn replace_systemctl(node: &Node, script: &str) {
    node.write("/tmp/instead", script);
    node.shell(
        "cp /usr/bin/systemctl /tmp/systemctl && chmod +x /tmp/instead && mount --bind /tmp/instead /usr/bin/systemctl",
    );
}

#[test]
fn the_next_run_completes_one_killed_between_a_write_and_the_restart() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    let before = node.property(AGENT, "InvocationID");
    let settings = node.read(SETTINGS);
    node.write(SETTINGS, &format!("stack = \"othervpc\"\n{settings}"));

    replace_systemctl(&node, DEADLY);
    let killed = node.bootstrap(&["apply"]);
    assert_eq!(killed.code, -9, "not killed: {}", killed.transcript());
    node.shell("umount /usr/bin/systemctl");
    assert!(node.read("/etc/mesos-agent.config").contains("/titus/othervpc/mesos"), "killed too early");
    assert_eq!(node.property(AGENT, "InvocationID"), before, "killed too late");

    agent::apply(&node);
    let after = node.property(AGENT, "InvocationID");
    assert_ne!(after, before, "the restart was lost");
    let environment = node.shell("tr '\\0' '\\n' < /proc/$(systemctl show --value -p MainPID mesos-agent)/environ");
    assert!(environment.contains("/titus/othervpc/mesos"), "{environment}");
    let again = agent::apply(&node);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
    assert_eq!(node.property(AGENT, "InvocationID"), after, "restarted twice");
}

#[test]
fn what_needs_no_restart_gets_none() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    let config = node.read("/etc/mesos-agent.config");

    let harmless = [
        "cp -p /etc/mesos-agent.config /run/kept && echo X=1 >> /etc/mesos-agent.config && cat /run/kept > /etc/mesos-agent.config",
        "touch /etc/mesos-agent.config /etc/systemd/system/docker.service.d/10-docker-config.conf",
        "touch -d '1 hour' /etc/mesos-agent.config",
        "systemctl daemon-reload",
        "systemctl daemon-reexec",
        "rm -rf /var/lib/titus-bootstrap",
    ];
    for what in harmless {
        node.shell(what);
        let units = UNITS.map(|unit| node.property(unit, "InvocationID"));
        let run = agent::apply(&node);
        assert_eq!(UNITS.map(|unit| node.property(unit, "InvocationID")), units, "{what}: {}", run.transcript());
    }
    assert_eq!(node.read("/etc/mesos-agent.config"), config);
}

#[test]
fn a_restart_by_hand_is_neither_repeated_nor_mistaken_for_a_run_s() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    node.shell("systemctl restart mesos-agent");
    let by_hand = node.property(AGENT, "InvocationID");
    agent::apply(&node);
    assert_eq!(node.property(AGENT, "InvocationID"), by_hand, "restarted for nothing");

    // Restarted with a file that is not ours: that agent must not stay.
    node.shell("sed -i s/mainvpc/elsewhere/ /etc/mesos-agent.config && systemctl restart mesos-agent");
    let with_other = node.property(AGENT, "InvocationID");
    agent::apply(&node);
    assert_ne!(node.property(AGENT, "InvocationID"), with_other, "an agent runs with another's configuration");
    agent::check(&node);
}

#[test]
fn a_clock_set_back_by_an_hour_restarts_nothing_and_loses_nothing() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    node.shell("systemctl restart mesos-agent");
    replace_systemctl(&node, EARLIER);
    let units = UNITS.map(|unit| node.property(unit, "InvocationID"));
    let run = agent::apply(&node);
    assert_eq!(UNITS.map(|unit| node.property(unit, "InvocationID")), units, "{}", run.transcript());

    let settings = node.read(SETTINGS);
    node.write(SETTINGS, &format!("stack = \"othervpc\"\n{settings}"));
    agent::apply(&node);
    let after = UNITS.map(|unit| node.property(unit, "InvocationID"));
    assert_eq!(after[..2], units[..2], "Docker or its proxy was restarted");
    assert_ne!(after[2], units[2], "the restart was lost");
    let again = agent::apply(&node);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
}
