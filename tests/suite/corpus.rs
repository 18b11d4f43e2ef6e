//! `tests/corpus/`: inputs of others, each with what becomes of it in a file beside it, `NAME.expected`. Its first line is
//! `read`, `left alone` or `refused`; further lines are words that the refusal has. A new file needs no code.

use std::fs;
use std::path::{Path, PathBuf};

use titus_bootstrap::userdata;

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

#[test]
fn user_data_of_each_form_and_each_near_miss() {
    let cases = corpus("user-data");
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut wrong = Vec::new();
    for (path, outcome, words) in cases {
        let bytes = fs::read(&path).unwrap();
        let is = match userdata::settings(&bytes) {
            Ok(None) => "left alone".to_owned(),
            Ok(Some(text)) => match toml::from_str::<toml::Table>(&text) {
                Ok(table) if table.get("stack").and_then(toml::Value::as_str) == Some("corpus") => "read".to_owned(),
                other => format!("read as {other:?}"),
            },
            Err(error) => {
                let told = error.cause.unwrap_or_default();
                assert_eq!(error.kind.exit_code(), 78);
                let lacks: Vec<&String> = words.iter().filter(|word| !told.contains(*word)).collect();
                if lacks.is_empty() { "refused".to_owned() } else { format!("refused without {lacks:?}: {told}") }
            }
        };
        if is != outcome {
            wrong.push(format!("{}: {is}, not {outcome}", path.file_name().unwrap().to_string_lossy()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
