//! `apply`: runs the role's steps.

use crate::error::Result;
use crate::prepare::Request;
use crate::run::report::Reporter;
use crate::run::{self, Options};

/// Runs the role's steps.
///
/// # Errors
/// Returns the first refusal or failure.
pub fn run(request: &Request, reporter: Reporter, options: Options) -> Result<u8> {
    run::apply(request, options, reporter)
}
