//! A node that reaches repository and registry through a proxy alone. apt and dockerd use it, with its password. Requests to
//! the metadata service and to the node itself bypass it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;

use crate::harness::node::{ADDRESS, Node};
use crate::harness::prereqs::{self, IMAGES, Services};
use crate::harness::registry::{self, Registry};
use crate::harness::services::{in_network, listen};
use crate::harness::{agent::SETTINGS, image};

/// Where it listens, in the node's network.
const PROXY: &str = "127.0.0.1:3128";

/// Two names that nothing but the proxy knows.
const REPOSITORY: &str = "debs.example.com";
const REGISTRY: &str = "registry.example.com:5000";

#[test]
fn a_proxy_serves_apt_and_docker_and_nobody_asks_it_for_what_is_the_nodes_own() {
    let node = Node::fresh();
    let registry = Registry::serve(&node, registry::ADDRESS);
    let _services = Services { metadata: prereqs::metadata(&node), registry: Some(registry) };
    let asked = serve_proxy(&node);
    // The mirror of the tests would serve every other name; a registry without TLS needs this of its operator.
    node.write("/etc/docker/daemon.json", &format!("{{ \"insecure-registries\": [\"{REGISTRY}\"] }}"));
    let [zookeeper, master] = IMAGES.map(|image| format!("{REGISTRY}/{image}"));
    let source = image::SOURCE.replace("file:/srv/repo", &format!("http://{REPOSITORY}/repo"));
    node.write(
        SETTINGS,
        &format!(
            "[proxy]\nhttp = \"http://fleet:p%24x@{PROXY}\"\n\n\
             [images]\nzookeeper = \"{zookeeper}\"\nmesos_master = \"{master}\"\n\n\
             [packages]\ndocker = [\"docker.io\"]\n\n{source}"
        ),
    );
    node.bootstrap(&["plan"]);
    let run = node.bootstrap(&["apply"]).ends_with(0);
    assert!(!run.transcript().contains("p%24x") && !run.transcript().contains("p$x"), "{}", run.transcript());
    prereqs::check(&node);
    node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);

    let asked = std::mem::take(&mut *asked.lock().unwrap());
    let password = base64::prelude::BASE64_STANDARD.encode("fleet:p$x");
    for (host, password_sent) in &asked {
        assert!(
            [REPOSITORY, REGISTRY].contains(&host.as_str()),
            "the proxy got a request for {host}, which needs no proxy"
        );
        assert_eq!(password_sent.as_deref(), Some(password.as_str()), "{host}");
    }
    for host in [REPOSITORY, REGISTRY] {
        assert!(asked.iter().any(|(asked, _)| asked == host), "the proxy got no request for {host}");
    }
    assert!(!node.shell("systemctl show docker.service --property=Environment").contains("p%24x"));
    assert!(!asked.iter().any(|(host, _)| host.starts_with(ADDRESS)));
}

type Asked = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// Serves the repository, forwards to the registry, and records the host and the password of each request.
fn serve_proxy(node: &Node) -> Asked {
    let asked = Asked::default();
    let (listener, init, noted): (TcpListener, _, _) = (listen(node, PROXY), node.init, Arc::clone(&asked));
    std::thread::spawn(move || {
        // A thread in the node's network can open connections there.
        in_network(init, || {
            for client in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                std::thread::spawn(move || in_network(init, || drop(answer(client, &noted))));
            }
        });
    });
    asked
}

fn answer(client: TcpStream, asked: &Asked) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client;
    let (mut first, mut header) = (String::new(), String::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut header)? > 2 {}
    let [method, address, ..] = first.split(' ').collect::<Vec<_>>()[..] else { return Ok(()) };
    let rest = address.strip_prefix("http://").unwrap_or(address);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let password = header.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim_start_matches("Basic ").to_owned())
    });
    asked.lock().unwrap().push((host.to_owned(), password));
    match host {
        REGISTRY if method != "CONNECT" => {
            let mut server = TcpStream::connect(registry::ADDRESS)?;
            let kept = header.lines().filter(|line| {
                let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                !name.is_empty() && !name.starts_with("proxy-") && name != "connection"
            });
            let kept: Vec<&str> = kept.collect();
            write!(server, "{method} /{path} HTTP/1.1\r\n{}\r\nConnection: close\r\n\r\n", kept.join("\r\n"))?;
            std::io::copy(&mut server, &mut client)?;
            Ok(())
        }
        REPOSITORY => {
            // What apt escapes in the names of packages.
            let path = path.trim_start_matches("repo/").replace("%2b", "+").replace("%7e", "~");
            send_file(&mut client, &image::fresh().repository.join(path))
        }
        _ => write!(client, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

fn send_file(client: &mut TcpStream, path: &Path) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(length) => {
            write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            client.write_all(&bytes)
        }
        Err(_) => write!(client, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}
