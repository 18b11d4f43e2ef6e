//! The only door to the machine.
//!
//! A [`Host`] owns a root directory and resolves every path below it. `/` is the live machine. Any other directory is a
//! tree: the program reads and writes files there, but installs no package and runs no unit or container. Only a test
//! has a live machine in a directory, with its own commands and its own systemd.

pub mod apt;
pub mod archive;
pub mod command;
pub mod docker;
pub mod download;
pub mod failpoint;
pub mod fs;
pub mod image;
pub mod interfaces;
pub mod journald;
pub mod json;
pub mod lock;
pub mod net;
pub mod no_proxy;
pub mod ports;
pub mod signals;
pub mod systemd;
pub mod trust;
pub mod wait;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The machine, or a directory that replaces one.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    /// The open directory `root`; set when the first path below it is resolved.
    opened: OnceCell<OwnedFd>,
    /// The directories at the root that are links into /usr; set when the first path below it is read.
    merged: OnceCell<Vec<OsString>>,
    live: bool,
    /// The directories that have the commands, in the form of the variable PATH.
    commands: OsString,
    /// The connection to systemd.
    systemd: Box<dyn systemd::Systemd>,
    /// How long each kind of wait may take.
    pub deadlines: Deadlines,
    /// For downloads and apt; settings `proxy.*`.
    pub proxy: net::Proxy,
    /// The changes that a run may make to apt sources and packages of others; settings `apt.*`.
    pub apt: apt::Permissions,
    /// The address of the Docker Engine's API; setting `docker.host`.
    pub docker: String,
    /// The source of credentials for registries; setting `docker.auth`.
    pub registry_credentials: Option<docker::auth::CredentialSource>,
    /// The Docker Engine, once it has answered.
    pub(crate) engine: OnceCell<docker::Engine>,
    /// The pulls of images in progress.
    pub(crate) pulls: docker::pull::Pulls,
    /// The downloads of debs in progress.
    pub(crate) downloads: download::Downloads,
    /// Directories that containers write to, as the role's steps declare them: see `fs::door`.
    pub(crate) shared: RefCell<Vec<String>>,
    /// The files that this process wrote: the SHA-256 of the contents, by path.
    pub(crate) written: RefCell<BTreeMap<String, Vec<u8>>>,
    /// The state of units, read for all of them at once.
    pub(crate) units: systemd::Units,
    /// The state of packages according to dpkg, read for all of them at once.
    pub(crate) packages: apt::Packages,
}

/// How long steps may wait; settings `timeouts.*`. By default they do not wait.
#[derive(Debug, Clone, Default)]
pub struct Deadlines {
    /// For another process to release the lock of apt or dpkg.
    pub apt_lock: Duration,
    /// For one download, also one by apt.
    pub download: Duration,
    /// For the pull of one image, all tries together.
    pub pull: Duration,
    /// For one unit to start or stop.
    pub unit: Duration,
    /// For a port or an address to answer.
    pub wait: Duration,
    /// How long a unit that a run started must stay up before the run ends.
    pub settle: Duration,
    /// How long after a boot AWS may be late to provide what an instance needs.
    pub launch: Duration,
}

/// Something that a run fetches in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetch {
    /// An image, pulled as soon as the Docker Engine answers.
    Image(String),
    /// A deb, downloaded into the cache.
    Deb {
        /// Its address.
        url: String,
        /// Its expected SHA-256, in lower case.
        sha256: String,
    },
}

impl Deadlines {
    /// The same limit for every wait; units need not stay up.
    pub fn all(limit: Duration) -> Deadlines {
        let (settle, launch) = (Duration::ZERO, Duration::ZERO);
        Deadlines { apt_lock: limit, download: limit, pull: limit, unit: limit, wait: limit, settle, launch }
    }
}

/// Makes the mode of parent directories 0755, independent of the caller's umask.
pub fn set_umask() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

impl Host {
    /// The machine that this process runs on.
    pub fn live(deadlines: Deadlines) -> Host {
        Host { live: true, ..Host::below(PathBuf::from("/"), deadlines) }
    }

    /// A tree below `root`; creates the directory if it does not exist.
    ///
    /// # Errors
    /// Fails when the directory cannot be created, or is `/` itself.
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

    /// An empty tree that exists as long as the returned directory.
    ///
    /// # Errors
    /// Fails when the directory cannot be created.
    pub fn empty_tree(deadlines: Deadlines) -> Result<(tempfile::TempDir, Host)> {
        let made = tempfile::Builder::new().prefix("titus-bootstrap-empty-").tempdir();
        let directory = made.map_err(|e| Error::failed("a temporary directory cannot be made").cause(e))?;
        let host = Host::tree(directory.path(), deadlines)?;
        Ok((directory, host))
    }

    /// A live machine for a test: its files are below `root`, all its commands are in the directory `commands`, and
    /// `systemd` answers questions about its units.
    ///
    /// # Errors
    /// Fails when [`Host::tree`] fails.
    pub fn simulated(root: &Path, commands: &Path, systemd: Box<dyn systemd::Systemd>) -> Result<Host> {
        let host = Host::tree(root, Deadlines::all(Duration::from_secs(60)))?;
        Ok(Host { live: true, commands: commands.into(), systemd, ..host })
    }

    /// An empty tree for a test; it exists as long as the returned directory.
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
            opened: OnceCell::new(),
            merged: OnceCell::new(),
            live: false,
            commands: command::DIRECTORIES.into(),
            systemd: Box::new(systemd::pid1::Pid1::default()),
            deadlines,
            proxy: net::Proxy::default(),
            apt: apt::Permissions::default(),
            docker: docker::DEFAULT_ADDRESS.into(),
            registry_credentials: None,
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

    /// Whether the root is this machine's own. Then its users are the node's users, and directories that other users
    /// own are dangerous.
    fn is_own_root(&self) -> bool {
        self.root == Path::new("/")
    }

    /// How long the machine has run (proc(5)); `None` if /proc does not say.
    pub fn uptime(&self) -> Option<Duration> {
        let text = self.read_text("/proc/uptime").ok().flatten()?;
        Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
    }

    /// Whether the machine booted so recently that AWS may still be late to provide what an instance needs.
    pub fn is_young(&self) -> bool {
        self.uptime().is_some_and(|uptime| uptime < self.deadlines.launch)
    }

    /// The directory below which every path is resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts to fetch these on separate threads, and removes everything else from the cache.
    ///
    /// # Errors
    /// Fails when the cache cannot be cleaned.
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

    /// Whether this process may change the owner of files.
    pub fn may_chown(&self) -> bool {
        nix::unistd::geteuid().is_root()
    }

    /// Architecture and kernel release, from uname(2).
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

/// Whether a text is a digest with this number of hexadecimal digits.
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
