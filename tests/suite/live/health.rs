//! The questions of `verify` on a live machine.

use std::os::unix::fs::symlink;
use std::time::Duration;

use titus_bootstrap::host::systemd::{Active, Unit};
use titus_bootstrap::step::health::Kept;
use titus_bootstrap::titus::checks::{Finding, check_registration, check_vpc_tool};

use crate::support::door::{listen, serve_http};
use crate::support::simulated::Machine;

/// A machine on which these units run.
fn running(names: &[&str]) -> Machine {
    let machine = Machine::new();
    for name in names {
        machine.unit_file(name);
        machine.systemd.start(name);
    }
    machine
}

#[track_caller]
fn is_bad(finding: Finding, words: &str) {
    assert!(matches!(&finding, Finding::Bad(text) if text.contains(words)), "{words}: {finding:?}");
}

#[test]
fn a_unit_is_good_if_it_runs_and_would_start_again() {
    type Change = fn(&mut Unit);
    let cases: [(Change, &str); 5] = [
        (|unit| unit.active = Active::Inactive, "x.service is inactive"),
        (|unit| unit.active = Active::Failed, "x.service is failed"),
        (|unit| unit.restarts = Some(1), "1 restart"),
        (|unit| unit.load = "bad-setting".into(), "systemd-analyze verify x.service"),
        (|unit| unit.needs_reload = true, "its files changed since systemd read them"),
    ];
    let ask = |machine: &Machine, name: &str| Kept::UnitActive(name.into()).ask(&machine.next_host()).unwrap();
    let good = |name: &str| Finding::Good(format!("{name} is active (running)"));
    for (change, words) in cases {
        let mut machine = running(&["x.service"]);
        machine.host.deadlines.settle = Duration::from_secs(3600);
        assert_eq!(ask(&machine, "x.service"), good("x.service"));
        machine.systemd.change("x.service", change);
        is_bad(ask(&machine, "x.service"), words);
    }
    // A restart long ago does not matter.
    let mut machine = running(&["x.service", "x.timer"]);
    machine.host.deadlines.settle = Duration::ZERO;
    machine.systemd.change("x.service", |unit| unit.restarts = Some(1));
    assert_eq!(ask(&machine, "x.service"), good("x.service"));
    // A timer is as good as the last run of its service.
    for (active, is_good) in [(Active::Inactive, true), (Active::Active, true), (Active::Failed, false)] {
        machine.systemd.change("x.service", |unit| unit.active = active);
        match ask(&machine, "x.timer") {
            finding if is_good => assert_eq!(finding, good("x.timer")),
            finding => is_bad(finding, "x.timer is active (running), but x.service failed last time"),
        }
    }
    symlink("/dev/null", machine.root.at("/etc/systemd/system/x.timer")).unwrap();
    is_bad(ask(&machine, "x.timer"), "but /etc/systemd/system/x.timer masks it: systemctl unmask x.timer");
}

#[test]
fn of_units_that_some_releases_lack_one_must_exist_and_those_that_do_must_run() {
    let machine = running(&["x.service", "y.service"]);
    let ask = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Kept::UnitsActive(names).ask(&machine.next_host()).unwrap()
    };
    let good = |text: &str| Finding::Good(text.to_owned());
    assert_eq!(ask(&["x.service", "y.service"]), good("x.service is active (running), y.service is active (running)"));
    assert_eq!(ask(&["x.service", "z.service"]), good("x.service is active (running), not there: z.service"));
    assert_eq!(ask(&[]), good(""));
    let none = "none of these units exists: v.service, z.service";
    assert_eq!(ask(&["v.service", "z.service"]), Finding::Bad(none.into()));
    machine.systemd.change("y.service", |unit| unit.active = Active::Failed);
    is_bad(ask(&["x.service", "y.service", "z.service"]), "y.service is failed");
}

#[test]
fn the_tool_of_the_vpc_driver_should_count_like_the_agent() {
    const TOOL: &str = "/apps/titus-executor/bin/titus-vpc-tool";
    let machine = Machine::new();
    let check = |script: &str| {
        machine.root.script(TOOL, format!("#!/bin/sh\n{script}\n"));
        check_vpc_tool(&machine.next_host(), "ResourceSet-ENIs-2-10")
    };
    is_bad(check_vpc_tool(&machine.host, "ResourceSet-ENIs-2-10"), "cannot be run");
    let prints = "[ \"$*\" = 'genconf --resource-sets-only' ] && echo 'RESOURCE_SETS=\"ResourceSet-ENIs-2-10\"'";
    assert_eq!(check(prints), Finding::Good("titus-vpc-tool says ResourceSet-ENIs-2-10 too".into()));
    let other = check("echo ResourceSet-ENIs-1-10");
    let words = "titus-vpc-tool says ResourceSet-ENIs-1-10, the agent offers ResourceSet-ENIs-2-10";
    assert!(matches!(&other, Finding::Warning(text) if text.starts_with(words)), "{other:?}");
    is_bad(check("echo no ENIs"), "titus-vpc-tool did not print a resource set: no ENIs");
    let failed = check(&format!("{prints}\necho 'panic: Unknown type' >&2\necho trace >&2\nexit 2"));
    is_bad(
        failed,
        "`/apps/titus-executor/bin/titus-vpc-tool genconf --resource-sets-only` failed (exit status: 2): panic: Unknown type",
    );
    is_bad(check("exit 1"), "it printed nothing");
}

#[test]
fn an_agent_is_looked_for_at_the_leader_to_which_a_master_redirects() {
    const LIST: &str = r#"{"slaves": [{"pid": "slave(1)@10.0.0.1:5051"}, {"pid": "slave(1)@10.0.0.2:5051"}]}"#;
    let machine = Machine::new();
    let serve = |status: u16, header: &str| {
        let (listener, header) = (listen(0), header.to_owned());
        let address = listener.local_addr().unwrap().to_string();
        let door = serve_http(listener, move |request| match request.target.as_str() {
            "/slaves" => (status, header.clone(), LIST.into()),
            _ => (404, String::new(), String::new()),
        });
        (door, address)
    };
    let check = |masters: &[&str], address: &str| {
        let masters: Vec<String> = masters.iter().map(|master| (*master).to_owned()).collect();
        check_registration(&machine.host, &masters, address, 5051)
    };
    let redirect = |to: &str| serve(307, &format!("Location: {to}\r\n"));
    let (_leader, leader) = serve(200, "");
    let found = |master: &str| Finding::Good(format!("the Mesos master at {master} has the agent 10.0.0.1:5051"));
    assert_eq!(check(&[&leader], "10.0.0.1"), found(&leader));
    for to in [format!("//{leader}/slaves"), format!("http://{leader}/slaves")] {
        let (_master, master) = redirect(&to);
        assert_eq!(check(&[&master], "10.0.0.1"), found(&master), "{to}");
    }
    for to in [format!("https://{leader}/slaves"), "/slaves".into(), "file:///slaves".into()] {
        let (_master, master) = redirect(&to);
        is_bad(check(&[&master], "10.0.0.1"), &format!("{master}: redirects to {to}"));
        // Another master may know it.
        assert_eq!(check(&[&master, &leader], "10.0.0.1"), found(&leader));
    }
    let (_broken, broken) = serve(503, "");
    is_bad(check(&[&broken], "10.0.0.1"), &format!("no Mesos master has this agent: {broken}: status 503"));
    is_bad(check(&[&leader], "10.0.0.3"), &format!("{leader} has 2 agents, but not 10.0.0.3:5051"));
    is_bad(check(&[], "10.0.0.1"), "mesos.masters is empty");
}
