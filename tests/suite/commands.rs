//! Each command's own promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::process::Command;

use serde_json::Value;
use support::metadata::{Metadata, sample};
use support::root::{Look, Root, assert_same, outcome, program, run};

fn converged() -> Root {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    root
}

/// Ids of the steps in this state.
fn steps(report: &Value, state: &str) -> Vec<String> {
    let all = report["steps"].as_array().unwrap().iter();
    all.filter(|step| step["state"] == state).map(|step| step["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_plan_shows_exactly_the_lines_that_change() {
    let root = converged();
    let before = (root.look(), root.stamps());
    let bucket = ["plan", "--set", "agent.log_bucket=other-logs"];
    let text = root.sample(&bucket).ends_with(0).out;
    let signs: Vec<_> = text.lines().map(str::trim).filter(|line| line.starts_with(['-', '+'])).collect();
    let changed =
        ["-export TITUS_LOG_BUCKET=titus-log-bucket-terraform-example", "+export TITUS_LOG_BUCKET=other-logs"];
    assert_eq!(signs, changed);
    let report = root.sample(&[&bucket[..], &["--json"]].concat()).ends_with(0).json();
    assert_eq!((steps(&report, "changes"), &report["result"]), (vec!["titus-environment".into()], &"changes".into()));
    let zookeeper = ["plan", "--json", "--set", "prereqs=10.0.0.1"];
    assert_eq!(steps(&root.sample(&zookeeper).json(), "changes"), ["mesos-agent-config"]);
    assert_same(&before.0, &root.look(), "a plan changed something");
    assert_same(&before.1, &root.stamps(), "a plan wrote something");
}

#[test]
fn a_plan_ends_with_what_it_found_if_so_asked() {
    let root = converged();
    root.sample(&["plan", "--detailed-exitcode"]).ends_with(0);
    root.sample(&["plan", "--detailed-exitcode", "--set", "stack=x"]).ends_with(2);
    root.sample(&["plan", "--set", "stack=x"]).ends_with(0);
    root.sample(&["plan", "--detailed-exitcode", "--set", "stack=x;y"]).ends_with(78);
    root.sample(&["plan", "--detailed-exitcode", "--set", "agent.supported_families=[\"r4\"]"]).ends_with(69);
    root.run(&["plan", "--detailed-exitcode", "--sample"]).ends_with(78);
}

#[test]
fn a_plan_names_the_steps_that_apply_changes() {
    let root = Root::empty();
    let plan = root.sample(&["plan", "--json"]).ends_with(0).json();
    assert_same(&Look::new(), &root.look(), "a plan wrote something");
    let apply = root.sample(&["--json"]).ends_with(0).json();
    assert_eq!(steps(&plan, "changes"), steps(&apply, "changed"));
}

#[test]
fn status_tells_of_the_last_run_and_of_what_drifts() {
    let root = Root::empty();
    root.sample(&["status"]).ends_with(1).prints(&["no run since this boot"]);
    root.sample(&[]).ends_with(0);
    root.sample(&["status"]).ends_with(0).prints(&["last run: converged", "role agent", "nothing to do"]);
    root.sample(&["status", "--wait"]).ends_with(0);
    root.write("/etc/titus-shared.env", "");
    root.sample(&["status"]).ends_with(1).prints(&["last run: converged", "titus-shared"]);
    let status = root.sample(&["status", "--json"]).ends_with(1).json();
    assert_eq!((&status["last_state"], &status["now"]["result"]), (&"converged".into(), &"changes".into()));
    let kept = root.read("/run/titus-bootstrap/status.json");
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap()["state"], "converged");
}

#[test]
fn check_tells_good_files_from_bad_ones() {
    let root = Root::empty();
    root.run(&["check"]).ends_with(0).prints(&["good: settings", "good: role agent"]);
    let check = |text: &str| {
        root.write("/srv/x.toml", text);
        run(&["check", root.at("/srv/x.toml").to_str().unwrap()])
    };
    check("[agent]\nlog_bucket = 'logs'\n").ends_with(0).prints(&["good: "]);
    check("[agent]\nlog_bukcet = 'logs'\n").ends_with(78).tells(&["line 2, column 1", "did you mean `log_bucket`?"]);
    check("agent.log_bucket = \"it's\"\n").ends_with(78).tells(&["agent.log_bucket"]);
    check("zookeeper.servers = [").ends_with(78).tells(&["line 1"]);
    run(&["check", "/nowhere.toml"]).ends_with(78).tells(&["/nowhere.toml"]);
    root.write("/etc/titus-bootstrap/config.d/10.toml", "stakc = 'x'\n");
    root.run(&["check"]).ends_with(78).tells(&["config.d/10.toml, line 1, column 1", "did you mean `stack`?"]);
}

#[test]
fn the_template_is_enough_for_the_role_once_it_is_filled_in() {
    let template = run(&["config", "template", "--role", "agent"]).ends_with(0).out;
    let required: Vec<_> = template.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(required, ["agent.log_bucket = \"\"", "prereqs = \"\""]);
    let filled = template
        .replace("log_bucket = \"\"", "log_bucket = \"logs\"")
        .replace("\nprereqs = \"\"", "\nprereqs = \"10.0.0.1\"");
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", filled);
    root.ask(&Metadata::start(sample()), &["--role", "agent"]).ends_with(0);
    for foreign in ["master.", "gateway.", "images.", "debs.", "packages.java", "containers."] {
        let line = template.lines().find(|line| line.trim_start_matches('#').starts_with(foreign));
        assert_eq!(line, None, "no agent needs it");
    }
    run(&["config", "template"]).ends_with(64).tells(&["--role agent"]);
}

#[test]
fn each_line_of_the_template_can_be_used() {
    let root = Root::empty();
    let template = run(&["config", "template", "--role", "agent"]).ends_with(0).out;
    let is_setting = |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let lines: Vec<_> = template.lines().filter_map(|line| line.strip_prefix('#')).filter(is_setting).collect();
    assert!(lines.len() > 15, "{lines:?}");
    for line in lines {
        root.write("/srv/x.toml", line);
        let checked = run(&["check", root.at("/srv/x.toml").to_str().unwrap()]);
        assert_eq!(checked.code, 0, "{line}\n{}", checked.err);
    }
}

/// The part of a schema that describes a key.
fn described<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let follow = |at: &'a Value| {
        let any = at["anyOf"].as_array().and_then(|list| list.iter().find(|one| one["$ref"].is_string()));
        match any.unwrap_or(at)["$ref"].as_str() {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
            None => at,
        }
    };
    key.split('.').try_fold(schema, |at, part| follow(at)["properties"].get(part))
}

#[test]
fn the_schema_describes_every_key_of_the_templates() {
    let schema: Value = serde_json::from_str(&run(&["config", "schema"]).ends_with(0).out).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{schema:#}");
    for role in ["agent", "master", "gateway", "prereqs"] {
        let template = run(&["config", "template", "--role", role]).ends_with(0).out;
        for line in template.lines() {
            let key = line.trim_start_matches('#').split_once(" = ").map(|(key, _)| key);
            let Some(key) = key.filter(|key| !key.contains(' ')) else { continue };
            let found = described(&schema, key).unwrap_or_else(|| panic!("{key} is not in the schema"));
            assert!(found["description"].as_str().is_some_and(|text| text.len() > 5), "{key}: {found}");
        }
    }
    assert_eq!(described(&schema, "agent.bucket"), None);
}

#[test]
fn no_secret_is_shown() {
    let root = converged();
    let secret = "geheim-4711";
    let proxy = format!("proxy.https=http://user:{secret}@proxy:3128");
    let token = format!("agent.attributes={{ api_token = \"{secret}\" }}");
    for arguments in [
        &["config", "show"][..],
        &["config", "show", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["apply", "-v", "--save"],
        &["apply", "--json"],
        &["status"],
    ] {
        let told = root.sample(&[arguments, &["--set", &proxy]].concat()).ends_with(0);
        assert!(!told.out.contains(secret) && !told.err.contains(secret), "{arguments:?}\n{}\n{}", told.out, told.err);
    }
    let shown = root.sample(&["config", "show", "--set", &token]).ends_with(0).out;
    assert!(!shown.contains(secret) && shown.contains("***"), "{shown}");
    let wrong = root.sample(&["--set", &format!("{proxy} x\u{7}")]).ends_with(78).err;
    assert!(!wrong.contains(secret), "{wrong}");
    for (path, look) in root.look() {
        let readable = !look.starts_with("0600") && !look.starts_with("0700");
        assert!(!(look.contains(secret) && readable), "{path}: {look}");
    }
    let runtime = root.read("/run/titus-bootstrap/status.json");
    assert!(!runtime.contains(secret));
}

#[test]
fn instance_types() {
    run(&["instance-type", "t2.large"]).ends_with(0).prints(&["ResourceSet-ENIs-3-12", "does not know the family t2"]);
    run(&["instance-type", "m4.large"]).ends_with(0).prints(&[
        "ENIs-2-10",
        "ENIs-1-10",
        "450 Mbit/s",
        "attaches 2 interfaces with 10 addresses each, and shapes to 100 Mbit/s",
    ]);
    // The driver attaches less there than EC2 allows; of other types of a known family it knows nothing.
    let driver = run(&["instance-type", "m5.24xlarge", "--json"]).ends_with(0).json();
    assert_eq!(driver["resource_set"]["instance"], "ResourceSet-ENIs-15-50");
    assert_eq!(driver["resource_set"]["schedulable"], "ResourceSet-ENIs-14-30");
    assert_eq!((&driver["vpc_driver"]["ipv4"], &driver["ipv4_per_eni"]), (&30.into(), &50.into()));
    for name in ["m5.8xlarge", "c5.24xlarge", "m5.metal"] {
        let unknown = format!("does not know {name}");
        run(&["instance-type", name]).ends_with(0).prints(&[&unknown, "agent.vpc_driver"]);
    }
    run(&["instance-type", "r4.16xlarge"]).ends_with(0).prints(&["notice: ", "from the 32nd on"]);
    run(&["instance-type", "m9.large"]).ends_with(78).tells(&["[instance_types.\"m9.large\"]"]);
    let own = "instance_types.\"m9.large\"={ max_enis = 4, ipv4_per_eni = 9 }";
    let told = run(&["instance-type", "m9.large", "--json", "--set", own]).ends_with(0).json();
    assert_eq!((&told["max_enis"], &told["resource_set"]["schedulable"]), (&4.into(), &"ResourceSet-ENIs-3-9".into()));
    assert_eq!((&told["supported"], &told["network_mbps"]), (&false.into(), &Value::Null));
}

#[test]
fn every_json_document_carries_its_layout() {
    let root = converged();
    for arguments in [
        &["--sample", "--role", "agent"][..],
        &["plan", "--sample", "--role", "agent"],
        &["status", "--sample", "--role", "agent"],
        &["facts", "--sample"],
        &["why", "MESOS_RESOURCES", "--sample", "--role", "agent"],
        &["config", "show", "--sample", "--role", "agent"],
        &["role", "list"],
        &["instance-type", "m4.large"],
        &["version"],
        &["check"],
    ] {
        // json() asserts it.
        root.run(&[arguments, &["--json"]].concat()).ends_with(0).json();
    }
    let refused = root.sample(&["--json", "--set", "stack=a;b"]).ends_with(78).json();
    assert_eq!((&refused["result"], &refused["error"]["exit_code"]), (&"refused".into(), &78.into()));
    for path in ["/var/log/titus-bootstrap/last.json", "/run/titus-bootstrap/status.json"] {
        assert_eq!(serde_json::from_str::<Value>(&root.read(path)).unwrap()["schema_version"], 1, "{path}");
    }
}

#[test]
fn messages_can_be_json() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let refused = root.ask(&metadata, &["--role", "agent", "--log-format", "json", "--set", "stack=x"]).ends_with(78);
    for line in refused.err.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn quiet_is_quiet() {
    let root = Root::empty();
    for arguments in [&["-q"][..], &["-q", "plan"], &["-q", "status"], &["-q", "check"]] {
        let outcome = root.sample(arguments).ends_with(0);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", ""), "{arguments:?}");
    }
    let refused = root.sample(&["-q", "--set", "stack=a;b"]).ends_with(78).tells(&["stack = \"a;b\""]);
    assert_eq!(refused.out, "");
}

#[test]
fn colours_are_for_terminals_and_for_who_wants_them() {
    let coloured = |environment: &[(&str, &str)], flags: &str| {
        let root = Root::empty();
        let words = [
            program().get_program().to_str().unwrap(),
            "--role agent --sample --root",
            root.path().to_str().unwrap(),
            flags,
        ]
        .join(" ");
        // script(1) gives it a terminal.
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &words, "/dev/null"]).env_remove("NO_COLOR");
        outcome(command.envs(environment.iter().copied())).ends_with(0).out.contains('\u{1b}')
    };
    assert!(coloured(&[], ""));
    assert!(!coloured(&[("NO_COLOR", "1")], ""));
    assert!(coloured(&[("NO_COLOR", "")], ""), "no-color.org: when present and not empty");
    assert!(!coloured(&[], "--no-color"));
    assert!(!Root::empty().sample(&[]).out.contains('\u{1b}'));
}

#[test]
fn what_people_install_beside_the_program() {
    for (shell, word) in
        [("bash", "complete "), ("zsh", "#compdef titus-bootstrap"), ("fish", "complete -c titus-bootstrap")]
    {
        run(&["completions", shell]).ends_with(0).prints(&[word, "instance-type"]);
    }
    let script = run(&["completions", "bash"]).out;
    let syntax = outcome(Command::new("bash").args(["-n", "-c", &script])).ends_with(0);
    assert_eq!(syntax.err, "");
    run(&["completions", "tcsh"]).ends_with(64);
    run(&["man"]).ends_with(0).prints(&[".TH titus-bootstrap 8", ".SH SUBCOMMANDS", "\\-\\-root"]);
    let version = format!("titus-bootstrap {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["version"]).ends_with(0).out, version);
    assert_eq!(run(&["--version"]).ends_with(0).out, version);
}

/// Each command that prints something, on a converged tree.
const PRINTS: &[&str] = &[
    "--dry-run",
    "apply",
    "plan",
    "plan --json",
    "plan --detailed-exitcode --set stack=x",
    "status",
    "facts",
    "facts --json",
    "why agent.asg",
    "check",
    "config show",
    "config template",
    "config schema",
    "role list",
    "role show agent",
    "instance-type m5.xlarge",
    "completions bash",
    "man",
    "version",
    "version --json",
    "--version",
    "--help",
    "plan --help",
];

#[test]
fn results_that_cannot_be_written_are_a_failure_of_every_command() {
    let root = converged();
    for words in PRINTS {
        let mut command = program();
        command.args(words.split(' ')).args(["--sample", "--role", "agent", "--root"]).arg(root.path());
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command.stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        assert!(
            said.contains("standard output cannot be written") && said.contains("No space left"),
            "{words}: {said}"
        );
    }
}

#[test]
fn a_run_that_cannot_report_does_its_work() {
    let root = Root::empty();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = root.program(&["--role", "agent", "--sample"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    root.sample(&["plan", "--detailed-exitcode"]).ends_with(0);
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let root = converged();
    for words in PRINTS {
        let mut command = program();
        command.args(words.split(' ')).args(["--sample", "--role", "agent", "--root"]).arg(root.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let expected = if words.contains("--detailed-exitcode") { 2 } else { 0 };
        let output = command.stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_option_on_both_sides_of_the_command_is_refused_and_not_lost() {
    let root = Root::empty();
    let path = root.path().to_str().unwrap();
    for [name, before, after] in [
        ["--set", "stack=a", "agent.asg=b"],
        ["--role", "agent", "agent"],
        ["--root", path, path],
        ["--config", "/dev/null", "/dev/null"],
        ["--facts", "/dev/null", "/dev/null"],
        ["--log-format", "json", "text"],
    ] {
        let refused = run(&[name, before, "plan", name, after]).ends_with(64);
        refused.tells(&[&format!("{name} stands before the command and after it")]);
        let joined = [&format!("{name}={before}"), "plan", &format!("{name}={after}")];
        assert_ne!(run(&joined).code, 0, "{joined:?}");
    }
    root.sample(&["--set", "stack=a", "--set", "agent.asg=b", "plan"]).ends_with(0);
}
