//! Runs on a changed tree, and the records of runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::Value;
use support::root::{Root, assert_same, outcome, program};

fn converged() -> Root {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    root
}

fn remove(root: &Root, path: &str) {
    fs::remove_file(root.at(path)).unwrap();
}

#[test]
fn what_was_broken_is_fixed_and_nothing_else_is_touched() {
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/mesos-agent.service";
    type Break = fn(&Root);
    let breaks: [(&str, &[&str], Break); 11] = [
        ("titus-shared", &["/etc/titus-shared.env"], |root| root.write("/etc/titus-shared.env", "SHORT=\n")),
        ("executor-config-json", &["/etc/titus-executor/config.json"], |root| {
            remove(root, "/etc/titus-executor/config.json")
        }),
        ("titus-environment", &["/etc/profile.d/titus_environment.sh"], |root| {
            let file = root.at("/etc/profile.d/titus_environment.sh");
            fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("mesos-agent", &[WANTS], |root| remove(root, WANTS)),
        ("mask-mesos-slave", &["/etc/systemd/system/mesos-slave.service"], |root| {
            remove(root, "/etc/systemd/system/mesos-slave.service");
            root.write("/etc/systemd/system/mesos-slave.service", "[Service]\nExecStart=/bin/true\n");
        }),
        ("mesos-agent", &["/etc/systemd/system/mesos-agent.service"], |root| {
            root.link("/etc/systemd/system/mesos-agent.service", "/dev/null")
        }),
        ("docker-config", &["/etc/systemd/system/docker.service.d/10-docker-config.conf"], |root| {
            fs::remove_dir_all(root.at("/etc/systemd/system/docker.service.d")).unwrap()
        }),
        ("metatron", &["/metatron"], |root| remove(root, "/metatron")),
        ("container-logs", &["/var/lib/titus-container-logs"], |root| {
            fs::remove_dir(root.at("/var/lib/titus-container-logs")).unwrap()
        }),
        ("persistent-net-rules", &["/etc/udev/rules.d/70-persistent-net.rules"], |root| {
            root.write("/etc/udev/rules.d/70-persistent-net.rules", "")
        }),
        ("network-eth0", &["/etc/systemd/network/10-eth0.network"], |root| {
            remove(root, "/etc/systemd/network/10-eth0.network");
            symlink("/etc/passwd", root.at("/etc/systemd/network/10-eth0.network")).unwrap();
        }),
    ];
    for (step, paths, break_it) in breaks {
        let root = converged();
        let (whole, mut before) = (root.made(), root.stamps());
        break_it(&root);
        let report = root.sample(&["--json"]).ends_with(0).json();
        let all = report["steps"].as_array().unwrap();
        let changed: Vec<_> =
            all.iter().filter(|s| s["state"] == "changed").map(|s| s["id"].as_str().unwrap()).collect();
        assert_eq!(changed, [step]);
        let mut made = root.made();
        // A file in a mask's place is moved aside, and an empty directory does not count.
        made.retain(|path, _| !path.ends_with(".saved") && !path.starts_with("/etc/udev"));
        assert_same(&whole, &made, step);
        let mut after = root.stamps();
        for stamps in [&mut before, &mut after] {
            let is_whole = |path: &str| whole.get(path).is_some_and(|look| !look.ends_with("directory"));
            stamps.retain(|path, _| is_whole(path) && !paths.contains(&path.as_str()));
        }
        assert_same(&before, &after, &format!("{step}: more was touched"));
    }
}

#[test]
fn a_file_in_a_masks_way_is_kept_beside_it() {
    let root = Root::empty();
    let mine = "[Service]\nExecStart=/opt/mine\n";
    root.write("/etc/systemd/system/mesos-master.service", mine);
    root.sample(&["plan"])
        .ends_with(0)
        .prints(&["mesos-master.service", "(moves its file /etc/systemd/system/mesos-master.service aside)"]);
    root.sample(&[]).ends_with(0).reports(&["mesos-master.service.saved"]);
    assert_eq!(root.read("/etc/systemd/system/mesos-master.service.saved"), mine);
}

#[test]
fn a_disk_that_takes_no_more_leaves_nothing_half_written() {
    let whole = converged().made();
    let mut failed = 0;
    for blocks in [0, 1, 2, 4, 8, 16, 1000] {
        let root = Root::empty();
        // The system refuses files above a number of blocks of 512 bytes (EFBIG), like a full disk.
        let script = format!("trap '' 25; ulimit -f {blocks}; exec \"$@\"");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script, "sh"]).arg(program().get_program());
        command.args(["--role", "agent", "--sample", "--root"]).arg(root.path());
        let full = outcome(&mut command);
        if full.code != 0 {
            full.ends_with(1).reports(&["/titus-bootstrap", "cause:"]);
            failed += 1;
        }
        for (path, look) in root.made() {
            assert_eq!(Some(&look), whole.get(&path), "{path} on a full disk");
        }
        root.sample(&[]).ends_with(0);
        assert_same(&whole, &root.made(), "after the disk was full");
        assert_eq!(root.half_written(), [""; 0]);
    }
    assert!((2..7).contains(&failed), "{failed} of 7 failed");
}

#[test]
fn a_directory_that_others_may_write_to_gets_no_file() {
    let root = Root::empty();
    fs::create_dir_all(root.at("/etc/titus-executor")).unwrap();
    fs::set_permissions(root.at("/etc/titus-executor"), fs::Permissions::from_mode(0o777)).unwrap();
    for words in [&["plan"][..], &[]] {
        let refused = root.sample(words).ends_with(69);
        refused.reports(&["/etc/titus-executor/config", "others may write", "chmod go-w"]);
    }
    assert!(!root.at("/etc/mesos-agent.config").exists());
    assert_eq!(fs::read_dir(root.at("/etc/titus-executor")).unwrap().count(), 0);
}

#[test]
fn the_journal_says_what_was_done_and_why_it_ended() {
    let root = Root::empty();
    root.fails_half_way();
    root.sample(&[]).ends_with(0);
    let journal = root.read("/var/lib/titus-bootstrap/journal.jsonl");
    let events: Vec<Value> = journal.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let runs: std::collections::BTreeSet<_> = events.iter().map(|event| event["run"].as_str().unwrap()).collect();
    assert_eq!(runs.len(), 2);
    let count = |event: &str, step: &str| events.iter().filter(|e| e["event"] == event && e["step"] == step).count();
    assert_eq!((count("started", "docker-config"), count("finished", "docker-config")), (1, 1));
    assert_eq!((count("failed", "large"), count("finished", "large")), (1, 0));
    for event in &events {
        let role = if event["run"] == events[0]["run"] { "half" } else { "agent" };
        assert_eq!((&event["schema_version"], &event["role"]), (&1.into(), &role.into()));
        assert_eq!(event["instance_id"], "i-0123456789abcdef0");
        assert!(event["time"].as_str().unwrap().starts_with("20"), "{event}");
    }
    let mode = |path| fs::metadata(root.at(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("/var/lib/titus-bootstrap/journal.jsonl"), 0o600);
    assert_eq!((mode("/var/log/titus-bootstrap/last.log"), mode("/var/log/titus-bootstrap/last.json")), (0o640, 0o640));

    // A line that a power cut truncated stops nothing.
    let torn = format!("{journal}{{\"schema_version\":1,\"ti");
    root.write("/var/lib/titus-bootstrap/journal.jsonl", torn);
    remove(&root, "/metatron");
    root.sample(&[]).ends_with(0);
    root.sample(&["status"]).ends_with(0);
}
