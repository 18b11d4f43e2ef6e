//! What the cases are written in: nodes, what is served to them, and how they look.

pub mod agent;
pub mod autoscaling;
pub mod cluster;
pub mod deb;
pub mod debs;
pub mod disk;
pub mod docker;
pub mod engine;
pub mod first_boot;
pub mod image;
pub mod line;
pub mod machine;
pub mod moto;
pub mod nbd;
pub mod network;
pub mod node;
pub mod packer;
pub mod prereqs;
pub mod registry;
pub mod release;
pub mod running;
pub mod services;
pub mod terraform;
pub mod znodes;

use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

/// How long anything may take. No case is about speed, and a busy machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until `probe` has an answer: it looks at once, and then less and less often, but at least four times a second.
///
/// # Panics
/// When [`PATIENCE`] has run out; `what` names the condition.
#[track_caller]
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_for_or(what, String::new, probe)
}

/// Like [`wait_for`]. If the wait fails, the message has what `explain` returns.
///
/// # Panics
/// When [`PATIENCE`] has run out.
#[track_caller]
pub fn wait_for_or<T>(what: &str, explain: impl Fn() -> String, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}\n{}", explain());
        std::thread::sleep(pause);
        // Most probes start processes in a node.
        pause = (pause * 3 / 2).min(Duration::from_millis(250));
    }
}

/// A random number below `limit`; the clock's nanoseconds are random enough.
pub fn random(limit: usize) -> usize {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    nanoseconds.wrapping_mul(2_654_435_761) as usize % limit
}

/// A command that ends with the thread that starts it, so a killed test leaves nothing.
pub fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}
