//! Docker as others left it: its settings, containers and data.

use base64::Engine as _;

use crate::harness::node::Node;
use crate::harness::prereqs::{self, Services};
use crate::harness::registry::{self, Registry};
use crate::harness::services::listens;
use crate::harness::{agent, wait_for, znodes};

#[test]
fn a_daemon_json_that_sets_what_our_flags_set_is_refused_before_anything_is_changed() {
    let (node, _services) = agent::fresh();
    let path = "/etc/docker/daemon.json";
    node.write(path, "{\"iptables\": true, \"hosts\": [\"fd://\"], \"debug\": true}\n");
    for words in [&["plan"][..], &["apply"]] {
        let refused = node.bootstrap(words).ends_with(69);
        refused.reports(&[
            "/etc/docker/daemon.json sets hosts, iptables",
            "10-docker-config.conf",
            "remove hosts, iptables from",
        ]);
    }
    assert!(!node.exists("/etc/systemd/system/docker.service.d/10-docker-config.conf"));
    // What no flag sets is the operator's.
    node.write(path, "{\"debug\": true}\n");
    node.bootstrap(&["apply"]).ends_with(0);
    node.bootstrap(&["verify"]).ends_with(0);
}

/// A lone prereqs node; its daemon.json is the engine's own or this.
fn prereqs_node(daemon: Option<&str>) -> (Node, Services) {
    let node = Node::with_engine();
    if let Some(daemon) = daemon {
        node.write(DAEMON_JSON, daemon);
        node.shell("systemctl restart docker");
    }
    let services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&["apply"]).ends_with(0);
    (node, services)
}

const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// Recreates a container with its labels, and with `options` instead of its own, like programs that update containers.
fn recreate(node: &Node, name: &str, options: &str) {
    node.shell(&format!(
        "labels=(); while read -r line; do [ -z \"$line\" ] || labels+=(--label \"$line\"); done < <(docker inspect --format \
         '{{{{range $key, $value := .Config.Labels}}}}{{{{$key}}}}={{{{$value}}}}{{{{println}}}}{{{{end}}}}' {name})
         docker rm --force {name} >/dev/null
         docker run --detach --name {name} --restart unless-stopped \"${{labels[@]}}\" {options}"
    ));
}

#[test]
fn changes_of_others_to_a_container_are_found_and_corrected() {
    let (node, _services) = prereqs_node(None);
    let id = |name: &str| prereqs::id(&node, name);
    let [zookeeper, _] = prereqs::IMAGES;
    let plain = "--publish 2181:2181 --log-driver json-file --log-opt max-size=10m --log-opt max-file=3";
    // The command, what the plan reports, and whether the container keeps running.
    for (damage, words, keeps_running) in [
        ("docker update --restart no zookeeper", "restart policy: is no, should be unless-stopped", true),
        ("docker network disconnect bridge zookeeper", "networks: is none, should be bridge", true),
        ("docker network create web; docker network connect web zookeeper", "networks: is web, should be none", true),
        ("docker rename zookeeper zk", "rename the container zk, which was made as zookeeper, to zookeeper", true),
        (
            "docker update --memory 512m --memory-swap 1g zookeeper",
            "memory limit: is memory 536870912 memory with swap 1073741824, should be none",
            false,
        ),
        ("docker update --cpus 0.5 zookeeper", "cpu and process limits: is nano-cpus 500000000, should be none", false),
        ("mounts", "mounts: is /srv/other:/tmp/zookeeper, should be /var/lib/zookeeper:/tmp/zookeeper", false),
        ("environment", "environment: is JVMFLAGS=-Xmx64m, should be none", false),
        ("image", "image: is sha256:", false),
    ] {
        let before = id("zookeeper");
        match damage {
            "mounts" => {
                recreate(&node, "zookeeper", &format!("{plain} --volume /srv/other:/tmp/zookeeper {zookeeper}"))
            }
            "environment" => {
                let options = format!("{plain} --volume /var/lib/zookeeper:/tmp/zookeeper --env JVMFLAGS=-Xmx64m");
                recreate(&node, "zookeeper", &format!("{options} {zookeeper}"));
            }
            "image" => {
                node.shell("docker pull --quiet jplock/zookeeper:second");
                let options = format!("{plain} --volume /var/lib/zookeeper:/tmp/zookeeper");
                recreate(&node, "zookeeper", &format!("{options} jplock/zookeeper:second"));
            }
            command => drop(node.shell(command)),
        }
        let renamed = damage.starts_with("docker rename");
        let damaged = if renamed { id("zk") } else { id("zookeeper") };
        node.bootstrap(&["plan"]).ends_with(0).prints(&[words]);
        node.bootstrap(&["verify"]).ends_with(1).prints(&["drifts ", words]);
        node.bootstrap(&["apply"]).ends_with(0).prints(&[words]);
        assert_eq!(id("zookeeper") == damaged, keeps_running, "after {damage}: {before} {damaged}");
        node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
    }
    prereqs::check(&node);
}

#[test]
fn a_container_that_has_a_port_is_named_with_its_end() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    let [zookeeper, _] = prereqs::IMAGES;
    // One publishes it; the process of the other listens in the host's network.
    for (options, port, needs) in [("--publish 5050:2181", 5050, "mesomaster"), ("--network host", 2181, "zookeeper")] {
        node.shell(&format!("docker run --detach --name web {options} {zookeeper}"));
        wait_for("the port to be taken", || listens(&node, &format!("127.0.0.1:{port}")).then_some(()));
        for command in ["plan", "apply"] {
            node.bootstrap(&[command]).ends_with(69).reports(&[
                &format!("port {port} is in use, but {needs} needs it"),
                &format!("the container web of image {zookeeper} uses it"),
                "docker rm --force web",
                "docker stop web",
            ]);
        }
        assert_eq!(prereqs::containers(&node), ["web"]);
        assert!(!node.exists("/var/lib/zookeeper"), "a refused run made something");
        node.shell("docker rm --force web");
    }
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);

    // It comes where ours was, and ours has been stopped.
    node.shell(&format!("docker stop zookeeper; docker run --detach --name web --publish 2181:2181 {zookeeper}"));
    node.bootstrap(&["apply"]).ends_with(69).reports(&["port 2181 is in use", "the container web"]);
    node.shell("docker stop web");
    node.bootstrap(&["apply"]).ends_with(0);
    node.shell("docker rm web");
    prereqs::check(&node);
}

#[test]
fn another_data_root_and_containers_that_outlive_their_engine_are_understood() {
    let node = Node::with_engine();
    node.shell(
        "systemctl stop docker.socket docker.service containerd.service; rm -rf /var/lib/docker/*
         mkdir -p /mnt/docker; mount -t tmpfs -o size=40m tmpfs /mnt/docker",
    );
    // A flag of the operator's own drop-in: only the engine knows it.
    node.write(DAEMON_JSON, "{ \"registry-mirrors\": [\"http://127.0.0.1:5000\"], \"live-restore\": true, \"log-opts\": { \"compress\": \"true\" } }");
    node.write(
        "/etc/systemd/system/docker.service.d/root.conf",
        "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --data-root=/mnt/docker\n",
    );
    node.shell("systemctl daemon-reload; systemctl start docker.service");
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    let full = node.bootstrap(&["apply", "--set", "images.zookeeper=127.0.0.1:5000/jplock/zookeeper:3.4.10"]);
    full.ends_with(1).reports(&["there is no room for it", "df -h /mnt/docker"]);
    node.shell("mount -o remount,size=2g /mnt/docker");
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
    node.bootstrap(&["facts"]).ends_with(0).prints(&["file system of /mnt/docker"]);

    // The Mesos master of the role keeps its port while the engine does not answer.
    let before = [prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")];
    node.shell("systemctl stop docker.socket docker.service");
    assert!(listens(&node, &format!("{}:5050", node.address)), "the Mesos master ended with its engine");
    node.bootstrap(&["plan"]).ends_with(0).prints(&["start docker.socket", "start docker.service"]);
    node.bootstrap(&["apply"]).ends_with(0);
    assert_eq!([prereqs::id(&node, "zookeeper"), prereqs::id(&node, "mesomaster")], before);
    prereqs::check(&node);
}

#[test]
fn an_engine_that_maps_users_runs_the_roles_containers_on_their_data() {
    let (node, _services) = prereqs_node(None);
    znodes::write(&node, prereqs::ZOOKEEPER, "/kept", "data");
    node.write(DAEMON_JSON, "{ \"registry-mirrors\": [\"http://127.0.0.1:5000\"], \"userns-remap\": \"default\" }");
    node.shell("systemctl restart docker");
    // Its images and containers are elsewhere now.
    node.bootstrap(&["plan"]).ends_with(0).prints(&["pull image jplock/zookeeper:3.4.10"]);
    node.bootstrap(&["apply"]).ends_with(0);
    assert_eq!(znodes::read(&node, prereqs::ZOOKEEPER, "/kept").as_deref(), Some("data"));
    prereqs::check(&node);
    node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
}

#[test]
fn a_docker_socket_that_was_masked_or_stopped_comes_back() {
    let (node, _services) = prereqs_node(None);
    for (damage, words) in [
        ("systemctl mask --now docker.socket", &["unmask docker.socket", "start docker.socket"][..]),
        // It loses its socket, and does not know it.
        ("systemctl mask docker.socket; systemctl stop docker.service", &["unmask docker.socket"]),
        ("systemctl stop docker.socket", &["start docker.socket", "start docker.service"]),
        ("systemctl disable docker.socket", &["enable docker.socket"]),
        ("systemctl mask docker.socket", &["unmask docker.socket"]),
    ] {
        // Its package allows three starts a minute.
        node.shell(&format!("systemctl reset-failed docker.service; {damage}"));
        node.bootstrap(&["plan"]).ends_with(0).prints(words);
        node.bootstrap(&["apply"]).ends_with(0);
        node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
        // A socket that was masked while Docker ran is active and has lost what it listened on: Docker does not start.
        node.shell(
            "docker version >/dev/null; systemctl reset-failed docker.service
             systemctl restart docker.service || systemctl reset-failed docker.service",
        );
        node.bootstrap(&["apply"]).ends_with(0);
        node.shell("docker version >/dev/null");
    }
    prereqs::check(&node);
}

#[test]
fn a_registry_that_requires_a_password_gets_it_and_no_other_does() {
    let node = Node::with_engine();
    let _services = Services { metadata: prereqs::metadata(&node), registry: None };
    let _registry = Registry::serve_private(&node, registry::ADDRESS);
    let [zookeeper, master] = prereqs::IMAGES.map(|image| format!("{}/{image}", registry::ADDRESS));
    let images = format!("images.zookeeper = '{zookeeper}'\nimages.mesos_master = '{master}'\n");
    prereqs::settings(&node, &images);
    let denied = node.bootstrap(&["apply"]).ends_with(1);
    denied.reports(&[
        "its registry denies access",
        "no basic auth credentials",
        "set docker.auth to a docker config.json with credentials for 127.0.0.1:5000",
    ]);

    // A file that is not right yet: nothing is changed, and each fix is followed to the letter.
    let path = "/etc/titus-bootstrap/registries.json";
    prereqs::settings(&node, &format!("{images}docker.auth = '{path}'\n"));
    node.bootstrap(&["apply"])
        .ends_with(78)
        .reports(&[&format!("docker.auth = \"{path}\" cannot be used"), "does not exist"]);
    node.write(path, "{ \"auths\": { \"127.0.0.1:5000\": { \"auth\": \"a-password-of-tests\" } } }");
    let fix = format!("chown root:root {path} && chmod 0600 {path}");
    node.shell(&format!("chmod 0666 {path}"));
    for command in ["plan", "apply"] {
        node.bootstrap(&[command]).ends_with(78).reports(&["users other than root may read it", &fix]);
    }
    node.shell(&fix);
    let wrong = node.bootstrap(&["apply"]).ends_with(78);
    let wrong = wrong.reports(&["auth of \"127.0.0.1:5000\" is not USER:PASSWORD in base64"]);
    assert!(!wrong.transcript().contains(registry::PASSWORD), "{}", wrong.transcript());

    let (user, password) = (registry::USER, registry::PASSWORD);
    let auth = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
    node.write(path, &format!("{{ \"auths\": {{ \"127.0.0.1:5000\": {{ \"auth\": \"{auth}\" }} }} }}"));
    node.bootstrap(&["apply", "--verbose"]).ends_with(0);
    node.bootstrap(&["verify"]).ends_with(0).prints(&["its tag still refers to sha256:"]);

    // A helper, which has no variables but its own, and the password of another day.
    let helper = "/usr/local/bin/docker-credential-tests";
    node.write(path, "{ \"credHelpers\": { \"127.0.0.1:5000\": \"tests\" } }");
    let anew = "docker rm --force zookeeper mesomaster; docker image prune --all --force";
    node.shell(anew);
    let missing = node.bootstrap(&["apply"]).ends_with(1);
    missing.reports(&[
        "no credentials for 127.0.0.1:5000",
        "No such file or directory (os error 2) (from docker-credential-tests)",
        "in /usr/local/bin or /usr/bin",
    ]);
    let script = format!(
        "#!/bin/sh\nread -r registry\nenv >/run/of-helper\necho \"$1 $registry\" >>/run/of-helper\n\
         echo '{{\"Username\":\"{user}\",\"Secret\":\"{password}\"}}'\n"
    );
    node.write(helper, &script);
    node.shell(&format!("chmod 0755 {helper}"));
    let run = node.run(&["env", "LD_LIBRARY_PATH=/nowhere", "titus-bootstrap", "apply", "--verbose"]).ends_with(0);
    assert!(!run.transcript().contains(password), "{}", run.transcript());
    let output = node.read("/run/of-helper");
    assert!(output.contains("HOME=/root\n") && output.contains("AWS_REGION=eu-west-1\n"), "{output}");
    assert!(output.ends_with("get 127.0.0.1:5000\n") && !output.contains("LD_LIBRARY_PATH"), "{output}");
    prereqs::check(&node);
    let kept = node.shell(&format!(
        "grep -rlF -e {password} -e {auth} /var/lib/titus-bootstrap /run/titus-bootstrap /var/log /etc 2>/dev/null || true
         journalctl --no-pager | grep -F -e {password} -e {auth} || true"
    ));
    assert_eq!(kept, "", "the password is kept");
}
