//! Debs that a test builds, and an HTTP server in a node that serves one, well or badly.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::agent::SETTINGS;
use super::image::SOURCE;
use super::node::Node;
use super::services::listen;

/// The package's name.
pub const PACKAGE: &str = "titus-server-master";
/// A file that it brings.
pub const CONTENTS: &str = "/opt/titus-server-master/contents";
/// A configuration file that it brings.
pub const CONFIGURATION: &str = "/etc/titus-server-master.conf";
/// What a maintainer script that blocks waits for; it writes its process id to `/run/deb-script`.
pub const GO: &str = "/run/deb-go";
/// Where the server listens.
pub const ADDRESS: &str = "127.0.0.1:8080";

/// A maintainer script that waits.
pub const BLOCKS: &str = "#!/bin/sh\necho $$ > /run/deb-script\nwhile [ ! -e /run/deb-go ]; do sleep 0.05; done\n";

/// A deb that is built, of [`PACKAGE`].
pub struct Deb<'a> {
    /// Its version.
    pub version: &'a str,
    /// Its architecture.
    pub architecture: &'a str,
    /// What [`CONTENTS`] has.
    pub contents: &'a [u8],
    /// What [`CONFIGURATION`] has.
    pub configuration: &'a str,
    /// Further lines of its control file.
    pub control: &'a str,
    /// Its maintainer scripts, by name.
    pub scripts: &'a [(&'a str, &'a str)],
}

/// One that depends on a package of the test repository that the image lacks.
pub const PLAIN: Deb = Deb {
    version: "0.0.1-1",
    architecture: "all",
    contents: b"one",
    configuration: "key=shipped\n",
    control: "Depends: libnfnetlink0\n",
    scripts: &[],
};

impl Deb<'_> {
    /// Its bytes.
    pub fn build(&self) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("files");
        let put = |path: &str, contents: &[u8]| {
            let path = files.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, contents).unwrap();
        };
        put(CONTENTS, self.contents);
        put(CONFIGURATION, self.configuration.as_bytes());
        let control = format!(
            "Package: {PACKAGE}\nVersion: {}\nArchitecture: {}\nMaintainer: tests <tests@example.invalid>\n\
             Description: a stand-in\n{}",
            self.version, self.architecture, self.control
        );
        put("DEBIAN/control", control.as_bytes());
        put("DEBIAN/conffiles", format!("{CONFIGURATION}\n").as_bytes());
        for (name, script) in self.scripts {
            put(&format!("DEBIAN/{name}"), script.as_bytes());
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(files.join("DEBIAN").join(name), executable).unwrap();
        }
        let deb = directory.path().join("x.deb");
        let mut command = Command::new("dpkg-deb");
        command.args(["--root-owner-group", "-Zgzip", "--build"]).args([&files, &deb]);
        let output = command.output().unwrap_or_else(|e| panic!("dpkg-deb, which builds the test's debs: {e}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read(deb).unwrap()
    }

    /// Puts it into a node.
    pub fn put(&self, node: &Node, path: &str) {
        std::fs::write(node.path(path), self.build()).unwrap();
    }
}

/// The SHA-256 of a deb.
pub fn sha256(deb: &[u8]) -> String {
    Sha256::digest(deb).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An operator's role, whose only deb is `debs.master`, and the sources of packages.
pub fn role(node: &Node) {
    node.write(
        "/etc/titus-bootstrap/roles/debs.toml",
        "description = \"A deb\"\n\n\
         [[step]]\nid = \"sources\"\nphase = \"bake\"\n\
         apt_source = { sources = \"{{ apt.sources }}\", distribution = \"{{ image.distribution }}\", codename = \"{{ image.codename }}\" }\n\n\
         [[step]]\nid = \"titus\"\nphase = \"bake\"\n\
         deb = { source = \"{{ debs.master }}\", setting = \"debs.master\" }\n\n\
         [[step]]\nid = \"unit-file\"\nphase = \"boot\"\n\
         file = { path = \"/etc/systemd/system/titus.service\", content = \"[Service]\\nExecStart=/bin/sleep infinity\\n\" }\n\n\
         [[step]]\nid = \"unit\"\nphase = \"boot\"\n\
         unit = { name = \"titus.service\", active = true, restart_on = [\"unit-file\", \"titus\"] }\n",
    );
    node.write(SETTINGS, SOURCE);
}

/// The version that dpkg has, and its status, e.g. `0.0.1-1 installed`.
pub fn installed(node: &Node) -> String {
    let format = "--showformat=${Version} ${db:Status-Status}";
    node.run(&["dpkg-query", "--show", format, PACKAGE]).out.trim().to_owned()
}

/// How the server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// As it should, ranges too.
    Good,
    /// The whole file, whatever range the request names.
    WithoutRanges,
    /// It closes the connection after so many bytes, each time.
    Cuts(usize),
    /// It says that there is no more than so many bytes.
    Truncates(usize),
    /// It sends so many bytes, and then nothing more.
    Hangs(usize),
    /// A status alone, e.g. `404 Not Found`.
    Status(&'static str),
}

/// A server; it lives as long as the test.
#[derive(Clone)]
pub struct Server {
    served: Arc<Mutex<(Vec<u8>, Manner)>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Serves nothing yet, at [`ADDRESS`] in the node.
    pub fn new(node: &Node) -> Server {
        let server = Server {
            served: Arc::new(Mutex::new((Vec::new(), Manner::Status("404 Not Found")))),
            requests: Arc::default(),
        };
        let (listener, one) = (listen(node, ADDRESS), server.clone());
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming().flatten() {
                held.extend(one.answer(stream).ok().flatten());
            }
        });
        server
    }

    /// From now on it serves this.
    pub fn serve(&self, deb: &[u8], manner: Manner) {
        *self.served.lock().unwrap() = (deb.to_vec(), manner);
        self.requests.lock().unwrap().clear();
    }

    /// The requests since then, in lower case.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<Option<TcpStream>> {
        let mut reader = BufReader::new(stream);
        let mut request = String::new();
        while reader.read_line(&mut request)? > 2 {}
        let (deb, manner) = self.served.lock().unwrap().clone();
        let request = request.to_lowercase();
        let range = request.split("\r\nrange: bytes=").nth(1).and_then(|rest| rest.split('-').next());
        let range: Option<usize> =
            range.and_then(|start| start.parse().ok()).filter(|_| manner != Manner::WithoutRanges);
        self.requests.lock().unwrap().push(request.clone());
        let mut stream = reader.into_inner();
        let all = if let Manner::Truncates(all) = manner { all } else { deb.len() };
        let rest = &deb[range.unwrap_or(0).min(all)..all];
        if let Manner::Status(status) = manner {
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return Ok(None);
        }
        let status = match range {
            Some(start) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{all}", all.max(1) - 1),
            None => "200 OK".to_owned(),
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
        match manner {
            Manner::Cuts(bytes) => stream.write_all(&rest[..bytes.min(rest.len())])?,
            Manner::Hangs(bytes) => {
                stream.write_all(&rest[..bytes.min(rest.len())])?;
                return Ok(Some(stream));
            }
            _ => stream.write_all(rest)?,
        }
        Ok(None)
    }
}

/// SIGKILL to every process of these names in a node, and to the maintainer script that waits: what
/// a power cut leaves.
pub fn kill(node: &Node, names: &[&str]) {
    let proc = node.path("/proc");
    let processes = std::fs::read_dir(&proc).unwrap().flatten().map(|entry| entry.path());
    let named = |path: &Path| std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| names.contains(&comm.trim()));
    let mut pids: Vec<String> = processes
        .filter(|path| named(path))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    if node.exists("/run/deb-script") {
        pids.push(node.read("/run/deb-script").trim().to_owned());
        std::fs::remove_file(node.path("/run/deb-script")).unwrap();
    }
    // One may end by itself meanwhile.
    node.run(&["bash", "-c", &format!("kill -KILL {}", pids.join(" "))]);
}
