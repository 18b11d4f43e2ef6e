//! Titus instance groups, reached through this node's gateway (Titus's API v3, `agent/instanceGroups`).
//!
//! Titus schedules no task on a group until somebody activates it. The Titus master forgets that at
//! each restart, and knows a group only once its first agent has registered.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::json::each_item;

/// The path of the list of groups.
const GROUPS: &str = "http://localhost:7001/api/v3/agent/instanceGroups";

/// The state in which Titus schedules tasks.
pub const ACTIVE: &str = "Active";

/// The time limit of a request: the gateway asks the master, which answers from memory.
const TRY: Duration = Duration::from_secs(10);

/// The state of a group: `Active`, `Inactive` or `Removable`; `None` if the Titus master does not know the group.
///
/// # Errors
/// Fails with 75 when the gateway or its master does not answer, and with 1 when the answer is not understood.
pub fn state(host: &Host, name: &str) -> Result<Option<String>> {
    let url = address(name);
    let ask = || {
        let asked = host.http_get_json(&url, TRY, |answer| serde_json::from_reader::<_, Group>(answer))?;
        asked.map_err(|answer| no_answer(&url, &answer))
    };
    let mut answer = ask()?;
    // rc.57 answers 500 for a group without a registered agent, but also for other failures.
    if answer.status == 500 {
        if !is_known(host, name)? {
            return Ok(None);
        }
        // Its first agent may have registered since the first question.
        answer = ask()?;
    }
    if answer.status == 404 {
        return Ok(None);
    }
    check_status(&url, answer.status, &answer.start)?;
    let wrong = |why: String| {
        Error::failed(format!("{url}: the answer has no lifecycleStatus.state"))
            .cause(why)
            .fix("check whether this gateway serves Titus's API v3")
    };
    let group = answer.read.map_err(wrong)?;
    let state = group.lifecycle_status.and_then(|status| status.state);
    state.map(Some).ok_or_else(|| wrong(answer.start))
}

/// The fields of a group that the program reads.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    id: Option<String>,
    lifecycle_status: Option<Status>,
}

#[derive(Deserialize)]
struct Status {
    state: Option<String>,
}

/// Whether the Titus master knows a group.
fn is_known(host: &Host, name: &str) -> Result<bool> {
    let wanted = name.to_owned();
    let asked = host.http_get_json(GROUPS, TRY, move |answer| has_group(answer, &wanted))?;
    let answer = asked.map_err(|answer| no_answer(GROUPS, &answer))?;
    check_status(GROUPS, answer.status, &answer.start)?;
    answer.read.map_err(|e| Error::failed(format!("{GROUPS}: cannot read the answer")).cause(e))
}

/// Whether a list of groups contains this one. The list is the document's only field, which is absent without groups.
///
/// # Errors
/// Fails when the answer is not JSON of this form.
pub(crate) fn has_group(answer: impl std::io::Read, name: &str) -> serde_json::Result<bool> {
    let mut has_it = false;
    each_item(answer, |_| true, |group: Group| has_it |= group.id.as_deref() == Some(name))?;
    Ok(has_it)
}

/// Activates a group that the Titus master knows.
///
/// # Errors
/// Fails for the reasons of [`state`].
pub fn activate(host: &Host, name: &str) -> Result<()> {
    let url = format!("{}/lifecycle", address(name));
    let wish = json!({ "instanceGroupId": name, "lifecycleState": ACTIVE });
    let answer = host.http_put(&url, &wish, TRY)?.map_err(|answer| no_answer(&url, &answer))?;
    check_status(&url, answer.status, &answer.start)
}

fn address(name: &str) -> String {
    format!("{GROUPS}/{}", encode(name))
}

/// Encodes a name as one segment of a path (RFC 3986; unreserved characters stay as they are).
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn no_answer(url: &str, answer: &str) -> Error {
    Error::not_yet(format!("{url}: the Titus gateway does not answer"))
        .cause(answer)
        .fix("check whether it runs: systemctl status titus-server-gateway")
}

/// Fails when the status of an answer reports a failure.
fn check_status(url: &str, status: u16, start: &str) -> Result<()> {
    match status {
        200..=299 => Ok(()),
        // Not yet: the gateway's master is restarting, not ready, or did not answer in time.
        408 | 429 | 502..=504 => Err(Error::not_yet(format!("{url}: status {status}"))
            .cause(start)
            .fix("check that the Titus master runs and that master.address is its address")),
        _ => {
            Err(Error::failed(format!("{url}: status {status}")).cause(start).fix("journalctl -u titus-server-gateway"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(encode("titusagent-v001_a.b"), "titusagent-v001_a.b");
        assert_eq!(encode("a/../b?c d"), "a%2F..%2Fb%3Fc%20d");
    }

    #[test]
    fn a_list_has_a_group_or_not() {
        let has = |text: &str| has_group(text.as_bytes(), "b").unwrap();
        assert!(has(r#"{ "agentInstanceGroups": [{ "id": "a", "lifecycleStatus": {} }, { "id": "b" }, {}] }"#));
        assert!(has(r#"[{ "id": "b" }]"#));
        for none in ["{}", r#"{ "agentInstanceGroups": "b" }"#, r#"{ "agentInstanceGroups": [{ "id": "ab" }] }"#] {
            assert!(!has(none), "{none}");
        }
    }

    #[test]
    fn answers_are_distinguished() {
        check_status("u", 204, "").unwrap();
        for not_yet in [408, 429, 502, 503, 504] {
            assert_eq!(check_status("u", not_yet, "no master").unwrap_err().kind, Kind::NotYet);
        }
        assert_eq!(check_status("u", 500, "INTERNAL").unwrap_err().kind, Kind::Failed);
        assert_eq!(check_status("u", 400, "").unwrap_err().kind, Kind::Failed);
    }
}
