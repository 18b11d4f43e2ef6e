//! The output of `config template`, `config show` and `config schema`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};
use toml::Value;

use super::name::lookup;
use super::{FOLLOWS, Merged, Settings};
use crate::facts::leaves;
use crate::secrets::hide;

/// Names `titus.*`, each with the settings from which it is derived.
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

/// A commented settings file with exactly what a role needs.
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
    // One address is enough for a role that needs ZooKeeper.
    if keys.contains("zookeeper.servers") {
        keys.insert("prereqs");
    }
    let (schema, values) = (schema(), hide("", &json!(merged.table)));
    let mut text = format!(
        "# Settings of titus-bootstrap for role {role}: {}.\n\
         # To set one, remove the `#` that begins its line, and the one that begins the line of its [table].\n\
         # Its value here is the default, or an example where there is none.\n",
        super::FILE
    );
    let mut tables: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for key in keys {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        tables.entry(table).or_default().push((key, name));
    }
    for (table, settings) in tables {
        let mut is_new = !table.is_empty();
        for (key, name) in settings {
            let Some(description) = description(&schema, key) else { continue };
            if std::mem::take(&mut is_new) {
                text.push_str(&format!("\n#[{table}]\n"));
            }
            let must = if key == "prereqs" { "zookeeper.servers" } else { key };
            let is_required = required.iter().any(|name| name == must) && key != "zookeeper.servers";
            let value = lookup(&values, key).filter(|value| !is_nothing(value)).map(to_toml);
            text.push_str(&format!(
                "\n{}{}#{name} = {}\n",
                comment(&description),
                if is_required && value.is_none() { "# Required.\n" } else { "" },
                value.unwrap_or_else(|| example(&schema, key)).trim()
            ));
        }
    }
    text
}

/// Whether a default is empty, so that it does not show what a value looks like.
fn is_nothing(value: &Json) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// The setting's example in the schema.
fn example(schema: &Json, key: &str) -> String {
    let first = |at: &Json| at.get("examples")?.get(0).cloned();
    let of_type = |at| follow(schema, at).and_then(first);
    let example = place(schema, key).and_then(|at| first(at).or_else(|| of_type(at)));
    to_toml(&example.unwrap_or(json!("")))
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

/// A value in TOML syntax.
pub fn to_toml(value: &Json) -> String {
    Value::try_from(value).map_or_else(|_| value.to_string(), |value| value.to_string())
}

/// A setting's node in the schema, or `None` if there is no such setting.
fn place<'a>(schema: &'a Json, key: &str) -> Option<&'a Json> {
    key.split('.').try_fold(schema, |at, part| follow(schema, at)?.get("properties")?.get(part))
}

/// The name of every setting, e.g. `agent.log_bucket`, in the order of the schema. A table with free keys counts as one.
pub fn keys() -> Vec<String> {
    fn walk(schema: &Json, at: &Json, path: &str, into: &mut Vec<String>) {
        match follow(schema, at).and_then(|at| at.get("properties")?.as_object()) {
            Some(properties) => {
                for (name, place) in properties {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(schema, place, &path, into);
                }
            }
            None => into.push(path.to_owned()),
        }
    }
    let (schema, mut all) = (schema(), Vec::new());
    walk(&schema, &schema, "", &mut all);
    all
}

/// A setting's description in the schema, or `None` if there is no such setting.
fn description(schema: &Json, key: &str) -> Option<String> {
    if key.starts_with("vars.") {
        return Some("A setting of this role's own.".to_owned());
    }
    let at = place(schema, key)?;
    let own = at.get("description").or_else(|| follow(schema, at)?.get("description"))?;
    own.as_str().map(str::to_owned)
}

/// Follows `$ref`, and the `anyOf` of an optional table.
fn follow<'a>(schema: &'a Json, at: &'a Json) -> Option<&'a Json> {
    let referred = at.get("$ref").or_else(|| at.get("anyOf")?.get(0)?.get("$ref"));
    match referred.and_then(Json::as_str) {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')),
        None => Some(at),
    }
}

/// Every value with its source. Secrets are hidden.
pub fn list_values(merged: &Merged) -> BTreeMap<String, (Json, String)> {
    let values = hide("", &json!(merged.table));
    let mut all = Vec::new();
    leaves("", &values, &mut all);
    let source = |key: &str| merged.source(key).map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let mut found: BTreeMap<String, (Json, String)> = all
        .into_iter()
        .filter(|(_, value)| !value.is_object())
        .map(|(key, value)| (key.clone(), (value.clone(), source(&key))))
        .collect();
    if let Ok(settings) = merged.settings() {
        let known = hide("", &json!(settings));
        for (key, of) in FOLLOWS {
            let value = lookup(&known, key).unwrap_or(&Json::Null);
            found.entry(key.to_owned()).or_insert_with(|| (value.clone(), format!("derived from {of}")));
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
    fn the_schema_of_a_port_has_its_range() {
        let schema = schema();
        let port = place(&schema, "agent.port").unwrap();
        assert_eq!((&port["minimum"], &port["maximum"]), (&json!(1), &json!(65535)));
    }

    #[test]
    fn a_template_has_each_key_with_its_description_and_a_value_or_an_example() {
        let mut merged = Merged::default();
        merged.add(Layer::built_in().unwrap());
        let empty = "agent.kernel_arguments = []\nagent.labels = {}";
        merged.add(&Layer::parse(Source::Role("agent".into()), empty).unwrap());
        let used = [
            "agent.kernel_arguments",
            "agent.labels",
            "agent.log_bucket",
            "timeouts.facts",
            "zookeeper.servers",
            "instance.id",
        ]
        .map(str::to_owned);
        let required = ["agent.log_bucket", "debs.master", "zookeeper.servers"].map(str::to_owned);
        let text = template("agent", &used.into(), &required, &merged);
        let schema = schema();
        // The whole entry of a key: its description as comments, and the line that follows.
        let is_there = |key: &str, last: &str| {
            let comments: String =
                description(&schema, key).unwrap().lines().map(|line| format!("# {line}\n")).collect();
            assert!(text.contains(&format!("\n\n{comments}{last}\n")), "{key}:\n{text}");
        };
        let example = |key: &str| example(&schema, key);
        is_there("agent.log_bucket", &format!("# Required.\n#log_bucket = {}", example("agent.log_bucket")));
        is_there("debs.master", &format!("# Required.\n#master = {}", example("debs.master")));
        // One address is enough for ZooKeeper.
        is_there("prereqs", &format!("# Required.\n#prereqs = {}", example("prereqs")));
        is_there("zookeeper.servers", &format!("#servers = {}", example("zookeeper.servers")));
        let facts = lookup(&json!(merged.table), "timeouts.facts").map(to_toml).unwrap();
        is_there("timeouts.facts", &format!("#facts = {facts}"));
        // An empty default does not show what a value looks like.
        is_there("agent.kernel_arguments", &format!("#kernel_arguments = {}", example("agent.kernel_arguments")));
        is_there("agent.labels", &format!("#labels = {}", example("agent.labels")));
        assert!(!text.contains(" = []\n") && !text.contains(" = {}\n"), "{text}");
        assert!(!text.contains("instance.id"), "a fact is not a setting:\n{text}");
        // All lines are comments, so that the operator can append settings. Keys outside any table come first.
        let settings: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")).collect();
        let keys: Vec<&str> = settings.iter().filter_map(|line| line.split(" = ").next()).collect();
        let all = [
            "#prereqs",
            "#[agent]",
            "#kernel_arguments",
            "#labels",
            "#log_bucket",
            "#[debs]",
            "#master",
            "#[timeouts]",
            "#facts",
            "#[zookeeper]",
            "#servers",
        ];
        assert_eq!(keys, all);
        // Without ZooKeeper, prereqs does not appear. A setting that has a value is not required.
        let used = ["timeouts.facts".to_owned()];
        let text = template("agent", &used.clone().into(), &used, &merged);
        assert!(text.contains(&format!("\n#facts = {facts}\n")) && !text.contains("prereqs"), "{text}");
    }

    #[test]
    fn secrets_are_hidden_and_sources_shown() {
        let mut merged = Merged::default();
        merged.add(&Layer::parse(Source::File("file".into()), "proxy.http = 'http://user:pw@proxy:3128'").unwrap());
        let shown = list_values(&merged);
        assert_eq!(shown["proxy.http"], ("http://***@proxy:3128".into(), "file".into()));
    }
}
