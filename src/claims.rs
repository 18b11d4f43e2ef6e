//! What tests and the fuzzer claim about every parser; see parsers.rs. A failed claim is an error instead of a panic, so
//! that one place reports it.

use crate::error::{Error, Kind};
use crate::secrets;

/// Whether a claim holds, or in words why not.
pub type Claim = Result<(), String>;

/// A text that no input contains. Text next to it in an input must not bring it into a message.
pub const SECRET: &str = "Zq7hunter2Zq7";

/// The longest refusal, bytes: what is wrong, and a list of what there is.
pub const LONGEST: usize = 8 << 10;

/// Words of libraries, which no message has unless the input has them.
pub const JARGON: [&str; 42] = [
    "hyper",
    "reqwest",
    "rustls",
    "bollard",
    "minijinja",
    "serde",
    "toml::",
    "clap",
    "legacy client",
    "client error (",
    "error sending request",
    "tcp connect error",
    "dns error",
    "expected u8",
    "expected u16",
    "expected u32",
    "expected u64",
    "expected usize",
    "expected i64",
    "expected struct",
    "expected a sequence",
    "expected a map",
    "expected a string",
    "unknown variant",
    "unknown field",
    "missing field",
    "duplicate field",
    "invalid type",
    "invalid value",
    "newtype",
    "untagged",
    "did not match any",
    "literal string",
    "basic string",
    "expected value",
    "EOF while",
    "UnknownIssuer",
    "InvalidContentType",
    "HandshakeFailure",
    "close_notify",
    "<expression>",
    "<string>",
];

/// Refuses words of libraries in the refusal of a text.
///
/// # Errors
/// Fails when the claim does not hold, with the reason in words.
pub fn plain(error: &Error, text: &str) -> Claim {
    let shown = error.to_string();
    match JARGON.iter().find(|word| shown.contains(*word) && !text.contains(*word)) {
        Some(word) => Err(format!("{word:?} is in: {shown}")),
        None => Ok(()),
    }
}

/// Fails with these words unless the condition is true.
///
/// # Errors
/// Fails when the claim does not hold, with the reason in words.
pub fn holds(is: bool, otherwise: impl FnOnce() -> String) -> Claim {
    if is { Ok(()) } else { Err(otherwise()) }
}

/// Checks what every refusal of an input has: its exit code, the input's name, a limited length, and no secret.
///
/// # Errors
/// Fails when the claim does not hold, with the reason in words.
pub fn sound(error: &Error, kind: Kind, name: &str) -> Claim {
    let shown = secrets::masked(&error.to_string());
    holds(error.kind == kind, || format!("exit code {}: {shown}", error.kind.exit_code()))?;
    holds(error.what.contains(name), || format!("does not name {name:?}: {shown}"))?;
    holds(error.what.trim().lines().count() == 1, || format!("what is wrong is not one line: {shown}"))?;
    holds(shown.len() <= LONGEST, || format!("{} bytes of message", shown.len()))?;
    holds(!shown.contains(SECRET), || format!("the secret is in: {shown}"))
}
