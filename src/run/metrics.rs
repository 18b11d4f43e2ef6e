//! What `status --metrics` writes: a text file for node_exporter's collector
//! (prometheus.io/docs/instrumenting/exposition_formats, "Text-based format"). Pure.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::report::{Report, RunState};
use super::status::Status;

/// What `status` found on the node.
pub struct Found<'a> {
    /// The last run since this boot, and how it ended.
    pub last: Option<(&'a Status, RunState)>,
    /// The current drift; none: the node could not be examined.
    pub now: Option<&'a Report>,
    /// Whether a reboot is due.
    pub is_reboot_due: bool,
}

/// Returns the file's contents at this time. It leaves out values that are unknown.
pub fn text(found: &Found<'_>, now: SystemTime) -> String {
    let mut text = String::new();
    let mut add = |name: &str, help: &str, labels: &[(&str, &str)], value: f64| {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let name = format!("titus_bootstrap_{name}");
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}");
    };
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().floor();
    add("info", "The version of titus-bootstrap.", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    if let Some((last, state)) = found.last {
        let labels = [("role", last.role.as_str()), ("state", state.name())];
        add("last_run_info", "The role and the result of the last run since this boot.", &labels, 1.0);
        add("last_run_success", "Whether the last run since this boot succeeded.", &[], number(!state.is_bad()));
        if let Ok(time) = humantime::parse_rfc3339(&last.time) {
            add(
                "last_run_timestamp_seconds",
                "When the last run ended, or began if it is at work.",
                &[],
                seconds(time),
            );
        }
        if !matches!(state, RunState::Running | RunState::Killed) {
            let duration = std::time::Duration::from_millis(last.duration_ms).as_secs_f64();
            add("last_run_duration_seconds", "How long the last run took.", &[], duration);
        }
    }
    let drifted = found.now.map(|now| now.steps.iter().filter(|step| step.drifts()).count());
    if let Some(drifted) = drifted {
        add("drifted_steps", "Steps that differ from the role.", &[], drifted as f64);
    }
    add("reboot_required", "Whether a reboot is due.", &[], number(found.is_reboot_due));
    add("status_success", "Whether status could examine this node.", &[], number(drifted.is_some()));
    add("status_timestamp_seconds", "When status examined this node.", &[], seconds(now));
    text
}

fn number(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Escapes a label's value: only `\`, `"` and line ends have a meaning there.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_unknown_is_left_out() {
        let now = UNIX_EPOCH + Duration::from_millis(1_764_140_400_500);
        let values = |found: &Found<'_>| {
            let text = text(found, now);
            let lines: Vec<String> =
                text.lines().filter(|line| !line.starts_with('#')).map(|line| line[16..].to_owned()).collect();
            lines.join("; ")
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            values(&Found { last: None, now: None, is_reboot_due: true }),
            format!(
                "info{{version=\"{version}\"}} 1; reboot_required 1; status_success 0; status_timestamp_seconds 1764140400"
            )
        );
        let report = Report { role: "a\\b\"c\nd".into(), duration_ms: 1500, ..Report::new("apply") };
        let last = Status {
            time: "2025-11-26T07:00:00Z".into(),
            ..crate::run::status::from_report(&report, RunState::Failed)
        };
        let found = Found { last: Some((&last, RunState::Failed)), now: Some(&report), is_reboot_due: false };
        assert_eq!(
            values(&found),
            format!(
                "info{{version=\"{version}\"}} 1; last_run_info{{role=\"a\\\\b\\\"c\\nd\",state=\"failed\"}} 1; \
                 last_run_success 0; last_run_timestamp_seconds 1764140400; last_run_duration_seconds 1.5; drifted_steps 0; \
                 reboot_required 0; status_success 1; status_timestamp_seconds 1764140400"
            )
        );
        let killed = values(&Found { last: Some((&last, RunState::Killed)), now: None, is_reboot_due: false });
        assert!(killed.contains("last_run_success 0") && !killed.contains("duration"), "{killed}");
    }
}
