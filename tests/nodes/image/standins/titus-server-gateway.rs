//! A stand-in for the Titus gateway, for tests: it refuses to start without the address of
//! the Titus master, by the names of releases until and since June 2018, and forwards the
//! API to it. The master need not be there when this starts. One that cannot be reached is 503, and one
//! that does not answer in time is 408. TERM ends it with 143. So does the real one (v0.1.0-rc.57).

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::process;
use std::time::Duration;

use http::Answer;
use json::quoted;

mod http;
mod json;
mod jvm;
mod properties;

const ADDRESS: [&str; 2] = ["titus.gateway.masterIp", "titus.gateway.masterHttpPort"];
const NEWER_ADDRESS: [&str; 2] = ["titus.masterClient.masterIp", "titus.masterClient.masterHttpPort"];
/// Milliseconds, 10000 if unset.
const PATIENCE: &str = "titus.grpcClient.requestTimeout";
const PORT: u16 = 7001;

fn main() {
    jvm::end_as_one();
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
    let patience = properties.get(PATIENCE).map_or("10000", String::as_str);
    let patience = Duration::from_millis(patience.parse().map_err(|e| format!("{PATIENCE}={patience}: {e}"))?);
    let master = format!("{host}:{port}");
    let listener = TcpListener::bind(("0.0.0.0", PORT)).map_err(|e| format!("port {PORT}: {e}"))?;
    eprintln!("titus-server-gateway (stand-in): port {PORT} leads to {master}");
    http::serve(&listener, move |method, target, body| forward(&master, patience, method, target, body))
}

fn forward(master: &str, patience: Duration, method: &str, target: &str, body: &str) -> Answer {
    if !target.starts_with("/api/v3/") {
        return Answer::plain("404 Not Found", "");
    }
    let ask = |stream| http::ask_within(patience, &stream, master, method, target, body);
    match http::connect(master).and_then(ask) {
        Ok(Answer(status, _, body)) if body.is_empty() => Answer::plain(&status, ""),
        Ok(Answer(status, _, body)) => Answer::json(&status, body),
        Err(why) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&why.kind()) => {
            let why = format!("DEADLINE_EXCEEDED: deadline exceeded after {}ns", patience.as_nanos());
            refuse("408 Request Timeout", &why)
        }
        Err(_) => refuse("503 Service Unavailable", "UNAVAILABLE: io exception"),
    }
}

fn refuse(status: &str, why: &str) -> Answer {
    Answer::json(status, format!(r#"{{"statusCode":{},"message":{}}}"#, &status[..3], quoted(why)))
}
