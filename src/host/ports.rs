//! Who listens on a TCP port of this machine (proc(5), /proc/net/tcp).

use super::Host;
use crate::error::Result;

/// State LISTEN in /proc/net/tcp.
const LISTEN: &str = "0A";

impl Host {
    /// The process that listens on a TCP port, in words; `None`: nobody does.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn listener(&self, port: u16) -> Result<Option<String>> {
        let mut inodes = Vec::new();
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            inodes.extend(listening(&self.read_text(table)?.unwrap_or_default(), port));
        }
        if inodes.is_empty() {
            return Ok(None);
        }
        let sockets: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
        for pid in self.list("/proc")?.iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            // A process may be gone by now.
            let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            let holds = files
                .flatten()
                .filter_map(|file| std::fs::read_link(file.path()).ok())
                .any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()));
            if holds {
                let name = self.read_text(&format!("/proc/{pid}/comm"))?.unwrap_or_default();
                return Ok(Some(format!("{} (pid {pid})", name.trim())));
            }
        }
        Ok(Some("a process that cannot be seen from here".into()))
    }
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
    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let host = Host::live(Default::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let told = host.listener(port).unwrap().unwrap();
        assert!(told.ends_with(&format!("(pid {})", std::process::id())), "{told}");
        drop(listener);
        assert_eq!(host.listener(port).unwrap(), None);
    }

    #[test]
    fn a_connection_is_no_listener() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:0885 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
                     1: 0100007F:0885 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n";
        assert_eq!(listening(table, 2181), ["4711"]);
        assert!(listening("nonsense\n", 2181).is_empty());
    }
}
