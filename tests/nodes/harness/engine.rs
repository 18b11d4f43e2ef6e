//! An engine in a node that answers as Docker 29.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::node::Node;

/// The daemon: the setting `docker.daemon` of an agent, or the command of a unit.
pub const DOCKERD_29: &str = "/usr/sbin/dockerd-29";

/// Puts the daemon into a node. It is the node's own dockerd with a program in front; see `standins/dockerd-29.rs`.
pub fn install_29(node: &Node) {
    node.shell(&format!("install -m 0755 /srv/repo/dockerd-29 {DOCKERD_29}"));
}

/// Has a node's docker.service start it, with these variables in its environment, where no role does that.
pub fn start_29(node: &Node, environment: &str) {
    install_29(node);
    let command = format!("{DOCKERD_29} -H fd:// --containerd=/run/containerd/containerd.sock");
    let text = format!("[Service]\nEnvironment={environment}\nExecStart=\nExecStart={command}\n");
    node.write("/etc/systemd/system/docker.service.d/90-test.conf", &text);
    node.shell("systemctl daemon-reload && systemctl restart docker");
}

/// The answer to a request at the engine's socket, header and all.
pub fn ask(node: &Node, path: &str) -> String {
    let mut stream = UnixStream::connect(node.path("/run/docker.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // In one piece, which is how the program in front reads it.
    let request = format!("GET {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
