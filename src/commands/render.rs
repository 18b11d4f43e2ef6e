//! `render PATH`: a file as this node would have it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::prepare::{Phases, Request, prepare};
use crate::run::report::{Reporter, say, say_document};
use crate::secrets::HIDDEN;
use crate::settings::did_you_mean;
use crate::step::{Contents, Planned};

/// The output of `render --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Rendered {
    /// The file.
    path: String,
    /// The step that writes it.
    step: String,
    /// Its contents; `***` if only its owner may read it.
    contents: String,
}

/// Prints what the role writes to a path. For a file that a step only edits, prints the whole file. Changes nothing.
///
/// # Errors
/// Fails with 64 when no step of the role writes this file; with 78 as a plan does.
pub fn run(request: &Request, reporter: Reporter, path: &str) -> Result<u8> {
    let mut host = request.host()?;
    let prepared = prepare(request, &mut host)?;
    let steps = prepared.steps(Phases::All)?;
    let written: Vec<_> = steps.iter().filter_map(|step| Some((step, step.work().written()?))).collect();
    // If several steps write the file, the last one decides.
    let Some((step, (_, contents))) = written.iter().rfind(|(_, (known, _))| *known == path) else {
        let known: Vec<&str> = written.iter().map(|(_, (known, _))| *known).collect();
        return Err(Error::new(Kind::Usage, format!("no step of role {} writes {path:?}", prepared.role.name))
            .fix(did_you_mean(path, known.iter().copied())));
    };
    let whole = step.work().planned(&host, &Planned::default())?.map(|(_, bytes)| bytes);
    let text = match (contents, whole.filter(|bytes| !bytes.is_empty())) {
        _ if step.work().is_private() => format!("{HIDDEN}\n"),
        (_, Some(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
        (Contents::Text(text), None) => text.clone(),
        (Contents::Pairs(_), None) => String::new(),
    };
    if reporter.json {
        say_document(Rendered { path: path.to_owned(), step: step.id.clone(), contents: text });
    } else {
        say(&text);
    }
    if step.work().is_private() {
        tracing::info!("only the owner of {path} may read it, so its contents are hidden");
    }
    Ok(0)
}
