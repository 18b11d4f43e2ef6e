//! What apt's own files say of a repository, as far as two of them can contradict one another (sources.list(5)).

/// A repository that a file names: one suite at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Its address, with a slash at its end, as apt compares it.
    pub uri: String,
    /// The suite.
    pub suite: String,
    /// The option `Signed-By`: a path, fingerprints or a key; none: any of apt's own keys.
    pub signed_by: Option<String>,
}

/// The repositories of packages that a file names; its name decides which of the two formats it has.
pub fn repositories(file: &str, text: &str) -> Vec<Repository> {
    if file.ends_with(".sources") { deb822(text) } else { text.lines().filter_map(one_line).collect() }
}

fn repository(uri: &str, suite: &str, signed_by: Option<&str>) -> Repository {
    let uri = format!("{}/", uri.trim_end_matches('/'));
    Repository { uri, suite: suite.to_owned(), signed_by: signed_by.map(str::to_owned) }
}

/// `deb [ signed-by=/x.gpg arch=amd64 ] https://example.com/debian bookworm main # comment`.
fn one_line(line: &str) -> Option<Repository> {
    let line = line.split('#').next()?.trim().strip_prefix("deb")?;
    let line = line.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match line.strip_prefix('[') {
        Some(inner) => inner.split_once(']')?,
        None => ("", line),
    };
    let signed_by = options.split_whitespace().find_map(|option| {
        let (name, value) = option.split_once('=')?;
        name.eq_ignore_ascii_case("signed-by").then_some(value)
    });
    let mut words = rest.split_whitespace();
    Some(repository(words.next()?, words.next()?, signed_by))
}

fn deb822(text: &str) -> Vec<Repository> {
    let mut found = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for stanza in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| -> Option<String> {
            let is_it = |line: &&&str| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name));
            let at = stanza.iter().position(|line| is_it(&line))?;
            let first = stanza.get(at)?.split_once(':')?.1;
            let more = stanza.iter().skip(at + 1).take_while(|line| line.starts_with([' ', '\t']));
            Some(std::iter::once(first).chain(more.copied()).map(str::trim).collect::<Vec<_>>().join(" ").trim().into())
        };
        let is_off = field("Enabled").is_some_and(|word| ["no", "false", "off", "0"].contains(&word.as_str()));
        let is_binary = field("Types").unwrap_or_default().split_whitespace().any(|word| word == "deb");
        let (Some(uris), Some(suites), false, true) = (field("URIs"), field("Suites"), is_off, is_binary) else {
            continue;
        };
        let signed_by = field("Signed-By");
        for uri in uris.split_whitespace() {
            found.extend(suites.split_whitespace().map(|suite| repository(uri, suite, signed_by.as_deref())));
        }
    }
    found
}

/// Whether apt refuses both together: "Conflicting values set for option Signed-By". One that is read first and names
/// no key takes that of the other.
pub fn conflict(first: &Repository, second: &Repository) -> bool {
    let same = (&first.uri, &first.suite) == (&second.uri, &second.suite);
    same && first.signed_by.is_some() && first.signed_by != second.signed_by
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(file: &str, text: &str) -> Vec<String> {
        let shown = |r: Repository| format!("{} {} {}", r.uri, r.suite, r.signed_by.as_deref().unwrap_or("-"));
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
            ("\tdeb http://d x main contrib", "http://d/ x -"),
            ("deb http://d/// ./", "http://d/ ./ -"),
        ] {
            assert_eq!(shown("docker.list", line), [expected]);
        }
        for line in [
            "",
            "# deb http://d x main",
            "deb-src http://d x main",
            "deb [arch=amd64 http://d x",
            "deb http://d",
            "debx http://d x",
        ] {
            assert_eq!(shown("docker.list", line), [""; 0], "{line}");
        }
        let text = "# x\nTypes: deb deb-src\nURIs: http://d http://e/\nSuites: x y\nsigned-by:\n -----BEGIN PGP\n .\n mDMEY\n\nTypes: deb-src\nURIs: http://f\nSuites: x\n\nTypes: deb\nURIs: http://g\nSuites: x\nEnabled: no\n\nTypes: deb\nURIs: http://h\nSuites:\n x\n";
        let key = "-----BEGIN PGP . mDMEY";
        assert_eq!(
            shown("x.sources", text),
            [
                format!("http://d/ x {key}"),
                format!("http://d/ y {key}"),
                format!("http://e/ x {key}"),
                format!("http://e/ y {key}"),
                "http://h/ x -".into()
            ]
        );
    }

    #[test]
    fn one_repository_with_two_keys_is_a_conflict() {
        let with = |key: Option<&str>| repository("http://d", "x", key);
        assert!(conflict(&with(Some("/a")), &with(Some("/b"))));
        assert!(conflict(&with(Some("/a")), &with(None)));
        assert!(!conflict(&with(None), &with(Some("/b"))));
        assert!(!conflict(&with(Some("/a")), &with(Some("/a"))));
        assert!(!conflict(&with(Some("/a")), &repository("http://d", "y", Some("/b"))));
        assert!(!conflict(&with(Some("/a")), &repository("http://d/e", "x", Some("/b"))));
    }
}
