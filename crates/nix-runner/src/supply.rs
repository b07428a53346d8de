//! Brings what an evaluation asks for from the binary caches into its store of NARs.
//!
//! A path without references is a source, which is asked for to be read, so its NAR is fetched with its
//! narinfo. Of any other the NAR is fetched when it is read.

use crate::nar_store::{Entry, NarStore, NarStoreError, hash_part, nar_name};
use crate::temporary;
use crate::{NixError, Substituters};
use binary_cache::{CacheAnswer, CacheError, NarSource, PathInfo, is_identity};
use closure::content::Content;
use closure::decode_memory::{HEAD, reserve, reserve_all};
use closure::parallel::{self, lock};
use closure::unpack::{Expected, UnpackError, Unpacker};
use nix_derivation::StorePath;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use tempfile::TempDir;
use thiserror::Error;

/// Sources that are fetched at once before Nix asks for them.
const PREFETCHED_AT_ONCE: usize = 8;

/// What a store of NARs is filled from.
#[derive(Debug)]
pub struct Supply {
    store: NarStore,
    /// Holds the store; removed when dropped.
    _directory: TempDir,
    substituters: Substituters,
    /// By the hash part of a store path.
    found: Mutex<HashMap<String, Arc<OnceLock<Found>>>>,
    /// NARs that are fetched when they are read, by the names of their files.
    later: Mutex<HashMap<String, (StorePath, PathInfo)>>,
    stopped: Arc<AtomicBool>,
}

/// What the binary caches had to say of a path.
#[derive(Debug)]
pub enum Found {
    Here,
    Absent(Vec<CacheAnswer>),
    /// It is there, but could not be fetched: the path, the cache, and why.
    Failed(StorePath, String, SupplyError),
}

/// Why a NAR could not be fetched.
#[derive(Debug, Error)]
pub enum SupplyError {
    #[error(transparent)]
    Open(#[from] CacheError),
    #[error(transparent)]
    Add(#[from] NarStoreError),
    #[error("its content is not what its store path is named after")]
    Content(#[source] UnpackError),
    #[error("no binary cache has this NAR any more")]
    Lost,
}

/// Reads a NAR, and checks that it is the one of this narinfo.
pub(crate) type TakeNar<'a> = dyn Fn(&PathInfo, &mut dyn Read) -> Result<(), SupplyError> + 'a;

/// Bytes that end with an error once the download was stopped.
struct UntilStopped {
    bytes: Box<dyn Read>,
    stopped: Arc<AtomicBool>,
}

impl Read for UntilStopped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.bytes.read(buffer)
    }
}

impl Supply {
    /// A new, empty store in a temporary directory, to be filled from `substituters`.
    pub fn new(substituters: Substituters) -> Result<Self, NixError> {
        let directory = temporary::directory()?;
        let store = NarStore::open(directory.path())
            .map_err(|error| NixError::Write(directory.path().to_path_buf(), error))?;
        Ok(Self {
            store,
            _directory: directory,
            substituters,
            found: Mutex::default(),
            later: Mutex::default(),
            stopped: Arc::default(),
        })
    }

    pub fn store(&self) -> &NarStore {
        &self.store
    }

    pub fn substituters(&self) -> &Substituters {
        &self.substituters
    }

    /// Whether the store has the path with this hash part, or has it now.
    pub fn bring(&self, hash_part: &str) -> bool {
        if self.store.has(hash_part) {
            return true;
        }
        let place = Arc::clone(lock(&self.found).entry(hash_part.to_string()).or_default());
        matches!(place.get_or_init(|| self.find(hash_part)), Found::Here)
    }

    /// Fetches the NAR with this file name, if it was promised by a narinfo.
    pub fn bring_nar(&self, name: &str) -> bool {
        let Some((path, info)) = lock(&self.later).get(name).cloned() else {
            return false;
        };
        self.fetch(&path, info, &|info, nar| self.add(&path, info, nar))
            .is_ok()
    }

    /// Fetches `paths` side by side, as far as the caches have them.
    pub fn prefetch(&self, paths: &[StorePath]) {
        let paths = paths.iter().collect();
        // It ends early if the evaluation is over.
        let _ = parallel::each(paths, PREFETCHED_AT_ONCE, |path| {
            if self.stopped.load(Ordering::Relaxed) {
                return Err(());
            }
            self.bring(hash_part(path).as_str());
            Ok(())
        });
    }

    /// Ends the downloads, since the evaluation is over.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Allows downloads again.
    pub fn resume(&self) {
        self.stopped.store(false, Ordering::Relaxed);
        lock(&self.found)
            .retain(|_, place| matches!(place.get(), Some(Found::Here | Found::Absent(_))));
    }

    /// Calls `look` with what was asked for and is not there: hash parts, and why.
    pub fn missing(&self, look: &mut dyn FnMut(&str, &Found)) {
        let found: BTreeMap<String, Arc<OnceLock<Found>>> = lock(&self.found)
            .iter()
            .map(|(hash, found)| (hash.clone(), Arc::clone(found)))
            .collect();
        for (hash_part, place) in found {
            if let Some(found @ (Found::Absent(_) | Found::Failed(..))) = place.get() {
                look(&hash_part, found);
            }
        }
    }

    fn find(&self, hash_part: &str) -> Found {
        let (path, info) = match self.substituters.caches().find(hash_part) {
            Ok(found) => found,
            Err(answers) => return Found::Absent(answers),
        };
        if info.references.is_empty() {
            let add = |info: &PathInfo, nar: &mut dyn Read| self.add(&path, info, nar);
            return match self.fetch(&path, info, &add) {
                Ok(()) => Found::Here,
                Err((cache, error)) => Found::Failed(path, cache, error),
            };
        }
        lock(&self.later).insert(nar_name(&info.nar_hash), (path.clone(), info.clone()));
        match self.store.register(&entry(&path, &info)) {
            Ok(()) => Found::Here,
            Err(error) => Found::Failed(path, self.cache_of(&info), error.into()),
        }
    }

    /// The cache that `info` is from, as messages show it.
    fn cache_of(&self, info: &PathInfo) -> String {
        let name = self.substituters.caches().name_of(info);
        name.unwrap_or_default()
    }

    /// Reads the NAR of a path with `take`, from the first cache that has it whole.
    pub(crate) fn fetch(
        &self,
        path: &StorePath,
        first: PathInfo,
        take: &TakeNar,
    ) -> Result<(), (String, SupplyError)> {
        let is_stopped = || self.stopped.load(Ordering::Relaxed);
        let caches = self.substituters.caches();
        let mut tried: Vec<NarSource> = Vec::new();
        let mut info = first;
        loop {
            let is_local =
                |error: &SupplyError| matches!(error, SupplyError::Add(NarStoreError::Write(..)));
            let fetched = self.fetch_from(&info, take, false);
            // It may have broken off, or need more memory than its beginning says.
            let fetched = fetched.or_else(|error| {
                if is_local(&error) || is_stopped() {
                    return Err(error);
                }
                self.fetch_from(&info, take, true)
            });
            let error = match fetched {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tried.extend(info.source.clone());
            let accepts = |other: &PathInfo| {
                let source = other.source.as_ref();
                other.nar_hash == info.nar_hash
                    && source.is_some_and(|source| !tried.contains(source))
            };
            if is_local(&error) || is_stopped() {
                return Err((self.cache_of(&info), error));
            }
            match caches.look_up_nar(path, accepts) {
                Ok(other) => info = other,
                Err(_) => return Err((self.cache_of(&info), error)),
            }
        }
    }

    fn fetch_from(
        &self,
        info: &PathInfo,
        take: &TakeNar,
        is_repeated: bool,
    ) -> Result<(), SupplyError> {
        let source = info.source.as_ref().ok_or(SupplyError::Lost)?;
        let attempt = self
            .substituters
            .caches()
            .attempt(source.cache)
            .ok_or(SupplyError::Lost)?;
        let nar = UntilStopped {
            bytes: attempt.nar(source)?,
            stopped: Arc::clone(&self.stopped),
        };
        let mut nar: Box<dyn Read> = Box::new(nar);
        if !is_identity(&source.compression) {
            let mut head = Vec::new();
            let read = nar.by_ref().take(HEAD as u64).read_to_end(&mut head);
            read.inspect_err(|error| attempt.broke(error))
                .map_err(NarStoreError::Read)?;
            let memory = if is_repeated {
                reserve_all(info.nar_size)
            } else {
                reserve(&source.compression, &head, Some(info.nar_size))
            };
            let bytes = BufReader::new(Cursor::new(head).chain(nar));
            let decoder = memory.decoder(bytes, &source.compression);
            nar = Box::new(decoder.map_err(CacheError::Decode)?);
        }
        // One byte more, so that a longer NAR shows.
        let taken = take(info, &mut nar.take(info.nar_size + 1));
        match &taken {
            Ok(()) => attempt.answered(),
            Err(SupplyError::Add(NarStoreError::Read(error))) => attempt.broke(error),
            Err(_) => {}
        }
        taken
    }

    /// Adds a path to the store, whose NAR is read.
    fn add(
        &self,
        path: &StorePath,
        info: &PathInfo,
        nar: &mut dyn Read,
    ) -> Result<(), SupplyError> {
        self.store.write_nar(&info.nar_hash, nar)?;
        self.check_content(path, info)?;
        self.store.register(&entry(path, info))?;
        Ok(())
    }

    /// Holds a NAR against the hash that its path is named after, where nothing else vouches for it.
    fn check_content(&self, path: &StorePath, info: &PathInfo) -> Result<(), SupplyError> {
        let Some(address) = &info.content else {
            return Ok(());
        };
        let file = self.store.nar_file(&info.nar_hash);
        let expected = Expected {
            hash: &info.nar_hash,
            size: info.nar_size,
            content: Some(Content::new(address, path, &info.references)),
        };
        let io_error = |error| NarStoreError::Write(file.clone(), error);
        let scratch = tempfile::tempdir_in(self.store.directory()).map_err(io_error)?;
        let mut nar = File::open(&file).map_err(io_error)?;
        Unpacker::default()
            .unpack(&mut nar, &expected, &scratch.path().join("content"), None)
            .map(drop)
            .map_err(SupplyError::Content)
    }
}

fn entry<'a>(path: &'a StorePath, info: &'a PathInfo) -> Entry<'a> {
    Entry {
        path,
        nar_hash: &info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.iter().map(StorePath::to_basename).collect(),
    }
}
