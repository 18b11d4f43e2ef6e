//! One HTTP request and its bounded answer.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{ClientBuilder, Method, RequestBuilder, StatusCode, Url, redirect};
use tokio::runtime::Runtime;

use crate::error::Result;
use crate::host::net::{certificate_fix, chain};
use crate::host::wait::{Deadline, runtime};

/// How long one exchange may take at most, however slow the other side is.
const MOST_PATIENCE: Duration = Duration::from_secs(20);

/// Exchanges over connections that are kept alive, with a runtime of their own for plain blocking code.
pub(super) struct Exchange {
    runtime: Runtime,
    http: reqwest::Client,
    /// How long the next one may take. Each one that took longer doubles it, so that a silent server is soon asked
    /// again and a slow one can still finish.
    patience: Duration,
    /// The most that the body of an answer may have, bytes.
    limit: usize,
}

/// A whole answer, whatever its status.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// It was not whole after this time.
    #[error("nothing whole within {} s", .0.as_secs_f64().ceil())]
    Late(Duration),
    /// Nobody answered, or the connection broke.
    #[error("{}", innermost(.0))]
    Broken(reqwest::Error),
    /// The server's certificate is refused, which another try does not change; in words, and the fix.
    #[error("{0}")]
    Refused(String, &'static str),
    /// It is larger than the limit, which the text names; its start.
    #[error("{0}")]
    TooLarge(String, Vec<u8>),
}

impl From<reqwest::Error> for NoAnswer {
    fn from(error: reqwest::Error) -> NoAnswer {
        match certificate_fix(&error) {
            Some(fix) => NoAnswer::Refused(innermost(&error), fix),
            None => NoAnswer::Broken(error),
        }
    }
}

impl Exchange {
    /// Sends nothing yet. No redirect is followed. A provider for rustls must have been installed.
    ///
    /// # Errors
    /// When there is no client or no runtime; in words.
    pub fn new(http: ClientBuilder, patience: Duration, limit: usize) -> Result<Exchange, String> {
        let agent = concat!("titus-bootstrap/", env!("CARGO_PKG_VERSION"));
        let http = http.redirect(redirect::Policy::none()).user_agent(agent).build().map_err(|e| chain(&e))?;
        let runtime = runtime().map_err(|e| e.to_string())?;
        Ok(Exchange { runtime, http, patience, limit })
    }

    /// A request to be completed and sent.
    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends a request once and reads its answer.
    ///
    /// # Errors
    /// `Interrupted` when a signal came.
    pub fn send(&mut self, request: RequestBuilder, deadline: &mut Deadline) -> Result<Result<Answer, NoAnswer>> {
        let (patience, limit) = (self.patience.min(deadline.left()), self.limit);
        let answer = async {
            let mut response = request.send().await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await? {
                body.extend_from_slice(&chunk);
                if body.len() > limit {
                    return Err(NoAnswer::TooLarge(format!("it has more than {} KiB", limit >> 10), body));
                }
            }
            Ok(Answer { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
        };
        // The timer needs the runtime, which `block_on` enters.
        let timed = async { tokio::time::timeout(patience, answer).await };
        if let Some(Ok(answer)) = deadline.block_on(&self.runtime, timed)? {
            return Ok(answer);
        }
        self.patience = (self.patience * 2).min(MOST_PATIENCE);
        Ok(Err(NoAnswer::Late(patience)))
    }
}

/// The innermost error says it shortest, and without the address: "Connection refused (os error 111)".
fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
