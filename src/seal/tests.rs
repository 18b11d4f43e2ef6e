use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::facts::{Instance, sample};

const ID: &str = "i-0123456789abcdef0";

/// A tree that a builder has left behind.
struct Tree {
    directory: tempfile::TempDir,
    host: Host,
}

impl Tree {
    fn new() -> Tree {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let tree = Tree { directory, host };
        tree.write("/etc/passwd", "root:x:0:0::/root:/bin/bash\nubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n");
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        symlink(target, self.path(path)).unwrap();
    }

    fn instance(&self) -> Instance {
        let instance = sample::facts().instance.unwrap();
        Instance {
            hostname: "ip-10-0-0-5.eu-west-1.compute.internal".into(),
            local_ipv4: "10.0.0.5".into(),
            ..instance
        }
    }

    fn seal_as(&self, builder: &Builder, only_look: bool) -> Vec<String> {
        let sealed = seal(&self.host, builder, only_look).unwrap();
        sealed.left.into_iter().map(|left| format!("{}: {}", left.path, left.why)).collect()
    }

    fn builder(&self) -> Builder {
        Builder::find(&self.host, Some(&self.instance())).unwrap()
    }

    fn seal(&self) -> Vec<String> {
        self.seal_as(&self.builder(), false)
    }
}

#[test]
fn what_a_builder_leaves_goes_and_the_rest_stays() {
    let tree = Tree::new();
    for path in [
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/var/lib/cloud/instances/i-0123456789abcdef0/user-data.txt",
        "/var/log/cloud-init.log",
        "/var/log/journal/0123/system.journal",
        "/var/lib/dhcp/dhclient.eth0.leases",
        "/var/lib/systemd/random-seed",
        "/etc/docker/key.json",
        "/var/lib/docker/engine-id",
        "/var/lib/titus-bootstrap/journal.jsonl",
        "/var/lib/titus-bootstrap/reboots.json",
        "/var/lib/mesos/meta/slaves/x",
        "/var/lib/zookeeper/version-2/log.1",
        "/root/.bash_history",
        "/home/ubuntu/.bash_history",
        "/tmp/script.sh",
        "/var/tmp/x",
        "/run/titus-bootstrap/status.json",
        "/var/lib/dbus/machine-id",
    ] {
        tree.write(path, ID);
    }
    tree.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    tree.write("/etc/hostname", "ip-10-0-0-5\n");
    for path in ["/etc/ssh/sshd_config", "/etc/docker/daemon.json", "/var/lib/titus-bootstrap/debs/x", "/home/ubuntu/x"]
    {
        tree.write(path, "{}");
    }
    let before = tree.seal_as(&tree.builder(), true);
    assert!(before.len() >= 20, "{before:#?}");
    assert!(tree.path("/var/log/cloud-init.log").exists());
    assert_eq!(tree.seal(), Vec::<String>::new());
    assert_eq!(fs::read(tree.path("/etc/machine-id")).unwrap(), b"");
    for path in ["/etc/ssh/sshd_config", "/etc/docker/daemon.json", "/var/lib/titus-bootstrap/debs/x", "/home/ubuntu/x"]
    {
        assert!(tree.path(path).exists(), "{path}");
    }
    assert!(tree.path("/var/log/journal/0123").is_dir() && tree.path("/tmp").is_dir());
    for path in ["/etc/hostname", "/run/titus-bootstrap", "/etc/ssh/ssh_host_ed25519_key", "/var/lib/dbus/machine-id"] {
        assert!(!tree.path(path).exists(), "{path}");
    }
    assert_eq!(tree.seal_as(&tree.builder(), true), Vec::<String>::new());
}

#[test]
fn what_reveals_the_builder_anywhere_is_named_and_left() {
    let tree = Tree::new();
    tree.write("/usr/share/x", &format!("{}{ID}", "-".repeat(3 << 20)));
    tree.write("/opt/ip-10-0-0-5/y", "");
    tree.write("/srv/z", "10.0.0.5:2181");
    tree.write("/srv/other", "10.0.0.50 i-0123456789abcdef ami-0123");
    tree.link("/srv/link", &format!("/var/lib/{ID}"));
    // An example in a package is not a trace, wherever /lib is; an edited file in /etc may be one.
    tree.write("/var/lib/dpkg/info/doc.list", "/.\n/lib/doc\n/etc/doc\n");
    tree.write("/usr/lib/doc", "10.0.0.5");
    tree.write("/var/lib/dpkg/info/x.list", "/usr/x\n");
    tree.write("/usr/x", &format!("10.0.0.5{}{ID}", "-".repeat(2 << 20)));
    tree.write("/etc/doc", "10.0.0.5");
    let left = tree.seal();
    assert_eq!(
        left,
        [
            "/etc/doc: it has the builder's address, 10.0.0.5",
            "/opt/ip-10-0-0-5: its name has the builder's host name, ip-10-0-0-5",
            "/srv/link: its name has the builder's instance id, i-0123456789abcdef0",
            "/srv/z: it has the builder's address, 10.0.0.5",
            "/usr/share/x: it has the builder's instance id, i-0123456789abcdef0",
            "/usr/x: it has the builder's instance id, i-0123456789abcdef0",
        ]
    );
    assert!(tree.path("/usr/share/x").exists());
}

#[test]
fn links_are_named_and_not_followed() {
    let tree = Tree::new();
    tree.write("/data/key", "secret");
    tree.link("/etc/ssh/ssh_host_rsa_key", "/data/key");
    tree.link("/etc/ssh/ssh_host_dsa_key", "/nowhere");
    tree.link("/var/log", "/etc");
    tree.link("/var/lib/dbus/machine-id", "/etc/machine-id");
    let left = tree.seal();
    assert_eq!(left.len(), 5, "{left:#?}");
    assert!(
        left[0].starts_with("/etc/ssh/ssh_host_rsa_key: ssh host key: is a symbolic link to /data/key"),
        "{left:?}"
    );
    assert!(left[1].starts_with("/var/log: log: ") && left[1].contains("symbolic link"), "{left:?}");
    assert!(tree.path("/etc/passwd").exists() && tree.path("/data/key").exists());
    assert!(!tree.path("/etc/ssh/ssh_host_dsa_key").is_symlink());
    assert!(tree.path("/var/lib/dbus/machine-id").is_symlink());
}

#[test]
fn what_cannot_be_read_is_named() {
    let tree = Tree::new();
    // Works for every user who runs the tests: a name longer than any path may be.
    let mut deep = tree.path("/srv");
    fs::create_dir(&deep).unwrap();
    for _ in 0..15 {
        deep = deep.join("d".repeat(240));
        fs::create_dir(&deep).unwrap();
    }
    let far = nix::fcntl::open(&deep, nix::fcntl::OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
    nix::sys::stat::mkdirat(&far, &*"e".repeat(240), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let next = nix::fcntl::OFlag::O_DIRECTORY;
    let far = nix::fcntl::openat(&far, &*"e".repeat(240), next, nix::sys::stat::Mode::empty()).unwrap();
    nix::sys::stat::mkdirat(&far, &*"f".repeat(240), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let left = tree.seal();
    assert!(left.iter().any(|line| line.starts_with("/srv/ddd") && line.contains("cannot search it")), "{left:?}");

    let tree = Tree::new();
    tree.write("/srv/closed", "text");
    fs::set_permissions(tree.path("/srv/closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let expected = if nix::unistd::geteuid().is_root() { 0 } else { 1 };
    assert_eq!(tree.seal().len(), expected);
}

#[test]
fn keys_of_the_builder_go_and_unknown_ones_are_named() {
    let tree = Tree::new();
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIGpHHo4Vg0i0bqGm3a7x4l9nVxX0T1cS0d3QqP0aB1cD";
    let other = key.replace("0aB1cD", "0other");
    tree.write("/root/.ssh/authorized_keys", &format!("no-pty,command=\"echo no\" ssh-ed25519 {key} packer\n"));
    tree.write("/home/ubuntu/.ssh/authorized_keys", &format!("# people\nssh-ed25519 {other} me\n"));
    let unknown = tree.seal();
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    let mut builder = tree.builder();
    builder.keys = Some(vec![key.into()]);
    assert_eq!(tree.seal_as(&builder, false), Vec::<String>::new());
    assert_eq!(fs::read(tree.path("/root/.ssh/authorized_keys")).unwrap(), b"");
    assert!(fs::read_to_string(tree.path("/home/ubuntu/.ssh/authorized_keys")).unwrap().contains(&other));
}

#[test]
fn what_is_someones_is_named_and_never_removed() {
    let tree = Tree::new();
    tree.write("/root/.aws/credentials", "x");
    tree.write("/home/ubuntu/.ssh/id_ed25519", "x");
    tree.write("/home/ubuntu/.ssh/id_ed25519.pub", "x");
    tree.write("/var/lib/docker/containers/abc/config.v2.json", "{}");
    tree.write("/var/lib/docker/overlay2/abc/diff/x", ID);
    let left = tree.seal();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(tree.path("/root/.aws/credentials").exists());
}
