//! A proxy that records its requests: what must bypass it does, and each form of `proxy.no_proxy`
//! does what docs/reference.md says.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use support::aws::account::sample;
use support::aws::{Aws, Keys};
use support::metadata::{self, Metadata};
use support::root::{Root, ask, outcome};
use support::simulated::Machine;
use titus_bootstrap::host::no_proxy;

/// It answers every request, and makes no tunnel.
struct Proxy {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&requests);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let authorization =
                    headers.iter().find(|line| line.to_ascii_lowercase().starts_with("proxy-authorization"));
                let words: Vec<&str> = first.split(' ').take(2).collect();
                let words = words.into_iter().chain(authorization.map(String::as_str)).collect::<Vec<_>>().join(" ");
                written.lock().unwrap().push(words);
                let answer: &[u8] = match first.starts_with("CONNECT") {
                    true => b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                    false => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nproxy",
                };
                let _ = stream.write_all(answer);
            }
        });
        Proxy { address, requests }
    }

    /// Its requests since the last call.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// A machine whose downloads go through this proxy, except to this list.
fn machine(proxy: &Proxy, no_proxy: Option<&str>) -> Machine {
    let mut machine = Machine::new();
    machine.host.proxy.http = Some(proxy.address.clone());
    machine.host.proxy.https = Some(proxy.address.clone());
    machine.host.proxy.no_proxy = no_proxy.map(str::to_owned);
    machine
}

#[test]
fn loopback_and_link_local_are_never_asked_for_at_a_proxy() {
    let proxy = Proxy::start();
    for list in [None, Some(".example.test"), Some("10.0.0.0/8")] {
        let mut machine = machine(&proxy, list);
        for scheme in ["http", "https"] {
            for host in [
                "127.0.0.1:9",
                "127.1.2.3:9",
                "localhost:9",
                "LocalHost:9",
                "[::1]:9",
                "[::ffff:127.0.0.1]:9",
                "0.0.0.0:9",
                // As browsers and libraries read them: 127.0.0.1.
                "2130706433:9",
                "0x7f.1:9",
                // Nobody is there. Not the metadata service, which may be.
                "169.254.77.77:9",
                "[fe80::77]:9",
            ] {
                machine.host.deadlines.download = Duration::from_millis(500);
                machine.host.download(&format!("{scheme}://{host}/x"), 100).unwrap_err();
                assert_eq!(proxy.requests(), [""; 0], "{scheme}://{host} {list:?}");
            }
        }
        // What is not on this node goes through it.
        machine.host.deadlines.download = Duration::from_secs(60);
        assert_eq!(machine.host.download("http://198.51.100.1:9/x", 100).unwrap(), b"proxy", "{list:?}");
        assert_eq!(proxy.requests(), ["GET http://198.51.100.1:9/x"]);
        machine.host.download("https://198.51.100.1/x", 100).unwrap_err();
        assert_eq!(proxy.requests(), ["CONNECT 198.51.100.1:443"]);
    }
}

#[test]
fn each_form_of_no_proxy_does_what_it_says() {
    let proxy = Proxy::start();
    for (list, direct, through) in [
        ("example.test", &["example.test", "a.example.test"][..], &["notexample.test", "example.test.invalid"][..]),
        (".example.test", &["a.example.test"], &["example.test", "notexample.test"]),
        ("*.example.test", &["a.example.test"], &["example.test"]),
        ("example.test:81", &["example.test:81"], &["example.test", "example.test:82"]),
        ("198.51.100.1", &["198.51.100.1"], &["198.51.100.2", "198.51.100.11"]),
        ("198.51.100.1:81", &["198.51.100.1:81"], &["198.51.100.1"]),
        ("198.51.100.0/30", &["198.51.100.3"], &["198.51.100.4"]),
        ("[2001:db8::1],[2001:db8::2]:81", &["[2001:db8::1]", "[2001:db8::2]:81"], &["[2001:db8::2]", "[2001:db8::3]"]),
        ("2001:db8::/32", &["[2001:db8:1::1]"], &["[2001:db9::1]"]),
        ("*", &["example.test", "198.51.100.1"], &[]),
        ("a.test,*,b.test", &["example.test"], &[]),
    ] {
        // As a setting has it.
        let setting: titus_bootstrap::settings::forms::NoProxy = list.parse().unwrap();
        let mut machine = machine(&proxy, Some(setting.as_str()));
        for host in direct {
            machine.host.deadlines.download = Duration::from_millis(500);
            machine.host.download(&format!("http://{host}/"), 100).unwrap_err();
            assert_eq!(proxy.requests(), [""; 0], "{list}: {host}");
        }
        for host in through {
            machine.host.deadlines.download = Duration::from_secs(60);
            assert_eq!(machine.host.download(&format!("http://{host}/"), 100).unwrap(), b"proxy", "{list}: {host}");
            assert_eq!(proxy.requests(), [format!("GET http://{host}/")], "{list}");
        }
    }
}

#[test]
fn a_proxy_is_given_the_password_of_its_address() {
    let proxy = Proxy::start();
    let mut machine = machine(&proxy, None);
    machine.host.proxy.http = Some(proxy.address.replace("http://", "http://user:p%40ss@"));
    assert_eq!(machine.host.download("http://example.test/", 100).unwrap(), b"proxy");
    // user:p@ss.
    let requests = proxy.requests().remove(0).to_lowercase();
    assert_eq!(requests, "get http://example.test/ proxy-authorization: basic dxnlcjpwqhnz");
}

/// The API on loopback, as the metadata service: a run whose settings have a proxy asks both directly.
#[test]
fn a_run_asks_nothing_of_this_node_through_the_proxy() {
    let proxy = Proxy::start();
    let keys = Keys::new(1);
    let mut items = metadata::sample();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    items.extend(keys.items());
    let (root, metadata, aws) = (Root::empty(), Metadata::start(items), Aws::start(sample(), &keys));
    let settings = ["proxy.http", "proxy.https"].map(|key| format!("{key}={}", proxy.address));
    let mut command = root.program(&["facts", "--set", &settings[0], "--set", &settings[1]]);
    outcome(ask(&mut command, &metadata.endpoint()).env("AWS_ENDPOINT_URL_EC2", aws.endpoint())).ends_with(0);
    assert!(!aws.requests().is_empty() && !metadata.requests().is_empty());
    assert_eq!(proxy.requests(), [""; 0]);
}

/// What apt reads of it, apt 2.6 was tried on: `Acquire::http::Proxy::HOST`, and the ends of names in `no_proxy`.
#[test]
fn apt_gets_the_same_in_its_own_format() {
    let proxy = Proxy::start();
    let machine = machine(&proxy, Some("example.test,.internal.test,198.51.100.0/24,other.test:8080"));
    machine.root.write(
        "/etc/apt/sources.list",
        "deb http://198.51.100.7/debian stable main\ndeb http://198.51.101.7/debian stable main\n\
         deb http://user:pw@other.test:8080/debian stable main\ndeb http://third.test:8080/debian stable main\n\
         deb [trusted=yes] http://[::1]:9/debian stable main\n",
    );
    machine.offer("jq", "1");
    machine.prepend("apt-get", "env | grep -i proxy >$ROOT/variables; echo $APT_CONFIG >$ROOT/named");
    machine.host.install_packages(&["jq".into()]).unwrap();
    let variables = machine.root.read("/variables");
    let value = |name: &str| variables.lines().find_map(|line| line.strip_prefix(&format!("{name}="))).unwrap();
    assert_eq!((value("http_proxy"), value("https_proxy")), (proxy.address.as_str(), proxy.address.as_str()));
    let ends: Vec<&str> = value("no_proxy").split(',').collect();
    for end in [".example.test", ".internal.test", ".localhost", "::1"] {
        assert!(ends.contains(&end), "{end}: {ends:?}");
    }
    assert!(!ends.contains(&"example.test"), "notexample.test ends so: {ends:?}");
    let text = machine.root.read(machine.root.read("/named").trim());
    for scheme in ["http", "https"] {
        let is_direct = |host: &str| text.contains(&format!("Acquire::{scheme}::Proxy::{host} \"DIRECT\";\n"));
        assert!(["example.test", "localhost", "198.51.100.7", "other.test"].into_iter().all(is_direct), "{text}");
        assert!(!["198.51.101.7", "third.test", "internal.test"].into_iter().any(is_direct), "{text}");
    }
    assert!(!text.contains("pw"), "{text}");
}

/// dockerd and the credential helpers are Go programs: they are given what has to be direct beside the setting.
#[test]
fn dockerd_is_given_what_has_to_be_direct() {
    for (setting, list) in
        [(None, None), (Some("proxy.no_proxy=[2001:db8::1],.internal"), Some("2001:db8::1,.internal"))]
    {
        let root = Root::empty();
        let set: Vec<&str> = ["proxy.http=http://proxy.example:3128"].into_iter().chain(setting).collect();
        let words: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        root.run(&[&["--sample", "--role", "agent"][..], &words].concat()).ends_with(0);
        let variables =
            support::environment_file::read(&root.read("/etc/systemd/system/docker.service.d/20-titus-proxy.env"));
        let found = variables.iter().find(|(name, _)| name == "NO_PROXY").map(|(_, value)| value.as_str());
        assert_eq!(found, Some(no_proxy::for_go(list).as_str()));
    }
}
