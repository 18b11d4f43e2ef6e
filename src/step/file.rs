//! A file with this content, mode and owner; or no file at this path.

use serde::Deserialize;
use similar::ChangeTag;

use super::forms::{self, Account, Mode};
use super::warm_pool::READY;
use super::{Change, Claim, Contents, Planned, RawKind, State, ValueOrigin, Work, fingerprint};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::fs::Owner;
use crate::host::fs::look::{Entry, EntryKind};
use crate::secrets::{HIDDEN, is_known};
use crate::template::{Renderer, Templated};

/// The step in a role file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawFile {
    path: Templated<forms::Path>,
    mode: Option<Templated<Mode>>,
    owner: Option<Templated<Account>>,
    group: Option<Templated<Account>>,
    /// The content itself, a template like every text in a role file.
    content: Option<Templated<String>>,
    /// A template file for the content.
    template: Option<String>,
    /// No file at this path.
    absent: Option<Templated<bool>>,
    /// Only create the file if nothing exists at the path.
    #[serde(default)]
    if_missing: bool,
    /// Why existing contents must never change; a run that would change them is refused with this reason.
    constant: Option<String>,
}

/// The wanted state of a path.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// The path, below the root.
    pub path: String,
    want: Option<Want>,
    if_missing: bool,
    constant: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Want {
    contents: Vec<u8>,
    attributes: Attributes,
}

/// Mode and owner of a file or directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Attributes {
    mode: u32,
    owner: String,
    group: String,
}

impl Attributes {
    /// This mode, with root as the owner.
    pub(super) fn root_owned(mode: u32) -> Attributes {
        Attributes { mode, owner: "root".into(), group: "root".into() }
    }

    pub(super) fn resolve(
        renderer: &Renderer,
        mode: Option<&Templated<Mode>>,
        default_mode: u32,
        owner: Option<&Templated<Account>>,
        group: Option<&Templated<Account>>,
    ) -> Result<Attributes> {
        let name = |raw: Option<&Templated<Account>>| {
            raw.map_or_else(|| Ok("root".into()), |raw| raw.get(renderer).map(|Account(name)| name))
        };
        let mode = mode.map(|mode| mode.get(renderer)).transpose()?;
        let mode = mode.and_then(|Mode(text)| forms::mode(&text)).unwrap_or(default_mode);
        Ok(Attributes { mode, owner: name(owner)?, group: name(group)? })
    }

    /// The mode.
    pub(super) fn mode(&self) -> u32 {
        self.mode
    }

    /// The ids of owner and group. Ignored if this process cannot set them.
    pub(super) fn ids(&self, host: &Host) -> Result<Owner> {
        if !host.may_chown() {
            return Ok(Owner::ROOT);
        }
        let unknown = |what: &str, database: &str, name: &str| {
            Error::failed(format!("unknown {what} {name}"))
                .cause(if host.is_live() {
                    format!("it is neither in /etc/{database} nor in NSS (getent {database} {name})")
                } else {
                    format!("it is not in /etc/{database} of the tree")
                })
                .fix(format!("create it first ({what}add --system {name}), or set another one in the role file"))
        };
        let uid = match self.owner.as_str() {
            "root" => 0,
            name => match host.user(name)? {
                Some((uid, _)) => uid,
                None => host.nss_user(name)?.ok_or_else(|| unknown("user", "passwd", name))?.0,
            },
        };
        let gid = match self.group.as_str() {
            "root" => 0,
            name => match host.group(name)? {
                Some(group) => group.gid,
                None => host.nss_group(name)?.ok_or_else(|| unknown("group", "group", name))?.gid,
            },
        };
        Ok(Owner { uid, gid })
    }

    /// Whether only the owner may read it.
    pub(super) fn is_private(&self) -> bool {
        self.mode & 0o077 == 0
    }

    /// A description.
    pub(super) fn wish(&self) -> String {
        format!("mode {:04o}, owner {}:{}", self.mode, self.owner, self.group)
    }

    /// Changes of mode and owner. Ignores an owner that this process cannot set.
    pub(super) fn differences(&self, host: &Host, path: &str, entry: &Entry) -> Result<Vec<Change>> {
        let Entry { mode, uid, gid, .. } = *entry;
        let mut changes = Vec::new();
        if mode != self.mode {
            changes.push(Change::new(format!("{path}: mode {mode:04o} -> {:04o}", self.mode)));
        }
        let want = self.ids(host)?;
        if host.may_chown() && (uid, gid) != (want.uid, want.gid) {
            changes.push(Change::new(format!("{path}: owner {uid}:{gid} -> {}:{}", want.uid, want.gid)));
        }
        Ok(changes)
    }
}

/// Checks a path in a role file.
///
/// # Errors
/// Fails when the path is not absolute, or contains `..`.
pub(super) fn checked_path(path: String) -> Result<String> {
    forms::Path::try_from(path).map(|forms::Path(path)| path).map_err(Error::config)
}

impl RawFile {
    pub(super) fn resolve(&self, renderer: &Renderer) -> Result<File> {
        let forms::Path(path) = self.path.get(renderer)?;
        let absent = self.absent.as_ref().map_or(Ok(false), |absent| absent.get(renderer))?;
        if absent {
            return Ok(File::absent(path));
        }
        let contents = match (&self.content, &self.template) {
            (Some(content), None) => content.get_content(renderer, &path)?,
            (None, Some(template)) => renderer.render_file(template)?,
            _ => return Err(Error::config(format!("{path}: needs one of content, template, absent"))),
        };
        let attributes =
            Attributes::resolve(renderer, self.mode.as_ref(), 0o644, self.owner.as_ref(), self.group.as_ref())?;
        let want = Some(Want { contents: contents.into(), attributes });
        Ok(File { path, want, if_missing: self.if_missing, constant: self.constant.clone() })
    }
}

impl File {
    /// A file owned by root. Every step kind that writes a whole file uses one of these.
    pub(super) fn new(path: impl Into<String>, contents: impl Into<Vec<u8>>, mode: u32) -> File {
        let want = Want { contents: contents.into(), attributes: Attributes::root_owned(mode) };
        File { want: Some(want), ..File::absent(path) }
    }

    /// No file at this path.
    pub(super) fn absent(path: impl Into<String>) -> File {
        File { path: path.into(), want: None, if_missing: false, constant: None }
    }

    /// The necessary changes of contents, mode or owner.
    ///
    /// # Errors
    /// Fails when the path cannot be examined, or when something else is in the file's place.
    pub(super) fn changes(&self, host: &Host) -> Result<Vec<Change>> {
        let path = &self.path;
        let one = |line: String| Ok(vec![Change::new(line)]);
        let (want, entry) = match (&self.want, host.entry(path)?) {
            (None, None) => return Ok(Vec::new()),
            (None, Some(_)) => return one(format!("remove {path}")),
            (Some(want), None) => {
                let text = String::from_utf8_lossy(&want.contents);
                let size = match text.lines().count() {
                    0 => "empty".to_owned(),
                    1 => "1 line".to_owned(),
                    lines => format!("{lines} lines"),
                };
                let shown = (!text.is_empty() && !want.attributes.is_private()).then(|| text.into_owned());
                let line = format!("create {path} ({:04o}, {size})", want.attributes.mode);
                return Ok(vec![Change { contents: shown, ..Change::new(line) }]);
            }
            (Some(_), Some(_)) if self.if_missing => return Ok(Vec::new()),
            (Some(want), Some(entry)) => (want, entry),
        };
        let is = match &entry.kind {
            EntryKind::File => host.read(path)?.unwrap_or_default(),
            EntryKind::Link(target) => {
                return one(format!("replace {path}, a symbolic link to {} with a file", target.display()));
            }
            EntryKind::Directory | EntryKind::Other => {
                let error = Error::failed(format!("{path} is a directory or a device, not a file"));
                // Renaming a mount point's directory would leave another one in its place.
                let below =
                    if entry.kind == EntryKind::Directory { format!(" && rmdir {path}") } else { String::new() };
                return Err(if host.mounts()?.is_point(path) {
                    error.cause("it is a mount point").fix(format!("umount {path}{below}"))
                } else {
                    error.fix(format!("examine it, move it away (mv {path} {path}.old), and run titus-bootstrap again"))
                });
            }
        };
        let mut changes = Vec::new();
        if is != want.contents {
            let (before, after) = (String::from_utf8_lossy(&is), String::from_utf8_lossy(&want.contents));
            if want.attributes.is_private() {
                changes.push(Change::new(format!("change {path} (contents hidden: only its owner may read them)")));
            } else if host.is_ours(path)? {
                changes.push(Change { diff: Some(diff(&before, &after)), ..Change::new(format!("change {path}")) });
            } else {
                // The present contents may be anything.
                changes.push(Change::new(format!(
                    "change {path} (contents hidden: a user other than root may have written them)"
                )));
            }
        }
        changes.extend(want.attributes.differences(host, path, &entry)?);
        Ok(changes)
    }

    /// The wanted contents; empty if the file should not exist.
    fn contents(&self) -> &[u8] {
        self.want.as_ref().map_or(&[], |want| &want.contents)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.contents()).into_owned()
    }
}

impl RawKind for RawFile {
    fn refuse(&self) -> Result<()> {
        match (&self.content, &self.template, &self.absent) {
            (Some(_), None, _) | (None, Some(_), _) | (None, None, Some(_)) => Ok(()),
            _ => Err(Error::config("a file needs one of content, template, absent")),
        }
    }

    fn template(&self) -> Option<&str> {
        self.template.as_deref()
    }

    fn origin(&self, _name: &str) -> Option<ValueOrigin<'_>> {
        let content = self.content.as_ref().map(|content| match content {
            Templated::Value(text) | Templated::Template(text) => ValueOrigin::Text(text),
        });
        content.or(self.template.as_deref().map(ValueOrigin::File))
    }

    fn can_restart(&self) -> bool {
        true
    }
}

impl Work for File {
    fn explain(&self) -> Vec<String> {
        let Some(want) = &self.want else {
            return vec![format!("Keeps {} absent: a file there is removed.", self.path)];
        };
        let wish = want.attributes.wish();
        let mut lines = vec![if self.if_missing {
            format!("Creates {} ({wish}) if it does not exist. An existing file stays as it is.", self.path)
        } else {
            format!("Keeps {} with the contents of the role ({wish}). Other contents are replaced.", self.path)
        }];
        if self.constant.is_some() {
            lines.push("If other contents are there, it refuses the run and does not replace them.".into());
        }
        if self.path == READY {
            lines.push("Services whose drop-in names this file start only when it is there.".into());
        }
        lines
    }

    fn claims(&self) -> Vec<Claim> {
        let wish = match &self.want {
            None => "no file".into(),
            Some(want) => {
                let only = if self.if_missing { ", if nothing exists" } else { "" };
                format!("a file, {}, contents {}{only}", want.attributes.wish(), fingerprint(&want.contents))
            }
        };
        vec![Claim::new(&self.path, wish)]
    }

    /// Refuses to change contents that must not change.
    ///
    /// # Errors
    /// Fails when the path has other contents.
    fn refuse(&self, host: &Host) -> Result<()> {
        let Some(why) = &self.constant else { return Ok(()) };
        let (path, wanted) = (&self.path, self.text());
        let wanted = wanted.trim();
        let refuse = |is: &str| Err(Error::config(format!("{path} is {is}, but would become {wanted:?}")).fix(why));
        match host.entry(path)?.map(|entry| entry.kind) {
            None => return Ok(()),
            Some(EntryKind::File) => {}
            // Do not read it: a container with access to the directory may have created it.
            Some(EntryKind::Link(_)) => return refuse("a symbolic link, which is not followed"),
            Some(EntryKind::Directory | EntryKind::Other) => return refuse("not a regular file"),
        }
        let Some(is) = host.read_text(path)? else { return Ok(()) };
        let is = is.trim();
        if is == wanted {
            return Ok(());
        }
        // The program writes only a number there.
        let is_number = !is.is_empty() && is.len() < 20 && is.bytes().all(|byte| byte.is_ascii_digit());
        if is_number || host.is_ours(path)? { refuse(&format!("{is:?}")) } else { refuse("something else") }
    }

    fn observe(&self, host: &Host, _planned: &Planned) -> Result<State> {
        self.changes(host).map(State::from_changes)
    }

    fn converge(&self, host: &Host) -> Result<()> {
        let Some(want) = &self.want else { return host.remove(&self.path) };
        let (mode, owner) = (want.attributes.mode, want.attributes.ids(host)?);
        let same = host.entry(&self.path)?.is_some_and(|entry| entry.kind == EntryKind::File)
            && host.read(&self.path)?.as_ref() == Some(&want.contents);
        if same {
            return host.set_attributes(&self.path, mode, owner);
        }
        host.write(&self.path, &want.contents, mode, owner)
    }

    fn planned(&self, _host: &Host, _planned: &Planned) -> Result<Option<(String, Vec<u8>)>> {
        Ok(Some((self.path.clone(), self.contents().to_owned())))
    }

    fn written(&self) -> Option<(&str, Contents)> {
        Some((&self.path, Contents::Text(self.text())))
    }

    fn is_private(&self) -> bool {
        self.want.as_ref().is_some_and(|want| want.attributes.is_private())
    }

    fn file(&self) -> Option<&str> {
        Some(&self.path)
    }

    fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }

    fn defer(&mut self) -> bool {
        self.path == READY
    }
}

/// Exactly the lines that differ. Whatever was in the place of a secret was a secret too.
pub(super) fn diff(before: &str, after: &str) -> String {
    let diff = similar::TextDiff::from_lines(before, after);
    let changes: Vec<_> = diff.iter_all_changes().collect();
    let is_equal = |change: &similar::Change<&str>| change.tag() == ChangeTag::Equal;
    let mut text = String::new();
    for together in changes.chunk_by(|a, b| is_equal(a) == is_equal(b)).filter(|part| !part.iter().all(is_equal)) {
        let adds_secret = together.iter().any(|change| change.tag() == ChangeTag::Insert && is_known(change.value()));
        for change in together {
            let line = change.value().trim_end_matches('\n');
            text.push_str(&match change.tag() {
                ChangeTag::Insert => format!("+{line}\n"),
                _ if adds_secret => format!("-{HIDDEN}\n"),
                _ => format!("-{line}\n"),
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn file(toml: &str) -> File {
        toml::from_str::<RawFile>(toml).unwrap().resolve(&Renderer::new(json!({}))).unwrap()
    }

    fn lines(state: State) -> Vec<String> {
        match state {
            State::Changes(changes) => changes.into_iter().map(|change| change.line).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn observe_converge_observe() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = file("path = '/etc/x'\nmode = '0755'\ncontent = \"one\\ntwo\\n\"");
        assert_eq!(lines(step.observe(&host, &Planned::new()).unwrap()), ["create /etc/x (0755, 2 lines)"]);
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));

        host.write("/etc/x", b"one\nthree\n", 0o600, Owner::ROOT).unwrap();
        let State::Changes(changes) = step.observe(&host, &Planned::new()).unwrap() else { panic!() };
        assert_eq!(changes[0].diff.as_deref(), Some("-three\n+two\n"));
        assert_eq!(changes[1].line, "/etc/x: mode 0600 -> 0755");
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));

        let gone = file("path = '/etc/x'\nabsent = true");
        assert_eq!(lines(gone.observe(&host, &Planned::new()).unwrap()), ["remove /etc/x"]);
        let private = file("path = '/etc/x'\nmode = '0600'\ncontent = \"secret\"");
        let State::Changes(changes) = private.observe(&host, &Planned::new()).unwrap() else { panic!() };
        assert_eq!(changes[0].line, "change /etc/x (contents hidden: only its owner may read them)");
        assert_eq!(changes[0].diff, None);
        gone.converge(&host).unwrap();
        assert_eq!(gone.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
    }

    #[test]
    fn what_is_there_is_left_alone_if_so_wished() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = file("path = '/metatron'\ncontent = ''\nif_missing = true");
        std::fs::create_dir(directory.path().join("metatron")).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
    }

    #[test]
    fn a_directory_in_the_way_is_an_error_that_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        std::fs::create_dir(directory.path().join("x")).unwrap();
        assert!(
            file("path = '/x'\ncontent = ''")
                .observe(&host, &Planned::new())
                .unwrap_err()
                .to_string()
                .contains("mv /x")
        );
    }

    #[test]
    fn a_mount_point_in_the_way_is_an_error_that_says_how_to_unmount_it() {
        let host = Host::tree(Path::new("/dev"), Default::default()).unwrap();
        let error = file("path = '/pts'\ncontent = ''").observe(&host, &Planned::new()).unwrap_err();
        assert_eq!(error.fix.as_deref(), Some("umount /pts && rmdir /pts"));
    }

    #[test]
    fn whatever_was_in_the_place_of_a_secret_is_hidden_too() {
        crate::secrets::learn_text("learnt-in-this-test");
        let before = "name=a\nplace=before\nend\n";
        assert_eq!(diff(before, "name=a\nplace=learnt-in-this-test\nend\n"), "-***\n+place=learnt-in-this-test\n");
        assert_eq!(diff(before, "name=a\nplace=after\nend\n"), "-place=before\n+place=after\n");
        // Other lines of the file were never a secret.
        assert_eq!(
            diff("name=a\nmid\nplace=before\nend\n", "name=b\nmid\nplace=learnt-in-this-test\nend\n"),
            "-name=a\n+name=b\n-***\n+place=learnt-in-this-test\n"
        );
    }

    #[test]
    fn a_file_belongs_to_its_owner() {
        use std::os::unix::fs::MetadataExt;
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        host.write("/etc/passwd", b"app:x:1234:5678::/:/bin/sh\n", 0o644, Owner::ROOT).unwrap();
        host.write("/etc/group", b"app:x:5678:\n", 0o644, Owner::ROOT).unwrap();
        let step = file("path = '/x'\ncontent = ''\nowner = 'app'\ngroup = 'app'");
        step.converge(&host).unwrap();
        assert_eq!(step.observe(&host, &Planned::new()).unwrap(), State::InSync(None));
        if host.may_chown() {
            let found = directory.path().join("x").metadata().unwrap();
            assert_eq!((found.uid(), found.gid()), (1234, 5678));
            host.set_attributes("/x", 0o644, Owner::ROOT).unwrap();
            assert!(matches!(step.observe(&host, &Planned::new()).unwrap(), State::Changes(_)));
            let nobody = file("path = '/x'\ncontent = ''\nowner = 'nobody-here'");
            assert!(nobody.converge(&host).unwrap_err().what.starts_with("unknown user nobody-here"));
        }
    }

    #[test]
    fn a_file_that_says_nothing_about_its_contents_is_refused_when_it_is_read() {
        let refused = |toml: &str| toml::from_str::<RawFile>(toml).unwrap().refuse();
        refused("path = '/a'").unwrap_err();
        refused("path = '/a'\ncontent = ''\ntemplate = 'x'").unwrap_err();
        for toml in ["path = '/a'\ncontent = ''", "path = '/a'\ntemplate = 'x'", "path = '/a'\nabsent = true"] {
            refused(toml).unwrap();
        }
    }

    #[test]
    fn contents_that_must_not_change_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let step = file("path = '/myid'\ncontent = \"1\\n\"\nconstant = 'why'");
        for (is, is_refused) in [(None, false), (Some("1"), false), (Some(" 1\n"), false), (Some("2\n"), true)] {
            if let Some(is) = is {
                std::fs::write(directory.path().join("myid"), is).unwrap();
            }
            let refused = step.refuse(&host).err().map(|error| (error.what, error.fix));
            let expected = ("/myid is \"2\", but would become \"1\"".to_owned(), Some("why".to_owned()));
            assert_eq!(refused, is_refused.then_some(expected), "{is:?}");
        }
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // What somebody else wrote there may be anything: a message quotes it only if it is a number.
        let path = directory.path().join("myid");
        let (number, longer) = ("9".repeat(19), "9".repeat(20));
        for (is, shown) in [
            (&*number, format!("\"{number}\"")),
            (&longer, "something else".into()),
            ("", "something else".into()),
            ("root:x:0", "something else".into()),
        ] {
            std::fs::write(&path, is).unwrap();
            std::os::unix::fs::chown(&path, Some(1), Some(1)).unwrap();
            assert_eq!(step.refuse(&host).unwrap_err().what, format!("/myid is {shown}, but would become \"1\""));
        }
    }

    #[test]
    fn bad_paths_and_modes_are_refused() {
        for toml in
            ["path = 'x'\ncontent=''", "path = '/a/../b'\ncontent=''", "path='/a'", "path='/a'\ncontent=''\nmode='rw'"]
        {
            let loaded = crate::step::loaded::<RawFile>(toml);
            loaded.and_then(|raw| raw.resolve(&Renderer::new(json!({})))).unwrap_err();
        }
    }
}
