//! The closure's bills of materials, which the lifecycle puts into the image's SBOM layer, at
//! `/layers/sbom/launch/<buildpack>/<layer>/sbom.{cdx,spdx}.json`.
//!
//! For a layer that is kept, the lifecycle restores the files of the previous image, where the
//! platform does so at all. What is known of a kept closure makes the same files again, so they are
//! written in every build.

use super::{cyclonedx, spdx};
use binary_cache::PathInfo;
use closure::Closure;
use nix_derivation::NixHash;
use std::io;

/// The bills of materials of a closure, each with the format in its file's name: `cdx` or `spdx`.
pub fn documents(closure: &Closure) -> io::Result<[(&'static str, Vec<u8>); 2]> {
    Ok([
        ("cdx", serde_json::to_vec(&cyclonedx::document(closure))?),
        ("spdx", serde_json::to_vec(&spdx::document(closure))?),
    ])
}

/// The NAR's SHA-256 in hexadecimal; other algorithms are only in old caches.
pub(super) fn sha256(info: &PathInfo) -> Option<String> {
    match &info.nar_hash {
        NixHash::Sha256(digest) => Some(hex::encode(digest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    /// The crate `tests/sbom` reads them by their official schemas.
    #[test]
    fn both_documents_read_as_they_should() {
        let documents = [cyclonedx::document(&sample()), spdx::document(&sample())];
        for (name, document) in ["cyclonedx", "spdx"].into_iter().zip(&documents) {
            insta::assert_snapshot!(name, serde_json::to_string_pretty(document).unwrap());
        }
    }

    #[test]
    fn the_same_paths_with_other_roots_are_another_spdx_document() {
        let namespace = |closure| spdx::document(&closure)["documentNamespace"].clone();
        let mut other = sample();
        other.roots.extend(other.paths.keys().next_back().cloned());
        assert_ne!(other.roots, sample().roots);
        assert_ne!(namespace(other), namespace(sample()));
        assert_eq!(namespace(sample()), namespace(sample()));
    }

    #[test]
    fn the_documents_are_the_same_each_time() {
        assert_eq!(documents(&sample()).unwrap(), documents(&sample()).unwrap());
    }
}
