//! Whether a store path may be used: signatures, content addresses, and when neither is needed.

use crate::CacheUrl;
use nix_derivation::{CAHash, StoreDir};
use nix_narinfo::{NarInfo, TrustedPublicKey};

/// Whose signatures are accepted, and whether paths without one are.
#[derive(Debug, Clone)]
pub struct TrustSettings {
    /// The keys of `NIX_TRUSTED_PUBLIC_KEYS` and the one of cache.nixos.org.
    pub keys: Vec<TrustedPublicKey>,
    /// Whether a path without a signature by one of `keys` is an error: once the user names a key, or
    /// asks for it.
    pub required: bool,
}

/// Why a store path may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A known key has signed it.
    Signed,
    /// Its name follows from its content, which is checked against it.
    ContentAddressed,
    /// The user calls the cache it comes from trusted, with `?trusted=true`.
    TrustedCache,
    /// It has no signature by a known key, and the user requires none.
    Unsigned,
}

impl Trust {
    /// A letter for it in a layer's metadata.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::Signed => 's',
            Self::ContentAddressed => 'c',
            Self::TrustedCache => 't',
            Self::Unsigned => 'u',
        }
    }

    /// Reads [`Trust::letter`]; None if it is another text.
    #[must_use]
    pub fn from_letter(text: &str) -> Option<Self> {
        match text {
            "s" => Some(Self::Signed),
            "c" => Some(Self::ContentAddressed),
            "t" => Some(Self::TrustedCache),
            "u" => Some(Self::Unsigned),
            _ => None,
        }
    }
}

/// Why a store path must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// It carries no signature.
    #[error("it is not signed")]
    NotSigned,
    /// No known key has signed it; these have, or claim to.
    #[error("it is signed by unknown keys: {}", .0.join(", "))]
    UnknownKeys(Vec<String>),
    /// It carries a signature in the name of a known key that is not one of that key.
    #[error("its signature by {0} is wrong")]
    BadSignature(String),
}

impl TrustSettings {
    /// Decides whether a `narinfo` of `cache` may be believed.
    ///
    /// The order is Nix's: a content address that gives the path needs no signature; else one good
    /// signature is enough, whatever the others are.
    pub fn check(&self, narinfo: &NarInfo, cache: &CacheUrl) -> Result<Trust, Untrusted> {
        let store_dir = StoreDir::default();
        if narinfo.has_valid_signature(&store_dir, &self.keys) {
            return Ok(Trust::Signed);
        }
        if is_content_addressed(narinfo, &store_dir) {
            return Ok(Trust::ContentAddressed);
        }
        if cache.trusted {
            return Ok(Trust::TrustedCache);
        }
        let signers: Vec<String> = narinfo
            .signatures()
            .iter()
            .map(|signature| signature.key_name.clone())
            .collect();
        let forged = signers
            .iter()
            .find(|signer| self.keys.iter().any(|key| key.name == **signer));
        // A signature in a known key's name that does not hold is never taken for none.
        if let Some(forged) = forged {
            return Err(Untrusted::BadSignature(forged.clone()));
        }
        if !self.required && !cache.must_sign {
            return Ok(Trust::Unsigned);
        }
        Err(if signers.is_empty() {
            Untrusted::NotSigned
        } else {
            Untrusted::UnknownKeys(signers)
        })
    }
}

/// Whether the path's name follows from a hash of its content that can be checked. The narinfo alone
/// proves nothing: the content is checked once it is downloaded.
fn is_content_addressed(narinfo: &NarInfo, store_dir: &StoreDir) -> bool {
    let is_checked = match narinfo.content_address() {
        None | Some(CAHash::Git(_)) => false,
        // What is checked of each NAR is this very hash, unless it refers to itself.
        Some(CAHash::Nar(hash))
            if hash.algorithm() == narinfo.nar_hash().algorithm()
                && !narinfo.references().contains(narinfo.store_path()) =>
        {
            hash == narinfo.nar_hash()
        }
        Some(CAHash::Nar(_) | CAHash::Flat(_) | CAHash::Text(_)) => true,
    };
    is_checked && narinfo.is_content_addressed(store_dir)
}
