//! Settings of the build itself: its tools, the engine, and how it deals with a miss.

use super::read::{Given, Invalid};
use super::{Debug, OnMiss};
use crate::tools::Download;
use http_client::redact_url;
use nix_derivation::NixHash;
use nix_hydra_start::engine::EngineSetting;
use url::Url;

pub(super) fn url(value: &str) -> Result<Option<Url>, Invalid> {
    Url::parse(value)
        .ok()
        .filter(|url| match url.scheme() {
            "https" | "http" => true,
            "file" => !url.has_host(),
            _ => false,
        })
        .map(Some)
        .ok_or_else(|| Invalid::new(redact_url(value)))
}

/// Takes hexadecimal digits, and the forms in which Nix prints a hash.
pub(super) fn sha256(value: &str) -> Result<Option<[u8; 32]>, Invalid> {
    let parsed = NixHash::parse(value).or_else(|_| NixHash::parse(&format!("sha256:{value}")));
    match parsed {
        Ok(NixHash::Sha256(hash)) => Ok(Some(hash)),
        _ => Err(Invalid::new(value)),
    }
}

/// The two settings of a download together. None if either is missing.
pub(super) fn download(url: Option<Url>, sha256: Option<[u8; 32]>) -> Option<Download> {
    let (url, sha256) = url.zip(sha256)?;
    Some(Download { url, sha256 })
}

pub(super) fn engine(value: &str) -> Result<EngineSetting, Invalid> {
    value.parse().map_err(|_| Invalid::new(value))
}

pub(super) fn on_miss(value: &str) -> Result<Option<OnMiss>, Invalid> {
    match value {
        "error" => Ok(Some(OnMiss::Error)),
        "build" => Ok(Some(OnMiss::Build)),
        value => Err(Invalid::new(value)),
    }
}

pub(super) fn debug(given: &Given) -> Result<Debug, Invalid> {
    match given.value {
        "doctor" => Ok(Debug::Doctor),
        _ => given
            .flag()
            .map(|on| if on { Debug::On } else { Debug::Off }),
    }
}
