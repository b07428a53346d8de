//! Nix binary caches: finding a store path in them, deciding whether to trust it, and reading its NAR.
//!
//! Formats and habits follow Nix's `binary-cache-store` and the servers in use: Hydra, nix-serve,
//! harmonia, attic, Cachix, and plain files.
//!
//! - [`CacheUrl`] (`url`) is a cache as users write it, `s3` a bucket as one; `credentials` reads netrc
//!   files and service bindings, `web_identity` exchanges a token for the key of a bucket.
//! - [`BinaryCache`] opens one cache (`info` parses its `nix-cache-info`) and reads its narinfos
//!   (`narinfo`) and NARs.
//! - [`Caches`] asks all caches of a build in order; `health` stops asking one that is down.
//! - [`TrustSettings`] (`trust`) checks signatures. What passes becomes a [`PathInfo`]; `kept` is its
//!   form in a layer's metadata.
//! - `decode` has the compressions; `zstd_decoder` uses the memory of zstd's again.

mod binary_cache;
mod caches;
pub mod credentials;
mod decode;
mod health;
mod info;
pub mod kept;
pub mod narinfo;
mod path_info;
mod s3;
mod trust;
mod url;
mod web_identity;
mod zstd_decoder;

pub use binary_cache::{BinaryCache, CacheError, SignIn};
pub use caches::{Answer, CacheAnswer, Caches, Unusable};
pub use decode::{
    DecodeError, DecoderLimits, content_decoder, is_identity, limited_decoder, nar_decoder,
};
pub use health::Attempt;
pub use info::CacheInfo;
pub use path_info::{CacheId, NarSource, PathInfo};
pub use s3::{S3Bucket, S3Credentials};
pub use trust::{Trust, TrustSettings, Untrusted};
pub use url::{CacheUrl, CacheUrlError};
pub use web_identity::WebIdentityError;
