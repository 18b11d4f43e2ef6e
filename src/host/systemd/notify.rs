//! The status of a run in `systemctl status`: sd_notify(3), without its library.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::host::Host;

/// The variable with systemd's socket, if systemd started this process and expects notifications.
const SOCKET: &str = "NOTIFY_SOCKET";

impl Host {
    /// Sends the status of the run to systemd. Ignores failures, because the status is only for people.
    pub fn notify_systemd(&self, status: &str) {
        let Some(socket) = std::env::var_os(SOCKET).filter(|_| self.is_own_root()) else { return };
        if let Err(why) = send(&socket, status) {
            tracing::debug!("systemd was not notified: {why}");
        }
    }
}

fn send(socket: &OsString, status: &str) -> std::io::Result<()> {
    // A line feed would begin another variable.
    let message = format!("STATUS={}", status.replace('\n', " "));
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let own = UnixDatagram::unbound()?;
    // A run must not wait until systemd reads this.
    own.set_nonblocking(true)?;
    own.send_to_addr(message.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(listener: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let n = listener.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    #[test]
    fn a_socket_in_a_directory_gets_the_status() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        send(&path.into(), "step 1/2\nMAINPID=1").unwrap();
        assert_eq!(receive(&listener), "STATUS=step 1/2 MAINPID=1");
    }

    #[test]
    fn an_abstract_socket_gets_the_status() {
        let name = format!("titus-bootstrap-test-{}", std::process::id());
        let listener = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(&format!("@{name}").into(), "converged").unwrap();
        assert_eq!(receive(&listener), "STATUS=converged");
    }

    #[test]
    fn a_missing_socket_is_an_error_that_notify_ignores() {
        assert!(send(&"/nowhere/notify".into(), "x").is_err());
        assert!(send(&"".into(), "x").is_err());
    }
}
