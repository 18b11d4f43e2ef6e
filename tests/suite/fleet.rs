//! A fleet that boots at once, against one API that throttles: all get their facts. What it took is printed
//! (`cargo test fleet -- --nocapture`). `src/ec2/api/tests.rs` has ten thousand nodes, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::aws::account::sample;
use support::aws::{Aws, Fault, Keys};
use support::metadata::{self, Metadata};
use titus_bootstrap::ec2::api::Api;
use titus_bootstrap::ec2::imds;
use titus_bootstrap::host::net::Proxy;

/// How many nodes; `FLEET=1000` in the environment makes it another number.
const NODES: usize = 60;

/// The number of requests per second that the API allows.
const RATE: u32 = 20;

const DEADLINE: Duration = Duration::from_secs(300);

/// Allows as many open files as a fleet needs in one process, as far as this user may.
fn allow_open_files(fleet: usize) {
    // A node has eight connections to the metadata service. The service has each of its own twice.
    let needs = u64::try_from(fleet * 8 * 3).unwrap() + 512;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(needs.min(hard)), hard).unwrap();
}

/// Every node does what it does for its facts, all at once.
#[test]
fn a_fleet_that_boots_at_once_gets_its_facts() {
    let fleet = std::env::var("FLEET").map_or(NODES, |number| number.parse().unwrap());
    allow_open_files(fleet);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let keys = Keys::new(1);
    let metadata = Metadata::start(metadata::sample().into_iter().chain(keys.items()).collect());
    let aws = Aws::start(sample(), &keys);
    aws.fault(Fault::Rate(RATE));
    let endpoint = imds::Endpoint::at(&metadata.endpoint()).unwrap();
    let start = Barrier::new(fleet);
    let node = || {
        start.wait();
        let began = Instant::now();
        let instance = imds::read(&endpoint, DEADLINE).unwrap().instance;
        let mut api = Api::new(&endpoint, &instance.region, &Proxy::default(), DEADLINE);
        let address = aws.endpoint();
        api.variable = Box::new(move |name| (name == "AWS_ENDPOINT_URL_EC2").then(|| address.clone()));
        assert_eq!(Some(api.tags(&instance.id).unwrap()), instance.tags);
        began.elapsed()
    };
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let nodes: Vec<_> = (0..fleet).map(|_| scope.spawn(node)).collect();
        nodes.into_iter().map(|node| node.join().unwrap()).collect()
    });
    times.sort();
    let seconds = |place: usize| times[place].as_secs_f64();
    println!(
        "{fleet} nodes, {RATE} requests a second: {} calls, the median node after {:.1} s, the slowest after {:.1} s",
        aws.requests().len(),
        seconds(fleet / 2),
        seconds(fleet - 1),
    );
    assert!(aws.requests().iter().all(|request| request.starts_with("DescribeTags ")));
}
