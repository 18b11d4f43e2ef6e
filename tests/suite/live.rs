//! The live half of the engine and of the steps, on a machine in a directory: see `tests/support/simulated.rs`.

mod accounts;
mod adoption;
mod apply;
mod apt;
mod command;
mod container;
mod deb;
mod engine;
mod health;
mod image;
mod instance_group;
mod kernel_argument;
mod package;
mod replacement;
mod report;
mod sysctl;
mod unit;
mod wait;
