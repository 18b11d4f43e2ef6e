//! What `--log-format json` writes to standard error: one object on each line.

use std::fmt;
use std::sync::OnceLock;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind};
use crate::secrets::{hide, masked};
use crate::terminal::{self, Priority};

/// A line on standard error.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Line {
    /// The version of the layout.
    pub schema_version: u32,
    /// When it happened, RFC 3339.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A message for people.
    Message {
        /// How important it is.
        level: Level,
        /// The message.
        message: String,
        /// Further fields.
        #[serde(skip_serializing_if = "Map::is_empty")]
        fields: Map<String, Value>,
    },
    /// A run is about to start its first step. Until then it has changed nothing.
    RunStarted {
        /// The role.
        role: String,
        /// Its name in the journal of runs.
        run: String,
        /// How many steps there are.
        steps: usize,
    },
    /// A step has started.
    StepStarted {
        /// The step.
        step: String,
        /// Its number, from 1.
        number: usize,
        /// How many steps there are.
        steps: usize,
    },
    /// Work continues.
    Progress {
        /// The work.
        what: String,
        /// What it waits for, or how far it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        doing: Option<String>,
        /// For how long it has been running.
        seconds: u64,
    },
    /// The program waits for something.
    Wait {
        /// What it waits for.
        what: String,
        /// For how long it has been waiting.
        seconds: u64,
        /// The limit; none: it waits as long as it takes.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit_seconds: Option<u64>,
    },
    /// A step has ended.
    StepFinished {
        /// The step.
        step: String,
        /// Its number, from 1.
        number: usize,
        /// How many steps there are.
        steps: usize,
        /// The result, like `state` in a report.
        state: String,
        /// How long it took.
        duration_ms: u64,
    },
    /// A run has ended.
    RunFinished {
        /// The role.
        role: String,
        /// Its name in the journal of runs; empty: it ended before it had one.
        run: String,
        /// Its result, like `result` in a report.
        result: String,
        /// How long it took.
        duration_ms: u64,
    },
    /// The error that ends a command.
    Error(ErrorReport),
}

/// How important a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Something failed.
    Error,
    /// An operator should know.
    Warn,
    /// Normal messages.
    Info,
    /// Only with `--verbose`.
    Debug,
    /// The program never uses this level.
    Trace,
}

/// An error, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorReport {
    /// The kind of failure.
    #[serde(default)]
    pub kind: Kind,
    /// The process's exit code.
    pub exit_code: u8,
    /// What failed, in one line.
    pub what: String,
    /// Where it is: a file with line and column, or the role and the step.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Why.
    pub cause: Option<String>,
    /// How to fix it.
    pub fix: Option<String>,
    /// The step that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        let hidden = |text: &Option<String>| text.as_deref().map(masked);
        ErrorReport {
            kind: error.kind,
            exit_code: error.kind.exit_code(),
            what: masked(&error.what),
            place: error.place().map(|place| masked(&place)),
            cause: hidden(&error.cause),
            fix: hidden(&error.fix),
            step: error.origin.as_ref().map(|origin| origin.step.clone()).filter(|step| !step.is_empty()),
        }
    }
}

static IS_READ: OnceLock<()> = OnceLock::new();

/// Makes standard error this stream from now on.
pub fn begin() {
    IS_READ.get_or_init(|| ());
}

/// Whether a program reads this stream.
pub fn is_read() -> bool {
    IS_READ.get().is_some()
}

/// Writes an event, if a program reads them.
pub fn emit(event: Event) {
    if !is_read() {
        return;
    }
    let priority = match &event {
        Event::Error(_) => Priority::Error,
        _ => Priority::Info,
    };
    terminal::write_json_line(&text(event), priority);
}

fn text(event: Event) -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let line = Line { schema_version: SCHEMA_VERSION, time, event };
    let line = hide("", &serde_json::to_value(&line).unwrap_or_default());
    line.to_string() + "\n"
}

/// Formats messages as lines of this stream.
#[derive(Debug)]
pub struct Messages;

impl<S, N> FormatEvent<S, N> for Messages
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        message: &tracing::Event<'_>,
    ) -> fmt::Result {
        let level = match *message.metadata().level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        };
        let mut fields = Fields(Map::new());
        message.record(&mut fields);
        let Fields(mut fields) = fields;
        let message = fields.remove("message").and_then(|value| value.as_str().map(masked)).unwrap_or_default();
        writer.write_str(&text(Event::Message { level, message, fields }))
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), masked(&format!("{value:?}")).into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), masked(value).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }
}
