//! JSON, as far as the stand-ins need it: values by their names.
#![allow(dead_code)] // No program uses all of it.

/// The text or number that first has this name.
pub fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    rest.split(['"', ',', '}']).map(str::trim).find(|part| !part.is_empty())
}

/// The texts of this name, in their order; a number is an empty text.
pub fn texts<'a>(json: &'a str, name: &str) -> Vec<&'a str> {
    let text = |rest: &'a str| rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
    json.split(&format!("\"{name}\":")).skip(1).map(|rest| text(rest).unwrap_or_default()).collect()
}

/// `text` as a JSON string.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', r#"\""#))
}
