//! Removes files that must not be in an image. It follows no symbolic link, not even on the way, and removes nothing
//! that is mounted from elsewhere: it opens each directory from its parent.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, fsync, ftruncate, unlinkat};

use crate::host::Host;
use crate::host::fs::mounts::Mounts;

/// The maximum depth; no directory of logs is deeper.
const DEEPEST: usize = 128;

/// How much to remove at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clear {
    /// Everything, including the directory.
    Whole,
    /// The contents of the directory.
    Contents,
    /// The files below the directory; services expect its subdirectories, with their owners.
    Files,
    /// The file's contents.
    Emptied,
}

/// The result.
#[derive(Debug, Clone, Default)]
pub struct Cleared {
    /// The number of files that were removed or emptied.
    pub files: u64,
    /// The path and reason of each failure.
    pub left: Vec<(String, String)>,
}

impl Cleared {
    fn leave(&mut self, path: &str, why: impl std::fmt::Display) {
        self.left.push((path.to_owned(), why.to_string()));
    }
}

/// What [`Host::stands`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    /// Nothing, or nothing that an image would contain.
    Nothing,
    /// A link on the way, which was not followed.
    BehindLink(String),
    /// Something to remove.
    Something,
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_RDONLY);

/// The way to a path.
enum Way {
    /// The parent directory, and the name in it.
    Open(OwnedFd, CString),
    Missing,
    Link(String),
}

impl Host {
    fn way(&self, path: &str) -> nix::Result<Way> {
        let mut at = open(self.root(), DIRECTORY, Mode::empty())?;
        let mut shown = String::new();
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let name = CString::new(part).map_err(|_| Errno::EINVAL)?;
            if parts.peek().is_none() {
                return Ok(Way::Open(at, name));
            }
            shown = format!("{shown}/{part}");
            at = match openat(&at, name.as_c_str(), DIRECTORY, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::ENOENT) => return Ok(Way::Missing),
                Err(Errno::ELOOP | Errno::ENOTDIR) => {
                    let link = kind(&at, &name)? == Some(Type::Symlink);
                    return Ok(if link { Way::Link(shown) } else { Way::Missing });
                }
                Err(error) => return Err(error),
            };
        }
        Err(Errno::EINVAL)
    }

    /// Opens a directory below the root; fails if a link is on the way.
    pub(super) fn open_without_links(&self, path: &std::path::Path) -> std::io::Result<OwnedFd> {
        // No other program could name the contents: a person has to look at it.
        if path.as_os_str().len() >= nix::libc::PATH_MAX as usize {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let mut at = open(self.root(), DIRECTORY, Mode::empty())?;
        for part in path.components() {
            at = openat(&at, part.as_os_str(), DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    /// Removes what is at `path`. Records failures and continues with the rest.
    pub fn clear(&self, path: &str, what: Clear, mounts: &Mounts, cleared: &mut Cleared) {
        if mounts.elsewhere_above(path).is_some() {
            return;
        }
        match self.way(path) {
            Ok(Way::Missing) => {}
            Ok(Way::Link(link)) => {
                cleared.leave(path, format_args!("{link} is a symbolic link, and links are not followed"))
            }
            Ok(Way::Open(parent, name)) => {
                if let Err(error) = clear_at(parent.as_fd(), &name, path, what, mounts, cleared) {
                    cleared.leave(path, error);
                }
            }
            Err(error) => cleared.leave(path, error),
        }
    }

    /// Checks whether there is anything for [`Host::clear`] to remove.
    ///
    /// # Errors
    /// Fails when the path cannot be examined.
    pub fn stands(&self, path: &str, what: Clear, mounts: &Mounts) -> std::io::Result<Stands> {
        if mounts.elsewhere_above(path).is_some() {
            return Ok(Stands::Nothing);
        }
        let (parent, name) = match self.way(path)? {
            Way::Missing => return Ok(Stands::Nothing),
            Way::Link(link) => return Ok(Stands::BehindLink(link)),
            Way::Open(parent, name) => (parent, name),
        };
        let found = kind(&parent, &name)?;
        let something = match (found, what) {
            (None, _) => false,
            (Some(_), Clear::Whole) => true,
            (Some(Type::File), Clear::Emptied) => {
                fstatat(&parent, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?.st_size > 0
            }
            (Some(_), Clear::Emptied) => true,
            (Some(Type::Symlink), _) => return Ok(Stands::BehindLink(path.to_owned())),
            (Some(Type::Directory), _) => {
                has_any(openat(&parent, name.as_c_str(), DIRECTORY, Mode::empty())?, path, what, mounts, 0)?
            }
            (Some(_), _) => false,
        };
        Ok(if something { Stands::Something } else { Stands::Nothing })
    }

    /// The names in a directory, not following links on the way; empty if it does not exist.
    ///
    /// # Errors
    /// Fails when the directory cannot be listed.
    pub fn names_in(&self, path: &str) -> std::io::Result<Vec<String>> {
        let Way::Open(parent, name) = self.way(path)? else { return Ok(Vec::new()) };
        match openat(&parent, name.as_c_str(), DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                Ok(entries(directory)?.into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect())
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The first `limit` bytes of a regular file; `None` if there is no such file, or if a link is on the way.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn read_plain(&self, path: &str, limit: u64) -> std::io::Result<Option<Vec<u8>>> {
        let Way::Open(parent, name) = self.way(path)? else { return Ok(None) };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&parent, name.as_c_str(), flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::ENOENT | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Flushes the removals to disk.
    pub fn sync_all(&self) {
        nix::unistd::sync();
    }
}

/// The type of an entry, without following a link.
pub(super) fn kind(parent: impl AsFd, name: &CStr) -> nix::Result<Option<Type>> {
    let found = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(match SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Type::Directory,
        SFlag::S_IFLNK => Type::Symlink,
        SFlag::S_IFREG => Type::File,
        _ => Type::Fifo,
    }))
}

/// All names in a directory with their types, read before any is removed; `None` for one that is gone already.
pub(in crate::host) fn entries(directory: OwnedFd) -> nix::Result<Vec<(CString, Option<Type>)>> {
    let mut directory = Dir::from_fd(directory)?;
    let mut found = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    found
        .into_iter()
        .map(|(name, known)| {
            let known = if known.is_some() { known } else { kind(&directory, &name)? };
            Ok((name, known))
        })
        .collect()
}

pub(in crate::host) fn clear_at(
    parent: BorrowedFd,
    name: &CStr,
    path: &str,
    what: Clear,
    mounts: &Mounts,
    cleared: &mut Cleared,
) -> nix::Result<()> {
    let Some(found) = kind(parent, name)? else { return Ok(()) };
    match (found, what) {
        (Type::Directory, Clear::Emptied) => return Err(Errno::EISDIR),
        (Type::File, Clear::Emptied) => {
            let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = openat(parent, name, flags, Mode::empty())?;
            // Something else may have taken its place.
            if SFlag::from_bits_truncate(fstat(&file)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG {
                ftruncate(&file, 0)?;
                fsync(&file)?;
                cleared.files += 1;
            }
        }
        (Type::Symlink, Clear::Contents | Clear::Files) => {
            cleared.leave(path, "is a symbolic link, and links are not followed");
        }
        (Type::Directory, _) => {
            let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
            empty(directory, path, what == Clear::Files, mounts, cleared, 0);
            if what == Clear::Whole
                && !mounts.is_point(path)
                && !cleared.left.iter().any(|(at, _)| at.starts_with(path))
            {
                unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
            }
        }
        (_, Clear::Contents | Clear::Files) => {}
        (_, Clear::Whole | Clear::Emptied) => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            cleared.files += 1;
        }
    }
    Ok(())
}

fn empty(directory: OwnedFd, path: &str, keep: bool, mounts: &Mounts, cleared: &mut Cleared, depth: usize) {
    let names = directory.try_clone().map_err(|e| e.to_string()).and_then(|d| entries(d).map_err(|e| e.to_string()));
    let names = match names {
        Ok(names) => names,
        Err(error) => return cleared.leave(path, error),
    };
    if depth > DEEPEST {
        return cleared.leave(path, "directories are nested too deep");
    }
    for (name, kind) in names {
        let inner = format!("{path}/{}", name.to_string_lossy());
        if mounts.elsewhere(&inner).is_some() {
            continue;
        }
        let result = if kind == Some(Type::Directory) {
            openat(&directory, name.as_c_str(), DIRECTORY, Mode::empty()).and_then(|below| {
                let before = cleared.left.len();
                empty(below, &inner, keep, mounts, cleared, depth + 1);
                // A mount point stays, and so does a directory that could not be emptied.
                if keep || mounts.is_point(&inner) || cleared.left.len() > before {
                    return Ok(());
                }
                match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir) {
                    // Something is mounted in it.
                    Err(Errno::ENOTEMPTY | Errno::EBUSY) if mounts.any_below(&inner) => Ok(()),
                    other => other,
                }
            })
        } else {
            unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir).map(|()| cleared.files += 1)
        };
        match result {
            // It disappeared in the meantime.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => cleared.leave(&inner, error),
        }
    }
}

fn has_any(directory: OwnedFd, path: &str, what: Clear, mounts: &Mounts, depth: usize) -> nix::Result<bool> {
    let names = entries(directory.try_clone().map_err(|_| Errno::EMFILE)?)?;
    for (name, kind) in names {
        let inner = format!("{path}/{}", name.to_string_lossy());
        if mounts.elsewhere(&inner).is_some() {
            continue;
        }
        if kind != Some(Type::Directory) {
            return Ok(true);
        }
        if what != Clear::Files && !mounts.is_point(&inner) && !mounts.any_below(&inner) {
            return Ok(true);
        }
        let below = openat(&directory, name.as_c_str(), DIRECTORY, Mode::empty())?;
        if depth < DEEPEST && has_any(below, &inner, what, mounts, depth + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn tree() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        for path in ["etc", "var/log/deep/er", "var/log/journal"] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        for path in ["etc/passwd", "var/log/syslog", "var/log/deep/er/x.gz", "var/log/journal/y"] {
            fs::write(directory.path().join(path), "text").unwrap();
        }
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        (directory, host)
    }

    fn clear(host: &Host, path: &str, what: Clear) -> Cleared {
        let mut cleared = Cleared::default();
        host.clear(path, what, &Mounts::default(), &mut cleared);
        cleared
    }

    fn stands(host: &Host, path: &str, what: Clear) -> Stands {
        host.stands(path, what, &Mounts::default()).unwrap()
    }

    #[test]
    fn files_go_and_directories_stay() {
        let (directory, host) = tree();
        symlink("/etc/passwd", directory.path().join("var/log/link")).unwrap();
        symlink("../../etc", directory.path().join("var/log/deep/etc")).unwrap();
        assert_eq!(stands(&host, "/var/log", Clear::Files), Stands::Something);
        let cleared = clear(&host, "/var/log", Clear::Files);
        assert_eq!((cleared.files, cleared.left), (5, vec![]));
        assert!(directory.path().join("var/log/deep/er").is_dir() && directory.path().join("etc/passwd").exists());
        assert_eq!(stands(&host, "/var/log", Clear::Files), Stands::Nothing);
        assert_eq!(stands(&host, "/var/log", Clear::Contents), Stands::Something);
        assert_eq!(clear(&host, "/var/log", Clear::Contents).left, vec![]);
        assert!(host.names_in("/var/log").unwrap().is_empty());
        clear(&host, "/var", Clear::Whole);
        assert_eq!(stands(&host, "/var", Clear::Whole), Stands::Nothing);
        assert_eq!(clear(&host, "/var/not/there", Clear::Whole).left, vec![]);
    }

    #[test]
    fn a_log_directory_that_leads_elsewhere_is_reported_and_not_followed() {
        let (directory, host) = tree();
        fs::remove_dir_all(directory.path().join("var/log")).unwrap();
        symlink("/etc", directory.path().join("var/log")).unwrap();
        for what in [Clear::Files, Clear::Contents] {
            let cleared = clear(&host, "/var/log", what);
            assert_eq!((cleared.files, cleared.left[0].0.as_str()), (0, "/var/log"));
            assert_eq!(stands(&host, "/var/log", what), Stands::BehindLink("/var/log".into()));
        }
        // Also with a link on the way.
        assert_eq!(clear(&host, "/var/log/passwd", Clear::Whole).left.len(), 1);
        assert_eq!(stands(&host, "/var/log/passwd", Clear::Whole), Stands::BehindLink("/var/log".into()));
        assert!(directory.path().join("etc/passwd").exists());
        assert!(host.names_in("/var/log").unwrap().is_empty());
        // The link itself can be removed.
        assert_eq!(clear(&host, "/var/log", Clear::Whole).files, 1);
        assert!(directory.path().join("etc/passwd").exists());
    }

    #[test]
    fn emptying_keeps_the_file_and_follows_no_link() {
        let (directory, host) = tree();
        clear(&host, "/etc/passwd", Clear::Emptied);
        assert_eq!(fs::read(directory.path().join("etc/passwd")).unwrap(), b"");
        assert_eq!(stands(&host, "/etc/passwd", Clear::Emptied), Stands::Nothing);
        symlink("/var/log/syslog", directory.path().join("etc/link")).unwrap();
        clear(&host, "/etc/link", Clear::Emptied);
        assert!(!directory.path().join("etc/link").is_symlink());
        assert_eq!(fs::read(directory.path().join("var/log/syslog")).unwrap(), b"text");
        assert_eq!(clear(&host, "/var/log", Clear::Emptied).left.len(), 1);
    }

    #[test]
    fn what_is_mounted_from_elsewhere_stays() {
        let (directory, host) = tree();
        let root = directory.path().canonicalize().unwrap();
        let text = format!("1 0 8:1 /home/me /{}/var/log/deep/er rw - ext4 /dev/sda1 rw", root.display());
        let mounts = Mounts::parse(&text.replace("//", "/"), &root.to_string_lossy());
        let mut cleared = Cleared::default();
        // `parse` takes the text of /proc/self/mountinfo, in which the point has one slash.
        host.clear("/var/log", Clear::Contents, &mounts, &mut cleared);
        assert_eq!((cleared.files, cleared.left.clone()), (2, vec![]));
        assert!(Path::new(&root.join("var/log/deep/er/x.gz")).exists());
        assert_eq!(host.stands("/var/log", Clear::Contents, &mounts).unwrap(), Stands::Nothing);
        host.clear("/var/log/deep/er/x.gz", Clear::Whole, &mounts, &mut cleared);
        assert!(root.join("var/log/deep/er/x.gz").exists());
    }
}
