//! How a command ended, and its output.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::os::unix::process::ExitStatusExt;
use std::process::Output;

use serde_json::Value;

/// The end of a command.
#[derive(Debug)]
pub struct Outcome {
    /// argv, for messages; empty if the test did not give it.
    pub command: String,
    /// The exit code; for a signal, its negative number.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Outcome {
    /// Of a process that has ended.
    pub fn new(command: &str, output: Output) -> Outcome {
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { command: command.into(), code, out: text(output.stdout), err: text(output.stderr) }
    }

    /// Everything, for messages.
    pub fn transcript(&self) -> String {
        format!("`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.code, self.out, self.err)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "{}", self.transcript());
        self
    }

    /// Asserts that standard error contains all these words.
    #[track_caller]
    pub fn reports(self, words: &[&str]) -> Outcome {
        for word in words {
            assert!(self.err.contains(word), "standard error lacks {word:?}\n{}", self.transcript());
        }
        self
    }

    /// Asserts that standard output contains all these words.
    #[track_caller]
    pub fn prints(self, words: &[&str]) -> Outcome {
        for word in words {
            assert!(self.out.contains(word), "standard output lacks {word:?}\n{}", self.transcript());
        }
        self
    }

    /// Standard output as one JSON document of the current layout.
    #[track_caller]
    pub fn json(&self) -> Value {
        let document: Value = serde_json::from_str(&self.out)
            .unwrap_or_else(|e| panic!("not one JSON document: {e}\n{}", self.transcript()));
        assert_eq!(document["schema_version"], 1, "{document:#}");
        document
    }

    /// The ids of the steps with this state in the report of `--json`, in order.
    #[track_caller]
    pub fn steps(&self, state: &str) -> Vec<String> {
        let report = self.json();
        let steps = report["steps"].as_array().unwrap_or_else(|| panic!("no steps\n{}", self.transcript()));
        steps.iter().filter(|s| s["state"] == state).map(|s| s["id"].as_str().unwrap().to_string()).collect()
    }
}
