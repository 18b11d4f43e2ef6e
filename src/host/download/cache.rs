//! The program's cache of debs for apt. Each file is named by its SHA-256, so that it cannot be confused with another,
//! and removed after its installation.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::host::failpoint::failpoint;
use crate::host::fs::look::EntryKind;
use crate::host::fs::{TEMPORARY, io_error, sync_directory};
use crate::host::{Host, is_sha256};

/// The directory of the cache.
pub const CACHE: &str = "/var/cache/titus-bootstrap";

/// The size limit of a deb, bytes. Those of Titus have about 100 MiB.
pub const LIMIT: u64 = 2 << 30;

const CHUNK: usize = 64 << 10;

/// The path of a deb in the cache. apt recognizes the path of a file by its ending.
pub fn cached_path(sha256: &str) -> String {
    format!("{CACHE}/{sha256}.deb")
}

/// Size in bytes, and times in nanoseconds since 1970: a difference shows that a file was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    inode: u64,
}

impl Stamp {
    fn from_metadata(found: &std::fs::Metadata) -> Stamp {
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        Stamp {
            size: found.len(),
            modified_ns: ns(found.mtime(), found.mtime_nsec()),
            changed_ns: ns(found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
        }
    }
}

/// The paths of a partial download, and of the complete and checked file.
pub(super) struct Target {
    /// The expected SHA-256.
    pub sha256: String,
    pub part: PathBuf,
    pub whole: PathBuf,
}

impl Target {
    /// Whether a killed run left the complete file. Removes any other file from its place.
    pub(super) fn is_whole(&self) -> std::io::Result<bool> {
        match std::fs::symlink_metadata(&self.whole) {
            Ok(found) if found.is_file() && Growing::open(&self.whole)?.checksum() == self.sha256 => Ok(true),
            Ok(_) => std::fs::remove_file(&self.whole).map(|()| false),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// A partial download, and the digest of the bytes that it has.
pub(super) struct Growing {
    /// `None` if the download is only digested and not kept.
    file: Option<File>,
    digest: Sha256,
    pub length: u64,
    /// Whether it consists of more than one answer.
    pub pieced: bool,
    /// The server's identifier of the version that the answers are parts of.
    pub validator: Option<String>,
}

impl Growing {
    /// A download of which only the digest is needed.
    pub(super) fn without_file() -> Growing {
        Growing { file: None, digest: Sha256::new(), length: 0, pieced: false, validator: None }
    }

    /// Opens what an earlier run left at `path`, or a new file.
    pub(super) fn open(path: &Path) -> std::io::Result<Growing> {
        // A link is replaced, not followed.
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            std::fs::remove_file(path)?;
        }
        failpoint();
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        let mut growing = Growing::without_file();
        copy(&mut file, &mut growing.digest, &mut std::io::sink()).map(|length| growing.length = length)?;
        growing.pieced = growing.length > 0;
        growing.file = Some(file);
        if growing.length > LIMIT {
            growing.restart()?;
        }
        Ok(growing)
    }

    pub(super) fn add(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        failpoint();
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Discards all bytes.
    pub(super) fn restart(&mut self) -> std::io::Result<()> {
        if let Some(file) = &mut self.file {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
        }
        *self = Growing { file: self.file.take(), ..Growing::without_file() };
        Ok(())
    }

    pub(super) fn checksum(&self) -> String {
        crate::host::hex(&self.digest.clone().finalize())
    }

    /// Gives the complete and checked file its final name.
    pub(super) fn finish(&mut self, target: &Target) -> std::io::Result<()> {
        if let Some(file) = self.file.take() {
            file.sync_all()?;
            failpoint();
            std::fs::rename(&target.part, &target.whole)?;
            failpoint();
            sync_directory(target.whole.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(())
    }
}

/// Copies and digests a file, and returns the number of bytes. Stops soon after [`LIMIT`].
fn copy(from: &mut impl Read, digest: &mut Sha256, to: &mut impl Write) -> std::io::Result<u64> {
    let (mut buffer, mut length) = (vec![0; CHUNK], 0);
    while length <= LIMIT {
        let bytes = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        to.write_all(bytes)?;
        digest.update(bytes);
        length += bytes.len() as u64;
    }
    Ok(length)
}

impl Host {
    /// The stamp of the file that `path` leads to; `None` if it does not exist.
    ///
    /// # Errors
    /// Fails when the file cannot be examined.
    pub fn stamp(&self, path: &str) -> Result<Option<Stamp>> {
        Ok(self.open_deb(path)?.map(|(_, stamp)| stamp))
    }

    /// The SHA-256 and the stamp of the file that `path` leads to; `None` if it does not exist.
    ///
    /// # Errors
    /// Fails when the file is not a regular file, cannot be read, or is larger than [`LIMIT`].
    pub fn checksum_of_file(&self, path: &str) -> Result<Option<(String, Stamp)>> {
        let Some((mut file, stamp)) = self.open_deb(path)? else { return Ok(None) };
        let mut digest = Sha256::new();
        copy(&mut file, &mut digest, &mut std::io::sink()).map_err(|e| io_error("read", path, &e))?;
        Ok(Some((crate::host::hex(&digest.finalize()), stamp)))
    }

    /// Copies a file of the node into the cache, so that a later change of the file does not affect what is checked and
    /// installed. The copy's path is `cached_path(SHA-256)`.
    ///
    /// # Errors
    /// Fails when [`Host::checksum_of_file`] fails, or when the copy cannot be written.
    pub fn copy_to_cache(&self, path: &str) -> Result<Option<(String, Stamp)>> {
        let Some((mut file, stamp)) = self.open_deb(path)? else { return Ok(None) };
        let copy_place = self.place(&cached_path("copy"))?;
        let parent = copy_place.real.parent().unwrap_or(Path::new("/"));
        let mut copied = || -> std::io::Result<String> {
            failpoint();
            let mut copied = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(parent)?;
            let mut digest = Sha256::new();
            let length = copy(&mut file, &mut digest, &mut copied)?;
            failpoint();
            if length != stamp.size {
                return Err(std::io::Error::other(format!("{path} changed while it was copied")));
            }
            copied.as_file().sync_all()?;
            let sha256 = crate::host::hex(&digest.finalize());
            failpoint();
            copied.persist(parent.join(format!("{sha256}.deb"))).map_err(|e| e.error)?;
            failpoint();
            sync_directory(parent)?;
            Ok(sha256)
        };
        let sha256 = copied().map_err(|e| io_error("filled with a copy", CACHE, &e))?;
        Ok(Some((sha256, stamp)))
    }

    fn open_deb(&self, path: &str) -> Result<Option<(File, Stamp)>> {
        let opened = self.open_file(path).map_err(|e| match e.kind() {
            ErrorKind::IsADirectory | ErrorKind::Other => {
                Error::config(format!("{path} is not a regular file")).cause(e)
            }
            _ => io_error("read", path, &e),
        });
        let Some(file) = opened? else { return Ok(None) };
        let found = file.metadata().map_err(|e| io_error("read", path, &e))?;
        if found.len() > LIMIT {
            return Err(Error::config(format!("{path} is larger than {} MiB", LIMIT >> 20)));
        }
        Ok(Some((file, Stamp::from_metadata(&found))))
    }

    /// The target of a download with this SHA-256.
    pub(super) fn place_in_cache(&self, sha256: &str) -> Result<Target> {
        let part = self.place(&format!("{CACHE}/{sha256}.part"))?.real;
        Ok(Target { sha256: sha256.to_owned(), part, whole: self.place(&cached_path(sha256))?.real })
    }

    /// Removes all debs from the cache, complete or partial, except those with these SHA-256.
    ///
    /// # Errors
    /// Fails when a file cannot be removed.
    pub fn sweep_cache(&self, keep: &[&str]) -> Result<()> {
        for name in self.list(CACHE)? {
            let sha256 = name.strip_suffix(".deb").or_else(|| name.strip_suffix(".part"));
            let ours = sha256.filter(|sha256| is_sha256(sha256));
            let path = format!("{CACHE}/{name}");
            if ours.is_some_and(|sha256| !keep.contains(&sha256))
                && self.entry(&path)?.is_some_and(|entry| entry.kind != EntryKind::Directory)
            {
                self.remove(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Owner;

    #[test]
    fn a_copy_is_named_by_its_checksum() {
        let (directory, host) = Host::temporary();
        host.write("/real.deb", b"deb", 0o644, Owner::ROOT).unwrap();
        host.link("/x.deb", "real.deb").unwrap();
        let (sha256, stamp) = host.copy_to_cache("/x.deb").unwrap().unwrap();
        assert_eq!(Some((sha256.clone(), stamp)), host.checksum_of_file("/real.deb").unwrap());
        assert_eq!(host.read(&cached_path(&sha256)).unwrap().unwrap(), b"deb");
        assert_eq!(host.entry(&cached_path(&sha256)).unwrap().unwrap().mode, 0o600);
        assert_eq!(host.copy_to_cache("/nowhere.deb").unwrap(), None);
        nix::unistd::mkfifo(&directory.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(host.copy_to_cache("/pipe").unwrap_err().what.contains("not a regular file"));
        let large = std::fs::File::create(directory.path().join("large")).unwrap();
        large.set_len(LIMIT + 1).unwrap();
        assert!(host.checksum_of_file("/large").unwrap_err().what.contains("larger than 2048 MiB"));
    }

    #[test]
    fn a_sweep_removes_only_our_debs_that_are_not_needed() {
        let (directory, host) = Host::temporary();
        let (old, wanted) = ("a".repeat(64), "b".repeat(64));
        host.write("/precious", b"kept", 0o644, Owner::ROOT).unwrap();
        for name in [format!("{old}.deb"), format!("{wanted}.part"), "other.deb".into()] {
            host.write(&format!("{CACHE}/{name}"), b"x", 0o600, Owner::ROOT).unwrap();
        }
        host.link(&format!("{CACHE}/{old}.part"), "/precious").unwrap();
        host.make_directory(&format!("{CACHE}/apt"), 0o755, Owner::ROOT).unwrap();
        host.sweep_cache(&[&wanted]).unwrap();
        assert_eq!(host.list(CACHE).unwrap(), ["apt", &format!("{wanted}.part"), "other.deb"]);
        assert!(directory.path().join("precious").exists());
    }
}
