//! The images that nodes are started from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::agent;
use super::debs::sha256;
use super::docker::{LABEL, docker, label, remove_abandoned};
use super::node::Node;
use crate::support::tree::contents;

/// The repository of images of converged nodes; a tag is a role and a digest.
const KEPT: &str = "titus-bootstrap-kept";

/// The settings that name the repository of the nodes, for the end of a file of settings.
pub const SOURCE: &str = "[[apt.sources]]\nname = \"test\"\nuris = [\"file:/srv/repo\"]\nsuites = [\"test\"]\n\
    components = [\"main\"]\nkey = \"/srv/repo/key.asc\"\n";

/// Debian with systemd, and the apt repository that its nodes see.
pub struct Fresh {
    /// The image's name.
    pub image: String,
    /// The repository's directory, `/srv/repo` in a node.
    pub repository: PathBuf,
    /// The storage of a registry with the images of role prereqs.
    pub registry: PathBuf,
    /// The name of the same image with cloud-init and unattended-upgrades.
    pub first_boot: String,
    /// The name of the same image with Docker.
    pub engine: String,
}

/// The image of a node on which nothing ever ran; made when it does not exist yet.
pub fn fresh() -> &'static Fresh {
    static FRESH: OnceLock<Fresh> = OnceLock::new();
    FRESH.get_or_init(|| {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/image/build");
        let output = Command::new(build).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{build} failed: {}", output.status);
        let printed = String::from_utf8(output.stdout).unwrap();
        let [image, repository, registry, first_boot, engine] = printed.lines().collect::<Vec<_>>()[..] else {
            panic!("{build} printed {printed}");
        };
        remove_abandoned();
        Fresh {
            image: image.into(),
            repository: repository.into(),
            registry: registry.into(),
            first_boot: first_boot.into(),
            engine: engine.into(),
        }
    })
}

/// A node that one run has made an agent.
pub struct Converged {
    /// The image's name.
    pub image: String,
    /// How long that run took.
    pub duration: Duration,
}

/// The image of such a node; made once a test process.
pub fn converged() -> &'static Converged {
    static CONVERGED: OnceLock<Converged> = OnceLock::new();
    CONVERGED.get_or_init(|| {
        let node = Node::fresh();
        let _services = agent::services(&node);
        agent::settings(&node);
        let started = Instant::now();
        node.bootstrap(&["apply"]).ends_with(0);
        let duration = started.elapsed();
        agent::check(&node);
        docker(&["stop", "--time", "30", &node.id]);
        let image = format!("titus-bootstrap-converged:{}", std::process::id());
        docker(&["commit", "--change", &format!("LABEL {}", label()), &node.id, &image]);
        Converged { image, duration }
    })
}

/// The image of a node of a role that a run has converged, kept for the next test process.
pub struct Kept {
    name: String,
}

impl Kept {
    /// The image for the current files: its name has a digest of the inputs of a node, except the program,
    /// which differs after every change. Start a node from it with a run.
    pub fn new(role: &str, settings: &str) -> Kept {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let trees = ["roles", "systemd", "data"].map(|directory| contents(&project.join(directory)));
        let defaults = std::fs::read_to_string(project.join("src/settings/defaults.toml")).unwrap();
        let parts = format!("{}\n{settings}\n{defaults}\n{trees:?}", fresh().image);
        Kept { name: format!("{KEPT}:{role}-{}", &sha256(parts.as_bytes())[..16]) }
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        !docker(&["images", "--quiet", &self.name]).is_empty()
    }

    /// Its name or, without one, that of the image of a node on which nothing ever ran.
    pub fn or_fresh(&self) -> &str {
        if self.exists() { &self.name } else { &fresh().image }
    }

    /// Makes it from a node that is off. Those of the same role that were made of something else are removed.
    pub fn keep(&self, node: &Node) {
        let role = self.name.rsplit_once('-').unwrap().0;
        for old in docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", KEPT]).lines() {
            if old.starts_with(role) {
                // A node that started from it may still run.
                let _ = Command::new("docker").args(["rmi", old]).output();
            }
        }
        docker(&["commit", "--change", &format!("LABEL {LABEL}=image"), &node.id, &self.name]);
    }
}

/// The program under test: the release binary that `tests/run` names, else cargo's.
pub fn program() -> String {
    std::env::var("TITUS_BOOTSTRAP_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_titus-bootstrap").into())
}
