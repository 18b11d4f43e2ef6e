//! A run's connection to systemd: questions over D-Bus (org.freedesktop.systemd1(5)), jobs by `systemctl`, which follows
//! a job to its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use zbus::{DeserializeDict, OwnedObjectPath, Type};

use super::bus::Conversation;
use super::message::{Body, Call};
use super::{Active, Job, Since, Systemd, Unit};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::{Output, Patience};
use crate::host::wait::Deadline;

/// The limit of a question that systemd answers from memory.
const QUESTION: Duration = Duration::from_secs(30);

/// The limit of connecting for a question whose answer is fetched later.
const CONNECT: Duration = Duration::from_secs(1);

/// The limit of a daemon-reload, and of queueing a job.
const RELOAD: Duration = Duration::from_secs(90);

/// The limit of a question for a person who examines a node that may be broken.
const LOOK: Duration = Duration::from_secs(5);

/// systemd's object, and below it those of its units.
const MANAGER: &str = "/org/freedesktop/systemd1";

const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// systemd over D-Bus, `systemctl` and `journalctl`. Each question has its own connection: systemd sends its signals to
/// every client, and would keep in memory what an idle one does not read.
#[derive(Debug, Default)]
pub struct Pid1 {
    /// A question that was sent, and the units that it is about.
    asked: RefCell<Option<(BTreeSet<String>, Conversation)>>,
}

/// The properties of a unit of any type. Those of its type, and those that an old systemd lacks, are optional.
#[derive(Debug, Default, DeserializeDict, Type)]
#[zbus(signature = "dict", rename_all = "PascalCase")]
struct Properties {
    load_state: String,
    active_state: String,
    sub_state: String,
    result: Option<String>,
    /// Its number, 0 for none, and its path.
    job: (u32, OwnedObjectPath),
    #[zbus(rename = "InvocationID")]
    invocation_id: Option<Vec<u8>>,
    need_daemon_reload: bool,
    /// Time stamps are microseconds since 1970; 0 if there is none.
    exec_main_start_timestamp: Option<u64>,
    active_enter_timestamp: u64,
    exec_main_code: Option<i32>,
    exec_main_status: Option<i32>,
    n_restarts: Option<u32>,
    /// Of a timer: microseconds since the machine's start; 0 or the greatest number if it does not elapse.
    #[zbus(rename = "NextElapseUSecMonotonic")]
    next_elapse: Option<u64>,
}

/// The properties of systemd itself.
#[derive(Debug, DeserializeDict, Type)]
#[zbus(signature = "dict", rename_all = "PascalCase")]
struct ManagerProperties {
    system_state: String,
}

/// A unit in a list: name, description, states (load, active, sub), the unit that it follows, path, and the job's
/// number, type and path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl From<Properties> for Unit {
    fn from(properties: Properties) -> Unit {
        let status = properties.exec_main_status.unwrap_or_default();
        Unit {
            load: properties.load_state,
            active: active(&properties.active_state),
            sub: properties.sub_state,
            result: properties.result.unwrap_or_default(),
            has_job: properties.job.0 != 0,
            invocation: crate::host::hex(&properties.invocation_id.unwrap_or_default()),
            needs_reload: properties.need_daemon_reload,
            started: properties.exec_main_start_timestamp.and_then(time).or(time(properties.active_enter_timestamp)),
            // CLD_EXITED, CLD_KILLED and CLD_DUMPED of sigaction(2).
            ended: match properties.exec_main_code {
                Some(1) => format!("exit status {status}"),
                Some(2 | 3) => format!("signal {status}"),
                _ => String::new(),
            },
            restarts: properties.n_restarts,
        }
    }
}

/// The call that asks for all properties of a unit, so that they are those of one moment. systemd loads a unit that is
/// not loaded.
fn ask_for_unit(name: &str) -> Call {
    // No name of an interface means all.
    Call::new(unit_path(name), PROPERTIES, "GetAll", "")
}

/// The object of a unit. systemd escapes each character that is not a letter or a digit, and a digit at the beginning.
fn unit_path(name: &str) -> String {
    let escape = |(n, byte): (usize, u8)| {
        let is_plain = byte.is_ascii_alphabetic() || n > 0 && byte.is_ascii_digit();
        if is_plain { char::from(byte).to_string() } else { format!("_{byte:02x}") }
    };
    let escaped: String = name.bytes().enumerate().map(escape).collect();
    format!("{MANAGER}/unit/{}", if escaped.is_empty() { "_" } else { &escaped })
}

/// Makes calls and waits for their answers. `begun` has the same calls, sent earlier.
fn converse(host: &Host, calls: &[Call], begun: Option<Conversation>, limit: Duration) -> Result<Vec<Body>> {
    // It begins now, so an answer that came long ago is never too late.
    let mut deadline = Deadline::new("systemd to answer", limit);
    let mut ask = |begun: Option<Conversation>| -> Result<Result<Vec<Body>, String>> {
        match begun.map_or_else(|| Conversation::begin(host.root(), calls, &mut deadline), |begun| Ok(Ok(begun)))? {
            Ok(conversation) => conversation.end(&mut deadline),
            Err(why) => Ok(Err(why)),
        }
    };
    let mut answers = ask(begun)?;
    // systemd closes its connections when it executes itself again, e.g. after an upgrade.
    if answers.is_err() {
        answers = ask(None)?;
    }
    answers.map_err(|why| question_failed(&why))
}

fn question_failed(why: &str) -> Error {
    Error::failed("a question to systemd failed")
        .cause(why)
        .fix("see why (systemctl status), and run titus-bootstrap again; the settings timeouts.* allow more time")
}

/// Makes one call, and returns its value.
fn ask<T: DeserializeOwned + Type>(host: &Host, call: Call, limit: Duration) -> Result<T> {
    let bodies = converse(host, &[call], None, limit)?;
    let body = bodies.first().ok_or_else(|| question_failed("there is no answer"))?;
    body.decode().map_err(|why| question_failed(&why))
}

impl Systemd for Pid1 {
    fn ask(&self, host: &Host, names: &BTreeSet<String>) -> Result<()> {
        let calls: Vec<Call> = names.iter().map(|name| ask_for_unit(name)).collect();
        let mut deadline = Deadline::new("systemd to answer", CONNECT);
        // If systemd is busy or cannot be reached, `units` tries again and reports it.
        let begun = Conversation::begin(host.root(), &calls, &mut deadline)?.ok();
        *self.asked.borrow_mut() = begun.map(|begun| (names.clone(), begun));
        Ok(())
    }

    fn forget(&self) {
        *self.asked.borrow_mut() = None;
    }

    fn units(&self, host: &Host, names: &BTreeSet<String>) -> Result<Vec<Unit>> {
        let begun = self.asked.take().filter(|(asked, _)| asked == names).map(|(_, begun)| begun);
        let calls: Vec<Call> = names.iter().map(|name| ask_for_unit(name)).collect();
        let bodies = converse(host, &calls, begun, host.deadlines.unit)?;
        let unit = |body: &Body| body.decode().map(|properties: Properties| properties.into());
        bodies.iter().map(|body| unit(body).map_err(|why| question_failed(&why))).collect()
    }

    fn run_job(&self, host: &Host, job: Job<'_>) -> Result<()> {
        let limit = if job == Job::Reload { RELOAD } else { host.deadlines.unit };
        // systemctl itself follows the job.
        host.run_command(&argv(job), &[], Patience::Ends, limit).and_then(Output::succeeded).map(drop)
    }

    fn queue_job(&self, host: &Host, job: Job<'_>) -> Result<()> {
        let argv = [&["systemctl", "--no-block"], &argv(job)[1..]].concat();
        // systemd may stop this run first. That must not stop the command that queues the job.
        host.run_command(&argv, &[], Patience::Never, RELOAD).and_then(Output::succeeded).map(drop)
    }

    fn is_stopping(&self, host: &Host) -> bool {
        let call = Call::new(MANAGER.into(), PROPERTIES, "GetAll", MANAGER_INTERFACE);
        ask::<ManagerProperties>(host, call, QUESTION).is_ok_and(|manager| manager.system_state == "stopping")
    }

    fn journal(&self, host: &Host, name: &str, since: &Since) -> String {
        // journald may not have written the last messages yet. Without it, what is written has to do.
        let _ = host.run_command(&["journalctl", "--sync"], &[], Patience::Ends, Duration::from_secs(5));
        let mut argv = vec!["journalctl".to_owned()];
        // Without `--reverse`, `--lines` with `--since` gives the oldest entries before systemd 254
        // (https://github.com/systemd/systemd/issues/26657).
        argv.extend(["--reverse", "--lines=20", "--no-pager", "--output=short-iso", "--quiet"].map(str::to_owned));
        argv.extend(selection(name, since));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(10))
            .map(|output| oldest_first(&output.both))
            .unwrap_or_default()
    }

    fn failed(&self, host: &Host) -> Result<Vec<String>> {
        let call = Call::new(MANAGER.into(), MANAGER_INTERFACE, "ListUnitsFiltered", &["failed"][..]);
        Ok(names_in_order(ask(host, call, LOOK)?))
    }

    fn next_elapse(&self, host: &Host, name: &str) -> Result<Option<Duration>> {
        Ok(ask::<Properties>(host, ask_for_unit(name), LOOK)?.next_elapse())
    }

    fn has_processes(&self, host: &Host, name: &str) -> Result<bool> {
        // `1:name=systemd:/init.scope`, or `0::/init.scope`; in a container with its prefix.
        let own = host.read_text("/proc/1/cgroup")?.unwrap_or_default();
        for line in own.lines().filter(|line| line.starts_with("0::") || line.contains(":name=systemd:")) {
            let prefix = line.rsplit(':').next().unwrap_or_default().trim_end_matches("/init.scope");
            for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
                if host.entry(&format!("{hierarchy}{prefix}/system.slice/{name}"))?.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

impl Properties {
    /// How long after the machine's start an active timer elapses.
    fn next_elapse(&self) -> Option<Duration> {
        let elapses = self.next_elapse.filter(|at| self.active_state == "active" && is_set(*at));
        elapses.map(Duration::from_micros)
    }
}

/// The names of a list, ordered by type and name, without names that are only aliases of devices.
fn names_in_order(listed: Vec<Listed>) -> Vec<String> {
    let mut names: Vec<String> = listed.into_iter().filter(|unit| unit.5.is_empty()).map(|unit| unit.0).collect();
    names.sort_by_cached_key(|name| {
        let lower = name.to_lowercase();
        (lower.rsplit('.').next().map(str::to_owned), lower)
    });
    names
}

/// Whether a number of microseconds is one: systemd has 0 and the greatest number for none.
fn is_set(microseconds: u64) -> bool {
    !matches!(microseconds, 0 | u64::MAX)
}

/// A time stamp in whole seconds.
fn time(microseconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(microseconds / 1_000_000)).filter(|_| is_set(microseconds))
}

/// journalctl's options for a unit's lines (journalctl(1), systemd.time(7)). PID 1's lines about a unit have its id,
/// too.
fn selection(name: &str, since: &Since) -> Vec<String> {
    match since {
        Since::Time(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            vec![format!("--unit={name}"), format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros())]
        }
        Since::Invocation(id) => {
            vec![format!("_SYSTEMD_INVOCATION_ID={id}"), "+".into(), format!("INVOCATION_ID={id}")]
        }
    }
}

/// The reverse of journalctl's reversed entries. It indents the further lines of an entry.
fn oldest_first(newest_first: &str) -> String {
    let mut entries: Vec<String> = Vec::new();
    for line in newest_first.lines() {
        match entries.last_mut() {
            Some(entry) if line.starts_with(' ') => *entry += &format!("\n{line}"),
            _ => entries.push(line.to_owned()),
        }
    }
    entries.reverse();
    entries.join("\n")
}

fn argv(job: Job<'_>) -> Vec<&str> {
    match job {
        Job::Start(name) => vec!["systemctl", "start", "--", name],
        Job::Stop(name) => vec!["systemctl", "stop", "--", name],
        Job::Restart(name) => vec!["systemctl", "restart", "--", name],
        Job::ReloadUnit(name) => vec!["systemctl", "reload", "--", name],
        Job::ResetFailed(name) => vec!["systemctl", "reset-failed", "--", name],
        Job::Reload => vec!["systemctl", "daemon-reload"],
        Job::Reboot => vec!["systemctl", "reboot"],
    }
}

fn active(value: &str) -> Active {
    match value {
        "active" => Active::Active,
        "reloading" | "refreshing" => Active::Reloading,
        "failed" => Active::Failed,
        "activating" => Active::Activating,
        "deactivating" => Active::Deactivating,
        _ => Active::Inactive,
    }
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_answer(bytes: &[u8]) {
    for body in super::message::parse_answers(bytes) {
        drop(body.decode::<Properties>().map(|properties| (properties.next_elapse(), Unit::from(properties))));
        drop(body.decode::<Vec<Listed>>().map(names_in_order));
        drop(body.decode::<ManagerProperties>());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use zbus::{ObjectPath, Variant};

    use super::super::fake;
    use super::*;

    #[test]
    fn entries_of_the_journal_come_in_order_with_all_their_lines() {
        for (newest_first, expected) in [
            ("", ""),
            ("t b: 2\nt b: 1\n", "t b: 1\nt b: 2"),
            ("t b: 2\n     more\n     of it\nt b: 1\n", "t b: 1\nt b: 2\n     more\n     of it"),
            // Not of the journal.
            ("  x\n", "  x"),
        ] {
            assert_eq!(oldest_first(newest_first), expected);
        }
    }

    type Values<'a> = HashMap<&'static str, Variant<'a>>;

    /// The properties of a unit in systemd 229, changed by these.
    fn values(changes: &[(&'static str, Variant<'static>)]) -> Values<'static> {
        let job = Variant::from((0_u32, ObjectPath::try_from("/").unwrap()));
        let mut values: Values<'_> = HashMap::from([
            ("LoadState", "loaded".into()),
            ("ActiveState", "inactive".into()),
            ("SubState", "dead".into()),
            ("Job", job),
            ("NeedDaemonReload", false.into()),
            ("ActiveEnterTimestamp", 0_u64.into()),
            ("Conditions", vec![("ConditionPathExists", false)].into()),
        ]);
        values.extend(changes.iter().map(|(name, value)| (*name, value.try_clone().unwrap())));
        values
    }

    fn properties(changes: &[(&'static str, Variant<'static>)]) -> Properties {
        fake::body(&values(changes)).decode().unwrap()
    }

    fn unit(changes: &[(&'static str, Variant<'static>)]) -> Unit {
        properties(changes).into()
    }

    #[test]
    fn a_unit_s_object_has_its_name_with_escapes() {
        for (name, path) in [
            ("docker.service", "docker_2eservice"),
            ("a@b-c.service", "a_40b_2dc_2eservice"),
            ("0a1_é.mount", "_30a1_5f_c3_a9_2emount"),
            ("", "_"),
        ] {
            assert_eq!(unit_path(name), format!("/org/freedesktop/systemd1/unit/{path}"));
        }
    }

    #[test]
    fn properties_are_decoded() {
        let found = unit(&[
            ("ActiveState", "active".into()),
            ("SubState", "running".into()),
            ("Result", "success".into()),
            ("InvocationID", vec![0x0a_u8, 0xf1].into()),
            ("ExecMainStartTimestamp", 1_763_859_236_999_999_u64.into()),
            ("ActiveEnterTimestamp", 1_763_859_999_000_000_u64.into()),
            ("ExecMainCode", 0_i32.into()),
            ("ExecMainStatus", 0_i32.into()),
            ("NRestarts", 3_u32.into()),
        ]);
        let started = Some(UNIX_EPOCH + Duration::from_secs(1_763_859_236));
        assert!(found.is_active() && !found.needs_reload && !found.has_job);
        assert_eq!((found.invocation.as_str(), found.result.as_str()), ("0af1", "success"));
        assert_eq!((found.started, found.restarts), (started, Some(3)));
        assert_eq!(found.state_words(), "active (running), 3 restarts");
    }

    #[test]
    fn properties_that_are_missing_are_unknown() {
        let found = unit(&[]);
        let expected = Unit { load: "loaded".into(), sub: "dead".into(), ..Unit::default() };
        assert_eq!(found, expected);
        let active = unit(&[("ActiveEnterTimestamp", 7_000_001_u64.into())]);
        assert_eq!(active.started, Some(UNIX_EPOCH + Duration::from_secs(7)));
        let never = [("ExecMainStartTimestamp", 0_u64.into()), ("ActiveEnterTimestamp", u64::MAX.into())];
        assert_eq!(unit(&never).started, None);
    }

    #[test]
    fn a_unit_is_under_way_while_it_has_a_job() {
        let job = |number: u32| Variant::from((number, ObjectPath::try_from("/").unwrap()));
        for (state, number, expected) in [
            ("inactive", 71, true),
            ("activating", 0, true),
            ("deactivating", 0, true),
            ("reloading", 0, true),
            ("refreshing", 0, true),
            ("inactive", 0, false),
            ("failed", 0, false),
            ("active", 0, false),
        ] {
            let found = unit(&[("ActiveState", state.into()), ("Job", job(number))]);
            assert_eq!(found.is_under_way(), expected, "{state} {number}");
        }
    }

    #[test]
    fn the_state_of_a_unit_in_words() {
        for (state, sub, code, status, restarts, words) in [
            (
                "activating",
                "auto-restart",
                1_i32,
                7_i32,
                Some(3_u32),
                "activating (auto-restart), exit status 7, 3 restarts",
            ),
            ("failed", "failed", 2, 9, None, "failed (failed), signal 9"),
            ("failed", "failed", 3, 11, None, "failed (failed), signal 11"),
            ("active", "running", 0, 0, Some(1), "active (running), 1 restart"),
            ("maintenance", "", 0, 0, None, "inactive"),
        ] {
            let mut changes: Vec<(&'static str, Variant<'static>)> = vec![
                ("ActiveState", state.into()),
                ("SubState", sub.into()),
                ("ExecMainCode", code.into()),
                ("ExecMainStatus", status.into()),
            ];
            changes.extend(restarts.map(|restarts| ("NRestarts", restarts.into())));
            assert_eq!(unit(&changes).state_words(), words);
        }
        for (sub, is_starting) in [("start", true), ("start-pre", true), ("auto-restart", false)] {
            let found = unit(&[("ActiveState", "activating".into()), ("SubState", sub.into())]);
            assert_eq!((found.is_starting(), found.is_restarting()), (is_starting, !is_starting), "{sub}");
        }
        let queued = unit(&[("ActiveState", "activating".into()), ("SubState", "auto-restart-queued".into())]);
        assert!(queued.is_restarting());
        assert!(unit(&[("Result", "service-start-limit-hit".into())]).is_at_start_limit());
    }

    #[test]
    fn an_answer_of_the_wrong_form_is_refused() {
        let mut without_state = values(&[]);
        without_state.remove("ActiveState");
        let wrong_type = values(&[("NRestarts", "three".into())]);
        for values in [without_state, wrong_type] {
            assert_eq!(fake::body(&values).decode::<Properties>().unwrap_err(), super::super::message::NOT_DBUS);
        }
    }

    #[test]
    fn failed_units_and_the_next_elapse_of_a_timer() {
        let listed = |name: &str, follows: &str| -> Listed {
            let path = OwnedObjectPath::try_from("/").unwrap();
            let text = |text: &str| text.to_owned();
            let states = [text("loaded"), text("failed"), text("failed")];
            let [load, active, sub] = states;
            (text(name), text("What it is"), load, active, sub, text(follows), path.clone(), 0, text(""), path)
        };
        let names = ["b.timer", "B.service", "a.socket", "a.service"].map(|name| listed(name, ""));
        let found = names_in_order(names.into_iter().chain([listed("x.device", "y.device")]).collect());
        assert_eq!(found, ["a.service", "B.service", "a.socket", "b.timer"]);
        for (state, at, expected) in [
            ("active", 62_500_000_u64, Some(62_500)),
            ("active", 250, Some(0)),
            ("active", 0, None),
            ("active", u64::MAX, None),
            ("inactive", 1_000_000, None),
        ] {
            let timer = properties(&[("ActiveState", state.into()), ("NextElapseUSecMonotonic", at.into())]);
            assert_eq!(timer.next_elapse().map(|at| at.as_millis()), expected, "{state} {at}");
        }
    }

    #[test]
    fn an_excerpt_begins_with_the_start() {
        let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_012_345);
        assert_eq!(selection("x.service", &Since::Time(time)), ["--unit=x.service", "--since=@1700000000.012345"]);
        let of_start = ["_SYSTEMD_INVOCATION_ID=0af1", "+", "INVOCATION_ID=0af1"];
        assert_eq!(selection("x.service", &Since::Invocation("0af1".into())), of_start);
    }

    fn answer_units(peer: &mut fake::Peer) {
        peer.accept();
        for state in ["active", "failed"] {
            let (serial, path, method) = peer.call();
            let name = if state == "active" { "a_40b_2dc_2eservice" } else { "x_2eservice" };
            assert_eq!((path, method.as_str()), (unit_path("").replace("/_", &format!("/{name}")), "GetAll"));
            peer.answer(serial, &values(&[("ActiveState", state.into())]));
        }
        peer.wait_for_end();
    }

    fn close(peer: &mut fake::Peer) {
        peer.accept();
        peer.call();
    }

    #[test]
    fn a_connection_that_systemd_closes_is_made_again_once() {
        let names = BTreeSet::from(["a@b-c.service".to_owned(), "x.service".to_owned()]);
        for asks_first in [false, true] {
            let (directory, mut host) = Host::temporary();
            host.deadlines.unit = Duration::from_secs(30);
            let systemd = Pid1::default();
            let server = fake::systemd(directory.path(), vec![close, answer_units, close, close]);
            if asks_first {
                systemd.ask(&host, &names).unwrap();
            }
            let states: Vec<Active> = systemd.units(&host, &names).unwrap().iter().map(|unit| unit.active).collect();
            assert_eq!(states, [Active::Active, Active::Failed]);
            let error = systemd.units(&host, &names).unwrap_err();
            assert_eq!(error.what, "a question to systemd failed");
            assert!(error.cause.unwrap().starts_with("it closed the connection"));
            server.join().unwrap();
        }
    }

    #[test]
    fn answers_that_were_asked_for_are_used_for_the_same_units_only() {
        let names = BTreeSet::from(["a@b-c.service".to_owned(), "x.service".to_owned()]);
        let (directory, mut host) = Host::temporary();
        host.deadlines.unit = Duration::from_secs(30);
        let systemd = Pid1::default();
        let server = fake::systemd(directory.path(), vec![answer_units, close, answer_units]);
        systemd.ask(&host, &names).unwrap();
        assert_eq!(systemd.units(&host, &names).unwrap().len(), 2);
        systemd.ask(&host, &BTreeSet::from(["other.service".to_owned()])).unwrap();
        assert_eq!(systemd.units(&host, &names).unwrap().len(), 2);
        systemd.forget();
        server.join().unwrap();
    }
}
