//! Real cloud-init passes user data to the program while the boot unit runs too.

use crate::harness::agent::{self, SETTINGS};
use crate::harness::first_boot::{self, MARKER, UNIT, cloud_init, cloud_init_again, runs};
use crate::harness::node::Node;
use crate::harness::prereqs::metadata_of;
use crate::harness::services::listen;
use crate::harness::wait_for;
use crate::support::gzip;

const OUTPUT: &str = "/var/log/cloud-init-output.log";

/// Where the small role waits, until a test listens there.
const DOOR: &str = "30.0.100.195:7";

const TAG: &str = "meta-data/tags/instance/titus:role";

#[test]
fn one_line_of_user_data_makes_an_agent_and_reboots_it_once() {
    let mut node = first_boot::node("#!/usr/bin/titus-bootstrap\n");
    node.put(SETTINGS, 0o644, agent::settings_text("titus-log-bucket-terraform-example", ""));
    node.put(
        "/etc/systemd/system/titus-bootstrap-reboot.service.d/print.conf",
        0o644,
        "[Service]\nExecStartPre=/bin/sh -c 'cloud-init status --long > /var/lib/at-reboot; exit 0'\n\
         ExecStartPre=/bin/cp /var/log/cloud-init-output.log /var/lib/output-at-reboot\n",
    );
    // cloud-init's last stage takes longer than the boot unit.
    let later = "[Service]\nExecStartPre=/bin/sh -c 'until [ -e /var/lib/last-stage ]; do sleep 0.1; done'\n";
    node.put("/etc/systemd/system/cloud-final.service.d/later.conf", 0o644, later);
    node.switch_on();
    node.await_network();
    let services = agent::services(&node);
    wait_for("the boot unit to wish a reboot", || {
        assert!(node.is_running(), "rebooted in the middle of cloud-init's work");
        node.run(&["systemctl", "list-jobs"]).out.contains("titus-bootstrap-reboot.service").then_some(())
    });
    assert_eq!(runs(&node), 1);
    node.write("/var/lib/last-stage", "");
    wait_for("the reboot", || (!node.is_running()).then_some(()));
    drop(services);

    node.switch_on();
    node.await_network();
    let _services = agent::services(&node);
    node.await_boot();
    cloud_init(&node).ends_with(0);
    let output = node.read("/var/lib/at-reboot") + &node.read("/var/lib/output-at-reboot");
    assert!(output.contains("status: done") && output.contains("nothing to do"), "{output}");
    assert_eq!(node.property(UNIT, "Result"), "success");
    let report = agent::apply(&node);
    assert_eq!(report.json()["reboot_required"], false, "{}", report.transcript());
    assert_eq!(report.steps("changed"), Vec::<String>::new(), "{}", report.transcript());
    agent::check(&node);
    let reboots: Vec<serde_json::Value> =
        serde_json::from_str(&node.read("/var/lib/titus-bootstrap/reboots.json")).unwrap();
    assert_eq!(reboots.len(), 1, "{reboots:?}");
}

/// A message of a cloud-config, our part and another script, as cloud-init's own tool makes it.
fn message(node: &Node, kind: &str, ours: &str) -> String {
    node.write("/run/parts/config", "#cloud-config\nwrite_files: [{ path: /etc/from-cloud-config, content: here }]\n");
    node.write("/run/parts/ours", ours);
    node.write("/run/parts/other", "#!/bin/sh\ntouch /etc/from-another-script\n");
    let of = |file: &str, kind: &str| format!("--attach /run/parts/{file}:{kind}");
    let parts = [of("config", "cloud-config"), of("ours", kind), of("other", "x-shellscript")].join(" ");
    node.shell(&format!("cloud-init devel make-mime --force {parts}"))
}

#[test]
fn cloud_init_runs_user_data_in_each_of_its_forms() {
    let mut node = first_boot::node("#!/usr/bin/titus-bootstrap\n");
    first_boot::small_role(
        &node,
        &format!("[[step]]\nid = \"door\"\nphase = \"boot\"\nwait = {{ tcp = \"{DOOR}\" }}\n"),
    );
    node.switch_on();
    node.await_network();
    let metadata = metadata_of(&node, "agent");
    metadata.set("user-data", Some("#!/usr/bin/titus-bootstrap\n".into()));

    // The boot unit and cloud-init at the same moment: one works, one waits for it.
    let waits = |text: &str| text.contains("for another run").then_some(());
    wait_for("one to wait for the other", || {
        let unit = node.run(&["journalctl", "--output=cat", "--unit", UNIT]).out;
        let script = std::fs::read_to_string(node.path(OUTPUT)).unwrap_or_default();
        waits(&unit).or_else(|| waits(&script))
    });
    let door = listen(&node, DOOR);
    cloud_init(&node).ends_with(0);
    node.await_boot();
    assert_eq!(node.read(MARKER), "mainvpc");
    assert_eq!(runs(&node), 1, "{}", node.read(OUTPUT));

    // The flags of the first line, with no tag; a part beside a cloud-config, also compressed.
    metadata.set(TAG, None);
    let script = "#!/usr/bin/titus-bootstrap --role agent\nstack = \"STACK\"\n";
    let of = |stack: &str| script.replace("STACK", stack);
    for (stack, data) in [
        ("flags", of("flags").into_bytes()),
        ("part", message(&node, "x-shellscript", &of("part")).into_bytes()),
        ("compressed", gzip(message(&node, "x-shellscript", &of("compressed")).as_bytes())),
    ] {
        // EC2 has no other user data for the one than for the other.
        metadata.set("user-data", Some(data.clone()));
        node.shell("rm -f /etc/from-*");
        cloud_init_again(&node, &format!("i-{stack}"), &data).ends_with(0);
        assert_eq!(node.read(MARKER), stack);
        let others = node.exists("/etc/from-cloud-config") && node.exists("/etc/from-another-script");
        assert_eq!(others, stack != "flags", "{stack}: the other parts");
    }

    // cloud-init ignores a part that is not a script; the boot unit reads it.
    let typed = message(&node, "vnd.titus-bootstrap+toml", "role = \"agent\"\nstack = \"typed\"\n");
    let typed = typed.replace("text/vnd.titus", "application/vnd.titus");
    metadata.set("user-data", Some(typed.clone().into_bytes()));
    cloud_init_again(&node, "i-typed", &typed).ends_with(0);
    assert_eq!(node.read(MARKER), "compressed");
    node.shell(&format!("systemctl restart {UNIT}"));
    assert_eq!(node.read(MARKER), "typed");

    // A run that fails is cloud-init's failure, and does not affect the next instance.
    drop(door);
    let failing = format!("{}[timeouts]\nwait = \"1s\"\n", of("failing"));
    metadata.set("user-data", Some(failing.clone().into_bytes()));
    let failed = cloud_init_again(&node, "i-failing", &failing).ends_with(1);
    assert!(failed.out.contains("status: error"), "{}", failed.transcript());
    assert!(node.read(OUTPUT).contains(DOOR), "{}", node.read(OUTPUT));
    assert_eq!(node.read(MARKER), "typed");
    let _door = listen(&node, DOOR);
    metadata.set("user-data", Some(of("repaired").into_bytes()));
    cloud_init_again(&node, "i-repaired", of("repaired")).ends_with(0);
    assert_eq!(node.read(MARKER), "repaired");
}
