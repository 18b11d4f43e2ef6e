//! The effective settings of a unit: which file defines it, in which order its drop-ins change it, and which of them
//! decides a setting (systemd.unit(5), "Unit File Load Path"; `src/basic/unit-file.c` and `src/shared/dropin.c` of
//! systemd).

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::host::Host;
use crate::host::fs::look::{Entry, EntryKind};

/// The directories in which systemd looks for a unit and its drop-ins, in order of precedence for files with the same
/// name.
const LOAD_PATH: [&str; 13] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/run/systemd/generator.early",
    "/etc/systemd/system",
    "/etc/systemd/system.attached",
    "/run/systemd/system",
    "/run/systemd/system.attached",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/run/systemd/generator.late",
];

/// Settings whose assignments only add; an empty assignment does not reset them.
const ADDING: [&str; 17] = [
    "After",
    "Before",
    "BindsTo",
    "Conflicts",
    "Documentation",
    "JoinsNamespaceOf",
    "OnFailure",
    "OnSuccess",
    "PartOf",
    "PropagatesReloadTo",
    "ReloadPropagatedFrom",
    "Requires",
    "RequiresMountsFor",
    "Requisite",
    "Upholds",
    "WantedBy",
    "Wants",
];

/// Settings whose assignments add to a list; an empty assignment resets it.
const LISTS: [&str; 6] = ["Environment", "EnvironmentFile", "ExecStart", "PassEnvironment", "UnsetEnvironment", "Exec"];

/// Prefixes of settings that tune a unit and do not decide what it runs or when.
const TUNING: [&str; 27] = [
    "CPU",
    "Description",
    "IO",
    "Kill",
    "Limit",
    "Log",
    "Memory",
    "Nice",
    "OOM",
    "OnActiveSec",
    "OnBootSec",
    "OnCalendar",
    "OnStartupSec",
    "OnUnit",
    "RandomizedDelay",
    "AccuracySec",
    "Restart",
    "RuntimeMax",
    "Standard",
    "StartLimit",
    "StartupCPU",
    "SuccessExitStatus",
    "Syslog",
    "Tasks",
    "Timeout",
    "Watchdog",
    "SendSIG",
];

/// A line of a unit file: `[section]`, key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) section: String,
    pub(crate) key: String,
    pub(crate) value: String,
    /// The number of the line, from 1.
    pub(crate) line: usize,
}

/// A unit's file or drop-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitFile {
    /// Its path.
    pub path: String,
    /// Its contents.
    pub text: String,
}

/// A file that overrides another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The file that overrides.
    pub path: String,
    /// The line that overrides; `None` if it is the whole file.
    pub line: Option<usize>,
    /// The file that is overridden.
    pub overridden: String,
    /// Describes the difference.
    pub words: String,
    /// Whether it only tunes the unit: limits, restarts, timeouts.
    pub is_tuning: bool,
}

impl Override {
    /// The place of the override: its path, and its line.
    pub fn place(&self) -> String {
        self.line.map_or_else(|| self.path.clone(), |line| format!("{}:{line}", self.path))
    }
}

impl Host {
    /// The files of a unit in the order in which systemd reads them: first the one that defines it, without masks.
    /// `planned` has the future contents of files, by path.
    ///
    /// # Errors
    /// Fails when a directory or a file cannot be read.
    pub fn unit_files(&self, name: &str, planned: &BTreeMap<String, Vec<u8>>) -> Result<Vec<UnitFile>> {
        let mut files = Vec::new();
        for directory in LOAD_PATH {
            let path = format!("{directory}/{name}");
            if planned.contains_key(&path) || self.unit_entry(directory, name)?.is_some_and(|entry| !masks(&entry)) {
                files.push(path);
                break;
            }
        }
        let mut drop_ins: BTreeMap<String, String> = BTreeMap::new();
        for directory in self.drop_in_directories(name, planned)? {
            let mut there: BTreeSet<String> = self.list(&directory)?.into_iter().collect();
            for (path, contents) in planned {
                if let Some(file) = path.strip_prefix(&format!("{directory}/")).filter(|file| !file.contains('/')) {
                    if contents.is_empty() {
                        there.remove(file)
                    } else {
                        there.insert(file.to_owned())
                    };
                }
            }
            for file in there.into_iter().filter(|file| file.ends_with(".conf") && !file.starts_with('.')) {
                let path = format!("{directory}/{file}");
                drop_ins.entry(file).or_insert(path);
            }
        }
        files.extend(drop_ins.into_values());
        let read = |path: String| -> Result<UnitFile> {
            let text = match planned.get(&path) {
                Some(contents) => String::from_utf8_lossy(contents).into_owned(),
                // A link to /dev/null in the place of a drop-in hides the others with its name.
                None if self.entry(&path)?.is_some_and(|entry| masks(&entry)) => String::new(),
                None => self.read_text(&path)?.unwrap_or_default(),
            };
            Ok(UnitFile { path, text })
        };
        files.into_iter().map(read).collect()
    }

    /// The directories with drop-ins of a unit, the most specific first.
    ///
    /// # Errors
    /// Fails when a directory cannot be listed.
    pub fn drop_in_directories(&self, name: &str, planned: &BTreeMap<String, Vec<u8>>) -> Result<Vec<String>> {
        let of_file = |path| -> Option<(&str, &str)> { str::rsplit_once(path, '/')?.0.rsplit_once('/') };
        let of_planned: BTreeSet<(&str, &str)> = planned.keys().filter_map(|path| of_file(path)).collect();
        let (own, of_type) = drop_in_names(name);
        let of_units = LOAD_PATH.iter().flat_map(|directory| own.iter().map(move |name| (*directory, name.as_str())));
        let mut found = Vec::new();
        for (directory, name) in of_units.chain(LOAD_PATH.iter().map(|directory| (*directory, of_type.as_str()))) {
            if of_planned.contains(&(directory, name)) || self.is_in_load_path(directory, name)? {
                found.push(format!("{directory}/{name}"));
            }
        }
        Ok(found)
    }

    /// The entry with this name in a directory of the load path, if there is one.
    pub(super) fn unit_entry(&self, directory: &str, name: &str) -> Result<Option<Entry>> {
        if self.is_in_load_path(directory, name)? { self.entry(&format!("{directory}/{name}")) } else { Ok(None) }
    }

    /// Whether a directory of the load path has this name, from lists that are read once, until something may have
    /// changed them.
    fn is_in_load_path(&self, directory: &str, name: &str) -> Result<bool> {
        let mut lists = self.units.lists.borrow_mut();
        if let Some(names) = lists.get(directory) {
            return Ok(names.contains(name));
        }
        let names = BTreeSet::from_iter(self.list(directory)?);
        Ok(lists.entry(directory.to_owned()).or_insert(names).contains(name))
    }

    /// Forgets these lists.
    pub(super) fn forget_unit_lists(&self) {
        self.units.lists.borrow_mut().clear();
    }

    /// Forgets these lists if the file at `path`, which is about to change, could be in one.
    pub(in crate::host) fn forget_unit_lists_with(&self, path: &str) {
        if LOAD_PATH.iter().any(|directory| path.starts_with(directory)) {
            self.forget_unit_lists();
        }
    }
}

/// Whether an entry in the place of a unit file masks it: a link to /dev/null, or an empty file.
pub(super) fn masks(entry: &Entry) -> bool {
    match &entry.kind {
        EntryKind::Link(target) => target.ends_with("dev/null"),
        EntryKind::File => entry.size == 0,
        EntryKind::Directory | EntryKind::Other => false,
    }
}

/// The names of the directories with a unit's drop-ins, the most specific first (`a-b.service.d`, `a-.service.d`), and
/// the one for all units of its type (`service.d`).
fn drop_in_names(unit: &str) -> (Vec<String>, String) {
    let (stem, suffix) = unit.rsplit_once('.').unwrap_or((unit, "service"));
    let mut names = vec![format!("{stem}.{suffix}.d")];
    let mut stem = match stem.split_once('@') {
        Some((template, instance)) if !instance.is_empty() => {
            names.push(format!("{template}@.{suffix}.d"));
            template
        }
        Some((template, _)) => template,
        None => stem,
    };
    while let Some((shorter, _)) = stem.trim_end_matches('-').rsplit_once('-') {
        names.push(format!("{shorter}-.{suffix}.d"));
        stem = shorter;
    }
    (names, format!("{suffix}.d"))
}

/// The settings of a unit file, in order. A line that ends in a backslash continues in the next one; comments in
/// between are ignored.
pub(crate) fn settings(text: &str) -> Vec<Setting> {
    let (mut section, mut found) = (String::new(), Vec::new());
    let mut begun: Option<(usize, String)> = None;
    for (n, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) || begun.is_none() && trimmed.is_empty() {
            continue;
        }
        let (first, mut whole) = begun.take().unwrap_or((n + 1, String::new()));
        if let Some(part) = trimmed.strip_suffix('\\') {
            whole.push_str(part);
            whole.push(' ');
            begun = Some((first, whole));
            continue;
        }
        whole.push_str(trimmed);
        let whole = whole.trim();
        if let Some(name) = whole.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = whole.split_once('=') {
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            found.push(Setting { section: section.clone(), key, value, line: first });
        }
    }
    found
}

/// How systemd combines the assignments of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combination {
    /// The last one applies.
    Last,
    /// Each adds to a list; an empty one resets it.
    List,
    /// Each adds, and nothing resets.
    Adding,
}

fn combination(key: &str) -> Combination {
    if ADDING.contains(&key) {
        Combination::Adding
    } else if LISTS.contains(&key) || ["Exec", "Condition", "Assert", "Listen", "On"].iter().any(|p| key.starts_with(p))
    {
        Combination::List
    } else {
        Combination::Last
    }
}

/// The prefix of lists that one empty assignment resets together, e.g. all conditions.
fn family(key: &str) -> &str {
    ["Condition", "Assert", "Listen", "On"].into_iter().find(|family| key.starts_with(family)).unwrap_or(key)
}

/// An effective assignment, and the index of its file.
type Assignment<'a> = (usize, &'a Setting);

/// The effective assignments of files in order, and the last empty assignment of each list.
#[derive(Default)]
struct InForce<'a> {
    assignments: Vec<Assignment<'a>>,
    resets: Vec<Assignment<'a>>,
}

fn in_force(files: &[(usize, Vec<Setting>)]) -> InForce<'_> {
    let mut found = InForce::default();
    for (n, settings) in files {
        for setting in settings.iter().filter(|setting| setting.section != "Install") {
            let is_same = |other: &Setting| other.section == setting.section && other.key == setting.key;
            let is_family =
                |other: &Setting| other.section == setting.section && family(&other.key) == family(&setting.key);
            match combination(&setting.key) {
                Combination::Adding => {}
                Combination::Last => found.assignments.retain(|(_, other)| !is_same(other)),
                Combination::List if setting.value.is_empty() => {
                    found.assignments.retain(|(_, other)| !is_family(other));
                    found.resets.push((*n, setting));
                    continue;
                }
                Combination::List => {}
            }
            found.assignments.push((*n, setting));
        }
    }
    found
}

/// Finds overrides of `ours` in the files of a unit, which are in order. `missing` has our files that systemd does not
/// read. `read` returns the text of an environment file.
pub fn find_overrides(
    files: &[UnitFile],
    ours: &[String],
    missing: &[UnitFile],
    read: &dyn Fn(&str) -> String,
) -> Vec<Override> {
    let is_ours = |path: &str| ours.iter().any(|own| same_path(own, path));
    let mut found = Vec::new();
    // systemd does not read one of our files, because another file with its name takes precedence.
    for hidden in missing {
        let name = |path: &str| path.rsplit_once('/').map(|(_, name)| name.to_owned());
        let other = files.iter().find(|file| name(&file.path) == name(&hidden.path) && file.text != hidden.text);
        found.extend(other.map(|file| Override {
            path: file.path.clone(),
            line: None,
            overridden: hidden.path.clone(),
            words: "it has the same name and comes first".into(),
            is_tuning: false,
        }));
    }
    let parsed: Vec<_> = files.iter().map(|file| settings(&file.text)).enumerate().collect();
    let own: Vec<_> = parsed.iter().filter(|(n, _)| is_ours(&files[*n].path)).cloned().collect();
    let (all, wanted) = (in_force(&parsed), in_force(&own));
    let foreign = |n: usize| !is_ours(&files[n].path);
    let mut seen = BTreeSet::new();
    for (n, setting) in &wanted.assignments {
        let key = (&setting.section, &setting.key);
        if setting.key == "Environment" {
            continue;
        }
        let is_same = |other: &Setting| (&other.section, &other.key) == key;
        let alike = || all.assignments.iter().filter(|(_, other)| is_same(other));
        let winner = match combination(&setting.key) {
            Combination::Adding => None,
            Combination::Last => alike().next_back().filter(|(n, other)| foreign(*n) && other.value != setting.value),
            // Only a service with Type=oneshot may have more than one command.
            Combination::List if setting.key == "ExecStart" && !is_oneshot(&all) => {
                alike().find(|(n, other)| foreign(*n) && other.value != setting.value)
            }
            Combination::List => None,
        };
        let is_lost =
            combination(&setting.key) == Combination::List && !alike().any(|(_, other)| other.value == setting.value);
        let reset = || {
            let of_family =
                |other: &Setting| other.section == setting.section && family(&other.key) == family(&setting.key);
            all.resets.iter().rfind(|(n, other)| foreign(*n) && of_family(other))
        };
        let winner = winner.or_else(|| if is_lost { reset() } else { None });
        if let Some((winner, by)) = winner
            && seen.insert(key)
        {
            let words = if by.value.is_empty() {
                format!("{}= is in force, not ours", by.key)
            } else if by.key == "ExecStart" && !is_lost {
                format!("ExecStart={} is a second command, and systemd loads no unit with two", by.value)
            } else {
                format!("{}={} is in force, not {}", by.key, by.value, setting.value)
            };
            found.push(Override {
                path: files[*winner].path.clone(),
                line: Some(by.line),
                overridden: files[*n].path.clone(),
                words,
                is_tuning: TUNING.iter().any(|prefix| setting.key.starts_with(prefix)),
            });
        }
    }
    for ((n, _), (winner, by), variable) in overridden_variables(&all, &wanted, &foreign, read) {
        let source = if by.key == "EnvironmentFile" { by.value.trim_start_matches('-') } else { "Environment=" };
        found.push(Override {
            path: files[winner].path.clone(),
            line: Some(by.line),
            overridden: files[n].path.clone(),
            words: format!("the variable {variable} has the value of {source}, not ours"),
            is_tuning: false,
        });
    }
    found
}

fn is_oneshot(all: &InForce<'_>) -> bool {
    all.assignments.iter().any(|(_, setting)| setting.key == "Type" && setting.value == "oneshot")
}

/// Our variables that another assignment changes or removes: our assignment, the other one, and the variable.
/// `EnvironmentFile=` overrides `Environment=` (systemd.exec(5)).
fn overridden_variables<'a>(
    all: &InForce<'a>,
    wanted: &InForce<'a>,
    foreign: &dyn Fn(usize) -> bool,
    read: &dyn Fn(&str) -> String,
) -> Vec<(Assignment<'a>, Assignment<'a>, String)> {
    let sources = |set: &InForce<'a>| -> Vec<(Assignment<'a>, Vec<(String, String)>)> {
        let assignments = |key: &'static str| set.assignments.iter().filter(move |(_, setting)| setting.key == key);
        let plain = assignments("Environment").map(|assignment| (*assignment, variables(&assignment.1.value)));
        let file = |assignment: &Assignment<'a>| {
            let text = read(assignment.1.value.trim_start_matches('-'));
            let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
            let pairs = lines.filter_map(|line| line.split_once('='));
            let pairs =
                pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().trim_matches(['"', '\'']).to_owned()));
            (*assignment, pairs.collect())
        };
        plain.chain(assignments("EnvironmentFile").map(file)).collect()
    };
    let last = |sources: &[(Assignment<'a>, Vec<(String, String)>)]| {
        let mut last: BTreeMap<String, (Assignment<'a>, String)> = BTreeMap::new();
        for (assignment, pairs) in sources {
            last.extend(pairs.iter().map(|(name, value)| (name.clone(), (*assignment, value.clone()))));
        }
        last
    };
    let (ours, theirs) = (last(&sources(wanted)), last(&sources(all)));
    let mut found = Vec::new();
    for (name, (own, value)) in ours {
        let reset = || all.resets.iter().rfind(|(n, by)| foreign(*n) && by.key == own.1.key).copied();
        let winner = match theirs.get(&name) {
            Some((by, other)) => (other != &value && foreign(by.0)).then_some(*by),
            // Another override reports an environment file that is no longer read.
            None if own.1.key == "Environment" => reset(),
            None => None,
        };
        found.extend(winner.map(|winner| (own, winner, name)));
    }
    found
}

/// The variables of `Environment=`, whose words may be quoted.
fn variables(value: &str) -> Vec<(String, String)> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in value.chars() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Whether a file belongs to a unit: it defines the unit, or is a drop-in.
pub fn concerns(unit: &str, path: &str) -> bool {
    let Some(rest) = LOAD_PATH.iter().find_map(|directory| path.strip_prefix(directory)?.strip_prefix('/')) else {
        return false;
    };
    let is_drop_in = |(directory, file): (&str, &str)| {
        let (directories, of_type) = drop_in_names(unit);
        file.ends_with(".conf") && (of_type == directory || directories.iter().any(|name| name == directory))
    };
    rest == unit || rest.split_once('/').is_some_and(is_drop_in)
}

/// Whether two paths are the same if `/lib` is a link to `/usr/lib`.
pub(crate) fn same_path(one: &str, other: &str) -> bool {
    let plain = |path: &str| path.strip_prefix("/usr/lib/").map_or(path.to_owned(), |rest| format!("/lib/{rest}"));
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fs::Owner;

    fn file(path: &str, text: &str) -> UnitFile {
        UnitFile { path: path.into(), text: text.into() }
    }

    const OURS: &str = "/etc/systemd/system/x.service.d/10-ours.conf";
    const THEIRS: &str = "/etc/systemd/system/x.service.d/50-theirs.conf";

    #[test]
    fn the_names_of_drop_in_directories() {
        assert_eq!(drop_in_names("a.socket"), (vec!["a.socket.d".into()], "socket.d".into()));
        let (names, _) = drop_in_names("a-b-c.service");
        assert_eq!(names, ["a-b-c.service.d", "a-b-.service.d", "a-.service.d"]);
        let (names, _) = drop_in_names("a-b@1-2.service");
        assert_eq!(names, ["a-b@1-2.service.d", "a-b@.service.d", "a-.service.d"]);
        let _ = (drop_in_names(""), drop_in_names("-"), drop_in_names("---.service"), drop_in_names("@"));
    }

    #[test]
    fn settings_with_comments_and_continued_lines() {
        let text = "[Service]\n# Exec=no\nExecStart = /a \\\n  # between\n  --b\n;x=y\n[Unit]\nA=\n";
        let found: Vec<_> = settings(text).into_iter().map(|s| (s.section, s.key, s.value, s.line)).collect();
        let one = ("Service".into(), "ExecStart".into(), "/a  --b".into(), 3);
        assert_eq!(found, [one, ("Unit".into(), "A".into(), String::new(), 8)]);
    }

    #[test]
    fn overrides_of_our_drop_in_are_found() {
        let docker = "[Service]\nExecStart=\nExecStart=/d --ours\nEnvironment=A=1 B=2\nRestart=always\n";
        let condition = "[Unit]\nConditionPathExists=/ready\nAfter=a.service\n";
        let read = |path: &str| if path == "/vars" { "# B=7\nB=3\n".to_owned() } else { String::new() };
        for (what, ours, theirs, wins) in [
            ("another command", docker, "[Service]\nExecStart=\nExecStart=/d -H fd://\n", Some((3, false))),
            ("a second command", docker, "[Service]\nExecStart=/d -H fd://\n", Some((2, false))),
            ("a reset and no command", docker, "[Service]\nExecStart=\n", Some((2, false))),
            ("the same command", docker, "[Service]\nExecStart=\nExecStart=/d --ours\n", None),
            ("a command before", docker, "[Service]\nExecStartPre=/x\n", None),
            ("another value of a variable", docker, "[Service]\nEnvironment=\"B=3\"\n", Some((2, false))),
            ("a file with another value", docker, "[Service]\nEnvironmentFile=-/vars\n", Some((2, false))),
            ("a file without ours", docker, "[Service]\nEnvironmentFile=/none\n", None),
            (
                "a reset, and one of the variables",
                docker,
                "[Service]\nEnvironment=\nEnvironment=A=1\n",
                Some((2, false)),
            ),
            ("another variable", docker, "[Service]\nEnvironment=C=3\n", None),
            ("no variables", docker, "[Service]\n\nEnvironment=\n", Some((3, false))),
            ("a reset, and the same variables", docker, "[Service]\nEnvironment=\nEnvironment=A=1 B=2\n", None),
            ("other restarts", docker, "[Service]\nRestart=no\n", Some((2, true))),
            ("a limit", docker, "[Service]\nLimitNOFILE=1\n", None),
            ("another section", docker, "[X-Mine]\nExecStart=\n", None),
            ("no conditions", condition, "[Unit]\nConditionHost=\n", Some((2, false))),
            ("one more condition", condition, "[Unit]\nConditionHost=x\n", None),
            ("a dependency", condition, "[Unit]\nAfter=\nAfter=b.service\n", None),
            ("a comment", docker, "[Service]\n#ExecStart=\n", None),
        ] {
            let package = file("/lib/systemd/system/x.service", "[Service]\nExecStart=/d\nRestart=no\n");
            let files = [package.clone(), file(OURS, ours), file(THEIRS, theirs)];
            let found = find_overrides(&files, &[OURS.into()], &[], &read);
            let first = found.first().map(|winner| (winner.line.unwrap(), winner.is_tuning));
            assert_eq!(first, wins, "{what}: {found:?}");
            assert!(found.iter().all(|winner| winner.path == THEIRS && winner.overridden == OURS), "{what}: {found:?}");
            // The other drop-in comes before ours, and ours resets the list again.
            let before = [package, file("/etc/a.conf", theirs), file(OURS, docker)];
            if ours == docker && what != "other restarts" {
                let is_late = theirs.contains("/vars");
                assert_eq!(find_overrides(&before, &[OURS.into()], &[], &read).is_empty(), !is_late, "{what}");
            }
        }
    }

    #[test]
    fn overrides_of_our_unit_are_found() {
        let ours = "/lib/systemd/system/x.service";
        let none = |_: &str| String::new();
        let unit = "[Service]\nExecStart=/a\nEnvironmentFile=/e\nRestartSec=5\n";
        let by = |theirs: &str| {
            find_overrides(
                &[file("/usr/lib/systemd/system/x.service", unit), file(THEIRS, theirs)],
                &[ours.into()],
                &[],
                &none,
            )
        };
        assert_eq!(by("[Service]\nExecStart=/b\n")[0].line, Some(2), "two commands");
        assert_eq!(by("[Service]\nEnvironmentFile=\n")[0].line, Some(2));
        assert_eq!(by("[Service]\nEnvironmentFile=/more\n"), []);
        assert!(by("[Service]\nRestartSec=9\n")[0].is_tuning);
        assert_eq!(by("[Service]\nType=oneshot\nExecStart=/b\n"), []);
        // Another unit takes precedence.
        let shadow = file("/etc/systemd/system/x.service", "[Service]\nExecStart=/b\n");
        let found = find_overrides(std::slice::from_ref(&shadow), &[ours.into()], &[file(ours, unit)], &none);
        assert_eq!((found.len(), found[0].place(), found[0].overridden.as_str()), (1, shadow.path, ours));
        assert_eq!(
            find_overrides(&[file("/etc/systemd/system/x.service", unit)], &[ours.into()], &[file(ours, unit)], &none),
            []
        );
    }

    #[test]
    fn files_in_the_order_in_which_systemd_reads_them() {
        let (_directory, host) = Host::temporary();
        for path in [
            "/lib/systemd/system/a-b.service",
            "/lib/systemd/system/a-b.service.d/10-x.conf",
            "/etc/systemd/system/a-.service.d/10-x.conf",
            "/run/systemd/system/service.d/00-all.conf",
            "/run/systemd/system.control/a-b.service.d/50-Limit.conf",
            "/etc/systemd/system/a-b.service.d/20-old.conf",
            "/etc/systemd/system/a-b.service.d/notes.txt",
            "/etc/systemd/system/a-b.service.d/.hidden.conf",
            "/etc/systemd/system/b.service.d/10-y.conf",
        ] {
            host.write(path, path.as_bytes(), 0o644, Owner::ROOT).unwrap();
        }
        host.link("/etc/systemd/system/a-b.service", "/dev/null").unwrap();
        let planned = BTreeMap::from([
            ("/etc/systemd/system/a-b.service.d/20-old.conf".to_owned(), Vec::new()),
            ("/etc/systemd/system/a-b.service.d/30-new.conf".to_owned(), b"new".to_vec()),
        ]);
        let files = host.unit_files("a-b.service", &planned).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let expected = [
            "/lib/systemd/system/a-b.service",
            "/run/systemd/system/service.d/00-all.conf",
            "/etc/systemd/system/a-.service.d/10-x.conf",
            "/etc/systemd/system/a-b.service.d/30-new.conf",
            "/run/systemd/system.control/a-b.service.d/50-Limit.conf",
        ];
        assert_eq!(paths, expected);
        assert_eq!((files[1].text.as_str(), files[3].text.as_str()), (expected[1], "new"));
        assert_eq!(host.unit_files("no.service", &BTreeMap::new()).unwrap()[..0], []);
    }
}
