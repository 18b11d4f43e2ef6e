//! A container runs with this image and this specification.
//!
//! Labels record everything that a container is made of, and a digest of that and of the files that it reads. A container
//! with other labels is replaced: the old one keeps its data, under another name, until the
//! new one runs. If the new one does not run, the old one returns.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::file::diff;
use super::forms::{Bind, ContainerName, ImageName, Published, Restart, split_bind};
use super::wait::{self, NoAnswer, Wait};
use super::{Change, Planned, RawKind, State, Work, ensemble, hex};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::docker::fields::{COMMAND, ENTRYPOINT, Field, Fields, LOG, NETWORKS, RESTART};
use crate::host::docker::{Container as Found, Engine, Image, Listed, Port, Specification, Status};
use crate::host::fs::look::EntryKind;
use crate::host::ports::Listener;
use crate::host::wait::Deadline;
use crate::secrets;
use crate::settings::values::port;
use crate::template::{Renderer, Templated};

/// The label that records what the container was made of, as JSON.
const MADE_OF: &str = "titus-bootstrap.made-of";

/// The label with the digest of that record.
const DIGEST: &str = "titus-bootstrap.digest";

/// The label with the container's name, which identifies one that was renamed.
const NAME: &str = "titus-bootstrap.name";

/// The label with the image's id at the time: the container's own field depends
/// on the engine's image store.
const IMAGE: &str = "titus-bootstrap.image";

/// The label with the image's digests in registries, `name@sha256:…`: the target of a tag.
const IMAGE_DIGESTS: &str = "titus-bootstrap.image-digests";

/// Describes whether the registry's tag still refers to the image that the container was made from. The
/// second value says that it does not. An image given by digest needs no question.
pub(super) fn tag_in_registry(host: &Host, engine: &Engine, found: &Found) -> (String, bool) {
    if found.image.contains('@') {
        return ("by digest".into(), false);
    }
    let recorded = found.labels.get(IMAGE_DIGESTS).map(String::as_str).unwrap_or_default();
    let digest_of = |recorded: &str| recorded.rsplit_once('@').map_or(String::new(), |(_, digest)| digest.to_owned());
    let digests: Vec<String> = recorded.split_whitespace().map(digest_of).collect();
    match engine.digest_in_registry(&found.image, host) {
        _ if digests.is_empty() => ("its tag was not checked with the registry: no digest is recorded".into(), false),
        Ok(now) if digests.contains(&now) => (format!("its tag still refers to {now}"), false),
        Ok(now) if !now.is_empty() => (
            format!(
                "its tag referred to {} but refers to {now} now: find out who moved it, and set the image by digest",
                digests.join(" ")
            ),
            true,
        ),
        Ok(_) => ("the registry has its tag, but answered without a digest".into(), false),
        Err(error) => {
            let cause = error.cause.as_deref().and_then(|cause| cause.lines().next()).unwrap_or(&error.what).to_owned();
            (format!("its tag was not checked with the registry: {cause}"), false)
        }
    }
}

/// The suffix of the old container's name until the new one runs.
const OLD: &str = "titus-bootstrap-old";

/// How long a container without a readiness question must run to count as running.
const STEADY: Duration = Duration::from_secs(2);

/// How often the engine may restart a new container before it counts as broken.
const RESTARTS: i64 = 2;

const PAUSE: Duration = Duration::from_millis(50);

/// Log drivers that accept a file size and a number of files (Docker documentation, "Configure logging drivers").
const DRIVERS_WITH_FILES: [&str; 2] = ["json-file", "local"];

/// The step in a role file. Empty items of lists are left out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawContainer {
    name: Templated<ContainerName>,
    image: Templated<ImageName>,
    #[serde(default)]
    command: Vec<Templated<String>>,
    #[serde(default)]
    environment: Vec<Templated<String>>,
    network: Option<Templated<String>>,
    /// `2181:2181` is published; `5050`, in the host's network, is a port on which the container listens.
    #[serde(default)]
    ports: Vec<Templated<Published>>,
    #[serde(default)]
    binds: Vec<Templated<Bind>>,
    restart: Option<Templated<Restart>>,
    #[serde(default)]
    labels: BTreeMap<String, Templated<String>>,
    log: Option<Log>,
    user: Option<Templated<String>>,
    /// Whether the step may replace a container of that name that the program did not create.
    adopt: Option<Templated<bool>>,
    /// Ids of file steps, in addition to the files that it binds: changed contents cause a replacement.
    #[serde(default)]
    restart_on: Vec<String>,
    /// A question; its answer shows that the container runs.
    ready: Option<wait::RawWait>,
    /// For a ZooKeeper server: the ensemble, which decides when it may stop or first start.
    ensemble: Option<ensemble::RawEnsemble>,
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

/// What a container should be.
struct Wanted<'a> {
    made_of: String,
    digest: String,
    /// The fields that the engine should report.
    specification: &'a Specification,
}

/// A field of a container that differs from what it was made with, because somebody changed or recreated
#[derive(Debug, Clone, PartialEq)]
struct Drift {
    field: Field,
    is: Vec<String>,
    should: Vec<String>,
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |items: &[String]| {
            let shown = items.iter().map(|item| match item.split_once('=') {
                Some((name, value)) => format!("{name}={}", secrets::shown(name, value)),
                None => item.clone(),
            });
            if items.is_empty() { "none".to_owned() } else { shown.collect::<Vec<_>>().join(" ") }
        };
        write!(f, "{}: is {}, should be {}", self.field, text(&self.is), text(&self.should))
    }
}

/// The fields that differ, each with the items that only one side has. Unknown fields are not compared.
fn drift(found: &Fields, wanted: &Fields) -> Vec<Drift> {
    let option = |item: &String| item.split_once('=').map(|(key, _)| key.to_owned());
    let differ = |(field, should): (&Field, &Vec<String>)| {
        let mut is = found.get(field)?.clone();
        if *field == LOG {
            // The engine adds log-opts from its own settings.
            let own: Vec<Option<String>> = should.iter().map(option).collect();
            is.retain(|item| option(item).is_none() || own.contains(&option(item)));
        }
        if is == *should {
            return None;
        }
        let only = |of: &Vec<String>, other: &Vec<String>| -> Vec<String> {
            let is_whole = [ENTRYPOINT, COMMAND].contains(field);
            of.iter().filter(|item| is_whole || !other.contains(item)).cloned().collect()
        };
        Some(Drift { field, is: only(&is, should), should: only(should, &is) })
    };
    wanted.iter().filter_map(differ).collect()
}

/// Whether the engine can undo all of this while the container keeps running. It can set a limit, but not remove one.
fn keeps_running(drift: &[Drift], network: &str) -> bool {
    // A running container cannot switch to the host's network.
    drift.iter().all(|drift| drift.field == RESTART || (drift.field == NETWORKS && network != "host"))
}

/// Why a container is not the wanted one.
#[derive(Debug, Clone, PartialEq)]
enum Difference {
    /// The program did not create it.
    Foreign,
    /// It was made of something else: the keys that differ.
    MadeOf(Vec<String>),
    /// The name of its image now refers to another image.
    Image,
    /// It was made of the same, but was changed since.
    Drift(Vec<Drift>),
}

/// One action that a container needs.
#[derive(Debug, PartialEq)]
enum Due {
    Create,
    /// Put back the old container, left by a run that was killed; it may then need a replacement.
    PutBack,
    Replace(Difference),
    /// Change it while it keeps running.
    Update(Vec<Drift>),
    /// Rename one of the program's containers.
    Rename(String),
    Start,
    /// Remove the old container.
    RemoveOld,
}

/// How a container differs from the wanted one. `image` is the image that its name refers to now; if there is none, the
/// image step handles it. `own` is the image that it was made from, if the engine knows it.
fn difference(found: &Found, wanted: &Wanted<'_>, image: Option<&Image>, own: Option<&Image>) -> Option<Difference> {
    if !is_ours(found) {
        return Some(Difference::Foreign);
    }
    if found.labels.get(DIGEST) != Some(&wanted.digest) {
        let was: Json = serde_json::from_str(made_of(found)).unwrap_or_default();
        let will: Json = serde_json::from_str(&wanted.made_of).unwrap_or_default();
        let keys = will.as_object().into_iter().flat_map(|map| map.keys());
        return Some(Difference::MadeOf(keys.filter(|key| was.get(key) != will.get(key)).cloned().collect()));
    }
    if image.is_some_and(|image| found.labels.get(IMAGE) != Some(&image.id)) {
        return Some(Difference::Image);
    }
    let mut drift = drift(&found.fields, &wanted.specification.fields(image));
    if let (Some(image), Some(own)) = (image, own)
        && !own.is_same(image)
    {
        drift.push(Drift { field: "image", is: vec![own.id.clone()], should: vec![image.id.clone()] });
    }
    if found.status == Some(Status::DEAD) {
        drift.push(Drift { field: "state", is: vec!["dead".into()], should: vec!["running".into()] });
    }
    (!drift.is_empty()).then_some(Difference::Drift(drift))
}

/// The actions for a container in this network. `current` is the container with its name and its difference; `has_old` says
/// that an earlier run left one under the old name.
fn due(current: Option<(&Found, Option<Difference>)>, has_old: bool, network: &str) -> Vec<Due> {
    let Some((current, difference)) = current else { return vec![if has_old { Due::PutBack } else { Due::Create }] };
    let start = (!current.is_running()).then_some(Due::Start);
    let own = match difference {
        Some(Difference::Drift(drift)) if keeps_running(&drift, network) => [Some(Due::Update(drift)), start],
        Some(difference) => [Some(Due::Replace(difference)), None],
        None => [start, None],
    };
    own.into_iter().flatten().chain(has_old.then_some(Due::RemoveOld)).collect()
}

/// Whether a container in the engine's list is the program's and had this name. Earlier releases did not write the
/// label with the name.
fn was_called(name: &str, digest: &str, listed: &Listed) -> bool {
    let label = |key: &str| listed.labels.get(key).map(String::as_str);
    label(DIGEST).is_some_and(|made_of| label(NAME).map_or(made_of == digest, |had| had == name))
}

impl RawContainer {
    pub(super) fn resolve(&self, renderer: &Renderer, files: &BTreeMap<String, String>) -> Result<Container> {
        let list = |items: &[Templated<String>]| -> Result<Vec<String>> {
            let items = items.iter().map(|item| item.get(renderer)).collect::<Result<Vec<_>>>()?;
            Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
        };
        let text = |item: &Option<Templated<String>>, default: &str| {
            item.as_ref().map_or_else(|| Ok(default.to_owned()), |item| item.get(renderer))
        };
        let ContainerName(name) = self.name.get(renderer)?;
        let restart = self.restart.as_ref().map_or_else(|| Ok("no".to_owned()), |r| r.get(renderer).map(|r| r.0))?;
        let network = text(&self.network, "bridge")?;
        let binds = self.binds.iter().map(|bind| bind.get(renderer).map(|Bind(bind)| bind));
        let binds = binds.filter(|bind| bind.as_ref().map_or(true, |bind| !bind.is_empty())).collect::<Result<_>>()?;
        let ports = self.ports.iter().map(|port| port.get(renderer).map(|Published(port)| port));
        let ports = ports.filter(|port| port.as_ref().map_or(true, |port| !port.is_empty()));
        let ports = ports.collect::<Result<Vec<String>>>()?;
        let ports = ports.iter().map(|port| parse_port(port, &network)).collect::<Result<Vec<_>>>();
        let mut labels = BTreeMap::new();
        for (key, value) in &self.labels {
            labels.insert(key.clone(), value.get(renderer)?);
        }
        let (log_driver, log_options) =
            self.log.as_ref().map_or_else(|| Ok(Default::default()), |log| log.resolve(renderer))?;
        Ok(Container {
            made_of: Specification {
                image: self.image.get(renderer)?.0,
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

fn parse_port(text: &str, network: &str) -> Result<Port> {
    let wrong = || {
        Error::config(format!("{text:?} is not a port"))
            .fix("write HOST:CONTAINER or ADDRESS:HOST:CONTAINER; in the host's network only the port")
    };
    let number = |text: &str| port(text).ok_or_else(wrong);
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

/// The record of what a container of the program was made of, as JSON.
fn made_of(found: &Found) -> &str {
    found.labels.get(MADE_OF).map_or("", String::as_str)
}

/// Whether the program created the container.
pub fn is_ours(found: &Found) -> bool {
    found.labels.contains_key(DIGEST)
}

impl Container {
    /// The equivalent `docker run` command, for people.
    fn command_line(&self) -> String {
        let made_of = &self.made_of;
        let mut words = vec!["docker run -d".to_owned(), format!("--name={}", self.name)];
        let mut add = |option: &str, value: &str| {
            if !value.is_empty() {
                words.push(format!("--{option}={}", crate::template::quote_shell(value).unwrap_or_default()));
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
        words.extend(rest.filter_map(|word| crate::template::quote_shell(word).ok()));
        words.join(" ")
    }

    fn old_name(&self) -> String {
        format!("{}-{OLD}", self.name)
    }

    fn wanted(&self, host: &Host, planned: &Planned) -> Result<Wanted<'_>> {
        let mut files = BTreeMap::new();
        let bound = self.made_of.binds.iter().filter_map(|bind| Some(split_bind(bind)?.0));
        for path in bound.chain(self.files.iter().map(String::as_str)) {
            let contents = match planned.get(path) {
                Some(contents) => Some(contents.clone()),
                None if host.entry(path)?.is_some_and(|entry| entry.kind == EntryKind::File) => host.read(path)?,
                None => None,
            };
            // A directory's contents belong to the container.
            if let Some(contents) = contents {
                files.insert(path.to_owned(), hex(&Sha256::digest(contents)));
            }
        }
        let mut made_of = json!(self.made_of);
        made_of["files"] = json!(files);
        let made_of = made_of.to_string();
        Ok(Wanted { digest: hex(&Sha256::digest(&made_of)), made_of, specification: &self.made_of })
    }

    /// How the container differs from the wanted one, if it does.
    fn difference(&self, engine: &Engine, found: &Found, wanted: &Wanted<'_>) -> Result<Option<Difference>> {
        let image = engine.image(&self.made_of.image)?;
        let own = match &image {
            Some(image) if image.id != found.image_id && !found.image_id.is_empty() => engine.image(&found.image_id)?,
            _ => None,
        };
        Ok(difference(found, wanted, image.as_ref(), own.as_ref()))
    }

    fn change(&self, due: &Due, current: Option<&Found>, wanted: &Wanted<'_>) -> Change {
        let name = &self.name;
        let command = || Some(self.command_line());
        let (line, diff) = match due {
            Due::Create => (format!("create and start the container {name}"), command()),
            Due::PutBack => (format!("put back, and replace if needed, the container {name}"), command()),
            Due::Start => {
                let is = current.map(Found::state_words).unwrap_or_default();
                (format!("start the container {name} (it is {is})"), None)
            }
            Due::RemoveOld => (format!("remove the container {}, which an earlier run left", self.old_name()), None),
            Due::Rename(from) => (format!("rename the container {from}, which was made as {name}, to {name}"), None),
            Due::Update(drift) => {
                (format!("update the container {name}, which keeps running ({})", list_drift(drift)), None)
            }
            Due::Replace(Difference::Drift(drift)) => {
                (format!("replace the container {name}, which somebody changed ({})", list_drift(drift)), None)
            }
            Due::Replace(Difference::Foreign) => (
                format!(
                    "replace the container {name}, which titus-bootstrap did not create (its data is copied to the host)"
                ),
                None,
            ),
            Due::Replace(Difference::Image) => {
                (format!("replace the container {name} ({} now refers to another image)", self.made_of.image), None)
            }
            Due::Replace(Difference::MadeOf(keys)) => {
                let pretty = |text: &str| format!("{:#}\n", serde_json::from_str::<Json>(text).unwrap_or_default());
                let diff = diff(&pretty(current.map_or("", made_of)), &pretty(&wanted.made_of));
                (format!("replace the container {name} ({} changed)", keys.join(", ")), Some(diff))
            }
        };
        Change { diff, ..Change::new(line) }
    }

    fn refuse_foreign(&self, host: &Host, found: &Found) -> Result<()> {
        if !self.adopt {
            let name = &self.name;
            return Err(Error::unavailable(format!("the container {name} exists, but titus-bootstrap did not create it"))
                .cause(format!("{} ({}), of image {}", short_id(&found.id), found.state_words(), found.image))
                .fix(format!(
                    "to replace it after copying its data to the host, run with --set containers.adopt=true; to keep it, rename it: docker rename {name} {name}-before"
                )));
        }
        self.copies(found).try_for_each(|(to, inside)| {
            host.refuse_other_data(&found.id, to)?;
            host.refuse_link(&found.id, inside)
        })
    }

    /// The container with the name, or else the program's own container that had it and was renamed.
    fn current(&self, engine: &Engine, wanted: &Wanted<'_>) -> Result<Option<Found>> {
        if let Some(found) = engine.container(&self.name)? {
            return Ok(Some(found));
        }
        let old = self.old_name();
        let mut listed = engine.containers()?;
        listed.retain(|listed| listed.name != old && was_called(&self.name, &wanted.digest, listed));
        // Prefer one that runs: it has the ports.
        let renamed = listed.iter().max_by_key(|listed| listed.is_running);
        Ok(renamed.map(|listed| engine.container(&listed.id)).transpose()?.flatten())
    }

    /// Refuses if something other than this container uses one of its ports.
    fn refuse_taken_ports(&self, host: &Host, wanted: &Wanted<'_>) -> Result<()> {
        if self.made_of.ports.is_empty() {
            return Ok(());
        }
        let (engine, names) = (host.engine()?.ok(), [self.name.clone(), self.old_name()]);
        let listed = engine.map(Engine::containers).transpose()?.unwrap_or_default();
        let is_renamed = !listed.iter().any(|one| names.contains(&one.name));
        let is_own =
            |one: &Listed| names.contains(&one.name) || (is_renamed && was_called(&self.name, &wanted.digest, one));
        let may_be_own = engine.is_none() || listed.iter().any(|one| one.is_running && is_own(one));
        for port in &self.made_of.ports {
            let listener = host.listener(port.host)?;
            let holder = holder(port, &listed, listener.as_ref());
            let cause = match (holder, listener) {
                (Some(one), _) if is_own(one) => continue,
                (Some(one), _) => format!("the container {} of image {} uses it", one.name, one.image),
                // With live-restore, containers outlive an engine that does not answer.
                (None, Some(listener)) if may_be_own && listener.is_of_docker() => continue,
                (None, Some(listener)) => format!("{listener} listens on it"),
                (None, None) => continue,
            };
            let fix = holder.map_or_else(
                || "stop that process, and make sure that it does not start again".to_owned(),
                |one| format!("remove that container (docker rm --force {0}) or stop it (docker stop {0})", one.name),
            );
            let taken = Error::unavailable(format!("port {} is in use, but {} needs it", port.host, self.name));
            return Err(taken.cause(cause).fix(fix));
        }
        Ok(())
    }

    /// The directories to copy from another's container: the target, and the path in the container.
    fn copies<'a>(&'a self, found: &'a Found) -> impl Iterator<Item = (&'a str, &'a str)> {
        let writable = self.made_of.binds.iter().filter(|bind| !bind.ends_with(":ro"));
        writable.filter_map(|bind| split_bind(bind)).filter(|(to, inside)| {
            !found.mounts.iter().any(|(source, destination)| source == to && destination == inside)
        })
    }

    fn refuse_foreign_beside(&self, other: &Found) -> Result<()> {
        let (name, old) = (&self.name, self.old_name());
        Err(Error::failed(format!(
            "the containers {name} and {old} both exist, but titus-bootstrap did not create {name}"
        ))
        .cause(format!("{name} is {} ({})", short_id(&other.id), other.state_words()))
        .fix(format!(
            "rename it (docker rename {name} {name}-before) and run titus-bootstrap again, which puts {old} back"
        )))
    }

    fn create(&self, engine: &Engine, wanted: &Wanted<'_>) -> Result<String> {
        let image = engine.image(&self.made_of.image)?;
        let (image, digests) = image.map(|image| (image.id, image.digests.join(" "))).unwrap_or_default();
        let labels = [
            (MADE_OF, wanted.made_of.as_str()),
            (DIGEST, &wanted.digest),
            (NAME, &self.name),
            (IMAGE, &image),
            (IMAGE_DIGESTS, &digests),
        ];
        engine.create(&self.name, &self.made_of, &labels)
    }

    /// Undoes changes to a container that keeps running.
    fn update(&self, engine: &Engine, found: &Found, drift: &[Drift]) -> Result<()> {
        for Drift { field, is, should } in drift {
            if *field == RESTART {
                tracing::info!("changing the restart policy of the container {}", self.name);
                engine.set_restart(&found.id, &self.made_of.restart)?;
            } else {
                tracing::info!("changing the networks of the container {}", self.name);
                should.iter().try_for_each(|network| engine.join_network(&found.id, network))?;
                is.iter().try_for_each(|network| engine.leave_network(&found.id, network))?;
            }
        }
        Ok(())
    }

    /// Replaces the old container, whatever its state, with the new one, which has been created. If that fails,
    /// the old one returns.
    fn change_over(&self, host: &Host, engine: &Engine, old: &Found, new: &Found) -> Result<()> {
        let adopts = !is_ours(old);
        if let (Some(ensemble), true) = (&self.ensemble, old.is_running())
            && let Err(error) = ensemble.wait_for_turn(host, adopts)
        {
            engine.undo(|| engine.remove(&new.id, true))?;
            return Err(self.rename_back(engine, old, error));
        }
        let changed = || -> Result<()> {
            engine.stop(&old.id)?;
            // Once the new container has started, the data is its own, and newer.
            if adopts && new.status == Some(Status::CREATED) {
                self.copies(old).try_for_each(|(to, inside)| host.copy_out(engine, &old.id, inside, to))?;
            }
            if let (Some(ensemble), Some(Status::CREATED)) = (&self.ensemble, new.status) {
                ensemble.refuse_loss(host, adopts)?;
            }
            self.start(host, engine, &new.id)
        };
        if let Err(error) = changed() {
            return Err(self.put_back(host, engine, old, &new.id, error));
        }
        if adopts {
            self.copies(old).try_for_each(|(to, _)| host.own_copy(to))?;
            tracing::info!("the volumes of the replaced container {} still exist: docker volume ls", short_id(&old.id));
        }
        engine.remove(&old.id, !adopts)
    }

    fn rename_back(&self, engine: &Engine, old: &Found, error: Error) -> Error {
        match engine.undo(|| engine.rename(&old.id, &self.name)) {
            Ok(()) => error,
            Err(also) => extend_error(error, &format!("it also keeps the name {}: {also}", self.old_name())),
        }
    }

    fn put_back(&self, host: &Host, engine: &Engine, old: &Found, new: &str, error: Error) -> Error {
        let back = || -> Result<()> {
            engine.remove(new, true)?;
            engine.rename(&old.id, &self.name)?;
            if error.kind == Kind::Interrupted {
                // The process may still be ending.
                engine.stop(&old.id)?;
            }
            // Use its present state: it was stopped.
            let now = engine.container(&old.id)?.unwrap_or_else(|| old.clone());
            engine.start(&now)
        };
        let started = engine.undo(back);
        let runs = started.and_then(|()| match error.kind {
            Kind::Interrupted => Ok(()),
            _ => self.await_running(host, engine, &old.id, None),
        });
        match runs {
            Ok(()) => extend_error(error, "the previous container runs again"),
            Err(also) => extend_error(error, &format!("the previous container does not run again either: {also}")),
        }
    }

    fn start(&self, host: &Host, engine: &Engine, id: &str) -> Result<()> {
        let mut found = engine.container(id)?.ok_or_else(|| Error::failed("the container no longer exists"))?;
        tracing::info!("starting the container {}", self.name);
        if found.status == Some(Status::PAUSED) {
            // Its session with ZooKeeper may be lost. A Mesos master notices that a moment after it resumes, and exits.
            engine.start(&found)?;
            engine.stop(id)?;
            found.status = Some(Status::EXITED);
        }
        if let Err(error) = engine.start(&found) {
            // The engine does not say what uses a port.
            let wanted = self.wanted(host, &Planned::new())?;
            return Err(match self.refuse_taken_ports(host, &wanted) {
                Err(taken) => extend_error(taken, &error.to_string()),
                Ok(()) => error.at(format!("the container {}", self.name)),
            });
        }
        self.await_running(host, engine, id, self.ready.as_ref())
    }

    /// Waits until the container runs and answers.
    fn await_running(&self, host: &Host, engine: &Engine, id: &str, ready: Option<&Wait>) -> Result<()> {
        let what = ready.map_or_else(|| format!("the container {} to run", self.name), Wait::what);
        let mut deadline = Deadline::new(what, host.deadlines.wait);
        let restarts_before = engine.container(id)?.map_or(0, |found| found.restarts);
        loop {
            let found = engine.container(id)?.ok_or_else(|| Error::failed("the container no longer exists"))?;
            let ended = matches!(found.status, Some(Status::EXITED | Status::DEAD))
                || found.restarts - restarts_before > RESTARTS;
            if ended {
                return Err(self.not_running(engine, id, &format!("its process exits ({})", found.state_words())));
            }
            let answer: NoAnswer = match ready {
                _ if !found.is_running() => found.state_words().into(),
                None if deadline.elapsed() >= STEADY => return Ok(()),
                None => "it has just started".to_owned().into(),
                Some(ready) => match ready.ask(host)? {
                    Ok(()) => return Ok(()),
                    Err(answer) => answer,
                },
            };
            if !deadline.pause(PAUSE)? {
                if answer.waits_for_others {
                    return Err(answer.not_yet(&deadline).at(format!("the container {}", self.name)));
                }
                let why = format!("{}; the last answer: {}", deadline.timeout_message(), answer.words);
                return Err(self.not_running(engine, id, &why));
            }
        }
    }

    fn not_running(&self, engine: &Engine, id: &str, why: &str) -> Error {
        Error::failed(format!("the container {} does not run as it should", self.name))
            .cause(format!("{why}\nits last lines:\n{}", engine.last_lines(id).trim_end()))
            .fix(format!(
                "fix its settings or what it needs, and run titus-bootstrap again; docker logs {} shows more",
                self.name
            ))
    }
}

impl RawKind for RawContainer {
    fn restart_on(&self) -> &[String] {
        &self.restart_on
    }
}

impl Work for Container {
    fn explain(&self) -> Vec<String> {
        let (name, image) = (&self.name, &self.made_of.image);
        let mut lines = vec![
            format!("Keeps the container {name} running, from the image {image} with the specification of the role."),
            "If its specification differs, the run recreates it, and restarts it that way.".into(),
        ];
        if !self.files.is_empty() {
            lines.push(format!("The run also recreates it when one of these changes: {}.", self.files.join(", ")));
        }
        if self.adopt {
            lines.push("A container of that name that another program made is replaced, and its data are kept.".into());
        }
        if self.ensemble.is_some() {
            lines.push("It is a server of a ZooKeeper ensemble: servers restart one after another.".into());
        }
        if let Some(ready) = &self.ready {
            lines.push(format!("After a start the run waits for {}.", ready.what()));
        }
        lines
    }

    /// Refuses obstacles before anything changes.
    ///
    /// # Errors
    /// Fails when a container that the program did not create has the name, or when a process uses a port.
    fn refuse(&self, host: &Host) -> Result<()> {
        if !host.is_live() {
            return Ok(());
        }
        self.ensemble.iter().try_for_each(|ensemble| ensemble.refuse_numbers(host))?;
        let found = match host.engine()? {
            Ok(engine) => engine.container(&self.name)?.or(engine.container(&self.old_name())?),
            Err(_) => None,
        };
        match found {
            Some(found) if !is_ours(&found) => self.refuse_foreign(host, &found)?,
            _ => {}
        }
        self.refuse_taken_ports(host, &self.wanted(host, &Planned::new())?)
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        let name = &self.name;
        if !host.is_live() {
            return Ok(State::Deferred(format!("not run with --root: {}", self.command_line())));
        }
        let engine = match host.engine()? {
            Ok(engine) => engine,
            Err(answer) => return Ok(State::Blocked(answer)),
        };
        let wanted = self.wanted(host, planned)?;
        let old = engine.container(&self.old_name())?;
        let found = match &old {
            Some(_) => engine.container(name)?,
            None => self.current(engine, &wanted)?,
        };
        if found.is_none() && old.is_none() && engine.image(&self.made_of.image)?.is_none() {
            return Ok(State::Blocked(format!("the image {} is not there yet", self.made_of.image)));
        }
        let current = match &found {
            None => None,
            Some(found) => Some((found, self.difference(engine, found, &wanted)?)),
        };
        if let Some((found, Some(Difference::Foreign))) = &current {
            self.refuse_foreign(host, found)?;
        }
        let renamed = found.as_ref().filter(|found| !found.name.is_empty() && found.name != *name);
        let mut due = due(current, old.is_some(), &self.made_of.network);
        due.splice(0..0, renamed.map(|found| Due::Rename(found.name.clone())));
        Ok(State::from_changes(due.iter().map(|due| self.change(due, found.as_ref(), &wanted)).collect()))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let engine = host.engine()?.map_err(Error::failed)?;
        let wanted = self.wanted(host, &Planned::new())?;
        let mut current = engine.container(&self.name)?;
        let old = engine.container(&self.old_name())?;
        if current.is_none() && old.is_none() {
            current = self.current(engine, &wanted)?;
            if let Some(renamed) = &current {
                engine.rename(&renamed.id, &self.name)?;
            }
        }
        if let Some(old) = old {
            // A run was killed halfway. Keep the new container if it is still the wanted one.
            if let Some(new) = current {
                match self.difference(engine, &new, &wanted)? {
                    None => return self.change_over(host, engine, &old, &new),
                    Some(Difference::Foreign) => return self.refuse_foreign_beside(&new),
                    Some(_) => engine.remove(&new.id, true)?,
                }
            }
            engine.rename(&old.id, &self.name)?;
            current = engine.container(&self.name)?;
        }
        let Some(found) = current else {
            self.refuse_taken_ports(host, &wanted)?;
            if let Some(ensemble) = &self.ensemble {
                ensemble.wait_for_turn(host, false)?;
            }
            let id = self.create(engine, &wanted)?;
            return self.start(host, engine, &id);
        };
        let update = match self.difference(engine, &found, &wanted)? {
            None => Some(Vec::new()),
            Some(Difference::Drift(drift)) if keeps_running(&drift, &self.made_of.network) => Some(drift),
            Some(Difference::Foreign) => {
                self.refuse_foreign(host, &found)?;
                None
            }
            Some(_) => None,
        };
        if let Some(drift) = update {
            self.update(engine, &found, &drift)?;
            if found.status == Some(Status::RESTARTING) {
                engine.stop(&found.id)?;
            }
            return if found.is_running() { Ok(()) } else { self.start(host, engine, &found.id) };
        }
        self.refuse_taken_ports(host, &wanted)?;
        if found.status == Some(Status::DEAD) && is_ours(&found) {
            // The engine has begun to remove it, which cannot be undone.
            engine.remove(&found.id, true)?;
            let id = self.create(engine, &wanted)?;
            return self.start(host, engine, &id);
        }
        engine.rename(&found.id, &self.old_name())?;
        let new = self.create(engine, &wanted).map_err(|error| self.rename_back(engine, &found, error))?;
        let new = Found { id: new, status: Some(Status::CREATED), ..Found::default() };
        self.change_over(host, engine, &found, &new)
    }

    fn shared(&self) -> Vec<String> {
        let writable = self.made_of.binds.iter().filter(|bind| !bind.ends_with(":ro"));
        writable.filter_map(|bind| Some(split_bind(bind)?.0.to_owned())).collect()
    }

    fn defer(&mut self) -> bool {
        true
    }
}

/// The container that uses a port: it publishes the port, or its process listens in the host's network.
fn holder<'a>(port: &Port, listed: &'a [Listed], listener: Option<&Listener>) -> Option<&'a Listed> {
    let every = |address: &str| matches!(address, "" | "0.0.0.0" | "::");
    let publishes = |one: &Listed| {
        let same = |at: &String| *at == port.address || every(at) || every(&port.address);
        one.ports.iter().any(|(at, number)| *number == port.host && same(at))
    };
    let listens = |one: &Listed| listener.and_then(|found| found.container.as_ref()) == Some(&one.id);
    listed.iter().find(|one| listens(one)).or_else(|| listed.iter().find(|one| publishes(one)))
}

fn list_drift(drift: &[Drift]) -> String {
    drift.iter().map(Drift::to_string).collect::<Vec<_>>().join("; ")
}

fn extend_error(error: Error, more: &str) -> Error {
    let cause = error.cause.clone().map_or_else(|| more.to_owned(), |cause| format!("{cause}\n{more}"));
    error.cause(cause)
}

fn short_id(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(made_of: &str, specification: &'a Specification) -> Wanted<'a> {
        Wanted { made_of: made_of.into(), digest: format!("digest of {made_of}"), specification }
    }

    fn image(id: &str) -> Image {
        Image { id: id.into(), layers: vec![format!("layer of {id}")], ..Image::default() }
    }

    /// One of the program's containers, made of this and with this image.
    fn ours(made_of: &str, image: &str, status: Status) -> Found {
        let nothing = Specification::default();
        let Wanted { made_of, digest, .. } = wanted(made_of, &nothing);
        let labels = [(MADE_OF, made_of.as_str()), (DIGEST, &digest), (IMAGE, image)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Found { labels, status: Some(status), ..Found::default() }
    }

    #[test]
    fn a_container_is_compared_by_what_it_was_made_of() {
        let (one, other) = (r#"{"image":"x:1","binds":[]}"#, r#"{"image":"x:1","binds":["/a:/a"]}"#);
        let made_of = |keys: &[&str]| Some(Difference::MadeOf(keys.iter().map(|key| (*key).to_owned()).collect()));
        for (found, image, differs, why) in [
            (Found::default(), Some("i"), Some(Difference::Foreign), "none of the program's labels"),
            (ours(one, "i", Status::RUNNING), Some("i"), None, "the same"),
            (ours(one, "i", Status::RUNNING), None, None, "its image's name refers to nothing"),
            (ours(one, "i", Status::EXITED), Some("i"), None, "whether it runs does not matter"),
            (ours(one, "i", Status::RUNNING), Some("j"), Some(Difference::Image), "the tag moved"),
            (ours(other, "i", Status::RUNNING), Some("j"), made_of(&["binds"]), "another bind"),
            (ours("", "i", Status::RUNNING), Some("i"), made_of(&["image", "binds"]), "an unreadable label"),
        ] {
            let (nothing, image) = (Specification::default(), image.map(self::image));
            assert_eq!(difference(&found, &wanted(one, &nothing), image.as_ref(), None), differs, "{why}");
        }
    }

    /// What an engine reports about a container that runs as specified.
    fn inspected(change: impl Fn(&mut Json)) -> Fields {
        let mut message = json!({
            "Id": "a", "Name": "/zookeeper", "Image": "i",
            "HostConfig": {
                "Binds": ["/data:/tmp/zookeeper"], "NetworkMode": "bridge", "IpcMode": "private", "CgroupnsMode": "host",
                "PortBindings": { "2181/tcp": [{ "HostIp": "", "HostPort": "2181" }] },
                "RestartPolicy": { "Name": "unless-stopped", "MaximumRetryCount": 0 },
                "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m" } },
                "CapAdd": null, "Dns": [], "Memory": 0, "PidsLimit": null, "Privileged": false,
            },
            "Mounts": [
                { "Type": "bind", "Source": "/data", "Destination": "/tmp/zookeeper", "Mode": "", "RW": true },
                { "Type": "volume", "Name": "ab".repeat(32), "Source": "/x", "Destination": "/conf", "RW": true },
            ],
            "Config": { "Cmd": ["start"], "Entrypoint": ["/run.sh"], "Env": ["PATH=/bin", "A=image", "B=ours"], "User": "" },
            "NetworkSettings": { "Networks": { "bridge": {} } },
        });
        change(&mut message);
        crate::host::docker::fields::fields_of_container(&serde_json::from_value(message).unwrap())
    }

    fn specified() -> Fields {
        let image = Image {
            entrypoint: vec!["/run.sh".into()],
            command: vec!["start".into()],
            environment: vec!["PATH=/bin".into(), "A=image".into(), "B=image".into()],
            ..Image::default()
        };
        Specification {
            environment: vec!["B=ours".into()],
            network: "bridge".into(),
            ports: vec![Port { address: String::new(), host: 2181, container: 2181 }],
            binds: vec!["/data/:/tmp/zookeeper".into()],
            restart: "unless-stopped".into(),
            log_driver: "json-file".into(),
            log_options: [("max-size".to_owned(), "10m".to_owned())].into(),
            ..Specification::default()
        }
        .fields(Some(&image))
    }

    #[test]
    fn what_others_changed_of_a_container_is_named() {
        assert_eq!(list_drift(&drift(&inspected(|_| {}), &specified())), "");
        let of = |pointer: &'static str, value: Json| {
            move |message: &mut Json| {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                message.pointer_mut(parent).unwrap()[key] = value.clone();
            }
        };
        for (pointer, value, words, runs_on) in [
            ("/HostConfig/RestartPolicy/Name", json!("no"), "restart policy: is no, should be unless-stopped", true),
            (
                "/HostConfig/RestartPolicy",
                json!({ "Name": "on-failure", "MaximumRetryCount": 3 }),
                "restart policy: is on-failure:3, should be unless-stopped",
                true,
            ),
            ("/NetworkSettings/Networks", json!({}), "networks: is none, should be bridge", true),
            ("/NetworkSettings/Networks", json!({ "bridge": {}, "web": {} }), "networks: is web, should be none", true),
            ("/HostConfig/NetworkMode", json!("host"), "network mode: is host, should be bridge", false),
            ("/HostConfig/Memory", json!(64 << 20), "memory limit: is memory 67108864, should be none", false),
            ("/HostConfig/NanoCpus", json!(5), "cpu and process limits: is nano-cpus 5, should be none", false),
            ("/HostConfig/CpusetCpus", json!("0"), "cpu and process limits: is cpuset-cpus 0, should be none", false),
            ("/HostConfig/Privileged", json!(true), "privileges: is privileged, should be none", false),
            ("/HostConfig/CapAdd", json!(["NET_ADMIN"]), "privileges: is cap-add NET_ADMIN, should be none", false),
            ("/HostConfig/PidMode", json!("host"), "privileges: is pid host, should be none", false),
            (
                "/HostConfig/PortBindings",
                json!({ "2181/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "2181" }] }),
                "ports: is 127.0.0.1:2181:2181/tcp, should be 2181:2181/tcp",
                false,
            ),
            (
                "/HostConfig/LogConfig",
                json!({ "Type": "journald", "Config": {} }),
                "log: is journald, should be json-file max-size=10m",
                false,
            ),
            (
                "/HostConfig/LogConfig/Config",
                json!({ "max-size": "1g" }),
                "log: is max-size=1g, should be max-size=10m",
                false,
            ),
            ("/HostConfig/AutoRemove", json!(true), "options: is auto-remove, should be none", false),
            (
                "/Mounts/0/Source",
                json!("/other"),
                "mounts: is /other:/tmp/zookeeper, should be /data:/tmp/zookeeper",
                false,
            ),
            ("/Mounts/0/RW", json!(false), "mounts: is /data:/tmp/zookeeper:ro, should be /data:/tmp/zookeeper", false),
            ("/Mounts/1/Name", json!("named"), "mounts: is volume named:/conf, should be none", false),
            ("/Config/Cmd", json!(["start", "x"]), "command: is start x, should be start", false),
            ("/Config/Entrypoint", json!(["/bin/sh"]), "entrypoint: is /bin/sh, should be /run.sh", false),
            ("/Config/Env", json!(["B=ours"]), "environment: is none, should be A=image", false),
            (
                "/Config/Env",
                json!(["A=image", "B=ours", "A_TOKEN=x"]),
                "environment: is A_TOKEN=***, should be none",
                false,
            ),
            ("/Config/User", json!("1000"), "user: is 1000, should be none", false),
        ] {
            let drift = drift(&inspected(of(pointer, value)), &specified());
            assert_eq!(list_drift(&drift), words, "{pointer}");
            assert_eq!(keeps_running(&drift, "bridge"), runs_on, "{pointer}");
        }
        let restart = [Drift { field: RESTART, is: Vec::new(), should: Vec::new() }];
        let networks = [Drift { field: NETWORKS, is: Vec::new(), should: Vec::new() }];
        assert!(keeps_running(&restart, "host") && !keeps_running(&networks, "host"));
        let with_engines_own =
            inspected(of("/HostConfig/LogConfig/Config", json!({ "max-size": "10m", "compress": "true" })));
        assert_eq!(list_drift(&drift(&with_engines_own, &specified())), "");
        // Fields that an engine does not report are not compared.
        for part in ["/HostConfig", "/Mounts", "/Config", "/NetworkSettings"] {
            assert_eq!(list_drift(&drift(&inspected(of(part, Json::Null)), &specified())), "", "{part}");
        }
    }

    #[test]
    fn a_container_that_another_program_made_again_is_seen_by_its_image() {
        let nothing = Specification::default();
        let found = ours("x", "i", Status::RUNNING);
        let of = |own: &Image| difference(&found, &wanted("x", &nothing), Some(&image("i")), Some(own));
        let other = Drift { field: "image", is: vec!["j".into()], should: vec!["i".into()] };
        assert_eq!(of(&image("j")), Some(Difference::Drift(vec![other])));
        // The same image has another id in another image store.
        assert_eq!(of(&Image { id: "j".into(), ..image("i") }), None);
        let dead = difference(&ours("x", "i", Status::DEAD), &wanted("x", &nothing), Some(&image("i")), None);
        assert!(
            matches!(&dead, Some(Difference::Drift(drift)) if list_drift(drift) == "state: is dead, should be running")
        );
    }

    #[test]
    fn the_container_that_has_a_port_is_found() {
        let listed = |name: &str, at: &str, port: u16| Listed {
            id: format!("id of {name}"),
            name: name.into(),
            ports: vec![(at.into(), port)],
            ..Listed::default()
        };
        let all = [listed("web", "0.0.0.0", 80), listed("local", "127.0.0.1", 2181), listed("in-hosts-network", "", 1)];
        let at = |address: &str, host: u16| Port { address: address.into(), host, container: 1 };
        let name = |port: &Port| holder(port, &all, None).map(|one| one.name.as_str());
        assert_eq!(name(&at("", 80)), Some("web"));
        assert_eq!(name(&at("10.0.0.1", 80)), Some("web"));
        assert_eq!(name(&at("", 2181)), Some("local"));
        assert_eq!(name(&at("10.0.0.1", 2181)), None);
        assert_eq!(name(&at("", 443)), None);
    }

    #[test]
    fn a_container_that_was_given_another_name_is_known_by_its_labels() {
        let listed = |labels: &[(&str, &str)]| Listed {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Listed::default()
        };
        for (labels, is_it) in [
            (&[(DIGEST, "d"), (NAME, "zookeeper")][..], true),
            (&[(DIGEST, "other"), (NAME, "zookeeper")], true),
            (&[(DIGEST, "d"), (NAME, "mesomaster")], false),
            (&[(DIGEST, "d")], true),
            (&[(DIGEST, "other")], false),
            (&[(NAME, "zookeeper")], false),
            (&[], false),
        ] {
            assert_eq!(was_called("zookeeper", "d", &listed(labels)), is_it, "{labels:?}");
        }
    }

    #[test]
    fn what_is_due_of_a_container() {
        let (runs, exited) = (ours("x", "i", Status::RUNNING), ours("x", "i", Status::EXITED));
        let replace = || Due::Replace(Difference::Image);
        let policy = || vec![Drift { field: RESTART, is: Vec::new(), should: Vec::new() }];
        for (current, has_old, expected) in [
            (None, false, vec![Due::Create]),
            (None, true, vec![Due::PutBack]),
            (Some((&runs, None)), false, vec![]),
            (Some((&runs, None)), true, vec![Due::RemoveOld]),
            (Some((&exited, None)), false, vec![Due::Start]),
            (Some((&exited, None)), true, vec![Due::Start, Due::RemoveOld]),
            (Some((&runs, Some(Difference::Image))), false, vec![replace()]),
            (Some((&exited, Some(Difference::Image))), true, vec![replace(), Due::RemoveOld]),
            (Some((&runs, Some(Difference::Drift(policy())))), false, vec![Due::Update(policy())]),
            (Some((&exited, Some(Difference::Drift(policy())))), false, vec![Due::Update(policy()), Due::Start]),
        ] {
            assert_eq!(due(current.clone(), has_old, "bridge"), expected, "{current:?} {has_old}");
        }
    }

    #[test]
    fn what_a_container_may_write_is_shared() {
        let binds = ["/srv/x:/data", "/etc/x.conf:/x.conf:ro", "/var/log/x:/log"].map(str::to_owned).to_vec();
        let made_of = Specification { binds, ..Specification::default() };
        let container =
            Container { name: "x".into(), made_of, adopt: false, files: vec![], ready: None, ensemble: None };
        assert_eq!(container.shared(), ["/srv/x", "/var/log/x"]);
    }

    #[test]
    fn a_tag_that_the_registry_has_moved_is_reported() {
        let asked = |image: &str, recorded: &str, registry: (u16, &str)| {
            let (status, body) = (registry.0, registry.1.to_owned());
            let mut host = Host::live(crate::host::Deadlines::default());
            host.docker = crate::host::docker::fake::engine(move |request| match request {
                "GET /version" => crate::host::docker::fake::version("26.1.4", "1.44", "1.24"),
                _ => (status, body.clone()),
            })
            .address;
            let labels = [(IMAGE_DIGESTS.to_owned(), recorded.to_owned())].into();
            let found = Found { image: image.into(), labels, ..Found::default() };
            tag_in_registry(&host, host.engine().unwrap().unwrap(), &found)
        };
        let answer = "{\"Descriptor\":{\"digest\":\"sha256:aa\"},\"Platforms\":[]}";
        for (image, recorded, registry, words, has_moved) in [
            ("x:1", "x@sha256:aa", (200, answer), "its tag still refers to sha256:aa", false),
            ("x:1", "y@sha256:cc x@sha256:aa", (200, answer), "its tag still refers to", false),
            ("x:1", "x@sha256:bb", (200, answer), "its tag referred to sha256:bb but refers to sha256:aa now", true),
            (
                "x:1",
                "x@sha256:bb",
                (500, "{\"message\":\"no route\"}"),
                "its tag was not checked with the registry: ",
                false,
            ),
            ("x:1", "", (200, answer), "no digest is recorded", false),
            ("x@sha256:bb", "x@sha256:bb", (200, answer), "by digest", false),
        ] {
            let message = asked(image, recorded, registry);
            assert!(message.0.contains(words) && message.1 == has_moved, "{image} {recorded}: {message:?}");
        }
    }
}
