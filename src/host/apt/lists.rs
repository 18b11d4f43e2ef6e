//! Private lists of apt for a run, so that the run does not change the system's lists before it has checked everything.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::apt::complaint::{self, Refused};
use crate::host::apt::{SOURCE_PARTS, parse_policy, sources};
use crate::host::command::{Output, Patience, borrow_variables};
use crate::host::{Host, fs::Owner};

/// The directory of the private files. Each has the same path below it as in the system, so that a message without this
/// prefix shows the path in the system.
const PRIVATE: &str = "/var/cache/titus-bootstrap/apt";

const SOURCES_LIST: &str = "/etc/apt/sources.list";
const LISTS: &str = "/var/lib/apt/lists";

/// The limit of a question that reads at most files.
const QUESTION: Duration = Duration::from_secs(120);

/// A file with package sources, as it will be in /etc/apt.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// The path that the file will have.
    pub path: String,
    /// Its text.
    pub text: String,
    /// The keyring that the text names; `None` for a file that the program did not write.
    pub keyring: Option<Keyring>,
}

/// A keyring as it will be in /etc/apt.
#[derive(Debug, Clone, PartialEq)]
pub struct Keyring {
    /// The path that it will have.
    pub path: String,
    /// The key in binary form.
    pub key: Vec<u8>,
}

/// apt's option for the private lists.
pub(super) fn lists_option() -> String {
    format!("Dir::State::lists={PRIVATE}{LISTS}")
}

/// apt's options for the private lists and sources.
pub(super) fn private_options() -> Vec<String> {
    let options = [
        format!("Dir::Etc::SourceList={PRIVATE}{SOURCES_LIST}"),
        format!("Dir::Etc::SourceParts={PRIVATE}{SOURCE_PARTS}"),
        lists_option(),
        // Without the system's caches in /var/cache/apt.
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
    ];
    options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()
}

/// Replaces the private paths in apt's output with those of the system.
pub(super) fn with_system_paths(output: Result<Output>) -> Result<Output> {
    let replace = |text: String| text.replace(PRIVATE, "");
    match output {
        Ok(Output { command, status, stdout, both }) => {
            Ok(Output { command, status, stdout: replace(stdout), both: replace(both) })
        }
        Err(error) => Err(Error { cause: error.cause.map(replace), ..error }),
    }
}

impl Host {
    /// Whether there are private lists.
    pub(super) fn has_lists(&self) -> Result<bool> {
        Ok(self.entry(PRIVATE)?.is_some())
    }

    /// Updates the private lists as if `sources` were already in /etc/apt, and reads the versions of these packages
    /// from them. Does not change the system's lists. Returns apt's messages about lists that it could not update.
    ///
    /// # Errors
    /// Fails with exit code 69 when apt cannot read its sources, and when apt cannot be run.
    pub fn look_up_candidates(&self, sources: &[Source], names: &[&str]) -> Result<Option<Refused>> {
        self.remove_tree(PRIVATE)?;
        let place = |path: &str| format!("{PRIVATE}{path}");
        for directory in [LISTS.to_owned(), format!("{LISTS}/partial")] {
            self.make_directory(&place(&directory), 0o755, Owner::ROOT)?;
        }
        // Sources may contain credentials; only root's apt-get reads them.
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
        let options = private_options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        tracing::info!("updating apt's lists");
        let argv = [&["apt-get"], &options[..], &["-o", "Acquire::Retries=3", "--quiet", "update"]].concat();
        let updated = self.with_package_lock(|| {
            let environment = self.package_environment()?;
            with_system_paths(self.run_command(
                &argv,
                &borrow_variables(&environment),
                Patience::Ends,
                self.deadlines.download,
            ))
        })?;
        refuse_unreadable(&updated)?;
        if !names.is_empty() {
            let argv = [&["apt-cache"], &options[..], &["policy", "--"], names].concat();
            let policy = || with_system_paths(self.run_command(&argv, &[], Patience::Ends, QUESTION));
            let policy = self.with_package_lock(policy)?;
            refuse_unreadable(&policy)?;
            *self.packages.candidates.borrow_mut() = parse_policy(&policy.succeeded()?.stdout);
        }
        Ok(complaint::refused_lists(&updated))
    }

    /// Refuses sources that apt cannot read, because apt then works for no package at all. The check needs neither the
    /// network nor a lock.
    ///
    /// # Errors
    /// Fails with exit code 69 when apt cannot read its sources; the error has apt's message. Fails when apt cannot be
    /// run.
    pub fn refuse_unreadable_sources(&self) -> Result<()> {
        refuse_unreadable(&self.run_command(&["apt-get", "indextargets"], &[], Patience::Ends, QUESTION)?)
    }

    /// The paths and contents of apt's source files that the program did not write, in the order in which apt reads
    /// them.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
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

    /// All of apt's source files, and those of the private lists.
    ///
    /// # Errors
    /// Fails when a file cannot be read.
    pub(super) fn all_sources(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut found = self.other_sources()?;
        for directory in [SOURCE_PARTS.to_owned(), format!("{PRIVATE}{SOURCE_PARTS}")] {
            let ours = self.list(&directory)?.into_iter().filter(|name| name.starts_with(super::OUR_SOURCES));
            for path in ours.map(|name| format!("{directory}/{name}")) {
                found.insert(path.clone(), self.read(&path)?.unwrap_or_default());
            }
        }
        Ok(found)
    }

    /// Removes the files of [`Host::look_up_candidates`]. Cheap if they do not exist.
    ///
    /// # Errors
    /// Fails when a file cannot be removed.
    pub fn forget_candidates(&self) -> Result<()> {
        self.packages.candidates.borrow_mut().clear();
        self.remove_tree(PRIVATE)
    }
}

fn refuse_unreadable(output: &Output) -> Result<()> {
    let lines = complaint::unreadable_files(&output.both);
    if output.status.success() || lines.is_empty() {
        return Ok(());
    }
    Err(Error::unavailable("apt cannot read its sources or its configuration, and so works for no package at all")
        .cause(crate::secrets::masked(&lines.join("\n")))
        .fix("correct what that line names, until `apt-get indextargets` and `apt-cache policy` end without an error"))
}
