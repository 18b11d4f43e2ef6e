//! Nodes that boot for the first time as instances do: with the boot unit, and with cloud-init
//! and user data in its NoCloud seed.

use std::collections::BTreeSet;

use super::image::fresh;
use super::node::Node;
use super::wait_for;
use crate::support::outcome::Outcome;

/// The boot unit.
pub const UNIT: &str = "titus-bootstrap.service";

/// What the small role makes: the stack.
pub const MARKER: &str = "/etc/small-role";

const SEED: &str = "/var/lib/cloud/seed/nocloud";

/// A node that is off, with cloud-init, this user data and the boot unit.
pub fn node(user_data: impl AsRef<[u8]>) -> Node {
    let node = Node::off(&fresh().first_boot);
    node.put(&format!("{SEED}/meta-data"), 0o644, "instance-id: i-0123456789abcdef0\n");
    node.put(&format!("{SEED}/user-data"), 0o600, user_data);
    install(&node);
    node
}

/// The program's units, which its package brings.
const UNITS: [(&str, &str); 3] = [
    (UNIT, include_str!("../../../systemd/titus-bootstrap.service")),
    ("titus-bootstrap-retry.timer", include_str!("../../../systemd/titus-bootstrap-retry.timer")),
    ("titus-bootstrap-reboot.service", include_str!("../../../systemd/titus-bootstrap-reboot.service")),
];

/// Puts the program's units into a node that is off, as its package does: the program itself is a
/// mount, which dpkg cannot replace.
pub fn install(node: &Node) {
    for (name, text) in UNITS {
        node.put(&format!("/usr/lib/systemd/system/{name}"), 0o644, text);
    }
    node.put_link(
        &format!("/etc/systemd/system/multi-user.target.wants/{UNIT}"),
        &format!("/lib/systemd/system/{UNIT}"),
    );
}

/// Puts them into a node that runs, and starts none.
pub fn enable(node: &Node) {
    for (name, text) in UNITS {
        node.write(&format!("/usr/lib/systemd/system/{name}"), text);
    }
    node.shell(&format!("systemctl enable {UNIT}"));
}

/// Puts a role `agent` into a node that is off: where the real one would only take its time.
/// These are its steps before the marker.
pub fn small_role(node: &Node, steps: &str) {
    let marker = format!("file = {{ path = \"{MARKER}\", content = \"{{{{ stack | safe }}}}\" }}");
    let text =
        format!("description = \"A small role\"\n{steps}\n[[step]]\nid = \"marker\"\nphase = \"boot\"\n{marker}\n");
    node.put("/etc/titus-bootstrap/roles/agent.toml", 0o644, text);
}

/// The status of cloud-init after it has ended.
pub fn cloud_init(node: &Node) -> Outcome {
    node.run(&["timeout", "120", "cloud-init", "status", "--wait", "--long"])
}

/// The node as another instance with this user data: all of cloud-init's stages, as at a boot.
pub fn cloud_init_again(node: &Node, instance: &str, user_data: impl AsRef<[u8]>) -> Outcome {
    node.shell("cloud-init clean --logs");
    node.write(&format!("{SEED}/meta-data"), &format!("instance-id: {instance}\n"));
    std::fs::write(node.path(&format!("{SEED}/user-data")), user_data).unwrap();
    for stage in ["cloud-init-local", "cloud-init", "cloud-config", "cloud-final"] {
        // No boot starts it five times in ten seconds.
        node.run(&["systemctl", "reset-failed", stage]);
        // cloud-init itself reports one that fails.
        node.run(&["systemctl", "restart", stage]);
    }
    cloud_init(node)
}

/// The runs of the node's current boot that changed something.
pub fn runs(node: &Node) -> usize {
    let boot = node.read("/proc/sys/kernel/random/boot_id");
    let journal = node.read("/var/lib/titus-bootstrap/journal.jsonl");
    let events = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ours = events.filter(|event| event["boot_id"] == boot.trim());
    ours.map(|event| event["run"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>().len()
}

/// Waits until a unit has said these words.
pub fn await_words(node: &Node, unit: &str, words: &str) {
    wait_for(&format!("{unit} to say {words:?}"), || {
        node.run(&["journalctl", "--output=cat", "--unit", unit]).out.contains(words).then_some(())
    });
}
