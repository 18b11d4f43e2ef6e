//! What else goes on at a first boot: a network that comes late, upgrades, and an image that was
//! another instance.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::first_boot::{self, MARKER, UNIT, await_words};
use crate::harness::image::{converged, fresh};
use crate::harness::node::Node;
use crate::harness::prereqs::metadata_of;
use crate::harness::services::{self, items};
use crate::harness::wait_for;
use crate::support::agent::ATTRIBUTES;

/// What a Mesos agent was started with, each time.
const STARTS: &str = "/var/lib/agent-starts";

/// Without cloud-init too: the unit reads user data itself, in each form.
#[test]
fn a_network_that_comes_late_brings_user_data() {
    let mut node = Node::off(&fresh().image);
    first_boot::install(&node);
    first_boot::small_role(&node, "");
    let late = "[Unit]\nConditionPathExists=/run/cable\n";
    node.put("/etc/systemd/system/test-network.service.d/late.conf", 0o644, late);
    node.switch_on();
    await_words(&node, UNIT, "169.254.169.254");
    assert!(!node.exists(MARKER));

    node.write("/run/cable", "");
    node.shell("systemctl start test-network.service");
    let of = |stack: &str| format!("#titus-bootstrap\nrole = \"agent\"\nstack = \"{stack}\"\n");
    let mut items = items();
    items.insert("user-data".into(), of("plain").into());
    let metadata = services::metadata(&node, items);
    node.await_boot();
    assert_eq!(node.read(MARKER), "plain");

    metadata.set("user-data", Some(STANDARD.encode(of("encoded")).into()));
    node.shell(&format!("systemctl restart {UNIT}"));
    assert_eq!(node.read(MARKER), "encoded");
}

#[test]
fn apts_own_services_run_too() {
    let mut node = Node::off(&fresh().first_boot);
    let package = "package = { names = [\"titus-standin-runtime\"] }";
    first_boot::small_role(&node, &format!("[[step]]\nid = \"runtime\"\nphase = \"bake\"\n{package}\n"));
    node.put("/etc/cloud/cloud-init.disabled", 0o644, "");
    node.put("/etc/apt/sources.list.d/test.list", 0o644, "deb [trusted=yes] file:/srv/repo test main\n");
    // An update by apt-daily holds the lock of apt's lists for as long as the test wants.
    node.put(
        "/etc/apt/apt.conf.d/60test",
        0o644,
        "Unattended-Upgrade::Origins-Pattern { \"codename=test\"; };\n\
         APT::Update::Pre-Invoke { \"/usr/local/sbin/hold\"; };\n",
    );
    // Not one of our own: only what systemd starts has this variable.
    let hold = "#!/bin/sh\n[ -n \"$INVOCATION_ID\" ] || exit 0\ntouch /run/updating\n\
        while [ ! -e /run/update-go ]; do sleep 0.1; done\n";
    node.put("/usr/local/sbin/hold", 0o755, hold);
    node.boot();
    let _metadata = metadata_of(&node, "agent");
    // What there is to upgrade takes as long, too.
    node.shell(
        "touch /run/slow-package-go; dpkg --install /srv/repo/pool/slow-package_1_all.deb
         rm /run/slow-package-go /run/slow-package-started
         systemctl start --no-block apt-daily.service apt-daily-upgrade.service",
    );
    wait_for("apt-daily's update", || node.exists("/run/updating").then_some(()));
    node.bootstrap(&[]).ends_with(0);
    assert_eq!(node.read(MARKER), "mainvpc");
    assert_eq!(node.property("apt-daily.service", "ActiveState"), "activating");

    node.shell(&format!("dpkg --remove titus-standin-runtime; rm {MARKER}; touch /run/update-go"));
    wait_for("unattended-upgrades", || node.exists("/run/slow-package-started").then_some(()));
    let mut run = node.spawn(&["titus-bootstrap"]);
    wait_for("the run to say for whom it waits", || {
        assert!(!run.ended(), "{}", run.stderr());
        (run.stderr().contains("waiting") && run.stderr().contains("unattended-upgrade")).then_some(())
    });
    node.write("/run/slow-package-go", "");
    run.end().ends_with(0);
    wait_for("the end of the upgrades", || {
        (node.property("apt-daily-upgrade.service", "ActiveState") == "inactive").then_some(())
    });
    for unit in ["apt-daily.service", "apt-daily-upgrade.service"] {
        assert_eq!(node.property(unit, "Result"), "success", "{unit}");
    }
    let versions =
        node.shell("dpkg-query --show --showformat '${Status} ${Version}\n' slow-package titus-standin-runtime");
    assert_eq!(versions, "install ok installed 2\ninstall ok installed 1\n");
}

/// Two instances of one image, which someone made from a working agent.
#[test]
fn an_image_of_an_agent_never_starts_as_that_agent() {
    let nodes = [1, 2].map(|n| {
        let mut node = Node::off_of_several(&converged().image, n);
        first_boot::install(&node);
        // The kernel is the host's, and no reboot changes it.
        node.put("/etc/titus-bootstrap/config.d/90-test.toml", 0o644, "reboot = \"never\"\ntimeouts.facts = \"30m\"\n");
        node.put(
            "/etc/systemd/system/mesos-agent.service.d/touch.conf",
            0o644,
            format!("[Service]\nExecStartPre=/bin/sh -c 'printenv MESOS_ATTRIBUTES >> {STARTS}'\n"),
        );
        node.switch_on();
        node.await_network();
        node
    });
    for (node, id) in nodes.iter().zip(["i-0aaaaaaaaaaaaaaa1", "i-0aaaaaaaaaaaaaaa2"]) {
        // The boot wants to start the agent, and the metadata service does not answer yet.
        node.await_turn("mesos-agent.service");
        assert!(!node.exists(STARTS), "the agent ran as {}", node.read(STARTS));

        let mut items = items();
        items.insert("meta-data/instance-id".into(), id.into());
        items.insert("meta-data/local-ipv4".into(), node.address.clone().into());
        let _metadata = services::metadata(node, items);
        node.await_boot();
        wait_for("the boot unit's end", || (node.property(UNIT, "ActiveState") == "inactive").then_some(()));
        assert_eq!(node.property(UNIT, "Result"), "success");
        assert_eq!(node.property("mesos-agent.service", "ActiveState"), "active");
        let starts = node.read(STARTS);
        assert_eq!(starts, ATTRIBUTES.replace("i-0123456789abcdef0", id).split('"').nth(1).unwrap().to_owned() + "\n");
    }
}
