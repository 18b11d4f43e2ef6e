//! A unit is restarted when what it read at its start is not what is there now, and
//! never otherwise.

use crate::harness::agent::{self, SETTINGS, UNITS};
use crate::harness::node::Node;
use crate::harness::wait_for;

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

/// Comes between systemd and its clients on a machine whose clock was set back by an hour after its files were written:
/// every unit was started an hour ago. (A container cannot set the clock without setting the host's.)
const EARLIER: &str = r#"
use strict;
use IO::Select;
use IO::Socket::UNIX;
my ($own, $systemd) = @ARGV;
my $listener = IO::Socket::UNIX->new(Local => $own, Listen => 10) or die "$own: $!";
$SIG{CHLD} = 'IGNORE';
while (my $client = $listener->accept) {
    next if fork;
    my $server = IO::Socket::UNIX->new(Peer => $systemd) or die "$systemd: $!";
    my ($select, $received) = (IO::Select->new($client, $server), '');
    while (my @ready = $select->can_read) {
        for my $from (@ready) {
            sysread($from, my $bytes, 1 << 16) or exit;
            if ($from == $client) { syswrite $server, $bytes; next }
            $received .= $bytes;
            # Lines of the authentication, then messages, which begin with the letter of their byte order.
            while (length $received) {
                if ($received !~ /^l/) {
                    $received =~ s/^(.*?\n)//s or last;
                    syswrite $client, $1;
                    next;
                }
                last if length $received < 16;
                my ($body, undef, $fields) = unpack 'x4 V3', $received;
                my $length = ((16 + $fields + 7) & ~7) + $body;
                last if length $received < $length;
                my $message = substr $received, 0, $length, '';
                my @places;
                push @places, pos($message) + 7 & ~7 while $message =~ /Timestamp\x00\x01t\x00/g;
                for my $place (@places) {
                    my $time = unpack 'Q<', substr $message, $place, 8;
                    substr $message, $place, 8, pack 'Q<', $time - 3_600_000_000 if $time;
                }
                syswrite $client, $message;
            }
        }
    }
}
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
        node.await_systemd();
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
    let started = || node.property(AGENT, "ExecMainStartTimestamp");
    let before = started();
    node.write("/run/earlier.pl", EARLIER);
    node.shell("mv /run/systemd/private /run/systemd/real");
    let _between = node.spawn(&["perl", "/run/earlier.pl", "/run/systemd/private", "/run/systemd/real"]);
    wait_for("the clock to be set back", || (node.exists("/run/systemd/private") && started() != before).then_some(()));
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
