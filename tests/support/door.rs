//! A listener whose connections are served on threads of their own, one request of HTTP/1.1 after another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen as listen_at, socket,
};

use super::sigv4::Request;

/// Before another try.
const PAUSE: Duration = Duration::from_millis(10);

/// A server that accepts every client until this is dropped.
pub struct Door {
    socket: TcpStream,
    streams: Arc<Mutex<Streams>>,
    end: Box<dyn Fn() + Send + Sync>,
}

#[derive(Default)]
struct Streams {
    /// The number of connections so far.
    admitted: usize,
    /// Those that are open, by their numbers.
    open: BTreeMap<usize, TcpStream>,
    closed: bool,
}

impl Door {
    /// `converse` serves a connection to its end; `end` wakes waiting connections when this is dropped.
    pub fn open(
        listener: TcpListener,
        converse: impl Fn(&TcpStream) -> io::Result<()> + Send + Sync + 'static,
        end: impl Fn() + Send + Sync + 'static,
    ) -> Door {
        // The listening socket under another name, which can be shut down while a thread accepts.
        let socket = TcpStream::from(OwnedFd::from(listener.try_clone().unwrap()));
        let streams = Arc::<Mutex<Streams>>::default();
        let (admitted, converse) = (Arc::clone(&streams), Arc::new(converse));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    if lock(&admitted).closed {
                        break;
                    }
                    // Such as a client that has gone, or too many open files for a moment.
                    thread::sleep(PAUSE);
                    continue;
                };
                let (admitted, converse) = (Arc::clone(&admitted), Arc::clone(&converse));
                thread::spawn(move || {
                    let Some(number) = admit(&admitted, &stream) else { return };
                    // An error here means that the client went away.
                    let _ = converse(&stream);
                    let _ = stream.shutdown(Shutdown::Both);
                    lock(&admitted).open.remove(&number);
                });
            }
        });
        Door { socket, streams, end: Box::new(end) }
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        lock(&self.streams).admitted
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({:?})", self.socket)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut streams = lock(&self.streams);
        streams.closed = true;
        // After that, so that the thread that accepts knows the reason for its error.
        let _ = self.socket.shutdown(Shutdown::Both);
        for stream in streams.open.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(streams);
        (self.end)();
    }
}

fn lock(streams: &Mutex<Streams>) -> MutexGuard<'_, Streams> {
    streams.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Remembers a connection, to end it with the service; `None` if that has ended, or if too many files are open.
fn admit(streams: &Mutex<Streams>, stream: &TcpStream) -> Option<usize> {
    let mut streams = lock(streams);
    streams.admitted += 1;
    let number = streams.admitted;
    if streams.closed {
        return None;
    }
    streams.open.insert(number, stream.try_clone().ok()?);
    Some(number)
}

/// A listener at this port, or at any free one for 0. Waits while another test, or another run of the tests, has the port.
pub fn listen(port: u16) -> TcpListener {
    let waits = Instant::now() + Duration::from_secs(60);
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < waits, "127.0.0.1:{port} is not free: {error}"),
        }
        thread::sleep(PAUSE);
    }
}

/// A port that refuses connections, and that no other test gets, until a service comes.
#[derive(Debug)]
pub struct Closed(OwnedFd);

impl Closed {
    /// Any free port. The socket is bound to it and does not listen.
    pub fn new() -> Closed {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        Closed(socket)
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> SocketAddr {
        let address: SockaddrIn = getsockname(self.0.as_raw_fd()).unwrap();
        SocketAddrV4::from(address).into()
    }

    /// Listens from now on.
    pub fn listen(self) -> TcpListener {
        listen_at(&self.0, Backlog::MAXCONN).unwrap();
        TcpListener::from(self.0)
    }
}

/// Answers each request with a status, further header lines, and a body.
pub fn serve_http<Body: AsRef<[u8]>>(
    listener: TcpListener,
    answer: impl Fn(&Request) -> (u16, String, Body) + Send + Sync + 'static,
) -> Door {
    let converse = move |mut stream: &TcpStream| {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            let (status, header, body) = answer(&request);
            let (body, length) = (body.as_ref(), body.as_ref().len());
            write!(stream, "HTTP/1.1 {status} X\r\n{header}Content-Length: {length}\r\n\r\n")?;
            stream.write_all(body)?;
        }
        Ok(())
    };
    Door::open(listener, converse, || ())
}

/// The next request; `None` after the client has closed the connection.
pub fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut request = Request { method, target, ..Request::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}
