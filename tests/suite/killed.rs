//! Kills a run at every failpoint once: the next run turns the rest into the same tree,
//! byte for byte, and leaves nothing half-written.

// Release builds have no failpoints.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use support::root::{Outcome, Root, assert_same, outcome};

/// Files that are half-written.
const NONE: [&str; 0] = [];

const SIGKILL: i32 = -9;

/// More failpoints than any run passes, so that the test ends if the variable is no longer read.
const MOST: u32 = 2000;

/// Runs the role with these settings until it dies at the failpoint with this number.
fn run_to(root: &Root, crash_at: u32, settings: &[&str]) -> Outcome {
    let mut command = root.program(&["--role", "agent", "--sample"]);
    command.args(settings.iter().flat_map(|setting| ["--set", *setting]));
    outcome(command.env("TITUS_BOOTSTRAP_CRASH_AT", crash_at.to_string()))
}

/// Runs the role with these settings to its end.
#[track_caller]
fn converge(root: &Root, settings: &[&str]) {
    run_to(root, 0, settings).ends_with(0);
}

/// A tree in which a run has something to replace and to move aside, and much to create.
fn used() -> Root {
    let root = Root::empty();
    root.write("/etc/systemd/system/mesos-master.service", "[Service]\nExecStart=/bin/false\n");
    root.write("/etc/mesos-agent.config", "MESOS_PORT=5051\nMESOS_PORT=5051\n");
    root.write("/etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM==\"net\"\n");
    root.link("/etc/titus-shared.env", "/etc/nowhere");
    root
}

#[test]
fn on_a_new_tree() {
    let whole = {
        let root = used();
        converge(&root, &[]);
        root.made()
    };
    let (next, last) = (AtomicU32::new(1), AtomicU32::new(MOST));
    let work = || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= last.load(Ordering::Relaxed) {
                return;
            }
            let root = used();
            let killed = run_to(&root, n, &[]);
            if killed.code == 0 {
                last.fetch_min(n, Ordering::Relaxed);
                return;
            }
            let killed = killed.ends_with(SIGKILL);
            converge(&root, &[]);
            assert_same(&whole, &root.made(), &format!("killed at failpoint {n}\n{}", killed.out));
            assert_eq!(root.half_written(), NONE, "killed at failpoint {n}");
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failpoints = last.into_inner();
    assert!((150..MOST).contains(&failpoints), "{failpoints}");
}

#[test]
fn on_a_converged_tree_with_changed_settings() {
    let before: &[&str] = &[];
    let after = &[
        "agent.log_bucket=other-logs",
        "prereqs=10.0.0.1",
        "proxy.http=http://10.0.0.2:3128",
        "agent.kernel_arguments=[]",
    ];
    let ways = [(before, &after[..]), (&after[..], before)];
    let root = Root::empty();
    converge(&root, before);
    let looks = [&after[..], before].map(|settings| {
        converge(&root, settings);
        root.made()
    });
    let mut killed = 0;
    for n in 1..MOST {
        let mut ended = 0;
        for ((from, to), look) in ways.iter().zip(&looks) {
            match run_to(&root, n, to) {
                outcome if outcome.code == 0 => ended += 1,
                outcome => {
                    outcome.ends_with(SIGKILL);
                    killed += 1;
                }
            }
            converge(&root, to);
            assert_same(look, &root.made(), &format!("killed at failpoint {n} on the way from {from:?} to {to:?}"));
            assert_eq!(root.half_written(), NONE, "killed at failpoint {n}");
        }
        if ended == ways.len() {
            break;
        }
    }
    assert!(killed > 100, "{killed}");
}

#[test]
fn a_killed_run_that_is_never_repeated_leaves_whole_files_and_says_so() {
    let root = Root::empty();
    converge(&root, &[]);
    let whole = root.made();
    for n in (20..200).step_by(17) {
        let root = Root::empty();
        run_to(&root, n, &[]).ends_with(SIGKILL);
        for (path, look) in root.made() {
            if !path.contains("/.titus-bootstrap-") {
                assert_eq!(Some(&look), whole.get(&path), "failpoint {n}: {path}");
            }
        }
        root.sample(&["status"]).ends_with(1).prints(&["last run: killed"]);
    }
}
