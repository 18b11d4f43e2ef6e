//! Work on a thread of its own that a step joins, and what is told of it meanwhile.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::host::wait::Deadline;
use crate::terminal::draw;

/// How long work has, after its deadline, to say by itself what it was waiting for.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Work that goes on, and in the end its outcome.
#[derive(Debug)]
pub(in crate::host) struct Background<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

/// How far it is.
#[derive(Debug)]
pub(in crate::host) struct State<T> {
    pub progress: Progress,
    pub outcome: Option<T>,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(in crate::host) struct Progress {
    /// Bytes that came and bytes in all, of each part.
    pub parts: BTreeMap<String, (u64, u64)>,
    /// How often it was begun again.
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

    /// Notes that more has come.
    pub(in crate::host) fn note(&self, note: impl FnOnce(&mut Progress)) {
        note(&mut self.lock().progress);
        self.changed.notify_all();
    }

    /// Pauses before another try, after one that failed with this answer: `work` is "pulling x". The next pause is
    /// twice as long. Returns false, at once, when the deadline leaves no time for another try.
    pub(in crate::host) async fn try_again(
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
        self.parts.values().fold((0, 0), |(done, all), part| (done + part.0, all + part.1))
    }

    pub(in crate::host) fn told(&self) -> String {
        let (done, all) = self.bytes();
        let of_all = if all > 0 { format!(" of {}", all >> 20) } else { String::new() };
        let again = if self.tries > 0 { format!(", try {}", self.tries + 1) } else { String::new() };
        format!("{}{of_all} MiB{again}", done >> 20)
    }

    /// One line of a terminal, 80 columns at most but for a long name.
    pub(in crate::host) fn bar(&self, name: &str) -> String {
        let (done, all) = self.bytes();
        let filled = usize::try_from((done * 20).checked_div(all).unwrap_or(0).min(20)).unwrap_or(0);
        format!("{name} [{}{}] {}", "=".repeat(filled), " ".repeat(20 - filled), self.told())
    }
}

impl Host {
    /// Waits for work to end, and shows its progress meanwhile: `work` is "pull", and `name` what is pulled. Returns
    /// `None` when it did not end within `limit`, nor a second later, as it should have by itself.
    ///
    /// # Errors
    /// When a signal came.
    pub(in crate::host) fn join<T: Clone>(
        &self,
        background: &Background<T>,
        work: &str,
        name: &str,
        limit: Duration,
    ) -> Result<Option<T>> {
        let mut deadline = if self.bar { Deadline::silent(limit) } else { Deadline::new("", limit) };
        let mut state = background.lock();
        let outcome = loop {
            deadline.name(format!("the {work} of {name} ({})", state.progress.told()));
            match (state.outcome.clone(), deadline.look()) {
                (Some(outcome), _) => break Ok(Some(outcome)),
                (None, Err(interruption)) => break Err(interruption),
                (None, Ok(_)) if deadline.elapsed() > limit + LAST_WORD => break Ok(None),
                (None, Ok(look)) => {
                    if self.bar {
                        draw(&state.progress.bar(name));
                    }
                    state = background.changed.wait_timeout(state, look).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        };
        if self.bar {
            draw("");
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_adds_up() {
        let mut progress = Progress::default();
        assert_eq!(progress.told(), "0 MiB");
        progress.parts.insert("a".into(), (2 << 20, 4 << 20));
        progress.parts.insert("b".into(), (6 << 20, 6 << 20));
        progress.tries = 1;
        assert_eq!(progress.told(), "8 of 10 MiB, try 2");
        assert!(progress.bar("x").starts_with("x [================    ] 8 of 10 MiB"), "{}", progress.bar("x"));
        let of_unknown_length = Progress { parts: [("a".into(), (3 << 20, 0))].into(), tries: 0 };
        assert_eq!(of_unknown_length.told(), "3 MiB");
        assert!(of_unknown_length.bar("x").starts_with("x [          "));
    }

    #[test]
    fn work_that_does_not_end_is_not_waited_for_for_ever() {
        let host = Host::live(crate::host::Deadlines::default());
        assert_eq!(host.join(&Background::<()>::default(), "work", "x", Duration::ZERO).unwrap(), None);
        let done = Background::default();
        done.end(7);
        assert_eq!(host.join(&done, "work", "x", Duration::ZERO).unwrap(), Some(7));
    }
}
