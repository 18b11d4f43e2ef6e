//! A directory with this mode and owner.

use serde::Deserialize;

use super::file::Attributes;
use super::forms::{self, Account, Mode};
use super::{Change, Claim, Planned, RawKind, State, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::template::{Renderer, Templated};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDirectory {
    path: Templated<forms::Path>,
    mode: Option<Templated<Mode>>,
    owner: Option<Templated<Account>>,
    group: Option<Templated<Account>>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    /// Its path, below the root.
    pub path: String,
    attributes: Attributes,
}

impl RawDirectory {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Directory> {
        Ok(Directory {
            path: self.path.get(renderer)?.0,
            attributes: Attributes::resolve(
                renderer,
                self.mode.as_ref(),
                0o755,
                self.owner.as_ref(),
                self.group.as_ref(),
            )?,
        })
    }
}

impl RawKind for RawDirectory {}

impl Work for Directory {
    fn explain(&self) -> Vec<String> {
        vec![format!("Keeps the directory {} ({}). What is in it stays as it is.", self.path, self.attributes.wish())]
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::of_directory(&self.path, format!("a directory, {}", self.attributes.wish()))]
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        let path = &self.path;
        match host.entry(path)? {
            None => Ok(State::Changes(vec![Change::new(format!(
                "create directory {path} ({:04o})",
                self.attributes.mode()
            ))])),
            Some(entry) if entry.kind == EntryKind::Directory => {
                let changes = self.attributes.differences(host, path, &entry)?;
                Ok(State::from_changes(changes))
            }
            // An operator may have moved it to another disk, where its attributes are the operator's.
            Some(entry) if matches!(entry.kind, EntryKind::Link(_)) && host.is_directory(path)? => {
                Ok(State::InSync(Some(format!("{path} is a symbolic link and stays as it is"))))
            }
            Some(_) => Err(Error::failed(format!("{path} is not a directory"))
                .fix(format!("examine it, move it away (mv {path} {path}.old), and run titus-bootstrap again"))),
        }
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let owner = self.attributes.ids(host)?;
        if host.entry(&self.path)?.is_none() {
            return host.make_directory(&self.path, self.attributes.mode(), owner);
        }
        host.set_attributes(&self.path, self.attributes.mode(), owner)
    }

    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Owner;

    #[test]
    fn observe_converge_observe() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let raw: RawDirectory = toml::from_str("path = '/var/lib/x'\nmode = '0750'").unwrap();
        let step = raw.resolve(&Renderer::new(serde_json::json!({}))).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
        host.set_attributes("/var/lib/x", 0o777, Owner::ROOT).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
        std::fs::remove_dir(directory.path().join("var/lib/x")).unwrap();
        host.write("/var/lib/x", b"", 0o644, Owner::ROOT).unwrap();
        step.observe(&host, &Planned::new()).unwrap_err();
    }

    #[test]
    fn a_link_to_a_directory_is_the_operator_s() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let raw: RawDirectory = toml::from_str("path = '/data'").unwrap();
        let step = raw.resolve(&Renderer::new(serde_json::json!({}))).unwrap();
        std::fs::create_dir(directory.path().join("disk")).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        for (target, is_directory) in [("disk", true), ("file", false), ("nothing", false)] {
            std::os::unix::fs::symlink(target, directory.path().join("data")).unwrap();
            match step.observe(&host, &Planned::new()) {
                Ok(state) => {
                    let note = "/data is a symbolic link and stays as it is";
                    assert!(is_directory && state == State::InSync(Some(note.into())), "{target}: {state:?}");
                }
                Err(error) => assert!(!is_directory && error.what == "/data is not a directory", "{target}: {error}"),
            }
            std::fs::remove_file(directory.path().join("data")).unwrap();
        }
        nix::unistd::mkfifo(&directory.path().join("data"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        step.observe(&host, &Planned::new()).unwrap_err();
    }
}
