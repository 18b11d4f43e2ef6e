//! `verify`: the role's health checks. What cannot be reached is a failure, never skipped.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Global, Phase, Steps};
use crate::error::{Error, Kind, Result};
use crate::health::Question;
use crate::host::Host;
use crate::host::command::{self, Patience};
use crate::report::{SCHEMA_VERSION, say};
use crate::step::instance_group::ACTIVE;

const TRY: Duration = Duration::from_secs(10);

/// What a check found.
enum Finding {
    Good(String),
    Warning(String),
    Bad(String),
}

/// Runs all checks; 1 if one is not satisfied.
///
/// # Errors
/// When settings or facts cannot be had.
pub fn run(global: &Global) -> Result<u8> {
    let mut host = super::host(global)?;
    if !host.is_live() {
        return Err(Error::new(Kind::Usage, "verify asks a live node, and --root is none").fix("leave --root out"));
    }
    let prepared = super::prepare(global, &mut host, &Steps { phase: Phase::All, user_data: None })?;
    let checks = prepared.role.checks(&prepared.renderer, &prepared.settings, &prepared.facts)?;
    let mut failed = Vec::new();
    let mut told = Vec::new();
    for check in &checks {
        let (word, text) = match ask(&host, &check.question)? {
            Finding::Good(text) => ("good", text),
            Finding::Warning(text) => ("warning", text),
            Finding::Bad(text) => {
                failed.push(check.id.as_str());
                ("failed", text)
            }
        };
        if !global.json && !global.quiet {
            say(&format!("{word:<8} {:<14} {text}\n", check.id));
        }
        told.push(json!({ "id": check.id, "state": word, "text": text }));
    }
    if global.json {
        let document = json!({ "schema_version": SCHEMA_VERSION, "command": "verify", "role": prepared.role.name, "satisfied": failed.is_empty(), "checks": told });
        say(&format!("{document:#}\n"));
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(Error::failed(format!(
        "{}: {} of {} checks failed: {}",
        prepared.role.name,
        failed.len(),
        checks.len(),
        failed.join(", ")
    ))
    .fix("see each line above; then run titus-bootstrap again"))
}

fn ask(host: &Host, question: &Question) -> Result<Finding> {
    Ok(match question {
        Question::UnitActive(name) => {
            let unit = host.unit(name)?;
            let text = format!("{name} is {} ({})", unit.active, unit.sub);
            if unit.is_active() {
                Finding::Good(text)
            } else {
                Finding::Bad(format!("{text}\n{}", host.unit_journal(name)))
            }
        }
        Question::Answers(wait) => match wait.ask(host) {
            Ok(()) => Finding::Good(format!("asked {}: it does", wait.what())),
            Err(answer) => Finding::Bad(format!("asked {}: {answer}", wait.what())),
        },
        Question::Container(name) => container(host, name),
        Question::InstanceGroups(groups) => match groups.states(host) {
            Ok(states) => active(&states),
            Err(error) => Finding::Bad(error.to_string()),
        },
        Question::MesosAgent { masters, address, port } => registered(host, masters, address, *port),
        Question::VpcTool(ours) => vpc_tool(ours)?,
    })
}

fn container(host: &Host, name: &str) -> Finding {
    let found = match host.engine() {
        Ok(engine) => engine.container(name).map_err(|error| error.to_string()),
        Err(answer) => Err(answer),
    };
    match found {
        Ok(Some(found)) if found.is_running() && crate::step::container::is_ours(&found) => {
            Finding::Good(format!("the container {name} is running, from {}", found.image))
        }
        Ok(Some(found)) if found.is_running() => {
            Finding::Bad(format!("a container {name} is running that titus-bootstrap did not make"))
        }
        Ok(Some(found)) => Finding::Bad(format!("the container {name} is {}", found.told())),
        Ok(None) => Finding::Bad(format!("there is no container {name}")),
        Err(answer) => Finding::Bad(answer),
    }
}

fn active(states: &[(&str, Option<String>)]) -> Finding {
    let told = |(name, state): &(&str, Option<String>)| match state {
        Some(state) => format!("{name} is {state}"),
        None => format!("{name} is unknown: no agent of it has registered"),
    };
    let text = states.iter().map(told).collect::<Vec<_>>().join(", ");
    if states.iter().all(|(_, state)| state.as_deref() == Some(ACTIVE)) {
        Finding::Good(text)
    } else {
        Finding::Bad(text)
    }
}

/// Whether one of the masters, or the leader that it names, has this agent in `/slaves`.
fn registered(host: &Host, masters: &[String], address: &str, port: u16) -> Finding {
    let mut answers = Vec::new();
    for master in masters {
        match slaves(host, master) {
            Ok(slaves) if slaves.iter().any(|slave| is_agent(slave, address, port)) => {
                return Finding::Good(format!("the Mesos master at {master} has the agent {address}:{port}"));
            }
            Ok(slaves) => {
                answers.push(format!("{master} has {} agents, {address}:{port} is none of them", slaves.len()))
            }
            Err(answer) => answers.push(format!("{master}: {answer}")),
        }
    }
    if masters.is_empty() {
        answers.push("mesos.masters is empty".into());
    }
    Finding::Bad(format!("no Mesos master has this agent: {}", answers.join("; ")))
}

fn slaves(host: &Host, master: &str) -> Result<Vec<Value>, String> {
    let mut answer = host.http_get(&format!("http://{master}/slaves"), TRY)?;
    // A master that is not the leader sends to it: `Location: //host:5050/slaves`.
    if let (300..400, Some(location)) = (answer.status, answer.location.clone()) {
        let url = if location.starts_with("//") { format!("http:{location}") } else { location };
        if !url.starts_with("http://") {
            return Err(format!("redirects to {url}"));
        }
        answer = host.http_get(&url, TRY)?;
    }
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let document: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("no JSON: {e}"))?;
    document.get("slaves").and_then(Value::as_array).cloned().ok_or_else(|| "its answer has no agents".into())
}

/// `pid` is `slave(1)@10.0.0.1:5051`: the address that the agent itself advertises.
fn is_agent(slave: &Value, address: &str, port: u16) -> bool {
    let pid = slave.get("pid").and_then(Value::as_str).unwrap_or_default();
    let active = slave.get("active").and_then(Value::as_bool).unwrap_or(true);
    active && pid.rsplit('@').next() == Some(format!("{address}:{port}").as_str())
}

/// The driver on the node is the authority on what it can attach.
fn vpc_tool(ours: &str) -> Result<Finding> {
    let argv = ["/apps/titus-executor/bin/titus-vpc-tool", "genconf", "--resource-sets-only"];
    let output =
        match command::run(&argv, &[], Patience::Ends, Duration::from_secs(60)).and_then(command::Output::succeeded) {
            Ok(output) => output,
            Err(error) => return Ok(Finding::Bad(error.to_string())),
        };
    let theirs = output
        .stdout
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .find(|word| word.starts_with("ResourceSet-"));
    Ok(match theirs {
        Some(theirs) if theirs == ours => Finding::Good(format!("titus-vpc-tool says {theirs} too")),
        Some(theirs) => Finding::Warning(format!(
            "titus-vpc-tool says {theirs}, the agent offers {ours} (setting agent.resource_set; \"schedulable\" counts as the tool does)"
        )),
        None => Finding::Bad(format!("titus-vpc-tool named no resource set: {}", output.stdout.trim())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_known_by_its_own_address_and_port() {
        let slave = json!({ "id": "S0", "hostname": "other", "pid": "slave(1)@10.0.0.7:5051", "active": true });
        assert!(is_agent(&slave, "10.0.0.7", 5051));
        assert!(!is_agent(&slave, "10.0.0.7", 5052));
        assert!(!is_agent(&slave, "0.0.0.7", 5051));
        assert!(!is_agent(&json!({ "pid": "slave(1)@10.0.0.7:5051", "active": false }), "10.0.0.7", 5051));
        assert!(!is_agent(&json!({}), "10.0.0.7", 5051));
    }
}
