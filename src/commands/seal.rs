//! `seal`: removes what a builder leaves behind, and audits the tree.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::host::lock::{KEEP_LOCK, LOCK};
use crate::prepare::{FactSource, Layers, Request, gather};
use crate::run::refusals::{refuse_made_up_facts, refuse_seal_without_boot_unit, refuse_without_root};
use crate::run::report::{ErrorReport, Reporter, say, say_document};
use crate::seal::builder::Builder;
use crate::seal::{self, SealReport};

/// Services and containers of the roles that other nodes depend on.
const SERVICES: [&str; 3] = ["mesos-agent.service", "titus-server-master.service", "titus-server-gateway.service"];
const CONTAINERS: [&str; 2] = ["zookeeper", "mesomaster"];

/// A longer list would hide the first entries.
const SHOWN: usize = 30;

/// The output of `seal --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// `seal`.
    command: &'static str,
    /// Whether the tree is fit for an image.
    clean: bool,
    /// What seal removed and found.
    #[serde(flatten)]
    sealed: SealReport,
    /// The error that the command ends with.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorReport>,
}

/// Seals the machine or a tree. With `only_look` it changes nothing.
///
/// # Errors
/// Fails with 1 when something is left that must not be in an image, and lists its paths; with 69 on a node in service, and
/// for an image whose services nothing would start.
pub fn run(request: &Request, reporter: Reporter, only_look: bool) -> Result<u8> {
    refuse_made_up_facts(request)?;
    let host = request.host()?;
    refuse_without_root(&host)?;
    let _locks = if only_look {
        refuse_run(&host)?;
        None
    } else {
        let locks = (host.lock(LOCK, Duration::ZERO, &mut |_| {})?, host.lock(KEEP_LOCK, Duration::ZERO, &mut |_| {})?);
        refuse_at_work(&host)?;
        Some(locks)
    };
    refuse_seal_without_boot_unit(&host)?;
    let builder = Builder::find(&host, builder_facts(request)?.as_ref())?;
    let sealed = seal::seal(&host, &builder, only_look)?;
    if reporter.json {
        let clean = sealed.left.is_empty();
        let error = (!clean).then(|| ErrorReport::from(&refusal(&sealed)));
        say_document(Document { command: "seal", clean, sealed: sealed.clone(), error });
    } else if !reporter.quiet {
        say(&text(&sealed));
    }
    if sealed.left.is_empty() { Ok(0) } else { Err(refusal(&sealed)) }
}

/// A check takes no lock, because it must not write anything. But half a bake is not an image.
fn refuse_run(host: &Host) -> Result<()> {
    match host.lock_holder()? {
        None => Ok(()),
        Some(holder) => Err(Error::new(Kind::TemporaryFailure, format!("another run is at work: {holder}"))
            .fix("wait for it: titus-bootstrap status --wait")),
    }
}

/// Facts of the builder of a tree, from --facts.
fn builder_facts(request: &Request) -> Result<Option<crate::facts::Instance>> {
    if request.facts == FactSource::Instance {
        return Ok(None);
    }
    let merged = Layers::read(request, &request.host()?)?.merged(None)?;
    Ok(gather::facts(request, &merged)?.facts.instance)
}

/// On a node in service, seal would remove the data of ZooKeeper and the Mesos agent while they run.
fn refuse_at_work(host: &Host) -> Result<()> {
    let units = host.list("/run/titus-bootstrap/units")?;
    let ready = host.entry("/run/titus-bootstrap/ready")?;
    let why = match units.first() {
        _ if !host.is_live() => None,
        Some(unit) => Some(format!("a run since its boot has started {}", unit.trim_end_matches(".reload"))),
        None if ready.is_some() => Some("a run since its boot has made it ready".to_owned()),
        None => serving(host)?,
    };
    let Some(why) = why else { return Ok(()) };
    Err(Error::unavailable("this machine is a node at work, not a builder of an image")
        .cause(why)
        .fix("seal a builder: apply --phase bake, then seal; to see what seal would find here: seal --check"))
}

/// Services that started by themselves at the machine's boot. None of them runs on a builder.
fn serving(host: &Host) -> Result<Option<String>> {
    if host.entry("/run/systemd/system")?.is_some() {
        host.watch_units(SERVICES.into_iter());
        for unit in SERVICES {
            if host.unit(unit)?.is_active() {
                return Ok(Some(format!("{unit} is active")));
            }
        }
    }
    let Ok(engine) = host.engine()? else { return Ok(None) };
    for name in CONTAINERS {
        if engine.container(name)?.is_some_and(|found| found.is_running()) {
            return Ok(Some(format!("the container {name} is running")));
        }
    }
    Ok(None)
}

fn text(sealed: &SealReport) -> String {
    let mut text = String::new();
    for removed in &sealed.removed {
        let files = if removed.files == 1 { String::new() } else { format!(", {} files", removed.files) };
        text.push_str(&format!("removed   {} ({}{files})\n", removed.path, removed.what));
    }
    text.push_str(&format!(
        "searched  {} files, {} MiB, for {}\n",
        sealed.files,
        sealed.bytes >> 20,
        if sealed.searched_for.is_empty() { "nothing".into() } else { sealed.searched_for.join(", ") }
    ));
    for notice in &sealed.notices {
        text.push_str(&format!("notice: {notice}\n"));
    }
    if sealed.left.is_empty() {
        text.push_str("nothing of the builder is left\n");
    }
    text
}

fn refusal(sealed: &SealReport) -> Error {
    let mut lines: Vec<String> =
        sealed.left.iter().take(SHOWN).map(|left| format!("{}: {}", left.path, left.why)).collect();
    if sealed.left.len() > SHOWN {
        lines.push(format!("and {} more; all of them: titus-bootstrap seal --check --json", sealed.left.len() - SHOWN));
    }
    let number = match sealed.left.len() {
        1 => "one thing".into(),
        n => format!("{n} things"),
    };
    Error::failed(format!(
        "seal: {number} that must not be in an image {} left",
        if sealed.left.len() == 1 { "is" } else { "are" }
    ))
    .cause(lines.join("\n"))
    .fix("remove them before titus-bootstrap seal, and build the image again")
}
