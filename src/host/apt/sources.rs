//! Repositories in apt's source files, as far as two files can contradict each other (sources.list(5)). A single
//! contradiction makes apt refuse all of its sources, so that it works for no package at all.

use std::ops::Range;
use std::rc::Rc;

/// Options, besides `Signed-By`, that apt compares. A repository that has one of them in only one of two files is a
/// contradiction, in any order of the files.
const COMPARED: [&str; 7] = [
    "trusted",
    "check-valid-until",
    "check-date",
    "allow-insecure",
    "allow-weak",
    "allow-downgrade-to-insecure",
    "inrelease-path",
];

/// Options that may be missing in the earlier file: then apt accepts the value of the later one.
const COMPARED_IF_FIRST: [&str; 4] = ["signed-by", "valid-until-max", "valid-until-min", "date-max-future"];

/// The most repositories that are read from a file; files that people write have fewer.
const MOST: usize = 1000;

/// The prefix of lines that the program disables in a file.
const DISABLED: &str = "#titus-bootstrap: ";

/// A repository that a file names: one suite at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its address in the file, with a slash at the end.
    pub uri: String,
    /// The suite.
    pub suite: String,
    /// Its options, with names in lower case.
    options: Rc<[(String, String)]>,
    /// The lines of the file that name it, from 0: one line, or a stanza, which may name several repositories.
    lines: Range<usize>,
}

impl Repository {
    /// The value of an option, whose name is in lower case.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The identity of the repository for apt: without the protocol and the user.
    fn place(&self) -> String {
        let (scheme, rest) = self.uri.split_once(':').unwrap_or(("", &self.uri));
        let local = ["file", "copy", "cdrom"].contains(&scheme);
        let rest = match rest.strip_prefix("//") {
            Some(rest) if local => rest,
            Some(rest) => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
                return format!("{host}/{}", self.below(path));
            }
            None => rest,
        };
        self.below(rest)
    }

    fn below(&self, path: &str) -> String {
        match self.suite.as_str() {
            "/" => path.to_owned(),
            flat if flat.ends_with('/') => format!("{path}{flat}"),
            suite => format!("{path}dists/{suite}/"),
        }
    }

    /// The host and the port of the repository; `None` if it is on the node.
    pub fn host_and_port(&self) -> Option<(String, u16)> {
        let (scheme, rest) = self.uri.split_once("://")?;
        let default = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split('/').next()?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        match place.rsplit_once(':').filter(|_| !place.ends_with(']')) {
            Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
            None => Some((place.to_owned(), default)),
        }
    }

    /// Whether both are the same repository for apt.
    pub fn is_same(&self, other: &Repository) -> bool {
        self.place() == other.place()
    }
}

/// The repositories, of packages or of their sources, that a file names. The file's name decides between the two
/// formats.
pub fn repositories(file: &str, text: &str) -> Vec<Repository> {
    if file.ends_with(".sources") {
        return deb822(text);
    }
    text.lines().enumerate().filter_map(|(n, line)| one_line(n, line)).take(MOST).collect()
}

/// Whether apt reads a file with this name in /etc/apt/sources.list.d.
pub fn is_read(name: &str) -> bool {
    let ends = name.ends_with(".list") || name.ends_with(".sources");
    ends && !name.starts_with('.') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn with_slash(uri: &str) -> String {
    if uri.ends_with('/') { uri.to_owned() } else { format!("{uri}/") }
}

/// `deb [ signed-by=/x.gpg arch=amd64 ] https://example.com/debian bookworm main # comment`.
fn one_line(n: usize, line: &str) -> Option<Repository> {
    let line = line.trim();
    let line = line.strip_prefix("deb-src").or_else(|| line.strip_prefix("deb"))?;
    let line = line.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match line.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", line),
    };
    let options = options.split_whitespace().filter_map(|option| option.split_once('=')).map(pair).collect();
    let mut words = rest.split('#').next()?.split_whitespace().map(|word| word.trim_matches('"'));
    let (uri, suite) = (with_slash(words.next()?), words.next()?.to_owned());
    Some(Repository { uri, suite, options, lines: n..n + 1 })
}

fn pair((name, value): (&str, &str)) -> (String, String) {
    (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_owned())
}

fn deb822(text: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    let mut stanza = Stanza::default();
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        if line.trim().is_empty() {
            std::mem::take(&mut stanza).end(&mut found);
        } else {
            stanza.add(n, line);
        }
    }
    stanza.end(&mut found);
    found
}

/// Consecutive lines without an empty line between them.
#[derive(Default)]
struct Stanza {
    lines: Range<usize>,
    /// The relevant fields, with names in lower case.
    fields: Vec<(String, String)>,
    /// Whether the last line belongs to a relevant field.
    continues: bool,
}

impl Stanza {
    fn add(&mut self, n: usize, line: &str) {
        let first = if self.lines.is_empty() { n } else { self.lines.start };
        self.lines = first..n + 1;
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = self.fields.last_mut().filter(|_| self.continues) {
                value.push(' ');
                value.push_str(line.trim());
            }
            return;
        }
        let field = line.split_once(':').map(pair).filter(|(name, _)| {
            let known = ["types", "uris", "suites", "enabled"];
            let mut all = known.iter().chain(&COMPARED).chain(&COMPARED_IF_FIRST);
            all.any(|one| one == name) && self.field(name).is_none()
        });
        self.continues = field.is_some();
        self.fields.extend(field);
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn end(self, found: &mut Vec<Repository>) {
        let words = |name: &str| self.field(name).unwrap_or_default().split_whitespace();
        if words("enabled").next().is_some_and(is_no) || !words("types").any(|word| word == "deb" || word == "deb-src")
        {
            return;
        }
        let options: Rc<[_]> =
            self.fields.iter().map(|(name, value)| (name.clone(), value.trim().to_owned())).collect();
        let pairs = words("uris").flat_map(|uri| words("suites").map(move |suite| (uri, suite)));
        found.extend(pairs.take(MOST.saturating_sub(found.len())).map(|(uri, suite)| Repository {
            uri: with_slash(uri),
            suite: suite.to_owned(),
            options: options.clone(),
            lines: self.lines.clone(),
        }));
    }
}

/// Whether apt reads a word as false (apt.conf(5)).
fn is_no(word: &str) -> bool {
    ["no", "false", "without", "off", "disable", "0"].iter().any(|no| word.eq_ignore_ascii_case(no))
}

/// The option in which two entries for the same repository contradict each other; apt refuses both ("Conflicting values
/// set for option …"). apt reads `first` first.
pub fn conflict(first: &Repository, second: &Repository) -> Option<&'static str> {
    if !first.is_same(second) {
        return None;
    }
    // For apt, `allow-…=no` is the same as no value.
    let value = |repository: &Repository, name: &str| -> Option<String> {
        let value = repository.option(name)?;
        Some(value.to_owned()).filter(|value| !(name.starts_with("allow-") && is_no(value)))
    };
    let differs = |name: &&&'static str| value(first, name) != value(second, name);
    let earlier = COMPARED_IF_FIRST.iter().find(|name| first.option(name).is_some() && differs(name));
    earlier.or_else(|| COMPARED.iter().find(differs)).copied()
}

/// Returns the text of a file in which the lines of a repository are comments.
///
/// # Errors
/// Fails when these lines also name a repository that is not `is_ours`; the error is that repository.
pub fn comment_out(
    file: &str,
    text: &str,
    repository: &Repository,
    is_ours: impl Fn(&Repository) -> bool,
) -> Result<String, Repository> {
    let others = repositories(file, text).into_iter().filter(|other| other.lines == repository.lines);
    if let Some(other) = others.into_iter().find(|other| !is_ours(other)) {
        return Err(other);
    }
    let comment = |(n, line): (usize, &str)| {
        let mark = if repository.lines.contains(&n) { DISABLED } else { "" };
        format!("{mark}{line}\n")
    };
    Ok(text.lines().enumerate().map(comment).collect())
}

/// For [`crate::parsers`].
pub(crate) fn read_as_any_file(text: &str) {
    for file in ["a.list", "a.sources"] {
        if let Some(first) = repositories(file, text).first() {
            let _ = (comment_out(file, text, first, |_| true), conflict(first, first));
        }
    }
}

/// The command that undoes [`comment_out`].
pub fn restore_command(path: &str) -> String {
    format!("sed -i 's/^{DISABLED}//' {path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(file: &str, text: &str) -> Vec<String> {
        let shown = |r: Repository| format!("{} {} {}", r.uri, r.suite, r.option("signed-by").unwrap_or("-"));
        repositories(file, text).into_iter().map(shown).collect()
    }

    #[test]
    fn both_formats_are_read() {
        for (line, expected) in [
            (
                "deb [arch=amd64 signed-by=/etc/apt/keyrings/docker.asc] https://d/linux jammy stable",
                "https://d/linux/ jammy /etc/apt/keyrings/docker.asc",
            ),
            ("deb [ Signed-By=/a ] http://d/ x main # why", "http://d/ x /a"),
            ("deb [ signed-by=\"/a\" ] \"http://d/\" x main#why", "http://d/ x /a"),
            ("\tdeb http://d x main contrib", "http://d/ x -"),
            ("deb http://d/// ./", "http://d/// ./ -"),
            ("deb-src http://d x main", "http://d/ x -"),
        ] {
            assert_eq!(shown("docker.list", line), [expected]);
        }
        for line in ["", "# deb http://d x main", "deb [arch=amd64 http://d x", "deb http://d", "debx http://d x"] {
            assert_eq!(shown("docker.list", line), [""; 0], "{line}");
        }
        let text = "# x\nTypes: deb deb-src\nURIs: http://d http://e/\nSuites: x y\nsigned-by:\n -----BEGIN PGP\n .\n mDMEY\n\nTypes: deb-src\nURIs: http://f\nSuites: x\n\nTypes: deb\nURIs: http://g\nSuites: x\nEnabled: No\n\nTypes: deb\nURIs: http://h\nSuites:\n# why\n x\nEnabled: yes\n";
        let key = "-----BEGIN PGP . mDMEY";
        assert_eq!(
            shown("x.sources", text),
            [
                format!("http://d/ x {key}"),
                format!("http://d/ y {key}"),
                format!("http://e/ x {key}"),
                format!("http://e/ y {key}"),
                "http://f/ x -".into(),
                "http://h/ x -".into()
            ]
        );
        for (name, read) in [("a.list", true), ("a_1-2.sources", true), ("a.list.save", false), ("a b.list", false)] {
            assert_eq!((is_read(name), is_read(&format!(".{name}"))), (read, false), "{name}");
        }
    }

    /// Checked with apt 2.6.
    #[test]
    fn contradictions_are_those_that_apt_finds() {
        let parse = |line: &str| one_line(0, line).unwrap();
        let ours = parse("deb [signed-by=/ours.gpg] https://d.example/linux x main");
        for (options, place, before, after) in [
            ("signed-by=/a", "https://d.example/linux x", Some("signed-by"), Some("signed-by")),
            ("signed-by=/a arch=arm64", "https://d.example/linux/ x", Some("signed-by"), Some("signed-by")),
            ("signed-by=/a", "http://d.example/linux x", Some("signed-by"), Some("signed-by")),
            ("signed-by=/a", "https://u:p@d.example/linux x", Some("signed-by"), Some("signed-by")),
            ("signed-by=/a", "https://d.example/linux dists/x/", Some("signed-by"), Some("signed-by")),
            ("signed-by=/a", "https://d.example/linux/dists/x/ /", Some("signed-by"), Some("signed-by")),
            ("signed-by=/ours.gpg,/a", "https://d.example/linux x", Some("signed-by"), Some("signed-by")),
            ("arch=amd64", "https://d.example/linux x", None, Some("signed-by")),
            ("trusted=yes", "https://d.example/linux x", Some("trusted"), Some("signed-by")),
            ("signed-by=/ours.gpg trusted=no", "https://d.example/linux x", Some("trusted"), Some("trusted")),
            (
                "signed-by=/ours.gpg check-valid-until=no",
                "http://d.example/linux x",
                Some("check-valid-until"),
                Some("check-valid-until"),
            ),
            ("signed-by=/ours.gpg allow-insecure=no", "https://d.example/linux x", None, None),
            (
                "signed-by=/ours.gpg allow-insecure=yes",
                "https://d.example/linux x",
                Some("allow-insecure"),
                Some("allow-insecure"),
            ),
            ("signed-by=/ours.gpg valid-until-max=5", "https://d.example/linux x", Some("valid-until-max"), None),
            ("signed-by=/ours.gpg by-hash=no lang=de", "https://d.example/linux x", None, None),
            ("signed-by=/a", "https://d.example/linux y", None, None),
            ("signed-by=/a", "https://d.example/linux// x", None, None),
            ("signed-by=/a", "https://d.example:443/linux x", None, None),
            ("signed-by=/a", "https://D.example/linux x", None, None),
        ] {
            for kind in ["deb", "deb-src"] {
                let theirs = parse(&format!("{kind} [{options}] {place} main"));
                assert_eq!((conflict(&theirs, &ours), conflict(&ours, &theirs)), (before, after), "{options} {place}");
            }
        }
        let files = ["file:/srv/repo", "file:///srv/repo", "copy:/srv/repo/"].map(|uri| parse(&format!("deb {uri} x")));
        assert!(files.iter().all(|file| file.is_same(&files[0])));
        assert!(!files[0].is_same(&parse("deb file://localhost/srv/repo x")));
    }

    #[test]
    fn lines_that_are_commented_out_can_be_restored() {
        let list = "# docker\ndeb http://d x main\ndeb http://e x main\n";
        let ours = one_line(0, "deb http://d x main").unwrap();
        let is_ours = |theirs: &Repository| theirs.is_same(&ours);
        let take = |file: &str, text: &str| {
            let theirs = repositories(file, text).into_iter().find(is_ours).unwrap();
            comment_out(file, text, &theirs, is_ours)
        };
        let taken = take("a.list", list).unwrap();
        assert_eq!(taken, "# docker\n#titus-bootstrap: deb http://d x main\ndeb http://e x main\n");
        assert_eq!(taken.replace(DISABLED, ""), list);
        assert_eq!(restore_command("/x"), "sed -i 's/^#titus-bootstrap: //' /x");
        let stanza = "Types: deb\nURIs: http://d\n# why\nSuites: x\n\nTypes: deb\nURIs: http://e\nSuites: x\n";
        let taken = take("a.sources", stanza).unwrap();
        assert_eq!(shown("a.sources", &taken), ["http://e/ x -"]);
        assert_eq!(taken.replace(DISABLED, ""), stanza);
        // The stanza also names a repository that must stay.
        let other = take("a.sources", &stanza.replace("Suites: x\n", "Suites: x y\n")).unwrap_err();
        assert_eq!(other.suite, "y");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "(deb |deb-src )?[\\PC\n]{0,200}") {
            for file in ["a.list", "a.sources"] {
                for repository in repositories(file, &text) {
                    let _ = (repository.place(), comment_out(file, &text, &repository, |_| true));
                }
            }
        }
    }
}
