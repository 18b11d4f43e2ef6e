//! Facts that come from the running machine itself.

use std::collections::BTreeMap;

use super::{Cgroup, Image, Instance};
use crate::error::{Error, Result};
use crate::host::Host;

/// Docker's default directory for images and containers.
const DOCKER_DATA_ROOT: &str = "/var/lib/docker";

const MIB: u64 = 1024 * 1024;

/// Reads distribution and release from os-release(5), architecture and kernel from uname(2), and records each source.
///
/// # Errors
/// Fails when there is no os-release, or when a value in it violates os-release's rules.
pub fn read_image(host: &Host, sources: &mut BTreeMap<String, String>) -> Result<Image> {
    // os-release(5): /etc/os-release takes precedence over /usr/lib/os-release.
    let mut found = None;
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(bytes) = host.read(path)? {
            found = Some((path, bytes));
            break;
        }
    }
    let Some((path, bytes)) = found else {
        return Err(Error::unavailable("the distribution is unknown: there is no /etc/os-release")
            .fix("run on Debian or Ubuntu, or give the facts with --facts FILE"));
    };
    let text = String::from_utf8_lossy(&bytes);
    let value = |key| parse_identifier(&text, key).map_err(|e| e.at(path));
    let (architecture, kernel) = host.uname();
    for (fact, source) in [
        ("distribution", format!("{path} ID")),
        ("release", format!("{path} VERSION_ID")),
        ("codename", format!("{path} VERSION_CODENAME")),
        ("architecture", "uname(2)".to_owned()),
        ("kernel", "uname(2)".to_owned()),
    ] {
        sources.insert(format!("image.{fact}"), source);
    }
    Ok(Image {
        distribution: value("ID")?.unwrap_or_else(|| "linux".into()),
        release: value("VERSION_ID")?.unwrap_or_default(),
        codename: value("VERSION_CODENAME")?.unwrap_or_default(),
        architecture,
        kernel,
        ..Image::default()
    })
}

/// Adds systemd's version and the cgroup hierarchy in force, and records their sources.
///
/// # Errors
/// Fails when a directory cannot be listed.
pub fn read_hierarchy(host: &Host, image: &mut Image, sources: &mut BTreeMap<String, String>) -> Result<()> {
    const CGROUPS: &str = "/sys/fs/cgroup";
    let mounted = host.list(CGROUPS)?;
    image.cgroup = match mounted.iter().any(|name| name == "cgroup.controllers") {
        true => Some(Cgroup::V2),
        false => (!mounted.is_empty()).then_some(Cgroup::V1),
    };
    sources.insert("image.cgroup".into(), CGROUPS.into());
    // Listing a directory is cheaper than reading dpkg's status or starting a process. Debian moved the library to the second.
    let directories = ["/usr/lib/systemd".to_owned(), format!("/usr/lib/{}-linux-gnu/systemd", image.architecture)];
    for directory in directories.into_iter().chain(["/lib/systemd".to_owned()]) {
        if let Some((version, file)) =
            host.list(&directory)?.iter().find_map(|name| Some((library_version(name)?, name)))
        {
            image.systemd = Some(version);
            sources.insert("image.systemd".into(), format!("{directory}/{file}"));
            return Ok(());
        }
    }
    sources.insert("image.systemd".into(), "there is no libsystemd-shared".into());
    Ok(())
}

/// The version in the name of systemd's own library, which exists since 231: `libsystemd-shared-252.so`, or
/// `libsystemd-shared-257.9-1.so` where the distribution includes its full version.
fn library_version(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("libsystemd-shared-")?.strip_suffix(".so")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The value of an os-release variable that is a lower-case identifier: os-release(5)
/// allows a-z, 0-9, `.`, `_` and `-`. The last assignment counts, like in a shell.
fn parse_identifier(text: &str, key: &str) -> Result<Option<String>> {
    let mut assignments = text.lines().filter_map(|line| line.trim().split_once('='));
    let Some((_, value)) = assignments.rfind(|(name, _)| *name == key) else {
        return Ok(None);
    };
    let quoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let value = quoted.unwrap_or(value);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if value.chars().all(allowed) {
        Ok(Some(value.to_owned()))
    } else {
        Err(Error::config(format!("{key} must not be {value:?}"))
            .cause("os-release(5) allows lower-case letters, digits, '.', '_' and '-'"))
    }
}

/// Adds the machine's own facts to those from the metadata service: memory,
/// disk, processors, kernel command line, boot id. Records each source. `running` is the data directory of a running
/// Docker Engine.
///
/// # Errors
/// Fails when a file in /proc is missing, or when Docker's daemon.json cannot be read.
pub fn complete(
    host: &Host,
    running: Option<String>,
    instance: &mut Instance,
    sources: &mut BTreeMap<String, String>,
) -> Result<()> {
    let data_root = data_root_or(host, running)?;
    instance.memory_mib = memory_mib(&read_required(host, "/proc/meminfo")?)?;
    instance.disk_mib = host.file_system_bytes(&data_root)? / MIB;
    instance.cpus = host.cpus();
    instance.kernel_command_line = read_required(host, "/proc/cmdline")?.trim().to_owned();
    instance.boot_id = boot_id(&read_required(host, "/proc/sys/kernel/random/boot_id")?)?;
    for (fact, source) in [
        ("memory_mib", "/proc/meminfo MemTotal".to_owned()),
        ("disk_mib", format!("file system of {data_root}")),
        ("cpus", "processors that this process may use".to_owned()),
        ("kernel_command_line", "/proc/cmdline".to_owned()),
        ("boot_id", "/proc/sys/kernel/random/boot_id".to_owned()),
    ] {
        sources.insert(format!("instance.{fact}"), source);
    }
    Ok(())
}

fn read_required(host: &Host, path: &str) -> Result<String> {
    let bytes = host.read(path)?.ok_or_else(|| {
        Error::unavailable(format!("{path} does not exist")).fix("mount /proc, or give the facts with --facts FILE")
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn memory_mib(meminfo: &str) -> Result<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")).and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.map(|kib| kib / 1024).ok_or_else(|| Error::unavailable("/proc/meminfo has no line \"MemTotal: … kB\""))
}

fn boot_id(text: &str) -> Result<String> {
    let id = text.trim();
    let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if is_uuid {
        Ok(id.to_owned())
    } else {
        Err(Error::config(format!("/proc/sys/kernel/random/boot_id must not be {:?}", shorten(id))))
    }
}

/// dockerd's configuration file.
pub const DAEMON_JSON: &str = "/etc/docker/daemon.json";

fn refuse_daemon_json(cause: String) -> Error {
    Error::config(format!("{DAEMON_JSON} cannot be used")).cause(cause).fix(format!(
        "correct {DAEMON_JSON}, or move it away, and run titus-bootstrap again: dockerd does not start with it either"
    ))
}

/// The contents of dockerd's daemon.json; empty if there is no such file.
///
/// # Errors
/// Fails when it is not a JSON object.
pub fn daemon_json(host: &Host) -> Result<serde_json::Map<String, serde_json::Value>> {
    let bytes = host.read(DAEMON_JSON)?.unwrap_or_default();
    if bytes.trim_ascii().is_empty() {
        return Ok(serde_json::Map::new());
    }
    serde_json::from_slice(&bytes)
        .map_err(|e| refuse_daemon_json(format!("it is not a JSON object: {}", crate::host::json::describe_error(&e))))
}

/// Docker's data directory: from a running engine, else `data-root` in dockerd's daemon.json, else the default.
/// Before Docker 17.05 the key was `graph`.
pub(crate) fn docker_data_root(host: &Host) -> Result<String> {
    data_root_or(host, host.running_data_root()?)
}

/// The same; `running` is what a running engine said.
fn data_root_or(host: &Host, running: Option<String>) -> Result<String> {
    // A flag of dockerd can set it too, perhaps in somebody's drop-in.
    if let Some(path) = running {
        return Ok(path);
    }
    let daemon = daemon_json(host)?;
    match daemon.get("data-root").or_else(|| daemon.get("graph")) {
        None => Ok(DOCKER_DATA_ROOT.into()),
        Some(serde_json::Value::String(path)) if path.starts_with('/') => Ok(path.clone()),
        Some(other) => Err(refuse_daemon_json(format!("data-root is {other}, not an absolute path"))),
    }
}

/// Whether this may be an EC2 instance. `false` only if the machine clearly says
/// that it is something else; an unreadable file proves nothing.
///
/// The signs are those of the EC2 user guide, "Detect whether a host is an EC2
/// instance", and the DMI names that Nitro (`Amazon EC2`) and Xen (`4.11.amazon`) give.
pub fn is_ec2(host: &Host) -> bool {
    let read = |path: &str| {
        let bytes = host.read(path).ok().flatten()?;
        let text = String::from_utf8_lossy(&bytes).trim().to_ascii_lowercase();
        (!text.is_empty()).then_some(text)
    };
    let vendor = read("/sys/class/dmi/id/sys_vendor");
    let bios = read("/sys/class/dmi/id/bios_version");
    let uuids = ["/sys/hypervisor/uuid", "/sys/class/dmi/id/product_uuid"].map(read);
    if vendor.as_deref() == Some("amazon ec2")
        || bios.as_deref().is_some_and(|bios| bios.contains("amazon"))
        || uuids.iter().flatten().any(|uuid| uuid.starts_with("ec2"))
    {
        return true;
    }
    // On Xen the vendor is Xen on EC2 and elsewhere; only the BIOS distinguishes them.
    match vendor.as_deref() {
        None => true,
        Some("xen") => bios.is_none(),
        Some(_) => false,
    }
}

/// Shortens a foreign text, so that it is still recognizable.
fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::host::Deadlines;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let host = Host::tree(root.path(), Deadlines::default()).unwrap();
        (root, host)
    }

    const XENIAL: &str = "NAME=\"Ubuntu\"\nVERSION=\"16.04.4 LTS (Xenial Xerus)\"\nID=ubuntu\nID_LIKE=debian\n\
                          VERSION_ID=\"16.04\"\nVERSION_CODENAME=xenial\n";

    #[test]
    fn os_release_of_ubuntu_and_debian() {
        let (_root, host) = machine(&[("etc/os-release", XENIAL)]);
        let xenial = read_image(&host, &mut BTreeMap::new()).unwrap();
        assert_eq!((&*xenial.distribution, &*xenial.release, &*xenial.codename), ("ubuntu", "16.04", "xenial"));

        let (_root, host) = machine(&[("usr/lib/os-release", "# sid\nID='debian'\n")]);
        let sid = read_image(&host, &mut BTreeMap::new()).unwrap();
        assert_eq!((&*sid.distribution, &*sid.release, &*sid.codename), ("debian", "", ""));
    }

    #[test]
    fn the_hierarchy_and_systemds_version_are_names_of_files() {
        for (files, cgroup, systemd) in [
            (&[][..], None, None),
            (
                &["sys/fs/cgroup/cgroup.controllers", "usr/lib/systemd/libsystemd-shared-249.so"],
                Some(Cgroup::V2),
                Some(249),
            ),
            (&["sys/fs/cgroup/memory/tasks", "lib/systemd/libsystemd-shared-232.so"], Some(Cgroup::V1), Some(232)),
            (&["sys/fs/cgroup/unified/cgroup.controllers"], Some(Cgroup::V1), None),
            (&["usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.9-1.so"], None, Some(257)),
            (&["usr/lib/systemd/libsystemd-shared-.so", "usr/lib/systemd/libsystemd-core-252.so"], None, None),
            (&["usr/lib/systemd/libsystemd-shared-99999999999.so"], None, None),
        ] {
            let (_root, host) = machine(&files.iter().map(|path| (*path, "")).collect::<Vec<_>>());
            let (mut image, mut sources) =
                (Image { architecture: "x86_64".into(), ..Image::default() }, BTreeMap::new());
            read_hierarchy(&host, &mut image, &mut sources).unwrap();
            assert_eq!((image.cgroup, image.systemd), (cgroup, systemd), "{files:?}");
            assert_eq!(sources.len(), 2);
        }
    }

    #[test]
    fn os_release_with_a_shell_in_it_is_refused() {
        for content in ["ID=\"$(reboot)\"\n", "ID=ubuntu; reboot\n", "VERSION_ID=\"16.04\n"] {
            let (_root, host) = machine(&[("etc/os-release", content)]);
            let error = read_image(&host, &mut BTreeMap::new()).unwrap_err();
            assert!(error.what.starts_with("/etc/os-release: "), "{error}");
        }
        let (_root, host) = machine(&[]);
        assert!(read_image(&host, &mut BTreeMap::new()).is_err());
    }

    const PROC: [(&str, &str); 3] = [
        ("proc/meminfo", "MemTotal:        8174308 kB\nMemFree:          123 kB\n"),
        ("proc/cmdline", "root=LABEL=cloudimg-rootfs ro net.ifnames=0\n"),
        ("proc/sys/kernel/random/boot_id", "01234567-89ab-cdef-0123-456789abcdef\n"),
    ];

    #[test]
    fn the_machine_completes_the_instance() {
        let (_root, host) = machine(&PROC);
        let (mut instance, mut sources) = (Instance::default(), BTreeMap::new());
        complete(&host, None, &mut instance, &mut sources).unwrap();
        assert_eq!(instance.memory_mib, 7982);
        assert!(instance.disk_mib > 0 && instance.cpus > 0);
        assert_eq!(instance.kernel_command_line, "root=LABEL=cloudimg-rootfs ro net.ifnames=0");
        assert_eq!(instance.boot_id, "01234567-89ab-cdef-0123-456789abcdef");
        assert_eq!(sources["instance.disk_mib"], "file system of /var/lib/docker");
        assert_eq!(sources.len(), 5);
    }

    #[test]
    fn a_machine_without_proc_is_refused() {
        for missing in 0..PROC.len() {
            let files: Vec<_> = PROC.into_iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, f)| f).collect();
            let (_root, host) = machine(&files);
            assert!(complete(&host, None, &mut Instance::default(), &mut BTreeMap::new()).is_err());
        }
    }

    #[test]
    fn docker_may_keep_its_data_elsewhere() {
        for (daemon, expected) in [
            (r#"{"data-root": "/mnt/docker", "debug": true}"#, Some("/mnt/docker")),
            (r#"{"graph": "/mnt/graph"}"#, Some("/mnt/graph")),
            ("{}", Some(DOCKER_DATA_ROOT)),
            ("", Some(DOCKER_DATA_ROOT)),
            ("{", None),
            ("[]", None),
            (r#"{"data-root": 7}"#, None),
            (r#"{"data-root": "docker"}"#, None),
        ] {
            let (_root, host) = machine(&[("etc/docker/daemon.json", daemon)]);
            assert_eq!(docker_data_root(&host).ok().as_deref(), expected, "{daemon}");
        }
    }

    #[test]
    fn ec2_is_recognised_by_its_dmi_names() {
        let vendor = "sys/class/dmi/id/sys_vendor";
        let bios = "sys/class/dmi/id/bios_version";
        let product = "sys/class/dmi/id/product_uuid";
        for (files, expected) in [
            (&[(vendor, "Amazon EC2\n")][..], true),
            (&[(vendor, "Xen\n"), (bios, "4.11.amazon\n")], true),
            (&[(vendor, "Xen\n"), ("sys/hypervisor/uuid", "ec2e1916-9099-7caf-fd21-012345abcdef\n")], true),
            (&[(vendor, "Xen\n"), (product, "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n")], true),
            (&[(vendor, "Xen\n")], true),
            (&[], true),
            (&[(vendor, "\n")], true),
            (&[(vendor, "Xen\n"), (bios, "4.11\n")], false),
            (&[(vendor, "QEMU\n")], false),
            (&[(vendor, "LENOVO\n"), (product, "0EC2E191\n")], false),
        ] {
            let (_root, host) = machine(files);
            assert_eq!(is_ec2(&host), expected, "{files:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC*|([A-Z_]{0,6}=[\"'a-z ]{0,6}\n){0,4}") {
            let _ = parse_identifier(&text, "ID");
            let _ = memory_mib(&text);
            let _ = boot_id(&text);
        }
    }
}
