//! apt as others left it: their sources, pins and packages.

use crate::harness::agent;
use crate::harness::debs::{Deb, PLAIN};

/// A person who adds a repository as its documentation says has it in a separate file, with a separate key.
#[test]
fn a_repository_of_another_file_with_another_key_is_refused_and_the_fix_is_enough() {
    let (node, _services) = agent::fresh();
    let list = "/etc/apt/sources.list.d/docker.list";
    node.shell("install -D -m 0644 /srv/repo/key.asc /etc/apt/keyrings/docker.asc");
    node.write(list, "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] file:/srv/repo test main\n");
    for words in [&["plan"][..], &["apply"]] {
        let refused = node.bootstrap(words).ends_with(69);
        refused.reports(&[list, "file:/srv/repo/ test", "/etc/apt/keyrings/docker.asc", "remove it from"]);
    }
    // apt works as before.
    node.shell("apt-get update");
    node.shell(&format!("rm {list}"));
    node.bootstrap(&["apply"]).ends_with(0);
    node.shell("apt-get update");

    // The same of sources of packages, with a comment, in the hands of a setting.
    let theirs = "deb-src [signed-by=/etc/apt/keyrings/docker.asc] file:///srv/repo/ test main # theirs\n";
    node.write(list, theirs);
    node.bootstrap(&["plan"]).ends_with(69).reports(&[list, "--set apt.take_over=true"]);
    let set = ["--set", "apt.take_over=true"];
    let plan = node.bootstrap(&[&["plan"][..], &set].concat()).ends_with(0);
    let line = plan.out.lines().find(|line| line.contains("to undo")).unwrap();
    assert!(line.contains(list), "{line}");
    node.bootstrap(&[&["apply"][..], &set].concat()).ends_with(0);
    node.shell("apt-get update");
    assert_eq!(node.read(list), format!("#titus-bootstrap: {theirs}"));
    node.bootstrap(&["plan", "--detailed-exitcode"]).ends_with(0);
    node.shell(line.split("to undo: ").nth(1).unwrap().trim_end_matches(')'));
    assert_eq!(node.read(list), theirs);
}

/// The run refuses each before the first change, in apt's words, and the printed fix is enough.
#[test]
fn what_keeps_apt_from_its_lists_is_reported_in_apt_s_words() {
    let (node, _services) = agent::fresh();
    let refused = |code: i32, words: &[&str]| {
        let refused = node.bootstrap(&["apply"]).ends_with(code).reports(words);
        assert!(!refused.err.contains("/var/cache/titus-bootstrap"), "{}", refused.transcript());
        assert!(!node.exists("/etc/apt/sources.list.d/titus-bootstrap-test.sources"));
        assert!(!node.exists("/etc/mesos-attributes.sh"));
    };
    let list = "/etc/apt/sources.list.d/theirs.list";
    node.write(list, "deb http://theirs.invalid\n");
    let line = format!("Malformed entry 1 in list file {list} (Suite)");
    refused(69, &["apt cannot read its sources", &line]);
    node.bootstrap(&["plan"]).ends_with(69).reports(&[&line]);
    node.shell(&format!("rm {list}"));

    node.write("/root/other.asc", include_str!("../../../data/key.asc"));
    let settings = node.read(agent::SETTINGS);
    node.write(agent::SETTINGS, &settings.replace("/srv/repo/key.asc", "/root/other.asc"));
    // Debian 13 verifies with sqv, whose words are others.
    let is_sqv = node.exists("/usr/bin/sqv");
    let (error, key) = if is_sqv {
        ("W: OpenPGP signature verification failed", "Missing key")
    } else {
        ("W: GPG error", "NO_PUBKEY")
    };
    let error = format!("{error}: file:/srv/repo test InRelease");
    refused(78, &[&error, key, "set its key in apt.sources"]);
    node.write(agent::SETTINGS, &settings);

    // A mirror that answers, with something else than a repository.
    node.write(agent::SETTINGS, &settings.replace("file:/srv/repo", "http://127.0.0.1:8500/debian"));
    node.shell(
        "systemd-run --quiet --unit mirror systemd-socket-activate --accept --inetd --listen 127.0.0.1:8500 cat /root/answer
         until grep -q ' 0100007F:2134 ' /proc/net/tcp; do sleep 0.1; done",
    );
    for (answer, words) in [
        ("500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", "500  Internal Server Error"),
        ("503 Service Unavailable\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n", "503  Service Unavailable"),
        ("403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403  Forbidden"),
        ("404 Not Found\r\nContent-Length: 0\r\n\r\n", "does not have a Release file"),
        ("200 OK\r\nContent-Length: 13\r\n\r\n<html></html>", "NOSPLIT"),
        ("200 OK\r\nContent-Length: 1300\r\n\r\n<html></html>", "http://127.0.0.1:8500/debian"),
    ] {
        node.write("/root/answer", &format!("HTTP/1.1 {answer}"));
        refused(75, &["http://127.0.0.1:8500/debian", words, "fix:"]);
    }
    node.shell("systemctl stop mirror");
    node.write(agent::SETTINGS, &settings);

    // In the place of /tmp, which is a mount.
    node.shell("umount /tmp; chmod 0755 /tmp");
    let words = if is_sqv { "Unable to mkstemp /tmp/" } else { "Couldn't create temporary file /tmp/" };
    refused(69, &["apt cannot create temporary files in /tmp", words, "chmod 1777 /tmp"]);
    node.shell("chmod 1777 /tmp");

    // The operator's own package is not configured: apt fails because of it, after it has done its work.
    let own = Deb { control: "", scripts: &[("postinst", "#!/bin/sh\n[ -e /root/may ]\n")], ..PLAIN };
    own.put(&node, "/root/own.deb");
    assert_ne!(node.run(&["dpkg", "--install", "/root/own.deb"]).code, 0);
    let run = node.bootstrap(&["apply"]).ends_with(0);
    run.reports(&["apt failed because of titus-server-master, which this run did not ask for", "so the run continues"]);
    agent::check(&node);
    let state = || node.shell("dpkg-query --show --showformat '${db:Status-Status}' titus-server-master");
    assert_eq!(state(), "half-configured");

    // One that lacks what it depends on keeps apt from any installation; the run names it.
    node.shell("touch /root/may; dpkg --configure -a; apt-get purge --yes titus-executor");
    let lacks = Deb { version: "0.0.2-1", control: "Depends: nobody-has-this\n", scripts: &[], ..PLAIN };
    lacks.put(&node, "/root/own.deb");
    node.run(&["dpkg", "--install", "/root/own.deb"]);
    let refused = node.bootstrap(&["apply"]).ends_with(1);
    let fix = "dpkg --purge --force-remove-reinstreq titus-server-master";
    refused.reports(&["apt failed because of titus-server-master", "nobody-has-this", fix]);
    node.shell(fix);
    node.bootstrap(&["apply"]).ends_with(0);
}

#[test]
fn a_pinned_package_is_one_that_no_source_has() {
    let (node, _services) = agent::fresh();
    let pin = "/etc/apt/preferences.d/never";
    node.write(pin, "Package: titus-executor\nPin: release *\nPin-Priority: -1\n");
    let refused = node.bootstrap(&["apply"]).ends_with(69);
    refused.reports(&["no source has the package titus-executor", "apt-cache policy titus-executor"]);
    assert!(!node.exists("/etc/mesos-attributes.sh"));
    node.shell(&format!("rm {pin}"));
    node.bootstrap(&["apply"]).ends_with(0);
}

#[test]
fn no_package_of_the_operator_s_is_removed() {
    let (node, _services) = agent::fresh();
    // A package of the operator's that one of the role conflicts with.
    let own = Deb { control: "Breaks: titus-executor\n", ..PLAIN };
    node.put("/root/own.deb", 0o644, own.build());
    node.shell("dpkg --install --force-depends /root/own.deb");
    let refused = node.bootstrap(&["apply"]).ends_with(69);
    let refused = refused.reports(&[
        "apt would remove titus-server-master to install titus-executor",
        "a run removes no package",
        "apt-get remove titus-server-master",
    ]);
    assert!(!node.exists("/etc/mesos-attributes.sh"), "{}", refused.transcript());
    let status =
        || node.run(&["dpkg-query", "--show", "--showformat", "${db:Status-Status}", "titus-server-master"]).out;
    assert_eq!(status(), "installed");
    // The other fix that it prints.
    let set = ["--set", "apt.may_remove=[\"titus-server-master\"]"];
    refused.reports(&[&format!("--set '{}'", set[1])]);
    node.bootstrap(&[&["plan"][..], &set].concat()).ends_with(0).prints(&["remove titus-server-master"]);
    node.bootstrap(&[&["apply"][..], &set].concat()).ends_with(0);
    assert_ne!(status(), "installed");
}
