//! Everything that the program prints as JSON, against the schema that it prints for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use clap::Parser;
use jsonschema::Validator;
use serde_json::Value;
use titus_bootstrap::cli::{Cli, Command, Config, LogFormat, Role};
use titus_bootstrap::commands::schema::SCHEMAS;

use super::outcome::Outcome;

fn validators() -> &'static BTreeMap<&'static str, Validator> {
    static VALIDATORS: OnceLock<BTreeMap<&'static str, Validator>> = OnceLock::new();
    VALIDATORS.get_or_init(|| {
        let validator = |schema: Value| jsonschema::validator_for(&schema).unwrap();
        SCHEMAS.iter().map(|(name, _, schema)| (*name, validator(schema().to_value()))).collect()
    })
}

/// Asserts that a document is what the schema of this name says.
#[track_caller]
pub fn assert_valid(name: &str, document: &Value) {
    let validator = validators().get(name).unwrap_or_else(|| panic!("there is no schema {name:?}"));
    let errors: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "schema {name}: {}\n{document:#}", errors.join("\n"));
}

/// Whether a document is not what the schema of this name says.
pub fn refuses(name: &str, document: &Value) -> bool {
    !validators()[name].is_valid(document)
}

/// Asserts that each line matches the schema of this name; a line that a test or a power cut tore does not count.
#[track_caller]
pub fn assert_lines_valid(name: &str, text: &str) {
    for line in text.lines() {
        // What is not an object is what a test has torn.
        if let Ok(line @ Value::Object(_)) = serde_json::from_str(line) {
            assert_valid(name, &line);
        }
    }
}

/// Asserts that what a command printed is what its schemas say: with `--json` one document, with `--log-format json` an
/// event a line. `words`: argv.
#[track_caller]
pub fn check(words: &[String], outcome: &Outcome) {
    let Some(program) = words.iter().position(|word| word.ends_with("/titus-bootstrap") || word == "titus-bootstrap")
    else {
        return;
    };
    let Ok(cli) = Cli::try_parse_from(&words[program..]) else {
        // A wrong command line, or words for a shell.
        if let (64, Ok(document)) = (outcome.code, serde_json::from_str(&outcome.out)) {
            assert_valid("error", &document);
        }
        return;
    };
    if cli.global.log_format == LogFormat::Json && outcome.code >= 0 {
        for line in outcome.err.lines() {
            let event = serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("not an event: {e}: {line}\n{}", outcome.transcript()));
            assert_valid("event", &event);
        }
    }
    // What is a schema itself, or was killed before it was done.
    let is_schema = matches!(cli.command, Some(Command::Config(Config::Schema) | Command::Schema { name: Some(_) }));
    if !cli.global.json || (is_schema && outcome.code == 0) || outcome.code < 0 {
        return;
    }
    let document: Value = serde_json::from_str(&outcome.out)
        .unwrap_or_else(|e| panic!("not one JSON document: {e}\n{}", outcome.transcript()));
    let is_failure = document.as_object().is_some_and(|keys| keys.len() == 2 && keys.contains_key("error"));
    assert_valid(if is_failure { "error" } else { name_of(cli.command.as_ref(), &cli) }, &document);
}

/// The schema of what a command says.
fn name_of(command: Option<&Command>, cli: &Cli) -> &'static str {
    match command {
        None if cli.apply.dry_run => "plan",
        Some(Command::Apply(apply)) if apply.dry_run => "plan",
        None | Some(Command::Apply(_)) => "apply",
        Some(Command::Plan { fleet: Some(_), .. }) => "plan-fleet",
        Some(Command::Plan { .. }) => "plan",
        Some(Command::Logs { run: Some(_) }) => "logs-run",
        Some(Command::Logs { run: None }) => "logs",
        Some(Command::Explain { .. }) => "explain",
        Some(Command::Status { timeline: true, .. } | Command::Report { svg: Some(_), .. }) => "timeline",
        Some(Command::Report { .. }) => "report",
        Some(Command::Status { .. }) => "status",
        Some(Command::Verify) => "verify",
        Some(Command::Keep) => "keep",
        Some(Command::Seal { .. }) => "seal",
        Some(Command::Activate { .. }) => "activate",
        Some(Command::Check { .. }) => "check",
        Some(Command::Facts { .. }) => "facts",
        Some(Command::Config(Config::Template)) => "config-template",
        Some(Command::Config(_)) => "config-show",
        Some(Command::Why { .. }) => "why",
        Some(Command::Render { .. }) => "render",
        Some(Command::Role(Role::List)) => "role-list",
        Some(Command::Role(Role::Show { .. })) => "role-show",
        Some(Command::InstanceType { .. }) => "instance-type",
        Some(Command::Schema { .. }) => "schema",
        Some(Command::Completions { .. }) => "completions",
        Some(Command::Man { .. }) => "man",
        Some(Command::Version) => "version",
    }
}
