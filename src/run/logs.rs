//! The runs of the journal, and what each did.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::headline::short;
use super::journal::Event;
use super::report::RunState;
use super::trigger::Trigger;
use crate::error::{Error, Kind, Result};
use crate::settings::nearest;

/// One run, or one pass of `keep`, that changed something or tried to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Run {
    /// Its place in the list, from 1. The journal drops old runs, so a run's number can change; its name does not.
    pub number: usize,
    /// Its name in the journal.
    pub run: String,
    /// Whether the timer of `keep` started it.
    pub keep: bool,
    /// Who started it; absent for `keep`, and in journals of older versions.
    pub trigger: Option<Trigger>,
    /// The role.
    pub role: String,
    /// When its first event was written, RFC 3339.
    pub started: String,
    /// From its first event to its last, in milliseconds; absent if the clock was set back.
    pub duration_ms: Option<u64>,
    /// How it ended.
    pub result: String,
    /// The steps that it changed.
    pub changed: Vec<String>,
}

/// Returns the runs in these events, oldest first. `running` is the current run.
pub fn runs(events: &[Event], keep_events: &[Event], running: Option<&str>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (events, keep) in [(events, false), (keep_events, true)] {
        let mut known: Vec<&str> = Vec::new();
        for first in events {
            if known.contains(&first.run.as_str()) {
                continue;
            }
            known.push(&first.run);
            runs.push(run(&events_of(events, &first.run), first, keep, running));
        }
    }
    // RFC 3339 in UTC sorts as text.
    runs.sort_by(|one, other| one.started.cmp(&other.started));
    runs.iter_mut().enumerate().for_each(|(n, run)| run.number = n + 1);
    runs
}

/// Returns the events of a run.
pub fn events_of<'a>(events: &'a [Event], run: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.run == run).collect()
}

fn run(events: &[&Event], first: &Event, keep: bool, running: Option<&str>) -> Run {
    let time = |event: &Event| humantime::parse_rfc3339(&event.time).ok();
    let last = events.last().copied().unwrap_or(first);
    let duration = time(last).zip(time(first)).and_then(|(last, first)| last.duration_since(first).ok());
    let last_event = |name: &str| events.iter().rev().find(|event| event.event == name);
    let ended = last_event("ended").map(|event| event.lines.first().map_or(RunState::Converged.name(), String::as_str));
    let result = match ended {
        Some(result) => result,
        None if running == Some(first.run.as_str()) => RunState::Running.name(),
        None if last_event("interrupted").is_some() => RunState::Interrupted.name(),
        None if last_event("failed").is_some() => RunState::Failed.name(),
        None => RunState::Killed.name(),
    };
    let finished = events.iter().filter(|event| event.event == "finished").filter_map(|event| event.step.clone());
    let mut changed: Vec<String> = Vec::new();
    for step in finished {
        if !changed.contains(&step) {
            changed.push(step);
        }
    }
    Run {
        number: 0,
        run: first.run.clone(),
        keep,
        trigger: first.trigger,
        role: first.role.clone(),
        started: first.time.clone(),
        duration_ms: duration.and_then(|duration| u64::try_from(duration.as_millis()).ok()),
        result: result.to_owned(),
        changed,
    }
}

/// Finds the run that a person names: by its number, its name, or `last`.
///
/// # Errors
/// Fails with 64 when there is no such run.
pub fn find<'a>(runs: &'a [Run], name: &str) -> Result<&'a Run> {
    let found = match name {
        "last" => runs.last(),
        _ => runs.iter().find(|run| run.run == name || run.number.to_string() == name),
    };
    found.ok_or_else(|| {
        let error = Error::new(Kind::Usage, format!("the journal has no run {name:?}"));
        let fix = match nearest(name, runs.iter().map(|run| run.run.as_str()).chain(["last"])) {
            _ if runs.is_empty() => "it is empty: no run has changed anything on this node".to_owned(),
            Some(like) => format!("did you mean `{like}`?"),
            None => format!("name one from 1 to {}, its name, or last: titus-bootstrap logs lists them", runs.len()),
        };
        error.fix(fix)
    })
}

impl Run {
    fn who(&self) -> &'static str {
        match self.trigger {
            _ if self.keep => "keep",
            Some(trigger) => trigger.words(),
            None => "-",
        }
    }

    fn took(&self) -> String {
        self.duration_ms.map_or_else(|| "-".to_owned(), |ms| length(Duration::from_millis(ms)))
    }

    /// Returns its first steps, and how many there are.
    fn steps(&self) -> String {
        const SHOWN: usize = 4;
        let shown: Vec<&str> = self.changed.iter().take(SHOWN).map(String::as_str).collect();
        match self.changed.len() {
            0 => "nothing".into(),
            n if n > SHOWN => format!("{n} steps: {}, …", shown.join(", ")),
            n => format!("{n} {}: {}", if n == 1 { "step" } else { "steps" }, shown.join(", ")),
        }
    }
}

fn length(length: Duration) -> String {
    if length < Duration::from_secs(60) { format!("{:.1} s", length.as_secs_f64()) } else { short(length) }
}

/// The list for people: one line for each run, newest last.
pub fn table(runs: &[Run]) -> String {
    if runs.is_empty() {
        return "no run has changed anything on this node\n".into();
    }
    let header = ["run", "started", "trigger", "role", "result", "duration", "changed"].map(str::to_owned);
    let row = |run: &Run| {
        let (number, who) = (run.number.to_string(), run.who().to_owned());
        [number, run.started.clone(), who, run.role.clone(), run.result.clone(), run.took(), run.steps()]
    };
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(runs.iter().map(row)).collect();
    crate::run::report::aligned(&rows)
}

/// One run for people: its summary, and each event.
pub fn story(run: &Run, events: &[&Event]) -> String {
    let mut text = format!(
        "run {} ({}): {}, role {}, {}, {} to {}\n",
        run.number,
        run.run,
        run.result,
        run.role,
        run.who(),
        run.started,
        events.last().map_or("", |event| &event.time),
    );
    for event in events {
        let step = event.step.as_ref().map_or(String::new(), |step| format!(" {step}"));
        let lines: Vec<&str> = event.lines.iter().flat_map(|line| line.lines()).collect();
        let (first, rest) = lines.split_first().map_or(("", [].as_slice()), |(first, rest)| (*first, rest));
        let colon = if first.is_empty() { "" } else { ": " };
        text.push_str(&format!("{}  {}{step}{colon}{first}\n", event.time, event.event));
        rest.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(run: &str, second: u32, name: &str, step: Option<&str>, lines: &[&str]) -> Event {
        let text = serde_json::json!({
            "schema_version": 1, "time": format!("2026-11-26T07:00:{second:02}Z"), "run": run, "boot_id": "",
            "instance_id": "", "role": "agent", "role_digest": "", "event": name, "step": step, "lines": lines,
            "trigger": if run == "old" { None } else { Some("boot") },
        });
        serde_json::from_value(text).unwrap()
    }

    fn events() -> Vec<Event> {
        vec![
            event("old", 1, "started", Some("a"), &["write"]),
            event("old", 2, "finished", Some("a"), &[]),
            event("old", 3, "ended", None, &["converged"]),
            event("dead", 5, "started", Some("a"), &["write"]),
            event("bad", 10, "started", Some("b"), &["one", "two"]),
            event("bad", 11, "failed", Some("b"), &["no"]),
            event("bad", 11, "ended", None, &["failed"]),
            event("stopped", 12, "interrupted", None, &["SIGTERM"]),
            event("now", 20, "started", Some("c"), &[]),
        ]
    }

    #[test]
    fn each_run_says_how_it_ended() {
        let keep = [event("kept", 4, "started", Some("g"), &["x"]), event("kept", 4, "ended", None, &[])];
        let runs = runs(&events(), &keep, Some("now"));
        let rows: Vec<(usize, &str, &str, &str)> =
            runs.iter().map(|run| (run.number, run.run.as_str(), run.result.as_str(), run.who())).collect();
        assert_eq!(
            rows,
            [
                (1, "old", "converged", "-"),
                (2, "kept", "converged", "keep"),
                (3, "dead", "killed", "at boot"),
                (4, "bad", "failed", "at boot"),
                (5, "stopped", "interrupted", "at boot"),
                (6, "now", "running", "at boot"),
            ]
        );
        assert_eq!((runs[0].duration_ms, runs[0].changed.as_slice()), (Some(2000), ["a".to_owned()].as_slice()));
        let table = table(&runs);
        assert!(table.lines().nth(1).unwrap().ends_with("converged    2.0 s     1 step: a"), "{table}");
    }

    #[test]
    fn a_run_is_found_by_number_name_and_last() {
        let runs = runs(&events(), &[], None);
        for (name, found) in [("1", "old"), ("bad", "bad"), ("last", "now"), ("5", "now")] {
            assert_eq!(find(&runs, name).unwrap().run, found);
        }
        for (name, words) in
            [("0", "from 1 to 5"), ("6", "from 1 to 5"), ("stoped", "did you mean `stopped`?"), ("", "1 to 5")]
        {
            let error = find(&runs, name).unwrap_err();
            assert!(error.kind == Kind::Usage && error.to_string().contains(words), "{error}");
        }
        assert!(find(&[], "last").unwrap_err().to_string().contains("no run has changed anything"));
    }

    #[test]
    fn a_run_is_shown_event_by_event() {
        let (events, runs) = (events(), runs(&events(), &[], None));
        let bad = find(&runs, "bad").unwrap();
        let text = story(bad, &events_of(&events, "bad"));
        assert_eq!(
            text,
            "run 3 (bad): failed, role agent, at boot, 2026-11-26T07:00:10Z to 2026-11-26T07:00:11Z\n\
             2026-11-26T07:00:10Z  started b: one\n    two\n2026-11-26T07:00:11Z  failed b: no\n\
             2026-11-26T07:00:11Z  ended: failed\n"
        );
    }
}
