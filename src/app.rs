//! Parses, listens for signals and dispatches: alone knows both the grammar and the commands.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Apply, Cli, Command, Config, Global, LogFormat, Phase, Role, Steps, grammar};
use crate::commands;
use crate::error::{Error, Kind, Result};
use crate::host::fs::peek_named;
use crate::host::signals;
use crate::prepare::{FactSource, FirstLine, Phases, Request};
use crate::run::report::{ErrorReport, Reporter};
use crate::run::{Options, Trigger};
use crate::terminal::{self, Form, Messages};

/// Runs the program; returns its exit code. What was asked for and could not be printed is a failure, too.
pub fn run(arguments: Vec<OsString>) -> u8 {
    let code = run_command(arguments);
    match terminal::lost() {
        Some(why) if code == 0 || code == commands::plan::CHANGES => {
            terminal::write_error(&format!("titus-bootstrap: standard output cannot be written\n  cause: {why}\n"));
            Kind::Failed.exit_code()
        }
        _ => code,
    }
}

fn run_command(arguments: Vec<OsString>) -> u8 {
    let arguments = split_shebang(arguments);
    let words: Vec<OsString> = arguments.iter().take_while(|word| *word != "--").cloned().collect();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is the grammar's own text. An error has the user's words in it, and no colours.
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                terminal::remember(error.print());
                return 0;
            }
            terminal::write_error(&error.render().to_string());
            return Kind::Usage.exit_code();
        }
    };
    log(&cli.global);
    let log_format = cli.global.log_format;
    match signals::listen().and_then(|()| refuse_lost_options(&cli, &words)).and_then(|()| dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            let reported = ErrorReport::from(&error);
            match log_format {
                LogFormat::Text => terminal::write_error(&format!("titus-bootstrap: {error}\n")),
                LogFormat::Json => {
                    let ErrorReport { exit_code, what, cause, fix } = reported;
                    tracing::error!(exit_code, cause, fix, "{what}");
                }
            }
            error.kind.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<u8> {
    refuse_several_roles(&cli)?;
    let Cli { command, apply: top, global } = cli;
    let Some(command) = command else { return apply(&global, top) };
    refuse_misplaced_options(&top)?;
    let reporter = reporter(&global);
    let whole = request(&global, None);
    match command {
        Command::Apply(arguments) => apply(&global, arguments),
        Command::Plan { steps, detailed_exitcode } => {
            commands::plan::run(&request(&global, Some(checked(steps)?)), reporter, detailed_exitcode)
        }
        Command::Status { wait } => commands::status::run(&whole, reporter, wait),
        Command::Verify => commands::verify::run(&whole, reporter),
        Command::Keep => commands::keep::run(&Request { phases: Phases::Keep, ..whole }, reporter),
        Command::Seal { check } => commands::seal::run(&whole, reporter, check),
        Command::Activate { names } => commands::activate::run(&whole, reporter, &names),
        Command::Check { files } => commands::check::run(&whole, reporter, &files),
        Command::Facts => commands::facts::run(&whole, reporter),
        Command::Why { key } => commands::why::run(&whole, reporter, &key),
        Command::Config(Config::Show) => commands::config::show(&whole, reporter),
        Command::Config(Config::Template) => commands::config::print_template(&whole),
        Command::Config(Config::Schema) => Ok(commands::config::schema()),
        Command::Role(Role::List) => commands::role::list(&whole, reporter),
        Command::Role(Role::Show { name }) => commands::role::show(&whole, &name),
        Command::InstanceType { name } => commands::instance_type::run(&whole, reporter, &name),
        Command::Completions { shell } => Ok(commands::print::completions(grammar(), shell)),
        Command::Man => commands::print::manual(grammar()),
        Command::Version => Ok(commands::print::version(reporter)),
    }
}

fn apply(global: &Global, arguments: Apply) -> Result<u8> {
    let Apply { steps, dry_run, save, at_boot, lock_wait } = arguments;
    let steps = checked(steps)?;
    let script = steps.user_data.as_deref().filter(|path| is_user_data(path));
    let trigger = match (at_boot, script) {
        (true, _) => Trigger::Boot,
        (false, Some(path)) => Trigger::of_script(path),
        (false, None) => Trigger::Person,
    };
    let request = request(global, Some(steps));
    if dry_run {
        return commands::plan::run(&request, reporter(global), false);
    }
    commands::apply::run(&request, reporter(global), Options { trigger, lock_wait, save })
}

/// What the command line asks for; without `steps`, of all phases.
fn request(global: &Global, steps: Option<Steps>) -> Request {
    let (phase, user_data) = steps.map_or((Phase::All, None), |steps| (steps.phase, steps.user_data));
    Request {
        roles: global.role.clone(),
        phases: match phase {
            Phase::Bake => Phases::Bake,
            Phase::Boot => Phases::Boot,
            Phase::All => Phases::All,
        },
        root: global.root.clone(),
        user_data,
        config: global.config.clone(),
        set: global.set.clone(),
        facts: match &global.facts {
            _ if global.sample => FactSource::Sample,
            Some(path) => FactSource::File(path.clone()),
            None => FactSource::Instance,
        },
        draws_progress: !global.json && !global.quiet && global.log_format == LogFormat::Text,
        first_line,
    }
}

/// `--role` and `--set` on the `#!` line of user data. Anything else is honoured only where a kernel starts us with that
/// line, and a run of the boot unit would do something else than the line says.
fn first_line(words: &[&str]) -> Result<FirstLine> {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.split_once('=').map_or((*word, false), |(name, _)| (name, true)) {
            ("--role" | "--set", true) => {}
            ("--role" | "--set", false) => drop(rest.next()),
            _ => {
                return Err(Error::config(format!("user data: {word:?} on its first line is not honoured"))
                    .fix("only --role and --set can stand there: leave it out, or put settings below that line"));
            }
        }
    }
    let cli = Cli::try_parse_from(std::iter::once("titus-bootstrap").chain(words.iter().copied()))
        .map_err(|e| Error::config("user data: the words on its first line cannot be read").cause(e.render()))?;
    Ok(FirstLine { roles: cli.global.role, set: cli.global.set })
}

/// How a report is printed.
fn reporter(global: &Global) -> Reporter {
    let colour = !global.no_color && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Reporter { json: global.json, quiet: global.quiet, verbose: global.verbose, colour }
}

fn log(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => tracing::Level::ERROR,
        (_, true) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let form = match global.log_format {
        LogFormat::Json => Form::Json,
        LogFormat::Text => Form::Text,
    };
    let subscriber =
        tracing_subscriber::fmt().with_max_level(level).with_writer(move || Messages(form)).with_target(false);
    // Only a second subscriber in one process could make this fail.
    let _ = match global.log_format {
        LogFormat::Json => tracing::subscriber::set_global_default(subscriber.json().finish()),
        LogFormat::Text => tracing::subscriber::set_global_default(subscriber.without_time().with_ansi(false).finish()),
    };
}

/// What stands before the command is dropped by clap when the same option stands after it.
fn refuse_lost_options(cli: &Cli, words: &[OsString]) -> Result<()> {
    let Global { role, set, root, config, facts, .. } = &cli.global;
    for (name, kept) in [
        ("--role", role.len()),
        ("--set", set.len()),
        ("--root", root.iter().count()),
        ("--config", config.iter().count()),
        ("--facts", facts.iter().count()),
        ("--log-format", 1),
    ] {
        let is_it = |word: &&OsString| {
            let rest = word.to_str().and_then(|word| word.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        if words.iter().filter(is_it).count() > kept {
            let what = format!("{name} stands before the command and after it");
            return Err(usage(&what, &format!("put each {name} after the command")));
        }
    }
    Ok(())
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

/// Options of `apply` before another command would silently do nothing.
fn refuse_misplaced_options(top: &Apply) -> Result<()> {
    let given = top.dry_run
        || top.save
        || top.at_boot
        || top.lock_wait.is_some()
        || top.steps.user_data.is_some()
        || top.steps.phase != Phase::All;
    if given {
        return Err(usage(
            "options of apply stand before another command",
            "put the command first, its options after it",
        ));
    }
    Ok(())
}

/// A bare word is a misspelt command, not a settings file: it would run apply.
fn checked(steps: Steps) -> Result<Steps> {
    let shown = steps.user_data.as_deref().unwrap_or(Path::new("/")).display().to_string();
    if shown.contains('/') {
        return Ok(steps);
    }
    let names: Vec<String> = grammar().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    let fix = crate::settings::did_you_mean(&shown, names.iter().map(String::as_str));
    Err(usage(
        &format!("there is no command {shown:?}"),
        &format!("{fix}\nA settings file is named with a `/` in its path: ./{shown}"),
    ))
}

fn usage(what: &str, fix: &str) -> Error {
    Error::new(Kind::Usage, what).fix(fix)
}

/// `#!/usr/bin/titus-bootstrap --role agent` reaches us as one argument `--role agent`
/// and the script's path (execve(2)): it is split if the next one is such a script.
fn split_shebang(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let [_, words, script, ..] = arguments.as_slice() else { return arguments };
    let Some(words) = words.to_str().filter(|text| text.contains(' ')) else { return arguments };
    if peek_named(Path::new(script)).starts_with(b"#!") {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        arguments.splice(1..2, words);
    }
    arguments
}

/// Whether CONFIG is user data: a script with `#!` and our name, as cloud-init runs it.
fn is_user_data(path: &Path) -> bool {
    let text = peek_named(path);
    text.starts_with(b"#!") && matches!(crate::userdata::settings(&text), Ok(Some(_)))
}
