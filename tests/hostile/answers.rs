//! Answers from the network, and files that others wrote, that are too long, too deep or malformed.
//!
//! Each case runs in its own process with limited memory, because the limit applies to a whole process.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};
use titus_bootstrap::host::{Deadlines, Host};
use titus_bootstrap::parsers::PARSERS;
use titus_bootstrap::titus::checks::{Finding, check_registration};

/// How much memory the process under attack may have beside its code, bytes.
const MEMORY: u64 = 64 << 20;

/// How long a parser may work on one input, in a thread's own time. Without optimization it takes some 30 times as long.
const PATIENCE: Duration = Duration::from_secs(if cfg!(debug_assertions) { 30 } else { 1 });

/// How many inputs each parser gets, its seeds first; with `FUZZ_MINUTES=20` in the environment it gets more until that
/// time is over, and with `PARSER=NAME` there is no other parser.
const INPUTS: u64 = 300;

/// Runs the test of this name in this file again, in a process with little memory.
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
    let minutes =
        std::env::var("FUZZ_MINUTES").ok().map(|minutes| minutes.parse::<u32>().unwrap() * Duration::from_secs(60));
    let only = std::env::var("PARSER").ok();
    for (name, parse) in PARSERS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let seeds = seeds(name);
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let began = Instant::now();
        let mut inputs: u64 = 0;
        let mut unchanged = seeds.iter().cloned();
        while inputs < INPUTS || minutes.is_some_and(|minutes| began.elapsed() < minutes) {
            let input = unchanged.next().unwrap_or_else(|| mutated(&seeds, &mut random));
            inputs += 1;
            let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
            let claim = parse(&input);
            let took = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap() - cpu);
            let shown = || String::from_utf8_lossy(&input).chars().take(2000).collect::<String>();
            assert!(claim.is_ok(), "{name}, input {inputs}: {}\n{}", claim.unwrap_err(), shown());
            assert!(took < PATIENCE, "{name}, input {inputs} of {} bytes: {took:?}", input.len());
        }
        eprintln!("{name}: {inputs} inputs in {} s", began.elapsed().as_secs());
    }
}

/// What each parser is for, and what once broke it: mutations begin here. `tests/fuzz` reads the same directories.
fn seeds(parser: &str) -> Vec<Vec<u8>> {
    let name: Vec<&str> = parser.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name = name.join("-");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directories = [
        format!("tests/seeds/{name}"),
        format!("tests/corpus/{name}"),
        format!("tests/corpus/{name}s"),
        format!("{name}s"),
    ];
    let mut paths: Vec<PathBuf> = directories
        .iter()
        .filter_map(|directory| fs::read_dir(root.join(directory)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.extension().is_none_or(|end| end != "expected"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "the parser {parser:?} has no seed: add one to tests/seeds/{name}/");
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
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

fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.number_below(seeds.len())].clone();
    for _ in 0..=random.number_below(8) {
        let at = random.number_below(bytes.len() + 1);
        let end = at + random.number_below(bytes.len() - at + 1);
        match random.number_below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.number_below(8),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, TOKENS[random.number_below(TOKENS.len())].bytes())),
            3 => drop(bytes.splice(at..end, TOKENS[random.number_below(TOKENS.len())].bytes())),
            // Again and again, as what is long or deep is.
            4 => {
                let part = if random.number_below(2) == 0 {
                    bytes[at..end].to_vec()
                } else {
                    TOKENS[random.number_below(TOKENS.len())].into()
                };
                let times = [2, 70, 1_000, 65_536][random.number_below(4)].min((64 << 10) / part.len().max(1));
                drop(bytes.splice(at..at, part.repeat(times)));
            }
            5 => bytes.truncate(at),
            6 => {
                let other = &seeds[random.number_below(seeds.len())];
                drop(bytes.splice(at..end, other[random.number_below(other.len())..].iter().copied()));
            }
            _ => bytes.insert(at, random.number_below(256) as u8),
        }
        bytes.truncate(1 << 20);
    }
    bytes
}

/// The same numbers in each run (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn number_below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// A server that answers any request with a header, and then with pieces until the client hangs up or the last piece is out.
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
    check_registration(&Host::live(Deadlines::default()), &[address.to_owned()], "10.0.0.1", 5051)
}

#[test]
fn a_mesos_master_of_any_size_takes_little_memory() {
    with_little_memory("a_mesos_master_with_many_agents");
}

#[test]
#[ignore = "its caller gives it a process"]
fn a_mesos_master_with_many_agents() {
    limit_memory();
    // 131,072 of them. As values in a tree, they would take more than 80 MiB. Many more would take a build without optimization
    // longer than the check waits, on a busy machine.
    let some = br#"{"pid":"x"},"#.repeat(1 << 10);
    let last = r#"{"pid": "slave(1)@10.0.0.1:5051"}]}"#;
    let address = endless("", move |n| match n {
        0 => Some(br#"{"slaves": ["#.to_vec()),
        1..128 => Some(some.clone()),
        128 => Some(last.into()),
        _ => None,
    });
    let finding = ask(&address);
    assert!(matches!(finding, Finding::Good(_)), "{finding:?}");
}

#[test]
fn a_false_master_cannot_fill_the_memory() {
    with_little_memory("documents_that_never_end");
}

#[test]
#[ignore = "its caller gives it a process"]
fn documents_that_never_end() {
    limit_memory();
    for (start, piece, expected) in [
        ("", "[", "nested lists and objects"),
        (r#"{"slaves": [{"pid": ""#, "x", "a text or number"),
        (r#"{"slaves": [{"#, r#""a": {"#, "nested lists and objects"),
        ("{", "\n", "a text or number"),
        ("<html>", "x", "it is not JSON"),
    ] {
        let piece = piece.repeat(64 << 10).into_bytes();
        let address = endless("", move |n| Some(if n == 0 { start.as_bytes().to_vec() } else { piece.clone() }));
        let finding = ask(&address);
        assert!(matches!(&finding, Finding::Bad(why) if why.contains(expected)), "{start}: {finding:?}");
    }
}
