//! User data of EC2: whether it is ours, and the settings in it.
//!
//! Ours is a text whose first line is `#!` with a path that ends in
//! `titus-bootstrap`, or exactly `#titus-bootstrap`; a MIME message with one such
//! part, or with one of type `application/vnd.titus-bootstrap+toml`; and any of these
//! compressed with gzip, encoded as base64, or both. A byte order mark, blank lines and blanks before the first line
//! do no harm.
//!
//! What names us in the place where one of these would, and is none of them, is refused: it was meant for us. Anything
//! else belongs to someone else and is never parsed: many shell scripts and cloud-configs would pass as TOML.

use std::io::Read;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mailparse::{MailHeaderMap, ParsedMail};

use crate::error::{Error, Result};

/// EC2's own limit on user data, before base64: 16 KiB ("Run commands at launch", EC2 user guide).
const LIMIT: usize = 16 * 1024;

/// What compressed user data may grow to, bytes.
const INFLATED_LIMIT: usize = 1024 * 1024;

/// gzip in base64 in gzip is more than any tool makes.
const LAYERS: u32 = 3;

const NAME: &str = "titus-bootstrap";
const MIME_TYPE: &str = "application/vnd.titus-bootstrap+toml";

/// Of the transfer encodings of a part (RFC 2045, 6.1), those that leave its bytes as they are, and the other two.
const ENCODINGS: [&str; 5] = ["7bit", "8bit", "binary", "base64", "quoted-printable"];

/// What cloud-init reads as its own by the first line ("User-Data Formats", cloud-init documentation).
const CLOUD_INIT: [&str; 6] =
    ["#cloud-config", "#cloud-boothook", "#include", "#part-handler", "#upstart-job", "## template:"];

/// Base64 as tools write it, with its padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The settings in user data, as TOML; `None` if it is not ours.
///
/// The `#!` line stays in the text: it is a comment in TOML, and the lines keep their
/// numbers. A part of a MIME message is numbered from its own first line.
///
/// # Errors
/// When there are more than 16 KiB; when it is ours and cannot be read: no UTF-8, damaged or larger than 1 MiB when
/// inflated, two parts with settings; and when it is nearly ours.
pub fn settings(bytes: &[u8]) -> Result<Option<String>> {
    if bytes.len() > LIMIT {
        return Err(refuse(format!("it has {} bytes, and EC2 allows {LIMIT}", bytes.len())));
    }
    peel(bytes, LAYERS)
}

/// What user data is, in words: for the list of places where a role was looked for.
pub fn looks_like(bytes: &[u8]) -> String {
    match settings(bytes) {
        Ok(None) => kind(bytes, LAYERS),
        Ok(Some(_)) => "settings of titus-bootstrap".into(),
        Err(_) => "cannot be used".into(),
    }
}

const NO_TEXT: &str = "no text";

/// The same of what is someone else's.
fn kind(bytes: &[u8], layers: u32) -> String {
    const PACKED: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "zip"),
    ];
    if let Some((_, name)) = PACKED.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        let inside = (*name == "gzip" && layers > 0).then(|| inflate(bytes).0);
        return inside.map_or_else(
            || format!("compressed with {name}"),
            |inside| format!("{}, compressed with gzip", kind(&inside, layers - 1)),
        );
    }
    if bytes.trim_ascii().is_empty() {
        return "nothing but blanks".into();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return NO_TEXT.into() };
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if let Some(interpreter) = first.strip_prefix("#!") {
        let interpreter: String = interpreter.trim().chars().take(60).collect();
        return format!("a script for {interpreter}");
    }
    if let Some(start) = CLOUD_INIT.iter().find(|start| first.starts_with(**start)) {
        return format!("cloud-init's ({})", start.trim_end_matches(':'));
    }
    if is_mime(bytes) {
        let types: Vec<String> = mailparse::parse_mail(bytes)
            .map(|message| leaves(&message).map(|part| part.ctype.mimetype.chars().take(60).collect()).collect())
            .unwrap_or_default();
        return format!("MIME with {}", types.join(", "));
    }
    if toml::from_str::<toml::Table>(text).is_ok_and(|table| !table.is_empty()) {
        return "TOML without a first line that says whose it is (#!/usr/bin/titus-bootstrap)".into();
    }
    match decode(bytes).filter(|_| layers > 0).map(|decoded| kind(&decoded, layers - 1)) {
        Some(inside) if inside != NO_TEXT => format!("{inside}, as base64"),
        _ => "text without a first line that says whose it is".into(),
    }
}

/// The words that follow the path on the `#!` line: `--role`, `agent`. The kernel
/// passes them to the program, but who reads user data from the metadata service must
/// look for them here.
pub fn arguments(settings: &str) -> Vec<&str> {
    let first = settings.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let Some(line) = first.strip_prefix("#!") else { return Vec::new() };
    let is_before = |word: &&str| !word.ends_with(NAME);
    line.split_whitespace().skip_while(is_before).skip(1).collect()
}

/// Whose a text is, by its first line.
enum Whose {
    Ours,
    /// Meant for us, and not as it should be: why.
    Nearly(String),
    Others,
}

/// Looks at the text, else takes one layer of packing off and looks again.
fn peel(bytes: &[u8], layers: u32) -> Result<Option<String>> {
    if let Some(words) = wide(bytes) {
        return if names_us(words.as_bytes()) { Err(refuse("it is UTF-16: save it as UTF-8")) } else { Ok(None) };
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match whose(bytes) {
        Whose::Ours => return text(bytes).map(Some),
        Whose::Nearly(why) => return Err(refuse(why)),
        Whose::Others => {}
    }
    let unindented = bytes.trim_ascii_start();
    if is_mime(unindented) {
        let before = bytes.len() - unindented.len();
        return part(unindented, lines(bytes.get(..before).unwrap_or_default()), layers);
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
        None => damaged_base64(bytes).map_or(Ok(None), |why| Err(refuse(why))),
    }
}

/// The text of UTF-16 with a byte order mark, as some editors save it.
fn wide(bytes: &[u8]) -> Option<String> {
    let decode: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let units: Vec<u16> = bytes.as_chunks().0.iter().map(|pair| decode(*pair)).collect();
    Some(String::from_utf16_lossy(&units))
}

/// How many lines end in these bytes.
fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'\n').count()
}

/// By the first line that is not blank; and by a later one of ours, if only comments stand before it.
fn whose(bytes: &[u8]) -> Whose {
    let mut comment = None;
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line.trim_ascii()) else { return Whose::Others };
        if line.is_empty() {
            continue;
        }
        if !line.starts_with('#') {
            return Whose::Others;
        }
        match (whose_line(line), comment) {
            (Whose::Ours, Some(first)) => {
                let n = n + 1;
                return Whose::Nearly(format!(
                    "line {n} says that it is titus-bootstrap's, and line {first} stands before it: begin with line {n}"
                ));
            }
            (Whose::Nearly(why), _) => return Whose::Nearly(format!("line {}: {why}", n + 1)),
            (Whose::Ours, None) => return Whose::Ours,
            (Whose::Others, _) => {}
        }
        let is_others = line.starts_with("#!") || CLOUD_INIT.iter().any(|start| line.starts_with(start));
        // A template of cloud-init's becomes what follows it.
        if is_others && !line.starts_with("## template:") {
            return Whose::Others;
        }
        comment.get_or_insert(n + 1);
    }
    Whose::Others
}

/// By one line, which begins with `#`.
fn whose_line(line: &str) -> Whose {
    if line == "#titus-bootstrap" {
        return Whose::Ours;
    }
    let Some(command) = line.strip_prefix("#!") else {
        // Not a sentence that begins with our name: the name alone, or with options.
        let words: Vec<&str> = line.trim_start_matches('#').split_whitespace().collect();
        let [first, rest @ ..] = words.as_slice() else { return Whose::Others };
        let is_alone = rest.first().is_none_or(|word| word.starts_with('-'));
        return if is_alone && is_like_us(first) {
            Whose::Nearly(format!(
                "{line:?} is not #titus-bootstrap, which takes no words: #!/usr/bin/titus-bootstrap does"
            ))
        } else {
            Whose::Others
        };
    };
    let mut words = command.split_whitespace();
    let path = words.next().unwrap_or_default();
    let name = |path: &str| path.rsplit_once('/').map(|(_, name)| name.to_owned());
    if name(path).is_some_and(|name| name == NAME) {
        return Whose::Ours;
    }
    if name(path).is_some_and(|name| name == "env") {
        let rest: Vec<&str> = words.collect();
        return match rest.as_slice() {
            [program] | ["-S", program, ..] if *program == NAME || name(program).is_some_and(|n| n == NAME) => {
                Whose::Ours
            }
            [program, ..] if is_like_us(program) => Whose::Nearly(format!(
                "{line:?}: env takes what follows it as one name; write #!/usr/bin/titus-bootstrap"
            )),
            ["-S", program, ..] if is_like_us(program) => Whose::Nearly(format!("{program:?} is not titus-bootstrap")),
            _ => Whose::Others,
        };
    }
    if is_like_us(path) {
        return Whose::Nearly(format!("{path:?} is not a path that ends in /titus-bootstrap"));
    }
    Whose::Others
}

/// Whether a word is our name, or nearly: in capitals, with other hyphens, with an ending, or with a slip or two.
fn is_like_us(word: &str) -> bool {
    let name = word.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let name = name.split(['.', ':', ',', ';', '"', '\'']).find(|part| !part.is_empty()).unwrap_or_default();
    let plain = |name: &str| name.replace(['-', '_', '\u{2010}', '\u{2011}', '\u{2013}', '\u{2014}'], "");
    let (is, ours) = (plain(name), plain(NAME));
    is.chars().count() < 2 * ours.len() && strsim::damerau_levenshtein(&is, &ours) <= 2
}

/// Whether the bytes speak of us at all; decides whether damage is our business.
fn names_us(bytes: &[u8]) -> bool {
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME.as_bytes()))
}

fn text(bytes: &[u8]) -> Result<String> {
    if bytes.len() > INFLATED_LIMIT {
        return Err(refuse(format!("its settings have more than {INFLATED_LIMIT} bytes")));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let line = lines(bytes.get(..e.valid_up_to()).unwrap_or_default()) + 1;
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

/// The parts of a message that have no parts.
fn leaves<'a>(message: &'a ParsedMail<'a>) -> impl Iterator<Item = &'a ParsedMail<'a>> {
    message.parts().filter(|part| part.subparts.is_empty())
}

/// The one part of a MIME message that is ours. `before`: so many lines stand before the message.
fn part(bytes: &[u8], before: usize, layers: u32) -> Result<Option<String>> {
    let damaged = |e: mailparse::MailParseError| {
        if names_us(bytes) { Err(refuse(format!("its MIME parts cannot be read: {e}"))) } else { Ok(None) }
    };
    let message = match mailparse::parse_mail(bytes) {
        Ok(message) => message,
        Err(e) => return damaged(e),
    };
    let (mut found, mut typed_parts) = (None, 0);
    for part in leaves(&message) {
        let typed = part.ctype.mimetype.eq_ignore_ascii_case(MIME_TYPE);
        typed_parts += usize::from(typed);
        let body = match part.get_body_raw() {
            Ok(body) => body,
            Err(e) if typed => return damaged(e),
            Err(_) => continue,
        };
        let settings = if typed {
            refuse_odd_headers(part, bytes, before)?;
            Some(unpacked(&body, layers)?)
        } else {
            peel_part(&body, layers)?
        };
        if let Some(settings) = settings
            && found.replace(settings).is_some()
        {
            return Err(refuse("two of its MIME parts are settings, and one cannot be told to win"));
        }
    }
    // A part that a wrong boundary, or a type that is nearly ours, hid.
    let types: Vec<usize> = types_like_ours(bytes).collect();
    if let Some(line) = types.get(typed_parts) {
        let line = line + before;
        return Err(refuse(format!(
            "line {line} begins a part with settings, and the message has {typed_parts} of type {MIME_TYPE}: check its type, and that \
             the line before its headers is `--` and the boundary of the message"
        )));
    }
    if found.is_none()
        && message.ctype.mimetype.starts_with("multipart/")
        && message.subparts.is_empty()
        && names_us(bytes)
    {
        return Err(refuse("no line of the message is `--` and its boundary, so that it has no parts"));
    }
    Ok(found)
}

/// What a part of another type has of ours, if it has.
fn peel_part(body: &[u8], layers: u32) -> Result<Option<String>> {
    // A message in a message is a part of its own.
    if is_mime(body.trim_ascii_start()) { Ok(None) } else { peel(body, layers.min(1)) }
}

/// The settings in a part of our type, which may be packed without saying so.
fn unpacked(body: &[u8], layers: u32) -> Result<String> {
    if let Some(words) = wide(body) {
        return Err(refuse(format!(
            "its part of type {MIME_TYPE} is UTF-16 ({} characters): save it as UTF-8",
            words.len()
        )));
    }
    if body.starts_with(&[0x1f, 0x8b]) && layers > 0 {
        let (inflated, problem) = inflate(body);
        return problem.map_or_else(|| unpacked(&inflated, layers - 1), |problem| Err(refuse(problem)));
    }
    // Hardly ever TOML as well: that has an `=`, which base64 has at its end alone.
    match decode(body) {
        Some(decoded) if layers > 0 && std::str::from_utf8(&decoded).is_ok_and(|text| text.contains(['=', '#'])) => {
            unpacked(&decoded, layers - 1)
        }
        Some(decoded) if layers > 0 && decoded.starts_with(&[0x1f, 0x8b]) => unpacked(&decoded, layers - 1),
        _ => text(body),
    }
}

/// Refuses headers of a part with settings that have swallowed some of these, and an encoding that is none.
fn refuse_odd_headers(part: &ParsedMail<'_>, message: &[u8], before: usize) -> Result<()> {
    // The part is a slice of the message.
    let start = (part.raw_bytes.as_ptr() as usize).saturating_sub(message.as_ptr() as usize);
    let first = before + lines(message.get(..start).unwrap_or_default()) + 1;
    for (n, line) in part.raw_bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let is_header =
            line.contains(&b':') && !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        if !is_header && !line.starts_with(b" ") && !line.starts_with(b"\t") && !line.starts_with(b"From ") {
            return Err(refuse(format!(
                "line {} stands among the headers of the part with settings: put a blank line after its last header",
                first + n
            )));
        }
    }
    if let Some(encoding) = part.headers.get_first_value("Content-Transfer-Encoding") {
        let encoding = encoding.trim().to_ascii_lowercase();
        if !ENCODINGS.contains(&encoding.as_str()) {
            return Err(refuse(format!(
                "the part with settings has the transfer encoding {encoding:?}, and there are {}",
                ENCODINGS.join(", ")
            )));
        }
    }
    Ok(())
}

/// The lines, from 1, that give a part a type like ours.
fn types_like_ours(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.split(|b| *b == b'\n').enumerate().filter_map(|(n, line)| {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let (name, value) = line.split_once(':')?;
        let kind = value.split(';').next().unwrap_or_default().trim();
        let (_, subtype) = kind.split_once('/')?;
        let subtype = subtype.split('+').next().unwrap_or_default();
        let subtype = subtype.strip_prefix("vnd.").or(subtype.strip_prefix("x-")).unwrap_or(subtype);
        (name.trim() == "content-type" && is_like_us(subtype)).then_some(n + 1)
    })
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

/// What base64 stands for, of either alphabet (RFC 4648, 4 and 5), with any line breaks, if it is base64.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let compact = compact(bytes);
    if compact.is_empty() { None } else { BASE64.decode(compact).ok() }
}

fn compact(bytes: &[u8]) -> Vec<u8> {
    let standard = |b: u8| match b {
        b'-' => b'+',
        b'_' => b'/',
        b => b,
    };
    bytes.iter().filter(|b| !b.is_ascii_whitespace()).map(|b| standard(*b)).collect()
}

/// What is wrong with base64 of something of ours, in which a few characters are not base64's.
fn damaged_base64(bytes: &[u8]) -> Option<String> {
    let mut compact = compact(bytes);
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    let first = compact.iter().position(|b| !good(b)).unwrap_or(compact.len());
    let bad = compact.iter().filter(|b| !good(b)).count();
    if compact.len() < 16 || bad > compact.len() / 16 {
        return None;
    }
    compact.iter_mut().filter(|b| !good(b) || **b == b'=').for_each(|b| *b = b'A');
    compact.truncate(compact.len() / 4 * 4);
    let decoded = BASE64.decode(compact).ok()?;
    let is_ours = match decoded.starts_with(&[0x1f, 0x8b]) {
        true => names_us(&inflate(&decoded).0),
        false => {
            let line = decoded.split(|b| *b == b'\n').next().unwrap_or_default();
            !matches!(whose(line), Whose::Others)
        }
    };
    is_ours.then(|| format!("its base64 is damaged at character {}", first + 1))
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
        let text = BASE64.encode(bytes).into_bytes();
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
            "stack = \"mainvpc\"\n",
            "#!/bin/bash\nexec titus-bootstrap\n",
            "#!/bin/titus-bootstrap-wrapper\n",
            "#!/usr/bin/env bash\ntitus-bootstrap\n",
            "# titus-bootstrap is run by this script\n",
            "# What titus-bootstrap needs\n#!/bin/sh\n",
            "#!/bin/sh\n#!/usr/bin/titus-bootstrap\n",
            "#cloud-config\n#!/usr/bin/titus-bootstrap\n",
            "#cloud-config\nwrite_files: []\n",
            "#include\nhttp://example.com/titus-bootstrap\n",
            "key: value\n",
            "aGVsbG8=",
        ] {
            assert_eq!(ours(other), None, "{other:?}");
        }
        assert_eq!(ours([0xff, 0xfe, 0x00]), None);
        assert_eq!(ours("\u{feff}#cloud-config\n"), None);
        assert_eq!(ours([0x1f, 0x8b]), None);
        assert_eq!(ours(gzip(b"#cloud-config\n")), None);
    }

    #[test]
    fn what_stands_before_the_first_line_and_does_no_harm_stays() {
        for before in ["\n", "\r\n\r\n", "  ", "\t", "\n  "] {
            let text = format!("{before}{OURS}");
            assert_eq!(ours(&text), Some(text.clone()));
            assert_eq!(arguments(&text), ["--role", "agent"]);
        }
        // A mark is not TOML's.
        assert_eq!(ours(format!("\u{feff}{OURS}")).as_deref(), Some(OURS));
        assert_eq!(ours(base64(format!("\u{feff}{OURS}").as_bytes())).as_deref(), Some(OURS));
        for line in ["#!/usr/bin/env titus-bootstrap", "#!/usr/bin/env -S titus-bootstrap --role agent"] {
            assert!(ours(format!("{line}\nstack = 'x'\n")).is_some(), "{line}");
        }
        assert_eq!(arguments("#!/usr/bin/env -S titus-bootstrap --role agent"), ["--role", "agent"]);
    }

    #[test]
    fn what_is_nearly_ours_is_refused() {
        for (text, words) in [
            ("#!/usr/bin/Titus-Bootstrap\n", "line 1: \"/usr/bin/Titus-Bootstrap\" is not a path that ends in"),
            ("#!/USR/BIN/TITUS-BOOTSTRAP --role agent\n", "is not a path that ends in /titus-bootstrap"),
            ("#!/usr/bin/titus_bootstrap\n", "is not a path"),
            ("#!/usr/bin/titus-boostrap\n", "is not a path"),
            ("#!/usr/bin/titus-bootstrap.sh\n", "is not a path"),
            ("#!/usr/bin/titus-bootstrap/\n", "is not a path"),
            ("#!titus-bootstrap\n", "is not a path"),
            ("#!/usr/bin/env titus-bootstrap --role agent\n", "env takes what follows it as one name"),
            ("#titus-bootstrap --role agent\n", "takes no words"),
            ("# titus-bootstrap\n", "takes no words"),
            ("##titus-bootstrap\n", "takes no words"),
            ("#Titus-Bootstrap\n", "takes no words"),
            ("\n\n#titus_bootstrap\n", "line 3: "),
            (
                "# my node\n\n#!/usr/bin/titus-bootstrap\n",
                "line 3 says that it is titus-bootstrap's, and line 1 stands before it",
            ),
            ("## template: jinja\n#!/usr/bin/titus-bootstrap\n", "begin with line 2"),
        ] {
            assert!(problem(text).contains(words), "{text:?}: {}", problem(text));
            assert!(problem(base64(text.as_bytes())).contains(words), "{text:?} as base64");
            assert!(
                problem(multipart(&[("Content-Type: text/x-shellscript", text)])).contains(words),
                "{text:?} as a part"
            );
        }
        let wide: Vec<u8> = [0xfeff].into_iter().chain(OURS.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        assert!(problem(wide).contains("UTF-16"));
    }

    #[test]
    fn what_is_nearly_a_message_of_ours_is_refused() {
        const TYPE: &str = "Content-Type: application/vnd.titus-bootstrap+toml";
        let script = ("Content-Type: text/x-shellscript", "#!/bin/sh\ntrue");
        let message = multipart(&[script, (TYPE, "stack = \"x\"\n[agent]\nlog_bucket = \"b\"")]);
        assert!(ours(&message).is_some());
        for (from, to, words) in [
            ("toml\n\nstack", "toml\nstack", "line 11 stands among the headers"),
            ("boundary=\"//\"", "boundary=\"other\"", "has 0 of type"),
            (
                "\n--//\nContent-Type: application",
                "\n-//\nContent-Type: application",
                "line 10 begins a part with settings",
            ),
            ("vnd.titus-bootstrap+toml", "titus-bootstrap+toml", "line 10 begins a part with settings"),
            ("vnd.titus-bootstrap+toml", "vnd.titus_bootstrap+toml", "has 0 of type"),
            ("vnd.titus-bootstrap+toml", "vnd.titus-bootstrap", "has 0 of type"),
            ("toml\n\nstack", "toml\nContent-Transfer-Encoding: base46\n\nstack", "transfer encoding \"base46\""),
        ] {
            let near = message.replacen(from, to, 1);
            assert_ne!(near, message, "{from}");
            assert!(problem(&near).contains(words), "{near}\n{}", problem(&near));
            assert!(problem(gzip(near.as_bytes())).contains(words), "{near} in gzip");
        }
        // Packed without saying so.
        let packed = multipart(&[(TYPE, &String::from_utf8(base64(&gzip(OURS.as_bytes()))).unwrap())]);
        assert_eq!(ours(packed).as_deref(), Some(OURS));
        // After blank lines, and with a mark.
        assert_eq!(ours(format!("\n{message}")), ours(&message));
        assert_eq!(ours(format!("\u{feff}{message}")), ours(&message));
    }

    #[test]
    fn base64_of_any_kind_is_read_and_what_is_damaged_is_refused() {
        let padded = String::from_utf8(base64(format!("{OURS}# \u{fb}\u{ff}?>~\n").as_bytes())).unwrap();
        for text in [padded.trim_end_matches('=').to_owned(), padded.replace('+', "-").replace('/', "_")] {
            assert!(ours(&text).is_some(), "{text}");
        }
        let damaged = padded.replacen("b", "!", 1);
        assert!(problem(&damaged).contains("its base64 is damaged at character"), "{}", problem(&damaged));
        let other = String::from_utf8(base64(b"#cloud-config\nwrite_files: []\n")).unwrap().replacen('c', "!", 1);
        assert_eq!(ours(other), None);
    }

    #[test]
    fn what_user_data_looks_like() {
        for (bytes, words) in [
            (OURS.as_bytes().to_vec(), "settings of titus-bootstrap"),
            (b"#!/usr/bin/Titus-Bootstrap\n".to_vec(), "cannot be used"),
            (b"#!/bin/bash -e\ntrue\n".to_vec(), "a script for /bin/bash -e"),
            (b"\n#cloud-config\na: b\n".to_vec(), "cloud-init's (#cloud-config)"),
            (gzip(b"#cloud-config\na: b\n"), "cloud-init's (#cloud-config), compressed with gzip"),
            (base64(b"#!/bin/sh\ntrue\n"), "a script for /bin/sh, as base64"),
            (
                multipart(&[("Content-Type: text/x-shellscript", "#!/bin/sh")]).into_bytes(),
                "MIME with text/x-shellscript",
            ),
            (b"stack = \"x\"\n".to_vec(), "TOML without a first line"),
            (b"hello world\n".to_vec(), "text without a first line"),
            (b" \n".to_vec(), "nothing but blanks"),
            (b"\xfd7zXZ\0".to_vec(), "compressed with xz"),
            (b"\xff\x00\x01".to_vec(), "no text"),
        ] {
            assert!(looks_like(&bytes).starts_with(words), "{}", looks_like(&bytes));
        }
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
