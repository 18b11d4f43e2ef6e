//! A temporary root, the program run on it, and the state of the tree.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::metadata::Metadata;
pub use super::outcome::Outcome;
use super::schemas;
use super::tree;
pub use super::tree::{Tree as Look, assert_same};

/// The program, with nothing in its environment that could reach a metadata service.
pub fn program() -> Command {
    isolated(Path::new(env!("CARGO_BIN_EXE_titus-bootstrap")))
}

/// Another copy of the program, or a script that runs it.
pub fn isolated(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// Lets the program ask only this metadata service.
pub fn ask<'a>(command: &'a mut Command, endpoint: &str) -> &'a mut Command {
    command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint).env_remove("AWS_EC2_METADATA_DISABLED")
}

/// Runs a command to its end.
pub fn outcome(command: &mut Command) -> Outcome {
    let outcome = into_outcome(command.output().unwrap());
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    schemas::check(&words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(), &outcome);
    outcome
}

/// The outcome of a command that has ended.
pub fn into_outcome(output: Output) -> Outcome {
    Outcome::new("", output)
}

/// Runs the program without a root, for commands that touch no machine.
pub fn run(arguments: &[&str]) -> Outcome {
    outcome(program().args(arguments))
}

/// The arguments that render a role with the facts and settings of a fixture in tests/golden/.
pub fn on_fixture(directory: &Path, role: &str) -> Vec<String> {
    let mut arguments = vec!["--role".to_owned(), role.to_owned()];
    match directory.join("facts.json") {
        facts if facts.exists() => arguments.extend(["--facts".into(), facts.display().to_string()]),
        _ => arguments.push("--sample".into()),
    }
    let settings = directory.join("settings.toml");
    if settings.exists() {
        arguments.extend(["--config".into(), settings.display().to_string()]);
    }
    arguments
}

/// Writes a program in a script, 0755, in place of any other.
///
/// A child process writes it. If this process did, a child that another test forks in the meantime would inherit the
/// descriptor until it executes its own program, and a file that is open for writing cannot be executed ("text file busy").
pub fn write_script(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // By its path, because one test takes PATH away.
    let mut install = Command::new("/usr/bin/install");
    let mut install = install.args(["-m", "0755", "/dev/stdin"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let ended = install.wait().unwrap();
    assert!(ended.success(), "{}: {ended}", path.display());
}

/// A temporary root.
#[derive(Debug)]
pub struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    /// An empty root; in memory where possible, because fsync takes most of a run's time.
    pub fn empty() -> Root {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        // Like a real root directory; a temporary one is private to its owner.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Root { directory }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The real path of a path on the node.
    pub fn at(&self, path: &str) -> PathBuf {
        self.path().join(path.trim_start_matches('/'))
    }

    /// Writes a file, 0644.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }

    /// Writes a script that can be executed at once, 0755.
    pub fn script(&self, path: &str, text: impl AsRef<str>) {
        write_script(&self.at(path), text.as_ref());
    }

    /// Creates a symbolic link.
    pub fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, self.at(path)).unwrap();
    }

    /// The text of a file.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    /// A run that fails at the second of its three steps: on this disk, no file may be larger than 100 KiB.
    pub fn fails_half_way(&self) -> Outcome {
        let file = |id: &str, content: &str| {
            format!("[[step]]\nid = '{id}'\nphase = 'boot'\nfile = {{ path = '/etc/{id}', content = '{content}' }}\n")
        };
        let steps = [file("one", "1"), file("large", &"x".repeat(128 << 10)), file("three", "3")].concat();
        self.write("/etc/titus-bootstrap/roles/half.toml", format!("description = 'x'\n{steps}"));
        let mut command = isolated(Path::new("/bin/sh"));
        // Without the signal that comes with it (SIGXFSZ), like on a full disk.
        command.args(["-c", "trap '' 25; ulimit -f 200; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_titus-bootstrap")]);
        outcome(command.args(["--role", "half", "--sample", "--root"]).arg(self.path())).ends_with(1)
    }

    /// The program, on this root.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--root").arg(self.path());
        command
    }

    /// Runs the program on this root.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let outcome = outcome(&mut self.program(arguments));
        self.check_records();
        outcome
    }

    /// Asserts that what runs keep for programs is what its schemas say, as far as no test has torn it.
    #[track_caller]
    fn check_records(&self) {
        for (schema, path, is_of_lines) in [
            ("journal", "/var/lib/titus-bootstrap/journal.jsonl", true),
            ("apply", "/var/log/titus-bootstrap/last.json", false),
            ("status-file", "/run/titus-bootstrap/status.json", false),
        ] {
            let text = fs::read_to_string(self.at(path)).unwrap_or_default();
            match serde_json::from_str(&text) {
                _ if is_of_lines => schemas::assert_lines_valid(schema, &text),
                Ok(document) => schemas::assert_valid(schema, &document),
                Err(_) => {}
            }
        }
    }

    /// Runs role agent on built-in facts and settings.
    pub fn sample(&self, arguments: &[&str]) -> Outcome {
        self.run(&[&["--role", "agent", "--sample"], arguments].concat())
    }

    /// Runs the program on this root with the facts of a metadata service, and with memory and disk
    /// that the machine of the test need not have.
    pub fn ask(&self, metadata: &Metadata, arguments: &[&str]) -> Outcome {
        let mut command = self.program(arguments);
        command.args(["--set", "agent.resources.mem=8000", "--set", "agent.resources.disk=8000"]);
        outcome(ask(&mut command, &metadata.endpoint()))
    }

    /// Everything except /run: mode, owner, and contents or target.
    pub fn look(&self) -> Look {
        self.walk(|data, file| {
            let what = if data.is_symlink() {
                format!("-> {}", fs::read_link(file).unwrap().display())
            } else if data.is_file() {
                format!("{:?}", String::from_utf8_lossy(&fs::read(file).unwrap()))
            } else {
                "directory".into()
            };
            format!("{:04o} {}:{} {what}", data.mode() & 0o7777, data.uid(), data.gid())
        })
    }

    /// The results of the role's steps, without the records of runs, which depend on their number.
    pub fn made(&self) -> Look {
        let mut look = self.look();
        look.retain(|path, _| !path.starts_with("/var/lib/titus-bootstrap") && !path.starts_with("/var/log"));
        look
    }

    /// Every file by inode and times, so that any change shows.
    pub fn stamps(&self) -> Look {
        self.walk(|data, _| {
            let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
            format!("inode {} modified {modified:?} changed {changed:?}", data.ino())
        })
    }

    /// Files that a killed run left half-written, including those in /run.
    pub fn half_written(&self) -> Vec<String> {
        let all = tree::walk(self.path(), &[], |_, _| Ok(String::new()));
        all.into_keys().filter(|path| path.rsplit('/').next().unwrap().starts_with(".titus-bootstrap-")).collect()
    }

    fn walk(&self, describe: impl Fn(&fs::Metadata, &Path) -> String) -> Look {
        tree::walk(self.path(), &["/run"], |_, file| Ok(describe(&file.symlink_metadata()?, file)))
    }
}
