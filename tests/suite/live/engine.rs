//! The engine: what it observes and changes, and the contents of its journal and its report.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use titus_bootstrap::error::Kind;
use titus_bootstrap::host::Host;
use titus_bootstrap::run::engine;
use titus_bootstrap::run::journal;

use crate::support::root::Root;
use crate::support::simulated::Machine;

/// Three files; one step each.
const FILES: &str = "[[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/etc/one', content = '1' }\n\
                     [[step]]\nid = 'two'\nphase = 'boot'\nfile = { path = '/etc/two', content = '2' }\n\
                     [[step]]\nid = 'three'\nphase = 'boot'\nfile = { path = '/etc/three', content = '3' }\n";

/// A file, and a unit that does not exist until a package provides it.
const BLOCKED: &str = "[[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/etc/one', content = '1' }\n\
                       [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', active = true }\n";

const NO_EVENTS: [&str; 0] = [];

#[test]
fn a_plan_changes_nothing_and_sees_what_earlier_steps_will_have_written() {
    let machine = Machine::new();
    machine.unit_file("x.service");
    machine.systemd.start("x.service");
    let role = "[[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/etc/one', content = '1' }\n\
                [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', restart_on = ['one'] }\n";
    let steps = machine.steps(role);
    let before = machine.root.stamps();
    let plan = machine.plan(&steps).ends_well();
    assert_eq!(plan.states(), ["one changes", "unit changes"]);
    assert_eq!(plan.lines()[1], "restart x.service (its files will have changed)");
    assert_eq!(machine.root.stamps(), before);
    assert_eq!((machine.events(), machine.systemd.jobs()), (vec![], vec![]));
    // Existing files will not have changed.
    machine.apply(&steps).ends_well();
    assert_eq!(machine.plan(&steps).ends_well().states(), ["one in_sync", "unit in_sync"]);
}

#[test]
fn a_plan_names_the_step_that_it_cannot_check() {
    let machine = Machine::new();
    let steps = machine.steps(FILES);
    // A link to itself.
    machine.root.link("/etc/two", "two");
    machine.root.link("/loop", "loop");
    let steps_of_loop = machine.steps(&FILES.replace("/etc/two", "/loop/two"));
    machine.plan(&steps).ends_well();
    let plan = machine.plan(&steps_of_loop);
    assert!(plan.fails().what.starts_with("test: step 2/3 two: /loop/two: "), "{}", plan.fails());
    assert_eq!(plan.states(), ["one changes"]);
}

#[test]
fn each_change_is_in_the_journal_before_and_after() {
    let machine = Machine::new();
    machine.root.write("/etc/two", "2");
    let run = machine.apply(&machine.steps(FILES)).ends_well();
    assert_eq!(run.states(), ["one changed", "two in_sync", "three changed"]);
    assert_eq!(run.events, ["started one", "finished one", "started three", "finished three"]);
    let events = journal::events(&machine.host, journal::JOURNAL).unwrap();
    assert_eq!(events[0].lines, ["create /etc/one (0644, 1 line)"]);
    assert_eq!((events[0].role.as_str(), events[0].boot_id.as_str()), ("test", "boot"));
    assert_eq!(run.report.steps[2].changes[0].line, "create /etc/three (0644, 1 line)");
    assert_eq!((machine.root.read("/etc/one"), machine.root.read("/etc/three")), ("1".into(), "3".into()));
    // There is nothing to do, and nothing is written.
    let before = machine.root.stamps();
    let again = machine.apply(&machine.steps(FILES)).ends_well();
    assert_eq!(again.states(), ["one in_sync", "two in_sync", "three in_sync"]);
    assert_eq!(again.events, NO_EVENTS);
    machine.root.write("/role.toml", "");
    let after = machine.root.stamps();
    let same = |path: &&String| !path.starts_with("/role.toml") && **path != "/";
    assert!(before.keys().filter(same).all(|path| before.get(path) == after.get(path)));
}

#[test]
fn a_failure_ends_the_run_at_its_step_and_counts_as_a_failed_step() {
    let machine = Machine::new();
    machine.unit_file("x.service");
    machine.systemd.fail("x.service", Kind::Failed);
    let unit = "[[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', active = true }\n";
    let (before, after) = FILES.split_at(FILES.find("[[step]]\nid = 'two'").unwrap());
    let steps = machine.steps(&format!("{before}{unit}{after}"));
    let run = machine.apply(&steps);
    let error = run.fails();
    assert_eq!(error.kind, Kind::Failed);
    assert!(error.what.starts_with("test: step 2/4 unit: "), "{error}");
    assert!(error.fix.is_some(), "{error}");
    assert_eq!(run.states(), ["one changed", "unit failed"]);
    assert_eq!(run.events, ["started one", "finished one", "started unit", "failed unit"]);
    assert!(!machine.root.at("/etc/two").exists());
    // The next run continues from there.
    machine.systemd.start("x.service");
    let next = machine.apply(&steps).ends_well();
    assert_eq!(next.states(), ["one in_sync", "unit in_sync", "two changed", "three changed"]);
}

#[test]
fn an_obstacle_of_a_later_step_refuses_the_run_before_the_first_change() {
    let machine = Machine::new();
    let mask = "[[step]]\nid = 'mask'\nphase = 'boot'\nunit = { name = 'x.service', masked = true }\n";
    for (path, role, step) in [
        ("/etc/three", FILES.to_owned(), "step 3/3 three"),
        ("/etc/systemd/system/x.service", format!("{FILES}{mask}"), "step 4/4 mask"),
    ] {
        std::fs::create_dir(machine.root.at(path)).unwrap();
        let steps = machine.steps(&role);
        let before = machine.root.stamps();
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            assert_eq!(run.fails().kind, Kind::Unavailable);
            assert!(run.fails().what.starts_with(&format!("test: {step}: {path} is a directory")), "{}", run.fails());
            assert_eq!(run.events, NO_EVENTS);
        }
        assert_eq!(machine.root.stamps(), before);
        std::fs::remove_dir(machine.root.at(path)).unwrap();
    }
}

#[test]
fn two_steps_that_want_different_things_of_one_are_refused_when_the_role_is_loaded() {
    let machine = Machine::new();
    let step = |id: &str, kind: &str| format!("[[step]]\nid = '{id}'\nphase = 'boot'\n{kind}\n");
    for (one, other, thing) in [
        ("file = { path = '/etc/x', content = 'x' }", "file = { path = '/etc/x', content = 'y' }", "/etc/x"),
        (
            "file = { path = '/etc/x', content = '' }",
            "file = { path = '/etc/x', content = '', mode = '0600' }",
            "/etc/x",
        ),
        ("file = { path = '/etc/x', content = '' }", "directory = { path = '/etc/x' }", "/etc/x"),
        (
            "unit = { name = 'x.service', masked = true }",
            "unit = { name = 'x.service', active = true }",
            "unit x.service",
        ),
        (
            "unit = { name = 'x.service', enabled = true }",
            "unit = { name = 'x.service', enabled = false }",
            "the enablement",
        ),
        ("package = { names = ['jq=1'] }", "package = { names = ['jq=2'] }", "package jq"),
        (
            "properties = { path = '/p', set = { a = 'b' } }",
            "properties = { path = '/p', set = { a = 'c' } }",
            "the key a of /p",
        ),
        (
            "sysctl = { file = '1.conf', set = { 'a.b' = '1' } }",
            "sysctl = { file = '2.conf', set = { 'a.b' = '2' } }",
            "a/b",
        ),
    ] {
        let error = machine.try_steps(&[step("one", one), step("other", other)].concat()).unwrap_err();
        let words = error.to_string();
        assert_eq!(error.kind, Kind::Config, "{words}");
        assert!(words.contains("the steps one and other want different things of") && words.contains(thing), "{words}");
    }
    for (one, other) in [
        ("file = { path = '/etc/x', content = 'x' }", "file = { path = '/etc/x', content = 'x' }"),
        ("package = { names = ['jq'] }", "package = { names = ['jq=2'] }"),
        ("package = { names = ['jq=2'] }", "package = { names = ['jq'] }"),
        ("properties = { path = '/p', set = { a = 'b' } }", "properties = { path = '/p', set = { c = 'd' } }"),
    ] {
        machine.try_steps(&[step("one", one), step("other", other)].concat()).unwrap();
    }
}

#[test]
fn a_change_that_a_later_step_undoes_once_is_repeated_and_one_undone_each_time_is_named() {
    let mut machine = Machine::new();
    machine.install("jq", "1", "not-installed");
    machine.offer("jq", "1");
    // A package's script that restores the file.
    machine.prepend("apt-get", "case $* in *install*) echo other > $ROOT/etc/two;; esac");
    let package = "[[step]]\nid = 'jq'\nphase = 'boot'\npackage = { names = ['jq'] }\n";
    let steps = machine.steps(&format!("{FILES}{package}"));
    let run = machine.apply(&steps).ends_well();
    assert_eq!(run.states(), ["one changed", "two changed", "three changed", "jq changed"]);
    assert_eq!(run.lines()[1], "change /etc/two");
    assert_eq!(machine.root.read("/etc/two"), "2");
    machine.apply(&steps).ends_well();

    // Two steps that undo each other: a file, and a command that edits it.
    machine.root.write("/etc/group", "docker:x:9:\n");
    machine.root.write("/etc/passwd", "ubuntu:x:1000:1000::/:/bin/sh\n");
    machine.command("gpasswd", "echo docker:x:9:ubuntu > $ROOT/etc/group");
    // Only what changed after it may have undone it.
    machine.root.write("/etc/group", "docker:x:9:root\n");
    let role = "[[step]]\nid = 'before'\nphase = 'boot'\nfile = { path = '/etc/before', content = '' }\n\
                [[step]]\nid = 'group'\nphase = 'boot'\nfile = { path = '/etc/group', content = \"docker:x:9:\\n\" }\n\
                [[step]]\nid = 'member'\nphase = 'boot'\ngroup_member = { user = 'ubuntu', group = 'docker' }\n";
    let run = machine.apply(&machine.steps(role));
    let words = run.fails().to_string();
    assert_eq!(run.fails().kind, Kind::Failed);
    assert!(words.contains("step 2/3 group: was in sync, but no longer is at the end of the run"), "{words}");
    assert!(words.contains("changed after it: member\n"), "{words}");
    assert_eq!(run.states(), ["before changed", "group failed", "member changed"]);
    assert_eq!(run.events.last().unwrap(), "failed group");

    // The wait starts again.
    machine.host.deadlines.wait = Duration::from_millis(10);
    let (address, says) = zookeeper();
    says.send("Mode: standalone\n").unwrap();
    let wait = format!("[[step]]\nid = 'serves'\nphase = 'boot'\nwait = {{ zookeeper = '{address}' }}\n");
    let steps = machine.steps(&format!("{wait}{FILES}"));
    machine.apply(&steps).ends_well();
    machine.root.write("/etc/one", "other");
    says.send("Mode: leader\n").unwrap();
    let run = machine.apply(&steps);
    assert!(run.fails().what.contains("step 1/4 serves: waited 10ms for"), "{}", run.fails());
}

#[test]
fn a_wait_is_not_a_change() {
    let machine = Machine::new();
    let wait = "[[step]]\nid = 'serves'\nphase = 'boot'\nwait = { zookeeper = '127.0.0.1:1' }\n";
    let plan = machine.plan(&machine.steps(wait)).ends_well();
    assert_eq!((plan.states(), plan.lines()), (vec!["serves waits".to_owned()], vec![]));
    let note = plan.report.steps[0].note.as_deref().unwrap();
    assert!(note.starts_with("wait for ZooKeeper at 127.0.0.1:1 to serve alone (now: "), "{note}");
}

#[test]
fn an_error_of_any_kind_except_an_interruption_is_a_failed_step() {
    for (kind, is, event) in [
        (Kind::Failed, Kind::Failed, "failed unit"),
        (Kind::Unavailable, Kind::Failed, "failed unit"),
        (Kind::Config, Kind::Failed, "failed unit"),
        (Kind::TemporaryFailure, Kind::Failed, "failed unit"),
        (Kind::Interrupted, Kind::Interrupted, "interrupted unit"),
    ] {
        let machine = Machine::new();
        machine.unit_file("x.service");
        machine.systemd.start("x.service");
        machine.systemd.fail("x.service", kind);
        let role = "[[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', masked = true }\n";
        let run = machine.apply(&machine.steps(role));
        // The job's own error is worded by the step; its kind is what ends the run.
        assert_eq!(run.fails().kind, is, "{kind:?}");
        assert_eq!(run.events, ["started unit", event], "{kind:?}");
        assert_eq!(run.states(), ["unit failed"], "{kind:?}");
    }
}

/// A ZooKeeper server that gives this answer to every question.
fn zookeeper() -> (String, std::sync::mpsc::Sender<&'static str>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let (sender, words) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut answer = "";
        while let Ok((mut stream, _)) = server.accept() {
            let _ = stream.read(&mut [0; 4]);
            answer = words.try_iter().last().unwrap_or(answer);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, sender)
}

#[test]
fn what_only_another_node_can_bring_ends_with_75_and_the_next_run_goes_on() {
    const WAITS: &str = "This ZooKeeper instance is not currently serving requests\n";
    let mut machine = Machine::new();
    machine.host.deadlines.wait = Duration::from_millis(10);
    let (address, says) = zookeeper();
    let step = |servers: &str, ensemble: bool| {
        format!(
            "{FILES}[[step]]\nid = 'serves'\nphase = 'boot'\nwait = {{ zookeeper = '{servers}', ensemble = {ensemble} }}\n"
        )
    };
    let steps = machine.steps(&step(&address, true));
    says.send(WAITS).unwrap();
    let run = machine.apply(&steps);
    assert_eq!((run.fails().kind, run.fails().kind.exit_code()), (Kind::NotYet, 75));
    let words = run.fails().to_string();
    assert!(words.contains("step 4/4 serves: waited 10ms for ZooKeeper at"), "{words}");
    assert!(words.contains("waits for a quorum") && words.contains("it continues here"), "{words}");
    // Completed steps stay, and are in the journal.
    assert_eq!(run.states(), ["one changed", "two changed", "three changed", "serves failed"]);
    assert_eq!(run.events.last().unwrap(), "failed serves");
    // One of several waits.
    let run = machine.apply(&machine.steps(&step(&format!("127.0.0.1:1,{address}"), true)));
    assert_eq!(run.fails().kind, Kind::NotYet, "{}", run.fails());

    // Other nodes provide none of these.
    for (says_so, servers, ensemble) in [
        ("Mode: standalone\n", address.as_str(), true),
        ("Mode: follower\n", &address, false),
        (WAITS, &address, false),
        ("HTTP/1.1 400 Bad Request\r\n", &address, true),
        (WAITS, "127.0.0.1:1", true),
    ] {
        says.send(says_so).unwrap();
        let run = machine.apply(&machine.steps(&step(servers, ensemble)));
        assert_eq!(run.fails().kind, Kind::Failed, "{says_so} {servers} {ensemble}: {}", run.fails());
    }

    says.send("Mode: follower\n").unwrap();
    assert_eq!(machine.apply(&steps).ends_well().states().last().unwrap(), "serves in_sync");
}

#[test]
fn a_step_that_is_blocked_fails_a_run_and_not_a_plan() {
    let machine = Machine::new();
    let steps = machine.steps(BLOCKED);
    assert_eq!(machine.plan(&steps).ends_well().states(), ["one changes", "unit blocked"]);
    let run = machine.apply(&steps);
    assert!(run.fails().what.contains("step 2/2 unit: x.service does not exist yet"), "{}", run.fails());
    assert!(run.fails().fix.as_deref().unwrap().contains("--phase"), "{}", run.fails());
    assert_eq!(run.events, ["started one", "finished one", "failed unit"]);
}

#[test]
fn a_step_that_does_not_hold_afterwards_did_not_converge() {
    let machine = Machine::new();
    machine.root.write("/boot/grub/grub.cfg", "linux /vmlinuz root=x\n");
    machine.command("update-grub", "");
    let run = machine
        .apply(&machine.steps("[[step]]\nid = 'kernel'\nphase = 'boot'\nkernel_argument = { arguments = ['a=1'] }\n"));
    let words = run.fails().to_string();
    assert!(words.contains("step 1/1 kernel: did not converge"), "{words}");
    assert!(words.contains("still to do: update-grub: /boot/grub/grub.cfg lacks a=1"), "{words}");
    assert!(!words.contains("something else changed"), "nothing was changed back: {words}");
    assert_eq!(run.events, ["started kernel", "failed kernel"]);
    assert_eq!(run.states(), ["kernel failed"]);
}

#[test]
fn what_something_else_changed_back_is_named() {
    let machine = Machine::new();
    machine.root.write("/boot/grub/grub.cfg", "linux /vmlinuz root=x\n");
    let drop_in = "/etc/default/grub.d/90-titus-bootstrap.cfg";
    machine.prepend("update-grub", &format!("echo >$ROOT{drop_in}"));
    let role = "[[step]]\nid = 'kernel'\nphase = 'boot'\nkernel_argument = { arguments = ['a=1'] }\n";
    let run = machine.apply(&machine.steps(role));
    let fix = run.fails().fix.clone().unwrap();
    assert!(fix.starts_with(&format!("something else changed {drop_in} after this run wrote it")), "{fix}");
}

#[test]
fn a_step_that_is_blocked_afterwards_did_not_converge() {
    let machine = Machine::new();
    machine.unit_file("x.service");
    machine.command("gpasswd", "rm $ROOT/etc/group");
    machine.root.write("/etc/group", "docker:x:9:\n");
    machine.root.write("/etc/passwd", "ubuntu:x:1000:1000::/:/bin/sh\n");
    let role = "[[step]]\nid = 'member'\nphase = 'boot'\ngroup_member = { user = 'ubuntu', group = 'docker' }\n";
    let run = machine.apply(&machine.steps(role));
    let words = run.fails().to_string();
    assert!(
        words.contains("step 1/1 member: did not converge") && words.contains("the group docker does not exist"),
        "{words}"
    );
    // For a step without advice of its own, the message says how to continue.
    assert!(run.fails().fix.as_deref().unwrap().ends_with("run titus-bootstrap again: it continues from here"));
    assert_eq!(run.events, ["started member", "failed member"]);
}

#[test]
fn what_a_reboot_will_bring_is_neither_drift_nor_failure() {
    let machine = Machine::new();
    machine.root.write("/boot/grub/grub.cfg", "linux /vmlinuz root=x\n");
    let role = "[[step]]\nid = 'kernel'\nphase = 'boot'\nkernel_argument = { arguments = ['a=1'], running = 'root=x' }\n\
                [[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/etc/one', content = '1' }\n";
    let why = "the running kernel was started without a=1";
    let steps = machine.steps(role);
    let first = machine.apply(&steps).ends_well();
    assert_eq!(first.states(), ["kernel changed", "one changed"]);
    assert_eq!(first.report.steps[0].note.as_deref(), Some(why));
    assert_eq!(first.report.reboot_reasons, [why]);
    let second = machine.apply(&steps).ends_well();
    assert_eq!(second.states(), ["kernel after_reboot", "one in_sync"]);
    assert_eq!((second.report.reboot_reasons, second.events), (vec![why.to_owned()], vec![]));
    let plan = machine.plan(&steps).ends_well();
    assert_eq!(plan.report.reboot_reasons, [why]);
}

#[test]
fn what_is_deferred_is_neither_done_nor_a_failure() {
    let machine = Machine::new();
    machine.unit_file("x.service");
    let steps: Vec<_> = machine
        .steps("[[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', enabled = true, active = true }\n")
        .into_iter()
        .map(|step| step.defer("in a warm pool"))
        .collect();
    let first = machine.apply(&steps).ends_well();
    assert_eq!((first.states(), first.lines()), (vec!["unit changed".into()], vec!["enable x.service".into()]));
    assert_eq!(first.report.steps[0].note.as_deref(), Some("in a warm pool"));
    let second = machine.apply(&steps).ends_well();
    assert_eq!(second.states(), ["unit deferred"]);
    assert_eq!(machine.systemd.jobs(), [""; 0]);
}

#[test]
fn refusals_come_before_the_first_change_and_name_role_and_step() {
    let machine = Machine::new();
    let role = format!("{FILES}[[step]]\nid = 'titus'\nphase = 'boot'\ndeb = {{ source = {{ path = '/x.deb' }} }}\n");
    let steps = machine.steps(&role);
    for run in [machine.apply(&steps), machine.plan(&steps)] {
        assert_eq!(run.fails().kind, Kind::Config);
        assert!(run.fails().what.starts_with("test: titus: /x.deb does not exist"), "{}", run.fails());
        assert_eq!((run.states().len(), run.events.len()), (0, 0));
    }
    assert!(!machine.root.at("/etc/one").exists());
}

#[test]
fn a_run_begins_by_sweeping_what_a_killed_one_left() {
    let machine = Machine::new();
    let half = [
        "/etc/.titus-bootstrap-a",
        "/run/titus-bootstrap/.titus-bootstrap-b",
        "/var/log/titus-bootstrap/.titus-bootstrap-c",
    ];
    let stale = format!("/var/cache/titus-bootstrap/{}.deb", "a".repeat(64));
    for path in half.into_iter().chain([stale.as_str()]) {
        machine.root.write(path, "half");
    }
    machine.root.write("/etc/.other", "kept");
    machine.apply(&machine.steps(FILES)).ends_well();
    assert_eq!(machine.root.half_written(), [""; 0]);
    assert!(machine.root.at("/etc/.other").exists() && !machine.root.at(&stale).exists());
}

/// Every kind of step that writes to a certain directory, and the directory.
#[test]
fn a_run_sweeps_beside_whatever_its_steps_write() {
    let properties = "properties = { path = '/srv/p/x.properties', set = { a = '1' } }";
    let source = "{ name = 'x', uris = ['http://x'], suites = ['./'], key = '/etc/x.asc' }";
    let sources = format!("apt_source = {{ sources = [{source}], distribution = 'debian', codename = 'x' }}");
    for (step, directories) in [
        ("file = { path = '/srv/f/x', content = 'x' }", &["/srv/f"][..]),
        ("directory = { path = '/srv/d/x' }", &["/srv/d"]),
        (properties, &["/srv/p"]),
        ("sysctl = { file = '50-x.conf', set = { 'net.ipv4.ip_forward' = '1' } }", &["/etc/sysctl.d"]),
        ("kernel_argument = { arguments = ['a=1'] }", &["/etc/default/grub.d"]),
        ("unit = { name = 'x.service', masked = true }", &["/etc/systemd/system", "/run/titus-bootstrap/units"]),
        ("group_member = { user = 'x', group = 'docker' }", &["/etc"]),
        ("deb = { source = { path = '/x.deb' } }", &["/var/lib/titus-bootstrap/debs", "/var/cache/titus-bootstrap"]),
        (&sources, &["/etc/apt/sources.list.d", "/etc/apt/keyrings"]),
    ] {
        let machine = Machine::new();
        let steps = machine.steps(&format!("[[step]]\nid = 'x'\nphase = 'boot'\n{step}\n"));
        for directory in directories {
            machine.root.write(&format!("{directory}/.titus-bootstrap-half"), "half");
            machine.root.write(&format!("{directory}/.other"), "kept");
        }
        machine.root.write("/srv/.titus-bootstrap-other", "of nobody's");
        engine::begin(&machine.next_host(), &steps).unwrap();
        assert_eq!(machine.root.half_written(), ["/srv/.titus-bootstrap-other"], "{step}");
        // Files in the cache that no step uses are removed, whatever their names.
        let kept = |directory: &&&str| **directory != "/var/cache/titus-bootstrap";
        assert!(directories.iter().filter(kept).all(|at| machine.root.at(&format!("{at}/.other")).exists()), "{step}");
    }
}

#[test]
fn a_download_begins_before_the_first_step() {
    let machine = Machine::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let (sender, requests) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut request = [0; 64];
        let n = stream.read(&mut request).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        sender.send(String::from_utf8_lossy(&request[..n]).into_owned()).unwrap();
    });
    let role = format!(
        "[[step]]\nid = 'titus'\nphase = 'boot'\ndeb = {{ source = {{ url = 'http://{address}/x.deb', sha256 = '{}' }} }}\n",
        "a".repeat(64)
    );
    let steps = machine.steps(&role);
    engine::begin(&machine.host, &steps).unwrap();
    let request = requests.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(request.starts_with("GET /x.deb "), "{request}");
    // In a tree, nothing is fetched, and the cache stays.
    let tree = Root::empty();
    let cached = format!("/var/cache/titus-bootstrap/{}.deb", "b".repeat(64));
    tree.write(&cached, "");
    engine::begin(&Host::tree(tree.path(), Default::default()).unwrap(), &steps).unwrap();
    assert!(tree.at(&cached).exists());
}

#[test]
fn systemd_and_dpkg_are_each_asked_once_for_everything() {
    let machine = Machine::new();
    for name in ["a.service", "b.service"] {
        machine.unit_file(name);
        machine.systemd.start(name);
    }
    for name in ["jq", "curl"] {
        machine.install(name, "1", "installed");
    }
    let steps = machine.steps(
        "[[step]]\nid = 'jq'\nphase = 'boot'\npackage = { names = ['jq'] }\n\
         [[step]]\nid = 'curl'\nphase = 'boot'\npackage = { names = ['curl'] }\n\
         [[step]]\nid = 'a'\nphase = 'boot'\nunit = { name = 'a.service', active = true }\n\
         [[step]]\nid = 'b'\nphase = 'boot'\nunit = { name = 'b.service', active = true }\n",
    );
    assert_eq!(machine.apply(&steps).ends_well().states().len(), 4);
    // The fetch begins at once, and its result is used where it is needed.
    assert_eq!(machine.systemd.begun(), ["a.service b.service"]);
    assert_eq!(machine.systemd.questions(), ["a.service b.service"]);
    let calls = machine.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert!(calls[0].starts_with("dpkg-query ") && calls[0].ends_with(" curl jq"), "{calls:?}");
}

/// A signal concerns the whole process, so this test runs itself again as that process.
#[test]
fn no_step_begins_after_a_signal() {
    const CHILD: &str = "TITUS_BOOTSTRAP_TEST_SIGNALLED";
    if std::env::var_os(CHILD).is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "live::engine::no_step_begins_after_a_signal"]).env(CHILD, "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let machine = Machine::new();
    let steps = machine.steps(FILES);
    titus_bootstrap::host::signals::listen().unwrap();
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGTERM).unwrap();
    let run = machine.apply(&steps);
    assert_eq!(run.fails().kind, Kind::Interrupted);
    assert!(run.fails().what.starts_with("test: step 1/3 one: "), "{}", run.fails());
    assert_eq!(run.events, ["interrupted one"]);
    assert!(!machine.root.at("/etc/one").exists());
}
