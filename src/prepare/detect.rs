//! Which role the node has, on what evidence.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, TagSource};
use crate::settings::Merged;
use crate::settings::tags::is_allowed;

/// The role's name as it was given, and each place consulted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Not yet checked to be a role.
    pub role: String,
    /// In the order of asking; the last one named the role.
    pub evidence: Vec<Evidence>,
}

/// A place that may name the role, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// `--role`, `instance tag titus:role`.
    pub place: String,
    /// The role, or why there is none.
    pub answer: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.answer)
    }
}

/// The first that answers wins: the flag, the settings, the instance tag in metadata. The
/// instance tag from the EC2 API comes after these. `user_data`: what the instance's user data is, in words; its settings
/// are among the settings.
///
/// # Errors
/// 78 when none answers: each place, what it said, and how to turn tags on.
pub fn role(flag: Option<&str>, merged: &Merged, facts: Option<&Facts>, user_data: Option<&str>) -> Result<Detected> {
    let mut evidence = Vec::new();
    let mut found = None;
    let mut ask = |place: String, answer: Result<&str, &str>| {
        if found.is_some() {
            return;
        }
        found = answer.ok().map(|role| role.trim().to_owned());
        evidence.push(Evidence { place, answer: answer.unwrap_or_else(|why| why).to_owned() });
    };
    ask("--role".into(), flag.ok_or("not given"));
    let set = merged.table.get("role").and_then(toml::Value::as_str);
    ask(merged.source("role").map_or("settings".into(), |source| format!("settings ({source})")), set.ok_or("no role"));
    if let Some(words) = user_data {
        ask("user data".into(), Err(words));
    }
    let instance = facts.and_then(|facts| facts.instance.as_ref());
    let source = facts.and_then(|facts| facts.sources.get("instance.tags")).map(String::as_str);
    for key in tag_keys(merged) {
        let place = match instance.map(|instance| &instance.tags_source) {
            Some(api @ TagSource::Api) => format!("instance tag {key} ({api})"),
            _ => format!("instance tag {key}"),
        };
        let answer = match instance.map(|instance| &instance.tags) {
            None => Err("no instance was asked"),
            Some(Some(_)) if !is_allowed(merged, "role") => Err("the image's allowed_tags lacks role"),
            Some(Some(tags)) => tag(tags, key),
            Some(None) => Err(source.unwrap_or("tags in instance metadata are off")),
        };
        ask(place, answer);
    }
    match found {
        Some(role) => Ok(Detected { role, evidence }),
        None => Err(Error::new(Kind::NoRole, "no role: nothing says which role this node has")
            .cause(evidence.iter().map(Evidence::to_string).collect::<Vec<_>>().join("\n"))
            .fix(
                "run titus-bootstrap --role ROLE, set role in the settings, or tag the instance titus:role=ROLE and turn tags in\n\
                 instance metadata on: aws ec2 modify-instance-metadata-options --instance-id ID --instance-metadata-tags enabled",
            )),
    }
}

/// The tag keys that may name the role, in order.
pub fn tag_keys(merged: &Merged) -> impl Iterator<Item = &str> {
    let keys = merged.table.get("tags").and_then(|tags| tags.get("role")).and_then(toml::Value::as_array);
    keys.into_iter().flatten().filter_map(toml::Value::as_str)
}

fn tag<'a>(tags: &'a BTreeMap<String, String>, key: &str) -> Result<&'a str, &'static str> {
    tags.get(key).map(String::as_str).filter(|value| !value.trim().is_empty()).ok_or("no such tag")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Layer;

    fn merged(text: &str) -> Merged {
        let mut merged = Merged::default();
        merged.add(&Layer::built_in().unwrap());
        merged.add(&Layer::parse(crate::settings::Source::File("file".into()), text).unwrap());
        merged
    }

    fn tagged(tags: Option<&[(&str, &str)]>) -> Facts {
        let mut facts = crate::facts::sample::facts();
        let instance = facts.instance.as_mut().unwrap();
        instance.tags = tags.map(|tags| tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
        facts
    }

    #[test]
    fn the_first_that_answers_wins() {
        let facts = tagged(Some(&[("titus-role", "gateway")]));
        let of = |flag, text| role(flag, &merged(text), Some(&facts), None).unwrap();
        assert_eq!(of(Some("agent"), "role = 'master'").evidence.last().unwrap().to_string(), "--role: agent");
        assert_eq!(of(Some("agent"), "role = 'master'").evidence.len(), 1);
        assert_eq!(of(None, "role = 'master'").evidence.last().unwrap().to_string(), "settings (file): master");
        let by_tag = of(None, "");
        assert_eq!((by_tag.role.as_str(), by_tag.evidence.len()), ("gateway", 4));
        assert_eq!(of(None, "tags.role = ['titus-role']").evidence.len(), 3);
    }

    #[test]
    fn the_place_of_a_tag_is_where_it_is_from_whatever_the_source_is_called() {
        let mut facts = tagged(Some(&[("titus:role", "agent")]));
        facts.sources.insert("instance.tags".into(), "EC2 API of somebody's print".into());
        let place = |facts: &Facts| role(None, &merged(""), Some(facts), None).unwrap().evidence.pop().unwrap().place;
        assert_eq!(place(&facts), "instance tag titus:role");
        facts.instance.as_mut().unwrap().tags_source = TagSource::Api;
        assert_eq!(place(&facts), "instance tag titus:role (EC2 API DescribeTags)");
    }

    #[test]
    fn without_an_answer_each_place_is_told() {
        let told = role(None, &merged(""), Some(&tagged(None)), None).unwrap_err().to_string();
        for words in [
            "--role: not given",
            "settings: no role",
            "titus:role: tags in instance metadata are off",
            "--instance-metadata-tags enabled",
        ] {
            assert!(told.contains(words), "{told}");
        }
        assert!(
            role(None, &merged(""), Some(&tagged(Some(&[]))), None).unwrap_err().to_string().contains("no such tag")
        );
    }
}
