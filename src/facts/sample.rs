//! Built-in facts and settings for `--sample`: the agent of the proof of concept.

use std::collections::BTreeMap;

use super::{Cgroup, Facts, Image, Instance};

/// The facts of an m4.large in eu-west-1a with Ubuntu 16.04.
pub fn facts() -> Facts {
    let tags = [("Name", "titusagent"), (super::GROUP_TAG, "titusagent")];
    Facts {
        schema_version: crate::SCHEMA_VERSION,
        instance: Some(Instance {
            id: "i-0123456789abcdef0".into(),
            instance_type: "m4.large".into(),
            zone: "eu-west-1a".into(),
            region: "eu-west-1".into(),
            local_ipv4: "30.0.100.140".into(),
            hostname: "ip-30-0-100-140.eu-west-1.compute.internal".into(),
            mac: "0a:1b:2c:3d:4e:5f".into(),
            vpc_id: Some("vpc-0123456789abcdef0".into()),
            account_id: Some("123456789012".into()),
            reservation_id: Some("r-0123456789abcdef0".into()),
            ami_id: Some("ami-0123456789abcdef0".into()),
            tags: Some(tags.map(|(key, value)| (key.into(), value.into())).into()),
            tags_source: super::TagSource::default(),
            autoscaling_group: Some("titusagent".into()),
            lifecycle_state: Some("InService".into()),
            memory_mib: 7982,
            disk_mib: 30720,
            cpus: 2,
            kernel_command_line: "BOOT_IMAGE=/boot/vmlinuz-4.4.0-1057-aws root=LABEL=cloudimg-rootfs ro \
                                  console=tty1 console=ttyS0"
                .into(),
            boot_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
            http_tokens: None,
            type_numbers: None,
        }),
        image: Image {
            distribution: "ubuntu".into(),
            release: "16.04".into(),
            codename: "xenial".into(),
            architecture: "x86_64".into(),
            kernel: "4.4.0-1057-aws".into(),
            cgroup: Some(Cgroup::V1),
            systemd: Some(229),
        },
        sources: BTreeMap::from([
            ("instance".into(), "the built-in sample".into()),
            ("image".into(), "the built-in sample".into()),
        ]),
        hidden: Vec::new(),
    }
}

/// The facts of the node with this role in the proof of concept.
pub fn role_facts(role: Option<&str>) -> Facts {
    let mut facts = facts();
    if let (Some("prereqs"), Some(instance)) = (role, &mut facts.instance) {
        instance.instance_type = "t2.large".into();
        instance.local_ipv4 = "30.0.100.194".into();
        instance.hostname = "ip-30-0-100-194.eu-west-1.compute.internal".into();
        instance.autoscaling_group = None;
        instance.tags = Some([("Name".into(), "titusprereqs".into())].into());
    }
    facts
}

/// The settings of the proof of concept, for all four roles, as TOML. Values that it left
/// to the account (the IAM role's account, the security group) are invented.
pub const SETTINGS: &str = r#"# The proof of concept: Terraform's variables, and its addresses.
prereqs = "30.0.100.194"

[master]
address = "30.0.100.24"
default_iam_role = "arn:aws:iam::123456789012:role/titusappwiths3InstanceProfile"
default_security_groups = "sg-0123456789abcdef0"

[gateway]
activate_instance_groups = ["titusagent"]

[agent]
log_bucket = "titus-log-bucket-terraform-example"

[debs]
master = { path = "/opt/titus-debs/titus-server-master_0.0.1-1_all.deb" }
gateway = { path = "/opt/titus-debs/titus-server-gateway_0.0.1-1_all.deb" }
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_survive_being_printed_and_read() {
        let printed = serde_json::to_string(&facts()).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&printed).unwrap(), facts());
    }

    #[test]
    fn the_settings_are_toml() {
        let settings: toml::Table = SETTINGS.parse().unwrap();
        assert_eq!(settings["prereqs"].as_str(), Some("30.0.100.194"));
    }

    #[test]
    fn the_type_is_in_the_table() {
        let instance = facts().instance.unwrap();
        assert!(crate::titus::instance_types::lookup(&instance.instance_type).is_some());
    }
}
