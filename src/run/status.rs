//! What programs, and the next run of this boot, read of the last run.

use serde::{Deserialize, Serialize};

use super::journal;
use super::report::{ErrorReport, LifecycleAction, Report, RunState};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::Owner;

/// The status of the last run since this boot.
pub const STATUS: &str = "/run/titus-bootstrap/status.json";

/// The status of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The layout.
    pub schema_version: u32,
    /// How it ended, or that it is at work.
    pub state: RunState,
    /// Its name in the journal.
    pub run: String,
    /// The role.
    pub role: String,
    /// The instance.
    pub instance_id: String,
    /// The instance's state in a warm pool.
    pub warm_pool: Option<String>,
    /// What the instance's lifecycle hook heard since this boot.
    pub lifecycle_action: Option<LifecycleAction>,
    /// The process that ran it.
    pub pid: u32,
    /// When this was written, RFC 3339.
    pub time: String,
    /// Whether a reboot is due.
    pub reboot_required: bool,
    /// Why it failed.
    pub error: Option<ErrorReport>,
}

/// The status that the last run since this boot left; none: there was no run, or what it left is damaged.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(host: &Host) -> Result<Option<Status>> {
    Ok(host.read(STATUS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes the status of a run, for root and its group: it says why a run failed, and what commands printed. One that
/// cannot be written is a warning.
pub fn write(host: &Host, report: &Report, state: RunState) {
    if let Err(error) = try_write(host, report, state) {
        journal::warn(&error);
    }
}

fn try_write(host: &Host, report: &Report, state: RunState) -> Result<()> {
    let status = Status {
        schema_version: report.schema_version,
        state,
        run: report.run.clone(),
        role: report.role.clone(),
        instance_id: report.instance_id.clone(),
        warm_pool: report.warm_pool.clone(),
        lifecycle_action: report.lifecycle_action,
        pid: std::process::id(),
        time: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        reboot_required: report.reboot_required,
        error: report.error.clone(),
    };
    let text = serde_json::to_string(&status).map_err(|e| Error::failed("the status cannot be printed").cause(e))?;
    host.write(STATUS, format!("{text}\n").as_bytes(), 0o640, Owner::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_what_is_damaged_is_none() {
        let (_directory, host) = Host::temporary();
        assert!(read(&host).unwrap().is_none());
        let mut report = Report::new("apply");
        report.lifecycle_action = Some(LifecycleAction::Continue);
        report.end(Some(&Error::config("x")), false);
        write(&host, &report, report.result);
        let status = read(&host).unwrap().unwrap();
        assert_eq!((status.state, status.lifecycle_action), (RunState::Refused, Some(LifecycleAction::Continue)));
        assert_eq!(status.error.unwrap().exit_code, 78);
        host.write(STATUS, b"{\"state\":", 0o644, Owner::ROOT).unwrap();
        assert!(read(&host).unwrap().is_none());
    }
}
