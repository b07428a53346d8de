//! Our own download, as the buildpack does it on a first build.

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix_hydra_buildpack::closure::fetch::fetch;
use nix_hydra_buildpack::closure::plan::{Caches, Known};
use nix_hydra_buildpack::closure::references::References;
use nix_hydra_buildpack::closure::relocate::Relocation;
use nix_hydra_buildpack::config::TrustSettings;
use nix_hydra_buildpack::http::Http;
use std::path::Path;

/// Downloads the closure of `root` from the cache at `url` into the new directory `store`.
///
/// `how` says what becomes of references: by default they are looked for (`looked`), with an engine
/// named they are not (`plain`), and where the closure is relocated they are rewritten (`moved`).
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
    let link = tempfile::Builder::new().prefix("b").tempdir_in("/tmp")?;
    let references = match how {
        "plain" => None,
        "looked" => Some(References::new(paths, None)),
        "moved" => {
            // The layer's name is short; that of this directory is not.
            let layer = link.path().join("x");
            std::os::unix::fs::symlink(store, &layer)?;
            let relocation = Relocation::new(&layer).map_err(|error| anyhow!("{error:?}"))?;
            Some(References::new(paths, Some(relocation)))
        }
        other => bail!("{other}: there are plain, looked and moved"),
    };
    std::fs::create_dir_all(store)?;
    let survey = fetch(&closure, &caches, store, references.as_ref())
        .map_err(|error| anyhow!("{error:?}"))?;
    ensure!(
        survey.obstacles.is_empty(),
        "it cannot be moved: {:?}",
        survey.obstacles
    );
    Ok(())
}
