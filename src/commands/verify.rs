//! `verify`: the role's health checks, and whether a run would have anything to do.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind, Result};
use crate::prepare::{self, Request};
use crate::run;
use crate::run::health::{Finding, ask};
use crate::run::report::{Report, Reporter, StepReport, say, say_json};

/// Asks all checks, and looks at every step.
///
/// # Errors
/// 1 when a check is not satisfied, a step is not in sync, or a run would be refused; and when settings or facts cannot be
/// had.
pub fn run(request: &Request, reporter: Reporter) -> Result<u8> {
    let mut host = request.host()?;
    if !host.is_live() {
        return Err(Error::new(Kind::Usage, "verify asks a live node, and --root is none").fix("leave --root out"));
    }
    let to_people = !reporter.json && !reporter.quiet;
    let prepared = prepare::prepare(request, &mut host)?;
    let mut checks = prepared.checks()?;
    if let Some(why) = prepared.put_off().filter(|_| prepared.warm_pool().is_some()) {
        // What is put off is not there to be asked.
        checks.clear();
        if to_people {
            say(&format!("{why}; until then it is not asked\n"));
        }
    }
    let mut failed = Vec::new();
    let mut reported = Vec::new();
    let mut report = |id: &str, finding: Finding| {
        let (word, text) = match finding {
            Finding::Good(text) => ("good", text),
            Finding::Warning(text) => ("warning", text),
            Finding::Bad(text) => {
                failed.push(id.to_owned());
                ("failed", text)
            }
        };
        if to_people {
            say(&format!("{word:<8} {id:<14} {text}\n"));
        }
        reported.push(json!({ "id": id, "state": word, "text": text }));
    };
    for check in &checks {
        report(&check.id, check.question.with_registry(&host, ask(&host, &check.question)?)?);
    }
    let mut steps = Report::new("verify");
    let silent = Reporter { json: false, quiet: true, ..reporter };
    match run::observe_prepared(&prepared, request.phases, &host, false, &mut steps, &silent) {
        Err(error) if error.kind == Kind::Interrupted => return Err(error),
        Err(error) => report("refused", Finding::Bad(error.to_string())),
        Ok(()) => {}
    }
    let drift: Vec<&StepReport> = steps.steps.iter().filter(|step| step.drifts()).collect();
    if to_people {
        for step in &drift {
            let lines = step.changes.iter().map(|change| change.line.as_str()).chain(step.note.as_deref());
            say(&format!("{:<8} {:<14} {}\n", "drifts", step.id, lines.collect::<Vec<_>>().join("; ")));
        }
    }
    let role = &prepared.role.name;
    if reporter.json {
        let document = json!({
            "schema_version": SCHEMA_VERSION, "command": "verify", "role": role, "warm_pool": prepared.warm_pool(),
            "satisfied": failed.is_empty() && drift.is_empty(), "checks": reported, "drift": drift,
        });
        say_json(&document);
    }
    let mut wrong = Vec::new();
    if !failed.is_empty() {
        wrong.push(format!("{} of {} checks failed: {}", failed.len(), reported.len(), failed.join(", ")));
    }
    if !drift.is_empty() {
        let ids: Vec<&str> = drift.iter().map(|step| step.id.as_str()).collect();
        wrong.push(format!("{} of {} steps drift: {}", drift.len(), steps.step_count, ids.join(", ")));
    }
    if wrong.is_empty() {
        return Ok(0);
    }
    Err(Error::failed(format!("{role}: {}", wrong.join("; ")))
        .fix("see each line above; then run titus-bootstrap again"))
}
