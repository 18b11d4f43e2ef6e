//! A release: what `packaging/release` makes with a throw-away key.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::image::program;
use super::node::Node;

const LIST: &str = "/etc/apt/sources.list.d/titus-bootstrap.list";
const SOURCE: &str = "deb [signed-by=/etc/apt/keyrings/titus-bootstrap.asc] file:/srv/apt stable main\n";

/// The release's directory, and a home of gpg with one key, whose agent ends with it.
pub struct Release(tempfile::TempDir);

impl Release {
    /// Makes it of the program under test.
    pub fn make() -> Release {
        let release = Release(tempfile::tempdir().unwrap());
        // gpg wants it for its owner alone.
        std::fs::set_permissions(release.0.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut gpg = release.command("gpg");
        gpg.args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]);
        gpg.args(["--quick-generate-key", "release@example.invalid", "rsa3072", "sign", "never"]);
        assert!(gpg.status().unwrap().success());
        let mut command = release.command(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/release"));
        command.args(["--untested", "--binary"]).arg(program()).arg("release@example.invalid").arg(release.directory());
        // A debug binary is large, and xz slow.
        command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").stderr(Stdio::inherit());
        let made = command.output().unwrap();
        assert!(made.status.success());
        assert_eq!(String::from_utf8(made.stdout).unwrap().lines().last(), release.folder().to_str());
        release
    }

    /// What it wrote.
    pub fn directory(&self) -> PathBuf {
        self.0.path().join("release")
    }

    /// What it wrote of this version.
    pub fn folder(&self) -> PathBuf {
        self.directory().join(env!("CARGO_PKG_VERSION"))
    }

    /// Puts its apt repository into a node, as it is.
    pub fn copy_repository(&self, node: &Node) {
        copy(&self.directory().join("apt"), &node.path("/srv/apt"));
    }

    /// Puts its apt repository into a node, and its public key, as a person would. Returns the script that has apt read its
    /// list, and nothing else.
    pub fn add_to(&self, node: &Node) -> String {
        self.copy_repository(node);
        node.write("/etc/apt/keyrings/titus-bootstrap.asc", &node.read("/srv/apt/titus-bootstrap.asc"));
        node.write(LIST, SOURCE);
        // If apt has a list of the same Release, it does not read Packages again.
        format!(
            "rm -rf /var/lib/apt/lists/*; apt-get update -o Dir::Etc::sourcelist={LIST} -o Dir::Etc::sourceparts=- -o APT::Update::Error-Mode=any"
        )
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.env("GNUPGHOME", self.0.path());
        command
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = self.command("gpgconf").args(["--kill", "all"]).status();
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-rT").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}
