//! These arguments are in our GRUB drop-in, in every `linux` line of grub.cfg, and in
//! the running kernel.

use std::time::Duration;

use serde::Deserialize;

use super::{Change, Claim, Contents, Origin, Planned, RawKind, State, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::Patience;
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::template::{Renderer, Templated};

/// Sourced by grub-mkconfig after /etc/default/grub; late, so that it adds to what others set.
pub const DROP_IN: &str = "/etc/default/grub.d/90-titus-bootstrap.cfg";
const GRUB_CFG: &str = "/boot/grub/grub.cfg";

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    arguments: Templated<Vec<String>>,
    /// The running kernel's command line.
    running: Option<Templated<String>>,
}

/// Arguments of the kernel's command line.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelArguments {
    arguments: Vec<String>,
    running: Option<String>,
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<KernelArguments> {
        let running = self.running.as_ref().map(|running| running.get(renderer)).transpose()?;
        Ok(KernelArguments { arguments: self.arguments.get(renderer)?, running })
    }
}

impl KernelArguments {
    /// Our drop-in; none without arguments.
    pub(super) fn drop_in(&self) -> Option<String> {
        (!self.arguments.is_empty()).then(|| self.contents())
    }

    fn contents(&self) -> String {
        format!(
            "# Written by titus-bootstrap (setting agent.kernel_arguments).\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {}\"\n",
            self.arguments.join(" ")
        )
    }

    fn drop_in_differs(&self, host: &Host) -> Result<Option<Change>> {
        let entry = host.entry(DROP_IN)?;
        if self.arguments.is_empty() {
            return Ok(entry.map(|_| Change::new(format!("remove {DROP_IN}"))));
        }
        let same = entry.is_some_and(|entry| entry.kind == EntryKind::File)
            && host.read_text(DROP_IN)?.as_deref() == Some(&self.contents());
        Ok((!same).then(|| Change::new(format!("write {DROP_IN}: {}", self.arguments.join(" ")))))
    }

    /// Arguments that some `linux` line of grub.cfg lacks; `None` without a grub.cfg.
    fn lacking_in_grub(&self, host: &Host) -> Result<Option<Vec<&str>>> {
        let Some(text) = host.read_text(GRUB_CFG)? else { return Ok(None) };
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| {
                // grub.cfg starts other things so, too: memtest86+ never gets GRUB_CMDLINE_LINUX.
                let kernel = words.get(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
                words.first().is_some_and(|word| ["linux", "linux16", "linuxefi"].contains(word))
                    && kernel.starts_with("vmlinu")
            })
            .collect();
        let lacks = |argument: &str| lines.iter().any(|words| !words.contains(&argument));
        Ok(Some(self.arguments.iter().map(String::as_str).filter(|argument| lacks(argument)).collect()))
    }

    fn observe_disk(&self, host: &Host) -> Result<Vec<Change>> {
        let mut changes: Vec<Change> = self.drop_in_differs(host)?.into_iter().collect();
        if !host.is_live() {
            return Ok(changes);
        }
        match self.lacking_in_grub(host)? {
            None if self.arguments.is_empty() => {}
            None => {
                return Err(Error::failed(format!("{GRUB_CFG} is not there: this machine does not start with GRUB"))
                    .fix(format!(
                        "give the kernel `{}` in the way of its boot loader, then set agent.kernel_arguments = []",
                        self.arguments.join(" ")
                    )));
            }
            Some(lacking) if !lacking.is_empty() => {
                changes.push(Change::new(format!("update-grub: {GRUB_CFG} lacks {}", lacking.join(" "))));
            }
            Some(_) if !changes.is_empty() => changes.push(Change::new("update-grub")),
            Some(_) => {}
        }
        Ok(changes)
    }
}

impl RawKind for Raw {
    fn origin(&self, _name: &str) -> Option<Origin<'_>> {
        match &self.arguments {
            Templated::Template(text) => Some(Origin::Value(text)),
            Templated::Value(_) => Some(Origin::Value("")),
        }
    }
}

impl Work for KernelArguments {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::new(DROP_IN, format!("the arguments {}", self.arguments.join(" ")))]
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        if !planned.contains_key(DROP_IN) {
            let changes = self.observe_disk(host)?;
            if !changes.is_empty() {
                return Ok(State::Changes(changes));
            }
        }
        if !host.is_live() {
            return Ok(State::Deferred("update-grub is not run and no kernel is looked at below --root".into()));
        }
        let running: Vec<&str> = self.running.iter().flat_map(|line| line.split_whitespace()).collect();
        let late: Vec<&str> = self.arguments.iter().map(String::as_str).filter(|a| !running.contains(a)).collect();
        Ok(if late.is_empty() || self.running.is_none() {
            State::InSync(None)
        } else {
            State::AfterReboot(format!("the running kernel was started without {}", late.join(" ")))
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        if self.drop_in_differs(host)?.is_some() {
            if self.arguments.is_empty() {
                host.remove(DROP_IN)?;
            } else {
                host.write(DROP_IN, self.contents().as_bytes(), 0o644, Owner::ROOT)?;
            }
        }
        if !host.is_live() {
            return Ok(());
        }
        host.run_command(&["update-grub"], &[], Patience::Ends, Duration::from_secs(300))?.succeeded().map(drop)
    }

    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((DROP_IN.to_owned(), Vec::new())))
    }

    fn written(&self) -> Option<(&str, Contents)> {
        Some((DROP_IN, Contents::Text(self.drop_in()?)))
    }

    fn paths(&self) -> Vec<String> {
        vec![DROP_IN.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_adds_to_what_others_set() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = KernelArguments { arguments: vec!["net.ifnames=0".into()], running: None };
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
        step.converge(&host).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(_)));
        let path = directory.path().join(DROP_IN.trim_start_matches('/'));
        let script = format!("GRUB_CMDLINE_LINUX=quiet; . {}; echo $GRUB_CMDLINE_LINUX", path.display());
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "quiet net.ifnames=0\n");
        let none = KernelArguments { arguments: vec![], running: None };
        none.converge(&host).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn every_linux_line_counts() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = KernelArguments { arguments: vec!["a=1".into(), "b".into()], running: None };
        assert_eq!(step.lacking_in_grub(&host).unwrap(), None);
        host.write(
            GRUB_CFG,
            b"# linux\n\tlinux /vmlinuz root=x a=1 b\n\tlinux /vmlinuz single a=10 b\n linux16 /boot/memtest86+.bin\n",
            0o644,
            Owner::ROOT,
        )
        .unwrap();
        assert_eq!(step.lacking_in_grub(&host).unwrap().unwrap(), ["a=1"]);
    }
}
