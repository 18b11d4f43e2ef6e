//! Reads a properties file as java.util.Properties does, and the argument that names it.

use std::collections::BTreeMap;
use std::{env, fs};

const BLANKS: [char; 3] = [' ', '\t', '\x0c'];

/// The properties of the file that `-p FILE` names. Each of `required` must have a value.
pub fn load(required: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let ["-p", path] = *arguments.iter().map(String::as_str).collect::<Vec<_>>() else {
        return Err("the only arguments are -p FILE".into());
    };
    let bytes = fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let properties = parse(&bytes).map_err(|e| format!("{path}: {e}"))?;
    let lacks = |key: &&&str| properties.get(**key).is_none_or(String::is_empty);
    let lacking: Vec<_> = required.iter().filter(lacks).copied().collect();
    if lacking.is_empty() { Ok(properties) } else { Err(format!("{path}: no value for {}", lacking.join(", "))) }
}

/// The file is ISO-8859-1. Of two entries with the same key the last one counts.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let (mut properties, mut entry) = (BTreeMap::new(), String::new());
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        let line = line.trim_start_matches(BLANKS);
        if entry.is_empty() && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        if (line.len() - line.trim_end_matches('\\').len()) % 2 == 1 {
            entry.push_str(&line[..line.len() - 1]);
            continue;
        }
        entry.push_str(line);
        let (key, value) = split(&entry)?;
        properties.insert(key, value);
        entry.clear();
    }
    if !entry.is_empty() {
        let (key, value) = split(&entry)?;
        properties.insert(key, value);
    }
    Ok(properties)
}

fn split(entry: &str) -> Result<(String, String), String> {
    let mut escaped = false;
    let ends_key = |c: char| {
        let ends = !escaped && (['=', ':'].contains(&c) || BLANKS.contains(&c));
        escaped = c == '\\' && !escaped;
        ends
    };
    let (key, rest) = entry.split_at(entry.find(ends_key).unwrap_or(entry.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start_matches(BLANKS);
    Ok((unescape(key)?, unescape(value)?))
}

fn unescape(text: &str) -> Result<String, String> {
    let (mut units, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        let unit = match c {
            '\\' => match chars.next() {
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).collect();
                    let valid = digits.len() == 4 && digits.chars().all(|c| c.is_ascii_hexdigit());
                    let unit = u16::from_str_radix(&digits, 16).ok().filter(|_| valid);
                    units.push(unit.ok_or_else(|| format!("malformed \\uxxxx encoding in '{text}'"))?);
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\x0c',
                Some(other) => other,
                None => continue,
            },
            c => c,
        };
        units.push(unit as u16);
    }
    Ok(String::from_utf16_lossy(&units))
}
