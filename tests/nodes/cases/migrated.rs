//! Nodes that the proof of concept's scripts made masters and gateways, twice, end as fresh ones do.

use crate::harness::agent::SETTINGS;
use crate::harness::cluster::{self, FILES};
use crate::harness::node::Node;
use crate::harness::prereqs;
use crate::support::tree::{Tree, assert_same, contents};

/// What the scripts do, to `$1`, the role: the deb unchecked, then lines appended, and a unit.
const SCRIPT: &str = r#"
role=$1 home=/opt/titus-server-$1
mkdir -p "$home"
dpkg -i --force-depends /srv/repo/debs/titus-server-${role}_0.0.1-1_all.deb > /run/dpkg.log 2>&1
for run in 1 2; do
    if [ "$role" = master ]; then
        cat >> "$home/titusmaster.properties" <<END
titus.master.apiport=7001
titus.master.apiProxyPort=7001
titus.master.grpcServer.port=7104
titus.zookeeper.connectString=30.0.100.194:2181
titus.zookeeper.root=/titus/main
mesos.master.location=30.0.100.194:5050
titus.agent.fullCacheRefreshIntervalMs=10000
titus.agent.agentServerGroupPattern=.*
titusMaster.job.configuration.defaultIamRole=arn:aws:iam::123456789012:role/titusappwiths3
titusMaster.job.configuration.defaultSecurityGroups=sg-0123456789abcdef0
mesos.titus.executor=/apps/titus-executor/bin/run
END
    else
        printf '%s\n' titus.gateway.masterIp=30.0.100.99 titus.gateway.masterHttpPort=7001 >> "$home/titusgateway.properties"
    fi
    cat >> /lib/systemd/system/titus-server-$role.service <<END
[Unit]
Description=Titus $role
After=network.target

[Service]
ExecStart=$home/bin/titus-server-$role -p $home/titus$role.properties

[Install]
WantedBy=multi-user.target
END
done
systemctl daemon-reload
systemctl enable titus-server-$role 2> /run/enable.log
"#;

/// A node of this role without the rest of its cluster: a run comes as far as what it waits for.
fn node(role: &str) -> (Node, crate::support::metadata::Metadata) {
    let node = Node::fresh();
    node.write(SETTINGS, &cluster::settings());
    let metadata = prereqs::metadata_of(&node, role);
    (node, metadata)
}

#[track_caller]
fn apply(node: &Node, waits_for: &str) {
    let run = node.bootstrap(&["apply", "--set", "timeouts.wait=1s"]).ends_with(75);
    run.reports(&["waited 1s for", waits_for]);
}

/// The role's files, and the files that configure its unit.
fn role_files(node: &Node, files: &[&str]) -> Tree {
    let mut tree = contents(&node.path("/"));
    tree.retain(|path, _| files.contains(&path.as_str()) || path.starts_with("/opt/titus-server"));
    tree
}

#[test]
fn nodes_of_the_scripts_end_as_fresh_ones() {
    for (role, files, waits_for) in [
        ("master", FILES[0], "ZooKeeper at 30.0.100.11:2181 to serve alone"),
        ("gateway", FILES[1], "30.0.100.12:7001 to accept connections"),
    ] {
        let (fresh, _metadata) = node(role);
        apply(&fresh, waits_for);
        let unit = format!("titus-server-{role}.service");
        // Not started before it can work.
        assert_eq!(fresh.property(&unit, "ActiveState"), "inactive");
        let wanted = role_files(&fresh, &files);
        assert_eq!(wanted.keys().filter(|path| files.contains(&path.as_str())).count(), 2, "{wanted:?}");
        drop(fresh);

        let (used, _metadata) = node(role);
        used.run(&["bash", "-c", SCRIPT, "scripts", role]).ends_with(0);
        assert_eq!(used.read(files[0]).matches("ExecStart=").count(), 2);
        assert_eq!(used.property(&unit, "LoadState"), "bad-setting", "what the scripts left");
        let plan = used.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(2);
        for words in [format!("properties in {}, remove ", files[1]), "-ExecStart=/opt/titus-server".into()] {
            assert!(plan.out.contains(&words), "no {words:?} in\n{}", plan.transcript());
        }
        assert!(plan.out.contains("reinstall"), "what was never checked stays\n{}", plan.transcript());
        apply(&used, waits_for);
        assert_same(&wanted, &role_files(&used, &files), &format!("{role}: not as a fresh node"));
        used.shell("systemctl daemon-reload");
        assert_eq!(used.property(&unit, "LoadState"), "loaded");
    }
}
