//! An operator's command runs if its check, or the path that it creates, shows that its work is not done.

use std::fs;
use std::time::Duration;

use titus_bootstrap::error::Kind;

use crate::support::simulated::Machine;

fn step(keys: &str) -> String {
    format!("[[step]]\nid = 'own'\nphase = 'boot'\ncommand = {{ {keys} }}\n")
}

const CHECKED: &str = "argv = ['disks', '--format', 'a b'], check = ['disks-check']";

/// A machine with a command that does its work, and one that checks the result.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.command("disks", "echo formatting; echo \"$2\" >$ROOT/done");
    machine.command("disks-check", "echo looked; test -e $ROOT/done || exit 3");
    machine
}

#[test]
fn a_command_runs_until_its_check_passes_and_never_again() {
    let machine = machine();
    let steps = machine.steps(&step(CHECKED));
    let due = "run `disks --format a b` (`disks-check` ended with exit status: 3)";
    assert_eq!(machine.plan(&steps).ends_well().lines(), [due]);
    assert_eq!(machine.calls(), ["disks-check"], "a plan runs the check alone");
    let run = machine.apply(&steps).ends_well();
    assert_eq!((run.states(), run.lines()), (vec!["own changed".to_owned()], vec![due.to_owned()]));
    assert!(run.report.text().contains(" formatting\n"), "{}", run.report.text());
    assert_eq!(machine.root.read("/done"), "a b\n", "an argument is one, whatever is in it");
    machine.calls();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["own in_sync"]);
    assert!(machine.calls().iter().all(|call| call == "disks-check"));
    fs::remove_file(machine.root.at("/done")).unwrap();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["own changed"]);
}

#[test]
fn a_command_whose_work_is_not_done_fails_with_what_both_printed() {
    let machine = machine();
    machine.command("disks", "echo out; echo err >&2");
    let run = machine.apply(&machine.steps(&step(CHECKED)));
    let error = run.fails();
    assert_eq!(error.kind, Kind::Failed);
    assert!(error.what.contains("step 1/1 own: `disks --format a b` ended with exit status: 0"), "{error}");
    assert!(error.what.contains("`disks-check` ended with exit status: 3"), "{error}");
    assert_eq!(error.cause.as_deref(), Some("out\nerr\nlooked"));

    machine.command("disks", "seq 100; exit 7");
    let run = machine.apply(&machine.steps(&step(CHECKED)));
    let error = run.fails();
    assert!(error.what.contains("`disks --format a b` failed: exit status: 7"), "{error}");
    let cause = error.cause.as_deref().unwrap();
    assert!(cause.starts_with("81\n") && cause.ends_with("\n100"), "{cause}");
    assert_eq!(run.events.last().unwrap(), "failed own");
}

#[test]
fn a_command_that_does_not_end_is_ended() {
    let machine = machine();
    machine.command("disks", "echo begun; exec tail -f /dev/null");
    // No check, because the limit holds for it, too; and long enough for `echo` on a busy machine.
    let run = machine.apply(&machine.steps(&step("argv = ['disks'], creates = '/done', timeout = '3s'")));
    let error = run.fails();
    assert!(error.what.contains("`disks` did not end within 3s"), "{error}");
    assert!(error.cause.as_deref().unwrap().contains("begun"), "{error}");
}

#[test]
fn what_a_command_creates_restarts_what_reads_it() {
    let machine = machine();
    machine.unit_file("x.service");
    machine.command("keys", "mkdir -p $ROOT/etc; echo $RANDOM$$ >$ROOT/etc/keys");
    let role = step("argv = ['keys'], creates = '/etc/keys'")
        + "[[step]]\nid = 'x'\nphase = 'boot'\nunit = { name = 'x.service', active = true, restart_on = ['own'] }\n";
    let steps = machine.steps(&role);
    assert_eq!(machine.plan(&steps).ends_well().lines()[0], "run `keys` (/etc/keys does not exist)");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["own changed", "x changed"]);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["own in_sync", "x in_sync"]);
    machine.systemd.jobs();
    fs::remove_file(machine.root.at("/etc/keys")).unwrap();
    let lines = machine.plan(&steps).ends_well().lines();
    assert!(lines[1].starts_with("restart x.service (its files will have changed"), "{lines:?}");
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["restart x.service"]);
}

#[test]
fn a_check_that_an_earlier_step_brings_is_not_run_before() {
    let machine = Machine::new();
    let script = "[[step]]\nid = 'script'\nphase = 'boot'\n\
                  file = { path = '/usr/local/sbin/own', mode = '0755', content = \"#!/bin/sh\\nexit 0\\n\" }\n";
    let own = step("argv = ['/usr/local/sbin/own'], check = ['/usr/local/sbin/own', '--check']");
    let steps = machine.steps(&format!("{script}{own}"));
    let lines = machine.plan(&steps).ends_well().lines();
    assert_eq!(lines[1], "run `/usr/local/sbin/own` (an earlier step writes its check)");
    let mut run = machine.apply(&steps);
    // This process wrote the script. A child that another test forked in that moment has it open until it executes its own
    // program.
    while run.result.as_ref().is_err_and(|error| error.to_string().contains("Text file busy")) {
        fs::remove_file(machine.root.at("/usr/local/sbin/own")).unwrap();
        run = machine.apply(&steps);
    }
    assert_eq!(run.ends_well().states(), ["script changed", "own in_sync"]);
    // Nothing provides it.
    fs::remove_file(machine.root.at("/usr/local/sbin/own")).unwrap();
    let alone = machine.steps(&own);
    assert_eq!(machine.plan(&alone).ends_well().states(), ["own blocked"]);
    let words = machine.apply(&alone).fails().to_string();
    assert!(words.contains("/usr/local/sbin/own does not exist: an earlier step must provide it"), "{words}");
}

#[test]
fn a_command_has_the_variables_of_the_proxy_and_none_of_the_caller() {
    let mut machine = machine();
    machine.command(
        "disks",
        "env | grep -v '^_=\\|^PATH=\\|^ROOT=\\|^DPKG=\\|^SOURCES=' | sort >$ROOT/done; pwd >$ROOT/pwd",
    );
    let steps = machine.steps(&step(CHECKED));
    machine.apply(&steps).ends_well();
    let pwd = format!("PWD={}\n", machine.root.path().display());
    assert_eq!(machine.root.read("/done").replace(&pwd, ""), "HOME=/root\nLANG=C\nLC_ALL=C\nTZ=UTC\n");
    assert_eq!(machine.root.read("/pwd").trim(), machine.root.path().to_str().unwrap());
    machine.host.proxy.https = Some("http://p:3128".into());
    let variables = machine.host.environment_of_commands();
    let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
    assert_eq!(
        (of("https_proxy"), of("HTTPS_PROXY"), of("http_proxy")),
        (Some("http://p:3128"), of("https_proxy"), None)
    );
    let direct: Vec<&str> = of("no_proxy").unwrap().split(',').collect();
    for address in ["169.254.169.254", "127.0.0.1", "localhost", "127.0.0.0/8", "::1", "fe80::/10", "fd00:ec2::/32"] {
        assert!(direct.contains(&address), "{address}: {direct:?}");
    }
    assert!(machine.host.deadlines.wait > Duration::ZERO);
}

#[test]
fn a_check_that_a_package_will_bring_is_not_missing_yet() {
    let machine = Machine::new();
    machine.offer("jq", "1.6");
    let checked = step("argv = ['disks'], check = ['jq-check']");
    let package = "[[step]]\nid = 'packages'\nphase = 'boot'\npackage = { names = ['jq'] }\n";
    let plan = machine.plan(&machine.steps(&format!("{package}{checked}"))).ends_well();
    assert_eq!(plan.lines()[1], "run `disks` (its check jq-check does not exist yet)");
    assert_eq!(machine.plan(&machine.steps(&checked)).ends_well().states(), ["own blocked"]);
}
