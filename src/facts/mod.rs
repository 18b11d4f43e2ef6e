//! Facts: values that the program reads from the instance and the machine, and never sets.

pub mod machine;
pub mod sample;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::secrets::hide;

/// All facts that a role's templates can use.
///
/// `facts --json` prints this, and `--facts FILE` reads that output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The version of this structure; see [`crate::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Facts that depend on this instance. Absent while an image is baked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// Facts that are the same on every node of an image.
    pub image: Image,
    /// The source of each fact, e.g. `instance.region` -> `IMDS placement/region`.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// Facts whose values the output lacks because they may be secrets, e.g. `instance.tags.db-password`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
}

/// The instance tag with the name of the instance's Auto Scaling group.
pub const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// The source of a fact that has none, such as one that somebody added to a facts file.
pub const NOT_KNOWN: &str = "not known";

impl Facts {
    /// The source of a fact, or of the fact that contains it.
    pub fn source(&self, name: &str) -> Option<&str> {
        let mut at = name;
        loop {
            if let Some(source) = self.sources.get(at) {
                return Some(source);
            }
            at = at.rsplit_once('.')?.0;
        }
    }

    /// The facts with secret values replaced by [`HIDDEN`](crate::secrets::HIDDEN) and listed in `hidden`.
    ///
    /// # Errors
    /// Fails when the facts do not survive the conversion to JSON and back.
    pub fn redact(&self) -> Result<Facts> {
        let differ = self.each().into_iter().filter(|(name, value, _)| hide(name, value) != *value);
        let hidden = self.hidden.iter().cloned().chain(differ.map(|(name, ..)| name)).collect();
        let mut document = json!(self);
        for part in ["instance", "image"] {
            document.get_mut(part).into_iter().for_each(|value| *value = hide(part, value));
        }
        let shown: Facts =
            serde_json::from_value(document).map_err(|e| Error::failed("cannot print the facts").cause(e))?;
        Ok(Facts { hidden, ..shown })
    }

    /// Every fact with its full name, e.g. `instance.tags.titus:role`, its value and its source.
    pub fn each(&self) -> Vec<(String, Json, String)> {
        let mut found = Vec::new();
        let (instance, image) = (json!(self.instance), json!(self.image));
        if !instance.is_null() {
            leaves("instance", &instance, &mut found);
        }
        leaves("image", &image, &mut found);
        let with_source = |(name, value): (String, &Json)| {
            let source = self.source(&name).unwrap_or(NOT_KNOWN).to_owned();
            (name, value.clone(), source)
        };
        found.into_iter().map(with_source).collect()
    }
}

/// Collects everything that is not a table, and each empty table, by full name.
pub fn leaves<'a>(name: &str, value: &'a Json, into: &mut Vec<(String, &'a Json)>) {
    match value {
        Json::Object(table) if !table.is_empty() => {
            for (key, value) in table {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                leaves(&name, value, into);
            }
        }
        _ => into.push((name.to_owned(), value)),
    }
}

/// Facts about this instance, from its metadata service and the running machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Instance id, e.g. `i-0123456789abcdef0`.
    pub id: String,
    /// Instance type, e.g. `m4.large`.
    #[serde(rename = "type")]
    pub instance_type: String,
    /// Availability Zone, e.g. `eu-west-1a`.
    pub zone: String,
    /// Region: `placement/region`, else from the identity document. Never derived from the zone.
    pub region: String,
    /// Primary private address.
    pub local_ipv4: String,
    /// Private host name.
    pub hostname: String,
    /// MAC address of the primary interface, lower case with colons.
    pub mac: String,
    /// VPC id; absent outside a VPC.
    #[serde(default)]
    pub vpc_id: Option<String>,
    /// The account that owns the instance.
    #[serde(default)]
    pub account_id: Option<String>,
    /// The reservation id of the launch.
    #[serde(default)]
    pub reservation_id: Option<String>,
    /// The image id that the instance was started from.
    #[serde(default)]
    pub ami_id: Option<String>,
    /// The instance's tags; absent if tags in instance metadata are disabled.
    #[serde(default)]
    pub tags: Option<BTreeMap<String, String>>,
    /// The source of the tags. Not part of printed facts.
    #[serde(skip)]
    pub tags_source: TagSource,
    /// The Auto Scaling group: the tag `aws:autoscaling:groupName`.
    #[serde(default)]
    pub autoscaling_group: Option<String>,
    /// The lifecycle state: `autoscaling/target-lifecycle-state`.
    #[serde(default)]
    pub lifecycle_state: Option<String>,
    /// Memory: MemTotal of /proc/meminfo, MiB.
    pub memory_mib: u64,
    /// Size of the file system with Docker's data root, MiB.
    pub disk_mib: u64,
    /// Processors that are online.
    pub cpus: u32,
    /// The kernel's command line: /proc/cmdline.
    pub kernel_command_line: String,
    /// The boot id: /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// `HttpTokens` of the instance's metadata options; absent if unknown or not needed.
    #[serde(default)]
    pub http_tokens: Option<HttpTokens>,
    /// Network numbers of the instance type, if the program's table lacks it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_numbers: Option<TypeNumbers>,
}

impl Instance {
    /// The lifecycle state of an instance in a warm pool, e.g. `Warmed:Stopped`; `None` if it is not in one or is leaving it
    /// ("Retrieve the target lifecycle state through instance metadata", EC2 Auto Scaling user guide).
    pub fn warm_pool(&self) -> Option<&str> {
        self.lifecycle_state.as_deref().filter(|state| state.starts_with("Warmed:"))
    }
}

impl Instance {
    /// Stores the tags, and the group that they name.
    pub fn take_tags(&mut self, tags: Option<BTreeMap<String, String>>, sources: &mut BTreeMap<String, String>) {
        self.autoscaling_group = tags.as_ref().and_then(|tags| tags.get(GROUP_TAG).cloned());
        let source = if self.autoscaling_group.is_some() { "" } else { "there is no " };
        sources.insert("instance.autoscaling_group".into(), format!("{source}instance tag {}", GROUP_TAG));
        self.tags = tags;
    }
}

/// The source of an instance's tags, or why they are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TagSource {
    /// Instance metadata, where tags may be disabled; or a facts file.
    #[default]
    Metadata,
    /// The EC2 API.
    Api,
    /// Disabled in the metadata, and this instance may not ask the API, for this reason.
    Denied(String),
    /// Disabled in the metadata, and the API has not answered in time, but may later, for this reason.
    Unanswered(String),
}

impl fmt::Display for TagSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TagSource::Metadata => f.write_str("instance metadata"),
            TagSource::Api => f.write_str("EC2 API DescribeTags"),
            TagSource::Denied(why) => write!(f, "{NOT_KNOWN}: {why}"),
            TagSource::Unanswered(why) => write!(f, "{NOT_KNOWN} for now: {why}"),
        }
    }
}

/// Whether the metadata service answers requests without a token, i.e. version 1 ("MetadataOptions", EC2 API).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HttpTokens {
    /// It answers both versions.
    Optional,
    /// It answers version 2 only.
    Required,
}

/// Network numbers of an instance type, for its default network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TypeNumbers {
    /// Number of network interfaces.
    pub max_enis: u32,
    /// IPv4 addresses of one interface, including its primary one.
    pub ipv4_per_eni: u32,
    /// Baseline bandwidth, Mbit/s, if EC2 publishes it.
    #[serde(default)]
    pub network_mbps: Option<u32>,
}

/// Another instance that a setting finds by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Instance id, e.g. `i-0123456789abcdef0`.
    pub id: String,
    /// Its primary private address.
    pub address: String,
    /// The launch time in a form that sorts: the time when its first interface was attached, because EC2's
    /// `launchTime` is the time of the last start.
    pub launched: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Facts about the image, the same on every node started from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// ID in os-release(5), e.g. `debian`, `ubuntu`.
    pub distribution: String,
    /// VERSION_ID in os-release(5), e.g. `12`, `16.04`.
    pub release: String,
    /// VERSION_CODENAME in os-release(5), e.g. `bookworm`, `xenial`.
    pub codename: String,
    /// Architecture in uname(2), e.g. `x86_64`, `aarch64`.
    pub architecture: String,
    /// The running kernel's release.
    pub kernel: String,
    /// The cgroup hierarchy in force; absent if there is none, as below --root.
    #[serde(default)]
    pub cgroup: Option<Cgroup>,
    /// systemd's version, e.g. `252`; absent if unknown, as before 231 and in older facts files.
    #[serde(default)]
    pub systemd: Option<u32>,
}

/// A version of the cgroup hierarchy (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Cgroup {
    /// A hierarchy for each controller, perhaps next to an empty one of version 2 (systemd's "hybrid").
    V1,
    /// One hierarchy for all controllers (systemd's "unified").
    V2,
}
