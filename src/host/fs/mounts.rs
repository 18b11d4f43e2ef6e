//! Mounts below the root, and whether they are part of an image of the root.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::host::Host;

pub(super) const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems in memory, in the kernel, on other machines, and read-only images (proc(5), /proc/filesystems).
const ELSEWHERE: [&str; 40] = [
    "9p",
    "afs",
    "autofs",
    "binfmt_misc",
    "bpf",
    "ceph",
    "cgroup",
    "cgroup2",
    "cifs",
    "configfs",
    "cramfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "ecryptfs",
    "efivarfs",
    "erofs",
    "fuse",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "lustre",
    "mqueue",
    "nfs",
    "nfs4",
    "nsfs",
    "overlay",
    "aufs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smb3",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "virtiofs",
];

/// Mount points below the root, without the root itself.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    /// For each path, the reason why it is not part of an image; `None` if it is.
    points: BTreeMap<String, Option<String>>,
}

impl Host {
    /// The current mounts below the root.
    ///
    /// # Errors
    /// Fails when the kernel's list cannot be read.
    pub fn mounts(&self) -> Result<Mounts> {
        let text = std::fs::read_to_string(MOUNTS)
            .map_err(|e| Error::failed(format!("{MOUNTS}: cannot be read")).cause(e).fix("mount /proc"))?;
        Ok(Mounts::parse(&text, self.root().to_string_lossy().trim_end_matches('/')))
    }
}

impl Mounts {
    pub(crate) fn parse(text: &str, root: &str) -> Mounts {
        let mut points = BTreeMap::new();
        for line in text.lines() {
            // `36 35 98:0 /ROOT /POINT rw,noatime master:1 - ext3 /dev/root rw` (proc(5)).
            let mut halves = line.splitn(2, " - ");
            let before: Vec<&str> = halves.next().unwrap_or_default().split(' ').collect();
            let kind = halves.next().and_then(|after| after.split(' ').next());
            let (Some(part), Some(point), Some(kind)) = (before.get(3), before.get(4), kind) else { continue };
            let point = unescaped(point);
            let Some(below) = point.strip_prefix(root).filter(|below| below.starts_with('/') && below.len() > 1) else {
                continue;
            };
            // A later mount hides an earlier one at the same path.
            points.insert(below.to_owned(), why_excluded(kind, part));
        }
        Mounts { points }
    }

    /// The reason why the mount at `path` is not part of an image, if there is one.
    pub fn elsewhere(&self, path: &str) -> Option<&str> {
        self.points.get(path)?.as_deref()
    }

    /// Whether something is mounted there.
    pub fn is_point(&self, path: &str) -> bool {
        self.points.contains_key(path)
    }

    /// Whether something is mounted below it.
    pub fn any_below(&self, path: &str) -> bool {
        let start = format!("{path}/");
        self.points.keys().any(|point| point.starts_with(&start))
    }

    /// The reason why `path`, or a directory above it, is not part of an image.
    pub fn elsewhere_above(&self, path: &str) -> Option<&str> {
        let cuts = path.match_indices('/').map(|(n, _)| n).skip(1).chain([path.len()]);
        cuts.filter_map(|n| self.elsewhere(path.get(..n)?)).next()
    }
}

fn why_excluded(kind: &str, part: &str) -> Option<String> {
    let family = kind.split('.').next().unwrap_or(kind);
    if ELSEWHERE.contains(&family) {
        Some(format!("{kind} is mounted there"))
    } else if part != "/" && kind != "btrfs" {
        // A bind mount or a volume. If its files are part of the image, they are also at another path.
        Some("a part of a file system is mounted there".into())
    } else {
        None
    }
}

/// Replaces the escapes of blanks and backslashes, such as `\040`.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_contains_only_mounted_disks() {
        let text = "1 0 0:1 / / rw - overlay overlay rw\n\
                    2 1 0:2 / /proc rw - proc proc rw\n\
                    3 1 0:3 / /run rw shared:3 - tmpfs tmpfs rw\n\
                    4 1 8:1 /var/lib/containers/x/hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
                    5 1 8:2 / /data\\040one rw - xfs /dev/sdb rw\n\
                    6 1 0:9 / /mnt/sshfs rw - fuse.sshfs x rw\n\
                    7 1 8:3 /@home /home rw - btrfs /dev/sdc rw\nnonsense\n";
        let mounts = Mounts::parse(text, "");
        for (path, has) in [
            ("/proc", false),
            ("/run", false),
            ("/etc/hosts", false),
            ("/data one", true),
            ("/mnt/sshfs", false),
            ("/home", true),
        ] {
            assert_eq!((mounts.is_point(path), mounts.elsewhere(path).is_none()), (true, has), "{path}");
        }
        assert!(!mounts.is_point("/") && !mounts.is_point("/etc"));
        assert!(mounts.elsewhere_above("/run/titus-bootstrap/lock").is_some());
        assert!(mounts.elsewhere_above("/runner").is_none());
        let below = Mounts::parse(text, "/run");
        assert!(!below.is_point("/"));
    }
}
