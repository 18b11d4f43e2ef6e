//! Work on a separate thread that a step joins, and its progress.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::activity;
use crate::error::Result;
use crate::host::Host;
use crate::host::wait::Deadline;

/// The time after its deadline in which work should end by itself, with a message that says what it was waiting for.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Work in progress, and its outcome when it ends.
#[derive(Debug)]
pub(in crate::host) struct Background<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// The state of the work.
#[derive(Debug)]
pub(in crate::host) struct State<T> {
    pub progress: Progress,
    pub outcome: Option<T>,
}

/// What has arrived so far.
#[derive(Debug, Default)]
pub(in crate::host) struct Progress {
    /// For each part, the bytes received and the total bytes.
    pub parts: BTreeMap<String, (u64, u64)>,
    /// How often the work was started again.
    pub tries: u32,
}

impl<T> Default for Background<T> {
    fn default() -> Self {
        let state = State { progress: Progress::default(), outcome: None };
        Background { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<T> Background<T> {
    pub(in crate::host) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the progress.
    pub(in crate::host) fn note(&self, note: impl FnOnce(&mut Progress)) {
        note(&mut self.lock().progress);
        self.changed.notify_all();
    }

    /// Pauses after a try that failed with this answer, and doubles the next pause. `work` is e.g. "pulling x". Returns
    /// false, without a pause, when the deadline leaves no time for another try.
    pub(in crate::host) async fn pause_before_retry(
        &self,
        work: &str,
        answer: &str,
        pause: &mut Duration,
        deadline: &Deadline,
    ) -> bool {
        if *pause >= deadline.left() {
            return false;
        }
        tracing::warn!("{work} failed, again in {}: {answer}", humantime::format_duration(*pause));
        tokio::time::sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        self.note(|progress| progress.tries += 1);
        true
    }

    pub(in crate::host) fn end(&self, outcome: T) {
        self.lock().outcome = Some(outcome);
        self.changed.notify_all();
    }
}

impl Progress {
    fn bytes(&self) -> (u64, u64) {
        // An engine or a server can report any number.
        self.parts
            .values()
            .fold((0, 0), |(done, all): (u64, u64), part| (done.saturating_add(part.0), all.saturating_add(part.1)))
    }

    pub(in crate::host) fn summary(&self) -> String {
        let (done, all) = self.bytes();
        let of_all = if all > 0 { format!(" of {}", all >> 20) } else { String::new() };
        let again = if self.tries > 0 { format!(", try {}", self.tries + 1) } else { String::new() };
        format!("{}{of_all} MiB{again}", done >> 20)
    }

    /// A progress bar of one line, at most 80 columns unless the name is long.
    pub(in crate::host) fn bar(&self, name: &str) -> String {
        let (done, all) = self.bytes();
        format!("{name} [{}] {}", activity::bar(done, all), self.summary())
    }
}

impl Host {
    /// Waits for work to end, and shows its progress. `work` is e.g. "pull", and `name` the thing that is pulled.
    /// Returns `None` if the work has not ended a second after `limit`, by when it should have ended by itself.
    ///
    /// # Errors
    /// Fails when a signal arrives.
    pub(in crate::host) fn join<T: Clone>(
        &self,
        background: &Background<T>,
        work: &str,
        name: &str,
        limit: Duration,
    ) -> Result<Option<T>> {
        let mut deadline = Deadline::new("", limit);
        let mut state = background.lock();
        loop {
            deadline.set_name(format!("the {work} of {name} ({})", state.progress.summary()));
            match (state.outcome.clone(), deadline.poll()) {
                (Some(outcome), _) => break Ok(Some(outcome)),
                (None, Err(interruption)) => break Err(interruption),
                (None, Ok(_)) if deadline.elapsed() > limit + LAST_WORD => break Ok(None),
                (None, Ok(look)) => {
                    activity::detail(&state.progress.bar(name));
                    state = background.changed.wait_timeout(state, look).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up() {
        let mut progress = Progress::default();
        assert_eq!(progress.summary(), "0 MiB");
        progress.parts.insert("a".into(), (2 << 20, 4 << 20));
        progress.parts.insert("b".into(), (6 << 20, 6 << 20));
        progress.tries = 1;
        assert_eq!(progress.summary(), "8 of 10 MiB, try 2");
        assert!(progress.bar("x").starts_with("x [================    ] 8 of 10 MiB"), "{}", progress.bar("x"));
        let of_unknown_length = Progress { parts: [("a".into(), (3 << 20, 0))].into(), tries: 0 };
        assert_eq!(of_unknown_length.summary(), "3 MiB");
        assert!(of_unknown_length.bar("x").starts_with("x [          "));
    }

    #[test]
    fn a_wait_for_work_that_does_not_end_is_limited() {
        let host = Host::live(crate::host::Deadlines::default());
        assert_eq!(host.join(&Background::<()>::default(), "work", "x", Duration::ZERO).unwrap(), None);
        let done = Background::default();
        done.end(7);
        assert_eq!(host.join(&done, "work", "x", Duration::ZERO).unwrap(), Some(7));
    }
}
