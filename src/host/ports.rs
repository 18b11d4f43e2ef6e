//! Which process listens on a TCP port of this machine (proc(5), /proc/net/tcp).

use std::fmt;

use super::{Host, is_hex};
use crate::error::Result;

/// State LISTEN in /proc/net/tcp.
const LISTEN: &str = "0A";

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name and pid.
    process: String,
    /// The id of the container that the process runs in.
    pub container: Option<String>,
}

impl Listener {
    /// Whether the process runs in a container, or is Docker's process for one.
    pub fn is_of_docker(&self) -> bool {
        let name = self.process.split(' ').next().unwrap_or_default();
        self.container.is_some() || ["docker-proxy", "dockerd"].contains(&name)
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.process)
    }
}

impl Host {
    /// The process that listens on a TCP port, if any.
    ///
    /// # Errors
    /// Fails when /proc cannot be read.
    pub fn listener(&self, port: u16) -> Result<Option<Listener>> {
        let mut inodes = Vec::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            inodes.extend(listening(&self.read_text(table)?.unwrap_or_default(), port));
        }
        if inodes.is_empty() {
            return Ok(None);
        }
        let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
        for pid in self.list("/proc")?.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            // The process may have ended since the listing.
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            let holds = files
                .flatten()
                .filter_map(|file| std::fs::read_link(file.path()).ok())
                .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
            if holds {
                let name = self.read_text(&format!("/proc/{pid}/comm"))?.unwrap_or_default();
                let cgroup = |pid: &str| -> Result<String> {
                    Ok(self.read_text(&format!("/proc/{pid}/cgroup"))?.unwrap_or_default())
                };
                let process = format!("{} (pid {pid})", name.trim());
                return Ok(Some(Listener { process, container: container(&cgroup(pid)?, &cgroup("1")?) }));
            }
        }
        Ok(Some(Listener { process: "a process that cannot be seen from here".into(), container: None }))
    }
}

/// The id of a process's container, from its control groups. `first` has those of PID 1, which can run in a container,
/// too. Docker names the group `docker/ID`, or `docker-ID.scope` with systemd's driver, below any parent.
fn container(cgroups: &str, first: &str) -> Option<String> {
    let name = |line: &str| {
        let last = line.rsplit('/').next()?;
        let id = last.strip_prefix("docker-").and_then(|name| name.strip_suffix(".scope")).unwrap_or(last);
        (is_hex(id, 64) && !first.contains(id)).then(|| id.to_owned())
    };
    cgroups.lines().find_map(name)
}

fn listening(table: &str, port: u16) -> Vec<String> {
    let port = format!("{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields.get(1)?.rsplit_once(':')?.1;
            (local == port && *fields.get(3)? == LISTEN).then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::host::wait::Deadline;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let host = Host::live(Default::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shown = host.listener(port).unwrap().unwrap().to_string();
        assert!(shown.ends_with(&format!("(pid {})", std::process::id())), "{shown}");
        drop(listener);
        // A child that another test forks in the meantime has the listener until it executes its own program.
        let mut deadline = Deadline::silent(Duration::from_secs(60));
        let mut found = host.listener(port).unwrap();
        while found.is_some() && deadline.pause(Duration::from_millis(10)).unwrap() {
            found = host.listener(port).unwrap();
        }
        assert_eq!(found, None);
    }

    #[test]
    fn the_container_of_a_process_is_the_last_of_its_control_groups() {
        let (id, outer) = ("a1".repeat(32), "b2".repeat(32));
        let first = format!("9:name=systemd:/docker/{outer}/init.scope\n0::/docker/{outer}/init.scope\n");
        for (cgroups, found) in [
            (format!("9:memory:/docker/{id}\n0::/\n"), Some(&id)),
            (format!("0::/system.slice/docker-{id}.scope\n"), Some(&id)),
            (format!("0::/my.slice/{id}\n"), Some(&id)),
            (format!("0::/docker/{outer}/system.slice/docker.service\n"), None),
            (format!("0::/docker/{outer}\n"), None),
            ("0::/user.slice\n".into(), None),
            (String::new(), None),
        ] {
            assert_eq!(container(&cgroups, &first).as_ref(), found, "{cgroups}");
        }
    }

    #[test]
    fn a_connection_is_not_a_listener() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:0885 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
                     1: 0100007F:0885 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(listening(table, 2181), ["4711"]);
        assert!(listening("nonsense\n", 2181).is_empty());
    }
}
