//! Exit codes follow sysexits(3): one table for all commands. And the messages for two runs at once,
//! and for a user without rights.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use support::metadata::{Fault, Metadata, sample};
use support::root::{Root, ask, assert_same, outcome, run};
use support::user;

const LOCK: &str = "/run/titus-bootstrap/lock";

/// Holds the lock as a run does that began at midnight.
fn hold(root: &Root) -> Flock<fs::File> {
    root.write(LOCK, "");
    let file = fs::OpenOptions::new().read(true).write(true).open(root.at(LOCK)).unwrap();
    let mut held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    held.write_all(b"4711 2018-05-15T00:00:00Z\n").unwrap();
    held
}

#[test]
fn the_table() {
    let root = Root::empty();
    let root_path = root.path().to_str().unwrap();
    let sample = |arguments: &[&str]| root.sample(arguments).code;
    assert_eq!(run(&["--version"]).code, 0);
    assert_eq!(run(&["--help"]).code, 0);
    assert_eq!(run(&["version"]).code, 0);
    assert_eq!(sample(&["plan"]), 0, "changes, and nobody asked for 2");
    assert_eq!(sample(&["plan", "--detailed-exitcode"]), 2);
    assert_eq!(sample(&["status"]), 1, "it drifts");
    assert_eq!(sample(&[]), 0);
    assert_eq!(sample(&["plan", "--detailed-exitcode"]), 0);
    assert_eq!(sample(&["status"]), 0);

    fs::remove_file(root.at("/etc/titus-shared.env")).unwrap();
    fs::create_dir(root.at("/etc/titus-shared.env")).unwrap();
    assert_eq!(sample(&[]), 69, "something is in a step's way");
    assert_eq!(sample(&["plan"]), 69);
    fs::remove_dir(root.at("/etc/titus-shared.env")).unwrap();
    root.fails_half_way();
    assert_eq!(sample(&["status"]), 1, "the last run failed");

    assert_eq!(run(&["--no-such-flag"]).code, 64);
    assert_eq!(run(&["config"]).code, 64);
    assert_eq!(run(&["instance-type"]).code, 64);
    assert_eq!(run(&["plna", "--root", root_path]).code, 64);
    assert_eq!(sample(&["--set", "agent.supported_families=[\"r4\"]"]), 69);
    let absent = ["--role", "agent", "--set", "timeouts.facts=100ms"];
    let mut asks_nobody = root.program(&absent);
    assert_eq!(outcome(ask(&mut asks_nobody, "http://127.0.0.1:9")).code, 75);
    assert_eq!(root.run(&absent).code, 69, "asking is forbidden by a variable");
    assert_eq!(user::run(&[]).code, 77);
    assert_eq!(sample(&["--set", "stakc=x"]), 78);
    assert_eq!(run(&["instance-type", "m9.large"]).code, 78);
}

#[test]
fn every_code_is_in_the_help() {
    let help = run(&["--help"]).ends_with(0).out;
    for code in ["0 ", "1 ", "2 ", "64 ", "69 ", "75 ", "77 ", "78 "] {
        let codes = help.split_once("Exit codes:").unwrap().1;
        assert!(codes.contains(&format!(" {code}")) || codes.contains(&format!("\n{code}")), "{code} in {codes}");
    }
}

#[test]
fn a_misspelt_command_is_not_a_settings_file() {
    for arguments in [&["plna"][..], &["apply", "plna"], &["plan", "plna"], &["plna", "--sample"]] {
        user::run(arguments).ends_with(64).reports(&["no command \"plna\"", "did you mean `plan`?", "./plna"]);
    }
}

#[test]
fn a_second_run_learns_who_is_at_work() {
    let root = Root::empty();
    let held = hold(&root);
    let before = root.look();
    let lock = root.read(LOCK);
    let message = ["another run is at work", "process 4711, since 2018-05-15T00:00:00Z", "--lock-wait"];
    root.sample(&[]).ends_with(75).reports(&message);
    root.sample(&["--lock-wait", "300ms"]).ends_with(75).reports(&message);
    assert_same(&before, &root.look(), "a refused run changed something");
    assert_eq!(root.read(LOCK), lock);
    // Only apply takes the lock.
    root.sample(&["plan"]).ends_with(0);
    drop(held);
    root.sample(&[]).ends_with(0);
}

fn spawn(mut command: std::process::Command) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    (child, stderr)
}

#[test]
fn a_run_that_may_wait_goes_on_when_the_other_has_ended() {
    let root = Root::empty();
    let held = hold(&root);
    let (mut child, stderr) = spawn(root.program(&["--role", "agent", "--sample", "--lock-wait", "1m"]));
    let mut held = Some(held);
    let lines: Vec<String> = stderr
        .lines()
        .map(|line| {
            let line = line.unwrap();
            if line.contains("waiting up to 1m for another run: process 4711") {
                held = None;
            }
            line
        })
        .collect();
    assert!(held.is_none(), "{lines:?}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    root.sample(&[]).ends_with(0).prints(&["nothing to do"]);
}

#[test]
fn a_run_holds_the_lock_before_it_asks_anything() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    metadata.fault(Fault::Hang);
    let mut command = root.program(&["--role", "agent", "--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"]);
    command.args(["--set", "agent.resources={ mem = 1, disk = 1 }"]);
    ask(&mut command, &metadata.endpoint());
    let (mut child, _told) = spawn(command);
    let started = Instant::now();
    while metadata.requests().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(30), "the run never asked the service");
        std::thread::sleep(Duration::from_millis(10));
    }
    root.sample(&[]).ends_with(75).reports(&[&format!("process {}, since 2", child.id())]);
    metadata.clear_faults();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_failed_step_is_named_with_the_way_to_fix_it() {
    let root = Root::empty();
    let failed = root.fails_half_way();
    let first = failed.err.lines().next().unwrap();
    assert!(first.starts_with("titus-bootstrap: half: step 2/3 large: /etc/large: "), "{first}");
    failed.reports(&["fix:"]);
    // What came before stays, what comes after was not begun; the next run goes on.
    assert!(root.at("/etc/one").exists() && !root.at("/etc/large").exists() && !root.at("/etc/three").exists());
    let kept = root.read("/var/log/titus-bootstrap/last.log");
    assert!(kept.contains("failed: half: step "), "{kept}");
    root.run(&["--role", "half", "--sample"]).ends_with(0);
    assert_eq!(root.read("/etc/three"), "3");
}

#[test]
fn an_obstacle_of_a_step_is_named_before_the_first_change() {
    let root = Root::empty();
    fs::create_dir_all(root.at("/etc/titus-shared.env")).unwrap();
    let before = root.stamps();
    for words in [&["plan"][..], &[]] {
        let refused = root.sample(words).ends_with(69);
        refused.reports(&[
            "titus-bootstrap: agent: step ",
            " titus-shared: /etc/titus-shared.env is a directory",
            "mv /etc/titus-shared.env",
        ]);
        assert!(!root.at("/etc/systemd/system/docker.service.d/10-docker-config.conf").exists());
    }
    let own = |path: &&String| !path.starts_with("/run") && !path.starts_with("/var");
    let after = root.stamps();
    assert!(after.keys().filter(own).all(|path| before.get(path) == after.get(path) || path == "/"));
    fs::remove_dir(root.at("/etc/titus-shared.env")).unwrap();
    root.sample(&[]).ends_with(0);
    let whole = Root::empty();
    whole.sample(&[]).ends_with(0);
    assert_same(&whole.made(), &root.made(), "after a refused run");
}

#[test]
fn an_ordinary_user_on_the_live_machine() {
    user::run(&["--role", "agent"]).ends_with(77).reports(&["only root", "sudo ", " --role agent"]);
    user::run(&["apply", "--role", "agent"]).ends_with(77).reports(&["sudo ", " apply --role agent"]);
}

#[test]
fn the_sudo_line_can_be_pasted() {
    let output = user::run(&["--role", "agent", "--set", "agent.resources={ mem = 1 }"]).ends_with(77).err;
    let line = output.lines().find_map(|line| line.split_once("sudo ")).unwrap().1;
    let script = format!("set -- {line}; shift; printf '%s\\n' \"$@\"");
    let read = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(
        String::from_utf8(read.stdout).unwrap(),
        "--role\nagent\n--set\nagent.resources={ mem = 1 }\n",
        "{line}"
    );
}

#[test]
fn made_up_facts_on_the_live_machine() {
    for arguments in
        [&["--role", "agent", "--sample"][..], &["apply", "--sample"], &["--facts", "/x", "--role", "agent"]]
    {
        user::run(arguments).ends_with(64).reports(&["on the live machine", "--root ./node"]);
    }
}
