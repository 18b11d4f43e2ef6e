//! Role files: the operator's own, and errors in them with their place.
//! Also state for the next run: saved flags, printed facts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;
use support::root::{Outcome, Root, assert_same, run};
use support::user;

const ROLES: &str = "/etc/titus-bootstrap/roles";
const MOTD: &str = "description = \"A message\"\n\n[[step]]\nid = \"motd\"\nphase = \"boot\"\n\
                    file = { path = \"/etc/motd\", content = \"{{ instance.id | safe }} in {{ stack | safe }}\\n\" }\n";

#[test]
fn roles_are_listed_and_shown() {
    let listed = run(&["role", "list"]).ends_with(0).out;
    let names: Vec<_> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["agent", "gateway", "master", "prereqs"]);
    let file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("roles/agent.toml")).unwrap();
    assert_eq!(run(&["role", "show", "agent"]).ends_with(0).out, file);
    run(&["role", "show", "agnet"]).ends_with(78).reports(&["did you mean `agent`?"]);
}

#[test]
fn an_operators_role_replaces_a_built_in_one_or_adds_one() {
    for name in ["agent", "message"] {
        let root = Root::empty();
        root.write(&format!("{ROLES}/{name}.toml"), MOTD);
        root.run(&["role", "list"]).ends_with(0).prints(&["A message", &format!("{ROLES}/{name}.toml")]);
        root.run(&["--sample", "--role", name]).ends_with(0);
        assert_eq!(root.read("/etc/motd"), "i-0123456789abcdef0 in mainvpc\n");
        assert!(!root.at("/etc/mesos-agent.config").exists());
        root.run(&["--sample", "--role", name]).ends_with(0).prints(&["nothing to do"]);
    }
}

#[test]
fn an_operators_template_overrides_the_built_in_one() {
    let root = Root::empty();
    root.write(&format!("{ROLES}/files/titus-shared.env"), "SHORT_CIRCUIT_QUITELITE=true\nSTACK={{ stack }}\n");
    root.sample(&[]).ends_with(0);
    assert_eq!(root.read("/etc/titus-shared.env"), "SHORT_CIRCUIT_QUITELITE=true\nSTACK=mainvpc\n");
}

/// A role of one description and these lines, checked and run; both refuse, and nothing changes.
#[track_caller]
fn wrong(lines: &str, words: &[&str]) {
    let root = Root::empty();
    root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{lines}"));
    root.write(&format!("{ROLES}/files/instance.env"), "ID={{ instance.id }}\n");
    let before = root.look();
    root.run(&["--sample", "--role", "mine"]).ends_with(78).reports(words);
    let file = root.at(&format!("{ROLES}/mine.toml"));
    let file = file.to_str().unwrap();
    let check = |arguments: &[&str]| -> Outcome { root.run(arguments).ends_with(78).reports(words) };
    check(&["check"]);
    check(&["check", file]);
    assert_same(&before, &root.look(), "a refused role changed something");
}

fn step(lines: &str) -> String {
    format!("[[step]]\nid = \"one\"\nphase = \"boot\"\n{lines}\n")
}

#[test]
fn a_wrong_role_file_is_refused_with_its_place() {
    let file = "file = { path = \"/etc/x\", content = \"\" }";
    for (lines, words) in [
        ("[[step]", &["mine.toml, line 2"][..]),
        (&step("fiel = { path = \"/etc/x\" }"), &["line 5, column 1", "did you mean `file`?"]),
        (&step("file = { pth = \"/etc/x\" }"), &["line 5, column 10", "did you mean `path`?"]),
        ("[[step]]\nid = \"one\"\nphase = \"late\"\n", &["line 4", "late", "boot"]),
        (&format!("[[step]]\nid = \"one\"\n{file}\n"), &["mine.toml", "step one", "phase"]),
        (&step(""), &["mine.toml", "step one", "no kind"]),
        (
            &step(&format!("{file}\nunit = {{ name = \"x.service\" }}")),
            &["mine.toml", "step one", "more than one kind"],
        ),
        (&format!("{0}{0}", step(file)), &["mine.toml", "two steps", "\"one\""]),
        (&step("unit = { name = \"x.service\", restart_on = [\"tow\"] }"), &["step one", "\"tow\""]),
        (&step(&format!("when = \"agent.prot == 5051\"\n{file}")), &["step one", "agent.prot", "did you mean `port`?"]),
        (&step(&format!("when = \"agnet\"\n{file}")), &["step one", "agnet", "did you mean `agent`?"]),
        (&step(&format!("when = \"1 +\"\n{file}")), &["step one", "1 +"]),
        (&step("file = { path = \"/etc/{{ stakc }}\", content = \"\" }"), &["step one", "did you mean `stack`?"]),
        (&step("file = { path = \"/etc/x\", template = \"nowhere.env\" }"), &["nowhere.env"]),
        (&step("file = { path = \"/etc/x\", template = \"../agent.toml\" }"), &["../agent.toml"]),
        (&step("properties = { path = \"/etc/x\", sett = {} }"), &["line 5", "did you mean `set`?"]),
        (
            &step("properties = { path = \"/etc/x\", set = { a = \"{{ stakc }}\" } }"),
            &["step one", "did you mean `stack`?"],
        ),
        ("[defaults.agent]\nprot = 1\n", &["prot", "did you mean `port`?"]),
    ] {
        wrong(lines, words);
    }
}

#[test]
fn a_step_of_an_image_that_names_an_instance_is_refused() {
    let bake = |lines: &str| step(lines).replace("boot", "bake");
    for lines in [
        "file = { path = \"/etc/x\", content = \"{{ instance.id }}\" }",
        "file = { path = \"/etc/{{ instance.zone }}\", content = \"\" }",
        "file = { path = \"/etc/x\", template = \"instance.env\" }",
        "when = \"instance.cpus > 2\"\nfile = { path = \"/etc/x\", content = \"\" }",
        "file = { path = \"/etc/x\", content = \"{{ titus.resources }}\" }",
        "properties = { path = \"/etc/x\", set = { a = \"{{ instance.id }}\" } }",
    ] {
        wrong(&bake(lines), &["step one", "phase bake", "phase = \"boot\""]);
    }
}

#[test]
fn what_only_values_can_show_is_refused_before_anything_is_changed() {
    for (lines, words) in [
        ("when = \"stack\"\nfile = { path = \"/etc/x\", content = \"\" }", &["neither true nor false"][..]),
        ("file = { path = \"etc/x\", content = \"\" }", &["etc/x"]),
        ("file = { path = \"/etc/../x\", content = \"\" }", &["/etc/../x"]),
        ("file = { path = \"/etc/x\", mode = \"rw\", content = \"\" }", &["rw", "0644"]),
        ("file = { path = \"/etc/x\", content = \"{{ agent.environment }}\" }", &["agent.environment has no value"]),
        ("unit = { name = \"docker\" }", &["docker.service"]),
        ("deb = { source = { url = \"https://h/x.deb\", sha256 = \"ab\" } }", &["64 hexadecimal digits"]),
        ("deb = { source = { url = \"https://h/x.deb\", path = \"/x.deb\" } }", &["both a path and a url"]),
        ("properties = { path = \"/etc/x\", set = { a = \"b\\nc\" } }", &["\"a\"", "newline"]),
        ("properties = { path = \"/etc/x\", set = { a.b = \"c\" } }", &["\"a\"", "quotes"]),
    ] {
        let root = Root::empty();
        let first = "[[step]]\nid = \"first\"\nphase = \"boot\"\nfile = { path = \"/etc/first\", content = \"\" }\n";
        root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{first}{}", step(lines)));
        let before = root.look();
        root.run(&["--sample", "--role", "mine"]).ends_with(78).reports(&[&["step one"], words].concat());
        assert_same(&before, &root.look(), "a refused role changed something");
    }
}

#[test]
fn a_deb_is_deferred_in_a_tree_and_refused_without_a_checksum() {
    let root = Root::empty();
    let deb = step("deb = { source = \"{{ debs.master }}\", setting = \"debs.master\" }");
    root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{deb}"));
    let url = "https://user:secret@h/x.deb?signature=secret";
    let run = |arguments: &[&str], source: &str| {
        let outcome = root.run(&[arguments, &["--set", &format!("debs.master={{ {source} }}")]].concat());
        assert!(!outcome.out.contains("secret") && !outcome.err.contains("secret"), "{}{}", outcome.out, outcome.err);
        outcome
    };
    let pinned = format!("url = \"{url}\", sha256 = \"{}\"", "ab".repeat(32));
    let role = ["--sample", "--role", "mine"];
    run(&role, &pinned).ends_with(0).prints(&["deferred", "https://***@h/x.deb"]);
    run(&role, "path = \"/nowhere.deb\"").ends_with(0).prints(&["deferred", "/nowhere.deb"]);
    run(&["check"], &pinned).ends_with(0);
    let unpinned = format!("url = \"{url}\"");
    for arguments in [&role[..], &["plan", "--sample", "--role", "mine"], &["check"]] {
        run(arguments, &unpinned).ends_with(78).reports(&["debs.master", "has no sha256"]);
    }
    run(&["config", "show", "--sample", "--role", "mine"], &pinned).ends_with(0).prints(&["https://***@h/x.deb?***"]);
}

#[test]
fn a_properties_file_is_edited_in_place() {
    let path = "/opt/titus-server-master/titusmaster.properties";
    let root = Root::empty();
    let first = "[[step]]\nid = \"first\"\nphase = \"boot\"\nfile = { path = \"/etc/first\", content = \"\" }\n";
    let edit = step(&format!(
        "properties = {{ path = \"{path}\", set = {{ \"titus.zookeeper.root\" = \"/titus/{{{{ stack }}}}\", \"x.password\" = \"1\" }}, \
         more = \"{{{{ master.properties }}}}\" }}"
    ));
    root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{first}{edit}"));
    root.write(path, "# kept\ntitus.zookeeper.root=/x\nother : kept\ntitus.zookeeper.root=/x\nx.password=hunter2");
    root.write(
        "/etc/titus-bootstrap/config.toml",
        "[master.properties]\n\"x.password\" = \"hunter3\"\n\"a b\" = \"\\\\\"\n",
    );
    let plan = root.run(&["plan", "--sample", "--role", "mine"]).ends_with(0);
    let plan =
        plan.prints(&["set 3 properties in", "remove 1 duplicate", "+titus.zookeeper.root=/titus/mainvpc", "***"]);
    let run = root.run(&["--sample", "--role", "mine"]).ends_with(0);
    assert!(!format!("{plan:?}{run:?}").contains("hunter"), "{plan:?}{run:?}");
    let after = "# kept\ntitus.zookeeper.root=/titus/mainvpc\nother : kept\nx.password=hunter3\na\\ b=\\\\\n";
    assert_eq!(root.read(path), after);
    root.run(&["--sample", "--role", "mine"]).ends_with(0).prints(&["nothing to do"]);

    let root = Root::empty();
    root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{first}{edit}"));
    root.write("/srv/theirs", "a=1\n");
    root.link(path, "/srv/theirs");
    let before = root.look();
    root.run(&["--sample", "--role", "mine"]).ends_with(69).reports(&["one", path, "/srv/theirs", "cp "]);
    root.run(&["plan", "--sample", "--role", "mine"]).ends_with(69).reports(&["one", path, "/srv/theirs", "cp "]);
    assert_same(&before, &root.look(), "a refused role changed something");
}

#[test]
fn kernel_parameters_are_a_drop_in_and_each_has_an_explanation() {
    let root = Root::empty();
    let parameters = |set: &str| {
        let sysctl = step(&format!("sysctl = {{ file = \"60-titus.conf\", set = {{ {set} }} }}"));
        root.write(&format!("{ROLES}/mine.toml"), format!("description = \"Mine\"\n{sysctl}"));
    };
    parameters("\"net.ipv4.ip_forward\" = 1, \"vm.swappiness\" = \"{{ agent.reserve.mem | default(10) }}\"");
    let role = ["--sample", "--role", "mine"];
    let run = |words: &[&str]| root.run(&[words, &role].concat());
    run(&["plan"]).ends_with(0).prints(&["create /etc/sysctl.d/60-titus.conf (0644, 3 lines)"]);
    run(&[]).ends_with(0);
    let text = "# Written by titus-bootstrap.\nnet.ipv4.ip_forward = 1\nvm.swappiness = 10\n";
    assert_eq!(root.read("/etc/sysctl.d/60-titus.conf"), text);
    run(&[]).ends_with(0).prints(&["nothing to do", "the running kernel is not examined with --root"]);
    assert!(!root.at("/proc").exists());
    let place = "  in /etc/sysctl.d/60-titus.conf (step one)\n";
    assert_eq!(
        run(&["why", "net.ipv4.ip_forward"]).ends_with(0).out,
        format!("net.ipv4.ip_forward = 1\n{place}  from role mine ({ROLES}/mine.toml)\n")
    );
    assert_eq!(
        run(&["why", "vm.swappiness", "--set", "agent.reserve.mem=60"]).ends_with(0).out,
        format!("vm.swappiness = 60\n{place}  from agent.reserve.mem (--set agent.reserve.mem)\n")
    );
    root.write("/etc/sysctl.d/60-titus.conf", text.replace("= 1\n", "= 0\n"));
    run(&["plan"]).ends_with(0).prints(&["-net.ipv4.ip_forward = 0", "+net.ipv4.ip_forward = 1"]);
    let before = root.look();
    for (set, words) in [
        ("\"net.ipv4..ip_forward\" = 1", "is not a kernel parameter"),
        ("\"-net.ipv4.ip_forward\" = 1", "is not a kernel parameter"),
        ("\"/etc/passwd\" = 1", "is not a kernel parameter"),
        ("\"net.ipv4.ip_forward\" = \"{{ agent.environment }}\"", "agent.environment has no value"),
        ("\"net.ipv4.ip_forward\" = \"\"", "one line of text"),
    ] {
        parameters(set);
        run(&[]).ends_with(78).reports(&["step one", words]);
    }
    parameters("");
    root.write(&format!("{ROLES}/mine.toml"), root.read(&format!("{ROLES}/mine.toml")).replace("set =", "sett ="));
    run(&["check"]).ends_with(78).reports(&["did you mean `set`?"]);
    assert_eq!(before.get("/etc/sysctl.d/60-titus.conf"), root.look().get("/etc/sysctl.d/60-titus.conf"));
}

#[test]
fn a_command_is_deferred_in_a_tree_and_its_secrets_are_hidden() {
    let root = Root::empty();
    let own = "when = \"instance.lifecycle_state is undefined or 'Warmed:' not in instance.lifecycle_state\"\n\
               command = { argv = [\"x\", \"--token=hunter2\", \"--api-password\", \"hunter4\", \"{{ master.properties['db.password'] }}\"], ";
    let role = |keys: &str| {
        let text = format!("description = \"Mine\"\n{}", step(&format!("{own}{keys} }}")));
        root.write(&format!("{ROLES}/mine.toml"), text);
    };
    let run = |words: &[&str]| {
        let set = "master.properties.\"db.password\"=hunter3hunter3";
        let outcome = root.run(&[words, &["--sample", "--role", "mine", "--set", set]].concat());
        assert!(!format!("{outcome:?}").contains("hunter"), "{outcome:?}");
        outcome
    };
    for keys in ["check = [\"x\"]", "creates = \"/etc/x\""] {
        role(keys);
        run(&["plan"]).ends_with(0).prints(&["deferred", "commands are not run with --root"]);
        run(&[]).ends_with(0);
        root.run(&["check"]).ends_with(0);
    }
    // What two of them would make is what neither can be sure of.
    let other = step("command = { argv = [\"y\"], creates = \"/etc/x\" }").replace("one", "two");
    let text = root.read(&format!("{ROLES}/mine.toml")) + &other;
    root.write(&format!("{ROLES}/mine.toml"), text);
    run(&[]).ends_with(78).reports(&[
        "the steps one and two want different things of /etc/x",
        "what `x --token=*** --api-password *** ***` makes",
    ]);
    wrong(&step("command = { argv = [\"x\"] }"), &["mine.toml, line 2", "step one", "needs one of check, creates"]);
    wrong(&step("command = { argv = \"x\", creates = \"/x\" }"), &["line 5", "a command is a list of texts"]);
    wrong(
        &step("command = { argv = [\"x\", \"{{ stakc }}\"], creates = \"/x\" }"),
        &["step one", "did you mean `stack`?"],
    );
}

#[test]
fn a_role_has_its_own_settings() {
    let root = Root::empty();
    let text = "description = \"Mine\"\n[vars]\nport = 22\ngreeting = \"hello\"\nloud = false\nusers = [\"a\"]\n";
    let motd = "file = { path = \"/etc/motd.env\", content = \"G={{ vars.greeting }}\\nP={{ vars.port }}\\n\" }\n";
    let users =
        step("each = \"vars.users\"\nwhen = \"vars.loud\"\nfile = { path = \"/etc/{{ item }}\", content = \"\" }");
    let role = format!("{text}{}{}", step(motd), users.replace("\"one\"", "\"two\""));
    root.write(&format!("{ROLES}/mine.toml"), &role);
    root.run(&["check"]).ends_with(0);
    let run = |arguments: &[&str]| root.run(&[arguments, &["--sample", "--role", "mine"]].concat());
    run(&[]).ends_with(0);
    assert_eq!(root.read("/etc/motd.env"), "G=hello\nP=22\n");
    root.write("/etc/titus-bootstrap/config.toml", "[vars]\ngreeting = \"it's\"\n");
    run(&["--set", "vars.port=2222", "--set", "vars.loud=true", "--set", "vars.users=[\"b\", \"c\"]"]).ends_with(0);
    assert_eq!(root.read("/etc/motd.env"), "G=\"it's\"\nP=2222\n");
    assert!(root.at("/etc/b").exists() && root.at("/etc/c").exists() && !root.at("/etc/a").exists());
    run(&["why", "P"]).ends_with(0).prints(&["vars.port (role mine)"]);
    run(&["why", "G"]).ends_with(0).prints(&["vars.greeting it's (/etc/titus-bootstrap/config.toml)"]);
    run(&["config", "show"]).ends_with(0).prints(&["vars.greeting", "vars.port"]);
    root.run(&["config", "template", "--role", "mine"])
        .ends_with(0)
        .prints(&["\n#[vars]\n", "# A setting of this role's own.\n#port = 22\n"]);
    let before = root.look();
    for (set, words) in [
        (
            "vars.prot=1",
            &["vars.prot (from --set vars.prot) is not a setting of role mine", "did you mean `vars.port`?"][..],
        ),
        ("vars.port=high", &["vars.port (from --set vars.port) is a text", "role mine declares a number"]),
        ("vars.greeting=2018", &["vars.greeting", "is a number", "put text in quotes"]),
        ("vars.loud=1", &["vars.loud", "is a number", "true or false"]),
        ("vars.users=a", &["vars.users", "is a text", "a list of texts"]),
        ("vars.users=[1]", &["vars.users", "is a text"]),
        ("vars.port={ a = 1 }", &["vars.port", "is a text"]),
        ("vars.a-b=1", &["\"a-b\" cannot be the name in a template"]),
    ] {
        run(&["--set", set]).ends_with(78).reports(words);
    }
    assert_same(&before, &root.look(), "refused settings changed something");
    // One settings file serves several roles; a setting that no role has is a mistake.
    root.write(&format!("{ROLES}/other.toml"), "description = \"Other\"\n[vars]\nfurther = 1\n");
    root.write("/etc/titus-bootstrap/config.d/50-other.toml", "vars.further = 2\n");
    run(&[]).ends_with(0);
    root.sample(&[]).ends_with(0);
    root.sample(&["--set", "vars.none=1"]).ends_with(78).reports(&[
        "vars.none",
        "not a setting of role agent",
        "[vars] of a role file",
    ]);
    // A drop-in brings settings for its own steps.
    let own = step("after = \"one\"\nfile = { path = \"/etc/{{ vars.name }}\", content = \"\" }")
        .replace("\"one\"\nph", "\"own\"\nph");
    root.write(&format!("{ROLES}/mine.d/50-own.toml"), format!("[vars]\nname = \"own\"\nport = 23\n{own}"));
    run(&["--set", "vars.name=theirs"]).ends_with(0);
    assert!(root.at("/etc/theirs").exists());
    run(&["why", "vars.port"]).prints(&["vars.port = 23"]);
}

#[test]
fn a_role_s_own_settings_are_checked_in_their_place() {
    let file = step("file = { path = \"/etc/{{ vars.name }}\", content = \"\" }");
    wrong(&file, &["step one", "unknown fact or setting `vars.name`"]);
    wrong(&format!("[vars]\nnane = \"x\"\n{file}"), &["step one", "did you mean `nane`?"]);
    wrong("[vars]\n\n\"a-b\" = 1\n", &["mine.toml, line 4, column 1", "\"a-b\" cannot be the name"]);
    wrong("[vars]\na = { b = 1 }\n", &["mine.toml, line 3", "a value is one line of text"]);
    wrong("[vars]\na = 1979-05-27\n", &["mine.toml, line 3", "a value is one line of text"]);
    wrong("[defaults.vars]\na = 1\n", &["mine.toml, line 2", "put them into [vars]"]);
    wrong("[defaults.agent]\nport = 1\n\nprot = 1\n", &["mine.toml, line 5, column 1", "did you mean `port`?"]);
    wrong("[defaults]\nagent.port = \"x\"\n", &["mine.toml, line 3, column 14"]);
    wrong("[defaults.agent]\n\nlog_bucket = \"A B\"\n", &["mine.toml, line 4", "agent.log_bucket"]);
    wrong("[defaults]\nzookeeper.servers = [\"10.0.0.1\"]\n", &["mine.toml, line 3", "zookeeper.servers"]);
}

#[test]
fn what_is_saved_is_there_for_the_next_boot() {
    let saved = "/etc/titus-bootstrap/config.d/60-saved.toml";
    let root = Root::empty();
    root.sample(&["--dry-run", "--save", "--set", "stack=blue"]).ends_with(0);
    root.sample(&["--save", "--set", "stack=a;b"]).ends_with(78);
    assert!(!root.at(saved).exists());
    root.sample(&["--save", "--set", "stack=blue", "--set", "agent.port=7101"]).ends_with(0);
    let mode = || fs::metadata(root.at(saved)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o644);
    let stamps = root.stamps();
    root.run(&["--sample"]).ends_with(0).prints(&[
        "role agent",
        "settings (/etc/titus-bootstrap/config.d/60-saved.toml): agent",
        "nothing to do",
    ]);
    root.sample(&["--save", "--set", "stack=blue"]).ends_with(0).prints(&["nothing to do"]);
    assert_same(&stamps, &root.stamps(), "what was saved already is written again");
    let config = root.read("/etc/mesos-agent.config");
    assert!(config.contains("/titus/blue/mesos\n") && config.contains("MESOS_PORT=7101\n"), "{config}");
    root.sample(&["--save", "--set", "stack=green"]).ends_with(0);
    let text = root.read(saved);
    assert!(text.contains("stack = \"green\"") && text.contains("port = 7101"), "{text}");
    root.run(&["config", "show", "--sample"]).ends_with(0).prints(&[saved]);
    root.sample(&["--save", "--set", "proxy.http=http://user:secret@proxy:3128"]).ends_with(0);
    assert_eq!(mode(), 0o600, "a password is for root alone");
}

#[test]
fn a_run_reads_printed_facts_again() {
    let root = Root::empty();
    let printed = run(&["facts", "--sample", "--json"]).ends_with(0);
    // As an editor of another system saves it.
    root.write("/srv/facts.json", format!("\u{feff}{}", printed.out));
    let facts = root.at("/srv/facts.json").display().to_string();
    let again = run(&["facts", "--facts", &facts, "--json"]).ends_with(0);
    let without_sources = |mut facts: Value| {
        facts.as_object_mut().unwrap().remove("sources");
        facts
    };
    assert_eq!(without_sources(again.json()), without_sources(printed.json()));
    run(&["facts", "--facts", &facts]).ends_with(0).prints(&["instance.zone", "eu-west-1a", "image.release"]);

    root.write("/srv/settings.toml", titus_bootstrap::facts::sample::SETTINGS);
    let settings = root.at("/srv/settings.toml").display().to_string();
    let (given, sample) = (Root::empty(), Root::empty());
    given.run(&["--role", "agent", "--facts", &facts, "--config", &settings]).ends_with(0);
    sample.sample(&[]).ends_with(0);
    assert_same(&sample.made(), &given.made(), "facts that were printed and given back");
}

#[test]
fn a_tree_needs_no_privileges() {
    let root = Root::empty();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.path(), Some(user::NOBODY), Some(user::NOBODY)).unwrap();
    }
    let run = || {
        let arguments = ["--role", "agent", "--sample", "--json", "--root", root.path().to_str().unwrap()];
        user::run(&arguments).ends_with(0).json()
    };
    let report = run();
    assert!(report["notices"].to_string().contains("file owners stay unchanged"), "{report:#}");
    let owner = fs::metadata(root.at("/etc/mesos-agent.config")).unwrap().uid();
    assert_ne!(owner, 0);
    let changed = |step: &Value| step["state"] == "changed";
    assert!(!run()["steps"].as_array().unwrap().iter().any(changed));
}
