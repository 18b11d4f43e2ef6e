//! Drop-ins: an operator's own steps in a role, and changed keys of its steps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use serde_json::Value;

use crate::support::root::{Root, assert_same};

const ROLES: &str = "/etc/titus-bootstrap/roles";

const ROLE: &str = "description = \"Mine\"\n\n\
                    [[step]]\nid = \"one\"\nphase = \"boot\"\nfile = { path = \"/etc/one\", content = \"A=1\\nB=1\\n\" }\n\n\
                    [[step]]\nid = \"two\"\nphase = \"boot\"\nfile = { path = \"/etc/two\", content = \"C=1\\n\" }\n";

/// A tree with the role `mine`, and these drop-ins of it.
fn tree(drop_ins: &[(&str, &str)]) -> Root {
    let root = Root::empty();
    root.write(&format!("{ROLES}/mine.toml"), ROLE);
    for (name, text) in drop_ins {
        root.write(&format!("{ROLES}/mine.d/{name}"), text);
    }
    root
}

fn plan(root: &Root) -> Value {
    root.run(&["plan", "--sample", "--role", "mine", "--json"]).ends_with(0).json()
}

fn ids(plan: &Value) -> Vec<&str> {
    plan["steps"].as_array().unwrap().iter().map(|step| step["id"].as_str().unwrap()).collect()
}

fn step(id: &str, place: &str) -> String {
    format!("[[step]]\n{place}\nid = \"{id}\"\nphase = \"boot\"\nfile = {{ path = \"/etc/{id}\", content = \"\" }}\n")
}

#[test]
fn added_steps_come_before_or_after_those_of_a_role_in_the_order_of_files() {
    let first = [
        step("a", "after = \"one\""),
        step("b", "after = \"one\""),
        step("c", "before = \"one\""),
        step("d", "before = \"one\""),
    ];
    let second = [step("e", "after = \"one\""), step("f", "after = \"a\""), step("g", "before = \"two\"")];
    let root = tree(&[("50-first.toml", &first.concat()), ("60-second.toml", &second.concat()), ("README", "no TOML")]);
    let plan = plan(&root);
    assert_eq!(ids(&plan), ["c", "d", "one", "a", "f", "b", "e", "g", "two"]);
    let from = |n: usize| plan["steps"][n]["drop_ins"].as_str();
    assert_eq!(from(0), Some("/etc/titus-bootstrap/roles/mine.d/50-first.toml, line 11"));
    assert_eq!(from(2), None);
    root.run(&["plan", "--sample", "--role", "mine"])
        .prints(&["from /etc/titus-bootstrap/roles/mine.d/60-second.toml, line 1"]);
    root.run(&["--sample", "--role", "mine"]).ends_with(0);
    assert!(root.at("/etc/g").exists());
    root.run(&["--sample", "--role", "mine"]).ends_with(0).prints(&["nothing to do"]);
    root.run(&["role", "list"]).prints(&["mine.toml, /etc/titus-bootstrap/roles/mine.d/50-first.toml, /etc/"]);
    root.run(&["role", "show", "mine"]).prints(&[
        ROLE,
        "# /etc/titus-bootstrap/roles/mine.d/60-second.toml\n",
        &second[0],
    ]);
    root.run(&["check"]).ends_with(0).prints(&["role mine"]);
}

#[test]
fn the_later_of_two_changes_of_one_key_counts_and_why_names_its_place() {
    let change = |content: &str| format!("\n[change.one.file]\ncontent = \"{content}\"\nmode = \"0600\"\n");
    let root = tree(&[("50-a.toml", &change("A=2\\n")), ("60-b.toml", &change("A=3\\n").replace("0600", "0640"))]);
    root.run(&["--sample", "--role", "mine"]).ends_with(0);
    assert_eq!((root.read("/etc/one").as_str(), root.read("/etc/two").as_str()), ("A=3\n", "C=1\n"));
    let why = |name: &str| root.run(&["why", name, "--sample", "--role", "mine"]).ends_with(0).out;
    assert_eq!(
        why("A"),
        format!("A = 3\n  in /etc/one (step one)\n  from role mine ({ROLES}/mine.d/60-b.toml, line 3)\n")
    );
    assert_eq!(why("C"), format!("C = 1\n  in /etc/two (step two)\n  from role mine ({ROLES}/mine.toml)\n"));
    let places = format!(
        "{ROLES}/mine.toml, line 3, changed by {ROLES}/mine.d/60-b.toml, line 3, changed by {ROLES}/mine.d/60-b.toml, line 4"
    );
    assert_eq!(plan(&root)["steps"][0]["drop_ins"], places.as_str());

    // Its `when` disables a step; a drop-in can also change a step of another drop-in.
    let added = step("own", "after = \"two\"");
    let root = tree(&[
        ("50-a.toml", &added),
        ("60-b.toml", "change.two.when = \"false\"\nchange.own.file.path = \"/etc/{{ stack }}\"\n"),
    ]);
    root.run(&["--sample", "--role", "mine"]).ends_with(0);
    assert!(root.at("/etc/mainvpc").exists() && !root.at("/etc/two").exists() && !root.at("/etc/own").exists());
}

#[test]
fn a_drop_in_of_a_built_in_role_goes_with_it() {
    let root = Root::empty();
    let text = "[[step]]\nid = \"ours\"\nafter = \"mesos-agent-unit\"\nphase = \"bake\"\n\
                file = { path = \"/etc/systemd/system/mesos-agent.service.d/50-ours.conf\", content = \"[Service]\\nNice=5\\n\" }\n\n\
                [change.mesos-agent.unit]\nrestart_costs = \"ours\"\n";
    root.write(&format!("{ROLES}/agent.d/50-ours.toml"), text);
    root.run(&["check"]).ends_with(0);
    root.sample(&[]).ends_with(0);
    assert_eq!(root.read("/etc/systemd/system/mesos-agent.service.d/50-ours.conf"), "[Service]\nNice=5\n");
    let shown = root.run(&["role", "show", "agent"]).ends_with(0).out;
    assert!(shown.ends_with(&format!("\n# {ROLES}/agent.d/50-ours.toml\n\n{text}")), "{shown}");
    // Names in it are checked as in an operator's role, even while an image is baked.
    for (wrong, words) in [("{{ stakc }}", "did you mean `stack`?"), ("{{ instance.id }}", "phase bake")] {
        root.write(&format!("{ROLES}/agent.d/60-wrong.toml"), format!("[change.ours.file]\npath = \"/etc/{wrong}\"\n"));
        root.sample(&[]).ends_with(78).reports(&[
            "50-ours.toml, line 1, changed by",
            "60-wrong.toml, line 2",
            "step ours",
            words,
        ]);
    }
    std::fs::remove_file(root.at(&format!("{ROLES}/agent.d/60-wrong.toml"))).unwrap();
    // A drop-in elsewhere is checked with the role that its directory names.
    root.write("/srv/agent.d/60-more.toml", "[change.ours]\nwhen = \"false\"\n");
    root.write("/srv/agent.d/50-ours.toml", "[change.ours]\nwhen = \"false\"\n");
    let check = |path: &str| root.run(&["check", root.at(path).to_str().unwrap()]);
    check("/srv/agent.d/60-more.toml").ends_with(0);
    check("/srv/agent.d/50-ours.toml").ends_with(78).reports(&["line 1", "\"ours\"", "not a step of this role"]);
}

#[test]
fn a_wrong_drop_in_is_refused_with_its_file_and_line() {
    let own = |lines: &str| format!("\n[[step]]\nid = \"own\"\nphase = \"boot\"\n{lines}\n");
    let file = "file = { path = \"/etc/own\", content = \"\" }";
    for (text, words) in [
        (own(file), &["line 2: step own", "it does not say where it goes", "before = "][..]),
        (
            own(&format!("{file}\nbefore = \"one\"\nafter = \"one\"")),
            &["line 2", "has both before and after", "keep one of them"],
        ),
        (own(&format!("{file}\nafter = \"tow\"")), &["line 2", "\"tow\"", "did you mean `two`?"]),
        (own(&format!("{file}\nafter = \"own\"")), &["line 2", "\"own\" is not a step"]),
        (
            own(&format!("{file}\nafter = \"one\"")).replace("\"own\"", "\"two\""),
            &["line 2", "two steps have the id \"two\""],
        ),
        (own(&format!("{file}\nafter = \"one\"")).repeat(2), &["line 8", "two steps have the id \"own\"", "line 2"]),
        (own("after = \"one\""), &["line 2", "step own", "no kind"]),
        (own(&format!("{file}\nafter = \"one\"")).replace("phase", "when"), &["line 2", "step own", "no phase"]),
        (own("after = \"one\"\nfile = { pth = \"/x\" }"), &["line 6, column 10", "did you mean `path`?"]),
        (
            own(&format!("{file}\nafter = \"one\"\nwhen = \"stakc == 'a'\"")),
            &["line 2", "step own", "did you mean `stack`?"],
        ),
        (
            own("after = \"one\"\nunit = { name = \"x.service\", restart_on = [\"two\"] }"),
            &["line 2", "not an earlier step"],
        ),
        ("[change.tow]\nwhen = \"false\"".into(), &["line 1", "\"tow\"", "did you mean `two`?"]),
        ("change.one = 1".into(), &["line 1", "change.one is not a table"]),
        ("[change.one]".into(), &["line 1", "change.one is not a table"]),
        (
            "\n[change.one]\n\nfile.mdoe = \"0600\"".into(),
            &["line 4", "step one", "unknown key `mdoe`", "did you mean `mode`?"],
        ),
        ("[change.one.file]\nmode = 600".into(), &["line 2", "step one", "600"]),
        ("[change.one.file]\nmode = \"0600\"\nif_missing = \"no\"".into(), &["line 3", "step one", "true or false"]),
        ("[change.one]\nid = \"x\"".into(), &["line 2", "cannot change the id"]),
        ("[change.one]\nafter = \"two\"".into(), &["line 2", "cannot change the id"]),
        ("[change.one]\nwhen = \"1 +\"".into(), &["line 2", "step one", "1 +"]),
        ("[change.one]\nunit.name = \"x.service\"".into(), &["line 2", "step one", "more than one kind"]),
        ("[chnage.one]\nwhen = \"false\"".into(), &["line 1, column 2", "did you mean `change`?"]),
        ("[[step]".into(), &["line 1"]),
        ("description = \"x\"".into(), &["line 1", "description"]),
    ] {
        let root = tree(&[("50-own.toml", &text)]);
        let before = root.look();
        let words = [&["/mine.d/50-own.toml, "], words].concat();
        root.run(&["--sample", "--role", "mine"]).ends_with(78).reports(&words);
        root.run(&["check"]).ends_with(78).reports(&words);
        let path = root.at(&format!("{ROLES}/mine.d/50-own.toml"));
        let checked = root.run(&["check", path.to_str().unwrap()]).ends_with(78);
        // A file without a step may be a settings file.
        if !text.contains("chnage") && text != "[[step]" {
            checked.reports(&words);
        }
        assert_same(&before, &root.look(), "a refused drop-in changed something");
    }
}

#[test]
fn what_no_role_would_read_is_refused() {
    let root = Root::empty();
    root.write(&format!("{ROLES}/agnet.d/50-own.toml"), "[change.metatron]\nwhen = \"false\"\n");
    for arguments in [&["check"][..], &["plan", "--sample", "--role", "agent"], &["role", "list"]] {
        root.run(arguments).ends_with(78).reports(&["agnet.d", "unknown role \"agnet\"", "did you mean `agent`?"]);
    }
    let root = Root::empty();
    root.write(&format!("{ROLES}/mine.toml"), ROLE.replacen("id =", "after = \"two\"\nid =", 1));
    root.run(&["check"]).ends_with(78).reports(&["mine.toml, line 3: step one", "mine.d/"]);
    // The directory contains no drop-in.
    let root = Root::empty();
    root.write(&format!("{ROLES}/old.d/50-own.toml.disabled"), "x");
    root.run(&["check"]).ends_with(0);
}
