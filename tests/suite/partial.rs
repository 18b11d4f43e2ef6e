//! Runs that are limited to some steps: `--only` and `--skip`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support::root::Root;

/// Two files that a unit reads, and one of each name in a list.
const ROLE: &str = "description = 'x'\n\
    [[step]]\nid = 'one'\nphase = 'boot'\nfile = { path = '/etc/one', content = '1' }\n\
    [[step]]\nid = 'two'\nphase = 'boot'\nfile = { path = '/etc/two', content = '2' }\n\
    [[step]]\nid = 'many'\nphase = 'bake'\neach = \"['a', 'b']\"\nfile = { path = '/etc/many-{{ item }}', content = 'x' }\n\
    [[step]]\nid = 'never'\nphase = 'boot'\nwhen = 'false'\nfile = { path = '/etc/never', content = 'x' }\n\
    [[step]]\nid = 'unit'\nphase = 'boot'\nunit = { name = 'x.service', enabled = true, restart_on = ['one', 'two'] }\n\
    [[step]]\nid = 'ready'\nphase = 'boot'\nfile = { path = '/run/titus-bootstrap/ready', content = '' }\n\
    [[step]]\nid = 'later'\nphase = 'keep'\nfile = { path = '/etc/later', content = 'x' }\n";

const READY: &str = "/run/titus-bootstrap/ready";

fn node() -> Root {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/roles/small.toml", ROLE);
    root.write("/etc/systemd/system/x.service", "[Install]\nWantedBy=multi-user.target\n");
    root
}

fn small(root: &Root, arguments: &[&str]) -> crate::support::root::Outcome {
    root.run(&[&["apply", "--role", "small", "--sample"], arguments].concat())
}

#[test]
fn only_these_steps_run_and_the_run_is_partial() {
    let root = node();
    let run = small(&root, &["--only", "one", "many"]).ends_with(0);
    let text = "partial: only one, many; 3 steps were left out";
    let run = run.prints(&[text, "step unit was left out, but reads what one changes"]);
    assert!(!run.out.contains("converged") && !run.out.contains("nothing to do."), "{}", run.transcript());
    for (path, is_there) in [("/etc/one", true), ("/etc/many-a", true), ("/etc/two", false), (READY, false)] {
        assert_eq!(root.at(path).exists(), is_there, "{path}");
    }
    let status = root.run(&["status", "--last"]).ends_with(0);
    status.prints(&["last run: partial, role small, by hand", text, "shows what is left"]);
    assert!(root.read("/var/log/titus-bootstrap/last.log").contains(text));

    let again = small(&root, &["--only", "one", "--json"]).ends_with(0).json();
    assert_eq!((&again["result"], &again["partial"]["left_out"]), (&"partial".into(), &5.into()), "{again:#}");
    assert_eq!(root.run(&["status", "--last", "--json"]).json()["last_state"], "partial");

    small(&root, &[]).ends_with(0);
    assert!(root.at(READY).exists());
    assert_eq!(root.run(&["status", "--last", "--json"]).json()["last_state"], "converged");
}

#[test]
fn all_but_these_steps_run_and_nothing_says_that_the_node_is_ready() {
    let root = node();
    let run = small(&root, &["--skip", "two,many:a", "--json"]).ends_with(0);
    assert_eq!(run.steps("changed"), ["one", "many:b", "unit"]);
    assert_eq!(run.steps("deferred"), ["ready"]);
    assert!(!root.at(READY).exists());
    let notices = run.json()["notices"].to_string();
    assert!(notices.contains("step two was left out although its file differs from the role: unit runs"), "{notices}");
    // Not even by its name.
    small(&root, &["--only", "ready"]).ends_with(0).prints(&["does not say that all of the role is done"]);
    assert!(!root.at(READY).exists());
}

#[test]
fn a_plan_and_a_dry_run_are_limited_too() {
    let root = node();
    let plan = root.run(&["plan", "--role", "small", "--sample", "--only", "two", "--json"]).ends_with(0);
    assert_eq!(
        (plan.steps("changes"), &plan.json()["partial"]["only"]),
        (vec!["two".into()], &serde_json::json!(["two"]))
    );
    small(&root, &["--only", "two", "--dry-run"]).ends_with(0).prints(&["partial: only two"]);
    assert!(!root.at("/etc/two").exists());
}

#[test]
fn an_unknown_step_is_refused_before_anything() {
    let root = node();
    for (arguments, words) in [
        (["--only", "onee"], ["role small has no step \"onee\"", "did you mean `one`?"]),
        (["--skip", "ready,zzzzzz"], ["has no step \"zzzzzz\"", "known are: one, two, many:a"]),
        (["--only", "never"], ["step never is not part of this run", "its `when` is false"]),
        (["--only", "later"], ["step later is not part of this run", "titus-bootstrap keep runs it"]),
        (["--only", "./settings.toml"], ["has no step", "put the settings file before --only"]),
        (["--skip", "one,two,many,unit,ready"], ["leave no step", "name fewer"]),
    ] {
        small(&root, &arguments).ends_with(64).reports(&words);
    }
    small(&root, &["--only", "many", "--phase", "boot"]).ends_with(64).reports(&["--phase leaves its phase out"]);
    small(&root, &["--only", "one", "--at-boot"]).ends_with(64).reports(&["cannot be used with"]);
    root.run(&["--only", "one", "--role", "small", "--sample", "--skip"]).ends_with(64);
    assert!(!root.at("/etc/one").exists() && !root.at("/var/lib/titus-bootstrap").exists());
}
