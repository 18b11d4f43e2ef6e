//! SIGTERM, SIGINT and SIGHUP end every wait of the program, here mostly for a server that accepts and stays silent.

use std::env;
use std::fs;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::aws::Keys;
use crate::support::door::{Door, read_request};
use crate::support::metadata::{self, Metadata};
use crate::support::root::{Outcome, Root, ask, into_outcome, program};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use titus_bootstrap::error::{Error, Result};
use titus_bootstrap::host::command::Patience;
use titus_bootstrap::host::lock::LOCK;
use titus_bootstrap::host::{Deadlines, Host, signals};
use titus_bootstrap::role::Role;
use titus_bootstrap::step::wait::{Awaited, Wait};
use titus_bootstrap::step::{Phase, Work, ensemble};
use titus_bootstrap::template::Renderer;

const SIGNALS: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The deadline of every wait here. It only bounds the tests: a process that a signal does not end reports something else in
/// the end.
const LIMIT: Duration = Duration::from_secs(60);

/// Passes to a copy of this test binary what to wait for, and the address of the silent server.
const WAIT: &str = "TITUS_BOOTSTRAP_TEST_WAIT";
const SERVER: &str = "TITUS_BOOTSTRAP_TEST_SERVER";

/// A process that waits.
struct Waiting {
    child: Child,
    errors: ChildStderr,
    /// What was read from its standard error.
    read: Vec<u8>,
}

impl Waiting {
    fn start(command: &mut Command) -> Waiting {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        Waiting { errors: child.stderr.take().unwrap(), child, read: Vec::new() }
    }

    /// Waits until the process has connected to the server. The server is silent while the connection lives.
    #[track_caller]
    fn connects(&mut self, server: &TcpListener) -> TcpStream {
        let started = Instant::now();
        while !ready(server, Duration::from_millis(50)) {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || started.elapsed() > LIMIT {
                while ended.is_some() && self.hears() {}
                panic!("it did not connect: {ended:?}\n{}", self.text());
            }
        }
        server.accept().unwrap().0
    }

    /// Waits until the process prints this.
    #[track_caller]
    fn says(&mut self, words: &str) {
        while !self.text().contains(words) {
            assert!(self.hears(), "no {words:?} in:\n{}", self.text());
        }
    }

    /// Reads more of its standard error; returns `false` at the end.
    #[track_caller]
    fn hears(&mut self) -> bool {
        assert!(ready(&self.errors, LIMIT * 2), "it waits, and says no more than:\n{}", self.text());
        let mut bytes = [0; 4096];
        let n = self.errors.read(&mut bytes).unwrap();
        self.read.extend_from_slice(&bytes[..n]);
        n > 0
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    #[track_caller]
    fn end(mut self) -> Outcome {
        while self.hears() {}
        let stderr = std::mem::take(&mut self.read);
        into_outcome(Output { status: self.child.wait().unwrap(), stdout: Vec::new(), stderr })
    }

    /// Sends the signal, and asserts that it ends the process, which names what it waited for.
    #[track_caller]
    fn ends_at(self, signal: Signal, waited_for: &str) {
        let sent = Instant::now();
        self.signal(signal);
        let outcome = self.end();
        println!("{signal} ended the wait for {waited_for} after {} ms", sent.elapsed().as_millis());
        outcome.ends_with(1).reports(&["stopped by a signal", &format!("it was waiting for {waited_for}")]);
    }
}

impl Drop for Waiting {
    /// Ends the process if the test failed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there is something to read or accept, now or within this time.
fn ready(descriptor: &impl AsFd, within: Duration) -> bool {
    let mut asked = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, PollTimeout::try_from(within).unwrap()).unwrap() > 0
}

/// Asserts that each signal ends this program once it is connected to the silent server.
#[track_caller]
fn ends_at_signals(waited_for: &str, mut program: impl FnMut(&str) -> Command) {
    for signal in SIGNALS {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut waiting = Waiting::start(&mut program(&server.local_addr().unwrap().to_string()));
        let _silent = waiting.connects(&server);
        waiting.ends_at(signal, waited_for);
    }
}

#[test]
fn the_facts() {
    ends_at_signals("the instance metadata service at http://127.0.0.1:", |server| {
        let mut command = program();
        command.arg("facts");
        ask(&mut command, &format!("http://{server}"));
        command
    });
}

#[test]
fn a_call_of_the_ec2_api() {
    let mut items = metadata::sample();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    items.extend(Keys::new(1).items());
    let metadata = Metadata::start(items);
    let root = Root::empty();
    ends_at_signals("the EC2 API (DescribeTags) at http://127.0.0.1:", |server| {
        let mut command = root.program(&["apply", "--set", "agent.log_bucket=logs", "--set", "prereqs=10.0.0.1"]);
        ask(&mut command, &metadata.endpoint()).env("AWS_ENDPOINT_URL_EC2", format!("http://{server}"));
        command
    });
}

#[test]
fn the_turn_of_a_node_in_a_fleet() {
    let mut items = metadata::sample();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    let (root, metadata) = (Root::empty(), Metadata::start(items));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    root.write("/proc/uptime", "3.00 1.00\n");
    let mut command = root.program(&["apply", "--set", "tags.spread=1d"]);
    ask(&mut command, &metadata.endpoint())
        .env("AWS_ENDPOINT_URL_EC2", format!("http://{}", server.local_addr().unwrap()));
    let mut waiting = Waiting::start(&mut command);
    waiting.says("still waiting for this node's turn to ask the EC2 API for its tags (setting tags.spread)");
    assert!(!ready(&server, Duration::ZERO), "it asked before its turn");
    waiting.ends_at(Signal::SIGTERM, "this node's turn");
}

/// Holds a root's lock as a run does that began at midnight.
fn hold(root: &Root) -> Flock<fs::File> {
    root.write(LOCK, "");
    let file = fs::OpenOptions::new().read(true).write(true).open(root.at(LOCK)).unwrap();
    let mut held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    held.write_all(format!("{} 2018-05-15T00:00:00Z\n", std::process::id()).as_bytes()).unwrap();
    held
}

#[test]
fn the_lock() {
    let root = Root::empty();
    let _held = hold(&root);
    for signal in SIGNALS {
        let mut waiting = Waiting::start(&mut root.program(&["--role", "agent", "--sample", "--lock-wait", "1m"]));
        waiting.says("waiting up to 1m for another run");
        waiting.ends_at(signal, "another run: process ");
    }
}

#[test]
fn another_run_whose_end_status_awaits() {
    let root = Root::empty();
    let _held = hold(&root);
    let mut waiting = Waiting::start(&mut root.program(&["status", "--sample", "--wait"]));
    waiting.says("still waiting for the run at work, ");
    waiting.ends_at(Signal::SIGTERM, "the run at work");
}

/// A copy of this test binary that waits as [`waiting_copy`] does.
fn copy(wait: &str, server: &str) -> Command {
    let name = "waiting_copy";
    let name = module_path!().split_once("::").map_or(name.to_owned(), |(_, module)| format!("{module}::{name}"));
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture"]).env(WAIT, wait).env(SERVER, server);
    command
}

/// Waits for what another test has requested.
#[test]
fn waiting_copy() {
    let (Ok(wait), Ok(server)) = (env::var(WAIT), env::var(SERVER)) else { return };
    signals::listen().unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let result = wait_for(&wait, &server);
    eprintln!("{}", result.as_ref().map_or_else(Error::to_string, String::clone));
    std::process::exit(result.map_or_else(|error| error.kind.exit_code().into(), |_| 0));
}

/// The waits of a live machine; returns the words that appear instead of an answer.
fn wait_for(wait: &str, server: &str) -> Result<String> {
    let directory = tempfile::tempdir().unwrap();
    let deadlines = Deadlines { download: LIMIT, pull: LIMIT, wait: LIMIT, ..Deadlines::default() };
    let mut host = Host::tree(directory.path(), deadlines).unwrap();
    host.docker = format!("tcp://{server}");
    let url = format!("http://{server}/x");
    let (name, port) = server.rsplit_once(':').unwrap();
    let bash = |setup: &str, patience| {
        let script = format!("{setup}; exec 3<>/dev/tcp/{name}/{port}; read -r <&3; echo closed");
        host.run_command(&["bash", "-c", &script], &[], patience, LIMIT).map(|output| output.stdout)
    };
    let answer = match wait {
        "key" => host.download(&url, 100).map(drop),
        "deb" => host.join_download(&url, &"a".repeat(64)).map(drop),
        "sum" => host.checksum_of_download(&url).map(drop),
        "pull" => host.join_pull("jplock/zookeeper:3.4.10").map(drop),
        "engine" => host.engine().map(drop),
        "http" => Awaited::from(Wait::Http(url)).converge(&host),
        "docker" => Awaited::from(Wait::Docker { address: host.docker.clone(), api_version: None }).converge(&host),
        "zookeeper" => Awaited::from(Wait::Zookeeper { address: server.into(), ensemble: true }).converge(&host),
        "mesos" => Awaited::from(Wait::MesosLeader(vec![server.into()])).converge(&host),
        "observed" => ensemble::ask(&host, server).map(drop),
        "put" => host.http_put(&url, &serde_json::json!({}), LIMIT).map(drop),
        "command" => return bash(":", Patience::Ends),
        "stubborn" => return bash("trap '' TERM", Patience::Ends),
        "container" => {
            let file = directory.path().join("role.toml");
            fs::write(&file, ROLE).unwrap();
            let steps = Role::parse_file(&file, fs::read_to_string(&file).unwrap())
                .unwrap()
                .steps(&Renderer::new(serde_json::json!({})), &[Phase::Boot]);
            steps.unwrap()[0].work().converge(&host)
        }
        "package" => return bash(":", Patience::Never),
        _ => panic!("{wait}"),
    };
    answer.map(|()| "no signal came".to_owned())
}

#[track_caller]
fn copy_ends_at_signals(wait: &str, waited_for: &str) {
    ends_at_signals(waited_for, |server| copy(wait, server));
}

#[test]
fn a_key() {
    copy_ends_at_signals("key", "the download of http://127.0.0.1:");
}

#[test]
fn a_deb() {
    copy_ends_at_signals("deb", "the download of http://127.0.0.1:");
    copy_ends_at_signals("sum", "the download of http://127.0.0.1:");
}

#[test]
fn a_pull() {
    copy_ends_at_signals("pull", "the pull of jplock/zookeeper:3.4.10");
}

#[test]
fn the_docker_engine() {
    copy_ends_at_signals("engine", "the Docker Engine at tcp://127.0.0.1:");
}

#[test]
fn a_wait_step() {
    copy_ends_at_signals("http", "http://127.0.0.1:");
    copy_ends_at_signals("docker", "the Docker Engine at tcp://127.0.0.1:");
    copy_ends_at_signals("zookeeper", "127.0.0.1:");
    copy_ends_at_signals("mesos", "http://127.0.0.1:");
}

#[test]
fn a_single_question() {
    copy_ends_at_signals("observed", "127.0.0.1:");
    copy_ends_at_signals("put", "http://127.0.0.1:");
}

#[test]
fn a_command_that_may_be_ended() {
    copy_ends_at_signals("command", "`bash -c :;");
    copy_ends_at_signals("stubborn", "`bash -c trap '' TERM;");
}

#[test]
fn a_run_still_waits_for_a_package_manager() {
    for signal in SIGNALS {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut waiting = Waiting::start(&mut copy("package", &server.local_addr().unwrap().to_string()));
        let silent = waiting.connects(&server);
        waiting.signal(signal);
        waiting.says("a signal came; before it stops, the run waits for `bash -c :;");
        drop(silent);
        waiting.end().ends_with(0).reports(&["closed"]);
    }
}

const ROLE: &str = r#"
description = "one container"
[[step]]
id = "web"
phase = "boot"
container = { name = "web", image = "web:2" }
"#;

/// An engine that has a container `web` of an earlier run, and does not answer while that is stopped for the first time.
fn engine(listener: TcpListener, requests: mpsc::Sender<String>) -> Door {
    const OURS: &str = r#""Config": {"Image": "web:1", "Labels": {"titus-bootstrap.digest": "another"}}"#;
    let requests = std::sync::Mutex::new((requests, 0));
    let answer = move |stream: &TcpStream, request: &str| -> io::Result<()> {
        let (status, body) = match request {
            "GET /version" => (200, r#"{"Version": "20.10.24", "ApiVersion": "1.41"}"#.to_owned()),
            "GET /v1.41/containers/web/json" => {
                (200, format!(r#"{{"Id": "old", {OURS}, "State": {{"Status": "running"}}}}"#))
            }
            "GET /v1.41/containers/old/json" => {
                (200, format!(r#"{{"Id": "old", {OURS}, "State": {{"Status": "exited"}}}}"#))
            }
            "GET /v1.41/images/web:2/json" => (200, r#"{"Id": "two"}"#.to_owned()),
            create if create.contains("/create?name=web") => (201, r#"{"Id": "new", "Warnings": []}"#.to_owned()),
            get if get.starts_with("GET") => (404, r#"{"message": "no such thing"}"#.to_owned()),
            _ => (204, String::new()),
        };
        let mut sent = requests.lock().unwrap();
        sent.0.send(request.to_owned()).unwrap();
        if request.starts_with("POST /v1.41/containers/old/stop") {
            sent.1 += 1;
            if sent.1 == 1 {
                drop(sent);
                return (&*stream).read(&mut [0]).map(drop);
            }
        }
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n");
        let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        (&*stream).write_all(format!("{head}{length}\r\n{body}").as_bytes())
    };
    let converse = move |stream: &TcpStream| {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader)? {
            answer(stream, &format!("{} {}", request.method, request.target))?;
        }
        Ok(())
    };
    Door::open(listener, converse, || ())
}

#[test]
fn a_container_that_was_to_be_replaced_is_put_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, requests) = mpsc::channel();
    let _door = engine(listener, sender);
    let waiting = Waiting::start(&mut copy("container", &address));
    while !requests.recv_timeout(LIMIT).unwrap().contains("/stop") {}
    waiting.signal(Signal::SIGTERM);
    waiting.end().ends_with(1).reports(&["stopped by a signal", "the previous container runs again"]);
    let undone: Vec<String> = requests.try_iter().collect();
    assert_eq!(
        undone,
        [
            "DELETE /v1.41/containers/new?v=true&force=true&link=false",
            "POST /v1.41/containers/old/rename?name=web",
            "POST /v1.41/containers/old/stop?t=10",
            "GET /v1.41/containers/old/json",
            "POST /v1.41/containers/old/start",
        ]
    );
}
