//! A run: what happens between a prepared role and the report of how it ended.

pub mod engine;
pub mod group;
pub mod journal;
pub mod reboot;
pub mod report;
