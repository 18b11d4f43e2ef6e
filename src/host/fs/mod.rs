//! Writes below the root so that neither a reader nor a power cut ever sees an incomplete file.

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

/// The prefix of temporary files, by which a later run finds and removes those of a killed run.
pub(super) const TEMPORARY: &str = ".titus-bootstrap-";

/// The size limit of a file on the command line, bytes. Settings, facts and role files are far smaller.
const NAMED_LIMIT: u64 = 16 << 20;

/// How long such a file may take if it is a pipe.
const NAMED_PATIENCE: Duration = Duration::from_secs(60);

/// The interval between checks for signals, milliseconds.
const POLL: u16 = 100;

/// The ids of a file's owner and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The user root and its group.
    pub const ROOT: Owner = Owner { uid: 0, gid: 0 };
}

pub(super) fn io_error(what: &str, path: &str, error: &std::io::Error) -> Error {
    if let Some(found) = error.get_ref().and_then(|inner| inner.downcast_ref::<door::Unsafe>()) {
        let directory = found.directory.display();
        let closed = format!("chown root:root {directory} && chmod go-w {directory}");
        return Error::failed(format!("{path}: not {what}: others may write to its directory, or to one above it"))
            .cause(found)
            .fix(if found.is_sticky {
                format!("write it below a directory that only root may write to. If nobody else needs the present mode of {directory}: {closed}")
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
            "find out what prevents root from doing it: `lsattr -d {path}`, `findmnt --target {path}`, and `dmesg` for AppArmor or SELinux"
        )),
        ErrorKind::PermissionDenied => made.fix("run it as root"),
        ErrorKind::ReadOnlyFilesystem => made.fix("mount that file system writable and run titus-bootstrap again"),
        _ => made,
    }
}

/// Reads a file from the command line. Its path is the caller's and is not resolved below the root. It may be a pipe,
/// e.g. `<(command)`, whose writer has a minute.
///
/// # Errors
/// Fails with exit code 78 when the file cannot be read, or is larger than 16 MiB. Returns `Interrupted` when a signal
/// arrives.
pub fn read_named(path: &Path) -> Result<Vec<u8>> {
    let cannot =
        |cause: &dyn std::fmt::Display| Error::config(format!("{}: cannot be read", path.display())).cause(cause);
    let mut file = open_named(path).map_err(|e| cannot(&e))?;
    let is_file = file.metadata().map_err(|e| cannot(&e))?.is_file();
    let mut deadline = Deadline::new(path.to_string_lossy(), NAMED_PATIENCE);
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 << 10];
    loop {
        // A named pipe without a writer yet is not at its end.
        let mut ready = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        let is_ready = match poll(&mut ready, PollTimeout::from(POLL)) {
            Ok(n) => n > 0,
            Err(Errno::EINTR) => false,
            Err(e) => return Err(cannot(&e)),
        };
        if !is_file && !deadline.pause(Duration::ZERO)? {
            return Err(cannot(&format!("no more data arrived: {}", deadline.timeout_message())));
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

/// Writes a file from the command line that only its owner may read: completely or not at all, and never through a
/// link.
///
/// # Errors
/// Fails when the file cannot be written.
pub fn write_named(path: &Path, contents: &[u8]) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(contents)?;
        file.persist(path).map_err(|e| e.error).map(drop)
    };
    write().map_err(|cause| {
        Error::failed(format!("{}: cannot be written", path.display()))
            .cause(cause)
            .fix("name a file in a directory that you may write to")
    })
}

/// Like [`read_named`], but returns nothing if the file is not a regular file or cannot be read: a pipe can be read
/// only once.
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
    /// The error for a failed change at `path`, with the obstacle if there is one.
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

    /// The place to write `path`. Creates missing directories with mode 0755.
    pub(super) fn place(&self, path: &str) -> Result<Place> {
        self.forget_unit_lists_with(path);
        let place = self.walk(path, Walk::Write).and_then(|found| found.ok_or_else(|| ErrorKind::NotFound.into()));
        place.map_err(|e| self.io_error("written", path, &e))
    }

    /// Refuses a path that cannot or should not be written, before anything is changed. Accepts a path that the user
    /// may not examine.
    ///
    /// # Errors
    /// Fails when other users may write to a directory in the path, a component is not a directory, or an attribute or
    /// a mount prevents changes.
    pub fn refuse_unwritable(&self, path: &str) -> Result<()> {
        let check = || -> std::io::Result<()> {
            match self.walk(path, Walk::Check)? {
                Some(place) if place.is_read_only()? => Err(ErrorKind::ReadOnlyFilesystem.into()),
                _ => Ok(()),
            }
        };
        match check() {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            checked => checked
                .map_err(|e| self.io_error("written", path, &e))
                .and_then(|()| self.obstacle(path).map_or(Ok(()), Err)),
        }
    }

    /// Writes a file with these contents, mode and owner atomically: a reader sees the old file or the new one.
    /// Replaces a link at `path` and does not follow it. Creates missing directories with mode 0755.
    ///
    /// # Errors
    /// Fails when other users may write to the directory, or the file cannot be written.
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

    /// The paths whose contents have changed since this process wrote them.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
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

    /// Writes a line to a file of the kernel in place, because such a file cannot be replaced.
    ///
    /// # Errors
    /// Fails when the file does not exist, or the kernel rejects the line.
    pub fn write_to_kernel(&self, path: &str, line: &str) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let place = self.walk(path, Walk::Follow)?.ok_or(ErrorKind::NotFound)?;
            let mut file = place.open_file(OFlag::O_WRONLY | OFlag::O_TRUNC, 0)?;
            file.write_all(format!("{line}\n").as_bytes())
        };
        write().map_err(|e| self.io_error("written", path, &e))
    }

    /// Appends a line to one of the program's files, and syncs it. Creates the file with mode 0600. Starts a new line
    /// after an incomplete one.
    ///
    /// # Errors
    /// Fails when [`Host::write`] would fail.
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

    /// Writes the whole file system of the directory `path` to disk, including data of other programs.
    ///
    /// # Errors
    /// Fails when the directory does not exist, or the file system cannot be synced.
    pub fn sync_file_system(&self, path: &str) -> Result<()> {
        let sync = || -> std::io::Result<()> {
            let place = self.walk(path, Walk::Follow)?.ok_or(ErrorKind::NotFound)?;
            Ok(nix::unistd::syncfs(place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?)?)
        };
        sync().map_err(|e| self.io_error("synced", path, &e))
    }

    /// Sets the mode and the owner of an existing file or directory.
    ///
    /// # Errors
    /// Fails when they cannot be changed.
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

    /// Creates a directory, and missing parents.
    ///
    /// # Errors
    /// Fails when the directory cannot be created, or the path is not a directory.
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

    /// Removes the file or link at `path`, if it exists.
    ///
    /// # Errors
    /// Fails when it cannot be removed, e.g. because it is a directory.
    pub fn remove(&self, path: &str) -> Result<()> {
        if self.entry(path)?.is_none() {
            return Ok(());
        }
        self.note_unit_file(path)?;
        let place = self.place(path)?;
        failpoint();
        place.unlink().and_then(|()| place.sync()).map_err(|e| self.io_error("removed", path, &e))
    }

    /// Removes one of the program's directories with everything in it, and its parent if that is then empty.
    ///
    /// # Errors
    /// Fails when the directory cannot be removed.
    pub fn remove_tree(&self, path: &str) -> Result<()> {
        if self.entry(path)?.is_none() {
            return Ok(());
        }
        let place = self.place(path)?;
        place.remove_all().map_err(|e| self.io_error("removed", path, &e))?;
        if let Some(parent) = Path::new(path).parent().and_then(Path::to_str) {
            // The system refuses this if the directory is not empty.
            let _ = self.place(parent)?.remove_directory();
        }
        Ok(())
    }

    /// Creates a symbolic link at `path`, and replaces a file or link there.
    ///
    /// # Errors
    /// Fails when [`Host::write`] would fail.
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

    /// Renames the file or directory at `path` to an unused name beside it, and returns that name.
    ///
    /// # Errors
    /// Fails when it cannot be renamed.
    pub fn move_aside(&self, path: &str) -> Result<String> {
        self.note_unit_file(path)?;
        let place = self.place(path)?;
        let aside = (0..100)
            .map(|n| if n == 0 { format!("{path}.saved") } else { format!("{path}.saved.{n}") })
            .find(|name| matches!(self.entry(name), Ok(None)))
            .ok_or_else(|| {
                Error::failed(format!("{path}: cannot be moved aside")).cause("there are already a hundred copies")
            })?;
        let name = Path::new(&aside).file_name().unwrap_or(OsStr::new("saved"));
        failpoint();
        place.rename(name).and_then(|()| place.sync()).map_err(|e| self.io_error("moved aside", path, &e))?;
        Ok(aside)
    }

    /// Removes the temporary files that a killed run left beside any of these paths. The caller must hold the lock,
    /// because the temporary files of a live run look the same.
    ///
    /// # Errors
    /// Fails when a temporary file cannot be removed.
    pub fn sweep<'a>(&self, paths: impl Iterator<Item = &'a str>) -> Result<()> {
        let mut parents: std::collections::BTreeSet<String> = paths
            .filter_map(|path| Path::new(path).parent())
            .map(|parent| parent.to_string_lossy().into_owned())
            .collect();
        // The directories with links that enable units.
        let units = "/etc/systemd/system";
        let wants =
            self.list(units)?.into_iter().filter(|name| name.ends_with(".wants") || name.ends_with(".requires"));
        parents.extend(wants.map(|name| format!("{units}/{name}")));
        for parent in parents {
            for name in self.list(&parent)?.into_iter().filter(|name| name.starts_with(TEMPORARY)) {
                let path = format!("{}/{name}", parent.trim_end_matches('/'));
                // A run never leaves a directory, but a container could make one.
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
    fn a_link_in_the_last_component_is_replaced_and_never_followed() {
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
    fn links_of_a_merged_usr_lead_into_it_and_others_where_they_say() {
        let (directory, host) = Host::temporary();
        for file in ["usr/lib/x", "usr/sbin/x", "opt/x", "usr/bin/x"] {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        for (link, target) in [("lib", "usr/lib"), ("sbin", "opt"), ("bin", "/usr/bin"), ("lib64", "usr/none")] {
            std::os::unix::fs::symlink(target, directory.path().join(link)).unwrap();
        }
        for (path, leads_to) in [("/lib/x", "usr/lib/x"), ("/sbin/x", "opt/x"), ("/bin/x", "usr/bin/x")] {
            assert_eq!(host.read(path).unwrap().unwrap(), leads_to.as_bytes(), "{path}");
        }
        assert_eq!(host.entry("/lib").unwrap().unwrap().kind, EntryKind::Link("usr/lib".into()));
        assert_eq!(host.list("/lib").unwrap(), ["x"]);
        assert!(host.read("/lib64/x").unwrap().is_none() && host.read("/lib/../sbin/x").unwrap().is_some());
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
    fn the_temporary_file_of_a_killed_write_is_removed() {
        let (directory, host) = Host::temporary();
        std::fs::write(directory.path().join(".titus-bootstrap-a1B2c3"), "half").unwrap();
        std::fs::write(directory.path().join("other"), "kept").unwrap();
        host.sweep(["/file"].into_iter()).unwrap();
        assert_eq!(host.list("/").unwrap(), ["other"]);
    }
}
