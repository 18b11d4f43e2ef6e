//! Looking at what is below the root: links are followed there and nowhere else.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::{io_error, sync_directory};

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
    /// Last change of contents or inode, nanoseconds since 1970.
    pub changed_ns: i128,
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
    /// Resolves links in `path` below the root, in the last place too if `follow`.
    /// `Ok(None)`: a directory on the way is not there. `make`: it is made.
    pub(in crate::host) fn resolve(&self, path: &str, follow: bool, make: bool) -> std::io::Result<Option<PathBuf>> {
        let mut left: VecDeque<OsString> = components(Path::new(path));
        let mut real = self.root().to_path_buf();
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                if real != self.root() {
                    real.pop();
                }
                continue;
            }
            let last = left.is_empty();
            real.push(&part);
            if last && !follow {
                break;
            }
            match std::fs::symlink_metadata(&real) {
                Ok(found) if found.is_symlink() => {
                    links += 1;
                    if links > 40 {
                        return Err(std::io::Error::other("too many symbolic links"));
                    }
                    let target = std::fs::read_link(&real)?;
                    real.pop();
                    if target.is_absolute() {
                        real = self.root().to_path_buf();
                    }
                    let mut parts = components(&target);
                    parts.append(&mut left);
                    left = parts;
                }
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::NotFound && last => {}
                Err(e) if e.kind() == ErrorKind::NotFound && make => {
                    std::fs::DirBuilder::new().mode(0o755).create(&real)?;
                    sync_directory(real.parent().unwrap_or(self.root()))?;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Ok(Some(real))
    }

    /// Whether `path` leads to a directory, links followed below the root.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        let real = self.resolve(path, true, false).map_err(|e| io_error("looked at", path, &e))?;
        Ok(real.is_some_and(|real| real.is_dir()))
    }

    /// What stands at `path`, or `None`.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn entry(&self, path: &str) -> Result<Option<Entry>> {
        let look = || -> std::io::Result<Option<Entry>> {
            let Some(real) = self.resolve(path, false, false)? else { return Ok(None) };
            let found = match std::fs::symlink_metadata(&real) {
                Ok(found) => found,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
                Err(e) => return Err(e),
            };
            let kind = if found.is_symlink() {
                EntryKind::Link(std::fs::read_link(&real)?)
            } else if found.is_dir() {
                EntryKind::Directory
            } else if found.is_file() {
                EntryKind::File
            } else {
                EntryKind::Other
            };
            Ok(Some(Entry {
                kind,
                mode: found.mode() & 0o7777,
                uid: found.uid(),
                gid: found.gid(),
                size: found.size(),
                inode: found.ino(),
                changed_ns: i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec()),
            }))
        };
        look().map_err(|e| io_error("looked at", path, &e))
    }

    /// The contents at `path`, links followed below the root; `None` if nothing is there.
    ///
    /// # Errors
    /// When it is there and cannot be read, or is larger than 64 MiB.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let read = || -> std::io::Result<Option<Vec<u8>>> {
            let Some(real) = self.resolve(path, true, false)? else { return Ok(None) };
            let file = match std::fs::File::open(&real) {
                Ok(file) => file,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
                Err(e) => return Err(e),
            };
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
            let Some(real) = self.resolve(path, true, false)? else { return Ok(Vec::new()) };
            let found = match std::fs::read_dir(&real) {
                Ok(found) => found,
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
                Err(e) => return Err(e),
            };
            let mut names = Vec::new();
            for entry in found {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort();
            Ok(names)
        };
        list().map_err(|e| io_error("listed", path, &e))
    }

    /// Bytes of the file system of `path`, or of its nearest parent that exists.
    ///
    /// # Errors
    /// When the file system cannot be asked.
    pub fn file_system_bytes(&self, path: &str) -> Result<u64> {
        let mut real = self.root().to_path_buf();
        real.extend(components(Path::new(path)));
        while !real.exists() && real.pop() {}
        let found = nix::sys::statvfs::statvfs(&real)
            .map_err(|e| Error::failed(format!("{path}: its file system cannot be asked")).cause(e))?;
        Ok(found.blocks() * found.fragment_size())
    }
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}
