//! Health checks that only Titus needs.

use std::time::Duration;

use serde_json::Value;

use super::instance_groups::ACTIVE;
use crate::host::Host;
use crate::host::command::Patience;

const TRY: Duration = Duration::from_secs(10);

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is satisfied.
    Good(String),
    /// It is satisfied, and something should be known.
    Warning(String),
    /// It is not.
    Bad(String),
}

/// Whether all groups are active.
pub fn active(states: &[(&str, Option<String>)]) -> Finding {
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
pub fn registered(host: &Host, masters: &[String], address: &str, port: u16) -> Finding {
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
    let mut answer = host.http_get(&format!("http://{master}/slaves"), TRY).map_err(|signal| signal.what).flatten()?;
    // A master that is not the leader sends to it: `Location: //host:5050/slaves`.
    if let (300..400, Some(location)) = (answer.status, answer.location.clone()) {
        let url = if location.starts_with("//") { format!("http:{location}") } else { location };
        if !url.starts_with("http://") {
            return Err(format!("redirects to {url}"));
        }
        answer = host.http_get(&url, TRY).map_err(|signal| signal.what).flatten()?;
    }
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    let document: Value = serde_json::from_slice(&answer.body).map_err(|e| format!("no JSON: {e}"))?;
    document.get("slaves").and_then(Value::as_array).cloned().ok_or_else(|| "its answer has no agents".into())
}

/// The line of a Go program's output that says what is wrong: the panic, which a trace of hundreds of lines follows,
/// else a fatal error, else the first error that it logged, else the last line.
fn decisive_line(output: &str) -> Option<&str> {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let starts = |words: &'static str| lines().find(|line| line.starts_with(words));
    let logged = || lines().find(|line| line.split(' ').any(|word| matches!(word, "level=error" | "level=fatal")));
    starts("panic:").or_else(|| starts("fatal error:")).or_else(logged).or_else(|| lines().next_back())
}

/// `pid` is `slave(1)@10.0.0.1:5051`: the address that the agent itself advertises.
fn is_agent(slave: &Value, address: &str, port: u16) -> bool {
    let pid = slave.get("pid").and_then(Value::as_str).unwrap_or_default();
    let active = slave.get("active").and_then(Value::as_bool).unwrap_or(true);
    active && pid.rsplit('@').next() == Some(format!("{address}:{port}").as_str())
}

/// Whether the driver on the node, which is the authority on what it can attach, counts as we do.
pub fn vpc_tool(host: &Host, ours: &str) -> Finding {
    let argv = ["/apps/titus-executor/bin/titus-vpc-tool", "genconf", "--resource-sets-only"];
    let output = match host.run_command(&argv, &[], Patience::Ends, Duration::from_secs(60)) {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            let why = decisive_line(&output.both).unwrap_or("it printed nothing");
            return Finding::Bad(format!("`{}` failed ({}): {why}", argv.join(" "), output.status));
        }
        Err(error) => return Finding::Bad(error.to_string()),
    };
    let theirs = output
        .stdout
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .find(|word| word.starts_with("ResourceSet-"));
    match theirs {
        Some(theirs) if theirs == ours => Finding::Good(format!("titus-vpc-tool says {theirs} too")),
        Some(theirs) => Finding::Warning(format!(
            "titus-vpc-tool says {theirs}, the agent offers {ours} (setting agent.resource_set; \"schedulable\" counts as the tool does)"
        )),
        None => Finding::Bad(format!("titus-vpc-tool named no resource set: {}", output.stdout.trim())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_panic_the_first_line_says_what_is_wrong() {
        let trace = "time=\"x\" level=info\npanic: Unknown subtype for family: m5\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1\nexit status 2\n";
        assert_eq!(decisive_line(trace), Some("panic: Unknown subtype for family: m5"));
        assert_eq!(decisive_line("fatal error: x\ntrace"), Some("fatal error: x"));
        assert_eq!(decisive_line("one\nEC2MetadataError: 401\n\n"), Some("EC2MetadataError: 401"));
        // What follows the first error of a log only says what it led to.
        let refused = "level=error msg=\"EC2MetadataError: status code: 401\" origin=aws";
        let log = format!("time=x level=info msg=a\n{refused}\nlevel=warning msg=b\nUnable to get the type\n");
        assert_eq!(decisive_line(&log), Some(refused));
        assert_eq!(decisive_line("time=x level=fatal msg=a\nb"), Some("time=x level=fatal msg=a"));
        assert_eq!(decisive_line("the level=errors\nb"), Some("b"));
        assert_eq!(decisive_line("\n"), None);
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
