//! A directory with this mode and owner.

use serde::Deserialize;

use super::file::{Attributes, checked_path};
use super::{Change, Claim, Planned, RawKind, State, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::template::{Renderer, Templated};

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    path: Templated<String>,
    mode: Option<Templated<String>>,
    owner: Option<Templated<String>>,
    group: Option<Templated<String>>,
}

/// A directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Directory {
    /// Where, below the root.
    pub path: String,
    attributes: Attributes,
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Directory> {
        Ok(Directory {
            path: checked_path(self.path.get(renderer)?)?,
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

impl RawKind for Raw {}

impl Work for Directory {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::new(&self.path, format!("a directory, {}", self.attributes.wish()))]
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
            // An operator may have put it on another disk; its attributes are his.
            Some(entry) if matches!(entry.kind, EntryKind::Link(_)) && host.is_directory(path)? => {
                Ok(State::InSync(Some(format!("{path} is a symbolic link, left as it is"))))
            }
            Some(_) => Err(Error::failed(format!("{path}: something else is in the directory's place"))
                .fix(format!("look what it is, move it away (mv {path} {path}.old), and run titus-bootstrap again"))),
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
        let raw: Raw = toml::from_str("path = '/var/lib/x'\nmode = '0750'").unwrap();
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
}
