//! Our own download, as the buildpack does it on a first build.

use anyhow::{Context, Result, anyhow, bail};
use nix_hydra_buildpack::closure::fetch::fetch;
use nix_hydra_buildpack::closure::plan::{Caches, Known};
use nix_hydra_buildpack::closure::references::References;
use nix_hydra_buildpack::closure::relocate::Relocation;
use nix_hydra_buildpack::config::TrustSettings;
use nix_hydra_buildpack::http::Http;
use std::path::Path;

/// Downloads the closure of `root` from the cache at `url` into the new directory `store`.
///
/// `how` says what becomes of references: `plain`, where nobody looks for them; `looked`, as by
/// default; `moved`, where they are rewritten.
pub(crate) fn run(how: &str, url: &str, key: &str, root: &str, store: &Path) -> Result<()> {
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
    let paths = closure.paths.keys();
    let references = match how {
        "plain" => None,
        "looked" => Some(References::new(paths, None)),
        "moved" => {
            let relocation = Relocation::new(store).map_err(|error| anyhow!("{error:?}"))?;
            Some(References::new(paths, Some(&relocation)))
        }
        other => bail!("{other}: there are plain, looked and moved"),
    };
    std::fs::create_dir_all(store)?;
    let survey = fetch(&closure, &caches, store, references.as_ref())
        .map_err(|error| anyhow!("{error:?}"))?;
    println!("{} files, {} references", survey.files, survey.references);
    for obstacle in survey.obstacles {
        println!("{obstacle:?}");
    }
    Ok(())
}
