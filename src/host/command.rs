//! Commands: from argv, never through a shell, with a deadline.

use std::ffi::OsStr;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;

use super::Host;
use super::wait::Deadline;
use crate::error::{Error, Result};

/// How much of a command's output is kept: its end tells why it failed.
const KEPT: usize = 1 << 20;

/// How long a command that is ended has between TERM and KILL.
const GRACE: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_millis(20);

/// Where the machine's own commands are looked up, as in the variable PATH. A root shell without login may lack
/// /usr/sbin, where update-grub and dpkg's helpers are.
pub(super) const DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a command may be ended before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// TERM, then KILL, at the deadline or when a signal stops the run.
    Ends,
    /// Never ended, neither at the deadline nor by a signal: a package manager that is killed leaves a broken system.
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
    /// Runs `argv` with a C locale, no other variables than `environment`, no standard input and a process group of
    /// its own.
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

/// Runs `argv` as [`Host::run_command`] does, for a thread that has no host. `commands`: where it is looked up; `input`:
/// its standard input, which a pipe has to hold.
///
/// # Errors
/// As [`Host::run_command`].
pub(super) fn answer_to(
    commands: &OsStr,
    argv: &[&str],
    environment: &[(&str, &str)],
    input: &str,
    deadline: Duration,
) -> Result<Output> {
    let shown = argv.join(" ");
    let mut command = command_of(Path::new("/"), commands, argv, environment)?;
    let (reader, mut writer) = std::io::pipe().map_err(|e| cannot_run(&shown, &e))?;
    writer.write_all(format!("{input}\n").as_bytes()).map_err(|e| cannot_run(&shown, &e))?;
    drop(writer);
    command.stdin(reader);
    start(command, argv, deadline)?.end()
}

fn run(mut command: Command, argv: &[&str], patience: Patience, deadline: Duration) -> Result<Output> {
    if patience == Patience::Ends {
        return start(command, argv, deadline)?.end();
    }
    to_its_end(argv, &mut command)
}

/// A question that was asked, and whose answer is fetched later: other work goes on meanwhile.
#[derive(Debug)]
pub struct Started {
    child: Child,
    shown: String,
    limit: Duration,
}

/// A command for messages, without options of apt's configuration: they name our own copies of the system's files.
fn shown(argv: &[&str]) -> String {
    let is_apt = argv.first().is_some_and(|program| program.starts_with("apt-"));
    let is_option = |n: usize, word: &str| is_apt && (word == "-o" || (n > 0 && argv.get(n - 1) == Some(&"-o")));
    let words = argv.iter().enumerate().filter(|(n, word)| !is_option(*n, word));
    words.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn start(mut command: Command, argv: &[&str], limit: Duration) -> Result<Started> {
    let shown = shown(argv);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| cannot_run(&shown, &e))?;
    Ok(Started { child, shown, limit })
}

impl Started {
    /// Waits for its end. The deadline begins now: a command that ended long ago has its answer.
    ///
    /// # Errors
    /// As [`Host::run_command`].
    pub fn end(mut self) -> Result<Output> {
        let mut collected = Collected::default();
        let mut deadline = Deadline::new(format!("`{}`", self.shown), self.limit);
        let ended = self.collect(&mut collected, &mut deadline);
        if let Ok(Some(status)) = ended {
            return Ok(collected.output(self.shown, status, &deadline));
        }
        stop(&mut self.child);
        ended?;
        let within = humantime::format_duration(self.limit);
        Err(Error::failed(format!("`{}` did not end within {within}", self.shown))
            .cause(String::from_utf8_lossy(&collected.both))
            .fix("see why it hangs, and run titus-bootstrap again; the settings timeouts.* give it longer"))
    }

    /// Reads both pipes until the process is gone (a daemon that it started may hold them
    /// open for ever). Returns `None` at the deadline.
    fn collect(&mut self, into: &mut Collected, deadline: &mut Deadline) -> Result<Option<ExitStatus>> {
        let failed = |e: std::io::Error| cannot_run(&self.shown, &e);
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let mut look = Duration::ZERO;
        loop {
            let pipes = [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
            let mut pipes: Vec<PollFd> =
                pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)).collect();
            let patience = if pipes.is_empty() { Duration::from_millis(1) } else { look };
            let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO);
            let ready = match nix::poll::poll(&mut pipes, patience) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(e) => return Err(failed(e.into())),
            };
            let mut readable = pipes.iter().map(|pipe| pipe.any().unwrap_or(false)).collect::<Vec<_>>().into_iter();
            if stdout.is_some() && readable.next() == Some(true) {
                read_some(&mut stdout, &mut into.both, Some(&mut into.stdout)).map_err(failed)?;
            }
            if stderr.is_some() && readable.next() == Some(true) {
                read_some(&mut stderr, &mut into.both, None).map_err(failed)?;
            }
            if ready == 0
                && let Some(status) = self.child.try_wait().map_err(failed)?
            {
                return Ok(Some(status));
            }
            look = deadline.look()?.min(deadline.left());
            if look.is_zero() {
                return Ok(None);
            }
        }
    }
}

fn command(host: &Host, argv: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
    command_of(host.root(), &host.commands, argv, environment)
}

fn command_of(root: &Path, commands: &OsStr, argv: &[&str], environment: &[(&str, &str)]) -> Result<Command> {
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::failed("a command without a name"))?;
    tracing::debug!(command = %shown(argv), "started");
    let mut command = match program.strip_prefix('/') {
        Some(below) => Command::new(root.join(below)),
        None => Command::new(program),
    };
    // The caller's variables are the caller's: `sudo -E` would carry APT_CONFIG, DPKG_ROOT, TMPDIR, LD_PRELOAD.
    command.env_clear().args(arguments).envs([("LC_ALL", "C"), ("LANG", "C"), ("TZ", "UTC")]).env("PATH", commands);
    command.envs(environment.iter().copied());
    command.stdin(Stdio::null()).process_group(0);
    Ok(command)
}

fn cannot_run(shown: &str, error: &std::io::Error) -> Error {
    Error::failed(format!("`{shown}` cannot be run")).cause(error)
}

#[derive(Default)]
struct Collected {
    stdout: Vec<u8>,
    both: Vec<u8>,
}

impl Collected {
    fn output(self, command: String, status: ExitStatus, deadline: &Deadline) -> Output {
        tracing::debug!(%command, %status, elapsed = ?deadline.elapsed(), "ended");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { command, status, stdout: text(&self.stdout), both: text(&self.both) }
    }
}

/// Output goes to a file without a name: if we are killed, dpkg must not die of a pipe
/// that nobody reads.
fn to_its_end(argv: &[&str], command: &mut Command) -> Result<Output> {
    let shown = shown(argv);
    let mut collected = Collected::default();
    let mut deadline = Deadline::new(format!("`{shown}`"), Duration::MAX).with_grace(Duration::MAX);
    let failed = |e: std::io::Error| cannot_run(&shown, &e);
    // In memory: not where TMPDIR says, which is the caller's, nor in /tmp, which may be full or not there.
    let file = nix::sys::memfd::memfd_create(c"output", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(file.map_err(|e| failed(e.into()))?);
    let output = || file.try_clone().map_err(failed);
    let mut child = command.stdout(output()?).stderr(output()?).spawn().map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        deadline.pause(PAUSE)?;
    };
    let mut keep = || -> std::io::Result<()> {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(KEPT as u64)))?;
        (&mut file).take(KEPT as u64).read_to_end(&mut collected.both).map(drop)
    };
    keep().map_err(failed)?;
    collected.stdout.clone_from(&collected.both);
    Ok(collected.output(shown, status, &deadline))
}

/// Reads what is there; at its end the pipe is closed.
fn read_some(pipe: &mut Option<impl Read>, both: &mut Vec<u8>, alone: Option<&mut Vec<u8>>) -> std::io::Result<()> {
    let mut buffer = [0; 16384];
    let Some(open) = pipe else { return Ok(()) };
    let n = open.read(&mut buffer)?;
    let new = buffer.get(..n).unwrap_or_default();
    for target in [Some(both), alone].into_iter().flatten() {
        target.extend_from_slice(new);
        let surplus = target.len().saturating_sub(KEPT);
        target.drain(..surplus);
    }
    if n == 0 {
        *pipe = None;
    }
    Ok(())
}

/// TERM to the process group, then KILL if it is still there.
fn stop(child: &mut Child) {
    let group = nix::unistd::Pid::from_raw(-i32::try_from(child.id()).unwrap_or(0));
    if group.as_raw() == 0 {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let _ = nix::sys::signal::kill(group, signal);
        // Even of KILL a process may not die while its disk or a network file system does not answer.
        let mut grace = Deadline::new("", GRACE).with_grace(GRACE);
        while matches!(grace.pause(PAUSE), Ok(true)) {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
        }
    }
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
    fn an_answer_that_came_long_ago_is_there() {
        let limit = Duration::from_secs(1);
        let asked = host().start_command(&["sh", "-c", "echo answer"], &[], limit).unwrap();
        sh("exec tail -f /dev/null", limit).unwrap_err();
        assert_eq!(asked.end().unwrap().stdout, "answer\n");
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
