//! The states of units are those that systemd has, whatever a unit is called and whatever happens to systemd meanwhile.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::node::Node;
use crate::harness::services::{self, items};
use crate::harness::wait_for;

const ROLE: &str = "/etc/titus-bootstrap/roles/units.toml";

/// Their names, their files, and what `verify` says about them.
const UNITS: [(&str, &str, &str); 5] = [
    (
        "a@b-c.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
        "a@b-c.service is active (exited)",
    ),
    (
        "restarts.service",
        "[Service]\nExecStart=/bin/sh -c 'exit 7'\nRestart=always\nRestartSec=1h\n",
        "restarts.service is activating (auto-restart), exit status 7, 0 restarts",
    ),
    (
        "fails.service",
        "[Service]\nExecStart=/bin/sh -c 'kill -KILL $$$$'\n",
        "fails.service is failed (failed), signal 9, 0 restarts",
    ),
    ("masked.service", "", "masked.service is inactive (dead)"),
    ("missing.service", "", "missing.service is inactive (dead)"),
];

fn node() -> Node {
    let node = Node::fresh();
    let mut role = "description = 'Units'\n".to_owned();
    for (n, (name, text, _)) in UNITS.iter().enumerate() {
        role += &format!("[[verify]]\nid = 'u{n}'\nunit = '{name}'\n");
        if !text.is_empty() {
            node.write(&format!("/etc/systemd/system/{name}"), text);
        }
    }
    node.write(ROLE, &role);
    node.shell("systemctl mask masked.service; systemctl daemon-reload");
    for name in ["a@b-c.service", "restarts.service", "fails.service"] {
        node.run(&["systemctl", "start", name]);
    }
    wait_for("the states of the units", || {
        let state = |name: &str, state: &str| node.property(name, "SubState") == state;
        (state("restarts.service", "auto-restart") && state("fails.service", "failed")).then_some(())
    });
    node
}

#[track_caller]
fn reports_all(node: &Node, when: &str) {
    let verified = node.bootstrap(&["verify", "--role", "units"]);
    for (_, _, words) in UNITS {
        assert!(verified.transcript().contains(words), "{when}: not {words:?}\n{}", verified.transcript());
    }
}

#[test]
fn states_are_those_that_systemd_has() {
    let node = node();
    let _metadata = services::metadata(&node, items());
    reports_all(&node, "over systemd's own socket");
    let by_user = node.run(&["runuser", "-u", "nobody", "--", "titus-bootstrap", "verify", "--role", "units"]);
    assert!(UNITS.iter().all(|(_, _, words)| by_user.out.contains(words)), "{}", by_user.transcript());

    node.write("/etc/systemd/system/a@b-c.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n");
    let verify = || node.bootstrap(&["verify", "--role", "units"]).transcript();
    let changed = "a@b-c.service is active (exited), but its files changed since systemd read them";
    assert!(verify().contains(changed), "{}", verify());
    node.shell("systemctl daemon-reload");
    reports_all(&node, "after a daemon-reload");
    node.shell("systemctl daemon-reexec");
    node.await_systemd();
    reports_all(&node, "after a daemon-reexec");

    node.shell("mv /run/systemd/private /run/systemd/away");
    reports_all(&node, "over the system bus");
    node.shell("mv /run/dbus/system_bus_socket /run/dbus/away");
    let without = node.bootstrap(&["verify", "--role", "units"]).ends_with(75);
    for words in ["a question to systemd failed", "/run/systemd/private: No such file or directory"] {
        assert!(without.out.contains(words), "not {words:?}\n{}", without.transcript());
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_systemd_that_does_not_answer() {
    let node = node();
    let _metadata = services::metadata(&node, items());
    let systemd = Pid::from_raw(node.init);
    kill(systemd, Signal::SIGSTOP).unwrap();
    let run = node.spawn(&["titus-bootstrap", "verify", "--role", "units"]);
    wait_for("the run to wait", || run.stderr().contains("systemd to answer").then_some(()));
    run.signal(Signal::SIGTERM);
    let outcome = run.end();
    kill(systemd, Signal::SIGCONT).unwrap();
    outcome.ends_with(1).reports(&["stopped by a signal", "it was waiting for systemd to answer"]);
}

#[test]
fn a_service_that_a_later_step_stops_must_stay_up_too() {
    let node = Node::fresh();
    let _metadata = services::metadata(&node, items());
    // From the second one's start it exits after a second, each time.
    let first = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\n\
        ExecStart=/bin/sh -c 'test -e /run/spoilt || exec sleep infinity; sleep 1; exit 7'\n";
    let second = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
        ExecStart=/bin/sh -c 'touch /run/spoilt; systemctl stop first'\n";
    node.write("/etc/systemd/system/first.service", first);
    node.write("/etc/systemd/system/second.service", second);
    node.shell("systemctl daemon-reload; systemctl start first");
    let step = |id: &str| {
        format!("[[step]]\nid = '{id}'\nphase = 'boot'\nunit = {{ name = '{id}.service', active = true }}\n")
    };
    node.write(ROLE, &format!("description = 'Units'\n{}{}", step("first"), step("second")));
    let apply = ["apply", "--role", "units", "--set", "timeouts.unit=10s"];
    let failed = node.bootstrap(&apply).ends_with(1);
    failed.reports(&["step 1/2 first: first.service does not stay up", "status=7"]);
    node.shell("rm /run/spoilt");
    node.bootstrap(&apply).ends_with(0);
    assert_eq!(node.property("first.service", "SubState"), "running");
}

#[test]
fn the_last_words_of_a_talkative_service_are_in_the_error() {
    let node = Node::fresh();
    let _metadata = services::metadata(&node, items());
    // The last message has two lines.
    node.put(
        "/usr/local/sbin/talk",
        0o755,
        "#!/bin/sh\nfor n in $(seq 100); do echo \"word $n\"; done\n\
         logger --id=$$ --tag talk \"$(printf 'no disk is left\\nfor me')\"\nexit 7\n",
    );
    node.write("/etc/systemd/system/talk.service", "[Service]\nType=oneshot\nExecStart=/usr/local/sbin/talk\n");
    node.shell("systemctl daemon-reload");
    node.write(
        ROLE,
        "description = 'Units'\n[[step]]\nid = 'talk'\nphase = 'boot'\nunit = { name = 'talk.service', active = true }\n",
    );
    let failed = node.bootstrap(&["apply", "--role", "units"]).ends_with(1).reports(&["word 90\n", "word 100\n"]);
    assert!(!failed.err.contains("word 10\n"), "{}", failed.transcript());
    let words: Vec<&str> = failed.err.lines().map(str::trim).collect();
    let at = |text: &str| words.iter().position(|line| line.ends_with(text)).unwrap_or_else(|| panic!("{words:#?}"));
    assert!(at("word 99") < at("word 100") && at("no disk is left") + 1 == at("for me"), "{words:#?}");
}
