//! titus-bootstrap: brings an EC2 instance into the state that its Titus role describes.
//!
//! Arrows point one way: [`app`] -> [`commands`] -> [`run`] -> [`prepare`] -> [`role`] -> [`step`] -> [`host`].

pub mod activity;
pub mod app;
#[doc(hidden)]
pub mod claims;
pub mod cli;
pub mod commands;
pub mod ec2;
pub mod error;
pub mod facts;
pub mod host;
#[doc(hidden)]
pub mod parsers;
pub mod prepare;
pub mod properties;
pub mod role;
pub mod run;
pub mod seal;
pub mod secrets;
pub mod settings;
pub mod step;
pub mod template;
pub mod terminal;
pub mod titus;
pub mod userdata;
pub mod why;

/// The layout of everything that is printed as JSON.
pub const SCHEMA_VERSION: u32 = 1;
