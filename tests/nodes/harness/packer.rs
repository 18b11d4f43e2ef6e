//! Images of agents as people build them: Packer, its docker builder, packaging/packer.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::agent;
use super::deb::deb;
use super::docker::{docker, label};
use super::image::fresh;
use super::node::Node;
use super::registry::{self, Registry};
use super::services::{self, Services, in_network, items};
use super::wait_for;
use crate::support::metadata::{Items, Metadata};
use crate::support::outcome::Outcome;

/// The builder's id, which is not that of the sample instance: the program itself has that one.
pub const BUILDER: &str = "i-0b1d2e3f4a5b6c7d8";
/// Its address and host name.
pub const ADDRESS: &str = "30.0.100.77";
pub const NAME: &str = "ip-30-0-100-77";
/// The address of its hardware.
pub const MAC: &str = "0a:1b:2c:3d:4e:77";
/// Its key pair's public key.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGpHHo4Vg0i0bqGm3a7x4l9nVxX0T1cS0d3QqP0aB1cD packer_key";

/// The kernel of the machine that runs the tests shows through, and no reboot changes it.
const SETTINGS: &str = "reboot = \"never\"";

/// What a machine has that EC2 and cloud-init have made a builder.
fn leavings() -> String {
    format!(
        "mkdir -p /etc/ssh /var/lib/cloud/data /var/log/journal/0123 /root/.ssh /var/lib/dhcp
         echo 0123456789abcdef0123456789abcdef > /etc/machine-id
         echo secret | tee /etc/ssh/ssh_host_ed25519_key > /etc/ssh/ssh_host_rsa_key
         echo {BUILDER} > /var/lib/cloud/data/instance-id
         echo 'booted {BUILDER} at {ADDRESS}' | tee /var/log/cloud-init.log > /var/log/journal/0123/system.journal
         echo '{KEY}' > /root/.ssh/authorized_keys
         echo 'fixed-address {ADDRESS};' > /var/lib/dhcp/dhclient.eth0.leases
         echo ls > /root/.bash_history"
    )
}

/// The builder's metadata, given to it as to every instance.
fn metadata() -> Items {
    let mut items = items();
    // A builder has no role: with one, its boot unit would make it a node.
    items.remove("meta-data/tags/instance/titus:role");
    let mut set = |path: &str, value: &str| items.insert(path.into(), value.into());
    set("meta-data/instance-id", BUILDER);
    set("meta-data/local-ipv4", ADDRESS);
    set("meta-data/local-hostname", &format!("{NAME}.eu-west-1.compute.internal"));
    set("meta-data/mac", MAC);
    set("meta-data/public-keys/", "0=packer_key");
    set("meta-data/public-keys/0/openssh-key", KEY);
    items
}

/// A container image that `script` made of `base`.
pub fn changed(base: &str, name: &str, script: &str) -> String {
    let id = docker(&["run", "--detach", "--label", &label(), "--network", "none", base, "bash", "-euc", script]);
    let code = docker(&["wait", &id]);
    assert_eq!(code, "0", "{}", docker(&["logs", &id]));
    let image = format!("titus-bootstrap-builder:{}-{name}", std::process::id());
    docker(&["commit", "--change", &format!("LABEL {}", label()), &id, &image]);
    docker(&["rm", "--volumes", &id]);
    image
}

/// `packer build` of an agent's image on the machine that `base` is; the image is tagged `name`.
pub fn build(base: &str, name: &str) -> (Outcome, String) {
    build_for(&["agent"], deb(), &agent::settings_text("my-logs", SETTINGS), base, name)
}

/// The same of an image for these roles, with this deb and these settings. A registry has what they pull.
pub fn build_for(roles: &[&str], deb: &Path, settings: &str, base: &str, name: &str) -> (Outcome, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("config.toml"), settings).unwrap();
    let mark = format!("titus-bootstrap-builder={}-{name}", std::process::id());
    let mut options = Node::options("eth0", ADDRESS, MAC);
    let repository = format!("{}:/srv/repo:ro", fresh().repository.display());
    options.extend(["--label".into(), mark.clone(), "--volume".into(), repository]);
    let variables = serde_json::json!({
        "roles": roles, "deb": deb, "settings": path("config.toml"), "base_image": base,
        "docker_run": options, "image_repository": "titus-bootstrap-baked",
        "image_tag": format!("{}-{name}", std::process::id()),
    });
    std::fs::write(path("image.pkrvars.json"), variables.to_string()).unwrap();
    let template = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/packer/titus.pkr.hcl");
    let mut command = Command::new("packer");
    command
        .args(["build", "-color=false", "-only=docker.titus"])
        .arg(format!("-var-file={}", path("image.pkrvars.json")));
    // Keeps Packer's own files out of the home directory, and turns off its check for a newer version.
    command.arg(template).env("HOME", directory.path()).env("PACKER_CONFIG_DIR", directory.path());
    command.env("CHECKPOINT_DISABLE", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let packer = command.spawn().unwrap_or_else(|e| panic!("packer cannot be run: {e}"));
    let ended = std::thread::spawn(move || packer.wait_with_output());

    // In the builder's own network: the metadata service is there before anything is baked.
    let (init, listener) = wait_for("the builder's network", || {
        assert!(!ended.is_finished(), "packer ended before its builder had a network");
        let id = docker(&["ps", "--quiet", "--filter", &format!("label={mark}")]);
        let init: i32 =
            docker(&["inspect", "--format", "{{.State.Pid}}", (!id.is_empty()).then_some(&id)?]).parse().ok()?;
        Some((init, in_network(init, || TcpListener::bind("169.254.169.254:80").ok())?))
    });
    let _registry = roles.contains(&"prereqs").then(|| Registry::serve_in(init, registry::ADDRESS, ""));
    let served = Metadata::serve(listener, metadata());
    served.require_tokens(false);
    let output = ended.join().unwrap().unwrap();
    (Outcome::new("packer build", output), format!("titus-bootstrap-baked:{}-{name}", std::process::id()))
}

/// The image of an agent, built on a machine that was an instance; made once a test process.
pub fn baked() -> &'static str {
    static BAKED: OnceLock<String> = OnceLock::new();
    BAKED.get_or_init(|| {
        let base = changed(&fresh().image, "used", &leavings());
        let (outcome, image) = build(&base, "agent");
        outcome.ends_with(0);
        image
    })
}

/// A node of that image while it boots, and its metadata.
pub fn boot(address: &str, mac: &str, items: Items) -> (Node, Services) {
    let node = Node::begin(baked(), address, mac);
    let services = services::serve(&node, items);
    node.await_boot();
    (node, services)
}

/// How long the boot unit took, milliseconds.
pub fn unit_took(node: &Node) -> f64 {
    let at = |edge: &str| -> f64 {
        node.property("titus-bootstrap.service", &format!("ExecMain{edge}TimestampMonotonic")).parse().unwrap()
    };
    (at("Exit") - at("Start")) / 1000.0
}
