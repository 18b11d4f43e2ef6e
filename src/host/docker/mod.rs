//! The Docker Engine, through its API.

pub mod adopt;
pub mod auth;
pub mod fields;
pub mod pull;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use bollard::models::ContainerStateStatusEnum as Status;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody,
    HostConfig, HostConfigLogConfig, NetworkConnectRequest, NetworkDisconnectRequest, PortBinding, PortSummaryTypeEnum,
    RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, DownloadFromContainerOptions, InspectContainerOptions,
    ListContainersOptions, LogsOptions, RemoveContainerOptions, RenameContainerOptions, StartContainerOptions,
    StopContainerOptions,
};
use futures_util::StreamExt;
use serde::Serialize;

use self::fields::Fields;
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::failpoint::failpoint;
use crate::host::net::chain;
use crate::host::wait::{Deadline, runtime};

/// Where the engine listens, if nothing else is said.
pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// What dockerd writes when it is about to serve, and removes at its end.
const PID_FILE: &str = "/run/docker.pid";

/// The newest version of the API whose answers this program knows: 1.minor.
const NEWEST_KNOWN: u32 = 53;

/// The first question; several steps ask it of an engine that does not answer.
const CONNECT: Duration = Duration::from_secs(5);

/// A question about what is; the engine answers from memory.
const QUESTION: Duration = Duration::from_secs(30);

/// For a question to a registry that nobody needs to answer.
const REGISTRY: Duration = Duration::from_secs(5);

/// How long a container has between SIGTERM and SIGKILL, seconds: ZooKeeper and Mesos
/// end within one.
const STOP_SECONDS: i32 = 10;

/// A creation, start or stop, the latter's patience included.
const ACTION: Duration = Duration::from_secs(120);

/// How long the engine has for an answer, after a signal, while a change is undone.
const UNDO: Duration = Duration::from_secs(2);

/// A connection to an engine that answered.
pub struct Engine {
    client: bollard::Docker,
    runtime: tokio::runtime::Runtime,
    undoing: Cell<bool>,
    /// Where it answers.
    pub address: String,
    /// Its own version, `20.10.24`.
    pub version: String,
}

/// An image that the engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Names its contents.
    pub id: String,
    /// `name@sha256:…` of every manifest that it was pulled by.
    pub digests: Vec<String>,
    /// The program that its containers run.
    pub entrypoint: Vec<String>,
    /// Its arguments, where a container has none.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// Whom they run as.
    pub user: String,
    /// The digests of its layers: the same in every image store.
    pub layers: Vec<String>,
}

/// A container as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Names it for ever.
    pub id: String,
    /// Its name now.
    pub name: String,
    /// The id of its image, as this engine's image store has it.
    pub image_id: String,
    /// What it is made of.
    pub fields: Fields,
    /// The image that it was made from, as it was named then.
    pub image: String,
    /// What is mounted in it: where from on the host, and where to.
    pub mounts: Vec<(String, String)>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// None where the engine does not say it.
    pub status: Option<Status>,
    /// Of its last end.
    pub exit_code: i64,
    /// Why the engine could not start it.
    pub error: String,
    /// How often the engine has restarted it by itself.
    pub restarts: i64,
}

/// A container in the engine's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Names it for ever.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image, as the engine names it.
    pub image: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// TCP ports of the host that it has, each with the address.
    pub ports: Vec<(String, u16)>,
    /// Whether it has a process.
    pub is_running: bool,
}

/// What a container is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Specification {
    /// The image, by tag or digest.
    pub image: String,
    /// Arguments of the image's entry point, or the command if it has none; empty: the image's own.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// `bridge`, `host`, or a network's name.
    pub network: String,
    /// What is published; nothing in the host's network.
    pub ports: Vec<Port>,
    /// `/on/the/host:/in/the/container`, with `:ro` at its end if it is only read.
    pub binds: Vec<String>,
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub restart: String,
    /// Labels, without our own.
    pub labels: BTreeMap<String, String>,
    /// The log driver; empty: the engine's own.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// User, or `user:group`; empty: the image's own.
    pub user: String,
}

/// A TCP port of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The address that it is published at; empty: all of the host's.
    pub address: String,
    /// On the host.
    pub host: u16,
    /// In the container.
    pub container: u16,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Docker Engine {} at {}", self.version, self.address)
    }
}

impl Engine {
    /// Connects, and agrees on a version of the API.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words.
    pub fn connect(address: &str, limit: Duration) -> Result<Result<Engine, String>> {
        let runtime = runtime()?;
        let opened = Deadline::new(format!("the Docker Engine at {address}"), limit).ask(&runtime, open(address))?;
        let address = address.to_owned();
        Ok(opened.map(|(client, version)| Engine { client, runtime, undoing: Cell::default(), address, version }))
    }

    fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        let grace = if self.undoing.get() { UNDO } else { Duration::ZERO };
        let mut deadline =
            Deadline::new(format!("the Docker Engine at {} to {what}", self.address), limit).with_grace(grace);
        deadline.ask(&self.runtime, async { work.await.map_err(|e| words(&e)) })?.map_err(|answer| {
            Error::failed(format!("the Docker Engine at {} cannot {what}", self.address)).cause(answer)
        })
    }

    /// Does work that undoes changes: after a signal too the engine has a little time for each answer.
    pub fn undo<T>(&self, work: impl FnOnce() -> T) -> T {
        self.undoing.set(true);
        let done = work();
        self.undoing.set(false);
        done
    }

    /// A change: a test may kill the program before and after it.
    fn change<T>(&self, what: &str, work: impl Future<Output = Result<T, bollard::errors::Error>>) -> Result<T> {
        failpoint();
        let made = self.wait(what, ACTION, work)?;
        failpoint();
        Ok(made)
    }

    /// The image of this name, tag or digest; `None`: the engine has none.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        let what = format!("tell of the image {reference}");
        self.wait(&what, QUESTION, async { image(&self.client, reference).await })
    }

    /// The media type of an image's manifest in its registry.
    ///
    /// # Errors
    /// When engine or registry do not answer, or refuse it.
    pub fn manifest_type(&self, reference: &str, host: &Host) -> Result<String> {
        let what = format!("tell of the image {reference} in its registry");
        let found =
            self.wait(&what, QUESTION, self.client.inspect_registry_image(reference, host.credentials(reference)?))?;
        Ok(found.descriptor.media_type.unwrap_or_default())
    }

    /// The digest to which an image's registry leads its tag now, `sha256:…`.
    ///
    /// # Errors
    /// When engine or registry do not answer soon, or refuse it.
    pub fn digest_in_registry(&self, reference: &str, host: &Host) -> Result<String> {
        let what = format!("tell of the image {reference} in its registry");
        let found =
            self.wait(&what, REGISTRY, self.client.inspect_registry_image(reference, host.credentials(reference)?))?;
        Ok(found.descriptor.digest.unwrap_or_default())
    }

    /// The container of this name; `None`: there is none.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn container(&self, name: &str) -> Result<Option<Container>> {
        let asked = self.client.inspect_container(name, None::<InspectContainerOptions>);
        let found = self
            .wait(&format!("tell of the container {name}"), QUESTION, async { absent_is_none(asked.await) })?
            .map(Container::of);
        Ok(found)
    }

    /// Where the engine keeps its data on its own machine: images, layers, containers.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn data_root(&self) -> Result<Option<String>> {
        let found = self.wait("say where its data are", QUESTION, self.client.info())?;
        Ok(found.docker_root_dir.filter(|path| path.starts_with('/')))
    }

    /// All containers, whether they run or not.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn containers(&self) -> Result<Vec<Listed>> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        let found = self.wait("list the containers", QUESTION, self.client.list_containers(Some(options)))?;
        Ok(found.into_iter().map(Listed::of).collect())
    }

    /// Gives a container another restart policy. It keeps running.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn set_restart(&self, id: &str, policy: &str) -> Result<()> {
        let body = ContainerUpdateBody { restart_policy: Some(restart_policy(policy)), ..Default::default() };
        self.change("change the restart policy of the container", self.client.update_container(id, body))
    }

    /// Connects a container to a network, with the ports that it publishes. It keeps running.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn join_network(&self, id: &str, network: &str) -> Result<()> {
        let body = NetworkConnectRequest { container: id.to_owned(), ..Default::default() };
        let what = format!("connect the container to the network {network}");
        self.change(&what, self.client.connect_network(network, body))
    }

    /// Disconnects a container from a network. It keeps running.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn leave_network(&self, id: &str, network: &str) -> Result<()> {
        let body = NetworkDisconnectRequest { container: id.to_owned(), force: None };
        let what = format!("disconnect the container from the network {network}");
        self.change(&what, self.client.disconnect_network(network, body))
    }

    /// Creates a container with a label more for each of `labels`; its id.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn create(&self, name: &str, made_of: &Specification, labels: &[(&str, &str)]) -> Result<String> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let body = made_of.body(labels);
        let made =
            self.change(&format!("create the container {name}"), self.client.create_container(Some(options), body))?;
        Ok(made.id)
    }

    /// Starts a container; one that is paused goes on.
    ///
    /// # Errors
    /// When the engine cannot.
    pub fn start(&self, container: &Container) -> Result<()> {
        let id = &container.id;
        if container.status == Some(Status::PAUSED) {
            return self.change("let the container go on", self.client.unpause_container(id));
        }
        self.change("start the container", self.client.start_container(id, None::<StartContainerOptions>))
    }

    /// Stops a container: SIGTERM, after 10 s SIGKILL. The engine will not restart it by itself.
    ///
    /// # Errors
    /// When the engine cannot.
    pub fn stop(&self, id: &str) -> Result<()> {
        let options = StopContainerOptions { t: Some(STOP_SECONDS), ..Default::default() };
        self.change("stop the container", self.client.stop_container(id, Some(options)))
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn rename(&self, id: &str, name: &str) -> Result<()> {
        let options = RenameContainerOptions { name: name.to_owned() };
        self.change(&format!("rename the container to {name}"), self.client.rename_container(id, options))
    }

    /// Removes a container, ended first if it runs, and with `volumes` those that have no name.
    ///
    /// # Errors
    /// When the engine cannot.
    pub fn remove(&self, id: &str, volumes: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: volumes, force: true, ..Default::default() };
        self.change("remove the container", self.client.remove_container(id, Some(options)))
    }

    /// The last lines that a container printed.
    pub fn last_lines(&self, id: &str) -> String {
        let options = LogsOptions { stdout: true, stderr: true, tail: "20".into(), ..Default::default() };
        let collected = self.wait("tell what the container printed", QUESTION, async {
            let (mut lines, mut stream) = (String::new(), self.client.logs(id, Some(options)));
            while let Some(chunk) = stream.next().await {
                lines.push_str(&String::from_utf8_lossy(&chunk?.into_bytes()));
            }
            Ok(lines)
        });
        collected.unwrap_or_else(|error| error.to_string())
    }

    /// Where the link at `path` in a container leads; none: it is not a link, or the engine does not say.
    pub fn link_at(&self, id: &str, path: &str) -> Option<String> {
        let options = ContainerArchiveInfoOptions { path: path.to_owned() };
        let asked = self.wait(&format!("look at {path} in the container"), QUESTION, async {
            self.client.get_container_archive_info(id, Some(options)).await
        });
        asked.ok().map(|found| found.link_target).filter(|target| !target.is_empty())
    }

    /// What is at `path` in a container, as a tar archive, which is written to `to`; whether it is there.
    ///
    /// # Errors
    /// When it cannot be had or written.
    pub fn archive(&self, id: &str, path: &str, deadline: Duration, to: &mut impl std::io::Write) -> Result<bool> {
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let copied = self.wait(&format!("copy {path} out of the container"), deadline, async {
            let mut stream = self.client.download_from_container(id, Some(options));
            let copy = async {
                while let Some(chunk) = stream.next().await {
                    to.write_all(&chunk?)?;
                }
                Ok(())
            };
            absent_is_none(copy.await)
        });
        Ok(copied?.is_some())
    }
}

impl Container {
    fn of(found: ContainerInspectResponse) -> Container {
        let fields = fields::of_container(&found);
        let (state, config) = (found.state.unwrap_or_default(), found.config.unwrap_or_default());
        let mounts = found.mounts.unwrap_or_default().into_iter();
        Container {
            image: config.image.unwrap_or_default(),
            mounts: mounts.filter_map(|mount| Some((mount.source?, mount.destination?))).collect(),
            id: found.id.unwrap_or_default(),
            name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
            image_id: found.image.unwrap_or_default(),
            fields,
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            status: state.status,
            exit_code: state.exit_code.unwrap_or_default(),
            error: state.error.unwrap_or_default(),
            restarts: found.restart_count.unwrap_or_default(),
        }
    }

    /// Whether its process runs; one that the engine restarts again and again does not.
    pub fn is_running(&self) -> bool {
        self.status == Some(Status::RUNNING)
    }

    /// Its state in words.
    pub fn told(&self) -> String {
        let mut words = self.status.map_or_else(String::new, |status| status.to_string());
        if matches!(self.status, Some(Status::EXITED | Status::RESTARTING | Status::DEAD)) {
            words = format!("{words}, exit code {}", self.exit_code);
        }
        if !self.error.is_empty() {
            words = format!("{words}: {}", self.error);
        }
        words
    }
}

impl Listed {
    fn of(found: ContainerSummary) -> Listed {
        use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
        let name = found.names.unwrap_or_default().into_iter().map(|name| name.trim_start_matches('/').to_owned());
        let ports = found.ports.unwrap_or_default().into_iter();
        let tcp = ports.filter(|port| matches!(port.typ, None | Some(PortSummaryTypeEnum::TCP)));
        Listed {
            id: found.id.unwrap_or_default(),
            // A link to a container is a name with a path.
            name: name.min_by_key(|name| name.matches('/').count()).unwrap_or_default(),
            image: found.image.unwrap_or_default(),
            labels: found.labels.unwrap_or_default().into_iter().collect(),
            ports: tcp.filter_map(|port| Some((port.ip.unwrap_or_default(), port.public_port?))).collect(),
            is_running: matches!(found.state, Some(RUNNING | PAUSED | RESTARTING)),
        }
    }
}

fn restart_policy(name: &str) -> RestartPolicy {
    RestartPolicy { name: name.parse::<RestartPolicyNameEnum>().ok(), maximum_retry_count: None }
}

impl Specification {
    fn body(&self, labels: &[(&str, &str)]) -> ContainerCreateBody {
        let list = |items: &Vec<String>| (!items.is_empty()).then(|| items.clone());
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let own = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let published = if self.network == "host" { [].as_slice() } else { &self.ports };
        let bindings: HashMap<String, Option<Vec<PortBinding>>> = published
            .iter()
            .map(|port| {
                let at = PortBinding { host_ip: text(&port.address), host_port: Some(port.host.to_string()) };
                (format!("{}/tcp", port.container), Some(vec![at]))
            })
            .collect();
        ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: list(&self.command),
            env: list(&self.environment),
            user: text(&self.user),
            labels: Some(self.labels.clone().into_iter().chain(own).collect()),
            exposed_ports: Some(bindings.keys().cloned().collect()),
            host_config: Some(HostConfig {
                network_mode: text(&self.network),
                port_bindings: Some(bindings),
                binds: list(&self.binds),
                restart_policy: Some(restart_policy(&self.restart)),
                log_config: text(&self.log_driver).map(|driver| HostConfigLogConfig {
                    typ: Some(driver),
                    config: Some(self.log_options.clone().into_iter().collect()),
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

impl Host {
    /// The node's Docker Engine.
    ///
    /// # Errors
    /// Outside: a signal. Inside: that it does not answer, in words.
    pub fn engine(&self) -> Result<Result<&Engine, String>> {
        if let Some(engine) = self.engine.get() {
            return Ok(Ok(engine));
        }
        Ok(Engine::connect(&self.docker, CONNECT)?
            .map(|engine| self.engine.get_or_init(|| engine))
            .map_err(|answer| format!("the Docker Engine at {} does not answer: {answer}", self.docker)))
    }

    /// Where an engine of this machine that runs now has its data. None: none runs, or it does not say. It is not asked
    /// through a socket that would start it.
    ///
    /// # Errors
    /// When a signal came.
    pub fn running_data_root(&self) -> Result<Option<String>> {
        if !self.live || !self.docker.starts_with("unix://") || self.entry(PID_FILE)?.is_none() {
            return Ok(None);
        }
        let Ok(engine) = self.engine()? else { return Ok(None) };
        match engine.data_root() {
            Err(error) if error.kind == Kind::Interrupted => Err(error),
            found => Ok(found.ok().flatten()),
        }
    }

    /// Whether a Docker Engine answers at this address.
    ///
    /// # Errors
    /// Outside: a signal. Inside: the last answer, in words.
    pub fn ping_docker(&self, address: &str, deadline: Duration) -> Result<Result<(), String>> {
        Ok(Engine::connect(address, deadline)?.map(drop))
    }

    /// Whether the engine at this address refuses API 1.`minor` to a client that asks for no other; its words, if it does.
    ///
    /// # Errors
    /// Outside: a signal. Inside: that it does not answer, in words.
    pub fn docker_refuses(
        &self,
        address: &str,
        minor: u32,
        deadline: Duration,
    ) -> Result<Result<Option<String>, String>> {
        let what = format!("the Docker Engine at {address} to answer API 1.{minor}");
        Deadline::new(what, deadline).ask(&runtime()?, refuses(address, minor))
    }
}

async fn refuses(address: &str, minor: u32) -> Result<Option<String>, String> {
    use bollard::errors::Error::{DockerResponseServerError, JsonDataError};
    match client(address, &Arc::new(AtomicU32::new(minor)))?.info().await {
        // What it is beyond that, an old client knows how to read.
        Ok(_) | Err(JsonDataError { .. }) => Ok(None),
        Err(DockerResponseServerError { status_code: 400, message }) => Ok(Some(message.trim().to_owned())),
        Err(other) => Err(words(&other)),
    }
}

/// A client that puts a version of the API before every path once it is agreed, that is, not 0.
///
/// bollard 0.21 asks without a version whatever it has negotiated; the engine then answers
/// as its newest API does, which need not be one that this program knows.
fn client(address: &str, agreed: &Arc<AtomicU32>) -> Result<bollard::Docker, String> {
    let seconds = ACTION.as_secs();
    let version = bollard::API_DEFAULT_VERSION;
    let client = match address.split_once("://") {
        Some(("unix", path)) => bollard::Docker::connect_with_unix(path, seconds, version),
        Some(("tcp" | "http", _)) => bollard::Docker::connect_with_http(address, seconds, version),
        _ => return Err("its address must begin with unix:// or tcp://".into()),
    };
    let minor = Arc::clone(agreed);
    Ok(client.map_err(|e| words(&e))?.with_request_modifier(move |mut request| {
        let minor = minor.load(Ordering::Relaxed);
        let mut parts = request.uri().clone().into_parts();
        let path = parts.path_and_query.as_ref().map_or("/", |path| path.as_str());
        parts.path_and_query = format!("/v1.{minor}{path}").parse().ok();
        if let (1.., Ok(uri)) = (minor, parts.try_into()) {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// A client that has agreed on a version of the API, and the engine's own version.
pub(super) async fn open(address: &str) -> Result<(bollard::Docker, String), String> {
    let agreed = Arc::new(AtomicU32::new(0));
    let client = client(address, &agreed)?;
    let engine = client.version().await.map_err(|e| words(&e))?;
    let of = |text: Option<String>| text.and_then(|text| text.strip_prefix("1.")?.parse::<u32>().ok());
    let newest = of(engine.api_version).ok_or("it does not say which version of the API it has")?;
    if let Some(oldest) = of(engine.min_api_version).filter(|oldest| *oldest > NEWEST_KNOWN) {
        return Err(format!("it wants API 1.{oldest}, and this program knows none after 1.{NEWEST_KNOWN}"));
    }
    agreed.store(newest.min(NEWEST_KNOWN), Ordering::Relaxed);
    Ok((client, engine.version.unwrap_or_default()))
}

async fn image(client: &bollard::Docker, reference: &str) -> Result<Option<Image>, bollard::errors::Error> {
    let found = absent_is_none(client.inspect_image(reference).await)?;
    Ok(found.map(|image| {
        let config = image.config.unwrap_or_default();
        Image {
            id: image.id.unwrap_or_default(),
            digests: image.repo_digests.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            layers: image.root_fs.and_then(|layers| layers.layers).unwrap_or_default(),
        }
    }))
}

pub(super) fn absent_is_none<T>(
    answer: Result<T, bollard::errors::Error>,
) -> Result<Option<T>, bollard::errors::Error> {
    match answer {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// What the engine said, without the client's frame.
pub(super) fn words(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        bollard::errors::Error::DockerStreamError { error } => error.trim().to_owned(),
        other => chain(other),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! An engine that says what a test wants, to be old or new, and remembers what it was asked.

    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    /// Where it listens, and the requests so far, as `GET /v1.24/_ping`.
    pub struct Fake {
        pub address: String,
        pub asked: Arc<Mutex<Vec<String>>>,
    }

    /// `answer` gives status and body to a request.
    pub fn engine(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut request, mut length) = (String::new(), 0);
                let _ = reader.read_line(&mut request);
                let mut header = String::new();
                while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
                    if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    header.clear();
                }
                let _ = reader.take(length).read_to_end(&mut Vec::new());
                let request = request.rsplit_once(' ').map_or("", |(request, _)| request).to_owned();
                let (status, body) = answer(&request);
                log.lock().unwrap().push(request);
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        Fake { address, asked }
    }

    /// The answer to `/version`.
    pub fn version(version: &str, newest: &str, oldest: &str) -> (u16, String) {
        let oldest = if oldest.is_empty() { String::new() } else { format!(",\"MinAPIVersion\":\"{oldest}\"") };
        (200, format!("{{\"Version\":\"{version}\",\"ApiVersion\":\"{newest}\"{oldest}}}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Duration = Duration::from_secs(10);

    fn asked_of(newest: &'static str, oldest: &'static str) -> Result<Vec<String>, String> {
        let fake = fake::engine(move |request| match request {
            "GET /version" => fake::version("1.12.6", newest, oldest),
            _ => (404, "{\"message\":\"No such image: x\"}".into()),
        });
        assert_eq!(Engine::connect(&fake.address, SECONDS).unwrap()?.image("x").unwrap(), None);
        Ok(fake.asked.lock().unwrap().clone())
    }

    #[test]
    fn both_sides_speak_the_newest_version_that_both_know() {
        assert_eq!(asked_of("1.24", "").unwrap(), ["GET /version", "GET /v1.24/images/x/json"]);
        assert_eq!(asked_of("1.41", "1.12").unwrap()[1], "GET /v1.41/images/x/json");
        assert_eq!(asked_of("1.99", "1.44").unwrap()[1], "GET /v1.53/images/x/json");
        let refused = asked_of("1.99", "1.60").unwrap_err();
        assert!(refused.contains("wants API 1.60"), "{refused}");
        assert!(asked_of("", "").unwrap_err().contains("version of the API"));
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        for (address, words) in [
            ("unix:///nowhere/docker.sock", "not found"),
            ("tcp://127.0.0.1:1", "refused"),
            ("ssh://root@node", "must begin with unix:// or tcp://"),
            ("", "must begin with"),
        ] {
            let told = Engine::connect(address, SECONDS).unwrap().unwrap_err();
            assert!(told.contains(words), "{address}: {told}");
        }
    }

    #[test]
    fn an_engine_that_refuses_an_old_api_says_so() {
        let host = Host::temporary().1;
        let fake = fake::engine(|request| match request {
            "GET /v1.24/info" => (500, "{\"message\":\"not yet\"}".into()),
            "GET /v1.26/info" => (400, "{\"message\":\"client version 1.26 is too old.\"}".into()),
            // A value that bollard does not know.
            _ => (200, "{\"CgroupDriver\":\"other\"}".into()),
        });
        let refuses = |minor| host.docker_refuses(&fake.address, minor, SECONDS).unwrap();
        assert_eq!(refuses(26).unwrap().unwrap(), "client version 1.26 is too old.");
        assert_eq!(refuses(44).unwrap(), None);
        assert_eq!(refuses(24).unwrap_err(), "not yet");
    }

    #[test]
    fn a_refusal_has_the_engines_words() {
        let fake = fake::engine(|request| match request {
            "GET /version" => fake::version("20.10.24", "1.41", "1.12"),
            _ => (409, "{\"message\":\"Conflict. The container name is in use\"}".into()),
        });
        let engine = Engine::connect(&fake.address, SECONDS).unwrap().unwrap();
        let told = engine.create("x", &Specification::default(), &[]).unwrap_err().to_string();
        assert!(
            told.contains("cannot create the container x") && told.contains("Conflict. The container name"),
            "{told}"
        );
    }

    #[test]
    fn a_port_in_the_hosts_network_is_not_published() {
        let port = Port { address: String::new(), host: 2181, container: 2181 };
        let of =
            |network: &str| Specification { network: network.into(), ports: vec![port.clone()], ..Default::default() };
        let bindings = |network| of(network).body(&[]).host_config.unwrap().port_bindings.unwrap();
        assert!(bindings("bridge").contains_key("2181/tcp") && bindings("host").is_empty());
    }
}
