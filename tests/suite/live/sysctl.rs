//! Kernel parameters: a drop-in of sysctl.d(5), and the values in the running kernel.

use titus_bootstrap::error::Kind;

use crate::support::simulated::Machine;

const FILE: &str = "/etc/sysctl.d/60-titus.conf";
const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Parameters, and a unit that runs with them.
fn role(set: &str) -> String {
    format!(
        "[[step]]\nid = 'parameters'\nphase = 'boot'\nsysctl = {{ file = '60-titus.conf', set = {{ {set} }} }}\n\
         [[step]]\nid = 'x'\nphase = 'boot'\nunit = {{ name = 'x.service', active = true, restart_on = ['parameters'] }}\n"
    )
}

/// A machine whose kernel forwards nothing.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.unit_file("x.service");
    machine.root.write(FORWARD, "0\n");
    machine.root.write("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
    machine
}

#[test]
fn the_file_and_the_running_kernel_are_set_once() {
    let machine = machine();
    let steps = machine.steps(&role("'net.ipv4.ip_forward' = 1, 'net.ipv4.tcp_rmem' = '4096 131072 6291456'"));
    let set = "set net.ipv4.ip_forward = 1 (it is 0)";
    assert_eq!(machine.plan(&steps).ends_well().lines()[..2], [format!("create {FILE} (0644, 3 lines)"), set.into()]);
    assert_eq!(machine.root.read(FORWARD), "0\n", "a plan changes nothing");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["parameters changed", "x changed"]);
    assert_eq!(machine.root.read(FORWARD), "1\n");
    assert_eq!(machine.root.read("/proc/sys/net/ipv4/tcp_rmem"), "4096\t131072\t6291456\n", "the kernel's own form");
    let text = "# Written by titus-bootstrap.\nnet.ipv4.ip_forward = 1\nnet.ipv4.tcp_rmem = 4096 131072 6291456\n";
    assert_eq!(machine.root.read(FILE), text);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["parameters in_sync", "x in_sync"]);
    assert_eq!(machine.systemd.jobs(), ["start x.service"]);
}

#[test]
fn either_of_them_drifts_alone() {
    let machine = machine();
    let steps = machine.steps(&role("'net.ipv4.ip_forward' = 1"));
    machine.apply(&steps).ends_well();
    machine.root.write(FORWARD, "0\n");
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["set net.ipv4.ip_forward = 1 (it is 0)"]);
    machine.root.write(FILE, "net.ipv4.ip_forward = 0\n");
    assert_eq!(machine.apply(&steps).ends_well().lines(), [format!("change {FILE}")]);
    assert_eq!(machine.root.read(FORWARD), "1\n");
    // With another value, the unit that uses the file restarts.
    machine.systemd.jobs();
    machine.apply(&machine.steps(&role("'net.ipv4.ip_forward' = 0"))).ends_well();
    assert_eq!(machine.root.read(FORWARD), "0\n");
    assert_eq!(machine.systemd.jobs(), ["restart x.service"]);
}

#[test]
fn a_parameter_that_the_kernel_does_not_have_is_refused_before_the_run() {
    let machine = machine();
    let steps = machine.steps(&role("'net.ipv4.ip_forward' = 1, 'net.ipv4.ip_forwrad' = 1"));
    for refused in [machine.plan(&steps), machine.apply(&steps)] {
        let error = refused.fails();
        assert_eq!(error.kind, Kind::Unavailable);
        assert!(error.what.contains("parameters: this kernel has no parameter net.ipv4.ip_forwrad"), "{error}");
    }
    assert_eq!(machine.root.read(FORWARD), "0\n");
    assert!(!machine.root.at(FILE).exists());
}
