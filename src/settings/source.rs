//! Sources of settings.

use std::fmt;

/// The source of a setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The defaults of the binary.
    BuiltIn,
    /// `--sample`.
    Sample,
    /// The defaults of the role with this name.
    Role(String),
    /// The file at this path.
    File(String),
    /// The instance tag with this key.
    Tag(String),
    /// The instance's user data.
    UserData,
    /// `--set` of the setting with this name.
    Set(String),
    /// `--role`.
    RoleFlag,
    /// A flag on the first line of user data.
    FirstLine(Box<Source>),
    /// The EC2 API's answer to this question.
    Api(String),
    /// The setting `prereqs` in this source; it is short for others.
    Prereqs(Box<Source>),
}

impl Source {
    /// Whether the source is a single value, so that line numbers mean nothing.
    pub(super) fn is_one_value(&self) -> bool {
        matches!(self, Source::Tag(_) | Source::Set(_) | Source::RoleFlag | Source::FirstLine(_) | Source::Api(_))
    }

    /// The source of the settings that `prereqs` stands for. A source that is the setting `prereqs` itself needs no addition.
    pub(super) fn prereqs_source(&self) -> Source {
        match self {
            Source::Set(key) if key == "prereqs" => self.clone(),
            Source::Tag(key) if key == "titus:prereqs" => self.clone(),
            Source::FirstLine(flag) if **flag == Source::Set("prereqs".into()) => self.clone(),
            other => Source::Prereqs(Box::new(other.clone())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::BuiltIn => f.write_str("built-in"),
            Source::Sample => f.write_str("sample"),
            Source::Role(name) => write!(f, "role {name}"),
            Source::File(path) => f.write_str(path),
            Source::Tag(key) => write!(f, "tag {key}"),
            Source::UserData => f.write_str("user data"),
            // Leave the value out: it may be a secret.
            Source::Set(key) => write!(f, "--set {key}"),
            Source::RoleFlag => f.write_str("--role"),
            Source::FirstLine(flag) => write!(f, "first line of user data: {flag}"),
            Source::Api(question) => write!(f, "EC2 API {question}"),
            Source::Prereqs(other) => write!(f, "prereqs in {other}"),
        }
    }
}
