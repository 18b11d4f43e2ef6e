//! Collects everything that a run would refuse without examining a machine; for `check`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::detect::{self, Detected};
use super::gather::{Gathered, Reported, facts};
use super::layers::{Layers, used_names};
use super::request::{FactSource, Phases, Request};
use super::{Prepared, from_gathered, refuse_missing, refuse_unknown_required};
use crate::error::{Error, Result};
use crate::facts::{Facts, sample};
use crate::host::Host;
use crate::role::{self, Role};
use crate::settings::schema::VpcDriver;
use crate::settings::values::host_port;
use crate::settings::{Layer, MESOS_PORT, Merged, Settings, Source, ZOOKEEPER_PORT, did_you_mean, parse_toml};
use crate::titus::instance_types;
use crate::titus::vpc_driver::refuse_unknown;
use crate::userdata;

/// Descriptions of correct input, and all errors.
#[derive(Debug, Default)]
pub struct Checked {
    /// Correct input: files, the merged settings, roles.
    pub good: Vec<String>,
    /// Errors in reading order: files, the merged settings, roles.
    pub wrong: Vec<Error>,
}

impl Checked {
    fn take(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => self.good.push(name.to_owned()),
            Err(error) => self.wrong.push(error),
        }
    }
}

/// A file named on the command line.
enum NamedFile {
    Settings(Layer),
    /// A role, or a drop-in of a role.
    Role(String),
    UserData(Vec<u8>),
}

/// Checks the named files as if they were in /etc/titus-bootstrap, and user data among them as if it were the instance's; or
/// checks the installed files. Resolves the role from the command line, settings or facts, as a run would; without one,
/// resolves each role for which these settings are complete.
///
/// # Errors
/// Does not fail: the result contains all errors.
pub fn check(request: &Request, host: &mut Host, files: &[PathBuf]) -> Checked {
    let mut checked = Checked::default();
    let (mut roles, mut role_files) = (role::ExtraFiles::default(), BTreeMap::<String, Vec<String>>::new());
    let (mut user_data, mut image_layers) = (Vec::new(), Vec::new());
    for path in files {
        let name = path.display().to_string();
        match read(path) {
            Ok(NamedFile::UserData(bytes)) => user_data.push((name, bytes)),
            Ok(NamedFile::Settings(layer)) => {
                checked.good.push(name);
                image_layers.push(Ok(layer));
            }
            Ok(NamedFile::Role(text)) => {
                role_files.entry(roles.add(host, path, text)).or_default().push(name);
            }
            Err(errors) => checked.wrong.extend(errors),
        }
    }
    for (role, names) in &role_files {
        match Role::load_extra(host, role, &roles) {
            Ok(_) => checked.good.extend(names.iter().cloned()),
            Err(error) => checked.wrong.push(error),
        }
    }
    if files.is_empty() {
        image_layers = Layer::files(host);
    }
    let (mut layers, wrong) = Layers::read_all(request, image_layers);
    checked.wrong.extend(wrong);
    for (name, bytes) in user_data {
        let all =
            userdata::settings(&bytes).ok().flatten().and_then(|text| Layer::parse_all(&Source::UserData, &text).err());
        match all {
            Some(errors) => checked.wrong.extend(errors),
            None => checked.take(&name, layers.take_user_data(request, &bytes)),
        }
    }
    let known = known_facts(request);
    let known = known.map_err(|error| checked.wrong.push(error)).ok().flatten();
    checked.wrong.extend(known.as_ref().and_then(|facts| layers.take_tags(facts).err()));
    let settings = layers.merged(None).and_then(|merged| crate::step::check_settings(&merged.settings()?));
    match settings {
        Ok(()) if checked.wrong.is_empty() => checked.good.push("settings".to_owned()),
        // Each role would repeat the same errors.
        result => {
            checked.wrong.extend(result.err());
            return checked;
        }
    }
    checked.wrong.extend(refuse_unknown_roles(host, &layers, role_files.keys()).err());
    let mut image: Option<Prepared> = None;
    for (wanted, found) in
        select_roles(request, host, &layers, known.as_ref(), role_files.into_keys(), &mut checked.wrong)
    {
        let role = Role::load_extra(host, &wanted, &roles);
        let is_asked_for = found.is_some();
        match role.and_then(|role| prepare_role(request, host, &layers, known.clone(), role, found)) {
            Err(error) => checked.wrong.push(error),
            Ok(prepared) => {
                let errors = prepared.as_ref().map(collect_errors).unwrap_or_default();
                if !errors.is_empty() {
                    checked.wrong.extend(errors);
                    continue;
                }
                let Some(prepared) = prepared else {
                    checked.good.push(format!("role {wanted}, not resolved: it needs more than these settings"));
                    continue;
                };
                checked.good.push(format!("role {wanted}"));
                if !is_asked_for {
                    continue;
                }
                match &mut image {
                    Some(image) => image.others.push(prepared),
                    None => image = Some(prepared),
                }
            }
        }
    }
    if let Some(image) = image.filter(|image| !image.others.is_empty()) {
        checked.take("their image", image.steps(Phases::Bake).map(drop));
    }
    checked
}

fn read(path: &Path) -> Result<NamedFile, Vec<Error>> {
    let bytes = crate::host::fs::read_named(path).map_err(|error| vec![error])?;
    if userdata::settings(&bytes).map_err(|error| vec![error.at(path.display())])?.is_some() {
        return Ok(NamedFile::UserData(bytes));
    }
    let text = String::from_utf8_lossy(&bytes);
    if userdata::is_foreign(&text) {
        return Err(vec![
            Error::config(format!("{}: it is {}", path.display(), userdata::describe(&bytes)))
                .fix("name settings, a role, or user data that begins with #!/usr/bin/titus-bootstrap"),
        ]);
    }
    let table = parse_toml::<toml::Table>("", &text);
    if table.is_ok_and(|table| ["step", "description", "change"].iter().any(|key| table.contains_key(*key))) {
        return Ok(NamedFile::Role(text.into_owned()));
    }
    Layer::parse_file_all(path.display().to_string(), bytes).map(NamedFile::Settings)
}

/// The given facts. Never reads this machine, which need not be the node.
fn known_facts(request: &Request) -> Result<Option<Facts>> {
    if request.facts == FactSource::Instance {
        return Ok(None);
    }
    facts(request, &Merged::default()).map(|Reported { facts, .. }| Some(facts))
}

/// The roles to resolve, each with its evidence, which is absent for a role that nobody asked for.
fn select_roles(
    request: &Request,
    host: &Host,
    layers: &Layers,
    facts: Option<&Facts>,
    named_roles: impl Iterator<Item = String>,
    wrong: &mut Vec<Error>,
) -> Vec<(String, Option<Detected>)> {
    let Ok(merged) = layers.merged(None) else { return Vec::new() };
    let mut roles = Vec::new();
    let flags: Vec<Option<&str>> = request.roles.iter().map(|role| Some(role.as_str())).collect();
    for flag in if flags.is_empty() { vec![None] } else { flags } {
        match detect::role(flag, &merged, facts, None) {
            Ok(detected) => roles.push((detected.role.clone(), Some(detected))),
            // A run on the node with these facts would not find a role either.
            Err(error) if facts.is_some_and(|facts| facts.instance.is_some()) => wrong.push(error),
            Err(_) => {}
        }
    }
    // A named file is checked even if its role is not this node's.
    for role in named_roles {
        if !roles.iter().any(|(other, _)| *other == role) {
            roles.push((role, None));
        }
    }
    if roles.is_empty() && wrong.is_empty() {
        let all = role::names(host).map_err(|error| wrong.push(error)).unwrap_or_default();
        roles.extend(all.into_keys().map(|name| (name, None)));
    }
    roles
}

/// Refuses names in `allowed_roles` that no role has: every node with these settings would be refused.
fn refuse_unknown_roles<'a>(host: &Host, layers: &Layers, named: impl Iterator<Item = &'a String>) -> Result<()> {
    let known: Vec<String> = role::names(host)?.into_keys().chain(named.cloned()).collect();
    let merged = layers.merged(None)?;
    let allowed = merged.settings()?.allowed_roles;
    let Some(unknown) = allowed.iter().find(|role| !known.iter().any(|known| role.eq_ignore_ascii_case(known))) else {
        return Ok(());
    };
    let source = merged.source("allowed_roles").map(ToString::to_string).unwrap_or_default();
    Err(Error::config(format!("{source}: allowed_roles names {:?}, which is not a role", &**unknown))
        .fix(did_you_mean(unknown, known.iter().map(String::as_str))))
}

/// All errors that a run would report for the steps and health checks of a role.
fn collect_errors(prepared: &Prepared) -> Vec<Error> {
    let steps = prepared.role.render_steps(&prepared.renderer, Phases::All.list());
    let all = steps.err().into_iter().flatten().chain(prepared.checks().err());
    all.map(|error| error.at(&prepared.role.name)).collect()
}

/// Prepares a role as a run would. A role that nobody asked for is prepared only if these settings are complete for it, which
/// the operator's own roles do not declare themselves.
fn prepare_role(
    request: &Request,
    host: &mut Host,
    layers: &Layers,
    known: Option<Facts>,
    role: Role,
    detected: Option<Detected>,
) -> Result<Option<Prepared>> {
    let (_, used) = used_names(host, &role)?;
    let mut merged = layers.merged(Some(&role))?;
    let mut facts = known.clone().unwrap_or_else(|| sample::role_facts(Some(&role.name)));
    let address = facts.instance.as_ref().map(|instance| instance.local_ipv4.clone()).unwrap_or_default();
    local_layers(&merged, &merged.settings()?, &address)?.iter().for_each(|layer| merged.add(layer));
    let settings = merged.settings()?;
    if known.is_none() {
        adapt_facts(&mut facts, &settings);
    }
    refuse_unknown_required(&role, &serde_json::json!(settings))?;
    let is_enough =
        || role.refuse(&settings, &facts).and_then(|()| refuse_missing(&role, &settings, |_| false)).is_ok();
    // An operator's own role does not declare all that it needs.
    let is_fact = |name: &String| ["instance.", "image.", "titus."].iter().any(|facts| name.starts_with(facts));
    let has_all = || role.is_built_in() || used.iter().all(|name| is_fact(name) || merged.has(name));
    if detected.is_none() && !(is_enough() && has_all()) {
        return Ok(None);
    }
    let detected = detected.unwrap_or(Detected { role: role.name.clone(), evidence: Vec::new() });
    let gathered = Gathered {
        facts,
        role,
        detected,
        merged,
        ignored_tags: layers.ignored_tags(),
        unknown_tags: None,
        // Treat every name in it as present.
        has_user_data: true,
    };
    // Do not resolve names.
    let offline = Request { facts: known.map_or(FactSource::Sample, |_| request.facts.clone()), ..request.clone() };
    from_gathered(&offline, gathered, host).map(Some)
}

/// Where a run would ask the API for addresses, uses that of the node itself: `check` asks nobody.
fn local_layers(merged: &Merged, settings: &Settings, address: &str) -> Result<Vec<Layer>> {
    let (zookeeper, mesos, master) = (&settings.zookeeper, &settings.mesos, &settings.master);
    let texts = [
        (zookeeper.discover.is_some() && zookeeper.servers.is_empty())
            .then(|| format!("zookeeper.servers = ['{address}:{ZOOKEEPER_PORT}']")),
        (mesos.discover.is_some() && merged.source("mesos.masters").is_none())
            .then(|| format!("mesos.masters = ['{address}:{MESOS_PORT}']")),
        (master.discover.is_some() && master.address.is_none()).then(|| format!("master.address = '{address}'")),
    ];
    texts.into_iter().flatten().map(|text| Layer::parse(Source::Sample, &text)).collect()
}

/// Adapts the built-in facts to these settings: the node is one of the ZooKeeper servers, has a type that the VPC
/// driver supports, and has room for the reserve.
fn adapt_facts(facts: &mut Facts, settings: &Settings) {
    let Some(instance) = &mut facts.instance else { return };
    if let Some((host, _)) = settings.zookeeper.servers.first().and_then(|server| host_port(server)) {
        let is_address = host.parse::<Ipv4Addr>().is_ok();
        *(if is_address { &mut instance.local_ipv4 } else { &mut instance.hostname }) = host.to_owned();
    }
    if refuse_unknown(settings, &instance.instance_type).is_err() {
        let listed = match &settings.agent.vpc_driver {
            Some(VpcDriver::Types(types)) => types.as_slice(),
            _ => &[],
        };
        let own = listed.iter().chain(settings.instance_types.keys()).map(|name| name.as_str().to_owned());
        let mut all = own.chain(instance_types::names().map(str::to_owned));
        let known = all.find(|name| refuse_unknown(settings, name).is_ok());
        instance.instance_type = known.unwrap_or_else(|| instance.instance_type.clone());
    }
    (instance.memory_mib, instance.disk_mib) = (A_TEBIBYTE, A_TEBIBYTE);
}

/// Megabytes in MiB.
const A_TEBIBYTE: u64 = 1 << 20;
