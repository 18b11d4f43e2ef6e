//! Commands: from argv, never through a shell, with a deadline.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use super::signals;
use crate::error::{Error, Result};

/// How much of a command's output is kept: its end tells why it failed.
const KEPT: usize = 1 << 20;

/// Whether a command may be ended before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// TERM, then KILL, at the deadline or when a signal stops the run.
    Ends,
    /// Never ended: a package manager that is killed leaves a broken system.
    Never,
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    /// argv, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Both of its outputs, as they came.
    pub both: String,
}

impl Output {
    /// This output if the command ended with 0.
    ///
    /// # Errors
    /// Otherwise, with argv, status and the last 20 lines.
    pub fn succeeded(self) -> Result<Output> {
        if self.status.success() { Ok(self) } else { Err(self.error()) }
    }

    /// The failure that this output tells of.
    pub fn error(&self) -> Error {
        let lines: Vec<&str> = self.both.lines().collect();
        let tail = lines[lines.len().saturating_sub(20)..].join("\n");
        Error::failed(format!("`{}` failed: {}", self.command, self.status)).cause(if tail.is_empty() {
            "it printed nothing"
        } else {
            &tail
        })
    }
}

/// Runs `argv` with a C locale, no standard input and a process group of its own.
///
/// # Errors
/// When it cannot be started, or was ended because of its deadline or a signal.
/// A status other than 0 is no error here; see [`Output::succeeded`].
pub fn run(argv: &[&str], environment: &[(&str, &str)], patience: Patience, deadline: Duration) -> Result<Output> {
    let started = Instant::now();
    let shown = argv.join(" ");
    tracing::debug!(command = %shown, "started");
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::failed("a command without a name"))?;
    let mut command = Command::new(program);
    command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC").envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let cannot = |e: std::io::Error| Error::failed(format!("`{shown}` cannot be run")).cause(e);
    let mut child = command.spawn().map_err(cannot)?;
    let mut collected = Collected::default();
    let ended = collect(&mut child, &mut collected, patience, started + deadline).map_err(cannot)?;
    if let Some(why) = ended {
        stop(&mut child);
        return Err(match why {
            Ended::Signal => signals::interruption(),
            Ended::Deadline => {
                Error::failed(format!("`{shown}` did not end within {}", humantime::format_duration(deadline)))
                    .cause(String::from_utf8_lossy(&collected.both))
            }
        });
    }
    let status = child.wait().map_err(cannot)?;
    tracing::debug!(command = %shown, %status, elapsed = ?started.elapsed(), "ended");
    Ok(Output {
        command: shown,
        status,
        stdout: String::from_utf8_lossy(&collected.stdout).into_owned(),
        both: String::from_utf8_lossy(&collected.both).into_owned(),
    })
}

enum Ended {
    Signal,
    Deadline,
}

#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    both: Vec<u8>,
}

/// Reads both pipes until they close or the process is gone (a daemon that it
/// started may hold them open for ever), or until it must be ended.
fn collect(
    child: &mut Child,
    into: &mut Collected,
    patience: Patience,
    deadline: Instant,
) -> std::io::Result<Option<Ended>> {
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    loop {
        let mut descriptors = Vec::new();
        if let Some(pipe) = &stdout {
            descriptors.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &stderr {
            descriptors.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        if descriptors.is_empty() && patience == Patience::Never {
            return Ok(None);
        }
        let patience_ms = if descriptors.is_empty() { 10u8 } else { 100 };
        let ready = match nix::poll::poll(&mut descriptors, PollTimeout::from(patience_ms)) {
            Ok(ready) => ready,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        let mut readable = descriptors.iter().map(|d| d.any().unwrap_or(false)).collect::<Vec<_>>().into_iter();
        if stdout.is_some()
            && readable.next() == Some(true)
            && !read_some(&mut stdout, &mut into.both, Some(&mut into.stdout))?
        {
            stdout = None;
        }
        if stderr.is_some() && readable.next() == Some(true) && !read_some(&mut stderr, &mut into.both, None)? {
            stderr = None;
        }
        if ready == 0 || (stdout.is_none() && stderr.is_none()) {
            if child.try_wait()?.is_some() {
                return Ok(None);
            }
            if patience == Patience::Ends && signals::interrupted() {
                return Ok(Some(Ended::Signal));
            }
            if patience == Patience::Ends && Instant::now() >= deadline {
                return Ok(Some(Ended::Deadline));
            }
        }
    }
}

/// Reads what is there; false at the end.
fn read_some(pipe: &mut Option<impl Read>, both: &mut Vec<u8>, alone: Option<&mut Vec<u8>>) -> std::io::Result<bool> {
    let mut buffer = [0; 16384];
    let Some(pipe) = pipe else { return Ok(false) };
    let n = pipe.read(&mut buffer)?;
    let new = buffer.get(..n).unwrap_or_default();
    for target in [Some(both), alone].into_iter().flatten() {
        target.extend_from_slice(new);
        let surplus = target.len().saturating_sub(KEPT);
        target.drain(..surplus);
    }
    Ok(n > 0)
}

/// TERM to the process group, KILL two seconds later.
fn stop(child: &mut Child) {
    let group = nix::unistd::Pid::from_raw(-i32::try_from(child.id()).unwrap_or(0));
    if group.as_raw() == 0 {
        return;
    }
    let _ = nix::sys::signal::kill(group, Signal::SIGTERM);
    let patience = Instant::now() + Duration::from_secs(2);
    while Instant::now() < patience {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = nix::sys::signal::kill(group, Signal::SIGKILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Duration) -> Result<Output> {
        run(&["sh", "-c", script], &[], Patience::Ends, deadline)
    }

    #[test]
    fn outputs_and_status_are_kept() {
        let output = sh("echo out; echo err >&2; exit 3", Duration::from_secs(10)).unwrap();
        assert_eq!((output.stdout.as_str(), output.status.code()), ("out\n", Some(3)));
        let told = output.succeeded().unwrap_err().to_string();
        assert!(told.contains("err") && told.contains("exit status: 3"), "{told}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let told = sh("echo before; exec tail -f /dev/null", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(told.contains("did not end within 200ms") && told.contains("before"), "{told}");
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_hold_us() {
        let output = sh("tail -f /dev/null & echo $!", Duration::from_secs(10)).unwrap();
        let pid = output.stdout.trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn much_output_keeps_its_end() {
        let output = sh("yes long line | head -n 400000; echo last", Duration::from_secs(30)).unwrap();
        assert!(output.stdout.len() <= KEPT && output.stdout.ends_with("last\n"));
    }
}
