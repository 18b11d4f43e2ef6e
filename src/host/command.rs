//! Runs commands from argv, never through a shell, with a deadline.

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
use super::apt::progress::{AptProgress, StatusFile};
use super::net::Proxy;
use super::no_proxy;
use super::wait::Deadline;
use crate::activity;
use crate::error::{Error, Result};

/// How much of the end of a command's output is kept, bytes: the end shows why the command failed.
const KEPT: usize = 1 << 20;

/// The time between TERM and KILL when the program ends a command.
const GRACE: Duration = Duration::from_millis(500);

const PAUSE: Duration = Duration::from_millis(20);

/// The directories with the machine's commands, in the form of the variable PATH. The PATH of a root shell without
/// login may lack /usr/sbin, which has update-grub and dpkg's helpers.
pub(super) const DIRECTORIES: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether the program may end a command early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Yes: by TERM, then KILL, at the deadline or when a signal stops the run.
    Ends,
    /// No, neither at the deadline nor on a signal: a killed package manager leaves a broken system.
    Never,
}

/// The output of a command and how it ended.
#[derive(Debug)]
pub struct Output {
    /// argv, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Standard output and standard error, in the order in which they came.
    pub both: String,
}

/// Variables in the form that [`Host::run_command`] takes.
pub fn borrow_variables<'a>(variables: &'a [(&'a str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

impl Output {
    /// Returns this output if the command ended with status 0.
    ///
    /// # Errors
    /// Fails when the command ended with another status; the error has argv, the status and the last 20 lines.
    pub fn succeeded(self) -> Result<Output> {
        if self.status.success() { Ok(self) } else { Err(self.error()) }
    }

    /// Its last lines.
    pub fn tail(&self, most: usize) -> String {
        let lines: Vec<&str> = self.both.lines().collect();
        lines[lines.len().saturating_sub(most)..].join("\n")
    }

    /// The error for a command that failed with this output.
    pub fn error(&self) -> Error {
        let tail = self.tail(20);
        Error::failed(format!("`{}` failed: {}", self.command, self.status))
            .cause(if tail.is_empty() { "it printed nothing" } else { &tail })
            .fix("fix what it reports, and run titus-bootstrap again: it continues from here")
    }
}

impl Host {
    /// Runs `argv` with a C locale, only the variables of `environment`, no standard input and its own process group.
    ///
    /// # Errors
    /// Fails when the command cannot be started, or when its deadline or a signal ended it.
    /// A status other than 0 is not an error here; see [`Output::succeeded`].
    pub fn run_command(
        &self,
        argv: &[&str],
        environment: &[(&str, &str)],
        patience: Patience,
        deadline: Duration,
    ) -> Result<Output> {
        let status = StatusFile::new().filter(|_| argv.first() == Some(&"apt-get") && activity::is_watched());
        let option = status.as_ref().map(StatusFile::option);
        let option = option.as_ref().map_or(Vec::new(), |option| vec!["-o", option]);
        let (program, arguments) = argv.split_at(argv.len().min(1));
        run(command(self, &[program, &option, arguments].concat(), environment)?, argv, patience, deadline, status)
    }

    /// Whether a program with this name, or at this path, exists.
    ///
    /// # Errors
    /// Fails when the path cannot be examined.
    pub fn has_command(&self, program: &str) -> Result<bool> {
        if program.starts_with('/') {
            return Ok(self.entry(program)?.is_some());
        }
        Ok(std::env::split_paths(&self.commands).any(|directory| directory.join(program).exists()))
    }

    /// The variables of an operator's command, in addition to those of every command: the proxies of the settings,
    /// under the names that curl and others read. Requests to the metadata service never go through a proxy.
    pub fn environment_of_commands(&self) -> Vec<(&'static str, String)> {
        let Proxy { http, https, no_proxy } = &self.proxy;
        let without = no_proxy::for_commands(no_proxy.as_deref());
        let is_set = http.is_some() || https.is_some();
        let proxies = [
            (["http_proxy", "HTTP_PROXY"], http.clone()),
            (["https_proxy", "HTTPS_PROXY"], https.clone()),
            (["no_proxy", "NO_PROXY"], is_set.then_some(without)),
        ];
        let set = proxies.into_iter().filter_map(|(names, value)| Some((names, value?)));
        let set = set.flat_map(|(names, value)| names.map(|name| (name, value.clone())));
        std::iter::once(("HOME", "/root".to_owned())).chain(set).collect()
    }

    /// Starts `argv` like [`Host::run_command`]. Only for commands that may be ended at any time.
    ///
    /// # Errors
    /// Fails when the command cannot be started.
    pub fn start_command(&self, argv: &[&str], environment: &[(&str, &str)], deadline: Duration) -> Result<Started> {
        start(command(self, argv, environment)?, argv, deadline, None)
    }
}

/// Runs `argv` like [`Host::run_command`] in a thread without a host. `commands` has the directories with commands.
/// `input` is the standard input; it must fit into the buffer of a pipe.
///
/// # Errors
/// Fails when [`Host::run_command`] fails.
pub(super) fn run_with_input(
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
    start(command, argv, deadline, None)?.end()
}

fn run(
    mut command: Command,
    argv: &[&str],
    patience: Patience,
    deadline: Duration,
    status: Option<StatusFile>,
) -> Result<Output> {
    if patience == Patience::Ends {
        return start(command, argv, deadline, status)?.end();
    }
    run_to_completion(argv, &mut command, status.as_ref())
}

/// Starts a command that inherits the file in which apt reports its progress.
fn spawn(command: &mut Command, status: Option<&StatusFile>) -> std::io::Result<Child> {
    let Some(status) = status else { return command.spawn() };
    status.set_inherited(true);
    let child = command.spawn();
    status.set_inherited(false);
    child
}

fn show(status: Option<&StatusFile>, deadline: &mut Deadline) {
    if let Some(AptProgress { percent, what }) = status.and_then(StatusFile::progress) {
        deadline.set_progress(percent, what);
    }
}

/// A command that runs while this process does other work, which fetches the output later.
#[derive(Debug)]
pub struct Started {
    child: Child,
    shown: String,
    limit: Duration,
    status: Option<StatusFile>,
}

/// A command as messages show it. Options of apt's configuration are left out, because they name this program's copies
/// of system files.
fn shown(argv: &[&str]) -> String {
    let is_apt = argv.first().is_some_and(|program| program.starts_with("apt-"));
    let is_option = |n: usize, word: &str| is_apt && (word == "-o" || (n > 0 && argv.get(n - 1) == Some(&"-o")));
    let words = argv.iter().enumerate().filter(|(n, word)| !is_option(*n, word));
    words.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn start(mut command: Command, argv: &[&str], limit: Duration, status: Option<StatusFile>) -> Result<Started> {
    let shown = shown(argv);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(&mut command, status.as_ref()).map_err(|e| cannot_run(&shown, &e))?;
    Ok(Started { child, shown, limit, status })
}

impl Started {
    /// Waits for the end of the command. The deadline begins now, so the output of a command that ended long ago is
    /// never too late.
    ///
    /// # Errors
    /// Fails when [`Host::run_command`] fails.
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
            .fix("see why it hangs, and run titus-bootstrap again; the settings timeouts.* allow more time"))
    }

    /// Reads both pipes until the process has ended, because a daemon that it started may hold them open forever.
    /// Returns `None` at the deadline.
    fn collect(&mut self, into: &mut Collected, deadline: &mut Deadline) -> Result<Option<ExitStatus>> {
        let failed = |e: std::io::Error| cannot_run(&self.shown, &e);
        let (mut stdout, mut stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let (mut look, mut ended) = (Duration::ZERO, None);
        loop {
            let pipes = [stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
            let mut pipes: Vec<PollFd> =
                pipes.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::POLLIN)).collect();
            let patience = if pipes.is_empty() && ended.is_none() { Duration::from_millis(1) } else { look };
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
            if ready == 0 {
                if ended.is_some() {
                    return Ok(ended);
                }
                // The pipes still have what the process wrote after the last poll.
                ended = self.child.try_wait().map_err(failed)?;
                if ended.is_some() {
                    look = Duration::ZERO;
                    continue;
                }
            }
            show(self.status.as_ref(), deadline);
            look = deadline.poll()?.min(deadline.left());
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
    // The caller's variables and directory must not matter: `sudo -E` passes on APT_CONFIG, DPKG_ROOT, TMPDIR,
    // LD_PRELOAD.
    command
        .current_dir(root)
        .env_clear()
        .args(arguments)
        .envs([("LC_ALL", "C"), ("LANG", "C"), ("TZ", "UTC")])
        .env("PATH", commands);
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

/// Runs a command that must not be ended. Its output goes to an unnamed file: if this process is killed, dpkg must not
/// die because nobody reads a pipe.
fn run_to_completion(argv: &[&str], command: &mut Command, apt: Option<&StatusFile>) -> Result<Output> {
    let shown = shown(argv);
    let mut collected = Collected::default();
    let mut deadline = Deadline::new(format!("`{shown}`"), Duration::MAX).with_grace(Duration::MAX);
    let failed = |e: std::io::Error| cannot_run(&shown, &e);
    // In memory: TMPDIR is the caller's, and /tmp may be full or missing.
    let file = nix::sys::memfd::memfd_create(c"output", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(file.map_err(|e| failed(e.into()))?);
    let output = || file.try_clone().map_err(failed);
    let mut child = spawn(command.stdout(output()?).stderr(output()?), apt).map_err(failed)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        show(apt, &mut deadline);
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

/// Reads the available bytes, and closes the pipe at its end.
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

/// Sends TERM to the process group, then KILL if it still exists.
fn stop(child: &mut Child) {
    let group = nix::unistd::Pid::from_raw(-i32::try_from(child.id()).unwrap_or(0));
    if group.as_raw() == 0 {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let _ = nix::sys::signal::kill(group, signal);
        // Not even KILL ends a process while its disk or a network file system does not answer.
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
        let message = output.succeeded().unwrap_err().to_string();
        assert!(message.contains("err") && message.contains("exit status: 3"), "{message}");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let message = sh("echo before; exec tail -f /dev/null", Duration::from_secs(2)).unwrap_err().to_string();
        assert!(message.contains("did not end within 2s") && message.contains("before"), "{message}");
    }

    #[test]
    fn the_output_of_a_command_that_ended_long_ago_is_available() {
        let limit = Duration::from_secs(1);
        let started = host().start_command(&["sh", "-c", "echo answer"], &[], limit).unwrap();
        sh("exec tail -f /dev/null", limit).unwrap_err();
        assert_eq!(started.end().unwrap().stdout, "answer\n");
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_delay_the_run() {
        let output = sh("tail -f /dev/null & echo $!", Duration::from_secs(10)).unwrap();
        let pid = output.stdout.trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_command_that_prints_without_end_is_ended() {
        let message = sh("exec yes", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(message.contains("did not end within 200ms"), "{}", message.lines().next().unwrap());
    }

    #[test]
    fn the_output_of_a_command_that_must_not_be_ended_is_kept() {
        let output = host()
            .run_command(&["sh", "-c", "echo out; echo err >&2; exit 4"], &[], Patience::Never, Duration::ZERO)
            .unwrap();
        assert_eq!((output.both.as_str(), output.status.code()), ("out\nerr\n", Some(4)));
    }

    #[test]
    fn the_end_of_long_output_is_kept() {
        let output = sh("yes long line | head -n 400000; echo last", Duration::from_secs(30)).unwrap();
        assert!(output.stdout.len() <= KEPT && output.stdout.ends_with("last\n"));
    }
}
