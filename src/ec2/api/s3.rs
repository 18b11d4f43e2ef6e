//! Whether a bucket can be reached.

use reqwest::Method;

use super::answer::refused;
use super::request::Request;
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
        // One segment of a path ("General purpose bucket naming rules", and those of before 2018).
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() < 256
            && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if !is_name {
            return Err(Error::config(format!("{name:?} is no name of a bucket")).into());
        }
        let what = Service::S3.call(&format!("HeadBucket {name}"));
        // In the path, not in the host: a name with dots fits no certificate, and a test server has one name.
        let request = Request { service: Service::S3, method: Method::HEAD, path: Some(name), body: "" };
        let reply = self.ask(&what, request)?;
        match reply.status {
            200..=299 => Ok(Bucket::There),
            301 | 307 => Ok(Bucket::Elsewhere),
            400 if reply.is_elsewhere(&self.region) => Ok(Bucket::Elsewhere),
            403 => Ok(Bucket::Forbidden),
            404 => Ok(Bucket::Missing),
            _ => Err(refused(Service::S3, &what, "ListBucket", &self.region, &reply)),
        }
    }
}
