//! From a request to a role that can be run.

pub mod cloud;
pub mod detect;
pub mod shared_image;
