//! A network between nodes: a bridge in its own namespace, which ends with it.

use std::process::{Child, Command, Stdio};

use super::node::Node;
use super::{mortal, wait_for};

/// The bridge. Dropping it removes it and all its links.
pub struct Network {
    holder: Child,
}

impl Network {
    /// A bridge without nodes.
    pub fn new() -> Network {
        let mut command = mortal("unshare");
        command.args(["--net", "sleep", "infinity"]).stdin(Stdio::null());
        let network = Network { holder: command.spawn().unwrap() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let namespace = format!("/proc/{}/ns/net", network.holder.id());
        wait_for("a network namespace", || {
            std::fs::read_link(&namespace).is_ok_and(|found| found != own).then_some(())
        });
        network.ip(&["link", "add", "bridge0", "type", "bridge"]);
        network.ip(&["link", "set", "bridge0", "up"]);
        network
    }

    /// Puts the far end of a node's only cable into the bridge; again after each of its boots.
    pub fn join(&self, node: &Node) {
        let port = format!("n{}", node.address.rsplit('.').next().unwrap());
        let holder = self.holder.id().to_string();
        // What served the node before its boot can hold on to its old cable.
        let old = ["-t", &holder, "-n", "ip", "link", "delete", &port];
        let _ = Command::new("nsenter").args(old).output().unwrap();
        run(
            "nsenter",
            &["-t", &node.init.to_string(), "-n", "ip", "link", "set", "gateway0", "netns", &holder, "name", &port],
        );
        self.ip(&["link", "set", &port, "master", "bridge0"]);
        self.ip(&["link", "set", &port, "up"]);
    }

    /// Gives the bridge an address, for servers that all nodes use, and returns a process of its network.
    pub fn gateway(&self, address: &str) -> u32 {
        self.ip(&["address", "add", &format!("{address}/24"), "dev", "bridge0"]);
        self.ip(&["link", "set", "lo", "up"]);
        self.holder.id()
    }

    fn ip(&self, arguments: &[&str]) {
        run("nsenter", &[&["-t", &self.holder.id().to_string(), "-n", "ip"], arguments].concat());
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // setpriv and unshare have become sleep.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(command: &str, arguments: &[&str]) {
    let output = Command::new(command).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {}: {printed}", arguments.join(" "));
}
