//! `config show`, `config template`, `config schema`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value as Json;

use crate::error::{Error, Kind, Result};
use crate::prepare::{self, Request, used_names};
use crate::role::Role;
use crate::run::report::{Reporter, say, say_document, say_json};
use crate::settings::{Merged, template};

/// The output of `config show --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// Every setting by its name.
    settings: BTreeMap<String, Setting>,
}

/// A setting.
#[derive(Debug, Serialize, JsonSchema)]
struct Setting {
    /// Its value; `***` for a secret.
    value: Json,
    /// Its source.
    source: String,
}

/// The output of `config template --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Template {
    /// The role.
    role: String,
    /// A commented file of settings.
    text: String,
}

/// Prints a JSON Schema of the settings.
pub fn schema() -> u8 {
    say_json(&template::schema());
    0
}

impl Shown {
    /// Every setting of these layers.
    pub fn from_layers(merged: &Merged) -> Shown {
        let values = template::list_values(merged).into_iter();
        Shown { settings: values.map(|(key, (value, source))| (key, Setting { value, source })).collect() }
    }
}

/// Prints every setting with its source.
///
/// # Errors
/// Fails when the settings cannot be read, or facts that they need are not available.
pub fn show(request: &Request, reporter: Reporter) -> Result<u8> {
    let gathered = prepare::gather(request, &mut request.host()?)?;
    let shown = Shown::from_layers(&gathered.merged);
    if reporter.json {
        say_document(shown);
        return Ok(0);
    }
    for (key, Setting { value, source }) in shown.settings {
        say(&format!("{key:<32} {}   ({source})\n", template::to_toml(&value)));
    }
    Ok(0)
}

/// Prints a commented file with the settings that a role needs.
///
/// # Errors
/// Fails with 64 when no role is given; with 78 when there is no such role.
pub fn print_template(request: &Request, reporter: Reporter) -> Result<u8> {
    let host = request.host()?;
    let Some(name) = request.role() else {
        return Err(
            Error::new(Kind::Usage, "config template needs a role").fix("titus-bootstrap config template --role agent")
        );
    };
    let role = Role::load(&host, name)?;
    let (merged, names) = used_names(&host, &role)?;
    let text = template::template(&role.name, &names, role.required(), &merged);
    if reporter.json {
        say_document(Template { role: role.name, text });
    } else {
        say(&text);
    }
    Ok(0)
}
