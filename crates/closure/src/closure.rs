//! A closure: store paths with what is known of each.

use binary_cache::PathInfo;
use nix_derivation::StorePath;
use std::collections::BTreeMap;

/// Every store path that the roots need, with what is known of each.
#[derive(Debug, Clone)]
pub struct Closure {
    pub roots: Vec<StorePath>,
    pub paths: BTreeMap<StorePath, PathInfo>,
}

impl Closure {
    /// Bytes of all NARs as they are unpacked.
    pub fn nar_size(&self) -> u64 {
        let sizes = self.paths.values().map(|info| info.nar_size);
        // A narinfo may claim any size.
        sizes.fold(0, u64::saturating_add)
    }

    /// Bytes of all NARs as they are downloaded; a cache that does not say counts as unpacked.
    pub fn download_size(&self) -> u64 {
        let sizes = self.paths.values().map(PathInfo::download_size);
        sizes.fold(0, u64::saturating_add)
    }
}
