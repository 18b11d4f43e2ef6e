//! A service answers, before a deadline.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Change, Planned, RawKind, State, Work, ensemble};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::wait::Deadline;
use crate::template::{Renderer, Templated};
use crate::titus::zookeeper::Answer;

/// As a role file has it: one of the questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    tcp: Option<Templated<String>>,
    http: Option<Templated<String>>,
    docker: Option<Templated<String>>,
    zookeeper: Option<Templated<String>>,
    mesos_leader: Option<Templated<Vec<String>>>,
    /// With `zookeeper`: whether it must serve as one of several, or alone.
    ensemble: Option<Templated<bool>>,
}

/// A question, and whose answer is awaited.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// One of `host:port,host:port` accepts a connection.
    Tcp(String),
    /// GET on this address is answered with 200.
    Http(String),
    /// A Docker Engine answers at `tcp://host:port`.
    Docker(String),
    /// ZooKeeper serves at one of `host:port,host:port`.
    Zookeeper {
        /// Where.
        address: String,
        /// As leader or follower, or alone.
        ensemble: bool,
    },
    /// Of these Mesos masters, each `host:port`, one leads, and only one.
    MesosLeader(Vec<String>),
}

/// One try; a service on the node or in its cluster answers in far less.
const TRY: Duration = Duration::from_secs(5);

impl Raw {
    /// The question with its values.
    ///
    /// # Errors
    /// When it is none, or several, or a value is missing.
    pub fn resolve(&self, renderer: &Renderer) -> Result<Wait> {
        let zookeeper = |address: &Templated<String>| {
            let ensemble = self.ensemble.as_ref().map_or(Ok(false), |ensemble| ensemble.get(renderer))?;
            Ok(Wait::Zookeeper { address: address.get(renderer)?, ensemble })
        };
        match (&self.tcp, &self.http, &self.docker, &self.zookeeper, &self.mesos_leader) {
            (Some(tcp), None, None, None, None) => Ok(Wait::Tcp(tcp.get(renderer)?)),
            (None, Some(http), None, None, None) => Ok(Wait::Http(http.get(renderer)?)),
            (None, None, Some(docker), None, None) => Ok(Wait::Docker(docker.get(renderer)?)),
            (None, None, None, Some(address), None) => zookeeper(address),
            (None, None, None, None, Some(masters)) => Ok(Wait::MesosLeader(masters.get(renderer)?)),
            _ => Err(Error::config("wait needs one of tcp, http, docker, zookeeper, mesos_leader")),
        }
    }
}

impl Wait {
    /// What is awaited, in words.
    pub fn what(&self) -> String {
        match self {
            Wait::Tcp(address) => format!("{address} to accept connections"),
            Wait::Http(url) => format!("{url} to answer 200"),
            Wait::Docker(address) => format!("the Docker Engine at {address}"),
            Wait::Zookeeper { address, ensemble: false } => format!("ZooKeeper at {address} to serve alone"),
            Wait::Zookeeper { address, ensemble: true } => {
                format!("ZooKeeper at {address} to serve as leader or follower")
            }
            Wait::MesosLeader(masters) => format!("one leader among the Mesos masters {}", masters.join(", ")),
        }
    }

    /// Whether it answers as it should.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words.
    pub fn ask(&self, host: &Host) -> Result<Result<(), String>> {
        match self {
            Wait::Tcp(addresses) => any(addresses, |address| host.connect_tcp(address, TRY)),
            Wait::Http(url) => Ok(host.http_get(url, TRY)?.and_then(|answer| match answer.status {
                200 => Ok(()),
                status => Err(format!("status {status}")),
            })),
            Wait::Docker(address) => host.ping_docker(address, TRY),
            Wait::Zookeeper { address, ensemble } => any(address, |address| serves(host, address, *ensemble)),
            Wait::MesosLeader(masters) => one_leads(host, masters),
        }
    }
}

impl RawKind for Raw {}

impl Work for Wait {
    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred(format!("{} is not asked below --root", self.what())));
        }
        Ok(match self.ask(host)? {
            Ok(()) => State::InSync(None),
            Err(answer) => State::Changes(vec![Change::new(format!("wait for {} (now: {answer})", self.what()))]),
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let mut deadline = Deadline::new(self.what(), host.deadlines.wait);
        let mut pause = Duration::from_millis(20);
        loop {
            let Err(answer) = self.ask(host)? else { return Ok(()) };
            if !deadline.pause(pause)? {
                return Err(Error::failed(deadline.waited())
                    .cause(format!("the last answer: {answer}"))
                    .fix("see why it does not answer (systemctl status, journalctl); the setting timeouts.wait gives it longer"));
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    fn put_off(&mut self) -> bool {
        true
    }
}

/// Whether one of `addresses`, with commas between them, answers as it should.
fn any(addresses: &str, ask: impl Fn(&str) -> Result<Result<(), String>>) -> Result<Result<(), String>> {
    let mut answers = Vec::new();
    for address in addresses.split(',') {
        match ask(address)? {
            Ok(()) => return Ok(Ok(())),
            Err(answer) if addresses == address => return Ok(Err(answer)),
            Err(answer) => answers.push(format!("{address}: {answer}")),
        }
    }
    Ok(Err(answers.join("; ")))
}

fn serves(host: &Host, address: &str, ensemble: bool) -> Result<Result<(), String>> {
    Ok(ensemble::ask(host, address)?.and_then(|answer| match (answer, ensemble) {
        (Answer::Member { .. }, true) | (Answer::Standalone, false) => Ok(()),
        (Answer::Waiting, true) => {
            Err("it runs, and waits for a quorum: run titus-bootstrap on the other servers, with the same list".into())
        }
        (Answer::Waiting, false) => Err("it runs, and waits for a quorum".into()),
        (Answer::Standalone, true) => Err("it serves alone".into()),
        (_, _) => Err("it serves as one of several".into()),
    }))
}

/// Mesos masters tell by the metric `master/elected` who leads them (Mesos documentation, "Monitoring").
fn one_leads(host: &Host, masters: &[String]) -> Result<Result<(), String>> {
    let (mut leaders, mut others) = (Vec::new(), Vec::new());
    for master in masters {
        match is_elected(host, master)? {
            Ok(true) => leaders.push(master.as_str()),
            Ok(false) => others.push(format!("{master} is not")),
            Err(answer) => others.push(format!("{master}: {answer}")),
        }
    }
    Ok(match leaders.as_slice() {
        [_] => Ok(()),
        [] => Err(format!("none leads: {}", others.join("; "))),
        several => Err(format!("several say that they lead: {}", several.join(", "))),
    })
}

fn is_elected(host: &Host, master: &str) -> Result<Result<bool, String>> {
    Ok(host.http_get(&format!("http://{master}/metrics/snapshot"), TRY)?.and_then(|answer| {
        if answer.status != 200 {
            return Err(format!("status {}", answer.status));
        }
        let document: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("no JSON: {e}"))?;
        let elected = document.get("master/elected").and_then(Value::as_f64);
        elected.map(|elected| elected > 0.5).ok_or_else(|| "its answer has no master/elected".into())
    }))
}
