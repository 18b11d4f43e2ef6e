//! The locks that `apply` and `keep` take: flock(2) on a file under /run, so that the kernel releases it when the
//! process that holds it ends.

use std::fs::{File, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::Host;
use super::fs::Owner;
use super::wait::Deadline;
use crate::error::{Error, Kind, Result};

/// The lock's file; its contents name the process that holds it.
pub const LOCK: &str = "/run/titus-bootstrap/lock";

/// The lock's file of `keep`, which neither waits for a run nor delays one.
pub const KEEP_LOCK: &str = "/run/titus-bootstrap/keep.lock";

const PAUSE: Duration = Duration::from_millis(100);

/// A held lock; dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

impl Host {
    /// Takes the lock at `path`. If another process holds it, calls `say` once with a message that names the holder,
    /// and waits at most `patience`. Only root may open the file, because any user who can open it can take the lock
    /// (flock(2)).
    ///
    /// # Errors
    /// Fails with exit code 75 when another process still holds the lock at the deadline; the error names it. Returns
    /// `Interrupted` when a signal arrives.
    pub fn lock(&self, path: &str, patience: Duration, say: &mut dyn FnMut(&str)) -> Result<Lock> {
        let cannot = |e: &dyn std::fmt::Display| Error::failed(format!("{path}: cannot be taken")).cause(e);
        if self.entry("/run/titus-bootstrap")?.is_none() {
            self.make_directory("/run/titus-bootstrap", 0o755, Owner::ROOT)?;
        }
        let place = self.place(path)?;
        let mut deadline = Deadline::new("another run", patience);
        let mut file = place.open(OFlag::O_RDWR | OFlag::O_CREAT, 0o600).map_err(|e| cannot(&e))?;
        // An earlier version made the file readable for everyone.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(|e| cannot(&e))?;
        let mut has_said = false;
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(mut held) => {
                    let who =
                        format!("{} {}\n", std::process::id(), humantime::format_rfc3339_seconds(SystemTime::now()));
                    held.set_len(0)
                        .and_then(|()| held.rewind())
                        .and_then(|()| held.write_all(who.as_bytes()))
                        .map_err(|e| cannot(&e))?;
                    return Ok(Lock { _held: held });
                }
                Err((back, nix::errno::Errno::EWOULDBLOCK)) => {
                    let found = back.metadata().map_err(|e| cannot(&e))?;
                    let holder = Holder::find(&read_start(&back), found.ino(), found.dev());
                    let shown = holder.as_ref().map_or_else(|| "one that has just ended".to_owned(), Holder::describe);
                    if !has_said && !patience.is_zero() {
                        say(&format!(
                            "waiting up to {} for another run: {shown}",
                            humantime::format_duration(patience)
                        ));
                        has_said = true;
                    }
                    deadline.set_name(format!("another run: {shown}"));
                    if !deadline.pause(PAUSE)? {
                        let error = Error::new(Kind::TemporaryFailure, format!("another run is at work: {shown}"));
                        return Err(match holder.as_ref().and_then(Holder::foreign) {
                            None => error.fix("wait for it, or let this run wait: --lock-wait 15m"),
                            Some(foreign) => error
                                .cause(format!("{path} is held by {foreign}, which is not titus-bootstrap"))
                                .fix("end that process, or let this run wait: --lock-wait 15m"),
                        });
                    }
                    file = back;
                }
                Err((_, e)) => return Err(cannot(&e)),
            }
        }
    }

    /// The process that holds the lock now, if any. Does not take the lock.
    ///
    /// # Errors
    /// Fails when the lock's file cannot be examined.
    pub fn lock_holder(&self) -> Result<Option<String>> {
        Ok(self.holder(LOCK)?.map(|holder| holder.describe()))
    }

    /// Whether a process that is not titus-bootstrap holds the lock at `path`.
    ///
    /// # Errors
    /// Fails when the lock's file cannot be examined.
    pub fn is_lock_foreign(&self, path: &str) -> Result<bool> {
        Ok(self.holder(path)?.is_some_and(|holder| holder.foreign().is_some()))
    }

    fn holder(&self, path: &str) -> Result<Option<Holder>> {
        let Some(entry) = self.entry(path)? else { return Ok(None) };
        // A user who may not read the file learns the holder from the kernel.
        let text = self.read_text(path).ok().flatten().unwrap_or_default();
        Ok(Holder::find(&text, entry.inode, entry.device))
    }
}

/// The process that holds a lock, according to the kernel and to the file, which only root can write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    /// The process and the start time in the file.
    written: Option<(String, String)>,
    pid: String,
    /// The name of the process and its user id; `None` if it has ended or is not visible to this process.
    process: Option<(String, u32)>,
}

impl Holder {
    fn find(text: &str, inode: u64, device: u64) -> Option<Holder> {
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let written = text.split_once(' ').map(|(pid, since)| (pid.to_owned(), since.trim().to_owned()));
        let pid = find_holder(&locks, inode, device, written.as_ref().map_or("", |(pid, _)| pid.as_str()))?.to_owned();
        let process = program_name(&pid).zip(std::fs::metadata(format!("/proc/{pid}")).ok().map(|found| found.uid()));
        Some(Holder { written, pid, process })
    }

    fn describe(&self) -> String {
        let shown = match &self.process {
            Some((name, uid)) => format!("{name}, user {}", user_name(*uid)),
            None => "which cannot be seen from here".into(),
        };
        match &self.written {
            Some((pid, since)) if *pid == self.pid => format!("process {pid}, since {since} ({shown})"),
            Some((pid, since)) if self.process.is_none() => format!("process {pid}, since {since}"),
            Some((pid, since)) => {
                format!("process {pid}, since {since}; the kernel names process {} ({shown})", self.pid)
            }
            None => format!("process {} ({shown})", self.pid),
        }
    }

    /// Describes the process if it belongs to another user or is another program.
    fn foreign(&self) -> Option<String> {
        let ours = match &self.process {
            Some((program, uid)) => {
                *uid == nix::unistd::geteuid().as_raw() && Some(program) == program_name("self").as_ref()
            }
            None => false,
        };
        (!ours).then(|| match &self.process {
            Some((name, uid)) => format!("process {} ({name}, user {})", self.pid, user_name(*uid)),
            None => format!("process {}, which cannot be seen from here", self.pid),
        })
    }
}

/// Finds the process that holds this file's lock in /proc/locks: `1: FLOCK  ADVISORY  WRITE 4242 00:1a:1234 0 EOF`.
/// With a layered file system the kernel shows another device there; then only the process `known` counts.
fn find_holder<'a>(locks: &'a str, inode: u64, device: u64, known: &str) -> Option<&'a str> {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let whole = format!("{major:02x}:{minor:02x}:{inode}");
    let end = format!(":{inode}");
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().filter(|field| *field != "->").collect();
        let [_, "FLOCK", _, _, pid, file, ..] = fields.as_slice() else { return None };
        // A process that waits for the lock has its own line.
        let waits = line.contains("->");
        (!waits && (*file == whole || (file.ends_with(&end) && *pid == known))).then_some(*pid)
    })
}

/// The program that a process runs. The name in `comm` would be that of the script if the program is an interpreter.
fn program_name(pid: &str) -> Option<String> {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok().and_then(|path| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        // The suffix means that a newer version has replaced the program.
        Some(name.strip_suffix(" (deleted)").unwrap_or(&name).to_owned())
    });
    let shown = || std::fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim_end().to_owned());
    program.or_else(shown)
}

fn user_name(uid: u32) -> String {
    users::get_user_by_uid(uid).map_or_else(|| uid.to_string(), |user| user.name().to_string_lossy().into_owned())
}

/// The first bytes of the lock's file.
fn read_start(file: &File) -> String {
    let mut text = String::new();
    let mut file = file;
    let _ = file.rewind();
    let _ = file.take(200).read_to_string(&mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_learns_who_holds_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), super::super::Deadlines::default()).unwrap();
        let lock = host.lock(LOCK, Duration::ZERO, &mut |_| {}).unwrap();
        let refused = host.lock(LOCK, Duration::ZERO, &mut |_| {}).unwrap_err();
        assert_eq!(refused.kind, Kind::TemporaryFailure);
        assert!(refused.what.contains(&format!("process {}, since 2", std::process::id())), "{refused}");
        assert!(host.lock_holder().unwrap().is_some());
        drop(lock);
        assert_eq!(host.lock_holder().unwrap(), None);
        host.lock(LOCK, Duration::ZERO, &mut |_| {}).unwrap();
    }

    #[test]
    fn a_pipe_in_the_place_of_the_lock_does_not_block_a_run() {
        let (directory, host) = Host::temporary();
        let place = directory.path().join(LOCK.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _other = Flock::lock(
            std::fs::OpenOptions::new().read(true).write(true).open(&place).unwrap(),
            FlockArg::LockExclusiveNonblock,
        )
        .unwrap();
        let refused = host.lock(LOCK, Duration::ZERO, &mut |_| {}).unwrap_err();
        assert!(refused.what.contains("another run is at work"), "{refused}");
    }

    #[test]
    fn the_holder_is_read_from_proc_locks_and_waiters_are_ignored() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 08:01:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 4242 00:1a:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4243 00:1a:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 5 00:2b:78 0 EOF\nnonsense\n";
        let device = nix::sys::stat::makedev(0, 0x1a);
        assert_eq!(find_holder(locks, 77, device, ""), Some("4242"));
        assert_eq!(find_holder(locks, 78, device, ""), None);
        assert_eq!(find_holder(locks, 78, device, "5"), Some("5"));
        assert_eq!(find_holder(locks, 79, device, "5"), None);
    }

    #[test]
    fn a_holder_that_is_another_program_or_another_user_is_named() {
        let own = program_name("self").unwrap();
        let euid = nix::unistd::geteuid().as_raw();
        let holder = |process| Holder { written: None, pid: "7".into(), process };
        assert_eq!(holder(Some((own.clone(), euid))).foreign(), None);
        for process in [Some(("sleep".into(), euid)), Some((own, euid + 1)), None] {
            let foreign = holder(process).foreign().unwrap();
            assert!(foreign.contains("process 7"), "{foreign}");
        }
    }
}
