//! A replacement of a container that fails or was killed: the previous container runs again.

use std::thread;
use std::time::Duration;

use titus_bootstrap::error::Kind;
use titus_bootstrap::titus::checks::Finding;

use super::container::{NAME, OLD, ONE, TWO, created, machine, planned_and_made, replaced, steps, verified};
use crate::support::docker::{Docker, End};
use crate::support::simulated::listen_in_proc;

/// A failing replacement, and its result.
struct Failure {
    /// What goes wrong.
    set: fn(&Docker),
    /// Words of the error.
    words: &'static [&'static str],
    /// The requests to the engine, except the first renaming.
    changes: &'static [&'static str],
}

#[test]
fn a_replacement_that_fails_leaves_the_old_container_running() {
    const BACK: &str = "the previous container runs again";
    let failures = [
        Failure {
            set: |docker| docker.refuse("rename", 1, 500, "no such device"),
            words: &["cannot rename the container", "no such device"],
            changes: &[],
        },
        Failure {
            set: |docker| docker.refuse("create", 1, 400, "invalid mount config"),
            words: &["cannot create the container x", "invalid mount config"],
            changes: &["rename x-titus-bootstrap-old x"],
        },
        Failure {
            set: |docker| docker.refuse("stop", 1, 500, "tried to kill container, but did not receive an exit event"),
            words: &["cannot stop the container", "did not receive an exit event", BACK],
            changes: &["create x", "remove x with its volumes", "rename x-titus-bootstrap-old x"],
        },
        Failure {
            set: |docker| docker.hold(2181),
            words: &["the container x: ", "cannot start the container", "port is already allocated", BACK],
            changes: &[
                "create x",
                "stop x-titus-bootstrap-old",
                "start x",
                "remove x with its volumes",
                "rename x-titus-bootstrap-old x",
                "start x",
            ],
        },
        Failure {
            set: |docker| docker.end("x:2", End::Exits(7, "no such file: /x.conf\n")),
            words: &[
                "the container x does not run as it should",
                "its process exits (exited, exit code 7)",
                "no such file: /x.conf",
                "docker logs x shows more",
                BACK,
            ],
            changes: &[
                "create x",
                "stop x-titus-bootstrap-old",
                "start x",
                "remove x with its volumes",
                "rename x-titus-bootstrap-old x",
                "start x",
            ],
        },
        Failure {
            set: |docker| docker.end("x:2", End::Restarts(1)),
            words: &["does not run as it should", "its process exits (restarting, exit code 1)", BACK],
            changes: &[
                "create x",
                "stop x-titus-bootstrap-old",
                "start x",
                "remove x with its volumes",
                "rename x-titus-bootstrap-old x",
                "start x",
            ],
        },
    ];
    thread::scope(|scope| {
        for failure in &failures {
            scope.spawn(|| {
                let (machine, docker) = machine();
                machine.apply(&steps(&machine, &docker, ONE)).ends_well();
                docker.changes();
                let first = docker.container(NAME).id;
                (failure.set)(&docker);
                let next = steps(&machine, &docker, &format!("{TWO}\nports = ['2181:2181']"));
                let run = machine.apply(&next);
                let error = run.fails();
                assert_eq!(error.kind, Kind::Failed);
                assert_eq!(run.events, ["started x", "failed x"]);
                for words in failure.words {
                    assert!(error.to_string().contains(words), "{words}: {error}");
                }
                let renamed = format!("rename x {OLD}");
                let changes = docker.changes();
                let rest: Vec<&str> = changes.iter().map(String::as_str).filter(|change| *change != renamed).collect();
                assert_eq!(rest, failure.changes, "{error}");
                assert_eq!(docker.containers(), ["x running"], "{error}");
                assert_eq!(docker.container(NAME).id, first, "{error}");
                // As before: plan and verify agree.
                assert_eq!(verified(&machine), Finding::Good("the container x is running, from x:1".into()));
                assert_eq!(machine.plan(&next).ends_well().lines(), ["replace the container x (image, ports changed)"]);
            });
        }
    });
}

#[test]
fn a_port_that_is_taken_is_named_with_its_holder_before_the_old_container_is_touched() {
    let (machine, docker) = created();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listen_in_proc(&machine, &listener, "other-server");
    let steps = steps(&machine, &docker, &format!("{ONE}\nports = ['{port}:80']"));
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let words = run.fails().to_string();
        assert_eq!(run.fails().kind, Kind::Unavailable, "{words}");
        assert!(words.contains(&format!("port {port} is in use, but x needs it")), "{words}");
        assert!(words.contains("other-server (pid"), "{words}");
    }
    assert_eq!((docker.changes(), docker.containers()), (vec![], vec!["x running".to_owned()]));
    // A port that another process takes after the run's check.
    std::fs::remove_file(machine.root.at("/proc/net/tcp")).unwrap();
    docker.hold(port);
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("port is already allocated") && words.contains("runs again"), "{words}");
    assert_eq!(docker.containers(), ["x running"]);
}

#[test]
fn an_old_container_that_does_not_come_back_is_reported_with_the_first_error() {
    let (machine, docker) = created();
    docker.refuse("start", 2, 500, "cannot allocate memory");
    let words = machine.apply(&steps(&machine, &docker, TWO)).fails().to_string();
    assert!(words.contains("the previous container does not run again"), "{words}");
    assert_eq!(words.matches("cannot allocate memory").count(), 2, "{words}");
    assert_eq!(docker.containers(), ["x exited"]);
    assert_eq!(docker.container(NAME).made_of["Image"], "x:1");
    // The next run continues from there.
    assert_eq!(planned_and_made(&machine, &steps(&machine, &docker, TWO)), ["replace the container x (image changed)"]);
    assert_eq!(docker.containers(), ["x running"]);
}

#[test]
fn a_name_that_does_not_come_back_is_reported() {
    let (machine, docker) = created();
    docker.refuse("create", 1, 500, "no space left on device");
    // The first renaming succeeds, and the one back does not.
    docker.refuse_after("rename", 1, 1, 500, "device or resource busy");
    let steps = steps(&machine, &docker, TWO);
    let words = machine.apply(&steps).fails().to_string();
    for expected in ["no space left on device", &format!("it also keeps the name {OLD}"), "device or resource busy"] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    assert_eq!(docker.containers(), [format!("{OLD} running")]);
    assert_eq!(planned_and_made(&machine, &steps), ["put back, and replace if needed, the container x"]);
    assert_eq!(docker.containers(), ["x running"]);
    assert_eq!(docker.container(NAME).made_of["Image"], "x:2");
}

#[test]
fn a_first_start_that_fails_is_tried_again_by_the_next_run() {
    let (machine, docker) = machine();
    let steps = steps(&machine, &docker, &format!("{ONE}\nports = ['2181:2181']"));
    docker.refuse("start", 1, 500, "port is already allocated");
    let run = machine.apply(&steps);
    assert!(run.fails().to_string().contains("port is already allocated"), "{}", run.fails());
    assert_eq!(docker.containers(), ["x created"]);
    assert_eq!(planned_and_made(&machine, &steps), ["start the container x (it is created)"]);
    // The engine refuses one by its name, because another run has just created it.
    docker.take(NAME);
    docker.changes();
    docker.refuse("create", 1, 409, "Conflict. The container name \"/x\" is already in use");
    let run = machine.apply(&steps);
    assert!(run.fails().to_string().contains("is already in use"), "{}", run.fails());
    assert_eq!(docker.changes(), [""; 0]);
}

#[test]
fn one_that_runs_and_does_not_answer_is_waited_for() {
    let (mut machine, docker) = created();
    machine.host.deadlines.wait = Duration::from_millis(50);
    // Nobody listens on port 1.
    let silent = "image = 'x:2'\nready = { tcp = '127.0.0.1:1' }";
    let words = machine.apply(&steps(&machine, &docker, silent)).fails().to_string();
    assert!(words.contains("waited 50ms for") && words.contains("the last answer: "), "{words}");
    assert_eq!(docker.container(NAME).made_of["Image"], "x:1", "{words}");
    assert!(words.contains("the previous container"), "{words}");
}

#[test]
fn one_that_needs_two_restarts_gets_them_and_no_more() {
    // The first look at it, before the wait, is one of them.
    for (needs, is_started) in [(2, true), (3, true), (4, false)] {
        let (machine, docker) = machine();
        docker.end("x:1", End::Recovers(needs));
        let run = machine.apply(&steps(&machine, &docker, ONE));
        assert_eq!(run.result.is_ok(), is_started, "{needs}: {:?}", run.result);
    }
    // Those of its life before do not count.
    let (machine, docker) = created();
    docker.change(NAME, |container| (container.status, container.restarts) = ("exited", 5));
    machine.apply(&steps(&machine, &docker, ONE)).ends_well();
}

#[test]
fn one_without_a_question_must_run_for_two_seconds() {
    let (mut machine, docker) = machine();
    let steps = steps(&machine, &docker, "image = 'x:1'");
    machine.host.deadlines.wait = Duration::ZERO;
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("the last answer: it has just started"), "{words}");
    machine.host.deadlines.wait = Duration::from_secs(60);
    docker.change(NAME, |container| container.status = "exited");
    machine.apply(&steps).ends_well();
}

#[test]
fn the_next_run_completes_a_killed_one() {
    // What is there: the old one's image and state, and the new one's, if that was created.
    for (old, new, line, changes) in [
        (
            ("x:1", "running"),
            None,
            "put back, and replace if needed, the container x",
            [
                &[format!("rename {OLD} x").as_str()][..],
                &[
                    format!("rename x {OLD}").as_str(),
                    "create x",
                    &format!("stop {OLD}"),
                    "start x",
                    &format!("remove {OLD} with its volumes"),
                ],
            ]
            .concat()
            .iter()
            .map(|change| (*change).to_owned())
            .collect::<Vec<_>>(),
        ),
        (
            ("x:2", "exited"),
            None,
            "put back, and replace if needed, the container x",
            vec![format!("rename {OLD} x"), "start x".into()],
        ),
        // Created, and not yet started: the old one is still to be stopped.
        (
            ("x:1", "running"),
            Some(("x:2", "created")),
            "start the container x (it is created)",
            vec![format!("stop {OLD}"), "start x".into(), format!("remove {OLD} with its volumes")],
        ),
        (
            ("x:1", "exited"),
            Some(("x:2", "running")),
            "remove the container x-titus-bootstrap-old, which an earlier run left",
            vec![format!("remove {OLD} with its volumes")],
        ),
        // The settings have changed since: the new one never counted.
        (
            ("x:2", "exited"),
            Some(("x:1", "created")),
            "replace the container x (image changed)",
            vec!["remove x with its volumes".into(), format!("rename {OLD} x"), "start x".into()],
        ),
    ] {
        let (machine, docker) = machine();
        let of = |image: &str| steps(&machine, &docker, &format!("image = '{image}'\nREADY"));
        machine.apply(&of(old.0)).ends_well();
        docker.change(NAME, |container| (container.name, container.status) = (OLD.into(), old.1));
        if let Some((image, status)) = new {
            // As a run makes it that finds nothing there.
            let old = docker.take(OLD);
            machine.apply(&of(image)).ends_well();
            docker.change(NAME, |container| container.status = status);
            docker.put(old);
        }
        docker.changes();
        let steps = of("x:2");
        assert_eq!(planned_and_made(&machine, &steps)[0], line);
        assert_eq!(docker.changes(), changes, "{old:?} {new:?}");
        assert_eq!(docker.containers(), ["x running"]);
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
    }
}

/// A ZooKeeper server with this number that follows a leader.
fn follower(number: usize) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut word = [0; 4];
            let _ = stream.read_exact(&mut word);
            let answer = if &word == b"conf" { format!("serverId={number}\n") } else { "Mode: follower\n".into() };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

#[test]
fn a_server_whose_turn_it_is_not_is_neither_stopped_nor_started() {
    let (mut machine, docker) = created();
    machine.host.deadlines.wait = Duration::from_millis(10);
    let ensemble = |second: &str| {
        let servers = format!("['127.0.0.1:1', '{second}', '127.0.0.1:1']");
        format!("{TWO}\nensemble = {{ servers = {servers}, id = 1, data = '/srv/x' }}")
    };
    // It has served alone, and the others do not answer.
    machine.root.write("/srv/x/version-2/log.1", "");
    let waits = steps(&machine, &docker, &ensemble("127.0.0.1:1"));
    let back =
        [format!("rename x {OLD}"), "create x".into(), "remove x with its volumes".into(), format!("rename {OLD} x")];
    let run = machine.apply(&waits);
    assert_eq!(run.fails().kind, Kind::NotYet, "{}", run.fails());
    assert_eq!((docker.changes(), docker.containers()), (back.to_vec(), vec!["x running".to_owned()]));
    // It would lose its data to those that form an ensemble without it.
    let loses = steps(&machine, &docker, &ensemble(&follower(2)));
    let words = machine.apply(&loses).fails().to_string();
    assert!(words.contains("data would be lost"), "{words}");
    assert_eq!((docker.changes(), docker.containers()), (back.to_vec(), vec!["x running".to_owned()]));
    // One that does not run waits for no turn, and still loses no data: the run does not start the new one.
    docker.change(NAME, |container| container.status = "exited");
    let words = machine.apply(&loses).fails().to_string();
    assert!(words.contains("data would be lost"), "{words}");
    let put_back = [&back[..3], &[back[3].clone(), "start x".into()]].concat();
    assert_eq!((docker.changes(), docker.containers()), (put_back, vec!["x running".to_owned()]));
    assert_eq!(docker.container(NAME).made_of["Image"], "x:1");
    docker.change(NAME, |container| container.status = "exited");
    machine.apply(&waits).ends_well();
    assert_eq!(
        docker.changes(),
        replaced().into_iter().filter(|change| !change.starts_with("stop")).collect::<Vec<_>>()
    );
    // If there is no container, the run creates none before its turn.
    docker.take(NAME);
    assert_eq!(machine.apply(&waits).fails().kind, Kind::NotYet);
    assert_eq!(docker.changes(), [""; 0]);
    // Nor is anything begun where the servers have another order.
    let disordered = steps(&machine, &docker, &ensemble(&follower(3)));
    for run in [machine.plan(&disordered), machine.apply(&disordered)] {
        assert_eq!(run.fails().kind, Kind::Config);
        assert!(run.fails().to_string().contains("is number 3, but number 2 in the list"), "{}", run.fails());
    }
}
