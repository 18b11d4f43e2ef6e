//! The documents: each command in them runs, and they describe each setting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

pub mod blocks;
mod generated;
mod recording;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use blocks::Shell;

/// Every document: README.md and its like, and each page of docs/.
pub fn documents() -> Vec<String> {
    let mut names =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "data/README.md"].map(str::to_owned).to_vec();
    let pages = std::fs::read_dir(project().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    names.extend(pages.filter_map(|name| name.to_str()?.strip_suffix(".md").map(|stem| format!("docs/{stem}.md"))));
    names.retain(|name| project().join(name).exists());
    names.sort();
    names
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether docs/img/make asks to write what the program prints into the documents.
fn is_update() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

pub fn document(name: &str) -> String {
    let path = project().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Indented lines: what a reader would paste.
fn pasted() -> Vec<String> {
    let texts: Vec<String> = documents().iter().map(|name| document(name)).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let pasted = lines.filter_map(|line| line.strip_prefix("    "));
    pasted.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned()).collect()
}

fn run(arguments: &[&str], root: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap"));
    command.args(arguments);
    if !arguments.contains(&"--sample") {
        command.arg("--sample");
    }
    if !arguments.contains(&"--root") {
        command.arg("--root").arg(root);
    }
    command.current_dir(root).output().unwrap()
}

#[test]
fn every_command_of_the_documents_runs() {
    let directory = tempfile::tempdir().unwrap();
    // What the reader has by then.
    for (name, contents) in [("config.toml", ""), ("user-data", "#!/usr/bin/titus-bootstrap\n")] {
        std::fs::write(directory.path().join(name), contents).unwrap();
    }
    let mut seen = 0;
    for line in pasted() {
        let Some(words) =
            line.strip_prefix("titus-bootstrap ").or_else(|| line.strip_prefix("cargo run --release -- "))
        else {
            continue;
        };
        // A shell splits and unquotes it, as it does for the reader.
        let split = Command::new("sh").args(["-c", &format!("printf '%s\\n' {words}")]).output().unwrap();
        let words = String::from_utf8(split.stdout).unwrap();
        let arguments: Vec<&str> = words.lines().collect();
        let output = run(&arguments, directory.path());
        // These need a live node, so the test checks their grammar only.
        let wanted: &[i32] = match arguments[0] {
            "verify" | "activate" => &[64],
            "status" => &[0, 1],
            _ => &[0],
        };
        let code = output.status.code().unwrap();
        assert!(wanted.contains(&code), "`{line}` ended with {code}: {}", String::from_utf8_lossy(&output.stderr));
        seen += 1;
    }
    assert!(seen >= 15, "only {seen} commands were found");
}

/// Shows what a document has and should have of a command, or writes it.
fn compare(name: &str, lines: &mut Vec<String>, at: usize, shown: &[String], printed: &[String]) -> Option<String> {
    if blocks::shows(shown, printed) {
        return None;
    }
    let new = blocks::shortened(shown, printed);
    if is_update() {
        lines.splice(at..at + shown.len(), new);
        return None;
    }
    Some(format!("{name}, line {}: the command prints\n{}\ndocs/img/make writes it there", at + 1, new.join("\n")))
}

/// A document, in the order of a reader: files are put where their first line says, commands run.
fn walk(name: &str) -> Vec<String> {
    let text = document(name);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (shell, mut faults, mut moved) = (Shell::new(), Vec::new(), 0);
    for block in blocks::blocks(&text) {
        let place = format!("{name}, line {}", block.first + 1);
        match block.info.split(' ').next().unwrap() {
            "toml" | "user-data" => faults.extend(check(&shell, &place, &block)),
            "console" if block.is("node") || block.is("elsewhere") => {
                faults.extend(block.commands().iter().filter_map(|(command, _)| is_parsed(&place, command)));
            }
            "console" => {
                let wanted = block.value("exit").map_or(0, |code| code.parse().unwrap());
                let commands = block.commands();
                let mut at = block.first;
                for (index, (command, shown)) in commands.iter().enumerate() {
                    at += command.lines().count();
                    let (code, printed) = shell.run(command);
                    let wanted = if index + 1 == commands.len() { wanted } else { 0 };
                    if code != wanted {
                        faults.push(format!("{place}: `{command}` ended with {code}:\n{printed}"));
                    }
                    let printed: Vec<String> = printed.lines().map(|line| line.trim_end().to_owned()).collect();
                    let before = lines.len();
                    let here = at.checked_add_signed(moved).unwrap();
                    faults.extend(compare(name, &mut lines, here, shown, &printed));
                    moved += isize::try_from(lines.len()).unwrap() - isize::try_from(before).unwrap();
                    at += shown.len();
                }
            }
            "text" | "json" | "ini" => {
                // A file that a command reads later.
                if let Some(path) = block.path() {
                    shell.write(path, &block.text());
                }
            }
            other => faults.push(format!("{place}: a block of the kind `{other}`; see tests/suite/docs/blocks.rs")),
        }
    }
    let new: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if is_update() && new != text {
        std::fs::write(project().join(name), new).unwrap();
    }
    faults
}

/// Whether a shell takes a command that cannot run here, and what it names is there.
fn is_parsed(place: &str, command: &str) -> Option<String> {
    let output = Command::new("bash").args(["-n", "-c", command]).output().unwrap();
    let missing = command.split_whitespace().find(|word| {
        ["packaging/", "tests/", "docs/"].iter().any(|start| word.starts_with(start)) && !project().join(word).exists()
    });
    match (output.status.success(), missing) {
        (true, None) => None,
        (false, _) => Some(format!("{place}: {command}: {}", String::from_utf8_lossy(&output.stderr))),
        (true, Some(missing)) => Some(format!("{place}: {missing} is not there")),
    }
}

/// Puts a block of settings, a role or a drop-in where it says, and has `check` accept it.
fn check(shell: &Shell, place: &str, block: &blocks::Block) -> Option<String> {
    let text = block.text().replace('…', &"0".repeat(64));
    let role = block.value("role").map(|role| format!(" --role {role}")).unwrap_or_default();
    let (code, printed) = match block.path() {
        Some(path) => {
            shell.write(path, &text);
            shell.run(&format!("titus-bootstrap check{role}"))
        }
        None => {
            let other = Shell::new();
            std::fs::write(other.path().join("settings.toml"), text).unwrap();
            other.run(&format!("titus-bootstrap check ./settings.toml{role}"))
        }
    };
    (code != 0).then(|| format!("{place}: `check` ended with {code}:\n{printed}"))
}

#[test]
fn every_block_of_the_documents_is_true() {
    let faults: Vec<String> = documents().iter().flat_map(|name| walk(name)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[test]
fn every_script_of_the_documents_is_there() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for line in pasted() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if name.starts_with("tests/") || name.starts_with("packaging/") {
            let mode = std::os::unix::fs::PermissionsExt::mode(&root.join(name).metadata().unwrap().permissions());
            assert!(mode & 0o111 != 0, "{name} cannot be run");
        }
    }
}

#[test]
fn every_path_of_the_documents_is_there() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in documents() {
        let text = document(&name);
        // Between backquotes; one in capitals stands for any.
        let paths = text.split('`').skip(1).step_by(2).filter(|word| {
            let starts = ["src/", "tests/", "docs/", "packaging/", "roles/", "systemd/"]
                .iter()
                .any(|start| word.starts_with(start));
            starts && !word.contains(|c: char| c.is_ascii_uppercase() || " *{\n".contains(c))
        });
        let missing: Vec<&str> = paths.filter(|path| !project.join(path).exists()).collect();
        assert_eq!(missing, [""; 0], "{name} names what is not there");
    }
}

/// What GitHub makes of a heading, for links to it.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || "-_".contains(c) => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.trim_start_matches('#').trim().chars().filter_map(kept).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let links = regex::Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut faults = Vec::new();
    let readmes = ["packaging/packer/README.md", "packaging/terraform/README.md"].map(str::to_owned);
    for name in documents().into_iter().chain(readmes) {
        let text = document(&name);
        for link in links.captures_iter(&text).map(|link| link.get(1).unwrap().as_str()) {
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => project().join(&name),
                path => project().join(&name).parent().unwrap().join(path),
            };
            let is_there = match () {
                () if link.starts_with("https://") => true,
                () if fragment.is_empty() => target.exists(),
                () => std::fs::read_to_string(&target).is_ok_and(|text| {
                    text.lines().filter(|line| line.starts_with('#')).any(|heading| anchor(heading) == fragment)
                }),
            };
            if !is_there {
                faults.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_page_of_the_documents_is_reached_from_the_readme() {
    let readme = document("README.md");
    for name in documents().iter().filter(|name| name.starts_with("docs/")) {
        assert!(readme.contains(&format!("({name}")), "README.md does not link to {name}");
    }
    let lines = readme.lines().count();
    assert!(lines <= 120, "README.md is one screen, and has {lines} lines");
}

#[test]
fn every_case_that_security_names_is_there() {
    fn sources(directory: &Path) -> String {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| if path.is_dir() { sources(&path) } else { std::fs::read_to_string(path).unwrap_or_default() })
            .collect()
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = sources(&project.join("tests/hostile")) + &sources(&project.join("src"));
    let text = document("docs/security.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        let cases = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        for case in cases.split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {case}()")), "docs/security.md names no test: {case}");
        }
    }
}

#[test]
fn every_failure_of_troubleshooting_is_made_by_a_case_and_is_in_the_table() {
    let cases = include_str!("../nodes/cases/troubleshooting.rs");
    let text = document("docs/troubleshooting.md");
    let headings: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.len() >= 30, "{headings:?}");
    for heading in headings {
        assert!(cases.contains(&format!("\"{heading}\"")), "no case makes the failure `{heading}`");
        assert!(text.contains(&format!("\n| [{heading}](#")), "the table lacks `{heading}`");
    }
}

#[test]
fn every_setting_is_in_the_reference() {
    let output = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap")).args(["config", "schema"]).output().unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let reference = document("docs/settings.md");
    let mut keys = Vec::new();
    leaves(&schema, &schema, "", &mut keys);
    assert!(keys.len() > 40, "{keys:?}");
    for key in keys {
        // The reference describes a small table as a whole.
        let table = key.rsplit_once('.').map_or("", |(table, _)| table);
        let there = reference.contains(&format!("`{key}`")) || reference.contains(&format!("`{table}`"));
        assert!(there, "docs/settings.md lacks {key}");
    }
}

fn leaves(schema: &serde_json::Value, at: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
    let reference = at.get("$ref").or_else(|| at.get("anyOf")?.get(0)?.get("$ref")).and_then(|r| r.as_str());
    let at = reference.and_then(|r| schema.pointer(r.trim_start_matches('#'))).unwrap_or(at);
    match at.get("properties").and_then(|p| p.as_object()) {
        None => keys.push(path.trim_start_matches('.').to_owned()),
        Some(properties) => properties.iter().for_each(|(k, v)| leaves(schema, v, &format!("{path}.{k}"), keys)),
    }
}

#[test]
fn every_exit_code_is_in_the_reference_and_in_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_titus-bootstrap")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for code in [0, 1, 2, 64, 69, 75, 77, 78] {
        assert!(document("docs/exit-codes.md").contains(&format!("| {code} |")), "{code}");
        assert!(help.contains(&format!("{code} ")), "{code}");
    }
}

/// The files of docs/roles.md's example, each with its path: indented blocks that begin with a comment that has it.
fn example() -> Vec<(String, String)> {
    let text = document("docs/roles.md");
    let (_, example) = text.split_once("\n## Example: a bastion\n").unwrap();
    let mut files: Vec<(String, String)> = Vec::new();
    for line in example.lines() {
        match line.strip_prefix("    ") {
            Some(line) if line.starts_with("# /etc/") => files.push((line[2..].to_owned(), String::new())),
            Some(line) => files.last_mut().unwrap().1.push_str(&format!("{line}\n")),
            None if line.is_empty() => files.last_mut().into_iter().for_each(|(_, text)| text.push('\n')),
            None => {}
        }
    }
    files
}

#[test]
fn the_example_of_a_role_works_unchanged() {
    let root = crate::support::root::Root::empty();
    let files = example();
    assert_eq!(files.len(), 4, "{files:?}");
    for (path, text) in &files {
        root.write(path, text.trim_start());
    }
    root.run(&["check"]).ends_with(0);
    root.run(&["plan", "--sample"])
        .ends_with(0)
        .prints(&["of role bastion", "from /etc/titus-bootstrap/roles/bastion.d/50-audit.toml"]);
    root.run(&["--sample"]).ends_with(0);
    let sshd = root.read("/etc/ssh/sshd_config.d/50-bastion.conf");
    assert_eq!(sshd.trim_end(), "Port 22\nAllowUsers ops\nAllowUsers oncall");
    assert_eq!(root.read("/etc/motd"), "i-0123456789abcdef0 in eu-west-1a, stack blue\n");
    assert_eq!(root.read("/etc/audit-bastion.env"), "PORT=22\n");
    assert!(root.at("/srv/bastion/oncall").is_dir());
    root.run(&["--sample"]).ends_with(0).prints(&["nothing to do"]);
    root.run(&["--sample", "--set", "vars.port=2222"]).ends_with(0);
    assert!(root.read("/etc/ssh/sshd_config.d/50-bastion.conf").starts_with("Port 2222\n"));
    root.run(&["--sample", "--set", "vars.prot=2222"]).ends_with(78).reports(&["did you mean `vars.port`?"]);
}
