//! The state of a tree of files, for comparisons.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Paths that are not compared, because they change by themselves or differ between nodes.
const OTHERS: [&str; 15] = [
    "/run",
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/srv/repo",
    "/usr/bin/titus-bootstrap",
    "/var/log",
    "/var/tmp",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/systemd",
    "/var/lib/mesos",
    "/etc/machine-id",
    "/.dockerenv",
];

/// Paths that differ between two nodes that did the same in another order: apt's
/// and dpkg's records, caches, and keys that Docker creates; also the program's journal.
const RECORDS: [&str; 12] = [
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/cache",
    "/var/backups",
    "/etc/docker/key.json",
    "/etc/ld.so.cache",
    "/var/lib/titus-bootstrap",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
];

/// The state of a file: `stat` and, unless it is compared only with a later state of the same
/// tree, its contents.
pub type Tree = BTreeMap<String, String>;

/// Every file below `root` by inode, times, mode and owner, so that any
/// change shows.
pub fn stamps(root: &Path) -> Tree {
    walk(root, &OTHERS, |_, file| {
        let data = file.symlink_metadata()?;
        let (mode, inode) = (data.mode(), data.ino());
        // A directory is unchanged if its contents are.
        let times = (!data.is_dir()).then(|| (data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()));
        Ok(format!("{mode:o} {}:{} inode {inode} {times:?}", data.uid(), data.gid()))
    })
}

/// Every file below `root` by mode, owner and contents: equal for two nodes in the same
/// state.
pub fn contents(root: &Path) -> Tree {
    walk(root, &[&OTHERS[..], &RECORDS[..]].concat(), look)
}

/// Like [`contents`], plus apt's and dpkg's records except lists and caches, to show that nothing
/// was installed or configured.
pub fn untouched(root: &Path) -> Tree {
    walk(root, &[&OTHERS[..], &["/var/lib/apt", "/var/cache/apt"]].concat(), look)
}

/// Every file below a temporary root by mode, owner and contents, except the lock, the
/// status and the journal, which depend on the runs.
pub fn complete(root: &Path) -> Tree {
    let of_runs = ["lock", "status.json", "journal.jsonl", "last.log", "last.json"];
    let mut tree = walk(root, &[], look);
    tree.retain(|path, _| match path.split_once("/titus-bootstrap") {
        Some(("/run" | "/var/lib" | "/var/log", name)) => !name.is_empty() && !of_runs.contains(&&name[1..]),
        _ => path != "/run" && path != "/var/log",
    });
    tree
}

/// The paths that differ, each with its earlier and its present state.
pub fn differences(before: &Tree, after: &Tree) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| {
            let entry = |tree: &Tree| tree.get(path).cloned().unwrap_or_else(|| "nothing".into());
            format!("{path}: {} -> {}", entry(before), entry(after))
        })
        .collect()
}

/// Asserts that two trees are the same.
#[track_caller]
pub fn assert_same(before: &Tree, after: &Tree, what: &str) {
    let differences = differences(before, after);
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

fn look(path: &str, file: &Path) -> std::io::Result<String> {
    let data = file.symlink_metadata()?;
    let what = if data.is_symlink() {
        format!("-> {}", std::fs::read_link(file)?.display())
    } else if data.is_file() && path == "/etc/shadow" {
        "with the day of the last change of each password".into()
    } else if data.is_file() {
        // The standard library's hash is fast even in a debug build.
        let mut hasher = DefaultHasher::new();
        hasher.write(&std::fs::read(file)?);
        format!("{:016x}", hasher.finish())
    } else {
        format!("{:?}", data.file_type())
    };
    Ok(format!("{:o} {}:{} {what}", data.permissions().mode(), data.uid(), data.gid()))
}

/// Every file below `root`, except these paths and everything below them, with the value of `look` for its path.
pub fn walk(root: &Path, but: &[&str], look: impl Fn(&str, &Path) -> std::io::Result<String>) -> Tree {
    let mut tree = Tree::new();
    let mut directories = vec![PathBuf::from("/")];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(resolve(root, &directory)) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = directory.join(entry.file_name());
            let text = path.to_string_lossy().into_owned();
            if but.contains(&text.as_str()) {
                continue;
            }
            // A file may disappear during the scan; then it does not count.
            if let Ok(seen) = look(&text, &resolve(root, &path)) {
                tree.insert(text, seen);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            }
        }
    }
    tree
}

fn resolve(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}
