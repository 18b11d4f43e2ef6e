//! The fields of a deb, and dpkg's data about installed packages.

use std::cmp::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::host::Host;
use crate::host::command::{Output, Patience};

/// The limit of a question that reads at most a file.
const QUESTION: Duration = Duration::from_secs(60);

/// The fields of a deb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deb {
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// dpkg's name of the architecture; `all` for any.
    pub architecture: String,
}

impl Host {
    /// Reads the fields of the deb at `path`.
    ///
    /// # Errors
    /// The outer result fails when dpkg-deb cannot be run. The inner one fails when the file is not a deb; the error is
    /// a message.
    pub fn deb(&self, path: &str) -> Result<Result<Deb, String>> {
        let real = self.root().join(path.trim_start_matches('/'));
        let argv = ["dpkg-deb", "--field", &real.to_string_lossy(), "Package", "Version", "Architecture"];
        let output = run(self, &argv)?;
        if !output.status.success() {
            return Ok(Err(output.both.trim().to_owned()));
        }
        Ok(parse(&output.stdout))
    }

    /// dpkg's name for the architecture of the node's packages.
    ///
    /// # Errors
    /// Fails when dpkg does not answer.
    pub fn package_architecture(&self) -> Result<String> {
        Ok(run(self, &["dpkg", "--print-architecture"])?.succeeded()?.stdout.trim().to_owned())
    }

    /// The packages that dpkg was unpacking when it was interrupted. Some of them have all their files and are
    /// `unpacked`, but dpkg does not configure them, because it had not removed its mark `reinstreq` yet.
    ///
    /// # Errors
    /// Fails when dpkg does not answer.
    pub(super) fn half_installed(&self) -> Result<Vec<String>> {
        let format = "--showformat=${db:Status-Status} ${db:Status-Eflag} ${binary:Package}\\n";
        let output = run(self, &["dpkg-query", "--show", format])?.succeeded()?;
        let packages = output.stdout.lines().filter_map(|line| {
            let (status, rest) = line.split_once(' ')?;
            let (mark, package) = rest.split_once(' ')?;
            (status == "half-installed" || mark == "reinstreq").then(|| package.to_owned())
        });
        Ok(packages.collect())
    }

    /// Compares two versions of a package (deb-version(7)).
    ///
    /// # Errors
    /// Fails when dpkg does not answer.
    pub fn compare_versions(&self, one: &str, other: &str) -> Result<Ordering> {
        if one == other {
            return Ok(Ordering::Equal);
        }
        for (relation, ordering) in [("lt", Ordering::Less), ("gt", Ordering::Greater)] {
            if run(self, &["dpkg", "--compare-versions", one, relation, other])?.status.success() {
                return Ok(ordering);
            }
        }
        Ok(Ordering::Equal)
    }

    /// A digest of dpkg's checksums for the files of an installed package, which differs for another build of the same
    /// version. `None` if dpkg has no checksums, e.g. for a package without files.
    ///
    /// # Errors
    /// Fails when the checksums cannot be read.
    pub fn installed_contents(&self, package: &str, architecture: &str) -> Result<Option<String>> {
        // A package that can be installed for several architectures has its architecture in the name.
        for name in [package.to_owned(), format!("{package}:{architecture}")] {
            if let Some(sums) = self.read(&format!("/var/lib/dpkg/info/{name}.md5sums"))? {
                return Ok(Some(crate::host::hex(&Sha256::digest(sums))));
            }
        }
        Ok(None)
    }
}

fn run(host: &Host, argv: &[&str]) -> Result<Output> {
    host.run_command(argv, &[], Patience::Ends, QUESTION)
}

/// Parses the fields. Accepts only the forms of Debian's policy (5.6.1, 5.6.12), because the values become parts of
/// paths and of root's command lines.
pub(crate) fn parse(text: &str) -> Result<Deb, String> {
    let field = |name: &str, first: fn(char) -> bool, also: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || also.contains(c);
        if value.starts_with(first) && value.len() <= 200 && value.chars().all(fits) {
            Ok(value.to_owned())
        } else {
            Err(format!("its field {name} is {:?}", value.chars().take(200).collect::<String>()))
        }
    };
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let package = field("Package", alphanumeric, "+-.")?;
    let version = field("Version", alphanumeric, "+-.~:")?;
    Ok(Deb { package, version, architecture: field("Architecture", alphanumeric, "-")? })
}

/// Whether a text can be a package's name.
pub fn is_package_name(name: &str) -> bool {
    parse(&format!("Package: {name}\nVersion: 1\nArchitecture: all")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_hostile_ones_refused() {
        let deb = parse("Package: titus-server-master\nVersion: 1:0.0.1-1~x\nArchitecture: all\n").unwrap();
        assert_eq!((deb.package.as_str(), deb.version.as_str()), ("titus-server-master", "1:0.0.1-1~x"));
        for package in ["", "../../etc/passwd", "a b", "-o", ".x", "a\u{fc}"] {
            assert!(parse(&format!("Package: {package}\nVersion: 1\nArchitecture: all\n")).is_err(), "{package}");
            assert!(!is_package_name(package), "{package}");
        }
        assert!(parse("Package: a\nVersion: $(x)\nArchitecture: all\n").is_err());
        assert!(parse("Package: a\nVersion: 1\n").is_err());
    }

    #[test]
    fn versions_are_compared_as_dpkg_does() {
        let host = Host::live(crate::host::Deadlines::default());
        for (one, ordering, other) in [
            ("0.0.1-1", Ordering::Less, "0.0.2-1"),
            ("1:0", Ordering::Greater, "2"),
            ("1.0", Ordering::Equal, "1.0-0"),
            ("1~rc1", Ordering::Less, "1"),
        ] {
            assert_eq!(host.compare_versions(one, other).unwrap(), ordering, "{one} {other}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,100}") {
            let _ = parse(&text);
            let _ = parse(&format!("Package: {text}\nVersion: {text}\nArchitecture: {text}"));
        }
    }
}
