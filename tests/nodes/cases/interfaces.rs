//! A node whose only interface is `ens5`, as m5 and c5 boot, keeps its default route.

use crate::harness::agent;
use crate::harness::image;
use crate::harness::node::{MAC, Node};
use crate::harness::wait_for;

/// A DHCP server at the other end of the node's interface.
const SERVER: &str = "[Match]\nName=gateway0\n\n[Network]\nAddress=30.0.100.1/24\nDHCPServer=yes\n\n\
    [DHCPServer]\nPoolOffset=140\nPoolSize=1\nEmitRouter=yes\n";

#[test]
fn a_node_with_ens5_alone_keeps_its_default_route() {
    let node = Node::start(&image::fresh().image, "ens5");
    let _services = agent::services(&node);
    agent::settings(&node);
    let routes = node.shell("ip -4 route show default; ip -4 -o address show dev ens5");
    assert!(routes.contains("default via 30.0.100.1 dev ens5"), "{routes}");

    node.bootstrap(&[]).ends_with(0);
    assert_eq!(node.shell("ip -4 route show default; ip -4 -o address show dev ens5"), routes);
    assert_eq!(node.property("systemd-networkd.service", "ActiveState"), "inactive", "networkd was started");
    agent::check(&node);
    assert!(node.read("/etc/systemd/network/05-titus-primary.network").contains(&format!("MACAddress={MAC}")));

    // This does what the next boot would do; a node cannot rename its interface. networkd takes the interface over,
    // and finds the file that matches by address.
    node.write("/run/systemd/network/01-gateway.network", SERVER);
    node.shell("ip address flush dev ens5 && systemctl start systemd-networkd");
    wait_for("networkd's default route", || {
        let status = node.run(&["networkctl", "--no-pager", "status", "ens5"]).out;
        let route = node.shell("ip -4 route show default");
        (status.contains("05-titus-primary.network") && route.contains("30.0.100.1 dev ens5 proto dhcp")).then_some(())
    });
}
