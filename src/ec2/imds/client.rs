//! Requests to the metadata service: tokens, and the meaning of each status.

use std::borrow::BorrowMut;
use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::header::{HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};

use super::endpoint::Endpoint;
use super::value::refuse;
use crate::ec2::exchange::{Answer, Exchange, NoAnswer};
use crate::ec2::retry::{Backoff, Tries, Verdict, full_jitter};
use crate::error::{Error, Kind, Result};
use crate::host::wait::Deadline;

/// The size limit of an item, bytes. The largest is user data, with up to 16 KiB.
const LIMIT: usize = 64 << 10;

/// The lifetime of a token, seconds: not much longer than the longest use.
const TOKEN_TTL: HeaderValue = HeaderValue::from_static("600");

const PATIENCE: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = |failures| full_jitter(Duration::from_millis(200), 2, Duration::from_secs(2), failures);

const TOKEN: &str = "api/token";

/// A client that gets items one after another, with one deadline, which it may borrow.
pub struct Client<D> {
    endpoint: Endpoint,
    deadline: D,
    exchange: Exchange,
    token: Option<HeaderValue>,
    /// The items to request together with the next one.
    wanted: Vec<String>,
    /// Their answers, until the caller asks for them.
    ahead: BTreeMap<String, Answer>,
}

impl<D: BorrowMut<Deadline>> Client<D> {
    /// A client without a proxy, redirects and certificates.
    ///
    /// # Errors
    /// Returns `Unavailable` when the endpoint is disabled.
    pub fn new(endpoint: &Endpoint, deadline: D) -> Result<Client<D>> {
        endpoint.refuse_disabled()?;
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let exchange = Exchange::new(http, PATIENCE, LIMIT)
            .map_err(|e| Error::failed("instance metadata: the HTTP client cannot be created").cause(e))?;
        Ok(Client {
            endpoint: endpoint.clone(),
            deadline,
            exchange,
            token: None,
            wanted: Vec::new(),
            ahead: BTreeMap::new(),
        })
    }

    /// Announces items that the caller will need: the client requests them together with the next item. This only
    /// affects the speed: if an answer is not final, the client requests the item again later.
    pub fn announce(&mut self, items: impl IntoIterator<Item = String>) {
        self.wanted.extend(items);
    }

    /// Returns an item that an instance may lack: `None` as soon as the service reports that.
    ///
    /// # Errors
    /// Returns `TemporaryFailure` at the deadline, and `Config` when the answer cannot come from the metadata service.
    pub fn optional(&mut self, item: &str) -> Result<Option<Vec<u8>>> {
        self.ask(item, true)
    }

    /// Returns an item that every instance has. If it is missing, tries again, because the service may lack it right
    /// after the start.
    ///
    /// # Errors
    /// Fails when [`Client::optional`] fails.
    pub fn required(&mut self, item: &str) -> Result<Vec<u8>> {
        Ok(self.ask(item, false)?.unwrap_or_default())
    }

    /// Requests an item once by version 1, without a token. Returns whether the service allows that, or `None` if its
    /// answer does not show it.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn answers_version_1(&mut self, item: &str) -> Result<Option<bool>> {
        // A new wait, because this one request must not be reported as a long wait.
        let mut deadline = Deadline::silent(self.deadline.borrow_mut().left());
        deadline.set_name(format!("the instance metadata service at {} ({item}, without a token)", self.endpoint));
        let request = self.exchange.request(Method::GET, self.endpoint.item(item)?);
        let answer = self.exchange.send(request, &mut deadline)?;
        Ok(answer.ok().and_then(|answer| match answer.status {
            StatusCode::OK => Some(true),
            StatusCode::UNAUTHORIZED => Some(false),
            _ => None,
        }))
    }

    /// Requests an item until there is an answer or the time is over, and a token whenever the client has none.
    fn ask(&mut self, item: &str, optional: bool) -> Result<Option<Vec<u8>>> {
        let deadline = self.deadline.borrow_mut();
        let what = format!("the instance metadata service at {} ({item})", self.endpoint);
        let mut tries = Tries::new(what, BACKOFF, deadline);
        // The fix for the last answer, if known.
        let mut hint = None;
        while !deadline.left().is_zero() {
            let (requested, method, header, value) = match self.token.clone() {
                Some(token) => (item, Method::GET, "X-aws-ec2-metadata-token", token),
                None => (TOKEN, Method::PUT, "X-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL),
            };
            let answer = match self.ahead.remove(requested) {
                Some(answer) => Ok(answer),
                None => {
                    let wanted = if requested == item { std::mem::take(&mut self.wanted) } else { Vec::new() };
                    let mut requests = Vec::new();
                    for item in std::iter::once(requested).chain(wanted.iter().map(String::as_str)) {
                        let request = self.exchange.request(method.clone(), self.endpoint.item(item)?);
                        requests.push(request.header(header, value.clone()));
                    }
                    let mut answers = self.exchange.send_all(requests, deadline)?.into_iter();
                    let answer = answers.next().unwrap_or(Err(NoAnswer::Late(PATIENCE)));
                    let is_answer = |status| matches!(status, StatusCode::OK | StatusCode::NOT_FOUND);
                    let whole = wanted.into_iter().zip(answers).filter_map(|(item, answer)| Some((item, answer.ok()?)));
                    self.ahead.extend(whole.filter(|(_, answer)| is_answer(answer.status)));
                    answer
                }
            };
            let verdict = match answer {
                Err(NoAnswer::TooLarge(why, start)) => return Err(refuse(requested, &start, why)),
                Err(why) => Verdict::Temporary(why.to_string(), Duration::ZERO),
                Ok(answer) => match answer.status {
                    StatusCode::OK if requested == TOKEN => {
                        self.token = Some(token(&answer.body)?);
                        continue;
                    }
                    StatusCode::OK => Verdict::Final(Some(answer.body)),
                    StatusCode::NOT_FOUND if optional && requested == item => Verdict::Final(None),
                    status if status.is_redirection() => return Err(redirected(requested, &answer)),
                    status => {
                        self.token.take_if(|_| status == StatusCode::UNAUTHORIZED);
                        hint = (requested == TOKEN).then(|| token_hint(status)).flatten();
                        Verdict::Temporary(format!("{status} for {requested}"), answer.retry_after())
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

/// Converts a token to the header with which the client sends it back.
fn token(body: &[u8]) -> Result<HeaderValue> {
    let token = HeaderValue::from_bytes(body).ok().filter(|token| !token.is_empty());
    let mut token = token.ok_or_else(|| refuse(TOKEN, body, "it is not valid in a header"))?;
    token.set_sensitive(true);
    Ok(token)
}

/// The fix for a status of a request for a token. The client tries again even so, because an operator can enable the
/// service while the instance runs.
fn token_hint(status: StatusCode) -> Option<&'static str> {
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

/// The error for a redirect, which cannot come from the metadata service.
fn redirected(item: &str, answer: &Answer) -> Error {
    let to = answer.headers.get(LOCATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let to: String = String::from_utf8_lossy(to).chars().take(200).collect();
    Error::config(format!("instance metadata: {item} was answered with a redirect"))
        .cause(format!("{} to {to:?}; the metadata service never redirects, so this is another service", answer.status))
        .fix("look for a proxy or another service at the metadata service's address")
}
