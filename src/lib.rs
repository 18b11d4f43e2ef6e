//! titus-bootstrap: brings an EC2 instance into the state that its Titus role describes.
//!
//! Arrows point one way: [`commands`] -> [`engine`] -> [`step`] -> [`host`].

pub mod cli;
pub mod commands;
pub mod detect;
pub mod engine;
pub mod error;
pub mod facts;
pub mod health;
pub mod host;
pub mod journal;
pub mod properties;
pub mod report;
pub mod role;
pub mod seal;
pub mod secrets;
pub mod settings;
pub mod several;
pub mod step;
pub mod template;
pub mod titus;
pub mod userdata;
pub mod why;
