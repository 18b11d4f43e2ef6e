//! Links, FIFOs, devices and directories in places where the program opens a file.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use titus_bootstrap::host::fs::Owner;
use titus_bootstrap::host::{Deadlines, Host};

use crate::support::root::{Outcome, Root, into_outcome, on_fixture, program};
use crate::support::user::NOBODY;

/// What must not be printed or copied, in the place of /etc/shadow.
const CANARY: &str = "root:$6$canary$notshown:17000:0:99999:7:::";

const MYID: &str = "/var/lib/zookeeper/myid";
const STATUS: &str = "/run/titus-bootstrap/status.json";
const JOURNAL: &str = "/var/lib/titus-bootstrap/journal.jsonl";
const LAST_LOG: &str = "/var/log/titus-bootstrap/last.log";

/// Runs a command to its end; one that hangs is killed, and the test fails.
#[track_caller]
fn ends(command: &mut Command) -> Outcome {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("it hangs: {command:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    into_outcome(child.wait_with_output().unwrap())
}

/// A tree of a prereqs node of an ensemble of three, with something to protect.
fn ensemble() -> (Root, Vec<String>) {
    let root = Root::empty();
    root.write("/etc/shadow", CANARY);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ensemble");
    (root, on_fixture(&fixture, "prereqs"))
}

fn run(root: &Root, arguments: &[String]) -> Outcome {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ends(&mut root.program(&arguments))
}

/// Makes a place for something and returns it.
fn free(root: &Root, path: &str) -> PathBuf {
    let path = root.at(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let _ = fs::remove_file(&path);
    path
}

fn pipe(root: &Root, path: &str) {
    mkfifo(&free(root, path), Mode::from_bits_truncate(0o666)).unwrap();
}

/// A device that never ends, where this process may make one.
fn zero(root: &Root, path: &str) -> bool {
    mknod(&free(root, path), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 5)).is_ok()
}

/// Asserts that the canary is in nothing that the program printed or wrote.
#[track_caller]
fn is_not_printed(root: &Root, outcome: &Outcome) {
    assert!(!outcome.transcript().contains("canary"), "{}", outcome.transcript());
    for directory in ["/run/titus-bootstrap", "/var/log", "/var/lib"] {
        for path in files_below(&root.at(directory)) {
            let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            assert!(!text.contains("canary") || path == root.at(MYID), "{} has it", path.display());
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let kind = path.symlink_metadata().unwrap();
        if kind.is_dir() {
            found.extend(files_below(&path));
        } else if kind.is_file() {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_link_as_myid_is_not_followed_and_what_it_leads_to_is_not_printed() {
    for target in ["/etc/shadow", "../../../etc/shadow", "/etc/../etc/shadow"] {
        let (root, arguments) = ensemble();
        symlink(target, free(&root, MYID)).unwrap();
        let refused = run(&root, &arguments).ends_with(78).reports(&["a symbolic link, which is not followed"]);
        is_not_printed(&root, &refused);
        assert_eq!(root.read("/etc/shadow"), CANARY);
    }
}

#[test]
fn what_a_container_wrote_into_myid_is_not_printed() {
    let (root, arguments) = ensemble();
    root.write(MYID, CANARY);
    let refused = run(&root, &arguments).ends_with(78).reports(&["something else", "would become"]);
    is_not_printed(&root, &refused);
    // The message does show another server's number: the operator needs it.
    root.write(MYID, "7\n");
    run(&root, &arguments).ends_with(78).reports(&["myid is \"7\""]);
}

#[test]
fn a_pipe_a_device_or_a_directory_as_myid_ends_the_run() {
    let (root, arguments) = ensemble();
    pipe(&root, MYID);
    run(&root, &arguments).ends_with(78).reports(&["myid is not a regular file"]);
    if zero(&root, MYID) {
        run(&root, &arguments).ends_with(78).reports(&["myid is not a regular file"]);
    }
    fs::remove_file(root.at(MYID)).unwrap();
    fs::create_dir_all(root.at(MYID)).unwrap();
    run(&root, &arguments).ends_with(78).reports(&["myid is not a regular file"]);
}

#[test]
fn settings_that_are_not_a_regular_file_are_refused() {
    for path in [
        "/etc/titus-bootstrap/config.toml",
        "/etc/titus-bootstrap/config.d/10-site.toml",
        "/etc/titus-bootstrap/roles/agent.toml",
        "/etc/titus-bootstrap/roles/agent.d/50-own.toml",
    ] {
        let refuses = |root: &Root, why: &str| {
            let outcome = ends(&mut root.program(&["--role", "agent", "--sample"])).ends_with(78);
            outcome.reports(&[path, "cannot be read", why]);
        };
        let root = Root::empty();
        pipe(&root, path);
        refuses(&root, "it is a pipe");
        if zero(&root, path) {
            refuses(&root, "it is a device");
        }
        fs::remove_file(root.at(path)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.at(path)).unwrap();
        refuses(&root, "it is a socket");
        fs::remove_file(root.at(path)).unwrap();
        fs::create_dir(root.at(path)).unwrap();
        refuses(&root, "Is a directory");
        fs::remove_dir(root.at(path)).unwrap();
        File::create(root.at(path)).unwrap().set_len((64 << 20) + 1).unwrap();
        refuses(&root, "larger than 64 MiB");
    }
}

#[test]
fn a_settings_file_of_the_command_line_has_a_kind_and_an_end() {
    let config = |path: &str| ends(program().args(["plan", "--role", "agent", "--sample", "--config", path]));
    config("/dev/zero").ends_with(78).reports(&["/dev/zero: cannot be read", "larger than 16 MiB"]);
    config("/dev/urandom").ends_with(78).reports(&["larger than 16 MiB"]);
    config("/").ends_with(78).reports(&["/: cannot be read", "Is a directory"]);
    let root = Root::empty();
    ends(&mut root.program(&["plan", "--role", "agent", "--sample", "--config", "/dev/null"])).ends_with(0);
    File::create(root.at("/large.toml")).unwrap().set_len((16 << 20) + 1).unwrap();
    config(root.at("/large.toml").to_str().unwrap()).ends_with(78).reports(&["larger than 16 MiB"]);
    for (option, words) in [("--facts", "has no usable facts"), ("check", "cannot be read")] {
        ends(program().args(["facts", "--role", "agent"]).args(match option {
            "check" => vec!["--config", "/dev/zero"],
            _ => vec![option, "/dev/zero"],
        }))
        .ends_with(78)
        .reports(&[words, "larger than 16 MiB"]);
    }
    ends(program().args(["check", "/dev/zero"])).ends_with(78).reports(&["larger than 16 MiB"]);
}

/// `sh` runs the words, `$1` is the program; it has `<(…)` where it is bash.
fn bash(script: &str, root: &Root) -> Outcome {
    let mut command = Command::new("bash");
    let made = program();
    command.env_clear().envs(made.get_envs().filter_map(|(key, value)| Some((key, value?))));
    ends(command.args(["-c", script, "bash"]).arg(made.get_program()).arg(root.path()))
}

#[test]
fn a_pipe_that_the_command_line_names_is_read() {
    let root = Root::empty();
    let plan = |words: &str| bash(&format!("\"$1\" plan --root \"$2\" --role agent --sample {words}"), &root);
    // A key that no setting has shows that it was read.
    for words in [
        "--config <(echo 'stakc = \"x\"')",
        "<(echo 'stakc = \"x\"')",
        "--config <(printf 'stakc '; sleep 0.3; echo '= \"x\"')",
        "--config /dev/stdin < <(echo 'stakc = \"x\"')",
    ] {
        plan(words).ends_with(78).reports(&["stakc", "did you mean"]);
    }
    // A run looks first whether it is user data.
    bash("\"$1\" --root \"$2\" --role agent --sample <(echo 'stakc = \"x\"')", &root).ends_with(78).reports(&["stakc"]);
    plan("--config <(echo 'stack = \"x\"')").ends_with(0);
    plan("<(echo 'stack = \"x\"')").ends_with(0);
    // One that its writer opens only later.
    pipe(&root, "/later");
    plan("--config \"$2/later\" & { sleep 0.3; echo 'stakc = \"x\"' > \"$2/later\"; }; wait $!")
        .ends_with(78)
        .reports(&["stakc"]);
    // One without an end.
    plan("--config <(exec cat /dev/zero)").ends_with(78).reports(&["larger than 16 MiB"]);
}

#[test]
fn a_signal_ends_the_wait_for_a_pipe() {
    let root = Root::empty();
    pipe(&root, "/never");
    let never = root.at("/never");
    let script = "\"$1\" plan --root \"$2\" --role agent --sample --config \"$2/never\" & \
                  while ! ls -l /proc/$!/fd 2>&1 | grep -q /never; do :; done; kill -TERM $!; wait $!";
    bash(script, &root).ends_with(1).reports(&["stopped by a signal"]);
    assert!(never.exists());
}

/// Puts each sort of thing that is not ours in the place of a record, and runs.
fn records(path: &str) {
    type Make = fn(&Root, &str);
    let sorts: [(&str, Make); 5] = [
        ("a pipe", pipe),
        ("a directory", |root, path| fs::create_dir_all(root.at(path)).unwrap()),
        ("a directory with something in it", |root, path| root.write(&format!("{path}/x"), "")),
        ("a large file", |root, path| File::create(free(root, path)).unwrap().set_len(70 << 20).unwrap()),
        ("a loop of links", |root, path| symlink(path, free(root, path)).unwrap()),
    ];
    for (sort, make) in sorts {
        let root = Root::empty();
        make(&root, path);
        let first = ends(&mut root.program(&["--role", "agent", "--sample"]));
        assert_eq!(first.code, 0, "{sort} as {path}: {}", first.transcript());
        let again = ends(&mut root.program(&["plan", "--detailed-exitcode", "--role", "agent", "--sample"]));
        assert_eq!(again.code, 0, "{sort} as {path}: {}", again.transcript());
        ends(&mut root.program(&["status", "--role", "agent", "--sample"])).ends_with(0);
    }
}

#[test]
fn a_status_that_cannot_be_written_or_read_is_a_warning() {
    records(STATUS);
    let root = Root::empty();
    root.write(&format!("{STATUS}/x"), "");
    root.sample(&[]).ends_with(0).reports(&["a run record is unavailable", STATUS]);
}

#[test]
fn a_journal_that_cannot_be_written_or_read_is_a_warning() {
    records(JOURNAL);
    let root = Root::empty();
    File::create(free(&root, JOURNAL)).unwrap().set_len(70 << 20).unwrap();
    root.sample(&[]).ends_with(0).reports(&["a run record is unavailable", JOURNAL, "larger than 64 MiB"]);
}

#[test]
fn a_last_log_that_cannot_be_written_is_a_warning() {
    records(LAST_LOG);
    // A file in the place of its directory, and a directory that others may write to.
    let root = Root::empty();
    root.write("/var/log/titus-bootstrap", "");
    root.sample(&[]).ends_with(0).reports(&["a run record is unavailable", LAST_LOG]);
    let root = Root::empty();
    root.link("/var/log/titus-bootstrap", "titus-bootstrap");
    root.sample(&[]).ends_with(0).reports(&["a run record is unavailable", "too many symbolic links"]);
    let root = Root::empty();
    fs::create_dir_all(root.at("/var/log/titus-bootstrap")).unwrap();
    fs::set_permissions(root.at("/var/log/titus-bootstrap"), fs::Permissions::from_mode(0o777)).unwrap();
    root.sample(&[]).ends_with(0).reports(&["a run record is unavailable", "chmod go-w"]);
    assert!(!root.at(LAST_LOG).exists());
}

#[test]
fn a_failed_run_keeps_its_own_exit_code_and_cause_without_records() {
    let root = Root::empty();
    for path in [STATUS, JOURNAL, LAST_LOG] {
        fs::create_dir_all(root.at(path)).unwrap();
    }
    root.fails_half_way().reports(&["step 2/3 large: /etc/large: cannot be written"]);
}

#[test]
fn the_status_and_the_locks_are_for_root() {
    let root = Root::empty();
    // An earlier version made the lock so.
    root.write("/run/titus-bootstrap/lock", "");
    root.sample(&[]).ends_with(0);
    for (path, mode) in [(STATUS, 0o640), ("/run/titus-bootstrap/lock", 0o600), (LAST_LOG, 0o640), (JOURNAL, 0o600)] {
        assert_eq!(fs::metadata(root.at(path)).unwrap().permissions().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn a_pipe_in_the_place_of_a_shell_history_does_not_hold_seal() {
    let root = Root::empty();
    root.write("/etc/shadow", CANARY);
    root.write("/etc/passwd", "root:x:0:0::/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n");
    for path in ["/root/.bash_history", "/home/ubuntu/.ssh/authorized_keys", "/home/ubuntu/data", "/var/log/syslog"] {
        pipe(&root, path);
    }
    symlink("/etc/shadow", free(&root, "/home/ubuntu/.bash_history")).unwrap();
    symlink("/etc", free(&root, "/var/log/away")).unwrap();
    let sealed = ends(&mut root.program(&["seal", "--sample"]));
    assert!(!sealed.transcript().contains("canary"), "{}", sealed.transcript());
    assert_eq!(root.read("/etc/shadow"), CANARY);
    sealed.ends_with(1).reports(&["/home/ubuntu/.bash_history", "links are not followed"]);
    fs::remove_file(root.at("/home/ubuntu/.bash_history")).unwrap();
    // A pipe has no contents: there is nothing to report of it.
    ends(&mut root.program(&["seal", "--sample"])).ends_with(0);
}

fn tree() -> (tempfile::TempDir, Host) {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::tree(directory.path(), Deadlines::default()).unwrap();
    (directory, host)
}

#[test]
fn a_link_that_another_user_made_is_not_followed() {
    // Only root can make one for the test.
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (directory, host) = tree();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("etc")).unwrap();
    fs::write(at("etc/secret"), "x").unwrap();
    for (link, target) in [("link", "/etc/secret"), ("way", "etc")] {
        symlink(target, at(link)).unwrap();
        lchown(at(link), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    symlink("etc", at("own")).unwrap();
    for path in ["/link", "/way/secret"] {
        let refused = host.read(path).unwrap_err().to_string();
        assert!(refused.contains("not followed"), "{refused}");
    }
    host.write("/way/new", b"x", 0o644, Owner::ROOT).unwrap_err();
    host.append("/way/new", "x").unwrap_err();
    host.remove("/way/secret").unwrap_err();
    host.list("/way").unwrap_err();
    host.set_attributes("/way/secret", 0o777, Owner::ROOT).unwrap_err();
    host.make_directory("/way/new", 0o755, Owner::ROOT).unwrap_err();
    assert_eq!(host.list("/etc").unwrap(), ["secret"]);
    // An image has links of root's: /bin, /var/run.
    assert_eq!(host.read("/own/secret").unwrap().unwrap(), b"x");
    host.write("/own/new", b"x", 0o644, Owner::ROOT).unwrap();
}

#[test]
fn a_link_in_a_directory_into_which_anybody_may_write_is_not_followed() {
    let (directory, host) = tree();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("tmp")).unwrap();
    fs::create_dir_all(at("etc")).unwrap();
    fs::write(at("etc/secret"), "x").unwrap();
    symlink("/etc/secret", at("tmp/link")).unwrap();
    symlink("/etc", at("tmp/way")).unwrap();
    for mode in [0o1777, 0o777] {
        fs::set_permissions(at("tmp"), fs::Permissions::from_mode(mode)).unwrap();
        for path in ["/tmp/link", "/tmp/way/secret"] {
            assert!(host.read(path).unwrap_err().to_string().contains("not followed"));
        }
    }
    fs::set_permissions(at("tmp"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(host.read("/tmp/link").unwrap().unwrap(), b"x");
}

#[test]
fn each_directory_above_what_is_written_is_checked() {
    let (directory, host) = tree();
    let at = |path: &str| directory.path().join(path);
    fs::create_dir_all(at("a/b/c")).unwrap();
    let open = |mode| fs::set_permissions(at("a"), fs::Permissions::from_mode(mode)).unwrap();
    open(0o777);
    for path in ["/a/b/c/file", "/a/b/file", "/a/new/file"] {
        let refused = host.write(path, b"x", 0o644, Owner::ROOT).unwrap_err().to_string();
        assert!(refused.contains("/a has mode 0777") && refused.contains("chmod go-w"), "{refused}");
    }
    assert!(!at("a/new").exists(), "a refused write made a directory");
    // As in /tmp, what is ours below it stays where it is.
    open(0o1777);
    host.write("/a/b/c/file", b"x", 0o644, Owner::ROOT).unwrap();
    host.write("/a/file", b"x", 0o644, Owner::ROOT).unwrap_err();
}
