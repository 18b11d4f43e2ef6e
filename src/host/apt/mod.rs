//! apt and dpkg: dpkg is asked once for all packages, apt only when one lacks, and
//! neither is ever killed.

pub mod complaint;
pub mod dpkg;
mod lists;
pub mod openpgp;
pub mod sources;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::Host;
use crate::host::apt::complaint::Complaints;
pub use crate::host::apt::lists::{Keyring, Source};
use crate::host::command::{self, Output, Patience};
use crate::host::wait::Deadline;

/// The locks of dpkg and of apt's archive, each an fcntl lock.
const LOCKS: [&str; 3] = ["/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/cache/apt/archives/lock"];

/// Options of apt-get to install an exact version.
const EXACT: [&str; 2] = ["--allow-downgrades", "--allow-change-held-packages"];

/// Between two looks whether a lock is free.
const PAUSE: Duration = Duration::from_millis(200);

/// Where sources of packages lie.
pub const SOURCE_PARTS: &str = "/etc/apt/sources.list.d";
/// What files of ours begin with there; others' are left alone.
pub const OUR_SOURCES: &str = "titus-bootstrap-";

/// How far a package is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Whole.
    Installed,
    /// Not.
    NotInstalled,
    /// Its configuration was left when it was removed.
    ConfigFiles,
    /// Neither, as `half-configured`.
    HalfDone(String),
}

/// A package as dpkg knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// How far it is installed.
    pub status: Status,
    /// Whether it is on hold.
    pub held: bool,
}

/// What a run may change of what others did with apt. By default nothing.
#[derive(Debug, Clone, Default)]
pub struct Permissions {
    /// Whether a repository of ours is taken out of the files of others that have it with other options.
    pub take_over: bool,
    /// Packages that it may remove, where one that it installs conflicts with them.
    pub may_remove: Vec<String>,
}

/// What was asked for, and what is known.
#[derive(Debug, Default)]
pub(crate) struct Packages {
    watched: RefCell<BTreeSet<String>>,
    asked: RefCell<Option<command::Started>>,
    known: RefCell<Option<BTreeMap<String, Installed>>>,
    candidates: RefCell<BTreeMap<String, Policy>>,
    without: RefCell<BTreeSet<String>>,
    /// What apt would remove to install these.
    removals: RefCell<BTreeMap<String, Vec<String>>>,
}

/// What apt's sources have of a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The version that apt would install, if it would install any: a pin can forbid all of them.
    pub candidate: Option<String>,
    /// Every version that can be had.
    pub versions: Vec<String>,
}

impl Host {
    /// Names packages that will be asked for, so that one question serves all.
    pub fn watch_packages<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            self.watch_package(name);
        }
    }

    /// What dpkg said until now is about fewer packages.
    fn watch_package(&self, name: &str) {
        if self.packages.watched.borrow_mut().insert(name.to_owned()) {
            *self.packages.known.borrow_mut() = None;
            *self.packages.asked.borrow_mut() = None;
        }
    }

    /// Whether this machine has apt and dpkg.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn has_apt(&self) -> Result<bool> {
        Ok(self.entry("/usr/bin/apt-get")?.is_some() && self.entry("/usr/bin/dpkg")?.is_some())
    }

    /// What dpkg knows of a package. Asks once for all watched packages.
    ///
    /// # Errors
    /// When dpkg cannot be asked.
    pub fn package(&self, name: &str) -> Result<Option<Installed>> {
        self.watch_package(name);
        if self.packages.known.borrow().is_none() {
            let asked = self.packages.asked.take();
            let output = asked.map_or_else(|| self.start_asking_dpkg(), Ok)?.end()?;
            // 1: some of them are not known to dpkg, which is an answer.
            if !matches!(output.status.code(), Some(0 | 1)) {
                return Err(output.error());
            }
            *self.packages.known.borrow_mut() = Some(parse_installed(&output.stdout));
        }
        Ok(self.packages.known.borrow().as_ref().and_then(|known| known.get(name)).cloned())
    }

    /// Asks dpkg about all watched packages; [`Host::package`] fetches the answer.
    ///
    /// # Errors
    /// When dpkg cannot be started.
    pub fn ask_for_packages(&self) -> Result<()> {
        if !self.packages.watched.borrow().is_empty() && self.has_apt()? {
            *self.packages.asked.borrow_mut() = Some(self.start_asking_dpkg()?);
        }
        Ok(())
    }

    fn start_asking_dpkg(&self) -> Result<command::Started> {
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

    /// Packages that this run goes without: no source has them, and they are optional.
    pub fn go_without(&self, names: impl Iterator<Item = String>) {
        self.packages.without.borrow_mut().extend(names);
    }

    /// Whether this run goes without a package.
    pub fn goes_without(&self, name: &str) -> bool {
        self.packages.without.borrow().contains(name)
    }

    fn package_environment(&self) -> Vec<(&str, &str)> {
        let mut environment = vec![("DEBIAN_FRONTEND", "noninteractive"), ("NEEDRESTART_SUSPEND", "1")];
        // In the environment, never in argv, which anyone may see: they may hold credentials.
        let proxies =
            [("http_proxy", &self.proxy.http), ("https_proxy", &self.proxy.https), ("no_proxy", &self.proxy.no_proxy)];
        environment.extend(proxies.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))));
        environment
    }

    /// What the last look-up found of a package.
    pub fn policy(&self, name: &str) -> Policy {
        self.packages.candidates.borrow().get(name).cloned().unwrap_or_default()
    }

    /// Installs packages, each `name` or `name=version`, in one go.
    ///
    /// # Errors
    /// When the lock cannot be had in time, or apt fails.
    pub fn install_packages(&self, wanted: &[String]) -> Result<()> {
        let exact = wanted.iter().any(|name| name.contains('='));
        let options: &[&str] = if exact { &EXACT } else { &[] };
        let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
        self.install(options, &names, &names, None)?;
        let pinned: Vec<&str> = wanted.iter().filter_map(|name| Some(name.split_once('=')?.0)).collect();
        if pinned.is_empty() { Ok(()) } else { self.hold(&pinned) }
    }

    /// What apt would remove to install these packages, each `name` or `name=version`; none: it cannot say, for it has no
    /// list of them or would not install them.
    ///
    /// # Errors
    /// When apt cannot be run.
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
        let private = if self.has_lists()? { lists::options() } else { Vec::new() };
        let private: Vec<&str> = private.iter().map(String::as_str).collect();
        let options = ["--simulate", "--yes", "--quiet", "--no-install-recommends"];
        let exact: &[&str] = if wanted.iter().any(|name| name.contains('=')) { &EXACT } else { &[] };
        let argv = [&["apt-get"], &private[..], &options, exact, more, &["install", "--"], wanted].concat();
        lists::as_installed(self.run_command(&argv, &[], Patience::Ends, Duration::from_secs(120)))
    }

    /// Those of these packages that the setting does not let a run remove.
    pub fn not_removable(&self, packages: &[String]) -> Vec<String> {
        packages.iter().filter(|name| !self.apt.may_remove.contains(name)).cloned().collect()
    }

    /// Installs the deb at `path`, of this package, with what it depends on, whatever version or build
    /// is there. A hold of the administrator's is kept.
    ///
    /// # Errors
    /// When the lock cannot be had in time, or apt fails.
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

    /// `apt-get install` of `wanted`, names or paths, so that these packages are there. `half_done`: a deb whose package is
    /// neither installed nor gone.
    fn install(
        &self,
        more: &[&str],
        wanted: &[&str],
        packages: &[&str],
        half_done: Option<&str>,
    ) -> Result<(), NotInstalled> {
        let lists = lists::option();
        let mut options = vec!["apt-get"];
        // The system's own, should nothing have lacked when they could still be updated.
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
        // What the operator installed is not ours to remove, whatever conflicts with it, unless a setting allows it.
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
        let Complaints { unmet, removal, .. } = Complaints::of(&output.both);
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
            && packages.iter().map(|wanted| self.is_there(wanted)).collect::<Result<Vec<_>>>()?.iter().all(|is| *is)
        {
            tracing::warn!(
                "{failed}; {} is installed, and the run goes on. See `dpkg --configure -a`",
                packages.join(" ")
            );
            return Ok(());
        }
        let Error { what, cause, .. } = output.error();
        let fix = format!(
            "correct what is wrong with {0} (`dpkg --configure -a` shows it) or remove it (`dpkg --purge --force-remove-reinstreq {1}`), and run titus-bootstrap again",
            others.join(", "),
            others.join(" ")
        );
        let error = Error::failed(failed).cause(format!("{what}\n{}", cause.unwrap_or_default())).fix(fix);
        Err(NotInstalled { unmet: false, error })
    }

    /// Packages that dpkg has, that nobody asked for, and that keep apt from its work.
    fn others_that_failed(&self, output: &str, packages: &[&str]) -> Result<Vec<String>> {
        let mut others = Vec::new();
        for name in complaint::blockers(output) {
            let is_wanted = packages.iter().any(|wanted| bare(wanted) == name);
            let is_known = |is: Installed| !matches!(is.status, Status::NotInstalled | Status::ConfigFiles);
            if !is_wanted && !others.contains(&name) && self.package(&name)?.is_some_and(is_known) {
                others.push(name);
            }
        }
        Ok(others)
    }

    /// Whether dpkg has a package, `name` or `name=version`.
    fn is_there(&self, wanted: &str) -> Result<bool> {
        let found = self.package(bare(wanted))?.filter(|is| is.status == Status::Installed);
        Ok(found.is_some_and(|is| wanted.split_once('=').is_none_or(|(_, version)| version == is.version)))
    }

    /// `argv`, and what apt wants done before if it does not take it: `options` are apt-get's.
    fn try_to_install(&self, options: &[&str], argv: &[&str], half_done: Option<&str>) -> Result<Output> {
        let dpkg =
            |what: &[&str]| self.package_command(&[&["dpkg", "--force-confdef", "--force-confold"], what].concat());
        let repair = || self.package_command(&[options, &["--fix-broken", "install"]].concat());
        let mut output = self.package_command(argv)?;
        // What a power cut in the middle of dpkg's work left: apt says what it wants for it.
        if !output.status.success() && Complaints::of(&output.both).broken {
            tracing::info!("dpkg was interrupted earlier: completing what it left");
            // It fails where a dependency is not unpacked yet; the next command brings that. That one
            // fails where a deb is half unpacked that no source has; the last one brings it again.
            dpkg(&["--configure", "-a"])?;
            repair()?;
            output = self.package_command(argv)?;
        }
        // One that was half unpacked in its own version apt passes over, and says that all is well (seen: 2.6).
        let half: Vec<String> = if output.status.success() { self.half_installed()? } else { Vec::new() };
        if !half.is_empty() {
            // One that is wanted keeps the version that is wanted.
            let bare = |word: &str| word.split(['=', ':']).next().unwrap_or_default().to_owned();
            let of = |name: &String| {
                argv.iter().copied().find(|word| bare(word) == bare(name)).map_or(name.clone(), str::to_owned)
            };
            let names: Vec<String> = half.iter().map(of).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let more: Vec<&str> = argv.iter().copied().filter(|word| word.starts_with("--allow-")).collect();
            output = self.package_command(&[options, &more, &["--reinstall", "install", "--"], &names].concat())?;
        }
        let Some(path) = half_done.filter(|_| !output.status.success()) else { return Ok(output) };
        // Of a package that is half unpacked apt takes no other version, and of one that is not
        // configured no other build of the same. dpkg does; what it depends on is apt's again.
        tracing::info!("apt does not take it as it is: dpkg unpacks it first");
        output = dpkg(&["--unpack", path])?;
        if output.status.success() {
            output = repair()?;
        }
        // apt would remove it rather; dpkg says what it lacks.
        if Complaints::of(&output.both).removal { dpkg(&["--configure", "-a"]) } else { Ok(output) }
    }

    /// As if dpkg had answered so.
    #[cfg(test)]
    pub(crate) fn pretend_installed(&self, packages: &[(&str, Installed)]) {
        let known: BTreeMap<_, _> = packages.iter().map(|(name, found)| ((*name).to_owned(), found.clone())).collect();
        self.watch_packages(packages.iter().map(|(name, _)| *name));
        *self.packages.known.borrow_mut() = Some(known);
    }

    /// Runs one command of apt or dpkg to its end.
    fn package_command(&self, argv: &[&str]) -> Result<Output> {
        let output = self.run_command(argv, &self.package_environment(), Patience::Never, Duration::MAX);
        self.forget_packages();
        lists::as_installed(output)
    }

    /// Forgets what dpkg and systemd said, after something that may have changed it.
    fn forget_packages(&self) {
        *self.packages.known.borrow_mut() = None;
        *self.packages.asked.borrow_mut() = None;
        self.packages.removals.borrow_mut().clear();
        self.forget_units();
    }

    /// Does `work`, which reads or changes what dpkg has, once nobody else holds a lock of dpkg or apt; again when
    /// someone came in between. At the deadline the last output is returned.
    fn with_package_lock(&self, work: impl Fn() -> Result<Output>) -> Result<Output> {
        let limit = self.deadlines.apt_lock;
        let mut deadline = Deadline::new("apt and dpkg", limit);
        let mut known = None;
        loop {
            let outcome = match self.package_lock_holder() {
                None => {
                    let output = work()?;
                    if output.status.success() || !Complaints::of(&output.both).busy {
                        return Ok(output);
                    }
                    Ok(output)
                }
                Some(holder) => {
                    if known != Some(holder.pid) {
                        tracing::info!("waiting up to {} for {holder}", humantime::format_duration(limit));
                        deadline.name(holder.to_string());
                        known = Some(holder.pid);
                    }
                    Err(holder)
                }
            };
            // Whoever it is changes packages, and their units.
            self.forget_packages();
            if !deadline.pause(PAUSE)? {
                return outcome.map_err(|holder| not_released(&holder, limit));
            }
        }
    }

    /// Who holds a lock of dpkg or apt, if anyone does.
    fn package_lock_holder(&self) -> Option<LockHolder> {
        LOCKS.iter().find_map(|lock| {
            let file = self.open_file(lock).ok().flatten()?;
            let mut asked = nix::libc::flock {
                l_type: i16::try_from(nix::libc::F_WRLCK).unwrap_or_default(),
                l_whence: 0,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            fcntl(&file, FcntlArg::F_GETLK(&mut asked)).ok()?;
            if i32::from(asked.l_type) == nix::libc::F_UNLCK {
                return None;
            }
            let process = format!("/proc/{}", asked.l_pid);
            let command = std::fs::read(format!("{process}/cmdline")).unwrap_or_default();
            let since = std::fs::metadata(&process).and_then(|found| found.modified()).ok();
            Some(LockHolder {
                lock: (*lock).to_owned(),
                pid: asked.l_pid,
                command: String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned(),
                age: since.and_then(|at| SystemTime::now().duration_since(at).ok()).map_or(0, |age| age.as_secs()),
            })
        })
    }
}

/// Why a package was not installed.
#[derive(Debug)]
pub struct NotInstalled {
    /// Whether no source has what it depends on.
    pub unmet: bool,
    /// All of it, for people.
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

fn bare(name: &str) -> &str {
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
        .fix("let that process finish, or see why it hangs; it was left alone. The setting timeouts.apt_lock gives it longer")
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_output(text: &str) {
    let _ = (parse_installed(text), parse_policy(text), Complaints::of(text));
    let _ = (complaint::blockers(text), complaint::removals(text), complaint::unreadable(text));
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
        // Of several architectures the installed one counts.
        if found.get(&name).is_none_or(|known| known.status != Status::Installed) {
            found.insert(name, Installed { version, status: status.as_str().into(), held: want == "hold" });
        }
    }
    found
}

/// `apt-cache policy`: the candidate, then every version of the table with what has it.
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
        // A version stands five columns in, after `***` when it is the installed one; its sources nine.
        let installed = line.strip_prefix(" *** ");
        if let Some(rest) = installed.or_else(|| line.strip_prefix("     ").filter(|rest| !rest.starts_with(' '))) {
            version = rest.split(' ').next().map(str::to_owned);
        }
        // Of a removed package dpkg still knows the version, which nobody can install.
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
        // Forbidden by a pin; and removed, but not purged, with no source that has it.
        let found = parse_policy(
            "pinned:\n  Installed: (none)\n  Candidate: (none)\n  Package pin: 2.0\n  Version table:\n     2.0 -1\n        500 http://d x/main amd64 Packages\n\
             removed:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n     1.0 -1\n        100 /var/lib/dpkg/status\n",
        );
        assert_eq!(found["pinned"], policy(None, &["2.0"]));
        assert_eq!(found["removed"], Policy::default());
    }
}
