//! The language of what people read: plain, natural English. A rule is a word or a construction that a native reader stumbles over,
//! and what to write instead. The list grows with each that a reader finds.
//!
//! Covered are the documents, what packages bring, and `--help`. [`SOURCES`] lists the folders whose comments and messages are
//! covered, too.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use crate::docs::{document, documents, project};

/// Folders and files: of Rust files their comments and texts, of others the lines that begin with `#`. The texts of tests are
/// left out, because many of them are the program's output.
const SOURCES: [&str; 10] = [
    "build.rs",
    "docs/img/make",
    "examples",
    "fuzz/Cargo.toml",
    "fuzz/fuzz_targets",
    "packaging",
    "roles",
    "src",
    "systemd",
    "tests",
];

/// Folders in them that hold data.
const DATA: [&str; 4] = ["tests/corpus", "tests/data", "tests/golden", "tests/seeds"];

/// Texts beside the documents.
const TEXTS: [&str; 4] = [
    "packaging/packer/README.md",
    "packaging/terraform/README.md",
    "packaging/deb/config.toml",
    "packaging/deb/control",
];

/// The pattern to avoid, an exception, and what to write instead.
const RULES: [(&str, &str, &str); 38] = [
    (r"\btold\b", "", "reported, or name the message"),
    (r"\b[Tt]ells?\b", "", "reports, prints, says"),
    (r"\b[Mm]end(s|ed|ing)?\b", "", "fix"),
    (r"(\S+ )?\b(is|are|was|were|be) no [a-z]+", "(?i)^there |no (longer|more|matter)$", "is not a"),
    (r"(\S+ )?\b(is|are) none\b", "(?i)^there |: ", "is not"),
    (r"\b[Ll]ook(s|ed|ing)? after\b", "", "keep, watch"),
    (r"\bfor ever\b", "", "forever, or always"),
    (r"\b(ones?|it) wins?\b|\bwins over\b", "", "overrides"),
    (r"\b[Ww]hoever\b", "", "anyone who"),
    (
        r"(\S+ )?\bwho (reaches|may|can|cannot) [a-z ]+ (is|owns|decides)\b",
        "(?i)^(anyone|everyone|someone|people|those) ",
        "anyone who",
    ),
    (r"\b(is|are) to be [a-z]+ed\b|\b(is|are) to be (done|made|kept)\b", "", "the active voice: the run changes it"),
    (
        r"\b(is|are|was|were|be|been) (not |only |also |never |again |all )*(asked|said|waited for|looked at|looked for|gone into)\b",
        "",
        "the active voice: name who asks, reports or waits",
    ),
    (r"\b(can|cannot|could|may|to) (not )?be had\b", "", "is (not) available"),
    (r"\banew\b", "", "again"),
    (r"\bderived of\b", "", "derived from"),
    (r"\ban own\b", "", "its own"),
    (r"\b[a-z-]+ of (ours|yours|theirs|his)\b", "", "our, your, their"),
    (r"\b(an?|the) [a-z-]+ of (its|their|our|your) own\b", "", "its own, your own"),
    (r", for (it|they|there|nobody|none|some|that|what|he) ", "for that (reason|purpose)", "because"),
    (
        r", for (the|a|an|each|no) [a-z ]{1,40} (is|are|was|has|have|would|could|may|can|cannot|knows|does)\b",
        "",
        "because",
    ),
    (r"\b(lies?|lay) (in|on|below|beside|there)\b", "", "is in"),
    (
        r"\b(stands?|stood) (in|on|below|above|beside|behind|there|before|after|first|beneath)\b",
        "",
        "is in, comes after",
    ),
    (r", as (CODE|[0-9]|of |on |by |in )", "", "such as, e.g."),
    (r"(^|[.;:] )As CODE", "", "e.g."),
    (r"(^|[.;:] )Of [^.,]{1,70}, ", "Of course", "the usual word order"),
    (r"\bso long (such|it|that|as long)\b", "", "as long as"),
    (
        r"\b(thereof|wherein|hereby|thereby|therein|thereupon|hence|thus|upon|whither|whence|wherewith|whilst)\b",
        "",
        "a modern word",
    ),
    (r"\bnothing is called\b", "", "unknown name"),
    (r"\bcomes with a package\b", "", "is provided by a package"),
    (r"\b[Uu]nset: ", "", "Default:"),
    (r"\b[Ww]ithout a look\b", "", "without looking"),
    (r"\bwhat it (then )?lacks\b", "", "what is missing"),
    (r"\b(put|puts) (it |them |all )?right\b", "", "fix, repair, correct"),
    (r"\bis (not )?so\b|\bmakes? (it|the node|them) so\b", "is so (that|large|small|old|new|long)", "name the state"),
    (r"\b[Mm]ust not be able to\b", "", "cannot, or: is not allowed to"),
    (r"\bwhere (neither|not|none|no) [a-z ]+ (says|name|names) (it|so)\b", "", "if nothing sets it"),
    (r"\bcan be (had|tried on)\b", "", "you can try"),
    (r"\bin (the|their|its) stead\b", "", "instead"),
];

static PATTERNS: LazyLock<Vec<(Regex, Option<Regex>, &str)>> = LazyLock::new(|| {
    let pattern = |(rule, except, advice): &(&str, &str, &'static str)| {
        let except = (!except.is_empty()).then(|| Regex::new(except).unwrap());
        (Regex::new(rule).unwrap(), except, *advice)
    };
    RULES.iter().map(pattern).collect()
});

/// A text without its inline code, which has words of programs.
fn without_code(text: &str) -> String {
    static CODE: LazyLock<Regex> = LazyLock::new(|| Regex::new("`[^`]*`").unwrap());
    static LINK: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\]\([^)]*\)").unwrap());
    LINK.replace_all(&CODE.replace_all(text, "CODE"), "]").into_owned()
}

/// The paragraphs of a Markdown text, each with the number of its first line; no blocks of code.
fn paragraphs(text: &str) -> Vec<(usize, String)> {
    let (mut found, mut open, mut fenced): (Vec<(usize, String)>, bool, bool) = (Vec::new(), false, false);
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
        }
        let is_code = fenced || line.starts_with("```") || (line.starts_with("    ") && !open);
        let is_own = line.starts_with(['|', '#', '-']) || line.starts_with("1.");
        if is_code || line.trim().is_empty() {
            open = false;
            continue;
        }
        match found.last_mut().filter(|_| open && !is_own) {
            Some((_, paragraph)) => paragraph.push_str(&format!(" {}", line.trim())),
            None => found.push((index + 1, line.trim().to_owned())),
        }
        open = !line.starts_with('|') && !line.starts_with('#');
    }
    found
}

/// The comments and texts of a Rust file, and the comments of any other.
fn comments(name: &str, text: &str) -> Vec<(usize, String)> {
    static TEXT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""((?:[^"\\]|\\.)*)""#).unwrap());
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let comment = if name.ends_with(".rs") {
            line.strip_prefix("//").map(|line| line.trim_start_matches(['/', '!']))
        } else {
            line.strip_prefix('#').filter(|line| !line.starts_with('!'))
        };
        match (comment, found.last_mut()) {
            (Some(comment), Some((_, paragraph))) if last == index && last != 0 => {
                paragraph.push_str(&format!(" {}", comment.trim()))
            }
            (Some(comment), _) => found.push((index + 1, comment.trim().to_owned())),
            (None, _) if name.ends_with(".rs") && !name.starts_with("tests/") => {
                found.extend(TEXT.captures_iter(line).map(|text| (index + 1, text[1].to_owned())));
            }
            (None, _) => {}
        }
        last = if comment.is_some() { index + 1 } else { 0 };
    }
    found
}

/// What the rules find in a text.
fn findings(place: &str, text: &str) -> Vec<String> {
    let text = without_code(text);
    let mut found = Vec::new();
    for (pattern, except, advice) in PATTERNS.iter() {
        for at in pattern.find_iter(&text) {
            if !except.as_ref().is_some_and(|except| except.is_match(at.as_str())) {
                found.push(format!("{place}: \"{}\": write: {advice}", at.as_str()));
            }
        }
    }
    found
}

fn files(path: &Path, into: &mut Vec<String>) {
    if DATA.iter().any(|data| path.ends_with(data)) {
        return;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), into);
        }
    } else {
        into.push(path.strip_prefix(project()).unwrap().display().to_string());
    }
}

fn help_findings(command: &clap::Command, words: &str, into: &mut Vec<String>) {
    let words = format!("{words} {}", command.get_name());
    let help = command.clone().max_term_width(0).render_long_help().to_string();
    for line in help.lines() {
        into.extend(findings(&format!("{} --help", words.trim()), line.trim()));
    }
    command.get_subcommands().for_each(|one| help_findings(one, &words, into));
}

#[test]
fn what_people_read_is_plain_english() {
    let mut found = Vec::new();
    for name in documents().into_iter().chain(TEXTS.map(str::to_owned)) {
        let text = document(&name);
        let texts = if name.ends_with(".toml") { comments(&name, &text) } else { paragraphs(&text) };
        found.extend(texts.iter().flat_map(|(line, text)| findings(&format!("{name}:{line}"), text)));
    }
    let mut names = Vec::new();
    SOURCES.iter().for_each(|source| files(&project().join(source), &mut names));
    for name in names {
        // Inputs of parsers need not be text.
        let Ok(text) = std::fs::read_to_string(project().join(&name)) else { continue };
        found.extend(comments(&name, &text).iter().flat_map(|(line, text)| findings(&format!("{name}:{line}"), text)));
    }
    let mut grammar = titus_bootstrap::cli::grammar();
    grammar.build();
    help_findings(&grammar, "", &mut found);
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{} findings:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_rules_notice_what_they_are_for_and_nothing_else() {
    for text in [
        "shows what drifts, and the user is told of it",
        "mend the cause",
        "x.deb is no deb",
        "who reaches it is root on this node",
        "later ones win",
        "an hour is waited for",
        "Look after what must be kept so for ever",
        "unset: none is notified",
        "It is refused, for it knows no port",
        "Of a container that is adopted, each directory is copied",
        "One setting, as `a.b=c`",
        "a program of yours",
        "the file lies in /etc",
    ] {
        assert!(!findings("x", text).is_empty(), "{text}");
    }
    for text in [
        "There is no setting of this name, and it is no longer read.",
        "The run waits for an hour, for example.",
        "Fix the cause, and run it again.",
        "It is not a deb.",
        "Later sources override earlier ones.",
        "`what is told` is code",
        "as root on the instance",
    ] {
        assert_eq!(findings("x", text), [""; 0], "{text}");
    }
}
