//! References while they stream by: found and rewritten in pieces of any size just as in the whole, by
//! a way that is too slow to be used and too simple to be wrong.
//!
//! The first byte says where the closure moves, the second how many follow that are the pieces' sizes;
//! the rest is text, see [`text`].

use closure::relocate::references::{HashPart, OVERLAP, ReferenceScanner, ScanHits};
use closure::relocate::relocation::{REFERENCE_LENGTH, Relocation};
use nix_derivation::StorePath;
use std::path::Path;
use std::sync::LazyLock;

const STORE: &[u8] = b"/nix/store/";
/// The digits of Nix's base 32.
const DIGITS: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
const HASH_LENGTH: usize = 32;

const ONE: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";
const TWO: &str = "0jn93wz4pk00k76grv8ing8js0yz8cpd";
/// The hash part of no path of the closure.
const OTHER: &str = "rh74isw8gd1rbvfnh1ignmch29d6q91y";

/// Where the closure moves: nowhere, or to names of different lengths.
const DIRECTORIES: [Option<&str>; 4] = [
    None,
    Some("/layers/nix_hydra/closure"),
    Some("/n"),
    Some("/workspace"),
];

/// A closure that moves somewhere, or nowhere.
pub struct Move {
    pub directory: Option<&'static Path>,
    /// What looks for the closure's references.
    pub references: ReferenceScanner,
}

/// Made once: making them takes longer than looking at a short text.
static MOVES: LazyLock<[Move; 4]> = LazyLock::new(|| {
    let paths: [StorePath; 2] = [ONE, TWO].map(|hash| {
        format!("/nix/store/{hash}-x")
            .parse()
            .expect("it is a path")
    });
    DIRECTORIES.map(|directory| {
        let directory = directory.map(Path::new);
        let to = directory.map(|directory| Relocation::new(directory).expect("it is short"));
        Move {
            directory,
            references: ReferenceScanner::new(&paths, to),
        }
    })
});

/// Where a byte says that the closure moves.
#[must_use]
pub fn moves(byte: u8) -> &'static Move {
    &MOVES[usize::from(byte) % MOVES.len()]
}

/// Any bytes, with short ones for what is long: a store directory, hashes, runs of digits and of other
/// characters (with their length in the next byte), and text in UTF-16 and UTF-32.
#[must_use]
pub fn text(data: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    let mut bytes = data.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            0xf0 => text.extend(STORE),
            0xf1 => text.extend(ONE.as_bytes()),
            0xf2 => text.extend(TWO.as_bytes()),
            0xf3 => text.extend(OTHER.as_bytes()),
            0xf4 | 0xf5 => {
                let filler = if byte == 0xf4 { b'0' } else { b'e' };
                let length = bytes.next().unwrap_or_default();
                text.resize(text.len() + usize::from(length), filler);
            }
            0xf6 => text.extend(wide(2)),
            0xf7 => text.extend(wide(4)),
            0xf8 => text.extend(&ONE.as_bytes()[..20]),
            plain => text.push(plain),
        }
    }
    text
}

/// A reference in characters of `width` bytes, the low byte first.
fn wide(width: usize) -> Vec<u8> {
    let characters = STORE.iter().chain(ONE.as_bytes());
    characters
        .flat_map(|&character| {
            let mut wide = vec![0; width];
            wide[0] = character;
            wide
        })
        .collect()
}

/// What is found in `text` where it is looked at as a whole, and what it becomes.
#[must_use]
pub fn by_hand(text: &[u8], directory: Option<&Path>) -> (Vec<u8>, ScanHits) {
    let known = |hash: &[u8]| {
        // Most differ in their first byte, and nothing is quicker to see.
        let mut hashes = [ONE, TWO].into_iter();
        hashes.find(|one| one.as_bytes()[0] == hash[0] && one.as_bytes() == hash)
    };
    let mut written = text.to_vec();
    let mut hits = ScanHits::default();
    let mut at = 0;
    while at < text.len() {
        let Some(hash) = text.get(at..at + HASH_LENGTH).and_then(known) else {
            at += 1;
            continue;
        };
        let hash: HashPart = hash.as_bytes().try_into().expect("it is a hash part");
        hits.hashes.insert(hash);
        if text[..at].ends_with(STORE) {
            hits.references += 1;
            if let Some(directory) = directory {
                let start = at - STORE.len();
                let moved = moved(&hash, directory);
                written[start..start + REFERENCE_LENGTH].copy_from_slice(&moved);
            }
        } else {
            hits.bare = true;
        }
        at += HASH_LENGTH;
    }
    if directory.is_some() {
        let digits = |hash: &HashPart| hash.iter().all(|digit| DIGITS.contains(digit));
        let starts = (STORE.len()..text.len()).filter(|at| text[..*at].ends_with(STORE));
        let hashes = starts.filter_map(|at| text[at..].first_chunk::<HASH_LENGTH>().copied());
        hits.foreign = hashes
            .filter(|hash| digits(hash) && known(hash).is_none())
            .collect();
    }
    let is_wide = |start: usize, width: usize| {
        let is_zero =
            |place: usize| place.is_multiple_of(width) || text.get(start + place) == Some(&0);
        let characters = text.iter().skip(start).step_by(width).take(HASH_LENGTH);
        (0..HASH_LENGTH * width - width).all(is_zero)
            && known(&characters.copied().collect::<Vec<_>>()).is_some()
    };
    hits.wide = (0..text.len()).any(|start| is_wide(start, 2) || is_wide(start, 4));
    (written, hits)
}

/// What a reference becomes: as long as it was, with as much of the hash as there is room for.
fn moved(hash: &HashPart, directory: &Path) -> Vec<u8> {
    let mut moved = directory.to_str().expect("it is text").as_bytes().to_vec();
    moved.push(b'/');
    let slashes = STORE.len().saturating_sub(moved.len());
    moved.extend(vec![b'/'; slashes]);
    moved.extend(hash);
    moved.truncate(REFERENCE_LENGTH);
    moved
}

pub fn run(data: &[u8]) {
    let [to, count, rest @ ..] = data else {
        return;
    };
    let Move {
        directory,
        references,
    } = moves(*to);
    let (sizes, rest) = rest.split_at(rest.len().min(usize::from(count % 8)));
    let text = text(rest);
    let expected = by_hand(&text, *directory);
    assert_eq!(
        in_pieces(references, &text, sizes),
        expected,
        "{}",
        text.escape_ascii()
    );
    if let Some(directory) = directory {
        all_by_hand(&text, directory);
    }
}

/// Looks through `text` as a file is looked through, in pieces that have these sizes in turn.
fn in_pieces(references: &ReferenceScanner, text: &[u8], sizes: &[u8]) -> (Vec<u8>, ScanHits) {
    let mut sizes = sizes.iter().map(|size| 1 + 3 * usize::from(*size)).cycle();
    let mut hits = ScanHits::default();
    let mut written = Vec::new();
    let mut held = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(rest.len()).min(rest.len());
        let fresh = held.len();
        held.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        references.rewrite(&mut held, fresh, &mut hits);
        let done = held.len().saturating_sub(OVERLAP);
        written.extend(held.drain(..done));
    }
    written.extend(held);
    (written, hits)
}

/// Nix's own archive is moved whatever store paths it names.
fn all_by_hand(text: &[u8], directory: &Path) {
    let digits = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut expected = text.to_vec();
    let mut count = 0;
    for start in 0..text.len() {
        let Some(reference) = text.get(start..start + REFERENCE_LENGTH) else {
            break;
        };
        let Some(hash) = reference.strip_prefix(STORE) else {
            continue;
        };
        if hash.iter().all(|byte| digits.contains(byte)) {
            let hash: HashPart = hash.try_into().expect("it is as long as a hash part");
            expected[start..start + REFERENCE_LENGTH].copy_from_slice(&moved(&hash, directory));
            count += 1;
        }
    }
    let relocation = Relocation::new(directory).expect("it is short");
    let mut bytes = text.to_vec();
    let found = relocation.rewrite(&mut bytes);
    assert_eq!((found, bytes), (count, expected), "{}", text.escape_ascii());
}
