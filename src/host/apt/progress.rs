//! The progress of apt, which it reports on its `APT::Status-Fd` (apt's README.progress-reporting).

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// How much of the end of the file is read, bytes: more than the longest line.
const READ: u64 = 4096;

/// The progress of apt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AptProgress {
    /// From 0 to 100.
    pub percent: u8,
    /// The current action, e.g. `Unpacking docker-ce (amd64)`.
    pub what: String,
}

/// The progress in the last complete line that has one: `pmstatus:docker-ce:45.4545:Unpacking docker-ce (amd64)`.
pub fn last_progress(text: &str) -> Option<AptProgress> {
    let whole = text.rsplit_once('\n')?.0;
    whole.lines().rev().find_map(|line| {
        let rest = line.strip_prefix("pmstatus:").or_else(|| line.strip_prefix("dlstatus:"))?;
        let (_, rest) = rest.split_once(':')?;
        let (percent, what) = rest.split_once(':')?;
        let percent: f64 = percent.trim().parse().ok().filter(|percent: &f64| percent.is_finite())?;
        // The number to cast is from 0 to 100.
        Some(AptProgress { percent: percent.clamp(0.0, 100.0) as u8, what: what.trim().to_owned() })
    })
}

/// A file in memory to which apt writes. It is not a pipe: if this process is killed, apt must not die because nobody
/// reads it.
#[derive(Debug)]
pub(in crate::host) struct StatusFile(File);

impl StatusFile {
    pub(in crate::host) fn new() -> Option<StatusFile> {
        memfd_create(c"apt-status", MFdFlags::MFD_CLOEXEC).ok().map(|file| StatusFile(file.into()))
    }

    /// apt's option to write to the file.
    pub(in crate::host) fn option(&self) -> String {
        format!("APT::Status-Fd={}", self.0.as_raw_fd())
    }

    /// Sets whether the next command inherits the file.
    pub(in crate::host) fn set_inherited(&self, is_inherited: bool) {
        let flags = if is_inherited { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        // Without the file, apt works but does not report its progress.
        let _ = fcntl(&self.0, FcntlArg::F_SETFD(flags));
    }

    /// Reads the progress without moving the file offset, which apt uses.
    pub(in crate::host) fn progress(&self) -> Option<AptProgress> {
        let length = self.0.metadata().ok()?.len();
        let mut end = vec![0; usize::try_from(length.min(READ)).ok()?];
        let read = self.0.read_at(&mut end, length.saturating_sub(READ)).ok()?;
        last_progress(&String::from_utf8_lossy(end.get(..read)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complete_line_of_progress_counts() {
        for (text, expected) in [
            ("", None),
            ("pmstatus:a:5.0:half a li", None),
            (
                "dlstatus:1:9.8:Retrieving file 1 of 3 (12s remaining)\n",
                Some((9, "Retrieving file 1 of 3 (12s remaining)")),
            ),
            ("dlstatus:1:100:x\npmstatus:dpkg-exec:0.0000:Running dpkg\n", Some((0, "Running dpkg"))),
            (
                "pmstatus:docker-ce:45.4545:Unpacking docker-ce (amd64)\npmstatus:x",
                Some((45, "Unpacking docker-ce (amd64)")),
            ),
            // Lines that are not progress, and some that nearly are.
            (
                "pmstatus:a:50:Installing a\npmconffile:/etc/x:50:'/etc/x'\npmerror:a:60:no\n",
                Some((50, "Installing a")),
            ),
            ("pmstatus:a:much:x\npmstatus:b\npmstatus:c:\npmstatus:a:NaN:x\npmstatus:a:inf:x\n", None),
            ("pmstatus:a:1e9:x\n", Some((100, "x"))),
            ("pmstatus:a:-3:a: b: c\n", Some((0, "a: b: c"))),
        ] {
            let expected = expected.map(|(percent, what)| AptProgress { percent, what: what.to_owned() });
            assert_eq!(last_progress(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_read_does_not_move_the_offset_of_the_writer() {
        let file = StatusFile::new().unwrap();
        let fd = file.0.as_raw_fd();
        assert!(file.option().ends_with(&format!("={fd}")));
        let write = |line: &str| {
            file.set_inherited(true);
            let script = format!("printf '{line}\\n' >&{fd}");
            // Not Debian's sh: its descriptors have one digit, and more than ten files may be open here.
            let status = std::process::Command::new("bash").args(["-c", &script]).status().unwrap();
            file.set_inherited(false);
            assert!(status.success());
            file.progress().map(|progress| progress.percent)
        };
        assert_eq!(write("pmstatus:a:10:x"), Some(10));
        assert_eq!(write("pmstatus:a:20:x"), Some(20));
    }
}
