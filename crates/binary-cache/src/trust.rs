//! Whose word is taken for a store path: signatures, content addresses, and when neither is needed.

use crate::CacheUrl;
use nix_derivation::{CAHash, StoreDir};
use nix_narinfo::{NarInfo, TrustedPublicKey};

/// Whose signatures are accepted, and whether paths without one are.
#[derive(Debug, Clone)]
pub struct TrustSettings {
    /// The keys of `NIX_TRUSTED_PUBLIC_KEYS` and the one of cache.nixos.org.
    pub keys: Vec<TrustedPublicKey>,
    /// Whether a path that no key vouches for is an error: once the user names a key, or asks.
    pub required: bool,
}

/// Why a store path may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A known key has signed it.
    Signed,
    /// Its name follows from its content, and the content is held against that.
    ContentAddressed,
    /// The user calls the cache it comes from trusted, with `?trusted=true`.
    TrustedCache,
    /// Nobody vouches for it, and the user has named no key that could.
    Unsigned,
}

impl Trust {
    /// A word for it in a layer's metadata.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::ContentAddressed => "content-addressed",
            Self::TrustedCache => "trusted-cache",
            Self::Unsigned => "unsigned",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Signed,
            Self::ContentAddressed,
            Self::TrustedCache,
            Self::Unsigned,
        ]
        .into_iter()
        .find(|trust| trust.as_str() == word)
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
    /// Decides whether what `narinfo` says may be believed when `cache` says it.
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

/// Whether the name of the path follows from a hash of its content that [`closure::content`]
/// can check. The narinfo alone proves nothing: that the content has this hash is seen once it is here.
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
