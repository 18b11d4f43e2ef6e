//! The conversation with the metadata service: tokens, patience, limits.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, redirect};

use super::endpoint::Endpoint;
use super::value::refuse;
use crate::ec2::up_to;
use crate::error::{Error, Kind, Result};

/// What an item may measure, bytes. User data, the largest, has 16 KiB.
const BODY_LIMIT: usize = 64 * 1024;

/// Life of a token, seconds: longer than any reading, as short as that allows.
const TOKEN_TTL: &str = "600";

/// How long one request may take; doubled by each one that took longer, so that a
/// hanging service is soon asked again and a slow one can still finish.
const PATIENCE: Duration = Duration::from_secs(2);
const MOST_PATIENCE: Duration = Duration::from_secs(20);

/// The pause after a failed request; doubled by each one.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How the reading goes, for those who wait: the client writes it, others print it.
#[derive(Debug)]
pub struct Progress {
    endpoint: Endpoint,
    limit: Duration,
    started: Instant,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    item: String,
    attempts: u32,
    last_answer: Option<String>,
    hint: Option<&'static str>,
}

impl Progress {
    /// A reading that begins now and may last so long.
    pub fn new(endpoint: &Endpoint, limit: Duration) -> Progress {
        Progress { endpoint: endpoint.clone(), limit, started: Instant::now(), state: RefCell::default() }
    }

    /// One line: what is waited for, and until when.
    pub fn line(&self) -> String {
        let state = self.state.borrow();
        let left = self.left();
        format!(
            "waiting for the instance metadata service at {}: {} ({}), until {}, {} s from now",
            self.endpoint,
            state.item,
            state.last_answer.as_deref().unwrap_or("no answer yet"),
            humantime::format_rfc3339_seconds(SystemTime::now() + left),
            left.as_secs(),
        )
    }

    /// What is left of the deadline.
    fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    fn out_of_time(&self) -> Error {
        let state = self.state.borrow();
        let what = format!(
            "instance metadata: no usable answer from {} within {}",
            self.endpoint,
            humantime::format_duration(self.limit)
        );
        let cause = format!(
            "asked for {}, {} times; the last answer: {}",
            state.item,
            state.attempts,
            state.last_answer.as_deref().unwrap_or("nothing whole")
        );
        Error::new(Kind::TemporaryFailure, what).cause(cause).fix(state.hint.unwrap_or(
            "see whether this is an EC2 instance, and whether a firewall, a network namespace or the \
             hop limit of its metadata options stands between; elsewhere give --facts FILE or --sample",
        ))
    }
}

/// Why a request brought no answer.
enum Trouble {
    /// It may go better next time.
    Again(String, Option<&'static str>),
    /// It never will.
    Fatal(Error),
}

impl From<reqwest::Error> for Trouble {
    fn from(error: reqwest::Error) -> Self {
        // The innermost error says it shortest: "Connection refused (os error 111)".
        let mut innermost: &dyn std::error::Error = &error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Trouble::Again(innermost.to_string(), None)
    }
}

/// Asks for items, one after another over one connection.
pub struct Client<'a> {
    http: reqwest::Client,
    progress: &'a Progress,
    token: Option<HeaderValue>,
    patience: Duration,
}

impl<'a> Client<'a> {
    /// A client that goes through no proxy, follows no redirect and reads no
    /// certificates. A provider for rustls must have been installed.
    ///
    /// # Errors
    /// `Unavailable` when the endpoint is disabled.
    pub fn new(progress: &'a Progress) -> Result<Client<'a>> {
        if progress.endpoint.is_disabled() {
            return Err(Error::unavailable("instance metadata: AWS_EC2_METADATA_DISABLED=true forbids asking for it")
                .fix("unset the variable, or give the facts with --facts FILE"));
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .tls_certs_only([])
            .user_agent(concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::failed("instance metadata: no HTTP client could be made").cause(e))?;
        Ok(Client { http, progress, token: None, patience: PATIENCE })
    }

    /// An item that an instance may lack: `None` as soon as the service says so.
    pub async fn optional(&mut self, item: &str) -> Result<Option<Vec<u8>>> {
        self.ask(item, true).await
    }

    /// An item that every instance has. Right after its start the service may not
    /// have it yet, so its absence is no answer either.
    pub async fn required(&mut self, item: &str) -> Result<Vec<u8>> {
        Ok(self.ask(item, false).await?.unwrap_or_default())
    }

    /// Asks until there is an answer or the time is over.
    async fn ask(&mut self, item: &str, may_lack: bool) -> Result<Option<Vec<u8>>> {
        *self.progress.state.borrow_mut() = State { item: item.to_owned(), ..State::default() };
        let mut pause = PAUSE;
        loop {
            let left = self.progress.left();
            if left.is_zero() {
                return Err(self.progress.out_of_time());
            }
            self.progress.state.borrow_mut().attempts += 1;
            let patience = self.patience.min(left);
            let (answer, hint) = match tokio::time::timeout(patience, self.attempt(item)).await {
                Ok(Ok(Some(body))) => return Ok(Some(body)),
                Ok(Ok(None)) if may_lack => return Ok(None),
                Ok(Ok(None)) => (StatusCode::NOT_FOUND.to_string(), None),
                Ok(Err(Trouble::Again(answer, hint))) => (answer, hint),
                Ok(Err(Trouble::Fatal(error))) => return Err(error),
                Err(_) if patience < self.patience => return Err(self.progress.out_of_time()),
                Err(_) => {
                    self.patience = (self.patience * 2).min(MOST_PATIENCE);
                    (format!("nothing whole within {} s", patience.as_secs()), None)
                }
            };
            {
                let mut state = self.progress.state.borrow_mut();
                state.last_answer = Some(answer);
                state.hint = hint;
            }
            tokio::time::sleep(jittered(pause).min(self.progress.left())).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One request, and one for a token if there is none. `None`: there is no such item.
    async fn attempt(&mut self, item: &str) -> Result<Option<Vec<u8>>, Trouble> {
        let token = match self.token.clone() {
            Some(token) => token,
            None => self.new_token().await?,
        };
        let url = self.progress.endpoint.item(item).map_err(Trouble::Fatal)?;
        let response = self.http.get(url).header("X-aws-ec2-metadata-token", token).send().await?;
        let status = response.status();
        let redirected_to = response.headers().get(LOCATION).cloned();
        let body = limited(item, response).await?;
        match status {
            StatusCode::OK => Ok(Some(body)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED => {
                self.token = None;
                Err(Trouble::Again(status.to_string(), None))
            }
            _ if status.is_redirection() => Err(Trouble::Fatal(redirected(item, status, redirected_to))),
            _ => Err(Trouble::Again(status.to_string(), None)),
        }
    }

    async fn new_token(&mut self) -> Result<HeaderValue, Trouble> {
        const ITEM: &str = "api/token";
        let url = self.progress.endpoint.item(ITEM).map_err(Trouble::Fatal)?;
        let request = self.http.put(url).header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL);
        let response = request.send().await?;
        let status = response.status();
        let redirected_to = response.headers().get(LOCATION).cloned();
        let body = limited(ITEM, response).await?;
        let hint = match status {
            StatusCode::OK => {
                let token = HeaderValue::from_bytes(&body).ok().filter(|token| !token.is_empty());
                let mut token =
                    token.ok_or_else(|| Trouble::Fatal(refuse(ITEM, &body, "it cannot stand in a header")))?;
                token.set_sensitive(true);
                self.token = Some(token.clone());
                return Ok(token);
            }
            // Waited for like the rest: the switch is thrown while the instance already runs.
            StatusCode::FORBIDDEN => Some(
                "switch the metadata service on: \
                 aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled",
            ),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Some("use a metadata service that speaks version 2 (IMDSv2); version 1 is never asked")
            }
            _ if status.is_redirection() => return Err(Trouble::Fatal(redirected(ITEM, status, redirected_to))),
            _ => None,
        };
        Err(Trouble::Again(format!("{status} to the request for a token"), hint))
    }
}

/// The whole answer; refuses one that is too large for anything that is asked for.
async fn limited(item: &str, mut response: Response) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_LIMIT {
            return Err(Trouble::Fatal(refuse(item, &body, format!("it has more than {BODY_LIMIT} bytes"))));
        }
    }
    Ok(body)
}

/// The metadata service redirects nobody, so this was something else.
fn redirected(item: &str, status: StatusCode, location: Option<HeaderValue>) -> Error {
    let to = location.map(|l| String::from_utf8_lossy(l.as_bytes()).chars().take(200).collect::<String>());
    Error::config(format!("instance metadata: {item} was answered with a redirect"))
        .cause(format!(
            "{status} to {:?}; the metadata service redirects nobody, so this is not it",
            to.unwrap_or_default()
        ))
        .fix("look for a proxy or another service at the metadata service's address")
}

/// Between a half and the whole of the pause.
fn jittered(pause: Duration) -> Duration {
    pause / 2 + up_to(pause / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_vary_within_their_half() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSE)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE / 2..=PAUSE).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    #[test]
    fn the_error_at_the_deadline_tells_the_story() {
        let endpoint = Endpoint::at("http://127.0.0.1:1").unwrap();
        let progress = Progress::new(&endpoint, Duration::from_secs(120));
        *progress.state.borrow_mut() =
            State { item: "meta-data/mac".into(), attempts: 7, last_answer: Some("503".into()), hint: None };
        let error = progress.out_of_time();
        assert_eq!(error.kind, Kind::TemporaryFailure);
        assert!(error.what.contains("http://127.0.0.1:1 within 2m"), "{error}");
        assert_eq!(error.cause.as_deref(), Some("asked for meta-data/mac, 7 times; the last answer: 503"));
        assert!(progress.line().contains("meta-data/mac (503), until 2"), "{}", progress.line());
    }
}
