//! Whether nobody but root may write a file that says what root is to do, as sshd(8) asks of its own files
//! (`StrictModes`).

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::door::{LINKS, components};

/// What another user may write, on the way to a file.
#[derive(Debug, PartialEq, Eq)]
struct Untrusted {
    path: PathBuf,
    how: String,
}

impl Host {
    /// Refuses a file of the machine that another than root may write, change the name of, or lead elsewhere. `path` is
    /// the caller's own, links are followed. Nothing there, a pipe without a name and a terminal are well; so is every
    /// file for a run that is not root's, or that writes into a tree.
    ///
    /// # Errors
    /// 78 with the command that fixes it.
    pub fn refuse_untrusted(&self, path: &Path) -> Result<()> {
        if !self.is_own_root() || !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        refuse(path, 0)
    }
}

impl Host {
    /// Refuses a file with secrets that another than root may read or write, or lead elsewhere. Nothing there is well.
    ///
    /// # Errors
    /// 78 with the command that fixes it.
    pub fn refuse_exposed(&self, path: &Path) -> Result<()> {
        if !self.is_own_root() || !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        // What cannot be looked at is reported by who reads it.
        let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
        let others = if found.gid() == 0 { 0o027 } else { 0o077 };
        if found.uid() == 0 && found.mode() & others == 0 {
            return refuse(path, 0);
        }
        let (shown, mode) = (path.display(), found.mode() & 0o7777);
        Err(Error::config(format!("{shown}: not read, since another than root may read it"))
            .cause(format!("it has secrets, and the owner {}, group {}, mode {mode:04o}", found.uid(), found.gid()))
            .fix(format!(
                "chown root:root {shown} && chmod 0600 {shown}\nand change the secrets if others may have read them"
            )))
    }
}

fn refuse(path: &Path, owner: u32) -> Result<()> {
    let shown = path.display();
    let found = std::path::absolute(path).and_then(|absolute| untrusted(&absolute, owner));
    let found = found.map_err(|e| Error::config(format!("{shown}: cannot be looked at")).cause(e))?;
    let Some(Untrusted { path: culprit, how }) = found else { return Ok(()) };
    let culprit = culprit.display();
    Err(Error::config(format!("{shown}: not read, since another than root may write it"))
        .cause(format!("{culprit} has {how}; what this file says is done as root"))
        .fix(format!(
            "see that its contents are yours, then: chown root:root {culprit} && chmod go-w {culprit}\n\
             or copy it to where only root may write: install -o root -g root -m 0600 {shown} /root/"
        )))
}

/// The first thing on the way from `/` that another than `owner` and root may write; none: nothing, or nothing is there.
fn untrusted(path: &Path, owner: u32) -> std::io::Result<Option<Untrusted>> {
    let mut left = components(path);
    let mut real = PathBuf::from("/");
    let mut links = 0;
    loop {
        let found = match std::fs::symlink_metadata(&real) {
            Ok(found) => found,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(e),
        };
        // Whoever types on a terminal is asked.
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
            // In a directory with a sticky bit nobody renames what is root's, and all that follows must be.
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
    fn what_another_may_write_is_found_wherever_it_is_on_the_way() {
        let directory = tempfile::tempdir().unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let at = |name: &str| directory.path().join(name);
        let culprit = |name: &str, owner: u32| {
            let found = untrusted(&at(name), owner).unwrap();
            found.map(|found| found.path.strip_prefix(directory.path()).unwrap_or(&found.path).to_owned())
        };
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), "").unwrap();
        symlink("a/b/file", at("link")).unwrap();
        symlink(at("a/b"), at("way")).unwrap();
        symlink("../..", at("a/b/up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("/proc/self/fd/no-such-pipe:[1]", at("pipe")).unwrap();
        let names = ["a/b/file", "link", "way/file", "a/b/up/link", "a/../link"];
        for name in names.iter().chain(&["nothing", "a/b/file/below", "pipe"]) {
            assert_eq!(culprit(name, own), None, "{name}");
        }
        assert!(untrusted(&at("loop"), own).is_err());
        for (changed, with) in [("a/b/file", 0o664), ("a/b/file", 0o606), ("a/b", 0o777), ("a", 0o775), ("a", 0o2775)] {
            let before = std::fs::metadata(at(changed)).unwrap().mode() & 0o7777;
            mode(&at(changed), with);
            for name in names {
                assert_eq!(culprit(name, own), Some(changed.into()), "{name}: {changed} {with:o}");
            }
            mode(&at(changed), before);
        }
        mode(&at("a"), 0o1777);
        assert_eq!(culprit("link", own), None, "what is ours in a directory such as /tmp");
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
