//! Whole runs on the facts of a metadata service that is late or wrong, and each thing
//! that went wrong with the scripts when they were run for real, as far as it needs no node.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::metadata::{Fault, Items, Metadata, sample};
use support::root::{Look, Outcome, Root, ask, assert_same};

const SETTINGS: [&str; 4] = ["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"];
const ROLE: &str = "meta-data/tags/instance/titus:role";

/// The sample's instance, whose tag says that it is an agent.
fn agent() -> Items {
    let mut items = sample();
    items.insert(ROLE.into(), b"agent".to_vec());
    items
}

fn run(root: &Root, metadata: &Metadata) -> Outcome {
    root.ask(metadata, &SETTINGS)
}

/// What a run makes of a service without any fault.
fn expected() -> Look {
    let root = Root::empty();
    run(&root, &Metadata::start(agent())).ends_with(0);
    root.made()
}

#[track_caller]
fn survives(fault: Fault) -> Metadata {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    metadata.fault(fault);
    run(&root, &metadata).ends_with(0);
    assert_same(&expected(), &root.made(), "with a fault of the metadata service");
    metadata
}

#[track_caller]
fn fails(fault: Fault, code: i32, words: &[&str]) {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    metadata.fault(fault);
    // What is temporary lasts until the limit, and the words may be those of an answer within it.
    let limit: &[&str] = if code == 75 { &["--set", "timeouts.facts=3s"] } else { &[] };
    root.ask(&metadata, &[&SETTINGS, limit].concat()).ends_with(code).reports(words);
    assert_same(&Look::new(), &root.look(), "a run without facts wrote something");
}

#[test]
fn everything_that_is_needed_is_asked_for_once() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    let outcome = run(&root, &metadata).ends_with(0).prints(&["role: ", "instance tag titus:role: agent"]);
    assert!(outcome.err.contains(&format!("the metadata service is {}", metadata.endpoint())), "{}", outcome.err);
    assert!(metadata.connections() <= 8, "{} connections", metadata.connections());
    let requests = metadata.requests();
    assert!(requests.len() <= 15 && requests[0] == "PUT /latest/api/token", "{requests:#?}");
    assert!(root.read("/etc/mesos-attributes.sh").contains("id:i-0123456789abcdef0"));
    assert!(root.read("/etc/mesos-agent.config").contains("MESOS_RESOURCES=mem:8000;disk:8000;network:450\n"));
}

/// The question whether tokens are demanded: nothing else asks for this item.
const WITHOUT_TOKEN: &str = "GET /latest/meta-data/instance-id";

#[test]
fn a_service_that_demands_tokens_is_a_notice_with_the_fix() {
    let notice = "aws ec2 modify-instance-metadata-options --region eu-west-1 --instance-id i-0123456789abcdef0 --http-tokens optional";
    let asked = |required: bool, arguments: &[&str]| {
        let (root, metadata) = (Root::empty(), Metadata::start(agent()));
        metadata.require_tokens(required);
        // The address of the server that SETTINGS has.
        metadata.set("meta-data/local-ipv4", Some(b"10.0.0.1".to_vec()));
        let outcome = root.ask(&metadata, &[arguments, &SETTINGS].concat()).ends_with(0);
        assert!(metadata.connections() <= 8, "{} connections", metadata.connections());
        let count = metadata.requests().iter().filter(|request| *request == WITHOUT_TOKEN).count();
        (count, outcome.out.contains(notice))
    };
    for command in ["apply", "plan"] {
        assert_eq!(asked(true, &[command]), (1, true), "{command}");
        assert_eq!(asked(false, &[command]), (1, false), "{command}");
        // A later driver knows tokens; and no other role starts anything that does not.
        assert_eq!(asked(true, &[command, "--set", "agent.vpc_driver=any"]), (0, false), "{command}");
    }
    assert_eq!(asked(true, &["plan", "--role", "prereqs"]), (0, false));
}

#[test]
fn late_answers_give_the_same_node() {
    survives(Fault::Unavailable(1));
    let metadata = survives(Fault::Unavailable(5));
    assert!(metadata.requests().len() > 5);
    survives(Fault::Throttle);
    survives(Fault::ExpireTokenAfter(5));
    survives(Fault::Trickle(Duration::from_micros(300)));
    survives(Fault::Cut(2));
}

#[test]
fn wrong_answers_give_no_node() {
    fails(Fault::Redirect, 78, &["redirect", "login.example.com"]);
    fails(Fault::Huge(5_000_000), 78, &["more than 64 KiB"]);
    fails(Fault::InvalidUtf8("meta-data/placement/region".into()), 78, &["placement/region", "UTF-8"]);
    fails(Fault::InvalidUtf8("meta-data/tags/instance/titus:role".into()), 78, &["titus:role", "UTF-8"]);
    fails(Fault::ErrorPage, 78, &["<?xml"]);
    fails(Fault::Refuse, 75, &["403 Forbidden"]);
    fails(Fault::Hang, 75, &["within 3s"]);
    fails(Fault::Trickle(Duration::from_millis(100)), 75, &["within 3s"]);
    fails(Fault::Unavailable(u32::MAX), 75, &["503 Service Unavailable"]);
}

#[test]
fn a_proxy_is_never_asked() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    let mut command = root.program(&SETTINGS);
    command.args(["--set", "agent.resources={ mem = 1, disk = 1 }", "--set", "proxy.http=http://127.0.0.1:9"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:9");
    }
    support::root::outcome(ask(&mut command, &metadata.endpoint())).ends_with(0);
}

#[test]
fn a_configuration_of_no_bytes_is_repaired() {
    let root = Root::empty();
    for path in ["/etc/titus-executor/config.json", "/etc/mesos-attributes.sh", "/etc/mesos-agent.config"] {
        root.write(path, "");
    }
    run(&root, &Metadata::start(agent())).ends_with(0);
    assert_same(&expected(), &root.made(), "after files of no bytes");
}

#[test]
fn killed_while_it_asks_it_has_changed_nothing_and_goes_on() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    metadata.fault(Fault::Hang);
    let mut command = root.program(&SETTINGS);
    let mut child = ask(&mut command, &metadata.endpoint()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while metadata.requests().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "the run never asked the service");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_same(&Look::new(), &root.look(), "a run without facts wrote something");
    metadata.clear_faults();
    run(&root, &metadata).ends_with(0);
    assert_same(&expected(), &root.made(), "after a killed run");
}

#[test]
fn an_image_of_a_used_node_becomes_the_new_instance() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    run(&root, &metadata).ends_with(0);
    for (item, value) in [
        ("instance-id", "i-0fedcba9876543210"),
        ("placement/availability-zone", "eu-west-1c"),
        ("local-ipv4", "30.0.100.141"),
        ("mac", "0a:1b:2c:3d:4e:60"),
        ("reservation-id", "r-0fedcba9876543210"),
        ("network/interfaces/macs/0a:1b:2c:3d:4e:60/vpc-id", "vpc-0123456789abcdef0"),
        ("network/interfaces/macs/0a:1b:2c:3d:4e:60/owner-id", "123456789012"),
    ] {
        metadata.set(&format!("meta-data/{item}"), Some(value.into()));
    }
    run(&root, &metadata).ends_with(0);
    let fresh = Root::empty();
    run(&fresh, &metadata).ends_with(0);
    assert_same(&fresh.made(), &root.made(), "on an image of a used node");
    let config = root.read("/etc/mesos-agent.config");
    let mut names: Vec<_> = config.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    let lines = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), lines, "{config}");
    assert!(root.made().values().all(|look| !look.contains("i-0123456789abcdef0")));
}

#[test]
fn what_the_scripts_appended_twice_appears_once() {
    let root = Root::empty();
    let appended = "MESOS_MASTER=zk://30.0.100.194:2181/titus/mainvpc/mesos\nMESOS_PORT=5051\n\
                    MESOS_ATTRIBUTES=\"<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<title>401 - Unauthorized</title>\"\n";
    root.write("/etc/mesos-agent.config", appended.repeat(2));
    run(&root, &Metadata::start(agent())).ends_with(0);
    assert_same(&expected(), &root.made(), "over what the scripts left");
}

#[test]
fn the_region_of_a_local_zone_is_the_region() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    metadata.set("meta-data/placement/availability-zone", Some(b"us-west-2-lax-1a".to_vec()));
    metadata.set("meta-data/placement/region", Some(b"us-west-2".to_vec()));
    run(&root, &metadata).ends_with(0);
    assert!(root.read("/etc/mesos-agent.config").contains("\"region:us-west-2;zone:us-west-2-lax-1a;"));
    assert!(root.read("/etc/titus-executor/config.sh").contains("export EC2_REGION=us-west-2\n"));
}

#[test]
fn an_image_is_baked_without_any_request() {
    let (root, metadata) = (Root::empty(), Metadata::start(agent()));
    root.ask(&metadata, &["--role", "agent", "--phase", "bake"]).ends_with(0);
    assert_eq!(metadata.requests(), [""; 0]);
    assert!(!root.at("/etc/mesos-agent.config").exists() && !root.at("/etc/mesos-attributes.sh").exists());
    assert!(root.at("/lib/systemd/system/mesos-agent.service").exists());
    let wants = root.at("/etc/systemd/system/multi-user.target.wants");
    assert!(!wants.exists(), "an image in which the agent is enabled starts it with another instance's attributes");
    root.ask(&metadata, &[&SETTINGS[..], &["--phase", "boot"]].concat()).ends_with(0);
    assert_same(&expected(), &root.made(), "baked, then booted");
}
