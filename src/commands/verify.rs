//! `verify`: the role's health checks.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind, Result};
use crate::prepare::{self, Request};
use crate::run::health::{Finding, ask, refused};
use crate::run::report::{Reporter, say, say_json};

/// Runs all checks.
///
/// # Errors
/// 1 when a check is not satisfied; and when settings or facts cannot be had.
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
    if let Some(finding) = refused(&host, &prepared)? {
        report("refused", finding);
    }
    for check in &checks {
        report(&check.id, check.question.with_registry(&host, ask(&host, &check.question)?)?);
    }
    let role = &prepared.role.name;
    if reporter.json {
        let document = json!({ "schema_version": SCHEMA_VERSION, "command": "verify", "role": role, "warm_pool": prepared.warm_pool(), "satisfied": failed.is_empty(), "checks": reported });
        say_json(&document);
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(Error::failed(format!("{role}: {} of {} checks failed: {}", failed.len(), reported.len(), failed.join(", ")))
        .fix("see each line above; then run titus-bootstrap again"))
}
