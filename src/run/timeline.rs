//! A run as bars: text for a terminal, an SVG for a browser. Both are pure functions of the journal's events.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::journal::Event;
use super::report::{Span, StepState};
use crate::activity::length;
use crate::terminal::{Form, printable};

/// A run and its parts, with their times.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Timeline {
    /// The run's name in the journal.
    pub run: String,
    /// When it ended, or when its last event was written, RFC 3339.
    pub time: String,
    /// The role.
    pub role: String,
    /// The instance; empty: unknown.
    pub instance_id: String,
    /// How it ended; empty: the journal does not say.
    pub result: String,
    /// The time to its end, or to its last event.
    pub duration_ms: u64,
    /// Its parts, sorted by start time.
    pub spans: Vec<Span>,
}

/// Columns of the text: name, duration, bar.
const LABEL: usize = 28;
const TIME: usize = 12;
const BAR: usize = 36;

/// Shorter parts are not shown, unless they changed something.
const SHORT_MS: u64 = 100;

impl Timeline {
    /// The last run that changed something; none: the journal has no such run.
    pub fn from_last_run(events: &[Event]) -> Option<Timeline> {
        let last = events.last()?;
        let events: Vec<&Event> = events.iter().filter(|event| event.run == last.run).collect();
        let ended = events.iter().find(|event| event.event == "ended");
        let last_ms = events.iter().map(|event| event.at_ms).max().unwrap_or_default();
        let mut spans = match ended {
            Some(ended) if !ended.spans.is_empty() => ended.spans.clone(),
            _ => spans_of_steps(&events, last_ms),
        };
        spans.sort_by_key(|span| span.at_ms);
        Some(Timeline {
            run: last.run.clone(),
            time: last.time.clone(),
            role: last.role.clone(),
            instance_id: last.instance_id.clone(),
            result: ended.and_then(|ended| ended.lines.first().cloned()).unwrap_or_default(),
            duration_ms: ended.and_then(|ended| ended.duration_ms).unwrap_or(last_ms).max(end(&spans)),
            spans,
        })
    }

    /// Describes the run in one line.
    fn heading(&self) -> String {
        let on = if self.instance_id.is_empty() { String::new() } else { format!(" on {}", self.instance_id) };
        let took = shown(self.duration_ms);
        let how = match self.result.as_str() {
            "" => format!("did not end, last event after {took}"),
            result => format!("{result} after {took}"),
        };
        format!("role {}{on}: {how}", self.role)
    }

    /// The timeline as text, at most 80 columns wide.
    pub fn text(&self) -> String {
        let mut text = format!("{}\nrun {}, {}\n\n", self.heading(), self.run, self.time);
        let (mut left_out, mut left_out_ms) = (0, 0);
        for span in &self.spans {
            let is_short = span.duration_ms < SHORT_MS;
            if is_short && !matches!(span.state, Some(StepState::Changed | StepState::Failed)) {
                (left_out, left_out_ms) = (left_out + 1, left_out_ms + span.duration_ms);
                continue;
            }
            let columns = |ms: u64| scaled(ms, self.duration_ms, BAR as u64) as usize;
            let start = columns(span.at_ms).min(BAR - 1);
            let filled = columns(span.duration_ms).clamp(1, BAR - start);
            let mark = match (Sort::from_span(span), span.state) {
                (_, Some(StepState::Failed)) => "!",
                (Sort::Wait, _) => "~",
                _ => "=",
            };
            let (label, took) = (fitted(&label(span), LABEL), shown(span.duration_ms));
            let pad = " ".repeat(LABEL - columns_of(&label));
            text.push_str(&format!("{label}{pad}{took:>TIME$} |{}{}\n", " ".repeat(start), mark.repeat(filled)));
        }
        if left_out > 0 {
            text.push_str(&format!(
                "{left_out} more, each in less than {SHORT_MS} ms, together {}\n",
                shown(left_out_ms)
            ));
        }
        text.push_str("= work, ~ wait within it, ! failed\n");
        printable(&text, Form::Text).into_owned()
    }

    /// The timeline as an SVG, light or dark like the browser.
    pub fn svg(&self) -> String {
        let rows = u64::try_from(self.spans.len()).unwrap_or(u64::MAX);
        let (top, height) = (TOP, TOP + rows * ROW + 16);
        let mut body = String::new();
        let text = |x: u64, y: u64, width: u64, class: &str, words: &str| {
            // A character is 0.6 em wide, at 12 px.
            let words = escaped(&fitted(words, usize::try_from(width * 10 / 73).unwrap_or_default()));
            format!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\" data-width=\"{width}\">{words}</text>\n")
        };
        body.push_str(&text(16, 28, WIDTH - 32, "strong", &self.heading()));
        body.push_str(&text(16, 46, WIDTH - 32, "quiet", &format!("run {}, {}", self.run, self.time)));
        let mut x = 16;
        for sort in Sort::ALL {
            body.push_str(&format!(
                "<rect x=\"{x}\" y=\"60\" width=\"10\" height=\"10\" class=\"{}\"/>\n",
                sort.class()
            ));
            body.push_str(&text(x + 16, 70, 100, "quiet", sort.name()));
            x += 124;
        }
        for at in ticks(self.duration_ms) {
            let x = LEFT + scaled(at, self.duration_ms, CHART);
            body.push_str(&format!(
                "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\" class=\"grid\"/>\n",
                top - 6,
                height - 12
            ));
            body.push_str(&text(x + 3, top - 8, 90, "quiet", &shown(at)));
        }
        for (n, span) in self.spans.iter().enumerate() {
            let y = top + u64::try_from(n).unwrap_or_default() * ROW;
            let at = scaled(span.at_ms, self.duration_ms, CHART).min(CHART - 2);
            let width = scaled(span.duration_ms, self.duration_ms, CHART).clamp(2, CHART - at);
            let (inset, sort) = (if Sort::from_span(span) == Sort::Wait { 6 } else { 3 }, Sort::from_span(span));
            let failed = if span.state == Some(StepState::Failed) { " failed" } else { "" };
            let state = span.state.map_or("", StepState::name).replace('_', " ");
            let words = format!(
                "{} ({}{}{state}): {}",
                span.name,
                span.kind,
                if state.is_empty() { "" } else { ", " },
                shown(span.duration_ms)
            );
            body.push_str(&format!("<g><title>{}</title>\n", escaped(&words)));
            body.push_str(&text(
                16,
                y + 14,
                LEFT - 26,
                if span.state == Some(StepState::InSync) { "quiet" } else { "plain" },
                &label(span),
            ));
            body.push_str(&format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{width}\" height=\"{}\" rx=\"2\" class=\"{}{failed}\"/>\n",
                LEFT + at,
                y + inset,
                ROW - 2 * inset,
                sort.class()
            ));
            body.push_str(&text(
                LEFT + CHART + 10,
                y + 14,
                WIDTH - LEFT - CHART - 20,
                "quiet",
                &shown(span.duration_ms),
            ));
            body.push_str("</g>\n");
        }
        let heading = escaped(&self.heading());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\" aria-label=\"{heading}\">\n<title>{heading}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{height}\" class=\"back\"/>\n{body}</svg>\n"
        )
    }
}

/// Pixels: the picture, the space left of the bars and above them, the bars, and one row.
const WIDTH: u64 = 1000;
const LEFT: u64 = 330;
const TOP: u64 = 108;
const CHART: u64 = 560;
const ROW: u64 = 20;

const STYLE: &str = "
svg { --back: #ffffff; --plain: #1f2328; --quiet: #59636e; --grid: #d1d9e0; --facts: #8250df; --checks: #6e7781;
  --packages: #0969da; --services: #1a7f37; --files: #9a6700; --waits: #bc4c00; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { svg { --back: #0d1117; --plain: #f0f6fc; --quiet: #9198a1; --grid: #3d444d;
  --facts: #ab7df8; --checks: #8b949e; --packages: #4493f8; --services: #3fb950; --files: #d29922; --waits: #f0883e;
  --bad: #f85149; } }
text { font: 12px ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: var(--plain); white-space: pre; }
text.strong { font-weight: bold; } text.quiet { fill: var(--quiet); }
.back { fill: var(--back); } .grid { stroke: var(--grid); }
.facts { fill: var(--facts); } .checks { fill: var(--checks); } .packages { fill: var(--packages); }
.services { fill: var(--services); } .files { fill: var(--files); } .waits { fill: var(--waits); }
rect.failed { fill: var(--bad); }
";

/// The sort of work in a part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Facts,
    Checks,
    Packages,
    Files,
    Services,
    /// A step that waits for a response.
    Answer,
    /// A wait within a step.
    Wait,
}

impl Sort {
    const ALL: [Sort; 6] = [Sort::Facts, Sort::Checks, Sort::Packages, Sort::Files, Sort::Services, Sort::Wait];

    fn from_span(span: &Span) -> Sort {
        match (span.kind.as_str(), span.state) {
            ("facts", _) => Sort::Facts,
            ("checks", _) => Sort::Checks,
            ("package" | "deb" | "apt_source" | "image", _) => Sort::Packages,
            ("unit" | "container", _) => Sort::Services,
            ("wait", None) => Sort::Wait,
            ("wait", Some(_)) => Sort::Answer,
            _ => Sort::Files,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Sort::Facts => "facts",
            Sort::Checks => "checks",
            Sort::Packages => "packages",
            Sort::Files => "files, other",
            Sort::Services => "services",
            Sort::Answer | Sort::Wait => "waits",
        }
    }

    fn class(self) -> &'static str {
        match self {
            Sort::Files => "files",
            other => other.name(),
        }
    }
}

/// The text beside a bar.
fn label(span: &Span) -> String {
    match Sort::from_span(span) {
        Sort::Facts => "facts".into(),
        Sort::Wait => format!("  {}", span.name),
        _ => span.name.clone(),
    }
}

/// The steps of a run that did not reach its end.
fn spans_of_steps(events: &[&Event], last_ms: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for event in events {
        let Some(step) = &event.step else { continue };
        match (event.event.as_str(), spans.last_mut().filter(|span| span.name == *step)) {
            ("started", _) => spans.push(Span {
                kind: String::new(),
                name: step.clone(),
                at_ms: event.at_ms,
                duration_ms: last_ms.saturating_sub(event.at_ms),
                state: None,
            }),
            (word, Some(span)) => {
                span.duration_ms = event.at_ms.saturating_sub(span.at_ms);
                span.state = Some(if word == "finished" { StepState::Changed } else { StepState::Failed });
            }
            _ => {}
        }
    }
    spans
}

fn end(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.at_ms.saturating_add(span.duration_ms)).max().unwrap_or_default()
}

fn shown(ms: u64) -> String {
    length(Duration::from_millis(ms))
}

/// Scales a part of `all` to this length.
fn scaled(part: u64, all: u64, scale: u64) -> u64 {
    let scaled = u128::from(part.min(all)) * u128::from(scale) / u128::from(all.max(1));
    u64::try_from(scaled).unwrap_or(scale)
}

/// Round times, at most ten.
fn ticks(all: u64) -> Vec<u64> {
    const MINUTE: u64 = 60_000;
    let round = [100, 200, 500, 1000, 2000, 5000, 10_000, 15_000, 30_000, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE];
    let step = round.into_iter().find(|step| all / step < 8).unwrap_or_else(|| (all / 8).max(1));
    (0..=8).map(|n| n * step).take_while(|at| *at <= all).collect()
}

/// How many columns a text takes: two for a character that may be wide.
fn columns_of(text: &str) -> usize {
    text.chars().map(|c| if c.is_ascii() || c == '…' { 1 } else { 2 }).sum()
}

/// Shortens a text to this many columns.
fn fitted(text: &str, columns: usize) -> String {
    let text = printable(text, Form::Text).replace(['\n', '\t'], " ");
    if columns_of(&text) <= columns {
        return text;
    }
    let mut used = 1;
    let fits = |c: &char| {
        used += columns_of(c.encode_utf8(&mut [0; 4]));
        used <= columns
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// Escapes a text for XML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in printable(text, Form::Text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 does not allow these characters.
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, step: Option<&str>, at_ms: u64, more: serde_json::Value) -> Event {
        let mut event = serde_json::json!({
            "schema_version": 1, "time": "2026-11-26T07:00:00.000Z", "run": "r1", "boot_id": "", "instance_id": "i-1",
            "role": "agent", "role_digest": "", "event": name, "step": step, "at_ms": at_ms,
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(event).unwrap()
    }

    fn span(kind: &str, name: &str, at_ms: u64, duration_ms: u64, state: Option<StepState>) -> Span {
        Span { kind: kind.into(), name: name.into(), at_ms, duration_ms, state }
    }

    fn ended(spans: &[Span]) -> Vec<Event> {
        let more = serde_json::json!({ "lines": ["converged"], "duration_ms": 20_000, "spans": spans });
        vec![event("started", Some("docker"), 2000, serde_json::json!({})), event("ended", None, 20_000, more)]
    }

    fn boot() -> Vec<Event> {
        ended(&[
            span("facts", "asking the instance", 0, 1000, None),
            span("checks", "before the first change", 1000, 1000, None),
            span("package", "docker", 2000, 14_200, Some(StepState::Changed)),
            span("wait", "`apt-get --yes install -- docker-ce=28 containerd.io=2`", 2100, 14_000, None),
            span("file", "settings", 16_200, 5, Some(StepState::InSync)),
            span("file", "marker", 16_300, 5, Some(StepState::Changed)),
            span("unit", "mesos-agent", 17_000, 3000, Some(StepState::Failed)),
        ])
    }

    #[test]
    fn text_has_a_bar_for_what_took_time_or_changed_something() {
        let text = Timeline::from_last_run(&boot()).unwrap().text();
        let expected = "\
role agent on i-1: converged after 20 s
run r1, 2026-11-26T07:00:00.000Z

facts                                1 s |=
before the first change              1 s | =
docker                            14.2 s |   =========================
  `apt-get --yes install --…        14 s |   ~~~~~~~~~~~~~~~~~~~~~~~~~
marker                              5 ms |                             =
mesos-agent                          3 s |                              !!!!!
1 more, each in less than 100 ms, together 5 ms
= work, ~ wait within it, ! failed
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_run_that_did_not_end_has_the_steps_that_it_reached() {
        let none = || serde_json::json!({});
        let events = [
            event("started", Some("one"), 100, none()),
            event("finished", Some("one"), 400, none()),
            event("started", Some("two"), 500, none()),
            event("failed", Some("two"), 900, none()),
            event("started", Some("three"), 1000, none()),
            event("started", Some("four"), 1500, none()),
        ];
        let timeline = Timeline::from_last_run(&events).unwrap();
        let expected = [
            span("", "one", 100, 300, Some(StepState::Changed)),
            span("", "two", 500, 400, Some(StepState::Failed)),
            span("", "three", 1000, 500, None),
            span("", "four", 1500, 0, None),
        ];
        assert_eq!(timeline.spans, expected);
        assert!(timeline.text().starts_with("role agent on i-1: did not end, last event after 1.5 s\n"));
        assert_eq!(Timeline::from_last_run(&[]), None);
    }

    #[test]
    fn the_picture_is_xml_with_each_part_whatever_its_names_are() {
        let hostile = "a<b>&\"\u{202e}\u{1b}\u{ffff}日本語".repeat(20);
        let mut events = boot();
        let spans = &mut events[1].spans;
        spans.push(span("wait", &hostile, u64::MAX, u64::MAX, None));
        let (count, svg) = (spans.len(), Timeline::from_last_run(&events).unwrap().svg());
        let document = roxmltree::Document::parse(&svg).unwrap();
        let groups = document.descendants().filter(|node| node.has_tag_name("g")).count();
        assert_eq!(groups, count);
        let number = |node: &roxmltree::Node<'_, '_>, name| node.attribute(name).unwrap().parse::<u64>().unwrap();
        for text in document.descendants().filter(|node| node.has_tag_name("text")) {
            assert!(number(&text, "x") + number(&text, "data-width") <= WIDTH, "{text:?}");
            assert!(columns_of(text.text().unwrap()) as u64 * 73 <= number(&text, "data-width") * 10, "{text:?}");
        }
        for bar in document.descendants().filter(|node| node.attribute("rx").is_some()) {
            assert!(number(&bar, "x") + number(&bar, "width") <= LEFT + CHART, "{bar:?}");
        }
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert!(!svg.contains('\u{202e}') && !svg.contains('\u{1b}'));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks(0), [0]);
        assert_eq!(ticks(20_000), [0, 5000, 10_000, 15_000, 20_000]);
        assert_eq!(ticks(1100), [0, 200, 400, 600, 800, 1000]);
        assert!(ticks(u64::MAX).len() <= 9);
    }
}
