//! Who started a run, and everything that follows from that.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::settings::schema::Reboot;

/// How long a run that nobody attends waits for another one.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Where cloud-init keeps the scripts that it runs.
const CLOUD_INIT: &str = "/var/lib/cloud/";

/// Who started a run. The table of docs/reference.md, "Who starts a run", is this type's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A person, or a program in its place.
    Person,
    /// A script that could be user data, and that somebody else than cloud-init runs.
    Script,
    /// cloud-init, which runs user data as a script.
    UserData,
    /// The boot unit.
    Boot,
}

impl Trigger {
    /// Whoever runs a settings file as a script: cloud-init does it from its own directory.
    pub fn of_script(path: &Path) -> Trigger {
        if path.starts_with(CLOUD_INIT) { Trigger::UserData } else { Trigger::Script }
    }

    /// How long it waits for another run, if the command line does not say.
    pub fn lock_wait(self) -> Duration {
        if self == Trigger::Person { Duration::ZERO } else { PATIENCE }
    }

    /// Whether it reboots when a reboot is due, if the settings do not say.
    pub fn reboot(self) -> Reboot {
        if self == Trigger::Person { Reboot::Never } else { Reboot::IfNeeded }
    }

    /// Whether the instance's Auto Scaling group hears how it ended: a typo at a prompt must not cost a node.
    pub fn informs_group(self) -> bool {
        matches!(self, Trigger::UserData | Trigger::Boot)
    }

    /// The command that shows more of a run than the line on the console; none: a person has seen all.
    pub fn look_further(self) -> Option<&'static str> {
        match self {
            Trigger::Person => None,
            Trigger::Script | Trigger::UserData => Some("less /var/log/cloud-init-output.log"),
            Trigger::Boot => Some("journalctl --boot --unit titus-bootstrap"),
        }
    }

    /// Whether this failure is none: an image that was not told its role boots without one.
    pub fn forgives(self, error: &Error) -> bool {
        self == Trigger::Boot && error.kind == Kind::NoRole
    }

    /// Whether it comes back by itself: at each boot, after exit code 75, and while cloud-init may still bring what
    /// it lacked.
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
                trigger.look_further().is_some(),
                trigger.forgives(&no_role),
                trigger.is_retried(),
            )
        };
        assert_eq!(policy(Person), (0, false, false, false, false, false));
        assert_eq!(policy(Script), (900, true, false, true, false, false));
        assert_eq!(policy(UserData), (900, true, true, true, false, false));
        assert_eq!(policy(Boot), (900, true, true, true, true, true));
        assert!(!Boot.forgives(&Error::config("x")));
    }

    #[test]
    fn cloud_init_is_known_by_its_directory() {
        assert_eq!(Trigger::of_script(Path::new("/var/lib/cloud/instance/scripts/part-001")), Trigger::UserData);
        assert_eq!(Trigger::of_script(Path::new("/root/user-data")), Trigger::Script);
    }
}
