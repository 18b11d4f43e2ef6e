//! Killed at any moment, on a temporary root and on a node: the next run ends where
//! an undisturbed one does. `SOAK=N` makes it N kills, and N/20 on nodes of each role.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::agent;
use crate::harness::cluster::{Member, member};
use crate::harness::debs::{self, ADDRESS, Deb, Manner, PLAIN, Server};
use crate::harness::image::{converged, program};
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::prereqs::{self, ZOOKEEPER};
use crate::harness::random;
use crate::harness::running::Running;
use crate::harness::znodes;
use crate::support::outcome::Outcome;
use crate::support::tree::{complete, contents, differences};

/// How many kills; without a word from `tests/soak` a few.
pub fn kills() -> u32 {
    std::env::var("SOAK").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

#[test]
fn soak_of_a_temporary_root() {
    let directory = tempfile::tempdir().unwrap();
    let sample = |root: &Path| {
        let mut command = Command::new(program());
        command.args(["--role", "agent", "--sample", "--root"]).arg(root).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let undisturbed = directory.path().join("undisturbed");
    let started = Instant::now();
    assert!(sample(&undisturbed).status().unwrap().success());
    let duration = started.elapsed();
    let wanted = complete(&undisturbed);

    let mut soak = Soak::default();
    for _ in 0..kills() {
        let root = directory.path().join("killed");
        let mut run = sample(&root).spawn().unwrap();
        let after = random_part(duration);
        let moment = Instant::now() + after;
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        run.kill().unwrap();
        let before_its_end = run.wait().unwrap().code().is_none();
        let code = sample(&root).status().unwrap().code();
        soak.count(after, before_its_end, code, &differences(&wanted, &complete(&root)));
        std::fs::remove_dir_all(&root).unwrap();
    }
    soak.conclude("a temporary root");
}

#[test]
fn soak_of_nodes() {
    let reference = Node::converged();
    let wanted = contents(&reference.path("/"));
    drop(reference);

    let mut soak = Soak::default();
    for _ in 0..kills().div_ceil(20) {
        let (node, _services) = agent::fresh();
        let after = random_part(converged().duration);
        let (before_its_end, next) = killed(&node, &[], after);
        if next.code == 0 {
            agent::check(&node);
        }
        soak.count(after, before_its_end, Some(next.code), &differences(&wanted, &contents(&node.path("/"))));
    }
    soak.conclude("nodes");
}

/// Runs that replace containers, and runs that make containers and images from nothing.
#[test]
fn soak_of_containers() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    let started = Instant::now();
    node.bootstrap(&["apply"]).ends_with(0);
    let duration = started.elapsed();
    znodes::write(&node, ZOOKEEPER, "/kept", "from before all kills");

    let mut soak = Soak::default();
    for n in 0..kills().div_ceil(20) {
        let files = format!("containers.log.max_file={}", 4 + n % 2);
        if n % 2 == 1 {
            node.shell("docker rm --force zookeeper mesomaster; docker image prune --all --force");
        }
        let after = random_part(duration);
        // Kept: the checks ask what the node's settings say.
        let (before_its_end, next) = killed(&node, &["--save", "--set", &files], after);
        let mut wrong = Vec::new();
        if next.code == 0 {
            prereqs::check(&node);
            if znodes::read(&node, ZOOKEEPER, "/kept").as_deref() != Some("from before all kills") {
                wrong.push("the znode is gone".to_owned());
            }
        }
        soak.count(after, before_its_end, Some(next.code), &wrong);
    }
    soak.conclude("containers");
}

/// A deb that a run replaces with one of another version, downloaded slowly. The test kills every process at work,
/// apt and dpkg too, like a power cut.
#[test]
fn soak_of_debs() {
    let node = Node::fresh();
    debs::role(&node);
    let server = Server::new(&node);
    let contents = vec![b'x'; 8 << 20];
    let build = |version| Deb { version, contents: &contents, ..PLAIN }.build();
    let builds = [("0.0.1-1", build("0.0.1-1")), ("0.0.2-1", build("0.0.2-1"))];
    let argv = |deb: &[u8]| {
        let setting = format!("debs.master={{ url = \"http://{ADDRESS}/x.deb\", sha256 = \"{}\" }}", debs::sha256(deb));
        ["titus-bootstrap", "apply", "--role", "debs", "--phase", "bake", "--set", &setting].map(str::to_owned)
    };
    let mut duration = Duration::ZERO;
    for (_, deb) in &builds {
        server.serve(deb, Manner::Good);
        let started = Instant::now();
        node.run(&argv(deb).each_ref().map(String::as_str)).ends_with(0);
        duration = started.elapsed();
    }
    let mut soak = Soak::default();
    for n in 0..kills().div_ceil(20) {
        let (version, deb) = &builds[n as usize % 2];
        server.serve(deb, Manner::Good);
        let (argv, after) = (argv(deb), random_part(duration));
        let argv = argv.each_ref().map(String::as_str);
        let all = |_: &mut Running| debs::kill(&node, &["titus-bootstrap", "apt-get", "dpkg", "dpkg-deb"]);
        let (before_its_end, next) = killed_by(all, &node, &argv, after);
        let mut wrong = Vec::new();
        let is_whole =
            || debs::installed(&node) == format!("{version} installed") && node.shell("dpkg --audit").is_empty();
        if next.code == 0 && !is_whole() {
            wrong.push(debs::installed(&node));
        }
        soak.count(after, before_its_end, Some(next.code), &wrong);
    }
    soak.conclude("debs");
}

#[test]
fn soak_of_masters() {
    soak_of_titus("master", 2);
}

#[test]
fn soak_of_gateways() {
    soak_of_titus("gateway", 3);
}

/// Fresh nodes of a role, and the nodes that it needs.
fn soak_of_titus(role: &str, place: usize) {
    let network = Network::new();
    let others: Vec<Member> =
        ["prereqs", "master"].iter().zip(1..place).map(|(role, n)| member(&network, role, n)).collect();
    let started = Instant::now();
    others.iter().for_each(|other| drop(other.node.bootstrap(&["apply"]).ends_with(0)));
    let mut duration = started.elapsed() / others.len() as u32;

    let mut soak = Soak::default();
    for _ in 0..kills().div_ceil(20) {
        let Member { node, .. } = &member(&network, role, place);
        let after = random_part(duration);
        let (before_its_end, next) = killed(node, &[], after);
        let mut wrong = Vec::new();
        if next.code == 0 {
            let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
            wrong.extend(again.steps("changed"));
            for check in node.bootstrap(&["verify", "--json"]).json()["checks"].as_array().unwrap() {
                // No agent of it is here; and these instances have no profile.
                let id = check["id"].as_str().unwrap_or_default();
                if check["state"] != "good" && !["instance-groups", "log-bucket"].contains(&id) {
                    wrong.push(check.to_string());
                }
            }
        }
        if !before_its_end {
            duration = duration.min(after);
        }
        soak.count(after, before_its_end, Some(next.code), &wrong);
    }
    soak.conclude(role);
}

/// A run that is killed so long after its start, or has ended by then; and the next one.
fn killed(node: &Node, arguments: &[&str], after: Duration) -> (bool, Outcome) {
    killed_by(Running::kill, node, &[&["titus-bootstrap", "apply"], arguments].concat(), after)
}

fn killed_by(kill: impl FnOnce(&mut Running), node: &Node, argv: &[&str], after: Duration) -> (bool, Outcome) {
    let started = Instant::now();
    let mut run = node.spawn(argv);
    while started.elapsed() < after && !run.ended() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before_its_end = !run.ended();
    kill(&mut run);
    run.end();
    let next = node.run(argv);
    if next.code != 0 {
        println!("{}", next.transcript());
    }
    (before_its_end, next)
}

/// The results of the kills so far.
#[derive(Default)]
struct Soak {
    kills: u32,
    before_the_end: u32,
    failures: Vec<String>,
}

impl Soak {
    fn count(&mut self, after: Duration, before_its_end: bool, next: Option<i32>, differences: &[String]) {
        self.kills += 1;
        self.before_the_end += u32::from(before_its_end);
        if next != Some(0) || !differences.is_empty() {
            let output = differences.join("\n");
            self.failures.push(format!("killed after {after:?}: the next run ended with {next:?}\n{output}"));
        }
    }

    fn conclude(self, what: &str) {
        let Soak { kills, before_the_end, failures } = self;
        let good = kills as usize - failures.len();
        println!("soak of {what}: {kills} kills, {before_the_end} of them before the run's end; {good} converged");
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

/// A random part of `duration`.
fn random_part(duration: Duration) -> Duration {
    duration.mul_f64(random(1 << 24) as f64 / f64::from(1 << 24))
}
