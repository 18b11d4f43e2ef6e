//! The Docker Engine, images and registries.

use super::debian::path;
use super::net::host;
use super::{check_word, forms, no_advice, require};
use crate::settings::values::port;

forms! {
    /// An image, by tag or digest.
    ImageReference: "image-reference", "name:tag or name@sha256:digest", "jplock/zookeeper:3.4.10", image, |text| {
        let rest = text.trim().split_once("://").map(|(_, rest)| rest)?;
        image(rest).ok().map(|()| format!("write `{rest}`"))
    };
    /// A registry, with an optional path.
    Registry: "registry", "host[:port][/path] of a registry", "docker.io", registry, no_advice;
    /// The address of the Docker Engine's API.
    DockerHost: "docker-host", "unix:///PATH or tcp://host:port", "unix:///var/run/docker.sock", docker_host, |text| {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let meant = if rest.starts_with('/') { format!("unix://{rest}") } else { format!("tcp://{rest}") };
        (meant != text && docker_host(&meant).is_ok()).then(|| format!("write `{meant}`"))
    };
    /// dockerd's log level.
    DockerLogLevel: "docker-log-level", "debug, info, warn, error or fatal", "info", log_level, |text| {
        let meant = match text.to_ascii_lowercase().as_str() {
            "warning" => "warn".to_owned(),
            "trace" | "verbose" => "debug".to_owned(),
            "critical" | "panic" => "fatal".to_owned(),
            other => other.to_owned(),
        };
        log_level(&meant).ok().map(|()| format!("write `{meant}`"))
    };
    /// A log driver of the Docker Engine.
    LogDriver: "log-driver", "a log driver of Docker's, or a plugin", "json-file", log_driver, no_advice;
    /// A number of bytes in Docker's notation.
    LogSize: "size", "a number and k, m or g", "10m", size, |text| {
        let meant: String = text.to_ascii_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
        let meant = meant.trim_end_matches('b').trim_end_matches('i').to_owned();
        (meant != text && size(&meant).is_ok()).then(|| format!("write `{meant}`"))
    };
}

/// The grammar comes from github.com/distribution/reference.
fn image(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return Err("the name of an image has no scheme".into());
    }
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    if let Some(digest) = digest {
        let digits = digest.strip_prefix("sha256:").unwrap_or_default();
        let is_digest =
            digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        require(is_digest)
            .map_err(|_| "a digest is `sha256:` followed by 64 hexadecimal digits in lower case".to_owned())?;
    }
    // The part after the last colon is a tag, unless it is the port of a registry.
    let (name, tag) = match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
        Some((name, tag)) => (name, Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        let fits = check_word(tag, "._-").is_ok() && (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']);
        require(fits).map_err(|_| {
            "a tag consists of at most 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`"
                .to_owned()
        })?;
    }
    if tag.is_none() && digest.is_none() {
        repository(name)?;
        return Err("it has no tag".into());
    }
    repository(name)
}

/// `[registry/]path`.
fn repository(name: &str) -> Result<(), String> {
    if name.len() > 255 {
        return Err("its name is longer than 255 characters".into());
    }
    let (first, path) = name.split_once('/').unwrap_or(("", name));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    if is_registry {
        domain(first)?;
        return parts(path);
    }
    parts(name)
}

fn domain(text: &str) -> Result<(), String> {
    let (name, number) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        Some((name, number)) => (name, Some(number)),
        None => (text, None),
    };
    host(name).map_err(|why| if why.is_empty() { why } else { format!("its registry: {why}") })?;
    require(number.is_none_or(|number| port(number).is_some())).map_err(|_| "a port is a number from 1 to 65535".into())
}

/// Checks the path of an image: lower case, with single separators between letters and digits (`__` and any number of `-` are also allowed).
fn parts(path: &str) -> Result<(), String> {
    for part in path.split('/') {
        if part.is_empty() {
            return Err("it has an empty part between slashes".into());
        }
        if let Some(c) = part.chars().find(|c| !c.is_ascii_lowercase() && !c.is_ascii_digit() && !"._-".contains(*c)) {
            return Err(format!("{c:?} is not allowed in the name of an image"));
        }
        let is_separator = |c: char| "._-".contains(c);
        let separators = part.split(|c| !is_separator(c)).filter(|between| !between.is_empty());
        let is_single = |between: &str| matches!(between, "." | "_" | "__") || between.bytes().all(|byte| byte == b'-');
        if part.starts_with(is_separator) || part.ends_with(is_separator) || !separators.into_iter().all(is_single) {
            return Err(format!("`{part}` has a separator where a letter or digit is expected"));
        }
    }
    Ok(())
}

fn registry(text: &str) -> Result<(), String> {
    if text.contains("://") {
        return Err("a registry has no scheme".into());
    }
    let (first, path) = text.split_once('/').map_or((text, None), |(first, path)| (first, Some(path)));
    domain(first)?;
    path.map_or(Ok(()), parts)
}

fn docker_host(text: &str) -> Result<(), String> {
    if let Some(socket) = text.strip_prefix("unix://") {
        return path(socket).map_err(|_| "`unix://` must be followed by an absolute path".into());
    }
    let Some(place) = text.strip_prefix("tcp://") else {
        return Err("it does not begin with unix:// or tcp://".into());
    };
    let Some((name, number)) = place.rsplit_once(':').filter(|_| !place.ends_with(']')) else {
        return Err("it has no port".into());
    };
    host(name)?;
    require(port(number).is_some()).map_err(|_| "a port is a number from 1 to 65535".into())
}

fn log_level(text: &str) -> Result<(), String> {
    require(["debug", "info", "warn", "error", "fatal"].contains(&text))
}

fn log_driver(text: &str) -> Result<(), String> {
    const OWN: [&str; 11] = [
        "none",
        "local",
        "json-file",
        "syslog",
        "journald",
        "gelf",
        "fluentd",
        "awslogs",
        "splunk",
        "etwlogs",
        "gcplogs",
    ];
    // A plugin has the name of its image.
    if OWN.contains(&text) || image(text).is_ok() {
        return Ok(());
    }
    Err(format!("Docker has {}", OWN.join(", ")))
}

fn size(text: &str) -> Result<(), String> {
    let digits = text.strip_suffix(['k', 'm', 'g']).ok_or_else(String::new)?;
    let number = digits.parse::<u32>().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    require(number.is_some_and(|number| number > 0))
        .map_err(|_| "it must begin with a whole number of at least 1".into())
}
