//! `schema`: JSON Schemas of what the program prints as JSON.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::Serialize;

use super::{
    activate, check, config, explain, fleet, instance_type, logs, print, render, report, role, seal, status, verify,
    why,
};
use crate::activity::event;
use crate::error::{Error, Kind, Result};
use crate::facts::Facts;
use crate::run::journal;
use crate::run::report::{Document, ErrorReport, Report, Reporter, say, say_document, say_json};
use crate::run::status::Status;
use crate::run::timeline::Timeline;
use crate::settings::did_you_mean;

/// A schema's name, what it describes, and the schema itself.
pub type Described = (&'static str, &'static str, fn() -> Schema);

/// All schemas: one for each command, by its words, and those of other output that programs read.
pub const SCHEMAS: &[Described] = &[
    ("apply", "the report of a run: apply --json, last.json", describe::<Report>),
    ("plan", "plan --json", describe::<Report>),
    ("plan-fleet", "plan --fleet FILE --json", describe::<Document<fleet::Document>>),
    ("status", "status --json", describe::<Document<status::Document>>),
    ("logs", "logs --json", describe::<Document<logs::Runs>>),
    ("logs-run", "logs RUN --json", describe::<Document<logs::Story>>),
    ("report", "report --json", describe::<Document<report::Document>>),
    ("timeline", "status --timeline --json, report --svg FILE --json", describe::<Document<Timeline>>),
    ("verify", "verify --json", describe::<Document<verify::Document>>),
    ("keep", "keep --json", describe::<Report>),
    ("seal", "seal --json", describe::<Document<seal::Document>>),
    ("activate", "activate --json", describe::<Document<activate::Document>>),
    ("check", "check --json", describe::<Document<check::Document>>),
    ("facts", "facts --json", describe::<Facts>),
    ("config-show", "config show --json", describe::<Document<config::Shown>>),
    ("config-template", "config template --json", describe::<Document<config::Template>>),
    ("why", "why --json", describe::<Document<why::Document>>),
    ("explain", "explain --json", describe::<Document<explain::Document>>),
    ("render", "render --json", describe::<Document<render::Rendered>>),
    ("role-list", "role list --json", describe::<Document<role::Roles>>),
    ("role-show", "role show --json", describe::<Document<role::Shown>>),
    ("instance-type", "instance-type --json", describe::<Document<instance_type::Document>>),
    ("completions", "completions --json", describe::<Document<print::Printed>>),
    ("man", "man --json", describe::<Document<print::Printed>>),
    ("version", "version --json", describe::<Document<print::Version>>),
    ("schema", "schema --json without a name", describe::<Document<List>>),
    ("error", "what --json prints if a command fails before it has a result", describe::<Document<Failure>>),
    ("event", "a line of --log-format json", describe::<event::Line>),
    ("journal", "a line of journal.jsonl or keep.jsonl", describe::<journal::Event>),
    ("status-file", "status.json", describe::<Status>),
];

/// What `--json` prints if a command fails before it has a result.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Failure {
    /// The error.
    pub error: ErrorReport,
}

/// The output of `schema --json` without a name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct List {
    /// All schemas.
    schemas: Vec<Listed>,
}

/// A schema of the list.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// Its name.
    name: &'static str,
    /// What it describes.
    describes: &'static str,
}

/// The schema of a type in its serialized form.
fn describe<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

/// Prints a schema, or the list of them.
///
/// # Errors
/// Fails with 64 when there is no such schema.
pub fn run(reporter: Reporter, name: Option<&str>) -> Result<u8> {
    let Some(name) = name else {
        if reporter.json {
            let listed = |(name, describes, _): &Described| Listed { name, describes };
            say_document(List { schemas: SCHEMAS.iter().map(listed).collect() });
        } else {
            SCHEMAS.iter().for_each(|(name, describes, _)| say(&format!("{name:<16} {describes}\n")));
        }
        return Ok(0);
    };
    let Some((.., schema)) = SCHEMAS.iter().find(|(known, ..)| *known == name) else {
        let names = SCHEMAS.iter().map(|(name, ..)| *name);
        return Err(Error::new(Kind::Usage, format!("there is no schema {name:?}")).fix(did_you_mean(name, names)));
    };
    say_json(&schema());
    Ok(0)
}

/// The names, for completion.
pub fn names() -> Vec<String> {
    SCHEMAS.iter().map(|(name, ..)| (*name).to_owned()).collect()
}
