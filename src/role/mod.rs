//! Roles: one TOML file each, read and checked as a whole, then rendered to steps.

mod drop_in;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use toml::Spanned;

use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::host::Host;
use crate::settings::values::VariableName;
use crate::settings::{Layer, Merged, Settings, did_you_mean, has_date, is_drop_in, nearest};
use crate::step::health::{Check, RawCheck};
use crate::step::package::ANY_VERSION;
use crate::step::{Claim, Phase, RawStep, Step};
use crate::template::{Renderer, TemplateSource, is_template};
use crate::titus::{self, Values};

pub use self::drop_in::SourceLine;
use self::drop_in::{PlacedStep, Variables};

/// The directory of the operator's roles. A file with the name of a built-in role replaces that role.
pub const DIRECTORY: &str = "/etc/titus-bootstrap/roles";

/// The path that messages show for a built-in role.
const BUILT_IN_SOURCE: &str = "built-in";

/// The roles that are built into the binary.
const BUILT_IN: [(&str, &str); 4] = [
    ("prereqs", include_str!("../../roles/prereqs.toml")),
    ("master", include_str!("../../roles/master.toml")),
    ("gateway", include_str!("../../roles/gateway.toml")),
    ("agent", include_str!("../../roles/agent.toml")),
];

/// The templates that are built into the binary. Units are in systemd/, all others in roles/files/.
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

/// A built-in template file.
pub fn built_in_template(name: &str) -> Option<&'static str> {
    TEMPLATES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    description: String,
    /// Machine names of uname(2); empty: any.
    #[serde(default)]
    architectures: Vec<String>,
    /// Whether Titus's VPC driver must support the instance's family.
    #[serde(default)]
    vpc_driver: bool,
    /// Whether the node must be listed in `zookeeper.servers`.
    #[serde(default)]
    zookeeper_server: bool,
    /// Settings that the role cannot do without.
    #[serde(default)]
    required: Vec<String>,
    #[serde(default)]
    defaults: toml::Table,
    /// The role's own settings, with their defaults.
    #[serde(default)]
    vars: Variables,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
    #[serde(default)]
    verify: Vec<RawCheck>,
}

/// A role, read and checked.
#[derive(Debug)]
pub struct Role {
    /// `agent`.
    pub name: String,
    /// A one-line description.
    pub description: String,
    /// The path it was read from.
    pub source: String,
    /// Whether Titus's VPC driver must support the instance's family.
    pub vpc_driver: bool,
    /// Whether the node must be listed in `zookeeper.servers`.
    pub zookeeper_server: bool,
    /// The files of its drop-ins, in order.
    pub drop_ins: Vec<String>,
    text: String,
    file: RoleFile,
    steps: Vec<PlacedStep>,
}

/// The names of all roles, with the path of each.
///
/// # Errors
/// Fails when the directory of the operator's roles cannot be listed.
pub fn names(host: &Host) -> Result<BTreeMap<String, String>> {
    let mut names: BTreeMap<String, String> =
        BUILT_IN.iter().map(|(name, _)| ((*name).to_owned(), BUILT_IN_SOURCE.to_owned())).collect();
    let files = host.list(DIRECTORY)?;
    for name in files.iter().filter_map(|file| file.strip_suffix(".toml")) {
        names.insert(name.to_owned(), format!("{DIRECTORY}/{name}.toml"));
    }
    for role in files.iter().filter_map(|file| file.strip_suffix(".d")) {
        if !names.contains_key(role) && !drop_in_files(host, role)?.is_empty() {
            return Err(Error::config(format!("{DIRECTORY}/{role}.d: unknown role {role:?}"))
                .cause("its drop-ins would change nothing")
                .fix(did_you_mean(role, names.keys().map(String::as_str))));
        }
    }
    Ok(names)
}

/// Whether any role on this machine has a setting of this name.
fn has_variable(host: &Host, name: &VariableName) -> bool {
    let names = names(host).unwrap_or_default();
    names.keys().any(|role| Role::load(host, role).is_ok_and(|role| role.file.vars.contains_key(name)))
}

/// The directory of a role's drop-ins.
pub fn drop_in_directory(role: &str) -> String {
    format!("{DIRECTORY}/{role}.d")
}

/// The file names of a role's drop-ins.
fn drop_in_files(host: &Host, role: &str) -> Result<Vec<String>> {
    let files = host.list(&drop_in_directory(role)).map_err(Error::as_config)?.into_iter();
    Ok(files.filter(|file| is_drop_in(file)).collect())
}

/// A path, and the text there.
type FileText = (String, String);

/// Role files from outside /etc/titus-bootstrap. They add to the installed ones, or replace those of the same name.
#[derive(Debug, Default)]
pub struct ExtraFiles {
    roles: BTreeMap<String, FileText>,
    /// By role, then by name.
    drop_ins: BTreeMap<String, BTreeMap<String, FileText>>,
}

impl ExtraFiles {
    /// Adds a file: a role with the file's name or, from a directory `ROLE.d`, a drop-in of that role. Returns the role.
    pub fn add(&mut self, host: &Host, path: &Path, text: String) -> String {
        let absolute = std::path::absolute(path).unwrap_or_default();
        let directory = absolute.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let is_whole = toml::from_str::<toml::Table>(&text).is_ok_and(|table| table.contains_key("description"));
        let of = directory.and_then(|name| name.strip_suffix(".d"));
        let of = of.filter(|role| !is_whole || names(host).is_ok_and(|names| names.contains_key(*role)));
        let text = (path.display().to_string(), text);
        match of {
            None => {
                self.roles.insert(stem(path), text);
                stem(path)
            }
            Some(role) => {
                let file = absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                self.drop_ins.entry(role.to_owned()).or_default().insert(file, text);
                role.to_owned()
            }
        }
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Reads a role file, after checking that root can trust it.
fn read(host: &Host, path: &str) -> Result<String> {
    host.refuse_untrusted(Path::new(path))?;
    crate::settings::decode_utf8(path, host.read(path).map_err(Error::as_config)?.unwrap_or_default())
}

impl Role {
    /// Reads the role of this name, compared without case.
    ///
    /// # Errors
    /// Fails when there is no such role, or when one of its files is wrong.
    pub fn load(host: &Host, name: &str) -> Result<Role> {
        Role::load_extra(host, name, &ExtraFiles::default())
    }

    /// Reads a role with additional files that are not installed.
    ///
    /// # Errors
    /// Fails for the reasons of [`Role::load`].
    pub fn load_extra(host: &Host, name: &str, files: &ExtraFiles) -> Result<Role> {
        let mut names = names(host)?;
        names.extend(files.roles.iter().map(|(name, (path, _))| (name.clone(), path.clone())));
        let Some((name, source)) = names.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) else {
            return Err(Error::config(format!("unknown role {name:?}"))
                .cause(format!("roles are: {}", names.keys().cloned().collect::<Vec<_>>().join(", ")))
                .fix(did_you_mean(name, names.keys().map(String::as_str))));
        };
        let text = match BUILT_IN.iter().find(|(known, _)| known == name && source == BUILT_IN_SOURCE) {
            Some((_, text)) => (*text).to_owned(),
            None => match files.roles.get(name) {
                Some((_, text)) => text.clone(),
                None => read(host, source)?,
            },
        };
        let mut drop_ins = BTreeMap::new();
        for file in drop_in_files(host, name)? {
            let path = format!("{DIRECTORY}/{name}.d/{file}");
            drop_ins.insert(file, (path.clone(), read(host, &path)?));
        }
        drop_ins.extend(files.drop_ins.get(name).cloned().unwrap_or_default());
        Role::assemble(name, source, text, drop_ins.into_values().collect())
    }

    /// Parses the role in a file.
    ///
    /// # Errors
    /// Fails when the role is wrong.
    pub fn parse_file(path: &Path, text: String) -> Result<Role> {
        Role::parse(&stem(path), &path.display().to_string(), text)
    }

    pub(crate) fn parse(name: &str, source: &str, text: String) -> Result<Role> {
        Role::assemble(name, source, text, Vec::new())
    }

    /// Builds a role from these texts. `drop_ins` has the path and text of each.
    pub(crate) fn assemble(
        name: &str,
        source: &str,
        mut text: String,
        drop_ins: Vec<(String, String)>,
    ) -> Result<Role> {
        let shown = if source == BUILT_IN_SOURCE { format!("role {name}") } else { source.to_owned() };
        let mut file: RoleFile = drop_in::read(&shown, &text)?;
        let mut steps = drop_in::place_steps(&shown, &text, std::mem::take(&mut file.step))?;
        if let Some(step) = steps.iter().find(|step| step.raw.before.is_some() || step.raw.after.is_some()) {
            return Err(step
                .at(Error::config("a step of a role file cannot choose its position"))
                .fix(format!("remove before and after; they are for drop-ins, which are in {DIRECTORY}/{name}.d/")));
        }
        refuse_wrong_defaults(name, &shown, &text, &file.defaults)?;
        for (path, drop_in) in &drop_ins {
            drop_in::apply(path, drop_in, &mut steps, &mut file.vars)?;
            text.push_str(&format!("\n# {path}\n\n{drop_in}"));
        }
        refuse_wrong_order(&steps)?;
        let without_names = Renderer::new(json!({}));
        steps.iter().try_for_each(|step| refuse_wrong_literals(step, &without_names))?;
        file.verify.iter().try_for_each(|check| check.check().map_err(|error| error.at(&shown)))?;
        Ok(Role {
            name: name.to_owned(),
            description: file.description.clone(),
            source: source.to_owned(),
            vpc_driver: file.vpc_driver,
            zookeeper_server: file.zookeeper_server,
            drop_ins: drop_ins.into_iter().map(|(path, _)| path).collect(),
            text,
            file,
            steps,
        })
    }

    /// Whether the role is built in and has no drop-ins.
    pub fn is_built_in(&self) -> bool {
        self.source == BUILT_IN_SOURCE && self.drop_ins.is_empty()
    }

    /// Whether the role has a step of this phase.
    pub fn has_phase(&self, phase: Phase) -> bool {
        self.steps.iter().any(|step| step.raw.phase == Some(phase))
    }

    /// The text of the role file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Settings that the role cannot do without.
    pub fn required(&self) -> &[String] {
        &self.file.required
    }

    /// Whether a setting must have a value before the role can be rendered.
    pub fn needs(&self, key: &str) -> bool {
        let servers =
            self.zookeeper_server || self.file.required.iter().any(|required| required == "zookeeper.servers");
        // Mesos masters default to the ZooKeeper hosts, so a role that needs ZooKeeper uses these.
        match key {
            "zookeeper.servers" | "mesos.masters" => servers,
            _ => self.file.required.iter().any(|required| required == key),
        }
    }

    /// The role's defaults and its own settings, as a layer.
    ///
    /// # Errors
    /// Fails when a default is not a setting.
    pub fn defaults(&self) -> Result<Layer> {
        let mut table = self.file.defaults.clone();
        if !self.file.vars.is_empty() {
            let own = toml::Value::try_from(&self.file.vars);
            table.insert("vars".to_owned(), own.map_err(|e| Error::config("[vars] cannot be read").cause(e))?);
        }
        Layer::role_defaults(&self.name, &table)
    }

    /// The role's own settings, out of all that are set. Skips those of other roles on this machine, because one image or one
    /// settings file can serve several.
    ///
    /// # Errors
    /// Fails when no role has a setting of this name, or when the value's type is not the one of this role.
    pub fn own_settings(&self, host: &Host, merged: &Merged, set: &Variables) -> Result<Variables> {
        let mut own = Variables::new();
        for (name, value) in set {
            let key = format!("vars.{}", name.as_str());
            let source = merged.source(&key).map_or_else(|| "unknown".to_owned(), ToString::to_string);
            match self.file.vars.get(name) {
                Some(default) if default.kind() == value.kind() => drop(own.insert(name.clone(), value.clone())),
                Some(default) => {
                    return Err(Error::config(format!("{key} (from {source}) is {}", value.kind()))
                        .cause(format!("role {} declares {}", self.name, default.kind()))
                        .fix(format!("set {key} to {}; put text in quotes: --set '{key}=\"…\"'", default.kind())));
                }
                None if has_variable(host, name) => {}
                None => {
                    let known: Vec<String> =
                        self.file.vars.keys().map(|name| format!("vars.{}", name.as_str())).collect();
                    let fix = if known.is_empty() {
                        "declare it with a default in [vars] of a role file or of a drop-in".to_owned()
                    } else {
                        did_you_mean(&key, known.iter().map(String::as_str))
                    };
                    return Err(
                        Error::config(format!("{key} (from {source}) is not a setting of role {}", self.name)).fix(fix)
                    );
                }
            }
        }
        Ok(own)
    }

    /// Refuses a role that cannot run on this machine.
    ///
    /// # Errors
    /// Fails with 69 when the machine is unsuitable, and with 78 when the image does not accept the role.
    pub fn refuse(&self, settings: &Settings, facts: &Facts) -> Result<()> {
        if !settings.allowed_roles.is_empty()
            && !settings.allowed_roles.iter().any(|r| r.eq_ignore_ascii_case(&self.name))
        {
            return Err(Error::config(format!("this image does not accept the role {}", self.name))
                .cause(format!("allowed_roles is {}", settings.allowed_roles.join(", ")))
                .fix(match nearest(&self.name, settings.allowed_roles.iter().map(|role| role.as_ref())) {
                    Some(like) => format!("did you mean `{}` in allowed_roles, which has {like}?", self.name),
                    None => "use an image for this role, or set allowed_roles".to_owned(),
                }));
        }
        let architecture = &facts.image.architecture;
        if !self.file.architectures.is_empty() && !self.file.architectures.contains(architecture) {
            return Err(Error::unavailable(format!("role {} does not run on {architecture}", self.name))
                .cause(format!("its packages are for {} only", self.file.architectures.join(", ")))
                .fix("use an instance type of that architecture"));
        }
        Ok(())
    }

    /// Creates a renderer with this role's templates. The operator's templates override built-in ones.
    ///
    /// # Errors
    /// Fails when a template cannot be read.
    pub fn renderer(&self, host: &Host, known: Json) -> Result<Renderer> {
        let mut renderer = Renderer::new(known);
        for name in self.steps.iter().filter_map(|step| step.raw.template()) {
            let own = format!("{DIRECTORY}/files/{name}");
            if name.contains('/') {
                return Err(Error::config(format!("role {}: template {name:?} must be a plain name", self.name)));
            }
            host.refuse_untrusted(Path::new(&own))?;
            match (host.read_text(&own).map_err(Error::as_config)?, built_in_template(name)) {
                (Some(text), _) => renderer.add_file(name, &text)?,
                (None, Some(text)) => renderer.add_file(name, text)?,
                (None, None) => {
                    return Err(Error::config(format!("role {}: unknown template {name:?}", self.name)).fix(
                        match nearest(name, TEMPLATES.iter().map(|(known, _)| *known)) {
                            Some(like) => format!("did you mean `{like}`? If not, put it at {own}"),
                            None => format!("put it at {own}"),
                        },
                    ));
                }
            }
        }
        Ok(renderer)
    }

    /// The ids of its steps; one with `each` has one.
    pub fn step_ids(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().map(|step| step.raw.id.as_str())
    }

    /// What its steps of a kind have under a key, where that is not a template: the names of its units.
    pub fn values_of(&self, kind: &str, key: &str) -> Vec<&str> {
        let texts = self.steps.iter().filter_map(|step| step.table.get(kind)?.get(key)?.as_str());
        texts.filter(|text| !is_template(text)).collect()
    }

    /// A step in its unrendered form.
    pub fn raw(&self, id: &str) -> Option<&RawStep> {
        self.find_step(id).map(|step| &step.raw)
    }

    /// The line in a drop-in of the value that a step writes under this name.
    pub fn find_drop_in_line(&self, id: &str, name: &str) -> Option<&SourceLine> {
        self.find_step(id)?.find_line(name)
    }

    fn find_step(&self, id: &str) -> Option<&PlacedStep> {
        self.steps.iter().find(|step| step.raw.id == id)
    }

    /// The names of facts and settings that the role uses, after checking each.
    ///
    /// # Errors
    /// Fails when a name does not exist, or when a step of phase bake names a fact of the instance.
    pub fn names(&self, renderer: &Renderer) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        for placed in &self.steps {
            let step = &placed.raw;
            let at = |error: Error| placed.at(error);
            let bound = step.each.as_ref().map(|_| renderer.bind_item(""));
            let renderer = bound.as_ref().unwrap_or(renderer);
            let mut texts = Vec::new();
            placed.table.iter().for_each(|(key, value)| collect_texts(key, value, &mut texts));
            let sources = texts
                .into_iter()
                .filter(|text| is_template(text))
                .map(TemplateSource::Text)
                .chain(step.when.iter().chain(&step.each).map(|expression| TemplateSource::Expression(expression)))
                .chain(step.template().map(TemplateSource::File));
            for source in sources {
                let names = renderer.names(&source).map_err(at)?;
                let of_instance = names.iter().find(|name| name.starts_with("instance.") || name.starts_with("titus."));
                if let (Some(phase @ (Phase::Bake | Phase::Keep)), Some(name)) = (step.phase, of_instance) {
                    // A value that derives from settings alone may go into an image.
                    if !titus::OF_SETTINGS.contains(&name.as_str()) {
                        let word = if phase == Phase::Bake { "bake" } else { "keep" };
                        return Err(at(Error::config(format!("has phase {word} and names {name}"))
                            .fix("an image has no instance yet: use this name only in a step of phase = \"boot\"")));
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

    /// Renders the steps of these phases.
    ///
    /// # Errors
    /// Fails when a value is missing or wrong. The error names the step.
    pub fn steps(&self, renderer: &Renderer, phases: &[Phase]) -> Result<Vec<Step>> {
        self.render_steps(renderer, phases).map_err(first_error)
    }

    /// Like [`Role::steps`], but reports every error.
    ///
    /// # Errors
    /// Returns the errors of every step.
    pub fn render_steps(&self, renderer: &Renderer, phases: &[Phase]) -> Result<Vec<Step>, Vec<Error>> {
        let raw = self.steps.iter().map(|step| &step.raw);
        let wanted = raw.filter(|raw| phases.contains(&raw.phase.unwrap_or(Phase::Boot)));
        let read = wanted.flat_map(|raw| raw.restart_on().iter().chain(raw.reload_on()));
        let read: BTreeSet<&str> = read.map(String::as_str).collect();
        let (mut steps, mut files, mut wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        for placed in &self.steps {
            let raw = &placed.raw;
            let is_wanted = phases.contains(&raw.phase.unwrap_or(Phase::Boot));
            // Render other steps only if the wanted steps read their files: other values may be unknown now.
            if !is_wanted && !read.contains(raw.id.as_str()) {
                continue;
            }
            match resolve_step(placed, renderer, &files) {
                Ok(resolved) => {
                    if let [step] = resolved.as_slice()
                        && let Some(path) = step.work().file()
                    {
                        files.insert(step.id.clone(), path.to_owned());
                    }
                    steps.extend(resolved.into_iter().filter(|_| is_wanted));
                }
                Err(error) => wrong.push(placed.at(error)),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        crate::step::name_units(&mut steps);
        refuse_disagreement(&steps).map_err(|error| vec![error])?;
        Ok(steps)
    }

    /// Renders the role's health checks.
    ///
    /// # Errors
    /// Fails when a value is missing.
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

/// Refuses steps that are out of order or lack a required key.
fn refuse_wrong_order(steps: &[PlacedStep]) -> Result<()> {
    let mut seen: BTreeMap<&str, &PlacedStep> = BTreeMap::new();
    let can_restart = |step: &PlacedStep| step.raw.can_restart() && step.raw.each.is_none();
    for step in steps {
        step.raw.check().map_err(|error| error.at(step.places()))?;
        if step.raw.phase.is_none() {
            return Err(step.at(Error::config("has no phase").fix("set phase = \"bake\", \"boot\" or \"keep\"")));
        }
        let restart_on = step.raw.restart_on().iter().map(|id| ("restart_on", id));
        for (key, id) in restart_on.chain(step.raw.reload_on().iter().map(|id| ("reload_on", id))) {
            let fitting = seen.iter().filter(|(_, step)| can_restart(step)).map(|(id, _)| *id);
            let (what, fix) = match seen.get(id.as_str()) {
                Some(before) if can_restart(before) => continue,
                Some(_) => {
                    let fitting = fitting.collect::<Vec<_>>().join(", ");
                    let fix = format!("remove it; {key} accepts these earlier steps: {fitting}");
                    ("which does not write a file that a service reads", fix)
                }
                None => ("which is not an earlier step", did_you_mean(id, fitting)),
            };
            return Err(step.at(Error::config(format!("{key} names {id:?}, {what}")).fix(fix)));
        }
        if let Some(other) = seen.insert(step.raw.id.as_str(), step) {
            return Err(Error::config(format!("two steps have the id {:?}", step.raw.id))
                .at(&step.place)
                .cause(format!("the other one: {}", other.place))
                .fix("give one of them another id"));
        }
    }
    Ok(())
}

/// Refuses defaults that are not settings, and reports their place in the role file.
fn refuse_wrong_defaults(name: &str, shown: &str, text: &str, defaults: &toml::Table) -> Result<()> {
    #[derive(Deserialize)]
    struct Defaults {
        #[serde(default)]
        defaults: Settings,
    }
    // Through the text only where an error has to be pointed at.
    let read = match defaults.clone().try_into() {
        Ok(read) if !defaults.values().any(has_date) => read,
        _ => drop_in::read::<Defaults>(shown, text)?.defaults,
    };
    let place = |key: &str| SourceLine::find_key(shown, text, &format!("defaults.{key}"));
    if !read.vars.is_empty() {
        return Err(Error::config("[defaults] has the role's own settings")
            .at(place("vars"))
            .fix("put them into [vars]"));
    }
    let mut merged = Merged::default();
    merged.add(Layer::built_in()?);
    merged.add(&Layer::role_defaults(name, defaults)?);
    merged.settings().map(drop).map_err(|error| {
        let key = error.what.split(' ').next().unwrap_or_default().to_owned();
        error.at(place(&key))
    })
}

/// Refuses a step whose literal values are wrong. Values from templates are checked later.
fn refuse_wrong_literals(step: &PlacedStep, without_names: &Renderer) -> Result<()> {
    let mut texts = Vec::new();
    step.table.iter().for_each(|(key, value)| collect_texts(key, value, &mut texts));
    if step.raw.template().is_some() || step.raw.each.is_some() || texts.iter().any(|text| is_template(text)) {
        return Ok(());
    }
    step.raw.resolve(without_names, &BTreeMap::new()).map(drop).map_err(|error| step.at(error))
}

/// The first of the errors.
fn first_error(errors: Vec<Error>) -> Error {
    errors.into_iter().next().unwrap_or_else(|| Error::failed("an error without words"))
}

/// The steps of one entry in a role file: none if its `when` is false, one for each item of `each`, or just one.
fn resolve_step(placed: &PlacedStep, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Vec<Step>> {
    let raw = &placed.raw;
    if let Some(when) = &raw.when {
        match renderer.evaluate(when)? {
            Json::Bool(true) => {}
            Json::Bool(false) => return Ok(Vec::new()),
            other => {
                return Err(Error::config(format!("when = {when:?} is {other}, neither true nor false")));
            }
        }
    }
    let Some(each) = &raw.each else {
        let mut step = raw.resolve(renderer, files)?;
        step.drop_ins = placed.drop_ins();
        debug_assert_eq!(raw.can_restart(), step.work().file().is_some(), "{}", step.id);
        return Ok(vec![step]);
    };
    let of_item = |item: String| {
        let mut step = raw.resolve(&renderer.bind_item(&item), files)?;
        step.id = format!("{}:{item}", raw.id);
        step.drop_ins = placed.drop_ins();
        Ok(step)
    };
    list(renderer.evaluate(each)?, each)?.into_iter().map(of_item).collect()
}

/// Refuses two steps that want different states of one file, unit, package or key. Each run would change it twice and never
/// finish. Refuses a path below another step's file, too.
fn refuse_disagreement(steps: &[Step]) -> Result<()> {
    const FIX: &str = "leave it to one of them, or give each a `when` that excludes the other";
    let mut decided: BTreeMap<String, (&str, Claim)> = BTreeMap::new();
    for step in steps {
        for claim in step.work().claims() {
            let Claim { thing, wish, .. } = &claim;
            match decided.get(thing) {
                // A step that accepts any version agrees with one that wants a certain version.
                Some((_, theirs)) if theirs.wish == *wish || wish == ANY_VERSION => {}
                Some((other, theirs)) if theirs.wish != ANY_VERSION => {
                    return Err(Error::config(format!(
                        "the steps {other} and {} want different things of {thing}",
                        step.id
                    ))
                    .cause(format!("{other}: {}\n{}: {wish}", theirs.wish, step.id))
                    .fix(FIX));
                }
                _ => drop(decided.insert(thing.clone(), (&step.id, claim))),
            }
        }
    }
    for (path, (id, _)) in decided.iter().filter(|(thing, _)| thing.starts_with('/')) {
        let above = Path::new(path).ancestors().skip(1).find_map(|above| decided.get(above.to_str()?));
        if let Some((other, file)) = above.filter(|(_, claim)| !claim.is_directory) {
            return Err(Error::config(format!("the step {id} wants {path}, below {}", file.thing))
                .cause(format!("{other}: {}", file.wish))
                .fix(FIX));
        }
    }
    Ok(())
}

/// The strings of a list, for a step's `each`.
fn list(value: Json, expression: &str) -> Result<Vec<String>> {
    serde_json::from_value(value).map_err(|_| {
        Error::config(format!("each = {expression:?} is not a list of texts")).fix("write a list, e.g. [\"a\", \"b\"]")
    })
}

/// All names that a template can use: facts, settings, and the values that Titus derives from them.
pub fn known_names(facts: &Facts, settings: &Settings, titus: &Values) -> Json {
    let mut known = json!(settings);
    let instance = facts.instance.as_ref().map_or_else(|| json!(crate::facts::Instance::default()), |i| json!(i));
    let instance = if facts.instance.is_some() { instance } else { clear_values(instance) };
    if let Json::Object(map) = &mut known {
        map.insert("instance".into(), instance);
        map.insert("image".into(), json!(facts.image));
        map.insert("titus".into(), json!(titus));
    }
    crate::secrets::learn("", &known);
    known
}

/// The same names without values.
fn clear_values(value: Json) -> Json {
    match value {
        Json::Object(map) if !map.is_empty() => {
            Json::Object(map.into_iter().map(|(k, v)| (k, clear_values(v))).collect())
        }
        Json::Object(map) => Json::Object(map),
        _ => Json::Null,
    }
}

fn collect_texts<'a>(key: &str, value: &'a toml::Value, into: &mut Vec<&'a str>) {
    match value {
        toml::Value::String(text) if key != "when" => into.push(text),
        toml::Value::Array(list) => list.iter().for_each(|value| collect_texts(key, value, into)),
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| collect_texts(key, value, into)),
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
        let message = format!("{:?}", steps.last().unwrap().kind);
        assert!(message.contains(r#"["/etc/one", "/etc/two"]"#), "{message}");
    }
}
