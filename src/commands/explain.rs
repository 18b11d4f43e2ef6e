//! `explain STEP`: what a step maintains, what it restarts and when, and in which phase it runs.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::prepare::{Phases, Prepared, Request, prepare};
use crate::run::report::{Reporter, say, say_document};
use crate::secrets::masked;
use crate::settings::did_you_mean;
use crate::step::{Phase, Step};

/// The output of `explain --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The role.
    role: String,
    /// The step, or one step for each item of its `each`.
    steps: Vec<Explained>,
}

/// A step in words.
#[derive(Debug, Serialize, JsonSchema)]
struct Explained {
    /// Its id.
    id: String,
    /// Its kind.
    kind: String,
    /// When it runs.
    phase: Phase,
    /// What it maintains, what it restarts and when, and when it runs.
    sentences: Vec<String>,
}

/// Prints a step of the role in words. This reads only settings and facts.
///
/// # Errors
/// Fails with 64 when the role has no such step on this node; with 78 as a plan does.
pub fn run(request: &Request, reporter: Reporter, id: &str) -> Result<u8> {
    let prepared = prepare(request, &mut request.host()?)?;
    let mut steps = prepared.steps(Phases::All)?;
    steps.extend(prepared.steps(Phases::Keep)?);
    let named: Vec<&Step> = steps.iter().filter(|step| concerns(step, id)).collect();
    if named.is_empty() {
        return Err(not_there(&prepared, &steps, id));
    }
    let explained: Vec<(&Step, Vec<String>)> =
        named.into_iter().map(|step| (step, sentences(&prepared, &steps, step))).collect();
    if reporter.json {
        let one = |(step, sentences): (&Step, Vec<String>)| Explained {
            id: step.id.clone(),
            kind: step.kind.name().into(),
            phase: step.phase,
            sentences,
        };
        say_document(Document { role: prepared.names(), steps: explained.into_iter().map(one).collect() });
        return Ok(0);
    }
    for (step, lines) in explained {
        say(&format!("{}, a step of the kind {} of role {}\n", step.id, step.kind.name(), prepared.names()));
        lines.iter().for_each(|line| say(&format!("  {line}\n")));
    }
    Ok(0)
}

/// Whether a step has this id, or decides the path, unit or package of this name.
pub fn concerns(step: &Step, name: &str) -> bool {
    let is_thing = |thing: &str| {
        let unit = thing.strip_prefix("unit ");
        thing == name
            || unit == Some(name)
            || unit.and_then(|unit| unit.strip_suffix(".service")) == Some(name)
            || thing.strip_prefix("package ") == Some(name)
    };
    step.id == name
        || step.id.strip_prefix(name).is_some_and(|item| item.starts_with(':'))
        || step.work().claims().iter().any(|claim| is_thing(&claim.thing))
}

fn not_there(prepared: &Prepared, steps: &[Step], id: &str) -> Error {
    let role = prepared.names();
    match prepared.all().find_map(|one| one.role.raw(id)) {
        Some(_) => Error::new(Kind::Usage, format!("role {role} has no step {id:?} on this node"))
            .cause("its `when` is false, or its `each` is empty")
            .fix("change the setting that it depends on; titus-bootstrap role show prints the step"),
        None => Error::new(Kind::Usage, format!("role {role} has no step {id:?}"))
            .fix(did_you_mean(id, steps.iter().map(|step| step.id.as_str()))),
    }
}

/// Sentences about what the step maintains, when it runs, and which later steps restart after a change of it.
fn sentences(prepared: &Prepared, steps: &[Step], step: &Step) -> Vec<String> {
    let mut lines: Vec<String> = step.work().explain().iter().map(|line| masked(line)).collect();
    let readers = |references: fn(&crate::step::RawStep) -> &[String]| -> Vec<&str> {
        let raw = |later: &&Step| prepared.all().find_map(|one| one.role.raw(&later.id));
        let reads = |later: &&Step| raw(later).is_some_and(|raw| references(raw).contains(&step.id));
        steps.iter().filter(reads).map(|later| later.id.as_str()).collect()
    };
    for (word, ids) in
        [("restarts", readers(crate::step::RawStep::restart_on)), ("reloads", readers(crate::step::RawStep::reload_on))]
    {
        if !ids.is_empty() {
            lines.push(format!("A change of it {word} what these steps keep: {}.", ids.join(", ")));
        }
    }
    lines.push(
        match step.phase {
            Phase::Bake => {
                "Phase bake: the same on every node, so an image can contain it; a run on a node checks it again."
            }
            Phase::Boot => {
                "Phase boot: it may depend on the instance, so no image contains it; each boot checks it again."
            }
            Phase::Keep => "Phase keep: a timer checks it regularly, with titus-bootstrap keep.",
        }
        .into(),
    );
    let number = steps.iter().position(|other| other.id == step.id).map_or(0, |at| at + 1);
    if step.phase != Phase::Keep {
        let all = steps.iter().filter(|step| step.phase != Phase::Keep).count();
        lines.push(format!("It is step {number} of {all}."));
    }
    if let Some(places) = &step.drop_ins {
        lines.push(format!("A drop-in defines part of it: {places}."));
    }
    lines
}
