//! Whether a bucket can be reached.

use super::{Api, Failure, Service};
use crate::error::Error;

/// What S3 says of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// It is there, and this instance may list it.
    There,
    /// It is there, or another's; this instance may not list it, as it need not.
    Forbidden,
    /// It is in another region.
    Elsewhere,
    /// There is none of this name.
    Missing,
}

impl Api {
    /// Asks for a bucket (HeadBucket, which has no body in either direction).
    ///
    /// # Errors
    /// When the call fails, or its answer is none of the four.
    pub fn bucket(&mut self, name: &str) -> Result<Bucket, Failure> {
        let what = format!("S3 (HeadBucket {name})");
        let mut url = self.endpoint(Service::S3)?;
        // In the path, not in the host: a name with dots fits no certificate, and a test server has one name.
        url.set_path(name);
        let reply = self.ask(Service::S3, &what, "HEAD", &url, "")?;
        match reply.status {
            200..=299 => Ok(Bucket::There),
            301 | 307 | 400 => Ok(Bucket::Elsewhere),
            403 => Ok(Bucket::Forbidden),
            404 => Ok(Bucket::Missing),
            status => Err(Error::config(format!("{what}: status {status}")).into()),
        }
    }
}
