//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use crate::Closure;
use crate::content::Content;
use crate::decode_permits::Turns;
use crate::queue::{Queue, Wanted};
use crate::relocate::references::{References, Sought};
use crate::relocate::relocatability::{Met, Survey, survey};
use crate::unpack::{Expected, UnpackError, Unpacker};
use binary_cache::{
    CacheAnswer, CacheError, Caches, NarSource, PathInfo, is_identity, nar_decoder,
};
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

/// How often a NAR is downloaded from one URL before another one is asked for.
const ATTEMPTS: u32 = 2;

/// How many URLs of one NAR are tried at one cache, which may give another with each answer.
const URLS: usize = 3;

/// Why a closure could not be downloaded: the path, where it came from, and what went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{path}{}: {reason}", .cache.as_ref().map_or_else(String::new, |cache| format!(" from {cache}")))]
pub struct FetchError {
    pub path: StorePath,
    /// The URL of the binary cache, as messages show it; None if there was none to ask.
    pub cache: Option<String>,
    pub reason: FetchFailure,
    /// Whether another cache has a build of its own of the path, with another NAR.
    pub has_other_build: bool,
}

/// What went wrong with one NAR.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    #[error(transparent)]
    Open(#[from] CacheError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// An earlier build had it, and no cache has it now.
    #[error("no cache has it any more")]
    Lost(Vec<CacheAnswer>),
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
/// empty; each with where it came from in the end, and what was found in it.
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
                while let Some(mut wanted) = queue.next() {
                    match work.run(&mut wanted, &mut unpacker) {
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
    /// Fetches a path, notes where it came from, and answers what was found in it.
    fn run(&self, wanted: &mut Wanted, unpacker: &mut Unpacker) -> Result<Survey, FetchError> {
        let own;
        let references = match self.sought {
            Sought::Nothing => None,
            Sought::Declared => {
                let declared = wanted.info.references.iter();
                own = References::new(declared.chain([&wanted.path]), None);
                Some(&own)
            }
            Sought::All(references) => Some(references),
        };
        let met = self.fetch(wanted, unpacker, references)?;
        let Wanted { path, info, place } = &*wanted;
        match references {
            None => Ok(Survey {
                leaves: met.leaves,
                ..Survey::default()
            }),
            Some(references) => survey(path, place, met, &info.references, references)
                .map_err(|error| FetchError::on_disk(wanted, error)),
        }
    }

    /// Fetches a path from the cache that it was planned from, else from any other that has the same.
    fn fetch(
        &self,
        wanted: &mut Wanted,
        unpacker: &mut Unpacker,
        references: Option<&References>,
    ) -> Result<Met, FetchError> {
        let planned = &wanted.info;
        let mut tried: Vec<(NarSource, FetchError)> = Vec::new();
        let mut offer = Some(planned.clone()).filter(|info| self.caches.offers(info));
        loop {
            // Only what has the same content and references fits into the closure that was planned.
            let accepts = |other: &PathInfo| {
                let Some(source) = &other.source else {
                    return false;
                };
                let of_cache = || {
                    tried
                        .iter()
                        .filter(|(tried, _)| tried.cache == source.cache)
                };
                other.nar_hash == planned.nar_hash
                    && other.references == planned.references
                    && of_cache().count() < URLS
                    && !of_cache().any(|(tried, _)| tried.url == source.url)
            };
            let info = match offer.take() {
                Some(info) => info,
                None => match self.caches.look_up_nar(&wanted.path, accepts) {
                    Ok(info) => info,
                    // What was wrong with the one that was planned says most.
                    Err(answers) => {
                        let has_other_build = self.has_other_build(wanted, &tried);
                        let first = tried.into_iter().next().map(|(_, error)| error);
                        let lost = || self.error(wanted, planned, FetchFailure::Lost(answers));
                        return Err(FetchError {
                            has_other_build,
                            ..first.unwrap_or_else(lost)
                        });
                    }
                },
            };
            match self.fetch_from(wanted, &info, unpacker, references) {
                Ok(met) => {
                    wanted.info = info;
                    return Ok(met);
                }
                Err(reason) => {
                    let is_last = self.queue.is_stopped() || reason.is_local();
                    let error = self.error(wanted, &info, reason);
                    if is_last {
                        return Err(error);
                    }
                    remove(&wanted.place).map_err(|reason| self.error(wanted, &info, reason))?;
                    tried.extend(info.source.map(|source| (source, error)));
                }
            }
        }
    }

    fn error(&self, wanted: &Wanted, info: &PathInfo, reason: FetchFailure) -> FetchError {
        FetchError {
            path: wanted.path.clone(),
            cache: self.caches.name_of(info),
            reason,
            has_other_build: false,
        }
    }

    /// Whether a cache that was not tried has the path with another NAR. It may be used, but only by a
    /// new plan: its references may be others, too.
    fn has_other_build(&self, wanted: &Wanted, tried: &[(NarSource, FetchError)]) -> bool {
        let is_other = |other: &PathInfo| {
            let is_tried =
                |source: &NarSource| tried.iter().any(|(tried, _)| tried.cache == source.cache);
            other.nar_hash != wanted.info.nar_hash
                && other
                    .source
                    .as_ref()
                    .is_some_and(|source| !is_tried(source))
        };
        self.caches.look_up_nar(&wanted.path, is_other).is_ok()
    }

    /// Fetches a path as `info` has it, again where something may have happened on the way.
    fn fetch_from(
        &self,
        wanted: &Wanted,
        info: &PathInfo,
        unpacker: &mut Unpacker,
        references: Option<&References>,
    ) -> Result<Met, FetchFailure> {
        let mut attempt = 1;
        loop {
            match self.fetch_once(wanted, info, unpacker, references) {
                Err(reason)
                    if attempt < ATTEMPTS && !reason.is_final() && !self.queue.is_stopped() =>
                {
                    attempt += 1;
                    remove(&wanted.place)?;
                }
                result => return result,
            }
        }
    }

    fn fetch_once(
        &self,
        wanted: &Wanted,
        info: &PathInfo,
        unpacker: &mut Unpacker,
        references: Option<&References>,
    ) -> Result<Met, FetchFailure> {
        let source = info.source.as_ref();
        let attempt = source.and_then(|source| Some((source, self.caches.attempt(source.cache)?)));
        let (source, attempt) = attempt.ok_or(FetchFailure::Open(CacheError::NoCacheInfo))?;
        let nar = attempt.nar(source).map_err(FetchFailure::Open)?;
        let mut nar = self.queue.until_stopped(nar);
        if !is_identity(&source.compression) {
            let bytes = self.turns.read_ahead(nar);
            nar = nar_decoder(bytes, &source.compression, info.nar_size)
                .map_err(|error| FetchFailure::Open(CacheError::Decode(error)))?;
        }
        let content = info.content.as_ref();
        let expected = Expected {
            hash: &info.nar_hash,
            size: info.nar_size,
            content: content.map(|address| Content::new(address, &wanted.path, &info.references)),
        };
        let result = unpacker.unpack(&mut nar, &expected, &wanted.place, references);
        match &result {
            Ok(_) => attempt.answered(),
            Err(UnpackError::Read(error)) if !self.queue.is_stopped() => attempt.broke(error),
            Err(_) => {}
        }
        result.map_err(FetchFailure::Unpack)
    }
}

impl FetchError {
    /// Something is wrong with the place that a path was written to.
    pub(super) fn on_disk(wanted: &Wanted, error: io::Error) -> Self {
        let reason = FetchFailure::Unpack(UnpackError::Write(wanted.place.clone(), error));
        Self {
            path: wanted.path.clone(),
            cache: None,
            reason,
            has_other_build: false,
        }
    }
}

impl FetchFailure {
    /// Whether the fault is on this side, where another attempt meets it again.
    fn is_local(&self) -> bool {
        matches!(self, Self::Unpack(UnpackError::Write(..)))
    }

    /// Whether the path may be another one than was planned, of the same name.
    #[must_use]
    pub fn may_be_another(&self) -> bool {
        match self {
            Self::Open(error) => error.is_absent(),
            Self::Unpack(error) => matches!(
                error,
                UnpackError::Truncated(_) | UnpackError::TooLong | UnpackError::WrongHash(_)
            ),
            Self::Lost(_) => true,
        }
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
