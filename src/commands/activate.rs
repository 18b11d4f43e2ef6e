//! `activate`: activates instance groups by hand, through the gateway of this node.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::prepare::Request;
use crate::run::report::{Reporter, say, say_document};
use crate::titus::instance_groups::{self, ACTIVE};

/// The output of `activate --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// `activate`.
    command: &'static str,
    /// The named groups.
    instance_groups: Vec<Group>,
}

/// An instance group.
#[derive(Debug, Serialize, JsonSchema)]
struct Group {
    /// Its name.
    name: String,
    /// Its state before, by its name in Titus.
    before: String,
    /// Its state now, by its name in Titus.
    state: &'static str,
}

/// Makes each group active.
///
/// # Errors
/// Fails with 1 when a group is unknown; with 75 when the gateway does not respond.
pub fn run(request: &Request, reporter: Reporter, names: &[String]) -> Result<u8> {
    let host = request.host()?;
    if !host.is_live() {
        return Err(
            Error::new(Kind::Usage, "activate needs a live gateway, but --root is a tree").fix("leave --root out")
        );
    }
    let mut activated = Vec::new();
    for name in names {
        let before = instance_groups::state(&host, name)?.ok_or_else(|| {
            Error::failed(format!("the Titus master does not know the instance group {name}"))
                .cause("no agent of this group has registered yet")
                .fix("see which groups there are: curl http://localhost:7001/api/v3/agent/instanceGroups")
        })?;
        if before != ACTIVE {
            instance_groups::activate(&host, name)?;
        }
        if !reporter.json && !reporter.quiet {
            say(&format!("{name} is {ACTIVE} (it was {before})\n"));
        }
        activated.push(Group { name: name.clone(), before, state: ACTIVE });
    }
    if reporter.json {
        say_document(Document { command: "activate", instance_groups: activated });
    }
    Ok(0)
}
