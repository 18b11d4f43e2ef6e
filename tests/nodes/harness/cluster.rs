//! A whole cluster on one network: a node of each role, each given only its tag and the
//! settings that all of them have.

use super::agent::SETTINGS;
use super::image::{SOURCE, fresh};
use super::network::Network;
use super::node::Node;
use super::prereqs;
use super::registry::{self, Registry};
use super::services::items;
use crate::support::metadata::Metadata;

/// The instance group that the agent's metadata name.
pub const GROUP: &str = "titusagent";

/// The directory of the Titus debs in a node.
pub const DEBS: &str = "/srv/repo/debs";

/// The files of role master, and of role gateway, that runs make.
pub const FILES: [[&str; 2]; 2] = [
    ["/usr/lib/systemd/system/titus-server-master.service", "/opt/titus-server-master/titusmaster.properties"],
    ["/usr/lib/systemd/system/titus-server-gateway.service", "/opt/titus-server-gateway/titusgateway.properties"],
];

/// A node and what is served to it.
pub struct Member {
    /// The node.
    pub node: Node,
    _metadata: Metadata,
    _registry: Option<Registry>,
}

/// The nodes, as long as this lives.
pub struct Cluster {
    /// ZooKeeper and the Mesos master.
    pub prereqs: Member,
    /// The Titus master.
    pub master: Member,
    /// The Titus gateway.
    pub gateway: Member,
    /// The Mesos agent.
    pub agent: Member,
    _network: Network,
}

/// Settings that all four roles share.
pub fn settings() -> String {
    format!(
        "prereqs = \"30.0.100.11\"\n\n\
         [master]\naddress = \"30.0.100.12\"\ndefault_iam_role = \"arn:aws:iam::123456789012:role/titusappwiths3\"\n\
         default_security_groups = \"sg-0123456789abcdef0\"\n\n\
         [debs]\nmaster = {{ path = \"{DEBS}/titus-server-master_0.0.1-1_all.deb\" }}\n\
         gateway = {{ path = \"{DEBS}/titus-server-gateway_0.0.1-1_all.deb\" }}\n\n\
         [agent]\nlog_bucket = \"titus-log-bucket-terraform-example\"\n\n\
         [docker]\ndaemon = \"/usr/sbin/dockerd\"\n\n\
         [packages]\ndocker = [\"docker.io\"]\n\n\
         {SOURCE}"
    )
}

/// The `n`-th node of a network, with the tag of this role.
pub fn member(network: &Network, role: &str, n: usize) -> Member {
    let image = if role == "prereqs" { &fresh().engine } else { &fresh().image };
    let node = Node::one_of_several(image, n);
    network.join(&node);
    node.write(SETTINGS, &settings());
    let registry = (role == "prereqs").then(|| Registry::serve(&node, registry::ADDRESS));
    Member { _metadata: prereqs::metadata_of(&node, role), _registry: registry, node }
}

impl Cluster {
    /// Four nodes on which no run was made.
    pub fn new() -> Cluster {
        assert!(items()["meta-data/tags/instance/aws:autoscaling:groupName"] == GROUP.as_bytes());
        let network = Network::new();
        Cluster {
            prereqs: member(&network, "prereqs", 1),
            master: member(&network, "master", 2),
            gateway: member(&network, "gateway", 3),
            agent: member(&network, "agent", 4),
            _network: network,
        }
    }

    /// All nodes.
    pub fn nodes(&self) -> [&Node; 4] {
        [&self.prereqs, &self.master, &self.gateway, &self.agent].map(|member| &member.node)
    }
}
