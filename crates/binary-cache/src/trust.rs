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
    pub fn letter(self) -> char {
        match self {
            Self::Signed => 's',
            Self::ContentAddressed => 'c',
            Self::TrustedCache => 't',
            Self::Unsigned => 'u',
        }
    }

    /// Reads [`Trust::letter`]; None if it is another text.
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

#[cfg(test)]
mod tests {
    use super::*;
    use nix_derivation::{NixHash, StorePath};

    const PATH: &str = "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-x";

    /// A narinfo of `path` with further lines. Its NAR's hash is made of sevens.
    fn narinfo(path: &str, lines: &str) -> NarInfo {
        let hash = NixHash::Sha256([7; 32]).to_nix_nixbase32_string();
        let text = format!(
            "StorePath: {path}\nURL: nar/x\nCompression: none\nNarHash: {hash}\nNarSize: 1\n\
             References: \n{lines}"
        );
        crate::narinfo::parse(text.as_bytes()).unwrap()
    }

    fn settings(required: bool) -> TrustSettings {
        let key = "acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
        TrustSettings {
            keys: vec![key.parse().unwrap()],
            required,
        }
    }

    fn cache(trusted: bool, must_sign: bool) -> CacheUrl {
        let mut cache: CacheUrl = "https://cache.example.org".parse().unwrap();
        (cache.trusted, cache.must_sign) = (trusted, must_sign);
        cache
    }

    /// A signature in the name of `key` of something else.
    fn signature(key: &str) -> String {
        format!("Sig: {key}:{}==\n", "A".repeat(86))
    }

    #[test]
    fn a_signature_is_done_without_only_where_nothing_requires_one() {
        let unsigned = narinfo(PATH, "");
        let check = |required, trusted, must_sign| {
            settings(required).check(&unsigned, &cache(trusted, must_sign))
        };
        assert_eq!(check(false, false, false), Ok(Trust::Unsigned));
        assert_eq!(check(true, false, false), Err(Untrusted::NotSigned));
        assert_eq!(check(false, false, true), Err(Untrusted::NotSigned));
        assert_eq!(check(true, true, true), Ok(Trust::TrustedCache));
        let by_another = narinfo(PATH, &signature("other-1"));
        let checked = settings(true).check(&by_another, &cache(false, false));
        assert_eq!(checked, Err(Untrusted::UnknownKeys(vec!["other-1".into()])));
    }

    #[test]
    fn a_signature_in_a_known_key_s_name_that_does_not_hold_is_never_taken_for_none() {
        let forged = narinfo(PATH, &signature("acme-1"));
        for (required, must_sign) in [(false, false), (false, true), (true, false)] {
            let checked = settings(required).check(&forged, &cache(false, must_sign));
            assert_eq!(checked, Err(Untrusted::BadSignature("acme-1".into())));
        }
    }

    #[test]
    fn a_content_address_needs_no_signature_if_the_path_and_the_nar_are_named_after_it() {
        let address = CAHash::Nar(NixHash::Sha256([7; 32]));
        let path: StorePath = StoreDir::default()
            .build_ca_path("x", &address, [], false)
            .unwrap();
        let line = |address: &CAHash| format!("CA: {}\n", address.to_nix_string());
        let check = |path: &str, address: &CAHash| {
            settings(true).check(&narinfo(path, &line(address)), &cache(false, false))
        };
        let path = path.to_absolute_path();
        assert_eq!(check(&path, &address), Ok(Trust::ContentAddressed));
        assert_eq!(check(PATH, &address), Err(Untrusted::NotSigned));
        // The address of another NAR gives another path, which is not what the NAR is.
        let other = CAHash::Nar(NixHash::Sha256([8; 32]));
        let named = StoreDir::default().build_ca_path("x", &other, [], false);
        let named = named.unwrap().to_absolute_path();
        assert_eq!(check(&named, &other), Err(Untrusted::NotSigned));
    }
}
