//! `check`: checks settings, roles and user data, offline and without root.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::prepare::Request;
use crate::prepare::check::{Checked, check};
use crate::run::report::{ErrorReport, Reporter, say, say_document};

/// The output of `check --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// What was checked and is correct.
    good: Vec<String>,
    /// All errors.
    wrong: Vec<ErrorReport>,
}

/// Checks the named files, or the files in /etc/titus-bootstrap. Passes every error but the last to `report_error`.
///
/// # Errors
/// Returns the last error.
pub fn run(request: &Request, reporter: Reporter, files: &[PathBuf], report_error: &dyn Fn(&Error)) -> Result<u8> {
    if let Some(root) = request.root.as_deref().filter(|root| !root.is_dir()) {
        return Err(Error::config(format!("--root {}: there is no such directory", root.display()))
            .fix("name the directory whose /etc/titus-bootstrap to check"));
    }
    let Checked { good, mut wrong } = check(request, &mut request.host()?, files);
    if reporter.json {
        let wrong: Vec<ErrorReport> = wrong.iter().map(ErrorReport::from).collect();
        say_document(Document { good, wrong });
    } else if !reporter.quiet {
        good.iter().for_each(|what| say(&format!("good: {what}\n")));
    }
    let Some(last) = wrong.pop() else { return Ok(0) };
    wrong.iter().for_each(report_error);
    Err(last)
}

#[cfg(test)]
mod tests {
    use crate::host::Host;
    use crate::prepare::used_names;
    use crate::role::{Role, names};

    #[test]
    fn the_built_in_roles_name_only_what_exists() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        for name in names(&host).unwrap().keys() {
            let role = Role::load(&host, name).unwrap();
            assert!(role.is_built_in());
            used_names(&host, &role).unwrap();
        }
    }
}
