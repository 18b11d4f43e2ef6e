//! Downloads into the cache: a run starts them in the background, and the step that needs one joins it.

pub(super) mod background;
pub mod cache;
mod transfer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::download::background::Background;
use crate::host::download::cache::LIMIT;
use crate::host::download::transfer::Transfer;

/// Why a download failed.
#[derive(Debug, Clone)]
pub enum Failure {
    /// The complete file has another checksum: its SHA-256 and its size in bytes.
    Checksum(String, u64),
    /// The file is larger than [`LIMIT`].
    TooLarge,
    /// The server refuses the download, and another try would not help: the answer, and the fix if known.
    Refused(String, Option<&'static str>),
    /// The download did not finish in time: the last answer.
    Late(String),
    /// The file could not be written.
    Disk(Error),
}

/// All downloads of a run, by their expected SHA-256.
#[derive(Debug, Default)]
pub(crate) struct Downloads(RefCell<BTreeMap<String, Arc<Download>>>);

/// A download in the background; its outcome is the SHA-256 of the file.
pub(super) type Download = Background<Result<String, Failure>>;

impl Host {
    /// Starts the download of the file with this SHA-256 on a separate thread.
    pub fn begin_download(&self, url: &str, sha256: &str) {
        let mut downloads = self.downloads.0.borrow_mut();
        if downloads.contains_key(sha256) {
            return;
        }
        let download = Arc::<Download>::default();
        downloads.insert(sha256.to_owned(), Arc::clone(&download));
        match self.place_in_cache(sha256) {
            Ok(target) => Transfer::new(self, url, Some(target)).spawn(download),
            Err(error) => download.end(Err(Failure::Disk(error))),
        }
    }

    /// Waits until the cache has the file with this SHA-256, and reports the progress. Starts the download if
    /// necessary.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives, the inner one when the download fails.
    pub fn join_download(&self, url: &str, sha256: &str) -> Result<Result<(), Failure>> {
        self.begin_download(url, sha256);
        let Some(download) = self.downloads.0.borrow().get(sha256).cloned() else {
            return Err(Error::failed("a download was lost"));
        };
        let outcome = self.await_download(url, &download)?;
        // If the step runs again, it starts a new download.
        self.downloads.0.borrow_mut().remove(sha256);
        Ok(outcome.map(drop))
    }

    /// Downloads a file without keeping it, and returns its SHA-256.
    ///
    /// # Errors
    /// Fails when [`Host::join_download`] fails.
    pub fn checksum_of_download(&self, url: &str) -> Result<Result<String, Failure>> {
        let download = Arc::<Download>::default();
        Transfer::new(self, url, None).spawn(Arc::clone(&download));
        self.await_download(url, &download)
    }

    fn await_download(&self, url: &str, download: &Download) -> Result<Result<String, Failure>> {
        let joined = self.join(download, "download", &crate::secrets::masked(url), self.deadlines.download)?;
        Ok(joined.unwrap_or_else(|| Err(Failure::Late("it hangs".into()))))
    }
}

impl Failure {
    /// The error of a step with this failure. `shown` is the address without secrets, and `setting` the name of its
    /// setting.
    pub fn error(&self, shown: &str, setting: &str, deadline: Duration) -> Error {
        match self {
            Failure::Checksum(is, bytes) => Error::failed(format!("{shown} does not match its sha256"))
                .cause(format!("{bytes} bytes arrived, and their sha256 is {is}; nothing was installed"))
                .fix(format!("if you trust that file, set sha256 = \"{is}\" in {setting}; otherwise find out why it changed")),
            Failure::TooLarge => Error::failed(format!("{shown} is larger than {} MiB", LIMIT >> 20))
                .fix(format!("check the address: the setting {setting}")),
            Failure::Refused(answer, fix) => {
                let fix = fix.map_or_else(
                    || format!("check the address (the setting {setting}) and the route there (settings proxy.*)"),
                    str::to_owned,
                );
                Error::failed(format!("{shown} cannot be downloaded")).cause(answer).fix(fix)
            }
            Failure::Late(answer) => Error::failed(format!(
                "{shown} could not be downloaded within {}",
                humantime::format_duration(deadline)
            ))
            .cause(answer)
            .fix("see whether this node reaches that server (settings proxy.*), and run titus-bootstrap again: it continues where it stopped; the setting timeouts.download allows more time"),
            Failure::Disk(error) => error.clone(),
        }
    }
}
