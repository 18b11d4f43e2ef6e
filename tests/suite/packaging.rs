//! The deb as `packaging/deb/build` makes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::root::write_script;

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A checkout of this project as another version, and a program that says it has that version.
struct Checkout {
    directory: tempfile::TempDir,
    native: PathBuf,
}

impl Checkout {
    fn new(version: &str, changelog: &str) -> Checkout {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["src", "examples", "tests", "systemd", "docs", "build.rs", "LICENSE", ".cargo", "deny.toml"] {
            symlink(Path::new(PROJECT).join(name), path.join(name)).unwrap();
        }
        // Its scripts look for what is beside them.
        let copied = Command::new("cp").args(["-r", &format!("{PROJECT}/packaging")]).arg(path).status().unwrap();
        assert!(copied.success());
        for name in ["Cargo.toml", "Cargo.lock"] {
            let text = fs::read_to_string(Path::new(PROJECT).join(name)).unwrap();
            let own = format!("name = \"titus-bootstrap\"\nversion = \"{VERSION}\"");
            assert!(text.contains(&own), "{name}");
            let changed = text.replacen(&own, &own.replace(VERSION, version), 1);
            fs::write(path.join(name), changed).unwrap();
        }
        fs::write(path.join("CHANGELOG.md"), changelog).unwrap();
        let native = path.join("native");
        let program = env!("CARGO_BIN_EXE_titus-bootstrap");
        let says = format!(
            "#!/bin/sh\n[ \"$1\" != --version ] || exec echo titus-bootstrap {version}\nexec {program} \"$@\"\n"
        );
        write_script(&native, &says);
        Checkout { directory, native }
    }

    /// Runs its `packaging/deb/build`, with these variables, on a small program.
    fn build(&self, variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(self.directory.path().join("packaging/deb/build"));
        command.arg("/bin/true").arg(self.directory.path().join("debs"));
        command.env("TITUS_BOOTSTRAP_NATIVE", &self.native).env_remove("DPKG_DEB_COMPRESSOR_TYPE");
        command.envs(variables.iter().copied()).output().unwrap()
    }

    #[track_caller]
    fn deb(&self, variables: &[(&str, &str)]) -> PathBuf {
        let output = self.build(variables);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
    }
}

/// What a command prints.
fn printed(argv: &[&str]) -> String {
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    assert!(output.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_version_without_a_section_of_the_changelog_gets_no_deb() {
    for (version, changelog) in [
        ("0.3.0", "# Changelog\n\n## 0.2.0 - 2026-11-26\n\n- That.\n"),
        ("0.3.0", ""),
        // Every dot is one.
        ("0.3.0", "## 0a3b0 - 2026-11-26\n"),
        ("0.3.0-rc.1", "## 0.3.0 - 2026-11-26\n"),
        ("0.3.0", "## 0.3.0-rc.1 - 2026-11-26\n"),
        ("0.3.0", "## 0.3.0\n"),
        ("0.3.0", "## 0.3.0 - soon\n"),
        ("0.3.0", "## 0.3.0 - 2026-13-40\n"),
    ] {
        let checkout = Checkout::new(version, changelog);
        let output = checkout.build(&[]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && message.contains("CHANGELOG.md"), "{version} {changelog:?}: {message}");
        assert!(!checkout.directory.path().join("debs").exists());
    }
}

#[test]
fn a_binary_of_another_version_gets_no_deb() {
    let checkout = Checkout::new("0.3.0", "## 0.3.0 - 2026-11-26\n\n- That.\n");
    write_script(&checkout.native, "#!/bin/sh\necho titus-bootstrap 0.2.0\n");
    let message = String::from_utf8(checkout.build(&[]).stderr).unwrap();
    assert!(message.contains("is not of version 0.3.0"), "{message}");
}

/// Also whatever the caller's umask, time zone and language are.
#[test]
fn the_deb_of_a_pre_release_is_older_than_its_release_and_the_same_wherever_it_is_made() {
    let changelog =
        "# Changelog\n\n## 0.3.0-rc.1 - 2026-11-27\n\n- This,\n  and that.\n\n## 0.2.0 - 2026-11-26\n\n- It.\n";
    let (one, other) = (Checkout::new("0.3.0-rc.1", changelog), Checkout::new("0.3.0-rc.1", changelog));
    let deb = one.deb(&[]);
    let again = other.deb(&[("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8"), ("SOURCE_DATE_EPOCH", "1")]);
    assert!(fs::read(&deb).unwrap() == fs::read(&again).unwrap(), "two debs of the same sources differ");
    let deb = deb.to_str().unwrap();
    let architecture = printed(&["dpkg", "--print-architecture"]).trim().to_owned();
    assert!(deb.ends_with(&format!("/titus-bootstrap_0.3.0~rc.1_{architecture}.deb")), "{deb}");
    assert_eq!(
        printed(&["dpkg-deb", "--field", deb, "Version", "Architecture"]).lines().collect::<Vec<_>>(),
        ["Version: 0.3.0~rc.1", &format!("Architecture: {architecture}")]
    );

    // Debian 11 reads no zstd, which Ubuntu's dpkg-deb would take.
    let parts = printed(&["ar", "t", deb]);
    assert_eq!(parts.lines().collect::<Vec<_>>(), ["debian-binary", "control.tar.xz", "data.tar.xz"]);

    let files = one.directory.path().join("files");
    printed(&["dpkg-deb", "--extract", deb, files.to_str().unwrap()]);
    assert!(!files.join("etc").exists(), "the deb has files of the operator");
    let document = files.join("usr/share/doc/titus-bootstrap");
    let unzipped = |name: &str| printed(&["gzip", "-dc", document.join(name).to_str().unwrap()]);
    let changelog = unzipped("changelog.gz");
    let first = "titus-bootstrap (0.3.0~rc.1) stable; urgency=medium\n\n  * This,\n    and that.\n\n -- titus-bootstrap maintainers ";
    assert!(changelog.starts_with(first), "{changelog}");
    assert!(changelog.contains("  Fri, 27 Nov 2026 00:00:00 +0000\n") && changelog.contains("(0.2.0)"), "{changelog}");

    // What is linked in, in each form.
    let (notices, sbom) = (unzipped("THIRD-PARTY-NOTICES.gz"), unzipped("titus-bootstrap.cdx.json.gz"));
    let sbom: serde_json::Value = serde_json::from_str(&sbom).unwrap();
    assert_eq!(
        (&sbom["bomFormat"], &sbom["metadata"]["component"]["version"]),
        (&"CycloneDX".into(), &"0.3.0-rc.1".into())
    );
    let scope = |name: &str| {
        let components = sbom["components"].as_array().unwrap();
        let found = components.iter().find(|component| component["name"] == name);
        found.map(|component| component["scope"].as_str().unwrap())
    };
    for name in ["rustls", "ring", "tokio", "toml", "clap", "glibc", "libgcc", "rust-std"] {
        assert_eq!(scope(name), Some("required"), "{name}");
        assert!(notices.contains(&format!("\n{name} ")), "{name} is not in the notices");
    }
    assert_eq!((scope("serde_derive"), scope("proptest"), scope("rcgen")), (Some("excluded"), None, None));
    for text in ["GNU LESSER GENERAL PUBLIC LICENSE", "Apache License", "Permission is hereby granted", "ISC"] {
        assert!(notices.contains(text), "{text} is not in the notices");
    }
    let example = fs::read_to_string(document.join("examples/config.toml")).unwrap();
    assert!(toml::from_str::<toml::Table>(&example).unwrap().is_empty(), "an example that sets something");
}

#[test]
fn a_crate_that_deny_does_not_allow_is_named() {
    let rules = fs::read_to_string(Path::new(PROJECT).join("deny.toml")).unwrap();
    for (from, to, message) in [
        ("", "", None),
        ("    \"ISC\",\n", "", Some("is under ISC")),
        ("    \"MIT\",\n", "", Some("is under MIT")),
        ("{ crate = \"base64@", "{ crate = \"base65@", Some("base64 is there as ")),
        ("skip = [", "skip = [{ crate = \"gone@1.0.0\" },", Some("skips gone@1.0.0, which is not there")),
    ] {
        let checkout = Checkout::new(VERSION, "");
        let path = checkout.directory.path().join("deny.toml");
        fs::remove_file(&path).unwrap();
        fs::write(&path, rules.replacen(from, to, 1)).unwrap();
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut check = Command::new(checkout.directory.path().join("packaging/inventory"));
        let output = check.args([&target, "--check"]).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), message.is_none(), "{printed}");
        assert!(printed.contains(message.unwrap_or_default()), "{printed}");
    }
}
