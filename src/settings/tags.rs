//! Settings from instance tags. Often the person who may tag an instance did not make its image, and an agent
//! that is pointed at another Mesos master runs that master's containers as root. So a tag sets only settings that the
//! image allows and does not set itself.

use std::collections::BTreeMap;

use toml::Value;

use super::{Layer, Merged, Source, nearest};
use crate::error::{Error, Result};
use crate::settings::name::plain;

/// The settings that an instance tag `titus:KEY` can set if [`ALLOWED`] lists them. There must never be others: a tag is
/// not allowed to choose packages or images.
pub const TAGS: [&str; 7] =
    ["role", "stack", "prereqs", "zookeeper.servers", "master.address", "agent.log_bucket", "agent.asg"];

/// The tag with an instance's ZooKeeper server number, starting at 1.
pub const ID_TAG: &str = "titus:zookeeper-id";

/// The setting that lists the allowed settings. Only the image's files can set it.
pub const ALLOWED: &str = "allowed_tags";

/// Groups of settings that decide where a node finds its cluster. The layer that sets one of a group decides about all of it.
const TOGETHER: [&[&str]; 2] = [
    &["prereqs", "zookeeper.servers", "zookeeper.discover", "mesos.masters", "mesos.discover"],
    &["master.address", "master.discover"],
];

/// The settings and notices that tags give.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    /// Values of the settings that the tags may set.
    pub layers: Vec<Layer>,
    /// Notices about ignored tags; empty if all tags apply.
    pub ignored: Vec<String>,
}

/// Reads the instance's tags on an image with these settings.
///
/// # Errors
/// Fails when a value has the wrong form.
pub fn read(tags: &BTreeMap<String, String>, image: &Merged) -> Result<Tags> {
    let allowed = allowed_keys(image);
    let (mut layers, mut not_allowed, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
    for key in TAGS {
        let tag = format!("titus:{key}");
        let Some(value) = tags.get(&tag) else { continue };
        if !allowed.contains(&key) {
            not_allowed.push(key);
        } else if let Some((own, source)) = image_setting(image, key) {
            if image.text(key).as_deref() != Some(value) {
                ignored.push(format!("the tag {tag} is ignored: {source} sets {own}"));
            }
        } else if key != "role" {
            // detect.rs looks for the role separately.
            layers.push(layer(key, tag, value)?);
        }
    }
    let near = |key: &String| Some(format!("the tag {key:?} is ignored: did you mean {}?", similar_tag(key, image)?));
    ignored.extend(tags.keys().filter_map(near));
    if !not_allowed.is_empty() {
        let names: Vec<String> = not_allowed.iter().map(|key| format!("titus:{key}")).collect();
        let all: Vec<String> = allowed.iter().chain(&not_allowed).map(|key| format!("{key:?}")).collect();
        let (tags, are, them) = if names.len() == 1 { ("tag", "is", "it") } else { ("tags", "are", "them") };
        ignored.push(format!(
            "the {tags} {} {are} ignored: this image does not allow {them}. To allow {them}, set in the image's {}: {ALLOWED} = [{}]",
            names.join(", "),
            super::FILE,
            all.join(", ")
        ));
    }
    Ok(Tags { layers, ignored })
}

/// The known tag that this unknown key resembles.
pub fn similar_tag(key: &str, image: &Merged) -> Option<String> {
    let table = |name: &str| image.table.get(name).and_then(Value::as_table);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let role = table("tags").and_then(|tags| tags.get("role")?.as_array()).into_iter().flatten().filter_map(text);
    let peers = ["zookeeper", "mesos", "master"].into_iter();
    let peers = peers.filter_map(|name| table(name)?.get("discover")?.get("tag").and_then(text));
    let own = TAGS.iter().map(|key| format!("titus:{key}")).chain([ID_TAG.to_owned()]);
    let known: Vec<String> = own.chain(role).chain(peers).collect();
    let plain = key.trim().to_ascii_lowercase();
    if known.iter().any(|known| known == key) || !plain.starts_with("titus") {
        return None;
    }
    nearest(&plain, known.iter().map(String::as_str)).map(str::to_owned)
}

fn layer(key: &str, tag: String, value: &str) -> Result<Layer> {
    let value = if key == "zookeeper.servers" {
        Value::Array(value.split(',').map(|server| Value::String(server.trim().to_owned())).collect())
    } else {
        Value::String(value.to_owned())
    };
    Layer::parse(Source::Tag(tag), &format!("{key} = {value}"))
}

/// Whether a tag may set this.
pub fn is_allowed(image: &Merged, key: &str) -> bool {
    allowed_keys(image).contains(&key)
}

/// The keys that tags may set. Checking the settings refuses names outside [`TAGS`].
fn allowed_keys(image: &Merged) -> Vec<&'static str> {
    let listed = image.table.get(ALLOWED).and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|name| TAGS.into_iter().find(|key| Some(*key) == name.as_str())).collect()
}

/// The setting of the image that overrides a tag, and its source.
fn image_setting<'a>(image: &'a Merged, key: &'a str) -> Option<(&'a str, &'a Source)> {
    let row = TOGETHER.into_iter().find(|row| row.contains(&key));
    let keys = std::iter::once(key).chain(row.into_iter().flatten().copied());
    keys.filter_map(|key| Some((key, image.source(key)?))).find(|(_, source)| is_image_source(source))
}

fn is_image_source(source: &Source) -> bool {
    match source {
        Source::File(_) => true,
        Source::Prereqs(other) => is_image_source(other),
        _ => false,
    }
}

/// Refuses the list of allowed tags in any source other than the image's files.
///
/// # Errors
/// Fails with exit code 78 when the source sets it.
pub fn refuse_elsewhere(layer: &Layer) -> Result<()> {
    if !layer.table.contains_key(ALLOWED) {
        return Ok(());
    }
    Err(Error::config(format!("{}: {ALLOWED} can only be set by the image", layer.source))
        .cause("it limits what people who may tag an instance can change, so only the person who makes the image can set it")
        .fix(format!(
            "set it in {}; or set the value itself there, in user data or with --set, instead of in a tag",
            super::FILE
        )))
}

impl Merged {
    /// The settings that come from tags after all layers are merged, each with its tag.
    pub fn from_tags(&self) -> Vec<String> {
        let shown = |(path, source): (&String, &Source)| match source {
            Source::Tag(_) => Some(format!("{path} = {} ({source})", self.shown(path)?)),
            _ => None,
        };
        self.sources.iter().filter_map(shown).collect()
    }

    fn shown(&self, path: &str) -> Option<String> {
        let values = crate::secrets::hide("", &serde_json::json!(self.table));
        super::name::lookup(&values, path).map(ToString::to_string)
    }

    fn text(&self, key: &str) -> Option<String> {
        let values = serde_json::json!(self.table);
        super::name::lookup(&values, &plain(key))?.as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Merged {
        let mut merged = Merged::default();
        merged.add(Layer::built_in().unwrap());
        merged.add(&Layer::parse(Source::File("FILE".into()), text).unwrap());
        merged
    }

    fn tags(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(key, value)| (format!("titus:{key}"), (*value).to_owned())).collect()
    }

    /// The settings that the tags set, and the notices.
    fn taken(image_text: &str, all: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut merged = image(image_text);
        let read = read(&tags(all), &merged).unwrap();
        read.layers.iter().for_each(|layer| merged.add(layer));
        (merged.from_tags(), read.ignored)
    }

    const ALL: &str = "allowed_tags = ['role', 'stack', 'prereqs', 'zookeeper.servers', 'master.address', 'agent.log_bucket', 'agent.asg']\n";

    #[test]
    fn a_tag_sets_what_the_image_allows_and_does_not_set() {
        let one = |name: &str, value: &str| vec![format!("{name} = {value}")];
        for (text, key, value, set) in [
            ("", "stack", "blue", one("stack", "\"blue\" (tag titus:stack)")),
            ("", "agent.asg", "x", one("agent.asg", "\"x\" (tag titus:agent.asg)")),
            ("", "prereqs", "10.9.9.9", vec![]),
            ("", "zookeeper.servers", "10.9.9.9:2181", vec![]),
            ("", "master.address", "10.9.9.9", vec![]),
            ("", "agent.log_bucket", "evil", vec![]),
            ("", "packages.docker", "evil", vec![]),
            ("", "allowed_tags", "prereqs", vec![]),
            ("allowed_tags = []", "stack", "blue", vec![]),
            (
                "allowed_tags = ['agent.log_bucket']",
                "agent.log_bucket",
                "b-1",
                one("agent.log_bucket", "\"b-1\" (tag titus:agent.log_bucket)"),
            ),
            // A tag never overrides the image, under whatever name the image sets it.
            ("stack = 'green'", "stack", "blue", vec![]),
            ("agent.asg = 'a'", "agent.asg", "b", vec![]),
            ("prereqs = '10.0.0.1'", "prereqs", "10.9.9.9", vec![]),
            ("prereqs = '10.0.0.1'", "zookeeper.servers", "10.9.9.9:2181", vec![]),
            ("zookeeper.servers = ['10.0.0.1:2181']", "prereqs", "10.9.9.9", vec![]),
            ("mesos.masters = ['10.0.0.1:5050']", "prereqs", "10.9.9.9", vec![]),
            ("mesos.masters = ['10.0.0.1:5050']", "zookeeper.servers", "10.9.9.9:2181", vec![]),
            ("zookeeper.discover = { tag = 'a', value = 'b' }", "zookeeper.servers", "10.9.9.9:2181", vec![]),
            ("mesos.discover = { tag = 'a', value = 'b' }", "prereqs", "10.9.9.9", vec![]),
            ("master.discover = { tag = 'a', value = 'b' }", "master.address", "10.9.9.9", vec![]),
        ] {
            let text = if text.starts_with("allowed_tags") || text.is_empty() || !set.is_empty() {
                text.to_owned()
            } else {
                format!("{ALL}{text}")
            };
            let (taken, ignored) = taken(&text, &[(key, value)]);
            assert_eq!(taken, set, "{text} {key}");
            let is_known = TAGS.contains(&key);
            assert_eq!(ignored.len(), usize::from(set.is_empty() && is_known), "{text} {key}: {ignored:?}");
        }
    }

    #[test]
    fn what_is_ignored_is_one_notice_that_says_how_to_allow_it() {
        let (_, ignored) = taken("", &[("prereqs", "a"), ("stack", "blue"), ("agent.log_bucket", "b")]);
        assert_eq!(
            ignored,
            [
                "the tags titus:prereqs, titus:agent.log_bucket are ignored: this image does not allow them. To allow them, \
              set in the image's /etc/titus-bootstrap/config.toml: \
              allowed_tags = [\"role\", \"stack\", \"agent.asg\", \"prereqs\", \"agent.log_bucket\"]"
            ]
        );
        let (_, ignored) = taken("stack = 'green'", &[("stack", "blue")]);
        assert_eq!(ignored, ["the tag titus:stack is ignored: FILE sets stack"]);
        let text = format!("{ALL}prereqs = '10.0.0.1'");
        let (_, ignored) = taken(&text, &[("zookeeper.servers", "10.9.9.9:2181")]);
        assert_eq!(ignored, ["the tag titus:zookeeper.servers is ignored: prereqs in FILE sets zookeeper.servers"]);
        let (_, ignored) = taken("stack = 'blue'\nrole = 'agent'", &[("stack", "blue"), ("role", "agent")]);
        assert_eq!(ignored, [""; 0], "they say the same");
    }

    #[test]
    fn a_tag_that_is_allowed_exists() {
        let refused = Layer::parse(Source::File("FILE".into()), "allowed_tags = ['titus:stack']").unwrap_err();
        assert_eq!(refused.what, "FILE, line 1, column 17: allowed_tags = \"titus:stack\" cannot be used");
        assert_eq!(refused.fix.as_deref(), Some("write `stack`"));
    }
}
