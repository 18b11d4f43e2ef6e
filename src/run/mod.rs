//! A run: from a prepared role to the report of its result.

pub mod apply;
pub mod engine;
pub mod group;
pub mod headline;
pub mod health;
pub mod journal;
pub mod keep;
pub mod logs;
pub mod metrics;
pub mod partial;
pub mod reboot;
pub mod refusals;
pub mod report;
pub mod status;
pub mod timeline;
pub mod trigger;

pub use self::apply::{Options, apply, observe, observe_prepared};
pub use self::trigger::Trigger;

/// The unit that runs `apply --at-boot`; see systemd/titus-bootstrap.service.
pub const BOOT_UNIT: &str = "titus-bootstrap.service";

/// The timer that runs it again after exit code 75; see systemd/titus-bootstrap-retry.timer.
pub const RETRY_TIMER: &str = "titus-bootstrap-retry.timer";
