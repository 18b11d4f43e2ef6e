//! User data of EC2: whether it is ours, and the settings in it.
//!
//! Ours is a text whose first line is `#!` with a path that ends in
//! `titus-bootstrap`, or exactly `#titus-bootstrap`; a MIME message with one such
//! part, or with one of type `application/vnd.titus-bootstrap+toml`; and any of these
//! compressed with gzip, encoded as base64, or both. Anything else belongs to someone
//! else and is never parsed: many shell scripts and cloud-configs would pass as TOML.

use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// EC2's own limit on user data, before base64: 16 KiB ("Run commands at launch", EC2 user guide).
const LIMIT: usize = 16 * 1024;

/// What compressed user data may grow to, bytes.
const INFLATED_LIMIT: usize = 1024 * 1024;

/// gzip in base64 in gzip is more than any tool makes.
const LAYERS: u32 = 3;

const NAME: &str = "titus-bootstrap";
const MIME_TYPE: &str = "application/vnd.titus-bootstrap+toml";

/// The settings in user data, as TOML; `None` if it is not ours.
///
/// The `#!` line stays in the text: it is a comment in TOML, and the lines keep their
/// numbers. A part of a MIME message is numbered from its own first line.
///
/// # Errors
/// When there are more than 16 KiB, or when it is ours and cannot be read: no UTF-8,
/// damaged or larger than 1 MiB when inflated, two parts with settings.
pub fn settings(bytes: &[u8]) -> Result<Option<String>> {
    if bytes.len() > LIMIT {
        return Err(refuse(format!("it has {} bytes, and EC2 allows {LIMIT}", bytes.len())));
    }
    peel(bytes, LAYERS)
}

/// The words that follow the path on the `#!` line: `--role`, `agent`. The kernel
/// passes them to the program, but who reads user data from the metadata service must
/// look for them here.
pub fn arguments(settings: &str) -> Vec<&str> {
    let first = settings.lines().next().unwrap_or_default();
    first.strip_prefix("#!").map(|line| line.split_whitespace().skip(1).collect()).unwrap_or_default()
}

/// Looks at the text, else takes one layer of packing off and looks again.
fn peel(bytes: &[u8], layers: u32) -> Result<Option<String>> {
    if is_ours(bytes) {
        return text(bytes).map(Some);
    }
    if is_mime(bytes) {
        return part(bytes);
    }
    if layers == 0 {
        return Ok(None);
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let (inflated, problem) = inflate(bytes);
        return match problem {
            None => peel(&inflated, layers - 1),
            // Whose it is can only be told from what came out until then.
            Some(problem) if names_us(&inflated) => Err(refuse(problem)),
            Some(_) => Ok(None),
        };
    }
    match decode(bytes) {
        Some(decoded) => peel(&decoded, layers - 1),
        None => Ok(None),
    }
}

/// Whether the first line says so.
fn is_ours(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
    if line == b"#titus-bootstrap" {
        return true;
    }
    let Some(Ok(line)) = line.strip_prefix(b"#!").map(str::from_utf8) else {
        return false;
    };
    let path = line.split_whitespace().next().unwrap_or_default();
    path.rsplit_once('/').is_some_and(|(_, name)| name == NAME)
}

/// Whether the bytes speak of us at all; decides whether damage is our business.
fn names_us(bytes: &[u8]) -> bool {
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME.as_bytes()))
}

fn text(bytes: &[u8]) -> Result<String> {
    if bytes.len() > INFLATED_LIMIT {
        return Err(refuse(format!("its settings have more than {INFLATED_LIMIT} bytes")));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let before = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|b| **b == b'\n').count() + 1;
            Err(refuse(format!("line {line} of its settings is not UTF-8")))
        }
    }
}

/// Whether this is a message with MIME headers; those of a shell script or a
/// cloud-config do not parse, or lack the content type.
fn is_mime(bytes: &[u8]) -> bool {
    let name = bytes.split(|b| *b == b':').next().unwrap_or_default();
    let is_header = !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    (is_header || bytes.starts_with(b"From "))
        && mailparse::parse_headers(bytes)
            .is_ok_and(|(headers, _)| headers.iter().any(|h| h.get_key_ref().eq_ignore_ascii_case("content-type")))
}

/// The one part of a MIME message that is ours.
fn part(bytes: &[u8]) -> Result<Option<String>> {
    let damaged = |e: mailparse::MailParseError| {
        if names_us(bytes) { Err(refuse(format!("its MIME parts cannot be read: {e}"))) } else { Ok(None) }
    };
    let message = match mailparse::parse_mail(bytes) {
        Ok(message) => message,
        Err(e) => return damaged(e),
    };
    let mut found = None;
    for part in message.parts().filter(|part| part.subparts.is_empty()) {
        let typed = part.ctype.mimetype.eq_ignore_ascii_case(MIME_TYPE);
        let body = match part.get_body_raw() {
            Ok(body) => body,
            Err(e) if typed => return damaged(e),
            Err(_) => continue,
        };
        if !typed && !is_ours(&body) {
            continue;
        }
        if found.replace(text(&body)?).is_some() {
            return Err(refuse("two of its MIME parts are settings, and one cannot be told to win"));
        }
    }
    Ok(found)
}

/// What a gzip stream holds, and what was wrong with it.
fn inflate(bytes: &[u8]) -> (Vec<u8>, Option<String>) {
    let mut inflated = Vec::new();
    let mut limited = flate2::read::MultiGzDecoder::new(bytes).take(INFLATED_LIMIT as u64 + 1);
    let problem = match limited.read_to_end(&mut inflated) {
        Ok(_) if inflated.len() > INFLATED_LIMIT => Some(format!("it inflates to more than {INFLATED_LIMIT} bytes")),
        Ok(_) => None,
        Err(e) => Some(format!("its gzip data is damaged: {e}")),
    };
    (inflated, problem)
}

/// What base64 with any line breaks stands for, if it is base64.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let compact: Vec<u8> = bytes.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    if compact.is_empty() { None } else { STANDARD.decode(compact).ok() }
}

fn refuse(cause: impl std::fmt::Display) -> Error {
    Error::config("the user data cannot be used")
        .cause(cause)
        .fix("begin it with the line #!/usr/bin/titus-bootstrap, and let settings in TOML follow")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    const OURS: &str = "#!/usr/bin/titus-bootstrap --role agent\nstack = \"mainvpc\"\n";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn base64(bytes: &[u8]) -> Vec<u8> {
        let text = STANDARD.encode(bytes).into_bytes();
        text.chunks(76).collect::<Vec<_>>().join(&b'\n')
    }

    fn multipart(parts: &[(&str, &str)]) -> String {
        let mut message = "Content-Type: multipart/mixed; boundary=\"//\"\nMIME-Version: 1.0\n\n".to_owned();
        for (headers, body) in parts {
            message += &format!("--//\n{headers}\n\n{body}\n");
        }
        message + "--//--\n"
    }

    fn ours(bytes: impl AsRef<[u8]>) -> Option<String> {
        settings(bytes.as_ref()).unwrap()
    }

    fn problem(bytes: impl AsRef<[u8]>) -> String {
        settings(bytes.as_ref()).unwrap_err().cause.unwrap()
    }

    #[test]
    fn the_first_line_says_whose_it_is() {
        for line in [
            "#titus-bootstrap",
            "#!/usr/bin/titus-bootstrap",
            "#! /opt/bin/titus-bootstrap",
            "#!/usr/bin/titus-bootstrap --role agent",
            "#!/usr/bin/titus-bootstrap\r",
        ] {
            let text = format!("{line}\nstack = \"x\"\n");
            assert_eq!(ours(&text), Some(text));
        }
        assert_eq!(ours("#!/usr/bin/titus-bootstrap").as_deref(), Some("#!/usr/bin/titus-bootstrap"));
    }

    #[test]
    fn anything_else_is_not_ours() {
        for other in [
            "",
            "\n#titus-bootstrap\n",
            "stack = \"mainvpc\"\n",
            "#!/bin/bash\nexec titus-bootstrap\n",
            "#!/bin/titus-bootstrap-wrapper\n",
            "#!/usr/bin/env titus-bootstrap\n",
            "#!titus-bootstrap\n",
            "#titus-bootstrap 2\n",
            "# titus-bootstrap\n",
            "#cloud-config\nwrite_files: []\n",
            "#include\nhttp://example.com/titus-bootstrap\n",
            "key: value\n",
            "aGVsbG8=",
            "\u{feff}#titus-bootstrap\n",
        ] {
            assert_eq!(ours(other), None, "{other:?}");
        }
        assert_eq!(ours([0xff, 0xfe, 0x00]), None);
        assert_eq!(ours([0x1f, 0x8b]), None);
        assert_eq!(ours(gzip(b"#cloud-config\n")), None);
    }

    #[test]
    fn packing_is_taken_off() {
        let gz = gzip(OURS.as_bytes());
        for packed in [gz.clone(), base64(OURS.as_bytes()), base64(&gz), gzip(&base64(OURS.as_bytes())), gzip(&gz)] {
            assert_eq!(ours(packed).as_deref(), Some(OURS));
        }
        let deep = (0..4).fold(OURS.as_bytes().to_vec(), |bytes, _| gzip(&bytes));
        assert_eq!(ours(deep), None);
    }

    #[test]
    fn a_part_of_a_message_can_be_ours() {
        let script = ("Content-Type: text/x-shellscript", "#!/bin/sh\ntrue");
        let by_type = ("Content-Type: application/vnd.titus-bootstrap+toml", "stack = \"x\"");
        let by_line = ("Content-Type: text/x-shellscript; charset=\"us-ascii\"", "#titus-bootstrap\nstack = \"x\"");
        assert_eq!(ours(multipart(&[script, by_type])).as_deref(), Some(by_type.1));
        assert_eq!(ours(multipart(&[by_line, script])).as_deref(), Some(by_line.1));
        assert_eq!(ours(gzip(multipart(&[script, by_type]).as_bytes())).as_deref(), Some(by_type.1));
        assert_eq!(ours(multipart(&[script])), None);

        let encoded = String::from_utf8(base64(OURS.as_bytes())).unwrap();
        let headers = "Content-Type: application/vnd.titus-bootstrap+toml\nContent-Transfer-Encoding: base64";
        assert_eq!(ours(multipart(&[(headers, &encoded)])).as_deref(), Some(OURS));

        let inner = multipart(&[by_type]).replace("//", "inner");
        let (inner_headers, inner_body) = inner.split_once("\n\n").unwrap();
        assert_eq!(ours(multipart(&[script, (inner_headers, inner_body)])).as_deref(), Some(by_type.1));
    }

    #[test]
    fn what_is_ours_and_cannot_be_read_is_refused() {
        let long = vec![b'#'; LIMIT + 1];
        assert!(problem(&long).contains("16384"));
        assert_eq!(problem(b"#titus-bootstrap\na = 1\nb = \"\xff\"\n"), "line 3 of its settings is not UTF-8");

        let mut cut = gzip(OURS.as_bytes());
        cut.truncate(cut.len() - 4);
        assert!(problem(&cut).contains("damaged"));

        let two = [("Content-Type: application/vnd.titus-bootstrap+toml", "a = 1"); 2];
        assert!(problem(multipart(&two)).contains("two"));
    }

    #[test]
    fn a_bomb_stays_small() {
        let bomb = |start: &str| {
            let mut bytes = start.as_bytes().to_vec();
            bytes.resize(2 * INFLATED_LIMIT, b'\n');
            gzip(&bytes)
        };
        assert!(problem(bomb(OURS)).contains("1048576"));
        assert_eq!(ours(bomb("#!/bin/sh\n")), None);
        let (inflated, problem) = inflate(&bomb(OURS));
        assert!(problem.is_some() && inflated.len() == INFLATED_LIMIT + 1);
    }

    #[test]
    fn arguments_stand_on_the_first_line() {
        assert_eq!(arguments(OURS), ["--role", "agent"]);
        assert_eq!(arguments("#!/usr/bin/titus-bootstrap\n--role x\n"), [""; 0]);
        assert_eq!(arguments("#titus-bootstrap --role\n"), [""; 0]);
        assert_eq!(arguments(""), [""; 0]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = settings(&bytes);
            let _ = settings(&gzip(&bytes));
            let _ = settings(&[b"#titus-bootstrap\n", &*bytes].concat());
            let _ = settings(&[&gzip(OURS.as_bytes())[..20], &*bytes].concat());
        }

        #[test]
        fn any_message_is_answered(
            headers in "(Content-Type: multipart/mixed; boundary=[a\"']{0,3}\n)?([A-Za-z-]{1,9}:[ -~]{0,20}\n){0,3}",
            body in "((--a{0,2}(--)?|Content-Type: (multipart/x; boundary=a|[ -~]{0,20})|[ -~]{0,20})\r?\n){0,20}",
        ) {
            let _ = settings(format!("{headers}\n{body}").as_bytes());
            let _ = settings(format!("From x\n{headers}{body}").as_bytes());
        }

        #[test]
        fn what_is_ours_comes_back_unchanged(body in "[^\u{0}]{0,200}") {
            let text = format!("#titus-bootstrap\n{body}");
            prop_assert_eq!(ours(&text), Some(text.clone()));
            prop_assert_eq!(ours(base64(&gzip(text.as_bytes()))), Some(text));
        }
    }
}
