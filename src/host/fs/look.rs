//! Looking at what is below the root: links are followed there and nowhere else.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::door::{self, Walk};
use crate::host::fs::io_error;
use crate::host::image::clear::entries;

/// More than any file that is read here may have; a larger one is an error.
const READ_LIMIT: u64 = 64 << 20;

/// What stands at a path, its last link not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file.
    pub size: u64,
    /// Inode number.
    pub inode: u64,
    /// The device that it is on.
    pub device: u64,
    /// Last change of contents or inode, nanoseconds since 1970.
    pub changed_ns: i128,
    /// Last change of contents, nanoseconds since 1970.
    pub modified_ns: i128,
}

/// The sorts of things that can stand at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Link(PathBuf),
    /// A socket, device or pipe.
    Other,
}

impl Host {
    /// Whether `path` leads to a directory, links followed below the root.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        let look = || self.walk(path, Walk::Follow)?.map_or(Ok(None), |place| place.look());
        let found = look().or_else(absent).map_err(|e| io_error("looked at", path, &e))?;
        Ok(found.is_some_and(|found| door::kind(&found) == SFlag::S_IFDIR))
    }

    /// What stands at `path`, or `None`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn entry(&self, path: &str) -> Result<Option<Entry>> {
        let look = || -> std::io::Result<Option<Entry>> {
            let Some(place) = self.walk(path, Walk::Stay)? else { return Ok(None) };
            let Some(found) = place.look()? else { return Ok(None) };
            let kind = match door::kind(&found) {
                SFlag::S_IFLNK => EntryKind::Link(place.target()?),
                SFlag::S_IFDIR => EntryKind::Directory,
                SFlag::S_IFREG => EntryKind::File,
                _ => EntryKind::Other,
            };
            Ok(Some(Entry {
                kind,
                mode: found.st_mode & 0o7777,
                uid: found.st_uid,
                gid: found.st_gid,
                size: u64::try_from(found.st_size).unwrap_or_default(),
                inode: found.st_ino,
                device: found.st_dev,
                changed_ns: i128::from(found.st_ctime) * 1_000_000_000 + i128::from(found.st_ctime_nsec),
                modified_ns: i128::from(found.st_mtime) * 1_000_000_000 + i128::from(found.st_mtime_nsec),
            }))
        };
        look().or_else(absent).map_err(|e| io_error("looked at", path, &e))
    }

    /// Opens the regular file to which `path` leads; none: nothing is there.
    ///
    /// # Errors
    /// When something else is there, or the system refuses.
    pub(in crate::host) fn open_file(&self, path: &str) -> std::io::Result<Option<std::fs::File>> {
        let open = || self.walk(path, Walk::Follow)?.map(|place| place.open_file(OFlag::O_RDONLY, 0)).transpose();
        open().or_else(absent)
    }

    /// The contents of the regular file at `path`, links followed below the root as [`door`] says; `None` if nothing
    /// is there.
    ///
    /// # Errors
    /// When it is there and cannot be read, is something else, or is larger than 64 MiB.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let read = || -> std::io::Result<Option<Vec<u8>>> {
            let Some(file) = self.open_file(path)? else { return Ok(None) };
            let mut bytes = Vec::new();
            file.take(READ_LIMIT + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > READ_LIMIT {
                return Err(std::io::Error::other("larger than 64 MiB"));
            }
            Ok(Some(bytes))
        };
        read().map_err(|e| io_error("read", path, &e))
    }

    /// [`Host::read`] as text; bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`Host::read`].
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names in a directory, sorted; empty if it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be listed.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let list = || -> std::io::Result<Vec<String>> {
            let Some(place) = self.walk(path, Walk::Follow)? else { return Ok(Vec::new()) };
            let directory = place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
            let found = entries(directory.into())?;
            let mut names: Vec<_> = found.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            names.sort();
            Ok(names)
        };
        list().or_else(absent).map_err(|e| io_error("listed", path, &e))
    }

    /// Bytes of the file system of `path`, or of its nearest parent that exists.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn file_system_bytes(&self, path: &str) -> Result<u64> {
        let asked = || -> std::io::Result<u64> {
            let mut nearest = Path::new(path);
            loop {
                let place = self.walk(&nearest.to_string_lossy(), Walk::Follow).or_else(absent)?;
                if let Some(place) = place
                    && place.look()?.is_some()
                {
                    let found = nix::sys::statvfs::fstatvfs(&place.open(OFlag::O_PATH, 0)?)?;
                    return Ok(found.blocks() * found.fragment_size());
                }
                nearest = nearest.parent().ok_or(ErrorKind::NotFound)?;
            }
        };
        asked().map_err(|e| Error::failed(format!("{path}: its file system cannot be asked")).cause(e))
    }
}

/// Nothing, where the error says that nothing is there.
fn absent<T: Default>(error: std::io::Error) -> std::io::Result<T> {
    if door::is_absent(&error) { Ok(T::default()) } else { Err(error) }
}
