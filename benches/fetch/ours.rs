//! Our own download, as the buildpack does it on a first build.

use anyhow::{Context, Result, anyhow};
use nix_hydra_buildpack::closure::fetch::fetch;
use nix_hydra_buildpack::closure::plan::{Caches, Known};
use nix_hydra_buildpack::config::TrustSettings;
use nix_hydra_buildpack::http::Http;
use std::path::Path;

/// Downloads the closure of `root` from the cache at `url` into the new directory `store`.
pub(crate) fn run(url: &str, key: &str, root: &str, store: &Path) -> Result<()> {
    let url = url.parse().map_err(|error| anyhow!("{url}: {error:?}"))?;
    let trust = TrustSettings {
        keys: vec![key.parse().context("the public key")?],
        required: true,
    };
    let root = root.parse().context("the root")?;
    let caches = Caches::open(&[url], trust, &Http::new());
    let closure = caches
        .plan(&[root], &Known::default())
        .map_err(|misses| anyhow!("{misses:?}"))?;
    std::fs::create_dir_all(store)?;
    fetch(&closure, &caches, store).map_err(|error| anyhow!("{error:?}"))
}
