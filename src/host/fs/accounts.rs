//! Users and groups of the machine or of the tree.

#![allow(unsafe_code)]

use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::Patience;

/// The limit of a question to a directory service.
const QUESTION: Duration = Duration::from_secs(30);

const GETENT: &str = "/usr/bin/getent";

/// Confines name look-ups to /etc/passwd and /etc/group.
///
/// A static glibc that loads a name service module of the host (nsswitch.conf: `passwd: files systemd`) also loads a
/// second libc and crashes. Must be called once, before any look-up and any thread.
pub fn confine_look_ups() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            // <nss.h>: int __nss_configure_lookup(const char *database, const char *service_line)
            fn __nss_configure_lookup(database: *const std::ffi::c_char, services: *const std::ffi::c_char) -> i32;
        }
        for database in [c"passwd", c"group", c"initgroups"] {
            // SAFETY: both arguments are NUL-terminated constants, and no other thread runs yet.
            // glibc has exported this function since 2.0; an unknown database only returns -1.
            unsafe { __nss_configure_lookup(database.as_ptr(), c"files".as_ptr()) };
        }
    }
}

/// A group and its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Group id.
    pub gid: u32,
    /// The names of the members, without users who have it as their primary group.
    pub members: Vec<String>,
}

impl Host {
    /// The id and the primary group of a user in /etc/passwd, or `None`.
    ///
    /// # Errors
    /// Fails when the tree's passwd file cannot be read.
    pub fn user(&self, name: &str) -> Result<Option<(u32, u32)>> {
        if self.is_own_root() {
            return Ok(users::get_user_by_name(name).map(|user| (user.uid(), user.primary_group_id())));
        }
        let text = self.read_text("/etc/passwd")?.unwrap_or_default();
        Ok(record(&text, name).and_then(|fields| user(&fields)))
    }

    /// A group in /etc/group, or `None`.
    ///
    /// # Errors
    /// Fails when the tree's group file cannot be read.
    pub fn group(&self, name: &str) -> Result<Option<Group>> {
        if self.is_own_root() {
            use users::os::unix::GroupExt;
            return Ok(users::get_group_by_name(name).map(|group| Group {
                gid: group.gid(),
                members: group.members().iter().map(|member| member.to_string_lossy().into_owned()).collect(),
            }));
        }
        let text = self.read_text("/etc/group")?.unwrap_or_default();
        Ok(record(&text, name).and_then(|fields| group(&fields)))
    }

    /// The same for a user that only NSS knows (LDAP, sssd). Runs getent(1), because this process cannot load NSS
    /// modules.
    ///
    /// # Errors
    /// Fails when NSS does not answer.
    pub fn nss_user(&self, name: &str) -> Result<Option<(u32, u32)>> {
        let text = self.ask_nss("passwd", name)?;
        Ok(record(&text, name).and_then(|fields| user(&fields)))
    }

    /// The same for a group that only NSS knows.
    ///
    /// # Errors
    /// Fails when NSS does not answer.
    pub fn nss_group(&self, name: &str) -> Result<Option<Group>> {
        let text = self.ask_nss("group", name)?;
        Ok(record(&text, name).and_then(|fields| group(&fields)))
    }

    /// The line of NSS for a name; empty if NSS does not know the name, and in a tree, which has no services.
    fn ask_nss(&self, database: &str, name: &str) -> Result<String> {
        if name.is_empty() || !self.is_live() || self.entry(GETENT)?.is_none() {
            return Ok(String::new());
        }
        let output = self.run_command(&["getent", database, "--", name], &[], Patience::Ends, QUESTION)?;
        match output.status.code() {
            Some(0) => Ok(output.stdout),
            // getent(1): NSS does not have the name.
            Some(2) => Ok(String::new()),
            _ => Err(output.error().fix(format!("see why NSS does not answer: getent {database} {name}"))),
        }
    }

    /// Refuses an invalid line of /etc/group, and several lines for one name: programs disagree on which one counts,
    /// and gpasswd(1) changes none of them.
    ///
    /// # Errors
    /// Fails with exit code 69 when the group is invalid or ambiguous; the error has the lines.
    pub fn refuse_ambiguous_group(&self, name: &str) -> Result<()> {
        let text = self.read_text("/etc/group")?.unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| line.split(':').next() == Some(name)).collect();
        let (why, fix) = match &lines[..] {
            [] => return Ok(()),
            [line] if record(line, name).and_then(|fields| group(&fields)).is_some() => return Ok(()),
            [_] => (
                "a line without a number",
                "put the number that the group's files have into its third field: vigr".to_owned(),
            ),
            [.., last] => (
                "more than one line",
                format!(
                    "keep the one whose number the group's files have, and remove the other, e.g. with sed -i '/^{last}$/d' /etc/group"
                ),
            ),
        };
        let lines = lines.join("\n");
        Err(Error::unavailable(format!("/etc/group has {why} of the group {name}")).cause(lines).fix(fix))
    }
}

fn user(fields: &[&str]) -> Option<(u32, u32)> {
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}

fn group(fields: &[&str]) -> Option<Group> {
    let members = fields.get(3).copied().unwrap_or_default();
    Some(Group {
        gid: fields.get(2)?.parse().ok()?,
        members: members.split(',').map(str::trim).filter(|m| !m.is_empty()).map(str::to_owned).collect(),
    })
}

/// The fields of the line of passwd(5) or group(5) that begins with `name`.
pub(crate) fn record<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_its_own_accounts() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), crate::host::Deadlines::default()).unwrap();
        assert_eq!(host.user("root").unwrap(), None);
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), "broken\nubuntu:x:1000:1001::/home/ubuntu:/bin/sh\n")
            .unwrap();
        std::fs::write(directory.path().join("etc/group"), "docker:x:999:a,b\nempty:x:5:\nbad:x:no:\n").unwrap();
        assert_eq!(host.user("ubuntu").unwrap(), Some((1000, 1001)));
        assert_eq!(host.user("broken").unwrap(), None);
        assert_eq!(host.group("docker").unwrap(), Some(Group { gid: 999, members: vec!["a".into(), "b".into()] }));
        assert_eq!(host.group("empty").unwrap().unwrap().members, Vec::<String>::new());
        assert_eq!(host.group("bad").unwrap(), None);
    }
}
