//! The names that a file's lines assign, and the facts and settings that the lines of its
//! template use.

use std::collections::BTreeSet;

use crate::template::{Renderer, TemplateSource, is_template};

/// The maximum number of lines of a template block that is analyzed as a unit.
const LARGEST_BLOCK: usize = 40;

/// Every assigned name in a text with its value, in order: `NAME=VALUE`, `export NAME=VALUE`,
/// `Environment=NAME=VALUE` (both), `"name": value`.
pub fn assignments(text: &str) -> Vec<(&str, &str)> {
    text.lines().flat_map(parse_line).collect()
}

fn parse_line(line: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = line.trim();
    if let Some((name, value)) = rest.strip_prefix('"').and_then(|rest| rest.split_once("\":")) {
        if is_name(name) {
            found.push((name, value.trim().trim_end_matches(',')));
        }
        return found;
    }
    rest = rest.strip_prefix("export ").unwrap_or(rest);
    while let Some((name, value)) = split(rest) {
        found.push((name, value));
        rest = value.trim_start_matches('"');
    }
    found
}

/// Splits at the first `=` outside `{{ }}`.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let equals = rest.find('=')?;
        match rest.find("{{").filter(|open| *open < equals) {
            Some(open) => at += open + rest.get(open..)?.find("}}")? + 2,
            None => {
                let (name, value) = (text.get(..at + equals)?, text.get(at + equals + 1..)?);
                return is_name(&strip_templates(name)).then_some((name, value));
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Renders the templates in a name: `server.{{ n }}` becomes `server.0`.
fn strip_templates(text: &str) -> String {
    let mut made = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        made.push_str(before);
        made.push('0');
        rest = after.split_once("}}").map_or("", |(_, after)| after);
    }
    made.push_str(rest);
    made
}

/// Whether a name in a template, e.g. `server.{{ n }}`, can become this one.
fn can_become(template: &str, name: &str) -> bool {
    match (template.split_once("{{"), template.rsplit_once("}}")) {
        (Some((before, _)), Some((_, after))) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
        _ => template == name,
    }
}

/// A line of a file that assigns a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The name, e.g. `MESOS_RESOURCES`.
    pub name: String,
    /// The value as written.
    pub value: String,
    /// The line's index among those of this name, and their number.
    pub place: (usize, usize),
}

/// The names of facts and settings in the template line that produces this line. A line
/// that only makes sense within a block is analyzed with it; without a match, the whole template is.
pub fn names(renderer: &Renderer, template: &str, line: &Line) -> BTreeSet<String> {
    let lines: Vec<&str> = template.lines().collect();
    let having = |fits: &dyn Fn(&str, &str) -> bool| -> Vec<usize> {
        let has = |line: &str| parse_line(line).iter().any(|(name, value)| fits(name, value));
        lines.iter().enumerate().filter(|(_, line)| has(line)).map(|(n, _)| n).collect()
    };
    let mut found = having(&|name, _| name == line.name);
    if found.is_empty() {
        found = having(&|name, _| can_become(name, &line.name));
    }
    let (nth, count) = line.place;
    if found.len() == count {
        found = found.get(nth).copied().into_iter().collect();
    } else if found.len() > 1 {
        // The template leaves out some of the lines, so this one comes from any line that can produce it.
        let can = having(&|name, value| can_become(name, &line.name) && can_become(value, &line.value));
        found = if can.is_empty() { found } else { can };
    }
    if found.is_empty() {
        return text_names(renderer, template).unwrap_or_default();
    }
    found.into_iter().flat_map(|n| block_names(renderer, &lines, n)).collect()
}

/// The names in the smallest block around a line that only uses facts and settings.
fn block_names(renderer: &Renderer, lines: &[&str], n: usize) -> BTreeSet<String> {
    let most = lines.len().min(LARGEST_BLOCK);
    let blocks = (1..=most).flat_map(|size| (n.saturating_sub(size - 1)..=n).map(move |start| start..start + size));
    let mut texts = blocks.filter_map(|block| Some(lines.get(block)?.join("\n")));
    let found = texts.find_map(|text| text_names(renderer, &text));
    found.or_else(|| text_names(renderer, &lines.join("\n"))).unwrap_or_default()
}

/// Returns `None` if the text is not a template, or uses a name that is not a fact or setting.
pub fn text_names(renderer: &Renderer, text: &str) -> Option<BTreeSet<String>> {
    if is_template(text) { renderer.names(&TemplateSource::Text(text)).ok() } else { Some(BTreeSet::new()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_of_every_format() {
        for (line, expected) in [
            ("A=b", &[("A", "b")][..]),
            ("  export A_B='c d'", &[("A_B", "'c d'")]),
            ("a.b-c=d=e", &[("a.b-c", "d=e"), ("d", "e")]),
            (
                "Environment=HTTP_PROXY=http://p?x=y",
                &[("Environment", "HTTP_PROXY=http://p?x=y"), ("HTTP_PROXY", "http://p?x=y")],
            ),
            ("Environment=\"A=b c\"", &[("Environment", "\"A=b c\""), ("A", "b c\"")]),
            ("ExecStart=/bin/x --y=z", &[("ExecStart", "/bin/x --y=z")]),
            ("ExecStart=", &[("ExecStart", "")]),
            ("\"stack\": \"mainvpc\",", &[("stack", "\"mainvpc\"")]),
            ("server.{{ n == 1 }}={{ host }}", &[("server.{{ n == 1 }}", "{{ host }}")]),
            ("printf 'A=%s'", &[]),
            ("# A=b", &[]),
            ("[Unit]", &[]),
            ("{{ a = b", &[]),
            ("=b", &[]),
            ("", &[]),
        ] {
            assert_eq!(parse_line(line), expected, "{line}");
        }
    }

    #[test]
    fn a_line_is_looked_at_with_the_block_that_it_needs() {
        let renderer = Renderer::new(json!({ "a": 1, "list": ["x"], "c": true, "d": 2 }));
        let text =
            "plain=1\nA={{ a }}\n{% for x in list %}\ns.{{ loop.index }}={{ x }}:{{ d }}\n{% endfor %}\nA={{ c }}\n";
        let of = |name: &str, nth, count| {
            let line = Line { name: name.into(), value: "x".into(), place: (nth, count) };
            names(&renderer, text, &line).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of("plain", 0, 1), [""; 0]);
        assert_eq!(of("A", 0, 2), ["a"]);
        assert_eq!(of("A", 1, 2), ["c"]);
        assert_eq!(of("A", 0, 1), ["a", "c"], "which of the two is unknown");
        assert_eq!(of("s.1", 0, 1), ["d", "list"]);
        assert_eq!(of("other", 0, 1), ["a", "c", "d", "list"], "made in an unknown way");
    }

    #[test]
    fn of_lines_of_one_name_the_one_that_says_it() {
        let renderer = Renderer::new(json!({ "a": "1", "b": "2" }));
        let text = "Environment=A={{ a }}\n{% if false %}\nEnvironment=B={{ b }}\n{% endif %}\nEnvironment=C=1\n";
        let of = |name: &str, value: &str, place| {
            let line = Line { name: name.into(), value: value.into(), place };
            names(&renderer, text, &line).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of("Environment", "A=1", (0, 2)), ["a"]);
        assert_eq!(of("Environment", "C=1", (1, 2)), [""; 0]);
        assert_eq!(of("A", "1", (0, 1)), ["a"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "([A-Za-z.=\" {}%:\\n]|\\PC){0,60}", name in "[a-z={}]{0,9}") {
            let renderer = Renderer::new(json!({ "a": 1 }));
            assignments(&text);
            names(&renderer, &text, &Line { value: name.clone(), name, place: (0, 1) });
        }
    }
}
