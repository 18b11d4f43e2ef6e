//! Stand-ins for the services of titus-executor, by the name that this program is started with: darion, which serves
//! logs, launchguard, and the reaper, which ends when the engine does not list its containers.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{env, io, process, thread};

use http::Answer;

mod http;

const ENGINE: &str = "/var/run/docker.sock";

fn main() {
    let program = env::args().next().unwrap_or_default();
    let why = match program.rsplit('/').next().unwrap_or_default() {
        "titus-darion" => serve(8004),
        "titus-launchguard-server" => serve(8006),
        "titus-reaper" => reap(),
        other => format!("there is no service {other}"),
    };
    eprintln!("{program} (stand-in): {why}");
    process::exit(1)
}

fn serve(port: u16) -> String {
    match TcpListener::bind(("0.0.0.0", port)) {
        Ok(listener) => http::serve(&listener, |_, target, _| match target {
            "/ping" => Answer::plain("200 OK", "pong"),
            _ => Answer::plain("404 Not Found", ""),
        }),
        Err(why) => format!("HTTP ListenAndServe: {port}: {why}"),
    }
}

fn reap() -> String {
    let mut pause = Duration::from_secs(1);
    loop {
        thread::sleep(pause);
        if let Err(why) = list_containers() {
            return format!("Unable to get containers: {why}");
        }
        pause = Duration::from_secs(60);
    }
}

fn list_containers() -> io::Result<()> {
    let mut stream = UnixStream::connect(ENGINE)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    // Without a version, as the real one.
    stream.write_all(b"GET /containers/json?all=1 HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(io::Error::other(String::from_utf8_lossy(&status))) }
}
