//! Runs whose instance metadata are incomplete: the calls to the EC2 API, their number, and what the user reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::time::Duration;

use support::aws::account::{Account, Instance, sample};
use support::aws::{Aws, Fault, Keys};
use support::metadata::{self, Metadata};
use support::root::{Outcome, Root, ask, assert_same, outcome};
use titus_bootstrap::facts::TypeNumbers;

/// The sample instance.
const ID: &str = "i-0123456789abcdef0";
const TYPE: &str = "meta-data/instance-type";
/// What an agent needs and no tag of the tests says.
const NEEDS: [&str; 4] = ["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"];
/// The same with a VPC driver that knows types which the program does not.
const LATER_DRIVER: [&str; 6] =
    ["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1", "--set", "agent.vpc_driver=any"];

/// An instance without tags in its metadata, and the account that it is in.
struct Node {
    root: Root,
    metadata: Metadata,
    aws: Aws,
}

impl Node {
    /// With these tags more than the sample's.
    fn tagged(tags: &[(&str, &str)]) -> Node {
        let mut account = sample();
        let own = account.tags.get_mut(ID).unwrap();
        own.extend(tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Node::with_account(account)
    }

    fn with_account(account: Account) -> Node {
        let keys = Keys::new(1);
        let mut items = metadata::sample();
        items.retain(|path, _| !path.starts_with("meta-data/tags/"));
        items.extend(keys.items());
        Node { root: Root::empty(), metadata: Metadata::start(items), aws: Aws::start(account, &keys) }
    }

    fn with_fault(self, fault: Fault) -> Node {
        self.aws.fault(fault);
        self
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_at(&self.aws.endpoint(), arguments)
    }

    fn run_at(&self, endpoint: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.root.program(arguments);
        command.args(["--set", "agent.resources.mem=8000", "--set", "agent.resources.disk=8000"]);
        outcome(ask(&mut command, &self.metadata.endpoint()).env("AWS_ENDPOINT_URL_EC2", endpoint))
    }

    /// The actions that were called.
    fn calls(&self) -> Vec<String> {
        self.aws.requests().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect()
    }
}

#[test]
fn tags_in_metadata_spare_every_call_and_others_make_the_same_agent() {
    let node = Node::tagged(&[("titus:role", "agent"), ("titus:stack", "blue")]);
    node.run(&NEEDS).ends_with(0).prints(&["instance tag titus:role (EC2 API DescribeTags): agent"]);
    assert_eq!(node.calls(), ["DescribeTags"]);
    assert!(node.root.read("/etc/mesos-agent.config").contains("/titus/blue/mesos"));

    let tagged = Node { root: Root::empty(), ..node };
    tagged.aws.account(|account| account.tags.clear());
    for (key, value) in [("titus:role", "agent"), ("titus:stack", "blue"), ("aws:autoscaling:groupName", "titusagent")]
    {
        tagged.metadata.set(&format!("meta-data/tags/instance/{key}"), Some(value.into()));
    }
    let before = tagged.calls().len();
    // Nor does it wait for a turn to ask.
    tagged.root.write("/proc/uptime", "3.00 1.00\n");
    tagged
        .run(&[&NEEDS[..], &["--set", "tags.spread=1d"]].concat())
        .ends_with(0)
        .prints(&["instance tag titus:role: agent"]);
    assert_eq!(tagged.calls().len(), before, "a boot with tags in its metadata asked the API");
}

#[test]
fn a_node_whose_turn_is_over_asks_at_once() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    for uptime in ["86400.00 1.00\n", "nobody knows\n"] {
        node.root.write("/proc/uptime", uptime);
        node.run(&[&NEEDS[..], &["--set", "tags.spread=1d"]].concat()).ends_with(0);
    }
    assert_eq!(node.calls(), ["DescribeTags", "DescribeTags"]);
}

#[test]
fn an_unknown_type_is_asked_for_once() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    node.metadata.set(TYPE, Some(b"m4.huge".to_vec()));
    node.aws.account(|account| {
        account.types.insert("m4.huge".into(), TypeNumbers { max_enis: 9, ipv4_per_eni: 31, network_mbps: Some(7000) })
    });
    // A plan asks, and keeps nothing.
    node.run(&[&["plan"], &LATER_DRIVER[..]].concat()).ends_with(0);
    assert_same(&Default::default(), &node.root.look(), "a plan wrote something");
    node.run(&LATER_DRIVER).ends_with(0);
    assert!(node.root.read("/etc/mesos-attributes.sh").contains("res:ResourceSet-ENIs-9-31"));
    assert!(node.root.read("/etc/mesos-agent.config").contains("network:7000"));
    assert_eq!(node.calls(), ["DescribeTags", "DescribeInstanceTypes", "DescribeTags", "DescribeInstanceTypes"]);

    node.run(&LATER_DRIVER).ends_with(0).prints(&["0 of"]);
    assert_eq!(node.calls()[4..], ["DescribeTags"]);
    outcome(&mut node.root.program(&["instance-type", "m4.huge"])).ends_with(0).prints(&["9 interfaces, 31 IPv4"]);
    // The program asks again for a broken answer.
    node.root.write("/var/lib/titus-bootstrap/instance-types.json", "{\"m4.huge\": 7");
    node.run(&LATER_DRIVER).ends_with(0);
    assert_eq!(node.calls()[5..], ["DescribeTags", "DescribeInstanceTypes"]);
    assert!(node.root.read("/var/lib/titus-bootstrap/instance-types.json").contains("\"max_enis\":9"));
}

#[test]
fn a_type_that_ec2_does_not_know_is_refused_before_anything_is_changed() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    node.metadata.set(TYPE, Some(b"m4.huge".to_vec()));
    node.run(&LATER_DRIVER)
        .ends_with(78)
        .reports(&["instance type \"m4.huge\" is not in the built-in table", "[instance_types.\"m4.huge\"]"]);
    node.aws.fault(Fault::Deny("DescribeInstanceTypes"));
    node.run(&LATER_DRIVER).ends_with(78).reports(&[
        "instance type \"m4.huge\" is not in the built-in table",
        "\"Action\": \"ec2:DescribeInstanceTypes\"",
        "[instance_types.\"m4.huge\"]",
    ]);
    assert_same(&Default::default(), &node.root.look(), "a refused run wrote something");
    // The program asks nothing about a type that cannot run Titus.
    let before = node.calls().len();
    node.metadata.set(TYPE, Some(b"t9.huge".to_vec()));
    node.run(&NEEDS).ends_with(69).reports(&["does not know the family t9"]);
    assert_eq!(node.calls().len(), before + 1);
}

/// Waits for the second request: a request is noted before it is answered, so only then is the first answer out.
fn await_second_request(aws: &Aws) {
    while aws.requests().len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_tag_may_come_a_moment_after_the_launch() {
    let node = Node::tagged(&[]);
    let aws = node.aws.clone();
    let tagging = std::thread::spawn(move || {
        await_second_request(&aws);
        aws.account(|account| account.tags.get_mut(ID).unwrap().insert("titus:role".into(), "agent".into()));
    });
    node.run(&NEEDS).ends_with(0);
    tagging.join().unwrap();
    assert!(node.calls().len() >= 2, "{:?}", node.calls());

    let never = Node::tagged(&[]);
    never
        .run(&NEEDS)
        .ends_with(78)
        .reports(&["no role", "instance tag titus:role (EC2 API DescribeTags): no such tag"]);
    assert!(never.calls().len() > 2, "{:?}", never.calls());
}

#[test]
fn the_tag_of_a_group_is_waited_for_where_there_is_one() {
    let node = Node::tagged(&[]);
    node.aws.account(|account| account.tags.get_mut(ID).unwrap().remove("aws:autoscaling:groupName"));
    let aws = node.aws.clone();
    let tagging = std::thread::spawn(move || {
        await_second_request(&aws);
        let tag = ("aws:autoscaling:groupName".to_owned(), "late".to_owned());
        aws.account(|account| account.tags.get_mut(ID).unwrap().extend([tag]));
    });
    node.run(&[&["--role", "agent"], &NEEDS[..]].concat()).ends_with(0);
    tagging.join().unwrap();
    assert!(node.root.read("/etc/mesos-attributes.sh").contains("asg:late"));
}

#[test]
fn what_is_not_allowed_is_reported_with_what_to_allow() {
    let node = Node::tagged(&[("titus:role", "agent")]).with_fault(Fault::Deny("DescribeTags"));
    node.run(&NEEDS).ends_with(78).reports(&[
        "the tags of this instance are unknown",
        "\"Action\": \"ec2:DescribeTags\"",
        "--instance-metadata-tags enabled",
        "tags.api = false",
    ]);
    assert_eq!(node.calls(), ["DescribeTags"], "a denied call was repeated");
    assert_same(&Default::default(), &node.root.look(), "a refused run wrote something");

    // Without the tags it goes on where they are not needed, and where one is it says why it is not there.
    let agent = [&["--role", "agent"], &NEEDS[..]].concat();
    node.run(&agent).ends_with(78).reports(&["the Auto Scaling group is unknown", "the instance's tags are unknown"]);
    let output = node.run(&[&agent[..], &["--set", "agent.asg=titusagent"]].concat()).ends_with(0);
    assert!(output.err.contains("ec2:DescribeTags"), "{}", output.err);
}

#[test]
fn an_instance_without_a_profile_has_no_tags() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    node.metadata.set("meta-data/iam/security-credentials/titus-node", None);
    node.run(&NEEDS).ends_with(78).reports(&[
        "no role",
        "tags in instance metadata are disabled, and",
        "no instance profile",
    ]);
    node.run(&[&["--role", "agent", "--set", "agent.asg=titusagent"], &NEEDS[..]].concat()).ends_with(0);
    assert!(node.calls().is_empty());
}

#[test]
fn an_api_that_cannot_be_reached_is_tried_again_later_or_reported_as_not_needed() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    let agent = [&["--role", "agent", "--set", "agent.asg=titusagent"], &NEEDS[..]].concat();
    // For the facts from the metadata service, too, which come first.
    let limit = ["--set", "timeouts.facts=5s"];
    // Nothing names the role or the group: the program tries again.
    for arguments in [&[&NEEDS[..], &limit].concat()[..], &[&["--role", "agent"], &NEEDS[..], &limit].concat()] {
        let output = node.run_at("http://127.0.0.1:9", arguments).ends_with(75);
        output.reports(&[
            "the tags of this instance are unknown",
            "gave no answer within ",
            "Connection refused",
            "tags.api = false",
        ]);
        assert_same(&Default::default(), &node.root.look(), "a run without facts wrote something");
    }
    // Everything is known without tags: the run goes on, and reports what it did without.
    let limited = [&agent[..], &limit].concat();
    node.run_at("http://127.0.0.1:9", &limited).ends_with(0).reports(&["the tags of this instance are unknown"]);
    let silent = node.run_at("http://127.0.0.1:9", &[&agent[..], &["--set", "tags.api=false"]].concat()).ends_with(0);
    assert!(!silent.err.contains("not known"), "{}", silent.err);
    node.run_at("ftp://x", &agent).ends_with(78).reports(&["AWS_ENDPOINT_URL_EC2 must not be \"ftp://x\""]);
}

#[test]
fn facts_say_what_the_api_said() {
    let node = Node::tagged(&[("titus:role", "agent")]);
    let output = node.run(&["facts", "--json"]).ends_with(0).json();
    assert_eq!(output["sources"]["instance.tags"], "EC2 API DescribeTags");
    assert_eq!(output["instance"]["tags"]["titus:role"], "agent");
    assert_eq!(output["instance"]["autoscaling_group"], "titusagent");
    assert_eq!(output["instance"]["type_numbers"], serde_json::Value::Null);

    // With the print of a node of an unknown type a plan can be made where there is no API.
    node.metadata.set(TYPE, Some(b"m4.huge".to_vec()));
    let numbers = TypeNumbers { max_enis: 9, ipv4_per_eni: 31, network_mbps: None };
    node.aws.account(|account| account.types.insert("m4.huge".into(), numbers));
    let print = node.run(&["facts", "--json"]).ends_with(0);
    assert_eq!(print.json()["sources"]["instance.type_numbers"], "EC2 API DescribeInstanceTypes");
    node.root.write("/print", &print.out);
    let file = node.root.at("/print").display().to_string();
    let why = ["why", "res", "--role", "agent", "--facts", &file, "--set", "agent.resources.network=1"];
    node.run(&[&why[..], &LATER_DRIVER[..]].concat())
        .ends_with(0)
        .prints(&["ResourceSet-ENIs-9-31", "EC2 API DescribeInstanceTypes"]);

    // The command shows what it knows, even if something is not available.
    for (endpoint, fault, limit) in [
        (node.aws.endpoint(), "DescribeTags", "timeouts.facts=2m"),
        ("http://127.0.0.1:9".into(), "DescribeInstanceTypes", "timeouts.facts=5s"),
    ] {
        node.aws.fault(Fault::Deny(fault));
        let output = node.run_at(&endpoint, &["facts", "--json", "--set", limit]).ends_with(0).json();
        assert!(output["sources"]["instance.tags"].as_str().unwrap().starts_with("not known"), "{output:#}");
    }
}

/// Instances of a cluster; `n`-th has the address 10.0.0.n, and the later ones were launched earlier.
fn servers(count: usize, more: impl Fn(usize) -> Vec<(&'static str, &'static str)>) -> Vec<Instance> {
    let server = |n: usize| Instance {
        id: format!("i-00000000000000{n:03}"),
        address: format!("10.0.0.{n}"),
        state: "running".into(),
        vpc: "vpc-0123456789abcdef0".into(),
        attached: format!("2018-05-{:02}T10:00:00.000Z", 20 - n),
        tags: [("titus:role", "prereqs")].into_iter().chain(more(n)).map(|(k, v)| (k.into(), v.into())).collect(),
    };
    (1..=count).map(server).collect()
}

const AGENT: [&str; 4] = ["--set", "agent.log_bucket=logs", "--set", "timeouts.wait=1s"];

fn discovering(instances: Vec<Instance>) -> Node {
    let node = Node::tagged(&[("titus:role", "agent")]);
    node.aws.account(|account| account.instances.extend(instances));
    node.root
        .write("/etc/titus-bootstrap/config.toml", "[zookeeper.discover]\ntag = \"titus:role\"\nvalue = \"prereqs\"\n");
    node
}

#[test]
fn peers_are_found_by_their_tag_and_ordered_by_launch() {
    let of_others = |n: usize| match n {
        4 => vec![("titus:stack", "blue")],
        _ => Vec::new(),
    };
    let mut instances = servers(6, of_others);
    instances[4].state = "terminated".into();
    instances[5].vpc = "vpc-1".into();
    // One without an IPv4 address serves nobody here.
    instances.push(Instance { id: "i-0000000000000000e".into(), address: String::new(), ..instances[0].clone() });
    let node = discovering(instances);
    node.run(&AGENT).ends_with(0);
    assert_eq!(node.calls(), ["DescribeTags", "DescribeInstances"]);
    let config = node.root.read("/etc/mesos-agent.config");
    assert!(config.contains("zk://10.0.0.3:2181,10.0.0.2:2181,10.0.0.1:2181/titus/mainvpc/mesos"), "{config}");
    // Who names the addresses asks nobody.
    node.run(&[&AGENT[..], &["--set", "prereqs=10.0.0.9"]].concat()).ends_with(0);
    assert_eq!(node.calls()[2..], ["DescribeTags"]);
}

#[test]
fn masters_and_the_titus_master_are_found_too() {
    let node = discovering(servers(3, |_| Vec::new()));
    let master = |tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Instance {
            id: "i-0000000000000000f".into(),
            address: "10.0.1.1".into(),
            tags,
            ..servers(1, |_| Vec::new()).remove(0)
        }
    };
    node.aws.account(|account| account.instances.push(master(&[("titus:role", "master"), ("titus:mesos", "yes")])));
    let discover = |group: &str, tag: &str, value: &str| {
        format!("{group}.discover={{ tag = \"{tag}\", value = \"{value}\", expected = 1 }}")
    };
    let (titus, mesos) = (discover("master", "titus:role", "master"), discover("mesos", "titus:mesos", "yes"));
    let shown = node.run(&["config", "show", "--set", &titus, "--set", &mesos]).ends_with(0);
    let masters = shown.out.lines().find(|line| line.contains("mesos.masters")).unwrap_or_default();
    assert!(masters.contains("10.0.1.1:5050") && masters.contains("EC2 API DescribeInstances"), "{}", shown.out);
    let given =
        node.run(&["config", "show", "--set", &mesos, "--set", "mesos.masters=[\"10.9.9.9:5050\"]"]).ends_with(0);
    given.prints(&["10.9.9.9:5050"]);
    // An agent needs no Titus master.
    assert_eq!(node.calls()[..3], ["DescribeTags", "DescribeInstances", "DescribeInstances"]);
    assert_eq!(node.calls()[3..], ["DescribeTags", "DescribeInstances"]);
    node.aws.account(|account| account.tags.get_mut(ID).unwrap().insert("titus:role".into(), "gateway".into()));
    node.run(&["config", "show", "--set", &titus]).ends_with(0).prints(&["10.0.1.1"]);
}

#[test]
fn peers_that_are_missing_or_at_odds_are_reported() {
    let node = discovering(servers(2, |_| Vec::new()));
    let output = node.run(&AGENT).ends_with(75);
    output.reports(&[
        "2 of 3 instances have the tag titus:role=prereqs in stack mainvpc",
        "i-00000000000000001 (10.0.0.1)",
        "or set zookeeper.servers",
    ]);
    let many = discovering(servers(4, |_| Vec::new()));
    many.run(&AGENT).ends_with(75).reports(&["4 of 3 instances", "launch or terminate instances until there are 3"]);
    let twice = || servers(3, |n| if n < 3 { vec![("titus:zookeeper-id", "2")] } else { Vec::new() });
    let words = ["its tag titus:zookeeper-id cannot be used", "it is \"2\", which"];
    // Their clients need no numbers.
    discovering(twice()).run(&AGENT).ends_with(0).reports(&words);
    let server = discovering(twice());
    server.metadata.set("meta-data/local-ipv4", Some(b"10.0.0.1".to_vec()));
    server.metadata.set("meta-data/instance-id", Some(b"i-00000000000000001".to_vec()));
    server.run(&[&AGENT[..], &["--role", "prereqs"]].concat()).ends_with(78).reports(&words);
    // One address is not two servers.
    let mut one_address = servers(3, |_| Vec::new());
    one_address[2].address = "10.0.0.1".into();
    let same = discovering(one_address);
    same.metadata.set("meta-data/local-ipv4", Some(b"10.0.0.1".to_vec()));
    same.metadata.set("meta-data/instance-id", Some(b"i-00000000000000001".to_vec()));
    let output = same.run(&[&AGENT[..], &["--role", "prereqs"]].concat()).ends_with(78);
    output.reports(&["have the same address", "both are at 10.0.0.1", "remove the tag"]);
    // A server that is not among them waits until it is.
    let own = discovering(servers(3, |_| Vec::new()));
    let output = own.run(&[&AGENT[..], &["--role", "prereqs"]].concat()).ends_with(75);
    output.reports(&["3 of 3 instances have the tag", "this one is not among them"]);
    let denied = discovering(servers(3, |_| Vec::new())).with_fault(Fault::Deny("DescribeInstances"));
    denied.run(&AGENT).ends_with(78).reports(&["\"Action\": \"ec2:DescribeInstances\""]);
    for node in [node, many, server, same, own, denied] {
        assert!(!node.root.at("/etc/mesos-agent.config").exists());
    }
}
