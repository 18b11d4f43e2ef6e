//! Attacks that need a node.

mod containers;
mod users;
