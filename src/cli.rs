//! The command line.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::commands;
use crate::error::{Error, Kind, Result};
use crate::host::signals;
use crate::run::report::{ErrorReport, Reporter};
use crate::secrets::masked;

/// Brings an EC2 instance into the state that its Titus role describes.
///
/// Without a command it finds the node's role, from --role, the settings or the instance's
/// tags, and runs the role's steps: the same as `apply`. Running it again changes nothing.
#[derive(Debug, Parser)]
#[command(name = "titus-bootstrap", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    apply: Apply,
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
}

const AFTER_HELP: &str = "Examples:
  titus-bootstrap --role agent                              on an EC2 instance, as root
  titus-bootstrap plan --role agent                         what that would change
  titus-bootstrap --role agent --sample --root ./node       on built-in facts, into a directory
  titus-bootstrap config template --role agent              the settings that a role needs

Exit codes: 0 done; 1 a step or check failed; 2 changes (plan --detailed-exitcode);
64 wrong command line; 69 this role cannot run here; 75 try again later; 77 not root;
78 wrong settings. From 64 on, nothing was changed.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The role, instead of what settings and tags say; for an image (--phase bake) may be repeated
    #[arg(long, global = true, value_name = "ROLE", help_heading = "Options of every command")]
    pub role: Vec<String>,
    /// Write below this directory and touch nothing else
    #[arg(long, global = true, value_name = "DIR", help_heading = "Options of every command")]
    pub root: Option<PathBuf>,
    /// One more settings file, above all others
    #[arg(long, global = true, value_name = "FILE", help_heading = "Options of every command")]
    pub config: Option<PathBuf>,
    /// One setting, as agent.log_bucket=my-logs; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Options of every command")]
    pub set: Vec<String>,
    /// Facts from a print of `facts --json` instead of the instance
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "sample",
        help_heading = "Options of every command"
    )]
    pub facts: Option<PathBuf>,
    /// Built-in facts (an m4.large in eu-west-1a) and settings
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub sample: bool,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// How messages on standard error look
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, help_heading = "Options of every command")]
    pub log_format: LogFormat,
    /// Say more
    #[arg(short, long, global = true, help_heading = "Options of every command")]
    pub verbose: bool,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Options of every command")]
    pub quiet: bool,
    /// No colours; so does the environment variable NO_COLOR
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub no_color: bool,
}

/// Formats of messages on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}

/// Phases that a run can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// What is the same on every node: while an image is built.
    Bake,
    /// What depends on this instance.
    Boot,
    /// Both.
    All,
}

/// Which steps.
#[derive(Debug, Clone, Args)]
pub struct Steps {
    /// Which steps: of the image, of this instance, or both
    #[arg(long, value_enum, default_value_t = Phase::All)]
    pub phase: Phase,
    /// A settings file; its path contains a `/`. User data that begins with `#!` is one
    #[arg(value_name = "CONFIG")]
    pub user_data: Option<PathBuf>,
}

/// Makes the node so.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// Which steps.
    #[command(flatten)]
    pub steps: Steps,
    /// Change nothing, show what would be done: the same as `plan`
    #[arg(long)]
    pub dry_run: bool,
    /// Keep the role and the --set values for the next boot
    #[arg(long)]
    pub save: bool,
    /// As the boot unit runs it: waits for another run, reboots if one is due, and an image without a role is no failure
    #[arg(long)]
    pub at_boot: bool,
    /// How long to wait for another run, as 90s or 15m [default: 0s; at boot and from user data 15m]
    #[arg(long, value_name = "TIME", value_parser = length_of_time)]
    pub lock_wait: Option<Duration>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the role's steps; the default
    Apply(Apply),
    /// Show what `apply` would change, and change nothing
    Plan {
        #[command(flatten)]
        steps: Steps,
        /// End with 2 if there are changes
        #[arg(long)]
        detailed_exitcode: bool,
    },
    /// Show the last run, and what drifts now
    Status {
        /// Wait for a run that is at work, or that the boot unit is about to begin
        #[arg(long)]
        wait: bool,
    },
    /// Run the role's health checks
    Verify,
    /// Look after what must be kept so for ever; for its timer
    Keep,
    /// Remove what a builder leaves in an image, then search all of it; the last command of a build
    Seal {
        /// Remove nothing, only search
        #[arg(long)]
        check: bool,
    },
    /// Make Titus instance groups active, through the gateway of this node
    Activate {
        /// As titusagent
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Check settings and roles, offline and without root
    Check {
        /// Settings files, or role files (those with a `[[step]]`)
        files: Vec<PathBuf>,
    },
    /// Print what is known of the instance and the machine
    Facts,
    /// Show the settings
    #[command(subcommand)]
    Config(Config),
    /// Tell where a value came from and what it was made of
    Why {
        /// role, a fact, a setting, titus.resources, an attribute or resource as res, or a name in a file of the role
        key: String,
    },
    /// Show the roles
    #[command(subcommand)]
    Role(Role),
    /// Print the network numbers of an instance type
    InstanceType {
        /// As m4.large
        name: String,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
    /// Print the version
    Version,
}

/// What to show of the settings.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Every value with its source
    Show,
    /// A commented file with what the role of --role needs
    Template,
    /// A JSON Schema
    Schema,
}

/// What to show of the roles.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// All roles
    List,
    /// A role's file
    Show {
        /// As agent
        name: String,
    },
}

impl Global {
    /// How a report is printed.
    pub fn reporter(&self) -> Reporter {
        let colour = !self.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Reporter { json: self.json, quiet: self.quiet, verbose: self.verbose, colour }
    }

    /// The role of --role, or the first.
    pub fn role(&self) -> Option<&str> {
        self.role.first().map(String::as_str)
    }

    /// Whether what is said meanwhile is for people, and wanted.
    pub fn reports_to_people(&self) -> bool {
        !self.json && !self.quiet && matches!(self.log_format, LogFormat::Text)
    }
}

/// The command line's grammar, for completions and the manual page.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Runs the program; returns its exit code.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let arguments = split_shebang(arguments);
    let roles = arguments.iter().take_while(|word| *word != "--").filter(|word| is_role_flag(word)).count();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                0
            } else {
                Kind::Usage.exit_code()
            };
            return code;
        }
    };
    listen(&cli.global);
    let log_format = cli.global.log_format;
    let result = refuse_lost_roles(&cli, roles).and_then(|()| signals::listen()).and_then(|()| dispatch(cli));
    match result {
        Ok(code) => code,
        Err(error) => {
            let told = ErrorReport::from(&error);
            match log_format {
                LogFormat::Text => eprintln!("titus-bootstrap: {}", masked(&error.to_string())),
                LogFormat::Json => {
                    tracing::error!(exit_code = told.exit_code, cause = told.cause, fix = told.fix, "{}", told.what)
                }
            }
            error.kind.exit_code()
        }
    }
}

fn is_role_flag(word: &OsString) -> bool {
    word.to_str().is_some_and(|word| word == "--role" || word.starts_with("--role="))
}

/// What stands before a command is dropped by clap when the same stands after it.
fn refuse_lost_roles(cli: &Cli, given: usize) -> Result<()> {
    if cli.global.role.len() == given {
        return Ok(());
    }
    Err(usage("--role stands before the command and after it", "put each --role after the command"))
}

/// Several roles share an image, never a node.
fn refuse_several_roles(cli: &Cli) -> Result<()> {
    let (phase, save) = match &cli.command {
        None => (Some(cli.apply.steps.phase), cli.apply.save),
        Some(Command::Apply(apply)) => (Some(apply.steps.phase), apply.save),
        Some(Command::Plan { steps, .. }) => (Some(steps.phase), false),
        Some(_) => (None, false),
    };
    if cli.global.role.len() <= 1 {
        return Ok(());
    }
    if phase != Some(Phase::Bake) {
        return Err(usage(
            "--role is given more than once",
            "a node has one role; an image may have several: titus-bootstrap apply --phase bake --role agent --role master",
        ));
    }
    if save {
        return Err(usage("--save keeps one role, and --role is given more than once", "leave --save out"));
    }
    Ok(())
}

fn dispatch(cli: Cli) -> Result<u8> {
    refuse_several_roles(&cli)?;
    let global = &cli.global;
    let Some(command) = cli.command else {
        return commands::apply::run(global, &checked(cli.apply)?);
    };
    let top = &cli.apply;
    if top.dry_run
        || top.save
        || top.at_boot
        || top.lock_wait.is_some()
        || top.steps.user_data.is_some()
        || top.steps.phase != Phase::All
    {
        return Err(usage(
            "options of apply stand before another command",
            "put the command first, its options after it",
        ));
    }
    match command {
        Command::Apply(apply) => commands::apply::run(global, &checked(apply)?),
        Command::Plan { steps, detailed_exitcode } => {
            commands::plan::run(global, &checked_steps(steps)?, detailed_exitcode)
        }
        Command::Status { wait } => commands::status::run(global, wait),
        Command::Verify => commands::verify::run(global),
        Command::Keep => commands::keep::run(global),
        Command::Seal { check } => commands::seal::run(global, check),
        Command::Activate { names } => commands::activate::run(global, &names),
        Command::Check { files } => commands::check::run(global, &files),
        Command::Facts => commands::facts::run(global),
        Command::Why { key } => commands::why::run(global, &key),
        Command::Config(which) => commands::config::run(global, &which),
        Command::Role(which) => commands::role::run(global, &which),
        Command::InstanceType { name } => commands::instance_type::run(global, &name),
        Command::Completions { shell } => {
            commands::print::completions(shell);
            Ok(0)
        }
        Command::Man => commands::print::manual(),
        Command::Version => {
            commands::print::version(global.json);
            Ok(0)
        }
    }
}

fn checked(mut apply: Apply) -> Result<Apply> {
    apply.steps = checked_steps(apply.steps)?;
    Ok(apply)
}

/// A bare word is a misspelt command, not a settings file: it would run apply.
fn checked_steps(steps: Steps) -> Result<Steps> {
    if let Some(path) = &steps.user_data {
        let shown = path.display().to_string();
        if !shown.contains('/') {
            let names: Vec<String> = grammar().get_subcommands().map(|c| c.get_name().to_owned()).collect();
            let fix = crate::settings::did_you_mean(&shown, names.iter().map(String::as_str));
            return Err(usage(
                &format!("there is no command {shown:?}"),
                &format!("{fix}\nA settings file is named with a `/` in its path: ./{shown}"),
            ));
        }
    }
    Ok(steps)
}

fn length_of_time(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if length > Duration::from_secs(7 * 24 * 3600) { Err("longer than a week".into()) } else { Ok(length) }
}

fn usage(what: &str, fix: &str) -> Error {
    Error::new(Kind::Usage, what).fix(fix)
}

/// `#!/usr/bin/titus-bootstrap --role agent` reaches us as one argument `--role agent`
/// and the script's path (execve(2)): it is split if the next one is such a script.
fn split_shebang(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let [_, words, script, ..] = arguments.as_slice() else { return arguments };
    let Some(words) = words.to_str().filter(|text| text.contains(' ')) else { return arguments };
    let mut start = [0; 2];
    let is_script =
        std::fs::File::open(script).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!";
    if is_script {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        arguments.splice(1..2, words);
    }
    arguments
}

fn listen(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, true) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false);
    // Only a second subscriber in one process could make this fail.
    let _ = match global.log_format {
        LogFormat::Json => tracing::subscriber::set_global_default(subscriber.json().finish()),
        LogFormat::Text => tracing::subscriber::set_global_default(subscriber.without_time().with_ansi(false).finish()),
    };
}
