//! The two conversations with EC2: the metadata service, and the regional APIs.
//!
//! Both send their requests through one exchange, and one policy decides whether a request is sent again.

pub mod api;
mod exchange;
pub mod imds;
mod retry;

pub(crate) use self::retry::up_to;
