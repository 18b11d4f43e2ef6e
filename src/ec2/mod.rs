//! The two conversations with EC2: the metadata service, and the regional APIs.

pub mod api;
pub mod imds;

use std::time::Duration;

use crate::error::{Error, Result};

/// Anything up to a bound, so that nodes which start together do not ask together. The standard library seeds each
/// `RandomState` anew.
pub(crate) fn up_to(bound: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let random = RandomState::new().build_hasher().finish() % 1024;
    bound * u32::try_from(random).unwrap_or(0) / 1024
}

/// Plain blocking code asks over the network with a runtime of its own.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::failed("no runtime could be started").cause(e))
}
