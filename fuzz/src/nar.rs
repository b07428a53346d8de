//! NARs to disk: what is unpacked is what the archive says, to the byte, and nothing is anywhere else.
//!
//! The first byte says how the archive is given (see the constants); the rest is the archive, or is
//! written out to one, see [`written_out`].

use crate::references::{by_hand, moves, text};
use closure::unpack::{Expected, UnpackError, Unpacker};
use nix_archive::nar::{self, CaseHack, Entry};
use nix_derivation::NixHash;
use nix_derivation::hash::hash_bytes;
use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;
use store_references::packing::Packing;
use tempfile::TempDir;

/// The archive's bytes are given as they are.
const RAW: u8 = 1;
/// Its narinfo promises another size: one byte less, or with [`LIE`] one more.
const OTHER_SIZE: u8 = 2;
/// Its narinfo promises another hash.
const LIE: u8 = 4;
/// It is read with pieces of files as small as can be.
const SMALL: u8 = 8;
/// It comes in pieces of seven bytes.
const TRICKLE: u8 = 16;
/// References are looked for; the two highest bits say where they move.
const LOOK: u8 = 32;

/// A hash that no archive here has.
const NO_HASH: NixHash = NixHash::Sha256([0; 32]);

/// What must not be touched.
const BESIDE: &str = "untouched";

struct Place {
    directory: TempDir,
    unpacker: Unpacker,
    small: Unpacker,
}

thread_local! {
    static PLACE: RefCell<Place> = RefCell::new(Place::new());
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        fs::create_dir(directory.path().join("store")).expect("it is new");
        fs::write(directory.path().join("beside"), BESIDE).expect("it is new");
        Self {
            directory,
            unpacker: Unpacker::default(),
            small: Unpacker::with_buffers(50, 48),
        }
    }
}

pub fn run(data: &[u8]) {
    let Some((&flags, rest)) = data.split_first() else {
        return;
    };
    let nar = if flags & RAW == 0 {
        written_out(rest)
    } else {
        rest.to_vec()
    };
    PLACE.with_borrow_mut(|place| {
        let destination = place.directory.path().join("store/x");
        unpack(place, &nar, flags, &destination);
        clear(place.directory.path(), &destination);
    });
}

fn unpack(place: &mut Place, nar: &[u8], flags: u8, destination: &Path) {
    let real = hash_bytes(NO_HASH.algorithm(), nar);
    let size = nar.len() as u64;
    let promised = if flags & OTHER_SIZE == 0 {
        size
    } else if flags & LIE == 0 {
        size.saturating_sub(1)
    } else {
        size + 1
    };
    let lies = flags & LIE != 0 || promised != size;
    let expected = Expected {
        hash: if flags & LIE == 0 { &real } else { &NO_HASH },
        size: promised,
        content: None,
    };
    let moves = (flags & LOOK != 0).then(|| moves(flags >> 6));
    let references = moves.map(|moves| &moves.references);
    let unpacker = if flags & SMALL == 0 {
        &mut place.unpacker
    } else {
        &mut place.small
    };
    let mut whole = nar;
    let mut trickle = Trickle(nar);
    let reader: &mut dyn Read = if flags & TRICKLE == 0 {
        &mut whole
    } else {
        &mut trickle
    };
    let result = unpacker.unpack(reader, &expected, destination, references);
    match result {
        Ok(_) => {
            assert!(!lies);
            let entries = nar::decode(nar).expect("it was unpacked");
            let moves_to = moves.and_then(|moves| moves.directory);
            for entry in &entries {
                as_written(entry, destination, moves_to);
            }
            if moves_to.is_none() {
                let mut again = Vec::new();
                nar::encode_path(&mut again, destination, CaseHack::Disabled)
                    .expect("it can be read");
                assert_eq!(
                    again.escape_ascii().to_string(),
                    nar.escape_ascii().to_string()
                );
            }
        }
        // A path can be too long as a whole.
        Err(UnpackError::Write(path, error)) => {
            assert!(path.starts_with(destination), "{}", path.display());
            assert_ne!(error.kind(), ErrorKind::AlreadyExists, "{}", path.display());
        }
        Err(UnpackError::Read(error)) => panic!("memory can be read: {error}"),
        Err(error) => assert!(
            lies || nar::decode(nar).is_err() || is_beyond_limits(nar),
            "{error:?}"
        ),
    }
}

/// Reading from a stream is stricter than from memory, and Linux has limits for names and targets.
fn is_beyond_limits(nar: &[u8]) -> bool {
    let mut rest = nar;
    let refused = nar::decode_events_reader(&mut rest, |_| Ok(())).is_err();
    refused
        || nar::decode(nar).is_ok_and(|entries| {
            entries.iter().any(|entry| {
                let is_long = entry.path().iter().any(|name| name.len() > 255);
                let leads_nowhere =
                    |target: &[u8]| !(1..=4095).contains(&target.len()) || target.contains(&0);
                is_long || matches!(entry, Entry::Symlink { target, .. } if leads_nowhere(target))
            })
        })
}

/// What is on disk is what the archive says, but for references that move.
fn as_written(entry: &Entry, destination: &Path, moves_to: Option<&Path>) {
    let place = match entry.path() {
        path if path.as_os_str().is_empty() => destination.to_path_buf(),
        path => destination.join(path),
    };
    match entry {
        Entry::Regular { contents, .. } => {
            let expected = if Packing::of_beginning(contents).is_some() {
                contents.to_vec()
            } else {
                by_hand(contents, moves_to).0
            };
            let written = fs::read(&place).expect("it was unpacked");
            assert_eq!(
                written.escape_ascii().to_string(),
                expected.escape_ascii().to_string()
            );
        }
        Entry::Symlink { target, .. } => {
            let written = fs::read_link(&place).expect("it was unpacked");
            assert_eq!(
                written.as_os_str().as_encoded_bytes(),
                by_hand(target, moves_to).0
            );
        }
        Entry::Directory { .. } => {
            let kind = fs::symlink_metadata(&place).expect("it was unpacked");
            assert!(kind.is_dir());
        }
    }
}

/// Checks that all that was made is below `destination`, and takes it away.
fn clear(directory: &Path, destination: &Path) {
    let Ok(made) = destination.symlink_metadata() else {
        return;
    };
    let removed = if made.is_dir() {
        fs::remove_dir_all(destination)
    } else {
        fs::remove_file(destination)
    };
    removed.expect("what was unpacked can be removed");
    assert!(is_empty(&directory.join("store")));
    let beside = fs::read(directory.join("beside")).expect("it is still there");
    assert_eq!(beside, BESIDE.as_bytes());
    let names = fs::read_dir(directory).expect("it is still there").count();
    assert_eq!(names, 2);
}

fn is_empty(directory: &Path) -> bool {
    let mut entries = fs::read_dir(directory).expect("it is still there");
    entries.next().is_none()
}

/// Gives at most seven bytes at once.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = into.len().min(7);
        self.0.read(&mut into[..count])
    }
}

/// An archive in short: a letter for each of its words (see the code), `"…"` for any other, in which
/// [`text`] has its short ones, `#` and a byte for a name of that many times four letters, `!` before a
/// word for padding that is not zero, `?` for a length that says more than there is. All else counts
/// for nothing.
#[must_use]
pub fn written_out(short: &[u8]) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut padding = 0;
    let mut more = 0;
    let mut bytes = short.iter().copied();
    while let Some(byte) = bytes.next() {
        let word: Vec<u8> = match byte {
            b'M' => b"nix-archive-1".to_vec(),
            b'(' => b"(".to_vec(),
            b')' => b")".to_vec(),
            b'T' => b"type".to_vec(),
            b'R' => b"regular".to_vec(),
            b'D' => b"directory".to_vec(),
            b'L' => b"symlink".to_vec(),
            b'C' => b"contents".to_vec(),
            b'X' => b"executable".to_vec(),
            b'E' => b"entry".to_vec(),
            b'N' => b"name".to_vec(),
            b'O' => b"node".to_vec(),
            b'G' => b"target".to_vec(),
            b'"' => {
                let inside: Vec<u8> = bytes.by_ref().take_while(|byte| *byte != b'"').collect();
                text(&inside)
            }
            b'#' => vec![b'n'; 4 * usize::from(bytes.next().unwrap_or_default())],
            b'!' => {
                padding = 1;
                continue;
            }
            b'?' => {
                more = u64::from(bytes.next().unwrap_or_default()) << 48;
                continue;
            }
            _ => continue,
        };
        nar.extend((word.len() as u64 + more).to_le_bytes());
        nar.extend(&word);
        nar.resize(nar.len().next_multiple_of(8), padding);
        padding = 0;
        more = 0;
    }
    nar
}
