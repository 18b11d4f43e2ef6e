//! `logs`: the runs of the journal on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support::root::Root;

#[test]
fn a_node_that_was_never_run_has_no_runs() {
    let root = Root::empty();
    root.run(&["logs"]).ends_with(0).prints(&["no run has changed anything"]);
    assert_eq!(root.run(&["logs", "--json"]).ends_with(0).json()["runs"], serde_json::json!([]));
    root.run(&["logs", "last"]).ends_with(64).reports(&["the journal has no run \"last\"", "it is empty"]);
}

#[test]
fn runs_are_listed_and_one_is_shown() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    // One without a change is not in the journal.
    root.sample(&[]).ends_with(0);
    std::fs::remove_file(root.at("/etc/titus-shared.env")).unwrap();
    root.sample(&[]).ends_with(0);
    root.fails_half_way();
    let list = root.run(&["logs"]).ends_with(0).prints(&["by hand", "1 step: titus-shared", "half", "failed"]);
    assert_eq!(list.out.lines().count(), 4, "{}", list.transcript());
    let runs = root.run(&["logs", "--json"]).ends_with(0).json();
    let runs = runs["runs"].as_array().unwrap();
    let results: Vec<&str> = runs.iter().map(|run| run["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["converged", "converged", "failed"]);
    assert_eq!((&runs[1]["trigger"], &runs[1]["changed"]), (&"person".into(), &serde_json::json!(["titus-shared"])));

    root.run(&["logs", "last"]).ends_with(0).prints(&["run 3", "failed, role half", "failed large: "]);
    let name = runs[1]["run"].as_str().unwrap();
    for word in ["2", name] {
        let one = root.run(&["logs", word]).ends_with(0).prints(&["started titus-shared: ", "ended: converged"]);
        assert!(
            one.out.starts_with(&format!("run 2 ({name}): converged, role agent, by hand, ")),
            "{}",
            one.transcript()
        );
    }
    let one = root.run(&["logs", "2", "--json"]).ends_with(0).json();
    assert_eq!((&one["run"]["run"], one["events"].as_array().unwrap().len()), (&name.into(), 3));
    root.run(&["logs", "4"]).ends_with(64).reports(&["no run \"4\"", "from 1 to 3"]);
}

#[test]
fn a_journal_with_damaged_lines_is_shown_without_them() {
    let root = Root::empty();
    root.sample(&[]).ends_with(0);
    let mut text = root.read("/var/lib/titus-bootstrap/journal.jsonl");
    text.insert_str(0, "{\"torn\n\u{0}\n[]\n");
    root.write("/var/lib/titus-bootstrap/journal.jsonl", text + "{\"run\":");
    let list = root.run(&["logs"]).ends_with(0);
    assert_eq!(list.out.lines().count(), 2, "{}", list.transcript());
}
