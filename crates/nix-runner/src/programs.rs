//! Nix's own programs, as a closure from binary caches: planned, fetched and verified like any other.
//!
//! It is kept as a binary cache of files, with the signatures that it came with. So what is kept is
//! trusted no more than a cache on the network: each path needs a signature by a trusted key, each NAR
//! the hash that is signed.

use crate::archive::{ArchiveError, Target, is_loaded};
use crate::nar_store::{NarStoreError, hash_part};
use crate::supply::{Supply, SupplyError};
use binary_cache::{CacheUrl, Caches, PathInfo, Trust, TrustSettings};
use closure::Closure;
use closure::content::Content;
use closure::decode_memory::reserve;
use closure::parallel;
use closure::plan::{Miss, Previous, plan};
use closure::relocate::references::ReferenceScanner;
use closure::unpack::{Expected, UnpackError, Unpacker};
use http_client::{Endpoint, Http};
use nix_derivation::{NixHasher, StorePath};
use nix_narinfo::NarInfo;
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use url::Url;

/// NARs that are downloaded at once.
const DOWNLOADS: usize = 8;

/// Higher levels take longer to pack and give little: it is unpacked once a build.
const LEVEL: i32 = 3;

/// How NARs are kept.
const COMPRESSION: &str = "zstd";

/// Bytes that are read and written at once.
const BUFFER_SIZE: usize = 256 * 1024;

/// Why binary caches do not give a Nix.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// These paths are in no cache.
    #[error("{}", .0.first().map_or_else(String::new, missing))]
    Missing(Vec<Miss>),
    /// Nothing vouches for this path. What is only deployed may do without that; what runs here may not.
    #[error("no trusted key has signed {0}")]
    Unsigned(StorePath),
    /// A NAR could not be fetched: the path, the cache, and why.
    #[error("{0} from {1}: {2}")]
    Fetch(StorePath, String, #[source] SupplyError),
    #[error("{path} cannot be written: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
}

fn missing(miss: &Miss) -> String {
    format!("no binary cache has {}", miss.path)
}

/// A Nix that is kept, with all paths of its closure.
#[derive(Debug)]
pub struct Programs {
    directory: PathBuf,
    nix: StorePath,
    closure: Closure,
}

/// Fetches the closure of `nix` from the caches of `supply` into `directory`, and opens it.
pub fn fetch(
    directory: &Path,
    nix: &StorePath,
    supply: &Supply,
) -> Result<Programs, ProgramsError> {
    let write_error = |error| ProgramsError::Write(directory.to_path_buf(), error);
    let caches = supply.substituters().caches();
    let closure = plan(
        caches,
        std::slice::from_ref(nix),
        &Previous::default(),
        |_, _| {},
    )
    .map_err(ProgramsError::Missing)?;
    let unsigned = closure
        .paths
        .iter()
        .find(|(_, info)| info.trust == Trust::Unsigned);
    if let Some((path, _)) = unsigned {
        return Err(ProgramsError::Unsigned(path.clone()));
    }
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(write_error)?;
    }
    fs::create_dir_all(directory).map_err(write_error)?;
    supply.resume();
    each(&closure, DOWNLOADS, |path, info| {
        fetch_one(directory, supply, path, info)
    })?;
    // Last, since it makes the directory a binary cache.
    fs::write(directory.join("nix-cache-info"), "StoreDir: /nix/store\n").map_err(write_error)?;
    Programs::new(directory, nix, supply.substituters().trust(), true)
        .ok_or_else(|| ProgramsError::Write(directory.to_path_buf(), io::ErrorKind::Other.into()))
}

fn fetch_one(
    directory: &Path,
    supply: &Supply,
    path: &StorePath,
    info: &PathInfo,
) -> Result<(), ProgramsError> {
    let fetch_error = |(cache, error)| ProgramsError::Fetch(path.clone(), cache, error);
    let file = directory.join(nar_name(path));
    supply
        .fetch(path, info.clone(), &|info, nar| Ok(pack(info, nar, &file)?))
        .map_err(fetch_error)?;
    let signed = info.source.as_ref().and_then(|source| {
        let cache = supply.substituters().caches().get(source.cache)?;
        cache.narinfo(path).ok().flatten()
    });
    let name = format!("{}.narinfo", hash_part(path));
    fs::write(directory.join(&name), narinfo(path, info, signed.as_ref()))
        .map_err(|error| ProgramsError::Write(directory.join(name), error))
}

fn nar_name(path: &StorePath) -> String {
    format!("{}.nar.zst", hash_part(path))
}

/// Writes a NAR to `file`, packed, if its hash is right.
fn pack(info: &PathInfo, nar: &mut dyn Read, file: &Path) -> Result<(), NarStoreError> {
    let write_error = |error| NarStoreError::Write(file.to_path_buf(), error);
    let mut encoder = File::create(file)
        .and_then(|file| zstd::Encoder::new(file, LEVEL))
        .map_err(write_error)?;
    let mut hasher = NixHasher::new(info.nar_hash.algorithm());
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        let count = nar.read(&mut buffer).map_err(NarStoreError::Read)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        encoder.write_all(&buffer[..count]).map_err(write_error)?;
    }
    encoder.finish().map_err(write_error)?;
    let hash = hasher.finalize();
    if hash == info.nar_hash {
        Ok(())
    } else {
        Err(NarStoreError::WrongHash(hash))
    }
}

/// The narinfo of a path that is kept, with what vouches for it.
fn narinfo(path: &StorePath, info: &PathInfo, signed: Option<&NarInfo>) -> String {
    let references: Vec<String> = info.references.iter().map(StorePath::to_basename).collect();
    let mut text = format!(
        "StorePath: {path}\nURL: {}\nCompression: {COMPRESSION}\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
        nar_name(path),
        info.nar_hash.to_nix_nixbase32_string(),
        info.nar_size,
        references.join(" "),
    );
    let address = signed.and_then(NarInfo::content_address);
    if let Some(address) = address {
        let _ = writeln!(text, "CA: {}", address.to_nix_string());
    }
    for signature in signed.map(NarInfo::signatures).unwrap_or_default() {
        let _ = writeln!(text, "Sig: {}", signature.to_nix_string());
    }
    text
}

/// Calls `work` with each path of a closure on so many threads, the largest first. Returns the first error.
fn each<E: Send>(
    closure: &Closure,
    threads: usize,
    work: impl Fn(&StorePath, &PathInfo) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let mut paths: Vec<_> = closure.paths.iter().collect();
    paths.sort_by_key(|(_, info)| Reverse(info.nar_size));
    parallel::each(paths, threads, |(path, info)| work(path, info))
}

impl Programs {
    /// Opens what [`fetch`] left in `directory`. None if it is not all of `nix` there, signed by the
    /// keys of `trust`.
    pub fn open(directory: &Path, nix: &StorePath, trust: &TrustSettings) -> Option<Self> {
        Self::new(directory, nix, trust, false)
    }

    fn new(
        directory: &Path,
        nix: &StorePath,
        trust: &TrustSettings,
        was_just_fetched: bool,
    ) -> Option<Self> {
        let url = Url::from_directory_path(directory).ok()?;
        let mut url = CacheUrl::from(Endpoint::new(url).ok()?);
        url.must_sign = true;
        // A cache that is trusted without signatures has vouched for it a moment ago.
        url.trusted = was_just_fetched;
        let caches = Caches::open(&[url], trust.clone(), &Http::new(), &|_, _| None);
        let nix = nix.clone();
        let previous = Previous::default();
        let closure = plan(&caches, std::slice::from_ref(&nix), &previous, |_, _| {}).ok()?;
        Some(Self {
            directory: directory.to_path_buf(),
            nix,
            closure,
        })
    }

    /// Unpacks what Nix loads to `target`, and returns the directory of its programs.
    pub fn unpack(&self, target: &Target) -> Result<PathBuf, ArchiveError> {
        let scanner = match target {
            Target::Relocated(relocation) => {
                let paths = self.closure.paths.keys();
                Some(ReferenceScanner::new(paths, Some(relocation.clone())))
            }
            Target::Plain(store) => {
                fs::create_dir_all(store)
                    .map_err(|error| ArchiveError::Write(store.clone(), error))?;
                None
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        each(&self.closure, cores, |path, info| {
            let place = target.place(&path.to_basename());
            self.unpack_one(path, info, &place, scanner.as_ref())
                .map_err(|error| match error {
                    UnpackError::Write(path, error) => ArchiveError::Write(path, error),
                    error => ArchiveError::Kept(path.clone(), error),
                })
        })?;
        let bin = target.place(&self.nix.to_basename()).join("bin");
        match bin.join("nix-instantiate").symlink_metadata() {
            Ok(_) => Ok(bin),
            Err(_) => Err(ArchiveError::NoNix),
        }
    }

    fn unpack_one(
        &self,
        path: &StorePath,
        info: &PathInfo,
        place: &Path,
        scanner: Option<&ReferenceScanner>,
    ) -> Result<(), UnpackError> {
        // Wherever the narinfo says that it is.
        let file = File::open(self.directory.join(nar_name(path))).map_err(UnpackError::Read)?;
        let mut bytes = BufReader::with_capacity(BUFFER_SIZE, file);
        let head = bytes.fill_buf().map_err(UnpackError::Read)?;
        let memory = reserve(COMPRESSION, head, Some(info.nar_size));
        let mut nar = memory
            .decoder(bytes, COMPRESSION)
            .map_err(|error| UnpackError::Read(io::Error::other(error)))?;
        let content = info.content.as_ref();
        let expected = Expected {
            hash: &info.nar_hash,
            size: info.nar_size,
            content: content.map(|address| Content::new(address, path, &info.references)),
        };
        Unpacker::default()
            .only(is_loaded)
            .unpack(&mut nar, &expected, place, scanner)
            .map(drop)
    }
}
