//! Attacks by a user of the node without privileges.

use crate::harness::agent::{self, SETTINGS};
use crate::harness::autoscaling::{Answer, AutoScaling, ENDPOINT, with_profile};
use crate::harness::first_boot::{self, UNIT};
use crate::harness::node::Node;
use crate::harness::running::Running;
use crate::harness::services::{self, items};
use crate::harness::{prereqs, wait_for};
use crate::hostile::races::number;
use crate::support::metadata::Metadata;
use crate::support::outcome::Outcome;
const CONFIG: &str = "/etc/titus-bootstrap/config.toml";

/// Who has no privileges on a node.
const ALICE: &str = "nobody";

/// How many pairs of first runs, and groups of ten: a few, or `PAIRS=200` and `GROUPS=20` in the environment.
const PAIRS: usize = 5;
const GROUPS: usize = 1;

#[test]
fn files_that_other_users_may_write_are_ignored() {
    let node = Node::converged();
    let _services = agent::services(&node);
    node.shell(
        "mkdir -p /etc/titus-bootstrap/config.d /etc/titus-bootstrap/roles/files /srv/alice /srv/way
         echo \"description = ''\" > /etc/titus-bootstrap/roles/own.toml
         printf '[[step]]\\nid = \"x\"\\nphase = \"boot\"\\nfile = { path = \"/etc/x\", template = \"x.sh\" }\\n' >> /etc/titus-bootstrap/roles/own.toml
         echo true > /etc/titus-bootstrap/roles/files/x.sh
         echo > /etc/titus-bootstrap/config.d/50-own.toml; echo > /srv/way/named.toml; echo > /tmp/named.toml
         mv /etc/titus-bootstrap/config.toml /srv/way/config.toml; ln -s /srv/way/config.toml /etc/titus-bootstrap/config.toml",
    );
    let as_it_is = &["plan"][..];
    let own = &["plan", "--role", "own"][..];
    let named = &["plan", "--config", "/srv/way/named.toml"][..];
    let in_tmp = &["plan", "--config", "/tmp/named.toml"][..];
    for (words, attack, culprit, undo) in [
        (as_it_is, "chmod 0666 /srv/way/config.toml".to_owned(), "/srv/way/config.toml", ""),
        (as_it_is, format!("chown {ALICE} /srv/way/config.toml"), "/srv/way/config.toml", ""),
        (as_it_is, format!("chown -h {ALICE} {CONFIG}"), CONFIG, "chown -h root:root /etc/titus-bootstrap/config.toml"),
        (as_it_is, format!("chown {ALICE} /srv/way"), "/srv/way", ""),
        (as_it_is, "chmod 0777 /srv".to_owned(), "/srv", ""),
        (as_it_is, format!("chown {ALICE} /etc/titus-bootstrap/config.d"), "/etc/titus-bootstrap/config.d", ""),
        (
            as_it_is,
            "chmod 0660 /etc/titus-bootstrap/config.d/50-own.toml".to_owned(),
            "/etc/titus-bootstrap/config.d/50-own.toml",
            "",
        ),
        (own, format!("chown {ALICE} /etc/titus-bootstrap/roles"), "/etc/titus-bootstrap/roles", ""),
        (own, "chmod 0666 /etc/titus-bootstrap/roles/own.toml".to_owned(), "/etc/titus-bootstrap/roles/own.toml", ""),
        (
            own,
            format!("chown {ALICE} /etc/titus-bootstrap/roles/files/x.sh"),
            "/etc/titus-bootstrap/roles/files/x.sh",
            "",
        ),
        (named, "chmod 0666 /srv/way/named.toml".to_owned(), "/srv/way/named.toml", ""),
        (in_tmp, format!("chown {ALICE} /tmp/named.toml"), "/tmp/named.toml", ""),
    ] {
        assert_eq!(node.bootstrap(words).code, 0, "{attack}: before");
        node.shell(&attack);
        let refused = node.bootstrap(words).ends_with(78);
        let fix = format!("chown root:root {culprit} && chmod go-w {culprit}");
        refused.reports(&["users other than root may write it", &fix]);
        // The command in the message is enough.
        node.shell(if undo.is_empty() { &fix } else { undo });
        assert_eq!(node.bootstrap(words).code, 0, "{attack}: after");
    }
    // What nobody else may write, and what has no name.
    node.bootstrap(in_tmp).ends_with(0);
    node.shell("echo 'stack = \"mainvpc\"' | titus-bootstrap plan --config /dev/stdin");
    node.shell("bash -c \"titus-bootstrap plan --config <(echo 'stack = \\\"mainvpc\\\"')\"");
}

#[test]
fn a_user_of_the_node_finds_no_password_of_a_proxy() {
    const CANARY: &str = "c4n4ry";
    let node = Node::converged();
    let _services = agent::services(&node);
    let set = ["proxy.http=http://user:c4n4ry@127.0.0.1:9", "proxy.https=http://user:c4n4ry@127.0.0.1:9"];
    let words: Vec<&str> = set.iter().flat_map(|set| ["--set", *set]).collect();
    let run = node.bootstrap(&[&["apply", "-v"][..], &words].concat()).ends_with(0);
    assert!(!run.transcript().replace(set[0], "").replace(set[1], "").contains(CANARY), "{}", run.transcript());
    // Docker has them.
    let pid = node.property("docker.service", "MainPID");
    let variables = node.shell(&format!("tr '\\0' '\\n' </proc/{}/environ", pid.trim()));
    assert!(variables.contains("HTTP_PROXY=http://user:c4n4ry@127.0.0.1:9"), "{variables}");
    // systemd, the journal, the process table and the files that everyone may read do not have it.
    let user = format!("setpriv --reuid {ALICE} --regid nogroup --clear-groups");
    // As a pattern that the shell's own command line does not match.
    let seen = node.shell(&format!(
        "{{ {user} systemctl show '*'; {user} systemctl cat docker.service; journalctl
            {user} sh -c 'cat /proc/[0-9]*/cmdline' | tr '\\000' ' '; echo
            {user} grep -rs 'c4n[4]ry' /etc /run /var /usr/lib/systemd
            cat /run/titus-bootstrap/status.json /var/log/titus-bootstrap/last.*; }} 2>/dev/null || true"
    ));
    assert!(seen.contains("EnvironmentFile=/etc/systemd/system/docker.service.d/20-titus-proxy.env"));
    let found: Vec<&str> = seen.lines().filter(|line| line.contains(CANARY)).collect();
    assert_eq!(found, [""; 0]);
}

// Files, links and locks.

fn as_nobody(node: &Node, words: &[&str]) -> Outcome {
    node.run(&[&["runuser", "-u", "nobody", "--"], words].concat())
}

/// A role with a file at this path, and what it needs.
fn role(path: &str) -> String {
    format!(
        "description = \"A small role\"\n\
         [[step]]\nid = \"small\"\nphase = \"boot\"\nfile = {{ path = \"{path}\", content = \"made by root\" }}\n"
    )
}

#[test]
fn a_lock_that_a_user_holds_is_named_and_cannot_be_taken_again() {
    let node = Node::fresh();
    node.write("/etc/titus-bootstrap/roles/agent.toml", &role("/etc/small-role"));
    let _metadata = services::metadata(&node, items());
    for (lock, arguments) in [("lock", &["apply"][..]), ("keep.lock", &["keep"])] {
        let path = format!("/run/titus-bootstrap/{lock}");
        // As an earlier version made it.
        node.shell(&format!("mkdir -p /run/titus-bootstrap; install -m 0644 /dev/null {path}"));
        let _holder = node.spawn(&["runuser", "-u", "nobody", "--", "flock", &path, "sleep", "1000"]);
        wait_for("the lock to be held", || (node.run(&["flock", "-n", &path, "true"]).code == 1).then_some(()));
        let refused = node.bootstrap(arguments).ends_with(75);
        refused.reports(&["user nobody", "is not titus-bootstrap", &path]);
        let pids = node.shell("pidof sleep");
        node.shell(&format!("kill {pids}"));
        wait_for("the lock to be free", || (node.run(&["flock", "-n", &path, "true"]).code == 0).then_some(()));
        // From now on no user can open it.
        assert_ne!(as_nobody(&node, &["flock", "-n", &path, "true"]).code, 0);
        assert_eq!(node.shell(&format!("stat -c %a {path}")), "600\n");
    }
    node.bootstrap(&["apply"]).ends_with(0);
    // What a run says of itself is for root.
    for path in ["/run/titus-bootstrap/status.json", "/run/titus-bootstrap/lock", "/var/log/titus-bootstrap/last.log"] {
        assert_ne!(as_nobody(&node, &["cat", path]).code, 0, "{path}");
    }
    // Who may not read it gets the command that can, and not half of an answer.
    for words in [&["status"][..], &["status", "--last"], &["status", "--json"]] {
        let status = as_nobody(&node, &[&["titus-bootstrap"], words].concat()).ends_with(77);
        assert!(status.err.contains(&format!("sudo titus-bootstrap {}", words.join(" "))), "{}", status.transcript());
        if words.contains(&"--json") {
            assert_eq!(status.json()["error"]["exit_code"], 77, "{}", status.transcript());
        } else {
            assert_eq!(status.out, "");
        }
    }
}

#[test]
fn a_file_below_a_directory_of_a_user_s_goes_nowhere_else() {
    let node = Node::fresh();
    let _metadata = services::metadata(&node, items());
    node.shell("install -d -o nobody -g nogroup /srv/app; install -d -m 1777 /srv/open");
    let attacks: [(&str, &str, &str); 5] = [
        ("/srv/app/own/below/stolen", "mkdir /srv/app/own", "chown root:root /srv/app"),
        ("/srv/app/conf/stolen", "ln -sfn /etc /srv/app/conf", "not followed"),
        ("/srv/open/conf/stolen", "ln -sfn /etc /srv/open/conf", "not followed"),
        ("/srv/open/mine/stolen", "mkdir -p /srv/open/mine", "chown root:root /srv/open/mine"),
        ("/srv/open/stolen", "ln -sfn /etc/stolen /srv/open/stolen", "chmod go-w /srv/open"),
    ];
    for (path, attack, message) in attacks {
        node.write("/etc/titus-bootstrap/roles/agent.toml", &role(path));
        as_nobody(&node, &["sh", "-c", attack]).ends_with(0);
        let refused = node.bootstrap(&["apply"]).ends_with(69);
        let refused = refused.reports(&[message]);
        assert!(!node.exists("/etc/stolen"), "{path}: {}", refused.transcript());
    }
    // Below a directory of root's, as /tmp/root's is, there is nothing to fear.
    node.shell("install -d /srv/open/of-root");
    node.write("/etc/titus-bootstrap/roles/agent.toml", &role("/srv/open/of-root/file"));
    node.bootstrap(&["apply"]).ends_with(0);
    assert_eq!(node.read("/srv/open/of-root/file"), "made by root");
}

#[test]
fn the_modes_of_ubuntu_s_directories_are_accepted() {
    let node = Node::with_engine();
    let _services = prereqs::services(&node);
    prereqs::settings(&node, "");
    node.shell(
        "groupadd --system syslog; chgrp syslog /var/log; chmod 0775 /var/log
         install -d -m 2775 -g staff /var/local /usr/local/lib",
    );
    node.bootstrap(&["apply"]).ends_with(0);
    prereqs::check(&node);
    assert_eq!(node.shell("stat -c '%a %G' /var/log /var/log/mesos"), "775 syslog\n750 root\n");
    // A group of users is another thing.
    node.shell(
        "groupadd --gid 1500 people; chgrp people /var/log; rm -rf /var/log/titus-bootstrap; chmod 0755 /var/log/mesos",
    );
    let refused = node.bootstrap(&["apply"]).ends_with(69);
    refused.reports(&["/var/log/mesos", "group 1500", "chown root:root /var/log && chmod go-w /var/log"]);
    node.shell("chown root:root /var/log && chmod go-w /var/log");
    node.bootstrap(&["apply"]).ends_with(0);
}

const CONTINUE: &str = "CompleteLifecycleAction titusagent launch CONTINUE";
const ABANDON: &str = "CompleteLifecycleAction titusagent launch ABANDON";

/// A node with the boot unit, a small role and a lifecycle hook.
fn hooked() -> (Node, AutoScaling, Metadata) {
    let node = Node::fresh();
    first_boot::install(&node);
    node.write("/etc/titus-bootstrap/roles/agent.toml", &role("/etc/small-role"));
    node.write(SETTINGS, "lifecycle.hook = \"launch\"\n");
    let api = AutoScaling::serve(&node);
    let metadata = services::metadata(&node, with_profile(items()));
    (node, api, metadata)
}

/// Makes the node one on which nothing ran, and has the hook hold it.
fn begin_anew(node: &Node, api: &AutoScaling) {
    node.shell("rm -rf /run/titus-bootstrap /var/lib/titus-bootstrap /var/log/titus-bootstrap /etc/small-role");
    node.run(&["systemctl", "reset-failed", UNIT]);
    api.answer(Answer::Held);
    api.calls();
}

/// How many calls asked the group to go on, and how many to abandon the instance.
fn notified(api: &AutoScaling) -> (usize, usize) {
    let calls = api.calls();
    let count = |call: &str| calls.iter().filter(|made| *made == call).count();
    (count(CONTINUE), count(ABANDON))
}

#[test]
fn first_runs_at_once_send_one_continue_and_no_abandon() {
    let (node, api, _metadata) = hooked();
    let script = "/var/lib/cloud/instance/scripts/part-001";
    node.write(script, "#!/usr/bin/titus-bootstrap\n");
    let variable = format!("AWS_ENDPOINT_URL_AUTO_SCALING={ENDPOINT}");
    let pairs = std::iter::repeat_n(1, number("PAIRS", PAIRS));
    let groups = std::iter::repeat_n(9, number("GROUPS", GROUPS));
    for (turn, others) in pairs.chain(groups).enumerate() {
        begin_anew(&node, &api);
        let unit = node.spawn(&["systemctl", "start", UNIT]);
        let runs: Vec<Running> =
            (0..others).map(|_| node.spawn(&["env", &variable, "titus-bootstrap", script])).collect();
        for run in runs {
            run.end().ends_with(0);
        }
        unit.end().ends_with(0);
        assert_eq!(node.property(UNIT, "ExecMainStatus"), "0", "turn {turn}");
        assert_eq!(notified(&api), (1, 0), "turn {turn}");
    }
}

#[test]
fn a_run_that_never_had_the_lock_notifies_the_group_nothing() {
    let (node, api, _metadata) = hooked();
    begin_anew(&node, &api);
    node.write("/run/titus-bootstrap", "");
    node.run(&["systemctl", "start", UNIT]);
    assert_eq!(node.property(UNIT, "ExecMainStatus"), "1");
    assert_eq!(notified(&api), (0, 0));
}

#[test]
fn records_that_cannot_be_written_do_not_abandon_an_instance() {
    let (node, api, _metadata) = hooked();
    let records =
        "/run/titus-bootstrap/status.json /var/lib/titus-bootstrap/journal.jsonl /var/log/titus-bootstrap/last.log";
    let directories = "/run/titus-bootstrap /var/lib/titus-bootstrap /var/log/titus-bootstrap";
    for (what, obstacle) in [
        ("directories", format!("mkdir -p {records}")),
        ("pipes", format!("mkdir -p {directories}; mkfifo {records}")),
        ("large files", format!("mkdir -p {directories}; truncate --size 70M {records}")),
        (
            "a full disk",
            "mkdir -p /var/log/titus-bootstrap; mount -t tmpfs -o size=4k none /var/log/titus-bootstrap
             head --bytes 4096 /dev/zero > /var/log/titus-bootstrap/full"
                .to_owned(),
        ),
    ] {
        begin_anew(&node, &api);
        node.shell(&obstacle);
        node.run(&["systemctl", "start", UNIT]);
        let said = node.shell("journalctl --unit titus-bootstrap --output cat --no-pager");
        assert_eq!(node.property(UNIT, "ExecMainStatus"), "0", "{what}: {said}");
        assert!(said.contains("a run record is unavailable"), "{what}: {said}");
        assert_eq!(notified(&api), (1, 0), "{what}: {said}");
        assert_eq!(node.read("/etc/small-role"), "made by root");
    }
    node.shell("umount /var/log/titus-bootstrap");
}
