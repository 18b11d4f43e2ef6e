//! The few calls to AWS's regional APIs that a node makes, as itself: with the credentials of its instance
//! profile, one call at a time, each tried again until a deadline for all of them.

mod autoscaling;
mod ec2;
mod endpoint;
mod s3;
mod sign;

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use reqwest::header::DATE;

pub use self::autoscaling::{Lifecycle, Outcome};
pub use self::ec2::{Peer, Wanted};
pub use self::endpoint::Service;
pub use self::s3::Bucket;

use self::sign::{Scope, Unsigned};
use super::imds;
use crate::error::{Error, Kind, Result};
use crate::host::net::{self, Proxy};

/// An answer that measures more is none of these APIs', bytes: a page of a thousand instances has some 3 MiB.
const BODY_LIMIT: usize = 8 << 20;

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

/// A call that brought no answer.
#[derive(Debug)]
pub struct Failure {
    /// The API's word for it: `UnauthorizedOperation`; none where the API said nothing.
    pub code: Option<String>,
    /// The same for people.
    pub error: Error,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { code: None, error }
    }
}

impl Failure {
    /// Whether it will fail for as long as nobody changes the instance's profile: it has none, or a policy
    /// that does not allow the call.
    pub fn is_denied(&self) -> bool {
        self.is_without_profile() || self.code.as_deref().is_some_and(is_denial)
    }

    /// Whether the instance has no profile, or not yet.
    pub fn is_without_profile(&self) -> bool {
        self.code.as_deref() == Some(NO_PROFILE)
    }
}

/// As if an API had said it: there is nobody to sign for.
const NO_PROFILE: &str = "NoInstanceProfile";

fn is_denial(code: &str) -> bool {
    ["UnauthorizedOperation", "AccessDenied", "AccessDeniedException"].contains(&code)
}

/// The error codes that tell of a clock, or of credentials, that were right a while ago.
fn is_stale(code: &str) -> bool {
    const STALE: [&str; 6] = [
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "AuthFailure",
    ];
    STALE.contains(&code)
}

/// Whether a later try may go better ("Common errors" of the services).
fn is_passing(status: u16, code: &str) -> bool {
    status >= 500
        || status == 429
        || ["RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled", "SlowDown"].contains(&code)
}

/// What came back.
struct Reply {
    status: u16,
    body: String,
    /// What the other side's clock said.
    date: Option<SystemTime>,
}

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
    runtime: tokio::runtime::Runtime,
    http: Option<reqwest::Client>,
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
    /// As [`Api::ask`].
    fn query(&mut self, service: Service, action: &str, parameters: &[(String, String)]) -> Result<String, Failure> {
        let mut form = reqwest::Url::parse("form:").map_err(|e| Error::failed("no form").cause(e))?;
        form.query_pairs_mut()
            .append_pair("Action", action)
            .append_pair("Version", service.version())
            .extend_pairs(parameters);
        let body = form.query().unwrap_or_default().to_owned();
        let what = format!("{} ({action})", service.title());
        let url = self.endpoint(service)?;
        let reply = self.ask(service, &what, "POST", &url, &body)?;
        if reply.status == 200 { Ok(reply.body) } else { Err(refused(service, &what, action, &reply)) }
    }

    fn endpoint(&self, service: Service) -> Result<reqwest::Url> {
        endpoint::of(service, &self.region, self.domain.as_deref(), |name| std::env::var(name).ok())
    }

    /// Asks until there is an answer that asking again would not change, or the time is over.
    ///
    /// # Errors
    /// 75 at the deadline; 78 without credentials.
    fn ask(
        &mut self,
        service: Service,
        what: &str,
        method: &str,
        url: &reqwest::Url,
        body: &str,
    ) -> Result<Reply, Failure> {
        let began = Instant::now();
        let (mut failures, mut spoken, mut renewed) = (0, Duration::ZERO, false);
        loop {
            self.refresh(what)?;
            let answer = match self.attempt(service, method, url, body) {
                Ok(reply) => {
                    let code = code_of(&reply.body);
                    if is_stale(&code) && !renewed && reply.status >= 400 {
                        // Once, with the credentials and the clock of now.
                        renewed = true;
                        self.credentials = None;
                        self.follow(reply.date);
                        continue;
                    }
                    if !is_passing(reply.status, &code) {
                        return Ok(reply);
                    }
                    format!("{} {code}", reply.status)
                }
                Err(answer) => answer,
            };
            failures += 1;
            let left = self.left();
            if left.is_zero() {
                return Err(self.out_of_time(what, url, failures, &answer).into());
            }
            let waited = began.elapsed();
            if waited >= FIRST_WORD && (spoken.is_zero() || waited >= spoken + NEXT_WORD) {
                spoken = waited;
                (self.say)(&format!(
                    "waiting for {what} at {}: {answer}, {} s from now at most",
                    origin(url),
                    left.as_secs()
                ));
            }
            std::thread::sleep((self.backoff)(failures).min(left));
        }
    }

    /// One request.
    ///
    /// # Errors
    /// What happened instead of an answer, in words.
    fn attempt(&mut self, service: Service, method: &str, url: &reqwest::Url, body: &str) -> Result<Reply, String> {
        let credentials = self.credentials.as_ref().ok_or("no credentials")?;
        let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let headers: &[(&str, &str)] = if method == "POST" { &form } else { &[] };
        let time = if self.ahead >= 0 {
            SystemTime::now() + Duration::from_secs(self.ahead.unsigned_abs())
        } else {
            SystemTime::now() - Duration::from_secs(self.ahead.unsigned_abs())
        };
        let scope = Scope { region: &self.region, service: service.name(), time };
        let unsigned = Unsigned { method, url: url.as_str(), headers, body: body.as_bytes() };
        let signed = sign::headers(unsigned, scope, credentials)?;
        let http = match &self.http {
            Some(http) => http,
            None => self.http.insert(client(&self.proxy)?),
        };
        let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|e| e.to_string())?;
        let mut request = http.request(method, url.clone()).body(body.to_owned());
        for (name, value) in headers.iter().copied().chain(signed.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            request = request.header(name, value);
        }
        let patience =
            PATIENCE.min(self.until.saturating_duration_since(Instant::now())).max(Duration::from_millis(100));
        self.runtime.block_on(async {
            let exchange = async {
                let mut response = request.send().await.map_err(|e| net::chain(&e.without_url()))?;
                let date = response.headers().get(DATE).and_then(|date| date.to_str().ok()).map(str::to_owned);
                let mut bytes = Vec::new();
                while let Some(chunk) = response.chunk().await.map_err(|e| net::chain(&e.without_url()))? {
                    bytes.extend_from_slice(&chunk);
                    if bytes.len() > BODY_LIMIT {
                        return Err(format!("more than {} MiB", BODY_LIMIT >> 20));
                    }
                }
                Ok(Reply {
                    status: response.status().as_u16(),
                    body: String::from_utf8_lossy(&bytes).into_owned(),
                    date: date.and_then(|date| http_date(&date)),
                })
            };
            let late = |_| Err(format!("nothing whole within {} s", patience.as_secs()));
            tokio::time::timeout(patience, exchange).await.unwrap_or_else(late)
        })
    }

    /// Takes the other side's clock where ours is plainly wrong, as it may be early in a first boot.
    fn follow(&mut self, theirs: Option<SystemTime>) {
        let Some(theirs) = theirs else { return };
        let ahead = match theirs.duration_since(SystemTime::now()) {
            Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(0),
            Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(0),
        };
        if ahead.abs() > 60 {
            tracing::warn!(
                "this machine's clock differs from AWS's by {} s: requests are signed with theirs",
                ahead.abs()
            );
            self.ahead = ahead;
        }
    }

    /// Sees to credentials that are good for a while.
    ///
    /// # Errors
    /// 75 when IMDS does not answer; [`NO_PROFILE`] where the instance has no profile.
    fn refresh(&mut self, what: &str) -> Result<(), Failure> {
        let good =
            |credentials: &Credentials| credentials.expiry().is_none_or(|expiry| expiry > SystemTime::now() + MARGIN);
        if self.credentials.as_ref().is_some_and(good) {
            return Ok(());
        }
        match imds::access(&self.imds, self.left().max(Duration::from_secs(1)))? {
            Some(access) => {
                self.credentials = Some(access.credentials);
                self.domain = access.domain;
                Ok(())
            }
            None => Err(Failure {
                code: Some(NO_PROFILE.into()),
                error: Error::config(format!("{what} cannot be asked: this instance has no instance profile"))
                    .cause("IMDS has no item iam/security-credentials, so there is nobody to sign for")
                    .fix("give the instance a profile whose role may make this call"),
            }),
        }
    }

    fn out_of_time(&self, what: &str, url: &reqwest::Url, tries: u32, answer: &str) -> Error {
        let limit = humantime::format_duration(self.limit);
        Error::new(Kind::TemporaryFailure, format!("{what} gave no answer within {limit}"))
            .cause(format!("asked {} {tries} times; the last answer: {answer}", origin(url)))
            .fix("see whether this subnet has a way there (NAT, a VPC endpoint, or the settings proxy.*), and who else is calling the API")
    }
}

/// `Tue, 25 Nov 2026 02:30:00 GMT` (RFC 9110, `IMF-fixdate`).
fn http_date(text: &str) -> Option<SystemTime> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|known| known == month)? + 1;
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

/// The address without what a path may tell.
fn origin(url: &reqwest::Url) -> String {
    url.origin().ascii_serialization()
}

fn client(proxy: &Proxy) -> Result<reqwest::Client, String> {
    net::download_client(proxy)?
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .user_agent(concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| net::chain(&e))
}

/// An answer that is not what was asked for.
fn refused(service: Service, what: &str, action: &str, reply: &Reply) -> Failure {
    let code = code_of(&reply.body);
    let text = message_of(&reply.body);
    let told = match (code.as_str(), text.as_str()) {
        ("", _) => format!("status {}: {}", reply.status, reply.body.chars().take(200).collect::<String>()),
        (code, text) => format!("{code}: {text}"),
    };
    let error = if is_denial(&code) {
        Error::config(format!("{what} is not allowed to this instance")).cause(told).fix(format!(
            "add this statement to the policy of the instance profile's role:\n{}",
            statement(service, action)
        ))
    } else if is_stale(&code) {
        Error::config(format!("{what} does not accept this instance's signature"))
            .cause(told)
            .fix("see whether the clock is right (date --utc), and whether the instance profile's role still exists")
    } else {
        Error::config(format!("{what} refused the call")).cause(told)
    };
    Failure { code: (!code.is_empty()).then_some(code), error }
}

/// What a policy needs for an action.
pub fn statement(service: Service, action: &str) -> String {
    // A bucket's own permissions are not asked for by their action's name.
    format!("{{ \"Effect\": \"Allow\", \"Action\": \"{}:{action}\", \"Resource\": \"*\" }}", service.name())
}

/// The text of the first element of this name.
fn text_of(document: &roxmltree::Document<'_>, name: &str) -> String {
    let found = document.descendants().find(|node| node.tag_name().name() == name);
    found.and_then(|node| node.text()).unwrap_or_default().trim().to_owned()
}

fn code_of(body: &str) -> String {
    roxmltree::Document::parse(body).map(|document| text_of(&document, "Code")).unwrap_or_default()
}

/// The API's own words, as much as fits a message. EC2's may hold an encoded text of some KiB.
fn message_of(body: &str) -> String {
    let whole = roxmltree::Document::parse(body).map(|document| text_of(&document, "Message")).unwrap_or_default();
    let cut = whole.split("Encoded authorization failure message").next().unwrap_or_default();
    cut.chars().filter(|c| !c.is_control()).take(400).collect::<String>().trim().to_owned()
}

/// Reads an answer; one that is no XML came from something else.
fn parse<'a>(what: &str, body: &'a str) -> Result<roxmltree::Document<'a>> {
    roxmltree::Document::parse(body).map_err(|e| {
        let start: String = body.chars().filter(|c| !c.is_control()).take(100).collect();
        Error::config(format!("{what} gave an answer that is none of its own"))
            .cause(format!("it is no XML ({e}): {start:?}"))
            .fix("look for a proxy or another service at that address")
    })
}

/// Anything up to a bound that grows. The standard library seeds each `RandomState` anew.
fn full_jitter(failures: u32) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let bound = PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_PAUSE);
    let random = RandomState::new().build_hasher().finish() % 1024;
    bound * u32::try_from(random).unwrap_or(0) / 1024
}
