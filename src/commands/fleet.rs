//! `plan --fleet FILE`: the plans of several nodes, from their facts alone.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use super::plan;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::prepare::gather::read_fleet;
use crate::prepare::{FactSource, Request};
use crate::run::report::{Report, Reporter, RunState, StepState, aligned, say, say_document};
use crate::secrets::masked;

/// The output of `plan --fleet FILE --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The nodes, in the order of the file.
    nodes: Vec<Node>,
}

/// A node of a fleet.
#[derive(Debug, Serialize, JsonSchema)]
struct Node {
    /// The instance's id.
    node: String,
    /// Its plan.
    plan: Report,
}

/// Plans each node as if nothing were on it, and prints a table. An error of one node does not stop the others.
///
/// # Errors
/// Fails with 78 when the file is wrong; otherwise with the first refusal, which names its node.
pub fn run(request: &Request, reporter: Reporter, detailed_exitcode: bool, file: &Path) -> Result<u8> {
    let fleet = read_fleet(file)?;
    let silent = Reporter { json: false, quiet: true, ..reporter };
    let mut nodes: Vec<(String, Report)> = Vec::new();
    let mut refused: Option<Error> = None;
    let mut code = 0;
    for facts in fleet {
        let name = instance_id(&facts);
        let request = Request { facts: FactSource::Given(Box::new(facts)), ..request.clone() };
        let mut report = Report::new("plan");
        let result = plan::on_nothing(&request, &mut report, &silent);
        report.end(result.as_ref().err(), false);
        match result {
            Ok(()) => code = code.max(plan::code(&report, detailed_exitcode)),
            Err(error) if error.kind == crate::error::Kind::Interrupted => return Err(error),
            Err(error) => refused = refused.or_else(|| Some(error.at(&name))),
        }
        nodes.push((name, report));
    }
    if reporter.json {
        let nodes = nodes.into_iter().map(|(node, plan)| Node { node, plan }).collect();
        say_document(Document { nodes });
    } else if !reporter.quiet {
        say(&table(&nodes));
    }
    refused.map_or(Ok(code), Err)
}

fn instance_id(facts: &Facts) -> String {
    facts.instance.as_ref().map(|instance| instance.id.clone()).unwrap_or_default()
}

/// One line for each node, then the full refusals.
fn table(nodes: &[(String, Report)]) -> String {
    let header = ["node", "role", "result", "to change", "deferred", "reason"].map(str::to_owned);
    let row = |(node, report): &(String, Report)| {
        let count = |state| report.count(state).to_string();
        let why = report.error.as_ref().map(|error| masked(error.what.lines().next().unwrap_or_default()));
        [
            node.clone(),
            if report.role.is_empty() { "-".into() } else { report.role.clone() },
            report.result.name().to_owned(),
            count(StepState::Changes),
            count(StepState::Deferred),
            why.unwrap_or_default(),
        ]
    };
    let rows: Vec<[String; 6]> = std::iter::once(header).chain(nodes.iter().map(row)).collect();
    let count_of = |state: RunState| nodes.iter().filter(|(_, report)| report.result == state).count();
    let (changes, refused) =
        (count_of(RunState::Changes), nodes.iter().filter(|(_, report)| report.error.is_some()).count());
    format!("{}{} nodes: {changes} with changes, {refused} refused\n", aligned(&rows), nodes.len())
}
