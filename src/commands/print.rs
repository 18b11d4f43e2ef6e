//! `completions`, `man`, `version`.

use serde_json::json;

use crate::error::{Error, Result};
use crate::run::report::{SCHEMA_VERSION, say};

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::grammar(), "titus-bootstrap", &mut text);
    say(&String::from_utf8_lossy(&text));
}

/// Prints the manual page.
///
/// # Errors
/// When it cannot be rendered.
pub fn manual() -> Result<u8> {
    let mut text = Vec::new();
    clap_mangen::Man::new(crate::cli::grammar())
        .section("8")
        .render(&mut text)
        .map_err(|e| Error::failed("the manual page cannot be made").cause(e))?;
    say(&String::from_utf8_lossy(&text));
    Ok(0)
}

/// Prints the version.
pub fn version(as_json: bool) {
    let version = env!("CARGO_PKG_VERSION");
    if as_json {
        say(&format!("{:#}\n", json!({ "schema_version": SCHEMA_VERSION, "version": version })));
    } else {
        say(&format!("titus-bootstrap {version}\n"));
    }
}
