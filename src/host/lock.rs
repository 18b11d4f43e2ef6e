//! The locks that `apply` and `keep` take: flock(2) on a file under /run, so that it goes
//! with the process that held it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use super::Host;
use super::fs::Owner;
use super::wait::Deadline;
use crate::error::{Error, Kind, Result};

/// Where the lock lies; its contents tell who holds it.
pub const LOCK: &str = "/run/titus-bootstrap/lock";

/// The same of `keep`, which neither waits for a run nor holds one up.
pub const KEEP_LOCK: &str = "/run/titus-bootstrap/keep.lock";

const PAUSE: Duration = Duration::from_millis(100);

/// The held lock; dropped, it is free.
#[derive(Debug)]
pub struct Lock {
    _held: Flock<File>,
}

impl Host {
    /// Takes the lock at `path`, waiting at most `patience` for whoever has it. `say` is told
    /// once who that is.
    ///
    /// # Errors
    /// 75 when another run still holds it then; it is named. `Interrupted` when a signal came.
    pub fn lock(&self, path: &str, patience: Duration, say: &mut dyn FnMut(&str)) -> Result<Lock> {
        let cannot = |e: &dyn std::fmt::Display| Error::failed(format!("{path}: cannot be taken")).cause(e);
        if self.entry("/run/titus-bootstrap")?.is_none() {
            self.make_directory("/run/titus-bootstrap", 0o755, Owner::ROOT)?;
        }
        let place = self.place(path)?.1;
        let mut deadline = Deadline::new("another run", patience);
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // A pipe in its place must not hold us.
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(place)
            .map_err(|e| cannot(&e))?;
        let mut told = false;
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
                Err((mut back, nix::errno::Errno::EWOULDBLOCK)) => {
                    let holder = holder(&mut back);
                    if !told && !patience.is_zero() {
                        say(&format!(
                            "waiting up to {} for another run: {holder}",
                            humantime::format_duration(patience)
                        ));
                        told = true;
                    }
                    deadline.name(format!("another run: {holder}"));
                    if !deadline.pause(PAUSE)? {
                        return Err(Error::new(Kind::TemporaryFailure, format!("another run is at work: {holder}"))
                            .fix("wait for it, or let this run wait: --lock-wait 15m"));
                    }
                    file = back;
                }
                Err((_, e)) => return Err(cannot(&e)),
            }
        }
    }

    /// Who holds the lock now, if anyone does. Takes nothing.
    ///
    /// # Errors
    /// When /proc/locks cannot be read.
    pub fn lock_holder(&self) -> Result<Option<String>> {
        let Some(entry) = self.entry(LOCK)? else { return Ok(None) };
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        let text = self.read_text(LOCK)?.unwrap_or_default();
        let pid = text.split(' ').next().unwrap_or_default();
        // `1: FLOCK  ADVISORY  WRITE 4242 00:1a:1234 0 EOF`
        let held = locks.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.contains(&"FLOCK")
                && fields.contains(&pid)
                && fields.iter().any(|field| field.ends_with(&format!(":{}", entry.inode)))
        });
        Ok(held.then(|| describe(&text)))
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind();
    let _ = Read::by_ref(file).take(200).read_to_string(&mut text);
    describe(&text)
}

fn describe(text: &str) -> String {
    match text.split_once(' ') {
        Some((pid, since)) => format!("process {pid}, since {}", since.trim()),
        None => "a process that has just taken the lock".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_is_told_who_holds_the_lock() {
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
    fn a_pipe_in_its_place_does_not_hold_a_run() {
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
}
