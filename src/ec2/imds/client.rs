//! The requests to the metadata service: tokens, and what each status means.

use std::borrow::BorrowMut;
use std::time::Duration;

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};

use super::endpoint::Endpoint;
use super::value::refuse;
use crate::ec2::exchange::{Answer, Exchange, NoAnswer};
use crate::ec2::retry::{Backoff, Tries, Verdict, full_jitter};
use crate::error::{Error, Kind, Result};
use crate::host::wait::Deadline;

/// The most that an item may have, bytes. User data, the largest, has 16 KiB.
const LIMIT: usize = 64 << 10;

/// Life of a token, seconds: longer than any reading, as short as that allows.
const TOKEN_TTL: HeaderValue = HeaderValue::from_static("600");

const PATIENCE: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = |failures| full_jitter(Duration::from_millis(200), Duration::from_secs(2), failures);

const TOKEN: &str = "api/token";

/// Asks for items, one after another over one connection, until one deadline, which is its own or another's.
pub struct Client<D> {
    endpoint: Endpoint,
    deadline: D,
    exchange: Exchange,
    token: Option<HeaderValue>,
}

impl<D: BorrowMut<Deadline>> Client<D> {
    /// A client that goes through no proxy, follows no redirect and reads no certificates.
    ///
    /// # Errors
    /// `Unavailable` when the endpoint is disabled.
    pub fn new(endpoint: &Endpoint, deadline: D) -> Result<Client<D>> {
        if endpoint.is_disabled() {
            return Err(Error::unavailable("instance metadata: AWS_EC2_METADATA_DISABLED=true forbids asking for it")
                .fix("unset the variable, or give the facts with --facts FILE"));
        }
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let exchange = Exchange::new(http, PATIENCE, LIMIT)
            .map_err(|e| Error::failed("instance metadata: no HTTP client could be made").cause(e))?;
        Ok(Client { endpoint: endpoint.clone(), deadline, exchange, token: None })
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

    /// Asks for an item as version 1 did, without a token, once. Returns whether the service gives it so; `None` when
    /// its answer does not say.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn answers_version_1(&mut self, item: &str) -> Result<Option<bool>> {
        let deadline = self.deadline.borrow_mut();
        deadline.name(format!("the instance metadata service at {} ({item}, without a token)", self.endpoint));
        let request = self.exchange.request(Method::GET, self.endpoint.item(item)?);
        let answer = self.exchange.send(request, deadline)?;
        Ok(answer.ok().and_then(|answer| match answer.status {
            StatusCode::OK => Some(true),
            StatusCode::UNAUTHORIZED => Some(false),
            _ => None,
        }))
    }

    /// Asks until there is an answer or the time is over, and for a token whenever there is none.
    fn ask(&mut self, item: &str, optional: bool) -> Result<Option<Vec<u8>>> {
        let deadline = self.deadline.borrow_mut();
        let what = format!("the instance metadata service at {} ({item})", self.endpoint);
        let mut tries = Tries::new(what, BACKOFF, deadline);
        // What to do about the last answer, where that is known.
        let mut hint = None;
        while !deadline.left().is_zero() {
            let (asked, method, header, value) = match self.token.clone() {
                Some(token) => (item, Method::GET, "X-aws-ec2-metadata-token", token),
                None => (TOKEN, Method::PUT, "X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL),
            };
            let request = self.exchange.request(method, self.endpoint.item(asked)?).header(header, value);
            let verdict = match self.exchange.send(request, deadline)? {
                Err(NoAnswer::TooLarge(why, start)) => return Err(refuse(asked, &start, why)),
                Err(why) => Verdict::Passing(why.to_string()),
                Ok(answer) => match answer.status {
                    StatusCode::OK if asked == TOKEN => {
                        self.token = Some(token(&answer.body)?);
                        continue;
                    }
                    StatusCode::OK => Verdict::Final(Some(answer.body)),
                    StatusCode::NOT_FOUND if optional && asked == item => Verdict::Final(None),
                    status if status.is_redirection() => return Err(redirected(asked, &answer)),
                    status => {
                        self.token.take_if(|_| status == StatusCode::UNAUTHORIZED);
                        hint = (asked == TOKEN).then(|| hint_of(status)).flatten();
                        Verdict::Passing(format!("{status} for {asked}"))
                    }
                },
            };
            if let Some(body) = tries.settle(verdict, deadline)? {
                return Ok(body);
            }
        }
        let limit = humantime::format_duration(deadline.limit());
        let what = format!("instance metadata: no usable answer from {} within {limit}", self.endpoint);
        let cause = format!("asked for {item}, {} times; the last answer: {}", tries.count(), tries.last());
        Err(Error::new(Kind::TemporaryFailure, what).cause(cause).fix(hint.unwrap_or(
            "see whether this is an EC2 instance, and whether a firewall, a network namespace or the \
             hop limit of its metadata options stands between; elsewhere give --facts FILE or --sample",
        )))
    }
}

/// A token, as the header that it is sent back in.
fn token(body: &[u8]) -> Result<HeaderValue> {
    let token = HeaderValue::from_bytes(body).ok().filter(|token| !token.is_empty());
    let mut token = token.ok_or_else(|| refuse(TOKEN, body, "it cannot stand in a header"))?;
    token.set_sensitive(true);
    Ok(token)
}

/// What to do about a status that came for a token. It is waited for like the rest: the switch is thrown while the
/// instance already runs.
fn hint_of(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::FORBIDDEN => Some(
            "switch the metadata service on: \
             aws ec2 modify-instance-metadata-options --instance-id ID --http-endpoint enabled",
        ),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
            Some("use a metadata service that speaks version 2 (IMDSv2); no fact is read by version 1")
        }
        _ => None,
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
