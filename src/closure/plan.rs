//! Finds every store path of a closure by asking binary caches for narinfos, many at once.

use super::Closure;
use super::path_info::PathInfo;
use crate::cache::{BinaryCache, CacheError, CacheUrl, Trust, Untrusted};
use crate::config::TrustSettings;
use crate::http::{Http, HttpError};
use nix_derivation::StorePath;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// Narinfo requests that run at once. Each is small, so with any latency more is faster; most
/// servers take at least this many connections from one client.
const REQUESTS: usize = 48;

/// Store paths that are asked for at most: a whole NixOS system with a desktop has some 10,000. A
/// cache that makes up narinfos could go on for ever.
const MAX_PATHS: usize = 100_000;

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
    /// Set once the cache stops answering, so that it is not waited for again and again.
    down: OnceLock<String>,
}

/// What one binary cache answered about a store path that none of them could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It does not have the path.
    Absent,
    /// It has the path, but what it says of it is not trusted.
    Untrusted(Untrusted),
    /// It wants to know who asks, or knows another password; in its words.
    Refused(String),
    /// It gave no answer that can be used; why.
    Failed(String),
}

/// A store path that no binary cache could give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    pub path: StorePath,
    /// From a root down to the path that refers to the missing one; empty for a root itself.
    pub wanted_by: Vec<StorePath>,
    /// Every cache that was asked, by its URL, and what it answered.
    pub answers: Vec<(String, Answer)>,
}

/// What an earlier build found out.
#[derive(Debug, Default)]
pub struct Known {
    /// Paths that were verified then, under the same trust: a narinfo's facts never change.
    pub facts: BTreeMap<StorePath, PathInfo>,
    /// Paths that are probably needed again, of which nothing may be believed any more.
    pub guesses: Vec<StorePath>,
}

impl Answer {
    fn of(error: &CacheError) -> Self {
        match error {
            CacheError::Http(HttpError::Status(401 | 407)) => Self::Refused(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl Miss {
    /// Whether a cache has the path, but nobody who is trusted vouches for it.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.answers
            .iter()
            .any(|(_, answer)| matches!(answer, Answer::Untrusted(_)))
    }
}

impl Caches {
    /// Asks every cache who it is, and puts them into the order of their priorities.
    ///
    /// One that cannot be used stays in the list, for the message should a path be missing.
    #[must_use]
    pub fn open(urls: &[CacheUrl], trust: TrustSettings, http: &Http) -> Self {
        let mut caches: Vec<Asked> = std::thread::scope(|scope| {
            let opening: Vec<_> = urls
                .iter()
                .map(|url| scope.spawn(|| BinaryCache::open(url.clone(), http.clone())))
                .collect();
            urls.iter()
                .zip(opening)
                .map(|(url, opening)| Asked {
                    url: url.clone(),
                    cache: opening.join().unwrap_or(Err(CacheError::NoCacheInfo)),
                    down: OnceLock::new(),
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
            let reason = match &asked.cache {
                Err(error) => error.to_string(),
                Ok(_) => asked.down.get()?.clone(),
            };
            Some((asked.url.to_string(), reason))
        })
    }

    /// The cache of this URL, as [`PathInfo::cache`] has it.
    #[must_use]
    pub fn get(&self, url: &str) -> Option<&BinaryCache> {
        self.caches
            .iter()
            .filter_map(|asked| asked.cache.as_ref().ok())
            .find(|cache| cache.url().to_string() == url)
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
        let mut answers = Vec::new();
        for asked in &self.caches {
            let answer = match (&asked.cache, asked.down.get()) {
                (Err(error), _) => Answer::of(error),
                (Ok(_), Some(reason)) => Answer::Failed(reason.clone()),
                (Ok(cache), None) => match cache.narinfo(path) {
                    Ok(None) => Answer::Absent,
                    Ok(Some(narinfo)) => match self.trust.check(&narinfo, cache.url()) {
                        Ok(trust) => {
                            let info = PathInfo::new(&narinfo, cache.url(), trust);
                            if suits(&info) {
                                return Ok(info);
                            }
                            Answer::Absent
                        }
                        Err(untrusted) => Answer::Untrusted(untrusted),
                    },
                    Err(error) => {
                        if let CacheError::Http(HttpError::Transport(_)) = error {
                            // Another thread may have said so already.
                            let _ = asked.down.set(error.to_string());
                        }
                        Answer::of(&error)
                    }
                },
            };
            answers.push((asked.url.to_string(), answer));
        }
        Err(answers)
    }

    /// Finds the whole closure of `roots`, or every path of it that no cache can give.
    ///
    /// What `known` tells is not asked for; what it guesses is asked for at once, so that the depth
    /// of the graph costs no time.
    pub fn plan(&self, roots: &[StorePath], known: &Known) -> Result<Closure, Vec<Miss>> {
        self.plan_telling(roots, known, |_, _| {})
    }

    /// The same; tells each path that was asked for and found, once, as soon as that is known. They
    /// are all of the closure where `known` guesses nothing.
    pub fn plan_telling(
        &self,
        roots: &[StorePath],
        known: &Known,
        found: impl Fn(&StorePath, &PathInfo) + Sync,
    ) -> Result<Closure, Vec<Miss>> {
        let walk = Walk::new(&known.facts);
        for path in roots.iter().chain(&known.guesses) {
            walk.lock().meet(path, &known.facts);
        }
        std::thread::scope(|scope| {
            for _ in 0..REQUESTS {
                scope.spawn(|| {
                    while let Some(path) = walk.next() {
                        let answer = self.look_up(&path, |_| true);
                        if let Ok(info) = &answer {
                            found(&path, info);
                        }
                        walk.answer(path, answer);
                    }
                });
            }
        });
        walk.finish(roots)?.reach(roots)
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

/// A walk over the graph of references, shared by the threads that ask.
struct Walk<'a> {
    facts: &'a BTreeMap<StorePath, PathInfo>,
    state: Mutex<State>,
    changed: Condvar,
}

type Found = Result<PathInfo, Vec<(String, Answer)>>;

#[derive(Default)]
struct State {
    waiting: VecDeque<StorePath>,
    /// Paths that are being asked for now.
    asked: usize,
    /// Every path met so far.
    met: HashSet<StorePath>,
    answers: Answers,
    /// The cache that led to more than [`MAX_PATHS`].
    endless: Option<String>,
}

/// What is known of every path that was met.
#[derive(Default)]
struct Answers(HashMap<StorePath, Found>);

impl<'a> Walk<'a> {
    fn new(facts: &'a BTreeMap<StorePath, PathInfo>) -> Self {
        Self {
            facts,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next path to ask for, or nothing once all answers are in.
    fn next(&self) -> Option<StorePath> {
        let mut state = self.lock();
        loop {
            if let Some(path) = state.waiting.pop_front() {
                state.asked += 1;
                return Some(path);
            }
            if state.asked == 0 {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn answer(&self, path: StorePath, answer: Found) {
        let mut state = self.lock();
        if let Ok(info) = &answer {
            for reference in &info.references {
                state.meet(reference, self.facts);
            }
            if state.met.len() > MAX_PATHS {
                state.waiting.clear();
                state.endless.get_or_insert(info.cache.clone());
            }
        }
        state.answers.0.insert(path, answer);
        state.asked -= 1;
        drop(state);
        self.changed.notify_all();
    }

    /// All answers, or a miss of each root where there is no end of them.
    fn finish(self, roots: &[StorePath]) -> Result<Answers, Vec<Miss>> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(cache) = state.endless else {
            return Ok(state.answers);
        };
        let reason = format!("its narinfos lead to more than {MAX_PATHS} store paths");
        let miss = |path: &StorePath| Miss {
            path: path.clone(),
            wanted_by: Vec::new(),
            answers: vec![(cache.clone(), Answer::Failed(reason.clone()))],
        };
        Err(roots.iter().map(miss).collect())
    }
}

impl State {
    /// Notes a path that may be needed: to be asked for, unless all about it is known.
    fn meet(&mut self, path: &StorePath, facts: &BTreeMap<StorePath, PathInfo>) {
        let mut paths = vec![path];
        while let Some(path) = paths.pop() {
            if !self.met.insert(path.clone()) {
                continue;
            }
            match facts.get(path) {
                Some(info) => {
                    paths.extend(&info.references);
                    self.answers.0.insert(path.clone(), Ok(info.clone()));
                }
                None => self.waiting.push_back(path.clone()),
            }
        }
    }
}

impl Answers {
    /// The closure of `roots`: of what was asked for, that which they need.
    fn reach(mut self, roots: &[StorePath]) -> Result<Closure, Vec<Miss>> {
        let mut paths = BTreeMap::new();
        let mut misses = Vec::new();
        // Every path that is needed, with the one that refers to it; none for a root.
        let mut wanted: HashMap<StorePath, Option<StorePath>> = HashMap::new();
        let mut next: VecDeque<(StorePath, Option<StorePath>)> =
            roots.iter().map(|root| (root.clone(), None)).collect();
        while let Some((path, referrer)) = next.pop_front() {
            if wanted.contains_key(&path) {
                continue;
            }
            wanted.insert(path.clone(), referrer);
            match self.0.remove(&path) {
                Some(Ok(info)) => {
                    let references = info.references.iter();
                    next.extend(references.map(|other| (other.clone(), Some(path.clone()))));
                    paths.insert(path, info);
                }
                Some(Err(answers)) => misses.push((path, answers)),
                // Every reference of an answer was met, and everything met was answered.
                None => misses.push((path, Vec::new())),
            }
        }
        if misses.is_empty() {
            return Ok(Closure {
                roots: roots.to_vec(),
                paths,
            });
        }
        misses.sort_by(|(one, _), (other, _)| one.cmp(other));
        Err(misses
            .into_iter()
            .map(|(path, answers)| Miss {
                wanted_by: chain(&wanted, &path),
                path,
                answers,
            })
            .collect())
    }
}

/// From a root down to the path that refers to `path`.
fn chain(wanted: &HashMap<StorePath, Option<StorePath>>, path: &StorePath) -> Vec<StorePath> {
    let mut chain = Vec::new();
    let mut path = path;
    while let Some(Some(referrer)) = wanted.get(path) {
        chain.push(referrer.clone());
        path = referrer;
    }
    chain.reverse();
    chain
}
