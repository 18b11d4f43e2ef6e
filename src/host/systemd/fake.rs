//! systemd's side of a conversation, for tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use serde::Serialize;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{Endian, LE, to_bytes};
use zbus::{ObjectPath, Signature, Type, Variant};

use super::bus::{BUS, HELLO, SYSTEMD};
use super::message::{
    Body, DESTINATION, ERROR, Header, MEMBER, METHOD_CALL, METHOD_RETURN, PATH, REPLY_SERIAL, SIGNATURE,
    message_length, parse_answer,
};

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
        let mut signal = message(LE, SIGNAL, vec![(PATH, path.into()), (MEMBER, "UnitNew".into())], b"body");
        // A field that is not valid does not matter.
        signal[20] = 0xff;
        self.write(&signal);
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
