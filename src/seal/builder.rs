//! The machine that an image is built on, and the traces that identify it.

use std::time::Duration;

use crate::ec2::imds;
use crate::error::{Kind, Result};
use crate::facts::{Instance, machine};
use crate::host::Host;
use crate::host::image::search::{Bounds, SearchText};

/// The time limit of the metadata service. An instance gets an answer at once; a builder elsewhere must not wait long.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where cloud-init records the instance that it ran on.
const CLOUD_INIT_IDS: [&str; 3] =
    ["/var/lib/cloud/data/instance-id", "/var/lib/cloud/data/previous-instance-id", "/run/cloud-init/.instance-id"];

/// A text that must not be in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// Its description, e.g. `the builder's instance id`.
    pub what: &'static str,
    /// The text.
    pub text: String,
    /// Which characters must not be next to it.
    pub bounds: Bounds,
}

/// The known traces of the builder.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    /// The texts to search for.
    pub traces: Vec<Trace>,
    /// The public keys of the key pair, without options and comments; `None` if no metadata service responds.
    pub keys: Option<Vec<String>>,
    /// Notices about sources that did not respond.
    pub notices: Vec<String>,
}

impl Builder {
    /// Collects the traces from the metadata service (if this is an instance), cloud-init's files, and the network interfaces.
    /// For a tree, reads only the tree, and `given` if present.
    ///
    /// # Errors
    /// Fails when the given address of the metadata service is wrong.
    pub fn find(host: &Host, given: Option<&Instance>) -> Result<Builder> {
        let mut builder = Builder::default();
        if let Some(instance) = given {
            builder.add_instance(instance);
        } else if host.is_live() {
            builder.ask_metadata()?;
        }
        builder.read_cloud_init(host);
        if host.is_live() {
            builder.add_interfaces(host);
        }
        if !builder.traces.iter().any(|trace| trace.what == INSTANCE) {
            builder.notices.push(
                "did not search for the builder's instance id: neither the metadata service nor cloud-init's files have it".into(),
            );
        }
        Ok(builder)
    }

    /// The texts for the search, in the order of [`Builder::traces`].
    pub fn texts(&self) -> Vec<SearchText> {
        self.traces.iter().map(|trace| SearchText::new(&trace.text, trace.bounds)).collect()
    }

    fn add(&mut self, what: &'static str, text: &str, bounds: Bounds) {
        if !text.is_empty() && !self.traces.iter().any(|trace| trace.text == text) {
            self.traces.push(Trace { what, text: text.to_owned(), bounds });
        }
    }

    fn ask_metadata(&mut self) -> Result<()> {
        let endpoint = imds::Endpoint::from_env()?;
        let live = Host::live(Default::default());
        if endpoint.is_disabled() || !(endpoint.is_given() || machine::is_ec2(&live)) {
            return Ok(());
        }
        match imds::read(&endpoint, DEADLINE) {
            Ok(answers) => {
                self.add_instance(&answers.instance);
                match imds::public_keys(&endpoint, DEADLINE) {
                    Ok(keys) => self.add_keys(&keys),
                    Err(error) => self.notices.push(format!("the builder's public key is unknown: {}", error.what)),
                }
            }
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => self.notices.push(format!("the metadata service could not help: {}", error.what)),
        }
        Ok(())
    }

    fn add_instance(&mut self, instance: &Instance) {
        self.add(INSTANCE, &instance.id, Bounds::Any);
        self.add(ADDRESS, &instance.local_ipv4, Bounds::Address);
        self.add_mac(&instance.mac);
        self.add_name(&instance.hostname);
    }

    /// Adds keys such as `ssh-ed25519 AAAA… NAME`, perhaps with options before it: the long word is the key.
    fn add_keys(&mut self, keys: &[String]) {
        let words = keys.iter().filter_map(|key| key.split_whitespace().find(|word| is_key(word)));
        let words: Vec<String> = words.map(str::to_owned).collect();
        words.iter().for_each(|word| self.add("the public key of the builder's key pair", word, Bounds::Any));
        self.keys = Some(words);
    }

    fn add_mac(&mut self, mac: &str) {
        // The address of a tunnel, or none.
        if mac.len() != 17 || mac.bytes().all(|b| b == b'0' || b == b':') {
            return;
        }
        for form in [mac.to_owned(), mac.to_ascii_uppercase(), mac.replace(':', "-")] {
            self.add("the builder's MAC address", &form, Bounds::Any);
        }
    }

    /// Adds only names that EC2 derives from an address or id. Any other name is the operator's, or an ordinary word.
    fn add_name(&mut self, name: &str) {
        let label = name.split('.').next().unwrap_or_default();
        if is_ec2_name(label) {
            self.add("the builder's host name", label, Bounds::NoDigitAfter);
        }
    }

    fn read_cloud_init(&mut self, host: &Host) {
        let mut ids = Vec::new();
        for path in CLOUD_INIT_IDS {
            let text = host.read_plain(path, 200).ok().flatten().unwrap_or_default();
            ids.push(String::from_utf8_lossy(&text).trim().to_owned());
        }
        ids.extend(host.names_in("/var/lib/cloud/instances").unwrap_or_default());
        ids.iter().filter(|id| is_instance_id(id)).for_each(|id| self.add(INSTANCE, id, Bounds::Any));
    }

    fn add_interfaces(&mut self, host: &Host) {
        for interface in host.interfaces() {
            self.add_mac(&interface.mac);
            interface.ipv4.iter().for_each(|ip| self.add(ADDRESS, &ip.to_string(), Bounds::Address));
        }
        self.add_name(&host.host_name());
    }
}

const INSTANCE: &str = "the builder's instance id";
const ADDRESS: &str = "the builder's address";

/// Whether a word is a key in authorized_keys(5): base64 of a length and a name, so it begins with `AAAA`.
pub(super) fn is_key(word: &str) -> bool {
    word.len() > 40 && word.starts_with("AAAA")
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|hex| (8..=17).contains(&hex.len()) && hex.bytes().all(is_hex))
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Whether a name has the form `ip-10-0-0-5` or of an instance id (EC2 user guide, "Amazon EC2 instance hostname types").
fn is_ec2_name(label: &str) -> bool {
    let numbers = label.strip_prefix("ip-").map(|rest| rest.replace('-', "."));
    numbers.is_some_and(|address| address.parse::<std::net::Ipv4Addr>().is_ok()) || is_instance_id(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sample;

    #[test]
    fn an_instance_is_known_by_id_addresses_and_name() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let builder = Builder::find(&host, sample::facts().instance.as_ref()).unwrap();
        let texts: Vec<&str> = builder.traces.iter().map(|trace| trace.text.as_str()).collect();
        assert!(
            texts.contains(&"i-0123456789abcdef0") && texts.iter().any(|text| text.starts_with("ip-")),
            "{texts:?}"
        );
        assert!(builder.notices.is_empty() && builder.keys.is_none());
    }

    #[test]
    fn cloud_init_gives_the_id_of_an_instance_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let data = directory.path().join("var/lib/cloud/data");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(directory.path().join("var/lib/cloud/instances/i-0a1b2c3d")).unwrap();
        std::fs::write(data.join("instance-id"), "i-0fedcba9876543210\n").unwrap();
        std::fs::write(data.join("previous-instance-id"), "NONE\n").unwrap();
        let builder = Builder::find(&host, None).unwrap();
        let texts: Vec<&str> = builder.traces.iter().map(|trace| trace.text.as_str()).collect();
        assert_eq!(texts, ["i-0fedcba9876543210", "i-0a1b2c3d"]);
        std::fs::write(data.join("instance-id"), "nocloud\n").unwrap();
        std::fs::remove_dir_all(directory.path().join("var/lib/cloud/instances")).unwrap();
        let builder = Builder::find(&host, None).unwrap();
        assert_eq!((builder.traces.len(), builder.notices.len()), (0, 1));
    }

    #[test]
    fn ordinary_names_and_empty_addresses_are_not_searched_for() {
        let mut builder = Builder::default();
        for name in ["debian", "localhost", "ip-address", "builder-7"] {
            builder.add_name(name);
        }
        builder.add_mac("00:00:00:00:00:00");
        builder.add_mac("");
        builder.add(ADDRESS, "", Bounds::Address);
        assert_eq!(builder.traces, []);
        builder.add_name("ip-10-0-0-5.eu-west-1.compute.internal");
        builder.add_keys(&["ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQC7vbqajDw4o6gJy8UtmIbkcpnk me".into()]);
        assert_eq!(builder.traces.len(), 2);
        assert_eq!(builder.keys.unwrap()[0].len(), 56);
    }
}
