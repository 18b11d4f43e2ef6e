//! A stand-in for the Titus gateway, for tests: it refuses to start without the address of
//! the Titus master, by the names of releases until and since June 2018, and forwards the
//! API to it. The master need not be there when this starts.

use std::convert::Infallible;
use std::net::TcpListener;
use std::process;

use http::Answer;

mod http;
mod properties;

const ADDRESS: [&str; 2] = ["titus.gateway.masterIp", "titus.gateway.masterHttpPort"];
const NEWER_ADDRESS: [&str; 2] = ["titus.masterClient.masterIp", "titus.masterClient.masterHttpPort"];
const PORT: u16 = 7001;

fn main() {
    let Err(why) = run();
    eprintln!("titus-server-gateway (stand-in): {why}");
    process::exit(1)
}

fn run() -> Result<Infallible, String> {
    let properties = properties::load(&[ADDRESS, NEWER_ADDRESS].concat())?;
    for (key, newer) in ADDRESS.iter().zip(NEWER_ADDRESS) {
        if properties[*key] != properties[newer] {
            return Err(format!("{key}={} and {newer}={} differ", properties[*key], properties[newer]));
        }
    }
    let [host, port] = ADDRESS.map(|key| &properties[key]);
    port.parse::<u16>().map_err(|e| format!("{}={port}: {e}", ADDRESS[1]))?;
    let master = format!("{host}:{port}");
    let listener = TcpListener::bind(("0.0.0.0", PORT)).map_err(|e| format!("port {PORT}: {e}"))?;
    eprintln!("titus-server-gateway (stand-in): port {PORT} leads to {master}");
    http::serve(&listener, move |method, target, body| forward(&master, method, target, body))
}

fn forward(master: &str, method: &str, target: &str, body: &str) -> Answer {
    if !target.starts_with("/api/v3/") {
        return Answer::plain("404 Not Found", "");
    }
    let answer = http::connect(master).and_then(|stream| http::ask(&stream, master, method, target, body));
    match answer {
        Ok(Answer(status, _, body)) if body.is_empty() => Answer::plain(&status, ""),
        Ok(Answer(status, _, body)) => Answer::json(&status, body),
        Err(why) => {
            Answer::plain("503 Service Unavailable", &format!("The Titus master {master} does not answer: {why}"))
        }
    }
}
