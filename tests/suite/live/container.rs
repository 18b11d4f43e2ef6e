//! Containers: created, replaced without losing what ran before, adopted, and reported by plan and verify alike.

use std::thread;
use std::time::Duration;

use serde_json::{Value as Json, json};
use titus_bootstrap::error::Kind;
use titus_bootstrap::step::Step;
use titus_bootstrap::step::health::{Kept, Question};
use titus_bootstrap::titus::checks::Finding;

use crate::support::docker::{Container, Docker, End};
use crate::support::simulated::{Machine, Run, listen_in_proc};

const NAME: &str = "x";
const OLD: &str = "x-titus-bootstrap-old";

/// A machine whose Docker Engine has the images x:1 and x:2.
fn machine() -> (Machine, Docker) {
    let (mut machine, docker) = (Machine::new(), Docker::start());
    machine.host.docker = docker.host();
    docker.load("x:1", "one");
    docker.load("x:2", "two");
    (machine, docker)
}

/// A file, and a container with these fields besides its name. One with `ready` is asked at the engine's own port.
fn role(docker: &Docker, contents: &str, fields: &str) -> String {
    let fields = fields.replace("READY", &format!("ready = {{ tcp = '{}' }}", docker.address));
    format!(
        "[[step]]\nid = 'config'\nphase = 'boot'\nfile = {{ path = '/etc/x.conf', content = '{contents}' }}\n\
         [[step]]\nid = 'x'\nphase = 'boot'\n[step.container]\nname = '{NAME}'\n{fields}\n"
    )
}

/// What most of these tests begin with.
const ONE: &str = "image = 'x:1'\nREADY";
const TWO: &str = "image = 'x:2'\nREADY";

fn steps(machine: &Machine, docker: &Docker, fields: &str) -> Vec<Step> {
    machine.steps(&role(docker, "one", fields))
}

/// A machine on which a run has created the container from x:1.
fn created() -> (Machine, Docker) {
    let (machine, docker) = machine();
    machine.apply(&steps(&machine, &docker, ONE)).ends_well();
    docker.changes();
    (machine, docker)
}

fn verified(machine: &Machine) -> Finding {
    Kept::Container(NAME.into()).ask(&machine.next_host()).unwrap()
}

/// The lines that a plan and then an apply have of the container; they must be the same.
#[track_caller]
fn planned_and_made(machine: &Machine, steps: &[Step]) -> Vec<String> {
    let of_container = |run: Run| -> Vec<String> {
        let run = run.ends_well();
        let steps = run.report.steps.iter().filter(|step| step.id == NAME);
        steps.flat_map(|step| step.changes.iter().map(|change| change.line.clone())).collect()
    };
    let planned = of_container(machine.plan(steps));
    assert_eq!(of_container(machine.apply(steps)), planned);
    planned
}

#[test]
fn created_once_and_then_left_alone() {
    let (machine, docker) = machine();
    let steps = steps(&machine, &docker, ONE);
    let plan = machine.plan(&steps).ends_well();
    assert_eq!(plan.lines()[1], "create and start the container x");
    let command = plan.report.steps[1].changes[0].diff.clone().unwrap();
    assert_eq!(command, "docker run -d --name=x --network=bridge --restart=no x:1");
    assert_eq!((docker.changes(), docker.containers()), (vec![], vec![]));
    assert_eq!(verified(&machine), Finding::Bad("there is no container x".into()));

    assert_eq!(planned_and_made(&machine, &steps), ["create and start the container x"]);
    assert_eq!(docker.changes(), ["create x", "start x"]);
    assert_eq!(verified(&machine), Finding::Good("the container x is running, from x:1".into()));
    assert_eq!(machine.apply(&steps).ends_well().states(), ["config in_sync", "x in_sync"]);
    assert_eq!(machine.plan(&steps).ends_well().states(), ["config in_sync", "x in_sync"]);
    assert_eq!(docker.changes(), [""; 0]);
}

/// All that a role can say of a container, what the engine gets of it, and the command that a plan shows.
#[test]
fn the_engine_gets_what_the_role_says() {
    let bridge = "image = 'x:1'\ncommand = ['serve', '', 'a b']\nenvironment = ['A=1', '', \"B=it's\"]\n\
                  ports = ['2181:2181', '127.0.0.1:8080:80', '[::1]:81:82']\nbinds = ['/srv/x:/data', '/etc/x.conf:/x.conf:ro']\n\
                  restart = 'unless-stopped'\nlabels = { own = 'label' }\nuser = '1000:1000'\n\
                  log = { driver = 'json-file', max_size = '10m', max_file = '3' }\nREADY";
    let host = "image = 'x:1'\nnetwork = 'host'\nports = ['5050']\nrestart = 'always'\n\
                log = { driver = 'journald', max_size = '10m', max_file = '3' }\nREADY";
    let at = |address: Json, port: &str| json!([{ "HostIp": address, "HostPort": port }]);
    for (fields, expected, command) in [
        (
            bridge,
            json!({
                "Image": "x:1", "Cmd": ["serve", "a b"], "Env": ["A=1", "B=it's"], "User": "1000:1000", "own": "label",
                "NetworkMode": "bridge", "RestartPolicy": { "Name": "unless-stopped" },
                "Binds": ["/srv/x:/data", "/etc/x.conf:/x.conf:ro"],
                "PortBindings": {
                    "2181/tcp": [{ "HostPort": "2181" }], "80/tcp": at("127.0.0.1".into(), "8080"), "82/tcp": at("::1".into(), "81"),
                },
                "ExposedPorts": { "2181/tcp": {}, "80/tcp": {}, "82/tcp": {} },
                "LogConfig": { "Type": "json-file", "Config": { "max-file": "3", "max-size": "10m" } },
            }),
            "docker run -d --name=x --network=bridge --publish=2181:2181 --publish=127.0.0.1:8080:80 --publish=::1:81:82 \
             --volume=/srv/x:/data --volume=/etc/x.conf:/x.conf:ro --restart=unless-stopped --env=A=1 --env='B=it'\\''s' \
             --label=own=label --log-driver=json-file --log-opt=max-file=3 --log-opt=max-size=10m --user=1000:1000 \
             x:1 serve 'a b'",
        ),
        (
            host,
            json!({
                "Image": "x:1", "Cmd": null, "Env": null, "User": null, "own": null,
                "NetworkMode": "host", "RestartPolicy": { "Name": "always" }, "Binds": null,
                "PortBindings": {}, "ExposedPorts": {},
                // A driver without files has no options of files.
                "LogConfig": { "Type": "journald", "Config": {} },
            }),
            "docker run -d --name=x --network=host --restart=always --log-driver=journald x:1",
        ),
    ] {
        let (machine, docker) = machine();
        let steps = steps(&machine, &docker, fields);
        let plan = machine.plan(&steps).ends_well();
        assert_eq!(plan.report.steps[1].changes[0].diff.as_deref(), Some(command));
        machine.apply(&steps).ends_well();
        let made_of = docker.container(NAME).made_of;
        let (config, labels) = (&made_of["HostConfig"], &made_of["Labels"]);
        let got = json!({
            "Image": made_of["Image"], "Cmd": made_of["Cmd"], "Env": made_of["Env"], "User": made_of["User"],
            "own": labels["own"], "NetworkMode": config["NetworkMode"], "RestartPolicy": config["RestartPolicy"],
            "Binds": config["Binds"], "PortBindings": config["PortBindings"], "ExposedPorts": made_of["ExposedPorts"],
            "LogConfig": config["LogConfig"],
        });
        assert_eq!(got, expected);
        assert_eq!(
            (&labels["titus-bootstrap.image"], &labels["titus-bootstrap.image-digests"]),
            (&json!("one"), &json!("x@sha256:one"))
        );
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
    }
}

#[test]
fn what_cannot_be_a_container_is_refused_when_the_role_is_read() {
    let (machine, docker) = machine();
    for (fields, words) in [
        ("image = 'x:1'\nports = ['5050']", "\"5050\" is no port"),
        ("image = 'x:1'\nnetwork = 'host'\nports = ['5050:5050']", "\"5050:5050\" is no port"),
        ("image = 'x:1'\nnetwork = 'host'\nports = ['127.0.0.1:5050:5050']", "is no port"),
        ("image = 'x:1'\nports = ['0:80']", "is no port"),
        ("image = 'x:1'\nports = ['80:65536']", "is no port"),
        ("image = 'x:1'\nbinds = ['/srv']", "\"/srv\" is no bind"),
        ("image = 'x:1'\nbinds = ['/srv:data']", "is no bind"),
        ("image = 'x:1'\nbinds = ['/srv:/data:rw']", "is no bind"),
        ("image = 'x:1'\nbinds = ['/srv/../x:/data']", "/srv/../x"),
        ("image = 'x:1'\nrestart = 'sometimes'", "restart is no, always, unless-stopped or on-failure"),
    ] {
        let error = machine.try_steps(&role(&docker, "one", fields)).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "{fields}");
        assert!(error.to_string().contains(words), "{fields}: {error}");
    }
}

/// The order in which one container takes the place of another.
fn replaced() -> Vec<String> {
    vec![
        format!("rename x {OLD}"),
        "create x".into(),
        format!("stop {OLD}"),
        "start x".into(),
        format!("remove {OLD} with its volumes"),
    ]
}

#[test]
fn one_that_is_made_of_something_else_is_replaced() {
    let with = |more: &str| format!("{ONE}\n{more}");
    let bound = with("binds = ['/etc/x.conf:/x.conf:ro']");
    let listed = with("restart_on = ['config']");
    for (before, after, keys) in [
        (ONE, TWO, "image"),
        (ONE, &with("environment = ['A=1']"), "environment"),
        (&with("environment = ['A=1']"), &with("environment = ['A=2']"), "environment"),
        (ONE, &with("binds = ['/srv/x:/data']"), "binds"),
        (&with("binds = ['/srv/x:/data']"), &with("binds = ['/srv/x:/data:ro']"), "binds"),
        (ONE, &with("ports = ['2181:2181']"), "ports"),
        (ONE, &with("command = ['serve']"), "command"),
        (ONE, &with("network = 'host'"), "network"),
        (ONE, &with("restart = 'always'"), "restart"),
        (ONE, &with("labels = { own = '1' }"), "labels"),
        (ONE, &with("user = '1000'"), "user"),
        (ONE, &with("log = { driver = 'journald' }"), "log_driver"),
        (&with("log = { driver = 'local' }"), &with("log = { driver = 'local', max_size = '1m' }"), "log_options"),
        (ONE, &with("command = ['serve']\nuser = '1000'"), "command, user"),
        // The same words, and a file with other contents.
        (&bound, &bound, "files"),
        (&listed, &listed, "files"),
    ] {
        let (machine, docker) = machine();
        machine.apply(&machine.steps(&role(&docker, "one", before))).ends_well();
        let first = docker.container(NAME).id;
        docker.changes();
        let contents = if before == after { "two" } else { "one" };
        let steps = machine.steps(&role(&docker, contents, after));
        let plan = machine.plan(&steps).ends_well();
        let change = &plan.report.steps[1].changes[0];
        let diff = change.diff.clone().unwrap();
        assert!(diff.lines().any(|line| line.starts_with('+')), "{keys}: {diff}");
        assert_eq!(docker.changes(), [""; 0]);
        assert_eq!(planned_and_made(&machine, &steps), [format!("replace the container x ({keys} changed)")]);
        assert_eq!(docker.changes(), replaced(), "{keys}");
        assert_eq!(docker.containers(), ["x running"]);
        assert_ne!(docker.container(NAME).id, first);
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync", "{keys}");
    }
}

#[test]
fn what_is_not_a_part_of_it_replaces_nothing() {
    let (machine, docker) = created();
    // Whether and how it is asked, and a file that it does not read, make no other container of it.
    for (contents, fields) in [("one", "image = 'x:1'"), ("two", ONE), ("two", "image = 'x:1'\nREADY\nadopt = true")] {
        assert_eq!(
            machine.apply(&machine.steps(&role(&docker, contents, fields))).ends_well().states()[1],
            "x in_sync"
        );
    }
    // Nor does what the container itself writes.
    let bound = steps(&machine, &docker, "image = 'x:1'\nbinds = ['/srv/x:/data']\nREADY");
    std::fs::create_dir_all(machine.root.at("/srv/x")).unwrap();
    machine.apply(&bound).ends_well();
    machine.root.write("/srv/x/state", "data");
    docker.changes();
    assert_eq!(machine.apply(&bound).ends_well().states()[1], "x in_sync");
    assert_eq!(docker.changes(), [""; 0]);
}

#[test]
fn a_tag_that_names_another_image_replaces_it_and_one_that_names_none_does_not() {
    let (machine, docker) = created();
    let steps = steps(&machine, &docker, ONE);
    docker.remove_image("x:1");
    assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
    docker.load("x:1", "other");
    assert_eq!(planned_and_made(&machine, &steps), ["replace the container x (x:1 is another image now)"]);
    assert_eq!(docker.changes(), replaced());
    assert_eq!(docker.container(NAME).made_of["Labels"]["titus-bootstrap.image"], "other");
}

#[test]
fn one_that_does_not_run_is_started() {
    for (status, line, changes) in [
        ("created", "start the container x (it is created)", &["start x"][..]),
        ("exited", "start the container x (it is exited, exit code 3)", &["start x"]),
        ("paused", "start the container x (it is paused)", &["unpause x"]),
        // The engine would start it again by itself, at some time.
        ("restarting", "start the container x (it is restarting, exit code 3)", &["stop x", "start x"]),
    ] {
        let (machine, docker) = created();
        let stop = |container: &mut Container| (container.status, container.exit_code) = (status, 3);
        docker.change(NAME, stop);
        let finding = verified(&machine);
        assert!(matches!(&finding, Finding::Bad(text) if text.contains(status)), "{finding:?}");
        let steps = steps(&machine, &docker, ONE);
        assert_eq!(planned_and_made(&machine, &steps), [line]);
        assert_eq!(docker.changes(), changes, "{status}");
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
    }
}

#[test]
fn one_that_is_dead_cannot_be_started_and_is_replaced() {
    let (machine, docker) = created();
    let first = docker.container(NAME).id;
    docker.change(NAME, |container| container.status = "dead");
    let steps = steps(&machine, &docker, ONE);
    let line = "replace the container x, which was changed since (state: is dead, should be running)";
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    assert_eq!(docker.containers(), ["x running"]);
    assert_ne!(docker.container(NAME).id, first);
}

#[test]
fn a_port_that_another_process_has_is_refused_before_anything_is_changed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (machine, docker) = machine();
    let port = listen_in_proc(&machine, &listener, "other-server");
    let fields = format!("image = 'x:1'\nports = ['{port}:80']\nREADY");
    let steps = steps(&machine, &docker, &fields);
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let error = run.fails();
        assert_eq!(error.kind, Kind::Unavailable);
        let words = error.to_string();
        assert!(words.contains(&format!("port {port} is taken, and x needs it")), "{words}");
        assert!(words.contains(&format!("other-server (pid {})", std::process::id())), "{words}");
    }
    assert!(!machine.root.at("/etc/x.conf").exists() && docker.changes().is_empty());

    // The container has it itself, also where a killed run left it under its other name; a stopped one has none.
    std::fs::remove_file(machine.root.at("/proc/net/tcp")).unwrap();
    machine.apply(&steps).ends_well();
    listen_in_proc(&machine, &listener, "other-server");
    for (name, status, is_refused) in [
        (NAME, "running", false),
        (NAME, "paused", false),
        (NAME, "restarting", false),
        (NAME, "exited", true),
        (NAME, "created", true),
        (OLD, "running", false),
        (OLD, "exited", true),
    ] {
        let now = docker.containers().remove(0);
        docker.change(now.split(' ').next().unwrap(), |container| {
            (container.name, container.status) = (name.into(), status);
        });
        let plan = machine.plan(&steps);
        assert_eq!(plan.result.is_err(), is_refused, "{name} {status}: {plan:?}");
    }
    // With live-restore a container outlives its engine: then nobody knows whose the port is.
    let mut without_engine = Machine::new();
    without_engine.host.docker = "tcp://127.0.0.1:1".into();
    listen_in_proc(&without_engine, &listener, "other-server");
    let steps = without_engine.steps(&role(&docker, "one", &fields));
    without_engine.plan(&steps).fails();
    listen_in_proc(&without_engine, &listener, "docker-proxy");
    assert_eq!(without_engine.plan(&steps).ends_well().states()[1], "x blocked");
}

#[test]
fn an_engine_that_does_not_answer_blocks_a_plan_and_fails_a_run() {
    let (mut machine, docker) = machine();
    let steps = steps(&machine, &docker, ONE);
    machine.host.docker = "tcp://127.0.0.1:1".into();
    assert_eq!(machine.plan(&steps).ends_well().states(), ["config changes", "x blocked"]);
    let run = machine.apply(&steps);
    assert!(
        run.fails().to_string().contains("the Docker Engine at tcp://127.0.0.1:1 does not answer"),
        "{}",
        run.fails()
    );
    assert!(matches!(verified(&machine), Finding::Bad(text) if text.contains("does not answer")));
}

#[test]
fn one_whose_image_is_not_there_waits_for_the_step_that_pulls_it() {
    let (machine, docker) = machine();
    docker.remove_image("x:1");
    let image = "[[step]]\nid = 'image'\nphase = 'bake'\nimage = { name = 'x:1', setting = 'images.x' }\n";
    let steps = machine.steps(&format!("{image}{}", role(&docker, "one", ONE)));
    let plan = machine.plan(&steps).ends_well();
    assert_eq!(plan.states(), ["image changes", "config changes", "x blocked"]);
    assert_eq!(plan.lines()[0], "pull image x:1");
    machine.apply(&steps).ends_well();
    assert_eq!(docker.changes(), ["pull x:1", "create x", "start x"]);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["image in_sync", "config in_sync", "x in_sync"]);
    // What is gone is pulled again, and the container stays as it is: it is the same image.
    docker.remove_image("x:1");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["image changed", "config in_sync", "x in_sync"]);
    assert_eq!(docker.changes(), ["pull x:1"]);
    // Without that step a run says what lacks.
    docker.remove_image("x:1");
    docker.change(NAME, |container| container.name = "other".into());
    let run = machine.apply(&steps[1..]);
    assert!(run.fails().to_string().contains("image x:1 is not there yet"), "{}", run.fails());
}

/// A failure of a replacement, and what is left after it.
struct Failure {
    /// What goes wrong.
    set: fn(&Docker),
    /// The words of the error.
    words: &'static [&'static str],
    /// What the engine was asked for, but for the first renaming.
    changes: &'static [&'static str],
}

#[test]
fn a_replacement_that_fails_leaves_the_old_container_running() {
    const BACK: &str = "the container that was there before runs again";
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
                "its process ends (exited, exit code 7)",
                "no such file: /x.conf",
                "docker logs x has more",
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
            words: &["does not run as it should", "its process ends (restarting, exit code 1)", BACK],
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
        assert!(words.contains(&format!("port {port} is taken, and x needs it")), "{words}");
        assert!(words.contains("other-server (pid"), "{words}");
    }
    assert_eq!((docker.changes(), docker.containers()), (vec![], vec!["x running".to_owned()]));
    // One that is taken after the run looked.
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
    assert!(words.contains("the container that was there before does not run again"), "{words}");
    assert_eq!(words.matches("cannot allocate memory").count(), 2, "{words}");
    assert_eq!(docker.containers(), ["x exited"]);
    assert_eq!(docker.container(NAME).made_of["Image"], "x:1");
    // The next run goes on from there.
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
    for expected in ["no space left on device", &format!("and it keeps the name {OLD}"), "device or resource busy"] {
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
    // One that is refused by its name: another run has just created it.
    docker.change(NAME, |container| (container.name, container.status) = ("y".into(), "exited"));
    docker.changes();
    docker.refuse("create", 1, 409, "Conflict. The container name \"/x\" is already in use");
    let run = machine.apply(&steps);
    assert!(run.fails().to_string().contains("is already in use"), "{}", run.fails());
    assert_eq!(docker.changes(), [""; 0]);
}

#[test]
fn one_that_runs_and_does_not_answer_is_given_its_time() {
    let (mut machine, docker) = created();
    machine.host.deadlines.wait = Duration::from_millis(50);
    // Nobody listens on port 1.
    let silent = "image = 'x:2'\nready = { tcp = '127.0.0.1:1' }";
    let words = machine.apply(&steps(&machine, &docker, silent)).fails().to_string();
    assert!(words.contains("waited 50ms for") && words.contains("the last answer: "), "{words}");
    assert_eq!(docker.container(NAME).made_of["Image"], "x:1", "{words}");
    assert!(words.contains("the container that was there before"), "{words}");
}

#[test]
fn one_that_needs_two_restarts_is_given_them_and_no_more() {
    // The first look at it, before it is waited for, is one of them.
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
fn what_a_killed_run_left_is_finished() {
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
            docker.change(OLD, |container| container.name = "hidden".into());
            machine.apply(&of(image)).ends_well();
            docker.change(NAME, |container| container.status = status);
            docker.change("hidden", |container| container.name = OLD.into());
        }
        docker.changes();
        let steps = of("x:2");
        assert_eq!(planned_and_made(&machine, &steps)[0], line);
        assert_eq!(docker.changes(), changes, "{old:?} {new:?}");
        assert_eq!(docker.containers(), ["x running"]);
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
    }
}

#[test]
fn a_container_of_someone_elses_beside_the_old_one_is_not_touched() {
    let (machine, docker) = created();
    docker.change(NAME, |container| container.name = OLD.into());
    docker.run(NAME, "other:1", |_| {});
    let adopting = steps(&machine, &docker, &format!("{TWO}\nadopt = true"));
    let words = machine.apply(&adopting).fails().to_string();
    assert!(words.contains(&format!("the containers x and {OLD} are both there, and x is not ours")), "{words}");
    assert!(words.contains(&format!("rename it away (docker rename x x-before): then {OLD} is put back")), "{words}");
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
fn a_container_of_someone_elses_is_refused_unless_it_may_be_replaced() {
    let (machine, docker) = machine();
    let id = foreign(&docker);
    let steps = steps(&machine, &docker, ONE);
    for run in [machine.plan(&steps), machine.apply(&steps)] {
        let error = run.fails();
        assert_eq!(error.kind, Kind::Unavailable);
        let words = error.to_string();
        for expected in [
            "a container x is there that titus-bootstrap did not make",
            &format!("{} (running), of image other:1", &id[..12]),
            "--set containers.adopt=true",
            "docker rename x x-before",
        ] {
            assert!(words.contains(expected), "{expected}: {words}");
        }
    }
    assert_eq!(verified(&machine), Finding::Bad("a container x is running that titus-bootstrap did not make".into()));
    assert_eq!((docker.changes(), docker.containers()), (vec![], vec!["x running".to_owned()]));
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
    let line = "replace the container x, which titus-bootstrap did not make (its data are copied to the host)";
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    // Stopped first, or what it writes would be missing; its volumes are left.
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
            "/srv/x: there are data already, and the container to be replaced has others",
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
fn a_takeover_that_fails_is_made_anew_with_newer_data() {
    let (machine, docker) = machine();
    directories(&machine);
    let id = foreign(&docker);
    docker.end("x:1", End::Exits(1, "not today\n"));
    let steps = steps(&machine, &docker, ADOPTS);
    let words = machine.apply(&steps).fails().to_string();
    assert!(words.contains("not today") && words.contains("the container that was there before runs again"), "{words}");
    assert_eq!((docker.container(NAME).id, docker.containers()), (id.clone(), vec!["x running".to_owned()]));
    // It ran again, and wrote more: the copy has an owner, and is made anew.
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
    // It would lose its data to those that are an ensemble without it.
    let loses = steps(&machine, &docker, &ensemble(&follower(2)));
    let words = machine.apply(&loses).fails().to_string();
    assert!(words.contains("data would be lost"), "{words}");
    assert_eq!((docker.changes(), docker.containers()), (back.to_vec(), vec!["x running".to_owned()]));
    // One that does not run waits for no turn, and loses no data all the same: the new one is not started.
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
    // Where there is none, none is created before its turn.
    docker.change(NAME, |container| container.name = "other".into());
    assert_eq!(machine.apply(&waits).fails().kind, Kind::NotYet);
    assert_eq!(docker.changes(), [""; 0]);
    // Nor is anything begun where the servers have another order.
    let disordered = steps(&machine, &docker, &ensemble(&follower(3)));
    for run in [machine.plan(&disordered), machine.apply(&disordered)] {
        assert_eq!(run.fails().kind, Kind::Config);
        assert!(run.fails().to_string().contains("is number 3, and in the list 2"), "{}", run.fails());
    }
}

#[test]
fn verify_says_whether_the_tag_still_leads_to_the_image() {
    let (machine, docker) = created();
    let question = Question::Kept(Kept::Container(NAME.into()));
    let asked = || question.with_registry(&machine.next_host(), verified(&machine)).unwrap();
    let good = "the container x is running, from x:1";
    assert_eq!(asked(), Finding::Good(format!("{good} (its tag still leads to sha256:one)")));
    docker.publish("x:1", "new");
    assert!(
        matches!(asked(), Finding::Warning(text) if text.contains("led to sha256:one and leads to sha256:new now"))
    );
    // What is not good stays as it is.
    docker.change(NAME, |container| container.status = "exited");
    assert_eq!(asked(), Finding::Bad("the container x is exited, exit code 0".into()));
}
