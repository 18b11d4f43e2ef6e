//! Obstacles that keep even root from changing a file: an attribute (chattr(1)), or a mount.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::door::{self, Walk};
use super::mounts::{MOUNTS, unescaped};
use crate::error::Error;
use crate::host::Host;

/// A mount (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    source: String,
    /// The option of mount(8) that makes it writable; `None` if it is writable.
    remount: Option<&'static str>,
}

impl Host {
    /// The error, with exit code 69, for an obstacle that prevents any change at `path`, with the command that removes
    /// it. Ignores obstacles that cannot be examined.
    pub(super) fn obstacle(&self, path: &str) -> Option<Error> {
        let (real, is_there, is_directory) = self.nearest(path)?;
        let mounts = mounts(&std::fs::read_to_string(MOUNTS).unwrap_or_default());
        let found = |what: &str| Error::unavailable(format!("{path}: {what}"));
        if is_there
            && !is_directory
            && let Some(mount) = mounts.iter().rev().find(|mount| mount.point == real)
        {
            return Some(
                found("cannot be changed: it is a mount point")
                    .cause(format!(
                        "{} is mounted there, and no file can take the place of a mount point",
                        mount.source
                    ))
                    .fix(format!("umount {}", real.display())),
            );
        }
        let mount = mounts.iter().rev().filter(|mount| real.starts_with(&mount.point));
        // The later of two mounts at one path, which comes first here, hides the other.
        let deeper = |mount: &Mount, other: &Mount| mount.point != other.point && mount.point.starts_with(&other.point);
        let mount = mount.reduce(|deepest, mount| if deeper(mount, deepest) { mount } else { deepest });
        if let Some(Mount { point, remount: Some(remount), .. }) = mount {
            let point = point.display();
            return Some(
                found("cannot be changed: its file system is read-only")
                    .cause(format!("the mount {point} is read-only"))
                    .fix(format!("mount -o {remount} {point}")),
            );
        }
        let above = if is_there { real.parent().map(Path::to_path_buf) } else { None };
        [Some(real), above].into_iter().flatten().find_map(|place| {
            let (letter, name) = attribute(&place)?;
            let place = place.display();
            Some(
                found(&format!("cannot be changed: {place} is {name}"))
                    .cause(format!(
                        "{place} has the attribute {letter} (lsattr -d {place}), which also applies to root"
                    ))
                    .fix(format!("chattr -{letter} {place}")),
            )
        })
    }

    /// The real path of `path`, or of the nearest directory above it that exists; whether `path` exists, and whether
    /// the result is a directory.
    fn nearest(&self, path: &str) -> Option<(PathBuf, bool, bool)> {
        let mut at = Path::new(path);
        loop {
            let place = self.walk(&at.to_string_lossy(), Walk::Stay).ok().flatten();
            if let Some(place) = place
                && let Some(found) = place.status().ok()?
            {
                let is_directory = door::kind(&found) == nix::sys::stat::SFlag::S_IFDIR;
                return Some((place.real.clone(), at == Path::new(path), is_directory));
            }
            at = at.parent()?;
        }
    }
}

/// The letter and the name of the attribute that keeps root from changing a file.
fn attribute(path: &Path) -> Option<(char, &'static str)> {
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).ok()?.stx_attributes;
    if found.contains(StatxAttributes::IMMUTABLE) {
        Some(('i', "immutable"))
    } else {
        found.contains(StatxAttributes::APPEND).then_some(('a', "append-only"))
    }
}

/// `36 35 98:0 /ROOT /POINT rw,noatime master:1 - ext3 /dev/root rw`.
fn mounts(text: &str) -> Vec<Mount> {
    let read_only = |options: &str| options.split(',').any(|option| option == "ro");
    let mount = |line: &str| -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split(' ').collect();
        let after: Vec<&str> = after.split(' ').collect();
        let remount = if read_only(after.get(2)?) {
            Some("remount,rw")
        } else {
            read_only(before.get(5)?).then_some("remount,bind,rw")
        };
        let point = PathBuf::from(unescaped(before.get(4)?));
        Some(Mount { point, source: unescaped(after.get(1)?), remount })
    };
    text.lines().filter_map(mount).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let text = "1 0 0:1 / / rw - overlay overlay rw,lowerdir=/x\n\
                    2 1 8:1 / /etc\\040x ro,relatime shared:3 - ext4 /dev/sda1 rw\n\
                    3 1 8:2 / /data ro - xfs /dev/sdb ro,attr2\nnonsense - x\n";
        let found = mounts(text);
        let shown: Vec<_> = found.iter().map(|mount| (mount.point.to_str().unwrap(), mount.remount)).collect();
        assert_eq!(shown, [("/", None), ("/etc x", Some("remount,bind,rw")), ("/data", Some("remount,rw"))]);
    }

    #[test]
    fn an_ordinary_file_has_no_obstacle() {
        let (_directory, host) = Host::temporary();
        host.write("/a/file", b"x", 0o644, crate::host::fs::Owner::ROOT).unwrap();
        for path in ["/a/file", "/a/new", "/a/b/c/new", "/a"] {
            assert!(host.obstacle(path).is_none(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = mounts(&text);
        }
    }
}
