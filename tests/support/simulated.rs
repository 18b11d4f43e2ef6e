//! A live machine in a directory: its packages and its GRUB are scripts, its systemd is a value, and its files are
//! below a temporary root. It shows the effect of a run on a node without root's rights.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use titus_bootstrap::error::{Error, Kind, Result};
use titus_bootstrap::host::Host;
use titus_bootstrap::host::systemd::{Active, Job, Since, Systemd, Unit};
use titus_bootstrap::prepare::{FactSource, FirstLine, Phases, Request, Selection};
use titus_bootstrap::role::Role;
use titus_bootstrap::run::engine;
use titus_bootstrap::run::journal::{self, Journal};
use titus_bootstrap::run::report::{Report, Reporter};
use titus_bootstrap::step::{Phase, Step};
use titus_bootstrap::template::Renderer;

use super::root::Root;

/// dpkg's packages, one per line: name, version, status, whether it is held.
const DPKG: &str = "/var/lib/dpkg/packages";

/// The packages of apt's sources, one version per line: name, version.
const SOURCES: &str = "/srv/sources";

/// The files of a simulated machine, and the commands that it got.
pub struct Machine {
    pub root: Root,
    commands: Root,
    pub systemd: Units,
    pub host: Host,
}

impl Machine {
    /// A machine with systemd, apt and GRUB, on which nothing is installed and no unit is known.
    pub fn new() -> Machine {
        // As main does, because downloads need it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (root, commands, systemd) = (Root::empty(), Root::empty(), Units::default());
        for directory in ["/run/systemd/system", "/etc/systemd/system", "/boot/grub", "/etc/default/grub.d"] {
            fs::create_dir_all(root.at(directory)).unwrap();
        }
        for file in ["/usr/bin/apt-get", "/usr/bin/dpkg", DPKG, SOURCES] {
            root.write(file, "");
        }
        let host = Host::simulated(root.path(), commands.path(), Box::new(systemd.clone())).unwrap();
        let machine = Machine { root, commands, systemd, host };
        for (name, script) in [
            ("dpkg-query", DPKG_QUERY),
            ("dpkg", "case $1 in --print-architecture | --compare-versions) exec dpkg \"$@\";; esac"),
            ("dpkg-deb", "exec dpkg-deb \"$@\""),
            ("apt-get", APT_GET),
            ("apt-cache", APT_CACHE),
            ("apt-mark", "shift 2; for name; do sed -i \"s/^\\($name\\t.*\\t\\).*/\\1hold/\" $DPKG; done"),
            ("update-grub", UPDATE_GRUB),
        ] {
            machine.command(name, script);
        }
        machine
    }

    /// Installs a command, a script for sh. It can use `$ROOT`, `$DPKG` and `$SOURCES`, and its calls are in [`Machine::calls`].
    pub fn command(&self, name: &str, script: &str) {
        let root = self.root.path().display();
        let text = format!(
            "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nROOT={root} DPKG={root}{DPKG} SOURCES={root}{SOURCES}\n\
             echo \"{name} $*\" | tr '\\n' ' ' | sed 's/ *$/\\n/' >>$ROOT/calls\n{script}\n"
        );
        self.commands.script(name, text);
    }

    /// Puts a script before an existing command, which runs unless the script exits.
    pub fn prepend(&self, name: &str, script: &str) {
        let inner = tempfile::Builder::new().prefix(name).tempfile_in(self.commands.path()).unwrap();
        let (_, inner) = inner.keep().unwrap();
        fs::rename(self.commands.at(name), &inner).unwrap();
        self.command(name, &format!("{script}\nsed -i '$d' $ROOT/calls\nexec {} \"$@\"", inner.display()));
    }

    /// Makes a command fail with these words this number of times.
    pub fn fail_first(&self, name: &str, times: usize, words: &str) {
        self.prepend(
            name,
            &format!(
                "count=$(cat $ROOT/{name}.count 2>/dev/null || echo 0)\necho $((count + 1)) >$ROOT/{name}.count\n\
                 if [ $count -lt {times} ]; then echo \"{words}\" >&2; exit 100; fi"
            ),
        );
    }

    /// The commands that ran since the last call.
    pub fn calls(&self) -> Vec<String> {
        let path = self.root.at("/calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    /// Adds a package to apt's sources.
    pub fn offer(&self, name: &str, version: &str) {
        let text = format!("{}{name} {version}\n", self.root.read(SOURCES));
        self.root.write(SOURCES, text);
    }

    /// Adds a package to dpkg's.
    pub fn install(&self, name: &str, version: &str, status: &str) {
        let others: String = self
            .root
            .read(DPKG)
            .lines()
            .filter(|line| !line.starts_with(name))
            .map(|line| format!("{line}\n"))
            .collect();
        self.root.write(DPKG, format!("{others}{name}\t{version}\t{status}\tinstall\n"));
    }

    /// dpkg's state of a package: version, status, want.
    pub fn installed(&self, name: &str) -> String {
        let text = self.root.read(DPKG);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}\t")));
        line.unwrap_or_default().replace('\t', " ")
    }

    /// A unit file whose unit systemd knows.
    pub fn unit_file(&self, name: &str) {
        self.root.write(
            &format!("/lib/systemd/system/{name}"),
            "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
        );
    }

    /// The steps of a role file at boot.
    pub fn steps(&self, toml: &str) -> Vec<Step> {
        self.try_steps(toml).unwrap()
    }

    /// The steps of a role file that may be wrong.
    pub fn try_steps(&self, toml: &str) -> Result<Vec<Step>> {
        self.root.write("/role.toml", format!("description = ''\n{toml}"));
        let (path, text) = (self.root.at("/role.toml"), self.root.read("/role.toml"));
        Role::parse_file(&path, text)?.steps(&Renderer::new(json!({})), &[Phase::Bake, Phase::Boot])
    }

    /// A host without any cached knowledge, like that of the next run.
    pub fn next_host(&self) -> Host {
        let mut host = Host::simulated(self.root.path(), self.commands.path(), Box::new(self.systemd.clone())).unwrap();
        host.deadlines = self.host.deadlines.clone();
        host.apt = self.host.apt.clone();
        host.docker = self.host.docker.clone();
        host
    }

    /// A request for a role of this name, with made-up facts.
    pub fn request(&self, role: &str) -> Request {
        Request {
            roles: vec![role.to_owned()],
            phases: Phases::All,
            root: Some(self.root.path().to_owned()),
            user_data: None,
            config: None,
            set: Vec::new(),
            facts: FactSource::Sample,
            first_line: |_| Ok(FirstLine::default()),
            patience: None,
            selection: Selection::default(),
        }
    }

    /// A run as `apply` does it, from the first question to the last step.
    pub fn apply(&self, steps: &[Step]) -> Run {
        let host = self.next_host();
        let (mut report, mut journal) = (Report::new("apply"), journal());
        report.role = "test".into();
        report.step_count = steps.len();
        let before = self.events().len();
        let result = engine::ask(&host, steps)
            .and_then(|()| engine::refuse_online(&host, "test", steps))
            .and_then(|()| engine::look_before_changes(&host, "test", steps))
            .and_then(|()| {
                engine::begin(&host, steps)
                    .and_then(|()| engine::converge(&host, steps, &|_| false, &mut journal, &mut report, &silent()))
                    .and(host.forget_candidates())
            });
        super::schemas::assert_valid("apply", &serde_json::from_str(&report.json()).unwrap());
        Run { result, report, events: self.events().split_off(before) }
    }

    /// A plan.
    pub fn plan(&self, steps: &[Step]) -> Run {
        let host = self.next_host();
        let mut report = Report::new("plan");
        report.role = "test".into();
        let result = engine::ask(&host, steps)
            .and_then(|()| engine::refuse(&host, "test", steps))
            .and_then(|()| engine::plan_packages(&host, steps).map(|notice| report.notices.extend(notice)))
            .and_then(|()| engine::observe(&host, steps, &mut report, &silent()));
        Run { result, report, events: Vec::new() }
    }

    /// `event step` of each line in the journal.
    pub fn events(&self) -> Vec<String> {
        let events = journal::events(&self.host, journal::JOURNAL).unwrap();
        events.into_iter().map(|event| format!("{} {}", event.event, event.step.unwrap_or_default())).collect()
    }
}

fn journal() -> Journal {
    Journal::new(journal::JOURNAL, "test", "digest".into(), "boot", "i-1")
}

/// Makes /proc show a listener of this process under this name. Returns its port.
pub fn listen_in_proc(machine: &Machine, listener: &TcpListener, name: &str) -> u16 {
    let port = listener.local_addr().unwrap().port();
    let socket = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    let inode: String = socket.to_str().unwrap().chars().filter(char::is_ascii_digit).collect();
    // proc(5), /proc/net/tcp: 0A is LISTEN.
    machine.root.write(
        "/proc/net/tcp",
        format!("  sl  local_address ...\n   0: 0100007F:{port:04X} 00000000:0000 0A 0:0 00:0 0 0 0 {inode} 1\n"),
    );
    machine.root.write(&format!("/proc/{}/comm", std::process::id()), format!("{name}\n"));
    port
}

/// Prints nothing.
pub fn silent() -> Reporter {
    Reporter { json: false, quiet: true, verbose: false, colour: false }
}

/// The results of a run.
#[derive(Debug)]
pub struct Run {
    pub result: Result<()>,
    pub report: Report,
    /// Its own events in the journal.
    pub events: Vec<String>,
}

impl Run {
    /// Asserts that it ended well.
    #[track_caller]
    pub fn ends_well(self) -> Run {
        if let Err(error) = &self.result {
            panic!("{error}\n{:#?}", self.report.steps);
        }
        self
    }

    /// Its error.
    #[track_caller]
    pub fn fails(&self) -> &Error {
        match &self.result {
            Ok(()) => panic!("it ended well: {:#?}", self.report.steps),
            Err(error) => error,
        }
    }

    /// The state of each step, in the words of the JSON report.
    pub fn states(&self) -> Vec<String> {
        let report: serde_json::Value = serde_json::from_str(&self.report.json()).unwrap();
        let steps = report["steps"].as_array().unwrap();
        steps
            .iter()
            .map(|step| format!("{} {}", step["id"].as_str().unwrap(), step["state"].as_str().unwrap()))
            .collect()
    }

    /// The lines of all changes, made or planned.
    pub fn lines(&self) -> Vec<String> {
        self.report.steps.iter().flat_map(|step| step.changes.iter().map(|change| change.line.clone())).collect()
    }
}

/// A systemd that handles each request at once, or fails as a test wants.
#[derive(Debug, Clone, Default)]
pub struct Units(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    units: BTreeMap<String, Unit>,
    jobs: Vec<String>,
    begun: Vec<String>,
    questions: Vec<String>,
    failing: BTreeMap<String, Kind>,
    /// Units that do not stay active.
    ending: BTreeSet<String>,
    /// The state that the next start of a unit leads to, and whether systemd calls that a failure.
    next: BTreeMap<String, (Unit, bool)>,
    /// Units whose start stops another one.
    conflicts: BTreeMap<String, String>,
    /// How many more times a unit exits after it was seen active, and systemd restarts it.
    falling: BTreeMap<String, usize>,
    invocations: usize,
}

impl Units {
    /// Sets a unit's state.
    pub fn set(&self, name: &str, unit: Unit) {
        self.0.borrow_mut().units.insert(name.to_owned(), unit);
    }

    /// Changes a unit as another program would.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Unit)) {
        change(self.0.borrow_mut().units.entry(name.to_owned()).or_default());
    }

    /// The state of a unit.
    pub fn get(&self, name: &str) -> Unit {
        self.0.borrow().units.get(name).cloned().unwrap_or_default()
    }

    /// Makes every job of a unit fail this way.
    pub fn fail(&self, name: &str, kind: Kind) {
        self.0.borrow_mut().failing.insert(name.to_owned(), kind);
    }

    /// Ends these failures.
    pub fn heal(&self, name: &str) {
        self.0.borrow_mut().failing.remove(name);
    }

    /// Makes a unit exit as soon as it starts.
    pub fn end_at_once(&self, name: &str) {
        self.0.borrow_mut().ending.insert(name.to_owned());
    }

    /// Makes the next start of a unit lead to this state.
    pub fn next_start(&self, name: &str, unit: Unit, is_failure: bool) {
        self.0.borrow_mut().next.insert(name.to_owned(), (unit, is_failure));
    }

    /// Makes each start of a unit stop another one, like `Conflicts=`.
    pub fn conflict(&self, name: &str, other: &str) {
        self.0.borrow_mut().conflicts.insert(name.to_owned(), other.to_owned());
    }

    /// Makes a unit exit with status 7 this number of times after it was seen active; systemd restarts it each time.
    pub fn fall(&self, name: &str, times: usize) {
        self.0.borrow_mut().falling.insert(name.to_owned(), times);
    }

    /// The change of a falling unit between two looks at it.
    fn go_on(&self, name: &str) {
        let left = self.0.borrow().falling.get(name).copied().unwrap_or_default();
        let unit = self.get(name);
        if unit.is_restarting() {
            self.start(name);
            self.change(name, |unit| unit.restarts = Some(unit.restarts.unwrap_or_default() + 1));
        } else if unit.is_starting() || unit.active == Active::Deactivating {
            self.start(name);
        } else if unit.is_active() && left > 0 {
            self.0.borrow_mut().falling.insert(name.to_owned(), left - 1);
            self.change(name, |unit| {
                unit.active = Active::Activating;
                unit.sub = "auto-restart".into();
                unit.ended = "exit status 7".into();
            });
        }
    }

    /// The jobs since the last call: `restart x.service`.
    pub fn jobs(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().jobs)
    }

    /// The number of questions since the last call.
    pub fn begun(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().begun)
    }

    /// The questions since the last call: the units in each.
    pub fn questions(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().questions)
    }

    /// Changes by PID 1 or an administrator, which no run sees.
    pub fn start(&self, name: &str) {
        let mut state = self.0.borrow_mut();
        state.invocations += 1;
        let invocation = format!("invocation-{}", state.invocations);
        let active = if state.ending.contains(name) { Active::Inactive } else { Active::Active };
        let unit = state.units.entry(name.to_owned()).or_default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        unit.active = active;
        unit.sub = if name.ends_with(".socket") { "listening" } else { "running" }.into();
        unit.invocation = invocation;
        unit.restarts.get_or_insert(0);
        // In the form of systemctl.
        unit.started = Some(UNIX_EPOCH + Duration::from_secs(now));
    }
}

fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

impl Systemd for Units {
    fn ask(&self, _host: &Host, names: &BTreeSet<String>) -> Result<()> {
        self.0.borrow_mut().begun.push(joined(names));
        Ok(())
    }

    fn units(&self, _host: &Host, names: &BTreeSet<String>) -> Result<Vec<Unit>> {
        self.0.borrow_mut().questions.push(joined(names));
        let units = names.iter().map(|name| self.get(name)).collect();
        names.iter().filter(|name| self.0.borrow().falling.contains_key(*name)).for_each(|name| self.go_on(name));
        Ok(units)
    }

    fn run_job(&self, _host: &Host, job: Job<'_>) -> Result<()> {
        let (verb, name) = match job {
            Job::Start(name) => ("start", name),
            Job::Stop(name) => ("stop", name),
            Job::Restart(name) => ("restart", name),
            Job::ReloadUnit(name) => ("reload", name),
            Job::ResetFailed(name) => ("reset-failed", name),
            Job::Reload => ("daemon-reload", ""),
            Job::Reboot => ("reboot", ""),
        };
        self.0.borrow_mut().jobs.push(format!("{verb} {name}").trim().to_owned());
        let failing = self.0.borrow().failing.get(name).copied();
        if let Some(kind) = failing {
            return Err(Error::new(kind, format!("job of {name}")));
        }
        if matches!(job, Job::Start(_) | Job::Restart(_)) {
            let next = self.0.borrow_mut().next.remove(name);
            if let Some((unit, is_failure)) = next {
                self.set(name, unit);
                return if is_failure { Err(Error::new(Kind::Failed, format!("job of {name}"))) } else { Ok(()) };
            }
        }
        match job {
            Job::Start(_) if self.get(name).is_active() => {}
            Job::Start(_) | Job::Restart(_) if self.get(name).result == "start-limit-hit" => {
                return Err(Error::new(Kind::Failed, format!("{name}: start request repeated too quickly")));
            }
            Job::ResetFailed(_) => self.change(name, |unit| {
                unit.active = Active::Inactive;
                unit.result = "success".into();
            }),
            Job::Start(_) | Job::Restart(_) => {
                let other = self.0.borrow().conflicts.get(name).cloned();
                other.iter().for_each(|other| self.change(other, |unit| unit.active = Active::Inactive));
                self.start(name);
            }
            Job::Stop(_) => self.change(name, |unit| unit.active = Active::Inactive),
            Job::Reload => self.0.borrow_mut().units.values_mut().for_each(|unit| unit.needs_reload = false),
            Job::ReloadUnit(_) | Job::Reboot => {}
        }
        Ok(())
    }

    fn queue_job(&self, host: &Host, job: Job<'_>) -> Result<()> {
        self.run_job(host, job)
    }

    fn is_stopping(&self, _host: &Host) -> bool {
        false
    }

    fn journal(&self, _host: &Host, name: &str, since: &Since) -> String {
        let since = match since {
            Since::Time(_) => "since this run started it".to_owned(),
            Since::Invocation(id) => format!("of {id}"),
        };
        format!("the journal of {name} {since}")
    }

    fn has_processes(&self, _host: &Host, name: &str) -> Result<bool> {
        Ok(self.get(name).is_active())
    }
}

/// With names: their lines, and status 1 if one is missing. Without names: the status and name of each.
const DPKG_QUERY: &str = r#"
[ "$3" = -- ] || { awk -F'\t' '{ print $3, "ok", $1 }' $DPKG; exit; }
shift 3
status=0
for name; do grep "^$name	" $DPKG || status=1; done
exit $status
"#;

/// `install` takes the newest version in the sources, or the given one; a path is a deb.
const APT_GET: &str = r#"
case "$*" in *--simulate*) exit 0;; *' install '*) ;; *) exit 0;; esac
while [ "$1" != -- ]; do shift; done
shift
for word; do
    name=${word%%=*} version=${word#*=}
    case $word in
        /*) name=$(dpkg-deb --field $ROOT$word Package) version=$(dpkg-deb --field $ROOT$word Version);;
        *=*) ;;
        *) version=$(awk -v name=$name '$1 == name { print $2; exit }' $SOURCES);;
    esac
    [ -n "$version" ] || { echo "E: Unable to locate package $name" >&2; exit 100; }
    sed -i "/^$name	/d" $DPKG
    printf '%s\t%s\tinstalled\tinstall\n' $name $version >>$DPKG
done
"#;

/// `policy`, of what the sources have.
const APT_CACHE: &str = r#"
while [ "$1" != -- ]; do shift; done
shift
for name; do
    versions=$(awk -v name=$name '$1 == name { print $2 }' $SOURCES)
    [ -n "$versions" ] || continue
    set -- $versions
    printf '%s:\n  Installed: (none)\n  Candidate: %s\n  Version table:\n' $name $1
    for version in $versions; do printf '     %s 500\n        500 file:/srv ./ Packages\n' $version; done
done
"#;

/// Writes a grub.cfg with one kernel and the arguments of the drop-ins.
const UPDATE_GRUB: &str = r#"
GRUB_CMDLINE_LINUX=
for file in $ROOT/etc/default/grub.d/*.cfg; do [ ! -e $file ] || . $file; done
printf 'menuentry x {\n\tlinux /vmlinuz-5 root=x %s\n}\n' "$GRUB_CMDLINE_LINUX" >$ROOT/boot/grub/grub.cfg
"#;
