//! The binary caches of a build, in the order in which they are asked, and how each of them fares.

use crate::{BinaryCache, CacheError, CacheUrl, PathInfo, SignIn, Trust, TrustSettings, Untrusted};
use http_client::{Http, HttpError};
use nix_derivation::StorePath;
use nix_narinfo::NarInfo;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Requests in a row that fail although they were repeated, after which a cache is left alone.
const MAX_FAILURES: u32 = 4;

/// The binary caches of a build, in the order in which they are asked.
#[derive(Debug)]
pub struct Caches {
    caches: Vec<Asked>,
    trust: TrustSettings,
}

#[derive(Debug)]
struct Asked {
    url: CacheUrl,
    /// The cache, or why it could not be used from the start.
    cache: Result<BinaryCache, CacheError>,
    narinfos: Health,
    /// NARs may come from another server.
    nars: Health,
}

/// How a cache fares with one kind of request.
#[derive(Debug, Default)]
struct Health {
    /// Set once it stops answering, so that it is not waited for again and again.
    down: OnceLock<String>,
    /// How many requests were answered, how many of them to the end, and how many have failed since
    /// while none was.
    begun: AtomicU32,
    ended: AtomicU32,
    failures: AtomicU32,
}

/// A request to a cache, and what it had answered by then.
#[derive(Debug)]
pub struct Attempt<'a> {
    cache: &'a BinaryCache,
    health: &'a Health,
    begun: u32,
    ended: u32,
}

/// What one binary cache answered about a store path that none of them could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does not have the path.
    Absent,
    /// It has the path, but with other content than that which is asked for.
    Another,
    /// It has the path, but what it says of it is not trusted.
    Untrusted(Untrusted),
    /// It wants to know who asks, or knows another password; in its words.
    Refused(String),
    /// It gave no answer that can be used; why.
    Failed(String),
}

impl Answer {
    fn of(error: &CacheError) -> Self {
        match error {
            CacheError::Http(HttpError::Status(401 | 403 | 407)) => {
                Self::Refused(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Asked {
    /// The cache, if it can still be asked for narinfos, or why not.
    fn usable(&self) -> Result<&BinaryCache, Answer> {
        match (&self.cache, self.narinfos.down.get()) {
            (Err(error), _) => Err(Answer::of(error)),
            (Ok(_), Some(reason)) => Err(Answer::Failed(reason.clone())),
            (Ok(cache), None) => Ok(cache),
        }
    }

    /// The same, for NARs.
    fn gives_nars(&self) -> Result<(), Answer> {
        match self.nars.down.get() {
            Some(reason) => Err(Answer::Failed(reason.clone())),
            None => self.usable().map(drop),
        }
    }

    fn look_up(
        &self,
        path: &StorePath,
        trust: &TrustSettings,
        suits: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Answer> {
        let (_, info) = self.ask(trust, |cache| cache.narinfo(path))?;
        if suits(&info) {
            Ok(info)
        } else {
            Err(Answer::Another)
        }
    }

    fn ask(
        &self,
        trust: &TrustSettings,
        narinfo: impl FnOnce(&BinaryCache) -> Result<Option<NarInfo>, CacheError>,
    ) -> Result<(StorePath, PathInfo), Answer> {
        let cache = self.usable()?;
        let attempt = self.narinfos.attempt(cache);
        let narinfo = narinfo(cache).map_err(|error| {
            attempt.failed(&error);
            Answer::of(&error)
        })?;
        attempt.answered();
        let narinfo = narinfo.ok_or(Answer::Absent)?;
        let trust = trust.check(&narinfo, cache.url());
        let info = PathInfo::new(&narinfo, cache.url(), trust.map_err(Answer::Untrusted)?);
        Ok((narinfo.store_path().clone(), info))
    }
}

impl Health {
    fn attempt<'a>(&'a self, cache: &'a BinaryCache) -> Attempt<'a> {
        Attempt {
            cache,
            health: self,
            begun: self.begun.load(Relaxed),
            ended: self.ended.load(Relaxed),
        }
    }
}

impl Attempt<'_> {
    /// Opens the NAR of a path.
    pub fn nar(&self, info: &PathInfo) -> Result<Box<dyn Read>, CacheError> {
        let nar = self.cache.nar(&info.url);
        nar.inspect(|_| {
            self.health.begun.fetch_add(1, Relaxed);
        })
        .inspect_err(|error| self.failed(error))
    }

    /// The cache did what it was asked.
    pub fn answered(&self) {
        self.health.begun.fetch_add(1, Relaxed);
        self.health.ended.fetch_add(1, Relaxed);
        self.health.failures.store(0, Relaxed);
    }

    /// What was read of its answer broke off with `error`.
    pub fn broke(&self, error: &io::Error) {
        // What cannot be decoded says nothing of the next one.
        if is_broken(error) && self.health.ended.load(Relaxed) == self.ended {
            self.count(error.to_string());
        }
    }

    /// Has the cache be left alone where the next request would fail too. One that answers others
    /// meanwhile is not down, whatever it makes of a few.
    fn failed(&self, error: &CacheError) {
        let is_outage = match error {
            CacheError::Http(error) => error.is_passing(),
            CacheError::Io(_) => true,
            _ => false,
        };
        if is_outage && self.health.begun.load(Relaxed) == self.begun {
            self.count(error.to_string());
        }
    }

    fn count(&self, reason: String) {
        if self.health.failures.fetch_add(1, Relaxed) + 1 >= MAX_FAILURES {
            // Another thread may have said so already.
            let _ = self.health.down.set(reason);
        }
    }
}

impl Caches {
    /// Asks every cache who it is, and puts them into the order of their priorities.
    ///
    /// One that cannot be used stays in the list, for the message should a path be missing.
    #[must_use]
    pub fn open(urls: &[CacheUrl], trust: TrustSettings, http: &Http, sign_in: &SignIn) -> Self {
        let mut caches: Vec<Asked> = std::thread::scope(|scope| {
            let opening: Vec<_> = urls
                .iter()
                .map(|url| scope.spawn(|| BinaryCache::open(url.clone(), http.clone(), sign_in)))
                .collect();
            urls.iter()
                .zip(opening)
                .map(|(url, opening)| (url, opening.join()))
                .map(|(url, opened)| (url, opened.unwrap_or(Err(CacheError::NoCacheInfo))))
                .map(|(url, cache)| Asked {
                    // It may have led from `http` to `https`.
                    url: cache.as_ref().map_or(url, BinaryCache::url).clone(),
                    cache,
                    narinfos: Health::default(),
                    nars: Health::default(),
                })
                .collect()
        });
        // A stable sort: caches of the same priority keep the order in which the user named them.
        caches.sort_by_key(|asked| {
            asked
                .cache
                .as_ref()
                .map_or(u32::MAX, |cache| cache.priority)
        });
        Self { caches, trust }
    }

    /// The caches that cannot be used, with the reason.
    pub fn unusable(&self) -> impl Iterator<Item = (String, String)> {
        self.caches.iter().filter_map(|asked| {
            let down = || asked.narinfos.down.get().or(asked.nars.down.get());
            let error = asked.cache.as_ref().err().map(ToString::to_string);
            let reason = error.or_else(|| down().cloned())?;
            Some((asked.url.to_string(), reason))
        })
    }

    /// The cache of this URL, as [`PathInfo::cache`] has it.
    #[must_use]
    pub fn get(&self, url: &str) -> Option<&BinaryCache> {
        self.asked(url)?.cache.as_ref().ok()
    }

    /// A request for a NAR to the cache that `info` is from.
    #[must_use]
    pub fn attempt(&self, info: &PathInfo) -> Option<Attempt<'_>> {
        let asked = self.asked(&info.cache)?;
        Some(asked.nars.attempt(asked.cache.as_ref().ok()?))
    }

    /// Whether the path can be fetched as `info` has it.
    #[must_use]
    pub fn offers(&self, info: &PathInfo) -> bool {
        let asked = self.asked(&info.cache);
        !info.url.is_empty() && asked.is_some_and(|asked| asked.gives_nars().is_ok())
    }

    fn asked(&self, url: &str) -> Option<&Asked> {
        let mut caches = self.caches.iter();
        caches.find(|asked| asked.url.to_string() == url)
    }

    /// The URL of every cache that can be used, and how many bytes of NARs have come from it so far.
    pub fn received(&self) -> impl Iterator<Item = (String, u64)> {
        self.caches.iter().filter_map(|asked| {
            let cache = asked.cache.as_ref().ok()?;
            Some((asked.url.to_string(), cache.received()))
        })
    }

    /// Asks the caches in their order for `path`, until one has it, is believed, and suits.
    pub fn look_up(
        &self,
        path: &StorePath,
        suits: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Vec<(String, Answer)>> {
        self.first(|asked| asked.look_up(path, &self.trust, &suits))
    }

    /// The same, but for those whose NARs cannot be had.
    pub fn look_up_nar(
        &self,
        path: &StorePath,
        suits: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Vec<(String, Answer)>> {
        self.first(|asked| {
            asked.gives_nars()?;
            asked.look_up(path, &self.trust, &suits)
        })
    }

    /// Asks the caches in their order for the path with this hash part, until one has it and is believed.
    pub fn find(&self, hash_part: &str) -> Result<(StorePath, PathInfo), Vec<(String, Answer)>> {
        self.first(|asked| asked.ask(&self.trust, |cache| cache.narinfo_of(hash_part)))
    }

    fn first<T>(
        &self,
        ask: impl Fn(&Asked) -> Result<T, Answer>,
    ) -> Result<T, Vec<(String, Answer)>> {
        let mut answers = Vec::new();
        for asked in &self.caches {
            match ask(asked) {
                Ok(info) => return Ok(info),
                Err(answer) => answers.push((asked.url.to_string(), answer)),
            }
        }
        Err(answers)
    }

    /// Whether what an earlier build found out holds still: a path that nobody vouched for is only
    /// taken from a cache that is still named.
    #[must_use]
    pub fn upholds(&self, info: &PathInfo) -> bool {
        match info.trust {
            Trust::Signed | Trust::ContentAddressed => true,
            Trust::TrustedCache | Trust::Unsigned => self.get(&info.cache).is_some(),
        }
    }
}

/// Whether a download broke on its way.
fn is_broken(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected, TimedOut,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | NotConnected
            | TimedOut
    )
}
