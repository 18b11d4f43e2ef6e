//! What `status` prints first: how the last run ended, and after a failure why, and what to do. A pure function of what is
//! on disk, so it needs no network.

use std::time::{Duration, SystemTime};

use super::BOOT_UNIT;
use super::journal::{Event, LAST_LOG};
use super::report::{ErrorReport, RunState};
use super::status::{Refusal, Status};
use super::trigger::Trigger;
use crate::activity::length;
use crate::error::excerpt;

/// The records of runs.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// The status of the last run since this boot; none: there was no run.
    pub last: Option<&'a Status>,
    /// Whether that status could not be read.
    pub is_unreadable: bool,
    /// Whether the boot unit is masked.
    pub is_masked: bool,
    /// The process that holds the lock.
    pub holder: Option<&'a str>,
    /// The journal of runs.
    pub events: &'a [Event],
}

impl Known<'_> {
    /// How the last run ended. A run that is marked as running but does not hold the lock was killed.
    pub fn state(&self) -> Option<RunState> {
        self.last.map(|last| match (last.state, self.holder) {
            (RunState::Running, None) => RunState::Killed,
            (state, _) => state,
        })
    }
}

/// The headline and its details.
pub fn lines(known: &Known<'_>, now: SystemTime) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(holder) = known.holder {
        lines.push(format!("a run is at work: {holder}"));
    }
    match (known.last, known.state()) {
        (Some(last), Some(state)) => last_run(last, state, now, &mut lines),
        _ if known.is_unreadable => lines.push("the result of the last run is unknown".into()),
        _ => lines.push("no run since this boot".into()),
    }
    if known.last.is_none() && known.is_masked {
        lines.push(format!("  cause:  {BOOT_UNIT} is masked"));
        lines.push(format!("  fix:    systemctl unmask {BOOT_UNIT}"));
    }
    lines.extend(last_change(known, now));
    lines
}

fn last_run(last: &Status, state: RunState, now: SystemTime, lines: &mut Vec<String>) {
    let role = if last.role.is_empty() { "role unknown".to_owned() } else { format!("role {}", last.role) };
    let who = last.trigger.map_or(String::new(), |trigger| format!(", {}", trigger.words()));
    let duration = match (state, last.duration_ms) {
        (RunState::Running | RunState::Killed, _) | (_, 0) => String::new(),
        (_, ms) => format!(", after {}", length(Duration::from_millis(ms))),
    };
    lines.push(format!("last run: {}, {role}{who}, {}{duration}", state.name(), when(&last.time, now)));
    if let Some(partial) = &last.partial {
        lines.push(format!("  {}", partial.line()));
    }
    match (&last.wait, &last.error, state) {
        (Some(wait), Some(error), _) => lines.push(format!("  {}", wait.line(error))),
        (None, Some(error), _) => {
            failure(error, lines);
            lines.push(next(last, state));
        }
        (_, None, RunState::Killed) => {
            lines.push(
                "  cause:  its process ended before the run did: a signal that nothing can catch, or a crash".into(),
            );
            lines.push("  fix:    run titus-bootstrap again: it continues from there".into());
            lines.push(next(last, state));
        }
        (_, None, RunState::Partial) => lines.push(next(last, state)),
        _ => {}
    }
    if let Some(Refusal { time, trigger, role, error }) = &last.refused {
        let role = if role.is_empty() { String::new() } else { format!(", role {role}") };
        let who = trigger.map_or(String::new(), |trigger| format!(", {}", trigger.words()));
        lines.push(format!("a later run was refused and changed nothing: {}{role}{who}", when(time, now)));
        failure(error, lines);
    }
}

/// Adds the step, the error, its cause with the unit's last lines of output, and the fix.
fn failure(error: &ErrorReport, lines: &mut Vec<String>) {
    let mut add = |label: &str, text: &str| {
        for (n, line) in excerpt(text).into_iter().enumerate() {
            let label = if n == 0 { format!("{label}:") } else { String::new() };
            lines.push(format!("  {label:<7} {line}"));
        }
    };
    for (label, text) in [
        ("step", error.step.as_deref()),
        ("error", Some(error.what.as_str())),
        ("cause", error.cause.as_deref()),
        ("fix", error.fix.as_deref()),
    ] {
        if let Some(text) = text {
            add(label, text);
        }
    }
}

/// The command to type next.
fn next(last: &Status, state: RunState) -> String {
    // If a person named the role, it may have no other source.
    let is_named = last.trigger == Some(Trigger::Person) && !last.role.is_empty() && !last.role.contains(", ");
    let role = if is_named { format!(" --role {}", last.role) } else { String::new() };
    let command = match state {
        RunState::Refused => format!("titus-bootstrap plan{role}, which is refused until that is fixed"),
        _ => format!("titus-bootstrap plan{role} shows what is left, titus-bootstrap apply{role} does it"),
    };
    let log = match last.trigger {
        Some(Trigger::Person) if !last.run.is_empty() && state != RunState::Killed => Some(format!("less {LAST_LOG}")),
        Some(trigger) => trigger.details_command().map(str::to_owned),
        None => None,
    };
    let log = log.map_or(String::new(), |log| format!("; full log: {log}"));
    format!("  next:   {command}{log}")
}

/// The last entry of the journal, which survives a reboot and a refused run.
fn last_change(known: &Known<'_>, now: SystemTime) -> Vec<String> {
    let Some(event) = known.events.last() else { return Vec::new() };
    let what = match (event.event.as_str(), &event.step) {
        ("ended", _) => format!("a run of role {} ended: {}", event.role, event.lines.join("; ")),
        (word, Some(step)) => format!("{word} step {step} of role {}", event.role),
        (word, None) => format!("{word}, role {}", event.role),
    };
    let mut lines = vec![format!("last change: {}, {what}", when(&event.time, now))];
    let is_reported = known.last.is_some_and(|last| last.run == event.run);
    let failed = known.events.iter().rfind(|other| other.run == event.run && other.event == "failed");
    if let Some(failed) = failed.filter(|_| !is_reported) {
        let step = failed.step.as_deref().unwrap_or_default();
        lines.push(format!("  it failed at step {step}: {}", failed.lines.join("; ")));
    }
    lines
}

/// A time, and how long ago that was. If the clock was set back since then, the age is left out.
fn when(time: &str, now: SystemTime) -> String {
    let age = humantime::parse_rfc3339(time).ok().and_then(|then| now.duration_since(then).ok());
    age.map_or_else(|| time.to_owned(), |age| format!("{time} ({} ago)", short(age)))
}

/// A length of time in its largest unit, or its two largest.
pub fn short(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::run::report::{Partial, Report, Wait};

    const TIME: &str = "2026-11-26T07:00:00Z";

    fn status(state: RunState, trigger: Trigger, error: Option<&Error>) -> Status {
        let report = Report {
            trigger: Some(trigger),
            role: "agent".into(),
            run: "r1".into(),
            duration_ms: 12_345,
            error: error.map(ErrorReport::from),
            ..Report::new("apply")
        };
        Status { time: TIME.into(), ..crate::run::status::from_report(&report, state) }
    }

    fn event(name: &str, step: Option<&str>, line: &str) -> Event {
        let text = serde_json::json!({
            "schema_version": 1, "time": TIME, "run": "r0", "boot_id": "", "instance_id": "", "role": "agent",
            "role_digest": "", "event": name, "step": step, "lines": [line],
        });
        serde_json::from_value(text).unwrap()
    }

    #[track_caller]
    fn assert_lines(known: &Known<'_>, expected: &[&str]) {
        let now = humantime::parse_rfc3339(TIME).unwrap() + Duration::from_secs(3 * 60 + 5);
        assert_eq!(lines(known, now), expected);
    }

    fn known_from(status: &Status) -> Known<'_> {
        Known { last: Some(status), ..Known::default() }
    }

    #[test]
    fn a_run_that_ended_well_is_one_line() {
        for (state, trigger, line) in [
            (
                RunState::Converged,
                Trigger::Boot,
                "last run: converged, role agent, at boot, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
            ),
            (
                RunState::WarmPool,
                Trigger::UserData,
                "last run: warm_pool, role agent, from user data, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
            ),
        ] {
            assert_lines(&known_from(&status(state, trigger, None)), &[line]);
        }
        assert_lines(&Known::default(), &["no run since this boot"]);
        assert_lines(
            &Known { is_masked: true, ..Known::default() },
            &[
                "no run since this boot",
                "  cause:  titus-bootstrap.service is masked",
                "  fix:    systemctl unmask titus-bootstrap.service",
            ],
        );
        assert_lines(&Known { is_unreadable: true, ..Known::default() }, &["the result of the last run is unknown"]);
    }

    #[test]
    fn a_failure_has_its_step_cause_last_words_fix_and_next_command() {
        let words = "x.service is failed (failed), exit status 7; the last lines of its journal since its start:\n\
                     one\ntwo\n\nthree\nfour\nfive\nsix\n";
        let error = Error::failed("agent: step 7/23 agent: x.service did not start").in_step("agent");
        let error = error.cause(words).fix("fix the cause\nand run it again");
        assert_lines(
            &known_from(&status(RunState::Failed, Trigger::Boot, Some(&error))),
            &[
                "last run: failed, role agent, at boot, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                "  step:   agent",
                "  error:  agent: step 7/23 agent: x.service did not start",
                "  cause:  x.service is failed (failed), exit status 7; the last lines of its journal since its start:",
                "          three",
                "          four",
                "          five",
                "          six",
                "  fix:    fix the cause",
                "          and run it again",
                "  next:   titus-bootstrap plan shows what is left, titus-bootstrap apply does it; full log: \
                 journalctl --boot --unit titus-bootstrap",
            ],
        );
        let interrupted = Error::new(Kind::Interrupted, "SIGTERM");
        assert_lines(
            &known_from(&status(RunState::Interrupted, Trigger::Person, Some(&interrupted))),
            &[
                "last run: interrupted, role agent, by hand, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                "  error:  SIGTERM",
                "  next:   titus-bootstrap plan --role agent shows what is left, titus-bootstrap apply --role agent does \
                 it; full log: less /var/log/titus-bootstrap/last.log",
            ],
        );
    }

    #[test]
    fn a_partial_run_says_what_it_left_out_and_what_does_the_rest() {
        let partial = Partial { only: vec!["docker".into(), "unit".into()], skip: vec!["x".into()], left_out: 21 };
        let limited = |state, error| Status { partial: Some(partial.clone()), ..status(state, Trigger::Person, error) };
        let line = "  partial: only docker, unit, without x; 21 steps were left out";
        let done = limited(RunState::Partial, None);
        assert_lines(
            &known_from(&done),
            &[
                "last run: partial, role agent, by hand, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                line,
                "  next:   titus-bootstrap plan --role agent shows what is left, titus-bootstrap apply --role agent does \
                 it; full log: less /var/log/titus-bootstrap/last.log",
            ],
        );
        let error = Error::failed("no");
        let failed = lines(&known_from(&limited(RunState::Failed, Some(&error))), SystemTime::UNIX_EPOCH);
        assert_eq!((failed[1].as_str(), failed[2].as_str()), (line, "  error:  no"));
    }

    #[test]
    fn a_run_that_says_that_it_is_at_work_is_at_work_or_was_killed() {
        let running = status(RunState::Running, Trigger::Person, None);
        assert_lines(
            &Known { holder: Some("process 7"), ..known_from(&running) },
            &[
                "a run is at work: process 7",
                "last run: running, role agent, by hand, 2026-11-26T07:00:00Z (3 min ago)",
            ],
        );
        assert_lines(
            &known_from(&running),
            &[
                "last run: killed, role agent, by hand, 2026-11-26T07:00:00Z (3 min ago)",
                "  cause:  its process ended before the run did: a signal that nothing can catch, or a crash",
                "  fix:    run titus-bootstrap again: it continues from there",
                "  next:   titus-bootstrap plan --role agent shows what is left, titus-bootstrap apply --role agent does it",
            ],
        );
    }

    #[test]
    fn a_refused_run_stands_beside_the_one_that_changed_something() {
        let error = Error::config("role agent needs agent.log_bucket").fix("set it");
        let refusal = Refusal {
            time: "2026-11-26T07:02:00Z".into(),
            trigger: Some(Trigger::Person),
            role: String::new(),
            error: ErrorReport::from(&error),
        };
        let last = Status { refused: Some(refusal), ..status(RunState::Converged, Trigger::Boot, None) };
        assert_lines(
            &known_from(&last),
            &[
                "last run: converged, role agent, at boot, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                "a later run was refused and changed nothing: 2026-11-26T07:02:00Z (1 min ago), by hand",
                "  error:  role agent needs agent.log_bucket",
                "  fix:    set it",
            ],
        );
        let refused = Status { run: String::new(), ..status(RunState::Refused, Trigger::Boot, Some(&error)) };
        let events = [event("failed", Some("docker"), "did not start"), event("ended", None, "failed")];
        assert_lines(
            &Known { events: &events, ..known_from(&refused) },
            &[
                "last run: refused, role agent, at boot, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                "  error:  role agent needs agent.log_bucket",
                "  fix:    set it",
                "  next:   titus-bootstrap plan, which is refused until that is fixed; full log: journalctl --boot \
                 --unit titus-bootstrap",
                "last change: 2026-11-26T07:00:00Z (3 min ago), a run of role agent ended: failed",
                "  it failed at step docker: did not start",
            ],
        );
    }

    #[test]
    fn a_wait_says_what_for_and_since_when() {
        let error = Error::config("no role").cause("one\ntwo");
        let wait = Wait { awaits: "the role".into(), since: TIME.into(), said: TIME.into(), limit: "10m".into() };
        let last = Status { wait: Some(wait), ..status(RunState::Waits, Trigger::Boot, Some(&error)) };
        assert_lines(
            &known_from(&last),
            &[
                "last run: waits, role agent, at boot, 2026-11-26T07:00:00Z (3 min ago), after 12.3 s",
                "  waiting for the role since 2026-11-26T07:00:00Z: no role (one; two); it is tried again until this \
                 machine has run for 10m",
            ],
        );
    }

    #[test]
    fn lengths_and_clocks() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3660, "1 h 1 min"), (90_000, "1 d 1 h")]
        {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        let before = humantime::parse_rfc3339(TIME).unwrap() - Duration::from_secs(1);
        assert_eq!((when(TIME, before), when("?", before)), (TIME.to_owned(), "?".to_owned()));
    }
}
