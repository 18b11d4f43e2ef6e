//! The proof of concept's walk-through, up to submitting a job: four nodes become a cluster by
//! themselves, and its instance group is kept active.

use crate::harness::cluster::{Cluster, DEBS, GROUP, member};
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::{services, wait_for};
use crate::support::tree::{assert_same, stamps};

fn state(gateway: &Node) -> Option<String> {
    let path = format!("/api/v3/agent/instanceGroups/{GROUP}");
    let answer = services::get(gateway, "127.0.0.1:7001", &path)?;
    let body: serde_json::Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next()?).ok()?;
    body["lifecycleStatus"]["state"].as_str().map(str::to_owned)
}

fn await_active(gateway: &Node) {
    wait_for("the instance group to be active", || (state(gateway).as_deref() == Some("Active")).then_some(()));
}

/// `apply` on these nodes at once: each waits for what it needs.
#[track_caller]
fn apply(nodes: &[&Node]) {
    let runs: Vec<_> = nodes.iter().map(|node| node.spawn(&["titus-bootstrap", "apply"])).collect();
    for run in runs {
        run.end().ends_with(0);
    }
}

/// What the timer's service has said since the node's boot.
fn said(gateway: &Node) -> Vec<String> {
    let lines = gateway.shell("journalctl --unit titus-instance-groups.service --output cat --no-pager");
    lines.lines().filter(|line| !line.starts_with("-- ")).map(str::to_owned).collect()
}

#[test]
fn four_nodes_with_their_tags_become_a_cluster() {
    let cluster = Cluster::new();
    let [_, master, gateway, _] = cluster.nodes();
    apply(&cluster.nodes());
    await_active(gateway);
    for node in cluster.nodes() {
        node.bootstrap(&["verify"]).ends_with(0);
    }

    let changed = "instance-groups-active: activate the instance group titusagent (it is Inactive)";
    assert_eq!(said(gateway), [changed]);
    let keep = ["keep", "--role", "gateway"];
    assert_eq!(gateway.bootstrap(&keep).ends_with(0).out, "");
    assert!(gateway.read("/var/lib/titus-bootstrap/keep.jsonl").contains("\"step\":\"instance-groups-active\""));

    // The master forgets it, and is reminded.
    master.shell("systemctl restart titus-server-master");
    wait_for("the gateway to see it", || (state(gateway).is_some_and(|state| state != "Active")).then_some(()));
    await_active(gateway);
    wait_for("a second line", || (said(gateway).len() > 1).then_some(()));
    assert!(said(gateway).iter().all(|line| line == changed || line.contains("503")), "{:?}", said(gateway));

    // By hand.
    let by_hand = gateway.bootstrap(&["activate", GROUP]).ends_with(0);
    assert_eq!(by_hand.out, "titusagent is Active (it was Active)\n");
    gateway.bootstrap(&["activate", "nobody/../x"]).ends_with(1).tells(&["knows no instance group nobody/../x"]);

    // Nothing more to do anywhere.
    for node in cluster.nodes() {
        let before = stamps(&node.path("/"));
        let again = node.bootstrap(&["apply", "--json"]).ends_with(0);
        assert_eq!(again.steps("changed"), Vec::<String>::new(), "{}", again.transcript());
        let mut trees = [before, stamps(&node.path("/"))];
        let alive = ["/var/lib/zookeeper", "/var/lib/mesos-master", "/var/log/mesos"];
        trees.iter_mut().for_each(|tree| tree.retain(|path, _| !alive.iter().any(|own| path.starts_with(own))));
        assert_same(&trees[0], &trees[1], "a second run changed something");
    }

    // A master that is gone is told, and nothing fails for it but what is asked.
    master.shell("systemctl stop titus-server-master");
    gateway.bootstrap(&keep).ends_with(75).tells(&["503", "master.address"]);
    gateway.bootstrap(&["verify"]).ends_with(1);
    gateway.shell("systemctl stop titus-server-gateway");
    gateway.bootstrap(&["activate", GROUP]).ends_with(75).tells(&["the Titus gateway does not answer"]);
    for node in [master, gateway] {
        node.bootstrap(&["apply"]).ends_with(0);
    }
    await_active(gateway);
}

#[test]
fn a_service_is_restarted_for_what_it_reads_and_for_nothing_else() {
    let network = Network::new();
    let (prereqs, master) = (member(&network, "prereqs", 1), member(&network, "master", 2));
    apply(&[&prereqs.node, &master.node]);
    let master = &master.node;
    let invocation = || master.property("titus-server-master.service", "InvocationID");
    let mut last = invocation();
    let property = ["--set", "master.properties.\"titus.x\"=\"1\""];
    let other = format!("debs.master.path={}/other/titus-server-master_0.0.1-1_all.deb", DEBS);
    for (settings, restarts) in [
        (&["--set", "timeouts.unit=80s"][..], false),
        (&property[..], true),
        (&property[..], false),
        (&[property[0], property[1], "--set", &other], true),
        (&[property[0], property[1], "--set", &other], false),
    ] {
        let plan = master.bootstrap(&[&["plan"], settings].concat()).ends_with(0);
        master.bootstrap(&[&["apply"], settings].concat()).ends_with(0);
        assert_eq!(invocation() != last, restarts, "{settings:?}\n{}", plan.transcript());
        assert_eq!(plan.out.contains("restart titus-server-master.service"), restarts, "{}", plan.transcript());
        last = invocation();
    }
    assert!(master.read("/opt/titus-server-master/titusmaster.properties").contains("\ntitus.x=1\n"));
}
