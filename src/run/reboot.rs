//! One reboot at the end of a run, and never a loop of reboots.

use serde::{Deserialize, Serialize};

use super::trigger::Trigger;
use crate::error::{Error, Result};
use crate::host::fs::Owner;
use crate::host::systemd::Job;
use crate::host::{Host, signals};
use crate::settings::Settings;
use crate::settings::schema::Reboot;

const COUNTED: &str = "/var/lib/titus-bootstrap/reboots.json";
const UNIT: &str = "titus-bootstrap-reboot.service";
/// The last service of cloud-init, which runs user data.
const CLOUD_FINAL: &str = "cloud-final.service";

/// How many reboots to try for one cause; one more is a failure.
const TRIES: usize = 2;

/// A requested reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Requested {
    /// An image of a used node contains this file too, and the reboots of that node do not count here.
    instance_id: String,
    boot_id: String,
    cause: String,
}

/// Whether this run reboots when there is a reason. A run by hand does not, unless the settings say so.
pub fn is_wanted(host: &Host, settings: &Settings, trigger: Trigger) -> bool {
    host.is_live() && settings.reboot.unwrap_or(trigger.reboot()) == Reboot::IfNeeded
}

/// Returns this boot's request, all earlier requests, and how many of them had the same cause.
fn request(host: &Host, instance_id: &str, reasons: &[String]) -> Result<(Requested, Vec<Requested>, usize)> {
    let boot_id = host.read_text("/proc/sys/kernel/random/boot_id")?.unwrap_or_default().trim().to_owned();
    let this = Requested { instance_id: instance_id.to_owned(), boot_id, cause: reasons.join("; ") };
    let requested = requested(host, &this)?;
    let same = |before: &&Requested| before.instance_id == this.instance_id && before.cause == this.cause;
    let tried = requested.iter().filter(same).count();
    Ok((this, requested, tried))
}

/// Whether another reboot for this cause is allowed. If the count cannot be read, `count` reports it.
pub fn has_tries_left(host: &Host, instance_id: &str, reasons: &[String]) -> bool {
    request(host, instance_id, reasons).is_ok_and(|(this, requested, tried)| requested.contains(&this) || tried < TRIES)
}

/// Counts this boot's request before the reboot. All runs of one boot count once.
///
/// # Errors
/// Fails when two reboots have not fixed the same cause.
pub fn count(host: &Host, instance_id: &str, reasons: &[String]) -> Result<()> {
    let (this, mut requested, tried) = request(host, instance_id, reasons)?;
    if requested.contains(&this) {
        return Ok(());
    }
    if tried >= TRIES {
        return Err(Error::failed(format!("{tried} reboots have not fixed it: {}", this.cause))
            .fix(format!("see why (cat /proc/cmdline /boot/grub/grub.cfg), then remove {COUNTED}")));
    }
    requested.push(this);
    let text = serde_json::to_vec(&requested).map_err(|e| Error::failed("reboots cannot be counted").cause(e))?;
    host.write(COUNTED, &text, 0o600, Owner::ROOT)
}

/// Reads the earlier requests. A file that cannot be read counts as two requests for this cause.
fn requested(host: &Host, this: &Requested) -> Result<Vec<Requested>> {
    let Some(bytes) = host.read(COUNTED)? else { return Ok(Vec::new()) };
    let unknown = |n: usize| Requested { boot_id: format!("unreadable {n}"), ..this.clone() };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|_| (0..TRIES).map(unknown).collect()))
}

/// Whether cloud-init is still running in this boot. If systemd does not respond, assume that it has ended.
pub fn awaits_cloud_init(host: &Host) -> bool {
    host.is_under_way(CLOUD_FINAL).unwrap_or(false)
}

/// Reboots. From user data, and at boot while cloud-init is running, it does so through a unit that waits until cloud-init
/// ends: cloud-init would never run the rest again.
///
/// # Errors
/// Fails when systemd refuses, or after a signal.
pub fn reboot(host: &Host, reasons: &[String], trigger: Trigger) -> Result<()> {
    signals::check()?;
    tracing::info!("rebooting: {}", reasons.join("; "));
    let plain = match trigger {
        Trigger::Person => true,
        Trigger::Script | Trigger::UserData => false,
        Trigger::Boot => !host.is_under_way(CLOUD_FINAL)?,
    };
    if plain {
        return host.queue_job(Job::Reboot);
    }
    if host.unit_file(UNIT)?.is_none() {
        let text = crate::role::built_in_template(UNIT).unwrap_or_default();
        host.write(&format!("/run/systemd/system/{UNIT}"), text.as_bytes(), 0o644, Owner::ROOT)?;
        host.reload_units_for(UNIT)?;
    }
    host.queue_job(Job::Start(UNIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_third_reboot_for_one_cause_is_a_failure() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let boot = |id: &str| host.write("/proc/sys/kernel/random/boot_id", id.as_bytes(), 0o644, Owner::ROOT).unwrap();
        let count = |instance: &str, cause: &str| count(&host, instance, &[cause.to_owned()]);
        boot("one\n");
        count("i-1", "kernel").unwrap();
        count("i-1", "kernel").unwrap();
        boot("two\n");
        count("i-1", "kernel").unwrap();
        boot("three\n");
        count("i-1", "other").unwrap();
        count("i-2", "kernel").unwrap();
        assert!(has_tries_left(&host, "i-1", &["other".to_owned()]));
        assert!(!has_tries_left(&host, "i-1", &["kernel".to_owned()]));
        assert!(count("i-1", "kernel").unwrap_err().to_string().contains(COUNTED));
    }

    #[test]
    fn an_unreadable_count_is_two() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.write(COUNTED, b"[{", 0o600, Owner::ROOT).unwrap();
        count(&host, "i-1", &["kernel".to_owned()]).unwrap_err();
    }
}
