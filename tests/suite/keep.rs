//! `keep` runs long after the run on whose tags, user data and flags it depends.

use crate::support;

use support::metadata::{Metadata, sample};
use support::root::Root;

const HANDED_DOWN: &str = "/var/lib/titus-bootstrap/settings.toml";

/// An image that allows tags to set the master's address.
fn image() -> Root {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "allowed_tags = ['role', 'master.address', 'agent.asg']\n");
    root
}

/// A gateway whose settings come from everywhere except its own files.
fn gateway() -> Metadata {
    let metadata = Metadata::start(sample());
    metadata.set("meta-data/tags/instance/", Some("titus:role\ntitus:master.address\ntitus:agent.asg".into()));
    metadata.set("meta-data/tags/instance/titus:role", Some("gateway".into()));
    metadata.set("meta-data/tags/instance/titus:master.address", Some("10.0.0.9".into()));
    metadata.set("meta-data/tags/instance/titus:agent.asg", Some("agents-v003".into()));
    let user_data = "#!/usr/bin/titus-bootstrap --set debs.gateway={path=\"/opt/gateway.deb\"}\n\
                     [master]\ndefault_iam_role = \"arn:aws:iam::123456789012:role/x\"\n";
    metadata.set("user-data", Some(user_data.into()));
    metadata
}

#[test]
fn it_has_what_its_run_had() {
    let root = image();
    let apply = ["apply", "--set", "master.default_security_groups=sg-0123456789abcdef0", "--json"];
    root.ask(&gateway(), &apply).ends_with(0);
    // There is no tag, no user data, no flag and no role.
    let report = root.run(&["keep", "--json"]).ends_with(0).json();
    assert_eq!(report["role"], "gateway");
    assert_eq!(report["steps"][0]["id"], "instance-groups-active", "{report:#}");
    let text = root.read(HANDED_DOWN);
    for line in ["role = \"gateway\"", "address = \"10.0.0.9\"", "asg = \"agents-v003\"", "path = \"/opt/gateway.deb\""]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    // A setting without a value has the default of this version.
    assert!(!text.contains("log_level") && !text.contains("unit_dir"), "{text}");
}

#[test]
fn a_second_run_writes_it_only_if_something_differs() {
    let root = image();
    let metadata = gateway();
    let apply = ["apply", "--set", "master.default_security_groups=sg-0123456789abcdef0"];
    root.ask(&metadata, &apply).ends_with(0);
    let before = root.stamps();
    root.ask(&metadata, &apply).ends_with(0);
    support::root::assert_same(&root.stamps(), &before, "the second run");
    metadata.set("meta-data/tags/instance/titus:agent.asg", Some("agents-v004".into()));
    root.ask(&metadata, &apply).ends_with(0);
    assert!(root.read(HANDED_DOWN).contains("agents-v004"));
}

#[test]
fn without_a_run_it_has_the_settings_of_the_node_s_files() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "role = 'gateway'\nagent.asg = 'group'\n");
    root.run(&["keep"]).ends_with(0);
    root.write(HANDED_DOWN, "role = [\n");
    root.run(&["keep"]).ends_with(78).reports(&[HANDED_DOWN]);
}
