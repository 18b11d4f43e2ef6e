//! Determines the node's role, with the evidence.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::facts::{Facts, TagSource};
use crate::settings::Merged;
use crate::settings::tags::{is_allowed, similar_tag};

/// The role's name as given, with each place consulted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// Not yet checked to be a known role.
    pub role: String,
    /// The places in the order of consultation; the last one named the role.
    pub evidence: Vec<Evidence>,
}

/// A place that may name the role, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The place, e.g. `--role`, `instance tag titus:role`.
    pub place: String,
    /// The role, or why the place does not name one.
    pub answer: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.answer)
    }
}

/// Consults the flag, the settings and the instance tag in the metadata, in this order, and takes the first answer. The
/// instance tag from the EC2 API comes after these. `user_data` describes the instance's user data, whose settings
/// are among the settings.
///
/// # Errors
/// Fails with 78 when no place names the role. The error lists each place with its answer, and how to enable tags.
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
            None => Err("no instance to ask".to_owned()),
            Some(Some(_)) if !is_allowed(merged, "role") => Err("the image's allowed_tags lacks role".to_owned()),
            Some(Some(tags)) => tag(tags, key, merged),
            Some(None) => Err(source.unwrap_or("tags in instance metadata are disabled").to_owned()),
        };
        ask(place, answer.as_ref().copied().map_err(String::as_str));
    }
    // User data and tags may not have arrived yet, and could still name the role.
    let may_come = instance.is_some() && (user_data == Some("none") || is_allowed(merged, "role"));
    match found {
        Some(role) => Ok(Detected { role, evidence }),
        None => Err(Error { awaits: may_come.then_some("the role"), ..no_role(&evidence) }),
    }
}

fn no_role(evidence: &[Evidence]) -> Error {
    Error::new(Kind::NoRole, "no role: nothing says which role this node has")
        .cause(evidence.iter().map(Evidence::to_string).collect::<Vec<_>>().join("\n"))
        .fix(
            "run titus-bootstrap --role ROLE, set role in the settings, or tag the instance titus:role=ROLE and enable tags in\n\
             instance metadata on: aws ec2 modify-instance-metadata-options --instance-id ID --instance-metadata-tags enabled",
        )
}

/// The tag keys that may name the role, in order.
pub fn tag_keys(merged: &Merged) -> impl Iterator<Item = &str> {
    let keys = merged.table.get("tags").and_then(|tags| tags.get("role")).and_then(toml::Value::as_array);
    keys.into_iter().flatten().filter_map(toml::Value::as_str)
}

fn tag<'a>(tags: &'a BTreeMap<String, String>, key: &str, image: &Merged) -> Result<&'a str, String> {
    match tags.get(key).map(String::as_str) {
        Some(value) if value.trim().is_empty() => Err("the tag is empty".to_owned()),
        Some(value) => Ok(value),
        None => {
            let near = tags.keys().find(|other| similar_tag(other, image).as_deref() == Some(key));
            Err(near.map_or("no such tag".to_owned(), |near| format!("no such tag, but {near:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Layer;

    fn merged(text: &str) -> Merged {
        let mut merged = Merged::default();
        merged.add(Layer::built_in().unwrap());
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
    fn the_first_place_with_an_answer_decides() {
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
    fn the_place_of_a_tag_does_not_depend_on_the_name_of_its_source() {
        let mut facts = tagged(Some(&[("titus:role", "agent")]));
        facts.sources.insert("instance.tags".into(), "EC2 API of somebody's print".into());
        let place = |facts: &Facts| role(None, &merged(""), Some(facts), None).unwrap().evidence.pop().unwrap().place;
        assert_eq!(place(&facts), "instance tag titus:role");
        facts.instance.as_mut().unwrap().tags_source = TagSource::Api;
        assert_eq!(place(&facts), "instance tag titus:role (EC2 API DescribeTags)");
    }

    #[test]
    fn a_tag_that_is_empty_or_has_nearly_the_name_is_reported() {
        let facts = tagged(Some(&[("titus:role", " "), ("titus-role", "gateway")]));
        let detected = role(None, &merged(""), Some(&facts), None).unwrap();
        let evidence: Vec<String> = detected.evidence.iter().map(Evidence::to_string).collect();
        assert_eq!(detected.role, "gateway");
        assert_eq!(evidence[2..], ["instance tag titus:role: the tag is empty", "instance tag titus-role: gateway"]);
        let near = role(None, &merged(""), Some(&tagged(Some(&[("titus:roel", "agent")]))), None).unwrap_err();
        let cause = near.cause.unwrap();
        let lines: Vec<&str> = cause.lines().skip(2).collect();
        assert_eq!(
            lines,
            ["instance tag titus:role: no such tag, but \"titus:roel\"", "instance tag titus-role: no such tag"]
        );
    }

    #[test]
    fn a_role_is_awaited_where_user_data_or_a_tag_may_still_name_it() {
        let node = tagged(Some(&[]));
        let elsewhere = Facts { instance: None, ..node.clone() };
        let no_tag = "allowed_tags = []";
        for (text, facts, user_data, awaits) in [
            ("", &node, "a script for /bin/sh", Some("the role")),
            (no_tag, &node, "none", Some("the role")),
            (no_tag, &node, "a script for /bin/sh", None),
            ("", &elsewhere, "none", None),
        ] {
            let error = role(None, &merged(text), Some(facts), Some(user_data)).unwrap_err();
            assert_eq!(error.awaits, awaits, "{text} {user_data}");
        }
    }

    #[test]
    fn without_an_answer_each_place_is_reported() {
        let message = role(None, &merged(""), Some(&tagged(None)), None).unwrap_err().to_string();
        for words in [
            "--role: not given",
            "settings: no role",
            "titus:role: tags in instance metadata are disabled",
            "--instance-metadata-tags enabled",
        ] {
            assert!(message.contains(words), "{message}");
        }
        assert!(
            role(None, &merged(""), Some(&tagged(Some(&[]))), None).unwrap_err().to_string().contains("no such tag")
        );
    }
}
