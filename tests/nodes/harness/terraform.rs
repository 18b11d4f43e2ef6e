//! A cluster as packaging/terraform makes one: nodes from one image, each with the type, the tags and the line of user
//! data that its resource in `ec2.tf` has, and nothing else. No person does anything on them: the boot unit does.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::agent::SETTINGS;
use super::docker::{docker, label};
use super::image::{SOURCE, fresh};
use super::network::Network;
use super::node::Node;
use super::registry::{self, Registry};
use super::services::{self, items};
use super::{cluster, first_boot, wait_for};
use crate::support::metadata::{Items, Metadata};

const EC2: &str = include_str!("../../../packaging/terraform/ec2.tf");
/// What its README has the image's settings contain.
const IMAGE: &str = include_str!("../../../packaging/terraform/image.toml");
const VARIABLES: &str = include_str!("../../../packaging/terraform/variables.tf");

/// The resources' names, which are the roles', in the order of their addresses.
const ROLES: [&str; 4] = ["prereqs", "master", "gateway", "agent"];

/// Which of several nodes the builder is.
const BUILDER: usize = 9;

/// A node is not given to anything before this file is there: on EC2 the network and the metadata service are there
/// before it is switched on.
const CABLE: &str = "/run/test-cable";
const ADDRESSED: &str = "/run/test-addressed";

/// The timer of the instance groups, ten times as often.
const OFTEN: &str = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=3s\n";

/// What is known only once other resources are made.
const MADE: [(&str, &str); 6] = [
    ("aws_instance.prereqs.private_ip", "30.0.100.11"),
    ("aws_instance.master.private_ip", "30.0.100.12"),
    ("aws_s3_bucket.log.bucket", "titus-log-bucket-terraform-example"),
    (
        "aws_iam_role.app[\"titusappwiths3InstanceProfile\"].arn",
        "arn:aws:iam::123456789012:role/titusappwiths3InstanceProfile",
    ),
    ("aws_security_group.titus[\"app\"].id", "sg-0123456789abcdef0"),
    ("var.agent_asg_name", cluster::GROUP),
];

/// The settings that an image of packaging/packer has for all its nodes.
fn settings() -> String {
    format!(
        "{IMAGE}\n[debs]\nmaster = {{ path = \"{0}/titus-server-master_0.0.1-1_all.deb\" }}\n\
         gateway = {{ path = \"{0}/titus-server-gateway_0.0.1-1_all.deb\" }}\n\n\
         [docker]\ndaemon = \"/usr/sbin/dockerd\"\n\n\
         [packages]\ndocker = [\"docker.io\"]\n\n\
         {SOURCE}",
        cluster::DEBS
    )
}

/// An image for all four roles, baked and sealed; made once a test process.
fn baked() -> &'static str {
    static BAKED: OnceLock<String> = OnceLock::new();
    BAKED.get_or_init(|| {
        // Its address is not that which the nodes' own network files have: `seal` would find it there.
        let mut node = Node::off_of_several(&fresh().first_boot, BUILDER);
        node.put(SETTINGS, 0o600, settings());
        node.put("/etc/cloud/cloud-init.disabled", 0o644, "");
        // Nobody cuts its power.
        node.put("/etc/dpkg/dpkg.cfg.d/test", 0o644, "force-unsafe-io\n");
        node.boot();
        let _registry = Registry::serve(&node, registry::ADDRESS);
        let roles = ROLES.map(|role| format!("--role={role}"));
        let bake: Vec<&str> =
            ["apply", "--phase", "bake"].into_iter().chain(roles.iter().map(String::as_str)).collect();
        node.bootstrap(&bake).ends_with(0);
        node.bootstrap(&["seal"]).ends_with(0);
        node.stop();
        let image = format!("titus-bootstrap-baked:{}-terraform", std::process::id());
        docker(&["commit", "--change", &format!("LABEL {}", label()), &node.id, &image]);
        image
    })
}

/// The value of an attribute or tag, as it stands behind its `=`.
fn value(text: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("base64encode(").and_then(|text| text.strip_suffix(')')).unwrap_or(text);
    let Some(quoted) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else {
        return made(text.split(" #").next().unwrap().trim());
    };
    let mut parts = quoted.split("${");
    let first = parts.next().unwrap().to_owned();
    let rest = parts.map(|part| {
        let (expression, text) = part.split_once('}').unwrap();
        made(expression) + text
    });
    std::iter::once(first).chain(rest).collect::<String>().replace("\\n", "\n")
}

fn made(expression: &str) -> String {
    let found = MADE.iter().find(|(name, _)| *name == expression);
    found.unwrap_or_else(|| panic!("ec2.tf: the tests do not know what {expression} is")).1.to_owned()
}

/// The lines of the resource of this role.
fn resource(role: &str) -> Vec<&'static str> {
    let kind = if role == "agent" { "aws_launch_template" } else { "aws_instance" };
    let begin = format!("resource \"{kind}\" \"{role}\" {{");
    let lines: Vec<_> = EC2.lines().skip_while(|line| *line != begin).take_while(|line| *line != "}").collect();
    assert!(!lines.is_empty(), "ec2.tf has no {begin}");
    lines
}

fn attribute(lines: &[&'static str], name: &str) -> &'static str {
    let found = lines.iter().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then_some(value.trim())
    });
    found.unwrap_or_else(|| panic!("ec2.tf: no {name} in {lines:?}"))
}

fn tags(lines: &[&'static str]) -> BTreeMap<String, String> {
    let block = lines.iter().skip_while(|line| line.trim() != "tags = {").skip(1).take_while(|line| line.trim() != "}");
    let pairs = block.map(|line| line.split_once('=').unwrap());
    let tags: BTreeMap<_, _> =
        pairs.map(|(key, text)| (key.trim().trim_matches('"').to_owned(), value(text))).collect();
    assert!(tags.contains_key("titus:role"), "ec2.tf: {tags:?}");
    tags
}

/// What the instance of this role has in its metadata.
fn instance(role: &str, node: &Node) -> Items {
    let lines = resource(role);
    let mut items = items();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    let mut set = |path: &str, value: String| items.insert(path.to_owned(), value.into_bytes());
    set("meta-data/instance-type", value(attribute(&lines, "instance_type").split(" #").next().unwrap()));
    set("meta-data/instance-id", format!("i-0123456789abcde{}", node.address.rsplit('.').next().unwrap()));
    set("meta-data/local-ipv4", node.address.clone());
    set("meta-data/local-hostname", format!("{}.eu-west-1.compute.internal", node.hostname()));
    set("user-data", value(attribute(&lines, "user_data")));
    for (key, value) in tags(&lines) {
        set(&format!("meta-data/tags/instance/{key}"), value);
    }
    if role == "agent" {
        set("meta-data/tags/instance/aws:autoscaling:groupName", cluster::GROUP.into());
    }
    items
}

/// Whether a request for the metadata of this role needs a token.
fn tokens_required(role: &str) -> bool {
    match attribute(&resource(role), "http_tokens") {
        "var.titus_http_tokens" => {
            let (_, variable) = VARIABLES.split_once("variable \"titus_http_tokens\"").unwrap();
            attribute(&variable.lines().collect::<Vec<_>>(), "default") == "\"required\""
        }
        text => text == "\"required\"",
    }
}

/// A node and what is served to it.
pub struct Member {
    /// The node.
    pub node: Node,
    role: &'static str,
    served: Option<(Metadata, Option<Registry>)>,
}

impl Member {
    /// An instance of this role that was never switched on.
    pub fn new(role: &'static str) -> Member {
        let place = ROLES.iter().position(|known| *known == role).unwrap() + 1;
        let node = Node::off_of_several(baked(), place);
        first_boot::install(&node);
        let gate = format!(
            "[Service]\nExecStartPost=/bin/touch {ADDRESSED}\n\
             ExecStartPost=/bin/sh -c 'until [ -e {CABLE} ]; do sleep 0.05; done'\n"
        );
        node.put("/etc/systemd/system/test-network.service.d/cable.conf", 0o644, gate);
        // With it, journald keeps what it has for the next boot.
        node.put("/var/log/journal/.keep", 0o644, "");
        node.put("/etc/systemd/system/titus-instance-groups.timer.d/often.conf", 0o644, OFTEN);
        Member { node, role, served: None }
    }

    /// Switches it on: its boot begins.
    pub fn boot(&mut self, network: &Network) {
        self.served = None;
        self.node.switch_on();
        wait_for("the node's addresses", || self.node.exists(ADDRESSED).then_some(()));
        network.join(&self.node);
        let metadata = services::metadata(&self.node, instance(self.role, &self.node));
        metadata.require_tokens(tokens_required(self.role));
        let registry = (self.role == "prereqs").then(|| Registry::serve(&self.node, registry::ADDRESS));
        self.served = Some((metadata, registry));
        self.node.write(CABLE, "");
    }

    /// The units that have failed now, and those that ever failed on this node, in whichever boot: none, if all is well.
    pub fn failures(&self) -> String {
        // systemd's message that a unit has failed (SD_MESSAGE_UNIT_FAILURE_RESULT).
        let ever = "journalctl --quiet --no-pager --output cat MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c || true";
        format!("{}{}", self.node.failed(), self.node.shell(ever))
    }
}
