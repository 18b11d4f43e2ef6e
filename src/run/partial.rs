//! A run that is limited to some steps of its role: which steps it runs, and which it leaves out.

use super::report::{Partial, StepReport, StepState};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::prepare::{Phases, Prepared, Selection};
use crate::settings::did_you_mean;
use crate::step::warm_pool::READY;
use crate::step::{Planned, State, Step};

/// The steps of a partial run, and what it leaves out.
#[derive(Debug)]
pub struct Chosen {
    /// The steps that it runs.
    pub steps: Vec<Step>,
    left_out: Vec<Step>,
    /// What its report says about the limits.
    pub partial: Partial,
}

/// Chooses among the steps of a role; none: the run takes all. A partial run never creates the ready file.
///
/// # Errors
/// Fails with 64 when an id names no step, and when no step is left.
pub fn choose(prepared: &Prepared, phases: Phases, selection: &Selection, steps: &[Step]) -> Result<Option<Chosen>> {
    let Selection { only, skip } = selection;
    if !selection.is_partial() {
        return Ok(None);
    }
    only.iter().chain(skip).try_for_each(|id| refuse_unknown(prepared, phases, steps, id))?;
    let is_named = |ids: &[String], step: &Step| ids.iter().any(|id| is_named(id, step));
    let is_chosen = |step: &&Step| (only.is_empty() || is_named(only, step)) && !is_named(skip, step);
    let (chosen, left_out): (Vec<&Step>, Vec<&Step>) = steps.iter().partition(is_chosen);
    if chosen.is_empty() {
        return Err(Error::new(Kind::Usage, "--only and --skip leave no step").fix("name fewer steps with --skip"));
    }
    let owned = |steps: Vec<&Step>| steps.into_iter().cloned().collect::<Vec<_>>();
    let never_ready = |step: Step| match step.work().file() {
        Some(READY) => step.defer("a partial run does not say that all of the role is done"),
        _ => step,
    };
    Ok(Some(Chosen {
        partial: Partial { only: only.clone(), skip: skip.clone(), left_out: left_out.len() },
        steps: owned(chosen).into_iter().map(never_ready).collect(),
        left_out: owned(left_out),
    }))
}

/// Whether an id names this step. For a step with `each`, the id without a suffix names all of its steps.
fn is_named(id: &str, step: &Step) -> bool {
    step.id == id || step.id.strip_prefix(id).is_some_and(|item| item.starts_with(':'))
}

fn refuse_unknown(prepared: &Prepared, phases: Phases, steps: &[Step], id: &str) -> Result<()> {
    if steps.iter().any(|step| is_named(id, step)) {
        return Ok(());
    }
    let role = prepared.names();
    let Some(raw) = prepared.all().find_map(|one| one.role.raw(id)) else {
        let known: Vec<&str> = steps.iter().map(|step| step.id.as_str()).collect();
        let fix = did_you_mean(id, known.iter().copied());
        let error = Error::new(Kind::Usage, format!("role {role} has no step {id:?}"));
        // Every word after --only is a step, up to the next option.
        return Err(if id.contains('/') {
            error.fix("put the settings file before --only and --skip")
        } else {
            error.fix(fix)
        });
    };
    let phase = raw.phase.filter(|phase| !phases.list().contains(phase));
    let error = Error::new(Kind::Usage, format!("step {id} is not part of this run"));
    Err(match phase {
        Some(crate::step::Phase::Keep) => error.cause("its phase is keep").fix("titus-bootstrap keep runs it"),
        Some(_) => error.cause("--phase leaves its phase out").fix("leave --phase out"),
        None => error
            .cause("on this node the role has no such step: its `when` is false, or its `each` is empty")
            .fix("name another step, or change the setting that it depends on"),
    })
}

impl Chosen {
    /// Returns what an operator should know about the steps that were left out: those that a change affects, and those whose
    /// files a step of this run reads. A step that cannot be inspected matters only to a whole run.
    pub fn notices(&self, host: &Host, prepared: &Prepared, reported: &[StepReport]) -> Vec<String> {
        let mut notices = Vec::new();
        let raw = |step: &Step| prepared.all().find_map(|one| one.role.raw(&step.id));
        let is_changed = |id: &str| {
            let changes = [StepState::Changed, StepState::Changes];
            reported.iter().any(|step| step.id == id && changes.contains(&step.state))
        };
        for unit in &self.left_out {
            let read = raw(unit).into_iter().flat_map(|raw| raw.restart_on().iter().chain(raw.reload_on()));
            let changed: Vec<&str> = read.map(String::as_str).filter(|id| is_changed(id)).collect();
            if !changed.is_empty() {
                notices.push(format!(
                    "step {0} was left out, but reads what {1} changes: it stays as it was until you run \
                     titus-bootstrap apply --only {0}",
                    unit.id,
                    changed.join(", ")
                ));
            }
        }
        for file in &self.left_out {
            let reads = |step: &&Step| {
                let raw = raw(step);
                raw.is_some_and(|raw| raw.restart_on().contains(&file.id) || raw.reload_on().contains(&file.id))
            };
            let readers: Vec<&str> = self.steps.iter().filter(reads).map(|step| step.id.as_str()).collect();
            if !readers.is_empty() && matches!(file.observe(host, &Planned::new()), Ok(State::Changes(_))) {
                notices.push(format!(
                    "step {} was left out although its file differs from the role: {} runs with the old file",
                    file.id,
                    readers.join(", ")
                ));
            }
        }
        notices
    }
}
