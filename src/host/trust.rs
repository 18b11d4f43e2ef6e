//! Checks that only root can write the files that control what root does, like sshd(8) with `StrictModes`.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::door::{LINKS, components};

/// A file or directory that another user may write, in the path of a file.
#[derive(Debug, PartialEq, Eq)]
struct Untrusted {
    path: PathBuf,
    how: String,
}

impl Host {
    /// Refuses a file of the machine that a user other than root could write, rename or redirect. Follows links.
    /// Accepts a missing file, an unnamed pipe and a terminal. A run without root, or into a tree, accepts every file.
    ///
    /// # Errors
    /// Fails with exit code 78 when the file is not safe; the error has the command that fixes it.
    pub fn refuse_untrusted(&self, path: &Path) -> Result<()> {
        if !self.is_own_root() || !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        refuse(path, 0)
    }

    /// Refuses a file with secrets that a user other than root could read, write or redirect. Accepts a missing file.
    ///
    /// # Errors
    /// Fails with exit code 78 when the file is not safe; the error has the command that fixes it.
    pub fn refuse_exposed(&self, path: &Path) -> Result<()> {
        if !self.is_own_root() || !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        // If the file cannot be examined, its reader reports that.
        let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
        let others = if found.gid() == 0 { 0o027 } else { 0o077 };
        if found.uid() == 0 && found.mode() & others == 0 {
            return refuse(path, 0);
        }
        let (shown, mode) = (path.display(), found.mode() & 0o7777);
        Err(Error::config(format!("{shown}: not read, because users other than root may read it"))
            .cause(format!("it has secrets, and the owner {}, group {}, mode {mode:04o}", found.uid(), found.gid()))
            .fix(format!(
                "chown root:root {shown} && chmod 0600 {shown}\nand change the secrets if others may have read them"
            )))
    }
}

fn refuse(path: &Path, owner: u32) -> Result<()> {
    let shown = path.display();
    let found = std::path::absolute(path).and_then(|absolute| find_untrusted(&absolute, owner));
    let found = found.map_err(|e| Error::config(format!("{shown}: cannot be examined")).cause(e))?;
    let Some(Untrusted { path: culprit, how }) = found else { return Ok(()) };
    let culprit = culprit.display();
    Err(Error::config(format!("{shown}: not read, because users other than root may write it"))
        .cause(format!("{culprit} has {how}; root executes what this file says"))
        .fix(format!(
            "see that its contents are yours, then: chown root:root {culprit} && chmod go-w {culprit}\n\
             or copy it to where only root may write: install -o root -g root -m 0600 {shown} /root/"
        )))
}

/// The first component of the path that a user other than `owner` and root may write, if any. `None` if the file does
/// not exist.
fn find_untrusted(path: &Path, owner: u32) -> std::io::Result<Option<Untrusted>> {
    let mut left = components(path);
    let mut real = PathBuf::from("/");
    let mut links = 0;
    loop {
        let found = match std::fs::symlink_metadata(&real) {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(e),
        };
        // A person types on a terminal.
        if found.file_type().is_char_device() {
            return Ok(None);
        }
        if found.uid() != 0 && found.uid() != owner {
            return Ok(Some(Untrusted { path: real, how: format!("the owner {}", found.uid()) }));
        }
        if found.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(std::io::Error::other("too many symbolic links"));
            }
            let target = std::fs::read_link(&real)?;
            real.pop();
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            let mut parts = components(&target);
            parts.append(&mut left);
            left = parts;
        } else if found.mode() & 0o022 != 0 && !(found.is_dir() && found.mode() & 0o1000 != 0) {
            // In a directory with the sticky bit nobody else can rename root's files, and the next component must be
            // root's.
            let how = format!("mode {:04o}, group {}", found.mode() & 0o7777, found.gid());
            return Ok(Some(Untrusted { path: real, how }));
        }
        match left.pop_front() {
            None => return Ok(None),
            Some(part) if part == ".." => drop(real.pop()),
            Some(part) => real.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_another_user_may_write_is_found_anywhere_in_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let at = |name: &str| directory.path().join(name);
        let culprit = |name: &str, owner: u32| {
            let found = find_untrusted(&at(name), owner).unwrap();
            found.map(|found| found.path.strip_prefix(directory.path()).unwrap_or(&found.path).to_owned())
        };
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "").unwrap();
        // Whatever the umask is.
        for (name, normal) in [("a", 0o755), ("a/b", 0o755), ("a/b/file", 0o644)] {
            mode(&at(name), normal);
        }
        symlink("a/b/file", at("link")).unwrap();
        symlink(at("a/b"), at("way")).unwrap();
        symlink("../..", at("a/b/up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/proc/self/fd/no-such-pipe:[1]", at("pipe")).unwrap();
        let names = ["a/b/file", "link", "way/file", "a/b/up/link", "a/../link"];
        for name in names.iter().chain(&["nothing", "a/b/file/below", "pipe"]) {
            assert_eq!(culprit(name, own), None, "{name}");
        }
        assert!(find_untrusted(&at("loop"), own).is_err());
        for (changed, with) in [("a/b/file", 0o664), ("a/b/file", 0o606), ("a/b", 0o777), ("a", 0o775), ("a", 0o2775)] {
            let before = std::fs::metadata(at(changed)).unwrap().mode() & 0o7777;
            mode(&at(changed), with);
            for name in names {
                assert_eq!(culprit(name, own), Some(changed.into()), "{name}: {changed} {with:o}");
            }
            mode(&at(changed), before);
        }
        mode(&at("a"), 0o1777);
        assert_eq!(culprit("link", own), None, "our own file in a directory such as /tmp");
        if own == 0 {
            std::os::unix::fs::lchown(at("link"), Some(65534), None).unwrap();
            std::os::unix::fs::chown(at("a/b"), Some(65534), None).unwrap();
            assert_eq!(culprit("link", own), Some("link".into()));
            assert_eq!(culprit("way/file", own), Some("a/b".into()));
            assert_eq!(culprit("way/file", 65534), None);
        }
    }

    #[test]
    fn the_refusal_has_the_command_that_fixes_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        mode(file.path(), 0o666);
        let refused = refuse(file.path(), nix::unistd::geteuid().as_raw()).unwrap_err();
        assert_eq!(refused.kind.exit_code(), 78);
        let path = file.path().display();
        assert!(refused.to_string().contains(&format!("chown root:root {path} && chmod go-w {path}")), "{refused}");
    }
}
