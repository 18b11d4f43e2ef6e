//! `completions`, `man`, `version`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::run::report::{Reporter, say, say_document};
use crate::settings::did_you_mean;

/// The environment variable in which a completion script names its shell when it runs this program.
pub const COMPLETE: &str = "TITUS_BOOTSTRAP_COMPLETE";

/// The output of `completions --json`, `man --json` and `man --list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Printed {
    /// The output without `--json`.
    text: String,
}

fn print(reporter: Reporter, text: String) {
    if reporter.json {
        say_document(Printed { text });
    } else {
        say(&text);
    }
}

/// The output of `version --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Version {
    /// The version.
    version: &'static str,
    /// The commit that it was built from; null: unknown.
    commit: Option<&'static str>,
    /// The target that it was built for, e.g. `x86_64-unknown-linux-gnu`.
    target: &'static str,
    /// How it was built.
    build: Build,
}

/// How the program was built.
#[derive(Debug, Serialize, JsonSchema)]
struct Build {
    /// `release` or `debug`.
    profile: &'static str,
    /// The compiler.
    rustc: &'static str,
}

/// Prints a completion script, which runs this program to get completions.
///
/// # Errors
/// Fails when the script cannot be generated.
pub fn completions(reporter: Reporter, shell: clap_complete::Shell) -> Result<u8> {
    let shell = shell.to_string();
    let shells = clap_complete::env::Shells::builtins();
    let known = shells.completer(&shell).ok_or_else(|| Error::failed(format!("no completion script for {shell}")))?;
    let mut text = Vec::new();
    known
        .write_registration(COMPLETE, NAME, NAME, NAME, &mut text)
        .map_err(|e| Error::failed("the completion script cannot be made").cause(e))?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    if shell == "zsh" {
        text.push_str(ZSH_FIRST_CALL);
    }
    print(reporter, text);
    Ok(0)
}

const NAME: &str = "titus-bootstrap";

/// zsh loads the script from its fpath at the first completion. The script must also answer that first call.
const ZSH_FIRST_CALL: &str = "
if [[ $funcstack[1] == _titus-bootstrap ]]; then
    _clap_dynamic_completer_titus_bootstrap \"$@\"
fi
";

/// Prints the manual page of a command, or of the program.
///
/// # Errors
/// Fails with 64 when there is no such command.
pub fn manual(mut grammar: clap::Command, reporter: Reporter, words: &[String]) -> Result<u8> {
    grammar = grammar.disable_help_subcommand(true);
    grammar.build();
    let mut command = &grammar;
    for word in words {
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        command = command.find_subcommand(word).ok_or_else(|| {
            Error::new(Kind::Usage, format!("there is no command {:?}", words.join(" ")))
                .fix(did_you_mean(word, names.iter().copied()))
        })?;
    }
    let cannot = |e: std::io::Error| Error::failed("the manual page cannot be made").cause(e);
    let page = clap_mangen::Man::new(command.clone()).section("8");
    let mut text = Vec::new();
    page.render_title(&mut text)
        .and_then(|()| page.render_name_section(&mut text))
        .and_then(|()| page.render_synopsis_section(&mut text))
        .and_then(|()| page.render_description_section(&mut text))
        .and_then(|()| page.render_options_section(&mut text))
        .map_err(cannot)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)
            .and_then(|()| page.render_extra_section(&mut text))
            .map_err(cannot)?;
    }
    let mut text = String::from_utf8_lossy(&text).into_owned();
    for (title, entries) in [("FILES", FILES), ("ENVIRONMENT", ENVIRONMENT), ("EXIT STATUS", EXIT_STATUS)] {
        text.push_str(&format!(".SH {title:?}\n"));
        for (name, meaning) in entries {
            text.push_str(&format!(".TP\n\\fB{}\\fR\n{}\n", escaped(name), escaped(meaning)));
        }
    }
    print(reporter, text);
    Ok(0)
}

/// Prints the words of each command that has a manual page, one command on each line.
pub fn manuals(mut grammar: clap::Command, reporter: Reporter) -> u8 {
    let mut text = String::new();
    grammar = grammar.disable_help_subcommand(true);
    for command in grammar.get_subcommands() {
        text.push_str(&format!("{}\n", command.get_name()));
        for below in command.get_subcommands() {
            text.push_str(&format!("{} {}\n", command.get_name(), below.get_name()));
        }
    }
    print(reporter, text);
    0
}

/// Escapes a text for roff (groff(7)).
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

const FILES: &[(&str, &str)] = &[
    ("/etc/titus-bootstrap/config.toml", "Settings. An example is in /usr/share/doc/titus-bootstrap/examples."),
    ("/etc/titus-bootstrap/config.d/*.toml", "More of them, in the order of their names; --save writes 60-saved.toml."),
    ("/etc/titus-bootstrap/roles/", "Roles of the operator: ROLE.toml, drop-ins in ROLE.d, templates in files."),
    ("/var/log/titus-bootstrap/last.log", "The report of the last run."),
    ("/var/log/titus-bootstrap/last.json", "The same for programs."),
    ("/var/lib/titus-bootstrap/journal.jsonl", "What runs have changed."),
    ("/run/titus-bootstrap/status.json", "The state of the last run since this boot."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    ("NO_COLOR", "If it is set, there are no colours."),
    ("DOCKER_HOST", "Address of the Docker Engine's API, where docker.host is not set."),
    ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "The metadata service."),
    ("AWS_ENDPOINT_URL", "AWS's APIs; also with _EC2, _S3 or _AUTO_SCALING at its end for one of them."),
    ("SSL_CERT_FILE", "The certificates of authorities, instead of the system's."),
];

const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "A step or a health check failed, or a signal stopped the run."),
    ("2", "There are changes; only with plan --detailed-exitcode."),
    ("64", "The command line is wrong."),
    ("69", "The role cannot run on this machine."),
    ("75", "Not now: try again later."),
    ("77", "Not root."),
    ("78", "Settings, a role file or user data are wrong."),
];

/// Prints the version; as JSON, also what this binary was built from and how.
pub fn version(reporter: Reporter) -> u8 {
    let version = env!("CARGO_PKG_VERSION");
    if reporter.json {
        // Unknown outside a git checkout, and in a debug build.
        let commit = Some(env!("TITUS_BOOTSTRAP_COMMIT")).filter(|commit| !commit.is_empty());
        let build = Build { profile: env!("TITUS_BOOTSTRAP_PROFILE"), rustc: env!("TITUS_BOOTSTRAP_RUSTC") };
        say_document(Version { version, commit, target: env!("TITUS_BOOTSTRAP_TARGET"), build });
    } else {
        say(&format!("titus-bootstrap {version}\n"));
    }
    0
}
