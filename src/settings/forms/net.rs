//! Hosts, addresses, ports and proxies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::de::{Error, Visitor};

use super::{Form, check_common, check_word, forms, no_advice, require, text};
use crate::host::net::in_ascii;
use crate::host::no_proxy;
use crate::settings::values::port;

forms! {
    /// A host: a name, an IPv4 address, or an IPv6 address in brackets. Its users append a port.
    Host: "host", "a host name or an address, without a port", "10.0.0.1", host, no_advice;
    /// The host in the setting `prereqs`, which is short for two others.
    Prereqs: "prereqs", "a host name or an address, without a port", "10.0.0.1", host, |text| {
        let host = find_host(text)?;
        Some(format!("write `{host}`; the port is always 2181; to use another port, set zookeeper.servers"))
    };
    /// The host of the Titus master.
    MasterAddress: "master-address", "a host name or an address, without a port", "10.0.0.2", host, |text| {
        Some(format!("write `{}`; the Titus master's port is always 7001", find_host(text)?))
    };
    /// A ZooKeeper server.
    ZookeeperServer: "host-and-port", "host:port", "10.0.0.1:2181", server, |text| add_port(text, 2181);
    /// A Mesos master.
    MesosMaster: "host-and-port", "host:port", "10.0.0.1:5050", server, |text| add_port(text, 5050);
    /// An address to listen on.
    Listen: "listen-address", "an address and a port", "127.0.0.1:4243", listen, |text| {
        let port = text.strip_prefix("localhost:").or_else(|| text.strip_prefix("tcp://localhost:"))?;
        Some(format!("write `127.0.0.1:{}`", super::super::values::port(port)?))
    };
    /// The first and the last port of a range.
    PortRange: "port-range", "the first and the last port", "7150-7200", port_range, |text| {
        let numbers = text.trim_matches(['[', ']', ' ']).split(['-', ':', '–', ',', '.']).map(str::trim);
        let numbers: Vec<&str> = numbers.filter(|number| !number.is_empty()).collect();
        let [first, last] = numbers[..] else { return None };
        port_range(&format!("{first}-{last}")).ok().map(|()| format!("write `{first}-{last}`"))
    };
    /// The address of a proxy.
    ProxyUrl: "proxy-url", "http:// or https://, a host and a port; user and password before the host, percent-encoded",
        "http://proxy.example:3128", proxy_url, no_advice;
}

/// A port to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Port(u16);

impl<'de> serde::Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u16(PortNumber)
    }
}

struct PortNumber;

impl Visitor<'_> for PortNumber {
    type Value = Port;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a port, from 1 to 65535")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.map(Port).ok_or_else(|| E::custom(format!("{}a port, from 1 to 65535, e.g. `5051`", super::MUST)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
        self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl schemars::JsonSchema for Port {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
}

/// Destinations that are reached without a proxy, in the form that curl and Go accept: entries, separated by commas.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct NoProxy(String);

impl NoProxy {
    pub(crate) const FORM: Form = Form {
        must: "names, addresses and networks with commas between them: `example.com` and what is below it, `.example.com` \
               only what is below it, `10.0.0.0/8`, `host:8080`, `[fd00::1]:8080`, or `*`",
        example: ".internal,10.0.0.0/8",
        check: |text| no_proxy::parse_entries(text).map(drop),
        wish: |text| {
            let parts = text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()).filter(|part| !part.is_empty());
            let meant = parts.map(no_proxy::suggest).collect::<Option<Vec<_>>>()?.join(",");
            Some(format!("write `{meant}`")).filter(|_| !meant.is_empty())
        },
    };
}

impl TryFrom<String> for NoProxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::FORM.check(&text)?;
        // Normalize for Go, which accepts brackets only before a port.
        Ok(NoProxy(no_proxy::parse_entries(&text)?.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")))
    }
}

text!(NoProxy, "no-proxy", ".internal,10.0.0.0/8");

/// Checks a host to which a port can be appended.
pub(super) fn host(text: &str) -> Result<(), String> {
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return address.map_or(Err("it is not an IPv6 address in brackets".into()), |a| reachable(a.into()));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("put an IPv6 address in brackets, because a port is appended".into());
    }
    match text.parse::<Ipv4Addr>() {
        Ok(address) => reachable(address.into()),
        Err(_) => host_name(text),
    }
}

fn reachable(address: IpAddr) -> Result<(), String> {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || is_broadcast {
        return Err(format!("{address} is not the address of one host"));
    }
    Ok(())
}

/// Checks a name by the rules of DNS and /etc/hosts (RFC 952, RFC 1123).
pub(super) fn host_name(text: &str) -> Result<(), String> {
    if !text.is_ascii() {
        return Err("write a name outside ASCII in its DNS form, `xn--…`".into());
    }
    check_word(text, ".-")?;
    if text.len() > 253 {
        return Err("a name has at most 253 characters".into());
    }
    let labels: Vec<&str> = text.split('.').collect();
    if let Some(label) = labels.iter().find(|label| label.is_empty() || label.len() > 63) {
        return Err(if label.is_empty() {
            "it has an empty part between dots".into()
        } else {
            format!("`{label}` is longer than 63 characters")
        });
    }
    if let Some(label) = labels.iter().find(|label| label.starts_with('-') || label.ends_with('-')) {
        return Err(format!("`{label}` begins or ends with `-`"));
    }
    let last = labels.last().copied().unwrap_or_default();
    let is_hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    if last.bytes().all(|byte| byte.is_ascii_digit())
        || is_hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err("its last part is a number, so it must be an IPv4 address: four numbers from 0 to 255".into());
    }
    Ok(())
}

/// The host in a text that also has a scheme, a port or a path, or in a name outside ASCII.
fn find_host(text: &str) -> Option<String> {
    let text = text.trim().trim_matches(['"', '\'', ',', ';']);
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next()?;
    let rest = rest.trim_end_matches('.');
    if rest.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("[{rest}]"));
    }
    let tries = [Some(rest), rest.rsplit_once(':').map(|(host, _)| host)];
    let known = tries.into_iter().flatten().find(|meant| host(meant).is_ok() && check_common(meant).is_ok());
    known.map(str::to_owned).or_else(|| in_ascii(rest).filter(|name| !rest.is_ascii() && host(name).is_ok()))
}

/// Checks `host:port`.
fn server(text: &str) -> Result<(), String> {
    if text.contains(',') {
        return Err("write each server as a separate entry in the list".into());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err("put an IPv6 address in brackets, with the port after them".into());
    }
    let Some((name, number)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
        host(text)?;
        return Err("it has no port".into());
    };
    host(name)?;
    port(number).map(drop).ok_or_else(|| "a port is a number from 1 to 65535".into())
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

fn add_port(text: &str, default: u16) -> Option<String> {
    let one = |text: &str| {
        let text = text.trim();
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let rest = rest.split(['/', '?', '#']).next()?;
        if server(rest).is_ok() && check_common(rest).is_ok() {
            return Some(rest.to_owned());
        }
        // Do not replace a port that the operator wrote but that is invalid.
        let has_port =
            rest.parse::<Ipv6Addr>().is_err() && rest.rsplit_once(':').is_some_and(|(_, port)| is_digits(port));
        find_host(rest)
            .filter(|_| !has_port || rest.ends_with(']') || rest.ends_with(':'))
            .map(|host| format!("{host}:{default}"))
    };
    let parts: Vec<&str> = text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
    let meant: Vec<String> = parts.iter().map(|part| one(part)).collect::<Option<_>>()?;
    match meant.as_slice() {
        [] => None,
        [one] => Some(format!("write `{one}`")),
        several => {
            Some(format!("write `{}`", several.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")))
        }
    }
}

fn listen(text: &str) -> Result<(), String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(()),
        Ok(_) => Err("a port is a number from 1 to 65535".into()),
        Err(_) if text.starts_with("localhost") => Err("it is a name; a service listens on an address".into()),
        Err(_) => Err(String::new()),
    }
}

fn port_range(text: &str) -> Result<(), String> {
    let ends = text.split_once('-').filter(|(first, last)| is_digits(first) && is_digits(last));
    match ends.map(|(first, last)| (port(first), port(last))) {
        Some((Some(first), Some(last))) if first <= last => Ok(()),
        Some((Some(_), Some(_))) => Err("the last port is lower than the first".into()),
        Some(_) => Err("a port is a number from 1 to 65535".into()),
        None => Err(String::new()),
    }
}

/// Never quotes the text: it may contain a password.
fn proxy_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let Some(rest) = rest else {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        return Err(match scheme {
            Some("socks4" | "socks4a" | "socks5" | "socks5h") => "neither apt nor dockerd goes through SOCKS".into(),
            _ => "it does not begin with http:// or https://".into(),
        });
    };
    // People copy addresses with a slash at the end.
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#']) {
        return Err("a proxy has no path; write `/`, `?` or `#` in a password as `%2F`, `%3F` or `%23`".into());
    }
    let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
    if let Some(user) = user {
        if user.matches(':').count() > 1 {
            return Err("write `:` in a password as `%3A`".into());
        }
        // RFC 3986, 3.2.1, without `;` and quotes, which shells and systemd interpret.
        let is_word = check_word(user, "-._~!*+,=:%").is_ok() && is_encoded(user) && !user.starts_with(':');
        if !is_word {
            return Err("special characters in user and password must be percent-encoded, e.g. `%40` for `@`".into());
        }
    }
    let Some((name, number)) = place.rsplit_once(':').filter(|_| !place.ends_with(']')) else {
        return Err("it has no port".into());
    };
    // Drop the reason: it can quote the text.
    require(host(name).is_ok()).map_err(|_| "its host is not a name or an address".to_owned())?;
    require(port(number).is_some()).map_err(|_| "a port is a number from 1 to 65535".to_owned())
}

/// Whether each `%` is followed by two hexadecimal digits.
pub(super) fn is_encoded(text: &str) -> bool {
    text.split('%')
        .skip(1)
        .all(|rest| rest.get(..2).is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit())))
}
