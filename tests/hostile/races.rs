//! Two runs at once, and paths that another process changes while a run uses them.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use titus_bootstrap::host::fs::Owner;
use titus_bootstrap::host::{Deadlines, Host, signals};

use crate::support::root::{Root, ask, into_outcome, isolated, program};
use crate::support::user::NOBODY;

/// Passes to a copy of this test binary the two names to swap.
const SWAP: &str = "TITUS_BOOTSTRAP_TEST_SWAP";

/// Makes a copy of it listen for signals.
const LISTEN: &str = "TITUS_BOOTSTRAP_TEST_LISTEN";

/// How often the other process swaps at least.
const SWAPS: u32 = 10_000;

/// How many pairs of runs, and groups of ten: a few, or `PAIRS=200` and `GROUPS=20` in the environment.
const PAIRS: usize = 8;
const GROUPS: usize = 2;

/// How many an environment variable says.
pub fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

/// A copy of this test binary that runs a test of this file.
fn copy(test: &str, variable: &str, value: impl AsRef<std::ffi::OsStr>) -> Command {
    let module = module_path!().split_once("::").unwrap().1;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--nocapture"]).env(variable, value);
    command
}

/// Swaps `way` and `link` in the directory that another test has named, so often and until its input ends; else nothing.
/// It ends with both in their places.
#[test]
fn swapping_copy() {
    let Ok(directory) = std::env::var(SWAP) else { return };
    let (way, link) = (Path::new(&directory).join("way"), Path::new(&directory).join("link"));
    let rest = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut swaps = 0;
    while swaps < SWAPS || swaps % 2 == 1 || !rest.is_finished() {
        renameat2(AT_FDCWD, &way, AT_FDCWD, &link, RenameFlags::RENAME_EXCHANGE).unwrap();
        swaps += 1;
    }
}

/// Starts it. It swaps on until its input is closed.
fn swap(directory: &Path) -> Child {
    copy("swapping_copy", SWAP, directory).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// What the door does while a directory on the way is now that and now a link to `target`.
fn swapped(target: &str, owner: Option<u32>) {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "outside").unwrap();
    fs::create_dir(outside.path().join("below")).unwrap();
    fs::write(outside.path().join("below/file"), "outside").unwrap();
    let inside = outside.path().join("root");
    fs::create_dir_all(inside.join("way/below")).unwrap();
    fs::write(inside.join("way/file"), "inside").unwrap();
    fs::write(inside.join("way/below/file"), "inside").unwrap();
    symlink(target.replace("OUTSIDE", outside.path().to_str().unwrap()), inside.join("link")).unwrap();
    if let Some(owner) = owner {
        std::os::unix::fs::lchown(inside.join("link"), Some(owner), Some(owner)).unwrap();
    }
    let host = Host::tree(&inside, Deadlines::default()).unwrap();
    let mut swapper = swap(&inside);
    // It ends after its number of swaps.
    drop(swapper.stdin.take());
    let (mut read, mut written) = (0_u32, 0_u32);
    // The last turn is after its end, when the directory is in its place: on a busy machine it may be the only one.
    let mut has_ended = false;
    while !has_ended {
        has_ended = swapper.try_wait().unwrap().is_some();
        for path in ["/way/file", "/way/below/file"] {
            if let Ok(Some(bytes)) = host.read(path) {
                assert_ne!(bytes, b"outside", "a read left the root");
                read += 1;
            }
            if host.write(path, b"inside", 0o600, Owner::ROOT).is_ok() {
                written += 1;
            }
        }
        let _ = host.append("/way/log", "line");
        let _ = host.entry("/way/below");
        let _ = host.list("/way");
        let _ = host.set_attributes("/way/below", 0o755, Owner::ROOT);
        let _ = host.make_directory("/way/made", 0o755, Owner::ROOT);
        let _ = host.link("/way/made/link", "x");
        let _ = host.move_aside("/way/log");
        let _ = host.remove("/way/log.saved");
        let _ = host.remove_tree("/way/made");
    }
    assert!(swapper.wait().unwrap().success());
    assert!(read > 0 && written > 0, "{read} reads and {written} writes");
    let mut names: Vec<String> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["below", "file", "root"], "something was made outside");
    for file in ["file", "below/file"] {
        let path = outside.path().join(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "outside", "{file} was written");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644, "{file}");
    }
    assert_eq!(fs::read_dir(outside.path().join("below")).unwrap().count(), 1);
}

#[test]
fn a_component_that_another_process_swaps_for_a_link_never_leads_out_of_the_root() {
    // With the name of the outside, and with dots: below the root both lead nowhere.
    swapped("OUTSIDE", None);
    swapped("../../../../../../../../OUTSIDE", None);
    swapped("..", None);
}

#[test]
fn a_component_that_another_user_swaps_for_a_link_is_not_followed() {
    if nix::unistd::geteuid().is_root() {
        swapped("OUTSIDE", Some(NOBODY));
        swapped("/", Some(NOBODY));
    }
}

#[test]
fn whole_runs_beside_a_process_that_swaps_stay_in_their_root() {
    let outside = Root::empty();
    outside.write("/10-ens3.network", "outside");
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    // The directory of the network's files, and a link to the same name outside.
    let directory = root.at("/etc/systemd");
    fs::rename(directory.join("network"), directory.join("way")).unwrap();
    symlink("way", directory.join("network")).unwrap();
    symlink(outside.path(), directory.join("link")).unwrap();
    let before = outside.look();
    let mut swapper = swap(&directory);
    for _ in 0..5 {
        // It may fail: its directory comes and goes.
        root.sample(&[]);
    }
    drop(swapper.stdin.take());
    assert!(swapper.wait().unwrap().success());
    assert_eq!(outside.look(), before);
}

/// Lets so many first runs begin at once on one tree. All end with 0, and one of them does all the work.
fn at_once(runs: usize) {
    let root = Root::empty();
    let children: Vec<Child> = (0..runs)
        .map(|_| {
            let mut command = root.program(&["--role", "agent", "--sample", "--json", "--lock-wait", "10m"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut worked = 0;
    for child in children {
        let outcome = into_outcome(child.wait_with_output().unwrap()).ends_with(0);
        worked += u32::from(!outcome.steps("changed").is_empty());
        assert!(!outcome.err.contains("Auto Scaling") && !outcome.err.contains("warning"), "{}", outcome.transcript());
    }
    assert_eq!(worked, 1, "one after the other: the second finds nothing to do");
    assert_eq!(root.half_written(), [""; 0]);
}

#[test]
fn pairs_of_first_runs_all_end_well() {
    (0..number("PAIRS", PAIRS)).for_each(|_| at_once(2));
}

#[test]
fn groups_of_ten_first_runs_all_end_well() {
    (0..number("GROUPS", GROUPS)).for_each(|_| at_once(10));
}

#[test]
fn a_directory_that_two_make_at_once_is_made() {
    let directory = tempfile::tempdir().unwrap();
    for turn in 0..200 {
        let start = Barrier::new(4);
        let make = || {
            let host = Host::tree(directory.path(), Deadlines::default()).unwrap();
            start.wait();
            host.make_directory(&format!("/{turn}/a/b"), 0o755, Owner::ROOT).unwrap();
            host.write(&format!("/{turn}/a/c/file"), b"x", 0o644, Owner::ROOT).unwrap();
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(make))));
    }
    // Something else in its place is not taken for it.
    fs::write(directory.path().join("file"), "").unwrap();
    let host = Host::tree(directory.path(), Deadlines::default()).unwrap();
    host.make_directory("/file", 0o755, Owner::ROOT).unwrap_err();
    symlink("0", directory.path().join("soft")).unwrap();
    host.make_directory("/soft", 0o755, Owner::ROOT).unwrap_err();
}

/// Holds a lock of a root as flock(1) does, by a process that is not ours.
fn hold(root: &Root, lock: &str) -> Child {
    let path = root.at(lock);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut held = Command::new("flock");
    held.arg(&path).args(["sh", "-c", "echo held; exec cat"]);
    let mut held = held.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(held.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    held
}

#[test]
fn a_foreign_process_that_holds_a_lock_is_named() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "role = 'gateway'\nagent.asg = 'group'\n");
    root.run(&["keep"]).ends_with(0);
    for (lock, arguments) in [
        ("/run/titus-bootstrap/keep.lock", &["keep"][..]),
        ("/run/titus-bootstrap/lock", &["apply", "--role", "agent", "--sample"]),
    ] {
        let mut held = hold(&root, lock);
        let refused = root.run(arguments).ends_with(75);
        let pid = format!("process {}", held.id());
        refused.reports(&[&pid, "flock", "user ", "is not titus-bootstrap", lock]);
        drop(held.stdin.take());
        held.wait().unwrap();
        root.run(arguments).ends_with(0);
    }
}

#[test]
fn a_run_from_user_data_that_holds_the_lock_is_recognized() {
    let root = Root::empty();
    let program = program();
    let shebang = format!("#!{} --role agent --root {}\n", program.get_program().display(), root.path().display());
    root.script("/part-001", shebang);
    // It has the lock while it waits for a metadata service that is silent.
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = isolated(&root.at("/part-001"));
    ask(&mut command, &format!("http://{}", server.local_addr().unwrap()));
    let mut run = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let connection = server.accept().unwrap();
    let refused = root.sample(&[]).ends_with(75);
    let refused =
        refused.reports(&["another run is at work", &format!("process {}", run.id()), "titus-bootstrap, user"]);
    assert!(!refused.err.contains("is not titus-bootstrap"), "{}", refused.transcript());
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    run.wait().unwrap();
    drop(connection);
    root.sample(&[]).ends_with(0);
}

#[test]
fn keep_beside_another_keep_has_nothing_to_say() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "role = 'gateway'\nagent.asg = 'group'\n");
    let children: Vec<Child> = (0..10)
        .map(|_| root.program(&["keep"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for child in children {
        let outcome = into_outcome(child.wait_with_output().unwrap()).ends_with(0);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", ""));
    }
}

/// Listens for signals as the program does, says when the first came, and then waits for what no signal ends.
#[test]
fn listening_copy() {
    if std::env::var_os(LISTEN).is_none() {
        return;
    }
    signals::listen().unwrap();
    eprintln!("listens");
    while !signals::interrupted() {
        std::thread::sleep(Duration::from_millis(1));
    }
    eprintln!("interrupted");
    // Read again after each signal, as std does.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for (first, second) in [
        (Signal::SIGTERM, Signal::SIGTERM),
        (Signal::SIGINT, Signal::SIGINT),
        (Signal::SIGTERM, Signal::SIGINT),
        (Signal::SIGHUP, Signal::SIGTERM),
    ] {
        let mut command = copy("listening_copy", LISTEN, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        assert!(lines.any(|line| line.unwrap() == "listens"));
        kill(pid, first).unwrap();
        assert!(lines.any(|line| line.unwrap() == "interrupted"));
        assert!(child.try_wait().unwrap().is_none(), "the first signal ended it");
        kill(pid, second).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(second as i32));
    }
}
