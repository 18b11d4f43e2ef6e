//! A new archive that a person takes away from the node.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, Kind, Result};

/// Writes a tar.gz that only its owner may read, with these names and texts in one directory. Never replaces an
/// existing file or link at `path`.
///
/// # Errors
/// Fails with exit code 64 when `path` exists, and when the archive cannot be written; then no file is left behind.
pub fn write_archive(path: &Path, directory: &str, files: &[(String, String)]) -> Result<()> {
    let shown = path.display();
    // O_EXCL does not follow a link in the last component (open(2)).
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = made.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(Kind::Usage, format!("{shown} is already there"))
            .fix("name another file: titus-bootstrap report FILE"),
        _ => Error::failed(format!("{shown}: cannot be made"))
            .cause(error)
            .fix("name a file in a directory that you may write to: titus-bootstrap report FILE"),
    })?;
    fill(&file, directory, files).map_err(|error| {
        // An incomplete archive is useless.
        let _ = std::fs::remove_file(path);
        Error::failed(format!("{shown}: cannot be written")).cause(error).fix("make room there, or name another file")
    })
}

fn fill(file: &File, directory: &str, files: &[(String, String)]) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()?;
    file.sync_all()
}
