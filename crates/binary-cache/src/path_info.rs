//! What is known of one store path: the part of its narinfo that a deploy needs.

use crate::Trust;
use crate::narinfo::SYSTEM;
use nix_derivation::{CAHash, NixHash, StorePath};
use nix_narinfo::NarInfo;
use std::collections::BTreeSet;

/// A store path of a closure: what its NAR must be, and why that is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    pub nar_hash: NixHash,
    /// Bytes of the NAR, decoded.
    pub nar_size: u64,
    pub references: BTreeSet<StorePath>,
    pub trust: Trust,
    /// The content address that the path's name was made from, if the content must still be checked
    /// against it.
    pub content: Option<CAHash>,
    /// Where the NAR is; None if the caches have to be asked for that, as for what an earlier build
    /// found out.
    pub source: Option<NarSource>,
}

/// One of the [`Caches`](crate::Caches) of a build: its place in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheId(pub usize);

/// Where a NAR is, and how it is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarSource {
    pub cache: CacheId,
    /// Relative to the cache's URL, or absolute.
    pub url: String,
    /// The compression's name in a narinfo.
    pub compression: String,
    /// Bytes to download, where the cache says.
    pub file_size: Option<u64>,
    /// The system that the path was built for, where the cache says: `x86_64-linux`. It is not signed.
    pub system: Option<String>,
}

impl PathInfo {
    pub fn new(narinfo: &NarInfo, cache: CacheId, trust: Trust) -> Self {
        Self {
            nar_hash: narinfo.nar_hash().clone(),
            nar_size: narinfo.nar_size(),
            references: narinfo.references().clone(),
            trust,
            content: narinfo
                .content_address()
                .filter(|_| trust == Trust::ContentAddressed)
                .filter(|address| !is_nar_hash(address, narinfo))
                .cloned(),
            source: Some(NarSource {
                cache,
                url: narinfo.url().to_string(),
                compression: narinfo.compression().as_str().to_string(),
                file_size: narinfo.file_size(),
                system: system(narinfo),
            }),
        }
    }

    /// Bytes to download, as far as is known.
    pub fn download_size(&self) -> u64 {
        let file_size = self.source.as_ref().and_then(|source| source.file_size);
        file_size.unwrap_or(self.nar_size)
    }

    /// Whether an earlier build's knowledge still holds under the same keys, whichever caches are
    /// named now. Paths without a signature are only believed of a cache that says so again.
    pub fn is_still_trusted(&self) -> bool {
        matches!(self.trust, Trust::Signed | Trust::ContentAddressed)
    }
}

fn system(narinfo: &NarInfo) -> Option<String> {
    let mut fields = narinfo.extensions().iter();
    let field = fields.find(|field| field.name == SYSTEM)?;
    Some(field.value.clone())
}

/// Whether the path's name was made from the hash that is checked of each NAR.
fn is_nar_hash(address: &CAHash, narinfo: &NarInfo) -> bool {
    matches!(address, CAHash::Nar(hash) if hash == narinfo.nar_hash())
        && !narinfo.references().contains(narinfo.store_path())
}
