//! Calls to Auto Scaling about this instance.

use super::answer::NOT_HELD;
use super::{Api, Failure, Service};

/// The end of a lifecycle action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instance may go into service.
    Continue,
    /// The instance may not go into service.
    Abandon,
}

/// A lifecycle hook that holds an instance of a group.
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
    /// Ends the lifecycle action. Returns `false` if the hook does not hold this instance, e.g. because an earlier call
    /// succeeded and its answer was lost.
    ///
    /// # Errors
    /// Fails when the call fails.
    pub fn complete(&mut self, lifecycle: &Lifecycle, outcome: Outcome) -> Result<bool, Failure> {
        let result = if outcome == Outcome::Continue { "CONTINUE" } else { "ABANDON" };
        let mut parameters = lifecycle.parameters();
        parameters.push(("LifecycleActionResult".into(), result.into()));
        self.call_action("CompleteLifecycleAction", &parameters)
    }

    /// Restarts the timeout of the lifecycle action. Returns `false` if the hook does not hold this instance.
    ///
    /// # Errors
    /// Fails when the call fails.
    pub fn heartbeat(&mut self, lifecycle: &Lifecycle) -> Result<bool, Failure> {
        self.call_action("RecordLifecycleActionHeartbeat", &lifecycle.parameters())
    }

    fn call_action(&mut self, action: &str, parameters: &[(String, String)]) -> Result<bool, Failure> {
        match self.query(Service::AutoScaling, action, parameters) {
            Err(failure) if failure.code.as_deref() == Some(NOT_HELD) => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Asks the group to replace this instance, even during its grace period.
    ///
    /// # Errors
    /// Fails when the call fails.
    pub fn mark_unhealthy(&mut self, instance: &str) -> Result<(), Failure> {
        let parameters =
            [("InstanceId", instance), ("HealthStatus", "Unhealthy"), ("ShouldRespectGracePeriod", "false")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.query(Service::AutoScaling, "SetInstanceHealth", &parameters).map(drop)
    }
}
