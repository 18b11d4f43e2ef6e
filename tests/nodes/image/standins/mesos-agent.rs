//! A stand-in for Mesos's agent: it checks its environment as far as the real one
//! would notice, demands a systemd with version 1 of control groups unless a flag makes it leave
//! systemd alone, refuses to recover another configuration than its last, listens on
//! its port, and ends on SIGUSR1 or SIGTERM (their default action). It follows the leading
//! master as the real one does, and registers with it every second, with the address that
//! libprocess advertises. It ignores a master that it cannot find.

use std::convert::Infallible;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, fs, io, process, thread};

use json::quoted;

mod address;
mod http;
mod json;
mod zookeeper;

/// As much of version 1 of control groups as the agent looks for (Mesos 1.0.1, src/linux/systemd.cpp).
const HIERARCHY: &str = "/sys/fs/cgroup/systemd";

fn main() {
    let Err(why) = run();
    eprintln!("mesos-agent (stand-in): {why}");
    process::exit(1)
}

fn run() -> Result<Infallible, String> {
    let master = variable("MESOS_MASTER")?;
    let (servers, path) = zookeeper::parse(&master).map_err(|e| format!("MESOS_MASTER={master}: {e}"))?;
    exactly("MESOS_RECOVER", "reconnect")?;
    exactly("MESOS_STRICT", "false")?;
    check_resources(&variable("MESOS_RESOURCES")?)?;
    let attributes = variable("MESOS_ATTRIBUTES")?;
    check_attributes(&attributes)?;
    let port: u16 = variable("MESOS_PORT")?.parse().map_err(|e| format!("MESOS_PORT: {e}"))?;
    let (bound, ip) = address::own(&["MESOS_IP", "LIBPROCESS_IP"])?;
    if env::var("MESOS_SYSTEMD_ENABLE_SUPPORT").as_deref() != Ok("false") && !Path::new(HIERARCHY).exists() {
        return Err("Failed to initialize systemd: Failed to locate systemd cgroups hierarchy: does not exist".into());
    }
    recover(Path::new(&variable("MESOS_WORK_DIR")?))?;

    let listener = TcpListener::bind((bound, port)).map_err(|e| format!("Failed to bind on {bound}:{port}: {e}"))?;
    let leader = Arc::new(Mutex::new(None));
    let found = Arc::clone(&leader);
    thread::spawn(move || zookeeper::follow(&servers, &path, &found));
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(|e| e.to_string())?;
    let id = format!("{}-S0", uuid.trim());
    thread::spawn(move || {
        loop {
            if let Some(master) = leader.lock().ok().and_then(|address| address.clone()) {
                let _ = register(&master, &id, ip, port, &attributes);
            }
            thread::sleep(Duration::from_secs(1));
        }
    });
    http::serve(&listener, |_, _, _| http::Answer::json("200 OK", "{}".into()))
}

/// Registers this agent with the master, in the form of the agent's own `GET /slaves`.
fn register(master: &str, id: &str, ip: IpAddr, port: u16, attributes: &str) -> io::Result<()> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let hostname = quoted(&env::var("MESOS_HOSTNAME").unwrap_or_else(|_| name.trim().to_owned()));
    let pairs = attributes.split(';').filter_map(|a| a.split_once(':'));
    let attributes: Vec<_> = pairs.map(|(key, value)| format!("{}:{}", quoted(key), attribute(value))).collect();
    let rest = format!(r#""active":true,"version":"1.0.1","attributes":{{{}}}"#, attributes.join(","));
    let own = format!(r#""id":"{id}","hostname":{hostname},"port":{port},"pid":"slave(1)@{ip}:{port}""#);
    let stream = http::connect(master)?;
    http::ask(&stream, master, "POST", "/stand-in/slaves", &format!("{{{own},{rest}}}")).map(|_| ())
}

/// A value of an attribute in JSON: what reads as a number is one, which Mesos calls a scalar.
fn attribute(value: &str) -> String {
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => format!("{number:?}"),
        _ => quoted(value),
    }
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}

fn exactly(name: &str, wanted: &str) -> Result<(), String> {
    let value = variable(name)?;
    if value == wanted { Ok(()) } else { Err(format!("{name}={value}, not {wanted}")) }
}

fn check_resources(text: &str) -> Result<(), String> {
    for wanted in ["mem", "disk", "network"] {
        let number = text.split(';').find_map(|r| r.strip_prefix(wanted)?.strip_prefix(':'));
        if number.and_then(|n| n.parse::<u64>().ok()).is_none() {
            return Err(format!("MESOS_RESOURCES={text}: no number for {wanted}"));
        }
    }
    Ok(())
}

/// The attributes of ROLES.md in their order, each with a value that cannot be
/// taken for two.
fn check_attributes(text: &str) -> Result<(), String> {
    let mut pairs = text.split(';').map(|a| a.split_once(':').unwrap_or((a, "")));
    for wanted in ["region", "zone", "id", "asg", "stack", "itype", "ports", "res"] {
        match pairs.next() {
            Some((key, value)) if key == wanted && !value.is_empty() && !value.contains(':') => {}
            other => {
                return Err(format!("MESOS_ATTRIBUTES={text}: {wanted} wanted, found {other:?}"));
            }
        }
    }
    if text.contains(['<', '"', '\'', ' ']) || !text.contains("ports:[") || !text.contains("res:ResourceSet-ENIs-") {
        return Err(format!("MESOS_ATTRIBUTES={text}: malformed"));
    }
    Ok(())
}

/// Mesos keeps the agent's description in its work directory, and does not start
/// with another one until someone removes `meta/slaves/latest`.
fn recover(work_dir: &Path) -> Result<(), String> {
    let latest = work_dir.join("meta/slaves/latest");
    let info = format!("{}\n{}\n", variable("MESOS_ATTRIBUTES")?, variable("MESOS_RESOURCES")?);
    match fs::read_to_string(latest.join("slave.info")) {
        Ok(last) if last != info => {
            return Err(format!("Incompatible slave info detected.\nOld: {last}New: {info}"));
        }
        Ok(_) => return Ok(()),
        Err(_) => {}
    }
    fs::create_dir_all(&latest)
        .and_then(|()| fs::write(latest.join("slave.info"), info))
        .map_err(|e| format!("{}: {e}", latest.display()))
}
