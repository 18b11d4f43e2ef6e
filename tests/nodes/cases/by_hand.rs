//! A node for a developer, which `tests/node` starts, asks over a socket, and ends. Not a case: it asserts nothing.

use std::any::Any;
use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;

use crate::harness::agent::{self, SETTINGS};
use crate::harness::image::{Kept, program};
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::{cluster, first_boot, prereqs};

/// What all settings begin with: the kernel is the machine's, and no reboot changes it.
const NO_REBOOT: &str = "reboot = \"never\"";

/// A node with the boot unit, and what is served to it.
struct Member {
    role: &'static str,
    node: Node,
    network: Option<Rc<Network>>,
    served: Option<Box<dyn Any>>,
    kept: Kept,
    /// Where `tests/node` finds how to enter it.
    directory: PathBuf,
}

impl Member {
    /// A node that is off: from the kept image of its role or, without one, a node on which nothing ever ran.
    fn new(role: &'static str, place: usize, network: Option<Rc<Network>>, directory: &str) -> Member {
        let settings = match network {
            None => agent::settings_text("titus-log-bucket-terraform-example", NO_REBOOT),
            Some(_) => format!("{NO_REBOOT}\n{}", cluster::settings()),
        };
        let kept = Kept::new(role, &settings);
        let node = Node::off_without_program(kept.or_fresh(), network.as_ref().map(|_| place));
        first_boot::install(&node);
        node.put("/usr/bin/titus-bootstrap", 0o755, std::fs::read(program()).unwrap());
        node.put(SETTINGS, 0o644, settings);
        Member { role, node, network, served: None, kept, directory: directory.into() }
    }

    /// Boots it, also when it is on already.
    ///
    /// # Errors
    /// Units failed at the boot. The node is still on.
    fn boot(&mut self) -> Result<(), String> {
        self.served = None;
        self.node.stop();
        self.node.switch_on();
        self.node.await_network();
        if let Some(network) = &self.network {
            network.join(&self.node);
        }
        self.served = Some(match (self.role, &self.network) {
            ("agent", None) => Box::new(agent::services(&self.node)),
            ("prereqs", _) => Box::new(prereqs::services(&self.node)),
            (role, _) => Box::new(prereqs::metadata_of(&self.node, role)),
        });
        std::fs::write(self.directory.join("enter"), self.node.enter().join("\n")).unwrap();
        std::fs::write(self.directory.join("root"), self.node.path("").display().to_string()).unwrap();
        self.node.booted()
    }

    /// Boots it for the first time; the boot unit applies its role. Its image stays for the next node.
    ///
    /// # Errors
    /// As [`Member::boot`].
    fn start(&mut self) -> Result<(), String> {
        self.boot()?;
        if !self.kept.exists() {
            self.node.stop();
            self.kept.keep(&self.node);
            self.boot()?;
        }
        Ok(())
    }
}

#[test]
#[ignore = "tests/node starts it"]
fn node() {
    let [directory, role] = ["NODE_DIRECTORY", "NODE_ROLE"].map(|name| env::var(name).unwrap());
    let roles: &[&str] = match role.as_str() {
        "agent" => &["agent"],
        "prereqs" => &["prereqs"],
        "master" => &["prereqs", "master"],
        "gateway" => &["prereqs", "master", "gateway"],
        _ => panic!("unknown role {role:?}: agent, prereqs, master or gateway"),
    };
    let network = (role != "agent").then(|| Rc::new(Network::new()));
    let (mut members, mut started) = (Vec::new(), Ok(()));
    // The last is the developer's, the others are what it needs.
    for (place, role) in (1..).zip(roles) {
        members.push(Member::new(role, place, network.clone(), &directory));
        started = started.and_then(|()| members.last_mut().unwrap().start());
    }
    let mut report = Some(started);
    let listener = UnixListener::bind(format!("{directory}/socket")).unwrap();
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut request = String::new();
        BufReader::new(&stream).read_line(&mut request).unwrap();
        let done = match request.trim() {
            "start" => report.take().unwrap_or(Ok(())),
            "boot" => members.last_mut().unwrap().boot(),
            _ => {
                members.clear();
                Ok(())
            }
        };
        let answer = done.err().map_or_else(|| "ok".to_owned(), |failed| format!("failed\n{failed}"));
        // The program that asked may have ended.
        let _ = stream.write_all(answer.as_bytes());
        if members.is_empty() {
            return;
        }
    }
}
