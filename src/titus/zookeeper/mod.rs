//! ZooKeeper's servers: what one says of itself, and when one may be stopped or first started.

use super::Values;
use super::part::{Input, Part};
use crate::error::{Error, Kind, Result};
use crate::facts::Instance;
use crate::settings::values::host_port;
use crate::settings::{Settings, ZOOKEEPER_PORT};

#[cfg(test)]
mod simulation;
mod turn;

pub use turn::{Answer, Data, Turn, turn};

impl Values {
    /// Everything, for a node of role prereqs. `resolve` looks a name up.
    ///
    /// # Errors
    /// 78 when the node is not in `zookeeper.servers`, or a server is there twice.
    pub fn of_prereqs(
        settings: &Settings,
        instance: &Instance,
        resolve: &dyn Fn(&str) -> Vec<std::net::IpAddr>,
    ) -> Result<Values> {
        let path = settings.mesos.zk_path.clone().unwrap_or_default();
        let servers = &settings.zookeeper.servers;
        let hosts: Vec<&str> = servers.iter().filter_map(|server| Some(host_port(server)?.0)).collect();
        if let Some(twice) = hosts.iter().enumerate().find(|(n, host)| hosts[..*n].contains(host)) {
            return Err(Error::config(format!("zookeeper.servers has {} twice", twice.1))
                .fix("name each server once: each runs on a node of its own"));
        }
        let own = place(&hosts, instance, resolve);
        let Some(own) = own.or(servers.is_empty().then_some(0)) else {
            return Err(not_listed(servers, instance));
        };
        let port = servers.get(own).and_then(|server| host_port(server)).map_or(ZOOKEEPER_PORT, |(_, port)| port);
        let alone = servers.len() < 2;
        let mut values = Values::of_settings(settings);
        if alone {
            values.mesos_master = Some(format!("zk://localhost:{port}{path}"));
        }
        values.ensemble = Some(!alone);
        values.quorum = Some(servers.len().max(1) / 2 + 1);
        values.zookeeper_id = Some(own + 1);
        // Its own name may lead to loopback on the node itself, and a server binds what it leads to.
        let bound = |(n, host): (usize, &&str)| if n == own { &instance.local_ipv4 } else { *host }.to_owned();
        values.zookeeper_hosts = Some(hosts.iter().enumerate().map(bound).collect());
        values.zookeeper_port = Some(port);
        values.parts.extend(made_of(settings, instance, alone));
        Ok(values)
    }
}

/// What the values of a prereqs node are made of.
fn made_of(settings: &Settings, instance: &Instance, alone: bool) -> Vec<(&'static str, Vec<Part>)> {
    let servers = || Part::default().of(Input::named("zookeeper.servers", settings.zookeeper.servers.join(",")));
    let own = |part: Part| {
        part.of(Input { word: "this node is", ..Input::named("instance.local_ipv4", &instance.local_ipv4) })
    };
    let mut made = vec![
        ("ensemble", servers().how("whether there are several")),
        ("quorum", servers().how("more than half of them")),
        (
            "zookeeper_id",
            own(servers()).of(Input::named("instance.hostname", &instance.hostname)).how("its place in the list"),
        ),
        ("zookeeper_hosts", own(servers())),
        ("zookeeper_port", own(servers()).how(format!("its port, or {ZOOKEEPER_PORT}"))),
    ];
    if alone {
        let path = settings.mesos.zk_path.clone().unwrap_or_default();
        let part = servers().of(Input::named("mesos.zk_path", path)).how("a lone server, asked on the node itself");
        made.push(("mesos_master", part));
    }
    made.into_iter().map(|(name, part)| (name, vec![part])).collect()
}

fn place(hosts: &[&str], instance: &Instance, resolve: &dyn Fn(&str) -> Vec<std::net::IpAddr>) -> Option<usize> {
    let short = instance.hostname.split('.').next().unwrap_or_default();
    let names = [instance.local_ipv4.as_str(), instance.hostname.as_str(), short];
    let loopback = |host: &str| hosts.len() == 1 && ["localhost", "127.0.0.1"].contains(&host);
    let same = |host: &&str| loopback(host) || names.iter().any(|name| name.eq_ignore_ascii_case(host));
    hosts.iter().position(same).or_else(|| {
        let address: std::net::IpAddr = instance.local_ipv4.parse().ok()?;
        let is_name = |host: &str| host.parse::<std::net::IpAddr>().is_err();
        hosts.iter().position(|host| is_name(host) && resolve(host).contains(&address))
    })
}

fn not_listed(servers: &[String], instance: &Instance) -> Error {
    Error::new(Kind::Config, "this node is not in zookeeper.servers")
        .cause(format!(
            "the node is {} ({}), the servers are {}",
            instance.local_ipv4,
            instance.hostname,
            servers.join(", ")
        ))
        .fix("add this node at the end of zookeeper.servers (the order numbers the servers), on every node; or give it another role")
}
