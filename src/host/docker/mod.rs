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
    HostConfig, HostConfigLogConfig, ImageInspect, NetworkConnectRequest, NetworkDisconnectRequest, PortBinding,
    PortSummaryTypeEnum, RestartPolicy, RestartPolicyNameEnum, SystemInfo,
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

/// The engine's default address.
pub const DEFAULT_ADDRESS: &str = "unix:///var/run/docker.sock";

/// The file that dockerd writes before it serves, and removes at its end.
const PID_FILE: &str = "/run/docker.pid";

/// The newest version of the API, 1.minor, whose answers this program knows.
const NEWEST_KNOWN: u32 = 53;

/// The limit of a connection. It is short, because several steps try to connect to an engine that does not answer.
const CONNECT: Duration = Duration::from_secs(5);

/// The limit of a question that the engine answers from memory.
const QUESTION: Duration = Duration::from_secs(30);

/// The limit of a question to a registry whose answer is optional.
const REGISTRY: Duration = Duration::from_secs(5);

/// The seconds between SIGTERM and SIGKILL for a container. ZooKeeper and Mesos end within one second.
const STOP_SECONDS: i32 = 10;

/// The limit of a creation, start or stop, including the time between the signals.
const ACTION: Duration = Duration::from_secs(120);

/// How long the engine has for an answer after a signal, while the program undoes a change.
const UNDO: Duration = Duration::from_secs(2);

/// A connection to an engine that answered.
pub struct Engine {
    client: bollard::Docker,
    runtime: tokio::runtime::Runtime,
    undoing: Cell<bool>,
    /// Its address.
    pub address: String,
    /// Its version, e.g. `20.10.24`.
    pub version: String,
}

/// An image that the engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The digest of its contents.
    pub id: String,
    /// `name@sha256:…` for each manifest by which it was pulled.
    pub digests: Vec<String>,
    /// The program that its containers run.
    pub entrypoint: Vec<String>,
    /// The arguments of that program, unless a container has its own.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// The user that its containers run as.
    pub user: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was built.
    pub created: String,
    /// The digests of its layers.
    pub layers: Vec<String>,
}

/// A container and its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its id, which never changes.
    pub id: String,
    /// Its current name.
    pub name: String,
    /// The id of its image in this engine's image store.
    pub image_id: String,
    /// Its configuration.
    pub fields: Fields,
    /// The name of its image when it was created.
    pub image: String,
    /// Its mounts: the path on the host, and the path in the container.
    pub mounts: Vec<(String, String)>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `None` if the engine does not report it.
    pub status: Option<Status>,
    /// The exit code of its last process.
    pub exit_code: i64,
    /// The reason why the engine could not start it.
    pub error: String,
    /// How often the engine has restarted it.
    pub restarts: i64,
}

/// A container in the engine's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its id, which never changes.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The engine's name for its image.
    pub image: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The TCP ports of the host that it publishes, each with its address.
    pub ports: Vec<(String, u16)>,
    /// Whether it has a process.
    pub is_running: bool,
}

/// The configuration with which a container is created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Specification {
    /// The image, by tag or digest.
    pub image: String,
    /// Arguments of the image's entry point, or the command if it has none; empty for those of the image.
    pub command: Vec<String>,
    /// `NAME=value` each.
    pub environment: Vec<String>,
    /// `bridge`, `host`, or a network's name.
    pub network: String,
    /// The published ports; not used in the host's network.
    pub ports: Vec<Port>,
    /// `/on/the/host:/in/the/container`, with `:ro` at its end if it is read-only.
    pub binds: Vec<String>,
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub restart: String,
    /// Labels, without those that the program adds.
    pub labels: BTreeMap<String, String>,
    /// The log driver; empty for the engine's default.
    pub log_driver: String,
    /// The options of the log driver.
    pub log_options: BTreeMap<String, String>,
    /// User, or `user:group`; empty for that of the image.
    pub user: String,
}

/// A TCP port of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The address at which it is published; empty for all addresses of the host.
    pub address: String,
    /// The port on the host.
    pub host: u16,
    /// The port in the container.
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
    /// The outer result fails when a signal arrives. The inner one fails when the engine does not answer; the error is
    /// a message.
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
        deadline.ask(&self.runtime, async { work.await.map_err(|e| engine_message(&e)) })?.map_err(|answer| {
            Error::failed(format!("the Docker Engine at {} cannot {what}", self.address)).cause(answer)
        })
    }

    /// Does work that undoes changes: even after a signal, the engine has some time for each answer.
    pub fn undo<T>(&self, work: impl FnOnce() -> T) -> T {
        self.undoing.set(true);
        let done = work();
        self.undoing.set(false);
        done
    }

    /// Makes a change. A test can kill the program before and after it.
    fn change<T>(&self, what: &str, work: impl Future<Output = Result<T, bollard::errors::Error>>) -> Result<T> {
        failpoint();
        let made = self.wait(what, ACTION, work)?;
        failpoint();
        Ok(made)
    }

    /// The image with this name, tag or digest; `None` if the engine does not have it.
    ///
    /// # Errors
    /// Fails when the engine does not answer.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        let what = format!("look up the image {reference}");
        self.wait(&what, QUESTION, async { inspect_image(&self.client, reference).await })
    }

    /// The media type of an image's manifest in its registry.
    ///
    /// # Errors
    /// Fails when the engine or the registry does not answer, or refuses.
    pub fn manifest_type(&self, reference: &str, host: &Host) -> Result<String> {
        let what = format!("look up the image {reference} in its registry");
        let found =
            self.wait(&what, QUESTION, self.client.inspect_registry_image(reference, host.credentials(reference)?))?;
        Ok(found.descriptor.media_type.unwrap_or_default())
    }

    /// The digest, `sha256:…`, that an image's tag has in its registry now.
    ///
    /// # Errors
    /// Fails when the engine or the registry does not answer soon, or refuses.
    pub fn digest_in_registry(&self, reference: &str, host: &Host) -> Result<String> {
        let what = format!("look up the image {reference} in its registry");
        let found =
            self.wait(&what, REGISTRY, self.client.inspect_registry_image(reference, host.credentials(reference)?))?;
        Ok(found.descriptor.digest.unwrap_or_default())
    }

    /// The container with this name, if there is one.
    ///
    /// # Errors
    /// Fails when the engine does not answer.
    pub fn container(&self, name: &str) -> Result<Option<Container>> {
        let asked = self.client.inspect_container(name, None::<InspectContainerOptions>);
        let found = self
            .wait(&format!("look up the container {name}"), QUESTION, async { absent_is_none(asked.await) })?
            .map(Container::from_inspection);
        Ok(found)
    }

    /// The directory on the engine's machine with its data: images, layers, containers.
    ///
    /// # Errors
    /// Fails when the engine does not answer.
    pub fn data_root(&self) -> Result<Option<String>> {
        self.wait("say where its data are", QUESTION, async { Ok(root_of(self.client.info().await?)) })
    }

    /// All containers, running or not.
    ///
    /// # Errors
    /// Fails when the engine does not answer.
    pub fn containers(&self) -> Result<Vec<Listed>> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        let found = self.wait("list the containers", QUESTION, self.client.list_containers(Some(options)))?;
        Ok(found.into_iter().map(Listed::from_summary).collect())
    }

    /// Changes the restart policy of a container. It keeps running.
    ///
    /// # Errors
    /// Fails when the engine refuses.
    pub fn set_restart(&self, id: &str, policy: &str) -> Result<()> {
        let body = ContainerUpdateBody { restart_policy: Some(restart_policy(policy)), ..Default::default() };
        self.change("change the restart policy of the container", self.client.update_container(id, body))
    }

    /// Connects a container to a network, with the ports that it publishes. It keeps running.
    ///
    /// # Errors
    /// Fails when the engine refuses.
    pub fn join_network(&self, id: &str, network: &str) -> Result<()> {
        let body = NetworkConnectRequest { container: id.to_owned(), ..Default::default() };
        let what = format!("connect the container to the network {network}");
        self.change(&what, self.client.connect_network(network, body))
    }

    /// Disconnects a container from a network. It keeps running.
    ///
    /// # Errors
    /// Fails when the engine refuses.
    pub fn leave_network(&self, id: &str, network: &str) -> Result<()> {
        let body = NetworkDisconnectRequest { container: id.to_owned(), force: None };
        let what = format!("disconnect the container from the network {network}");
        self.change(&what, self.client.disconnect_network(network, body))
    }

    /// Creates a container with these additional labels, and returns its id.
    ///
    /// # Errors
    /// Fails when the engine refuses.
    pub fn create(&self, name: &str, specification: &Specification, labels: &[(&str, &str)]) -> Result<String> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let body = specification.body(labels);
        let made =
            self.change(&format!("create the container {name}"), self.client.create_container(Some(options), body))?;
        Ok(made.id)
    }

    /// Starts a container, or resumes a paused one.
    ///
    /// # Errors
    /// Fails when the engine cannot start it.
    pub fn start(&self, container: &Container) -> Result<()> {
        let id = &container.id;
        if container.status == Some(Status::PAUSED) {
            return self.change("resume the container", self.client.unpause_container(id));
        }
        self.change("start the container", self.client.start_container(id, None::<StartContainerOptions>))
    }

    /// Stops a container: SIGTERM, and SIGKILL after 10 s. The engine will not restart it.
    ///
    /// # Errors
    /// Fails when the engine cannot stop it.
    pub fn stop(&self, id: &str) -> Result<()> {
        let options = StopContainerOptions { t: Some(STOP_SECONDS), ..Default::default() };
        self.change("stop the container", self.client.stop_container(id, Some(options)))
    }

    /// Renames a container.
    ///
    /// # Errors
    /// Fails when the engine refuses.
    pub fn rename(&self, id: &str, name: &str) -> Result<()> {
        let options = RenameContainerOptions { name: name.to_owned() };
        self.change(&format!("rename the container to {name}"), self.client.rename_container(id, options))
    }

    /// Stops and removes a container, and with `volumes` its unnamed volumes.
    ///
    /// # Errors
    /// Fails when the engine cannot remove it.
    pub fn remove(&self, id: &str, volumes: bool) -> Result<()> {
        let options = RemoveContainerOptions { v: volumes, force: true, ..Default::default() };
        self.change("remove the container", self.client.remove_container(id, Some(options)))
    }

    /// The last lines that a container printed.
    pub fn last_lines(&self, id: &str) -> String {
        let options = LogsOptions { stdout: true, stderr: true, tail: "20".into(), ..Default::default() };
        let collected = self.wait("return what the container printed", QUESTION, async {
            let (mut lines, mut stream) = (String::new(), self.client.logs(id, Some(options)));
            while let Some(chunk) = stream.next().await {
                lines.push_str(&String::from_utf8_lossy(&chunk?.into_bytes()));
            }
            Ok(lines)
        });
        collected.unwrap_or_else(|error| error.to_string())
    }

    /// The target of the link at `path` in a container; `None` if it is not a link, or the engine does not answer.
    pub fn link_at(&self, id: &str, path: &str) -> Option<String> {
        let options = ContainerArchiveInfoOptions { path: path.to_owned() };
        let asked = self.wait(&format!("examine {path} in the container"), QUESTION, async {
            self.client.get_container_archive_info(id, Some(options)).await
        });
        asked.ok().map(|found| found.link_target).filter(|target| !target.is_empty())
    }

    /// Writes a tar archive of `path` in a container to `to`. Returns whether the path exists.
    ///
    /// # Errors
    /// Fails when the engine does not return the archive, or it cannot be written.
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

impl Image {
    fn from_inspection(found: ImageInspect) -> Image {
        let config = found.config.unwrap_or_default();
        Image {
            id: found.id.unwrap_or_default(),
            digests: found.repo_digests.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            labels: config.labels.unwrap_or_default().into_iter().collect(),
            created: found.created.map(|at| at.to_string()).unwrap_or_default(),
            layers: found.root_fs.and_then(|layers| layers.layers).unwrap_or_default(),
        }
    }

    /// Whether both are the same image. An image store can have several ids for one image.
    pub fn is_same(&self, other: &Image) -> bool {
        let plain = |image: &Image| Image { id: String::new(), digests: Vec::new(), ..image.clone() };
        self.id == other.id || plain(self) == plain(other)
    }
}

impl Container {
    fn from_inspection(found: ContainerInspectResponse) -> Container {
        let fields = fields::fields_of_container(&found);
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

    /// Whether its process runs. A container that the engine restarts again and again is not running.
    pub fn is_running(&self) -> bool {
        self.status == Some(Status::RUNNING)
    }

    /// Describes its state.
    pub fn state_words(&self) -> String {
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
    fn from_summary(found: ContainerSummary) -> Listed {
        use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
        let name = found.names.unwrap_or_default().into_iter().map(|name| name.trim_start_matches('/').to_owned());
        let ports = found.ports.unwrap_or_default().into_iter();
        let tcp = ports.filter(|port| matches!(port.typ, None | Some(PortSummaryTypeEnum::TCP)));
        Listed {
            id: found.id.unwrap_or_default(),
            // A container's links are additional names with more slashes.
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
                // Its directories belong to root, which userns-remap would map to another user.
                userns_mode: Some("host".into()),
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
    /// The outer result fails when a signal arrives. The inner one fails when the engine does not answer; the error is
    /// a message.
    pub fn engine(&self) -> Result<Result<&Engine, String>> {
        if let Some(engine) = self.engine.get() {
            return Ok(Ok(engine));
        }
        Ok(Engine::connect(&self.docker, CONNECT)?
            .map(|engine| self.engine.get_or_init(|| engine))
            .map_err(|answer| format!("the Docker Engine at {} does not answer: {answer}", self.docker)))
    }

    /// Whether an engine on this machine runs now. Does not connect to a socket that would start it.
    fn is_engine_running(&self) -> Result<bool> {
        Ok(self.live && self.docker.starts_with("unix://") && self.entry(PID_FILE)?.is_some())
    }

    /// The version of the engine on this machine, if it runs now.
    ///
    /// # Errors
    /// Fails when a signal arrives.
    pub fn running_engine_version(&self) -> Result<Option<String>> {
        if !self.is_engine_running()? {
            return Ok(None);
        }
        Ok(self.engine()?.ok().map(|engine| engine.version.clone()))
    }

    /// The data directory of the engine on this machine; `None` if no engine runs or it does not say. Does not connect
    /// to a socket that would start the engine.
    ///
    /// # Errors
    /// Fails when a signal arrives.
    pub fn running_data_root(&self) -> Result<Option<String>> {
        if !self.is_engine_running()? {
            return Ok(None);
        }
        // An agreement on a version of the API would take as long as this answer, and every version has the directory.
        let what = format!("the Docker Engine at {} to say where its data are", self.docker);
        if let Ok(root) = Deadline::new(what, CONNECT).ask(&runtime()?, data_root(&self.docker))? {
            return Ok(root);
        }
        let Ok(engine) = self.engine()? else { return Ok(None) };
        match engine.data_root() {
            Err(error) if error.kind == Kind::Interrupted => Err(error),
            found => Ok(found.ok().flatten()),
        }
    }

    /// Checks that a Docker Engine answers at this address.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when the engine does not answer; the error is
    /// a message.
    pub fn ping_docker(&self, address: &str, deadline: Duration) -> Result<Result<(), String>> {
        Ok(Engine::connect(address, deadline)?.map(drop))
    }

    /// The message with which the engine at this address refuses API 1.`minor`, if it does.
    ///
    /// # Errors
    /// The outer result fails when a signal arrives. The inner one fails when the engine does not answer; the error is
    /// a message.
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

async fn data_root(address: &str) -> Result<Option<String>, String> {
    client(address, &Arc::default())?.info().await.map(root_of).map_err(|e| engine_message(&e))
}

fn root_of(found: SystemInfo) -> Option<String> {
    found.docker_root_dir.filter(|path| path.starts_with('/'))
}

async fn refuses(address: &str, minor: u32) -> Result<Option<String>, String> {
    use bollard::errors::Error::DockerResponseServerError;
    // The engine checks the version before the path. It answers this path from memory; for /info it starts programs.
    match client(address, &Arc::new(AtomicU32::new(minor)))?.ping().await {
        Ok(body) if body.trim() == "OK" => Ok(None),
        Ok(_) => Err("its answer is not a Docker Engine's".to_owned()),
        Err(DockerResponseServerError { status_code: 400, message }) => Ok(Some(message.trim().to_owned())),
        Err(other) => Err(engine_message(&other)),
    }
}

/// A client that adds the agreed version of the API to every path; 0 means not agreed yet.
///
/// bollard 0.21 never sends the version that it has negotiated. The engine would answer in the form of its newest API,
/// which this program need not know.
fn client(address: &str, agreed: &Arc<AtomicU32>) -> Result<bollard::Docker, String> {
    let seconds = ACTION.as_secs();
    let version = bollard::API_DEFAULT_VERSION;
    let client = match address.split_once("://") {
        Some(("unix", path)) => bollard::Docker::connect_with_unix(path, seconds, version),
        Some(("tcp" | "http", _)) => bollard::Docker::connect_with_http(address, seconds, version),
        _ => return Err("its address must begin with unix:// or tcp://".into()),
    };
    let minor = Arc::clone(agreed);
    Ok(client.map_err(|e| engine_message(&e))?.with_request_modifier(move |mut request| {
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

/// Returns a client that has agreed on a version of the API, and the engine's version.
pub(super) async fn open(address: &str) -> Result<(bollard::Docker, String), String> {
    let agreed = Arc::new(AtomicU32::new(0));
    let client = client(address, &agreed)?;
    let engine = client.version().await.map_err(|e| engine_message(&e))?;
    let minor = |text: Option<String>| text.and_then(|text| text.strip_prefix("1.")?.parse::<u32>().ok());
    let newest = minor(engine.api_version).ok_or("it does not say which version of the API it has")?;
    if let Some(oldest) = minor(engine.min_api_version).filter(|oldest| *oldest > NEWEST_KNOWN) {
        return Err(format!("it requires API 1.{oldest}, but the newest that this program knows is 1.{NEWEST_KNOWN}"));
    }
    agreed.store(newest.min(NEWEST_KNOWN), Ordering::Relaxed);
    Ok((client, engine.version.unwrap_or_default()))
}

async fn inspect_image(client: &bollard::Docker, reference: &str) -> Result<Option<Image>, bollard::errors::Error> {
    Ok(absent_is_none(client.inspect_image(reference).await)?.map(Image::from_inspection))
}

/// For [`crate::parsers`]: the engine's answers about a container, an image, all containers, and a pull.
pub(crate) fn read_as_any_answer(bytes: &[u8]) -> crate::claims::Claim {
    use crate::claims::holds;
    if let Ok(found) = serde_json::from_slice::<ContainerInspectResponse>(bytes) {
        let (container, again) = (Container::from_inspection(found.clone()), Container::from_inspection(found));
        holds(container.fields == again.fields, || format!("{:?}, then {:?}", container.fields, again.fields))?;
        holds(!container.name.starts_with('/'), || format!("a container {:?}", container.name))?;
        let _ = container.state_words();
    }
    if let Ok(found) = serde_json::from_slice(bytes) {
        let image = Image::from_inspection(found);
        holds(image.is_same(&image), || format!("{image:?} is not itself"))?;
    }
    if let Ok(found) = serde_json::from_slice::<Vec<ContainerSummary>>(bytes) {
        let _ = found.into_iter().map(Listed::from_summary).count();
    }
    pull::read_as_any_answer(bytes)
}

pub(super) fn absent_is_none<T>(
    answer: Result<T, bollard::errors::Error>,
) -> Result<Option<T>, bollard::errors::Error> {
    match answer {
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        answer => answer.map(Some),
    }
}

/// The engine's message, without the words of the client library.
pub(super) fn engine_message(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        bollard::errors::Error::DockerStreamError { error } => error.trim().to_owned(),
        other => chain(other),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! An engine of any version with answers from a test; it records the requests.

    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::{Arc, Mutex};

    /// Its address, and the requests so far, e.g. `GET /v1.24/_ping`.
    pub struct Fake {
        pub address: String,
        pub requests: Arc<Mutex<Vec<String>>>,
    }

    /// Starts an engine. `answer` returns the status and the body for a request.
    pub fn engine(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
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
        Fake { address, requests }
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

    fn requests_to(newest: &'static str, oldest: &'static str) -> Result<Vec<String>, String> {
        let fake = fake::engine(move |request| match request {
            "GET /version" => fake::version("1.12.6", newest, oldest),
            _ => (404, "{\"message\":\"No such image: x\"}".into()),
        });
        assert_eq!(Engine::connect(&fake.address, SECONDS).unwrap()?.image("x").unwrap(), None);
        Ok(fake.requests.lock().unwrap().clone())
    }

    #[test]
    fn the_newest_version_that_both_sides_know_is_used() {
        assert_eq!(requests_to("1.24", "").unwrap(), ["GET /version", "GET /v1.24/images/x/json"]);
        assert_eq!(requests_to("1.41", "1.12").unwrap()[1], "GET /v1.41/images/x/json");
        assert_eq!(requests_to("1.99", "1.44").unwrap()[1], "GET /v1.53/images/x/json");
        let refused = requests_to("1.99", "1.60").unwrap_err();
        assert!(refused.contains("requires API 1.60"), "{refused}");
        assert!(requests_to("", "").unwrap_err().contains("version of the API"));
    }

    #[test]
    fn an_address_without_an_engine_is_reported() {
        for (address, words) in [
            ("unix:///nowhere/docker.sock", "not found"),
            ("tcp://127.0.0.1:1", "refused"),
            ("ssh://root@node", "must begin with unix:// or tcp://"),
            ("", "must begin with"),
        ] {
            let message = Engine::connect(address, SECONDS).unwrap().unwrap_err();
            assert!(message.contains(words), "{address}: {message}");
        }
    }

    #[test]
    fn the_refusal_of_an_old_api_is_reported() {
        let host = Host::temporary().1;
        let fake = fake::engine(|request| match request {
            "GET /v1.24/_ping" => (500, "{\"message\":\"not yet\"}".into()),
            "GET /v1.26/_ping" => (400, "{\"message\":\"client version 1.26 is too old.\"}".into()),
            _ => (200, "OK".into()),
        });
        let refuses = |minor| host.docker_refuses(&fake.address, minor, SECONDS).unwrap();
        assert_eq!(refuses(26).unwrap().unwrap(), "client version 1.26 is too old.");
        assert_eq!(refuses(44).unwrap(), None);
        assert_eq!(refuses(24).unwrap_err(), "not yet");
        let other = fake::engine(|_| (200, "<html>".into()));
        let answer = host.docker_refuses(&other.address, 26, SECONDS).unwrap();
        assert_eq!(answer.unwrap_err(), "its answer is not a Docker Engine's");
    }

    #[test]
    fn a_refusal_has_the_engines_words() {
        let fake = fake::engine(|request| match request {
            "GET /version" => fake::version("20.10.24", "1.41", "1.12"),
            _ => (409, "{\"message\":\"Conflict. The container name is in use\"}".into()),
        });
        let engine = Engine::connect(&fake.address, SECONDS).unwrap().unwrap();
        let message = engine.create("x", &Specification::default(), &[]).unwrap_err().to_string();
        assert!(
            message.contains("cannot create the container x") && message.contains("Conflict. The container name"),
            "{message}"
        );
    }

    #[test]
    fn a_port_in_the_hosts_network_is_not_published() {
        let port = Port { address: String::new(), host: 2181, container: 2181 };
        let specification =
            |network: &str| Specification { network: network.into(), ports: vec![port.clone()], ..Default::default() };
        let bindings = |network| specification(network).body(&[]).host_config.unwrap().port_bindings.unwrap();
        assert!(bindings("bridge").contains_key("2181/tcp") && bindings("host").is_empty());
    }
}
