//! `role list` and `role show`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::prepare::Request;
use crate::role::{Role, names};
use crate::run::report::{Reporter, say, say_document};

/// The output of `role list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Roles {
    /// The roles, sorted by name.
    roles: Vec<Listed>,
}

/// A role of the list.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// Its name.
    name: String,
    /// What it is for.
    description: String,
    /// Its file; `built-in`: it is part of the program.
    source: String,
    /// Its drop-ins, in the order in which they apply.
    drop_ins: Vec<String>,
}

/// The output of `role show --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// The role.
    name: String,
    /// Its file, and its drop-ins.
    text: String,
}

/// Prints a role's file, and its drop-ins.
///
/// # Errors
/// Fails with 78 when there is no such role.
pub fn show(request: &Request, reporter: Reporter, name: &str) -> Result<u8> {
    let role = Role::load(&request.host()?, name)?;
    if reporter.json {
        say_document(Shown { name: role.name.clone(), text: role.text().to_owned() });
    } else {
        say(role.text());
    }
    Ok(0)
}

/// Lists the roles.
///
/// # Errors
/// Fails when a role cannot be read.
pub fn list(request: &Request, reporter: Reporter) -> Result<u8> {
    let host = request.host()?;
    let mut roles = Vec::new();
    for name in names(&host)?.keys() {
        roles.push(Role::load(&host, name)?);
    }
    if reporter.json {
        let listed = |role: Role| Listed {
            name: role.name.clone(),
            description: role.description.clone(),
            source: role.source.clone(),
            drop_ins: role.drop_ins.clone(),
        };
        say_document(Roles { roles: roles.into_iter().map(listed).collect() });
    } else {
        for role in roles {
            let files = std::iter::once(&role.source).chain(&role.drop_ins).map(String::as_str).collect::<Vec<_>>();
            say(&format!("{:<10} {} ({})\n", role.name, role.description, files.join(", ")));
        }
    }
    Ok(0)
}
