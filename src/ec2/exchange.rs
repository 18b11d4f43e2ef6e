//! One HTTP request and its bounded answer.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{ClientBuilder, Method, RequestBuilder, StatusCode, Url, redirect};
use tokio::runtime::Runtime;

use crate::error::Result;
use crate::host::net::{self, certificate_fix, chain};
use crate::host::wait::{Deadline, runtime};

/// The most time for one exchange, however slow the server is.
const MOST_PATIENCE: Duration = Duration::from_secs(20);

/// How many requests are sent at the same time, each on its own connection.
const CONNECTIONS: usize = 8;

/// Exchanges over connections that are kept alive, with their own runtime for blocking code.
pub(super) struct Exchange {
    runtime: Runtime,
    http: reqwest::Client,
    /// How long the next exchange may take. Each exchange that takes longer doubles it, so that the program soon tries
    /// a silent server again, and a slow one can still finish.
    patience: Duration,
    /// The size limit of an answer's body, bytes.
    limit: usize,
}

/// A complete answer with any status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    /// How long the server asks clients to wait, if it sends a number of seconds (RFC 9110, 10.2.3); otherwise zero.
    pub fn retry_after(&self) -> Duration {
        let seconds = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Duration::from_secs(seconds.unwrap_or(0))
    }
}

/// Why there is no complete answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// The answer was not complete after this time.
    #[error("no complete answer within {} s", .0.as_secs_f64().ceil())]
    Late(Duration),
    /// There was no connection, or it broke.
    #[error("{}", chain(.0))]
    Broken(reqwest::Error),
    /// The server's certificate is refused, and another try would not help: the message and the fix.
    #[error("{0}")]
    Refused(String, &'static str),
    /// The answer is larger than the limit: the message and the start of the answer.
    #[error("{0}")]
    TooLarge(String, Vec<u8>),
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> NoAnswer {
        match certificate_fix(&error) {
            Some(fix) => NoAnswer::Refused(chain(&error), fix),
            None => NoAnswer::Broken(error),
        }
    }
}

impl Exchange {
    /// Sends nothing yet. Does not follow redirects. The caller must have installed a provider for rustls.
    ///
    /// # Errors
    /// Fails with a message when the client or the runtime cannot be created.
    pub fn new(http: ClientBuilder, patience: Duration, limit: usize) -> Result<Exchange, String> {
        let agent = concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION"));
        let http = http.redirect(redirect::Policy::none()).user_agent(agent).build().map_err(|e| chain(&e))?;
        let runtime = runtime().map_err(|e| e.to_string())?;
        Ok(Exchange { runtime, http, patience, limit })
    }

    /// A request for the caller to complete and send.
    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request once and reads its answer.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn send(&mut self, request: RequestBuilder, deadline: &mut Deadline) -> Result<Result<Answer, NoAnswer>> {
        let answer = self.send_all(vec![request], deadline)?.pop();
        Ok(answer.unwrap_or(Err(NoAnswer::Late(self.patience))))
    }

    /// Sends requests at the same time, each once, and returns their answers in the order of the requests.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub fn send_all(
        &mut self,
        requests: Vec<RequestBuilder>,
        deadline: &mut Deadline,
    ) -> Result<Vec<Result<Answer, NoAnswer>>> {
        let (patience, limit) = (self.patience.min(deadline.left()), self.limit);
        let count = requests.len();
        let answer = |request| async move {
            let mut response = net::send(request).await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > limit {
                    return Err(NoAnswer::TooLarge(format!("it has more than {} KiB", limit >> 10), body));
                }
            }
            Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
        };
        // The timer must be created within the runtime, which `block_on` enters.
        let timed = |request| async move {
            let answer = tokio::time::timeout(patience, answer(request)).await;
            answer.unwrap_or(Err(NoAnswer::Late(patience)))
        };
        let all = stream::iter(requests).map(timed).buffered(CONNECTIONS).collect();
        let answers: Vec<_> = deadline.block_on(&self.runtime, all)?.unwrap_or_default();
        let late = |answer: &Result<_, _>| matches!(answer, Err(NoAnswer::Late(_)));
        if answers.len() < count || answers.iter().any(late) {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        let missing = (answers.len()..count).map(|_| Err(NoAnswer::Late(patience)));
        Ok(answers.into_iter().chain(missing).collect())
    }
}
