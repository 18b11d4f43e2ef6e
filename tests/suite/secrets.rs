//! Plants each form of a secret wherever an operator can write one, and searches everything that the program prints
//! and stores. Only the file that a secret is for may contain it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;

use support::metadata::{Metadata, sample};
use support::root::{Outcome, Root, outcome, program, run};

/// The part that every planted value contains, and nothing else does.
const CANARY: &str = "c4n4ry";

/// Names of secrets, in the case and with the separators that people write.
const NAMES: [&str; 14] = [
    "DB.PASSWORD",
    "db.secret",
    "db-pwd",
    "PassPhrase",
    "api_key",
    "API Key",
    "apikey",
    "ssh-private-key",
    "PrivateKey",
    "OAuth.Token",
    "aws_credentials",
    "basic.auth",
    "X-Signature",
    "AccessToken",
];

/// Values that could break a reader or a quoting.
const VALUES: [&str; 5] = ["c4n4ry-1", "two c4n4ry words", "it's;a=c4n4ry&b", "c4n4ry\\\"c4n4ry", "[c4n4ry, c4n4ry]"];

const ROLES: &str = "/etc/titus-bootstrap/roles";

/// The settings of all roles, as TOML, with a secret of each name.
fn settings() -> String {
    let mut text = titus_bootstrap::facts::sample::SETTINGS.to_owned();
    text += "\n[agent.attributes]\napi_token = \"c4n4ry\"\n";
    text += "\n[agent.labels]\nDB_PASSWORD = \"it's two c4n4ry words\"\n";
    text += "\n[proxy]\nhttps = \"http://user:c4n4ry@proxy:3128\"\n";
    text += "\n[master.properties]\n\"url\" = \"jdbc:db://user:c4n4ry@h/x?password=c4n4ry\"\n";
    for (name, value) in NAMES.iter().zip(VALUES.iter().cycle()) {
        text += &format!("\"{name}\" = {}\n", toml::Value::String((*value).to_owned()));
    }
    text
}

/// A role whose files give secrets harmless names.
fn plant_own_role(root: &Root) {
    root.write(
        &format!("{ROLES}/own.toml"),
        "description = ''\n[[step]]\nid = 'env'\nphase = 'boot'\nfile = { path = '/etc/own.env', mode = '0600', template = 'own.env' }\n\
         [[step]]\nid = 'script'\nphase = 'boot'\nfile = { path = '/etc/own.sh', mode = '0600', template = 'own.sh' }\n\
         [[step]]\nid = 'keys'\nphase = 'boot'\nproperties = { path = '/etc/own.properties', mode = '0600', \
         set = { plain = \"{{ 'at ' ~ master.properties['DB.PASSWORD'] }}\" }, more = '{{ master.properties }}' }\n\
         [[step]]\nid = 'run'\nphase = 'boot'\ncontainer = { name = 'x', image = 'x:1', \
         environment = [\"DB={{ master.properties['DB.PASSWORD'] }}\"], command = [\"{{ master.properties['db.secret'] }}\"] }\n",
    );
    let names = ["DB.PASSWORD", "db.secret", "db-pwd", "PassPhrase"];
    let lines = |export: &str| -> String {
        let line = |(n, name): (usize, &&str)| format!("{export}V{n}={{{{ master.properties['{name}'] }}}}\n");
        names.iter().enumerate().map(line).collect()
    };
    root.write(&format!("{ROLES}/files/own.env"), lines("") + "ADDRESS={{ proxy.https }}\n");
    root.write(&format!("{ROLES}/files/own.sh"), lines("export ") + "TAG={{ instance.tags['titus:db-password'] }}\n");
}

#[track_caller]
fn hides(outcome: Outcome, what: &str) -> Outcome {
    for text in [&outcome.out, &outcome.err] {
        assert!(!text.contains(CANARY), "{what}:\n{text}");
    }
    outcome
}

/// Asserts that no record of runs contains a secret, nor any file that others may read.
#[track_caller]
fn kept_without_secrets(root: &Root, what: &str) {
    kept_without_secrets_but(root, &[], what);
}

/// Does so, except for files that should contain it.
#[track_caller]
fn kept_without_secrets_but(root: &Root, others: &[&str], what: &str) {
    for (path, look) in root.look().into_iter().filter(|(_, look)| look.contains(CANARY)) {
        let of_runs = path.starts_with("/var/") || path.starts_with("/run/");
        let readable = !look.starts_with("0600") && !look.starts_with("0400");
        let planted =
            path == "/etc/titus-bootstrap/config.toml" || path.starts_with("/srv/") || path.starts_with(ROLES);
        // The files for attributes and labels, in which an agent describes itself to everybody.
        let meant = ["/etc/mesos-attributes.sh", "/etc/mesos-agent.config", "/etc/titus-executor/config.sh"];
        let planted = planted || others.contains(&path.as_str());
        assert!(planted || meant.contains(&path.as_str()) || !(of_runs || readable), "{what}: {path}: {look}");
    }
    for kept in ["/run/titus-bootstrap/status.json", "/var/log/titus-bootstrap/last.log"] {
        if root.at(kept).exists() {
            assert!(!root.read(kept).contains(CANARY), "{what}: {kept}");
        }
    }
}

#[test]
fn no_command_shows_a_secret_of_the_settings() {
    for role in ["master", "agent", "own"] {
        let root = Root::empty();
        root.write("/etc/titus-bootstrap/config.toml", settings());
        plant_own_role(&root);
        let sample = printed_facts(&root);
        let ask = |words: &[&str]| {
            let arguments = [words, &["--role", role, "--facts", &sample]].concat();
            hides(root.run(&arguments).ends_with(0), &format!("{arguments:?}"))
        };
        for words in [&["config", "show"][..], &["facts"], &["plan"], &["check"], &["apply", "-v"], &["plan", "-v"]] {
            ask(words);
            ask(&[words, &["--json"]].concat());
        }
        let before = root.made();
        // Other values in their place: the old ones are secrets too.
        root.write("/etc/titus-bootstrap/config.toml", settings().replace(CANARY, "c4n4ry-new"));
        for words in [&["plan"][..], &["plan", "--json"], &["apply", "--save"]] {
            ask(words);
        }
        assert!(role == "agent" || before != root.made(), "{role}: nothing was changed");
        for words in [&["status"][..], &["status", "--json"], &["logs"], &["logs", "last", "--json"]] {
            ask(words);
        }
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("report.tar.gz");
        ask(&["report", &file.display().to_string()]);
        for (name, text) in crate::report::unpacked(&file) {
            assert!(!text.contains(CANARY), "{role}: {name} of the report:\n{text}");
        }
        kept_without_secrets(&root, role);
    }
}

/// Printed facts of the sample with a secret in a tag.
fn printed_facts(root: &Root) -> String {
    let mut facts = run(&["facts", "--sample", "--json"]).ends_with(0).json();
    facts["instance"]["tags"]["titus:db-password"] = "c4n4ry-tag".into();
    root.write("/srv/facts.json", facts.to_string());
    root.at("/srv/facts.json").display().to_string()
}

/// In a file that only root may read, the names of the values reveal nothing, and no form gives the values away.
#[test]
fn a_file_for_root_alone_is_not_shown() {
    let root = Root::empty();
    root.write(
        &format!("{ROLES}/private.toml"),
        "description = ''\n[[step]]\nid = 'env'\nphase = 'boot'\nfile = { path = '/etc/own.env', mode = '0600', template = 'own.env' }\n\
         [[step]]\nid = 'text'\nphase = 'boot'\nfile = { path = '/etc/own.txt', mode = '0400', content = \"c4n4ry in a line\\n\" }\n",
    );
    root.write(&format!("{ROLES}/files/own.env"), "PLAIN=c4n4ry\n# c4n4ry in a comment\n");
    let role = ["--role", "private", "--sample"];
    for old in ["", "PLAIN=c4n4ry-old\nc4n4ry-old in a line\n"] {
        for file in ["/etc/own.env", "/etc/own.txt"] {
            if !old.is_empty() {
                root.write(file, old);
            }
        }
        for words in [&["plan"][..], &["why", "PLAIN"], &["apply", "-v"], &["plan"], &["status"]] {
            for json in [&[][..], &["--json"]] {
                hides(root.run(&[words, &role, json].concat()).ends_with(0), &format!("{words:?}"));
            }
        }
        kept_without_secrets(&root, old);
    }
    assert_eq!(root.read("/etc/own.env"), "PLAIN=c4n4ry\n# c4n4ry in a comment\n");
}

/// Each form that marks a secret anywhere, in a value with a harmless name.
const FORMS: [&str; 9] = [
    "http://user:c4n4ry@h:1/x",
    "http://user:c4@n4ry-c4n4ry@h:1/x",
    "http://user:c4n4ry/c4n4ry@h:1/x",
    "user:c4n4ry@h:3128",
    "Authorization: Bearer c4n4ry",
    "X-Api-Key: c4n4ry",
    "Bearer c4n4ry-1",
    "password=\\\"c4n4ry with \\\\\\\" quotes\\\"",
    "-----BEGIN RSA PRIVATE KEY-----\\nc4n4ry\\n-----END RSA PRIVATE KEY-----",
];

#[test]
fn a_form_that_gives_a_secret_away_is_hidden_in_every_source() {
    for form in FORMS {
        let (root, metadata) = (Root::empty(), Metadata::start(sample()));
        let setting = format!("master.properties.plain = \"{form}\"");
        let text = text_of(form);
        // A property's value is one line.
        let set = if text.contains('\n') { "" } else { "plain = '{{ master.properties.plain }}'" };
        root.write("/etc/titus-bootstrap/config.toml", &setting);
        root.write(
            &format!("{ROLES}/own.toml"),
            format!(
                "description = ''\n[[step]]\nid = 'x'\nphase = 'boot'\nfile = {{ path = '/etc/own.txt', content = \"text {{{{ master.properties.plain | safe }}}}\\n\" }}\n\
                 [[step]]\nid = 'y'\nphase = 'boot'\nfile = {{ path = '/etc/other.txt', content = \"other {form}\\n\" }}\n\
                 [[step]]\nid = 'z'\nphase = 'boot'\nfile = {{ path = '/etc/third.txt', template = 'own.txt' }}\n\
                 [[step]]\nid = 'p'\nphase = 'boot'\nproperties = {{ path = '/etc/own.properties', \
                 set = {{ {set} }} }}\n"
            ),
        );
        root.write(&format!("{ROLES}/files/own.txt"), format!("third {text}\n"));
        root.write("/etc/own.txt", "something else\n");
        // The old contents of the file are as secret as the new ones, under a name that stays and under one that goes.
        let java = text.replace('\\', "\\\\").replace('\n', "\\n\\\n");
        root.write("/etc/own.properties", format!("plain = old {java}\n# {java}\nkept={java}\n"));
        let assignment = format!("agent.attributes.plain=\"{form}\"");
        metadata.set("user-data", Some(format!("#titus-bootstrap\n{setting}\n").into_bytes()));
        let tag = text.lines().next().unwrap().to_owned();
        metadata.set("meta-data/tags/instance/plain", Some(tag.into_bytes()));
        root.ask(&metadata, &["config", "show", "--role", "own"])
            .ends_with(0)
            .prints(&["master.properties.plain", "***"]);
        root.ask(&metadata, &["plan", "--role", "own"]).ends_with(0).prints(&["+text ", "***"]);
        for words in [
            &["config", "show", "--role", "own"][..],
            &["facts"],
            &["why", "master.properties.plain", "--role", "own"],
            &["plan", "--role", "own"],
            &["plan", "--role", "agent", "--set", &assignment],
            &["plan", "--role", "agent", "--set", &assignment.replace("attributes", "labels")],
            &["apply", "--role", "own", "-v"],
        ] {
            for json in [&[][..], &["--json"], &["--log-format", "json"]] {
                hides(root.ask(&metadata, &[words, json].concat()), &format!("{form}: {words:?}"));
            }
        }
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("report.tar.gz");
        root.ask(&metadata, &["report", &file.display().to_string(), "--role", "own"]).ends_with(0);
        for (name, text) in crate::report::unpacked(&file) {
            assert!(!text.contains(CANARY), "{form}: {name} of the report:\n{text}");
        }
        let made = ["/etc/own.txt", "/etc/other.txt", "/etc/third.txt", "/etc/own.properties"];
        assert!(made.iter().all(|path| root.read(path).contains(CANARY)), "{form}");
        kept_without_secrets_but(&root, &made, form);
    }
}

/// A form as it is, without the escapes of TOML.
fn text_of(form: &str) -> String {
    let table: toml::Table = toml::from_str(&format!("text = \"{form}\"")).unwrap();
    table["text"].as_str().unwrap().to_owned()
}

/// Addresses of proxies, and what people write in the place of one.
const PROXIES: [&str; 14] = [
    "http://user:c4n4ry@proxy:3128",
    "http://c4n4ry@proxy:3128",
    "http://:c4n4ry@proxy:3128",
    "http://user:c4@n4ry-c4n4ry@proxy:3128",
    "http://user:c4n4ry/c4n4ry@proxy:3128",
    "http://user:c4n4ry c4n4ry@proxy:3128",
    "http://user:c4n4ry%40c4n4ry@proxy:3128/",
    "HTTPS://User:c4n4ry@[::1]:3128",
    "http://proxy:3128/?token=c4n4ry",
    "http:user:c4n4ry@proxy:3128",
    "http//user:c4n4ry@proxy:3128",
    "user:c4n4ry@proxy:3128",
    "proxy:3128:user:c4n4ry",
    "password=c4n4ry",
];

/// Also if the program refuses such an address: it is the only place for a password in the settings of most nodes.
#[test]
fn the_address_of_a_proxy_is_hidden_in_every_source() {
    let mut taken = 0;
    for address in PROXIES {
        let (root, metadata) = (Root::empty(), Metadata::start(sample()));
        let keys = ["proxy.http", "proxy.https"];
        let assignments = keys.map(|key| format!("{key}={address}"));
        let lines = keys.map(|key| format!("{key} = {}\n", toml::Value::String(address.to_owned()))).concat();
        let mut codes = Vec::new();
        for source in ["file", "user data", "--set"] {
            let of_file = if source == "file" { &lines } else { "" };
            let settings = format!("prereqs = '10.0.0.1'\nagent.log_bucket = 'logs'\n{of_file}");
            root.write("/etc/titus-bootstrap/config.toml", settings);
            let user_data = (source == "user data").then(|| format!("#titus-bootstrap\n{lines}").into_bytes());
            metadata.set("user-data", user_data);
            let set = if source == "--set" { vec!["--set", &assignments[0], "--set", &assignments[1]] } else { vec![] };
            let run = |words: &[&str]| {
                let words = [words, &["--role", "agent"], &set].concat();
                hides(root.ask(&metadata, &words), &format!("{address} in {source}: {words:?}"))
            };
            for json in [&[][..], &["--json"]] {
                run(&[&["config", "show"][..], json].concat());
                run(&[&["why", "proxy.http"][..], json].concat());
                codes.push(run(&[&["plan", "-v"][..], json].concat()).code);
                run(&[&["apply", "-v", "--log-format", "json"][..], json].concat());
                run(&[&["status"][..], json].concat());
            }
        }
        assert!(codes.iter().all(|code| *code == codes[0] && [0, 78].contains(code)), "{address}: {codes:?}");
        taken += usize::from(codes[0] == 0);
        kept_without_secrets_but(&root, &["/etc/systemd/system/docker.service.d/20-titus-proxy.env"], address);
    }
    assert!((1..PROXIES.len()).contains(&taken), "{taken} addresses are taken");
}

/// The program only reports it: the file is the operator's.
#[test]
fn a_settings_file_with_a_secret_that_all_may_read_is_a_notice() {
    use std::os::unix::fs::PermissionsExt;
    let secret = "[master.properties]\n\"db.password\" = \"c4n4ry-in-a-file\"\n";
    let of_address = "proxy.http = 'http://me:c4n4ry-in-a-file@proxy:3128'\n";
    for (name, text, mode, is_noticed) in [
        ("config.toml", secret, 0o644, true),
        ("config.toml", of_address, 0o604, true),
        ("config.d/10-mine.toml", secret, 0o644, true),
        ("config.toml", secret, 0o600, false),
        ("config.toml", secret, 0o640, false),
        ("config.toml", "stack = \"mainvpc\"\n", 0o644, false),
        ("config.toml", "docker.auth = \"/root/auth.json\"\n", 0o644, false),
    ] {
        let root = Root::empty();
        let path = format!("/etc/titus-bootstrap/{name}");
        root.write(&path, text);
        std::fs::set_permissions(root.path().join(&path[1..]), std::fs::Permissions::from_mode(mode)).unwrap();
        let run = root.sample(&[]).ends_with(0);
        let notice = format!("{path} has a secret, and every user may read it: chmod 0600 {path}");
        assert_eq!(run.out.contains(&notice), is_noticed, "{text} {mode:o}\n{}", run.transcript());
        assert!(!run.transcript().contains("c4n4ry"));
    }
}

/// The variables of a caller: those that the program reads, those of its libraries, and one of anybody's.
const VARIABLES: [&str; 13] = [
    "DOCKER_HOST",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "HTTP_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NOTIFY_SOCKET",
    "TITUS_BOOTSTRAP_CRASH_AT",
    "DB_PASSWORD",
];

#[test]
fn the_environment_is_shown_and_kept_nowhere() {
    for form in FORMS {
        let (root, text) = (Root::empty(), text_of(form));
        let metadata = Metadata::start(sample());
        metadata.set("meta-data/tags/instance/titus:stack", Some(b"main".to_vec()));
        root.write(
            "/etc/titus-bootstrap/config.toml",
            "prereqs = '10.0.0.1'\nagent = { log_bucket = 'logs', resources = { mem = 8000, disk = 8000 } }\n",
        );
        for words in [
            &["facts"][..],
            &["config", "show", "--role", "agent"],
            &["why", "docker.host", "--role", "agent"],
            &["plan", "--role", "agent", "-v"],
            &["apply", "--role", "agent", "-v"],
            &["status", "--role", "agent"],
        ] {
            for json in [&[][..], &["--json"]] {
                let words = [words, json].concat();
                let mut command = root.program(&words);
                command.envs(VARIABLES.map(|name| (name, &text)));
                hides(
                    outcome(support::root::ask(&mut command, &metadata.endpoint())).ends_with(0),
                    &format!("{form}: {words:?}"),
                );
                // The only variable whose wrong value the program refuses.
                let mut command = root.program(&words);
                let refused = hides(outcome(support::root::ask(&mut command, &text)), &format!("{form}: {words:?}"));
                assert!(refused.code == 78 || words[0] == "status", "{}", refused.transcript());
            }
        }
        kept_without_secrets(&root, form);
    }
}

#[test]
fn why_hides_what_config_show_hides() {
    let root = Root::empty();
    root.write("/etc/titus-bootstrap/config.toml", settings());
    plant_own_role(&root);
    let facts = printed_facts(&root);
    let role = ["--role", "own", "--facts", &facts];
    let shown = root.run(&[&["config", "show"][..], &role].concat()).ends_with(0).out;
    let mut keys: Vec<String> = NAMES.iter().map(|name| format!("master.properties.{name}")).collect();
    for key in &keys {
        let line = shown.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}:\n{shown}"));
        assert!(line.contains("\"***\""), "{line}");
    }
    keys.extend(NAMES.iter().map(|name| format!("master.properties.\"{name}\"")));
    keys.extend(NAMES.map(str::to_owned));
    for key in
        ["plain", "url", "ADDRESS", "V0", "V1", "V2", "V3", "TAG", "instance.tags.titus:db-password", "proxy.https"]
    {
        keys.push(key.to_owned());
    }
    keys.extend(["master.properties", "master", "instance.tags", "agent.attributes"].map(str::to_owned));
    for key in &keys {
        for json in [&[][..], &["--json"]] {
            let words = [&["why", key][..], &role, json].concat();
            hides(root.run(&words).ends_with(0), key).prints(&["***"]);
        }
    }
}

#[test]
fn tags_and_user_data_are_hidden_and_the_print_of_facts_says_so() {
    let (root, metadata) = (Root::empty(), Metadata::start(sample()));
    let user_data = format!("#!/usr/bin/titus-bootstrap --role master\n{}", settings());
    metadata.set("user-data", Some(user_data.into_bytes()));
    for tag in ["titus:db-password", "App.Secret", "api-key"] {
        metadata.set(&format!("meta-data/tags/instance/{tag}"), Some(b"c4n4ry-tag".to_vec()));
    }
    plant_own_role(&root);
    for words in
        [&["facts"][..], &["config", "show"], &["plan"], &["apply", "-v"], &["status"], &["why", "DB.PASSWORD"]]
    {
        for json in [&[][..], &["--json"]] {
            hides(root.ask(&metadata, &[words, json].concat()).ends_with(0), &format!("{words:?}"));
        }
    }
    kept_without_secrets(&root, "user data");

    let printed = root.ask(&metadata, &["facts", "--json"]).ends_with(0);
    let hidden = ["App.Secret", "api-key", "titus:db-password"].map(|tag| format!("instance.tags.{tag}"));
    assert_eq!(printed.json()["hidden"], serde_json::json!(hidden));
    assert_eq!(printed.json()["instance"]["tags"]["titus:db-password"], "***");
    assert_eq!(printed.json()["instance"]["tags"]["Name"], "titusagent");
    root.write("/srv/facts.json", &printed.out);
    let facts = root.at("/srv/facts.json").display().to_string();
    let again = run(&["facts", "--facts", &facts, "--json"]).ends_with(0).json();
    assert_eq!(again["hidden"], serde_json::json!(hidden));
    assert_eq!(again["instance"], printed.json()["instance"]);
    let plain = run(&["facts", "--sample", "--json"]).ends_with(0).json();
    assert_eq!(plain.get("hidden"), None, "nothing is hidden, so there is no notice");
}

#[test]
fn a_refusal_names_the_setting_and_not_its_secret() {
    let root = Root::empty();
    for (text, words) in [
        ("[master.properties]\n\"DB.PASSWORD\" = 47114711\n", &["line 2, column 17"][..]),
        ("[agent.resources]\ndb_secret = \"c4n4ry\"\n", &["line 2, column 13"]),
        ("[agent.attributes]\napi_token = \"c4n4ry \\u0007\"\n", &["agent.attributes.api_token"]),
        ("[master.properties]\n\"db.secret\" = \"c4n4ry\\nc4n4ry\"\n", &["db.secret"]),
        ("[proxy]\nhttps = \"http://user:c4n4ry@proxy:3128 x\"\n", &["proxy.https"]),
    ] {
        root.write("/srv/settings.toml", text);
        let file = root.at("/srv/settings.toml").display().to_string();
        let arguments = ["--role", "master", "--sample", "--config", &file];
        for json in [&[][..], &["--json"], &["--log-format", "json"]] {
            let refused = hides(root.run(&[&arguments[..], json].concat()).ends_with(78), text);
            assert!(!refused.err.contains("4711") && !refused.out.contains("4711"), "{}", refused.err);
            if json != ["--json"] {
                refused.reports(words);
            }
        }
    }
    for assignment in ["master.properties.\"DB.PASSWORD\"=[c4n4ry", "agent.resources.db_secret=c4n4ry"] {
        hides(root.run(&["plan", "--role", "agent", "--sample", "--set", assignment]), assignment);
    }
    assert!(!root.at("/var/log").exists());
}

#[test]
fn a_value_that_is_not_a_secret_is_shown() {
    let root = Root::empty();
    let shown = root.sample(&["config", "show"]).ends_with(0).out;
    let hidden: Vec<&str> = shown.lines().filter(|line| line.contains("***")).collect();
    assert_eq!(hidden, [""; 0]);
    let facts = root.sample(&["facts"]).ends_with(0).out;
    assert!(!facts.contains("***"), "{facts}");
    for name in ["agent", "master", "gateway", "prereqs"] {
        let plan = root.run(&["plan", "--sample", "--role", name]).ends_with(0).out;
        assert!(!plan.contains("***"), "{name}: {plan}");
    }
}

#[test]
fn a_saved_setting_with_a_secret_is_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    for name in NAMES {
        let root = Root::empty();
        let assignment = format!("master.properties.\"{name}\"=c4n4ry");
        hides(root.sample(&["--save", "--set", &assignment]).ends_with(0), name);
        let saved = root.at("/etc/titus-bootstrap/config.d/60-saved.toml");
        assert_eq!(fs::metadata(saved).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    hides(outcome(program().args(["check", "/dev/null"])).ends_with(0), "check");
}

#[test]
fn advice_about_a_value_with_credentials_quotes_no_part_of_it() {
    let root = Root::empty();
    for (assignment, secret) in [
        ("agent.registry=https://ghpAbC123secret:x-oauth-basic@reg.example", "ghpabc123secret"),
        ("agent.registry=https://user:ghpAbC123secret@reg.example/x", "ghpabc123secret"),
        ("agent.log_bucket=https://ghptoken123:x@b", "ghptoken123"),
        ("agent.log_bucket=s3://AKIDEXAMPLE:secretkey9@bucket/x", "secretkey9"),
        ("prereqs=http://tok3nsecret:@10.0.0.1", "tok3nsecret"),
        ("master.address=operator:hunter2pw@10.0.0.1", "hunter2pw"),
    ] {
        for words in [vec!["plan", "--set", assignment], vec!["check", "--set", assignment]] {
            let refused = root.sample(&words).ends_with(78);
            assert!(
                !refused.transcript().to_lowercase().replace(&assignment.to_lowercase(), "").contains(secret),
                "{}",
                refused.transcript()
            );
        }
    }
}
