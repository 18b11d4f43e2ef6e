//! `config show`, `config template`, `config schema`.

use serde_json::json;

use crate::cli::{Config, Global, Phase, Steps};
use crate::error::{Error, Kind, Result};
use crate::role::Role;
use crate::run::report::{SCHEMA_VERSION, say};
use crate::settings::template;

/// Shows the settings.
///
/// # Errors
/// When they cannot be read, or facts that they need cannot be had.
pub fn run(global: &Global, which: &Config) -> Result<u8> {
    match which {
        Config::Schema => say(&format!("{:#}\n", template::schema())),
        Config::Template => say(&template_of(global)?),
        Config::Show => show(global)?,
    }
    Ok(0)
}

fn show(global: &Global) -> Result<()> {
    let host = super::host(global)?;
    let gathered = super::gather(global, &host, &Steps { phase: Phase::All, user_data: None })?;
    let shown = template::shown(&gathered.merged);
    if global.json {
        let settings: serde_json::Map<_, _> = shown
            .into_iter()
            .map(|(key, (value, source))| (key, json!({ "value": value, "source": source })))
            .collect();
        say(&format!("{:#}\n", json!({ "schema_version": SCHEMA_VERSION, "settings": settings })));
        return Ok(());
    }
    for (key, (value, source)) in shown {
        say(&format!("{key:<32} {value}   ({source})\n"));
    }
    Ok(())
}

fn template_of(global: &Global) -> Result<String> {
    let host = super::host(global)?;
    let Some(name) = global.role() else {
        return Err(Error::new(Kind::Usage, "config template: for which role?")
            .fix("titus-bootstrap config template --role agent"));
    };
    let role = Role::load(&host, name)?;
    let (merged, names) = super::names_of(&host, &role)?;
    Ok(template::template(&role.name, &names, role.required(), &merged))
}
