//! Dotted names of settings and facts: `agent.log_bucket`, `master.properties."DB.PASSWORD"`.

use serde_json::Value as Json;

/// Removes the quotes from the parts of a name, which is how this program writes names. A badly quoted name stays as it is.
pub fn plain(name: &str) -> String {
    let (mut made, mut rest) = (String::new(), name);
    loop {
        let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c));
        let (part, after) = match quote.map(|quote| rest.get(1..).and_then(|rest| rest.split_once(quote))) {
            None => rest.split_at(rest.find('.').unwrap_or(rest.len())),
            Some(Some(split)) => split,
            Some(None) => return name.to_owned(),
        };
        made.push_str(part);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return made,
            None => return name.to_owned(),
        }
        made.push('.');
    }
}

/// Finds the value with this name. A part that contains dots may be quoted or plain.
pub fn lookup<'a>(value: &'a Json, name: &str) -> Option<&'a Json> {
    fn find<'a>(value: &'a Json, name: &str) -> Option<&'a Json> {
        value.as_object()?.iter().find_map(|(key, below)| match name.strip_prefix(key.as_str())? {
            "" => Some(below),
            rest => find(below, rest.strip_prefix('.')?),
        })
    }
    find(value, &plain(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quotes_are_for_parts_with_dots() {
        for (name, expected) in [
            ("a.b", "a.b"),
            ("a.\"b.c\".d", "a.b.c.d"),
            ("'a b'.c", "a b.c"),
            ("\"\"", ""),
            ("", ""),
            ("a.\"b", "a.\"b"),
            ("\"a\"b", "\"a\"b"),
            ("a\"b.c\"", "a\"b.c\""),
            ("é.\"ü\"", "é.ü"),
        ] {
            assert_eq!(plain(name), expected, "{name}");
        }
    }

    #[test]
    fn a_name_leads_to_a_value_whatever_dots_its_parts_have() {
        let value = json!({ "a": { "b": 1, "b.c": 2, "d": { "e.f": { "g": 3 } } }, "a.x": 4 });
        for (name, expected) in [
            ("a.b", Some(json!(1))),
            ("a.\"b.c\"", Some(json!(2))),
            ("a.b.c", Some(json!(2))),
            ("a.d.'e.f'.g", Some(json!(3))),
            ("a.x", Some(json!(4))),
            ("a.b.d", None),
            ("a.", None),
            ("", None),
        ] {
            assert_eq!(lookup(&value, name), expected.as_ref(), "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_name_is_answered(name in "([a.\"']|\\PC){0,20}") {
            lookup(&json!({ "a": { "a": 1 } }), &name);
        }
    }
}
