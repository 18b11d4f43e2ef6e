//! The door to files. It walks a path from the root, one descriptor after another. So no change by another process can
//! lead out of the root, and the walk follows no link that a user other than root may have made.
//!
//! **Links.** The walk follows a link below the root if it trusts the owners of the link and of the directory with the
//! link, and if neither everyone nor a container can write to that directory (root in a container is root here).
//! Trusted are root, the user of this process, and in a tree the owner of its root.
//!
//! **Writing.** The walk checks each directory in the path, like systemd-tmpfiles(8), which refuses an "unsafe path
//! transition": its owner must be trusted, and nobody else may be able to replace the next directory. So everyone may
//! write to it only if it has the sticky bit (/tmp), and a group only if it is a system group. Ubuntu's /var/log is
//! root:syslog 0775, Debian's /usr/local and /var/local are root:staff 2775, /var/mail is root:mail 2775. A process
//! with such a group can rename root's files there, but cannot create files that belong to root, and the walk only
//! enters directories that belong to root. The directory with the file itself must not be writable for everyone, even
//! with the sticky bit.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::TEMPORARY;
use crate::host::Host;
use crate::host::fs::mounts::Mounts;
use crate::host::image::clear::{Clear, Cleared, clear_at};

/// Smaller ids are the distribution's groups of daemons and administrators (Debian Policy 9.2.2; login.defs(5),
/// GID_MIN).
const FIRST_GID: u32 = 1000;

/// The group `users`, to which adduser adds every user since Debian 12 and Ubuntu 24.04 (adduser.conf(5),
/// EXTRA_GROUPS).
const USERS: u32 = 100;

/// The most links in a path; the kernel has the same limit (path_resolution(7)).
pub(in crate::host) const LINKS: u32 = 40;

/// The deepest nesting of directories that the program examines.
const DEEPEST: usize = 4096;

const WAY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// For every open: a pipe must not block the process, and a terminal must not become its controlling terminal.
const CAREFUL: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// The purpose of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Walk {
    /// To read. The walk follows a link in the last component.
    Follow,
    /// To read, without following a link in the last component.
    Stay,
    /// To write. The walk creates missing directories, checks each one, and does not follow a link in the last
    /// component.
    Write,
    /// To find out whether a write would succeed, as far as the directories exist.
    Check,
}

impl Walk {
    fn is_checked(self) -> bool {
        matches!(self, Walk::Write | Walk::Check)
    }
}

/// An open directory, and a name in it.
#[derive(Debug)]
pub(in crate::host) struct Place {
    parent: OwnedFd,
    name: CString,
    /// The real path. After a walk to write, only root can change where it leads.
    pub real: PathBuf,
}

/// A directory in which other users could replace the next component of a path to write.
#[derive(Debug)]
pub(super) struct Unsafe {
    /// Its path.
    pub directory: PathBuf,
    /// Its mode and owner.
    pub how: String,
    /// Whether it has the sticky bit. Then its mode is probably intended, and other programs rely on it.
    pub is_sticky: bool,
}

impl fmt::Display for Unsafe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has {}", self.directory.display(), self.how)
    }
}

impl std::error::Error for Unsafe {}

/// The kind of a file, from its mode.
pub(super) fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

/// The error for something other than a regular file.
fn not_a_file(found: &FileStat) -> Error {
    match kind(found) {
        SFlag::S_IFDIR => Errno::EISDIR.into(),
        SFlag::S_IFLNK => Error::other("it is a symbolic link, which is not followed"),
        SFlag::S_IFIFO => Error::other("it is a pipe, not a regular file"),
        SFlag::S_IFSOCK => Error::other("it is a socket, not a regular file"),
        _ => Error::other("it is a device, not a regular file"),
    }
}

/// Whether an error means, for a reader, that nothing exists at a path.
pub(super) fn is_absent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn c_string(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| ErrorKind::InvalidInput.into())
}

impl Place {
    /// The status of the file there, if it exists. Does not follow a link.
    pub fn status(&self) -> Result<Option<FileStat>> {
        match fstatat(&self.parent, self.name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The target of the link there.
    pub fn target(&self) -> Result<PathBuf> {
        Ok(readlinkat(&self.parent, self.name.as_c_str())?.into())
    }

    /// Opens a file of any kind. Does not follow a link, nor wait for a pipe.
    pub fn open(&self, flags: OFlag, mode: u32) -> Result<File> {
        let opened = openat(&self.parent, self.name.as_c_str(), flags | CAREFUL, Mode::from_bits_truncate(mode))?;
        Ok(File::from(opened))
    }

    /// Opens a regular file.
    pub fn open_file(&self, flags: OFlag, mode: u32) -> Result<File> {
        // Opening a device can have side effects.
        if let Some(found) = self.status()?.filter(|found| kind(found) != SFlag::S_IFREG) {
            return Err(not_a_file(&found));
        }
        let file = self.open(flags, mode)?;
        let found = fstat(&file)?;
        if kind(&found) == SFlag::S_IFREG { Ok(file) } else { Err(not_a_file(&found)) }
    }

    /// Creates a file with a temporary name, and then renames it to this place atomically.
    pub fn replace<T>(
        &self,
        make: impl Fn(&OwnedFd, &CStr) -> nix::Result<T>,
        fill: impl FnOnce(T) -> Result<()>,
    ) -> Result<()> {
        let mut tries = 0;
        let (temporary, made) = loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let name = format!("{TEMPORARY}{:x}-{:x}", std::process::id(), now.as_nanos());
            let name = c_string(OsStr::new(&name))?;
            match make(&self.parent, &name) {
                Err(Errno::EEXIST) if tries < 100 => tries += 1,
                made => break (name, made?),
            }
        };
        let put = fill(made)
            .and_then(|()| Ok(renameat(&self.parent, temporary.as_c_str(), &self.parent, self.name.as_c_str())?));
        if put.is_err() {
            // The caller gets the first error.
            let _ = unlinkat(&self.parent, temporary.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        put
    }

    /// A new file that only its owner may access, for [`Place::replace`].
    pub fn new_file(parent: &OwnedFd, name: &CStr) -> nix::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | CAREFUL;
        openat(parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map(File::from)
    }

    /// Creates a directory. Succeeds if another run creates it at the same moment.
    pub fn make_directory(&self, mode: u32) -> Result<()> {
        match mkdirat(&self.parent, self.name.as_c_str(), Mode::from_bits_truncate(mode)) {
            Err(Errno::EEXIST) if self.status()?.is_some_and(|found| kind(&found) == SFlag::S_IFDIR) => Ok(()),
            made => Ok(made?),
        }
    }

    /// Removes the file or link there.
    pub fn unlink(&self) -> Result<()> {
        Ok(unlinkat(&self.parent, self.name.as_c_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes the directory there, if it is empty.
    pub fn remove_directory(&self) -> Result<()> {
        Ok(unlinkat(&self.parent, self.name.as_c_str(), UnlinkatFlags::RemoveDir)?)
    }

    /// Removes the file, link or directory there, and everything in it. It is not an error if nothing is there.
    pub fn remove_all(&self) -> Result<()> {
        let mut cleared = Cleared::default();
        clear_at(self.parent.as_fd(), &self.name, "", Clear::Whole, &Mounts::default(), &mut cleared)?;
        match cleared.left.first() {
            None => Ok(()),
            Some((path, why)) => Err(Error::other(format!("{path}: {why}"))),
        }
    }

    /// Renames the file, link or directory there within its directory.
    pub fn rename(&self, name: &OsStr) -> Result<()> {
        Ok(renameat(&self.parent, self.name.as_c_str(), &self.parent, c_string(name)?.as_c_str())?)
    }

    /// Writes the changes in the directory to disk.
    pub fn sync(&self) -> Result<()> {
        let directory = openat(&self.parent, c".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | CAREFUL, Mode::empty())?;
        File::from(directory).sync_all()
    }

    /// Whether the file system of the directory is mounted read-only.
    pub fn is_read_only(&self) -> Result<bool> {
        Ok(fstatvfs(&self.parent)?.flags().contains(FsFlags::ST_RDONLY))
    }

    /// The directory.
    pub fn directory(&self) -> &OwnedFd {
        &self.parent
    }
}

impl Host {
    /// The place of `path`; `None` if a directory in the path does not exist.
    ///
    /// # Errors
    /// Fails when a component cannot be opened, a link is not trusted, or, to write, a directory is not safe.
    pub(in crate::host) fn walk(&self, path: &str, walk: Walk) -> Result<Option<Place>> {
        let mut left = components(Path::new(path));
        if walk.is_checked() {
            return self.walk_step_by_step(left, walk);
        }
        if left.len() > 1 && left.front().is_some_and(|first| self.merged().contains(first)) {
            left.push_front("usr".into());
        }
        let Some(place) = self.walk_at_once(&left)? else { return Ok(None) };
        if let Some(place) = place {
            // A link may replace the file after this check, but the file is opened without following a link.
            if walk == Walk::Stay || place.status()?.is_none_or(|found| kind(&found) != SFlag::S_IFLNK) {
                return Ok(Some(place));
            }
        }
        self.walk_step_by_step(left, walk)
    }

    /// The place of a path without links, by one call of openat2(2), which Linux has since 5.6; `None` if a directory
    /// in the path does not exist. Returns `Some(None)` if only a walk step by step can find the place or the error,
    /// e.g. in a container whose filter refuses the call.
    fn walk_at_once(&self, parts: &VecDeque<OsString>) -> Result<Option<Option<Place>>> {
        let Some((name, parents)) = parts.iter().collect::<Vec<_>>().split_last().map(|(n, p)| (*n, p.to_vec())) else {
            return Ok(Some(None));
        };
        if parts.iter().any(|part| part == "..") {
            return Ok(Some(None));
        }
        let way: PathBuf =
            std::iter::once(OsStr::new(".")).chain(parents.iter().map(|part| part.as_os_str())).collect();
        let how = OpenHow::new().flags(WAY).resolve(
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        );
        let parent = match openat2(self.opened_root()?, &way, how) {
            Ok(parent) => parent,
            // There is no link before the missing name: at a link the call fails with ELOOP.
            Err(Errno::ENOENT) => return Ok(None),
            Err(_) => return Ok(Some(None)),
        };
        let real = self.root().join(way.strip_prefix(".").unwrap_or(&way)).join(name);
        Ok(Some(Some(Place { parent, name: c_string(name)?, real })))
    }

    /// The directories at the root that are links to those with the same name in /usr. Every distribution with a merged
    /// /usr has them. Many paths of units begin with `/lib`, and a walk step by step takes five times as long.
    fn merged(&self) -> &[OsString] {
        self.merged.get_or_init(|| {
            let is_merged = |name: &OsString| {
                let walked = self.walk_step_by_step(VecDeque::from([name.clone()]), Walk::Follow);
                matches!(walked, Ok(Some(place)) if place.real == self.root().join("usr").join(name))
            };
            ["bin", "lib", "lib64", "sbin"].map(OsString::from).into_iter().filter(is_merged).collect()
        })
    }

    /// The root directory; opens it the first time.
    fn opened_root(&self) -> Result<&OwnedFd> {
        if let Some(root) = self.opened.get() {
            return Ok(root);
        }
        let root = nix::fcntl::open(self.root(), WAY & !OFlag::O_NOFOLLOW, Mode::empty())?;
        Ok(self.opened.get_or_init(|| root))
    }

    fn walk_step_by_step(&self, mut left: VecDeque<OsString>, walk: Walk) -> Result<Option<Place>> {
        // All directories on the way stay open, so that `..` leads back to the last one, and never out of the root.
        let root = self.opened_root()?;
        let owner_of_root = fstat(root)?.st_uid;
        let mut way = vec![(root.try_clone()?, OsString::new())];
        let mut links = 0;
        let real = |way: &[(OwnedFd, OsString)]| -> PathBuf {
            way.iter().fold(
                self.root().to_path_buf(),
                |real, (_, name)| {
                    if name.is_empty() { real } else { real.join(name) }
                },
            )
        };
        loop {
            let (at, _) = way.last().ok_or(ErrorKind::NotFound)?;
            let place = |name: &OsStr| -> Result<Place> {
                Ok(Place { parent: at.try_clone()?, name: c_string(name)?, real: real(&way).join(name) })
            };
            let Some(part) = left.pop_front() else {
                return Ok(Some(Place { parent: at.try_clone()?, name: c".".to_owned(), real: real(&way) }));
            };
            if part == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let last = left.is_empty();
            if walk.is_checked() {
                self.check_way(&fstat(at)?, last, || real(&way))?;
            }
            if last && walk != Walk::Follow {
                return place(&part).map(Some);
            }
            // Try a directory first, because only that triggers an automount (open(2), O_PATH). Otherwise open the
            // entry itself, even a link, so that the owner and the target belong to the same link.
            let name = c_string(&part)?;
            let itself = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = |flags| openat(at, name.as_c_str(), flags, Mode::empty());
            let next = match open(WAY).or_else(|e| if e == Errno::ENOTDIR { open(itself) } else { Err(e) }) {
                Ok(next) => next,
                Err(Errno::ENOENT) if last => return place(&part).map(Some),
                Err(Errno::ENOENT) if walk == Walk::Write => {
                    let place = place(&part)?;
                    place.make_directory(0o755)?;
                    place.sync()?;
                    left.push_front(part);
                    continue;
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let found = fstat(&next)?;
            match kind(&found) {
                SFlag::S_IFLNK => {
                    links += 1;
                    if links > LINKS {
                        return Err(Error::other("too many symbolic links"));
                    }
                    let holder = fstat(at)?;
                    let is_trusted = |uid| self.is_trusted(uid, owner_of_root);
                    if !is_trusted(found.st_uid)
                        || !is_trusted(holder.st_uid)
                        || holder.st_mode & 0o002 != 0
                        || self.is_shared(at)
                    {
                        return Err(Error::other(format!(
                            "{} is a symbolic link that a user other than root may have made; it is not followed",
                            real(&way).join(part).display()
                        )));
                    }
                    let target = PathBuf::from(readlinkat(&next, c"")?);
                    if target.is_absolute() {
                        way.truncate(1);
                    }
                    let mut parts = components(&target);
                    parts.append(&mut left);
                    left = parts;
                }
                SFlag::S_IFDIR => way.push((next, part)),
                _ if last => return place(&part).map(Some),
                _ if walk.is_checked() => {
                    return Err(Error::other(format!("{} is not a directory", real(&way).join(part).display())));
                }
                _ => return Err(Errno::ENOTDIR.into()),
            }
        }
    }

    fn is_trusted(&self, uid: u32, owner_of_root: u32) -> bool {
        uid == 0 || uid == nix::unistd::geteuid().as_raw() || uid == owner_of_root
    }

    /// Whether a container can write to a directory or to one above it.
    fn is_shared(&self, directory: &OwnedFd) -> bool {
        let id = |found: FileStat| (found.st_dev, found.st_ino);
        // A path of a container may be a link to another disk. Such a link itself is not below a container's directory.
        let others = Host::below(self.root().to_path_buf(), Default::default());
        let shared: Vec<_> = self.shared.borrow().iter().filter_map(|path| others.open_directory(path).ok()?).collect();
        let shared: Vec<_> = shared.iter().filter_map(|directory| fstat(directory).ok().map(id)).collect();
        let root = self.opened_root().and_then(|root| Ok(id(fstat(root)?))).ok();
        let mut at = directory.try_clone();
        for _ in 0..DEEPEST {
            // Do not trust a directory that cannot be examined.
            let Ok(open) = at else { return true };
            let Ok(here) = fstat(&open).map(id) else { return true };
            if shared.contains(&here) {
                return true;
            }
            if shared.is_empty() || Some(here) == root {
                return false;
            }
            at = openat(&open, c"..", WAY, Mode::empty()).map_err(Error::from);
        }
        true
    }

    /// Opens the directory to which `path` leads, as a base for other paths; `None` if there is no directory.
    fn open_directory(&self, path: &str) -> Result<Option<OwnedFd>> {
        let Some(place) = self.walk(path, Walk::Follow)? else { return Ok(None) };
        Ok(openat(&place.parent, place.name.as_c_str(), WAY, Mode::empty()).ok())
    }

    /// Refuses an unsafe directory in a path to write. `last` means that it is the directory of the file.
    fn check_way(&self, found: &FileStat, last: bool, directory: impl FnOnce() -> PathBuf) -> Result<()> {
        let mode = found.st_mode & 0o7777;
        // In a tree, owners and groups are those of the image, not of this machine.
        let (foreign, gid) = match self.is_own_root() {
            true => (!self.is_trusted(found.st_uid, 0), found.st_gid),
            false => (false, 0),
        };
        if foreign || lets_others_in(mode, gid, last) {
            let how = format!("mode {mode:04o}, owner {}, group {}", found.st_uid, found.st_gid);
            return Err(Error::other(Unsafe { directory: directory(), how, is_sticky: mode & 0o1000 != 0 }));
        }
        Ok(())
    }

    /// Whether only root can have written this file, so that a message may quote it.
    ///
    /// # Errors
    /// Fails when the file cannot be examined.
    pub fn is_ours(&self, path: &str) -> crate::error::Result<bool> {
        let check = || -> Result<bool> {
            let Some(place) = self.walk(path, Walk::Stay)? else { return Ok(false) };
            let Some(found) = place.status()? else { return Ok(false) };
            let by_others =
                found.st_mode & 0o002 != 0 || (found.st_mode & 0o020 != 0 && found.st_gid != 0 && self.is_own_root());
            let owner_of_root = fstat(self.opened_root()?)?.st_uid;
            Ok(kind(&found) == SFlag::S_IFREG
                && self.is_trusted(found.st_uid, owner_of_root)
                && !by_others
                && found.st_nlink == 1
                && !self.is_shared(&place.parent))
        };
        check().map_err(|e| super::io_error("examined", path, &e))
    }

    /// Marks directories that a container can write to: walks then follow no links below them.
    pub fn share(&self, directories: impl IntoIterator<Item = String>) {
        self.shared.borrow_mut().extend(directories);
    }
}

/// Whether a user other than the owner of a directory could put a file there that a walk would trust. `last` means that
/// the run creates a file in it. In directories above, the next component belongs to root, so the sticky bit protects
/// it.
fn lets_others_in(mode: u32, gid: u32, last: bool) -> bool {
    let by_group = mode & 0o020 != 0 && gid != 0 && !is_system_group(gid);
    let kept_in_place = !last && mode & 0o1000 != 0;
    (mode & 0o002 != 0 || by_group) && !kept_in_place
}

/// Whether a group is one of the distribution's, which has no ordinary users.
fn is_system_group(gid: u32) -> bool {
    gid < FIRST_GID && gid != USERS
}

/// The components of a path.
pub(in crate::host) fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Directories of Debian 11 to 13 and Ubuntu 16.04 to 24.04, as base-files, base-passwd and the packages of a
    /// server make them: mode, group.
    const STANDARD: [(&str, u32, u32); 20] = [
        ("/", 0o755, 0),
        ("/etc", 0o755, 0),
        ("/opt", 0o755, 0),
        ("/run", 0o755, 0),
        ("/root", 0o700, 0),
        ("/usr/local (until Debian 12)", 0o2775, 50),
        ("/var/local", 0o2775, 50),
        ("/var/log (Debian)", 0o755, 0),
        ("/var/log (Ubuntu, syslog)", 0o775, 104),
        ("/var/log (Ubuntu 24.04, syslog)", 0o775, 102),
        ("/var/log/journal (systemd-journal)", 0o2755, 999),
        ("/var/log/apt", 0o755, 0),
        ("/var/log/unattended-upgrades (adm)", 0o750, 4),
        ("/var/mail", 0o2775, 8),
        ("/var/spool/cron/crontabs (kept in place)", 0o1730, 105),
        ("/var/cache/man (Ubuntu)", 0o2755, 12),
        ("/var/lib/dpkg", 0o755, 0),
        ("/lib/systemd/system", 0o755, 0),
        ("/home", 0o755, 0),
        ("/srv", 0o755, 0),
    ];

    #[test]
    fn directories_of_a_distribution_may_be_written_in() {
        for (path, mode, gid) in STANDARD {
            assert!(!lets_others_in(mode, gid, true), "{path}");
            assert!(!lets_others_in(mode, gid, false), "{path}");
        }
    }

    #[test]
    fn directories_that_others_may_write_to_are_not() {
        for (why, mode, gid, last) in [
            ("/tmp itself", 0o1777, 0, true),
            ("/var/crash of Ubuntu itself", 0o3777, 117, true),
            ("all, without a sticky bit", 0o777, 0, false),
            ("all but root's group", 0o757, 0, false),
            ("a user's own group", 0o775, 1000, false),
            ("a user's own group", 0o775, 1000, true),
            ("users, in which everybody is", 0o775, USERS, false),
            ("nogroup", 0o775, 65534, false),
        ] {
            assert!(lets_others_in(mode, gid, last), "{why}");
        }
        // Others cannot move root's files there, and the walk checks the next directory itself.
        for (mode, gid) in [(0o1777, 0), (0o3777, 117), (0o1775, 1000)] {
            assert!(!lets_others_in(mode, gid, false), "{mode:o}");
        }
    }

    #[test]
    fn a_walk_step_by_step_finds_what_one_call_of_the_kernel_finds() {
        let (directory, host) = Host::temporary();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/file"), "x").unwrap();
        symlink("b", directory.path().join("a/link")).unwrap();
        for path in ["/a/b/file", "/a/b", "/a", "/a/b/none", "a/b/../b/file", "/a/link/file"] {
            for walk in [Walk::Stay, Walk::Follow] {
                let inode = |place: Option<Place>| place.unwrap().status().unwrap().map(|found| found.st_ino);
                let both = [
                    inode(host.walk(path, walk).unwrap()),
                    inode(host.walk_step_by_step(components(Path::new(path)), walk).unwrap()),
                ];
                assert_eq!(both[0], both[1], "{path} {walk:?}");
            }
        }
        assert!(host.walk("/a/none/x", Walk::Stay).unwrap().is_none());
        assert!(host.walk_step_by_step(components(Path::new("/a/none/x")), Walk::Stay).unwrap().is_none());
    }

    #[test]
    fn links_below_a_container_s_directory_are_not_followed_but_links_to_it_are() {
        let (directory, host) = Host::temporary();
        let at = |path: &str| directory.path().join(path);
        std::fs::create_dir_all(at("disk/data/below")).unwrap();
        std::fs::write(at("secret"), "secret").unwrap();
        symlink("/disk/data", at("data")).unwrap();
        symlink("/secret", at("disk/data/link")).unwrap();
        symlink("/secret", at("disk/data/below/link")).unwrap();
        std::fs::write(at("disk/data/file"), "x").unwrap();
        let links = ["/data/link", "/data/below/link", "/disk/data/link"];
        for link in links {
            assert_eq!(host.read(link).unwrap().unwrap(), b"secret");
        }
        assert!(host.is_ours("/data/file").unwrap());
        host.share(["/data".to_owned()]);
        for link in links {
            let refused = host.read(link).unwrap_err();
            assert!(refused.cause.as_deref().unwrap_or_default().contains("not followed"), "{refused}");
        }
        assert_eq!(host.read("/data/file").unwrap().unwrap(), b"x");
        assert!(!host.is_ours("/data/file").unwrap());
        // Anyone who can write to a directory can make a hard link to a file there.
        std::fs::hard_link(at("secret"), at("other")).unwrap();
        assert!(!host.is_ours("/other").unwrap());
    }
}
