//! One file a case.

mod adopted;
mod again;
mod autoscaling;
mod bake;
mod bench;
mod boot;
mod broken;
mod by_hand;
mod changed;
mod cloud_init;
mod cluster;
mod containers;
mod cure;
mod deb;
mod discovered;
mod engine;
mod ensemble;
mod executor;
mod first_boot;
mod fresh;
mod interfaces;
mod killed;
mod locked;
mod machine;
mod metadata;
mod migrated;
mod names;
mod others;
mod packer;
mod prereqs;
mod properties;
mod pulls;
mod quoting;
mod reboot;
mod recreated;
mod refused;
mod restarted;
mod scripts;
mod stopped;
mod synced;

#[path = "../../hostile/nodes/mod.rs"]
mod hostile;
