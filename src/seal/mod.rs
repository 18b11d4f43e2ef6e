//! Turns a builder into an image: removes the builder's traces, then checks that none is left.

pub mod builder;
pub mod rules;

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::host::fs::mounts::Mounts;
use crate::host::image::clear::{Clear, Cleared, Stands};
use crate::host::image::search::{Bounds, Found};
use crate::host::systemd::Job;
use builder::{Builder, is_key};
use rules::{REWRITTEN, Rule, homes, rules};

/// This program's state of the boot. The program holds the lock in it until the end.
const RUNTIME: &str = "/run/titus-bootstrap";

/// The maximum size of an authorized_keys file.
const KEYS_LIMIT: u64 = 1 << 20;

/// The interval of progress messages of a long search.
const NEXT_WORD: Duration = Duration::from_secs(10);

/// Something in the tree that must not be in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Residue {
    /// Its path.
    pub path: String,
    /// What it is, or why it could not be removed.
    pub why: String,
}

/// Something removed below a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Removal {
    /// Its path.
    pub path: String,
    /// What it was.
    pub what: &'static str,
    /// The number of files, links and the like.
    pub files: u64,
}

/// The result.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct SealReport {
    /// Removal items, in the order of removal.
    pub removed: Vec<Removal>,
    /// Items that are left; if empty, the tree is ready to become an image.
    pub left: Vec<Residue>,
    /// Descriptions of the texts that were searched for, e.g. `the builder's instance id`.
    pub searched_for: Vec<&'static str>,
    /// Number of searched files.
    pub files: u64,
    /// Number of searched bytes.
    pub bytes: u64,
    /// Notices.
    pub notices: Vec<String>,
}

/// Cleans the tree, unless `only_look` is set, and audits all of it.
///
/// # Errors
/// Fails when the program cannot determine what to do. A file that it could not remove or read is not an error;
/// [`SealReport::left`] lists it.
pub fn seal(host: &Host, builder: &Builder, only_look: bool) -> Result<SealReport> {
    let mounts = host.mounts()?;
    let mut sealed = SealReport { notices: builder.notices.clone(), ..SealReport::default() };
    sealed.searched_for = builder.traces.iter().map(|trace| trace.what).collect();
    sealed.searched_for.dedup();
    // List these before anything is removed: afterwards, the homes and Docker's data root could be unknown.
    let known = rules(host)?;
    if !only_look {
        stop_seed(host, &mut sealed);
        clean(host, &known, &mounts, &mut sealed);
        clear_keys(host, builder, &mounts, &mut sealed);
    }
    search(host, builder, &known, &mounts, only_look, &mut sealed)?;
    if !only_look {
        // Services kept writing in the meantime.
        clean(host, &known, &mounts, &mut sealed);
        host.sync_all();
    }
    audit_rules(host, &known, &mounts, &mut sealed);
    audit_keys(host, builder, &mut sealed);
    if !only_look {
        clear_runtime(host, &mounts, &mut sealed);
    }
    sealed.left.sort();
    sealed.left.dedup_by(|one, other| one.path == other.path);
    Ok(sealed)
}

impl SealReport {
    fn leave(&mut self, path: &str, why: impl Into<String>) {
        self.left.push(Residue { path: path.to_owned(), why: why.into() });
    }

    fn count(&mut self, path: &str, what: &'static str, files: u64) {
        if files == 0 {
            return;
        }
        match self.removed.iter_mut().find(|removed| removed.path == path) {
            Some(removed) => removed.files += files,
            None => self.removed.push(Removal { path: path.to_owned(), what, files }),
        }
    }
}

/// systemd writes a new random seed when this unit stops, which would be at the builder's shutdown.
fn stop_seed(host: &Host, sealed: &mut SealReport) {
    const UNIT: &str = "systemd-random-seed.service";
    if !host.has_systemd().unwrap_or(false) {
        return;
    }
    let stopped =
        host.unit(UNIT).and_then(|unit| if unit.is_active() { host.change_unit(Job::Stop(UNIT)) } else { Ok(()) });
    if let Err(error) = stopped {
        sealed
            .leave("/var/lib/systemd/random-seed", format!("random seed: systemd will write it again: {}", error.what));
    }
}

fn clean(host: &Host, rules: &[Rule], mounts: &Mounts, sealed: &mut SealReport) {
    for Rule { path, clear, what } in rules {
        let Some(clear) = clear else { continue };
        if link_target(host, path, *clear).is_some() {
            continue;
        }
        let mut cleared = Cleared::default();
        host.clear(path, *clear, mounts, &mut cleared);
        sealed.count(path, what, cleared.files);
        for (path, why) in cleared.left {
            sealed.leave(&path, format!("{what}: cannot remove it: {why}"));
        }
    }
}

/// The target of a link whose rule removes single files, if the target exists. Without the link, nobody
/// would find the file behind it.
fn link_target(host: &Host, path: &str, clear: Clear) -> Option<String> {
    if clear != Clear::Whole {
        return None;
    }
    let EntryKind::Link(target) = host.entry(path).ok()??.kind else { return None };
    let hides = !matches!(host.read(path), Ok(None)) && target.as_os_str() != "/dev/null";
    hides.then(|| target.display().to_string())
}

fn audit_rules(host: &Host, rules: &[Rule], mounts: &Mounts, sealed: &mut SealReport) {
    for Rule { path, clear, what } in rules {
        // A rule that only reports means a file, or a directory that is not empty.
        let is_directory = matches!(host.entry(path), Ok(Some(entry)) if entry.kind == EntryKind::Directory);
        let clear = clear.unwrap_or(if is_directory { Clear::Contents } else { Clear::Whole });
        if let Some(target) = link_target(host, path, clear) {
            sealed.leave(
                path,
                format!("{what}: is a symbolic link to {target}, and links are not followed: remove both"),
            );
            continue;
        }
        match host.stands(path, clear, mounts) {
            Ok(Stands::Nothing) => {}
            Ok(Stands::Something) => sealed.leave(path, *what),
            Ok(Stands::BehindLink(link)) => {
                sealed.leave(path, format!("{what}: {link} is a symbolic link, and links are not followed"))
            }
            Err(error) => sealed.leave(path, format!("{what}: cannot inspect it: {error}")),
        }
    }
}

/// For each key in a home's authorized_keys: whether it is the builder's.
fn read_keys(host: &Host, builder: &Builder, path: &str) -> std::io::Result<Vec<bool>> {
    let text = host.read_plain(path, KEYS_LIMIT)?.unwrap_or_default();
    let own = builder.keys.as_deref().unwrap_or_default();
    let lines = String::from_utf8_lossy(&text).into_owned();
    let keys = lines.lines().filter(|line| !line.trim_start().starts_with('#'));
    let keys = keys.filter_map(|line| line.split_whitespace().find(|word| is_key(word)));
    Ok(keys.map(|key| own.iter().any(|own| own == key)).collect())
}

fn key_files(host: &Host) -> Vec<String> {
    homes(host).iter().map(|home| format!("{home}/.ssh/authorized_keys")).collect()
}

/// Empties an authorized_keys file that contains only the builder's key pair.
fn clear_keys(host: &Host, builder: &Builder, mounts: &Mounts, sealed: &mut SealReport) {
    for path in key_files(host) {
        let only_own =
            read_keys(host, builder, &path).is_ok_and(|keys| !keys.is_empty() && keys.iter().all(|own| *own));
        if only_own {
            let mut cleared = Cleared::default();
            host.clear(&path, Clear::Emptied, mounts, &mut cleared);
            sealed.count(&path, "public key of the builder's key pair", cleared.files);
        }
    }
}

/// Reports keys that may or may not be the builder's. The search finds those that are known to be.
fn audit_keys(host: &Host, builder: &Builder, sealed: &mut SealReport) {
    for path in key_files(host) {
        match read_keys(host, builder, &path) {
            Ok(keys) if !keys.is_empty() && builder.keys.is_none() => sealed.leave(
                &path,
                "keys, and no metadata service says which is the builder's: empty the file, or put the keys of people into another file (sshd_config(5), AuthorizedKeysFile)",
            ),
            Ok(_) => {}
            Err(error) => sealed.leave(&path, format!("cannot read it: {error}")),
        }
    }
}

fn search(
    host: &Host,
    builder: &Builder,
    rules: &[Rule],
    mounts: &Mounts,
    only_look: bool,
    sealed: &mut SealReport,
) -> Result<()> {
    let passed_over = rules::skip_filter(host, rules)?;
    let mut hits: Vec<(String, usize, bool)> = Vec::new();
    let mut unreadable = Vec::new();
    let (mut files, mut bytes, mut last_word) = (0, 0, Instant::now());
    host.search(&builder.texts(), mounts, &passed_over, &mut |found| match found {
        Found::InName(path, n) => hits.push((path.to_owned(), n, true)),
        Found::InContents(path, n) => hits.push((path.to_owned(), n, false)),
        Found::Unreadable(path, error) => unreadable.push((path.to_owned(), error.to_string())),
        Found::Progress(so_far, read) => {
            (files, bytes) = (so_far, read);
            if last_word.elapsed() >= NEXT_WORD {
                tracing::info!("searched {so_far} files, {} MiB", read >> 20);
                last_word = Instant::now();
            }
        }
    });
    (sealed.files, sealed.bytes) = (files, bytes);
    for (path, why) in unreadable {
        sealed.leave(&path, format!("cannot search it: {why}"));
    }
    for (path, n, in_name) in hits {
        let Some(trace) = builder.traces.get(n) else { continue };
        // The documentation of many packages contains numbers that look like an address.
        if trace.bounds == Bounds::Address && !in_name && is_packaged(host, &path)? {
            continue;
        }
        if !in_name && REWRITTEN.contains(&path.as_str()) && !only_look {
            let mut cleared = Cleared::default();
            host.clear(&path, Clear::Whole, mounts, &mut cleared);
            if cleared.left.is_empty() {
                sealed.count(&path, "what an instance writes again", cleared.files);
                continue;
            }
        }
        let place = if in_name { "its name" } else { "it" };
        sealed.leave(&path, format!("{place} has {}, {}", trace.what, shorten(&trace.text)));
    }
    Ok(())
}

/// Shortens a trace; a key is long.
fn shorten(text: &str) -> String {
    if text.len() <= 64 { text.to_owned() } else { format!("{}…", text.chars().take(40).collect::<String>()) }
}

/// Whether dpkg installed the file, so that it is the same on every machine. Never true below /etc, where people edit files.
fn is_packaged(host: &Host, path: &str) -> Result<bool> {
    const INFO: &str = "/var/lib/dpkg/info";
    if path.starts_with("/etc/") {
        return Ok(false);
    }
    // Packages list /lib/x for files in /usr/lib/x, because /lib is a link.
    let other = path.strip_prefix("/usr").unwrap_or(path);
    for name in host.list(INFO)?.iter().filter(|name| name.ends_with(".list")) {
        let list = host.read_text(&format!("{INFO}/{name}"))?.unwrap_or_default();
        if list.lines().any(|line| line == path || line == other) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes this program's lock and its directory, if /run is a part of the image.
fn clear_runtime(host: &Host, mounts: &Mounts, sealed: &mut SealReport) {
    let mut cleared = Cleared::default();
    for path in [crate::host::lock::LOCK, crate::host::lock::KEEP_LOCK] {
        host.clear(path, Clear::Whole, mounts, &mut cleared);
    }
    if host.names_in(RUNTIME).is_ok_and(|names| names.is_empty()) {
        host.clear(RUNTIME, Clear::Whole, mounts, &mut cleared);
    }
    for (path, why) in cleared.left {
        sealed.leave(&path, format!("cannot remove it: {why}"));
    }
}

#[cfg(test)]
mod tests;
