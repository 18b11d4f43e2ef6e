//! The metadata service, with everything that can go wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use support::door::Closed;
use support::log::hearing;
use support::metadata::{Fault, Metadata, sample};
use titus_bootstrap::ec2::imds::{Answers, Endpoint, Session, read};
use titus_bootstrap::error::{Error, Kind, Result};
use titus_bootstrap::facts::{HttpTokens, Instance, sample as built_in};
use tracing::Level;

const IDENTITY: &str = "dynamic/instance-identity/document";
const GROUP: &str = "meta-data/tags/instance/aws:autoscaling:groupName";

/// Enough time for a service that answers in the end.
const LONG: Duration = Duration::from_secs(60);

/// Enough time to see that a service never will, after a few answers.
const SHORT: Duration = Duration::from_secs(3);

fn read_from(metadata: &Metadata, deadline: Duration) -> Result<Answers> {
    install_provider();
    read(&Endpoint::at(&metadata.endpoint()).unwrap(), deadline)
}

/// As main does first.
fn install_provider() {
    // An error means that another test has done it.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A service with this fault, read until it answers.
fn survives(fault: Fault) -> Metadata {
    let metadata = Metadata::start(sample());
    metadata.fault(fault);
    assert_eq!(read_from(&metadata, LONG).unwrap().instance, expected());
    metadata
}

/// A service with this fault, which must fail in this way.
#[track_caller]
fn fails(fault: Fault, deadline: Duration, kind: Kind) -> (Metadata, Error) {
    let metadata = Metadata::start(sample());
    metadata.fault(fault);
    let started = Instant::now();
    let error = read_from(&metadata, deadline).unwrap_err();
    assert_eq!(error.kind, kind, "{error}");
    assert!(started.elapsed() < deadline + LONG, "it took {:?}", started.elapsed());
    (metadata, error)
}

/// The sample instance, without the facts that only a machine has.
fn expected() -> Instance {
    let instance = built_in::facts().instance.unwrap();
    Instance {
        memory_mib: 0,
        disk_mib: 0,
        cpus: 0,
        kernel_command_line: String::new(),
        boot_id: String::new(),
        ..instance
    }
}

#[test]
fn everything_is_read_in_three_rounds_of_about_a_dozen_requests() {
    let metadata = Metadata::start(sample());
    // One request after another, or eight where nine are awaited, would wait for answers that do not come.
    metadata.fault(Fault::Rounds(vec![1, 8, 4]));
    metadata.set("user-data", Some(b"\x1f\x8b\x00any bytes".to_vec()));
    let answers = read_from(&metadata, LONG).unwrap();
    assert_eq!(answers.instance, expected());
    assert_eq!(answers.user_data.as_deref(), Some(&b"\x1f\x8b\x00any bytes"[..]));
    assert_eq!(answers.sources["instance.region"], "IMDS placement/region");
    assert_eq!(answers.sources["instance.id"], "IMDS dynamic/instance-identity/document");

    let requests = metadata.requests();
    assert_eq!(requests[0], "PUT /latest/api/token");
    assert!(requests[1..9].contains(&"GET /latest/dynamic/instance-identity/document".to_owned()), "{requests:#?}");
    assert!(requests.len() <= 13, "{requests:#?}");
    assert_eq!(metadata.rounds(), 3);
    assert!(metadata.connections() <= 8);
}

#[test]
fn one_request_over_an_open_connection_finds_out_whether_tokens_are_required() {
    install_provider();
    for (required, fault, expected) in [
        (false, None, Some(HttpTokens::Optional)),
        (true, None, Some(HttpTokens::Required)),
        (true, Some(Fault::Redirect), None),
        (true, Some(Fault::Unavailable(1)), None),
        (false, Some(Fault::Huge(5_000_000)), None),
        (false, Some(Fault::Cut(1)), None),
        (false, Some(Fault::Hang), None),
    ] {
        let metadata = Metadata::start(sample());
        metadata.require_tokens(required);
        let mut session = Session::open(&Endpoint::at(&metadata.endpoint()).unwrap(), LONG).unwrap();
        session.read().unwrap();
        let (before, connections) = (metadata.requests().len(), metadata.connections());
        let what = format!("{required} {fault:?}");
        fault.into_iter().for_each(|fault| metadata.fault(fault));
        assert_eq!(session.http_tokens().unwrap(), expected, "{what}");
        assert_eq!(metadata.requests()[before..], ["GET /latest/meta-data/instance-id"], "{what}");
        assert_eq!(metadata.connections(), connections, "{what}");
    }
}

#[test]
fn optional_facts_are_absent_at_once() {
    let metadata = Metadata::start(sample());
    for path in [
        GROUP,
        "meta-data/tags/instance/Name",
        "meta-data/reservation-id",
        "meta-data/autoscaling/target-lifecycle-state",
        "meta-data/network/interfaces/macs/0a:1b:2c:3d:4e:5f/vpc-id",
    ] {
        metadata.set(path, None);
    }
    let answers = read_from(&metadata, LONG).unwrap();
    let lacking = Instance {
        tags: None,
        autoscaling_group: None,
        reservation_id: None,
        lifecycle_state: None,
        vpc_id: None,
        ..expected()
    };
    assert_eq!(answers.instance, lacking);
    assert_eq!(answers.user_data, None);
    let requests = metadata.requests();
    assert_eq!(requests.iter().filter(|r| r.contains("reservation-id")).count(), 1);
}

#[test]
fn the_region_is_never_cut_out_of_the_zone() {
    let metadata = Metadata::start(sample());
    let document = r#"{"instanceId": "i-0123456789abcdef0", "instanceType": "m4.large",
        "availabilityZone": "us-west-2-lax-1a", "region": "us-west-2", "accountId": "123456789012",
        "imageId": "ami-0123456789abcdef0"}"#;
    metadata.set(IDENTITY, Some(document.into()));
    metadata.set("meta-data/placement/region", None);
    let answers = read_from(&metadata, LONG).unwrap();
    assert_eq!((&*answers.instance.zone, &*answers.instance.region), ("us-west-2-lax-1a", "us-west-2"));
    assert_eq!(answers.sources["instance.region"], "IMDS dynamic/instance-identity/document");
}

#[test]
fn a_run_waits_for_the_facts_of_every_instance() {
    let metadata = Metadata::start(sample());
    metadata.set("meta-data/mac", None);
    let error = read_from(&metadata, SHORT).unwrap_err();
    assert_eq!(error.kind, Kind::TemporaryFailure);
    let cause = error.cause.unwrap();
    assert!(cause.contains("meta-data/mac") && cause.contains("404 Not Found"), "{cause}");
    assert!(metadata.requests().iter().filter(|r| r.ends_with("/mac")).count() > 1);
}

#[test]
fn an_unavailable_service_is_asked_again() {
    let metadata = survives(Fault::Unavailable(5));
    assert!(metadata.requests().len() > 5);
    let (_, error) = fails(Fault::Unavailable(u32::MAX), SHORT, Kind::TemporaryFailure);
    assert!(error.cause.unwrap().contains("503 Service Unavailable"));
}

#[test]
fn a_throttling_service_is_asked_more_slowly() {
    survives(Fault::Throttle);
}

#[test]
fn an_expired_token_is_replaced() {
    let metadata = survives(Fault::ExpireTokenAfter(5));
    let tokens = metadata.requests().iter().filter(|r| r.starts_with("PUT")).count();
    assert!(tokens >= 3, "{tokens} tokens");
    let (_, error) = fails(Fault::ExpireTokenAfter(0), SHORT, Kind::TemporaryFailure);
    assert!(error.cause.unwrap().contains("401 Unauthorized"));
}

#[test]
fn a_slow_service_is_read_to_its_end_or_to_the_deadline() {
    survives(Fault::Trickle(Duration::from_micros(500)));
    let (_, error) = fails(Fault::Trickle(Duration::from_millis(200)), SHORT, Kind::TemporaryFailure);
    assert!(error.cause.unwrap().contains("no complete answer"));
}

#[test]
fn a_hanging_service_is_given_up_at_the_deadline() {
    let (_, error) = fails(Fault::Hang, SHORT, Kind::TemporaryFailure);
    assert!(error.what.contains("within 3s"), "{error}");
}

#[test]
fn a_broken_connection_is_opened_again() {
    let metadata = survives(Fault::Cut(3));
    assert!(metadata.connections() >= 3);
    fails(Fault::Cut(u32::MAX), SHORT, Kind::TemporaryFailure);
}

#[test]
fn a_redirect_is_never_followed() {
    let (metadata, error) = fails(Fault::Redirect, LONG, Kind::Config);
    assert!(error.what.contains("redirect"), "{error}");
    assert!(error.cause.unwrap().contains("http://login.example.com/"));
    assert_eq!(metadata.requests().len(), 1);
}

#[test]
fn five_megabytes_are_refused() {
    let (_, error) = fails(Fault::Huge(5_000_000), LONG, Kind::Config);
    assert!(error.cause.unwrap().contains("it has more than 64 KiB"));
}

#[test]
fn bytes_that_are_not_text_are_refused_by_name() {
    let item = "meta-data/placement/region";
    let (_, error) = fails(Fault::InvalidUtf8(item.into()), LONG, Kind::Config);
    assert!(error.what.contains(item), "{error}");
    assert!(error.cause.unwrap().contains("UTF-8"));
    fails(Fault::InvalidUtf8(IDENTITY.into()), LONG, Kind::Config);
}

#[test]
fn a_page_is_not_a_fact() {
    let (_, error) = fails(Fault::ErrorPage, LONG, Kind::Config);
    assert!(error.what.contains(IDENTITY), "{error}");
    assert!(error.cause.unwrap().contains("<?xml"));
}

#[test]
fn an_error_about_a_service_that_is_off_says_how_to_turn_it_on() {
    let (_, error) = fails(Fault::Refuse, SHORT, Kind::TemporaryFailure);
    assert!(error.cause.as_deref().unwrap().contains("403 Forbidden"), "{error}");
    assert!(error.fix.unwrap().contains("--http-endpoint enabled"));
}

#[test]
fn version_1_is_never_asked() {
    let (metadata, error) = fails(Fault::V1Only, SHORT, Kind::TemporaryFailure);
    assert!(error.fix.unwrap().contains("IMDSv2"));
    assert!(metadata.requests().iter().all(|r| r.starts_with("PUT")), "{:?}", metadata.requests());
}

#[test]
fn values_of_another_form_are_refused_by_name() {
    for (path, value) in [
        ("meta-data/instance-id", ""),
        ("meta-data/instance-id", "i-1;x:y"),
        ("meta-data/instance-type", "m4 large"),
        ("meta-data/placement/availability-zone", "eu-west-1a\""),
        ("meta-data/placement/region", "eu-west-1\n"),
        ("meta-data/local-ipv4", "30.0.100.140, 30.0.100.141"),
        ("meta-data/local-hostname", "$(reboot)"),
        ("meta-data/mac", "eth0"),
        ("meta-data/reservation-id", "none"),
        ("meta-data/tags/instance/titus:role", "agent\nmaster"),
        (GROUP, "titusagent\nx"),
        (GROUP, "\u{7f}"),
    ] {
        let metadata = Metadata::start(sample());
        metadata.set(path, Some(value.into()));
        let error = read_from(&metadata, LONG).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "{error}");
        assert!(error.what.contains(path) || error.what.contains(IDENTITY), "{error}");
    }
}

#[test]
fn tags_are_read_whatever_they_are_called() {
    let metadata = Metadata::start(sample());
    metadata.set("meta-data/tags/instance/owner/team name+é", Some("a; \"b\"".into()));
    metadata.set("meta-data/tags/instance/description", Some("two\nlines".into()));
    metadata.set("meta-data/tags/instance/empty", Some(Vec::new()));
    let answers = read_from(&metadata, LONG).unwrap();
    let tags = answers.instance.tags.unwrap();
    assert_eq!(tags["owner/team name+é"], "a; \"b\"");
    assert_eq!(tags["empty"], "");
    assert_eq!(tags["aws:autoscaling:groupName"], "titusagent");
    assert!(!tags.contains_key("description"));
    assert_eq!(answers.sources["instance.tags.description"], "left out: not plain text");
}

#[test]
fn if_there_are_too_many_tags_the_important_ones_are_read() {
    let metadata = Metadata::start(sample());
    for number in 0..500 {
        metadata.set(&format!("meta-data/tags/instance/a{number}"), Some(b"x".to_vec()));
    }
    metadata.set("meta-data/tags/instance/titus:role", Some(b"agent".to_vec()));
    metadata.set("meta-data/tags/instance/titus-role", Some(b"agent".to_vec()));
    let tags = read_from(&metadata, LONG).unwrap().instance.tags.unwrap();
    assert_eq!(tags.len(), 64);
    for key in ["titus:role", "titus-role", "aws:autoscaling:groupName"] {
        assert!(tags.contains_key(key), "{key}");
    }
}

#[test]
fn an_invalid_listing_is_refused() {
    let metadata = Metadata::start(sample());
    metadata.set("meta-data/tags/instance", Some(b"<!DOCTYPE html>\n<p>hello".to_vec()));
    let error = read_from(&metadata, LONG).unwrap_err();
    assert_eq!(error.kind, Kind::Config);
    assert!(error.what.contains("meta-data/tags/instance"), "{error}");
}

#[test]
fn a_run_waits_for_a_late_service_and_reports_it() {
    install_provider();
    let closed = Closed::new();
    let address = closed.address();
    let endpoint = Endpoint::at(&format!("http://{address}")).unwrap();

    // The service comes when it is first spoken of.
    let heard = Arc::new(Mutex::new((Vec::new(), Some(closed), None)));
    let kept = Arc::clone(&heard);
    let hear = move |line: &str| {
        let (lines, closed, late) = &mut *kept.lock().unwrap();
        lines.push(line.to_owned());
        if let Some(closed) = closed.take() {
            *late = Some(Metadata::serve(closed.listen(), sample()));
        }
    };
    let answers = hearing(Level::INFO, hear, || read(&endpoint, LONG));
    assert_eq!(answers.unwrap().instance, expected());
    let (lines, ..) = &*heard.lock().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = format!("still waiting for the instance metadata service at http://{address} ({IDENTITY}): ");
    for words in [&start, "Connection refused", " s of 60"] {
        assert!(lines[0].contains(words), "{:?} lacks {words:?}", lines[0]);
    }
}

#[test]
fn without_a_service_the_deadline_holds() {
    install_provider();
    let nobody = Closed::new();
    let endpoint = Endpoint::at(&format!("http://{}", nobody.address())).unwrap();
    let error = read(&endpoint, SHORT).unwrap_err();
    assert_eq!(error.kind, Kind::TemporaryFailure);
    assert!(error.cause.unwrap().contains("Connection refused"));
}

/// Variables can only be set for another process: the test starts itself with them.
#[test]
fn the_environment_names_the_endpoint_and_proxies_are_ignored() {
    const INNER: &str = "TITUS_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        install_provider();
        let endpoint = Endpoint::from_env().unwrap();
        assert!(endpoint.is_given() && !endpoint.is_default());
        assert_eq!(read(&endpoint, LONG).unwrap().instance, expected());
        return;
    }
    let metadata = Metadata::start(sample());
    let name = "imds::the_environment_names_the_endpoint_and_proxies_are_ignored";
    let inner = |disabled: &str| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env(INNER, "1").env("AWS_EC2_METADATA_DISABLED", disabled);
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.endpoint());
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(proxy, "http://127.0.0.1:9");
        }
        command.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap()
    };
    let output = inner("false");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let asked = metadata.requests().len();
    assert!(asked > 0);

    let output = inner("true");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains("Unavailable"));
    assert_eq!(metadata.requests().len(), asked);
}
