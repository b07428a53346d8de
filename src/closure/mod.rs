//! The closure of the roots: planned from narinfos, then downloaded, verified and unpacked.

pub mod fetch;
pub mod plan;
pub mod relocate;
pub mod unpack;

use crate::cache::Trust;
use nix_derivation::StorePath;
use nix_narinfo::NarInfo;
use std::collections::BTreeMap;

/// Every store path that the roots need, with where each comes from.
#[derive(Debug, Clone)]
pub struct Closure {
    pub roots: Vec<StorePath>,
    pub paths: BTreeMap<StorePath, PlannedPath>,
}

/// A store path of a closure: what a binary cache says of it, and which one does.
#[derive(Debug, Clone)]
pub struct PlannedPath {
    pub narinfo: NarInfo,
    /// Index of the binary cache in [`plan::Caches`].
    pub cache: usize,
    pub trust: Trust,
}

impl Closure {
    /// Bytes of all NARs as they are unpacked.
    #[must_use]
    pub fn nar_size(&self) -> u64 {
        self.paths
            .values()
            .map(|path| path.narinfo.nar_size())
            .sum()
    }

    /// Bytes of all NARs as they are downloaded; a cache that does not say counts as unpacked.
    #[must_use]
    pub fn download_size(&self) -> u64 {
        self.paths
            .values()
            .map(|path| path.narinfo.file_size().unwrap_or(path.narinfo.nar_size()))
            .sum()
    }

    /// The paths that nobody vouches for.
    #[must_use]
    pub fn unsigned(&self) -> Vec<&StorePath> {
        self.paths
            .iter()
            .filter(|(_, planned)| planned.trust == Trust::Unsigned)
            .map(|(path, _)| path)
            .collect()
    }
}
