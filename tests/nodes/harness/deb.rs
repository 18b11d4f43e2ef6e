//! The deb of the program.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::image::program;
use super::node::Node;

/// The deb, made from the program under test once a test process.
pub fn deb() -> &'static Path {
    static DEB: OnceLock<PathBuf> = OnceLock::new();
    DEB.get_or_init(|| {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/deb/build");
        let mut command = Command::new(build);
        command.arg(program()).arg(env!("CARGO_TARGET_TMPDIR"));
        // A debug binary is large, and xz slow.
        command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").stderr(Stdio::inherit());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{build} failed: {}", output.status);
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    })
}

/// Installs it in a node.
pub fn install(node: &Node) {
    std::fs::copy(deb(), node.path("/root/titus-bootstrap.deb")).unwrap();
    node.shell("dpkg --install /root/titus-bootstrap.deb");
}
