//! `check`: settings and roles, offline and without root.

use std::path::{Path, PathBuf};

use crate::cli::Global;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::role::{self, Role};
use crate::run::report::{SCHEMA_VERSION, say};
use crate::settings::{Layer, Merged};
use crate::step;

/// Checks the named files, or what lies in /etc/titus-bootstrap and all roles.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(global: &Global, files: &[PathBuf]) -> Result<u8> {
    let host = super::host(global)?;
    let good = check(global, &host, files)?;
    if global.json {
        say(&format!("{:#}\n", serde_json::json!({ "schema_version": SCHEMA_VERSION, "good": good })));
    } else if !global.quiet {
        good.iter().for_each(|what| say(&format!("good: {what}\n")));
    }
    Ok(0)
}

fn check(global: &Global, host: &Host, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut good = Vec::new();
    for file in files {
        if is_role(file)? {
            let role = Role::from_file(file)?;
            super::names_of(host, &role)?;
        } else {
            let mut merged = Merged::default();
            merged.add(&Layer::built_in()?);
            merged.add(&Layer::file(file)?);
            step::check_settings(&merged.settings()?)?;
        }
        good.push(file.display().to_string());
    }
    if !files.is_empty() {
        return Ok(good);
    }
    step::check_settings(&super::early(global, host, None)?.merged.settings()?)?;
    good.push("settings".into());
    for name in role::names(host)?.keys() {
        super::names_of(host, &Role::load(host, name)?)?;
        good.push(format!("role {name}"));
    }
    Ok(good)
}

fn is_role(path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::config(format!("{}: cannot be read", path.display())).cause(e))?;
    Ok(text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("step") || table.contains_key("description")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_of_the_binary_name_only_what_there_is() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        for name in role::names(&host).unwrap().keys() {
            let role = Role::load(&host, name).unwrap();
            assert!(role.is_built_in());
            crate::commands::names_of(&host, &role).unwrap();
        }
    }
}
