//! Docker as others left it: its settings, containers and data.

use crate::harness::agent;

#[test]
fn a_daemon_json_that_sets_what_our_flags_set_is_refused_before_anything_is_changed() {
    let (node, _services) = agent::fresh();
    let path = "/etc/docker/daemon.json";
    node.write(path, "{\"iptables\": true, \"hosts\": [\"fd://\"], \"debug\": true}\n");
    for words in [&["plan"][..], &["apply"]] {
        let refused = node.bootstrap(words).ends_with(69);
        refused.tells(&[
            "/etc/docker/daemon.json sets hosts, iptables",
            "10-docker-config.conf",
            "remove hosts, iptables from",
        ]);
    }
    assert!(!node.exists("/etc/systemd/system/docker.service.d/10-docker-config.conf"));
    // What no flag sets is the operator's.
    node.write(path, "{\"debug\": true}\n");
    node.bootstrap(&["apply"]).ends_with(0);
    node.bootstrap(&["verify"]).ends_with(0);
}
