//! This user is in this group.

use std::time::Duration;

use serde::Deserialize;

use super::{Change, State};
use crate::error::Result;
use crate::host::Host;
use crate::host::command::{self, Patience};
use crate::template::{Renderer, Templated};

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    user: Templated<String>,
    group: Templated<String>,
}

/// A membership.
#[derive(Debug, Clone)]
pub struct GroupMember {
    user: String,
    group: String,
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<GroupMember> {
        Ok(GroupMember { user: self.user.get(renderer)?, group: self.group.get(renderer)? })
    }
}

impl GroupMember {
    pub(super) fn observe(&self, host: &Host) -> Result<State> {
        let GroupMember { user, group } = self;
        if !host.is_live() {
            return Ok(State::Deferred(format!("{user} is not put into group {group} below --root")));
        }
        let Some((_, primary)) = host.user(user)? else {
            return Ok(State::InSync(Some(format!(
                "there is no user {user}; nobody is put into group {group} (setting docker.user)"
            ))));
        };
        Ok(match host.group(group)? {
            None => State::Blocked(format!("there is no group {group} yet: the package that makes it comes first")),
            Some(found) if found.gid == primary || found.members.contains(user) => State::InSync(None),
            Some(_) => State::Changes(vec![Change::new(format!("put user {user} into group {group}"))]),
        })
    }

    pub(super) fn converge(&self, _host: &Host) -> Result<()> {
        // gpasswd(1) locks /etc/group and keeps gshadow in step.
        let argv = ["gpasswd", "--add", &self.user, &self.group];
        command::run(&argv, &[], Patience::Ends, Duration::from_secs(60))?.succeeded().map(drop)
    }
}
