//! What every run refuses before it changes anything, regardless of its steps.

use crate::error::{Error, Kind, Result};
use crate::facts::machine;
use crate::host::Host;
use crate::prepare::{FactSource, Phases, Request};
use crate::run::BOOT_UNIT;
use crate::step::{Contents, Step};

/// Refuses a made-up identity on a live node.
///
/// # Errors
/// Fails with 64 when the facts are those of another instance and there is no --root.
pub fn refuse_made_up_facts(request: &Request) -> Result<()> {
    let flag = match request.facts {
        FactSource::Instance => return Ok(()),
        FactSource::Sample => "--sample",
        FactSource::File(_) | FactSource::Given(_) => "--facts",
    };
    if request.root.is_some() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{flag} on the live machine"))
        .cause("facts that are not this instance's must not be written on it")
        .fix(format!("add --root ./node, or ask for a plan: titus-bootstrap plan {flag}")))
}

/// Refuses to change a live machine without root.
///
/// # Errors
/// Fails with 77 when the process is not root. The fix has the command line to repeat.
pub fn refuse_without_root(host: &Host) -> Result<()> {
    if !host.is_live() || host.may_chown() {
        return Ok(());
    }
    let quoted = |word: std::ffi::OsString| crate::template::quote_shell(&word.to_string_lossy()).unwrap_or_default();
    let words: Vec<String> = std::env::args_os().map(quoted).collect();
    Err(Error::new(Kind::NotPermitted, "only root can do this").fix(format!("sudo {}", words.join(" "))))
}

/// Refuses a live machine without apt, or one on which systemd is not running.
///
/// # Errors
/// Fails with 69 when apt, dpkg or a running systemd is missing.
pub fn refuse_machine(host: &Host, phases: Phases) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    if !host.has_apt()? {
        return Err(Error::unavailable("this machine has no apt and dpkg")
            .cause("/usr/bin/apt-get or /usr/bin/dpkg is not there")
            .fix("roles install Debian packages: use an image of Debian or Ubuntu"));
    }
    if phases != Phases::Bake && host.entry("/run/systemd/system")?.is_none() {
        return Err(Error::unavailable("systemd is not running on this machine")
            .cause("/run/systemd/system is not there")
            .fix("use an image of Debian or Ubuntu with systemd; to build an image without a running systemd: --phase bake"));
    }
    Ok(())
}

const DROP_INS: &str = "/etc/systemd/system";

/// The drop-in that makes a service wait for a run at each boot: `ready.conf` of the roles.
const WAITS: &str = "/10-titus-bootstrap.conf";

/// Refuses to bake services that would never start, because the image has no unit to start the run that they wait for.
///
/// # Errors
/// Fails with 69 when the boot unit is not enabled. The error names the unit.
pub fn refuse_bake_without_boot_unit(host: &Host, phases: Phases, steps: &[Step]) -> Result<()> {
    if phases != Phases::Bake || !host.is_live() {
        return Ok(());
    }
    let waits = steps.iter().filter_map(|step| step.work().file()).find(|path| path.ends_with(WAITS));
    waits.map_or(Ok(()), |path| refuse_without_boot_unit(host, path))
}

/// Refuses to seal an image with such services.
///
/// # Errors
/// Fails with 69 when the boot unit is not enabled. The error names the unit.
pub fn refuse_seal_without_boot_unit(host: &Host) -> Result<()> {
    for directory in host.list(DROP_INS)?.iter().filter(|name| name.ends_with(".service.d")) {
        let path = format!("{DROP_INS}/{directory}{WAITS}");
        if host.entry(&path)?.is_some() {
            return refuse_without_boot_unit(host, &path);
        }
    }
    Ok(())
}

fn refuse_without_boot_unit(host: &Host, drop_in: &str) -> Result<()> {
    if !host.links_that_enable(BOOT_UNIT)?.is_empty() {
        return Ok(());
    }
    Err(Error::unavailable(format!("{BOOT_UNIT} is not enabled, so the services of this image would never start"))
        .cause(format!(
            "with {drop_in} they wait at each boot for a run; user data run only at an instance's first boot"
        ))
        .fix("install the deb of titus-bootstrap, which contains and enables the unit, instead of only the program"))
}

/// Refuses a daemon.json with keys that the role's drop-in sets as flags. Dockerd does not start with both.
///
/// # Errors
/// Fails with 69 when such a key is set. The error names the keys.
pub fn refuse_daemon_json(host: &Host, steps: &[Step]) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    for step in steps {
        let Some((path, Contents::Text(drop_in))) = step.work().written() else { continue };
        if !path.starts_with(DOCKER_DROP_INS) {
            continue;
        }
        let daemon = machine::daemon_json(host)?;
        let both: Vec<&str> = flags_of_dockerd(&drop_in).into_iter().filter(|key| daemon.contains_key(*key)).collect();
        if !both.is_empty() {
            let keys = both.join(", ");
            return Err(Error::unavailable(format!("{} sets {keys}, and so does {path}", machine::DAEMON_JSON))
                .cause("dockerd does not start when a flag and daemon.json set the same")
                .fix(format!(
                    "remove {keys} from {}; if their values matter to you, see docs/reference.md, \"What the node of an agent must be\"",
                    machine::DAEMON_JSON
                )));
        }
    }
    Ok(())
}

const DOCKER_DROP_INS: &str = "/etc/systemd/system/docker.service.d/";

/// The keys of daemon.json that match the flags in a unit's `ExecStart=` (dockerd(8)). A flag that can be repeated has the
/// plural as its key.
fn flags_of_dockerd(unit: &str) -> Vec<&str> {
    const PLURALS: [(&str, &str); 12] = [
        ("host", "hosts"),
        ("H", "hosts"),
        ("label", "labels"),
        ("insecure-registry", "insecure-registries"),
        ("registry-mirror", "registry-mirrors"),
        ("dns-opt", "dns-opts"),
        ("storage-opt", "storage-opts"),
        ("exec-opt", "exec-opts"),
        ("log-opt", "log-opts"),
        ("add-runtime", "runtimes"),
        ("authorization-plugin", "authorization-plugins"),
        ("l", "log-level"),
    ];
    let lines = unit.lines().filter_map(|line| line.trim().strip_prefix("ExecStart="));
    let words = lines.flat_map(str::split_whitespace).filter(|word| word.starts_with('-'));
    words
        .map(|word| {
            let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
            PLURALS.iter().find(|(one, _)| *one == name).map_or(name, |(_, many)| many)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_dockerd_has_its_key_in_daemon_json() {
        let unit = "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --log-level=warn -H fd:// --init-path=/x \
                    --iptables=false --storage-driver=overlay2 --label a=b\nExecStop=/bin/x --debug\n";
        let keys = ["log-level", "hosts", "init-path", "iptables", "storage-driver", "labels"];
        assert_eq!(flags_of_dockerd(unit), keys);
        assert_eq!(flags_of_dockerd("[Service]\nEnvironment=X=1\n"), [""; 0]);
    }
}
