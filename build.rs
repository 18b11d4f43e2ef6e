//! Passes the facts about the build to the crate, for `version --json`, and to the linker what to leave out.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TITUS_BOOTSTRAP_COMMIT");
    for name in ["TARGET", "PROFILE"] {
        println!("cargo::rustc-env=TITUS_BOOTSTRAP_{name}={}", variable(name));
    }
    println!(
        "cargo::rustc-env=TITUS_BOOTSTRAP_RUSTC={}",
        output(&variable("RUSTC"), &["--version"]).unwrap_or_default()
    );
    // packaging/build sets the commit explicitly, and marks uncommitted changes. A debug build has no commit, because each
    // commit would otherwise cause a recompilation.
    let given = std::env::var("TITUS_BOOTSTRAP_COMMIT").ok();
    let commit = given.or_else(|| (variable("PROFILE") == "release").then(head).flatten());
    println!("cargo::rustc-env=TITUS_BOOTSTRAP_COMMIT={}", commit.unwrap_or_default());
    leave_out_unwind_tables();
}

/// Removes the tables for unwinding, an eighth of the file. Nothing reads them, because a release build aborts when it panics.
fn leave_out_unwind_tables() {
    if variable("PROFILE") != "release" || variable("TARGET") != "x86_64-unknown-linux-gnu" {
        return;
    }
    let script = format!("{}/unwind.ld", variable("OUT_DIR"));
    let discard = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.eh_frame.*) } } INSERT AFTER .comment;\n";
    if std::fs::write(&script, discard).is_ok() {
        println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{script}");
    }
}

/// The commit that git has checked out; none outside a checkout.
fn head() -> Option<String> {
    println!("cargo::rerun-if-changed={}", output("git", &["rev-parse", "--git-path", "logs/HEAD"])?);
    output("git", &["rev-parse", "HEAD"])
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
