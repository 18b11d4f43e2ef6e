//! Stopped by a signal, or by a full disk: what was done stays whole, and the next run goes on.

use crate::harness::agent;
use crate::harness::node::Node;
use crate::harness::wait_for;

#[test]
fn a_signal_stops_a_run_at_a_step_and_leaves_apt_alone() {
    let node = Node::converged();
    let _services = agent::services(&node);
    node.shell("dpkg --remove titus-executor");
    let holder = node.spawn(&["sh", "-c", "exec dpkg --install /srv/repo/pool/slow-package_1_all.deb"]);
    wait_for("dpkg to be at work", || node.exists("/run/slow-package-started").then_some(()));

    let run = node.spawn(&["titus-bootstrap", "--json"]);
    wait_for("the run to wait", || run.stderr().contains("dpkg --install").then_some(()));
    node.shell("kill -TERM $(cut -d' ' -f1 /run/titus-bootstrap/lock)");
    let outcome = run.end().ends_with(1);
    assert_eq!(outcome.json()["result"], "interrupted", "{}", outcome.transcript());
    assert!(node.read("/var/lib/titus-bootstrap/journal.jsonl").contains("\"event\":\"interrupted\""));
    assert!(node.read("/run/titus-bootstrap/status.json").contains("\"state\":\"interrupted\""));
    assert!(node.bootstrap(&["status"]).out.contains("last run: interrupted"));

    node.write("/run/slow-package-go", "");
    holder.end().ends_with(0);
    node.bootstrap(&[]).ends_with(0);
    agent::check(&node);
}

#[test]
fn a_full_disk_leaves_every_file_whole() {
    let node = Node::converged();
    let _services = agent::services(&node);
    let before = node.read("/etc/titus-executor/config.json");
    node.shell(
        "cp -a /etc/titus-executor /run/kept && mount -t tmpfs -o size=16k,mode=0755 tmpfs /etc/titus-executor \
         && cp -a /run/kept/. /etc/titus-executor && sed -i s/10s/20s/ /etc/titus-executor/config.json \
         && (cat /dev/zero > /etc/titus-executor/filler || true) 2> /run/full",
    );
    let broken = node.read("/etc/titus-executor/config.json");
    node.bootstrap(&[]).ends_with(1).reports(&["config.json", "make room"]);
    assert_eq!(node.read("/etc/titus-executor/config.json"), broken);
    node.shell("rm /etc/titus-executor/filler");
    node.bootstrap(&[]).ends_with(0);
    assert_eq!(node.read("/etc/titus-executor/config.json"), before);
    let names = node.shell("ls -A /etc/titus-executor");
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["config.json", "config.sh"]);
}
