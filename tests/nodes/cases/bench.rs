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

/// What the phase `boot` of an agent writes, and two links that enable its units.
const BOOT: [&str; 5] = [
    "/etc/systemd/network/05-titus-primary.network",
    "/etc/profile.d/titus_environment.sh",
    "/etc/titus-executor/config.sh",
    "/etc/mesos-attributes.sh",
    "/etc/mesos-agent.config",
];
const LINKS: &str = "/etc/systemd/system/multi-user.target.wants/mesos-agent.service \
                     /etc/systemd/system/sockets.target.wants/docker-tcp-proxy.socket";

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

/// Real cloud-init on the same machine, from the repository of the tests, with nothing to find but its seed.
fn install_cloud_init(node: &Node) {
    node.shell(
        "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends cloud-init
         mkdir -p /etc/cloud/cloud.cfg.d /var/lib/cloud/seed/nocloud
         printf 'datasource_list: [NoCloud]\nnetwork: { config: disabled }\nlocale: C.UTF-8\n' > /etc/cloud/cloud.cfg.d/95-test.cfg
         echo 'instance-id: i-0123456789abcdef0' > /var/lib/cloud/seed/nocloud/meta-data",
    );
}

/// User data that makes these files and links as they are now, and starts the agent's units.
fn cloud_config(node: &Node, files: &[String]) -> String {
    let mut text = "#cloud-config\nwrite_files:\n".to_owned();
    for path in files {
        let content = node.shell(&format!("base64 -w0 {path}"));
        let mode = node.shell(&format!("stat -c %a {path}"));
        text += &format!(
            "- {{ path: {path}, encoding: b64, permissions: '0{}', content: '{}' }}\n",
            mode.trim(),
            content.trim()
        );
    }
    let units = agent::UNITS.join(" ");
    text + &format!("runcmd:\n- systemctl daemon-reload\n- systemctl enable {units}\n- systemctl start {units}\n")
}

/// All of cloud-init's stages, as a boot runs them.
const CLOUD_INIT: &str = "sh -c 'cloud-init init --local; cloud-init init; cloud-init modules --mode=config; cloud-init modules --mode=final; true'";

/// Writes the files from copies in /run/floor: the least time that writing them takes.
fn floor(files: &[String]) -> String {
    let names = files.join(" ");
    format!(
        "perl -MIO::Handle -e 'for (@ARGV) {{ open(my $from, q(<), \"/run/floor$_\") or die; local $/; my $text = <$from>;
            open(my $to, q(>), \"$_.new\") or die; print $to $text; $to->flush; $to->sync; rename(\"$_.new\", $_) or die;
            m{{(.*)/}}; open(my $directory, q(<), $1) or die; $directory->sync }}' {names}"
    )
}

/// Prints a row of the table: the time of our run, of cloud-init, the least possible time, and the ratios.
fn beside(what: &str, ours: Vec<f64>, cloud_init: Vec<f64>, floor: Vec<f64>) {
    let (ours, cloud_init, floor) = (median(ours), median(cloud_init), median(floor));
    println!(
        "| {what} | {ours:.1} ms | {cloud_init:.0} ms | {:.0} times faster | {floor:.1} ms | {:.1} times the floor |",
        cloud_init / ours,
        ours / floor
    );
}

/// The agent's files by the program, by real cloud-init and by hand. Only `tests/bench` asks for it: cloud-init has to be
/// installed first, and takes seconds for each run.
#[test]
fn bench_beside_cloud_init() {
    if std::env::var_os("BENCH").is_none() {
        return;
    }
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::settings(&node);
    agent::apply(&node);
    install_cloud_init(&node);
    let all: Vec<String> =
        agent::files().into_iter().map(|(path, _)| path).filter(|path| !path.contains("grub")).collect();
    let boot: Vec<String> = BOOT.iter().map(|path| (*path).to_owned()).collect();
    let times = |preparation: &str, command: &str| -> Vec<f64> {
        (0..runs()).map(|_| timed(&node, preparation, command)).collect()
    };
    println!("| what ({} runs each) | ours | cloud-init | | floor | |\n|---|---|---|---|---|---|", runs());
    for (what, files, command, reload) in [
        ("boot phase: its files written again", &boot, "titus-bootstrap apply --phase boot", ""),
        ("all files and links written again, packages there", &all, "titus-bootstrap", "; systemctl daemon-reload"),
    ] {
        let config = cloud_config(&node, files);
        node.shell(&format!("mkdir -p /run/floor; cp --parents {} /run/floor", files.join(" ")));
        let remove = format!("rm -f {} {LINKS}", files.join(" "));
        let ours = times(&remove, command);
        let by_hand = times(&remove, &format!("sh -c {}", quoted(&(floor(files) + reload))));
        node.write("/var/lib/cloud/seed/nocloud/user-data", &config);
        let theirs = times(&format!("cloud-init clean --logs > /dev/null; {remove}"), CLOUD_INIT);
        beside(what, ours, theirs, by_hand);
        // Whatever cloud-init left, the program's own state is what follows.
        agent::apply(&node);
    }
    // The floor of doing nothing is to ask systemd once.
    let show = format!("systemctl show --property=ActiveState {}", agent::UNITS.join(" "));
    timed(&node, "", CLOUD_INIT);
    beside("nothing to do", times("", "titus-bootstrap"), times("", CLOUD_INIT), times("", &show));
}

/// One word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
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
    let boot = [&BOOT[..], &[LINKS]].concat();
    row("boot phase: its files and links written again", times(&remove(&boot), "titus-bootstrap apply --phase boot"));

    // Without GRUB's, which has GRUB's own program run.
    let files: Vec<String> =
        agent::files().into_iter().map(|(path, _)| path).filter(|path| !path.contains("grub")).collect();
    let all: Vec<&str> = files.iter().map(String::as_str).chain([LINKS]).collect();
    row("all files and links written again, packages there", times(&remove(&all), "titus-bootstrap"));
}

#[test]
fn bench_of_a_baked_image() {
    println!("| what ({} runs each) | median | least to most |\n|---|---|---|", runs());
    // The floor: the same services, one after another, on the node that has just booted.
    let start = agent::UNITS.map(|unit| format!("systemctl start {unit}")).join("; ");
    let stop = format!("systemctl stop {} 2> /dev/null", agent::UNITS.join(" "));
    let first_boot = |_| {
        let (node, _services) = packer::boot(node::ADDRESS, node::MAC, items());
        (packer::unit_took(&node), timed(&node, &stop, &format!("sh -c {}", quoted(&start))))
    };
    let (boots, by_hand) = (0..runs()).map(first_boot).unzip();
    row("agent, first boot of a baked image: the unit's start to its end", boots);
    row("the same services started by hand, in that order", by_hand);
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
    // The floor: the same container of ZooKeeper, without data, until it answers. It may accept a connection and be silent.
    let serves = "bash -c 'docker start zookeeper
        until timeout 1 bash -c \"exec 3<> /dev/tcp/127.0.0.1/2181; printf srvr >&3; grep Mode <&3\"; do sleep 0.02; done'";
    let emptied = "docker stop zookeeper mesomaster > /dev/null; find /var/lib/zookeeper -mindepth 1 -delete";
    row("ZooKeeper alone, its container there: until it serves", times(emptied, serves));
    timed(&node, nothing, verified);
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
