//! The requests to the metadata service: tokens, and what each status means.

use std::time::Duration;

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Method, RequestBuilder, StatusCode};

use super::endpoint::Endpoint;
use super::value::refuse;
use crate::ec2::exchange::{Answer, Exchange, NoAnswer};
use crate::ec2::retry::{Backoff, Verdict, Tries, full_jitter};
use crate::error::{Error, Kind, Result};
use crate::host::wait::Deadline;

/// The most that an item may have, bytes. User data, the largest, has 16 KiB.
const LIMIT: usize = 64 << 10;

/// Life of a token, seconds: longer than any reading, as short as that allows.
const TOKEN_TTL: &str = "600";

const PATIENCE: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = |failures| full_jitter(Duration::from_millis(200), Duration::from_secs(2), failures);

/// Why a try brought no item.
enum Trouble {
    /// It may go better next time; the answer, in words.
    Passing(String),
    /// It never will.
    Fatal(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Fatal(error)
    }
}

/// Asks for items, one after another over one connection, until one deadline.
pub struct Client<'a> {
    endpoint: &'a Endpoint,
    deadline: &'a mut Deadline,
    exchange: Exchange,
    token: Option<HeaderValue>,
    /// What to do about the last answer, where that is known.
    hint: Option<&'static str>,
}

impl<'a> Client<'a> {
    /// A client that goes through no proxy, follows no redirect and reads no certificates.
    ///
    /// # Errors
    /// `Unavailable` when the endpoint is disabled.
    pub fn new(endpoint: &'a Endpoint, deadline: &'a mut Deadline) -> Result<Client<'a>> {
        if endpoint.is_disabled() {
            return Err(Error::unavailable("instance metadata: AWS_EC2_METADATA_DISABLED=true forbids asking for it")
                .fix("unset the variable, or give the facts with --facts FILE"));
        }
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let exchange = Exchange::new(http, PATIENCE, LIMIT)
            .map_err(|e| Error::failed("instance metadata: no HTTP client could be made").cause(e))?;
        Ok(Client { endpoint, deadline, exchange, token: None, hint: None })
    }

    /// Returns an item that an instance may lack: `None` as soon as the service says so.
    ///
    /// # Errors
    /// `TemporaryFailure` at the deadline, `Config` when the metadata service cannot have answered so.
    pub fn optional(&mut self, item: &str) -> Result<Option<Vec<u8>>> {
        self.ask(item, true)
    }

    /// Returns an item that every instance has. Right after its start the service may not have it yet, so its absence
    /// is no answer either.
    ///
    /// # Errors
    /// As [`Client::optional`].
    pub fn required(&mut self, item: &str) -> Result<Vec<u8>> {
        Ok(self.ask(item, false)?.unwrap_or_default())
    }

    fn ask(&mut self, item: &str, optional: bool) -> Result<Option<Vec<u8>>> {
        let what = format!("the instance metadata service at {} ({item})", self.endpoint);
        let mut tries = Tries::new(what, BACKOFF);
        while tries.begin(self.deadline) {
            let hint = self.hint.take();
            let verdict = match self.attempt(item, optional) {
                Ok(body) => Verdict::Final(body),
                Err(Trouble::Passing(answer)) => Verdict::Passing(answer),
                Err(Trouble::Fatal(error)) => return Err(error),
            };
            // As with the last answer: one that the deadline cut short tells less than the one before.
            if self.deadline.left().is_zero() {
                self.hint = self.hint.or(hint);
            }
            if let Some(body) = tries.settle(verdict, self.deadline)? {
                return Ok(body);
            }
        }
        Err(self.out_of_time(item, &tries))
    }

    /// One request, and one for a token if there is none. `None`: there is no such item.
    fn attempt(&mut self, item: &str, optional: bool) -> Result<Option<Vec<u8>>, Trouble> {
        let token = match self.token.clone() {
            Some(token) => token,
            None => self.new_token()?,
        };
        let request = self.exchange.request(Method::GET, self.endpoint.item(item)?);
        let answer = self.send(item, request.header("X-aws-ec2-metadata-token", token))?;
        match answer.status {
            StatusCode::OK => Ok(Some(answer.body)),
            StatusCode::NOT_FOUND if optional => Ok(None),
            status => {
                if status == StatusCode::UNAUTHORIZED {
                    self.token = None;
                }
                Err(Trouble::Passing(status.to_string()))
            }
        }
    }

    fn new_token(&mut self) -> Result<HeaderValue, Trouble> {
        const ITEM: &str = "api/token";
        let request = self.exchange.request(Method::PUT, self.endpoint.item(ITEM)?);
        let answer = self.send(ITEM, request.header("X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL))?;
        self.hint = match answer.status {
            StatusCode::OK => {
                let token = HeaderValue::from_bytes(&answer.body).ok().filter(|token| !token.is_empty());
                let mut token = token.ok_or_else(|| refuse(ITEM, &answer.body, "it cannot stand in a header"))?;
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
            _ => None,
        };
        Err(Trouble::Passing(format!("{} to the request for a token", answer.status)))
    }

    /// One exchange. What the metadata service cannot have answered is fatal.
    fn send(&mut self, item: &str, request: RequestBuilder) -> Result<Answer, Trouble> {
        match self.exchange.send(request, self.deadline)? {
            Ok(answer) if answer.status.is_redirection() => Err(redirected(item, &answer).into()),
            Ok(answer) => Ok(answer),
            Err(why) => Err(match (why.to_string(), why) {
                (why, NoAnswer::TooLarge(_, start)) => refuse(item, &start, why).into(),
                (why, _) => Trouble::Passing(why),
            }),
        }
    }

    fn out_of_time(&self, item: &str, tries: &Tries) -> Error {
        let limit = humantime::format_duration(self.deadline.limit());
        let what = format!("instance metadata: no usable answer from {} within {limit}", self.endpoint);
        let cause = format!("asked for {item}, {} times; the last answer: {}", tries.count, tries.last());
        Error::new(Kind::TemporaryFailure, what).cause(cause).fix(self.hint.unwrap_or(
            "see whether this is an EC2 instance, and whether a firewall, a network namespace or the \
             hop limit of its metadata options stands between; elsewhere give --facts FILE or --sample",
        ))
    }
}

/// The metadata service redirects nobody, so this was something else.
fn redirected(item: &str, answer: &Answer) -> Error {
    let to = answer.headers.get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let to: String = String::from_utf8_lossy(to).chars().take(200).collect();
    Error::config(format!("instance metadata: {item} was answered with a redirect"))
        .cause(format!("{} to {to:?}; the metadata service redirects nobody, so this is not it", answer.status))
        .fix("look for a proxy or another service at the metadata service's address")
}
