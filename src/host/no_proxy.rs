//! Which addresses are contacted without a proxy: those of the node and of the instance's services, independent of the
//! settings, and those of `proxy.no_proxy`. The entries have the form and meaning of Go's httpproxy, which dockerd and
//! the credential helpers of registries use. The program converts the list for each tool, so that all of them agree.

use std::fmt;
use std::net::IpAddr;

/// Names of the node itself, and of the metadata service in EC2's DNS.
const OWN_NAMES: [&str; 5] =
    ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "instance-data.ec2.internal"];

/// Loopback, the unspecified address, link-local (the metadata service, credentials of containers), and EC2's IPv6
/// network for the same services.
const OWN_NETWORKS: [&str; 7] =
    ["127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "::1", "::", "fe80::/10", "fd00:ec2::/32"];

/// The addresses that are never contacted through a proxy, in Go's form.
pub fn own_entries() -> String {
    [&OWN_NAMES[..], &OWN_NETWORKS[..]].concat().join(",")
}

/// An entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `*`.
    All,
    /// `10.0.0.0/8`: the address of a network and the length of its prefix in bits.
    Network(IpAddr, u8),
    /// `10.0.0.1`, `[fd00::1]:8080`; with a port it matches only that port.
    Address(IpAddr, Option<u16>),
    /// `example.com`, `.example.com`, `example.com:8080`.
    Domain {
        /// The name in lower case, without a dot before it.
        name: String,
        /// Whether it matches the name itself, and not only names below it.
        itself: bool,
        /// The only port that it matches.
        port: Option<u16>,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Entry::All => return f.write_str("*"),
            Entry::Network(address, bits) => return write!(f, "{address}/{bits}"),
            Entry::Address(address @ IpAddr::V6(_), Some(port)) => return write!(f, "[{address}]:{port}"),
            Entry::Address(address, port) => {
                write!(f, "{address}")?;
                port
            }
            Entry::Domain { name, itself, port } => {
                write!(f, "{}{name}", if *itself { "" } else { "." })?;
                port
            }
        };
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Parses the entries of a list.
///
/// # Errors
/// Fails at the first invalid entry; the error is a message.
pub fn parse_entries(list: &str) -> Result<Vec<Entry>, String> {
    list.split(',').map(parse_entry).collect()
}

fn parse_entry(text: &str) -> Result<Entry, String> {
    let wrong = |why: &str| Err(format!("`{text}` in it {why}"));
    if text.is_empty() {
        return Err("it has an empty entry".into());
    }
    if text.contains(char::is_whitespace) {
        return wrong("has a blank");
    }
    if text == "*" {
        return Ok(Entry::All);
    }
    if let Some((address, bits)) = text.split_once('/') {
        let Ok(address) = address.parse::<IpAddr>() else { return wrong("is neither a network nor a name") };
        let most = if address.is_ipv4() { 32 } else { 128 };
        return match number(bits).filter(|bits| *bits <= most) {
            Some(bits) => Ok(Entry::Network(address, u8::try_from(bits).unwrap_or(u8::MAX))),
            None if bits.contains(':') => wrong("is a network with a port"),
            None => wrong("is not a network: its length is a number of bits"),
        };
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Entry::Address(address, None));
    }
    let (host, port) = match text.rsplit_once(':').filter(|_| !text.ends_with(']')) {
        None => (text, None),
        Some((host, port)) => match number(port).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) {
            Some(port) => (host, Some(port)),
            None => return wrong("has no port from 1 to 65535 after its colon"),
        },
    };
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if let Some(inner) = bracketed {
        return match inner.parse::<IpAddr>() {
            Ok(address @ IpAddr::V6(_)) => Ok(Entry::Address(address, port)),
            _ => wrong("has no IPv6 address in its brackets"),
        };
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        // `fd00::1:80` is a valid address.
        return if address.is_ipv4() {
            Ok(Entry::Address(address, port))
        } else {
            wrong("has no brackets around its address")
        };
    }
    let below = host.strip_prefix("*.").or_else(|| host.strip_prefix('.'));
    let name = below.unwrap_or(host).to_ascii_lowercase();
    if name.contains('*') {
        return wrong("has a `*`, which is valid only alone or as `*.` at the start");
    }
    if !is_name(&name) {
        return wrong("is neither a name nor an address");
    }
    Ok(Entry::Domain { name, itself: below.is_none(), port })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Guesses the valid entry that a user meant by a part of a list.
pub fn suggest(part: &str) -> Option<String> {
    let part = part.trim().trim_matches(['"', '\'']);
    if parse_entry(part).is_ok() {
        return Some(part.to_owned());
    }
    // `10.0.*` and `10.0.` mean a network.
    let start = part.trim_end_matches(['*', '.']);
    let numbers: Vec<&str> = start.split('.').collect();
    if part.len() > start.len() && numbers.len() < 4 && numbers.iter().all(|n| number(n).is_some_and(|n| n < 256)) {
        let zeros = vec!["0"; 4 - numbers.len()];
        return Some(format!("{}/{}", [numbers.clone(), zeros].concat().join("."), 8 * numbers.len()));
    }
    let rest = part.split_once("://").map_or(part, |(_, rest)| rest).trim_end_matches(['/', '.']);
    let rest = rest.strip_prefix('*').unwrap_or(rest);
    parse_entry(rest).is_ok().then(|| rest.to_owned())
}

impl Entry {
    fn includes(&self, host: &Host, at: u16) -> bool {
        match (self, host) {
            (Entry::All, _) => true,
            (Entry::Network(network, bits), Host::Address(address)) => is_within(*address, *network, *bits),
            (Entry::Address(known, port), Host::Address(address)) => {
                known.to_canonical() == *address && port.is_none_or(|port| port == at)
            }
            (Entry::Domain { name, itself, port }, Host::Name(asked)) => {
                let is_below = asked.strip_suffix(name.as_str()).is_some_and(|before| before.ends_with('.'));
                (is_below || *itself && asked == name) && port.is_none_or(|port| port == at)
            }
            _ => false,
        }
    }
}

/// The host of an address.
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Host {
    fn read(text: &str) -> Host {
        match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => Host::Address(address.to_canonical()),
            Err(_) => Host::Name(text.trim_end_matches('.').to_ascii_lowercase()),
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, length: u32| {
        let shift = length.saturating_sub(u32::from(bits));
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Whether a host is contacted directly at a port, because of the program's own entries or those of the list. Ignores
/// invalid entries; the lists of settings have none.
pub fn is_direct(list: Option<&str>, host: &str, port: u16) -> bool {
    let host = Host::read(host);
    let own = own_entries();
    let all = own.split(',').chain(list.into_iter().flat_map(|list| list.split(',')));
    all.filter_map(|text| parse_entry(text).ok()).any(|entry| entry.includes(&host, port))
}

/// The list in Go's form, with the program's own entries.
pub fn for_go(list: Option<&str>) -> String {
    list.map_or_else(own_entries, |list| format!("{list},{}", own_entries()))
}

/// The list for an operator's command. curl before 7.86 and wget do not support networks, so the list also has the two
/// addresses that commands use most.
pub fn for_commands(list: Option<&str>) -> String {
    format!("127.0.0.1,169.254.169.254,{}", for_go(list))
}

/// The list for apt: the hosts for which its configuration has DIRECT, and the value of its variable `no_proxy`, with
/// which apt only compares the ends of names. apt supports neither networks nor ports, so those are resolved for
/// `places`, the hosts and ports of its sources. An entry with a port then applies to all ports of that host.
pub fn for_apt(list: Option<&str>, places: &[(String, u16)]) -> (Vec<String>, String) {
    let own = own_entries();
    let all = own.split(',').chain(list.into_iter().flat_map(|list| list.split(',')));
    let (mut hosts, mut ends) = (Vec::new(), Vec::new());
    for entry in all.filter_map(|text| parse_entry(text).ok()) {
        if let Entry::Domain { name, itself, port: None } = entry {
            ends.push(format!(".{name}"));
            hosts.extend(itself.then_some(name));
        } else if let Entry::Address(address @ IpAddr::V4(_), None) = entry {
            hosts.push(address.to_string());
        }
    }
    for (host, _) in places.iter().filter(|(host, port)| is_direct(list, host, *port)) {
        match Host::read(host) {
            // An IPv6 address cannot be in a setting's name, because apt separates the parts of those with `::`.
            Host::Address(address @ IpAddr::V6(_)) => ends.push(address.to_string()),
            Host::Address(address) => hosts.push(address.to_string()),
            Host::Name(name) => hosts.push(name),
        }
    }
    for texts in [&mut hosts, &mut ends] {
        texts.sort();
        texts.dedup();
    }
    (hosts, ends.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As golang.org/x/net/http/httpproxy decides (config.init, useProxy), v0.43.
    fn go_asks_directly(no_proxy: &str, host: &str, port: u16) -> bool {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback()) {
            return true;
        }
        let split = |text: &str| -> Option<(String, u16)> {
            let (host, port) = text.rsplit_once(':')?;
            let host = match host.strip_prefix('[') {
                Some(inner) => inner.strip_suffix(']')?,
                None if host.contains(':') => return None,
                None => host,
            };
            Some((host.to_owned(), port.parse().ok()?))
        };
        no_proxy.split(',').map(|part| part.trim().to_lowercase()).any(|part| {
            if part == "*" {
                return true;
            }
            if let Some((network, bits)) = part.split_once('/')
                && let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u8>())
            {
                return address.is_some_and(|address| is_within(address.to_canonical(), network.to_canonical(), bits));
            }
            let (name, at) = split(&part).map_or((part.clone(), None), |(name, port)| (name, Some(port)));
            let at_port = at.is_none_or(|at| at == port);
            if let Ok(known) = name.parse::<IpAddr>() {
                return address.is_some_and(|a| a.to_canonical() == known.to_canonical()) && at_port;
            }
            if address.is_some() || name.is_empty() {
                return false;
            }
            let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(&name);
            let (dotted, itself) =
                if name.starts_with('.') { (name.to_owned(), false) } else { (format!(".{name}"), true) };
            let host = host.to_lowercase();
            (host.ends_with(&dotted) || itself && host == dotted[1..]) && at_port
        })
    }

    /// As apt's http method decides (methods/http.cc; CheckDomainList of apt-pkg/contrib/strutl.cc), 2.6.1.
    fn apt_asks_directly((hosts, no_proxy): &(Vec<String>, String), host: &str) -> bool {
        let host = host.trim_matches(['[', ']']).to_lowercase();
        hosts.contains(&host) || no_proxy.split(',').any(|end| !end.is_empty() && host.ends_with(end))
    }

    type Places = &'static [(&'static str, u16)];

    /// A list, the hosts and ports that it makes direct, and others that it does not.
    const CASES: [(&str, Places, Places); 14] = [
        ("", &[], &[("example.com", 80), ("10.0.0.1", 80)]),
        ("*", &[("example.com", 80), ("10.0.0.1", 443), ("[2001:db8::1]", 80)], &[]),
        ("a.test,*", &[("example.com", 80)], &[]),
        (
            "example.com",
            &[("example.com", 80), ("EXAMPLE.com", 443), ("x.example.com", 80), ("x.y.example.com", 80)],
            &[("notexample.com", 80), ("example.com.test", 80), ("com", 80)],
        ),
        (
            ".example.com",
            &[("x.example.com", 80), ("x.y.example.com", 80)],
            &[("example.com", 80), ("xexample.com", 80)],
        ),
        ("*.example.com", &[("x.example.com", 80)], &[("example.com", 80), ("xexample.com", 80)]),
        ("Example.COM", &[("x.example.com", 80)], &[]),
        ("example.com:8080", &[("example.com", 8080), ("x.example.com", 8080)], &[("example.com", 80)]),
        (".example.com:8080", &[("x.example.com", 8080)], &[("x.example.com", 80), ("example.com", 8080)]),
        (
            "10.0.0.1",
            &[("10.0.0.1", 80), ("10.0.0.1", 8080)],
            &[("110.0.0.1", 80), ("10.0.0.11", 80), ("x.10.0.0.1.test", 80)],
        ),
        ("10.0.0.1:8080", &[("10.0.0.1", 8080)], &[("10.0.0.1", 80)]),
        (
            "10.0.0.0/8",
            &[("10.0.0.1", 80), ("10.255.255.255", 443), ("[::ffff:10.0.0.1]", 80)],
            &[("11.0.0.1", 80), ("10.test", 80)],
        ),
        (
            "10.1.2.3/12,2001:db8::/32",
            &[("10.15.0.1", 80), ("[2001:db8::1]", 80)],
            &[("10.16.0.1", 80), ("[2001:db9::1]", 80)],
        ),
        (
            "[2001:db8::1],[2001:db8::2]:8080",
            &[("[2001:db8::1]", 80), ("[2001:db8::2]", 8080)],
            &[("[2001:db8::2]", 80)],
        ),
    ];

    #[test]
    fn each_entry_means_the_same_to_the_program_to_go_and_to_apt() {
        for (list, direct, proxied) in CASES {
            // In the form of a setting.
            let list: Vec<String> = list
                .split(',')
                .filter(|text| !text.is_empty())
                .map(|text| parse_entry(text).unwrap().to_string())
                .collect();
            let list = Some(list.join(",")).filter(|list| !list.is_empty());
            let list = list.as_deref();
            for ((host, port), is) in direct.iter().map(|at| (at, true)).chain(proxied.iter().map(|at| (at, false))) {
                assert_eq!(is_direct(list, host, *port), is, "{list:?} {host}:{port}");
                assert_eq!(go_asks_directly(&for_go(list), host, *port), is, "Go: {list:?} {host}:{port}");
                let apt = for_apt(list, &[((*host).to_owned(), *port)]);
                // apt knows only the form of an address that is in its sources.
                if !host.contains("ffff") {
                    assert_eq!(apt_asks_directly(&apt, host), is, "apt: {list:?} {host}:{port}: {apt:?}");
                }
            }
        }
    }

    #[test]
    fn loopback_link_local_and_the_instances_services_never_go_through_a_proxy() {
        for list in [None, Some("example.com"), Some(".internal,10.0.0.0/8")] {
            for host in [
                "localhost",
                "LOCALHOST",
                "x.localhost",
                "127.0.0.1",
                "127.1.2.3",
                "0.0.0.0",
                "[::1]",
                "[::]",
                "[::ffff:127.0.0.1]",
                "169.254.169.254",
                "169.254.170.2",
                "169.254.1.1",
                "[fe80::1]",
                "[febf::1]",
                "[fd00:ec2::254]",
                "[fd00:ec2::23]",
                "ip6-localhost",
                "localhost.localdomain",
                "instance-data.ec2.internal",
                "[::ffff:169.254.169.254]",
            ] {
                assert!(is_direct(list, host, 80), "{host}");
                assert!(go_asks_directly(&for_go(list), host, 80), "Go: {host}");
                let apt = for_apt(list, &[(host.to_owned(), 80)]);
                assert!(host.contains("ffff") || apt_asks_directly(&apt, host), "apt: {host}: {apt:?}");
            }
            // The program accepts the final dot, Go does not.
            assert!(is_direct(list, "localhost.", 80));
            for host in
                ["localhost.example.org", "128.0.0.1", "169.255.0.1", "[fec0::1]", "[fd00:ec3::254]", "notlocalhost"]
            {
                assert!(!is_direct(list, host, 80), "{host}");
                assert!(!go_asks_directly(&for_go(list), host, 80), "Go: {host}");
            }
        }
    }

    #[test]
    fn an_invalid_entry_is_refused_with_a_suggestion() {
        for (text, what) in [
            ("", None),
            ("a b", None),
            ("10.0.*", Some("10.0.0.0/16")),
            ("10.", Some("10.0.0.0/8")),
            ("192.168.1.*", Some("192.168.1.0/24")),
            ("*example.com", Some("example.com")),
            ("exa*mple.com", None),
            ("http://example.com/", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com:0", None),
            ("example.com:99999", None),
            ("10.0.0.0/33", None),
            ("10.0.0.0/8:80", None),
            ("10.0.0/24", None),
            ("256.0.0.1", None),
            ("10.0.0", None),
            ("[10.0.0.1]", None),
            ("[::1", None),
            ("fd00::1/129", None),
            ("-x.test", None),
            ("müller.example", None),
            ("a..b", None),
            (".", None),
            ("*.", None),
            ("**", Some("*")),
        ] {
            assert!(parse_entry(text).is_err(), "{text}");
            assert_eq!(suggest(text).as_deref(), what, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "([a-z0-9.:*/,\\[\\]-]|\\PC){0,40}") {
            let _ = parse_entries(&text);
            suggest(&text);
            is_direct(Some(&text), &text, 80);
            for_apt(Some(&text), &[(text.clone(), 80)]);
        }
    }
}
