//! Enablement and masks, as the files that they are.
//!
//! `systemctl enable` would do the same and cost a process and a daemon-reload for
//! each call (190 ms), needs systemd on the machine where a tree is made, and cannot
//! be asked about many units at once. What it does is written down in systemctl(1)
//! and systemd.unit(5), section [Install].

use std::collections::BTreeMap;

use crate::error::Result;
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::host::systemd::UNIT_DIRECTORIES;
use crate::host::systemd::in_force::settings;

const ADMINISTRATORS: &str = "/etc/systemd/system";

/// Where a unit's mask goes.
pub fn mask_path(name: &str) -> String {
    format!("{ADMINISTRATORS}/{name}")
}

/// Whether this, in a unit file's place, masks the unit: a link to /dev/null.
pub fn is_mask(place: &EntryKind) -> bool {
    matches!(place, EntryKind::Link(target) if target.as_os_str() == "/dev/null")
}

impl Host {
    /// The file that defines a unit; `None` if there is none, or only a mask.
    ///
    /// # Errors
    /// When a directory cannot be looked at.
    pub fn unit_file(&self, name: &str) -> Result<Option<String>> {
        for directory in UNIT_DIRECTORIES {
            let path = format!("{directory}/{name}");
            if self.entry(&path)?.is_some() && !self.mask_at(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// What masks a unit: links to /dev/null and empty files, as far as they come before the file that defines it. One
    /// of a package is not among them.
    ///
    /// # Errors
    /// When a directory cannot be looked at.
    pub fn masks_of(&self, name: &str) -> Result<Vec<String>> {
        let mut masks = Vec::new();
        for directory in &UNIT_DIRECTORIES[..3] {
            let path = format!("{directory}/{name}");
            if self.mask_at(&path)? {
                masks.push(path);
            } else if self.entry(&path)?.is_some() {
                break;
            }
        }
        Ok(masks)
    }

    /// An empty file or a link to /dev/null in the place of the file of a unit that a package brings.
    ///
    /// # Errors
    /// When a directory cannot be looked at.
    pub fn mask_of_package(&self, name: &str) -> Result<Option<String>> {
        for directory in &UNIT_DIRECTORIES[3..] {
            let path = format!("{directory}/{name}");
            if self.mask_at(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The links, path and target, by which the section [Install] of a unit's file enables it;
    /// `also`: those of the units that it names in `Also=`, too. `planned`: files, by path, that will
    /// have these contents by then.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn enablement_links(
        &self,
        name: &str,
        also: bool,
        planned: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<(String, String)>> {
        let mut links = Vec::new();
        let mut left = vec![name.to_owned()];
        let mut seen = Vec::new();
        while let Some(unit) = left.pop() {
            if seen.contains(&unit) {
                continue;
            }
            let new = planned.iter().find(|(path, _)| UNIT_DIRECTORIES.iter().any(|d| **path == format!("{d}/{unit}")));
            let (file, text) = match (new, self.unit_file(&unit)?) {
                (Some((path, text)), _) => (path.clone(), String::from_utf8_lossy(text).into_owned()),
                (None, Some(file)) => (file.clone(), self.read_text(&file)?.unwrap_or_default()),
                (None, None) => continue,
            };
            for (key, value) in install_section(&text) {
                let path = match key.as_str() {
                    "WantedBy" => format!("{ADMINISTRATORS}/{value}.wants/{unit}"),
                    "RequiredBy" => format!("{ADMINISTRATORS}/{value}.requires/{unit}"),
                    "UpheldBy" => format!("{ADMINISTRATORS}/{value}.upholds/{unit}"),
                    "Alias" if value != unit => format!("{ADMINISTRATORS}/{value}"),
                    "Also" if also => {
                        left.push(value);
                        continue;
                    }
                    _ => continue,
                };
                links.push((path, file.clone()));
            }
            seen.push(unit);
        }
        Ok(links)
    }

    /// Those of [`Host::enablement_links`] that are not there; one that is there may point anywhere.
    ///
    /// # Errors
    /// As [`Host::enablement_links`].
    pub fn lacking_links(
        &self,
        name: &str,
        also: bool,
        planned: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<(String, String)>> {
        let mut lacking = Vec::new();
        for (path, target) in self.enablement_links(name, also, planned)? {
            if self.entry(&path)?.is_none() {
                lacking.push((path, target));
            }
        }
        Ok(lacking)
    }

    /// Enables a unit, and those that it names in `Also=`.
    ///
    /// # Errors
    /// When a link cannot be made.
    pub fn enable_unit(&self, name: &str) -> Result<()> {
        let lacking = self.lacking_links(name, true, &BTreeMap::new())?;
        lacking.iter().try_for_each(|(path, target)| self.link(path, target))
    }

    /// Masks a unit.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn mask_unit(&self, name: &str) -> Result<()> {
        let path = mask_path(name);
        self.note_unit_file(&path)?;
        self.link(&path, "/dev/null")
    }

    /// The links in /etc that enable a unit, whoever made them.
    ///
    /// # Errors
    /// When a directory cannot be listed.
    pub fn links_that_enable(&self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for directory in self.list(ADMINISTRATORS)? {
            if [".wants", ".requires", ".upholds"].iter().any(|suffix| directory.ends_with(suffix)) {
                let path = format!("{ADMINISTRATORS}/{directory}/{name}");
                if self.entry(&path)?.is_some() {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }
}

/// Keys and values of [Install], lists taken apart.
pub(crate) fn install_section(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for setting in settings(text).into_iter().filter(|setting| setting.section == "Install") {
        // A name with a slash or a specifier is nothing that a package of these roles has.
        let names = setting.value.split_whitespace().filter(|value| !value.contains(['/', '%']));
        found.extend(names.map(|value| (setting.key.clone(), value.to_owned())));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Owner;

    #[test]
    fn a_unit_is_enabled_by_the_links_of_its_install_section() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let unit = "[Unit]\nWantedBy=no.target\n[Install]\n# WantedBy=no.target\nWantedBy=a.target \\\n b.target\nAlias=other.service x.service\nAlso=x.socket\n";
        host.write("/lib/systemd/system/x.service", unit.as_bytes(), 0o644, Owner::ROOT).unwrap();
        host.write(
            "/lib/systemd/system/x.socket",
            b"[Install]\nWantedBy=sockets.target\nAlso=x.service\n",
            0o644,
            Owner::ROOT,
        )
        .unwrap();
        let names = |also| -> Vec<String> {
            host.enablement_links("x.service", also, &BTreeMap::new())
                .unwrap()
                .into_iter()
                .map(|(path, _)| path)
                .collect()
        };
        let own = ["a.target.wants/x.service", "b.target.wants/x.service", "other.service"]
            .map(|p| format!("{ADMINISTRATORS}/{p}"));
        assert_eq!(names(false), own);
        assert_eq!(names(true).last().unwrap(), &format!("{ADMINISTRATORS}/sockets.target.wants/x.socket"));
        assert!(host.links_that_enable("x.service").unwrap().is_empty());
        host.link(&own[0], "/lib/systemd/system/x.service").unwrap();
        assert_eq!(host.links_that_enable("x.service").unwrap(), [own[0].clone()]);
    }

    #[test]
    fn a_mask_is_no_unit_file() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.link("/etc/systemd/system/x.service", "/dev/null").unwrap();
        assert_eq!(host.unit_file("x.service").unwrap(), None);
        assert_eq!(host.masks_of("x.service").unwrap(), ["/etc/systemd/system/x.service"]);
        // An empty file is a mask, too, and more than one can be there; one behind the unit's file is none.
        host.write("/run/systemd/system/x.service", b"", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.masks_of("x.service").unwrap().len(), 2);
        host.write("/etc/systemd/system/x.service", b"[Service]", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.masks_of("x.service").unwrap(), [""; 0]);
    }
}
