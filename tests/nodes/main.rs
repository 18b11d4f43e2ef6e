//! The fourth ring of tests: nodes, which are containers with systemd as PID 1, an
//! apt repository, a metadata service on 169.254.169.254 and a Mesos master; and, for
//! what needs a kernel of its own, an emulated machine.
//!
//! They need root and a Docker Engine, and are built with `--features nodes` alone;
//! `tests/run` sees to all of it. CONTRIBUTING.md tells how to add a case.

#![cfg(feature = "nodes")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod cases;
mod harness;
#[path = "../support/mod.rs"]
mod support;
