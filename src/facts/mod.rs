//! Facts: what is read of the instance and of the machine, and never set.

pub mod machine;
pub mod sample;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::secrets::hide;

/// Everything that a role's templates can know of the node.
///
/// `facts --json` prints this, and `--facts FILE` reads such a print.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// The layout's version; see [`crate::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What depends on this instance. Absent while an image is baked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// What is the same on every node of an image.
    pub image: Image,
    /// Where each fact came from: `instance.region` -> `IMDS placement/region`.
    #[serde(default)]
    pub sources: BTreeMap<String, String>,
    /// The facts of which a print has no value, because they may be secrets: `instance.tags.db-password`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden: Vec<String>,
}

/// The instance tag that names its Auto Scaling group.
pub const GROUP_TAG: &str = "aws:autoscaling:groupName";

/// The source of a fact that has none, as one that somebody has written into a print.
pub const NOT_KNOWN: &str = "not known";

impl Facts {
    /// Where a fact came from: its own source, or that of what it is part of.
    pub fn source(&self, name: &str) -> Option<&str> {
        let mut at = name;
        loop {
            if let Some(source) = self.sources.get(at) {
                return Some(source);
            }
            at = at.rsplit_once('.')?.0;
        }
    }

    /// The same as it may be shown: values of secrets are [`HIDDEN`](crate::secrets::HIDDEN), and named in `hidden`.
    ///
    /// # Errors
    /// When the facts are not what they are printed as.
    pub fn shown(&self) -> Result<Facts> {
        let differ = self.each().into_iter().filter(|(name, value, _)| hide(name, value) != *value);
        let hidden = self.hidden.iter().cloned().chain(differ.map(|(name, ..)| name)).collect();
        let mut document = json!(self);
        for part in ["instance", "image"] {
            document.get_mut(part).into_iter().for_each(|value| *value = hide(part, value));
        }
        let shown: Facts =
            serde_json::from_value(document).map_err(|e| Error::failed("facts cannot be printed").cause(e))?;
        Ok(Facts { hidden, ..shown })
    }

    /// Every fact by its whole name, `instance.tags.titus:role`, with its value and its source.
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

/// What is no table, by its whole name; and each empty table.
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

/// Facts about this instance, from its metadata service and from the running machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// `i-0123456789abcdef0`.
    pub id: String,
    /// Instance type, `m4.large`.
    #[serde(rename = "type")]
    pub instance_type: String,
    /// Availability Zone, `eu-west-1a`.
    pub zone: String,
    /// `placement/region`, else the identity document's. Never cut out of the zone.
    pub region: String,
    /// Primary private address.
    pub local_ipv4: String,
    /// Private host name.
    pub hostname: String,
    /// MAC address of the primary interface, lower case with colons.
    pub mac: String,
    /// Absent outside a VPC.
    #[serde(default)]
    pub vpc_id: Option<String>,
    /// The account that owns the instance.
    #[serde(default)]
    pub account_id: Option<String>,
    /// The reservation of the launch.
    #[serde(default)]
    pub reservation_id: Option<String>,
    /// The image that it was started from.
    #[serde(default)]
    pub ami_id: Option<String>,
    /// The instance's tags; absent where tags in instance metadata are off.
    #[serde(default)]
    pub tags: Option<BTreeMap<String, String>>,
    /// Where they are from. Not part of a print of facts.
    #[serde(skip)]
    pub tags_source: TagSource,
    /// The tag `aws:autoscaling:groupName`.
    #[serde(default)]
    pub autoscaling_group: Option<String>,
    /// `autoscaling/target-lifecycle-state`.
    #[serde(default)]
    pub lifecycle_state: Option<String>,
    /// MemTotal of /proc/meminfo, MiB.
    pub memory_mib: u64,
    /// Size of the file system that holds Docker's data root, MiB.
    pub disk_mib: u64,
    /// Processors that are online.
    pub cpus: u32,
    /// /proc/cmdline.
    pub kernel_command_line: String,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// `HttpTokens` of the instance's metadata options; absent where it was not asked for, or is unknown.
    #[serde(default)]
    pub http_tokens: Option<HttpTokens>,
    /// The network numbers of an instance type that the program's table lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_numbers: Option<TypeNumbers>,
}

impl Instance {
    /// The lifecycle state of an instance in a warm pool, `Warmed:Stopped`; none: it is in none, or leaves it
    /// ("Retrieve the target lifecycle state through instance metadata", EC2 Auto Scaling user guide).
    pub fn warm_pool(&self) -> Option<&str> {
        self.lifecycle_state.as_deref().filter(|state| state.starts_with("Warmed:"))
    }
}

impl Instance {
    /// Takes its tags, and its group from them.
    pub fn take_tags(&mut self, tags: Option<BTreeMap<String, String>>, sources: &mut BTreeMap<String, String>) {
        self.autoscaling_group = tags.as_ref().and_then(|tags| tags.get(GROUP_TAG).cloned());
        let source = if self.autoscaling_group.is_some() { "" } else { "there is no " };
        sources.insert("instance.autoscaling_group".into(), format!("{source}instance tag {}", GROUP_TAG));
        self.tags = tags;
    }
}

/// Where the tags of an instance are from, or why they are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TagSource {
    /// Instance metadata, where tags may be off; or a print of facts.
    #[default]
    Metadata,
    /// The EC2 API.
    Api,
    /// Off in the metadata, and this instance may not ask the API: why.
    Denied(String),
    /// Off in the metadata, and the API has not answered in time, but may later: why.
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

/// Whether the metadata service answers requests without a token, those of its version 1 ("MetadataOptions", EC2 API).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpTokens {
    /// It answers both versions.
    Optional,
    /// It answers version 2 alone.
    Required,
}

/// Network numbers of an instance type, of its default network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeNumbers {
    /// Network interfaces.
    pub max_enis: u32,
    /// IPv4 addresses of one interface, its primary one included.
    pub ipv4_per_eni: u32,
    /// Baseline bandwidth, Mbit/s, where EC2 says it.
    #[serde(default)]
    pub network_mbps: Option<u32>,
}

/// Another instance, that a setting finds by its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `i-0123456789abcdef0`.
    pub id: String,
    /// Its primary private address.
    pub address: String,
    /// When it was launched, in a form that sorts: when its first interface was attached, for EC2's
    /// `launchTime` is that of its last start.
    pub launched: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// Facts about the image: the same on every node started from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// ID of os-release(5): `debian`, `ubuntu`.
    pub distribution: String,
    /// VERSION_ID of os-release(5): `12`, `16.04`.
    pub release: String,
    /// VERSION_CODENAME of os-release(5): `bookworm`, `xenial`.
    pub codename: String,
    /// As uname(2) says it: `x86_64`, `aarch64`.
    pub architecture: String,
    /// The running kernel's release.
    pub kernel: String,
    /// The version of the cgroup hierarchy in force; absent where none is, as below --root.
    #[serde(default)]
    pub cgroup: Option<Cgroup>,
    /// systemd's version, `252`; absent where it is unknown, as before 231, and in prints that are older than this fact.
    #[serde(default)]
    pub systemd: Option<u32>,
}

/// A version of the cgroup hierarchy (cgroups(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroup {
    /// A hierarchy for each controller, also beside an empty one of version 2 (systemd's "hybrid").
    V1,
    /// One hierarchy for all controllers (systemd's "unified").
    V2,
}
