//! A cluster as packaging/terraform makes one: nodes from one image, each with the type, the tags and the user data that
//! Terraform gave it, and nothing else. No person does anything on them: the boot unit does.

use std::sync::OnceLock;

use serde_json::Value;

use super::image::{SOURCE, fresh};
use super::network::Network;
use super::node::Node;
use super::registry::{self, Registry};
use super::release::Release;
use super::services::{self, items, listen};
use super::{autoscaling, cluster, packer, wait_for};
use crate::support::aws::account::Account;
use crate::support::aws::{Aws, Keys};
use crate::support::metadata::{Items, Metadata};

/// What EC2 gives to the instances; made by tests/packaging/terraform.
const INSTANCES: &str = include_str!("../../packaging/instances.json");
/// What its README has the image's settings contain.
const IMAGE: &str = include_str!("../../../packaging/terraform/image.toml");

/// The resources' names, which are the roles', in the order of their addresses.
const ROLES: [&str; 4] = ["prereqs", "master", "gateway", "agent"];

/// A node is not given to anything before this file is there: on EC2 the network and the metadata service are there
/// before it is switched on.
const CABLE: &str = "/run/test-cable";
const ADDRESSED: &str = "/run/test-addressed";

/// The timer of the instance groups, ten times as often.
const OFTEN: &str = "[Timer]\nOnActiveSec=\nOnActiveSec=1s\nOnUnitInactiveSec=3s\n";

/// Where an agent finds the Auto Scaling API.
const API: &str = "127.0.0.1:4566";

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

/// An image for all four roles as a newcomer makes it, once a test process: a release is made, a machine downloads the deb from
/// its apt repository, and Packer builds.
fn baked() -> &'static str {
    static BAKED: OnceLock<String> = OnceLock::new();
    BAKED.get_or_init(|| {
        let release = Release::make();
        let machine = Node::without_program();
        let update = release.add_to(&machine);
        machine
            .shell(&format!("{update}; cd /root; apt-get download titus-bootstrap; mv titus-bootstrap_*.deb new.deb"));
        // Nobody cuts its power, and no user data are for cloud-init.
        let ready = "touch /etc/cloud/cloud-init.disabled; echo force-unsafe-io > /etc/dpkg/dpkg.cfg.d/test";
        let base = packer::changed(&fresh().first_boot, "terraform", ready);
        let (outcome, image) =
            packer::build_for(&ROLES, &machine.path("/root/new.deb"), &settings(), &base, "terraform");
        outcome.ends_with(0);
        image
    })
}

/// What EC2 gives to the instance of this role.
fn given(role: &str) -> Value {
    serde_json::from_str::<Value>(INSTANCES).unwrap()[role].take()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// What the instance of this role has in its metadata.
fn instance(role: &str, node: &Node) -> Items {
    let given = given(role);
    let mut items = items();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    let mut set = |path: &str, value: &str| items.insert(path.to_owned(), value.into());
    set("meta-data/instance-type", text(&given["instance_type"]));
    set("meta-data/instance-id", &id(node));
    set("meta-data/local-ipv4", &node.address);
    set("meta-data/local-hostname", &format!("{}.eu-west-1.compute.internal", node.hostname()));
    set("user-data", text(&given["user_data"]));
    for (key, value) in given["tags"].as_object().unwrap() {
        set(&format!("meta-data/tags/instance/{key}"), text(value));
    }
    if role == "agent" { autoscaling::with_profile(items) } else { items }
}

fn id(node: &Node) -> String {
    format!("i-0123456789abcde{}", node.address.rsplit('.').next().unwrap())
}

/// The Auto Scaling API, whose hook holds the instance until its run completes it.
fn api(node: &Node) -> Aws {
    let mut account = Account::default();
    account.held.insert([cluster::GROUP.to_owned(), "titus-bootstrap".to_owned(), id(node)]);
    Aws::serve(listen(node, API), "eu-west-1", account, &Keys::new(1))
}

/// A node and what is served to it.
pub struct Member {
    /// The node.
    pub node: Node,
    role: &'static str,
    served: Option<(Metadata, Option<Registry>)>,
    api: Option<Aws>,
}

impl Member {
    /// An instance of this role that was never switched on.
    pub fn new(role: &'static str) -> Member {
        let place = ROLES.iter().position(|known| *known == role).unwrap() + 1;
        let node = Node::off_without_program(baked(), Some(place));
        let gate = format!(
            "[Service]\nExecStartPost=/bin/touch {ADDRESSED}\n\
             ExecStartPost=/bin/sh -c 'until [ -e {CABLE} ]; do sleep 0.05; done'\n"
        );
        node.put("/etc/systemd/system/test-network.service.d/cable.conf", 0o644, gate);
        // With it, journald keeps what it has for the next boot.
        node.put("/var/log/journal/.keep", 0o644, "");
        node.put("/etc/systemd/system/titus-instance-groups.timer.d/often.conf", 0o644, OFTEN);
        if role == "agent" {
            let endpoint = format!("[Service]\nEnvironment=AWS_ENDPOINT_URL_AUTO_SCALING=http://{API}\n");
            node.put("/etc/systemd/system/titus-bootstrap.service.d/autoscaling.conf", 0o644, endpoint);
        }
        Member { node, role, served: None, api: None }
    }

    /// Switches it on: its boot begins.
    pub fn boot(&mut self, network: &Network) {
        self.served = None;
        self.node.switch_on();
        wait_for("the node's addresses", || self.node.exists(ADDRESSED).then_some(()));
        network.join(&self.node);
        let metadata = services::metadata(&self.node, instance(self.role, &self.node));
        metadata.require_tokens(given(self.role)["http_tokens"] == "required");
        self.api = (self.role == "agent").then(|| api(&self.node));
        let registry = (self.role == "prereqs").then(|| Registry::serve(&self.node, registry::ADDRESS));
        self.served = Some((metadata, registry));
        self.node.write(CABLE, "");
    }

    /// Whether the run has completed the lifecycle hook: then the instance is in service.
    pub fn is_in_service(&self) -> bool {
        self.api.as_ref().is_some_and(|api| api.account(|account| account.held.is_empty()))
    }

    /// The units that have failed now, and those that ever failed on this node, in whichever boot: none, if all is well.
    pub fn failures(&self) -> String {
        // systemd's message that a unit has failed (SD_MESSAGE_UNIT_FAILURE_RESULT).
        let ever = "journalctl --quiet --no-pager --output cat MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c || true";
        format!("{}{}", self.node.failed(), self.node.shell(ever))
    }
}
