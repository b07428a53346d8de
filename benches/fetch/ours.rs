//! Our own download, as the buildpack does it on a first build.

use anyhow::{Context, Result, anyhow, bail, ensure};
use binary_cache::Caches;
use binary_cache::TrustSettings;
use closure::fetch::fetch_each;
use closure::plan::Previous;
use closure::prefetch::Prefetch;
use closure::queue::{Queue, QueuedPath};
use closure::relocate::references::{ReferenceScanner, ScanFor};
use closure::relocate::relocation::Relocation;
use closure::relocate::report::RelocationReport;
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
    let report = match how {
        "plain" => early(&caches, root, store, ScanFor::Nothing)?,
        "looked" => early(&caches, root, store, ScanFor::Declared)?,
        "moved" => moved(&caches, root, store)?,
        other => bail!("{other}: there are plain, looked and moved"),
    };
    ensure!(
        report.blockers.is_empty(),
        "it cannot be moved: {:?}",
        report.blockers
    );
    Ok(())
}

fn early(
    caches: &Arc<Caches>,
    root: StorePath,
    store: &Path,
    scan_for: ScanFor,
) -> Result<RelocationReport> {
    let early = Prefetch::begin(Arc::clone(caches), &store.join("early"), scan_for)?;
    closure::plan::plan(caches, &[root], &Previous::default(), |path, info| {
        early.add(path, info);
    })
    .map_err(|misses| anyhow!("{misses:?}"))?;
    let fetched = early
        .finish(|path| store.join(path.to_basename()))
        .map_err(|error| anyhow!("{error:?}"))?;
    Ok(all(fetched))
}

fn moved(caches: &Caches, root: StorePath, store: &Path) -> Result<RelocationReport> {
    let closure = closure::plan::plan(caches, &[root], &Previous::default(), |_, _| {})
        .map_err(|misses| anyhow!("{misses:?}"))?;
    // The layer's name is short; that of this directory is not.
    let link = tempfile::Builder::new().prefix("b").tempdir_in("/tmp")?;
    let layer = link.path().join("x");
    std::os::unix::fs::symlink(store, &layer)?;
    let relocation = Relocation::new(&layer).map_err(|error| anyhow!("{error:?}"))?;
    let references = ReferenceScanner::new(closure.paths.keys(), Some(relocation));
    let paths = closure.paths.into_iter().map(|(path, info)| QueuedPath {
        place: store.join(path.to_basename()),
        path,
        info,
    });
    let fetched = fetch_each(&Queue::of(paths), caches, &ScanFor::All(references));
    fetched.map(all).map_err(|error| anyhow!("{error:?}"))
}

fn all(fetched: Vec<(QueuedPath, RelocationReport)>) -> RelocationReport {
    let mut all = RelocationReport::default();
    for (_, found) in fetched {
        all.add(found);
    }
    all
}
