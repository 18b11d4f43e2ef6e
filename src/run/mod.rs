//! A run: from a prepared role to the report of how it ended.

pub mod apply;
pub mod engine;
pub mod group;
pub mod health;
pub mod journal;
pub mod keep;
pub mod reboot;
pub mod refusals;
pub mod report;
pub mod status;
pub mod trigger;

pub use self::apply::{Options, apply, observe, observe_prepared};
pub use self::trigger::Trigger;

/// The unit that runs `apply --at-boot`; systemd/titus-bootstrap.service.
pub const BOOT_UNIT: &str = "titus-bootstrap.service";
