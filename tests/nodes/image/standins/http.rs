//! HTTP, as far as the stand-ins need it: one request a connection, bodies of a known length.
#![allow(dead_code)] // No program uses all of it.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
const SIZE_LIMIT: u64 = 16 << 20;

/// Status, header lines (each with its end), and body.
pub struct Answer(pub String, pub String, pub String);

impl Answer {
    pub fn plain(status: &str, body: &str) -> Answer {
        Answer(status.to_owned(), String::new(), body.to_owned())
    }

    pub fn json(status: &str, body: String) -> Answer {
        Answer(status.to_owned(), "Content-Type: application/json\r\n".to_owned(), body)
    }
}

/// Answers requests forever: `respond` gets the method, target and body of each.
pub fn serve(listener: &TcpListener, respond: impl Fn(&str, &str, &str) -> Answer + Send + Sync + 'static) -> ! {
    let respond = Arc::new(respond);
    loop {
        let respond = Arc::clone(&respond);
        let spawned =
            listener.accept().and_then(|(stream, _)| thread::Builder::new().spawn(move || answer(&stream, &*respond)));
        if spawned.is_err() {
            thread::sleep(PAUSE);
        }
    }
}

fn answer(mut stream: &TcpStream, respond: &impl Fn(&str, &str, &str) -> Answer) -> io::Result<()> {
    let (first, _, body) = receive(stream, TIMEOUT)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let Answer(status, header, body) = respond(method, target, body.trim());
    let rest = format!("Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    stream.write_all(format!("HTTP/1.1 {status}\r\n{header}{rest}").as_bytes())
}

/// The first line, the header lines, and the body.
fn receive(stream: &TcpStream, patience: Duration) -> io::Result<(String, String, String)> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut lines = BufReader::new(stream.take(SIZE_LIMIT));
    let (mut first, mut header, mut length, mut body) = (String::new(), String::new(), 0, String::new());
    lines.read_line(&mut first)?;
    loop {
        let start = header.len();
        if lines.read_line(&mut header)? == 0 || header[start..].trim_end().is_empty() {
            break;
        }
        if let Some(value) = header[start..].to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    lines.take(length).read_to_string(&mut body)?;
    Ok((first, header, body))
}

/// A connection to `host:port`.
pub fn connect(address: &str) -> io::Result<TcpStream> {
    let found = address.to_socket_addrs()?.find(SocketAddr::is_ipv4).ok_or(ErrorKind::AddrNotAvailable)?;
    TcpStream::connect_timeout(&found, CONNECT_TIMEOUT)
}

/// Asks what is at the other end of a connection to `address`.
pub fn ask(stream: &TcpStream, address: &str, method: &str, target: &str, body: &str) -> io::Result<Answer> {
    ask_within(TIMEOUT, stream, address, method, target, body)
}

/// As [`ask`], with a limit for the answer.
pub fn ask_within(
    patience: Duration,
    mut stream: &TcpStream,
    address: &str,
    method: &str,
    target: &str,
    body: &str,
) -> io::Result<Answer> {
    let header = format!("Host: {address}\r\nContent-Length: {}\r\nConnection: close", body.len());
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(format!("{method} {target} HTTP/1.1\r\n{header}\r\n\r\n{body}").as_bytes())?;
    let (first, header, body) = receive(stream, patience)?;
    let (_, status) = first.trim_end().split_once(' ').ok_or(ErrorKind::UnexpectedEof)?;
    Ok(Answer(status.to_owned(), header, body))
}
