//! The calls to AWS's APIs, with everything that can be wrong with them, and what the user reads then.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::cell::RefCell;
use std::io::Write;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::aws::account::{Account, Bucket, Instance, sample};
use support::aws::{Aws, Fault, Keys};
use support::metadata::{self, Metadata};
use titus_bootstrap::error::{Error, Kind};
use titus_bootstrap::facts::aws::{Api, Failure, Lifecycle, Outcome, Peer, Wanted};
use titus_bootstrap::facts::{TypeNumbers, imds};
use titus_bootstrap::host::net::Proxy;

/// The sample instance.
const ID: &str = "i-0123456789abcdef0";

/// Enough for an API that answers in the end.
const LONG: Duration = Duration::from_secs(60);

/// Enough to see that it never will.
const SHORT: Duration = Duration::from_secs(1);

thread_local! {
    /// What was said while it was waited.
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// An instance with its profile, and the APIs that it may call.
struct Node {
    metadata: Metadata,
    aws: Aws,
}

impl Node {
    fn new() -> Node {
        Node::of(sample())
    }

    fn of(account: Account) -> Node {
        let keys = Keys::new(1);
        let node = Node { metadata: Metadata::start(metadata::sample()), aws: Aws::start(account, &keys) };
        node.profile(&keys);
        node
    }

    fn with(fault: Fault) -> Node {
        let node = Node::new();
        node.aws.fault(fault);
        node
    }

    /// The metadata service has these credentials from now on.
    fn profile(&self, keys: &Keys) {
        keys.items().into_iter().for_each(|(path, value)| self.metadata.set(&path, Some(value)));
    }

    fn api(&self, limit: Duration) -> Api {
        self.api_at(limit, &self.aws.endpoint(), &Proxy::default())
    }

    fn api_at(&self, limit: Duration, address: &str, proxy: &Proxy) -> Api {
        // What the program's main does first; an error means that another test has done it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = imds::Endpoint::at(&self.metadata.endpoint()).unwrap();
        let mut api = Api::new(&endpoint, "eu-west-1", proxy, limit).unwrap();
        let address = address.to_owned();
        api.variable = Box::new(move |name| (name == "AWS_ENDPOINT_URL").then(|| address.clone()));
        api.backoff = |_| Duration::from_millis(20);
        api.say = |line| SAID.with_borrow_mut(|said| said.push(line.to_owned()));
        api
    }

    /// How often credentials were fetched.
    fn fetched(&self) -> usize {
        self.metadata.requests().iter().filter(|line| line.ends_with("/security-credentials/titus-node")).count()
    }

    fn calls(&self) -> usize {
        self.aws.requests().len()
    }

    /// Asks for the tags, which must fail in this way, in these words.
    #[track_caller]
    fn fails(&self, limit: Duration, kind: Kind, words: &[&str]) -> Failure {
        let started = Instant::now();
        let failure = self.api(limit).tags(ID).unwrap_err();
        assert!(started.elapsed() < limit + Duration::from_secs(5), "it took {:?}", started.elapsed());
        tells(&failure.error, kind, words);
        failure
    }
}

#[track_caller]
fn tells(error: &Error, kind: Kind, words: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "no {word:?} in:\n{error}");
    }
}

fn lifecycle() -> Lifecycle {
    Lifecycle { group: "titusagent".into(), hook: "titus-ready".into(), instance: ID.into() }
}

/// The account with the sample instance held by its hook.
fn held() -> Account {
    Account { held: [["titusagent", "titus-ready", ID].map(str::to_owned)].into(), ..sample() }
}

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
    let node = Node::of(account);
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
    Node::of(account).fails(LONG, Kind::Config, &words);
}

#[test]
fn a_denied_call_is_not_repeated_and_names_what_to_allow() {
    let node = Node::with(Fault::Deny("DescribeTags"));
    let failure = node.fails(
        LONG,
        Kind::Config,
        &[
            "the EC2 API (DescribeTags) is not allowed to this instance",
            "UnauthorizedOperation: You are not authorized to perform this operation. User: arn:aws:sts::",
            "is not authorized to perform: ec2:DescribeTags because",
            "add this statement to the policy of the instance profile's role:",
            r#"{ "Effect": "Allow", "Action": "ec2:DescribeTags", "Resource": "*" }"#,
        ],
    );
    assert!(failure.is_denied());
    assert!(!failure.error.to_string().contains("Encoded"), "{}", failure.error);
    assert_eq!(node.calls(), 1);

    let node = Node::of(held());
    node.aws.fault(Fault::Deny("CompleteLifecycleAction"));
    let failure = node.api(LONG).complete(&lifecycle(), Outcome::Continue).unwrap_err();
    let statement = r#"{ "Effect": "Allow", "Action": "autoscaling:CompleteLifecycleAction", "Resource": "*" }"#;
    let words =
        ["the Auto Scaling API (CompleteLifecycleAction) is not allowed to this instance", "AccessDenied: ", statement];
    tells(&failure.error, Kind::Config, &words);
    assert!(failure.is_denied());
    assert_eq!(node.calls(), 1);
}

#[test]
fn without_a_profile_nothing_is_asked() {
    let node = Node::new();
    node.metadata.set("meta-data/iam/security-credentials/titus-node", None);
    let words = [
        "the EC2 API (DescribeTags) cannot be asked: this instance has no instance profile",
        "IMDS has no item iam/security-credentials",
        "give the instance a profile",
    ];
    assert!(node.fails(LONG, Kind::Config, &words).is_denied());
    assert_eq!(node.calls(), 0);
}

#[test]
fn a_profile_without_credentials_says_why() {
    let node = Node::new();
    let item = "meta-data/iam/security-credentials/titus-node";
    let document = r#"{"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role titus-node."}"#;
    node.metadata.set(item, Some(document.into()));
    let words = [
        "iam/security-credentials/titus-node has no credentials",
        "AssumeRoleUnauthorizedAccess: EC2 cannot assume the role titus-node.",
        "lets ec2.amazonaws.com assume it",
    ];
    node.fails(LONG, Kind::Config, &words);
    node.metadata.set(item, Some("hush <html>".into()));
    let failure = node.fails(LONG, Kind::Config, &["it is not what EC2 writes there"]);
    assert!(!failure.error.to_string().contains("hush"));
    assert_eq!(node.calls(), 0);
}

#[test]
fn a_metadata_service_that_is_silent_is_left_at_the_deadline() {
    let node = Node::new();
    node.metadata.fault(metadata::Fault::Unavailable(u32::MAX));
    let words = ["instance metadata: no usable answer from", "iam/security-credentials/", "503 Service Unavailable"];
    node.fails(SHORT, Kind::TemporaryFailure, &words);
}

#[test]
fn a_throttling_api_is_asked_again() {
    let node = Node::of(held());
    let mut api = node.api(LONG);
    node.aws.fault(Fault::Throttle(3));
    api.tags(ID).unwrap();
    assert_eq!(node.calls(), 4);
    // In the words of Auto Scaling, with status 400, and of S3.
    node.aws.fault(Fault::Throttle(2));
    assert!(api.heartbeat(&lifecycle()).unwrap());
    node.aws.fault(Fault::Throttle(2));
    assert_eq!(api.bucket("logs").unwrap(), titus_bootstrap::facts::aws::Bucket::Missing);
    assert_eq!((node.calls(), node.fetched()), (10, 1));

    let node = Node::with(Fault::Throttle(u32::MAX));
    let words = [
        "the EC2 API (DescribeTags) gave no answer within 1s",
        &format!("asked {} ", node.aws.endpoint()),
        "times; the last answer: 503 RequestLimitExceeded",
        "see whether this subnet has a way there (NAT, a VPC endpoint, or the settings proxy.*)",
    ];
    assert!(!node.fails(SHORT, Kind::TemporaryFailure, &words).is_denied());
    assert!(node.calls() > 3);
}

#[test]
fn the_deadline_is_that_of_all_calls_until_more_is_allowed() {
    let node = Node::new();
    let mut api = node.api(Duration::ZERO);
    let failure = api.tags(ID).unwrap_err();
    tells(&failure.error, Kind::TemporaryFailure, &["asked http", " 0 times; the last answer: nothing, for the time"]);
    assert_eq!(node.calls(), 0);
    api.allow(LONG);
    api.tags(ID).unwrap();
}

#[test]
fn what_breaks_on_the_way_is_asked_again() {
    for (fault, words) in [
        (Fault::Unavailable as fn(u32) -> Fault, "the last answer: 503"),
        (Fault::Close, "the last answer: "),
        (Fault::Cut, "the last answer: "),
    ] {
        let node = Node::with(fault(3));
        node.api(LONG).tags(ID).unwrap();
        assert!(node.calls() >= 4, "{}", node.calls());
        Node::with(fault(u32::MAX)).fails(SHORT, Kind::TemporaryFailure, &[words]);
    }
}

#[test]
fn nobody_there_is_waited_for() {
    let node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let failure = node.api_at(SHORT, &address, &Proxy::default()).tags(ID).unwrap_err();
    tells(&failure.error, Kind::TemporaryFailure, &[&address, "Connection refused"]);
}

#[test]
fn a_slow_answer_is_read_to_its_end_or_to_the_deadline() {
    Node::with(Fault::Trickle(Duration::from_micros(200))).api(LONG).tags(ID).unwrap();
    let words = ["within 1s", "asked", "1 times; the last answer: nothing whole within 1 s"];
    Node::with(Fault::Trickle(Duration::from_millis(200))).fails(SHORT, Kind::TemporaryFailure, &words);
    Node::with(Fault::Hang).fails(SHORT, Kind::TemporaryFailure, &words);
}

#[test]
fn a_wait_is_spoken_of() {
    let node = Node::with(Fault::Throttle(u32::MAX));
    node.fails(Duration::from_secs(4), Kind::TemporaryFailure, &[]);
    let said = SAID.take();
    assert_eq!(said.len(), 1, "{said:?}");
    let start = format!("waiting for the EC2 API (DescribeTags) at {}: 503 RequestLimitEx", node.aws.endpoint());
    assert!(
        said[0].starts_with(&start) && said[0].contains(", until 20") && said[0].ends_with(" s from now"),
        "{said:?}"
    );
}

#[test]
fn expired_credentials_are_fetched_anew_once() {
    let node = Node::with(Fault::Expired(1));
    node.api(LONG).tags(ID).unwrap();
    assert_eq!((node.calls(), node.fetched()), (2, 2));

    let node = Node::with(Fault::Expired(u32::MAX));
    let words = [
        "the EC2 API (DescribeTags) does not accept this instance's signature",
        "RequestExpired: Request has expired.",
        "see whether the clock is right (date --utc), and whether the instance profile's role still exists",
    ];
    assert!(!node.fails(LONG, Kind::Config, &words).is_denied());
    assert_eq!((node.calls(), node.fetched()), (2, 2));
}

#[test]
fn credentials_that_were_replaced_are_fetched_anew() {
    let node = Node::new();
    let mut api = node.api(LONG);
    api.tags(ID).unwrap();
    let next = Keys::new(2);
    node.aws.accept(&next);
    node.profile(&next);
    api.tags(ID).unwrap();
    assert_eq!((node.calls(), node.fetched()), (3, 2));
}

#[test]
fn credentials_are_fetched_anew_before_they_expire() {
    let node = Node::new();
    node.profile(&Keys::new(1).lasting(Duration::from_secs(180)));
    let mut api = node.api(LONG);
    api.tags(ID).unwrap();
    let next = Keys::new(2);
    node.profile(&next);
    node.aws.accept(&next);
    // No call was made in vain.
    api.tags(ID).unwrap();
    api.tags(ID).unwrap();
    assert_eq!((node.calls(), node.fetched()), (3, 2));
}

#[test]
fn credentials_that_are_still_good_do_without_the_metadata_service() {
    let node = Node::new();
    node.profile(&Keys::new(1).lasting(Duration::from_secs(180)));
    let mut api = node.api(LONG);
    api.tags(ID).unwrap();
    node.metadata.fault(metadata::Fault::Unavailable(u32::MAX));
    api.tags(ID).unwrap();
}

#[test]
fn a_wrong_clock_is_found_and_forgotten() {
    for hours in [-3, 5] {
        let node = Node::of(held());
        node.aws.account(|account| account.buckets.insert("logs".into(), Bucket::There));
        node.aws.fault(Fault::Clock(hours * 3600));
        let mut api = node.api(LONG);
        api.tags(ID).unwrap();
        assert_eq!(node.calls(), 2);
        assert!(api.heartbeat(&lifecycle()).unwrap());
        assert_eq!(api.bucket("logs").unwrap(), titus_bootstrap::facts::aws::Bucket::There);
        assert_eq!(node.calls(), 4);
        // The clock of the machine was set right meanwhile.
        node.aws.mend();
        api.tags(ID).unwrap();
        api.tags(ID).unwrap();
        assert_eq!(node.calls(), 7);
        // Each service says it in its own way; S3 says nothing but 403.
        node.aws.fault(Fault::Clock(hours * 3600));
        assert!(node.api(LONG).heartbeat(&lifecycle()).unwrap());
        assert_eq!(node.api(LONG).bucket("logs").unwrap(), titus_bootstrap::facts::aws::Bucket::There);
        assert_eq!(node.calls(), 11);
    }
}

#[test]
fn a_wrong_secret_is_an_error_that_shows_none() {
    let node = Node::new();
    node.profile(&Keys { secret: "of-somebody-else".into(), ..Keys::new(1) });
    let words = ["does not accept this instance's signature", "AuthFailure: AWS was not able to validate"];
    let failure = node.fails(LONG, Kind::Config, &words);
    assert!(!failure.error.to_string().contains("of-somebody-else"));
    let failure = node.api(LONG).heartbeat(&lifecycle()).unwrap_err();
    tells(&failure.error, Kind::Config, &["SignatureDoesNotMatch: The request signature we calculated"]);
    node.profile(&Keys::new(7));
    let failure = node.api(LONG).heartbeat(&lifecycle()).unwrap_err();
    tells(
        &failure.error,
        Kind::Config,
        &["InvalidClientTokenId: The security token included in the request is invalid."],
    );
}

#[test]
fn an_answer_that_is_none_of_the_api_s_is_refused_at_once() {
    let cases = [
        (200, "<!DOCTYPE html><title>Log in</title>".into(), "it is no XML ("),
        (200, "<html xmlns=\"http://www.w3.org/1999/xhtml\"><body/></html>".into(), "it is a document \"html\""),
        (200, "<DescribeInstancesResponse/>".into(), "it is a document \"DescribeInstancesResponse\""),
        (200, String::new(), "it is no XML ("),
        (200, "{\"tags\":\n\t[]}".into(), "the answer begins with \"{\\\"tags\\\":[]}\""),
        (200, "<a>".repeat(1 << 20), "it is no XML ("),
        (200, "x".repeat(9 << 20), "it has more than 8 MiB; the answer begins with \"xxxx"),
        (
            200,
            "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><DescribeTagsResponse>&c;</DescribeTagsResponse>"
                .into(),
            "it is no XML (",
        ),
        (302, "moved".into(), "status 302; the answer begins with \"moved\""),
        (404, "<html>no</html>".into(), "status 404; the answer begins with \"<html>no"),
        (403, "blocked by policy".into(), "status 403; the answer begins with \"blocked"),
    ];
    for (status, body, why) in cases {
        let node = Node::with(Fault::Text(status, body));
        let what = "the EC2 API (DescribeTags) gave an answer that is none of its own";
        node.fails(LONG, Kind::Config, &[what, why, "look for a proxy or another service at that address"]);
        assert_eq!(node.calls(), 1, "{why}");
    }
}

#[test]
fn an_error_s_document_is_an_error_whatever_the_status() {
    let body = "<Response><Errors><Error><Code>OptInRequired</Code><Message>Not\nsubscribed</Message></Error></Errors></Response>";
    for status in [200, 400] {
        let node = Node::with(Fault::Text(status, body.into()));
        let words = ["the EC2 API (DescribeTags) refused the call", "OptInRequired: Not subscribed"];
        let failure = node.fails(LONG, Kind::Config, &words);
        assert_eq!((failure.code.as_deref(), node.calls()), (Some("OptInRequired"), 1));
    }
}

#[test]
fn pages_without_end_are_left() {
    let body = "<DescribeTagsResponse><tagSet/><nextToken>again</nextToken></DescribeTagsResponse>";
    let node = Node::with(Fault::Text(200, body.into()));
    node.fails(LONG, Kind::Config, &["the EC2 API (DescribeTags) gave an answer that does not end"]);
    assert_eq!(node.calls(), 16);
}

/// Seven servers of which four are wanted.
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
        let node = Node::of(Account { page, ..ensemble() });
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
             Filter.2.Value.1=running Filter.3.Name=vpc-id Filter.3.Value.1=vpc-1 MaxResults=1000"
        );
    }
}

#[test]
fn a_peer_that_is_none_is_refused_by_name() {
    let mut account = ensemble();
    account.instances[1].address = "10.0.0.2;reboot".into();
    let failure = Node::of(account).api(LONG).peers(WANTED).unwrap_err();
    let words = ["the EC2 API (DescribeInstances): privateIpAddress cannot be used", "it is not an IPv4 address"];
    tells(&failure.error, Kind::Config, &words);
}

#[test]
fn the_numbers_of_a_type_are_asked_for() {
    let numbers = TypeNumbers { max_enis: 8, ipv4_per_eni: 30, network_mbps: Some(12500) };
    let node = Node::of(Account { types: [("m9.large".into(), numbers)].into(), ..Account::default() });
    let mut api = node.api(LONG);
    assert_eq!(api.instance_type("m9.large").unwrap(), Some(numbers));
    assert_eq!(api.instance_type("m10.large").unwrap(), None);
    assert_eq!(node.aws.requests()[0], "DescribeInstanceTypes InstanceType.1=m9.large");
}

#[test]
fn a_lifecycle_action_is_prolonged_and_ended() {
    let node = Node::of(held());
    let mut api = node.api(LONG);
    assert!(api.heartbeat(&lifecycle()).unwrap());
    assert!(api.complete(&lifecycle(), Outcome::Continue).unwrap());
    // It is over: that is no failure.
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
fn a_bucket_is_there_or_forbidden_or_elsewhere_or_missing() {
    use titus_bootstrap::facts::aws::Bucket as Told;
    let buckets = [
        ("logs.example", Bucket::There, Told::There),
        ("another-s", Bucket::Forbidden, Told::Forbidden),
        ("moved", Bucket::In("us-east-1".into()), Told::Elsewhere),
        ("far", Bucket::Malformed("us-east-1".into()), Told::Elsewhere),
    ];
    let known = buckets.iter().map(|(name, bucket, _)| ((*name).to_owned(), bucket.clone())).collect();
    let node = Node::of(Account { buckets: known, ..Account::default() });
    let mut api = node.api(LONG);
    for (name, _, told) in buckets {
        assert_eq!(api.bucket(name).unwrap(), told, "{name}");
    }
    assert_eq!(api.bucket("nobody-s").unwrap(), Told::Missing);
    assert_eq!((node.calls(), node.fetched()), (5, 1));
    assert_eq!(node.aws.requests()[0], "HEAD /logs.example");
    for wrong in ["", "a/b", "..", "a?b", "a b", "é", "-a"] {
        let failure = api.bucket(wrong).unwrap_err();
        tells(&failure.error, Kind::Config, &["is no name of a bucket"]);
    }
    assert_eq!(node.calls(), 5);
}

#[test]
fn a_bucket_is_asked_for_with_credentials_of_now() {
    let node = Node::of(Account { buckets: [("logs".into(), Bucket::There)].into(), ..Account::default() });
    node.aws.fault(Fault::Expired(1));
    assert_eq!(node.api(LONG).bucket("logs").unwrap(), titus_bootstrap::facts::aws::Bucket::There);
    assert_eq!(node.fetched(), 2);
    node.aws.fault(Fault::Expired(u32::MAX));
    let failure = node.api(LONG).bucket("logs").unwrap_err();
    tells(&failure.error, Kind::Config, &["S3 (HeadBucket logs) does not accept this instance's signature", "400"]);
}

#[test]
fn the_partition_s_domain_is_that_of_the_metadata_service() {
    let node = Node::new();
    node.metadata.set("meta-data/services/domain", Some(b"c2s.invalid".to_vec()));
    let mut api = node.api(SHORT);
    api.variable = Box::new(|_| None);
    let error = Error::from(api.tags(ID).unwrap_err());
    assert!(error.to_string().contains("https://ec2.eu-west-1.c2s.invalid"), "{error}");
}

#[test]
fn the_proxy_of_the_settings_is_used_but_for_some_names() {
    let node = Node::new();
    let mut proxy = Proxy { http: Some(node.aws.endpoint()), ..Proxy::default() };
    node.api_at(LONG, "http://ec2.invalid", &proxy).tags(ID).unwrap();
    assert_eq!(node.calls(), 1);
    proxy.no_proxy = Some("ec2.invalid".into());
    let failure = node.api_at(SHORT, "http://ec2.invalid", &proxy).tags(ID).unwrap_err();
    tells(&failure.error, Kind::TemporaryFailure, &["http://ec2.invalid"]);
    assert_eq!(node.calls(), 1);

    let proxy = Proxy { http: Some("http://user:hush@127.0.0.1:9".into()), ..Proxy::default() };
    let failure = node.api_at(SHORT, "http://ec2.invalid", &proxy).tags(ID).unwrap_err();
    tells(&failure.error, Kind::TemporaryFailure, &["Connection refused"]);
    assert!(!failure.error.to_string().contains("hush"), "{}", failure.error);
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_secret_is_told() {
    let log = Log::default();
    let writer = log.clone();
    // `--verbose` has DEBUG; TRACE is more.
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    let subscriber = subscriber.with_writer(move || writer.clone()).finish();
    let mut told = String::new();
    tracing::subscriber::with_default(subscriber, || {
        for fault in [
            Fault::Throttle(1),
            Fault::Deny("DescribeTags"),
            Fault::Expired(u32::MAX),
            Fault::Clock(7200),
            Fault::Close(u32::MAX),
            Fault::Text(200, "<html/>".into()),
            Fault::Text(500, "<html/>".into()),
        ] {
            let node = Node::with(fault);
            match node.api(Duration::from_millis(200)).tags(ID) {
                Ok(tags) => told += &format!("{tags:?}"),
                Err(failure) => told += &format!("{failure:?} {}", failure.error),
            }
        }
    });
    told += &SAID.take().concat();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("this machine's clock differs from AWS's by 7"), "{log}");
    let keys = Keys::new(1);
    for (name, secret) in [("secret", &keys.secret), ("token", &keys.token)] {
        assert!(!told.contains(secret), "the {name} is in:\n{told}");
        assert!(!log.contains(secret), "the {name} is in:\n{log}");
    }
}

/// Variables can only be set for another process: the test starts itself with them.
#[test]
fn the_environment_names_the_endpoints() {
    const INNER: &str = "TITUS_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = imds::Endpoint::from_env().unwrap();
        let tags = Api::new(&endpoint, "eu-west-1", &Proxy::default(), LONG).unwrap().tags(ID);
        match tags {
            Ok(tags) => assert!(!tags.is_empty()),
            Err(failure) => panic!("{}", failure.error),
        }
        return;
    }
    let node = Node::new();
    let inner = |address: &str, disabled: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_environment_names_the_endpoints"]).env(INNER, "1");
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", node.metadata.endpoint());
        command.env("AWS_EC2_METADATA_DISABLED", disabled).env("AWS_ENDPOINT_URL_EC2", address);
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        let output = command.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (good, told) = inner(&node.aws.endpoint(), "false");
    assert!(good && node.calls() == 1, "{told}");
    let (good, told) = inner("here", "false");
    assert!(!good && told.contains("AWS_ENDPOINT_URL_EC2 must not be \"here\""), "{told}");
    let asked = node.metadata.requests().len();
    let (good, told) = inner(&node.aws.endpoint(), "true");
    assert!(!good && told.contains("AWS_EC2_METADATA_DISABLED=true forbids"), "{told}");
    assert_eq!((node.calls(), node.metadata.requests().len()), (1, asked));
}
