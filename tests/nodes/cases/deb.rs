//! Debs: installed from a path or an address, whatever fails in between.

use crate::harness::agent::SETTINGS;
use crate::harness::debs::{
    self, ADDRESS, BLOCKS, CONFIGURATION, CONTENTS, Deb, GO, Manner, PACKAGE, PLAIN, Server, installed, sha256,
};
use crate::harness::node::Node;
use crate::harness::services::{items, serve};
use crate::harness::wait_for;
use crate::support::outcome::Outcome;
use crate::support::tree::{assert_same, stamps, untouched};

const PATH: &str = "/root/titus.deb";
const RECORD: &str = "/var/lib/titus-bootstrap/debs/titus-server-master";

/// What of a run is the deb's.
const BAKE: [&str; 5] = ["apply", "--role", "debs", "--phase", "bake"];

fn from_path() -> String {
    format!("debs.master={{ path = \"{PATH}\" }}")
}

fn from_server(sha256: &str) -> String {
    format!("debs.master={{ url = \"http://{ADDRESS}/titus.deb\", sha256 = \"{sha256}\" }}")
}

/// What is in the cache.
fn cache(node: &Node) -> Vec<String> {
    let names = std::fs::read_dir(node.path("/var/cache/titus-bootstrap")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn apply(node: &Node, deb: &str) -> Outcome {
    node.bootstrap(&[&BAKE[..], &["--set", deb]].concat())
}

/// It says in its report that it did `what`, and dpkg has `version`, with these contents.
#[track_caller]
fn installs(node: &Node, deb: &str, what: &str, version: &str, contents: &str) {
    let run = apply(node, deb).ends_with(0);
    assert!(run.out.contains(what), "{}", run.transcript());
    assert_eq!(installed(node), format!("{version} installed"));
    assert_eq!(node.read(CONTENTS), contents);
    assert_eq!(cache(node), [""; 0], "something was left in the cache");
    assert_same(
        &stamps(&node.path("/")),
        &{
            apply(node, deb).ends_with(0);
            stamps(&node.path("/"))
        },
        "a second run changed",
    );
}

#[test]
fn deb_of_a_path() {
    let node = Node::fresh();
    debs::role(&node);
    PLAIN.put(&node, PATH);
    let deb = from_path();
    let planned = node.bootstrap(&["plan", "--role", "debs", "--phase", "bake", "--set", &deb]).ends_with(0);
    assert!(
        planned.out.contains("install titus-server-master 0.0.1-1 from /root/titus.deb"),
        "{}",
        planned.transcript()
    );
    installs(&node, &deb, "install titus-server-master 0.0.1-1 from", "0.0.1-1", "one");
    node.shell("dpkg-query --show libnfnetlink0");

    // The run needs neither a source nor the file any more. The same holds on a node of a baked image.
    node.shell(&format!(
        "mv /usr/bin/apt-get /usr/bin/apt-get.real; mv {PATH} /root/kept.deb
         printf '#!/bin/sh\\ntouch /run/apt-was-asked\\nexec apt-get.real \"$@\"\\n' > /usr/bin/apt-get; chmod 755 /usr/bin/apt-get"
    ));
    let run = apply(&node, &deb).ends_with(0);
    assert!(run.out.contains("nothing to do") && !node.exists("/run/apt-was-asked"), "{}", run.transcript());
    node.shell(&format!("mv /usr/bin/apt-get.real /usr/bin/apt-get; mv /root/kept.deb {PATH}"));

    // Another build of the same version; the administrator's configuration file stays.
    node.write(CONFIGURATION, "key=mine\n");
    Deb { contents: b"two", configuration: "key=shipped again\n", ..PLAIN }.put(&node, PATH);
    installs(&node, &deb, "reinstall titus-server-master 0.0.1-1 from", "0.0.1-1", "two");
    assert_eq!(node.read(CONFIGURATION), "key=mine\n");

    // The same by hand, which leaves our record as it is.
    Deb { contents: b"by hand", ..PLAIN }.put(&node, "/root/other.deb");
    node.shell("dpkg --force-confold --install /root/other.deb");
    installs(&node, &deb, "(same version, other contents)", "0.0.1-1", "two");

    // To a newer version and back, and a hold stays.
    Deb { version: "0.0.2-1", contents: b"new", ..PLAIN }.put(&node, PATH);
    installs(&node, &deb, "install titus-server-master 0.0.2-1 from /root/titus.deb (is 0.0.1-1)", "0.0.2-1", "new");
    node.shell(&format!("apt-mark hold {PACKAGE}"));
    PLAIN.put(&node, PATH);
    installs(&node, &deb, "(is 0.0.2-1: a downgrade)", "0.0.1-1", "one");
    assert_eq!(node.shell("apt-mark showhold").trim(), PACKAGE);

    // The run reports a source that is not available; the deb needs nothing from it.
    let settings = node.read(SETTINGS).replace("[\"file:/srv/repo\"]", "[\"file:/srv/repo\", \"file:/nowhere\"]");
    node.write(SETTINGS, &settings);
    Deb { contents: b"three", ..PLAIN }.put(&node, PATH);
    apply(&node, &deb).ends_with(0).reports(&["could not get every list of apt's sources", "/nowhere"]);
    assert_eq!(node.read(CONTENTS), "three");
    PLAIN.put(&node, PATH);

    // Removed by hand.
    node.shell(&format!("dpkg --remove --force-hold {PACKAGE}"));
    installs(&node, &deb, "install titus-server-master 0.0.1-1 from", "0.0.1-1", "one");
    assert_eq!(node.read(CONFIGURATION), "key=mine\n");
}

/// A run that must end with `code` and say `words`, and leave the node as it was.
#[track_caller]
fn refuses(node: &Node, deb: &str, code: i32, words: &[&str]) {
    let before = untouched(&node.path("/"));
    let run = apply(node, deb).ends_with(code);
    run.reports(words);
    let mut after = untouched(&node.path("/"));
    // A run that began leaves the journal and the cache of a download.
    if code == 1 {
        after.retain(|path, _| before.contains_key(path) || !path.contains("titus-bootstrap"));
        after.extend(
            before
                .iter()
                .filter(|(path, _)| path.contains("/titus-bootstrap/journal"))
                .map(|(p, s)| (p.clone(), s.clone())),
        );
    }
    assert_same(&before, &after, "a refused run changed");
}

#[test]
fn deb_that_cannot_be_had_is_reported_and_nothing_is_lost() {
    let node = Node::fresh();
    debs::role(&node);
    let server = Server::new(&node);
    let path = from_path();
    refuses(&node, &path, 78, &["/root/titus.deb does not exist", "debs.master"]);
    node.write(PATH, "no deb");
    refuses(&node, &path, 78, &["/root/titus.deb is not a deb"]);
    let foreign = Deb { architecture: "arm64", ..PLAIN };
    foreign.put(&node, PATH);
    refuses(&node, &path, 69, &["is for arm64, but this node is amd64"]);
    PLAIN.put(&node, PATH);
    let good = PLAIN.build();
    let wrong = format!("debs.master={{ path = \"{PATH}\", sha256 = \"{}\" }}", sha256(b"other"));
    refuses(&node, &wrong, 78, &["does not match its sha256", "set sha256 = "]);

    // For an address without a checksum, the message has the line to copy into the settings.
    server.serve(&good, Manner::Good);
    let unpinned = format!("debs.master={{ url = \"http://{ADDRESS}/titus.deb\" }}");
    refuses(&node, &unpinned, 78, &[&format!("sha256 = \"{}\"", sha256(&good))]);
    assert_eq!(server.requests().len(), 1);
    for command in [&["plan", "--role", "debs", "--phase", "bake"][..], &["check"]] {
        node.bootstrap(&[command, &["--set", &unpinned]].concat()).ends_with(78).reports(&["has no sha256"]);
    }
    assert_eq!(server.requests().len(), 1, "a plan or check downloads nothing");
    server.serve(b"", Manner::Status("404 Not Found"));
    refuses(&node, &unpinned, 78, &["it cannot be computed either", "404 Not Found"]);

    // From here on there is something to lose.
    installs(&node, &path, "install titus-server-master", "0.0.1-1", "one");
    let still_there = || {
        assert_eq!((installed(&node), node.read(CONTENTS)), ("0.0.1-1 installed".into(), "one".into()));
        apply(&node, &path).ends_with(0);
        assert_eq!(cache(&node), [""; 0], "something was left in the cache");
    };
    let newer = Deb { version: "0.0.2-1", ..PLAIN }.build();
    server.serve(&newer, Manner::Good);
    refuses(&node, &from_server(&sha256(b"other")), 1, &["does not match its sha256", &sha256(&newer), "debs.master"]);
    still_there();
    server.serve(&newer, Manner::Truncates(100));
    refuses(&node, &from_server(&sha256(&newer)), 1, &["100 bytes arrived", "does not match its sha256"]);
    still_there();
    server.serve(&newer, Manner::Status("403 Forbidden"));
    refuses(&node, &from_server(&sha256(&newer)), 1, &["cannot be downloaded", "403 Forbidden"]);
    still_there();
    let foreign = foreign.build();
    server.serve(&foreign, Manner::Good);
    refuses(&node, &from_server(&sha256(&foreign)), 1, &["is for arm64, but this node is amd64"]);
    still_there();
    let unmet = Deb { version: "0.0.2-1", control: "Depends: package-of-nobody\n", ..PLAIN }.build();
    server.serve(&unmet, Manner::Good);
    refuses(&node, &from_server(&sha256(&unmet)), 1, &["package-of-nobody", "apt.sources", "debs.master"]);
    still_there();
}

#[test]
fn deb_of_an_address() {
    let node = Node::fresh();
    debs::role(&node);
    let server = Server::new(&node);
    let starts = |server: &Server| {
        let start = |request: &String| request.split("range: bytes=").nth(1)?.split('-').next()?.parse().ok();
        server.requests().iter().map(start).collect::<Vec<Option<usize>>>()
    };
    // It stops half-way, each time.
    let deb = Deb { contents: &noise(40_000), ..PLAIN }.build();
    let half = deb.len() / 2 + 1;
    server.serve(&deb, Manner::Cuts(half));
    apply(&node, &from_server(&sha256(&deb))).ends_with(0).reports(&["again in 1s"]);
    assert_eq!(installed(&node), "0.0.1-1 installed");
    assert_eq!(starts(&server), [None, Some(half)]);
    let before = stamps(&node.path("/"));
    apply(&node, &from_server(&sha256(&deb))).ends_with(0);
    assert_same(&before, &stamps(&node.path("/")), "a second run changed");
    assert_eq!(server.requests().len(), 2, "a second run downloads nothing");

    // Killed in the middle of a download: the next run has the rest sent.
    let newer = Deb { version: "0.0.2-1", contents: &noise(50_000), ..PLAIN }.build();
    let (deb, half) = (from_server(&sha256(&newer)), newer.len() / 2);
    let killed = |server: &Server| {
        server.serve(&newer, Manner::Hangs(half));
        let mut run = node.spawn(&[&["titus-bootstrap"], &BAKE[..], &["--set", &deb]].concat());
        let part = format!("/var/cache/titus-bootstrap/{}.part", sha256(&newer));
        wait_for("half of the deb", || {
            std::fs::metadata(node.path(&part)).is_ok_and(|found| found.len() == half as u64).then_some(())
        });
        run.kill();
        run.end();
        assert_eq!(installed(&node), "0.0.1-1 installed");
    };
    killed(&server);
    // A link in the cache leads nowhere.
    node.shell("ln -s /etc/passwd /var/cache/titus-bootstrap/$(printf 0%.0s $(seq 64)).part");
    server.serve(&newer, Manner::Good);
    let run = apply(&node, &deb).ends_with(0);
    assert!(run.out.contains("(is 0.0.1-1)"), "the installed version is missing: {}", run.transcript());
    assert_eq!((installed(&node), starts(&server)), ("0.0.2-1 installed".into(), vec![Some(half)]));
    assert_eq!(cache(&node), [""; 0], "something was left in the cache");
    assert!(node.read("/etc/passwd").contains("root"));

    // The same from a server that knows no ranges; and what it installs is older.
    let older = PLAIN.build();
    server.serve(&older, Manner::Good);
    let run = apply(&node, &from_server(&sha256(&older))).ends_with(0);
    assert!(run.out.contains("(is 0.0.2-1: a downgrade)"), "{}", run.transcript());
    killed(&server);
    server.serve(&newer, Manner::WithoutRanges);
    apply(&node, &deb).ends_with(0);
    assert_eq!((installed(&node), starts(&server).len()), ("0.0.2-1 installed".into(), 1));

    // A cache without room.
    let large = Deb { version: "0.0.3-1", contents: &noise(8 << 20), ..PLAIN }.build();
    server.serve(&large, Manner::Good);
    node.shell(
        "mkdir -p /var/cache/titus-bootstrap && mount -t tmpfs -o size=4m,mode=0755 tmpfs /var/cache/titus-bootstrap",
    );
    apply(&node, &from_server(&sha256(&large))).ends_with(1).reports(&["/var/cache/titus-bootstrap", "make room"]);
    assert_eq!(installed(&node), "0.0.2-1 installed");
    node.shell("umount /var/cache/titus-bootstrap");
    apply(&node, &from_server(&sha256(&large))).ends_with(0);
    assert_eq!(installed(&node), "0.0.3-1 installed");
}

/// Bytes that cannot be compressed.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

#[test]
fn deb_that_was_half_installed_when_all_was_killed() {
    for (script, status) in [("preinst", "half-installed"), ("postinst", "half-configured")] {
        let node = Node::fresh();
        debs::role(&node);
        let deb = Deb { scripts: &[(script, BLOCKS)], ..PLAIN };
        deb.put(&node, PATH);
        let run = node.spawn(&[&["titus-bootstrap"], &BAKE[..], &["--set", &from_path()]].concat());
        wait_for(script, || node.exists("/run/deb-script").then_some(()));
        debs::kill(&node, &["titus-bootstrap", "apt-get", "dpkg"]);
        run.end();
        assert_eq!(installed(&node), format!("0.0.1-1 {status}"));
        assert!(!node.exists(RECORD));
        node.write(GO, "");
        let run = apply(&node, &from_path()).ends_with(0);
        assert!(run.out.contains(&format!("(it is {status})")), "{}", run.transcript());
        assert_eq!(installed(&node), "0.0.1-1 installed");
        assert_eq!(node.shell("dpkg --audit"), "");
        node.shell("dpkg-query --show libnfnetlink0");
        assert_eq!(cache(&node), [""; 0], "something was left in the cache");
        let before = stamps(&node.path("/"));
        apply(&node, &from_path()).ends_with(0);
        assert_same(&before, &stamps(&node.path("/")), "a second run changed");
    }
}

#[test]
fn deb_that_was_half_unpacked_is_replaced_by_another_version() {
    let node = Node::fresh();
    debs::role(&node);
    Deb { scripts: &[("preinst", BLOCKS)], control: "", ..PLAIN }.put(&node, PATH);
    let run = node.spawn(&[&["titus-bootstrap"], &BAKE[..], &["--set", &from_path()]].concat());
    wait_for("preinst", || node.exists("/run/deb-script").then_some(()));
    debs::kill(&node, &["titus-bootstrap", "apt-get", "dpkg"]);
    run.end();
    assert_eq!(installed(&node), "0.0.1-1 half-installed");
    Deb { version: "0.0.2-1", control: "Depends: package-of-nobody\n", ..PLAIN }.put(&node, PATH);
    apply(&node, &from_path()).ends_with(1).reports(&["titus-server-master 0.0.2-1", "package-of-nobody"]);
    Deb { version: "0.0.2-1", ..PLAIN }.put(&node, PATH);
    installs(&node, &from_path(), "titus-server-master 0.0.2-1 from /root/titus.deb (it is ", "0.0.2-1", "one");
    node.shell("dpkg-query --show libnfnetlink0");
    assert_eq!(node.shell("dpkg --audit"), "");
}

#[test]
fn deb_that_was_not_configured_is_replaced_by_a_build_that_can_be() {
    let node = Node::fresh();
    debs::role(&node);
    let broken = Deb { scripts: &[("postinst", "#!/bin/sh\necho words of a script\nexit 1\n")], ..PLAIN };
    broken.put(&node, PATH);
    for _ in 0..2 {
        apply(&node, &from_path()).ends_with(1).reports(&["titus-server-master 0.0.1-1", "words of a script"]);
        assert_eq!(installed(&node), "0.0.1-1 half-configured");
    }
    // Titus's debs have the same version forever.
    Deb { contents: b"fixed", ..PLAIN }.put(&node, PATH);
    installs(&node, &from_path(), "(it is half-configured)", "0.0.1-1", "fixed");

    // Killed after all was unpacked.
    PLAIN.put(&node, PATH);
    node.shell(&format!("dpkg --unpack {PATH}"));
    installs(&node, &from_path(), "(it is unpacked)", "0.0.1-1", "one");
}

#[test]
fn deb_whose_run_was_killed_while_apt_goes_on() {
    let node = Node::fresh();
    debs::role(&node);
    Deb { scripts: &[("postinst", BLOCKS)], ..PLAIN }.put(&node, PATH);
    let mut run = node.spawn(&[&["titus-bootstrap"], &BAKE[..], &["--set", &from_path()]].concat());
    wait_for("postinst", || node.exists("/run/deb-script").then_some(()));
    run.kill();
    run.end();
    let next = node.spawn(&[&["titus-bootstrap"], &BAKE[..], &["--set", &from_path()]].concat());
    wait_for("the next run to wait", || next.stderr().contains("waiting up to").then_some(()));
    node.write(GO, "");
    next.end().ends_with(0);
    assert_eq!(installed(&node), "0.0.1-1 installed");
    assert!(node.exists(RECORD));
}

#[test]
fn deb_that_is_another_restarts_its_unit() {
    let node = Node::fresh();
    let _services = serve(&node, items());
    debs::role(&node);
    PLAIN.put(&node, PATH);
    let all = |command: &str| node.bootstrap(&[command, "--role", "debs", "--set", &from_path()]).ends_with(0);
    let invocation = || node.property("titus.service", "InvocationID");
    all("apply");
    let first = invocation();
    assert!(!first.is_empty());
    all("apply");
    assert_eq!(invocation(), first, "restarted for nothing");
    Deb { contents: b"two", ..PLAIN }.put(&node, PATH);
    let planned = all("plan");
    assert!(planned.out.contains("restart titus.service"), "{}", planned.transcript());
    all("apply");
    let second = invocation();
    assert_ne!(second, first, "not restarted");
    all("apply");
    assert_eq!(invocation(), second, "restarted for nothing");
}

#[test]
fn deb_addresses_keep_their_secrets() {
    let node = Node::fresh();
    debs::role(&node);
    let server = Server::new(&node);
    let deb = PLAIN.build();
    let address = format!("http://canary-user:canary-password@{ADDRESS}/titus.deb?X-Amz-Signature=canary-query");
    let from = |sha256: &str| format!("debs.master={{ url = \"{address}\"{sha256} }}");
    let pinned = |deb: &[u8]| from(&format!(", sha256 = \"{}\"", sha256(deb)));
    let mut output = String::new();
    let mut run = |arguments: &[&str], deb: &str, code: i32| {
        let outcome = node.bootstrap(&[arguments, &["--set", deb]].concat()).ends_with(code);
        output.push_str(&format!("{}\n{}\n", outcome.out, outcome.err));
    };
    let verbose = [&BAKE[..], &["-v"]].concat();
    server.serve(b"", Manner::Status("404 Not Found"));
    run(&verbose, &from(""), 78);
    run(&verbose, &pinned(&deb), 1);
    server.serve(&deb, Manner::Cuts(100));
    run(&[&BAKE[..], &["-v", "--set", "timeouts.download=3s"]].concat(), &pinned(&deb[..50]), 1);
    server.serve(&deb, Manner::Status("302 Found\r\nLocation: ftp://canary-user:canary-password@elsewhere/"));
    run(&verbose, &pinned(&deb), 1);
    server.serve(&deb, Manner::Good);
    run(&verbose, &from(""), 78);
    run(&verbose, &pinned(b"other"), 1);
    run(&["plan", "--role", "debs", "--phase", "bake", "-v"], &pinned(&deb), 0);
    run(&[&BAKE[..], &["--json", "--log-format", "json", "-v"]].concat(), &pinned(&deb), 0);
    assert!(server.requests()[0].contains("authorization: basic"), "the credentials are for the server");
    run(&["check"], &pinned(&deb), 0);
    run(&["check"], &from(""), 78);
    assert!(!output.contains("canary"), "{output}");
    let files = node.run(&["grep", "-rIl", "canary", "/var", "/etc", "/run", "/root"]);
    assert_eq!(files.out, "", "a file has a secret");
    let journal = node.run(&["journalctl", "--no-pager", "--grep", "canary"]);
    assert!(!journal.out.contains("canary"), "{}", journal.transcript());
}
