//! This deb, given by path or by URL and SHA-256, is installed.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::path::Path;

use serde::Deserialize;

use super::deb_record::{self, Record, SourceFile, records};
use super::file::checked_path;
use super::{Change, Need, Planned, RawKind, State, Work};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::apt::{NotInstalled, Status, dpkg};
use crate::host::download::cache::{Stamp, cached_path};
use crate::host::failpoint::failpoint;
use crate::host::fs::Owner;
use crate::host::{Fetch, Host};
use crate::secrets::masked;
use crate::settings::Settings;
use crate::settings::schema;
use crate::template::{Renderer, Templated};

/// A file for each step, rewritten when its deb was installed, so that units restart. Units already run with a deb that was
/// installed before this boot.
const MARKS: &str = "/run/titus-bootstrap/debs";

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawDeb {
    source: Templated<schema::DebLocation>,
    /// The setting that contains it, for messages.
    setting: Option<String>,
}

/// A deb.
#[derive(Debug, Clone, PartialEq)]
pub struct DebStep {
    source: DebSource,
    /// The SHA-256, in lower case.
    sha256: Option<String>,
    setting: String,
    /// The file that changes when the deb was installed.
    pub mark: String,
    /// The SHA-256 of a file on the node, cached so that it is read only once.
    summed: RefCell<Option<(Stamp, String)>>,
    /// The package that this run installed; a download reveals it only then.
    installed: RefCell<Option<String>>,
}

#[derive(Debug, Clone, PartialEq)]
enum DebSource {
    Path(String),
    Url(String),
}

impl RawDeb {
    pub(super) fn resolve(&self, renderer: &Renderer, id: &str) -> Result<DebStep> {
        let setting = self.setting.clone().unwrap_or_else(|| format!("the source of step {id}"));
        if id.starts_with('.') || !id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
            return Err(Error::config("a step with a deb must have an id of letters, digits, `.`, `_`, `-`"));
        }
        DebStep::new(&self.source.get(renderer)?, setting, format!("{MARKS}/{id}"))
    }
}

impl DebStep {
    fn new(raw: &schema::DebLocation, setting: String, mark: String) -> Result<DebStep> {
        let wrong = |what: &str| {
            Error::config(format!("{setting}: {what}")).fix(format!(
                "write {setting} = {{ path = \"/path/to.deb\" }}, or {{ url = \"https://…\", sha256 = \"…\" }}"
            ))
        };
        let source = match (&raw.path, &raw.url) {
            (Some(path), None) => DebSource::Path(checked_path(path.to_string()).map_err(|error| wrong(&error.what))?),
            (None, Some(url)) => match url.split_once("://") {
                Some(("file", path)) => {
                    DebSource::Path(checked_path(path.to_owned()).map_err(|error| wrong(&error.what))?)
                }
                Some(("https" | "http", rest)) if !rest.is_empty() && url.chars().all(|c| c.is_ascii_graphic()) => {
                    DebSource::Url(url.to_string())
                }
                _ => return Err(wrong("url must begin with https://, http:// or file://, and have no blanks")),
            },
            (None, None) => return Err(wrong("needs a path or a url")),
            (Some(_), Some(_)) => return Err(wrong("has both a path and a url")),
        };
        let sha256 = raw.sha256.as_ref().map(|sum| sum.to_ascii_lowercase());
        Ok(DebStep { source, sha256, setting, mark, summed: RefCell::default(), installed: RefCell::default() })
    }

    /// The source, without secrets.
    fn shown(&self) -> String {
        match &self.source {
            DebSource::Path(path) => path.clone(),
            DebSource::Url(url) => masked(url),
        }
    }

    /// Refuses a deb from the network without a checksum.
    fn refuse_unpinned(&self, sum: Option<Result<String, Error>>) -> Result<()> {
        if self.sha256.is_some() || matches!(self.source, DebSource::Path(_)) {
            return Ok(());
        }
        let (setting, shown) = (&self.setting, self.shown());
        let refusal = Error::config(format!("{setting}: {shown} has no sha256"));
        Err(match sum {
            Some(Ok(sum)) => refusal
                .cause("a download is not trusted without a checksum")
                .fix(format!("if you trust the present file, add to {setting}: sha256 = \"{sum}\"")),
            Some(Err(error)) => {
                let why = error.cause.unwrap_or_default();
                refusal
                    .cause(format!("it cannot be computed either: {}: {why}", error.what))
                    .fix(format!("check the address, and add sha256 to {setting}"))
            }
            None => refusal
                .cause("a download is not trusted without a checksum")
                .fix(format!("add sha256 to {setting}; `apply` as root computes and reports it")),
        })
    }

    fn refuse_file(&self, host: &Host) -> Result<()> {
        let DebSource::Path(path) = &self.source else { return Ok(()) };
        if self.is_in_sync(host)? {
            return Ok(());
        }
        host.refuse_untrusted(Path::new(path))?;
        let sum = self.digest(host, path)?.ok_or_else(|| self.absent(path))?;
        self.refuse_other_sum(path, &sum)?;
        self.refuse_other_machine(host, &self.read(host, path)?)
    }

    fn absent(&self, path: &str) -> Error {
        Error::config(format!("{path} does not exist")).fix(format!("put the deb there, or set {}", self.setting))
    }

    fn refuse_other_sum(&self, path: &str, is: &str) -> Result<()> {
        if self.sha256.as_ref().is_none_or(|wanted| wanted == is) {
            return Ok(());
        }
        let setting = &self.setting;
        Err(Error::config(format!("{path} does not match its sha256")).cause(format!("its sha256 is {is}")).fix(
            format!("if you trust that file, set sha256 = \"{is}\" in {setting}; otherwise find out why it changed"),
        ))
    }

    fn refuse_other_machine(&self, host: &Host, deb: &dpkg::Deb) -> Result<()> {
        let own = host.package_architecture()?;
        if deb.architecture == "all" || deb.architecture == own {
            return Ok(());
        }
        let what = format!("{} {} is for {}, but this node is {own}", deb.package, deb.version, deb.architecture);
        Err(Error::unavailable(what).fix(format!("set {} to a deb for {own}", self.setting)))
    }

    fn read(&self, host: &Host, path: &str) -> Result<dpkg::Deb> {
        host.deb(path)?.map_err(|answer| {
            Error::config(format!("{} is not a deb", self.shown()))
                .cause(answer)
                .fix(format!("set {} to a Debian package", self.setting))
        })
    }

    /// The SHA-256 of a file on the node.
    fn digest(&self, host: &Host, path: &str) -> Result<Option<String>> {
        let stamp = host.stamp(path)?;
        if let (Some(stamp), Some((known, sum))) = (&stamp, self.summed.borrow().as_ref())
            && stamp == known
        {
            return Ok(Some(sum.clone()));
        }
        let Some((sum, stamp)) = host.checksum_of_file(path)? else { return Ok(None) };
        *self.summed.borrow_mut() = Some((stamp, sum.clone()));
        Ok(Some(sum))
    }

    /// The record of the package that the program installed from this source.
    fn record(&self, host: &Host) -> Result<Option<Record>> {
        let records = records(host)?;
        if let Some(wanted) = &self.sha256 {
            return Ok(records.into_iter().find(|record| record.sha256 == *wanted));
        }
        let DebSource::Path(path) = &self.source else { return Ok(None) };
        let stamp = host.stamp(path)?;
        let as_it_was =
            |file: &SourceFile| file.path == *path && stamp.as_ref().is_none_or(|stamp| *stamp == file.stamp);
        let found = records.iter().find(|record| record.file.as_ref().is_some_and(as_it_was));
        // The file may be gone, e.g. after an image was baked; then the record is all there is.
        if found.is_some() || stamp.is_none() || records.is_empty() {
            return Ok(found.cloned());
        }
        let sum = self.digest(host, path)?;
        Ok(records.into_iter().find(|record| Some(&record.sha256) == sum.as_ref()))
    }

    /// Whether the deb is installed, determined without the network and if possible without reading the deb.
    fn is_in_sync(&self, host: &Host) -> Result<bool> {
        match self.record(host)? {
            Some(record) => record.holds(host),
            None => Ok(false),
        }
    }

    fn look(&self, host: &Host) -> Result<State> {
        if self.is_in_sync(host)? {
            return Ok(State::InSync(self.installed.borrow().clone()));
        }
        Ok(State::Changes(vec![Change::new(self.describe_install(host)?)]))
    }

    /// What the run will do, as far as it is known.
    fn describe_install(&self, host: &Host) -> Result<String> {
        let shown = self.shown();
        if let Some(record) = self.record(host)? {
            return described(host, &record.package, &record.version, &shown);
        }
        match &self.source {
            DebSource::Path(path) if host.stamp(path)?.is_some() => {
                let deb = self.read(host, path)?;
                described(host, &deb.package, &deb.version, &shown)
            }
            _ => Ok(format!("install {shown} (the download will show its package and version)")),
        }
    }

    /// Downloads or copies the deb into the cache and checks it. Returns its SHA-256, and the local file that it is a copy of.
    fn fetch(&self, host: &Host) -> Result<(String, Option<SourceFile>)> {
        match (&self.source, &self.sha256) {
            (DebSource::Url(url), Some(sha256)) => {
                let fetched = host.join_download(url, sha256)?;
                fetched.map_err(|failure| failure.error(&self.shown(), &self.setting, host.deadlines.download))?;
                Ok((sha256.clone(), None))
            }
            (DebSource::Url(_), None) => self.refuse_unpinned(None).map(|()| Default::default()),
            (DebSource::Path(path), _) => {
                let (sum, stamp) = host.copy_to_cache(path)?.ok_or_else(|| self.absent(path))?;
                if let Err(error) = self.refuse_other_sum(path, &sum) {
                    return host.remove(&cached_path(&sum)).and(Err(error));
                }
                Ok((sum, Some(SourceFile { path: path.clone(), stamp })))
            }
        }
    }

    fn explained(&self, NotInstalled { error, unmet }: NotInstalled, deb: &dpkg::Deb) -> Error {
        if error.kind == ErrorKind::Interrupted {
            return error;
        }
        let what = format!("{} {} cannot be installed: {}", deb.package, deb.version, error.what);
        let made = Error { what, ..error };
        if unmet {
            return made.fix(format!(
                "no package source has its dependencies: add one that does to apt.sources, or set {} to another deb",
                self.setting
            ));
        }
        made
    }
}

impl RawKind for RawDeb {
    fn can_restart(&self) -> bool {
        true
    }
}

impl Work for DebStep {
    fn explain(&self) -> Vec<String> {
        let (DebSource::Path(place) | DebSource::Url(place)) = &self.source;
        let sum = if self.sha256.is_some() { "; its SHA-256 must be that of the settings" } else { "" };
        let place = crate::secrets::masked(place);
        vec![format!("Keeps the package of the deb {place} installed{sum}. Another build of it is replaced.")]
    }

    fn paths(&self) -> Vec<String> {
        vec![deb_record::path("x"), self.mark.clone(), cached_path("x")]
    }

    /// Refuses whatever is known to be wrong before anything changes or is downloaded.
    fn refuse(&self, host: &Host) -> Result<()> {
        self.refuse_unpinned(None)?;
        if host.is_live() { self.refuse_file(host) } else { Ok(()) }
    }

    /// Downloads a deb without a checksum, keeps nothing, and reports its SHA-256.
    fn refuse_online(&self, host: &Host) -> Result<()> {
        let (DebSource::Url(url), None, true) = (&self.source, &self.sha256, host.is_live()) else { return Ok(()) };
        tracing::info!("{} has no sha256: computing it", self.setting);
        let sum = host.checksum_of_download(url)?;
        let sum = sum.map_err(|failure| failure.error(&self.shown(), &self.setting, host.deadlines.download));
        self.refuse_unpinned(Some(sum))
    }

    fn needs(&self, host: &Host, _given_up: &[String]) -> Result<Vec<Need<'_>>> {
        Ok(if self.is_in_sync(host)? { Vec::new() } else { vec![Need::Dependencies] })
    }

    fn fetches(&self, host: &Host) -> Result<Vec<Fetch>> {
        Ok(match (&self.source, &self.sha256) {
            (DebSource::Url(url), Some(sha256)) if !self.is_in_sync(host)? => {
                vec![Fetch::Deb { url: url.clone(), sha256: sha256.clone() }]
            }
            _ => Vec::new(),
        })
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(State::Deferred(format!("not installed with --root: {}", self.shown())));
        }
        self.look(host)
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let (sha256, file) = self.fetch(host)?;
        let copy = cached_path(&sha256);
        let read = self.read(host, &copy).and_then(|deb| self.refuse_other_machine(host, &deb).map(|()| deb));
        let deb = match read {
            Ok(deb) => deb,
            // The copy is useless for other runs.
            Err(error) => return host.remove(&copy).and(Err(error)),
        };
        let line = described(host, &deb.package, &deb.version, &self.shown())?;
        tracing::info!("{line}");
        // Until the same installation is complete, the record does not describe it.
        if records(host)?.iter().any(|record| record.package == deb.package && record.sha256 == sha256) {
            host.remove(&deb_record::path(&deb.package))?;
        }
        host.install_deb(&copy, &deb.package).map_err(|failure| self.explained(failure, &deb))?;
        failpoint();
        let now = host.package(&deb.package)?.map(|is| (is.version, is.status));
        if now.as_ref().is_none_or(|(version, status)| *version != deb.version || *status != Status::Installed) {
            return Err(Error::failed(format!("apt succeeded, but {} {} is not installed", deb.package, deb.version))
                .cause(format!(
                    "dpkg has {}",
                    now.map_or("none".into(), |(version, status)| format!("{version}, {status}"))
                )));
        }
        let contents = host.installed_contents(&deb.package, &deb.architecture)?;
        let dpkg::Deb { package, version, architecture } = deb;
        let record = Record { package, version, architecture, sha256, contents, file };
        host.write(&self.mark, format!("{}\n", record.sha256).as_bytes(), 0o644, Owner::ROOT)?;
        record.write(host)?;
        if matches!(self.source, DebSource::Url(_)) {
            *self.installed.borrow_mut() = Some(line);
        }
        host.remove(&copy)
    }

    fn ask(&self, host: &Host) -> Result<()> {
        host.watch_packages(deb_record::packages(host)?.iter().map(String::as_str));
        Ok(())
    }

    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((self.mark.clone(), Vec::new())))
    }

    fn file(&self) -> Option<&str> {
        Some(&self.mark)
    }
}

/// Describes the action, `install` or `reinstall`, and the reason.
fn described(host: &Host, package: &str, version: &str, shown: &str) -> Result<String> {
    let what = format!("{package} {version} from {shown}");
    let Some(is) = host.package(package)?.filter(|is| !matches!(is.status, Status::NotInstalled | Status::ConfigFiles))
    else {
        return Ok(format!("install {what}"));
    };
    let by_us = records(host)?.iter().any(|record| record.package == package);
    Ok(match host.compare_versions(version, &is.version)? {
        _ if is.status != Status::Installed => format!("install {what} (it is {})", is.status),
        Ordering::Equal if by_us => format!("reinstall {what} (same version, other contents)"),
        Ordering::Equal => format!("reinstall {what} (same version, unknown origin)"),
        Ordering::Less => format!("install {what} (is {}: a downgrade)", is.version),
        Ordering::Greater => format!("install {what} (is {})", is.version),
    })
}

/// Refuses debs in the settings that no run would accept.
///
/// # Errors
/// Returns the first refusal.
pub fn check(settings: &Settings) -> Result<()> {
    for (setting, raw) in [("debs.master", &settings.debs.master), ("debs.gateway", &settings.debs.gateway)] {
        if let Some(raw) = raw {
            DebStep::new(raw, setting.into(), String::new())?.refuse_unpinned(None)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::host::apt::Installed;

    const SUM: &str = "ab00000000000000000000000000000000000000000000000000000000000000";

    fn deb(source: &str) -> Result<DebStep> {
        let toml = format!("source = {source}\nsetting = 'debs.master'");
        let raw = toml::from_str::<RawDeb>(&toml)
            .map_err(|error| Error::config(format!("debs.master: {}", error.message())))?;
        raw.resolve(&Renderer::new(serde_json::json!({})), "titus")
    }

    /// A tree with the deb `/x.deb` of the package `titus`.
    struct Tree {
        directory: tempfile::TempDir,
        host: Host,
    }

    fn tree() -> Tree {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let tree = Tree { directory, host };
        tree.build("1.0", "all", "one");
        tree
    }

    impl Tree {
        fn build(&self, version: &str, architecture: &str, contents: &str) {
            let files = self.directory.path().join("files");
            std::fs::create_dir_all(files.join("DEBIAN")).unwrap();
            std::fs::write(files.join("contents"), contents).unwrap();
            let control = format!(
                "Package: titus\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: x <x@x>\nDescription: x\n"
            );
            std::fs::write(files.join("DEBIAN/control"), control).unwrap();
            let to = self.directory.path().join("x.deb");
            let output = Command::new("dpkg-deb").arg("--build").args([files, to]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }

        /// Pretends that dpkg has this package, with these checksums of its files.
        fn has(&self, version: &str, status: &str, sums: &str) {
            let installed = Installed { version: version.into(), status: status.into(), held: false };
            self.host.pretend_installed(&[("titus", installed)]);
            self.host.write("/var/lib/dpkg/info/titus.md5sums", sums.as_bytes(), 0o644, Owner::ROOT).unwrap();
        }

        /// Pretends that the program installed the present `/x.deb`.
        fn recorded(&self, version: &str) -> Record {
            let (sha256, stamp) = self.host.checksum_of_file("/x.deb").unwrap().unwrap();
            let record = Record {
                package: "titus".into(),
                version: version.into(),
                architecture: "all".into(),
                sha256,
                contents: self.host.installed_contents("titus", "all").unwrap(),
                file: Some(SourceFile { path: "/x.deb".into(), stamp }),
            };
            record.write(&self.host).unwrap();
            record
        }

        /// What a step will do; empty if it is in sync.
        #[track_caller]
        fn sees(&self, source: &str) -> String {
            match deb(source).unwrap().look(&self.host).unwrap() {
                State::InSync(_) => String::new(),
                State::Changes(changes) => changes.into_iter().map(|change| change.line).collect(),
                other => panic!("{other:?}"),
            }
        }

        fn refusal(&self, source: &str) -> Error {
            deb(source).unwrap().refuse_file(&self.host).unwrap_err()
        }
    }

    #[test]
    fn only_forms_that_can_be_trusted_are_taken() {
        for source in [
            "{ path = '/x.deb' }",
            "{ url = 'file:///x.deb' }",
            &format!("{{ path = '/x.deb', sha256 = '{SUM}' }}"),
            &format!("{{ url = 'https://u:p@h/x.deb?a=b', sha256 = '{}' }}", SUM.to_uppercase()),
            &format!("{{ url = 'http://h/x.deb', sha256 = '{SUM}' }}"),
        ] {
            deb(source).unwrap().refuse_unpinned(None).unwrap();
        }
        for source in [
            "{}",
            "{ path = 'x.deb' }",
            "{ path = '/../x.deb' }",
            "{ path = '/x.deb', url = 'https://h/x.deb' }",
            "{ url = 'ftp://h/x.deb' }",
            "{ url = 'file://h/x.deb' }",
            "{ url = 'https://' }",
            "{ url = 'https://secret@h/ x.deb' }",
            "{ url = 'https://h/x.deb', sha256 = 'ab' }",
        ] {
            let message = deb(source).unwrap_err();
            assert!(
                message.kind == ErrorKind::Config && message.what.starts_with("debs.master: "),
                "{source}: {message}"
            );
            assert!(!message.to_string().contains("secret"), "{message}");
        }
        let raw = toml::from_str::<RawDeb>("source = { path = '/x.deb' }").unwrap();
        for bad_id in ["../x", ".x", "a/b", "a b"] {
            raw.resolve(&Renderer::new(serde_json::json!({})), bad_id).unwrap_err();
        }
    }

    #[test]
    fn what_comes_from_the_network_must_have_a_checksum() {
        for scheme in ["https", "http"] {
            let step = deb(&format!("{{ url = '{scheme}://user:secret@h/x.deb?signature=secret' }}")).unwrap();
            let message = step.refuse_unpinned(None).unwrap_err();
            assert_eq!(message.kind.exit_code(), 78);
            assert!(
                message.to_string().contains("***@h/x.deb") && !message.to_string().contains("secret"),
                "{message}"
            );
        }
        let step = deb("{ url = 'https://h/x.deb' }").unwrap();
        let message = step.refuse_unpinned(Some(Ok(SUM.into()))).unwrap_err().to_string();
        assert!(message.contains(&format!("add to debs.master: sha256 = \"{SUM}\"")), "{message}");
        let message = step.refuse_unpinned(Some(Err(Error::failed("it does not exist").cause("404")))).unwrap_err();
        assert!(message.to_string().contains("it does not exist: 404"), "{message}");
    }

    #[test]
    fn a_file_is_looked_at_before_anything_is_changed() {
        let tree = tree();
        tree.has("1.0", "not-installed", "");
        deb("{ path = '/x.deb' }").unwrap().refuse_file(&tree.host).unwrap();
        let message = tree.refusal("{ path = '/nowhere.deb' }");
        assert!(message.kind == ErrorKind::Config && message.what.contains("/nowhere.deb does not exist"), "{message}");
        let message = tree.refusal(&format!("{{ path = '/x.deb', sha256 = '{SUM}' }}")).to_string();
        let is = tree.host.checksum_of_file("/x.deb").unwrap().unwrap().0;
        assert!(message.contains(&format!("set sha256 = \"{is}\" in debs.master")), "{message}");
        tree.build("1.0", "m68k", "one");
        let message = tree.refusal("{ path = '/x.deb' }");
        assert!(message.kind == ErrorKind::Unavailable && message.what.contains("titus 1.0 is for m68k"), "{message}");
        tree.host.write("/x.deb", b"no deb", 0o644, Owner::ROOT).unwrap();
        assert!(tree.refusal("{ path = '/x.deb' }").to_string().contains("is not a deb"));
        tree.host.make_directory("/directory", 0o755, Owner::ROOT).unwrap();
        assert!(tree.refusal("{ path = '/directory' }").what.contains("not a regular file"));
    }

    #[test]
    fn what_we_installed_is_in_sync_while_dpkg_has_it() {
        let tree = tree();
        let path = "{ path = '/x.deb' }";
        tree.has("1.0", "not-installed", "");
        assert_eq!(tree.sees(path), "install titus 1.0 from /x.deb");
        tree.has("1.0", "installed", "sums");
        assert_eq!(tree.sees(path), "reinstall titus 1.0 from /x.deb (same version, unknown origin)");
        let record = tree.recorded("1.0");
        assert_eq!(tree.sees(path), "");
        let by_url = format!("{{ url = 'https://h/x.deb', sha256 = '{}' }}", record.sha256.to_uppercase());
        assert_eq!(tree.sees(&by_url), "");
        tree.has("1.0", "half-configured", "sums");
        assert_eq!(tree.sees(path), "install titus 1.0 from /x.deb (it is half-configured)");
        tree.has("1.1", "installed", "sums");
        assert_eq!(tree.sees(&by_url), "install titus 1.0 from https://h/x.deb (is 1.1: a downgrade)");
        tree.has("0.9", "installed", "sums");
        assert_eq!(tree.sees(path), "install titus 1.0 from /x.deb (is 0.9)");
        // Another build of that version, installed by hand.
        tree.has("1.0", "installed", "other sums");
        assert_eq!(tree.sees(path), "reinstall titus 1.0 from /x.deb (same version, other contents)");
    }

    #[test]
    fn a_file_that_changed_or_went_is_distinguished_from_one_that_was_touched() {
        let tree = tree();
        let path = "{ path = '/x.deb' }";
        tree.has("1.0", "installed", "sums");
        let record = tree.recorded("1.0");
        // Rewritten with the same contents.
        let same = tree.host.read("/x.deb").unwrap().unwrap();
        tree.host.write("/x.deb", &same, 0o600, Owner::ROOT).unwrap();
        assert_ne!(tree.host.stamp("/x.deb").unwrap(), record.file.map(|file| file.stamp));
        assert_eq!(tree.sees(path), "");
        tree.build("1.0", "all", "two");
        assert_eq!(tree.sees(path), "reinstall titus 1.0 from /x.deb (same version, other contents)");
        // An image was baked with it, and the deb removed.
        tree.host.remove("/x.deb").unwrap();
        assert_eq!(tree.sees(path), "");
        deb(path).unwrap().refuse_file(&tree.host).unwrap();
        assert!(tree.refusal("{ path = '/y.deb' }").what.contains("does not exist"));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_as_good_as_none() {
        let tree = tree();
        tree.has("1.0", "installed", "sums");
        tree.recorded("1.0");
        for text in ["", "{", "{\"package\":\"other\"}"] {
            tree.host.write(&deb_record::path("titus"), text.as_bytes(), 0o644, Owner::ROOT).unwrap();
            assert!(tree.sees("{ path = '/x.deb' }").starts_with("reinstall titus 1.0"), "{text}");
        }
    }

    #[test]
    fn a_path_names_one_package() {
        let tree = tree();
        tree.has("1.0", "installed", "sums");
        let record = tree.recorded("1.0");
        Record { package: "renamed".into(), ..record }.write(&tree.host).unwrap();
        assert_eq!(deb_record::packages(&tree.host).unwrap(), ["renamed"]);
    }

    #[test]
    fn below_a_root_it_is_deferred() {
        let tree = tree();
        let source = format!("{{ url = 'https://user:secret@h/x.deb', sha256 = '{SUM}' }}");
        let state = deb(&source).unwrap().observe(&tree.host, &Planned::new()).unwrap();
        assert_eq!(state, State::Deferred("not installed with --root: https://***@h/x.deb".into()));
    }
}
