//! Reads files and directories below the root, and follows links only there.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::door::{self, Walk};
use crate::host::fs::io_error;
use crate::host::image::clear::entries;

/// The size limit of a file, bytes. To read a larger one is an error.
const READ_LIMIT: u64 = 64 << 20;

/// A file, directory or link at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its kind.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The size of a regular file, bytes.
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

/// The kinds of entries.
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
    /// Whether `path` leads to a directory. Follows links below the root.
    ///
    /// # Errors
    /// Fails when the path cannot be examined.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        let status = || self.walk(path, Walk::Follow)?.map_or(Ok(None), |place| place.status());
        let found = status().or_else(absent).map_err(|e| io_error("examined", path, &e))?;
        Ok(found.is_some_and(|found| door::kind(&found) == SFlag::S_IFDIR))
    }

    /// The entry at `path`, if there is one. Does not follow a link in the last component.
    ///
    /// # Errors
    /// Fails when the path cannot be examined.
    pub fn entry(&self, path: &str) -> Result<Option<Entry>> {
        let read = || -> std::io::Result<Option<Entry>> {
            let Some(place) = self.walk(path, Walk::Stay)? else { return Ok(None) };
            let Some(found) = place.status()? else { return Ok(None) };
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
        read().or_else(absent).map_err(|e| io_error("examined", path, &e))
    }

    /// Opens the regular file to which `path` leads, if it exists.
    ///
    /// # Errors
    /// Fails when the path does not lead to a regular file, or the file cannot be opened.
    pub(in crate::host) fn open_file(&self, path: &str) -> std::io::Result<Option<std::fs::File>> {
        let open = || self.walk(path, Walk::Follow)?.map(|place| place.open_file(OFlag::O_RDONLY, 0)).transpose();
        open().or_else(absent)
    }

    /// The contents of the regular file at `path`; `None` if it does not exist. Follows links below the root, see
    /// [`door`].
    ///
    /// # Errors
    /// Fails when the path does not lead to a regular file, or the file cannot be read or is larger than 64 MiB.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let read = || -> std::io::Result<Option<Vec<u8>>> {
            let Some(file) = self.open_file(path)? else { return Ok(None) };
            // Most files fit, and the second read finds their end.
            let mut bytes = Vec::with_capacity(4096);
            file.take(READ_LIMIT + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > READ_LIMIT {
                return Err(std::io::Error::other("larger than 64 MiB"));
            }
            Ok(Some(bytes))
        };
        read().map_err(|e| io_error("read", path, &e))
    }

    /// Like [`Host::read`], as text; replaces bytes that are not UTF-8.
    ///
    /// # Errors
    /// Fails when [`Host::read`] fails.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The sorted names in a directory; empty if the directory does not exist.
    ///
    /// # Errors
    /// Fails when the directory exists and cannot be listed.
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

    /// The size in bytes of the file system of `path`, or of its nearest parent that exists.
    ///
    /// # Errors
    /// Fails when the size cannot be read.
    pub fn file_system_bytes(&self, path: &str) -> Result<u64> {
        let read = || -> std::io::Result<u64> {
            let mut nearest = Path::new(path);
            loop {
                let place = self.walk(&nearest.to_string_lossy(), Walk::Follow).or_else(absent)?;
                if let Some(place) = place
                    && place.status()?.is_some()
                {
                    let found = nix::sys::statvfs::fstatvfs(&place.open(OFlag::O_PATH, 0)?)?;
                    return Ok(found.blocks() * found.fragment_size());
                }
                nearest = nearest.parent().ok_or(ErrorKind::NotFound)?;
            }
        };
        read().map_err(|e| Error::failed(format!("{path}: the size of its file system cannot be read")).cause(e))
    }
}

/// The default value if the error means that nothing exists at the path.
fn absent<T: Default>(error: std::io::Error) -> std::io::Result<T> {
    if door::is_absent(&error) { Ok(T::default()) } else { Err(error) }
}
