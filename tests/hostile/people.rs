//! What users of the machine and writers of tags can make root do, and what they can read.

use std::io::{BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use titus_bootstrap::host::{Deadlines, Host};
use titus_bootstrap::run::report::{ErrorReport, Reporter};
use titus_bootstrap::terminal::{Form, Messages, write_error};

use crate::support::docker::{Docker, End};
use crate::support::door::{Door, listen, read_request};
use crate::support::metadata::{Metadata, sample};
use crate::support::outcome::Outcome;
use crate::support::root::{Root, outcome, program};
use crate::support::simulated::{Machine, Run, listen_in_proc};

/// What a terminal obeys, or an eye is deceived by: a colour, a cleared screen, C1, DEL, right-to-left, width zero.
const ACTIVE: &str = "\x1b[31mred\x1b[2J\u{9b}2J\u{7f}\u{202e}txt.exe\u{2066}\u{200b}\u{feff}";

/// The text has nothing of [`ACTIVE`], and shows what was there.
#[track_caller]
fn is_inert(outcome: &Outcome, shown: &str) {
    for text in [&outcome.out, &outcome.err] {
        let active: Vec<char> = text.chars().filter(|c| ACTIVE.contains(*c) && !c.is_ascii_graphic()).collect();
        assert_eq!(active, [' '; 0], "{}", outcome.transcript());
    }
    assert!(format!("{}{}", outcome.out, outcome.err).contains(shown), "{}", outcome.transcript());
}

/// A text as TOML has it, for control characters are not allowed in its strings.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() { c.to_string() } else { format!("\\U{:08x}", u32::from(c)) })
        .collect()
}

#[test]
fn the_command_line_reaches_no_terminal_as_it_is() {
    for arguments in [
        &[ACTIVE][..],
        &[&format!("--{ACTIVE}")],
        &["plan", "--sample", "--role", ACTIVE],
        &["why", ACTIVE, "--sample", "--role", "agent"],
        &["config", "show", "--sample", "--set", &format!("{ACTIVE}=1")],
        &["config", "show", "--sample", "--config", &format!("/{ACTIVE}")],
        &["instance-type", ACTIVE],
        &["--log-format", ACTIVE],
    ] {
        let root = Root::empty();
        let refused = root.run(arguments);
        assert!(refused.code >= 64, "{}", refused.transcript());
        is_inert(&refused, "red");
    }
    use std::os::unix::ffi::OsStrExt;
    let not_utf8 = std::ffi::OsStr::from_bytes(b"\xff\x1b[2J\x9b");
    is_inert(&outcome(program().arg(not_utf8)), "\\x1b[2J");
    is_inert(&outcome(program().args(["plan", "--set"]).arg(not_utf8)), "UTF-8");
}

#[test]
fn names_of_files_and_their_differences_reach_no_terminal_as_they_are() {
    let root = Root::empty();
    root.write(
        "/etc/titus-bootstrap/roles/own.toml",
        format!(
            "description = \"{}\"\n[[step]]\nid = 'x'\nphase = 'boot'\nfile = {{ path = '/etc/x', content = 'new' }}\n",
            escaped(ACTIVE)
        ),
    );
    root.write("/etc/x", format!("{ACTIVE}\n"));
    let words = ["--role", "own", "--sample"];
    is_inert(&root.run(&[&["plan"][..], &words].concat()).ends_with(0), "\\x1b[31mred");
    is_inert(&root.run(&["role", "list"]).ends_with(0), "\\x1b[31mred");
    is_inert(&root.run(&["role", "show", "own"]).ends_with(0), "U0000001b");
    is_inert(&root.run(&[&["apply"][..], &words].concat()).ends_with(0), "\\x1b[31mred");
    let kept = root.read("/var/log/titus-bootstrap/last.log");
    assert!(kept.contains("\\x1b[31mred") && !kept.contains('\x1b') && !kept.contains('\u{202e}'), "{kept}");
    root.write(&format!("/etc/titus-bootstrap/config.d/{ACTIVE}.toml"), "zzz = 1");
    for words in [&["check"][..], &["check", "--log-format", "json"]] {
        is_inert(&root.run(words).ends_with(78), "[31mred");
    }
}

#[test]
fn user_data_and_tags_reach_no_terminal_as_they_are() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let words = ["plan", "--role", "agent"];
    let key = format!("#titus-bootstrap\n\"{}\" = 1\n", escaped(ACTIVE));
    metadata.set("user-data", Some(key.into_bytes()));
    is_inert(&root.ask(&metadata, &words).ends_with(78), "red");
    let value = format!("#titus-bootstrap\nstack = \"{}\"\n", escaped(ACTIVE));
    metadata.set("user-data", Some(value.into_bytes()));
    is_inert(&root.ask(&metadata, &words).ends_with(78), "red");
    metadata.set("user-data", None);
    metadata.set("meta-data/tags/instance/titus:stack", Some(ACTIVE.as_bytes().to_vec()));
    is_inert(&root.ask(&metadata, &words).ends_with(78), "red");
}

#[test]
fn json_escapes_as_json_does() {
    let root = Root::empty();
    let mut print = root.run(&["facts", "--sample", "--json"]).ends_with(0).json();
    print["instance"]["tags"]["Note"] = ACTIVE.into();
    root.write("/srv/facts.json", print.to_string());
    let print = root.at("/srv/facts.json").display().to_string();
    is_inert(&root.run(&["facts", "--facts", &print]).ends_with(0), "\\x1b[31mred");
    let facts = root.run(&["facts", "--facts", &print, "--json"]).ends_with(0);
    is_inert(&facts, "\\u001b[31mred");
    assert_eq!(facts.json()["instance"]["tags"]["Note"], ACTIVE);
    let log = root.run(&["plan", "--sample", "--role", ACTIVE, "--log-format", "json"]).ends_with(78);
    is_inert(&log, "[31mred");
    let line: serde_json::Value = serde_json::from_str(log.err.lines().last().unwrap()).unwrap();
    assert!(line.to_string().contains("red"), "{line}");
}

#[test]
fn colours_of_our_own_are_still_colours() {
    let root = Root::empty();
    root.write("/etc/disable-atlas-titus-agent", format!("{ACTIVE}\n"));
    let command = format!(
        "{} plan --sample --role agent --root {}",
        env!("CARGO_BIN_EXE_titus-bootstrap"),
        root.path().display()
    );
    let output = outcome(Command::new("script").args(["-qec", &command, "/dev/null"])).ends_with(0);
    assert!(output.out.contains("\x1b[33mto change"), "{}", output.transcript());
    assert!(
        output.out.contains("-\\x1b[31mred\\x1b[2J") && !output.out.contains("\x1b[31mred"),
        "{}",
        output.transcript()
    );
}

/// A server on a free port, or on this one, that answers every request with these bytes.
fn answering(port: u16, answer: Vec<u8>) -> (Door, String) {
    let listener = listen(port);
    let address = listener.local_addr().unwrap().to_string();
    let converse = move |mut stream: &std::net::TcpStream| {
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096])?;
        stream.write_all(&answer)
    };
    (Door::open(listener, converse, || ()), address)
}

fn answer_of_http(status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

/// Runs and plans that fail with the words of a service or the name of a process: which one, and what each left.
fn reported_by_others() -> Vec<(&'static str, Run)> {
    const GATEWAY: u16 = 7001;
    let step = |step: &str| format!("[[step]]\nid = 'x'\nphase = 'boot'\n{step}\n");
    let machine = || {
        let mut machine = Machine::new();
        machine.host.deadlines.wait = Duration::ZERO;
        machine
    };
    let mut runs = Vec::new();
    // ZooKeeper's answer to srvr, in a step and in a container's condition.
    for words in [format!("{ACTIVE}\n"), format!("Mode: {ACTIVE}\n")] {
        let (_server, address) = answering(0, words.into_bytes());
        let machine = machine();
        runs.push(("srvr", machine.apply(&machine.steps(&step(&format!("wait = {{ zookeeper = '{address}' }}"))))));
    }
    // The gateway's refusal, and a state that does not exist.
    let group = step("instance_group = { names = ['group'] }");
    let state = serde_json::json!({ "id": "group", "lifecycleStatus": { "state": ACTIVE } }).to_string();
    for (status, body) in [(400, ACTIVE), (503, ACTIVE), (200, &state)] {
        let (_server, _) = answering(GATEWAY, answer_of_http(status, body));
        let machine = machine();
        runs.push(("gateway", machine.plan(&machine.steps(&group))));
    }
    // The name of the process that has a port.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let named = machine();
    let port = listen_in_proc(&named, &listener, ACTIVE);
    let container = |more: &str| step(&format!("container = {{ name = 'x', image = 'x:1'{more} }}"));
    runs.push(("process", named.plan(&named.steps(&container(&format!(", ports = ['{port}:80']"))))));

    // The engine's words, and the last ones of a container.
    for prints in [false, true] {
        let (mut machine, docker) = (machine(), Docker::start());
        machine.host.docker = docker.host();
        docker.load("x:1", "one");
        if prints {
            docker.end("x:1", End::Exits(1, ACTIVE));
        } else {
            docker.refuse("start", 1, 500, ACTIVE);
        }
        runs.push(("engine", machine.apply(&machine.steps(&container("")))));
    }
    // apt's.
    let machine = machine();
    machine.offer("jq", "1");
    machine.command("apt-get", "case \"$*\" in *' install '*) cat $ROOT/words >&2; exit 100;; esac");
    machine.root.write("/words", format!("E: {ACTIVE}\n"));
    runs.push(("apt", machine.apply(&machine.steps(&step("package = { names = ['jq'] }")))));
    runs
}

#[test]
fn words_of_services_and_names_of_processes_reach_no_terminal_as_they_are() {
    const CHILD: &str = "TITUS_BOOTSTRAP_TEST_CHILD";
    const SELF: &str = "hostile::people::words_of_services_and_names_of_processes_reach_no_terminal_as_they_are";
    if std::env::var_os(CHILD).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let printed = outcome(command.args(["--exact", SELF, "--nocapture"]).env(CHILD, "1")).ends_with(0);
        is_inert(&printed, "\\x1b[31mred");
        is_inert(&printed, "\\u001b[31mred");
        return;
    }
    let reporter = Reporter { json: false, quiet: false, verbose: true, colour: false };
    // As the program sets it up.
    tracing_subscriber::fmt().with_writer(Messages(Form::Text)).without_time().with_ansi(false).init();
    for (source, Run { result, mut report, .. }) in reported_by_others() {
        let error = result.as_ref().err();
        let said = format!("{error:?} {:?}", report.steps);
        assert!(said.contains("red") && said.contains("txt.exe"), "{source}: its words are not there: {said}");
        // As the program ends.
        report.end(error, true);
        report.steps.iter().for_each(|step| reporter.step(&report, step));
        reporter.end(&report);
        Reporter { json: true, ..reporter }.end(&report);
        if let Some(error) = error {
            write_error(&format!("titus-bootstrap: {error}\n"));
            let ErrorReport { kind: _, exit_code, what, place: _, cause, fix, step: _ } = ErrorReport::from(error);
            tracing::error!(exit_code, cause, fix, "{what}");
        }
        let kept = report.text();
        assert!(kept.chars().all(|c| !ACTIVE.contains(c) || c.is_ascii_graphic()), "{source}: {kept:?}");
    }
}

/// Its variables are the whole process's: this test runs itself once more, with those of a caller.
#[test]
fn what_a_run_starts_has_no_variable_of_its_caller() {
    const CHILD: &str = "TITUS_BOOTSTRAP_TEST_CHILD";
    let callers = [
        "APT_CONFIG",
        "DPKG_ROOT",
        "DPKG_FORCE",
        "TMPDIR",
        "DOCKER_HOST",
        "SYSTEMD_LOG_LEVEL",
        "LD_LIBRARY_PATH",
        "HTTPS_PROXY",
        "BASH_ENV",
        "PERL5LIB",
        "DEBCONF_DB_OVERRIDE",
        "HOME",
        "NOTIFY_SOCKET",
        "AWS_SECRET_ACCESS_KEY",
    ];
    if std::env::var_os(CHILD).is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "hostile::people::what_a_run_starts_has_no_variable_of_its_caller"]).env(CHILD, "1");
        command.envs(callers.map(|name| (name, "/nonexistent/c4n4ry")));
        // Of the caller's own PATH nothing is run either.
        command.env("PATH", "/nonexistent/c4n4ry");
        outcome(&mut command).ends_with(0);
        return;
    }
    let machine = Machine::new();
    machine.offer("jq", "1");
    for name in ["apt-get", "apt-cache", "dpkg-query"] {
        machine.prepend(name, "tr '\\0' '\\n' </proc/$$/environ >>$ROOT/variables");
    }
    let steps = machine.steps("[[step]]\nid = 'jq'\nphase = 'boot'\npackage = { names = ['jq'] }\n");
    machine.apply(&steps).ends_well();
    let variables = machine.root.read("/variables");
    let mut names: Vec<&str> = variables.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names, ["DEBIAN_FRONTEND", "LANG", "LC_ALL", "NEEDRESTART_SUSPEND", "PATH", "TZ"]);
    assert!(!variables.contains("c4n4ry"), "{variables}");
}

/// A server with one answer for every request, and the target and headers of each request.
fn server(answer: String) -> (Door, String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let notes = Arc::clone(&asked);
    let converse = move |mut stream: &std::net::TcpStream| {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            notes.lock().unwrap().push(format!("{} {:?}", request.target, request.headers));
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    };
    (Door::open(listener, converse, || ()), address, asked)
}

/// An attacker may write any server into a Location.
#[test]
fn a_redirect_gives_another_server_nothing() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let host = Host::live(Deadlines::all(Duration::from_secs(20)));
    let (_other, other, heard) = server("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into());
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
        let to_other = format!("HTTP/1.1 {status}\r\nLocation: http://{other}/x\r\nContent-Length: 0\r\n\r\n");
        let (_first, first, asked) = server(to_other);
        let url = format!("http://c4n4ry:c4n4ry@{first}/x.deb?X-Amz-Signature=c4n4ry");
        host.download(&url, 100).unwrap();
        host.checksum_of_download(&url).unwrap().unwrap();
        assert!(asked.lock().unwrap().iter().all(|request| request.contains("c4n4ry")));
        assert!(asked.lock().unwrap().iter().all(|request| request.contains("authorization")));
    }
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 6);
    for request in heard.iter() {
        let leaked = ["c4n4ry", "authorization", "referer", "cookie"].iter().any(|word| request.contains(word));
        assert!(!leaked, "{request}");
    }
}

/// Everyone can ask systemd for the properties of a unit, and read its files.
#[test]
fn no_unit_file_has_the_password_of_a_proxy() {
    for role in ["agent", "prereqs"] {
        let root = Root::empty();
        let set =
            ["proxy.http=http://user:c4n4ry@h:1", "proxy.https=http://user:c4n4ry@h:2", "proxy.no_proxy=10.0.0.1"];
        let words: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        root.run(&[&["--sample", "--role", role][..], &words].concat()).ends_with(0);
        let kept: Vec<String> = root
            .made()
            .into_iter()
            .filter(|(_, look)| look.contains("c4n4ry"))
            .map(|(path, look)| format!("{} {path}", look.split(' ').next().unwrap()))
            .collect();
        assert_eq!(kept, ["0600 /etc/systemd/system/docker.service.d/20-titus-proxy.env"]);
        let drop_in = root.read("/etc/systemd/system/docker.service.d/20-titus-proxy.conf");
        assert!(!drop_in.contains("Environment="), "{drop_in}");
        let variables = root.read("/etc/systemd/system/docker.service.d/20-titus-proxy.env");
        let read = crate::support::environment_file::read(&variables);
        let expected = [
            ("HTTP_PROXY", "http://user:c4n4ry@h:1"),
            ("HTTPS_PROXY", "http://user:c4n4ry@h:2"),
            ("NO_PROXY", &titus_bootstrap::host::no_proxy::for_go(Some("10.0.0.1"))),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        // Without proxies none of it remains, in whatever form an earlier release wrote it.
        root.run(&["--sample", "--role", role]).ends_with(0);
        assert!(!root.at("/etc/systemd/system/docker.service.d/20-titus-proxy.env").exists());
        assert!(!root.at("/etc/systemd/system/docker.service.d/20-titus-proxy.conf").exists());
    }
}

/// What packaging/terraform passes to an agent in tags.
const TERRAFORM: [(&str, &str); 4] = [
    ("role", "agent"),
    ("zookeeper.servers", "10.9.9.9:2181"),
    ("agent.asg", "agents"),
    ("agent.log_bucket", "their-logs"),
];

/// An agent with these tags, on an image with these settings.
fn tagged(image: &str, tags: &[(&str, &str)]) -> (Root, Metadata) {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    root.write("/etc/titus-bootstrap/config.toml", image);
    for (key, value) in tags {
        metadata.set(&format!("meta-data/tags/instance/titus:{key}"), Some((*value).into()));
    }
    (root, metadata)
}

#[test]
fn a_tag_does_not_point_an_agent_at_another_master() {
    let baked = "agent.log_bucket = 'logs'\nzookeeper.servers = ['10.0.0.1:2181']\n";
    // Not listed; and listed, but against what the image says.
    for allowed in ["", "allowed_tags = ['role', 'zookeeper.servers', 'agent.asg', 'agent.log_bucket']\n"] {
        let (root, metadata) = tagged(&format!("{allowed}{baked}"), &TERRAFORM);
        let run = root.ask(&metadata, &["apply"]).ends_with(0);
        run.prints(&[
            "notice: from instance tags: agent.asg = \"agents\" (tag titus:agent.asg)",
            "titus:zookeeper.servers",
            "ignored",
        ]);
        let config = root.read("/etc/mesos-agent.config");
        assert!(config.contains("MESOS_MASTER=zk://10.0.0.1:2181/") && !config.contains("10.9.9.9"), "{config}");
        assert!(root.read("/etc/profile.d/titus_environment.sh").contains("=logs\n"));
    }
    let (root, metadata) = tagged("", &TERRAFORM);
    root.ask(&metadata, &["apply"]).ends_with(78).reports(&[
        "role agent needs agent.log_bucket and zookeeper.servers",
        "allowed_tags = [\"role\", \"stack\", \"agent.asg\", \"zookeeper.servers\", \"agent.log_bucket\"]",
    ]);
    // What it says to do is enough.
    let (root, metadata) = tagged(include_str!("../../packaging/terraform/image.toml"), &TERRAFORM);
    root.ask(&metadata, &["apply"])
        .ends_with(0)
        .prints(&["zookeeper.servers = [\"10.9.9.9:2181\"] (tag titus:zookeeper.servers)"]);
    assert!(root.read("/etc/mesos-agent.config").contains("MESOS_MASTER=zk://10.9.9.9:2181/"));
}

#[test]
fn only_the_image_says_which_tags_count() {
    let all = "allowed_tags = ['role', 'zookeeper.servers', 'agent.asg', 'agent.log_bucket']";
    let (root, metadata) = tagged("", &TERRAFORM);
    metadata.set("meta-data/tags/instance/titus:allowed_tags", Some("prereqs".into()));
    root.ask(&metadata, &["plan"]).ends_with(78).reports(&["this image does not allow them"]);
    for user_data in
        [format!("#titus-bootstrap\n{all}\n"), format!("#!/usr/bin/titus-bootstrap --set {}\n", all.replace(' ', ""))]
    {
        metadata.set("user-data", Some(user_data.into_bytes()));
        root.ask(&metadata, &["plan"])
            .ends_with(78)
            .reports(&["user data", "allowed_tags can only be set by the image"]);
    }
    metadata.set("user-data", None);
    root.write("/srv/config.toml", all);
    let config = root.at("/srv/config.toml").display().to_string();
    for words in [["--set", all], ["--config", &config]] {
        root.ask(&metadata, &[&["plan"][..], &words].concat()).ends_with(78).reports(&["can only be set by the image"]);
    }
    // Nor is a role taken from a tag where the image does not allow that.
    let (root, metadata) = tagged("allowed_tags = []", &TERRAFORM);
    root.ask(&metadata, &["plan"])
        .ends_with(78)
        .reports(&["instance tag titus:role: the image's allowed_tags lacks role"]);
}

#[test]
fn an_image_by_tag_is_named_as_such() {
    let root = Root::empty();
    let words = ["plan", "--sample", "--role", "prereqs"];
    let notice = "images.zookeeper = \"jplock/zookeeper:3.4.10\", images.mesos_master = ";
    root.run(&words).ends_with(0).prints(&["notice: ", notice, "RepoDigests"]);
    let digest = "a".repeat(64);
    let by_digest = [format!("images.zookeeper=x@sha256:{digest}"), format!("images.mesos_master=y@sha256:{digest}")];
    let set: Vec<&str> = by_digest.iter().flat_map(|set| ["--set", set]).collect();
    let plan = root.run(&[&words[..], &set].concat()).ends_with(0);
    assert!(!plan.out.contains("by tag"), "{}", plan.out);
    let agent = root.run(&["plan", "--sample", "--role", "agent"]).ends_with(0);
    assert!(!agent.out.contains("by tag"), "a node without such an image gets no notice: {}", agent.out);
}
