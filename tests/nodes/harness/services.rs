//! What is served to a node in its own network: the metadata service and the Mesos
//! master, both by threads of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::node::{ADDRESS, MAC, Node, PREREQS};
use crate::support::metadata::{Items, Metadata, sample};

/// A node's surroundings, for as long as this lives.
pub struct Services {
    /// The metadata service; what it says can be changed.
    pub metadata: Metadata,
}

/// Metadata of the sample instance at this node's address, with the tag that makes it
/// an agent.
pub fn items() -> Items {
    let mut items: Items = sample()
        .into_iter()
        .filter(|(path, _)| !path.starts_with("meta-data/network/") && !path.starts_with("meta-data/tags/"))
        .collect();
    let mut set = |path: &str, value: &str| items.insert(path.into(), value.into());
    set("meta-data/local-ipv4", ADDRESS);
    set("meta-data/mac", MAC);
    set(&format!("meta-data/network/interfaces/macs/{MAC}/vpc-id"), "vpc-0a1b2c3d");
    set(&format!("meta-data/network/interfaces/macs/{MAC}/owner-id"), "123456789012");
    set("meta-data/tags/instance/titus:role", "agent");
    set("meta-data/tags/instance/aws:autoscaling:groupName", "titusagent");
    items
}

/// Serves metadata to a node. Both versions of the protocol are served, as packaging/terraform has it for nodes of Titus.
pub fn metadata(node: &Node, items: Items) -> Metadata {
    let metadata = Metadata::serve(listen(node, "169.254.169.254:80"), items);
    metadata.require_tokens(false);
    metadata
}

/// Serves metadata, and a Mesos master that knows the node's agent.
pub fn serve(node: &Node, items: Items) -> Services {
    let metadata = metadata(node, items);
    let master = listen(node, &format!("{PREREQS}:5050"));
    let (init, hostname) = (node.init, node.hostname());
    std::thread::spawn(move || {
        for stream in master.incoming().flatten() {
            let _ = answer_as_master(stream, init, &hostname);
        }
    });
    Services { metadata }
}

/// A listener in the node's network. The socket stays there when the thread that
/// opened it has ended.
pub fn listen(node: &Node, address: &str) -> TcpListener {
    in_network(node.init, || TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}")))
}

/// Whether something in the node answers an HTTP GET with 200.
pub fn answers(node: &Node, address: &str, path: &str) -> bool {
    get(node, address, path).is_some()
}

/// The answer of something in the node to an HTTP GET, header and all, if it is 200.
pub fn get(node: &Node, address: &str, path: &str) -> Option<String> {
    in_network(node.init, || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
        let mut answer = Vec::new();
        // A response that is cut off still has its status.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        answer.get(8..12).is_some_and(|status| status == " 200").then_some(answer)
    })
}

/// Whether anything listens there.
pub fn listens(node: &Node, address: &str) -> bool {
    in_network(node.init, || TcpStream::connect(address).is_ok())
}

/// Does `work` in the network of the node with this PID 1.
pub fn in_network<T: Send>(init: i32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            let namespace = std::fs::File::open(format!("/proc/{init}/ns/net")).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        entered.join().unwrap_or_else(|why| std::panic::resume_unwind(why))
    })
}

fn answer_as_master(mut stream: TcpStream, init: i32, hostname: &str) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (status, body) = match request.split(' ').nth(1) {
        Some("/slaves") => ("200 OK", slaves(init, hostname).to_string()),
        _ => ("404 Not Found", String::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// `GET /slaves` as Mesos 1.0 answers it: the agent that runs in the node, from its
/// environment, or none. Without an address in its environment it has that of its host's name.
fn slaves(init: i32, own_name: &str) -> serde_json::Value {
    let environment = agent_environment(init);
    let variable = |name: &str| {
        let text = environment.split('\0').find_map(|v| v.strip_prefix(name)?.strip_prefix('='));
        text.map(str::to_string)
    };
    let Some(port) = variable("MESOS_PORT").and_then(|p| p.parse::<u16>().ok()) else {
        return serde_json::json!({ "slaves": [], "recovered_slaves": [] });
    };
    let attributes: serde_json::Map<String, serde_json::Value> = variable("MESOS_ATTRIBUTES")
        .unwrap_or_default()
        .split(';')
        .filter_map(|a| a.split_once(':'))
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    let ip = variable("MESOS_IP").or_else(|| variable("LIBPROCESS_IP")).unwrap_or_else(|| {
        let hosts = std::fs::read_to_string(format!("/proc/{init}/root/etc/hosts")).unwrap_or_default();
        let line = hosts.lines().find(|line| line.split_whitespace().skip(1).any(|name| name == own_name));
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
    });
    let hostname = variable("MESOS_HOSTNAME").unwrap_or_else(|| "ip-30-0-100-140.eu-west-1.compute.internal".into());
    serde_json::json!({
        "slaves": [{
            "id": "2dcd6cd4-f40f-4a5c-9c4c-6b6f1f6a2b9a-S0", "hostname": hostname, "port": port,
            "pid": format!("slave(1)@{ip}:{port}"), "registered_time": 1_526_896_800.5, "active": true,
            "version": "1.0.1", "attributes": attributes,
        }],
        "recovered_slaves": [],
    })
}

/// The environment of the process in the node that is called `mesos-agent`.
fn agent_environment(init: i32) -> String {
    let proc = std::path::PathBuf::from(format!("/proc/{init}/root/proc"));
    let processes = std::fs::read_dir(&proc).into_iter().flatten().flatten();
    processes
        .map(|process| process.path())
        .find(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "mesos-agent"))
        .and_then(|path| std::fs::read(path.join("environ")).ok())
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .unwrap_or_default()
}
