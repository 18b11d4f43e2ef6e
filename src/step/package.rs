//! These packages are installed, or an exact version is, and held.

use std::collections::BTreeSet;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Change, Claim, Need, Planned, RawKind, State, Step, Work};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::Host;
use crate::host::apt::complaint::{Fault, Refused};
use crate::host::apt::{Installed, OUR_SOURCES, Policy, SOURCE_PARTS, Source, Status, conflict};
use crate::host::fs::Owner;
use crate::host::fs::look::EntryKind;
use crate::secrets::masked;
use crate::template::{Renderer, Templated};

/// Optional packages that no source had, under the digest of the sources that were asked.
/// Without it each run of a converged node would have to ask apt again.
const NO_CANDIDATE: &str = "/var/lib/titus-bootstrap/no-candidate";

/// As a role file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    names: Templated<Vec<String>>,
    /// Only people use them: one that no source has is a notice.
    #[serde(default)]
    optional: bool,
    /// The setting that names them, for messages.
    setting: Option<String>,
}

/// Packages, each `name` or `name=version`.
#[derive(Debug, Clone, PartialEq)]
pub struct Packages {
    names: Vec<String>,
    optional: bool,
    setting: Option<String>,
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Packages> {
        Ok(Packages { names: self.names.get(renderer)?, optional: self.optional, setting: self.setting.clone() })
    }
}

impl Packages {
    /// What is not as it should be, without what was given up: the name as the settings have it, and how it is now.
    fn lacking(&self, host: &Host, given_up: &[String]) -> Result<Vec<(&str, String)>> {
        let mut lacking = Vec::new();
        for wanted in &self.names {
            if let Some(now) = lack(wanted, host.package(bare(wanted))?.as_ref())
                && !(self.optional && (given_up.contains(wanted) || host.goes_without(wanted)))
            {
                lacking.push((wanted.as_str(), now));
            }
        }
        Ok(lacking)
    }

    /// Optional packages that are not waited for.
    fn given_up(&self, host: &Host) -> Result<Vec<String>> {
        if self.optional { given_up(host, None) } else { Ok(Vec::new()) }
    }
}

/// What installing these packages removes, in a line, where a setting allows to remove any.
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
    Ok((!there.is_empty()).then(|| format!("remove {}, if apt has to for them (apt.may_remove)", there.join(" "))))
}

/// How a package is now, if that is not what is wanted: `name`, or `name=version` on hold.
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

impl RawKind for Raw {}

/// The wish of who does not care.
pub const ANY_VERSION: &str = "any version";

/// What a plan has in the place of the files that packages will bring.
pub(super) const STATUS: &str = "/var/lib/dpkg/status";

impl Work for Packages {
    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((STATUS.to_owned(), Vec::new())))
    }

    fn claims(&self) -> Vec<Claim> {
        let claim = |wanted: &String| {
            let version = wanted.split_once('=').map_or(ANY_VERSION, |(_, version)| version);
            Claim::new(format!("package {}", bare(wanted)), version)
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
        let lacking = self.lacking(host, &given_up)?;
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
                    "not installed, since no source has it and only people use it: {names}"
                ))));
            }
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let lacking = self.lacking(host, &self.given_up(host)?)?;
        host.install_packages(&lacking.into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    }

    fn ask(&self, host: &Host) -> Result<()> {
        host.watch_packages(self.names.iter().map(|name| bare(name)));
        Ok(())
    }

    fn needs(&self, host: &Host, given_up: &[String]) -> Result<Vec<Need<'_>>> {
        let (optional, setting) = (self.optional, self.setting.as_deref());
        let lacking = self.lacking(host, given_up)?.into_iter();
        Ok(lacking.map(|(name, _)| Need::Package { name, optional, setting }).collect())
    }
}

/// What apt's answer means for what is to be installed.
#[derive(Debug, PartialEq)]
enum Verdict<'a> {
    /// It can be, but for these optional packages, which no source has.
    GoWithout(Vec<&'a str>),
    /// No source has this package; the setting that names it.
    Missing(&'a str, Option<&'a str>),
}

fn verdict<'a>(needs: &[Need<'a>], policy: impl Fn(&str) -> Policy) -> Verdict<'a> {
    let mut without = Vec::new();
    for need in needs {
        let Need::Package { name, optional, setting } = *need else { continue };
        let policy = policy(bare(name));
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

/// Whether steps will have apt install anything, as far as that is known without asking it.
///
/// # Errors
/// When dpkg cannot be asked.
pub fn needs_apt(host: &Host, steps: &[Step]) -> Result<bool> {
    let given_up = given_up(host, None)?;
    for step in steps {
        if !step.work().needs(host, &given_up)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Before anything is changed: apt has a candidate for every package that will be installed, and lists for what a deb
/// depends on. Sources of packages count as they will stand in /etc/apt. `records`: which optional packages no source has
/// is kept for later runs.
///
/// # Errors
/// 69 when it has not, or cannot read its sources; 75 when its lists could not be had; 78 when a key does not fit.
pub fn refuse_without_candidate(host: &Host, steps: &[Step], records: bool) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    let (mut sources, mut needs) = (Vec::new(), Vec::new());
    for step in steps {
        sources.extend(step.work().sources(host)?);
    }
    // A source that is new may have what none had before.
    let mut given_up = given_up(host, Some(&sources))?;
    for step in steps {
        needs.extend(step.work().needs(host, &given_up)?);
    }
    if !needs.is_empty() {
        let asked = ask_apt(host, &sources, &needs, &mut given_up, records);
        // What was looked up serves the installation, and nothing else.
        asked.or_else(|refusal| host.forget_candidates().and(Err(refusal)))?;
    }
    host.go_without(given_up.into_iter());
    Ok(())
}

/// Adds to `given_up` what no source has. It is left out of later runs until a source changes; of this one alone if not
/// every source could be asked.
fn ask_apt(
    host: &Host,
    sources: &[Source],
    needs: &[Need<'_>],
    given_up: &mut Vec<String>,
    records: bool,
) -> Result<()> {
    refuse_without_https(host, sources)?;
    let name =
        |need: &Need<'_>| if let Need::Package { name, .. } = *need { Some(bare(name).to_owned()) } else { None };
    let names: Vec<String> = needs.iter().filter_map(name).collect();
    let refused = host.look_up_candidates(sources, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    match verdict(needs, |name| host.policy(name)) {
        Verdict::Missing(name, setting) => {
            let setting = setting.unwrap_or("the role file");
            Err(match refused {
                Some(refused) => without_lists(host, name, setting, &refused)?,
                None => Error::unavailable(format!("no source has the package {name}"))
                    .cause(format!("asked: {}", asked(host, sources)?))
                    .fix(format!(
                        "check {setting} and apt.sources (`titus-bootstrap config show`), and what apt makes of them and \
                         of its pins: apt-cache policy {}",
                        bare(name)
                    )),
            })
        }
        Verdict::GoWithout(new) => {
            let is_new = !new.is_empty();
            refuse_removals(host, needs, &new)?;
            given_up.extend(new.into_iter().map(str::to_owned));
            match refused {
                // One of them may have what only people use, or a later version; whether a deb needs any, apt knows then.
                Some(refused) => {
                    tracing::warn!("not every list of apt's sources could be had: {}", masked(&refused.lines));
                    Ok(())
                }
                None if is_new && records => {
                    let digest = digest_of_sources(host, Some(sources))?;
                    let text = format!("{digest}\n{}\n", given_up.join("\n"));
                    host.write(NO_CANDIDATE, text.as_bytes(), 0o644, Owner::ROOT)
                }
                None => Ok(()),
            }
        }
    }
}

/// Refuses packages that apt would install only if it removed others, which no setting lets it.
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
    // Those that ask for it, where one alone does. The answers are kept for the plan.
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

/// The files in which apt looked, in the order in which it reads them.
fn asked(host: &Host, sources: &[Source]) -> Result<String> {
    let others = host.other_sources()?.into_keys();
    let files: BTreeSet<String> = others.chain(sources.iter().map(|source| source.path.clone())).collect();
    Ok(files.into_iter().collect::<Vec<_>>().join(", "))
}

/// The error about a package that a list may have which apt could not have.
fn without_lists(host: &Host, name: &str, setting: &str, refused: &Refused) -> Result<Error> {
    let lines = masked(&refused.lines);
    let what = format!("no list that apt could have has the package {name}");
    let made = |kind| Error::new(kind, what.clone()).cause(format!("apt said:\n{lines}"));
    Ok(match refused.fault {
        Fault::Network => made(ErrorKind::TemporaryFailure).fix(format!(
            "see that the repository can be reached from here (settings apt.sources, proxy.*), and check {setting}"
        )),
        Fault::Date => made(ErrorKind::TemporaryFailure).fix(
            "see that the clock is right (`date`); if it is, whoever has the repository must sign its Release file anew",
        ),
        Fault::Key => made(ErrorKind::Config).fix(
            "get the repository's present key from whoever has it: for a source of ours set its key in apt.sources, \
             for one of another file replace the keyring that its Signed-By names",
        ),
        Fault::Temporary => {
            let fix = match host.entry("/tmp")? {
                None => "mkdir -m 1777 /tmp",
                Some(entry) if entry.kind == EntryKind::Directory && entry.mode != 0o1777 => "chmod 1777 /tmp",
                Some(_) => "see that /tmp can be written to and has room: df /tmp; findmnt --target /tmp",
            };
            Error { what: "apt cannot make temporary files in /tmp, and so checks no signature".into(), ..made(ErrorKind::Unavailable) }
                .fix(fix)
        }
    })
}

/// A source over https needs what apt reads it with, and that cannot come from the source itself.
fn refuse_without_https(host: &Host, sources: &[Source]) -> Result<()> {
    if !sources.iter().any(|source| source.keyring.is_some() && source.text.contains("https://")) {
        return Ok(());
    }
    // A package of its own until apt 1.5, in Ubuntu 16.04.
    for (path, package) in [
        ("/usr/lib/apt/methods/https", "apt-transport-https"),
        ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
    ] {
        if host.entry(path)?.is_none() {
            return Err(Error::unavailable("apt cannot read sources over https here")
                .cause(format!("{path} is not there"))
                .fix(format!("put it into the image: apt-get install {package}")));
        }
    }
    Ok(())
}

fn bare(name: &str) -> &str {
    name.split_once('=').map_or(name, |(name, _)| name)
}

/// What no source had, if the sources are still the same. `planned`: ours as they will be.
fn given_up(host: &Host, planned: Option<&[Source]>) -> Result<Vec<String>> {
    let Some(text) = host.read_text(NO_CANDIDATE)? else { return Ok(Vec::new()) };
    let mut lines = text.lines();
    if lines.next() != Some(&digest_of_sources(host, planned)?) {
        return Ok(Vec::new());
    }
    Ok(lines.map(str::to_owned).collect())
}

fn digest_of_sources(host: &Host, planned: Option<&[Source]>) -> Result<String> {
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
