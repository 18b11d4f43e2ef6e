//! The disk of a machine that is off: an image of an ext4 file system, read and written by debugfs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An image.
pub struct Disk {
    /// Where it lies.
    pub path: PathBuf,
}

/// The extension of the directory on which a disk is mounted.
const MOUNTED: &str = "mounted";

/// A disk that is mounted; dropped, it is not.
pub struct Mount {
    /// Its root directory.
    pub directory: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        unmount(&self.directory);
        let _ = std::fs::remove_dir(&self.directory);
    }
}

fn unmount(directory: &Path) {
    let _ = Command::new("umount").args(["--lazy".as_ref(), directory]).output();
}

/// Unmounts the disks of a directory, which an interrupted test left mounted.
pub fn unmount_all(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|end| end == MOUNTED)).for_each(|path| unmount(&path));
}

/// What is put into one.
pub enum Entry<'a> {
    /// A file of this process's machine, mode 0755, at this path.
    Program(&'a str, &'a Path),
    /// A text, mode 0644.
    Text(&'a str, &'a str),
    /// A symbolic link, and where it leads.
    Link(&'a str, &'a str),
}

impl Disk {
    /// The image at `path`.
    pub fn new(path: &Path) -> Disk {
        Disk { path: path.into() }
    }

    /// A copy of an image; its holes stay holes.
    pub fn copy(from: &Path, to: &Path) -> Disk {
        let status = Command::new("cp").arg("--sparse=always").args([from, to]).status().unwrap();
        assert!(status.success(), "cp: {status}");
        Disk::new(to)
    }

    /// As a boot makes it after a power cut: the journal replayed, and checked.
    ///
    /// # Panics
    /// When the file system is broken in a way that needs a person.
    pub fn recovered(&self, to: &Path) -> Disk {
        let copy = Disk::copy(&self.path, to);
        let check = |option: &str| Command::new("e2fsck").args(["-f", option]).arg(&copy.path).output().unwrap();
        let printed = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        let first = check("-p");
        // fsck(8): 1 is "errors corrected", which is a replayed journal and its orphans.
        assert!(matches!(first.status.code(), Some(0 | 1)), "e2fsck: {}\n{}", first.status, printed(&first));
        let second = check("-n");
        assert!(second.status.success(), "e2fsck once more: {}\n{}", second.status, printed(&second));
        copy
    }

    /// Puts these on it, with the directories above them.
    pub fn put(&self, entries: &[Entry]) {
        let texts = tempfile::tempdir().unwrap();
        let mut commands = String::new();
        let go_to = |path: &str, commands: &mut String| {
            let (directory, name) = path.rsplit_once('/').unwrap();
            if self.debugfs(&format!("stat {directory}")).is_none() {
                commands.push_str(&format!("mkdir {directory}\n"));
            }
            commands.push_str(&format!("cd {directory}\n"));
            name.to_owned()
        };
        for (n, entry) in entries.iter().enumerate() {
            match entry {
                Entry::Program(path, source) => {
                    let name = go_to(path, &mut commands);
                    commands.push_str(&format!("write {} {name}\nsif {name} mode 0100755\n", source.display()));
                }
                Entry::Text(path, text) => {
                    let source = texts.path().join(n.to_string());
                    std::fs::write(&source, text).unwrap();
                    let name = go_to(path, &mut commands);
                    commands.push_str(&format!("write {} {name}\nsif {name} mode 0100644\n", source.display()));
                }
                Entry::Link(path, target) => {
                    let name = go_to(path, &mut commands);
                    commands.push_str(&format!("symlink {name} {target}\n"));
                }
            }
        }
        let script = texts.path().join("commands");
        std::fs::write(&script, &commands).unwrap();
        let output = Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&self.path).output().unwrap();
        assert_eq!(complaints(&output), "", "{commands}");
    }

    /// A file's contents; `None` when there is no such file.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.debugfs(&format!("cat {path}"))
    }

    /// Mounts it beside itself, as the fstab of Debian's cloud images does.
    pub fn mount(&self) -> Mount {
        let directory = self.path.with_extension(MOUNTED);
        std::fs::create_dir(&directory).unwrap();
        let options = ["-t", "ext4", "-o", "loop,discard,errors=remount-ro"];
        let output = Command::new("mount").args(options).args([&self.path, &directory]).output().unwrap();
        assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
        Mount { directory }
    }

    fn debugfs(&self, command: &str) -> Option<Vec<u8>> {
        // After a power cut the bitmaps may not fit their checksums before the journal is replayed; GRUB reads none.
        let output = Command::new("debugfs").args(["-c", "-n", "-R", command]).arg(&self.path).output().unwrap();
        let complaints = complaints(&output);
        assert!(complaints.is_empty() || complaints.contains("File not found"), "{command}: {complaints}");
        complaints.is_empty().then_some(output.stdout)
    }
}

/// What debugfs says beside its name and version; it ends with 0 in any case.
fn complaints(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().filter(|line| !line.starts_with("debugfs 1.")).collect::<Vec<_>>().join("\n")
}
