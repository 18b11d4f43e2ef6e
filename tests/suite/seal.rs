//! Baking for several roles and sealing, as commands below a temporary root.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::root::{Root, assert_same, run};
use support::user;

/// A tree that a builder left; its instance is the sample's.
fn builder() -> Root {
    let root = Root::empty();
    root.write("/etc/passwd", "root:x:0:0::/root:/bin/bash\n");
    root.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    root.write("/etc/ssh/ssh_host_rsa_key", "secret");
    root.write("/var/log/cloud-init.log", "on i-0123456789abcdef0\n");
    root
}

#[test]
fn a_tree_is_sealed_and_then_clean() {
    let root = builder();
    let before = root.look();
    root.run(&["seal", "--check", "--sample"]).ends_with(1).reports(&["/etc/ssh/ssh_host_rsa_key: ssh host key"]);
    assert_same(&before, &root.look(), "a look changed something");
    root.run(&["seal", "--sample"])
        .ends_with(0)
        .prints(&["removed   /var/log (log)", "nothing of the builder is left"]);
    let after = root.look();
    let output = root.run(&["seal", "--check", "--sample", "--json"]).ends_with(0).json();
    assert_eq!((&output["clean"], &output["left"]), (&true.into(), &serde_json::json!([])));
    assert_eq!(output["searched_for"][0], "the builder's instance id");
    assert_same(&after, &root.look(), "a look changed something");
    assert!(!root.at("/run/titus-bootstrap").exists());
}

#[test]
fn an_image_whose_services_nothing_would_start_is_not_sealed() {
    let root = builder();
    let drop_in = "/etc/systemd/system/mesos-agent.service.d/10-titus-bootstrap.conf";
    root.write(drop_in, "[Unit]\n");
    let before = root.look();
    for arguments in [&["seal", "--sample"][..], &["seal", "--check", "--sample"]] {
        root.run(arguments).ends_with(69).reports(&[
            "titus-bootstrap.service is not enabled",
            drop_in,
            "install the deb",
        ]);
    }
    assert_same(&before, &root.look(), "a refused seal changed something");
    root.link(
        "/etc/systemd/system/multi-user.target.wants/titus-bootstrap.service",
        "/lib/systemd/system/titus-bootstrap.service",
    );
    root.run(&["seal", "--sample"]).ends_with(0);
}

#[test]
fn what_is_left_is_named_with_its_path() {
    let root = builder();
    root.write("/usr/share/x/about", "built on i-0123456789abcdef0");
    let output = root.run(&["seal", "--sample"]).ends_with(1);
    let output =
        output.reports(&["seal: one thing that must not be in an image is left", "cause: /usr/share/x/about: it has"]);
    assert!(!output.out.contains("nothing of the builder"));
    // Nothing says which instance it was: the command reports that, and does not guess.
    let root = builder();
    root.run(&["seal"]).ends_with(0).prints(&["for nothing", "notice: did not search for the builder's instance id"]);
}

#[test]
fn what_an_ordinary_user_cannot_read_or_remove_is_named() {
    let root = builder();
    root.write("/srv/closed", "");
    fs::set_permissions(root.at("/srv/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let given = root.at("/");
    let made = std::process::Command::new("chmod").args(["-R", "go-w"]).arg(&given).status().unwrap();
    assert!(made.success());
    // Somebody else's tree, or one's own if the tests are run without rights.
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(&given, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = user::run(&["seal", "--check", "--sample", "--root", given.to_str().unwrap()]).ends_with(1);
    output.reports(&["/srv/closed: cannot search it: Permission denied"]);
}

#[test]
fn the_live_machine_is_for_root_and_made_up_facts_are_for_trees() {
    user::run(&["seal"]).ends_with(77);
    run(&["seal", "--sample"]).ends_with(64);
    run(&["seal", "--root", "/"]).ends_with(78);
}

#[test]
fn a_run_at_work_is_not_sealed() {
    let root = builder();
    root.write("/run/titus-bootstrap/lock", "");
    let file = fs::OpenOptions::new().write(true).open(root.at("/run/titus-bootstrap/lock")).unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).unwrap();
    fs::write(root.at("/run/titus-bootstrap/lock"), format!("{} now\n", std::process::id())).unwrap();
    for arguments in [&["seal"][..], &["seal", "--check"]] {
        root.run(arguments).ends_with(75).reports(&["another run is at work: process"]);
    }
    assert!(root.at("/etc/ssh/ssh_host_rsa_key").exists());
    drop(held);
    root.run(&["seal"]).ends_with(0);
}

#[test]
fn several_roles_share_an_image_and_nothing_else() {
    let root = Root::empty();
    let both = ["--role", "agent", "--role", "master"];
    for command in
        [&["apply"][..], &["plan"], &["plan", "--phase", "boot"], &["verify"], &["facts"], &["config", "show"]]
    {
        let arguments = [command, &both, &["--sample"]].concat();
        root.run(&arguments).ends_with(64).reports(&["--role is given more than once", "--phase bake"]);
    }
    root.run(&["apply", "--phase", "bake", "--save", "--role", "agent", "--role", "master"]).ends_with(64);
    // clap would drop the first one.
    root.run(&["--role", "agent", "plan", "--phase", "bake", "--role=master"])
        .ends_with(64)
        .reports(&["before the command"]);

    let all = ["--role", "agent", "--role", "Master", "--role", "gateway", "--role", "prereqs", "--role", "agent"];
    let bake = [&["apply", "--phase", "bake", "--sample", "--json"], &all[..]].concat();
    let made = root.run(&bake).ends_with(0).json();
    assert_eq!(made["role"], "agent, master, gateway, prereqs");
    let steps = made["steps"].as_array().unwrap();
    let masks = steps.iter().filter(|step| step["id"].as_str().unwrap().ends_with("mask-mesos-slave"));
    assert_eq!(masks.count(), 1, "{steps:#?}");
    let again = root.run(&bake).ends_with(0).json();
    assert!(again["steps"].as_array().unwrap().iter().all(|step| step["state"] != "changed"));
}

#[test]
fn roles_that_disagree_are_refused_before_anything_is_changed() {
    let root = Root::empty();
    root.write(
        "/etc/titus-bootstrap/roles/mine.toml",
        "description = 'mine'\n[[step]]\nid = 'mine'\nphase = 'bake'\nfile = { path = '/etc/titus-shared.env', content = 'x' }\n",
    );
    let before = root.look();
    let output = root.run(&["apply", "--phase", "bake", "--sample", "--role", "agent", "--role", "mine"]).ends_with(78);
    output.reports(&[
        "the roles agent and mine cannot share an image: they disagree on /etc/titus-shared.env",
        "step mine: a file",
    ]);
    let after = root.look();
    let changed: Vec<&String> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(changed.iter().all(|path| path.starts_with("/run")), "{changed:?}");
}
