//! The form of each item of the metadata service.
//!
//! An answer can come from another service, or be an error page with status 200; neither may become a fact.

use std::net::Ipv4Addr;

use crate::error::{Error, Result};

/// The form of an item, which answers of other services do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `PREFIX-` and hexadecimal digits: `i-0123456789abcdef0`.
    Id(&'static str),
    /// `m4.large`.
    InstanceType,
    /// A region or zone: `us-west-2-lax-1a`.
    Place,
    /// A dotted address.
    Ipv4,
    /// Six octets with colons.
    Mac,
    /// A host name; the first one if there are several.
    HostName,
    /// Twelve digits.
    Account,
    /// `InService`, `Warmed:Stopped`.
    LifecycleState,
    /// Any text without control characters.
    Text,
}

impl Form {
    /// Reads the value of this item, and converts it to the form of a fact.
    ///
    /// # Errors
    /// Fails when the answer has another form.
    pub fn read(self, item: &str, bytes: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(bytes).map_err(|_| refuse(item, bytes, "it is not UTF-8"))?;
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(refuse(item, bytes, format!("it contains the control character {control:?}")));
        }
        self.normalize(text).ok_or_else(|| refuse(item, bytes, format!("it is not {}", self.name())))
    }

    /// Converts a text with this form to the form of a fact.
    fn normalize(self, text: &str) -> Option<String> {
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_word = |word: &str, most: usize, allowed: &dyn Fn(char) -> bool| {
            (1..=most).contains(&word.len()) && word.chars().all(allowed)
        };
        let is = match self {
            Form::Id(prefix) => text
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|hex| is_word(hex, 32, &|c| c.is_ascii_digit() || ('a'..='f').contains(&c))),
            Form::InstanceType => text
                .split_once('.')
                .is_some_and(|(family, size)| is_word(family, 32, &lower) && is_word(size, 32, &lower)),
            Form::Place => text.contains('-') && is_word(text, 64, &lower),
            Form::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
            Form::Mac => {
                let octets = text.split(':').map(|o| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit()));
                text.len() == 17 && octets.clone().count() == 6 && octets.into_iter().all(|is| is)
            }
            // If the VPC's DHCP options have several domain names, EC2 returns all of them, separated by blanks.
            Form::HostName => {
                let first = text.split(' ').next()?;
                let is = first.starts_with(|c: char| c.is_ascii_alphabetic())
                    && is_word(first, 253, &|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
                return is.then(|| first.to_owned());
            }
            Form::Account => text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()),
            Form::LifecycleState => is_word(text, 64, &|c| c.is_ascii_alphabetic() || c == ':'),
            Form::Text => true,
        };
        is.then(|| if self == Form::Mac { text.to_ascii_lowercase() } else { text.to_owned() })
    }

    fn name(self) -> &'static str {
        match self {
            Form::Id("i") => "an instance id",
            Form::Id(_) => "an id",
            Form::InstanceType => "an instance type",
            Form::Place => "a region or zone",
            Form::Ipv4 => "an IPv4 address",
            Form::Mac => "a MAC address",
            Form::HostName => "a host name",
            Form::Account => "an account id",
            Form::LifecycleState => "a lifecycle state",
            Form::Text => "a text",
        }
    }
}

/// The error for an answer that must not become a fact.
pub fn refuse(item: &str, answer: &[u8], cause: impl std::fmt::Display) -> Error {
    let start: String = String::from_utf8_lossy(answer).chars().take(60).collect();
    let fix = if item.starts_with("meta-data/tags/") {
        "change the instance's tag"
    } else {
        "look for a proxy or another service at the metadata service's address"
    };
    Error::config(format!("instance metadata: {item} cannot be used"))
        .cause(format!("{cause}; the answer begins with {start:?}"))
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMS: [(Form, &[&str], &[&str]); 9] = [
        (Form::Id("i"), &["i-0123456789abcdef0", "i-12345678"], &["i-", "i-XYZ", "vpc-1", "i-1 ", "i-1\n", "I-1"]),
        (Form::InstanceType, &["m4.large", "u-6tb1.112xlarge"], &["m4", "m4.", ".large", "M4.large", "m4.large.x"]),
        (Form::Place, &["eu-west-1", "us-west-2-lax-1a"], &["", "html", "eu west", "eu-west-1;", "EU-WEST-1"]),
        (Form::Ipv4, &["30.0.100.140"], &["30.0.100", "30.0.100.256", "::1", "30.0.100.140/24"]),
        (
            Form::Mac,
            &["0A:1b:2c:3d:4e:5f"],
            &["0a1b2c3d4e5f", "0a:1b:2c:3d:4e", "0a:1b:2c:3d:4e:5g", "0:a1b:2c:3d:4e:5f"],
        ),
        (Form::HostName, &["ip-30-0-100-140.eu-west-1.compute.internal"], &["", "a_b", "a;b", " a", "404 Not Found"]),
        (Form::Account, &["123456789012"], &["12345678901", "1234567890123", "12345678901a"]),
        (Form::LifecycleState, &["InService", "Warmed:Stopped"], &["", "In Service", "<html>"]),
        (Form::Text, &["", "any thing; é"], &["a\nb", "a\u{0}", "\u{85}"]),
    ];

    #[test]
    fn each_form_has_its_good_and_bad_values() {
        for (form, good, bad) in FORMS {
            for value in good {
                assert!(form.read("item", value.as_bytes()).is_ok(), "{form:?} {value:?}");
            }
            for value in bad {
                let error = form.read("meta-data/item", value.as_bytes()).unwrap_err();
                assert_eq!(error.kind, crate::error::Kind::Config);
                assert!(error.what.contains("meta-data/item"), "{error}");
            }
        }
    }

    #[test]
    fn pages_and_bytes_are_not_values() {
        for (form, ..) in FORMS {
            assert!(form.read("item", b"\xff\xfe").is_err());
            for page in
                ["<?xml version=\"1.0\"?>\n<html></html>", "<!DOCTYPE html><p>404</p>", "404 page not found", ""]
            {
                assert!(form == Form::Text || form.read("item", page.as_bytes()).is_err());
            }
        }
    }

    #[test]
    fn values_are_normalized() {
        assert_eq!(Form::Mac.read("mac", b"0A:1B:2C:3D:4E:5F").unwrap(), "0a:1b:2c:3d:4e:5f");
        assert_eq!(Form::HostName.read("local-hostname", b"ip-1.a.com b.com").unwrap(), "ip-1.a.com");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "\\PC*") {
            for (form, ..) in FORMS {
                let _ = form.read("item", &bytes);
                let _ = form.read("item", text.as_bytes());
            }
        }
    }
}
