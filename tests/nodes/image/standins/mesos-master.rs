//! A stand-in for the Mesos master 1.0.1, for tests, because the real one is not available.
//!
//! Like the real one, it takes its flags (those in `KNOWN`), makes its directories,
//! holds a session with ZooKeeper, contends with a `json.info_` node, follows the leader
//! and redirects to it, and ends when it leads and loses that. Unlike the real one it has
//! no replicated log: a leader counts as recovered while at least `--quorum` masters
//! contend. It also ends when it follows and its session expires, takes no flags from its
//! environment, and refuses arguments that are not flags. It knows of no agents but those
//! of `POST /stand-in/slaves`: a test gives an array, which replaces the last one; an agent
//! gives an object, itself, again and again. One whose pid does not lead back to it is dropped at
//! once, which takes Mesos five pings of 15 s. A framework asks for offers, `POST /stand-in/offers`
//! with its own pid, and gets the agents; one that cannot be reached gets none.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::num::{NonZeroU16, NonZeroUsize};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, iter, process, thread};

use http::Answer;
use json::field;
use zookeeper::{Connection, Error, LABEL, address_of, is_host};

mod address;
mod http;
mod json;
mod zookeeper;

const KNOWN: [&str; 8] = ["zk", "work_dir", "quorum", "log_dir", "logging_level", "ip", "hostname", "port"];
const LEVELS: [&str; 3] = ["INFO", "WARNING", "ERROR"];
/// 75 s in Mesos.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(status: i32) -> !;
}

/// Process 1 has no default action. As in the real one, the session stays open.
extern "C" fn terminated(number: i32) {
    unsafe { _exit(128 + number) }
}

fn main() {
    const SIGTERM: i32 = 15;
    unsafe { signal(SIGTERM, terminated) };
    let flags = Flags::load().unwrap_or_else(|why| {
        eprintln!("{why}\n\nUsage: mesos-master [options]\n\nSupported options: --{}", KNOWN.join(", --"));
        process::exit(1)
    });
    let (master, _lock) = start(&flags).unwrap_or_else(|why| end(&why));
    let lost = |session: &zookeeper::Session| {
        if session.timed_out() && master.view().leader.is_some() {
            log("WARNING", &format!("ZooKeeper session 0x{:x} timed out", session.id));
            master.see(None, 0, 1);
        }
    };
    let why = zookeeper::hold(&flags.servers, log, lost, |connection| master.contend(&flags, connection));
    log("ERROR", &why);
    master.see(None, 0, 1);
    process::exit(1)
}

fn end(why: &str) -> ! {
    log("ERROR", why);
    process::exit(1)
}

/// Returns also the lock of the log's database: no two masters can share a work directory.
fn start(flags: &Flags) -> Result<(Arc<Master>, File), String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let ip = flags.ip.map_or_else(|| resolve(&name), Ok)?;
    let own_name = || if resolve(&name) == Ok(ip) { name.clone() } else { ip.to_string() };
    let hostname = flags.hostname.clone().unwrap_or_else(own_name);
    let (bound, port) = (flags.ip.unwrap_or(Ipv4Addr::UNSPECIFIED), flags.port.get());
    let listener = TcpListener::bind((bound, port)).map_err(|e| format!("Failed to bind on {bound}:{port}: {e}"))?;

    let (level, mut file) = (LEVELS[flags.level], None);
    if let Some(path) = &flags.log_dir {
        let failed = |e| format!("Could not initialize logging: Failed to create directory {path}: {e}");
        fs::create_dir_all(path).map_err(failed)?;
        let options = File::options().create(true).append(true).clone();
        file = Some(options.open(format!("{path}/mesos-master.{level}")).map_err(failed)?);
    }
    let _ = LOG.set((flags.level, file));
    log(level, &format!("{level} level logging started!"));
    let failed = |e| format!("Failed to create work directory '{}': {e}", flags.work_dir);
    let path = format!("{}/replicated_log", flags.work_dir);
    fs::create_dir_all(&path).map_err(failed)?;
    fs::write(format!("{path}/CURRENT"), "MANIFEST-000001\n").map_err(failed)?;
    let lock = File::create(format!("{path}/LOCK")).map_err(failed)?;
    lock.try_lock().map_err(|e| format!("IO error: lock {path}/LOCK: {e}"))?;

    if ip.is_loopback() {
        log("WARNING", "Master bound to loopback interface! You might want to set '--ip' flag");
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|e| format!("No id: {e}"))?;
    let (id, number) = (id.trim(), u32::from_le_bytes(ip.octets()));
    let address = format!(r#"{{"hostname":"{hostname}","ip":"{ip}","port":{port}}}"#);
    let own = format!(r#""hostname":"{hostname}","id":"{id}","ip":{number},"pid":"master@{ip}:{port}""#);
    let info = format!(r#"{{"address":{address},{own},"port":{port},"version":"1.0.1"}}"#);
    log("INFO", &format!("Master started: {info}"));
    let master = Arc::new(Master { info, started: Instant::now(), view: Mutex::default() });
    let served = Arc::clone(&master);
    thread::spawn(move || http::serve(&listener, move |method, target, body| served.respond(method, target, body)));
    Ok((master, lock))
}

fn resolve(name: &str) -> Result<Ipv4Addr, String> {
    let mut found = (name, 0).to_socket_addrs().map_err(|e| format!("Failed to resolve '{name}': {e}"))?;
    let first = found.find_map(|a| if let SocketAddr::V4(a) = a { Some(*a.ip()) } else { None });
    first.ok_or_else(|| format!("'{name}' has no IPv4 address"))
}

static LOG: OnceLock<(usize, Option<File>)> = OnceLock::new();

fn log(level: &str, text: &str) {
    let (least, file) = LOG.get().unwrap_or(&(0, None));
    if LEVELS[*least..].contains(&level) {
        let line = format!("mesos-master (stand-in): {level}: {text}\n");
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = file.as_ref().map(|mut file| file.write_all(line.as_bytes()));
    }
}

struct Flags {
    servers: Vec<String>,
    path: String,
    quorum: NonZeroUsize,
    work_dir: String,
    log_dir: Option<String>,
    level: usize,
    ip: Option<Ipv4Addr>,
    hostname: Option<String>,
    port: NonZeroU16,
}

impl Flags {
    fn load() -> Result<Flags, String> {
        let mut values = BTreeMap::new();
        for argument in env::args_os().skip(1) {
            let argument = argument.to_string_lossy().into_owned();
            let flag = argument.strip_prefix("--").ok_or_else(|| format!("Unexpected argument '{argument}'"))?;
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
            if !KNOWN.contains(&name) {
                return Err(format!("Failed to load unknown flag '{name}'"));
            }
            let value = value.ok_or_else(|| format!("Failed to load non-boolean flag '{name}': Missing value"))?;
            if values.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(format!("Flag '{name}' is already loaded via name '{name}'"));
            }
        }
        let zk = values.get("zk").ok_or("Flag 'zk' is required, but it was not provided")?;
        let (servers, path) = zookeeper::parse(zk).map_err(|e| format!("Error parsing ZooKeeper URL '{zk}': {e}"))?;
        let no_work_dir = "--work_dir needed for replicated log based registry";
        let no_quorum = "Need to specify --quorum for replicated log based registry when using ZooKeeper";
        let level = values.get("logging_level").map_or("INFO", String::as_str);
        let no_level = || format!("'{level}' is not a valid logging level. Possible values are: {LEVELS:?}");
        if let Some(hostname) = values.get("hostname").filter(|hostname| !is_host(hostname)) {
            return Err(format!("'{hostname}' is not a host name"));
        }
        Ok(Flags {
            servers,
            path,
            quorum: value_of(&values, "quorum")?.ok_or(no_quorum)?,
            work_dir: values.get("work_dir").filter(|path| !path.is_empty()).ok_or(no_work_dir)?.clone(),
            log_dir: values.get("log_dir").cloned(),
            level: LEVELS.iter().position(|l| *l == level).ok_or_else(no_level)?,
            ip: value_of(&values, "ip")?,
            hostname: values.get("hostname").cloned(),
            port: value_of(&values, "port")?.unwrap_or(const { NonZeroU16::new(5050).unwrap() }),
        })
    }
}

fn value_of<T: FromStr>(values: &BTreeMap<String, String>, name: &str) -> Result<Option<T>, String> {
    let failed = |value| format!("Failed to load flag '{name}': Failed to load value '{value}'");
    values.get(name).map(|value| value.parse().map_err(|_| failed(value))).transpose()
}

/// What this master says of itself (its MasterInfo), and what it knows of all.
struct Master {
    info: String,
    started: Instant,
    view: Mutex<View>,
}

#[derive(Default)]
struct View {
    elected: bool,
    recovered: bool,
    leader: Option<String>,
    /// The agents that a test gave, separated by commas.
    given: String,
    /// The agents that registered, by their pid, and the time of the last registration.
    agents: BTreeMap<String, (String, Instant)>,
}

impl View {
    fn slaves(&mut self) -> String {
        self.agents.retain(|_, (_, heard)| heard.elapsed() < AGENT_TIMEOUT);
        let all = iter::once(&self.given).chain(self.agents.values().map(|(agent, _)| agent));
        format!("[{}]", all.filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join(","))
    }
}

impl Master {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of the leader's MasterInfo. A leader that is it no more ends.
    fn see(&self, leader: Option<&String>, candidates: usize, quorum: usize) {
        let mut view = self.view();
        let (elected, recovered) = (leader == Some(&self.info), candidates >= quorum);
        if view.leader.as_ref() != leader {
            log("INFO", &format!("The newly elected leader is {}", leader.map_or("None", String::as_str)));
        }
        if view.elected && !elected {
            end("Lost leadership... committing suicide!");
        } else if elected && (!view.elected || recovered != view.recovered) {
            let not = if recovered { "" } else { "not " };
            log("INFO", &format!("Elected as the leading master! It is {not}recovered, {candidates} of {quorum}"));
        }
        (view.elected, view.recovered, view.leader) = (elected, recovered, leader.cloned());
    }

    fn contend(&self, flags: &Flags, connection: &mut Connection) -> Result<Infallible, Error> {
        loop {
            let infos = connection.candidates(&flags.path)?;
            if let Some(bad) = infos.first().filter(|info| address_of(info).is_none()) {
                return Err(Error::Ended(format!("Failed to detect the leading master: Failed to parse '{bad}'")));
            }
            self.see(infos.first(), infos.len(), flags.quorum.get());
            // Its info has its id, so this also finds what a connection made that was lost.
            if infos.contains(&self.info) {
                connection.wait()?;
            } else {
                connection.create(&format!("{}/{LABEL}", flags.path), &self.info, true)?;
            }
        }
    }

    fn respond(&self, method: &str, target: &str, body: &str) -> Answer {
        let json = |body| Answer::json("200 OK", body);
        // Asked before others have to wait for the lock.
        let reachable = method == "POST" && field(body, "pid").is_some_and(address::is_reachable);
        let mut view = self.view();
        let serves = view.elected && view.recovered;
        let slaves = view.slaves();
        match (method, target.split('?').next().unwrap_or_default()) {
            ("GET", "/health") => Answer::plain("200 OK", ""),
            ("GET", "/metrics/snapshot") => {
                let (uptime, elected) = (self.started.elapsed().as_secs_f64(), u8::from(serves));
                let active = if serves { count(&slaves) } else { 0 };
                // Mesos, too, escapes the slashes.
                let first = format!(r#""master\/elected":{elected}.0,"master\/slaves_active":{active}.0"#);
                json(format!(r#"{{{first},"master\/uptime_secs":{uptime:?}}}"#))
            }
            ("GET", "/slaves") if serves => json(format!(r#"{{"slaves":{slaves},"recovered_slaves":[]}}"#)),
            ("GET", "/state") if serves => {
                let (info, active) = (self.info.trim_end_matches('}'), count(&slaves));
                json(format!(r#"{info},"activated_slaves":{active}.0,"slaves":{slaves},"frameworks":[]}}"#))
            }
            ("POST", "/stand-in/offers") if serves => {
                json(format!(r#"{{"slaves":{}}}"#, if reachable { slaves } else { "[]".into() }))
            }
            ("GET", "/slaves" | "/state") | ("POST", "/stand-in/offers") => {
                match view.leader.as_deref().and_then(address_of) {
                    Some(_) if view.elected => {
                        Answer::plain("503 Service Unavailable", "Master has not finished recovery")
                    }
                    Some(to) => {
                        let location = format!("Location: //{to}{target}\r\n");
                        Answer("307 Temporary Redirect".to_owned(), location, String::new())
                    }
                    None => Answer::plain("503 Service Unavailable", "No leader elected"),
                }
            }
            ("POST", "/stand-in/slaves") => {
                if let Some(given) = body.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                    view.given = given.trim().to_owned();
                } else if let Some(pid) = field(body, "pid").filter(|_| body.starts_with('{') && body.ends_with('}')) {
                    if !serves {
                        return Answer::plain("503 Service Unavailable", "Not the leading master");
                    }
                    if reachable {
                        view.agents.insert(pid.to_owned(), (body.to_owned(), Instant::now()));
                    }
                } else {
                    return Answer::plain("400 Bad Request", "Expecting a JSON array, or an agent");
                }
                Answer::plain("200 OK", "")
            }
            _ => Answer::plain("404 Not Found", ""),
        }
    }
}

/// How many objects are in a JSON array, if no text has braces.
fn count(array: &str) -> usize {
    let mut depth = 0;
    let step = |c: &char| {
        depth += i32::from(*c == '{') - i32::from(*c == '}');
        *c == '{' && depth == 1
    };
    array.chars().filter(step).count()
}
