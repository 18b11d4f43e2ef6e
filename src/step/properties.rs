//! These keys are in a Java properties file; the rest of the file stays unchanged.

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::file::{Attributes, File};
use super::forms::{self, Mode};
use super::{Change, Claim, Contents, Planned, RawKind, State, ValueOrigin, Work, fingerprint};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::look::{Entry, EntryKind};
use crate::properties::{self, Edit};
use crate::secrets::{HIDDEN, is_secret, masked};
use crate::template::{Renderer, Templated, is_template};

/// The maximum size in bytes; no properties file is larger.
const LIMIT: usize = 1 << 20;

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProperties {
    path: Templated<forms::Path>,
    /// Keys and values; values are templates. New keys are appended in this order.
    #[serde(default)]
    set: Map<String, Json>,
    /// A template for a table of additional or overriding keys.
    more: Option<String>,
    mode: Option<Templated<Mode>>,
}

/// Keys of a properties file.
#[derive(Debug, Clone, PartialEq)]
pub struct Properties {
    /// The path of the file, below the root.
    pub path: String,
    wanted: Vec<(String, String)>,
    attributes: Attributes,
}

impl RawProperties {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<Properties> {
        let forms::Path(path) = self.path.get(renderer)?;
        let mut values = render_values(&self.set, renderer)?;
        if let Some(more) = &self.more {
            let more: Map<String, Json> = Templated::Template(more.clone()).get(renderer)?;
            values.extend(more);
        }
        let wanted = values.into_iter().map(|(key, value)| {
            let value = text(&key, value)?;
            properties::check(&key, &value)?;
            Ok((key, value))
        });
        let wanted = wanted.collect::<Result<_>>().map_err(|error| error.at(&path))?;
        let attributes = Attributes::resolve(renderer, self.mode.as_ref(), 0o644, None, None)?;
        Ok(Properties { path, wanted, attributes })
    }
}

/// Renders keys with their values, each of which may be a template.
///
/// # Errors
/// Fails when a key has no value.
pub(super) fn render_values(set: &Map<String, Json>, renderer: &Renderer) -> Result<Map<String, Json>> {
    let one = |(key, value): (&String, &Json)| {
        let value = match value.as_str().filter(|text| is_template(text)) {
            Some(text) => Templated::Template(text.to_owned()).get(renderer)?,
            None => value.clone(),
        };
        Ok((key.clone(), value))
    };
    set.iter().map(one).collect()
}

/// Converts a value to text.
///
/// # Errors
/// Fails when the value is a list or a table. A dotted name without quotes creates a table.
pub(super) fn text(key: &str, value: Json) -> Result<String> {
    match value {
        Json::String(text) => Ok(text),
        Json::Number(number) => Ok(number.to_string()),
        Json::Bool(is) => Ok(is.to_string()),
        Json::Object(_) => Err(Error::config(format!("key {key:?} is a table"))
            .fix(format!("put a dotted name in quotes: \"{key}.…\" = \"…\""))),
        _ => Err(Error::config(format!("key {key:?} has a value that is not text, a number, true or false"))),
    }
}

impl Properties {
    /// The lines that differ, without secrets. The old value of a key is as secret as the new one.
    /// `is_ours` says that only root can have written the present file.
    fn diff(&self, edit: &Edit, is_ours: bool) -> String {
        let is_hidden = |(key, value): &&(String, String)| is_secret(key) || masked(value) != *value;
        let hidden: Vec<String> =
            self.wanted.iter().filter(is_hidden).map(|(key, _)| properties::escape_key(key)).collect();
        let lines = edit.differences.iter().map(|line| {
            let is_shown = (line.added || is_ours) && !hidden.contains(&line.key);
            let value = if is_shown { &line.value } else { HIDDEN };
            format!("{}{}={value}\n", if line.added { '+' } else { '-' }, line.key)
        });
        lines.collect()
    }

    fn before(&self, host: &Host, planned: &Planned) -> Result<Option<Vec<u8>>> {
        planned.get(&self.path).map_or_else(|| self.read(host), |contents| Ok(Some(contents.clone())))
    }

    fn edit(&self, before: Option<&[u8]>) -> Result<Edit> {
        let edit = properties::edit(before.unwrap_or_default(), &self.wanted).map_err(|error| error.at(&self.path))?;
        if edit.contents.len() > LIMIT { Err(self.too_large()) } else { Ok(edit) }
    }

    fn read(&self, host: &Host) -> Result<Option<Vec<u8>>> {
        self.entry(host)?.map_or(Ok(None), |_| host.read(&self.path))
    }

    /// The entry at the path, if it is a file that can be edited.
    fn entry(&self, host: &Host) -> Result<Option<Entry>> {
        let path = &self.path;
        let Some(entry) = host.entry(path)? else { return Ok(None) };
        match &entry.kind {
            EntryKind::File if entry.size > LIMIT as u64 => Err(self.too_large()),
            EntryKind::File => Ok(Some(entry)),
            EntryKind::Link(target) => {
                let target = target.display();
                Err(Error::unavailable(format!("{path} is a symbolic link to {target}, and links are not followed"))
                    .cause("the file behind it belongs to something else, and a file in place of the link would hide it")
                    .fix(format!(
                        "turn it into a file: cp --remove-destination \"$(readlink -f {path})\" {path}; or, if it leads nowhere: rm {path}"
                    )))
            }
            EntryKind::Directory | EntryKind::Other => {
                Err(Error::unavailable(format!("{path} is a directory or a device, not a file"))
                    .fix(format!("examine it, move it away (mv {path} {path}.old), and run titus-bootstrap again")))
            }
        }
    }

    fn too_large(&self) -> Error {
        Error::unavailable(format!("{} is larger than 1 MiB, so it is not a properties file", self.path))
            .fix("examine it, and move it away if nothing needs it")
    }
}

impl RawKind for RawProperties {
    fn refuse(&self) -> Result<()> {
        self.set.iter().try_for_each(|(key, value)| {
            let is_known = !value.as_str().is_some_and(is_template);
            let value = if is_known { text(key, value.clone())? } else { String::new() };
            properties::check(key, &value)
        })
    }

    fn origin(&self, key: &str) -> Option<ValueOrigin<'_>> {
        let value = self.set.get(key).and_then(Json::as_str).unwrap_or_default();
        Some(self.more.as_deref().map_or(ValueOrigin::Value(value), |more| ValueOrigin::Table(more, value)))
    }

    fn can_restart(&self) -> bool {
        true
    }
}

impl Work for Properties {
    fn explain(&self) -> Vec<String> {
        let keys: Vec<&str> = self.wanted.iter().map(|(key, _)| key.as_str()).collect();
        let (path, wish) = (&self.path, self.attributes.wish());
        vec![
            format!("Keeps these keys in the Java properties file {path} ({wish}): {}.", keys.join(", ")),
            "Other keys, comments and their order stay as they are.".into(),
        ]
    }

    /// The claims have no values, which may be secrets.
    fn claims(&self) -> Vec<Claim> {
        let of_key = |(key, value): &(String, String)| {
            Claim::new(format!("the key {key} of {}", self.path), format!("a value with digest {}", fingerprint(value)))
        };
        let whole = Claim::new(&self.path, format!("a properties file, {}", self.attributes.wish()));
        self.wanted.iter().map(of_key).chain([whole]).collect()
    }

    /// Refuses a file that cannot be edited, or that an edit would destroy.
    ///
    /// # Errors
    /// Fails with 69 when the path is a symbolic link or a directory, or when the file is too large or not valid for Java.
    fn refuse(&self, host: &Host) -> Result<()> {
        self.edit(self.read(host)?.as_deref()).map(drop)
    }

    fn observe(&self, host: &Host, planned: &Planned) -> Result<State> {
        let path = &self.path;
        let before = self.before(host, planned)?;
        let edit = self.edit(before.as_deref())?;
        let count = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let set = count(edit.set, "property", "properties");
        let duplicates = count(edit.duplicates, "duplicate", "duplicates");
        let line = match (&before, edit.set, edit.duplicates) {
            (None, ..) => Some(format!("create {path} ({:04o}, {set})", self.attributes.mode())),
            (_, 0, 0) => None,
            (_, 0, _) => Some(format!("remove {duplicates} in {path}")),
            (_, _, 0) => Some(format!("set {set} in {path}")),
            _ => Some(format!("set {set} in {path}, remove {duplicates}")),
        };
        let is_ours = planned.contains_key(path) || host.is_ours(path)?;
        let mut changes: Vec<Change> = line
            .into_iter()
            .map(|line| Change { diff: Some(self.diff(&edit, is_ours)), ..Change::new(line) })
            .collect();
        if let Some(entry) = self.entry(host)? {
            changes.extend(self.attributes.differences(host, path, &entry)?);
        }
        Ok(State::from_changes(changes))
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let edit = self.edit(self.read(host)?.as_deref())?;
        File::new(&self.path, edit.contents, self.attributes.mode()).converge(host)
    }

    fn planned(&self, host: &Host, planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((self.path.clone(), self.edit(self.before(host, planned)?.as_deref())?.contents)))
    }

    fn written(&self) -> Option<(&str, Contents)> {
        Some((&self.path, Contents::Pairs(self.wanted.clone())))
    }

    fn file(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::fs::Owner;

    const PATH: &str = "/opt/server/server.properties";

    fn resolve(toml: &str) -> Result<Properties> {
        let renderer = Renderer::new(json!({
            "zk": "h:2181", "port": 7104, "on": true, "unset": null,
            "more": { "a.port": "7002", "z": 1.5, "b.on": false, "t": "{{ zk }}" }, "empty": {}, "deep": { "a": { "b": "1" } },
        }));
        crate::step::loaded::<RawProperties>(&format!("path = '{PATH}'\n{toml}"))?.resolve(&renderer)
    }

    fn changes(state: State) -> Vec<Change> {
        match state {
            State::Changes(changes) => changes,
            other => panic!("{other:?}"),
        }
    }

    fn observe(host: &Host, step: &Properties) -> State {
        step.observe(host, &Planned::new()).unwrap()
    }

    #[test]
    fn observe_converge_observe() {
        let (directory, host) = Host::temporary();
        let step =
            resolve("set = { 'a.port' = '7001', 'zk' = '{{ zk }}/titus', 'n' = '{{ port }}', 'on' = true }").unwrap();
        let explained = step.explain().join("\n");
        assert!(explained.contains(PATH) && explained.contains(": a.port, zk, n, on.\n"), "{explained}");
        let found = changes(observe(&host, &step));
        assert_eq!(found[0].line, format!("create {PATH} (0644, 4 properties)"));
        assert_eq!(found[0].diff.as_deref(), Some("+a.port=7001\n+zk=h:2181/titus\n+n=7104\n+on=true\n"));
        step.converge(&host).unwrap();
        assert_eq!(observe(&host, &step), State::InSync(None));
        assert_eq!(host.read_text(PATH).unwrap().unwrap(), "a.port=7001\nzk=h:2181/titus\nn=7104\non=true\n");

        // As the earlier scripts left it, in another program's file.
        let before =
            b"# caf\xe9\r\n\r\nother = x\r\na.port=1\r\nzk=\\\r\n  h:2181/titus\r\na.port=7001\r\nother = y\r\nn=0";
        host.write(PATH, before, 0o600, Owner::ROOT).unwrap();
        let found = changes(observe(&host, &step));
        assert_eq!(found[0].line, format!("set 2 properties in {PATH}, remove 1 duplicate"));
        assert_eq!(found[0].diff.as_deref(), Some("-a.port=1\n+a.port=7001\n-a.port=7001\n-n=0\n+n=7104\n+on=true\n"));
        assert_eq!(found[1].line, format!("{PATH}: mode 0600 -> 0644"));
        step.converge(&host).unwrap();
        assert_eq!(observe(&host, &step), State::InSync(None));
        let after = b"# caf\xe9\r\n\r\nother = x\r\na.port=7001\r\nzk=\\\r\n  h:2181/titus\r\nother = y\r\nn=7104\r\non=true\r\n";
        assert_eq!(host.read(PATH).unwrap().unwrap(), after);
        assert_eq!(step.planned(&host, &Planned::new()).unwrap().unwrap().1, after);

        let inode = || host.entry(PATH).unwrap().unwrap().inode;
        let unwritten = inode();
        host.set_attributes(PATH, 0o640, Owner::ROOT).unwrap();
        assert_eq!(changes(observe(&host, &step)).len(), 1);
        step.converge(&host).unwrap();
        assert_eq!((observe(&host, &step), inode()), (State::InSync(None), unwritten));
        assert_eq!(host.list("/opt/server").unwrap(), ["server.properties"]);
        drop(directory);
    }

    #[test]
    fn more_adds_keys_and_wins() {
        let step = resolve("set = { 'b.on' = 'x', 'a.port' = '7001' }\nmore = '{{ more }}'\nmode = '0600'").unwrap();
        let wanted: Vec<_> = step.wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(wanted, ["b.on=false", "a.port=7002", "t={{ zk }}", "z=1.5"], "a setting's value is not a template");
        assert_eq!(step.attributes.mode(), 0o600);
        assert!(resolve("more = '{{ empty }}'").unwrap().wanted.is_empty());
        assert_eq!(resolve("set = { a = '{{ zk[:0] }}' }").unwrap().wanted, [("a".to_owned(), String::new())]);
    }

    #[test]
    fn what_must_not_be_written_is_refused_without_its_value() {
        for (toml, words) in [
            ("set = { \"a\\nb\" = 'x' }", "name has a newline"),
            ("set = { 'db.password' = \"hunter2\\n\" }", "db.password"),
            ("set = { a = \"\\u0000\" }", "NUL"),
            ("set = { '' = 'x' }", "no name"),
            ("set = { a.b = 'x' }", "quotes"),
            ("set = { a = ['x'] }", "\"a\""),
            ("set = { a = 1979-05-27 }", "\"a\""),
            ("set = { a = '{{ unset }}' }", "unset"),
            ("more = '{{ deep }}'", "quotes"),
            ("more = '{{ port }}'", "wrong type"),
            ("more = 'port'", "wrong type"),
            ("mode = 'rw'", "0644"),
        ] {
            let message = resolve(toml).unwrap_err();
            assert_eq!(message.kind, crate::error::Kind::Config);
            assert!(message.to_string().contains(words) && !message.to_string().contains("hunter2"), "{message}");
        }
        // What is written out is refused with the role, even if a condition leaves the step out.
        for (set, is_good) in [
            ("a = 'x'", true),
            ("a = '{{ unknown }}'", true),
            ("a = ['x']", false),
            ("a.b = '{{ unknown }}'", false),
            ("'' = '{{ unknown }}'", false),
            ("a = \"\\u0000\"", false),
        ] {
            let raw: RawProperties = toml::from_str(&format!("path = '{PATH}'\nset = {{ {set} }}")).unwrap();
            assert_eq!(raw.refuse().is_ok(), is_good, "{set}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_refused_and_left() {
        let (directory, host) = Host::temporary();
        let step = resolve("set = { a = '1' }").unwrap();
        step.refuse(&host).unwrap();
        let real = directory.path().join(PATH.trim_start_matches('/'));
        let refused = |words: &[&str]| {
            let before = std::fs::symlink_metadata(&real).unwrap().file_type();
            let message = step.refuse(&host).unwrap_err();
            assert_eq!(message.kind.exit_code(), 69);
            for word in words {
                assert!(message.to_string().contains(word), "{message}");
            }
            step.observe(&host, &Planned::new()).unwrap_err();
            step.converge(&host).unwrap_err();
            assert_eq!(std::fs::symlink_metadata(&real).unwrap().file_type(), before);
        };
        host.write("/srv/real", b"a=0\n", 0o644, Owner::ROOT).unwrap();
        host.write(PATH, b"", 0o644, Owner::ROOT).unwrap();
        host.link(PATH, "/srv/real").unwrap();
        refused(&[PATH, "/srv/real", "cp --remove-destination"]);
        assert_eq!(host.read("/srv/real").unwrap().unwrap(), b"a=0\n");
        host.link(PATH, "/nowhere").unwrap();
        refused(&["/nowhere", "rm"]);
        std::fs::remove_file(&real).unwrap();
        std::fs::create_dir(&real).unwrap();
        refused(&["directory", "mv"]);
        std::fs::remove_dir(&real).unwrap();
        host.write(PATH, &vec![b'#'; LIMIT + 1], 0o644, Owner::ROOT).unwrap();
        refused(&["larger"]);
        host.write(PATH, b"a=0\nb=\\u00\n", 0o644, Owner::ROOT).unwrap();
        refused(&[PATH, "line 2"]);
    }

    #[test]
    fn a_file_has_at_most_one_mebibyte_before_and_after() {
        let (_directory, host) = Host::temporary();
        let step = resolve("set = { a = '1' }").unwrap();
        for (lines, size, is_good) in [
            ("a=1\n", LIMIT, true),
            ("a=1\n", LIMIT + 1, false),
            // The edit adds `a=1` and a newline.
            ("", LIMIT - 4, true),
            ("", LIMIT - 3, false),
            ("", LIMIT, false),
            // The edit would remove a line, but such a file is not read at all.
            ("a=1\na=1\n", LIMIT + 1, false),
            ("a=1\na=1\n", LIMIT + 2, false),
        ] {
            let mut contents = lines.as_bytes().to_vec();
            contents.resize(size - 1, b'#');
            contents.push(b'\n');
            host.write(PATH, &contents, 0o644, Owner::ROOT).unwrap();
            let refused = step.refuse(&host).err().map(|error| error.what);
            let too_large = format!("{PATH} is larger than 1 MiB, so it is not a properties file");
            assert_eq!(refused, (!is_good).then_some(too_large), "{lines:?} {size}");
        }
    }

    #[test]
    fn a_duplicate_is_removed_even_if_nothing_is_set() {
        let (_directory, host) = Host::temporary();
        let step = resolve("set = { a = '1', b = '2' }").unwrap();
        for (before, line) in [
            ("a=0\na=1\nb=2\n", format!("remove 1 duplicate in {PATH}")),
            ("a=0\na=1\nb=0\nb=2\n", format!("remove 2 duplicates in {PATH}")),
            ("a=1\nb=3\n", format!("set 1 property in {PATH}")),
        ] {
            host.write(PATH, before.as_bytes(), 0o644, Owner::ROOT).unwrap();
            let lines: Vec<String> = changes(observe(&host, &step)).into_iter().map(|change| change.line).collect();
            assert_eq!(lines, [line], "{before:?}");
            step.converge(&host).unwrap();
            assert_eq!(host.read_text(PATH).unwrap().unwrap(), "a=1\nb=2\n");
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let (_directory, host) = Host::temporary();
        host.write(PATH, b"DB.Password = hunter2\ntoken=hunter2\ntoken=hunter2", 0o644, Owner::ROOT).unwrap();
        let step =
            resolve("set = { 'DB.Password' = 'hunter 3', 'token' = 'hunter4', 'my.secret.x' = 'hunter5' }").unwrap();
        let shown = changes(observe(&host, &step))[0].diff.clone().unwrap();
        assert_eq!(shown, "-DB.Password=***\n+DB.Password=***\n-token=***\n+token=***\n-token=***\n+my.secret.x=***\n");
    }

    #[test]
    fn a_plan_goes_on_from_what_earlier_steps_will_have_written() {
        let (_directory, host) = Host::temporary();
        let step = resolve("set = { a = '1' }").unwrap();
        let planned = Planned::from([(PATH.to_owned(), b"b=2\n".to_vec())]);
        let found = changes(step.observe(&host, &planned).unwrap());
        assert_eq!(found, [Change { diff: Some("+a=1\n".into()), ..Change::new(format!("set 1 property in {PATH}")) }]);
        assert_eq!(step.planned(&host, &planned).unwrap().unwrap().1, b"b=2\na=1\n");
    }
}
