//! Three prereqs nodes are one ensemble, however they came to be.

use crate::harness::image;
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::prereqs::{self, Services, ZOOKEEPER};
use crate::harness::{services, wait_for, znodes};
use crate::support::outcome::Outcome;

/// Nodes on one network, each with what is served to it.
struct Nodes {
    network: Network,
    nodes: Vec<Node>,
    services: Vec<Services>,
}

impl Nodes {
    fn three() -> Nodes {
        let network = Network::new();
        let nodes: Vec<Node> = (1..=3).map(|n| Node::one_of_several(&image::fresh().engine, n)).collect();
        nodes.iter().for_each(|node| network.join(node));
        let services = nodes.iter().map(prereqs::services).collect();
        Nodes { network, nodes, services }
    }

    /// The settings of all, with the first `n` of them as servers.
    fn settings(&self, n: usize) {
        let servers: Vec<String> = self.nodes[..n].iter().map(|node| format!("\"{}:2181\"", node.address)).collect();
        for node in &self.nodes {
            let more = format!("zookeeper.servers = [{}]\ntimeouts.wait = \"30m\"", servers.join(", "));
            prereqs::settings(node, &more);
        }
    }

    /// `apply` on these nodes at once; all must end well.
    #[track_caller]
    fn apply(&self, which: &[usize]) -> Vec<Outcome> {
        let runs: Vec<_> =
            which.iter().map(|n| self.nodes[*n].spawn(&["titus-bootstrap", "apply", "--json"])).collect();
        runs.into_iter().map(|run| run.end().ends_with(0)).collect()
    }

    fn modes(&self) -> Vec<String> {
        let mut modes: Vec<String> = self.nodes.iter().filter_map(|node| znodes::mode(node, ZOOKEEPER)).collect();
        modes.sort();
        modes
    }

    /// The nodes that say that their Mesos master leads.
    fn leaders(&self) -> usize {
        let leads = |node: &&Node| {
            let metrics = services::get(node, &format!("{}:5050", node.address), "/metrics/snapshot");
            metrics.is_some_and(|text| text.contains("elected\":1"))
        };
        self.nodes.iter().filter(leads).count()
    }

    #[track_caller]
    fn check(&self) {
        assert_eq!(self.modes(), ["follower", "follower", "leader"]);
        wait_for("one leading Mesos master", || (self.leaders() == 1).then_some(()));
        for node in &self.nodes {
            assert_eq!(prereqs::containers(node), ["mesomaster", "zookeeper"]);
            node.bootstrap(&["verify"]).ends_with(0);
        }
    }
}

#[test]
fn three_at_once_form_one_ensemble_that_bears_the_loss_of_one() {
    let mut all = Nodes::three();
    all.settings(3);
    all.apply(&[2, 0, 1]);
    all.check();
    znodes::write(&all.nodes[0], ZOOKEEPER, "/written", "on the first");
    assert_eq!(znodes::read(&all.nodes[2], ZOOKEEPER, "/written").as_deref(), Some("on the first"));
    for again in all.apply(&[0, 1, 2]) {
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
    }

    // Without one it serves on; with it back, by its next run, it is whole.
    all.nodes[1].stop();
    wait_for("the others to serve", || {
        (znodes::read(&all.nodes[0], ZOOKEEPER, "/written").is_some()
            && znodes::read(&all.nodes[2], ZOOKEEPER, "/written").is_some())
        .then_some(())
    });
    znodes::write(&all.nodes[0], ZOOKEEPER, "/meanwhile", "without the second");
    all.nodes[1].boot();
    all.network.join(&all.nodes[1]);
    all.services[1] = prereqs::services(&all.nodes[1]);
    all.apply(&[1]);
    assert_eq!(znodes::read(&all.nodes[1], ZOOKEEPER, "/meanwhile").as_deref(), Some("without the second"));
    all.check();

    // A changed image, node by node: the others serve all the time.
    for n in 0..3 {
        let node = &all.nodes[n];
        node.bootstrap(&["apply", "--set", "images.zookeeper=jplock/zookeeper:second"]).ends_with(0);
        assert_eq!(znodes::read(node, ZOOKEEPER, "/written").as_deref(), Some("on the first"));
    }
    assert_eq!(all.modes(), ["follower", "follower", "leader"]);

    // Without a quorum of the others a server is not stopped.
    all.nodes[1].shell("docker stop zookeeper");
    let old = prereqs::id(&all.nodes[0], "zookeeper");
    let refused = all.nodes[0].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(1);
    refused.tells(&["waited 2s for this ZooKeeper server's turn", "2 are a quorum", "does not answer"]);
    assert_eq!(prereqs::id(&all.nodes[0], "zookeeper"), old);
    assert_eq!(prereqs::containers(&all.nodes[0]), ["mesomaster", "zookeeper"]);

    // Servers keep their numbers, and a node that is none is refused.
    let swapped = format!("zookeeper.servers=[\"{}:2181\", \"{}:2181\"]", all.nodes[1].address, all.nodes[0].address);
    all.nodes[0]
        .bootstrap(&["apply", "--set", &swapped])
        .ends_with(78)
        .tells(&["myid is \"1\"", "leave the others in their order"]);
    let others = format!("zookeeper.servers=[\"{}:2181\"]", all.nodes[1].address);
    all.nodes[0]
        .bootstrap(&["apply", "--set", &others])
        .ends_with(78)
        .tells(&["this node is not in zookeeper.servers"]);
}

#[test]
fn one_server_becomes_three_and_loses_nothing() {
    let all = Nodes::three();
    let first = format!("zookeeper.servers = [\"{}:2181\"]", all.nodes[0].address);
    prereqs::settings(&all.nodes[0], &first);
    all.apply(&[0]);
    znodes::write(&all.nodes[0], ZOOKEEPER, "/kept", "from when it was alone");

    all.settings(3);
    // Alone it serves on: without the others it would be no quorum.
    let waited = all.nodes[0].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(1);
    waited.tells(&["this server serves alone until 1 of the others run"]);
    assert_eq!(znodes::mode(&all.nodes[0], ZOOKEEPER).as_deref(), Some("standalone"));
    // The third may not start before it: with the second it would be a quorum without the data.
    let waited = all.nodes[2].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(1);
    waited.tells(&["server 1 serves alone and has the data"]);
    assert_eq!(prereqs::containers(&all.nodes[2]), Vec::<String>::new());

    let second = all.nodes[1].spawn(&["titus-bootstrap", "apply"]);
    all.apply(&[0]);
    assert_eq!(znodes::read(&all.nodes[0], ZOOKEEPER, "/kept").as_deref(), Some("from when it was alone"));
    second.end().ends_with(0);
    all.apply(&[2]);
    for node in &all.nodes {
        assert_eq!(znodes::read(node, ZOOKEEPER, "/kept").as_deref(), Some("from when it was alone"));
    }
    all.check();
}
