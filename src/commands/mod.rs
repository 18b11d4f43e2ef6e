//! The commands: one file each, and what they share: from the command line to a role's steps.

pub mod activate;
pub mod apply;
pub mod check;
pub mod config;
pub mod facts;
pub mod instance_type;
pub mod keep;
pub mod plan;
pub mod print;
pub mod role;
pub mod seal;
pub mod status;
pub mod verify;
pub mod why;

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::cli::{Global, Phase as PhaseArgument, Steps};
use crate::ec2::imds;
use crate::error::{Error, Result};
use crate::facts::{Facts, machine, sample};
use crate::host::net::Proxy;
use crate::host::{Deadlines, Host};
use crate::prepare::cloud::{self, Cloud};
use crate::prepare::detect::{self, Detected};
use crate::prepare::shared_image;
use crate::role::{Role, known_names};
use crate::run::report::Report;
use crate::settings::schema::{self, Timeout, Timeouts};
use crate::settings::{Layer, Merged, Settings};
use crate::step::{Phase, Step};
use crate::template::{Renderer, how_to_set};
use crate::titus::{Values, agent};
use crate::userdata;

/// Everything that a command knows before it looks at the first step.
pub struct Prepared {
    /// The role.
    pub role: Role,
    /// How it was found.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
    /// The same, checked.
    pub settings: Settings,
    /// Facts.
    pub facts: Facts,
    /// What Titus derives of settings and facts.
    pub values: Values,
    /// The role's templates over all of this.
    pub renderer: Renderer,
    /// The same of further roles, for an image of several.
    pub others: Vec<Prepared>,
}

/// The unit that runs `apply --at-boot`; systemd/titus-bootstrap.service.
pub const BOOT_UNIT: &str = "titus-bootstrap.service";

/// A name of a ZooKeeper server, looked up once, before anything is changed.
const LOOKUP: Duration = Duration::from_secs(10);

/// The phases that an argument means. Phase `keep` has a timer and a command of its own.
pub fn phases(argument: PhaseArgument) -> &'static [Phase] {
    match argument {
        PhaseArgument::Bake => &[Phase::Bake],
        PhaseArgument::Boot => &[Phase::Boot],
        PhaseArgument::All => &[Phase::Bake, Phase::Boot],
    }
}

/// The machine, or the tree of --root.
///
/// # Errors
/// When the tree cannot be made.
pub fn host(global: &Global) -> Result<Host> {
    match &global.root {
        None => Ok(Host::live(Deadlines::default())),
        Some(root) => Host::tree(root, Deadlines::default()),
    }
}

/// Refuses a live machine without apt, or on which no systemd runs units.
fn refuse_machine(host: &Host, phase: PhaseArgument) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    if !host.has_apt()? {
        return Err(Error::unavailable("this machine has no apt and dpkg")
            .cause("/usr/bin/apt-get or /usr/bin/dpkg is not there")
            .fix("roles install Debian packages: use an image of Debian or Ubuntu"));
    }
    if phase != PhaseArgument::Bake && host.entry("/run/systemd/system")?.is_none() {
        return Err(Error::unavailable("systemd does not run this machine")
            .cause("/run/systemd/system is not there")
            .fix("use an image of Debian or Ubuntu with systemd; in an image without a running one: --phase bake"));
    }
    Ok(())
}

/// Settings from files and flags, without those of role, instance and user data.
pub struct Early {
    below: Vec<Layer>,
    above: Vec<Layer>,
    /// Their sum.
    pub merged: Merged,
}

/// Reads what can be read before the instance is asked.
///
/// # Errors
/// When a file or flag is wrong.
pub fn early(global: &Global, host: &Host, user_data: Option<&Path>) -> Result<Early> {
    let mut below = Vec::new();
    if global.sample {
        below.push(Layer::parse("sample", sample::SETTINGS)?);
    }
    below.extend(Layer::files(host)?);
    let mut above = Vec::new();
    for path in user_data.into_iter().chain(global.config.as_deref()) {
        above.push(Layer::file(path)?);
    }
    for assignment in &global.set {
        above.push(Layer::assignment(assignment)?);
    }
    let merged = sum(&[Layer::built_in()?], &below, &above);
    Ok(Early { below, above, merged })
}

impl Early {
    /// Their sum over the defaults of a role.
    ///
    /// # Errors
    /// When a default is no setting.
    pub fn over(&self, role: &Role) -> Result<Merged> {
        Ok(sum(&[Layer::built_in()?, role.defaults()?], &self.below, &self.above))
    }
}

/// A role's own settings, and the names that it uses: over facts of which only the names count.
///
/// # Errors
/// When a name does not exist.
pub fn names_of(host: &Host, role: &Role) -> Result<(Merged, BTreeSet<String>)> {
    let merged = sum(&[Layer::built_in()?, role.defaults()?], &[], &[]);
    let known = known_names(&sample::facts(), &merged.settings()?, &Values::default());
    let names = role.names(&role.renderer(host, known)?)?;
    Ok((merged, names))
}

fn sum(first: &[Layer], below: &[Layer], above: &[Layer]) -> Merged {
    let mut merged = Merged::default();
    first.iter().chain(below).chain(above).for_each(|layer| merged.add(layer));
    merged
}

/// A table of the settings that is needed before they are whole.
fn part<T: DeserializeOwned + Default>(merged: &Merged, name: &str) -> T {
    merged.table.get(name).cloned().and_then(|table| table.try_into().ok()).unwrap_or_default()
}

fn timeouts(merged: &Merged) -> Timeouts {
    part(merged, "timeouts")
}

fn or(timeout: Option<Timeout>, default: Duration) -> Duration {
    timeout.map_or(default, |Timeout(duration)| duration)
}

/// What the instance and the machine say.
pub struct Asked {
    /// Facts.
    pub facts: Facts,
    /// The user data as the instance has it.
    user_data: Option<Vec<u8>>,
    /// Who can be asked for more; nobody where facts are made up, or an image is baked.
    pub cloud: Option<Cloud>,
}

impl From<Facts> for Asked {
    fn from(facts: Facts) -> Asked {
        Asked { facts, user_data: None, cloud: None }
    }
}

/// Facts, and the user data. `bake`: the image alone is asked.
///
/// # Errors
/// 69 where there is plainly no instance, 75 at the deadline, 78 when an answer is wrong.
pub fn facts(global: &Global, early: &Early, bake: bool) -> Result<Asked> {
    if global.sample {
        return Ok(sample::facts_of(global.role()).into());
    }
    if let Some(path) = &global.facts {
        return Ok(facts_from(path)?.into());
    }
    let live = Host::live(Deadlines::default());
    let mut sources = BTreeMap::new();
    let image = machine::image(&live, &mut sources)?;
    let schema_version = crate::SCHEMA_VERSION;
    if bake {
        return Ok(Facts { schema_version, instance: None, image, sources }.into());
    }
    let endpoint = imds::Endpoint::from_env()?;
    if !endpoint.is_given() && !machine::is_ec2(&live) {
        return Err(Error::unavailable("this machine is no EC2 instance: it has no facts of one")
            .cause("its firmware (DMI) does not say Amazon EC2")
            .fix("give facts with --facts FILE, or try it on built-in ones: --sample --root ./node"));
    }
    if !endpoint.is_default() {
        tracing::info!("the metadata service is {endpoint}");
    }
    let limit = or(timeouts(&early.merged).facts, Duration::from_secs(120));
    let deadline = Instant::now() + limit;
    let answers = imds::read(&endpoint, limit)?;
    let mut instance = answers.instance;
    sources.extend(answers.sources);
    machine::complete(&live, &mut instance, &mut sources)?;
    let cloud = Cloud::new(endpoint, &instance.region, proxy(part(&early.merged, "proxy")), deadline);
    let facts = Facts { schema_version, instance: Some(instance), image, sources };
    Ok(Asked { facts, user_data: answers.user_data, cloud: Some(cloud) })
}

/// The proxies of the settings, as the host goes through them.
pub fn proxy(set: schema::Proxy) -> Proxy {
    Proxy { http: set.http, https: set.https, no_proxy: set.no_proxy }
}

/// Whether the settings let the EC2 API be asked for tags.
fn may_ask_for_tags(merged: &Merged) -> bool {
    part::<schema::Tags>(merged, "tags").api
}

fn facts_from(path: &Path) -> Result<Facts> {
    let shown = path.display();
    let wrong = |cause: &dyn std::fmt::Display| {
        Error::config(format!("{shown}: is no print of facts"))
            .cause(cause)
            .fix("make one with: titus-bootstrap facts --json")
    };
    let text = std::fs::read_to_string(path).map_err(|e| wrong(&e))?;
    let mut facts: Facts = serde_json::from_str(&text).map_err(|e| wrong(&e))?;
    if facts.schema_version != crate::SCHEMA_VERSION {
        return Err(wrong(&format!("its schema_version is {}", facts.schema_version)));
    }
    facts.sources.values_mut().for_each(|source| source.push_str(&format!(", as {shown} says")));
    for part in ["instance", "image"] {
        facts.sources.entry(part.to_owned()).or_insert_with(|| shown.to_string());
    }
    Ok(facts)
}

/// What is known before anything is refused.
pub struct Gathered {
    /// Facts.
    pub facts: Facts,
    /// The role.
    pub role: Role,
    /// How it was found.
    pub detected: Detected,
    /// The settings, each with its source.
    pub merged: Merged,
}

/// From the command line to facts, role and settings.
///
/// # Errors
/// When one of them cannot be had.
pub fn gather(global: &Global, host: &Host, steps: &Steps) -> Result<Gathered> {
    gather_for(global, global.role(), host, steps)
}

/// The same, with this role instead of that of the command line.
fn gather_for(global: &Global, role: Option<&str>, host: &Host, steps: &Steps) -> Result<Gathered> {
    let mut early = early(global, host, steps.user_data.as_deref())?;
    let Asked { mut facts, user_data, mut cloud } = facts(global, &early, steps.phase == PhaseArgument::Bake)?;
    let mut of_user_data = Vec::new();
    if let Some(text) = user_data.as_deref().map(userdata::settings).transpose()?.flatten() {
        of_user_data.push(Layer::parse("user data", &text)?);
        of_user_data.extend(words_of(&text)?);
    }
    let below_tags: Vec<Layer> = early.below.iter().chain(&of_user_data).cloned().collect();
    let merged = sum(&[Layer::built_in()?], &below_tags, &early.above);
    if let Some(cloud) = cloud.as_mut().filter(|_| may_ask_for_tags(&merged)) {
        let is_told = detect::role(role, &merged, None).is_ok();
        // An instance that has a lifecycle state is in a group, and will have its tag.
        let in_group = facts.instance.as_ref().is_some_and(|instance| instance.lifecycle_state.is_some());
        let enough = |tags: &BTreeMap<String, String>| {
            (is_told || detect::tag_keys(&merged).any(|key| tags.contains_key(key)))
                && (!in_group || tags.contains_key(crate::facts::GROUP_TAG))
        };
        cloud.tags(&mut facts, enough, !is_told)?;
    }
    if let Some(tags) = facts.instance.as_ref().and_then(|instance| instance.tags.as_ref()) {
        early.below.extend(Layer::tags(tags)?);
    }
    early.below.extend(of_user_data);
    let merged = sum(&[Layer::built_in()?], &early.below, &early.above);
    let detected = detect::role(role, &merged, Some(&facts))?;
    let role = Role::load(host, &detected.role)?;
    let mut merged = early.over(&role)?;
    if steps.phase != PhaseArgument::Bake {
        let settings = merged.settings()?;
        let limit = deadlines(&merged).wait;
        let found = cloud::peers(cloud.as_mut(), &facts, &merged, &settings, &role, limit)?;
        found.iter().for_each(|layer| merged.add(layer));
        if let Some(instance) = facts.instance.as_ref().filter(|_| role.vpc_driver)
            && agent::lacks_numbers(&settings, instance)
        {
            cloud::type_numbers(host, cloud.as_mut(), &mut facts)?;
        }
    }
    Ok(Gathered { facts, role, detected, merged })
}

/// From the command line to a role that can be rendered; while an image is baked, to several.
///
/// # Errors
/// Everything that can be refused before the machine is looked at.
pub fn prepare(global: &Global, host: &mut Host, steps: &Steps) -> Result<Prepared> {
    let mut prepared = prepare_for(global, global.role(), host, steps)?;
    let mut names = vec![prepared.role.name.clone()];
    for role in global.role.iter().skip(1) {
        let other = prepare_for(global, Some(role), host, steps)?;
        if !names.contains(&other.role.name) {
            names.push(other.role.name.clone());
            prepared.others.push(other);
        }
    }
    Ok(prepared)
}

fn prepare_for(global: &Global, role: Option<&str>, host: &mut Host, steps: &Steps) -> Result<Prepared> {
    let gathered = gather_for(global, role, host, steps)?;
    prepared(global, gathered, host, steps)
}

/// From facts, role and settings to a role that can be rendered.
///
/// # Errors
/// Everything that can be refused before the machine is looked at.
pub fn prepared(global: &Global, gathered: Gathered, host: &mut Host, steps: &Steps) -> Result<Prepared> {
    let Gathered { facts, role, detected, merged } = gathered;
    let settings = merged.settings()?;
    role.refuse(&settings, &facts)?;
    host.deadlines = deadlines(&merged);
    host.proxy = proxy(settings.proxy.clone());
    let from_environment = std::env::var("DOCKER_HOST").ok().filter(|address| !address.is_empty());
    if let Some(address) = settings.docker.host.clone().or(from_environment) {
        host.docker = address;
    }
    host.bar = std::io::stderr().is_terminal() && global.reports_to_people();
    let bake = steps.phase == PhaseArgument::Bake;
    let values = match &facts.instance {
        Some(instance) if role.vpc_driver && !bake => {
            Values::of_agent(&settings, instance).map_err(|error| cloud::with_tags(error, &facts))?
        }
        Some(instance) if role.zookeeper_server && !bake => {
            let resolve = |name: &str| host.addresses(name, LOOKUP).unwrap_or_default();
            Values::of_prereqs(&settings, instance, &resolve)?
        }
        _ => Values::of_settings(&settings),
    };
    if !bake {
        refuse_without_required(&role, &settings).map_err(|error| cloud::with_tags(error, &facts))?;
    }
    let renderer = role.renderer(host, known_names(&facts, &settings, &values))?;
    // Those of the binary are checked by its tests.
    if !role.is_built_in() {
        role.names(&renderer)?;
    }
    Ok(Prepared { role, detected, merged, settings, facts, values, renderer, others: Vec::new() })
}

fn deadlines(merged: &Merged) -> Deadlines {
    let (timeouts, default) = (timeouts(merged), Deadlines::default());
    Deadlines {
        apt_lock: or(timeouts.apt_lock, default.apt_lock),
        download: or(timeouts.download, default.download),
        pull: or(timeouts.pull, default.pull),
        unit: or(timeouts.unit, default.unit),
        wait: or(timeouts.wait, default.wait),
    }
}

/// `--role` and `--set` on the `#!` line of user data.
fn words_of(text: &str) -> Result<Vec<Layer>> {
    use clap::Parser;
    let words = userdata::arguments(text);
    let cli = crate::cli::Cli::try_parse_from(std::iter::once("titus-bootstrap").chain(words))
        .map_err(|e| Error::config("user data: the words on its first line cannot be read").cause(e.render()))?;
    let place = "first line of user data: ";
    if cli.global.role.len() > 1 {
        return Err(Error::config("user data: its first line has more than one --role").fix("a node has one role"));
    }
    let role = cli
        .global
        .role
        .into_iter()
        .next()
        .map(|role| Layer::parse(&format!("{place}--role"), &format!("role = {}", toml::Value::String(role))));
    role.into_iter().chain(cli.global.set.iter().map(|assignment| Layer::assignment_from(place, assignment))).collect()
}

fn refuse_without_required(role: &Role, settings: &Settings) -> Result<()> {
    let known = serde_json::json!(settings);
    let has = |name: &str| {
        let found = name.split('.').try_fold(&known, |at, part| at.get(part));
        found.is_some_and(|value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()))
    };
    let missing: Vec<&str> = role.required().iter().map(String::as_str).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let how = |name: &&str| if *name == "zookeeper.servers" { how_to_set("prereqs") } else { how_to_set(name) };
    Err(Error::config(format!("role {} needs {}", role.name, missing.join(" and ")))
        .fix(missing.iter().map(how).collect::<Vec<_>>().join("\n")))
}

impl Prepared {
    /// The steps of these phases.
    ///
    /// # Errors
    /// When a value is missing or wrong, or two roles disagree.
    pub fn steps(&self, phase: PhaseArgument) -> Result<Vec<Step>> {
        let of = |one: &Prepared| -> Result<Vec<Step>> {
            let steps = one.role.steps(&one.renderer, phases(phase)).map_err(|e| e.at(&one.role.name))?;
            let Some(why) = one.put_off() else { return Ok(steps) };
            Ok(steps.into_iter().map(|step| step.put_off(&why)).collect())
        };
        if self.others.is_empty() {
            return of(self);
        }
        let roles: Result<Vec<_>> = self.all().map(|one| Ok((one.role.name.as_str(), of(one)?))).collect();
        shared_image::merge(&roles?)
    }

    /// This one and the others.
    fn all(&self) -> impl Iterator<Item = &Prepared> {
        std::iter::once(self).chain(&self.others)
    }

    /// The role's name; of several, all.
    pub fn names(&self) -> String {
        self.all().map(|one| one.role.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// The text of the role file; of several, of all.
    pub fn text(&self) -> String {
        self.all().map(|one| one.role.text()).collect()
    }

    /// Begins a report: everything but the steps.
    pub fn introduce(&self, report: &mut Report, host: &Host) {
        report.role = self.names();
        report.role_evidence =
            self.all().flat_map(|one| one.detected.evidence.iter().map(ToString::to_string)).collect();
        report.instance_id = self.instance_id();
        report.warm_pool = self.warm_pool().map(str::to_owned);
        report.root = host.root().display().to_string();
        report.notices = self.all().flat_map(|one| one.notices(host)).collect();
        // What is not about one role is said once.
        let mut told = BTreeSet::new();
        report.notices.retain(|notice| told.insert(notice.clone()));
    }

    /// The instance's id; empty while an image is baked.
    pub fn instance_id(&self) -> String {
        self.facts.instance.as_ref().map(|instance| instance.id.clone()).unwrap_or_default()
    }

    /// What an operator should know and no step tells.
    fn notices(&self, host: &Host) -> Vec<String> {
        let mut notices: Vec<String> = self.put_off().into_iter().collect();
        if let Some(listen) = self.settings.agent.docker_listen.as_ref().filter(|_| self.role.vpc_driver) {
            let loopback =
                listen.starts_with("127.") || listen.starts_with("[::1]") || listen.starts_with("localhost:");
            if !loopback {
                notices.push(format!("agent.docker_listen is {listen}: who reaches it is root on this node"));
            }
        }
        let servers = self.settings.zookeeper.servers.len();
        if self.role.zookeeper_server && servers > 1 && servers.is_multiple_of(2) {
            notices.push(format!(
                "zookeeper.servers has {servers} servers, an even number: a quorum is {}, so it bears the loss of {}, as {} servers would; use an odd number",
                servers / 2 + 1,
                (servers - 1) / 2,
                servers - 1
            ));
        }
        if !host.is_live() && !host.may_chown() {
            notices.push("owners are not set: this process is not root".into());
        }
        notices
    }
}
