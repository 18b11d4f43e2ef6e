//! Debs: installed from a file, again when the file changes, and the meaning of apt's answers.

use std::process::Command;

use sha2::{Digest, Sha256};
use titus_bootstrap::error::Kind;
use titus_bootstrap::run::engine;

use crate::support::door::{listen, serve_http};
use crate::support::root::Root;
use crate::support::sigv4::hex;
use crate::support::simulated::Machine;

const PATH: &str = "/root/titus.deb";
const RECORD: &str = "/var/lib/titus-bootstrap/debs/titus";
const MARK: &str = "/run/titus-bootstrap/debs/titus";

const STEP: &str = "[[step]]\nid = 'titus'\nphase = 'bake'\ndeb = { source = { path = '/root/titus.deb' }, setting = 'debs.master' }\n";

/// A deb of the package `titus`.
fn build(machine: &Machine, version: &str, contents: &str) {
    let files = Root::empty();
    files.write("/contents", contents);
    let fields =
        format!("Package: titus\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n");
    files.write("/DEBIAN/control", fields);
    machine.root.write(PATH, "");
    let output = Command::new("dpkg-deb").arg("--build").args([files.path(), &machine.root.at(PATH)]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_deb_is_installed_once_and_again_when_it_is_another() {
    let machine = Machine::new();
    machine.unit_file("titus.service");
    build(&machine, "1.0", "one");
    let unit = "[[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'titus.service', active = true, restart_on = ['titus'] }\n";
    let steps = machine.steps(&format!("{STEP}{unit}"));
    assert_eq!(machine.plan(&steps).ends_well().lines()[0], "install titus 1.0 from /root/titus.deb");
    let first = machine.apply(&steps).ends_well();
    assert_eq!(first.states(), ["titus changed", "unit changed"]);
    assert!(machine.calls().iter().any(|call| call.ends_with(" update")), "it may depend on what a source has");
    assert_eq!(machine.installed("titus"), "1.0 installed install");
    assert!(machine.root.at(RECORD).exists() && machine.root.at(MARK).exists());
    let debs: Vec<String> = machine.root.look().into_keys().filter(|path| path.ends_with(".deb")).collect();
    assert_eq!(debs, [PATH], "the copy in the cache is left");
    machine.systemd.jobs();

    assert_eq!(machine.apply(&steps).ends_well().states(), ["titus in_sync", "unit in_sync"]);
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    build(&machine, "1.0", "two");
    let planned = machine.plan(&steps).ends_well();
    assert_eq!(planned.lines()[0], "reinstall titus 1.0 from /root/titus.deb (same version, other contents)");
    assert!(planned.lines()[1].starts_with("restart titus.service"), "{:?}", planned.lines());
    machine.calls();
    machine.apply(&steps).ends_well();
    assert_eq!(machine.systemd.jobs(), ["restart titus.service"]);
    let calls = machine.calls();
    assert!(calls.iter().any(|call| call.contains(" --reinstall --allow-downgrades ")), "{calls:?}");
}

#[test]
fn a_deb_that_differs_from_its_record_has_none_until_it_is_installed_again() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    let sums = "/var/lib/dpkg/info/titus.md5sums";
    machine.root.write(sums, "of the deb");
    let steps = machine.steps(STEP);
    machine.apply(&steps).ends_well();
    // Somebody installed another build of the same version.
    machine.root.write(sums, "of another build");
    let line = "reinstall titus 1.0 from /root/titus.deb (same version, other contents)";
    assert_eq!(machine.plan(&steps).ends_well().lines(), [line]);
    machine.prepend("apt-get", "case \"$*\" in *' install '*) echo of the deb, half done >$ROOT/half; exit 100;; esac");
    machine.apply(&steps).fails();
    assert!(!machine.root.at(RECORD).exists(), "what is half done would count as done once its contents are as before");
    // The record of another package stays, and so does this one's while another deb replaces it.
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    let steps = machine.steps(STEP);
    machine.apply(&steps).ends_well();
    build(&machine, "1.1", "two");
    machine.prepend("apt-get", "case \"$*\" in *' install '*) exit 100;; esac");
    machine.apply(&steps).fails();
    assert!(machine.root.at(RECORD).exists(), "dpkg has what it says");
    assert_eq!(machine.plan(&steps).ends_well().lines(), ["install titus 1.1 from /root/titus.deb (is 1.0)"]);
}

#[test]
fn a_hold_of_the_administrators_is_kept() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    machine.install("titus", "0.9", "installed");
    machine.root.write("/var/lib/dpkg/packages", "titus\t0.9\tinstalled\thold\n");
    let steps = machine.steps(STEP);
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["install titus 1.0 from /root/titus.deb (is 0.9)"]);
    assert_eq!(machine.installed("titus"), "1.0 installed hold");
}

#[test]
fn dependencies_that_no_source_has_are_reported_as_such() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    machine.prepend(
        "apt-get",
        "case \"$*\" in *' install -- '*) echo 'The following packages have unmet dependencies:'; exit 100;; esac",
    );
    let run = machine.apply(&machine.steps(STEP));
    let words = run.fails().to_string();
    assert!(words.contains("step 1/1 titus: titus 1.0 cannot be installed: `apt-get"), "{words}");
    assert!(
        words.contains("no package source has its dependencies") && words.contains("set debs.master to"),
        "{words}"
    );
    assert!(!machine.root.at(RECORD).exists());
    // For any other failure, the message has apt's own words and how to continue.
    machine.command("apt-get", "case \"$*\" in *' install -- '*) echo 'E: no space'; exit 100;; esac");
    let words = machine.apply(&machine.steps(STEP)).fails().to_string();
    assert!(words.contains("no space") && !words.contains("depends on"), "{words}");
}

#[test]
fn dpkg_unpacks_the_half_installed_packages_that_apt_passes_over() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    machine.install("titus", "0.9", "half-configured");
    machine.prepend("apt-get", "case \"$*\" in *' --reinstall '*) echo 'E: not now' >&2; exit 100;; esac");
    machine.prepend(
        "dpkg",
        "case \"$*\" in *--unpack*) printf 'titus\\t1.0\\tinstalled\\tinstall\\n' >$DPKG; exit;; esac",
    );
    let run = machine.apply(&machine.steps(STEP)).ends_well();
    assert_eq!(run.lines(), ["install titus 1.0 from /root/titus.deb (it is half-configured)"]);
    let calls = machine.calls();
    assert!(calls.iter().any(|call| call.contains("--no-remove --fix-broken install")), "{calls:?}");
    // If apt would rather remove it, dpkg reports what is missing.
    machine.install("titus", "0.9", "half-configured");
    machine.prepend(
        "apt-get",
        "case \"$*\" in *--fix-broken*) echo 'E: Packages need to be removed but remove is disabled.' >&2; exit 100;; esac",
    );
    machine.prepend("dpkg", "case \"$*\" in *--configure*) echo 'words of a script' >&2; exit 1;; esac");
    let words = machine.apply(&machine.steps(STEP)).fails().to_string();
    assert!(words.contains("words of a script"), "{words}");
}

#[test]
fn apt_that_ends_well_and_installed_nothing_is_a_failure() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    machine.command("apt-get", "");
    let run = machine.apply(&machine.steps(STEP));
    assert!(run.fails().what.contains("apt succeeded, but titus 1.0 is not installed"), "{}", run.fails());
    assert!(!machine.root.at(RECORD).exists() && !machine.root.at(MARK).exists());
    // Nor is another version of it the deb.
    machine.command("apt-get", "printf 'titus\\t0.9\\tinstalled\\tinstall\\n' >$DPKG");
    let words = machine.apply(&machine.steps(STEP)).fails().to_string();
    assert!(words.contains("titus 1.0 is not installed") && words.contains("dpkg has 0.9, installed"), "{words}");
    assert!(!machine.root.at(RECORD).exists());
}

#[test]
fn a_deb_is_refused_before_anything_is_changed() {
    let machine = Machine::new();
    let run = machine.apply(&machine.steps(STEP));
    assert_eq!(run.fails().kind, Kind::Config);
    assert!(run.fails().what.contains("titus: /root/titus.deb does not exist"), "{}", run.fails());
    build(&machine, "1.0", "one");
    machine.prepend("dpkg", "case $1 in --print-architecture) echo m68k; exit;; esac");
    // `all` is for every architecture.
    machine.apply(&machine.steps(STEP)).ends_well();
    let unpinned = "[[step]]\nid = 'titus'\nphase = 'bake'\ndeb = { source = { url = 'http://127.0.0.1:1/x.deb' } }\n";
    let plan = machine.plan(&machine.steps(unpinned));
    assert!(plan.fails().to_string().contains("`apply` as root computes and reports it"), "{}", plan.fails());
}

#[test]
fn a_missing_checksum_is_computed_and_refused() {
    let machine = Machine::new();
    let listener = listen(0);
    let address = listener.local_addr().unwrap();
    let _server = serve_http(listener, |_| (200, String::new(), "abc"));
    let role =
        format!("[[step]]\nid = 'titus'\nphase = 'bake'\ndeb = {{ source = {{ url = 'http://{address}/x.deb' }} }}\n");
    let run = machine.apply(&machine.steps(&role));
    let words = run.fails().to_string();
    assert_eq!(run.fails().kind, Kind::Config);
    assert!(words.starts_with("test: titus: the source of step titus: "), "{words}");
    // The digest of "abc" (FIPS 180-4, its first example).
    assert!(words.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"), "{words}");
}

#[test]
fn dpkg_is_asked_once_for_debs_and_packages() {
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    machine.install("jq", "1.6", "installed");
    let steps =
        machine.steps(&format!("{STEP}[[step]]\nid = 'packages'\nphase = 'bake'\npackage = {{ names = ['jq'] }}\n"));
    machine.apply(&steps).ends_well();
    machine.calls();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["titus in_sync", "packages in_sync"]);
    let asked: Vec<String> =
        machine.calls().into_iter().filter(|call| call.starts_with("dpkg-query ") && call.contains(" -- ")).collect();
    assert!(matches!(&asked[..], [one] if one.ends_with(" -- jq titus")), "{asked:?}");
}

#[test]
fn a_deb_of_a_url_is_downloaded_once() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let machine = Machine::new();
    build(&machine, "1.0", "one");
    let deb = std::fs::read(machine.root.at(PATH)).unwrap();
    let sum = hex(&Sha256::digest(&deb));
    let listener = listen(0);
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&count);
    let _server = serve_http(listener, move |_| {
        counts.fetch_add(1, Ordering::SeqCst);
        (200, String::new(), deb.clone())
    });
    let source = format!("url = 'http://{address}/x.deb', sha256 = '{sum}'");
    let steps = machine.steps(&STEP.replace(&format!("path = '{PATH}'"), &source));
    assert_eq!(machine.apply(&steps).ends_well().states(), ["titus changed"]);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["titus in_sync"]);
    assert_eq!(machine.plan(&steps).ends_well().states(), ["titus in_sync"]);
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Nor does a run begin to download it before it looks at the step.
    let host = machine.next_host();
    engine::ask(&host, &steps).unwrap();
    assert!(steps[0].work().fetches(&host).unwrap().is_empty());
}
