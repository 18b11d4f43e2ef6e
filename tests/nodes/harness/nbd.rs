//! A disk with a cache that a power cut empties: a server of the NBD protocol for the emulator. It records each write
//! and each flush of a boot, so that the disk can be made as a power cut at any of its moments would leave it.
//!
//! The protocol is <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>; here is what QEMU uses of it:
//! one connection, no structured replies, and of the commands read, write, flush and disconnect.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Error, Read, Result, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::disk::Disk;

const GREETING: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Fixed newstyle negotiation; no padding.
const SERVER_FLAGS: u16 = 1 | 2;
/// The flags count, flushes are known, and so is FUA, a write that is flushed by itself.
const EXPORT_FLAGS: u16 = 1 | 4 | 8;
const FUA: u16 = 1;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const GO: u32 = 7;
const ACKNOWLEDGED: u32 = 1;
const INFORMATION: u32 = 3;
const UNSUPPORTED: u32 = (1 << 31) + 1;
/// The kind of information that is size and flags.
const EXPORT: u16 = 0;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const INVALID: u32 = 22;

/// What a power cut takes of the writes that were not flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// None: the disk has no cache.
    Nothing,
    /// All.
    All,
    /// Some: the disk writes in a random order, in pieces of this many bytes.
    Some(u64),
}

/// The requests to a disk since its power came on.
pub struct Recording {
    entries: Mutex<Vec<Entry>>,
    /// The contents of the writes, one after the other.
    contents: File,
    /// The disk as it was before.
    base: PathBuf,
    _directory: tempfile::TempDir,
    /// Elsewhere, for the path of a socket must be short.
    socket: tempfile::TempDir,
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    /// `place`: of its contents.
    Write {
        offset: u64,
        length: u64,
        place: u64,
        flushed: bool,
    },
    Flush,
}

/// A disk as a power cut leaves it.
#[derive(Clone)]
pub struct Cut {
    recording: Arc<Recording>,
    /// How many entries came before it.
    entries: usize,
    /// What it takes.
    pub loss: Loss,
    /// Which of the writes that were not flushed are lost.
    pub seed: usize,
}

impl Recording {
    /// Serves the image at `disk` at [`Recording::socket`], to one emulator, and records what it does. `directory`: for
    /// the record; on the file system of the image, which it copies.
    pub fn start(disk: &Path, directory: tempfile::TempDir) -> Arc<Recording> {
        let base = Disk::copy(disk, &directory.path().join("base")).path;
        let contents = directory.path().join("contents");
        let contents = File::options().read(true).write(true).create_new(true).open(contents).unwrap();
        let socket = tempfile::tempdir().unwrap();
        let recording =
            Arc::new(Recording { entries: Mutex::default(), contents, base, _directory: directory, socket });
        let listener = UnixListener::bind(recording.socket()).unwrap();
        let image = File::options().read(true).write(true).open(disk).unwrap();
        let served = recording.clone();
        // It ends with the emulator, which notices when it fails.
        std::thread::spawn(move || {
            let (stream, _) = listener.accept()?;
            served.serve(stream, &image)
        });
        recording
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.socket.path().join("nbd")
    }

    /// How much has been recorded.
    pub fn len(&self) -> usize {
        self.entries.lock().unwrap().len()
    }

    fn serve(&self, mut stream: UnixStream, image: &File) -> Result<()> {
        let size = image.metadata()?.len();
        if negotiate(&mut stream, size)? {
            while self.answer(&mut stream, image)? {}
        }
        Ok(())
    }

    /// Whether more will come.
    fn answer(&self, stream: &mut UnixStream, image: &File) -> Result<bool> {
        if number::<4>(stream)? != u64::from(REQUEST) {
            return Err(Error::other("not a request"));
        }
        let [flags, command] = [number::<2>(stream)? as u16, number::<2>(stream)? as u16];
        let [cookie, offset, length] = [number::<8>(stream)?, number::<8>(stream)?, number::<4>(stream)?];
        let mut data = Vec::new();
        let mut error = 0;
        match command {
            READ => {
                data.resize(length as usize, 0);
                image.read_exact_at(&mut data, offset)?;
            }
            WRITE => {
                let mut contents = vec![0; length as usize];
                stream.read_exact(&mut contents)?;
                image.write_all_at(&contents, offset)?;
                self.record(offset, &contents, flags & FUA != 0)?;
            }
            FLUSH => self.entries.lock().unwrap().push(Entry::Flush),
            DISCONNECT => return Ok(false),
            _ => error = INVALID,
        }
        let header = [&REPLY.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat();
        stream.write_all(&header)?;
        stream.write_all(&data)?;
        Ok(true)
    }

    fn record(&self, offset: u64, contents: &[u8], flushed: bool) -> Result<()> {
        let place = self.contents.metadata()?.len();
        self.contents.write_all_at(contents, place)?;
        let entry = Entry::Write { offset, length: contents.len() as u64, place, flushed };
        self.entries.lock().unwrap().push(entry);
        Ok(())
    }
}

/// Whether a client wants the disk.
fn negotiate(stream: &mut UnixStream, size: u64) -> Result<bool> {
    stream.write_all(&[&GREETING.to_be_bytes()[..], &OPTION.to_be_bytes(), &SERVER_FLAGS.to_be_bytes()].concat())?;
    number::<4>(stream)?;
    loop {
        if number::<8>(stream)? != OPTION {
            return Err(Error::other("not an option"));
        }
        let [option, length] = [number::<4>(stream)? as u32, number::<4>(stream)? as u32];
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let export = [&size.to_be_bytes()[..], &EXPORT_FLAGS.to_be_bytes()].concat();
        let mut reply = |kind: u32, data: &[u8]| {
            let header = [OPTION_REPLY.to_be_bytes().as_slice(), &option.to_be_bytes(), &kind.to_be_bytes()].concat();
            stream.write_all(&[&header[..], &(data.len() as u32).to_be_bytes(), data].concat())
        };
        match option {
            GO => {
                reply(INFORMATION, &[&EXPORT.to_be_bytes()[..], &export].concat())?;
                reply(ACKNOWLEDGED, &[])?;
                return Ok(true);
            }
            EXPORT_NAME => return stream.write_all(&export).map(|()| true),
            ABORT => return Ok(false),
            _ => reply(UNSUPPORTED, &[])?,
        }
    }
}

/// The next number of `N` bytes.
fn number<const N: usize>(stream: &mut UnixStream) -> Result<u64> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

impl Cut {
    /// A power cut after so many entries of a recording.
    pub fn new(recording: &Arc<Recording>, entries: usize, loss: Loss, seed: usize) -> Cut {
        Cut { recording: recording.clone(), entries, loss, seed }
    }

    /// Makes the disk at `path`.
    pub fn write(&self, path: &Path) -> Disk {
        let disk = Disk::copy(&self.recording.base, path);
        let image = File::options().write(true).open(path).unwrap();
        let entries = self.recording.entries.lock().unwrap()[..self.entries].to_vec();
        let last_flush = entries.iter().rposition(|entry| matches!(entry, Entry::Flush)).unwrap_or(0);
        for (n, entry) in entries.into_iter().enumerate() {
            let Entry::Write { offset, length, place, flushed } = entry else { continue };
            let is_safe = flushed || n < last_flush;
            let mut contents = vec![0; length as usize];
            self.recording.contents.read_exact_at(&mut contents, place).unwrap();
            match self.loss {
                Loss::All if !is_safe => {}
                // A piece begins where one of the disk's own does.
                Loss::Some(size) if !is_safe => {
                    for piece in offset / size..(offset + length).div_ceil(size) {
                        let (from, to) = ((piece * size).max(offset), ((piece + 1) * size).min(offset + length));
                        if self.keeps(n, fate(piece * size)) {
                            let part = &contents[(from - offset) as usize..(to - offset) as usize];
                            image.write_all_at(part, from).unwrap();
                        }
                    }
                }
                _ => image.write_all_at(&contents, offset).unwrap(),
            }
        }
        disk
    }

    /// How many bytes were not flushed.
    pub fn at_risk(&self) -> u64 {
        let entries = &self.recording.entries.lock().unwrap()[..self.entries];
        let since_flush = entries.iter().rev().take_while(|entry| !matches!(entry, Entry::Flush));
        since_flush.map(|entry| if let Entry::Write { length, flushed: false, .. } = entry { *length } else { 0 }).sum()
    }

    fn keeps(&self, entry: usize, place: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.seed, entry, place).hash(&mut hasher);
        hasher.finish() & 1 == 0
    }
}

/// The place whose fate the piece at `offset` shares: its own, but for the superblock of ext4, which is whole or lost. Its 1 KiB
/// has one checksum, and whatever runs on a disk that tears it, e2fsck needs a person then. EBS writes larger blocks whole.
fn fate(offset: u64) -> u64 {
    if SUPERBLOCK.contains(&offset) { SUPERBLOCK.start } else { offset }
}

/// Where ext4 has its superblock.
const SUPERBLOCK: std::ops::Range<u64> = 1024..2048;

/// A client that writes, flushes, and writes more than a cut keeps.
#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let length = 64 << 10;
    std::fs::write(at("disk"), vec![b'-'; length]).unwrap();
    let recording = Recording::start(&at("disk"), tempfile::tempdir_in(directory.path()).unwrap());
    let mut client = UnixStream::connect(recording.socket()).unwrap();
    client.read_exact(&mut [0; 18]).unwrap();
    client
        .write_all(&[&3_u32.to_be_bytes()[..], &OPTION.to_be_bytes(), &EXPORT_NAME.to_be_bytes(), &[0; 4]].concat())
        .unwrap();
    let mut export = [0; 10];
    client.read_exact(&mut export).unwrap();
    assert_eq!(export[..8], (length as u64).to_be_bytes());
    let mut ask = |command: u16, flags: u16, offset: u64, length: usize, data: &[u8]| -> Vec<u8> {
        let head = [&REQUEST.to_be_bytes()[..], &flags.to_be_bytes(), &command.to_be_bytes(), &7_u64.to_be_bytes()];
        let tail = [&offset.to_be_bytes()[..], &(length as u32).to_be_bytes(), data];
        client.write_all(&[head.concat(), tail.concat()].concat()).unwrap();
        let mut reply = vec![0; 16 + if command == READ { length } else { 0 }];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [&REPLY.to_be_bytes()[..], &[0; 4]].concat());
        reply.split_off(16)
    };
    ask(WRITE, 0, 0, 8192, &[b'a'; 8192]);
    ask(FLUSH, 0, 0, 0, &[]);
    ask(WRITE, 0, 4096, 32768, &[b'b'; 32768]);
    ask(WRITE, FUA, 8192, 512, &[b'c'; 512]);
    let expected =
        |parts: &[(u8, usize)]| -> Vec<u8> { parts.iter().flat_map(|(byte, length)| vec![*byte; *length]).collect() };
    let all = expected(&[(b'a', 4096), (b'b', 4096), (b'c', 512), (b'b', 28160), (b'-', 28672)]);
    assert_eq!(ask(READ, 0, 0, length, &[]), all);
    let left = |entries: usize, loss: Loss| {
        std::fs::read(Cut::new(&recording, entries, loss, 1).write(&at("left")).path).unwrap()
    };
    assert_eq!(left(4, Loss::Nothing), all);
    assert_eq!(left(4, Loss::All), expected(&[(b'a', 8192), (b'c', 512), (b'-', 56832)]));
    assert_eq!(left(1, Loss::All), expected(&[(b'-', length)]));
    for size in [512, 4096] {
        let some = left(4, Loss::Some(size));
        let pieces: Vec<&[u8]> = some[4096..36864].chunks(size as usize).collect();
        let kept = pieces.iter().filter(|piece| piece[1..].iter().all(|byte| *byte == b'b')).count();
        assert!(kept > 0 && kept < pieces.len(), "{kept} of {}", pieces.len());
        assert_eq!(some[8192..8704], [b'c'; 512]);
        assert_eq!((&some[..4096], &some[36864..]), (&all[..4096], &all[36864..]));
    }
    assert_eq!(Cut::new(&recording, 4, Loss::All, 1).at_risk(), 32768);

    // Both pieces of a superblock share one fate, whichever that is.
    ask(WRITE, 0, 0, 4096, &[b'd'; 4096]);
    let mut fates = BTreeSet::new();
    for seed in 0..64 {
        let disk = std::fs::read(Cut::new(&recording, 5, Loss::Some(512), seed).write(&at("left")).path).unwrap();
        let kept: Vec<bool> = disk[..4096].chunks(512).map(|piece| piece == [b'd'; 512]).collect();
        assert_eq!(kept[2], kept[3], "{kept:?}");
        fates.insert((kept[2], kept[0] == kept[1]));
    }
    assert_eq!(fates.len(), 4, "{fates:?}");
}
