//! A service answers before a deadline.

use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;

use super::forms::{Addresses, ApiVersion, DockerAddress, Page, minor};
use super::{Planned, RawKind, State, Step, StepKind, Work, ensemble};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::wait::Deadline;
use crate::template::{Renderer, Templated};
use crate::titus::zookeeper::ServerState;

/// The step in a role file: one of the questions.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawWait {
    tcp: Option<Templated<Addresses>>,
    http: Option<Templated<Page>>,
    docker: Option<Templated<DockerAddress>>,
    /// With `docker`: the required version of the API, e.g. `1.26`, for a client that supports no other.
    api_version: Option<Templated<ApiVersion>>,
    zookeeper: Option<Templated<Addresses>>,
    mesos_leader: Option<Templated<Vec<Addresses>>>,
    /// With `zookeeper`: whether it must serve as a member of an ensemble, or alone.
    ensemble: Option<Templated<bool>>,
}

/// A question to a service.
#[derive(Debug, Clone, PartialEq)]
pub enum Wait {
    /// One of `host:port,host:port` accepts a connection.
    Tcp(String),
    /// GET on this address returns 200.
    Http(String),
    /// A Docker Engine answers at `tcp://host:port`.
    Docker {
        /// The address.
        address: String,
        /// The required minor number of the API's version 1.
        api_version: Option<u32>,
    },
    /// ZooKeeper serves at one of `host:port,host:port`.
    Zookeeper {
        /// The addresses.
        address: String,
        /// Whether as leader or follower, or alone.
        ensemble: bool,
    },
    /// Exactly one of these Mesos masters, each `host:port`, leads.
    MesosLeader(Vec<String>),
}

/// A question of a role, and the units that should answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Awaited {
    /// The question.
    pub question: Wait,
    /// The units that earlier steps start, since the last container: one of them should answer.
    pub units: Vec<String>,
}

impl From<Wait> for Awaited {
    fn from(question: Wait) -> Awaited {
        Awaited { question, units: Vec::new() }
    }
}

/// Records for each wait which units should answer.
pub fn name_units(steps: &mut [Step]) {
    let mut units = Vec::new();
    for step in steps {
        match &mut step.kind {
            StepKind::Unit(unit) => units.extend(unit.started().map(str::to_owned)),
            StepKind::Container(_) => units.clear(),
            StepKind::Wait(awaited) => awaited.units.clone_from(&units),
            _ => {}
        }
    }
}

/// Why the expected answer is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// The last answer.
    pub words: String,
    /// Advice, if waiting will not help.
    pub fix: Option<String>,
    /// Whether the service itself is fine and waits for other nodes.
    pub waits_for_others: bool,
}

impl From<String> for NoAnswer {
    fn from(words: String) -> NoAnswer {
        NoAnswer { words, fix: None, waits_for_others: false }
    }
}

impl NoAnswer {
    /// The error at the deadline, if the service waits for other nodes.
    pub(super) fn not_yet(&self, deadline: &Deadline) -> Error {
        Error::not_yet(deadline.timeout_message())
            .cause(format!("the last answer: {}", self.words))
            .fix("once the others run, run titus-bootstrap here again: it continues here; the boot unit does so every minute")
    }

    /// The answer with the advice.
    pub fn describe(&self) -> String {
        self.fix.as_ref().map_or_else(|| self.words.clone(), |fix| format!("{}\n{fix}", self.words))
    }
}

/// Advice about an engine that refuses old versions of its API (moby's daemon/command/daemon.go, 29.3: the variable
/// overrides daemon.json, and allows versions down to 1.24).
const OLD_API: &str = "let it answer older versions: Environment=DOCKER_MIN_API_VERSION=1.24 for docker.service, which no other drop-in \
                       may override (systemctl show --property=Environment docker)\n\
                       or install an older engine: the last that needs no such variable is 28.5.2 (apt-cache madison docker-ce has its \
                       whole version: packages.docker = [\"docker-ce=5:28.5.2-1~…\"])";

/// The time limit of one try; a service on the node or in its cluster answers much faster.
const TRY: Duration = Duration::from_secs(5);

impl RawWait {
    /// Renders the question.
    ///
    /// # Errors
    /// Fails when there is not exactly one question, or when a value is missing.
    pub fn resolve(&self, renderer: &Renderer) -> Result<Wait> {
        let zookeeper = |address: &Templated<Addresses>| {
            let ensemble = self.ensemble.as_ref().map_or(Ok(false), |ensemble| ensemble.get(renderer))?;
            Ok(Wait::Zookeeper { address: address.get(renderer)?.0, ensemble })
        };
        match (&self.tcp, &self.http, &self.docker, &self.zookeeper, &self.mesos_leader) {
            (Some(tcp), None, None, None, None) => Ok(Wait::Tcp(tcp.get(renderer)?.0)),
            (None, Some(http), None, None, None) => Ok(Wait::Http(http.get(renderer)?.0)),
            (None, None, Some(docker), None, None) => {
                let version = self.api_version.as_ref().map(|version| version.get(renderer)).transpose()?;
                let api_version = version.and_then(|ApiVersion(version)| minor(&version));
                Ok(Wait::Docker { address: docker.get(renderer)?.0, api_version })
            }
            (None, None, None, Some(address), None) => zookeeper(address),
            (None, None, None, None, Some(masters)) => {
                Ok(Wait::MesosLeader(masters.get(renderer)?.into_iter().map(|Addresses(master)| master).collect()))
            }
            _ => Err(not_one()),
        }
    }
}

fn not_one() -> Error {
    Error::config("wait needs one of tcp, http, docker, zookeeper, mesos_leader")
}

impl Wait {
    /// The hosts that it asks: names, or addresses without brackets.
    fn hosts(&self) -> Vec<String> {
        let host = |address: &str| {
            let address = address.rsplit_once(':').map_or(address, |(host, _)| host);
            address.trim_matches(['[', ']']).to_owned()
        };
        let of_url = |url: &str| {
            let (scheme, rest) = url.split_once("://")?;
            (scheme != "unix").then(|| host(rest.split('/').next().unwrap_or_default()))
        };
        match self {
            Wait::Tcp(addresses) | Wait::Zookeeper { address: addresses, .. } => {
                addresses.split(',').map(host).collect()
            }
            Wait::Http(url) | Wait::Docker { address: url, .. } => of_url(url).into_iter().collect(),
            Wait::MesosLeader(masters) => masters.iter().map(|master| host(master)).collect(),
        }
    }

    /// Describes the expected answer.
    pub fn what(&self) -> String {
        match self {
            Wait::Tcp(address) => format!("{address} to accept connections"),
            Wait::Http(url) => format!("{url} to answer 200"),
            Wait::Docker { address, api_version: None } => format!("the Docker Engine at {address}"),
            Wait::Docker { address, api_version: Some(minor) } => {
                format!("the Docker Engine at {address} to answer API 1.{minor}")
            }
            Wait::Zookeeper { address, ensemble: false } => format!("ZooKeeper at {address} to serve alone"),
            Wait::Zookeeper { address, ensemble: true } => {
                format!("ZooKeeper at {address} to serve as leader or follower")
            }
            Wait::MesosLeader(masters) => format!("one leader among the Mesos masters {}", masters.join(", ")),
        }
    }

    /// Asks the service once.
    ///
    /// # Errors
    /// The outer result fails after a signal. The inner one is the last answer, if it is not the expected one.
    pub fn ask(&self, host: &Host) -> Result<Result<(), NoAnswer>> {
        match self {
            Wait::Tcp(addresses) => ask_any(addresses, |address| host.connect_tcp(address, TRY)),
            Wait::Http(url) => {
                let answer = host.http_get(url, TRY)?.and_then(|answer| match answer.status {
                    200 => Ok(()),
                    status => Err(format!("status {status}")),
                });
                Ok(answer.map_err(NoAnswer::from))
            }
            Wait::Docker { address, api_version: None } => Ok(host.ping_docker(address, TRY)?.map_err(NoAnswer::from)),
            Wait::Docker { address, api_version: Some(minor) } => {
                Ok(match host.docker_refuses(address, *minor, TRY)? {
                    Ok(None) => Ok(()),
                    Ok(Some(words)) => Err(NoAnswer { fix: Some(OLD_API.to_owned()), ..NoAnswer::from(words) }),
                    Err(answer) => Err(answer.into()),
                })
            }
            Wait::Zookeeper { address, ensemble } => ask_any(address, |address| serves(host, address, *ensemble)),
            Wait::MesosLeader(masters) => Ok(one_leads(host, masters)?.map_err(NoAnswer::from)),
        }
    }
}

impl RawKind for RawWait {
    fn refuse(&self) -> Result<()> {
        let asked = [
            self.tcp.is_some(),
            self.http.is_some(),
            self.docker.is_some(),
            self.zookeeper.is_some(),
            self.mesos_leader.is_some(),
        ];
        let lone = [
            ("api_version", self.api_version.is_some(), "docker", self.docker.is_some()),
            ("ensemble", self.ensemble.is_some(), "zookeeper", self.zookeeper.is_some()),
        ];
        if asked.iter().filter(|is| **is).count() != 1 {
            return Err(not_one());
        }
        match lone.iter().find(|(_, is_there, _, with)| *is_there && !*with) {
            Some((key, _, with, _)) => Err(Error::config(format!("{key} is only valid together with {with}"))),
            None => Ok(()),
        }
    }
}

impl Awaited {
    /// The units that should answer but have problems, or the last of them if all seem fine, each with its state and its last
    /// log lines.
    fn describe_units(&self, host: &Host) -> Result<String> {
        if !host.has_systemd()? {
            return Ok(String::new());
        }
        host.forget_units();
        let mut unwell = Vec::new();
        for name in &self.units {
            let unit = host.unit(name)?;
            if !unit.is_active() || unit.restarts.is_some_and(|restarts| restarts > 0) {
                unwell.push(name);
            }
        }
        let named = if unwell.is_empty() { self.units.last().into_iter().collect() } else { unwell };
        Ok(named.into_iter().map(|name| format!("\n{}", host.unit_words(name))).collect())
    }
}

impl Work for Awaited {
    fn explain(&self) -> Vec<String> {
        vec![
            format!("Waits for {}, and changes nothing.", self.question.what()),
            "The setting timeouts.wait limits that. When it is over, the run fails.".into(),
        ]
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred(format!("cannot wait for {} with --root", self.question.what())));
        }
        Ok(match self.question.ask(host)? {
            Ok(()) => State::InSync(None),
            Err(answer) => State::Waits(format!("wait for {} (now: {})", self.question.what(), answer.words)),
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let mut deadline = Deadline::new(self.question.what(), host.deadlines.wait);
        let mut pause = Duration::from_millis(20);
        loop {
            let Err(answer) = self.question.ask(host)? else { return Ok(()) };
            if let Some(fix) = answer.fix {
                let what = format!("waiting for {} does not help", self.question.what());
                return Err(Error::failed(what).cause(answer.words).fix(fix));
            }
            if !deadline.pause(pause)? {
                if answer.waits_for_others || is_elsewhere(&self.question.hosts(), host) {
                    return Err(answer.not_yet(&deadline));
                }
                let behind = self.describe_units(host)?;
                return Err(Error::failed(deadline.timeout_message())
                    .cause(format!("the last answer: {}{behind}", answer.words))
                    .fix("find out why it does not answer (systemctl status, journalctl); the setting timeouts.wait allows more time"));
            }
            // A quarter: what answers is noticed after a quarter more than the wait so far, at most.
            pause = (pause * 5 / 4).min(Duration::from_secs(1));
        }
    }

    fn only_waits(&self) -> bool {
        true
    }

    fn defer(&mut self) -> bool {
        true
    }
}

/// Whether only other nodes can give the answer, so that a missing answer is not this node's failure. `hosts` are
/// addresses or names; a name belongs to another node unless it is this node's.
fn is_elsewhere(hosts: &[String], host: &Host) -> bool {
    let (own, name) = (host.own_addresses(), host.host_name());
    let is_own = |wanted: &String| match wanted.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip.is_unspecified() || own.contains(&ip),
        Err(_) => wanted == "localhost" || wanted.split('.').next() == name.split('.').next(),
    };
    !hosts.is_empty() && !hosts.iter().any(is_own)
}

/// Asks each of the comma-separated `addresses` until one gives the expected answer.
fn ask_any<E: Into<NoAnswer>>(
    addresses: &str,
    ask: impl Fn(&str) -> Result<Result<(), E>>,
) -> Result<Result<(), NoAnswer>> {
    let (mut answers, mut waits_for_others) = (Vec::new(), false);
    for address in addresses.split(',') {
        let Err(answer) = ask(address)?.map_err(Into::into) else { return Ok(Ok(())) };
        if addresses == address {
            return Ok(Err(answer));
        }
        waits_for_others |= answer.waits_for_others;
        answers.push(format!("{address}: {}", answer.words));
    }
    Ok(Err(NoAnswer { waits_for_others, ..NoAnswer::from(answers.join("; ")) }))
}

fn serves(host: &Host, address: &str, ensemble: bool) -> Result<Result<(), NoAnswer>> {
    let answer = match ensemble::ask(host, address)? {
        Ok(answer) => answer,
        Err(words) => return Ok(Err(words.into())),
    };
    let words = match (answer, ensemble) {
        (ServerState::Member { .. }, true) | (ServerState::Standalone, false) => return Ok(Ok(())),
        (ServerState::Waiting, true) => {
            "it runs and waits for a quorum: run titus-bootstrap on the other servers, with the same list"
        }
        (ServerState::Waiting, false) => "it runs and waits for a quorum",
        (ServerState::Standalone, true) => "it serves alone",
        (_, _) => "it serves as a member of an ensemble",
    };
    let waits_for_others = ensemble && answer == ServerState::Waiting;
    Ok(Err(NoAnswer { waits_for_others, ..NoAnswer::from(words.to_owned()) }))
}

/// Mesos masters report by the metric `master/elected` whether they lead (Mesos documentation, "Monitoring").
fn one_leads(host: &Host, masters: &[String]) -> Result<Result<(), String>> {
    let (mut leaders, mut others) = (Vec::new(), Vec::new());
    for master in masters {
        match is_elected(host, master)? {
            Ok(true) => leaders.push(master.as_str()),
            Ok(false) => others.push(format!("{master} does not")),
            Err(answer) => others.push(format!("{master}: {answer}")),
        }
    }
    Ok(match leaders.as_slice() {
        [_] => Ok(()),
        [] => Err(format!("no master leads: {}", others.join("; "))),
        several => Err(format!("several claim to lead: {}", several.join(", "))),
    })
}

/// The one metric that the program reads.
#[derive(Deserialize)]
pub(crate) struct Metrics {
    #[serde(rename = "master/elected")]
    elected: Option<f64>,
}

fn is_elected(host: &Host, master: &str) -> Result<Result<bool, String>> {
    let url = format!("http://{master}/metrics/snapshot");
    let asked = host.http_get_json(&url, TRY, |answer| serde_json::from_reader::<_, Metrics>(answer))?;
    Ok(asked.and_then(|answer| {
        if answer.status != 200 {
            return Err(format!("status {}", answer.status));
        }
        let elected = answer.read?.elected;
        elected.map(|elected| elected != 0.0).ok_or_else(|| "its answer has no master/elected".into())
    }))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::host::Deadlines;
    use crate::host::docker::fake;
    use crate::step::ensemble::tests::{WAITING, server};

    #[test]
    fn an_engine_that_refuses_the_clients_api_for_good_is_not_waited_for() {
        let too_old = "client version 1.26 is too old. Minimum supported API version is 1.44";
        let fake = fake::engine(move |request| match request {
            "GET /version" => fake::version("29.0.0", "1.52", "1.44"),
            _ => (400, format!("{{\"message\":\"{too_old}\"}}")),
        });
        let host = Host::live(Deadlines::all(Duration::from_secs(3600)));
        let wait = Wait::Docker { address: fake.address.clone(), api_version: Some(26) };
        let wait = Awaited::from(wait);
        let State::Waits(why) = wait.observe(&host, &Planned::new()).unwrap() else { panic!("in sync") };
        let asked = format!("wait for the Docker Engine at {} to answer API 1.26 (now: ", fake.address);
        assert!(why.starts_with(&asked) && why.contains(too_old), "{why}");
        fake.requests.lock().unwrap().clear();
        let error = wait.converge(&host).unwrap_err();
        assert_eq!(error.cause.as_deref(), Some(too_old));
        assert!(error.fix.unwrap().contains("DOCKER_MIN_API_VERSION=1.24"));
        assert_eq!(*fake.requests.lock().unwrap(), ["GET /v1.26/_ping"]);

        let explained = wait.explain().join("\n");
        assert!(explained.contains("to answer API 1.26") && explained.contains("timeouts.wait"), "{explained}");
        let any = Awaited::from(Wait::Docker { address: fake.address, api_version: None });
        assert_eq!(any.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
    }

    #[test]
    fn what_only_another_node_has_is_not_this_ones_failure() {
        let host = Host::live(Deadlines::default());
        // A machine without a network has only the address of its loopback interface, or none.
        let own = host.own_addresses().into_iter().find(|own| own.is_ipv4() && !own.is_loopback());
        let own = own.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let tcp = |address: &str| Wait::Tcp(address.to_owned());
        for (wait, elsewhere) in [
            (tcp("203.0.113.77:7001"), true),
            (tcp("no-machine-has-this-name.example:7001"), true),
            (tcp("[2001:db8::1]:7001"), true),
            (tcp("localhost:7001"), false),
            (tcp("127.0.0.1:7001"), false),
            (tcp("127.0.0.2:7001"), false),
            (tcp("0.0.0.0:7001"), false),
            (tcp("[::]:7001"), false),
            (tcp("[::1]:7001"), false),
            (tcp(&format!("{own}:7001")), false),
            (tcp(&format!("{}:7001", host.host_name())), false),
            // One of them is this node.
            (tcp(&format!("203.0.113.77:7001,{own}:7001")), false),
            (tcp("203.0.113.77:7001,203.0.113.78:7001"), true),
            (Wait::Zookeeper { address: "203.0.113.77:2181".into(), ensemble: false }, true),
            (Wait::MesosLeader(vec!["203.0.113.77:5050".into()]), true),
            (Wait::MesosLeader(vec!["203.0.113.77:5050".into(), format!("{own}:5050")]), false),
            (Wait::Http("http://203.0.113.77:5050/health".into()), true),
            (Wait::Http("http://127.0.0.1:80/health".into()), false),
            (Wait::Docker { address: "tcp://127.0.0.1:4243".into(), api_version: None }, false),
            (Wait::Docker { address: "unix:///run/docker.sock".into(), api_version: None }, false),
        ] {
            assert_eq!(is_elsewhere(&wait.hosts(), &host), elsewhere, "{wait:?}");
        }
    }

    /// This machine, with a real HTTP client.
    fn live() -> Host {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Host::live(Deadlines::default())
    }

    /// A server that gives this answer to every request. Returns its `host:port`.
    fn answering(status: u16, body: &str) -> String {
        let body = body.to_owned();
        fake::engine(move |_| (status, body.clone())).address.trim_start_matches("tcp://").to_owned()
    }

    #[test]
    fn one_master_leads_or_not() {
        let host = live();
        let elected = |value: &str| (200, format!("{{\"x\": 7, \"master/elected\": {value}}}"));
        for (answers, words) in [
            (vec![elected("1.0")], None),
            (vec![elected("1")], None),
            (vec![elected("0.0"), elected("1.0")], None),
            (vec![(200, "nonsense".into()), elected("1.0"), (500, String::new())], None),
            (vec![elected("0.0")], Some("no master leads: MASTER does not")),
            (vec![elected("0.0"), elected("0")], Some("no master leads: MASTER does not; MASTER does not")),
            (vec![elected("1.0"), elected("1.0")], Some("several claim to lead: MASTER, MASTER")),
            (vec![(503, elected("1.0").1)], Some("no master leads: MASTER: status 503")),
            (vec![(200, "{}".into())], Some("no master leads: MASTER: its answer has no master/elected")),
            (vec![(200, "nonsense".into())], Some("MASTER: it is not the expected JSON")),
            (vec![], Some("no master leads: ")),
        ] {
            let masters: Vec<String> = answers.iter().map(|(status, body)| answering(*status, body)).collect();
            let answer = Wait::MesosLeader(masters.clone()).ask(&host).unwrap();
            let message = answer.err().map(|answer| masters.iter().fold(answer.words, |t, m| t.replace(m, "MASTER")));
            let as_expected = match (&message, words) {
                (None, None) => true,
                (Some(message), Some(words)) => message.contains(words),
                _ => false,
            };
            assert!(as_expected, "{answers:?}: {message:?}");
        }
    }

    #[test]
    fn what_answers_otherwise_than_it_should_is_reported() {
        let host = live();
        let version = |_: &str| fake::version("20.10.24", "1.41", "1.12");
        let engine =
            fake::engine(move |request| if request == "GET /version" { version("") } else { (200, "OK".into()) });
        let docker = |api_version| Wait::Docker { address: engine.address.clone(), api_version };
        let nobody = "127.0.0.1:1";
        let no_engine = |api_version| Wait::Docker { address: format!("tcp://{nobody}"), api_version };
        let http = |status| Wait::Http(format!("http://{}/health", answering(status, "")));
        for (wait, words) in [
            (http(200), None),
            (http(201), Some("status 201")),
            (http(503), Some("status 503")),
            (Wait::Http(format!("http://{nobody}/")), Some("refused")),
            (Wait::Tcp(answering(200, "")), None),
            (Wait::Tcp(nobody.into()), Some("refused")),
            (Wait::Tcp(format!("{nobody},{}", answering(200, ""))), None),
            (Wait::Tcp(format!("{nobody},{nobody}")), Some("127.0.0.1:1: ")),
            (docker(None), None),
            (docker(Some(26)), None),
            (no_engine(None), Some("refused")),
            (no_engine(Some(26)), Some("refused")),
        ] {
            let message = wait.ask(&host).unwrap().err();
            let as_expected = match (&message, words) {
                (None, None) => true,
                (Some(message), Some(words)) => {
                    message.words.contains(words) && message.fix.is_none() && !message.waits_for_others
                }
                _ => false,
            };
            assert!(as_expected, "{wait:?}: {message:?}");
        }
        assert!(Awaited::from(http(200)).defer(), "a node that has not joined has nothing to wait for");
    }

    #[test]
    fn a_wait_asks_exactly_one_question() {
        let resolve = |toml: &str| crate::step::loaded::<RawWait>(toml)?.resolve(&Renderer::new(serde_json::json!({})));
        let wait = Wait::Docker { address: "unix:///x".into(), api_version: Some(26) };
        assert_eq!(resolve("docker = 'unix:///x'\napi_version = '1.26'").unwrap(), wait);
        let wait = Wait::Zookeeper { address: "h:2181".into(), ensemble: true };
        assert_eq!(resolve("zookeeper = 'h:2181'\nensemble = true").unwrap(), wait);
        assert_eq!(resolve("tcp = 'h:1,i:2'").unwrap(), Wait::Tcp("h:1,i:2".into()));
        assert_eq!(resolve("http = 'http://h/x'").unwrap(), Wait::Http("http://h/x".into()));
        let wait = Wait::MesosLeader(vec!["h:5050".into(), "i:5050".into()]);
        assert_eq!(resolve("mesos_leader = ['h:5050', 'i:5050']").unwrap(), wait);
        for (wrong, words) in [
            ("", "needs one of"),
            ("tcp = 'h:1'\nhttp = 'http://h/'", "needs one of"),
            ("ensemble = true", "needs one of"),
            ("docker = 'tcp://h:1'\napi_version = '2.0'", "1.26"),
            // A key that the question does not have would silently change nothing.
            ("tcp = 'h:1'\nensemble = true", "ensemble is only valid together with zookeeper"),
            ("zookeeper = 'h:1'\napi_version = '1.26'", "api_version is only valid together with docker"),
        ] {
            let error = resolve(wrong).unwrap_err().to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn zookeeper_serves_as_the_role_wants_it() {
        let host = live();
        let (alone, leader, waiting) = (server("Mode: standalone\n"), server("Mode: leader\n"), server(WAITING));
        let ask = |addresses: &[&str], ensemble| {
            let question = Wait::Zookeeper { address: addresses.join(","), ensemble };
            question.ask(&host).unwrap().err().map(|answer| (answer.words, answer.waits_for_others))
        };
        let words = |text: &str, waits_for_others| Some((text.to_owned(), waits_for_others));
        assert_eq!(ask(&[&alone], false), None);
        assert_eq!(ask(&[&leader], true), None);
        assert_eq!(ask(&[&alone], true), words("it serves alone", false));
        assert_eq!(ask(&[&leader], false), words("it serves as a member of an ensemble", false));
        // Only other nodes can end this, so it is not this node's failure.
        let for_a_quorum =
            "it runs and waits for a quorum: run titus-bootstrap on the other servers, with the same list";
        assert_eq!(ask(&[&waiting], true), words(for_a_quorum, true));
        assert_eq!(ask(&[&waiting], false), words("it runs and waits for a quorum", false));
        // One of them is enough; without it, the answers of all are reported.
        assert_eq!(ask(&[&waiting, &leader], true), None);
        let both = format!("{alone}: it serves alone; {waiting}: {for_a_quorum}");
        assert_eq!(ask(&[&alone, &waiting], true), Some((both, true)));
        let neither = format!("{alone}: it serves alone; {alone}: it serves alone");
        assert_eq!(ask(&[&alone, &alone], true), Some((neither, false)));
    }

    #[test]
    fn advice_follows_the_answer() {
        let answer = NoAnswer::from("it is too old".to_owned());
        assert_eq!(answer.describe(), "it is too old");
        let answer = NoAnswer { fix: Some("install a newer one".into()), ..answer };
        assert_eq!(answer.describe(), "it is too old\ninstall a newer one");
    }

    #[test]
    fn the_units_since_the_last_container_should_answer() {
        let step = |n: usize, toml: &str| {
            let raw: crate::step::RawStep =
                toml::from_str(&format!("id = 'step-{n}'\nphase = 'boot'\n{toml}")).unwrap();
            raw.resolve(&Renderer::new(serde_json::json!({})), &Default::default()).unwrap()
        };
        let unit = |name: &str| format!("unit = {{ name = '{name}.service', active = true }}");
        let (wait, container) =
            ("wait = { tcp = 'h:1' }".to_owned(), "container = { name = 'x', image = 'x:1' }".to_owned());
        let roles = [wait.clone(), unit("a"), unit("b"), wait.clone(), container, wait.clone(), unit("c"), wait];
        let mut steps: Vec<Step> = roles.iter().enumerate().map(|(n, toml)| step(n, toml)).collect();
        name_units(&mut steps);
        let units = steps.iter().filter_map(|step| match &step.kind {
            StepKind::Wait(awaited) => Some(awaited.units.join(" ")),
            _ => None,
        });
        assert_eq!(units.collect::<Vec<_>>(), ["", "a.service b.service", "", "c.service"]);
    }

    #[test]
    fn a_version_of_the_api_is_1_and_a_minor_number() {
        assert_eq!(minor("1.26"), Some(26));
        for bad in ["", "26", "1.", "2.26", "1.x", "v1.26"] {
            assert_eq!(minor(bad), None, "{bad}");
        }
    }
}
