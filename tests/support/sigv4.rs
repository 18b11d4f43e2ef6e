//! Signature Version 4 as the other side checks it, written from the specification ("Create a signed AWS API
//! request", IAM user guide) and without the library that the program signs with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use sha2::{Digest, Sha256};

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `POST`.
    pub method: String,
    /// Path and query, in the form of the first line.
    pub target: String,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header; of several, the first.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The path, without the query and, in a request to a proxy, without what comes before it.
    pub fn path(&self) -> &str {
        let target = self.target.split('?').next().unwrap_or_default();
        let rest = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
        if rest.is_empty() { "/" } else { rest }
    }
}

/// What the header `Authorization` says.
#[derive(Debug, Clone)]
pub struct Authorization {
    /// The access key's id.
    pub id: String,
    /// `20150830`.
    pub day: String,
    /// `eu-west-1`.
    pub region: String,
    /// `ec2`.
    pub service: String,
    /// The headers that are signed, with semicolons between.
    pub signed: String,
    /// Hexadecimal.
    pub signature: String,
}

impl Authorization {
    /// Reads the header; `None` when it is absent, or has another form.
    pub fn parse(request: &Request) -> Option<Authorization> {
        let value = request.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let part = |name: &str| {
            let mut parts = value.split(',').map(str::trim);
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let credential = part("Credential")?;
        let [id, day, region, service, "aws4_request"] = credential.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        let [id, day, region, service] = [id, day, region, service].map(str::to_owned);
        Some(Authorization { id, day, region, service, signed: part("SignedHeaders")?, signature: part("Signature")? })
    }

    /// The signature that the owner of this secret makes.
    pub fn expected(&self, request: &Request, secret: &str) -> String {
        let time = request.header("x-amz-date").unwrap_or_default();
        let scope = format!("{}/{}/{}/aws4_request", self.day, self.region, self.service);
        let canonical = hex(&Sha256::digest(canonical(request, &self.signed)));
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{canonical}");
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [&self.day, &self.region, &self.service, "aws4_request"] {
            key = hmac(&key, part.as_bytes());
        }
        hex(&hmac(&key, to_sign.as_bytes()))
    }
}

/// The canonical request.
fn canonical(request: &Request, signed: &str) -> String {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(&decoded(name)), encoded(&decoded(value))))
        .collect();
    pairs.sort();
    let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let headers: String = signed
        .split(';')
        .map(|name| {
            let values = request.headers.iter().filter(|(known, _)| known == name);
            let values: Vec<String> = values.map(|(_, value)| words(value)).collect();
            format!("{name}:{}\n", values.join(","))
        })
        .collect();
    let digest = hex(&Sha256::digest(&request.body));
    format!("{}\n{}\n{}\n{headers}\n{signed}\n{digest}", request.method, request.path(), query.join("&"))
}

/// Blanks between words become one.
fn words(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What percent signs and hexadecimal digits stand for.
pub fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let digits = if byte == b'%' { bytes.by_ref().take(2).collect() } else { Vec::new() };
        decoded.push(match std::str::from_utf8(&digits) {
            Ok(digits) if !digits.is_empty() => u8::from_str_radix(digits, 16).unwrap_or(b'?'),
            _ => byte,
        });
    }
    decoded
}

fn encoded(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| match b {
            b if b.is_ascii_alphanumeric() || b"-._~".contains(b) => char::from(*b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// HMAC with SHA-256 (RFC 2104), whose block has 64 bytes.
pub fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = if key.len() > 64 { Sha256::digest(key).to_vec() } else { key.to_vec() };
    block.resize(64, 0);
    let padded = |pad: u8| block.iter().map(|b| b ^ pad).collect::<Vec<u8>>();
    let inner = Sha256::digest([padded(0x36), message.to_vec()].concat()).to_vec();
    Sha256::digest([padded(0x5c), inner].concat()).to_vec()
}

/// In hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
