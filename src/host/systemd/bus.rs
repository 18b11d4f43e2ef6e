//! Method calls to systemd over D-Bus, all sent before the first answer is read.
//!
//! zbus encodes and decodes values; the connection is here, because a wait of the program ends at its deadline or on a
//! signal. See the D-Bus Specification, "Message Protocol" and "Authentication Protocol".

use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, Endian, LE, to_bytes};
use zbus::{ObjectPath, Signature, Type, Variant};

use crate::error::Result;
use crate::host::wait::Deadline;

/// The system bus.
const BUS: &str = "run/dbus/system_bus_socket";

/// The sockets to try in this order, as `systemctl` does: systemd's own, which only root may use and which works early
/// in a boot, too; then the bus.
const SOCKETS: [&str; 2] = ["run/systemd/private", BUS];

/// systemd's name on the bus.
const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The longest message that is read, bytes. The properties of a service are some 20 KiB.
const LONGEST: usize = 4 << 20;

/// The longest line of the authentication, bytes.
const LONGEST_LINE: usize = 1 << 10;

/// The serial of the message that every connection to a bus begins with. Calls have serials from 1.
const HELLO: u32 = u32::MAX;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// The fixed part of a header (byte order, type, flags, version, length of the body, serial), and its fields.
type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);

/// A message that cannot be decoded.
pub(super) const NOT_DBUS: &str = "its answer is not a valid D-Bus message";

/// A method call without its serial.
#[derive(Debug)]
pub(super) struct Call {
    path: String,
    interface: &'static str,
    member: &'static str,
    signature: Signature,
    body: Vec<u8>,
}

impl Call {
    /// A call with one argument.
    pub(super) fn new<T: Serialize + Type + ?Sized>(
        path: String,
        interface: &'static str,
        member: &'static str,
        argument: &T,
    ) -> Call {
        // What is not valid in D-Bus, a text with a NUL, is left out, and systemd refuses the call.
        let body = to_bytes(Context::new(LE, 0), argument).map(|body| body.to_vec());
        Call { path, interface, member, signature: T::SIGNATURE.clone(), body: body.unwrap_or_default() }
    }

    fn encode(&self, serial: u32, destination: Option<&str>) -> Result<Vec<u8>, String> {
        let refused = || format!("{}: {} cannot be called", self.path, self.member);
        let mut fields: Vec<(u8, Variant<'_>)> = vec![
            (PATH, ObjectPath::try_from(self.path.as_str()).map_err(|_| refused())?.into()),
            (INTERFACE, self.interface.into()),
            (MEMBER, self.member.into()),
        ];
        fields.extend(destination.map(|name| (DESTINATION, name.into())));
        if !self.body.is_empty() {
            fields.push((SIGNATURE, self.signature.clone().into()));
        }
        let length = u32::try_from(self.body.len()).map_err(|_| refused())?;
        let header: Header<'_> = (b'l', METHOD_CALL, 0, 1, length, serial, fields);
        let mut message = to_bytes(Context::new(LE, 0), &header).map_err(|_| refused())?.to_vec();
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend_from_slice(&self.body);
        Ok(message)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Body {
    endian: Endian,
    signature: Signature,
    bytes: Vec<u8>,
}

impl Body {
    /// Its value.
    ///
    /// # Errors
    /// Fails when the answer has another type, or is not valid.
    pub(super) fn decode<T: DeserializeOwned + Type>(&self) -> Result<T, String> {
        if *T::SIGNATURE != self.signature {
            return Err(format!("its answer has the D-Bus type {}, not {}", self.signature, T::SIGNATURE));
        }
        let data = Data::new(self.bytes.as_slice(), Context::new(self.endian, 0));
        data.deserialize().map(|(value, _)| value).map_err(|_| NOT_DBUS.to_owned())
    }
}

/// An answer to the call with this serial: its body, or systemd's error.
#[derive(Debug)]
struct Answer {
    serial: u32,
    result: Result<Body, String>,
}

/// Calls that were sent, and the answers that have come.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: UnixStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
    answers: Vec<Option<Body>>,
}

impl Conversation {
    /// Connects to systemd below `root`, and sends these calls.
    ///
    /// The outer error is a signal. The inner one is a message.
    pub(super) fn begin(root: &Path, calls: &[Call], deadline: &mut Deadline) -> Result<Result<Conversation, String>> {
        let user = nix::unistd::geteuid();
        let sockets = if user.is_root() { &SOCKETS[..] } else { &SOCKETS[1..] };
        let connect = |path: &&str| connect(&root.join(path)).map_err(|e| format!("/{path}: {e}"));
        let connected = sockets.iter().try_fold(Vec::new(), |mut failures, path| match connect(path) {
            Ok(socket) => ControlFlow::Break((socket, *path == BUS)),
            Err(why) => {
                failures.push(why);
                ControlFlow::Continue(failures)
            }
        });
        let (socket, is_bus) = match connected {
            ControlFlow::Break(connected) => connected,
            ControlFlow::Continue(failures) => return Ok(Err(failures.join("; "))),
        };
        let answers = calls.iter().map(|_| None).collect();
        let mut conversation = Conversation { socket, unsent: Vec::new(), received: Vec::new(), answers };
        // The number in decimal digits, in hexadecimal.
        let name: String = user.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        conversation.unsent = format!("\0AUTH EXTERNAL {name}\r\nBEGIN\r\n").into_bytes();
        // Calls follow only after this, because an old systemd does not notice a call that it read with BEGIN.
        match conversation.exchange(deadline, |this| this.take_line())? {
            Ok(line) if line.starts_with("OK") => {}
            Ok(line) => return Ok(Err(format!("it refused the connection: {line:?}"))),
            Err(why) => return Ok(Err(why)),
        }
        Ok(conversation.send(calls, is_bus).map(|()| conversation))
    }

    /// Sends what the socket takes now; [`Conversation::end`] sends the rest.
    fn send(&mut self, calls: &[Call], is_bus: bool) -> Result<(), String> {
        let destination = is_bus.then_some(SYSTEMD);
        if is_bus {
            let (path, name) = ("/org/freedesktop/DBus".to_owned(), "org.freedesktop.DBus");
            let hello = Call { path, interface: name, member: "Hello", signature: Signature::Unit, body: Vec::new() };
            self.unsent.extend(hello.encode(HELLO, Some(name))?);
        }
        for (call, serial) in calls.iter().zip(1..) {
            self.unsent.extend(call.encode(serial, destination)?);
        }
        self.write_some()
    }

    /// Waits for the answers, in the order of the calls.
    ///
    /// The outer error is a signal. The inner one is a message.
    pub(super) fn end(mut self, deadline: &mut Deadline) -> Result<Result<Vec<Body>, String>> {
        self.exchange(deadline, |this| {
            while let Some(message) = this.take_message()? {
                this.keep(&message)?;
            }
            Ok(this.answers.iter().all(Option::is_some).then(|| this.answers.drain(..).flatten().collect()))
        })
    }

    /// Sends and receives until `take` finds in `received` what the caller waits for.
    fn exchange<T>(
        &mut self,
        deadline: &mut Deadline,
        mut take: impl FnMut(&mut Conversation) -> Result<Option<T>, String>,
    ) -> Result<Result<T, String>> {
        loop {
            match self.write_some().and_then(|()| self.read_some()).and_then(|came| Ok((came, take(self)?))) {
                Err(why) => return Ok(Err(why)),
                Ok((_, Some(taken))) => return Ok(Ok(taken)),
                Ok((true, None)) => {}
                Ok((false, None)) => {
                    let patience = deadline.poll()?.min(deadline.left());
                    if patience.is_zero() {
                        let limit = humantime::format_duration(deadline.limit());
                        return Ok(Err(format!("it did not answer within {limit}")));
                    }
                    let writes = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
                    let mut socket = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN | writes)];
                    // A signal ends the poll, too.
                    let _ = nix::poll::poll(&mut socket, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO));
                }
            }
        }
    }

    fn write_some(&mut self) -> Result<(), String> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(format!("it closed the connection: {e}")),
            }
        }
        Ok(())
    }

    /// Whether anything came.
    fn read_some(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 65536];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err("it closed the connection".to_owned()),
            Ok(n) => {
                self.received.extend_from_slice(buffer.get(..n).unwrap_or_default());
                Ok(true)
            }
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&e.kind()) => Ok(false),
            Err(e) => Err(format!("it closed the connection: {e}")),
        }
    }

    fn take_line(&mut self) -> Result<Option<String>, String> {
        let Some(end) = self.received.iter().position(|byte| *byte == b'\n') else {
            return if self.received.len() > LONGEST_LINE { Err(NOT_DBUS.to_owned()) } else { Ok(None) };
        };
        let line: Vec<u8> = self.received.drain(..=end).take(LONGEST_LINE).collect();
        Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()))
    }

    fn take_message(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some(length) = message_length(&self.received)? else { return Ok(None) };
        Ok((self.received.len() >= length).then(|| self.received.drain(..length).collect()))
    }

    /// Keeps an answer to one of the calls. Ignores other messages, because systemd sends its signals to everyone.
    fn keep(&mut self, message: &[u8]) -> Result<(), String> {
        let Some(Answer { serial, result }) = parse_answer(message)? else { return Ok(()) };
        let place = usize::try_from(serial).ok().and_then(|serial| self.answers.get_mut(serial.checked_sub(1)?));
        match (place, result) {
            (Some(_), Err(why)) => return Err(why),
            (None, Err(why)) if serial == HELLO => return Err(why),
            (Some(place), Ok(body)) => *place = Some(body),
            (None, _) => {}
        }
        Ok(())
    }
}

fn connect(path: &Path) -> std::io::Result<UnixStream> {
    // std's own connect waits if the listener's queue is full.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

fn endian(message: &[u8]) -> Result<Endian, String> {
    match message.first() {
        Some(b'l') => Ok(LE),
        Some(b'B') => Ok(BE),
        _ => Err(NOT_DBUS.to_owned()),
    }
}

fn number(message: &[u8], at: usize, endian: Endian) -> Option<usize> {
    let bytes = message.get(at..at + 4)?.try_into().ok()?;
    let number = if endian == LE { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
    usize::try_from(number).ok()
}

/// The length of the header with its padding.
fn header_length(message: &[u8], endian: Endian) -> Option<usize> {
    Some((16 + number(message, 12, endian)?.min(LONGEST)).next_multiple_of(8))
}

/// The length of the message that begins here; `None` if too little of it is here.
///
/// # Errors
/// Fails when it is not a message, or is too long.
fn message_length(received: &[u8]) -> Result<Option<usize>, String> {
    if received.is_empty() {
        return Ok(None);
    }
    let endian = endian(received)?;
    let (Some(header), Some(body)) = (header_length(received, endian), number(received, 4, endian)) else {
        return Ok(None);
    };
    let length = header.saturating_add(body);
    if length > LONGEST { Err(format!("its answer has more than {LONGEST} bytes")) } else { Ok(Some(length)) }
}

/// The answer in a message; `None` if the message is something else.
///
/// # Errors
/// Fails when it is not a message.
fn parse_answer(message: &[u8]) -> Result<Option<Answer>, String> {
    let nonsense = || NOT_DBUS.to_owned();
    let endian = endian(message)?;
    let data = Data::new(message, Context::new(endian, 0));
    let ((_, kind, _, _, _, _, fields), _): (Header<'_>, usize) = data.deserialize().map_err(|_| nonsense())?;
    let field = |code: u8| fields.iter().find(|(other, _)| *other == code).map(|(_, value)| value);
    let Some(Variant::U32(serial)) = field(REPLY_SERIAL) else { return Ok(None) };
    let signature = match field(SIGNATURE) {
        Some(Variant::Signature(signature)) => signature.clone(),
        Some(_) => return Err(nonsense()),
        None => Signature::Unit,
    };
    let bytes = header_length(message, endian).and_then(|header| message.get(header..)).ok_or_else(nonsense)?;
    let body = Body { endian, signature, bytes: bytes.to_vec() };
    match kind {
        METHOD_RETURN => Ok(Some(Answer { serial: *serial, result: Ok(body) })),
        ERROR => {
            let why = body.decode().unwrap_or_else(|_| "it gave no reason".to_owned());
            Ok(Some(Answer { serial: *serial, result: Err(why) }))
        }
        _ => Ok(None),
    }
}

/// For [`crate::parsers`]: every message in these bytes.
pub(super) fn parse_answers(mut bytes: &[u8]) -> Vec<Body> {
    let mut found = Vec::new();
    while let Ok(Some(length)) = message_length(bytes)
        && let Some((message, rest)) = bytes.split_at_checked(length)
    {
        if let Ok(Some(Answer { result: Ok(body), .. })) = parse_answer(message) {
            found.push(body);
        }
        bytes = rest;
    }
    found
}

/// systemd's side of a conversation, for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
pub(super) mod fake {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::*;

    const SIGNAL: u8 = 4;

    /// One connection.
    pub struct Peer(UnixStream, Vec<u8>);

    /// How systemd behaves on a connection.
    pub type Script = fn(&mut Peer);

    /// Accepts a connection for each of these, one after another.
    pub fn systemd(root: &Path, scripts: Vec<Script>) -> JoinHandle<()> {
        let path = root.join(BUS);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for script in scripts {
                let (stream, _) = listener.accept().unwrap();
                script(&mut Peer(stream, Vec::new()));
            }
        })
    }

    fn message(endian: Endian, kind: u8, fields: Vec<(u8, Variant<'_>)>, body: &[u8]) -> Vec<u8> {
        let order = if endian == LE { b'l' } else { b'B' };
        let header: Header<'_> = (order, kind, 0, 1, u32::try_from(body.len()).unwrap(), 7, fields);
        let mut message = to_bytes(Context::new(endian, 0), &header).unwrap().to_vec();
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend_from_slice(body);
        message
    }

    /// An answer in this byte order.
    pub fn answer<T: Serialize + Type>(endian: Endian, serial: u32, value: &T) -> Vec<u8> {
        let body = to_bytes(Context::new(endian, 0), value).unwrap();
        let fields = vec![(REPLY_SERIAL, serial.into()), (SIGNATURE, T::SIGNATURE.clone().into())];
        message(endian, METHOD_RETURN, fields, &body)
    }

    impl Peer {
        /// Answers the authentication.
        pub fn accept(&mut self) {
            self.authenticate("OK 1234deadbeef\r\n");
        }

        pub fn authenticate(&mut self, words: &str) {
            let mut asked = Vec::new();
            while !asked.ends_with(b"BEGIN\r\n") {
                let mut byte = [0];
                self.0.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            assert!(asked.starts_with(b"\0AUTH EXTERNAL 3"), "{asked:?}");
            self.write(words.as_bytes());
        }

        /// The next call but for the first of a bus: its serial, object and method.
        pub fn call(&mut self) -> (u32, String, String) {
            loop {
                if let Some(length) = message_length(&self.1).unwrap().filter(|length| self.1.len() >= *length) {
                    let message: Vec<u8> = self.1.drain(..length).collect();
                    let data = Data::new(message, Context::new(LE, 0));
                    let ((_, kind, _, _, _, serial, fields), _): (Header<'_>, usize) = data.deserialize().unwrap();
                    assert_eq!(kind, METHOD_CALL);
                    let text = |code| {
                        fields.iter().find(|(other, _)| *other == code).map(|(_, value)| match value {
                            Variant::ObjectPath(path) => path.to_string(),
                            Variant::Str(text) => text.to_string(),
                            other => panic!("{other:?}"),
                        })
                    };
                    let destination = text(DESTINATION).unwrap();
                    if serial == HELLO {
                        assert_eq!(destination, "org.freedesktop.DBus");
                        continue;
                    }
                    assert_eq!(destination, SYSTEMD);
                    return (serial, text(PATH).unwrap(), text(MEMBER).unwrap());
                }
                let mut buffer = [0; 4096];
                let n = self.0.read(&mut buffer).unwrap();
                assert_ne!(n, 0, "the program closed the connection");
                self.1.extend_from_slice(&buffer[..n]);
            }
        }

        pub fn answer<T: Serialize + Type>(&mut self, serial: u32, value: &T) {
            self.write(&answer(LE, serial, value));
        }

        pub fn refuse(&mut self, serial: u32, why: &str) {
            let fields = vec![(REPLY_SERIAL, serial.into()), (SIGNATURE, Signature::Str.into())];
            let body = to_bytes(Context::new(LE, 0), why).unwrap();
            self.write(&message(LE, ERROR, fields, &body));
        }

        pub fn signal(&mut self) {
            let path = ObjectPath::try_from("/org/freedesktop/systemd1").unwrap();
            self.write(&message(LE, SIGNAL, vec![(PATH, path.into()), (MEMBER, "UnitNew".into())], &[]));
        }

        pub fn write(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).unwrap();
        }

        /// Waits until the program has closed the connection.
        pub fn wait_for_end(&mut self) {
            while self.0.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
        }
    }

    /// An answer's body.
    pub fn body<T: Serialize + Type>(value: &T) -> Body {
        parse_answer(&answer(LE, 1, value)).unwrap().unwrap().result.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::fake::{Peer, Script, systemd};
    use super::*;

    /// What three calls get from a systemd that behaves like this.
    fn answers(script: Script) -> Result<Vec<String>, String> {
        let directory = tempfile::tempdir().unwrap();
        let server = systemd(directory.path(), vec![script]);
        let calls = ["/a", "/b", "/c"].map(|path| Call::new(path.to_owned(), "x.y", "Z", "argument"));
        let mut deadline = Deadline::silent(Duration::from_secs(30));
        let begun = Conversation::begin(directory.path(), &calls, &mut deadline).unwrap();
        let bodies = begun.and_then(|begun| begun.end(&mut deadline).unwrap());
        server.join().unwrap();
        bodies?.iter().map(Body::decode).collect()
    }

    #[test]
    fn answers_are_in_the_order_of_the_calls() {
        let found = answers(|peer| {
            peer.accept();
            let calls = [peer.call(), peer.call(), peer.call()];
            assert_eq!(calls[1], (2, "/b".to_owned(), "Z".to_owned()));
            peer.answer(HELLO, &":1.5");
            for (serial, path, _) in calls.iter().rev() {
                peer.signal();
                // In pieces, and one in the other byte order.
                let endian = if path == "/b" { BE } else { LE };
                fake::answer(endian, *serial, &format!("of {path}")).chunks(3).for_each(|piece| peer.write(piece));
            }
            peer.answer(77, &"nobody asked");
            peer.wait_for_end();
        });
        assert_eq!(found.unwrap(), ["of /a", "of /b", "of /c"]);
    }

    #[test]
    fn what_is_not_an_answer_is_an_error_in_words() {
        let cases: [(Script, &str); 9] = [
            (|peer| peer.authenticate("REJECTED\r\n"), "it refused the connection: \"REJECTED\""),
            (|peer| peer.authenticate(&"x".repeat(5000)), NOT_DBUS),
            (|peer| peer.authenticate(""), "it closed the connection"),
            (
                |peer| {
                    peer.accept();
                    peer.call();
                },
                "it closed the connection",
            ),
            (
                |peer| {
                    peer.accept();
                    let (serial, ..) = peer.call();
                    peer.refuse(serial, "Unit name x is not valid.");
                    peer.wait_for_end();
                },
                "Unit name x is not valid.",
            ),
            (
                |peer| {
                    peer.accept();
                    peer.refuse(HELLO, "too many connections");
                    peer.wait_for_end();
                },
                "too many connections",
            ),
            (
                |peer| {
                    peer.accept();
                    peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
                    peer.wait_for_end();
                },
                NOT_DBUS,
            ),
            (
                |peer| {
                    peer.accept();
                    peer.write(&[b'l', 2, 0, 1, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0]);
                    peer.wait_for_end();
                },
                "its answer has more than 4194304 bytes",
            ),
            (
                |peer| {
                    peer.accept();
                    for _ in 0..3 {
                        let (serial, ..) = peer.call();
                        peer.answer(serial, &7_u32);
                    }
                    peer.wait_for_end();
                },
                "its answer has the D-Bus type u, not s",
            ),
        ];
        for (script, words) in cases {
            let why = answers(script).unwrap_err();
            assert!(why.starts_with(words), "{why:?}, not {words:?}");
        }
    }

    #[test]
    fn a_systemd_that_is_silent_or_missing_is_an_error_in_words() {
        let directory = tempfile::tempdir().unwrap();
        let mut deadline = Deadline::silent(Duration::from_millis(50));
        let why = Conversation::begin(directory.path(), &[], &mut deadline).unwrap().unwrap_err();
        assert!(why.contains("/run/dbus/system_bus_socket: No such file or directory"), "{why}");
        let server = systemd(directory.path(), vec![Peer::wait_for_end]);
        let why = Conversation::begin(directory.path(), &[], &mut deadline).unwrap().unwrap_err();
        assert_eq!(why, "it did not answer within 50ms");
        server.join().unwrap();
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(parse_answers(&[&[b'l', 2, 0, 1][..], &bytes].concat()));
            drop(parse_answer(&[&[b'B', 2, 0, 1][..], &bytes].concat()));
        }
    }
}
