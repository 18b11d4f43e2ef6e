//! What a run refuses before it changes anything, whatever its steps are.

use crate::error::{Error, Kind, Result};
use crate::host::Host;
use crate::prepare::{FactSource, Phases, Request};

/// A made-up identity never reaches a live node.
///
/// # Errors
/// 64 for facts that are not this instance's, without --root.
pub fn refuse_made_up_facts(request: &Request) -> Result<()> {
    let flag = match request.facts {
        FactSource::Instance => return Ok(()),
        FactSource::Sample => "--sample",
        FactSource::File(_) => "--facts",
    };
    if request.root.is_some() {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, format!("{flag} on the live machine"))
        .cause("facts that are not this instance's must not be written on it")
        .fix(format!("add --root ./node, or ask for a plan: titus-bootstrap plan {flag}")))
}

/// Only root changes a live machine.
///
/// # Errors
/// 77, with the command line to repeat.
pub fn refuse_without_root(host: &Host) -> Result<()> {
    if !host.is_live() || host.may_chown() {
        return Ok(());
    }
    let quoted = |word: std::ffi::OsString| crate::template::shell(&word.to_string_lossy()).unwrap_or_default();
    let words: Vec<String> = std::env::args_os().map(quoted).collect();
    Err(Error::new(Kind::NotPermitted, "only root can do this").fix(format!("sudo {}", words.join(" "))))
}

/// Refuses a live machine without apt, or on which no systemd runs units.
///
/// # Errors
/// 69.
pub fn refuse_machine(host: &Host, phases: Phases) -> Result<()> {
    if !host.is_live() {
        return Ok(());
    }
    if !host.has_apt()? {
        return Err(Error::unavailable("this machine has no apt and dpkg")
            .cause("/usr/bin/apt-get or /usr/bin/dpkg is not there")
            .fix("roles install Debian packages: use an image of Debian or Ubuntu"));
    }
    if phases != Phases::Bake && host.entry("/run/systemd/system")?.is_none() {
        return Err(Error::unavailable("systemd does not run this machine")
            .cause("/run/systemd/system is not there")
            .fix("use an image of Debian or Ubuntu with systemd; in an image without a running one: --phase bake"));
    }
    Ok(())
}
