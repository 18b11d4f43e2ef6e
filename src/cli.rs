//! The grammar of the command line, and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

/// Brings an EC2 instance into the state that its Titus role describes.
///
/// Without a command it does the same as `apply`: it finds the role of the node (from --role, the
/// settings or the instance's tags) and runs the steps of that role. A second run changes nothing.
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
  titus-bootstrap --role agent                              configure an EC2 instance, as root
  titus-bootstrap plan --role agent                         show what that would change
  titus-bootstrap --role agent --sample --root ./node       try it on built-in facts, in a directory
  titus-bootstrap config template --role agent              list the settings that a role needs

Exit codes: 0 done; 1 a step or check failed; 2 changes (plan --detailed-exitcode);
64 wrong command line; 69 this role cannot run here; 75 try again later; 77 not root;
78 wrong settings. From 64 on, nothing was changed, except by a 75 that waits for another node.";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The role; overrides settings and tags. May be repeated for an image (--phase bake)
    #[arg(long, global = true, value_name = "ROLE", help_heading = "Options of every command")]
    pub role: Vec<String>,
    /// Write below this directory and touch nothing else
    #[arg(long, global = true, value_name = "DIR", help_heading = "Options of every command")]
    pub root: Option<PathBuf>,
    /// A further settings file, which overrides all others
    #[arg(long, global = true, value_name = "FILE", help_heading = "Options of every command")]
    pub config: Option<PathBuf>,
    /// One setting, e.g. agent.log_bucket=my-logs; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", help_heading = "Options of every command")]
    pub set: Vec<String>,
    /// Read facts from a file that `facts --json` printed, instead of asking the instance
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with = "sample",
        help_heading = "Options of every command"
    )]
    pub facts: Option<PathBuf>,
    /// Use built-in facts (an m4.large in eu-west-1a) and settings
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub sample: bool,
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub json: bool,
    /// Format of the messages on standard error
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, help_heading = "Options of every command")]
    pub log_format: LogFormat,
    /// Print more messages
    #[arg(short, long, global = true, help_heading = "Options of every command")]
    pub verbose: bool,
    /// Print only errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Options of every command")]
    pub quiet: bool,
    /// Print no colours; the environment variable NO_COLOR does the same
    #[arg(long, global = true, help_heading = "Options of every command")]
    pub no_color: bool,
}

/// Formats of messages on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document per line.
    Json,
}

/// Phases that a run can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Phase {
    /// Steps that are the same on every node, for an image.
    Bake,
    /// Steps that depend on this instance.
    Boot,
    /// Both.
    All,
}

/// Which steps.
#[derive(Debug, Clone, Args)]
pub struct Steps {
    /// Which steps to run
    #[arg(long, value_enum, default_value_t = Phase::All)]
    pub phase: Phase,
    /// Run only these steps; such a run is partial, and never counts as converged
    #[arg(long, value_name = "STEP", num_args = 1.., value_delimiter = ',')]
    pub only: Vec<String>,
    /// Run all steps except these; such a run is partial, too
    #[arg(long, value_name = "STEP", num_args = 1.., value_delimiter = ',')]
    pub skip: Vec<String>,
    /// A settings file, or user data that begins with `#!`; its path contains a `/`
    #[arg(value_name = "CONFIG")]
    pub user_data: Option<PathBuf>,
}

/// Makes the node so.
#[derive(Debug, Clone, Args)]
pub struct Apply {
    /// Which steps.
    #[command(flatten)]
    pub steps: Steps,
    /// Change nothing, and show what the run would do: the same as `plan`
    #[arg(long)]
    pub dry_run: bool,
    /// Keep the role and the --set values for the next boot
    #[arg(long)]
    pub save: bool,
    /// Run as the boot unit does: wait for another run, reboot if that is due, and accept an image without a role
    #[arg(long, conflicts_with_all = ["only", "skip"])]
    pub at_boot: bool,
    /// How long to wait for another run, e.g. 90s or 15m [default: 0s; at boot and from user data 15m]
    #[arg(long, value_name = "TIME", value_parser = length_of_time)]
    pub lock_wait: Option<Duration>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the role's steps; this is the default command
    #[command(
        after_help = "Examples:\n  titus-bootstrap apply --role agent              as root, on the instance\n  titus-bootstrap apply --phase bake --role agent  in an image\n  titus-bootstrap apply --role agent --only docker  a part of the role\n  titus-bootstrap apply --role agent --sample --root ./node  into a directory"
    )]
    Apply(Apply),
    /// Show what `apply` would change, and change nothing
    #[command(
        after_help = "Examples:\n  titus-bootstrap plan --role agent               on the instance\n  titus-bootstrap plan --role agent --sample      on any machine\n  titus-bootstrap plan --role agent --detailed-exitcode  2 if there are changes\n  titus-bootstrap plan --fleet ./facts.jsonl      several nodes"
    )]
    Plan {
        /// Which steps.
        #[command(flatten)]
        steps: Steps,
        /// End with 2 if there are changes
        #[arg(long)]
        detailed_exitcode: bool,
        /// Show each step, those that are in sync too
        #[arg(long)]
        all: bool,
        /// Plan the nodes of this file of facts, each as a tree with nothing in it, and print a table
        #[arg(long, value_name = "FILE", conflicts_with_all = ["sample", "facts", "root"])]
        fleet: Option<PathBuf>,
    },
    /// Show how the last run ended, and any current drift
    #[command(
        after_help = "Examples:\n  titus-bootstrap status\n  titus-bootstrap status --last                   without network\n  titus-bootstrap status --wait --json            for programs"
    )]
    Status {
        /// Wait for a run that is in progress, or that the boot unit is about to start
        #[arg(long)]
        wait: bool,
        /// Show only the records on disk; do not look at the node
        #[arg(long)]
        last: bool,
        /// What took how long in the last run that changed something, as bars
        #[arg(long, conflicts_with_all = ["wait", "last"])]
        timeline: bool,
        /// Write what was found to this file, for node_exporter's textfile collector
        #[arg(long, value_name = "FILE", value_parser = absolute_path, conflicts_with_all = ["last", "timeline"])]
        metrics: Option<String>,
    },
    /// List the runs that changed something, or show one of them
    #[command(
        after_help = "Examples:\n  titus-bootstrap logs                            all, newest last\n  titus-bootstrap logs last                       the newest\n  titus-bootstrap logs 3 --json                   one of the list"
    )]
    Logs {
        /// Its number in the list, its name, or last
        run: Option<String>,
    },
    /// Make one file for a ticket: facts, settings, status, plan, journals and versions, without secrets
    #[command(
        after_help = "Examples:\n  titus-bootstrap report                          in this directory\n  titus-bootstrap report /root/ticket.tar.gz\n  titus-bootstrap report --svg boot.svg           what took how long, as a picture"
    )]
    Report {
        /// The new archive, a tar.gz [default: in this directory, with this machine's name and the time]
        file: Option<PathBuf>,
        /// Instead of the archive, draw what took how long in the last run that changed something, in this file
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        svg: Option<PathBuf>,
    },
    /// Run the role's health checks
    #[command(
        after_help = "Examples:\n  titus-bootstrap verify\n  titus-bootstrap verify --role agent --json      for programs"
    )]
    Verify,
    /// Keep Titus instance groups active; for a timer
    #[command(after_help = "Examples:\n  titus-bootstrap keep                            what its timer runs")]
    Keep,
    /// Remove the traces of the builder from an image, and search it for more; the last command of a build
    #[command(
        after_help = "Examples:\n  titus-bootstrap seal                            the last command of a build\n  titus-bootstrap seal --check                    removes nothing"
    )]
    Seal {
        /// Only search; remove nothing
        #[arg(long)]
        check: bool,
    },
    /// Make Titus instance groups active, through the gateway of this node
    #[command(after_help = "Examples:\n  titus-bootstrap activate titusagent")]
    Activate {
        /// Name of an instance group, e.g. titusagent
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Check settings and roles offline and without root: everything that a run can refuse without looking at the machine
    #[command(
        after_help = "Examples:\n  titus-bootstrap check                           /etc/titus-bootstrap\n  titus-bootstrap check ./config.toml ./my-role.toml  your own files"
    )]
    Check {
        /// Settings files, role files (those with a `[[step]]`), or user data, in place of /etc/titus-bootstrap
        files: Vec<PathBuf>,
    },
    /// Print the facts of the instance and the machine, with their sources
    #[command(
        after_help = "Examples:\n  titus-bootstrap facts\n  titus-bootstrap facts --json                    for --facts\n  titus-bootstrap facts --sample --instance-type r4.8xlarge  a made-up instance"
    )]
    Facts {
        /// With --sample: facts of an instance of this type
        #[arg(long, value_name = "TYPE", requires = "sample")]
        instance_type: Option<String>,
    },
    /// Show the settings
    #[command(subcommand)]
    #[command(
        after_help = "Examples:\n  titus-bootstrap config show --role agent        each value and its source\n  titus-bootstrap config template --role agent    a file to begin with"
    )]
    Config(Config),
    /// Explain where a value came from
    #[command(
        after_help = "Examples:\n  titus-bootstrap why agent.log_bucket            a setting\n  titus-bootstrap why instance.region             a fact\n  titus-bootstrap why res --role agent            an attribute"
    )]
    Why {
        /// A fact, a setting, `role`, `titus.resources`, an attribute or resource such as res, or a name in a file of the role
        key: String,
    },
    /// Print a file as the role would write it on this node
    #[command(after_help = "Examples:\n  titus-bootstrap render /etc/mesos-attributes.sh --role agent")]
    Render {
        /// A path that a step of the role writes, e.g. /etc/mesos-attributes.sh
        path: String,
    },
    /// Say in words what a step keeps, when it restarts what, and when it runs
    #[command(
        after_help = "Examples:\n  titus-bootstrap explain docker --role agent     a step\n  titus-bootstrap explain mesos-agent.service --role agent  the steps of a unit"
    )]
    Explain {
        /// The id of a step of the role, e.g. docker, or the unit, package or path that it keeps
        step: String,
    },
    /// Show the roles
    #[command(subcommand)]
    #[command(after_help = "Examples:\n  titus-bootstrap role list\n  titus-bootstrap role show agent")]
    Role(Role),
    /// Print the network numbers of an instance type
    #[command(after_help = "Examples:\n  titus-bootstrap instance-type m4.large")]
    InstanceType {
        /// An instance type, e.g. m4.large
        name: String,
    },
    /// Print the JSON Schema of an output, or list them
    #[command(
        after_help = "Examples:\n  titus-bootstrap schema                          the names of all schemas\n  titus-bootstrap schema plan                     the schema of `plan --json`"
    )]
    Schema {
        /// Name of an output, e.g. plan, config-show, error or event
        name: Option<String>,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  titus-bootstrap completions bash                a script for ~/.bashrc")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page of the program or of a command, in roff
    #[command(
        after_help = "Examples:\n  titus-bootstrap man                             the page of the program\n  titus-bootstrap man config show                 that of a command\n  titus-bootstrap man --list"
    )]
    Man {
        /// List the commands that have a page
        #[arg(long, conflicts_with = "command")]
        list: bool,
        /// A command, e.g. apply or config show
        #[arg(value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Print the version
    #[command(
        after_help = "Examples:\n  titus-bootstrap version\n  titus-bootstrap version --json                  with the commit"
    )]
    Version,
}

/// What to show of the settings.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print every value with its source
    #[command(
        after_help = "Examples:\n  titus-bootstrap config show --role agent\n  titus-bootstrap config show --json              for programs"
    )]
    Show,
    /// Print a commented file with the settings of the role
    #[command(after_help = "Examples:\n  titus-bootstrap config template --role agent")]
    Template,
    /// Print a JSON Schema of the settings
    #[command(after_help = "Examples:\n  titus-bootstrap config schema                   for an editor")]
    Schema,
}

/// What to show of the roles.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// List the roles
    #[command(
        after_help = "Examples:\n  titus-bootstrap role list\n  titus-bootstrap role list --json                for programs"
    )]
    List,
    /// Print a role's file
    #[command(after_help = "Examples:\n  titus-bootstrap role show agent")]
    Show {
        /// A role, e.g. agent
        name: String,
    },
}

/// The command line's grammar, for completions, the manual page and tests.
pub fn grammar() -> clap::Command {
    Cli::command()
}

fn absolute_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("not an absolute path".into()) }
}

fn length_of_time(text: &str) -> Result<Duration, String> {
    let length = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    if length > Duration::from_secs(7 * 24 * 3600) { Err("longer than a week".into()) } else { Ok(length) }
}
