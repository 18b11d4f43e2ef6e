//! `packer build` for real: nothing of the builder is in an image, and its nodes need nothing but their metadata.

use crate::harness::agent;
use crate::harness::node::{self, Node};
use crate::harness::packer::{ADDRESS, BUILDER, MAC, NAME, baked, boot, build, changed, unit_took};
use crate::harness::services::{self, items};

/// Files of the whole tree that have any of the builder's marks, by a tool that is not ours.
fn marked(node: &Node) -> String {
    let script = format!(
        "grep -rlaF -e {BUILDER} -e {ADDRESS} -e {NAME} -e {MAC} --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev --exclude-dir=run / || true
         find / -xdev '(' -name '*{BUILDER}*' -o -name '*{NAME}*' ')'"
    );
    node.shell(&script)
}

#[test]
fn two_instances_of_an_image_are_separate_agents() {
    let mut of_other = items();
    for (item, value) in [
        ("meta-data/instance-id", "i-0ffeeddccbbaa9988"),
        ("meta-data/local-ipv4", "30.0.100.12"),
        ("meta-data/placement/availability-zone", "eu-west-1b"),
    ] {
        of_other.insert(item.into(), value.into());
    }
    // A node has no network but its metadata, and no repository. Its boot unit does all of this.
    let (mut one, _services) = boot(node::ADDRESS, node::MAC, items());
    let (other, _services) = boot("30.0.100.12", "0a:1b:2c:3d:4e:02", of_other);
    for node in [&one, &other] {
        assert!(!node.exists("/srv/repo/key.asc"));
        assert_eq!(node.property("titus-bootstrap.service", "Result"), "success");
        println!("the boot unit of a baked agent, from its start to its end: {:.0} ms", unit_took(node));
        for path in
            ["/etc/ssh/ssh_host_rsa_key", "/var/lib/cloud/data", "/root/.bash_history", "/var/log/cloud-init.log"]
        {
            assert!(!node.exists(path), "{path}");
        }
        let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
        // Nor has the run brought anything of the builder back.
        assert_eq!(marked(node), "");
    }
    let ids = [&one, &other].map(|node| node.read("/etc/machine-id"));
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.len() == 33), "{ids:?}");
    let attributes = other.shell("/etc/mesos-attributes.sh");
    assert!(attributes.contains("id:i-0ffeeddccbbaa9988;") && attributes.contains("zone:eu-west-1b;"), "{attributes}");
    assert_eq!(other.property("mesos-agent.service", "ActiveState"), "active");
    // What `check` asks of every agent, the repository's files among it; after a second boot, too.
    agent::check(&one);
    one.begin_reboot();
    let _services = services::serve(&one, items());
    one.await_boot();
    assert_eq!(one.property("titus-bootstrap.service", "Result"), "success");
    agent::check(&one);
}

#[test]
fn an_id_where_seal_does_not_clean_fails_the_build() {
    let planted = format!("mkdir -p /usr/share/x && echo 'made on {BUILDER}' > /usr/share/x/about");
    let (outcome, image) = build(&changed(baked(), "planted", &planted), "planted");
    assert_ne!(outcome.code, 0, "{}", outcome.transcript());
    let output = format!("{}{}", outcome.out, outcome.err);
    assert!(output.contains("/usr/share/x/about: it has the builder's instance id"), "{output}");
    let output = std::process::Command::new("docker").args(["image", "inspect", &image]).output().unwrap();
    assert!(!output.status.success(), "there is an image all the same");
}
