//! Waits: when a run asks a service, and which units it names if the service does not answer.

use std::time::Duration;

use titus_bootstrap::error::Kind;
use titus_bootstrap::host::systemd::{Active, Unit};

use crate::support::door::{listen, serve_http};
use crate::support::simulated::Machine;

/// Nobody listens there.
const ROLE: &str = "[[step]]\nid = 'a'\nphase = 'boot'\nunit = { name = 'a.service', active = true }\n\
                    [[step]]\nid = 'b'\nphase = 'boot'\nunit = { name = 'b.service', active = true }\n\
                    [[step]]\nid = 'answer'\nphase = 'boot'\nwait = { tcp = '127.0.0.1:1' }\n";

#[test]
fn of_the_units_those_with_problems_are_named_and_else_the_last() {
    let well = Unit { active: Active::Active, sub: "running".into(), restarts: Some(0), ..Unit::default() };
    let unknown = Unit { restarts: None, ..well.clone() };
    let dead = Unit { active: Active::Inactive, sub: "dead".into(), ..well.clone() };
    let restarted = Unit { restarts: Some(1), ..well.clone() };
    for (a, b, named) in [
        (&well, &well, vec!["b.service is active (running), 0 restarts"]),
        (&unknown, &unknown, vec!["b.service is active (running);"]),
        (&dead, &well, vec!["a.service is inactive (dead), 0 restarts"]),
        (&restarted, &well, vec!["a.service is active (running), 1 restart;"]),
        (&well, &dead, vec!["b.service is inactive (dead)"]),
        (&dead, &restarted, vec!["a.service is inactive (dead)", "b.service is active (running), 1 restart;"]),
    ] {
        let mut machine = Machine::new();
        machine.host.deadlines.wait = Duration::ZERO;
        let steps = machine.steps(ROLE);
        machine.systemd.set("a.service", a.clone());
        machine.systemd.set("b.service", b.clone());
        let error = steps.last().unwrap().work().converge(&machine.next_host()).unwrap_err();
        assert_eq!(error.kind, Kind::Failed);
        let cause = error.cause.unwrap();
        assert!(cause.starts_with("the last answer: ") && named.iter().all(|words| cause.contains(words)), "{cause}");
        let others = ["a.service", "b.service"].into_iter().filter(|unit| !named.iter().any(|n| n.starts_with(unit)));
        assert!(others.into_iter().all(|unit| !cause.contains(&format!("{unit} is "))), "{cause}");
    }
}

#[test]
fn a_service_is_asked_when_the_turn_of_the_step_comes_and_not_before() {
    let listener = listen(0);
    let page = format!("http://{}/", listener.local_addr().unwrap());
    let server = serve_http(listener, |_| (200, String::new(), String::new()));
    let machine = Machine::new();
    let steps = machine.steps(&format!("[[step]]\nid = 'answer'\nphase = 'boot'\nwait = {{ http = '{page}' }}\n"));
    assert_eq!(machine.apply(&steps).ends_well().states(), ["answer in_sync"]);
    assert_eq!(server.connections(), 1);
}
