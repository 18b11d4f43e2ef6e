//! The addresses of the interfaces through which this machine reaches others.

use std::net::{IpAddr, Ipv4Addr};

use super::Host;

/// One interface with a default route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The hardware address, in lower case with colons; empty if it has none.
    pub mac: String,
    /// The IPv4 addresses, without loopback and link-local ones.
    pub ipv4: Vec<Ipv4Addr>,
}

impl Host {
    /// The interfaces that have a default route. Interfaces that cannot be read are left out.
    pub fn interfaces(&self) -> Vec<Interface> {
        let routes = self.read_text("/proc/net/route").ok().flatten().unwrap_or_default();
        let mut names: Vec<&str> = routes.lines().filter_map(default_route).collect();
        names.dedup();
        let addresses: Vec<_> = nix::ifaddrs::getifaddrs().into_iter().flatten().collect();
        let read_interface = |name: &str| {
            let mac = self.read_text(&format!("/sys/class/net/{name}/address")).ok().flatten().unwrap_or_default();
            let own = addresses.iter().filter(|found| found.interface_name == name);
            let ipv4 = own.filter_map(|found| Some(found.address.as_ref()?.as_sockaddr_in()?.ip()));
            Interface {
                mac: mac.trim().to_ascii_lowercase(),
                ipv4: ipv4.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).collect(),
            }
        };
        names.into_iter().map(read_interface).collect()
    }

    /// The addresses of all interfaces.
    pub fn own_addresses(&self) -> Vec<IpAddr> {
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|found| found.address);
        let ip = |address: nix::sys::socket::SockaddrStorage| {
            let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|found| IpAddr::V6(found.ip())))
        };
        addresses.filter_map(ip).collect()
    }

    /// The current host name from gethostname(2); empty if the machine has no name.
    pub fn host_name(&self) -> String {
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// `eth0 00000000 016464A8 0003 0 0 100 00000000 0 0 0`: destination and mask are zero.
fn default_route(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields.first().copied())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_default_route_counts() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\n\
                     ens5\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                     docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\nx\n";
        assert_eq!(table.lines().filter_map(default_route).collect::<Vec<_>>(), ["ens5"]);
    }
}
