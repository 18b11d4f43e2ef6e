//! `tests/corpus/`: foreign inputs, each with its expected result in a file next to it, `NAME.expected`. Its first line is
//! `read`, `left alone` or `refused`, or an exit code; the other lines are words of the output. A new file needs no code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use titus_bootstrap::userdata;

use crate::support::aws::account::Account;
use crate::support::aws::{Aws, Fault, Keys};
use crate::support::metadata::{self, Metadata};
use crate::support::outcome::Outcome;
use crate::support::root::{Root, ask, outcome};

fn corpus(kind: &str) -> Vec<(PathBuf, String, Vec<String>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut found = Vec::new();
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "expected") {
            continue;
        }
        let beside = PathBuf::from(format!("{}.expected", path.display()));
        let expected = fs::read_to_string(&beside).unwrap_or_else(|e| panic!("{}: {e}", beside.display()));
        let mut lines = expected.lines().map(str::to_owned);
        let outcome = lines.next().unwrap();
        found.push((path, outcome, lines.collect()));
    }
    found
}

/// Compares the result of each case with its expectation. There must be at least `least` cases.
fn compare(kind: &str, least: usize, becomes: impl Fn(&Path, &[String]) -> String) {
    let cases = corpus(kind);
    assert!(cases.len() >= least, "{}", cases.len());
    let mut wrong = Vec::new();
    for (path, outcome, words) in cases {
        let is = becomes(&path, &words);
        if is != outcome {
            wrong.push(format!("{}: {is}, not {outcome}", path.file_name().unwrap().to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A refusal with these words.
fn refused(message: &str, words: &[String]) -> String {
    let lacks: Vec<&String> = words.iter().filter(|word| !message.contains(*word)).collect();
    if lacks.is_empty() { "refused".to_owned() } else { format!("refused without {lacks:?}: {message}") }
}

#[test]
fn user_data_of_each_form_and_each_near_miss() {
    compare("user-data", 100, |path, words| {
        let bytes = fs::read(path).unwrap();
        match userdata::settings(&bytes) {
            Ok(None) => "left alone".to_owned(),
            Ok(Some(text)) => match toml::from_str::<toml::Table>(&text) {
                Ok(table) if table.get("stack").and_then(toml::Value::as_str) == Some("corpus") => "read".to_owned(),
                other => format!("read as {other:?}"),
            },
            Err(error) => {
                assert_eq!(error.kind.exit_code(), 78);
                refused(&error.cause.unwrap_or_default(), words)
            }
        }
    });
}

/// An instance of a corpus file, on a tree that has two small roles: `small`, which writes its stack into /etc/small, and
/// `needy`, which needs agent.log_bucket.
fn run_on(metadata: &Metadata, aws: &Aws, root: &Root, arguments: &[&str]) -> Outcome {
    let step =
        "[[step]]\nid = 'small'\nphase = 'boot'\nfile = { path = '/etc/small', content = '{{ stack | safe }}' }\n";
    root.write("/etc/titus-bootstrap/roles/small.toml", format!("description = 'x'\n{step}"));
    let needy = format!("description = 'x'\nrequired = ['agent.log_bucket']\n{step}");
    root.write("/etc/titus-bootstrap/roles/needy.toml", needy);
    let mut command = root.program(arguments);
    outcome(ask(&mut command, &metadata.endpoint()).env("AWS_ENDPOINT_URL_EC2", aws.endpoint()))
}

/// The difference of a case from its expectation: the exit code, then words that are printed, or after `not:` are not.
fn wrong(path: &Path, outcome: &Outcome, code: &str, words: &[String]) -> Option<String> {
    let output = format!("{}{}", outcome.out, outcome.err);
    let is = |word: &String| match word.strip_prefix("not: ") {
        Some(word) => !output.contains(word),
        None => output.contains(word.as_str()),
    };
    let lacks: Vec<&String> = words.iter().filter(|word| !is(word)).collect();
    let good = outcome.code.to_string() == code && lacks.is_empty();
    (!good).then(|| format!("{}: {code} {lacks:?}\n{}", path.display(), outcome.transcript()))
}

/// Runs each case on a thread: most of their time is waiting.
fn each(cases: &[(PathBuf, String, Vec<String>)], run: impl Fn(&str) -> Outcome + Sync) {
    let bad = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some((path, code, words)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = run(&fs::read_to_string(path).unwrap());
                    bad.lock().unwrap().extend(wrong(path, &outcome, code, words));
                }
            });
        }
    });
    let bad = bad.into_inner().unwrap();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// The sample instance without tags, with a profile that the EC2 API accepts.
fn instance() -> (Metadata, Aws) {
    let keys = Keys::new(1);
    let mut items = metadata::sample();
    items.retain(|path, _| !path.starts_with("meta-data/tags/"));
    items.extend(keys.items());
    (Metadata::start(items), Aws::start(Account::default(), &keys))
}

const INSTANCE: &str = "i-0123456789abcdef0";

/// A line of a file is one of
/// `uptime SECONDS`, `run ARGUMENTS`, `setting TOML`, `item PATH = TEXT` (with `\n` for an end of line), `item PATH` (404),
/// `tag KEY = VALUE` (at the API), `deny ACTION` (at the API), `answer STATUS TEXT` (the API's to all).
#[test]
fn metadata_of_each_form_and_each_near_miss() {
    let cases = corpus("metadata");
    assert!(cases.len() >= 40, "{}", cases.len());
    each(&cases, |text| {
        let ((metadata, aws), root) = (instance(), Root::empty());
        let (mut settings, mut arguments) = (String::new(), "apply --at-boot".to_owned());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').unwrap();
            let (name, value) = match rest.split_once(" =") {
                Some((name, value)) => (name, Some(value.strip_prefix(' ').unwrap_or(value).replace("\\n", "\n"))),
                None => (rest, None),
            };
            match word {
                "uptime" => root.write("/proc/uptime", format!("{rest}.00 1.00\n")),
                "run" => arguments = rest.to_owned(),
                "setting" => settings += &format!("{rest}\n"),
                "item" => metadata.set(name, value.map(String::into_bytes)),
                "tag" => aws.account(|account| {
                    account.tags.entry(INSTANCE.into()).or_default().insert(name.into(), value.unwrap());
                }),
                "deny" => aws.fault(Fault::Deny(rest.to_owned().leak())),
                "answer" => {
                    let (status, text) = rest.split_once(' ').unwrap();
                    aws.fault(Fault::Text(status.parse().unwrap(), text.to_owned()));
                }
                other => panic!("{other}"),
            }
        }
        root.write("/etc/titus-bootstrap/config.toml", settings);
        run_on(&metadata, &aws, &root, &arguments.split(' ').collect::<Vec<_>>())
    });
}

/// A file is a JSON object of the instance's tags. They are read from instance metadata, unless its key `--from` is `API`; `--role`
/// is given as a flag, and `--settings` are the image's.
#[test]
fn tags_of_each_form_and_each_near_miss() {
    let cases = corpus("tags");
    assert!(cases.len() >= 40, "{}", cases.len());
    each(&cases, |text| {
        let ((metadata, aws), root) = (instance(), Root::empty());
        let mut tags: BTreeMap<String, String> = serde_json::from_str(text).unwrap();
        let mut arguments = vec!["plan".to_owned()];
        arguments.extend(tags.remove("--role").map(|role| format!("--role={role}")));
        root.write("/etc/titus-bootstrap/config.toml", tags.remove("--settings").unwrap_or_default());
        if tags.remove("--from").is_some() {
            aws.account(|account| account.tags.insert(INSTANCE.into(), tags));
        } else {
            let listing = tags.keys().cloned().collect::<Vec<_>>().join("\n");
            metadata.set("meta-data/tags/instance", Some(listing.into_bytes()));
            for (key, value) in tags {
                metadata.set(&format!("meta-data/tags/instance/{key}"), Some(value.into_bytes()));
            }
        }
        run_on(&metadata, &aws, &root, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    });
}

/// Parts of the corpus's passwords, which no message may show.
const SECRETS: [&str; 3] = ["hunter2", "hun|ter2", "aHVudGVyMjpodW50ZXIy"];

#[test]
fn settings_of_each_form_and_each_near_miss() {
    use titus_bootstrap::settings::{Layer, Merged};
    compare("settings", 80, |path, words| {
        let read = Layer::file(path).and_then(|layer| {
            let mut merged = Merged::default();
            merged.add(Layer::built_in()?);
            merged.add(&layer);
            merged.settings()
        });
        match read {
            Ok(_) => "read".to_owned(),
            Err(error) => {
                assert_eq!(error.kind.exit_code(), 78);
                let message = error.to_string();
                assert!(SECRETS.iter().all(|secret| !message.contains(secret)), "{message}");
                refused(&message, words)
            }
        }
    });
}

/// The role of the drop-ins.
const ROLE: &str = "description = \"Mine\"\n\n\
                    [[step]]\nid = \"one\"\nphase = \"boot\"\nfile = { path = \"/etc/one\", content = \"A=1\\n\" }\n\n\
                    [[step]]\nid = \"two\"\nphase = \"boot\"\nunit = { name = \"x.service\", active = true, restart_on = [\"one\"] }\n";

/// A file is a role; if its name begins with `drop-in`, it is a drop-in of [`ROLE`].
#[test]
fn role_files_and_drop_ins_of_each_form_and_each_near_miss() {
    compare("roles", 60, |path, words| {
        let root = Root::empty();
        let name = path.file_name().unwrap().to_string_lossy();
        let roles = "/etc/titus-bootstrap/roles";
        if name.starts_with("drop-in") {
            root.write(&format!("{roles}/mine.toml"), ROLE);
            root.write(&format!("{roles}/mine.d/50-own.toml"), fs::read(path).unwrap());
        } else {
            root.write(&format!("{roles}/mine.toml"), fs::read(path).unwrap());
        }
        let run = root.run(&["plan", "--sample", "--role", "mine"]);
        match run.code {
            0 => "read".to_owned(),
            78 => refused(&run.err, words),
            code => format!("ended with {code}: {}", run.err),
        }
    });
}
