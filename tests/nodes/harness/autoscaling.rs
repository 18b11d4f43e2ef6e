//! The Auto Scaling API and S3, as far as an instance calls them, in a node's own network.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use super::node::Node;
use super::services::listen;
use crate::support::metadata::Items;

/// What the API does with the calls that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answer {
    /// The hook holds the instance until it is completed.
    #[default]
    Held,
    /// No hook holds it.
    NotHeld,
    /// No policy allows the call.
    Denied,
}

#[derive(Default)]
struct State {
    answer: Answer,
    calls: Vec<String>,
}

/// Where both are.
pub const ENDPOINT: &str = "http://30.0.100.194:4566";

/// The API; it lives as long as the node.
#[derive(Clone)]
pub struct AutoScaling {
    state: Arc<Mutex<State>>,
}

impl AutoScaling {
    /// Serves it; the boot unit is told where.
    pub fn serve(node: &Node) -> AutoScaling {
        let listener = listen(node, ENDPOINT.trim_start_matches("http://"));
        node.write(
            "/etc/systemd/system/titus-bootstrap.service.d/autoscaling.conf",
            &format!("[Service]\nEnvironment=AWS_ENDPOINT_URL_AUTO_SCALING={ENDPOINT}\n"),
        );
        node.shell("systemctl daemon-reload");
        let api = AutoScaling { state: Arc::default() };
        let serving = api.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // An error here is the client that went away.
                std::thread::spawn(move || serving.converse(stream));
            }
        });
        api
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on.
    pub fn answer(&self, answer: Answer) {
        self.state().answer = answer;
    }

    /// The calls since the last question: `CompleteLifecycleAction titusagent launch CONTINUE`.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// How many calls of this action have come since then.
    pub fn count(&self, action: &str) -> usize {
        self.state().calls.iter().filter(|call| call.starts_with(action)).count()
    }

    fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let (mut line, mut length, mut signed) = (String::new(), 0, false);
            let mut first = String::new();
            reader.read_line(&mut first)?;
            if let Some(path) = first.strip_prefix("HEAD /") {
                // A bucket is there unless its name says otherwise.
                let status = match path.split(' ').next() {
                    Some("missing") => "404 Not Found",
                    Some("another-s") => "403 Forbidden",
                    _ => "200 OK",
                };
                write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
                return Ok(());
            }
            while reader.read_line(&mut line)? > 2 {
                let header = line.to_ascii_lowercase();
                signed |= header.starts_with("authorization: aws4-hmac-sha256");
                if let Some(value) = header.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            if line.is_empty() {
                return Ok(());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let (status, body) = self.reply(&String::from_utf8(body).unwrap(), signed);
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\n\r\n{body}")?;
        }
    }

    fn reply(&self, form: &str, signed: bool) -> (&'static str, String) {
        assert!(signed, "a call without a signature: {form}");
        let value = |name: &str| form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let action = value("Action").unwrap();
        let names = ["AutoScalingGroupName", "LifecycleHookName", "LifecycleActionResult", "HealthStatus"];
        let told: Vec<&str> = std::iter::once(action).chain(names.into_iter().filter_map(value)).collect();
        let mut state = self.state();
        state.calls.push(told.join(" "));
        let id = value("InstanceId").unwrap();
        let error = |code: &str, message: &str| {
            format!(
                "<ErrorResponse xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"><Error><Type>Sender</Type>\
                 <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
            )
        };
        let of_hook = action != "SetInstanceHealth";
        match state.answer {
            Answer::Denied => ("403 Forbidden", error("AccessDenied", "User is not authorized to perform this")),
            Answer::NotHeld if of_hook => (
                "400 Bad Request",
                error("ValidationError", &format!("No active Lifecycle Action found with instance ID {id}")),
            ),
            _ => {
                if action == "CompleteLifecycleAction" {
                    state.answer = Answer::NotHeld;
                }
                ("200 OK", format!("<{action}Response xmlns=\"http://autoscaling.amazonaws.com/doc/2011-01-01/\"/>"))
            }
        }
    }
}

/// Metadata of an instance that may call it.
pub fn with_profile(mut items: Items) -> Items {
    let credentials = serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z",
        "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret", "Token": "token",
    });
    items.insert("meta-data/iam/security-credentials/titus".into(), credentials.to_string().into());
    items
}
