//! Records of packages that the program installed from debs, one file each. dpkg knows a package's version, but not from which
//! file it came. A record is valid as long as dpkg has that version with those contents.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::apt::Status;
use crate::host::apt::dpkg::is_package_name;
use crate::host::download::cache::Stamp;
use crate::host::fs::Owner;

/// The directory of the records.
const RECORDS: &str = "/var/lib/titus-bootstrap/debs";

/// An installed package and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub package: String,
    pub version: String,
    pub architecture: String,
    /// The SHA-256 of the deb.
    pub sha256: String,
    /// A digest of dpkg's information about it.
    pub contents: Option<String>,
    /// The local file that it came from.
    pub file: Option<SourceFile>,
}

/// The state of a local file at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceFile {
    pub path: String,
    pub stamp: Stamp,
}

/// The path of a package's record.
pub(super) fn path(package: &str) -> String {
    format!("{RECORDS}/{package}")
}

/// The packages that the program installed from debs.
///
/// # Errors
/// Fails when the records cannot be listed.
pub fn packages(host: &Host) -> Result<Vec<String>> {
    Ok(host.list(RECORDS)?.into_iter().filter(|name| is_package_name(name)).collect())
}

/// All records. An unreadable record proves nothing and is skipped.
pub(super) fn records(host: &Host) -> Result<Vec<Record>> {
    let mut found = Vec::new();
    for package in packages(host)? {
        let record = host.read(&path(&package))?.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        found.extend(record.filter(|record| record.package == package));
    }
    Ok(found)
}

impl Record {
    /// Whether dpkg still has the package, and nobody installed another build.
    pub(super) fn holds(&self, host: &Host) -> Result<bool> {
        let is = host.package(&self.package)?;
        Ok(is.is_some_and(|is| is.status == Status::Installed && is.version == self.version)
            && host.installed_contents(&self.package, &self.architecture)? == self.contents)
    }

    pub(super) fn write(&self, host: &Host) -> Result<()> {
        // A path names one package: forget the package that came from this file before.
        let of = |record: &Record| record.file.as_ref().map(|file| file.path.clone());
        for other in records(host)?.iter().filter(|other| other.package != self.package) {
            if of(other).is_some() && of(other) == of(self) {
                host.remove(&path(&other.package))?;
            }
        }
        let text = serde_json::to_vec(self).map_err(|e| Error::failed("cannot format a record").cause(e))?;
        host.write(&path(&self.package), &text, 0o644, Owner::ROOT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_record_of_its_last_package_alone() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        std::fs::write(directory.path().join("deb"), "").unwrap();
        let stamp = host.stamp("/deb").unwrap().unwrap();
        let write = |package: &str, path: Option<&str>| {
            let file = path.map(|path| SourceFile { path: path.into(), stamp: stamp.clone() });
            let record = Record {
                package: package.into(),
                version: "1".into(),
                architecture: "all".into(),
                sha256: "0".repeat(64),
                contents: None,
                file,
            };
            record.write(&host).unwrap();
        };
        let names = || -> Vec<String> { records(&host).unwrap().into_iter().map(|record| record.package).collect() };
        for (package, path, expected) in [
            ("aa", Some("/x.deb"), &["aa"][..]),
            ("aa", Some("/x.deb"), &["aa"]),
            ("bb", Some("/y.deb"), &["aa", "bb"]),
            ("cc", None, &["aa", "bb", "cc"]),
            ("dd", None, &["aa", "bb", "cc", "dd"]),
            ("ee", Some("/x.deb"), &["bb", "cc", "dd", "ee"]),
        ] {
            write(package, path);
            assert_eq!(names(), expected);
        }
        // A file with another name than a package's, and half a record, do not count.
        host.write(&path(".hidden"), b"{}", 0o644, Owner::ROOT).unwrap();
        host.write(&path("aa"), b"half of a re", 0o644, Owner::ROOT).unwrap();
        assert_eq!(names(), ["bb", "cc", "dd", "ee"]);
        assert_eq!(packages(&host).unwrap(), ["aa", "bb", "cc", "dd", "ee"]);
    }
}
