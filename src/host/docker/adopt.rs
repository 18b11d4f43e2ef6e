//! Copies data from a container that the program did not create to a directory of the host.

use std::ffi::{CStr, CString};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::docker::Engine;
use crate::host::failpoint::failpoint;
use crate::host::fs::{Owner, io_error};
use crate::host::image::clear::entries;

/// Names the container that the directory's data come from, until that container is gone. A copy that
/// was interrupted, or is older than its container, is made again.
const MARK: &str = ".titus-bootstrap-adopted";

/// The directory for unpacking, inside the target, which may be a file system of its own.
const UNPACKED: &str = ".titus-bootstrap-adopting";

/// Names that are neither data nor in the way.
const OF_FILE_SYSTEMS: &str = "lost+found";

/// The time limit of a copy: gigabytes at the speed of a slow disk.
const COPY: Duration = Duration::from_secs(60 * 60);

impl Host {
    /// Checks that data can be copied to `to`: it contains only what a run copied from this container.
    ///
    /// # Errors
    /// Fails when the directory contains other data.
    pub fn refuse_other_data(&self, container: &str, to: &str) -> Result<()> {
        let marked = self.read_text(&format!("{to}/{MARK}"))?.is_some_and(|id| id.trim() == container);
        let other = |name: &String| ![MARK, UNPACKED, OF_FILE_SYSTEMS].contains(&name.as_str());
        let names: Vec<String> = self.list(to)?.into_iter().filter(other).collect();
        if marked || names.is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(format!("{to} already contains data, and the container to be replaced has its own"))
            .cause(format!("it contains {}", names.join(", ")))
            .fix(format!(
                "decide which to keep: to use the container's data, move {to} away; to use these, remove the container"
            )))
    }

    /// Checks that the directory to copy is not a link: a container may have replaced it with one, which
    /// would lead anywhere on the host after unpacking.
    ///
    /// # Errors
    /// Fails when it is a link.
    pub fn refuse_link(&self, container: &str, from: &str) -> Result<()> {
        // The code that needs the engine reports that it does not answer.
        let Ok(engine) = self.engine()? else { return Ok(()) };
        match engine.link_at(container, from) {
            Some(target) => Err(Error::unavailable(format!("{from} in the container to be replaced is a symbolic link"))
                .cause(format!("it leads to {target}, and links in a container are not followed"))
                .fix(format!(
                    "examine it (docker cp {container}:{from}/. ./data), move its data to where the role binds them, and remove the container"
                ))),
            None => Ok(()),
        }
    }

    /// Copies the directory `from` of a stopped container to `to`, replacing an earlier copy
    /// from the same container. Succeeds if the container lacks the directory.
    ///
    /// # Errors
    /// Fails when the target contains other data, or when the copy fails.
    pub fn copy_out(&self, engine: &Engine, container: &str, from: &str, to: &str) -> Result<()> {
        self.refuse_other_data(container, to)?;
        let failed = |e: std::io::Error| io_error("filled from a container", to, &e);
        // Nobody else may be able to replace files while root unpacks them.
        let unpacked = self.place(&format!("{to}/{UNPACKED}"))?;
        let into = unpacked
            .remove_all()
            .and_then(|()| unpacked.make_directory(0o700))
            .and_then(|()| unpacked.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0))
            .map_err(failed)?;
        failpoint();
        if !self.unpack(engine, container, from, into.try_clone().map_err(failed)?.into())? {
            return unpacked.remove_all().map_err(failed);
        }
        self.write(&format!("{to}/{MARK}"), container.as_bytes(), 0o600, Owner::ROOT)?;
        failpoint();
        let move_in = || -> std::io::Result<()> {
            let is_ours = |name: &str| [MARK, UNPACKED, OF_FILE_SYSTEMS].contains(&name);
            for name in self.list(to).map_err(std::io::Error::other)?.iter().filter(|name| !is_ours(name)) {
                self.place(&format!("{to}/{name}")).map_err(std::io::Error::other)?.remove_all()?;
            }
            for (name, _) in entries(into.try_clone()?.into())? {
                renameat(&into, name.as_c_str(), unpacked.directory(), name.as_c_str())?;
                failpoint();
            }
            unpacked.remove_all()?;
            nix::unistd::syncfs(&into)?;
            Ok(())
        };
        move_in().map_err(failed)
    }

    /// Marks the data in `to` as the host's own.
    ///
    /// # Errors
    /// Fails when the mark cannot be removed.
    pub fn own_copy(&self, to: &str) -> Result<()> {
        self.remove(&format!("{to}/{MARK}"))
    }

    /// Unpacks the archive. Returns whether there was anything to unpack.
    fn unpack(&self, engine: &Engine, container: &str, from: &str, into: OwnedFd) -> Result<bool> {
        let (mut reader, mut writer) = std::io::pipe().map_err(|e| Error::failed("cannot create a pipe").cause(e))?;
        let chown = self.may_chown();
        let (copied, unpacked) = std::thread::scope(|scope| {
            let unpacking = scope.spawn(move || {
                let done = unpack(&mut reader, &into, chown);
                // Read past the archive's end too, or its writer would wait forever.
                let _ = std::io::copy(&mut reader, &mut std::io::sink());
                done
            });
            let copied = engine.archive(container, from, COPY, &mut writer);
            drop(writer);
            (copied, unpacking.join())
        });
        match copied {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => return Err(error),
        }
        match unpacked {
            Ok(Ok(())) => Ok(true),
            Ok(Err(e)) => Err(Error::failed(format!("cannot unpack {from} of a container")).cause(e)),
            Err(_) => Err(Error::failed("cannot read the archive of a container's data")),
        }
    }
}

/// Unpacks a directory from a container, without its own name, into an open directory. Walks each name of the archive
/// by descriptors, follows no link from the archive or elsewhere, skips devices and pipes, and
/// clears the bits that give a program its owner's rights.
fn unpack(archive: &mut impl Read, into: &OwnedFd, chown: bool) -> std::io::Result<()> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        let Some((parent, name)) = place(into, &path)? else {
            // The directory itself: the container must not determine its mode.
            if kind.is_dir() {
                continue;
            }
            return Err(std::io::Error::other(format!("{} is not a directory or is a link", path.display())));
        };
        let (mode, name) = (entry.header().mode()? & 0o777, name.as_c_str());
        let id = |id: u64| u32::try_from(id).map_err(std::io::Error::other);
        let (uid, gid) = (id(entry.header().uid()?)?, id(entry.header().gid()?)?);
        let attribute = |made: &File| -> std::io::Result<()> {
            if chown {
                std::os::unix::fs::fchown(made, Some(uid), Some(gid))?;
            }
            made.set_permissions(Permissions::from_mode(mode))
        };
        if kind.is_dir() {
            attribute(&File::from(directory(&parent, name)?))?;
        } else if kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse() {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(&parent, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
            std::io::copy(&mut entry, &mut file)?;
            attribute(&file)?;
            let time = i64::try_from(entry.header().mtime()?).map_err(std::io::Error::other)?;
            futimens(&file, &TimeSpec::new(time, 0), &TimeSpec::new(time, 0))?;
        } else if kind.is_symlink() {
            let target = entry.link_name()?.ok_or(ErrorKind::InvalidData)?;
            symlinkat(target.as_ref(), &parent, name)?;
            if chown {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            }
        } else if kind.is_hard_link() {
            let target = entry.link_name()?.ok_or(ErrorKind::InvalidData)?.into_owned();
            let (other, other_name) = place(into, &target)?.ok_or(ErrorKind::InvalidData)?;
            linkat(&other, other_name.as_c_str(), &parent, name, AtFlags::empty())?;
        } else {
            tracing::warn!("{} of the container is a device or a pipe, so it is not copied", path.display());
        }
    }
    Ok(())
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Opens a directory in another one, and creates it if necessary.
fn directory(parent: &OwnedFd, name: &CStr) -> nix::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => openat(parent, name, DIRECTORY, Mode::empty()),
        Err(error) => Err(error),
    }
}

/// The directory below `into`, and the name in it, for a path in the archive; `None` for the archive's root directory.
fn place(into: &OwnedFd, path: &Path) -> std::io::Result<Option<(OwnedFd, CString)>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => parts.push(CString::new(part.as_bytes())?),
            Component::CurDir => {}
            _ => return Err(std::io::Error::other(format!("{}: leads out of its directory", path.display()))),
        }
    }
    let [_, parents @ .., name] = parts.as_slice() else { return Ok(None) };
    let mut at = into.try_clone()?;
    for part in parents {
        at = directory(&at, part)?;
    }
    Ok(Some((at, name.clone())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// An archive with entries of these kinds, paths, contents and targets.
    fn archive(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_uid(u64::from(nix::unistd::geteuid().as_raw()));
            header.set_gid(u64::from(nix::unistd::getegid().as_raw()));
            header.set_mtime(1_500_000_000);
            // Set the fields by hand: the builder refuses what an attacker would write.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            let contents = if kind.is_file() { text.as_bytes() } else { b"" };
            if kind.is_symlink() || kind.is_hard_link() {
                header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
            }
            header.set_size(contents.len() as u64);
            header.set_cksum();
            builder.append(&header, contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(entries: &[(tar::EntryType, &str, &str)]) -> (tempfile::TempDir, std::io::Result<()>) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("into")).unwrap();
        std::fs::write(directory.path().join("victim"), "precious").unwrap();
        let into = File::open(directory.path().join("into")).unwrap().into();
        let done = unpack(&mut archive(entries).as_slice(), &into, nix::unistd::geteuid().is_root());
        assert_eq!(std::fs::read(directory.path().join("victim")).unwrap(), b"precious");
        (directory, done)
    }

    #[test]
    fn data_are_unpacked_with_their_modes_and_without_the_bits_that_give_rights() {
        use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
        let (directory, done) = unpacked(&[
            (Directory, "master/", ""),
            (Directory, "master/a/", ""),
            (Regular, "master/a/file", "text"),
            (Link, "master/hard", "master/a/file"),
            (Symlink, "master/soft", "/etc/shadow"),
            (Fifo, "master/pipe", ""),
            (Char, "master/device", ""),
        ]);
        done.unwrap();
        let into = directory.path().join("into");
        assert_eq!(std::fs::read(into.join("hard")).unwrap(), b"text");
        let found = std::fs::metadata(into.join("a/file")).unwrap();
        assert_eq!((found.permissions().mode() & 0o7777, found.mtime()), (0o755, 1_500_000_000));
        assert_eq!(std::fs::read_link(into.join("soft")).unwrap(), Path::new("/etc/shadow"));
        assert!(!into.join("pipe").exists() && !into.join("device").exists());
    }

    #[test]
    fn nothing_is_unpacked_beside_its_directory() {
        use tar::EntryType::{Directory, Link, Regular, Symlink};
        for entries in [
            &[(Symlink, "master", "/etc")][..],
            &[(Regular, "master", "text")],
            &[(Regular, "master/../../victim", "text")],
            &[(Regular, "/victim", "text")],
            &[(Directory, "master/", ""), (Symlink, "master/out", "../.."), (Regular, "master/out/victim", "text")],
            &[(Directory, "master/", ""), (Symlink, "master/out", ".."), (Directory, "master/out/", "")],
            &[(Directory, "master/", ""), (Symlink, "master/file", "../victim"), (Regular, "master/file", "text")],
            &[(Directory, "master/", ""), (Link, "master/file", "../victim")],
            &[(Directory, "master/", ""), (Symlink, "master/out", "../.."), (Link, "master/f", "master/out/victim")],
        ] {
            let (_directory, done) = unpacked(entries);
            done.unwrap_err();
        }
    }
}
