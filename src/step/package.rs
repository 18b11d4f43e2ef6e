//! These packages are installed; one with an exact version is also on hold.

use std::collections::BTreeSet;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::forms::Package;
use super::{Change, Claim, Need, Planned, RawKind, State, Step, Work};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::Host;
use crate::host::apt::complaint::{Fault, Refused};
use crate::host::apt::{Installed, OUR_SOURCES, Policy, SOURCE_PARTS, Source, Status, conflict};
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::secrets::masked;
use crate::template::{Renderer, Templated};

/// Optional packages that no source had, stored under the digest of those sources.
/// Without this file, each run of a converged node would have to ask apt again.
const NO_CANDIDATE: &str = "/var/lib/titus-bootstrap/no-candidate";

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPackage {
    names: Templated<Vec<Package>>,
    /// Convenience packages for people: if no source has one, that is only a notice.
    #[serde(default)]
    optional: bool,
    /// The setting that contains them, for messages.
    setting: Option<String>,
}

/// Packages, each `name` or `name=version`.
#[derive(Debug, Clone, PartialEq)]
pub struct Packages {
    names: Vec<String>,
    optional: bool,
    setting: Option<String>,
}

impl RawPackage {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Packages> {
        let names = self.names.get(renderer)?.into_iter().map(|Package(name)| name).collect();
        Ok(Packages { names, optional: self.optional, setting: self.setting.clone() })
    }
}

impl Packages {
    /// The packages that are not in the wanted state, except those given up: the name in the settings, and the present state.
    fn missing(&self, host: &Host, given_up: &[String]) -> Result<Vec<(&str, String)>> {
        let mut lacking = Vec::new();
        for wanted in &self.names {
            if let Some(now) = lack(wanted, host.package(bare_name(wanted))?.as_ref())
                && !(self.optional && (given_up.contains(wanted) || host.goes_without(wanted)))
            {
                lacking.push((wanted.as_str(), now));
            }
        }
        Ok(lacking)
    }

    /// Optional packages that the run no longer expects.
    fn given_up(&self, host: &Host) -> Result<Vec<String>> {
        if self.optional { given_up(host, None) } else { Ok(Vec::new()) }
    }
}

/// A line about the packages that apt will remove, if a setting allows any removal.
fn removals(host: &Host, lacking: &[(&str, String)]) -> Result<Option<String>> {
    if lacking.is_empty() || host.apt.may_remove.is_empty() {
        return Ok(None);
    }
    let removed: Option<Vec<Vec<String>>> = lacking
        .iter()
        .map(|(name, _)| host.would_remove(&[name]).transpose())
        .collect::<Option<Result<_>>>()
        .transpose()?;
    if let Some(removed) = removed {
        let removed: BTreeSet<String> = removed.into_iter().flatten().collect();
        let removed: Vec<&str> = removed.iter().map(String::as_str).collect();
        return Ok((!removed.is_empty())
            .then(|| format!("remove {}, which conflicts with them (apt.may_remove)", removed.join(" "))));
    }
    let mut there = Vec::new();
    for name in &host.apt.may_remove {
        if host.package(name)?.is_some_and(|is| is.status == Status::Installed) {
            there.push(name.as_str());
        }
    }
    Ok((!there.is_empty()).then(|| format!("remove {}, if apt requires it (apt.may_remove)", there.join(" "))))
}

/// How a package differs from the wanted `name`, or `name=version` on hold.
fn lack(wanted: &str, found: Option<&Installed>) -> Option<String> {
    let version = wanted.split_once('=').map(|(_, version)| version);
    match (found.map(|found| (found, &found.status)), version) {
        (Some((found, Status::Installed)), Some(version)) if version != found.version => {
            Some(format!("is {}", found.version))
        }
        (Some((found, Status::Installed)), Some(_)) if !found.held => Some("is not on hold".into()),
        (Some((_, Status::Installed)), _) => None,
        (None | Some((_, Status::NotInstalled)), _) => Some("is not installed".into()),
        (Some((_, status)), _) => Some(format!("is {status}")),
    }
}

impl RawKind for RawPackage {}

/// The wish of a step that accepts any version.
pub const ANY_VERSION: &str = "any version";

/// The placeholder in a plan for files that packages will bring.
pub(super) const STATUS: &str = "/var/lib/dpkg/status";

impl Work for Packages {
    fn explain(&self) -> Vec<String> {
        let names = self.names.join(", ");
        let mut lines = vec![match self.names.is_empty() {
            true => "Keeps no package: the settings name none.".to_owned(),
            false => format!("Keeps these packages installed: {names}."),
        }];
        if self.names.iter().any(|name| name.contains('=')) {
            lines.push("One with a version is held at that version.".into());
        }
        if self.optional {
            lines.push("They are optional: if no source has one, the run goes on without it.".into());
        }
        lines
    }

    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((STATUS.to_owned(), Vec::new())))
    }

    fn claims(&self) -> Vec<Claim> {
        let claim = |wanted: &String| {
            let version = wanted.split_once('=').map_or(ANY_VERSION, |(_, version)| version);
            Claim::new(format!("package {}", bare_name(wanted)), version)
        };
        self.names.iter().map(claim).collect()
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        if !host.is_live() {
            return Ok(if self.names.is_empty() {
                State::InSync(None)
            } else {
                State::Deferred(format!("not installed below --root: {}", self.names.join(" ")))
            });
        }
        let given_up = self.given_up(host)?;
        let lacking = self.missing(host, &given_up)?;
        let mut changes =
            lacking.iter().map(|(name, now)| Change::new(format!("install {name} ({now})"))).collect::<Vec<_>>();
        changes.extend(removals(host, &lacking)?.map(Change::new));
        if changes.is_empty() && self.optional {
            let missing: Vec<&str> = self
                .names
                .iter()
                .filter(|n| given_up.contains(n) || host.goes_without(n))
                .map(String::as_str)
                .collect();
            if !missing.is_empty() {
                let names = missing.join(", ");
                return Ok(State::InSync(Some(format!(
                    "not installed, because no source has it and it is optional: {names}"
                ))));
            }
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let lacking = self.missing(host, &self.given_up(host)?)?;
        host.install_packages(&lacking.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    }

    fn ask(&self, host: &Host) -> Result<()> {
        host.watch_packages(self.names.iter().map(|name| bare_name(name)));
        Ok(())
    }

    fn needs(&self, host: &Host, given_up: &[String]) -> Result<Vec<Need<'_>>> {
        let (optional, setting) = (self.optional, self.setting.as_deref());
        let lacking = self.missing(host, given_up)?.into_iter();
        Ok(lacking.map(|(name, _)| Need::Package { name, optional, setting }).collect())
    }
}

/// What apt's answer means for the packages to install.
#[derive(Debug, PartialEq)]
enum Verdict<'a> {
    /// apt can install everything except these optional packages, which no source has.
    GoWithout(Vec<&'a str>),
    /// No source has this package, which comes from this setting.
    Missing(&'a str, Option<&'a str>),
}

fn verdict<'a>(needs: &[Need<'a>], policy: impl Fn(&str) -> Policy) -> Verdict<'a> {
    let mut without = Vec::new();
    for need in needs {
        let Need::Package { name, optional, setting } = *need else { continue };
        let policy = policy(bare_name(name));
        let is_there = match name.split_once('=') {
            Some((_, version)) => policy.versions.iter().any(|known| known == version),
            None => policy.candidate.is_some(),
        };
        match (is_there, optional) {
            (true, _) => {}
            (false, true) => without.push(name),
            (false, false) => return Verdict::Missing(name, setting),
        }
    }
    Verdict::GoWithout(without)
}

/// Whether apt will install anything for these steps, as far as that is known without asking it.
///
/// # Errors
/// Fails when dpkg does not respond.
pub fn needs_apt(host: &Host, steps: &[Step]) -> Result<bool> {
    let given_up = given_up(host, None)?;
    for step in steps {
        if !step.work().needs(host, &given_up)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks, before anything changes, that apt has a candidate for every package to install, and lists for the dependencies
/// of debs. Uses the package sources as they will be in /etc/apt. `records` says whether to store which optional packages
/// no source has.
///
/// # Errors
/// Fails with 69 when a package has no candidate or apt cannot read its sources, with 75 when the lists are unavailable, and with 78 when a key does not match.
pub fn refuse_without_candidate(host: &Host, steps: &[Step], records: bool) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    let (mut sources, mut needs) = (Vec::new(), Vec::new());
    for step in steps {
        sources.extend(step.work().sources(host)?);
    }
    // A new source may have packages that the earlier ones lacked.
    let mut given_up = given_up(host, Some(&sources))?;
    for step in steps {
        needs.extend(step.work().needs(host, &given_up)?);
    }
    if !needs.is_empty() {
        let asked = ask_apt(host, &sources, &needs, &mut given_up, records);
        // The lists serve this installation only.
        asked.or_else(|refusal| host.forget_candidates().and(Err(refusal)))?;
    }
    host.go_without(given_up.into_iter());
    Ok(())
}

/// Adds packages that no source has to `given_up`. Later runs skip them until a source changes; only this run does if
/// some source did not respond.
fn ask_apt(
    host: &Host,
    sources: &[Source],
    needs: &[Need<'_>],
    given_up: &mut Vec<String>,
    records: bool,
) -> Result<()> {
    refuse_without_https(host, sources)?;
    let name =
        |need: &Need<'_>| if let Need::Package { name, .. } = *need { Some(bare_name(name).to_owned()) } else { None };
    let names: Vec<String> = needs.iter().filter_map(name).collect();
    let refused = host.look_up_candidates(sources, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    match verdict(needs, |name| host.policy(name)) {
        Verdict::Missing(name, setting) => {
            let setting = setting.unwrap_or("the role file");
            Err(match refused {
                Some(refused) => missing_lists_error(host, name, setting, &refused)?,
                None => Error::unavailable(format!("no source has the package {name}"))
                    .cause(format!("asked: {}", list_asked(host, sources)?))
                    .fix(format!(
                        "check {setting} and apt.sources (`titus-bootstrap config show`), and what apt derives from them and \
                         of its pins: apt-cache policy {}",
                        bare_name(name)
                    )),
            })
        }
        Verdict::GoWithout(new) => {
            let is_new = !new.is_empty();
            refuse_removals(host, needs, &new)?;
            given_up.extend(new.into_iter().map(str::to_owned));
            match refused {
                // The missing list may have an optional package, or a later version. Only apt will know whether a deb needs it.
                Some(refused) => {
                    tracing::warn!("could not get every list of apt's sources: {}", masked(&refused.lines));
                    Ok(())
                }
                None if is_new && records => {
                    let digest = digest_sources(host, Some(sources))?;
                    let text = format!("{digest}\n{}\n", given_up.join("\n"));
                    host.write(NO_CANDIDATE, text.as_bytes(), 0o644, Owner::ROOT)
                }
                None => Ok(()),
            }
        }
    }
}

/// Refuses packages that apt can only install by removing others that no setting allows it to remove.
fn refuse_removals(host: &Host, needs: &[Need<'_>], without: &[&str]) -> Result<()> {
    let name = |need: &Need<'_>| match *need {
        Need::Package { name, .. } => (!without.contains(&name)).then(|| name.to_owned()),
        Need::Dependencies => None,
    };
    let names: Vec<String> = needs.iter().filter_map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        return Ok(());
    }
    let removed = host.would_remove(&names)?.unwrap_or_default();
    if removed.is_empty() {
        return Ok(());
    }
    // Name the package that causes it, if there is just one. The plan reuses the answers.
    let mut causes = Vec::new();
    for name in &names {
        if host.would_remove(&[name])?.unwrap_or_default().iter().any(|one| removed.contains(one)) {
            causes.push(*name);
        }
    }
    let removed = host.not_removable(&removed);
    if removed.is_empty() {
        return Ok(());
    }
    Err(conflict(ErrorKind::Unavailable, if causes.is_empty() { &names } else { &causes }, &removed.join(" ")))
}

/// The files that apt consulted, in the order in which it reads them.
fn list_asked(host: &Host, sources: &[Source]) -> Result<String> {
    let others = host.other_sources()?.into_keys();
    let files: BTreeSet<String> = others.chain(sources.iter().map(|source| source.path.clone())).collect();
    Ok(files.into_iter().collect::<Vec<_>>().join(", "))
}

/// The error about a package that may be in a list that apt could not get.
fn missing_lists_error(host: &Host, name: &str, setting: &str, refused: &Refused) -> Result<Error> {
    let lines = masked(&refused.lines);
    let what = format!("no list that apt could get has the package {name}");
    let made = |kind| Error::new(kind, what.clone()).cause(format!("apt said:\n{lines}"));
    Ok(match refused.fault {
        Fault::Network => made(ErrorKind::TemporaryFailure).fix(format!(
            "check that this node can reach the repository (settings apt.sources, proxy.*), and check {setting}"
        )),
        Fault::Date => made(ErrorKind::TemporaryFailure).fix(
            "check the clock (`date`); if it is right, the owner of the repository must sign its Release file again",
        ),
        Fault::Key => made(ErrorKind::Config).fix(
            "get the repository's current key from its owner; for a source in the settings, set its key in apt.sources, \
             for one of another file replace the keyring that its Signed-By names",
        ),
        Fault::Temporary => {
            let fix = match host.entry("/tmp")? {
                None => "mkdir -m 1777 /tmp",
                Some(entry) if entry.kind == EntryKind::Directory && entry.mode != 0o1777 => "chmod 1777 /tmp",
                Some(_) => "check that /tmp is writable and has room: df /tmp; findmnt --target /tmp",
            };
            Error { what: "apt cannot create temporary files in /tmp, so it cannot check signatures".into(), ..made(ErrorKind::Unavailable) }
                .fix(fix)
        }
    })
}

/// A source over https needs a package of apt's that the source itself cannot provide.
fn refuse_without_https(host: &Host, sources: &[Source]) -> Result<()> {
    if !sources.iter().any(|source| source.keyring.is_some() && source.text.contains("https://")) {
        return Ok(());
    }
    // A separate package until apt 1.5, in Ubuntu 16.04.
    for (path, package) in [
        ("/usr/lib/apt/methods/https", "apt-transport-https"),
        ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ] {
        if host.entry(path)?.is_none() {
            return Err(Error::unavailable("apt cannot read https sources on this node")
                .cause(format!("{path} does not exist"))
                .fix(format!("install it in the image: apt-get install {package}")));
        }
    }
    Ok(())
}

fn bare_name(name: &str) -> &str {
    name.split_once('=').map_or(name, |(name, _)| name)
}

/// The packages that no source had, if the sources are still the same. `planned` are the program's sources as they will be.
fn given_up(host: &Host, planned: Option<&[Source]>) -> Result<Vec<String>> {
    let Some(text) = host.read_text(NO_CANDIDATE)? else { return Ok(Vec::new()) };
    let mut lines = text.lines();
    if lines.next() != Some(&digest_sources(host, planned)?) {
        return Ok(Vec::new());
    }
    Ok(lines.map(str::to_owned).collect())
}

fn digest_sources(host: &Host, planned: Option<&[Source]>) -> Result<String> {
    let mut files = host.other_sources()?;
    match planned {
        Some(sources) => files.extend(sources.iter().map(|s| (s.path.clone(), s.text.clone().into_bytes()))),
        None => {
            for name in host.list(SOURCE_PARTS)?.into_iter().filter(|name| name.starts_with(OUR_SOURCES)) {
                let path = format!("{SOURCE_PARTS}/{name}");
                let text = host.read(&path)?.unwrap_or_default();
                files.insert(path, text);
            }
        }
    }
    let mut digest = Sha256::new();
    for (path, text) in files {
        digest.update([0]);
        digest.update(path);
        digest.update([0]);
        digest.update(text);
    }
    Ok(crate::step::hex(&digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: &str, status: &str, held: bool) -> Option<Installed> {
        Some(Installed { version: version.into(), status: status.into(), held })
    }

    #[test]
    fn what_dpkg_says_of_a_package_is_what_is_wanted_or_not() {
        for (wanted, found, lacks) in [
            ("jq", None, Some("is not installed")),
            ("jq", found("", "not-installed", false), Some("is not installed")),
            ("jq", found("1.6", "config-files", false), Some("is config-files")),
            ("jq", found("1.6", "half-configured", true), Some("is half-configured")),
            ("jq", found("1.6", "installed", false), None),
            ("jq", found("1.6", "installed", true), None),
            ("jq=1.6", None, Some("is not installed")),
            ("jq=1.6", found("1.5", "installed", true), Some("is 1.5")),
            ("jq=1.6", found("1.6", "installed", false), Some("is not on hold")),
            ("jq=1.6", found("1.6", "installed", true), None),
            ("jq=1.6", found("1.6", "unpacked", true), Some("is unpacked")),
        ] {
            assert_eq!(lack(wanted, found.as_ref()).as_deref(), lacks, "{wanted} {found:?}");
        }
    }

    #[test]
    fn what_no_source_has_is_refused_unless_it_is_optional() {
        let candidates = |name: &str| match name {
            "mesos" => Policy { candidate: Some("1.1".into()), versions: vec!["1.1".into(), "1.0".into()] },
            "pinned" => Policy { candidate: None, versions: vec!["1.0".into()] },
            _ => Policy::default(),
        };
        let need = |name, optional| Need::Package { name, optional, setting: Some("packages") };
        for (needs, wanted) in [
            (vec![], Verdict::GoWithout(vec![])),
            (vec![Need::Dependencies], Verdict::GoWithout(vec![])),
            (vec![need("mesos", false), need("mesos=1.0", false)], Verdict::GoWithout(vec![])),
            (vec![need("pinned=1.0", false)], Verdict::GoWithout(vec![])),
            (vec![need("pinned", false)], Verdict::Missing("pinned", Some("packages"))),
            (vec![need("mesos=2", false)], Verdict::Missing("mesos=2", Some("packages"))),
            (vec![need("mesos=2", true), need("jq", true)], Verdict::GoWithout(vec!["mesos=2", "jq"])),
            (vec![need("jq", true), need("mesos", false), need("x", false)], Verdict::Missing("x", Some("packages"))),
        ] {
            assert_eq!(verdict(&needs, candidates), wanted, "{needs:?}");
        }
    }
}
