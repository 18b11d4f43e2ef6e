//! The live half of the engine and of the steps, on a machine in a directory: see `tests/support/simulated.rs`.

mod accounts;
mod adoption;
mod apply;
mod apt;
mod command;
mod container;
mod deb;
mod engine;
mod image;
mod kernel_argument;
mod package;
mod replacement;
mod report;
mod sysctl;
mod unit;
