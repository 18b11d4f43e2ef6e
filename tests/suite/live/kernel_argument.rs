//! Kernel arguments: the program's drop-in, grub.cfg, and the running kernel.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use titus_bootstrap::error::Kind;
use titus_bootstrap::host::command::Patience;

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
fn a_run_completes_one_that_was_killed_before_update_grub() {
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
    assert!(words.contains("does not boot with GRUB") && words.contains("pass `a=1` to the kernel"), "{words}");
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

/// Like grub-mkconfig: the distribution's kernel gets the arguments; a custom entry and memtest86+ do not.
const MKCONFIG: &str = r#"
GRUB_CMDLINE_LINUX= GRUB_CMDLINE_LINUX_DEFAULT= GRUB_DEFAULT=0
for file in $ROOT/etc/default/grub $ROOT/etc/default/grub.d/*.cfg; do [ ! -e $file ] || . $file; done
[ "$GRUB_DEFAULT" != saved ] || GRUB_DEFAULT='${saved_entry}'
{
    printf '### BEGIN /etc/grub.d/00_header ###\nif [ "${next_entry}" ] ; then\n   set default="${next_entry}"\nelse\n'
    printf '   set default="%s"\nfi\n### END /etc/grub.d/00_header ###\n' "$GRUB_DEFAULT"
    printf '### BEGIN /etc/grub.d/10_linux ###\n'
    [ ! -x $ROOT/etc/grub.d/10_linux ] || printf "menuentry 'D' {\n\tlinux /vmlinuz-5 root=x %s\n}\n" "$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"
    printf '### END /etc/grub.d/10_linux ###\n### BEGIN /etc/grub.d/40_custom ###\n'
    printf "menuentry 'Mine' --id mine {\n\tlinux /vmlinuz-mine root=y\n}\nmenuentry 'M' {\n\tlinux16 /memtest\n}\n"
    printf '### END /etc/grub.d/40_custom ###\n'
} >$ROOT/boot/grub/grub.cfg
"#;

fn debian() -> Machine {
    let machine = Machine::new();
    machine.root.write("/etc/grub.d/10_linux", "");
    executable(&machine, "/etc/grub.d/10_linux", true);
    machine.command("update-grub", MKCONFIG);
    update_grub(&machine);
    machine.calls();
    machine
}

fn executable(machine: &Machine, path: &str, is: bool) {
    let mode = std::fs::Permissions::from_mode(if is { 0o755 } else { 0o644 });
    std::fs::set_permissions(machine.root.at(path), mode).unwrap();
}

fn update_grub(machine: &Machine) {
    machine.host.run_command(&["update-grub"], &[], Patience::Ends, Duration::from_secs(60)).unwrap();
}

#[test]
fn kernels_of_others_need_no_arguments() {
    let machine = debian();
    let steps = machine.steps(&role("'a=1'", "a=1"));
    machine.apply(&steps).ends_well();
    assert_eq!(machine.calls(), ["update-grub"]);
    assert_eq!(machine.apply(&steps).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
}

#[test]
fn what_keeps_arguments_from_the_kernel_is_refused_and_the_fix_is_enough() {
    let file = |path: &'static str, text: &'static str| move |machine: &Machine| machine.root.write(path, text);
    let grub = "/etc/default/grub";
    type Act = Box<dyn Fn(&Machine)>;
    let cases: [(Act, &[&str], Act); 6] = [
        (
            Box::new(file("/etc/default/grub.d/99-mine.cfg", "# mine\nGRUB_CMDLINE_LINUX=\"quiet\"\n")),
            &[
                "99-mine.cfg:2 removes",
                "without a=1",
                "mv /etc/default/grub.d/99-mine.cfg /etc/default/grub.d/89-mine.cfg",
            ],
            Box::new(|machine| {
                let drop_ins = machine.root.at("/etc/default/grub.d");
                std::fs::rename(drop_ins.join("99-mine.cfg"), drop_ins.join("89-mine.cfg")).unwrap();
            }),
        ),
        (
            Box::new(file(grub, "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet a=2\"\n")),
            &[
                "/etc/default/grub:1 removes",
                "a=2, which comes after a=1",
                "remove a=2 from line 1 of /etc/default/grub",
            ],
            Box::new(file(grub, "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n")),
        ),
        (
            Box::new(|machine| {
                machine.root.write("/etc/default/grub", "GRUB_DEFAULT=saved\n");
                machine.root.write("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=mine\n");
                update_grub(machine);
            }),
            &["GRUB boots \"Mine\", which lacks a=1", "saved_entry=mine in grubenv", "grub-set-default 0"],
            Box::new(file("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=0\n")),
        ),
        (
            Box::new(file("/boot/grub/grubenv", "# GRUB Environment Block\nnext_entry=mine\n")),
            &["GRUB boots \"Mine\"", "next_entry=mine in grubenv", "grub-editenv /boot/grub/grubenv unset next_entry"],
            Box::new(file("/boot/grub/grubenv", "# GRUB Environment Block\n")),
        ),
        (
            Box::new(|machine| {
                machine.root.write("/etc/default/grub", "GRUB_DEFAULT=mine\n");
                update_grub(machine);
            }),
            &["GRUB boots \"Mine\"", "set default=\"mine\" in grub.cfg", "set GRUB_DEFAULT=0 in /etc/default/grub"],
            Box::new(|machine| {
                machine.root.write("/etc/default/grub", "GRUB_DEFAULT=0\n");
                update_grub(machine);
            }),
        ),
        (
            Box::new(|machine| {
                executable(machine, "/etc/grub.d/10_linux", false);
                update_grub(machine);
            }),
            &["/etc/grub.d/10_linux is disabled", "chmod +x /etc/grub.d/10_linux"],
            Box::new(|machine| executable(machine, "/etc/grub.d/10_linux", true)),
        ),
    ];
    for (breaks, words, fix) in cases {
        let machine = debian();
        let steps = machine.steps(&role("'a=1'", "a=1"));
        breaks(&machine);
        machine.calls();
        for run in [machine.plan(&steps), machine.apply(&steps)] {
            let refusal = run.fails();
            assert_eq!(refusal.kind, Kind::Unavailable, "{refusal}");
            for part in words {
                assert!(refusal.to_string().contains(part), "{part}: {refusal}");
            }
            assert!(run.events.is_empty() && machine.calls().is_empty() && !machine.root.at(DROP_IN).exists());
        }
        fix(&machine);
        machine.apply(&steps).ends_well();
        assert!(machine.root.read("/boot/grub/grub.cfg").contains("a=1"), "{words:?}");
        assert_eq!(machine.apply(&steps).ends_well().states(), ["kernel in_sync"], "{words:?}");
    }
}

#[test]
fn a_grub_cfg_that_is_older_than_its_settings_is_written_again_once() {
    let machine = debian();
    let steps = machine.steps(&role("'a=1'", "a=1"));
    machine.apply(&steps).ends_well();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let grub_cfg = std::fs::File::options().write(true).open(machine.root.at("/boot/grub/grub.cfg")).unwrap();
    machine.root.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n");
    grub_cfg.set_modified(long_ago).unwrap();
    let line = "changed since /boot/grub/grub.cfg was made";
    assert!(machine.plan(&steps).ends_well().lines()[0].contains(line));
    machine.apply(&steps).ends_well();
    assert!(machine.root.read("/boot/grub/grub.cfg").contains("quiet a=1"));
    machine.calls();
    // A file from the future, e.g. after the clock was set back, would also be younger than the next grub.cfg.
    let settings = std::fs::File::options().write(true).open(machine.root.at("/etc/default/grub")).unwrap();
    settings.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
    // Both may be of the same moment.
    let now = SystemTime::now();
    settings.set_modified(now).unwrap();
    grub_cfg.set_modified(now).unwrap();
    assert_eq!(machine.apply(&steps).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
}

#[test]
fn a_grub_cfg_that_needs_no_arguments_may_be_old() {
    let machine = debian();
    machine.root.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"quiet\"\n");
    let grub_cfg = std::fs::File::options().write(true).open(machine.root.at("/boot/grub/grub.cfg")).unwrap();
    grub_cfg.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    assert_eq!(machine.apply(&machine.steps(&role("", ""))).ends_well().states(), ["kernel in_sync"]);
    assert_eq!(machine.calls(), [""; 0]);
}
