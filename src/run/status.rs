//! What programs, and the next run of this boot, read about the last run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::journal;
use super::report::{ErrorReport, LifecycleAction, Partial, Report, RunState, Wait};
use super::trigger::Trigger;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::Owner;
use crate::secrets::masked;

/// The status of the last run since this boot.
pub const STATUS: &str = "/run/titus-bootstrap/status.json";

/// The status of a run.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The version of the layout.
    pub schema_version: u32,
    /// How it ended, or that it is running.
    pub state: RunState,
    /// The limits of a partial run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partial: Option<Partial>,
    /// Its name in the journal.
    pub run: String,
    /// The role.
    pub role: String,
    /// The instance.
    pub instance_id: String,
    /// The instance's state in a warm pool.
    pub warm_pool: Option<String>,
    /// The last action that the instance's lifecycle hook received since this boot.
    pub lifecycle_action: Option<LifecycleAction>,
    /// What AWS has yet to provide.
    #[serde(default)]
    pub wait: Option<Wait>,
    /// The process that ran it.
    pub pid: u32,
    /// When this was written, RFC 3339.
    pub time: String,
    /// Who started it.
    #[serde(default)]
    pub trigger: Option<Trigger>,
    /// How long it took, in milliseconds; 0 if it has not ended.
    #[serde(default)]
    pub duration_ms: u64,
    /// Whether a reboot is due.
    pub reboot_required: bool,
    /// Why.
    #[serde(default)]
    pub reboot_reasons: Vec<String>,
    /// Why it failed.
    pub error: Option<ErrorReport>,
    /// A later run that was refused. It changed nothing, so it must not hide how this one ended.
    #[serde(default)]
    pub refused: Option<Refusal>,
}

impl Status {
    /// Whether the instance was in a warm pool at the end of the run. A partial run does not hide this.
    pub fn was_in_warm_pool(&self) -> bool {
        self.state == RunState::WarmPool || (self.state == RunState::Partial && self.warm_pool.is_some())
    }
}

/// A run that was refused, and that nothing repeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// When, RFC 3339.
    pub time: String,
    /// Who started it.
    pub trigger: Option<Trigger>,
    /// The role; empty: unknown.
    pub role: String,
    /// Why.
    pub error: ErrorReport,
}

/// The status of the last run since this boot; none: there was no run, or its status is damaged.
///
/// # Errors
/// Fails when the file exists but cannot be read.
pub fn read(host: &Host) -> Result<Option<Status>> {
    Ok(host.read(STATUS)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// Writes the status of a run, readable for root and its group, because it quotes errors and the output of commands. If it
/// cannot be written, the run warns.
pub fn write(host: &Host, report: &Report, state: RunState) {
    write_or_warn(host, &from_report(report, state));
}

/// Records a refused run beside the status of the last run. It becomes the status itself only if there is none, or if that
/// one is another person's refused run.
pub fn note_refusal(host: &Host, report: &Report) {
    let this = from_report(report, report.result);
    let is_refusal = |last: &Status| last.state == RunState::Refused && last.trigger == Some(Trigger::Person);
    let status = match (read(host).ok().flatten().filter(|last| !is_refusal(last)), this.error.clone()) {
        (Some(last), Some(error)) => {
            let Status { time, trigger, role, .. } = this;
            Status { refused: Some(Refusal { time, trigger, role, error }), ..last }
        }
        _ => this,
    };
    write_or_warn(host, &status);
}

fn write_or_warn(host: &Host, status: &Status) {
    if let Err(error) = try_write(host, status) {
        journal::warn(&error);
    }
}

pub(super) fn from_report(report: &Report, state: RunState) -> Status {
    Status {
        schema_version: report.schema_version,
        state,
        partial: report.partial.clone(),
        run: report.run.clone(),
        role: report.role.clone(),
        instance_id: report.instance_id.clone(),
        warm_pool: report.warm_pool.clone(),
        lifecycle_action: report.lifecycle_action,
        wait: report.wait.clone(),
        pid: std::process::id(),
        time: humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
        trigger: report.trigger,
        duration_ms: report.duration_ms,
        reboot_required: report.reboot_required,
        reboot_reasons: report.reboot_reasons.iter().map(|reason| masked(reason)).collect(),
        error: report.error.clone(),
        refused: None,
    }
}

fn try_write(host: &Host, status: &Status) -> Result<()> {
    let text = serde_json::to_string(status).map_err(|e| Error::failed("the status cannot be printed").cause(e))?;
    host.write(STATUS, format!("{text}\n").as_bytes(), 0o640, Owner::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_run_by_hand_does_not_hide_another_run() {
        let (_directory, host) = Host::temporary();
        let report = |trigger| Report { trigger: Some(trigger), ..Report::new("apply") };
        let refuse = |what: &str| {
            let mut report = report(Trigger::Person);
            report.end(Some(&Error::config(what)), false);
            note_refusal(&host, &report);
            read(&host).unwrap().unwrap()
        };
        // Without another run the refusal is the status, and a later refusal replaces it.
        for what in ["first", "second"] {
            let status = refuse(what);
            assert_eq!((status.state, status.refused), (RunState::Refused, None));
            assert_eq!(status.error.unwrap().what, what);
        }
        for state in [RunState::Converged, RunState::Failed, RunState::Refused, RunState::WarmPool] {
            write(&host, &report(Trigger::Boot), state);
            assert_eq!(refuse("x").state, state);
            let status = refuse("y");
            assert_eq!((status.state, status.refused.map(|refused| refused.error.what)), (state, Some("y".into())));
        }
        // A run that changes something removes the refusal before it.
        write(&host, &report(Trigger::Person), RunState::Running);
        assert_eq!(read(&host).unwrap().unwrap().refused, None);
    }

    #[test]
    fn a_status_is_read_back_and_a_damaged_one_is_none() {
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
