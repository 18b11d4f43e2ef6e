//! A whole run, from the lock to the record of how it ended.

use std::time::Duration;

use titus_bootstrap::error::{Error, Kind, Result};
use titus_bootstrap::prepare::{FactSource, Phases, Request, Selection};
use titus_bootstrap::run::apply::{Options, apply_on};
use titus_bootstrap::run::trigger::Trigger;
use titus_bootstrap::run::{journal, status};

use crate::support::simulated::{Machine, silent};

const PERSON: Options = Options { trigger: Trigger::Person, lock_wait: Some(Duration::ZERO), save: false };
const BOOT: Options = Options { trigger: Trigger::Boot, ..PERSON };

const ROLE: &str = "description = 'x'\n\
    [[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/etc/small', content = 'small' }\n\
    [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'small.service', active = true, restart_on = ['file'] }\n";

/// A machine with the role `small`.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.root.write("/etc/titus-bootstrap/roles/small.toml", ROLE);
    machine.unit_file("small.service");
    machine
}

fn run(machine: &Machine, options: Options) -> Result<u8> {
    apply_on(Ok(machine.next_host()), &machine.request("small"), options, silent())
}

/// How the last run ended, according to `status`.
fn recorded(machine: &Machine) -> String {
    let status = status::read(&machine.host).unwrap().unwrap();
    serde_json::to_value(status.state).unwrap().as_str().unwrap().to_owned()
}

/// Without root, a run changes nothing on a live machine, and the test ends.
macro_rules! needs_root {
    ($machine:expr) => {
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(run(&$machine, PERSON).unwrap_err().kind, Kind::NotPermitted);
            assert!(!$machine.root.at("/etc/small").exists());
            return;
        }
    };
}

#[test]
fn a_run_converges_says_so_and_has_nothing_to_do_again() {
    let machine = machine();
    needs_root!(machine);
    run(&machine, PERSON).unwrap();
    assert_eq!(machine.root.read("/etc/small"), "small");
    assert_eq!(recorded(&machine), "converged");
    assert_eq!(machine.systemd.jobs(), ["start small.service"]);
    let events = machine.events();
    assert_eq!((events.first().unwrap().as_str(), events.last().unwrap().as_str()), ("started file", "ended "));
    let last = machine.root.read("/var/log/titus-bootstrap/last.log");
    assert!(last.contains("start small.service"), "{last}");

    run(&machine, PERSON).unwrap();
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    assert_eq!(recorded(&machine), "converged");
}

#[test]
fn a_failed_step_is_recorded_and_the_next_run_repairs_it() {
    let machine = machine();
    needs_root!(machine);
    machine.systemd.fail("small.service", Kind::Failed);
    let error = run(&machine, PERSON).unwrap_err();
    assert!(error.what.contains("step 2/2 unit"), "{error}");
    assert_eq!(recorded(&machine), "failed");
    assert!(machine.root.read("/var/log/titus-bootstrap/last.log").contains("failed"));
    machine.systemd.heal("small.service");
    run(&machine, PERSON).unwrap();
    assert_eq!(recorded(&machine), "converged");
}

#[test]
fn a_run_that_is_refused_changes_nothing_and_is_recorded() {
    let machine = machine();
    needs_root!(machine);
    machine.root.write("/etc/titus-bootstrap/config.toml", "agnet.asg = 'x'\n");
    assert_eq!(run(&machine, PERSON).unwrap_err().kind, Kind::Config);
    let trigger = || status::read(&machine.host).unwrap().unwrap().trigger;
    assert_eq!((recorded(&machine), trigger()), ("refused".into(), Some(Trigger::Person)));
    assert_eq!(run(&machine, BOOT).unwrap_err().kind, Kind::Config);
    assert_eq!((recorded(&machine), trigger()), ("refused".into(), Some(Trigger::Boot)));
    assert!(!machine.root.at("/etc/small").exists());
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn at_boot_a_refusal_is_not_taken_for_a_node_without_a_role() {
    let machine = machine();
    needs_root!(machine);
    // Only the instance's tag says the role.
    let mut facts = titus_bootstrap::facts::sample::facts();
    let tags = std::collections::BTreeMap::from([("titus:role".to_owned(), "small".to_owned())]);
    facts.instance.as_mut().unwrap().tags = Some(tags);
    machine.root.write("/facts.json", serde_json::to_string(&facts).unwrap());
    let by_tag = || Request {
        roles: Vec::new(),
        facts: FactSource::File(machine.root.at("/facts.json")),
        ..machine.request("")
    };
    std::fs::create_dir_all(machine.root.at("/etc/small")).unwrap();
    let error = apply_on(Ok(machine.next_host()), &by_tag(), BOOT, silent()).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.what.contains("/etc/small is a directory"), "{error}");
    assert_eq!(recorded(&machine), "refused");
    std::fs::remove_dir(machine.root.at("/etc/small")).unwrap();
    apply_on(Ok(machine.next_host()), &by_tag(), BOOT, silent()).unwrap();
    assert_eq!(recorded(&machine), "converged");
}

#[test]
fn a_run_does_not_begin_while_another_has_the_lock() {
    let machine = machine();
    needs_root!(machine);
    let first = machine.next_host();
    let lock = first.lock(titus_bootstrap::host::lock::LOCK, Duration::ZERO, &mut |_| {}).unwrap();
    let error = run(&machine, PERSON).unwrap_err();
    assert_eq!(error.kind, Kind::TemporaryFailure);
    assert!(!machine.root.at("/etc/small").exists() && status::read(&machine.host).unwrap().is_none());
    drop(lock);
    run(&machine, PERSON).unwrap();
}

#[test]
fn a_missing_machine_is_the_error() {
    let machine = machine();
    let none = Err(Error::config("no such directory"));
    let error = apply_on(none, &machine.request("small"), PERSON, silent()).unwrap_err();
    assert_eq!(error.what, "no such directory");
}

#[test]
fn a_run_with_save_keeps_its_role_for_the_next_boot() {
    let machine = machine();
    needs_root!(machine);
    run(&machine, Options { save: true, ..PERSON }).unwrap();
    let boot = Request { roles: Vec::new(), ..machine.request("small") };
    machine.root.write("/etc/small", "other");
    apply_on(Ok(machine.next_host()), &boot, BOOT, silent()).unwrap();
    assert_eq!(machine.root.read("/etc/small"), "small");
    assert!(journal::events(&machine.host, journal::JOURNAL).unwrap().len() > 4);
}

#[test]
fn an_image_whose_services_nothing_would_start_is_not_baked() {
    let machine = machine();
    needs_root!(machine);
    let drop_in = "/etc/systemd/system/small.service.d/10-titus-bootstrap.conf";
    let role = ROLE.to_owned()
        + &format!(
            "[[step]]\nid = 'waits'\nphase = 'bake'\nfile = {{ path = '{drop_in}', template = 'ready.conf' }}\n"
        );
    machine.root.write("/etc/titus-bootstrap/roles/small.toml", &role);
    let bake =
        |phases| apply_on(Ok(machine.next_host()), &Request { phases, ..machine.request("small") }, PERSON, silent());
    let refusal = bake(Phases::Bake).unwrap_err();
    assert_eq!(refusal.kind, Kind::Unavailable, "{refusal:?}");
    for (text, expected) in [
        (Some(&refusal.what), "titus-bootstrap.service is not enabled"),
        (refusal.cause.as_ref(), drop_in),
        (refusal.fix.as_ref(), "install the deb"),
    ] {
        assert!(text.is_some_and(|text| text.contains(expected)), "{refusal:?}");
    }
    assert!(!machine.root.at(drop_in).exists());
    // A run that is not for an image starts them itself.
    bake(Phases::All).unwrap();

    machine.root.link(
        "/etc/systemd/system/multi-user.target.wants/titus-bootstrap.service",
        "/lib/systemd/system/titus-bootstrap.service",
    );
    bake(Phases::Bake).unwrap();
}

#[test]
fn a_partial_run_leaves_the_unit_of_a_changed_file_to_the_next_run() {
    let machine = machine();
    needs_root!(machine);
    run(&machine, PERSON).unwrap();
    assert_eq!(machine.systemd.jobs(), ["start small.service"]);
    machine.root.write("/etc/titus-bootstrap/roles/small.toml", ROLE.replace("content = 'small'", "content = 'large'"));
    let limited = |only: &str| {
        let selection = Selection { only: vec![only.to_owned()], skip: Vec::new() };
        let request = Request { selection, ..machine.request("small") };
        apply_on(Ok(machine.next_host()), &request, PERSON, silent()).unwrap();
        assert_eq!(recorded(&machine), "partial");
    };
    limited("file");
    assert_eq!((machine.root.read("/etc/small").as_str(), machine.systemd.jobs().len()), ("large", 0));
    limited("unit");
    assert_eq!(machine.systemd.jobs(), ["restart small.service"]);
    run(&machine, PERSON).unwrap();
    assert_eq!(machine.systemd.jobs(), [""; 0]);
    assert_eq!(recorded(&machine), "converged");
}
