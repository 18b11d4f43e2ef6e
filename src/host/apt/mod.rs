//! apt and dpkg. A run asks dpkg once about all packages, and apt only if one is missing. It never kills either.

pub mod complaint;
pub mod dpkg;
mod lists;
pub mod openpgp;
pub mod progress;
pub mod sources;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::apt::complaint::Complaints;
pub use crate::host::apt::lists::{Keyring, Source};
use crate::host::command::{self, Output, Patience};
use crate::host::fs::Owner;
use crate::host::wait::Deadline;
use crate::host::{Host, no_proxy};

/// The fcntl locks of dpkg and of apt's archive.
const LOCKS: [&str; 3] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/cache/apt/archives/lock"];

/// Options of apt-get to install an exact version.
const EXACT: [&str; 2] = ["--allow-downgrades", "--allow-change-held-packages"];

/// The pause between checks whether a lock is free.
const PAUSE: Duration = Duration::from_millis(200);

/// The directory with files of package sources.
pub const SOURCE_PARTS: &str = "/etc/apt/sources.list.d";
/// The configuration with hosts that apt contacts without the proxy; its variable `no_proxy` only matches the ends of
/// names.
const DIRECT: &str = "/run/titus-bootstrap/apt-direct.conf";
/// The prefix of the program's files in [`SOURCE_PARTS`]; it leaves other files alone.
pub const OUR_SOURCES: &str = "titus-bootstrap-";

/// The state of a package in dpkg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Completely installed.
    Installed,
    /// Not installed.
    NotInstalled,
    /// Removed, except its configuration files.
    ConfigFiles,
    /// Partly installed, e.g. `half-configured`.
    HalfDone(String),
}

/// A package in dpkg's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// Its state.
    pub status: Status,
    /// Whether it is on hold.
    pub held: bool,
}

/// Changes that a run may make to apt sources and packages of others. By default none.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Whether a run comments out its own repositories in other source files if their options differ there.
    pub take_over: bool,
    /// Packages that a run may remove if they conflict with one that it installs.
    pub may_remove: Vec<String>,
}

/// The packages that a run needs, and the known facts about them.
#[derive(Debug, Default)]
pub(crate) struct Packages {
    watched: RefCell<BTreeSet<String>>,
    query: RefCell<Option<command::Started>>,
    known: RefCell<Option<BTreeMap<String, Installed>>>,
    candidates: RefCell<BTreeMap<String, Policy>>,
    without: RefCell<BTreeSet<String>>,
    /// The packages that apt would remove to install others.
    removals: RefCell<BTreeMap<String, Vec<String>>>,
}

/// The versions of a package in apt's sources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The version that apt would install; `None` if e.g. a pin forbids all of them.
    pub candidate: Option<String>,
    /// All available versions.
    pub versions: Vec<String>,
}

impl Host {
    /// Names packages that the run will ask about, so that one question to dpkg covers all.
    pub fn watch_packages<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            self.watch_package(name);
        }
    }

    /// Adds a package; earlier answers of dpkg do not cover it.
    fn watch_package(&self, name: &str) {
        if self.packages.watched.borrow_mut().insert(name.to_owned()) {
            *self.packages.known.borrow_mut() = None;
            *self.packages.query.borrow_mut() = None;
        }
    }

    /// Whether this machine has apt and dpkg.
    ///
    /// # Errors
    /// Fails when a path cannot be examined.
    pub fn has_apt(&self) -> Result<bool> {
        Ok(self.entry("/usr/bin/apt-get")?.is_some() && self.entry("/usr/bin/dpkg")?.is_some())
    }

    /// dpkg's entry for a package. Asks once about all watched packages.
    ///
    /// # Errors
    /// Fails when dpkg does not answer.
    pub fn package(&self, name: &str) -> Result<Option<Installed>> {
        self.watch_package(name);
        if self.packages.known.borrow().is_none() {
            let query = self.packages.query.take();
            let output = query.map_or_else(|| self.start_query(), Ok)?.end()?;
            // Status 1: dpkg does not know some of the packages, which is a valid answer.
            if !matches!(output.status.code(), Some(0 | 1)) {
                return Err(output.error());
            }
            *self.packages.known.borrow_mut() = Some(parse_installed(&output.stdout));
        }
        Ok(self.packages.known.borrow().as_ref().and_then(|known| known.get(name)).cloned())
    }

    /// Starts to ask dpkg about all watched packages; [`Host::package`] fetches the answer.
    ///
    /// # Errors
    /// Fails when dpkg cannot be started.
    pub fn ask_for_packages(&self) -> Result<()> {
        if !self.packages.watched.borrow().is_empty() && self.has_apt()? {
            *self.packages.query.borrow_mut() = Some(self.start_query()?);
        }
        Ok(())
    }

    fn start_query(&self) -> Result<command::Started> {
        let watched = self.packages.watched.borrow();
        let mut argv = vec![
            "dpkg-query",
            "--show",
            "--showformat=${Package}\t${Version}\t${db:Status-Status}\t${db:Status-Want}\n",
            "--",
        ];
        argv.extend(watched.iter().map(String::as_str));
        self.start_command(&argv, &[], Duration::from_secs(60))
    }

    /// Marks optional packages that no source has: this run does not install them.
    pub fn go_without(&self, names: impl Iterator<Item = String>) {
        self.packages.without.borrow_mut().extend(names);
    }

    /// Whether this run does not install an optional package, because no source has it.
    pub fn goes_without(&self, name: &str) -> bool {
        self.packages.without.borrow().contains(name)
    }

    fn package_environment(&self) -> Result<Vec<(&str, String)>> {
        let mut environment =
            vec![("DEBIAN_FRONTEND", "noninteractive".to_owned()), ("NEEDRESTART_SUSPEND", "1".to_owned())];
        // Proxies may contain credentials, so they are in the environment and never in argv, which everyone can see.
        let proxies = [("http_proxy", &self.proxy.http), ("https_proxy", &self.proxy.https)];
        environment.extend(proxies.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        if self.proxy.http.is_some() || self.proxy.https.is_some() {
            let (hosts, ends) = no_proxy::for_apt(self.proxy.no_proxy.as_deref(), &self.places_of_sources()?);
            let line = |host: &String| {
                format!("Acquire::http::Proxy::{host} \"DIRECT\";\nAcquire::https::Proxy::{host} \"DIRECT\";\n")
            };
            let text: String = hosts.iter().map(line).collect();
            if self.read(DIRECT)?.as_deref() != Some(text.as_bytes()) {
                self.write(DIRECT, text.as_bytes(), 0o644, Owner::ROOT)?;
            }
            environment.extend([("APT_CONFIG", DIRECT.to_owned()), ("no_proxy", ends)]);
        }
        Ok(environment)
    }

    /// The hosts and ports of all package sources, including those of the private lists.
    fn places_of_sources(&self) -> Result<Vec<(String, u16)>> {
        let mut places = Vec::new();
        for (path, bytes) in self.all_sources()? {
            let text = String::from_utf8_lossy(&bytes);
            places.extend(sources::repositories(&path, &text).iter().filter_map(sources::Repository::host_and_port));
        }
        Ok(places)
    }

    /// The result of the last look-up for a package.
    pub fn policy(&self, name: &str) -> Policy {
        self.packages.candidates.borrow().get(name).cloned().unwrap_or_default()
    }

    /// Installs packages, each `name` or `name=version`, in one transaction.
    ///
    /// # Errors
    /// Fails when the lock is not free in time, or apt fails.
    pub fn install_packages(&self, wanted: &[String]) -> Result<()> {
        let exact = wanted.iter().any(|name| name.contains('='));
        let options: &[&str] = if exact { &EXACT } else { &[] };
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.install(options, &names, &names, None)?;
        let pinned: Vec<&str> = wanted.iter().filter_map(|name| Some(name.split_once('=')?.0)).collect();
        if pinned.is_empty() { Ok(()) } else { self.hold(&pinned) }
    }

    /// The packages that apt would remove to install these, each `name` or `name=version`; `None` if apt does not know
    /// or would not install one of them.
    ///
    /// # Errors
    /// Fails when apt cannot be run.
    pub fn would_remove(&self, wanted: &[&str]) -> Result<Option<Vec<String>>> {
        let key = wanted.join(" ");
        if let Some(known) = self.packages.removals.borrow().get(&key) {
            return Ok(Some(known.clone()));
        }
        let output = self.with_package_lock(|| self.simulate(&[], wanted))?;
        if !output.status.success() {
            return Ok(None);
        }
        let removals = complaint::removals(&output.stdout);
        self.packages.removals.borrow_mut().insert(key, removals.clone());
        Ok(Some(removals))
    }

    fn simulate(&self, more: &[&str], wanted: &[&str]) -> Result<Output> {
        let private = if self.has_lists()? { lists::private_options() } else { Vec::new() };
        let private: Vec<&str> = private.iter().map(String::as_str).collect();
        let options = ["--simulate", "--yes", "--quiet", "--no-install-recommends"];
        let exact: &[&str] = if wanted.iter().any(|name| name.contains('=')) { &EXACT } else { &[] };
        let argv = [&["apt-get"], &private[..], &options, exact, more, &["install", "--"], wanted].concat();
        lists::with_system_paths(self.run_command(&argv, &[], Patience::Ends, Duration::from_secs(120)))
    }

    /// The packages that the setting does not allow a run to remove.
    pub fn not_removable(&self, packages: &[String]) -> Vec<String> {
        packages.iter().filter(|name| !self.apt.may_remove.contains(name)).cloned().collect()
    }

    /// Installs the deb at `path`, which has this package, with its dependencies, over any installed version or build.
    /// Keeps an administrator's hold.
    ///
    /// # Errors
    /// Fails when the lock is not free in time, or apt fails.
    pub fn install_deb(&self, path: &str, package: &str) -> Result<(), NotInstalled> {
        let is = self.package(package)?;
        let half_done = is.as_ref().is_some_and(|is| matches!(is.status, Status::HalfDone(_)));
        let options = ["--reinstall", "--allow-downgrades", "--allow-change-held-packages"];
        self.install(&options, &[path], &[package], half_done.then_some(path))?;
        if is.is_some_and(|is| is.held) { Ok(self.hold(&[package])?) } else { Ok(()) }
    }

    fn hold(&self, packages: &[&str]) -> Result<()> {
        let hold = || self.package_command(&[&["apt-mark", "hold", "--"], packages].concat());
        self.with_package_lock(hold)?.succeeded().map(drop)
    }

    /// Runs `apt-get install` for `wanted`, names or paths, to install these packages. `half_done` is a deb whose
    /// package is only partly installed.
    fn install(
        &self,
        more: &[&str],
        wanted: &[&str],
        packages: &[&str],
        half_done: Option<&str>,
    ) -> Result<(), NotInstalled> {
        let lists = lists::lists_option();
        let mut options = vec!["apt-get"];
        // There are no private lists if no package was missing when the run checked; then apt uses the system's lists.
        if self.has_lists()? {
            options.extend(["-o", &lists]);
        }
        options.extend([
            "-o",
            "Acquire::Retries=3",
            "-o",
            "DPkg::Lock::Timeout=5",
            "-o",
            "Dpkg::Options::=--force-confdef",
            "-o",
            "Dpkg::Options::=--force-confold",
            "--yes",
            "--quiet",
            "--no-install-recommends",
        ]);
        // A run never removes a conflicting package that the operator installed, unless a setting allows it.
        let removed = if self.apt.may_remove.is_empty() {
            Vec::new()
        } else {
            complaint::removals(&self.with_package_lock(|| self.simulate(more, wanted))?.stdout)
        };
        if removed.is_empty() || !self.not_removable(&removed).is_empty() {
            options.push("--no-remove");
        } else {
            tracing::info!("apt removes {} (setting apt.may_remove)", removed.join(" "));
        }
        let argv = [&options[..], more, &["install", "--"], wanted].concat();
        let output = self.with_package_lock(|| self.try_to_install(&options, &argv, half_done))?;
        if output.status.success() {
            return Ok(());
        }
        let Complaints { unmet, removal, .. } = Complaints::find(&output.both);
        if removal {
            let removed = complaint::to_be_removed(&output.both);
            return Err(NotInstalled { unmet, error: conflict(ErrorKind::Failed, wanted, &removed) });
        }
        let others = self.others_that_failed(&output.both, packages)?;
        if others.is_empty() {
            return Err(NotInstalled { unmet, error: output.error() });
        }
        let failed = format!("apt failed because of {}, which this run did not ask for", others.join(", "));
        if complaint::failed_packages(&output.both).iter().all(|name| others.iter().any(|other| other == name))
            && packages.iter().map(|wanted| self.is_installed(wanted)).collect::<Result<Vec<_>>>()?.iter().all(|is| *is)
        {
            tracing::warn!(
                "{failed}; {} is installed, so the run continues. See `dpkg --configure -a`",
                packages.join(" ")
            );
            return Ok(());
        }
        let Error { what, cause, .. } = output.error();
        let fix = format!(
            "fix {0} (`dpkg --configure -a` shows what is wrong) or remove it (`dpkg --purge --force-remove-reinstreq {1}`), and run titus-bootstrap again",
            others.join(", "),
            others.join(" ")
        );
        let error = Error::failed(failed).cause(format!("{what}\n{}", cause.unwrap_or_default())).fix(fix);
        Err(NotInstalled { unmet: false, error })
    }

    /// Packages that dpkg has, that the run did not ask for, and that prevent apt from working.
    fn others_that_failed(&self, output: &str, packages: &[&str]) -> Result<Vec<String>> {
        let mut others = Vec::new();
        for name in complaint::blockers(output) {
            let is_wanted = packages.iter().any(|wanted| without_version(wanted) == name);
            let is_known = |is: Installed| !matches!(is.status, Status::NotInstalled | Status::ConfigFiles);
            if !is_wanted && !others.contains(&name) && self.package(&name)?.is_some_and(is_known) {
                others.push(name);
            }
        }
        Ok(others)
    }

    /// Whether a package, `name` or `name=version`, is installed.
    fn is_installed(&self, wanted: &str) -> Result<bool> {
        let found = self.package(without_version(wanted))?.filter(|is| is.status == Status::Installed);
        Ok(found.is_some_and(|is| wanted.split_once('=').is_none_or(|(_, version)| version == is.version)))
    }

    /// Runs `argv`, after the repairs that apt demands if it refuses. `options` are those of apt-get.
    fn try_to_install(&self, options: &[&str], argv: &[&str], half_done: Option<&str>) -> Result<Output> {
        let dpkg =
            |what: &[&str]| self.package_command(&[&["dpkg", "--force-confdef", "--force-confold"], what].concat());
        let repair = || self.package_command(&[options, &["--fix-broken", "install"]].concat());
        let mut output = self.package_command(argv)?;
        // After a power cut during dpkg's work, apt demands a repair.
        if !output.status.success() && Complaints::find(&output.both).broken {
            tracing::info!("dpkg was interrupted earlier: completing its work");
            // This fails if a dependency is not unpacked yet, which the next command installs. That one fails if a deb
            // that no source has is partly unpacked, which the last command unpacks again.
            dpkg(&["--configure", "-a"])?;
            repair()?;
            output = self.package_command(argv)?;
        }
        // apt 2.6 ignores a package that is partly unpacked in the wanted version, and reports success. It has dpkg
        // configure one that dpkg refuses to configure, and fails.
        let refused = Complaints::find(&output.both).reinstall;
        let half = if output.status.success() || refused { self.half_installed()? } else { Vec::new() };
        if !half.is_empty() {
            // A wanted package keeps its wanted version.
            let base = |word: &str| word.split(['=', ':']).next().unwrap_or_default().to_owned();
            let with_version = |name: &String| {
                argv.iter().copied().find(|word| base(word) == base(name)).map_or(name.clone(), str::to_owned)
            };
            let names: Vec<String> = half.iter().map(with_version).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let more: Vec<&str> = argv.iter().copied().filter(|word| word.starts_with("--allow-")).collect();
            output = self.package_command(&[options, &more, &["--reinstall", "install", "--"], &names].concat())?;
            // Only this one installs the other packages. If no source has the refused package, apt ignores that above.
            if refused {
                output = self.package_command(argv)?;
            }
        }
        let Some(path) = half_done.filter(|_| !output.status.success()) else { return Ok(output) };
        // apt refuses another version of a package that is partly unpacked, and another build of one that is not
        // configured. dpkg accepts both, and apt then installs the dependencies.
        tracing::info!("apt refuses the partly installed package: dpkg unpacks it first");
        output = dpkg(&["--unpack", path])?;
        if output.status.success() {
            output = repair()?;
        }
        // apt would remove the package; dpkg reports the missing dependency.
        if Complaints::find(&output.both).removal { dpkg(&["--configure", "-a"]) } else { Ok(output) }
    }

    /// Sets dpkg's answer.
    #[cfg(test)]
    pub(crate) fn pretend_installed(&self, packages: &[(&str, Installed)]) {
        let known: BTreeMap<_, _> = packages.iter().map(|(name, found)| ((*name).to_owned(), found.clone())).collect();
        self.watch_packages(packages.iter().map(|(name, _)| *name));
        *self.packages.known.borrow_mut() = Some(known);
    }

    /// Runs a command of apt or dpkg to its end.
    fn package_command(&self, argv: &[&str]) -> Result<Output> {
        let environment = self.package_environment()?;
        let output = self.run_command(argv, &command::borrow_variables(&environment), Patience::Never, Duration::MAX);
        self.forget_packages();
        lists::with_system_paths(output)
    }

    /// Discards the answers of dpkg and systemd after something that may have changed them.
    pub fn forget_packages(&self) {
        *self.packages.known.borrow_mut() = None;
        *self.packages.query.borrow_mut() = None;
        self.packages.removals.borrow_mut().clear();
        self.forget_units();
    }

    /// Runs `work`, which uses dpkg's database, when no other process holds a lock of dpkg or apt, and again if another
    /// process was faster. Returns the last output at the deadline.
    fn with_package_lock(&self, work: impl Fn() -> Result<Output>) -> Result<Output> {
        let limit = self.deadlines.apt_lock;
        let mut deadline = Deadline::new("apt and dpkg", limit);
        let mut known = None;
        loop {
            let outcome = match self.package_lock_holder() {
                None => {
                    let output = work()?;
                    if output.status.success() || !Complaints::find(&output.both).busy {
                        return Ok(output);
                    }
                    Ok(output)
                }
                Some(holder) => {
                    if known != Some(holder.pid) {
                        tracing::info!("waiting up to {} for {holder}", humantime::format_duration(limit));
                        deadline.set_name(holder.to_string());
                        known = Some(holder.pid);
                    }
                    Err(holder)
                }
            };
            // The other process changes packages, and their units.
            self.forget_packages();
            if !deadline.pause(PAUSE)? {
                return outcome.map_err(|holder| not_released(&holder, limit));
            }
        }
    }

    /// The process that holds a lock of dpkg or apt, if any.
    fn package_lock_holder(&self) -> Option<LockHolder> {
        LOCKS.iter().find_map(|path| {
            let file = self.open_file(path).ok().flatten()?;
            let mut lock = nix::libc::flock {
                l_type: i16::try_from(nix::libc::F_WRLCK).unwrap_or_default(),
                l_whence: 0,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
            if i32::from(lock.l_type) == nix::libc::F_UNLCK {
                return None;
            }
            let process = format!("/proc/{}", lock.l_pid);
            let command = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
            let since = std::fs::metadata(&process).and_then(|found| found.modified()).ok();
            Some(LockHolder {
                lock: (*path).to_owned(),
                pid: lock.l_pid,
                command: String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned(),
                age: since.and_then(|at| SystemTime::now().duration_since(at).ok()).map_or(0, |age| age.as_secs()),
            })
        })
    }
}

/// Why a package was not installed.
#[derive(Debug)]
pub struct NotInstalled {
    /// Whether no source has a dependency of it.
    pub unmet: bool,
    /// The error for the user.
    pub error: Error,
}

impl From<Error> for NotInstalled {
    fn from(error: Error) -> NotInstalled {
        NotInstalled { unmet: false, error }
    }
}

impl From<NotInstalled> for Error {
    fn from(failure: NotInstalled) -> Error {
        failure.error
    }
}

impl From<&str> for Status {
    fn from(text: &str) -> Status {
        match text {
            "installed" => Status::Installed,
            "not-installed" => Status::NotInstalled,
            "config-files" => Status::ConfigFiles,
            other => Status::HalfDone(other.to_owned()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Installed => "installed",
            Status::NotInstalled => "not-installed",
            Status::ConfigFiles => "config-files",
            Status::HalfDone(status) => status,
        })
    }
}

fn without_version(name: &str) -> &str {
    name.split_once('=').map_or(name, |(name, _)| name)
}

/// The refusal of a removal that no setting allows.
pub fn conflict(kind: ErrorKind, wanted: &[&str], removed: &str) -> Error {
    let list = serde_json::json!(removed.split(' ').collect::<Vec<_>>());
    Error::new(kind, format!("apt would remove {removed} to install {}", wanted.join(" ")))
        .cause("they conflict with one another, and a run removes no package that apt.may_remove does not name")
        .fix(format!(
            "decide which of them the node needs: `apt-get remove {removed}`, or have a run remove them (--set 'apt.may_remove={list}'), \
             or leave out the others (settings packages.*, apt.sources)"
        ))
}

struct LockHolder {
    lock: String,
    pid: i32,
    command: String,
    age: u64,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let command = crate::secrets::masked(&self.command);
        write!(f, "process {} (`{command}`, running for {} s), which holds {}", self.pid, self.age, self.lock)
    }
}

fn not_released(holder: &LockHolder, limit: Duration) -> Error {
    Error::failed(format!("apt and dpkg could not be used within {}", humantime::format_duration(limit)))
        .cause(format!("waited for {holder}"))
        .fix("let that process finish, or see why it hangs; it was left alone. The setting timeouts.apt_lock allows more time")
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_output(text: &str) {
    let _ = (parse_installed(text), parse_policy(text), Complaints::find(text));
    let _ = (complaint::blockers(text), complaint::removals(text), complaint::unreadable_files(text));
}

fn parse_installed(text: &str) -> BTreeMap<String, Installed> {
    let mut found: BTreeMap<String, Installed> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split('\t').map(str::to_owned);
        let (Some(name), Some(version), Some(status), Some(want)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // If a package is known for several architectures, the installed one counts.
        if found.get(&name).is_none_or(|known| known.status != Status::Installed) {
            found.insert(name, Installed { version, status: status.as_str().into(), held: want == "hold" });
        }
    }
    found
}

/// Parses the output of `apt-cache policy`: the candidate, then a table with every version and its sources.
fn parse_policy(text: &str) -> BTreeMap<String, Policy> {
    let mut found: BTreeMap<String, Policy> = BTreeMap::new();
    let (mut current, mut version): (Option<String>, Option<String>) = (None, None);
    for line in text.lines() {
        if !line.starts_with(' ') {
            (current, version) = (line.strip_suffix(':').map(str::to_owned), None);
            continue;
        }
        let Some(name) = &current else { continue };
        let policy = found.entry(name.clone()).or_default();
        if let Some(candidate) = line.strip_prefix("  Candidate: ") {
            policy.candidate = Some(candidate.to_owned()).filter(|candidate| candidate != "(none)");
            continue;
        }
        // A version is indented by five columns, with `***` before the installed one; its sources by nine.
        let installed = line.strip_prefix(" *** ");
        if let Some(rest) = installed.or_else(|| line.strip_prefix("     ").filter(|rest| !rest.starts_with(' '))) {
            version = rest.split(' ').next().map(str::to_owned);
        }
        // dpkg still knows the version of a removed package, but that version is not available.
        let has_source = line.starts_with("      ") && !line.ends_with(" /var/lib/dpkg/status");
        if let Some(version) = &version
            && (installed.is_some() || has_source)
            && !policy.versions.contains(version)
        {
            policy.versions.push(version.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_query_is_understood() {
        let found = parse_installed(
            "bash\t5.2\tinstalled\tinstall\nlibc6\t2.36\tnot-installed\tunknown\nlibc6\t2.36\tinstalled\thold\nshort\n",
        );
        assert_eq!(found["bash"].status, Status::Installed);
        assert!(found["libc6"].held && found["libc6"].status == Status::Installed);
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn policy_is_understood() {
        let found = parse_policy(
            "mesos:\n  Installed: 1.0\n  Candidate: 1.1\n  Version table:\n     1.1 500\n        500 file:/srv/repo ./ Packages\n *** 1.0 100\n        100 /var/lib/dpkg/status\nvirtual:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n",
        );
        let policy = |candidate: Option<&str>, versions: &[&str]| Policy {
            candidate: candidate.map(str::to_owned),
            versions: versions.iter().map(|version| (*version).to_owned()).collect(),
        };
        assert_eq!(found["mesos"], policy(Some("1.1"), &["1.1", "1.0"]));
        assert_eq!(found["virtual"], Policy::default());
        // One package is forbidden by a pin; the other is removed but not purged, and no source has it.
        let found = parse_policy(
            "pinned:\n  Installed: (none)\n  Candidate: (none)\n  Package pin: 2.0\n  Version table:\n     2.0 -1\n        500 http://d x/main amd64 Packages\n\
             removed:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n     1.0 -1\n        100 /var/lib/dpkg/status\n",
        );
        assert_eq!(found["pinned"], policy(None, &["2.0"]));
        assert_eq!(found["removed"], Policy::default());
    }
}
