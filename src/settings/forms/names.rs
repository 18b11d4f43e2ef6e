//! Names of Titus, Mesos, the kernel and this program.

use super::debian::path;
use super::{check_length, check_word, forms, no_advice, require};
use crate::settings::TAGS;

forms! {
    /// A role.
    RoleName: "role", "the name of a role: letters, digits, `.`, `_` and `-`", "agent", name, no_advice;
    /// A stack.
    Stack: "stack", "a part of paths in ZooKeeper: letters, digits, `.`, `_` and `-`", "mainvpc", name, no_advice;
    /// An account or environment, for a variable of containers.
    Name: "name", "letters, digits, `.`, `_` and `-`", "test", name, no_advice;
    /// A setting that an instance tag can set.
    TagSetting: "setting", "one of role, stack, prereqs, zookeeper.servers, master.address, agent.log_bucket and agent.asg", "stack",
        |text| require(TAGS.contains(&text)), |text| {
        let meant = text.strip_prefix("titus:")?;
        TAGS.contains(&meant).then(|| format!("write `{meant}`"))
    };
    /// A path in ZooKeeper.
    ZookeeperPath: "zookeeper-path", "a path in ZooKeeper", "/titus/mainvpc/mesos", zookeeper_path, |text| {
        let rest = text.strip_prefix("zk://")?;
        let meant = rest.get(rest.find('/')?..)?;
        zookeeper_path(meant).ok().map(|()| format!("write `{meant}`; the servers are those of zookeeper.servers"))
    };
    /// The name of a Mesos attribute.
    AttributeName: "mesos-attribute", "letters, digits and `._-/@+`; `;` and `:` would forge Mesos attributes", "cluster",
        |text| check_word(text, "._-/@+"), no_advice;
    /// The value of a Mesos attribute.
    AttributeValue: "mesos-attribute-value", "letters, digits and `._-/@+[],`; `;` and `:` would forge Mesos attributes", "main",
        |text| check_word(text, "._-/@+[],"), no_advice;
    /// The name of a Mesos resource.
    ResourceName: "mesos-resource", "the name of a Mesos resource: letters, digits, `.`, `_` and `-`", "mem", resource,
        |text| find_titus_resource(text).map(|meant| format!("write `{meant}`"));
    /// How to count network interfaces and their addresses.
    ResourceSetWay: "resource-set", "\"instance\", \"schedulable\" or E-I, a number of interfaces and one of addresses", "instance",
        resource_set, no_advice;
    /// An argument for the kernel's command line.
    KernelArgument: "kernel-argument", "one argument without blanks, quotes, `$`, `\\` and backquotes", "net.ifnames=0", kernel_argument, no_advice;
}

fn name(text: &str) -> Result<(), String> {
    check_word(text, "._-")?;
    if text.starts_with('-') || text == "." || text == ".." {
        return Err("it must not begin with `-` or be `.` or `..`".into());
    }
    check_length(text, 255)
}

fn zookeeper_path(text: &str) -> Result<(), String> {
    path(text)?;
    if text.split('/').any(|part| part == ".") {
        return Err("it has `.` as a part".into());
    }
    Ok(())
}

fn resource_set(text: &str) -> Result<(), String> {
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0) && !text.starts_with('+');
    let is_exact =
        text.split_once('-').is_some_and(|(interfaces, addresses)| is_number(interfaces) && is_number(addresses));
    require(["instance", "schedulable"].contains(&text) || is_exact)
}

fn kernel_argument(text: &str) -> Result<(), String> {
    if text.contains(' ') {
        return Err("write each argument as a separate entry in the list".into());
    }
    check_word(text, "._-=,:/@+").and_then(|()| require(!text.starts_with('=')))
}
/// The resource of Titus that another name for it evidently means. Mesos would offer that name beside the right one.
fn find_titus_resource(text: &str) -> Option<&'static str> {
    let meant = match text.to_ascii_lowercase().as_str() {
        "mem" | "memory" => "mem",
        "disk" | "disks" => "disk",
        "network" | "networks" | "net" => "network",
        "cpus" | "cpu" => "cpus",
        "ports" | "port" => "ports",
        _ => return None,
    };
    (meant != text).then_some(meant)
}

fn resource(text: &str) -> Result<(), String> {
    name(text)?;
    find_titus_resource(text).map_or(Ok(()), |meant| Err(format!("Titus reads the resource `{meant}`")))
}
