//! Nodes that get from the EC2 API (moto) what metadata and files lack: tags, numbers, peers.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use titus_bootstrap::ec2::api::Api;
use titus_bootstrap::ec2::imds;
use titus_bootstrap::facts::TypeNumbers;
use titus_bootstrap::host::net::Proxy;
use titus_bootstrap::titus::instance_types::lookup;

use crate::harness::agent;
use crate::harness::image;
use crate::harness::moto::{Moto, without_tags};
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::registry::{self, Registry};
use crate::harness::services::{self, items, listen};
use crate::harness::{prereqs, random, wait_for, znodes};
use crate::support::aws::account::Account;
use crate::support::aws::{Aws, Keys};
use crate::support::metadata::{Items, Metadata};

/// A moto on loopback, at a port that is free and that the system gives to nobody else (ip_local_port_range, ip(7)).
fn moto() -> Moto {
    let ports = std::iter::repeat_with(|| 20_000 + u16::try_from(random(10_000)).unwrap());
    let port = ports.take(100).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    Moto::serve(None, "127.0.0.1", port.unwrap())
}

/// `titus-bootstrap` on this machine, below its own root, as the instance of these metadata.
fn bootstrap(metadata: &Metadata, moto: &Moto, root: &tempfile::TempDir, arguments: &[&str]) -> Output {
    Command::new(image::program())
        .args(arguments)
        .arg("--root")
        .arg(root.path())
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint())
        .env("AWS_ENDPOINT_URL_EC2", &moto.url)
        .output()
        .unwrap()
}

#[track_caller]
fn good(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn tags_of_the_api_make_it_the_same_agent() {
    let moto = moto();
    let tags = [
        ("titus:role", "agent"),
        ("titus:stack", "blue"),
        ("titus:prereqs", "30.0.100.194"),
        ("titus:agent.log_bucket", "logs-of-blue"),
        ("titus:agent.asg", "titusagent"),
    ];
    let id = moto.launch("30.0.100.140", &tags);
    let metadata = Metadata::start(without_tags(items(), &id, &moto.vpc()));
    let root = tempfile::tempdir().unwrap();
    let image = root.path().join("etc/titus-bootstrap");
    std::fs::create_dir_all(&image).unwrap();
    let allowed = "allowed_tags = ['role', 'stack', 'prereqs', 'agent.asg', 'agent.log_bucket']\n";
    std::fs::write(image.join("config.toml"), allowed).unwrap();
    let output = good(&bootstrap(&metadata, &moto, &root, &["apply", "--phase", "boot"]));
    assert!(output.contains("instance tag titus:role (EC2 API DescribeTags): agent"), "{output}");
    let config = std::fs::read_to_string(root.path().join("etc/mesos-agent.config")).unwrap();
    assert!(config.contains("/titus/blue/mesos") && config.contains("asg:titusagent"), "{config}");
    let facts = good(&bootstrap(&metadata, &moto, &root, &["facts"]));
    assert!(
        facts.lines().any(|line| line.starts_with("instance.tags") && line.ends_with("(EC2 API DescribeTags)")),
        "{facts}"
    );
}

#[test]
fn numbers_of_instance_types_are_those_of_the_table() {
    let moto = moto();
    let metadata = Metadata::start(without_tags(items(), "i-0123456789abcdef0", "vpc-0a1b2c3d"));
    // What the program's main does first; an error means that another test has done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let endpoint = imds::Endpoint::at(&metadata.endpoint()).unwrap();
    let mut api = Api::new(&endpoint, "eu-west-1", &Proxy::default(), Duration::from_secs(60));
    let url = moto.url.clone();
    api.variable = Box::new(move |name| (name == "AWS_ENDPOINT_URL_EC2").then(|| url.clone()));
    for name in ["m4.large", "m5.large", "r4.8xlarge", "c5.18xlarge", "t2.large"] {
        let (reported, known) = (api.instance_type(name).unwrap().unwrap(), lookup(name).unwrap());
        let known = TypeNumbers {
            max_enis: known.max_enis,
            ipv4_per_eni: known.ipv4_per_eni,
            network_mbps: known.network_mbps,
        };
        assert_eq!(reported, known, "{name}");
    }
    assert_eq!(api.instance_type("m9.huge").unwrap(), None);
}

#[test]
fn a_boot_asks_for_what_nothing_else_says_and_no_more() {
    let node = Node::converged();
    let services = agent::services(&node);
    let (keys, mut account) = (Keys::new(1), Account::default());
    let tags = [("titus:role", "agent"), ("aws:autoscaling:groupName", "titusagent")];
    account.tags.insert("i-0123456789abcdef0".into(), tags.map(|(key, value)| (key.into(), value.into())).into());
    account.types.insert("m4.huge".into(), TypeNumbers { max_enis: 9, ipv4_per_eni: 31, network_mbps: Some(7000) });
    let aws = Aws::serve(listen(&node, "30.0.100.195:5000"), "eu-west-1", account, &keys);
    keys.items().into_iter().for_each(|(path, value)| services.metadata.set(&path, Some(value)));
    // A driver that knows more types than the program has.
    let driver = ["--set", "agent.vpc_driver=any"];
    let apply = [&["env", "AWS_ENDPOINT_URL=http://30.0.100.195:5000", "titus-bootstrap"], &driver[..]].concat();
    let calls = || aws.requests().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>();

    node.run(&apply).ends_with(0);
    assert!(calls().is_empty(), "with tags in metadata and a known type: {:?}", calls());

    for (key, _) in tags {
        services.metadata.set(&format!("meta-data/tags/instance/{key}"), None);
    }
    node.run(&apply).ends_with(0);
    assert_eq!(calls(), ["DescribeTags"]);

    services.metadata.set("meta-data/instance-type", Some(b"m4.huge".to_vec()));
    node.run(&apply).ends_with(0);
    assert_eq!(calls()[1..], ["DescribeTags", "DescribeInstanceTypes"]);
    assert!(
        node.shell("/etc/mesos-attributes.sh").contains("itype:m4.huge;ports:[7150-7200];res:ResourceSet-ENIs-9-31")
    );
    node.run(&apply).ends_with(0);
    assert_eq!(calls()[3..], ["DescribeTags"]);
}

/// Three nodes whose metadata have no tags, with an API that all of them reach.
struct Cluster {
    network: Network,
    moto: Moto,
    /// Of ZooKeeper's image.
    tag: &'static str,
    nodes: Vec<Node>,
    served: Vec<(Metadata, Registry)>,
}

const GATEWAY: &str = "30.0.100.1";

impl Cluster {
    fn new(tag: &'static str) -> Cluster {
        let network = Network::new();
        let holder = network.gateway(GATEWAY);
        let moto = Moto::serve(Some(holder), GATEWAY, 5000);
        Cluster { network, moto, tag, nodes: Vec::new(), served: Vec::new() }
    }

    /// A new instance at the address of the `n`-th node.
    fn launch(&mut self, n: usize, more: &[(&str, &str)]) -> String {
        let node = Node::one_of_several(&image::fresh().engine, n);
        self.network.join(&node);
        let tags: Vec<(&str, &str)> = [("titus:role", "prereqs")].into_iter().chain(more.iter().copied()).collect();
        let id = self.moto.launch(&node.address, &tags);
        let mut items: Items = items();
        items.insert("meta-data/local-ipv4".into(), node.address.clone().into());
        items.insert(
            "meta-data/local-hostname".into(),
            format!("{}.eu-west-1.compute.internal", node.hostname()).into(),
        );
        let items = without_tags(items, &id, &self.moto.vpc());
        let metadata = services::metadata(&node, items);
        let served = (metadata, Registry::serve(&node, registry::ADDRESS));
        prereqs::settings(&node, &format!("images.zookeeper = \"jplock/zookeeper:{}\"\n{DISCOVER}", self.tag));
        self.nodes.push(node);
        self.served.push(served);
        id
    }

    fn command(&self) -> [String; 3] {
        ["env".into(), format!("AWS_ENDPOINT_URL_EC2={}", self.moto.url), "titus-bootstrap".into()]
    }

    fn await_three(&self) {
        wait_for("three members", || (self.modes() == ["follower", "follower", "leader"]).then_some(()));
    }

    fn modes(&self) -> Vec<String> {
        let mut modes: Vec<String> =
            self.nodes.iter().filter_map(|node| znodes::mode(node, prereqs::ZOOKEEPER)).collect();
        modes.sort();
        modes
    }
}

/// All that the nodes know about each other.
const DISCOVER: &str =
    "timeouts.wait = \"30m\"\n[zookeeper.discover]\ntag = \"titus:role\"\nvalue = \"prereqs\"\nexpected = 3\n";

fn myid(node: &Node) -> String {
    node.shell("cat /var/lib/zookeeper/myid").trim().to_owned()
}

#[test]
fn three_nodes_without_an_address_find_each_other() {
    three_find_each_other("3.4.10");
}

#[test]
fn three_nodes_without_an_address_find_each_other_with_3_4() {
    three_find_each_other("3.4.14");
}

fn three_find_each_other(tag: &'static str) {
    let mut all = Cluster::new(tag);
    let command = all.command();
    let apply: Vec<&str> = command.iter().map(String::as_str).chain(["apply"]).collect();
    let ids = [all.launch(1, &[]), all.launch(2, &[])];

    // While only two of three exist it waits, and names the missing one.
    let waited = all.nodes[0].run(&[&apply[..], &["--set", "timeouts.wait=1s"]].concat()).ends_with(75);
    waited.reports(&[
        "2 of 3 instances have the tag titus:role=prereqs in stack mainvpc",
        &ids[1],
        "launch or terminate instances until there are 3",
    ]);
    assert!(!all.nodes[0].exists("/var/lib/zookeeper"));

    let third = all.launch(3, &[]);
    let runs: Vec<_> = all.nodes.iter().map(|node| node.spawn(&apply)).collect();
    runs.into_iter().for_each(|run| drop(run.end().ends_with(0)));
    all.await_three();
    let numbers: Vec<String> = all.nodes.iter().map(myid).collect();
    let mut sorted = numbers.clone();
    sorted.sort();
    assert_eq!(sorted, ["1", "2", "3"]);
    znodes::write(&all.nodes[0], prereqs::ZOOKEEPER, "/written", "by the first three");

    // Another instance in the place of the one with number 3, here at another address.
    let mut ids = [ids.to_vec(), vec![third]].concat();
    let replace = |all: &mut Cluster, ids: &mut Vec<String>, number: &str, n: usize| {
        let place = all.nodes.iter().position(|node| myid(node) == number).unwrap();
        drop((all.nodes.remove(place), all.served.remove(place)));
        all.moto.terminate(&ids.remove(place));
        ids.push(all.launch(n, &[]));
    };
    replace(&mut all, &mut ids, "3", 4);
    all.nodes[2].run(&apply).ends_with(0);
    assert_eq!(myid(&all.nodes[2]), "3");
    // The others have its address by their next runs, one after the other.
    all.nodes[..2].iter().for_each(|node| drop(node.run(&apply).ends_with(0)));
    all.await_three();
    assert_eq!(znodes::read(&all.nodes[2], prereqs::ZOOKEEPER, "/written").as_deref(), Some("by the first three"));

    // Without number 1 the launch order would give all of them other numbers, so no server takes one.
    replace(&mut all, &mut ids, "1", 5);
    for node in &all.nodes {
        let refused = node.run(&apply).ends_with(78);
        refused.reports(&["give each instance the tag titus:zookeeper-id with its number"]);
    }
    assert!(!all.nodes[2].exists("/var/lib/zookeeper/myid"));
    for (n, id) in ids.iter().enumerate() {
        let number = if n == 2 { "1".into() } else { myid(&all.nodes[n]) };
        all.moto.tag(id, "titus:zookeeper-id", &number);
    }
    // Before ZooKeeper 3.5 the new one waits until others have restarted with its address.
    let new = all.nodes[2].spawn(&apply);
    all.nodes[..2].iter().for_each(|node| drop(node.run(&apply).ends_with(0)));
    new.end().ends_with(0);
    assert_eq!(myid(&all.nodes[2]), "1");
    all.await_three();
    assert_eq!(znodes::read(&all.nodes[2], prereqs::ZOOKEEPER, "/written").as_deref(), Some("by the first three"));
}
