//! Credentials and clocks: the source of credentials, when the program fetches them again, and that nobody sees them.

use std::time::Duration;

use titus_bootstrap::ec2::api::Bucket as Told;
use titus_bootstrap::error::Kind;

use super::{ID, LONG, Node, SHORT, assert_error, held, lifecycle};
use crate::support::aws::account::Bucket;
use crate::support::aws::{Fault, Keys};
use crate::support::log::heard;
use crate::support::metadata;

#[test]
fn without_a_profile_no_call_is_made() {
    let node = Node::new();
    node.metadata.set("meta-data/iam/security-credentials/titus-node", None);
    let words = [
        "the EC2 API (DescribeTags) cannot be called: this instance has no instance profile",
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
fn a_metadata_service_that_is_silent_is_given_up_at_the_deadline() {
    let node = Node::new();
    node.metadata.fault(metadata::Fault::Unavailable(u32::MAX));
    let words = ["instance metadata: no usable answer from", "iam/security-credentials/", "503 Service Unavailable"];
    node.fails(SHORT, Kind::TemporaryFailure, &words);
}

#[test]
fn expired_credentials_are_fetched_again_once() {
    let node = Node::with_fault(Fault::Expired(1));
    node.api(LONG).tags(ID).unwrap();
    assert_eq!((node.calls(), node.fetched()), (2, 2));

    let node = Node::with_fault(Fault::Expired(u32::MAX));
    let words = [
        "the EC2 API (DescribeTags) does not accept this instance's signature",
        "RequestExpired: Request has expired.",
        "see whether the clock is right (date --utc), and whether the instance profile's role still exists",
    ];
    assert!(!node.fails(LONG, Kind::Config, &words).is_denied());
    assert_eq!((node.calls(), node.fetched()), (2, 2));
}

#[test]
fn replaced_credentials_are_fetched_again() {
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
fn credentials_are_fetched_again_before_they_expire() {
    let node = Node::new();
    node.profile(&Keys::new(1).lasting(Duration::from_secs(180)));
    let mut api = node.api(LONG);
    api.tags(ID).unwrap();
    let next = Keys::new(2);
    node.profile(&next);
    node.aws.accept(&next);
    // No call was unnecessary.
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
        let node = Node::with_account(held());
        node.aws.account(|account| account.buckets.insert("logs".into(), Bucket::There));
        node.aws.fault(Fault::Clock(hours * 3600));
        let mut api = node.api(LONG);
        api.tags(ID).unwrap();
        assert_eq!(node.calls(), 2);
        assert!(api.heartbeat(&lifecycle()).unwrap());
        assert_eq!(api.bucket("logs").unwrap(), Told::There);
        assert_eq!(node.calls(), 4);
        // The machine's clock was corrected in the meantime.
        node.aws.clear_faults();
        api.tags(ID).unwrap();
        api.tags(ID).unwrap();
        assert_eq!(node.calls(), 7);
        // Each service has its own words; S3 only says 403.
        node.aws.fault(Fault::Clock(hours * 3600));
        assert!(node.api(LONG).heartbeat(&lifecycle()).unwrap());
        assert_eq!(node.api(LONG).bucket("logs").unwrap(), Told::There);
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
    assert_error(&failure.error, Kind::Config, &["SignatureDoesNotMatch: The request signature we calculated"]);
    node.profile(&Keys::new(7));
    let failure = node.api(LONG).heartbeat(&lifecycle()).unwrap_err();
    assert_error(
        &failure.error,
        Kind::Config,
        &["InvalidClientTokenId: The security token included in the request is invalid."],
    );
}

#[test]
fn no_secret_is_printed() {
    let mut output = String::new();
    // `--verbose` shows DEBUG; TRACE is more.
    let (_, log) = heard(tracing::Level::TRACE, || {
        for fault in [
            Fault::Throttle(1),
            Fault::Deny("DescribeTags"),
            Fault::Expired(u32::MAX),
            Fault::Clock(7200),
            Fault::Close(u32::MAX),
            Fault::Text(200, "<html/>".into()),
            Fault::Text(500, "<html/>".into()),
        ] {
            // Only these two never end.
            let limit = match fault {
                Fault::Close(_) | Fault::Text(500, _) => Duration::from_millis(200),
                _ => LONG,
            };
            let node = Node::with_fault(fault);
            match node.api(limit).tags(ID) {
                Ok(tags) => output += &format!("{tags:?}"),
                Err(failure) => output += &format!("{failure:?} {}", failure.error),
            }
        }
    });
    let log = log.concat();
    assert!(log.contains("this machine's clock differs from AWS's by 7"), "{log}");
    let keys = Keys::new(1);
    for (name, secret) in [("secret", &keys.secret), ("token", &keys.token)] {
        assert!(!output.contains(secret), "the {name} is in:\n{output}");
        assert!(!log.contains(secret), "the {name} is in:\n{log}");
    }
}
