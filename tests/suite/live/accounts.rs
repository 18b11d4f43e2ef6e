//! Users and groups that only NSS knows, e.g. from LDAP or sssd.

use titus_bootstrap::error::Kind;

use crate::support::simulated::Machine;

const ROLE: &str = "[[step]]\nid = 'member'\nphase = 'bake'\ngroup_member = { user = 'ann', group = 'docker' }\n";

/// A machine whose NSS knows ann, the users' group and a group docker.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.root.write("/usr/bin/getent", "");
    machine.root.write("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    machine.command(
        "getent",
        "case \"$*\" in
            'passwd -- ann') echo 'ann:*:70001:70000::/home/ann:/bin/bash';;
            'passwd -- hangs') echo 'nothing answers' >&2; exit 1;;
            'group -- docker') echo 'docker:*:70002:bob';;
            *) exit 2;; esac",
    );
    machine.command("gpasswd", "sed -i \"s/^\\($3:.*\\)/\\1$2/\" $ROOT/etc/group");
    machine
}

#[test]
fn a_user_whom_only_nss_knows_is_put_into_a_local_group_whose_number_stays() {
    let machine = machine();
    machine.root.write("/etc/group", "docker:x:4711:\n");
    let steps = machine.steps(ROLE);
    assert_eq!(machine.plan(&steps).ends_well().lines(), ["add user ann to group docker"]);
    machine.apply(&steps).ends_well();
    assert_eq!(machine.root.read("/etc/group"), "docker:x:4711:ann\n");
    assert_eq!(machine.apply(&steps).ends_well().states(), ["member in_sync"]);
    // Whom nobody knows is a notice, and says so.
    let run = machine.apply(&machine.steps(&ROLE.replace("ann", "zoe"))).ends_well();
    let note = run.report.steps[0].note.as_deref().unwrap_or_default();
    assert!(note.contains("the user zoe does not exist, neither in /etc/passwd nor in NSS"), "{note}");
}

#[test]
fn a_group_that_only_nss_knows_cannot_be_changed_here() {
    let machine = machine();
    machine.root.write("/etc/group", "");
    let run = machine.apply(&machine.steps(ROLE));
    let words = run.fails().to_string();
    assert_eq!(run.fails().kind, Kind::Unavailable, "{words}");
    assert!(words.contains("only NSS has that group (getent group docker: gid 70002)"), "{words}");
    machine.root.write("/etc/passwd", "bob:x:7:7::/:/bin/sh\n");
    machine.apply(&machine.steps(&ROLE.replace("ann", "bob"))).ends_well();
}

#[test]
fn a_directory_service_that_does_not_answer_is_named() {
    let machine = machine();
    machine.root.write("/etc/group", "docker:x:4711:\n");
    let run = machine.apply(&machine.steps(&ROLE.replace("ann", "hangs")));
    let words = run.fails().to_string();
    assert!(words.contains("nothing answers") && words.contains("getent passwd hangs"), "{words}");
}

#[test]
fn a_group_with_two_lines_is_refused_before_anything_is_changed() {
    let machine = machine();
    machine.root.write("/etc/group", "docker:x:1:\ndocker:x:2:\n");
    let file = "[[step]]\nid = 'file'\nphase = 'bake'\nfile = { path = '/etc/x', content = 'x' }\n";
    let run = machine.apply(&machine.steps(&format!("{file}{ROLE}")));
    let words = run.fails().to_string();
    assert_eq!(run.fails().kind, Kind::Unavailable, "{words}");
    assert!(words.contains("more than one line of the group docker") && words.contains("docker:x:2:"), "{words}");
    assert!(!machine.root.at("/etc/x").exists());
}
