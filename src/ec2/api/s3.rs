//! Access to a bucket.

use reqwest::Method;

use super::answer::refused;
use super::request::Request;
use super::{Api, Failure, Service};
use crate::error::Error;

/// S3's answer about a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// It exists, and this instance may list it.
    There,
    /// It exists, but this instance may not list it and need not, or it belongs to another account.
    Forbidden,
    /// It is in another region.
    Elsewhere,
    /// It does not exist.
    Missing,
}

impl Api {
    /// Asks S3 about a bucket with HeadBucket, whose request and reply have no body.
    ///
    /// # Errors
    /// Fails when the call fails, or S3 gives another answer.
    pub fn bucket(&mut self, name: &str) -> Result<Bucket, Failure> {
        // The name must be one segment of a path ("General purpose bucket naming rules", and those before 2018).
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() < 256
            && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
        if !is_name {
            return Err(Error::config(format!("{name:?} is not the name of a bucket")).into());
        }
        let what = Service::S3.call(&format!("HeadBucket {name}"));
        // The name is in the path and not in the host, because no certificate covers a name with dots, and a test
        // server has only one name.
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
