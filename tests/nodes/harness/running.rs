//! A command that a test watches while it runs.

use std::process::{Child, Command};

use nix::sys::signal::Signal;

use crate::support::outcome::Outcome;

/// A command that goes on in a node, and what it has printed so far.
pub struct Running {
    command: String,
    child: Child,
    readers: [Reader; 2],
}

type Text = std::sync::Arc<std::sync::Mutex<Vec<u8>>>;
type Reader = (Text, Option<std::thread::JoinHandle<()>>);

impl Running {
    /// Starts `process`; both of its outputs are read from now on.
    pub fn start(command: String, mut process: Command) -> Running {
        let mut child = process.spawn().unwrap();
        let readers = [read_on(child.stdout.take().unwrap()), read_on(child.stderr.take().unwrap())];
        Running { command, child, readers }
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.readers[1].0.lock().unwrap()).into_owned()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills the program.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
    }

    /// Sends a signal to the program itself: nsenter's only child.
    pub fn signal(&self, signal: Signal) {
        let nsenter = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children")).unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        }
    }

    /// Waits for its end.
    pub fn end(mut self) -> Outcome {
        let status = self.child.wait().unwrap();
        let [stdout, stderr] = self.readers.map(|(text, reader)| {
            reader.unwrap().join().unwrap();
            std::mem::take(&mut *text.lock().unwrap())
        });
        Outcome::new(&self.command, std::process::Output { status, stdout, stderr })
    }
}

fn read_on(mut pipe: impl std::io::Read + Send + 'static) -> Reader {
    let text = Text::default();
    let target = text.clone();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut buffer) {
            target.lock().unwrap().extend_from_slice(&buffer[..n]);
        }
    });
    (text, Some(reader))
}
