//! Each command's own promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::process::Command;

use serde_json::Value;
use support::metadata::{Fault, Metadata, sample};
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
fn a_plan_ends_with_its_finding_on_request() {
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
fn status_reports_the_last_run_and_what_drifts() {
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
fn status_has_the_cause_and_the_fix_of_a_failed_run() {
    let root = Root::empty();
    root.fails_half_way();
    for words in [&["status"][..], &["status", "--last"]] {
        let status = root.sample(words).ends_with(1);
        let first: Vec<&str> = status.out.lines().take(10).collect();
        for start in [
            "last run: failed, role half, by hand, ",
            "  step:   ",
            "  error:  ",
            "  cause:  ",
            "  fix:    ",
            "  next:   ",
        ] {
            assert!(first.iter().any(|line| line.starts_with(start)), "{start}\n{}", status.transcript());
        }
    }
    let status = root.sample(&["status", "--last", "--json"]).ends_with(1).json();
    assert_eq!((&status["last_state"], &status["last_run"]["trigger"]), (&"failed".into(), &"person".into()));
    assert!(status["last_run"]["error"]["step"].is_string() && status.get("now").is_none(), "{status}");
}

#[test]
fn a_refused_run_by_hand_is_shown_beside_the_last_one_that_changed_something() {
    let root = Root::empty();
    root.sample(&["--set", "stack=a;b"]).ends_with(78);
    root.sample(&["status", "--last"]).ends_with(1).prints(&["last run: refused", "by hand", "stack = \"a;b\""]);
    root.sample(&[]).ends_with(0);
    root.sample(&["--set", "stack=a;b"]).ends_with(78);
    for words in [&["status"][..], &["status", "--last"]] {
        let expected =
            ["last run: converged", "a later run was refused and changed nothing: ", "stack = \"a;b\"", "  fix:    "];
        root.sample(words).ends_with(0).prints(&expected);
    }
    // A record that is not available is a warning.
    root.sample(&[]).ends_with(0);
    let status = root.sample(&["status"]).ends_with(0);
    assert!(!status.out.contains("refused"), "{}", status.transcript());
}

#[test]
fn status_says_what_is_on_disk_without_the_metadata_service() {
    let (root, metadata) = (converged(), Metadata::start(sample()));
    metadata.fault(Fault::Hang);
    // The command asks nothing: the service would never answer.
    root.ask(&metadata, &["status", "--last"]).ends_with(0).prints(&["last run: converged"]);
    assert_eq!(metadata.requests().len(), 0);
    let status = root.ask(&metadata, &["status", "--role", "agent", "--set", "timeouts.facts=1h"]).ends_with(75);
    status.prints(&["last run: converged", "current drift is unknown: "]);
    let status = root.ask(&metadata, &["status", "--json", "--role", "agent"]).ends_with(75).json();
    assert_eq!((&status["last_state"], &status["now"]["error"]["exit_code"]), (&"converged".into(), &75.into()));
}

/// Records as 0.1.0 left them, in a run that failed.
#[test]
fn records_of_an_earlier_version_are_read() {
    let root = Root::empty();
    let state = r#"{"schema_version":1,"state":"failed","run":"1a217c14f29-acd","role":"agent","instance_id":"i-0123456789abcdef0","warm_pool":null,"lifecycle_action":null,"pid":2765,"time":"2026-11-24T12:07:55Z","reboot_required":false,"error":{"exit_code":1,"what":"agent: step 7/23 docker: did not start","cause":"no disk","fix":"add one"}}"#;
    let event = r#"{"schema_version":1,"time":"2026-11-24T12:07:55.302Z","run":"1a217c14f29-acd","boot_id":"01234567-89ab-cdef-0123-456789abcdef","instance_id":"i-0123456789abcdef0","role":"agent","role_digest":"e958fddc8e53671dccc193843431982b688d618e9158759511f8f06249b720cb","event":"ended","lines":["failed"]}"#;
    root.write("/run/titus-bootstrap/status.json", state);
    root.write("/var/lib/titus-bootstrap/journal.jsonl", format!("{event}\n"));
    // The schemas are those of this version.
    let status = outcome(&mut root.program(&["status", "--last"])).ends_with(1);
    let status =
        status.prints(&["last run: failed, role agent, 2026-11-24T12:07:55Z", "did not start", "no disk", "add one"]);
    let status = status.prints(&["last change: 2026-11-24T12:07:55.302Z", "a run of role agent ended: failed"]);
    assert!(!status.err.contains("unavailable"), "{}", status.transcript());
    outcome(&mut root.program(&["--role", "agent", "--sample"])).ends_with(0);
    assert!(root.read("/var/lib/titus-bootstrap/journal.jsonl").starts_with(event));
}

/// The values of a file in Prometheus' text format, by what is before them; each has its HELP and its TYPE.
fn metrics(text: &str) -> std::collections::BTreeMap<String, f64> {
    let mut values = std::collections::BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    for lines in lines.chunks(3) {
        let [help, kind, sample] = lines else { panic!("{lines:?}") };
        let (name, value) = sample.rsplit_once(' ').unwrap();
        let metric = name.split('{').next().unwrap();
        assert!(
            help.starts_with(&format!("# HELP {metric} ")) && *kind == format!("# TYPE {metric} gauge"),
            "{lines:?}"
        );
        assert!(values.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} twice");
    }
    assert!(text.ends_with('\n'));
    values
}

#[test]
fn status_writes_metrics_whatever_it_finds() {
    let root = Root::empty();
    let file = "/var/lib/prometheus/node-exporter/titus-bootstrap.prom";
    let write = |words: &[&str], code: i32| {
        let status = root.sample(&[words, &["status", "--quiet", "--metrics", file]].concat()).ends_with(code);
        assert_eq!(status.out, "");
        metrics(&root.read(file))
    };
    let found = write(&[], 1);
    assert!(
        found["titus_bootstrap_drifted_steps"] > 0.0 && found["titus_bootstrap_status_success"] == 1.0,
        "{found:?}"
    );
    assert!(!found.keys().any(|name| name.contains("last_run")), "{found:?}");
    root.sample(&[]).ends_with(0);
    let found = write(&[], 0);
    assert_eq!(found["titus_bootstrap_last_run_info{role=\"agent\",state=\"converged\"}"], 1.0);
    assert_eq!(found["titus_bootstrap_last_run_success"], 1.0);
    assert!(found["titus_bootstrap_last_run_timestamp_seconds"] > 1e9, "{found:?}");
    let known = ["drifted_steps", "reboot_required"].map(|name| found[&format!("titus_bootstrap_{name}")]);
    assert_eq!(known, [0.0, 0.0]);
    root.write("/etc/titus-shared.env", "");
    assert_eq!(write(&[], 1)["titus_bootstrap_drifted_steps"], 1.0);
    // A step that `status` could not check does not prove that nothing drifts.
    let found = write(&["--set", "stack=a;b"], 78);
    assert!(!found.contains_key("titus_bootstrap_drifted_steps"), "{found:?}");
    assert_eq!((found["titus_bootstrap_status_success"], found["titus_bootstrap_last_run_success"]), (0.0, 1.0));
    // Each alert is about a metric that there is.
    let rules =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/titus-bootstrap.rules.yml")).unwrap();
    let names = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in names.filter(|word| word.starts_with("titus_bootstrap_")) {
        assert!(write(&[], 1).contains_key(name), "{name}");
    }

    root.sample(&["status", "--metrics", "x.prom"]).ends_with(64).reports(&["not an absolute path"]);
    root.sample(&["status", "--last", "--metrics", file]).ends_with(64);
    std::fs::remove_file(root.at(file)).unwrap();
    root.write(&format!("{file}/x"), "");
    root.sample(&["status", "--quiet", "--metrics", file]).ends_with(1).reports(&[file, "fix:   give --metrics"]);
}

#[test]
fn check_separates_good_files_from_bad_ones() {
    let root = Root::empty();
    root.run(&["check"]).ends_with(0).prints(&["good: settings", "good: role agent"]);
    let check = |text: &str| {
        root.write("/srv/x.toml", text);
        run(&["check", root.at("/srv/x.toml").to_str().unwrap()])
    };
    check("[agent]\nlog_bucket = 'logs'\n").ends_with(0).prints(&["good: "]);
    check("[agent]\nlog_bukcet = 'logs'\n").ends_with(78).reports(&["line 2, column 1", "did you mean `log_bucket`?"]);
    check("agent.log_bucket = \"it's\"\n").ends_with(78).reports(&["agent.log_bucket"]);
    check("zookeeper.servers = [").ends_with(78).reports(&["line 1"]);
    run(&["check", "/nowhere.toml"]).ends_with(78).reports(&["/nowhere.toml"]);
    root.write("/etc/titus-bootstrap/config.d/10.toml", "stakc = 'x'\n");
    root.run(&["check"]).ends_with(78).reports(&["config.d/10.toml, line 1, column 1", "did you mean `stack`?"]);
}

/// A template with active settings, as if a person had removed each `#`.
fn uncommented(template: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    template.lines().map(line).collect()
}

#[test]
fn the_template_is_enough_for_the_role_once_it_is_filled_in() {
    let template = run(&["config", "template", "--role", "agent"]).ends_with(0).out;
    let set: Vec<_> = template.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(set, [""; 0]);
    let lines: Vec<&str> = template.lines().collect();
    let required = lines.windows(2).filter(|pair| pair[0] == "# Required.").map(|pair| pair[1]);
    let required: Vec<_> = required.filter_map(|line| line.split(" = ").next()).collect();
    assert_eq!(required, ["#prereqs", "#log_bucket"]);
    // The user data of README, pasted below it.
    let readme = crate::docs::document("README.md");
    let blocks = crate::docs::blocks::blocks(&readme);
    let pasted = blocks.iter().rfind(|block| block.info == "user-data").unwrap().text();
    assert!(pasted.contains("log_bucket"), "{pasted}");
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", format!("{template}{pasted}"));
    root.ask(&Metadata::start(sample()), &["--role", "agent"]).ends_with(0);
    let keys: Vec<&str> = template.lines().filter_map(|line| line.strip_prefix('#')?.split(" = ").next()).collect();
    for foreign in ["[master]", "[gateway]", "[images]", "[debs]", "java", "[containers]"] {
        assert!(!keys.contains(&foreign), "no agent needs {foreign}");
    }
    run(&["config", "template"]).ends_with(64).reports(&["--role agent"]);
}

#[test]
fn each_line_of_the_template_works_unchanged() {
    let root = Root::empty();
    for role in ["prereqs", "master", "gateway", "agent"] {
        let template = run(&["config", "template", "--role", role]).ends_with(0).out;
        root.write("/srv/x.toml", uncommented(&template));
        let file = root.at("/srv/x.toml").display().to_string();
        root.run(&["check", &file, "--role", role]).ends_with(0).prints(&[&format!("good: role {role}")]);
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
        let mut table = String::new();
        for line in uncommented(&template).lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                table = format!("{}.", name.trim_end_matches(']'));
                continue;
            }
            let key = format!("{table}{}", line.split(" = ").next().unwrap());
            let found = described(&schema, &key).unwrap_or_else(|| panic!("{key} is not in the schema"));
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
        let output = root.sample(&[arguments, &["--set", &proxy]].concat()).ends_with(0);
        assert!(
            !output.out.contains(secret) && !output.err.contains(secret),
            "{arguments:?}\n{}\n{}",
            output.out,
            output.err
        );
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
        "attaches 2 interfaces with 10 addresses each, and limits traffic to 100 Mbit/s",
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
    run(&["instance-type", "m9.large"]).ends_with(78).reports(&["[instance_types.\"m9.large\"]"]);
    let own = "instance_types.\"m9.large\"={ max_enis = 4, ipv4_per_eni = 9 }";
    let output = run(&["instance-type", "m9.large", "--json", "--set", own]).ends_with(0).json();
    assert_eq!(
        (&output["max_enis"], &output["resource_set"]["schedulable"]),
        (&4.into(), &"ResourceSet-ENIs-3-9".into())
    );
    assert_eq!((&output["supported"], &output["network_mbps"]), (&false.into(), &Value::Null));
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
fn messages_are_json_on_request() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let refused = root.ask(&metadata, &["--role", "agent", "--log-format", "json", "--set", "stack=x"]).ends_with(78);
    for line in refused.err.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn render_prints_a_file_as_the_run_writes_it() {
    let root = converged();
    let render = |path: &str, more: &[&str]| root.sample(&[&["render", path], more].concat());
    for path in ["/etc/mesos-attributes.sh", "/etc/titus-shared.env", "/etc/titus-executor/config.json", "/metatron"] {
        assert_eq!(render(path, &[]).ends_with(0).out, root.read(path), "{path}");
    }
    // For a step that edits a file, the whole file; other lines stay.
    root.write("/etc/mesos-agent.config", "OTHER=1\n");
    let before = root.look();
    assert!(render("/etc/mesos-agent.config", &[]).ends_with(0).out.contains("MESOS_PORT"));
    assert!(render("/etc/mesos-attributes.sh", &["--set", "stack=other"]).ends_with(0).out.contains("other"));
    let document = render("/etc/titus-shared.env", &["--json"]).ends_with(0).json();
    assert_eq!((&document["step"], &document["schema_version"]), (&"titus-shared".into(), &1.into()));
    render("/etc/mesos-atributes.sh", &[]).ends_with(64).reports(&["did you mean `/etc/mesos-attributes.sh`?"]);
    let step =
        "[[step]]\nid = 'own'\nphase = 'boot'\nfile = { path = '/etc/own', content = 'hunter2', mode = '0600' }\n";
    root.write("/etc/titus-bootstrap/roles/own.toml", format!("description = 'x'\n{step}"));
    let private = root.run(&["render", "/etc/own", "--role", "own", "--sample"]).ends_with(0);
    assert_eq!(private.out, "***\n");
    assert!(private.err.contains("its contents are hidden"), "{}", private.err);
    std::fs::remove_dir_all(root.at("/etc/titus-bootstrap")).unwrap();
    assert_eq!(before, root.look(), "render changed something");
}

#[test]
fn verbose_messages_describe_this_program_s_work() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let said = root.ask(&metadata, &["facts", "-v"]).ends_with(0).err;
    let requests: Vec<&str> = said.lines().filter(|line| line.contains(" request ")).collect();
    assert!(requests.iter().any(|line| line.contains("/latest/meta-data/mac ") && line.contains("200")), "{said}");
    assert!(requests.iter().all(|line| line.contains("method=") && line.contains("elapsed=")), "{said}");
    for word in ["pool", "reuse", "hyper", "checkout", "starting new connection"] {
        assert!(!said.contains(word), "{word}:\n{said}");
    }
    let quiet = root.ask(&metadata, &["facts"]).ends_with(0).err;
    assert!(!quiet.contains("request"), "{quiet}");
}

#[test]
fn quiet_is_quiet() {
    let root = Root::empty();
    for arguments in [&["-q"][..], &["-q", "plan"], &["-q", "status"], &["-q", "check"]] {
        let outcome = root.sample(arguments).ends_with(0);
        assert_eq!((outcome.out.as_str(), outcome.err.as_str()), ("", ""), "{arguments:?}");
    }
    let refused = root.sample(&["-q", "--set", "stack=a;b"]).ends_with(78).reports(&["stack = \"a;b\""]);
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
        [("bash", "complete "), ("zsh", "#compdef titus-bootstrap"), ("fish", "--command titus-bootstrap")]
    {
        run(&["completions", shell]).ends_with(0).prints(&[word, "titus-bootstrap"]);
    }
    let script = run(&["completions", "bash"]).out;
    let syntax = outcome(Command::new("bash").args(["-n", "-c", &script])).ends_with(0);
    assert_eq!(syntax.err, "");
    run(&["completions", "tcsh"]).ends_with(64);
    let page = run(&["man"]).ends_with(0).prints(&[".TH titus-bootstrap 8", ".SH SUBCOMMANDS", "\\-\\-root"]);
    let pages = run(&["man", "--list"]).ends_with(0).out;
    assert!(pages.lines().count() > 20, "{pages}");
    let mut whole = page.out.clone();
    for words in pages.lines() {
        let arguments: Vec<&str> = std::iter::once("man").chain(words.split(' ')).collect();
        let name = format!("titus-bootstrap-{}", words.replace(' ', "-"));
        let of_it =
            run(&arguments).ends_with(0).prints(&[".SH \"FILES\"", ".SH \"ENVIRONMENT\"", ".SH \"EXIT STATUS\""]).out;
        assert!(of_it.contains(&format!(".TH {name} 8")), "{name}:\n{}", of_it.lines().take(5).collect::<String>());
        whole.push_str(&of_it);
    }
    // Each page that one names is there.
    for named in whole.split("(8)").filter_map(|before| before.rsplit([' ', '\n']).next()) {
        let plain = named.replace("\\-", "-");
        let is_there = |words: &str| plain == format!("titus-bootstrap-{}", words.replace(' ', "-"));
        assert!(!plain.starts_with("titus-bootstrap") || pages.lines().any(is_there), "there is no page {plain}");
    }
    run(&["man", "aply"]).ends_with(64).reports(&["did you mean `apply`?"]);
    let version = format!("titus-bootstrap {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["version"]).ends_with(0).out, version);
    assert_eq!(run(&["--version"]).ends_with(0).out, version);
    let built = run(&["version", "--json"]).ends_with(0).json();
    assert_eq!(built["version"], env!("CARGO_PKG_VERSION"));
    let target = format!("{}-unknown-linux-", std::env::consts::ARCH);
    assert!(built["target"].as_str().unwrap().starts_with(&target), "{built}");
    assert!(["debug", "release"].contains(&built["build"]["profile"].as_str().unwrap()), "{built}");
    assert!(built["build"]["rustc"].as_str().unwrap().starts_with("rustc "), "{built}");
    // packaging/build gives a release its commit, and a test there looks for it.
    assert!(built["commit"].is_null() || built["commit"].as_str().unwrap().len() >= 40, "{built}");
}

/// Each command that prints something, on a converged tree.
const PRINTS: &[&str] = &[
    "--dry-run",
    "apply",
    "plan",
    "plan --json",
    "plan --detailed-exitcode --set stack=x",
    "status",
    "render /etc/mesos-attributes.sh",
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
fn a_reader_that_has_gone_away_is_not_a_failure() {
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
        refused.reports(&[&format!("{name} is both before the command and after it")]);
        let joined = [&format!("{name}={before}"), "plan", &format!("{name}={after}")];
        assert_ne!(run(&joined).code, 0, "{joined:?}");
    }
    root.sample(&["--set", "stack=a", "--set", "agent.asg=b", "plan"]).ends_with(0);
}

/// Each command, as words, and its help.
fn helps() -> Vec<(String, String)> {
    fn add_words(command: &clap::Command, words: &str, into: &mut Vec<String>) {
        into.push(words.to_owned());
        let named = command.get_subcommands().filter(|command| command.get_name() != "help");
        named.for_each(|command| add_words(command, format!("{words} {}", command.get_name()).trim_start(), into));
    }
    let mut all = Vec::new();
    add_words(&titus_bootstrap::cli::grammar(), "", &mut all);
    let help = |words: &String| {
        let arguments: Vec<&str> = words.split_whitespace().chain(["--help"]).collect();
        run(&arguments).ends_with(0).out
    };
    all.iter().map(|words| (words.clone(), help(words))).collect()
}

#[test]
fn every_command_has_examples_and_each_can_be_parsed() {
    let helps = helps();
    assert!(helps.len() > 25, "{}", helps.len());
    for (words, help) in helps {
        let (_, examples) = help.split_once("\nExamples:\n").unwrap_or_else(|| panic!("{words}: no examples\n{help}"));
        let examples: Vec<&str> = examples.lines().take_while(|line| line.starts_with("  ")).map(str::trim).collect();
        assert!(!examples.is_empty(), "{words}");
        for example in examples {
            let command = example.split("  ").next().unwrap();
            assert!(words.is_empty() || command.starts_with(&format!("titus-bootstrap {words}")), "{words}: {command}");
            let parsed = titus_bootstrap::cli::grammar().try_get_matches_from(command.split_whitespace());
            assert!(parsed.is_ok(), "{words}: {command}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn help_has_a_commands_own_options_before_those_of_all() {
    for (words, help) in helps() {
        let of_all = help.find("Options of every command:").unwrap_or_else(|| panic!("{words}\n{help}"));
        let own = help.find("\nOptions:").unwrap_or_else(|| panic!("{words}\n{help}"));
        assert!(own < of_all && help.find("Examples:").unwrap() > of_all, "{words}\n{help}");
        assert_eq!(help.matches("--role <ROLE>").count(), 1, "{words}");
    }
}
