//! A registry in a node's network, which the node's Docker has as mirror of Docker Hub.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Stdio};

use super::node::Node;
use super::services::in_network;
use super::{image, mortal, wait_for};

/// Where the node's Docker looks for it.
pub const ADDRESS: &str = "127.0.0.1:5000";

/// Where it listens when a faulty line is in front of it.
pub const BEHIND: &str = "127.0.0.1:5001";

/// Who may pull from a private registry.
pub const USER: &str = "puller";

/// Their password.
pub const PASSWORD: &str = "a-password-of-tests";

/// That, as bcrypt stores it.
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuueA.5djcjiTIZGfiZPkCs0FT7mnizswe";

/// The registry; dropped, it ends.
pub struct Registry {
    child: Child,
    _directory: tempfile::TempDir,
    _users: Option<tempfile::NamedTempFile>,
}

impl Registry {
    /// Serves the images of the tests at `address` of the node.
    pub fn serve(node: &Node, address: &str) -> Registry {
        Registry::serve_in(node.init, address, "")
    }

    /// The same to [`USER`] with [`PASSWORD`] alone, by Basic auth.
    pub fn serve_private(node: &Node, address: &str) -> Registry {
        let users = tempfile::NamedTempFile::new().unwrap();
        writeln!(users.as_file(), "{USER}:{HASH}").unwrap();
        let path = users.path().display();
        let mut registry =
            Registry::serve_in(node.init, address, &format!("auth:\n  htpasswd: {{ realm: tests, path: {path} }}\n"));
        registry._users = Some(users);
        registry
    }

    /// The same in the network of the process with this id, with `more` in its configuration.
    pub fn serve_in(init: i32, address: &str, more: &str) -> Registry {
        let directory = tempfile::tempdir().unwrap();
        let configuration = directory.path().join("registry.yml");
        let storage = image::fresh().registry.display();
        let text = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  filesystem: {{ rootdirectory: {storage} }}\n  \
             maintenance: {{ readonly: {{ enabled: true }} }}\nhttp: {{ addr: \"{address}\" }}\n{more}"
        );
        std::fs::File::create(&configuration).unwrap().write_all(text.as_bytes()).unwrap();
        let mut command = mortal("nsenter");
        command.args(["-t", &init.to_string(), "-n", "docker-registry", "serve"]).arg(&configuration);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry = Registry { child, _directory: directory, _users: None };
        wait_for("the registry", || in_network(init, || TcpStream::connect(address).is_ok()).then_some(()));
        registry
    }

    /// The digest of the manifest that a tag names, `sha256:…`.
    pub fn digest(&self, name: &str, tag: &str) -> String {
        let storage = image::fresh().registry.display();
        let link = format!("{storage}/docker/registry/v2/repositories/{name}/_manifests/tags/{tag}/current/link");
        std::fs::read_to_string(&link).unwrap_or_else(|e| panic!("{link}: {e}")).trim().to_owned()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // setpriv and nsenter have become it: without -p it does not fork.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
