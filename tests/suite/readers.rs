//! The reader of a run's output may go away at any moment: the run continues, and its records are complete.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::metadata::{Metadata, sample};
use crate::support::root::{Root, ask, program};

const AGENT: [&str; 3] = ["--role", "agent", "--sample"];

/// Whether there is nothing to do, and the record of the run is complete.
#[track_caller]
fn is_converged(root: &Root) {
    root.run(&[&["plan", "--detailed-exitcode"], &AGENT[..]].concat()).ends_with(0);
    let record = root.read("/var/log/titus-bootstrap/last.log");
    assert!(record.lines().last().unwrap().contains(" steps: "), "{record}");
}

/// The lines that a run prints of itself, or a whole run if there are fewer; then nobody reads any more.
fn leaves_after(root: &Root, lines: usize, arguments: &[&str], reads_errors: bool) -> (Option<i32>, usize) {
    let mut command = root.program(&[&AGENT[..], arguments].concat());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, errors) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (read, kept): (Box<dyn Read>, Box<dyn Read>) =
        if reads_errors { (Box::new(errors), Box::new(out)) } else { (Box::new(out), Box::new(errors)) };
    // Close both ends: a reader that keeps one of them must not change the other's behavior.
    drop(kept);
    let mut reader = BufReader::with_capacity(1, read);
    let mut seen = 0;
    let mut line = String::new();
    while seen < lines && reader.read_line(&mut line).unwrap() > 0 {
        seen += 1;
    }
    drop(reader);
    (child.wait().unwrap().code(), seen)
}

#[test]
fn a_run_goes_on_when_its_readers_go_away_at_any_line() {
    // The lines of steps, each; those of `-v` are hundreds, and of JSON there is one at the end.
    for (arguments, reads_errors, further) in [
        (&[][..], false, 1),
        (&["-v"], true, 20),
        (&["--log-format", "json", "-v"], true, 20),
        (&["--json"], false, 100),
    ] {
        let mut at = 0;
        loop {
            let root = Root::empty();
            let (code, seen) = leaves_after(&root, at, arguments, reads_errors);
            assert_eq!(code, Some(0), "{arguments:?} at line {at}");
            is_converged(&root);
            if seen < at {
                break;
            }
            at += further;
        }
    }
}

/// Like `titus-bootstrap >&- 2>&-`, and in a script whose terminal is long gone.
#[test]
fn a_run_needs_no_standard_streams() {
    let root = Root::empty();
    let script = format!(
        "exec {} --root {} {} <&- >&- 2>&-",
        program().get_program().display(),
        root.at("/").display(),
        AGENT.join(" ")
    );
    assert_eq!(Command::new("sh").args(["-c", &script]).status().unwrap().code(), Some(0));
    is_converged(&root);
}

/// The kernel sends SIGHUP when a terminal is gone, and a shell sends it again.
#[test]
fn a_run_goes_on_when_its_terminal_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let root = Root::empty();
    let mut run = root.program(&AGENT[..2]);
    run.args(["--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"]);
    run.args(["--set", "agent.resources={mem=1,disk=1}"]);
    let words: Vec<String> = std::iter::once(run.get_program())
        .chain(run.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let code = root.at("/srv/code");
    root.write("/srv/other", "");
    nix::unistd::mkfifo(&code, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A shell at the terminal, which outlives the run to record its result.
    let inner = format!("trap '' HUP; {}; echo $? > {}", words.join(" "), code.display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", &inner, "/dev/null"]);
    ask(&mut terminal, &format!("http://{address}"));
    let mut terminal =
        terminal.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn().unwrap();
    // The run is asking; nobody answers while its terminal goes away.
    let asked = listener.accept().unwrap();
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let metadata = Metadata::serve(listener, sample());
    drop(asked);
    assert_eq!(std::fs::read_to_string(&code).unwrap().trim(), "0");
    assert!(root.read("/etc/mesos-agent.config").contains("i-0123456789abcdef0"));
    drop(metadata);
}
