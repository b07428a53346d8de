//! Holds a NAR against the hash that its store path's name was made from, where only that vouches for it.
//!
//! The hashes are those of Nix: of the whole NAR for `fixed:r:`, of the one file in it for `fixed:` and
//! `text:`. A path that refers to itself is hashed with these references as zeros (`HashModuloSink` of
//! Nix's `references.cc`). Nix before 2.14 hashes their places behind all; later ones mean to, and do not.

use crate::relocate::references::HashPart;
use nix_derivation::{CAHash, NixHash, NixHasher, StorePath};
use std::collections::BTreeSet;
use store_references::hashes::HASH_LENGTH;

/// References of a path to itself whose places are held in memory: ten times what a large one has.
const MAX_PLACES: usize = 1_000_000;

/// The hash that a path's content must have, being made from it.
#[derive(Debug)]
pub struct Content<'a> {
    address: &'a CAHash,
    /// The path's own hash part, if it refers to itself.
    own: Option<HashPart>,
}

impl<'a> Content<'a> {
    pub fn new(address: &'a CAHash, path: &StorePath, references: &BTreeSet<StorePath>) -> Self {
        let own = references.contains(path).then(|| path.to_basename());
        Self {
            address,
            own: own.and_then(|name| name.as_bytes().first_chunk().copied()),
        }
    }

    /// The hash as narinfos have it.
    pub fn expected(&self) -> String {
        self.address.to_nix_string()
    }

    /// What hashes the bytes of the NAR, where that is what counts.
    pub(super) fn of_nar(&self) -> Option<NarContent> {
        let CAHash::Nar(hash) = self.address else {
            return None;
        };
        let hasher = || NixHasher::new(hash.algorithm());
        Some(NarContent {
            hasher: hasher(),
            own: self.own.map(|hash_part| Own {
                hash_part,
                with_places: hasher(),
                held: Vec::new(),
                held_at: 0,
                places: Vec::new(),
            }),
        })
    }

    /// What hashes the bytes of the one file, where that is what counts.
    pub(super) fn of_file(&self) -> Option<NixHasher> {
        match self.address {
            CAHash::Flat(_) | CAHash::Text(_) => {
                Some(NixHasher::new(self.address.hash().algorithm()))
            }
            CAHash::Nar(_) | CAHash::Git(_) => None,
        }
    }

    /// Whether it is one of `found`.
    pub(super) fn is(&self, found: &[NixHash]) -> bool {
        found.contains(&self.address.hash())
    }
}

/// Hashes a NAR.
pub(super) struct NarContent {
    hasher: NixHasher,
    own: Option<Own>,
}

/// What is done about references of the path to itself.
struct Own {
    hash_part: HashPart,
    with_places: NixHasher,
    /// The end of what has come, in which a reference may begin, and its place in the NAR.
    held: Vec<u8>,
    held_at: u64,
    places: Vec<u64>,
}

impl NarContent {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let Some(own) = &mut self.own else {
            return self.hasher.update(bytes);
        };
        own.held.extend_from_slice(bytes);
        let mut from = 0;
        while let Some(at) = memchr::memmem::find(&own.held[from..], &own.hash_part) {
            from += at;
            own.places.push(own.held_at + from as u64);
            own.held[from..from + HASH_LENGTH].fill(0);
        }
        // Whoever has more is not to fill the memory, and gets a hash that is not the right one.
        own.places.truncate(MAX_PLACES);
        let done = own.held.len().saturating_sub(HASH_LENGTH - 1);
        for hasher in [&mut self.hasher, &mut own.with_places] {
            hasher.update(&own.held[..done]);
        }
        own.held.drain(..done);
        own.held_at += done as u64;
    }

    /// The hash, as each version of Nix makes it.
    pub(super) fn finalize(mut self) -> Vec<NixHash> {
        let Some(mut own) = self.own else {
            return vec![self.hasher.finalize()];
        };
        for hasher in [&mut self.hasher, &mut own.with_places] {
            hasher.update(&own.held);
        }
        for place in &own.places {
            own.with_places.update(format!("|{place}").as_bytes());
        }
        vec![self.hasher.finalize(), own.with_places.finalize()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn references_to_itself_are_zeros_with_or_without_their_places_behind() {
        let own = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";
        let path: StorePath = format!("/nix/store/{own}-x").parse().unwrap();
        let zeros = "\0".repeat(HASH_LENGTH);
        let text = format!("at {own}{own} and {own}");
        let blank = format!("at {zeros}{zeros} and {zeros}");
        let places = format!("{blank}|3|35|72");
        let address = |text: &str| CAHash::Nar(NixHash::Sha256(Sha256::digest(text).into()));
        let is = |address: &CAHash, references, size| {
            let content = Content::new(address, &path, &references);
            let mut nar = content.of_nar().unwrap();
            for piece in text.as_bytes().chunks(size) {
                nar.update(piece);
            }
            content.is(&nar.finalize())
        };
        let own = BTreeSet::from([path.clone()]);
        for size in [1, 7, 31, 32, 33, 1000] {
            assert!(is(&address(&blank), own.clone(), size), "{size}");
            assert!(is(&address(&places), own.clone(), size), "{size}");
            assert!(!is(&address(&text), own.clone(), size), "{size}");
            assert!(!is(&address(&blank), BTreeSet::new(), size), "{size}");
            assert!(is(&address(&text), BTreeSet::new(), size), "{size}");
        }
    }
}
