//! Rules that concern more than one value, and settings derived from others. The type of a single value says which forms
//! it may have (`forms`).

use super::values::host_port;
use super::{MESOS_PORT, Merged, Settings};
use crate::error::{Error, Result};

/// Refuses values that contradict each other or do not suit their purpose.
pub(super) fn check(settings: &Settings, merged: &Merged) -> Result<()> {
    let wrong = |key: String, value: String, cause: &str| {
        let source = merged.source(&key).map_or_else(|| "unknown".to_owned(), ToString::to_string);
        Err(Error::config(format!("{key} = {value} (from {source}) cannot be used"))
            .cause(format!("it must be {cause}"))
            .fix(format!("set {key} to a value of that form where it came from: {source}")))
    };
    let names: Vec<&str> = settings.apt.sources.iter().map(|source| source.name.as_str()).collect();
    if let Some((_, twice)) =
        names.iter().enumerate().find(|(n, name)| names.iter().take(*n).any(|other| other == *name))
    {
        return wrong("apt.sources".into(), format!("{twice:?}"), "the name of one source only");
    }
    let discovered = [
        ("zookeeper", &settings.zookeeper.discover),
        ("mesos", &settings.mesos.discover),
        ("master", &settings.master.discover),
    ];
    for (group, expected) in
        discovered.iter().filter_map(|(group, discover)| Some((group, discover.as_ref()?.expected?)))
    {
        // A ZooKeeper server's number is at most 255.
        let (most, form) =
            if *group == "master" { (1, "1: there is one address") } else { (255, "a number from 1 to 255") };
        if !(1..=most).contains(&expected) {
            return wrong(format!("{group}.discover.expected"), expected.to_string(), form);
        }
    }
    Ok(())
}

/// Pairs of settings: the first, where it is not set, follows from the second.
pub const FOLLOWS: [(&str, &str); 3] = [
    ("mesos.masters", "zookeeper.servers"),
    ("gateway.activate_instance_groups", "agent.asg"),
    ("mesos.zk_path", "stack"),
];

/// Fills in the settings that follow from others: [`FOLLOWS`].
///
/// # Errors
/// Fails when a derived value does not have the form of its setting. It cannot, if the other values were checked.
pub(super) fn derive(settings: &mut Settings) -> Result<()> {
    if settings.mesos.masters.is_empty() {
        let hosts = settings.zookeeper.servers.iter().filter_map(|server| Some(host_port(server)?.0));
        let masters = hosts.map(|host| format!("{host}:{MESOS_PORT}").parse().map_err(Error::config));
        settings.mesos.masters = masters.collect::<Result<_>>()?;
    }
    if settings.gateway.activate_instance_groups.is_none() {
        let default = || "titusagent".parse().map_err(Error::config);
        let group = settings.agent.asg.clone().map_or_else(default, Ok)?;
        settings.gateway.activate_instance_groups = Some(vec![group]);
    }
    if settings.mesos.zk_path.is_none() {
        settings.mesos.zk_path = Some(format!("/titus/{}/mesos", settings.stack).parse().map_err(Error::config)?);
    }
    Ok(())
}
