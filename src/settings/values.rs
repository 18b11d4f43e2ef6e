//! Forms of values that more than one place asks about, and types that are checked when they are read.

/// Whether a text is a host name or an address.
pub fn is_host(text: &str) -> bool {
    is_word(text, ".-:") && !text.starts_with('-')
}

/// A port that something can listen to.
pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// The host and the port of `host:port`.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, number) = text.rsplit_once(':')?;
    Some((host, port(number)?)).filter(|_| is_host(host))
}

/// Whether a text has letters and digits, those of `also`, and nothing else.
pub fn is_word(text: &str, also: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}
