//! `report` on a live machine: the journals of units, and versions.

use titus_bootstrap::commands::report::run_on;
use titus_bootstrap::host::fs::Owner;

use crate::report::unpacked;
use crate::support::simulated::{Machine, silent};

const ROLE: &str = "description = 'x'\n\
    [[step]]\nid = 'env'\nphase = 'boot'\nfile = { path = '/etc/own.env', mode = '0600', content = \"PLAIN={{ 'c4n4ry' }}-in-own.env\\n\" }\n\
    [[step]]\nid = 'packages'\nphase = 'bake'\npackage = { names = ['jq'] }\n\
    [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'small.service', active = true }\n";

/// A journal that has a secret in each form, and one that only a private file, a registry's file and a setting have.
const JOURNAL: &str = "case \"$*\" in *small.service*) printf '%s\\n' 'small begins' \
    'password=c4n4ry' 'Authorization: Bearer c4n4ry1' 'https://me:c4n4ry@h/x?X-Amz-Signature=c4n4ry' \
    'it read c4n4ry-in-own.env' 'it sent YzRuNHJ5OmM0bjRyeQ' 'of the settings: c4n4ry-of-settings' \
    '-----BEGIN PRIVATE KEY-----' c4n4ry '-----END PRIVATE KEY-----';; *) echo other;; esac";

#[test]
fn units_and_versions_are_in_it_and_no_secret_is() {
    let machine = Machine::new();
    machine.root.write("/etc/titus-bootstrap/roles/small.toml", ROLE);
    machine.unit_file("small.service");
    machine.command("journalctl", JOURNAL);
    machine.command("systemctl", "echo 'systemd 252 (252.38-1)'; echo more");
    machine.root.write("/etc/own.env", "PLAIN=c4n4ry-in-own.env\n");
    let auth = "{\"auths\":{\"r\":{\"auth\":\"YzRuNHJ5OmM0bjRyeQ\"}}}";
    machine.host.write("/root/auth.json", auth.as_bytes(), 0o600, Owner::ROOT).unwrap();
    machine.root.write(
        "/etc/titus-bootstrap/config.toml",
        "docker.auth = '/root/auth.json'\n[master.properties]\n'db.password' = 'c4n4ry-of-settings'\n",
    );
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("x.tar.gz");
    run_on(&mut machine.next_host(), machine.request("small"), silent(), Some(file.clone())).unwrap();
    let parts = unpacked(&file);
    for (name, text) in &parts {
        assert!(!text.contains("c4n4ry") && !text.contains("YzRuNHJ5"), "{name}:\n{text}");
    }
    if nix::unistd::geteuid().is_root() {
        let unit = &parts["units/small.service.log"];
        assert!(
            unit.contains("small begins") && unit.contains("password=***") && unit.contains("it read ***"),
            "{unit}"
        );
        assert!(parts.contains_key("units/titus-bootstrap.service.log"), "{parts:#?}");
    } else {
        assert!(parts["contents.txt"].contains("only root may read"), "{}", parts["contents.txt"]);
    }
    let versions = &parts["versions.txt"];
    assert!(versions.contains("systemd 252 (252.38-1)\n") && versions.contains("\njq "), "{versions}");
}
