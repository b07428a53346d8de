//! Our own download, as the buildpack does it on a first build.

use anyhow::{Context, Result, anyhow, bail, ensure};
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::fetch::fetch;
use closure::plan::Known;
use closure::prefetch::Early;
use closure::relocate::references::{References, Sought};
use closure::relocate::relocatability::Survey;
use closure::relocate::relocation::Relocation;
use http_client::Http;
use nix_derivation::StorePath;
use std::path::Path;
use std::sync::Arc;

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
    let caches = Arc::new(Caches::open(&[url], trust, &Http::new(), &hydra::sign_in));
    std::fs::create_dir_all(store)?;
    let survey = match how {
        "plain" => early(&caches, root, store, Sought::Nothing)?,
        "looked" => early(&caches, root, store, Sought::Declared)?,
        "moved" => moved(&caches, root, store)?,
        other => bail!("{other}: there are plain, looked and moved"),
    };
    ensure!(
        survey.obstacles.is_empty(),
        "it cannot be moved: {:?}",
        survey.obstacles
    );
    Ok(())
}

fn early(caches: &Arc<Caches>, root: StorePath, store: &Path, sought: Sought) -> Result<Survey> {
    let early = Early::begin(Arc::clone(caches), &store.join("early"), sought)?;
    closure::plan::plan_telling(caches, &[root], &Known::default(), |path, info| {
        early.want(path, info);
    })
    .map_err(|misses| anyhow!("{misses:?}"))?;
    let fetched = early
        .finish(|path| store.join(path.to_basename()))
        .map_err(|error| anyhow!("{error:?}"))?;
    let mut survey = Survey::default();
    for (_, found) in fetched {
        survey.add(found);
    }
    Ok(survey)
}

fn moved(caches: &Caches, root: StorePath, store: &Path) -> Result<Survey> {
    let closure = closure::plan::plan(caches, &[root], &Known::default())
        .map_err(|misses| anyhow!("{misses:?}"))?;
    // The layer's name is short; that of this directory is not.
    let link = tempfile::Builder::new().prefix("b").tempdir_in("/tmp")?;
    let layer = link.path().join("x");
    std::os::unix::fs::symlink(store, &layer)?;
    let relocation = Relocation::new(&layer).map_err(|error| anyhow!("{error:?}"))?;
    let references = References::new(closure.paths.keys(), Some(relocation));
    fetch(&closure, caches, store, &Sought::All(references)).map_err(|error| anyhow!("{error:?}"))
}
