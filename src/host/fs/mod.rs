//! Writing below the root, so that no reader and no power cut ever sees half of a file.

pub mod accounts;
pub mod look;
pub mod mounts;

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::failpoint::failpoint;

/// What temporary files begin with, so that a later run can sweep a dead one's.
pub(super) const TEMPORARY: &str = ".titus-bootstrap-";

/// The largest file that the command line may name, bytes. Settings, facts and role files are far smaller.
const NAMED_LIMIT: u64 = 16 << 20;

/// Owner and group of a file, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// root and its group.
    pub const ROOT: Owner = Owner { uid: 0, gid: 0 };
}

pub(super) fn io_error(what: &str, path: &str, error: &std::io::Error) -> Error {
    let made = Error::failed(format!("{path}: cannot be {what}")).cause(error);
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            made.fix("make room on that file system (df -h, df -i) and run titus-bootstrap again")
        }
        ErrorKind::PermissionDenied => made.fix("run it as root"),
        ErrorKind::ReadOnlyFilesystem => made.fix("mount that file system writable and run titus-bootstrap again"),
        _ => made,
    }
}

/// Reads a file that the command line names: a path of the caller's, which is not resolved below the root.
///
/// # Errors
/// When it cannot be read, or is larger than 16 MiB.
pub fn read_named(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(NAMED_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > NAMED_LIMIT {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}

impl Host {
    /// The real directory and name under which `path` is to be written.
    pub(super) fn place(&self, path: &str) -> Result<(PathBuf, PathBuf)> {
        let real = self
            .resolve(path, false, true)
            .and_then(|found| found.ok_or_else(|| ErrorKind::NotFound.into()))
            .map_err(|e| io_error("written", path, &e))?;
        let parent = real.parent().unwrap_or(self.root()).to_path_buf();
        let found = std::fs::metadata(&parent).map_err(|e| io_error("written", path, &e))?;
        // Group 0 is root's own. In a tree an ordinary user's group bits are nobody's business.
        let writable_by_group = self.is_own_root() && found.gid() != 0 && found.mode() & 0o020 != 0;
        let foreign = self.is_own_root() && found.uid() != 0 && found.uid() != nix::unistd::geteuid().as_raw();
        if found.mode() & 0o002 != 0 || writable_by_group || foreign {
            return Err(Error::failed(format!("{path}: not written: others may write to its directory"))
                .cause(format!("{} has mode {:04o}, owner {}", parent.display(), found.mode() & 0o7777, found.uid()))
                .fix(format!("chown root:root {0} && chmod go-w {0}", parent.display())));
        }
        Ok((parent, real))
    }

    /// Puts a file with these contents, mode and owner at `path`, all at once: a
    /// reader sees the old one or the new one. A link in the last place is
    /// replaced, not followed. Directories on the way are made, 0755.
    ///
    /// # Errors
    /// When others may write to the directory, or the system refuses.
    pub fn write(&self, path: &str, contents: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.note_unit_file(path)?;
        let (parent, real) = self.place(path)?;
        let write = || -> std::io::Result<()> {
            failpoint();
            let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&parent)?;
            failpoint();
            file.write_all(contents)?;
            failpoint();
            if self.may_chown() {
                std::os::unix::fs::fchown(file.as_file(), Some(owner.uid), Some(owner.gid))?;
            }
            file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            failpoint();
            file.persist(&real).map_err(|e| e.error)?;
            failpoint();
            sync_directory(&parent)
        };
        write().map_err(|e| io_error("written", path, &e))
    }

    /// Writes a line to a file of the kernel's, in place and at once. Nothing can take the place of such a file.
    ///
    /// # Errors
    /// When it is not there, or the kernel does not take the line.
    pub fn write_to_kernel(&self, path: &str, line: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let real = self.resolve(path, true, false)?.ok_or(ErrorKind::NotFound)?;
            let mut file = std::fs::OpenOptions::new().write(true).truncate(true).open(real)?;
            file.write_all(format!("{line}\n").as_bytes())
        };
        write().map_err(|e| io_error("written", path, &e))
    }

    /// Appends to a file of ours, 0600 when new, and syncs it. After a torn last line a new one begins.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn append(&self, path: &str, line: &str) -> Result<()> {
        let (_, real) = self.place(path)?;
        let append = || -> std::io::Result<()> {
            use std::io::{Seek, SeekFrom};
            use std::os::unix::fs::OpenOptionsExt;
            let mut file = std::fs::OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&real)?;
            let mut last = [b'\n'];
            if file.metadata()?.len() > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            let start = if last == [b'\n'] { "" } else { "\n" };
            file.write_all(format!("{start}{line}\n").as_bytes())?;
            failpoint();
            file.sync_all()
        };
        append().map_err(|e| io_error("written", path, &e))
    }

    /// Sets mode and owner of what is there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_attributes(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let (parent, real) = self.place(path)?;
        let set = || -> std::io::Result<()> {
            // Opened without following a link, so that none can be swapped in between.
            let file = std::fs::File::from(nix::fcntl::open(
                &real,
                nix::fcntl::OFlag::O_RDONLY
                    | nix::fcntl::OFlag::O_NOFOLLOW
                    | nix::fcntl::OFlag::O_NONBLOCK
                    | nix::fcntl::OFlag::O_CLOEXEC,
                nix::sys::stat::Mode::empty(),
            )?);
            if self.may_chown() {
                std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            sync_directory(&parent)
        };
        set().map_err(|e| io_error("given its mode and owner", path, &e))
    }

    /// Makes a directory, and those on the way.
    ///
    /// # Errors
    /// When the system refuses, or something else is there.
    pub fn make_directory(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let (parent, real) = self.place(path)?;
        let make = || -> std::io::Result<()> {
            failpoint();
            std::fs::DirBuilder::new().mode(mode).create(&real)?;
            sync_directory(&parent)
        };
        make().map_err(|e| io_error("made", path, &e))?;
        failpoint();
        self.set_attributes(path, mode, owner)
    }

    /// Removes the file or link at `path`; nothing there is well.
    ///
    /// # Errors
    /// When the system refuses, as it does for a directory.
    pub fn remove(&self, path: &str) -> Result<()> {
        if self.entry(path)?.is_none() {
            return Ok(());
        }
        self.note_unit_file(path)?;
        let (parent, real) = self.place(path)?;
        failpoint();
        std::fs::remove_file(&real).and_then(|()| sync_directory(&parent)).map_err(|e| io_error("removed", path, &e))
    }

    /// Removes a directory that is ours, with all that is in it, and its parent if that is empty then.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove_tree(&self, path: &str) -> Result<()> {
        if self.entry(path)?.is_none() {
            return Ok(());
        }
        let (parent, real) = self.place(path)?;
        std::fs::remove_dir_all(&real).map_err(|e| io_error("removed", path, &e))?;
        // Refused when something is in it, as it should be.
        let _ = std::fs::remove_dir(parent);
        Ok(())
    }

    /// Puts a symbolic link at `path`, in place of whatever file or link is there.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        let (parent, real) = self.place(path)?;
        let link = || -> std::io::Result<()> {
            failpoint();
            let made = tempfile::Builder::new()
                .prefix(TEMPORARY)
                .make_in(&parent, |temporary| std::os::unix::fs::symlink(target, temporary))?;
            failpoint();
            made.persist(&real).map_err(|e| e.error)?;
            failpoint();
            sync_directory(&parent)
        };
        link().map_err(|e| io_error("linked", path, &e))
    }

    /// Moves what is at `path` to a free name beside it, which is returned.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn move_aside(&self, path: &str) -> Result<String> {
        self.note_unit_file(path)?;
        let (parent, real) = self.place(path)?;
        let aside = (0..100)
            .map(|n| if n == 0 { format!("{path}.saved") } else { format!("{path}.saved.{n}") })
            .find(|name| matches!(self.entry(name), Ok(None)))
            .ok_or_else(|| {
                Error::failed(format!("{path}: cannot be moved aside")).cause("a hundred copies are there")
            })?;
        let name = Path::new(&aside).file_name().unwrap_or(OsStr::new("saved"));
        failpoint();
        std::fs::rename(&real, parent.join(name))
            .and_then(|()| sync_directory(&parent))
            .map_err(|e| io_error("moved aside", path, &e))?;
        Ok(aside)
    }

    /// Removes what a killed run left half-written beside any of these paths.
    /// Only under the lock: a live run's temporary files look the same.
    ///
    /// # Errors
    /// When one is there and cannot be removed.
    pub fn sweep<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut parents: std::collections::BTreeSet<String> = paths
            .filter_map(|path| Path::new(path).parent())
            .map(|parent| parent.to_string_lossy().into_owned())
            .collect();
        // Where links that enable units are made.
        let units = "/etc/systemd/system";
        let wants =
            self.list(units)?.into_iter().filter(|name| name.ends_with(".wants") || name.ends_with(".requires"));
        parents.extend(wants.map(|name| format!("{units}/{name}")));
        for parent in parents {
            for name in self.list(&parent)?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
                self.remove(&format!("{}/{name}", parent.trim_end_matches('/')))?;
            }
        }
        Ok(())
    }
}

pub(super) fn sync_directory(path: &Path) -> std::io::Result<()> {
    std::fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::look::EntryKind;

    #[test]
    fn a_link_in_the_last_place_is_replaced_and_never_followed() {
        let (directory, host) = Host::temporary();
        std::fs::write(directory.path().join("victim"), "precious").unwrap();
        std::os::unix::fs::symlink("victim", directory.path().join("link")).unwrap();
        host.write("/link", b"new", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.entry("/link").unwrap().unwrap().kind, EntryKind::File);
        assert_eq!(host.read("/victim").unwrap().unwrap(), b"precious");
    }

    #[test]
    fn links_and_dots_stay_below_the_root() {
        let (directory, host) = Host::temporary();
        std::os::unix::fs::symlink("/etc", directory.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../etc", directory.path().join("dots")).unwrap();
        host.write("/absolute/mine", b"x", 0o644, Owner::ROOT).unwrap();
        host.write("/dots/mine-too", b"x", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.list("/etc").unwrap(), ["mine", "mine-too"]);
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (directory, host) = Host::temporary();
        std::os::unix::fs::symlink("loop", directory.path().join("loop")).unwrap();
        assert!(host.read("/loop/file").is_err());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused() {
        let (directory, host) = Host::temporary();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let refused = host.write("/open/file", b"x", 0o644, Owner::ROOT).unwrap_err();
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
        assert!(host.list("/open").unwrap().is_empty());
    }

    #[test]
    fn what_a_killed_write_left_is_swept() {
        let (directory, host) = Host::temporary();
        std::fs::write(directory.path().join(".titus-bootstrap-a1B2c3"), "half").unwrap();
        std::fs::write(directory.path().join("other"), "kept").unwrap();
        host.sweep(["/file"].into_iter()).unwrap();
        assert_eq!(host.list("/").unwrap(), ["other"]);
    }
}
