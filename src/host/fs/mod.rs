//! Writing below the root, so that no reader and no power cut ever sees half of a file.

pub mod accounts;
pub mod door;
pub mod look;
pub mod mounts;
mod obstacle;

use std::ffi::OsStr;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::failpoint::failpoint;
use crate::host::fs::door::{Place, Walk};
use crate::host::fs::look::EntryKind;
use crate::host::wait::Deadline;

/// What temporary files begin with, so that a later run can sweep a dead one's.
pub(super) const TEMPORARY: &str = ".titus-bootstrap-";

/// The largest file that the command line may name, bytes. Settings, facts and role files are far smaller.
const NAMED_LIMIT: u64 = 16 << 20;

/// How long such a file may take, if it is a pipe.
const NAMED_PATIENCE: Duration = Duration::from_secs(60);

/// How often it is looked whether a signal came, milliseconds.
const LOOK: u16 = 100;

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
    if let Some(found) = error.get_ref().and_then(|inner| inner.downcast_ref::<door::Unsafe>()) {
        let directory = found.directory.display();
        let closed = format!("chown root:root {directory} && chmod go-w {directory}");
        return Error::failed(format!("{path}: not {what}: others may write to its directory, or to one above it"))
            .cause(found)
            .fix(if found.is_sticky {
                format!("write it below a directory that is only root's. If nobody else needs {directory} as it is: {closed}")
            } else {
                closed
            });
    }
    let made = Error::failed(format!("{path}: cannot be {what}")).cause(error);
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            made.fix("make room on that file system (df -h, df -i) and run titus-bootstrap again")
        }
        ErrorKind::PermissionDenied if nix::unistd::geteuid().is_root() => made.fix(format!(
            "see what forbids it to root: `lsattr -d {path}`, `findmnt --target {path}`, and `dmesg` for AppArmor or SELinux"
        )),
        ErrorKind::PermissionDenied => made.fix("run it as root"),
        ErrorKind::ReadOnlyFilesystem => made.fix("mount that file system writable and run titus-bootstrap again"),
        _ => made,
    }
}

/// Reads a file that the command line names: a path of the caller's, which is not resolved below the root. It may be a
/// pipe, as of `<(command)`; then whoever writes it has a minute.
///
/// # Errors
/// 78 when it cannot be read, or is larger than 16 MiB. `Interrupted` when a signal came.
pub fn read_named(path: &Path) -> Result<Vec<u8>> {
    let cannot =
        |cause: &dyn std::fmt::Display| Error::config(format!("{}: cannot be read", path.display())).cause(cause);
    let mut file = open_named(path).map_err(|e| cannot(&e))?;
    let is_file = file.metadata().map_err(|e| cannot(&e))?.is_file();
    let mut deadline = Deadline::new(path.to_string_lossy(), NAMED_PATIENCE);
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        // A named pipe that nobody has opened to write yet has no end to read.
        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        let is_ready = match poll(&mut ready, PollTimeout::from(LOOK)) {
            Ok(n) => n > 0,
            Err(Errno::EINTR) => false,
            Err(e) => return Err(cannot(&e)),
        };
        if !is_file && !deadline.pause(Duration::ZERO)? {
            return Err(cannot(&format!("nothing more came: {}", deadline.waited())));
        }
        if !is_ready {
            continue;
        }
        match file.read(&mut part) {
            Ok(0) => return Ok(bytes),
            Ok(n) => bytes.extend_from_slice(part.get(..n).unwrap_or_default()),
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(e) => return Err(cannot(&e)),
        }
        if bytes.len() as u64 > NAMED_LIMIT {
            return Err(cannot(&"it is larger than 16 MiB"));
        }
    }
}

/// The same of a regular file only, for a first look; nothing: it is something else, or cannot be read. What a pipe
/// gives can be read once.
pub fn peek_named(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = open_named(path).and_then(|file| {
        if file.metadata()?.is_file() { file.take(NAMED_LIMIT).read_to_end(&mut bytes) } else { Ok(0) }
    });
    if read.is_ok() { bytes } else { Vec::new() }
}

fn open_named(path: &Path) -> std::io::Result<std::fs::File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

impl Host {
    /// The error of a change at `path` that the system refuses, with what is in its way.
    fn io_error(&self, what: &str, path: &str, error: &std::io::Error) -> Error {
        let refusals = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::ResourceBusy];
        let may_be = refusals.contains(&error.kind());
        let made = io_error(what, path, error);
        match self.obstacle(path).filter(|_| may_be) {
            Some(Error { cause, fix, .. }) => {
                Error { cause: Some(format!("{error}: {}", cause.unwrap_or_default())), fix, ..made }
            }
            None => made,
        }
    }

    /// The place at which `path` is to be written. Directories on the way are made, 0755.
    pub(super) fn place(&self, path: &str) -> Result<Place> {
        let place = self.walk(path, Walk::Write).and_then(|found| found.ok_or_else(|| ErrorKind::NotFound.into()));
        place.map_err(|e| self.io_error("written", path, &e))
    }

    /// Refuses a path at which nothing can be written, or nothing should be: before anything is changed.
    ///
    /// # Errors
    /// When others may write to a directory on the way, or one is something else, or an attribute or a mount is in the way
    /// of root, too. Whoever may not look there is not asked to.
    pub fn refuse_unwritable(&self, path: &str) -> Result<()> {
        let look = || -> std::io::Result<()> {
            match self.walk(path, Walk::Check)? {
                Some(place) if place.is_read_only()? => Err(ErrorKind::ReadOnlyFilesystem.into()),
                _ => Ok(()),
            }
        };
        match look() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            looked => looked
                .map_err(|e| self.io_error("written", path, &e))
                .and_then(|()| self.obstacle(path).map_or(Ok(()), Err)),
        }
    }

    /// Puts a file with these contents, mode and owner at `path`, all at once: a
    /// reader sees the old one or the new one. A link in the last place is
    /// replaced, not followed. Directories on the way are made, 0755.
    ///
    /// # Errors
    /// When others may write to the directory, or the system refuses.
    pub fn write(&self, path: &str, contents: &[u8], mode: u32, owner: Owner) -> Result<()> {
        self.note_unit_file(path)?;
        let place = self.place(path)?;
        let write = || -> std::io::Result<()> {
            failpoint();
            place.replace(Place::new_file, |mut file| {
                failpoint();
                file.write_all(contents)?;
                failpoint();
                if self.may_chown() {
                    std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
                }
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                file.sync_all()?;
                failpoint();
                Ok(())
            })?;
            failpoint();
            place.sync()
        };
        write().map_err(|e| self.io_error("written", path, &e))?;
        self.written.borrow_mut().insert(path.to_owned(), Sha256::digest(contents).to_vec());
        Ok(())
    }

    /// Those of the paths whose contents are not those that this process wrote there last.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn changed_since_written(&self, paths: &[String]) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for path in paths {
            let Some(written) = self.written.borrow().get(path).cloned() else { continue };
            if self.read(path)?.is_none_or(|contents| Sha256::digest(contents).to_vec() != written) {
                changed.push(path.clone());
            }
        }
        Ok(changed)
    }

    /// Writes a line to a file of the kernel's, in place and at once. Nothing can take the place of such a file.
    ///
    /// # Errors
    /// When it is not there, or the kernel does not take the line.
    pub fn write_to_kernel(&self, path: &str, line: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let place = self.walk(path, Walk::Follow)?.ok_or(ErrorKind::NotFound)?;
            let mut file = place.open_file(OFlag::O_WRONLY | OFlag::O_TRUNC, 0)?;
            file.write_all(format!("{line}\n").as_bytes())
        };
        write().map_err(|e| self.io_error("written", path, &e))
    }

    /// Appends to a file of ours, 0600 when new, and syncs it. After a torn last line a new one begins.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn append(&self, path: &str, line: &str) -> Result<()> {
        let place = self.place(path)?;
        let append = || -> std::io::Result<()> {
            use std::io::{Seek, SeekFrom};
            let mut file = place.open_file(OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT, 0o600)?;
            let mut last = [b'\n'];
            let is_new = file.metadata()?.len() == 0;
            if !is_new {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            let start = if last == [b'\n'] { "" } else { "\n" };
            file.write_all(format!("{start}{line}\n").as_bytes())?;
            failpoint();
            file.sync_all()?;
            if is_new { place.sync() } else { Ok(()) }
        };
        append().map_err(|e| self.io_error("written", path, &e))
    }

    /// Writes to disk what other programs wrote to the file system of the directory `path`.
    ///
    /// # Errors
    /// When it is not there, or the system refuses.
    pub fn sync_file_system(&self, path: &str) -> Result<()> {
        let sync = || -> std::io::Result<()> {
            let place = self.walk(path, Walk::Follow)?.ok_or(ErrorKind::NotFound)?;
            Ok(nix::unistd::syncfs(place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?)?)
        };
        sync().map_err(|e| self.io_error("synced", path, &e))
    }

    /// Sets mode and owner of what is there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_attributes(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let place = self.place(path)?;
        let set = || -> std::io::Result<()> {
            let file = place.open(OFlag::O_RDONLY, 0)?;
            if self.may_chown() {
                std::os::unix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
            }
            file.set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            place.sync()
        };
        set().map_err(|e| self.io_error("given its mode and owner", path, &e))
    }

    /// Makes a directory, and those on the way.
    ///
    /// # Errors
    /// When the system refuses, or something else is there.
    pub fn make_directory(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let place = self.place(path)?;
        let make = || -> std::io::Result<()> {
            failpoint();
            place.make_directory(mode)?;
            place.sync()
        };
        make().map_err(|e| self.io_error("made", path, &e))?;
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
        let place = self.place(path)?;
        failpoint();
        place.unlink().and_then(|()| place.sync()).map_err(|e| self.io_error("removed", path, &e))
    }

    /// Removes a directory that is ours, with all that is in it, and its parent if that is empty then.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove_tree(&self, path: &str) -> Result<()> {
        if self.entry(path)?.is_none() {
            return Ok(());
        }
        let place = self.place(path)?;
        place.remove_all().map_err(|e| self.io_error("removed", path, &e))?;
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            // Refused when something is in it, as it should be.
            let _ = self.place(parent)?.remove_directory();
        }
        Ok(())
    }

    /// Puts a symbolic link at `path`, in place of whatever file or link is there.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn link(&self, path: &str, target: &str) -> Result<()> {
        let place = self.place(path)?;
        let link = || -> std::io::Result<()> {
            failpoint();
            place.replace(
                |parent, name| nix::unistd::symlinkat(target, parent, name),
                |()| {
                    failpoint();
                    Ok(())
                },
            )?;
            failpoint();
            place.sync()
        };
        link().map_err(|e| self.io_error("linked", path, &e))
    }

    /// Moves what is at `path` to a free name beside it, which is returned.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn move_aside(&self, path: &str) -> Result<String> {
        self.note_unit_file(path)?;
        let place = self.place(path)?;
        let aside = (0..100)
            .map(|n| if n == 0 { format!("{path}.saved") } else { format!("{path}.saved.{n}") })
            .find(|name| matches!(self.entry(name), Ok(None)))
            .ok_or_else(|| {
                Error::failed(format!("{path}: cannot be moved aside")).cause("a hundred copies are there")
            })?;
        let name = Path::new(&aside).file_name().unwrap_or(OsStr::new("saved"));
        failpoint();
        place.rename(name).and_then(|()| place.sync()).map_err(|e| self.io_error("moved aside", path, &e))?;
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
                let path = format!("{}/{name}", parent.trim_end_matches('/'));
                // A run leaves no directory. A container could, in one that it may write to.
                if self.entry(&path)?.is_some_and(|entry| entry.kind != EntryKind::Directory) {
                    self.remove(&path)?;
                }
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
