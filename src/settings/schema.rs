//! The settings' names and types: one struct, read from every layer and from their
//! sum. The text of each field is what `config template` and `config schema` print.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::values::{EnvironmentName, Line};
use crate::host::Deadlines;

/// Everything that an operator can want of a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Version of the settings' names and types: 1. A program that does not know it refuses it.
    pub schema: Option<u32>,
    /// The role, where neither a flag nor an instance tag says it.
    pub role: Option<String>,
    /// Roles that this image accepts; empty: all.
    pub allowed_roles: Vec<String>,
    /// Settings that instance tags titus:KEY may set: of role, stack, prereqs, zookeeper.servers, master.address,
    /// agent.log_bucket, agent.asg. Only the image's files can say it.
    pub allowed_tags: Vec<String>,
    /// The Titus stack; part of paths in ZooKeeper and an attribute of agents.
    pub stack: String,
    /// Address of the node that runs ZooKeeper and the Mesos master: short for
    /// zookeeper.servers = ["X:2181"] and mesos.masters = ["X:5050"].
    pub prereqs: Option<String>,
    /// ZooKeeper.
    pub zookeeper: Zookeeper,
    /// Mesos masters.
    pub mesos: Mesos,
    /// Container images of role prereqs.
    pub images: Images,
    /// Role master, and where others find it.
    pub master: Master,
    /// Role gateway.
    pub gateway: Gateway,
    /// Role agent.
    pub agent: Agent,
    /// The Docker Engine.
    pub docker: Docker,
    /// Debian packages of the roles, each "name" or "name=version".
    pub packages: Packages,
    /// Sources of packages.
    pub apt: Apt,
    /// Titus's own debs.
    pub debs: Debs,
    /// Instance types that the built-in table lacks, or other numbers for one.
    pub instance_types: BTreeMap<String, InstanceTypeNumbers>,
    /// Where units go.
    pub systemd: Systemd,
    /// Whether to reboot when the kernel's command line asks for it: "if-needed" or
    /// "never". Unset: never by hand, if-needed at boot and from user data.
    pub reboot: Option<Reboot>,
    /// How long to wait, as "90s" or "5m".
    pub timeouts: Timeouts,
    /// Containers that the roles run.
    pub containers: Containers,
    /// For downloads, apt and dockerd; never for the metadata service, the Docker
    /// socket or loopback.
    pub proxy: Proxy,
    /// Instance tags.
    pub tags: Tags,
    /// The Auto Scaling group's lifecycle.
    pub lifecycle: Lifecycle,
    /// What follows a run that failed at boot or from user data.
    pub on_failure: OnFailure,
}

/// The Auto Scaling group's lifecycle.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lifecycle {
    /// Name of the lifecycle hook that holds a new instance until the run reports its result; unset: no hook is
    /// notified.
    pub hook: Option<String>,
}

/// What follows a run that failed at boot or from user data.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnFailure {
    /// Whether the Auto Scaling group is asked to replace the node; unset: no.
    pub mark_unhealthy: bool,
}

/// Instances found by their tag, instead of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// The tag's key, as "titus:role".
    pub tag: String,
    /// The tag's value.
    pub value: String,
    /// How many there must be; unset: 1 of master, 3 of the others.
    pub expected: Option<usize>,
}

/// ZooKeeper.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Zookeeper {
    /// Client addresses, each "host:port"; their order numbers the servers, so new ones
    /// come last. Unset on a prereqs node: it serves alone.
    #[schemars(example = ["10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181"])]
    pub servers: Vec<String>,
    /// The instances that are the servers, where servers is not set: { tag, value, expected }.
    pub discover: Option<Discover>,
}

/// Mesos masters.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesos {
    /// Addresses, each "host:port"; unset: the ZooKeeper hosts, port 5050.
    #[schemars(example = ["10.0.0.1:5050"])]
    pub masters: Vec<String>,
    /// The instances that are the masters, where masters is not set: { tag, value, expected }.
    pub discover: Option<Discover>,
    /// Where the masters elect their leader in ZooKeeper; unset: /titus/STACK/mesos.
    #[schemars(example = &"/titus/mainvpc/mesos")]
    pub zk_path: Option<String>,
}

/// Container images.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// ZooKeeper, as name:tag or name@sha256:digest.
    pub zookeeper: Option<String>,
    /// The Mesos master, as name:tag or name@sha256:digest.
    pub mesos_master: Option<String>,
}

/// Role master.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Master {
    /// Address of the Titus master, for the gateway.
    pub address: Option<String>,
    /// The instance that it is, where address is not set: { tag, value }.
    pub discover: Option<Discover>,
    /// ARN of the IAM role that jobs get by default.
    pub default_iam_role: Option<String>,
    /// Security groups that jobs get by default.
    pub default_security_groups: Option<String>,
    /// Further keys of titusmaster.properties, or other values.
    pub properties: BTreeMap<String, String>,
}

/// Role gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Instance groups that are kept active; unset: agent.asg, or else "titusagent".
    pub activate_instance_groups: Option<Vec<String>>,
    /// Further keys of titusgateway.properties, or other values.
    pub properties: BTreeMap<String, String>,
}

/// Role agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// The Auto Scaling group; unset: the tag aws:autoscaling:groupName.
    #[schemars(example = &"titusagent")]
    pub asg: Option<String>,
    /// S3 bucket for the logs of containers.
    pub log_bucket: Option<String>,
    /// Registry that images of jobs come from.
    pub registry: Option<String>,
    /// NETFLIX_ACCOUNT of every container.
    pub account: Option<String>,
    /// NETFLIX_ENVIRONMENT of every container.
    #[schemars(example = &"test")]
    pub environment: Option<String>,
    /// How ENIs and their addresses are counted: "instance", "schedulable" or "E-I".
    pub resource_set: Option<String>,
    /// What the agent offers: mem and disk in MiB, network in Mbit/s, and any others;
    /// unset: derived from the machine.
    #[schemars(example = json!({ "mem": 8000, "disk": 8000, "network": 9000 }))]
    pub resources: BTreeMap<String, u64>,
    /// Kept for the node itself, MiB.
    pub reserve: Reserve,
    /// Ports offered to containers.
    pub ports: Option<String>,
    /// Port of the Mesos agent.
    pub port: Option<u16>,
    /// Further Mesos attributes.
    #[schemars(example = json!({ "cluster": "main" }))]
    pub attributes: BTreeMap<String, String>,
    /// Further variables that titus-executor's start script exports, NAME = "value".
    #[schemars(example = json!({ "TEAM": "media" }))]
    pub labels: BTreeMap<EnvironmentName, Line>,
    /// Instance families that Titus's VPC driver knows, or "any".
    #[schemars(example = json!(["m4", "m5"]))]
    pub supported_families: Option<Families>,
    /// The instance types that Titus's VPC driver knows: those of its release of "2018-05", "any", or a list of types.
    /// Default: as supported_families says; where that is not set either, "2018-05".
    #[schemars(example = "2018-05")]
    pub vpc_driver: Option<VpcDriver>,
    /// Units that titus-executor's package enables and does not start; each is started if it is there.
    pub executor_units: Vec<String>,
    /// Where the Docker API listens for titus-executor; other than loopback gives
    /// root on the node to whoever reaches it.
    pub docker_listen: Option<String>,
    /// Arguments of the kernel's command line. Where systemd boots with cgroup v2, those for v1 are added; an own
    /// systemd.unified_cgroup_hierarchy=… overrides that.
    pub kernel_arguments: Vec<String>,
}

/// Kept for the node itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reserve {
    /// Memory, MiB.
    pub mem: Option<u64>,
    /// Disk, MiB.
    pub disk: Option<u64>,
}

/// A list of instance families, or all of them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a list of families such as [\"m4\", \"m5\"], or \"any\"")]
pub enum Families {
    /// Every family.
    Any(Any),
    /// These.
    Listed(Vec<String>),
}

/// What Titus's VPC driver knows.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"2018-05\", \"any\", or a list of types such as [\"m4.large\", \"t3.large\"]")]
pub enum VpcDriver {
    /// The types of this release.
    Release(DriverRelease),
    /// Every type.
    Any(Any),
    /// These types.
    Types(Vec<String>),
}

/// Releases of the driver whose table of types this program has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DriverRelease {
    /// titus-executor of May 2018.
    #[serde(rename = "2018-05")]
    May2018,
}

/// The word "any".
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Any {
    /// All.
    Any,
}

/// The Docker Engine.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Docker {
    /// User who is put into group docker, if there is such a user.
    pub user: Option<String>,
    /// Path of dockerd: /usr/bin/dockerd in Docker's own packages, /usr/sbin/dockerd in
    /// Debian's docker.io.
    pub daemon: Option<String>,
    /// dockerd's log level.
    pub log_level: Option<String>,
    /// Address of the engine's API; unset: DOCKER_HOST, else the unix socket.
    pub host: Option<String>,
    /// Path of a docker config.json with credentials of registries: auths, credHelpers or credsStore. Only root may be
    /// able to read it. Default: images are pulled without credentials.
    #[schemars(example = &"/etc/titus-bootstrap/registries.json")]
    pub auth: Option<String>,
}

/// Debian packages.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Packages {
    /// The Docker Engine.
    pub docker: Vec<String>,
    /// A Java runtime.
    pub java: Vec<String>,
    /// Mesos.
    pub mesos: Vec<String>,
    /// titus-executor.
    pub executor: Vec<String>,
    /// What only people use; one that no source has is a notice.
    pub extra: Vec<String>,
}

/// Sources of packages.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Apt {
    /// Each with its name, uris, suites, components and pinned key. {distribution}
    /// and {codename} in uris and suites stand for those of the image.
    pub sources: Vec<AptSource>,
    /// Whether a repository of apt.sources that another file of apt's names, too, with another key or other options is
    /// taken out of that file: its lines become comments; unset: no, and the run is refused.
    pub take_over: bool,
    /// Packages that a run may remove, where one that it installs conflicts with them; unset: none.
    pub may_remove: Vec<String>,
}

/// A source of packages with its pinned key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AptSource {
    /// Names the files below /etc/apt.
    pub name: String,
    /// Addresses of the repository.
    pub uris: Vec<String>,
    /// Suites, as "xenial", or a path that ends in "/".
    pub suites: Vec<String>,
    /// Components, as "main"; none for a path.
    #[serde(default)]
    pub components: Vec<String>,
    /// The signing key.
    pub key: Key,
}

/// A signing key: a path, or an address and what the key must be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a path, { url, sha256 } or { url, fingerprint }")]
pub enum Key {
    /// A file on the node.
    Path(String),
    /// A download, pinned by the file's checksum.
    Sha256(KeyBySha256),
    /// A download, pinned by the key's fingerprint.
    Fingerprint(KeyByFingerprint),
}

/// A key file with this checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBySha256 {
    /// Where it is.
    pub url: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// A key with this fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyByFingerprint {
    /// Where it is.
    pub url: String,
    /// The primary key's fingerprint, 40 hexadecimal digits.
    pub fingerprint: String,
}

/// Titus's own debs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Debs {
    /// The Titus master.
    #[schemars(example = json!({ "url": "", "sha256": "" }))]
    pub master: Option<Deb>,
    /// The Titus gateway.
    #[schemars(example = json!({ "url": "", "sha256": "" }))]
    pub gateway: Option<Deb>,
}

/// A deb: a path, or an address with its checksum.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Deb {
    /// A file on the node.
    pub path: Option<String>,
    /// Where to download it from.
    pub url: Option<String>,
    /// SHA-256 of the file, hexadecimal; mandatory with url.
    pub sha256: Option<String>,
}

/// Network numbers of an instance type.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceTypeNumbers {
    /// Network interfaces.
    pub max_enis: Option<u32>,
    /// IPv4 addresses of one interface, its primary one included.
    pub ipv4_per_eni: Option<u32>,
    /// Baseline bandwidth, Mbit/s.
    pub network_mbps: Option<u32>,
}

/// Where units go.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Systemd {
    /// Directory of the roles' units.
    pub unit_dir: Option<String>,
}

/// Whether to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// When all on disk is right and only the running kernel is not.
    IfNeeded,
    /// Only say so.
    Never,
}

/// How long to wait.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For all facts together.
    pub facts: Option<Timeout>,
    /// For another process's apt or dpkg lock.
    pub apt_lock: Option<Timeout>,
    /// For a download.
    pub download: Option<Timeout>,
    /// For the pull of an image.
    pub pull: Option<Timeout>,
    /// For a unit to start or stop, and to stay up.
    pub unit: Option<Timeout>,
    /// For a service to answer.
    pub wait: Option<Timeout>,
}

/// A service with a wrong setting or a missing file ends well before.
const SETTLE: Duration = Duration::from_millis(2500);

impl Timeouts {
    /// The same, as the host takes them.
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            apt_lock: length(self.apt_lock),
            download: length(self.download),
            pull: length(self.pull),
            unit: length(self.unit),
            wait: length(self.wait),
            settle: SETTLE,
        }
    }

    /// How long to wait for all facts together.
    pub fn for_facts(&self) -> Duration {
        length(self.facts)
    }
}

/// The built-in settings have all of them.
fn length(timeout: Option<Timeout>) -> Duration {
    timeout.map_or(Duration::ZERO, |Timeout(length)| length)
}

/// A length of time, written as "90s" or "5m".
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Timeout(pub Duration);

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = |_| serde::de::Error::custom(format!("{text:?} is not a length of time such as \"90s\" or \"5m\""));
        let duration = humantime::parse_duration(&text).map_err(wrong)?;
        if duration > Duration::from_secs(7 * 24 * 3600) {
            return Err(serde::de::Error::custom(format!("{text:?} is longer than a week")));
        }
        Ok(Timeout(duration))
    }
}

/// Containers that the roles run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    /// Their logs.
    pub log: ContainerLog,
    /// Whether a container of the same name that titus-bootstrap did not make is
    /// replaced, its data copied to the host first; unset: no, that is an error.
    pub adopt: bool,
}

/// Logs of containers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerLog {
    /// Docker's log driver.
    pub driver: Option<String>,
    /// Size of one file, as "10m".
    pub max_size: Option<String>,
    /// Number of files.
    pub max_file: Option<u32>,
}

/// Proxies.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// For http addresses.
    #[schemars(example = &"http://proxy.example:3128")]
    pub http: Option<String>,
    /// For https addresses.
    #[schemars(example = &"http://proxy.example:3128")]
    pub https: Option<String>,
    /// Names that are asked directly.
    #[schemars(example = &".internal,10.0.0.0/8")]
    pub no_proxy: Option<String>,
}

/// Instance tags.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tags {
    /// Tag keys that may name the role, in order.
    pub role: Vec<String>,
    /// Whether the EC2 API is asked for the tags where instance metadata has none.
    pub api: bool,
}
