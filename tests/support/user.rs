//! The program as an ordinary user: a test on the live machine cannot change it,
//! whatever the program does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::root::{Outcome, isolated, outcome};

/// The id of a user without rights, who owns nothing.
pub const NOBODY: u32 = 65534;

/// Runs the program without root's rights, on the machine itself.
pub fn run(arguments: &[&str]) -> Outcome {
    prepared(|command| command.args(arguments))
}

/// Does so with a command that is already prepared.
pub fn prepared(prepare: impl FnOnce(&mut Command) -> &mut Command) -> Outcome {
    // A copy, because the build directory may be private.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("titus-bootstrap");
    // Let another process copy it: a child that another test forks in the meantime would keep our copy open for
    // writing, and then it would be "text file busy".
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_titus-bootstrap")).arg(&copy).status().unwrap();
    assert!(copied.success(), "{copied}");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = isolated(&copy);
    command.current_dir("/");
    if nix::unistd::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    outcome(prepare(&mut command))
}
