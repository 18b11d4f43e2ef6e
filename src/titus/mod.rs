//! Rules that only Titus needs: how an agent describes itself to the Mesos master, and
//! how the servers of its ZooKeeper form an ensemble.
//!
//! Titus selects agents by their [`attributes`] and counts [`resources`]; both derive from
//! EC2's numbers in [`instance_types`]. All of this is
//! pure: facts, settings and answers in, values and decisions out. Only [`checks`] and
//! [`instance_groups`] ask running services.

pub mod agent;
pub mod attributes;
pub mod cgroup;
pub mod checks;
pub mod instance_groups;
pub mod instance_types;
pub mod part;
pub mod peers;
pub mod resources;
pub mod vpc_driver;
pub mod zookeeper;

use std::collections::BTreeMap;

use serde::Serialize;

use self::checks::Finding;
use self::part::{Input, Part};
use crate::facts::Instance;
use crate::settings::Settings;

/// The values named `titus.*`. A value that this role or phase cannot derive is absent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Values {
    /// Where agents and others find the leading Mesos master: `zk://host:port,host:port/path`.
    pub mesos_master: Option<String>,
    /// Mesos attributes, each `key:value`, in order.
    pub attributes: Option<Vec<String>>,
    /// Mesos resources, `mem:6912;disk:20480;network:450`.
    pub resources: Option<String>,
    /// The attribute `res`, e.g. `ResourceSet-ENIs-2-10`.
    pub resource_set: Option<String>,
    /// Whether ZooKeeper has more than one server.
    pub ensemble: Option<bool>,
    /// The number of servers, or Mesos masters, that form a majority.
    pub quorum: Option<usize>,
    /// This node's position in the list of servers, starting at 1.
    pub zookeeper_id: Option<usize>,
    /// The servers' hosts, in the order of the list.
    pub zookeeper_hosts: Option<Vec<String>>,
    /// The client port of this node's server.
    pub zookeeper_port: Option<u16>,
    /// Kernel arguments of an agent: `agent.kernel_arguments`, plus those that it needs to boot with cgroup v1.
    pub kernel_arguments: Option<Vec<String>>,
    /// The arguments with which an agent's running kernel was started, plus those for cgroup v1 that it does not need because
    /// v1 is in force.
    pub kernel_command_line: Option<String>,
    /// The parts of each value, by its name without `titus.`.
    #[serde(skip)]
    pub parts: BTreeMap<&'static str, Vec<Part>>,
}

impl Values {
    /// The values that follow from settings alone.
    pub fn derive_common(settings: &Settings) -> Values {
        let path = settings.mesos.zk_path.clone().unwrap_or_default();
        let servers = &settings.zookeeper.servers;
        let mesos_master = (!servers.is_empty()).then(|| format!("zk://{}{path}", servers.join(",")));
        let part = mesos_master.as_ref().map(|value| {
            Part::new("", value)
                .add_input(Input::new("zookeeper.servers", servers.join(",")))
                .add_input(Input::new("mesos.zk_path", &path))
        });
        let parts = part.into_iter().map(|part| ("mesos_master", vec![part])).collect();
        Values { mesos_master, parts, ..Values::default() }
    }
}

/// Notices about the settings and the instance of an agent, or about the settings of a ZooKeeper
/// server.
pub fn notices(settings: &Settings, instance: Option<&Instance>, is_agent: bool, is_server: bool) -> Vec<String> {
    let mut notices = Vec::new();
    if let Some(Finding::Bad(text)) =
        instance.filter(|_| is_agent).map(|instance| vpc_driver::check_metadata(settings, instance))
    {
        notices.push(text);
    }
    if let Some(listen) = settings.agent.docker_listen.as_ref().filter(|_| is_agent) {
        let loopback = listen.starts_with("127.") || listen.starts_with("[::1]");
        if !loopback {
            notices.push(format!("agent.docker_listen is {listen}: anyone who can reach it has root on this node"));
        }
    }
    notices.extend(cgroup::notice(settings).filter(|_| is_agent));
    let numbers = settings.agent.attributes.iter().filter(|(_, value)| is_agent && attributes::is_number(value));
    notices.extend(numbers.map(|(name, value)| {
        format!("agent.attributes.{name} is {value}: Mesos reads a number, so a constraint on the text never matches")
    }));
    let images = [("zookeeper", &settings.images.zookeeper), ("mesos_master", &settings.images.mesos_master)];
    let by_tag: Vec<String> = images
        .into_iter()
        .filter_map(|(key, image)| {
            Some(format!("images.{key} = {:?}", image.as_ref().filter(|image| is_server && !image.contains('@'))?))
        })
        .collect();
    if !by_tag.is_empty() {
        notices.push(format!(
            "{}: pinned only by tag, which anyone who can write to that registry can move; set NAME@sha256:DIGEST, which you get from docker image inspect --format '{{{{.RepoDigests}}}}' NAME",
            by_tag.join(", ")
        ));
    }
    let servers = settings.zookeeper.servers.len();
    if is_server && servers > 0 && servers.is_multiple_of(2) {
        notices.push(format!(
            "zookeeper.servers has {servers} servers, an even number: a quorum is {}, so it tolerates the loss of {}, like {} servers; use an odd number",
            servers / 2 + 1,
            (servers - 1) / 2,
            servers - 1
        ));
    }
    notices
}

/// Names whose values come from settings and facts of the image, so that an image may contain them.
pub const OF_SETTINGS: [&str; 2] = ["titus.mesos_master", "titus.kernel_arguments"];

/// Whether Mesos accepts this as the name of an attribute or resource: letters,
/// digits, `_`, `.`, `/`, `-` (the grammar's `labelString`, Mesos documentation,
/// "Attributes & Resources").
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-".contains(&b))
}

/// Whether Mesos reads this as ranges of whole numbers: `[7150-7200]`, `[1-2,4-4]`.
fn is_ranges(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return false;
    };
    inner.split(',').all(|range| {
        let ends = range.split_once('-').and_then(|(low, high)| Some((parse_whole(low)?, parse_whole(high)?)));
        ends.is_some_and(|(low, high)| low <= high)
    })
}

/// Parses digits alone; `str::parse` would also accept a sign.
fn parse_whole(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Merged, Source};

    /// The notices for an agent or a server with these settings.
    fn noticed(lines: &str, is_agent: bool, is_server: bool) -> Vec<String> {
        let mut merged = Merged::default();
        merged.add(Layer::built_in().unwrap());
        merged.add(&Layer::parse(Source::UserData, lines).unwrap());
        notices(&merged.settings().unwrap(), None, is_agent, is_server)
    }

    #[test]
    fn settings_that_are_allowed_and_hardly_meant_are_noticed_where_they_count() {
        let servers = |n: usize| {
            let all: Vec<String> = (1..=n).map(|n| format!("'10.0.0.{n}:2181'")).collect();
            format!("zookeeper.servers = [{}]", all.join(", "))
        };
        let digest = format!("zookeeper@sha256:{}", "a".repeat(64));
        let by_digest = format!("images.zookeeper = '{digest}'\nimages.mesos_master = '{digest}'\n");
        let of_server = |lines: &str| noticed(&format!("{by_digest}{lines}"), false, true);
        let none: [&str; 0] = [];
        for n in [0, 1, 3, 5] {
            assert_eq!(of_server(&servers(n)), none, "{n}");
        }
        let two = "zookeeper.servers has 2 servers, an even number: a quorum is 2, so it tolerates the loss of 0, like 1 servers; \
                   use an odd number";
        assert_eq!(of_server(&servers(2)), [two]);
        let four = of_server(&servers(4)).remove(0);
        assert!(four.contains("a quorum is 3, so it tolerates the loss of 1, like 3 servers"), "{four}");
        assert!(!noticed(&servers(2), true, false).iter().any(|text| text.contains("even")), "an agent has no servers");

        for (lines, parts) in [
            (
                "images.zookeeper = 'z:1'\nimages.mesos_master = 'm:1'",
                vec!["images.zookeeper = \"z:1\", images.mesos_master = \"m:1\": pinned only by tag"],
            ),
            (
                &format!("images.zookeeper = '{digest}'\nimages.mesos_master = 'm:1'"),
                vec!["images.mesos_master = \"m:1\": pinned only by tag"],
            ),
            (&by_digest, vec![]),
        ] {
            let found = noticed(lines, false, true);
            assert!(
                found.len() == parts.len() && found.iter().zip(&parts).all(|(text, part)| text.starts_with(part)),
                "{found:?}"
            );
        }

        let of_agent = |lines: &str| -> Vec<String> {
            let (agent, other) = (noticed(lines, true, false), noticed(lines, false, false));
            agent.into_iter().filter(|text| !other.contains(text)).collect()
        };
        let has = |lines: &str, words: &str| of_agent(lines).iter().any(|text| text.contains(words));
        for (listen, is_open) in [
            ("127.0.0.1:4243", false),
            ("127.1.2.3:4243", false),
            ("[::1]:4243", false),
            ("0.0.0.0:4243", true),
            ("[::]:4243", true),
            ("10.0.0.1:4243", true),
        ] {
            let lines = format!("agent.docker_listen = '{listen}'");
            assert_eq!(has(&lines, "has root on this node"), is_open, "{listen}");
        }
        assert!(has("agent.attributes = { zone = '1' }", "agent.attributes.zone is 1: Mesos reads a number"));
        assert!(!has("agent.attributes = { zone = 'one' }", "Mesos reads a number"));
    }

    #[test]
    fn ranges_are_pairs_of_whole_numbers() {
        for good in ["[7150-7200]", "[1-1]", "[1-2,4-9]"] {
            assert!(is_ranges(good), "{good}");
        }
        for bad in ["", "[", "[]", "[-]", "[1]", "[2-1]", "[+1-2]", "[1-2,]", "[1-2", "[1-99999999999999999999]"] {
            assert!(!is_ranges(bad), "{bad}");
        }
    }
}
