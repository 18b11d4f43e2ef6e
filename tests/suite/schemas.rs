//! What programs read: a schema for every output, an error as a document, and events during a run. That each
//! output is what its schema says, `tests/support/schemas.rs` asserts of all that any test prints.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use serde_json::{Value, json};

use crate::support::root::{Root, run};
use crate::support::schemas::{assert_lines_valid, assert_valid, refuses};

const AGENT: [&str; 3] = ["--role", "agent", "--sample"];

#[test]
fn each_schema_is_printed_and_refuses_what_is_something_else() {
    let list = run(&["schema"]).ends_with(0).out;
    let listed = run(&["schema", "--json"]).ends_with(0).json();
    let schemas = listed["schemas"].as_array().unwrap();
    assert!(schemas.len() > 20);
    for schema in schemas {
        let name = schema["name"].as_str().unwrap();
        assert!(list.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} is not in:\n{list}");
        let printed: Value = serde_json::from_str(&run(&["schema", name]).ends_with(0).out).unwrap();
        assert_eq!(printed["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        for other in [json!({}), json!([]), json!({ "schema_version": "1" })] {
            assert!(refuses(name, &other), "schema {name} allows {other}");
        }
    }
    run(&["schema", "confg-show"]).ends_with(64).reports(&["there is no schema \"confg-show\"", "`config-show`"]);
}

#[test]
fn every_command_prints_json() {
    let root = Root::empty();
    root.sample(&["--json"]).ends_with(0);
    let why = "why MESOS_RESOURCES";
    let render = "render /etc/mesos-attributes.sh";
    // The harness compares each with its schema.
    for (words, code) in [
        ("plan", 0),
        ("status", 1),
        ("status --last", 0),
        ("status --timeline", 0),
        ("seal --check", 69),
        ("check", 0),
        ("facts", 0),
        ("config show", 0),
        ("config template", 0),
        (why, 0),
        (render, 0),
        ("role list", 0),
        ("role show agent", 0),
        ("instance-type m4.large", 0),
        ("schema", 0),
        ("completions bash", 0),
        ("man", 0),
        ("man --list", 0),
        ("version", 0),
    ] {
        let words: Vec<&str> = words.split(' ').chain(AGENT).chain(["--json"]).collect();
        let printed = root.run(&words);
        assert!([0, code].contains(&printed.code), "{}", printed.transcript());
        printed.json();
    }
}

#[test]
fn each_error_is_one_document_and_one_event() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", "stack = 'x'\nagent.log_buckt = 'y'\n");
    for (words, code, kind, what, place) in [
        ("facts", 78, "config", "agent.toml", None),
        ("plan --role agent --sample", 78, "config", "log_buckt", Some("config.toml, line 2, column 7")),
        ("config show --sample --role agent", 78, "config", "log_buckt", Some("config.toml, line 2, column 7")),
        ("config template", 64, "usage", "needs a role", None),
        ("verify --sample", 64, "usage", "--root is a tree", None),
        ("role show agnet", 78, "config", "unknown role", None),
        ("plan --jsn", 64, "usage", "--jsn", None),
        ("pln", 64, "usage", "there is no command", None),
        ("schema x", 64, "usage", "there is no schema", None),
    ] {
        let words: Vec<&str> = words.split(' ').chain(["--json", "--log-format", "json"]).collect();
        let failed = root.run(&words);
        assert!(failed.code == code || words[0] == "facts", "{}", failed.transcript());
        let error = failed.json()["error"].clone();
        let event: Value = serde_json::from_str(failed.err.lines().last().unwrap()).unwrap();
        assert_eq!(event["event"], "error", "{event}");
        if words[0] == "facts" {
            // Whether this machine is an instance decides what it says.
            continue;
        }
        assert_eq!((&error["kind"], &error["exit_code"]), (&kind.into(), &code.into()), "{error}");
        assert!(error["what"].as_str().unwrap().contains(what), "{error}");
        for key in ["kind", "exit_code", "what", "cause", "fix", "where"] {
            assert_eq!(error.get(key), event.get(key), "{key} of {error} and {event}");
        }
        if let Some(place) = place {
            assert!(error["where"].as_str().unwrap().ends_with(place), "{error}");
        }
    }
}

#[test]
fn a_run_is_a_stream_of_events_and_each_step_has_its_time() {
    let root = Root::empty();
    let done = root.sample(&["--json", "--log-format", "json"]).ends_with(0);
    let report = done.json();
    let events: Vec<Value> = done.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    let steps = report["steps"].as_array().unwrap();
    assert_eq!((named("run_started").len(), named("run_finished").len()), (1, 1));
    assert_eq!(named("run_finished")[0]["result"], "converged");
    for (n, step) in steps.iter().enumerate() {
        let (started, finished) = (named("step_started")[n], named("step_finished")[n]);
        for event in [started, finished] {
            assert_eq!((&event["step"], &event["number"]), (&step["id"], &(n + 1).into()), "{event}");
        }
        assert_eq!((&finished["state"], &finished["duration_ms"]), (&step["state"], &step["duration_ms"]));
    }
    let spans = report["spans"].as_array().unwrap();
    assert!(steps.iter().all(|step| spans.iter().any(|span| span["name"] == step["id"])));
    assert!(spans.iter().any(|span| span["kind"] == "facts"));
    // On disk the same, in the journal and in the report.
    let journal = root.read("/var/lib/titus-bootstrap/journal.jsonl");
    let ended: Value = serde_json::from_str(journal.lines().last().unwrap()).unwrap();
    assert_eq!((&ended["event"], &ended["spans"]), (&"ended".into(), &report["spans"]));
    assert_eq!(ended["duration_ms"], report["duration_ms"]);
    for line in journal.lines().filter(|line| line.contains("\"finished\"")) {
        assert!(line.contains("\"duration_ms\""), "{line}");
    }
    assert_lines_valid("journal", &journal);
    let kept: Value = serde_json::from_str(&root.read("/var/log/titus-bootstrap/last.json")).unwrap();
    assert_valid("apply", &kept);
    // In text each step of a run has it.
    let step = regex::Regex::new(r"(?m)^\[ *\d+/\d+\] .*\b\d+(\.\d)? m?s$").unwrap();
    let kept = root.read("/var/log/titus-bootstrap/last.log");
    assert_eq!(step.find_iter(&kept).count(), steps.len(), "{kept}");
    // And as bars and as a picture.
    let text = root.run(&["status", "--timeline"]).ends_with(0).out;
    assert!(text.starts_with("role agent on i-0123456789abcdef0: converged after "), "{text}");
    assert!(text.lines().any(|line| line.starts_with("mesos-agent ") && line.contains("s |")), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let path = root.at("/boot.svg").display().to_string();
    assert_eq!(root.run(&["report", "--svg", &path]).ends_with(0).out, "");
    let svg = root.read("/boot.svg");
    let document = roxmltree::Document::parse(&svg).unwrap();
    let groups = document.descendants().filter(|node| node.has_tag_name("g")).count();
    assert_eq!(groups, spans.len());
    root.run(&["report", "--svg", "/nowhere/x.svg"]).ends_with(1).reports(&["cannot be written"]);
    Root::empty().run(&["status", "--timeline"]).ends_with(1).reports(&["no run has changed anything"]);
    // A refused run ends, too.
    let refused = root.sample(&["--set", "stack=a;b", "--log-format", "json"]).ends_with(78);
    let last: Vec<Value> = refused.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = last.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert!(names.ends_with(&["run_finished", "error"]), "{names:?}");
}
