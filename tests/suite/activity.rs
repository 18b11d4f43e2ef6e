//! What is being done now: one line that a terminal redraws in place. Elsewhere nothing is drawn.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::support::metadata::{Metadata, sample};
use crate::support::root::{Root, ask, outcome};

/// A line that is drawn begins so, at the start of its line (ECMA-48), and is not longer than that (DECAWM).
const DRAWN: &str = "\r\x1b[K\x1b[?7l";
const ASKING: &str = "asking the instance and its metadata service, ";

/// A run that asks `address` for its facts.
fn run(root: &Root, address: &str, arguments: &[&str]) -> Command {
    let mut run = root.program(&["--role", "agent", "--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"]);
    run.args(["--set", "agent.resources={mem=1,disk=1}"]).args(arguments);
    ask(&mut run, &format!("http://{address}"));
    run
}

/// The same at a terminal of this kind, where `script` sits; what it showed. Nobody answers the run before it shows `until`.
fn at_terminal(kind: &str, until: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let root = Root::empty();
    let run = run(&root, &address, &[]);
    let words: Vec<String> = std::iter::once(run.get_program())
        .chain(run.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]).env("TERM", kind);
    ask(&mut terminal, &format!("http://{address}"));
    let mut terminal = terminal.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = terminal.stdout.take().unwrap();
    let (mut shown, mut some) = (Vec::new(), [0; 4096]);
    let mut metadata = None;
    let mut listener = Some(listener);
    loop {
        let n = out.read(&mut some).unwrap_or(0);
        if n == 0 {
            break;
        }
        shown.extend_from_slice(&some[..n]);
        if String::from_utf8_lossy(&shown).contains(until)
            && let Some(listener) = listener.take()
        {
            metadata = Some(Metadata::serve(listener, sample()));
        }
    }
    let shown = String::from_utf8(shown).unwrap();
    assert!(terminal.wait().unwrap().success(), "{shown}");
    drop(metadata);
    shown
}

#[test]
fn a_terminal_shows_what_is_being_done_in_place() {
    let shown = at_terminal("xterm", ASKING);
    let lines: Vec<&str> = shown.split(DRAWN).skip(1).collect();
    assert!(lines.iter().any(|line| line.starts_with(ASKING)), "{shown:?}");
    // The program erases each before it writes something else, and leaves none.
    for line in lines {
        let (drawn, rest) = line.split_once("\x1b[?7h").unwrap();
        assert!(!drawn.contains('\n') && (rest.is_empty() || rest.starts_with("\r\x1b[K")), "{line:?}");
    }
    assert!(shown.contains(" steps: "), "{shown:?}");
}

#[test]
fn nothing_is_drawn_where_no_line_can_be_redrawn() {
    let shown = at_terminal("dumb", "still waiting for the instance metadata service");
    assert!(!shown.contains(DRAWN) && shown.contains(" steps: "), "{shown:?}");
    let metadata = Metadata::start(sample());
    let address = metadata.endpoint().trim_start_matches("http://").to_owned();
    let root = Root::empty();
    for arguments in [&[][..], &["--json"], &["--log-format", "json"], &["--quiet"]] {
        let done = outcome(&mut run(&root, &address, arguments)).ends_with(0);
        assert!(!done.err.contains('\r') && !done.out.contains('\r'), "{}", done.transcript());
    }
}
