//! Titus instance groups, through a gateway at the one port that gateways have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value as Json, json};
use titus_bootstrap::error::Kind;
use titus_bootstrap::step::StepKind;
use titus_bootstrap::step::health::Kept;
use titus_bootstrap::titus::checks::Finding;

use crate::support::door::{Door, listen, serve_http};
use crate::support::sigv4::Request;
use crate::support::simulated::Machine;

const GROUPS: &str = "/api/v3/agent/instanceGroups";

/// A gateway and the state of each group. It answers 404 for a group that it does not know, but 500 for `c`, like rc.57; and
/// 500 for `broken` in any case.
struct Gateway {
    _door: Door,
    groups: Arc<Mutex<BTreeMap<String, String>>>,
    changes: Arc<Mutex<Vec<String>>>,
}

impl Gateway {
    fn start(groups: &[(&str, &str)]) -> Gateway {
        let groups = groups.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
        let groups = Arc::new(Mutex::new(groups));
        let changes = Arc::<Mutex<Vec<String>>>::default();
        let (known, log) = (Arc::clone(&groups), Arc::clone(&changes));
        let door = serve_http(listen(7001), move |request| {
            let (status, body) = answer(&mut known.lock().unwrap(), request);
            if request.method != "GET" {
                log.lock().unwrap().push(format!("{} {}", request.method, request.target));
            }
            (status, "Content-Type: application/json\r\n".into(), body.to_string())
        });
        Gateway { _door: door, groups, changes }
    }
}

fn answer(groups: &mut BTreeMap<String, String>, request: &Request) -> (u16, Json) {
    let group = |name: &str, state: &str| json!({ "id": name, "lifecycleStatus": { "state": state } });
    let rest = request.target.strip_prefix(GROUPS).unwrap();
    let (name, action) = rest.trim_start_matches('/').split_once('/').unwrap_or((rest.trim_start_matches('/'), ""));
    match (request.method.as_str(), name, action) {
        ("GET", "", "") => {
            let all: Vec<Json> = groups.iter().map(|(name, state)| group(name, state)).collect();
            (200, json!({ "agentInstanceGroups": all }))
        }
        // Its agent registers between two questions.
        ("GET", "late", "") if groups.remove("late is new").is_some() => (500, json!({})),
        ("GET", "c" | "broken", "") => (500, json!({ "statusCode": 500, "message": "Unexpected error" })),
        ("GET", name, "") => groups.get(name).map_or((404, json!({})), |state| (200, group(name, state))),
        ("PUT", name, "lifecycle") => {
            let wish: Json = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(wish["instanceGroupId"], name);
            groups.insert(name.to_owned(), wish["lifecycleState"].as_str().unwrap().to_owned());
            (200, json!({}))
        }
        _ => (405, Json::Null),
    }
}

fn role(names: &str) -> String {
    format!("[[step]]\nid = 'groups'\nphase = 'boot'\ninstance_group = {{ names = [{names}] }}\n")
}

/// One test, because gateways have one port.
#[test]
fn groups_that_the_master_knows_become_active() {
    let gateway = Gateway::start(&[("a", "Active"), ("b", "Inactive"), ("e", "Removable"), ("broken", "Active")]);
    let machine = Machine::new();
    let steps = machine.steps(&role("'a', 'b', 'c', 'd', 'e'"));
    let StepKind::InstanceGroup(groups) = &steps[0].kind else { panic!("{:?}", steps[0].kind) };
    let verified = || Kept::InstanceGroups(groups.clone()).ask(&machine.next_host()).unwrap();

    let explained = steps[0].work().explain().join("\n");
    assert!(explained.contains("through the gateway of this node: a, b, c, d, e."), "{explained}");
    let none = machine.steps(&role(""))[0].work().explain().join("\n");
    assert!(none.contains("the settings name none"), "{none}");

    let lines = ["activate the instance group b (it is Inactive)", "activate the instance group e (it is Removable)"];
    assert_eq!(machine.plan(&steps).ends_well().lines(), lines);
    assert_eq!(gateway.changes.lock().unwrap().len(), 0, "a plan changes nothing");
    let unknown = "c is unknown: no agent of it has registered, d is unknown: no agent of it has registered";
    assert_eq!(verified(), Finding::Bad(format!("a is Active, b is Inactive, {unknown}, e is Removable")));

    let run = machine.apply(&steps).ends_well();
    assert_eq!((run.states(), run.lines()), (vec!["groups changed".to_owned()], lines.map(str::to_owned).to_vec()));
    let changes: Vec<String> = std::mem::take(&mut *gateway.changes.lock().unwrap());
    assert_eq!(changes, ["b", "e"].map(|name| format!("PUT {GROUPS}/{name}/lifecycle")));

    // A run reports groups without an agent, and does not fail.
    let run = machine.apply(&steps).ends_well();
    assert_eq!(run.states(), ["groups in_sync"]);
    assert_eq!(run.report.steps[0].note.as_deref(), Some("not yet: no agent of c, d has registered"));
    assert_eq!(gateway.changes.lock().unwrap().len(), 0);

    // The master forgets them when it restarts.
    gateway.groups.lock().unwrap().insert("a".into(), "Inactive".into());
    assert_eq!(machine.apply(&steps).ends_well().lines(), ["activate the instance group a (it is Inactive)"]);
    let known = machine.steps(&role("'a', 'b'"));
    let StepKind::InstanceGroup(groups) = &known[0].kind else { panic!("{:?}", known[0].kind) };
    let verified = Kept::InstanceGroups(groups.clone()).ask(&machine.next_host()).unwrap();
    assert_eq!(verified, Finding::Good("a is Active, b is Active".into()));

    // It becomes known between the question about it and the one about all.
    gateway.groups.lock().unwrap().extend(["late", "late is new"].map(|name| (name.to_owned(), "Inactive".to_owned())));
    let late = machine.plan(&machine.steps(&role("'late'"))).ends_well();
    assert_eq!(late.lines(), ["activate the instance group late (it is Inactive)"]);

    // A group that the master knows has a state: the answer about it is a failure.
    let run = machine.plan(&machine.steps(&role("'broken'")));
    let error = run.fails();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert!(error.what.contains(&format!("http://localhost:7001{GROUPS}/broken: status 500")), "{error}");
    assert!(error.cause.as_ref().is_some_and(|cause| cause.contains("Unexpected error")), "{error}");
}
