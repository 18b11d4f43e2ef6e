//! A stand-in for the Mesos master 1.0.1, for tests, where the real one is not to be had.
//!
//! As the real one does, it takes its flags (those in `KNOWN`), makes its directories,
//! holds a session with ZooKeeper, contends with a `json.info_` node, follows the leader
//! and redirects to it, and ends when it leads and loses that. Unlike the real one it has
//! no replicated log: a leader counts as recovered while at least `--quorum` masters
//! contend. It also ends when it follows and its session expires, takes no flags from its
//! environment, and refuses arguments that are no flags. It knows of no agents but those
//! that a test gives it: `POST /stand-in/slaves` with a JSON array.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::num::{NonZeroU16, NonZeroUsize};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{env, process, thread};

const KNOWN: [&str; 8] = ["zk", "work_dir", "quorum", "log_dir", "logging_level", "ip", "hostname", "port"];
const LEVELS: [&str; 3] = ["INFO", "WARNING", "ERROR"];
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);
const SIZE_LIMIT: u32 = 16 << 20;
const LABEL: &str = "json.info_";

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(status: i32) -> !;
}

/// For process 1 the default action is none. As in the real one, the session stays open.
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
    let mut session = Session { id: 0, password: vec![0; 16], zxid: 0, timeout: SESSION_TIMEOUT, lost: Instant::now() };
    let mut told: BTreeMap<&str, (String, Instant)> = BTreeMap::new();
    for server in flags.servers.iter().cycle() {
        let Err(why) = Connection::open(server, &flags, &master, &mut session).and_then(|mut connection| {
            log("INFO", &format!("Connected to ZooKeeper {server}, session 0x{:x}", connection.session.id));
            told.clear();
            let ended = connection.contend();
            connection.session.lost = Instant::now();
            ended
        }) else {
            continue;
        };
        let why = why.to_string();
        if told.get(server.as_str()).is_none_or(|(last, at)| *last != why || at.elapsed() > SESSION_TIMEOUT) {
            log("WARNING", &format!("No connection to ZooKeeper {server}: {why}"));
            told.insert(server, (why, Instant::now()));
        }
        if session.lost.elapsed() > session.timeout && master.view().leader.is_some() {
            log("WARNING", &format!("ZooKeeper session 0x{:x} timed out", session.id));
            master.see(None, 0, 1);
        }
        thread::sleep(RETRY);
    }
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
    thread::spawn(move || listen(&listener, &served));
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
        let (servers, path) = parse_zk(zk).map_err(|e| format!("Error parsing ZooKeeper URL '{zk}': {e}"))?;
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

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

fn parse_zk(url: &str) -> Result<(Vec<String>, String), String> {
    let rest = url.strip_prefix("zk://").ok_or("Expecting 'zk://' at the beginning of the URL")?;
    let no_path = "Expecting a (chroot) path for ZooKeeper ('/' is not supported)";
    let (servers, path) = rest.split_once('/').filter(|(_, path)| !path.is_empty()).ok_or(no_path)?;
    if path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(format!("'/{path}' is not a path of a node"));
    }
    let is_port = |port: &str| port.parse::<NonZeroU16>().is_ok();
    let is_server = |server: &&str| server.split_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port));
    match servers.split(',').find(|server| !is_server(server)) {
        Some(bad) => Err(format!("Expecting host:port and not '{bad}'")),
        None => Ok((servers.split(',').map(str::to_owned).collect(), format!("/{path}"))),
    }
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
    slaves: Option<String>,
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
}

fn address_of(info: &str) -> Option<String> {
    let field = |name: &str| {
        let (_, rest) = info.split_once(&format!("\"{name}\":"))?;
        rest.split(['"', ',', '}']).find(|part| !part.trim().is_empty())
    };
    let (hostname, port) = (field("hostname")?, field("port")?.trim().parse::<u16>().ok()?);
    is_host(hostname).then(|| format!("{hostname}:{port}"))
}

// ZooKeeper: the session, its connections, and the election. With an error a connection is over.

struct Session {
    id: i64,
    password: Vec<u8>,
    zxid: i64,
    timeout: Duration,
    /// When the last connection was.
    lost: Instant,
}

// Of ZooKeeper's protocol: operations, errors, and what the others have in place of a request's number.
const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const PING: i32 = 11;
const GET_CHILDREN2: i32 = 12;
const CLOSE: i32 = -11;
const NO_NODE: i64 = -101;
const NODE_EXISTS: i64 = -110;
const SESSION_MOVED: i64 = -118;
const WATCH_XID: i64 = -1;
const PING_XID: i32 = -2;

fn buffer(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

/// What is left of a reply.
struct Reply(Vec<u8>);

impl Reply {
    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if self.0.len() < length { Err(ErrorKind::InvalidData.into()) } else { Ok(self.0.drain(..length).collect()) }
    }

    fn number(&mut self, bytes: usize) -> io::Result<i64> {
        let unused = 64 - 8 * bytes;
        Ok(self.take(bytes)?.iter().fold(0, |n, byte| n << 8 | i64::from(*byte)) << unused >> unused)
    }

    /// The length of none is -1.
    fn buffer(&mut self) -> io::Result<Vec<u8>> {
        let length = self.number(4)?;
        self.take(usize::try_from(length).unwrap_or(0))
    }

    fn text(&mut self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.buffer()?).into_owned())
    }
}

struct Connection<'a> {
    flags: &'a Flags,
    master: &'a Master,
    session: &'a mut Session,
    stream: TcpStream,
    heard: Instant,
    sent: Instant,
    xid: i32,
    changed: bool,
}

impl<'a> Connection<'a> {
    /// Begins the session, or goes on with it.
    fn open(server: &str, flags: &'a Flags, master: &'a Master, session: &'a mut Session) -> io::Result<Self> {
        let patience = (session.timeout / flags.servers.len() as u32).clamp(RETRY, Duration::from_secs(3));
        let address = server.to_socket_addrs()?.find(SocketAddr::is_ipv4).ok_or(ErrorKind::AddrNotAvailable)?;
        let (stream, now) = (TcpStream::connect_timeout(&address, patience)?, Instant::now());
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut request = [0_i32.to_be_bytes().as_slice(), &session.zxid.to_be_bytes()].concat();
        request.extend((SESSION_TIMEOUT.as_millis() as i32).to_be_bytes());
        request.extend([&session.id.to_be_bytes(), buffer(&session.password).as_slice(), &[0]].concat());

        let mut connection =
            Connection { flags, master, session, stream, heard: now, sent: now, xid: 0, changed: false };
        connection.send(&request)?;
        let mut reply = connection.frame()?.ok_or(ErrorKind::TimedOut)?;
        connection.stream.set_read_timeout(Some(RETRY))?;
        let (_version, timeout) = (reply.number(4)?, reply.number(4)?);
        let (id, password) = (reply.number(8)?, reply.buffer()?);
        if timeout <= 0 {
            log("ERROR", &format!("ZooKeeper session 0x{:x} expired", connection.session.id));
            master.see(None, 0, 1);
            process::exit(1);
        }
        let timeout = Duration::from_millis(timeout as u64);
        *connection.session = Session { id, password, timeout, ..*connection.session };
        Ok(connection)
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.sent = Instant::now();
        self.stream.write_all(&buffer(request))
    }

    /// `None`: nothing comes for now.
    fn frame(&mut self) -> io::Result<Option<Reply>> {
        let mut head = [0; 4];
        match self.stream.peek(&mut head) {
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            peeked => peeked?,
        };
        self.stream.read_exact(&mut head)?;
        let length = Some(u32::from_be_bytes(head)).filter(|l| *l < SIZE_LIMIT).ok_or(ErrorKind::InvalidData)?;
        let mut frame = vec![0; length as usize];
        self.stream.read_exact(&mut frame)?;
        self.heard = Instant::now();
        Ok(Some(Reply(frame)))
    }

    /// Keeps the session alive, and takes the next reply, if there is one: its `xid`, error and body.
    fn reply(&mut self) -> io::Result<Option<(i64, i64, Reply)>> {
        if self.heard.elapsed() > self.session.timeout * 2 / 3 {
            return Err(ErrorKind::TimedOut.into());
        }
        if self.sent.elapsed() > self.session.timeout / 3 {
            self.send(&[PING_XID.to_be_bytes(), PING.to_be_bytes()].concat())?;
        }
        let Some(mut reply) = self.frame()? else { return Ok(None) };
        let (xid, zxid, error) = (reply.number(4)?, reply.number(8)?, reply.number(4)?);
        self.session.zxid = self.session.zxid.max(zxid);
        self.changed |= xid == WATCH_XID;
        Ok(Some((xid, error, reply)))
    }

    /// `None`: there is no such node, or there is one already.
    fn call(&mut self, operation: i32, body: &[u8]) -> io::Result<Option<Reply>> {
        self.xid += 1;
        self.send(&[&self.xid.to_be_bytes(), &operation.to_be_bytes(), body].concat())?;
        loop {
            let Some((xid, error, reply)) = self.reply()? else { continue };
            match error {
                _ if xid != i64::from(self.xid) => {}
                0 => return Ok(Some(reply)),
                NO_NODE | NODE_EXISTS => return Ok(None),
                SESSION_MOVED => return Err(io::Error::other("the session moved")),
                _ => self.close(&format!("ZooKeeper operation {operation} failed: error {error}")),
            }
        }
    }

    fn close(&mut self, why: &str) -> ! {
        let _ = self.send(&[self.xid.to_be_bytes(), CLOSE.to_be_bytes()].concat()).and_then(|()| self.frame());
        end(why)
    }

    /// Creates it persistent, or as a candidate's, ephemeral and with a number.
    fn create(&mut self, path: &str, data: &str, candidate: bool) -> io::Result<()> {
        let mut body = [buffer(path.as_bytes()), buffer(data.as_bytes())].concat();
        let (entries, all_permissions, kind) = (1_i32, 31_i32, if candidate { 3_i32 } else { 0 });
        body.extend([entries.to_be_bytes(), all_permissions.to_be_bytes()].concat());
        body.extend([buffer(b"world"), buffer(b"anyone"), kind.to_be_bytes().to_vec()].concat());
        self.call(CREATE, &body).map(|_| ())
    }

    /// Sets a watch, too.
    fn children(&mut self, path: &str) -> io::Result<Option<Vec<String>>> {
        let reply = self.call(GET_CHILDREN2, &[&buffer(path.as_bytes()), [1].as_slice()].concat())?;
        let Some(mut reply) = reply else { return Ok(None) };
        (0..reply.number(4)?).map(|_| reply.text()).collect::<Result<_, _>>().map(Some)
    }

    fn data(&mut self, path: &str) -> io::Result<Option<String>> {
        let reply = self.call(GET_DATA, &[&buffer(path.as_bytes()), [0].as_slice()].concat())?;
        reply.map(|mut reply| reply.text()).transpose()
    }

    fn contend(&mut self) -> io::Result<()> {
        let (flags, master) = (self.flags, self.master);
        loop {
            self.changed = false;
            let Some(mut names) = self.children(&flags.path)? else {
                for (end, _) in flags.path.match_indices('/').skip(1).chain([(flags.path.len(), "")]) {
                    self.create(&flags.path[..end], "", false)?;
                }
                continue;
            };
            names.retain(|name| name.strip_prefix(LABEL).is_some_and(|number| number.parse::<i32>().is_ok()));
            names.sort();
            let mut infos = Vec::new();
            for name in names {
                infos.extend(self.data(&format!("{}/{name}", flags.path))?);
            }
            if let Some(bad) = infos.first().filter(|info| address_of(info).is_none()) {
                self.close(&format!("Failed to detect the leading master: Failed to parse '{bad}'"));
            }
            master.see(infos.first(), infos.len(), flags.quorum.get());
            // Its info has its id, so this also finds what a connection made that was lost.
            if !infos.contains(&master.info) {
                self.create(&format!("{}/{LABEL}", flags.path), &master.info, true)?;
                continue;
            }
            while !self.changed {
                self.reply()?;
            }
        }
    }
}

// HTTP.

fn listen(listener: &TcpListener, master: &Arc<Master>) {
    for stream in listener.incoming() {
        let master = Arc::clone(master);
        let spawned = stream.and_then(|stream| thread::Builder::new().spawn(move || answer(&stream, &master)));
        if spawned.is_err() {
            thread::sleep(RETRY);
        }
    }
}

fn answer(mut stream: &TcpStream, master: &Master) -> io::Result<()> {
    stream.set_read_timeout(Some(HTTP_TIMEOUT))?;
    stream.set_write_timeout(Some(HTTP_TIMEOUT))?;
    let mut lines = BufReader::new(stream.take(u64::from(SIZE_LIMIT)));
    let (mut first, mut line, mut length, mut body) = (String::new(), String::new(), 0, String::new());
    lines.read_line(&mut first)?;
    while lines.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    lines.take(length).read_to_string(&mut body)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, header, body) = master.respond(method, target, body.trim());
    let rest = format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(format!("HTTP/1.1 {status}\r\n{header}{rest}").as_bytes())
}

impl Master {
    /// The status, a header line, and the body.
    fn respond(&self, method: &str, target: &str, body: &str) -> (&str, String, String) {
        let plain = |status, body: &str| (status, String::new(), body.to_owned());
        let json = |body| ("200 OK", "Content-Type: application/json\r\n".to_owned(), body);
        let mut view = self.view();
        let serves = view.elected && view.recovered;
        let slaves = view.slaves.as_deref().unwrap_or("[]");
        match (method, target.split('?').next().unwrap_or_default()) {
            ("GET", "/health") => plain("200 OK", ""),
            ("GET", "/metrics/snapshot") => {
                let (uptime, elected) = (self.started.elapsed().as_secs_f64(), u8::from(serves));
                let active = if serves { count(slaves) } else { 0 };
                // Mesos, too, escapes the slashes.
                let first = format!(r#""master\/elected":{elected}.0,"master\/slaves_active":{active}.0"#);
                json(format!(r#"{{{first},"master\/uptime_secs":{uptime:?}}}"#))
            }
            ("GET", "/slaves") if serves => json(format!(r#"{{"slaves":{slaves},"recovered_slaves":[]}}"#)),
            ("GET", "/state") if serves => {
                let (info, active) = (self.info.trim_end_matches('}'), count(slaves));
                json(format!(r#"{info},"activated_slaves":{active}.0,"slaves":{slaves},"frameworks":[]}}"#))
            }
            ("GET", "/slaves" | "/state") => match view.leader.as_deref().and_then(address_of) {
                Some(_) if view.elected => plain("503 Service Unavailable", "Master has not finished recovery"),
                Some(to) => ("307 Temporary Redirect", format!("Location: //{to}{target}\r\n"), String::new()),
                None => plain("503 Service Unavailable", "No leader elected"),
            },
            ("POST", "/stand-in/slaves") if body.starts_with('[') && body.ends_with(']') => {
                view.slaves = Some(body.to_owned());
                plain("200 OK", "")
            }
            ("POST", "/stand-in/slaves") => plain("400 Bad Request", "Expecting a JSON array"),
            _ => plain("404 Not Found", ""),
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
