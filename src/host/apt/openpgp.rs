//! Fingerprints of OpenPGP keys, to compare a downloaded key with the one that the settings name.
//!
//! The parser covers only the outermost layer (RFC 9580, sections 4.2 packet headers, 5.5.4.2 version 4 fingerprints, 6
//! armor), because an OpenPGP library would double the size of the binary, and not every image has gpg.

use base64::Engine;
use sha1::{Digest, Sha1};

/// The fingerprints, in upper-case hexadecimal, of the primary keys in an armored or binary key file.
///
/// # Errors
/// Fails with a message when it is not a key file, or has a key of a version other than 4.
pub fn fingerprints(bytes: &[u8]) -> Result<Vec<String>, String> {
    let binary = to_binary(bytes)?;
    let mut rest = binary.as_slice();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (tag, body, after) = packet(rest).ok_or("not an OpenPGP key file, or cut off")?;
        // Tag 6: a public key. Subkeys (14), user ids (13) and signatures (2) belong to it.
        if tag == 6 {
            if body.first() != Some(&4) {
                return Err("it has a key of a version other than 4".into());
            }
            let length = u16::try_from(body.len()).map_err(|_| "a key is too long")?;
            let digest =
                Sha1::new().chain_update([0x99]).chain_update(length.to_be_bytes()).chain_update(body).finalize();
            found.push(digest.iter().map(|byte| format!("{byte:02X}")).collect());
        }
        rest = after;
    }
    if found.is_empty() { Err("it has no public key".into()) } else { Ok(found) }
}

/// Converts a key file to its binary form, which every release of apt reads (armored: since 1.4).
///
/// # Errors
/// Fails with a message when its armor is invalid.
pub fn to_binary(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") { unarmor(bytes) } else { Ok(bytes.to_vec()) }
}

fn unarmor(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "an armored key must be text")?;
    let mut lines = text.lines().map(str::trim);
    if !lines.by_ref().any(|line| line == "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return Err("it is not a public key block".into());
    }
    // Headers end at the first empty line; the checksum line begins with `=`.
    let body: String = lines
        .by_ref()
        .skip_while(|line| !line.is_empty())
        .take_while(|line| !line.starts_with("-----END"))
        .filter(|line| !line.starts_with('='))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).map_err(|e| format!("its armor is broken: {e}"))
}

/// The tag and the body of the first packet, and the bytes after it; `None` if it is not a packet.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&header, rest) = bytes.split_first()?;
    if header & 0x80 == 0 {
        return None;
    }
    let (tag, length, rest) = if header & 0x40 != 0 {
        let (&first, after) = rest.split_first()?;
        let (length, after) = match first {
            0..192 => (usize::from(first), after),
            192..224 => {
                let (&second, after) = after.split_first()?;
                ((usize::from(first) - 192) * 256 + usize::from(second) + 192, after)
            }
            255 => (number(after.get(..4)?), after.get(4..)?),
            // Only data packets have partial lengths.
            _ => return None,
        };
        (header & 0x3f, length, after)
    } else {
        let size = match header & 3 {
            0 => 1,
            1 => 2,
            2 => 4,
            _ => return None,
        };
        ((header >> 2) & 0x0f, number(rest.get(..size)?), rest.get(size..)?)
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with gpg for this test; its secret key was deleted.
    const KEY: &str = include_str!("../../../tests/data/key.asc");
    const FINGERPRINT: &str = include_str!("../../../tests/data/key.fingerprint");

    #[test]
    fn a_key_has_the_fingerprint_that_gpg_prints() {
        assert_eq!(fingerprints(KEY.as_bytes()).unwrap(), [FINGERPRINT.trim()]);
        let binary = unarmor(KEY.as_bytes()).unwrap();
        assert_eq!(fingerprints(&binary).unwrap(), [FINGERPRINT.trim()]);
        assert_eq!(fingerprints(&[binary.clone(), binary].concat()).unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        for bytes in [&b""[..], b"<html>", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnot base64!\n", b"\x99\x01"] {
            fingerprints(bytes).unwrap_err();
        }
    }

    proptest::proptest! {
        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = fingerprints(&bytes);
        }
    }
}
