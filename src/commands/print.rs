//! `completions`, `man`, `version`.

use serde_json::json;

use crate::SCHEMA_VERSION;
use crate::error::{Error, Result};
use crate::run::report::{Reporter, say, say_json};

/// Prints a completion script.
pub fn completions(mut grammar: clap::Command, shell: clap_complete::Shell) -> u8 {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut grammar, "titus-bootstrap", &mut text);
    say(&String::from_utf8_lossy(&text));
    0
}

/// Prints the manual page.
///
/// # Errors
/// When it cannot be rendered.
pub fn manual(grammar: clap::Command) -> Result<u8> {
    let mut text = Vec::new();
    clap_mangen::Man::new(grammar)
        .section("8")
        .render(&mut text)
        .map_err(|e| Error::failed("the manual page cannot be made").cause(e))?;
    say(&String::from_utf8_lossy(&text));
    Ok(0)
}

/// Prints the version.
pub fn version(reporter: Reporter) -> u8 {
    let version = env!("CARGO_PKG_VERSION");
    if reporter.json {
        say_json(&json!({ "schema_version": SCHEMA_VERSION, "version": version }));
    } else {
        say(&format!("titus-bootstrap {version}\n"));
    }
    0
}
