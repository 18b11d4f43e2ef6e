//! Znodes, read and written as any client of ZooKeeper does (its protocol is jute: numbers
//! big-endian, strings and requests with their length before them).

use std::io::{Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::node::Node;
use super::services::in_network;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SYNC: i32 = 9;

/// The error of a request for what an earlier request created, whose answer was lost.
const NODE_EXISTS: i32 = -110;

/// Everybody may do everything: one entry, all permissions, `world:anyone`.
const OPEN: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";

/// Creates a znode by the server at `address`, as the node reaches it.
#[track_caller]
pub fn write(node: &Node, address: &str, path: &str, data: &str) {
    let request = [text(path), text(data), OPEN.to_vec(), vec![0; 4]].concat();
    let answer = in_network(node.init, || ask(address, CREATE, &request));
    assert_eq!(answer.unwrap_or_else(|e| panic!("{address}: {e}")).0, 0, "the error of creating {path}");
}

/// A znode's data by the server at `address`, with all that was written before by any server; `None`: there is no such
/// znode, or the server does not serve.
pub fn read(node: &Node, address: &str, path: &str) -> Option<String> {
    let request = [text(path), vec![0]].concat();
    let ask = || {
        let mut session = Session::begin(connect(address)?)?;
        // A follower may lag behind the others.
        session.ask(SYNC, &text("/"))?;
        session.ask(GET_DATA, &request)
    };
    let (error, answer) = in_network(node.init, ask).ok()?;
    let length = i32::from_be_bytes(answer.get(..4)?.try_into().ok()?);
    (error == 0).then(|| String::from_utf8(answer[4..4 + usize::try_from(length).unwrap()].to_vec()).unwrap())
}

/// What the server at `address` answers to four letters.
pub fn four_letters(node: &Node, address: &str, word: &str) -> Option<String> {
    let ask = || -> Result<String> {
        let mut stream = connect(address)?;
        stream.write_all(word.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    in_network(node.init, ask).ok()
}

/// What the server at `address` says of its mode.
pub fn mode(node: &Node, address: &str) -> Option<String> {
    let answer = four_letters(node, address, "srvr")?;
    answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
}

fn text(text: &str) -> Vec<u8> {
    [&i32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

/// One request in a new session: the error, and what follows it.
fn ask(address: &str, operation: i32, request: &[u8]) -> Result<(i32, Vec<u8>)> {
    Session::begin(connect(address)?)?.ask(operation, request)
}

struct Session {
    stream: TcpStream,
}

impl Session {
    fn begin(stream: TcpStream) -> Result<Session> {
        let mut session = Session { stream };
        let timeout = 10_000_i32.to_be_bytes();
        // Protocol, last zxid, timeout, session, and the length of a password of zeros.
        session.send(&[&[0; 12][..], &timeout, &[0; 8], &16_i32.to_be_bytes(), &[0; 16]].concat())?;
        Ok(session)
    }

    fn send(&mut self, request: &[u8]) -> Result<Vec<u8>> {
        self.stream.write_all(&i32::try_from(request.len()).unwrap().to_be_bytes())?;
        self.stream.write_all(request)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    fn ask(&mut self, operation: i32, request: &[u8]) -> Result<(i32, Vec<u8>)> {
        let header = [1_i32.to_be_bytes(), operation.to_be_bytes()].concat();
        let answer = self.send(&[&header[..], request].concat())?;
        let error = i32::from_be_bytes(answer[12..16].try_into().unwrap());
        Ok((error, answer[16..].to_vec()))
    }

    /// Creates a znode, or finds it there; whether it can be read back.
    fn write_and_read(&mut self, path: &str, data: &str) -> Result<bool> {
        let created = self.ask(CREATE, &[text(path), text(data), OPEN.to_vec(), vec![0; 4]].concat())?.0;
        Ok([0, NODE_EXISTS].contains(&created) && self.has(path, data)?)
    }

    fn has(&mut self, path: &str, data: &str) -> Result<bool> {
        let (error, read) = self.ask(GET_DATA, &[text(path), vec![0]].concat())?;
        Ok(error == 0 && read.starts_with(&text(data)))
    }
}

/// A client that writes a znode each 100 ms and reads it back, by whichever server serves.
pub struct Writer {
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    written: Arc<Mutex<Vec<Instant>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins in the network of the process `holder`, with these servers.
    pub fn start(holder: u32, servers: &[String]) -> Writer {
        let mut writer =
            Writer { servers: Arc::default(), written: Arc::default(), ends: Arc::default(), thread: None };
        writer.knows(servers);
        let (servers, written, ends) = (writer.servers.clone(), writer.written.clone(), writer.ends.clone());
        let work = move || {
            let (mut session, mut server) = (None, 0);
            while !ends.load(Ordering::Relaxed) {
                let n = written.lock().unwrap().len();
                let address = servers.lock().unwrap().iter().cycle().nth(server).copied().unwrap();
                let begin = || -> Result<Session> {
                    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
                    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
                    Session::begin(stream)
                };
                let attempt = session.take().map_or_else(begin, Ok);
                let attempt =
                    attempt.and_then(|mut session| Ok((session.write_and_read(&path(n), &n.to_string())?, session)));
                match attempt {
                    Ok((true, kept)) => {
                        session = Some(kept);
                        written.lock().unwrap().push(Instant::now());
                    }
                    _ => server += 1,
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        };
        writer.thread = Some(std::thread::spawn(move || in_network(i32::try_from(holder).unwrap(), work)));
        writer
    }

    /// Names its servers from now on.
    pub fn knows(&self, servers: &[String]) {
        *self.servers.lock().unwrap() = servers.iter().map(|server| server.parse().unwrap()).collect();
    }

    /// How many it has written.
    pub fn count(&self) -> usize {
        self.written.lock().unwrap().len()
    }

    /// The longest time without a write since its write number `from`.
    pub fn longest_gap(&self, from: usize) -> Duration {
        let written = self.written.lock().unwrap();
        let gaps = written[from.saturating_sub(1)..].windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Ends, and asserts that the server at `address`, as the node reaches it, has each znode that was written.
    #[track_caller]
    pub fn all_are_on(&mut self, node: &Node, address: &str) {
        self.end();
        let has_lost = || -> Result<Vec<usize>> {
            let mut session = Session::begin(connect(address)?)?;
            // A follower may lag behind the others.
            session.ask(SYNC, &text("/"))?;
            let mut lost = Vec::new();
            for n in 0..self.count() {
                if !session.has(&path(n), &n.to_string())? {
                    lost.push(n);
                }
            }
            Ok(lost)
        };
        let lost = in_network(node.init, has_lost).unwrap_or_else(|e| panic!("{address}: {e}"));
        assert_eq!(lost, Vec::<usize>::new(), "{address} of {} lacks these of {}", node.address, self.count());
    }

    fn end(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

/// The path of a writer's n-th znode.
fn path(n: usize) -> String {
    format!("/written-{n}")
}
