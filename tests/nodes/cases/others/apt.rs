//! apt as others left it: their sources, pins and packages.

use crate::harness::agent;
use crate::harness::debs::PLAIN;

/// Who asked for a repository in the way that its documentation says has it in a file of its own, with a key of its own.
#[test]
fn a_repository_of_another_file_with_another_key_is_refused_and_the_fix_is_enough() {
    let (node, _services) = agent::fresh();
    let list = "/etc/apt/sources.list.d/docker.list";
    node.shell("install -D -m 0644 /srv/repo/key.asc /etc/apt/keyrings/docker.asc");
    node.write(list, "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] file:/srv/repo test main\n");
    for words in [&["plan"][..], &["apply"]] {
        let refused = node.bootstrap(words).ends_with(69);
        refused.tells(&[list, "file:/srv/repo/ test", "/etc/apt/keyrings/docker.asc", "remove it from"]);
    }
    // apt works as before.
    node.shell("apt-get update");
    node.shell(&format!("rm {list}"));
    node.bootstrap(&["apply"]).ends_with(0);
    node.shell("apt-get update");
}

#[test]
fn a_pinned_package_is_one_that_no_source_has() {
    let (node, _services) = agent::fresh();
    let pin = "/etc/apt/preferences.d/never";
    node.write(pin, "Package: titus-executor\nPin: release *\nPin-Priority: -1\n");
    let refused = node.bootstrap(&["apply"]).ends_with(69);
    refused.tells(&["no source has the package titus-executor", "apt-cache policy titus-executor"]);
    assert!(!node.exists("/etc/mesos-attributes.sh"));
    node.shell(&format!("rm {pin}"));
    node.bootstrap(&["apply"]).ends_with(0);
}

#[test]
fn no_package_of_the_operator_s_is_removed() {
    let (node, _services) = agent::fresh();
    // A package of the operator's that one of the role conflicts with.
    let own = crate::harness::debs::Deb { control: "Breaks: titus-executor\n", ..PLAIN };
    node.put("/root/own.deb", 0o644, own.build());
    node.shell("dpkg --install --force-depends /root/own.deb");
    let refused = node.bootstrap(&["apply"]).ends_with(1);
    refused.tells(&[
        "apt would remove titus-server-master",
        "a run removes no package",
        "apt-get remove titus-server-master",
    ]);
    assert!(
        node.shell("dpkg-query --show --showformat '${db:Status-Status}' titus-server-master").contains("installed")
    );
    node.shell("apt-get remove --yes titus-server-master");
    node.bootstrap(&["apply"]).ends_with(0);
}
