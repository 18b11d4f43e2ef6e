//! `role list` and `role show`.

use serde_json::json;

use crate::cli::{Global, Role as Which};
use crate::error::Result;
use crate::role::{Role, names};
use crate::run::report::{SCHEMA_VERSION, say};

/// Shows roles.
///
/// # Errors
/// When one cannot be read.
pub fn run(global: &Global, which: &Which) -> Result<u8> {
    let host = super::host(global)?;
    match which {
        Which::Show { name } => say(Role::load(&host, name)?.text()),
        Which::List => {
            let mut roles = Vec::new();
            for name in names(&host)?.keys() {
                roles.push(Role::load(&host, name)?);
            }
            if global.json {
                let list: Vec<_> = roles
                    .iter()
                    .map(|r| json!({ "name": r.name, "description": r.description, "source": r.source }))
                    .collect();
                say(&format!("{:#}\n", json!({ "schema_version": SCHEMA_VERSION, "roles": list })));
            } else {
                roles.iter().for_each(|r| say(&format!("{:<10} {} ({})\n", r.name, r.description, r.source)));
            }
        }
    }
    Ok(0)
}
