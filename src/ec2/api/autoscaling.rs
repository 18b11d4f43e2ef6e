//! What the Auto Scaling group of this instance is told.

use super::answer::NOT_HELD;
use super::{Api, Failure, Service};

/// The end of a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instance may go into service.
    Continue,
    /// It may not.
    Abandon,
}

/// A lifecycle hook of a group, as it holds one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    /// The Auto Scaling group.
    pub group: String,
    /// The hook's name.
    pub hook: String,
    /// The instance's id.
    pub instance: String,
}

impl Lifecycle {
    fn parameters(&self) -> Vec<(String, String)> {
        [("AutoScalingGroupName", &self.group), ("LifecycleHookName", &self.hook), ("InstanceId", &self.instance)]
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .into()
    }
}

impl Api {
    /// Ends the lifecycle action; `false`: the hook does not hold this instance (any more), as when it was told
    /// so before and the answer was lost.
    ///
    /// # Errors
    /// When the call fails.
    pub fn complete(&mut self, lifecycle: &Lifecycle, outcome: Outcome) -> Result<bool, Failure> {
        let result = if outcome == Outcome::Continue { "CONTINUE" } else { "ABANDON" };
        let mut parameters = lifecycle.parameters();
        parameters.push(("LifecycleActionResult".into(), result.into()));
        self.of_action("CompleteLifecycleAction", &parameters)
    }

    /// Gives the lifecycle action its whole timeout once more; `false`: as [`Api::complete`].
    ///
    /// # Errors
    /// When the call fails.
    pub fn heartbeat(&mut self, lifecycle: &Lifecycle) -> Result<bool, Failure> {
        self.of_action("RecordLifecycleActionHeartbeat", &lifecycle.parameters())
    }

    fn of_action(&mut self, action: &str, parameters: &[(String, String)]) -> Result<bool, Failure> {
        match self.query(Service::AutoScaling, action, parameters) {
            Err(failure) if failure.code.as_deref() == Some(NOT_HELD) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Asks the group to replace this instance, whatever its grace period.
    ///
    /// # Errors
    /// When the call fails.
    pub fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure> {
        let parameters =
            [("InstanceId", instance), ("HealthStatus", "Unhealthy"), ("ShouldRespectGracePeriod", "false")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.query(Service::AutoScaling, "SetInstanceHealth", &parameters).map(drop)
    }
}
