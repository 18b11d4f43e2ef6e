//! The commands: one thin file each.

pub mod activate;
pub mod apply;
pub mod check;
pub mod complete;
pub mod config;
pub mod explain;
pub mod facts;
pub mod fleet;
pub mod instance_type;
pub mod keep;
pub mod logs;
pub mod plan;
pub mod print;
pub mod render;
pub mod report;
pub mod role;
pub mod schema;
pub mod seal;
pub mod status;
pub mod verify;
pub mod why;
