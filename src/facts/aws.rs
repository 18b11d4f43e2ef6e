//! The few calls to AWS's regional APIs that a node makes, as itself: with the credentials of its instance
//! profile, one call at a time, each tried again until a deadline for all of them.

mod answer;
mod autoscaling;
mod ec2;
mod endpoint;
mod s3;
pub mod sign;

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use reqwest::Url;
use reqwest::header::{DATE, HeaderValue};

pub use self::answer::{Failure, statement};
pub use self::autoscaling::{Lifecycle, Outcome};
pub use self::ec2::{Peer, Wanted};
pub use self::endpoint::Service;
pub use self::s3::Bucket;

use self::answer::{BODY_LIMIT, NO_PROFILE, Reply, http_date, refused};
use self::sign::{Scope, Unsigned};
use super::imds;
use crate::error::{Error, Kind, Result};
use crate::host::net::{self, Proxy};

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause after a failed call is anything up to this, doubled by each one: "full jitter" (AWS Architecture
/// Blog, "Exponential Backoff And Jitter").
const PAUSE: Duration = Duration::from_millis(500);
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
            runtime: super::runtime()?,
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

    /// Where a request goes. The partition's domain came with the credentials.
    fn address(&self, request: &Request<'_>) -> Result<Url> {
        let mut url = endpoint::of(request.service, &self.region, self.domain.as_deref(), &self.variable)?;
        if let Some(path) = request.path {
            url.set_path(path);
        }
        Ok(url)
    }

    /// A request that can be sent, for some minutes.
    fn signed(&mut self, what: &str, request: &Request<'_>, url: &Url) -> Result<reqwest::RequestBuilder> {
        let wrong = |why: String| Error::failed(format!("{what} at {} cannot be asked", origin(url))).cause(why);
        let credentials = self.credentials.as_ref().ok_or_else(|| wrong("there are no credentials".into()))?;
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let headers: &[(&str, &str)] = if request.method == "POST" { &form } else { &[] };
        let scope = Scope { region: &self.region, service: request.service.name(), time: self.now() };
        let unsigned = Unsigned { method: request.method, url: url.as_str(), headers, body: request.body.as_bytes() };
        let signature = sign::headers(unsigned, scope, credentials).map_err(wrong)?;
        let http = match self.http.take() {
            Some((scheme, http)) if scheme == url.scheme() => http,
            _ => client(&self.proxy, url).map_err(wrong)?,
        };
        let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|e| wrong(e.to_string()))?;
        let mut signed = http.request(method, url.clone()).body(request.body.to_owned());
        self.http = Some((url.scheme().to_owned(), http));
        for (name, value) in headers {
            signed = signed.header(*name, *value);
        }
        for (name, value) in signature {
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong("the credentials are no text".into()))?;
            value.set_sensitive(true);
            signed = signed.header(name, value);
        }
        Ok(signed)
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// What happened instead of an answer, in words.
    fn exchange(&self, signed: reqwest::RequestBuilder, patience: Duration) -> Result<Reply, String> {
        self.runtime.block_on(async {
            let exchange = async {
                let mut response = signed.send().await.map_err(|e| net::chain(&e.without_url()))?;
                let mut body = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(|e| net::chain(&e.without_url()))? {
                    body.extend_from_slice(&chunk);
                    // What is read of the rest decides nothing.
                    if body.len() > BODY_LIMIT {
                        break;
                    }
                }
                let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
                Ok(Reply {
                    date: header(DATE.as_str()).and_then(http_date),
                    bucket_region: header("x-amz-bucket-region").map(str::to_owned),
                    ..Reply::new(response.status().as_u16(), &body)
                })
            };
            let late = |_| Err(format!("nothing whole within {} s", patience.as_secs_f64().ceil()));
            tokio::time::timeout(patience, exchange).await.unwrap_or_else(late)
        })
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

/// A request, before it has an address and a signature.
struct Request<'a> {
    service: Service,
    method: &'a str,
    path: Option<&'a str>,
    body: &'a str,
}

/// How far one clock is ahead of another, seconds.
fn difference(theirs: SystemTime, ours: SystemTime) -> i64 {
    match theirs.duration_since(ours) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(0),
        Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(0),
    }
}

/// The address without what a path may tell.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn client(proxy: &Proxy, url: &Url) -> Result<reqwest::Client, String> {
    let mut builder = net::download_client(proxy)?;
    // Certificates cost some 20 ms, and an image may have none.
    if url.scheme() == "http" && proxy.http.is_none() {
        builder = builder.tls_certs_only([]);
    }
    builder
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| net::chain(&e))
}

/// Anything up to a bound that grows. The standard library seeds each `RandomState` anew.
fn full_jitter(failures: u32) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let bound = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let random = RandomState::new().build_hasher().finish() % 1024;
    bound * u32::try_from(random).unwrap_or(0) / 1024
}
