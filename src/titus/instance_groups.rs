//! Titus instance groups, through the gateway of this node (Titus's API v3, `agent/instanceGroups`).
//!
//! No task is scheduled on a group until somebody activates it; the Titus master forgets that at
//! each restart, and knows a group only once its first agent has registered.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::error::{Error, Kind, Result};
use crate::host::Host;

/// Where the gateway of this node answers.
pub const GATEWAY: &str = "http://localhost:7001";

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
    if answer.status == 404 {
        return Ok(None);
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
    format!("{GATEWAY}/api/v3/agent/instanceGroups/{}", encoded(name))
}

/// One segment of a path (RFC 3986, unreserved characters as they are).
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn no_answer(url: &str, answer: &str) -> Error {
    Error::new(Kind::TemporaryFailure, format!("{url}: the Titus gateway does not answer"))
        .cause(answer)
        .fix("see whether it runs: systemctl status titus-server-gateway")
}

/// The body of an answer that tells of success.
fn understood(url: &str, status: u16, body: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(body.get(..2048).unwrap_or(body)).into_owned();
    match status {
        200..=299 => Ok(text),
        // The gateway's master is restarted, or not there.
        502..=504 => Err(Error::new(Kind::TemporaryFailure, format!("{url}: status {status}"))
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

    #[test]
    fn a_name_is_one_segment_of_a_path() {
        assert_eq!(encoded("titusagent-v001_a.b"), "titusagent-v001_a.b");
        assert_eq!(encoded("a/../b?c d"), "a%2F..%2Fb%3Fc%20d");
    }

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(understood("u", 204, b"").unwrap(), "");
        assert_eq!(understood("u", 503, b"no master").unwrap_err().kind, Kind::TemporaryFailure);
        assert_eq!(understood("u", 400, &[0xff; 4096]).unwrap_err().kind, Kind::Failed);
    }
}
