//! The forms of values. Each is a type that checks a value when it is read, because values end up in root's shell scripts,
//! environment files and command lines.

mod aws;
mod debian;
mod docker;
mod names;
mod net;
mod timeout;

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::Visitor;

pub use aws::*;
pub use debian::*;
pub use docker::*;
pub use names::*;
pub use net::*;
pub use timeout::Timeout;

/// The start of every error of these types.
pub(super) const MUST: &str = "it must be ";
/// The separator before the reason in an error of these types.
pub(super) const WHY: &str = "\nwhy: ";
/// The separator before the advice in an error of these types.
pub(super) const FIX: &str = "\nfix: ";

/// The form of a value.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// A description that completes "it must be".
    pub must: &'static str,
    /// A valid value.
    pub example: &'static str,
    /// Returns the reason why a text is invalid. An empty reason adds nothing to `must`.
    pub check: fn(&str) -> Result<(), String>,
    /// Returns advice about an invalid text, if the intention is evident.
    pub wish: fn(&str) -> Option<String>,
}

impl Form {
    /// Checks a text.
    ///
    /// # Errors
    /// Fails when the text is invalid. The message has a line with what it must be, one with the reason, and one with advice; only
    /// the last two can quote the text.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let Err(why) = check_common(text).and_then(|()| (self.check)(text)) else { return Ok(()) };
        let why = if why.is_empty() { why } else { format!("{WHY}{why}") };
        let written = || self.intended(text).map(|meant| format!("write `{meant}`"));
        let fix = (self.wish)(text).or_else(written).map_or_else(String::new, |fix| format!("{FIX}{fix}"));
        Err(format!("{MUST}{}, e.g. `{}`{why}{fix}", self.must, self.example))
    }

    fn is_valid(&self, text: &str) -> bool {
        check_common(text).and_then(|()| (self.check)(text)).is_ok()
    }

    /// The text that the operator evidently intended.
    fn intended(&self, text: &str) -> Option<String> {
        let bare = text.trim().trim_matches(['"', '\'', '`', ',', ';']).trim();
        let ended = bare.trim_end_matches(['/', '.', ':', ',']);
        let rest = bare.split_once("://").map_or(bare, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        let unbracketed = host.trim_matches(['[', ']']);
        let whole = &[bare, ended, rest, rest.trim_end_matches('/')][..];
        // The advice about a host in a path does not apply to the whole text.
        let is_address = bare.contains("://") || !bare.contains('@');
        let tries = [whole, if is_address { &[authority, host, unbracketed] } else { &[] }];
        tries.into_iter().find_map(|tries| {
            let tries = tries.iter().map(|text| (*text).to_owned());
            let lower = tries.clone().map(|text| text.to_ascii_lowercase());
            tries.chain(lower).find(|meant| meant != text && self.is_valid(meant))
        })
    }
}

/// No advice.
fn no_advice(_: &str) -> Option<String> {
    None
}

/// Rules that hold for every form.
fn check_common(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err("it is empty".into())
    } else if text.chars().any(char::is_control) {
        Err("it has a line end or another control character".into())
    } else if text.trim() != text {
        Err("it has a blank at its start or end".into())
    } else {
        Ok(())
    }
}

/// Fails without an extra reason: the description is enough.
fn require(fits: bool) -> Result<(), String> {
    if fits { Ok(()) } else { Err(String::new()) }
}

/// Fails with the first character that is not a letter, a digit or one of `also`.
fn check_word(text: &str, also: &str) -> Result<(), String> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !also.contains(*c)) {
        None => Ok(()),
        Some(c) => Err(format!("{c:?} is not allowed")),
    }
}

/// Fails when a text is longer than this number of characters.
fn check_length(text: &str, most: usize) -> Result<(), String> {
    if text.chars().count() > most { Err(format!("it is longer than {most} characters")) } else { Ok(()) }
}

/// Defines types of one form each: the purpose, the name in the JSON Schema, what it must be, an example, the check, and
/// the advice where the intention is evident.
macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident: $kind:literal, $must:literal, $example:literal, $check:expr, $wish:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
        pub struct $name(String);

        impl $name {
            pub(crate) const FORM: $crate::settings::forms::Form = $crate::settings::forms::Form {
                must: $must,
                example: $example,
                check: $check,
                wish: $wish,
            };
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                Self::FORM.check(&text)?;
                Ok($name(text))
            }
        }

        $crate::settings::forms::text!($name, $kind, $example);
    )*

        /// All forms of this module.
        #[cfg(test)]
        pub(super) const FORMS: &[(&str, $crate::settings::forms::Form)] = &[$((stringify!($name), $name::FORM)),*];
    };
}

/// Implements what every string type can do.
macro_rules! text {
    ($name:ident, $kind:literal, $example:literal) => {
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str($crate::settings::forms::Text(std::marker::PhantomData))
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::try_from(text.to_owned())
            }
        }

        impl std::ops::Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl $name {
            /// The value as a string.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.0 == *other
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "format": $kind, "examples": [$example] })
            }
        }
    };
}

use {forms, text};

/// Checks a string while it is read, so that an error points at the entry of a list.
struct Text<T>(PhantomData<T>);

impl<T: TryFrom<String, Error = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::try_from(text.to_owned()).map_err(E::custom)
    }
}

/// The strings of a list.
pub fn texts<T: Deref<Target = str>>(list: &[T]) -> Vec<String> {
    list.iter().map(|text| text.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = (&'static str, Form)> {
        let of_one = [("NoProxy", NoProxy::FORM)];
        [aws::FORMS, debian::FORMS, docker::FORMS, names::FORMS, net::FORMS]
            .into_iter()
            .flatten()
            .copied()
            .chain(of_one)
    }

    #[test]
    fn each_takes_its_example_and_not_what_no_value_has() {
        for (name, form) in all() {
            assert_eq!(form.check(form.example), Ok(()), "{name}");
            for wrong in ["", " ", "\n", &format!("{} ", form.example), &format!("{}\n", form.example)] {
                let message = form.check(wrong).unwrap_err();
                assert!(message.starts_with(MUST) && message.contains(", e.g. `"), "{name}: {message}");
            }
            // A copy with blanks or quotes around it is recognized.
            for nearly in [format!(" {}", form.example), format!("\"{}\"", form.example)] {
                // The key of a tag may contain quotes.
                let message = form.check(&nearly).err();
                let is_taken = message.is_none() && name.starts_with("Tag");
                let message = message.unwrap_or_default();
                assert!(is_taken || message.contains(&format!("write `{}`", form.example)), "{name}: {message}");
            }
        }
    }

    #[test]
    fn what_is_proposed_is_taken() {
        let texts =
            ["HTTP://Host.Example:80/x", "s3://B/x", "[::1]:80", "10.0.0.1,", "a=b c", "sg-1A2B3C4D", "X.service/"];
        for (name, form) in all().filter(|(name, _)| *name != "Family") {
            for text in texts {
                let message = form.check(text).err().unwrap_or_default();
                let proposed = message.split_once("write `").and_then(|(_, rest)| rest.split_once('`'));
                if let Some((proposed, _)) = proposed.filter(|(proposed, _)| !proposed.contains("\", \"")) {
                    assert_eq!(form.check(proposed), Ok(()), "{name}: {text}: {message}");
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "([a-zA-Z0-9.:/@=,%\\[\\]-]|\\PC){0,60}") {
            for (_, form) in all() {
                let _ = form.check(&text);
            }
        }
    }
}
