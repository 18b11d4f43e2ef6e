//! One file a case.

mod adopted;
mod again;
mod bake;
mod bench;
mod changed;
mod cluster;
mod containers;
mod cure;
mod ensemble;
mod fresh;
mod interfaces;
mod killed;
mod locked;
mod machine;
mod migrated;
mod names;
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
