//! Commands: from argv, never through a shell, with a deadline.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use super::{Host, signals};
use crate::error::{Error, Result};

/// How much of a command's output is kept: its end tells why it failed.
const KEPT: usize = 1 << 20;

/// Where the machine's own commands are looked up, as in the variable PATH. A root shell without login may lack
/// /usr/sbin, where update-grub and dpkg's helpers are.
pub(super) const DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
        Error::failed(format!("`{}` failed: {}", self.command, self.status))
            .cause(if tail.is_empty() { "it printed nothing" } else { &tail })
            .fix("mend what it says, and run titus-bootstrap again: it goes on from here")
    }
}

impl Host {
    /// Runs `argv` with a C locale, no standard input and a process group of its own.
    ///
    /// # Errors
    /// When it cannot be started, or was ended because of its deadline or a signal.
    /// A status other than 0 is not an error here; see [`Output::succeeded`].
    pub fn run_command(
        &self,
        argv: &[&str],
        environment: &[(&str, &str)],
        patience: Patience,
        deadline: Duration,
    ) -> Result<Output> {
        run(command(self, argv, environment)?, argv, patience, deadline)
    }

    /// Starts `argv` as [`Host::run_command`] does. Only for what may be ended at any time.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(&self, argv: &[&str], environment: &[(&str, &str)], deadline: Duration) -> Result<Started> {
        start(command(self, argv, environment)?, argv, deadline)
    }
}

fn run(mut command: Command, argv: &[&str], patience: Patience, deadline: Duration) -> Result<Output> {
    if patience == Patience::Ends {
        return start(command, argv, deadline)?.end();
    }
    let shown = argv.join(" ");
    let began = Instant::now();
    let mut collected = Collected::default();
    let status = to_its_end(&mut command, &mut collected).map_err(|e| cannot_run(&shown, &e))?;
    Ok(collected.output(shown, status, began))
}

/// A question that was asked, and whose answer is fetched later: other work goes on meanwhile.
#[derive(Debug)]
pub struct Started {
    child: Child,
    shown: String,
    began: Instant,
    deadline: Duration,
}

fn start(mut command: Command, argv: &[&str], deadline: Duration) -> Result<Started> {
    let shown = argv.join(" ");
    let began = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| cannot_run(&shown, &e))?;
    Ok(Started { child, shown, began, deadline })
}

impl Started {
    /// Waits for its end.
    ///
    /// # Errors
    /// As [`Host::run_command`].
    pub fn end(mut self) -> Result<Output> {
        let mut collected = Collected::default();
        let ended = collect(&mut self.child, &mut collected, self.began + self.deadline);
        match ended.map_err(|e| cannot_run(&self.shown, &e))? {
            Ended::ByItself(status) => Ok(collected.output(self.shown, status, self.began)),
            Ended::Signal => {
                stop(&mut self.child);
                Err(signals::interruption())
            }
            Ended::Deadline => {
                stop(&mut self.child);
                let within = humantime::format_duration(self.deadline);
                Err(Error::failed(format!("`{}` did not end within {within}", self.shown))
                    .cause(String::from_utf8_lossy(&collected.both))
                    .fix("see why it hangs, and run titus-bootstrap again; the settings timeouts.* give it longer"))
            }
        }
    }
}

fn command(host: &Host, argv: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::failed("a command without a name"))?;
    tracing::debug!(command = %argv.join(" "), "started");
    let mut command = match program.strip_prefix('/') {
        Some(below) => Command::new(host.root().join(below)),
        None => Command::new(program),
    };
    command.args(arguments).env("LC_ALL", "C").env("TZ", "UTC").env("PATH", &host.commands);
    command.envs(environment.iter().copied());
    // systemd speaks to us alone.
    command.env_remove(super::systemd::notify::SOCKET);
    command.stdin(Stdio::null()).process_group(0);
    Ok(command)
}

fn cannot_run(shown: &str, error: &std::io::Error) -> Error {
    Error::failed(format!("`{shown}` cannot be run")).cause(error)
}

enum Ended {
    ByItself(ExitStatus),
    Signal,
    Deadline,
}

#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    both: Vec<u8>,
}

impl Collected {
    fn output(self, command: String, status: ExitStatus, began: Instant) -> Output {
        tracing::debug!(%command, %status, elapsed = ?began.elapsed(), "ended");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { command, status, stdout: text(&self.stdout), both: text(&self.both) }
    }
}

/// Output goes to a file without a name: if we are killed, dpkg must not die of a pipe
/// that nobody reads.
fn to_its_end(command: &mut Command, into: &mut Collected) -> std::io::Result<ExitStatus> {
    let mut file = tempfile::tempfile()?;
    let status = command.stdout(file.try_clone()?).stderr(file.try_clone()?).spawn()?.wait()?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT as u64)))?;
    file.take(KEPT as u64).read_to_end(&mut into.both)?;
    into.stdout.clone_from(&into.both);
    Ok(status)
}

/// Reads both pipes until the process is gone (a daemon that it started may hold them
/// open for ever), or until it must be ended.
fn collect(child: &mut Child, into: &mut Collected, deadline: Instant) -> std::io::Result<Ended> {
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
        let closed = descriptors.is_empty();
        let patience_ms = if closed { 1u8 } else { 100 };
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
        if (ready == 0 || closed)
            && let Some(status) = child.try_wait()?
        {
            return Ok(Ended::ByItself(status));
        }
        if signals::interrupted() {
            return Ok(Ended::Signal);
        }
        if Instant::now() >= deadline {
            return Ok(Ended::Deadline);
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

    fn host() -> Host {
        Host::live(Default::default())
    }

    fn sh(script: &str, deadline: Duration) -> Result<Output> {
        host().run_command(&["sh", "-c", script], &[], Patience::Ends, deadline)
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
    fn a_command_that_never_ends_talking_is_ended() {
        let told = sh("exec yes", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(told.contains("did not end within 200ms"), "{}", told.lines().next().unwrap());
    }

    #[test]
    fn what_is_never_ended_has_its_output_kept_too() {
        let output = host()
            .run_command(&["sh", "-c", "echo out; echo err >&2; exit 4"], &[], Patience::Never, Duration::ZERO)
            .unwrap();
        assert_eq!((output.both.as_str(), output.status.code()), ("out\nerr\n", Some(4)));
    }

    #[test]
    fn much_output_keeps_its_end() {
        let output = sh("yes long line | head -n 400000; echo last", Duration::from_secs(30)).unwrap();
        assert!(output.stdout.len() <= KEPT && output.stdout.ends_with("last\n"));
    }
}
