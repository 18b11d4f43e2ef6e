//! A whole run, from the lock to the record of how it ended.

use std::time::Duration;

use titus_bootstrap::error::{Error, Kind, Result};
use titus_bootstrap::prepare::{FactSource, FirstLine, Phases, Request};
use titus_bootstrap::run::apply::{Options, apply_on};
use titus_bootstrap::run::trigger::Trigger;
use titus_bootstrap::run::{journal, status};

use crate::support::simulated::{Machine, silent};

const PERSON: Options = Options { trigger: Trigger::Person, lock_wait: Some(Duration::ZERO), save: false };
const BOOT: Options = Options { trigger: Trigger::Boot, ..PERSON };

const ROLE: &str = "description = 'x'\n\
    [[step]]\nid = 'file'\nphase = 'boot'\nfile = { path = '/etc/small', content = 'small' }\n\
    [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'small.service', active = true, restart_on = ['file'] }\n";

/// Of a role of this name, on a machine with facts that are made up.
fn request(machine: &Machine, role: &str) -> Request {
    Request {
        roles: vec![role.to_owned()],
        phases: Phases::All,
        root: Some(machine.root.path().to_owned()),
        user_data: None,
        config: None,
        set: Vec::new(),
        facts: FactSource::Sample,
        draws_progress: false,
        first_line: |_| Ok(FirstLine::default()),
    }
}

/// A machine with the role `small`.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.root.write("/etc/titus-bootstrap/roles/small.toml", ROLE);
    machine.unit_file("small.service");
    machine
}

fn run(machine: &Machine, options: Options) -> Result<()> {
    apply_on(Ok(machine.next_host()), &request(machine, "small"), options, silent())
}

/// How the last run ended, as `status` has it.
fn recorded(machine: &Machine) -> String {
    let status = status::read(&machine.host).unwrap().unwrap();
    serde_json::to_value(status.state).unwrap().as_str().unwrap().to_owned()
}

/// Without root, nothing is done on a live machine, and there is nothing more to see.
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
fn a_failed_step_is_recorded_and_the_next_run_makes_it_good() {
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
fn a_run_that_is_refused_changes_nothing_and_the_boot_unit_s_is_recorded() {
    let machine = machine();
    needs_root!(machine);
    machine.root.write("/etc/titus-bootstrap/config.toml", "agnet.asg = 'x'\n");
    assert_eq!(run(&machine, PERSON).unwrap_err().kind, Kind::Config);
    assert!(status::read(&machine.host).unwrap().is_none(), "who asked for it has read it");
    assert_eq!(run(&machine, BOOT).unwrap_err().kind, Kind::Config);
    assert_eq!(recorded(&machine), "refused");
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
        ..request(&machine, "")
    };
    std::fs::create_dir_all(machine.root.at("/etc/small")).unwrap();
    let error = apply_on(Ok(machine.next_host()), &by_tag(), BOOT, silent()).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.what.contains("/etc/small: a directory"), "{error}");
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
fn a_machine_that_there_is_not_is_the_error() {
    let machine = machine();
    let none = Err(Error::config("no such directory"));
    let error = apply_on(none, &request(&machine, "small"), PERSON, silent()).unwrap_err();
    assert_eq!(error.what, "no such directory");
}

#[test]
fn a_run_with_save_keeps_its_role_for_the_next_boot() {
    let machine = machine();
    needs_root!(machine);
    run(&machine, Options { save: true, ..PERSON }).unwrap();
    let boot = Request { roles: Vec::new(), ..request(&machine, "small") };
    machine.root.write("/etc/small", "other");
    apply_on(Ok(machine.next_host()), &boot, BOOT, silent()).unwrap();
    assert_eq!(machine.root.read("/etc/small"), "small");
    assert!(journal::events(&machine.host, journal::JOURNAL).unwrap().len() > 4);
}
