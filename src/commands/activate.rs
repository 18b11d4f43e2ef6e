//! `activate`: instance groups, by hand, through the gateway of this node.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Kind, Result};
use crate::prepare::Request;
use crate::run::report::{Reporter, say, say_json};
use crate::titus::instance_groups::{self, ACTIVE};

/// Makes each group active.
///
/// # Errors
/// 1 when a group is unknown, 75 when the gateway does not answer.
pub fn run(request: &Request, reporter: Reporter, names: &[String]) -> Result<u8> {
    let host = request.host()?;
    if !host.is_live() {
        return Err(Error::new(Kind::Usage, "activate asks a live gateway, and --root is none").fix("leave --root out"));
    }
    let mut told = Vec::new();
    for name in names {
        let before = instance_groups::state(&host, name)?.ok_or_else(|| {
            Error::failed(format!("the Titus master knows no instance group {name}"))
                .cause("no agent of it has registered yet")
                .fix("see which groups there are: curl http://localhost:7001/api/v3/agent/instanceGroups")
        })?;
        if before != ACTIVE {
            instance_groups::activate(&host, name)?;
        }
        if !reporter.json && !reporter.quiet {
            say(&format!("{name} is {ACTIVE} (it was {before})\n"));
        }
        told.push(json!({ "name": name, "before": before, "state": ACTIVE }));
    }
    if reporter.json {
        let document = json!({ "schema_version": SCHEMA_VERSION, "command": "activate", "instance_groups": told });
        say_json(&document);
    }
    Ok(0)
}
