//! The calls to AWS's APIs, with everything that can be wrong with them, and what the user reads then.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod calls;
mod credentials;
use crate::support;

use std::time::{Duration, Instant};

use support::aws::account::{Account, sample};
use support::aws::{Aws, Fault, Keys};
use support::door::Closed;
use support::log::heard;
use support::metadata::{self, Metadata};
use titus_bootstrap::ec2::api::{Api, Bucket, Failure, Lifecycle, Outcome};
use titus_bootstrap::ec2::imds;
use titus_bootstrap::error::{Error, Kind};
use titus_bootstrap::host::net::Proxy;
use tracing::Level;

/// The sample instance.
const ID: &str = "i-0123456789abcdef0";

/// Enough for an API that answers in the end.
const LONG: Duration = Duration::from_secs(60);

/// Enough to see that it never will, after a few answers.
const SHORT: Duration = Duration::from_secs(3);

/// An instance with its profile, and the APIs that it may call.
struct Node {
    metadata: Metadata,
    aws: Aws,
}

impl Node {
    fn new() -> Node {
        Node::with_account(sample())
    }

    fn with_account(account: Account) -> Node {
        let keys = Keys::new(1);
        let node = Node { metadata: Metadata::start(metadata::sample()), aws: Aws::start(account, &keys) };
        node.profile(&keys);
        node
    }

    fn with_fault(fault: Fault) -> Node {
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
        let mut api = Api::new(&endpoint, "eu-west-1", proxy, limit);
        let address = address.to_owned();
        api.variable = Box::new(move |name| (name == "AWS_ENDPOINT_URL").then(|| address.clone()));
        api.backoff = |_| Duration::from_millis(20);
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
        assert!(started.elapsed() < limit + LONG, "it took {:?}", started.elapsed());
        assert_error(&failure.error, kind, words);
        failure
    }
}

#[track_caller]
fn assert_error(error: &Error, kind: Kind, words: &[&str]) {
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
fn a_denied_call_is_not_repeated_and_names_what_to_allow() {
    let node = Node::with_fault(Fault::Deny("DescribeTags"));
    let failure = node.fails(
        LONG,
        Kind::Config,
        &[
            "the EC2 API (DescribeTags) is not allowed for this instance",
            "UnauthorizedOperation: You are not authorized to perform this operation. User: arn:aws:sts::",
            "is not authorized to perform: ec2:DescribeTags because",
            "add this statement to the policy of the instance profile's role:",
            r#"{ "Effect": "Allow", "Action": "ec2:DescribeTags", "Resource": "*" }"#,
        ],
    );
    assert!(failure.is_denied());
    assert!(!failure.error.to_string().contains("Encoded"), "{}", failure.error);
    assert_eq!(node.calls(), 1);

    let node = Node::with_account(held());
    node.aws.fault(Fault::Deny("CompleteLifecycleAction"));
    let failure = node.api(LONG).complete(&lifecycle(), Outcome::Continue).unwrap_err();
    let statement = r#"{ "Effect": "Allow", "Action": "autoscaling:CompleteLifecycleAction", "Resource": "*" }"#;
    let words = [
        "the Auto Scaling API (CompleteLifecycleAction) is not allowed for this instance",
        "AccessDenied: ",
        statement,
    ];
    assert_error(&failure.error, Kind::Config, &words);
    assert!(failure.is_denied());
    assert_eq!(node.calls(), 1);
}

#[test]
fn a_throttling_api_is_asked_again() {
    let node = Node::with_account(held());
    let mut api = node.api(LONG);
    node.aws.fault(Fault::Throttle(3));
    api.tags(ID).unwrap();
    assert_eq!(node.calls(), 4);
    // In the words of Auto Scaling, with status 400, and of S3.
    node.aws.fault(Fault::Throttle(2));
    assert!(api.heartbeat(&lifecycle()).unwrap());
    node.aws.fault(Fault::Throttle(2));
    assert_eq!(api.bucket("logs").unwrap(), Bucket::Missing);
    assert_eq!((node.calls(), node.fetched()), (10, 1));

    let node = Node::with_fault(Fault::Throttle(u32::MAX));
    let words = [
        "the EC2 API (DescribeTags) gave no answer within 3s",
        &format!("asked {} ", node.aws.endpoint()),
        "times; the last answer: 503 RequestLimitExceeded",
        "check whether this subnet has a route there (NAT, a VPC endpoint, or the settings proxy.*)",
    ];
    assert!(!node.fails(SHORT, Kind::TemporaryFailure, &words).is_denied());
    assert!(node.calls() > 3);
}

#[test]
fn the_deadline_is_that_of_all_calls_until_more_is_allowed() {
    let node = Node::new();
    let mut api = node.api(Duration::ZERO);
    let failure = api.tags(ID).unwrap_err();
    assert_error(
        &failure.error,
        Kind::TemporaryFailure,
        &["asked http", " 0 times; the last answer: none, because the time"],
    );
    assert_eq!(node.calls(), 0);
    api.set_limit(LONG);
    api.tags(ID).unwrap();
}

#[test]
fn a_broken_answer_is_requested_again() {
    for (fault, words) in [
        (Fault::Unavailable as fn(u32) -> Fault, "the last answer: 503"),
        (Fault::Close, "the last answer: "),
        (Fault::Cut, "the last answer: "),
    ] {
        let node = Node::with_fault(fault(3));
        node.api(LONG).tags(ID).unwrap();
        assert!(node.calls() >= 4, "{}", node.calls());
        Node::with_fault(fault(u32::MAX)).fails(SHORT, Kind::TemporaryFailure, &[words]);
    }
}

#[test]
fn nobody_there_is_waited_for() {
    let node = Node::new();
    let nobody = Closed::new();
    let address = format!("http://{}", nobody.address());
    let failure = node.api_at(SHORT, &address, &Proxy::default()).tags(ID).unwrap_err();
    assert_error(&failure.error, Kind::TemporaryFailure, &[&address, "Connection refused"]);
}

#[test]
fn a_slow_answer_is_read_to_its_end_or_to_the_deadline() {
    Node::with_fault(Fault::Trickle(Duration::from_micros(200))).api(LONG).tags(ID).unwrap();
    let words = ["within 3s", "asked", "1 times; the last answer: no complete answer within "];
    Node::with_fault(Fault::Trickle(Duration::from_millis(200))).fails(SHORT, Kind::TemporaryFailure, &words);
    Node::with_fault(Fault::Hang).fails(SHORT, Kind::TemporaryFailure, &words);
}

#[test]
fn a_wait_is_reported() {
    let node = Node::with_fault(Fault::Throttle(u32::MAX));
    let limit = Duration::from_secs(6);
    let (_, lines) = heard(Level::INFO, || node.fails(limit, Kind::TemporaryFailure, &[]));
    assert_eq!(lines.len(), 1, "{lines:?}");
    let place = format!("still waiting for the EC2 API (DescribeTags) at {}", node.aws.endpoint());
    let words = format!("{place}: 503 RequestLimitExceeded, ");
    assert!(lines[0].contains(&words) && lines[0].ends_with(" s of 6\n"), "{lines:?}");
}

#[test]
fn a_wait_in_the_background_is_silent() {
    let node = Node::with_fault(Fault::Throttle(u32::MAX));
    // Longer than the waits that have no lines in any case.
    let mut api = node.api(Duration::from_secs(6));
    api.quiet = true;
    let (_, lines) = heard(Level::INFO, || api.tags(ID).unwrap_err());
    assert_eq!(lines, [""; 0]);
}

#[test]
fn an_answer_that_is_not_the_api_s_is_refused_at_once() {
    let cases = [
        (200, "<!DOCTYPE html><title>Log in</title>".into(), "it is not XML ("),
        (200, "<html xmlns=\"http://www.w3.org/1999/xhtml\"><body/></html>".into(), "it is a document \"html\""),
        (200, "<DescribeInstancesResponse/>".into(), "it is a document \"DescribeInstancesResponse\""),
        (200, String::new(), "it is not XML ("),
        (200, "{\"tags\":\n\t[]}".into(), "the answer begins with \"{\\\"tags\\\":[]}\""),
        (200, "<a>".repeat(1 << 20), "it has more than 2048 KiB"),
        (200, "<a>".repeat(1 << 17), "it has more than 60000 tags"),
        (200, "x".repeat(9 << 20), "it has more than 2048 KiB; the answer begins with \"xxxx"),
        (
            200,
            "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><DescribeTagsResponse>&c;</DescribeTagsResponse>"
                .into(),
            "it is not XML (",
        ),
        (302, "moved".into(), "status 302; the answer begins with \"moved\""),
        (404, "<html>no</html>".into(), "status 404; the answer begins with \"<html>no"),
        (403, "blocked by policy".into(), "status 403; the answer begins with \"blocked"),
    ];
    for (status, body, why) in cases {
        let node = Node::with_fault(Fault::Text(status, body));
        let what = "the EC2 API (DescribeTags) returned an unexpected response";
        node.fails(LONG, Kind::Config, &[what, why, "look for a proxy or another service at that address"]);
        assert_eq!(node.calls(), 1, "{why}");
    }
}

#[test]
fn a_body_without_end_is_given_up_at_once() {
    let node = Node::with_fault(Fault::Endless);
    node.fails(
        LONG,
        Kind::Config,
        &["unexpected response", "it has more than 2048 KiB; the answer begins with \"aaaa"],
    );
    assert_eq!(node.calls(), 1);
}

#[test]
fn an_error_s_document_is_an_error_whatever_the_status() {
    let body = "<Response><Errors><Error><Code>OptInRequired</Code><Message>Not\nsubscribed</Message></Error></Errors></Response>";
    for status in [200, 400] {
        let node = Node::with_fault(Fault::Text(status, body.into()));
        let words = ["the EC2 API (DescribeTags) refused the call", "OptInRequired: Not subscribed"];
        let failure = node.fails(LONG, Kind::Config, &words);
        assert_eq!((failure.code.as_deref(), node.calls()), (Some("OptInRequired"), 1));
    }
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
fn the_proxy_of_the_settings_is_used_except_for_some_names() {
    let node = Node::new();
    let mut proxy = Proxy { http: Some(node.aws.endpoint()), ..Proxy::default() };
    node.api_at(LONG, "http://ec2.invalid", &proxy).tags(ID).unwrap();
    assert_eq!(node.calls(), 1);
    proxy.no_proxy = Some("ec2.invalid".into());
    let failure = node.api_at(SHORT, "http://ec2.invalid", &proxy).tags(ID).unwrap_err();
    assert_error(&failure.error, Kind::TemporaryFailure, &["http://ec2.invalid"]);
    assert_eq!(node.calls(), 1);

    let proxy = Proxy { http: Some("http://user:hush@127.0.0.1:9".into()), ..Proxy::default() };
    let failure = node.api_at(SHORT, "http://ec2.invalid", &proxy).tags(ID).unwrap_err();
    assert_error(&failure.error, Kind::TemporaryFailure, &["Connection refused"]);
    assert!(!failure.error.to_string().contains("hush"), "{}", failure.error);
}

/// Variables can only be set for another process: the test starts itself with them.
#[test]
fn the_environment_names_the_endpoints() {
    const INNER: &str = "TITUS_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = imds::Endpoint::from_env().unwrap();
        let tags = Api::new(&endpoint, "eu-west-1", &Proxy::default(), LONG).tags(ID);
        match tags {
            Ok(tags) => assert!(!tags.is_empty()),
            Err(failure) => panic!("{}", failure.error),
        }
        return;
    }
    let node = Node::new();
    let inner = |address: &str, disabled: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "aws::the_environment_names_the_endpoints"]).env(INNER, "1");
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", node.metadata.endpoint());
        command.env("AWS_EC2_METADATA_DISABLED", disabled).env("AWS_ENDPOINT_URL_EC2", address);
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        let output = command.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (good, output) = inner(&node.aws.endpoint(), "false");
    assert!(good && node.calls() == 1, "{output}");
    let (good, output) = inner("here", "false");
    assert!(!good && output.contains("AWS_ENDPOINT_URL_EC2 must not be \"here\""), "{output}");
    let asked = node.metadata.requests().len();
    let (good, output) = inner(&node.aws.endpoint(), "true");
    assert!(!good && output.contains("AWS_EC2_METADATA_DISABLED=true forbids"), "{output}");
    assert_eq!((node.calls(), node.metadata.requests().len()), (1, asked));
}
