//! What packaging/terraform and packaging/packer pass to the program, which `tests/packaging/terraform` records from
//! Terraform itself, and the settings of their READMEs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use serde_json::Value;

use support::metadata::{Items, Metadata, sample};
use support::root::{Root, run};

/// What EC2 gives to the instances that Terraform made.
const INSTANCES: &str = include_str!("../packaging/instances.json");
const IMAGE: &str = include_str!("../../packaging/terraform/image.toml");
const CHECK: &str = include_str!("../../packaging/packer/check.sh");
const PACKER: &str = include_str!("../../packaging/packer/README.md");

const ROLES: [&str; 4] = ["prereqs", "master", "gateway", "agent"];

/// The metadata of such an instance.
fn metadata(given: &Value) -> Items {
    let mut items = sample();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    let mut set = |path: &str, value: &Value| items.insert(path.to_owned(), value.as_str().unwrap().into());
    set("meta-data/instance-type", &given["instance_type"]);
    set("meta-data/local-ipv4", &given["local_ipv4"]);
    set("user-data", &given["user_data"]);
    for (key, value) in given["tags"].as_object().unwrap() {
        set(&format!("meta-data/tags/instance/{key}"), value);
    }
    items
}

/// The settings that the README has a person write, and what they lack: checksums of debs that nobody has.
fn settings() -> String {
    let (_, rest) = PACKER.split_once("- > settings.toml <<'END'\n").unwrap();
    let (text, _) = rest.split_once("    END\n").unwrap();
    let text: String = text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect();
    assert!(text.contains("sha256 = \"…\""), "{text}");
    format!("{IMAGE}\n{text}").replace('…', &"0".repeat(64))
}

#[test]
fn instances_of_terraform_become_what_their_tags_say() {
    let instances: Value = serde_json::from_str(INSTANCES).unwrap();
    assert_eq!(instances.as_object().unwrap().len(), ROLES.len());
    for role in ROLES {
        let root = Root::empty();
        root.write("/etc/titus-bootstrap/config.toml", settings());
        let metadata = Metadata::start(metadata(&instances[role]));
        metadata.require_tokens(instances[role]["http_tokens"] == "required");
        let made = root.ask(&metadata, &["apply", "--json"]).ends_with(0);
        assert_eq!(made.json()["role"], role);
        let again = root.ask(&metadata, &["apply", "--json"]).ends_with(0);
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
        root.ask(&metadata, &["plan", "--detailed-exitcode"]).ends_with(0);
        let expected: &[(&str, &str)] = match role {
            "prereqs" => &[],
            "master" => &[
                ("/opt/titus-server-master/titusmaster.properties", "30.0.100.11"),
                (
                    "/opt/titus-server-master/titusmaster.properties",
                    "arn:aws:iam::123456789012:role/titusappwiths3InstanceProfile",
                ),
            ],
            "gateway" => &[
                ("/opt/titus-server-gateway/titusgateway.properties", "30.0.100.12"),
                ("/opt/titus-server-gateway/titusgateway.properties", "sg-0123456789abcdef0"),
            ],
            _ => &[
                ("/etc/mesos-agent.config", "zk://30.0.100.11:2181/titus/mainvpc/mesos"),
                ("/etc/profile.d/titus_environment.sh", "TITUS_LOG_BUCKET=my-titus-logs"),
                ("/etc/mesos-attributes.sh", "asg:titusagent\n"),
            ],
        };
        for (path, text) in expected {
            assert!(root.read(path).contains(text), "{role}: {path} lacks {text}:\n{}", root.read(path));
        }
    }
}

#[test]
fn an_agent_of_terraform_completes_the_groups_hook() {
    let instances: Value = serde_json::from_str(INSTANCES).unwrap();
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", settings());
    let metadata = Metadata::start(metadata(&instances["agent"]));
    root.ask(&metadata, &["config", "show"]).ends_with(0).prints(&[
        "lifecycle.hook",
        "\"titus-bootstrap\"",
        "on_failure.mark_unhealthy",
    ]);
}

/// What packaging/packer/check.sh asks on the builder, and what it refuses before anything is installed.
#[test]
fn the_settings_of_the_packer_readme_are_enough_for_all_roles() {
    let (_, given) = CHECK.split_once("given=(").unwrap();
    let (given, _) = given.split_once(')').unwrap();
    let root = Root::empty();
    let path = root.at("/settings.toml").display().to_string();
    let mut check: Vec<&str> =
        vec!["check", &path, "--role=prereqs", "--role=master", "--role=gateway", "--role=agent"];
    check.extend(given.split_whitespace());
    root.write("/settings.toml", settings());
    run(&check).ends_with(0);
    for (right, wrong, message) in [
        ("gateway = { url", "gate = { url", "unknown"),
        ("sha256 = \"0", "sha265 = \"0", "sha265"),
        ("docker = [\"docker-ce=", "docker = [\"docker ce=", "docker ce"),
        ("allowed_tags = [\"role\"", "allowed_tags = [\"rôle\"", "rôle"),
    ] {
        let text = settings();
        assert!(text.contains(right), "{text}");
        root.write("/settings.toml", text.replacen(right, wrong, 1));
        run(&check).ends_with(78).reports(&[message]);
    }
    // Nobody has forgotten the deb of a role when a builder is paid for.
    let (before, after) = settings().split_once("gateway = {").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    root.write("/settings.toml", before + after.split_once('\n').unwrap().1);
    run(&check).ends_with(78).reports(&["role gateway needs debs.gateway"]);
}
