//! Enables and masks units by their links and files.
//!
//! `systemctl enable` does the same, but each call costs a process and a daemon-reload (190 ms), needs systemd on the
//! machine that makes a tree, and cannot report on many units at once. See systemctl(1), and systemd.unit(5), section
//! [Install].

use std::collections::BTreeMap;

use crate::error::Result;
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::host::systemd::UNIT_DIRECTORIES;
use crate::host::systemd::in_force::{masks, settings};

const ADMINISTRATORS: &str = "/etc/systemd/system";

/// The path of a unit's mask.
pub fn mask_path(name: &str) -> String {
    format!("{ADMINISTRATORS}/{name}")
}

/// Whether an entry in the place of a unit file masks the unit: a link to /dev/null.
pub fn is_mask(place: &EntryKind) -> bool {
    matches!(place, EntryKind::Link(target) if target.as_os_str() == "/dev/null")
}

impl Host {
    /// The file that defines a unit; `None` if the unit has no file, or only a mask.
    ///
    /// # Errors
    /// Fails when a directory cannot be examined.
    pub fn unit_file(&self, name: &str) -> Result<Option<String>> {
        for directory in UNIT_DIRECTORIES {
            if self.unit_entry(directory, name)?.is_some_and(|entry| !masks(&entry)) {
                return Ok(Some(format!("{directory}/{name}")));
            }
        }
        Ok(None)
    }

    /// The masks of a unit: links to /dev/null and empty files that take precedence over the file that defines it. Does
    /// not include the mask of a package.
    ///
    /// # Errors
    /// Fails when a directory cannot be examined.
    pub fn masks_of(&self, name: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for directory in &UNIT_DIRECTORIES[..3] {
            match self.unit_entry(directory, name)? {
                Some(entry) if masks(&entry) => found.push(format!("{directory}/{name}")),
                Some(_) => break,
                None => {}
            }
        }
        Ok(found)
    }

    /// The mask of a unit in a package: an empty file or a link to /dev/null in the place of the unit's file.
    ///
    /// # Errors
    /// Fails when a directory cannot be examined.
    pub fn mask_of_package(&self, name: &str) -> Result<Option<String>> {
        for directory in &UNIT_DIRECTORIES[3..] {
            if self.unit_entry(directory, name)?.is_some_and(|entry| masks(&entry)) {
                return Ok(Some(format!("{directory}/{name}")));
            }
        }
        Ok(None)
    }

    /// The path and the target of each link that enables a unit, from the section [Install] of its file. `also`
    /// includes the units that the file names in `Also=`. `planned` has the future contents of files, by path.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
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

    /// The links of [`Host::enablement_links`] that do not exist. An existing link may point anywhere.
    ///
    /// # Errors
    /// Fails when [`Host::enablement_links`] fails.
    pub fn missing_links(
        &self,
        name: &str,
        also: bool,
        planned: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<(String, String)>> {
        let mut missing = Vec::new();
        for (path, target) in self.enablement_links(name, also, planned)? {
            if self.entry(&path)?.is_none() {
                missing.push((path, target));
            }
        }
        Ok(missing)
    }

    /// Enables a unit, and those that it names in `Also=`.
    ///
    /// # Errors
    /// Fails when a link cannot be created.
    pub fn enable_unit(&self, name: &str) -> Result<()> {
        let missing = self.missing_links(name, true, &BTreeMap::new())?;
        missing.iter().try_for_each(|(path, target)| self.link(path, target))
    }

    /// Masks a unit.
    ///
    /// # Errors
    /// Fails when the link cannot be created.
    pub fn mask_unit(&self, name: &str) -> Result<()> {
        let path = mask_path(name);
        self.note_unit_file(&path)?;
        self.link(&path, "/dev/null")
    }

    /// All links in /etc that enable a unit, including those that others made.
    ///
    /// # Errors
    /// Fails when a directory cannot be listed.
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

/// The keys and values of [Install], with one item for each word of a list.
pub(crate) fn install_section(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for setting in settings(text).into_iter().filter(|setting| setting.section == "Install") {
        // No package of these roles has a name with a slash or a specifier.
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
    fn a_unit_file_that_comes_or_goes_is_noticed() {
        let (directory, host) = Host::temporary();
        let file = "/lib/systemd/system/x.service";
        let links = ["/etc/systemd/system/y.service", "/etc/systemd/system/x.service"];
        let found = || host.unit_file("x.service").unwrap();
        assert_eq!(found(), None);
        host.write(file, b"[Service]", 0o644, Owner::ROOT).unwrap();
        assert_eq!(found().as_deref(), Some(file));
        assert_eq!(host.unit_file("y.service").unwrap(), None);
        host.link(links[0], file).unwrap();
        assert_eq!(host.unit_file("y.service").unwrap().as_deref(), Some(links[0]));
        host.mask_unit("x.service").unwrap();
        assert_eq!(host.masks_of("x.service").unwrap(), [links[1]]);
        host.move_aside(links[1]).unwrap();
        assert_eq!(host.masks_of("x.service").unwrap(), [""; 0]);
        host.remove(file).unwrap();
        assert_eq!(found(), None);
        // What others do meanwhile: a package, or a job of systemd.
        std::fs::write(directory.path().join(&file[1..]), "[Service]").unwrap();
        host.forget_packages();
        assert_eq!(found().as_deref(), Some(file));
        std::fs::remove_file(directory.path().join(&file[1..])).unwrap();
        assert_eq!(found(), None);
        let drop_in = directory.path().join("etc/systemd/system/x.service.d");
        std::fs::create_dir(&drop_in).unwrap();
        host.forget_units();
        let of_drop_ins = host.drop_in_directories("x.service", &BTreeMap::new()).unwrap();
        assert_eq!(of_drop_ins, ["/etc/systemd/system/x.service.d"]);
    }

    #[test]
    fn a_mask_is_not_a_unit_file() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.link("/etc/systemd/system/x.service", "/dev/null").unwrap();
        assert_eq!(host.unit_file("x.service").unwrap(), None);
        assert_eq!(host.masks_of("x.service").unwrap(), ["/etc/systemd/system/x.service"]);
        // An empty file is a mask, too, and a unit can have several. A mask after the unit's file has no effect.
        host.write("/run/systemd/system/x.service", b"", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.masks_of("x.service").unwrap().len(), 2);
        host.write("/etc/systemd/system/x.service", b"[Service]", 0o644, Owner::ROOT).unwrap();
        assert_eq!(host.masks_of("x.service").unwrap(), [""; 0]);
    }
}
