//! The entries that GRUB boots, and their arguments: its menu grub.cfg, and the files that grub-mkconfig(8) reads for it.

use std::collections::BTreeMap;

/// An entry of the menu, or a submenu.
#[derive(Debug, Default, PartialEq)]
struct Entry {
    title: String,
    /// The id, e.g. `gnulinux-simple-…`; empty if there is none.
    id: String,
    /// The submenu that contains it.
    parent: Option<usize>,
    is_submenu: bool,
}

/// A command that loads a kernel.
#[derive(Debug, PartialEq)]
struct Kernel<'a> {
    words: Vec<&'a str>,
    /// The script of /etc/grub.d that wrote it, e.g. `10_linux`.
    script: Option<&'a str>,
    entry: Option<usize>,
}

/// A menu.
#[derive(Debug, Default)]
pub(crate) struct Menu<'a> {
    entries: Vec<Entry>,
    kernels: Vec<Kernel<'a>>,
    /// Whether grub-mkconfig wrote it, so that each script's part is marked.
    has_marks: bool,
    /// The value of the last `set default=`; empty for the first entry.
    default: &'a str,
    /// Whether an entry for the next boot only takes precedence over it.
    knows_next: bool,
}

/// The default boot entry, if it is not one of the distribution's kernels.
#[derive(Debug, PartialEq)]
pub(crate) struct Other<'a> {
    pub(crate) title: String,
    pub(crate) lacking: Vec<&'a str>,
    /// Why GRUB boots it: `set default="2"`, `saved_entry=memtest`, `next_entry=…`.
    pub(crate) why: String,
}

/// A line of GRUB's settings that removes arguments.
#[derive(Debug, PartialEq)]
pub(crate) struct Loss {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) fix: String,
}

/// Parses a grub.cfg.
pub(crate) fn menu(text: &str) -> Menu<'_> {
    let mut menu = Menu::default();
    let (mut script, mut open): (Option<&str>, Vec<Option<usize>>) = (None, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("### BEGIN /etc/grub.d/") {
            menu.has_marks = true;
            script = rest.split_whitespace().next();
        } else if line.starts_with("### END ") {
            script = None;
        } else if let Some(value) = line.strip_prefix("set default=") {
            match value.trim_matches(['"', '\'']) {
                "${next_entry}" => menu.knows_next = true,
                value => menu.default = value,
            }
        } else if let Some(entry) = entry(line) {
            let parent = open.last().copied().flatten();
            menu.entries.push(Entry { parent, ..entry });
            open.push(Some(menu.entries.len() - 1));
        } else if line.starts_with("function ") && line.ends_with('{') {
            open.push(open.last().copied().flatten());
        } else if line == "}" {
            open.pop();
        } else {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first().is_some_and(|word| ["linux", "linux16", "linuxefi"].contains(word)) {
                let entry = open.last().copied().flatten();
                menu.kernels.push(Kernel { words, script, entry });
            }
        }
    }
    menu
}

/// Parses `menuentry 'Title' --class x $menuentry_id_option 'id' {`.
fn entry(line: &str) -> Option<Entry> {
    let is_submenu = line.starts_with("submenu ");
    if !is_submenu && !line.starts_with("menuentry ") || !line.ends_with('{') {
        return None;
    }
    let words = shell_words(line);
    let id = words.iter().position(|word| word == "$menuentry_id_option" || word == "--id");
    let id = id.and_then(|at| words.get(at + 1)).cloned();
    let id = id.or_else(|| words.iter().find_map(|word| Some(word.strip_prefix("--id=")?.to_owned())));
    Some(Entry { title: words.get(1)?.clone(), id: id.unwrap_or_default(), parent: None, is_submenu })
}

/// The words of a line, without quotes and backslashes.
fn shell_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut characters) = (Vec::new(), String::new(), None, line.chars());
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None | Some('"'), '\\') => word.extend(characters.next()),
            (None, c) if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

impl Menu<'_> {
    /// Whether a kernel is one of the distribution's, whose arguments grub-mkconfig writes. Kernels of other systems, of
    /// custom entries and memtest86+ are not. In a menu that grub-mkconfig did not write, all kernels count.
    fn counts(&self, kernel: &Kernel<'_>) -> bool {
        let path = kernel.words.get(1).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let is_distribution_s = kernel.script.is_some_and(|script| script.starts_with("10_linux"));
        path.starts_with("vmlinu") && (is_distribution_s || !self.has_marks)
    }

    /// The arguments that at least one of the distribution's kernels lacks.
    pub(crate) fn lacking<'a>(&self, arguments: &'a [String]) -> Vec<&'a str> {
        let counted: Vec<_> = self.kernels.iter().filter(|kernel| self.counts(kernel)).collect();
        let lacks = |argument: &&str| {
            counted.iter().any(|kernel| !is_in_force(argument, &kernel.words, arguments))
                || self.has_marks && counted.is_empty()
        };
        arguments.iter().map(String::as_str).filter(lacks).collect()
    }

    /// Whether the menu has a kernel of the distribution.
    pub(crate) fn has_kernel(&self) -> bool {
        self.kernels.iter().any(|kernel| self.counts(kernel))
    }

    /// The next boot entry, if it is not one of the distribution's and lacks arguments.
    /// `environment` is the text of grubenv.
    pub(crate) fn boots_other<'a>(&self, arguments: &'a [String], environment: &str) -> Option<Other<'a>> {
        let variable = |name: &str| {
            let line = environment.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.filter(|value| !value.is_empty())
        };
        let (wanted, why) = match (variable("next_entry").filter(|_| self.knows_next), self.default) {
            (Some(next), _) => (next, format!("next_entry={next} in grubenv")),
            (None, "${saved_entry}") => {
                let saved = variable("saved_entry").unwrap_or("0");
                (saved, format!("saved_entry={saved} in grubenv"))
            }
            (None, default) => (default, format!("set default=\"{default}\" in grub.cfg")),
        };
        let chosen = self.choose(wanted)?;
        let kernels: Vec<_> = self.kernels.iter().filter(|kernel| kernel.entry == Some(chosen)).collect();
        if !self.has_marks || kernels.iter().any(|kernel| self.counts(kernel)) {
            return None;
        }
        let lacks = |argument: &&str| {
            kernels.is_empty() || kernels.iter().any(|kernel| !is_in_force(argument, &kernel.words, arguments))
        };
        let lacking: Vec<&str> = arguments.iter().map(String::as_str).filter(lacks).collect();
        let title = self.entries[chosen].title.clone();
        (!lacking.is_empty()).then_some(Other { title, lacking, why })
    }

    /// The entry that GRUB boots for this name: a number from 0, an id or a title, each after those of its submenus. An unknown
    /// name means the first entry.
    fn choose(&self, wanted: &str) -> Option<usize> {
        let mut of_parent: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (n, entry) in self.entries.iter().enumerate() {
            of_parent.entry(entry.parent).or_default().push(n);
        }
        let (mut chosen, mut parts) = (None, wanted.split('>'));
        loop {
            let children = of_parent.get(&chosen)?;
            let by = |part: &str| match part.trim().parse::<usize>() {
                Ok(number) => children.get(number).copied(),
                Err(_) if part.is_empty() => None,
                Err(_) => children
                    .iter()
                    .copied()
                    .find(|n| [&self.entries[*n].id, &self.entries[*n].title].iter().any(|name| *name == part)),
            };
            let next = parts.next().and_then(by).or_else(|| children.first().copied())?;
            if !self.entries[next].is_submenu {
                return Some(next);
            }
            chosen = Some(next);
        }
    }
}

/// The name of an argument with a value. The kernel uses the last argument of a name.
fn name(word: &str) -> Option<&str> {
    let name = word.split_once('=')?.0;
    (!["console", "earlycon"].contains(&name)).then_some(name)
}

/// Whether a command line has an argument, and no later argument of the same name has another value.
fn is_in_force(argument: &str, words: &[&str], all: &[String]) -> bool {
    let is_repeated = all.iter().filter(|other| name(other).is_some() && name(other) == name(argument)).count() > 1;
    let last = words.iter().rev().find(|word| name(word).is_some() && name(word) == name(argument));
    if is_repeated || last.is_none() { words.contains(&argument) } else { last == Some(&argument) }
}

/// The line of GRUB's settings that removes arguments, if there is one. `files` are /etc/default/grub and its drop-ins, in
/// the order in which grub-mkconfig reads them; `ours` is the drop-in that adds the arguments.
pub(crate) fn loss(arguments: &[String], files: &[(String, String)], ours: &str) -> Option<Loss> {
    const ALL: &str = "GRUB_CMDLINE_LINUX";
    const NORMAL: &str = "GRUB_CMDLINE_LINUX_DEFAULT";
    let (mut is_after, mut found) = (false, None);
    for (path, text) in files {
        if path == ours {
            is_after = true;
            continue;
        }
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let (variable, value) = match line.split_once('=') {
                Some((variable, value)) if [ALL, NORMAL].contains(&variable) => (variable, value),
                _ if line == format!("unset {ALL}") => (ALL, ""),
                _ => continue,
            };
            // Files that are read before the drop-in contribute to its value, and come first on the command line.
            if variable == ALL && !is_after {
                continue;
            }
            let words: Vec<&str> = value.split_whitespace().map(|word| word.trim_matches(['"', '\''])).collect();
            let adds = words.iter().any(|word| {
                let rest = word.split(&format!("${variable}")).nth(1);
                let is_plain =
                    rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
                is_plain || word.contains(&format!("${{{variable}"))
            });
            if !adds {
                // The assignment replaces an earlier one of this variable.
                found = found.filter(|(of, _): &(&str, Loss)| *of != variable);
            }
            let other = arguments.iter().find_map(|argument| {
                let is_other = |word: &&&str| name(word).is_some() && name(word) == name(argument) && *word != argument;
                words.iter().rfind(is_other).map(|word| (argument, *word))
            });
            let lost =
                arguments.iter().find(|argument| variable == ALL && !adds && !words.contains(&argument.as_str()));
            let loss = |what, fix| Loss { path: path.clone(), line: n + 1, what, fix };
            if let Some((argument, word)) = other {
                let what = format!(
                    "{variable} has {word}, which comes after {argument} on the kernel's command line and overrides it"
                );
                let fix = format!(
                    "remove {word} from line {} of {path}; or, if it is right, change agent.kernel_arguments",
                    n + 1
                );
                found = Some((variable, loss(what, fix)));
            } else if let Some(argument) = lost {
                let what = format!("a line after {ours} assigns {ALL} again, without {argument}");
                let own = path
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches(|c: char| c.is_ascii_digit() || "-_".contains(c));
                let earlier = format!("/etc/default/grub.d/89-{own}");
                found = Some((
                    variable,
                    loss(
                        what,
                        format!("mv {path} {earlier}\nso that it is read before the drop-in of titus-bootstrap"),
                    ),
                ));
            }
        }
    }
    found.map(|(_, loss)| loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// The output of Debian's grub-mkconfig 2.06, with an older kernel, memtest86+, another system and a custom entry.
    pub(crate) const GRUB_CFG: &str = r#"
### BEGIN /etc/grub.d/00_header ###
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="DEFAULT"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
  fi
}
### END /etc/grub.d/00_header ###
### BEGIN /etc/grub.d/10_linux ###
menuentry 'Debian GNU/Linux' --class debian --class os $menuentry_id_option 'gnulinux-simple-1' {
	linux	/boot/vmlinuz-6.1 root=UUID=1 ro a=1 quiet
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1' {
	menuentry 'Debian GNU/Linux, with Linux 6.1' --class debian $menuentry_id_option 'gnulinux-6.1-advanced-1' {
		linux	/boot/vmlinuz-6.1 root=UUID=1 ro a=1 quiet
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1 (recovery mode)' $menuentry_id_option 'gnulinux-6.1-recovery-1' {
		linux	/boot/vmlinuz-6.1 root=UUID=1 ro single a=1
	}
}
### END /etc/grub.d/10_linux ###
### BEGIN /etc/grub.d/20_memtest86+ ###
menuentry "Memory test (memtest86+)" {
	linux16	/boot/memtest86+.bin
}
### END /etc/grub.d/20_memtest86+ ###
### BEGIN /etc/grub.d/30_os-prober ###
menuentry 'Ubuntu 22.04 (on /dev/sdb1)' --class ubuntu $menuentry_id_option 'osprober-gnulinux-simple-2' {
	linux	/boot/vmlinuz-5.15 root=/dev/sdb1 quiet
}
### END /etc/grub.d/30_os-prober ###
### BEGIN /etc/grub.d/40_custom ###
menuentry 'Mine' --id mine {
	linux	/boot/vmlinuz-mine root=/dev/sda1 b
}
menuentry "It's \"good\"" {
	linux	/boot/vmlinuz-good root=/dev/sda1 a=1
}
### END /etc/grub.d/40_custom ###
"#;

    #[test]
    fn only_the_kernels_of_the_distribution_count() {
        let wanted = arguments(&["a=1", "quiet", "b"]);
        let of_menu = |text: &str| menu(text).lacking(&wanted);
        assert_eq!(of_menu(GRUB_CFG), ["quiet", "b"], "the recovery entry has no quiet");
        let (without, _) = GRUB_CFG.split_once("### BEGIN /etc/grub.d/10_linux").unwrap();
        assert_eq!(of_menu(without), ["a=1", "quiet", "b"], "no kernel of the distribution's");
        assert!(!menu(without).has_kernel() && menu(GRUB_CFG).has_kernel());
        // grub-mkconfig did not write it, so all kernels count.
        assert_eq!(of_menu("menuentry x {\n linux /vmlinuz a=1 quiet\n}\nlinux /vmlinuz-2 a=1\n"), ["quiet", "b"]);
        // The last argument of a name counts.
        let one = arguments(&["a=1"]);
        assert_eq!(menu("linux /vmlinuz a=1 a=2").lacking(&one), ["a=1"]);
        assert_eq!(menu("linux /vmlinuz a=2 a=1 aa=3").lacking(&one), [""; 0]);
        let consoles = arguments(&["console=tty0", "console=ttyS0", "b=1", "b=2"]);
        assert_eq!(menu("linux /vmlinuz console=tty0 console=ttyS0 b=1 b=2 console=x").lacking(&consoles), [""; 0]);
        let two = arguments(&["a=1", "b=1"]);
        assert_eq!(menu("linux /vmlinuz a=1 b=1 a=2").lacking(&two), ["a=1"]);
    }

    #[test]
    fn what_is_booted_by_default() {
        let wanted = arguments(&["a=1"]);
        for (default, environment, other) in [
            ("0", "", None),
            ("", "", None),
            ("1>1", "", None),
            ("gnulinux-advanced-1>gnulinux-6.1-advanced-1", "", None),
            ("gnulinux-advanced-1", "", None),
            ("2", "", Some("Memory test (memtest86+)")),
            ("osprober-gnulinux-simple-2", "", Some("Ubuntu 22.04 (on /dev/sdb1)")),
            ("mine", "", Some("Mine")),
            ("It's \"good\"", "", None),
            ("a kernel that was removed", "", None),
            ("99", "", None),
            ("${saved_entry}", "# GRUB Environment Block\nsaved_entry=mine\n####", Some("Mine")),
            ("${saved_entry}", "saved_entry=\n", None),
            ("${saved_entry}", "", None),
            ("0", "next_entry=Mine\n", Some("Mine")),
            ("mine", "next_entry=0\n", None),
        ] {
            let text = GRUB_CFG.replace("DEFAULT", default);
            let found = menu(&text).boots_other(&wanted, environment).map(|other| other.title);
            assert_eq!(found.as_deref(), other, "{default} {environment:?}");
        }
        // A custom script comes last.
        let text = format!("{GRUB_CFG}set default=mine\n");
        let other = menu(&text).boots_other(&wanted, "").unwrap();
        assert_eq!((other.why.as_str(), other.lacking), ("set default=\"mine\" in grub.cfg", vec!["a=1"]));
        assert!(menu("").boots_other(&wanted, "saved_entry=x").is_none());
        // The title of an entry has quotes in quotes.
        let (text, lacking) = (GRUB_CFG.replace("DEFAULT", "${saved_entry}"), arguments(&["c"]));
        let other = menu(&text).boots_other(&lacking, "saved_entry=It's \"good\"\n").unwrap();
        assert_eq!((other.title.as_str(), other.lacking), ("It's \"good\"", vec!["c"]));
        // The kernel of the distribution lacks them, too, but update-grub adds them there.
        assert_eq!(menu(&GRUB_CFG.replace("DEFAULT", "0")).boots_other(&lacking, ""), None);
        // A menu that grub-mkconfig did not write has no such kernel.
        assert_eq!(menu("menuentry x {\n linux /vmlinuz\n}\n").boots_other(&wanted, ""), None);
    }

    #[test]
    fn only_an_entry_and_a_function_open_a_block() {
        for inside in ["# menuentry 'Old' {", "#function old {", "function f {\n}", "insmod x"] {
            let text = format!(
                "### BEGIN /etc/grub.d/40_custom ###\nset default=1\nsubmenu 'More' {{\n{inside}\nmenuentry 'A' {{\n}}\n}}\n\
                 menuentry 'B' {{\n linux /vmlinuz-b\n}}\n"
            );
            let title = menu(&text).boots_other(&arguments(&["a"]), "").map(|other| other.title);
            assert_eq!(title.as_deref(), Some("B"), "{inside}");
        }
    }

    #[test]
    fn which_line_takes_arguments_away() {
        let ours = "/etc/default/grub.d/90-titus-bootstrap.cfg";
        let wanted = arguments(&["a=1", "b"]);
        for (before, after, line) in [
            ("GRUB_CMDLINE_LINUX=\"quiet a=2\"\n", "", None),
            ("", "\nGRUB_CMDLINE_LINUX=\"quiet\"\n", Some(2)),
            ("", " export GRUB_CMDLINE_LINUX=''", Some(1)),
            ("", "unset GRUB_CMDLINE_LINUX", Some(1)),
            ("", "# GRUB_CMDLINE_LINUX=\n", None),
            ("", "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX quiet\"\n", None),
            ("", "GRUB_CMDLINE_LINUX=\"quiet ${GRUB_CMDLINE_LINUX}\"\n", None),
            ("", "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX_DEFAULT quiet\"\n", Some(1)),
            ("", "GRUB_CMDLINE_LINUX=\"quiet\"\nGRUB_CMDLINE_LINUX='b a=1'\n", None),
            ("", "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a=2\"\n", Some(1)),
            ("GRUB_CMDLINE_LINUX_DEFAULT=\"quiet a=2\"\n", "", Some(1)),
            ("GRUB_CMDLINE_LINUX_DEFAULT=\"a=2\"\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n", "", None),
            ("GRUB_CMDLINE_LINUX_DEFAULT=\"a=2\"\n", "GRUB_CMDLINE_LINUX_DEFAULT=\"\"\n", None),
            ("GRUB_CMDLINE_LINUX_DEFAULT=\"a=1\"\n", "GRUB_DEFAULT=saved\n", None),
            ("", "GRUB_CMDLINE_XEN=\"a=2\"\n", None),
        ] {
            let files = [
                ("/etc/default/grub".to_owned(), before.to_owned()),
                (ours.to_owned(), "GRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a=1 b\"".to_owned()),
                ("/etc/default/grub.d/99-mine.cfg".to_owned(), after.to_owned()),
            ];
            let found = loss(&wanted, &files, ours);
            assert_eq!(found.as_ref().map(|loss| loss.line), line, "{before:?} {after:?} {found:?}");
        }
    }

    #[test]
    fn any_text_is_a_menu() {
        for text in ["}\n}\n", "submenu 'x' {\n", "menuentry {\n", "menuentry 'x", "submenu x {\nsubmenu y {\n}\n}\n"] {
            let _ = menu(text).boots_other(&arguments(&["a"]), "");
            let _ = menu(text).lacking(&arguments(&["a"]));
        }
    }
}
