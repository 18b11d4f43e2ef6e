//! Templates: minijinja in strict mode, over facts and settings.
//!
//! In a template file every value is quoted for the format that the file's name
//! ends in, so that none can be forgotten; text that is meant as it stands passes
//! the filter `safe`.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::secrets::{HIDDEN, is_known, learn_text};
use crate::settings::name::lookup;

/// A value in a role file: written out, or a template that gives it.
#[derive(Debug, Clone)]
pub enum Templated<T> {
    /// Written out.
    Value(T),
    /// A template.
    Template(String),
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Templated<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = toml::Value::deserialize(deserializer)?;
        match value.as_str() {
            Some(text) if is_template(text) => Ok(Templated::Template(text.to_owned())),
            _ => T::deserialize(value).map(Templated::Value).map_err(|e| D::Error::custom(e.message())),
        }
    }
}

/// Whether a text of a role file has to be rendered.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

impl Templated<String> {
    /// The text as the content of the file at `path`, quoted as the path's ending asks for.
    ///
    /// # Errors
    /// As [`Renderer::render_file`].
    pub fn get_content(&self, renderer: &Renderer, path: &str) -> Result<String> {
        match self {
            Templated::Value(text) => Ok(text.clone()),
            Templated::Template(text) => renderer.render_named(path, text),
        }
    }
}

impl<T: DeserializeOwned + Clone> Templated<T> {
    /// The value. A template that is one `{{ expression }}` keeps its type, lists too.
    ///
    /// # Errors
    /// When it is undefined, or has another type.
    pub fn get(&self, renderer: &Renderer) -> Result<T> {
        match self {
            Templated::Value(value) => Ok(value.clone()),
            Templated::Template(text) => {
                let whole = text.trim().strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
                let value = match whole.filter(|expression| !expression.contains("{{")) {
                    Some(expression) => renderer.evaluate(expression)?,
                    None => Json::String(renderer.render_text(text)?),
                };
                let as_text = match &value {
                    Json::Number(number) => Some(Json::String(number.to_string())),
                    _ => None,
                };
                serde_json::from_value(value)
                    .or_else(|error| match as_text {
                        Some(text) => serde_json::from_value(text),
                        None => Err(error),
                    })
                    .map_err(|e| Error::config(format!("`{text}` has the wrong type")).cause(e))
            }
        }
    }
}

/// Templates and what they can know.
#[derive(Debug, Clone)]
pub struct Renderer {
    environment: Environment<'static>,
    /// Everything that can be named, `null` where it has no value.
    known: Json,
    /// The same without what has no value, so that strict mode refuses it.
    context: Value,
}

impl Renderer {
    /// A renderer over `known`, in which what has no value is `null`.
    pub fn new(known: Json) -> Renderer {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Only delimiters can make this fail, and they are the usual ones.
        if let Ok(syntax) =
            SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build()
        {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(format_value);
        let context = Value::from(minijinja::value::Serde(without_nulls(&known)));
        Renderer { environment, known, context }
    }

    /// The same with `item`, one of a step's `each`.
    pub fn with_item(&self, item: Json) -> Renderer {
        let mut known = self.known.clone();
        if let Json::Object(names) = &mut known {
            names.insert("item".to_owned(), item);
        }
        let context = Value::from(minijinja::value::Serde(without_nulls(&known)));
        Renderer { environment: self.environment.clone(), known, context }
    }

    /// Adds a template file.
    ///
    /// # Errors
    /// When it is not a template.
    pub fn add_file(&mut self, name: &str, text: &str) -> Result<()> {
        self.environment
            .add_template_owned(name.to_owned(), text.to_owned())
            .map_err(|e| Error::config(format!("template {name}: cannot be read")).cause(e))
    }

    /// A template file as it was added.
    pub fn text(&self, name: &str) -> Option<String> {
        self.environment.get_template(name).ok().map(|template| template.source().to_owned())
    }

    /// Renders a template file.
    ///
    /// # Errors
    /// When a value is undefined, or must not stand in that format.
    pub fn render_file(&self, name: &str) -> Result<String> {
        let template = self
            .environment
            .get_template(name)
            .map_err(|e| Error::config(format!("template {name}: is not there")).cause(e))?;
        let names = template.undeclared_variables(true);
        template.render(&self.context).map_err(|e| self.explain(&format!("template {name}"), names, &e))
    }

    /// Renders a text of a role file.
    ///
    /// # Errors
    /// When a value is undefined.
    pub fn render_text(&self, text: &str) -> Result<String> {
        self.render_named(PLAIN_TEXT, text)
    }

    /// Renders a text as if it stood in a template file of this name.
    fn render_named(&self, name: &str, text: &str) -> Result<String> {
        let template = self
            .environment
            .template_from_named_str(name, text)
            .map_err(|e| Error::config(format!("`{text}` is not a template")).cause(e))?;
        let names = template.undeclared_variables(true);
        template.render(&self.context).map_err(|e| self.explain(&format!("`{text}`"), names, &e))
    }

    /// The value of an expression.
    ///
    /// # Errors
    /// When it is undefined, or no expression.
    pub fn evaluate(&self, expression: &str) -> Result<Json> {
        let place = format!("`{}`", expression.trim());
        let compiled = self
            .environment
            .compile_expression(expression)
            .map_err(|e| Error::config(format!("{place} is not an expression")).cause(e))?;
        let names = compiled.undeclared_variables(true);
        let undefined = || minijinja::Error::new(ErrorKind::UndefinedError, "it has no value");
        let value = compiled
            .eval(self.context.clone())
            .and_then(|value| if value.is_undefined() { Err(undefined()) } else { Ok(value) })
            .map_err(|e| self.explain(&place, names, &e))?;
        serde_json::to_value(&value).map_err(|e| Error::config(format!("{place} has no plain value")).cause(e))
    }

    /// The names of facts and settings in an expression, a text or a template file.
    ///
    /// # Errors
    /// When it cannot be read, or a name is not a fact or a setting.
    pub fn names(&self, source: &Source<'_>) -> Result<BTreeSet<String>> {
        let names = match source {
            Source::Expression(text) => self.environment.compile_expression(text).map(|e| e.undeclared_variables(true)),
            Source::Text(text) => self.environment.template_from_str(text).map(|t| t.undeclared_variables(true)),
            Source::File(name) => self.environment.get_template(name).map(|t| t.undeclared_variables(true)),
        };
        let shown = match source {
            Source::Expression(text) | Source::Text(text) => format!("`{text}`"),
            Source::File(name) => format!("template {name}"),
        };
        let names = names.map_err(|e| Error::config(format!("{shown} cannot be read")).cause(e))?;
        let globals: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let names: BTreeSet<String> = names.into_iter().filter(|name| !globals.contains(name.as_str())).collect();
        for name in &names {
            self.check_name(&shown, name)?;
        }
        Ok(names)
    }

    fn check_name(&self, shown: &str, name: &str) -> Result<()> {
        let mut at = &self.known;
        for part in name.split('.') {
            let Json::Object(map) = at else { return Ok(()) };
            // An empty table is one whose keys the operator chooses.
            if map.is_empty() {
                return Ok(());
            }
            at = map.get(part).ok_or_else(|| {
                Error::config(format!("{shown}: there is no fact or setting `{name}`"))
                    .fix(crate::settings::did_you_mean(part, map.keys().map(String::as_str)))
            })?;
        }
        Ok(())
    }

    fn explain(&self, place: &str, names: impl IntoIterator<Item = String>, error: &minijinja::Error) -> Error {
        if error.kind() != ErrorKind::UndefinedError {
            let mut cause = error.detail().unwrap_or("unknown").to_owned();
            if let Some(line) = error.line() {
                cause = format!("line {line}: {cause}");
            }
            return Error::config(format!("{place}: cannot be rendered")).cause(cause);
        }
        let mut missing: Vec<String> = names.into_iter().filter(|name| self.has_no_value(name)).collect();
        missing.sort();
        Error::config(format!("{} has no value, and {place} needs it", missing.join(" or ")))
            .fix(missing.iter().map(|name| how_to_set(name)).collect::<Vec<_>>().join("\n"))
    }

    fn has_no_value(&self, name: &str) -> bool {
        lookup(&self.known, name).is_none_or(Json::is_null)
    }
}

/// The name of a text that is not the content of a file: a path, a unit's name.
const PLAIN_TEXT: &str = "text";

/// Where a setting can be set, in words.
pub fn how_to_set(name: &str) -> String {
    let tag = if crate::settings::TAGS.contains(&name) {
        format!(", or with the instance tag titus:{name} where allowed_tags lists {name}")
    } else {
        String::new()
    };
    format!("set {name} in {}, with --set {name}=VALUE{tag}", crate::settings::FILE)
}

/// What names can stand in.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// An expression.
    Expression(&'a str),
    /// A text with `{{ }}`.
    Text(&'a str),
    /// A template file.
    File(&'a str),
}

fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(map) => {
            Json::Object(map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Json::Array(list) => Json::Array(list.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// Writes a value as the format of the template's name wants it.
fn format_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    let refuse = |words: String| minijinja::Error::new(ErrorKind::BadEscape, words);
    if value.is_undefined() {
        return Err(minijinja::Error::new(ErrorKind::UndefinedError, "it has no value"));
    }
    let quote: fn(&str) -> Result<String, String> = match state.name().rsplit('.').next() {
        _ if value.is_safe() => |text| Ok(text.to_owned()),
        Some("json") => {
            let json = serde_json::to_string(value).map_err(|e| refuse(e.to_string()))?;
            if is_known(&value.to_string()) {
                learn_text(&json);
            }
            return Ok(out.write_str(&json)?);
        }
        Some("sh") => shell,
        Some("env") => environment_file,
        Some("service" | "socket" | "timer" | "conf" | "network") => unit,
        _ if state.name() == PLAIN_TEXT => |text| Ok(text.to_owned()),
        _ => {
            return Err(refuse(format!(
                "how to quote a value in {:?} is not known: end the name in .sh, .env, .json or a unit's suffix, or pass the value through `safe`",
                state.name()
            )));
        }
    };
    let text = value.to_string();
    let is_secret = is_known(&text);
    let shown = if is_secret { HIDDEN.to_owned() } else { format!("{text:?}") };
    let quoted = quote(&text).map_err(|words| refuse(format!("{shown} {words}")))?;
    if is_secret {
        learn_text(&quoted);
    }
    Ok(out.write_str(&quoted)?)
}

fn printable(text: &str) -> Result<&str, String> {
    if text.chars().any(char::is_control) { Err("has a control character".to_owned()) } else { Ok(text) }
}

/// For bash(1): as it stands where nothing in it means anything, else in single quotes.
pub fn shell(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,=@%+-".contains(c);
    Ok(if !text.is_empty() && printable(text)?.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    })
}

/// For systemd.exec(5) `EnvironmentFile=`: in double quotes where its reader would
/// read the bare value otherwise.
pub fn environment_file(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,;=@%+-[]()*?&|<>{}!^".contains(c);
    if !text.is_empty() && printable(text)?.chars().all(plain) {
        return Ok(text.to_owned());
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if "\"\\`$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Ok(quoted)
}

/// For systemd.unit(5): `%` is doubled; what the reader of one directive would unquote,
/// expand or split, and that of another would not, is refused.
pub fn unit(text: &str) -> Result<String, String> {
    if text.is_empty() || printable(text)?.contains([' ', '"', '\'', '\\', '$', ';', '#']) {
        return Err("must not stand in a unit file".to_owned());
    }
    Ok(text.replace('%', "%%"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renderer() -> Renderer {
        let mut renderer = Renderer::new(json!({
            "stack": "main vpc", "agent": { "asg": null, "port": 5051, "attributes": {} }, "list": ["a", "b"],
        }));
        renderer.add_file("x.sh", "A={{ stack }} B={{ agent.port }}\n").unwrap();
        renderer.add_file("y.sh", "{% if agent.asg is defined %}ASG={{ agent.asg }}{% endif %}\n").unwrap();
        renderer.add_file("z.service", "Exec={{ stack }}\n").unwrap();
        renderer.add_file("j.json", "[{{ stack }}, {{ list }}]").unwrap();
        renderer.add_file("asg.sh", "{{ agent.asg }}").unwrap();
        renderer
    }

    #[test]
    fn values_are_quoted_for_the_format_of_the_file() {
        let renderer = renderer();
        assert_eq!(renderer.render_file("x.sh").unwrap(), "A='main vpc' B=5051\n");
        assert_eq!(renderer.render_file("y.sh").unwrap(), "");
        assert_eq!(renderer.render_file("j.json").unwrap(), "[\"main vpc\", [\"a\",\"b\"]]");
        assert!(renderer.render_file("z.service").unwrap_err().to_string().contains("must not stand in a unit file"));
    }

    #[test]
    fn what_has_no_value_is_named_with_the_way_to_set_it() {
        let told = renderer().render_file("asg.sh").unwrap_err();
        assert_eq!(told.what, "agent.asg has no value, and template asg.sh needs it");
        assert!(told.fix.unwrap().contains("titus:agent.asg"));
        renderer().evaluate("agent.asg").unwrap_err();
    }

    #[test]
    fn names_are_checked_without_rendering() {
        let renderer = renderer();
        assert!(renderer.names(&Source::Expression("agent.asg is defined and agent.attributes.any")).is_ok());
        let told = renderer.names(&Source::Expression("agent.prot == 1")).unwrap_err();
        assert_eq!(told.fix.unwrap(), "did you mean `port`?");
        assert!(renderer.names(&Source::Expression("stakc")).is_err());
        assert!(renderer.names(&Source::Text("{{ for }}")).is_err());
    }

    #[test]
    fn one_expression_keeps_its_type() {
        let renderer = renderer();
        let get = |text: &str| Templated::<Vec<String>>::Template(text.into()).get(&renderer);
        assert_eq!(get("{{ list + ['c'] }}").unwrap(), ["a", "b", "c"]);
        assert!(get("{{ agent.port }}").is_err());
        assert_eq!(Templated::<String>::Template("{{ agent.port }}".into()).get(&renderer).unwrap(), "5051");
        assert_eq!(
            Templated::<String>::Template("p{{ agent.port }}/{{ stack }}".into()).get(&renderer).unwrap(),
            "p5051/main vpc"
        );
    }

    proptest::proptest! {
        #[test]
        fn bash_reads_back_what_was_quoted(text in "[^\\p{C}]{0,40}") {
            let quoted = shell(&text).unwrap();
            let script = format!("v={quoted}; printf %s \"$v\"");
            let out = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
        }

        #[test]
        fn a_quoted_secret_is_hidden_whole(text in "[^\\p{C}c4]{0,40}") {
            let quoted = shell(&format!("{text}c4n4ry{text}")).unwrap();
            for line in [format!("+export DB_PASSWORD={quoted}"), format!("docker run --env=DB_PASSWORD={quoted} x")] {
                proptest::prop_assert!(!crate::secrets::masked(&line).contains("c4n4ry"), "{}", crate::secrets::masked(&line));
            }
        }
    }
}
