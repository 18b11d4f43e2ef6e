//! `report`: everything that a ticket needs, without secrets, in one file.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::SCHEMA_VERSION;
use crate::commands::{config, facts, logs};
use crate::error::{Error, Kind, Result};
use crate::host::archive::write_archive;
use crate::host::{Host, signals};
use crate::prepare::{Layers, Phases, Prepared, Request, gather, prepare};
use crate::run::headline::{self, Known};
use crate::run::journal::{self, KEEP_JOURNAL, LAST_JSON, LAST_LOG};
use crate::run::report::{self, Report, Reporter, say, say_document};
use crate::run::timeline::Timeline;
use crate::run::{self, BOOT_UNIT, RETRY_TIMER, status};
use crate::secrets::{hide, learn, masked};
use crate::settings::Merged;
use crate::step::deb_record;

/// The longest time to wait for instance metadata and AWS's APIs. A report is often made because something does not respond.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much to keep of one file, bytes. Longer files lose their beginning.
const KEPT: usize = 1 << 20;

/// How many lines of a unit's journal to keep.
const LINES: usize = 500;

/// The output of `report --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The archive.
    file: String,
    /// The files in it.
    contents: Vec<Part>,
    /// What is missing from it.
    left_out: Vec<LeftOut>,
}

/// A file in the archive.
#[derive(Debug, Serialize, JsonSchema)]
struct Part {
    /// Its name.
    name: String,
    /// Its size, bytes.
    bytes: usize,
}

/// Something that is missing from the archive.
#[derive(Debug, Serialize, JsonSchema)]
struct LeftOut {
    /// Its name.
    name: String,
    /// Why.
    why: String,
}

/// The contents of the archive, and what is missing from it.
#[derive(Debug, Default)]
struct Parts {
    made: Vec<(String, String)>,
    left_out: Vec<(String, String)>,
}

impl Parts {
    /// Adds a text with its secrets hidden. A text that does not exist or cannot be read counts as left out.
    fn add(&mut self, name: &str, text: Result<Option<String>>) -> Result<()> {
        signals::check()?;
        match text {
            Ok(Some(text)) if !text.trim().is_empty() => self.made.push((name.to_owned(), keep_end(&masked(&text)))),
            Ok(_) => self.leave_out(name, "not present"),
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => self.leave_out(name, &one_line(&error)),
        }
        Ok(())
    }

    /// Adds a document whose secrets are hidden by their names.
    fn add_json(&mut self, name: &str, document: Result<Option<Json>>) -> Result<()> {
        let text = |document: Json| serde_json::to_string_pretty(&document).unwrap_or_default();
        let known = crate::secrets::mask_known;
        match document {
            Ok(Some(document)) => self.made.push((name.to_owned(), known(&text(document)))),
            Ok(None) => self.leave_out(name, "not present"),
            Err(error) => self.add(name, Err(error))?,
        }
        Ok(())
    }

    fn leave_out(&mut self, name: &str, why: &str) {
        self.left_out.push((name.to_owned(), masked(why)));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, contents) in &self.made {
            text.push_str(&format!("  {name:<40} {} bytes\n", contents.len()));
        }
        for (n, (name, why)) in self.left_out.iter().enumerate() {
            text.push_str(if n == 0 { "left out:\n" } else { "" });
            text.push_str(&format!("  {name:<40} {why}\n"));
        }
        text + "secrets are ***, if their names or forms reveal them: read the report before you send it\n"
    }
}

fn one_line(error: &Error) -> String {
    let cause = error.cause.as_deref().map_or_else(String::new, |cause| format!(" ({})", cause.trim()));
    format!("{}{cause}", error.what).lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

fn keep_end(text: &str) -> String {
    let from = text.len().saturating_sub(KEPT);
    let rest = text.get(text.ceil_char_boundary(from)..).unwrap_or_default();
    if from == 0 { text.to_owned() } else { format!("(the beginning is omitted)\n{rest}") }
}

/// Makes the archive, and prints what is in it and what is not.
///
/// # Errors
/// Fails with 64 when the file already exists, and when it cannot be written.
pub fn run(request: Request, reporter: Reporter, file: Option<PathBuf>) -> Result<u8> {
    let mut host = request.host()?;
    run_on(&mut host, request, reporter, file)
}

/// Makes the archive on this machine.
///
/// # Errors
/// Fails as [`run`] does.
pub fn run_on(host: &mut Host, request: Request, reporter: Reporter, file: Option<PathBuf>) -> Result<u8> {
    let request = Request { patience: Some(PATIENCE), phases: Phases::All, ..request };
    let now = SystemTime::now();
    let directory = directory_name(&host.host_name(), now);
    let file = file.unwrap_or_else(|| PathBuf::from(format!("{directory}.tar.gz")));
    let mut parts = Parts::default();
    collect_all(&request, host, now, &mut parts)?;
    let contents = parts.text();
    parts.made.insert(0, ("contents.txt".to_owned(), contents));
    write_archive(&file, &directory, &parts.made)?;
    print(&file, &parts, reporter);
    Ok(0)
}

/// The name of this machine and the time, in characters that every file system accepts.
fn directory_name(host: &str, now: SystemTime) -> String {
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let time = humantime::format_rfc3339_seconds(now).to_string().replace([':', '-'], "");
    let host = if host.is_empty() { "node".to_owned() } else { host };
    format!("titus-bootstrap-report-{host}-{time}")
}

fn print(file: &Path, parts: &Parts, reporter: Reporter) {
    if reporter.quiet && !reporter.json {
        return;
    }
    if reporter.json {
        let part = |(name, text): &(String, String)| Part { name: name.clone(), bytes: text.len() };
        let left_out = |(name, why): &(String, String)| LeftOut { name: name.clone(), why: why.clone() };
        say_document(Document {
            file: file.display().to_string(),
            contents: parts.made.iter().map(part).collect(),
            left_out: parts.left_out.iter().map(left_out).collect(),
        });
    } else {
        say(&format!("{}, only its owner may read it (0600):\n{}", file.display(), parts.text()));
    }
}

fn collect_all(request: &Request, host: &mut Host, now: SystemTime, parts: &mut Parts) -> Result<()> {
    // From here on the secrets of the settings are hidden everywhere, whatever fails later.
    let from_files = Layers::read(request, host).and_then(|layers| layers.merged(None));
    if let Ok(merged) = &from_files {
        learn("", &json!(merged.table));
    }
    let prepared = prepare(request, host);
    if let Ok(prepared) = &prepared {
        learn_files(host, prepared);
    }
    records(host, now, parts)?;
    let known = match &prepared {
        Ok(prepared) => Ok(prepared.facts.clone()),
        Err(_) => from_files.clone().and_then(|merged| Ok(gather::facts(request, &merged)?.facts)),
    };
    parts.add_json("facts.json", known.and_then(facts::document).map(Some))?;
    match &prepared {
        Ok(prepared) => {
            parts.add_json("config.json", Ok(Some(settings(&prepared.merged))))?;
            plan(prepared, host, parts)?;
        }
        Err(why) => {
            parts.add_json("config-of-files.json", from_files.map(|merged| Some(settings(&merged))))?;
            let why = one_line(why);
            parts.leave_out("config.json", &format!("the role and its settings are unknown: {why}"));
            parts.leave_out("plan.txt", &why);
        }
    }
    units(host, prepared.as_ref().ok(), parts)?;
    versions(host, prepared.as_ref().ok(), parts)
}

/// A file that only its owner may read can contain secrets that are in no setting, and a unit may print them.
fn learn_files(host: &Host, prepared: &Prepared) {
    for step in prepared.steps(Phases::All).unwrap_or_default() {
        let path = step.work().file().filter(|_| step.work().is_private());
        if let Some(text) = path.and_then(|path| host.read_text(path).ok().flatten()) {
            text.lines().filter_map(|line| line.split_once('=')).for_each(|(_, value)| {
                crate::secrets::learn_text(value.trim().trim_matches(['"', '\'']));
            });
        }
    }
    if let Some(auth) = prepared.settings.docker.auth.as_ref()
        && let Ok(Some(bytes)) = host.read(&auth.to_string())
        && let Ok(document) = serde_json::from_slice(&bytes)
    {
        learn("", &document);
    }
}

fn settings(merged: &Merged) -> Json {
    json!(report::Document { schema_version: SCHEMA_VERSION, content: config::Shown::from_layers(merged) })
}

/// The records of runs.
fn records(host: &Host, now: SystemTime, parts: &mut Parts) -> Result<()> {
    let last = status::read(host);
    let events = journal::events(host, journal::JOURNAL);
    let timeline = events.as_ref().map(|events| Timeline::from_last_run(events).map(|timeline| timeline.svg()));
    parts.add("timeline.svg", timeline.map_err(Clone::clone))?;
    let headline = last.and_then(|last| {
        let (holder, events) = (host.lock_holder()?, events.unwrap_or_default());
        let known = Known { last: last.as_ref(), holder: holder.as_deref(), events: &events, ..Known::default() };
        Ok(Some(headline::lines(&known, now).join("\n") + "\n"))
    });
    parts.add("status.txt", headline)?;
    parts.add("runs.txt", logs::recorded(host).map(|(runs, _)| Some(run::logs::table(&runs))))?;
    for path in [status::STATUS, LAST_JSON] {
        let document = host.read(path).map(|bytes| serde_json::from_slice(&bytes?).ok());
        parts.add_json(file_name(path), document.map(|document| document.map(|json: Json| hide("", &json))))?;
    }
    parts.add(file_name(LAST_LOG), host.read_text(LAST_LOG))?;
    for path in [journal::JOURNAL, KEEP_JOURNAL] {
        let hidden = |line: &str| match serde_json::from_str::<Json>(line) {
            Ok(event) => format!("{}\n", hide("", &event)),
            Err(_) => format!("{line}\n"),
        };
        parts.add(
            file_name(path),
            host.read_text(path).map(|text| text.map(|text| text.lines().map(hidden).collect())),
        )?;
    }
    Ok(())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn plan(prepared: &Prepared, host: &Host, parts: &mut Parts) -> Result<()> {
    let mut report = Report::new("plan");
    let silent = Reporter { json: false, quiet: true, verbose: false, colour: false };
    let all = (Phases::All, &Default::default());
    let result = run::observe_prepared(prepared, all, host, false, &mut report, &silent);
    report.end(result.as_ref().err(), false);
    // A refusal is part of the plan: its text follows the steps before it.
    if let Err(error) = result
        && error.kind == Kind::Interrupted
    {
        return Err(error);
    }
    parts.add("plan.txt", Ok(Some(report.text())))?;
    parts.add_json("plan.json", Ok(serde_json::to_value(&report).ok()))
}

/// The things of this sort that the role's steps decide, e.g. `unit x.service`.
fn claimed(prepared: Option<&Prepared>, sort: &str) -> Vec<String> {
    let steps = prepared.and_then(|prepared| prepared.steps(Phases::All).ok()).unwrap_or_default();
    let claims = steps.iter().flat_map(|step| step.work().claims());
    let mut names: Vec<String> =
        claims.filter_map(|claim| Some(claim.thing.strip_prefix(sort)?.trim().to_owned())).collect();
    names.sort();
    names.dedup();
    names
}

fn units(host: &Host, prepared: Option<&Prepared>, parts: &mut Parts) -> Result<()> {
    if !host.is_live() {
        parts.leave_out("units/", "no units run with --root");
        return Ok(());
    }
    if prepared.is_none() {
        parts.leave_out("units/ of the role", "the role is unknown");
    }
    let own = [BOOT_UNIT, RETRY_TIMER].map(str::to_owned);
    for name in own.into_iter().chain(claimed(prepared, "unit ")) {
        let lines = match host.may_chown() {
            true => host.last_lines_of_unit(&name, LINES),
            false => Err(Error::new(Kind::NotPermitted, "only root may read the journal of this machine")),
        };
        parts.add(&format!("units/{name}.log"), lines.map(Some))?;
    }
    Ok(())
}

fn versions(host: &Host, prepared: Option<&Prepared>, parts: &mut Parts) -> Result<()> {
    let (architecture, kernel) = host.uname();
    let commit = env!("TITUS_BOOTSTRAP_COMMIT");
    let mut text = format!("titus-bootstrap {} {commit}\nkernel {kernel} {architecture}\n", env!("CARGO_PKG_VERSION"));
    if !host.is_live() {
        parts.leave_out("versions of packages", "no packages are installed with --root");
        return parts.add("versions.txt", Ok(Some(text)));
    }
    match host.systemd_version() {
        Ok(version) => text.push_str(&format!("{version}\n")),
        Err(error) => parts.leave_out("version of systemd", &one_line(&error)),
    }
    match host.running_engine_version()? {
        Some(version) => text.push_str(&format!("docker {version}\n")),
        None => parts.leave_out("version of Docker", "the Docker Engine is not running or does not respond"),
    }
    let mut names = claimed(prepared, "package ");
    names.extend(deb_record::packages(host)?);
    host.watch_packages(names.iter().map(String::as_str));
    for name in &names {
        match host.package(name) {
            Ok(Some(package)) => text.push_str(&format!("{name} {}\n", package.version)),
            Ok(None) => text.push_str(&format!("{name} is not installed\n")),
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => {
                parts.leave_out("versions of packages", &one_line(&error));
                break;
            }
        }
    }
    parts.add("versions.txt", Ok(Some(text)))
}
