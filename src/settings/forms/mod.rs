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
    fn what_is_at_the_edge_of_a_form_is_taken_and_what_is_beyond_is_refused() {
        let long = |count: usize| "a".repeat(count);
        let host = |last: usize| [long(63), long(63), long(63), long(last)].join(".");
        let image = |count: usize| format!("{}:1", long(count));
        let digest = |digit: &str, count: usize| format!("x@sha256:{}", digit.repeat(count));
        let role = |path: &str| format!("arn:aws:iam::123456789012:role/{path}");
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (form, taken, refused) in [
            (Bucket::FORM, texts(&["1.2.3", "1.2.3.a"]), texts(&["1.2.3.4", "1.2.3.400", "-a1", "a1-", ".a1", "a1."])),
            (
                IamRole::FORM,
                vec![role("a"), role("a/b"), "arn:aws-cn:iam::123456789012:role/a".into(), long(64)],
                vec![
                    role(""),
                    role("/a"),
                    role("a//b"),
                    role("a b"),
                    long(65),
                    "arn:awx:iam::123456789012:role/a".into(),
                    "arn:aws-'x:iam::123456789012:role/a".into(),
                    "arn:aws:s3::123456789012:role/a".into(),
                    "arn:aws:iam:x:123456789012:role/a".into(),
                    "arn:aws:iam::1234567890123:role/a".into(),
                    "arn:aws:iam::12345678901a:role/a".into(),
                ],
            ),
            (
                InstanceType::FORM,
                texts(&["m9.large", "u-6tb1.metal", "m7i.metal-24xl"]),
                texts(&["m9", "m9.", "m9.-large", "m9.large-", "m9.Large", "m_9.large", "9m.large", "m-.large"]),
            ),
            (TagKey::FORM, vec![long(128), "é".repeat(128)], vec![long(129), "é".repeat(129)]),
            (TagValue::FORM, vec![long(256)], vec![long(257)]),
            (Hook::FORM, vec![long(255)], vec![long(256)]),
            (
                ImageReference::FORM,
                [vec![image(255), digest("a", 64)], texts(&["a--b:1", "a__b/c:1", "a.b_c-d:1"])].concat(),
                [
                    vec![image(256), digest("a", 63), digest("a", 65), digest("g", 64)],
                    texts(&["-a/b:1", "a-/b:1", "a/.b:1", "a/b_:1", "a..b:1", "a___b:1", "a._b:1"]),
                ]
                .concat(),
            ),
            (LogDriver::FORM, texts(&["local", "grafana/loki:2.9"]), texts(&["loki", "grafana/loki", "grafana/:2.9"])),
            (RoleName::FORM, texts(&["a-", ".a", "..."]), texts(&["-a", ".", ".."])),
            (
                ResourceSetWay::FORM,
                texts(&["instance", "schedulable", "1-1", "4-50"]),
                texts(&["0-1", "1-0", "a-1", "1-a", "+1-1", "1-+1", "1", "1-1-1"]),
            ),
            (
                Host::FORM,
                vec![host(61), "0x1g".into(), "1a".into()],
                vec![host(62), long(64), "0x1f".into(), "a.0X1".into(), "a.1".into()],
            ),
            (PortRange::FORM, texts(&["1-65535", "80-80"]), texts(&["0-80", "1-65536", "81-80", "+1-80", "1-+80"])),
            (UserName::FORM, vec![long(32)], vec![long(33)]),
            (
                Package::FORM,
                texts(&["ab=1", "ab:amd64=1", "ab=1:2-3"]),
                texts(&["ab:=1", "ab:1=1", "ab:a_b=1", "ab=:1", "ab=a:1", "ab=1-", "ab=-1", "ab=a"]),
            ),
        ] {
            for text in &taken {
                assert_eq!(form.check(text), Ok(()), "{text}");
            }
            for text in &refused {
                form.check(text).expect_err(text);
            }
        }
    }

    #[test]
    fn another_name_of_a_resource_is_replaced_by_the_one_that_titus_reads() {
        for (text, meant) in [
            ("Mem", "mem"),
            ("memory", "mem"),
            ("Disk", "disk"),
            ("disks", "disk"),
            ("net", "network"),
            ("networks", "network"),
            ("CPU", "cpus"),
            ("cpu", "cpus"),
            ("port", "ports"),
        ] {
            let message = ResourceName::FORM.check(text).unwrap_err();
            let words = format!("{WHY}Titus reads the resource `{meant}`{FIX}write `{meant}`");
            assert!(message.ends_with(&words), "{text}: {message}");
            assert_eq!(ResourceName::FORM.check(meant), Ok(()));
        }
        assert_eq!(ResourceName::FORM.check("gpu"), Ok(()));
    }

    #[test]
    fn a_reason_and_advice_are_given_only_where_they_apply() {
        let is_name = "it is a name; a service listens on an address";
        let is_port = "a port is a number from 1 to 65535";
        let character = "':' is not allowed";
        let in_dns = "write a name outside ASCII in its DNS form, `xn--…`";
        for (form, text, why, fix) in [
            (Listen::FORM, "localhost:4243", is_name, "write `127.0.0.1:4243`"),
            (Listen::FORM, "127.0.0.1", "", ""),
            (PortRange::FORM, "0-80", is_port, ""),
            (PortRange::FORM, "a-80", "", ""),
            (PortRange::FORM, "80-a", "", ""),
            (ZookeeperServer::FORM, "zk1:client", is_port, "write `zk1:2181`"),
            // A port that the operator wrote is not replaced.
            (ZookeeperServer::FORM, "zk1:99999", is_port, ""),
            (Bucket::FORM, "logs:2181", character, "write `logs`"),
            // Nor is the name of a user taken for a host.
            (Bucket::FORM, "user:password@logs", character, ""),
            (Prereqs::FORM, "müller", in_dns, "write `xn--mller-kva`"),
            (Prereqs::FORM, "mü_ller", in_dns, ""),
            (Prereqs::FORM, "a%62c", "'%' is not allowed", ""),
        ] {
            let message = form.check(text).unwrap_err();
            let (rest, advice) = message.split_once(FIX).unwrap_or((&message, ""));
            let (_, reason) = rest.split_once(WHY).unwrap_or((rest, ""));
            assert_eq!(reason, why, "{text}");
            assert_eq!(advice.split(';').next(), Some(fix), "{text}");
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
