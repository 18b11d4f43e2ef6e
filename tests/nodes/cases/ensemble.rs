//! Several prereqs nodes are one ensemble, however they came to be, and whichever of them is replaced. Each case runs
//! on ZooKeeper 3.8 and on 3.4.14.

use crate::harness::image;
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::prereqs::{self, Services, ZOOKEEPER};
use crate::harness::running::Running;
use crate::harness::znodes::Writer;
use crate::harness::{services, wait_for, wait_for_or, znodes};
use crate::support::outcome::Outcome;

/// The images' tags; that of the default name has Debian's ZooKeeper.
const V3_8: &str = "3.4.10";
const V3_4: &str = "3.4.14";

/// Where a client of all servers is.
const CLIENT: &str = "30.0.100.1";

/// Nodes on one network, each with what is served to it.
struct Nodes {
    network: Network,
    /// Of ZooKeeper's image.
    tag: &'static str,
    nodes: Vec<Node>,
    services: Vec<Services>,
    /// How many nodes there have been: each has its own address.
    launched: usize,
}

impl Nodes {
    fn new(count: usize, tag: &'static str) -> Nodes {
        let mut all = Nodes { network: Network::new(), tag, nodes: Vec::new(), services: Vec::new(), launched: 0 };
        all.launch(count);
        all
    }

    fn one(&mut self) -> (Node, Services) {
        self.launched += 1;
        let node = Node::one_of_several(&image::fresh().engine, self.launched);
        self.network.join(&node);
        let services = prereqs::services(&node);
        (node, services)
    }

    /// More of them.
    fn launch(&mut self, count: usize) {
        for _ in 0..count {
            let (node, services) = self.one();
            self.nodes.push(node);
            self.services.push(services);
        }
    }

    /// Replaces a node with a new one that has another address.
    fn replace(&mut self, n: usize) {
        let (node, services) = self.one();
        let before = (std::mem::replace(&mut self.nodes[n], node), std::mem::replace(&mut self.services[n], services));
        drop(before);
        self.settings(self.nodes.len());
    }

    /// Reports how long the client could not write since its write number `from`.
    fn report(&self, what: &str, writer: &Writer, from: usize) {
        let version = if self.tag == V3_4 { "3.4.14" } else { "3.8" };
        println!("ZooKeeper {version}, {what}: no write for {:?}", writer.longest_gap(from));
    }

    fn addresses(&self, count: usize) -> Vec<String> {
        self.nodes[..count].iter().map(|node| format!("{}:2181", node.address)).collect()
    }

    /// The settings of all, with the first `n` of them as servers.
    fn settings(&self, n: usize) {
        for node in &self.nodes {
            let more = format!(
                "zookeeper.servers = {:?}\nimages.zookeeper = \"jplock/zookeeper:{}\"\ntimeouts.wait = \"30m\"",
                self.addresses(n),
                self.tag
            );
            prereqs::settings(node, &more);
        }
    }

    /// Begins `apply` on a node.
    fn begin(&self, n: usize) -> Running {
        self.nodes[n].spawn(&["titus-bootstrap", "apply", "--json"])
    }

    /// `apply` on these nodes at once; all must end well.
    #[track_caller]
    fn apply(&self, which: &[usize]) -> Vec<Outcome> {
        let runs: Vec<_> = which.iter().map(|n| self.begin(*n)).collect();
        runs.into_iter().map(|run| run.end().ends_with(0)).collect()
    }

    /// Waits until these serve as one ensemble. A server whose leader was stopped looks for another one, which takes 3.4
    /// a while: the run on that leader's node can have ended before.
    fn await_ensemble_of(&self, which: &[usize]) {
        let mut expected = vec!["follower"; which.len() - 1];
        expected.push("leader");
        let modes = || {
            let modes = which.iter().map(|n| znodes::mode(&self.nodes[*n], ZOOKEEPER).unwrap_or_else(|| "none".into()));
            let mut modes: Vec<String> = modes.collect();
            modes.sort();
            modes
        };
        wait_for_or("one ensemble", || format!("{:?}", modes()), || (modes() == expected).then_some(()));
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
        self.await_ensemble_of(&(0..self.nodes.len()).collect::<Vec<_>>());
        let version = if self.tag == V3_4 { "3.4.14-" } else { "3.8.0-" };
        for node in &self.nodes {
            let srvr = znodes::four_letters(node, ZOOKEEPER, "srvr").unwrap_or_default();
            assert!(srvr.starts_with(&format!("Zookeeper version: {version}")), "{srvr}");
        }
        wait_for("one leading Mesos master", || (self.leaders() == 1).then_some(()));
        for node in &self.nodes {
            assert_eq!(prereqs::containers(node), ["mesomaster", "zookeeper"]);
            node.bootstrap(&["verify"]).ends_with(0);
        }
    }
}

#[test]
fn three_at_once_form_one_ensemble_that_survives_the_loss_of_one() {
    three_at_once(V3_8);
}

#[test]
fn three_at_once_form_one_ensemble_that_survives_the_loss_of_one_with_3_4() {
    three_at_once(V3_4);
}

fn three_at_once(tag: &'static str) {
    let mut all = Nodes::new(3, tag);
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
    all.await_ensemble_of(&[0, 2]);
    for n in [0, 2] {
        assert!(znodes::read(&all.nodes[n], ZOOKEEPER, "/written").is_some(), "server {}", n + 1);
    }
    znodes::write(&all.nodes[0], ZOOKEEPER, "/meanwhile", "without the second");
    all.nodes[1].boot();
    all.network.join(&all.nodes[1]);
    all.services[1] = prereqs::services(&all.nodes[1]);
    all.apply(&[1]);
    assert_eq!(znodes::read(&all.nodes[1], ZOOKEEPER, "/meanwhile").as_deref(), Some("without the second"));
    all.check();

    // What people watch an ensemble with.
    for (word, answer) in [("ruok", "imok"), ("mntr", "zk_server_state"), ("stat", "Mode: "), ("isro", "rw")] {
        let output = znodes::four_letters(&all.nodes[0], ZOOKEEPER, word).unwrap_or_default();
        assert!(output.contains(answer), "{word}: {output}");
    }

    // A changed image, node by node: the others serve all the time.
    let second = format!("images.zookeeper=jplock/zookeeper:{}", if tag == V3_4 { "3.4.14-second" } else { "second" });
    for n in 0..3 {
        let node = &all.nodes[n];
        node.bootstrap(&["apply", "--set", &second]).ends_with(0);
        assert_eq!(znodes::read(node, ZOOKEEPER, "/written").as_deref(), Some("on the first"));
    }
    all.await_ensemble_of(&[0, 1, 2]);

    // Without a quorum of the others a server is not stopped.
    all.nodes[1].shell("docker stop zookeeper");
    all.await_ensemble_of(&[0, 2]);
    let old = prereqs::id(&all.nodes[0], "zookeeper");
    let refused = all.nodes[0].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(75);
    refused.reports(&["waited 2s for this ZooKeeper server's turn", "a quorum is 2", "does not answer"]);
    assert_eq!(prereqs::id(&all.nodes[0], "zookeeper"), old);
    assert_eq!(prereqs::containers(&all.nodes[0]), ["mesomaster", "zookeeper"]);

    // Servers keep their numbers, and the run refuses a node that is not a server.
    let swapped = format!("zookeeper.servers=[\"{}:2181\", \"{}:2181\"]", all.nodes[1].address, all.nodes[0].address);
    all.nodes[0]
        .bootstrap(&["apply", "--set", &swapped])
        .ends_with(78)
        .reports(&["myid is \"1\"", "leave the others in their order"]);
    let others = format!("zookeeper.servers=[\"{}:2181\"]", all.nodes[1].address);
    all.nodes[0]
        .bootstrap(&["apply", "--set", &others])
        .ends_with(78)
        .reports(&["this node is not in zookeeper.servers"]);
}

#[test]
fn one_server_becomes_three_and_five_and_loses_nothing() {
    one_becomes_three_and_five(V3_8);
}

#[test]
fn one_server_becomes_three_and_five_and_loses_nothing_with_3_4() {
    one_becomes_three_and_five(V3_4);
}

fn one_becomes_three_and_five(tag: &'static str) {
    let mut all = Nodes::new(3, tag);
    all.settings(1);
    all.apply(&[0]);
    znodes::write(&all.nodes[0], ZOOKEEPER, "/kept", "from when it was alone");
    // Alone it answers what its release does by itself.
    let ruok = znodes::four_letters(&all.nodes[0], ZOOKEEPER, "ruok").unwrap();
    assert_eq!(ruok == "imok", tag == V3_4, "{ruok}");

    all.settings(3);
    // Alone it keeps serving, because without the others there would not be a quorum.
    let waited = all.nodes[0].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(75);
    waited.reports(&["this server serves alone until 1 of the others run"]);
    assert_eq!(znodes::mode(&all.nodes[0], ZOOKEEPER).as_deref(), Some("standalone"));
    // The third may not start before it: with the second it would be a quorum without the data.
    let waited = all.nodes[2].bootstrap(&["apply", "--set", "timeouts.wait=2s"]).ends_with(75);
    waited.reports(&["server 1 serves alone and has the data"]);
    assert_eq!(prereqs::containers(&all.nodes[2]), Vec::<String>::new());

    let second = all.begin(1);
    all.apply(&[0]);
    let kept = |node: &Node| znodes::read(node, ZOOKEEPER, "/kept");
    assert_eq!(kept(&all.nodes[0]).as_deref(), Some("from when it was alone"));
    second.end().ends_with(0);
    all.apply(&[2]);
    all.nodes.iter().for_each(|node| assert_eq!(kept(node).as_deref(), Some("from when it was alone")));
    all.check();

    // The new ones join as they are; then the old ones, all runs at once.
    all.launch(2);
    all.settings(5);
    all.apply(&[3, 4]);
    let mut writer = Writer::start(all.network.gateway(CLIENT), &all.addresses(5));
    all.apply(&[0, 1, 2]);
    all.report("three to five", &writer, 0);

    // One of the five with another address.
    let from = writer.count();
    all.replace(1);
    writer.knows(&all.addresses(5));
    let new = all.begin(1);
    all.apply(&[4, 2, 0, 3]);
    new.end().ends_with(0);
    all.report("server 2 of 5 replaced", &writer, from);
    all.check();
    all.nodes.iter().for_each(|node| assert_eq!(kept(node).as_deref(), Some("from when it was alone")));
    all.nodes.iter().for_each(|node| writer.all_are_on(node, ZOOKEEPER));
}

#[test]
fn each_of_three_is_replaced_while_a_client_writes() {
    each_is_replaced(V3_8);
}

#[test]
fn each_of_three_is_replaced_while_a_client_writes_with_3_4() {
    each_is_replaced(V3_4);
}

fn each_is_replaced(tag: &'static str) {
    let mut all = Nodes::new(3, tag);
    all.settings(3);
    all.apply(&[0, 1, 2]);
    let mut writer = Writer::start(all.network.gateway(CLIENT), &all.addresses(3));
    wait_for("the first writes", || (writer.count() > 5).then_some(()));

    // The runs on the others: one after the other, in any order, and at once.
    for (replaced, others) in [(0, vec![vec![1], vec![2]]), (1, vec![vec![2], vec![0]]), (2, vec![vec![0, 1]])] {
        let from = writer.count();
        all.replace(replaced);
        writer.knows(&all.addresses(3));
        if tag == V3_4 && replaced == 0 {
            // The others' runs come later than this one waits.
            let early = ["apply", "--set", "timeouts.wait=5s"];
            wait_for("the new server to wait for the others", || {
                let run = all.nodes[replaced].bootstrap(&early);
                (run.code == 75).then(|| run.reports(&["waits for a quorum"]))
            });
        }
        let new = all.begin(replaced);
        others.iter().for_each(|at_once| drop(all.apply(at_once)));
        new.end().ends_with(0);
        let after = writer.count();
        wait_for("more writes", || (writer.count() > after + 5).then_some(()));
        all.report(&format!("server {} of 3 replaced", replaced + 1), &writer, from);
        all.check();
        for again in all.apply(&[0, 1, 2]) {
            assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
        }
    }
    all.nodes.iter().for_each(|node| writer.all_are_on(node, ZOOKEEPER));
}
