//! The operator's command has done its work: its check succeeds, or the path that it creates exists.

use std::cell::RefCell;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::forms::{Path, is_path};
use super::{Change, Claim, Planned, RawKind, State, Work, package};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::command::{Output, Patience, borrow_variables};
use crate::secrets::{is_secret, learn_text};
use crate::settings::forms::Timeout;
use crate::template::{Renderer, Templated};

/// The default time limit of each of the two commands.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The maximum number of a command's output lines in a report.
const LINES: usize = 20;

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCommand {
    argv: Words,
    /// A command that changes nothing, and exits with 0 when there is nothing to do.
    check: Option<Words>,
    /// A path that exists when there is nothing to do.
    creates: Option<Templated<Path>>,
    /// The time limit of each command.
    timeout: Option<Templated<Timeout>>,
}

/// A command in a role file: one item for each word. No shell interprets them.
#[derive(Debug, Clone)]
struct Words(Vec<Templated<String>>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        let words = value.as_array().filter(|words| !words.is_empty() && words.iter().all(toml::Value::is_str));
        if words.is_none() {
            return Err(D::Error::custom(
                "a command is a list of texts, the program and its arguments: [\"/usr/local/sbin/disks\", \"--format\"]",
            ));
        }
        Vec::deserialize(value).map(Words).map_err(|e| D::Error::custom(e.message()))
    }
}

/// A command, and the evidence that its work is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    argv: Vec<String>,
    evidence: Evidence,
    timeout: Duration,
    /// The command's output, for the report of this run.
    printed: RefCell<Option<String>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Evidence {
    /// This command exits with 0.
    Check(Vec<String>),
    /// This path exists.
    Creates(String),
}

impl Words {
    fn get(&self, renderer: &Renderer) -> Result<Vec<String>> {
        let words = self.0.iter().map(|word| word.get(renderer)).collect::<Result<Vec<String>>>()?;
        let program = words.first().map_or("", String::as_str);
        let is_plain = !program.contains('/') && !program.is_empty();
        if program.contains(char::is_whitespace) || !is_plain && !is_path(program) {
            return Err(Error::config(format!("{program:?} is not a program"))
                .fix("write its absolute path or a plain name; write each argument as a separate item"));
        }
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Error::config(format!("an argument of {program} contains a NUL, which no program accepts")));
        }
        // Hide a secret wherever it is printed: in `--password WORD`, and in the program's output.
        for pair in words.windows(2) {
            if let [option, word] = pair
                && option.starts_with('-')
                && !option.contains('=')
                && is_secret(option.trim_start_matches('-'))
            {
                learn_text(word);
            }
        }
        Ok(words)
    }
}

impl RawCommand {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Command> {
        let timeout = self.timeout.as_ref().map_or(Ok(Timeout(TIMEOUT)), |timeout| timeout.get(renderer))?.0;
        if timeout.is_zero() {
            return Err(Error::config("a timeout of 0 leaves no time for the command")
                .fix("set a longer one, e.g. timeout = \"5m\""));
        }
        let evidence = match (&self.check, &self.creates) {
            (Some(check), None) => Evidence::Check(check.get(renderer)?),
            (None, Some(path)) => Evidence::Creates(path.get(renderer)?.0),
            _ => return Err(no_evidence()),
        };
        Ok(Command { argv: self.argv.get(renderer)?, evidence, timeout, printed: RefCell::default() })
    }
}

fn no_evidence() -> Error {
    Error::config("a command needs one of check, creates: otherwise nothing shows whether its work is done").fix(
        "write check = [\"/usr/local/sbin/disks\", \"--check\"], which must change nothing, or creates = \"/path\"",
    )
}

/// The result of a check.
enum Look {
    Done,
    /// Work is left, for this reason.
    Due(String),
    /// The program of the check does not exist.
    NoProgram(String),
}

impl Command {
    fn shown(&self) -> String {
        self.argv.join(" ")
    }

    fn run(&self, host: &Host, argv: &[String]) -> Result<Output> {
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        host.run_command(&argv, &borrow_variables(&host.environment_of_commands()), Patience::Ends, self.timeout)
    }

    /// Checks whether the work is done. Returns the check's output too.
    fn look(&self, host: &Host) -> Result<(Look, Option<Output>)> {
        let check = match &self.evidence {
            Evidence::Creates(path) => {
                let is_there = host.entry(path)?.is_some();
                return Ok((if is_there { Look::Done } else { Look::Due(format!("{path} does not exist")) }, None));
            }
            Evidence::Check(check) => check,
        };
        let program = check.first().map_or("", String::as_str);
        if !host.has_command(program)? {
            return Ok((Look::NoProgram(program.to_owned()), None));
        }
        let output = self.run(host, check)?;
        let look = if output.status.success() {
            Look::Done
        } else {
            Look::Due(format!("`{}` ended with {}", output.command, output.status))
        };
        Ok((look, Some(output)))
    }

    fn change(&self, why: &str) -> State {
        State::Changes(vec![Change::new(format!("run `{}` ({why})", self.shown()))])
    }
}

impl Work for Command {
    fn explain(&self) -> Vec<String> {
        let evidence = match &self.evidence {
            Evidence::Check(argv) => format!("`{}` does not end with 0", crate::secrets::masked(&argv.join(" "))),
            Evidence::Creates(path) => format!("{path} is not there"),
        };
        let command = crate::secrets::masked(&self.shown());
        let limit = humantime::format_duration(self.timeout);
        vec![format!("Runs `{command}` when {evidence}. It may take {limit}, then the run fails.")]
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        if let Evidence::Check(check) = &self.evidence {
            if !host.is_live() {
                return Ok(State::Deferred("commands are not run with --root".into()));
            }
            // The result of the new check is not known yet.
            if check.first().is_some_and(|program| planned.contains_key(program)) {
                return Ok(self.change("an earlier step writes its check"));
            }
        }
        Ok(match self.look(host)?.0 {
            Look::Done => State::InSync(self.printed.borrow().clone()),
            Look::Due(_) if !host.is_live() => State::Deferred("commands are not run with --root".into()),
            Look::Due(why) => self.change(&why),
            Look::NoProgram(program) if planned.contains_key(package::STATUS) => {
                self.change(&format!("its check {program} does not exist yet"))
            }
            Look::NoProgram(program) => {
                State::Blocked(format!("{program} does not exist: an earlier step must provide it"))
            }
        })
    }

    fn converge(&self, host: &Host) -> Result<()> {
        if !host.is_live() {
            return Ok(());
        }
        tracing::info!("running `{}`", self.shown());
        let output = self.run(host, &self.argv);
        // The command may have changed packages and units.
        host.forget_packages();
        let output = output?.succeeded()?;
        let (look, check) = self.look(host)?;
        let why = match look {
            Look::Done => {
                *self.printed.borrow_mut() = Some(output.tail(LINES)).filter(|tail| !tail.is_empty());
                return Ok(());
            }
            Look::Due(why) => why,
            Look::NoProgram(program) => format!("{program} does not exist"),
        };
        let printed = [Some(output), check].into_iter().flatten().map(|output| output.tail(LINES));
        let printed = printed.filter(|tail| !tail.is_empty()).collect::<Vec<_>>().join("\n");
        Err(Error::failed(format!("`{}` ended with exit status: 0, but its work is not done: {why}", self.shown()))
            .cause(if printed.is_empty() { "it printed nothing" } else { &printed })
            .fix("fix the command or its check, and run titus-bootstrap again: it continues here"))
    }

    /// The contents are not known yet.
    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(self.file().map(|path| (path.to_owned(), Vec::new())))
    }

    fn file(&self) -> Option<&str> {
        match &self.evidence {
            Evidence::Creates(path) => Some(path),
            Evidence::Check(_) => None,
        }
    }

    fn claims(&self) -> Vec<Claim> {
        // It may make a directory.
        self.file()
            .map(|path| Claim::of_directory(path, format!("what `{}` makes", self.shown())))
            .into_iter()
            .collect()
    }
}

impl RawKind for RawCommand {
    fn refuse(&self) -> Result<()> {
        if self.check.is_some() == self.creates.is_some() { Err(no_evidence()) } else { Ok(()) }
    }

    fn can_restart(&self) -> bool {
        self.creates.is_some()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_without_evidence_is_refused_when_it_is_read() {
        let refused = |keys: &str| toml::from_str::<RawCommand>(&format!("argv = ['x']\n{keys}")).unwrap().refuse();
        refused("").unwrap_err();
        refused("check = ['y']\ncreates = '/x'").unwrap_err();
        refused("check = ['y']").unwrap();
        refused("creates = '/x'").unwrap();
    }

    fn resolve(keys: &str) -> Result<Command> {
        let raw: RawCommand = crate::step::loaded(keys)?;
        raw.resolve(&Renderer::new(json!({ "disk": "/dev/nvme1n1", "words": "a 'b'", "empty": "" })))
    }

    #[test]
    fn a_word_is_one_argument_whatever_is_in_it() {
        let command =
            resolve("argv = ['/sbin/x', '{{ disk }}', '{{ words }}', '$HOME; y', '{{ empty }}']\ncreates = '/x'");
        assert_eq!(command.unwrap().argv, ["/sbin/x", "/dev/nvme1n1", "a 'b'", "$HOME; y", ""]);
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for (keys, words) in [
            ("argv = '/sbin/x -y'\ncreates = '/x'", "a command is a list of texts"),
            ("argv = []\ncreates = '/x'", "a command is a list of texts"),
            ("argv = ['x', 1]\ncreates = '/x'", "a command is a list of texts"),
            ("argv = ['x']\ncheck = 'x'", "a command is a list of texts"),
            ("argv = ['x']\ncheck = []", "a command is a list of texts"),
            ("argv = ['/sbin/x -y']\ncreates = '/x'", "\"/sbin/x -y\" is not a program"),
            ("argv = ['']\ncreates = '/x'", "\"\" is not a program"),
            ("argv = ['{{ empty }}']\ncreates = '/x'", "\"\" is not a program"),
            ("argv = ['./x']\ncreates = '/x'", "\"./x\" is not a program"),
            ("argv = ['bin/x']\ncreates = '/x'", "\"bin/x\" is not a program"),
            ("argv = ['/sbin/../x']\ncreates = '/x'", "is not a program"),
            ("argv = ['x', \"a\\u0000b\"]\ncreates = '/x'", "contains a NUL"),
            ("argv = ['x']\ncreates = 'x'", "\"x\" is not an absolute path"),
            ("argv = ['x']", "needs one of check, creates"),
            ("argv = ['x']\ncheck = ['x']\ncreates = '/x'", "needs one of check, creates"),
            ("argv = ['x']\ncreates = '/x'\ntimeout = '0s'", "a timeout of 0"),
            ("argv = ['x']\ncreates = '/x'\ntimeout = 5", "a length of time in quotes"),
            ("argv = ['x']\ncreates = '/x'\ntimeout = '8d'", "longer than a week"),
            ("creates = '/x'", "missing field `argv`"),
        ] {
            let refused = resolve(keys).unwrap_err().to_string();
            assert!(refused.contains(words), "{keys}: {refused}");
        }
    }

    #[test]
    fn below_a_root_nothing_is_run() {
        let (_directory, host) = Host::temporary();
        for keys in ["argv = ['false']\ncreates = '/x'", "argv = ['false']\ncheck = ['false']"] {
            let step = resolve(keys).unwrap();
            assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Deferred(_)));
            step.converge(&host).unwrap();
        }
        host.write("/x", b"", 0o644, crate::host::fs::Owner::ROOT).unwrap();
        let step = resolve("argv = ['false']\ncreates = '/x'").unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
    }
}
