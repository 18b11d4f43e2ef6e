//! Arguments of the kernel: our drop-in, grub.cfg, and the running kernel.

use titus_bootstrap::error::Kind;

use crate::support::simulated::Machine;

const DROP_IN: &str = "/etc/default/grub.d/90-titus-bootstrap.cfg";

fn role(arguments: &str, running: &str) -> String {
    format!(
        "[[step]]\nid = 'kernel'\nphase = 'boot'\nkernel_argument = {{ arguments = [{arguments}], running = '{running}' }}\n"
    )
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.root.write("/boot/grub/grub.cfg", "menuentry x {\n\tlinux /vmlinuz-5 root=x\n}\n");
    machine
}

#[test]
fn arguments_are_in_grub_cfg_and_then_wait_for_a_reboot() {
    let machine = machine();
    let steps = machine.steps(&role("'a=1', 'b'", "root=x b"));
    let lines = [format!("write {DROP_IN}: a=1 b"), "update-grub: /boot/grub/grub.cfg lacks a=1 b".into()];
    assert_eq!(machine.plan(&steps).ends_well().lines(), lines);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.calls(), ["update-grub"]);
    assert!(machine.root.read("/boot/grub/grub.cfg").contains("root=x  a=1 b"));
    let late = machine.apply(&steps).ends_well();
    assert_eq!(late.states(), ["kernel after_reboot"]);
    assert_eq!(late.report.reboot_reasons, ["the running kernel was started without a=1"]);
    let booted = machine.steps(&role("'a=1', 'b'", "root=x a=1 b"));
    assert_eq!(machine.apply(&booted).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
}

#[test]
fn a_run_that_was_killed_before_update_grub_is_made_up_for() {
    let machine = machine();
    let steps = machine.steps(&role("'a=1'", "a=1"));
    machine.apply(&steps).ends_well();
    machine.root.write("/boot/grub/grub.cfg", "linux /vmlinuz-5 root=x\n");
    machine.calls();
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["update-grub: /boot/grub/grub.cfg lacks a=1"]);
    assert_eq!(machine.calls(), ["update-grub"]);
}

#[test]
fn without_arguments_the_drop_in_goes() {
    let machine = machine();
    machine.apply(&machine.steps(&role("'a=1'", "a=1"))).ends_well();
    let none = machine.steps(&role("", "a=1"));
    assert_eq!(machine.apply(&none).ends_well().lines(), [format!("remove {DROP_IN}"), "update-grub".into()]);
    assert!(!machine.root.read("/boot/grub/grub.cfg").contains("a=1"));
    machine.calls();
    assert_eq!(machine.apply(&none).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
}

#[test]
fn a_machine_without_grub_needs_no_arguments() {
    let machine = Machine::new();
    assert_eq!(machine.apply(&machine.steps(&role("", ""))).ends_well().states(), ["kernel in_sync"]);
    machine.root.write(DROP_IN, "left");
    assert_eq!(machine.apply(&machine.steps(&role("", ""))).ends_well().lines(), [format!("remove {DROP_IN}")]);
    assert_eq!(machine.calls(), [""; 0]);
    let run = machine.apply(&machine.steps(&role("'a=1'", "")));
    let words = run.fails().to_string();
    assert!(words.contains("does not start with GRUB") && words.contains("give the kernel `a=1`"), "{words}");
    assert_eq!(run.fails().kind, Kind::Unavailable);
    assert!(!machine.root.at(DROP_IN).exists());
}

#[test]
fn a_failed_update_grub_shows_its_words() {
    let machine = machine();
    machine.command("update-grub", "echo no space >&2; exit 3");
    let run = machine.apply(&machine.steps(&role("'a=1'", "")));
    let words = run.fails().to_string();
    assert!(words.contains("`update-grub` failed: exit status: 3") && words.contains("no space"), "{words}");
    assert_eq!(run.events, ["started kernel", "failed kernel"]);
}
