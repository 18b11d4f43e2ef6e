//! The forms of values in role files. The same type checks a literal when the role is loaded, and the
//! result of a template when it is rendered.

use serde::Deserialize;

use crate::host::is_sha256;
use crate::settings::values::{host_port, is_word, port};

/// Defines types of one form each: the message about an invalid text, and the check.
macro_rules! forms {
    ($($(#[$doc:meta])* $name:ident, $words:literal, $fits:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "String")]
        pub(super) struct $name(pub String);

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let fits: fn(&str) -> bool = $fits;
                if fits(&text) { Ok($name(text)) } else { Err(format!("{text:?} {}", $words)) }
            }
        }
    )*};
}

forms! {
    /// A path on the node.
    Path, "is not an absolute path without `..`, `//` and `/./`", is_path;
    /// A file mode, in octal.
    Mode, "is not a file mode: write it like \"0644\"", |text| mode(text).is_some();
    /// The name of a user or group, in the form of passwd(5).
    Account, "is not the name of a user or group", |text| {
        !text.is_empty() && !text.starts_with('-') && !text.contains(|c: char| c.is_whitespace() || c.is_control() || ":,/".contains(c))
    };
    /// A systemd unit.
    UnitName, "is not the name of a unit: write it with its suffix, e.g. \"docker.service\"", is_unit;
    /// A Debian package.
    Package, "is not a package, or name=version", |text| {
        let (name, version) = text.split_once('=').unwrap_or((text, "0"));
        is_word(name, "+-.:") && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_word(version, ".+-~:")
    };
    /// An image, by tag or digest.
    ImageName, "is not an image: name:tag, or name@sha256: and 64 hexadecimal digits", |text| {
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
        is_word(name, "._-:/") && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && digest.is_none_or(|digest| digest.strip_prefix("sha256:").is_some_and(is_sha256))
    };
    /// The name of a container.
    ContainerName, "is not the name of a container: letters, digits, `_` and `-`", |text| is_word(text, "_-");
    /// The restart policy of a container.
    Restart, "is not a restart policy: write no, always, unless-stopped or on-failure", |text| {
        ["no", "always", "unless-stopped", "on-failure"].contains(&text)
    };
    /// A host directory that is mounted in a container; empty if an expression leaves it out.
    Bind, "is not a bind: write /on/the/host:/in/the/container, with :ro for read-only access", |text| {
        text.is_empty() || split_bind(text).is_some_and(|(host, _)| is_path(host))
    };
    /// A port of a container; empty if an expression leaves it out.
    Published, "is not a port: write HOST:CONTAINER or ADDRESS:HOST:CONTAINER; in the host's network only the port", |text| {
        text.is_empty() || text.rsplitn(3, ':').take(2).all(|part| port(part).is_some())
    };
    /// An argument for the kernel's command line.
    KernelArgument, "is not one argument without blanks, quotes, `$`, `\\` and backquotes", |text| is_word(text, "._-=,:/@+");
    /// The name of a file in /etc/sysctl.d.
    SysctlFile, "is not the name of a file in /etc/sysctl.d, e.g. \"60-titus.conf\": letters, digits, `.`, `_` and `-`, with .conf at the end", |text| {
        is_word(text, "._-") && !text.starts_with('.') && text.ends_with(".conf")
    };
    /// One or more addresses.
    Addresses, "is not host:port, or several separated by commas", |text| text.split(',').all(is_address);
    /// The address of an HTTP page.
    Page, "is not an HTTP address, e.g. \"http://127.0.0.1:7001/health\"", |text| {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':']) && !rest.contains(|c: char| c.is_whitespace() || c.is_control()))
    };
    /// The address of a Docker Engine.
    DockerAddress, "is not the address of a Docker Engine: tcp://host:port or unix:///PATH", |text| {
        text.strip_prefix("tcp://").is_some_and(is_address) || text.strip_prefix("unix://").is_some_and(is_path)
    };
    /// A version of the engine's API.
    ApiVersion, "is not a version of the engine's API: write it like \"1.26\"", |text| minor(text).is_some();
}

/// `host:port`; an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((host, number)) => host.parse::<std::net::Ipv6Addr>().is_ok() && port(number).is_some(),
        None => host_port(text).is_some_and(|(host, _)| !host.contains(':')),
    }
}

/// Whether a text is an absolute path without `..`, `//` and `/./`.
pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.ends_with('/')
        && !text.contains(['\0', '\n'])
        && !text.split('/').any(|part| part == "..")
        // One path has one name, so that two steps for it are seen.
        && !text.contains("//")
        && !text.contains("/./")
}

fn is_unit(text: &str) -> bool {
    let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-@\\:".contains(c));
    is_plain && text.contains('.') && !text.starts_with(['.', '-'])
}

/// Parses a file mode in octal.
pub(super) fn mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777 && !text.starts_with('+'))
}

/// Splits a bind into the path on the host and the path in the container.
pub(super) fn split_bind(bind: &str) -> Option<(&str, &str)> {
    let (host, rest) = bind.split_once(':')?;
    let inside = rest.strip_suffix(":ro").unwrap_or(rest);
    (inside.starts_with('/') && !inside.contains(':')).then_some((host, inside))
}

/// The minor number of a version of the engine's API.
pub(super) fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, is) in [
            ("localhost:2181", true),
            ("10.0.0.1:1", true),
            ("zk.example.com:65535", true),
            ("[::1]:2181", true),
            ("[2001:db8::1]:2181", true),
            ("localhost", false),
            ("2181", false),
            (":2181", false),
            ("localhost:", false),
            ("localhost:0", false),
            ("localhost:65536", false),
            ("localhost:http", false),
            ("::1:2181", false),
            ("[::1]", false),
            ("[::1]:", false),
            ("[localhost]:2181", false),
            ("a b:2181", false),
        ] {
            assert_eq!(is_address(text), is, "{text}");
            assert_eq!(Addresses::try_from(format!("other:1,{text}")).is_ok(), is, "{text}");
            assert_eq!(DockerAddress::try_from(format!("tcp://{text}")).is_ok(), is, "{text}");
        }
    }

    #[test]
    fn a_path_is_absolute_and_has_one_form() {
        for path in ["/a", "/etc/x.conf", "/a/..b/.c", "/a b"] {
            assert!(is_path(path), "{path}");
        }
        for path in ["", "a", "./a", "/", "/a/", "//a", "/a//b", "/a/./b", "/a/../b", "/..", "/a\n", "/a\0"] {
            assert!(!is_path(path), "{path:?}");
        }
    }

    #[test]
    fn a_mode_is_octal_and_has_at_most_four_digits() {
        for (text, expected) in [("0644", Some(0o644)), ("644", Some(0o644)), ("7777", Some(0o7777)), ("0", Some(0))] {
            assert_eq!(mode(text), expected, "{text}");
        }
        for text in ["", "10000", "+644", "-644", "0o644", "0789", "rw"] {
            assert_eq!(mode(text), None, "{text}");
        }
    }
}
