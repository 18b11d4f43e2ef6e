//! Forms of values that more than one place asks about, and types that are checked when they are read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Variables by which bash, or the loader of what it starts, works.
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

/// What the names of bash's, the loader's, Titus's and this program's own variables begin with.
const OWN: [&str; 8] = ["BASH", "EC2_", "LD_", "MESOS_", "METATRON_", "NETFLIX_", "SHORT_CIRCUIT_", "TITUS_"];

/// The name of a variable that an operator may export: bash takes it, and nobody else relies on it.
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

/// Whether a text is a host name or an address.
pub fn is_host(text: &str) -> bool {
    is_word(text, ".-:") && !text.starts_with('-')
}

/// A port that something can listen to.
pub fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

/// The host and the port of `host:port`.
pub fn host_port(text: &str) -> Option<(&str, u16)> {
    let (host, number) = text.rsplit_once(':')?;
    Some((host, port(number)?)).filter(|_| is_host(host))
}

/// Whether a text has letters and digits, those of `also`, and nothing else.
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
