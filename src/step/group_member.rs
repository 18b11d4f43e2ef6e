//! This user is in this group.

use std::time::Duration;

use serde::Deserialize;

use super::forms::Account;
use super::{Change, Planned, RawKind, State, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::Patience;
use crate::host::fs::Owner;
use crate::template::{Renderer, Templated};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGroupMember {
    user: Templated<Account>,
    group: Templated<Account>,
}

/// A membership.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupMember {
    user: String,
    group: String,
}

impl RawGroupMember {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<GroupMember> {
        Ok(GroupMember { user: self.user.get(renderer)?.0, group: self.group.get(renderer)?.0 })
    }
}

impl GroupMember {
    /// Adds the user to the group's line. In group(5) and gshadow(5), the line begins with the group's name and has the members in
    /// its fourth field, which may be missing.
    fn add_member(&self, text: &[u8]) -> Vec<u8> {
        let prefix = format!("{}:", self.group);
        let mut changed = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if !line.starts_with(prefix.as_bytes()) {
                changed.extend_from_slice(line);
                continue;
            }
            let line = line.trim_ascii_end();
            let lacks = 3usize.saturating_sub(line.iter().filter(|byte| **byte == b':').count());
            let comma = if lacks > 0 || line.ends_with(b":") || line.ends_with(b",") { "" } else { "," };
            changed.extend_from_slice(line);
            changed.extend_from_slice(format!("{}{comma}{}\n", ":".repeat(lacks), self.user).as_bytes());
        }
        changed
    }

    /// Handles a group that only NSS knows; a run only changes groups in /etc/group.
    fn look_in_nss(&self, host: &Host) -> Result<State> {
        let GroupMember { user, group } = self;
        let Some(found) = host.nss_group(group)? else {
            let why = format!("the group {group} does not exist yet: the package that creates it comes first");
            return Ok(if host.is_live() { State::Blocked(why) } else { State::Deferred(why) });
        };
        let known = match host.user(user)? {
            Some(known) => Some(known),
            None => host.nss_user(user)?,
        };
        match known {
            None => Ok(self.nobody(host)),
            Some((_, primary)) if primary == found.gid || found.members.contains(user) => Ok(State::InSync(None)),
            Some(_) => Err(Error::unavailable(format!("cannot add user {user} to group {group} here"))
                .cause(format!(
                    "only NSS has that group (getent group {group}: gid {}); it is not in /etc/group",
                    found.gid
                ))
                .fix(format!(
                    "add {user} to it in the source that NSS uses, or set docker.user to one of its members"
                ))),
        }
    }

    fn nobody(&self, host: &Host) -> State {
        let GroupMember { user, group } = self;
        let asked = if host.is_live() { ", neither in /etc/passwd nor in NSS" } else { "" };
        State::InSync(Some(format!(
            "the user {user} does not exist{asked}; nobody is added to group {group} (setting docker.user)"
        )))
    }
}

impl RawKind for RawGroupMember {}

impl Work for GroupMember {
    fn explain(&self) -> Vec<String> {
        vec![
            format!("Keeps the user {} in the group {}. Other members stay.", self.user, self.group),
            "A user whom this machine does not know is a notice.".into(),
        ]
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        let GroupMember { user, group } = self;
        host.refuse_ambiguous_group(group)?;
        let Some(found) = host.group(group)? else { return self.look_in_nss(host) };
        if found.members.contains(user) {
            return Ok(State::InSync(None));
        }
        let known = match host.user(user)? {
            Some(known) => Some(known),
            None => host.nss_user(user)?,
        };
        let Some((_, primary)) = known else { return Ok(self.nobody(host)) };
        Ok(if found.gid == primary {
            State::InSync(None)
        } else {
            State::Changes(vec![Change::new(format!("add user {user} to group {group}"))])
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        if host.is_live() {
            // gpasswd(1) locks /etc/group and keeps gshadow consistent.
            let argv = ["gpasswd", "--add", &self.user, &self.group];
            return host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(60))?.succeeded().map(drop);
        }
        for path in ["/etc/group", "/etc/gshadow"] {
            if let (Some(text), Some(entry)) = (host.read(path)?, host.entry(path)?) {
                let owner = Owner { uid: entry.uid, gid: entry.gid };
                host.write(path, &self.add_member(&text), entry.mode, owner)?;
            }
        }
        Ok(())
    }

    fn paths(&self) -> Vec<String> {
        vec!["/etc/group".to_owned(), "/etc/gshadow".to_owned()]
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

    #[test]
    fn the_gid_of_a_group_survives_whatever_its_line_looks_like() {
        let step = GroupMember { user: "ubuntu".into(), group: "docker".into() };
        for (before, after) in [
            ("docker:x:4711:\n", "docker:x:4711:ubuntu\n"),
            ("docker:x:4711", "docker:x:4711:ubuntu\n"),
            ("docker:x:4711\nother:x:1:\n", "docker:x:4711:ubuntu\nother:x:1:\n"),
            ("docker:x:4711:a", "docker:x:4711:a,ubuntu\n"),
            ("docker:x:4711:a,\n", "docker:x:4711:a,ubuntu\n"),
            ("docker:x:4711: \r\n", "docker:x:4711:ubuntu\n"),
            ("docker:!::a\n", "docker:!::a,ubuntu\n"),
            ("docker:!\n", "docker:!::ubuntu\n"),
            ("docker2:x:1:\n+:::", "docker2:x:1:\n+:::"),
        ] {
            assert_eq!(String::from_utf8(step.add_member(before.as_bytes())).unwrap(), after, "{before:?}");
        }
        // Lines that are not text stay unchanged.
        assert_eq!(step.add_member(b"\xff:x:1:\ndocker:x:2:"), b"\xff:x:1:\ndocker:x:2:ubuntu\n");
    }

    #[test]
    fn a_group_of_two_lines_or_without_a_number_is_refused() {
        let (_directory, host) = Host::temporary();
        let step = GroupMember { user: "ubuntu".into(), group: "docker".into() };
        for lines in ["docker:x:1:\ndocker:x:2:\n", "docker:x:\n", "docker:x:many:\n"] {
            host.write("/etc/group", lines.as_bytes(), 0o644, Owner::ROOT).unwrap();
            let error = step.observe(&host, &Planned::new()).unwrap_err();
            assert_eq!(error.kind, crate::error::Kind::Unavailable);
            assert!(error.to_string().contains(lines.lines().last().unwrap()), "{error}");
        }
    }
}
