//! Containers that another program created: refused, or replaced without losing their data.

use titus_bootstrap::error::Kind;
use titus_bootstrap::titus::checks::Finding;

use super::container::{NAME, OLD, ONE, TWO, created, machine, planned_and_made, steps, verified};
use crate::support::docker::{Docker, End};
use crate::support::simulated::Machine;

#[test]
fn another_program_s_container_beside_the_old_one_is_not_touched() {
    let (machine, docker) = created();
    docker.change(NAME, |container| container.name = OLD.into());
    docker.run(NAME, "other:1", |_| {});
    let adopting = steps(&machine, &docker, &format!("{TWO}\nadopt = true"));
    let words = machine.apply(&adopting).fails().to_string();
    assert!(
        words.contains(&format!("the containers x and {OLD} both exist, but titus-bootstrap did not create x")),
        "{words}"
    );
    assert!(
        words.contains(&format!(
            "rename it (docker rename x x-before) and run titus-bootstrap again, which puts {OLD} back"
        )),
        "{words}"
    );
    assert_eq!(docker.changes(), [""; 0]);
    // The printed fix, to the letter.
    docker.change(NAME, |container| container.name = "x-before".into());
    machine.apply(&adopting).ends_well();
    assert_eq!(docker.containers(), ["x-before running", "x running"]);
}

/// A container of someone else's with data in /data and /log.
fn foreign(docker: &Docker) -> String {
    docker.run(NAME, "other:1", |container| {
        container.files.insert("/data/a/file".into(), "text".into());
        container.files.insert("/log/line".into(), "line".into());
        container.mounts.push(("/srv/own".into(), "/own".into()));
        // Another directory of the host there, and the directory of the host elsewhere.
        container.mounts.push(("/srv/theirs".into(), "/data".into()));
        container.mounts.push(("/srv/log".into(), "/elsewhere".into()));
        container.files.insert("/own/file".into(), "the host has it".into());
    })
}

const ADOPTS: &str = "image = 'x:1'\nadopt = true\n\
                      binds = ['/srv/x:/data', '/srv/log:/log', '/srv/own:/own', '/etc/x.conf:/x.conf:ro', '/srv/none:/none']\nREADY";

/// Directories for its data.
fn directories(machine: &Machine) {
    for path in ["/srv/x", "/srv/log", "/srv/own", "/srv/none"] {
        std::fs::create_dir_all(machine.root.at(path)).unwrap();
    }
}

#[test]
fn another_program_s_container_is_refused_unless_it_may_be_replaced() {
    let (machine, docker) = machine();
    let id = foreign(&docker);
    let steps = steps(&machine, &docker, ONE);
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let error = run.fails();
        assert_eq!(error.kind, Kind::Unavailable);
        let words = error.to_string();
        for expected in [
            "the container x exists, but titus-bootstrap did not create it",
            &format!("{} (running), of image other:1", &id[..12]),
            "--set containers.adopt=true",
            "docker rename x x-before",
        ] {
            assert!(words.contains(expected), "{expected}: {words}");
        }
    }
    assert_eq!(
        verified(&machine),
        Finding::Bad("the container x is running, but titus-bootstrap did not create it".into())
    );
    assert_eq!((docker.changes(), docker.containers()), (vec![], vec!["x running".to_owned()]));
    assert!(!machine.root.at("/etc/x.conf").exists(), "an earlier step has changed something");
    // The other fix, to the letter.
    docker.change(NAME, |container| container.name = "x-before".into());
    machine.apply(&steps).ends_well();
    assert_eq!(docker.containers(), ["x-before running", "x running"]);
}

#[test]
fn a_container_that_may_be_replaced_leaves_its_data_to_the_host() {
    let (machine, docker) = machine();
    directories(&machine);
    machine.root.write("/srv/own/file", "the host has it");
    foreign(&docker);
    let steps = steps(&machine, &docker, ADOPTS);
    let line = "replace the container x, which titus-bootstrap did not create (its data is copied to the host)";
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    // The run stops it first, because the copy would lack later writes; its volumes stay.
    assert_eq!(
        docker.changes(),
        [
            format!("rename x {OLD}"),
            "create x".into(),
            format!("stop {OLD}"),
            format!("archive {OLD}"),
            format!("archive {OLD}"),
            format!("archive {OLD}"),
            "start x".into(),
            format!("remove {OLD}"),
        ]
    );
    assert_eq!(
        (machine.root.read("/srv/x/a/file"), machine.root.read("/srv/log/line")),
        ("text".into(), "line".into())
    );
    assert_eq!(machine.root.read("/srv/own/file"), "the host has it");
    let left: Vec<String> =
        machine.root.look().into_keys().filter(|path| path.contains("titus-bootstrap-adopt")).collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
}

#[test]
fn data_that_cannot_be_taken_over_are_refused_before_anything_is_changed() {
    for (set, words) in [
        (
            (|machine, _| machine.root.write("/srv/x/other", "data")) as fn(&Machine, &Docker),
            "/srv/x already contains data, and the container to be replaced has its own",
        ),
        (
            |_, docker| docker.change(NAME, |container| drop(container.links.insert("/log".into(), "/etc".into()))),
            "/log in the container to be replaced is a symbolic link",
        ),
    ] {
        let (machine, docker) = machine();
        directories(&machine);
        foreign(&docker);
        set(&machine, &docker);
        let steps = steps(&machine, &docker, ADOPTS);
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            assert_eq!(run.fails().kind, Kind::Unavailable);
            assert!(run.fails().to_string().contains(words), "{}", run.fails());
        }
        assert_eq!((docker.changes(), docker.containers()), (vec![], vec!["x running".to_owned()]));
        assert!(!machine.root.at("/etc/x.conf").exists(), "an earlier step has changed something");
    }
    // A file system's own directory is nobody's data.
    let (machine, docker) = machine();
    directories(&machine);
    std::fs::create_dir(machine.root.at("/srv/x/lost+found")).unwrap();
    foreign(&docker);
    machine.apply(&steps(&machine, &docker, ADOPTS)).ends_well();
    assert!(machine.root.at("/srv/x/lost+found").exists());
}

#[test]
fn a_failed_takeover_is_repeated_with_newer_data() {
    let (machine, docker) = machine();
    directories(&machine);
    let id = foreign(&docker);
    docker.end("x:1", End::Exits(1, "not today\n"));
    let steps = steps(&machine, &docker, ADOPTS);
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("not today") && words.contains("the previous container runs again"), "{words}");
    assert_eq!((docker.container(NAME).id, docker.containers()), (id.clone(), vec!["x running".to_owned()]));
    // It ran again, and wrote more: the copy has an owner, and the run makes it again.
    assert_eq!(machine.root.read("/srv/x/.titus-bootstrap-adopted"), id);
    docker.change(NAME, |container| {
        container.files.insert("/data/a/file".into(), "newer".into());
    });
    docker.end("x:1", End::Stays);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.root.read("/srv/x/a/file"), "newer");
    assert!(!machine.root.at("/srv/x/.titus-bootstrap-adopted").exists());
}

#[test]
fn data_of_a_new_container_that_ran_are_not_overwritten() {
    let (machine, docker) = machine();
    directories(&machine);
    foreign(&docker);
    let steps = steps(&machine, &docker, ADOPTS);
    docker.refuse("remove", 1, 500, "device or resource busy");
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("device or resource busy"), "{words}");
    // The new one runs, and the old one is still there: its data are the older ones now.
    assert_eq!(docker.containers(), [format!("{OLD} exited"), "x running".into()]);
    machine.root.write("/srv/x/a/file", "written by the new one");
    docker.changes();
    let line = format!("remove the container {OLD}, which an earlier run left");
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    assert_eq!(docker.changes(), [format!("remove {OLD}")]);
    assert_eq!(machine.root.read("/srv/x/a/file"), "written by the new one");
}
