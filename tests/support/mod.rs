//! What several rings of tests share.

#![allow(dead_code, reason = "not every ring uses all of it")]

pub mod aws;
pub mod door;
pub mod environment_file;
pub mod log;
pub mod metadata;
pub mod outcome;
pub mod root;
pub mod sigv4;
pub mod simulated;
pub mod user;
