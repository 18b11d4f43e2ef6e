//! A node has other inhabitants: a run finds what they left, and names what is in its way.

mod apt;
mod docker;
mod files;
mod grub;
mod systemd;
