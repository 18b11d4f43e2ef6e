//! Another process holds dpkg's lock: a run waits, and names that process.

use crate::harness::agent;
use crate::harness::node::Node;
use crate::harness::running::Running;
use crate::harness::wait_for;

#[test]
fn a_run_waits_for_the_holder_of_dpkgs_lock() {
    let node = Node::converged();
    let _services = agent::services(&node);
    node.shell("dpkg --remove titus-executor");
    let mut holder = node.spawn(&["sh", "-c", "exec dpkg --install /srv/repo/pool/slow-package_1_all.deb"]);
    wait_for("dpkg to be at work", || node.exists("/run/slow-package-started").then_some(()));
    let pid = node.shell("cd /proc && grep -l ^dpkg$ [0-9]*/comm").trim().replace("/comm", "");

    // Past its deadline it fails and names the holder, which goes on.
    let late = node.bootstrap(&["--set", "timeouts.apt_lock=2s"]).ends_with(1);
    late.reports(&[&pid, "dpkg --install"]);
    assert!(!holder.ended(), "dpkg was stopped");

    // With a long deadline it waits; meanwhile a second run reports who is at work.
    let run = node.spawn(&["titus-bootstrap"]);
    let names_holder = |run: &Running| run.stderr().contains(&pid) && run.stderr().contains("dpkg --install");
    wait_for("the run to say for whom it waits", || names_holder(&run).then_some(()));
    let second = node.bootstrap(&["--lock-wait", "0s"]).ends_with(75);
    let first = node.read("/run/titus-bootstrap/lock");
    second.reports(&[first.split(' ').next().unwrap()]);
    assert!(!holder.ended(), "dpkg was stopped");

    node.write("/run/slow-package-go", "");
    holder.end().ends_with(0);
    run.end().ends_with(0);
    agent::check(&node);
}
