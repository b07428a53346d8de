//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use super::Closure;
use super::path_info::PathInfo;
use super::plan::Caches;
use super::unpack::{Expected, UnpackError, Unpacker};
use crate::cache::CacheError;
use nix_derivation::StorePath;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// NARs in work at once for each core: with latency a thread mostly waits.
const WORKERS_PER_CORE: usize = 8;

/// Fewest and most NARs in work at once. Each may hold an xz or zstd window of up to 8 MiB.
const WORKERS: std::ops::RangeInclusive<usize> = 16..=32;

/// How often a NAR is downloaded from one cache before another one is asked.
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
    let mut queue: Vec<(&StorePath, &PathInfo)> = closure.paths.iter().collect();
    // The largest decides when the whole is done, so it must not be the last to start.
    queue.sort_by_key(|(_, info)| std::cmp::Reverse(info.nar_size));
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
                while let Some((path, info)) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = fetch_path(path, info, caches, store, &mut unpacker) {
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

/// Fetches one path from the cache that it was planned from, else from any other that has the same.
fn fetch_path(
    path: &StorePath,
    planned: &PathInfo,
    caches: &Caches,
    store: &Path,
    unpacker: &mut Unpacker,
) -> Result<(), FetchError> {
    let destination = store.join(path.to_basename());
    let mut fetch_from = |info: &PathInfo| {
        let mut attempt = 1;
        loop {
            match fetch_once(info, caches, &destination, unpacker) {
                Err(reason) if attempt < ATTEMPTS && !reason.is_final() => {
                    attempt += 1;
                    remove(&destination)?;
                }
                result => return result,
            }
        }
    };
    let mut tried = Vec::new();
    let mut info = planned.clone();
    let first = loop {
        match fetch_from(&info) {
            Ok(()) => return Ok(()),
            Err(reason) => tried.push((info.url.clone(), info.cache.clone(), reason)),
        }
        if tried.iter().any(|(_, _, reason)| reason.is_local()) {
            break tried.swap_remove(tried.len() - 1);
        }
        // Only what has the same content and references fits into the closure that was planned.
        let other = caches.look_up(path, |other| {
            other.nar_hash == planned.nar_hash
                && other.references == planned.references
                && !tried
                    .iter()
                    .any(|(url, cache, _)| (url, cache) == (&other.url, &other.cache))
        });
        match other {
            Ok(other) => info = other,
            Err(_) => break tried.swap_remove(0),
        }
        if let Err(reason) = remove(&destination) {
            break (info.url.clone(), info.cache.clone(), reason);
        }
    };
    let (_, cache, reason) = first;
    Err(FetchError {
        path: path.clone(),
        cache,
        reason,
    })
}

fn fetch_once(
    info: &PathInfo,
    caches: &Caches,
    destination: &Path,
    unpacker: &mut Unpacker,
) -> Result<(), FetchFailure> {
    let cache = caches
        .get(&info.cache)
        .ok_or(FetchFailure::Open(CacheError::NoCacheInfo))?;
    let mut nar = cache
        .nar(&info.url, &info.compression, info.nar_size)
        .map_err(FetchFailure::Open)?;
    let expected = Expected {
        hash: &info.nar_hash,
        size: info.nar_size,
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

    /// Whether the same cache would give the same answer again.
    fn is_final(&self) -> bool {
        self.is_local() || matches!(self, Self::Open(_))
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
