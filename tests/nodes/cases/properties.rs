//! Properties files, read back by Java: the keys of a role have their values, and what else is in
//! the file reads as before. This needs no node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use titus_bootstrap::properties::{JavaText, edit, read};

use crate::harness::image::program;
use crate::support::root::{Outcome, Root, isolated, outcome};

type Pairs = BTreeMap<JavaText, JavaText>;

const FILE: &str = "/opt/server/server.properties";

/// Keys and values that a careless writer would get wrong.
const HOSTILE: [(&str, &str); 24] = [
    ("titus.zookeeper.connectString", "30.0.100.194:2181,30.0.100.195:2181"),
    ("mesos.master.location", "zk://a:2181,b:2181/titus/mainvpc/mesos"),
    ("titusMaster.job.configuration.defaultIamRole", "arn:aws:iam::123456789012:role/x=y"),
    ("titus.agent.agentServerGroupPattern", ".*"),
    ("empty", ""),
    ("a b", " two  words "),
    (" a", "\ttab\t"),
    ("a=b", "=b"),
    ("a:b", ":b"),
    ("#a", "#b"),
    ("!a", "!b"),
    ("a#!", "a = b : c # d ! e"),
    ("\\", "\\"),
    ("a\\u0041", "\\u0041"),
    ("a\\", "C:\\temp\\new\\\\"),
    ("\\n", "\\n\\t\\r\\f"),
    ("a\tb", "\u{c}a\u{c}"),
    ("\u{e9}", "caf\u{e9} \u{20ac}"),
    ("\u{1f600}", "\u{1f600}\u{10ffff}\u{ffff}\u{d7ff}\u{e000}"),
    ("\u{1}\u{1b}\u{7f}", "\u{85}\u{a0}\u{2028}\u{1b}[31m"),
    ("$HOME", "$(id) ${x} `id` %n"),
    ("\"", "'\"'"),
    ("titus.password", "hunter2"),
    ("last", "a\\"),
];

/// What a file can contain already; the keys `a`, `empty` and `last` are in `HOSTILE` or other ones.
const EXISTING: [&[u8]; 22] = [
    b"",
    b"# only a comment",
    b"# a comment that ends in a backslash\\",
    b"a=1\nb : 2\nc 3\n",
    b"a=1\r\nempty=x\r\nempty=y\r\n\r\n",
    b"a=1\rempty\rlast = \\\r  x\r",
    b"caf\xe9=cr\xe8me\n\xff\xfe=\x80\nempty=\xe9",
    b"a=b\\\n    c\\\n    d\n!x\\\nlast=1\\\n2",
    b"a=b\\\n#c\nlast=a\\\\\n",
    b"a=dangling\\",
    b"a=dangling\\\n",
    b"a=dangling\\\r\n",
    b"last=dangling\\",
    b"empty=\\",
    b"\\",
    b"\\\n",
    b"\\\r\n",
    b"a=1\n\\\nempty=1\nempty=2\n\\\n  \n",
    b"a\\ b=1\na\\ b=2\n\\#a=1\n#a=2\na\\=b:3\n\\u0061\\:b=4\n",
    b"last=a\\\\\nlast=b\nlast=a\\\\",
    b"\x00=\x00\n\\u0000=1\n\x1b[31m=x\nkey\x0cwith\x0cform feeds\n = no key\n",
    b"last=\\u12\nempty=\\uD800\\uDC00\n=\\uD800\n",
];

/// Random files; the same ones each time.
const COUNT: usize = 1000;

/// What Java reads in each of these files; nothing if it refuses the file.
fn java(files: &[PathBuf]) -> Vec<Option<Pairs>> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/java/ReadProperties.java");
    let run = Command::new("java").arg(source).args(files).output();
    let run = run.unwrap_or_else(|e| panic!("java cannot be started ({e}): tests/run installs it"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut found = Vec::new();
    for line in String::from_utf8(run.stdout).unwrap().lines() {
        match (line, line.split_once('=')) {
            ("file", _) => found.push(Some(Pairs::new())),
            ("refused", _) => found.push(None),
            (_, Some((key, value))) => {
                let pairs = found.last_mut().unwrap().as_mut().unwrap();
                pairs.insert(units(key), units(value));
            }
            _ => panic!("{line}"),
        }
    }
    assert_eq!(found.len(), files.len());
    found
}

fn units(hex: &str) -> JavaText {
    let digits: Vec<u16> = hex.chars().map(|c| u16::try_from(c.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(4).map(|unit| unit.iter().fold(0, |made, digit| made * 16 + digit)).collect()
}

fn utf16(text: &str) -> JavaText {
    text.encode_utf16().collect()
}

/// Asserts that Java reads these keys so, and all others as before.
#[track_caller]
fn assert_set(before: Option<&Pairs>, after: Option<&Pairs>, wanted: &[(String, String)], what: &str) {
    let mut after = after.unwrap_or_else(|| panic!("{what}: Java refuses it")).clone();
    for (key, value) in wanted {
        assert_eq!(after.remove(&utf16(key)), Some(utf16(value)), "{what}: {key:?}");
    }
    if let Some(before) = before {
        let mut before = before.clone();
        before.retain(|key, _| !wanted.iter().any(|(ours, _)| utf16(ours) == *key));
        assert_eq!(after, before, "{what}");
    }
}

fn run(root: &Root, arguments: &[&str]) -> Outcome {
    let mut command = isolated(Path::new(&program()));
    command.args(["--sample", "--role", "mine"]).args(arguments).arg("--root").arg(root.path());
    outcome(&mut command)
}

#[test]
fn java_reads_what_a_run_has_set_and_everything_else_as_before() {
    let template = ("{{ braces }}", "{% braces %} {# too #}");
    let wanted: Vec<(String, String)> =
        HOSTILE.iter().chain([&template]).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let set: serde_json::Map<_, _> = HOSTILE.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let properties = json!({ "path": FILE, "set": set, "more": "{{ master.properties }}" });
    let step = json!({ "id": "properties", "phase": "boot", "properties": properties });
    let role = toml::to_string(&json!({ "description": "Mine", "step": [step] })).unwrap();
    // What looks like a template is one in a role file, but not in a setting.
    let settings = toml::to_string(&json!({ "master": { "properties": { template.0: template.1 } } })).unwrap();

    let mut files = Vec::new();
    let mut roots = Vec::new();
    for existing in EXISTING {
        let root = Root::empty();
        root.write("/etc/titus-bootstrap/roles/mine.toml", &role);
        root.write("/etc/titus-bootstrap/config.toml", &settings);
        root.write("/srv/before", existing);
        root.write(FILE, existing);
        run(&root, &[]).ends_with(0);
        let stamps = root.stamps();
        run(&root, &[]).ends_with(0).prints(&["nothing to do"]);
        assert_eq!(stamps, root.stamps(), "the second run changed something");
        files.extend([root.at("/srv/before"), root.at(FILE)]);
        roots.push(root);
    }
    for (read, existing) in java(&files).chunks(2).zip(EXISTING) {
        assert_set(read[0].as_ref(), read[1].as_ref(), &wanted, &format!("{:?}", String::from_utf8_lossy(existing)));
    }
}

#[test]
fn what_java_would_refuse_is_refused() {
    let root = Root::empty();
    let properties = json!({ "path": FILE, "set": { "a": "1" } });
    let step = json!({ "id": "properties", "phase": "boot", "properties": properties });
    let role = toml::to_string(&json!({ "description": "Mine", "step": [step] })).unwrap();
    root.write("/etc/titus-bootstrap/roles/mine.toml", role);
    root.write(FILE, "a=0\n\nother=\\u00g0\n");
    assert_eq!(java(&[root.at(FILE)]), [None]);
    let before = root.look();
    run(&root, &[]).ends_with(69).reports(&[FILE, "line 3"]);
    assert_eq!(before, root.look(), "a refused run changed something");
}

/// Mostly what means something to Java, in some files across the border of its buffer of 8192 bytes.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => proptest::sample::select(b"\\\\\\\n\n\r\r=:#! \t\x0cabu0041".to_vec()),
        1 => any::<u8>(),
    ];
    (prop_oneof![3 => Just(0), 1 => 8150_usize..8200], proptest::collection::vec(byte, 0..40)).prop_map(
        |(filler, bytes)| {
            let mut file = vec![b'#'; filler];
            file.extend((filler > 0).then_some(b'\n'));
            file.extend(bytes);
            file
        },
    )
}

#[test]
fn java_and_we_read_the_same_in_random_files_and_edited_ones() {
    let mut runner = TestRunner::deterministic();
    let text = || "[ab\\\\=:# \t]{0,2}|\\PC{1,3}";
    let wanted = proptest::collection::btree_map(text().prop_filter("", |k: &String| !k.is_empty()), text(), 0..4);
    let both = (file(), wanted);
    let directory = tempfile::tempdir().unwrap();
    let (mut cases, mut files) = (Vec::new(), Vec::new());
    for n in 0..COUNT {
        let (contents, wanted) = both.new_tree(&mut runner).unwrap().current();
        let wanted: Vec<(String, String)> = wanted.into_iter().collect();
        let edited = edit(&contents, &wanted);
        let paths = [directory.path().join(format!("{n}")), directory.path().join(format!("{n}.edited"))];
        fs::write(&paths[0], &contents).unwrap();
        fs::write(&paths[1], edited.as_ref().map_or(&contents, |edited| &edited.contents)).unwrap();
        files.extend(paths);
        cases.push((contents, wanted, edited.is_ok()));
    }
    let mut readable = 0;
    for (found, (contents, wanted, edited)) in java(&files).chunks(2).zip(cases) {
        let what = format!("{:?}", String::from_utf8_lossy(&contents));
        let ours = read(&contents).ok();
        // Some versions of Java accept a `\u` that a line's end cuts off.
        if let Some(ours) = &ours {
            assert_eq!(found[0].as_ref(), Some(ours), "{what}");
            readable += 1;
        }
        if edited {
            assert_set(ours.as_ref(), found[1].as_ref(), &wanted, &format!("{what} with {wanted:?}"));
        }
    }
    assert!(readable > COUNT / 2, "only {readable} of {COUNT} files can be read");
}
