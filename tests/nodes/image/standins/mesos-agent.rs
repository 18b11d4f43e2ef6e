//! A stand-in for Mesos's agent: it checks its environment as far as the real one
//! would notice, refuses to recover another configuration than its last, listens on
//! its port, and ends on SIGUSR1 or SIGTERM (their default action).

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::{env, fs, process};

fn main() {
    if let Err(why) = run() {
        eprintln!("mesos-agent (stand-in): {why}");
        process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let master = variable("MESOS_MASTER")?;
    let listed = master
        .strip_prefix("zk://")
        .and_then(|rest| rest.split_once('/'));
    let Some((servers, path)) = listed else {
        return Err(format!("MESOS_MASTER={master}"));
    };
    if path.is_empty()
        || !servers.split(',').all(|s| {
            s.rsplit_once(':')
                .is_some_and(|(_, p)| p.parse::<u16>().is_ok())
        })
    {
        return Err(format!("MESOS_MASTER={master}"));
    }
    exactly("MESOS_RECOVER", "reconnect")?;
    exactly("MESOS_STRICT", "false")?;
    check_resources(&variable("MESOS_RESOURCES")?)?;
    check_attributes(&variable("MESOS_ATTRIBUTES")?)?;
    let port: u16 = variable("MESOS_PORT")?
        .parse()
        .map_err(|e| format!("MESOS_PORT: {e}"))?;
    recover(Path::new(&variable("MESOS_WORK_DIR")?))?;

    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("port {port}: {e}"))?;
    for stream in listener.incoming() {
        let mut stream = stream.map_err(|e| e.to_string())?;
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
    }
    Ok(())
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}

fn exactly(name: &str, wanted: &str) -> Result<(), String> {
    let value = variable(name)?;
    if value == wanted {
        Ok(())
    } else {
        Err(format!("{name}={value}, not {wanted}"))
    }
}

fn check_resources(text: &str) -> Result<(), String> {
    for wanted in ["mem", "disk", "network"] {
        let number = text
            .split(';')
            .find_map(|r| r.strip_prefix(wanted)?.strip_prefix(':'));
        if number.and_then(|n| n.parse::<u64>().ok()).is_none() {
            return Err(format!("MESOS_RESOURCES={text}: no number for {wanted}"));
        }
    }
    Ok(())
}

/// The attributes of ROLES.md in their order, each with a value that cannot be
/// taken for two.
fn check_attributes(text: &str) -> Result<(), String> {
    let mut pairs = text
        .split(';')
        .map(|a| a.split_once(':').unwrap_or((a, "")));
    for wanted in [
        "region", "zone", "id", "asg", "stack", "itype", "ports", "res",
    ] {
        match pairs.next() {
            Some((key, value)) if key == wanted && !value.is_empty() && !value.contains(':') => {}
            other => {
                return Err(format!(
                    "MESOS_ATTRIBUTES={text}: {wanted} wanted, found {other:?}"
                ));
            }
        }
    }
    if text.contains(['<', '"', '\'', ' '])
        || !text.contains("ports:[")
        || !text.contains("res:ResourceSet-ENIs-")
    {
        return Err(format!("MESOS_ATTRIBUTES={text}: malformed"));
    }
    Ok(())
}

/// Mesos keeps the agent's description in its work directory, and does not start
/// with another one until someone removes `meta/slaves/latest`.
fn recover(work_dir: &Path) -> Result<(), String> {
    let latest = work_dir.join("meta/slaves/latest");
    let info = format!(
        "{}\n{}\n",
        variable("MESOS_ATTRIBUTES")?,
        variable("MESOS_RESOURCES")?
    );
    match fs::read_to_string(latest.join("slave.info")) {
        Ok(last) if last != info => {
            return Err(format!(
                "Incompatible slave info detected.\nOld: {last}New: {info}"
            ));
        }
        Ok(_) => return Ok(()),
        Err(_) => {}
    }
    fs::create_dir_all(&latest)
        .and_then(|()| fs::write(latest.join("slave.info"), info))
        .map_err(|e| format!("{}: {e}", latest.display()))
}
