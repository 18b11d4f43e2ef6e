//! The grammar of the command line, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Brings an EC2 instance into the state that its Titus role describes.
///
/// Without a command it finds the node's role, from --role, the settings or the instance's
/// tags, and runs the role's steps: the same as `apply`. Running it again changes nothing.
#[derive(Debug, Parser)]
#[command(name = "titus-bootstrap", bin_name = "titus-bootstrap", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `apply`, which needs no name.
    #[command(flatten)]
    pub apply: Apply,
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
78 wrong settings. From 64 on, nothing was changed, but by a 75 that waits for another node.";

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

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the role's steps; the default
    Apply(Apply),
    /// Show what `apply` would change, and change nothing
    Plan {
        /// Which steps.
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

/// The command line's grammar, for completions and the manual page.
pub fn grammar() -> clap::Command {
    Cli::command()
}

fn length_of_time(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if length > Duration::from_secs(7 * 24 * 3600) { Err("longer than a week".into()) } else { Ok(length) }
}
