//! Attacks by a user of the node without privileges.

use crate::harness::agent;
use crate::harness::node::Node;

const CONFIG: &str = "/etc/titus-bootstrap/config.toml";

/// Who has no privileges on a node.
const ALICE: &str = "nobody";

#[test]
fn what_another_than_root_may_write_is_not_obeyed() {
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
        (as_it_is, format!("chmod 0666 /srv/way/config.toml"), "/srv/way/config.toml", ""),
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
        refused.tells(&["another than root may write it", &fix]);
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
    // Whoever asks systemd, the journal, the process table or the files that all may read, has not.
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
