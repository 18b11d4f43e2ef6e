//! `role list` and `role show`.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::Result;
use crate::prepare::Request;
use crate::role::{Role, names};
use crate::run::report::{Reporter, say, say_json};

/// Prints a role's file.
///
/// # Errors
/// 78 when there is no such role.
pub fn show(request: &Request, name: &str) -> Result<u8> {
    say(Role::load(&request.host()?, name)?.text());
    Ok(0)
}

/// Lists the roles.
///
/// # Errors
/// When one cannot be read.
pub fn list(request: &Request, reporter: Reporter) -> Result<u8> {
    let host = request.host()?;
    let mut roles = Vec::new();
    for name in names(&host)?.keys() {
        roles.push(Role::load(&host, name)?);
    }
    if reporter.json {
        let list: Vec<_> =
            roles.iter().map(|r| json!({ "name": r.name, "description": r.description, "source": r.source })).collect();
        say_json(&json!({ "schema_version": SCHEMA_VERSION, "roles": list }));
    } else {
        roles.iter().for_each(|r| say(&format!("{:<10} {} ({})\n", r.name, r.description, r.source)));
    }
    Ok(0)
}
