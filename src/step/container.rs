//! A container runs from this image with this specification.
//!
//! What it was made of is a label, with a digest of that and of the files that it reads. One that
//! is made of something else is replaced: the old one keeps its data, under another name, until the
//! new one runs, and comes back if it does not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::file::{checked_path, diff};
use super::wait::{self, Wait};
use super::{Change, Planned, RawKind, State, Work, ensemble, hex};
use crate::error::{Error, Kind, Result};
use crate::host::docker::{Container as Found, Engine, Port, Specification};
use crate::host::fs::look::EntryKind;
use crate::host::{Host, signals};
use crate::template::{Renderer, Templated};

/// The label with all that a container of ours was made of, as JSON.
const MADE_OF: &str = "titus-bootstrap.made-of";

/// The label with the digest of that.
const DIGEST: &str = "titus-bootstrap.digest";

/// The label with the id that the image had then: what a container's own field names differs
/// between the engine's image stores.
const IMAGE: &str = "titus-bootstrap.image";

/// What the old container is called while the new one has not run yet.
const OLD: &str = "titus-bootstrap-old";

/// So long a container without a question must run to count as running.
const STEADY: Duration = Duration::from_secs(2);

/// So often may a new container be restarted by the engine before it counts as broken.
const RESTARTS: i64 = 2;

const PAUSE: Duration = Duration::from_millis(50);

/// Where an engine that ever ran keeps its containers.
const CONTAINERS: &str = "/var/lib/docker/containers";

/// Log drivers whose files have a size and a number (Docker documentation, "Configure logging drivers").
const DRIVERS_WITH_FILES: [&str; 2] = ["json-file", "local"];

/// As a role file has it. An item of a list that is empty is left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    name: Templated<String>,
    image: Templated<String>,
    #[serde(default)]
    command: Vec<Templated<String>>,
    #[serde(default)]
    environment: Vec<Templated<String>>,
    network: Option<Templated<String>>,
    /// `2181:2181` is published; `5050`, in the host's network, is listened to by the container.
    #[serde(default)]
    ports: Vec<Templated<String>>,
    #[serde(default)]
    binds: Vec<Templated<String>>,
    restart: Option<Templated<String>>,
    #[serde(default)]
    labels: BTreeMap<String, Templated<String>>,
    log: Option<Log>,
    user: Option<Templated<String>>,
    /// Whether a container of that name that someone else made may be replaced.
    adopt: Option<Templated<bool>>,
    /// Ids of file steps beside the files that it binds: it is replaced when their contents change.
    #[serde(default)]
    restart_on: Vec<String>,
    /// A question whose answer says that it runs.
    ready: Option<wait::Raw>,
    /// Of a ZooKeeper server: when it may be stopped or first started.
    ensemble: Option<ensemble::Raw>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    driver: Option<Templated<String>>,
    max_size: Option<Templated<String>>,
    max_file: Option<Templated<String>>,
}

/// A container.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    made_of: Specification,
    adopt: bool,
    files: Vec<String>,
    ready: Option<Wait>,
    ensemble: Option<ensemble::Ensemble>,
}

/// What a container is compared by.
struct Wanted {
    made_of: String,
    digest: String,
}

impl Raw {
    pub(super) fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Container> {
        let list = |items: &[Templated<String>]| -> Result<Vec<String>> {
            let items = items.iter().map(|item| item.get(renderer)).collect::<Result<Vec<_>>>()?;
            Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
        };
        let text = |item: &Option<Templated<String>>, default: &str| {
            item.as_ref().map_or_else(|| Ok(default.to_owned()), |item| item.get(renderer))
        };
        let name = text(&Some(self.name.clone()), "")?;
        if name.is_empty() || name.chars().any(|c| !c.is_ascii_alphanumeric() && !"_-".contains(c)) {
            return Err(Error::config(format!("{name:?} is no container's name")).fix("letters, digits, `_` and `-`"));
        }
        let restart = text(&self.restart, "no")?;
        if !["no", "always", "unless-stopped", "on-failure"].contains(&restart.as_str()) {
            return Err(Error::config(format!("{name}: restart is no, always, unless-stopped or on-failure")));
        }
        let network = text(&self.network, "bridge")?;
        let binds = list(&self.binds)?;
        for bind in &binds {
            let (host, _) = split_bind(bind).ok_or_else(|| Error::config(format!("{name}: {bind:?} is no bind")))?;
            checked_path(host.to_owned())?;
        }
        let ports = list(&self.ports)?;
        let ports = ports.iter().map(|port| parse_port(port, &network)).collect::<Result<Vec<_>>>();
        let mut labels = BTreeMap::new();
        for (key, value) in &self.labels {
            labels.insert(key.clone(), value.get(renderer)?);
        }
        let (log_driver, log_options) =
            self.log.as_ref().map_or_else(|| Ok(Default::default()), |log| log.resolve(renderer))?;
        Ok(Container {
            made_of: Specification {
                image: self.image.get(renderer)?,
                command: list(&self.command)?,
                environment: list(&self.environment)?,
                network,
                ports: ports.map_err(|error| error.at(&name))?,
                binds,
                restart,
                labels,
                log_driver,
                log_options,
                user: text(&self.user, "")?,
            },
            adopt: self.adopt.as_ref().map_or(Ok(false), |adopt| adopt.get(renderer))?,
            files: self.restart_on.iter().filter_map(|id| files.get(id).cloned()).collect(),
            ready: self.ready.as_ref().map(|ready| ready.resolve(renderer)).transpose()?,
            ensemble: self.ensemble.as_ref().map(|ensemble| ensemble.resolve(renderer)).transpose()?,
            name,
        })
    }
}

impl Log {
    fn resolve(&self, renderer: &Renderer) -> Result<(String, BTreeMap<String, String>)> {
        let text = |item: &Option<Templated<String>>| item.as_ref().map(|item| item.get(renderer)).transpose();
        let driver = text(&self.driver)?.unwrap_or_default();
        let options = [("max-size", text(&self.max_size)?), ("max-file", text(&self.max_file)?)];
        let has_files = DRIVERS_WITH_FILES.contains(&driver.as_str());
        let options = options.into_iter().filter(|_| has_files);
        Ok((driver, options.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()))
    }
}

fn split_bind(bind: &str) -> Option<(&str, &str)> {
    let (host, rest) = bind.split_once(':')?;
    let inside = rest.strip_suffix(":ro").unwrap_or(rest);
    (inside.starts_with('/') && !inside.contains(':')).then_some((host, inside))
}

fn parse_port(text: &str, network: &str) -> Result<Port> {
    let wrong = || {
        Error::config(format!("{text:?} is no port"))
            .fix("HOST:CONTAINER or ADDRESS:HOST:CONTAINER; in the host's network the port alone")
    };
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong);
    let parts: Vec<&str> = text.rsplitn(3, ':').collect();
    let (address, host, container) = match (parts.as_slice(), network) {
        ([port], "host") => ("", *port, *port),
        ([container, host], _) if network != "host" => ("", *host, *container),
        ([container, host, address], _) if network != "host" => (*address, *host, *container),
        _ => return Err(wrong()),
    };
    Ok(Port {
        address: address.trim_matches(['[', ']']).to_owned(),
        host: number(host)?,
        container: number(container)?,
    })
}

/// Whether we made it.
pub fn is_ours(found: &Found) -> bool {
    found.labels.contains_key(DIGEST)
}

impl Container {
    /// The command that would run the same, as people know it.
    fn as_command(&self) -> String {
        let made_of = &self.made_of;
        let mut words = vec!["docker run -d".to_owned(), format!("--name={}", self.name)];
        let mut add = |option: &str, value: &str| {
            if !value.is_empty() {
                words.push(format!("--{option}={}", crate::template::shell(value).unwrap_or_default()));
            }
        };
        add("network", &made_of.network);
        for port in made_of.ports.iter().filter(|_| made_of.network != "host") {
            let at = if port.address.is_empty() { String::new() } else { format!("{}:", port.address) };
            add("publish", &format!("{at}{}:{}", port.host, port.container));
        }
        made_of.binds.iter().for_each(|bind| add("volume", bind));
        add("restart", &made_of.restart);
        made_of.environment.iter().for_each(|variable| add("env", variable));
        made_of.labels.iter().for_each(|(key, value)| add("label", &format!("{key}={value}")));
        add("log-driver", &made_of.log_driver);
        made_of.log_options.iter().for_each(|(key, value)| add("log-opt", &format!("{key}={value}")));
        add("user", &made_of.user);
        let rest = std::iter::once(&made_of.image).chain(&made_of.command);
        words.extend(rest.filter_map(|word| crate::template::shell(word).ok()));
        words.join(" ")
    }

    fn old_name(&self) -> String {
        format!("{}-{OLD}", self.name)
    }

    fn wanted(&self, host: &Host, planned: &Planned) -> Result<Wanted> {
        let mut files = BTreeMap::new();
        let bound = self.made_of.binds.iter().filter_map(|bind| Some(split_bind(bind)?.0));
        for path in bound.chain(self.files.iter().map(String::as_str)) {
            let contents = match planned.get(path) {
                Some(contents) => Some(contents.clone()),
                None if host.entry(path)?.is_some_and(|entry| entry.kind == EntryKind::File) => host.read(path)?,
                None => None,
            };
            // A directory's contents are the container's own.
            if let Some(contents) = contents {
                files.insert(path.to_owned(), hex(&Sha256::digest(contents)));
            }
        }
        let mut made_of = json!(self.made_of);
        made_of["files"] = json!(files);
        let made_of = made_of.to_string();
        Ok(Wanted { digest: hex(&Sha256::digest(&made_of)), made_of })
    }

    /// Why it is not made of what is wanted; nothing: it is.
    fn differences(&self, engine: &Engine, found: &Found, wanted: &Wanted) -> Result<Option<Change>> {
        if found.labels.get(DIGEST) != Some(&wanted.digest) {
            let pretty = |text: &str| {
                let value: Json = serde_json::from_str(text).unwrap_or_default();
                (format!("{value:#}\n"), value)
            };
            let (before, was) = pretty(found.labels.get(MADE_OF).map_or("", String::as_str));
            let (after, will) = pretty(&wanted.made_of);
            let keys = will.as_object().into_iter().flat_map(|map| map.keys());
            let changed: Vec<&str> = keys.filter(|key| was.get(key) != will.get(key)).map(String::as_str).collect();
            let line = format!("replace the container {} ({} changed)", self.name, changed.join(", "));
            return Ok(Some(Change { line, diff: Some(diff(&before, &after)) }));
        }
        // A tag that names another image now; one that names none is the image step's matter.
        let image = engine.image(&self.made_of.image)?;
        Ok(image.filter(|image| found.labels.get(IMAGE) != Some(&image.id)).map(|_| {
            Change::new(format!("replace the container {} ({} is another image now)", self.name, self.made_of.image))
        }))
    }

    fn refuse_foreign(&self, host: &Host, found: &Found) -> Result<()> {
        if !self.adopt {
            let name = &self.name;
            return Err(Error::unavailable(format!("a container {name} is there that titus-bootstrap did not make"))
                .cause(format!("{} ({}), of image {}", short(&found.id), found.told(), found.image))
                .fix(format!(
                    "to let it be replaced, its data copied to the host first: --set containers.adopt=true; or rename it: docker rename {name} {name}-before"
                )));
        }
        self.copies(found).try_for_each(|(to, _)| host.refuse_other_data(&found.id, to))
    }

    /// Whether its ports may be taken by the container itself, under whichever name.
    fn may_have_its_ports(&self, host: &Host) -> Result<bool> {
        // With live-restore containers outlive the engine that does not answer.
        let Ok(engine) = host.engine() else { return Ok(host.entry(CONTAINERS)?.is_some()) };
        let has_process = |found: Found| ["running", "paused", "restarting"].contains(&found.status.as_str());
        for name in [&self.name, &self.old_name()] {
            if engine.container(name)?.is_some_and(has_process) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn refuse_taken_ports(&self, host: &Host) -> Result<()> {
        for port in &self.made_of.ports {
            if let Some(holder) = host.listener(port.host)? {
                return Err(Error::unavailable(format!("port {} is taken, and {} needs it", port.host, self.name))
                    .cause(format!("{holder} listens on it"))
                    .fix("stop that process, and see that it does not come back"));
            }
        }
        Ok(())
    }

    /// Directories of someone else's container that are copied: where to, and where they lie in it.
    fn copies<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = (&'a str, &'a str)> {
        let writable = self.made_of.binds.iter().filter(|bind| !bind.ends_with(":ro"));
        writable.filter_map(|bind| split_bind(bind)).filter(|(to, inside)| {
            !found.mounts.iter().any(|(source, destination)| source == to && destination == inside)
        })
    }

    fn refuse_foreign_beside(&self, other: &Found) -> Result<()> {
        let (name, old) = (&self.name, self.old_name());
        Err(Error::failed(format!("the containers {name} and {old} are both there, and {name} is not ours"))
            .cause(format!("{name} is {} ({})", short(&other.id), other.told()))
            .fix(format!("rename it away (docker rename {name} {name}-before): then {old} is put back")))
    }

    fn create(&self, engine: &Engine, wanted: &Wanted) -> Result<String> {
        let image = engine.image(&self.made_of.image)?.map(|image| image.id).unwrap_or_default();
        let labels = [(MADE_OF, wanted.made_of.as_str()), (DIGEST, &wanted.digest), (IMAGE, &image)];
        engine.create(&self.name, &self.made_of, &labels)
    }

    /// From the old container, whatever its state, to the new one, which is created. The old one
    /// comes back if that fails.
    fn change_over(&self, host: &Host, engine: &Engine, old: &Found, new: &Found) -> Result<()> {
        let adopts = !is_ours(old);
        if let (Some(ensemble), true) = (&self.ensemble, old.is_running())
            && let Err(error) = ensemble.wait_for_turn(host, adopts)
        {
            engine.remove(&new.id, true)?;
            return Err(self.rename_back(engine, old, error));
        }
        let changed = || -> Result<()> {
            engine.stop(&old.id)?;
            // Once it was started, the data are its own, and newer.
            if adopts && new.status == "created" {
                self.copies(old).try_for_each(|(to, inside)| host.copy_out(engine, &old.id, inside, to))?;
            }
            if let (Some(ensemble), "created") = (&self.ensemble, new.status.as_str()) {
                ensemble.refuse_loss(host, adopts)?;
            }
            self.start(host, engine, &new.id)
        };
        if let Err(error) = changed() {
            return Err(self.put_back(host, engine, old, &new.id, error));
        }
        if adopts {
            self.copies(old).try_for_each(|(to, _)| host.own_copy(to))?;
            tracing::info!(
                "the volumes of the container {} that was replaced are left: docker volume ls",
                short(&old.id)
            );
        }
        engine.remove(&old.id, !adopts)
    }

    fn rename_back(&self, engine: &Engine, old: &Found, error: Error) -> Error {
        match engine.rename(&old.id, &self.name) {
            Ok(()) => error,
            Err(also) => with(error, &format!("and it keeps the name {}: {also}", self.old_name())),
        }
    }

    fn put_back(&self, host: &Host, engine: &Engine, old: &Found, new: &str, error: Error) -> Error {
        let back = || -> Result<()> {
            engine.remove(new, true)?;
            engine.rename(&old.id, &self.name)?;
            // As it is now: it was stopped.
            let now = engine.container(&old.id)?.unwrap_or_else(|| old.clone());
            engine.start(&now)?;
            self.await_running(host, engine, &old.id, None)
        };
        match back() {
            Ok(()) => with(error, "the container that was there before runs again"),
            Err(also) => with(error, &format!("and the container that was there before does not run again: {also}")),
        }
    }

    fn start(&self, host: &Host, engine: &Engine, id: &str) -> Result<()> {
        let found = engine.container(id)?.ok_or_else(|| Error::failed("the container is gone"))?;
        tracing::info!("starting the container {}", self.name);
        if let Err(error) = engine.start(&found) {
            // The engine does not say who has a port.
            let taken = self.refuse_taken_ports(host).err().filter(|_| error.to_string().contains("already"));
            return Err(match taken {
                Some(taken) => Error { kind: Kind::Failed, ..taken },
                None => error.at(format!("the container {}", self.name)),
            });
        }
        self.await_running(host, engine, id, self.ready.as_ref())
    }

    /// Waits until it runs and answers.
    fn await_running(&self, host: &Host, engine: &Engine, id: &str, ready: Option<&Wait>) -> Result<()> {
        let began = Instant::now();
        let restarts_before = engine.container(id)?.map_or(0, |found| found.restarts);
        loop {
            let found = engine.container(id)?.ok_or_else(|| Error::failed("the container is gone"))?;
            let ended =
                matches!(found.status.as_str(), "exited" | "dead") || found.restarts - restarts_before > RESTARTS;
            if ended {
                return Err(self.not_running(engine, id, &format!("its process ends ({})", found.told())));
            }
            let answer = match ready {
                _ if !found.is_running() => found.told(),
                None if began.elapsed() >= STEADY => return Ok(()),
                None => "it has just started".into(),
                Some(ready) => match ready.ask(host) {
                    Ok(()) => return Ok(()),
                    Err(answer) => answer,
                },
            };
            if signals::interrupted() {
                return Err(signals::interruption());
            }
            if began.elapsed() >= host.deadlines.wait {
                let waited = humantime::format_duration(host.deadlines.wait);
                let what = ready.map_or_else(|| "it to run".into(), Wait::what);
                return Err(self.not_running(
                    engine,
                    id,
                    &format!("waited {waited} for {what}; the last answer: {answer}"),
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn not_running(&self, engine: &Engine, id: &str, why: &str) -> Error {
        Error::failed(format!("the container {} does not run as it should", self.name))
            .cause(format!("{why}\nits last lines:\n{}", engine.last_lines(id).trim_end()))
            .fix(format!(
                "mend its settings or what it needs, and run titus-bootstrap again; docker logs {} has more",
                self.name
            ))
    }
}

impl RawKind for Raw {
    fn restart_on(&self) -> &[String] {
        &self.restart_on
    }
}

impl Work for Container {
    /// Refuses what stands in the way, before anything is changed.
    ///
    /// # Errors
    /// When a container of someone else's has the name, or a process a port.
    fn refuse(&self, host: &Host) -> Result<()> {
        if !host.is_live() {
            return Ok(());
        }
        self.ensemble.iter().try_for_each(|ensemble| ensemble.refuse_numbers(host))?;
        let found = match host.engine() {
            Ok(engine) => engine.container(&self.name)?.or(engine.container(&self.old_name())?),
            Err(_) => None,
        };
        match found {
            Some(found) if !is_ours(&found) => self.refuse_foreign(host, &found)?,
            _ => {}
        }
        if self.may_have_its_ports(host)? { Ok(()) } else { self.refuse_taken_ports(host) }
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        let name = &self.name;
        if !host.is_live() {
            return Ok(State::Deferred(format!("not run below --root: {}", self.as_command())));
        }
        let engine = match host.engine() {
            Ok(engine) => engine,
            Err(answer) => return Ok(State::Blocked(answer)),
        };
        let wanted = self.wanted(host, planned)?;
        let old = engine.container(&self.old_name())?;
        let Some(found) = engine.container(name)? else {
            if old.is_none() && engine.image(&self.made_of.image)?.is_none() {
                return Ok(State::Blocked(format!("image {} is not there yet", self.made_of.image)));
            }
            let what = if old.is_some() { "put back, and replace if needed," } else { "create and start" };
            return Ok(State::from_changes(vec![Change {
                line: format!("{what} the container {name}"),
                diff: Some(self.as_command()),
            }]));
        };
        let mut changes = Vec::new();
        if !is_ours(&found) {
            self.refuse_foreign(host, &found)?;
            changes.push(Change::new(format!(
                "replace the container {name}, which titus-bootstrap did not make (its data are copied to the host)"
            )));
        } else if let Some(change) = self.differences(engine, &found, &wanted)? {
            changes.push(change);
        } else if !found.is_running() {
            changes.push(Change::new(format!("start the container {name} (it is {})", found.told())));
        }
        if old.is_some() {
            changes.push(Change::new(format!("remove the container {}, which an earlier run left", self.old_name())));
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let engine = host.engine().map_err(Error::failed)?;
        let wanted = self.wanted(host, &Planned::new())?;
        let mut current = engine.container(&self.name)?;
        if let Some(old) = engine.container(&self.old_name())? {
            // A run was killed on its way. The new one is taken up if it is still what is wanted.
            match current {
                Some(new) if is_ours(&new) && self.differences(engine, &new, &wanted)?.is_none() => {
                    return self.change_over(host, engine, &old, &new);
                }
                Some(new) if is_ours(&new) => engine.remove(&new.id, true)?,
                Some(other) => return self.refuse_foreign_beside(&other),
                None => {}
            }
            engine.rename(&old.id, &self.name)?;
            current = engine.container(&self.name)?;
        }
        match current {
            None => {
                if let Some(ensemble) = &self.ensemble {
                    ensemble.wait_for_turn(host, false)?;
                }
                let id = self.create(engine, &wanted)?;
                self.start(host, engine, &id)
            }
            Some(found) if is_ours(&found) && self.differences(engine, &found, &wanted)?.is_none() => {
                if found.status == "restarting" {
                    engine.stop(&found.id)?;
                }
                if found.is_running() { Ok(()) } else { self.start(host, engine, &found.id) }
            }
            Some(found) => {
                if !is_ours(&found) {
                    self.refuse_foreign(host, &found)?;
                }
                engine.rename(&found.id, &self.old_name())?;
                let new = self.create(engine, &wanted).map_err(|error| self.rename_back(engine, &found, error))?;
                let new = Found { id: new, status: "created".into(), ..Found::default() };
                self.change_over(host, engine, &found, &new)
            }
        }
    }

    fn put_off(&mut self) -> bool {
        true
    }
}

fn with(error: Error, more: &str) -> Error {
    let cause = error.cause.clone().map_or_else(|| more.to_owned(), |cause| format!("{cause}\n{more}"));
    error.cause(cause)
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
