//! From a builder to an image: removes what a builder leaves, then looks whether anything is left.

pub mod builder;
pub mod rules;

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::host::Host;
use crate::host::fs::look::EntryKind;
use crate::host::fs::mounts::Mounts;
use crate::host::image::clear::{Clear, Cleared, Stands};
use crate::host::image::search::{Bounds, Found};
use crate::host::systemd::Job;
use builder::{Builder, is_key};
use rules::{Rule, WRITTEN_ANEW, homes, rules};

/// Our own state of this boot; the lock in it is held until the end.
const RUNTIME: &str = "/run/titus-bootstrap";

/// An authorized_keys larger than that is none.
const KEYS_LIMIT: u64 = 1 << 20;

/// How often a long search says how far it is.
const NEXT_WORD: Duration = Duration::from_secs(10);

/// What must not be in an image and is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Left {
    /// Where.
    pub path: String,
    /// What it is, or why it could not be removed.
    pub why: String,
}

/// What was removed below a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Where.
    pub path: String,
    /// What it was.
    pub what: &'static str,
    /// How many files, links and the like.
    pub files: u64,
}

/// How it ended.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Sealed {
    /// In the order of removal.
    pub removed: Vec<Removed>,
    /// Empty: the tree is fit for an image.
    pub left: Vec<Left>,
    /// What was searched for: `the builder's instance id`.
    pub searched_for: Vec<&'static str>,
    /// How many files were searched.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// What should be known.
    pub notices: Vec<String>,
}

/// Cleans, unless it is only to look, and audits the whole tree.
///
/// # Errors
/// When there is no telling what would have to be done. What could not be removed or read is no error,
/// it is in [`Sealed::left`].
pub fn seal(host: &Host, builder: &Builder, only_look: bool) -> Result<Sealed> {
    let mounts = host.mounts()?;
    let mut sealed = Sealed { notices: builder.notices.clone(), ..Sealed::default() };
    sealed.searched_for = builder.traces.iter().map(|trace| trace.what).collect();
    sealed.searched_for.dedup();
    // Listed before anything goes: who had a home, and where Docker's data are.
    let known = rules(host)?;
    if !only_look {
        stop_seed(host, &mut sealed);
        clean(host, &known, &mounts, &mut sealed);
        clear_keys(host, builder, &mounts, &mut sealed);
    }
    search(host, builder, &known, &mounts, only_look, &mut sealed)?;
    if !only_look {
        // Services went on writing meanwhile.
        clean(host, &known, &mounts, &mut sealed);
        host.sync_all();
    }
    look(host, &known, &mounts, &mut sealed);
    look_at_keys(host, builder, &mut sealed);
    if !only_look {
        clear_runtime(host, &mounts, &mut sealed);
    }
    sealed.left.sort();
    sealed.left.dedup_by(|one, other| one.path == other.path);
    Ok(sealed)
}

impl Sealed {
    fn leave(&mut self, path: &str, why: impl Into<String>) {
        self.left.push(Left { path: path.to_owned(), why: why.into() });
    }

    fn count(&mut self, path: &str, what: &'static str, files: u64) {
        if files == 0 {
            return;
        }
        match self.removed.iter_mut().find(|removed| removed.path == path) {
            Some(removed) => removed.files += files,
            None => self.removed.push(Removed { path: path.to_owned(), what, files }),
        }
    }
}

/// systemd writes the random seed anew when this unit stops, which would be at the builder's shutdown.
fn stop_seed(host: &Host, sealed: &mut Sealed) {
    const UNIT: &str = "systemd-random-seed.service";
    if !host.has_systemd().unwrap_or(false) {
        return;
    }
    let stopped =
        host.unit(UNIT).and_then(|unit| if unit.is_active() { host.change_unit(Job::Stop(UNIT)) } else { Ok(()) });
    if let Err(error) = stopped {
        sealed.leave("/var/lib/systemd/random-seed", format!("random seed: will be written again: {}", error.what));
    }
}

fn clean(host: &Host, rules: &[Rule], mounts: &Mounts, sealed: &mut Sealed) {
    for Rule { path, clear, what } in rules {
        let Some(clear) = clear else { continue };
        if leads_to_another(host, path, *clear).is_some() {
            continue;
        }
        let mut cleared = Cleared::default();
        host.clear(path, *clear, mounts, &mut cleared);
        sealed.count(path, what, cleared.files);
        for (path, why) in cleared.left {
            sealed.leave(&path, format!("{what}: cannot be removed: {why}"));
        }
    }
}

/// Where a link of a rule that removes single files leads, if something is there: without the link nobody
/// would find what it hides.
fn leads_to_another(host: &Host, path: &str, clear: Clear) -> Option<String> {
    if clear != Clear::Whole {
        return None;
    }
    let EntryKind::Link(target) = host.entry(path).ok()??.kind else { return None };
    let hides = !matches!(host.read(path), Ok(None)) && target.as_os_str() != "/dev/null";
    hides.then(|| target.display().to_string())
}

fn look(host: &Host, rules: &[Rule], mounts: &Mounts, sealed: &mut Sealed) {
    for Rule { path, clear, what } in rules {
        // What is only told is a file, or a directory with something in it.
        let is_directory = matches!(host.entry(path), Ok(Some(entry)) if entry.kind == EntryKind::Directory);
        let clear = clear.unwrap_or(if is_directory { Clear::Contents } else { Clear::Whole });
        if let Some(target) = leads_to_another(host, path, clear) {
            sealed.leave(path, format!("{what}: is a symbolic link to {target}, and none is followed: remove both"));
            continue;
        }
        match host.stands(path, clear, mounts) {
            Ok(Stands::Nothing) => {}
            Ok(Stands::Something) => sealed.leave(path, *what),
            Ok(Stands::BehindLink(link)) => {
                sealed.leave(path, format!("{what}: {link} is a symbolic link, and none is followed"))
            }
            Err(error) => sealed.leave(path, format!("{what}: cannot be looked at: {error}")),
        }
    }
}

/// The lines of a home's authorized_keys that hold keys, and whether each is the builder's.
fn keys_of(host: &Host, builder: &Builder, path: &str) -> std::io::Result<Vec<bool>> {
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

/// Empties an authorized_keys in which nothing but the builder's key pair stands.
fn clear_keys(host: &Host, builder: &Builder, mounts: &Mounts, sealed: &mut Sealed) {
    for path in key_files(host) {
        let only_own = keys_of(host, builder, &path).is_ok_and(|keys| !keys.is_empty() && keys.iter().all(|own| *own));
        if only_own {
            let mut cleared = Cleared::default();
            host.clear(&path, Clear::Emptied, mounts, &mut cleared);
            sealed.count(&path, "public key of the builder's key pair", cleared.files);
        }
    }
}

/// Keys of which nobody knows whether they are the builder's. Its own are found by the search.
fn look_at_keys(host: &Host, builder: &Builder, sealed: &mut Sealed) {
    for path in key_files(host) {
        match keys_of(host, builder, &path) {
            Ok(keys) if !keys.is_empty() && builder.keys.is_none() => sealed.leave(
                &path,
                "keys, and no metadata service tells which is the builder's: empty it, or put the keys of people into another file (sshd_config(5), AuthorizedKeysFile)",
            ),
            Ok(_) => {}
            Err(error) => sealed.leave(&path, format!("cannot be read: {error}")),
        }
    }
}

fn search(
    host: &Host,
    builder: &Builder,
    rules: &[Rule],
    mounts: &Mounts,
    only_look: bool,
    sealed: &mut Sealed,
) -> Result<()> {
    let passed_over = rules::passed_over(host, rules)?;
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
        sealed.leave(&path, format!("cannot be searched: {why}"));
    }
    for (path, n, in_name) in hits {
        let Some(trace) = builder.traces.get(n) else { continue };
        // Numbers that look like an address stand in many a package's documentation.
        if trace.bounds == Bounds::Address && !in_name && is_packaged(host, &path)? {
            continue;
        }
        if !in_name && WRITTEN_ANEW.contains(&path.as_str()) && !only_look {
            let mut cleared = Cleared::default();
            host.clear(&path, Clear::Whole, mounts, &mut cleared);
            if cleared.left.is_empty() {
                sealed.count(&path, "what an instance writes anew", cleared.files);
                continue;
            }
        }
        let place = if in_name { "its name" } else { "it" };
        sealed.leave(&path, format!("{place} has {}, {}", trace.what, shortened(&trace.text)));
    }
    Ok(())
}

/// A key is long.
fn shortened(text: &str) -> String {
    if text.len() <= 64 { text.to_owned() } else { format!("{}…", text.chars().take(40).collect::<String>()) }
}

/// Whether dpkg installed the file: it is the same on every machine then. Not below /etc, which is there to be edited.
fn is_packaged(host: &Host, path: &str) -> Result<bool> {
    const INFO: &str = "/var/lib/dpkg/info";
    if path.starts_with("/etc/") {
        return Ok(false);
    }
    // Packages name /lib/x what lies in /usr/lib/x, since /lib is a link to it.
    let other = path.strip_prefix("/usr").unwrap_or(path);
    for name in host.list(INFO)?.iter().filter(|name| name.ends_with(".list")) {
        let list = host.read_text(&format!("{INFO}/{name}"))?.unwrap_or_default();
        if list.lines().any(|line| line == path || line == other) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Our lock, and its directory, where /run is a part of the image.
fn clear_runtime(host: &Host, mounts: &Mounts, sealed: &mut Sealed) {
    let mut cleared = Cleared::default();
    for path in [crate::host::lock::LOCK, crate::host::lock::KEEP_LOCK] {
        host.clear(path, Clear::Whole, mounts, &mut cleared);
    }
    if host.names_in(RUNTIME).is_ok_and(|names| names.is_empty()) {
        host.clear(RUNTIME, Clear::Whole, mounts, &mut cleared);
    }
    for (path, why) in cleared.left {
        sealed.leave(&path, format!("cannot be removed: {why}"));
    }
}

#[cfg(test)]
mod tests;
