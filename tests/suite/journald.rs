//! Errors for the journal of systemd: a stand-in for its socket, and a file in place of its stream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use crate::support::root::{Root, outcome};

/// A run of the agent's role whose standard error is, or is not, the stream in `JOURNAL_STREAM`. Returns what it wrote there.
fn run(root: &Root, is_journal: bool, arguments: &[&str], code: i32) -> String {
    let path = root.path().with_extension("stderr");
    let file = File::create(&path).unwrap();
    let found = file.metadata().unwrap();
    let inode = if is_journal { found.ino() } else { found.ino() + 1 };
    let mut command = root.program(&[arguments, &["--role", "agent", "--sample"]].concat());
    command.env("JOURNAL_STREAM", format!("{}:{inode}", found.dev()));
    // A shell, because the test reads standard error from a pipe. No file can be larger than 32 KiB.
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "trap '' 25; ulimit -f 64; exec \"$@\" 2>>\"$0\""])
        .arg(&path)
        .arg(command.get_program())
        .args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(name, value)| value.map(|value| (name, value))));
    outcome(&mut shell).ends_with(code);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    text
}

/// The fields of a message in the journal's protocol.
fn fields(mut message: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = message.iter().position(|byte| *byte == b'\n') {
        let (line, rest) = (std::str::from_utf8(&message[..end]).unwrap(), &message[end + 1..]);
        match line.split_once('=') {
            Some((name, value)) => {
                fields.insert(name.to_owned(), value.to_owned());
                message = rest;
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                fields.insert(line.to_owned(), String::from_utf8(rest[8..8 + length].to_vec()).unwrap());
                assert_eq!(rest[8 + length], b'\n');
                message = &rest[8 + length + 1..];
            }
        }
    }
    fields
}

#[test]
fn each_line_has_its_priority_where_the_journal_listens_and_nowhere_else() {
    let root = Root::empty();
    let wrong = ["--set", "stack=a;b"];
    let plain = run(&root, false, &wrong, 78);
    assert!(plain.contains("stack = \"a;b\"") && !plain.contains('<'), "{plain}");
    // Without the socket, the error is on the stream.
    let output = run(&root, true, &wrong, 78);
    let expected: String = plain.lines().map(|line| format!("<3>{line}\n")).collect();
    assert_eq!(output, expected);

    let root = Root::empty();
    root.write("/run/titus-bootstrap/status.json/x", "");
    let warned = run(&root, true, &[], 0);
    let of_warning = warned.lines().filter(|line| line.contains("a run record is unavailable"));
    assert!(of_warning.clone().count() > 0 && of_warning.into_iter().all(|line| line.starts_with("<4>")), "{warned}");
    assert!(warned.lines().all(|line| ["<4>", "<6>"].iter().any(|prefix| line.starts_with(prefix))), "{warned}");
}

#[test]
fn the_error_of_a_failed_run_is_one_message_with_fields() {
    let root = Root::empty();
    root.fails_half_way();
    std::fs::create_dir_all(root.at("/run/systemd/journal")).unwrap();
    let journal = UnixDatagram::bind(root.at("/run/systemd/journal/socket")).unwrap();
    journal.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 1 << 16];

    let output = run(&root, true, &["--set", "stack=a;b"], 78);
    assert_eq!(output, "", "the error was printed, too");
    let length = journal.recv(&mut buffer).unwrap();
    let message = fields(&buffer[..length]);
    assert!(message["MESSAGE"].contains("stack = \"a;b\"") && message["MESSAGE"].contains("\n  fix:"), "{message:?}");
    let of = |name: &str| message.get(name).map(String::as_str);
    assert_eq!((of("PRIORITY"), of("EXIT_CODE")), (Some("3"), Some("78")));
    assert_eq!(of("SYSLOG_IDENTIFIER"), Some("titus-bootstrap"));
    assert!(journal.recv(&mut buffer).is_err(), "there was a second message");

    let step = format!(
        "[[step]]\nid = 'fails'\nphase = 'boot'\nfile = {{ path = '/etc/x', content = '{}' }}\n",
        "x".repeat(64 << 10)
    );
    root.write("/etc/titus-bootstrap/roles/agent.toml", format!("description = 'x'\n{FIRST}{step}"));
    let output = run(&root, true, &[], 1);
    assert_eq!(output, "");
    let length = journal.recv(&mut buffer).unwrap();
    let message = fields(&buffer[..length]);
    assert_eq!((message["TITUS_ROLE"].as_str(), message["TITUS_STEP"].as_str()), ("agent", "fails"), "{message:?}");
    assert_eq!(message["EXIT_CODE"], "1");
    let runs = root.read("/var/lib/titus-bootstrap/journal.jsonl");
    assert!(runs.contains(&format!("\"run\":\"{}\"", message["TITUS_RUN"])), "{message:?}");

    // Without a reader, it is printed.
    drop(journal);
    assert!(run(&root, true, &["--set", "stack=a;b"], 78).starts_with("<3>"));
}

/// A step that is good, before one that fails.
const FIRST: &str = "[[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/etc/two', content = 'x' }\n";
