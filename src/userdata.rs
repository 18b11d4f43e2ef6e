//! EC2 user data: whether it is for this program, and its settings.
//!
//! User data is for this program if its first line is `#!` with a path that ends in
//! `titus-bootstrap`, or exactly `#titus-bootstrap`. It may also be a MIME message with one such
//! part, or with one of type `application/vnd.titus-bootstrap+toml`. Any of these may be
//! compressed with gzip, encoded as base64, or both. A byte order mark, blank lines and blanks before the first line
//! are allowed.
//!
//! User data that almost has one of these forms is refused, because its author evidently meant this program. Anything
//! else is for other programs and is never parsed: many shell scripts and cloud-configs would pass as TOML.

use std::io::Read;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mailparse::{MailHeaderMap, ParsedMail};

use crate::error::{Error, Result};

/// EC2's own limit on user data, before base64: 16 KiB ("Run commands at launch", EC2 user guide).
const LIMIT: usize = 16 * 1024;

/// The maximum size of decompressed user data, bytes.
const INFLATED_LIMIT: usize = 1024 * 1024;

/// The maximum depth of encodings. No tool produces even gzip in base64 in gzip.
const LAYERS: u32 = 3;

const NAME: &str = "titus-bootstrap";
const MIME_TYPE: &str = "application/vnd.titus-bootstrap+toml";

/// The transfer encodings of a part (RFC 2045, 6.1): those that keep its bytes, and the other two.
const ENCODINGS: [&str; 5] = ["7bit", "8bit", "binary", "base64", "quoted-printable"];

/// First lines by which cloud-init recognizes its own formats ("User-Data Formats", cloud-init documentation).
const CLOUD_INIT: [&str; 6] =
    ["#cloud-config", "#cloud-boothook", "#include", "#part-handler", "#upstart-job", "## template:"];

/// Base64 in the forms that tools write: with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The settings in user data, as TOML, or `None` if it is not for this program.
///
/// The `#!` line stays in the text, where it is a TOML comment, so that line numbers stay
/// correct. Line numbers of a MIME part start at the part's first line.
///
/// # Errors
/// Fails when there are more than 16 KiB; when the settings are not UTF-8, are damaged, exceed 1 MiB after
/// decompression, or are in two parts; and when the user data almost has one of the forms above.
pub fn settings(bytes: &[u8]) -> Result<Option<String>> {
    if bytes.len() > LIMIT {
        return Err(refuse(format!("it has {} bytes, but EC2 allows {LIMIT}", bytes.len())));
    }
    peel(bytes, LAYERS)
}

/// Whether the text begins as a script, or with a header of cloud-init: no file of settings does.
pub fn is_foreign(text: &str) -> bool {
    let first = first_line(text);
    first.starts_with("#!") || cloud_init_header(first).is_some()
}

/// The first line that is not blank.
fn first_line(text: &str) -> &str {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default()
}

/// The header by which cloud-init recognizes a text, if the line begins with one.
fn cloud_init_header(line: &str) -> Option<&'static str> {
    CLOUD_INIT.into_iter().find(|start| line.starts_with(start))
}

/// Describes user data, for the list of places consulted for the role.
pub fn describe(bytes: &[u8]) -> String {
    match settings(bytes) {
        Ok(None) => describe_foreign(bytes, LAYERS),
        Ok(Some(_)) => "settings of titus-bootstrap".into(),
        Err(_) => "cannot be used".into(),
    }
}

const NO_TEXT: &str = "no text";

/// Describes user data for another program.
fn describe_foreign(bytes: &[u8], layers: u32) -> String {
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
            |inside| format!("{}, compressed with gzip", describe_foreign(&inside, layers - 1)),
        );
    }
    if bytes.trim_ascii().is_empty() {
        return "nothing but blanks".into();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return NO_TEXT.into() };
    let first = first_line(text);
    if let Some(interpreter) = first.strip_prefix("#!") {
        let interpreter: String = interpreter.trim().chars().take(60).collect();
        return format!("a script for {interpreter}");
    }
    if let Some(start) = cloud_init_header(first) {
        return format!("cloud-init's ({})", start.trim_end_matches(':'));
    }
    if is_mime(bytes) {
        let types: Vec<String> = mailparse::parse_mail(bytes)
            .map(|message| leaf_parts(&message).map(|part| part.ctype.mimetype.chars().take(60).collect()).collect())
            .unwrap_or_default();
        return format!("MIME with {}", types.join(", "));
    }
    if toml::from_str::<toml::Table>(text).is_ok_and(|table| !table.is_empty()) {
        return "TOML without the first line that marks it (#!/usr/bin/titus-bootstrap)".into();
    }
    match decode(bytes).filter(|_| layers > 0).map(|decoded| describe_foreign(&decoded, layers - 1)) {
        Some(inside) if inside != NO_TEXT => format!("{inside}, as base64"),
        _ => "text without a first line that identifies it".into(),
    }
}

/// The words that follow the path on the `#!` line, e.g. `--role`, `agent`. The kernel
/// passes them to the program, but a program that reads user data from the metadata service must
/// parse them itself.
pub fn arguments(settings: &str) -> Vec<&str> {
    let Some(line) = first_line(settings).strip_prefix("#!") else { return Vec::new() };
    let is_before = |word: &&str| !word.ends_with(NAME);
    line.split_whitespace().skip_while(is_before).skip(1).collect()
}

/// The program that a text is for, judging by its first line.
enum Addressee {
    Ours,
    /// Evidently meant for this program but malformed, with the reason.
    Nearly(String),
    Others,
}

/// Examines the text, or else removes one layer of encoding and tries again.
fn peel(bytes: &[u8], layers: u32) -> Result<Option<String>> {
    if let Some(words) = decode_utf16(bytes) {
        return if mentions_name(words.as_bytes()) { Err(refuse("it is UTF-16: save it as UTF-8")) } else { Ok(None) };
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match find_addressee(bytes) {
        Addressee::Ours => return text(bytes).map(Some),
        Addressee::Nearly(why) => return Err(refuse(why)),
        Addressee::Others => {}
    }
    let unindented = bytes.trim_ascii_start();
    if is_mime(unindented) {
        let before = bytes.len() - unindented.len();
        return find_part(unindented, count_lines(bytes.get(..before).unwrap_or_default()), layers);
    }
    if layers == 0 {
        return Ok(None);
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let (inflated, problem) = inflate(bytes);
        return match problem {
            None => peel(&inflated, layers - 1),
            // Only the bytes before the damage show whom the data is for.
            Some(problem) if mentions_name(&inflated) => Err(refuse(problem)),
            Some(_) => Ok(None),
        };
    }
    match decode(bytes) {
        Some(decoded) => peel(&decoded, layers - 1),
        None => find_damage(bytes).map_or(Ok(None), |why| Err(refuse(why))),
    }
}

/// Decodes UTF-16 with a byte order mark, as some editors save it.
fn decode_utf16(bytes: &[u8]) -> Option<String> {
    let decode: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let units: Vec<u16> = bytes.as_chunks().0.iter().map(|pair| decode(*pair)).collect();
    Some(String::from_utf16_lossy(&units))
}

/// The number of line ends in these bytes.
fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'\n').count()
}

/// Judges by the first line that is not blank, or by a later marker line if only comments precede it.
fn find_addressee(bytes: &[u8]) -> Addressee {
    let (mut comment, mut is_after_header) = (None, false);
    for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let Ok(line) = std::str::from_utf8(line.trim_ascii()) else { return Addressee::Others };
        if line.is_empty() {
            continue;
        }
        // What a copy can bring along: a fence of Markdown, the first line of a here-document.
        if comment.is_none() && (line.starts_with("```") || line.starts_with("<<")) {
            comment = Some(n + 1);
            continue;
        }
        if !line.starts_with('#') {
            let bare = line.trim_start_matches(['"', '\'', '`', '!']);
            return match line_addressee(bare) {
                Addressee::Others => Addressee::Others,
                _ => Addressee::Nearly(format!(
                    "line {}: {} does not begin with #!: remove what comes before it",
                    n + 1,
                    quoted(line)
                )),
            };
        }
        // Any other comment is one of the cloud-config.
        if is_after_header && !line.starts_with("#!") {
            return Addressee::Others;
        }
        match (line_addressee(line), comment) {
            (Addressee::Ours, Some(first)) => {
                let n = n + 1;
                return Addressee::Nearly(format!(
                    "line {n} marks the text for titus-bootstrap, but line {first} comes before it: move line {n} to the top"
                ));
            }
            (Addressee::Nearly(why), _) => return Addressee::Nearly(format!("line {}: {why}", n + 1)),
            (Addressee::Ours, None) => return Addressee::Ours,
            (Addressee::Others, _) => {}
        }
        // The next line may be ours all the same: to cloud-init it is a comment.
        if line.starts_with("#cloud-config") && !line.starts_with("#cloud-config-") {
            comment = Some(n + 1);
            is_after_header = true;
            continue;
        }
        let is_others = line.starts_with("#!") || cloud_init_header(line).is_some();
        // cloud-init replaces its own template with the text that follows.
        if is_others && !line.starts_with("## template:") {
            return Addressee::Others;
        }
        comment.get_or_insert(n + 1);
    }
    Addressee::Others
}

/// Judges one line, which begins with `#`.
fn line_addressee(line: &str) -> Addressee {
    if line == "#titus-bootstrap" {
        return Addressee::Ours;
    }
    let Some(command) = line.strip_prefix("#!") else {
        // Only the name alone or with options counts, not a sentence that begins with the name.
        let words: Vec<&str> = line.trim_start_matches('#').split_whitespace().collect();
        let [first, rest @ ..] = words.as_slice() else { return Addressee::Others };
        let is_alone = rest.first().is_none_or(|word| word.starts_with('-'));
        return if is_alone && resembles_name(first) {
            Addressee::Nearly(format!(
                "{} is not exactly #titus-bootstrap: write #!/usr/bin/titus-bootstrap, which takes options",
                quoted(line)
            ))
        } else {
            Addressee::Others
        };
    };
    let mut words = command.split_whitespace();
    let path = words.next().unwrap_or_default();
    let name = |path: &str| path.rsplit_once('/').map(|(_, name)| name.to_owned());
    if name(path).is_some_and(|name| name == NAME) {
        return Addressee::Ours;
    }
    if name(path).is_some_and(|name| name == "env") {
        let rest: Vec<&str> = words.collect();
        return match rest.as_slice() {
            [program] | ["-S", program, ..] if *program == NAME || name(program).is_some_and(|n| n == NAME) => {
                Addressee::Ours
            }
            [program, ..] if resembles_name(program) => Addressee::Nearly(format!(
                "{}: env takes all that follows it as one name; write #!/usr/bin/titus-bootstrap",
                quoted(line)
            )),
            ["-S", program, ..] if resembles_name(program) => {
                Addressee::Nearly(format!("{} is not titus-bootstrap", quoted(program)))
            }
            _ => Addressee::Others,
        };
    }
    if path.split_once('\\').is_some_and(|(path, _)| resembles_name(path)) {
        return Addressee::Nearly("it has a backslash and a letter, e.g. \\n, where the line should end".into());
    }
    if resembles_name(path) {
        return Addressee::Nearly(format!("{} is not a path that ends in /titus-bootstrap", quoted(path)));
    }
    if words.any(resembles_name) {
        return Addressee::Nearly(format!(
            "{} cannot start this program here: write #!/usr/bin/titus-bootstrap",
            quoted(path)
        ));
    }
    Addressee::Others
}

/// Words of the user data for a message, which can be as long as the data.
fn quoted(words: &str) -> String {
    let start: String = words.chars().take(100).collect();
    format!("{start:?}{}", if start.len() < words.len() { " …" } else { "" })
}

/// Whether a word is this program's name or close to it: in capitals, with other hyphens, with an ending, or with a typo or two.
fn resembles_name(word: &str) -> bool {
    let name = word.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let name = name.split(['.', ':', ',', ';', '"', '\'']).find(|part| !part.is_empty()).unwrap_or_default();
    let plain = |name: &str| name.replace(['-', '_', '\u{2010}', '\u{2011}', '\u{2013}', '\u{2014}'], "");
    let (is, ours) = (plain(name), plain(NAME));
    is.chars().count() < 2 * ours.len() && strsim::damerau_levenshtein(&is, &ours) <= 2
}

/// Whether the bytes mention this program at all, so that damage concerns it.
fn mentions_name(bytes: &[u8]) -> bool {
    bytes.windows(NAME.len()).any(|window| window.eq_ignore_ascii_case(NAME.as_bytes()))
}

fn text(bytes: &[u8]) -> Result<String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => {
            let line = count_lines(bytes.get(..e.valid_up_to()).unwrap_or_default()) + 1;
            Err(refuse(format!("line {line} of its settings is not UTF-8")))
        }
    }
}

/// Whether this is a message with MIME headers. Those of a shell script or a
/// cloud-config do not parse, or lack the content type.
fn is_mime(bytes: &[u8]) -> bool {
    let name = bytes.split(|b| *b == b':').next().unwrap_or_default();
    let is_header = !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    (is_header || bytes.starts_with(b"From "))
        && mailparse::parse_headers(bytes)
            .is_ok_and(|(headers, _)| headers.iter().any(|h| h.get_key_ref().eq_ignore_ascii_case("content-type")))
}

/// The leaf parts of a message.
fn leaf_parts<'a>(message: &'a ParsedMail<'a>) -> impl Iterator<Item = &'a ParsedMail<'a>> {
    message.parts().filter(|part| part.subparts.is_empty())
}

/// The one part of a MIME message that is for this program. `before` is the number of lines before the message.
fn find_part(bytes: &[u8], before: usize, layers: u32) -> Result<Option<String>> {
    let damaged = |e: mailparse::MailParseError| {
        if mentions_name(bytes) { Err(refuse(format!("cannot read its MIME parts: {e}"))) } else { Ok(None) }
    };
    let message = match mailparse::parse_mail(bytes) {
        Ok(message) => message,
        Err(e) => return damaged(e),
    };
    let (mut found, mut typed_parts) = (None, 0);
    for part in leaf_parts(&message) {
        let typed = part.ctype.mimetype.eq_ignore_ascii_case(MIME_TYPE);
        typed_parts += usize::from(typed);
        let body = match part.get_body_raw() {
            Ok(body) => body,
            Err(e) if typed => return damaged(e),
            Err(_) => continue,
        };
        let settings = if typed {
            refuse_odd_headers(part, bytes, before)?;
            Some(unpack_part(&body, layers)?)
        } else {
            peel_part(&body, layers)?
        };
        if let Some(settings) = settings
            && found.replace(settings).is_some()
        {
            return Err(refuse("two of its MIME parts contain settings: keep one"));
        }
    }
    // A wrong boundary, or a type that is almost right, can hide a part.
    let types: Vec<usize> = find_similar_types(bytes).collect();
    if let Some(line) = types.get(typed_parts) {
        let line = line + before;
        return Err(refuse(format!(
            "line {line} begins a part with settings, but the message has {typed_parts} parts of type {MIME_TYPE}: check its type, and that \
             the line before its headers is `--` and the boundary of the message"
        )));
    }
    if found.is_none()
        && message.ctype.mimetype.starts_with("multipart/")
        && message.subparts.is_empty()
        && mentions_name(bytes)
    {
        return Err(refuse("it has no parts: no line of the message is `--` followed by its boundary"));
    }
    Ok(found)
}

/// The settings in a part of another type, if it has any.
fn peel_part(body: &[u8], layers: u32) -> Result<Option<String>> {
    // Skip a message in a message: it is a separate part.
    if is_mime(body.trim_ascii_start()) { Ok(None) } else { peel(body, layers.min(1)) }
}

/// The settings in a part of this program's type, which may be encoded without a header that says so.
fn unpack_part(body: &[u8], layers: u32) -> Result<String> {
    if let Some(words) = decode_utf16(body) {
        return Err(refuse(format!(
            "its part of type {MIME_TYPE} is UTF-16 ({} characters): save it as UTF-8",
            words.len()
        )));
    }
    if body.starts_with(&[0x1f, 0x8b]) && layers > 0 {
        let (inflated, problem) = inflate(body);
        return problem.map_or_else(|| unpack_part(&inflated, layers - 1), |problem| Err(refuse(problem)));
    }
    // Hardly ever also TOML, which contains `=`; base64 has it only at the end.
    match decode(body) {
        Some(decoded) if layers > 0 && std::str::from_utf8(&decoded).is_ok_and(|text| text.contains(['=', '#'])) => {
            unpack_part(&decoded, layers - 1)
        }
        Some(decoded) if layers > 0 && decoded.starts_with(&[0x1f, 0x8b]) => unpack_part(&decoded, layers - 1),
        _ => text(body),
    }
}

/// Refuses a part whose headers have swallowed settings, and one with an unknown encoding.
fn refuse_odd_headers(part: &ParsedMail<'_>, message: &[u8], before: usize) -> Result<()> {
    // The part is a slice of the message.
    let start = (part.raw_bytes.as_ptr() as usize).saturating_sub(message.as_ptr() as usize);
    let first = before + count_lines(message.get(..start).unwrap_or_default()) + 1;
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
                "line {} is in the headers of the part with settings: insert a blank line after its last header",
                first + n
            )));
        }
    }
    if let Some(encoding) = part.headers.get_first_value("Content-Transfer-Encoding") {
        let encoding = encoding.trim().to_ascii_lowercase();
        if !ENCODINGS.contains(&encoding.as_str()) {
            return Err(refuse(format!(
                "the part with settings has the unknown transfer encoding {}; use one of {}",
                quoted(&encoding),
                ENCODINGS.join(", ")
            )));
        }
    }
    Ok(())
}

/// The numbers of the lines that give a part a type like this program's.
fn find_similar_types(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.split(|b| *b == b'\n').enumerate().filter_map(|(n, line)| {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let (name, value) = line.split_once(':')?;
        let kind = value.split(';').next().unwrap_or_default().trim();
        let (_, subtype) = kind.split_once('/')?;
        let subtype = subtype.split('+').next().unwrap_or_default();
        let subtype = subtype.strip_prefix("vnd.").or(subtype.strip_prefix("x-")).unwrap_or(subtype);
        (name.trim() == "content-type" && resembles_name(subtype)).then_some(n + 1)
    })
}

/// Decompresses a gzip stream; returns what it could, and the error if there was one.
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

/// Decodes base64 of either alphabet (RFC 4648, 4 and 5), with any line breaks. Returns `None` if the bytes are not base64.
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

/// The damage in base64 that contains settings but has a few invalid characters.
fn find_damage(bytes: &[u8]) -> Option<String> {
    let mut compact = compact(bytes);
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    let first = compact.iter().position(|b| !good(b)).unwrap_or(compact.len());
    let bad = compact.iter().filter(|b| !good(b)).count();
    if bad > compact.len() / 16 {
        return None;
    }
    compact.iter_mut().filter(|b| !good(b) || **b == b'=').for_each(|b| *b = b'A');
    compact.truncate(compact.len() / 4 * 4);
    let decoded = BASE64.decode(compact).ok()?;
    let is_ours = match decoded.starts_with(&[0x1f, 0x8b]) {
        true => mentions_name(&inflate(&decoded).0),
        false => {
            let line = decoded.split(|b| *b == b'\n').next().unwrap_or_default();
            !matches!(find_addressee(line), Addressee::Others)
        }
    };
    is_ours.then(|| format!("its base64 is damaged at character {}", first + 1))
}

fn refuse(cause: impl std::fmt::Display) -> Error {
    Error::config("the user data cannot be used")
        .cause(cause)
        .fix("begin it with the line #!/usr/bin/titus-bootstrap, followed by settings in TOML")
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

    /// These bytes, packed so many times.
    fn packed(bytes: &[u8], count: usize, pack: fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
        (0..count).fold(bytes.to_vec(), |bytes, _| pack(&bytes))
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
            "#!/usr/bin/env -S bash -e\ntitus-bootstrap\n",
            "#!/usr/bin/env -S /bin/bash -e\ntitus-bootstrap\n",
            "Content-Type: text/x-shellscript\n\n#!/bin/bash\ntitus-bootstrap\n",
            "# titus-bootstrap is run by this script\n",
            "# What titus-bootstrap needs\n#!/bin/sh\n",
            "#!/bin/sh\n#!/usr/bin/titus-bootstrap\n",
            "#cloud-config\nwrite_files: []\n",
            "#include\nhttp://example.com/titus-bootstrap\n",
            "key: value\n",
            "aGVsbG8=",
        ] {
            assert_eq!(ours(other), None, "{other:?}");
        }
        // Not a message: its first line is not a header.
        assert_eq!(ours("to all: x\nContent-Type: text/plain\n\n#!/usr/bin/titus-bootstrap\nstack = 'x'\n"), None);
        assert_eq!(ours([0xff, 0xfe, 0x00]), None);
        assert_eq!(ours("\u{feff}#cloud-config\n"), None);
        assert_eq!(ours([0x1f, 0x8b]), None);
        assert_eq!(ours(gzip(b"#cloud-config\n")), None);
    }

    #[test]
    fn harmless_text_before_the_first_line_stays() {
        for before in ["\n", "\r\n\r\n", "  ", "\t", "\n  "] {
            let text = format!("{before}{OURS}");
            assert_eq!(ours(&text), Some(text.clone()));
            assert_eq!(arguments(&text), ["--role", "agent"]);
        }
        // The mark is not a part of TOML.
        assert_eq!(ours(format!("\u{feff}{OURS}")).as_deref(), Some(OURS));
        assert_eq!(ours(base64(format!("\u{feff}{OURS}").as_bytes())).as_deref(), Some(OURS));
        for line in [
            "#!/usr/bin/env titus-bootstrap",
            "#!/usr/bin/env /opt/bin/titus-bootstrap",
            "#!/usr/bin/env -S titus-bootstrap --role agent",
            "#!/usr/bin/env -S /opt/bin/titus-bootstrap --role agent",
        ] {
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
            ("#!/usr/bin/titus-bootstrapxy\n", "is not a path"),
            ("#!/usr/bin/titus-bootstrap/\n", "is not a path"),
            ("#!titus-bootstrap\n", "is not a path"),
            ("#!/usr/bin/env titus-bootstrap --role agent\n", "env takes all that follows it as one name"),
            ("#!/usr/bin/env -S titus-boostrap --role agent\n", "\"titus-boostrap\" is not titus-bootstrap"),
            ("#titus-bootstrap --role agent\n", "is not exactly #titus-bootstrap"),
            ("# titus-bootstrap\n", "is not exactly #titus-bootstrap"),
            ("##titus-bootstrap\n", "is not exactly #titus-bootstrap"),
            ("#Titus-Bootstrap\n", "is not exactly #titus-bootstrap"),
            ("\n\n#titus_bootstrap\n", "line 3: "),
            (
                "# my node\n\n#!/usr/bin/titus-bootstrap\n",
                "line 3 marks the text for titus-bootstrap, but line 1 comes before it",
            ),
            ("## template: jinja\n#!/usr/bin/titus-bootstrap\n", "move line 2 to the top"),
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
            ("toml\n\nstack", "toml\nstack", "line 11 is in the headers"),
            ("boundary=\"//\"", "boundary=\"other\"", "has 0 parts of type"),
            (
                "\n--//\nContent-Type: application",
                "\n-//\nContent-Type: application",
                "line 10 begins a part with settings",
            ),
            ("vnd.titus-bootstrap+toml", "titus-bootstrap+toml", "line 10 begins a part with settings"),
            ("vnd.titus-bootstrap+toml", "vnd.titus_bootstrap+toml", "has 0 parts of type"),
            ("vnd.titus-bootstrap+toml", "vnd.titus-bootstrap", "has 0 parts of type"),
            ("toml\n\nstack", "toml\nword\nstack", "line 11 is in the headers"),
            ("toml\n\nstack", "toml\nzookeeper.servers = ['10.0.0.1:2181']\nstack", "line 11 is in the headers"),
            ("toml\n\nstack", "toml\nContent-Transfer-Encoding: base46\n\nstack", "transfer encoding \"base46\""),
        ] {
            let near = message.replacen(from, to, 1);
            assert_ne!(near, message, "{from}");
            assert!(problem(&near).contains(words), "{near}\n{}", problem(&near));
            assert!(problem(gzip(near.as_bytes())).contains(words), "{near} in gzip");
            // Blank lines before the message count.
            let words = words.replace("line 11 ", "line 13 ").replace("line 10 ", "line 12 ");
            assert!(problem(format!("\n\n{near}")).contains(&words), "{near} after blank lines");
        }
        // Encoded without a header that says so.
        let packed = multipart(&[(TYPE, &String::from_utf8(base64(&gzip(OURS.as_bytes()))).unwrap())]);
        assert_eq!(ours(packed).as_deref(), Some(OURS));
        // After blank lines, and with a byte order mark.
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
        // Up to one character in 16 is damage; with more, it may be anything.
        let text = format!("{OURS}# {}", "x".repeat(94 - OURS.len()));
        let whole = BASE64.encode(text);
        assert_eq!(whole.len(), 128);
        let spoilt = |count: usize| format!("{}{}{}", &whole[..100], "!".repeat(count), &whole[100 + count..]);
        for wrong in [spoilt(1), spoilt(8), format!("{}A", spoilt(1))] {
            assert_eq!(problem(wrong), "its base64 is damaged at character 101");
        }
        assert_eq!(ours(spoilt(9)), None);
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
            (b"stack = \"x\"\n".to_vec(), "TOML without the first line"),
            (b"hello world\n".to_vec(), "text without a first line"),
            (b" \n".to_vec(), "nothing but blanks"),
            (b"\xfd7zXZ\0".to_vec(), "compressed with xz"),
            (b"\xff\x00\x01".to_vec(), "no text"),
        ] {
            assert!(describe(&bytes).starts_with(words), "{}", describe(&bytes));
        }
        let script = b"#!/bin/sh\ntrue\n";
        let described = |count: usize, pack: fn(&[u8]) -> Vec<u8>| describe(&packed(script, count, pack));
        let (zipped, encoded) = (", compressed with gzip".repeat(3), ", as base64".repeat(3));
        assert_eq!(described(3, gzip), format!("a script for /bin/sh{zipped}"));
        assert_eq!(described(4, gzip), format!("compressed with gzip{zipped}"));
        assert_eq!(described(3, base64), format!("a script for /bin/sh{encoded}"));
        assert_eq!(described(4, base64), format!("text without a first line that identifies it{encoded}"));
    }

    #[test]
    fn encodings_are_removed() {
        let gz = gzip(OURS.as_bytes());
        for packed in [gz.clone(), base64(OURS.as_bytes()), base64(&gz), gzip(&base64(OURS.as_bytes())), gzip(&gz)] {
            assert_eq!(ours(packed).as_deref(), Some(OURS));
        }
        for pack in [gzip, base64] {
            assert_eq!(ours(packed(OURS.as_bytes(), 3, pack)).as_deref(), Some(OURS));
            assert_eq!(ours(packed(OURS.as_bytes(), 4, pack)), None);
        }
    }

    #[test]
    fn encodings_of_a_part_are_removed_up_to_the_same_depth() {
        const NO_TEXT: &str = "line 1 of its settings is not UTF-8";
        let part = |body: &[u8]| {
            let headers = "Content-Type: application/vnd.titus-bootstrap+toml\nContent-Transfer-Encoding: base64";
            multipart(&[(headers, std::str::from_utf8(&base64(body)).unwrap())])
        };
        let text = b"stack = 'blue'";
        let as_text = |bytes: Vec<u8>| Some(String::from_utf8(bytes).unwrap());
        for pack in [gzip, base64] {
            assert_eq!(ours(part(&packed(text, 3, pack))), as_text(text.to_vec()));
        }
        // What is still encoded below that is taken as it is.
        assert_eq!(problem(part(&packed(text, 4, gzip))), NO_TEXT);
        assert_eq!(ours(part(&packed(text, 4, base64))), as_text(base64(text)));
        let both = base64(&gzip(text));
        assert_eq!(problem(part(&base64(&gzip(&both)))), NO_TEXT);
        assert_eq!(ours(part(&gzip(&base64(&gzip(&both))))), as_text(both));
        // A word that is also base64.
        assert_eq!(ours(part(b"abcd")), as_text(b"abcd".to_vec()));
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
        // Damage of another part does not matter.
        let damaged = ("Content-Type: application/x\nContent-Transfer-Encoding: base64", "c3Rh!!!");
        assert_eq!(ours(multipart(&[damaged, by_type])).as_deref(), Some(by_type.1));

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
        assert!(ours(format!("{OURS}{}", "#".repeat(LIMIT - OURS.len()))).is_some());
        assert_eq!(problem(b"#titus-bootstrap\na = 1\nb = \"\xff\"\n"), "line 3 of its settings is not UTF-8");

        let mut cut = gzip(OURS.as_bytes());
        cut.truncate(cut.len() - 4);
        assert!(problem(&cut).contains("damaged"));

        let two = [("Content-Type: application/vnd.titus-bootstrap+toml", "a = 1"); 2];
        assert!(problem(multipart(&two)).contains("two"));
    }

    #[test]
    fn a_bomb_stays_small() {
        let inflating = |start: &str, size: usize| {
            let mut bytes = start.as_bytes().to_vec();
            bytes.resize(size, b'\n');
            gzip(&bytes)
        };
        let bomb = |start: &str| inflating(start, 2 * INFLATED_LIMIT);
        assert!(problem(bomb(OURS)).contains("1048576"));
        assert!(problem(inflating(OURS, INFLATED_LIMIT + 1)).contains("1048576"));
        assert_eq!(ours(inflating(OURS, INFLATED_LIMIT)).unwrap().len(), INFLATED_LIMIT);
        assert_eq!(ours(bomb("#!/bin/sh\n")), None);
        let (inflated, problem) = inflate(&bomb(OURS));
        assert!(problem.is_some() && inflated.len() == INFLATED_LIMIT + 1);
    }

    #[test]
    fn arguments_are_on_the_first_line() {
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
