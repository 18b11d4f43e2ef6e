//! The one wait: a deadline, a pause, a look at signals, and a line for whoever watches.
//!
//! Every loop that waits for something outside this process goes through [`Deadline`], so that no loop has to
//! remember signals by itself.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result};
use crate::host::signals;
use crate::secrets::masked;

/// How often a wait looks whether a signal came.
const LOOK: Duration = Duration::from_millis(100);

/// When a wait is first reported, and how often from then on.
const FIRST_LINE: Duration = Duration::from_secs(3);
const NEXT_LINE: Duration = Duration::from_secs(10);

/// A wait that can last no longer has no lines: it is one try of another wait, or its end is near at the first line.
const SHORT: Duration = Duration::from_secs(5);

/// A wait for one thing that ends at its deadline, or when a signal comes.
#[derive(Debug)]
pub struct Deadline {
    what: String,
    began: Instant,
    limit: Duration,
    next_line: Option<Duration>,
    /// How long the wait goes on after a signal, and when one was first seen.
    grace: Duration,
    signalled: Option<Duration>,
}

/// Returns a runtime for the futures that plain blocking code waits for.
///
/// # Errors
/// When the system refuses.
pub fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed("no runtime could be started").cause(e))
}

impl Deadline {
    /// A wait that begins now. `what` completes "still waiting for …".
    pub fn new(what: impl AsRef<str>, limit: Duration) -> Deadline {
        Deadline {
            what: masked(what.as_ref()),
            began: Instant::now(),
            limit,
            next_line: (limit > SHORT).then_some(FIRST_LINE),
            grace: Duration::ZERO,
            signalled: None,
        }
    }

    /// The same without lines, for a caller that reports progress of its own.
    pub fn silent(limit: Duration) -> Deadline {
        Deadline { next_line: None, ..Deadline::new("", limit) }
    }

    /// Gives the wait some more time after a signal, to end or undo what must not be left half-way.
    pub fn with_grace(self, grace: Duration) -> Deadline {
        Deadline { grace, ..self }
    }

    /// Changes what the next line names, and the error when a signal comes.
    pub fn name(&mut self, what: impl AsRef<str>) {
        self.what = masked(what.as_ref());
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

    /// "waited 5m for …", for the error at the deadline.
    pub fn waited(&self) -> String {
        format!("waited {} for {}", humantime::format_duration(self.limit), self.what)
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
    pub fn block_on<F: Future>(&mut self, runtime: &Runtime, future: F) -> Result<Option<F::Output>> {
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

    /// Asks a question whose failure is put in words, as is an answer that does not come before the deadline.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn ask<T>(
        &mut self,
        runtime: &Runtime,
        question: impl Future<Output = Result<T, String>>,
    ) -> Result<Result<T, String>> {
        let answer = self.block_on(runtime, question)?;
        Ok(answer.unwrap_or_else(|| Err(format!("no answer within {}", humantime::format_duration(self.limit)))))
    }

    /// Fails when a signal came, and says what is waited for when that is due. Returns how long the next look may
    /// be away.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn look(&mut self) -> Result<Duration> {
        let elapsed = self.elapsed();
        if signals::interrupted() {
            let first = self.signalled.is_none();
            if elapsed.saturating_sub(*self.signalled.get_or_insert(elapsed)) >= self.grace {
                return Err(self.interruption());
            }
            if first && self.next_line.is_some() {
                tracing::info!("a signal came; before it stops, the run waits for {}", self.what);
            }
        }
        if let Some(line) = self.line(elapsed) {
            tracing::info!("{line}");
        }
        Ok(LOOK)
    }

    fn interruption(&self) -> Error {
        match self.what.as_str() {
            "" => signals::interruption(),
            what => signals::interruption().cause(format!("it was waiting for {what}")),
        }
    }

    /// The line that is due at this time, if one is.
    fn line(&mut self, elapsed: Duration) -> Option<String> {
        self.next_line.filter(|next| elapsed >= *next)?;
        self.next_line = Some(elapsed + NEXT_LINE);
        let of_all = match self.limit {
            Duration::MAX => String::new(),
            limit => format!(" of {}", limit.as_secs_f64().ceil()),
        };
        Some(format!("still waiting for {}, {} s{of_all}", self.what, elapsed.as_secs()))
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
        let runtime = runtime().unwrap();
        let mut deadline = Deadline::silent(Duration::from_secs(60));
        let later = async {
            tokio::time::sleep(LOOK * 2).await;
            7
        };
        assert_eq!(deadline.block_on(&runtime, later).unwrap(), Some(7));
        let mut deadline = Deadline::new("x", Duration::from_millis(10));
        assert_eq!(deadline.block_on(&runtime, std::future::pending::<()>()).unwrap(), None);
        let words = deadline.ask(&runtime, std::future::pending::<Result<(), String>>()).unwrap().unwrap_err();
        assert_eq!(words, "no answer within 10ms");
    }

    #[test]
    fn a_wait_that_lasts_is_reported_after_3_s_and_then_every_10_s() {
        let mut deadline = Deadline::new("http://me:secret@x/ to answer", Duration::from_secs(300));
        let mut line = |ms| deadline.line(Duration::from_millis(ms));
        assert_eq!(line(2999), None);
        assert_eq!(line(3000).unwrap(), "still waiting for http://***@x/ to answer, 3 s of 300");
        assert_eq!(line(12_999), None);
        assert_eq!(line(13_100).unwrap(), "still waiting for http://***@x/ to answer, 13 s of 300");
        assert_eq!(line(23_000), None);
        // A look that was late is not made up for.
        assert!(line(60_000).is_some());
        assert_eq!(line(69_999), None);
        let line = |mut deadline: Deadline| deadline.line(Duration::from_secs(4));
        assert_eq!(line(Deadline::new("x", Duration::MAX)).unwrap(), "still waiting for x, 4 s");
        assert_eq!(line(Deadline::new("x", SHORT)), None);
        assert_eq!(line(Deadline::silent(Duration::MAX)), None);
    }
}
