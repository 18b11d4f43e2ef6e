//! A simulation, in virtual time, of a fleet that boots at once and calls one API that throttles: the cost of each
//! retry policy. `cargo test --lib fleet -- --nocapture` prints the table in docs/performance.md. Verdict, policy and
//! turn are those of the program; only the sockets and the sleeps are missing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow::{Break, Continue};
use std::time::{Duration, SystemTime};

use super::BACKOFF;
use super::answer::Reply;
use crate::ec2::retry::{Backoff, Tries, Verdict, full_jitter, turn};
use crate::host::wait::Deadline;

const SECOND: Duration = Duration::from_secs(1);

const THROTTLED: &str = "503 RequestLimitExceeded";

/// How many calls per second the API answers, and how many at once.
const RATE: f64 = 20.0;

/// How long it takes until the last node of the fleet has booted.
const BOOT: Duration = Duration::from_secs(60);

/// The time between a run that ends with 75 and the next (systemd/titus-bootstrap-retry.timer).
const NEXT_RUN: Duration = BOOT;

/// AWS's SDKs in standard mode.
const STANDARD: Backoff = |failures| full_jitter(SECOND, 2, 20 * SECOND, failures);

/// AWS's SDKs in adaptive mode: the same, and a throttled client first sends one request in two seconds (its lowest
/// rate). A node makes one call at a time, so the mode adds only this rate.
const ADAPTIVE: Backoff = |failures| full_jitter(SECOND, 2, 20 * SECOND, failures).max(2 * SECOND);

/// The cost of a boot.
struct Cost {
    /// Calls per node.
    calls: f64,
    /// When the last node had its answer, relative to the shortest possible time.
    last: f64,
    /// How long the median node waited.
    median: Duration,
}

/// The API, which answers or throttles.
struct Limit {
    allowance: f64,
    since: Duration,
}

impl Limit {
    fn answer(&mut self, now: Duration) -> Verdict<()> {
        self.allowance = RATE.min(self.allowance + (now - self.since).as_secs_f64() * RATE);
        self.since = now;
        if self.allowance < 1.0 {
            return Verdict::Temporary(THROTTLED.to_owned(), Duration::ZERO);
        }
        self.allowance -= 1.0;
        Verdict::Final(())
    }
}

/// Boots a fleet. A run lasts at most `patience`, and the next one begins a minute later.
fn boot(nodes: usize, backoff: Backoff, spread: Duration, patience: Duration) -> Cost {
    let policy = || Tries::new(String::new(), backoff, &mut Deadline::silent(patience));
    let id = |node: usize| format!("i-{node:017x}");
    let mut tries: Vec<Tries> = (0..nodes).map(|_| policy()).collect();
    // The boots are spread evenly over the minute, in an order independent of the ids.
    let booted = |node: usize| turn(&format!("boot of {}", id(node)), BOOT);
    let mut began: Vec<Duration> = (0..nodes).map(|node| booted(node) + turn(&id(node), spread)).collect();
    let mut next: BinaryHeap<_> = began.iter().enumerate().map(|(node, at)| Reverse((*at, node))).collect();
    let mut limit = Limit { allowance: RATE, since: Duration::ZERO };
    let (mut calls, mut waited, mut last) = (0, Vec::new(), Duration::ZERO);
    while let Some(Reverse((now, node))) = next.pop() {
        calls += 1;
        let end = began[node] + patience;
        match tries[node].next(limit.answer(now), end - now) {
            Break(_) => {
                waited.push(now - booted(node));
                last = now;
            }
            Continue(pause) if pause < end - now => next.push(Reverse((now + pause, node))),
            Continue(_) => {
                (began[node], tries[node]) = (end + NEXT_RUN, policy());
                next.push(Reverse((began[node], node)));
            }
        }
    }
    waited.sort();
    let ideal = (nodes as f64 / RATE).max(BOOT.as_secs_f64());
    Cost { calls: f64::from(calls) / nodes as f64, last: last.as_secs_f64() / ideal, median: waited[nodes / 2] }
}

#[test]
fn the_api_throttles_in_these_words() {
    let body = "<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>";
    let verdict = Reply::new(503, body.as_bytes()).judge("eu-west-1", SystemTime::UNIX_EPOCH);
    assert_eq!(verdict, Verdict::Temporary(THROTTLED.to_owned(), Duration::ZERO));
}

#[test]
fn a_fleet_of_ten_thousand_makes_few_calls_and_takes_little_more_than_the_api_allows() {
    let hour = 3600 * SECOND;
    let row = |name: &str, nodes: usize, backoff, spread, patience| {
        let cost = boot(nodes, backoff, spread, patience);
        let Cost { calls, last, median } = cost;
        println!("| {name} | {nodes} | {calls:.2} | {last:.2} | {:.0} s |", median.as_secs_f64());
        cost
    };
    println!("| | nodes | calls a node | last node, ideal = 1 | median wait |\n|---|---|---|---|---|");
    for nodes in [1000, 2000, 10_000] {
        row("AWS's SDKs, standard (full jitter)", nodes, STANDARD, Duration::ZERO, hour);
        row("AWS's SDKs, adaptive", nodes, ADAPTIVE, Duration::ZERO, hour);
        let ours = row("ours", nodes, BACKOFF, Duration::ZERO, hour);
        assert!(ours.calls < 13.0 && ours.last < 2.0);
        row("ours, runs of 2 min and a minute between", nodes, BACKOFF, Duration::ZERO, 120 * SECOND);
        let spread = SECOND * u32::try_from(nodes).unwrap() / 20;
        let ours = row("ours, `tags.spread` of a second for each 20 nodes", nodes, BACKOFF, spread, 120 * SECOND);
        assert!(
            ours.calls <= 2.0 && ours.last <= 1.15 * (spread + BOOT).as_secs_f64() / spread.max(BOOT).as_secs_f64()
        );
    }
    let large = boot(10_000, BACKOFF, 500 * SECOND, 120 * SECOND);
    assert!(large.calls <= 2.0 && large.last <= 1.15);
}
