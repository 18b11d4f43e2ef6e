//! Messages with fields for systemd's journal, without its library (sd-daemon(3), systemd.journal-fields(7),
//! systemd.io/JOURNAL_NATIVE_PROTOCOL).

use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::error::{Error, excerpt};
use crate::secrets::masked;
use crate::terminal::{Form, printable};

/// Names the device and inode of the stream that systemd set up as a service's standard output or error, e.g. `8:1234`.
const STREAM: &str = "JOURNAL_STREAM";

const SOCKET: &str = "run/systemd/journal/socket";

/// Whether standard error of this process goes to the journal. The variable alone does not show that: a process
/// inherits it.
pub fn reads_stderr() -> bool {
    let Ok(stream) = std::env::var(STREAM) else { return false };
    std::fs::metadata("/proc/self/fd/2").is_ok_and(|found| stream == format!("{}:{}", found.dev(), found.ino()))
}

/// Sends the error that ends a command to the journal of the machine, or of the tree below `root`, as one message with
/// fields. Returns false if the socket is missing or full; then the caller must print the error.
pub fn send_error(root: Option<&Path>, error: &Error) -> bool {
    let exit_code = error.kind.exit_code().to_string();
    // Only an excerpt of a long cause, because the fix comes after it. The record of the run has the whole cause.
    let cause = error.cause.as_deref().map(|cause| excerpt(cause).join("\n"));
    let text = Error { cause, ..error.clone() }.to_string();
    let mut fields = vec![("MESSAGE", text.as_str()), ("PRIORITY", "3"), ("SYSLOG_IDENTIFIER", "titus-bootstrap")];
    fields.push(("EXIT_CODE", &exit_code));
    if let Some(origin) = &error.origin {
        fields.extend([("TITUS_ROLE", origin.role.as_str()), ("TITUS_STEP", &origin.step), ("TITUS_RUN", &origin.run)]);
    }
    // journald reads the unit of a sender from /proc, but this process may have ended by then.
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if let Some(unit) = unit_of(&cgroup) {
        fields.push(("OBJECT_SYSTEMD_UNIT", unit));
    }
    send(root.unwrap_or(Path::new("/")), &encode(&fields)).is_ok()
}

/// The service that has the process in its control group (cgroups(7): `1:name=systemd:/system.slice/x.service`).
fn unit_of(cgroup: &str) -> Option<&str> {
    let names = cgroup.lines().filter_map(|line| line.rsplit('/').next());
    names.into_iter().find(|name| name.ends_with(".service"))
}

/// Encodes the fields: a line `NAME=value` each. A value with line feeds has its length before it, in 8 bytes,
/// little-endian.
fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let value = masked(value);
        let value = printable(&value, Form::Text);
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
    bytes
}

fn send(root: &Path, message: &[u8]) -> std::io::Result<()> {
    let socket = root.canonicalize()?.join(SOCKET);
    // A link below another root could lead out of it.
    if root != Path::new("/") && socket.canonicalize()? != socket {
        return Err(std::io::ErrorKind::NotFound.into());
    }
    let own = UnixDatagram::unbound()?;
    // A command must not wait until journald reads this.
    own.set_nonblocking(true)?;
    own.send_to(message, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_line_feeds_has_its_length_before_it() {
        let sent = encode(&[("MESSAGE", "one\ntwo"), ("TITUS_STEP", ""), ("PRIORITY", "3"), ("TITUS_ROLE", "a\u{1b}")]);
        assert_eq!(sent, b"MESSAGE\n\x07\0\0\0\0\0\0\0one\ntwo\nPRIORITY=3\nTITUS_ROLE=a\\x1b\n");
    }

    #[test]
    fn a_service_is_known_by_its_control_group() {
        for (cgroup, unit) in [
            ("0::/system.slice/titus-bootstrap.service\n", Some("titus-bootstrap.service")),
            ("2:cpu:/\n1:name=systemd:/system.slice/x.service\n", Some("x.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("", None),
        ] {
            assert_eq!(unit_of(cgroup), unit);
        }
    }

    #[test]
    fn a_socket_that_is_missing_full_or_outside_the_root_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let error = Error::failed("x");
        assert!(!send_error(Some(&root), &error));
        std::fs::create_dir_all(root.join("run/systemd/journal")).unwrap();
        assert!(!send_error(Some(&root), &error));
        let listener = UnixDatagram::bind(root.join(SOCKET)).unwrap();
        let mut sent = 0;
        while send_error(Some(&root), &error) {
            sent += 1;
        }
        assert!(sent > 0, "a socket that nobody empties is full at some time");
        drop(listener);
        assert!(!send_error(Some(&root), &error));
        std::fs::rename(root.join("run"), directory.path().join("other")).unwrap();
        std::fs::remove_file(directory.path().join("other/systemd/journal/socket")).unwrap();
        let listener = UnixDatagram::bind(directory.path().join("other/systemd/journal/socket")).unwrap();
        std::os::unix::fs::symlink("../other", root.join("run")).unwrap();
        assert!(!send_error(Some(&root), &error), "a link was followed out of the root");
        drop(listener);
    }
}
