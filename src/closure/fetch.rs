//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use super::plan::Caches;
use super::unpack::{Expected, UnpackError, Unpacker};
use super::{Closure, PlannedPath};
use crate::cache::{BinaryCache, CacheError};
use nix_derivation::StorePath;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// NARs in work at once for each core: with latency a thread mostly waits.
const WORKERS_PER_CORE: usize = 4;

/// Fewest and most NARs in work at once. Each may hold an xz or zstd window of up to 8 MiB.
const WORKERS: std::ops::RangeInclusive<usize> = 8..=16;

/// How often a NAR is downloaded before its failure is final.
const ATTEMPTS: u32 = 2;

/// Why a closure could not be downloaded: the path, where it came from, and what went wrong.
#[derive(Debug)]
pub struct FetchError {
    pub path: StorePath,
    /// The URL of the binary cache, as messages show it.
    pub cache: String,
    pub reason: FetchFailure,
}

/// What went wrong with one NAR.
#[derive(Debug)]
pub enum FetchFailure {
    Open(CacheError),
    Unpack(UnpackError),
}

/// Downloads every path of `closure` to `store/<base name>`, each checked against its narinfo.
///
/// `store` must exist and hold none of the paths. On an error it holds some of them, and is to be
/// thrown away: a closure is whole or nothing.
pub fn fetch(closure: &Closure, caches: &Caches, store: &Path) -> Result<(), FetchError> {
    let mut queue: Vec<(&StorePath, &PlannedPath)> = closure.paths.iter().collect();
    // The largest decides when the whole is done, so it must not be the last to start.
    queue.sort_by_key(|(_, planned)| std::cmp::Reverse(planned.narinfo.nar_size()));
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<FetchError>> = Mutex::new(None);

    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = (cores * WORKERS_PER_CORE)
        .clamp(*WORKERS.start(), *WORKERS.end())
        .min(queue.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut unpacker = Unpacker::default();
                while let Some((path, planned)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = fetch_path(path, planned, caches, store, &mut unpacker) {
                        // Nobody needs the rest any more.
                        next.store(queue.len(), Ordering::Relaxed);
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn fetch_path(
    path: &StorePath,
    planned: &PlannedPath,
    caches: &Caches,
    store: &Path,
    unpacker: &mut Unpacker,
) -> Result<(), FetchError> {
    let fail = |cache: String, reason| FetchError {
        path: path.clone(),
        cache,
        reason,
    };
    let Some(cache) = caches.get(planned.cache) else {
        return Err(fail(
            String::new(),
            FetchFailure::Open(CacheError::NoCacheInfo),
        ));
    };
    let destination = store.join(path.to_basename());
    let mut attempt = 1;
    loop {
        match fetch_once(planned, cache, &destination, unpacker) {
            Ok(()) => return Ok(()),
            Err(reason) if attempt == ATTEMPTS || reason.is_local() => {
                return Err(fail(cache.url().to_string(), reason));
            }
            Err(_) => {
                attempt += 1;
                remove(&destination).map_err(|error| fail(cache.url().to_string(), error))?;
            }
        }
    }
}

fn fetch_once(
    planned: &PlannedPath,
    cache: &BinaryCache,
    destination: &Path,
    unpacker: &mut Unpacker,
) -> Result<(), FetchFailure> {
    let mut nar = cache.nar(&planned.narinfo).map_err(FetchFailure::Open)?;
    let expected = Expected {
        hash: planned.narinfo.nar_hash(),
        size: planned.narinfo.nar_size(),
    };
    unpacker
        .unpack(&mut nar, &expected, destination)
        .map_err(FetchFailure::Unpack)
}

impl FetchFailure {
    /// Whether the fault is on this side, where another attempt meets it again.
    fn is_local(&self) -> bool {
        matches!(self, Self::Unpack(UnpackError::Write(..)))
    }
}

fn remove(path: &Path) -> Result<(), FetchFailure> {
    let result = match path.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    result.map_err(|error| FetchFailure::Unpack(UnpackError::Write(path.to_path_buf(), error)))
}
