//! This user is in this group.

use std::time::Duration;

use serde::Deserialize;

use super::{Change, Planned, RawKind, State, Work};
use crate::error::Result;
use crate::host::Host;
use crate::host::command::Patience;
use crate::host::fs::Owner;
use crate::template::{Renderer, Templated};

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    user: Templated<String>,
    group: Templated<String>,
}

/// A membership.
#[derive(Debug, Clone, PartialEq)]
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
    /// group(5) and gshadow(5) both begin with the group's name and end with its members.
    fn added_to(&self, text: &str) -> String {
        let add = |line: &str| match line.strip_prefix(&self.group).is_some_and(|rest| rest.starts_with(':')) {
            true if line.ends_with(':') => format!("{line}{}\n", self.user),
            true => format!("{line},{}\n", self.user),
            false => format!("{line}\n"),
        };
        text.lines().map(add).collect()
    }
}

impl RawKind for Raw {}

impl Work for GroupMember {
    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        let GroupMember { user, group } = self;
        let Some(found) = host.group(group)? else {
            let why = format!("there is no group {group} yet: the package that makes it comes first");
            return Ok(if host.is_live() { State::Blocked(why) } else { State::Deferred(why) });
        };
        let Some((_, primary)) = host.user(user)? else {
            return Ok(State::InSync(Some(format!(
                "there is no user {user}; nobody is put into group {group} (setting docker.user)"
            ))));
        };
        Ok(if found.gid == primary || found.members.contains(user) {
            State::InSync(None)
        } else {
            State::Changes(vec![Change::new(format!("put user {user} into group {group}"))])
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        if host.is_live() {
            // gpasswd(1) locks /etc/group and keeps gshadow in step.
            let argv = ["gpasswd", "--add", &self.user, &self.group];
            return host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(60))?.succeeded().map(drop);
        }
        for path in ["/etc/group", "/etc/gshadow"] {
            if let (Some(text), Some(entry)) = (host.read_text(path)?, host.entry(path)?) {
                let owner = Owner { uid: entry.uid, gid: entry.gid };
                host.write(path, self.added_to(&text).as_bytes(), entry.mode, owner)?;
            }
        }
        Ok(())
    }

    fn paths(&self) -> Vec<String> {
        vec!["/etc/group".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_groups_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = GroupMember { user: "ubuntu".into(), group: "docker".into() };
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(_)));
        host.write("/etc/group", b"dockerx:x:7:\ndocker:x:9:other\n", 0o644, Owner::ROOT).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(Some(_))));
        host.write("/etc/passwd", b"ubuntu:x:1000:1000::/:/bin/sh\n", 0o644, Owner::ROOT).unwrap();
        host.write("/etc/gshadow", b"docker:!::\n", 0o640, Owner::ROOT).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
        assert_eq!(host.read("/etc/group").unwrap().unwrap(), b"dockerx:x:7:\ndocker:x:9:other,ubuntu\n");
        assert_eq!(host.read("/etc/gshadow").unwrap().unwrap(), b"docker:!::ubuntu\n");
        assert_eq!(host.entry("/etc/gshadow").unwrap().unwrap().mode, 0o640);
    }
}
