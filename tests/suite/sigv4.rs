//! Signatures, against AWS's own examples of Signature Version 4 (tests/data/sigv4).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use crate::support;

use std::fs;
use std::path::Path;

use aws_credential_types::Credentials;
use sha2::{Digest, Sha256};
use support::sigv4::{Authorization, Request, hex, hmac};
use titus_bootstrap::ec2::api::sign::{Scope, Unsigned, sign};

/// An example.
struct Example {
    name: String,
    context: serde_json::Value,
    request: Request,
    signed: Request,
}

impl Example {
    fn all() -> Vec<Example> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sigv4");
        let folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let read = |folder: &Path| {
            let text = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
            Example {
                name: folder.file_name().unwrap().to_string_lossy().into_owned(),
                context: serde_json::from_str(&text("context.json")).unwrap(),
                request: request(&text("request.txt")),
                signed: request(&text("header-signed-request.txt")),
            }
        };
        let all: Vec<Example> = folders.map(|folder| read(&folder)).collect();
        assert!(all.len() >= 18);
        all
    }

    fn secret(&self) -> &str {
        self.context["credentials"]["secret_access_key"].as_str().unwrap()
    }

    /// What our function makes of it.
    fn ours(&self) -> Vec<(String, String)> {
        let keys = &self.context["credentials"];
        let token = keys["token"].as_str().map(str::to_owned);
        let credentials =
            Credentials::new(keys["access_key_id"].as_str().unwrap(), self.secret(), token, None, "example");
        let time = humantime::parse_rfc3339(self.context["timestamp"].as_str().unwrap()).unwrap();
        let text = |name: &str| self.context[name].as_str().unwrap();
        let scope = Scope { region: text("region"), service: text("service"), time };
        let host = self.request.header("host").unwrap();
        let url = reqwest::Url::parse(&format!("https://{host}{}", self.request.target)).unwrap();
        let digest = hex(&Sha256::digest(&self.request.body));
        let mut given: Vec<(&str, &str)> = self.request.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        given.retain(|(name, _)| *name != "host");
        if self.context["sign_body"] == true {
            given.push(("x-amz-content-sha256", &digest));
        }
        let unsigned =
            Unsigned { method: &self.request.method, url: url.as_str(), headers: &given, body: &self.request.body };
        sign(unsigned, scope, &credentials).unwrap()
    }
}

/// `GET / HTTP/1.1`, headers, an empty line, the body.
fn request(text: &str) -> Request {
    let (head, body) = text.split_once("\n\n").unwrap_or((text.trim_end(), ""));
    let (first, head) = head.split_once('\n').unwrap();
    let (method, rest) = first.split_once(' ').unwrap();
    let pair = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    Request {
        method: method.to_owned(),
        target: rest.strip_suffix(" HTTP/1.1").unwrap().to_owned(),
        headers: head.lines().map(pair).collect(),
        body: body.trim_end().into(),
    }
}

#[test]
fn the_program_signs_as_aws_s_examples_are_signed() {
    for example in Example::all() {
        let ours = example.ours();
        for name in ["authorization", "x-amz-date", "x-amz-security-token"] {
            let made = ours.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
            assert_eq!(made, example.signed.header(name), "{name} of {}", example.name);
        }
    }
}

#[test]
fn the_test_server_accepts_aws_s_examples_and_no_others() {
    for example in Example::all() {
        let authorization = Authorization::parse(&example.signed).unwrap();
        assert_eq!(
            authorization.expected(&example.signed, example.secret()),
            authorization.signature,
            "{}",
            example.name
        );
        assert_ne!(authorization.expected(&example.signed, "another"), authorization.signature);
        let mut changed = example.signed.clone();
        changed.body.push(b'!');
        assert_ne!(authorization.expected(&changed, example.secret()), authorization.signature);
        for (place, _) in authorization.signed.split(';').enumerate() {
            let mut changed = example.signed.clone();
            let name = authorization.signed.split(';').nth(place).unwrap();
            changed.headers.iter_mut().filter(|(known, _)| known == name).for_each(|(_, value)| value.push('!'));
            assert_ne!(authorization.expected(&changed, example.secret()), authorization.signature, "{name}");
        }
    }
}

#[test]
fn hmac_is_rfc_4231_s() {
    // Test cases 1, 2 and 6 of section 4; the last key is longer than a block.
    for (key, message, expected) in [
        (&[0x0b; 20][..], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (b"Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            &[0xaa; 131],
            "Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ] {
        assert_eq!(hex(&hmac(key, message.as_bytes())), expected);
    }
}
