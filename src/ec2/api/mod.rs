//! The few calls to AWS's regional APIs that a node makes, as itself: with the credentials of its instance
//! profile, one call at a time, each tried again until a deadline for all of them.

mod answer;
mod autoscaling;
mod ec2;
mod endpoint;
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

use self::answer::{NO_PROFILE, Reply, foreign, refused};
use self::request::{Request, origin};
use crate::ec2::exchange::{Exchange, NoAnswer};
use crate::ec2::imds;
use crate::ec2::retry::{Tries, Verdict, full_jitter};
use crate::error::{Error, Kind, Result};
use crate::host::net::Proxy;
use crate::host::wait::Deadline;

/// Both bounds are those of AWS's own SDKs (AWS SDKs and Tools Reference Guide, "Retry behavior").
const BACKOFF: Backoff = |failures| full_jitter(Duration::from_secs(1), Duration::from_secs(20), failures);

/// Credentials are fetched anew so long before they expire. IMDS has the next ones five minutes before.
const MARGIN: Duration = Duration::from_secs(4 * 60);

/// Where variables are looked up: [`std::env::var`], as a rule.
pub type Variable = Box<dyn Fn(&str) -> Option<String> + Send>;

/// The APIs, as this instance may call them.
pub struct Api {
    imds: imds::Endpoint,
    region: String,
    proxy: Proxy,
    /// For all calls together.
    deadline: Deadline,
    /// How long to pause after a failure.
    pub backoff: Backoff,
    /// Whether nothing is reported while a call waits.
    pub quiet: bool,
    /// Tells of `AWS_ENDPOINT_URL` and the like.
    pub variable: Variable,
    /// For addresses with this scheme.
    exchange: Option<(String, Exchange)>,
    credentials: Option<Credentials>,
    domain: Option<String>,
    /// How far the other side's clock is ahead of ours, seconds.
    ahead: i64,
}

impl Api {
    /// Calls nothing yet. `limit` is for all that is asked from now on.
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

    /// Gives what follows so long from now on.
    pub fn allow(&mut self, limit: Duration) {
        self.deadline = Deadline::silent(limit);
    }

    /// A wait of its own within the deadline.
    fn part(&self, limit: Duration) -> Deadline {
        if self.quiet { Deadline::silent(limit) } else { Deadline::new("", limit) }
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
        let request = Request { service, method: Method::POST, path: None, body: form.query().unwrap_or_default() };
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
        let mut deadline = self.part(self.deadline.left());
        self.refresh(what, &deadline)?;
        let url = self.address(&request)?;
        let mut tries = Tries::new(format!("{what} at {}", origin(&url)), self.backoff, &mut deadline);
        while !deadline.left().is_zero() {
            let verdict = match self.send(what, &request, &url, &mut deadline)? {
                Ok(answer) => Reply::from(answer).judge(&self.region, self.now()),
                Err(NoAnswer::TooLarge(why, start)) => return Err(foreign(what, &why, &start).into()),
                Err(NoAnswer::Refused(why, fix)) => {
                    let what = format!("{what} at {} cannot be asked", origin(&url));
                    return Err(Error::config(what).cause(why).fix(fix).into());
                }
                Err(why) => Verdict::Passing(why.to_string()),
            };
            let stale = if let Verdict::Stale(reply) = &verdict { Some(reply.date) } else { None };
            if let Some(reply) = tries.settle(verdict, &mut deadline)? {
                return Ok(reply);
            }
            if let Some(date) = stale {
                // Once more, with the credentials and the clock of now.
                self.credentials = None;
                self.follow(date);
            }
            self.refresh(what, &deadline)?;
        }
        Err(self.out_of_time(what, &url, &tries).into())
    }

    /// The time by the other side's clock, as far as it is known.
    fn now(&self) -> SystemTime {
        let (now, difference) = (SystemTime::now(), Duration::from_secs(self.ahead.unsigned_abs()));
        let then = if self.ahead < 0 { now.checked_sub(difference) } else { now.checked_add(difference) };
        then.unwrap_or(now)
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

    /// Sees to credentials that are good for a while; where no time is left, nothing is sent anyway.
    ///
    /// # Errors
    /// 75 when IMDS does not answer; [`NO_PROFILE`] where the instance has no profile.
    fn refresh(&mut self, what: &str, deadline: &Deadline) -> Result<(), Failure> {
        let now = self.now();
        let lasts = |margin| {
            let held = self.credentials.as_ref();
            held.is_some_and(|held| held.expiry().is_none_or(|expiry| expiry > now + margin))
        };
        if lasts(MARGIN) || deadline.left().is_zero() {
            return Ok(());
        }
        // Those that are still good need not wait for the next ones.
        let good = lasts(Duration::ZERO);
        // Whole seconds, as messages show them.
        let seconds = if good { 2 } else { deadline.left().as_secs() + 1 };
        match imds::access(&self.imds, &mut self.part(Duration::from_secs(seconds))) {
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

    fn out_of_time(&self, what: &str, url: &Url, tries: &Tries) -> Error {
        let limit = humantime::format_duration(self.deadline.limit());
        Error::new(Kind::TemporaryFailure, format!("{what} gave no answer within {limit}"))
            .cause(format!("asked {} {} times; the last answer: {}", origin(url), tries.count(), tries.last()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_either_way() {
        let now = SystemTime::now();
        assert_eq!(difference(now + Duration::from_secs(90), now), 90);
        assert_eq!(difference(now, now + Duration::from_secs(90)), -90);
    }
}
