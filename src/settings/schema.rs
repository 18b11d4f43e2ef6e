//! The names and types of settings: one struct, used for every layer and for the merged settings. `config template` and
//! `config schema` print the comment of each field.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::forms::*;
use super::values::{EnvironmentName, Line, Variable, VariableName};
use crate::host::Deadlines;

/// Everything that an operator can set for a node.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Version of the settings' names and types: 1. The program refuses a version that it does not know.
    pub schema: Option<u32>,
    /// The role, if neither a flag nor an instance tag sets it.
    pub role: Option<RoleName>,
    /// Roles that this image accepts. Default: all.
    pub allowed_roles: Vec<RoleName>,
    /// Settings that instance tags titus:KEY may set, out of: role, stack, prereqs, zookeeper.servers, master.address,
    /// agent.log_bucket, agent.asg. Only the image's files can set this.
    pub allowed_tags: Vec<TagSetting>,
    /// The Titus stack: a part of paths in ZooKeeper, and an attribute of agents.
    pub stack: Stack,
    /// Address of the node that runs ZooKeeper and the Mesos master: short for
    /// zookeeper.servers = ["X:2181"] and mesos.masters = ["X:5050"].
    pub prereqs: Option<Prereqs>,
    /// ZooKeeper.
    pub zookeeper: Zookeeper,
    /// Mesos masters.
    pub mesos: Mesos,
    /// Container images of role prereqs.
    pub images: Images,
    /// The Titus master, and how other nodes find it.
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
    /// Instance types that are missing from the built-in table, or corrections of its numbers.
    pub instance_types: BTreeMap<InstanceType, InstanceTypeNumbers>,
    /// The directory of systemd units.
    pub systemd: Systemd,
    /// Whether to reboot when the kernel's command line requires it: "if-needed" or "never".
    /// Default: never when you start the run, if-needed at boot and from user data.
    pub reboot: Option<Reboot>,
    /// Time limits, e.g. "90s" or "5m".
    pub timeouts: Timeouts,
    /// Containers that the roles run.
    pub containers: Containers,
    /// Proxies for downloads, apt and dockerd. The metadata service, the Docker socket and loopback are always reached
    /// directly.
    pub proxy: Proxy,
    /// Instance tags.
    pub tags: Tags,
    /// The Auto Scaling group's lifecycle.
    pub lifecycle: Lifecycle,
    /// What to do after a run that failed at boot or from user data.
    pub on_failure: OnFailure,
    /// The role's own settings, named in the [vars] of its file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub vars: BTreeMap<VariableName, Variable>,
}

/// The Auto Scaling group's lifecycle.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lifecycle {
    /// Name of the lifecycle hook that holds a new instance until the run reports its result. Default: no hook is
    /// notified.
    pub hook: Option<Hook>,
}

/// What to do after a run that failed at boot or from user data.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OnFailure {
    /// Whether to ask the Auto Scaling group to replace the node. Default: no.
    pub mark_unhealthy: bool,
}

/// Instances that are found by a tag instead of by their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Discover {
    /// The tag's key, e.g. "titus:role".
    pub tag: TagKey,
    /// The tag's value.
    pub value: TagValue,
    /// The required number of instances. Default: 1 for master, 3 for the others.
    pub expected: Option<usize>,
}

/// ZooKeeper.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Zookeeper {
    /// Client addresses, each "host:port". The servers are numbered in this order, so append new ones.
    /// Default on a prereqs node: the node is the only server.
    #[schemars(example = ["10.0.0.1:2181", "10.0.0.2:2181", "10.0.0.3:2181"])]
    pub servers: Vec<ZookeeperServer>,
    /// How to find the servers by tag if servers is not set: { tag, value, expected }.
    pub discover: Option<Discover>,
}

/// Mesos masters.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mesos {
    /// Addresses, each "host:port". Default: the ZooKeeper hosts, port 5050.
    #[schemars(example = ["10.0.0.1:5050"])]
    pub masters: Vec<MesosMaster>,
    /// How to find the masters by tag if masters is not set: { tag, value, expected }.
    pub discover: Option<Discover>,
    /// The path in ZooKeeper where the masters elect their leader. Default: /titus/STACK/mesos.
    #[schemars(example = &"/titus/mainvpc/mesos")]
    pub zk_path: Option<ZookeeperPath>,
}

/// Container images.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// ZooKeeper, as name:tag or name@sha256:digest.
    pub zookeeper: Option<ImageReference>,
    /// The Mesos master, as name:tag or name@sha256:digest.
    pub mesos_master: Option<ImageReference>,
}

/// Role master.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Master {
    /// Address of the Titus master, for the gateway.
    pub address: Option<MasterAddress>,
    /// How to find the instance by tag if address is not set: { tag, value }.
    pub discover: Option<Discover>,
    /// Default IAM role of jobs: its ARN, or its name in the account of the Titus master.
    pub default_iam_role: Option<IamRole>,
    /// Default security groups of jobs: 1 to 6 ids, separated by commas.
    pub default_security_groups: Option<SecurityGroups>,
    /// Additional or changed keys of titusmaster.properties.
    #[schemars(example = json!({ "some.key": "a value" }))]
    pub properties: BTreeMap<String, String>,
}

/// Role gateway.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    /// Instance groups that the gateway keeps active. Default: agent.asg, or else "titusagent".
    #[schemars(example = ["titusagent"])]
    pub activate_instance_groups: Option<Vec<GroupName>>,
    /// Additional or changed keys of titusgateway.properties.
    #[schemars(example = json!({ "some.key": "a value" }))]
    pub properties: BTreeMap<String, String>,
}

/// Role agent.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// The Auto Scaling group. Default: the tag aws:autoscaling:groupName.
    #[schemars(example = &"titusagent")]
    pub asg: Option<GroupName>,
    /// S3 bucket for container logs.
    pub log_bucket: Option<Bucket>,
    /// Registry of the images of jobs.
    pub registry: Option<Registry>,
    /// NETFLIX_ACCOUNT in every container.
    pub account: Option<Name>,
    /// NETFLIX_ENVIRONMENT in every container.
    #[schemars(example = &"test")]
    pub environment: Option<Name>,
    /// How to count ENIs and their addresses: "instance", "schedulable" or "E-I".
    pub resource_set: Option<ResourceSetWay>,
    /// Resources that the agent offers: mem and disk in MiB, network in Mbit/s, and any others.
    /// Default: derived from the machine.
    #[schemars(example = json!({ "mem": 8000, "disk": 8000, "network": 9000 }))]
    pub resources: BTreeMap<ResourceName, u64>,
    /// Resources reserved for the node itself, in MiB.
    pub reserve: Reserve,
    /// Ports offered to containers, e.g. "7150-7200".
    pub ports: Option<PortRange>,
    /// Port of the Mesos agent.
    pub port: Option<Port>,
    /// Additional Mesos attributes.
    #[schemars(example = json!({ "cluster": "main" }))]
    pub attributes: BTreeMap<AttributeName, AttributeValue>,
    /// Additional variables that titus-executor's start script exports, NAME = "value".
    #[schemars(example = json!({ "TEAM": "media" }))]
    pub labels: BTreeMap<EnvironmentName, Line>,
    /// Instance families that Titus's VPC driver supports, or "any".
    #[schemars(example = json!(["m4", "m5"]))]
    pub supported_families: Option<Families>,
    /// Instance types that Titus's VPC driver supports: those of its release of "2018-05", "any", or a list of types.
    /// Default: derived from supported_families; if that is not set either, "2018-05".
    #[schemars(example = "2018-05")]
    pub vpc_driver: Option<VpcDriver>,
    /// Units that titus-executor's package enables but does not start. The run starts each one that exists.
    pub executor_units: Vec<UnitName>,
    /// Address of the Docker API for titus-executor. With an address other than loopback, anyone who can reach it
    /// has root on the node.
    pub docker_listen: Option<Listen>,
    /// Arguments for the kernel's command line. Where systemd boots with cgroup v2, the run adds those for v1, unless you
    /// list systemd.unified_cgroup_hierarchy=… yourself.
    pub kernel_arguments: Vec<KernelArgument>,
}

/// Resources reserved for the node itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Reserve {
    /// Memory, MiB.
    pub mem: Option<u64>,
    /// Disk, MiB.
    pub disk: Option<u64>,
}

/// A list of instance families, or all of them.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Families {
    /// Every family.
    Any(Any),
    /// These.
    Listed(Vec<Family>),
}

/// The instance types that Titus's VPC driver supports.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum VpcDriver {
    /// The types of this release.
    Release(DriverRelease),
    /// Every type.
    Any(Any),
    /// These types.
    Types(Vec<InstanceType>),
}

/// Releases of the driver whose list of types is built in.
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
    /// User to add to the group docker, if that user exists.
    pub user: Option<UserName>,
    /// Path of dockerd: /usr/bin/dockerd in Docker's own packages, /usr/sbin/dockerd in
    /// Debian's docker.io.
    pub daemon: Option<AbsolutePath>,
    /// dockerd's log level.
    pub log_level: Option<DockerLogLevel>,
    /// Address of the engine's API, unix:///PATH or tcp://host:port. Default: DOCKER_HOST, else the unix socket.
    pub host: Option<DockerHost>,
    /// Path of a docker config.json with credentials for registries: auths, credHelpers or credsStore. Only root may be
    /// able to read it. Default: images are pulled without credentials.
    #[schemars(example = &"/etc/titus-bootstrap/registries.json")]
    pub auth: Option<AbsolutePath>,
}

/// Debian packages.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Packages {
    /// The Docker Engine.
    pub docker: Vec<Package>,
    /// A Java runtime.
    pub java: Vec<Package>,
    /// Mesos.
    pub mesos: Vec<Package>,
    /// titus-executor.
    pub executor: Vec<Package>,
    /// Convenience packages for people. A package that no source has only causes a notice.
    pub extra: Vec<Package>,
}

/// Sources of packages.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Apt {
    /// Each with its name, uris, suites, components and pinned key. {distribution}
    /// and {codename} in uris and suites stand for those of the image.
    #[schemars(example = json!([{
        "name": "titus", "uris": ["https://repo.example/titus"], "suites": ["stable"], "components": ["main"],
        "key": "/usr/share/keyrings/titus.asc"
    }]))]
    pub sources: Vec<AptSource>,
    /// Whether to turn the entries of other apt files into comments if they name a repository of apt.sources with
    /// another key or other options. Default: no; the run fails instead.
    pub take_over: bool,
    /// Packages that a run may remove if a package that it installs conflicts with them. Default: none.
    pub may_remove: Vec<PackageName>,
}

/// A package source with its pinned key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AptSource {
    /// Name of its files below /etc/apt.
    pub name: SourceName,
    /// Addresses of the repository.
    pub uris: Vec<AptUri>,
    /// Suites, e.g. "xenial", or a path that ends in "/".
    pub suites: Vec<Suite>,
    /// Components, e.g. "main"; leave them out for a path.
    #[serde(default)]
    pub components: Vec<Component>,
    /// The signing key.
    pub key: Key,
}

/// A signing key: a path, or an address with the pin of the key.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Key {
    /// A file on the node.
    Path(FilePath),
    /// A download, pinned by the file's checksum.
    Sha256(KeyBySha256),
    /// A download, pinned by the key's fingerprint.
    Fingerprint(KeyByFingerprint),
}

/// A key file, pinned by its checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBySha256 {
    /// The address to download it from.
    pub url: KeyUrl,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: Sha256,
}

/// A key, pinned by its fingerprint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyByFingerprint {
    /// The address to download it from.
    pub url: KeyUrl,
    /// The primary key's fingerprint, 40 hexadecimal digits.
    pub fingerprint: Fingerprint,
}

/// Titus's own debs.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Debs {
    /// The Titus master.
    #[schemars(example = json!({ "url": "https://repo.example/titus-server-master_0.0.1-1_all.deb", "sha256": "0".repeat(64) }))]
    pub master: Option<DebLocation>,
    /// The Titus gateway.
    #[schemars(example = json!({ "url": "https://repo.example/titus-server-gateway_0.0.1-1_all.deb", "sha256": "0".repeat(64) }))]
    pub gateway: Option<DebLocation>,
}

/// A deb: a path, or an address with its checksum.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DebLocation {
    /// A file on the node.
    pub path: Option<FilePath>,
    /// The address to download it from.
    pub url: Option<DebUrl>,
    /// SHA-256 of the file, hexadecimal; required with url.
    pub sha256: Option<Sha256>,
}

/// Network numbers of an instance type.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InstanceTypeNumbers {
    /// Number of network interfaces.
    pub max_enis: Option<u32>,
    /// IPv4 addresses of each interface, including its primary one.
    pub ipv4_per_eni: Option<u32>,
    /// Baseline bandwidth, Mbit/s.
    pub network_mbps: Option<u32>,
}

/// The directory of systemd units.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Systemd {
    /// Directory for the units of the roles.
    pub unit_dir: Option<AbsolutePath>,
}

/// Whether to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reboot {
    /// Reboot if everything on disk is right and only the running kernel differs.
    IfNeeded,
    /// Only report that a reboot is needed.
    Never,
}

/// Time limits.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For all facts together.
    pub facts: Option<Timeout>,
    /// For the apt or dpkg lock of another process.
    pub apt_lock: Option<Timeout>,
    /// For one download.
    pub download: Option<Timeout>,
    /// For the pull of one image.
    pub pull: Option<Timeout>,
    /// For a unit to start, to stop, or to prove that it stays up.
    pub unit: Option<Timeout>,
    /// For a service to answer.
    pub wait: Option<Timeout>,
    /// For the tags, credentials and Auto Scaling group of an instance that has just booted, counted from the start of the
    /// kernel.
    pub launch: Option<Timeout>,
}

/// The time limit of units that have not failed: a service with a wrong setting or a missing file fails well before.
const SETTLE: Duration = Duration::from_millis(2500);

impl Timeouts {
    /// The time limits in the form that the host takes.
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            apt_lock: length(self.apt_lock),
            download: length(self.download),
            pull: length(self.pull),
            unit: length(self.unit),
            wait: length(self.wait),
            settle: SETTLE,
            launch: length(self.launch),
        }
    }

    /// The time limit for all facts together.
    pub fn facts_limit(&self) -> Duration {
        length(self.facts)
    }
}

/// A time limit; the built-in settings have all of them.
fn length(timeout: Option<Timeout>) -> Duration {
    timeout.map_or(Duration::ZERO, |Timeout(length)| length)
}

/// Containers that the roles run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    /// Log settings.
    pub log: ContainerLog,
    /// Whether to replace a container of the same name that titus-bootstrap did not create, after copying its data to
    /// the host. Default: no; the run fails instead.
    pub adopt: bool,
}

/// Log settings of containers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerLog {
    /// Docker's log driver.
    pub driver: Option<LogDriver>,
    /// Maximum size of one file, e.g. "10m".
    pub max_size: Option<LogSize>,
    /// Maximum number of files.
    pub max_file: Option<u32>,
}

/// Proxies.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// Proxy for http addresses, with its port.
    #[schemars(example = &"http://proxy.example:3128")]
    pub http: Option<ProxyUrl>,
    /// Proxy for https addresses, with its port.
    #[schemars(example = &"http://proxy.example:3128")]
    pub https: Option<ProxyUrl>,
    /// Names, addresses and networks to reach directly, separated by commas. Loopback, link-local addresses and the
    /// instance's own services are always reached directly.
    #[schemars(example = &".internal,10.0.0.0/8")]
    pub no_proxy: Option<NoProxy>,
}

/// Instance tags.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tags {
    /// Tag keys that may name the role, in the order in which they are tried.
    pub role: Vec<TagKey>,
    /// Whether to ask the EC2 API for the tags if the instance metadata has none.
    pub api: bool,
    /// How long after the kernel's start the nodes of a large fleet, which boot together, ask the EC2 API for their tags:
    /// each at its own time within this limit, which its instance id decides. One second for each 20 nodes suits the API.
    pub spread: Option<Timeout>,
}

#[cfg(test)]
mod tests {
    /// Fields that accept any string, with the reason why they have no form.
    const TEXTS: [(&str, &str); 1] =
        [("properties", "names and values of properties files are whatever their reader takes: the step escapes them")];

    #[test]
    fn a_field_of_any_text_is_the_exception() {
        let source = include_str!("schema.rs");
        let (source, _) = source.split_once("#[cfg(test)]").unwrap();
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//") && !line.contains("#["));
        let mut fields = Vec::new();
        for line in code {
            // A field or a variant.
            let Some((name, of)) = line.trim().split_once([':', '(']) else { continue };
            let words = of.split(|c: char| !c.is_ascii_alphanumeric());
            if words.into_iter().any(|word| ["String", "str", "PathBuf", "Value"].contains(&word)) {
                fields.push(name.trim_start_matches("pub ").to_owned());
            }
        }
        fields.dedup();
        assert_eq!(fields, TEXTS.map(|(name, _)| name), "give it a type of src/settings/forms, or a reason here");
    }
}
