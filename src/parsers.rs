//! Every parser of what comes from the network, or from files that others write, under one name each: for tests that
//! feed them what nobody wrote. What they return is dropped.

use crate::{ec2, facts, host, properties, role, secrets, settings, step, titus, userdata};

/// A parser's name, and the parser.
pub type Parser = (&'static str, fn(&[u8]));

/// All of them.
pub const PARSERS: &[Parser] = &[
    ("user data", |bytes| drop(userdata::settings(bytes))),
    ("settings", |bytes| drop(settings::Layer::parse(settings::Source::UserData, &text(bytes)))),
    ("role", |bytes| drop(role::Role::parse("x", "x.toml", text(bytes)))),
    ("facts", |bytes| drop(serde_json::from_slice::<facts::Facts>(bytes))),
    ("metadata", ec2::imds::read_as_any_item),
    ("EC2 API", ec2::api::read_as_any_answer),
    ("Mesos agents", |bytes| drop(titus::checks::count_agents(host::json::Bounded::new(bytes), "10.0.0.1:5051"))),
    ("Mesos metrics", |bytes| drop(serde_json::from_reader::<_, step::wait::Metrics>(host::json::Bounded::new(bytes)))),
    ("instance groups", |bytes| drop(titus::instance_groups::has_group(host::json::Bounded::new(bytes), "a"))),
    ("ZooKeeper srvr", |bytes| _ = titus::zookeeper::Answer::of(&text(bytes))),
    ("ZooKeeper conf", |bytes| _ = step::ensemble::number_of(&text(bytes))),
    ("properties", |bytes| drop(properties::read(bytes))),
    ("OpenPGP", |bytes| drop(host::apt::openpgp::fingerprints(bytes))),
    ("deb control", |bytes| drop(host::apt::dpkg::parse(&text(bytes)))),
    ("apt", |bytes| host::apt::read_as_any_output(&text(bytes))),
    ("apt's sources", |bytes| host::apt::sources::read_as_any_file(&text(bytes))),
    ("mounts", |bytes| drop(host::fs::mounts::Mounts::of(&text(bytes), ""))),
    ("grub.cfg", |bytes| step::kernel_argument::read_as_any_menu(&text(bytes))),
    ("systemctl show", |bytes| host::systemd::systemctl::read_as_any_output(&text(bytes))),
    ("unit file", |bytes| drop(host::systemd::unit_files::install_section(&text(bytes)))),
    ("accounts", |bytes| drop(host::fs::accounts::record(&text(bytes), "root"))),
    ("vpc tool", |bytes| _ = titus::checks::decisive_line(&text(bytes))),
    ("registry credentials", host::docker::auth::read_as_any_file),
    ("message", |bytes| drop(secrets::masked(&text(bytes)))),
];

/// As commands and answers are read before they are parsed.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
