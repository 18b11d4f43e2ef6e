//! apt's lists for the time of a run: the system's own are not touched before every refusal is behind us.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::apt::complaint::{self, Refused};
use crate::host::apt::{SOURCE_PARTS, parse_policy, sources};
use crate::host::command::{Output, Patience};
use crate::host::{Host, fs::Owner};

/// Below it each file of apt's lies where it will lie in the system, so that a message without it names that place.
const PRIVATE: &str = "/var/cache/titus-bootstrap/apt";

const SOURCES_LIST: &str = "/etc/apt/sources.list";
const LISTS: &str = "/var/lib/apt/lists";

/// For a question that reads files at most.
const QUESTION: Duration = Duration::from_secs(120);

/// A file of sources of packages as it will be in /etc/apt.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Where the file will be.
    pub path: String,
    /// Its text.
    pub text: String,
    /// The keyring that the text names; none: a file of others.
    pub keyring: Option<Keyring>,
}

/// A keyring as it will be in /etc/apt.
#[derive(Debug, Clone, PartialEq)]
pub struct Keyring {
    /// Where it will be.
    pub path: String,
    /// The key, binary.
    pub key: Vec<u8>,
}

/// The option by which apt takes our lists.
pub(super) fn option() -> String {
    format!("Dir::State::lists={PRIVATE}{LISTS}")
}

/// The options by which apt takes our lists and our sources.
pub(super) fn options() -> Vec<String> {
    let options = [
        format!("Dir::Etc::SourceList={PRIVATE}{SOURCES_LIST}"),
        format!("Dir::Etc::SourceParts={PRIVATE}{SOURCE_PARTS}"),
        option(),
        // Without caches in /var/cache/apt, which are the system's.
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
    ];
    options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// What apt said, about the system's files instead of ours.
pub(super) fn as_installed(output: Result<Output>) -> Result<Output> {
    let place = |text: String| text.replace(PRIVATE, "");
    match output {
        Ok(Output { command, status, stdout, both }) => {
            Ok(Output { command, status, stdout: place(stdout), both: place(both) })
        }
        Err(error) => Err(Error { cause: error.cause.map(place), ..error }),
    }
}

impl Host {
    /// Whether there are lists of our own.
    pub(super) fn has_lists(&self) -> Result<bool> {
        Ok(self.entry(PRIVATE)?.is_some())
    }

    /// Updates lists of our own, as if `sources` stood in /etc/apt already, and asks them for
    /// the versions of these packages. Changes nothing of the system's. What apt said of lists that
    /// it could not have is returned.
    ///
    /// # Errors
    /// 69 when apt cannot read its sources. When apt cannot be run.
    pub fn look_up_candidates(&self, sources: &[Source], names: &[&str]) -> Result<Option<Refused>> {
        self.remove_tree(PRIVATE)?;
        let place = |path: &str| format!("{PRIVATE}{path}");
        for directory in [LISTS.to_owned(), format!("{LISTS}/partial")] {
            self.make_directory(&place(&directory), 0o755, Owner::ROOT)?;
        }
        // Sources may hold credentials; only root's apt-get reads them.
        self.make_directory(&place(SOURCE_PARTS), 0o700, Owner::ROOT)?;
        let mut files = self.other_sources()?;
        for source in sources {
            let mut text = source.text.clone();
            if let Some(keyring) = &source.keyring {
                self.write(&place(&keyring.path), &keyring.key, 0o644, Owner::ROOT)?;
                text = text.replace(&keyring.path, &place(&keyring.path));
            }
            files.insert(source.path.clone(), text.into());
        }
        for (path, text) in files {
            self.write(&place(&path), &text, 0o600, Owner::ROOT)?;
        }
        let options = options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        tracing::info!("updating apt's lists");
        let argv = [&["apt-get"], &options[..], &["-o", "Acquire::Retries=3", "--quiet", "update"]].concat();
        let updated = self.with_package_lock(|| {
            let environment = self.package_environment();
            as_installed(self.run_command(&argv, &environment, Patience::Ends, self.deadlines.download))
        })?;
        refuse_unreadable(&updated)?;
        if !names.is_empty() {
            let argv = [&["apt-cache"], &options[..], &["policy", "--"], names].concat();
            let policy = || as_installed(self.run_command(&argv, &[], Patience::Ends, QUESTION));
            let policy = self.with_package_lock(policy)?;
            refuse_unreadable(&policy)?;
            *self.packages.candidates.borrow_mut() = parse_policy(&policy.succeeded()?.stdout);
        }
        Ok(complaint::refused(&updated))
    }

    /// Refuses sources that apt cannot read; then it works for no package at all. apt asks no network and takes no lock
    /// for it.
    ///
    /// # Errors
    /// 69 with apt's line. When apt cannot be run.
    pub fn refuse_unreadable_sources(&self) -> Result<()> {
        refuse_unreadable(&self.run_command(&["apt-get", "indextargets"], &[], Patience::Ends, QUESTION)?)
    }

    /// Files that apt reads its sources from and that are not ours: path and contents, in the order in which it does.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn other_sources(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.list(SOURCE_PARTS)?.into_iter();
        let read = names.filter(|name| sources::is_read(name) && !name.starts_with(super::OUR_SOURCES));
        let mut found = BTreeMap::new();
        for path in [SOURCES_LIST.to_owned()].into_iter().chain(read.map(|name| format!("{SOURCE_PARTS}/{name}"))) {
            if self.entry(&path)?.is_some() && !self.is_directory(&path)? {
                found.insert(path.clone(), self.read(&path)?.unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Removes what [`Host::look_up_candidates`] left. Cheap when there is nothing.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn forget_candidates(&self) -> Result<()> {
        self.packages.candidates.borrow_mut().clear();
        self.remove_tree(PRIVATE)
    }
}

fn refuse_unreadable(output: &Output) -> Result<()> {
    let lines = complaint::unreadable(&output.both);
    if output.status.success() || lines.is_empty() {
        return Ok(());
    }
    Err(Error::unavailable("apt cannot read its sources or its configuration, and so works for no package at all")
        .cause(crate::secrets::masked(&lines.join("\n")))
        .fix("correct what that line names, until `apt-get indextargets` and `apt-cache policy` end without an error"))
}
