//! A service answers, before a deadline.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Change, State};
use crate::error::{Error, Result};
use crate::host::{Host, signals};
use crate::template::{Renderer, Templated};

/// As a role file has it: one of the questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    tcp: Option<Templated<String>>,
    http: Option<Templated<String>>,
    docker: Option<Templated<String>>,
}

/// A question, and whose answer is awaited.
#[derive(Debug, Clone)]
pub enum Wait {
    /// `host:port` accepts a connection.
    Tcp(String),
    /// GET on this address is answered with 200.
    Http(String),
    /// A Docker Engine answers at `tcp://host:port`.
    Docker(String),
}

/// One try; a service on the node or in its cluster answers in far less.
const TRY: Duration = Duration::from_secs(5);

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Wait> {
        match (&self.tcp, &self.http, &self.docker) {
            (Some(tcp), None, None) => Ok(Wait::Tcp(tcp.get(renderer)?)),
            (None, Some(http), None) => Ok(Wait::Http(http.get(renderer)?)),
            (None, None, Some(docker)) => Ok(Wait::Docker(docker.get(renderer)?)),
            _ => Err(Error::config("wait needs one of tcp, http, docker")),
        }
    }
}

impl Wait {
    fn what(&self) -> String {
        match self {
            Wait::Tcp(address) => format!("{address} to accept connections"),
            Wait::Http(url) => format!("{url} to answer 200"),
            Wait::Docker(address) => format!("the Docker Engine at {address}"),
        }
    }

    fn ask(&self, host: &Host) -> Result<(), String> {
        match self {
            Wait::Tcp(address) => host.connect_tcp(address, TRY),
            Wait::Http(url) => host.http_get(url, TRY).and_then(|answer| match answer.status {
                200 => Ok(()),
                status => Err(format!("status {status}")),
            }),
            Wait::Docker(address) => host.ping_docker(address, TRY),
        }
    }

    pub(super) fn observe(&self, host: &Host) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred(format!("{} is not asked below --root", self.what())));
        }
        Ok(match self.ask(host) {
            Ok(()) => State::InSync(None),
            Err(answer) => State::Changes(vec![Change::new(format!("wait for {} (now: {answer})", self.what()))]),
        })
    }

    pub(super) fn converge(&self, host: &Host) -> Result<()> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let Err(answer) = self.ask(host) else { return Ok(()) };
            if signals::interrupted() {
                return Err(signals::interruption());
            }
            if started.elapsed() >= host.deadlines.wait {
                let waited = humantime::format_duration(host.deadlines.wait);
                return Err(Error::failed(format!("waited {waited} for {}", self.what()))
                    .cause(format!("the last answer: {answer}"))
                    .fix("see why it does not answer (systemctl status, journalctl); the setting timeouts.wait gives it longer"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}
