//! What a command in a node said, and how it ended.

use std::process::Output;

/// A command's end.
#[derive(Debug)]
pub struct Outcome {
    /// argv, for messages.
    pub command: String,
    /// Its exit code; 128 + N for signal N.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Of a finished process.
    pub fn of(command: &str, output: &Output) -> Outcome {
        use std::os::unix::process::ExitStatusExt;
        Outcome {
            command: command.into(),
            code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if it ended with `code`.
    ///
    /// # Panics
    /// Otherwise, with all that it said.
    #[track_caller]
    pub fn expect(self, code: i32) -> Outcome {
        assert_eq!(self.code, code, "{}", self.told());
        self
    }

    /// Everything, for messages.
    pub fn told(&self) -> String {
        format!("`{}` ended with {}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.code, self.stdout, self.stderr)
    }

    /// Its standard output as one JSON document.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not one JSON document: {e}\n{}", self.told()))
    }

    /// The ids of the steps that have this state in the report of `--json`, in order.
    #[track_caller]
    pub fn steps(&self, state: &str) -> Vec<String> {
        let report = self.json();
        let steps = report["steps"].as_array().unwrap_or_else(|| panic!("no steps\n{}", self.told()));
        // A wait changes nothing: whether a service that was just started made it wait is chance.
        let counts = |s: &&serde_json::Value| s["state"] == state && (state != "changed" || s["kind"] != "wait");
        steps.iter().filter(counts).map(|s| s["id"].as_str().unwrap().to_string()).collect()
    }

    /// Asserts that standard error has all of `words`.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "standard error lacks {word:?}\n{}", self.told());
        }
    }
}
