//! `logs [RUN]`: the runs of the journal on disk, or one of them.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::host::Host;
use crate::prepare::Request;
use crate::run::journal::{self, Event};
use crate::run::logs::{self, Run, events_of};
use crate::run::refusals::refuse_without_root;
use crate::run::report::{Reporter, say, say_document};
use crate::run::status;

/// The output of `logs --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Runs {
    /// Each run, the newest last.
    runs: Vec<Run>,
}

/// The output of `logs RUN --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Story {
    /// The run.
    run: Run,
    /// Its events, in order.
    events: Vec<Event>,
}

/// The runs of the journals on disk, and the events of each.
///
/// # Errors
/// Fails when a journal exists but cannot be read.
pub fn recorded(host: &Host) -> Result<(Vec<Run>, Vec<Event>)> {
    let (events, keep_events) =
        (journal::events(host, journal::JOURNAL)?, journal::events(host, journal::KEEP_JOURNAL)?);
    // A run that is marked as running but does not hold the lock was killed.
    let running = match host.lock_holder()? {
        Some(_) => status::read(host)?.map(|status| status.run),
        None => None,
    };
    let runs = logs::runs(&events, &keep_events, running.as_deref());
    Ok((runs, events.into_iter().chain(keep_events).collect()))
}

/// Lists the runs, or shows one.
///
/// # Errors
/// Fails with 77 on a live machine without root, because only root may read the records; with 64 when there is no such run.
pub fn run(request: &Request, reporter: Reporter, name: Option<&str>) -> Result<u8> {
    let host = request.host()?;
    refuse_without_root(&host)?;
    let (runs, events) = recorded(&host)?;
    let Some(name) = name else {
        if reporter.json {
            say_document(Runs { runs });
        } else {
            say(&logs::table(&runs));
        }
        return Ok(0);
    };
    let run = logs::find(&runs, name)?;
    let events = events_of(&events, &run.run);
    if reporter.json {
        say_document(Story { run: run.clone(), events: events.into_iter().cloned().collect() });
    } else {
        say(&logs::story(run, &events));
    }
    Ok(0)
}
