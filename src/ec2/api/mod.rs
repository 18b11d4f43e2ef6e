//! The few calls to AWS's regional APIs that a node makes, as itself: with the credentials of its instance
//! profile, one call at a time, each tried again until a deadline for all of them.

mod answer;
mod autoscaling;
mod ec2;
mod endpoint;
mod request;
mod s3;
pub mod sign;

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use reqwest::Url;

pub use self::answer::{Failure, statement};
pub use self::autoscaling::{Lifecycle, Outcome};
pub use self::ec2::Wanted;
pub use self::endpoint::Service;
pub use self::s3::Bucket;

use self::answer::{NO_PROFILE, Reply, refused};
use self::request::{Request, origin};
use crate::ec2::imds;
use crate::error::{Error, Kind, Result};
use crate::host::net::Proxy;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause after a failed call is anything up to this, doubled by each one: "full jitter" (AWS Architecture
/// Blog, "Exponential Backoff And Jitter"). Both bounds are those of AWS's own SDKs ("Retry behavior").
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Credentials are fetched anew so long before they expire. IMDS has the next ones five minutes before.
const MARGIN: Duration = Duration::from_secs(4 * 60);

/// When a wait is first spoken of, and how often from then on.
const FIRST_WORD: Duration = Duration::from_secs(3);
const NEXT_WORD: Duration = Duration::from_secs(10);

/// How a pause is chosen; the argument is the number of failures until then, from 1.
pub type Backoff = fn(u32) -> Duration;

/// Where variables are looked up: [`std::env::var`], as a rule.
pub type Variable = Box<dyn Fn(&str) -> Option<String> + Send>;

/// The APIs, as this instance may call them.
pub struct Api {
    imds: imds::Endpoint,
    region: String,
    proxy: Proxy,
    until: Instant,
    limit: Duration,
    /// How long to pause after a failure.
    pub backoff: Backoff,
    /// Hears, after some seconds, what is waited for.
    pub say: fn(&str),
    /// Tells of `AWS_ENDPOINT_URL` and the like.
    pub variable: Variable,
    runtime: tokio::runtime::Runtime,
    /// For addresses with this scheme.
    http: Option<(String, reqwest::Client)>,
    credentials: Option<Credentials>,
    domain: Option<String>,
    /// How far the other side's clock is ahead of ours, seconds.
    ahead: i64,
}

impl Api {
    /// Calls nothing yet. `limit` is for all that is asked from now on.
    ///
    /// # Errors
    /// When no runtime can be had.
    pub fn new(imds: &imds::Endpoint, region: &str, proxy: &Proxy, limit: Duration) -> Result<Api> {
        Ok(Api {
            imds: imds.clone(),
            region: region.to_owned(),
            proxy: proxy.clone(),
            until: Instant::now() + limit,
            limit,
            backoff: full_jitter,
            say: |line| tracing::info!("{line}"),
            variable: Box::new(|name| std::env::var(name).ok()),
            runtime: crate::ec2::runtime()?,
            http: None,
            credentials: None,
            domain: None,
            ahead: 0,
        })
    }

    /// Gives what follows so long from now on.
    pub fn allow(&mut self, limit: Duration) {
        (self.limit, self.until) = (limit, Instant::now() + limit);
    }

    /// What is left of the deadline.
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Calls an action of a query API; its answer is XML.
    ///
    /// # Errors
    /// As [`Api::ask`], and when the answer is an error.
    fn query(&mut self, service: Service, action: &str, parameters: &[(String, String)]) -> Result<String, Failure> {
        let mut form = Url::parse("form:").map_err(|e| Error::failed("no form").cause(e))?;
        form.query_pairs_mut()
            .append_pair("Action", action)
            .append_pair("Version", service.version())
            .extend_pairs(parameters);
        let what = service.call(action);
        let request = Request { service, method: "POST", path: None, body: form.query().unwrap_or_default() };
        let reply = self.ask(&what, request)?;
        if reply.status == 200 && reply.code.is_empty() {
            Ok(reply.body)
        } else {
            Err(refused(service, &what, action, &self.region, &reply))
        }
    }

    /// Asks until there is an answer that asking again would not change, or the time is over.
    ///
    /// # Errors
    /// 75 at the deadline; 78 without credentials, or with an address that is none.
    fn ask(&mut self, what: &str, request: Request<'_>) -> Result<Reply, Failure> {
        let began = Instant::now();
        let (mut tries, mut failures, mut spoken, mut renewed) = (0, 0, None, false);
        let mut last = "nothing, for the time was used up before".to_owned();
        loop {
            if self.left().is_zero() {
                let url = self.address(&request)?;
                return Err(self.out_of_time(what, &url, tries, &last).into());
            }
            self.refresh(what)?;
            let url = self.address(&request)?;
            let signed = self.signed(what, &request, &url)?;
            let patience = PATIENCE.min(self.left());
            tries += 1;
            match self.exchange(signed, patience) {
                Ok(reply) if !renewed && self.is_stale(&reply) => {
                    // Once, with the credentials and the clock of now.
                    renewed = true;
                    self.credentials = None;
                    self.follow(reply.date);
                    continue;
                }
                Ok(reply) if !reply.is_passing() => return Ok(reply),
                Ok(reply) => last = reply.name(),
                // Only the deadline cut it short: what was answered before tells more.
                Err(_) if patience < PATIENCE && failures > 0 && self.left().is_zero() => {}
                Err(answer) => last = answer,
            }
            failures += 1;
            let waited = began.elapsed();
            if waited >= spoken.map_or(FIRST_WORD, |spoken| spoken + NEXT_WORD) && !self.left().is_zero() {
                spoken = Some(waited);
                (self.say)(&self.progress(what, &url, &last));
            }
            std::thread::sleep((self.backoff)(failures).min(self.left()));
        }
    }

    /// The time by the other side's clock, as far as it is known.
    fn now(&self) -> SystemTime {
        let (now, difference) = (SystemTime::now(), Duration::from_secs(self.ahead.unsigned_abs()));
        let then = if self.ahead < 0 { now.checked_sub(difference) } else { now.checked_add(difference) };
        then.unwrap_or(now)
    }

    /// Whether the answer may be another with the credentials and the clock of now.
    fn is_stale(&self, reply: &Reply) -> bool {
        // S3 says no more than 403 to HEAD, also of a clock that is wrong.
        let astray = || reply.date.is_some_and(|theirs| difference(theirs, self.now()).abs() > 5 * 60);
        reply.is_stale(&self.region) || (reply.status == 403 && reply.body.is_empty() && astray())
    }

    /// Takes the other side's clock where ours is plainly wrong, as it may be early in a first boot.
    fn follow(&mut self, theirs: Option<SystemTime>) {
        let Some(theirs) = theirs else { return };
        let ahead = difference(theirs, SystemTime::now());
        self.ahead = if ahead.abs() > 60 { ahead } else { 0 };
        if self.ahead != 0 {
            tracing::warn!(
                "this machine's clock differs from AWS's by {} s: requests are signed with theirs",
                ahead.abs()
            );
        }
    }

    /// Sees to credentials that are good for a while.
    ///
    /// # Errors
    /// 75 when IMDS does not answer; [`NO_PROFILE`] where the instance has no profile.
    fn refresh(&mut self, what: &str) -> Result<(), Failure> {
        let now = self.now();
        let lasts = |margin| {
            let held = self.credentials.as_ref();
            held.is_some_and(|held| held.expiry().is_none_or(|expiry| expiry > now + margin))
        };
        if lasts(MARGIN) {
            return Ok(());
        }
        // Those that are still good need not wait for the next ones.
        let good = lasts(Duration::ZERO);
        let patience = if good { Duration::from_secs(2) } else { self.left() };
        match imds::access(&self.imds, Duration::from_secs(patience.as_secs().max(1))) {
            Ok(Some(access)) => {
                self.credentials = Some(access.credentials);
                self.domain = access.domain;
                Ok(())
            }
            Err(_) if good => Ok(()),
            Err(error) => Err(error.into()),
            Ok(None) => Err(Failure {
                code: Some(NO_PROFILE.into()),
                error: Error::config(format!("{what} cannot be asked: this instance has no instance profile"))
                    .cause("IMDS has no item iam/security-credentials, so there is nobody to sign for")
                    .fix("give the instance a profile whose role may make this call"),
            }),
        }
    }

    /// One line: what is waited for, and until when.
    fn progress(&self, what: &str, url: &Url, last: &str) -> String {
        let left = self.left();
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + left);
        format!("waiting for {what} at {}: {last}, until {until}, {} s from now", origin(url), left.as_secs())
    }

    fn out_of_time(&self, what: &str, url: &Url, tries: u32, last: &str) -> Error {
        let limit = humantime::format_duration(self.limit);
        Error::new(Kind::TemporaryFailure, format!("{what} gave no answer within {limit}"))
            .cause(format!("asked {} {tries} times; the last answer: {last}", origin(url)))
            .fix("see whether this subnet has a way there (NAT, a VPC endpoint, or the settings proxy.*), and who else is calling the API")
    }
}

/// How far one clock is ahead of another, seconds.
fn difference(theirs: SystemTime, ours: SystemTime) -> i64 {
    match theirs.duration_since(ours) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(0),
        Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(0),
    }
}

/// Anything up to a bound that grows.
fn full_jitter(failures: u32) -> Duration {
    crate::ec2::up_to(PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_anything_up_to_a_bound_that_grows() {
        for (failures, bound) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 20), (1000, 20), (u32::MAX, 20)] {
            let bound = Duration::from_secs(bound);
            let pauses: Vec<_> = (0..200).map(|_| full_jitter(failures)).collect();
            assert!(pauses.iter().all(|pause| *pause < bound), "{failures}");
            assert!(pauses.iter().any(|pause| *pause > bound / 2) && pauses.iter().any(|pause| *pause < bound / 2));
        }
    }

    #[test]
    fn clocks_differ_either_way() {
        let now = SystemTime::now();
        assert_eq!(difference(now + Duration::from_secs(90), now), 90);
        assert_eq!(difference(now, now + Duration::from_secs(90)), -90);
    }
}
