//! Converged nodes that something else broke: what `plan`, `status`, `verify` and a run say of one agrees, and a run either
//! makes it good or names what is in its way. `tests/soak --broken N` breaks nodes N times at random.

use crate::harness::agent;
use crate::harness::cluster::{Cluster, FILES};
use crate::harness::node::Node;
use crate::harness::prereqs;
use crate::harness::{random, wait_for, wait_for_or};

/// One way of breaking a node.
struct Way {
    /// The script that does it.
    how: String,
    /// What a run that does not make it good must name, and the script that takes that away.
    refused: Option<(String, String)>,
    /// Whether systemd repairs it by itself, at an unknown moment.
    heals: bool,
}

fn repaired(how: impl Into<String>) -> Way {
    Way { how: how.into(), refused: None, heals: false }
}

fn healed(how: impl Into<String>) -> Way {
    Way { heals: true, ..repaired(how) }
}

fn refused(how: impl Into<String>, named: impl Into<String>, undo: impl Into<String>) -> Way {
    Way { refused: Some((named.into(), undo.into())), ..repaired(how) }
}

/// Ways of breaking what has one name: a file's path, a unit, a package, a container.
type Ways = &'static [fn(&str) -> Way];

const FILE: Ways = &[
    |path| repaired(format!("echo '# oops' >> {path}")),
    |path| repaired(format!(": > {path}")),
    |path| repaired(format!("rm {path}")),
    |path| repaired(format!("chmod 0666 {path}")),
    |path| repaired(format!("chown ubuntu:ubuntu {path}")),
    |path| linked(path, format!("ln -sf /dev/null {path}")),
    |path| linked(path, format!("cp {path} /root/same && ln -sf /root/same {path}")),
    |path| refused(format!("rm {path}; mkdir {path}"), as_named(path), format!("rmdir {path}")),
    |path| refused(format!("rm {path}; mkfifo {path}"), as_named(path), format!("rm {path}")),
    |path| {
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        refused(
            format!("stat --format %a {parent} > /root/mode; chmod 0777 {parent}; rm {path}"),
            as_named(parent),
            format!("chmod $(cat /root/mode) {parent}"),
        )
    },
];

/// A path as messages have it: /lib is a link to /usr/lib, and roles say /lib.
fn as_named(path: &str) -> &str {
    path.strip_prefix("/usr").filter(|rest| rest.starts_with("/lib/")).unwrap_or(path)
}

/// The run replaces a link by the file. It refuses a link at the path of a properties file, which has other keys too.
fn linked(path: &str, how: String) -> Way {
    if path.ends_with(".properties") { refused(how, path, format!("rm {path}")) } else { repaired(how) }
}

const UNIT: Ways = &[
    |unit| repaired(format!("systemctl stop {unit}")),
    |unit| repaired(format!("systemctl disable {unit}")),
    |unit| repaired(format!("systemctl mask {unit}")),
    |unit| repaired(format!("systemctl mask --runtime {unit}; systemctl stop {unit}")),
    |unit| refused(foreign_drop_in("/etc", unit), "zz-other.conf", forget_drop_in("/etc", unit)),
    |unit| refused(foreign_drop_in("/run", unit), "zz-other.conf", forget_drop_in("/run", unit)),
];

fn foreign_drop_in(below: &str, unit: &str) -> String {
    let directory = format!("{below}/systemd/system/{unit}.d");
    format!(
        "mkdir -p {directory}; printf '[Unit]\\nConditionPathExists=/nowhere\\n' > {directory}/zz-other.conf
         systemctl daemon-reload; systemctl stop {unit}"
    )
}

fn forget_drop_in(below: &str, unit: &str) -> String {
    format!("rm {below}/systemd/system/{unit}.d/zz-other.conf; systemctl daemon-reload")
}

const PACKAGE: Ways = &[
    |package| repaired(format!("dpkg --remove --force-depends {package}")),
    |package| repaired(format!("dpkg --purge --force-depends {package}")),
    |package| {
        repaired(format!(
            "sed -i '/^Package: {package}$/,/^$/ s/^Status: .*/Status: install ok half-installed/' /var/lib/dpkg/status"
        ))
    },
    // The administrator's own wish, and no drift.
    |package| repaired(format!("apt-mark hold {package}")),
];

const CONTAINER: Ways = &[
    |name| repaired(format!("docker stop {name}")),
    |name| repaired(format!("docker kill {name}")),
    |name| repaired(format!("docker rm --force {name}")),
    |name| repaired(format!("docker pause {name}")),
    |name| repaired(format!("docker update --restart no {name}")),
    |name| repaired(format!("docker update --memory 200m --memory-swap 200m {name}")),
    |name| repaired(format!("docker rename {name} other")),
];

/// What other software has on an agent.
fn others_on_an_agent() -> Vec<Way> {
    let drop_in = "/etc/default/grub.d/zz-other.cfg";
    vec![
        repaired("gpasswd --delete ubuntu docker"),
        repaired("rm /etc/systemd/system/multi-user.target.wants/mesos-agent.service"),
        repaired("rm -f /etc/systemd/system/mesos-slave.service; systemctl daemon-reload"),
        healed("systemctl kill --signal KILL mesos-agent"),
        repaired("sed -i 's/ net.ifnames=0//' /boot/grub/grub.cfg"),
        repaired("echo '{\"debug\": true}' > /etc/docker/daemon.json"),
        repaired("echo '10.9.9.9 somewhere' >> /etc/hosts"),
        repaired("rm /metatron"),
        refused(
            "echo '{\"iptables\": true}' > /etc/docker/daemon.json",
            "/etc/docker/daemon.json sets iptables",
            "rm /etc/docker/daemon.json",
        ),
        refused(
            format!("echo 'GRUB_CMDLINE_LINUX=\"quiet\"' > {drop_in}; sed -i 's/ net.ifnames=0//' /boot/grub/grub.cfg"),
            drop_in,
            format!("rm {drop_in}"),
        ),
        refused(
            "dpkg --remove --force-depends ca-certificates; printf 'Package: ca-certificates\\nPin: release *\\nPin-Priority: -1\\n' > /etc/apt/preferences.d/never",
            "ca-certificates",
            "rm /etc/apt/preferences.d/never",
        ),
        refused(
            "printf 'deb [signed-by=/etc/apt/keyrings/other.asc] file:/srv/repo test main\\n' > /etc/apt/sources.list.d/other.list",
            "/etc/apt/sources.list.d/other.list",
            "rm /etc/apt/sources.list.d/other.list",
        ),
        refused(
            "mkdir -p /etc/systemd/system; printf '[Service]\\nExecStart=/bin/sleep 1000\\n' > /etc/systemd/system/mesos-agent.service
             systemctl daemon-reload; systemctl restart mesos-agent",
            "/etc/systemd/system/mesos-agent.service",
            "rm /etc/systemd/system/mesos-agent.service; systemctl daemon-reload",
        ),
    ]
}

/// What other software has on a node with ZooKeeper and a Mesos master.
fn others_on_a_prereqs_node() -> Vec<Way> {
    vec![
        repaired("chmod 0777 /var/lib/zookeeper"),
        repaired("systemctl stop docker.socket docker.service"),
        repaired("gpasswd --delete ubuntu docker"),
        refused(
            "docker stop zookeeper
             systemd-run --quiet --unit other-port systemd-socket-activate --accept --listen 0.0.0.0:2181 /bin/cat
             until grep -q ' 00000000:0885 ' /proc/net/tcp; do sleep 0.1; done",
            "port 2181 is in use",
            "systemctl stop other-port",
        ),
    ]
}

/// Breaks a node, compares what each command says of it, and has a run make it good.
fn break_and_fix(node: &Node, way: &Way) {
    const LOOKS: [&[&str]; 3] = [&["plan", "--detailed-exitcode"], &["status"], &["verify"]];
    let how = &way.how;
    node.shell(how);
    let looks = LOOKS.map(|words| node.bootstrap(words));
    let run = node.bootstrap(&["apply", "--json"]);
    let is_wrong = run.code != 0 || !run.steps("changed").is_empty();
    let mut may_be_wrong = true;
    for look in &looks {
        // `verify` names a service that systemd has just restarted.
        let may_be_wrong_now = may_be_wrong || look.command.contains("verify");
        let agrees = (look.code != 0) == is_wrong || (way.heals && may_be_wrong_now && look.code != 0);
        assert!(agrees, "after `{how}`\n{}\n{}", look.transcript(), run.transcript());
        // What has healed stays so.
        may_be_wrong &= look.code != 0;
    }
    match &way.refused {
        None => assert_eq!(run.code, 0, "after `{how}`\n{}", run.transcript()),
        Some((named, undo)) => {
            assert!(run.code != 0 && run.err.contains(named.as_str()), "after `{how}`\n{}", run.transcript());
            node.shell(undo);
            node.bootstrap(&["apply"]).ends_with(0);
        }
    }
    for words in LOOKS {
        let mut look = node.bootstrap(words);
        // A Mesos master may notice only now that its session with a paused ZooKeeper has ended. It exits, and starts again.
        if how == "docker pause zookeeper" {
            look = wait_for("the master", || Some(node.bootstrap(words)).filter(|look| look.code == 0));
        }
        assert_eq!(look.code, 0, "repaired after `{how}`\n{}", look.transcript());
    }
}

/// What of a role's node is broken in each way that there is for its kind.
struct Targets {
    files: &'static [&'static str],
    units: &'static [&'static str],
    packages: &'static [&'static str],
    containers: &'static [&'static str],
    others: fn() -> Vec<Way>,
}

const AGENT: Targets = Targets {
    files: &[
        "/etc/mesos-attributes.sh",
        "/etc/mesos-agent.config",
        "/etc/titus-shared.env",
        "/etc/titus-executor/config.json",
        "/etc/profile.d/titus_environment.sh",
        "/etc/systemd/system/docker.service.d/10-docker-config.conf",
        "/etc/tmpfiles.d/titus-bootstrap.conf",
    ],
    units: &["docker-tcp-proxy.socket", "mesos-agent.service"],
    packages: &["titus-executor", "mesos"],
    containers: &[],
    others: others_on_an_agent,
};

const PREREQS: Targets = Targets {
    files: &["/etc/apt/sources.list.d/titus-bootstrap-test.sources"],
    units: &[],
    packages: &[],
    containers: &["mesomaster", "zookeeper"],
    others: others_on_a_prereqs_node,
};

const MASTER: Targets = Targets {
    files: &FILES[0],
    units: &["titus-server-master.service"],
    packages: &["titus-server-master", "titus-executor"],
    containers: &[],
    others: Vec::new,
};

const GATEWAY: Targets = Targets {
    files: &FILES[1],
    units: &["titus-server-gateway.service", "titus-instance-groups.timer"],
    packages: &["titus-server-gateway"],
    containers: &[],
    others: Vec::new,
};

impl Targets {
    fn kinds(&self) -> [(&'static [&'static str], Ways); 4] {
        [(self.files, FILE), (self.units, UNIT), (self.packages, PACKAGE), (self.containers, CONTAINER)]
    }

    /// Each way once, of one target after the other.
    fn each_way(&self) -> Vec<Way> {
        let of_kind = |(targets, ways): (&'static [&'static str], Ways)| {
            ways.iter().zip(targets.iter().cycle()).map(|(way, target)| way(target))
        };
        self.kinds().into_iter().flat_map(of_kind).chain((self.others)()).collect()
    }

    /// Each way of each target.
    fn all(&self) -> Vec<Way> {
        let of_kind = |(targets, ways): (&'static [&'static str], Ways)| {
            targets.iter().flat_map(move |target| ways.iter().map(move |way| way(target)))
        };
        self.kinds().into_iter().flat_map(of_kind).chain((self.others)()).collect()
    }
}

#[test]
fn each_way_of_breaking_an_agent_is_seen_by_all_commands() {
    let node = Node::converged();
    let _services = agent::services(&node);
    agent::apply(&node);
    let ways = AGENT.each_way();
    assert!(ways.len() > 30);
    ways.iter().for_each(|way| break_and_fix(&node, way));
}

#[test]
fn each_way_of_breaking_a_prereqs_node_is_seen_by_all_commands() {
    let node = Node::fresh();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.bootstrap(&[]).ends_with(0);
    PREREQS.each_way().iter().for_each(|way| break_and_fix(&node, way));
    prereqs::check(&node);
}

/// `BROKEN=N`: so many ways, chosen at random, on a node of each role in turn.
#[test]
#[ignore = "tests/soak --broken N runs it"]
fn soak_of_broken_nodes() {
    let count: usize = std::env::var("BROKEN").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let cluster = Cluster::new();
    let runs: Vec<_> = cluster.nodes().iter().map(|node| node.spawn(&["titus-bootstrap", "apply"])).collect();
    runs.into_iter().for_each(|run| drop(run.end().ends_with(0)));
    let ways = [PREREQS, MASTER, GATEWAY, AGENT].map(|targets| targets.all());
    for n in 0..count {
        let (node, ways) = (cluster.nodes()[n % 4], &ways[n % 4]);
        let way = &ways[random(ways.len())];
        // What was broken on another node may have ended what this one keeps true: its timer sees to that.
        let verify = || node.bootstrap(&["verify"]);
        wait_for_or("the node to be as it should be", || verify().transcript(), || (verify().code == 0).then_some(()));
        eprintln!("{n} {}: {}", node.hostname(), way.how);
        break_and_fix(node, way);
    }
}
