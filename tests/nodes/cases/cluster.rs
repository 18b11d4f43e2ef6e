//! The proof of concept's walk-through, up to submitting a job: four nodes become a cluster by
//! themselves, and the gateway keeps its instance group active.

use nix::sys::signal::Signal;

use crate::harness::cluster::{Cluster, DEBS, GROUP, member};
use crate::harness::network::Network;
use crate::harness::node::Node;
use crate::harness::terraform::Member;
use crate::harness::{services, wait_for, wait_for_or};
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
fn journal(gateway: &Node) -> Vec<String> {
    let lines = gateway.shell("journalctl --unit titus-instance-groups.service --output cat --no-pager");
    // In a pass while the Titus master is not ready yet, its error has other lines.
    lines.lines().filter(|line| line.starts_with("instance-groups-active: ")).map(str::to_owned).collect()
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
    assert_eq!(journal(gateway), [changed]);
    let keep = ["keep", "--role", "gateway"];
    assert_eq!(gateway.bootstrap(&keep).ends_with(0).out, "");
    assert!(gateway.read("/var/lib/titus-bootstrap/keep.jsonl").contains("\"step\":\"instance-groups-active\""));

    // The master forgets it, and is reminded.
    master.shell("systemctl restart titus-server-master");
    wait_for("a second line", || (journal(gateway).len() > 1).then_some(()));
    await_active(gateway);
    assert!(journal(gateway).iter().all(|line| line == changed), "{:?}", journal(gateway));

    // By hand.
    let by_hand = gateway.bootstrap(&["activate", GROUP]).ends_with(0);
    assert_eq!(by_hand.out, "titusagent is Active (it was Active)\n");
    gateway
        .bootstrap(&["activate", "nobody/../x"])
        .ends_with(1)
        .reports(&["does not know the instance group nobody/../x"]);

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

    // The gateway reports a master that is gone; only requests to it fail.
    master.shell("systemctl stop titus-server-master");
    // A pass of the timer that is at work makes this one unnecessary.
    wait_for("its report", || {
        let pass = gateway.bootstrap(&keep);
        (pass.code == 75).then(|| pass.reports(&["503", "master.address"]))
    });
    gateway.bootstrap(&["verify"]).ends_with(1);
    // A pass that ends because the node shuts down is not a failure of its unit.
    gateway.shell(
        "systemctl stop titus-instance-groups.timer titus-instance-groups.service titus-server-gateway
         systemd-run --quiet --unit silent systemd-socket-activate --accept --inetd --listen 127.0.0.1:7001 sleep 1d
         until grep -q ' 0100007F:1B59 00000000:0000 0A ' /proc/net/tcp; do sleep 0.1; done",
    );
    let pass = gateway.spawn(&["titus-bootstrap", "keep", "--role", "gateway"]);
    gateway.await_process("sleep");
    pass.signal(Signal::SIGTERM);
    pass.end().ends_with(75).reports(&["stopped by a signal"]);
    gateway.shell("systemctl stop silent; systemctl start titus-instance-groups.timer");
    gateway.bootstrap(&["activate", GROUP]).ends_with(75).reports(&["the Titus gateway does not answer"]);
    for node in [master, gateway] {
        node.bootstrap(&["apply"]).ends_with(0);
    }
    await_active(gateway);
}

/// The moment, since the node's boot, at which the last pass over the instance groups began.
fn last_pass(gateway: &Node) -> String {
    gateway.property("titus-instance-groups.service", "ExecMainStartTimestampMonotonic")
}

/// Waits until the timer has begun and ended so many passes more, each well.
#[track_caller]
fn await_passes(gateway: &Node, count: usize) {
    for _ in 0..count {
        let last = last_pass(gateway);
        wait_for("another pass over the instance groups", || {
            // In this order: a pass that has begun meanwhile has not ended.
            let has_begun = last_pass(gateway) != last;
            let ended = gateway.property("titus-instance-groups.service", "ActiveState") != "activating";
            (has_begun && ended).then_some(())
        });
        assert_eq!(gateway.property("titus-instance-groups.service", "Result"), "success", "{:?}", journal(gateway));
    }
}

/// Nothing has failed on these nodes since they were first switched on, not for a moment.
#[track_caller]
fn assert_nothing_failed(stage: &str, members: &[&Member]) {
    for member in members {
        let failures = member.failures();
        let journal = || member.node.run(&["journalctl", "--no-pager", "--lines", "80"]).out;
        assert_eq!(failures, "", "{stage}: {}\n{}", member.node.hostname(), journal());
        assert_eq!(member.node.run(&["systemctl", "is-system-running"]).out.trim(), "running", "{stage}");
    }
}

/// A newcomer's path: a release, its apt repository, an image by Packer, and four instances as packaging/terraform makes them,
/// with tags and user data, and nobody on the nodes.
#[test]
fn nodes_of_terraform_become_a_cluster_in_any_order_and_stay_one() {
    let network = Network::new();
    let [mut prereqs, mut master, mut gateway, mut agent] = ["prereqs", "master", "gateway", "agent"].map(Member::new);

    // The gateway first, and the agent long after all others.
    gateway.boot(&network);
    prereqs.boot(&network);
    prereqs.node.await_boot();
    master.boot(&network);
    master.node.await_boot();
    gateway.node.await_boot();
    assert_nothing_failed("without an agent", &[&prereqs, &master, &gateway]);
    await_passes(&gateway.node, 3);
    for member in [&prereqs, &master, &gateway] {
        let status = member.node.bootstrap(&["status"]).ends_with(0);
        assert!(!status.out.contains("degraded"), "{}", status.transcript());
    }
    assert_nothing_failed("passes without an agent", &[&prereqs, &master, &gateway]);

    agent.boot(&network);
    agent.node.await_boot();
    assert!(agent.is_in_service(), "the lifecycle hook still holds the agent");
    await_active(&gateway.node);
    let all = |stage: &str, prereqs: &Member, master: &Member, gateway: &Member, agent: &Member| {
        for member in [prereqs, master, gateway, agent] {
            let verify = || member.node.bootstrap(&["verify"]);
            // There is no S3 here, so the agent's bucket is unknown.
            let is_green =
                |line: &str| !["bad ", "waits ", "drifts ", "not asked "].iter().any(|bad| line.starts_with(bad));
            let green = || {
                let verified = verify();
                let others = verified.out.lines().filter(|line| !line.starts_with("not asked log-bucket "));
                ([0, 75].contains(&verified.code) && others.into_iter().all(is_green)).then_some(())
            };
            wait_for_or("verify to be green", || verify().transcript(), green);
            let again = member.node.bootstrap(&["plan", "--detailed-exitcode"]);
            assert_eq!(again.code, 0, "{stage}: {}", again.transcript());
        }
        assert_nothing_failed(stage, &[prereqs, master, gateway, agent]);
    };
    all("with an agent", &prereqs, &master, &gateway, &agent);
    let activated =
        || journal(&gateway.node).iter().filter(|line| line.contains("activate the instance group")).count();
    assert_eq!(activated(), 1, "{:?}", journal(&gateway.node));

    // The Titus master forgets it at each restart, and is reminded.
    for restart in 1..=2 {
        master.node.shell("systemctl restart titus-server-master");
        wait_for("the group to be activated again", || (activated() > restart).then_some(()));
        await_active(&gateway.node);
        all("after a restart of the Titus master", &prereqs, &master, &gateway, &agent);
    }

    // Its node too, while which the gateway has nobody to ask, and the gateway's.
    let before = activated();
    master.node.stop();
    await_passes(&gateway.node, 1);
    master.boot(&network);
    master.node.await_boot();
    wait_for("the group to be activated again", || (activated() > before).then_some(()));
    assert_nothing_failed("with a Titus master that came back", &[&gateway]);
    gateway.node.stop();
    gateway.boot(&network);
    gateway.node.await_boot();
    await_active(&gateway.node);
    all("after reboots", &prereqs, &master, &gateway, &agent);
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
