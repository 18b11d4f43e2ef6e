//! The deb of the program, and the boot unit that it brings.

use std::process::Command;

use serde_json::Value;

use crate::harness::agent::{self, SETTINGS};
use crate::harness::deb::{deb, install};
use crate::harness::node::Node;
use crate::harness::services::{self, items};
use crate::harness::wait_for;
use crate::support::metadata::{Items, Metadata};

const UNIT: &str = "titus-bootstrap.service";
const RETRY: &str = "titus-bootstrap-retry.timer";

/// A role with one service that reads a fact of the instance at its start, and records it.
const ROLE: &str = r#"
description = "A service that needs this boot's facts"

[[step]]
id = "unit"
phase = "bake"

[step.file]
path = "/etc/systemd/system/reader.service"
content = """
[Service]
ExecStartPre=/bin/sh -c 'cat /etc/reader.facts >> /var/lib/reader'
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
"""

[[step]]
id = "readiness"
phase = "bake"
file = { path = "/etc/systemd/system/reader.service.d/10-titus-bootstrap.conf", template = "ready.conf" }

[[step]]
id = "facts"
phase = "boot"
file = { path = "/etc/reader.facts", content = "{{ instance.id | safe }}\n" }

[[step]]
id = "ready"
phase = "boot"
file = { path = "/run/titus-bootstrap/ready", content = "" }

[[step]]
id = "reader"
phase = "boot"
unit = { name = "reader.service", enabled = true, active = true, restart_on = ["unit", "facts"] }
"#;

/// Two instances of one image.
const ONE: &str = "i-00000000000000001";
const TWO: &str = "i-00000000000000002";

/// Metadata of an instance that has this id, and this role in its tags.
fn instance(id: &str, role: Option<&str>) -> Items {
    let mut items = items();
    items.insert("meta-data/instance-id".into(), id.into());
    items.remove("meta-data/tags/instance/titus:role");
    items.extend(role.map(|role| ("meta-data/tags/instance/titus:role".to_owned(), role.into())));
    items
}

fn serve(node: &Node, id: &str, role: Option<&str>) -> Metadata {
    services::metadata(node, instance(id, role))
}

fn with_role() -> Node {
    let node = Node::without_program();
    install(&node);
    node.write("/etc/titus-bootstrap/roles/reader.toml", ROLE);
    node
}

/// What the boot unit has said since the boot.
fn journal(node: &Node) -> String {
    node.shell("journalctl --boot --unit titus-bootstrap --output cat --no-pager")
}

fn active(node: &Node, unit: &str) -> String {
    node.property(unit, "ActiveState")
}

#[test]
fn lintian_finds_no_error_in_the_deb() {
    let output = Command::new("lintian").args(["--allow-root", "--no-cfg", "--fail-on", "error"]).arg(deb()).output();
    let output = output.unwrap_or_else(|e| panic!("lintian cannot be run, and Debian has it: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_boot_unit_makes_a_node_what_its_tag_says_before_services_start() {
    let mut node = with_role();
    assert_eq!(node.run(&["systemctl", "is-enabled", UNIT]).out.trim(), "enabled");
    assert_eq!(node.property(UNIT, "ExecMainStartTimestamp"), "", "the deb started it");
    let verified = node.run(&["systemd-analyze", "verify", "--man=no", UNIT, RETRY]).ends_with(0);
    assert_eq!(verified.err, "");
    // Whatever is started from inside a oneshot that is ordered before it never returns.
    assert_eq!(node.property(UNIT, "Before"), "shutdown.target");

    // An image that nothing gives a role.
    node.begin_reboot();
    let metadata = serve(&node, ONE, None);
    node.await_boot();
    assert_eq!((active(&node, UNIT), node.property(UNIT, "Result")), ("inactive".into(), "success".into()));
    let output = journal(&node);
    assert!(output.contains("notice: nothing says which role this node has"), "{output}");
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"no_role\""));
    assert!(!node.exists("/var/lib/titus-bootstrap") && !node.exists("/run/titus-bootstrap/ready"));
    drop(metadata);

    // The tag says it. By hand, the next boot is thought of.
    node.begin_reboot();
    let metadata = serve(&node, ONE, Some("reader"));
    node.await_boot();
    let output = journal(&node);
    assert!(output.contains("role reader: converged in "), "{output}");
    assert_eq!(active(&node, "reader.service"), "active", "{output}");
    assert_eq!(node.read("/var/lib/reader"), format!("{ONE}\n"));
    let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
    assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
    drop(metadata);

    // Its image, started as another instance: until the run knows that, the service does not run, and
    // `systemctl start` waits.
    node.begin_reboot();
    wait_for("the boot unit to ask", || node.property(UNIT, "StatusText").contains("metadata service").then_some(()));
    let mut waiting = node.spawn(&["titus-bootstrap", "status", "--wait"]);
    node.await_turn("reader.service");
    wait_for("the service's start to be refused", || {
        (node.property("reader.service", "ConditionResult") == "no").then_some(())
    });
    assert_eq!(active(&node, "reader.service"), "inactive");
    assert!(!waiting.ended());
    let _metadata = serve(&node, TWO, Some("reader"));
    waiting.end().ends_with(0);
    node.await_boot();
    assert_eq!(node.read("/var/lib/reader"), format!("{ONE}\n{TWO}\n"));

    // Without the program nothing waits for it any more.
    node.shell("dpkg --remove titus-bootstrap");
    assert_eq!(active(&node, "reader.service"), "active", "the removal stopped it");
    node.reboot();
    assert_eq!(active(&node, "reader.service"), "active");
    node.shell("dpkg --purge titus-bootstrap");
    assert!(!node.exists("/var/lib/titus-bootstrap") && !node.exists("/etc/titus-bootstrap/config.toml"));
    assert!(node.exists("/etc/titus-bootstrap/roles/reader.toml"), "an operator's role was removed");
}

const CONFIG: &str = "/etc/titus-bootstrap/config.toml";

#[test]
fn the_deb_leaves_settings_to_the_operator_and_no_timer_behind() {
    let node = Node::without_program();
    std::fs::copy(deb(), node.path("/root/titus-bootstrap.deb")).unwrap();
    let upgrade = || node.shell("dpkg --install /root/titus-bootstrap.deb < /dev/null");
    let of_dpkg = || {
        node.shell("dpkg-query --show --showformat='${Conffiles}' titus-bootstrap; cd /etc/titus-bootstrap 2> /dev/null && ls -A || true")
    };
    // A deb like that of 0.1.0, whose config.toml belonged to the package.
    node.shell(
        "dpkg-deb --raw-extract /root/titus-bootstrap.deb /root/old && cd /root/old
         mkdir -p etc/titus-bootstrap && cp usr/share/doc/titus-bootstrap/examples/config.toml etc/titus-bootstrap/
         sed -i 's/^Version: .*/Version: 0.1.0/' DEBIAN/control && rm DEBIAN/preinst
         echo /etc/titus-bootstrap/config.toml > DEBIAN/conffiles
         printf '#!/bin/sh\\n' > usr/bin/titus-bootstrap
         dpkg-deb --root-owner-group -Zgzip --build . /root/old.deb",
    );

    // The upgrade removes one that nobody edited.
    node.shell("dpkg --install /root/old.deb");
    assert!(node.exists(CONFIG));
    upgrade();
    assert_eq!(of_dpkg(), "");

    // One that was edited is the operator's, with its mode, and outlives the package.
    node.shell(&format!("dpkg --install /root/old.deb; echo 'stack = \"mine\"' > {CONFIG}; chmod 0600 {CONFIG}"));
    upgrade();
    assert_eq!(of_dpkg(), "config.toml\n");
    assert_eq!(node.read(CONFIG), "stack = \"mine\"\n");
    assert_eq!(node.shell(&format!("stat --format %a {CONFIG}")), "600\n");
    upgrade();
    node.shell("dpkg --purge titus-bootstrap");
    assert_eq!(node.read(CONFIG), "stack = \"mine\"\n");

    // dpkg asks nothing about a file that was there before the package.
    upgrade();
    assert_eq!(of_dpkg(), "config.toml\n");

    // What an agent and a gateway have.
    let waits = "/etc/systemd/system/titus-vpc-gc.timer.d/10-titus-bootstrap.conf";
    node.write(waits, "[Unit]\nConditionPathExists=/run/titus-bootstrap/ready\n");
    for unit in ["titus-instance-groups.service", "titus-instance-groups.timer"] {
        let source = format!("{}/systemd/{unit}", env!("CARGO_MANIFEST_DIR"));
        node.write(&format!("/lib/systemd/system/{unit}"), &std::fs::read_to_string(source).unwrap());
    }
    node.shell("systemctl daemon-reload; systemctl enable --now titus-instance-groups.timer");
    assert_eq!(active(&node, "titus-instance-groups.timer"), "active");
    upgrade();
    assert_eq!(active(&node, "titus-instance-groups.timer"), "active", "an upgrade stopped it");
    node.shell("dpkg --remove titus-bootstrap");
    assert!(!node.exists(waits), "a timer would wait for a run that nobody makes");
    assert_eq!(
        node.shell("systemctl list-units --all --plain --no-legend 'titus-instance*' '*.timer' | grep titus || true"),
        ""
    );
    assert_eq!(node.shell("find /lib/systemd/system /etc/systemd/system -name 'titus-instance-groups*'"), "");
}

#[test]
fn only_a_run_that_could_not_be_made_now_is_tried_again() {
    let node = with_role();
    node.write(
        "/etc/systemd/system/titus-bootstrap-retry.timer.d/test.conf",
        "[Timer]\nOnActiveSec=\nOnActiveSec=1s\n",
    );
    node.shell("systemctl daemon-reload");
    let start = || node.run(&["systemctl", "start", UNIT]);

    // What an administrator disabled, an upgrade leaves so.
    node.shell("systemctl disable titus-bootstrap; dpkg --install /root/titus-bootstrap.deb");
    assert_eq!(node.run(&["systemctl", "is-enabled", UNIT]).out.trim(), "disabled");
    node.shell("systemctl enable titus-bootstrap");

    // No person is helped by a second try: the settings are wrong.
    node.write(SETTINGS, "role = \"nobody\"\n");
    let metadata = serve(&node, ONE, None);
    start().ends_with(1);
    assert_eq!(node.property(UNIT, "ExecMainStatus"), "78");
    assert_eq!(active(&node, RETRY), "inactive");
    let output = journal(&node);
    assert!(output.contains("role unknown: refused after ") && output.contains("for details: journalctl"), "{output}");
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"state\":\"refused\""));
    // What a person asks the journal: one message, with the cause, the fix and its fields. (PID 1 has one of its own.)
    let errors = node.shell("journalctl -p err -o json --no-pager --boot -u titus-bootstrap");
    let errors = errors.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let errors: Vec<Value> = errors.filter(|error| error["SYSLOG_IDENTIFIER"] == "titus-bootstrap").collect();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    let message = error["MESSAGE"].as_str().unwrap();
    assert!(message.contains("nobody") && message.contains("\n  fix:"), "{message}");
    assert_eq!((&error["EXIT_CODE"], &error["PRIORITY"]), (&"78".into(), &"3".into()));
    drop(metadata);

    // The metadata service comes late, twice. Then everything is installed by the unit, confined as it is.
    agent::settings_with(&node, "titus-log-bucket-terraform-example", "reboot = \"never\"\ntimeouts.facts = \"1s\"");
    start().ends_with(1);
    assert_eq!(node.property(UNIT, "ExecMainStatus"), "75");
    let first = node.property(UNIT, "InvocationID");
    wait_for("the second try to end", || {
        (node.property(UNIT, "InvocationID") != first && active(&node, UNIT) == "failed").then_some(())
    });
    let _services = agent::services(&node);
    let ended = || ["role agent: converged in ", "failed after "].iter().any(|words| journal(&node).contains(words));
    wait_for("a try with the metadata service", || (ended() && active(&node, UNIT) != "activating").then_some(()));
    assert_eq!(node.property(UNIT, "Result"), "success", "{}", journal(&node));
    agent::check(&node);
    // No more of them.
    wait_for("the timer's end", || (active(&node, RETRY) == "inactive").then_some(()));
}
