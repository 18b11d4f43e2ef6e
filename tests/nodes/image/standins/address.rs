//! The addresses of libprocess: where it listens, and what it advertises, which Mesos's agent has in its pid, and a
//! framework, too.
#![allow(dead_code)] // No program uses all of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;
use std::{env, fs};

/// How long Mesos's master tries to reach an agent or a framework.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where to listen, and what to advertise: both are what the first of these variables says that is set. Without one it
/// is everywhere, and what the host's name resolves to first. In a node only /etc/hosts resolves it.
///
/// # Errors
/// The value is not an address, or the name does not resolve.
pub fn own(variables: &[&str]) -> Result<(IpAddr, IpAddr), String> {
    if let Some((name, text)) = variables.iter().find_map(|name| Some((name, env::var(name).ok()?))) {
        let address: IpAddr = text.parse().map_err(|e| format!("{name}={text}: {e}"))?;
        return Ok((address, address));
    }
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").map_err(|e| e.to_string())?;
    let hostname = hostname.trim();
    let hosts = fs::read_to_string("/etc/hosts").map_err(|e| format!("/etc/hosts: {e}"))?;
    let found = hosts.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4)?;
        words.any(|name| name == hostname).then_some(address)
    });
    found.map(|address| (IpAddr::V4(Ipv4Addr::UNSPECIFIED), address)).ok_or_else(|| {
        format!("Failed to obtain the IP address for '{hostname}'; the DNS service may not be able to resolve it")
    })
}

/// Whether the process with this pid, e.g. `slave(1)@10.0.0.1:5051`, is reachable.
pub fn is_reachable(pid: &str) -> bool {
    let address = pid.rsplit('@').next().and_then(|address| address.parse::<SocketAddr>().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
}
