//! A stand-in for an engine that answers as Docker 29: the node's own dockerd, and in front of its socket a program that
//! refuses versions of the API below 1.44, and serves up to 1.52. `DOCKER_MIN_API_VERSION` in the environment of the
//! daemon lowers the first, to 1.24 and no further; an engine that allows less has that in the file `/etc/dockerd-29`.
//!
//! It takes dockerd's arguments, `-H fd://` among them, and becomes dockerd: what systemd knows is that process.

use std::ffi::c_int;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::FromRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{self, Command};
use std::time::Duration;
use std::{env, fs, thread};

const DOCKERD: &str = "/usr/sbin/dockerd";
const BEHIND: &str = "/run/dockerd-29.sock";
/// How this program is started to be the one in front.
const IN_FRONT: &str = "--in-front-of-dockerd=";
const DEFAULT_MINIMUM: Version = (1, 44);
const MAXIMUM: Version = (1, 52);
/// What the node's own engine serves.
const OWN: Version = (1, 41);
/// The first descriptor that systemd hands over.
const SOCKET: c_int = 3;

type Version = (u32, u32);

unsafe extern "C" {
    fn prctl(option: c_int, argument: usize) -> c_int;
}

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let error = match arguments.first().and_then(|first| first.strip_prefix(IN_FRONT)).and_then(version) {
        Some(minimum) => serve(minimum),
        None => begin(&arguments),
    };
    eprintln!("dockerd-29 (stand-in): {error}");
    process::exit(1)
}

fn version(text: &str) -> Option<Version> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Starts the one in front, and becomes dockerd.
fn begin(arguments: &[String]) -> String {
    let lowest = fs::read_to_string("/etc/dockerd-29").ok().and_then(|text| version(&text)).unwrap_or((1, 24));
    let minimum = match env::var("DOCKER_MIN_API_VERSION") {
        Err(_) => DEFAULT_MINIMUM,
        Ok(text) => match version(&text) {
            Some(minimum) if (lowest..=MAXIMUM).contains(&minimum) => minimum,
            Some(_) => {
                return format!(
                    "DOCKER_MIN_API_VERSION={text}: the minimum supported API version is {}.{}",
                    lowest.0, lowest.1
                );
            }
            None => return format!("DOCKER_MIN_API_VERSION={text} is not a version"),
        },
    };
    let mut front = Command::new("/proc/self/exe");
    front.arg(format!("{IN_FRONT}{}.{}", minimum.0, minimum.1));
    // Of the unit only the main process is stopped; the one in front ends with it.
    unsafe {
        front.pre_exec(|| {
            const PR_SET_PDEATHSIG: c_int = 1;
            prctl(PR_SET_PDEATHSIG, 9);
            Ok(())
        });
    }
    if let Err(error) = front.spawn() {
        return error.to_string();
    }
    let behind = |argument: &String| if argument == "fd://" { format!("unix://{BEHIND}") } else { argument.clone() };
    let error = Command::new(DOCKERD).args(arguments.iter().map(behind)).exec();
    format!("{DOCKERD}: {error}")
}

/// Serves on the socket that systemd has made.
fn serve(minimum: Version) -> String {
    let listener = unsafe { UnixListener::from_raw_fd(SOCKET) };
    for client in listener.incoming() {
        match client {
            Ok(client) => {
                thread::spawn(move || pass(client, minimum));
            }
            Err(error) => return error.to_string(),
        }
    }
    "no more connections".into()
}

fn pass(mut client: UnixStream, minimum: Version) -> io::Result<()> {
    let mut engine = loop {
        match UnixStream::connect(BEHIND) {
            Ok(engine) => break engine,
            // It is starting; when it ends, so does this.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    };
    let (mut answers, mut to_client) = (engine.try_clone()?, client.try_clone()?);
    let answering = thread::spawn(move || {
        let _ = copy(&mut answers, &mut to_client, |bytes| Ok(answer(bytes, minimum)));
        to_client.shutdown(Shutdown::Both)
    });
    let refused = copy(&mut client, &mut engine, |bytes| request(bytes, minimum)).err();
    if let Some(why) = refused.and_then(|error| error.into_inner()) {
        let body = format!("{{\"message\":\"{why}\"}}\n");
        let head = format!("Api-Version: {}.{}\r\nContent-Type: application/json", MAXIMUM.0, MAXIMUM.1);
        let length = format!("Connection: close\r\nContent-Length: {}", body.len());
        write!(client, "HTTP/1.1 400 Bad Request\r\n{head}\r\n{length}\r\n\r\n{body}")?;
        client.shutdown(Shutdown::Both)?;
        engine.shutdown(Shutdown::Both)?;
    }
    engine.shutdown(Shutdown::Write)?;
    let _ = answering.join();
    Ok(())
}

/// Copies until the end, what `change` makes of each part that comes.
fn copy(from: &mut UnixStream, to: &mut UnixStream, change: impl Fn(Vec<u8>) -> io::Result<Vec<u8>>) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&change(buffer[..length].to_vec())?)?,
        }
    }
}

/// A request to a version that is too old is an error with words; one to a version that the node's own engine does not
/// know goes to the newest that it knows. Our clients send the next request only after the answer, so each
/// begins a part.
fn request(mut bytes: Vec<u8>, minimum: Version) -> io::Result<Vec<u8>> {
    let line = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) = (words.next(), words.next(), words.next()) else {
        return Ok(bytes);
    };
    let Some(text) = target.strip_prefix("/v").and_then(|rest| rest.split('/').next()) else { return Ok(bytes) };
    let Some(asked) = version(text) else { return Ok(bytes) };
    let ((major, minor), (top, least)) = (asked, MAXIMUM);
    if asked < minimum {
        return Err(io::Error::other(format!(
            "client version {major}.{minor} is too old. Minimum supported API version is {}.{}, please upgrade your client to a newer version",
            minimum.0, minimum.1
        )));
    }
    if asked > MAXIMUM {
        return Err(io::Error::other(format!(
            "client version {major}.{minor} is too new. Maximum supported API version is {top}.{least}"
        )));
    }
    if asked > OWN {
        let start = method.len() + " /v".len();
        bytes.splice(start..start + text.len(), format!("{}.{}", OWN.0, OWN.1).into_bytes());
    }
    Ok(bytes)
}

/// An answer with this engine's versions for those of the node's own, which are as long.
fn answer(mut bytes: Vec<u8>, minimum: Version) -> Vec<u8> {
    let name = |(major, minor): Version| format!("{major}.{minor}");
    let pairs = [
        (format!("Api-Version: {}\r", name(OWN)), format!("Api-Version: {}\r", name(MAXIMUM))),
        (format!("\"ApiVersion\":\"{}\"", name(OWN)), format!("\"ApiVersion\":\"{}\"", name(MAXIMUM))),
        ("\"MinAPIVersion\":\"1.12\"".into(), format!("\"MinAPIVersion\":\"{}\"", name(minimum))),
    ];
    for (from, to) in pairs {
        let found: Vec<_> =
            bytes.windows(from.len()).enumerate().filter(|(_, part)| *part == from.as_bytes()).collect();
        let places: Vec<_> = found.into_iter().map(|(at, _)| at).collect();
        for at in places {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}
