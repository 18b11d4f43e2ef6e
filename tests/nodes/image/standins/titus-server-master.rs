//! A stand-in for the Titus master, for tests: it refuses to start without the properties
//! that Titus needs, holds a session with ZooKeeper, gets offers of agents from the Mesos master,
//! which must reach it at the address that libprocess advertises, and serves their instance groups.
//! As in the real one (v0.1.0-rc.57), it answers 503 until it leads, a group is unknown until its
//! first agent has registered, which is 500, whether it is active is forgotten when this ends, and
//! TERM ends it with 143. Errors are those of the real gateway, which has them from gRPC.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use http::Answer;
use json::{quoted, texts};

mod address;
mod http;
mod json;
mod jvm;
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
    jvm::end_as_one();
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

    let driver = Driver::start()?;
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("port {port}: {e}"))?;
    let titus = Arc::new(Titus { mesos, driver, leads: AtomicBool::new(false), states: Mutex::default() });
    log(&format!("listening on port {port}"));
    let served = Arc::clone(&titus);
    thread::spawn(move || http::serve(&listener, move |method, target, body| served.respond(method, target, body)));

    let (connected, in_zookeeper) = mpsc::channel();
    thread::spawn(move || end(&lead(&servers, &root, &connected)));
    let _ = in_zookeeper.recv();
    titus.leads.store(true, Ordering::Relaxed);
    log("leading");
    let mut logged = String::new();
    loop {
        let why = titus.refresh().err().map(|why| why.to_string()).unwrap_or_default();
        if logged != why {
            log(&format!("no offers from the Mesos master: {why}"));
            logged = why;
        }
        thread::sleep(if logged.is_empty() { interval } else { zookeeper::RETRY });
    }
}

/// The framework: the Mesos master sends to it, so it must be reachable.
struct Driver {
    pid: String,
}

impl Driver {
    fn start() -> Result<Driver, String> {
        let (bound, ip) = address::own(&["LIBPROCESS_IP"])?;
        let listener = TcpListener::bind((bound, 0)).map_err(|e| format!("Failed to bind on {bound}:0: {e}"))?;
        let port = listener.local_addr().map_err(|e| e.to_string())?.port();
        thread::spawn(move || listener.incoming().for_each(drop));
        log(&format!("the framework's address is {ip}:{port}"));
        Ok(Driver { pid: format!("scheduler-1@{ip}:{port}") })
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
    driver: Driver,
    leads: AtomicBool,
    /// The state of each instance group of which there ever was an agent.
    states: Mutex<BTreeMap<String, String>>,
}

impl Titus {
    fn states(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the groups of the agents that the Mesos master offers.
    fn refresh(&self) -> io::Result<()> {
        let address = self.mesos.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let address = address.ok_or_else(|| io::Error::other("none leads yet"))?;
        let own = format!(r#"{{"pid":"{}"}}"#, self.driver.pid);
        let ask = |address: &str| http::ask(&http::connect(address)?, address, "POST", "/stand-in/offers", &own);
        let mut answer = ask(&address)?;
        let location = answer.1.lines().find_map(|line| line.strip_prefix("Location: ")?.split_once("//"));
        if let Some((leader, _)) = location.and_then(|(_, rest)| rest.split_once('/')) {
            answer = ask(leader)?;
        }
        let Answer(status, _, body) = answer;
        if status != "200 OK" {
            return Err(io::Error::other(format!("{status}: {body}")));
        }
        // The text of a scalar is empty.
        for group in texts(&body, "asg") {
            self.states().entry(group.to_owned()).or_insert_with_key(|group| {
                log(&format!("found the instance group {group}"));
                STATES[0].to_owned()
            });
        }
        Ok(())
    }

    /// The state of a group. For an unknown one, it asks the Mesos master at once.
    fn state(&self, group: &str) -> Result<String, Answer> {
        let known = |titus: &Titus| titus.states().get(group).cloned();
        let state = known(self).or_else(|| {
            let _ = self.refresh();
            known(self)
        });
        let unknown = || format!("AgentManagementException: Instance group {group} not found");
        state.ok_or_else(|| refuse("500 Internal Server Error", "INTERNAL", &unknown()))
    }

    fn respond(&self, method: &str, target: &str, body: &str) -> Answer {
        let path = decode(target.split('?').next().unwrap_or_default());
        let below = path.strip_prefix(GROUPS).and_then(|rest| rest.strip_prefix('/'));
        match (method, below) {
            ("GET", None) if path == "/health" => Answer::plain("200 OK", ""),
            _ if !self.leads.load(Ordering::Relaxed) => {
                refuse("503 Service Unavailable", "UNAVAILABLE", "Titus Master is initializing and not yet available.")
            }
            ("GET", None) if path == GROUPS => {
                let all: Vec<_> = self.states().iter().map(|(group, state)| describe(group, state)).collect();
                Answer::json("200 OK", format!("{{\n  \"agentInstanceGroups\": [{}]\n}}", all.join(", ")))
            }
            ("GET", Some(group)) => {
                self.state(group).map_or_else(|answer| answer, |state| Answer::json("200 OK", describe(group, &state)))
            }
            ("PUT", Some(rest)) if rest.ends_with(LIFECYCLE) => self.update(rest.trim_end_matches(LIFECYCLE), body),
            _ => refuse("404 Not Found", "NOT_FOUND", &format!("nothing at {method} {path}")),
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
            let why = "expected instanceGroupId, as in the address, and lifecycleState";
            return refuse("400 Bad Request", "INVALID_ARGUMENT", why);
        };
        if let Err(unknown) = self.state(group) {
            return unknown;
        }
        log(&format!("the instance group {group} is {state}"));
        self.states().insert(group.to_owned(), (*state).to_owned());
        Answer::plain("204 No Content", "")
    }
}

/// A group as protobuf's JSON has it, fields that are 0 among them.
fn describe(group: &str, state: &str) -> String {
    let resources = r#"{ "cpu": 0.0, "gpu": 0, "memoryMB": 0, "diskMB": 0, "networkMbps": 0 }"#;
    let scale = r#"{ "min": 0, "max": 1, "minIdleToKeep": 0, "maxIdleToKeep": 0, "coolDownSec": "600", "priority": 0, "shortfallAdjustingFactor": 1 }"#;
    let status = format!(r#"{{ "state": "{state}", "detail": "", "timestamp": "0" }}"#);
    let fields = [
        ("id", quoted(group)),
        ("instanceType", quoted("m4.large")),
        ("instanceResources", resources.to_owned()),
        ("tier", quoted("Flex")),
        ("min", "0".to_owned()),
        ("desired", "1".to_owned()),
        ("current", "1".to_owned()),
        ("max", "1".to_owned()),
        ("isLaunchEnabled", "false".to_owned()),
        ("isTerminateEnabled", "false".to_owned()),
        ("autoScaleRule", scale.to_owned()),
        ("lifecycleStatus", status),
        ("launchTimestamp", quoted("0")),
        ("attributes", "{ }".to_owned()),
    ];
    let fields: Vec<_> = fields.map(|(name, value)| format!("    \"{name}\": {value}")).into();
    format!("{{\n{}\n  }}", fields.join(",\n"))
}

/// What the real gateway makes of a gRPC status.
fn refuse(status: &str, code: &str, why: &str) -> Answer {
    Answer::json(
        status,
        format!(r#"{{"statusCode":{},"message":{}}}"#, &status[..3], quoted(&format!("{code}: {why}"))),
    )
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
