//! Finds where the files of a closure name its store paths, while their bytes stream by, and
//! rewrites them where the closure moves.
//!
//! Nix finds a store path's references by its hash part in plain bytes, so whatever Nix found is
//! found here. What cannot be rewritten is noted: a hash with no `/nix/store/` before it, and text
//! in characters of two or four bytes.

use super::relocate::{HASH_LENGTH, REFERENCE_LENGTH, Relocation, STORE_PREFIX, is_nix32};
use memchr::memmem::Finder;
use nix_derivation::StorePath;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// The hash part of a store path.
pub type HashPart = [u8; HASH_LENGTH];

/// `nix/store` in UTF-16, from the first byte that is not zero to the last, and so in both orders.
const UTF16_STORE: &[u8; 17] = b"n\0i\0x\0/\0s\0t\0o\0r\0e";

/// The same in UTF-32.
const UTF32_STORE: &[u8; 33] = b"n\0\0\0i\0\0\0x\0\0\0/\0\0\0s\0\0\0t\0\0\0o\0\0\0r\0\0\0e";

/// Characters of `nix/store`.
const STORE_LENGTH: usize = 9;

/// Bytes at the end of a piece that must be seen again with the next one: a whole reference in
/// UTF-32 is 4 · 43.
pub const OVERLAP: usize = 256;

/// The store paths that are looked for, and where they move.
#[derive(Debug)]
pub struct References {
    paths: HashMap<HashPart, Option<Relocation>>,
    moves: bool,
    utf16: Finder<'static>,
    utf32: Finder<'static>,
}

/// What was found in a run of bytes: a file, a name, or what is packed in a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sight {
    /// References in full, `/nix/store/` and a hash part; these are rewritten.
    pub references: usize,
    /// Whether there is a hash part with no `/nix/store/` before it.
    pub bare: bool,
    /// Whether there is a reference in UTF-16 or UTF-32.
    pub wide: bool,
    /// The hash parts of both kinds.
    pub hashes: BTreeSet<HashPart>,
}

impl References {
    /// Looks for `paths`, and moves them all to one directory where a relocation is given.
    pub fn new<'a>(
        paths: impl IntoIterator<Item = &'a StorePath>,
        relocation: Option<&Relocation>,
    ) -> Self {
        let moves = relocation.is_some();
        let paths = paths.into_iter();
        Self::with(paths.map(|path| (path, relocation.cloned())), moves)
    }

    /// Looks for the paths, and moves each to a directory of its own.
    pub fn moving<'a>(paths: impl IntoIterator<Item = (&'a StorePath, Relocation)>) -> Self {
        let paths = paths.into_iter();
        Self::with(paths.map(|(path, to)| (path, Some(to))), true)
    }

    fn with<'a>(
        paths: impl Iterator<Item = (&'a StorePath, Option<Relocation>)>,
        moves: bool,
    ) -> Self {
        Self {
            paths: paths
                .filter_map(|(path, to)| Some((hash_part(path)?, to)))
                .collect(),
            moves,
            utf16: Finder::new(UTF16_STORE),
            utf32: Finder::new(UTF32_STORE),
        }
    }

    /// Whether what is found is rewritten.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.moves
    }

    /// Where a path moves to, if it does.
    #[must_use]
    pub fn place(&self, path: &StorePath) -> Option<PathBuf> {
        let relocation = self.paths.get(&hash_part(path)?)?.as_ref()?;
        Some(relocation.place(&path.to_basename()))
    }

    /// Looks through `bytes`, of which all from `fresh` on were not seen before, and rewrites the
    /// references that end there.
    ///
    /// What comes before `fresh` must be the end of what was seen before, [`OVERLAP`] bytes of it
    /// or all.
    pub fn rewrite(&self, bytes: &mut [u8], fresh: usize, sight: &mut Sight) {
        let found = self.look(bytes, fresh, sight);
        if !self.moves {
            return;
        }
        for start in found {
            let reference = &mut bytes[start..start + REFERENCE_LENGTH];
            let hash: Option<HashPart> = reference[STORE_PREFIX.len()..].try_into().ok();
            let to = hash.and_then(|hash| self.paths.get(&hash)?.as_ref());
            if let Some(relocation) = to {
                relocation.move_reference(reference);
            }
        }
    }

    /// The same, but rewrites nothing; answers where the references begin.
    pub fn look(&self, bytes: &[u8], fresh: usize, sight: &mut Sight) -> Vec<usize> {
        let mut found = Vec::new();
        let mut hashes = Hashes::after(fresh);
        while let Some(start) = hashes.next(bytes) {
            let Some(hash) = self.hash_at(bytes, start) else {
                continue;
            };
            hashes.skip();
            sight.hashes.insert(hash);
            match start.checked_sub(STORE_PREFIX.len()) {
                Some(reference) if bytes[reference..start] == *STORE_PREFIX => {
                    found.push(reference);
                }
                _ => sight.bare = true,
            }
        }
        sight.references += found.len();
        sight.wide |= self.has_wide(bytes, fresh);
        found
    }

    fn hash_at(&self, bytes: &[u8], start: usize) -> Option<HashPart> {
        let hash: HashPart = bytes.get(start..start + HASH_LENGTH)?.try_into().ok()?;
        self.paths.contains_key(&hash).then_some(hash)
    }

    fn has_wide(&self, bytes: &[u8], fresh: usize) -> bool {
        let seen = fresh.saturating_sub(OVERLAP);
        let bytes = &bytes[seen..];
        [(&self.utf16, 2), (&self.utf32, 4)]
            .into_iter()
            .any(|(finder, width)| {
                finder.find_iter(bytes).any(|start| {
                    let mut hash = [0; HASH_LENGTH];
                    let characters = bytes[start..].iter().step_by(width).skip(STORE_LENGTH + 1);
                    for (to, from) in hash.iter_mut().zip(characters) {
                        *to = *from;
                    }
                    self.paths.contains_key(&hash)
                })
            })
    }
}

/// The first 32 characters of a store path's base name.
#[must_use]
pub fn hash_part(path: &StorePath) -> Option<HashPart> {
    path.to_basename()
        .as_bytes()
        .get(..HASH_LENGTH)?
        .try_into()
        .ok()
}

/// Every run of 32 digits of Nix's base 32, each byte looked at once at most.
struct Hashes {
    /// Where the next run may begin.
    start: usize,
    /// Up to here, from `start` on, all bytes are known to be digits.
    known: usize,
}

impl Hashes {
    /// Those that end after `fresh`.
    fn after(fresh: usize) -> Self {
        let start = (fresh + 1).saturating_sub(HASH_LENGTH);
        Self {
            start,
            known: start,
        }
    }

    fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        while self.start + HASH_LENGTH <= bytes.len() {
            let end = self.start + HASH_LENGTH;
            // From the end: whatever is no digit rules out all that would begin before it.
            let from = self.known.max(self.start);
            let other = bytes[from..end].iter().rposition(|&byte| !is_nix32(byte));
            self.known = end;
            let Some(other) = other else {
                self.start += 1;
                return Some(self.start - 1);
            };
            self.start = from + other + 1;
        }
        None
    }

    /// Goes on after the run that was answered last.
    fn skip(&mut self) {
        self.start += HASH_LENGTH - 1;
        self.known = self.start;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    const ONE: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";
    const TWO: &str = "0jn93wz4pk00k76grv8ing8js0yz8cpd";

    fn references(relocation: Option<&str>) -> References {
        let paths = [ONE, TWO].map(|hash| format!("/nix/store/{hash}-x").parse().unwrap());
        let to = relocation.map(|to| Relocation::new(Path::new(to)).unwrap());
        References::new(&paths, to.as_ref())
    }

    /// Looks through `bytes` in pieces of `size`, as a file streams by.
    fn in_pieces(references: &References, bytes: &[u8], size: usize) -> (Vec<u8>, Sight) {
        let mut sight = Sight::default();
        let mut written = Vec::new();
        let mut held = Vec::new();
        for piece in bytes.chunks(size) {
            let fresh = held.len();
            held.extend_from_slice(piece);
            references.rewrite(&mut held, fresh, &mut sight);
            let done = held.len().saturating_sub(OVERLAP);
            written.extend(held.drain(..done));
        }
        written.extend(held);
        (written, sight)
    }

    #[test]
    fn a_reference_is_found_wherever_a_piece_ends() {
        let references = references(Some("/layers/nix_hydra/closure"));
        let text = format!(
            "{}/nix/store/{ONE}-x and /nix/store/{TWO}-x",
            "a".repeat(300)
        );
        let (whole, expected) = in_pieces(&references, text.as_bytes(), text.len());
        assert_eq!(expected.references, 2);
        assert!(!expected.bare);
        for size in 1..text.len() {
            let (written, sight) = in_pieces(&references, text.as_bytes(), size);
            assert_eq!(
                (written, sight),
                (whole.clone(), expected.clone()),
                "{size}"
            );
        }
    }

    #[test]
    fn a_hash_without_its_store_directory_is_told_apart() {
        let mut bytes = format!("../{ONE}-x /nix/store/{TWO}").into_bytes();
        let mut sight = Sight::default();
        references(None).rewrite(&mut bytes, 0, &mut sight);
        assert!(sight.bare);
        assert_eq!(sight.references, 1);
        assert_eq!(sight.hashes.len(), 2);
    }

    #[test]
    fn a_hash_is_found_in_a_longer_run_of_digits() {
        let mut bytes = format!("000{ONE}111").into_bytes();
        let mut sight = Sight::default();
        references(None).rewrite(&mut bytes, 0, &mut sight);
        assert!(sight.bare);
    }

    #[test]
    fn the_hash_of_another_closure_is_no_reference() {
        let mut bytes = b"/nix/store/00000000000000000000000000000000-x".to_vec();
        let mut sight = Sight::default();
        references(None).rewrite(&mut bytes, 0, &mut sight);
        assert_eq!(sight, Sight::default());
    }

    #[test]
    fn wide_text_is_seen_in_both_orders_and_widths() {
        let text = format!("see /nix/store/{ONE}-x");
        let widen = |width: usize, place: usize| -> Vec<u8> {
            text.bytes()
                .flat_map(|byte| {
                    let mut wide = vec![0; width];
                    wide[place] = byte;
                    wide
                })
                .collect()
        };
        for bytes in [widen(2, 0), widen(2, 1), widen(4, 0), widen(4, 3)] {
            for size in [1, 50, bytes.len()] {
                let (_, sight) = in_pieces(&references(None), &bytes, size);
                assert!(sight.wide, "{size}");
            }
        }
    }

    /// A small generator of numbers below a limit, the same in each run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % limit
        }
    }

    #[test]
    fn whatever_is_moved_can_be_moved_back() {
        let references = references(Some("/layers/nix_hydra/closure"));
        let moved = |hash: &str| format!("/layers/nix_hydra/closure/{}", &hash[..17]);
        let words: Vec<Vec<u8>> = [
            format!("/nix/store/{ONE}"),
            format!("/nix/store/{TWO}"),
            ONE.to_string(),
            "/nix/store/".to_string(),
            "0".repeat(33),
            "/nix/store/00000000000000000000000000000000".to_string(),
            "text with eout".to_string(),
        ]
        .into_iter()
        .map(String::into_bytes)
        .chain([vec![0; 40], vec![0xff, 0x2f]])
        .collect();
        let mut random = Random(7);
        for round in 0..2_000 {
            let mut text = Vec::new();
            for _ in 0..random.below(60) {
                let word = &words[random.below(words.len())];
                let end = if random.below(4) == 0 {
                    random.below(word.len())
                } else {
                    word.len()
                };
                text.extend_from_slice(&word[..end]);
            }
            let size = 1 + random.below(600);
            let (written, sight) = in_pieces(&references, &text, size);
            assert_eq!(written.len(), text.len(), "round {round}");

            let mut back = written.clone();
            let mut count = 0;
            for hash in [ONE, TWO] {
                let from = moved(hash).into_bytes();
                let to = format!("/nix/store/{hash}").into_bytes();
                assert!(
                    memchr::memmem::find(&written, &to).is_none(),
                    "round {round}"
                );
                let places: Vec<usize> = memchr::memmem::find_iter(&written, &from).collect();
                count += places.len();
                for place in places {
                    back[place..place + to.len()].copy_from_slice(&to);
                }
            }
            assert_eq!(back, text, "round {round}");
            assert_eq!(sight.references, count, "round {round}");
        }
    }
}
