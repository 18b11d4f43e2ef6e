//! The commands: one thin file each.

pub mod activate;
pub mod apply;
pub mod check;
pub mod config;
pub mod facts;
pub mod instance_type;
pub mod keep;
pub mod plan;
pub mod print;
pub mod role;
pub mod seal;
pub mod status;
pub mod verify;
pub mod why;
