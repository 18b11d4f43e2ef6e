//! The files that a builder leaves behind, and what to do with each.

use crate::error::Result;
use crate::facts::machine;
use crate::host::Host;
use crate::host::fs::look::{Entry, EntryKind};
use crate::host::image::clear::Clear;
use crate::run::journal;
use crate::settings::OF_LAST_RUN;

use Clear::{Contents, Emptied, Files, Whole};

/// Something that must not be in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its path.
    pub path: String,
    /// How much of it to remove; `None`: it belongs to somebody, so only report it.
    pub clear: Option<Clear>,
    /// What it is.
    pub what: &'static str,
}

/// Paths that are the same on every builder; `*` stands for any part of the last name.
const LEFT: [(&str, Clear, &str); 45] = [
    // machine-id(5): an image has an empty file.
    ("/etc/machine-id", Emptied, "machine id"),
    ("/etc/ssh/ssh_host_*", Whole, "ssh host key"),
    ("/var/lib/cloud", Contents, "cloud-init's record of an instance"),
    ("/run/cloud-init", Contents, "cloud-init's record of an instance"),
    // Records of logins have fixed names and modes, so only their contents go.
    ("/var/log/wtmp", Emptied, "log"),
    ("/var/log/btmp", Emptied, "log"),
    ("/var/log/lastlog", Emptied, "log"),
    ("/var/log", Files, "log"),
    ("/var/crash", Contents, "crash dump"),
    ("/var/lib/systemd/coredump", Contents, "crash dump"),
    ("/var/lib/systemd/pstore", Contents, "crash dump"),
    ("/var/lib/dhcp", Files, "DHCP lease"),
    ("/var/lib/dhclient", Files, "DHCP lease"),
    ("/var/lib/dhcpcd", Files, "DHCP lease"),
    ("/var/lib/NetworkManager/*.lease", Whole, "DHCP lease"),
    ("/var/lib/NetworkManager/secret_key", Whole, "key of NetworkManager"),
    ("/var/lib/systemd/random-seed", Whole, "random seed"),
    ("/var/lib/urandom/random-seed", Whole, "random seed"),
    ("/var/lib/misc/random-seed", Whole, "random seed"),
    ("/boot/loader/random-seed", Whole, "random seed"),
    ("/boot/efi/loader/random-seed", Whole, "random seed"),
    ("/efi/loader/random-seed", Whole, "random seed"),
    ("/var/lib/systemd/credential.secret", Whole, "key of systemd's credentials"),
    ("/etc/docker/key.json", Whole, "key of the Docker Engine"),
    ("/var/lib/amazon/ssm", Contents, "record of the Systems Manager agent"),
    ("/var/lib/mesos", Contents, "data of the Mesos agent"),
    ("/var/lib/mesos-master", Contents, "data of the Mesos master"),
    ("/var/lib/zookeeper", Contents, "data of ZooKeeper"),
    ("/var/lib/titus-container-logs", Contents, "log of containers"),
    (journal::JOURNAL, Whole, "journal"),
    (journal::KEEP_JOURNAL, Whole, "journal"),
    (OF_LAST_RUN, Whole, "settings"),
    ("/var/lib/titus-bootstrap/reboots.json", Whole, "count of reboots"),
    ("/var/lib/titus-bootstrap/.titus-bootstrap-*", Whole, "temporary file"),
    ("/var/cache/titus-bootstrap", Contents, "download"),
    ("/run/titus-bootstrap/status.json", Whole, "status"),
    ("/run/titus-bootstrap/ready", Whole, "record of this boot"),
    ("/run/titus-bootstrap/units", Whole, "record of this boot"),
    ("/run/titus-bootstrap/debs", Whole, "record of this boot"),
    ("/run/titus-bootstrap/.titus-bootstrap-*", Whole, "temporary file"),
    ("/run/log/journal", Contents, "log"),
    ("/run/utmp", Emptied, "log"),
    ("/tmp", Contents, "temporary file"),
    ("/var/tmp", Contents, "temporary file"),
    ("/var/lib/apt/lists/partial", Contents, "download"),
];

/// Paths in homes.
const HISTORIES: [&str; 11] = [
    ".bash_history",
    ".zsh_history",
    ".ash_history",
    ".sh_history",
    ".history",
    ".python_history",
    ".mysql_history",
    ".psql_history",
    ".lesshst",
    ".viminfo",
    ".wget-hsts",
];

/// Files that cloud-init, or systemd with DHCP, writes again on an instance's first boot. They are removed if they
/// contain a trace of the builder.
pub const REWRITTEN: [&str; 6] = [
    "/etc/hostname",
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init",
    "/etc/network/interfaces.d/50-cloud-init.cfg",
    "/etc/sysconfig/network-scripts/ifcfg-eth0",
    "/etc/udev/rules.d/70-persistent-net.rules",
];

/// Directories of the storage drivers, with layers, below Docker's data root.
const LAYERS: [&str; 8] = ["overlay2", "overlay", "aufs", "btrfs", "devicemapper", "fuse-overlayfs", "vfs", "zfs"];

/// All rules for this tree.
///
/// # Errors
/// Fails when the tree cannot be inspected.
pub fn rules(host: &Host) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut add = |path: String, clear, what| rules.push(Rule { path, clear, what });
    for (pattern, clear, what) in LEFT {
        expand(host, pattern).into_iter().for_each(|path| add(path, Some(clear), what));
    }
    let docker = machine::docker_data_root(host)?;
    add(format!("{docker}/engine-id"), Some(Whole), "id of the Docker Engine");
    add(format!("{docker}/containers"), None, "container of the builder (docker rm)");
    // If it is a link to the other one, that one is emptied.
    let dbus = "/var/lib/dbus/machine-id";
    if !matches!(host.entry(dbus)?, Some(Entry { kind: EntryKind::Link(_), .. })) {
        add(dbus.into(), Some(Whole), "machine id");
    }
    for home in homes(host) {
        for name in HISTORIES {
            add(format!("{home}/{name}"), Some(Whole), "history");
        }
        add(format!("{home}/.aws/credentials"), None, "credentials");
        add(format!("{home}/.netrc"), None, "credentials");
        for key in expand(host, &format!("{home}/.ssh/id_*")).into_iter().filter(|key| !key.ends_with(".pub")) {
            add(key, None, "private key");
        }
    }
    Ok(rules)
}

/// Whether the search can skip `path`: a rule already reports whatever is left there, or it is
/// a layer of an image. Layers are gigabytes that registries have, byte for byte. Only a container's layer can have traces of
/// the builder, and the container's own directory reveals the container.
///
/// # Errors
/// Fails when Docker's configuration cannot be read.
pub fn skip_filter(host: &Host, rules: &[Rule]) -> Result<impl Fn(&str) -> bool> {
    let docker = machine::docker_data_root(host)?;
    let mut paths: Vec<String> = LAYERS.iter().map(|driver| format!("{docker}/{driver}")).collect();
    paths.push("/var/lib/containerd/io.containerd.content.v1.content".into());
    paths.push("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs".into());
    paths.extend(rules.iter().filter(|rule| rule.clear.is_some()).map(|rule| rule.path.clone()));
    Ok(move |path: &str| paths.iter().any(|known| known == path))
}

fn expand(host: &Host, pattern: &str) -> Vec<String> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![pattern.to_owned()] };
    let (directory, start) = before.rsplit_once('/').unwrap_or(("", before));
    let fits =
        |name: &String| name.len() >= start.len() + after.len() && name.starts_with(start) && name.ends_with(after);
    // The search finds a directory that cannot be listed, and reports it.
    let names = host.names_in(directory).unwrap_or_default();
    names.into_iter().filter(fits).map(|name| format!("{directory}/{name}")).collect()
}

/// The homes of root and of people (passwd(5)).
pub fn homes(host: &Host) -> Vec<String> {
    let text = host.read_plain("/etc/passwd", 4 << 20).ok().flatten().unwrap_or_default();
    let mut homes: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let uid: u32 = fields.get(2)?.parse().ok()?;
            let is_person = uid == 0 || (1000..65534).contains(&uid);
            let home = fields.get(5)?.trim_end_matches('/');
            let plain = home.starts_with('/') && !home.split('/').any(|part| part == ".." || part == ".");
            (is_person && plain).then(|| home.to_owned())
        })
        .collect();
    homes.sort();
    homes.dedup();
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_are_those_of_root_and_people() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/x\nubuntu:x:1000:1000::/home/ubuntu/:/x\n\
                      evil:x:1001:1:x:/home/../etc:/x\nslash:x:0:0::/:/x\nnobody:x:65534:65534::/nonexistent:/x\ntorn:x\n";
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        assert_eq!(homes(&host), ["/home/ubuntu", "/root"]);
        let all = rules(&host).unwrap();
        assert!(all.iter().any(|rule| rule.path == "/home/ubuntu/.bash_history"));
        assert!(all.iter().all(|rule| rule.path.len() > 1 && !rule.path.contains('*')));
    }
}
