//! Images that the run cannot pull, or not yet: the messages, and that nothing is lost.

use crate::harness::line::{Behaviour, Line};
use crate::harness::node::Node;
use crate::harness::prereqs::{self, Services};
use crate::harness::registry::{BEHIND, Registry};
use crate::harness::wait_for;

/// Bytes: after the manifests, in the middle of a layer.
const IN_A_LAYER: usize = 1 << 20;

fn node() -> Node {
    let node = Node::with_engine();
    prereqs::settings(&node, "");
    node
}

/// A node whose registry is behind a line.
fn behind_a_line(behaviour: Behaviour) -> (Node, Services, Line) {
    let node = node();
    let registry = Some(Registry::serve(&node, BEHIND));
    let line = Line::lay(&node, behaviour);
    let services = Services { metadata: prereqs::metadata(&node), registry };
    (node, services, line)
}

#[track_caller]
fn nothing_runs(node: &Node) {
    assert_eq!(prereqs::containers(node), Vec::<String>::new());
}

#[test]
fn a_registry_that_is_not_there_is_reported_at_the_deadline() {
    let node = node();
    let mut services = prereqs::services(&node);
    services.registry = None;
    let failed = node.bootstrap(&["apply", "--set", "timeouts.pull=3s"]).ends_with(1);
    failed.reports(&[
        "zookeeper-image: image jplock/zookeeper:3.4.10: could not be pulled within 3s",
        "fix:   see whether this node reaches the registry",
        "timeouts.pull",
        "pulling jplock/zookeeper:3.4.10 failed, again in 1s",
    ]);
    nothing_runs(&node);
    // It comes while a run waits for it.
    let run = node.spawn(&["titus-bootstrap", "apply"]);
    wait_for("a first try", || run.stderr().contains("again in").then_some(()));
    services.registry = Some(Registry::serve(&node, crate::harness::registry::ADDRESS));
    run.end().ends_with(0);
    prereqs::check(&node);
}

#[test]
fn a_registry_that_stops_in_a_layer_is_reported_and_the_next_run_goes_on() {
    let (node, _services, line) = behind_a_line(Behaviour::Cut(IN_A_LAYER));
    let failed = node.bootstrap(&["apply", "--set", "timeouts.pull=8s"]).ends_with(1);
    failed.reports(&["zookeeper-image: image jplock/zookeeper:3.4.10: could not be pulled within 8s"]);
    assert!(line.disturbed() > 0, "no layer was cut");
    nothing_runs(&node);

    // Killed in the middle of a pull.
    line.behave(Behaviour::Silent(IN_A_LAYER));
    let before = line.disturbed();
    let mut run = node.spawn(&["titus-bootstrap", "apply"]);
    wait_for("the pull to hang", || (line.disturbed() > before).then_some(()));
    run.kill();
    assert_eq!(run.end().code, -9);
    line.behave(Behaviour::Passes);
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
}

/// By its registry's own name, because the engine hides a mirror's answer if Docker Hub has another.
const DIRECT: &str = "images.zookeeper=127.0.0.1:5000/jplock/zookeeper";

#[test]
fn names_and_digests_that_the_registry_does_not_have_are_reported() {
    let (node, services, line) = behind_a_line(Behaviour::Passes);
    let fails = |setting: &str, words: &[&str]| {
        node.bootstrap(&["apply", "--set", setting]).ends_with(1).reports(words);
        nothing_runs(&node);
    };
    let absent = ["its registry does not have it", "the setting images.zookeeper names another"];
    fails(&format!("{DIRECT}:nope"), &absent);
    fails(&format!("{DIRECT}@sha256:{}", "c".repeat(64)), &absent);
    node.bootstrap(&["apply", "--set", &format!("{DIRECT}@sha256:abc")])
        .ends_with(78)
        .reports(&["a digest is `sha256:` followed by 64 hexadecimal digits"]);

    // A registry that sends another image for a digest.
    let digest = |tag: &str| services.registry.as_ref().unwrap().digest("jplock/zookeeper", tag);
    let (asked, sent) = (digest("3.4.10"), digest("second"));
    line.behave(Behaviour::Misleads(asked.clone(), sent));
    let setting = format!("{DIRECT}@{asked}");
    fails(&setting, &["the contents from its registry do not match its digest", "do not trust that registry"]);
    line.behave(Behaviour::Passes);
    // Kept, so that the node's settings say it from here on.
    node.bootstrap(&["apply", "--save", "--set", &setting]).ends_with(0);
    prereqs::check(&node);
    node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
}

#[test]
fn a_full_disk_and_a_port_that_is_taken_are_reported() {
    let node = node();
    let _services = prereqs::services(&node);
    node.shell(
        "systemctl stop docker.socket docker.service containerd.service
         mount -t tmpfs -o size=40m tmpfs /var/lib/docker
         systemctl start docker.service",
    );
    let failed = node.bootstrap(&["apply", "--set", &format!("{DIRECT}:3.4.10")]).ends_with(1);
    failed.reports(&[
        "image 127.0.0.1:5000/jplock/zookeeper:3.4.10: there is no room for it",
        "no space left on device",
        "docker system df",
    ]);
    nothing_runs(&node);
    node.shell(
        "systemctl stop docker.socket docker.service containerd.service
         umount /var/lib/docker
         systemctl start docker.service",
    );

    // Named before anything is changed, although a pull would have been begun.
    node.shell("systemd-run --quiet --unit taken systemd-socket-activate --accept --listen 0.0.0.0:2181 /bin/cat");
    wait_for("the port to be taken", || crate::harness::services::listens(&node, "127.0.0.1:2181").then_some(()));
    let refused = node.bootstrap(&["apply"]).ends_with(69);
    refused.reports(&["port 2181 is in use, but zookeeper needs it", "systemd-socket-", "(pid "]);
    assert!(!node.exists("/var/lib/zookeeper"), "a refused run made something");
    nothing_runs(&node);
    node.shell("systemctl stop taken");

    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
}

#[test]
fn an_engine_that_does_not_run_is_started_or_reported() {
    let node = node();
    let _services = prereqs::services(&node);
    node.shell("systemctl stop docker.socket docker.service");
    node.write("/etc/docker/daemon.json", "{ \"registry-mirrors\": ");
    node.bootstrap(&["apply"]).ends_with(78).reports(&["/etc/docker/daemon.json", "not a JSON object"]);
    node.write("/etc/docker/daemon.json", "{ \"no-such-option\": true }");
    let plan = node.bootstrap(&["plan"]).ends_with(0);
    assert!(
        plan.out.contains("the Docker Engine at unix:///var/run/docker.sock does not answer"),
        "{}",
        plan.transcript()
    );
    let failed = node.bootstrap(&["apply"]).ends_with(1);
    failed.reports(&["docker: docker.service", "unable to configure the Docker daemon"]);
    node.write("/etc/docker/daemon.json", "{ \"registry-mirrors\": [\"http://127.0.0.1:5000\"] }\n");
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
    let elsewhere = node.bootstrap(&["apply", "--set", "docker.host=tcp://127.0.0.1:1"]).ends_with(1);
    elsewhere.reports(&["the Docker Engine at tcp://127.0.0.1:1 does not answer", "refused"]);
}
