//! The steps of phase `keep`, for their timer: no instance is asked, and a pass without a change says nothing.

use std::time::Duration;

use super::engine;
use super::journal::{Journal, KEEP_JOURNAL};
use super::refusals::{refuse_made_up_facts, refuse_without_root};
use super::report::{Report, Reporter, StepState};
use crate::error::{Kind, Result};
use crate::host::Host;
use crate::host::lock::KEEP_LOCK;
use crate::host::wait::Deadline;
use crate::prepare::{self, Request};

/// Looks, and changes what is not as it should be. The settings are those of the last run.
///
/// # Errors
/// 75 when a step could not be looked at now, or a process that is not `keep` holds the lock; 1 when one failed.
pub fn keep(request: &Request, report: &mut Report, reporter: Reporter) -> Result<()> {
    refuse_made_up_facts(request)?;
    let mut host = request.host()?;
    refuse_without_root(&host)?;
    let _lock = match host.lock(KEEP_LOCK, Duration::ZERO, &mut |_| {}) {
        // Another one does the same. Any other process would keep it from being done, unseen.
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
    let mut journal = Journal::for_role(&prepared, KEEP_JOURNAL);
    report.run = journal.run().into();
    engine::converge(&host, &steps, &|_| false, &mut journal, report, &silent)?;
    journal.event(&host, "ended", None, &[]);
    Ok(())
}

/// Whether a process that is not `keep` holds its lock. One that has just taken it, or is about to go, has not said who it
/// is, or is no longer there.
fn is_held_by_other(host: &Host) -> Result<bool> {
    let mut deadline = Deadline::new("the holder of the lock to say who it is", Duration::from_secs(2));
    while host.is_lock_foreign(KEEP_LOCK)? {
        if !deadline.pause(Duration::from_millis(50))? {
            return Ok(true);
        }
    }
    Ok(false)
}
