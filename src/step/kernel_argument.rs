//! These arguments are in the program's GRUB drop-in, in every `linux` line of grub.cfg, and in
//! the running kernel.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::file::File;
use super::forms::KernelArgument;
use super::grub;
use super::{Change, Claim, Contents, Planned, RawKind, State, ValueOrigin, Work};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::Patience;
use crate::template::{Renderer, Templated};

/// grub-mkconfig sources the drop-in after /etc/default/grub, and late, so that it adds to the values of other files.
pub const DROP_IN: &str = "/etc/default/grub.d/90-titus-bootstrap.cfg";
const GRUB_DIRECTORY: &str = "/boot/grub";
const GRUB_CFG: &str = "/boot/grub/grub.cfg";
const GRUB_ENVIRONMENT: &str = "/boot/grub/grubenv";
const SETTINGS: &str = "/etc/default/grub";
const DROP_INS: &str = "/etc/default/grub.d";
const SCRIPTS: &str = "/etc/grub.d";
/// The script that writes the entries of the distribution's kernels.
const SCRIPT: &str = "/etc/grub.d/10_linux";

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawKernelArgument {
    arguments: Templated<Vec<KernelArgument>>,
    /// The running kernel's command line.
    running: Option<Templated<String>>,
}

/// Arguments for the kernel's command line.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelArguments {
    arguments: Vec<String>,
    running: Option<String>,
}

impl RawKernelArgument {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<KernelArguments> {
        let running = self.running.as_ref().map(|running| running.get(renderer)).transpose()?;
        let arguments = self.arguments.get(renderer)?.into_iter().map(|KernelArgument(argument)| argument).collect();
        Ok(KernelArguments { arguments, running })
    }
}

/// One necessary action.
#[derive(Debug, PartialEq)]
enum Due<'a> {
    /// Write or remove the drop-in.
    DropIn,
    /// Run update-grub because grub.cfg lacks these arguments.
    Update(Vec<&'a str>),
    /// Run update-grub because this file is younger than grub.cfg.
    Stale(String),
}

/// The necessary action for a grub.cfg with these contents. `drop_in_changes` makes a new one necessary in any case;
/// `younger` is a source file of grub.cfg that changed since.
fn grub_due<'a>(
    arguments: &'a [String],
    grub_cfg: &str,
    drop_in_changes: bool,
    younger: Option<String>,
) -> Option<Due<'a>> {
    let lacking = missing_in_grub(arguments, grub_cfg);
    match younger {
        _ if drop_in_changes || !lacking.is_empty() => Some(Due::Update(lacking)),
        younger => younger.map(Due::Stale),
    }
}

/// Arguments that at least one of the distribution's kernels lacks in grub.cfg.
fn missing_in_grub<'a>(arguments: &'a [String], grub_cfg: &str) -> Vec<&'a str> {
    grub::menu(grub_cfg).lacking(arguments)
}

/// For [`crate::parsers`]: reads the text as grub.cfg, as grubenv, and as a settings file.
pub(crate) fn read_as_any_menu(text: &str) {
    let wanted = ["a=1".to_owned()];
    let _ = (missing_in_grub(&wanted, text), grub::menu(text).boots_other(&wanted, text));
    let _ = grub::loss(&wanted, &[(SETTINGS.to_owned(), text.to_owned())], DROP_IN);
}

impl KernelArguments {
    /// The text of the drop-in; `None` without arguments.
    fn drop_in(&self) -> Option<String> {
        (!self.arguments.is_empty()).then(|| {
            format!(
                "# Written by titus-bootstrap (setting agent.kernel_arguments).\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX {}\"\n",
                self.arguments.join(" ")
            )
        })
    }

    fn file(&self) -> File {
        self.drop_in().map_or_else(|| File::absent(DROP_IN), |text| File::new(DROP_IN, text, 0o644))
    }

    fn due(&self, host: &Host) -> Result<Vec<Due<'_>>> {
        let drop_in = (!self.file().changes(host)?.is_empty()).then_some(Due::DropIn);
        let grub = match host.is_live().then(|| host.read_text(GRUB_CFG)).transpose()? {
            None => None,
            Some(Some(grub_cfg)) => {
                let is_wanted = !self.arguments.is_empty() && drop_in.is_none();
                let younger = if is_wanted { younger_than_grub_cfg(host)? } else { None };
                grub_due(&self.arguments, &grub_cfg, drop_in.is_some(), younger)
            }
            Some(None) if self.arguments.is_empty() => None,
            Some(None) => {
                return Err(Error::failed(format!("{GRUB_CFG} does not exist: this machine does not boot with GRUB"))
                    .fix(format!(
                        "pass `{}` to the kernel through the machine's boot loader, then set agent.kernel_arguments = []",
                        self.arguments.join(" ")
                    )));
            }
        };
        Ok(drop_in.into_iter().chain(grub).collect())
    }

    /// Refuses settings that keep the arguments from the kernel whatever a run writes.
    ///
    /// # Errors
    /// Fails with 69. The error names the file and its line.
    fn refuse_others(&self, host: &Host) -> Result<()> {
        let Some(grub_cfg) = host.read_text(GRUB_CFG)?.filter(|_| !self.arguments.is_empty()) else { return Ok(()) };
        let mut files = Vec::new();
        for path in settings_files(host)? {
            let text = host.read_text(&path)?.unwrap_or_default();
            files.push((path, text));
        }
        let again = "then run titus-bootstrap again";
        if !files.iter().any(|(path, _)| path == DROP_IN) {
            files.push((DROP_IN.to_owned(), String::new()));
        }
        // grub-mkconfig reads the drop-ins in the order of their names, after /etc/default/grub.
        files.sort_by(|(one, _), (other, _)| (one != SETTINGS, one).cmp(&(other != SETTINGS, other)));
        if let Some(loss) = grub::loss(&self.arguments, &files, DROP_IN) {
            return Err(Error::unavailable(format!("{}:{} removes kernel arguments", loss.path, loss.line))
                .cause(loss.what)
                .fix(format!("{}\n{again}", loss.fix)));
        }
        let menu = grub::menu(&grub_cfg);
        if !menu.has_kernel() {
            // update-grub will add them, unless its script is disabled.
            if host.entry(SCRIPT)?.is_none_or(|entry| entry.mode & 0o111 != 0) {
                return Ok(());
            }
            let what = format!("{SCRIPT} is disabled, and {GRUB_CFG} has no kernel of the distribution");
            return Err(Error::unavailable(what)
                .cause("only that script writes the kernel's arguments, but it is not executable")
                .fix(format!("chmod +x {SCRIPT}\n{again}")));
        }
        let environment = host.read_text(GRUB_ENVIRONMENT)?.unwrap_or_default();
        let Some(other) = menu.boots_other(&self.arguments, &environment) else { return Ok(()) };
        let fix = match other.why.split_once('=').map(|(name, _)| name) {
            Some("next_entry") => format!("grub-editenv {GRUB_ENVIRONMENT} unset next_entry"),
            Some("saved_entry") => "grub-set-default 0".to_owned(),
            _ => format!(
                "set GRUB_DEFAULT=0 in {SETTINGS} (or in the drop-in or custom script that sets it), and run update-grub"
            ),
        };
        Err(Error::unavailable(format!("GRUB boots {:?}, which lacks {}", other.title, other.lacking.join(" ")))
            .cause(format!("{}; update-grub writes arguments only for the distribution's kernels", other.why))
            .fix(format!("{fix}\nor add the arguments to that entry\n{again}")))
    }

    fn change(&self, due: &Due<'_>) -> Change {
        Change::new(match due {
            Due::DropIn if self.arguments.is_empty() => format!("remove {DROP_IN}"),
            Due::DropIn => format!("write {DROP_IN}: {}", self.arguments.join(" ")),
            Due::Update(lacking) if lacking.is_empty() => "update-grub".into(),
            Due::Update(lacking) => format!("update-grub: {GRUB_CFG} lacks {}", lacking.join(" ")),
            Due::Stale(path) => format!("update-grub: {path} changed since {GRUB_CFG} was made"),
        })
    }

    fn settle(&self, host: &Host, due: &Due<'_>) -> Result<()> {
        match due {
            Due::DropIn => self.file().converge(host),
            Due::Update(_) | Due::Stale(_) => {
                let output = host.run_command(&["update-grub"], &[], Patience::Ends, Duration::from_secs(300))?;
                output.succeeded()?;
                // grub-mkconfig does not sync, and after a power cut GRUB would read half of its file.
                host.sync_file_system(GRUB_DIRECTORY)
            }
        }
    }
}

/// grub-mkconfig's settings file and its drop-ins, in its order.
fn settings_files(host: &Host) -> Result<Vec<String>> {
    let mut drop_ins: Vec<String> = host.list(DROP_INS)?.into_iter().filter(|name| name.ends_with(".cfg")).collect();
    drop_ins.sort();
    let drop_ins = drop_ins.into_iter().map(|name| format!("{DROP_INS}/{name}"));
    Ok(std::iter::once(SETTINGS.to_owned()).chain(drop_ins).collect())
}

/// A source file of grub.cfg that changed after it. A file from the future, e.g. after the clock was set back, does not
/// count: it would also be younger than the next grub.cfg.
fn younger_than_grub_cfg(host: &Host) -> Result<Option<String>> {
    let Some(made) = host.entry(GRUB_CFG)?.map(|entry| entry.modified_ns) else { return Ok(None) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = i128::try_from(now.as_nanos()).unwrap_or_default();
    let scripts = host.list(SCRIPTS)?.into_iter().map(|name| format!("{SCRIPTS}/{name}"));
    for path in settings_files(host)?.into_iter().chain(scripts) {
        if host.entry(&path)?.is_some_and(|entry| made < entry.modified_ns && entry.modified_ns <= now) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl RawKind for RawKernelArgument {
    fn origin(&self, _name: &str) -> Option<ValueOrigin<'_>> {
        match &self.arguments {
            Templated::Template(text) => Some(ValueOrigin::Value(text)),
            Templated::Value(_) => Some(ValueOrigin::Value("")),
        }
    }
}

impl Work for KernelArguments {
    fn explain(&self) -> Vec<String> {
        vec![
            format!("Keeps these arguments on the kernel's command line, in GRUB: {}.", self.arguments.join(" ")),
            "They count after a reboot: until then a reboot is due.".into(),
        ]
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::new(DROP_IN, format!("the arguments {}", self.arguments.join(" ")))]
    }

    fn refuse(&self, host: &Host) -> Result<()> {
        if host.is_live() { self.refuse_others(host) } else { Ok(()) }
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        if !planned.contains_key(DROP_IN) {
            let changes: Vec<Change> = self.due(host)?.iter().map(|due| self.change(due)).collect();
            if !changes.is_empty() {
                return Ok(State::Changes(changes));
            }
        }
        if !host.is_live() {
            return Ok(State::Deferred(
                "with --root, update-grub is not run and the running kernel is not examined".into(),
            ));
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
        self.due(host)?.iter().try_for_each(|due| self.settle(host, due))
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
    use crate::host::fs::Owner;

    #[test]
    fn the_drop_in_adds_to_what_others_set() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = KernelArguments { arguments: vec!["net.ifnames=0".into()], running: None };
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
        step.converge(&host).unwrap();
        assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(_)));
        let written = host.read_text(DROP_IN).unwrap().unwrap();
        assert_eq!(step.written(), Some((DROP_IN, Contents::Text(written))));
        let explained = step.explain().join("\n");
        assert!(explained.contains("in GRUB: net.ifnames=0.") && explained.contains("reboot"), "{explained}");
        let path = directory.path().join(DROP_IN.trim_start_matches('/'));
        let script = format!("GRUB_CMDLINE_LINUX=quiet; . {}; echo $GRUB_CMDLINE_LINUX", path.display());
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "quiet net.ifnames=0\n");
        let none = KernelArguments { arguments: vec![], running: None };
        assert_eq!(none.written(), None);
        none.converge(&host).unwrap();
        assert!(!path.exists());
    }

    const GRUB: &str =
        "# linux\n\tlinux /vmlinuz root=x a=1 b\n\tlinux /vmlinuz single a=10 b\n linux16 /boot/memtest86+.bin\n";

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn every_linux_line_counts() {
        for (wanted, changes, due) in [
            (&["b"][..], false, None),
            (&["b"], true, Some(Due::Update(vec![]))),
            (&["a=1", "b"], false, Some(Due::Update(vec!["a=1"]))),
            (&["c", "a=1"], true, Some(Due::Update(vec!["c", "a=1"]))),
            (&[], false, None),
            (&[], true, Some(Due::Update(vec![]))),
        ] {
            assert_eq!(grub_due(&arguments(wanted), GRUB, changes, None), due, "{wanted:?} {changes}");
        }
        assert_eq!(
            grub_due(&arguments(&["a"]), "linux /boot/vmlinux-5 aa\n", false, None),
            Some(Due::Update(vec!["a"]))
        );
        assert_eq!(grub_due(&arguments(&["a"]), "linuxefi /boot/vmlinuz a\n", false, None), None);
    }

    #[test]
    fn the_drop_in_is_ours_or_is_not_there() {
        let (directory, host) = Host::temporary();
        let step = |words: &[&str]| KernelArguments { arguments: arguments(words), running: None };
        let lines = |step: KernelArguments| -> Vec<String> {
            step.due(&host).unwrap().iter().map(|due| step.change(due).line).collect()
        };
        let (write, remove) = (format!("write {DROP_IN}: a"), format!("remove {DROP_IN}"));
        let both = |with: Option<&String>, without: Option<&String>, what: &str| {
            assert_eq!(lines(step(&["a"])).first(), with, "{what}");
            assert_eq!(lines(step(&[])).first(), without, "{what}");
        };
        both(Some(&write), None, "nothing is there");
        host.write(DROP_IN, b"other", 0o644, Owner::ROOT).unwrap();
        both(Some(&write), Some(&remove), "other contents");
        step(&["a"]).converge(&host).unwrap();
        both(None, Some(&remove), "ours");
        host.set_attributes(DROP_IN, 0o600, Owner::ROOT).unwrap();
        both(Some(&write), Some(&remove), "another mode");
        host.link(DROP_IN, "/elsewhere").unwrap();
        both(Some(&write), Some(&remove), "a link");
        drop(directory);
    }
}
