//! Checks of values that several modules use, and types that check a value when it is read.

use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// Variables that control bash or the dynamic loader.
const OF_BASH: [&str; 15] = [
    "CDPATH",
    "ENV",
    "EUID",
    "GLOBIGNORE",
    "HOME",
    "IFS",
    "POSIXLY_CORRECT",
    "PATH",
    "PPID",
    "PROMPT_COMMAND",
    "PS4",
    "SHELL",
    "SHELLOPTS",
    "UID",
    "_",
];

/// Prefixes of the variables of bash, the dynamic loader, Titus and this program.
const OWN: [&str; 8] = ["BASH", "EC2_", "LD_", "MESOS_", "METATRON_", "NETFLIX_", "SHORT_CIRCUIT_", "TITUS_"];

/// The name of a variable that an operator may export: bash accepts it, and nothing else relies on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct EnvironmentName(String);

impl TryFrom<String> for EnvironmentName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if !is_word(&name, "_") || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("{name:?} cannot be the name of a variable: letters, digits and `_`, no digit first"));
        }
        if OF_BASH.contains(&name.as_str()) || OWN.iter().any(|own| name.starts_with(own)) {
            return Err(format!("{name} must not be set: bash, Titus or this program has a variable of that name"));
        }
        Ok(EnvironmentName(name))
    }
}

/// One line of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct Line(String);

impl TryFrom<String> for Line {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        if text.chars().any(char::is_control) {
            Err("a value has a line end or another control character")
        } else {
            Ok(Line(text))
        }
    }
}

/// The name of a role's own setting; templates can use it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String")]
pub struct VariableName(String);

impl VariableName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VariableName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        if !is_word(&name, "_") || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(format!("{name:?} cannot be the name in a template: letters, digits and `_`, no digit first"));
        }
        Ok(VariableName(name))
    }
}

/// The value of a role's own setting.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Variable(Json);

impl Variable {
    /// The type in words. The role's default determines the type that an operator's value must have.
    pub fn kind(&self) -> &'static str {
        match self.0 {
            Json::String(_) => "a text",
            Json::Number(_) => "a number",
            Json::Bool(_) => "true or false",
            _ => "a list of texts",
        }
    }
}

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Json::deserialize(deserializer)?;
        let is_line = |value: &Json| value.as_str().is_some_and(|text| !text.chars().any(char::is_control));
        let fits = match &value {
            Json::Array(list) => list.iter().all(is_line),
            Json::Number(_) | Json::Bool(_) => true,
            other => is_line(other),
        };
        if fits {
            Ok(Variable(value))
        } else {
            Err(D::Error::custom("a value is one line of text, a number, true, false, or a list of texts"))
        }
    }
}

/// Whether a text is a host name, an address, or an IPv6 address in brackets.
pub fn is_host(text: &str) -> bool {
    super::forms::Host::FORM.check(text).is_ok()
}

/// Parses a port that something can listen on.
pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+'))
}

/// Splits `host:port`.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, number) = text.rsplit_once(':')?;
    Some((host, port(number)?)).filter(|_| is_host(host))
}

/// Whether a text consists of letters, digits and characters of `also`.
pub fn is_word(text: &str, also: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_bash_takes_and_nobody_relies_on() {
        let of = |name: &str| EnvironmentName::try_from(name.to_owned());
        for name in ["A", "_a", "team", "QUITELITE", "A1", "PATHS", "ec2_region"] {
            of(name).unwrap();
        }
        for name in ["", "A B", "1A", "A-B", "A=B", "A.B", "é", "A\n", "$A"] {
            assert!(of(name).unwrap_err().contains("cannot be the name"), "{name}");
        }
        for name in [
            "PATH",
            "LD_PRELOAD",
            "BASH_ENV",
            "IFS",
            "UID",
            "BASHOPTS",
            "EC2_REGION",
            "NETFLIX_STACK",
            "SHORT_CIRCUIT_QUITELITE",
        ] {
            assert!(of(name).unwrap_err().contains("must not be set"), "{name}");
        }
    }

    #[test]
    fn what_the_program_exports_itself_is_refused() {
        let scripts = [
            include_str!("../../roles/files/executor-config.sh"),
            include_str!("../../roles/files/titus-environment.sh"),
        ];
        let lines = scripts.iter().flat_map(|text| text.lines());
        let names = lines.filter_map(|line| Some(line.strip_prefix("export ")?.split_once('=')?.0));
        let own: Vec<&str> = names.filter(|name| !name.contains("{{")).collect();
        assert!(own.len() > 10, "{own:?}");
        for name in own {
            assert!(EnvironmentName::try_from(name.to_owned()).is_err(), "{name}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_port("zk-1.internal:2181"), Some(("zk-1.internal", 2181)));
        for wrong in ["", "h", ":1", "h:", "h:0", "h:65536", "-h:1", "h i:1"] {
            assert_eq!(host_port(wrong), None, "{wrong}");
        }
    }
}
