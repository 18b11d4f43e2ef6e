//! Templates: minijinja in strict mode, with facts and settings as variables.
//!
//! In a template file every value is quoted for the format of the file's name ending,
//! so that no quoting can be forgotten. The filter `safe` passes text through
//! unchanged.

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::secrets::{HIDDEN, is_known, learn_text};
use crate::settings::name::lookup;

/// A value in a role file: a literal, or a template that produces it.
#[derive(Debug, Clone)]
pub enum Templated<T> {
    /// A literal.
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

/// Whether a text in a role file is a template.
pub fn is_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

impl Templated<String> {
    /// Renders the text as the content of the file at `path`, quoted according to the path's ending.
    ///
    /// # Errors
    /// Fails for the reasons of [`Renderer::render_file`].
    pub fn get_content(&self, renderer: &Renderer, path: &str) -> Result<String> {
        match self {
            Templated::Value(text) => Ok(text.clone()),
            Templated::Template(text) => renderer.render_as(path, text),
        }
    }
}

impl<T: DeserializeOwned + Clone> Templated<T> {
    /// Renders the value. A template that is one `{{ expression }}` keeps its type, even a list.
    ///
    /// # Errors
    /// Fails when the value is undefined or has another type.
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
                    .map_err(|e| {
                        let (what, problem) = (format!("`{text}`"), e.to_string());
                        if problem.starts_with("invalid ") {
                            return crate::settings::wrong_type(&what, &problem);
                        }
                        Error::config(format!("{what} gives an unusable value")).cause(problem)
                    })
            }
        }
    }
}

/// Templates and their variables.
#[derive(Debug, Clone)]
pub struct Renderer {
    environment: Environment<'static>,
    /// All names but `item`; `null` for those without a value.
    known: Rc<Json>,
    /// The current item of a step's `each`.
    item: Option<Json>,
    /// The names that have a value, so that strict mode refuses the others.
    context: Value,
}

impl Renderer {
    /// Creates a renderer over `known`, in which names without a value are `null`.
    pub fn new(known: Json) -> Renderer {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Only unusual delimiters can make this fail.
        if let Ok(syntax) =
            SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).lstrip_blocks(true).build()
        {
            environment.set_syntax(syntax);
        }
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(format_value);
        let context = Value::from(minijinja::value::Serde(drop_nulls(&known)));
        Renderer { environment, known: Rc::new(known), item: None, context }
    }

    /// Returns a renderer in which `item` is one item of a step's `each`.
    pub fn bind_item(&self, item: &str) -> Renderer {
        let context = minijinja::context! { item, ..self.context.clone() };
        let (environment, known) = (self.environment.clone(), Rc::clone(&self.known));
        Renderer { environment, known, item: Some(item.into()), context }
    }

    /// The value of a dotted name; `null` if it has none, `None` if there is no such name.
    fn value(&self, name: &str) -> Option<&Json> {
        match &self.item {
            Some(item) if name == "item" => Some(item),
            _ => lookup(&self.known, name),
        }
    }

    /// Adds a template file.
    ///
    /// # Errors
    /// Fails when the text is not a template.
    pub fn add_file(&mut self, name: &str, text: &str) -> Result<()> {
        self.environment
            .add_template_owned(name.to_owned(), text.to_owned())
            .map_err(|e| Error::config(format!("template {name}: cannot be parsed")).explain_cause(&e))
    }

    /// The unrendered text of a template file.
    pub fn text(&self, name: &str) -> Option<String> {
        self.environment.get_template(name).ok().map(|template| template.source().to_owned())
    }

    /// Renders a template file.
    ///
    /// # Errors
    /// Fails when a value is undefined, or when it cannot be quoted for that format.
    pub fn render_file(&self, name: &str) -> Result<String> {
        let template = self
            .environment
            .get_template(name)
            .map_err(|e| Error::config(format!("unknown template {name}")).explain_cause(&e))?;
        let place = format!("template {name}");
        let names = template.undeclared_variables(true);
        for expression in expressions(template.source()) {
            self.refuse_unlike(&format!("`{expression}` in {place}"), expression, &names)?;
        }
        template.render(&self.context).map_err(|e| self.explain(&place, names, &e))
    }

    /// Renders a text from a role file.
    ///
    /// # Errors
    /// Fails when a value is undefined.
    pub fn render_text(&self, text: &str) -> Result<String> {
        self.render_as(PLAIN_TEXT, text)
    }

    /// Renders a text like the contents of a template file with this name.
    fn render_as(&self, name: &str, text: &str) -> Result<String> {
        let template = self
            .environment
            .template_from_named_str(name, text)
            .map_err(|e| Error::config(format!("`{text}` is not a template")).explain_cause(&e))?;
        let names = template.undeclared_variables(true);
        for expression in expressions(text) {
            self.refuse_unlike(&format!("`{expression}`"), expression, &names)?;
        }
        template.render(&self.context).map_err(|e| self.explain(&format!("`{text}`"), names, &e))
    }

    /// Evaluates an expression.
    ///
    /// # Errors
    /// Fails when the text is not an expression, or when its value is undefined.
    pub fn evaluate(&self, expression: &str) -> Result<Json> {
        let place = format!("`{}`", expression.trim());
        let compiled = self
            .environment
            .compile_expression(expression)
            .map_err(|e| Error::config(format!("{place} is not an expression")).explain_cause(&e))?;
        let names = compiled.undeclared_variables(true);
        self.refuse_unlike(&place, expression, &names)?;
        let undefined = || minijinja::Error::new(ErrorKind::UndefinedError, "it has no value");
        let value = compiled
            .eval(self.context.clone())
            .and_then(|value| if value.is_undefined() { Err(undefined()) } else { Ok(value) })
            .map_err(|e| self.explain(&place, names, &e))?;
        serde_json::to_value(&value)
            .map_err(|_| Error::config(format!("{place} is not a text, a number, true or false, a list or a table")))
    }

    /// Refuses a comparison of a fact or a setting with a literal of another type. minijinja would call the two different,
    /// and a step would be left out in silence. `names` has those that a loop does not assign.
    fn refuse_unlike(&self, place: &str, expression: &str, names: &HashSet<String>) -> Result<()> {
        let tokens = tokens(expression);
        for (n, comparison) in tokens.windows(3).enumerate() {
            let (name, literal) = match comparison {
                [Token::Name(name), Token::Comparison, literal] | [literal, Token::Comparison, Token::Name(name)]
                    if names.contains(*name) =>
                {
                    (*name, literal)
                }
                _ => continue,
            };
            // A filter can change the type of what it follows, and a dot can continue what came before.
            let is_part =
                |at: Option<usize>| at.is_some_and(|at| matches!(tokens.get(at), Some(Token::Other('|' | '.'))));
            let (Some(value), Some((kind, advice))) = (self.value(name), literal.kind()) else { continue };
            let found = match value {
                Json::String(_) => "a text",
                Json::Number(_) => "a number",
                Json::Bool(_) => "true or false",
                _ => continue,
            };
            if found != kind && !is_part(n.checked_sub(1)) && !is_part(Some(n + 3)) {
                return Err(Error::config(format!("{place} compares {name}, which is {found}, with {kind}"))
                    .cause("a text, a number and true or false are never equal to one another")
                    .fix(match found {
                        "a text" => format!("write {advice} in quotes"),
                        _ if kind == "a text" => format!("write {advice} without the quotes"),
                        _ => format!("compare {name} with {found}"),
                    }));
            }
        }
        Ok(())
    }

    /// The names of facts and settings in an expression, a text or a template file.
    ///
    /// # Errors
    /// Fails when the template cannot be parsed, or when a name is not a fact or a setting.
    pub fn names(&self, source: &TemplateSource<'_>) -> Result<BTreeSet<String>> {
        let names = match source {
            TemplateSource::Expression(text) => {
                self.environment.compile_expression(text).map(|e| e.undeclared_variables(true))
            }
            TemplateSource::Text(text) => {
                self.environment.template_from_str(text).map(|t| t.undeclared_variables(true))
            }
            TemplateSource::File(name) => self.environment.get_template(name).map(|t| t.undeclared_variables(true)),
        };
        let shown = match source {
            TemplateSource::Expression(text) | TemplateSource::Text(text) => format!("`{text}`"),
            TemplateSource::File(name) => format!("template {name}"),
        };
        let names = names.map_err(|e| Error::config(format!("{shown} cannot be parsed")).explain_cause(&e))?;
        let globals: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        let names: BTreeSet<String> = names.into_iter().filter(|name| !globals.contains(name.as_str())).collect();
        for name in &names {
            self.check_name(&shown, name)?;
        }
        Ok(names)
    }

    fn check_name(&self, shown: &str, name: &str) -> Result<()> {
        // Each instance has tags of its own.
        if name.starts_with("instance.tags.") {
            return Ok(());
        }
        if self.item.is_some() && name.split('.').next() == Some("item") {
            return Ok(());
        }
        let mut at = &*self.known;
        for part in name.split('.') {
            let Json::Object(map) = at else { return Ok(()) };
            // In an empty table, the operator chooses the keys.
            if map.is_empty() {
                return Ok(());
            }
            at = map.get(part).ok_or_else(|| {
                Error::config(format!("{shown}: unknown fact or setting `{name}`"))
                    .fix(crate::settings::did_you_mean(part, map.keys().map(String::as_str)))
            })?;
        }
        Ok(())
    }

    fn explain(&self, place: &str, names: impl IntoIterator<Item = String>, error: &minijinja::Error) -> Error {
        if error.kind() != ErrorKind::UndefinedError {
            return Error::config(format!("{place}: cannot be rendered")).explain_cause(error);
        }
        let mut missing: Vec<String> = names.into_iter().filter(|name| self.has_no_value(name)).collect();
        missing.sort();
        // All names have values, but not the key in one of them.
        if missing.is_empty() {
            return Error::config(format!("{place} names something that has no value on this node"))
                .fix("say what holds without it, e.g. `instance.tags.env | default('none')`, or ask for it first with `is defined`");
        }
        Error::config(format!("{} has no value, but {place} needs it", missing.join(" or ")))
            .fix(missing.iter().map(|name| setting_advice(name)).collect::<Vec<_>>().join("\n"))
    }

    fn has_no_value(&self, name: &str) -> bool {
        self.value(name).is_none_or(Json::is_null)
    }
}

/// Filters for templates: those of the library that docs/roles.md lists, and the program's own.
const FILTERS: [&str; 46] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
];

impl Error {
    /// Adds the library's reason in terms that the author of the template knows.
    fn explain_cause(self, error: &minijinja::Error) -> Error {
        let detail = error.detail().unwrap_or("it cannot be rendered");
        let name = detail.split_whitespace().nth(1).unwrap_or_default();
        let (cause, fix) = match error.kind() {
            ErrorKind::UnknownFilter => {
                (format!("unknown filter `{name}`"), Some(crate::settings::did_you_mean(name, FILTERS.into_iter())))
            }
            ErrorKind::UnknownTest => (format!("unknown test `{name}`"), None),
            ErrorKind::UnknownFunction => (format!("unknown function `{name}`"), None),
            _ => (detail.to_owned(), None),
        };
        let line = error.line().filter(|line| *line > 1);
        let made = self.cause(line.map_or_else(|| cause.clone(), |line| format!("line {line}: {cause}")));
        match fix {
            Some(fix) => made.fix(fix),
            None => made,
        }
    }
}

/// The name of a text that is not the content of a file, such as a path or the name of a unit.
const PLAIN_TEXT: &str = "text";

/// Advice about how to set a setting.
pub fn setting_advice(name: &str) -> String {
    let tag = if crate::settings::TAGS.contains(&name) {
        format!(", or with the instance tag titus:{name} where allowed_tags lists {name}")
    } else {
        String::new()
    };
    format!("set {name} in {}, with --set {name}=VALUE{tag}", crate::settings::FILE)
}

/// A text that can contain names.
#[derive(Debug, Clone, Copy)]
pub enum TemplateSource<'a> {
    /// An expression.
    Expression(&'a str),
    /// A text with `{{ }}`.
    Text(&'a str),
    /// A template file.
    File(&'a str),
}

fn drop_nulls(value: &Json) -> Json {
    match value {
        Json::Object(map) => {
            Json::Object(map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), drop_nulls(v))).collect())
        }
        Json::Array(list) => Json::Array(list.iter().map(drop_nulls).collect()),
        other => other.clone(),
    }
}

/// Writes a value in the quoting of the template's format.
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
        Some("sh") => quote_shell,
        Some("env") => quote_environment_file,
        Some("service" | "socket" | "timer" | "conf" | "network") => quote_unit,
        _ if state.name() == PLAIN_TEXT => |text| Ok(text.to_owned()),
        _ => {
            return Err(refuse(format!(
                "cannot quote a value in {:?}: give the file a name that ends in .sh, .env, .json or a unit's suffix, or pass the value through `safe`",
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

fn check_printable(text: &str) -> Result<&str, String> {
    if text.chars().any(char::is_control) { Err("contains a control character".to_owned()) } else { Ok(text) }
}

/// Quotes for bash(1): unchanged if nothing in the text is special, else in single quotes.
pub fn quote_shell(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,=@%+-".contains(c);
    Ok(if !text.is_empty() && check_printable(text)?.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    })
}

/// Quotes for systemd.exec(5) `EnvironmentFile=`: in double quotes if systemd would
/// change the bare value.
pub fn quote_environment_file(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,;=@%+-[]()*?&|<>{}!^".contains(c);
    if !text.is_empty() && check_printable(text)?.chars().all(plain) {
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

/// Quotes for systemd.unit(5): doubles `%`. Refuses characters that some directives unquote,
/// expand or split while others do not.
pub fn quote_unit(text: &str) -> Result<String, String> {
    if text.is_empty() || check_printable(text)?.contains([' ', '"', '\'', '\\', '$', ';', '#']) {
        return Err("cannot be written safely to a unit file".to_owned());
    }
    Ok(text.replace('%', "%%"))
}

/// A part of an expression, as far as a comparison needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    /// A dotted name.
    Name(&'a str),
    /// `true` or `false`.
    Bool(&'a str),
    Number(&'a str),
    /// What is between quotes.
    Text(&'a str),
    /// `==`, `!=`, `<`, `<=`, `>` or `>=`.
    Comparison,
    Other(char),
}

impl<'a> Token<'a> {
    /// The type of a literal in words, and its text.
    fn kind(self) -> Option<(&'static str, &'a str)> {
        match self {
            Token::Bool(text) => Some(("true or false", text)),
            Token::Number(text) => Some(("a number", text)),
            Token::Text(text) => Some(("a text", text)),
            Token::Name(_) | Token::Comparison | Token::Other(_) => None,
        }
    }
}

/// What is between the delimiters of a template.
fn expressions(text: &str) -> impl Iterator<Item = &str> {
    [("{%", "%}"), ("{{", "}}")].into_iter().flat_map(move |(begin, end)| {
        text.split(begin).skip(1).filter_map(move |rest| Some(rest.split_once(end)?.0.trim_matches('-').trim()))
    })
}

/// The parts of an expression that minijinja has parsed. Its own lexer is behind a feature without a stable interface.
fn tokens(expression: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut left = expression.trim_start();
    while let Some(first) = left.chars().next() {
        let word = |is_more: fn(char) -> bool| left.split_at(left.find(|c| !is_more(c)).unwrap_or(left.len()));
        let (token, rest) = match first {
            '"' | '\'' => {
                let mut is_escaped = false;
                let ends = |c| {
                    let ends = c == first && !is_escaped;
                    is_escaped = c == '\\' && !is_escaped;
                    ends
                };
                let end = left[1..].find(ends).unwrap_or(left.len() - 1);
                let (text, rest) = left[1..].split_at(end);
                (Token::Text(text), rest.get(1..).unwrap_or_default())
            }
            '0'..='9' => {
                let (number, rest) = word(|c| c.is_ascii_alphanumeric() || c == '.' || c == '_');
                (Token::Number(number), rest)
            }
            c if c.is_alphabetic() || c == '_' => match word(|c| c.is_alphanumeric() || c == '.' || c == '_') {
                (name @ ("true" | "false" | "True" | "False"), rest) => (Token::Bool(name), rest),
                (name, rest) => (Token::Name(name), rest),
            },
            _ => match ["==", "!=", "<=", ">=", "<", ">"].iter().find_map(|sign| left.strip_prefix(sign)) {
                Some(rest) => (Token::Comparison, rest),
                None => (Token::Other(first), &left[first.len_utf8()..]),
            },
        };
        found.push(token);
        left = rest.trim_start();
    }
    found
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
    fn a_tag_that_an_instance_lacks_is_named_with_what_to_write() {
        let renderer = Renderer::new(json!({ "instance": { "tags": { "Name": "x" } } }));
        let named = |text: &str| renderer.names(&TemplateSource::Expression(text));
        named("instance.tags.env | default('none')").unwrap();
        named("instance.tgas.env").unwrap_err();
        assert_eq!(renderer.evaluate("instance.tags.env | default('none')").unwrap(), json!("none"));
        for expression in ["instance.tags.env", "instance.tags['titus:env']", "instance.tags['titus:env'] | upper"] {
            let error = renderer.evaluate(expression).unwrap_err();
            assert!(!error.what.contains("  ") && error.what.contains("has no value"), "{error}");
            assert!(error.fix.as_ref().is_some_and(|fix| !fix.is_empty()), "{error}");
        }
    }

    #[test]
    fn values_are_quoted_for_the_format_of_the_file() {
        let renderer = renderer();
        assert_eq!(renderer.render_file("x.sh").unwrap(), "A='main vpc' B=5051\n");
        assert_eq!(renderer.render_file("y.sh").unwrap(), "");
        assert_eq!(renderer.render_file("j.json").unwrap(), "[\"main vpc\", [\"a\",\"b\"]]");
        assert!(
            renderer
                .render_file("z.service")
                .unwrap_err()
                .to_string()
                .contains("cannot be written safely to a unit file")
        );
    }

    #[test]
    fn what_has_no_value_is_named_with_the_way_to_set_it() {
        let message = renderer().render_file("asg.sh").unwrap_err();
        assert_eq!(message.what, "agent.asg has no value, but template asg.sh needs it");
        assert!(message.fix.unwrap().contains("titus:agent.asg"));
        renderer().evaluate("agent.asg").unwrap_err();
    }

    #[test]
    fn names_are_checked_without_rendering() {
        let renderer = renderer();
        assert!(renderer.names(&TemplateSource::Expression("agent.asg is defined and agent.attributes.any")).is_ok());
        let message = renderer.names(&TemplateSource::Expression("agent.prot == 1")).unwrap_err();
        assert_eq!(message.fix.unwrap(), "did you mean `port`?");
        assert!(renderer.names(&TemplateSource::Expression("stakc")).is_err());
        assert!(renderer.names(&TemplateSource::Text("{{ for }}")).is_err());
    }

    #[test]
    fn a_comparison_with_another_type_is_refused_with_what_to_write() {
        let known = json!({ "image": { "release": "22.04" }, "n": 8, "is": true, "tags": { "a": null }, "l": ["1"] });
        let renderer = Renderer::new(known).bind_item("7");
        for (expression, fix) in [
            ("image.release == 22.04", "write 22.04 in quotes"),
            ("image.release==22.04 and is", "write 22.04 in quotes"),
            ("22.04 != image.release", "write 22.04 in quotes"),
            ("is and (image.release >= 22)", "write 22 in quotes"),
            ("item == 7", "write 7 in quotes"),
            ("item == true", "write true in quotes"),
            ("n > '8'", "write 8 without the quotes"),
            ("not n == \"8\"", "write 8 without the quotes"),
            ("is == 'true'", "write true without the quotes"),
            ("is == 1", "compare is with true or false"),
        ] {
            let refused = renderer.evaluate(expression).unwrap_err();
            assert_eq!(refused.fix.as_deref(), Some(fix), "{expression}: {refused}");
            assert!(refused.what.starts_with(&format!("`{expression}` compares ")), "{refused}");
        }
        for (expression, value) in [
            ("image.release == '22.04'", true),
            ("image.release | float == 22.04", true),
            ("image.release == 22.04 | string", true),
            ("'n == \\'8\\'' == image.release", false),
            ("image.release[:2] == '22'", true),
            ("n == 8 and is == true and n != image.release", true),
            ("l | length == 1 and l[0] == '1'", true),
            ("n is defined and image.release in ['22.04']", true),
        ] {
            assert_eq!(renderer.evaluate(expression).unwrap(), json!(value), "{expression}");
        }
    }

    #[test]
    fn a_template_may_not_compare_either() {
        let mut renderer = Renderer::new(json!({ "image": { "release": "22.04" }, "n": 8, "zones": ["a"] }));
        for (text, refused) in [
            ("a {%- if image.release == 22.04 -%} b {% endif %}", Some("`if image.release == 22.04`")),
            ("{% for x in zones %}{{ 1 if n == '8' else 2 }}{% endfor %}", Some("`1 if n == '8' else 2`")),
            ("{% if image.release == '22.04' %}yes{% endif %} n == '8'", None),
            ("{% for n in ['8'] %}{{ n == '8' }}{% endfor %}", None),
            ("{% raw %}{{ n == '8' }{% endraw %}", None),
        ] {
            for rendered in [renderer.render_text(text).map(drop), {
                renderer.add_file("x.sh", text).unwrap();
                renderer.render_file("x.sh").map(drop)
            }] {
                match refused {
                    Some(what) => assert!(rendered.unwrap_err().what.starts_with(what), "{text}"),
                    None => rendered.unwrap(),
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_tokens(text in ".{0,40}") {
            tokens(&text);
        }
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
            let quoted = quote_shell(&text).unwrap();
            let script = format!("v={quoted}; printf %s \"$v\"");
            let out = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), text);
        }

        #[test]
        fn a_quoted_secret_is_hidden_whole(text in "[^\\p{C}c4]{0,40}") {
            let quoted = quote_shell(&format!("{text}c4n4ry{text}")).unwrap();
            for line in [format!("+export DB_PASSWORD={quoted}"), format!("docker run --env=DB_PASSWORD={quoted} x")] {
                proptest::prop_assert!(!crate::secrets::masked(&line).contains("c4n4ry"), "{}", crate::secrets::masked(&line));
            }
        }
    }
}
