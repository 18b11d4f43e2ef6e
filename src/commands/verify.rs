//! `verify`: the role's health checks, and whether a run would change anything.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::prepare::{self, Request};
use crate::run;
use crate::run::health::{Finding, ask};
use crate::run::report::{ErrorReport, Report, Reporter, StepReport, StepState, say, say_document};
use crate::step::health::Check;

/// The output of `verify --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// `verify`.
    command: &'static str,
    /// The role.
    role: String,
    /// The instance's state in a warm pool.
    warm_pool: Option<String>,
    /// Whether every check ran and everything is good.
    satisfied: bool,
    /// Each check.
    checks: Vec<CheckReport>,
    /// Steps that are not in sync.
    drift: Vec<StepReport>,
    /// Steps that verify deferred.
    deferred: Vec<StepReport>,
    /// The error that the command ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
}

/// A check.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckReport {
    /// The check.
    id: String,
    /// Its result.
    state: CheckState,
    /// The result in words.
    text: String,
    /// The unit or container that this check waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CheckState {
    /// It is satisfied.
    Good,
    /// It is satisfied, with a warning.
    Warning,
    /// It could not run.
    NotAsked,
    /// It is not satisfied.
    Failed,
}

/// Runs all checks, and looks at every step.
///
/// # Errors
/// Fails with 1 when a check is not satisfied, a step is not in sync, or a run would be refused; otherwise with 75 when a
/// check could not run or a step was deferred. Fails also when settings or facts are not available.
pub fn run(request: &Request, reporter: Reporter) -> Result<u8> {
    let mut host = request.host()?;
    if !host.is_live() {
        return Err(Error::new(Kind::Usage, "verify needs a live node, but --root is a tree").fix("leave --root out"));
    }
    let to_people = !reporter.json && !reporter.quiet;
    let prepared = prepare::prepare(request, &mut host)?;
    // What was deferred is not there to check.
    let deferral = prepared.defer_reason().filter(|_| prepared.warm_pool().is_some());
    let (mut failed, mut not_asked) = (Vec::new(), Vec::new());
    let mut reported = Vec::new();
    let mut report = |id: &str, unit: Option<&str>, finding: Finding| {
        let (state, word, text) = match finding {
            Finding::Good(text) => (CheckState::Good, "good", text),
            Finding::Warning(text) => (CheckState::Warning, "warning", text),
            Finding::NotAsked(text) => {
                not_asked.push(id.to_owned());
                (CheckState::NotAsked, "not asked", text)
            }
            Finding::Bad(text) => {
                failed.push(id.to_owned());
                (CheckState::Failed, "failed", text)
            }
        };
        if to_people {
            let shown = if unit.is_some() { format!("  {id}") } else { id.to_owned() };
            say(&format!("{word:<8} {shown:<14} {text}\n"));
        }
        reported.push(CheckReport { id: id.to_owned(), state, text, unit: unit.map(str::to_owned) });
    };
    let checks = prepared.checks()?;
    for (check, unit) in checks.iter().zip(awaited_units(&checks)) {
        let finding = match &deferral {
            Some(why) => Finding::NotAsked(why.clone()),
            None => match ask(&host, &check.question) {
                Ok(finding) => check.question.with_registry(&host, finding)?,
                Err(error) if error.kind == Kind::Interrupted => return Err(error),
                Err(error) => Finding::NotAsked(error.to_string()),
            },
        };
        report(&check.id, unit, finding);
    }
    let mut steps = Report::new("verify");
    let silent = Reporter { json: false, quiet: true, ..reporter };
    match run::observe_prepared(&prepared, (request.phases, &request.selection), &host, false, &mut steps, &silent) {
        Err(error) if error.kind == Kind::Interrupted => return Err(error),
        Err(error) => report("refused", None, Finding::Bad(error.to_string())),
        Ok(()) => {}
    }
    let drift: Vec<&StepReport> = steps.steps.iter().filter(|step| step.drifts()).collect();
    let deferred: Vec<&StepReport> = steps.steps.iter().filter(|step| step.state == StepState::Deferred).collect();
    if to_people {
        let mut unit_drifts = false;
        for step in &steps.steps {
            if ["unit", "container"].contains(&step.kind) {
                unit_drifts = step.drifts();
            }
            if !step.drifts() {
                continue;
            }
            // Indents a wait below the unit that it waits for, if that unit drifts.
            let indent = if step.kind == "wait" && unit_drifts { "  " } else { "" };
            let lines = step.changes.iter().map(|change| change.line.as_str()).chain(step.note.as_deref());
            say(&format!(
                "{:<8} {:<14} {}\n",
                "drifts",
                format!("{indent}{}", step.id),
                lines.collect::<Vec<_>>().join("; ")
            ));
        }
        for (why, ids) in by_reason(&deferred) {
            say(&format!("not asked {}: {why}\n", ids.join(", ")));
        }
    }
    let role = &prepared.role.name;
    let ids = |steps: &[&StepReport]| steps.iter().map(|step| step.id.clone()).collect::<Vec<_>>();
    let answers = Answers {
        checks: reported.len(),
        failed,
        not_asked,
        steps: steps.step_count,
        drift: ids(&drift),
        deferred: ids(&deferred),
    };
    if reporter.json {
        let owned = |steps: &[&StepReport]| steps.iter().map(|step| (*step).clone()).collect();
        say_document(Document {
            command: "verify",
            role: role.clone(),
            warm_pool: prepared.warm_pool().map(str::to_owned),
            satisfied: answers.is_good(),
            checks: reported,
            drift: owned(&drift),
            deferred: owned(&deferred),
            error: answers.end(role).err().as_ref().map(ErrorReport::from),
        });
    }
    answers.end(role)
}

/// What verify checked, and the ids by result. Everything else is good.
#[derive(Default)]
struct Answers {
    checks: usize,
    failed: Vec<String>,
    not_asked: Vec<String>,
    steps: usize,
    drift: Vec<String>,
    deferred: Vec<String>,
}

impl Answers {
    fn is_good(&self) -> bool {
        [&self.failed, &self.not_asked, &self.drift, &self.deferred].iter().all(|ids| ids.is_empty())
    }

    /// The result of the command. What is bad decides; otherwise what could not be checked, because that never counts as
    /// good.
    fn end(&self, role: &str) -> Result<u8> {
        let Answers { checks, failed, not_asked, steps, drift, deferred } = self;
        let parts = [
            (failed, checks, "checks failed"),
            (drift, steps, "steps drift"),
            (not_asked, checks, "checks could not run"),
            (deferred, steps, "steps were deferred"),
        ];
        let found = parts.iter().filter(|(ids, ..)| !ids.is_empty());
        let found: Vec<String> =
            found.map(|(ids, all, words)| format!("{} of {all} {words}: {}", ids.len(), ids.join(", "))).collect();
        let what = format!("{role}: {}", found.join("; "));
        if self.is_good() {
            return Ok(0);
        }
        Err(if failed.is_empty() && drift.is_empty() {
            Error::new(Kind::TemporaryFailure, what)
                .cause("nothing is known to be wrong, but not everything could be checked")
                .fix("see the reason in each line above, and run titus-bootstrap verify again once it is gone")
        } else {
            Error::failed(what).fix("see each line above; then run titus-bootstrap again")
        })
    }
}

/// For each check that waits for an answer, the unit or container that gives it: the last one that the role's file checks
/// before it.
fn awaited_units(checks: &[Check]) -> Vec<Option<&str>> {
    let mut unit = None;
    let each = checks.iter().map(|check| {
        if check.question.is_about_unit() {
            unit = Some(check.id.as_str());
        }
        unit.filter(|_| check.question.is_wait())
    });
    each.collect()
}

/// Steps that are deferred, by reason.
fn by_reason<'a>(deferred: &[&'a StepReport]) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for step in deferred {
        reasons.entry(step.note.as_deref().unwrap_or_default()).or_default().push(&step.id);
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::health::{Kept, Question};
    use crate::step::wait::Wait;

    #[test]
    fn only_satisfied_checks_count_as_good() {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (failed, not_asked, drift, deferred, code, words) in [
            ("", "", "", "", 0, ""),
            ("a", "", "", "", 1, "agent: 1 of 5 checks failed: a"),
            ("", "", "x y", "", 1, "agent: 2 of 9 steps drift: x, y"),
            ("", "a b", "", "", 75, "agent: 2 of 5 checks could not run: a, b"),
            ("", "", "", "x", 75, "agent: 1 of 9 steps were deferred: x"),
            (
                "a",
                "b",
                "",
                "x",
                1,
                "agent: 1 of 5 checks failed: a; 1 of 5 checks could not run: b; 1 of 9 steps were deferred: x",
            ),
        ] {
            let answers = Answers {
                checks: 5,
                failed: names(failed),
                not_asked: names(not_asked),
                steps: 9,
                drift: names(drift),
                deferred: names(deferred),
            };
            let ended = answers.end("agent");
            let found = ended.as_ref().err().map(|error| (error.kind.exit_code(), error.what.as_str()));
            assert_eq!(found.unwrap_or((0, "")), (code, words));
            assert_eq!(answers.is_good(), code == 0);
        }
    }

    #[test]
    fn a_wait_belongs_to_the_unit_before_it() {
        let check = |id: &str, kept: Kept| Check { id: id.into(), question: Question::Kept(kept) };
        let answers = |id: &str| check(id, Kept::Answers(Wait::Tcp("localhost:1".into())));
        let checks = [
            answers("first"),
            check("docker", Kept::UnitActive("docker.service".into())),
            answers("docker-api"),
            Check { id: "tool".into(), question: Question::VpcTool(String::new()) },
            answers("docker-again"),
            check("zookeeper", Kept::Container("zookeeper".into())),
            answers("serves"),
        ];
        let expected = [None, None, Some("docker"), None, Some("docker"), None, Some("zookeeper")];
        assert_eq!(awaited_units(&checks), expected);
    }
}
