//! Durations.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{FIX, MUST, WHY};

/// A duration, e.g. "90s" or "5m".
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct Timeout(pub Duration);

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TimeoutText)
    }
}

struct TimeoutText;

impl Visitor<'_> for TimeoutText {
    type Value = Timeout;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time such as \"90s\" or \"5m\"")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Timeout, E> {
        let wrong = |why: &str, fix: Option<String>| {
            let fix = fix.map_or_else(String::new, |fix| format!("{FIX}{fix}"));
            E::custom(format!("{MUST}a length of time, e.g. `90s` or `5m`{WHY}{text:?} {why}{fix}"))
        };
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = || is_number.then(|| format!("write `{text}s`"));
        let duration = humantime::parse_duration(text)
            .map_err(|_| wrong("is not a length of time such as \"90s\" or \"5m\"", seconds()))?;
        if duration > Duration::from_secs(7 * 24 * 3600) {
            return Err(wrong("is longer than a week", None));
        }
        Ok(Timeout(duration))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Timeout, E> {
        Err(E::custom(format!("{MUST}a length of time in quotes, e.g. `\"90s\"`{FIX}write `\"{number}s\"`")))
    }
}
