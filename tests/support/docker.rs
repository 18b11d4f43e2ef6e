//! A Docker Engine in this process, over HTTP. It keeps images and containers like a real one, and fails like one.
//!
//! A container is its specification and its state; no process runs. The unit tests have a smaller engine
//! (`host::docker::fake`), which gives one scripted answer per request and keeps nothing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use base64::Engine as _;
use serde_json::{Value as Json, json};

use super::door::{Door, read_request};
use super::sigv4::{Request, decoded};

/// The engine. It lives until this is dropped.
#[derive(Debug)]
pub struct Docker {
    _door: Door,
    state: Arc<Mutex<State>>,
    /// Its address, `127.0.0.1:PORT`.
    pub address: String,
}

/// A container.
#[derive(Debug, Clone, Default)]
pub struct Container {
    pub id: String,
    pub name: String,
    /// The body of the request that created it.
    pub made_of: Json,
    /// The id of its image.
    pub image_id: String,
    /// Its networks, if they are not only the one that it was created with.
    pub networks: Vec<String>,
    /// `created`, `running`, `paused`, `restarting`, `exited`, `dead`.
    pub status: &'static str,
    pub exit_code: i64,
    pub error: String,
    pub restarts: i64,
    /// How many restarts it needs.
    recovers_at: Option<i64>,
    /// Its output.
    pub prints: String,
    /// The source on the host and the path in the container of each mount.
    pub mounts: Vec<(String, String)>,
    /// Files by their path in the container.
    pub files: BTreeMap<String, String>,
    /// Links by their path in the container.
    pub links: BTreeMap<String, String>,
}

/// An image: its id, and its digest in the registry.
type Image = (String, String);

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<String, Image>,
    registry: BTreeMap<String, Image>,
    containers: Vec<Container>,
    count: usize,
    changes: Vec<String>,
    refusals: Vec<Refusal>,
    held: BTreeSet<u64>,
    /// How containers of certain images end.
    ends: BTreeMap<String, End>,
}

/// Failing answers of one kind: how many remain.
#[derive(Debug)]
struct Refusal {
    verb: &'static str,
    status: u16,
    message: String,
    /// The number of requests that succeed before.
    after: usize,
    left: usize,
}

/// How a container's process ends.
#[derive(Debug, Clone)]
pub enum End {
    /// At once, with this exit code and these last lines.
    Exits(i64, &'static str),
    /// Again and again, whenever the engine restarts it.
    Restarts(i64),
    /// Again and again, until the engine has restarted it this often.
    Recovers(i64),
    /// Never, like that of any other image.
    Stays,
}

/// Status, header, body.
type Reply = (u16, Option<(&'static str, String)>, Vec<u8>);

impl Docker {
    /// An engine without images and containers.
    pub fn start() -> Docker {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let asked = Arc::clone(&state);
        let door = Door::open(listener, move |stream| converse(&asked, stream), || {});
        Docker { _door: door, state, address }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The value of the setting `docker.host` for this engine.
    pub fn host(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// Adds an image to the registry, which reports no digest for one without an id.
    pub fn publish(&self, name: &str, id: &str) {
        let digest = if id.is_empty() { String::new() } else { format!("sha256:{id}") };
        self.state().registry.insert(name.into(), (id.into(), digest));
    }

    /// Adds an image to the engine and the registry.
    pub fn load(&self, name: &str, id: &str) {
        self.publish(name, id);
        self.state().images.insert(name.into(), (id.into(), format!("sha256:{id}")));
    }

    /// Removes an image from the engine.
    pub fn remove_image(&self, name: &str) {
        self.state().images.remove(name);
    }

    /// Starts a container as another program would.
    pub fn run(&self, name: &str, image: &str, change: impl FnOnce(&mut Container)) -> String {
        let mut state = self.state();
        let id = state.next_id();
        let made_of = json!({ "Image": image, "Labels": {} });
        let mut container =
            Container { id: id.clone(), name: name.into(), made_of, status: "running", ..Container::default() };
        change(&mut container);
        state.containers.push(container);
        id
    }

    /// Removes a container, so that the engine does not know it.
    pub fn take(&self, name: &str) -> Container {
        let taken = self.container(name);
        self.state().containers.retain(|container| container.id != taken.id);
        taken
    }

    /// Puts back a container.
    pub fn put(&self, container: Container) {
        self.state().containers.push(container);
    }

    /// The container with this name.
    pub fn find(&self, name: &str) -> Option<Container> {
        self.state().at(name).cloned()
    }

    /// The container with this name, which must exist.
    #[track_caller]
    pub fn container(&self, name: &str) -> Container {
        self.find(name).unwrap_or_else(|| panic!("there is no container {name}"))
    }

    /// Changes a container as another program would.
    #[track_caller]
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Container)) {
        change(self.state().at(name).unwrap());
    }

    /// The name and state of each container.
    pub fn containers(&self) -> Vec<String> {
        self.state().containers.iter().map(|container| format!("{} {}", container.name, container.status)).collect()
    }

    /// The changes since the last call, e.g. `start zookeeper`, with the names at the time.
    pub fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.state().changes)
    }

    /// Answers this number of requests of one kind (`create`, `start`, `stop`, `rename`, `remove`, `archive`) with an error.
    pub fn refuse(&self, verb: &'static str, times: usize, status: u16, message: &str) {
        self.refuse_after(verb, 0, times, status, message);
    }

    /// Does so after this number of successful requests.
    pub fn refuse_after(&self, verb: &'static str, after: usize, times: usize, status: u16, message: &str) {
        self.state().refusals.push(Refusal { verb, status, message: message.into(), after, left: times });
    }

    /// Makes a process of the host use a port.
    pub fn hold(&self, port: u16) {
        self.state().held.insert(port.into());
    }

    /// Makes the containers of an image end this way.
    pub fn end(&self, image: &str, end: End) {
        self.state().ends.insert(image.into(), end);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn converse(state: &Mutex<State>, mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let (status, header, body) = lock(state).reply(&request);
        let header = header.map_or(String::new(), |(name, value)| format!("{name}: {value}\r\n"));
        // A status without a body has no length either (RFC 9110, 8.6).
        let length =
            if matches!(status, 204 | 304) { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{header}{length}\r\n")?;
        if request.method != "HEAD" {
            stream.write_all(&body)?;
        }
    }
    Ok(())
}

fn error(status: u16, message: impl Into<String>) -> Reply {
    (status, None, json!({ "message": message.into() }).to_string().into_bytes())
}

fn found(value: &Json) -> Reply {
    (200, None, value.to_string().into_bytes())
}

fn done(status: u16) -> Reply {
    (status, None, Vec::new())
}

fn text(encoded: &str) -> String {
    String::from_utf8_lossy(&decoded(encoded)).into_owned()
}

impl Request {
    fn query(&self, name: &str) -> String {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        text(&value.unwrap_or_default().replace('+', " "))
    }
}

impl State {
    fn next_id(&mut self) -> String {
        self.count += 1;
        format!("{:064x}", self.count)
    }

    /// By name or id.
    fn at(&mut self, name: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.name == name || container.id == name)
    }

    fn reply(&mut self, request: &Request) -> Reply {
        let path = text(request.path());
        // The version of the API, in every path except `/version`.
        let path = match path.strip_prefix("/v1.") {
            Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
            None => path.trim_start_matches('/'),
        };
        if path == "version" {
            return found(&json!({ "Version": "20.10.24", "ApiVersion": "1.41", "MinAPIVersion": "1.12" }));
        }
        match path.split_once('/') {
            Some(("images", "create")) => self.pull(&request.query("fromImage"), &request.query("tag")),
            Some(("images", rest)) => self.image(rest.trim_end_matches("/json")),
            Some(("distribution", rest)) => self.in_registry(rest.trim_end_matches("/json")),
            Some(("containers", "json")) => {
                found(&Json::Array(self.containers.iter().map(Container::listed).collect()))
            }
            Some(("networks", rest)) => self.network(rest, request),
            Some(("containers", rest)) => {
                let (name, verb) = rest.split_once('/').unwrap_or((rest, "remove"));
                let verb = if name == "create" { "create" } else { verb };
                let refused = self.refusals.iter_mut().find(|refusal| refusal.verb == verb && refusal.left > 0);
                match refused {
                    Some(refusal) if refusal.after > 0 => refusal.after -= 1,
                    Some(refusal) => {
                        refusal.left -= 1;
                        return error(refusal.status, &refusal.message);
                    }
                    None => {}
                }
                if verb == "create" { self.create(request) } else { self.container(name, verb, request) }
            }
            _ => error(404, format!("page not found: {path}")),
        }
    }

    /// The image with this name, digest or id, and its name without the tag.
    fn find_image(&self, name: &str) -> Option<(&str, &Image)> {
        let images = self.images.iter().map(|(known, image)| {
            let without_tag = known.rsplit_once(':').map_or(known.as_str(), |(name, _)| name);
            (known, without_tag, image)
        });
        let mut found = images.filter(|(known, without_tag, (id, digest))| {
            format!("{without_tag}@{digest}") == name || known.as_str() == name || id == name
        });
        found.next().map(|(_, without_tag, image)| (without_tag, image))
    }

    fn image(&self, name: &str) -> Reply {
        match self.find_image(name) {
            Some((without_tag, (id, digest))) => {
                let digests = [format!("{without_tag}@{digest}")];
                found(&json!({ "Id": id, "RepoDigests": digests, "RootFS": { "Type": "layers", "Layers": [digest] } }))
            }
            None => error(404, format!("No such image: {name}")),
        }
    }

    fn in_registry(&self, name: &str) -> Reply {
        match self.registry.get(name) {
            Some((_, digest)) => found(&json!({ "Descriptor": { "digest": digest }, "Platforms": [] })),
            None => error(404, format!("manifest for {name} not found: manifest unknown")),
        }
    }

    fn pull(&mut self, name: &str, tag: &str) -> Reply {
        let is_wanted = |(known, (_, digest)): &(&String, &Image)| match tag.starts_with("sha256:") {
            true => digest == tag && known.rsplit_once(':').is_some_and(|(known, _)| known == name),
            false => **known == format!("{name}:{tag}"),
        };
        let image = if tag.starts_with("sha256:") { format!("{name}@{tag}") } else { format!("{name}:{tag}") };
        self.changes.push(format!("pull {image}"));
        match self.registry.iter().find(is_wanted) {
            Some((known, found)) => {
                self.images.insert(known.clone(), found.clone());
                (
                    200,
                    None,
                    b"{\"status\":\"Pulling from x\",\"id\":\"x\"}\n{\"status\":\"Download complete\",\"id\":\"x\"}\n"
                        .to_vec(),
                )
            }
            None => error(404, format!("manifest for {image} not found: manifest unknown: manifest unknown")),
        }
    }

    fn create(&mut self, request: &Request) -> Reply {
        let (name, made_of) = (request.query("name"), serde_json::from_slice::<Json>(&request.body).unwrap());
        if let Some(other) = self.at(&name) {
            let id = &other.id;
            return error(
                409,
                format!(
                    "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
                ),
            );
        }
        let image = made_of["Image"].as_str().unwrap();
        let Some((_, (image_id, _))) = self.find_image(image) else {
            return error(404, format!("No such image: {image}"));
        };
        let image_id = image_id.clone();
        let binds = made_of["HostConfig"]["Binds"].as_array().cloned().unwrap_or_default();
        let mounts = binds.iter().filter_map(|bind| {
            let mut parts = bind.as_str()?.splitn(3, ':');
            Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
        });
        let mounts = mounts.collect();
        let id = self.next_id();
        self.changes.push(format!("create {name}"));
        self.containers.push(Container {
            id: id.clone(),
            name,
            made_of,
            image_id,
            status: "created",
            mounts,
            ..Container::default()
        });
        (201, None, json!({ "Id": id, "Warnings": [] }).to_string().into_bytes())
    }

    /// Connects a container to a network, or disconnects it.
    fn network(&mut self, path: &str, request: &Request) -> Reply {
        let asked: Json = serde_json::from_slice(&request.body).unwrap();
        let (network, verb) = path.split_once('/').unwrap();
        let Some(container) = self.at(asked["Container"].as_str().unwrap()) else {
            return error(404, "No such container");
        };
        let mut networks = container.all_networks();
        networks.retain(|other| other != network);
        if verb == "connect" {
            networks.push(network.to_owned());
        }
        container.networks = networks;
        let change = format!("{verb} {network} {}", container.name);
        self.changes.push(change);
        done(200)
    }

    fn container(&mut self, name: &str, verb: &str, request: &Request) -> Reply {
        let Some(container) = self.at(name) else { return error(404, format!("No such container: {name}")) };
        let name = container.name.clone();
        let change = format!("{verb} {name}");
        match (request.method.as_str(), verb) {
            ("GET", "json") => container.inspect(),
            ("GET", "logs") => (200, None, frame(&container.prints)),
            (_, "archive") if !request.query("path").starts_with('/') => {
                error(400, "bad parameter: path is not absolute")
            }
            ("HEAD", "archive") => container.look(&request.query("path")),
            ("GET", "archive") => {
                let reply = container.archive(&request.query("path"));
                self.changes.push(change);
                reply
            }
            ("POST", "start") if container.status == "running" => done(304),
            ("POST", "start") => {
                self.changes.push(change);
                self.start(&name)
            }
            ("POST", "update") => {
                let asked: Json = serde_json::from_slice(&request.body).unwrap();
                container.made_of["HostConfig"]["RestartPolicy"] = asked["RestartPolicy"].clone();
                self.changes.push(change);
                found(&json!({ "Warnings": [] }))
            }
            ("POST", "unpause") => {
                container.status = "running";
                self.changes.push(change);
                done(204)
            }
            ("POST", "stop") if matches!(container.status, "created" | "exited" | "dead") => done(304),
            ("POST", "stop") => {
                (container.status, container.exit_code) = ("exited", 143);
                self.changes.push(change);
                done(204)
            }
            ("POST", "rename") => {
                let new = request.query("name");
                if let Some(other) = self.at(&new) {
                    let id = other.id.clone();
                    return error(
                        409,
                        format!(
                            "Conflict. The container name \"/{new}\" is already in use by container \"{id}\". You have to remove (or rename) that container to be able to reuse that name."
                        ),
                    );
                }
                self.changes.push(format!("{change} {new}"));
                self.at(&name).unwrap().name = new;
                done(204)
            }
            ("DELETE", _) => {
                if container.status == "running" && request.query("force") != "true" {
                    return error(409, format!("You cannot remove a running container {name}"));
                }
                let with_volumes = if request.query("v") == "true" { " with its volumes" } else { "" };
                self.changes.push(format!("{change}{with_volumes}"));
                self.containers.retain(|container| container.name != name);
                done(204)
            }
            _ => error(404, format!("page not found: {verb}")),
        }
    }

    fn start(&mut self, name: &str) -> Reply {
        let running = self.containers.iter().filter(|container| container.status == "running");
        let taken: BTreeSet<u64> = running.flat_map(Container::ports).chain(self.held.iter().copied()).collect();
        let ends = self.ends.clone();
        let container = self.at(name).unwrap();
        if let Some(port) = container.ports().into_iter().find(|port| taken.contains(port)) {
            container.error = format!(
                "driver failed programming external connectivity on endpoint {name}: Bind for 0.0.0.0:{port} failed: port is already allocated"
            );
            return error(500, container.error.clone());
        }
        (container.status, container.error) = ("running", String::new());
        match ends.get(container.made_of["Image"].as_str().unwrap()) {
            Some(End::Exits(code, prints)) => {
                (container.status, container.exit_code) = ("exited", *code);
                container.prints = (*prints).to_owned();
            }
            Some(End::Restarts(code)) => (container.status, container.exit_code) = ("restarting", *code),
            Some(End::Recovers(restarts)) => {
                (container.status, container.recovers_at) = ("restarting", Some(container.restarts + restarts));
            }
            Some(End::Stays) | None => {}
        }
        done(204)
    }
}

impl Container {
    /// The host's ports that it publishes.
    fn ports(&self) -> Vec<u64> {
        let bindings = self.made_of["HostConfig"]["PortBindings"].as_object();
        let each = bindings.into_iter().flat_map(|bindings| bindings.values());
        each.filter_map(|binding| binding[0]["HostPort"].as_str()?.parse().ok()).collect()
    }

    fn all_networks(&self) -> Vec<String> {
        let mode = self.made_of["HostConfig"]["NetworkMode"].as_str().filter(|mode| !mode.is_empty());
        if self.networks.is_empty() { vec![mode.unwrap_or("bridge").to_owned()] } else { self.networks.clone() }
    }

    /// Its entry in the list of all containers.
    fn listed(&self) -> Json {
        let ports: Vec<Json> = match self.status {
            "running" | "paused" | "restarting" => self
                .ports()
                .iter()
                .map(|port| json!({ "PrivatePort": port, "PublicPort": port, "Type": "tcp" }))
                .collect(),
            _ => Vec::new(),
        };
        json!({
            "Id": self.id, "Names": [format!("/{}", self.name)], "Image": self.made_of["Image"], "State": self.status, "Ports": ports,
            "Labels": self.made_of["Labels"],
            "HostConfig": { "NetworkMode": self.made_of["HostConfig"]["NetworkMode"] },
        })
    }

    fn inspect(&mut self) -> Reply {
        if self.status == "restarting" {
            self.restarts += 1;
            if self.recovers_at == Some(self.restarts) {
                self.status = "running";
            }
        }
        let mounts = self.mounts.iter();
        let binds = self.made_of["HostConfig"]["Binds"].as_array();
        let is_writable =
            |to: &str| !binds.into_iter().flatten().any(|bind| bind.as_str().unwrap().ends_with(&format!(":{to}:ro")));
        let mounts: Vec<Json> = mounts
            .map(|(source, to)| json!({ "Type": "bind", "Source": source, "Destination": to, "RW": is_writable(to) }))
            .collect();
        // Like a real engine, it reports the default for a field that the request left out.
        let mut host_config = self.made_of["HostConfig"].clone();
        if host_config["NetworkMode"].as_str().is_none_or(str::is_empty) {
            host_config["NetworkMode"] = "bridge".into();
        }
        let networks: serde_json::Map<String, Json> =
            self.all_networks().into_iter().map(|network| (network, json!({}))).collect();
        found(&json!({
            "Id": self.id,
            "Name": format!("/{}", self.name),
            "RestartCount": self.restarts,
            "Config": { "Image": self.made_of["Image"], "Labels": self.made_of["Labels"], "Env": self.made_of["Env"] },
            "HostConfig": host_config,
            "Image": self.image_id,
            "NetworkSettings": { "Networks": networks },
            "Mounts": mounts,
            "State": { "Status": self.status, "ExitCode": self.exit_code, "Error": self.error },
        }))
    }

    /// The header that describes the entry at a path.
    fn look(&self, path: &str) -> Reply {
        let path = path.trim_end_matches('/');
        let target = self.links.get(path).cloned().unwrap_or_default();
        let is_there = !target.is_empty() || self.files.keys().any(|file| file.starts_with(path));
        if !is_there {
            return error(404, format!("Could not find the file {path} in container {}", self.id));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let stat = json!({ "name": name, "size": 0, "mode": 0, "mtime": "2018-05-16T00:00:00Z", "linkTarget": target });
        let stat = base64::engine::general_purpose::STANDARD.encode(stat.to_string());
        (200, Some(("X-Docker-Container-Path-Stat", stat)), Vec::new())
    }

    /// The entry at a path, under its own name, as the engine sends it.
    fn archive(&self, path: &str) -> Reply {
        let (status, header, _) = self.look(path);
        if status != 200 {
            return error(status, format!("Could not find the file {path} in container {}", self.id));
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |kind, name: String, contents: &str| {
            let mut entry = tar::Header::new_gnu();
            entry.set_entry_type(kind);
            entry.set_mode(0o755);
            entry.set_uid(nix::unistd::geteuid().as_raw().into());
            entry.set_gid(nix::unistd::getegid().as_raw().into());
            entry.set_size(contents.len() as u64);
            archive.append_data(&mut entry, name, contents.as_bytes()).unwrap();
        };
        add(tar::EntryType::Directory, format!("{name}/"), "");
        for (file, contents) in &self.files {
            if let Some(rest) = file.strip_prefix(path) {
                add(tar::EntryType::Regular, format!("{name}{rest}"), contents);
            }
        }
        (200, header, archive.into_inner().unwrap())
    }
}

/// A container's output as the API frames it: the stream, three zeros, the length, the text.
fn frame(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[1, 0, 0, 0][..], &length, text.as_bytes()].concat()
}
