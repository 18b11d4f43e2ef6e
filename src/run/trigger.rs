//! Who started a run, and the policy that follows from that.

use std::path::Path;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};
use crate::settings::schema::Reboot;

/// How long an unattended run waits for another one.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where cloud-init keeps the scripts that it runs.
const CLOUD_INIT: &str = "/var/lib/cloud/";

/// Who started a run. The table in docs/reference.md, "Who starts a run", documents this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A person, or a program acting for one.
    Person,
    /// A script that could be user data, but that cloud-init did not start.
    Script,
    /// cloud-init, which runs user data as a script.
    UserData,
    /// The boot unit.
    Boot,
}

impl Trigger {
    /// Returns who runs a settings file as a script: cloud-init runs scripts from its own directory.
    pub fn from_script(path: &Path) -> Trigger {
        if path.starts_with(CLOUD_INIT) { Trigger::UserData } else { Trigger::Script }
    }

    /// The trigger in words, for a headline.
    pub fn words(self) -> &'static str {
        match self {
            Trigger::Person => "by hand",
            Trigger::Script => "by a script",
            Trigger::UserData => "from user data",
            Trigger::Boot => "at boot",
        }
    }

    /// How long it waits for another run, unless the command line sets a limit.
    pub fn lock_wait(self) -> Duration {
        if self == Trigger::Person { Duration::ZERO } else { PATIENCE }
    }

    /// Whether the run reboots when a reboot is due, unless the settings say otherwise.
    pub fn reboot(self) -> Reboot {
        if self == Trigger::Person { Reboot::Never } else { Reboot::IfNeeded }
    }

    /// Whether the run notifies the instance's Auto Scaling group: a typo at a prompt must not cost a node.
    pub fn informs_group(self) -> bool {
        matches!(self, Trigger::UserData | Trigger::Boot)
    }

    /// The command that shows more about a run than the line on the console; none: a person has already seen everything.
    pub fn details_command(self) -> Option<&'static str> {
        match self {
            Trigger::Person => None,
            Trigger::Script | Trigger::UserData => Some("less /var/log/cloud-init-output.log"),
            Trigger::Boot => Some("journalctl --boot --unit titus-bootstrap"),
        }
    }

    /// Whether this failure does not count: an image that was given no role boots without one.
    pub fn forgives(self, error: &Error) -> bool {
        self == Trigger::Boot && error.kind == Kind::NoRole
    }

    /// Whether it waits for what AWS has yet to provide to a young machine. A person sees what is missing, and decides.
    pub fn is_patient(self) -> bool {
        self.informs_group()
    }

    /// Whether the run is repeated without a person: at each boot, after exit code 75, and while cloud-init may still
    /// provide what was missing.
    pub fn is_retried(self) -> bool {
        self == Trigger::Boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_trigger_has_its_policy() {
        use Trigger::{Boot, Person, Script, UserData};
        let no_role = Error::new(Kind::NoRole, "x");
        let policy = |trigger: Trigger| {
            (
                trigger.lock_wait().as_secs(),
                trigger.reboot() == Reboot::IfNeeded,
                trigger.informs_group(),
                trigger.details_command().is_some(),
                trigger.forgives(&no_role),
                trigger.is_retried(),
                trigger.is_patient(),
            )
        };
        assert_eq!(policy(Person), (0, false, false, false, false, false, false));
        assert_eq!(policy(Script), (900, true, false, true, false, false, false));
        assert_eq!(policy(UserData), (900, true, true, true, false, false, true));
        assert_eq!(policy(Boot), (900, true, true, true, true, true, true));
        assert!(!Boot.forgives(&Error::config("x")));
    }

    #[test]
    fn cloud_init_is_recognized_by_its_directory() {
        assert_eq!(Trigger::from_script(Path::new("/var/lib/cloud/instance/scripts/part-001")), Trigger::UserData);
        assert_eq!(Trigger::from_script(Path::new("/root/user-data")), Trigger::Script);
    }
}
