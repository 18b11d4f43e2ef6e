//! The live half of the engine and of the steps, on a machine in a directory: see `tests/support/simulated.rs`.

mod accounts;
mod apply;
mod apt;
mod container;
mod deb;
mod engine;
mod kernel_argument;
mod package;
mod sysctl;
mod unit;
