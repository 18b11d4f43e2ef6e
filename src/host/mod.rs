//! The only door to the machine.
//!
//! A [`Host`] owns a root directory, and every path that the program touches is
//! resolved below it. `/` is the live machine; anything else is a tree that is
//! written and looked at, in which no package, unit or container is run. Only a test
//! has a live machine in a directory, with commands and a systemd of its own.

pub mod apt;
pub mod command;
pub mod docker;
pub mod download;
pub mod failpoint;
pub mod fs;
pub mod image;
pub mod interfaces;
pub mod json;
pub mod lock;
pub mod net;
pub mod ports;
pub mod signals;
pub mod systemd;
pub mod trust;
pub mod wait;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The machine, or a directory that stands in for one.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    live: bool,
    /// Where commands are looked up, as in the variable PATH.
    commands: OsString,
    /// Who answers for systemd.
    systemd: Box<dyn systemd::Systemd>,
    /// How long each sort of waiting may take.
    pub deadlines: Deadlines,
    /// For downloads and apt; settings `proxy.*`.
    pub proxy: net::Proxy,
    /// What a run may change of what others did with apt; settings `apt.*`.
    pub apt: apt::Permissions,
    /// Where the Docker Engine's API is; setting `docker.host`.
    pub docker: String,
    /// Where credentials of registries come from; setting `docker.auth`.
    pub registry_credentials: Option<docker::auth::Source>,
    /// Whether the progress of a pull or download is drawn on standard error, which is a terminal then.
    pub bar: bool,
    /// The Docker Engine, once it has answered.
    pub(crate) engine: OnceCell<docker::Engine>,
    /// Images that are being pulled.
    pub(crate) pulls: docker::pull::Pulls,
    /// Debs that are being downloaded.
    pub(crate) downloads: download::Downloads,
    /// Directories that containers write, as the role's steps say: see `fs::door`.
    pub(crate) shared: RefCell<Vec<String>>,
    /// What this process wrote, by its path: the SHA-256 of the contents.
    pub(crate) written: RefCell<BTreeMap<String, Vec<u8>>>,
    /// The state of units, asked once for all.
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
    /// How long a unit that a run started must have stayed up before the run ends.
    pub settle: Duration,
}

/// What can be brought in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// An image, once the Docker Engine answers.
    Image(String),
    /// A deb, into the cache.
    Deb {
        /// Where it is.
        url: String,
        /// What it must have, in lower case.
        sha256: String,
    },
}

impl Deadlines {
    /// The same for all that is waited for; units need not stay up.
    pub fn all(limit: Duration) -> Deadlines {
        Deadlines { apt_lock: limit, download: limit, pull: limit, unit: limit, wait: limit, settle: Duration::ZERO }
    }
}

/// Directories that are made on the way are 0755, whatever umask the caller has.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

impl Host {
    /// The machine that this process runs on.
    pub fn live(deadlines: Deadlines) -> Host {
        Host { live: true, ..Host::below(PathBuf::from("/"), deadlines) }
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

    /// A live machine for a test: its files lie below `root`, its commands in the directory `commands` and nowhere
    /// else, and `systemd` answers for its units.
    ///
    /// # Errors
    /// As [`Host::tree`].
    pub fn simulated(root: &Path, commands: &Path, systemd: Box<dyn systemd::Systemd>) -> Result<Host> {
        let host = Host::tree(root, Deadlines::all(Duration::from_secs(60)))?;
        Ok(Host { live: true, commands: commands.into(), systemd, ..host })
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
            live: false,
            commands: command::DIRECTORIES.into(),
            systemd: Box::new(systemd::systemctl::Systemctl::default()),
            deadlines,
            proxy: net::Proxy::default(),
            apt: apt::Permissions::default(),
            docker: docker::DEFAULT_ADDRESS.into(),
            registry_credentials: None,
            bar: false,
            engine: OnceCell::new(),
            pulls: docker::pull::Pulls::default(),
            downloads: download::Downloads::default(),
            shared: RefCell::default(),
            written: RefCell::default(),
            units: systemd::Units::default(),
            packages: apt::Packages::default(),
        }
    }

    /// Whether packages, units, containers and waits are real.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the root is this machine's own: then its users are the node's, and others' directories are dangerous.
    fn is_own_root(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The directory below which every path is resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Begins to bring these on threads of their own, and removes from the cache what is none of them.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn begin_fetches(&self, fetches: &[Fetch]) -> Result<()> {
        let (mut images, mut debs) = (Vec::new(), Vec::new());
        for fetch in fetches {
            match fetch {
                Fetch::Image(name) => images.push(name.clone()),
                Fetch::Deb { url, sha256 } => debs.push((url, sha256.as_str())),
            }
        }
        self.begin_pulls(&images);
        self.sweep_cache(&debs.iter().map(|(_, sha256)| *sha256).collect::<Vec<_>>())?;
        debs.into_iter().for_each(|(url, sha256)| self.begin_download(url, sha256));
        Ok(())
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
