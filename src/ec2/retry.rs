//! The policy that decides when a request is sent again.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use sha2::Digest;

use crate::error::Result;
use crate::host::wait::Deadline;

/// The result of a request, which decides whether it is sent again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// An answer that another try would not change.
    Final(T),
    /// An answer that may change with new credentials and a corrected clock, which the sender provides.
    Stale(T),
    /// No answer, or one that may change by itself: a message, and how long the server asks clients to wait.
    Temporary(String, Duration),
}

/// Chooses the pause after a failure. The argument is the number of failures so far, from 1.
pub type Backoff = fn(u32) -> Duration;

/// The longest `Retry-After` that the program follows: if a service sends a year, it still tries again within the
/// deadline.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The tries of one request.
pub(super) struct Tries {
    what: String,
    backoff: Backoff,
    failures: u32,
    renewed: bool,
    /// Whether the next try is the last one before the deadline.
    at_last: bool,
    last: Option<String>,
}

impl Tries {
    /// No try yet. `what` names the request and its address in messages.
    pub fn new(what: String, backoff: Backoff, deadline: &mut Deadline) -> Tries {
        deadline.set_name(&what);
        Tries { what, backoff, failures: 0, renewed: false, at_last: false, last: None }
    }

    /// Returns the final answer of the request, or `None` after the pause before the next try.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn settle<T>(&mut self, verdict: Verdict<T>, deadline: &mut Deadline) -> Result<Option<T>> {
        // If the deadline cut this try short, the answer before it is more informative.
        if let Verdict::Temporary(answer, _) = &verdict
            && (self.last.is_none() || !deadline.left().is_zero())
        {
            deadline.set_name(format!("{}: {answer}", self.what));
            self.last = Some(answer.clone());
        }
        match self.next(verdict, deadline.left()) {
            Break(answer) => Ok(Some(answer)),
            Continue(pause) => deadline.pause(pause).map(|_| None),
        }
    }

    /// The policy: one immediate try after a stale answer, and tries until the deadline, in `left`, after temporary
    /// failures. A pause that would exceed the deadline is shortened once, for a last try.
    pub fn next<T>(&mut self, verdict: Verdict<T>, left: Duration) -> ControlFlow<T, Duration> {
        match verdict {
            Verdict::Stale(_) if !std::mem::replace(&mut self.renewed, true) => Continue(Duration::ZERO),
            Verdict::Final(answer) | Verdict::Stale(answer) => Break(answer),
            Verdict::Temporary(_, retry_after) => {
                self.failures = self.failures.saturating_add(1);
                let pause = retry_after.min(MOST_RETRY_AFTER) + (self.backoff)(self.failures);
                let is_last = pause >= left && !std::mem::replace(&mut self.at_last, pause >= left);
                Continue(if is_last { up_to(left) } else { pause })
            }
        }
    }

    /// How often the request failed.
    pub fn count(&self) -> u32 {
        self.failures.saturating_add(self.renewed.into())
    }

    /// The last answer, for messages.
    pub fn last(&self) -> &str {
        self.last.as_deref().unwrap_or("none, because the time was already over")
    }
}

/// "Full jitter": a random pause up to a bound, which grows with each failure (AWS Architecture Blog, "Exponential
/// Backoff And Jitter").
pub(super) fn full_jitter(first: Duration, factor: u32, longest: Duration, failures: u32) -> Duration {
    up_to(bound(first, factor, longest, failures))
}

fn bound(first: Duration, factor: u32, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(factor.saturating_pow(failures.saturating_sub(1))).min(longest)
}

/// The time of an instance's turn within a window, from its id. Instances that boot together have different turns, and
/// an instance has the same turn in every run.
pub(crate) fn turn(instance: &str, window: Duration) -> Duration {
    let [a, b, c, d, ..] = sha2::Sha256::digest(instance).0;
    window.mul_f64(f64::from(u32::from_be_bytes([a, b, c, d])) / 2_f64.powi(32))
}

/// A random duration up to a bound, so that nodes that start together do not call together. The standard library gives
/// each `RandomState` another seed.
pub(crate) fn up_to(bound: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = RandomState::new().build_hasher().finish() % 1024;
    bound * u32::try_from(random).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_verdict_and_earlier_failures_decide_the_next_step() {
        use Verdict::{Final, Stale, Temporary};
        let temporary = || Temporary("503".to_owned(), Duration::ZERO);
        let (stop, again) = (|| Break(7), |seconds| Continue(SECOND * seconds));
        // The verdicts on the tries of one request, and the step after the last one.
        for (verdicts, expected) in [
            (vec![Final(7)], stop()),
            (vec![temporary()], again(1)),
            (vec![temporary(), temporary()], again(2)),
            (vec![temporary(), temporary(), Final(7)], stop()),
            (vec![Stale(6)], again(0)),
            (vec![Stale(6), Stale(7)], stop()),
            (vec![Stale(6), Final(7)], stop()),
            // A stale answer does not count as a failure, and leads to one immediate try, independent of failures.
            (vec![Stale(6), temporary()], again(1)),
            (vec![temporary(), Stale(6)], again(0)),
            (vec![temporary(), Stale(6), temporary()], again(2)),
            (vec![temporary(), Stale(6), temporary(), Stale(7)], stop()),
        ] {
            let mut tries = Tries::new("x".into(), |failures| SECOND * failures, &mut Deadline::silent(SECOND));
            let shown = format!("{verdicts:?}");
            let followed: Vec<_> = verdicts.into_iter().map(|verdict| tries.next(verdict, Duration::MAX)).collect();
            assert_eq!(followed.last(), Some(&expected), "{shown}");
        }
    }

    #[test]
    fn bounds_of_pauses_double_up_to_the_longest() {
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 20), (1000, 20), (u32::MAX, 20)] {
            assert_eq!(bound(SECOND, 2, 20 * SECOND, failures), seconds * SECOND, "{failures}");
        }
        let pauses: Vec<_> = (0..200).map(|_| full_jitter(SECOND, 2, 20 * SECOND, 3)).collect();
        assert!(pauses.iter().all(|pause| *pause < 4 * SECOND));
        assert!(pauses.iter().any(|pause| *pause > 2 * SECOND) && pauses.iter().any(|pause| *pause < 2 * SECOND));
    }

    #[test]
    fn despite_a_long_retry_after_there_is_a_try_before_the_deadline() {
        let year = Duration::from_secs(365 * 24 * 3600);
        // Retry-After, the time left, and the shortest and longest pause.
        for (retry_after, left, from, to) in [
            (Duration::ZERO, year, 1, 1),
            (5 * SECOND, year, 6, 6),
            (5 * SECOND, 7 * SECOND, 6, 6),
            (5 * SECOND, 6 * SECOND, 0, 6),
            (year, year, 61, 61),
            (Duration::MAX, year, 61, 61),
            (year, 30 * SECOND, 0, 30),
        ] {
            let mut tries = Tries::new("x".into(), |_| SECOND, &mut Deadline::silent(SECOND));
            let mut next = || tries.next(Verdict::<()>::Temporary("503".into(), retry_after), left);
            let Continue(pause) = next() else { panic!("{retry_after:?}") };
            assert!(from * SECOND <= pause && pause <= to * SECOND, "{retry_after:?} {left:?}: {pause:?}");
            // There is only one last try.
            assert!(from > 0 || next() == Continue(retry_after.min(MOST_RETRY_AFTER) + SECOND));
        }
    }

    #[test]
    fn turns_are_spread_evenly_and_stay_the_same() {
        let window = Duration::from_secs(100);
        let mut turns: Vec<u64> = (0..1000).map(|n| turn(&format!("i-{n:017x}"), window).as_secs()).collect();
        turns.sort_unstable();
        assert!((0..=10).all(|n| turns[n * 999 / 10].abs_diff(n as u64 * 10) < 8), "{turns:?}");
        assert_eq!(turn("i-0123456789abcdef0", window), turn("i-0123456789abcdef0", window));
        assert_eq!(turn("i-0123456789abcdef0", Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_try_that_the_deadline_cut_short_is_not_the_last_answer() {
        let (mut long, mut over) = (Deadline::silent(60 * SECOND), Deadline::silent(Duration::ZERO));
        let mut tries = Tries::new("x".into(), |_| Duration::ZERO, &mut long);
        assert_eq!((tries.count(), tries.last()), (0, "none, because the time was already over"));
        for (count, answer, deadline) in [(1, "503", &mut long), (2, "no complete answer", &mut over)] {
            let verdict: Verdict<()> = Verdict::Temporary(answer.into(), Duration::ZERO);
            assert_eq!(tries.settle(verdict, deadline).unwrap(), None);
            assert_eq!((tries.count(), tries.last()), (count, "503"));
        }
    }
}
