//! Searches every file of a tree for a few texts, in bounded memory, without following symbolic links.

use std::ffi::{CStr, OsStr};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use memchr::memmem::Finder;
use nix::dir::Type;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;

use crate::host::Host;
use crate::host::fs::mounts::Mounts;
use crate::host::image::clear::entries;

/// The number of bytes read at once.
const PART: usize = 1 << 20;

/// Which neighboring bytes make a match part of another text: `10.0.0.5` does not match in `110.0.0.50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounds {
    /// None.
    Any,
    /// A digit after the text.
    NoDigitAfter,
    /// A digit or dot before the text; a digit, or a dot followed by a digit, after it.
    Address,
}

/// A text to search for.
#[derive(Debug, Clone)]
pub struct SearchText {
    finder: Finder<'static>,
    bounds: Bounds,
}

impl SearchText {
    /// A search for `text`, which must not be empty.
    pub fn new(text: &str, bounds: Bounds) -> SearchText {
        SearchText { finder: Finder::new(text.as_bytes()).into_owned(), bounds }
    }

    fn len(&self) -> usize {
        self.finder.needle().len()
    }

    /// Whether `bytes` contain the text. `last` means that no more bytes follow.
    fn matches(&self, bytes: &[u8], last: bool) -> bool {
        self.finder.find_iter(bytes).any(|at| {
            let before = at.checked_sub(1).and_then(|n| bytes.get(n));
            let mut after = bytes.get(at + self.len()..).unwrap_or_default().iter();
            // The next bytes are not known yet; the next part begins with this match.
            if after.len() < 2 && !last {
                return false;
            }
            let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
            let (next, second) = (after.next(), after.next());
            match self.bounds {
                Bounds::Any => true,
                Bounds::NoDigitAfter => !digit(next),
                Bounds::Address => {
                    let starts = !digit(before) && before != Some(&b'.');
                    starts && !digit(next) && !(next == Some(&b'.') && digit(second))
                }
            }
        })
    }
}

/// An event of a search.
#[derive(Debug)]
pub enum Found<'a> {
    /// The name at this path, or the link's target, contains the text with this number.
    InName(&'a str, usize),
    /// The contents contain it.
    InContents(&'a str, usize),
    /// The path could not be searched.
    Unreadable(&'a str, std::io::Error),
    /// The number of files and bytes searched so far.
    Progress(u64, u64),
}

impl Host {
    /// Searches names and contents below the root for `texts`. Skips paths for which `passes_over` is true,
    /// and paths that are not part of an image.
    pub fn search(
        &self,
        texts: &[SearchText],
        mounts: &Mounts,
        passes_over: &dyn Fn(&str) -> bool,
        report: &mut dyn FnMut(Found),
    ) {
        let mut buffer = vec![0; PART + texts.iter().map(SearchText::len).max().unwrap_or(0) + 2];
        let (mut files, mut bytes) = (0, 0);
        let mut directories = vec![(String::new(), PathBuf::new())];
        while let Some((at, way)) = directories.pop() {
            let listing = self.open_without_links(&way).and_then(|open| Ok((entries(open.try_clone()?)?, open)));
            let (entries, directory) = match listing {
                Ok(listing) => listing,
                Err(error) => {
                    report(Found::Unreadable(if at.is_empty() { "/" } else { &at }, error));
                    continue;
                }
            };
            for (file, kind) in entries {
                let path = format!("{at}/{}", file.to_string_lossy());
                if mounts.elsewhere(&path).is_some() || passes_over(&path) {
                    continue;
                }
                search_name(texts, &path, file.to_bytes(), report);
                match kind {
                    Some(Type::Directory) => directories.push((path, way.join(OsStr::from_bytes(file.to_bytes())))),
                    Some(Type::Symlink) => {
                        if let Ok(target) = readlinkat(&directory, file.as_c_str()) {
                            search_name(texts, &path, target.as_bytes(), report);
                        }
                    }
                    Some(Type::File) => {
                        match search_contents(texts, &directory, &file, &mut buffer, &mut |read| {
                            bytes += read;
                            report(Found::Progress(files, bytes));
                        }) {
                            Ok(numbers) => numbers.into_iter().for_each(|n| report(Found::InContents(&path, n))),
                            // It disappeared in the meantime, so it is not in the image.
                            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                            Err(error) => report(Found::Unreadable(&path, error)),
                        }
                        files += 1;
                    }
                    _ => {}
                }
            }
        }
        report(Found::Progress(files, bytes));
    }
}

fn search_name(texts: &[SearchText], path: &str, bytes: &[u8], report: &mut dyn FnMut(Found)) {
    if let Some(n) = texts.iter().position(|text| text.matches(bytes, true)) {
        report(Found::InName(path, n));
    }
}

/// The numbers of the texts found in a file.
fn search_contents(
    texts: &[SearchText],
    directory: &OwnedFd,
    name: &CStr,
    buffer: &mut [u8],
    read: &mut dyn FnMut(u64),
) -> std::io::Result<Vec<usize>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut file = std::fs::File::from(openat(directory, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Ok(Vec::new());
    }
    let mut numbers = Vec::new();
    let keep = texts.iter().map(SearchText::len).max().unwrap_or(0) + 2;
    let mut kept = 0;
    loop {
        let mut filled = kept;
        let mut last = false;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match file.read(room) {
                Ok(0) => {
                    last = true;
                    break;
                }
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        read((filled - kept) as u64);
        let part = buffer.get(..filled).unwrap_or_default();
        for (n, text) in texts.iter().enumerate() {
            if !numbers.contains(&n) && text.matches(part, last) {
                numbers.push(n);
            }
        }
        if last {
            return Ok(numbers);
        }
        let start = filled.saturating_sub(keep);
        buffer.copy_within(start..filled, 0);
        kept = filled - start;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn found(host: &Host, texts: &[SearchText]) -> Vec<String> {
        let mut all = Vec::new();
        host.search(texts, &Mounts::default(), &|path| path == "/skipped", &mut |found| match found {
            Found::InName(path, n) => all.push(format!("name {path} {n}")),
            Found::InContents(path, n) => all.push(format!("contents {path} {n}")),
            Found::Unreadable(path, error) => all.push(format!("unreadable {path} {error}")),
            Found::Progress(..) => {}
        });
        all.sort();
        all
    }

    #[test]
    fn names_contents_and_targets_are_searched_and_links_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("a/i-0abc.d")).unwrap();
        fs::create_dir_all(root.join("skipped")).unwrap();
        for (path, text) in [("a/x", "id=i-0abc\n"), ("a/y", "ami-0ab"), ("skipped/z", "i-0abc"), ("a/i-0abc.d/e", "")]
        {
            fs::write(root.join(path), text).unwrap();
        }
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("o"), "i-0abc").unwrap();
        symlink(outside.path(), root.join("out")).unwrap();
        symlink("i-0abc", root.join("link")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let host = Host::tree(root, Default::default()).unwrap();
        let texts = [SearchText::new("nowhere", Bounds::Any), SearchText::new("i-0abc", Bounds::Any)];
        assert_eq!(found(&host, &texts), ["contents /a/x 1", "name /a/i-0abc.d 1", "name /link 1"]);
    }

    #[test]
    fn a_text_across_two_parts_of_a_large_file_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::tree(directory.path(), Default::default()).unwrap();
        let text = SearchText::new("10.1.2.3", Bounds::Address);
        for at in [0, PART - 9, PART - 8, PART - 4, PART, PART + 7, PART + 10, 2 * PART - 1, 3 * PART - 8] {
            let mut bytes = vec![b' '; 3 * PART];
            bytes.splice(at..at + 8, *b"10.1.2.3");
            fs::write(directory.path().join("large"), &bytes).unwrap();
            assert_eq!(found(&host, std::slice::from_ref(&text)), ["contents /large 0"], "at {at}");
            if let Some(after) = bytes.get_mut(at + 8) {
                *after = b'4';
                fs::write(directory.path().join("large"), &bytes).unwrap();
                assert!(found(&host, std::slice::from_ref(&text)).is_empty(), "at {at}");
            }
        }
    }

    #[test]
    fn an_address_is_not_found_in_another() {
        let matches = |bounds, bytes: &str| SearchText::new("10.0.0.5", bounds).matches(bytes.as_bytes(), true);
        for other in ["110.0.0.5", "10.0.0.50", "1.10.0.0.5", "10.0.0.5.1", "10.0.0."] {
            assert!(!matches(Bounds::Address, other), "{other}");
        }
        for same in ["10.0.0.5", "at 10.0.0.5.", "10.0.0.5:2181", "10.0.0.51 10.0.0.5", "http://10.0.0.5/"] {
            assert!(matches(Bounds::Address, same), "{same}");
        }
        let name = SearchText::new("ip-10-0-0-5", Bounds::NoDigitAfter);
        assert!(name.matches(b"ip-10-0-0-5.ec2.internal", true) && !name.matches(b"ip-10-0-0-55", true));
    }
}
