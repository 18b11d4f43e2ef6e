//! What the cases are written in: nodes, what is served to them, and how they look.

pub mod agent;
pub mod autoscaling;
pub mod cluster;
pub mod deb;
pub mod debs;
pub mod disk;
pub mod docker;
pub mod first_boot;
pub mod image;
pub mod line;
pub mod machine;
pub mod moto;
pub mod network;
pub mod node;
pub mod outcome;
pub mod packer;
pub mod prereqs;
pub mod registry;
pub mod running;
pub mod services;
pub mod tree;
pub mod znodes;

use std::time::{Duration, Instant};

/// Waits until `probe` has an answer, looking twenty times a second.
///
/// # Panics
/// When `deadline` has passed; `what` says what was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
