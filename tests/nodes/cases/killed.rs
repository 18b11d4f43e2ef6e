//! Killed at any moment, on a temporary root and on a node: the next run ends where
//! an undisturbed one does. `SOAK=N` makes it N kills, and N/20 on nodes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::harness::agent;
use crate::harness::image::{converged, program};
use crate::harness::node::Node;
use crate::harness::tree::{assert_same, complete, contents};

/// How many kills; without a word from `tests/soak` a few.
fn kills() -> u32 {
    std::env::var("SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

#[test]
fn soak_of_a_temporary_root() {
    let directory = tempfile::tempdir().unwrap();
    let sample = |root: &Path| {
        let mut command = Command::new(program());
        command.args(["--role", "agent", "--sample", "--root"]).arg(root).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let undisturbed = directory.path().join("undisturbed");
    let started = Instant::now();
    assert!(sample(&undisturbed).status().unwrap().success());
    let duration = started.elapsed();
    let wanted = complete(&undisturbed);

    let mut within = 0;
    for kill in 0..kills() {
        let root = directory.path().join(format!("killed-{kill}"));
        let mut run = sample(&root).spawn().unwrap();
        let moment = Instant::now() + random_part(duration);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        run.kill().unwrap();
        within += u32::from(run.wait().unwrap().code().is_none());
        assert!(sample(&root).status().unwrap().success(), "kill {kill}: the next run failed");
        assert_same(&wanted, &complete(&root), &format!("kill {kill}: the trees differ"));
        std::fs::remove_dir_all(&root).unwrap();
    }
    println!("soak: temporary root: {} kills, {within} before the run's end, {} converged", kills(), kills());
}

#[test]
fn soak_of_nodes() {
    let reference = Node::start(converged(), "eth0");
    let wanted = contents(&reference.path("/"));
    drop(reference);
    let mut duration = None;
    let count = kills().div_ceil(20);
    let mut within = 0;
    for kill in 0..count {
        let node = Node::fresh();
        let _services = agent::services(&node);
        agent::settings(&node);
        let duration = *duration.get_or_insert(Duration::from_secs(15));
        let moment = random_part(duration);
        let started = Instant::now();
        let mut run = node.spawn(&["titus-bootstrap"]);
        while started.elapsed() < moment && !run.ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        within += u32::from(!run.ended());
        run.kill();
        run.end();
        node.bootstrap(&["apply"]).expect(0);
        agent::check(&node);
        assert_same(&wanted, &contents(&node.path("/")), &format!("kill {kill} after {moment:?}: the trees differ"));
    }
    println!("soak: nodes: {count} kills, {within} before the run's end, {count} converged");
}

/// A random part of `duration`; the clock's nanoseconds are random enough.
fn random_part(duration: Duration) -> Duration {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    duration.mul_f64(f64::from(nanoseconds.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24))
}
