//! Containers: created, replaced when their specification changes, started, and reported by plan and verify alike.
//! `replacement.rs` tests failing replacements, and `adoption.rs` containers of other programs.

use serde_json::{Value as Json, json};
use titus_bootstrap::error::Kind;
use titus_bootstrap::step::Step;
use titus_bootstrap::step::health::{Kept, Question};
use titus_bootstrap::titus::checks::Finding;

use crate::support::docker::{Container, Docker};
use crate::support::simulated::{Machine, Run, listen_in_proc};

pub(super) const NAME: &str = "x";
pub(super) const OLD: &str = "x-titus-bootstrap-old";

/// A machine whose Docker Engine has the images x:1 and x:2.
pub(super) fn machine() -> (Machine, Docker) {
    let (mut machine, docker) = (Machine::new(), Docker::start());
    machine.host.docker = docker.host();
    docker.load("x:1", "one");
    docker.load("x:2", "two");
    (machine, docker)
}

/// A file, and a container with these fields besides its name. One with `ready` answers at the engine's own port.
pub(super) fn role(docker: &Docker, contents: &str, fields: &str) -> String {
    let fields = fields.replace("READY", &format!("ready = {{ tcp = '{}' }}", docker.address));
    format!(
        "[[step]]\nid = 'config'\nphase = 'boot'\nfile = {{ path = '/etc/x.conf', content = '{contents}' }}\n\
         [[step]]\nid = 'x'\nphase = 'boot'\n[step.container]\nname = '{NAME}'\n{fields}\n"
    )
}

/// The start of most of these tests.
pub(super) const ONE: &str = "image = 'x:1'\nREADY";
pub(super) const TWO: &str = "image = 'x:2'\nREADY";

pub(super) fn steps(machine: &Machine, docker: &Docker, fields: &str) -> Vec<Step> {
    machine.steps(&role(docker, "one", fields))
}

/// A machine on which a run has created the container from x:1.
pub(super) fn created() -> (Machine, Docker) {
    let (machine, docker) = machine();
    machine.apply(&steps(&machine, &docker, ONE)).ends_well();
    docker.changes();
    (machine, docker)
}

pub(super) fn verified(machine: &Machine) -> Finding {
    Kept::Container(NAME.into()).ask(&machine.next_host()).unwrap()
}

/// The lines about the container in a plan and then an apply, which must be the same.
#[track_caller]
pub(super) fn planned_and_made(machine: &Machine, steps: &[Step]) -> Vec<String> {
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
    assert_eq!(verified(&machine), Finding::Bad("the container x does not exist".into()));

    assert_eq!(planned_and_made(&machine, &steps), ["create and start the container x"]);
    assert_eq!(docker.changes(), ["create x", "start x"]);
    assert_eq!(verified(&machine), Finding::Good("the container x is running, from x:1".into()));
    assert_eq!(machine.apply(&steps).ends_well().states(), ["config in_sync", "x in_sync"]);
    assert_eq!(machine.plan(&steps).ends_well().states(), ["config in_sync", "x in_sync"]);
    assert_eq!(docker.changes(), [""; 0]);
}

/// Everything that a role can say about a container, the engine's version of it, and the command in a plan.
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
                // A log driver without files has no options for files.
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
        ("image = 'x:1'\nports = ['5050']", "\"5050\" is not a port"),
        ("image = 'x:1'\nnetwork = 'host'\nports = ['5050:5050']", "\"5050:5050\" is not a port"),
        ("image = 'x:1'\nnetwork = 'host'\nports = ['127.0.0.1:5050:5050']", "is not a port"),
        ("image = 'x:1'\nports = ['0:80']", "is not a port"),
        ("image = 'x:1'\nports = ['80:65536']", "is not a port"),
        ("image = 'x:1'\nbinds = ['/srv']", "\"/srv\" is not a bind"),
        ("image = 'x:1'\nbinds = ['/srv:data']", "is not a bind"),
        ("image = 'x:1'\nbinds = ['/srv:/data:rw']", "is not a bind"),
        ("image = 'x:1'\nbinds = ['/srv/../x:/data']", "/srv/../x"),
        (
            "image = 'x:1'\nrestart = 'sometimes'",
            "\"sometimes\" is not a restart policy: write no, always, unless-stopped or on-failure",
        ),
    ] {
        let error = machine.try_steps(&role(&docker, "one", fields)).unwrap_err();
        assert_eq!(error.kind, Kind::Config, "{fields}");
        assert!(error.to_string().contains(words), "{fields}: {error}");
    }
}

/// The order in which one container replaces another.
pub(super) fn replaced() -> Vec<String> {
    vec![
        format!("rename x {OLD}"),
        "create x".into(),
        format!("stop {OLD}"),
        "start x".into(),
        format!("remove {OLD} with its volumes"),
    ]
}

#[test]
fn one_that_depends_on_a_step_that_is_not_there_is_refused_when_the_role_is_read() {
    let (machine, docker) = machine();
    let depends = |id: &str| role(&docker, "one", &format!("{ONE}\nrestart_on = ['{id}']"));
    machine.try_steps(&depends("config")).unwrap();
    let error = machine.try_steps(&depends("confg")).unwrap_err();
    assert!(error.to_string().contains("restart_on names \"confg\""), "{error}");
}

#[test]
fn one_that_is_made_of_something_else_is_replaced() {
    let one_with = |more: &str| format!("{ONE}\n{more}");
    let bound = one_with("binds = ['/etc/x.conf:/x.conf:ro']");
    let listed = one_with("restart_on = ['config']");
    for (before, after, keys) in [
        (ONE, TWO, "image"),
        (ONE, &one_with("environment = ['A=1']"), "environment"),
        (&one_with("environment = ['A=1']"), &one_with("environment = ['A=2']"), "environment"),
        (ONE, &one_with("binds = ['/srv/x:/data']"), "binds"),
        (&one_with("binds = ['/srv/x:/data']"), &one_with("binds = ['/srv/x:/data:ro']"), "binds"),
        (ONE, &one_with("ports = ['2181:2181']"), "ports"),
        (ONE, &one_with("command = ['serve']"), "command"),
        (ONE, &one_with("network = 'host'"), "network"),
        (ONE, &one_with("restart = 'always'"), "restart"),
        (ONE, &one_with("labels = { own = '1' }"), "labels"),
        (ONE, &one_with("user = '1000'"), "user"),
        (ONE, &one_with("log = { driver = 'journald' }"), "log_driver"),
        (
            &one_with("log = { driver = 'local' }"),
            &one_with("log = { driver = 'local', max_size = '1m' }"),
            "log_options",
        ),
        (ONE, &one_with("command = ['serve']\nuser = '1000'"), "command, user"),
        // The same specification, and a file with other contents.
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
fn foreign_files_replace_nothing() {
    let (machine, docker) = created();
    // The readiness question, and a file that it does not read, do not change the container.
    for (contents, fields) in [("one", "image = 'x:1'"), ("two", ONE), ("two", "image = 'x:1'\nREADY\nadopt = true")] {
        assert_eq!(
            machine.apply(&machine.steps(&role(&docker, contents, fields))).ends_well().states()[1],
            "x in_sync"
        );
    }
    // Nor do files that the container itself writes.
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
    assert_eq!(planned_and_made(&machine, &steps), ["replace the container x (x:1 now refers to another image)"]);
    assert_eq!(docker.changes(), replaced());
    assert_eq!(docker.container(NAME).made_of["Labels"]["titus-bootstrap.image"], "other");
}

#[test]
fn what_somebody_changed_of_one_that_runs_is_changed_back() {
    type Change = fn(&mut Container);
    let policy: Change = |container| container.made_of["HostConfig"]["RestartPolicy"] = json!({ "Name": "always" });
    let joined: Change = |container| container.networks = vec!["bridge".into(), "other".into()];
    let moved: Change = |container| container.networks = vec!["other".into()];
    for (change, drift, changes) in [
        (policy, "restart policy: is always, should be no", &["update x"][..]),
        (joined, "networks: is other, should be none", &["disconnect other x"]),
        (moved, "networks: is other, should be bridge", &["connect bridge x", "disconnect other x"]),
    ] {
        let (machine, docker) = created();
        let first = docker.container(NAME).id;
        docker.change(NAME, change);
        let steps = steps(&machine, &docker, ONE);
        let line = format!("update the container x, which keeps running ({drift})");
        assert_eq!(planned_and_made(&machine, &steps), [line]);
        assert_eq!(docker.changes(), changes, "{drift}");
        assert_eq!(docker.container(NAME).id, first, "{drift}");
        assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync", "{drift}");
    }
}

#[test]
fn one_that_somebody_made_again_from_another_image_is_replaced() {
    let (machine, docker) = created();
    let steps = steps(&machine, &docker, ONE);
    docker.change(NAME, |container| container.image_id = "two".into());
    let line = "replace the container x, which somebody changed (image: is two, should be one)";
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    assert_eq!(docker.changes(), replaced());
    assert_eq!(machine.apply(&steps).ends_well().states()[1], "x in_sync");
}

#[test]
fn one_that_somebody_renamed_gets_its_name_back_and_keeps_its_port() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (machine, docker) = machine();
    let port = listener.local_addr().unwrap().port();
    let steps = steps(&machine, &docker, &format!("image = 'x:1'\nports = ['{port}:80']\nREADY"));
    machine.apply(&steps).ends_well();
    docker.changes();
    listen_in_proc(&machine, &listener, "docker-proxy");
    docker.change(NAME, |container| container.name = "renamed".into());
    let line = "rename the container renamed, which was made as x, to x";
    assert_eq!(planned_and_made(&machine, &steps), [line]);
    assert_eq!((docker.changes(), docker.containers()), (vec!["rename renamed x".into()], vec!["x running".into()]));
    // A copy of it under another name, beside it, is somebody else's.
    docker.change(NAME, |container| container.status = "exited");
    let made_of = docker.container(NAME).made_of;
    docker.run("copy", "x:1", |container| container.made_of = made_of);
    let plan = machine.plan(&steps);
    assert!(plan.fails().to_string().contains("the container copy of image x:1 uses it"), "{}", plan.fails());
}

#[test]
fn one_that_does_not_run_is_started() {
    for (status, line, changes) in [
        ("created", "start the container x (it is created)", &["start x"][..]),
        ("exited", "start the container x (it is exited, exit code 3)", &["start x"]),
        // Its session with another server may be lost.
        ("paused", "start the container x (it is paused)", &["unpause x", "stop x", "start x"]),
        // The engine would restart it by itself at some time.
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
    let line = "replace the container x, which somebody changed (state: is dead, should be running)";
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
        assert!(words.contains(&format!("port {port} is in use, but x needs it")), "{words}");
        assert!(words.contains(&format!("other-server (pid {})", std::process::id())), "{words}");
    }
    assert!(!machine.root.at("/etc/x.conf").exists() && docker.changes().is_empty());

    // The container uses it itself, even if a killed run left it under its other name; a stopped one uses none.
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
    // Docker publishes no port of a container that does not run, and another one that runs has no port.
    docker.run("y", "x:2", |_| {});
    listen_in_proc(&machine, &listener, "docker-proxy");
    assert!(machine.plan(&steps).fails().to_string().contains("docker-proxy (pid"));
    // With live-restore, a container outlives its engine, and then nobody knows who uses the port.
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
    // What is gone is pulled again, and the container stays as it is: it is the same image. (Another machine: here
    // the pull of a run can still be looking whether there is something to do.)
    let (machine, docker) = created();
    docker.remove_image("x:1");
    let steps = machine.steps(&format!("{image}{}", role(&docker, "one", ONE)));
    assert_eq!(machine.apply(&steps).ends_well().states()[1..], ["config in_sync", "x in_sync"]);
    assert_eq!(docker.changes(), ["pull x:1"]);
    // Without that step, a run reports what is missing.
    let (machine, docker) = self::machine();
    docker.remove_image("x:1");
    let run = machine.apply(&self::steps(&machine, &docker, ONE));
    assert!(run.fails().to_string().contains("image x:1 is not there yet"), "{}", run.fails());
}

#[test]
fn verify_says_whether_the_tag_still_leads_to_the_image() {
    let (machine, docker) = created();
    let question = Question::Kept(Kept::Container(NAME.into()));
    let asked = || question.with_registry(&machine.next_host(), verified(&machine)).unwrap();
    let good = "the container x is running, from x:1";
    assert_eq!(asked(), Finding::Good(format!("{good} (its tag still refers to sha256:one)")));
    docker.publish("x:1", "new");
    assert!(
        matches!(asked(), Finding::Warning(text) if text.contains("referred to sha256:one but refers to sha256:new now"))
    );
    docker.publish("x:1", "");
    let without = format!("{good} (the registry has its tag, but answered without a digest)");
    assert_eq!(asked(), Finding::Good(without));
    // What is not good stays as it is.
    docker.change(NAME, |container| container.status = "exited");
    assert_eq!(asked(), Finding::Bad("the container x is exited, exit code 0".into()));
}
