//! ZooKeeper's servers: each one's description of itself, and when one may stop or start for the first time.

use std::net::IpAddr;

use super::Values;
use super::part::{Input, Part};
use crate::error::{Error, Kind, Result};
use crate::facts::Instance;
use crate::settings::forms::ZookeeperServer;
use crate::settings::values::host_port;
use crate::settings::{Settings, ZOOKEEPER_PORT};

#[cfg(test)]
mod simulation;
mod turn;

pub use turn::{Data, ServerState, Turn, decide_turn};

impl Values {
    /// Derives all values of a prereqs node. `resolve` looks up a name.
    ///
    /// # Errors
    /// Fails with 78 when `zookeeper.servers` lacks the node, or contains a node twice, perhaps under two names.
    pub fn derive_prereqs(
        settings: &Settings,
        instance: &Instance,
        resolve: &dyn Fn(&str) -> Vec<IpAddr>,
    ) -> Result<Values> {
        let path = settings.mesos.zk_path.clone().unwrap_or_default();
        let servers = &settings.zookeeper.servers;
        let hosts: Vec<&str> = servers.iter().filter_map(|server| Some(host_port(server)?.0)).collect();
        let addresses: Vec<Vec<IpAddr>> = hosts.iter().map(|host| addresses(host, instance, resolve)).collect();
        refuse_duplicates(&hosts, &addresses)?;
        let own = find_position(&hosts, &addresses, instance);
        let Some(own) = own.or(servers.is_empty().then_some(0)) else {
            return Err(unlisted_error(servers, instance));
        };
        let port = servers.get(own).and_then(|server| host_port(server)).map_or(ZOOKEEPER_PORT, |(_, port)| port);
        let alone = servers.len() < 2;
        let mut values = Values::derive_common(settings);
        if alone {
            values.mesos_master = Some(format!("zk://localhost:{port}{path}"));
        }
        values.ensemble = Some(!alone);
        values.quorum = Some(servers.len().max(1) / 2 + 1);
        values.zookeeper_id = Some(own + 1);
        // The node's own name may resolve to loopback on the node itself, and a server binds to that address.
        let bound = |(n, host): (usize, &&str)| if n == own { &instance.local_ipv4 } else { *host }.to_owned();
        values.zookeeper_hosts = Some(hosts.iter().enumerate().map(bound).collect());
        values.zookeeper_port = Some(port);
        values.parts.extend(list_parts(settings, instance, alone));
        Ok(values)
    }
}

/// The parts of the values of a prereqs node.
fn list_parts(settings: &Settings, instance: &Instance, alone: bool) -> Vec<(&'static str, Vec<Part>)> {
    let servers = || Part::default().add_input(Input::new("zookeeper.servers", settings.zookeeper.servers.join(",")));
    let own = |part: Part| {
        part.add_input(Input { word: "this node is", ..Input::new("instance.local_ipv4", &instance.local_ipv4) })
    };
    let mut made = vec![
        ("ensemble", servers().operation("whether there are several")),
        ("quorum", servers().operation("more than half of them")),
        (
            "zookeeper_id",
            own(servers())
                .add_input(Input::new("instance.hostname", &instance.hostname))
                .operation("its place in the list"),
        ),
        ("zookeeper_hosts", own(servers())),
        ("zookeeper_port", own(servers()).operation(format!("its port, or {ZOOKEEPER_PORT}"))),
    ];
    if alone {
        let path = settings.mesos.zk_path.clone().unwrap_or_default();
        let part =
            servers().add_input(Input::new("mesos.zk_path", path)).operation("a lone server, asked on the node itself");
        made.push(("mesos_master", part));
    }
    made.into_iter().map(|(name, part)| (name, vec![part])).collect()
}

/// Whether a server's host is one of this node's names or addresses.
fn is_own(host: &str, instance: &Instance) -> bool {
    let short = instance.hostname.split('.').next().unwrap_or_default();
    let names = [instance.local_ipv4.as_str(), instance.hostname.as_str(), short];
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// The addresses at which others reach a host. A node's own name may resolve to loopback on the node.
fn addresses(host: &str, instance: &Instance, resolve: &dyn Fn(&str) -> Vec<IpAddr>) -> Vec<IpAddr> {
    if is_own(host, instance) {
        return instance.local_ipv4.parse().into_iter().collect();
    }
    let literal = host.parse().map(|address| vec![address]);
    literal.unwrap_or_else(|_| resolve(host).into_iter().filter(|address| !address.is_loopback()).collect())
}

/// A node that is listed as two servers would make the quorum smaller than it seems.
fn refuse_duplicates(hosts: &[&str], addresses: &[Vec<IpAddr>]) -> Result<()> {
    let fix = "name each server once: each runs on its own node";
    for (n, host) in hosts.iter().enumerate() {
        for (other, its) in hosts.iter().zip(addresses).take(n) {
            if other.eq_ignore_ascii_case(host) {
                return Err(Error::config(format!("zookeeper.servers lists {host} twice")).fix(fix));
            }
            if let Some(both) = addresses.get(n).into_iter().flatten().find(|address| its.contains(address)) {
                return Err(Error::config("zookeeper.servers lists one node twice")
                    .cause(format!("{other} and {host} both resolve to {both}"))
                    .fix(format!("{fix}; if a name resolves to the wrong node, correct DNS or /etc/hosts")));
            }
        }
    }
    Ok(())
}

fn find_position(hosts: &[&str], addresses: &[Vec<IpAddr>], instance: &Instance) -> Option<usize> {
    let loopback = |host: &str| hosts.len() == 1 && ["localhost", "127.0.0.1"].contains(&host);
    hosts.iter().position(|host| loopback(host) || is_own(host, instance)).or_else(|| {
        let address: IpAddr = instance.local_ipv4.parse().ok()?;
        addresses.iter().position(|its| its.contains(&address))
    })
}

fn unlisted_error(servers: &[ZookeeperServer], instance: &Instance) -> Error {
    Error::new(Kind::Config, "this node is not in zookeeper.servers")
        .cause(format!(
            "the node is {} ({}); the servers are {}",
            instance.local_ipv4,
            instance.hostname,
            servers.join(", ")
        ))
        .fix("add this node at the end of zookeeper.servers (the order numbers the servers), on every node; or give this node another role")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;

    /// The values of the sample's instance with these servers; `zk-N` resolves to 10.0.0.N, and `here` to the instance.
    fn of_servers(servers: &[&str]) -> Result<Values> {
        let instance = sample::facts().instance.unwrap();
        let mut settings = Settings::built_in().unwrap();
        settings.zookeeper.servers = servers.iter().map(|host| format!("{host}:2181").parse().unwrap()).collect();
        let own: IpAddr = instance.local_ipv4.parse().unwrap();
        Values::derive_prereqs(&settings, &instance, &|name| match name.strip_prefix("zk-") {
            Some(number) => vec![format!("10.0.0.{number}").parse().unwrap()],
            None if name == "here" => vec![own, "127.0.1.1".parse().unwrap()],
            None if name.starts_with("loop") => vec!["127.0.1.1".parse().unwrap()],
            None => Vec::new(),
        })
    }

    #[test]
    fn a_lone_server_may_be_listed_as_the_node_itself() {
        for servers in [&[][..], &["localhost"], &["127.0.0.1"]] {
            let values = of_servers(servers).unwrap();
            assert_eq!((values.zookeeper_id, values.quorum, values.ensemble), (Some(1), Some(1), Some(false)));
            assert_eq!(values.mesos_master.as_deref(), Some("zk://localhost:2181/titus/mainvpc/mesos"));
        }
        // Among several servers, each node would take the entry for itself.
        for servers in [["localhost", "zk-2"], ["zk-2", "127.0.0.1"]] {
            let error = of_servers(&servers).unwrap_err();
            assert_eq!((error.kind, error.what.as_str()), (Kind::Config, "this node is not in zookeeper.servers"));
        }
    }

    #[test]
    fn several_servers_are_an_ensemble_with_a_majority() {
        for (count, quorum) in [(2, 2), (3, 2), (4, 3), (5, 3)] {
            let others: Vec<String> = (2..=count).map(|n| format!("zk-{n}")).collect();
            let servers: Vec<&str> = std::iter::once("here").chain(others.iter().map(String::as_str)).collect();
            let values = of_servers(&servers).unwrap();
            assert_eq!((values.quorum, values.ensemble), (Some(quorum), Some(true)), "{count}");
            let hosts = values.zookeeper_hosts.unwrap();
            assert!(hosts[0] != "here" && hosts[1..] == others, "the node binds to its address: {hosts:?}");
        }
    }

    #[test]
    fn a_node_is_one_server() {
        let instance = sample::facts().instance.unwrap();
        let (own, hostname) = (instance.local_ipv4.as_str(), instance.hostname.as_str());
        for (servers, id) in [
            (vec!["zk-1", "here", "zk-3"], 2),
            (vec![own, "zk-2", "10.0.0.3"], 1),
            // Names that do not resolve, or only to the node itself, prove nothing.
            (vec!["unknown", "other", hostname], 3),
            (vec!["loop1", "loop2", own], 3),
        ] {
            assert_eq!(of_servers(&servers).unwrap().zookeeper_id, Some(id), "{servers:?}");
        }
        for (servers, words) in [
            (vec![own, "zk-2", "zk-2"], "zk-2 twice"),
            (vec![own, "zk-2", "ZK-2"], "ZK-2 twice"),
            (vec![own, "zk-2", "10.0.0.2"], "zk-2 and 10.0.0.2 both resolve to 10.0.0.2"),
            (vec![own, "zk-2", "here"], "and here both resolve to"),
            (vec![hostname, own, "zk-2"], "both resolve to"),
            (vec!["here", "zk-3", hostname], "here and"),
        ] {
            let error = of_servers(&servers).unwrap_err();
            assert_eq!(error.kind, Kind::Config);
            let message = error.to_string();
            assert!(message.contains(words) && message.contains("name each server once"), "{message}");
        }
    }
}
