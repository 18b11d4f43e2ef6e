//! A reboot is due: a run by hand says so; one at boot or from user data reboots, and never in a loop.

use crate::harness::agent;
use crate::harness::node::Node;
use crate::harness::wait_for;

const REBOOTED: &str = "/run/rebooted";

/// A last stage of cloud-init that ends when the test says so.
const CLOUD_FINAL: &str = "[Service]\nType=oneshot\n\
    ExecStart=/bin/sh -c 'until [ -e /run/cloud-final-go ]; do sleep 0.1; done'\n";

/// User data as cloud-init runs it, in a node where a reboot leaves a mark instead.
fn run_user_data(node: &Node) -> crate::support::outcome::Outcome {
    node.write("/var/lib/cloud/part-001", "#!/usr/bin/titus-bootstrap\n");
    node.write(
        "/etc/systemd/system/titus-bootstrap-reboot.service",
        &format!("[Service]\nType=oneshot\nExecStart=/bin/touch {REBOOTED}\n"),
    );
    node.shell("chmod +x /var/lib/cloud/part-001; systemctl daemon-reload");
    node.run(&["/var/lib/cloud/part-001"])
}

#[test]
fn a_run_by_hand_reports_a_reboot_and_one_from_user_data_reboots() {
    let node = Node::converged();
    let _services = agent::services(&node);
    assert_eq!(agent::apply(&node).json()["reboot_required"], true);
    assert!(!node.exists(REBOOTED) && !node.exists("/var/lib/titus-bootstrap/reboots.json"));

    run_user_data(&node).ends_with(0);
    wait_for("the reboot", || node.exists(REBOOTED).then_some(()));
    assert!(node.read("/var/lib/titus-bootstrap/reboots.json").contains("net.ifnames=0"));

    // Two earlier boots asked for the same and it did not help: a failure, not a loop.
    node.shell(&format!("rm {REBOOTED}; echo '[{{' > /var/lib/titus-bootstrap/reboots.json"));
    let refused = run_user_data(&node).ends_with(1);
    refused.reports(&["2 reboots have not fixed it", "reboots.json"]);
    assert!(!node.exists(REBOOTED));

    // At boot the run waits for cloud-init only. A container ends where a machine would start again.
    node.write("/etc/systemd/system/cloud-final.service", CLOUD_FINAL);
    node.shell(
        "rm /var/lib/titus-bootstrap/reboots.json /etc/systemd/system/titus-bootstrap-reboot.service
         systemctl daemon-reload; systemctl start --no-block cloud-final",
    );
    node.bootstrap(&["apply", "--at-boot"]).ends_with(0).reports(&["role agent: converged in ", "a reboot is due"]);
    assert_ne!(node.property("titus-bootstrap-reboot.service", "Job"), "", "it does not wait for cloud-init");
    node.write("/run/cloud-final-go", "");
    wait_for("the node's end", || (!node.is_running()).then_some(()));
}
