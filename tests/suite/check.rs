//! `check` reports at once everything that a run would refuse without examining a machine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use support::gzip;
use support::root::{Outcome, Root};

/// The output of `check` for files with these contents, below /srv, with these arguments.
fn check(files: &[(&str, &[u8])], arguments: &[&str]) -> Outcome {
    let root = Root::empty();
    let paths = files.iter().map(|(name, contents)| {
        root.write(&format!("/srv/{name}"), contents);
        root.at(&format!("/srv/{name}")).to_str().unwrap().to_owned()
    });
    let words: Vec<String> = std::iter::once("check".to_owned()).chain(paths).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    root.run(&words)
}

/// The settings that an agent needs.
const AGENT: &[u8] = b"prereqs = '10.0.0.1'\n[agent]\nlog_bucket = 'logs'\n";

const BASTION: &[u8] = b"description = 'a way in'\n\
    [[step]]\nid = 'motd'\nphase = 'bake'\nfile = { path = '/etc/motd', content = '{{ stack | safe }}' }\n";

#[test]
fn every_error_is_reported_at_once() {
    let files: &[(&str, &[u8])] = &[
        ("a.toml", b"stakc = 'x'\n"),
        ("b.toml", b"agent.port = 'high'\n"),
        ("user-data", b"#titus-bootstrap\nx = 1\n"),
    ];
    let outcome = check(files, &["--set", "agent.reigstry=x"]).ends_with(78).reports(&[
        "a.toml, line 1, column 1",
        "did you mean `stack`?",
        "b.toml, line 1, column 14",
        "user data, line 2, column 1",
        "did you mean `registry`?",
    ]);
    assert_eq!(outcome.err.matches("titus-bootstrap: ").count(), 4, "{}", outcome.err);
    let output = check(files, &["--json"]).ends_with(78).json();
    assert_eq!(output["wrong"].as_array().unwrap().len(), 3, "{output}");
    assert_eq!((&output["wrong"][0]["exit_code"], &output["good"]), (&78.into(), &serde_json::json!([])));
}

#[test]
fn each_wrong_value_of_a_file_has_its_line_and_a_mark() {
    let text = "stakc = 'x'\nprereqs = '10.0.0.1:2181'\nstack = 'good'\n\n[agent]\n  log_bucket = 'Logs'\n\tport = 'high'\n\
                [agnet]\nx = 1\n[agnet.y]\nz = 1\n[proxy]\nhttp = 'http://me:hunter2@h'\n[master]\naddres.x = 1\n";
    let outcome = check(&[("a.toml", text.as_bytes())], &[]).ends_with(78).reports(&[
        "a.toml, line 1, column 1: unknown key `stakc`",
        "1 | stakc\n           | ^^^^^\n",
        "2 | prereqs = '10.0.0.1:2181'\n           |           ^^^^^^^^^^^^^^^\n",
        "6 |   log_bucket = 'Logs'\n           |                ^^^^^^\n",
        "7 | \tport = 'high'\n           | \t       ^^^^^^\n",
        "8 | [agnet\n           |  ^^^^^\n",
        "10 | [agnet\n",
        "line 13",
        "15 | addres\n",
    ]);
    assert_eq!(outcome.err.matches("titus-bootstrap: ").count(), 8, "{}", outcome.err);
    assert!(!outcome.err.contains("hunter2"), "{}", outcome.err);
    // A run reports the first error.
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", text);
    let run = root.sample(&[]).ends_with(78).reports(&["1 | stakc"]);
    assert!(!run.err.contains("prereqs"), "{}", run.err);
    root.run(&["check"]).ends_with(78).reports(&["1 | stakc", "15 | addres"]);
    // A text that is not TOML has one error.
    check(&[("a.toml", b"stack = \nprereqs = '10.0.0.1:2181'\n")], &[]).ends_with(78).reports(&["line 1"]);
}

#[test]
fn each_wrong_step_of_a_role_is_reported() {
    let step = |id: &str, path: &str| {
        format!("[[step]]\nid = '{id}'\nphase = 'boot'\nfile = {{ path = '{path}', content = '' }}\n")
    };
    let steps = [step("one", "{{ agent.registry }}"), step("two", "/etc/two"), step("three", "/{{ agent.account }}")];
    let role = format!("description = 'x'\n{}", steps.concat());
    check(&[("mine.toml", role.as_bytes())], &["--role", "mine", "--set", "agent.registry=r"])
        .ends_with(78)
        .reports(&["step one", "step three", "agent.account has no value"]);
}

#[test]
fn the_requested_role_is_resolved_like_in_a_run() {
    check(&[("a.toml", AGENT)], &["--role", "agent"]).ends_with(0).prints(&["good: role agent"]);
    check(&[("a.toml", AGENT), ("b.toml", b"role = 'agent'\n")], &[]).ends_with(0).prints(&["good: role agent"]);
    check(&[("a.toml", b"stack = 'x'\n")], &["--role", "agent"])
        .ends_with(78)
        .reports(&["role agent needs agent.log_bucket and zookeeper.servers"]);
    check(&[("a.toml", b"role = 'agnet'\n")], &[]).ends_with(78).reports(&["did you mean `agent`?"]);
    let other = b"allowed_roles = ['master']\n";
    check(&[("a.toml", AGENT), ("b.toml", other)], &["--role", "agent"]).ends_with(78).reports(&["does not accept"]);
    // A step that is wrong only with these values.
    let forged = b"[agent.attributes]\nzone = 'a'\n";
    check(&[("a.toml", AGENT), ("b.toml", forged)], &["--role", "agent"])
        .ends_with(78)
        .reports(&["zone is given twice"]);
    check(&[("a.toml", AGENT), ("b.toml", forged)], &[]).ends_with(78).reports(&["zone is given twice"]);
    // Settings that are not complete for any role are still correct.
    check(&[("a.toml", b"stack = 'x'\n")], &[])
        .ends_with(0)
        .prints(&["good: settings", "good: role agent, not resolved"]);
}

#[test]
fn what_no_node_could_use_is_not_good() {
    // An image that every node refuses.
    check(&[("a.toml", b"allowed_roles = ['agnet']\n")], &[])
        .ends_with(78)
        .reports(&["\"agnet\"", "did you mean `agent`?"]);
    check(&[("a.toml", b"allowed_roles = ['Agent']\n")], &[]).ends_with(0);
    // An operator's own role is resolved if it needs nothing else.
    let own = String::from_utf8_lossy(BASTION).replace("| safe", "| quote");
    check(&[("bastion.toml", own.as_bytes())], &[]).ends_with(78).reports(&["step motd", "quote"]);
    let needy = own.replace("stack", "agent.log_bucket");
    check(&[("bastion.toml", needy.as_bytes())], &[]).ends_with(0).prints(&["good: role bastion, not resolved"]);
    // Files of other programs.
    for (text, what) in
        [("#!/bin/bash\n", "a script for /bin/bash"), ("#cloud-config\n", "cloud-init's (#cloud-config)")]
    {
        check(&[("x", text.as_bytes())], &[]).ends_with(78).reports(&[what, "#!/usr/bin/titus-bootstrap"]);
    }
    let root = Root::empty();
    let nowhere = root.at("/nowhere").display().to_string();
    support::root::program()
        .args(["check", "--root", &nowhere])
        .output()
        .map(|output| assert_eq!(output.status.code(), Some(78)))
        .unwrap();
    assert!(!root.at("/nowhere").exists());
}

#[test]
fn files_that_are_not_read_are_noticed() {
    let root = Root::empty();
    for name in ["10-a.conf", "10-b", "10-c.TOML", "10-copy.toml.bak", ".10-hidden.toml", "README"] {
        root.write(&format!("/etc/titus-bootstrap/config.d/{name}"), "stack = 'blue'\n");
    }
    root.write("/etc/titus-bootstrap/roles/agent.d/50-x.conf", "");
    let plan = root.sample(&["plan"]).ends_with(0);
    for name in ["config.d/10-a.conf", "config.d/10-b", "config.d/10-c.TOML", "roles/agent.d/50-x.conf"] {
        assert!(plan.out.contains(&format!("/etc/titus-bootstrap/{name} is not read")), "{}", plan.out);
    }
    for name in ["10-copy", "10-hidden", "README"] {
        assert!(!plan.out.contains(name), "{}", plan.out);
    }
    root.sample(&["why", "stack"]).ends_with(0).prints(&["mainvpc"]);
}

#[test]
fn a_role_file_is_the_role_of_its_name() {
    let files: &[(&str, &[u8])] = &[("bastion.toml", BASTION), ("a.toml", b"role = 'bastion'\n")];
    check(files, &[]).ends_with(0).prints(&["good: role bastion"]);
    check(&files[..1], &[]).ends_with(0).prints(&["bastion.toml", "good: role bastion"]);
    let wrong = String::from_utf8_lossy(BASTION).replace("stack", "stakc");
    check(&[("bastion.toml", wrong.as_bytes())], &[]).ends_with(78).reports(&["stakc", "did you mean"]);
    let relative = String::from_utf8_lossy(BASTION).replace("/etc/motd", "etc/motd");
    check(&[("bastion.toml", relative.as_bytes())], &[]).ends_with(78).reports(&["step motd"]);
}

#[test]
fn drop_ins_are_checked_together_and_with_their_role() {
    let step = |id: &str, path: &str| {
        format!(
            "[[step]]\nid = '{id}'\nafter = 'metatron'\nphase = 'bake'\nfile = {{ path = '{path}', content = '' }}\n"
        )
    };
    let root = Root::empty();
    let check = |other: &str| {
        root.write("/srv/agent.d/10-one.toml", step("one", "/etc/one"));
        root.write("/srv/agent.d/20-two.toml", other);
        root.write("/srv/a.toml", AGENT);
        let paths = ["10-one.toml", "20-two.toml"].map(|name| root.at("/srv/agent.d").join(name).display().to_string());
        root.run(&["check", &paths[0], &paths[1], root.at("/srv/a.toml").to_str().unwrap(), "--role", "agent"])
    };
    check(&step("two", "/etc/two")).ends_with(0).prints(&["10-one.toml", "20-two.toml", "good: role agent"]);
    check(&step("one", "/etc/two")).ends_with(78).reports(&["20-two.toml", "one"]);
    let other = step("two", "/etc/one").replace("''", "'x'");
    check(&other).ends_with(78).reports(&["want different things of /etc/one"]);
}

#[test]
fn user_data_is_checked_in_every_form() {
    let text = b"#titus-bootstrap\nrole = 'agent'\nprereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\n".to_vec();
    let part = String::from_utf8(text.clone()).unwrap();
    let mime = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: application/vnd.titus-bootstrap+toml\n\n{part}--x--\n"
    );
    let packed = gzip(&text);
    let script = b"#!/usr/bin/titus-bootstrap --role agent --set prereqs=10.0.0.1\nagent.log_bucket = 'logs'\n";
    for form in [&text[..], mime.as_bytes(), &packed, script] {
        check(&[("user-data", form)], &[]).ends_with(0).prints(&["good: role agent"]);
    }
    let wrong = gzip(&String::from_utf8_lossy(&text).replace("bucket", "bukcet").into_bytes());
    check(&[("user-data", &wrong)], &[]).ends_with(78).reports(&["user data, line 4", "log_bucket"]);
    let line = b"#!/usr/bin/titus-bootstrap --dry-run\n";
    check(&[("user-data", line)], &[]).ends_with(78).reports(&["--dry-run"]);
    // The image sets what tags may set; user data does not.
    check(&[("user-data", b"#titus-bootstrap\nallowed_tags = ['stack']\n")], &[])
        .ends_with(78)
        .reports(&["allowed_tags"]);
    check(&[("a.toml", b"allowed_tags = ['stack']\n")], &[]).ends_with(0);
}

/// `check` asks no instance, and refuses no settings because of an instance that does not exist.
#[test]
fn without_facts_the_node_is_one_that_the_settings_are_for() {
    for (role, settings) in [
        ("prereqs", "zookeeper.servers = ['10.0.0.1:2181', '10.0.0.2:2181', '10.0.0.3:2181']"),
        ("prereqs", "zookeeper.servers = ['zk-1.example:2181', 'zk-2.example:2181', 'zk-3.example:2181']"),
        ("prereqs", "zookeeper.discover = { tag = 'titus:role', value = 'prereqs' }"),
        ("agent", "zookeeper.discover = { tag = 'titus:role', value = 'prereqs' }\nagent.log_bucket = 'logs'"),
        ("agent", "prereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\nagent.vpc_driver = ['c5.large']"),
        ("agent", "prereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\nagent.supported_families = ['r4']"),
        ("agent", "prereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\nagent.reserve.mem = 20000"),
    ] {
        check(&[("a.toml", settings.as_bytes())], &["--role", role])
            .ends_with(0)
            .prints(&[&format!("good: role {role}")]);
    }
    let twice = b"zookeeper.servers = ['10.0.0.1:2181', '10.0.0.2:2181', '10.0.0.1:2181']";
    check(&[("a.toml", twice)], &["--role", "prereqs"]).ends_with(78).reports(&["10.0.0.1 twice"]);
    let of_nobody = b"prereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\nagent.vpc_driver = ['c5.giant']";
    check(&[("a.toml", of_nobody)], &["--role", "agent"]).ends_with(78).reports(&["c5.giant"]);
}

/// The output of a shell's `<(command)` is read once.
#[test]
fn a_pipe_is_read_once() {
    let root = Root::empty();
    for text in [&b"stack = 'x'\n"[..], BASTION, b"#titus-bootstrap\nstack = 'x'\n"] {
        root.write("/srv/text", text);
        let (pipe, text) = (root.at("/srv/pipe"), root.at("/srv/text"));
        let script = format!(
            "rm -f {pipe}; mkfifo {pipe}; cat {text} > {pipe} & {program} check --root {root} {pipe}",
            pipe = pipe.display(),
            text = text.display(),
            program = env!("CARGO_BIN_EXE_titus-bootstrap"),
            root = root.at("/").display(),
        );
        let run = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let out = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && out.contains("/srv/pipe"), "{out}{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn several_roles_are_checked_each_and_as_one_image() {
    let both = ["--role", "agent", "--role", "master"];
    let master = b"master.default_iam_role = 'r'\nmaster.default_security_groups = 'sg-0123456789abcdef0'\n\
                   debs.master.path = '/opt/x.deb'\n";
    check(&[("a.toml", AGENT), ("b.toml", master)], &both)
        .ends_with(0)
        .prints(&["good: role agent", "good: role master"]);
    check(&[("a.toml", AGENT)], &both).ends_with(78).reports(&["role master needs"]);
    let other = String::from_utf8_lossy(BASTION).replace("stack", "systemd.unit_dir");
    let files: &[(&str, &[u8])] = &[("one.toml", BASTION), ("two.toml", other.as_bytes())];
    check(files, &["--role", "one", "--role", "two"]).ends_with(78).reports(&["cannot share an image", "/etc/motd"]);
}
