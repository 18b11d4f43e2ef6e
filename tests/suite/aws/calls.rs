//! The request of each call, and the result of its answer.

use titus_bootstrap::ec2::api::{Bucket as Told, Outcome, Wanted};
use titus_bootstrap::error::Kind;
use titus_bootstrap::facts::Peer;
use titus_bootstrap::facts::TypeNumbers;

use super::{ID, LONG, Node, assert_error, held, lifecycle};
use crate::support::aws::Fault;
use crate::support::aws::account::{Account, Bucket, Instance, sample};

#[test]
fn tags_are_read_by_one_signed_call_over_one_connection() {
    let node = Node::new();
    let mut api = node.api(LONG);
    let tags = api.tags(ID).unwrap();
    assert_eq!(tags["aws:autoscaling:groupName"], "titusagent");
    assert_eq!(tags.len(), sample().tags[ID].len());
    assert_eq!(api.tags("i-00000000000000000").unwrap().len(), 0);
    assert_eq!(
        node.aws.requests(),
        [
            "DescribeTags Filter.1.Name=resource-id Filter.1.Value.1=i-0123456789abcdef0",
            "DescribeTags Filter.1.Name=resource-id Filter.1.Value.1=i-00000000000000000"
        ]
    );
    assert_eq!((node.aws.connections(), node.aws.most_at_once(), node.fetched()), (1, 1, 1));
}

#[test]
fn tags_come_in_pages_and_whatever_they_are_called() {
    let mut account = sample();
    let tags = account.tags.get_mut(ID).unwrap();
    tags.insert("owner/team name+é".into(), "a; \"b\" <c> & d".into());
    tags.insert("empty".into(), String::new());
    tags.insert("description".into(), "two\nlines".into());
    tags.insert("two\nlines".into(), "x".into());
    account.page = 1;
    let node = Node::with_account(account);
    let tags = node.api(LONG).tags(ID).unwrap();
    assert_eq!(tags["owner/team name+é"], "a; \"b\" <c> & d");
    assert_eq!(tags["empty"], "");
    assert!(!tags.contains_key("description") && !tags.keys().any(|key| key.contains("lines")), "{tags:?}");
    assert_eq!(node.calls(), sample().tags[ID].len() + 4);
    assert!(node.aws.requests()[1].ends_with(" NextToken=eyJ2+/1"), "{:?}", node.aws.requests());
}

#[test]
fn a_tag_that_decides_something_must_be_plain_text() {
    let mut account = sample();
    account.tags.get_mut(ID).unwrap().insert("titus:role".into(), "agent\nmaster".into());
    let words = ["the instance's tag titus:role cannot be used", "'\\n'", "change the instance's tag"];
    Node::with_account(account).fails(LONG, Kind::Config, &words);
}

#[test]
fn pages_without_end_are_given_up() {
    let body = "<DescribeTagsResponse><tagSet/><nextToken>again</nextToken></DescribeTagsResponse>";
    let node = Node::with_fault(Fault::Text(200, body.into()));
    node.fails(LONG, Kind::Config, &["the EC2 API (DescribeTags) returned an answer that does not end"]);
    assert_eq!(node.calls(), 32);
}

/// Seven servers; a node asks for four.
fn ensemble() -> Account {
    let instance = |number: u32, change: &dyn Fn(&mut Instance)| {
        let mut instance = Instance {
            id: format!("i-{number}"),
            address: format!("10.0.0.{number}"),
            state: "running".into(),
            vpc: "vpc-1".into(),
            attached: format!("2026-11-0{number}T00:00:00.000Z"),
            tags: [("titus:ensemble", "a"), ("note", "x\ny")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        change(&mut instance);
        instance
    };
    let instances = vec![
        instance(4, &|_| {}),
        instance(2, &|_| {}),
        instance(5, &|i| i.state = "terminated".into()),
        instance(3, &|_| {}),
        instance(6, &|i| i.vpc = "vpc-2".into()),
        instance(7, &|i| drop(i.tags.insert("titus:ensemble".into(), "b".into()))),
        instance(1, &|_| {}),
    ];
    Account { instances, ..Account::default() }
}

const WANTED: Wanted<'static> = Wanted { tag: "titus:ensemble", value: "a", vpc_id: Some("vpc-1") };

#[test]
fn peers_are_the_running_ones_with_the_tag_in_the_vpc() {
    for (page, calls) in [(0, 1), (3, 2), (1, 4)] {
        let node = Node::with_account(Account { page, ..ensemble() });
        let mut peers = node.api(LONG).peers(WANTED).unwrap();
        peers.sort_by(|a, b| a.launched.cmp(&b.launched));
        let expected = |number: u32| Peer {
            id: format!("i-{number}"),
            address: format!("10.0.0.{number}"),
            launched: format!("2026-11-0{number}T00:00:00.000Z"),
            tags: [("titus:ensemble".to_owned(), "a".to_owned())].into(),
        };
        assert_eq!(peers, [1, 2, 3, 4].map(expected));
        assert_eq!(node.calls(), calls);
        assert_eq!(
            node.aws.requests()[0],
            "DescribeInstances Filter.1.Name=tag:titus:ensemble Filter.1.Value.1=a Filter.2.Name=instance-state-name \
             Filter.2.Value.1=running Filter.3.Name=vpc-id Filter.3.Value.1=vpc-1 MaxResults=100"
        );
    }
}

#[test]
fn a_false_peer_is_refused_by_name() {
    let mut account = ensemble();
    account.instances[1].address = "10.0.0.2;reboot".into();
    let failure = Node::with_account(account).api(LONG).peers(WANTED).unwrap_err();
    let words = ["the EC2 API (DescribeInstances): privateIpAddress cannot be used", "it is not an IPv4 address"];
    assert_error(&failure.error, Kind::Config, &words);
}

#[test]
fn the_numbers_of_a_type_are_asked_for() {
    let numbers = TypeNumbers { max_enis: 8, ipv4_per_eni: 30, network_mbps: Some(12500) };
    let node = Node::with_account(Account { types: [("m9.large".into(), numbers)].into(), ..Account::default() });
    let mut api = node.api(LONG);
    assert_eq!(api.instance_type("m9.large").unwrap(), Some(numbers));
    assert_eq!(api.instance_type("m10.large").unwrap(), None);
    assert_eq!(node.aws.requests()[0], "DescribeInstanceTypes InstanceType.1=m9.large");
}

#[test]
fn a_lifecycle_action_is_prolonged_and_ended() {
    let node = Node::with_account(held());
    let mut api = node.api(LONG);
    assert!(api.heartbeat(&lifecycle()).unwrap());
    assert!(api.complete(&lifecycle(), Outcome::Continue).unwrap());
    // The lifecycle action is over, which is not a failure.
    assert!(!api.complete(&lifecycle(), Outcome::Abandon).unwrap());
    assert!(!api.heartbeat(&lifecycle()).unwrap());
    let of = "AutoScalingGroupName=titusagent LifecycleHookName=titus-ready InstanceId=i-0123456789abcdef0";
    assert_eq!(
        node.aws.requests()[..3],
        [
            format!("RecordLifecycleActionHeartbeat {of}"),
            format!("CompleteLifecycleAction {of} LifecycleActionResult=CONTINUE"),
            format!("CompleteLifecycleAction {of} LifecycleActionResult=ABANDON"),
        ]
    );
    api.mark_unhealthy(ID).unwrap();
    assert!(node.aws.account(|account| account.unhealthy.contains(ID)));
    assert!(node.aws.requests()[4].ends_with("HealthStatus=Unhealthy ShouldRespectGracePeriod=false"));
}

#[test]
fn a_lifecycle_action_that_was_ended_by_a_call_without_an_answer_is_over() {
    let node = Node::with_account(held());
    node.aws.fault(Fault::Cut(1));
    assert!(!node.api(LONG).complete(&lifecycle(), Outcome::Continue).unwrap());
    assert!(node.aws.account(|account| account.held.is_empty()));
    assert_eq!(node.calls(), 2);
}

#[test]
fn a_bucket_is_there_or_forbidden_or_elsewhere_or_missing() {
    let buckets = [
        ("logs.example", Bucket::There, Told::There),
        ("another-s", Bucket::Forbidden, Told::Forbidden),
        ("moved", Bucket::In("us-east-1".into()), Told::Elsewhere),
        ("far", Bucket::Malformed("us-east-1".into()), Told::Elsewhere),
    ];
    let known = buckets.iter().map(|(name, bucket, _)| ((*name).to_owned(), bucket.clone())).collect();
    let node = Node::with_account(Account { buckets: known, ..Account::default() });
    let mut api = node.api(LONG);
    for (name, _, expected) in buckets {
        assert_eq!(api.bucket(name).unwrap(), expected, "{name}");
    }
    assert_eq!(api.bucket("nobody-s").unwrap(), Told::Missing);
    assert_eq!((node.calls(), node.fetched()), (5, 1));
    assert_eq!(node.aws.requests()[0], "HEAD /logs.example");
    for wrong in ["", "a/b", "..", "a?b", "a b", "é", "-a"] {
        let failure = api.bucket(wrong).unwrap_err();
        assert_error(&failure.error, Kind::Config, &["is not the name of a bucket"]);
    }
    assert_eq!(node.calls(), 5);
}

#[test]
fn a_bucket_check_uses_current_credentials() {
    let node = Node::with_account(Account { buckets: [("logs".into(), Bucket::There)].into(), ..Account::default() });
    node.aws.fault(Fault::Expired(1));
    assert_eq!(node.api(LONG).bucket("logs").unwrap(), Told::There);
    assert_eq!(node.fetched(), 2);
    node.aws.fault(Fault::Expired(u32::MAX));
    let failure = node.api(LONG).bucket("logs").unwrap_err();
    assert_error(
        &failure.error,
        Kind::Config,
        &["S3 (HeadBucket logs) does not accept this instance's signature", "400"],
    );
}
