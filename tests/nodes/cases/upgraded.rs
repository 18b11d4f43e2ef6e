//! A cluster that an earlier version made is upgraded to this one, and goes back: `tests/soak --upgrade REV`.

use std::collections::BTreeMap;

use crate::harness::agent::SETTINGS;
use crate::harness::cluster::settings;
use crate::harness::deb::deb;
use crate::harness::image::fresh;
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::registry::{self, Registry};
use crate::harness::{prereqs, wait_for_or};
use crate::support::outcome::Outcome;

/// The roles, and the units that an upgrade may restart: those whose unit file differs between versions.
const ROLES: [(&str, &[&str]); 4] = [
    ("prereqs", &[]),
    ("master", &["titus-server-master.service"]),
    ("gateway", &["titus-server-gateway.service", "titus-instance-groups.timer"]),
    ("agent", &[]),
];

/// What runs, each with what changes when it is started again.
fn running(node: &Node) -> BTreeMap<String, String> {
    let text = node.shell(
        "systemctl list-units --plain --no-legend --no-pager --state=active --type=service,socket,timer |
         while read -r unit _; do echo \"$unit $(systemctl show --value --property=InvocationID $unit)\"; done
         if command -v docker > /dev/null; then docker ps --format '{{.Names}}' |
         while read -r name; do echo \"container $name $(docker inspect --format '{{.Id}} {{.State.StartedAt}}' $name)\"; done; fi",
    );
    let parts = text.lines().filter_map(|line| line.split_at_checked(line.find(' ')?));
    let parts = parts.map(|(name, started)| match (name, started.trim().split_once(' ')) {
        ("container", Some((name, started))) => (format!("container {name}"), started.to_owned()),
        _ => (name.to_owned(), started.to_owned()),
    });
    // Each run of these is a start.
    parts.filter(|(name, _)| !name.starts_with("titus-bootstrap") && name != "titus-instance-groups.service").collect()
}

/// What was started again, or ended, since `before`.
fn restarted(before: &BTreeMap<String, String>, node: &Node) -> Vec<String> {
    let now = running(node);
    before.iter().filter(|(name, started)| now.get(*name) != Some(started)).map(|(name, _)| name.clone()).collect()
}

/// Installs a deb. That of 0.1.0 has a file of settings, and dpkg would ask about the operator's.
fn install(node: &Node, deb: &std::path::Path) -> String {
    std::fs::copy(deb, node.path("/root/titus-bootstrap.deb")).unwrap();
    node.shell("dpkg --force-confold --install /root/titus-bootstrap.deb 2>&1 < /dev/null; titus-bootstrap --version")
}

/// All nodes at once: each waits for what it needs.
fn apply(nodes: &[Node]) -> Vec<Outcome> {
    let runs: Vec<_> = nodes.iter().map(|node| node.spawn(&["titus-bootstrap", "apply", "--json"])).collect();
    runs.into_iter().map(|run| run.end().ends_with(0)).collect()
}

/// The program of a deb takes over each node: what it says, changes and restarts. The second run has nothing to do.
fn takes_over(stage: &str, nodes: &[Node], deb: &std::path::Path) {
    let before: Vec<_> = nodes.iter().map(running).collect();
    for node in nodes {
        let installed = install(node, deb);
        eprintln!("{stage}, {}: {}", node.hostname(), installed.lines().last().unwrap_or_default());
        // What the other version has written is read, or nothing depends on it.
        let status = node.bootstrap(&["status"]);
        assert!([0, 1].contains(&status.code), "{stage}: {}", status.transcript());
        eprintln!("  status: {}", status.out.lines().next().unwrap_or_default());
        let warnings = status.err.lines().filter(|line| line.contains("unavailable"));
        assert_eq!(warnings.collect::<Vec<_>>(), [""; 0], "{stage}: {}", status.transcript());
    }
    let runs = apply(nodes);
    for ((node, run), ((role, may_restart), before)) in nodes.iter().zip(&runs).zip(ROLES.iter().zip(&before)) {
        let restarted = restarted(before, node);
        eprintln!("{stage}, {role}: changed {:?}, restarted {restarted:?}", run.steps("changed"));
        let needless: Vec<_> = restarted.iter().filter(|name| !may_restart.contains(&name.as_str())).collect();
        assert_eq!(needless, [""; 0], "{stage}, {role}: {}", run.transcript());
        let verify = || node.bootstrap(&["verify"]);
        wait_for_or("verify to be green", || verify().transcript(), || (verify().code == 0).then_some(()));
    }
    for (run, (role, _)) in apply(nodes).iter().zip(ROLES) {
        assert_eq!(run.steps("changed"), [""; 0], "{stage}, {role}, second run: {}", run.transcript());
    }
}

#[test]
#[ignore = "tests/soak --upgrade REV runs it"]
fn soak_of_upgrades() {
    let Some(old) = std::env::var_os("UPGRADE").map(std::path::PathBuf::from) else {
        panic!("UPGRADE names no deb of an earlier version: run tests/soak --upgrade REV");
    };
    let network = Network::new();
    let mut services = Vec::new();
    let nodes: Vec<Node> = ROLES
        .iter()
        .enumerate()
        .map(|(n, (role, _))| {
            let image = if *role == "prereqs" { &fresh().engine } else { &fresh().image };
            let mut node = Node::off_without_program(image, Some(n + 1));
            node.boot();
            network.join(&node);
            let registry = (*role == "prereqs").then(|| Registry::serve(&node, registry::ADDRESS));
            services.push((prereqs::metadata_of(&node, role), registry));
            install(&node, &old);
            node.write(SETTINGS, &settings());
            node
        })
        .collect();
    apply(&nodes);
    takes_over("upgrade", &nodes, deb());
    takes_over("back", &nodes, &old);
    takes_over("upgrade again", &nodes, deb());
}
