//! Messages of D-Bus (D-Bus Specification, "Message Protocol"). zbus encodes and decodes the values in them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{BE, Endian, LE, to_bytes};
use zbus::{ObjectPath, Signature, Type, Variant};

/// The longest message that is read, bytes. The properties of a service are some 20 KiB.
const LONGEST: usize = 4 << 20;

pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;

pub(super) const PATH: u8 = 1;
pub(super) const INTERFACE: u8 = 2;
pub(super) const MEMBER: u8 = 3;
pub(super) const REPLY_SERIAL: u8 = 5;
pub(super) const DESTINATION: u8 = 6;
pub(super) const SIGNATURE: u8 = 8;

/// The fixed part of a header (byte order, type, flags, version, length of the body, serial), and its fields.
pub(super) type Header<'a> = (u8, u8, u8, u8, u32, u32, Vec<(u8, Variant<'a>)>);

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
    /// A call without an argument.
    pub(super) fn without_argument(path: String, interface: &'static str, member: &'static str) -> Call {
        Call { path, interface, member, signature: Signature::Unit, body: Vec::new() }
    }

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

    /// The message with this serial, for a name on a bus.
    ///
    /// # Errors
    /// Fails when the path is not a path of D-Bus.
    pub(super) fn encode(&self, serial: u32, destination: Option<&str>) -> Result<Vec<u8>, String> {
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
pub(super) struct Answer {
    pub(super) serial: u32,
    pub(super) result: Result<Body, String>,
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
pub(super) fn message_length(received: &[u8]) -> Result<Option<usize>, String> {
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
pub(super) fn parse_answer(message: &[u8]) -> Result<Option<Answer>, String> {
    let nonsense = || NOT_DBUS.to_owned();
    let endian = endian(message)?;
    // systemd sends its signals to every client.
    let kind = message.get(1).copied().filter(|kind| [METHOD_RETURN, ERROR].contains(kind));
    let Some(kind) = kind else { return Ok(None) };
    let data = Data::new(message, Context::new(endian, 0));
    let ((.., fields), _): (Header<'_>, usize) = data.deserialize().map_err(|_| nonsense())?;
    let field = |code: u8| fields.iter().find(|(other, _)| *other == code).map(|(_, value)| value);
    let Some(Variant::U32(serial)) = field(REPLY_SERIAL) else { return Ok(None) };
    let signature = match field(SIGNATURE) {
        Some(Variant::Signature(signature)) => signature.clone(),
        Some(_) => return Err(nonsense()),
        None => Signature::Unit,
    };
    let bytes = header_length(message, endian).and_then(|header| message.get(header..)).ok_or_else(nonsense)?;
    let body = Body { endian, signature, bytes: bytes.to_vec() };
    let refusal = |body: Body| Err(body.decode().unwrap_or_else(|_| "it gave no reason".to_owned()));
    let result = if kind == ERROR { refusal(body) } else { Ok(body) };
    Ok(Some(Answer { serial: *serial, result }))
}

/// The body of every answer in these bytes, for [`crate::parsers`].
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

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            drop(parse_answers(&[&[b'l', 2, 0, 1][..], &bytes].concat()));
            drop(parse_answer(&[&[b'B', 2, 0, 1][..], &bytes].concat()));
        }
    }
}
