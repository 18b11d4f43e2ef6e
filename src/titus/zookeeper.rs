//! ZooKeeper's servers: what one says of itself, and when one may be stopped or first started.

use super::Values;
use super::part::{Input, Part};
use crate::error::{Error, Kind, Result};
use crate::facts::Instance;
use crate::settings::values::host_port;
use crate::settings::{Settings, ZOOKEEPER_PORT};

/// What a server answers to the four letters `srvr`, whose line `Mode:` 3.4 and later have
/// (ZooKeeper Administrator's Guide, "The Four Letter Words").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It serves alone.
    Standalone,
    /// It serves as one of an ensemble.
    Member,
    /// It runs, and has no ensemble to serve with.
    Waiting,
    /// It does not answer.
    Nothing,
}

impl Answer {
    /// Of the text that a server sent; `None`: this is no ZooKeeper's.
    pub fn of(text: &str) -> Option<Answer> {
        let mode = text.lines().find_map(|line| line.strip_prefix("Mode:")).map(str::trim);
        match mode {
            Some("standalone") => Some(Answer::Standalone),
            Some("leader" | "follower" | "observer") => Some(Answer::Member),
            None if text.contains("not currently serving requests") => Some(Answer::Waiting),
            _ => None,
        }
    }
}

/// What this server's own data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// None: it was never started.
    Fresh,
    /// Of a server that served alone.
    Standalone,
    /// Of a server of an ensemble.
    Member,
}

/// Whether this server's container may now be first started, or stopped to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Yes,
    /// It may if all answers stay as they are for a while. A server that does not answer may have
    /// data, and be on its way from serving alone to being a member; one that waits for a quorum
    /// may be in an election.
    IfSteady,
    /// Not yet; what is missing.
    NotYet(String),
    /// Never, because data would be lost; why.
    Never(String),
}

/// Decides so that data never gets lost and a quorum that is there is kept.
///
/// Servers without data could outvote the only one with data, which would then discard its own.
/// So they wait for it, all but as many as it needs for a quorum, and it waits for those.
/// `answers` are those of all servers in the order of the list, in which ours is at `own`.
pub fn turn(answers: &[Answer], own: usize, data: Data) -> Turn {
    let quorum = answers.len() / 2 + 1;
    let others = || answers.iter().enumerate().filter(|(n, _)| *n != own);
    let count = |wanted: &[Answer]| others().filter(|(_, answer)| wanted.contains(answer)).count();
    let named = |wanted: Answer| {
        others().filter(|(_, a)| **a == wanted).map(|(n, _)| format!("{}", n + 1)).collect::<Vec<_>>().join(", ")
    };
    if answers.len() < 2 {
        return Turn::Yes;
    }
    let alone = named(Answer::Standalone);
    match data {
        Data::Fresh if alone.contains(',') => {
            Turn::Never(format!("servers {alone} each serve alone, with data of their own"))
        }
        // So few cannot be a quorum without it.
        Data::Fresh if others().filter(|(n, a)| *n < own && **a != Answer::Standalone).count() + 2 <= quorum => {
            Turn::Yes
        }
        Data::Fresh if !alone.is_empty() => Turn::NotYet(format!(
            "server {alone} serves alone and has the data: it must become a member first; run titus-bootstrap there"
        )),
        Data::Fresh if count(&[Answer::Member]) == 0 && count(&[Answer::Nothing]) > 0 => Turn::IfSteady,
        Data::Fresh => Turn::Yes,
        Data::Standalone if count(&[Answer::Member]) > 0 => Turn::Never(format!(
            "this server has served alone and has data, and servers {} are an ensemble without it: it would discard its data to join them",
            named(Answer::Member)
        )),
        Data::Standalone if !alone.is_empty() => {
            Turn::Never(format!("this server has served alone and has data, and so has server {alone}"))
        }
        Data::Standalone if count(&[Answer::Waiting]) + 1 < quorum => Turn::NotYet(format!(
            "this server serves alone until {} of the others run, to be a quorum with them; run titus-bootstrap there",
            quorum - 1
        )),
        Data::Standalone => Turn::Yes,
        Data::Member if answers.get(own) == Some(&Answer::Nothing) => Turn::Yes,
        Data::Member if count(&[Answer::Member]) >= quorum.min(answers.len() - 1) => Turn::Yes,
        Data::Member if answers.get(own) != Some(&Answer::Member) => Turn::IfSteady,
        Data::Member => Turn::NotYet(format!(
            "without this server {} of {} would serve, and {quorum} are a quorum; fix or start the others first",
            count(&[Answer::Member]),
            answers.len()
        )),
    }
}

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

#[cfg(test)]
mod tests {
    use super::Answer::{Member, Nothing, Standalone, Waiting};
    use super::*;

    #[test]
    fn modes_are_read() {
        let srvr = "Zookeeper version: 3.4.10-39d3a4f\nLatency min/avg/max: 0/0/0\nMode: standalone\nNode count: 4\n";
        assert_eq!(Answer::of(srvr), Some(Standalone));
        assert_eq!(Answer::of("Mode: follower\n"), Some(Member));
        assert_eq!(Answer::of("This ZooKeeper instance is not currently serving requests\n"), Some(Waiting));
        assert_eq!(Answer::of("HTTP/1.1 400 Bad Request\r\n"), None);
        assert_eq!(Answer::of(""), None);
    }

    #[test]
    fn fresh_servers_do_not_outvote_the_one_that_has_the_data() {
        // The first of the fresh ones may wait beside it, so that they can be two of three.
        assert_eq!(turn(&[Standalone, Nothing, Nothing], 1, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&[Standalone, Waiting, Nothing], 2, Data::Fresh), Turn::NotYet(_)));
        assert!(matches!(turn(&[Nothing, Nothing, Standalone], 1, Data::Fresh), Turn::NotYet(_)));
        assert_eq!(turn(&[Waiting, Waiting, Nothing], 2, Data::Fresh), Turn::Yes);
        assert_eq!(turn(&[Nothing, Waiting, Nothing], 2, Data::Fresh), Turn::IfSteady);
        assert_eq!(turn(&[Nothing, Member, Nothing], 2, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&[Standalone, Standalone, Nothing], 2, Data::Fresh), Turn::Never(_)));
        let five = [Standalone, Waiting, Waiting, Nothing, Nothing];
        assert_eq!(turn(&five, 2, Data::Fresh), Turn::Yes);
        assert!(matches!(turn(&five, 3, Data::Fresh), Turn::NotYet(_)));
    }

    #[test]
    fn the_one_that_has_the_data_serves_until_it_can_be_a_quorum() {
        assert!(matches!(turn(&[Standalone, Nothing, Nothing], 0, Data::Standalone), Turn::NotYet(_)));
        assert_eq!(turn(&[Standalone, Waiting, Nothing], 0, Data::Standalone), Turn::Yes);
        assert!(matches!(turn(&[Nothing, Member, Member], 0, Data::Standalone), Turn::Never(_)));
        assert!(matches!(turn(&[Standalone, Standalone, Waiting], 0, Data::Standalone), Turn::Never(_)));
    }

    #[test]
    fn a_member_stops_only_while_the_others_are_a_quorum() {
        assert_eq!(turn(&[Member, Member, Member], 0, Data::Member), Turn::Yes);
        assert!(matches!(turn(&[Member, Member, Nothing], 0, Data::Member), Turn::NotYet(_)));
        // It does not serve: nothing is lost by stopping it, unless it is in an election.
        assert_eq!(turn(&[Nothing, Nothing, Nothing], 0, Data::Member), Turn::Yes);
        assert_eq!(turn(&[Waiting, Waiting, Nothing], 0, Data::Member), Turn::IfSteady);
        // Two servers are never a quorum with one of them gone.
        assert_eq!(turn(&[Member, Member], 1, Data::Member), Turn::Yes);
        // From three to five: the new ones come first.
        assert!(matches!(turn(&[Member, Member, Member, Nothing, Nothing], 0, Data::Member), Turn::NotYet(_)));
        assert_eq!(turn(&[Member, Member, Member, Member, Nothing], 0, Data::Member), Turn::Yes);
        assert_eq!(turn(&[Member], 0, Data::Member), Turn::Yes);
    }

    proptest::proptest! {
        /// However servers that were one and fresh ones take their turns, a quorum never
        /// forms without the one that has the data.
        #[test]
        fn no_order_of_turns_loses_data(size in 2_usize..8, holder in 0_usize..8, order in proptest::collection::vec(0_usize..8, 0..40)) {
            let holder = holder % size;
            let mut answers = vec![Nothing; size];
            answers[holder] = Standalone;
            for own in order.into_iter().map(|n| n % size) {
                if answers[own] == Waiting || answers[own] == Member {
                    continue;
                }
                let data = if own == holder { Data::Standalone } else { Data::Fresh };
                if turn(&answers, own, data) == Turn::Yes {
                    answers[own] = Waiting;
                }
                let up = answers.iter().filter(|a| **a == Waiting).count();
                if up > size / 2 {
                    proptest::prop_assert!(answers[holder] == Waiting, "a quorum without the data: {answers:?}");
                }
            }
        }
    }
}
