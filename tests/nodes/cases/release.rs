//! A release: `packaging/release` with a throw-away key, and apt on a node that has nothing but the public key.

use crate::harness::node::Node;
use crate::harness::release::Release;

#[test]
fn a_node_installs_the_program_from_the_repository_of_a_release() {
    let release = Release::make();
    let version = env!("CARGO_PKG_VERSION");
    let folder = release.folder();
    let node = Node::without_program();
    let update = release.add_to(&node);
    node.shell(&format!("{update} && apt-get install --yes titus-bootstrap"));
    assert_eq!(node.run(&["titus-bootstrap", "--version"]).ends_with(0).out, format!("titus-bootstrap {version}\n"));
    assert_eq!(node.run(&["systemctl", "is-enabled", "titus-bootstrap.service"]).out, "enabled\n");
    // All that a scanner or a lawyer needs is on the node, and equals the files of the release.
    let notices = node.shell("gzip -dc /usr/share/doc/titus-bootstrap/THIRD-PARTY-NOTICES.gz");
    let beside = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let beside = beside.filter(|path| path.to_string_lossy().contains("THIRD-PARTY-NOTICES")).collect::<Vec<_>>();
    assert!(std::fs::read_to_string(&beside[0]).unwrap() == notices);

    // apt trusts no other signature, neither for the list of packages nor for a package.
    node.shell("sed -i 's/^Description: .*/Description: other/' /srv/apt/dists/stable/main/binary-*/Packages; rm /srv/apt/dists/stable/main/binary-*/*.gz");
    node.run(&["sh", "-c", &update]).ends_with(100);
    release.copy_repository(&node);
    node.shell(&format!(
        "apt-get remove --yes titus-bootstrap && {update} && for deb in /srv/apt/pool/*.deb; do echo >> $deb; done"
    ));
    node.run(&["apt-get", "install", "--yes", "titus-bootstrap"]).ends_with(100);
    release.copy_repository(&node);
    node.shell("sed -i '/^Date:/s/20/21/' /srv/apt/dists/stable/InRelease");
    node.run(&["sh", "-c", &update]).ends_with(100);
}
