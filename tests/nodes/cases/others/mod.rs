//! A node has other inhabitants: what they left is seen, and named where it is in the way.

mod apt;
mod docker;
mod files;
mod grub;
mod systemd;
