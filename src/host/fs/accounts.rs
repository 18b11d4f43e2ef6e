//! Users and groups: the machine's own, or those of the tree.

#![allow(unsafe_code)]

use crate::error::Result;
use crate::host::Host;

/// Confines name look-ups to /etc/passwd and /etc/group.
///
/// A static glibc that loads a name service module of the host (nsswitch.conf:
/// `passwd: files systemd`) loads a second libc with it and dies. Called once, at
/// the start, before any look-up and any thread.
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

/// A group: its number, and the names of those who are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Group id.
    pub gid: u32,
    /// Members by name; whose primary group it is, is not among them.
    pub members: Vec<String>,
}

impl Host {
    /// A user's id and primary group, or `None`.
    ///
    /// # Errors
    /// When the tree's passwd file cannot be read.
    pub fn user(&self, name: &str) -> Result<Option<(u32, u32)>> {
        if self.is_own_root() {
            return Ok(users::get_user_by_name(name).map(|user| (user.uid(), user.primary_group_id())));
        }
        let text = self.read_text("/etc/passwd")?.unwrap_or_default();
        Ok(record(&text, name).and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))))
    }

    /// A group, or `None`.
    ///
    /// # Errors
    /// When the tree's group file cannot be read.
    pub fn group(&self, name: &str) -> Result<Option<Group>> {
        if self.is_own_root() {
            use users::os::unix::GroupExt;
            return Ok(users::get_group_by_name(name).map(|group| Group {
                gid: group.gid(),
                members: group.members().iter().map(|member| member.to_string_lossy().into_owned()).collect(),
            }));
        }
        let text = self.read_text("/etc/group")?.unwrap_or_default();
        Ok(record(&text, name).and_then(|fields| {
            let members = fields.get(3).copied().unwrap_or_default();
            Some(Group {
                gid: fields.get(2)?.parse().ok()?,
                members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
            })
        }))
    }
}

/// The fields of the line of passwd(5) or group(5) that begins with `name`.
pub(crate) fn record<'a>(text: &'a str, name: &str) -> Option<Vec<&'a str>> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_accounts_of_its_own() {
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
