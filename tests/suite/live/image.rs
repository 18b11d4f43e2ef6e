//! Images: pulled once, by tag or digest, and an error that names the setting where the registry has none.

use titus_bootstrap::error::Kind;

use crate::support::docker::Docker;
use crate::support::simulated::Machine;

fn machine() -> (Machine, Docker) {
    let (mut machine, docker) = (Machine::new(), Docker::start());
    machine.host.docker = docker.host();
    (machine, docker)
}

fn role(name: &str) -> String {
    format!("[[step]]\nid = 'image'\nphase = 'bake'\nimage = {{ name = '{name}', setting = 'images.x' }}\n")
}

#[test]
fn a_missing_image_is_pulled_once_by_tag_or_digest() {
    let sum = "ab".repeat(32);
    let by_digest = format!("host:5000/own/x@sha256:{sum}");
    for name in ["host:5000/own/x:1", &by_digest] {
        let (machine, docker) = machine();
        docker.publish("host:5000/own/x:1", &sum);
        let steps = machine.steps(&role(name));
        assert_eq!(machine.plan(&steps).ends_well().lines(), [format!("pull image {name}")]);
        assert_eq!(docker.changes(), [""; 0], "a plan pulls nothing");
        // Begun before the first step, it may have ended when the run reaches its step.
        machine.apply(&steps).ends_well();
        assert_eq!(docker.changes(), [format!("pull {name}")]);
        assert_eq!(machine.apply(&steps).ends_well().states(), ["image in_sync"]);
        assert_eq!(machine.plan(&steps).ends_well().states(), ["image in_sync"]);
        assert_eq!(docker.changes(), [""; 0]);
        // One that the engine has serves its tag, whatever the registry has now.
        docker.publish("host:5000/own/x:1", &"cd".repeat(32));
        assert_eq!(machine.apply(&steps).ends_well().states(), ["image in_sync"]);
    }
}

#[test]
fn an_image_that_no_registry_has_is_an_error_that_names_its_setting() {
    for name in ["x:1".to_owned(), format!("x@sha256:{}", "ab".repeat(32))] {
        let (machine, docker) = machine();
        docker.load("x:2", &"cd".repeat(32));
        let run = machine.apply(&machine.steps(&role(&name)));
        let words = run.fails().to_string();
        assert_eq!(run.fails().kind, Kind::Failed);
        for expected in
            [&format!("image {name}: its registry does not have it"), "manifest unknown", "the setting images.x"]
        {
            assert!(words.contains(expected), "{expected}: {words}");
        }
        assert_eq!(run.states(), ["image failed"]);
        assert_eq!(docker.changes(), [format!("pull {name}")], "another try would not help");
    }
}

#[test]
fn without_an_engine_a_plan_is_blocked() {
    let (mut machine, _docker) = machine();
    machine.host.docker = "tcp://127.0.0.1:1".into();
    assert_eq!(machine.plan(&machine.steps(&role("x:1"))).ends_well().states(), ["image blocked"]);
}
