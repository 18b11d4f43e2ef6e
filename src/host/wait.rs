//! The one wait: a deadline, a pause, a look at signals, and a line for whoever watches.
//!
//! Every loop that waits for something outside this process goes through [`Deadline`], so that no loop has to
//! remember signals by itself.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::host::signals;

/// How often a wait looks whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

/// When a wait is first reported, and how often from then on.
const FIRST_LINE: Duration = Duration::from_secs(3);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// A wait for one thing that ends at its deadline, or when a signal comes.
#[derive(Debug)]
pub struct Deadline {
    what: String,
    began: Instant,
    limit: Duration,
    next_line: Option<Duration>,
}

impl Deadline {
    /// A wait that begins now. `what` completes "still waiting for …".
    pub fn new(what: impl Into<String>, limit: Duration) -> Deadline {
        Deadline { what: what.into(), began: Instant::now(), limit, next_line: Some(FIRST_LINE) }
    }

    /// The same without lines, for a caller that reports progress of its own.
    pub fn silent(limit: Duration) -> Deadline {
        Deadline { what: String::new(), began: Instant::now(), limit, next_line: None }
    }

    /// Changes what the next line names.
    pub fn name(&mut self, what: impl Into<String>) {
        self.what = what.into();
    }

    /// The whole time that the wait may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The time since the wait began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time until the deadline; zero after it.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// Sleeps for `pause`, or until the deadline if that comes first. Returns false, at once, when the deadline had
    /// passed before: the caller has looked for the last time.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn pause(&mut self, pause: Duration) -> Result<bool> {
        let left = self.left();
        let until = Instant::now() + pause.min(left);
        loop {
            let look = self.look()?;
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(!left.is_zero());
            }
            std::thread::sleep(look.min(rest));
        }
    }

    /// Runs a future to its end. Returns `None` at the deadline; the future is dropped then.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn block_on<F: Future>(&mut self, runtime: &tokio::runtime::Runtime, future: F) -> Result<Option<F::Output>> {
        runtime.block_on(async {
            let mut future = pin!(future);
            loop {
                let look = self.look()?;
                match tokio::time::timeout(look.min(self.left()), &mut future).await {
                    Ok(output) => return Ok(Some(output)),
                    Err(_) if self.left().is_zero() => return Ok(None),
                    Err(_) => {}
                }
            }
        })
    }

    /// Fails when a signal came, and says what is waited for when that is due. Returns how long the next look may
    /// be away.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn look(&mut self) -> Result<Duration> {
        if signals::interrupted() {
            return Err(signals::interruption());
        }
        let elapsed = self.elapsed();
        if let Some(next) = self.next_line.filter(|next| elapsed >= *next) {
            self.next_line = Some(next.max(elapsed) + NEXT_LINE);
            let limit = self.limit.as_secs_f64().ceil();
            tracing::info!("still waiting for {}, {} s of {limit}", self.what, elapsed.as_secs());
        }
        Ok(LOOK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_the_deadline_and_the_next_one_is_refused() {
        let mut deadline = Deadline::new("x", Duration::from_millis(30));
        assert!(deadline.pause(Duration::from_secs(3600)).unwrap());
        assert!(deadline.left().is_zero());
        assert!(!deadline.pause(Duration::from_secs(3600)).unwrap());
    }

    #[test]
    fn a_future_is_run_to_its_end_or_dropped_at_the_deadline() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut deadline = Deadline::silent(Duration::from_secs(60));
        let later = async {
            tokio::time::sleep(LOOK * 2).await;
            7
        };
        assert_eq!(deadline.block_on(&runtime, later).unwrap(), Some(7));
        let mut deadline = Deadline::silent(Duration::from_millis(10));
        assert_eq!(deadline.block_on(&runtime, std::future::pending::<()>()).unwrap(), None);
    }
}
