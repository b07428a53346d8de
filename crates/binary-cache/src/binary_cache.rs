//! One binary cache: reads its `nix-cache-info`, narinfos and NARs.

use crate::{CacheInfo, CacheUrl, DecodeError, WebIdentityError, content_decoder, narinfo};
use http_client::{ApiRequest, Endpoint, Http, HttpError, Size, leads_to_link_local};
use nix_derivation::{StoreDir, StorePath};
use nix_narinfo::NarInfo;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use url::Url;

/// A `nix-cache-info` is a few lines; more than this is another kind of file.
const MAX_CACHE_INFO_SIZE: u64 = 64 * 1024;

/// The largest narinfo: 20,000 references.
const MAX_NARINFO_SIZE: u64 = 1024 * 1024;

/// The largest narinfo that is read side by side with others, which is more than any but a few have.
/// So the memory for narinfos is bounded however many are requested at once.
const MAX_SMALL_NARINFO_SIZE: u64 = 64 * 1024;

/// Signs in to a server that requires it, and returns its URL with the session's credentials; None if
/// it is no such server, or refuses.
pub type SignIn = dyn Fn(&Endpoint, &Http) -> Option<Endpoint> + Sync;

/// A binary cache of `/nix/store` that has answered.
#[derive(Debug)]
pub struct BinaryCache {
    url: CacheUrl,
    http: Http,
    /// Lower is asked first.
    pub priority: u32,
    /// Held while a narinfo of more than [`MAX_SMALL_NARINFO_SIZE`] is read and parsed.
    large_narinfo: Mutex<()>,
    /// Bytes of NARs that have come from it so far.
    received: Arc<AtomicU64>,
    /// How many threads wait for bytes of a NAR at the moment.
    waiting: Arc<AtomicUsize>,
}

/// Why a binary cache could not be asked, or its answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A cache made of files does not have this one.
    #[error("there is no such file")]
    NoFile,
    /// There is no `nix-cache-info`, so this is probably not a binary cache.
    #[error("it has no `nix-cache-info`, so it is probably not a binary cache")]
    NoCacheInfo,
    /// It is a Hydra that keeps what it builds elsewhere.
    #[error(
        "this Hydra keeps what it builds elsewhere (its `store_uri`, such as an S3 bucket): \
         set NIX_EXTRA_BINARY_CACHE to the URL of that"
    )]
    HydraElsewhere,
    /// The cache serves another store directory than `/nix/store`.
    #[error("it serves the store `{0}`, not `/nix/store`")]
    StoreDir(String),
    /// A narinfo that breaks the format: what is wrong with it.
    #[error("its narinfo cannot be read: {0}")]
    NarInfo(String),
    /// A narinfo that describes another store path than the one asked for.
    #[error("its narinfo describes {0} instead")]
    OtherPath(StorePath),
    /// A URL in a narinfo that cannot be followed.
    #[error("the URL `{0}` cannot be followed")]
    NarUrl(String),
    /// The answer is encoded in a way that cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// There is no access key for the bucket.
    #[error(transparent)]
    WebIdentity(#[from] WebIdentityError),
}

impl BinaryCache {
    /// Reads the `nix-cache-info` of the cache at `url`.
    ///
    /// `sign_in` is tried if the server refuses and there are credentials.
    pub fn open(mut url: CacheUrl, http: Http, sign_in: &SignIn) -> Result<Self, CacheError> {
        if let Some(bucket) = &mut url.s3 {
            bucket.sign_in(&http)?;
        }
        let mut cache = Self {
            url,
            http,
            priority: CacheInfo::default().priority,
            large_narinfo: Mutex::default(),
            received: Arc::default(),
            waiting: Arc::default(),
        };
        let mut text = cache.read_small("nix-cache-info", MAX_CACHE_INFO_SIZE);
        // A private Hydra requires a session.
        if let Err(CacheError::Http(HttpError::Status(403))) = text
            && cache.url.endpoint.credentials.is_some()
            && let Some(endpoint) = sign_in(&cache.url.endpoint, &cache.http)
        {
            cache.url.endpoint = endpoint;
            text = cache.read_small("nix-cache-info", MAX_CACHE_INFO_SIZE);
        }
        let text = match text {
            // S3 says 403 of a missing narinfo, but every cache has its `nix-cache-info`.
            Err(error @ CacheError::Http(HttpError::Status(403))) => return Err(error),
            Err(error) if error.is_absent() => return Err(cache.no_cache_info()),
            other => other?,
        };
        let info = CacheInfo::parse(&String::from_utf8_lossy(&text));
        if info.store_dir != StoreDir::default().as_str() {
            return Err(CacheError::StoreDir(info.store_dir));
        }
        cache.priority = cache.url.priority.unwrap_or(info.priority);
        Ok(cache)
    }

    pub fn url(&self) -> &CacheUrl {
        &self.url
    }

    /// Why there is no `nix-cache-info`: a Hydra whose `store_uri` is not its own machine says so.
    fn no_cache_info(&self) -> CacheError {
        let answer = self
            .url
            .endpoint
            .base
            .join("nix-cache-info")
            .ok()
            .filter(|url| url.scheme() != "file")
            .and_then(|url| {
                let credentials = self.url.endpoint.credentials.as_ref();
                self.http
                    .call_api(&url, credentials, ApiRequest::Get, MAX_CACHE_INFO_SIZE)
                    .ok()
            });
        match answer {
            Some(answer) if contains(&answer.body, b"There is no binary cache here.") => {
                CacheError::HydraElsewhere
            }
            _ => CacheError::NoCacheInfo,
        }
    }

    /// The narinfo of `path`; None if the cache does not have the path.
    pub fn narinfo(&self, path: &StorePath) -> Result<Option<NarInfo>, CacheError> {
        let narinfo = self.narinfo_of(path.to_basename().split('-').next().unwrap_or_default())?;
        match narinfo {
            Some(narinfo) if narinfo.store_path() != path => {
                Err(CacheError::OtherPath(narinfo.store_path().clone()))
            }
            other => Ok(other),
        }
    }

    /// The same for the path with this hash part, whatever its name is.
    pub fn narinfo_of(&self, hash_part: &str) -> Result<Option<NarInfo>, CacheError> {
        let name = format!("{hash_part}.narinfo");
        let mut file = match self.open_small(&name) {
            Err(error) if error.is_absent() => return Ok(None),
            other => other?,
        };
        let mut text = Vec::new();
        read_up_to(&mut *file, MAX_SMALL_NARINFO_SIZE, &mut text)?;
        let is_large = text.len() as u64 == MAX_SMALL_NARINFO_SIZE;
        let lock = || {
            self.large_narinfo
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let _large = is_large.then(lock);
        read_up_to(
            &mut *file,
            MAX_NARINFO_SIZE + 1 - text.len() as u64,
            &mut text,
        )?;
        if text.len() as u64 > MAX_NARINFO_SIZE {
            return Err(CacheError::too_long(&name, MAX_NARINFO_SIZE));
        }
        let narinfo = narinfo::parse(&text).map_err(CacheError::NarInfo)?;
        if !narinfo.store_path().to_basename().starts_with(hash_part) {
            return Err(CacheError::OtherPath(narinfo.store_path().clone()));
        }
        Ok(Some(narinfo))
    }

    /// Opens the NAR at `url`, relative to this cache or absolute, as it is compressed.
    pub fn nar(&self, url: &str) -> Result<Box<dyn Read>, CacheError> {
        let base = &self.url.endpoint.base;
        let url = base
            .join(url)
            .map_err(|_| CacheError::NarUrl(url.to_string()))?;
        // The first byte is waited for as well as the others.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let bytes = self.open_url(&url, Size::Large);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Ok(Box::new(Counted {
            bytes: bytes?,
            count: Arc::clone(&self.received),
            waiting: Arc::clone(&self.waiting),
        }))
    }

    /// Bytes of NARs that have come from this cache so far, as they are compressed.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Whether a thread waits for bytes of a NAR at the moment.
    pub fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn read_small(&self, name: &str, limit: u64) -> Result<Vec<u8>, CacheError> {
        let mut text = Vec::new();
        read_up_to(&mut *self.open_small(name)?, limit + 1, &mut text)?;
        if text.len() as u64 > limit {
            return Err(CacheError::too_long(name, limit));
        }
        Ok(text)
    }

    fn open_small(&self, name: &str) -> Result<Box<dyn Read>, CacheError> {
        let url = self.url.endpoint.base.join(name);
        let url = url.map_err(|_| CacheError::NarUrl(name.to_string()))?;
        self.open_url(&url, Size::Small)
    }

    /// Opens a URL of this cache, or one that it names, and removes its `Content-Encoding`.
    fn open_url(&self, url: &Url, size: Size) -> Result<Box<dyn Read>, CacheError> {
        match url.scheme() {
            // Only a cache that is itself made of files may point at files.
            "file" if self.url.endpoint.base.scheme() == "file" => open_file(url),
            "http" | "https" if !leads_to_link_local(&self.url.endpoint.base, url) => {
                let endpoint = &self.url.endpoint;
                let is_own = url.origin() == endpoint.base.origin();
                let credentials = endpoint.credentials.as_ref().filter(|_| is_own);
                let bucket = self.url.s3.as_ref();
                let signed = bucket.and_then(|bucket| bucket.signed(url));
                let body = self
                    .http
                    .get(signed.as_ref().unwrap_or(url), credentials, size)
                    .map_err(|error| {
                        if is_own {
                            endpoint.explain(error)
                        } else {
                            error
                        }
                    })?;
                let encoding = body.content_encoding().unwrap_or("identity").to_string();
                content_decoder(Box::new(body), &encoding).map_err(CacheError::Decode)
            }
            _ => Err(CacheError::NarUrl(url.to_string())),
        }
    }
}

impl CacheError {
    fn too_long(name: &str, limit: u64) -> Self {
        Self::NarInfo(format!("`{name}` is longer than {limit} bytes"))
    }

    /// Whether the cache says that it does not have the file.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Http(error) => error.is_absent(),
            Self::NoFile => true,
            _ => false,
        }
    }
}

/// Bytes that are counted as they are read.
struct Counted {
    bytes: Box<dyn Read>,
    count: Arc<AtomicU64>,
    waiting: Arc<AtomicUsize>,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let result = self.bytes.read(into);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let count = result?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Appends the next bytes of `file` to `text`, at most `limit`.
fn read_up_to(file: &mut dyn Read, limit: u64, text: &mut Vec<u8>) -> Result<(), CacheError> {
    file.take(limit).read_to_end(text).map_err(CacheError::Io)?;
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

fn open_file(url: &Url) -> Result<Box<dyn Read>, CacheError> {
    let path = url
        .to_file_path()
        .map_err(|()| CacheError::NarUrl(url.to_string()))?;
    match File::open(&path) {
        Ok(file) => Ok(Box::new(file)),
        // A directory that is not there at all is a mistake, not an absent path.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && path.parent().is_some_and(Path::exists) =>
        {
            Err(CacheError::NoFile)
        }
        Err(error) => Err(CacheError::Io(error)),
    }
}
