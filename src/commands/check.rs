//! `check`: settings and roles, offline and without root.

use std::path::{Path, PathBuf};

use crate::SCHEMA_VERSION;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::prepare::{Layers, Request, names_of};
use crate::role::{self, Role};
use crate::run::report::{Reporter, say, say_json};
use crate::settings::{Layer, Merged};
use crate::step;

/// Checks the named files, or what lies in /etc/titus-bootstrap and all roles.
///
/// # Errors
/// The first thing that is wrong.
pub fn run(request: &Request, reporter: Reporter, files: &[PathBuf]) -> Result<u8> {
    let host = request.host()?;
    let good = check(request, &host, files)?;
    if reporter.json {
        say_json(&serde_json::json!({ "schema_version": SCHEMA_VERSION, "good": good }));
    } else if !reporter.quiet {
        good.iter().for_each(|what| say(&format!("good: {what}\n")));
    }
    Ok(0)
}

fn check(request: &Request, host: &Host, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut good = Vec::new();
    for file in files {
        if is_role(file)? {
            let role = Role::from_file(file)?;
            names_of(host, &role)?;
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
    step::check_settings(&Layers::read(request, host)?.merged(None)?.settings()?)?;
    good.push("settings".into());
    for name in role::names(host)?.keys() {
        names_of(host, &Role::load(host, name)?)?;
        good.push(format!("role {name}"));
    }
    Ok(good)
}

fn is_role(path: &Path) -> Result<bool> {
    let bytes = crate::host::fs::read_named(path)
        .map_err(|e| Error::config(format!("{}: cannot be read", path.display())).cause(e))?;
    let text = String::from_utf8_lossy(&bytes);
    let table = crate::settings::parse_toml::<toml::Table>("", &text);
    Ok(table.is_ok_and(|table| table.contains_key("step") || table.contains_key("description")))
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
            names_of(&host, &role).unwrap();
        }
    }
}
