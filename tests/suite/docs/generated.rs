//! What comes from the program in docs/commands.md, docs/settings.md and docs/exit-codes.md: a page has it between
//! `<!-- generated: NAME -->` and `<!-- end -->`, and `docs/img/make` writes it there.

use std::collections::BTreeMap;

use titus_bootstrap::cli::grammar;
use titus_bootstrap::error::EXIT_CODES;

use super::{document, is_update, project};

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn is_shown(page: &str, name: &str, wanted: &str) {
    let text = document(page);
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{page} lacks {begin}"));
    let (shown, after) = rest.split_once("<!-- end -->").unwrap_or_else(|| panic!("{page} lacks <!-- end -->"));
    if is_update() && shown != wanted {
        std::fs::write(project().join(page), format!("{before}{begin}{wanted}<!-- end -->{after}")).unwrap();
        return;
    }
    assert_eq!(
        shown.lines().collect::<Vec<_>>(),
        wanted.lines().collect::<Vec<_>>(),
        "{page} (left) differs from the program; docs/img/make writes the page"
    );
}

fn option(argument: &clap::Arg) -> String {
    let values: Vec<&str> =
        argument.get_value_names().unwrap_or_default().iter().map(clap::builder::Str::as_str).collect();
    let takes = argument.get_action().takes_values();
    let value = if takes && !values.is_empty() { format!(" {}", values.join(" ")) } else { String::new() };
    let long = argument.get_long().map(|long| format!("`--{long}{value}`"));
    let short = argument.get_short().map(|short| format!("`-{short}`"));
    [short, long].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn meaning(argument: &clap::Arg) -> String {
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let values = argument.get_possible_values();
    if argument.get_action().takes_values() && !values.is_empty() && !argument.is_hide_possible_values_set() {
        let values: Vec<String> = values
            .iter()
            .map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({help})", value.get_name()),
                None => format!("`{}`", value.get_name()),
            })
            .collect();
        text += &format!(". One of {}", values.join(", "));
    }
    let defaults: Vec<String> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        text += &format!(". Default: `{}`", defaults.join(" "));
    }
    cell(&text)
}

/// A command and the commands below it.
fn describe(command: &clap::Command, words: &str, page: &mut String) {
    let name = format!("{words} {}", command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let mut usage = command.clone().render_usage().to_string().replace("Usage: ", "");
    if let Some((_, end)) = usage.split_once(command.get_name()) {
        usage = format!("{name}{end}");
    }
    page.push_str(&format!(
        "\n## `{}`\n\n{}\n\n",
        name.trim_start_matches("titus-bootstrap "),
        about.trim_end_matches('.').to_owned() + "."
    ));
    let below: Vec<&clap::Command> =
        command.get_subcommands().filter(|one| one.get_name() != "help" && !one.is_hide_set()).collect();
    if below.is_empty() {
        page.push_str(&format!("```text\n{usage}\n```\n"));
    }
    let own: Vec<&clap::Arg> = command
        .get_arguments()
        .filter(|argument| {
            !argument.is_global_set()
                && !argument.is_hide_set()
                && !["help", "version"].contains(&argument.get_id().as_str())
        })
        .collect();
    if !own.is_empty() {
        page.push_str("\n| argument | meaning |\n|---|---|\n");
        for argument in own {
            let title = match argument.is_positional() {
                true => format!(
                    "`{}`",
                    argument.get_value_names().unwrap_or_default().first().map_or("", |name| name.as_str())
                ),
                false => option(argument),
            };
            page.push_str(&format!("| {title} | {} |\n", meaning(argument)));
        }
    }
    for one in below {
        describe(one, &name, page);
    }
}

#[test]
fn the_page_of_commands_is_the_grammar() {
    let mut grammar = grammar();
    grammar.build();
    let mut page = "\n| option | meaning |\n|---|---|\n".to_owned();
    for argument in grammar.get_arguments().filter(|argument| argument.is_global_set() && !argument.is_hide_set()) {
        page.push_str(&format!("| {} | {} |\n", option(argument), meaning(argument)));
    }
    for command in grammar.get_subcommands().filter(|one| one.get_name() != "help" && !one.is_hide_set()) {
        describe(command, "titus-bootstrap", &mut page);
    }
    is_shown("docs/commands.md", "commands", &(page + "\n"));
}

#[test]
fn the_page_of_exit_codes_is_the_table() {
    let mut page = "\n| code | name (sysexits) | meaning |\n|---|---|---|\n".to_owned();
    for (code, name, meaning) in EXIT_CODES {
        page.push_str(&format!("| {code} | {name} | {} |\n", cell(meaning)));
    }
    is_shown("docs/exit-codes.md", "exit codes", &(page + "\n"));
}

/// The defaults that the program and the roles have, by key; with the role where not all have the same.
fn defaults() -> BTreeMap<String, Vec<(String, String)>> {
    fn leaves(at: &toml::Value, path: &str, role: &str, into: &mut BTreeMap<String, Vec<(String, String)>>) {
        match at {
            toml::Value::Table(table) if !["agent.reserve", "containers.log"].contains(&path) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    leaves(value, &path, role, into);
                }
            }
            other => into.entry(path.to_owned()).or_default().push((role.to_owned(), other.to_string())),
        }
    }
    let mut found = BTreeMap::new();
    leaves(&toml::from_str(&document("src/settings/defaults.toml")).unwrap(), "", "", &mut found);
    for role in ["prereqs", "master", "gateway", "agent"] {
        let file: toml::Value = toml::from_str(&document(&format!("roles/{role}.toml"))).unwrap();
        if let Some(defaults) = file.get("defaults") {
            leaves(defaults, "", role, &mut found);
        }
    }
    found
}

fn default(found: &[(String, String)]) -> String {
    let mut values: Vec<&String> = found.iter().map(|(_, value)| value).collect();
    values.dedup();
    match values[..] {
        [value] if value.len() > 150 => "see the role's file".to_owned(),
        [value] => format!("`{value}`"),
        _ => found.iter().map(|(role, value)| format!("{role}: `{value}`")).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn the_page_of_settings_is_the_schema() {
    let schema: serde_json::Value =
        serde_json::from_str(&crate::support::root::run(&["config", "schema"]).ends_with(0).out).unwrap();
    let follow = |at: &serde_json::Value| -> serde_json::Value {
        let reference =
            at.get("$ref").or_else(|| at.get("anyOf")?.get(0)?.get("$ref")).and_then(|r| r.as_str().map(str::to_owned));
        reference.map_or(at.clone(), |reference| schema.pointer(reference.trim_start_matches('#')).unwrap().clone())
    };
    let mut keys = Vec::new();
    super::leaves(&schema, &schema, "", &mut keys);
    let defaults = defaults();
    let tables: BTreeMap<String, Vec<&String>> = keys.iter().fold(BTreeMap::new(), |mut tables, key| {
        let table = key.split_once('.').map_or("", |(table, _)| table);
        tables.entry(table.to_owned()).or_default().push(key);
        tables
    });
    let mut page = String::new();
    for (table, keys) in tables {
        let (title, about) = match table.as_str() {
            "" => ("Outside of tables".to_owned(), String::new()),
            table => (
                format!("`[{table}]`"),
                schema["properties"][table]["description"].as_str().unwrap_or_default().to_owned(),
            ),
        };
        page.push_str(&format!("\n### {title}\n\n"));
        if !about.is_empty() {
            page.push_str(&format!("{}\n\n", cell(&about)));
        }
        page.push_str("| setting | default | example | meaning |\n|---|---|---|---|\n");
        for key in keys {
            let place = key.split('.').fold(schema.clone(), |at, part| follow(&at)["properties"][part].clone());
            let of = |name: &str| place.get(name).cloned().or_else(|| follow(&place).get(name).cloned());
            let example =
                of("examples").and_then(|examples| Some(toml::Value::try_from(examples.get(0)?).ok()?.to_string()));
            let meaning = of("description").and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
            page.push_str(&format!(
                "| `{key}` | {} | {} | {} |\n",
                defaults.get(key.as_str()).map(|found| cell(&default(found))).unwrap_or_default(),
                example.map(|example| format!("`{}`", cell(&example))).unwrap_or_default(),
                cell(&meaning)
            ));
        }
    }
    is_shown("docs/settings.md", "settings", &(page + "\n"));
}
