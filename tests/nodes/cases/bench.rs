//! How long it takes: `BENCH=N` runs of each row, and their medians. `tests/bench`
//! prints the table of docs/performance.md; no time is ever asserted.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::agent;
use crate::harness::image::program;
use crate::harness::node::{self, Node};
use crate::harness::packer;
use crate::harness::prereqs;
use crate::harness::services::items;

/// How often; without a word from `tests/bench` twice, so that the code stays alive.
fn runs() -> usize {
    std::env::var("BENCH").ok().and_then(|n| n.parse().ok()).unwrap_or(2)
}

/// Median of milliseconds.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Wall time of a command in the node as its own shell measures it, after a preparation
/// that is not measured.
fn timed(node: &Node, preparation: &str, command: &str) -> f64 {
    let script = format!("{preparation}\nTIMEFORMAT=%R; time {command} > /dev/null 2> /dev/null");
    let outcome = node.run(&["bash", "-euc", &script]).ends_with(0);
    outcome.err.trim().parse::<f64>().unwrap() * 1000.0
}

fn row(what: &str, times: Vec<f64>) {
    let (least, most) = times.iter().fold((f64::MAX, 0.0_f64), |(l, m), t| (l.min(*t), m.max(*t)));
    println!("| {what} | {:.1} ms | {least:.1} to {most:.1} ms |", median(times));
}

#[test]
fn bench() {
    println!("| what ({} runs each) | median | least to most |\n|---|---|---|", runs());
    let version = |_| {
        let started = Instant::now();
        let status = Command::new(program()).arg("--version").stdout(Stdio::null()).status().unwrap();
        assert!(status.success());
        started.elapsed().as_secs_f64() * 1000.0
    };
    row("`--version`", (0..runs()).map(version).collect());

    let node = Node::converged();
    let _services = agent::services(&node);
    agent::settings(&node);
    agent::apply(&node);
    let times = |preparation: &str, command: &str| (0..runs()).map(|_| timed(&node, preparation, command)).collect();
    row("nothing to do, metadata on loopback", times("", "titus-bootstrap"));

    let remove = |paths: &[&str]| format!("rm -f {}", paths.join(" "));
    let links = "/etc/systemd/system/multi-user.target.wants/mesos-agent.service \
                 /etc/systemd/system/sockets.target.wants/docker-tcp-proxy.socket";
    let boot = [
        "/etc/systemd/network/05-titus-primary.network",
        "/etc/profile.d/titus_environment.sh",
        "/etc/titus-executor/config.sh",
        "/etc/mesos-attributes.sh",
        "/etc/mesos-agent.config",
        links,
    ];
    row("boot phase: its files and links anew", times(&remove(&boot), "titus-bootstrap apply --phase boot"));

    // Without GRUB's, which has GRUB's own program run.
    let files: Vec<String> =
        agent::files().into_iter().map(|(path, _)| path).filter(|path| !path.contains("grub")).collect();
    let all: Vec<&str> = files.iter().map(String::as_str).chain([links]).collect();
    row("all files and links anew, packages there", times(&remove(&all), "titus-bootstrap"));
}

#[test]
fn bench_of_a_baked_image() {
    println!("| what ({} runs each) | median | least to most |\n|---|---|---|", runs());
    let first_boot = |_| {
        let (node, _services) = packer::boot(node::ADDRESS, node::MAC, items());
        packer::unit_took(&node)
    };
    row("agent, first boot of a baked image: the unit's start to its end", (0..runs()).map(first_boot).collect());
}

#[test]
fn bench_of_prereqs() {
    println!("| what ({} runs each) | median | least to most |\n|---|---|---|", runs());
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&["apply"]).ends_with(0);
    let times = |preparation: &str, command: &str| (0..runs()).map(|_| timed(&node, preparation, command)).collect();
    row("prereqs, nothing to do", times("", "titus-bootstrap"));
    let verified = "bash -c 'titus-bootstrap && until titus-bootstrap verify; do :; done'";
    let nothing = "docker rm --force --volumes zookeeper mesomaster > /dev/null
                   rm -rf /var/lib/zookeeper /var/lib/mesos-master /var/log/mesos";
    row("prereqs, images there, from the start to `verify`", times(nothing, verified));
    row(
        "prereqs, images pulled from loopback",
        times(&format!("{nothing}\ndocker image prune --all --force > /dev/null"), verified),
    );
    row(
        "prereqs, the Mesos master replaced",
        times(
            "x=$(mktemp -u XXXXXX); echo \"mesos.zk_path = '/titus/$x'\" > /tmp/more.toml",
            "titus-bootstrap apply --config /tmp/more.toml",
        ),
    );
}
