//! When a request is sent again. Nothing here sends one.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use crate::error::Result;
use crate::host::wait::Deadline;

/// What came of a request, as far as it decides whether the request is sent again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<T> {
    /// An answer that another try would not change.
    Final(T),
    /// An answer that credentials and a clock of now may change; the sender has renewed them.
    Stale(T),
    /// No answer, or one that may change by itself; in words.
    Passing(String),
}

/// Chooses the pause after a failure; the argument is the number of failures until then, from 1.
pub type Backoff = fn(u32) -> Duration;

/// The tries of one request.
pub(super) struct Tries {
    what: String,
    backoff: Backoff,
    failures: u32,
    renewed: bool,
    last: Option<String>,
}

impl Tries {
    /// None yet. `what` says for people what is asked for, and where; the lines of the wait name it.
    pub fn new(what: String, backoff: Backoff, deadline: &mut Deadline) -> Tries {
        deadline.name(&what);
        Tries { what, backoff, failures: 0, renewed: false, last: None }
    }

    /// Returns the answer that the request ends with; else `None`, after the pause before the next try.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn settle<T>(&mut self, verdict: Verdict<T>, deadline: &mut Deadline) -> Result<Option<T>> {
        // Where only the deadline cut it short, the answer before this one tells more.
        if let Verdict::Passing(answer) = &verdict
            && (self.last.is_none() || !deadline.left().is_zero())
        {
            deadline.name(format!("{}: {answer}", self.what));
            self.last = Some(answer.clone());
        }
        match self.next(verdict) {
            Break(answer) => Ok(Some(answer)),
            Continue(pause) => deadline.pause(pause).map(|_| None),
        }
    }

    /// The policy: what is stale is asked for once more at once, what passes until the deadline.
    fn next<T>(&mut self, verdict: Verdict<T>) -> ControlFlow<T, Duration> {
        match verdict {
            Verdict::Stale(_) if !std::mem::replace(&mut self.renewed, true) => Continue(Duration::ZERO),
            Verdict::Final(answer) | Verdict::Stale(answer) => Break(answer),
            Verdict::Passing(_) => {
                self.failures = self.failures.saturating_add(1);
                Continue((self.backoff)(self.failures))
            }
        }
    }

    /// How often the request was sent in vain.
    pub fn count(&self) -> u32 {
        self.failures.saturating_add(self.renewed.into())
    }

    /// The last answer, for people.
    pub fn last(&self) -> &str {
        self.last.as_deref().unwrap_or("nothing, for the time was used up before")
    }
}

/// "Full jitter": anything up to a bound, which each failure doubles (AWS Architecture Blog, "Exponential Backoff And
/// Jitter").
pub(super) fn full_jitter(first: Duration, longest: Duration, failures: u32) -> Duration {
    up_to(bound(first, longest, failures))
}

fn bound(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// Anything up to a bound, so that nodes which start together do not ask together. The standard library seeds each
/// `RandomState` anew.
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
    fn the_verdict_and_the_failures_before_it_decide_what_follows() {
        use Verdict::{Final, Passing, Stale};
        let passing = || Passing("503".to_owned());
        let (stop, again) = (|| Break(7), |seconds| Continue(SECOND * seconds));
        // The verdicts on one request's tries, and what follows the last of them.
        for (verdicts, expected) in [
            (vec![Final(7)], stop()),
            (vec![passing()], again(1)),
            (vec![passing(), passing()], again(2)),
            (vec![passing(), passing(), Final(7)], stop()),
            (vec![Stale(6)], again(0)),
            (vec![Stale(6), Stale(7)], stop()),
            (vec![Stale(6), Final(7)], stop()),
            // What was stale is no failure, and is renewed once whatever failed before and after.
            (vec![Stale(6), passing()], again(1)),
            (vec![passing(), Stale(6)], again(0)),
            (vec![passing(), Stale(6), passing()], again(2)),
            (vec![passing(), Stale(6), passing(), Stale(7)], stop()),
        ] {
            let mut tries = Tries::new("x".into(), |failures| SECOND * failures, &mut Deadline::silent(SECOND));
            let shown = format!("{verdicts:?}");
            let followed: Vec<_> = verdicts.into_iter().map(|verdict| tries.next(verdict)).collect();
            assert_eq!(followed.last(), Some(&expected), "{shown}");
        }
    }

    #[test]
    fn bounds_of_pauses_double_up_to_the_longest() {
        for (failures, seconds) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 20), (1000, 20), (u32::MAX, 20)] {
            assert_eq!(bound(SECOND, 20 * SECOND, failures), seconds * SECOND, "{failures}");
        }
        let pauses: Vec<_> = (0..200).map(|_| full_jitter(SECOND, 20 * SECOND, 3)).collect();
        assert!(pauses.iter().all(|pause| *pause < 4 * SECOND));
        assert!(pauses.iter().any(|pause| *pause > 2 * SECOND) && pauses.iter().any(|pause| *pause < 2 * SECOND));
    }

    #[test]
    fn the_last_answer_is_that_before_the_one_that_the_deadline_cut_short() {
        let (mut long, mut over) = (Deadline::silent(60 * SECOND), Deadline::silent(Duration::ZERO));
        let mut tries = Tries::new("x".into(), |_| Duration::ZERO, &mut long);
        assert_eq!((tries.count(), tries.last()), (0, "nothing, for the time was used up before"));
        for (count, answer, deadline) in [(1, "503", &mut long), (2, "nothing whole", &mut over)] {
            let verdict: Verdict<()> = Verdict::Passing(answer.into());
            assert_eq!(tries.settle(verdict, deadline).unwrap(), None);
            assert_eq!((tries.count(), tries.last()), (count, "503"));
        }
    }
}
