//! Package sources, each a deb822 file with a pinned key (sources.list(5)).

use std::cell::RefCell;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::file::File;
use super::{Change, Claim, Planned, RawKind, State, StepKind, Work, hex};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::apt::openpgp;
use crate::host::apt::sources::{Repository, comment_out, conflict, repositories, restore_command};
use crate::host::apt::{self, Keyring, OUR_SOURCES as OURS, SOURCE_PARTS as SOURCES};
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::secrets::{has_credentials, masked};
use crate::settings::forms::texts;
use crate::settings::schema::{AptSource, Key, KeyByFingerprint, KeyBySha256};
use crate::template::{Renderer, Templated};

const KEYRINGS: &str = "/etc/apt/keyrings";
/// The maximum size of a key file, which usually has some kilobytes.
const KEY_LIMIT: usize = 1 << 20;

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawAptSource {
    sources: Templated<Vec<AptSource>>,
    distribution: Templated<String>,
    codename: Templated<String>,
}

/// All sources of the settings. The step removes sources of its own that the settings no longer contain.
#[derive(Debug, Clone, PartialEq)]
pub struct AptSources {
    sources: Vec<AptSource>,
    /// The prepared sources: the run writes exactly what it checked.
    prepared: RefCell<Option<Vec<apt::Source>>>,
}

impl RawAptSource {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<AptSources> {
        let (distribution, codename) = (self.distribution.get(renderer)?, self.codename.get(renderer)?);
        let mut sources = self.sources.get(renderer)?;
        for source in &mut sources {
            let filled = |text: &str| text.replace("{distribution}", &distribution).replace("{codename}", &codename);
            let wrong = |why| Error::config(format!("apt.sources: {}: {why}", source.name));
            for uri in &mut source.uris {
                *uri = filled(uri).parse().map_err(wrong)?;
            }
            for suite in &mut source.suites {
                *suite = filled(suite).parse().map_err(wrong)?;
            }
            check_key(source)?;
        }
        Ok(AptSources { sources, prepared: RefCell::default() })
    }
}

fn check_key(source: &AptSource) -> Result<()> {
    let wrong = |what: &str| Err(Error::config(format!("apt.sources: {}: {what}", source.name)));
    if source.uris.is_empty() || source.suites.is_empty() {
        return wrong("uris and suites must not be empty");
    }
    match &source.key {
        Key::Sha256(_) | Key::Path(_) => Ok(()),
        Key::Fingerprint(key) if !key.url.starts_with("https://") => {
            wrong("key.url must be https: a fingerprint pins the key, not the other contents of its file")
        }
        Key::Fingerprint(_) => Ok(()),
    }
}

fn paths(name: &str) -> (String, String) {
    (format!("{SOURCES}/{OURS}{name}.sources"), format!("{KEYRINGS}/{OURS}{name}.gpg"))
}

/// The text of the source file. Its comment ties the pin in the settings to the checked
/// keyring, so that neither can change without the other.
fn format_source(source: &AptSource, keyring: &str, key: &[u8]) -> String {
    let pin = match &source.key {
        Key::Path(path) => path.to_string(),
        Key::Sha256(key) => format!("sha256 {}", key.sha256.to_ascii_lowercase()),
        Key::Fingerprint(key) => format!("fingerprint {}", key.fingerprint.to_ascii_uppercase()),
    };
    let mut text = format!(
        "# Written by titus-bootstrap (setting apt.sources).\n# Key: {pin}; keyring: sha256 {}\nTypes: deb\nURIs: {}\nSuites: {}\n",
        hex(&Sha256::digest(key)),
        source.uris.join(" "),
        source.suites.join(" "),
    );
    if !source.components.is_empty() {
        text.push_str(&format!("Components: {}\n", source.components.join(" ")));
    }
    text.push_str(&format!("Signed-By: {keyring}\n"));
    text
}

impl AptSources {
    /// The program's files for sources that the settings no longer contain.
    fn surplus(&self, host: &Host) -> Result<Vec<String>> {
        let wanted = self.paths();
        let mut found = Vec::new();
        for directory in [SOURCES, KEYRINGS] {
            let ours = host.list(directory)?.into_iter().filter(|name| name.starts_with(OURS));
            found.extend(ours.map(|name| format!("{directory}/{name}")).filter(|path| !wanted.contains(path)));
        }
        Ok(found)
    }

    /// A source whose address contains credentials is readable only for root.
    fn mode(source: &AptSource) -> u32 {
        if source.uris.iter().any(|uri| has_credentials(uri)) { 0o600 } else { 0o644 }
    }

    /// The keyring, and the source file that refers to it.
    fn files(source: &AptSource, key: Vec<u8>) -> [File; 2] {
        let (file, keyring) = paths(&source.name);
        let text = format_source(source, &keyring, &key);
        [File::new(keyring, key, 0o644), File::new(file, text, Self::mode(source))]
    }

    /// Whether a source's files are correct, without any download.
    fn in_sync(&self, host: &Host, source: &AptSource) -> Result<bool> {
        let Some(key) = host.read(&paths(&source.name).1)? else { return Ok(false) };
        if let Key::Path(path) = &source.key
            && let Some(wanted) = host.read(path)?
            && openpgp::to_binary(&wanted).as_deref() != Ok(&key)
        {
            return Ok(false);
        }
        let [keyring, file] = Self::files(source, key);
        Ok(keyring.changes(host)?.is_empty() && file.changes(host)?.is_empty())
    }

    /// The sources as they will be in /etc/apt. Downloads missing keys, and
    /// checks every key against its pin.
    ///
    /// # Errors
    /// Fails when a key is unavailable or does not match its pin.
    fn prepare(&self, host: &Host) -> Result<Vec<apt::Source>> {
        if let Some(prepared) = self.prepared.borrow().as_ref() {
            return Ok(prepared.clone());
        }
        let mut prepared = Vec::new();
        for source in &self.sources {
            let (file, keyring) = paths(&source.name);
            let kept = if self.in_sync(host, source)? { host.read(&keyring)? } else { None };
            let key = match kept {
                Some(key) => key,
                None => self.fetch_key(host, source)?,
            };
            let text = format_source(source, &keyring, &key);
            prepared.push(apt::Source { path: file, text, keyring: Some(Keyring { path: keyring, key }) });
        }
        *self.prepared.borrow_mut() = Some(prepared.clone());
        Ok(prepared)
    }

    fn fetch_key(&self, host: &Host, source: &AptSource) -> Result<Vec<u8>> {
        let bytes = match &source.key {
            Key::Path(path) => {
                host.refuse_untrusted(Path::new(path.as_str()))?;
                host.read(path)?.ok_or_else(|| {
                    Error::config(format!("{}: {path} does not exist", place_of_key(source)))
                        .fix("put the key there, or set apt.sources")
                })?
            }
            Key::Sha256(KeyBySha256 { url, .. }) | Key::Fingerprint(KeyByFingerprint { url, .. }) => {
                host.download(url, KEY_LIMIT)?
            }
        };
        pinned(source, &bytes)
    }
}

fn place_of_key(source: &AptSource) -> String {
    format!("apt.sources: key of {}", source.name)
}

/// The key of a source in the form that apt reads, if it matches its pin.
fn pinned(source: &AptSource, bytes: &[u8]) -> Result<Vec<u8>> {
    let place = place_of_key(source);
    let wrong = |cause: String| Error::config(format!("{place} does not match its pin")).cause(cause);
    let is = hex(&Sha256::digest(bytes));
    if matches!(&source.key, Key::Sha256(key) if !is.eq_ignore_ascii_case(&key.sha256)) {
        return Err(wrong(format!("its sha256 is {is}")).fix("if you trust that key, set key.sha256 to this sum"));
    }
    let no_key = |e: String| Error::config(format!("{place} is not an OpenPGP key")).cause(e);
    let binary = openpgp::to_binary(bytes).map_err(no_key)?;
    let prints = openpgp::fingerprints(&binary).map_err(no_key)?;
    if let Key::Fingerprint(key) = &source.key
        && prints.iter().any(|print| !print.eq_ignore_ascii_case(&key.fingerprint))
    {
        return Err(wrong(format!("the file has {}", prints.join(", ")))
            .fix("if you trust that key, set key.fingerprint to its fingerprint"));
    }
    Ok(binary)
}

/// A repository in another file that contradicts one of the settings.
struct Contradiction<'a> {
    theirs: Repository,
    /// The option in question.
    option: &'static str,
    /// The source of the settings, and its value of the option.
    source: &'a AptSource,
    value: Option<String>,
}

/// Another program's file without the entries that contradict the settings.
struct TakenOver {
    path: String,
    text: String,
    /// The removed entries.
    repositories: Vec<String>,
}

impl AptSources {
    /// The repositories of each source.
    fn ours(&self) -> Vec<(&AptSource, Vec<Repository>)> {
        let found = |source: &AptSource| {
            let (file, keyring) = paths(&source.name);
            repositories(&file, &format_source(source, &keyring, &[]))
        };
        self.sources.iter().map(|source| (source, found(source))).collect()
    }

    fn contradiction(&self, other: &str, text: &str) -> Option<Contradiction<'_>> {
        let theirs = repositories(other, text);
        for (source, ours) in self.ours() {
            let comes_first = *other < *paths(&source.name).0;
            for (theirs, ours) in theirs.iter().flat_map(|theirs| ours.iter().map(move |ours| (theirs, ours))) {
                let option = if comes_first { conflict(theirs, ours) } else { conflict(ours, theirs) };
                if let Some(option) = option {
                    let value = ours.option(option).map(str::to_owned);
                    return Some(Contradiction { theirs: theirs.clone(), option, source, value });
                }
            }
        }
        None
    }

    /// Examines apt's other files, and refuses what would break apt for the whole node: a repository
    /// that another file lists with another key or other options. Returns the entries that the run may take out of their files.
    ///
    /// # Errors
    /// Fails with 69. The error names the file and the repository.
    fn take_over(&self, host: &Host) -> Result<Vec<TakenOver>> {
        let is_ours =
            |theirs: &Repository| self.ours().iter().any(|(_, ours)| ours.iter().any(|ours| ours.is_same(theirs)));
        let mut found = Vec::new();
        for (path, bytes) in host.other_sources()? {
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            let mut names = Vec::new();
            while let Some(contradiction) = self.contradiction(&path, &text) {
                let error = contradiction.error(&path);
                if !host.apt.take_over {
                    return Err(error);
                }
                if host.entry(&path)?.is_none_or(|entry| entry.kind != EntryKind::File) {
                    return Err(error.fix(format!("{path} is not a regular file, so apt.take_over does not change it: remove the repository from the file behind it")));
                }
                text = comment_out(&path, &text, &contradiction.theirs, is_ours).map_err(|other| {
                    contradiction.error(&path).fix(format!(
                        "the same stanza names {} {}, so apt.take_over does not change it: split the stanza into two in {path}",
                        masked(&other.uri),
                        other.suite
                    ))
                })?;
                names.push(contradiction.theirs.shown());
            }
            if !names.is_empty() {
                found.push(TakenOver { path, text, repositories: names });
            }
        }
        Ok(found)
    }

    /// Refuses sources in the settings that contradict one another.
    fn refuse_own_conflicts(&self) -> Result<()> {
        let all = self.ours();
        for (n, (source, ours)) in all.iter().enumerate() {
            for (other, theirs) in all.iter().skip(n + 1) {
                let pairs = ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs)));
                if let Some((ours, _)) = pairs.into_iter().find(|(ours, theirs)| ours.is_same(theirs)) {
                    let (one, two) = (&source.name, &other.name);
                    return Err(Error::config(format!("apt.sources: {one} and {two} both list {}", ours.shown()))
                        .cause("apt refuses one repository with two keyrings, and then it cannot install any package")
                        .fix(format!("remove {one} or {two} from the setting apt.sources")));
                }
            }
        }
        Ok(())
    }

    /// The present state of the files that the step will write or remove.
    fn read_present(&self, host: &Host, taken: &[TakenOver]) -> Result<Vec<(String, Option<Kept>)>> {
        let paths =
            self.paths().into_iter().chain(self.surplus(host)?).chain(taken.iter().map(|taken| taken.path.clone()));
        paths.map(|path| Ok((path.clone(), Kept::read(host, &path)?))).collect()
    }
}

/// The earlier contents of a file.
struct Kept {
    contents: Vec<u8>,
    mode: u32,
    owner: Owner,
}

impl Kept {
    fn read(host: &Host, path: &str) -> Result<Option<Kept>> {
        let Some(entry) = host.entry(path)?.filter(|entry| entry.kind == EntryKind::File) else { return Ok(None) };
        let contents = host.read(path)?.unwrap_or_default();
        Ok(Some(Kept { contents, mode: entry.mode, owner: Owner { uid: entry.uid, gid: entry.gid } }))
    }
}

impl Contradiction<'_> {
    fn error(&self, path: &str) -> Error {
        let Contradiction { theirs, option, source, value } = self;
        let shown = |value: Option<&str>| value.map_or("not set".to_owned(), masked);
        let differs = if *option == "signed-by" { "another key" } else { "other options" };
        Error::unavailable(format!("{path} lists {} with {differs}", theirs.shown()))
            .cause(format!(
                "its {option} is {}, but apt.sources.{} has {}; apt refuses the combination, and then it cannot install any package",
                shown(theirs.option(option)),
                source.name,
                shown(value.as_deref()),
            ))
            .fix(format!(
                "keep the repository in one place: remove it from {path}, let a run do that (--set apt.take_over=true), or remove {} from the setting apt.sources",
                source.name
            ))
    }
}

impl Repository {
    /// The repository's address, without secrets, and its suite.
    fn shown(&self) -> String {
        format!("{} {}", masked(&self.uri), self.suite)
    }
}

impl RawKind for RawAptSource {}

impl Work for AptSources {
    fn explain(&self) -> Vec<String> {
        let names: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        vec![match names.as_slice() {
            [] => "Keeps no source of packages: the settings have none.".to_owned(),
            names => {
                format!("Keeps these sources of packages in /etc/apt, each with its pinned key: {}.", names.join(", "))
            }
        }]
    }

    fn refuse(&self, host: &Host) -> Result<()> {
        self.refuse_own_conflicts()?;
        if !host.is_live() || !host.has_apt()? {
            return Ok(());
        }
        let may_change = !self.take_over(host)?.is_empty() || !self.surplus(host)?.is_empty();
        let mut changed = self.sources.iter().map(|source| Ok(!self.in_sync(host, source)?));
        // If other files broke apt, fix that first, unless this step is about to fix it.
        if !may_change && changed.any(|changed: Result<bool>| changed.unwrap_or(true)) {
            host.refuse_unreadable_sources()?;
        }
        Ok(())
    }

    fn sources(&self, host: &Host) -> Result<Vec<apt::Source>> {
        let taken = self.take_over(host)?.into_iter();
        let others = taken.map(|taken| apt::Source { path: taken.path, text: taken.text, keyring: None });
        Ok(self.prepare(host)?.into_iter().chain(others).collect())
    }

    /// Combines two steps: each would remove the other's sources as surplus.
    fn join(&mut self, other: &StepKind) -> bool {
        let StepKind::AptSource(others) = other else { return false };
        let new: Vec<_> = others.sources.iter().filter(|source| !self.sources.contains(source)).cloned().collect();
        self.sources.extend(new);
        true
    }

    fn claims(&self) -> Vec<Claim> {
        let words = |source: &AptSource| {
            let parts = [texts(&source.uris), texts(&source.suites), texts(&source.components)].concat();
            masked(&format!("{}, key {}", parts.join(" "), serde_json::json!(source.key)))
        };
        self.sources.iter().map(|source| Claim::new(format!("the apt source {}", source.name), words(source))).collect()
    }

    fn paths(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| <[String; 2]>::from(paths(&source.name))).collect()
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        let mut changes = Vec::new();
        for source in &self.sources {
            if !host.is_live() {
                return Ok(State::Deferred("package sources and their keys are not fetched with --root".into()));
            }
            if !self.in_sync(host, source)? {
                changes.push(Change::new(format!(
                    "write {} ({})",
                    paths(&source.name).0,
                    masked(&source.uris.join(" "))
                )));
            }
        }
        changes.extend(self.surplus(host)?.into_iter().map(|path| Change::new(format!("remove {path}"))));
        if host.is_live() {
            changes.extend(self.take_over(host)?.into_iter().map(|TakenOver { path, repositories, .. }| {
                let what = repositories.join(", ");
                Change::new(format!(
                    "turn {what} into a comment in {path} (apt.take_over; to undo: {})",
                    restore_command(&path)
                ))
            }));
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let taken = if host.is_live() { self.take_over(host)? } else { Vec::new() };
        let before = self.read_present(host, &taken)?;
        for path in self.surplus(host)? {
            host.remove(&path)?;
        }
        for TakenOver { path, text, .. } in &taken {
            let Some(Kept { mode, owner, .. }) = Kept::read(host, path)? else { continue };
            host.write(path, text.as_bytes(), mode, owner)?;
        }
        for (source, made) in self.sources.iter().zip(self.prepare(host)?) {
            let key = made.keyring.map(|keyring| keyring.key).unwrap_or_default();
            Self::files(source, key).iter().try_for_each(|file| file.converge(host))?;
        }
        if !host.is_live() || !host.has_apt()? {
            return Ok(());
        }
        let Err(error) = host.refuse_unreadable_sources() else { return Ok(()) };
        for (path, kept) in before {
            match kept {
                Some(Kept { contents, mode, owner }) => host.write(&path, &contents, mode, owner)?,
                None => host.remove(&path)?,
            }
        }
        let what = "apt cannot read its sources together with those of apt.sources, so the run removed them again";
        Err(Error { what: what.into(), ..error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::host::fs::Owner;

    #[test]
    fn a_repository_that_another_file_has_with_another_key_is_refused() {
        let sources = AptSources { sources: vec![source("'/k.asc'")], prepared: RefCell::default() };
        let uri = sources.sources[0].uris[0].clone();
        let suite = sources.sources[0].suites[0].clone();
        let line = |options: &str| format!("deb {options} {uri} {suite} stable\n");
        let at = |name: &str| format!("{SOURCES}/{name}");
        let refused = |path: String, text: String| Some(sources.contradiction(&path, &text)?.error(&path));
        let error = refused(at("docker.list"), line("[arch=amd64 signed-by=/etc/apt/keyrings/docker.asc]")).unwrap();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(
            error.what.contains("docker.list") && error.to_string().contains("/etc/apt/keyrings/docker.asc"),
            "{error}"
        );
        assert!(error.fix.unwrap().contains("remove x from the setting apt.sources"));
        let options = refused(at("docker.list"), line("[trusted=yes]")).unwrap();
        assert!(
            options.to_string().contains("other options") && options.to_string().contains("trusted is yes"),
            "{options}"
        );
        assert!(refused("/etc/apt/sources.list".to_owned(), line("[signed-by=/a]")).is_some());
        // Without its own key, an entry that apt reads first uses the key of the settings.
        assert!(refused(at("docker.list"), line("")).is_none());
        assert!(refused(at("zz.list"), line("")).is_some());
        assert!(refused(at("docker.list"), line("[signed-by=/etc/apt/keyrings/titus-bootstrap-x.gpg]")).is_none());
        assert!(refused(at("other.list"), "deb [signed-by=/a] http://other x main\n".to_owned()).is_none());
    }

    fn source(key: &str) -> AptSource {
        read_source(key).unwrap()
    }

    fn read_source(key: &str) -> Result<AptSource> {
        let read = toml::from_str(&format!(
            "name = 'x'\nuris = ['https://example.invalid/{{distribution}}']\nsuites = ['{{codename}}']\nkey = {key}"
        ));
        read.map_err(|error| Error::config(error.message()))
    }

    #[test]
    fn a_key_must_be_pinned_in_a_form_that_can_hold() {
        for key in [
            "'relative'",
            "{ url = 'https://x', sha256 = 'abc' }",
            "{ url = 'http://x', fingerprint = '9DC858229FC7DD38854AE2D88D81803C0EBFCD88' }",
        ] {
            read_source(key).and_then(|source| check_key(&source)).unwrap_err();
        }
        check_key(&source("{ url = 'https://x', fingerprint = '9DC858229FC7DD38854AE2D88D81803C0EBFCD88' }")).unwrap();
        let untyped: Result<AptSource, _> = toml::from_str("name='x'\nuris=[]\nsuites=[]\nkey={ url = 'https://x' }");
        assert!(untyped.unwrap_err().to_string().contains("{ url, fingerprint }"));
    }

    #[test]
    fn a_source_has_an_address_and_a_suite() {
        let whole = source("'/k.asc'");
        check_key(&whole).unwrap();
        for lacking in [
            AptSource { uris: Vec::new(), ..whole.clone() },
            AptSource { suites: Vec::new(), ..whole.clone() },
            AptSource { uris: Vec::new(), suites: Vec::new(), ..whole },
        ] {
            let error = check_key(&lacking).unwrap_err();
            assert_eq!(error.what, "apt.sources: x: uris and suites must not be empty");
        }
    }

    #[test]
    fn two_sources_of_the_settings_with_one_repository_are_refused() {
        let one = source("'/k.asc'");
        let named = |name: &str, suite: &str| AptSource {
            name: name.parse().unwrap(),
            suites: vec![suite.parse().unwrap()],
            ..one.clone()
        };
        let of = |sources: [AptSource; 3]| AptSources { sources: sources.to_vec(), prepared: RefCell::default() };
        of([named("a", "x"), named("b", "y"), named("c", "z")]).refuse_own_conflicts().unwrap();
        let error = of([named("a", "x"), named("b", "y"), named("c", "x")]).refuse_own_conflicts().unwrap_err();
        assert_eq!(error.kind, Kind::Config);
        assert!(error.what.starts_with("apt.sources: a and c both list "), "{error}");
    }

    #[test]
    fn a_key_must_match_its_pin() {
        let key = include_bytes!("../../tests/data/key.asc");
        let with_pin = |pin: &str, value: &str| source(&format!("{{ url = 'https://x', {pin} = '{value}' }}"));
        let print = openpgp::fingerprints(&openpgp::to_binary(key).unwrap()).unwrap().remove(0);
        let sum = hex(&Sha256::digest(key));
        for (pin, is) in [("sha256", &sum), ("fingerprint", &print)] {
            for right in [is.to_lowercase(), is.to_uppercase()] {
                assert_eq!(pinned(&with_pin(pin, &right), key).unwrap(), openpgp::to_binary(key).unwrap());
            }
            let error = pinned(&with_pin(pin, &"0".repeat(is.len())), key).unwrap_err();
            assert_eq!((error.kind, &*error.what), (Kind::Config, "apt.sources: key of x does not match its pin"));
            // The message has what the file is, to be compared and then set.
            assert!(error.to_string().contains(is.as_str()) && error.fix.unwrap().contains(pin));
        }
        let text = pinned(&source("'/k.asc'"), b"text").unwrap_err();
        assert_eq!(text.what, "apt.sources: key of x is not an OpenPGP key");
    }

    #[test]
    fn a_keyring_that_was_changed_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.write("/key.asc", include_bytes!("../../tests/data/key.asc"), 0o644, Owner::ROOT).unwrap();
        let step = AptSources { sources: vec![source("'/key.asc'")], prepared: RefCell::default() };
        step.converge(&host).unwrap();
        assert!(step.in_sync(&host, &step.sources[0]).unwrap());
        host.write("/etc/apt/keyrings/titus-bootstrap-x.gpg", b"other", 0o644, Owner::ROOT).unwrap();
        assert!(!step.in_sync(&host, &step.sources[0]).unwrap());
        host.set_attributes("/etc/apt/keyrings/titus-bootstrap-x.gpg", 0o600, Owner::ROOT).unwrap();
        assert!(!step.in_sync(&host, &step.sources[0]).unwrap());
        let none = AptSources { sources: vec![], prepared: RefCell::default() };
        none.converge(&host).unwrap();
        assert!(host.list("/etc/apt/sources.list.d").unwrap().is_empty());
    }
}
