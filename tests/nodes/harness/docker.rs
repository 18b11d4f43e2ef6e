//! The docker command, which makes and removes the nodes.

use std::process::Command;

/// What everything that the tests start is labelled with; its value is the test
/// process's id, so that the next run recognizes what an interrupted one left.
pub const LABEL: &str = "titus-bootstrap-test";

/// Runs `docker ARGUMENTS` and returns what it printed.
///
/// # Panics
/// When it fails.
pub fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("docker cannot be run, and nodes need it: {e}"));
    assert!(
        output.status.success(),
        "docker {}: {}\n{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// This process's label.
pub fn label() -> String {
    format!("{LABEL}={}", std::process::id())
}

/// Removes containers and images whose test process is gone; another process may do the same at this moment.
pub fn remove_abandoned() {
    let remove = |arguments: &[&str]| drop(Command::new("docker").args(arguments).output());
    let format = format!("{{{{.ID}}}} {{{{.Label \"{LABEL}\"}}}}");
    for line in docker(&["ps", "--all", "--filter", &format!("label={LABEL}"), "--format", &format]).lines() {
        if let Some(id) = abandoned(line) {
            remove(&["rm", "--force", "--volumes", id]);
        }
    }
    for image in docker(&["images", "--quiet", "--filter", &format!("label={LABEL}")]).lines() {
        let format = format!("x {{{{index .Config.Labels \"{LABEL}\"}}}}");
        let owner = Command::new("docker").args(["inspect", "--format", &format, image]).output().unwrap().stdout;
        if abandoned(String::from_utf8_lossy(&owner).trim()).is_some() {
            remove(&["rmi", "--force", image]);
        }
    }
}

fn abandoned(line: &str) -> Option<&str> {
    let (id, owner) = line.split_once(' ')?;
    let running = std::path::Path::new("/proc").join(owner).exists();
    (!running && owner.parse::<u32>().is_ok()).then_some(id)
}
