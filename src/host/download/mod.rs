//! Downloads into the cache: begun in the background, and joined by the step that needs one.

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

/// Why a download cannot be had.
#[derive(Debug, Clone)]
pub enum Failure {
    /// All came, and it is not what was asked for: its own SHA-256, and how many bytes it has.
    Checksum(String, u64),
    /// It is larger than [`LIMIT`].
    TooLarge,
    /// The server does not give it, and another try would not help; in words, and the fix where that is known.
    Refused(String, Option<&'static str>),
    /// It did not come in time; the last answer.
    Late(String),
    /// It could not be written.
    Disk(Error),
}

/// All downloads of a run, by the SHA-256 that they must have.
#[derive(Debug, Default)]
pub(crate) struct Downloads(RefCell<BTreeMap<String, Arc<Download>>>);

/// Ends with the SHA-256 of what came.
pub(super) type Download = Background<Result<String, Failure>>;

impl Host {
    /// Begins to download on a thread of its own what has this SHA-256.
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

    /// Waits until the cache has what has this SHA-256, and tells of it meanwhile; begun now if it was not.
    ///
    /// # Errors
    /// Outside: a signal. Inside: why it cannot be had.
    pub fn join_download(&self, url: &str, sha256: &str) -> Result<Result<(), Failure>> {
        self.begin_download(url, sha256);
        let Some(download) = self.downloads.0.borrow().get(sha256).cloned() else {
            return Err(Error::failed("a download was lost"));
        };
        let outcome = self.await_download(url, &download)?;
        // Another run of this step begins anew.
        self.downloads.0.borrow_mut().remove(sha256);
        Ok(outcome.map(drop))
    }

    /// Downloads, keeps nothing, and tells the SHA-256 of what came.
    ///
    /// # Errors
    /// As [`Host::join_download`].
    pub fn sum_of_download(&self, url: &str) -> Result<Result<String, Failure>> {
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
    /// As a step's error. `shown`: the address without secrets; `setting` names it.
    pub fn error(&self, shown: &str, setting: &str, deadline: Duration) -> Error {
        match self {
            Failure::Checksum(is, bytes) => Error::failed(format!("{shown} is not what its sha256 names"))
                .cause(format!("{bytes} bytes came, and their sha256 is {is}; nothing was installed"))
                .fix(format!("if that file is to be trusted, set sha256 = \"{is}\" in {setting}; else see why it changed")),
            Failure::TooLarge => Error::failed(format!("{shown} is larger than {} MiB", LIMIT >> 20))
                .fix(format!("check the address: the setting {setting}")),
            Failure::Refused(answer, fix) => {
                let fix = fix.map_or_else(
                    || format!("check the address (the setting {setting}) and the way there (settings proxy.*)"),
                    str::to_owned,
                );
                Error::failed(format!("{shown} cannot be downloaded")).cause(answer).fix(fix)
            }
            Failure::Late(answer) => Error::failed(format!(
                "{shown} could not be downloaded within {}",
                humantime::format_duration(deadline)
            ))
            .cause(answer)
            .fix("see whether this node reaches that server (settings proxy.*), and run titus-bootstrap again: it goes on where it stopped; the setting timeouts.download gives it longer"),
            Failure::Disk(error) => error.clone(),
        }
    }
}
