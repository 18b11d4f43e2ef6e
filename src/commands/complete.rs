//! The values that a shell offers, from the same sources as the commands. Sources that cannot be read offer nothing.

use std::collections::BTreeSet;

use crate::commands::logs::recorded;
use crate::host::Host;
use crate::role::{self, Role};
use crate::settings::Settings;
use crate::settings::template::keys;

/// Names of roles, including the operator's.
pub fn roles() -> Vec<String> {
    let names = Settings::built_in().and_then(|built_in| role::names(&Host::live(built_in.timeouts.deadlines())));
    names.map(|names| names.into_keys().collect()).unwrap_or_default()
}

/// Settings in the form of `--set`: `agent.log_bucket=`.
pub fn assignments() -> Vec<String> {
    keys().into_iter().map(|key| format!("{key}=")).collect()
}

/// What `why` explains: each setting, and the role.
pub fn questions() -> Vec<String> {
    keys()
}

/// The roles to offer values of: the one of `--role` on the command line so far, or all.
fn wanted_roles() -> Vec<Role> {
    let words: Vec<String> = std::env::args_os().filter_map(|word| word.into_string().ok()).collect();
    let after = words.iter().skip_while(|word| *word != "--role").nth(1);
    let named = after.or_else(|| words.iter().find(|word| word.starts_with("--role=")));
    let named = named.map(|word| word.trim_start_matches("--role=").to_owned()).filter(|role| !role.is_empty());
    let Ok(built_in) = Settings::built_in() else { return Vec::new() };
    let host = Host::live(built_in.timeouts.deadlines());
    let names = named.map_or_else(roles, |role| vec![role]);
    names.iter().filter_map(|name| Role::load(&host, name).ok()).collect()
}

/// The values of each of those roles, without repetitions.
fn values_of_roles(values: impl Fn(&Role) -> Vec<String>) -> Vec<String> {
    let found: BTreeSet<String> = wanted_roles().iter().flat_map(values).collect();
    found.into_iter().collect()
}

/// Ids of steps.
pub fn steps() -> Vec<String> {
    values_of_roles(|role| role.step_ids().map(str::to_owned).collect())
}

/// What `explain` explains: steps, and units by their names.
pub fn steps_and_units() -> Vec<String> {
    let units = values_of_roles(|role| role.values_of("unit", "name").into_iter().map(str::to_owned).collect());
    steps().into_iter().chain(units).collect()
}

/// Files that steps write.
pub fn paths() -> Vec<String> {
    let paths_in =
        |role: &Role, kind| -> Vec<String> { role.values_of(kind, "path").into_iter().map(str::to_owned).collect() };
    values_of_roles(|role| [paths_in(role, "file"), paths_in(role, "properties")].concat())
}

/// Runs of the journal. If the journal cannot be read, only `last`.
pub fn runs() -> Vec<String> {
    let built_in = Settings::built_in();
    let runs = built_in.and_then(|built_in| recorded(&Host::live(built_in.timeouts.deadlines())));
    let names = runs.map(|(runs, _)| runs.into_iter().map(|run| run.run).collect()).unwrap_or_else(|_| Vec::new());
    std::iter::once("last".to_owned()).chain(names).collect()
}

/// Names of instance types.
pub fn instance_types() -> Vec<String> {
    crate::titus::instance_types::names().map(str::to_owned).collect()
}
