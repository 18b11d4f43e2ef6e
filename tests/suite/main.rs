//! The integration tests, in one executable: a change relinks one. A file here is a group of tests; add a
//! line below for a new one. `tests/run` runs them all, `tests/run NAME` those of this name; CONTRIBUTING.md
//! says what belongs where.
//!
//! The fourth ring is in `tests/nodes/`: nodes, which are containers with systemd as PID 1, an apt repository, a
//! metadata service on 169.254.169.254 and a Mesos master; and, if a test needs a separate kernel, an emulated
//! machine. They need root and a Docker Engine, and the feature `nodes`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod activity;
mod architecture;
mod aws;
mod check;
mod commands;
mod completion;
mod corpus;
mod docs;
mod drop_ins;
mod ec2_api;
mod exit_codes;
mod fleet;
mod golden;
mod imds;
mod journald;
mod keep;
mod killed;
mod language;
mod live;
mod logs;
mod metadata_run;
mod packaging;
mod parity;
mod partial;
mod plans;
mod proxies;
mod quoting;
mod readers;
mod refused;
mod report;
mod roles;
mod runs;
mod schemas;
mod seal;
mod secrets;
mod signals;
mod sigv4;
mod static_binary;
mod suggestions;
mod terraform;
mod user_data;
mod warm_pool;
mod why;
mod young;

#[cfg(feature = "nodes")]
#[path = "../nodes/harness/mod.rs"]
mod harness;
#[path = "../hostile/mod.rs"]
mod hostile;
#[cfg(feature = "nodes")]
#[path = "../nodes/cases/mod.rs"]
mod nodes;
#[path = "../support/mod.rs"]
mod support;

#[test]
fn every_file_of_tests_is_in_this_executable() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let stems = |directory: &str| -> Vec<String> {
        let files = std::fs::read_dir(tests.join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        files.filter_map(|name| Some(name.to_str()?.strip_suffix(".rs")?.to_owned())).collect()
    };
    assert_eq!(stems("."), [""; 0], "each would be a separate executable: move them to tests/suite/");
    for (directory, modules) in [
        ("suite", "suite/main.rs"),
        ("nodes/cases", "nodes/cases/mod.rs"),
        ("hostile", "hostile/mod.rs"),
        ("hostile/nodes", "hostile/nodes/mod.rs"),
    ] {
        let text = std::fs::read_to_string(tests.join(modules)).unwrap();
        let missing: Vec<String> = stems(directory)
            .into_iter()
            .filter(|stem| stem != "main" && stem != "mod")
            .filter(|stem| !text.lines().any(|line| line.trim_start_matches("pub ") == format!("mod {stem};")))
            .collect();
        assert_eq!(
            missing, [""; 0],
            "tests/{modules} lacks a line `mod NAME;` for them, so that none of their tests runs"
        );
    }
}
