//! The one way to wait: a deadline, pauses, checks for signals, and progress lines for the user.
//!
//! Every loop that waits for something outside this process uses [`Deadline`], so that no loop has to check for
//! signals itself.

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use crate::activity;
use crate::activity::event::{self, Event};
use crate::error::{Error, Result};
use crate::host::signals;
use crate::secrets::masked;

/// How often a wait checks for signals.
const POLL: Duration = Duration::from_millis(100);

/// When a wait is first reported, and how often after that.
const FIRST_LINE: Duration = Duration::from_secs(3);
const NEXT_LINE: Duration = Duration::from_secs(30);

/// The shortest wait that the record of a run lists.
const NOTED: Duration = Duration::from_secs(1);

/// A wait with at most this limit has no lines: it is one try of another wait, or it ends soon after its first line.
const SHORT: Duration = Duration::from_secs(5);

/// A wait for one thing; it ends at its deadline or on a signal.
#[derive(Debug)]
pub struct Deadline {
    what: String,
    began: Instant,
    /// The progress in percent, and the current action.
    progress: Option<(u8, String)>,
    limit: Duration,
    next_line: Option<Duration>,
    /// How long the wait continues after a signal, and when the first signal was seen.
    grace: Duration,
    signalled: Option<Duration>,
}

/// A finished wait of this thread, or a part of a longer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// The thing that the thread waited for.
    pub what: String,
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
}

thread_local! {
    static WAITED: RefCell<Vec<Waited>> = const { RefCell::new(Vec::new()) };
}

/// Takes the long waits of this thread that are over. Of nested waits it returns the outermost; repeated waits for one
/// thing are merged.
pub fn take_waits() -> Vec<Waited> {
    WAITED.take()
}

fn record_wait(waits: &mut Vec<Waited>, waited: Waited) {
    // Waits that began later are parts of this one. If they cover nearly all of it, they are more informative.
    let parts = waits.iter().filter(|other| other.began >= waited.began);
    let parts: Duration = parts.map(|part| part.ended.saturating_duration_since(part.began)).sum();
    if waited.ended.saturating_duration_since(waited.began).saturating_sub(parts) < NOTED && !parts.is_zero() {
        return;
    }
    waits.retain(|other| other.began < waited.began);
    match waits.last_mut().filter(|last| last.what == waited.what) {
        Some(last) => last.ended = waited.ended,
        None => waits.push(waited),
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if self.elapsed() >= NOTED && !self.what.is_empty() {
            let waited = Waited { what: std::mem::take(&mut self.what), began: self.began, ended: Instant::now() };
            WAITED.with_borrow_mut(|waits| record_wait(waits, waited));
        }
    }
}

/// Returns a runtime on which blocking code runs futures.
///
/// # Errors
/// Fails when the system cannot create one.
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
            progress: None,
            limit,
            next_line: (limit > SHORT).then_some(FIRST_LINE),
            grace: Duration::ZERO,
            signalled: None,
        }
    }

    /// The same without lines, for a caller that reports its own progress.
    pub fn silent(limit: Duration) -> Deadline {
        let mut silent = Deadline::new("", limit);
        silent.next_line = None;
        silent
    }

    /// Allows the wait some more time after a signal, to finish or undo work that must not stop halfway.
    pub fn with_grace(mut self, grace: Duration) -> Deadline {
        self.grace = grace;
        self
    }

    /// Changes the name of the thing that the next line, or the error on a signal, shows.
    pub fn set_name(&mut self, what: impl AsRef<str>) {
        self.what = masked(what.as_ref());
    }

    /// Sets the progress in percent, and the current action.
    pub fn set_progress(&mut self, percent: u8, doing: String) {
        self.progress = Some((percent, doing));
    }

    /// The total time that the wait may take.
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
    pub fn timeout_message(&self) -> String {
        format!("waited {} for {}", humantime::format_duration(self.limit), self.what)
    }

    /// Sleeps for `pause`, or until the deadline if that comes first. Returns false, without sleeping, if the deadline
    /// has already passed: the caller has made its last try.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn pause(&mut self, pause: Duration) -> Result<bool> {
        let left = self.left();
        let until = Instant::now() + pause.min(left);
        loop {
            let interval = self.poll()?;
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return Ok(!left.is_zero());
            }
            std::thread::sleep(interval.min(rest));
        }
    }

    /// Runs a future to its end. Drops it at the deadline and returns `None`.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn block_on<F: Future>(&mut self, runtime: &Runtime, future: F) -> Result<Option<F::Output>> {
        runtime.block_on(async {
            let mut future = pin!(future);
            loop {
                let interval = self.poll()?;
                match tokio::time::timeout(interval.min(self.left()), &mut future).await {
                    Ok(output) => return Ok(Some(output)),
                    Err(_) if self.left().is_zero() => return Ok(None),
                    Err(_) => {}
                }
            }
        })
    }

    /// Waits for a request. The inner error is a message that explains why it failed or that it did not complete in
    /// time.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn ask<T>(
        &mut self,
        runtime: &Runtime,
        question: impl Future<Output = Result<T, String>>,
    ) -> Result<Result<T, String>> {
        let answer = self.block_on(runtime, question)?;
        Ok(answer.unwrap_or_else(|| Err(format!("no answer within {}", humantime::format_duration(self.limit)))))
    }

    /// Checks for signals, and reports the wait when a line is due. Returns the longest time until the next call.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal has arrived and the grace period is over.
    pub fn poll(&mut self) -> Result<Duration> {
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
        if self.next_line.is_some() {
            let is_command = self.what.starts_with('`');
            let what = match &self.progress {
                Some((percent, doing)) => format!("[{}] {percent} % {doing}", activity::bar((*percent).into(), 100)),
                None if is_command => self.what.clone(),
                None => format!("waiting for {}", self.what),
            };
            activity::detail(&format!("{what}, {} s{}", elapsed.as_secs(), self.limit_suffix()));
        }
        match self.line(elapsed) {
            None => {}
            Some(_) if event::is_read() => {
                let limit_seconds = (self.limit < Duration::MAX).then_some(self.limit.as_secs());
                event::emit(Event::Wait { what: self.what.clone(), seconds: elapsed.as_secs(), limit_seconds });
            }
            Some(_) if activity::is_drawn() => {}
            Some(line) => tracing::info!("{}{line}", activity::prefix()),
        }
        Ok(POLL)
    }

    fn interruption(&self) -> Error {
        match self.what.as_str() {
            "" => signals::interruption(),
            what => signals::interruption().cause(format!("it was waiting for {what}")),
        }
    }

    /// The line that is due at this time, if any.
    fn line(&mut self, elapsed: Duration) -> Option<String> {
        self.next_line.filter(|next| elapsed >= *next)?;
        self.next_line = Some(elapsed + NEXT_LINE);
        let progress = self.progress.as_ref().map(|(percent, doing)| format!(" ({percent} %, {doing})"));
        let what = format!("{}{}", self.what, progress.unwrap_or_default());
        Some(format!("still waiting for {what}, {} s{}", elapsed.as_secs(), self.limit_suffix()))
    }

    /// " of 300" if the wait has a limit.
    fn limit_suffix(&self) -> String {
        match self.limit {
            Duration::MAX => String::new(),
            limit => format!(" of {}", limit.as_secs_f64().ceil()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_at_the_deadline_and_the_next_one_is_refused() {
        let mut deadline = Deadline::new("x", Duration::from_millis(300));
        assert!(deadline.pause(Duration::from_secs(3600)).unwrap());
        assert!(deadline.left().is_zero());
        assert!(!deadline.pause(Duration::from_secs(3600)).unwrap());
    }

    #[test]
    fn a_future_is_run_to_its_end_or_dropped_at_the_deadline() {
        let runtime = runtime().unwrap();
        let mut deadline = Deadline::silent(Duration::from_secs(60));
        let later = async {
            tokio::time::sleep(POLL * 2).await;
            7
        };
        assert_eq!(deadline.block_on(&runtime, later).unwrap(), Some(7));
        let mut deadline = Deadline::new("x", Duration::from_millis(10));
        assert_eq!(deadline.block_on(&runtime, std::future::pending::<()>()).unwrap(), None);
        let words = deadline.ask(&runtime, std::future::pending::<Result<(), String>>()).unwrap().unwrap_err();
        assert_eq!(words, "no answer within 10ms");
    }

    #[test]
    fn waits_within_one_another_and_repeated_ones_are_one() {
        let start = Instant::now();
        let waited = |what: &str, began, ended| {
            let at = |seconds| start + Duration::from_secs(seconds);
            Waited { what: what.into(), began: at(began), ended: at(ended) }
        };
        let mut waits = Vec::new();
        for (what, began, ended) in
            [("a", 0, 2), ("b", 3, 5), ("b", 6, 8), ("c", 9, 10), ("outer", 3, 11), ("d", 12, 13)]
        {
            record_wait(&mut waits, waited(what, began, ended));
        }
        assert_eq!(waits, [waited("a", 0, 2), waited("outer", 3, 11), waited("d", 12, 13)]);
        waits.pop();
        record_wait(&mut waits, waited("apt-get", 12, 14));
        record_wait(&mut waits, waited("apt and dpkg", 12, 14));
        assert_eq!(waits.pop(), Some(waited("apt-get", 12, 14)));
        record_wait(&mut waits, waited("outer", 12, 14));
        assert_eq!(waits, [waited("a", 0, 2), waited("outer", 3, 14)]);
    }

    #[test]
    fn a_wait_that_lasts_is_reported_after_3_s_and_then_every_30_s() {
        let mut deadline = Deadline::new("http://me:secret@x/ to answer", Duration::from_secs(300));
        let mut line = |ms| deadline.line(Duration::from_millis(ms));
        assert_eq!(line(2999), None);
        assert_eq!(line(3000).unwrap(), "still waiting for http://***@x/ to answer, 3 s of 300");
        assert_eq!(line(32_999), None);
        assert_eq!(line(33_100).unwrap(), "still waiting for http://***@x/ to answer, 33 s of 300");
        assert_eq!(line(63_000), None);
        // A missed line is not printed later.
        assert!(line(120_000).is_some());
        assert_eq!(line(149_999), None);
        let mut apt = Deadline::new("`apt-get install x`", Duration::MAX);
        apt.set_progress(45, "Unpacking x".into());
        let expected = "still waiting for `apt-get install x` (45 %, Unpacking x), 14 s";
        assert_eq!(apt.line(Duration::from_secs(14)).unwrap(), expected);
        let line = |mut deadline: Deadline| deadline.line(Duration::from_secs(4));
        assert_eq!(line(Deadline::new("x", Duration::MAX)).unwrap(), "still waiting for x, 4 s");
        assert_eq!(line(Deadline::new("x", SHORT)), None);
        assert_eq!(line(Deadline::silent(Duration::MAX)), None);
    }
}
