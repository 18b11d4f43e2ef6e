//! What we installed from debs, a file a package. dpkg knows a package's version, not from which file
//! it came; a record holds as long as dpkg has that version, and those contents.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::apt::Status;
use crate::host::apt::dpkg::is_package_name;
use crate::host::download::cache::Stamp;
use crate::host::fs::Owner;

/// Where they lie.
const RECORDS: &str = "/var/lib/titus-bootstrap/debs";

/// What we installed, and from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub package: String,
    pub version: String,
    pub architecture: String,
    /// Of the deb.
    pub sha256: String,
    /// A digest of what dpkg has of it.
    pub contents: Option<String>,
    /// The file of the node that it came from.
    pub file: Option<File>,
}

/// A file of the node as it was then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct File {
    pub path: String,
    pub stamp: Stamp,
}

/// The place of a package's record.
pub(super) fn path(package: &str) -> String {
    format!("{RECORDS}/{package}")
}

/// Packages that we installed from debs.
///
/// # Errors
/// When they cannot be listed.
pub fn packages(host: &Host) -> Result<Vec<String>> {
    Ok(host.list(RECORDS)?.into_iter().filter(|name| is_package_name(name)).collect())
}

/// All records. One that cannot be read proves nothing, and is as good as none.
pub(super) fn records(host: &Host) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    for package in packages(host)? {
        let record = host.read(&path(&package))?.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        found.extend(record.filter(|record| record.package == package));
    }
    Ok(found)
}

impl Record {
    /// Whether dpkg has it still, and nobody put another build in its place.
    pub(super) fn holds(&self, host: &Host) -> Result<bool> {
        let is = host.package(&self.package)?;
        Ok(is.is_some_and(|is| is.status == Status::Installed && is.version == self.version)
            && host.installed_contents(&self.package, &self.architecture)? == self.contents)
    }

    pub(super) fn write(&self, host: &Host) -> Result<()> {
        // A path names one package: the one that was in its file before is none of it any more.
        let of = |record: &Record| record.file.as_ref().map(|file| file.path.clone());
        for other in records(host)?.iter().filter(|other| other.package != self.package) {
            if of(other).is_some() && of(other) == of(self) {
                host.remove(&path(&other.package))?;
            }
        }
        let text = serde_json::to_vec(self).map_err(|e| Error::failed("a record cannot be written").cause(e))?;
        host.write(&path(&self.package), &text, 0o644, Owner::ROOT)
    }
}
