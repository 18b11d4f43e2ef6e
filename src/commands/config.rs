//! `config show`, `config template`, `config schema`.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind, Result};
use crate::prepare::{self, Request, names_of};
use crate::role::Role;
use crate::run::report::{Reporter, say, say_json};
use crate::settings::template;

/// Prints a JSON Schema of the settings.
pub fn schema() -> u8 {
    say_json(&template::schema());
    0
}

/// Prints every setting with its source.
///
/// # Errors
/// When they cannot be read, or facts that they need cannot be had.
pub fn show(request: &Request, reporter: Reporter) -> Result<u8> {
    let host = request.host()?;
    let gathered = prepare::gather(request, &host)?;
    let shown = template::shown(&gathered.merged);
    if reporter.json {
        let settings: serde_json::Map<_, _> = shown
            .into_iter()
            .map(|(key, (value, source))| (key, json!({ "value": value, "source": source })))
            .collect();
        say_json(&json!({ "schema_version": SCHEMA_VERSION, "settings": settings }));
        return Ok(0);
    }
    for (key, (value, source)) in shown {
        say(&format!("{key:<32} {value}   ({source})\n"));
    }
    Ok(0)
}

/// Prints a commented file with the settings that a role needs.
///
/// # Errors
/// 64 without a role; 78 when there is no such role.
pub fn print_template(request: &Request) -> Result<u8> {
    let host = request.host()?;
    let Some(name) = request.role() else {
        return Err(Error::new(Kind::Usage, "config template: for which role?")
            .fix("titus-bootstrap config template --role agent"));
    };
    let role = Role::load(&host, name)?;
    let (merged, names) = names_of(&host, &role)?;
    say(&template::template(&role.name, &names, role.required(), &merged));
    Ok(0)
}
