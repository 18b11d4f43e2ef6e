//! One reboot, at the end of a run, and never a loop of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::{self, Patience};
use crate::host::fs::Owner;
use crate::settings::Settings;
use crate::settings::schema::Reboot;

const COUNTED: &str = "/var/lib/titus-bootstrap/reboots.json";
const UNIT: &str = "titus-bootstrap-reboot.service";

/// Reboots of one cause that are tried; one more is a failure.
const TRIES: usize = 2;

/// A reboot that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    boot_id: String,
    cause: String,
}

/// Reboots if the settings wish it; from user data through a unit that waits for cloud-init's end.
///
/// # Errors
/// When two reboots have not mended the same cause, or systemd refuses.
pub fn if_wished(host: &Host, settings: &Settings, reasons: &[String], from_user_data: bool) -> Result<()> {
    let default = if from_user_data { Reboot::IfNeeded } else { Reboot::Never };
    if !host.is_live() || settings.reboot.unwrap_or(default) == Reboot::Never {
        return Ok(());
    }
    count(host, &reasons.join("; "))?;
    tracing::info!("rebooting: {}", reasons.join("; "));
    let run = |argv: &[&str]| command::run(argv, &[], Patience::Ends, Duration::from_secs(90))?.succeeded().map(drop);
    if !from_user_data {
        return run(&["systemctl", "--no-block", "reboot"]);
    }
    if host.unit_file(UNIT)?.is_none() {
        let text = crate::role::built_in_template(UNIT).unwrap_or_default();
        host.write(&format!("/run/systemd/system/{UNIT}"), text.as_bytes(), 0o644, Owner::ROOT)?;
        host.reload_units_for(UNIT)?;
    }
    run(&["systemctl", "--no-block", "start", UNIT])
}

/// Counts this boot's wish; runs of one boot count once.
fn count(host: &Host, cause: &str) -> Result<()> {
    let boot_id = host.read_text("/proc/sys/kernel/random/boot_id")?.unwrap_or_default().trim().to_owned();
    let mut asked = asked(host, cause)?;
    let this = Asked { boot_id, cause: cause.to_owned() };
    if asked.contains(&this) {
        return Ok(());
    }
    let tried = asked.iter().filter(|before| before.cause == cause).count();
    if tried >= TRIES {
        return Err(Error::failed(format!("{tried} reboots have not mended it: {cause}"))
            .fix(format!("see why (cat /proc/cmdline, /boot/grub/grub.cfg), then remove {COUNTED}")));
    }
    asked.push(this);
    let text = serde_json::to_vec(&asked).map_err(|e| Error::failed("reboots cannot be counted").cause(e))?;
    host.write(COUNTED, &text, 0o600, Owner::ROOT)
}

/// What was asked before. A file that cannot be read counts as two of any cause.
fn asked(host: &Host, cause: &str) -> Result<Vec<Asked>> {
    let Some(bytes) = host.read(COUNTED)? else { return Ok(Vec::new()) };
    let unknown = |n: usize| Asked { boot_id: format!("unreadable {n}"), cause: cause.to_owned() };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| (0..TRIES).map(unknown).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_reboot_for_one_cause_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let boot = |id: &str| host.write("/proc/sys/kernel/random/boot_id", id.as_bytes(), 0o644, Owner::ROOT).unwrap();
        boot("one\n");
        count(&host, "kernel").unwrap();
        count(&host, "kernel").unwrap();
        boot("two\n");
        count(&host, "kernel").unwrap();
        boot("three\n");
        count(&host, "other").unwrap();
        assert!(count(&host, "kernel").unwrap_err().to_string().contains(COUNTED));
    }

    #[test]
    fn an_unreadable_count_is_two() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.write(COUNTED, b"[{", 0o600, Owner::ROOT).unwrap();
        count(&host, "kernel").unwrap_err();
    }
}
