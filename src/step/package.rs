//! These packages are installed, or an exact version is, and held.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Change, Claim, Kind, Planned, State, Step, Work, deb};
use crate::error::{Error, Kind as ErrorKind, Result};
use crate::host::Host;
use crate::host::apt::{OUR_SOURCES, SOURCE_PARTS, Source};
use crate::host::fs::Owner;
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

impl super::RawKind for Raw {}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Packages> {
        Ok(Packages { names: self.names.get(renderer)?, optional: self.optional, setting: self.setting.clone() })
    }
}

impl Packages {
    /// Names without versions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| bare(name))
    }

    /// What is not as it should be: the name as the settings have it, and how it is now.
    fn lacking(&self, host: &Host) -> Result<Vec<(&str, String)>> {
        let given_up = if self.optional { given_up(host, None)? } else { Vec::new() };
        self.lacking_of(host, &given_up)
    }

    /// The same, without those that were given up.
    fn lacking_of(&self, host: &Host, given_up: &[String]) -> Result<Vec<(&str, String)>> {
        let mut lacking = Vec::new();
        for wanted in &self.names {
            let version = wanted.split_once('=').map(|(_, version)| version);
            let now = match host.package(bare(wanted))? {
                Some(found) if found.status == "installed" => match version {
                    Some(version) if version != found.version => format!("is {}", found.version),
                    Some(_) if !found.held => "is not on hold".into(),
                    _ => continue,
                },
                Some(found) if found.status != "not-installed" => format!("is {}", found.status),
                _ => "is not installed".into(),
            };
            if !(self.optional && (given_up.contains(wanted) || host.goes_without(wanted))) {
                lacking.push((wanted.as_str(), now));
            }
        }
        Ok(lacking)
    }
}

impl Work for Packages {
    fn claims(&self) -> Vec<Claim> {
        let claim = |wanted: &String| {
            let version = wanted.split_once('=').map_or("any version", |(_, version)| version);
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
        let lacking = self.lacking(host)?;
        let changes =
            lacking.iter().map(|(name, now)| Change::new(format!("install {name} ({now})"))).collect::<Vec<_>>();
        if changes.is_empty() && self.optional {
            let given_up = given_up(host, None)?;
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
        let lacking: Vec<String> = self.lacking(host)?.into_iter().map(|(name, _)| name.to_owned()).collect();
        host.install_packages(&lacking)
    }

    fn ask(&self, host: &Host) -> Result<()> {
        host.watch_packages(self.names());
        Ok(())
    }
}

/// Before anything is changed: apt has a candidate for every package that
/// will be installed, and lists for what a deb depends on. `sources` as they will stand in /etc/apt.
///
/// # Errors
/// 69 when it has not; 75 when its lists could not be had.
pub fn refuse_without_candidate(steps: &[Step], host: &Host, sources: &[Source]) -> Result<()> {
    let packages: Vec<&Packages> = steps
        .iter()
        .filter_map(|step| if let Kind::Package(packages) = &step.kind { Some(packages) } else { None })
        .collect();
    if !host.is_live() {
        return Ok(());
    }
    let deb_lacks = deb::is_lacking(host, steps)?;
    if packages.is_empty() && !deb_lacks {
        return Ok(());
    }
    // A source that is new may have what none had before.
    let asked_before = given_up(host, Some(sources))?;
    let mut wanted = Vec::new();
    for one in &packages {
        let lacking = one.lacking_of(host, &asked_before)?;
        wanted.extend(lacking.into_iter().map(|(name, _)| (name.to_owned(), *one)));
    }
    if wanted.is_empty() && !deb_lacks {
        host.go_without(asked_before.into_iter());
        return Ok(());
    }
    refuse_without_https(host, sources)?;
    let names: Vec<&str> = wanted.iter().map(|(name, _)| bare(name)).collect();
    let complaint = host.look_up_candidates(sources, &names)?;
    let missing = wanted.iter().find(|(name, one)| !one.optional && !has_candidate(host, name));
    let Some((name, packages)) = missing else {
        // Whether a deb needs any of them, apt knows when it has it.
        if let (true, Some(words)) = (deb_lacks, &complaint) {
            tracing::warn!("not every list of apt's sources could be had: {}", crate::secrets::masked(words));
        }
        return go_without(host, sources, &wanted, asked_before, complaint.is_none());
    };
    host.forget_candidates()?;
    let what = format!("no source has the package {name}");
    let files: Vec<&str> = sources.iter().map(|source| source.file.as_str()).collect();
    let asked = format!("asked: /etc/apt/sources.list, /etc/apt/sources.list.d and {}", files.join(", "));
    let setting = packages.setting.as_deref().unwrap_or("the role file");
    Err(match complaint {
        Some(words) => Error::new(ErrorKind::TemporaryFailure, what).cause(format!("{asked}\napt said:\n{words}")),
        None => Error::unavailable(what).cause(asked),
    }
    .fix(format!("check {setting} and apt.sources: `titus-bootstrap config show`")))
}

/// A source over https needs what apt reads it with, and that cannot come from the source itself.
fn refuse_without_https(host: &Host, sources: &[Source]) -> Result<()> {
    if !sources.iter().any(|source| source.text.contains("https://")) {
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

/// What no source has is left out of this run, and of later ones until a source changes; of
/// this one alone if not every source could be asked.
fn go_without(
    host: &Host,
    sources: &[Source],
    wanted: &[(String, &Packages)],
    mut names: Vec<String>,
    all_asked: bool,
) -> Result<()> {
    let before = names.len();
    names.extend(wanted.iter().map(|(name, _)| name).filter(|name| !has_candidate(host, name)).cloned());
    if all_asked && names.len() > before {
        let text = format!("{}\n{}\n", digest_of_sources(host, Some(sources))?, names.join("\n"));
        host.write(NO_CANDIDATE, text.as_bytes(), 0o644, Owner::ROOT)?;
    }
    host.go_without(names.into_iter());
    Ok(())
}

fn has_candidate(host: &Host, wanted: &str) -> bool {
    let versions = host.candidates(bare(wanted));
    wanted.split_once('=').map_or(!versions.is_empty(), |(_, version)| versions.iter().any(|known| known == version))
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
        Some(sources) => files.extend(sources.iter().map(|s| (s.file.clone(), s.text.clone().into_bytes()))),
        None => {
            for name in host.list(SOURCE_PARTS)?.into_iter().filter(|name| name.starts_with(OUR_SOURCES)) {
                let text = host.read(&format!("{SOURCE_PARTS}/{name}"))?.unwrap_or_default();
                files.insert(name, text);
            }
        }
    }
    let mut digest = Sha256::new();
    digest.update(host.read("/etc/apt/sources.list")?.unwrap_or_default());
    for (name, text) in files {
        digest.update([0]);
        digest.update(name);
        digest.update([0]);
        digest.update(text);
    }
    Ok(crate::step::hex(&digest.finalize()))
}
