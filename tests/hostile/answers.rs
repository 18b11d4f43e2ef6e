//! Answers from the network, and files of others, that are too long, too deep or not what they should be.
//!
//! Each case runs in a process of its own whose memory is limited, for a limit is of a process.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};
use titus_bootstrap::host::{Deadlines, Host};
use titus_bootstrap::parsers::PARSERS;
use titus_bootstrap::titus::checks::{Finding, registered};

/// How much memory the process under attack may have beside its code, bytes.
const MEMORY: u64 = 64 << 20;

/// How long a parser may work on one input, in a thread's own time. Without optimization it takes some 30 times as long.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 1 });

/// How many inputs each parser gets; `PARSER_INPUTS=100000` in the environment makes it another number, and `PARSER=NAME`
/// leaves out the other parsers.
const INPUTS: u64 = 300;

/// Runs a test of this file, whose name is given, again in a process with little memory.
#[track_caller]
fn with_little_memory(name: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("hostile::answers::{name}"), "--ignored", "--nocapture"]);
    // A stack as the program's main thread has it.
    let output = command.args(["--test-threads", "1"]).env("RUST_MIN_STACK", "8388608").output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
}

fn limit_memory() {
    setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY).unwrap();
}

#[test]
fn each_parser_holds() {
    with_little_memory("inputs_that_nobody_wrote");
}

#[test]
#[ignore = "its caller gives it a process"]
fn inputs_that_nobody_wrote() {
    limit_memory();
    let inputs = std::env::var("PARSER_INPUTS").map_or(INPUTS, |number| number.parse().unwrap());
    let only = std::env::var("PARSER").ok();
    for (name, parse) in PARSERS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        eprintln!("{name}");
        let seeds = seeds(name);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for n in 0..inputs {
            let input = mutated(&seeds, &mut random);
            let began = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
            parse(&input);
            let took = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap() - began);
            assert!(took < PATIENCE, "{name}, input {n} of {} bytes: {took:?}", input.len());
        }
    }
}

/// What each parser is for: mutations begin here.
fn seeds(parser: &str) -> Vec<&'static [u8]> {
    let texts: &[&str] = match parser {
        "user data" => &[
            "#!/usr/bin/titus-bootstrap --role agent\nagent.asg = \"a\"\n",
            "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n--b\nContent-Type: text/x-titus-bootstrap\n\n[agent]\nasg = \"a\"\n--b\nContent-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3NoCg==\n--b--\n",
            "IyEvdXNyL2Jpbi90aXR1cy1ib290c3RyYXAKYWdlbnQuYXNnID0gImEiCg==",
        ],
        "settings" => &["[agent]\nasg = \"a\"\nlabels = { A = \"b\" }\n[proxy]\nhttp = \"http://p:3128\"\n"],
        "registry credentials" => &[
            r#"{ "auths": { "h:5000": { "auth": "bWU6cHc6eA==" }, "i": { "username": "a", "password": "b" } } }"#,
            r#"{ "credHelpers": { "1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login" }, "credsStore": "pass" }"#,
        ],
        "role" => &[
            include_str!("../../roles/gateway.toml"),
            "[defaults]\n[[step]]\nid = \"a\"\nphase = \"boot\"\nunit = { name = \"a.service\" }\n",
        ],
        "facts" => &[
            r#"{"instance": {"id": "i-0123456789abcdef0", "type": "m5.xlarge", "tags": {"titus:role": "agent"}}, "machine": {}}"#,
        ],
        "metadata" => &[
            r#"{"Code": "Success", "AccessKeyId": "a", "SecretAccessKey": "b", "Token": "c", "Expiration": "2026-11-25T00:00:00Z"}"#,
            r#"{"instanceId": "i-0123456789abcdef0", "instanceType": "m5.xlarge", "availabilityZone": "eu-west-1a", "region": "eu-west-1"}"#,
            "ip-10-0-0-1.ec2.internal other.local",
        ],
        "EC2 API" => &[
            "<DescribeTagsResponse><tagSet><item><key>titus:role</key><value>agent</value></item></tagSet></DescribeTagsResponse>",
            "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-0123456789abcdef0</instanceId><privateIpAddress>10.0.0.1</privateIpAddress><networkInterfaceSet><item><attachment><deviceIndex>0</deviceIndex><attachTime>x</attachTime></attachment></item></networkInterfaceSet><tagSet><item><key>a</key><value>b</value></item></tagSet></item></instancesSet></item></reservationSet></DescribeInstancesResponse>",
            "<DescribeInstanceTypesResponse><instanceTypeSet><item><instanceType>m5.xlarge</instanceType><networkInfo><maximumNetworkInterfaces>4</maximumNetworkInterfaces><ipv4AddressesPerInterface>15</ipv4AddressesPerInterface><networkCards><item><baselineBandwidthInGbps>1.25</baselineBandwidthInGbps></item></networkCards></networkInfo></item></instanceTypeSet></DescribeInstanceTypesResponse>",
            "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors></Response>",
            "Wed, 25 Nov 2026 02:30:00 GMT",
        ],
        "Mesos agents" => &[
            r#"{"slaves": [{"id": "S0", "pid": "slave(1)@10.0.0.1:5051", "active": true, "resources": {"cpus": 4.0, "ports": "[1-2]"}}], "recovered_slaves": []}"#,
        ],
        "Mesos metrics" => &[r#"{"master/elected": 1.0, "master/uptime_secs": 12.5, "x": [1, "\u00e9"]}"#],
        "instance groups" => {
            &[r#"{"agentInstanceGroups": [{"id": "a", "lifecycleStatus": {"state": "Active", "timestamp": "1"}}]}"#]
        }
        "ZooKeeper srvr" => &[
            "Zookeeper version: 3.4.14-4c25d480, built on 03/06/2019 16:18 GMT\nLatency min/avg/max: 0/0/0\nReceived: 1\nSent: 0\nConnections: 1\nOutstanding: 0\nZxid: 0x100000000\nMode: follower\nNode count: 4\n",
        ],
        "ZooKeeper conf" => &[
            "clientPort=2181\ndataDir=/data/version-2\nserverId=1\nmembership: \nserver.1=10.0.0.1:2888:3888:participant\n",
        ],
        "properties" => &["a.b = c\\\n   d\n# x\n! y\ne\\ f:\\u00e9\\t\ng\n"],
        "OpenPGP" => &[include_str!("../data/key.asc")],
        "deb control" => &["Package: titus-executor\nVersion: 1:0.0.1-1~x\nArchitecture: amd64\nDescription: x\n y\n"],
        "apt" => &[
            "docker.io:\n  Installed: (none)\n  Candidate: 20.10\n  Version table:\n *** 20.10 500\n        500 http://d stable/main amd64 Packages\n",
            "bash\t5.2\tinstalled\tinstall\n",
            "Remv docker.io [20.10]\nErrors were encountered while processing:\n theirs\nE: The list of sources could not be read.\n",
            "The following packages have unmet dependencies:\n theirs : Depends: x but it is not installable\n",
            "E: Unable to locate package x\nW: GPG error: http://d stable InRelease: NO_PUBKEY 7EA0A9C3F273FCD8\n",
        ],
        "apt's sources" => &[
            "deb [arch=amd64 signed-by=/a.asc] https://u:p@d.example/debian x main # why\ndeb-src http://d ./\n",
            "# x\nTypes: deb deb-src\nURIs: http://d http://e/\nSuites: x y\nSigned-By:\n -----BEGIN PGP\n .\nEnabled: no\n\nTypes: deb\nURIs: file:/x\nSuites: z/\n",
        ],
        "mounts" => &["36 35 98:0 /mnt1 /mnt\\040x rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"],
        "grub.cfg" => &["menuentry 'Debian' {\n\tlinux /boot/vmlinuz-1 root=UUID=x ro quiet a=1\n\tinitrd /x\n}\n"],
        "systemctl show" => &[
            "LoadState=loaded\nActiveState=active\nExecMainStartTimestamp=Mon 2026-11-23 00:53:56 UTC\nExecStart={ path=/bin/a ; argv[]=/bin/a }\nDropInPaths=/a /b\n",
        ],
        "unit file" => &["[Unit]\nDescription=x\n[Install]\nWantedBy=a.target \\\n b.target\nAlso=x.socket\n"],
        "accounts" => &["root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"],
        "vpc tool" => &["time=\"x\" level=info\npanic: Unknown subtype\n\ngoroutine 1 [running]:\n"],
        "message" => &[
            "https://user:pw@host/a?X-Amz-Signature=b: password=\"c d\" Authorization: Bearer e\n-----BEGIN PRIVATE KEY-----\nf\n-----END PRIVATE KEY-----\n",
        ],
        other => panic!("the parser {other:?} has no seed"),
    };
    texts.iter().map(|text| text.as_bytes()).collect()
}

/// Texts that mean something to one of the parsers.
const TOKENS: [&str; 28] = [
    "\0",
    "\n",
    "\r\n",
    "\"",
    "'",
    "\\",
    "[",
    "]",
    "{",
    "}",
    "<",
    "</",
    ">",
    "&#x0;",
    "<![CDATA[",
    "=",
    ":",
    "#!",
    "--b\n",
    "\"\"\"",
    "\u{202e}",
    "\u{feff}",
    "99999999999999999999",
    "-1",
    "1e999",
    "@",
    "https://a:b@",
    "{{",
];

fn mutated(seeds: &[&[u8]], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(bytes.len() - at + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            3 => drop(bytes.splice(at..end, TOKENS[random.below(TOKENS.len())].bytes())),
            // Again and again, as what is long or deep is.
            4 => {
                let part = if random.below(2) == 0 {
                    bytes[at..end].to_vec()
                } else {
                    TOKENS[random.below(TOKENS.len())].into()
                };
                let times = [2, 70, 1_000, 65_536][random.below(4)].min((64 << 10) / part.len().max(1));
                drop(bytes.splice(at..at, part.repeat(times)));
            }
            5 => bytes.truncate(at),
            6 => {
                let other = seeds[random.below(seeds.len())];
                drop(bytes.splice(at..end, other[random.below(other.len())..].iter().copied()));
            }
            _ => bytes.insert(at, random.below(256) as u8),
        }
        bytes.truncate(1 << 20);
    }
    bytes
}

/// The same numbers in each run (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// A server that answers any request with a header, and then with pieces until the client hangs up or none is left.
fn endless(header: &'static str, mut piece: impl FnMut(usize) -> Option<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {}
            let mut stream = reader.into_inner();
            let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{header}Connection: close\r\n\r\n").as_bytes());
            for n in 0.. {
                match piece(n) {
                    Some(piece) if stream.write_all(&piece).is_ok() => {}
                    _ => break,
                }
            }
        }
    });
    address
}

fn ask(address: &str) -> Finding {
    let _ = rustls::crypto::ring::default_provider().install_default();
    registered(&Host::live(Deadlines::default()), &[address.to_owned()], "10.0.0.1", 5051)
}

#[test]
fn a_mesos_master_of_any_size_takes_little_memory() {
    with_little_memory("a_mesos_master_with_a_million_agents");
}

#[test]
#[ignore = "its caller gives it a process"]
fn a_mesos_master_with_a_million_agents() {
    limit_memory();
    // As values in a tree, they would take some 200 MiB.
    let some = br#"{"pid":"x"},"#.repeat(1 << 10);
    let last = r#"{"pid": "slave(1)@10.0.0.1:5051"}]}"#;
    let address = endless("", move |n| match n {
        0 => Some(br#"{"slaves": ["#.to_vec()),
        1..1024 => Some(some.clone()),
        1024 => Some(last.into()),
        _ => None,
    });
    let finding = ask(&address);
    assert!(matches!(finding, Finding::Good(_)), "{finding:?}");
}

#[test]
fn a_master_that_is_none_cannot_fill_the_memory() {
    with_little_memory("documents_that_never_end");
}

#[test]
#[ignore = "its caller gives it a process"]
fn documents_that_never_end() {
    limit_memory();
    for (start, piece, expected) in [
        ("", "[", "within one another"),
        (r#"{"slaves": [{"pid": ""#, "x", "a text or number"),
        (r#"{"slaves": [{"#, r#""a": {"#, "within one another"),
        ("{", "\n", "a text or number"),
        ("<html>", "x", "expected value"),
    ] {
        let piece = piece.repeat(64 << 10).into_bytes();
        let address = endless("", move |n| Some(if n == 0 { start.as_bytes().to_vec() } else { piece.clone() }));
        let finding = ask(&address);
        assert!(matches!(&finding, Finding::Bad(why) if why.contains(expected)), "{start}: {finding:?}");
    }
}
