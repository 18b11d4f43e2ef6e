//! The two interfaces to EC2: the metadata service and the regional APIs.
//!
//! Both use the same exchange to send requests, and the same policy for retries.

pub mod api;
mod exchange;
pub mod imds;
mod retry;

pub(crate) use self::retry::{turn, up_to};
