//! What a run writes is on the disk before it goes on: the system calls say so, as a power cut cannot for each of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::harness::image::program;

/// The system calls that change a directory, and those that write to disk.
const CALLS: &str = "trace=openat,mkdir,mkdirat,rename,renameat,renameat2,symlinkat,linkat,unlinkat,fsync";

#[test]
fn each_change_is_synced_before_the_next() {
    for role in ["agent", "master", "gateway"] {
        let directory = tempfile::tempdir().unwrap();
        let (root, log) = (directory.path().join("root"), directory.path().join("log"));
        std::fs::create_dir(&root).unwrap();
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", CALLS, "-o"]).arg(&log).arg(program());
        let output = command.args(["--role", role, "--sample", "--root"]).arg(&root).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let calls = std::fs::read_to_string(&log).unwrap();
        let renames = check(&calls, &root).unwrap_or_else(|why| panic!("role {role}: {why}"));
        assert!(renames > 5, "{renames} renames\n{calls}");
    }
}

/// How many renames there were; an error: what was not synced when something else was changed.
fn check(calls: &str, root: &Path) -> Result<usize, String> {
    let (mut changed, mut synced, mut names) = (None::<&str>, BTreeSet::new(), BTreeSet::new());
    let mut renames = 0;
    for call in calls.lines().filter(|call| !call.contains(" = -1 ")) {
        // `openat(3</directory>, "name", FLAGS) = 4`, and after fsync( only a descriptor.
        let Some((name, rest)) = call.split_once(' ').and_then(|(_, call)| call.trim().split_once('(')) else {
            continue;
        };
        let place = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(place, _)| place);
        let Some(place) = place.filter(|place| Path::new(place).starts_with(root)) else { continue };
        // What is in /run does not outlive a power cut.
        if Path::new(place).starts_with(root.join("run")) {
            continue;
        }
        let file = format!("{place}/{}", rest.split('"').nth(1).unwrap_or_default());
        match name {
            "fsync" => {
                synced.insert(place.to_owned());
                changed = changed.filter(|directory| *directory != place);
                continue;
            }
            "openat" if !call.contains("O_CREAT") || !names.insert(file.clone()) => continue,
            "symlinkat" => _ = synced.insert(format!("{place}/{}", rest.split('"').nth(3).unwrap_or_default())),
            "renameat" | "renameat2" | "rename" => {
                renames += 1;
                if !synced.contains(&file) {
                    return Err(format!("not synced before it was renamed: {call}"));
                }
            }
            _ => {}
        }
        if let Some(directory) = changed.filter(|directory| *directory != place) {
            return Err(format!("{directory} was not synced before {call}"));
        }
        changed = Some(place);
    }
    changed.map_or(Ok(renames), |directory| Err(format!("{directory} was not synced at all")))
}
