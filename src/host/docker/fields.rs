//! The configuration of a container, in a form that allows a comparison of the engine's answer and a specification.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bollard::models::{ContainerConfig, ContainerInspectResponse, HostConfig, MountPoint};

use super::{Image, Specification};
use crate::host::is_hex;

/// The name of a field in messages.
pub type Field = &'static str;

/// Fields and their items. Fields that the engine did not report, or that depend on a missing image, are left out.
pub type Fields = BTreeMap<Field, Vec<String>>;

/// When the engine restarts a container.
pub const RESTART: Field = "restart policy";
/// The networks that a container is connected to.
pub const NETWORKS: Field = "networks";
/// The network that a container was created with.
pub const MODE: Field = "network mode";
/// The program of a container; the order of the items matters.
pub const ENTRYPOINT: Field = "entrypoint";
/// The arguments of the program.
pub const COMMAND: Field = "command";
const MEMORY: Field = "memory limit";
const ENVIRONMENT: Field = "environment";
const USER: Field = "user";
const MOUNTS: Field = "mounts";
const PORTS: Field = "ports";
const CPU: Field = "cpu and process limits";
const RIGHTS: Field = "privileges";
/// The log driver and its options.
pub const LOG: Field = "log";
const OPTIONS: Field = "options";

/// The fields of the engine's answer about a container.
pub(crate) fn fields_of_container(found: &ContainerInspectResponse) -> Fields {
    let mut fields = Fields::new();
    if let Some(config) = &found.config {
        add_config(config, &mut fields);
    }
    if let Some(mounts) = &found.mounts {
        fields.insert(MOUNTS, sorted(mounts.iter().filter_map(mount)));
    }
    // An engine that reports the network mode reports all of this.
    if let Some(host) = found.host_config.as_ref().filter(|host| host.network_mode.is_some()) {
        add_host_config(host, &mut fields);
    }
    if let Some(networks) = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref()) {
        fields.insert(NETWORKS, sorted(networks.keys().cloned()));
    }
    fields
}

fn add_config(config: &ContainerConfig, fields: &mut Fields) {
    let mut add = |field, items: &Option<Vec<String>>| {
        if let Some(items) = items {
            fields.insert(field, items.clone());
        }
    };
    add(ENTRYPOINT, &config.entrypoint);
    add(COMMAND, &config.cmd);
    add(ENVIRONMENT, &config.env.as_ref().map(|env| environment(env, &[])));
    if let Some(user) = &config.user {
        fields.insert(USER, texts([user]));
    }
}

fn add_host_config(host: &HostConfig, fields: &mut Fields) {
    let mode = host.network_mode.as_deref().unwrap_or_default();
    fields.insert(MODE, texts([if mode == "default" { "bridge" } else { mode }]));
    let policy = host.restart_policy.clone().unwrap_or_default();
    let name = policy.name.map_or_else(String::new, |name| name.to_string());
    let tries = policy.maximum_retry_count.filter(|n| *n > 0).map_or(String::new(), |n| format!(":{n}"));
    fields.insert(RESTART, vec![if name.is_empty() { "no".into() } else { format!("{name}{tries}") }]);

    let published = host.port_bindings.iter().flatten().flat_map(|(inside, at)| {
        let at = at.iter().flatten();
        at.map(move |at| {
            let address = at.host_ip.as_deref().unwrap_or_default();
            port(address, at.host_port.as_deref().unwrap_or_default(), inside)
        })
    });
    fields.insert(PORTS, sorted(published));

    let limits = |limits: &[(&str, Option<i64>)]| {
        let set = limits.iter().filter_map(|(name, value)| Some((name, value.filter(|value| *value > 0)?)));
        set.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
    };
    let memory =
        [("memory", host.memory), ("memory with swap", host.memory_swap), ("reservation", host.memory_reservation)];
    fields.insert(MEMORY, limits(&memory));
    let mut cpu = limits(&[
        ("nano-cpus", host.nano_cpus),
        ("cpu-shares", host.cpu_shares),
        ("cpu-period", host.cpu_period),
        ("cpu-quota", host.cpu_quota),
        ("pids-limit", host.pids_limit),
        ("blkio-weight", host.blkio_weight.map(i64::from)),
    ]);
    for (name, set) in [("cpuset-cpus", &host.cpuset_cpus), ("cpuset-mems", &host.cpuset_mems)] {
        cpu.extend(set.iter().filter(|set| !set.is_empty()).map(|set| format!("{name} {set}")));
    }
    fields.insert(CPU, cpu);
    fields.insert(RIGHTS, rights(host));

    if let Some(log) = &host.log_config {
        let options = log.config.iter().flatten().map(|(key, value)| format!("{key}={value}"));
        fields.insert(LOG, sorted(log.typ.iter().cloned().chain(options)));
    }
    let yes = |name: &str, is: Option<bool>| (is == Some(true)).then(|| name.to_owned());
    let mut options: Vec<String> =
        yes("auto-remove", host.auto_remove).into_iter().chain(yes("read-only", host.readonly_rootfs)).collect();
    for (name, list) in [("dns", &host.dns), ("add-host", &host.extra_hosts), ("link", &host.links)] {
        options.extend(list.iter().flatten().map(|item| format!("{name} {item}")));
    }
    fields.insert(OPTIONS, sorted(options));
}

/// The privileges of a container beyond the default.
fn rights(host: &HostConfig) -> Vec<String> {
    let mut rights: Vec<String> = Vec::new();
    if host.privileged == Some(true) {
        rights.push("privileged".into());
    }
    for (name, list) in [("cap-add", &host.cap_add), ("cap-drop", &host.cap_drop), ("security-opt", &host.security_opt)]
    {
        rights.extend(list.iter().flatten().map(|item| format!("{name} {item}")));
    }
    let devices = host.devices.iter().flatten().filter_map(|device| device.path_on_host.as_ref());
    rights.extend(devices.map(|path| format!("device {path}")));
    for (name, mode) in [("pid", &host.pid_mode), ("ipc", &host.ipc_mode), ("uts", &host.uts_mode)] {
        // The engine chooses between the other modes, private and shareable.
        let shared = mode.as_deref().filter(|mode| *mode == "host" || mode.starts_with("container:"));
        rights.extend(shared.map(|mode| format!("{name} {mode}")));
    }
    sorted(rights)
}

/// A mount in the form of `docker run --volume`; `None` for an unnamed volume, which belongs to the image.
fn mount(mount: &MountPoint) -> Option<String> {
    let to = mount.destination.as_deref().unwrap_or_default();
    let from = match mount.typ.as_deref() {
        Some("volume") => {
            let name = mount.name.as_deref().filter(|name| !is_hex(name, 64))?;
            format!("volume {name}")
        }
        Some("tmpfs") => "tmpfs".into(),
        _ => mount.source.clone().unwrap_or_default(),
    };
    Some(bind(&from, to, mount.rw == Some(false)))
}

fn bind(from: &str, to: &str, only_read: bool) -> String {
    let plain = |path: &str| Path::new(path).components().collect::<std::path::PathBuf>().display().to_string();
    format!("{}:{}{}", plain(from), plain(to), if only_read { ":ro" } else { "" })
}

fn port(address: &str, host: &str, inside: &str) -> String {
    // The engine's forms for all addresses.
    let at = if matches!(address, "" | "0.0.0.0" | "::") { String::new() } else { format!("{address}:") };
    format!("{at}{host}:{inside}")
}

/// Variables, where `ours` replace `others` with the same name. PATH is left out, because the engine has a default for
/// it.
fn environment(others: &[String], ours: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let own: BTreeSet<String> = ours.iter().map(|variable| name(variable)).collect();
    let others = others.iter().filter(|variable| !own.contains(&name(variable)));
    sorted(others.chain(ours).filter(|variable| name(variable) != "PATH").cloned())
}

fn sorted(items: impl IntoIterator<Item = String>) -> Vec<String> {
    items.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The items that are not empty.
fn texts<const N: usize>(items: [&str; N]) -> Vec<String> {
    items.into_iter().filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

impl Specification {
    /// The fields of a container that is created from this.
    pub fn fields(&self, image: Option<&Image>) -> Fields {
        let mut fields = Fields::new();
        let binds = self.binds.iter().filter_map(|text| {
            let (from, rest) = text.split_once(':')?;
            let to = rest.strip_suffix(":ro").unwrap_or(rest);
            Some(bind(from, to, rest.ends_with(":ro")))
        });
        fields.insert(MOUNTS, sorted(binds));
        fields.insert(MODE, texts([&self.network]));
        fields.insert(NETWORKS, texts([&self.network]));
        fields.insert(RESTART, texts([&self.restart]));
        let published = if self.network == "host" { [].as_slice() } else { &self.ports };
        let published =
            published.iter().map(|at| port(&at.address, &at.host.to_string(), &format!("{}/tcp", at.container)));
        fields.insert(PORTS, sorted(published));
        for field in [MEMORY, CPU, RIGHTS, OPTIONS] {
            fields.insert(field, Vec::new());
        }
        // If the specification does not name a driver, the engine's choice does not matter.
        if !self.log_driver.is_empty() {
            let options = self.log_options.iter().map(|(key, value)| format!("{key}={value}"));
            fields.insert(LOG, sorted(std::iter::once(self.log_driver.clone()).chain(options)));
        }
        if let Some(image) = image {
            fields.insert(ENTRYPOINT, image.entrypoint.clone());
            let command = if self.command.is_empty() { &image.command } else { &self.command };
            fields.insert(COMMAND, command.clone());
            fields.insert(ENVIRONMENT, environment(&image.environment, &self.environment));
            fields.insert(USER, texts([if self.user.is_empty() { &image.user } else { &self.user }]));
        }
        fields
    }
}
