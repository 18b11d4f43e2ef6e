//! `verify`: the role's health checks. What cannot be reached is a failure, never skipped.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Prepared;
use crate::cli::{Global, Phase, Steps};
use crate::ec2::api::{Api, Bucket, Failure};
use crate::ec2::imds;
use crate::error::{Error, Kind, Result};
use crate::host::command::{Output, Patience};
use crate::host::{Host, signals};
use crate::run::report::{SCHEMA_VERSION, say};
use crate::step::health::{Check, Finding, Question};

const TRY: Duration = Duration::from_secs(10);

/// Between two rounds of checks that are waited for.
const PAUSE: Duration = Duration::from_secs(2);

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
    let mut checks = prepared.checks()?;
    if let Some(why) = prepared.put_off() {
        // What is put off is not there to be asked.
        checks.clear();
        if !global.json && !global.quiet {
            say(&format!("{why}; until then it is not asked\n"));
        }
    }
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
        let document = json!({ "schema_version": SCHEMA_VERSION, "command": "verify", "role": prepared.role.name, "warm_pool": prepared.warm_pool(), "satisfied": failed.is_empty(), "checks": told });
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

impl Prepared {
    fn checks(&self) -> Result<Vec<Check>> {
        self.role.checks(&self.renderer, &self.settings, &self.facts)
    }
}

/// Asks a role's checks again and again, until each has been satisfied once.
///
/// # Errors
/// When the deadline for waits is over, with those that are not; or a signal came.
pub fn wait(host: &Host, prepared: &Prepared) -> Result<()> {
    let (mut checks, began) = (prepared.checks()?, Instant::now());
    loop {
        host.forget_units();
        let mut failing = Vec::new();
        for check in checks {
            match ask(host, &check.question)? {
                Finding::Good(_) => {}
                Finding::Warning(text) => tracing::warn!("{}: {text}", check.id),
                Finding::Bad(text) => failing.push((check, text)),
            }
        }
        if failing.is_empty() {
            return Ok(());
        }
        if signals::interrupted() {
            return Err(signals::interruption());
        }
        if began.elapsed() >= host.deadlines.wait {
            return Err(not_satisfied(&failing, host.deadlines.wait));
        }
        std::thread::sleep(PAUSE);
        checks = failing.into_iter().map(|(check, _)| check).collect();
    }
}

fn not_satisfied(failing: &[(Check, String)], waited: Duration) -> Error {
    let ids: Vec<&str> = failing.iter().map(|(check, _)| check.id.as_str()).collect();
    let texts: Vec<String> = failing.iter().map(|(check, text)| format!("{}: {text}", check.id)).collect();
    let waited = humantime::format_duration(waited);
    Error::failed(format!("waited {waited} for its health checks; still failing: {}", ids.join(", ")))
        .cause(texts.join("\n"))
        .fix("mend the cause, and see titus-bootstrap verify; the setting timeouts.wait gives them longer")
}

fn ask(host: &Host, question: &Question) -> Result<Finding> {
    Ok(match question {
        Question::Kept(kept) => kept.ask(host)?,
        Question::MesosAgent { masters, address, port } => registered(host, masters, address, *port),
        Question::VpcTool(ours) => vpc_tool(host, ours)?,
        Question::LogBucket { name, region } => {
            let asked = imds::Endpoint::from_env()
                .and_then(|imds| Api::new(&imds, region, &host.proxy, TRY))
                .map_err(Failure::from)
                .and_then(|mut api| api.bucket(name));
            log_bucket(name, region, asked)
        }
    })
}

/// Never a failure: the agent runs without, but the logs of its containers have no place.
fn log_bucket(name: &str, region: &str, asked: Result<Bucket, Failure>) -> Finding {
    let lost = "the logs of containers will be lost";
    match asked {
        Ok(Bucket::There) => Finding::Good(format!("the bucket {name} is there")),
        Ok(Bucket::Forbidden) => Finding::Good(format!(
            "the bucket {name} is there, or another account's: this instance may not list it, and need not"
        )),
        Ok(Bucket::Missing) => {
            Finding::Warning(format!("there is no bucket {name} (setting agent.log_bucket): {lost}"))
        }
        Ok(Bucket::Elsewhere) => {
            Finding::Warning(format!("the bucket {name} (setting agent.log_bucket) is in another region than {region}"))
        }
        // There is nobody to sign for.
        Err(failure) if failure.is_denied() => {
            Finding::Good(format!("the bucket {name} was not asked for: this instance has no credentials"))
        }
        Err(failure) => {
            let cause = failure.error.cause.map_or(String::new(), |cause| format!(": {cause}"));
            Finding::Warning(format!(
                "whether the bucket {name} is there is not known, and if it is not, {lost}: {}{cause}",
                failure.error.what
            ))
        }
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
fn vpc_tool(host: &Host, ours: &str) -> Result<Finding> {
    let argv = ["/apps/titus-executor/bin/titus-vpc-tool", "genconf", "--resource-sets-only"];
    let output = match host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(60)).and_then(Output::succeeded)
    {
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
    fn a_log_bucket_that_is_not_there_is_a_warning_that_names_it() {
        let found = |asked| match log_bucket("my-logs", "eu-west-1", asked) {
            Finding::Good(text) => ("good", text),
            Finding::Warning(text) => ("warning", text),
            Finding::Bad(text) => ("failed", text),
        };
        let has = |asked, word, words: &str| {
            let (state, text) = found(asked);
            assert!(state == word && text.contains("my-logs") && text.contains(words), "{state}: {text}");
        };
        let failure = |code: Option<&str>| Failure {
            code: code.map(str::to_owned),
            error: Error::new(Kind::TemporaryFailure, "S3 gave no answer within 10s").cause("no way there"),
        };
        has(Ok(Bucket::There), "good", "is there");
        has(Ok(Bucket::Forbidden), "good", "need not");
        has(Ok(Bucket::Missing), "warning", "logs of containers will be lost");
        has(Ok(Bucket::Elsewhere), "warning", "another region than eu-west-1");
        has(Err(failure(Some("NoInstanceProfile"))), "good", "no credentials");
        has(Err(failure(None)), "warning", "S3 gave no answer within 10s: no way there");
    }

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
