//! A stand-in for the Titus master, for tests: it refuses to start without the properties
//! that Titus needs, holds a session with ZooKeeper, reads the agents from the Mesos master,
//! and serves their instance groups. As in the real one, a group is unknown until its first
//! agent has registered, and whether it is active is forgotten when this ends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use http::Answer;
use zookeeper::field;

mod http;
mod properties;
mod zookeeper;

const REQUIRED: [&str; 11] = [
    "titus.master.apiport",
    "titus.master.apiProxyPort",
    "titus.master.grpcServer.port",
    "titus.zookeeper.connectString",
    "titus.zookeeper.root",
    "mesos.master.location",
    "titusMaster.job.configuration.defaultIamRole",
    "titusMaster.job.configuration.defaultSecurityGroups",
    "mesos.titus.executor",
    "titus.agent.fullCacheRefreshIntervalMs",
    "titus.agent.agentServerGroupPattern",
];
const STATES: [&str; 4] = ["Inactive", "Active", "PhasedOut", "Removable"];
const ZOOKEEPER_TIMEOUT: Duration = Duration::from_secs(20);
const GROUPS: &str = "/api/v3/agent/instanceGroups";
const LIFECYCLE: &str = "/lifecycle";

fn main() {
    let Err(why) = run();
    end(&why)
}

fn log(text: &str) {
    eprintln!("titus-server-master (stand-in): {text}");
}

fn end(why: &str) -> ! {
    log(why);
    process::exit(1)
}

fn run() -> Result<Infallible, String> {
    let properties = properties::load(&REQUIRED)?;
    let number = |key: &str| properties[key].parse::<u64>().map_err(|e| format!("{key}={}: {e}", properties[key]));
    let port = |key: &str| u16::try_from(number(key)?).map_err(|e| format!("{key}={}: {e}", properties[key]));
    let interval = Duration::from_millis(number("titus.agent.fullCacheRefreshIntervalMs")?);
    port("titus.master.apiProxyPort")?;
    port("titus.master.grpcServer.port")?;
    let port = port("titus.master.apiport")?;
    let url = format!("zk://{}{}", properties["titus.zookeeper.connectString"], properties["titus.zookeeper.root"]);
    let (servers, root) = zookeeper::parse(&url).map_err(|e| format!("ZooKeeper at {url}: {e}"))?;
    let mesos = find_mesos(&properties["mesos.master.location"])?;

    let (connected, in_zookeeper) = mpsc::channel();
    thread::spawn(move || end(&lead(&servers, &root, &connected)));
    let _ = in_zookeeper.recv();
    let titus = Arc::new(Titus { mesos, states: Mutex::default() });
    let mut told = String::new();
    while let Err(why) = titus.refresh() {
        if told != why.to_string() {
            told = why.to_string();
            log(&format!("waiting for the Mesos master: {told}"));
        }
        thread::sleep(zookeeper::RETRY);
    }
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("port {port}: {e}"))?;
    log(&format!("serving on port {port}"));
    let served = Arc::clone(&titus);
    thread::spawn(move || http::serve(&listener, move |method, target, body| served.respond(method, target, body)));
    loop {
        thread::sleep(interval);
        if let Err(why) = titus.refresh() {
            log(&format!("no agents from the Mesos master: {why}"));
        }
    }
}

/// Where the leading Mesos master is, once that is known.
fn find_mesos(location: &str) -> Result<Arc<Mutex<Option<String>>>, String> {
    let mesos = Arc::new(Mutex::new(Some(location.to_owned()).filter(|text| zookeeper::is_address(text))));
    if mesos.lock().is_ok_and(|address| address.is_none()) {
        let (servers, path) =
            zookeeper::parse(location).map_err(|e| format!("mesos.master.location={location}: {e}"))?;
        let leader = Arc::clone(&mesos);
        thread::spawn(move || zookeeper::follow(&servers, &path, &leader));
    }
    Ok(mesos)
}

/// Holds the session with ZooKeeper, and in it a node. It has a number, so that a master
/// does not wait for the node of the one that was killed. Returns why the session ended.
fn lead(servers: &[String], root: &str, connected: &Sender<()>) -> String {
    let (started, mut leads) = (Instant::now(), false);
    let lost = |session: &zookeeper::Session| {
        if session.id == 0 && started.elapsed() > ZOOKEEPER_TIMEOUT {
            end(&format!("ZooKeeper could not be reached within {ZOOKEEPER_TIMEOUT:?}"));
        } else if session.id != 0 && session.timed_out() {
            end("the ZooKeeper session timed out");
        }
    };
    zookeeper::hold(
        servers,
        |_, text| log(text),
        lost,
        |connection| {
            connection.list(root)?;
            if !leads {
                connection.create(&format!("{root}/leader-"), &process::id().to_string(), true)?;
                leads = true;
            }
            let _ = connected.send(());
            loop {
                connection.wait()?;
                connection.list(root)?;
            }
        },
    )
}

struct Titus {
    mesos: Arc<Mutex<Option<String>>>,
    /// The state of each instance group of which there ever was an agent.
    states: Mutex<BTreeMap<String, String>>,
}

impl Titus {
    fn states(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the groups of the agents that the Mesos master has.
    fn refresh(&self) -> io::Result<()> {
        let address = self.mesos.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = address.ok_or_else(|| io::Error::other("none leads yet"))?;
        let mut answer = http::ask(&http::connect(&address)?, &address, "GET", "/slaves", "")?;
        let location = answer.1.lines().find_map(|line| line.strip_prefix("Location: ")?.split_once("//"));
        if let Some((leader, path)) = location.and_then(|(_, rest)| rest.split_once('/')) {
            answer = http::ask(&http::connect(leader)?, leader, "GET", &format!("/{path}"), "")?;
        }
        let Answer(status, _, body) = answer;
        if status != "200 OK" {
            return Err(io::Error::other(format!("{status}: {body}")));
        }
        for (at, _) in body.match_indices("\"asg\":") {
            let group = field(&body[at..], "asg").unwrap_or_default().to_owned();
            self.states().entry(group).or_insert_with_key(|group| {
                log(&format!("found the instance group {group}"));
                STATES[0].to_owned()
            });
        }
        Ok(())
    }

    /// The state of a group. For one that is unknown, the Mesos master is asked at once.
    fn state(&self, group: &str) -> Option<String> {
        let known = self.states().get(group).cloned();
        known.or_else(|| {
            let _ = self.refresh();
            self.states().get(group).cloned()
        })
    }

    fn respond(&self, method: &str, target: &str, body: &str) -> Answer {
        let path = decode(target.split('?').next().unwrap_or_default());
        let below = path.strip_prefix(GROUPS).and_then(|rest| rest.strip_prefix('/'));
        match (method, below) {
            ("GET", None) if path == "/health" => Answer::plain("200 OK", ""),
            ("GET", None) if path == GROUPS => {
                let all: Vec<_> = self.states().iter().map(|(group, state)| describe(group, state)).collect();
                Answer::json("200 OK", format!(r#"{{"agentInstanceGroups":[{}]}}"#, all.join(",")))
            }
            ("GET", Some(group)) => match self.state(group) {
                Some(state) => Answer::json("200 OK", describe(group, &state)),
                None => refuse("404 Not Found", &format!("no instance group {group}")),
            },
            ("PUT", Some(rest)) if rest.ends_with(LIFECYCLE) => self.update(rest.trim_end_matches(LIFECYCLE), body),
            _ => refuse("404 Not Found", &format!("nothing at {method} {path}")),
        }
    }

    fn update(&self, group: &str, body: &str) -> Answer {
        let body: String = body.split_whitespace().collect();
        let id = format!(r#""instanceGroupId":"{group}""#);
        let is_body = |state: &&&str| {
            let state = format!(r#""lifecycleState":"{state}""#);
            body == format!("{{{id},{state}}}") || body == format!("{{{state},{id}}}")
        };
        let Some(state) = STATES.iter().find(is_body) else {
            return refuse("400 Bad Request", "expected instanceGroupId, as in the address, and lifecycleState");
        };
        if self.state(group).is_none() {
            return refuse("404 Not Found", &format!("no instance group {group}"));
        }
        log(&format!("the instance group {group} is {state}"));
        self.states().insert(group.to_owned(), (*state).to_owned());
        Answer::plain("204 No Content", "")
    }
}

fn describe(group: &str, state: &str) -> String {
    let status = format!(r#""lifecycleStatus":{{"state":"{state}","timestamp":"0"}}"#);
    format!(r#"{{"id":"{group}","instanceType":"m4.large","tier":"Flex",{status},"attributes":{{}}}}"#)
}

fn refuse(status: &str, why: &str) -> Answer {
    let why = why.replace(['"', '\\'], "?");
    Answer::json(status, format!(r#"{{"statusCode":{},"message":"{why}"}}"#, &status[..3]))
}

/// Without the escapes that an address has.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
