//! Titus instance groups, through the gateway of this node (Titus's API v3, `agent/instanceGroups`).
//!
//! No task is scheduled on a group until somebody activates it; the Titus master forgets that at
//! each restart, and knows a group only once its first agent has registered.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::error::{Error, Result};
use crate::host::Host;

/// The list of groups.
const GROUPS: &str = "http://localhost:7001/api/v3/agent/instanceGroups";

/// The state that tasks are scheduled in.
pub const ACTIVE: &str = "Active";

/// The gateway asks the master, and that answers from memory.
const TRY: Duration = Duration::from_secs(10);

/// The state of a group: `Active`, `Inactive`, `Removable`; `None`: the Titus master does not know it.
///
/// # Errors
/// 75 when the gateway or its master does not answer; 1 when the answer cannot be understood.
pub fn state(host: &Host, name: &str) -> Result<Option<String>> {
    let url = address(name);
    let answer = host.http_get(&url, TRY)?.map_err(|answer| no_answer(&url, &answer))?;
    match answer.status {
        404 => return Ok(None),
        // rc.57 answers 500 for a group that no agent has registered for; other failures are 500, too.
        500 if !known(host)?.iter().any(|known| known == name) => return Ok(None),
        _ => {}
    }
    let text = understood(&url, answer.status, &answer.body)?;
    let document: Json = serde_json::from_str(&text).unwrap_or_default();
    let state = document.pointer("/lifecycleStatus/state").and_then(Json::as_str).map(str::to_owned);
    let state = state.ok_or_else(|| {
        Error::failed(format!("{url}: the answer has no lifecycleStatus.state"))
            .cause(text)
            .fix("see whether this gateway serves Titus's API v3")
    })?;
    Ok(Some(state))
}

/// The ids of the groups that the Titus master knows.
fn known(host: &Host) -> Result<Vec<String>> {
    let answer = host.http_get(GROUPS, TRY)?.map_err(|answer| no_answer(GROUPS, &answer))?;
    understood(GROUPS, answer.status, &answer.body)?;
    let document: Json = serde_json::from_slice(&answer.body)
        .map_err(|e| Error::failed(format!("{GROUPS}: the answer is not JSON")).cause(e))?;
    Ok(ids(&document))
}

/// The ids in a list of groups. The list is the document's one field; without a group it has none.
fn ids(document: &Json) -> Vec<String> {
    let lists = document.as_object().into_iter().flat_map(|fields| fields.values()).filter_map(Json::as_array);
    let groups = document.as_array().into_iter().chain(lists).flatten();
    groups.filter_map(|group| Some(group.get("id")?.as_str()?.to_owned())).collect()
}

/// Makes a group that the Titus master knows active.
///
/// # Errors
/// As [`state`].
pub fn activate(host: &Host, name: &str) -> Result<()> {
    let url = format!("{}/lifecycle", address(name));
    let wish = json!({ "instanceGroupId": name, "lifecycleState": ACTIVE });
    let answer = host.http_put(&url, &wish, TRY)?.map_err(|answer| no_answer(&url, &answer))?;
    understood(&url, answer.status, &answer.body).map(drop)
}

fn address(name: &str) -> String {
    format!("{GROUPS}/{}", encoded(name))
}

/// One segment of a path (RFC 3986, unreserved characters as they are).
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn no_answer(url: &str, answer: &str) -> Error {
    Error::not_yet(format!("{url}: the Titus gateway does not answer"))
        .cause(answer)
        .fix("see whether it runs: systemctl status titus-server-gateway")
}

/// The body of an answer that tells of success.
fn understood(url: &str, status: u16, body: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(body.get(..2048).unwrap_or(body)).into_owned();
    match status {
        200..=299 => Ok(text),
        // Not yet: the gateway's master is restarted, not ready, or did not answer in time.
        408 | 429 | 502..=504 => Err(Error::not_yet(format!("{url}: status {status}"))
            .cause(text)
            .fix("see whether the Titus master runs, and whether master.address is its address")),
        _ => {
            Err(Error::failed(format!("{url}: status {status}")).cause(text).fix("journalctl -u titus-server-gateway"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(encoded("titusagent-v001_a.b"), "titusagent-v001_a.b");
        assert_eq!(encoded("a/../b?c d"), "a%2F..%2Fb%3Fc%20d");
    }

    #[test]
    fn a_list_has_its_ids_and_none_is_no_field() {
        let two = json!({ "agentInstanceGroups": [{ "id": "a", "lifecycleStatus": {} }, { "id": "b" }, {}] });
        assert_eq!(ids(&two), ["a", "b"]);
        assert_eq!(ids(&json!([{ "id": "a" }])), ["a"]);
        assert_eq!(ids(&json!({})), [""; 0]);
        assert_eq!(ids(&json!({ "agentInstanceGroups": "x" })), [""; 0]);
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(understood("u", 204, b"").unwrap(), "");
        for not_yet in [408, 429, 502, 503, 504] {
            assert_eq!(understood("u", not_yet, b"no master").unwrap_err().kind, Kind::NotYet);
        }
        assert_eq!(understood("u", 500, b"INTERNAL").unwrap_err().kind, Kind::Failed);
        assert_eq!(understood("u", 400, &[0xff; 4096]).unwrap_err().kind, Kind::Failed);
    }
}
