//! A run's connection to systemd: the command `systemctl`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Active, Definition, Job, Since, Systemd, Unit};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::{Output, Patience, Started};

/// The limit of a question that systemd answers from memory.
const QUESTION: Duration = Duration::from_secs(30);

/// The limit of a daemon-reload, and of queueing a job.
const RELOAD: Duration = Duration::from_secs(90);

/// The limit of a question for a person who examines a node that may be broken.
const LOOK: Duration = Duration::from_secs(5);

const STATE: &str = "--property=LoadState,ActiveState,SubState,Result,Job,InvocationID,NeedDaemonReload,ExecMainStartTimestamp,ActiveEnterTimestamp,ExecMainCode,ExecMainStatus,NRestarts";
const DEFINITION: &str = "--property=UnitFileState,FragmentPath,DropInPaths,ExecStart";

/// systemd through `systemctl` and `journalctl`.
#[derive(Debug, Default)]
pub struct Systemctl {
    /// A question that was started, and the units that it is about.
    asked: RefCell<Option<(BTreeSet<String>, Started)>>,
}

impl Systemctl {
    fn start(&self, host: &Host, names: &BTreeSet<String>) -> Result<Started> {
        let mut argv = vec!["systemctl", "show", STATE, "--"];
        argv.extend(names.iter().map(String::as_str));
        host.start_command(&argv, &[], host.deadlines.unit)
    }
}

impl Systemd for Systemctl {
    fn ask(&self, host: &Host, names: &BTreeSet<String>) -> Result<()> {
        *self.asked.borrow_mut() = Some((names.clone(), self.start(host, names)?));
        Ok(())
    }

    fn forget(&self) {
        *self.asked.borrow_mut() = None;
    }

    fn units(&self, host: &Host, names: &BTreeSet<String>) -> Result<Vec<Unit>> {
        let begun = self.asked.borrow_mut().take_if(|(asked, _)| asked == names);
        let started = begun.map_or_else(|| self.start(host, names), |(_, started)| Ok(started))?;
        let output = started.end()?.succeeded()?;
        let units: Vec<Unit> = output.stdout.split("\n\n").map(parse).collect();
        if units.len() != names.len() {
            return Err(Error::failed(format!("`{}` printed {} units", output.command, units.len())));
        }
        Ok(units)
    }

    fn definition(&self, host: &Host, name: &str) -> Result<Definition> {
        let output = host.run_command(&["systemctl", "show", DEFINITION, "--", name], &[], Patience::Ends, QUESTION)?;
        Ok(parse_definition(&output.succeeded()?.stdout))
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
        let output = host.run_command(&["systemctl", "is-system-running"], &[], Patience::Ends, QUESTION);
        output.is_ok_and(|output| output.stdout.trim() == "stopping")
    }

    fn journal(&self, host: &Host, name: &str, since: &Since) -> String {
        let mut argv = vec!["journalctl".to_owned()];
        argv.extend(["--lines=20", "--no-pager", "--output=short-iso", "--quiet"].map(str::to_owned));
        argv.extend(selection(name, since));
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(10))
            .map(|output| output.both)
            .unwrap_or_default()
    }

    fn failed(&self, host: &Host) -> Result<Vec<String>> {
        let argv = ["systemctl", "list-units", "--state=failed", "--no-legend", "--no-pager", "--full"];
        let output = host.run_command(&argv, &[], Patience::Ends, LOOK)?;
        Ok(parse_list(&output.succeeded()?.stdout))
    }

    fn next_elapse(&self, host: &Host, name: &str) -> Result<Option<Duration>> {
        let argv = ["systemctl", "show", "--property=ActiveState,NextElapseUSecMonotonic", "--", name];
        let output = host.run_command(&argv, &[], Patience::Ends, LOOK)?;
        Ok(parse_next_elapse(&output.succeeded()?.stdout))
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

fn properties(block: &str) -> impl Iterator<Item = (&str, &str)> {
    block.lines().filter_map(|line| line.split_once('='))
}

fn parse(block: &str) -> Unit {
    let mut unit = Unit::default();
    let (mut active_since, mut code, mut status) = (None, "", "");
    for (key, value) in properties(block) {
        match key {
            "LoadState" => unit.load = value.into(),
            "ActiveState" => unit.active = active(value),
            "SubState" => unit.sub = value.into(),
            "Result" => unit.result = value.into(),
            // A unit without a job has `Job=`, `Job=0` or no such line, depending on systemd's version.
            "Job" => unit.has_job = !matches!(value, "" | "0"),
            "InvocationID" => unit.invocation = value.into(),
            "NeedDaemonReload" => unit.needs_reload = value == "yes",
            "ExecMainStartTimestamp" => unit.started = time(value),
            "ActiveEnterTimestamp" => active_since = time(value),
            "ExecMainCode" => code = value,
            "ExecMainStatus" => status = value,
            "NRestarts" => unit.restarts = value.parse().ok(),
            _ => {}
        }
    }
    unit.started = unit.started.or(active_since);
    // CLD_EXITED, CLD_KILLED and CLD_DUMPED of sigaction(2).
    unit.ended = match code {
        "1" => format!("exit status {status}"),
        "2" | "3" => format!("signal {status}"),
        _ => String::new(),
    };
    unit
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_output(text: &str) {
    let _ = (parse(text), parse_definition(text), parse_list(text), parse_next_elapse(text));
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

/// `Mon 2026-11-23 00:53:56 UTC`: systemctl's form with TZ=UTC, in whole seconds.
fn time(text: &str) -> Option<SystemTime> {
    let mut words = text.split(' ').skip(1);
    let (date, clock) = (words.next()?, words.next()?);
    humantime::parse_rfc3339(&format!("{date}T{clock}Z")).ok()
}

fn parse_definition(block: &str) -> Definition {
    let mut definition = Definition::default();
    for (key, value) in properties(block) {
        match key {
            "UnitFileState" => definition.enabled = value.into(),
            "FragmentPath" => definition.fragment = value.into(),
            "DropInPaths" => definition.drop_ins = value.split_whitespace().map(str::to_owned).collect(),
            "ExecStart" => definition.exec_start.push(value.into()),
            _ => {}
        }
    }
    definition
}

/// The names of `list-units`; systemd prints a mark before a failed unit.
fn parse_list(text: &str) -> Vec<String> {
    let name = |line: &str| line.split_whitespace().find(|word| word.contains('.')).map(str::to_owned);
    text.lines().filter_map(name).collect()
}

/// How long after the machine's start an active timer elapses. systemd prints a time span: `1h 2min 3.045s`.
fn parse_next_elapse(block: &str) -> Option<Duration> {
    let value = |name: &str| properties(block).find(|(key, _)| *key == name).map(|(_, value)| value.trim());
    if value("ActiveState") != Some("active") {
        return None;
    }
    let mut total = Duration::ZERO;
    let mut words = value("NextElapseUSecMonotonic")?.split_whitespace().peekable();
    words.peek()?;
    for word in words {
        let unit = word.find(|c: char| c.is_ascii_alphabetic())?;
        let (number, unit) = (word.get(..unit)?.parse::<f64>().ok()?, word.get(unit..)?);
        let seconds = match unit {
            "y" => 31_557_600.0,
            "month" => 2_629_800.0,
            "w" => 604_800.0,
            "d" => 86_400.0,
            "h" => 3600.0,
            "min" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_units_and_the_next_elapse_of_a_timer_are_read() {
        let list = "● a.service loaded failed failed What it is, v1.2\n  b.timer loaded failed failed B\n\n";
        assert_eq!(parse_list(list), ["a.service", "b.timer"]);
        let at = |span: &str| parse_next_elapse(&format!("NextElapseUSecMonotonic={span}\nActiveState=active\n"));
        for (span, expected) in [
            ("1min 2.5s", Some(62_500)),
            ("1h 1s 3ms", Some(3_601_003)),
            ("250us", Some(0)),
            ("2d 1h", Some(176_400_000)),
            ("infinity", None),
            ("", None),
            ("1x", None),
            ("-1s", None),
            ("1e300y", None),
        ] {
            assert_eq!(at(span).map(|span| span.as_millis()), expected, "{span}");
        }
        assert_eq!(parse_next_elapse("ActiveState=inactive\nNextElapseUSecMonotonic=1s"), None);
    }

    #[test]
    fn a_unit_is_under_way_while_it_has_a_job() {
        assert!(parse("ActiveState=inactive\nJob=71\n").is_under_way());
        assert!(parse("ActiveState=activating\n").is_under_way());
        for properties in ["ActiveState=inactive\n", "ActiveState=failed\nJob=\n", "ActiveState=active\nJob=0\n"] {
            assert!(!parse(properties).is_under_way(), "{properties}");
        }
    }

    #[test]
    fn systemctl_show_is_parsed() {
        let unit = parse(
            "ExecMainStartTimestamp=Mon 2026-11-23 00:53:56 UTC\nLoadState=loaded\nActiveState=active\nResult=success\n\
             SubState=running\nInvocationID=0af1\nNeedDaemonReload=no\nActiveEnterTimestamp=",
        );
        assert!(unit.is_active() && !unit.needs_reload);
        assert_eq!((unit.invocation.as_str(), unit.result.as_str()), ("0af1", "success"));
        assert_eq!(unit.started, Some(humantime::parse_rfc3339("2026-11-23T00:53:56Z").unwrap()));
        assert_eq!(parse("LoadState=not-found\nActiveState=inactive").started, None);
        for (sub, is_starting) in [("start", true), ("start-pre", true), ("auto-restart", false)] {
            assert_eq!(parse(&format!("ActiveState=activating\nSubState={sub}")).is_starting(), is_starting, "{sub}");
        }
    }

    #[test]
    fn the_state_of_a_unit_in_words() {
        for (properties, words) in [
            (
                "ActiveState=activating\nSubState=auto-restart\nExecMainCode=1\nExecMainStatus=7\nNRestarts=3",
                "activating (auto-restart), exit status 7, 3 restarts",
            ),
            ("ActiveState=failed\nSubState=failed\nExecMainCode=2\nExecMainStatus=9", "failed (failed), signal 9"),
            ("ActiveState=active\nSubState=running\nExecMainCode=0\nNRestarts=1", "active (running), 1 restart"),
            ("ActiveState=inactive\nNRestarts=x", "inactive"),
        ] {
            assert_eq!(parse(properties).state_words(), words);
        }
        assert!(parse("ActiveState=activating\nSubState=auto-restart-queued").is_restarting());
        assert!(parse("Result=service-start-limit-hit").is_at_start_limit());
    }

    #[test]
    fn an_excerpt_begins_with_the_start() {
        let time = UNIX_EPOCH + Duration::from_micros(1_700_000_000_012_345);
        assert_eq!(selection("x.service", &Since::Time(time)), ["--unit=x.service", "--since=@1700000000.012345"]);
        let of_start = ["_SYSTEMD_INVOCATION_ID=0af1", "+", "INVOCATION_ID=0af1"];
        assert_eq!(selection("x.service", &Since::Invocation("0af1".into())), of_start);
    }

    #[test]
    fn the_effective_definition_is_parsed() {
        let definition = parse_definition(
            "ExecStart={ path=/bin/a ; argv[]=/bin/a --x=y ; ignore_errors=no }\nUnitFileState=enabled\n\
             FragmentPath=/lib/systemd/system/x.service\nDropInPaths=/etc/systemd/system/x.service.d/a.conf /run/b.conf\n",
        );
        assert_eq!((definition.enabled.as_str(), definition.drop_ins.len()), ("enabled", 2));
        assert_eq!(definition.fragment, "/lib/systemd/system/x.service");
        assert!(definition.exec_start[0].contains("/bin/a --x=y"), "{definition:?}");
        assert_eq!(parse_definition("FragmentPath=\n"), Definition::default());
    }
}
