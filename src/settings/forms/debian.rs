//! Packages, their sources, and files.

use super::net::{host, is_encoded};
use super::{check_length, check_word, forms, no_advice, require};
use crate::settings::values::port;

forms! {
    /// A package, with or without a version.
    Package: "debian-package", "a package, or name=version", "docker-ce", package, |text| {
        let (name, version) = text.split_once(['=', ' ', ':', '@', '<', '>', '(']).unwrap_or((text, ""));
        let version = version.trim_matches(['=', ' ', '(', ')', '<', '>']);
        let meant = if version.is_empty() { name.trim().to_owned() } else { format!("{}={version}", name.trim()) };
        let lower = format!("{}{}", name.trim().to_ascii_lowercase(), meant.strip_prefix(name.trim())?);
        [meant, lower].into_iter().find(|meant| meant != text && package(meant).is_ok()).map(|meant| format!("write `{meant}`"))
    };
    /// The name of a package.
    PackageName: "debian-package-name", "the name of a package", "docker-ce", package_name, |text| {
        let (name, _) = text.split_once(['=', ' '])?;
        package_name(name).ok().map(|()| format!("write `{name}`: its version does not matter there"))
    };
    /// The name of a file below /etc/apt.
    SourceName: "apt-source-name", "the name of a file: letters, digits, `.`, `_` and `-`", "docker", source_name, no_advice;
    /// The address of a package repository.
    AptUri: "apt-uri", "the address of a repository: https://, http://, file:/ or copy:/", "https://download.docker.com/linux/{distribution}",
        apt_uri, no_advice;
    /// A suite of a repository, or a path in it.
    Suite: "apt-suite", "a suite, or a path that ends in `/`", "stable", suite, no_advice;
    /// A component of a repository.
    Component: "apt-component", "a component", "main", |text| check_word(text, "._-/+").and_then(|()| require(!text.starts_with(['-', '/']))), no_advice;
    /// The address of a key.
    KeyUrl: "key-url", "the address of a key: https:// or http://, a host and a path", "https://download.docker.com/linux/ubuntu/gpg",
        |text| url(text, &["https", "http"]), |text| (text.starts_with('/')).then(|| format!("write key = {text:?} for a file on the node"));
    /// The address of a deb.
    DebUrl: "deb-url", "the address of a deb: https://, http:// or file://", "https://example.com/titus.deb", deb_url, |text| {
        if text.starts_with("s3://") {
            return Some("write the https:// address of the object: what S3 has signed, or what the bucket's policy lets the node read".into());
        }
        text.starts_with('/').then(|| format!("write path = {text:?} for a file on the node"))
    };
    /// A SHA-256.
    Sha256: "sha256", "a SHA-256: 64 hexadecimal digits", "5e2a1d3d4c7f0b8a9e6d5c4b3a29180706f5e4d3c2b1a09f8e7d6c5b4a392817",
        |text| hex(text, 64), |text| find_digits(text, 64);
    /// The fingerprint of an OpenPGP key.
    Fingerprint: "openpgp-fingerprint", "the fingerprint of a key: 40 hexadecimal digits", "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
        |text| hex(text, 40), |text| find_digits(text, 40);
    /// A path on the node.
    AbsolutePath: "path", "an absolute path without `..`", "/opt/titus", path, |text| {
        let meant = text.strip_prefix("file://")?;
        path(meant).ok().map(|()| format!("write `{meant}`"))
    };
    /// A file on the node, under any name that people choose.
    FilePath: "path", "an absolute path without `..`", "/opt/titus.deb", file_path, |text| {
        let meant = text.strip_prefix("file://")?;
        file_path(meant).ok().map(|()| format!("write `{meant}`"))
    };
    /// A systemd unit that can be started.
    UnitName: "systemd-unit", "a unit of systemd", "titus-reaper.service", unit, |text| {
        let name = text.rsplit('/').next()?;
        let meant = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
        (meant != text && unit(&meant).is_ok()).then(|| format!("write `{meant}`"))
    };
    /// A user of the node.
    UserName: "user", "the name of a user", "ubuntu", user, no_advice;
}

/// Debian Policy, 5.6.1 and 5.6.12.
fn package(text: &str) -> Result<(), String> {
    match text.split_once('=') {
        Some((name, version)) => package_name(name).and_then(|()| self::version(version)),
        None => package_name(text),
    }
}

fn package_name(text: &str) -> Result<(), String> {
    let (name, architecture) = text.split_once(':').map_or((text, None), |(name, of)| (name, Some(of)));
    if architecture
        .is_some_and(|of| of.is_empty() || check_word(of, "-").is_err() || of.starts_with(|c: char| c.is_ascii_digit()))
    {
        return Err("put an architecture after `:`, e.g. `:amd64`, and a version after `=`".into());
    }
    if let Some(c) = name.chars().find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !"+-.".contains(*c)) {
        return Err(format!("{c:?} is not allowed in the name of a package"));
    }
    if name.len() < 2 {
        return Err("a name has at least two characters".into());
    }
    require(name.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .map_err(|_| "a name must begin with a letter or a digit".into())
}

fn version(text: &str) -> Result<(), String> {
    let rest = match text.split_once(':') {
        Some((epoch, rest)) if !epoch.is_empty() && epoch.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        Some(_) => return Err("the epoch of a version must be a number".into()),
        None => text,
    };
    let (upstream, revision) =
        rest.rsplit_once('-').map_or((rest, None), |(upstream, revision)| (upstream, Some(revision)));
    if upstream.is_empty() || revision == Some("") {
        return Err("its version is incomplete".into());
    }
    if text.contains('*') {
        return Err("a version must be exact; leave it out to install the newest".into());
    }
    check_word(upstream, ".+-~:").and_then(|()| check_word(revision.unwrap_or("0"), ".+~"))?;
    require(upstream.starts_with(|c: char| c.is_ascii_digit())).map_err(|_| "a version must begin with a digit".into())
}

fn source_name(text: &str) -> Result<(), String> {
    check_word(text, "._-").and_then(|()| check_length(text, 100)).and_then(|()| require(!text.starts_with(['-', '.'])))
}

/// Replaces the placeholders of a text.
fn fill_placeholders(text: &str) -> String {
    text.replace("{distribution}", "debian").replace("{codename}", "bookworm")
}

fn apt_uri(text: &str) -> Result<(), String> {
    let text = fill_placeholders(text);
    match ["file:", "copy:"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(local) => path(local.strip_prefix("//").unwrap_or(local).trim_end_matches('/'))
            .map_err(|_| "`file:` must be followed by an absolute path".into()),
        None => url(&text, &["https", "http"]),
    }
}

fn suite(text: &str) -> Result<(), String> {
    let text = fill_placeholders(text);
    check_word(&text, "._-/+~")?;
    require(!text.starts_with('-') && text.split('/').all(|part| part != ".."))
}

fn deb_url(text: &str) -> Result<(), String> {
    match text.strip_prefix("file://") {
        Some(local) => path(local).map_err(|_| "`file://` must be followed by an absolute path".into()),
        None => url(text, &["https", "http"]),
    }
}

/// Checks an address with one of these schemes. Errors never quote the part before the `@`.
fn url(text: &str, schemes: &[&str]) -> Result<(), String> {
    let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| schemes.contains(scheme)) else {
        return Err(format!("it does not begin with {}", schemes.join(":// or ") + "://"));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, place) = authority.rsplit_once('@').map_or((None, authority), |(user, place)| (Some(user), place));
    if user.is_some_and(|user| check_word(user, "-._~!$&()*+,;=:%").is_err() || !is_encoded(user)) {
        return Err("special characters in user and password must be percent-encoded, e.g. `%40` for `@`".into());
    }
    let (name, number) = match place.rsplit_once(':').filter(|_| !place.ends_with(']')) {
        Some((name, number)) => (name, Some(number)),
        None => (place, None),
    };
    require(host(name).is_ok()).map_err(|_| "its host is not a name or an address".to_owned())?;
    require(number.is_none_or(|number| port(number).is_some()))
        .map_err(|_| "a port is a number from 1 to 65535".to_owned())?;
    let is_path = path.is_ascii() && check_word(path, "-._~!$&'()*+,;=:@%/?#[]").is_ok() && is_encoded(path);
    require(is_path).map_err(|_| "special characters in a path must be percent-encoded, e.g. `%20` for a blank".into())
}

fn hex(text: &str, digits: usize) -> Result<(), String> {
    match text.chars().find(|c| !c.is_ascii_hexdigit()) {
        Some(c) => Err(format!("{c:?} is not a hexadecimal digit")),
        None => require(text.len() == digits).map_err(|_| format!("it has {}", text.len())),
    }
}

/// Extracts the digits from a text with the additions that people copy: blanks, colons, `0x`, `sha256:`.
fn find_digits(text: &str, digits: usize) -> Option<String> {
    let text = text.trim().trim_start_matches("sha256:").trim_start_matches("0x");
    let first = if digits == 64 { text.split_whitespace().next()? } else { text };
    let meant: String = first.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    hex(&meant, digits).ok().map(|()| format!("write `{meant}`"))
}

pub(super) fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("it does not begin with `/`".into());
    }
    check_word(text, "/._-@+")?;
    if text.contains("//") {
        return Err("it has two adjacent slashes".into());
    }
    file_path(text)
}

fn file_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err("it does not begin with `/`".into());
    }
    if text.split('/').any(|part| part == "..") {
        return Err("it has `..`".into());
    }
    if text.ends_with('/') {
        return Err("it ends with `/`".into());
    }
    check_length(text, 4095)
}

/// systemd.unit(5).
fn unit(text: &str) -> Result<(), String> {
    const SUFFIXES: [&str; 9] = ["service", "socket", "timer", "target", "path", "mount", "automount", "slice", "swap"];
    let Some((name, suffix)) = text.rsplit_once('.').filter(|(_, suffix)| SUFFIXES.contains(suffix)) else {
        return Err(format!("its name must end with .{}", SUFFIXES.join(", .")));
    };
    check_word(name, ":-_.\\@")?;
    if name.is_empty() || name.starts_with(['@', '-', '.']) || name.matches('@').count() > 1 {
        return Err("it has no name before its suffix".into());
    }
    if name.ends_with('@') {
        return Err(format!("it is a template; name an instance of it, e.g. `{name}1.{suffix}`"));
    }
    check_length(text, 255)
}

/// Rules of useradd(8), plus the capitals and dots that directory services allow.
fn user(text: &str) -> Result<(), String> {
    check_word(text, "._-").and_then(|()| check_length(text, 32))?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a number would be taken for a user id".into());
    }
    require(!text.starts_with(['-', '.']))
}
