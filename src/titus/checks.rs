//! Health checks that only Titus needs.

use std::time::Duration;

use serde::Deserialize;

use super::instance_groups::ACTIVE;
use crate::host::Host;
use crate::host::command::Patience;
use crate::host::json::each_item;

const TRY: Duration = Duration::from_secs(10);

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The condition is met.
    Good(String),
    /// The condition is met, but the operator should read the message.
    Warning(String),
    /// The condition is not met.
    Bad(String),
    /// The check could not ask, or must not ask yet. The state is unknown, which is not good.
    NotAsked(String),
}

/// Checks that all groups are active.
pub fn check_groups(states: &[(&str, Option<String>)]) -> Finding {
    let message = |(name, state): &(&str, Option<String>)| match state {
        Some(state) => format!("{name} is {state}"),
        None => format!("{name} is unknown: no agent of it has registered"),
    };
    let text = states.iter().map(message).collect::<Vec<_>>().join(", ");
    if states.iter().all(|(_, state)| state.as_deref() == Some(ACTIVE)) {
        Finding::Good(text)
    } else {
        Finding::Bad(text)
    }
}

/// Checks that one of the masters, or the leader to which it redirects, lists this agent in `/slaves`.
pub fn check_registration(host: &Host, masters: &[String], address: &str, port: u16) -> Finding {
    let mut answers = Vec::new();
    let agent = format!("{address}:{port}");
    for master in masters {
        match agents(host, master, &agent) {
            Ok(Agents { has_it: true, .. }) => {
                return Finding::Good(format!("the Mesos master at {master} has the agent {agent}"));
            }
            Ok(Agents { count, .. }) => {
                answers.push(format!("{master} has {count} agents, but not {agent}"));
            }
            Err(answer) => answers.push(format!("{master}: {answer}")),
        }
    }
    if masters.is_empty() {
        answers.push("mesos.masters is empty".into());
    }
    Finding::Bad(format!("no Mesos master has this agent: {}", answers.join("; ")))
}

/// The agents of a master.
#[derive(Default)]
pub(crate) struct Agents {
    count: usize,
    /// Whether the agent in question is among them and active.
    has_it: bool,
}

/// One agent. Its `pid` is `slave(1)@10.0.0.1:5051`, the address that the agent itself advertises.
#[derive(Deserialize)]
struct Slave {
    pid: Option<String>,
    active: Option<bool>,
}

impl Slave {
    fn is_active_at(&self, agent: &str) -> bool {
        let pid = self.pid.as_deref().unwrap_or_default();
        self.active.unwrap_or(true) && pid.rsplit('@').next() == Some(agent)
    }
}

/// Counts the agents in a master's answer. Returns `None` if the answer has no list of agents.
///
/// # Errors
/// Fails when the answer is not JSON of this form.
pub(crate) fn count_agents(answer: impl std::io::Read, agent: &str) -> serde_json::Result<Option<Agents>> {
    let mut agents = Agents::default();
    let found = each_item(
        answer,
        |key| key == "slaves",
        |slave: Slave| {
            agents.count += 1;
            agents.has_it |= slave.is_active_at(agent);
        },
    )?;
    Ok(found.then_some(agents))
}

fn agents(host: &Host, master: &str, agent: &str) -> Result<Agents, String> {
    let ask = |url: &str| {
        let agent = agent.to_owned();
        host.http_get_json(url, TRY, move |answer| count_agents(answer, &agent)).map_err(|signal| signal.what).flatten()
    };
    let mut answer = ask(&format!("http://{master}/slaves"))?;
    // A master that is not the leader redirects to the leader: `Location: //host:5050/slaves`.
    if let (300..400, Some(location)) = (answer.status, answer.location.clone()) {
        let url = if location.starts_with("//") { format!("http:{location}") } else { location };
        if !url.starts_with("http://") {
            return Err(format!("redirects to {url}"));
        }
        answer = ask(&url)?;
    }
    if answer.status != 200 {
        return Err(format!("status {}", answer.status));
    }
    answer.read?.ok_or_else(|| "its answer has no list of agents".into())
}

/// The line in a Go program's output that explains a failure: the panic, which a trace of hundreds of lines follows,
/// else a fatal error, else the first logged error, else the last line.
pub(crate) fn decisive_line(output: &str) -> Option<&str> {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let starts = |words: &'static str| lines().find(|line| line.starts_with(words));
    let logged = || lines().find(|line| line.split(' ').any(|word| matches!(word, "level=error" | "level=fatal")));
    starts("panic:").or_else(|| starts("fatal error:")).or_else(logged).or_else(|| lines().next_back())
}

/// Checks that the driver on the node, which decides what it can attach, counts as this program does.
pub fn check_vpc_tool(host: &Host, ours: &str) -> Finding {
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
        None => Finding::Bad(format!("titus-vpc-tool did not print a resource set: {}", output.stdout.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_the_first_line_says_what_is_wrong() {
        let trace = "time=\"x\" level=info\npanic: Unknown subtype for family: m5\n\ngoroutine 1 [running]:\nmain.main()\n\t/x.go:1 +0x1\nexit status 2\n";
        assert_eq!(decisive_line(trace), Some("panic: Unknown subtype for family: m5"));
        assert_eq!(decisive_line("fatal error: x\ntrace"), Some("fatal error: x"));
        assert_eq!(decisive_line("one\nEC2MetadataError: 401\n\n"), Some("EC2MetadataError: 401"));
        // Lines after the first error only describe its consequences.
        let refused = "level=error msg=\"EC2MetadataError: status code: 401\" origin=aws";
        let log = format!("time=x level=info msg=a\n{refused}\nlevel=warning msg=b\nUnable to get the type\n");
        assert_eq!(decisive_line(&log), Some(refused));
        assert_eq!(decisive_line("time=x level=fatal msg=a\nb"), Some("time=x level=fatal msg=a"));
        assert_eq!(decisive_line("the level=errors\nb"), Some("b"));
        assert_eq!(decisive_line("\n"), None);
    }

    #[test]
    fn groups_are_good_while_all_are_active() {
        let state = |state: &str| Some(state.to_owned());
        let good = check_groups(&[("a", state("Active")), ("b", state("Active"))]);
        assert_eq!(good, Finding::Good("a is Active, b is Active".into()));
        let bad = check_groups(&[("a", state("Active")), ("b", state("Inactive"))]);
        assert_eq!(bad, Finding::Bad("a is Active, b is Inactive".into()));
        let bad = check_groups(&[("a", None)]);
        assert_eq!(bad, Finding::Bad("a is unknown: no agent of it has registered".into()));
    }

    #[test]
    fn an_agent_is_known_by_its_own_address_and_port() {
        let answer = |slaves: &str| format!(r#"{{"slaves": [{{}}, {slaves}], "recovered_slaves": []}}"#);
        let at = r#"{"id": "S0", "hostname": "other", "pid": "slave(1)@10.0.0.7:5051", "active": true}"#;
        let gone = r#"{"pid": "slave(1)@10.0.0.7:5051", "active": false}"#;
        for (slaves, agent, expected) in [
            (at, "10.0.0.7:5051", true),
            (at, "10.0.0.7:5052", false),
            (at, "0.0.0.7:5051", false),
            (gone, "10.0.0.7:5051", false),
            (r#"{"pid": "slave(1)@10.0.0.7:5051"}"#, "10.0.0.7:5051", true),
        ] {
            let agents = count_agents(answer(slaves).as_bytes(), agent).unwrap().unwrap();
            assert_eq!((agents.count, agents.has_it), (2, expected), "{slaves}");
        }
        assert!(count_agents(&b"{}"[..], "x").unwrap().is_none());
        assert!(count_agents(&b"<html>"[..], "x").is_err());
    }
}
