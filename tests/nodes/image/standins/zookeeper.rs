//! A client of ZooKeeper, as far as the stand-ins need one: a session that outlives its
//! connections, nodes, and the election of Mesos's masters. With an error a connection is over.
#![allow(dead_code)] // No program uses all of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::num::NonZeroU16;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::json::field;

/// How long what failed is left alone.
pub const RETRY: Duration = Duration::from_millis(200);
/// What the names of the masters' nodes begin with; a number follows, and the lowest leads.
pub const LABEL: &str = "json.info_";
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const SIZE_LIMIT: u32 = 16 << 20;

// ZooKeeper's protocol: operations, errors, and the special values that replace a request's number.
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

/// The servers, and the node's path, of `zk://host:port,…/path`.
pub fn parse(url: &str) -> Result<(Vec<String>, String), String> {
    let rest = url.strip_prefix("zk://").ok_or("Expecting 'zk://' at the beginning of the URL")?;
    let no_path = "Expecting a (chroot) path for ZooKeeper ('/' is not supported)";
    let (servers, path) = rest.split_once('/').filter(|(_, path)| !path.is_empty()).ok_or(no_path)?;
    if path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
        return Err(format!("'/{path}' is not a path of a node"));
    }
    match servers.split(',').find(|server| !is_address(server)) {
        Some(bad) => Err(format!("Expecting host:port and not '{bad}'")),
        None => Ok((servers.split(',').map(str::to_owned).collect(), format!("/{path}"))),
    }
}

/// Whether it is `host:port`.
pub fn is_address(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<NonZeroU16>().is_ok())
}

/// Whether it can be a host's name or IPv4 address.
pub fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

/// The address in a master's MasterInfo.
pub fn address_of(info: &str) -> Option<String> {
    let address = format!("{}:{}", field(info, "hostname")?, field(info, "port")?);
    is_address(&address).then_some(address)
}

/// Why a connection is over.
pub enum Error {
    /// The session goes on with another one.
    Lost(io::Error),
    /// The session is over, too.
    Ended(String),
}

impl<T: Into<io::Error>> From<T> for Error {
    fn from(why: T) -> Error {
        Error::Lost(why.into())
    }
}

pub struct Session {
    pub id: i64,
    password: Vec<u8>,
    zxid: i64,
    timeout: Duration,
    /// When the last connection was.
    lost: Instant,
}

impl Session {
    pub fn timed_out(&self) -> bool {
        self.lost.elapsed() > self.timeout
    }
}

/// Holds a session with one server after the other, and does `work` on each connection.
/// After each that is lost, or not made, `lost` checks the session.
/// Returns why the session ended.
pub fn hold(
    servers: &[String],
    log: impl Fn(&str, &str),
    mut lost: impl FnMut(&Session),
    mut work: impl FnMut(&mut Connection) -> Result<Infallible, Error>,
) -> String {
    let mut session = Session { id: 0, password: vec![0; 16], zxid: 0, timeout: SESSION_TIMEOUT, lost: Instant::now() };
    let mut logged: BTreeMap<&str, (String, Instant)> = BTreeMap::new();
    for server in servers.iter().cycle() {
        let Err(error) = Connection::open(server, servers.len(), &mut session).and_then(|mut connection| {
            log("INFO", &format!("Connected to ZooKeeper {server}, session 0x{:x}", connection.session.id));
            logged.clear();
            let ended = work(&mut connection);
            if let Err(Error::Ended(_)) = ended {
                connection.close();
            }
            connection.session.lost = Instant::now();
            ended
        });
        let why = match error {
            Error::Lost(why) => why.to_string(),
            Error::Ended(why) => return why,
        };
        if logged.get(server.as_str()).is_none_or(|(last, at)| *last != why || at.elapsed() > SESSION_TIMEOUT) {
            log("WARNING", &format!("No connection to ZooKeeper {server}: {why}"));
            logged.insert(server, (why, Instant::now()));
        }
        lost(&session);
        thread::sleep(RETRY);
    }
    "There are no servers".into()
}

/// Follows the leading Mesos master forever, and logs nothing: `leader` gets its address.
pub fn follow(servers: &[String], path: &str, leader: &Mutex<Option<String>>) -> ! {
    loop {
        let quiet = |_: &str, _: &str| {};
        hold(
            servers,
            quiet,
            |_| {},
            |connection| {
                loop {
                    let found = connection.candidates(path)?.first().and_then(|info| address_of(info));
                    if let Ok(mut leader) = leader.lock() {
                        *leader = found;
                    }
                    connection.wait()?;
                }
            },
        );
        thread::sleep(RETRY);
    }
}

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

pub struct Connection<'a> {
    session: &'a mut Session,
    stream: TcpStream,
    heard: Instant,
    sent: Instant,
    xid: i32,
    changed: bool,
}

impl<'a> Connection<'a> {
    /// Begins the session, or goes on with it.
    fn open(server: &str, servers: usize, session: &'a mut Session) -> Result<Self, Error> {
        let patience = (session.timeout / servers as u32).clamp(RETRY, Duration::from_secs(3));
        let address = server.to_socket_addrs()?.find(SocketAddr::is_ipv4).ok_or(ErrorKind::AddrNotAvailable)?;
        let (stream, now) = (TcpStream::connect_timeout(&address, patience)?, Instant::now());
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut request = [0_i32.to_be_bytes().as_slice(), &session.zxid.to_be_bytes()].concat();
        request.extend((SESSION_TIMEOUT.as_millis() as i32).to_be_bytes());
        request.extend([&session.id.to_be_bytes(), buffer(&session.password).as_slice(), &[0]].concat());

        let mut connection = Connection { session, stream, heard: now, sent: now, xid: 0, changed: false };
        connection.send(&request)?;
        let mut reply = connection.frame()?.ok_or(ErrorKind::TimedOut)?;
        connection.stream.set_read_timeout(Some(RETRY))?;
        let (_version, timeout) = (reply.number(4)?, reply.number(4)?);
        let (id, password) = (reply.number(8)?, reply.buffer()?);
        if timeout <= 0 {
            return Err(Error::Ended(format!("ZooKeeper session 0x{:x} expired", connection.session.id)));
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
    fn call(&mut self, operation: i32, body: &[u8]) -> Result<Option<Reply>, Error> {
        self.xid += 1;
        self.send(&[&self.xid.to_be_bytes(), &operation.to_be_bytes(), body].concat())?;
        loop {
            let Some((xid, error, reply)) = self.reply()? else { continue };
            match error {
                _ if xid != i64::from(self.xid) => {}
                0 => return Ok(Some(reply)),
                NO_NODE | NODE_EXISTS => return Ok(None),
                SESSION_MOVED => return Err(io::Error::other("the session moved").into()),
                _ => return Err(Error::Ended(format!("ZooKeeper operation {operation} failed: error {error}"))),
            }
        }
    }

    fn close(&mut self) {
        let _ = self.send(&[self.xid.to_be_bytes(), CLOSE.to_be_bytes()].concat()).and_then(|()| self.frame());
    }

    /// Creates it persistent, or as a candidate's, ephemeral and with a number.
    pub fn create(&mut self, path: &str, data: &str, candidate: bool) -> Result<(), Error> {
        let mut body = [buffer(path.as_bytes()), buffer(data.as_bytes())].concat();
        let (entries, all_permissions, kind) = (1_i32, 31_i32, if candidate { 3_i32 } else { 0 });
        body.extend([entries.to_be_bytes(), all_permissions.to_be_bytes()].concat());
        body.extend([buffer(b"world"), buffer(b"anyone"), kind.to_be_bytes().to_vec()].concat());
        self.call(CREATE, &body).map(|_| ())
    }

    /// Sets a watch, too.
    fn children(&mut self, path: &str) -> Result<Option<Vec<String>>, Error> {
        let reply = self.call(GET_CHILDREN2, &[&buffer(path.as_bytes()), [1].as_slice()].concat())?;
        let Some(mut reply) = reply else { return Ok(None) };
        (0..reply.number(4)?).map(|_| Ok(reply.text()?)).collect::<Result<_, _>>().map(Some)
    }

    fn data(&mut self, path: &str) -> Result<Option<String>, Error> {
        let reply = self.call(GET_DATA, &[&buffer(path.as_bytes()), [0].as_slice()].concat())?;
        Ok(reply.map(|mut reply| reply.text()).transpose()?)
    }

    /// The names of a node's children. The node is created if need be, with those above it.
    pub fn list(&mut self, path: &str) -> Result<Vec<String>, Error> {
        loop {
            self.changed = false;
            if let Some(names) = self.children(path)? {
                return Ok(names);
            }
            for (end, _) in path.match_indices('/').skip(1).chain([(path.len(), "")]) {
                self.create(&path[..end], "", false)?;
            }
        }
    }

    /// What the Mesos masters say of themselves, the leader first.
    pub fn candidates(&mut self, path: &str) -> Result<Vec<String>, Error> {
        let mut names = self.list(path)?;
        names.retain(|name| name.strip_prefix(LABEL).is_some_and(|number| number.parse::<i32>().is_ok()));
        names.sort();
        let mut infos = Vec::new();
        for name in names {
            infos.extend(self.data(&format!("{path}/{name}"))?);
        }
        Ok(infos)
    }

    /// Holds the connection until what was listed last changes.
    pub fn wait(&mut self) -> Result<(), Error> {
        while !self.changed {
            self.reply()?;
        }
        Ok(())
    }
}
