//! What a value may look like. Values end in shell scripts, environment files and
//! command lines of root: what no honest value has is refused here, before the
//! quoting of templates has to hold.

use super::values::{host_port, is_host, is_word, port};
use super::{MESOS_PORT, Merged, Settings, TAGS};
use crate::error::{Error, Result};
use crate::secrets::{HIDDEN, is_secret};

type Form = (&'static str, fn(&str) -> bool);

const NAME: Form = ("letters, digits, `.`, `_`, `-`", |s| is_word(s, "._-") && !s.starts_with('-'));
const TAG_KEY: Form =
    ("one of role, stack, prereqs, zookeeper.servers, master.address, agent.log_bucket and agent.asg", |s| {
        TAGS.contains(&s)
    });
const ATTRIBUTE: Form =
    ("letters, digits and `._-/@+[]`; `;` and `:` would forge Mesos attributes", |s| is_word(s, "._-/@+[],"));
const GROUP: Form = ("printable, without quotes, `;`, `:`, `$`, `\\` and blanks", |s| is_word(s, "._-/@+=()#,~"));
const HOST: Form = ("a host name or an address", is_host);
const HOST_PORT: Form = ("host:port", |s| host_port(s).is_some());
const BUCKET: Form = ("a bucket's name: 3 to 63 of lower-case letters, digits, `.`, `-`", |s| {
    (3..=63).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
});
const REGISTRY: Form = ("host[:port][/path]", |s| is_word(s, ".-:/_") && !s.starts_with('-'));
const PATH: Form = ("an absolute path without `..`", |s| {
    s.starts_with('/') && is_word(s, "/._-@+") && !s.split('/').any(|part| part == "..")
});
const PACKAGE: Form = ("a package name, or name=version", package);
const PORTS: Form = ("first-last, as 7150-7200", |s| {
    s.split_once('-').is_some_and(|(a, b)| matches!((port(a), port(b)), (Some(a), Some(b)) if a <= b))
});
const KERNEL_ARGUMENT: Form =
    ("one argument without blanks, quotes, `$`, `\\` and backquotes", |s| is_word(s, "._-=,:/@+"));
const LOG_LEVEL: Form =
    ("debug, info, warn, error or fatal", |s| ["debug", "info", "warn", "error", "fatal"].contains(&s));
const LISTEN: Form = ("an address and a port, as 127.0.0.1:4243", |s| s.parse::<std::net::SocketAddr>().is_ok());
const PROXY: Form =
    ("an address with http:// or https://, host and port; what is special in user and password percent-encoded", |s| {
        let rest = s.strip_prefix("http://").or_else(|| s.strip_prefix("https://"));
        rest.is_some_and(|rest| is_word(rest, ".-:/_@%~!*+,=[]"))
    });
const NO_PROXY: Form = ("names and addresses with commas between them", |s| is_word(s, ".-:/_*,[]"));
const PLAIN: Form = ("text without control characters", |s| !s.is_empty());

fn package(text: &str) -> bool {
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    is_word(name, "+-.") && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && is_word(version, ".+-~:")
}

/// Refuses values that must not be written.
pub(super) fn check(settings: &Settings, merged: &Merged) -> Result<()> {
    for (key, value, (form, fits)) in values(settings) {
        if !fits(&value) || value.chars().any(char::is_control) {
            let source = merged.source(&key).map_or_else(|| "unknown".to_owned(), ToString::to_string);
            // A proxy's address may hold a password in places where it is not recognised.
            // What is no path may be the credentials themselves.
            let is_hidden = key.starts_with("proxy.") || key == "docker.auth" || is_secret(&key);
            let shown = if is_hidden { HIDDEN.to_owned() } else { format!("{value:?}") };
            return Err(Error::config(format!("{key} = {shown} (from {source}) cannot be used"))
                .cause(format!("it must be {form}"))
                .fix(format!("set {key} to a value of that form where it came from: {source}")));
        }
    }
    Ok(())
}

/// Settings that follow from others where they are not set, and from which.
pub const FOLLOWS: [(&str, &str); 3] = [
    ("mesos.masters", "zookeeper.servers"),
    ("gateway.activate_instance_groups", "agent.asg"),
    ("mesos.zk_path", "stack"),
];

/// Fills in what follows from other settings: [`FOLLOWS`].
pub(super) fn derive(settings: &mut Settings) {
    if settings.mesos.masters.is_empty() {
        let host = |server: &String| Some(format!("{}:{MESOS_PORT}", host_port(server)?.0));
        settings.mesos.masters = settings.zookeeper.servers.iter().filter_map(host).collect();
    }
    settings.gateway.activate_instance_groups.get_or_insert_with(|| {
        let group = settings.agent.asg.clone().unwrap_or_else(|| "titusagent".to_owned());
        vec![group]
    });
    settings.mesos.zk_path.get_or_insert_with(|| format!("/titus/{}/mesos", settings.stack));
}

fn values(s: &Settings) -> Vec<(String, String, Form)> {
    let mut found = Vec::new();
    let mut one = |key: &str, value: &Option<String>, form: Form| {
        found.extend(value.iter().map(|value| (key.to_owned(), value.clone(), form)));
    };
    one("role", &s.role, NAME);
    one("stack", &Some(s.stack.clone()), NAME);
    one("prereqs", &s.prereqs, HOST);
    one("mesos.zk_path", &s.mesos.zk_path, PATH);
    one("images.zookeeper", &s.images.zookeeper, REGISTRY_IMAGE);
    one("images.mesos_master", &s.images.mesos_master, REGISTRY_IMAGE);
    one("master.address", &s.master.address, HOST);
    one("master.default_iam_role", &s.master.default_iam_role, PLAIN);
    one("master.default_security_groups", &s.master.default_security_groups, PLAIN);
    one("agent.asg", &s.agent.asg, GROUP);
    one("agent.log_bucket", &s.agent.log_bucket, BUCKET);
    one("agent.registry", &s.agent.registry, REGISTRY);
    one("agent.account", &s.agent.account, NAME);
    one("agent.environment", &s.agent.environment, NAME);
    one("agent.ports", &s.agent.ports, PORTS);
    one("agent.docker_listen", &s.agent.docker_listen, LISTEN);
    one("lifecycle.hook", &s.lifecycle.hook, HOOK);
    one("docker.user", &s.docker.user, NAME);
    one("docker.daemon", &s.docker.daemon, PATH);
    one("docker.log_level", &s.docker.log_level, LOG_LEVEL);
    one("docker.host", &s.docker.host, PLAIN);
    one("docker.auth", &s.docker.auth, PATH);
    one("systemd.unit_dir", &s.systemd.unit_dir, PATH);
    one("proxy.http", &s.proxy.http, PROXY);
    one("proxy.https", &s.proxy.https, PROXY);
    one("proxy.no_proxy", &s.proxy.no_proxy, NO_PROXY);
    let mut many = |key: &str, values: &[String], form: Form| {
        found.extend(values.iter().map(|value| (key.to_owned(), value.clone(), form)));
    };
    many("allowed_roles", &s.allowed_roles, NAME);
    many("allowed_tags", &s.allowed_tags, TAG_KEY);
    many("zookeeper.servers", &s.zookeeper.servers, HOST_PORT);
    many("mesos.masters", &s.mesos.masters, HOST_PORT);
    many("gateway.activate_instance_groups", s.gateway.activate_instance_groups.as_deref().unwrap_or_default(), GROUP);
    many("agent.kernel_arguments", &s.agent.kernel_arguments, KERNEL_ARGUMENT);
    many("tags.role", &s.tags.role, PLAIN);
    many("packages.docker", &s.packages.docker, PACKAGE);
    many("packages.java", &s.packages.java, PACKAGE);
    many("packages.mesos", &s.packages.mesos, PACKAGE);
    many("packages.executor", &s.packages.executor, PACKAGE);
    many("packages.extra", &s.packages.extra, PACKAGE);
    for source in &s.apt.sources {
        many("apt.sources", std::slice::from_ref(&source.name), NAME);
        many("apt.sources", &source.uris, SOURCE_WORD);
        many("apt.sources", &source.suites, SOURCE_WORD);
        many("apt.sources", &source.components, SOURCE_WORD);
    }
    let names: Vec<&String> = s.apt.sources.iter().map(|source| &source.name).collect();
    let twice = names.iter().enumerate().filter(|(n, name)| names[..*n].contains(name));
    found.extend(twice.map(|(_, name)| ("apt.sources".to_owned(), (*name).clone(), ONCE)));
    for (name, value) in &s.agent.attributes {
        found.push((format!("agent.attributes.{name}"), name.clone(), ATTRIBUTE));
        found.push((format!("agent.attributes.{name}"), value.clone(), ATTRIBUTE));
    }
    let discovered =
        [("zookeeper", &s.zookeeper.discover), ("mesos", &s.mesos.discover), ("master", &s.master.discover)];
    for (group, discover) in discovered.iter().filter_map(|(group, discover)| Some((group, discover.as_ref()?))) {
        found.push((format!("{group}.discover.tag"), discover.tag.clone(), TAG));
        found.push((format!("{group}.discover.value"), discover.value.clone(), TAG));
        let form = if *group == "master" { ONE } else { SERVERS };
        found.extend(discover.expected.map(|n| (format!("{group}.discover.expected"), n.to_string(), form)));
    }
    for name in s.agent.resources.keys() {
        found.push((format!("agent.resources.{name}"), name.clone(), NAME));
    }
    found
}

const REGISTRY_IMAGE: Form = ("name:tag or name@sha256:digest", |s| is_word(s, ".-:/_@") && !s.starts_with('-'));
// As the Auto Scaling API takes it.
const HOOK: Form = ("a lifecycle hook's name: letters, digits, `-`, `_`, `/`", |s| is_word(s, "-_/"));
const TAG: Form = ("text without control characters, `*` and `?`, which EC2's filters read otherwise", |s| {
    !s.is_empty() && !s.contains(['*', '?', '\\'])
});
const ONE: Form = ("1: there is one address", |s| s == "1");
// A ZooKeeper server's number is at most 255.
const SERVERS: Form = ("a number from 1 to 255", |s| matches!(s.parse::<u16>(), Ok(1..=255)));
const ONCE: Form = ("the name of one source only", |_| false);
const SOURCE_WORD: Form =
    ("one word of a deb822 source, without blanks", |s| !s.contains(char::is_whitespace) && !s.is_empty());
