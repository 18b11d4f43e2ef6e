//! A node's few calls to AWS's regional APIs. It uses the credentials of its instance profile, and makes one call at a
//! time. All calls and their retries have one deadline.

mod answer;
mod autoscaling;
mod ec2;
mod endpoint;
#[cfg(test)]
#[path = "tests.rs"]
mod fleet;
mod request;
mod s3;
pub mod sign;

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use reqwest::{Method, Url};

pub use self::answer::{Failure, statement};
pub use self::autoscaling::{Lifecycle, Outcome};
pub use self::ec2::Wanted;
pub(crate) use self::ec2::read_as_any_answer;
pub use self::endpoint::Service;
pub use self::s3::Bucket;
pub use crate::ec2::retry::Backoff;

use self::answer::{NO_PROFILE, Reply, refused, unexpected_response};
use self::request::{Request, origin};
use crate::ec2::exchange::{Exchange, NoAnswer};
use crate::ec2::imds;
use crate::ec2::retry::{Tries, Verdict, full_jitter};
use crate::error::{Error, Kind, Result};
use crate::host::net::Proxy;
use crate::host::wait::Deadline;

/// Grows faster and longer than in AWS's SDKs (1 s, 2 s, 4 s … 20 s), because thousands of nodes may call at once; see
/// docs/performance.md.
const BACKOFF: Backoff = |failures| full_jitter(Duration::from_secs(1), 4, Duration::from_secs(60), failures);

/// How long before they expire the program replaces credentials. IMDS has the next ones five minutes before.
const MARGIN: Duration = Duration::from_secs(4 * 60);

/// Looks up a variable; normally [`std::env::var`].
pub type Variable = Box<dyn Fn(&str) -> Option<String> + Send>;

/// This instance's access to the APIs.
pub struct Api {
    imds: imds::Endpoint,
    region: String,
    proxy: Proxy,
    /// For all calls together.
    deadline: Deadline,
    /// How long to pause after a failure.
    pub backoff: Backoff,
    /// Whether waits are not reported.
    pub quiet: bool,
    /// Looks up variables such as `AWS_ENDPOINT_URL`.
    pub variable: Variable,
    /// The connections to addresses with this scheme.
    exchange: Option<(String, Exchange)>,
    credentials: Option<Credentials>,
    domain: Option<String>,
    /// How far AWS's clock is ahead of this machine's, seconds.
    ahead: i64,
}

impl Api {
    /// Makes no call yet. `limit` is for all calls from now on.
    pub fn new(imds: &imds::Endpoint, region: &str, proxy: &Proxy, limit: Duration) -> Api {
        Api {
            imds: imds.clone(),
            region: region.to_owned(),
            proxy: proxy.clone(),
            deadline: Deadline::silent(limit),
            backoff: BACKOFF,
            quiet: false,
            variable: Box::new(|name| std::env::var(name).ok()),
            exchange: None,
            credentials: None,
            domain: None,
            ahead: 0,
        }
    }

    /// Sets the limit for all calls from now on.
    pub fn set_limit(&mut self, limit: Duration) {
        self.deadline = Deadline::silent(limit);
    }

    /// A wait within the deadline.
    fn wait_within(&self, limit: Duration) -> Deadline {
        if self.quiet { Deadline::silent(limit) } else { Deadline::new("", limit) }
    }

    /// Calls an action of a query API, and returns its XML.
    ///
    /// # Errors
    /// Fails when [`Api::ask`] fails, or the answer is an error.
    fn query(&mut self, service: Service, action: &str, parameters: &[(String, String)]) -> Result<String, Failure> {
        let mut form = Url::parse("form:").map_err(|e| Error::failed("no form").cause(e))?;
        form.query_pairs_mut()
            .append_pair("Action", action)
            .append_pair("Version", service.version())
            .extend_pairs(parameters);
        let what = service.call(action);
        let request = Request { service, method: Method::POST, path: None, body: form.query().unwrap_or_default() };
        let reply = self.ask(&what, request)?;
        if reply.status == 200 && reply.code.is_empty() {
            Ok(reply.body)
        } else {
            Err(refused(service, &what, action, &self.region, &reply))
        }
    }

    /// Sends a request until it gets a final answer, or the time is over.
    ///
    /// # Errors
    /// Fails with exit code 75 at the deadline, and with 78 when there are no credentials or the address is invalid.
    fn ask(&mut self, what: &str, request: Request<'_>) -> Result<Reply, Failure> {
        let mut deadline = self.wait_within(self.deadline.left());
        self.refresh(what, &deadline)?;
        let url = self.address(&request)?;
        let mut tries = Tries::new(format!("{what} at {}", origin(&url)), self.backoff, &mut deadline);
        while !deadline.left().is_zero() {
            let verdict = match self.send(what, &request, &url, &mut deadline)? {
                Ok(answer) => Reply::from(answer).judge(&self.region, self.now()),
                Err(NoAnswer::TooLarge(why, start)) => return Err(unexpected_response(what, &why, &start).into()),
                Err(NoAnswer::Refused(why, fix)) => {
                    let what = format!("{what} at {} cannot be called", origin(&url));
                    return Err(Error::config(what).cause(why).fix(fix).into());
                }
                Err(why) => Verdict::Temporary(why.to_string(), Duration::ZERO),
            };
            let stale = if let Verdict::Stale(reply) = &verdict { Some(reply.date) } else { None };
            if let Some(reply) = tries.settle(verdict, &mut deadline)? {
                return Ok(reply);
            }
            if let Some(date) = stale {
                // Try once more, with new credentials and a corrected clock.
                self.credentials = None;
                self.correct_clock(date);
            }
            self.refresh(what, &deadline)?;
        }
        Err(self.out_of_time(what, &url, &tries).into())
    }

    /// The time of AWS's clock, as far as it is known.
    fn now(&self) -> SystemTime {
        let (now, difference) = (SystemTime::now(), Duration::from_secs(self.ahead.unsigned_abs()));
        let then = if self.ahead < 0 { now.checked_sub(difference) } else { now.checked_add(difference) };
        then.unwrap_or(now)
    }

    /// Uses AWS's clock if this machine's is clearly wrong, e.g. early in its first boot.
    fn correct_clock(&mut self, theirs: Option<SystemTime>) {
        let Some(theirs) = theirs else { return };
        let ahead = difference(theirs, SystemTime::now());
        self.ahead = if ahead.abs() > 60 { ahead } else { 0 };
        if self.ahead != 0 {
            tracing::warn!(
                "this machine's clock differs from AWS's by {} s: the program signs requests with AWS's time",
                ahead.abs()
            );
        }
    }

    /// Gets credentials that stay valid for a while, unless there is no time left to send a request.
    ///
    /// # Errors
    /// Fails with exit code 75 when IMDS does not answer, and with [`NO_PROFILE`] when the instance has no profile.
    fn refresh(&mut self, what: &str, deadline: &Deadline) -> Result<(), Failure> {
        let now = self.now();
        let lasts = |margin| {
            let held = self.credentials.as_ref();
            held.is_some_and(|held| held.expiry().is_none_or(|expiry| expiry > now + margin))
        };
        if lasts(MARGIN) || deadline.left().is_zero() {
            return Ok(());
        }
        // With credentials that are still valid, do not wait long for the next ones.
        let good = lasts(Duration::ZERO);
        // Whole seconds, because messages show them.
        let seconds = if good { 2 } else { deadline.left().as_secs() + 1 };
        match imds::access(&self.imds, &mut self.wait_within(Duration::from_secs(seconds))) {
            Ok(Some(access)) => {
                self.credentials = Some(access.credentials);
                self.domain = access.domain;
                Ok(())
            }
            Err(_) if good => Ok(()),
            Err(error) => Err(error.into()),
            Ok(None) => Err(Failure {
                code: Some(NO_PROFILE.into()),
                error: Error::config(format!("{what} cannot be called: this instance has no instance profile"))
                    .cause("IMDS has no item iam/security-credentials, so there are no credentials to sign with")
                    .fix("give the instance a profile whose role may make this call")
                    .awaiting(imds::CREDENTIALS),
            }),
        }
    }

    fn out_of_time(&self, what: &str, url: &Url, tries: &Tries) -> Error {
        let limit = humantime::format_duration(self.deadline.limit());
        Error::new(Kind::TemporaryFailure, format!("{what} gave no answer within {limit}"))
            .cause(format!("asked {} {} times; the last answer: {}", origin(url), tries.count(), tries.last()))
            .fix("check whether this subnet has a route there (NAT, a VPC endpoint, or the settings proxy.*), and who else is calling the API")
    }
}

/// How far one clock is ahead of the other, seconds.
fn difference(theirs: SystemTime, ours: SystemTime) -> i64 {
    match theirs.duration_since(ours) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(0),
        Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_can_differ_either_way() {
        let now = SystemTime::now();
        assert_eq!(difference(now + Duration::from_secs(90), now), 90);
        assert_eq!(difference(now, now + Duration::from_secs(90)), -90);
    }
}
