//! Roles: a TOML file each, read and checked as a whole, then rendered to steps.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::settings::{Layer, Settings, did_you_mean, parse_toml};
use crate::step::health::{Check, Raw as RawCheck};
use crate::step::package::ANY_VERSION;
use crate::step::{Claim, Phase, Raw as RawStep, Step};
use crate::template::{Renderer, Source, is_template};
use crate::titus::{self, Values};

/// Where an operator's own roles lie; a file of a built-in role's name replaces it.
pub const DIRECTORY: &str = "/etc/titus-bootstrap/roles";

/// Where a role of the binary says that it lies.
const BUILT_IN_SOURCE: &str = "built-in";

/// The roles that the binary carries.
const BUILT_IN: [(&str, &str); 4] = [
    ("prereqs", include_str!("../../roles/prereqs.toml")),
    ("master", include_str!("../../roles/master.toml")),
    ("gateway", include_str!("../../roles/gateway.toml")),
    ("agent", include_str!("../../roles/agent.toml")),
];

/// The templates that the binary carries. Units stand in systemd/, everything else in roles/files/.
const TEMPLATES: [(&str, &str); 24] = [
    ("docker.conf", include_str!("../../roles/files/docker.conf")),
    ("docker-proxy.conf", include_str!("../../roles/files/docker-proxy.conf")),
    ("docker-proxy.env", include_str!("../../roles/files/docker-proxy.env")),
    ("docker-tcp-proxy.service", include_str!("../../systemd/docker-tcp-proxy.service")),
    ("docker-tcp-proxy.socket", include_str!("../../systemd/docker-tcp-proxy.socket")),
    ("mesos-agent.service", include_str!("../../systemd/mesos-agent.service")),
    ("titus-shared.env", include_str!("../../roles/files/titus-shared.env")),
    ("titus-environment.sh", include_str!("../../roles/files/titus-environment.sh")),
    ("executor-config.sh", include_str!("../../roles/files/executor-config.sh")),
    ("executor-config.json", include_str!("../../roles/files/executor-config.json")),
    ("mesos-attributes.sh", include_str!("../../roles/files/mesos-attributes.sh")),
    ("mesos-agent.env", include_str!("../../roles/files/mesos-agent.env")),
    ("05-titus-primary.network", include_str!("../../roles/files/05-titus-primary.network")),
    ("10-ens3.network", include_str!("../../roles/files/10-ens3.network")),
    ("10-eth0.network", include_str!("../../roles/files/10-eth0.network")),
    ("20-else.network", include_str!("../../roles/files/20-else.network")),
    ("ready.conf", include_str!("../../roles/files/ready.conf")),
    ("zoo.cfg", include_str!("../../roles/files/zoo.cfg")),
    ("titus-server-master.env", include_str!("../../roles/files/titus-server-master.env")),
    ("titus-server-master.service", include_str!("../../systemd/titus-server-master.service")),
    ("titus-server-gateway.service", include_str!("../../systemd/titus-server-gateway.service")),
    ("titus-instance-groups.service", include_str!("../../systemd/titus-instance-groups.service")),
    ("titus-instance-groups.timer", include_str!("../../systemd/titus-instance-groups.timer")),
    ("titus-bootstrap-reboot.service", include_str!("../../systemd/titus-bootstrap-reboot.service")),
];

/// A template file that the binary carries.
pub fn built_in_template(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    /// As uname(2) names them; empty: any.
    #[serde(default)]
    architectures: Vec<String>,
    /// Whether the instance's family must be one that Titus's VPC driver knows.
    #[serde(default)]
    vpc_driver: bool,
    /// Whether the node must be one of `zookeeper.servers`.
    #[serde(default)]
    zookeeper_server: bool,
    /// Settings without which the role makes no sense.
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    defaults: toml::Table,
    #[serde(default)]
    step: Vec<RawStep>,
    #[serde(default)]
    verify: Vec<RawCheck>,
}

/// A role, read and checked.
#[derive(Debug)]
pub struct Role {
    /// `agent`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Where it was read.
    pub source: String,
    /// Whether the instance's family must be one that Titus's VPC driver knows.
    pub vpc_driver: bool,
    /// Whether the node must be one of `zookeeper.servers`.
    pub zookeeper_server: bool,
    text: String,
    file: File,
}

/// The names of all roles, and where each lies.
///
/// # Errors
/// When the directory of the operator's roles cannot be listed.
pub fn names(host: &Host) -> Result<BTreeMap<String, String>> {
    let mut names: BTreeMap<String, String> =
        BUILT_IN.iter().map(|(name, _)| ((*name).to_owned(), BUILT_IN_SOURCE.to_owned())).collect();
    for file in host.list(DIRECTORY)? {
        if let Some(name) = file.strip_suffix(".toml") {
            names.insert(name.to_owned(), format!("{DIRECTORY}/{file}"));
        }
    }
    Ok(names)
}

impl Role {
    /// Reads the role of this name, compared without case.
    ///
    /// # Errors
    /// When there is none, or its file is wrong.
    pub fn load(host: &Host, name: &str) -> Result<Role> {
        let names = names(host)?;
        let Some((name, source)) = names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            return Err(Error::config(format!("there is no role {name:?}"))
                .cause(format!("roles are: {}", names.keys().cloned().collect::<Vec<_>>().join(", ")))
                .fix(did_you_mean(name, names.keys().map(String::as_str))));
        };
        let text = match BUILT_IN.iter().find(|(known, _)| known == name && source == BUILT_IN_SOURCE) {
            Some((_, text)) => (*text).to_owned(),
            None => {
                host.refuse_untrusted(Path::new(source))?;
                String::from_utf8(host.read(source).map_err(Error::as_config)?.unwrap_or_default())
                    .map_err(|e| Error::config(format!("{source}: is not UTF-8")).cause(e))?
            }
        };
        Role::parse(name, source, text)
    }

    /// Reads a role file from anywhere, to check it.
    ///
    /// # Errors
    /// When it is wrong.
    pub fn from_file(path: &std::path::Path) -> Result<Role> {
        let shown = path.display().to_string();
        let cannot = |e: &dyn std::fmt::Display| Error::config(format!("{shown}: cannot be read")).cause(e);
        let bytes = crate::host::fs::read_named(path)?;
        let text = String::from_utf8(bytes).map_err(|e| cannot(&e))?;
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Role::parse(&name, &shown, text)
    }

    pub(crate) fn parse(name: &str, source: &str, text: String) -> Result<Role> {
        let shown = if source == BUILT_IN_SOURCE { format!("role {name}") } else { source.to_owned() };
        let file: File = parse_toml(&shown, &text)?;
        let mut seen: BTreeMap<&str, bool> = BTreeMap::new();
        for step in &file.step {
            let at = |error: Error| error.at(&shown);
            step.check().map_err(at)?;
            if step.phase.is_none() {
                return Err(at(Error::config(format!("step {}: has no phase", step.id))
                    .fix("phase = \"bake\", \"boot\" or \"keep\"")));
            }
            for id in step.restart_on() {
                let fitting = seen.iter().filter(|(_, can_restart)| **can_restart).map(|(id, _)| *id);
                let (what, fix) = match seen.get(id.as_str()) {
                    Some(true) => continue,
                    Some(false) => {
                        let fitting = fitting.collect::<Vec<_>>().join(", ");
                        let fix = format!("remove it; of the steps before it, restart_on takes these: {fitting}");
                        ("which writes no file that a service reads", fix)
                    }
                    None => ("which is not a step before it", did_you_mean(id, fitting)),
                };
                return Err(at(Error::config(format!("step {}: restart_on names {id:?}, {what}", step.id)).fix(fix)));
            }
            if seen.insert(step.id.as_str(), step.can_restart() && step.each.is_none()).is_some() {
                return Err(at(Error::config(format!("two steps have the id {:?}", step.id))));
            }
        }
        Ok(Role {
            name: name.to_owned(),
            description: file.description.clone(),
            source: source.to_owned(),
            vpc_driver: file.vpc_driver,
            zookeeper_server: file.zookeeper_server,
            text,
            file,
        })
    }

    /// Whether the binary carries it.
    pub fn is_built_in(&self) -> bool {
        self.source == BUILT_IN_SOURCE
    }

    /// Whether a step of it has this phase.
    pub fn has_phase(&self, phase: Phase) -> bool {
        self.file.step.iter().any(|step| step.phase == Some(phase))
    }

    /// The role file, as it was read.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Settings without which the role makes no sense.
    pub fn required(&self) -> &[String] {
        &self.file.required
    }

    /// Whether a setting has to have a value before the role can be rendered.
    pub fn needs(&self, key: &str) -> bool {
        let servers =
            self.zookeeper_server || self.file.required.iter().any(|required| required == "zookeeper.servers");
        // Mesos masters are by default where ZooKeeper's servers are: who needs those uses these.
        match key {
            "zookeeper.servers" | "mesos.masters" => servers,
            _ => self.file.required.iter().any(|required| required == key),
        }
    }

    /// The role's defaults, as a layer of settings.
    ///
    /// # Errors
    /// When one is no setting.
    pub fn defaults(&self) -> Result<Layer> {
        Layer::of_role(&self.name, &self.file.defaults)
    }

    /// Refuses a role that cannot be run, or not on this machine.
    ///
    /// # Errors
    /// 69, or 78 when the image does not accept the role.
    pub fn refuse(&self, settings: &Settings, facts: &Facts) -> Result<()> {
        if !settings.allowed_roles.is_empty()
            && !settings.allowed_roles.iter().any(|r| r.eq_ignore_ascii_case(&self.name))
        {
            return Err(Error::config(format!("this image does not accept the role {}", self.name))
                .cause(format!("allowed_roles is {}", settings.allowed_roles.join(", ")))
                .fix("use an image for this role, or set allowed_roles"));
        }
        let architecture = &facts.image.architecture;
        if !self.file.architectures.is_empty() && !self.file.architectures.contains(architecture) {
            return Err(Error::unavailable(format!("role {} does not run on {architecture}", self.name))
                .cause(format!("its packages are for {} only", self.file.architectures.join(", ")))
                .fix("use an instance type of that architecture"));
        }
        Ok(())
    }

    /// A renderer with this role's templates; an operator's of the same name win.
    ///
    /// # Errors
    /// When a template cannot be read.
    pub fn renderer(&self, host: &Host, known: Json) -> Result<Renderer> {
        let mut renderer = Renderer::new(known);
        for name in self.file.step.iter().filter_map(RawStep::template) {
            let own = format!("{DIRECTORY}/files/{name}");
            if name.contains('/') {
                return Err(Error::config(format!("role {}: template {name:?} must be a plain name", self.name)));
            }
            host.refuse_untrusted(Path::new(&own))?;
            match (host.read_text(&own).map_err(Error::as_config)?, built_in_template(name)) {
                (Some(text), _) => renderer.add_file(name, &text)?,
                (None, Some(text)) => renderer.add_file(name, text)?,
                (None, None) => {
                    return Err(Error::config(format!("role {}: there is no template {name:?}", self.name))
                        .fix(format!("put it at {own}")));
                }
            }
        }
        Ok(renderer)
    }

    /// A step as the role file has it.
    pub fn raw(&self, id: &str) -> Option<&RawStep> {
        self.file.step.iter().find(|step| step.id == id)
    }

    /// The names of facts and settings that the role uses, each checked.
    ///
    /// # Errors
    /// When one does not exist, or a step of phase bake names a fact of the instance.
    pub fn names(&self, renderer: &Renderer) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        let tables: toml::Table = parse_toml(&self.source, &self.text)?;
        let raw = tables.get("step").and_then(toml::Value::as_array);
        for (step, table) in self.file.step.iter().zip(raw.into_iter().flatten()) {
            let at = |error: Error| error.at(format!("role {}: step {}", self.name, step.id));
            let with_item = step.each.as_ref().map(|_| renderer.with_item(Json::String(String::new())));
            let renderer = with_item.as_ref().unwrap_or(renderer);
            let mut texts = Vec::new();
            strings(table, &mut texts);
            let sources = texts
                .into_iter()
                .filter(|text| is_template(text))
                .map(Source::Text)
                .chain(step.when.iter().chain(&step.each).map(|expression| Source::Expression(expression)))
                .chain(step.template().map(Source::File));
            for source in sources {
                let names = renderer.names(&source).map_err(at)?;
                let of_instance = names.iter().find(|name| name.starts_with("instance.") || name.starts_with("titus."));
                if let (Some(phase @ (Phase::Bake | Phase::Keep)), Some(name)) = (step.phase, of_instance) {
                    // What is derived of settings alone is as good in an image.
                    if !titus::OF_SETTINGS.contains(&name.as_str()) {
                        let word = if phase == Phase::Bake { "bake" } else { "keep" };
                        return Err(at(Error::config(format!("has phase {word} and names {name}"))
                            .fix("no instance is asked then: only a step of phase = \"boot\" knows it")));
                    }
                }
                all.extend(names.into_iter().filter(|name| name != "item"));
            }
        }
        if self.file.verify.iter().any(|check| check.asks_mesos()) {
            all.insert("mesos.masters".into());
        }
        Ok(all)
    }

    /// The steps of these phases, every template rendered.
    ///
    /// # Errors
    /// When a value is missing or wrong; the step is named.
    pub fn steps(&self, renderer: &Renderer, phases: &[Phase]) -> Result<Vec<Step>> {
        let wanted = self.file.step.iter().filter(|raw| phases.contains(&raw.phase.unwrap_or(Phase::Boot)));
        let read: BTreeSet<&str> = wanted.flat_map(RawStep::restart_on).map(String::as_str).collect();
        let mut files = BTreeMap::new();
        let mut steps = Vec::new();
        for raw in &self.file.step {
            let phase = raw.phase.unwrap_or(Phase::Boot);
            // Of the others, only those whose files the wanted ones read: their values may not be known now.
            if !phases.contains(&phase) && !read.contains(raw.id.as_str()) {
                continue;
            }
            let at = |error: Error| error.at(format!("step {}", raw.id));
            if let Some(when) = &raw.when {
                match renderer.evaluate(when).map_err(at)? {
                    Json::Bool(true) => {}
                    Json::Bool(false) => continue,
                    other => {
                        return Err(at(Error::config(format!("when = {when:?} is {other}, neither true nor false"))));
                    }
                }
            }
            let Some(each) = &raw.each else {
                let step = raw.resolve(renderer, &files).map_err(at)?;
                debug_assert_eq!(raw.can_restart(), step.work().file().is_some(), "{}", step.id);
                if let Some(path) = step.work().file() {
                    files.insert(step.id.clone(), path.to_owned());
                }
                if phases.contains(&phase) {
                    steps.push(step);
                }
                continue;
            };
            for item in list(renderer.evaluate(each).map_err(at)?, each).map_err(at)? {
                let mut step = raw.resolve(&renderer.with_item(Json::String(item.clone())), &files).map_err(at)?;
                step.id = format!("{}:{item}", raw.id);
                steps.push(step);
            }
        }
        crate::step::name_units(&mut steps);
        refuse_disagreement(&steps)?;
        Ok(steps)
    }

    /// The role's health checks.
    ///
    /// # Errors
    /// When a value is missing.
    pub fn checks(&self, renderer: &Renderer, settings: &Settings, facts: &Facts) -> Result<Vec<Check>> {
        let resolve = |raw: &RawCheck| raw.resolve(renderer, settings, facts);
        self.file
            .verify
            .iter()
            .map(resolve)
            .collect::<Result<_>>()
            .map_err(|error| error.at(format!("role {}", self.name)))
    }
}

/// Refuses two steps that want different things of one file, unit, package or key: each run would change it twice, and never
/// be done.
fn refuse_disagreement(steps: &[Step]) -> Result<()> {
    let mut decided: BTreeMap<String, (&str, String)> = BTreeMap::new();
    for step in steps {
        for Claim { thing, wish } in step.work().claims() {
            match decided.get(&thing) {
                // Whatever version is there is as good as the one that the other step wants.
                Some((_, theirs)) if *theirs == wish || wish == ANY_VERSION => {}
                Some((other, theirs)) if theirs != ANY_VERSION => {
                    return Err(Error::config(format!(
                        "the steps {other} and {} want different things of {thing}",
                        step.id
                    ))
                    .cause(format!("{other}: {theirs}\n{}: {wish}", step.id))
                    .fix("leave it to one of them, or give each a `when` that excludes the other"));
                }
                _ => drop(decided.insert(thing, (&step.id, wish))),
            }
        }
    }
    Ok(())
}

/// The texts of a list, for a step's `each`.
fn list(value: Json, expression: &str) -> Result<Vec<String>> {
    serde_json::from_value(value)
        .map_err(|e| Error::config(format!("each = {expression:?} is not a list of texts")).cause(e))
}

/// Everything that a template can name: facts, settings, and what Titus derives of them.
pub fn known_names(facts: &Facts, settings: &Settings, titus: &Values) -> Json {
    let mut known = json!(settings);
    let instance = facts.instance.as_ref().map_or_else(|| json!(crate::facts::Instance::default()), |i| json!(i));
    let instance = if facts.instance.is_some() { instance } else { nulled(instance) };
    if let Json::Object(map) = &mut known {
        map.insert("instance".into(), instance);
        map.insert("image".into(), json!(facts.image));
        map.insert("titus".into(), json!(titus));
    }
    crate::secrets::learn("", &known);
    known
}

/// The same names without values.
fn nulled(value: Json) -> Json {
    match value {
        Json::Object(map) if !map.is_empty() => Json::Object(map.into_iter().map(|(k, v)| (k, nulled(v))).collect()),
        Json::Object(map) => Json::Object(map),
        _ => Json::Null,
    }
}

fn strings<'a>(value: &'a toml::Value, into: &mut Vec<&'a str>) {
    match value {
        toml::Value::String(text) => into.push(text),
        toml::Value::Array(list) => list.iter().for_each(|v| strings(v, into)),
        toml::Value::Table(table) => table.iter().filter(|(key, _)| *key != "when").for_each(|(_, v)| strings(v, into)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_containers_can_depend_on_every_step_that_writes_a_file() {
        let text = "description = ''\n\
                    [[step]]\nid = 'one'\nphase = 'bake'\nfile = { path = '/etc/one', content = '' }\n\
                    [[step]]\nid = 'two'\nphase = 'boot'\nproperties = { path = '/etc/two', set = { a = 'b' } }\n\
                    [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', restart_on = ['one', 'two'] }\n";
        let role = Role::parse("mine", "mine.toml", text.into()).unwrap();
        let steps = role.steps(&Renderer::new(json!({})), &[Phase::Boot]).unwrap();
        let told = format!("{:?}", steps.last().unwrap().kind);
        assert!(told.contains(r#"["/etc/one", "/etc/two"]"#), "{told}");
    }
}
