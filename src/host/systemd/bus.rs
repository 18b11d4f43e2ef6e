//! A conversation with systemd over D-Bus: calls that are all sent before the first answer is read.
//!
//! The connection is not zbus's, because a wait of the program ends at its deadline or on a signal. See the D-Bus
//! Specification, "Authentication Protocol".

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};

use super::message::{Answer, Body, Call, NOT_DBUS, message_length, parse_answer};
use crate::error::Result;
use crate::host::wait::Deadline;

/// The system bus.
pub(super) const BUS: &str = "run/dbus/system_bus_socket";

/// The sockets to try, in the order of `systemctl`: systemd's own, which only root may use and which works early in a
/// boot, too; then the bus.
const SOCKETS: [&str; 2] = ["run/systemd/private", BUS];

/// systemd's name on the bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";

/// The longest line of the authentication, bytes.
const LONGEST_LINE: usize = 1 << 10;

/// The serial of the message that every connection to a bus begins with. Calls have serials from 1.
pub(super) const HELLO: u32 = u32::MAX;

/// Calls that were sent, and the answers that have come.
#[derive(Debug)]
pub(super) struct Conversation {
    socket: UnixStream,
    unsent: Vec<u8>,
    received: Vec<u8>,
    answers: Vec<Option<Body>>,
}

impl Conversation {
    /// Connects to systemd below `root`, and sends these calls. The inner error is a message.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub(super) fn begin(root: &Path, calls: &[Call], deadline: &mut Deadline) -> Result<Result<Conversation, String>> {
        let user = nix::unistd::geteuid();
        let sockets = if user.is_root() { &SOCKETS[..] } else { &SOCKETS[1..] };
        let (mut connected, mut failures) = (None, Vec::new());
        for path in sockets {
            match connect(&root.join(path)) {
                Ok(socket) => {
                    connected = Some((socket, *path == BUS));
                    break;
                }
                Err(why) => failures.push(format!("/{path}: {why}")),
            }
        }
        let Some((socket, is_bus)) = connected else { return Ok(Err(failures.join("; "))) };
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
            let name = "org.freedesktop.DBus";
            let hello = Call::without_argument("/org/freedesktop/DBus".to_owned(), name, "Hello");
            self.unsent.extend(hello.encode(HELLO, Some(name))?);
        }
        for (call, serial) in calls.iter().zip(1..) {
            self.unsent.extend(call.encode(serial, destination)?);
        }
        self.write_some()
    }

    /// Waits for the answers, in the order of the calls. The inner error is a message.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
    pub(super) fn end(mut self, deadline: &mut Deadline) -> Result<Result<Vec<Body>, String>> {
        self.exchange(deadline, |this| {
            while let Some(message) = this.take_message()? {
                this.keep(&message)?;
            }
            Ok(this.answers.iter().all(Option::is_some).then(|| this.answers.drain(..).flatten().collect()))
        })
    }

    /// Sends and receives until `take` finds in `received` what the caller waits for. The inner error is a message.
    ///
    /// # Errors
    /// Returns `Interrupted` when a signal arrives.
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

    /// Keeps an answer to one of the calls. Ignores other messages.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zbus::wire::{BE, LE};

    use super::*;
    use crate::host::systemd::fake::{self, Peer, Script, systemd};

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
}
