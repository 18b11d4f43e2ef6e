//! The steps of phase `keep`, for their timer. A pass does not query the instance, and prints nothing if it changes nothing.

use std::time::Duration;

use super::engine;
use super::journal::{Journal, KEEP_JOURNAL};
use super::refusals::{refuse_made_up_facts, refuse_without_root};
use super::report::{Report, Reporter, StepState};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::lock::KEEP_LOCK;
use crate::host::wait::Deadline;
use crate::prepare::{self, Request};

/// Looks at the steps and fixes what differs. The settings are those of the last run.
///
/// # Errors
/// Fails with 75 when a step cannot be inspected now, when a signal ends the pass, or when a process other than `keep` holds
/// the lock; with 1 when a step failed.
pub fn keep(request: &Request, report: &mut Report, reporter: Reporter) -> Result<()> {
    pass(request, report, reporter).map_err(|error| match error.kind {
        // The timer's next pass continues. The unit has not failed: the node is going down, or somebody stopped the unit.
        Kind::Interrupted => Error { kind: Kind::TemporaryFailure, ..error },
        _ => error,
    })
}

fn pass(request: &Request, report: &mut Report, reporter: Reporter) -> Result<()> {
    refuse_made_up_facts(request)?;
    let mut host = request.host()?;
    refuse_without_root(&host)?;
    let _lock = match host.lock(KEEP_LOCK, Duration::ZERO, &mut |_| {}) {
        // Another pass of `keep` does the same work. Any other process would block it without anyone noticing.
        Err(error) if error.kind == Kind::TemporaryFailure && !is_held_by_other(&host)? => return Ok(()),
        lock => lock?,
    };
    let prepared = prepare::prepare(request, &mut host)?;
    report.introduce(&prepared, &host);
    let steps = prepared.steps(request.phases)?;
    report.step_count = steps.len();
    let silent = Reporter { quiet: true, ..reporter };
    engine::observe(&host, &steps, report, &silent)?;
    if report.count(StepState::Changes) == 0 {
        return Ok(());
    }
    report.steps.clear();
    let mut journal = Journal::for_role(&prepared, KEEP_JOURNAL, None);
    report.run = journal.run().into();
    engine::converge(&host, &steps, &|_| false, &mut journal, report, &silent)?;
    journal.event(&host, "ended", None, &[]);
    Ok(())
}

/// Whether a process other than `keep` holds its lock. A process that has just taken the lock has not recorded its name yet,
/// and one that is about to end may already be gone.
fn is_held_by_other(host: &Host) -> Result<bool> {
    let mut deadline = Deadline::new("the name of the process that holds the lock", Duration::from_secs(2));
    while host.is_lock_foreign(KEEP_LOCK)? {
        if !deadline.pause(Duration::from_millis(50))? {
            return Ok(true);
        }
    }
    Ok(false)
}
