//! Finds where the files of a closure name its store paths, while their bytes stream by, and
//! rewrites them where the closure moves.
//!
//! What cannot be rewritten is noted: a hash with no `/nix/store/` before it, and text in characters of
//! two or four bytes.

use crate::relocate::relocation::{REFERENCE_LENGTH, Relocation};
use nix_derivation::StorePath;
use std::collections::{BTreeSet, HashSet};
use store_references::hashes::{self, HASH_LENGTH, Hit};
pub use store_references::hashes::{HashPart, OVERLAP};

/// The store paths that are looked for, and where they move.
#[derive(Debug)]
pub struct ReferenceScanner {
    paths: HashSet<HashPart>,
    relocation: Option<Relocation>,
}

/// What is looked for in the store paths of a closure.
#[derive(Debug)]
pub enum ScanFor {
    Nothing,
    /// In each path itself and what its narinfo declares: Nix found nothing else in it. This does not
    /// need the rest of the closure, and makes what is found a fact of the path alone.
    Declared,
    /// These, and they are rewritten if they move. For a closure that moves they are all its paths: a
    /// reference that was not declared would else lead nowhere.
    All(ReferenceScanner),
}

/// What was found in a run of bytes: a file, a name, or what is packed in a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ScanHits {
    /// References in full, `/nix/store/` and a hash part; these are rewritten.
    pub references: usize,
    /// Whether there is a hash part with no `/nix/store/` before it.
    pub bare: bool,
    /// Whether there is a hash part in UTF-16 or UTF-32.
    pub wide: bool,
    /// The hash parts of both kinds.
    pub hashes: BTreeSet<HashPart>,
    /// The hash parts of references to other paths, where references are rewritten: these would have to
    /// be rewritten too in a closure that has those paths.
    pub foreign: BTreeSet<HashPart>,
}

impl ReferenceScanner {
    /// Looks for `paths`, and moves them where a relocation is given.
    pub fn new<'a>(
        paths: impl IntoIterator<Item = &'a StorePath>,
        relocation: Option<Relocation>,
    ) -> Self {
        Self {
            paths: paths.into_iter().filter_map(hash_part).collect(),
            relocation,
        }
    }

    pub fn relocation(&self) -> Option<&Relocation> {
        self.relocation.as_ref()
    }

    /// Looks through `bytes`, of which all from `fresh` on were not seen before, and rewrites the
    /// references that end there.
    ///
    /// What comes before `fresh` must be the end of what was seen before, [`OVERLAP`] bytes of it
    /// or all.
    pub fn rewrite(&self, bytes: &mut [u8], fresh: usize, hits: &mut ScanHits) {
        let found = self.look(bytes, fresh, hits);
        if let Some(relocation) = &self.relocation {
            for start in found {
                relocation.move_reference(&mut bytes[start..start + REFERENCE_LENGTH]);
            }
        }
    }

    /// Finds references without rewriting them. Returns where the references begin.
    pub fn look(&self, bytes: &[u8], fresh: usize, hits: &mut ScanHits) -> Vec<usize> {
        let mut found = Vec::new();
        let is_known = |hash: &HashPart| self.paths.contains(hash);
        hashes::look(bytes, fresh, is_known, |hit| match hit {
            Hit::Reference(start, hash) => {
                hits.hashes.insert(hash);
                found.push(start);
            }
            Hit::Bare(hash) => {
                hits.hashes.insert(hash);
                hits.bare = true;
            }
            Hit::Wide => hits.wide = true,
            Hit::Foreign(hash) if self.relocation.is_some() => {
                hits.foreign.insert(hash);
            }
            Hit::Foreign(_) => {}
        });
        hits.references += found.len();
        found
    }
}

/// The first 32 characters of a store path's base name.
pub fn hash_part(path: &StorePath) -> Option<HashPart> {
    path.to_basename()
        .as_bytes()
        .get(..HASH_LENGTH)?
        .try_into()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ONE: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";
    const TWO: &str = "0jn93wz4pk00k76grv8ing8js0yz8cpd";

    fn references(relocation: Option<&str>) -> ReferenceScanner {
        let paths = [ONE, TWO].map(|hash| format!("/nix/store/{hash}-x").parse().unwrap());
        ReferenceScanner::new(
            &paths,
            relocation.map(|to| Relocation::new(Path::new(to)).unwrap()),
        )
    }

    /// Looks through `bytes` in pieces of `size`, as a file streams by.
    fn in_pieces(references: &ReferenceScanner, bytes: &[u8], size: usize) -> (Vec<u8>, ScanHits) {
        let mut hits = ScanHits::default();
        let mut written = Vec::new();
        let mut held = Vec::new();
        for piece in bytes.chunks(size) {
            let fresh = held.len();
            held.extend_from_slice(piece);
            references.rewrite(&mut held, fresh, &mut hits);
            let done = held.len().saturating_sub(OVERLAP);
            written.extend(held.drain(..done));
        }
        written.extend(held);
        (written, hits)
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
            let (written, hits) = in_pieces(&references, text.as_bytes(), size);
            assert_eq!((written, hits), (whole.clone(), expected.clone()), "{size}");
        }
    }

    #[test]
    fn a_hash_without_its_store_directory_is_told_apart() {
        let mut bytes = format!("../{ONE}-x /nix/store/{TWO}").into_bytes();
        let mut hits = ScanHits::default();
        references(None).rewrite(&mut bytes, 0, &mut hits);
        assert!(hits.bare);
        assert_eq!(hits.references, 1);
        assert_eq!(hits.hashes.len(), 2);
    }

    #[test]
    fn a_hash_is_found_in_a_longer_run_of_digits() {
        let mut bytes = format!("000{ONE}111").into_bytes();
        let mut hits = ScanHits::default();
        references(None).rewrite(&mut bytes, 0, &mut hits);
        assert!(hits.bare);
    }

    #[test]
    fn a_reference_to_a_path_outside_the_closure_is_noted_and_stays() {
        let other = "00000000000000000000000000000000";
        let references = references(Some("/layers/nix_hydra/closure"));
        let text = format!("/nix/store/{other}-x {other}");
        for size in [1, 40, text.len()] {
            let (written, hits) = in_pieces(&references, text.as_bytes(), size);
            assert_eq!(written, text.as_bytes());
            let foreign = BTreeSet::from([*other.as_bytes().first_chunk().unwrap()]);
            let expected = ScanHits {
                foreign,
                ..ScanHits::default()
            };
            assert_eq!(hits, expected);
        }
    }

    #[test]
    fn the_hash_of_another_closure_is_no_reference() {
        let mut bytes = b"/nix/store/00000000000000000000000000000000-x".to_vec();
        let mut hits = ScanHits::default();
        references(None).rewrite(&mut bytes, 0, &mut hits);
        assert_eq!(hits, ScanHits::default());
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
                let (_, hits) = in_pieces(&references(None), &bytes, size);
                assert!(hits.wide, "{size}");
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
            let (written, hits) = in_pieces(&references, &text, size);
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
            assert_eq!(hits.references, count, "round {round}");
        }
    }
}
