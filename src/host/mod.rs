//! The only door to the machine.
//!
//! A [`Host`] owns a root directory, and every path that the program touches is
//! resolved below it. `/` is the live machine; anything else is a tree that is
//! written and looked at, in which no package, unit or container is run.

pub mod apt;
pub mod command;
pub mod docker;
pub mod download;
pub mod failpoint;
pub mod fs;
pub mod image;
pub mod interfaces;
pub mod lock;
pub mod net;
pub mod ports;
pub mod signals;
pub mod systemd;
pub mod wait;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The machine, or a directory that stands in for one.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// How long each sort of waiting may take.
    pub deadlines: Deadlines,
    /// For downloads and apt; settings `proxy.*`.
    pub proxy: net::Proxy,
    /// Where the Docker Engine's API is; setting `docker.host`.
    pub docker: String,
    /// Whether the progress of a pull or download is drawn on standard error, which is a terminal then.
    pub bar: bool,
    /// The Docker Engine, once it has answered.
    pub(crate) engine: OnceCell<docker::Engine>,
    /// Images that are being pulled.
    pub(crate) pulls: docker::pull::Pulls,
    /// Debs that are being downloaded.
    pub(crate) downloads: download::Downloads,
    /// What systemd said of the units, asked once for all.
    pub(crate) units: systemd::Units,
    /// What dpkg said of the packages, asked once for all.
    pub(crate) packages: apt::Packages,
}

/// Deadlines of what a step may wait for; settings `timeouts.*`. By default nothing is waited for.
#[derive(Debug, Clone, Default)]
pub struct Deadlines {
    /// For another process's apt or dpkg lock.
    pub apt_lock: Duration,
    /// For one download, and for apt's.
    pub download: Duration,
    /// For one image to be pulled, all tries together.
    pub pull: Duration,
    /// For one unit's start or stop.
    pub unit: Duration,
    /// For a port or an address to answer.
    pub wait: Duration,
}

/// Directories that are made on the way are 0755, whatever umask the caller has.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

impl Host {
    /// The machine that this process runs on.
    pub fn live(deadlines: Deadlines) -> Host {
        Host::below(PathBuf::from("/"), deadlines)
    }

    /// A tree below `root`, made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made, or is `/` itself.
    pub fn tree(root: &Path, deadlines: Deadlines) -> Result<Host> {
        let refuse =
            |cause: std::io::Error| Error::config(format!("--root {}: cannot be used", root.display())).cause(cause);
        std::fs::create_dir_all(root).map_err(refuse)?;
        let root = root.canonicalize().map_err(refuse)?;
        if root == Path::new("/") {
            return Err(Error::config("--root /: that is the live machine")
                .fix("leave --root out to run on it, or name another directory"));
        }
        Ok(Host::below(root, deadlines))
    }

    /// An empty tree for a test, as long as the directory lives.
    #[cfg(test)]
    #[allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]
    pub(crate) fn temporary() -> (tempfile::TempDir, Host) {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Deadlines::default()).unwrap();
        (directory, host)
    }

    fn below(root: PathBuf, deadlines: Deadlines) -> Host {
        Host {
            root,
            deadlines,
            proxy: net::Proxy::default(),
            docker: docker::DEFAULT_ADDRESS.into(),
            bar: false,
            engine: OnceCell::new(),
            pulls: docker::pull::Pulls::default(),
            downloads: download::Downloads::default(),
            units: systemd::Units::default(),
            packages: apt::Packages::default(),
        }
    }

    /// Whether this is the running machine: packages, units and waits are real.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory below which every path is resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this process may give files away.
    pub fn may_chown(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// Architecture and kernel release, as uname(2) says them.
    pub fn uname(&self) -> (String, String) {
        nix::sys::utsname::uname().map_or_else(
            |_| (std::env::consts::ARCH.into(), String::new()),
            |name| (name.machine().to_string_lossy().into(), name.release().to_string_lossy().into()),
        )
    }

    /// Processors that this process may use.
    pub fn cpus(&self) -> u32 {
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
    }
}

/// Whether a text is a digest of so many hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a text is a SHA-256.
pub(crate) fn is_sha256(text: &str) -> bool {
    is_hex(text, 64)
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
