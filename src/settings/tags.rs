//! Settings from instance tags. Whoever may tag an instance is often not the one who made its image, and an agent
//! that is pointed at another Mesos master runs that master's containers as root. So a tag sets only what the image
//! allows, and nothing that the image sets itself.

use std::collections::BTreeMap;

use toml::Value;

use super::{Layer, Merged, Source};
use crate::error::{Error, Result};
use crate::settings::name::plain;

/// The settings that an instance tag `titus:KEY` can set, where [`ALLOWED`] lists them. No others: a tag must not be
/// able to name packages or images.
pub const TAGS: [&str; 7] =
    ["role", "stack", "prereqs", "zookeeper.servers", "master.address", "agent.log_bucket", "agent.asg"];

/// The setting that lists them. Only the image's files can have it.
pub const ALLOWED: &str = "allowed_tags";

/// What decides where a node finds its cluster: who sets one of a row decides about the others.
const TOGETHER: [&[&str]; 2] = [
    &["prereqs", "zookeeper.servers", "zookeeper.discover", "mesos.masters", "mesos.discover"],
    &["master.address", "master.discover"],
];

/// What tags say.
#[derive(Debug, Clone, Default)]
pub struct Tags {
    /// For the settings that they may set.
    pub layers: Vec<Layer>,
    /// What is said of those that are ignored; empty if none is.
    pub ignored: Vec<String>,
}

/// What the instance's tags may say on an image with these settings.
///
/// # Errors
/// When a value has the wrong form.
pub fn read(tags: &BTreeMap<String, String>, image: &Merged) -> Result<Tags> {
    let allowed = allowed(image);
    let (mut layers, mut not_allowed, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
    for key in TAGS {
        let tag = format!("titus:{key}");
        let Some(value) = tags.get(&tag) else { continue };
        if !allowed.contains(&key) {
            not_allowed.push(key);
        } else if let Some((own, source)) = set_by_image(image, key) {
            if image.text(key).as_deref() != Some(value) {
                ignored.push(format!("the tag {tag} is ignored: {source} sets {own}"));
            }
        } else if key != "role" {
            // The role is looked for on its own (detect.rs).
            layers.push(layer(key, tag, value)?);
        }
    }
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

fn layer(key: &str, tag: String, value: &str) -> Result<Layer> {
    let value = if key == "zookeeper.servers" {
        Value::Array(value.split(',').map(|server| Value::String(server.trim().to_owned())).collect())
    } else {
        Value::String(value.to_owned())
    };
    Layer::parse(Source::Tag(tag), &format!("{key} = {value}"))
}

/// Whether a tag may say this.
pub fn is_allowed(image: &Merged, key: &str) -> bool {
    allowed(image).contains(&key)
}

/// The keys that tags may set. Names that are none of [`TAGS`] are refused with the settings.
fn allowed(image: &Merged) -> Vec<&'static str> {
    let listed = image.table.get(ALLOWED).and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|name| TAGS.into_iter().find(|key| Some(*key) == name.as_str())).collect()
}

/// The setting of the image that stands against a tag, and its source.
fn set_by_image<'a>(image: &'a Merged, key: &'a str) -> Option<(&'a str, &'a Source)> {
    let row = TOGETHER.into_iter().find(|row| row.contains(&key));
    let keys = std::iter::once(key).chain(row.into_iter().flatten().copied());
    keys.filter_map(|key| Some((key, image.source(key)?))).find(|(_, source)| is_of_image(source))
}

fn is_of_image(source: &Source) -> bool {
    match source {
        Source::File(_) => true,
        Source::Prereqs(other) => is_of_image(other),
        _ => false,
    }
}

/// Refuses a source other than the image's files that says which tags are allowed.
///
/// # Errors
/// 78 with that source.
pub fn refuse_elsewhere(layer: &Layer) -> Result<()> {
    if !layer.table.contains_key(ALLOWED) {
        return Ok(());
    }
    Err(Error::config(format!("{}: {ALLOWED} is a setting of the image alone", layer.source))
        .cause("it says what those who may tag an instance can decide; that is for whoever made the image")
        .fix(format!("set it in {}, or set there, in user data or with --set what a tag would have said", super::FILE)))
}

impl Merged {
    /// What comes from tags in the end: each setting with its tag.
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
        merged.add(&Layer::built_in().unwrap());
        merged.add(&Layer::parse(Source::File("FILE".into()), text).unwrap());
        merged
    }

    fn tags(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        all.iter().map(|(key, value)| (format!("titus:{key}"), (*value).to_owned())).collect()
    }

    /// The settings that tags set, and how many notices there are.
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
            // Never above what the image says, under whatever name it says it.
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
        let (_, ignored) = taken("stack = 'blue'\nrole = 'agent'", &[("stack", "blue"), ("role", "agent")]);
        assert_eq!(ignored, [""; 0], "they say the same");
    }

    #[test]
    fn a_tag_that_is_allowed_exists() {
        let refused = image("allowed_tags = ['titus:stack']").settings().unwrap_err();
        assert!(refused.what.contains("allowed_tags = \"titus:stack\" (from FILE)"), "{refused}");
    }
}
