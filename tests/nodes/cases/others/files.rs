//! Users, groups, mount points and attributes of files as others left them.

use crate::harness::agent;

/// A file of the role, and the directory of another.
const FILE: &str = "/etc/titus-shared.env";
const DIRECTORY: &str = "/etc/titus-executor";

/// Plan and run refuse each before the first change, and the printed command is enough.
#[test]
fn what_keeps_root_from_a_file_is_named_with_the_command_that_removes_it() {
    let (node, _services) = agent::fresh();
    node.shell(&format!("mkdir {DIRECTORY}; echo theirs > {FILE}; echo theirs > /root/other"));
    let read_only = format!("mount --bind {DIRECTORY} {DIRECTORY}; mount -o remount,bind,ro {DIRECTORY}");
    let in_its_place = format!("rm {FILE}; mkdir {FILE}; mount -t tmpfs none {FILE}");
    for (break_it, words, fix) in [
        (format!("chattr +i {FILE}"), format!("{FILE} is immutable"), format!("chattr -i {FILE}")),
        (format!("chattr +a {FILE}"), format!("{FILE} is append-only"), format!("chattr -a {FILE}")),
        (format!("chattr +i {DIRECTORY}"), format!("{DIRECTORY} is immutable"), format!("chattr -i {DIRECTORY}")),
        (format!("mount --bind /root/other {FILE}"), "it is a mount point".to_owned(), format!("umount {FILE}")),
        (read_only, format!("the mount {DIRECTORY} is read-only"), format!("mount -o remount,bind,rw {DIRECTORY}")),
        (
            in_its_place,
            format!("{FILE} is a directory or a device, not a file"),
            format!("umount {FILE} && rmdir {FILE}"),
        ),
        (
            format!("mkdir {FILE}"),
            format!("{FILE} is a directory or a device, not a file"),
            format!("mv {FILE} {FILE}.old"),
        ),
    ] {
        node.shell(&break_it);
        for command in ["plan", "apply"] {
            let refused = node.bootstrap(&[command]).ends_with(69).reports(&[&words, &fix]);
            assert!(!refused.err.contains("run it as root"), "{}", refused.transcript());
        }
        assert!(!node.exists("/etc/disable-atlas-titus-agent"), "{break_it}: something was changed");
        node.shell(&fix);
    }
    // A TMPDIR that is not there is the caller's own.
    node.run(&["env", "TMPDIR=/nowhere", "titus-bootstrap", "apply"]).ends_with(0);
    agent::check(&node);
}

#[test]
fn users_and_groups_keep_their_numbers_and_those_of_nss_are_known() {
    let (node, _services) = agent::fresh();
    // The operator's number for Docker's group, on a line without members.
    node.shell("echo docker:x:4711 >> /etc/group");
    // A user of systemd's own database, which only NSS knows.
    let record = "{\"userName\":\"ann\",\"uid\":70001,\"gid\":100,\"disposition\":\"regular\"}";
    node.write("/etc/userdb/ann.user", record);
    node.shell("ln -s ann.user /etc/userdb/70001.user; getent passwd ann");
    let apply = |user: &str| node.bootstrap(&["apply", "--set", &format!("docker.user={user}")]).ends_with(0);
    apply("ann").prints(&["add user ann to group docker"]);
    assert!(node.read("/etc/group").contains("\ndocker:x:4711:ann\n"), "{}", node.read("/etc/group"));
    apply("zoe").prints(&["the user zoe does not exist, neither in /etc/passwd nor in NSS"]);

    // Two lines of one group: it is unknown which counts.
    node.shell("echo docker:x:4712: >> /etc/group");
    let fix = "sed -i '/^docker:x:4712:$/d' /etc/group";
    for command in ["plan", "apply"] {
        let refused = node.bootstrap(&[command]).ends_with(69);
        refused.reports(&["/etc/group has more than one line of the group docker", "docker:x:4711:", fix]);
    }
    node.shell(fix);
    node.bootstrap(&["apply"]).ends_with(0).prints(&["add user ubuntu to group docker"]);
    assert!(node.read("/etc/group").contains("\ndocker:x:4711:ann,ubuntu\n"), "{}", node.read("/etc/group"));
}
