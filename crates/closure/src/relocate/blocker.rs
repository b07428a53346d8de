//! What prevents moving a closure: a file and the reason. Layers' metadata keeps them as serde writes them.

use crate::relocate::relocation::DirectoryTooLong;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use store_references::packing::Packing;

/// Why a closure cannot be moved into its layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotRelocatable {
    /// The layer's directory has too long a name.
    #[error("{path} has too long a name", path = .0.display())]
    DirectoryTooLong(PathBuf, #[source] DirectoryTooLong),
    /// These two paths would have the same place.
    #[error("two store paths would have the same place")]
    SamePlace(String, String),
    /// These files would not work there.
    #[error("some files would not work elsewhere")]
    Blockers(Vec<Blocker>),
}

/// One file that cannot be moved, or that cannot be known to work elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Blocker {
    /// The base name of a store path, and the path in it; the name alone where it is about it all.
    pub file: String,
    pub reason: BlockerReason,
}

/// Why a file prevents moving its closure.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockerReason {
    /// A store path's hash with no `/nix/store/` before it.
    Bare,
    /// A store path in UTF-16 or UTF-32.
    Wide,
    /// A store path in a packed file that is not packed anew here: by its packing, by its size, or
    /// because it is a link in a zip.
    Packed(#[serde(with = "KeptPacking")] Packing),
    /// A store path in a packed member of a zip.
    Nested,
    /// A store path in a signed jar, whose signature would no longer hold.
    Signed,
    /// A store path in a zip at the end of a program, which finds it by its place.
    Appended,
    /// A packed file in which there is more than can be looked at.
    Unseen(#[serde(with = "KeptPacking")] Packing),
    /// A checksum of a file that is rewritten: this one, in the same store path.
    Checksum(String),
    /// There are too many checksums in it to look at, and files beside it are rewritten.
    Checksums,
    /// There are more such files in a store path than are noted.
    TooMany,
    /// A reference to this store path, which the narinfo declares, and no file has.
    Unfound(String),
    /// A store path in a format that a rewrite would break: this one.
    Format(String),
    /// A store path in a format that is not known, and begins with these bytes in hexadecimal.
    UnknownFormat(String),
    /// A container that is not looked into: of this format.
    Sealed(String),
}

/// A packing as a layer's metadata keeps it: the crate of [`Packing`] has no dependencies.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Packing", rename_all = "kebab-case")]
enum KeptPacking {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Zip,
    Zlib,
    Brotli,
    Beam,
}
