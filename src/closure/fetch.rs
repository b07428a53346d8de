//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use super::Closure;
use super::path_info::PathInfo;
use super::plan::Caches;
use super::references::References;
use super::survey::{Survey, survey};
use super::turns::Turns;
use super::unpack::{Expected, UnpackError, Unpacker};
use crate::cache::{CacheError, is_identity, nar_decoder};
use nix_derivation::StorePath;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// NARs in work at once for each core: with latency a thread mostly waits.
const WORKERS_PER_CORE: usize = 8;

/// Fewest and most NARs in work at once. Each may hold an xz or zstd window of up to 8 MiB.
const WORKERS: std::ops::RangeInclusive<usize> = 16..=32;

/// NARs that are decoded at once beyond one a core: decoders also wait for the disk.
const SPARE_TURNS: usize = 1;

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

/// What all threads need: where NARs come from, and what becomes of them.
struct Work<'a> {
    caches: &'a Caches,
    turns: Arc<Turns>,
    references: Option<&'a References>,
}

/// Downloads every path of `closure` to `store/<base name>`, each checked against its narinfo.
///
/// `store` must exist and hold none of the paths. On an error it holds some of them, and is to be
/// thrown away: a closure is whole or nothing.
///
/// Where `references` are given they are looked for, and rewritten if they move.
pub fn fetch(
    closure: &Closure,
    caches: &Caches,
    store: &Path,
    references: Option<&References>,
) -> Result<Survey, FetchError> {
    let wanted = closure.paths.iter().map(|(path, info)| {
        let place = store.join(path.to_basename());
        Wanted { path, info, place }
    });
    let mut survey = Survey::default();
    for (_, found) in fetch_each(wanted.collect(), caches, references)? {
        survey.add(found);
    }
    survey.obstacles.sort();
    Ok(survey)
}

/// A store path that is to be downloaded, and to where.
#[derive(Debug)]
pub struct Wanted<'a> {
    pub path: &'a StorePath,
    pub info: &'a PathInfo,
    /// It must not exist, but the directory that it is in must.
    pub place: PathBuf,
}

/// The same for some paths, each to a place of its own; what was found in each of them.
pub fn fetch_each<'a>(
    mut queue: Vec<Wanted<'a>>,
    caches: &Caches,
    references: Option<&References>,
) -> Result<Vec<(&'a StorePath, Survey)>, FetchError> {
    // The largest decides when the whole is done, so it must not be the last to start.
    queue.sort_by_key(|wanted| std::cmp::Reverse(wanted.info.nar_size));
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<FetchError>> = Mutex::new(None);

    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = (cores * WORKERS_PER_CORE)
        .clamp(*WORKERS.start(), *WORKERS.end())
        .min(queue.len());
    let work = Work {
        caches,
        turns: Turns::new(cores + SPARE_TURNS),
        references,
    };
    let surveyed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut unpacker = Unpacker::default();
                while let Some(wanted) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match fetch_path(wanted, &work, &mut unpacker) {
                        Ok(survey) => lock(&surveyed).push((wanted.path, survey)),
                        Err(error) => {
                            // Nobody needs the rest any more.
                            next.store(queue.len(), Ordering::Relaxed);
                            lock(&failed).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    Ok(surveyed
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fetches one path from the cache that it was planned from, else from any other that has the same.
fn fetch_path(
    wanted: &Wanted<'_>,
    work: &Work<'_>,
    unpacker: &mut Unpacker,
) -> Result<Survey, FetchError> {
    let Wanted {
        path,
        info: planned,
        place: destination,
    } = wanted;
    let mut fetch_from = |info: &PathInfo| {
        let mut attempt = 1;
        loop {
            match fetch_once(path, info, work, destination, unpacker) {
                Err(reason) if attempt < ATTEMPTS && !reason.is_final() => {
                    attempt += 1;
                    remove(destination)?;
                }
                result => return result,
            }
        }
    };
    let mut tried = Vec::new();
    let mut info = (*planned).clone();
    let first = loop {
        match fetch_from(&info) {
            Ok(survey) => return Ok(survey),
            Err(reason) => tried.push((info.url.clone(), info.cache.clone(), reason)),
        }
        if tried.iter().any(|(_, _, reason)| reason.is_local()) {
            break tried.swap_remove(tried.len() - 1);
        }
        // Only what has the same content and references fits into the closure that was planned.
        let other = work.caches.look_up(path, |other| {
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
        if let Err(reason) = remove(destination) {
            break (info.url.clone(), info.cache.clone(), reason);
        }
    };
    let (_, cache, reason) = first;
    Err(FetchError {
        path: (*path).clone(),
        cache,
        reason,
    })
}

fn fetch_once(
    path: &StorePath,
    info: &PathInfo,
    work: &Work<'_>,
    destination: &Path,
    unpacker: &mut Unpacker,
) -> Result<Survey, FetchFailure> {
    let cache = work
        .caches
        .get(&info.cache)
        .ok_or(FetchFailure::Open(CacheError::NoCacheInfo))?;
    let mut nar = cache.nar(&info.url).map_err(FetchFailure::Open)?;
    if !is_identity(&info.compression) {
        let bytes = work.turns.read_ahead(nar);
        nar = nar_decoder(bytes, &info.compression, info.nar_size)
            .map_err(|error| FetchFailure::Open(CacheError::Decode(error)))?;
    }
    let expected = Expected {
        hash: &info.nar_hash,
        size: info.nar_size,
    };
    let met = unpacker
        .unpack(&mut nar, &expected, destination, work.references)
        .map_err(FetchFailure::Unpack)?;
    let leaves = met.leaves;
    let survey = match work.references {
        None => Survey::default(),
        Some(references) => {
            survey(path, destination, met, &info.references, references).map_err(|error| {
                FetchFailure::Unpack(UnpackError::Write(destination.to_path_buf(), error))
            })?
        }
    };
    Ok(Survey { leaves, ..survey })
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
