//! `config template`, `config show` and `config schema`: the settings for people and for editors.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use toml::Value;

use super::name::lookup;
use super::{FOLLOWS, Merged, Settings};
use crate::facts::leaves;
use crate::secrets::hide;

/// Names `titus.*` and the settings that they are derived of.
const DERIVED: [(&str, &[&str]); 5] = [
    ("titus.mesos_master", &["prereqs", "zookeeper.servers", "mesos.zk_path"]),
    (
        "titus.attributes",
        &[
            "agent.asg",
            "stack",
            "agent.ports",
            "agent.attributes",
            "agent.resource_set",
            "agent.supported_families",
            "agent.vpc_driver",
        ],
    ),
    ("titus.resources", &["agent.resources", "agent.reserve"]),
    ("titus.resource_set", &["agent.resource_set"]),
    ("titus.kernel_arguments", &["agent.kernel_arguments"]),
];

/// The JSON Schema of the settings.
pub fn schema() -> Json {
    json!(schemars::schema_for!(Settings))
}

/// A commented file with what a role needs and no more.
pub fn template(role: &str, used: &BTreeSet<String>, required: &[String], merged: &Merged) -> String {
    let mut keys: BTreeSet<&str> = required.iter().map(String::as_str).collect();
    for name in used {
        match DERIVED.iter().find(|(derived, _)| derived == name) {
            Some((_, settings)) => keys.extend(settings.iter()),
            None => {
                keys.insert(name);
            }
        }
    }
    // One address serves where the role needs ZooKeeper.
    if keys.contains("zookeeper.servers") {
        keys.insert("prereqs");
    }
    let (schema, values) = (schema(), hide("", &json!(merged.table)));
    let mut text = format!(
        "# Settings of titus-bootstrap for role {role}: {}.\n# What is commented out shows the default, or an example where there is none.\n",
        super::FILE
    );
    for key in keys {
        let Some(description) = description(&schema, key) else { continue };
        text.push_str(&format!("\n{}", comment(&description)));
        let value = lookup(&values, key).map(toml_of);
        let must = required.iter().any(|name| name == key) && key != "zookeeper.servers"
            || (key == "prereqs" && required.iter().any(|r| r == "zookeeper.servers"));
        match (must, value) {
            (true, None) if key.starts_with("debs.") => {
                text.push_str(&format!("# Required.\n{key} = {}\n", example(&schema, key)))
            }
            (true, None) => text.push_str(&format!("# Required.\n{key} = \"\"\n")),
            (_, Some(value)) => text.push_str(&format!("#{key} = {}\n", value.trim())),
            (false, None) => text.push_str(&format!("#{key} = {}\n", example(&schema, key))),
        }
    }
    text
}

/// The example that a setting has in the schema.
fn example(schema: &Json, key: &str) -> String {
    let example = place(schema, key).and_then(|at| at.get("examples")?.get(0));
    toml_of(example.unwrap_or(&json!("")))
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// A value as TOML has it.
fn toml_of(value: &Json) -> String {
    Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

/// A setting's place in the schema; `None` if it is none.
fn place<'a>(schema: &'a Json, key: &str) -> Option<&'a Json> {
    key.split('.').try_fold(schema, |at, part| follow(schema, at)?.get("properties")?.get(part))
}

/// The description of a setting in the schema; `None` if it is none.
fn description(schema: &Json, key: &str) -> Option<String> {
    let at = place(schema, key)?;
    let own = at.get("description").or_else(|| follow(schema, at)?.get("description"))?;
    own.as_str().map(str::to_owned)
}

/// Through `$ref`, and through the `anyOf` of an optional table.
fn follow<'a>(schema: &'a Json, at: &'a Json) -> Option<&'a Json> {
    let referred = at.get("$ref").or_else(|| at.get("anyOf")?.get(0)?.get("$ref"));
    match referred.and_then(Json::as_str) {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')),
        None => Some(at),
    }
}

/// Every value with its source; secrets hidden.
pub fn shown(merged: &Merged) -> BTreeMap<String, (String, String)> {
    let values = hide("", &json!(merged.table));
    let mut all = Vec::new();
    leaves("", &values, &mut all);
    let source = |key: &str| merged.source(key).map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let mut found: BTreeMap<String, (String, String)> = all
        .into_iter()
        .filter(|(_, value)| !value.is_object())
        .map(|(key, value)| (key.clone(), (toml_of(value), source(&key))))
        .collect();
    if let Ok(settings) = merged.settings() {
        let known = hide("", &json!(settings));
        for (key, of) in FOLLOWS {
            let value = lookup(&known, key).unwrap_or(&Json::Null);
            found.entry(key.to_owned()).or_insert_with(|| (value.to_string(), format!("derived of {of}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Source};

    #[test]
    fn every_setting_has_a_description() {
        let schema = schema();
        for key in
            ["role", "agent.log_bucket", "timeouts.facts", "apt.sources", "agent.reserve.mem", "containers.log.driver"]
        {
            assert!(description(&schema, key).is_some_and(|text| text.len() > 5), "{key}");
        }
        assert_eq!(description(&schema, "instance.id"), None);
    }

    #[test]
    fn a_template_has_each_key_with_its_description_and_a_value_or_an_example() {
        let mut merged = Merged::default();
        merged.add(&Layer::built_in().unwrap());
        let used = ["agent.log_bucket", "timeouts.facts", "zookeeper.servers", "instance.id"].map(str::to_owned);
        let required = ["agent.log_bucket", "debs.master", "zookeeper.servers"].map(str::to_owned);
        let text = template("agent", &used.into(), &required, &merged);
        let schema = schema();
        // What is there of a key: its description, each line a comment, and what follows.
        let is_there = |key: &str, last: &str| {
            let comments: String =
                description(&schema, key).unwrap().lines().map(|line| format!("# {line}\n")).collect();
            assert!(text.contains(&format!("\n\n{comments}{last}\n")), "{key}:\n{text}");
        };
        is_there("agent.log_bucket", "# Required.\nagent.log_bucket = \"\"");
        is_there("debs.master", &format!("# Required.\ndebs.master = {}", example(&schema, "debs.master")));
        // One address serves for all of ZooKeeper.
        is_there("prereqs", "# Required.\nprereqs = \"\"");
        is_there("zookeeper.servers", &format!("#zookeeper.servers = {}", example(&schema, "zookeeper.servers")));
        let facts = lookup(&json!(merged.table), "timeouts.facts").map(toml_of).unwrap();
        is_there("timeouts.facts", &format!("#timeouts.facts = {facts}"));
        assert!(!text.contains("instance.id"), "a fact is not a setting:\n{text}");
        let keys: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
        assert_eq!(keys.len(), 5, "{keys:?}");
        // Without ZooKeeper nothing is said of it; what has a value need not be set.
        let used = ["timeouts.facts".to_owned()];
        let text = template("agent", &used.clone().into(), &used, &merged);
        assert!(text.contains(&format!("\n#timeouts.facts = {facts}\n")) && !text.contains("prereqs"), "{text}");
    }

    #[test]
    fn secrets_are_hidden_and_sources_shown() {
        let mut merged = Merged::default();
        merged.add(&Layer::parse(Source::File("file".into()), "proxy.http = 'http://user:pw@proxy:3128'").unwrap());
        let shown = shown(&merged);
        assert_eq!(shown["proxy.http"], ("\"http://***@proxy:3128\"".into(), "file".into()));
    }
}
