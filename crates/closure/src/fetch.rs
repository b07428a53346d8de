//! Downloads a planned closure into a store directory: NARs side by side, largest first.

use crate::content::Content;
use crate::decode_memory::{HEAD, reserve, reserve_all};
use crate::decode_permits::DecodePermits;
use crate::parallel::lock;
use crate::queue::{Queue, QueuedPath};
use crate::relocate::findings::Findings;
use crate::relocate::references::{ReferenceScanner, ScanFor};
use crate::relocate::report::RelocationReport;
use crate::unpack::{Expected, UnpackError, Unpacker};
use binary_cache::{CacheAnswer, CacheError, Caches, NarSource, PathInfo, is_identity};
use nix_derivation::StorePath;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// NARs in work at once: with latency a thread mostly waits. What their decoders take is limited in all,
/// see [`crate::decode_memory`]; a thread itself has 1.3 MiB of buffers.
const WORKERS: usize = 32;

/// NARs that are decoded at once beyond one a core: decoders also wait for the disk.
const SPARE_PERMITS: usize = 1;

/// How often a NAR is downloaded from one URL before another one is asked for.
const ATTEMPTS: u32 = 2;

/// How many URLs of one NAR are tried at one cache, which may give another with each answer.
const URLS: usize = 3;

/// Why a closure could not be downloaded: the path, where it came from, and what went wrong.
#[derive(Debug, thiserror::Error)]
#[error("{path}{}: {reason}", .cache.as_ref().map_or_else(String::new, |cache| format!(" from {cache}")))]
pub struct FetchError {
    pub path: StorePath,
    /// The URL of the binary cache, as messages show it; `None` if there was none to ask.
    pub cache: Option<String>,
    #[source]
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

/// What all threads need: the paths to download, and where NARs come from.
struct Fetcher<'a> {
    queue: &'a Queue,
    caches: &'a Caches,
    scan_for: &'a ScanFor,
    permits: Arc<DecodePermits>,
}

/// The download of one store path: from the cache that it was planned from, else from any other that has
/// the same content.
struct Download<'a> {
    fetcher: &'a Fetcher<'a>,
    path: &'a QueuedPath,
    scanner: Option<&'a ReferenceScanner>,
    /// The sources that were tried, and how each failed.
    tried: Vec<(NarSource, FetchError)>,
}

/// Downloads every path of `queue` to its place until the queue is closed and empty, each checked against
/// its narinfo. Returns each with the cache that it finally came from, and what was found in it.
///
/// On an error some of the paths are there, and are to be thrown away: a closure is whole or nothing.
pub fn fetch_each(
    queue: &Queue,
    caches: &Caches,
    scan_for: &ScanFor,
) -> Result<Vec<(QueuedPath, RelocationReport)>, FetchError> {
    let failed: Mutex<Option<FetchError>> = Mutex::new(None);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = WORKERS.min(queue.len().unwrap_or(usize::MAX));
    let fetcher = Fetcher {
        queue,
        caches,
        scan_for,
        permits: DecodePermits::new(cores + SPARE_PERMITS),
    };
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut unpacker = Unpacker::default();
                while let Some(path) = queue.next() {
                    match fetcher.fetch(path, &mut unpacker) {
                        Ok(one) => lock(&done).push(one),
                        Err(error) => {
                            lock(&failed).get_or_insert(error);
                            // The rest is of no use without this one.
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
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

impl Fetcher<'_> {
    /// Downloads a path. Returns it as it finally came, and what was found in it.
    fn fetch(
        &self,
        mut path: QueuedPath,
        unpacker: &mut Unpacker,
    ) -> Result<(QueuedPath, RelocationReport), FetchError> {
        let own;
        let scanner = match self.scan_for {
            ScanFor::Nothing => None,
            ScanFor::Declared => {
                let declared = path.info.references.iter();
                own = ReferenceScanner::new(declared.chain([&path.path]), None);
                Some(&own)
            }
            ScanFor::All(scanner) => Some(scanner),
        };
        let download = Download {
            fetcher: self,
            path: &path,
            scanner,
            tried: Vec::new(),
        };
        let (info, findings) = download.run(unpacker)?;
        path.info = info;
        let QueuedPath {
            path: store_path,
            info,
            place,
        } = &path;
        let report = match scanner {
            None => Ok(RelocationReport {
                has_escaping_links: findings.has_escaping_links,
                ..RelocationReport::default()
            }),
            Some(scanner) => {
                RelocationReport::new(store_path, place, findings, &info.references, scanner)
                    .map_err(|error| FetchError::on_disk(&path, error))
            }
        };
        report.map(|report| (path, report))
    }
}

impl Download<'_> {
    fn run(mut self, unpacker: &mut Unpacker) -> Result<(PathInfo, Findings), FetchError> {
        let planned = &self.path.info;
        let mut offer = Some(planned.clone()).filter(|info| self.fetcher.caches.offers(info));
        loop {
            let info = match offer.take() {
                Some(info) => info,
                None => self.look_up_other()?,
            };
            match self.fetch_from(&info, unpacker) {
                Ok(findings) => return Ok((info, findings)),
                Err(reason) => {
                    let is_last = self.fetcher.queue.is_stopped() || reason.is_local();
                    let error = self.error(&info, reason);
                    if is_last {
                        return Err(error);
                    }
                    remove(&self.path.place).map_err(|reason| self.error(&info, reason))?;
                    self.tried.extend(info.source.map(|source| (source, error)));
                }
            }
        }
    }

    /// Asks the caches for another NAR of the path: one that has the same content and references, so
    /// that it fits into the closure that was planned.
    fn look_up_other(&mut self) -> Result<PathInfo, FetchError> {
        let planned = &self.path.info;
        let accepts = |other: &PathInfo| {
            let Some(source) = &other.source else {
                return false;
            };
            let of_cache = || {
                let tried = self.tried.iter().map(|(tried, _)| tried);
                tried.filter(|tried| tried.cache == source.cache)
            };
            other.nar_hash == planned.nar_hash
                && other.references == planned.references
                && of_cache().count() < URLS
                && !of_cache().any(|tried| tried.url == source.url)
        };
        let found = self.fetcher.caches.look_up_nar(&self.path.path, accepts);
        found.map_err(|answers| {
            let has_other_build = self.has_other_build();
            // What was wrong with the one that was planned says most.
            let first = std::mem::take(&mut self.tried).into_iter().next();
            let lost = || self.error(planned, FetchFailure::Lost(answers));
            FetchError {
                has_other_build,
                ..first.map_or_else(lost, |(_, error)| error)
            }
        })
    }

    /// Whether a cache that was not tried has the path with another NAR. It may be used, but only by a
    /// new plan: its references may be others, too.
    fn has_other_build(&self) -> bool {
        let is_other = |other: &PathInfo| {
            let is_tried = |cache| self.tried.iter().any(|(tried, _)| tried.cache == cache);
            let source = other.source.as_ref();
            other.nar_hash != self.path.info.nar_hash
                && source.is_some_and(|source| !is_tried(source.cache))
        };
        let caches = self.fetcher.caches;
        caches.look_up_nar(&self.path.path, is_other).is_ok()
    }

    /// Downloads the path as `info` has it, again where something may have happened on the way.
    fn fetch_from(
        &self,
        info: &PathInfo,
        unpacker: &mut Unpacker,
    ) -> Result<Findings, FetchFailure> {
        let mut attempt = 1;
        loop {
            match self.fetch_once(info, unpacker, attempt > 1) {
                Err(reason)
                    if attempt < ATTEMPTS
                        && !reason.is_final()
                        && !self.fetcher.queue.is_stopped() =>
                {
                    attempt += 1;
                    remove(&self.path.place)?;
                }
                result => return result,
            }
        }
    }

    fn fetch_once(
        &self,
        info: &PathInfo,
        unpacker: &mut Unpacker,
        is_repeated: bool,
    ) -> Result<Findings, FetchFailure> {
        let Fetcher {
            queue,
            caches,
            permits,
            ..
        } = self.fetcher;
        let source = info.source.as_ref();
        let attempt = source.and_then(|source| Some((source, caches.attempt(source.cache)?)));
        let (source, attempt) = attempt.ok_or(FetchFailure::Open(CacheError::NoCacheInfo))?;
        let nar = attempt.nar(source).map_err(FetchFailure::Open)?;
        let mut nar = queue.until_stopped(nar);
        if !is_identity(&source.compression) {
            let mut head = Vec::new();
            let read = nar.by_ref().take(HEAD as u64).read_to_end(&mut head);
            read.map_err(|error| {
                attempt.broke(&error);
                FetchFailure::Unpack(UnpackError::Read(error))
            })?;
            // A later part of it may need more memory than the first.
            let memory = if is_repeated {
                reserve_all(info.nar_size)
            } else {
                reserve(&source.compression, &head, Some(info.nar_size))
            };
            let bytes = permits.read_ahead(Box::new(Cursor::new(head).chain(nar)));
            let decoder = memory
                .decoder(bytes, &source.compression)
                .map_err(|error| FetchFailure::Open(CacheError::Decode(error)))?;
            nar = Box::new(decoder);
        }
        let content = info.content.as_ref();
        let expected = Expected {
            hash: &info.nar_hash,
            size: info.nar_size,
            content: content
                .map(|address| Content::new(address, &self.path.path, &info.references)),
        };
        let result = unpacker.unpack(&mut nar, &expected, &self.path.place, self.scanner);
        match &result {
            Ok(_) => attempt.answered(),
            Err(UnpackError::Read(error)) if !queue.is_stopped() => attempt.broke(error),
            Err(_) => {}
        }
        result.map_err(FetchFailure::Unpack)
    }

    fn error(&self, info: &PathInfo, reason: FetchFailure) -> FetchError {
        FetchError {
            path: self.path.path.clone(),
            cache: self.fetcher.caches.name_of(info),
            reason,
            has_other_build: false,
        }
    }
}

impl FetchError {
    /// Something is wrong with the place that a path was written to.
    pub(super) fn on_disk(path: &QueuedPath, error: io::Error) -> Self {
        let reason = FetchFailure::Unpack(UnpackError::Write(path.place.clone(), error));
        Self {
            path: path.path.clone(),
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
