//! Binary caches: what one answers about a store path, and how its NARs are read.
//!
//! Formats and habits follow Nix's `binary-cache-store` and the servers in use: Hydra, nix-serve,
//! harmonia, attic, Cachix, and plain files.

mod binary_cache;
mod caches;
pub mod credentials;
mod decode;
mod info;
mod path_info;
mod trust;
mod url;

pub use self::binary_cache::{BinaryCache, CacheError, SignIn};
pub use self::caches::{Answer, Attempt, Caches};
pub use self::decode::{DecodeError, content_decoder, is_identity, nar_decoder};
pub use self::info::CacheInfo;
pub use self::path_info::PathInfo;
pub use self::trust::{Trust, TrustSettings, Untrusted};
pub use self::url::{CacheUrl, CacheUrlError};
