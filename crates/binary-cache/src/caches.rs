//! The binary caches of a build, in the order in which they are asked.

use crate::health::{Attempt, Health};
use crate::{
    BinaryCache, CacheError, CacheId, CacheUrl, PathInfo, S3Bucket, SignIn, TrustSettings,
    Untrusted,
};
use http_client::{Http, HttpError, sent};
use nix_derivation::StorePath;
use nix_narinfo::NarInfo;

/// The binary caches of a build, in the order in which they are asked.
#[derive(Debug)]
pub struct Caches {
    caches: Vec<Member>,
    trust: TrustSettings,
}

#[derive(Debug)]
struct Member {
    url: CacheUrl,
    /// The cache, or why it could not be used from the start.
    cache: Result<BinaryCache, CacheError>,
    narinfos: Health,
    /// NARs may come from another server.
    nars: Health,
}

/// Why a binary cache did not give a store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does not have the path.
    Absent,
    /// It has the path, but with other content than is needed.
    Another,
    /// It has the path, but its narinfo is not trusted.
    Untrusted(Untrusted),
    /// It requires credentials, or other ones: the error.
    Refused(String),
    /// It could not be asked, or its answer cannot be used: why.
    Failed(String),
}

/// A cache, by its printed URL, and its [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheAnswer {
    pub cache: String,
    pub answer: Answer,
}

/// A cache that cannot be used, by its printed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    pub cache: String,
    pub reason: String,
}

impl Answer {
    fn of(error: &CacheError, url: &CacheUrl) -> Self {
        match error {
            CacheError::Http(HttpError::Status(403) | HttpError::Bucket(400 | 403, _)) => {
                let of_url = || url.endpoint.credentials_from.clone();
                let bucket = url.s3.as_ref();
                let from = bucket.map_or_else(of_url, S3Bucket::credentials_from);
                Self::Refused(format!("{error}; {}", sent(&from)))
            }
            CacheError::Http(HttpError::Unauthorized(_) | HttpError::Status(407))
            | CacheError::WebIdentity(_) => Self::Refused(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Member {
    /// The cache, if it can still be asked for narinfos, or why not.
    fn usable(&self) -> Result<&BinaryCache, Answer> {
        match (&self.cache, self.narinfos.down()) {
            (Err(error), _) => Err(Answer::of(error, &self.url)),
            (Ok(_), Some(reason)) => Err(Answer::Failed(reason.to_string())),
            (Ok(cache), None) => Ok(cache),
        }
    }

    /// The same, for NARs.
    fn gives_nars(&self) -> Result<(), Answer> {
        match self.nars.down() {
            Some(reason) => Err(Answer::Failed(reason.to_string())),
            None => self.usable().map(drop),
        }
    }

    fn look_up(
        &self,
        id: CacheId,
        path: &StorePath,
        trust: &TrustSettings,
        accepts: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Answer> {
        let (_, info) = self.ask(id, trust, |cache| cache.narinfo(path))?;
        if accepts(&info) {
            Ok(info)
        } else {
            Err(Answer::Another)
        }
    }

    fn ask(
        &self,
        id: CacheId,
        trust: &TrustSettings,
        narinfo: impl FnOnce(&BinaryCache) -> Result<Option<NarInfo>, CacheError>,
    ) -> Result<(StorePath, PathInfo), Answer> {
        let cache = self.usable()?;
        let attempt = self.narinfos.attempt(cache);
        let narinfo = narinfo(cache).map_err(|error| {
            attempt.failed(&error);
            Answer::of(&error, &self.url)
        })?;
        attempt.answered();
        let narinfo = narinfo.ok_or(Answer::Absent)?;
        let trust = trust.check(&narinfo, cache.url());
        let info = PathInfo::new(&narinfo, id, trust.map_err(Answer::Untrusted)?);
        Ok((narinfo.store_path().clone(), info))
    }
}

impl Caches {
    /// Opens every cache, and sorts them by their priorities.
    ///
    /// One that cannot be used stays in the list, for the message should a path be missing.
    pub fn open(urls: &[CacheUrl], trust: TrustSettings, http: &Http, sign_in: &SignIn) -> Self {
        let mut caches: Vec<Member> = std::thread::scope(|scope| {
            let opening: Vec<_> = urls
                .iter()
                .map(|url| scope.spawn(|| BinaryCache::open(url.clone(), http.clone(), sign_in)))
                .collect();
            urls.iter()
                .zip(opening)
                .map(|(url, opening)| (url, opening.join()))
                .map(|(url, opened)| (url, opened.unwrap_or(Err(CacheError::NoCacheInfo))))
                .map(|(url, cache)| Member {
                    // It may have led from `http` to `https`.
                    url: cache.as_ref().map_or(url, BinaryCache::url).clone(),
                    cache,
                    narinfos: Health::default(),
                    nars: Health::default(),
                })
                .collect()
        });
        // A stable sort: caches of the same priority keep the order in which the user named them.
        caches.sort_by_key(|member| {
            let cache = member.cache.as_ref();
            cache.map_or(u32::MAX, |cache| cache.priority)
        });
        Self { caches, trust }
    }

    /// Asks the cache of this printed URL after all others.
    ///
    /// [`CacheId`]s of before are not valid after it.
    pub fn ask_last(&mut self, cache: &str) {
        self.caches
            .sort_by_key(|member| member.url.to_string() == cache);
    }

    /// The caches that cannot be used, with the reason.
    pub fn unusable(&self) -> impl Iterator<Item = Unusable> {
        self.caches.iter().filter_map(|member| {
            let down = || member.narinfos.down().or(member.nars.down());
            let error = member.cache.as_ref().err().map(ToString::to_string);
            Some(Unusable {
                cache: member.url.to_string(),
                reason: error.or_else(|| down().map(str::to_string))?,
            })
        })
    }

    /// A cache; None if it could not be used from the start.
    pub fn get(&self, id: CacheId) -> Option<&BinaryCache> {
        self.caches.get(id.0)?.cache.as_ref().ok()
    }

    /// The URL of the cache that `info` is from, as messages show it; None if it is from an earlier
    /// build.
    pub fn name_of(&self, info: &PathInfo) -> Option<String> {
        let source = info.source.as_ref()?;
        Some(self.caches.get(source.cache.0)?.url.to_string())
    }

    /// A request for a NAR to the cache `id`; None if it could not be used from the start.
    pub fn attempt(&self, id: CacheId) -> Option<Attempt<'_>> {
        let member = self.caches.get(id.0)?;
        Some(member.nars.attempt(member.cache.as_ref().ok()?))
    }

    /// Whether the source of `info` is known and still answers.
    pub fn offers(&self, info: &PathInfo) -> bool {
        let source = info.source.as_ref();
        let member = source.and_then(|source| self.caches.get(source.cache.0));
        member.is_some_and(|member| member.gives_nars().is_ok())
    }

    /// The URL of every cache that can be used, and how many bytes of NARs have come from it so far.
    pub fn received(&self) -> impl Iterator<Item = (String, u64)> {
        self.caches.iter().filter_map(|member| {
            let cache = member.cache.as_ref().ok()?;
            Some((member.url.to_string(), cache.received()))
        })
    }

    /// Whether a thread waits for bytes of a NAR at the moment, from any cache.
    pub fn is_any_waited_for(&self) -> bool {
        let mut caches = self.caches.iter();
        caches.any(|member| member.cache.as_ref().is_ok_and(BinaryCache::is_waited_for))
    }

    /// Asks the caches in order for `path`, until one has it, is trusted for it, and `accepts`
    /// returns true for it.
    pub fn look_up(
        &self,
        path: &StorePath,
        accepts: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Vec<CacheAnswer>> {
        self.first(|id, member| member.look_up(id, path, &self.trust, &accepts))
    }

    /// The same, without caches that stopped sending NARs.
    pub fn look_up_nar(
        &self,
        path: &StorePath,
        accepts: impl Fn(&PathInfo) -> bool,
    ) -> Result<PathInfo, Vec<CacheAnswer>> {
        self.first(|id, member| {
            member.gives_nars()?;
            member.look_up(id, path, &self.trust, &accepts)
        })
    }

    /// Asks the caches in their order for the path with this hash part, until one has it and is believed.
    pub fn find(&self, hash_part: &str) -> Result<(StorePath, PathInfo), Vec<CacheAnswer>> {
        self.first(|id, member| member.ask(id, &self.trust, |cache| cache.narinfo_of(hash_part)))
    }

    /// The derivation that made `path`, as the first cache says that has the path.
    pub fn deriver(&self, path: &StorePath) -> Option<StorePath> {
        let mut caches = self.caches.iter().filter_map(|member| member.usable().ok());
        let narinfo = caches.find_map(|cache| cache.narinfo(path).ok()?)?;
        narinfo.deriver().cloned()
    }

    fn first<T>(
        &self,
        ask: impl Fn(CacheId, &Member) -> Result<T, Answer>,
    ) -> Result<T, Vec<CacheAnswer>> {
        let mut answers = Vec::new();
        for (index, member) in self.caches.iter().enumerate() {
            match ask(CacheId(index), member) {
                Ok(info) => return Ok(info),
                Err(answer) => answers.push(CacheAnswer {
                    cache: member.url.to_string(),
                    answer,
                }),
            }
        }
        Err(answers)
    }
}
