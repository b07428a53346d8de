//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use super::Closure;
use super::path_info::PathInfo;
use super::plan::Caches;
use super::queue::{Queue, Wanted};
use super::references::{References, Sought};
use super::survey::{Met, Survey, survey};
use super::turns::Turns;
use super::unpack::{Expected, UnpackError, Unpacker};
use crate::cache::{CacheError, is_identity, nar_decoder};
use nix_derivation::StorePath;
use std::io;
use std::path::Path;
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

/// What all threads need: what there is to do, and where NARs come from.
struct Work<'a> {
    queue: &'a Queue,
    caches: &'a Caches,
    sought: &'a Sought,
    turns: Arc<Turns>,
}

/// Downloads every path of `closure` to `store/<base name>`, each checked against its narinfo.
///
/// `store` must exist and hold none of the paths. On an error it holds some of them, and is to be
/// thrown away: a closure is whole or nothing.
pub fn fetch(
    closure: &Closure,
    caches: &Caches,
    store: &Path,
    sought: &Sought,
) -> Result<Survey, FetchError> {
    let wanted = closure.paths.iter().map(|(path, info)| Wanted {
        path: path.clone(),
        info: info.clone(),
        place: store.join(path.to_basename()),
    });
    let mut survey = Survey::default();
    for (_, found) in fetch_each(&Queue::of(wanted), caches, sought)? {
        survey.add(found);
    }
    survey.obstacles.sort();
    Ok(survey)
}

/// The same for all that is in `queue`, each path to a place of its own, until it is closed and
/// empty; each with what was found in it.
pub fn fetch_each(
    queue: &Queue,
    caches: &Caches,
    sought: &Sought,
) -> Result<Vec<(Wanted, Survey)>, FetchError> {
    let failed: Mutex<Option<FetchError>> = Mutex::new(None);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = (cores * WORKERS_PER_CORE)
        .clamp(*WORKERS.start(), *WORKERS.end())
        .min(queue.len().unwrap_or(usize::MAX));
    let work = Work {
        queue,
        caches,
        sought,
        turns: Turns::new(cores + SPARE_TURNS),
    };
    let surveyed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut unpacker = Unpacker::default();
                while let Some(wanted) = queue.next() {
                    match work.run(&wanted, &mut unpacker) {
                        Ok(survey) => lock(&surveyed).push((wanted, survey)),
                        Err(error) => {
                            lock(&failed).get_or_insert(error);
                            // Nobody needs the rest any more.
                            queue.stop();
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

impl Work<'_> {
    /// Fetches a path, and answers what was found in it.
    fn run(&self, wanted: &Wanted, unpacker: &mut Unpacker) -> Result<Survey, FetchError> {
        let Wanted { path, info, place } = wanted;
        let declared = &info.references;
        let own;
        let references = match self.sought {
            Sought::Nothing => None,
            Sought::Declared => {
                own = References::new(declared.iter().chain([path]), None);
                Some(&own)
            }
            Sought::All(references) => Some(references),
        };
        let met = fetch_path(wanted, self, unpacker, references)?;
        match references {
            None => Ok(Survey {
                leaves: met.leaves,
                ..Survey::default()
            }),
            Some(references) => survey(path, place, met, declared, references)
                .map_err(|error| FetchError::on_disk(wanted, error)),
        }
    }
}

/// Fetches one path from the cache that it was planned from, else from any other that has the same.
fn fetch_path(
    wanted: &Wanted,
    work: &Work<'_>,
    unpacker: &mut Unpacker,
    references: Option<&References>,
) -> Result<Met, FetchError> {
    let Wanted {
        path,
        info: planned,
        place: destination,
    } = wanted;
    let mut fetch_from = |info: &PathInfo| {
        let mut attempt = 1;
        loop {
            match fetch_once(info, work, destination, unpacker, references) {
                Err(reason)
                    if attempt < ATTEMPTS && !reason.is_final() && !work.queue.is_stopped() =>
                {
                    attempt += 1;
                    remove(destination)?;
                }
                result => return result,
            }
        }
    };
    let mut tried = Vec::new();
    let mut info = planned.clone();
    let first = loop {
        match fetch_from(&info) {
            Ok(met) => return Ok(met),
            Err(reason) => tried.push((info.url.clone(), info.cache.clone(), reason)),
        }
        if work.queue.is_stopped() || tried.iter().any(|(_, _, reason)| reason.is_local()) {
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
        path: path.clone(),
        cache,
        reason,
    })
}

fn fetch_once(
    info: &PathInfo,
    work: &Work<'_>,
    destination: &Path,
    unpacker: &mut Unpacker,
    references: Option<&References>,
) -> Result<Met, FetchFailure> {
    let cache = work
        .caches
        .get(&info.cache)
        .ok_or(FetchFailure::Open(CacheError::NoCacheInfo))?;
    let nar = cache.nar(&info.url).map_err(FetchFailure::Open)?;
    let mut nar = work.queue.until_stopped(nar);
    if !is_identity(&info.compression) {
        let bytes = work.turns.read_ahead(nar);
        nar = nar_decoder(bytes, &info.compression, info.nar_size)
            .map_err(|error| FetchFailure::Open(CacheError::Decode(error)))?;
    }
    let expected = Expected {
        hash: &info.nar_hash,
        size: info.nar_size,
    };
    unpacker
        .unpack(&mut nar, &expected, destination, references)
        .map_err(FetchFailure::Unpack)
}

impl FetchError {
    /// Something is wrong with the place that a path was written to.
    pub(super) fn on_disk(wanted: &Wanted, error: io::Error) -> Self {
        Self {
            path: wanted.path.clone(),
            cache: wanted.info.cache.clone(),
            reason: FetchFailure::Unpack(UnpackError::Write(wanted.place.clone(), error)),
        }
    }
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
