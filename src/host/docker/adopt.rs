//! Data that lie in a container of someone else's, copied to a directory of the host.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::docker::Engine;
use crate::host::failpoint::failpoint;
use crate::host::fs::{Owner, io_error};

/// Names the container whose data a directory has, until that container is gone: a copy that
/// was cut short, or that its container has outlived, is made anew.
const MARK: &str = ".titus-bootstrap-adopted";

/// Where a copy is unpacked, in the directory itself: it may be a file system of its own.
const UNPACKED: &str = ".titus-bootstrap-adopting";

/// Neither data nor in the way.
const OF_FILE_SYSTEMS: &str = "lost+found";

/// Gigabytes at the speed of a slow disk.
const COPY: Duration = Duration::from_secs(60 * 60);

impl Host {
    /// Whether data can be copied to `to`: nothing is in it but what a run copied from this container.
    ///
    /// # Errors
    /// When other data are there.
    pub fn refuse_other_data(&self, container: &str, to: &str) -> Result<()> {
        let marked = self.read_text(&format!("{to}/{MARK}"))?.is_some_and(|id| id.trim() == container);
        let other = |name: &String| ![MARK, UNPACKED, OF_FILE_SYSTEMS].contains(&name.as_str());
        let names: Vec<String> = self.list(to)?.into_iter().filter(other).collect();
        if marked || names.is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(format!("{to}: there are data already, and the container to be replaced has others"))
            .cause(format!("in it are {}", names.join(", ")))
            .fix(format!(
                "decide which to keep: move {to} away to take the container's, or remove the container to take these"
            )))
    }

    /// Copies the directory `from` of a stopped container to `to`, whatever was copied there before
    /// from the same one. One that the container lacks is no error.
    ///
    /// # Errors
    /// When other data are there, or the copy cannot be made.
    pub fn copy_out(&self, engine: &Engine, container: &str, from: &str, to: &str) -> Result<()> {
        self.refuse_other_data(container, to)?;
        let failed = |e: &std::io::Error| io_error("filled from a container", to, e);
        let real = self
            .resolve(to, true, false)
            .and_then(|found| found.ok_or_else(|| ErrorKind::NotFound.into()))
            .map_err(|e| failed(&e))?;
        // Others must not be able to swap what is unpacked as root.
        self.place(&format!("{to}/{MARK}"))?;
        let unpacked = real.join(UNPACKED);
        remove(&unpacked).and_then(|()| std::fs::create_dir(&unpacked)).map_err(|e| failed(&e))?;
        failpoint();
        if !self.unpack(engine, container, from, &unpacked)? {
            return remove(&unpacked).map_err(|e| failed(&e));
        }
        self.write(&format!("{to}/{MARK}"), container.as_bytes(), 0o600, Owner::ROOT)?;
        failpoint();
        let move_in = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&real)? {
                let entry = entry?;
                let name = entry.file_name();
                if ![MARK, UNPACKED, OF_FILE_SYSTEMS].iter().any(|kept| name == *kept) {
                    remove(&entry.path())?;
                }
            }
            let top = unpacked.join(Path::new(from).file_name().unwrap_or_default());
            for entry in std::fs::read_dir(top)? {
                let entry = entry?;
                std::fs::rename(entry.path(), real.join(entry.file_name()))?;
                failpoint();
            }
            remove(&unpacked)?;
            nix::unistd::syncfs(std::fs::File::open(&real)?)?;
            Ok(())
        };
        move_in().map_err(|e| failed(&e))
    }

    /// Says that the data of `to` are the host's own now.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn own_copy(&self, to: &str) -> Result<()> {
        self.remove(&format!("{to}/{MARK}"))
    }

    /// Whether there was something to unpack.
    fn unpack(&self, engine: &Engine, container: &str, from: &str, into: &PathBuf) -> Result<bool> {
        let (reader, mut writer) = std::io::pipe().map_err(|e| Error::failed("a pipe cannot be made").cause(e))?;
        let (copied, unpacked) = std::thread::scope(|scope| {
            let unpacking = scope.spawn(move || {
                let mut archive = tar::Archive::new(reader);
                archive.set_preserve_ownerships(nix::unistd::geteuid().is_root());
                // Never out of `into`, by whatever name or link.
                let done = archive.unpack(into);
                // What follows the archive's end is read too, or its writer would wait for ever.
                let _ = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
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
            Ok(Err(e)) => Err(io_error("unpacked", &into.display().to_string(), &e)),
            Err(_) => Err(Error::failed("the archive of a container's data cannot be read")),
        }
    }
}

/// Removes a file, a link or a whole directory; nothing there is well.
fn remove(path: &Path) -> std::io::Result<()> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
