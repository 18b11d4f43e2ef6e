//! Parses the command line, listens for signals and dispatches. Only this file knows both the grammar and the commands.

use std::ffi::OsString;
use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use crate::activity;
use crate::activity::event::{self, Event};
use crate::cli::{Apply, Cli, Command, Config, Global, LogFormat, Phase, Role, Steps, grammar};
use crate::commands;
use crate::commands::schema::Failure;
use crate::error::{Error, Kind, Result};
use crate::host::fs::peek_named;
use crate::host::{journald, signals};
use crate::prepare::{FactSource, FirstLine, Phases, Request, Selection};
use crate::run::report::{ErrorReport, Reporter, has_document, say_document};
use crate::run::{Options, Trigger};
use crate::terminal::{self, Form, Messages};

/// Runs the program; returns its exit code. If the output cannot be printed, that is a failure, too.
pub fn run(arguments: Vec<OsString>) -> u8 {
    if is_completed(&arguments) {
        return 0;
    }
    terminal::begin();
    if journald::reads_stderr() {
        terminal::write_for_journal();
    }
    let code = run_command(arguments);
    match terminal::lost() {
        Some(why) if code == 0 || code == commands::plan::CHANGES => {
            terminal::write_error(&format!("titus-bootstrap: standard output cannot be written\n  cause: {why}\n"));
            Kind::Failed.exit_code()
        }
        _ => code,
    }
}

/// Answers a shell that completes a line, as the script of `completions` requests; false if no shell asks.
fn is_completed(arguments: &[OsString]) -> bool {
    let here = std::env::current_dir().ok();
    CompleteEnv::with_factory(grammar_with_values)
        .var(commands::print::COMPLETE)
        .try_complete(arguments.to_vec(), here.as_deref())
        // A shell cannot show an error, so it gets no values.
        .unwrap_or(true)
}

/// The grammar, with the values that complete a role, a step, a unit, a file, a run, a setting and an instance type.
fn grammar_with_values() -> clap::Command {
    let values = |find: fn() -> Vec<String>| {
        ArgValueCandidates::new(move || find().into_iter().map(CompletionCandidate::new).collect())
    };
    let steps = |command: clap::Command| {
        let steps = || values(commands::complete::steps);
        command.mut_arg("only", |only| only.add(steps())).mut_arg("skip", |skip| skip.add(steps()))
    };
    steps(grammar())
        .mut_subcommand("apply", steps)
        .mut_subcommand("plan", steps)
        .mut_subcommand("explain", |command| {
            command.mut_arg("step", |step| step.add(values(commands::complete::steps_and_units)))
        })
        .mut_subcommand("render", |command| command.mut_arg("path", |path| path.add(values(commands::complete::paths))))
        .mut_subcommand("logs", |command| command.mut_arg("run", |run| run.add(values(commands::complete::runs))))
        .mut_subcommand("facts", |command| {
            command.mut_arg("instance_type", |name| name.add(values(commands::complete::instance_types)))
        })
        .mut_arg("role", |argument| argument.add(values(commands::complete::roles)))
        .mut_arg("set", |argument| argument.add(values(commands::complete::assignments)))
        .mut_subcommand("why", |command| command.mut_arg("key", |key| key.add(values(commands::complete::questions))))
        .mut_subcommand("instance-type", |command| {
            command.mut_arg("name", |name| name.add(values(commands::complete::instance_types)))
        })
        .mut_subcommand("schema", |command| command.mut_arg("name", |name| name.add(values(commands::schema::names))))
        .mut_subcommand("role", |command| {
            command
                .mut_subcommand("show", |show| show.mut_arg("name", |name| name.add(values(commands::complete::roles))))
        })
}

fn run_command(arguments: Vec<OsString>) -> u8 {
    let arguments = split_shebang(arguments);
    let words: Vec<OsString> = arguments.iter().take_while(|word| *word != "--").cloned().collect();

    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is the grammar's own text. An error contains the user's words, and must not have colours.
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
                terminal::remember(error.print());
                return 0;
            }
            let (text, error) = match words.get(1).and_then(|word| word.to_str()).map(unknown_command) {
                Some(Some(misspelt)) if error.kind() == ErrorKind::UnknownArgument => {
                    (format!("titus-bootstrap: {misspelt}\n"), misspelt)
                }
                _ => {
                    let text = error.render().to_string();
                    let error = usage_error(&text);
                    (text, error)
                }
            };
            print_failure(words.iter().any(|word| word == "--json"), &error);
            if asks_for_events(&words) {
                event::begin();
                print_error(LogFormat::Json, None, &error);
            } else {
                terminal::write_error(&text);
            }
            return Kind::Usage.exit_code();
        }
    };
    log(&cli.global);
    let (log_format, root, json) = (cli.global.log_format, cli.global.root.clone(), cli.global.json);
    match signals::listen().and_then(|()| refuse_lost_options(&cli, &words)).and_then(|()| dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            print_failure(json, &error);
            print_error(log_format, root.as_deref(), &error);
            error.kind.exit_code()
        }
    }
}

/// With `--json`, prints an error as the JSON document of a command that has not printed one.
fn print_failure(json: bool, error: &Error) {
    if json && !has_document() {
        say_document(Failure { error: ErrorReport::from(error) });
    }
}

/// Whether an invalid command line asks for JSON on standard error.
fn asks_for_events(words: &[OsString]) -> bool {
    let is_pair = |pair: &[OsString]| matches!(pair, [option, value] if option == "--log-format" && value == "json");
    words.iter().any(|word| word == "--log-format=json") || words.windows(2).any(is_pair)
}

/// Converts the grammar's text about a wrong command line: one line, then the correct form.
fn usage_error(text: &str) -> Error {
    let (what, rest) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
    let rest: Vec<&str> = rest.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = Error::new(Kind::Usage, what.trim_start_matches("error: "));
    if rest.is_empty() { error } else { error.fix(rest.join("\n")) }
}

/// Prints an error. If systemd's journal reads standard error, the journal gets the error with its fields.
fn print_error(log_format: LogFormat, root: Option<&Path>, error: &Error) {
    match log_format {
        LogFormat::Text if terminal::is_read_by_journal() && journald::send_error(root, error) => {}
        LogFormat::Text => terminal::write_error(&format!("titus-bootstrap: {error}\n")),
        LogFormat::Json => event::emit(Event::Error(ErrorReport::from(error))),
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
        Command::Plan { steps, detailed_exitcode, all, fleet } => {
            let request = request(&global, Some(checked(steps)?));
            let reporter = Reporter { verbose: reporter.verbose || all, ..reporter };
            match fleet {
                Some(file) => commands::fleet::run(&request, reporter, detailed_exitcode, &file),
                None => commands::plan::run(&request, reporter, detailed_exitcode),
            }
        }
        Command::Status { timeline: true, .. } => commands::status::timeline(&whole, reporter, None),
        Command::Status { wait, last, metrics, .. } => {
            commands::status::run(whole, reporter, wait, last, metrics.as_deref())
        }
        Command::Logs { run } => commands::logs::run(&whole, reporter, run.as_deref()),
        Command::Report { svg: Some(path), .. } => commands::status::timeline(&whole, reporter, Some(&path)),
        Command::Report { file, .. } => commands::report::run(whole, reporter, file),
        Command::Verify => commands::verify::run(&whole, reporter),
        Command::Keep => commands::keep::run(&Request { phases: Phases::Keep, ..whole }, reporter),
        Command::Seal { check } => commands::seal::run(&whole, reporter, check),
        Command::Activate { names } => commands::activate::run(&whole, reporter, &names),
        Command::Check { files } => commands::check::run(&whole, reporter, &files, &|error| {
            print_error(global.log_format, global.root.as_deref(), error)
        }),
        Command::Facts { instance_type } => commands::facts::run(&whole, reporter, instance_type.as_deref()),
        Command::Why { key } => commands::why::run(&whole, reporter, &key),
        Command::Explain { step } => commands::explain::run(&whole, reporter, &step),
        Command::Render { path } => commands::render::run(&whole, reporter, &path),
        Command::Config(Config::Show) => commands::config::show(&whole, reporter),
        Command::Config(Config::Template) => commands::config::print_template(&whole, reporter),
        Command::Config(Config::Schema) => Ok(commands::config::schema()),
        Command::Role(Role::List) => commands::role::list(&whole, reporter),
        Command::Role(Role::Show { name }) => commands::role::show(&whole, reporter, &name),
        Command::InstanceType { name } => commands::instance_type::run(&whole, reporter, &name),
        Command::Schema { name } => commands::schema::run(reporter, name.as_deref()),
        Command::Completions { shell } => commands::print::completions(reporter, shell),
        Command::Man { list: true, .. } => Ok(commands::print::manuals(grammar(), reporter)),
        Command::Man { command, .. } => commands::print::manual(grammar(), reporter, &command),
        Command::Version => Ok(commands::print::version(reporter)),
    }
}

fn apply(global: &Global, arguments: Apply) -> Result<u8> {
    let Apply { steps, dry_run, save, at_boot, lock_wait } = arguments;
    let steps = checked(steps)?;
    let script = steps.user_data.as_deref().filter(|path| is_user_data(path));
    let trigger = match (at_boot, script) {
        (true, _) => Trigger::Boot,
        (false, Some(path)) => Trigger::from_script(path),
        (false, None) => Trigger::Person,
    };
    let request = request(global, Some(steps));
    if dry_run {
        return commands::plan::run(&request, reporter(global), false);
    }
    commands::apply::run(&request, reporter(global), Options { trigger, lock_wait, save })
}

/// The request on the command line; without `steps`, for all phases.
fn request(global: &Global, steps: Option<Steps>) -> Request {
    let (phase, user_data, selection) = match steps {
        Some(Steps { phase, user_data, only, skip }) => (phase, user_data, Selection { only, skip }),
        None => (Phase::All, None, Selection::default()),
    };
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
        first_line,
        patience: None,
        selection,
    }
}

/// Parses `--role` and `--set` on the `#!` line of user data. Other options work only if a kernel starts the program with
/// that line, and then a run of the boot unit would do something else than the line says.
fn first_line(words: &[&str]) -> Result<FirstLine> {
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.split_once('=').map_or((*word, false), |(name, _)| (name, true)) {
            ("--role" | "--set", true) => {}
            ("--role" | "--set", false) => drop(rest.next()),
            _ => {
                return Err(Error::config(format!("user data: {word:?} on its first line has no effect"))
                    .fix("only --role and --set are allowed there: remove it, or put settings below that line"));
            }
        }
    }
    let cli = Cli::try_parse_from(std::iter::once("titus-bootstrap").chain(words.iter().copied()))
        .map_err(|e| Error::config("user data: the words on its first line cannot be read").cause(e.render()))?;
    Ok(FirstLine { roles: cli.global.role, set: cli.global.set })
}

/// How to print a report.
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
    // Libraries log their details, such as kept connections, below that level. These do not matter here.
    let library_level = level.min(tracing::Level::WARN);
    let filter = Targets::new().with_default(library_level).with_target(env!("CARGO_CRATE_NAME"), level);
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(Messages(form)).with_target(false);
    let draws = form == Form::Text && !global.json && terminal::draws();
    if !global.quiet {
        activity::watch(draws);
    }
    // Only a second subscriber in one process could make this fail.
    let _ = match global.log_format {
        LogFormat::Json => {
            event::begin();
            tracing::subscriber::set_global_default(subscriber.event_format(event::Messages).finish().with(filter))
        }
        LogFormat::Text => {
            tracing::subscriber::set_global_default(subscriber.without_time().with_ansi(false).finish().with(filter))
        }
    };
}

/// Refuses an option that is both before and after the command, because clap drops the first one.
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
        let is_option = |word: &&OsString| {
            let rest = word.to_str().and_then(|word| word.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        if words.iter().filter(is_option).count() > kept {
            let what = format!("{name} is both before the command and after it");
            return Err(usage(&what, &format!("put each {name} after the command")));
        }
    }
    Ok(())
}

/// Refuses several roles on a node: only an image can have more than one.
fn refuse_several_roles(cli: &Cli) -> Result<()> {
    let (phase, save) = match &cli.command {
        None => (Some(cli.apply.steps.phase), cli.apply.save),
        Some(Command::Apply(apply)) => (Some(apply.steps.phase), apply.save),
        Some(Command::Plan { steps, .. }) => (Some(steps.phase), false),
        Some(_) => (None, false),
    };
    if cli.global.role.len() <= 1 || matches!(cli.command, Some(Command::Check { .. })) {
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

/// Refuses options of `apply` before another command, where they would have no effect.
fn refuse_misplaced_options(top: &Apply) -> Result<()> {
    let given = top.dry_run
        || top.save
        || top.at_boot
        || top.lock_wait.is_some()
        || top.steps.user_data.is_some()
        || top.steps.phase != Phase::All
        || !top.steps.only.is_empty()
        || !top.steps.skip.is_empty();
    if given {
        return Err(usage(
            "options of apply come before another command",
            "put the command first, its options after it",
        ));
    }
    Ok(())
}

/// Refuses a bare word. It is a misspelt command rather than a settings file, and would otherwise run apply.
fn checked(steps: Steps) -> Result<Steps> {
    let shown = steps.user_data.as_deref().unwrap_or(Path::new("/")).display().to_string();
    unknown_command(&shown).map_or(Ok(steps), Err)
}

/// The error for a word that is not a command, an option, or a path.
fn unknown_command(word: &str) -> Option<Error> {
    let names: Vec<String> = grammar().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    if word.contains('/') || word.starts_with('-') || word == "help" || names.iter().any(|name| name == word) {
        return None;
    }
    let fix = crate::settings::did_you_mean(word, names.iter().map(String::as_str));
    Some(usage(
        &format!("there is no command {word:?}"),
        &format!("{fix}\nA settings file is named with a `/` in its path: ./{word}"),
    ))
}

fn usage(what: &str, fix: &str) -> Error {
    Error::new(Kind::Usage, what).fix(fix)
}

/// `#!/usr/bin/titus-bootstrap --role agent` arrives as one argument `--role agent` and the script's path (execve(2)).
/// Splits the argument if the next one is such a script.
fn split_shebang(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let [_, words, script, ..] = arguments.as_slice() else { return arguments };
    let Some(words) = words.to_str().filter(|text| text.contains(' ')) else { return arguments };
    if peek_named(Path::new(script)).starts_with(b"#!") {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        arguments.splice(1..2, words);
    }
    arguments
}

/// Whether CONFIG is user data: a script with `#!` and this program's name, as cloud-init runs it.
fn is_user_data(path: &Path) -> bool {
    let text = peek_named(path);
    text.starts_with(b"#!") && matches!(crate::userdata::settings(&text), Ok(Some(_)))
}
